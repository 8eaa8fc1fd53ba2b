/* unit_json.c - the check, jsmn behind it, values by token and by scanning, strings, and the public azo_json_x. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* ---- what is JSON and what is not ---- */

static const char *const accepted[] = {
    "0",
    "-0",
    "-0.0",
    "1",
    "-1",
    "10",
    "123456789012345678901234567890",
    "-9223372036854775808",
    "18446744073709551616",
    "1.5",
    "0.5",
    "0e0",
    "0E+1",
    "0e-1",
    "1e400",
    "-1e400",
    "1e-400",
    "1E22",
    "1.25e+2",
    "true",
    "false",
    "null",
    "\"\"",
    "\"a\"",
    "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
    "\"\\u0000\"",
    "\"\\u00e9\\u00E9\\uABCD\\uabcd\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud800\"", /* lone surrogates: RFC 8259 section 8.2 lets them pass, decoding replaces them */
    "\"\\udc00\"",
    "\"\\udc00\\ud800\"",
    "\"\\ud800\\u0041\"",
    "\"\\ud800\\ud800\\udc00\"",
    "\"\x7f\"",
    "\"\xc2\x80\"",
    "\"\xe2\x82\xac\"",
    "\"\xe2\x80\xa8\xe2\x80\xa9\"", /* line and paragraph separator */
    "\"\xef\xbb\xbf\"",
    "\"\xef\xbf\xbf\"",
    "\"\xf0\x9f\x98\x80\"",
    "\"\xf4\x8f\xbf\xbf\"",
    "\"/\"",
    "\"{}[],:\"",
    "\"// /* */\"",
    "[]",
    "{}",
    "[ ]",
    "{ }",
    "\t\r\n [] \t\r\n",
    " 1 ",
    "[1]",
    "[1,2]",
    "[ 1 , 2 ]",
    "[null,true,false,0,\"\",[],{}]",
    "[[]]",
    "[[],[]]",
    "[{}]",
    "[{},{}]",
    "[[[[[]]]]]",
    "[-0,-1,-1.5e-5]",
    "{\"a\":1}",
    "{\"a\" : 1}",
    "{ \"a\":1 , \"b\":2 }",
    "{\"\":0}",
    "{\"a\":{}}",
    "{\"a\":[]}",
    "{\"a\":{\"b\":{\"c\":[{\"d\":null}]}}}",
    "{\"a\":1,\"a\":2}",
    "{\"\\u0061\":1}",
    "{\"a\":\"b\"}",
    "{\"a\":[],\"b\":{},\"c\":\"\"}",
    "[\"a\",\"b\"]",
    "[1e1,1E1,1e+1,1e-1]",
    "[0.1,0.10]",
};

/* The ten shapes that jsmn takes for JSON even in strict mode come first. */
static const char *const refused[] = {
    "{\"a\"}",
    "[1 2]",
    "{\"a\" \"b\"}",
    "{\"a\":1 \"b\":2}",
    "[,]",
    "{} {}",
    "nulx",
    "[\"a\tb\"]",
    "[\"\xff\"]",
    "{\"a\":\"b\":\"c\"}",
    /* more of them */
    "{\"a\":}",
    "{\"a\":1,}",
    "{,}",
    "[:]",
    ":",
    "",
    "[1,]",
    "[-]",
    "[01]",
    "[1.2.3]",
    "[1e]",
    "[0x1]",
    "[-NaN]",
    "[nulx]",
    "[truefalse]",
    "[tru]",
    "[nul]",
    "[fals]",
    "{\"a\":tru}",
    /* structure */
    " ",
    "[",
    "]",
    "{",
    "}",
    "[}",
    "{]",
    "[1}",
    "{\"a\":1]",
    "[1",
    "[1,",
    "[1,,2]",
    "[,1]",
    "[1:2]",
    "[\"a\":1]",
    "[\"a\",\"b\":1]",
    "{\"a\"",
    "{\"a\":",
    "{\"a\":1",
    "{\"a\":1,",
    "{\"a\",1}",
    "{\"a\"::1}",
    "{:1}",
    "{1:1}",
    "{a:1}",
    "{'a':1}",
    "{null:1}",
    "{[]:1}",
    "{{}:1}",
    "{\"a\":1,,\"b\":2}",
    "{,\"a\":1}",
    "{\"a\":1;\"b\":2}",
    "{\"a\"=1}",
    "{\"a\":b}",
    "{\"a\":1,\"b\"}",
    "{\"a\":1 2}",
    "[]]",
    "[][]",
    "{}}",
    "{},",
    "[],",
    "1 2",
    "1,",
    "null null",
    "\"a\"\"b\"",
    "\"a\" 1",
    "[] x",
    "[1]\xc2\xa0",
    "(1)",
    "<null>",
    "/**/1",
    "1//",
    "[1/**/]",
    "#1",
    "*",
    "\xef\xbb\xbf[]", /* a byte order mark */
    "\xff\xfe[\0]\0",
    "[\f]",
    "[\v]",
    "\f1",
    "\xe2\x80\xa8[]",
    /* words */
    "True",
    "TRUE",
    "NULL",
    "nul",
    "nulll",
    "truee",
    "undefined",
    "NaN",
    "nan",
    "Infinity",
    "-Infinity",
    "inf",
    /* numbers */
    "-",
    "+1",
    "--1",
    "-a",
    ".5",
    "-.5",
    "5.",
    "-5.",
    "00",
    "01",
    "-01",
    "012",
    "1.e1",
    "1e",
    "1e+",
    "1e-",
    "1e+-1",
    "1e1.5",
    "1ee1",
    "1.2.3",
    "1 000",
    "1,000",
    "1_000",
    "0x10",
    "0b1",
    "0o7",
    "1f",
    "1a",
    "1+1",
    "2e3e4",
    "\xef\xbc\x91", /* a full-width digit */
    /* strings */
    "\"",
    "\"a",
    "a\"",
    "'a'",
    "\"\\\"",
    "\"\\",
    "\"\\a\"",
    "\"\\'\"",
    "\"\\0\"",
    "\"\\x41\"",
    "\"\\U0041\"",
    "\"\\u\"",
    "\"\\u0\"",
    "\"\\u00\"",
    "\"\\u004\"",
    "\"\\u00g0\"",
    "\"\\u-041\"",
    "\"\\u 041\"",
    "\"\\u004",
    "\"\\ud83d\\u\"",
    "\"\\ \"",
    "\"\\\n\"",
    "\"\n\"",
    "\"\r\"",
    "\"\t\"",
    "\"\x01\"",
    "\"\x1f\"",
    "\"\x80\"",
    "\"\xbf\"",
    "\"\xc0\x80\"",
    "\"\xc3\"",
    "\"\xc3",
    "\"\xe2\x82\"",
    "\"\xe2\x82",
    "\"\xed\xa0\x80\"",
    "\"\xf0\x9f\x98\"",
    "\"\xf4\x90\x80\x80\"",
    "\"\xf8\x88\x80\x80\x80\"",
    "\"\xfe\"",
    "{\"\t\":1}",
    "{\"\xff\":1}",
};

