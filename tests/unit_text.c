/* unit_text.c - memory, strings, error, time and the pump's tables: the layers that everything else stands on. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <sys/stat.h>

/* ---- memory ---- */

static void wipe_clears_every_byte(void **state) {
    char bytes[9];
    size_t i;
    (void)state;
    memset(bytes, 'x', sizeof bytes);
    azoi_wipe(bytes + 1, 7);
    assert_int_equal(bytes[0], 'x');
    assert_int_equal(bytes[8], 'x');
    for (i = 1; i < 8; i++) {
        assert_int_equal(bytes[i], 0);
    }
    azoi_wipe(NULL, 0);
}

static void sizes_are_checked(void **state) {
    size_t out;
    (void)state;
    assert_true(azoi_sum(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
    assert_false(azoi_sum(SIZE_MAX, 1, &out));
    assert_false(azoi_sum(1, SIZE_MAX, &out));
    assert_true(azoi_sum(0, 0, &out) && out == 0);
    assert_true(azoi_product(SIZE_MAX, 1, &out) && out == SIZE_MAX);
    assert_true(azoi_product(0, SIZE_MAX, &out) && out == 0);
    assert_true(azoi_product(SIZE_MAX, 0, &out) && out == 0);
    assert_false(azoi_product(SIZE_MAX / 2 + 1, 2, &out));
    assert_false(azoi_product(SIZE_MAX, SIZE_MAX, &out));
}

static void allocations_are_zeroed_and_sized(void **state) {
    test_memory m;
    char *bytes;
    size_t i;
    (void)state;
    test_memory_open(&m);
    bytes = (char *)azoi_alloc(&m.hook, 50);
    assert_non_null(bytes);
    for (i = 0; i < 50; i++) {
        assert_int_equal(bytes[i], 0);
    }
    bytes = (char *)azoi_resize(&m.hook, bytes, 50, 60);
    assert_int_equal(m.live_bytes, 60);
    azoi_free(&m.hook, bytes, 60);
    azoi_free(&m.hook, NULL, 0);
    assert_null(azoi_alloc(&m.hook, 0));
    m.fail_at = m.calls + 1;
    assert_null(azoi_alloc(&m.hook, 50));
    test_memory_close(&m);
}

static void the_built_in_allocator_is_all_zero(void **state) {
    azo_allocator none;
    void *ptr;
    (void)state;
    memset(&none, 0, sizeof none);
    ptr = azoi_alloc(&none, 10);
    assert_non_null(ptr);
    ptr = azoi_resize(&none, ptr, 10, 1000);
    assert_non_null(ptr);
    assert_null(azoi_resize(&none, ptr, 1000, 0));
    assert_null(azoi_default_resize(NULL, 0, 0, NULL));
}

static void buf_writes_text(void **state) {
    test_memory m;
    azoi_buf b;
    (void)state;
    test_memory_open(&m);
    azoi_buf_init(&b, &m.hook, 1000, false);
    assert_null(azoi_buf_view(&b).ptr);
    azoi_buf_add(&b, NULL, 0);
    assert_non_null(azoi_buf_view(&b).ptr); /* something was added: an empty text is not NULL */
    assert_int_equal(azoi_buf_view(&b).len, 0);
    assert_string_equal(b.data, "");
    azoi_buf_puts(&b, "one");
    azoi_buf_char(&b, ' ');
    azoi_buf_str(&b, azo_s("two"));
    azoi_buf_add(&b, "\0x", 2);
    assert_int_equal(b.len, 9);
    assert_memory_equal(b.data, "one two\0x", 10);
    azoi_buf_drop(&b, 1);
    azoi_buf_drop(&b, 3);
    assert_memory_equal(b.data, "two\0x", 6);
    azoi_buf_drop(&b, b.len);
    assert_int_equal(b.len, 0);
    assert_int_equal(b.data[0], 0);
    azoi_buf_drop(&b, 0);
    assert_true(azoi_buf_set(&b, azo_s("new")));
    assert_true(azoi_buf_set(&b, azo_s("newer")));
    assert_string_equal(b.data, "newer");
    assert_true(azoi_buf_set(&b, azoi_view(NULL, 0)));
    assert_string_equal(b.data, "");
    azoi_buf_free(&b);
    assert_null(b.data);
    azoi_buf_puts(&b, "again");
    assert_string_equal(b.data, "again");
    azoi_buf_free(&b);
    test_memory_close(&m);
}

static void buf_writes_integers(void **state) {
    static const struct {
        int64_t value;
        const char *text;
    } cases[] = {{0, "0"},
                 {7, "7"},
                 {-1, "-1"},
                 {1234567890, "1234567890"},
                 {INT64_MAX, "9223372036854775807"},
                 {INT64_MIN, "-9223372036854775808"}};
    azo_allocator none;
    azoi_buf b;
    size_t i;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 100, false);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        azoi_buf_clear(&b);
        azoi_buf_int(&b, cases[i].value);
        assert_string_equal(b.data, cases[i].text);
    }
    azoi_buf_free(&b);
}

static void spares_serve_the_next_buffer(void **state) {
    test_memory m;
    azoi_spares s;
    azo_allocator a;
    azoi_buf all[AZOI_SPARE_COUNT + 1];
    azoi_buf large;
    (void)state;
    test_memory_open(&m);
    memset(&s, 0, sizeof s);
    s.below = m.hook;
    a.user_data = &s;
    a.resize = azoi_spares_resize;
    for (size_t i = 0; i <= AZOI_SPARE_COUNT; i++) {
        azoi_buf_init(&all[i], &a, SIZE_MAX / 2, false);
        size_t steps = (i + 3) % (AZOI_SPARE_COUNT + 1); /* 0 to 6 */
        assert_true(azoi_buf_reserve(&all[i], steps * AZOI_SPARE_STEP + 70)); /* more than a new buffer has anyway */
        assert_int_equal(all[i].cap, (steps + 1) * AZOI_SPARE_STEP);
    }
    for (size_t i = 0; i <= AZOI_SPARE_COUNT; i++) {
        azoi_buf_free(&all[i]);
    }
    assert_int_equal(m.live_blocks, AZOI_SPARE_COUNT);
    assert_int_equal(m.live_bytes, (2 + 3 + 4 + 5 + 6 + 7) * AZOI_SPARE_STEP); /* the smallest one had to go */
    m.fail_at = m.calls + 1;
    assert_true(azoi_buf_reserve(&all[0], 3 * AZOI_SPARE_STEP - 1)); /* without asking below */
    assert_int_equal(all[0].cap, 3 * AZOI_SPARE_STEP);
    assert_true(azoi_buf_reserve(&all[1], 3 * AZOI_SPARE_STEP - 1));
    assert_int_equal(all[1].cap, 4 * AZOI_SPARE_STEP);
    assert_false(azoi_buf_reserve(&all[2], 7 * AZOI_SPARE_STEP));
    assert_int_equal(all[2].failed, AZO_ERR_MEMORY);
    azoi_buf_init(&large, &a, SIZE_MAX / 2, false);
    assert_true(azoi_buf_reserve(&large, AZOI_SPARE_BYTES));
    azoi_buf_free(&large);
    assert_int_equal(m.live_blocks, AZOI_SPARE_COUNT);
    azoi_buf_free(&all[0]);
    azoi_buf_free(&all[1]);
    assert_int_equal(m.live_bytes, (2 + 3 + 4 + 5 + 6 + 7) * AZOI_SPARE_STEP);
    azoi_spares_free(&s);
    assert_int_equal(m.live_blocks, 0);
    test_memory_close(&m);
}

static void buf_stops_at_its_limit(void **state) {
    test_memory m;
    azo_error e;
    azoi_buf b;
    (void)state;
    test_memory_open(&m);
    azoi_buf_init(&b, &m.hook, 5, false);
    azoi_buf_puts(&b, "12345");
    assert_int_equal(b.failed, AZO_OK);
    assert_int_equal(b.cap, 6); /* growth stops there too */
    assert_int_equal(azoi_buf_failed(&b, NULL, "It"), AZO_OK);
    azoi_buf_char(&b, '6');
    assert_int_equal(b.failed, AZO_ERR_LIMIT);
    azoi_buf_drop(&b, 3);
    azoi_buf_char(&b, '7'); /* would fit, but the failure sticks */
    assert_string_equal(b.data, "45");
    azoi_error_clear(&e);
    assert_int_equal(azoi_buf_failed(&b, &e, "The response head (max_header_bytes)"), AZO_ERR_LIMIT);
    assert_int_equal(e.code, AZO_ERR_LIMIT);
    assert_string_equal(e.message, "The response head (max_header_bytes) is larger than its limit of 5 bytes. Raise "
                                   "the limit if that much is expected.");
    test_sentences(e.message);
    azoi_buf_clear(&b);
    azoi_buf_puts(&b, "ok");
    assert_string_equal(b.data, "ok");
    assert_false(azoi_buf_set(&b, azo_s("too long")));
    azoi_buf_clear(&b);
    assert_false(azoi_buf_reserve(&b, SIZE_MAX));
    azoi_buf_clear(&b);
    b.max = SIZE_MAX;
    assert_false(azoi_buf_reserve(&b, SIZE_MAX)); /* the NUL would not fit */
    azoi_buf_free(&b);
    test_memory_close(&m);
}

