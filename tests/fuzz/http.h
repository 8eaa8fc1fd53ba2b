/* http.h - targets: head (response heads), body (chunked and other bodies), sse (server-sent events), wait
 * (Retry-After, dates, durations and challenges in headers). */
#ifndef AZO_TEST_FUZZ_HTTP_H
#define AZO_TEST_FUZZ_HTTP_H

/* ---- heads ---- */

/* Found at the same place, however little has come by the time of each look. */
static size_t fuzz_head_size(unsigned char steer, azo_str bytes) {
    fuzz_cut cut = fuzz_cut_of(steer);
    size_t whole = azoi_head_size(bytes, 0);
    size_t size = 0;
    size_t seen = 0;
    for (azo_str rest = bytes; rest.len > 0 && size == 0;) {
        size_t more = fuzz_piece(&cut, &rest).len;
        char *exact = fuzz_exact(fuzz_view(bytes.ptr, seen + more));
        size = azoi_head_size(fuzz_view(exact, seen + more), seen);
        seen += more;
        free(exact);
    }
    FUZZ_CHECK(size == whole);
    return whole;
}

static void fuzz_head_lines(const azoi_head *head, const ref_head *right) {
    azo_str rest = head->headers;
    azo_str name;
    azo_str value;
    size_t lines = 0;
    while (azoi_header_next(&rest, &name, &value)) {
        char *text = fuzz_text(name);
        FUZZ_CHECK(fuzz_within(name, head->headers) && (value.len == 0 || fuzz_within(value, head->headers)));
        FUZZ_CHECK(azoi_header(head->headers, text).ptr != NULL && ref_is_field_value(value));
        free(text);
        lines++;
    }
    FUZZ_CHECK(lines == right->lines);
}

static void fuzz_head(unsigned char steer, azo_str bytes) {
    size_t size = fuzz_head_size(steer, bytes);
    bool to_head_method = (steer & 8) != 0;
    azoi_head head;
    ref_head right;
    azo_error e;
    FUZZ_CHECK(size <= bytes.len);
    if (size == 0) {
        return;
    }
    char *exact = fuzz_exact(fuzz_view(bytes.ptr, size));
    azo_str text = fuzz_view(exact, size);
    azoi_error_clear(&e);
    azo_result r = azoi_head_parse(text, to_head_method, &head, &e);
    FUZZ_CHECK(r == AZO_OK || r == AZO_ERR_HTTP);
    FUZZ_CHECK((r == AZO_OK) == ref_head_ok(text, to_head_method, &right));
    fuzz_check_error(&e, r);
    if (r == AZO_OK) {
        FUZZ_CHECK(head.status == right.status && head.framing == right.framing && head.length == right.length);
        FUZZ_CHECK(!head.keep_alive || head.framing != AZOI_FRAMING_CLOSE);
        FUZZ_CHECK(fuzz_within(head.headers, text) && (head.reason.len == 0 || fuzz_within(head.reason, text)));
        fuzz_head_lines(&head, &right);
    }
    free(exact);
}

/* ---- bodies ---- */

typedef struct fuzz_body_end {
    azo_result result;
    azo_result at_eof; /* if the connection ended here */
    size_t used;
} fuzz_body_end;

static fuzz_body_end fuzz_body_run(const azoi_head *head, azo_str bytes, fuzz_cut cut, test_notes *out) {
    fuzz_body_end end = {AZO_PENDING, AZO_OK, 0};
    azoi_body body;
    azo_error e;
    azoi_body_init(&body, head);
    azoi_error_clear(&e);
    for (azo_str rest = bytes; end.result == AZO_PENDING && rest.len > 0;) {
        azo_str piece = fuzz_piece(&cut, &rest);
        char *exact = fuzz_exact(piece);
        azo_str in = fuzz_view(exact, piece.len);
        do {
            azo_str data;
            size_t before = in.len;
            end.result = azoi_body_feed(&body, &in, &data, &e);
            FUZZ_CHECK(data.len == 0 ||
                       (fuzz_within(data, fuzz_view(exact, piece.len)) && data.len <= before - in.len));
            test_note_bytes(out, data.len > 0 ? data.ptr : "", data.len);
            end.used += before - in.len;
        } while (end.result == AZO_PENDING && in.len > 0);
        free(exact);
    }
    fuzz_check_error(&e, end.result);
    azoi_error_clear(&e);
    end.at_eof = azoi_body_eof(&body, &e);
    fuzz_check_error(&e, end.at_eof);
    return end;
}