static void accepts_json(void **state) {
    test_guard g;
    size_t i;
    (void)state;
    test_guard_open(&g, 256);
    for (i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        azo_str text = test_guard_put(&g, azo_s(accepted[i]));
        size_t offset = 77;
        if (!azoi_json_check(text, &offset) || offset != text.len) {
            fail_msg("refused at %lu: %s", (unsigned long)offset, accepted[i]);
        }
    }
    test_guard_close(&g);
}

static void refuses_what_is_not_json(void **state) {
    test_guard g;
    size_t i;
    (void)state;
    test_guard_open(&g, 256);
    for (i = 0; i < sizeof refused / sizeof *refused; i++) {
        azo_str text = test_guard_put(&g, azo_s(refused[i]));
        size_t offset = 77;
        if (azoi_json_check(text, &offset)) {
            fail_msg("accepted: %s", refused[i]);
        }
        assert_true(offset <= text.len);
    }
    test_guard_close(&g);
}

/* NUL ends jsmn's reading with success; here it is a byte like any other that is not allowed. */
static void nul_is_no_end(void **state) {
    static const struct {
        const char *text;
        size_t len;
        size_t offset;
    } cases[] = {{"[]\0", 3, 2}, {"[1]\0[2]", 7, 3}, {"[\0]", 3, 1}, {"\0", 1, 0}, {"\"\0\"", 3, 1}, {"\"\\\0\"", 4, 1},
                 {"1\0", 2, 1},  {"{\0}", 3, 1}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t offset;
        assert_false(azoi_json_check(azoi_view(cases[i].text, cases[i].len), &offset));
        assert_int_equal(offset, cases[i].offset);
    }
}

static void names_the_first_bad_byte(void **state) {
    static const struct {
        const char *text;
        size_t offset;
    } cases[] = {{"", 0},         {"  ", 2},        {"x", 0},          {"[1 2]", 3},        {"{\"a\"}", 4},
                 {"[1,]", 3},     {"{\"a\":1,}", 7}, {"nulx", 0},       {"01", 1},           {"1.x", 2},
                 {"[tru]", 1},    {"\"ab\x01\"", 3}, {"\"a\xff\"", 2},  {"\"\\x\"", 1},      {"\"\\u12g4\"", 1},
                 {"[1]]", 3},     {"{1:2}", 1},      {"[", 1},          {"\"abc", 4},
                 {"{\"a\":[1,{\"b\":}]}", 13},
                 {"[[1]}", 4},    {"- 1", 1},        {"[1e+]", 4}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t offset = 77;
        if (azoi_json_check(azo_s(cases[i].text), &offset) || offset != cases[i].offset) {
            fail_msg("%s: %lu, not %lu", cases[i].text, (unsigned long)offset, (unsigned long)cases[i].offset);
        }
    }
}

static const char sample[] = "{\"choices\":[{\"index\":0,"
                             "\"delta\":{\"content\":\"Gr\xc3\xbc\\u00fc\\ud83d\\ude00\\n\"},"
                             "\"n\":[-1.5e+3,true,false,null,{}]}], \"usage\" : null }";

/* No prefix of an object is a document, and none is read past its end. */
static void every_prefix_is_refused(void **state) {
    test_guard g;
    size_t i;
    (void)state;
    test_guard_open(&g, sizeof sample);
    for (i = 0; i < sizeof sample - 1; i++) {
        azo_str text = test_guard_put(&g, azoi_view(sample, i));
        size_t offset;
        assert_false(azoi_json_check(text, &offset));
        assert_int_equal(offset <= i, 1);
    }
    assert_true(azoi_json_check(azo_s(sample), &i));
    test_guard_close(&g);
}

/* Items of an array, members of an object. */
static int size_of(const azoi_json *j, int token) {
    int count = 0;
    int at = azoi_json_child(j, token, token);
    for (; at >= 0; count++) {
        at = azoi_json_child(j, token, at);
    }
    return count;
}

/* Whatever is changed in one byte, the whole machinery neither crashes nor reads too far, and jsmn agrees with the
 * check: what passed the one is tokenised by the other. */
static void every_mutation_is_survived(void **state) {
    static const char junk[] = "\"\\{}[],:0-+.eEtfnu \n\t\x01\x80\xc3\xff\x7f";
    test_memory m;
    test_guard g;
    azoi_buf tokens;
    azoi_json json;
    char text[sizeof sample];
    size_t at;
    size_t j;
    size_t good = 0;
    (void)state;
    test_memory_open(&m);
    test_guard_open(&g, sizeof sample);
    azoi_buf_init(&tokens, &m.hook, SIZE_MAX / 2, false);
    for (at = 0; at < sizeof sample - 1; at++) {
        for (j = 0; j < sizeof junk; j++) { /* NUL too */
            size_t offset;
            azo_str view;
            azo_str value;
            azo_result result;
            memcpy(text, sample, sizeof text);
            text[at] = junk[j];
            view = test_guard_put(&g, azoi_view(text, sizeof text - 1));
            result = azoi_json_parse(&tokens, view, &json);
            assert_int_equal(result, azoi_json_check(view, &offset) ? AZO_OK : AZO_ERR_JSON);
            good += result == AZO_OK ? 1 : 0;
            azo_json_get(view, "choices[0].delta.content", &value);
            if (result == AZO_OK) {
                azoi_json_find(view, "usage", &value);
            }
        }
    }
    assert_true(good > 100);
    azoi_buf_free(&tokens);
    test_guard_close(&g);
    test_memory_close(&m);
}

static void nest(azoi_buf *b, const char *open, const char *middle, const char *close, int depth) {
    int i;
    azoi_buf_clear(b);
    for (i = 0; i < depth; i++) {
        azoi_buf_puts(b, open);
    }
    azoi_buf_puts(b, middle);
    for (i = 0; i < depth; i++) {
        azoi_buf_puts(b, close);
    }
}