/* Where it is cut does not depend on the pieces that it comes in. */
static void buf_collects_what_fits(void **state) {
    static const char text[] = "1234567";
    size_t width;
    (void)state;
    for (width = 1; width < sizeof text; width++) {
        test_memory m;
        azoi_buf b;
        size_t at;
        test_memory_open(&m);
        azoi_buf_init(&b, &m.hook, 5, false);
        for (at = 0; at < sizeof text - 1; at += width) {
            size_t left = sizeof text - 1 - at;
            assert_int_equal(b.failed, at <= 5 ? AZO_OK : AZO_ERR_LIMIT);
            azoi_buf_collect(&b, azoi_view(text + at, width < left ? width : left));
        }
        assert_int_equal(b.failed, AZO_ERR_LIMIT);
        azoi_buf_collect(&b, azo_s("89"));
        assert_string_equal(b.data, "12345");
        azoi_buf_free(&b);
        m.fail_at = m.calls + 1;
        azoi_buf_collect(&b, azo_s(text));
        azoi_buf_collect(&b, azo_s(text));
        assert_int_equal(b.failed, AZO_ERR_MEMORY); /* the first failure stays */
        assert_null(b.data);
        test_memory_close(&m);
    }
}

/* Notes how much is asked for, and has nothing. */
static void *ask_for_memory(void *ptr, size_t old_size, size_t new_size, void *user_data) {
    (void)ptr;
    (void)old_size;
    *(size_t *)user_data = new_size;
    return NULL;
}

static void buf_doubles_within_a_size(void **state) {
    size_t asked = 0;
    azo_allocator hook;
    azoi_buf b;
    (void)state;
    hook.user_data = &asked;
    hook.resize = ask_for_memory;
    azoi_buf_init(&b, &hook, SIZE_MAX - 1, false);
    b.cap = SIZE_MAX / 2 + 1; /* as if it held so much: its bytes are not looked at */
    b.len = SIZE_MAX / 2;
    assert_false(azoi_buf_reserve(&b, 1));
    assert_int_equal(b.failed, AZO_ERR_MEMORY);
    assert_true(asked == SIZE_MAX);
}

static void buf_limit_zero_takes_only_nothing(void **state) {
    azo_allocator none;
    azoi_buf b;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 0, false);
    azoi_buf_add(&b, "", 0);
    assert_int_equal(b.failed, AZO_OK);
    assert_string_equal(b.data, "");
    azoi_buf_char(&b, 'x');
    assert_int_equal(b.failed, AZO_ERR_LIMIT);
    azoi_buf_free(&b);
}

static void buf_reserve_keeps_the_place(void **state) {
    test_memory m;
    azoi_buf b;
    char *before;
    size_t calls;
    int i;
    (void)state;
    test_memory_open(&m);
    azoi_buf_init(&b, &m.hook, 5000, false);
    assert_true(azoi_buf_reserve(&b, 1000));
    before = b.data;
    calls = m.calls;
    for (i = 0; i < 1000; i++) {
        azoi_buf_char(&b, 'x');
    }
    assert_ptr_equal(b.data, before);
    assert_int_equal(m.calls, calls);
    azoi_buf_free(&b);
    test_memory_close(&m);
}

static void buf_grows_in_few_steps(void **state) {
    test_memory m;
    azoi_buf b;
    size_t i;
    (void)state;
    test_memory_open(&m);
    azoi_buf_init(&b, &m.hook, 1 << 20, false);
    for (i = 0; i < 100000; i++) {
        azoi_buf_char(&b, (char)('a' + i % 26));
    }
    assert_true(m.calls < 20);
    for (i = 0; i < 100000; i++) {
        assert_int_equal(b.data[i], 'a' + (int)(i % 26));
    }
    azoi_buf_free(&b);
    test_memory_close(&m);
}

static void buf_wipes_secrets(void **state) {
    test_memory m;
    azoi_buf b;
    int i;
    (void)state;
    test_memory_open(&m);
    m.secret = "hunter2";
    azoi_buf_init(&b, &m.hook, 100000, true);
    for (i = 0; i < 1000; i++) {
        azoi_buf_puts(&b, "hunter2 "); /* many moves */
    }
    for (i = 0; i < 1000; i++) {
        assert_memory_equal(b.data + i * 8, "hunter2 ", 8);
    }
    azoi_buf_drop(&b, 7984);
    assert_string_equal(b.data, "hunter2 hunter2 ");
    assert_false(test_holds(b.data + b.len, b.cap - b.len, "unter2"));
    azoi_buf_clear(&b);
    assert_false(test_holds(b.data, b.cap, "unter2"));
    azoi_buf_puts(&b, "hunter2");
    assert_true(azoi_buf_reserve(&b, 100));
    memcpy(b.data + b.len + 1, "hunter2", 7); /* as a socket's read would */
    azoi_buf_free(&b);
    test_memory_close(&m);
}

/* The same with a plain buffer shows that the check above can fail. */
static void the_secret_check_works(void **state) {
    test_memory m;
    azoi_buf b;
    (void)state;
    test_memory_open(&m);
    m.secret = "hunter2";
    azoi_buf_init(&b, &m.hook, 100000, false);
    azoi_buf_puts(&b, "my hunter2");
    azoi_buf_free(&b);
    assert_int_equal(m.secrets_left, 1);
    m.secrets_left = 0;
    test_memory_close(&m);
}

static void buf_under_failure(test_memory *m, void *self) {
    azo_error e;
    azoi_buf b;
    int i;
    azoi_buf_init(&b, &m->hook, 100000, *(const bool *)self);
    for (i = 0; i < 100; i++) {
        azoi_buf_puts(&b, "0123456789");
    }
    azoi_error_clear(&e);
    if (m->failures > 0) {
        assert_int_equal(azoi_buf_failed(&b, &e, "It"), AZO_ERR_MEMORY);
        assert_int_equal(e.who, AZO_WHO_MACHINE);
        test_sentences(e.message);
        assert_int_equal(b.len % 10, 0);
        assert_true(b.len < 1000 && (b.data == NULL || b.data[b.len] == '\0')); /* what was there stays */
    } else {
        assert_int_equal(b.len, 1000);
        for (i = 0; i < 100; i++) {
            assert_memory_equal(b.data + i * 10, "0123456789", 10);
        }
    }
    azoi_buf_free(&b);
    assert_int_equal(b.failed, AZO_OK);
}

static void buf_survives_every_failure(void **state) {
    bool secret = false;
    (void)state;
    test_every_failure(buf_under_failure, &secret);
    secret = true;
    test_every_failure(buf_under_failure, &secret);
}

/* ---- strings ---- */

static void classes_of_characters(void **state) {
    int i;
    (void)state;
    for (i = 0; i < 256; i++) {
        char c = (char)i;
        bool digit = i >= 48 && i <= 57;
        bool upper = i >= 65 && i <= 90;
        bool lower = i >= 97 && i <= 122;
        int hex = digit ? i - 48 : i >= 65 && i <= 70 ? i - 55 : i >= 97 && i <= 102 ? i - 87 : -1;
        assert_int_equal(azoi_is_digit(c), digit);
        assert_int_equal(azoi_is_alpha(c), upper || lower);
        assert_int_equal(azoi_is_space(c), i == 32 || i == 9 || i == 10 || i == 13);
        assert_int_equal(azoi_lower(c), upper ? (char)(i + 32) : c);
        assert_int_equal(azoi_hex(c), hex);
        assert_int_equal(azoi_has_control(azoi_view(&c, 1)), (i < 32 && i != 9) || i == 127);
    }
    assert_false(azoi_has_control(azoi_view(NULL, 0)));
    assert_true(azoi_has_control(azoi_view("a\0b", 3)));
}

/* Each byte at each place, against the words of the definition. */
static void plain_runs(void **state) {
    test_guard g;
    (void)state;
    test_guard_open(&g, 20);
    for (size_t len = 0; len <= 20; len++) {
        for (size_t at = 0; at < len; at++) {
            for (int c = 0; c < 256; c++) {
                char text[20];
                bool plain = c >= 32 && c < 127 && c != '"' && c != '\\';
                bool value = (c >= 32 && c != 127) || c == '\t';
                memset(text, 'a', sizeof text);
                text[at] = (char)c;
                azo_str view = test_guard_put(&g, azoi_view(text, len));
                if (azoi_run(view, AZOI_BYTE_PLAIN) != (plain ? len : at) ||
                    azoi_value_run(view) != (value ? len : at)) {
                    fail_msg("byte %d at %zu of %zu", c, at, len);
                }
            }
        }
    }
    assert_int_equal(azoi_run(azoi_view(NULL, 0), AZOI_BYTE_PLAIN), 0);
    test_guard_close(&g);
}