static void fuzz_body_chunked(azo_str bytes, const fuzz_body_end *end, const test_notes *out) {
    test_notes right = {NULL, 0, 0};
    size_t used = 0;
    ref_chunks ref = ref_dechunk(bytes, &right, &used);
    if (bytes.len < AZOI_MAX_OVERHEAD) {
        FUZZ_CHECK((end->result == AZO_OK) == (ref == REF_WHOLE));
        FUZZ_CHECK(ref != REF_BAD || end->result == AZO_ERR_HTTP);
    }
    if (end->result == AZO_OK) {
        FUZZ_CHECK(end->used == used);
        fuzz_check_equal(out, &right);
    }
    FUZZ_CHECK(end->result < 0 || (end->at_eof == AZO_OK) == (end->result == AZO_OK));
    test_notes_free(&right);
}

static void fuzz_body(unsigned char steer, azo_str bytes) {
    azoi_head head;
    test_notes out[2];
    fuzz_cut all_at_once = fuzz_cut_of(7);
    memset(out, 0, sizeof out);
    memset(&head, 0, sizeof head);
    head.framing = steer < 192 ? AZOI_FRAMING_CHUNKED : steer < 224 ? AZOI_FRAMING_LENGTH : AZOI_FRAMING_CLOSE;
    head.length = head.framing == AZOI_FRAMING_LENGTH ? steer : 0;
    fuzz_body_end whole = fuzz_body_run(&head, bytes, all_at_once, &out[0]);
    fuzz_body_end cut = fuzz_body_run(&head, bytes, fuzz_cut_of(steer), &out[1]);
    FUZZ_CHECK(whole.result == cut.result && whole.at_eof == cut.at_eof && whole.used == cut.used);
    fuzz_check_equal(&out[0], &out[1]);
    if (head.framing == AZOI_FRAMING_CHUNKED) {
        fuzz_body_chunked(bytes, &whole, &out[0]);
    } else {
        size_t most = head.framing == AZOI_FRAMING_LENGTH && bytes.len > head.length ? (size_t)head.length : bytes.len;
        FUZZ_CHECK(whole.used == most);
        FUZZ_CHECK(fuzz_same(fuzz_notes_view(&out[0]), fuzz_view(bytes.ptr, most)));
    }
    test_notes_free(&out[0]);
    test_notes_free(&out[1]);
}

/* ---- server-sent events ---- */

static void fuzz_sse_note(const azoi_sse *s, size_t max_event, test_notes *out) {
    azo_str name = azoi_buf_view(&s->name);
    azo_str data = azoi_buf_view(&s->data);
    FUZZ_CHECK(data.len <= max_event && name.len <= max_event);
    FUZZ_CHECK((name.ptr == NULL || name.ptr[name.len] == '\0') && (data.ptr == NULL || data.ptr[data.len] == '\0'));
    test_note(out, "event ");
    test_note_text(out, fuzz_view(name.ptr != NULL ? name.ptr : "", name.len));
    test_note_text(out, fuzz_view(data.ptr != NULL ? data.ptr : "", data.len));
}

static azo_result fuzz_sse_run(azo_str bytes, size_t max_event, fuzz_cut cut, test_notes *out) {
    test_memory m;
    azoi_sse s;
    azo_error e;
    azo_result r = AZO_PENDING;
    fuzz_memory_open(&m);
    azoi_error_clear(&e);
    azoi_sse_init(&s, &m.hook, max_event);
    for (azo_str rest = bytes; r >= 0 && rest.len > 0;) {
        azo_str piece = fuzz_piece(&cut, &rest);
        char *exact = fuzz_exact(piece);
        azo_str in = fuzz_view(exact, piece.len);
        do {
            r = azoi_sse_feed(&s, &in, &e);
            if (r == AZO_OK) {
                fuzz_sse_note(&s, max_event, out);
            }
        } while (r == AZO_OK || (r == AZO_PENDING && in.len > 0));
        free(exact);
    }
    if (r >= 0 && azoi_sse_end(&s)) {
        fuzz_sse_note(&s, max_event, out);
    }
    fuzz_check_error(&e, r);
    azoi_sse_free(&s);
    test_memory_close(&m);
    return r;
}

