/* unit_sse.c - server-sent events, in every split. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

typedef struct sse_run {
    test_memory memory;
    azoi_sse sse;
    size_t max_event;
    azo_result failed;
    azo_error error;
} sse_run;

static void begin_events(void *self) {
    sse_run *r = (sse_run *)self;
    test_memory_open(&r->memory);
    azoi_sse_init(&r->sse, &r->memory.hook, r->max_event);
    azoi_error_clear(&r->error);
    r->failed = AZO_OK;
}

static void note_event(const azoi_sse *s, test_notes *notes) {
    assert_true(s->ready);
    assert_non_null(s->data.data);
    assert_int_equal(s->data.data[s->data.len], '\0');
    if (s->name.len > 0) {
        test_note_text(notes, azoi_buf_view(&s->name));
        test_note(notes, "=");
    }
    test_note_text(notes, azoi_buf_view(&s->data));
    test_note(notes, " ");
}

static void feed_events(void *self, azo_str piece, test_notes *notes) {
    sse_run *r = (sse_run *)self;
    azo_str in = piece;
    while (r->failed == AZO_OK) {
        size_t before = in.len;
        azo_result result = azoi_sse_feed(&r->sse, &in, &r->error);
        assert_true(in.len <= before && in.ptr + in.len == piece.ptr + piece.len);
        if (result == AZO_OK) {
            note_event(&r->sse, notes);
        } else if (result == AZO_PENDING) {
            assert_int_equal(in.len, 0);
            break;
        } else {
            r->failed = result;
        }
    }
}

static void end_events(void *self, test_notes *notes) {
    sse_run *r = (sse_run *)self;
    if (r->failed != AZO_OK) {
        azo_str in = azo_s("data: more\n\n");
        test_note(notes, r->failed == AZO_ERR_LIMIT ? "limit" : "failed");
        assert_int_equal(r->error.code, r->failed);
        test_sentences(r->error.message);
        assert_int_equal(azoi_sse_feed(&r->sse, &in, NULL), r->failed); /* it stays failed */
        assert_false(azoi_sse_end(&r->sse));
    } else if (azoi_sse_end(&r->sse)) {
        test_note(notes, "last ");
        note_event(&r->sse, notes);
        assert_false(azoi_sse_end(&r->sse));
    } else {
        test_note(notes, "end");
    }
    azoi_sse_free(&r->sse);
    test_memory_close(&r->memory);
}

static const test_parser parser = {begin_events, feed_events, end_events};

static void expect_events(azo_str input, const char *expected) {
    sse_run r;
    memset(&r, 0, sizeof r);
    r.max_event = 1000000;
    test_splits(&parser, &r, input, expected);
}

static void expect_capped(size_t max_event, const char *input, const char *expected) {
    sse_run r;
    memset(&r, 0, sizeof r);
    r.max_event = max_event;
    test_splits(&parser, &r, azo_s(input), expected);
}

