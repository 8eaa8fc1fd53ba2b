/* test_board.c - a board without files, environment, sockets and clock, in one buffer: keyless calls over TLS through
 * hooks alone, with roots from memory, and what it is told when its clock is wrong.
 *
 * mbedTLS asks time() for the time, which the linker puts a function of this file in front of: link statically with
 * mbedTLS, with -Wl,--wrap=time. In a program that is linked otherwise __real_time is NULL; those tests are skipped.
 * Needs the certificates of make_certs.sh in $AZO_TEST_CERTS (default build/certs). */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZO_NO_STDIO
#define AZO_NO_ENV
#define AZO_NO_SOCKETS
#define AZO_NO_CLOCK
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#include <time.h>

#define SCRIPT_MAX_CONNS 8
#include "script.h"

#include "script_tls.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { SERVICE_PORT = 8443, ENTRA_PORT = 8444, IMDS_PORT = 80, POOL = 96 * 1024 };

/* ---- the clock of mbedTLS ---- */

time_t __wrap_time(time_t *out);
extern time_t __real_time(time_t *out) __attribute__((weak));

static time_t board_time; /* 0: the machine's */

time_t __wrap_time(time_t *out) {
    time_t now = board_time != 0 ? board_time : __real_time(NULL);
    if (out != NULL) {
        *out = now;
    }
    return now;
}

static void need_clock(void) {
    if (__real_time == NULL) {
        skip();
    }
}

/* ---- a board ---- */

typedef struct board {
    script_world net;
    script_tls tls;
    azo_pool pool;
    azo_client_desc desc;
    azo_client *client;
    azo_error error;
    const char *imds_date; /* header lines of its answers */
    const char *service_date;
    char heard[64];
} board;

static board the_board; /* too large for a stack */
static unsigned char the_buffer[POOL];
static azo_str chain_pem;
static azo_str key_pem;
static azo_str root_pem;
static char valid_from[32]; /* the server's certificate, as the message says it */
static char valid_to[32];

static void serve_chat(script_conn *c, const char *request) {
    board *b = (board *)c->peer->state;
    char head[256];
    assert_non_null(strstr(request, "Authorization: Bearer canary-token\r\n"));
    (void)snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%sConnection: "
                   "close\r\n\r\n", b->service_date);
    script_send(c, 5, head);
    script_send(c, 5, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello\"}}]}\n\n");
    script_send(c, 9, "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
                      "data: [DONE]\n\n");
    script_end(c, 10, AZO_OK);
}

static void serve_imds(script_conn *c, const char *request) {
    board *b = (board *)c->peer->state;
    assert_non_null(strstr(request, "Host: 169.254.169.254\r\n"));
    script_answer(c, 5, 200, b->imds_date, "{\"expires_in\":\"3600\",\"access_token\":\"canary-token\"}");
}

static void serve_entra(script_conn *c, const char *request) {
    assert_non_null(strstr(request, "client_secret=canary-secret"));
    script_answer(c, 5, 200, "", "{\"expires_in\":3600,\"access_token\":\"canary-token\"}");
}

static void board_open(board *b, bool imds) {
    memset(b, 0, sizeof *b);
    board_time = 0;
    b->imds_date = "";
    b->service_date = "";
    script_open(&b->net);
    script_tls_open(&b->tls, &b->net, chain_pem, key_pem);
    script_tls_port(&b->tls, SERVICE_PORT);
    script_tls_port(&b->tls, ENTRA_PORT);
    (void)script_peer(&b->net, SERVICE_PORT, serve_chat, b);
    (void)script_peer(&b->net, ENTRA_PORT, serve_entra, b);
    (void)script_peer(&b->net, IMDS_PORT, serve_imds, b);
    b->desc.endpoint = "https://localhost:8443";
    b->desc.deployment = "gpt";
    b->desc.credential.kind = imds ? AZO_CRED_IMDS : AZO_CRED_SECRET;
    if (!imds) {
        b->desc.credential.tenant_id = "11111111-2222-3333-4444-555555555555";
        b->desc.credential.client_id = "66666666-7777-8888-9999-000000000000";
        b->desc.credential.client_secret = "canary-secret";
        b->desc.credential.authority_host = "https://localhost:8444";
    }
    b->desc.ca_pem = root_pem;
    b->desc.max_retries = AZO_OFF;
    b->desc.transport = b->tls.transport;
    b->desc.clock = b->net.clock;
    b->desc.allocator = azo_pool_init(&b->pool, the_buffer, sizeof the_buffer);
}