static void comparisons(void **state) {
    azo_str none = azoi_view(NULL, 0);
    (void)state;
    assert_true(azoi_equal(azo_s("abc"), "abc"));
    assert_false(azoi_equal(azo_s("abc"), "abcd"));
    assert_false(azoi_equal(azo_s("abcd"), "abc"));
    assert_false(azoi_equal(azo_s("abC"), "abc"));
    assert_true(azoi_equal(none, ""));
    assert_true(azoi_equal_ci(azo_s("aBc-1"), "AbC-1"));
    assert_false(azoi_equal_ci(azo_s("@"), "`"));
    assert_false(azoi_equal_ci(azo_s("["), "{"));
    assert_true(azoi_same(azoi_view("a\0b", 3), azoi_view("a\0b", 3)));
    assert_false(azoi_same(azoi_view("a\0b", 3), azoi_view("a\0c", 3)));
    assert_true(azoi_same(none, azo_s("")));
    assert_true(azoi_same_ci(azo_s("HOST"), azo_s("host")));
    assert_false(azoi_same_ci(azo_s("HOST"), azo_s("hos")));
    assert_true(azoi_starts(azo_s("Bearer x"), "Bearer "));
    assert_false(azoi_starts(azo_s("Bearer"), "Bearer "));
    assert_true(azoi_starts(none, ""));
    assert_false(azoi_starts(none, "a"));
    assert_true(azoi_starts_ci(azo_s("HTTPS://x"), "https://"));
    assert_false(azoi_starts_ci(azo_s("HTTP://x"), "https://"));
    assert_true(azoi_ends(azo_s("a.azure.com"), ".azure.com"));
    assert_false(azoi_ends(azo_s("azure.com"), ".azure.com"));
    assert_false(azoi_ends(azo_s("a.AZURE.com"), ".azure.com"));
    assert_true(azoi_ends_ci(azo_s("a.AZURE.com"), ".azure.com"));
    assert_true(azoi_ends_ci(azo_s(".AZURE.com"), ".azure.com"));
    assert_false(azoi_ends_ci(azo_s(".azure.org"), ".azure.com"));
    assert_false(azoi_ends_ci(azo_s("azure.com"), ".azure.com"));
    assert_true(azoi_ends(none, ""));
    assert_true(azoi_contains_ci(azo_s("text/Event-Stream; x"), "event-stream"));
    assert_false(azoi_contains_ci(azo_s("text/event-strea"), "event-stream"));
    assert_true(azoi_contains_ci(none, ""));
    assert_false(azoi_contains_ci(none, "x"));
}

static void cutting_views(void **state) {
    azo_str s = azo_s("  \t a b\r\n");
    (void)state;
    assert_true(azoi_equal(azoi_trim(s), "a b"));
    assert_int_equal(azoi_trim(azo_s(" \r\n\t")).len, 0);
    assert_int_equal(azoi_trim(azo_s(" ")).len, 0);
    assert_true(azoi_equal(azoi_trim(azo_s("a ")), "a"));
    assert_true(azoi_equal(azoi_trim(azo_s(" a")), "a"));
    assert_int_equal(azoi_trim(azoi_view(NULL, 0)).len, 0);
    assert_true(azoi_equal(azoi_skip(azo_s("abc"), 1), "bc"));
    assert_int_equal(azoi_skip(azo_s("abc"), 9).len, 0);
    assert_null(azoi_skip(azoi_view(NULL, 0), 3).ptr);
    assert_int_equal(azoi_find(azo_s("a:b:c"), ':'), 1);
    assert_int_equal(azoi_find(azo_s("abc"), ':'), 3);
    assert_int_equal(azoi_find(azo_s(":"), ':'), 0);
    assert_int_equal(azoi_find(azo_s("a"), ':'), 1);
    assert_int_equal(azoi_find(azoi_view(NULL, 0), ':'), 0);
    assert_int_equal(azoi_find(azoi_view("ab\0c", 4), '\0'), 2);
}

static void views_are_not_read_past(void **state) {
    test_guard g;
    azo_str s;
    uint64_t number;
    double real;
    (void)state;
    test_guard_open(&g, 100);
    s = test_guard_put(&g, azo_s("12345"));
    assert_true(azoi_equal(s, "12345"));
    assert_false(azoi_equal(s, "123456"));
    assert_false(azoi_starts(s, "123456"));
    assert_false(azoi_contains_ci(s, "56"));
    assert_true(azoi_equal(azoi_trim(s), "12345"));
    assert_int_equal(azoi_find(s, 'x'), 5);
    assert_true(azoi_parse_u64(s, &number) && number == 12345);
    assert_true(azoi_parse_double(s, &real) && real == 12345);
    s = test_guard_put(&g, azo_s("   "));
    assert_int_equal(azoi_trim(s).len, 0);
    s = test_guard_put(&g, azo_s(""));
    assert_int_equal(azoi_trim(s).len, 0);
    assert_false(azoi_parse_double(s, &real));
    assert_false(azoi_parse_u64(s, &number));
    test_guard_close(&g);
}

static void whole_numbers(void **state) {
    static const char *const bad[] = {"", "-1", "+1", " 1", "1 ", "1.0", "0x1", "18446744073709551616",
                                      "99999999999999999999", "1e3", "\xb2", ":", "1:", "/"};
    uint64_t v = 77;
    size_t i;
    (void)state;
    assert_true(azoi_parse_u64(azo_s("0"), &v) && v == 0);
    assert_true(azoi_parse_u64(azo_s("0007"), &v) && v == 7);
    assert_true(azoi_parse_u64(azo_s("18446744073709551615"), &v) && v == UINT64_MAX);
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (azoi_parse_u64(azo_s(bad[i]), &v)) {
            fail_msg("taken for a number: '%s'", bad[i]);
        }
    }
    assert_false(azoi_parse_u64(azoi_view("1\0", 2), &v));
}

static void reads_doubles(void **state) {
    static const struct {
        const char *text;
        double value;
    } cases[] = {
        {"0", 0},
        {"1", 1},
        {"-1", -1},
        {"0.1", 0.1},
        {"1e22", 1e22},
        {"1e23", 1e23},
        {"-12.5E-1", -1.25},
        {"1E+2", 100},
        {"123456789012345", 123456789012345.0},
        {"9007199254740993", 9007199254740992.0}, /* halfway, to even */
        {"9007199254740993.0000000000000000000000000000000000000000000000000000000000000001", 9007199254740994.0},
        {"0.30000000000000004", 0.30000000000000004},
        {"1.7976931348623157e308", DBL_MAX},
        {"2.2250738585072014e-308", DBL_MIN},
        {"2.2250738585072011e-308", 2.2250738585072011e-308}, /* where PHP and Java once hung */
        {"5e-324", 4.9406564584124654e-324},
        {"2e-324", 0},
        {"1e-400", 0},
        {"0e999999999999999999999", 0},
        {"0.0000000000000000000000000000000000000000000000000000000000000000000000000000001e79", 1},
        {"100000000000000000000000000000000000000000000000000000000000000000000e-68", 1},
        {"0.001e+00000000000000000000000000003", 1},
        {"1e-00000", 1},
        {"6.631236846766476e-316", 6.631236846766476e-316},
        {"0.500000000000000166533453693773481063544750213623046875", 0.5000000000000002},
    };
    size_t i;
    double v;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        v = 77;
        if (!azoi_parse_double(azo_s(cases[i].text), &v) || memcmp(&v, &cases[i].value, sizeof v) != 0) {
            fail_msg("%s was read as %.17g", cases[i].text, v);
        }
    }
    assert_true(azoi_parse_double(azo_s("-0"), &v));
    assert_true(v == 0 && signbit(v));
    assert_true(azoi_parse_double(azo_s("-0.0e5"), &v));
    assert_true(v == 0 && signbit(v));
}

static void refuses_what_is_no_double(void **state) {
    static const char *const bad[] = {
        "",    "-",    "+1",  ".5",   "5.",    "01",   "-01",      "1e",         "1e+",   "1e-",      "0x10",  "1,5",
        "1 ",  " 1",   "nan", "inf",  "NaN",   "-inf", "Infinity", "1.2.3",      "1e5.5", "--1",      "1e400", "-1e400",
        "1_0", "1e9e", "e5",  "-e5",  "1.e5",  "1f",   "2e308",    "1.8e308",    "\xd9\xa1", "1.7976931348623159e308"};
    static const char *const good[] = {"0", "-0", "12", "1.5", "1e5", "1e-5", "1e+55", "-1.25E1"};
    test_guard g;
    double v;
    size_t i;
    (void)state;
    test_guard_open(&g, 100);
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (azoi_parse_double(test_guard_put(&g, azo_s(bad[i])), &v)) {
            fail_msg("taken for a number: '%s' as %g", bad[i], v);
        }
    }
    for (i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(azoi_parse_double(test_guard_put(&g, azo_s(good[i])), &v));
    }
    test_guard_close(&g);
}

/* More digits than are kept: the last one, far behind, still decides between two doubles. */
static void every_digit_counts(void **state) {
    azo_allocator none;
    azoi_buf b;
    double v;
    int i;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 100000, false);
    azoi_buf_puts(&b, "9007199254740993.");
    for (i = 0; i < 5000; i++) {
        azoi_buf_char(&b, '0');
    }
    assert_true(azoi_parse_double(azoi_buf_view(&b), &v));
    assert_true(v == 9007199254740992.0);
    azoi_buf_char(&b, '1');
    assert_true(azoi_parse_double(azoi_buf_view(&b), &v));
    assert_true(v == 9007199254740994.0);
    azoi_buf_clear(&b);
    azoi_buf_char(&b, '1');
    for (i = 0; i < 3000; i++) {
        azoi_buf_char(&b, '0');
    }
    azoi_buf_puts(&b, "e-3000");
    assert_true(azoi_parse_double(azoi_buf_view(&b), &v));
    assert_true(v == 1);
    azoi_buf_free(&b);
}