static void events_and_fields(void **state) {
    static const struct {
        const char *input;
        const char *expected;
    } cases[] = {
        {"", "end"},
        {"data: a\n\n", "'a' end"},
        {"data: a\n\ndata: b\n\ndata: [DONE]\n\n", "'a' 'b' '[DONE]' end"},
        /* the space */
        {"data:a\n\n", "'a' end"},
        {"data:  a \n\n", "' a ' end"},
        {"data:\ta\n\n", "'\\x09a' end"},
        {"data: a: b:c\n\n", "'a: b:c' end"},
        {"data::a\n\n", "':a' end"},
        /* empty data is data */
        {"data\n\n", "'' end"},
        {"data:\n\n", "'' end"},
        {"data: \n\n", "'' end"},
        {"data\ndata\n\n", "'\\n' end"},
        /* several lines */
        {"data: a\ndata: b\n\n", "'a\\nb' end"},
        {"data:\ndata: a\ndata:\n\n", "'\\na\\n' end"},
        {"data: YHOO\ndata: +2\ndata: 10\n\n", "'YHOO\\n+2\\n10' end"},
        /* names */
        {"event: error\ndata: a\n\n", "'error'='a' end"},
        {"data: a\nevent:error\n\ndata: b\n\n", "'error'='a' 'b' end"},
        {"event: a\nevent: b\ndata: c\n\n", "'b'='c' end"},
        {"event: a\nevent\ndata: c\n\n", "'c' end"},
        {"event: a\n\ndata: b\n\n", "'b' end"}, /* no data, no event, and its name is forgotten */
        /* other fields */
        {"id: 1\nretry: 5\nfoo: bar\nDATA: x\nEvent: y\ndata: a\n\n", "'a' end"},
        {" data: a\n\n", "end"},
        {"data : a\n\n", "end"},
        {"datax: a\n\n", "end"},
        {"dat: a\n\n", "end"},
        {"id: 1\n\n", "end"},
        /* comments and blank lines */
        {":\n\n", "end"},
        {": keep-alive\n\n", "end"},
        {": ping\n\ndata: a\n\n", "'a' end"},
        {"data: a\n: comment\ndata: b\n\n", "'a\\nb' end"},
        {":data: a\n\n", "end"},
        {"\n\n\n\ndata: a\n\n\n\n", "'a' end"},
        {"data: a\n\n: ping\n\n: ping\n\ndata: b\n\n", "'a' 'b' end"},
        /* line ends */
        {"data: a\r\n\r\ndata: b\r\n\r\n", "'a' 'b' end"},
        {"data: a\r\rdata: b\r\r", "'a' 'b' end"},
        {"data: a\r\ndata: b\n\rdata: c\r\n\n", "'a\\nb' 'c' end"},
        {"data: a\n\r\n", "'a' end"},
        {"data: a\r\n\r", "'a' end"},
        {"data: a\r\r\n", "'a' end"},
        {"\r\n\r\ndata: a\r\n\r\n\r\n", "'a' end"},
        {"event: e\r\ndata: a\r\n\r\n", "'e'='a' end"},
        /* ends without a blank line */
        {"data: a", "last 'a' "},
        {"data: a\n", "last 'a' "},
        {"data: a\r", "last 'a' "},
        {"data: a\r\n", "last 'a' "},
        {"data: a\n\ndata: [DONE]", "'a' last '[DONE]' "},
        {"event: e\ndata: a\ndata: b", "last 'e'='a\\nb' "},
        {"data: a\ndat", "last 'a' "},
        {"data", "last '' "},
        {"dat", "end"},
        {"event: e", "end"},
        {": comment", "end"},
        {"data: a\n\n\r", "'a' end"},
        {"data: a\n\n: c", "'a' end"},
        /* what is not for this layer to judge */
        {"data: a\x01\x7f\n\n", "'a\\x01\\x7f' end"},
        {"data: \xff\xc3\n\n", "'\\xff\\xc3' end"},
        {"{\"error\":{}}", "end"},
        {"<html>\n</html>\n", "end"},
        {"data: {\"a\":1}\ndata: {\"b\":2}\n\n", "'{\"a\":1}\\n{\"b\":2}' end"}, /* a lost blank line */
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_events(azo_s(cases[i].input), cases[i].expected);
    }
}

static void byte_order_marks(void **state) {
    (void)state;
    expect_events(azo_s("\xef\xbb\xbf" "data: a\n\n"), "'a' end");
    expect_events(azo_s("\xef\xbb\xbf\xef\xbb\xbf" "data: a\n\ndata: b\n\n"), "'b' end"); /* only one is taken away */
    expect_events(azo_s("\xef\xbb" "data: a\n\ndata: b\n\n"), "'b' end");
    expect_events(azo_s("\xef" "data: a\n\ndata: b\n\n"), "'b' end");
    expect_events(azo_s("\xef\xbb\ndata: b\n\n"), "'b' end");
    expect_events(azo_s("data: a\n\n\xef\xbb\xbf" "data: b\n\n"), "'a' end"); /* not in the middle */
    expect_events(azo_s("\n\xef\xbb\xbf" "data: b\n\n"), "end");
    expect_events(azo_s("data: \xef\xbb\xbf" "a\n\n"), "'\\xef\\xbb\\xbfa' end");
    expect_events(azo_s("\xef\xbb\xbf"), "end");
    expect_events(azo_s("\xef\xbb"), "end");
    expect_events(azo_s("\xef\xbb\xbf\r\n\r\ndata: a\r\n\r\n"), "'a' end");
}

static void nul_is_a_byte(void **state) {
    static const char text[] = "data: a\0b\n\nda\0ta: x\n\nid: \0\nevent: \0\ndata: c\n\n";
    (void)state;
    expect_events(azoi_view(text, sizeof text - 1), "'a\\x00b' '\\x00'='c' end");
}