static void depth_is_limited(void **state) {
    azo_allocator none;
    azoi_buf b;
    size_t offset;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 1 << 24, false);
    nest(&b, "[", "", "]", AZO_MAX_JSON_DEPTH);
    assert_true(azoi_json_check(azoi_buf_view(&b), &offset));
    nest(&b, "[", "1", "]", AZO_MAX_JSON_DEPTH);
    assert_true(azoi_json_check(azoi_buf_view(&b), &offset));
    nest(&b, "{\"a\":", "{}", "}", AZO_MAX_JSON_DEPTH - 1);
    assert_true(azoi_json_check(azoi_buf_view(&b), &offset));
    nest(&b, "[{\"a\":", "[1,2]", "},3]", AZO_MAX_JSON_DEPTH / 2 - 1); /* arrays and objects in turn */
    assert_true(azoi_json_check(azoi_buf_view(&b), &offset));
    nest(&b, "[{\"a\":", "[1,2]", "}},3]", AZO_MAX_JSON_DEPTH / 2 - 1);
    assert_false(azoi_json_check(azoi_buf_view(&b), &offset));
    nest(&b, "[", "", "]", AZO_MAX_JSON_DEPTH + 1);
    assert_false(azoi_json_check(azoi_buf_view(&b), &offset));
    assert_int_equal(offset, AZO_MAX_JSON_DEPTH);
    nest(&b, "{\"a\":", "1", "}", AZO_MAX_JSON_DEPTH + 1);
    assert_false(azoi_json_check(azoi_buf_view(&b), &offset));
    nest(&b, "[", "", "", 1000000); /* bombs */
    assert_false(azoi_json_check(azoi_buf_view(&b), &offset));
    assert_int_equal(offset, AZO_MAX_JSON_DEPTH);
    nest(&b, "{\"\":", "", "", 1000000);
    assert_false(azoi_json_check(azoi_buf_view(&b), &offset));
    nest(&b, "[[],[{}],", "", "", 100000);
    assert_false(azoi_json_check(azoi_buf_view(&b), &offset));
    azoi_buf_free(&b);
}

/* Arrays and objects nested at random: the closers must fit, at every depth. */
static void brackets_must_fit(void **state) {
    uint32_t random = 2463534242u;
    azo_allocator none;
    azoi_buf b;
    int round;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 10000, false);
    for (round = 0; round < 200; round++) {
        bool object[AZO_MAX_JSON_DEPTH];
        size_t closers;
        size_t offset;
        int i;
        azoi_buf_clear(&b);
        for (i = 0; i < AZO_MAX_JSON_DEPTH; i++) {
            random ^= random << 13; /* xorshift */
            random ^= random >> 17;
            random ^= random << 5;
            object[i] = (random & 64) != 0;
            azoi_buf_puts(&b, object[i] ? "{\"\":" : "[[],{},");
        }
        azoi_buf_char(&b, '0');
        closers = b.len;
        for (i = AZO_MAX_JSON_DEPTH - 1; i >= 0; i--) {
            azoi_buf_char(&b, object[i] ? '}' : ']');
        }
        if (!object[AZO_MAX_JSON_DEPTH - 1]) { /* its first items go one level deeper */
            assert_false(azoi_json_check(azoi_buf_view(&b), &offset));
            continue;
        }
        assert_true(azoi_json_check(azoi_buf_view(&b), &offset));
        for (i = 0; i < AZO_MAX_JSON_DEPTH; i++) {
            char *closer = b.data + closers + i;
            *closer = *closer == '}' ? ']' : '}';
            assert_false(azoi_json_check(azoi_buf_view(&b), &offset));
            assert_int_equal(offset, closers + (size_t)i);
            *closer = *closer == '}' ? ']' : '}';
        }
    }
    azoi_buf_free(&b);
}

/* However the text is cut, each bracket outside a string ends what is taken; a byte that may not be there is none. */
static void brackets_end_pieces(void **state) {
    static const char text[] = "{\"[\\\"}\\\\\":[1,{}]\x01,\"\":\"]\"}";
    static const size_t places[] = {0, 10, 13, 14, 15, 24};
    static const size_t depths[] = {1, 2, 3, 2, 1, 0};
    size_t len = sizeof text - 1;
    (void)state;
    for (size_t size = 1; size <= len; size++) {
        azoi_json_nesting n;
        size_t found = 0;
        memset(&n, 0, sizeof n);
        for (size_t at = 0; at < len;) {
            size_t before = n.depth;
            size_t left = size - at % size;
            at += azoi_json_bracket(&n, azoi_view(text + at, left < len - at ? left : len - at));
            if (n.depth != before) {
                assert_true(found < 6);
                assert_int_equal(at - 1, places[found]);
                assert_int_equal(n.depth, depths[found]);
                found++;
            }
        }
        assert_int_equal(found, 6);
        assert_int_equal(n.deepest, 3);
        assert_false(n.quoted);
    }
}

/* ---- values by token ---- */

typedef struct fixture {
    test_memory memory;
    azoi_buf tokens;
    azoi_json json;
} fixture;

static void open_fixture(fixture *f) {
    test_memory_open(&f->memory);
    azoi_buf_init(&f->tokens, &f->memory.hook, SIZE_MAX / 2, false);
}

static void close_fixture(fixture *f) {
    azoi_buf_free(&f->tokens);
    test_memory_close(&f->memory);
}

static void parse(fixture *f, const char *text) {
    assert_int_equal(azoi_json_parse(&f->tokens, azo_s(text), &f->json), AZO_OK);
}

static void walks_a_document(void **state) {
    static const char text[] = " {\"a\":{\"x\":[1,[2,3],{}]},\"b\":[],\"c\":\"s\\n\",\"d\":{},\"e\":-7,\"f\":null,"
                               "\"g\":true,\"a\":99} ";
    fixture f;
    const azoi_json *j = &f.json;
    azoi_buf out;
    int a;
    int x;
    int item;
    (void)state;
    open_fixture(&f);
    azoi_buf_init(&out, &f.memory.hook, 100, false);
    parse(&f, text);
    assert_int_equal(size_of(j, 0), 8);
    a = azoi_json_get(j, 0, "a"); /* the first of the two */
    assert_true(azoi_equal(azoi_json_raw(j, a), "{\"x\":[1,[2,3],{}]}"));
    x = azoi_json_get(j, a, "x");
    assert_int_equal(size_of(j, x), 3);
    item = azoi_json_child(j, x, x);
    assert_true(azoi_equal(azoi_json_raw(j, item), "1"));
    item = azoi_json_child(j, x, item);
    assert_true(azoi_equal(azoi_json_raw(j, item), "[2,3]"));
    item = azoi_json_child(j, x, item);
    assert_true(azoi_equal(azoi_json_raw(j, item), "{}"));
    assert_int_equal(size_of(j, item), 0);
    assert_int_equal(azoi_json_child(j, x, item), -1);
    assert_int_equal(azoi_json_child(j, a, x), -1); /* the only member of a */
    assert_true(azoi_equal(azoi_json_raw(j, azoi_json_child(j, 0, a)), "\"b\""));
    assert_true(azoi_equal(azoi_json_raw(j, azoi_json_get(j, 0, "b")), "[]"));
    assert_int_equal(size_of(j, azoi_json_get(j, 0, "b")), 0);
    assert_true(azoi_equal(azoi_json_raw(j, azoi_json_get(j, 0, "c")), "\"s\\n\""));
    assert_true(azoi_json_text(j, azoi_json_get(j, 0, "c"), &out));
    assert_string_equal(out.data, "s\n");
    assert_false(azoi_json_text(j, azoi_json_get(j, 0, "e"), &out));
    assert_string_equal(out.data, "s\n");
    assert_true(azoi_equal(azoi_json_raw(j, azoi_json_get(j, 0, "d")), "{}"));
    assert_true(azoi_equal(azoi_json_raw(j, azoi_json_get(j, 0, "e")), "-7"));
    assert_true(azoi_equal(azoi_json_raw(j, azoi_json_get(j, 0, "f")), "null"));
    assert_true(azoi_equal(azoi_json_raw(j, azoi_json_get(j, 0, "g")), "true"));
    assert_int_equal(azoi_json_child(j, 0, j->count - 1), -1);
    azoi_buf_free(&out);
    close_fixture(&f);
}