static void prints_doubles(void **state) {
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {0, "0"},
        {-0.0, "-0"},
        {1, "1"},
        {-7, "-7"},
        {0.2, "0.2"},
        {0.7, "0.7"},
        {0.30000000000000004, "0.30000000000000004"},
        {1.0 / 3, "0.3333333333333333"},
        {100, "100"},
        {100000, "100000"},
        {123456789012345.0, "123456789012345"},
        {1e15, "1e+15"},
        {-2.5, "-2.5"},
        {1e22, "1e+22"},
        {1e-7, "1e-07"},
        {1.5e300, "1.5e+300"},
        {DBL_MAX, "1.7976931348623157e+308"},
        {4.9406564584124654e-324, "4.94065645841247e-324"},
        {9007199254740993.0, "9007199254740992"},
    };
    azo_allocator none;
    azoi_buf b;
    size_t i;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 100, false);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        azoi_buf_clear(&b);
        azoi_print_double(&b, cases[i].value);
        assert_string_equal(b.data, cases[i].text);
    }
    azoi_buf_free(&b);
}

static void round_trip(uint64_t bits, azoi_buf *b) {
    double value;
    double back;
    memcpy(&value, &bits, sizeof value);
    if (!isfinite(value)) {
        return;
    }
    azoi_buf_clear(b);
    azoi_print_double(b, value);
    if (!azoi_parse_double(azoi_buf_view(b), &back) || memcmp(&value, &back, sizeof value) != 0) {
        fail_msg("%.17g was printed as %s and read as %.17g", value, b->data, back);
    }
    assert_int_equal(strspn(b->data, "0123456789.e+-"), b->len);
}

static void round_trips(void) {
    azo_allocator none;
    azoi_buf b;
    uint64_t bits = 88172645463325252u;
    int i;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 100, false);
    for (i = 0; i < 2000; i++) {
        bits ^= bits << 13; /* xorshift */
        bits ^= bits >> 7;
        bits ^= bits << 17;
        round_trip(bits, &b);
        round_trip(bits & 0x800fffffffffffffu, &b);                                     /* subnormal */
        round_trip((bits & 0x800fffffffffffffu) | (uint64_t)(1023 + i % 60) << 52, &b); /* everyday sizes */
    }
    azoi_buf_free(&b);
}

static void doubles_survive_printing(void **state) {
    (void)state;
    round_trips();
}

/* strtod agrees wherever the C locale is in force: the exactness test for the fast path and the digit handling. */
static void doubles_agree_with_strtod(void **state) {
    uint64_t bits = 12345678901u;
    char text[64];
    double v;
    int i;
    (void)state;
    for (i = 0; i < 20000; i++) {
        double expected;
        int digits = 1 + i % 19;
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        snprintf(text, sizeof text, "%.*se%d", digits, "1234567890987654321", (int)(bits % 80) - 40);
        text[digits / 2] = (char)('1' + (int)((bits >> 32) % 9));
        expected = strtod(text, NULL);
        assert_true(azoi_parse_double(azo_s(text), &v));
        assert_memory_equal(&v, &expected, sizeof v);
    }
}

/* False where the locale is not there, or has a plain point. */
static bool numbers_survive(const char *locale) {
    char point[16];
    double v;
    if (setlocale(LC_NUMERIC, locale) == NULL) {
        return false;
    }
    snprintf(point, sizeof point, "%.1f", 0.5);
    if (strcmp(point, "0.5") == 0) {
        return false;
    }
    round_trips();
    assert_true(azoi_parse_double(azo_s("1.25"), &v));
    assert_true(v == 1.25);
    assert_true(azoi_parse_double(azo_s("1234567890123456789.25"), &v));
    assert_true(v == (double)1234567890123456789.25);
    assert_false(azoi_parse_double(azo_s("1,25"), &v));
    return true;
}

/* A locale that says nothing but how the decimal point is written, in LOCPATH. Without localedef there is none. */
static void make_locale(const char *dir, const char *name, const char *point) {
    char path[512];
    char command[1200];
    FILE *file;
    snprintf(path, sizeof path, "%s/%s.txt", dir, name);
    file = fopen(path, "w");
    if (file == NULL) {
        return;
    }
    fprintf(file, "LC_NUMERIC\ndecimal_point \"%s\"\nthousands_sep \"\"\ngrouping -1\nEND LC_NUMERIC\n", point);
    fclose(file);
    snprintf(command, sizeof command, "localedef -c -f UTF-8 -i '%s' '%s/%s' >'%s/%s.log' 2>&1", path, dir, name, dir,
             name);
    (void)!system(command); /* it warns of all that is missing */
}

static void numbers_ignore_the_locale(void **state) {
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_CH.UTF-8", "de_DE", "fr_FR",
                                        "pl_PL.UTF-8", "ru_RU.UTF-8", "ps_AF.UTF-8"};
    static const struct {
        const char *name;
        const char *point;
    } made[] = {{"comma", "<U002C>"}, {"arabic", "<U066B>"}}; /* the second has two bytes */
    const char *build = getenv("AZO_TEST_BUILD");
    char dir[300];
    size_t i;
    size_t tried = 0;
    (void)state;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        tried += numbers_survive(names[i]);
    }
    snprintf(dir, sizeof dir, "%s/locale", build != NULL && build[0] != '\0' ? build : "build");
    (void)mkdir(dir, 0777);
    setenv("LOCPATH", dir, 1);
    for (i = 0; i < sizeof made / sizeof *made; i++) {
        make_locale(dir, made[i].name, made[i].point);
        tried += numbers_survive(made[i].name);
    }
    unsetenv("LOCPATH");
    setlocale(LC_NUMERIC, "C");
    if (tried == 0) {
        printf("# skip: no locale with a decimal comma is installed, nor can one be made\n");
        skip();
    }
}

static void utf8_sequences(void **state) {
    static const struct {
        const char *bytes;
        size_t len;
        size_t size;
    } cases[] = {
        {"a", 1, 1},
        {"\0", 1, 1},
        {"\x7f", 1, 1},
        {"\x80", 1, 0},
        {"\xbf", 1, 0},
        {"\xc0\x80", 2, 0}, /* overlong */
        {"\xc1\xbf", 2, 0},
        {"\xc2\x80", 2, 2},
        {"\xc2", 1, 0},
        {"\xc2 ", 2, 0},
        {"\xdf\xbf", 2, 2},
        {"\xe0\x80\x80", 3, 0},
        {"\xe0\x9f\xbf", 3, 0},
        {"\xe0\xa0\x80", 3, 3},
        {"\xe2\x82\xac", 3, 3},
        {"\xe2\x82", 2, 0},
        {"\xe2\x82 ", 3, 0},
        {"\xe2\x82\xc0", 3, 0},
        {"\xe2\xc0\x80", 3, 0},
        {"\xc2\xc0", 2, 0},
        {"\xf0\x9f\x98\xc0", 4, 0},
        {"\xe1\x7f\xbf", 3, 0},
        {"\xf8\x88\x80\x80\x80", 5, 0},
        {"\xed\x9f\xbf", 3, 3},
        {"\xed\xa0\x80", 3, 0}, /* surrogates */
        {"\xed\xbf\xbf", 3, 0},
        {"\xee\x80\x80", 3, 3},
        {"\xef\xbf\xbf", 3, 3},
        {"\xf0\x80\x80\x80", 4, 0},
        {"\xf0\x8f\xbf\xbf", 4, 0},
        {"\xf0\x90\x80\x80", 4, 4},
        {"\xf0\x9f\x98\x80", 4, 4},
        {"\xf0\x9f\x98", 3, 0},
        {"\xf4\x8f\xbf\xbf", 4, 4},
        {"\xf4\x90\x80\x80", 4, 0}, /* above U+10FFFF */
        {"\xf5\x80\x80\x80", 4, 0},
        {"\xff", 1, 0},
        {"", 0, 0},
    };
    test_guard g;
    size_t i;
    (void)state;
    test_guard_open(&g, 16);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        azo_str s = test_guard_put(&g, azoi_view(cases[i].bytes, cases[i].len));
        if (azoi_utf8(s.ptr, s.len) != cases[i].size) {
            fail_msg("case %d", (int)i);
        }
    }
    test_guard_close(&g);
}

/* The number that a valid sequence stands for. */
static uint32_t code_of(const char *bytes, size_t size) {
    static const unsigned char marks[] = {0, 0, 0xc0, 0xe0, 0xf0};
    uint32_t code = (unsigned char)bytes[0] - (uint32_t)marks[size];
    size_t i;
    for (i = 1; i < size; i++) {
        code = code * 64 + ((unsigned char)bytes[i] - 0x80u);
    }
    return code;
}

static void utf8_of_every_code(void **state) {
    uint32_t code;
    char out[4];
    (void)state;
    for (code = 0; code <= 0x110000; code++) {
        size_t size = azoi_utf8_put(out, code);
        if ((code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) {
            assert_true(size == 3 && memcmp(out, "\xef\xbf\xbd", 3) == 0);
        } else if (size != azoi_utf8(out, size) ||
                   size != (code < 0x80 ? 1u : code < 0x800 ? 2u : code < 0x10000 ? 3u : 4u) ||
                   code_of(out, size) != code) {
            fail_msg("U+%04x", (unsigned)code);
        }
    }
    assert_int_equal(azoi_utf8_put(out, 0x1f600), 4);
    assert_memory_equal(out, "\xf0\x9f\x98\x80", 4);
    assert_int_equal(azoi_utf8_put(out, UINT32_MAX), 3);
}

static void percent_encoding(void **state) {
    static const char keep[] = "!$&'()*+,;=:@";
    static const struct {
        const char *name;
        const char *segment;
    } cases[] = {{"gpt-4o.prod_2024", "gpt-4o.prod_2024"},
                 {"x/y", "x%2Fy"},
                 {"x?evil=1", "x%3Fevil=1"},
                 {"x#fragment", "x%23fragment"},
                 {"%2e%2e", "%252e%252e"},
                 {"../../admin", "..%2F..%2Fadmin"},
                 {"\xc3\xbcmlaut name", "%C3%BCmlaut%20name"},
                 {"~!$&'()*+,;=:@", "~!$&'()*+,;=:@"},
                 {"\"<>[]\\^`{|}\x7f", "%22%3C%3E%5B%5D%5C%5E%60%7B%7C%7D%7F"},
                 {"", ""}};
    azo_allocator none;
    azoi_buf b;
    size_t i;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 1000, false);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(azoi_buf_set(&b, azo_s("")));
        azoi_percent(&b, azo_s(cases[i].name), keep);
        assert_string_equal(b.data, cases[i].segment);
    }
    azoi_buf_clear(&b);
    azoi_percent(&b, azoi_view("a\0+\xff", 4), "");
    assert_string_equal(b.data, "a%00%2B%FF");
    azoi_buf_free(&b);
}