#define TEXT_HEAD "{\"id\":\"chatcmpl-T3\",\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"finish_reason\":"

/* The chat stream of azure-openai-wire.md 8.3, with an emoji and trailing blanks, and one of the Responses API. */
static void streams_as_azure_sends_them(void **state) {
    (void)state;
    expect_events(azo_s("data: {\"id\":\"\",\"choices\":[],\"usage\":null} \n\n"
                        "data: " TEXT_HEAD "null,\"delta\":{\"content\":\"Gr\xc3\xbc" "ezi \xf0\x9f\x98\x80\"}}]}\n\n"
                        ": keep-alive\n\n"
                        "data: " TEXT_HEAD "\"stop\",\"delta\":{}}]}\n\n"
                        "data: [DONE] \n\n"),
                  "'{\"id\":\"\",\"choices\":[],\"usage\":null} ' "
                  "'" TEXT_HEAD "null,\"delta\":{\"content\":\"Gr\\xc3\\xbcezi \\xf0\\x9f\\x98\\x80\"}}]}' "
                  "'" TEXT_HEAD "\"stop\",\"delta\":{}}]}' "
                  "'[DONE] ' end");
    expect_events(azo_s("event: response.created\r\ndata: {\"type\":\"response.created\"}\r\n\r\n"
                        "event: error\r\ndata: {\"type\":\"error\"}\r\n\r\n"),
                  "'response.created'='{\"type\":\"response.created\"}' 'error'='{\"type\":\"error\"}' end");
}

static void events_are_capped(void **state) {
    (void)state;
    expect_capped(5, "data: 12345\n\n", "'12345' end");
    expect_capped(5, "data: 123456\n\n", "limit");
    expect_capped(5, "data: a\n\ndata: 123456\n\ndata: b\n\n", "'a' limit");
    expect_capped(5, "data: 12\ndata: 34\n\n", "'12\\n34' end");
    expect_capped(5, "data: 12\ndata: 345\n\n", "limit");
    expect_capped(5, "data: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\n", "'1' '2' '3' '4' end"); /* each for itself */
    expect_capped(5, "data\ndata\ndata\ndata\ndata\ndata\n\n", "'\\n\\n\\n\\n\\n' end");
    expect_capped(5, "data\ndata\ndata\ndata\ndata\ndata\ndata\n\n", "limit");
    expect_capped(5, "event: 123456\ndata: a\n\n", "limit");
    expect_capped(5, "event: 12345\ndata: a\n\n", "'12345'='a' end");
    expect_capped(5, "data: 12345", "last '12345' ");
    expect_capped(5, ":23456789012345678901\n\n", "end"); /* a line of 21 bytes: the field's name is not counted */
    expect_capped(5, ":234567890123456789012\n\n", "limit");
    expect_capped(5, ":234567890123456789012", "limit");
    expect_capped(0, "data\n\n", "'' end");
    expect_capped(0, "data: a\n\n", "limit");
    {
        azo_allocator none;
        azoi_sse s;
        azo_error e;
        azo_str in = azo_s("data: 123456\n\n");
        memset(&none, 0, sizeof none);
        azoi_sse_init(&s, &none, 5);
        azoi_error_clear(&e);
        assert_int_equal(azoi_sse_feed(&s, &in, &e), AZO_ERR_LIMIT);
        assert_non_null(strstr(e.message, "limit of 5 bytes"));
        azoi_sse_free(&s);
        azoi_sse_init(&s, &none, SIZE_MAX);
        in = azo_s("data: 123456\n\n");
        assert_int_equal(azoi_sse_feed(&s, &in, &e), AZO_OK);
        azoi_sse_free(&s);
    }
}

/* An endless line costs no more memory than its limit. */
static void endless_lines_are_bounded(void **state) {
    test_memory m;
    azoi_sse s;
    azo_result result = AZO_PENDING;
    int pieces = 0;
    (void)state;
    test_memory_open(&m);
    azoi_sse_init(&s, &m.hook, 10000);
    while (result == AZO_PENDING) {
        azo_str in = azo_s("data: 0123456789012345678901234567890123456789");
        result = azoi_sse_feed(&s, &in, NULL);
        pieces++;
    }
    assert_int_equal(result, AZO_ERR_LIMIT);
    assert_true(pieces < 300);
    assert_true(m.peak_bytes < 40000);
    azoi_sse_free(&s);
    test_memory_close(&m);
}

