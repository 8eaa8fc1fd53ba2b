/* unit_http.c - URLs, hosts, header lines, response heads and bodies. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

/* ---- URLs ---- */

static void note_url(test_notes *n, const azoi_url *u) {
    test_note(n, "%s %u ", u->secure ? "https" : "http", (unsigned)u->port);
    if (u->userinfo.ptr != NULL) {
        test_note_text(n, u->userinfo);
        test_note(n, "@");
    }
    test_note_text(n, u->host);
    test_note(n, " ");
    test_note_text(n, u->path);
    test_note(n, " ");
    test_note_text(n, azoi_view(u->query.len > 0 ? u->query.ptr : "", u->query.len));
}

static void urls_are_split(void **state) {
    static const struct {
        const char *url;
        const char *parts;
    } cases[] = {
        {"https://contoso.openai.azure.com", "https 443 'contoso.openai.azure.com' '' ''"},
        {"https://contoso.openai.azure.com/", "https 443 'contoso.openai.azure.com' '/' ''"},
        {"https://contoso.openai.azure.com/openai", "https 443 'contoso.openai.azure.com' '/openai' ''"},
        {"https://contoso.openai.azure.com/openai/v1/", "https 443 'contoso.openai.azure.com' '/openai/v1/' ''"},
        {"https://c.openai.azure.com/openai/deployments/x/chat/completions?api-version=2024-10-21",
         "https 443 'c.openai.azure.com' '/openai/deployments/x/chat/completions' 'api-version=2024-10-21'"},
        {"HTTPS://Contoso.OpenAI.Azure.com", "https 443 'Contoso.OpenAI.Azure.com' '' ''"},
        {"HTTP://localhost", "http 80 'localhost' '' ''"},
        {"http://127.0.0.1:8080/x", "http 8080 '127.0.0.1' '/x' ''"},
        {"http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fa",
         "http 80 '169.254.169.254' '/metadata/identity/oauth2/token' "
         "'api-version=2018-02-01&resource=https%3A%2F%2Fa'"},
        {"https://a:1", "https 1 'a' '' ''"},
        {"https://a:65535", "https 65535 'a' '' ''"},
        {"https://a:00443/", "https 443 'a' '/' ''"},
        {"https://a.b./", "https 443 'a.b.' '/' ''"},
        {"https://a?x=1", "https 443 'a' '' 'x=1'"},
        {"https://a?", "https 443 'a' '' ''"},
        {"https://a/?x?y", "https 443 'a' '/' 'x?y'"},
        {"https://a//b/../c", "https 443 'a' '//b/../c' ''"},
        {"https://a/b@c:99/d", "https 443 'a' '/b@c:99/d' ''"},
        {"https://a/?u=http://b@c", "https 443 'a' '/' 'u=http://b@c'"},
        {"http://user:pass@proxy:3128", "http 3128 'user:pass'@'proxy' '' ''"},
        {"http://user@proxy", "http 80 'user'@'proxy' '' ''"},
        {"http://@proxy", "http 80 ''@'proxy' '' ''"},
        {"http://us%40er:p%3Aw@proxy:1", "http 1 'us%40er:p%3Aw'@'proxy' '' ''"},
        {"http://user:p@ss@proxy:1", "http 1 'user:p@ss'@'proxy' '' ''"},
        {"http://user:p:w@[::1]:8080", "http 8080 'user:p:w'@'::1' '' ''"},
        {"http://[::1]", "http 80 '::1' '' ''"},
        {"http://[fe80::1:2]:80/x", "http 80 'fe80::1:2' '/x' ''"},
        {"https://a/~x!$&'()*+,;=%20", "https 443 'a' '/~x!$&'()*+,;=%20' ''"},
        {"https://my_host-1.internal", "https 443 'my_host-1.internal' '' ''"},
        {"https://xn--mller-kva.example", "https 443 'xn--mller-kva.example' '' ''"},
    };
    test_guard g;
    size_t i;
    (void)state;
    test_guard_open(&g, 200);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_notes notes;
        azoi_url url;
        memset(&notes, 0, sizeof notes);
        if (azoi_url_split(test_guard_put(&g, azo_s(cases[i].url)), &url, NULL) != AZO_OK) {
            fail_msg("refused: %s", cases[i].url);
        }
        note_url(&notes, &url);
        assert_string_equal(notes.text, cases[i].parts);
        test_notes_free(&notes);
    }
    test_guard_close(&g);
}