static void base64_both_ways(void **state) {
    static const char *const pairs[][2] = {{"", ""},           {"f", "Zg=="},         {"fo", "Zm8="},
                                           {"foo", "Zm9v"},    {"foob", "Zm9vYg=="},  {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"}, {"\xff\xfe\xfb", "//77"}, {"\xfb\xf0", "+/A="}};
    azo_allocator none;
    azoi_buf b;
    unsigned char out[16];
    size_t len;
    size_t i;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 1000, false);
    for (i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        azo_str text = azo_s(pairs[i][1]);
        assert_true(azoi_buf_set(&b, azo_s("")));
        azoi_base64(&b, azo_s(pairs[i][0]));
        assert_string_equal(b.data, pairs[i][1]);
        assert_true(azoi_base64_decode(text, out, strlen(pairs[i][0]), &len));
        assert_int_equal(len, strlen(pairs[i][0]));
        assert_memory_equal(out, pairs[i][0], len);
        while (text.len > 0 && text.ptr[text.len - 1] == '=') { /* without the padding */
            text.len--;
        }
        assert_true(azoi_base64_decode(text, out, sizeof out, &len));
        assert_int_equal(len, strlen(pairs[i][0]));
    }
    azoi_buf_free(&b);
}

static void base64_knows_every_digit(void **state) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    azo_allocator none;
    azoi_buf b;
    unsigned char out[48];
    size_t len;
    size_t i;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 100, false);
    assert_true(azoi_base64_decode(azo_s(digits), out, sizeof out, &len));
    assert_int_equal(len, 48);
    for (i = 0; i < 64; i++) {
        size_t at = i * 6; /* in bits */
        unsigned word = (unsigned)out[at / 8] << 8 | (at / 8 + 1 < 48 ? out[at / 8 + 1] : 0u);
        assert_int_equal(word >> (10 - at % 8) & 63, i);
    }
    azoi_base64(&b, azoi_view((const char *)out, 48));
    assert_string_equal(b.data, digits);
    azoi_buf_free(&b);
}

static void base64_is_checked(void **state) {
    static const char *const bad[] = {"A", "AAAAA", "A=", "A===", "AA=A", "AA==AA==", "AA-_", "AA%3D", "A*AA",
                                      "AAAA=AAAAAAAA", "\xc3\xbc\xc3\xbc"};
    unsigned char out[16];
    size_t len;
    size_t i;
    (void)state;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (azoi_base64_decode(azo_s(bad[i]), out, sizeof out, &len)) {
            fail_msg("taken for base64: %s", bad[i]);
        }
    }
    assert_true(azoi_base64_decode(azo_s(" Z\r\nm9 v\tYg = =\n"), out, sizeof out, &len));
    assert_int_equal(len, 4);
    assert_memory_equal(out, "foob", 4);
    assert_false(azoi_base64_decode(azo_s("Zm9v"), out, 2, &len)); /* too long */
    assert_false(azoi_base64_decode(azo_s("Zm9vZm9vZm9vZm9v"), out, 8, &len));
    assert_false(azoi_base64_decode(azoi_view("AA\0A", 4), out, sizeof out, &len));
    assert_true(azoi_base64_decode(azo_s("AACAPgAAAL8AAIA/"), out, 12, &len)); /* 0.25, -0.5, 1.0 */
    assert_int_equal(len, 12);
    assert_memory_equal(out, "\0\0\x80\x3e\0\0\0\xbf\0\0\x80\x3f", 12);
}

static void environment_values(void **state) {
    (void)state;
    unsetenv("AZO_UNIT_TEXT");
    assert_null(azoi_env("AZO_UNIT_TEXT").ptr);
    setenv("AZO_UNIT_TEXT", "", 1);
    assert_null(azoi_env("AZO_UNIT_TEXT").ptr);
    setenv("AZO_UNIT_TEXT", " \t\r\n", 1);
    assert_null(azoi_env("AZO_UNIT_TEXT").ptr);
    setenv("AZO_UNIT_TEXT", "  a value\r\n", 1);
    assert_true(azoi_equal(azoi_env("AZO_UNIT_TEXT"), "a value"));
    setenv("AZO_UNIT_TEXT", "x", 1);
    assert_true(azoi_equal(azoi_env("AZO_UNIT_TEXT"), "x"));
    unsetenv("AZO_UNIT_TEXT");
}

/* ---- error ---- */

static void errors_start_clear(void **state) {
    azo_error e;
    size_t i;
    (void)state;
    memset(&e, 0xa5, sizeof e);
    azoi_error_clear(&e);
    assert_int_equal(e.retry_after_ms, -1);
    e.retry_after_ms = 0;
    for (i = 0; i < sizeof e; i++) {
        assert_int_equal(((const char *)&e)[i], 0);
    }
}

static void the_first_error_stays(void **state) {
    azo_error e;
    (void)state;
    azoi_error_clear(&e);
    assert_int_equal(azoi_fail(&e, AZO_ERR_TIMEOUT, "First %d. Then.", 1), AZO_ERR_TIMEOUT);
    assert_int_equal(azoi_fail(&e, AZO_ERR_JSON, "Second."), AZO_ERR_JSON); /* its own code all the same */
    assert_int_equal(e.code, AZO_ERR_TIMEOUT);
    assert_int_equal(e.who, AZO_WHO_MACHINE);
    assert_string_equal(e.message, "First 1. Then.");
    assert_int_equal(azoi_fail(NULL, AZO_ERR_JSON, "Nowhere."), AZO_ERR_JSON);
    assert_int_equal(azoi_memory(NULL), AZO_ERR_MEMORY);
    azoi_error_clear(&e);
    assert_int_equal(azoi_memory(&e), AZO_ERR_MEMORY);
    test_sentences(e.message);
}

static void messages_are_one_clean_line(void **state) {
    azo_error e;
    char longer[1200];
    size_t i;
    (void)state;
    azoi_error_clear(&e);
    azoi_fail(&e, AZO_ERR_HTTP, "It said \"%s\". Look.", "a\r\nb\tc\x1b[31m\xff\xc2\x9b" "d\x7f \xc3\xbc");
    assert_string_equal(e.message, "It said \"a  b c?[31m??d? \xc3\xbc\". Look.");
    for (i = 0; i < sizeof longer - 3; i += 3) {
        memcpy(longer + i, "\xe2\x82\xac", 3);
    }
    longer[i] = '\0';
    azoi_error_clear(&e);
    azoi_fail(&e, AZO_ERR_HTTP, "%s", longer); /* 511 bytes hold 170 characters of three bytes */
    assert_int_equal(strlen(e.message), 510);
    assert_memory_equal(e.message, longer, 510);
    azoi_error_clear(&e);
    azoi_fail(&e, AZO_ERR_HTTP, "x%s", longer);
    assert_int_equal(strlen(e.message), 511);
    azoi_error_clear(&e);
    azoi_fail(&e, AZO_ERR_HTTP, "xx%s", longer);
    assert_int_equal(strlen(e.message), 509);
    azoi_error_clear(&e);
    azoi_fail(&e, AZO_ERR_HTTP, "%.510sxx", longer); /* one byte too many */
    assert_int_equal(strlen(e.message), 511);
    assert_string_equal(e.message + 509, "\xac" "x");
    azoi_error_clear(&e);
    azoi_fail(&e, AZO_ERR_HTTP, "%.507s\xc3\xbc\xc3\xbc\xc3\xbc", longer);
    assert_int_equal(strlen(e.message), 511);
    azoi_error_clear(&e);
    azoi_fail(&e, AZO_ERR_HTTP, "%s", "");
    assert_string_equal(e.message, "");
}

