/* reference.h - the formats once more, written from their standards and for being easily checked instead of fast: what
 * the targets compare the library with. Nothing here is shared with it. */
#ifndef AZO_TEST_FUZZ_REFERENCE_H
#define AZO_TEST_FUZZ_REFERENCE_H

/* ---- UTF-8: table 3-7 of the Unicode standard ---- */

/* The length of the well-formed sequence at the front, or 0. */
static size_t ref_utf8(azo_str s) {
    static const struct {
        unsigned char first;
        unsigned char last;
        unsigned char second_first;
        unsigned char second_last;
        unsigned char size;
    } rows[] = {{0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
                {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
                {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    const unsigned char *u = (const unsigned char *)s.ptr;
    for (size_t i = 0; i < FUZZ_COUNT(rows) && s.len > 0; i++) {
        if (u[0] < rows[i].first || u[0] > rows[i].last) {
            continue;
        }
        bool good = s.len >= rows[i].size;
        good = good && (rows[i].size < 2 || (u[1] >= rows[i].second_first && u[1] <= rows[i].second_last));
        for (size_t k = 2; good && k < rows[i].size; k++) {
            good = u[k] >= 0x80 && u[k] <= 0xbf;
        }
        return good ? rows[i].size : 0;
    }
    return 0;
}

static bool ref_is_utf8(azo_str s) {
    while (s.len > 0) {
        size_t size = ref_utf8(s);
        if (size == 0) {
            return false;
        }
        s = fuzz_view(s.ptr + size, s.len - size);
    }
    return true;
}

/* ---- JSON: RFC 8259, by a stack of brackets ---- */

static bool ref_is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static size_t ref_digits(azo_str s, size_t at) {
    size_t count = 0;
    while (at + count < s.len && s.ptr[at + count] >= '0' && s.ptr[at + count] <= '9') {
        count++;
    }
    return count;
}

static bool ref_has(azo_str s, size_t at, const char *any) {
    return at < s.len && s.ptr[at] != '\0' && strchr(any, s.ptr[at]) != NULL;
}

/* Each of the following gives the length of what stands at `at`, 0 if it is malformed. */
static size_t ref_json_number(azo_str s, size_t at) {
    size_t i = at + (ref_has(s, at, "-") ? 1 : 0);
    size_t digits = ref_digits(s, i);
    if (digits == 0) {
        return 0;
    }
    i += s.ptr[i] == '0' ? 1 : digits; /* no other digit follows a leading zero */
    if (ref_has(s, i, ".")) {
        digits = ref_digits(s, i + 1);
        if (digits == 0) {
            return 0;
        }
        i += 1 + digits;
    }
    if (ref_has(s, i, "eE")) {
        i += ref_has(s, i + 1, "+-") ? 2 : 1;
        digits = ref_digits(s, i);
        if (digits == 0) {
            return 0;
        }
        i += digits;
    }
    return i - at;
}

static size_t ref_json_string(azo_str s, size_t at) {
    size_t i = at + 1;
    while (i < s.len && s.ptr[i] != '"') {
        size_t size = ref_utf8(fuzz_view(s.ptr + i, s.len - i));
        if (size == 0 || (unsigned char)s.ptr[i] < 0x20) {
            return 0;
        }
        i += size;
        if (s.ptr[i - 1] == '\\') {
            size_t hex = ref_has(s, i, "u") ? 4 : 0;
            if (!ref_has(s, i, "\"\\/bfnrtu")) {
                return 0;
            }
            for (i++; hex > 0; hex--, i++) {
                if (!ref_has(s, i, "0123456789abcdefABCDEF")) {
                    return 0;
                }
            }
        }
    }
    return i < s.len ? i + 1 - at : 0;
}

static size_t ref_json_scalar(azo_str s, size_t at) {
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < FUZZ_COUNT(words); i++) {
        size_t len = strlen(words[i]);
        if (s.len - at >= len && memcmp(s.ptr + at, words[i], len) == 0) {
            return len;
        }
    }
    return ref_has(s, at, "\"") ? ref_json_string(s, at) : ref_json_number(s, at);
}

typedef enum ref_wants {
    REF_VALUE,
    REF_VALUE_OR_END, /* behind [ */
    REF_KEY,          /* behind a comma in an object */
    REF_KEY_OR_END,   /* behind { */
    REF_COLON,
    REF_COMMA_OR_END,
    REF_NOTHING
} ref_wants;

static bool ref_closes(char open, char c, ref_wants wants) {
    ref_wants empty = open == '{' ? REF_KEY_OR_END : REF_VALUE_OR_END;
    return c == (open == '{' ? '}' : ']') && (wants == empty || wants == REF_COMMA_OR_END);
}

/* Is `s` one JSON text, with at most `max_depth` brackets open at a time? */
static bool ref_json(azo_str s, size_t max_depth) {
    char *open = (char *)malloc(s.len + 1);
    size_t depth = 0;
    ref_wants wants = REF_VALUE;
    bool good = open != NULL;
    for (size_t at = 0; good && at < s.len;) {
        char c = s.ptr[at];
        size_t size = 1;
        bool value = wants == REF_VALUE || wants == REF_VALUE_OR_END;
        bool key = wants == REF_KEY || wants == REF_KEY_OR_END;
        if (ref_is_blank(c)) {
            at++;
            continue;
        }
        if (value && (c == '{' || c == '[')) {
            open[depth++] = c;
            good = depth <= max_depth;
            wants = c == '{' ? REF_KEY_OR_END : REF_VALUE_OR_END;
        } else if (depth > 0 && ref_closes(open[depth - 1], c, wants)) {
            depth--;
            wants = depth > 0 ? REF_COMMA_OR_END : REF_NOTHING;
        } else if (value) {
            size = ref_json_scalar(s, at);
            wants = depth > 0 ? REF_COMMA_OR_END : REF_NOTHING;
        } else if (key) {
            size = c == '"' ? ref_json_string(s, at) : 0;
            wants = REF_COLON;
        } else if (wants == REF_COLON) {
            good = c == ':';
            wants = REF_VALUE;
        } else if (wants == REF_COMMA_OR_END) {
            good = c == ',';
            wants = open[depth - 1] == '{' ? REF_KEY : REF_VALUE;
        } else {
            good = false;
        }
        good = good && size > 0;
        at += size;
    }
    free(open);
    return good && wants == REF_NOTHING;
}

/* A valid JSON text without the white space between its tokens. */
static void ref_json_compact(azo_str s, test_notes *out) {
    bool inside = false;
    for (size_t i = 0; i < s.len; i++) {
        if (inside || !ref_is_blank(s.ptr[i])) {
            test_note_bytes(out, s.ptr + i, 1);
        }
        if (inside && s.ptr[i] == '\\' && i + 1 < s.len) {
            i++;
            test_note_bytes(out, s.ptr + i, 1);
        } else if (s.ptr[i] == '"') {
            inside = !inside;
        }
    }
}

/* ---- chunked bodies: RFC 9112 7.1, on the whole text at once ---- */

typedef enum ref_chunks { REF_BAD = -1, REF_UNFINISHED = 0, REF_WHOLE = 1 } ref_chunks;

/* Where CR LF stands, or s.len. */
static size_t ref_line_end(azo_str s, size_t at) {
    while (at + 1 < s.len && (s.ptr[at] != '\r' || s.ptr[at + 1] != '\n')) {
        at++;
    }
    return at + 1 < s.len ? at : s.len;
}

/* A line holds no CR or LF of its own, and no NUL. */
static bool ref_line_ok(azo_str line) {
    for (size_t i = 0; i < line.len; i++) {
        if (line.ptr[i] == '\r' || line.ptr[i] == '\n' || line.ptr[i] == '\0') {
            return false;
        }
    }
    return true;
}

/* chunk-size [ blanks ] [ ";" anything ] */
static bool ref_chunk_size(azo_str line, uint64_t *size) {
    size_t i = 0;
    *size = 0;
    while (ref_has(line, i, "0123456789abcdefABCDEF")) {
        char digit[2] = {line.ptr[i], '\0'};
        if (*size > (uint64_t)INT64_MAX / 16) {
            return false;
        }
        *size = *size * 16 + strtoul(digit, NULL, 16);
        i++;
    }
    if (i == 0) {
        return false;
    }
    while (ref_has(line, i, " \t")) {
        i++;
    }
    return i == line.len || line.ptr[i] == ';';
}

static ref_chunks ref_dechunk(azo_str s, test_notes *out, size_t *used) {
    size_t at = 0;
    bool trailer = false;
    for (;;) {
        uint64_t size;
        size_t end = ref_line_end(s, at);
        azo_str line = fuzz_view(s.ptr + at, end - at);
        if (end == s.len) {
            return REF_UNFINISHED;
        }
        at = end + 2;
        if (!ref_line_ok(line) || (!trailer && !ref_chunk_size(line, &size))) {
            return REF_BAD;
        }
        if (trailer && line.len == 0) {
            *used = at;
            return REF_WHOLE;
        }
        trailer = trailer || size == 0;
        if (!trailer) {
            size_t left = s.len - at;
            test_note_bytes(out, s.ptr + at, size < left ? (size_t)size : left);
            if (left < size + 2) {
                return left > size && s.ptr[at + size] != '\r' ? REF_BAD : REF_UNFINISHED;
            }
            if (memcmp(s.ptr + at + size, "\r\n", 2) != 0) {
                return REF_BAD;
            }
            at += (size_t)size + 2;
        }
    }
}

/* ---- response heads: RFC 9112 4 and 6.3 ---- */

typedef struct ref_head {
    int status;
    azoi_framing framing;
    uint64_t length;
    size_t lines; /* header lines */
} ref_head;

static bool ref_is_field_value(azo_str s) {
    for (size_t i = 0; i < s.len; i++) {
        if (((unsigned char)s.ptr[i] < 0x20 && s.ptr[i] != '\t') || s.ptr[i] == 0x7f) {
            return false;
        }
    }
    return true;
}

/* "HTTP/1.x NNN", and a blank and a reason or nothing. Protocols are never switched. */
static bool ref_status_line(azo_str s, ref_head *out) {
    static const char shape[] = "HTTP/1.d ddd";
    bool good = s.len >= 12 && (s.len == 12 || s.ptr[12] == ' ') && ref_is_field_value(s);
    for (size_t i = 0; good && i < 12; i++) {
        good = shape[i] == 'd' ? ref_digits(s, i) > 0 : s.ptr[i] == shape[i];
    }
    out->status = good ? (s.ptr[9] - '0') * 100 + (s.ptr[10] - '0') * 10 + (s.ptr[11] - '0') : 0;
    return good && out->status >= 100 && out->status != 101;
}

static bool ref_named(azo_str name, const char *lower) {
    bool same = name.len == strlen(lower);
    for (size_t i = 0; same && i < name.len; i++) {
        same = (name.ptr[i] >= 'A' && name.ptr[i] <= 'Z' ? name.ptr[i] + 32 : name.ptr[i]) == lower[i];
    }
    return same;
}

/* One header line; `old` is HTTP/1.0, which has no chunks. */
static bool ref_head_line(azo_str line, bool old, ref_head *out) {
    azo_str value = line;
    azo_str name = fuzz_field(&value, ':');
    bool good = name.len > 0 && name.len < line.len && ref_is_field_value(value);
    for (size_t i = 0; good && i < name.len; i++) {
        good = ref_has(name, i, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
    }
    while (value.len > 0 && ref_is_blank(value.ptr[0])) {
        value = fuzz_view(value.ptr + 1, value.len - 1);
    }
    while (value.len > 0 && ref_is_blank(value.ptr[value.len - 1])) {
        value.len--;
    }
    if (good && ref_named(name, "content-length")) {
        uint64_t length = 0;
        good = value.len > 0 && ref_digits(value, 0) == value.len;
        for (size_t i = 0; good && i < value.len; i++) {
            unsigned digit = (unsigned)(value.ptr[i] - '0');
            good = length <= ((uint64_t)INT64_MAX - digit) / 10;
            length = length * 10 + digit;
        }
        good = good &&
               (out->framing == AZOI_FRAMING_CLOSE || (out->framing == AZOI_FRAMING_LENGTH && out->length == length));
        out->framing = AZOI_FRAMING_LENGTH;
        out->length = length;
    } else if (good && ref_named(name, "transfer-encoding")) {
        good = ref_named(value, "chunked") && out->framing == AZOI_FRAMING_CLOSE && !old;
        out->framing = AZOI_FRAMING_CHUNKED;
    }
    return good;
}

/* `s` ends with the blank line. Lines may end in LF alone (RFC 9112 2.2). */
static bool ref_head_ok(azo_str s, bool to_head_method, ref_head *out) {
    bool old = s.len > 8 && memcmp(s.ptr, "HTTP/1.0", 8) == 0;
    memset(out, 0, sizeof *out);
    out->framing = AZOI_FRAMING_CLOSE;
    for (size_t number = 0; s.len > 0; number++) {
        azo_str line = fuzz_field(&s, '\n');
        line.len -= line.len > 0 && line.ptr[line.len - 1] == '\r' ? 1 : 0;
        if (number == 0 ? !ref_status_line(line, out) : line.len > 0 && !ref_head_line(line, old, out)) {
            return false;
        }
        out->lines += number > 0 && line.len > 0 ? 1 : 0;
    }
    if (to_head_method || out->status < 200 || out->status == 204 || out->status == 304 ||
        (out->framing == AZOI_FRAMING_LENGTH && out->length == 0)) {
        out->framing = AZOI_FRAMING_NONE;
        out->length = 0;
    }
    return true;
}

/* ---- server-sent events: the HTML standard, 9.2.6 ---- */

typedef struct ref_events {
    test_notes *out;
    test_notes data;
    test_notes name;
    bool has_data;
} ref_events;

static void ref_sse_dispatch(ref_events *r) {
    if (r->has_data) {
        test_note(r->out, "event ");
        test_note_text(r->out, fuzz_view(r->name.text != NULL ? r->name.text : "", r->name.len));
        test_note_text(r->out, fuzz_view(r->data.text != NULL ? r->data.text : "", r->data.len));
    }
    test_notes_free(&r->data);
    test_notes_free(&r->name);
    r->has_data = false;
}

static void ref_sse_line(ref_events *r, azo_str line) {
    azo_str value = line;
    azo_str field = fuzz_field(&value, ':');
    if (line.len == 0) {
        ref_sse_dispatch(r);
        return;
    }
    if (field.len == line.len) {
        value.len = 0;
    }
    if (value.len > 0 && value.ptr[0] == ' ') {
        value = fuzz_view(value.ptr + 1, value.len - 1);
    }
    if (ref_named(field, "data") && memcmp(field.ptr, "data", 4) == 0) {
        test_note_bytes(&r->data, "\n", r->has_data ? 1 : 0);
        test_note_bytes(&r->data, value.ptr, value.len);
        r->has_data = true;
    } else if (ref_named(field, "event") && memcmp(field.ptr, "event", 5) == 0) {
        test_notes_free(&r->name);
        test_note_bytes(&r->name, value.ptr, value.len);
    }
}

/* An event without its blank line counts too: some proxies drop it. */
static void ref_sse(azo_str s, test_notes *out) {
    ref_events r;
    memset(&r, 0, sizeof r);
    r.out = out;
    if (s.len >= 3 && memcmp(s.ptr, "\xef\xbb\xbf", 3) == 0) {
        s = fuzz_view(s.ptr + 3, s.len - 3);
    }
    while (s.len > 0) {
        size_t end = 0;
        while (end < s.len && s.ptr[end] != '\r' && s.ptr[end] != '\n') {
            end++;
        }
        ref_sse_line(&r, fuzz_view(s.ptr, end));
        end += end < s.len && s.ptr[end] == '\r' && end + 1 < s.len && s.ptr[end + 1] == '\n' ? 2 : end < s.len ? 1 : 0;
        s = fuzz_view(s.ptr + end, s.len - end);
    }
    ref_sse_dispatch(&r);
}

#endif