static void board_start(board *b) {
    if (azo_client_open(&b->desc, &b->client, &b->error) != AZO_OK) {
        fail_msg("%s", b->error.message);
    }
}

static void board_close(board *b) {
    azo_client_close(b->client);
    assert_int_equal(b->pool.used, 0);
    script_tls_close(&b->tls);
    script_close(&b->net);
    board_time = 0;
}

static int hear(const azo_event *event, void *user_data) {
    board *b = (board *)user_data;
    if (event->kind == AZO_EVENT_TEXT) {
        assert_true(strlen(b->heard) + event->text.len < sizeof b->heard);
        strncat(b->heard, event->text.ptr, event->text.len);
    }
    return AZO_GO_ON;
}

static azo_result board_chat(board *b) {
    azo_message message = azo_user("Sky?");
    azo_chat_desc desc;
    azo_chat_reply reply;
    memset(&desc, 0, sizeof desc);
    desc.messages = &message;
    desc.message_count = 1;
    desc.on_event = hear;
    desc.user_data = b;
    b->heard[0] = '\0';
    azo_result r = azo_chat(b->client, &desc, &reply, &b->error);
    assert_int_equal(r, b->error.code);
    if (r == AZO_OK) {
        assert_string_equal(b->heard, "Hello");
        assert_string_equal(reply.text.ptr, "Hello");
    } else {
        test_sentences(b->error.message);
    }
    azo_chat_reply_free(&reply);
    return r;
}

static void expect_hello(board *b) {
    if (board_chat(b) != AZO_OK) {
        fail_msg("%s", b->error.message);
    }
}

/* Each of the parts is in the message, or is not if it begins with "!". */
static void expect_dates(board *b, uint32_t flag, const char *const *parts) {
    const char *message = b->error.message;
    assert_int_equal(b->error.code, AZO_ERR_TLS_VERIFY);
    assert_int_equal(b->error.who, AZO_WHO_MACHINE);
    assert_int_equal(b->error.tls_verify_flags, flag);
    for (; *parts != NULL; parts++) {
        bool absent = **parts == '!';
        if ((strstr(message, *parts + (absent ? 1 : 0)) == NULL) != absent) {
            fail_msg("\"%s\": %s", *parts, message);
        }
    }
    assert_non_null(strstr(message, valid_from));
    assert_non_null(strstr(message, valid_to));
}

/* ---- calls ---- */

static void calls_through_hooks_alone(void **state) {
    board *b = &the_board;
    (void)state;
    for (int imds = 0; imds < 2; imds++) {
        board_open(b, imds != 0);
        board_start(b);
        for (int i = 0; i < 20; i++) {
            expect_hello(b);
            b->net.now += i % 4 == 3 ? 3600000 : 1000;
        }
        assert_int_equal(b->net.peers[0].requests, 20);
        assert_true(b->net.peers[imds != 0 ? 2 : 1].requests > 1);
        assert_in_range(b->pool.peak, 1, POOL);
        board_close(b);
    }
}

/* What is missing is said when the client is opened. */
static void hooks_are_needed(void **state) {
    board *b = &the_board;
    (void)state;
    board_open(b, true);
    memset(&b->desc.transport, 0, sizeof b->desc.transport);
    assert_int_equal(azo_client_open(&b->desc, &b->client, &b->error), AZO_ERR_ARGUMENT);
    assert_non_null(strstr(b->error.message, "transport"));
    b->desc.transport = b->tls.transport;
    memset(&b->desc.clock, 0, sizeof b->desc.clock);
    assert_int_equal(azo_client_open(&b->desc, &b->client, &b->error), AZO_ERR_ARGUMENT);
    assert_non_null(strstr(b->error.message, "clock"));
    b->desc.clock = b->net.clock;
    memset(&b->desc.ca_pem, 0, sizeof b->desc.ca_pem);
    board_start(b);
    assert_int_equal(board_chat(b), AZO_ERR_TRUST_STORE);
    board_close(b);
}