static void foreign_text_is_cleaned(void **state) {
    char out[8];
    test_guard g;
    azo_str s;
    (void)state;
    test_guard_open(&g, 64);
    s = test_guard_put(&g, azoi_view("a\0\n\xc3", 4));
    azoi_clean(out, sizeof out, s);
    assert_string_equal(out, "a? ?");
    s = test_guard_put(&g, azo_s("abcdef\xc3\xbc"));
    azoi_clean(out, sizeof out, s);
    assert_string_equal(out, "abcdef"); /* not half a character */
    s = test_guard_put(&g, azo_s("abcde\xc3\xbcgh"));
    azoi_clean(out, sizeof out, s);
    assert_string_equal(out, "abcde\xc3\xbc");
    azoi_clean(out, 1, s);
    assert_string_equal(out, "");
    s = test_guard_put(&g, azo_s("\xc2\x80\xc2\x9f\xc2\xa0\xc3\x80")); /* C1 ends before the hard space */
    azoi_clean(out, sizeof out, s);
    assert_string_equal(out, "??\xc2\xa0\xc3\x80");
    azoi_clean(out, 3, s);
    assert_string_equal(out, "??");
    azoi_clean(out, 4, s);
    assert_string_equal(out, "??");
    s = test_guard_put(&g, azo_s("a \x1f!~\x7f"));
    azoi_clean(out, sizeof out, s);
    assert_string_equal(out, "a ?!~?");
    strncpy(out, "keep", sizeof out);
    azoi_clean(out, 0, s);
    assert_string_equal(out, "keep");
    azoi_clean(out, sizeof out, azoi_view(NULL, 0));
    assert_string_equal(out, "");
    memcpy(out, "\x01\xc2\x85z\n", 6); /* in place */
    azoi_clean(out, sizeof out, azo_s(out));
    assert_string_equal(out, "??z ");
    test_guard_close(&g);
}

static void everybody_is_named(void **state) {
    static const azo_result codes[] = {
#define CODE(name, value) name,
        AZO_RESULTS(CODE)
#undef CODE
    };
    int count[AZO_WHO_REPORT + 1];
    size_t i;
    (void)state;
    memset(count, 0, sizeof count);
    for (i = 0; i < sizeof codes / sizeof *codes; i++) {
        azo_who who = azoi_who(codes[i]);
        bool nobody = codes[i] == AZO_OK || codes[i] == AZO_PENDING || codes[i] == AZO_ERR_CANCELLED;
        assert_int_equal(who == AZO_WHO_NOBODY, nobody);
        count[who]++;
    }
    for (i = 0; i <= AZO_WHO_REPORT; i++) {
        assert_true(count[i] > 0);
    }
    assert_int_equal(azoi_who(AZO_ERR_RATE_LIMIT), AZO_WHO_WAIT);
    assert_int_equal(azoi_who(AZO_ERR_CONTENT_FILTER), AZO_WHO_PROMPT);
    assert_int_equal(azoi_who(AZO_ERR_NOT_FOUND), AZO_WHO_RESOURCE);
    assert_int_equal(azoi_who(AZO_ERR_TOKEN), AZO_WHO_IDENTITY);
    assert_int_equal(azoi_who(AZO_ERR_JSON), AZO_WHO_REPORT);
    assert_int_equal(azoi_who(AZO_ERR_ARGUMENT), AZO_WHO_PROGRAM);
    assert_int_equal(azoi_who(AZO_ERR_TLS_VERIFY), AZO_WHO_MACHINE);
}

/* ---- time ---- */

static void clocks_run(void **state) {
    struct timespec before;
    int64_t first;
    int64_t unix_now = azoi_default_unix(NULL);
    (void)state;
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &before), 0);
    first = azoi_default_monotonic(NULL) - ((int64_t)before.tv_sec * 1000 + before.tv_nsec / 1000000);
    assert_true(first >= 0 && first < 5000);
    assert_true(unix_now >= (int64_t)time(NULL) - 5 && unix_now <= (int64_t)time(NULL));
}

static void deadlines(void **state) {
    (void)state;
    assert_int_equal(azoi_deadline(1000, 50), 1050);
    assert_int_equal(azoi_deadline(1000, 0), 1000);
    assert_true(azoi_deadline(1000, AZO_OFF) == INT64_MAX);
    assert_true(azoi_deadline(INT64_MAX - 5, 10) == INT64_MAX);
    assert_true(azoi_deadline(-5, INT32_MAX) == (int64_t)INT32_MAX - 5);
    assert_int_equal(azoi_left(1000, 1050), 50);
    assert_int_equal(azoi_left(1000, 1000), 0);
    assert_int_equal(azoi_left(1000, 7), 0);
    assert_int_equal(azoi_left(1000, INT64_MAX), -1);
    assert_int_equal(azoi_left(0, INT64_MAX - 1), INT32_MAX);
    assert_int_equal(azoi_left(INT64_MIN, INT64_MAX - 1), INT32_MAX);
    assert_int_equal(azoi_left(INT64_MIN, INT64_MIN + 3), 3);
    assert_int_equal(azoi_left(1000000000000, 1000000000005), 5);
    assert_int_equal(azoi_left(-7, 0), 7);
    assert_int_equal(azoi_left(0, INT32_MAX), INT32_MAX);
    assert_int_equal(azoi_left(0, INT32_MAX - 1), INT32_MAX - 1);
    assert_int_equal(azoi_left(0, (int64_t)INT32_MAX + 1), INT32_MAX);
}

static void http_dates(void **state) {
    static const struct {
        const char *text;
        int64_t seconds;
    } cases[] = {
        {"Sun, 06 Nov 1994 08:49:37 GMT", 784111777},
        {"Sunday, 06-Nov-94 08:49:37 GMT", 784111777},
        {"Sun Nov  6 08:49:37 1994", 784111777},
        {"  Sun, 06 Nov 1994 08:49:37 GMT\t", 784111777},
        {"Thu, 01 Jan 1970 00:00:00 GMT", 0},
        {"Thu Jan  1 00:00:00 1970", 0},
        {"Thu, 29 Feb 2024 23:59:59 GMT", 1709251199},
        {"Tue, 29 Feb 2000 00:00:00 GMT", 951782400},
        {"Sun, 31 Dec 2028 23:59:60 GMT", 1861920000}, /* a leap second */
        {"Tue Nov 24 21:24:05 2026", 1795555445},
        {"Tuesday, 24-Nov-26 21:24:05 GMT", 1795555445},
        {"Wednesday, 31-Dec-69 00:00:00 GMT", 3155673600}, /* 2069 */
        {"Thursday, 01-Jan-70 00:00:00 GMT", 0},
        {"Saturday, 01-Jan-00 00:00:00 GMT", 946684800},
        {"Fri, 31 Dec 9999 23:59:59 GMT", 253402300799},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t got = azoi_http_date(azo_s(cases[i].text));
        if (got != cases[i].seconds) {
            fail_msg("%s was read as %ld", cases[i].text, (long)got);
        }
    }
}

static void every_day_counts(void **state) {
    static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int64_t expected = 0;
    char text[64];
    int year;
    int month;
    int day;
    (void)state;
    for (year = 1970; year < 2110; year++) {
        bool leap = year % 4 == 0 && year != 2100;
        for (month = 0; month < 12; month++) {
            int last = days[month] + (leap && month == 1 ? 1 : 0);
            for (day = 1; day <= last; day++) {
                snprintf(text, sizeof text, "Mon, %02d %s %d 00:00:00 GMT", day, months[month], year);
                assert_int_equal(azoi_http_date(azo_s(text)), expected);
                expected += 86400;
            }
        }
    }
}

static void what_is_no_date(void **state) {
    static const char *const bad[] = {"",
                                      "0",
                                      "12",
                                      "Sun",
                                      "Sun, 06 Nov 94 08:49:37 GMT",
                                      "Sunday, 06-Nov-1994 08:49:37 GMT",
                                      "Sun, 00 Nov 1994 08:49:37 GMT",
                                      "Sun, 32 Nov 1994 08:49:37 GMT",
                                      "Sun, -6 Nov 1994 08:49:37 GMT",
                                      "Sun, 29 Feb 1900 08:49:37 GMT",
                                      "Sun, 06 Nov 1969 08:49:37 GMT",
                                      "Sun, 06 Nov 0000 08:49:37 GMT",
                                      "Sun, 06 Nov -994 08:49:37 GMT",
                                      "Sunday, 06-Nov--4 08:49:37 GMT",
                                      "Sun, 06 Xyz 1994 08:49:37 GMT",
                                      "Sun, 06 No 1994 08:49:37 GMT",
                                      "Sun, 06 N 1994 08:49:37 GMT",
                                      "Sun, 06 anF 1994 08:49:37 GMT",
                                      "Sun, 06 Nov 1994 24:49:37 GMT",
                                      "Sun, 06 Nov 1994 08:60:37 GMT",
                                      "Sun, 06 Nov 1994 08:49:61 GMT",
                                      "Sun, 06 Nov 1994 08-49-37 GMT",
                                      "Sun Xyz  6 08:49:37 1994",
                                      "Sun Nov, 6 08:49:37 1994",
                                      "Sun Nov  6 08:49:37 199x",
                                      "Sun Nov  6 08:49-37 1994",
                                      "Sun Nov 06 08:49:37 94",
                                      "Sun, 06 Nov 1994 08:49:37 GMT, or soon after",
                                      "1994-11-06T08:49:37Z"};
    test_guard g;
    size_t i;
    (void)state;
    test_guard_open(&g, 64);
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (azoi_http_date(azo_s(bad[i])) != -1) {
            fail_msg("taken for a date: %s", bad[i]);
        }
    }
    for (i = 0; i < 24; i++) { /* every shorter one: GMT goes without saying */
        azo_str cut = azoi_view("Sun, 06 Nov 1994 08:49:37 GMT", i);
        assert_int_equal(azoi_http_date(test_guard_put(&g, cut)), -1);
    }
    for (i = 0; i < 24; i++) {
        assert_int_equal(azoi_http_date(test_guard_put(&g, azoi_view("Sun Nov  6 08:49:37 1994", i))), -1);
    }
    test_guard_close(&g);
}