static void what_is_not_there(void **state) {
    fixture f;
    const azoi_json *j = &f.json;
    int64_t number = 5;
    (void)state;
    open_fixture(&f);
    parse(&f, "{\"a\":[\"a\",\"b\"]}");
    assert_int_equal(azoi_json_get(j, 0, "b"), -1); /* a value is not a key */
    assert_int_equal(azoi_json_get(j, 0, ""), -1);
    assert_int_equal(azoi_json_get(j, 0, "aa"), -1);
    assert_int_equal(azoi_json_get(j, azoi_json_get(j, 0, "a"), "a"), -1);
    assert_int_equal(azoi_json_get(j, -1, "a"), -1);
    assert_int_equal(azoi_json_get(j, 99, "a"), -1);
    assert_int_equal(size_of(j, -1), 0);
    assert_int_equal(size_of(j, 99), 0);
    assert_int_equal(azoi_json_child(j, 0, 99), -1);
    assert_null(azoi_json_raw(j, -1).ptr);
    assert_null(azoi_json_raw(j, 99).ptr);
    assert_false(azoi_json_int(j, -1, &number));
    assert_int_equal(number, 5);
    close_fixture(&f);
}

/* Nobody asks for one, and jsmn takes it for the start of something. */
static void no_scalars_alone(void **state) {
    static const char *const texts[] = {"5", "-1.5e3", "null", "\ttrue"};
    fixture f;
    size_t i;
    (void)state;
    open_fixture(&f);
    for (i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(azoi_json_parse(&f.tokens, azo_s(texts[i]), &f.json), AZO_ERR_JSON);
        assert_int_equal(f.json.count, 0);
    }
    close_fixture(&f);
}

/* Everything that passes the check is tokenised, and what the tokens say agrees with scanning. */
static void tokens_agree_with_scanning(void **state) {
    fixture f;
    test_guard g;
    size_t i;
    (void)state;
    open_fixture(&f);
    test_guard_open(&g, 256);
    for (i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        azo_str text = test_guard_put(&g, azo_s(accepted[i]));
        azo_str rest = azoi_trim(text);
        azo_str key = azoi_view(NULL, 0);
        azo_str value;
        int item;
        if (!azoi_starts(rest, "{") && !azoi_starts(rest, "[")) {
            continue;
        }
        assert_int_equal(azoi_json_parse(&f.tokens, text, &f.json), AZO_OK);
        assert_true(azoi_same(azoi_json_raw(&f.json, 0), rest));
        item = azoi_json_child(&f.json, 0, 0);
        bool object = azoi_is(rest, '{');
        while (azoi_json_step(&rest, object ? &key : NULL, &value)) {
            if (object) {
                assert_true(azoi_same(azoi_inside(azoi_json_raw(&f.json, item)), key));
            }
            assert_true(azoi_same(azoi_json_raw(&f.json, object ? item + 1 : item), value));
            item = azoi_json_child(&f.json, 0, item);
        }
        assert_int_equal(item, -1);
    }
    test_guard_close(&g);
    close_fixture(&f);
}

/* Objects and arrays by the map of the text, and by scanning: the same members and items. */
static void check_walk(const azoi_json_map *map, azo_str value) {
    azoi_json_cursor mapped = azoi_json_over(map, value, value.ptr[0]);
    azoi_json_cursor scanned = azoi_json_over(NULL, value, value.ptr[0]);
    bool object = value.ptr[0] == '{';
    azo_str found[2];
    azo_str keys[2] = {{NULL, 0}, {NULL, 0}};
    assert_null(scanned.behind);
    assert_true(mapped.behind != NULL || map->count == 0 || value.len == 2 || *azoi_json_value_start(value.ptr + 1) ==
                                                                                  value.ptr[value.len - 1]);
    while (azoi_json_each(&scanned, object ? &keys[0] : NULL, &found[0])) {
        assert_true(azoi_json_each(&mapped, object ? &keys[1] : NULL, &found[1]));
        assert_ptr_equal(found[0].ptr, found[1].ptr);
        assert_int_equal(found[0].len, found[1].len);
        assert_ptr_equal(keys[0].ptr, keys[1].ptr);
        assert_int_equal(keys[0].len, keys[1].len);
        if (azoi_is(found[0], '{') || azoi_is(found[0], '[')) {
            check_walk(map, found[0]);
        }
    }
    assert_false(azoi_json_each(&mapped, object ? &keys[1] : NULL, &found[1]));
}

static void maps_agree_with_scanning(void **state) {
    azoi_json_map map;
    test_guard g;
    size_t i;
    (void)state;
    memset(&map, 0, sizeof map);
    test_guard_open(&g, 256);
    for (i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        azo_str text = test_guard_put(&g, azo_s(accepted[i]));
        azo_str root = azoi_trim(text);
        size_t offset;
        assert_true(azoi_json_check_map(text, &map, &offset));
        assert_int_equal(offset, text.len);
        if (azoi_is(root, '{') || azoi_is(root, '[')) {
            check_walk(&map, root);
        }
    }
    test_guard_close(&g);
}

/* A text with more than there is room for has no map; neither has another text. */
static void maps_have_an_end(void **state) {
    azoi_json_map map;
    azo_allocator none;
    azoi_buf b;
    size_t offset;
    int items;
    (void)state;
    memset(&map, 0, sizeof map);
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 10000, false);
    for (items = AZOI_JSON_MAPPED - 4; items < AZOI_JSON_MAPPED + 4; items++) {
        int i;
        azoi_buf_clear(&b);
        azoi_buf_puts(&b, "[{\"a\":0}");
        for (i = 2; i < items; i++) { /* and the array, and 0 */
            azoi_buf_puts(&b, ",0");
        }
        azoi_buf_puts(&b, "]");
        assert_true(azoi_json_check_map(azoi_buf_view(&b), &map, &offset));
        assert_int_equal(map.count, items + 1 < AZOI_JSON_MAPPED ? items + 1 : 0);
        check_walk(&map, azoi_buf_view(&b));
    }
    assert_true(azoi_json_check_map(azo_s("[1,[2]]"), &map, &offset));
    assert_int_equal(map.count, 4);
    assert_null(azoi_json_over(&map, azo_s("[3]"), '[').behind);
    assert_int_equal(azoi_json_over(&map, azo_s("[3]"), '{').rest.len, 0);
    azoi_buf_free(&b);
}