static void fuzz_sse(unsigned char steer, azo_str bytes) {
    test_notes out[2];
    size_t max_event = (steer & 8) != 0 ? (size_t)steer >> 4 : SIZE_MAX;
    memset(out, 0, sizeof out);
    azo_result whole = fuzz_sse_run(bytes, max_event, fuzz_cut_of(7), &out[0]);
    azo_result cut = fuzz_sse_run(bytes, max_event, fuzz_cut_of(steer), &out[1]);
    FUZZ_CHECK(whole == cut && (whole == AZO_PENDING || (whole == AZO_ERR_LIMIT && max_event != SIZE_MAX)));
    fuzz_check_equal(&out[0], &out[1]);
    if (max_event == SIZE_MAX) {
        test_notes right = {NULL, 0, 0};
        ref_sse(bytes, &right);
        fuzz_check_equal(&out[0], &right);
        test_notes_free(&right);
    }
    test_notes_free(&out[0]);
    test_notes_free(&out[1]);
}

/* ---- waits ---- */

/* The three forms of one moment (RFC 9110 5.6.7) are all read as that moment. */
static void fuzz_dates(int64_t seconds) {
    static const char *const forms[] = {"%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT",
                                        "%a %b %e %H:%M:%S %Y"};
    time_t moment = (time_t)seconds;
    struct tm parts;
    FUZZ_CHECK(gmtime_r(&moment, &parts) != NULL);
    for (size_t i = 0; i < FUZZ_COUNT(forms); i++) {
        char text[64];
        size_t len = strftime(text, sizeof text, forms[i], &parts);
        bool two_digits = i == 1 && (parts.tm_year < 70 || parts.tm_year >= 170); /* years that those cannot say */
        char *exact = fuzz_exact(fuzz_view(text, len));
        FUZZ_CHECK(two_digits || azoi_http_date(fuzz_view(exact, len)) == seconds);
        free(exact);
    }
}

static void fuzz_wait_header(azo_str value, int64_t now) {
    int64_t date = azoi_http_date(value);
    int32_t until = azoi_wait_until(value, now);
    int32_t number = azoi_wait_number(value, 1000);
    FUZZ_CHECK(date >= -1);
    if (date >= 0) {
        fuzz_dates(date);
    }
    FUZZ_CHECK(until == -1 || (until > 0 && date > now));
    FUZZ_CHECK(number == -1 || (number > 0 && ref_json_number(value, 0) == value.len));
    FUZZ_CHECK(azoi_limit_wait(value) >= -1);
    azo_str claims = azoi_challenge_claims(value);
    FUZZ_CHECK(claims.len == 0 || (fuzz_within(claims, value) && azoi_contains_ci(value, "insufficient_claims")));
}

/* A block of header lines, each of which may be anything. */
static void fuzz_wait(unsigned char steer, azo_str bytes) {
    int64_t now = steer & 8 ? 1792567680 : 0;
    azo_str rest = bytes;
    azo_str name;
    azo_str value;
    uint32_t moment = 0;
    while (azoi_header_next(&rest, &name, &value)) {
        fuzz_wait_header(value, now);
    }
    int32_t after = azoi_retry_after(bytes, steer & 16 ? 429 : 503, now);
    FUZZ_CHECK(after == -1 || after > 0);
    memcpy(&moment, bytes.ptr, bytes.len < sizeof moment ? bytes.len : sizeof moment);
    fuzz_dates((int64_t)moment * 59 % 253402300800); /* up to the year 9999 */
}

#endif