static void bad_urls_are_refused(void **state) {
    static const struct {
        const char *url;
        const char *says;
    } cases[] = {
        {"", "https://"},
        {"contoso.openai.azure.com", "https://"},
        {"contoso", "https://"},
        {"//a/b", "https://"},
        {"ftp://a", "https://"},
        {"https:/a", "https://"},
        {"https:a", "https://"},
        {"http", "https://"},
        {"httpss://a", "https://"},
        {"https://", "host name"},
        {"https:///x", "host name"},
        {"https://?x", "host name"},
        {"https://:443", "host name"},
        {"https://user@", "host name"},
        {"https://user@:1", "host name"},
        {"https://.", "host name"},
        {"https://.a", "host name"},
        {"https://a..b", "host name"},
        {"https://a*b", "host name"},
        {"https://a%2eb", "host name"},
        {"https://a\\b", "host name"},
        {"https://{your-resource}.openai.azure.com", "host name"},
        {"https://<name>.openai.azure.com", "host name"},
        {"https://a,b", "host name"},
        {"https://a]", "host name"},
        {"https://a b", "blank"},
        {" https://a", "blank"},
        {"https://a ", "blank"},
        {"https://a/\t", "control"},
        {"https://a/\r\nX: y", "control"},
        {"https://a/\x7f", "control"},
        {"https://m\xc3\xbcller.example", "not ASCII"},
        {"https://a/#x", "fragment"},
        {"https://a#x", "fragment"},
        {"https://a/?x#", "fragment"},
        {"https://a:", "port"},
        {"https://a:/", "port"},
        {"https://a:0", "port"},
        {"https://a:65536", "port"},
        {"https://a:99999999999999999999", "port"},
        {"https://a:-1", "port"},
        {"https://a:+1", "port"},
        {"https://a:1:2", "port"},
        {"https://a:http", "port"},
        {"https://::1", "host name"},
        {"https://[::1]x", "port"},
        {"https://[::1]:", "port"},
        {"https://[::1", "IPv6"},
        {"https://[]", "IPv6"},
        {"https://[", "IPv6"},
        {"https://[a]", "IPv6"},
        {"https://[1.2.3.4]", "IPv6"},
        {"https://[fe80::1%25eth0]", "IPv6"},
        {"https://[::1]]", "port"},
    };
    test_guard g;
    size_t i;
    (void)state;
    test_guard_open(&g, 200);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        azoi_url url;
        azo_error e;
        azoi_error_clear(&e);
        if (azoi_url_split(test_guard_put(&g, azo_s(cases[i].url)), &url, &e) != AZO_ERR_ARGUMENT) {
            fail_msg("accepted: %s", cases[i].url);
        }
        assert_int_equal(e.code, AZO_ERR_ARGUMENT);
        test_sentences(e.message);
        if (strstr(e.message, cases[i].says) == NULL) {
            fail_msg("%s: %s", cases[i].url, e.message);
        }
    }
    {
        azoi_url url;
        assert_int_equal(azoi_url_split(azoi_view("https://a\0b", 11), &url, NULL), AZO_ERR_ARGUMENT);
    }
    test_guard_close(&g);
}

/* host NULL: a relative reference; "": one that names no host. */
static void locations_name_hosts(void **state) {
    static const struct {
        const char *location;
        const char *host;
    } rows[] = {
        {"https://a.example", "a.example"},
        {"http://a.example:81/x?y#z", "a.example"},
        {"ftp://a.example/", "a.example"},
        {"//a.example/x", "a.example"},
        {"https://a.example/\xc3\xbc x", "a.example"},
        {"https://a.example#x", "a.example"},
        {"https://a.example?x", "a.example"},
        {"https://user:p@ss@a.example/", "a.example"},
        {"https://[::1]:8080/x", "::1"},
        {"https://", ""},
        {"https://a b/", ""},
        {"https://a.example:x/", ""},
        {"//", ""},
        {"/x", NULL},
        {"x", NULL},
        {"", NULL},
        {"/x?y=https://a.example", NULL},
        {"x//a.example", NULL},
        {"?https://a.example", NULL},
        {"https:/a.example", NULL},
    };
    test_guard g;
    size_t i;
    (void)state;
    test_guard_open(&g, 100);
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        azo_str host;
        bool found = azoi_location_host(test_guard_put(&g, azo_s(rows[i].location)), &host);
        if (found != (rows[i].host != NULL) || !azoi_equal(host, found ? rows[i].host : "")) {
            fail_msg("%s: %d %.*s", rows[i].location, found, (int)host.len, host.ptr);
        }
    }
    test_guard_close(&g);
}

static void url_errors_quote_no_password(void **state) {
    static const char *const urls[] = {"http://user:hunter2@", "http://user:hunter2@a:0", "http://user:hunter2@[x]",
                                       "user:hunter2@proxy", "http://user:hunter2@a/#", "http://user:hunter2@a b"};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof urls / sizeof *urls; i++) {
        azoi_url url;
        azo_error e;
        azoi_error_clear(&e);
        assert_int_equal(azoi_url_split(azo_s(urls[i]), &url, &e), AZO_ERR_ARGUMENT);
        assert_false(test_holds(&e, sizeof e, "hunter2"));
    }
}

static void long_hosts(void **state) {
    char url[400];
    azoi_url parts;
    (void)state;
    memset(url, 'a', sizeof url);
    memcpy(url, "https://", 8);
    assert_int_equal(azoi_url_split(azoi_view(url, 8 + 253), &parts, NULL), AZO_OK);
    assert_int_equal(azoi_url_split(azoi_view(url, 8 + 254), &parts, NULL), AZO_ERR_ARGUMENT);
}

static void numeric_hosts(void **state) {
    static const char *const v4[] = {"0.0.0.0", "127.0.0.1", "255.255.255.255", "169.254.169.254", "1.2.3.4"};
    static const char *const v6[] = {"::",
                                     "::1",
                                     "1::",
                                     "1::2",
                                     "fe80::1",
                                     "2001:db8:0:0:0:0:2:1",
                                     "2001:DB8::2:1",
                                     "1:2:3:4:5:6:7:8",
                                     "1:2:3:4:5:6:7::",
                                     "::2:3:4:5:6:7:8",
                                     "1::3:4:5:6:7:8",
                                     "::ffff:1.2.3.4",
                                     "::1.2.3.4",
                                     "1:2:3:4:5:6:1.2.3.4",
                                     "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255",
                                     "64:ff9b::192.0.2.33"};
    static const char *const neither[] = {
        "",          "localhost",     "1",         "1.2.3",        "1.2.3.4.5",      "1.2.3.",   ".1.2.3",
        "1..2.3",    "256.1.1.1",     "1.2.3.256", "01.2.3.4",     "1.2.3.04",       "0x7f.0.0.1", "127.1",
        "1.2.3.4 ",  "1.2.3.-4",      "1000.1.1.1", ":",           ":1",             "1:",       "1:2",
        "g::",       "::g",           "::1%eth0",  "[::1]",        "::1 ",           "-1::",
        "ffff:ffff:ffff:ffff:ffff:ffff:0255.255.255.255"}; /* longer than any */
    test_guard g;
    size_t i;
    (void)state;
    test_guard_open(&g, 100);
    for (i = 0; i < sizeof v4 / sizeof *v4; i++) {
        if (!azoi_is_ipv4(test_guard_put(&g, azo_s(v4[i]))) || !azoi_is_numeric(azo_s(v4[i]))) {
            fail_msg("not taken for IPv4: %s", v4[i]);
        }
    }
    for (i = 0; i < sizeof v6 / sizeof *v6; i++) {
        if (!azoi_is_ipv6(test_guard_put(&g, azo_s(v6[i]))) || !azoi_is_numeric(azo_s(v6[i]))) {
            fail_msg("not taken for IPv6: %s", v6[i]);
        }
    }
    for (i = 0; i < sizeof neither / sizeof *neither; i++) {
        if (azoi_is_numeric(test_guard_put(&g, azo_s(neither[i])))) {
            fail_msg("taken for an address: %s", neither[i]);
        }
    }
    test_guard_close(&g);
}