/* An object that is known is passed over at its depth, and only there; it is walked by scanning then. */
static void known_objects(void **state) {
    static const char text[] = "{\"a\":[{\"b\":{\"c\":1,\"d\":[2]},\"e\":{\"c\":1}}],\"c\":{\"c\":1}}";
    azoi_json_map map;
    azo_str value;
    azo_str inner;
    size_t offset;
    size_t depth;
    (void)state;
    for (depth = 0; depth < 5; depth++) {
        memset(&map, 0, sizeof map);
        map.known = azo_s("{\"c\":1,\"d\":[2]}");
        map.depth = depth;
        assert_true(azoi_json_check_map(azo_s(text), &map, &offset));
        assert_int_equal(offset, sizeof text - 1);
        assert_int_equal(map.count, depth == 3 ? 8 : 11);
        assert_int_equal(azo_json_get(azo_s(text), "a[0].b", &value), AZO_OK);
        static const azo_str name = {"d", 1};
        azoi_pick(&map, value, &name, 1, &inner);
        assert_true(azoi_equal(inner, "[2]"));
    }
    map.known = azo_s("{\"c\":1}}],\"c\":{\"c\":1}}}"); /* longer than what is left */
    map.depth = 3;
    assert_true(azoi_json_check_map(azo_s(text), &map, &offset));
    assert_int_equal(map.count, 11);
}

static void nothing_is_tokenised_that_fails_the_check(void **state) {
    fixture f;
    (void)state;
    open_fixture(&f);
    assert_int_equal(azoi_json_parse(&f.tokens, azo_s("{\"a\":1,}"), &f.json), AZO_ERR_JSON);
    assert_int_equal(f.json.count, 0);
    assert_int_equal(azoi_json_get(&f.json, 0, "a"), -1);
    assert_null(azoi_json_raw(&f.json, 0).ptr);
    assert_int_equal(azoi_json_parse(&f.tokens, azo_s("x"), &f.json), AZO_ERR_JSON);
    assert_int_equal(azoi_json_parse(&f.tokens, azoi_view(NULL, 0), &f.json), AZO_ERR_JSON);
    close_fixture(&f);
}

/* jsmn counts in int. The text is refused before one byte of it is looked at: this one could not be. */
static void gigabytes_are_refused(void **state) {
    fixture f;
    test_guard g;
    azo_str text;
    (void)state;
    open_fixture(&f);
    test_guard_open(&g, 1);
    text = azoi_view(g.map + g.size, (size_t)INT_MAX);
    assert_int_equal(azoi_json_parse(&f.tokens, text, &f.json), AZO_ERR_JSON);
    assert_int_equal(f.memory.calls, 0);
    test_guard_close(&g);
    close_fixture(&f);
}

static void integers(void **state) {
    static const struct {
        const char *text;
        bool ok;
        int64_t value;
    } cases[] = {{"0", true, 0},
                 {"-0", true, 0},
                 {"42", true, 42},
                 {"-42", true, -42},
                 {"8999999999999999", true, 8999999999999999},
                 {"-8999999999999999", true, -8999999999999999},
                 {"9223372036854775807", false, 0},
                 {"-9223372036854775808", false, 0},
                 {"-1e16", false, 0},
                 {"18446744073709551616", false, 0},
                 {"1e400", false, 0},
                 {"17.0", true, 17},
                 {"1.7e1", true, 17},
                 {"-1e3", true, -1000},
                 {"1.5", false, 0},
                 {"1e-1", false, 0},
                 {"1e15", true, 1000000000000000},
                 {"1e16", false, 0}, /* a double does not say which integer */
                 {"\"86399\"", true, 86399},
                 {"\"0\"", true, 0},
                 {"\"\"", false, 0},
                 {"\" 5\"", false, 0},
                 {"\"0x5\"", false, 0},
                 {"\"9223372036854775808\"", false, 0},
                 {"true", false, 0},
                 {"null", false, 0},
                 {"[1]", false, 0},
                 {"{}", false, 0}};
    fixture f;
    size_t i;
    (void)state;
    open_fixture(&f);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t value = 77;
        char text[64];
        snprintf(text, sizeof text, "[%s]", cases[i].text);
        parse(&f, text);
        if (azoi_json_int(&f.json, 1, &value) != cases[i].ok || (cases[i].ok && value != cases[i].value)) {
            fail_msg("%s was read as %ld", cases[i].text, (long)value);
        }
    }
    close_fixture(&f);
}

static void build_list(azoi_buf *b, int count) {
    int i;
    azoi_buf_clear(b);
    azoi_buf_puts(b, "{\"data\":[");
    for (i = 0; i < count; i++) {
        azoi_buf_puts(b, i > 0 ? ",{\"i\":" : "{\"i\":");
        azoi_buf_int(b, i);
        azoi_buf_puts(b, ",\"v\":[1,2,3]}");
    }
    azoi_buf_puts(b, "],\"usage\":7}");
}

static int count_list(const azoi_json *j) {
    int count = 0;
    int item;
    int data = azoi_json_get(j, 0, "data");
    for (item = azoi_json_child(j, data, data); item >= 0; item = azoi_json_child(j, data, item)) {
        int64_t index = -1;
        assert_true(azoi_json_int(j, azoi_json_get(j, item, "i"), &index));
        assert_int_equal(index, count);
        assert_int_equal(size_of(j, azoi_json_get(j, item, "v")), 3);
        count++;
    }
    return count;
}

static void long_lists_grow_the_tokens(void **state) {
    fixture f;
    azoi_buf b;
    size_t cap;
    (void)state;
    open_fixture(&f);
    azoi_buf_init(&b, &f.memory.hook, 1 << 24, false);
    build_list(&b, 127);
    parse(&f, b.data);
    assert_int_equal(f.json.count, 1021);
    assert_int_equal(count_list(&f.json), 127);
    assert_true(azoi_equal(azoi_json_raw(&f.json, azoi_json_get(&f.json, 0, "usage")), "7"));
    cap = f.tokens.cap;
    parse(&f, b.data);
    assert_int_equal(f.tokens.cap, cap);
    parse(&f, "{\"a\":1}");
    assert_int_equal(azoi_json_get(&f.json, 0, "a"), 2);
    build_list(&b, 0);
    parse(&f, b.data);
    assert_int_equal(count_list(&f.json), 0);
    build_list(&b, 128); /* more than makes sense where jsmn is used */
    assert_int_equal(azoi_json_parse(&f.tokens, azoi_buf_view(&b), &f.json), AZO_ERR_JSON);
    assert_int_equal(f.tokens.cap, cap);
    azoi_buf_free(&b);
    close_fixture(&f);
}

static void parse_under_failure(test_memory *m, void *self) {
    const azoi_buf *text = (const azoi_buf *)self;
    azoi_buf tokens;
    azoi_json json;
    azo_result result;
    azoi_buf_init(&tokens, &m->hook, SIZE_MAX / 2, false);
    result = azoi_json_parse(&tokens, azoi_buf_view(text), &json);
    if (m->failures > 0) {
        assert_int_equal(result, AZO_ERR_MEMORY);
        assert_int_equal(json.count, 0);
        m->fail_at = 0;
        result = azoi_json_parse(&tokens, azoi_buf_view(text), &json); /* and works again */
    }
    assert_int_equal(result, AZO_OK);
    assert_int_equal(count_list(&json), 100);
    azoi_buf_free(&tokens);
}