/* A clock hook that knows no time of day is enough: mbedTLS has a clock of its own. */
static void no_time_of_day(void **state) {
    board *b = &the_board;
    (void)state;
    board_open(b, true);
    b->net.unix_base = 0;
    b->imds_date = "Date: Wed, 21 Oct 2026 07:28:00 GMT\r\n";
    board_start(b);
    for (int i = 0; i < 5; i++) {
        expect_hello(b);
        b->net.now += 3600000;
    }
    board_close(b);
}

/* ---- clocks that are wrong ---- */

/* A time within the certificate, as a Date line. */
static const char *date_line(time_t when) {
    static char line[64];
    (void)strftime(line, sizeof line, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", gmtime(&when));
    return line;
}

static const char *date_text(time_t when) {
    static char text[64];
    (void)strftime(text, sizeof text, "by an earlier answer without TLS it is %Y-%m-%d %H:%M:%S;", gmtime(&when));
    return text;
}

enum { BOOTED = 67, FAR = 0x7fffff00 }; /* in 1970 and 2038 */

static void a_board_that_boots_in_1970(void **state) {
    board *b = &the_board;
    (void)state;
    need_clock();
    time_t now = __real_time(NULL);
    const char *const parts[] = {"is not valid yet", "1970-01-01 00:01:07", "!earlier", "Set the clock",
                                 "mbedtls_platform_set_time", NULL};
    const char *const more[] = {"is not valid yet", "1970-01-01 00:01:07", date_text(now), "Set the clock", NULL};
    board_open(b, true);
    board_start(b);
    board_time = BOOTED;
    assert_int_equal(board_chat(b), AZO_ERR_TLS_VERIFY);
    expect_dates(b, MBEDTLS_X509_BADCERT_FUTURE, parts);
    b->imds_date = date_line(now); /* of the next token */
    b->net.now += 3600000;
    assert_int_equal(board_chat(b), AZO_ERR_TLS_VERIFY);
    expect_dates(b, MBEDTLS_X509_BADCERT_FUTURE, more);
    board_time = 0;
    expect_hello(b);
    board_close(b);
}

/* The token comes over TLS, so there is no answer that could tell. */
static void a_client_secret_in_1970(void **state) {
    board *b = &the_board;
    (void)state;
    need_clock();
    const char *const parts[] = {"localhost:8444 is not valid yet", "1970-01-01 00:01:07", "!earlier", NULL};
    board_open(b, false);
    board_start(b);
    board_time = BOOTED;
    assert_int_equal(board_chat(b), AZO_ERR_TLS_VERIFY);
    expect_dates(b, MBEDTLS_X509_BADCERT_FUTURE, parts);
    board_close(b);
}

/* A peer that tells the time never makes a certificate good, and a clock that agrees with it is not blamed. */
static void a_date_is_told_and_no_more(void **state) {
    board *b = &the_board;
    (void)state;
    need_clock();
    const char *const same[] = {"is not valid yet", "by an earlier answer without TLS it is 1970-01-01 00:02:00",
                                "!Set the clock", "The clock seems to be right", NULL};
    const char *const late[] = {"has expired", "by an earlier answer without TLS it is 2038-01-01 00:00:00",
                                "2038-01-19", "The clock seems to be right", NULL};
    const char *const nothing[] = {"has expired", "2038-01-19", "!earlier", "Check the clock", NULL};
    const struct {
        time_t clock;
        const char *date;
        uint32_t flag;
        const char *const *parts;
    } cases[] = {{BOOTED, "Date: Thu, 01 Jan 1970 00:02:00 GMT\r\n", MBEDTLS_X509_BADCERT_FUTURE, same},
                 {FAR, "Date: Fri, 01 Jan 2038 00:00:00 GMT\r\n", MBEDTLS_X509_BADCERT_EXPIRED, late},
                 {FAR, "Date: at noon\r\n", MBEDTLS_X509_BADCERT_EXPIRED, nothing}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        board_open(b, true);
        b->imds_date = cases[i].date;
        board_start(b);
        board_time = cases[i].clock;
        assert_int_equal(board_chat(b), AZO_ERR_TLS_VERIFY);
        expect_dates(b, cases[i].flag, cases[i].parts);
        assert_int_equal(b->net.peers[0].requests, 0);
        board_close(b);
    }
}

/* A clock that goes wrong while the client is open: the service itself has said what time it is. */
static void a_clock_that_leaps(void **state) {
    board *b = &the_board;
    (void)state;
    need_clock();
    time_t now = __real_time(NULL);
    const char *const parts[] = {"has expired", "2038-01-19", strstr(date_text(now + 7000), " it is"), "Set the clock",
                                 "by an earlier answer it is", NULL};
    board_open(b, true);
    b->service_date = date_line(now);
    board_start(b);
    expect_hello(b);
    b->service_date = "Date: Wed, 21 Oct 2026 07:28:00 GMT\r\n"; /* one in an hour will do */
    b->net.now += 60000;
    expect_hello(b);
    board_time = FAR;
    b->net.now = b->client->net.told_at + 7000000;
    assert_int_equal(board_chat(b), AZO_ERR_TLS_VERIFY);
    expect_dates(b, MBEDTLS_X509_BADCERT_EXPIRED, parts);
    board_close(b);
}

/* ---- */

/* Reads a file of the certificates; the caller frees it. */
static azo_str read_cert(const char *name) {
    const char *dir = getenv("AZO_TEST_CERTS");
    char path[512];
    char *text = (char *)malloc(1 << 16);
    (void)snprintf(path, sizeof path, "%s/%s", dir != NULL && dir[0] != '\0' ? dir : "build/certs", name);
    FILE *file = fopen(path, "rb");
    if (file == NULL || text == NULL) {
        fail_msg("cannot read %s", path);
    }
    size_t len = fread(text, 1, (1 << 16) - 1, file);
    (void)fclose(file);
    text[len] = '\0';
    return azo_s(text);
}

static void write_time(char *out, size_t cap, const mbedtls_x509_time *t) {
    (void)snprintf(out, cap, "%04d-%02d-%02d %02d:%02d:%02d", t->year, t->mon, t->day, t->hour, t->min, t->sec);
}

static int read_certs(void **state) {
    mbedtls_x509_crt crt;
    (void)state;
    chain_pem = read_cert("ec_server.pem");
    key_pem = read_cert("ec_server.key");
    root_pem = read_cert("ec_root.pem");
    mbedtls_x509_crt_init(&crt);
    assert_int_equal(mbedtls_x509_crt_parse(&crt, (const unsigned char *)chain_pem.ptr, chain_pem.len + 1), 0);
    write_time(valid_from, sizeof valid_from, &crt.valid_from);
    write_time(valid_to, sizeof valid_to, &crt.valid_to);
    mbedtls_x509_crt_free(&crt);
    return 0;
}

static int free_certs(void **state) {
    (void)state;
    free((char *)(uintptr_t)chain_pem.ptr);
    free((char *)(uintptr_t)key_pem.ptr);
    free((char *)(uintptr_t)root_pem.ptr);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_through_hooks_alone),
        cmocka_unit_test(hooks_are_needed),
        cmocka_unit_test(no_time_of_day),
        cmocka_unit_test(a_board_that_boots_in_1970),
        cmocka_unit_test(a_client_secret_in_1970),
        cmocka_unit_test(a_date_is_told_and_no_more),
        cmocka_unit_test(a_clock_that_leaps),
    };
    return cmocka_run_group_tests_name("board", tests, read_certs, free_certs);
}