static void loopback_hosts(void **state) {
    static const char *const yes[] = {"localhost", "LocalHost", "a.localhost", "127.0.0.1", "127.255.0.9", "::1"};
    static const char *const no[] = {"",           "localhost.example", "notlocalhost", "127.0.0.1.example", "127.1",
                                     "128.0.0.1",  "::2",               "0.0.0.0",      "127.0.0.256",       "::",
                                     "127.evil.com", "localhosts",      "10.0.0.1"};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof yes / sizeof *yes; i++) {
        if (!azoi_is_loopback(azo_s(yes[i]))) {
            fail_msg("not loopback: %s", yes[i]);
        }
    }
    for (i = 0; i < sizeof no / sizeof *no; i++) {
        if (azoi_is_loopback(azo_s(no[i]))) {
            fail_msg("loopback: %s", no[i]);
        }
    }
}

static void host_headers(void **state) {
    static const struct {
        const char *host;
        uint16_t port;
        uint16_t unsaid;
        const char *text;
    } cases[] = {{"a.b", 443, 443, "a.b"},     {"a.b", 80, 443, "a.b:80"},         {"a.b", 80, 80, "a.b"},
                 {"a.b", 443, 80, "a.b:443"},  {"a.b", 443, 0, "a.b:443"},         {"::1", 80, 80, "[::1]"},
                 {"::1", 443, 0, "[::1]:443"}, {"::1", 65535, 80, "[::1]:65535"}};
    azo_allocator none;
    azoi_buf b;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 100, false);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        azoi_buf_clear(&b);
        azoi_host_put(&b, azo_s(cases[i].host), cases[i].port, cases[i].unsaid);
        assert_string_equal(b.data, cases[i].text);
    }
    azoi_buf_free(&b);
}

/* ---- header lines ---- */

static void header_lines_are_checked(void **state) {
    static const char *const bad_names[] = {"", "a b", "a:", "a\r", "a\n", "(a)", "a@b", "a\x7f", "a\xc3\xbc", "a\"",
                                            "a/b"};
    static const char *const bad_values[] = {"a\r\nb", "\n", "\r", "a\x01", "\x7f", "a\x1b[0m"};
    size_t i;
    (void)state;
    assert_true(azoi_header_ok(azo_s("x-My_Header!#$%&'*+.^`|~9"), azo_s("any\tvalue \xc3\xbc \xff")));
    assert_true(azoi_header_ok(azo_s("a"), azo_s("")));
    assert_true(azoi_header_ok(azo_s("a"), azoi_view(NULL, 0)));
    for (i = 0; i < sizeof bad_names / sizeof *bad_names; i++) {
        if (azoi_header_ok(azo_s(bad_names[i]), azo_s("v"))) {
            fail_msg("name %d", (int)i);
        }
    }
    for (i = 0; i < sizeof bad_values / sizeof *bad_values; i++) {
        if (azoi_header_ok(azo_s("a"), azo_s(bad_values[i]))) {
            fail_msg("value %d", (int)i);
        }
    }
    assert_false(azoi_header_ok(azoi_view("a\0", 2), azo_s("v")));
    assert_false(azoi_header_ok(azo_s("a"), azoi_view("v\0", 2)));
}

static void header_lines_are_written(void **state) {
    azo_allocator none;
    azoi_buf b;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 100, false);
    azoi_header_add(&b, "Host", azo_s("a"));
    azoi_header_add(&b, "X", azoi_view(NULL, 0));
    assert_string_equal(b.data, "Host: a\r\nX: \r\n");
    azoi_buf_free(&b);
}

static void header_lines_are_found(void **state) {
    static const char text[] = "A: 1\r\nb:\t two words \t\nC:\r\na: 2\r\nd: x:y\r\ncut: off";
    test_guard g;
    test_notes notes;
    azo_str headers;
    azo_str rest;
    azo_str name;
    azo_str value;
    (void)state;
    memset(&notes, 0, sizeof notes);
    test_guard_open(&g, 200);
    headers = test_guard_put(&g, azo_s(text));
    rest = headers;
    while (azoi_header_next(&rest, &name, &value)) {
        test_note_text(&notes, name);
        test_note(&notes, "=");
        test_note_text(&notes, value);
        test_note(&notes, " ");
    }
    assert_string_equal(notes.text, "'A'='1' 'b'='two words' 'C'='' 'a'='2' 'd'='x:y' ");
    assert_true(azoi_equal(azoi_header(headers, "a"), "1"));
    assert_true(azoi_equal(azoi_header(headers, "B"), "two words"));
    assert_non_null(azoi_header(headers, "c").ptr);
    assert_int_equal(azoi_header(headers, "c").len, 0);
    assert_null(azoi_header(headers, "cut").ptr);
    assert_null(azoi_header(headers, "e").ptr);
    assert_null(azoi_header(azoi_view(NULL, 0), "a").ptr);
    test_notes_free(&notes);
    test_guard_close(&g);
}