static void parsing_survives_every_failure(void **state) {
    azo_allocator none;
    azoi_buf b;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 1 << 24, false);
    build_list(&b, 100);
    test_every_failure(parse_under_failure, &b);
    azoi_buf_free(&b);
}

/* ---- strings ---- */

static void strings_are_decoded(void **state) {
    static const struct {
        const char *inner;
        const char *text;
    } cases[] = {{"", ""},
                 {"plain", "plain"},
                 {"\\\"\\\\\\/\\b\\f\\n\\r\\t", "\"\\/\b\f\n\r\t"},
                 {"a\\nb", "a\nb"},
                 {"\\u0041\\u00fc\\u20AC\\u20ac", "A\xc3\xbc\xe2\x82\xac\xe2\x82\xac"},
                 {"\\ud83c\\udf24", "\xf0\x9f\x8c\xa4"},
                 {"\\uDBFF\\uDFFF", "\xf4\x8f\xbf\xbf"},
                 {"\\ud800\\udc00", "\xf0\x90\x80\x80"},
                 {"\\ud83d", REPLACEMENT},
                 {"\\ude00", REPLACEMENT},
                 {"\\ude00\\ud83d", REPLACEMENT REPLACEMENT},
                 {"\\ud83d\\ud83d\\ude00", REPLACEMENT "\xf0\x9f\x98\x80"},
                 {"\\ud83dx", REPLACEMENT "x"},
                 {"\\ud83d\\n", REPLACEMENT "\n"},
                 {"\\ud83d\\ndc00", REPLACEMENT "\ndc00"},
                 {"\\ud83dxudc00", REPLACEMENT "xudc00"},
                 {"\\ud83d\\ude00x", "\xf0\x9f\x98\x80x"},
                 {"\\udbff\\udc00", "\xf4\x8f\xb0\x80"},
                 {"\\udc00\\udc00", REPLACEMENT REPLACEMENT},
                 {"\\ud800\\ue000", REPLACEMENT "\xee\x80\x80"},
                 {"\\ud800\\udbff", REPLACEMENT REPLACEMENT},
                 {"\\u0041\\udc00", "A" REPLACEMENT},
                 {"\\ud7ff\\udc00", "\xed\x9f\xbf" REPLACEMENT},
                 {"\\ud83d\\u0041", REPLACEMENT "A"},
                 {"\\ud83d\\\\ude00", REPLACEMENT "\\ude00"},
                 {"\\\\u0041", "\\u0041"},
                 {"\xf0\x9f\x98\x80\\u00e9", "\xf0\x9f\x98\x80\xc3\xa9"},
                 {"\\uffff\\ufffe", "\xef\xbf\xbf\xef\xbf\xbe"},
                 /* nothing that passed the check looks like these */
                 {"\\", REPLACEMENT},
                 {"a\\", "a" REPLACEMENT},
                 {"\\u12", REPLACEMENT "u12"},
                 {"\\u12g4", REPLACEMENT "u12g4"},
                 {"\\x", REPLACEMENT "x"}};
    azo_allocator none;
    azoi_buf b;
    test_guard g;
    size_t i;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 1000, false);
    test_guard_open(&g, 100);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        azoi_buf_clear(&b);
        azoi_buf_puts(&b, ">");
        azoi_json_decode(&b, test_guard_put(&g, azo_s(cases[i].inner)));
        assert_string_equal(b.data + 1, cases[i].text);
    }
    azoi_buf_clear(&b);
    azoi_json_decode(&b, azo_s("a\\u0000b"));
    assert_int_equal(b.len, 3);
    assert_memory_equal(b.data, "a\0b", 4);
    test_guard_close(&g);
    azoi_buf_free(&b);
}

static const struct {
    const char *text;
    const char *quoted;
} quotes[] = {{"", "\"\""},
              {"plain", "\"plain\""},
              {" two words!", "\" two words!\""},
              {"ab\xe2\x82", "\"ab" REPLACEMENT REPLACEMENT "\""},
              {"\"\\/", "\"\\\"\\\\/\""},
              {"\b\f\n\r\t", "\"\\b\\f\\n\\r\\t\""},
              {"\x01\x1f\x7f", "\"\\u0001\\u001f\x7f\""},
              {"\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80", "\"\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80\""},
              {"a\xff" "b", "\"a" REPLACEMENT "b\""},
              {"\xc3", "\"" REPLACEMENT "\""},
              {"\xe2\x82", "\"" REPLACEMENT REPLACEMENT "\""},
              {"\xed\xa0\x80", "\"" REPLACEMENT REPLACEMENT REPLACEMENT "\""},
              {"\xc0\xaf", "\"" REPLACEMENT REPLACEMENT "\""},
              {"</script>\n{\"a\":1}", "\"</script>\\n{\\\"a\\\":1}\""}};

static void strings_are_quoted(void **state) {
    azo_allocator none;
    azoi_buf b;
    test_guard g;
    size_t i;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 1000, false);
    test_guard_open(&g, 100);
    for (i = 0; i < sizeof quotes / sizeof *quotes; i++) {
        size_t offset;
        azoi_buf_clear(&b);
        azoi_json_quote(&b, test_guard_put(&g, azo_s(quotes[i].text)));
        assert_string_equal(b.data, quotes[i].quoted);
        assert_true(azoi_json_check(azoi_buf_view(&b), &offset));
    }
    azoi_buf_clear(&b);
    azoi_json_quote(&b, azoi_view("a\0b", 3));
    assert_string_equal(b.data, "\"a\\u0000b\"");
    azoi_buf_clear(&b);
    azoi_json_quote(&b, azoi_view(NULL, 0));
    assert_string_equal(b.data, "\"\"");
    test_guard_close(&g);
    azoi_buf_free(&b);
}

/* Every text of two bytes: quoting gives JSON, and decoding it gives the text back if that was UTF-8. */
static void quoting_and_decoding_are_inverse(void **state) {
    azo_allocator none;
    azoi_buf quoted;
    azoi_buf back;
    int i;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&quoted, &none, 1000, false);
    azoi_buf_init(&back, &none, 1000, false);
    for (i = 0; i < 65536; i++) {
        char text[2];
        size_t offset;
        size_t first;
        bool valid;
        text[0] = (char)(i >> 8);
        text[1] = (char)(i & 255);
        first = azoi_utf8(text, 2);
        valid = first == 2 || (first == 1 && azoi_utf8(text + 1, 1) == 1);
        azoi_buf_clear(&quoted);
        azoi_json_quote(&quoted, azoi_view(text, 2));
        assert_true(azoi_json_check(azoi_buf_view(&quoted), &offset));
        azoi_buf_clear(&back);
        azoi_json_decode(&back, azoi_view(quoted.data + 1, quoted.len - 2));
        if ((back.len == 2 && memcmp(back.data, text, 2) == 0) != valid) {
            fail_msg("bytes %02x %02x", (unsigned)(i >> 8), (unsigned)(i & 255));
        }
    }
    azoi_buf_free(&quoted);
    azoi_buf_free(&back);
}