/* Whole lines are read in place: a long stream in one piece needs no more memory than its largest event. */
static void whole_lines_are_not_copied(void **state) {
    test_memory m;
    azoi_sse s;
    azo_str in = azo_s("data: 1\n\ndata: 2\n\ndata: 3\n\n: comment\n\nevent: x\ndata: 4\n\n");
    int events = 0;
    (void)state;
    test_memory_open(&m);
    azoi_sse_init(&s, &m.hook, 10000);
    while (azoi_sse_feed(&s, &in, NULL) == AZO_OK) {
        events++;
    }
    assert_int_equal(events, 4);
    assert_null(s.line.data);
    assert_true(m.calls <= 2);
    azoi_sse_free(&s);
    test_memory_close(&m);
}

static void stream_under_failure(test_memory *m, void *self) {
    static const char text[] = "event: some name of an event that needs more than one block of memory, certainly\n"
                               "data: a line that is cut in the middle, and long enough to make the buffer grow once"
                               "\ndata: and another one, so that the data grows too, beyond its first block\n\n"
                               "data: and a last one that does not end";
    const size_t *piece = (const size_t *)self;
    azoi_sse s;
    azo_error e;
    azo_result result = AZO_PENDING;
    size_t at = 0;
    int events = 0;
    azoi_sse_init(&s, &m->hook, 10000);
    azoi_error_clear(&e);
    while (at < sizeof text - 1 && (result == AZO_PENDING || result == AZO_OK)) {
        azo_str in = azoi_view(text + at, *piece < sizeof text - 1 - at ? *piece : sizeof text - 1 - at);
        size_t before = in.len;
        result = azoi_sse_feed(&s, &in, &e);
        at += before - in.len;
        if (result == AZO_OK) {
            events++;
            assert_int_equal(s.data.len, 146);
            assert_int_equal(s.name.len, 73);
        }
    }
    if (m->failures == 0) {
        assert_int_equal(events, 1);
        assert_true(azoi_sse_end(&s));
        assert_string_equal(s.data.data, "and a last one that does not end");
    } else {
        assert_int_equal(result, AZO_ERR_MEMORY);
        assert_int_equal(e.code, AZO_ERR_MEMORY);
        assert_false(azoi_sse_end(&s));
    }
    azoi_sse_free(&s);
}

static void streams_survive_every_failure(void **state) {
    size_t pieces[] = {1, 60, SIZE_MAX}; /* at 60 the end of a line is what makes the buffer grow */
    (void)state;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        test_every_failure(stream_under_failure, &pieces[i]);
    }
}

/* Random soup of the bytes that mean something: whatever comes out is the same in every split. */
static void soups_are_split(void **state) {
    static const char *const words[] = {"data", "data:", "data: ", "event:", "\n", "\n", "\n\n", "\r", "\r\n", ":",
                                        " ",    "x",     "id:",    "\xef\xbb\xbf", "\xc3\xbc", "a: b"};
    uint32_t random = 2463534242u;
    int round;
    (void)state;
    for (round = 0; round < 300; round++) {
        azo_allocator none;
        azoi_buf b;
        sse_run r;
        test_notes notes;
        int i;
        memset(&none, 0, sizeof none);
        memset(&r, 0, sizeof r);
        memset(&notes, 0, sizeof notes);
        r.max_event = 1000;
        azoi_buf_init(&b, &none, 10000, false);
        for (i = 0; i < 20; i++) {
            random ^= random << 13; /* xorshift */
            random ^= random >> 17;
            random ^= random << 5;
            azoi_buf_puts(&b, words[random % (sizeof words / sizeof *words)]);
        }
        begin_events(&r);
        feed_events(&r, azoi_buf_view(&b), &notes);
        end_events(&r, &notes);
        test_splits(&parser, &r, azoi_buf_view(&b), notes.text);
        test_notes_free(&notes);
        azoi_buf_free(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_and_fields),
        cmocka_unit_test(byte_order_marks),
        cmocka_unit_test(nul_is_a_byte),
        cmocka_unit_test(streams_as_azure_sends_them),
        cmocka_unit_test(events_are_capped),
        cmocka_unit_test(endless_lines_are_bounded),
        cmocka_unit_test(whole_lines_are_not_copied),
        cmocka_unit_test(streams_survive_every_failure),
        cmocka_unit_test(soups_are_split),
    };
    return cmocka_run_group_tests_name("sse", tests, NULL, NULL);
}