/* ---- heads ---- */

static void heads_end_at_a_blank_line(void **state) {
    static const struct {
        const char *text;
        size_t size;
    } cases[] = {{"", 0},
                 {"HTTP/1.1 200 OK\r\n", 0},
                 {"HTTP/1.1 200 OK\r\n\r", 0},
                 {"HTTP/1.1 200 OK\r\n\r\n", 19},
                 {"HTTP/1.1 200 OK\r\n\r\nbody\r\n\r\n", 19},
                 {"HTTP/1.1 200 OK\n\n", 17},
                 {"HTTP/1.1 200 OK\n\r\n", 18},
                 {"HTTP/1.1 200 OK\r\n\n", 18},
                 {"a\r\nb\r\n\r\n", 8},
                 {"a\r\r\n\r\r\n", 0},
                 {"\n\n", 2},
                 {"\r\n\r\n", 4}};
    test_guard g;
    size_t i;
    (void)state;
    test_guard_open(&g, 100);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        azo_str text = test_guard_put(&g, azo_s(cases[i].text));
        size_t from;
        for (from = 0; from <= text.len; from++) {
            /* `from` bytes were looked at before, without finding the end */
            if (cases[i].size == 0 || from < cases[i].size) {
                assert_int_equal(azoi_head_size(text, from), cases[i].size);
            }
        }
    }
    test_guard_close(&g);
}

static void note_head(test_notes *n, azo_result result, const azoi_head *h) {
    static const char *const framings[] = {"none", "length", "chunked", "close"};
    if (result != AZO_OK) {
        test_note(n, "refused");
        return;
    }
    test_note(n, "%d %s %llu %s ", h->status, framings[h->framing], (unsigned long long)h->length,
              h->keep_alive ? "keep" : "drop");
    test_note_text(n, h->reason);
}

static void heads_are_read(void **state) {
    static const struct {
        const char *text;
        bool to_head_method;
        const char *expected;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, "200 length 5 keep 'OK'"},
        {"HTTP/1.1 200 OK\nContent-Length: 5\n\n", false, "200 length 5 keep 'OK'"},
        {"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", false, "200 length 5 keep ''"},
        {"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n", false, "200 length 5 keep ''"},
        {"HTTP/1.1 200 OK\r\ncontent-LENGTH:5\r\n\r\n", false, "200 length 5 keep 'OK'"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, "200 none 0 keep 'OK'"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 0005\r\n\r\n", false, "200 length 5 keep 'OK'"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", false, "200 length 5 keep 'OK'"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, "200 none 0 keep 'OK'"},
        {"HTTP/1.1 200 OK\r\n\r\n", false, "200 close 0 drop 'OK'"},
        {"HTTP/1.1 200 OK\r\n\r\n", true, "200 none 0 keep 'OK'"},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, "200 chunked 0 keep 'OK'"},
        {"HTTP/1.1 200 OK\r\ntransfer-encoding:CHUNKED \r\n\r\n", false, "200 chunked 0 keep 'OK'"},
        {"HTTP/1.1 204 No Content\r\n\r\n", false, "204 none 0 keep 'No Content'"},
        {"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", false, "204 none 0 keep 'No Content'"},
        {"HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", false, "304 none 0 keep 'x'"},
        {"HTTP/1.1 100 Continue\r\n\r\n", false, "100 none 0 keep 'Continue'"},
        {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", false, "103 none 0 keep 'Early Hints'"},
        {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", false, "200 length 5 drop 'OK'"},
        {"HTTP/1.1 200 OK\r\nConnection: foo, CLOSE\r\nContent-Length: 5\r\n\r\n", false, "200 length 5 drop 'OK'"},
        {"HTTP/1.1 200 OK\r\nConnection: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", false,
         "200 length 5 drop 'OK'"},
        {"HTTP/1.1 200 OK\r\nConnection: close, keep-alive\r\nContent-Length: 5\r\n\r\n", false,
         "200 length 5 drop 'OK'"},
        {"HTTP/1.1 200 OK\r\nConnection: closed\r\nContent-Length: 5\r\n\r\n", false, "200 length 5 keep 'OK'"},
        {"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", false, "200 length 5 drop 'OK'"},
        {"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\n", false, "200 length 5 drop 'OK'"},
        {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", false, "200 close 0 drop 'OK'"},
        {"HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\n", false, "200 length 5 keep 'OK'"},
        {"HTTP/1.0 403 connecting to 169.254.169.254:80: dial tcp: unreachable network.\r\nConnection: close\r\n\r\n",
         false, "403 close 0 drop 'connecting to 169.254.169.254:80: dial tcp: unreachable network.'"},
        {"HTTP/1.1 503 Dienst nicht verf\xc3\xbcgbar\r\nContent-Length: 1\r\n\r\n", false,
         "503 length 1 keep 'Dienst nicht verf\\xc3\\xbcgbar'"},
        {"HTTP/1.1 429 Too\tMany  Requests \r\nContent-Length: 1\r\n\r\n", false,
         "429 length 1 keep 'Too\\x09Many  Requests'"},
        {"HTTP/1.1 999 ?\r\nContent-Length: 1\r\n\r\n", false, "999 length 1 keep '?'"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n", false,
         "200 length 9223372036854775807 keep 'OK'"},
        {"HTTP/1.1 200 OK\r\nX:\r\nY: \xff\t\r\nContent-Length: 1\r\n\r\n", false, "200 length 1 keep 'OK'"},
    };
    test_guard g;
    size_t i;
    (void)state;
    test_guard_open(&g, 300);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        azo_str text = test_guard_put(&g, azo_s(cases[i].text));
        test_notes notes;
        azoi_head head;
        azo_error e;
        memset(&notes, 0, sizeof notes);
        azoi_error_clear(&e);
        assert_int_equal(azoi_head_size(text, 0), text.len);
        note_head(&notes, azoi_head_parse(text, cases[i].to_head_method, &head, &e), &head);
        if (strcmp(notes.text, cases[i].expected) != 0) {
            fail_msg("%s:\n%s\n%s", cases[i].text, notes.text, cases[i].expected);
        }
        assert_int_equal(e.code, AZO_OK);
        test_notes_free(&notes);
    }
    test_guard_close(&g);
}