static void strings_under_failure(test_memory *m, void *self) {
    azoi_buf b;
    int i;
    (void)self;
    azoi_buf_init(&b, &m->hook, 10000, false);
    for (i = 0; i < 100; i++) {
        azoi_json_quote(&b, azo_s("a\n\xff"));
        azoi_json_decode(&b, azo_s("b\\n\\u00fc"));
    }
    assert_int_equal(b.failed, m->failures > 0 ? AZO_ERR_MEMORY : AZO_OK);
    assert_int_equal(b.len == 1200, m->failures == 0);
    azoi_buf_free(&b);
}

static void strings_survive_every_failure(void **state) {
    (void)state;
    test_every_failure(strings_under_failure, NULL);
}

/* ---- scanning ---- */

static void finds_members_by_scanning(void **state) {
    static const char text[] = " { \"a\" : {\"b\":[1,{\"c\":\"x\"}]} ,\"d\":\"{\\\"a\\\":2}\", \"a\":3 , \"e\" :null}";
    test_guard g;
    azo_str object;
    azo_str value;
    azo_str inner;
    (void)state;
    test_guard_open(&g, 200);
    object = azoi_trim(test_guard_put(&g, azo_s(text)));
    assert_true(azoi_json_find(object, "a", &value));
    assert_true(azoi_equal(value, "{\"b\":[1,{\"c\":\"x\"}]}"));
    assert_true(azoi_json_find(value, "b", &inner));
    assert_true(azoi_equal(inner, "[1,{\"c\":\"x\"}]"));
    assert_false(azoi_json_find(inner, "b", &value));
    assert_null(value.ptr);
    assert_true(azoi_json_find(object, "d", &value));
    assert_true(azoi_equal(value, "\"{\\\"a\\\":2}\""));
    assert_true(azoi_json_find(object, "e", &value));
    assert_true(azoi_equal(value, "null"));
    assert_false(azoi_json_find(object, "b", &value));
    assert_false(azoi_json_find(object, "", &value));
    assert_false(azoi_json_find(azo_s("{}"), "a", &value));
    assert_false(azoi_json_find(azo_s("[\"a\",1]"), "a", &value));
    assert_false(azoi_json_find(azo_s("5"), "a", &value));
    assert_false(azoi_json_find(azoi_view(NULL, 0), "a", &value));
    test_guard_close(&g);
}

static void notes_of_steps(const char *text, const char *expected) {
    test_guard g;
    test_notes notes;
    azo_str rest;
    azo_str key = azoi_view(NULL, 0);
    azo_str value;
    memset(&notes, 0, sizeof notes);
    test_guard_open(&g, 200);
    rest = azoi_trim(test_guard_put(&g, azo_s(text)));
    test_note(&notes, "start");
    while (azoi_json_step(&rest, rest.ptr[0] == '{' || key.ptr != NULL ? &key : NULL, &value)) {
        test_note(&notes, " ");
        test_note_text(&notes, key);
        test_note(&notes, "=");
        test_note_text(&notes, value);
    }
    assert_string_equal(notes.text, expected);
    test_notes_free(&notes);
    test_guard_close(&g);
}

static void steps_through_members_and_items(void **state) {
    (void)state;
    notes_of_steps("[]", "start");
    notes_of_steps("{}", "start");
    notes_of_steps(" [ 1 , \"a\",[2] ]", "start -='1' -='\"a\"' -='[2]'");
    notes_of_steps("{\"a\" : 1 , \"\":\"b\",\"c\":{\"d\":[]} }", "start 'a'='1' ''='\"b\"' 'c'='{\"d\":[]}'");
    notes_of_steps("[\"a\",\"b\"]", "start -='\"a\"' -='\"b\"'");
    notes_of_steps("[{\"a\":1},{}]", "start -='{\"a\":1}' -='{}'");
}

/* ---- public ---- */

static void expect_get(const char *json, const char *path, azo_result result, const char *expected) {
    test_guard g;
    azo_str value = azo_s("left over");
    azo_result got;
    test_guard_open(&g, 400);
    got = azo_json_get(test_guard_put(&g, azo_s(json)), path, &value);
    if (got != result) {
        fail_msg("%s in %s: %d", path, json, (int)got);
    }
    if (expected == NULL) {
        assert_null(value.ptr);
        assert_int_equal(value.len, 0);
    } else if (!azoi_equal(value, expected)) {
        fail_msg("%s in %s: %.*s", path, json, (int)value.len, value.ptr);
    }
    test_guard_close(&g);
}

static void gets_by_path(void **state) {
    static const char chat[] = " {\"choices\":[{\"message\":{\"content\":\"Hi\",\"tools\":[[1,2],[3]]}},{\"x\":0}],"
                               "\"a\\u0062\":1,\"usage\":{\"total\":17},\"usage\":{\"total\":18},\"\":{}} ";
    (void)state;
    expect_get(chat, "choices[0].message.content", AZO_OK, "\"Hi\"");
    expect_get(chat, "choices[1].x", AZO_OK, "0");
    expect_get(chat, "choices[0].message.tools[0][1]", AZO_OK, "2");
    expect_get(chat, "choices[0].message.tools[1]", AZO_OK, "[3]");
    expect_get(chat, "usage.total", AZO_OK, "17");
    expect_get(chat, "a\\u0062", AZO_OK, "1"); /* as written */
    expect_get(chat, "ab", AZO_ERR_JSON, NULL);
    expect_get("[7]", "[0]", AZO_OK, "7");
    expect_get(" [7] ", "", AZO_OK, "[7]");
    expect_get("7", "", AZO_OK, "7");
    expect_get(chat, "choices[2]", AZO_ERR_JSON, NULL);
    expect_get(chat, "choices[18446744073709551615]", AZO_ERR_JSON, NULL);
    expect_get(chat, "choices.message", AZO_ERR_JSON, NULL);
    expect_get(chat, "usage[0]", AZO_ERR_JSON, NULL);
    expect_get(chat, "usage.total.more", AZO_ERR_JSON, NULL);
    expect_get(chat, "nothing", AZO_ERR_JSON, NULL);
    expect_get("[1,2", "[0]", AZO_ERR_JSON, NULL);
    expect_get("[1,nulx]", "[0]", AZO_ERR_JSON, NULL);
    expect_get("", "a", AZO_ERR_JSON, NULL);
    expect_get("", "", AZO_ERR_JSON, NULL);
    expect_get(chat, ".", AZO_ERR_ARGUMENT, NULL);
    expect_get(chat, "usage.", AZO_ERR_ARGUMENT, NULL);
    expect_get(chat, "usage..total", AZO_ERR_ARGUMENT, NULL);
    expect_get(chat, "choices.[0]", AZO_ERR_ARGUMENT, NULL);
    expect_get(chat, "choices[]", AZO_ERR_ARGUMENT, NULL);
    expect_get(chat, "choices[-1]", AZO_ERR_ARGUMENT, NULL);
    expect_get(chat, "choices[0", AZO_ERR_ARGUMENT, NULL);
    expect_get(chat, "choices[x]", AZO_ERR_ARGUMENT, NULL);
    expect_get(chat, "choices[99999999999999999999]", AZO_ERR_ARGUMENT, NULL);
}