static void waits_that_are_asked_for(void **state) {
    static const struct {
        const char *headers;
        int status;
        int32_t ms;
    } cases[] = {
        {"", 429, -1},
        {"Other: 1\r\n", 429, -1},
        {"Retry-After: 12\r\n", 429, 12000},
        {"Retry-After: 12\r\n", 503, 12000},
        {"RETRY-AFTER:12\n", 503, 12000},
        {"retry-after: 1.5\r\n", 429, 1500},
        {"retry-after: 0.0001\r\n", 429, 1}, /* rounded up */
        {"retry-after: 1.00000000000000000000\r\n", 429, 1000},
        {"retry-after-ms: 250\r\nretry-after: 12\r\n", 429, 250},
        {"retry-after: 12\r\nretry-after-ms: 250\r\n", 429, 250},
        {"retry-after-ms: 250.2\r\n", 429, 251},
        {"x-ms-retry-after-ms: 300\r\nretry-after: 12\r\n", 429, 300},
        {"x-ms-retry-after-ms: 300\r\nretry-after-ms: 200\r\n", 429, 200},
        {"retry-after-ms: 0\r\nretry-after: 3\r\n", 429, 3000},
        {"retry-after-ms: soon\r\nx-ms-retry-after-ms: -1\r\nretry-after: 3\r\n", 429, 3000},
        {"retry-after: 0\r\n", 429, -1},
        {"retry-after: 0.0\r\n", 429, -1},
        {"retry-after: -5\r\n", 429, -1},
        {"retry-after: NaN\r\n", 429, -1},
        {"retry-after: inf\r\n", 429, -1},
        {"retry-after: 0x10\r\n", 429, -1},
        {"retry-after: 1 2\r\n", 429, -1},
        {"retry-after: 1.2.3\r\n", 429, -1},
        {"retry-after: .\r\n", 429, -1},
        {"retry-after: \r\n", 429, -1},
        {"retry-after: 2147483\r\n", 429, 2147483000},
        {"retry-after: 2147484\r\n", 429, INT32_MAX},
        {"retry-after: 99999999999999999999999999999\r\n", 429, INT32_MAX},
        {"retry-after-ms: 2147483647\r\n", 429, INT32_MAX},
        {"retry-after-ms: 2147483648\r\n", 429, INT32_MAX},
        {"retry-after: Sun, 06 Nov 1994 08:49:57 GMT\r\n", 429, 20000},
        {"retry-after: Sunday, 06-Nov-94 08:49:57 GMT\r\n", 503, 20000},
        {"retry-after: Sun Nov  6 08:49:57 1994\r\n", 429, 20000},
        {"retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 429, -1}, /* now */
        {"retry-after: Sun, 06 Nov 1994 08:49:00 GMT\r\n", 429, -1}, /* over */
        {"retry-after: Fri, 31 Dec 9999 23:59:59 GMT\r\n", 429, INT32_MAX},
        {"x-ratelimit-reset-tokens: 10\r\n", 429, 10000},
        {"x-ratelimit-reset-tokens: 10\r\n", 503, -1},
        {"x-rate-limit-reset-tokens: 7\r\n", 429, 7000},
        {"x-rate-limit-reset-tokens: 7\r\n", 500, -1},
        {"x-rate-limit-reset-tokens: 7\r\nx-ratelimit-reset-tokens: 10\r\n", 429, 10000},
        {"x-ratelimit-reset-tokens: 6m0s\r\nx-rate-limit-reset-tokens: 7\r\n", 429, 7000},
        {"x-ratelimit-reset-tokens: 17ms\r\n", 429, -1},
        {"x-rate-limit-reset-tokens: 17ms\r\n", 429, -1},
        {"x-rate-limit-reset-tokens: 0\r\n", 429, -1},
        {"retry-after: 3\r\nx-ratelimit-reset-tokens: 10\r\n", 429, 3000},
    };
    test_guard g;
    size_t i;
    (void)state;
    test_guard_open(&g, 256);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        azo_str headers = test_guard_put(&g, azo_s(cases[i].headers));
        int32_t ms = azoi_retry_after(headers, cases[i].status, 784111777);
        if (ms != cases[i].ms) {
            fail_msg("%d, not %d: %s", (int)ms, (int)cases[i].ms, cases[i].headers);
        }
    }
    test_guard_close(&g);
    assert_int_equal(azoi_retry_after(azo_s("retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), 429, 781964294),
                     2147483000);
    assert_int_equal(azoi_retry_after(azo_s("retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), 429, 781964293),
                     INT32_MAX);
    /* without a clock a date says nothing */
    assert_int_equal(azoi_retry_after(azo_s("retry-after: Sun, 06 Nov 1994 08:49:57 GMT\r\n"), 429, 0), -1);
    assert_int_equal(azoi_retry_after(azo_s("retry-after: 4\r\n"), 429, 0), 4000);
}

static void backoff_doubles(void **state) {
    azoi_policy p;
    int attempt;
    (void)state;
    memset(&p, 0, sizeof p);
    p.first_wait = 500;
    p.max_wait = 8000;
    assert_int_equal(azoi_backoff(&p, 0, 0), 500);
    assert_int_equal(azoi_backoff(&p, 1, 0), 1000);
    assert_int_equal(azoi_backoff(&p, 4, 0), 8000);
    assert_int_equal(azoi_backoff(&p, 5, 0), 8000);
    assert_int_equal(azoi_backoff(&p, INT_MAX, 0), 8000);
    assert_int_equal(azoi_backoff(&p, -1, 0), 500);
    assert_int_equal(azoi_backoff(&p, 0, UINT32_MAX), 376); /* a quarter less, not quite */
    assert_int_equal(azoi_backoff(&p, 0, UINT32_MAX / 2), 438);
    p.max_wait = INT32_MAX;
    p.first_wait = INT32_MAX;
    for (attempt = 0; attempt < 3; attempt++) {
        assert_int_equal(azoi_backoff(&p, attempt, 0), INT32_MAX);
        assert_true(azoi_backoff(&p, attempt, UINT32_MAX) >= INT32_MAX / 4 * 3);
    }
    p.first_wait = 1000;
    p.max_wait = 300;
    assert_int_equal(azoi_backoff(&p, 0, 0), 300);
    p.first_wait = 0;
    assert_int_equal(azoi_backoff(&p, 3, 5), 0);
}

/* ---- pump ---- */

enum { MAX_WISHES = 6 };

/* A source, what it wishes, and what the loop's hooks were told. */
typedef struct pump_run {
    azoi_source source;
    azo_watch wishes[MAX_WISHES];
    size_t wish_count;
    azoi_pump pump;
    azo_loop loop;
    azo_clock clock;
    int64_t now;
    test_memory memory;
    test_notes notes;
    char slots[10];
    bool refuses;
} pump_run;

static int64_t pump_now(void *user_data) {
    return ((pump_run *)user_data)->now;
}

static int note_watch(intptr_t fd, unsigned events, uint32_t id, void **slot, void *user_data) {
    static const char *const names[] = {"off", "in", "out", "both"};
    pump_run *r = (pump_run *)user_data;
    assert_int_equal(id, r->source.id);
    assert_true(*slot == NULL || *slot == &r->slots[fd]);
    *slot = &r->slots[fd];
    test_note(&r->notes, "%d:%s ", (int)fd, names[events]);
    return r->refuses ? -1 : 0;
}

static void note_timer(int32_t timeout_ms, void *user_data) {
    test_note(&((pump_run *)user_data)->notes, "%d ms ", (int)timeout_ms);
}

static size_t describe_wishes(azoi_source *source, azo_watch *out, size_t cap, int32_t *timeout_ms) {
    const pump_run *r = (const pump_run *)(const void *)source;
    (void)timeout_ms;
    memcpy(out, r->wishes, (r->wish_count < cap ? r->wish_count : cap) * sizeof *out);
    return r->wish_count;
}

static void pump_open(pump_run *r) {
    memset(r, 0, sizeof *r);
    test_memory_open(&r->memory);
    r->loop.user_data = r;
    r->loop.watch = note_watch;
    r->loop.timer = note_timer;
    r->clock.user_data = r;
    r->clock.monotonic_ms = pump_now;
    r->source.describe = describe_wishes;
    azoi_pump_init(&r->pump, &r->memory.hook, &r->loop, &r->clock);
}

static void pump_close(pump_run *r) {
    azoi_pump_close(&r->pump);
    test_notes_free(&r->notes);
    test_memory_close(&r->memory);
}

static void pump_told(pump_run *r, const char *expected) {
    assert_string_equal(r->notes.text == NULL ? "" : r->notes.text, expected);
    test_notes_free(&r->notes);
}

/* "5i6o": descriptor 5 is waited for to read, 6 to write; "5-" is named without a wish. */
static bool pump_wishes(pump_run *r, const char *wishes) {
    for (r->wish_count = 0; *wishes != '\0'; wishes += 2) {
        azo_watch *wish = &r->wishes[r->wish_count];
        r->wish_count++;
        wish->fd = wishes[0] - '0';
        wish->events = wishes[1] == 'i' ? AZO_POLL_IN : wishes[1] == 'o' ? AZO_POLL_OUT : 0;
    }
    return azoi_source_sync(&r->pump, &r->source);
}

static void loops_hear_what_changes(void **state) {
    static const struct {
        const char *wishes;
        const char *told;
    } steps[] = {{"", ""},
                 {"5o", "5:out "},
                 {"5o", ""},
                 {"5o6o", "6:out "},
                 {"6o5o", ""},
                 {"6i", "5:off 6:in "},
                 {"6i7i", "7:in "},
                 {"6i7-", "7:off "},
                 {"6i7i8i9i", "7:in 8:in 9:in "},
                 {"5i6i7i8i9i", "9:off 5:in "}, /* no more than four: what is beyond is not asked for */
                 {"5i6i8i", "7:off "},
                 {"5i8i", "6:off "},
                 {"8o", "5:off 8:out "},
                 {"", "8:off "}};
    pump_run r;
    size_t i;
    (void)state;
    pump_open(&r);
    assert_true(pump_wishes(&r, "5o")); /* not attached: nothing is told */
    pump_told(&r, "");
    assert_true(azoi_source_attach(&r.pump, &r.source));
    for (i = 0; i < sizeof steps / sizeof *steps; i++) {
        assert_true(pump_wishes(&r, steps[i].wishes));
        pump_told(&r, steps[i].told);
    }
    assert_true(pump_wishes(&r, "5i6i"));
    test_notes_free(&r.notes);
    azoi_source_detach(&r.pump, &r.source);
    assert_int_equal(r.source.id, 0);
    azoi_source_detach(&r.pump, &r.source); /* harmless */
    pump_close(&r);
}

static void loops_may_refuse(void **state) {
    pump_run r;
    (void)state;
    pump_open(&r);
    assert_true(azoi_source_attach(&r.pump, &r.source));
    r.refuses = true;
    assert_false(pump_wishes(&r, "5i6i"));
    pump_told(&r, "5:in ");
    r.refuses = false;
    assert_true(pump_wishes(&r, "5i6i")); /* as if it had never been asked */
    pump_told(&r, "5:in 6:in ");
    azoi_source_detach(&r.pump, &r.source);
    pump_told(&r, "5:off 6:off ");
    r.loop.watch = NULL;
    assert_true(azoi_source_attach(&r.pump, &r.source));
    assert_true(pump_wishes(&r, "5i"));
    azoi_source_detach(&r.pump, &r.source);
    pump_told(&r, "");
    pump_close(&r);
}

static void loops_hear_of_time(void **state) {
    pump_run r;
    azoi_node node;
    azoi_timer timer;
    (void)state;
    pump_open(&r);
    assert_true(azoi_timer_attach(&r.pump, &timer, &node));
    azoi_pump_tell(&r.pump, false);
    azoi_pump_tell(&r.pump, true); /* nothing is due, and that is known */
    pump_told(&r, "");
    azoi_timer_set(&r.pump, &timer, 50);
    azoi_pump_tell(&r.pump, false);
    pump_told(&r, "50 ms ");
    r.now = 20;
    azoi_pump_tell(&r.pump, false);
    pump_told(&r, "");
    azoi_pump_tell(&r.pump, true); /* the hook's timer may have fired since */
    pump_told(&r, "30 ms ");
    azoi_timer_set(&r.pump, &timer, INT64_MAX);
    azoi_pump_tell(&r.pump, false);
    azoi_pump_tell(&r.pump, true);
    pump_told(&r, "-1 ms ");
    r.loop.timer = NULL;
    azoi_timer_set(&r.pump, &timer, 50);
    azoi_pump_tell(&r.pump, true);
    pump_told(&r, "");
    azoi_timer_detach(&r.pump, &timer);
    pump_close(&r);
}

/* An id that was ever given names nothing when its source is gone, although its place is used again. */
static void ids_go_stale(void **state) {
    enum { ROUNDS = 70000 }; /* more than there are generations */
    pump_run r;
    uint32_t before = 0;
    size_t i;
    (void)state;
    pump_open(&r);
    for (i = 0; i < ROUNDS; i++) {
        assert_true(azoi_source_attach(&r.pump, &r.source));
        assert_true(r.source.id != before && r.source.id >> 16 != 0);
        assert_ptr_equal(azoi_source_find(&r.pump, r.source.id), &r.source);
        assert_null(azoi_source_find(&r.pump, before));
        before = r.source.id;
        azoi_source_detach(&r.pump, &r.source);
    }
    assert_int_equal(r.pump.place_count, 1);
    pump_close(&r);
}

static void places_run_out(void **state) {
    pump_run r;
    azoi_source *sources = (azoi_source *)calloc(AZOI_MAX_PLACES + 1, sizeof *sources);
    azoi_source *last = sources + AZOI_MAX_PLACES;
    size_t i;
    (void)state;
    assert_non_null(sources);
    pump_open(&r);
    r.memory.fail_at = 1;
    assert_false(azoi_source_attach(&r.pump, &sources[0]));
    assert_int_equal(sources[0].id, 0);
    for (i = 0; i < AZOI_MAX_PLACES; i++) {
        assert_true(azoi_source_attach(&r.pump, &sources[i]));
    }
    assert_false(azoi_source_attach(&r.pump, last));
    assert_int_equal(last->id, 0);
    for (i = 0; i < AZOI_MAX_PLACES; i++) {
        assert_ptr_equal(azoi_source_find(&r.pump, sources[i].id), &sources[i]);
    }
    azoi_source_detach(&r.pump, &sources[1234]);
    assert_true(azoi_source_attach(&r.pump, last)); /* in the place that is free now */
    assert_ptr_equal(azoi_source_find(&r.pump, last->id), last);
    pump_close(&r);
    free(sources);
}

typedef struct slow_node {
    azoi_node node;
    pump_run *run;
    char name;
    bool stops;
} slow_node;

static void advance_slowly(azoi_node *node) {
    slow_node *n = (slow_node *)(void *)node;
    test_note(&n->run->notes, "%c", n->name);
    n->run->now += 6;
    n->run->pump.stop = n->stops;
}

/* A walk gives way after ten milliseconds, and ends at once when the client is closing; what is left goes first. */
static void walks_give_way(void **state) {
    pump_run r;
    slow_node nodes[4];
    size_t i;
    (void)state;
    pump_open(&r);
    for (i = 0; i < 4; i++) {
        memset(&nodes[i], 0, sizeof nodes[i]);
        nodes[i].node.advance = advance_slowly;
        nodes[i].run = &r;
        nodes[i].name = (char)('a' + (int)i);
    }
    for (i = 0; i < 3; i++) {
        azoi_pump_queue(&r.pump, &nodes[i].node);
    }
    azoi_pump_run(&r.pump);
    azoi_pump_queue(&r.pump, &nodes[3].node);
    pump_told(&r, "ab");
    nodes[2].stops = true;
    azoi_pump_run(&r.pump);
    pump_told(&r, "c");
    assert_int_equal(azoi_pump_due(&r.pump), 0);
    r.pump.stop = false;
    azoi_pump_run(&r.pump);
    pump_told(&r, "d");
    assert_true(azoi_pump_due(&r.pump) == INT64_MAX);
    pump_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wipe_clears_every_byte),
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(allocations_are_zeroed_and_sized),
        cmocka_unit_test(the_built_in_allocator_is_all_zero),
        cmocka_unit_test(buf_writes_text),
        cmocka_unit_test(buf_writes_integers),
        cmocka_unit_test(spares_serve_the_next_buffer),
        cmocka_unit_test(buf_stops_at_its_limit),
        cmocka_unit_test(buf_collects_what_fits),
        cmocka_unit_test(buf_doubles_within_a_size),
        cmocka_unit_test(buf_limit_zero_takes_only_nothing),
        cmocka_unit_test(buf_reserve_keeps_the_place),
        cmocka_unit_test(buf_grows_in_few_steps),
        cmocka_unit_test(buf_wipes_secrets),
        cmocka_unit_test(the_secret_check_works),
        cmocka_unit_test(buf_survives_every_failure),
        cmocka_unit_test(classes_of_characters),
        cmocka_unit_test(plain_runs),
        cmocka_unit_test(comparisons),
        cmocka_unit_test(cutting_views),
        cmocka_unit_test(views_are_not_read_past),
        cmocka_unit_test(whole_numbers),
        cmocka_unit_test(reads_doubles),
        cmocka_unit_test(refuses_what_is_no_double),
        cmocka_unit_test(every_digit_counts),
        cmocka_unit_test(prints_doubles),
        cmocka_unit_test(doubles_survive_printing),
        cmocka_unit_test(doubles_agree_with_strtod),
        cmocka_unit_test(numbers_ignore_the_locale),
        cmocka_unit_test(utf8_sequences),
        cmocka_unit_test(utf8_of_every_code),
        cmocka_unit_test(percent_encoding),
        cmocka_unit_test(base64_both_ways),
        cmocka_unit_test(base64_knows_every_digit),
        cmocka_unit_test(base64_is_checked),
        cmocka_unit_test(environment_values),
        cmocka_unit_test(errors_start_clear),
        cmocka_unit_test(the_first_error_stays),
        cmocka_unit_test(messages_are_one_clean_line),
        cmocka_unit_test(foreign_text_is_cleaned),
        cmocka_unit_test(everybody_is_named),
        cmocka_unit_test(clocks_run),
        cmocka_unit_test(deadlines),
        cmocka_unit_test(http_dates),
        cmocka_unit_test(every_day_counts),
        cmocka_unit_test(what_is_no_date),
        cmocka_unit_test(waits_that_are_asked_for),
        cmocka_unit_test(backoff_doubles),
        cmocka_unit_test(loops_hear_what_changes),
        cmocka_unit_test(loops_may_refuse),
        cmocka_unit_test(loops_hear_of_time),
        cmocka_unit_test(ids_go_stale),
        cmocka_unit_test(places_run_out),
        cmocka_unit_test(walks_give_way),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