static void header_blocks_are_kept(void **state) {
    static const char text[] = "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\n\r\n";
    azoi_head head;
    (void)state;
    assert_int_equal(azoi_head_parse(azo_s(text), false, &head, NULL), AZO_OK);
    assert_true(azoi_equal(head.headers, "A: 1\r\nB: 2\n"));
    assert_true(azoi_equal(azoi_header(head.headers, "b"), "2"));
    assert_int_equal(azoi_head_parse(azo_s("HTTP/1.1 200 OK\r\n\r\n"), false, &head, NULL), AZO_OK);
    assert_int_equal(head.headers.len, 0);
    assert_non_null(head.headers.ptr);
}

#define OK_LINE "HTTP/1.1 200 OK\r\n"

static void bad_heads_are_refused(void **state) {
    static const char *const cases[] = {
        /* no HTTP, or another one */
        "\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 \r\n\r\n",
        "HTTP/1.1 20\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 -20 OK\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1\t200 OK\r\n\r\n",
        "HTTP/1.1 200O\r\n\r\n",
        "HTTP/1.1 200OK\r\n\r\n",
        "HTTP/1. 200 OK\r\n\r\n",
        "HTTP/1.x 200 OK\r\n\r\n",
        "HTTP/1.10 200 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/0.9 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        " HTTP/1.1 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "<html>\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        /* control characters */
        "HTTP/1.1 200 O\x01K\r\n\r\n",
        "HTTP/1.1 200 OK\r\r\n\r\n",
        "HTTP/1.1 200 OK\rX: y\r\n\r\n",
        OK_LINE "X: a\rb\r\n\r\n",
        OK_LINE "X: a\r\r\n\r\n",
        OK_LINE "X:\ra\r\n\r\n",
        OK_LINE "X: a\x7f\r\n\r\n",
        OK_LINE "X: \x1b[31m\r\n\r\n",
        OK_LINE "X: a\x0b\r\n\r\n",
        /* header names */
        OK_LINE "X\r\n\r\n",
        OK_LINE ": x\r\n\r\n",
        OK_LINE "X : y\r\n\r\n",
        OK_LINE "X\t: y\r\n\r\n",
        OK_LINE "X Y: z\r\n\r\n",
        OK_LINE "X\xc3\xbc: z\r\n\r\n",
        OK_LINE "\"X\": z\r\n\r\n",
        OK_LINE "Content-Length : 5\r\n\r\n",
        OK_LINE "Content-Length\x0b: 5\r\n\r\n",
        /* folded lines */
        OK_LINE " X: y\r\n\r\n",
        OK_LINE "X: y\r\n z\r\n\r\n",
        OK_LINE "X: y\r\n\tz\r\n\r\n",
        OK_LINE "X: y\r\n \r\n\r\n",
        OK_LINE "Transfer-Encoding:\r\n chunked\r\n\r\n",
        /* lengths */
        OK_LINE "Content-Length:\r\n\r\n",
        OK_LINE "Content-Length: -1\r\n\r\n",
        OK_LINE "Content-Length: +1\r\n\r\n",
        OK_LINE "Content-Length: 1.0\r\n\r\n",
        OK_LINE "Content-Length: 0x10\r\n\r\n",
        OK_LINE "Content-Length: 1 2\r\n\r\n",
        OK_LINE "Content-Length: 5x\r\n\r\n",
        OK_LINE "Content-Length: five\r\n\r\n",
        OK_LINE "Content-Length: \"5\"\r\n\r\n",
        OK_LINE "Content-Length: 5,\r\nContent-Length: 6\r\n\r\n",
        OK_LINE "Content-Length: 5, 6\r\n\r\n",
        OK_LINE "Content-Length: 5, 5\r\n\r\n", /* RFC 9110 8.6: may be refused */
        OK_LINE "Content-Length: ,5\r\n\r\n",
        OK_LINE "Content-Length: 5,,5\r\n\r\n",
        OK_LINE "Content-Length: 5,\r\n\r\n",
        OK_LINE "Content-Length: 5,,5\r\n\r\n",
        OK_LINE "Content-Length: 5;6\r\n\r\n",
        OK_LINE "Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        OK_LINE "Content-Length: 5\r\nX: y\r\ncontent-length: 0\r\n\r\n",
        OK_LINE "Content-Length: 9223372036854775808\r\n\r\n",
        OK_LINE "Content-Length: 18446744073709551616\r\n\r\n",
        OK_LINE "Content-Length: 99999999999999999999999999\r\n\r\n",
        /* transfer codings */
        OK_LINE "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        OK_LINE "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK_LINE "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK_LINE "Transfer-Encoding:\r\n\r\n",
        OK_LINE "Transfer-Encoding: gzip\r\n\r\n",
        OK_LINE "Transfer-Encoding: gzip, chunked\r\n\r\n",
        OK_LINE "Transfer-Encoding: chunked, gzip\r\n\r\n",
        OK_LINE "Transfer-Encoding: chunked, chunked\r\n\r\n",
        OK_LINE "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK_LINE "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        OK_LINE "Transfer-Encoding: identity\r\n\r\n",
        OK_LINE "Transfer-Encoding: xchunked\r\n\r\n",
        OK_LINE "Transfer-Encoding: \"chunked\"\r\n\r\n",
        OK_LINE "Transfer-Encoding: chunked;x\r\n\r\n",
        OK_LINE "Transfer-Encoding: chun\tked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        /* unfinished */
        "",
        "HTTP/1.1 200 OK",
        OK_LINE,
        OK_LINE "X: y\r\n",
        OK_LINE "X: y",
    };
    test_guard g;
    size_t i;
    (void)state;
    test_guard_open(&g, 300);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        azo_str text = test_guard_put(&g, azo_s(cases[i]));
        azoi_head head;
        azo_error e;
        azoi_error_clear(&e);
        if (azoi_head_parse(text, false, &head, &e) != AZO_ERR_HTTP) {
            fail_msg("accepted: %s", cases[i]);
        }
        assert_int_equal(e.code, AZO_ERR_HTTP);
        test_sentences(e.message);
    }
    test_guard_close(&g);
}