static void texts_into_a_buffer(void **state) {
    static const char *const bad[] = {"", "a", "\"a", "a\"", "\"a\" ", " \"a\"", "\"a\"\"b\"", "\"\\x\"", "5", "null",
                                      "\""};
    char buf[16];
    size_t len;
    size_t i;
    (void)state;
    assert_int_equal(azo_json_text(azo_s("\"Z\\u00fcrich\\n\""), buf, sizeof buf, &len), AZO_OK);
    assert_int_equal(len, 8);
    assert_string_equal(buf, "Z\xc3\xbcrich\n");
    assert_int_equal(azo_json_text(azo_s("\"\\ud83d\""), buf, sizeof buf, NULL), AZO_OK);
    assert_string_equal(buf, REPLACEMENT);
    assert_int_equal(azo_json_text(azo_s("\"\""), buf, 1, &len), AZO_OK);
    assert_int_equal(len, 0);
    assert_string_equal(buf, "");
    memset(buf, 'x', sizeof buf);
    assert_int_equal(azo_json_text(azo_s("\"abcd\""), buf, 4, &len), AZO_ERR_LIMIT);
    assert_int_equal(len, 4);
    assert_int_equal(buf[0], '\0');
    assert_int_equal(buf[4], 'x');
    assert_int_equal(azo_json_text(azo_s("\"abcd\""), buf, 5, &len), AZO_OK);
    assert_string_equal(buf, "abcd");
    assert_int_equal(azo_json_text(azo_s("\"abcd\""), NULL, 0, &len), AZO_ERR_LIMIT);
    assert_int_equal(len, 4);
    assert_int_equal(azo_json_text(azo_s("\"a\\nb\\nc\\nd\""), buf, 3, &len), AZO_ERR_LIMIT);
    assert_int_equal(len, 7); /* though the last pieces would fit alone */
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        strncpy(buf, "old", sizeof buf);
        if (azo_json_text(azo_s(bad[i]), buf, sizeof buf, &len) != AZO_ERR_JSON || buf[0] != '\0' || len != 0) {
            fail_msg("taken for a string: %s", bad[i]);
        }
    }
    assert_int_equal(azo_json_text(azoi_view(NULL, 0), NULL, 0, NULL), AZO_ERR_JSON);
}

static void numbers_by_value(void **state) {
    static const char *const bad[] = {"", "01", "1.", ".5", "+1", "nan", "true", "\"1\"", "1 ", " 1", "1e400",
                                      "[1]", "1x"};
    double v = 5;
    size_t i;
    (void)state;
    assert_int_equal(azo_json_number(azo_s("-1.25e2"), &v), AZO_OK);
    assert_true(v == -125);
    assert_int_equal(azo_json_number(azo_s("123456789012345678901234567890"), &v), AZO_OK);
    assert_true(v == (double)123456789012345678901234567890.0);
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        v = 5;
        if (azo_json_number(azo_s(bad[i]), &v) != AZO_ERR_JSON || v != 0) {
            fail_msg("taken for a number: %s", bad[i]);
        }
    }
}

static void quotes_into_a_buffer(void **state) {
    char buf[64];
    size_t len;
    size_t i;
    (void)state;
    for (i = 0; i < sizeof quotes / sizeof *quotes; i++) {
        size_t size = strlen(quotes[i].quoted);
        size_t cap;
        for (cap = 0; cap <= size + 1; cap++) {
            memset(buf, 'x', sizeof buf);
            len = 0;
            assert_int_equal(azo_json_quote(azo_s(quotes[i].text), buf, cap, &len),
                             cap > size ? AZO_OK : AZO_ERR_LIMIT);
            assert_int_equal(len, size);
            assert_int_equal(buf[cap], 'x');
            if (cap > 0) {
                assert_string_equal(buf, cap > size ? quotes[i].quoted : "");
            }
        }
    }
    assert_int_equal(azo_json_quote(azoi_view(NULL, 0), buf, sizeof buf, NULL), AZO_OK);
    assert_string_equal(buf, "\"\"");
}

static void results_need_a_place(void **state) {
    size_t len = 0;
    (void)state;
    assert_int_equal(azo_json_get(azo_s("{}"), "", NULL), AZO_ERR_ARGUMENT);
    assert_int_equal(azo_json_number(azo_s("1"), NULL), AZO_ERR_ARGUMENT);
    assert_int_equal(azo_json_text(azo_s("\"ab\""), NULL, 100, &len), AZO_ERR_LIMIT);
    assert_int_equal(len, 2);
    assert_int_equal(azo_json_quote(azo_s("ab"), NULL, 100, &len), AZO_ERR_LIMIT);
    assert_int_equal(len, 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_json),
        cmocka_unit_test(refuses_what_is_not_json),
        cmocka_unit_test(nul_is_no_end),
        cmocka_unit_test(names_the_first_bad_byte),
        cmocka_unit_test(every_prefix_is_refused),
        cmocka_unit_test(every_mutation_is_survived),
        cmocka_unit_test(depth_is_limited),
        cmocka_unit_test(brackets_must_fit),
        cmocka_unit_test(brackets_end_pieces),
        cmocka_unit_test(walks_a_document),
        cmocka_unit_test(what_is_not_there),
        cmocka_unit_test(no_scalars_alone),
        cmocka_unit_test(tokens_agree_with_scanning),
        cmocka_unit_test(maps_agree_with_scanning),
        cmocka_unit_test(maps_have_an_end),
        cmocka_unit_test(known_objects),
        cmocka_unit_test(nothing_is_tokenised_that_fails_the_check),
        cmocka_unit_test(gigabytes_are_refused),
        cmocka_unit_test(integers),
        cmocka_unit_test(long_lists_grow_the_tokens),
        cmocka_unit_test(parsing_survives_every_failure),
        cmocka_unit_test(strings_are_decoded),
        cmocka_unit_test(strings_are_quoted),
        cmocka_unit_test(quoting_and_decoding_are_inverse),
        cmocka_unit_test(strings_survive_every_failure),
        cmocka_unit_test(finds_members_by_scanning),
        cmocka_unit_test(steps_through_members_and_items),
        cmocka_unit_test(gets_by_path),
        cmocka_unit_test(texts_into_a_buffer),
        cmocka_unit_test(numbers_by_value),
        cmocka_unit_test(quotes_into_a_buffer),
        cmocka_unit_test(results_need_a_place),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