static void nul_is_refused_in_heads(void **state) {
    static const char *const cases[] = {"HTTP/1.1 200 O@K\r\n\r\n", OK_LINE "X: @\r\n\r\n", OK_LINE "X@: y\r\n\r\n",
                                        OK_LINE "X: y\r\n@\r\n\r\n", "@HTTP/1.1 200 OK\r\n\r\n",
                                        OK_LINE "Content-Length: 5@\r\n\r\n",
                                        OK_LINE "Transfer-Encoding: chunked@\r\n\r\n"};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[100];
        azoi_head head;
        size_t len = strlen(cases[i]);
        memcpy(text, cases[i], len);
        *(char *)memchr(text, '@', len) = '\0';
        assert_int_equal(azoi_head_parse(azoi_view(text, len), false, &head, NULL), AZO_ERR_HTTP);
    }
}

/* Whatever byte is changed in a head, it is refused or read, and nothing is read past its end. */
static void every_head_mutation_is_survived(void **state) {
    static const char sample[] = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nX: y\r\nConnection: close\r\n\r\n";
    test_guard g;
    azoi_head head;
    size_t at;
    int byte;
    int accepted = 0;
    (void)state;
    test_guard_open(&g, sizeof sample);
    for (at = 0; at < sizeof sample - 1; at++) {
        for (byte = 0; byte < 256; byte++) {
            char text[sizeof sample];
            azo_str view;
            memcpy(text, sample, sizeof sample);
            text[at] = (char)byte;
            view = test_guard_put(&g, azoi_view(text, sizeof sample - 1));
            azoi_head_size(view, 0);
            accepted += azoi_head_parse(view, false, &head, NULL) == AZO_OK ? 1 : 0;
        }
        assert_int_equal(azoi_head_parse(test_guard_put(&g, azoi_view(sample, at)), false, &head, NULL), AZO_ERR_HTTP);
    }
    assert_true(accepted > 1000);
    test_guard_close(&g);
}

/* ---- bodies ---- */

typedef struct body_run {
    const char *head;
    bool halves; /* take only half of each piece at a time, as who pauses */
    azoi_body body;
    azo_result result;
    azo_error error;
    test_notes data;
    test_notes rest; /* behind the body */
} body_run;

static void begin_body(void *self) {
    body_run *r = (body_run *)self;
    azoi_head head;
    assert_int_equal(azoi_head_parse(azo_s(r->head), false, &head, NULL), AZO_OK);
    azoi_body_init(&r->body, &head);
    azoi_error_clear(&r->error);
    r->result = AZO_PENDING;
    memset(&r->data, 0, sizeof r->data);
    memset(&r->rest, 0, sizeof r->rest);
}

static void feed_body(void *self, azo_str piece, test_notes *notes) {
    body_run *r = (body_run *)self;
    azo_str in = piece;
    (void)notes;
    if (r->result == AZO_PENDING) {
        do {
            azo_str out = azo_s("not set");
            size_t before = in.len;
            r->result = azoi_body_feed(&r->body, &in, &out, &r->error);
            if (r->halves && out.len > 1 && r->result != AZO_ERR_HTTP) {
                azoi_body_unfeed(&r->body, &in, out.len / 2);
                out.len -= out.len / 2;
                r->result = AZO_PENDING;
            }
            if (out.len > 0 && r->result != AZO_ERR_HTTP) {
                assert_true(out.ptr >= piece.ptr && out.ptr + out.len <= piece.ptr + piece.len);
                test_note_bytes(&r->data, out.ptr, out.len);
            }
            assert_true(in.len < before || r->result != AZO_PENDING || before == 0);
        } while (r->result == AZO_PENDING && in.len > 0);
    }
    if (r->result == AZO_OK && in.len > 0) {
        test_note_bytes(&r->rest, in.ptr, in.len);
    }
}

static void end_body(void *self, test_notes *notes) {
    body_run *r = (body_run *)self;
    azo_error e;
    azo_result eof;
    azoi_error_clear(&e);
    test_note(notes, "%s ", r->result == AZO_OK ? "whole" : r->result == AZO_PENDING ? "open" : "broken");
    test_note_text(notes, azoi_view(r->data.text, r->data.len));
    if (r->rest.len > 0) {
        test_note(notes, " rest ");
        test_note_text(notes, azoi_view(r->rest.text, r->rest.len));
    }
    if (r->result == AZO_PENDING) {
        eof = azoi_body_eof(&r->body, &e);
        test_note(notes, eof == AZO_OK ? " eof" : " cut");
        assert_int_equal(eof == AZO_OK || eof == AZO_ERR_CLOSED, 1);
        if (eof != AZO_OK) {
            test_sentences(e.message);
        }
    } else if (r->result == AZO_OK) {
        azo_str in = azo_s("more");
        azo_str out;
        assert_int_equal(azoi_body_eof(&r->body, NULL), AZO_OK);
        assert_int_equal(azoi_body_feed(&r->body, &in, &out, NULL), AZO_OK); /* takes nothing any more */
        assert_int_equal(in.len, 4);
        assert_int_equal(out.len, 0);
    } else {
        assert_int_equal(r->error.code, AZO_ERR_HTTP);
        test_sentences(r->error.message);
    }
    test_notes_free(&r->data);
    test_notes_free(&r->rest);
}

static const test_parser body_parser = {begin_body, feed_body, end_body};

static void expect_body(const char *head, azo_str body, const char *expected) {
    body_run r;
    memset(&r, 0, sizeof r);
    r.head = head;
    test_splits(&body_parser, &r, body, expected);
    r.halves = true;
    test_splits(&body_parser, &r, body, expected);
}

static void bodies_of_known_length(void **state) {
    (void)state;
    expect_body(OK_LINE "Content-Length: 5\r\n\r\n", azo_s("hello"), "whole 'hello'");
    expect_body(OK_LINE "Content-Length: 5\r\n\r\n", azo_s("hello there"), "whole 'hello' rest ' there'");
    expect_body(OK_LINE "Content-Length: 5\r\n\r\n", azo_s("hell"), "open 'hell' cut");
    expect_body(OK_LINE "Content-Length: 5\r\n\r\n", azo_s(""), "open - cut");
    expect_body(OK_LINE "Content-Length: 0\r\n\r\n", azo_s("x"), "whole - rest 'x'");
    expect_body("HTTP/1.1 204 x\r\n\r\n", azo_s("HTTP"), "whole - rest 'HTTP'");
    expect_body(OK_LINE "Content-Length: 9223372036854775807\r\n\r\n", azo_s("abc"), "open 'abc' cut");
}

static void bodies_until_the_end(void **state) {
    (void)state;
    expect_body(OK_LINE "\r\n", azo_s("all of it\r\n0\r\n\r\n"), "open 'all of it\\r\\n0\\r\\n\\r\\n' eof");
    expect_body(OK_LINE "\r\n", azo_s(""), "open - eof");
}

#define CHUNKED OK_LINE "Transfer-Encoding: chunked\r\n\r\n"

static void bodies_in_chunks(void **state) {
    static const struct {
        const char *text;
        const char *expected;
    } cases[] = {
        {"5\r\nhello\r\n0\r\n\r\n", "whole 'hello'"},
        {"0\r\n\r\n", "whole -"},
        {"000\r\n\r\n", "whole -"},
        {"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", "whole 'ab'"},
        {"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "whole '01234567890123456789'"},
        {"0000000000000000000005\r\nhello\r\n0\r\n\r\n", "whole 'hello'"},
        {"5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200", "whole 'hello' rest 'HTTP/1.1 200'"},
        {"4\r\n\r\n\r\n\r\n0\r\n\r\n", "whole '\\r\\n\\r\\n'"},
        /* extensions and padding */
        {"5;a=b\r\nhello\r\n0;c\r\n\r\n", "whole 'hello'"},
        {"5 ;a=\"b;c\"\r\nhello\r\n0 \r\n\r\n", "whole 'hello'"},
        {"5 \t \r\nhello\r\n0\t;\r\n\r\n", "whole 'hello'"},
        {"5;\xc3\xbc\r\nhello\r\n0\r\n\r\n", "whole 'hello'"},
        /* trailers */
        {"5\r\nhello\r\n0\r\nA: b\r\n\r\n", "whole 'hello'"},
        {"0\r\nA: b\r\nC: d\r\n\r\nx", "whole - rest 'x'"},
        {"0\r\nContent-Length: 5\r\n\r\nx", "whole - rest 'x'"},
        /* cut */
        {"", "open - cut"},
        {"5", "open - cut"},
        {"5\r", "open - cut"},
        {"5\r\n", "open - cut"},
        {"5\r\nhell", "open 'hell' cut"},
        {"5\r\nhello", "open 'hello' cut"},
        {"5\r\nhello\r\n", "open 'hello' cut"},
        {"5\r\nhello\r\n0", "open 'hello' cut"},
        {"5\r\nhello\r\n0\r\n", "open 'hello' cut"},
        {"5\r\nhello\r\n0\r\n\r", "open 'hello' cut"},
        {"5\r\nhello\r\n0\r\nA: b\r\n", "open 'hello' cut"},
        /* broken */
        {"\r\nhello", "broken -"},
        {"x", "broken -"},
        {" 5\r\nhello", "broken -"},
        {";a\r\n", "broken -"},
        {"-5\r\nhello", "broken -"},
        {"+5\r\nhello", "broken -"},
        {"0x5\r\nhello", "broken -"},
        {"5g\r\nhello", "broken -"},
        {"5 5\r\nhello", "broken -"},
        {"5\nhello\n0\n\n", "broken -"},
        {"5\rhello", "broken -"},
        {"5;a\nhello", "broken -"},
        {"5;a\rb\r\nhello", "broken -"},
        {"5\r\r\nhello", "broken -"},
        {"5\r\nhelloX\r\n0\r\n\r\n", "broken 'hello'"},
        {"5\r\nhello\n0\r\n\r\n", "broken 'hello'"},
        {"5\r\nhello\r0\r\n\r\n", "broken 'hello'"},
        {"5\r\nhello0\r\n\r\n", "broken 'hello'"},
        {"5\r\nhello\r\n\r\n", "broken 'hello'"},
        {"0\r\nA: b\nC: d\r\n\r\n", "broken -"},
        {"0\r\nA: b\rC\r\n\r\n", "broken -"},
        {"0\r\n\n", "broken -"},
        {"0\r\n\rx", "broken -"},
        {"8000000000000000\r\n", "broken -"},
        {"FFFFFFFFFFFFFFFF\r\n", "broken -"},
        {"10000000000000000\r\n", "broken -"},
        {"100000000000000005\r\nhello", "broken -"},
        {"7fffffffffffffff\r\nabc", "open 'abc' cut"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_body(CHUNKED, azo_s(cases[i].text), cases[i].expected);
    }
    expect_body(CHUNKED, azoi_view("5;\0\r\n", 5), "broken -");
    expect_body(CHUNKED, azoi_view("0\r\nA: \0\r\n\r\n", 11), "broken -");
    expect_body(CHUNKED, azoi_view("\0", 1), "broken -");
    expect_body(CHUNKED, azoi_view("3\r\n\0\r\n\r\n0\r\n\r\n", 13), "whole '\\x00\\r\\n'");
}

static azo_result feed_whole(azoi_buf *text, azo_error *e) {
    azoi_body body;
    azoi_head head;
    azo_str in = azoi_buf_view(text);
    azo_str out;
    azo_result result;
    assert_int_equal(azoi_head_parse(azo_s(CHUNKED), false, &head, NULL), AZO_OK);
    azoi_body_init(&body, &head);
    azoi_error_clear(e);
    do {
        result = azoi_body_feed(&body, &in, &out, e);
    } while (result == AZO_PENDING && in.len > 0);
    return result;
}

static void fill(azoi_buf *b, const char *text, int times) {
    int i;
    for (i = 0; i < times; i++) {
        azoi_buf_puts(b, text);
    }
}

/* Bytes round the data are limited; with data in between they are not. */
static void overhead_is_limited(void **state) {
    static const char *const floods[][3] = {{"5;", "a", "\r\nhello\r\n0\r\n\r\n"},
                                            {"", "0", "5\r\nhello\r\n0\r\n\r\n"},
                                            {"5", " ", "\r\nhello\r\n0\r\n\r\n"},
                                            {"0\r\n", "A: b\r\n", "\r\n"},
                                            {"0\r\nA: ", "b", "\r\n\r\n"}};
    azo_allocator none;
    azo_error e;
    azoi_buf b;
    size_t i;
    (void)state;
    memset(&none, 0, sizeof none);
    azoi_buf_init(&b, &none, 1 << 24, false);
    for (i = 0; i < sizeof floods / sizeof *floods; i++) {
        int unit = (int)strlen(floods[i][1]);
        azoi_buf_clear(&b);
        fill(&b, floods[i][0], 1);
        fill(&b, floods[i][1], 16000 / unit);
        fill(&b, floods[i][2], 1);
        assert_int_equal(feed_whole(&b, &e), AZO_OK);
        azoi_buf_clear(&b);
        fill(&b, floods[i][0], 1);
        fill(&b, floods[i][1], 20000 / unit);
        fill(&b, floods[i][2], 1);
        assert_int_equal(feed_whole(&b, &e), AZO_ERR_HTTP);
        assert_non_null(strstr(e.message, "16 KB"));
        test_sentences(e.message);
    }
    azoi_buf_clear(&b);
    for (i = 0; i < 2000; i++) { /* 80 bytes of extension for 100 of data, for long */
        fill(&b, "64;", 1);
        fill(&b, "12345678", 10);
        fill(&b, "\r\n", 1);
        fill(&b, "0123456789", 10);
        fill(&b, "\r\n", 1);
    }
    fill(&b, "0\r\n\r\n", 1);
    assert_int_equal(feed_whole(&b, &e), AZO_OK);
    azoi_buf_clear(&b);
    for (i = 0; i < 2000; i++) { /* and for one byte of data */
        fill(&b, "1;", 1);
        fill(&b, "12345678", 10);
        fill(&b, "\r\nx\r\n", 1);
    }
    fill(&b, "0\r\n\r\n", 1);
    assert_int_equal(feed_whole(&b, &e), AZO_ERR_HTTP);
    azoi_buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(urls_are_split),
        cmocka_unit_test(bad_urls_are_refused),
        cmocka_unit_test(locations_name_hosts),
        cmocka_unit_test(url_errors_quote_no_password),
        cmocka_unit_test(long_hosts),
        cmocka_unit_test(numeric_hosts),
        cmocka_unit_test(loopback_hosts),
        cmocka_unit_test(host_headers),
        cmocka_unit_test(header_lines_are_checked),
        cmocka_unit_test(header_lines_are_written),
        cmocka_unit_test(header_lines_are_found),
        cmocka_unit_test(heads_end_at_a_blank_line),
        cmocka_unit_test(heads_are_read),
        cmocka_unit_test(header_blocks_are_kept),
        cmocka_unit_test(bad_heads_are_refused),
        cmocka_unit_test(nul_is_refused_in_heads),
        cmocka_unit_test(every_head_mutation_is_survived),
        cmocka_unit_test(bodies_of_known_length),
        cmocka_unit_test(bodies_until_the_end),
        cmocka_unit_test(bodies_in_chunks),
        cmocka_unit_test(overhead_is_limited),
    };
    return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
