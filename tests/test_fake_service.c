/* test_fake_service.c - proves that the fake service is strict and that its scripts do what they say.
 *
 * Speaks to it with raw bytes over plain and TLS sockets. AZO_TEST_CERTS says where make_certs.sh put its files.
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include "fake_service.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cmocka.h>

#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>
#if MBEDTLS_VERSION_NUMBER < 0x04000000
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#endif
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
#include <psa/crypto.h>
#endif

#define JSMN_STATIC
#define JSMN_STRICT
#define JSMN_PARENT_LINKS
#include <jsmn.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define KEY "api-key: " FAKE_API_KEY "\r\n"
#define JSON "Content-Type: application/json\r\n"
#define CLASSIC "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
#define TOKEN_PATH "/" FAKE_TENANT_ID "/oauth2/v2.0/token"
#define IMDS_PATH "/metadata/identity/oauth2/token"
#define HELLO "{\"model\":\"gpt-4o\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}"
#define SECRET_ENCODED "a~b.c_d-e%2Bf%2Fg%3Dh%26i%25j%20k"
#define FORM                                                                                                           \
    "grant_type=client_credentials&client_id=" FAKE_CLIENT_ID "&client_secret=" SECRET_ENCODED                         \
    "&scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default"

enum { PATIENCE_MS = 5000, SHORT_MS = 120, PROMPT_MS = 5000, BUFFER_SIZE = 4 * 1024 * 1024, MAX_CHUNKS = 256 };

/* ------------------------------------------------------------------------------------------------ a client */

static char cert_dir[512];

/* Trust, random numbers and versions of all TLS clients. */
static struct {
    mbedtls_ssl_config config;
    mbedtls_x509_crt roots;
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
#endif
} tls;

typedef enum end { STILL_OPEN, CLOSED_WITH_NOTIFY, CLOSED_WITH_FIN, CLOSED_WITH_RESET } end;

typedef struct client {
    int fd;
    bool secure;
    mbedtls_ssl_context ssl;
    end how; /* once nothing more comes */
    size_t len;
    size_t last_read; /* bytes of the last read: under TLS, of the last record */
    char bytes[BUFFER_SIZE + 1];
} client;

typedef struct reply {
    int status;
    char head[16 * 1024];
    char value[512]; /* of the header that was looked for last */
    char *body;
    size_t body_len;
    bool complete;
    size_t chunks[MAX_CHUNKS];
    size_t chunk_count;
} reply;

static long now_ms(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static const char *cert_path(const char *name) {
    static char path[640];
    (void)snprintf(path, sizeof path, "%s/%s", cert_dir, name);
    return path;
}

static bool set_up_tls(void) {
    mbedtls_ssl_config_init(&tls.config);
    mbedtls_x509_crt_init(&tls.roots);
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
    if (psa_crypto_init() != PSA_SUCCESS) {
        return false;
    }
#endif
    bool ok = mbedtls_ssl_config_defaults(&tls.config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
                                          MBEDTLS_SSL_PRESET_DEFAULT) == 0 &&
              mbedtls_x509_crt_parse_file(&tls.roots, cert_path("ca.pem")) == 0;
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    mbedtls_entropy_init(&tls.entropy);
    mbedtls_ctr_drbg_init(&tls.random);
    ok = ok && mbedtls_ctr_drbg_seed(&tls.random, mbedtls_entropy_func, &tls.entropy, NULL, 0) == 0;
    mbedtls_ssl_conf_rng(&tls.config, mbedtls_ctr_drbg_random, &tls.random);
#endif
#if MBEDTLS_VERSION_NUMBER >= 0x03020000
    mbedtls_ssl_conf_min_tls_version(&tls.config, MBEDTLS_SSL_VERSION_TLS1_2);
#else
    mbedtls_ssl_conf_min_version(&tls.config, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
#endif
#if defined(MBEDTLS_SSL_PROTO_TLS1_3) && defined(MBEDTLS_SSL_SESSION_TICKETS) &&                                       \
    MBEDTLS_VERSION_NUMBER >= 0x03060100 && MBEDTLS_VERSION_NUMBER < 0x04000000
    mbedtls_ssl_conf_tls13_enable_signal_new_session_tickets(&tls.config,
                                                             MBEDTLS_SSL_TLS1_3_SIGNAL_NEW_SESSION_TICKETS_ENABLED);
#endif
    mbedtls_ssl_conf_authmode(&tls.config, MBEDTLS_SSL_VERIFY_REQUIRED);
    mbedtls_ssl_conf_ca_chain(&tls.config, &tls.roots, NULL);
    return ok;
}

static void tear_down_tls(void) {
    mbedtls_ssl_config_free(&tls.config);
    mbedtls_x509_crt_free(&tls.roots);
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    mbedtls_ctr_drbg_free(&tls.random);
    mbedtls_entropy_free(&tls.entropy);
#endif
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
    mbedtls_psa_crypto_free();
#endif
}

static int client_send(void *context, const unsigned char *bytes, size_t len) {
    client *c = context;
    ssize_t sent = send(c->fd, bytes, len, MSG_NOSIGNAL);
    return sent < 0 ? MBEDTLS_ERR_NET_SEND_FAILED : (int)sent;
}

static int client_receive(void *context, unsigned char *bytes, size_t len) {
    client *c = context;
    ssize_t received = recv(c->fd, bytes, len, 0);
    if (received >= 0) {
        return (int)received;
    }
    return errno == EAGAIN ? MBEDTLS_ERR_SSL_TIMEOUT : MBEDTLS_ERR_NET_CONN_RESET;
}

static void be_patient(client *c, int ms) {
    struct timeval limit = {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
    assert_int_equal(setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
}

static client *dial_socket(unsigned port) {
    client *c = calloc(1, sizeof *c);
    assert_non_null(c);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(c->fd >= 0);
    int yes = 1;
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    assert_int_equal(connect(c->fd, (struct sockaddr *)&address, sizeof address), 0);
    be_patient(c, PATIENCE_MS);
    return c;
}

/* Also gives the server the session that it is to resume, if there is one. */
static client *dial_tls(unsigned port, const mbedtls_ssl_session *session) {
    client *c = dial_socket(port);
    c->secure = true;
    mbedtls_ssl_init(&c->ssl);
    assert_int_equal(mbedtls_ssl_setup(&c->ssl, &tls.config), 0);
    assert_int_equal(mbedtls_ssl_set_hostname(&c->ssl, "localhost"), 0);
    if (session != NULL) {
        assert_int_equal(mbedtls_ssl_set_session(&c->ssl, session), 0);
    }
    mbedtls_ssl_set_bio(&c->ssl, c, client_send, client_receive, NULL);
    assert_int_equal(mbedtls_ssl_handshake(&c->ssl), 0);
    return c;
}

static void hang_up(client *c) {
    if (c->secure) {
        mbedtls_ssl_free(&c->ssl);
    }
    (void)close(c->fd);
    free(c);
}

static bool try_send(client *c, const char *bytes, size_t len) {
    while (len > 0) {
        const unsigned char *at = (const unsigned char *)bytes;
        int sent = c->secure ? mbedtls_ssl_write(&c->ssl, at, len) : client_send(c, at, len);
        if (sent <= 0) {
            return false;
        }
        bytes += sent;
        len -= (size_t)sent;
    }
    return true;
}

static void say(client *c, const char *string) {
    assert_true(try_send(c, string, strlen(string)));
}

static bool is_ticket(int result) {
#if defined(MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET)
    return result == MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET;
#else
    (void)result;
    return false;
#endif
}

static bool must_repeat(int result) {
    return is_ticket(result) || result == MBEDTLS_ERR_SSL_WANT_READ;
}

static bool read_more(client *c) {
    assert_true(c->len < BUFFER_SIZE);
    unsigned char *to = (unsigned char *)c->bytes + c->len;
    int received;
    do {
        received = c->secure ? mbedtls_ssl_read(&c->ssl, to, BUFFER_SIZE - c->len)
                             : client_receive(c, to, BUFFER_SIZE - c->len);
    } while (c->secure && must_repeat(received));
    if (received <= 0) {
        c->how = received == MBEDTLS_ERR_SSL_TIMEOUT             ? STILL_OPEN
                 : received == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY ? CLOSED_WITH_NOTIFY
                 : received == 0                                 ? CLOSED_WITH_FIN
                                                                 : CLOSED_WITH_RESET;
        return false;
    }
    c->last_read = (size_t)received;
    c->len += (size_t)received;
    c->bytes[c->len] = '\0';
    return true;
}

static void forget(client *c, size_t count) {
    c->len -= count;
    memmove(c->bytes, c->bytes + count, c->len + 1);
}

/* How the connection ends, or that it does not within `ms`; what comes until then stays in c->bytes. */
static end read_to_end(client *c, int ms) {
    be_patient(c, ms);
    while (read_more(c)) {
    }
    be_patient(c, PATIENCE_MS);
    return c->how;
}

/* The value of a header, until the next is asked for; NULL if it is absent. */
static const char *header_in(reply *r, const char *name) {
    size_t len = strlen(name);
    for (const char *line = strchr(r->head, '\n'); line != NULL; line = strchr(line + 1, '\n')) {
        if (strncasecmp(line + 1, name, len) == 0 && line[1 + len] == ':') {
            const char *at = line + 2 + len + strspn(line + 2 + len, " ");
            (void)snprintf(r->value, sizeof r->value, "%.*s", (int)strcspn(at, "\r"), at);
            return r->value;
        }
    }
    return NULL;
}

static bool have(client *c, size_t count) {
    while (c->len < count) {
        if (!read_more(c)) {
            return false;
        }
    }
    return true;
}

static void add_body(client *c, reply *r, size_t count) {
    r->body = realloc(r->body, r->body_len + count + 1);
    assert_non_null(r->body);
    memcpy(r->body + r->body_len, c->bytes, count);
    r->body_len += count;
    r->body[r->body_len] = '\0';
    forget(c, count);
}

/* A line without its CRLF. */
static bool read_line(client *c, char *line, size_t size) {
    char *found;
    while ((found = strstr(c->bytes, "\r\n")) == NULL) {
        if (!read_more(c)) {
            return false;
        }
    }
    size_t len = (size_t)(found - c->bytes);
    assert_true(len < size);
    memcpy(line, c->bytes, len);
    line[len] = '\0';
    forget(c, len + 2);
    return true;
}

static bool read_chunks(client *c, reply *r) {
    char line[512];
    for (;;) {
        if (!read_line(c, line, sizeof line)) {
            return false;
        }
        size_t size = strtoul(line, NULL, 16);
        if (size == 0) {
            break;
        }
        if (r->chunk_count < MAX_CHUNKS) {
            r->chunks[r->chunk_count++] = size;
        }
        if (!have(c, size + 2)) {
            return false;
        }
        add_body(c, r, size);
        assert_memory_equal(c->bytes, "\r\n", 2);
        forget(c, 2);
    }
    while (read_line(c, line, sizeof line)) {
        if (*line == '\0') {
            return true;
        }
    }
    return false;
}

static bool read_head(client *c, reply *r) {
    char *found;
    while ((found = strstr(c->bytes, "\r\n\r\n")) == NULL) {
        if (!read_more(c)) {
            return false;
        }
    }
    size_t len = (size_t)(found - c->bytes) + 4;
    assert_true(len < sizeof r->head);
    memcpy(r->head, c->bytes, len);
    r->head[len] = '\0';
    r->status = (int)strtol(r->head + 9, NULL, 10);
    forget(c, len);
    return true;
}

/* A reply in whatever framing. What is missing or cut shows in `status` 0 and in `complete`. */
static reply read_reply(client *c) {
    reply r = {0};
    if (!read_head(c, &r)) {
        return r;
    }
    const char *length = header_in(&r, "content-length");
    size_t wanted = length != NULL ? strtoul(length, NULL, 10) : 0;
    add_body(c, &r, 0);
    if (header_in(&r, "transfer-encoding") != NULL) {
        r.complete = read_chunks(c, &r);
    } else if (length != NULL) {
        r.complete = have(c, wanted);
        add_body(c, &r, r.complete ? wanted : c->len);
    } else if (r.status >= 200 && r.status != 204 && r.status != 304) {
        r.complete = read_to_end(c, PATIENCE_MS) != STILL_OPEN;
        add_body(c, &r, c->len);
    }
    return r;
}

static bool is_json(const char *body, size_t len) {
    jsmn_parser parser;
    jsmn_init(&parser);
    return len > 0 && *body == '{' && jsmn_parse(&parser, body, len, NULL, 0) > 0;
}

/* ------------------------------------------------------------------------------------------------ a service */

static fake *service;

static void start_with(fake_options options) {
    static char cert[640];
    static char key[640];
    (void)snprintf(cert, sizeof cert, "%s/server.pem", cert_dir);
    (void)snprintf(key, sizeof key, "%s/server.key", cert_dir);
    options.cert_file = cert;
    options.key_file = key;
    service = fake_start(&options);
    assert_non_null(service);
}

static int start_plain(void **state) {
    (void)state;
    start_with((fake_options){.plain_service = true, .plain_entra = true});
    return 0;
}

static int start_secure(void **state) {
    (void)state;
    start_with((fake_options){0});
    return 0;
}

/* Every test ends with proof that stopping is quick. */
static int stop(void **state) {
    (void)state;
    long began = now_ms();
    fake_stop(service);
    service = NULL;
    return now_ms() - began < PROMPT_MS ? 0 : -1;
}

static client *dial(fake_role role) {
    return dial_socket(fake_port(service, role));
}

static void say_request(client *c, fake_role role, const char *line, const char *headers, const char *body) {
    char *bytes = malloc(strlen(line) + strlen(headers) + (body != NULL ? strlen(body) : 0) + 256);
    assert_non_null(bytes);
    char length[64] = "";
    if (body != NULL) {
        (void)snprintf(length, sizeof length, "Content-Length: %zu\r\n", strlen(body));
    }
    (void)sprintf(bytes, "%s HTTP/1.1\r\nHost: localhost:%u\r\n%s%s\r\n%s", line, fake_port(service, role), headers,
                  length, body != NULL ? body : "");
    say(c, bytes);
    free(bytes);
}

/* One request on a connection of its own. Free the body. */
static reply ask(fake_role role, const char *line, const char *headers, const char *body) {
    client *c = dial(role);
    say_request(c, role, line, headers, body);
    reply r = read_reply(c);
    hang_up(c);
    return r;
}

static void fail_with(const reply *r, const char *what) {
    print_error("%s\n%d %s\n", what, r->status, r->body != NULL ? r->body : "");
    fail();
}

static void expect(reply r, int status, const char *part) {
    if (r.status != status || !r.complete || (part != NULL && strstr(r.body, part) == NULL)) {
        fail_with(&r, part);
    }
    const char *type = header_in(&r, "content-type");
    if (type != NULL && strncmp(type, "application/json", 16) == 0 && !is_json(r.body, r.body_len)) {
        fail_with(&r, "not JSON");
    }
    free(r.body);
}

static reply chat(const char *body) {
    return ask(FAKE_SERVICE, "POST /openai/v1/chat/completions", KEY JSON, body);
}

static reply get_token(const char *form) {
    return ask(FAKE_ENTRA, "POST " TOKEN_PATH, "Content-Type: application/x-www-form-urlencoded\r\n", form);
}

static reply get_imds(const char *query) {
    char line[1024];
    (void)snprintf(line, sizeof line, "GET " IMDS_PATH "?%s", query);
    return ask(FAKE_IMDS, line, "Metadata: true\r\n", NULL);
}

static void token_in(const char *body, char *token, size_t size) {
    const char *at = strstr(body, "\"access_token\":\"");
    assert_non_null(at);
    at += strlen("\"access_token\":\"");
    (void)snprintf(token, size, "%.*s", (int)strcspn(at, "\""), at);
}

/* A header line with a token of Entra for that scope. */
static const char *bearer(const char *client_id, const char *resource) {
    static char line[256];
    char form[1024];
    char token[128];
    (void)snprintf(form, sizeof form,
                   "grant_type=client_credentials&client_id=%s&client_secret=%s&scope=https%%3A%%2F%%2F%s%%2F.default",
                   client_id, SECRET_ENCODED, resource);
    reply r = get_token(form);
    token_in(r.body, token, sizeof token);
    expect(r, 200, "Bearer");
    (void)snprintf(line, sizeof line, "Authorization: Bearer %s\r\n" JSON, token);
    return line;
}

/* ------------------------------------------------------------------------------------------------ starting */

static void test_start_refuses_what_cannot_be(void **state) {
    (void)state;
    char cert[640];
    (void)snprintf(cert, sizeof cert, "%s", cert_path("server.pem"));
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    FILE *null = freopen("/dev/null", "w", stderr);
    assert_non_null(null);
    fake *none = fake_start(&(fake_options){0});
    fake *no_key = fake_start(&(fake_options){.cert_file = cert, .key_file = "missing"});
    fake *bad_versions = fake_start(
        &(fake_options){.cert_file = cert, .key_file = cert_path("server.key"), .tls_min = 13, .tls_max = 12});
    fake *plain = fake_start(&(fake_options){.plain_service = true, .plain_entra = true});
    assert_non_null(plain);
    fake *taken =
        fake_start(&(fake_options){.plain_service = true, .plain_entra = true, .ports = {fake_port(plain, FAKE_IMDS)}});
    fflush(stderr);
    (void)dup2(saved, STDERR_FILENO);
    (void)close(saved);
    assert_null(none);
    assert_null(no_key);
    assert_null(bad_versions);
    assert_null(taken);
    fake_stop(plain);
    fake_stop(NULL);
}

static void test_ports_can_be_chosen(void **state) {
    (void)state;
    fake *first = fake_start(&(fake_options){.plain_service = true, .plain_entra = true});
    assert_non_null(first);
    unsigned port = fake_port(first, FAKE_SERVICE);
    assert_true(port != 0 && port != fake_port(first, FAKE_ENTRA) && port != fake_port(first, FAKE_IMDS));
    fake_stop(first);
    fake *second = fake_start(&(fake_options){.plain_service = true, .plain_entra = true, .ports = {port, 0, 0}});
    assert_non_null(second);
    assert_int_equal(fake_port(second, FAKE_SERVICE), port);
    fake_stop(second);
}

/* ------------------------------------------------------------------------------------------------ heads */

static void test_heads_are_checked(void **state) {
    (void)state;
    static const struct {
        const char *headers; /* after the request line; %u is the port */
        int status;
        const char *part;
    } cases[] = {
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65\r\n", 200, "You said: Hello"},
        {"host:localhost:%u\r\nAPI-KEY:" FAKE_API_KEY "\r\ncontent-type:application/json; charset=utf-8\r\n"
         "content-length:65\r\nx-ms-client-request-id: mine\r\n",
         200, "You said: Hello"},
        {"Host: contoso.openai.azure.test\r\n" KEY JSON "Content-Length: 65\r\n", 200, "You said: Hello"},
        {KEY JSON "Content-Length: 65\r\n", 400, "Host"},
        {"Host: localhost\r\n" KEY JSON "Content-Length: 65\r\n", 400, "Host"},
        {"Host: localhost:1\r\n" KEY JSON "Content-Length: 65\r\n", 400, "Host"},
        {"Host: localhost:0%u\r\n" KEY JSON "Content-Length: 65\r\n", 400, "Host"},
        {"Host: https://localhost:%u\r\n" KEY JSON "Content-Length: 65\r\n", 400, "Host"},
        {"Host: localhost:%u/\r\n" KEY JSON "Content-Length: 65\r\n", 400, "Host"},
        {"Host: localhost:%u\r\nHost: localhost\r\n" KEY JSON "Content-Length: 65\r\n", 400, "twice"},
        {"Host: localhost:%u\r\n" KEY KEY JSON "Content-Length: 65\r\n", 400, "twice"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65\r\ncontent-length: 65\r\n", 400, "twice"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65\r\nTransfer-Encoding: chunked\r\n", 400, "Transfer"},
        {"Host: localhost:%u\r\n" KEY JSON "Transfer-Encoding: gzip, chunked\r\n", 400, "Transfer"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: +65\r\n", 400, "Content-Length"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65, 68\r\n", 400, "Content-Length"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 999999999999\r\n", 413, "long"},
        {"Host: localhost:%u\r\n" KEY JSON, 411, "Content-Length"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length : 65\r\n", 400, "NAME"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65\r\nx: a\r\n b\r\n", 400, "NAME"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65\r\nno colon\r\n", 400, "NAME"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65\nx: y\r\n", 400, "CRLF"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65\rx: y\r\n", 400, "CRLF"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65\r\nx: \xc3\xbc\r\n", 400, "byte"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65\r\nx: \x01\r\n", 400, "byte"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65\r\nConnection: upgrade\r\n", 400, "Connection"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65\r\nConnection: close\r\n", 200, "You said"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65\r\na:1\r\nb:1\r\nc:1\r\nd:1\r\ne:1\r\nf:1\r\ng:1\r\n"
         "h:1\r\ni:1\r\nj:1\r\n",
         200, "You said"},
        {"Host: localhost:%u\r\n" KEY JSON "Content-Length: 65\r\na:1\r\nb:1\r\nc:1\r\nd:1\r\ne:1\r\nf:1\r\ng:1\r\n"
         "h:1\r\ni:1\r\nj:1\r\nk:1\r\n",
         431, "custom"},
        {"Host: localhost:%u\r\n" JSON "Content-Length: 65\r\n", 401, "\"code\":\"401\""},
        {"Host: localhost:%u\r\n" KEY "Authorization: Bearer x\r\n" JSON "Content-Length: 65\r\n", 400, "both"},
        {"Host: localhost:%u\r\n" KEY "Content-Length: 65\r\n", 415, "application/json"},
        {"Host: localhost:%u\r\n" KEY "Content-Type: application/jsonp\r\nContent-Length: 65\r\n", 415, "json"},
    };
    assert_int_equal(strlen(HELLO), 65);
    for (size_t i = 0; i < COUNT(cases); i++) {
        char head[2048] = "POST /openai/v1/chat/completions HTTP/1.1\r\n";
        size_t used = strlen(head);
        const char *port = strstr(cases[i].headers, "%u");
        if (port != NULL) {
            (void)snprintf(head + used, sizeof head - used, "%.*s%u%s\r\n", (int)(port - cases[i].headers),
                           cases[i].headers, fake_port(service, FAKE_SERVICE), port + 2);
        } else {
            (void)snprintf(head + used, sizeof head - used, "%s\r\n", cases[i].headers);
        }
        client *c = dial(FAKE_SERVICE);
        say(c, head);
        (void)try_send(c, HELLO, strlen(HELLO));
        print_message("%zu: %s", i, cases[i].headers);
        expect(read_reply(c), cases[i].status, cases[i].part);
        hang_up(c);
        assert_int_equal(fake_count(service, FAKE_SERVICE), i + 1);
    }
}

static void test_request_lines_are_checked(void **state) {
    (void)state;
    static const struct {
        const char *line;
        int status;
        const char *part;
    } cases[] = {
        {"GET /openai/v1/models HTTP/1.1", 200, "\"list\""},
        {"GET /openai/v1/models  HTTP/1.1", 400, "METHOD TARGET VERSION"},
        {"GET /openai/v1/models", 400, "METHOD TARGET VERSION"},
        {"GET  HTTP/1.1", 400, "target"},
        {"G(T /openai/v1/models HTTP/1.1", 400, "token"},
        {"GET /openai/v1/models HTTP/1.0", 505, "HTTP/1.1"},
        {"GET /openai/v1/models HTTP/2", 505, "HTTP/1.1"},
        {"GET http://localhost/openai/v1/models HTTP/1.1", 400, "target"},
        {"GET /openai/v1/models#x HTTP/1.1", 400, "target"},
        {"GET /openai/v1/models?a=%2 HTTP/1.1", 400, "target"},
        {"GET /openai/v1/models?a=\"b\" HTTP/1.1", 400, "target"},
        {"CONNECT localhost:443 HTTP/1.1", 400, "target"},
        {"DELETE /openai/v1/models HTTP/1.1", 405, "405"},
        {"get /openai/v1/models HTTP/1.1", 405, "405"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char head[1024];
        (void)snprintf(head, sizeof head, "%s\r\nHost: localhost:%u\r\n" KEY "\r\n", cases[i].line,
                       fake_port(service, FAKE_SERVICE));
        client *c = dial(FAKE_SERVICE);
        say(c, head);
        print_message("%s\n", cases[i].line);
        expect(read_reply(c), cases[i].status, cases[i].part);
        hang_up(c);
    }
    assert_string_equal(fake_request(service, FAKE_SERVICE, 0)->method, "GET");
    assert_string_equal(fake_request(service, FAKE_SERVICE, 1)->method, "");
}

static void test_bodies_end_where_they_say(void **state) {
    (void)state;
    client *c = dial(FAKE_SERVICE);
    say_request(c, FAKE_SERVICE, "POST /openai/v1/chat/completions", KEY JSON "Transfer-Encoding: chunked\r\n", NULL);
    say(c, "5\r\n{\"mod\r\n3C\r\n");
    say(c, &HELLO[5]);
    say(c, "\r\n0\r\n\r\n");
    expect(read_reply(c), 200, "You said: Hello");
    assert_string_equal(fake_request(service, FAKE_SERVICE, 0)->body, HELLO);
    assert_int_equal(fake_request(service, FAKE_SERVICE, 0)->body_len, strlen(HELLO));

    /* The connection goes on, and byte by byte is as good as at once. */
    static const char models[] = "GET /openai/v1/models HTTP/1.1\r\nHost: x\r\n" KEY "\r\n";
    for (size_t i = 0; i < sizeof models - 1; i++) {
        assert_true(try_send(c, &models[i], 1));
    }
    expect(read_reply(c), 200, "\"list\"");

    /* More than Content-Length is the start of something else. */
    say_request(c, FAKE_SERVICE, "POST /openai/v1/chat/completions", KEY JSON "Content-Length: 65\r\n", NULL);
    say(c, HELLO "\r\n");
    expect(read_reply(c), 200, "You said: Hello");
    say(c, "\r\n");
    expect(read_reply(c), 400, "METHOD TARGET VERSION");
    assert_int_equal(read_to_end(c, PATIENCE_MS), CLOSED_WITH_FIN);
    hang_up(c);

    static const char *const broken[] = {"x\r\n",           "5;a=b\r\nhello\r\n0\r\n\r\n", "5\nhello",
                                         "5\r\nhello!\r\n", "0\r\nx: y\r\n\r\n",           " 5\r\nhello\r\n",
                                         "123456789\r\n"};
    for (size_t i = 0; i < COUNT(broken); i++) {
        c = dial(FAKE_SERVICE);
        say_request(c, FAKE_SERVICE, "POST /openai/v1/files", KEY JSON "Transfer-Encoding: chunked\r\n", NULL);
        say(c, broken[i]);
        expect(read_reply(c), 400, "chunk");
        hang_up(c);
    }
}

static void test_continue_is_sent_if_expected(void **state) {
    (void)state;
    client *c = dial(FAKE_SERVICE);
    say_request(c, FAKE_SERVICE, "POST /openai/v1/files", KEY JSON "Expect: 100-continue\r\nContent-Length: 3\r\n",
                NULL);
    reply interim = read_reply(c);
    assert_int_equal(interim.status, 100);
    free(interim.body);
    say(c, "abc");
    expect(read_reply(c), 200, "\"bytes\":3");
    hang_up(c);
}

static void test_half_requests_are_seen(void **state) {
    (void)state;
    client *c = dial(FAKE_SERVICE);
    say(c, "POST /openai");
    hang_up(c);
    assert_true(fake_wait(service, FAKE_SERVICE, 1, PATIENCE_MS));
    assert_string_equal(fake_request(service, FAKE_SERVICE, 0)->method, "");
    assert_string_equal(fake_request(service, FAKE_SERVICE, 0)->head, "POST /openai");
    c = dial(FAKE_SERVICE);
    say_request(c, FAKE_SERVICE, "POST /openai/v1/files", KEY "Content-Length: 10\r\n", NULL);
    say(c, "12345");
    hang_up(c);
    assert_false(fake_wait(service, FAKE_SERVICE, 2, SHORT_MS));
}

static void test_requests_are_kept(void **state) {
    (void)state;
    client *c = dial(FAKE_SERVICE);
    say_request(c, FAKE_SERVICE, "GET /openai/models?api-version=2024-10-21&x=a%20b+c", KEY "X-Mine:  two words \r\n",
                NULL);
    expect(read_reply(c), 200, "text-embedding-3-small");
    say_request(c, FAKE_SERVICE, "POST /openai/v1/files?x=query", KEY "Content-Type: text/plain\r\n",
                "y=1&x=body&z=%7e");
    expect(read_reply(c), 200, "\"bytes\":16");
    const fake_seen *seen = fake_request(service, FAKE_SERVICE, 0);
    char value[16];
    assert_string_equal(seen->method, "GET");
    assert_string_equal(seen->target, "/openai/models?api-version=2024-10-21&x=a%20b+c");
    assert_string_equal(seen->headers[2].name, "X-Mine");
    assert_string_equal(fake_seen_header(seen, "x-mINE"), "two words");
    assert_null(fake_seen_header(seen, "x-min"));
    assert_int_equal(strncmp(seen->head, "GET /openai/models?", 19), 0);
    assert_string_equal(seen->head + strlen(seen->head) - 4, "\r\n\r\n");
    assert_true(fake_seen_field(seen, "x", value, sizeof value));
    assert_string_equal(value, "a b c");
    assert_false(fake_seen_field(seen, "x", value, 5));
    assert_false(fake_seen_field(seen, "y", value, sizeof value));
    assert_int_equal(seen->connection, 1);
    assert_string_equal(seen->tls, "");
    assert_string_equal(seen->sni, "");
    assert_true(seen->at_ms >= 0 && seen->at_ms < PATIENCE_MS);
    seen = fake_request(service, FAKE_SERVICE, 1);
    assert_true(fake_seen_field(seen, "x", value, sizeof value));
    assert_string_equal(value, "query");
    assert_true(fake_seen_field(seen, "z", value, sizeof value));
    assert_string_equal(value, "~");
    assert_int_equal(seen->connection, 1);
    assert_null(fake_request(service, FAKE_SERVICE, 2));
    assert_null(fake_request(service, FAKE_ENTRA, 0));
    assert_int_equal(fake_connections(service, FAKE_SERVICE), 1);
    hang_up(c);
}

/* ------------------------------------------------------------------------------------------------ the service */

static void test_paths_and_versions(void **state) {
    (void)state;
    static const struct {
        const char *line;
        int status;
        const char *part;
    } cases[] = {
        {"POST " CLASSIC, 200, "You said: Hello"},
        {"POST /openai/deployments/gpt-4o%20prod/chat/completions?api-version=2025-04-01-preview", 200, "You said"},
        {"POST /openai/deployments/gpt%2D4o/chat/completions?api-version=2024-10-21", 200, "You said"},
        {"POST /openai/v1/chat/completions", 200, "You said: Hello"},
        {"POST /openai/v1/chat/completions?api-version=v1", 200, "You said"},
        {"POST /openai/v1/chat/completions?api-version=preview", 200, "You said"},
        {"POST /openai/v1/chat/completions?api-version=2024-10-21", 400, "API version not supported"},
        {"POST /openai/deployments/gpt-4o/chat/completions", 404, "Resource not found"},
        {"POST /openai/deployments/gpt-4o/chat/completions?api-version=2024-05-13", 404, "Resource not found"},
        {"POST /openai/deployments/gpt-4o/chat/completions?api-version=v1", 404, "Resource not found"},
        {"POST " CLASSIC "&api-version=2024-10-21", 400, "twice"},
        {"POST " CLASSIC "&x", 400, "NAME=VALUE"},
        {"POST " CLASSIC "&x=/", 400, "NAME=VALUE"},
        {"POST " CLASSIC "&", 400, "NAME=VALUE"},
        {"POST /openai/deployments/gpt-5/chat/completions?api-version=2024-10-21", 404, "DeploymentNotFound"},
        {"POST /openai/deployments/gpt-4o%2Fprod/chat/completions?api-version=2024-10-21", 404, "DeploymentNotFound"},
        {"POST /openai/deployments/gpt-4o+prod/chat/completions?api-version=2024-10-21", 404, "DeploymentNotFound"},
        {"POST /openai/deployments/embed/chat/completions?api-version=2024-10-21", 400, "OperationNotSupported"},
        {"POST /openai/deployments//chat/completions?api-version=2024-10-21", 404, "Resource not found"},
        {"POST //openai/v1/chat/completions", 404, "Resource not found"},
        {"POST /openai/v1//chat/completions", 404, "Resource not found"},
        {"POST /openai/v1/chat/completions/", 404, "Resource not found"},
        {"POST /v1/chat/completions", 404, "Resource not found"},
        {"POST /openai/chat/completions?api-version=2024-10-21", 404, "Resource not found"},
        {"POST /openai/v1/deployments/gpt-4o/chat/completions", 404, "Resource not found"},
        {"POST /openai/v1/responses", 404, "Resource not found"},
        {"PUT /openai/v1/chat/completions", 405, "405"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        print_message("%s\n", cases[i].line);
        expect(ask(FAKE_SERVICE, cases[i].line, KEY JSON, HELLO), cases[i].status, cases[i].part);
    }
    expect(chat("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"), 400, "\"param\":\"model\"");
    expect(chat("{\"model\":\"gpt-4\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"), 404,
           "DeploymentNotFound");
    expect(ask(FAKE_SERVICE, "GET /openai/models?api-version=2024-10-21", KEY, NULL), 200, "\"list\"");
    expect(ask(FAKE_SERVICE, "GET /openai/models", KEY, NULL), 404, "Resource not found");
    expect(ask(FAKE_SERVICE, "GET /openai/v1/models", KEY, "x"), 400, "GET has a body");
}

static void test_answers_have_the_headers(void **state) {
    (void)state;
    reply r = ask(FAKE_SERVICE, "POST " CLASSIC, KEY JSON "x-ms-client-request-id: mine\r\n", HELLO);
    assert_string_equal(header_in(&r, "x-ms-client-request-id"), "mine");
    assert_string_equal(header_in(&r, "x-ms-region"), "Sweden Central");
    assert_string_equal(header_in(&r, "x-ratelimit-remaining-requests"), "79");
    assert_string_equal(header_in(&r, "x-ratelimit-remaining-tokens"), "61353");
    assert_int_equal(strlen(header_in(&r, "apim-request-id")), 36);
    assert_int_equal(strlen(header_in(&r, "x-request-id")), 36);
    assert_int_equal(strlen(header_in(&r, "date")), 29);
    assert_non_null(strstr(r.body, "\"model\":\"gpt-4o-2024-11-20\""));
    assert_non_null(strstr(r.body, "\"prompt_filter_results\":[{\"prompt_index\":0"));
    expect(r, 200, "\"finish_reason\":\"stop\"");
    r = ask(FAKE_SERVICE, "POST " CLASSIC, "api-key: wrong\r\n" JSON, HELLO);
    assert_non_null(header_in(&r, "apim-request-id"));
    assert_null(header_in(&r, "x-request-id"));
    expect(r, 401, "{\"error\":{\"code\":\"401\"");
}

static void test_json_is_checked(void **state) {
    (void)state;
#define ASK(more) "{\"model\":\"gpt-4o\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" more "}"
#define SAY(messages) "{\"model\":\"gpt-4o\",\"messages\":" messages "}"
#define TOOL ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"
#define CALLS                                                                                                          \
    "{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":["                  \
    "{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}},"                        \
    "{\"id\":\"c2\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}"
#define RESULT(id) "{\"role\":\"tool\",\"tool_call_id\":\"" id "\",\"content\":\"r\"}"
    static const struct {
        const char *body;
        const char *part; /* NULL: it is right */
    } cases[] = {
        {ASK(""), NULL},
        {ASK(",\"temperature\":0.5,\"top_p\":1e0,\"n\":2,\"seed\":-9223372036854775808,\"stop\":[\"a\",\"b\"],"
             "\"max_tokens\":5,\"logit_bias\":{\"50256\":-100},\"metadata\":{\"a\":\"b\"},\"user\":\"u\""),
         NULL},
        {ASK(TOOL ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}},"
                  "\"parallel_tool_calls\":false"),
         NULL},
        {SAY("[" CALLS "," RESULT("c2") "," RESULT("c\\u0031") "]"), NULL},
        {SAY("[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\","
             "\"image_url\":{\"url\":\"data:image/png;base64,AA==\",\"detail\":\"low\"}}]}]"),
         NULL},
        {"", "not valid JSON"},
        {"{", "not valid JSON"},
        {ASK("") "x", "not valid JSON"},
        {ASK(",\"n\":01"), "not valid JSON"},
        {ASK(",\"n\":1."), "not valid JSON"},
        {ASK(",\"n\":nul"), "not valid JSON"},
        {ASK(",\"user\":\"\t\""), "not valid JSON"},
        {ASK(",\"user\":\"\xff\""), "not valid JSON"},
        {ASK(",\"user\":\"\\x\""), "not valid JSON"},
        {ASK(","), "not valid JSON"},
        {"[]", "has to be an object"},
        {ASK(",\"n\":1,\"n\":1"), "\"param\":\"n\",\"code\":\"duplicate_parameter\""},
        {ASK(",\"n\":1,\"\\u006e\":1"), "\"code\":\"duplicate_parameter\""},
        {ASK(",\"nonsense\":1"), "\"param\":\"nonsense\",\"code\":\"unknown_parameter\""},
        {ASK(",\"temperature\":\"1\""), "\"param\":\"temperature\",\"code\":\"invalid_type\""},
        {ASK(",\"temperature\":2.5"), "\"param\":\"temperature\",\"code\":\"invalid_value\""},
        {ASK(",\"n\":0"), "\"param\":\"n\""},
        {ASK(",\"n\":129"), "\"param\":\"n\""},
        {ASK(",\"n\":1.0"), "\"param\":\"n\",\"code\":\"invalid_type\""},
        {ASK(",\"seed\":9223372036854775808"), "\"param\":\"seed\""},
        {ASK(",\"stream\":\"true\""), "\"param\":\"stream\""},
        {ASK(",\"stream_options\":{\"include_usage\":true}"), "\"param\":\"stream_options\""},
        {ASK(",\"stream\":true,\"stream_options\":{\"x\":true}"), "\"param\":\"stream_options.x\""},
        {ASK(",\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]"), "\"param\":\"stop\""},
        {ASK(",\"stop\":[\"a\",1]"), "\"param\":\"stop[1]\""},
        {ASK(",\"logit_bias\":{\"1\":101}"), "\"param\":\"logit_bias.1\""},
        {ASK(",\"metadata\":{\"a\":1}"), "\"param\":\"metadata.a\""},
        {ASK(",\"top_logprobs\":2"), "\"param\":\"top_logprobs\""},
        {ASK(",\"max_tokens\":2,\"max_completion_tokens\":2"), "\"param\":\"max_tokens\""},
        {ASK(",\"reasoning_effort\":\"huge\""), "\"param\":\"reasoning_effort\""},
        {ASK(",\"response_format\":{\"type\":\"xml\"}"), "\"param\":\"response_format.type\""},
        {ASK(",\"response_format\":{\"type\":\"json_schema\"}"), "\"param\":\"response_format.json_schema\""},
        {ASK(",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a b\",\"schema\":{}}}"),
         "\"param\":\"response_format.json_schema.name\""},
        {ASK(",\"response_format\":{\"type\":\"json_object\"}"), "must contain the word 'json'"},
        {ASK(",\"tools\":[]"), "\"param\":\"tools\""},
        {ASK(",\"tools\":[{\"type\":\"function\",\"function\":{}}]"), "\"param\":\"tools[0].function.name\""},
        {ASK(",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a.b\"}}]"), "tools[0].function.name"},
        {ASK(",\"tools\":[{\"type\":\"function\",\"name\":\"f\"}]"), "\"param\":\"tools[0].name\""},
        {ASK(",\"tool_choice\":\"auto\""), "\"param\":\"tool_choice\""},
        {ASK(TOOL ",\"tool_choice\":\"any\""), "\"param\":\"tool_choice\""},
        {ASK(TOOL ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}"),
         "\"param\":\"tool_choice\""},
        {ASK(",\"parallel_tool_calls\":true"), "\"param\":\"parallel_tool_calls\""},
        {"{\"model\":\"gpt-4o\"}", "\"param\":\"messages\",\"code\":\"missing_required_parameter\""},
        {SAY("[]"), "\"param\":\"messages\""},
        {SAY("{}"), "\"param\":\"messages\",\"code\":\"invalid_type\""},
        {SAY("[1]"), "\"param\":\"messages[0]\""},
        {SAY("[{\"content\":\"x\"}]"), "\"param\":\"messages[0].role\""},
        {SAY("[{\"role\":\"robot\",\"content\":\"x\"}]"), "\"param\":\"messages[0].role\""},
        {SAY("[{\"role\":\"user\"}]"), "\"param\":\"messages[0].content\""},
        {SAY("[{\"role\":\"user\",\"content\":null}]"), "\"param\":\"messages[0].content\""},
        {SAY("[{\"role\":\"user\",\"content\":[]}]"), "\"param\":\"messages[0].content\""},
        {SAY("[{\"role\":\"user\",\"content\":\"x\",\"extra\":1}]"), "\"param\":\"messages[0].extra\""},
        {SAY("[{\"role\":\"assistant\"}]"), "\"param\":\"messages[0].content\""},
        {SAY("[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]"), "messages[0].content[0].text"},
        {SAY("[{\"role\":\"system\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://x\"}}]}]"),
         "messages[0].content[0].type"},
        {SAY("[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"x\"}}]}]"),
         "image_url"},
        {SAY("[{\"role\":\"tool\",\"content\":\"x\"}]"), "\"param\":\"messages[0].tool_call_id\""},
        {SAY("[{\"role\":\"tool\",\"content\":\"x\",\"tool_call_id\":\"c1\"}]"), "\"param\":\"messages[0].role\""},
        {SAY("[" CALLS "]"), "must be followed by tool messages"},
        {SAY("[" CALLS "," RESULT("c1") "]"), "There is none for: c2"},
        {SAY("[" CALLS "," RESULT("c1") "," RESULT("c1") "]"), "\"param\":\"messages[3].tool_call_id\""},
        {SAY("[" CALLS "," RESULT("c1") ",{\"role\":\"user\",\"content\":\"x\"}," RESULT("c2") "]"), "none for: c2"},
        {SAY("[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\",\"function\":"
             "{\"name\":\"f\",\"arguments\":{}}}]}]"),
         "\"param\":\"messages[0].tool_calls[0].function.arguments\""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        print_message("%s\n", cases[i].body);
        expect(chat(cases[i].body), cases[i].part == NULL ? 200 : 400, cases[i].part);
    }
    reply r = chat("{");
    assert_non_null(header_in(&r, "x-request-id"));
    expect(r, 400, "\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}");
}

static void test_deep_and_long_json(void **state) {
    (void)state;
    char deep[400] = "{\"model\":\"gpt-4o\",\"messages\":";
    size_t used = strlen(deep);
    memset(deep + used, '[', 100);
    memset(deep + used + 100, ']', 100);
    expect(chat(deep), 400, "not valid JSON");
    size_t size = 64 * 1024;
    char *body = malloc(size + 256);
    assert_non_null(body);
    (void)strcpy(body, "{\"model\":\"gpt-4o\",\"messages\":[{\"role\":\"user\",\"content\":\"");
    used = strlen(body);
    memset(body + used, 'x', size);
    (void)strcpy(body + used + size, "\"}],\"temperature\":0e999999999}");
    reply r = chat(body);
    assert_true(r.body_len > size);
    expect(r, 200, "You said: xxxx");
    free(body);
}

static void test_chat_says_what_was_promised(void **state) {
    (void)state;
    expect(chat("{\"model\":\"gpt-4o\",\"n\":2,\"messages\":[{\"role\":\"developer\",\"content\":\"s\"},{\"role\":"
                "\"user\",\"content\":\"first\"},{\"role\":\"assistant\",\"content\":\"a\"},{\"role\":\"user\","
                "\"content\":[{\"type\":\"text\",\"text\":\"Gr\\u00fcezi \\ud83d\\ude00\"},{\"type\":\"text\","
                "\"text\":\"\\n\\\"!\\\"\"}]}]}"),
           200,
           "\"content\":\"You said: Gr\xc3\xbc"
           "ezi \xf0\x9f\x98\x80\\n\\\"!\\\"\"");
    reply r = chat("{\"model\":\"gpt-4o\",\"n\":2,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
    assert_non_null(strstr(r.body, "\"index\":1,\"logprobs\":null,\"message\""));
    expect(r, 200, "\"index\":0,\"logprobs\":null,\"message\"");
    expect(chat("{\"model\":\"gpt-4o\",\"response_format\":{\"type\":\"json_object\"},\"messages\":[{\"role\":\"user\","
                "\"content\":\"JSON of \\\"x\\\"\"}]}"),
           200, "\"content\":\"{\\\"echo\\\": \\\"JSON of \\\\\\\"x\\\\\\\"\\\"}\"");
    r = chat("{\"model\":\"gpt-4o\",\"messages\":[{\"role\":\"user\",\"content\":\"what is FORBIDDEN?\"}]}");
    assert_non_null(
        strstr(r.body, "\"innererror\":{\"code\":\"ResponsibleAIPolicyViolation\",\"content_filter_result\""));
    expect(r, 400, "\"param\":\"prompt\",\"code\":\"content_filter\",\"status\":400");
}

#define TOOLS                                                                                                          \
    ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"get_time\"}},{\"type\":\"function\","                 \
    "\"function\":{\"name\":\"get_weather\",\"parameters\":{\"type\":\"object\"}}}]"
#define WEATHER "{\"model\":\"gpt-4o\",\"messages\":[{\"role\":\"user\",\"content\":\"Weather?\"}]"

static void test_tools_are_called(void **state) {
    (void)state;
    reply r = chat(WEATHER TOOLS "}");
    assert_non_null(strstr(r.body, "{\"arguments\":\"{\\\"city\\\":\\\"Bern\\\"}\",\"name\":\"get_weather\"}"));
    assert_non_null(strstr(r.body, "{\"arguments\":\"{\\\"tz\\\":\\\"CET\\\"}\",\"name\":\"get_time\"}"));
    assert_non_null(strstr(r.body, "\"content\":null"));
    expect(r, 200, "\"finish_reason\":\"tool_calls\"");
    expect(chat(WEATHER "}"), 200, "You said: Weather?");
    expect(chat(WEATHER TOOLS ",\"tool_choice\":\"none\"}"), 200, "You said: Weather?");
    r = chat(WEATHER TOOLS ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"get_time\"}}}");
    assert_null(strstr(r.body, "get_weather"));
    expect(r, 200, "get_time");
    r = chat(WEATHER TOOLS ",\"parallel_tool_calls\":false}");
    assert_null(strstr(r.body, "get_time"));
    expect(r, 200, "get_weather");
    expect(
        chat("{\"model\":\"gpt-4o\",\"messages\":[{\"role\":\"user\",\"content\":\"weather\"},{\"role\":\"assistant\","
             "\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}},"
             "{\"id\":\"b\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}]},"
             "{\"role\":\"tool\",\"tool_call_id\":\"b\",\"content\":\"21 C\"},"
             "{\"role\":\"tool\",\"tool_call_id\":\"a\",\"content\":\"noon\"}]" TOOLS "}"),
        200, "\"content\":\"The tools said: 21 C; noon\"");
}

/* Whether the parts stand in the text in this order. */
static void expect_in_order(const char *text, const char *const *parts) {
    for (const char *at = text; *parts != NULL; parts++) {
        at = strstr(at, *parts);
        if (at == NULL) {
            print_error("missing: %s\nin: %s\n", *parts, text);
            fail();
            return;
        }
        at += strlen(*parts);
    }
}

static void test_chat_streams(void **state) {
    (void)state;
    reply r = chat("{\"model\":\"gpt-4o\",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"messages\":"
                   "[{\"role\":\"user\",\"content\":\"Gr\\u00fc\\u00fc\\u00fc\\u00fc\\u00fc\\u00fc\\u00fcezi\"}]}");
    static const char *const with_usage[] = {
        "data: {\"choices\":[],\"created\":0,\"id\":\"\",\"model\":\"\",\"object\":\"\",\"prompt_filter_results\":[",
        ",\"usage\":null}\n\n",
        "\"delta\":{\"content\":\"\",\"refusal\":null,\"role\":\"assistant\"},\"finish_reason\":null",
        "\"delta\":{\"content\":\"You \"}",
        "\"delta\":{\"content\":\"said: \"}",
        "\"delta\":{\"content\":\"Gr\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\"}",
        "\"delta\":{\"content\":\"\xc3\xbc\xc3\xbc"
        "ezi\"}",
        "\"delta\":{},\"finish_reason\":\"stop\"",
        "data: {\"choices\":[],\"created\":1",
        "\"usage\":{\"completion_tokens\":",
        "data: [DONE]\n\n",
        NULL};
    expect_in_order(r.body, with_usage);
    assert_string_equal(header_in(&r, "content-type"), "text/event-stream; charset=utf-8");
    assert_string_equal(header_in(&r, "transfer-encoding"), "chunked");
    assert_null(header_in(&r, "content-length"));
    assert_int_equal(r.chunk_count, 5); /* two events in each */
    expect(r, 200, "\n\ndata: [DONE]\n\n");

    r = chat(WEATHER TOOLS ",\"stream\":true,\"n\":2}");
    static const char *const calls[] = {
        "\"delta\":{\"content\":null,\"refusal\":null,\"role\":\"assistant\"},\"finish_reason\":null,\"index\":0",
        "\"delta\":{\"content\":null,\"refusal\":null,\"role\":\"assistant\"},\"finish_reason\":null,\"index\":1",
        "\"arguments\":\"\",\"name\":\"get_weather\"},\"id\":\"call_",
        "{\"arguments\":\"{\\\"city\\\":\"},\"index\":0}]}",
        "\"arguments\":\"\",\"name\":\"get_time\"},\"id\":\"call_",
        "{\"arguments\":\"\\\"Bern\\\"}\"},\"index\":0}]}",
        "{\"arguments\":\"{\\\"tz\\\":\\\"CET\\\"}\"},\"index\":1}]}",
        "\"delta\":{},\"finish_reason\":\"tool_calls\",\"index\":0",
        "\"delta\":{},\"finish_reason\":\"tool_calls\",\"index\":1",
        NULL};
    expect_in_order(r.body, calls);
    assert_null(strstr(r.body, "usage"));
    expect(r, 200, "data: [DONE]\n\n");
    r = chat("{\"model\":\"gpt-4o\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"forbidden\"}]}");
    assert_string_equal(header_in(&r, "content-type"), "application/json");
    expect(r, 400, "content_filter");
}

static reply embed(const char *body) {
    return ask(FAKE_SERVICE, "POST /openai/deployments/embed/embeddings?api-version=2024-10-21", KEY JSON, body);
}

/* The numbers of a row, from text. */
static void expect_row(const char *body, const char *start, const char *input, size_t count) {
    const char *at = strstr(body, start);
    assert_non_null(at);
    at += strlen(start);
    for (size_t i = 0; i < count; i++) {
        char *after = NULL;
        volatile float value = strtof(at, &after); /* in memory: an x87 register has more digits */
        volatile float expected = fake_embedding(input, strlen(input), i);
        assert_true(value == expected);
        assert_int_equal(*after, i + 1 < count ? ',' : ']');
        at = after + 1;
    }
}

/* Two numbers from base64. */
static void expect_pair(const char *base64, const char *input) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char bytes[9] = {0};
    for (size_t i = 0; i < 11; i++) {
        const char *digit = strchr(digits, base64[i]);
        assert_non_null(digit);
        for (size_t bit = 0; bit < 6; bit++) {
            size_t to = 6 * i + bit;
            bytes[to / 8] |= (unsigned char)(((digit - digits) >> (5 - bit) & 1) << (7 - to % 8));
        }
    }
    assert_memory_equal(base64 + 11, "=\"", 2);
    for (size_t i = 0; i < 2; i++) {
        uint32_t bits = 0;
        for (size_t k = 4; k-- > 0;) {
            bits = bits << 8 | bytes[4 * i + k];
        }
        float value;
        memcpy(&value, &bits, sizeof value);
        volatile float expected = fake_embedding(input, strlen(input), i);
        assert_true(value == expected);
    }
}

static void test_embeddings(void **state) {
    (void)state;
    reply r = embed("{\"input\":[\"a\",\"\\u00fc\"],\"dimensions\":1536}");
    expect_row(r.body, "\"data\":[{\"object\":\"embedding\",\"index\":1,\"embedding\":[", "\xc3\xbc", 1536);
    expect_row(r.body, "},{\"object\":\"embedding\",\"index\":0,\"embedding\":[", "a", 1536);
    expect(r, 200, "\"model\":\"text-embedding-3-small\",\"usage\":{\"prompt_tokens\":1,\"total_tokens\":1}");
    r = embed("{\"input\":\"Hello\",\"encoding_format\":\"float\"}");
    expect_row(r.body, "\"index\":0,\"embedding\":[", "Hello", 8);
    expect(r, 200, NULL);
    r = embed("{\"input\":[\"Hello\"],\"encoding_format\":\"base64\",\"dimensions\":2}");
    const char *at = strstr(r.body, "\"embedding\":\"");
    assert_non_null(at);
    expect_pair(at + strlen("\"embedding\":\""), "Hello");
    expect(r, 200, NULL);
    expect(embed("{\"input\":[[1,2],[3]]}"), 200, "\"index\":1");
    expect(embed("{\"input\":[1,2]}"), 200, "\"data\":[{\"object\":\"embedding\",\"index\":0,");
    expect(embed("{}"), 400, "\"param\":\"input\"");
    expect(embed("{\"input\":[]}"), 400, "\"param\":\"input\"");
    expect(embed("{\"input\":\"\"}"), 400, "\"param\":\"input\"");
    expect(embed("{\"input\":[\"a\",\"\"]}"), 400, "\"param\":\"input[1]\"");
    expect(embed("{\"input\":[\"a\",[1]]}"), 400, "\"param\":\"input[1]\"");
    expect(embed("{\"input\":[\"a\",1]}"), 400, "\"param\":\"input[1]\"");
    expect(embed("{\"input\":\"a\",\"dimensions\":0}"), 400, "\"param\":\"dimensions\"");
    expect(embed("{\"input\":\"a\",\"dimensions\":3073}"), 400, "\"param\":\"dimensions\"");
    expect(embed("{\"input\":\"a\",\"encoding_format\":\"hex\"}"), 400, "\"param\":\"encoding_format\"");
    expect(ask(FAKE_SERVICE, "POST /openai/v1/embeddings", KEY JSON, "{\"model\":\"gpt-4o\",\"input\":\"a\"}"), 400,
           "OperationNotSupported");
}

static void test_speech_and_files(void **state) {
    (void)state;
    reply r = ask(FAKE_SERVICE, "POST /openai/v1/audio/speech", KEY JSON,
                  "{\"model\":\"gpt-4o\",\"input\":\"x\",\"voice\":\"alloy\",\"bytes\":3000000}");
    assert_int_equal(r.status, 200);
    assert_int_equal(r.body_len, 3000000);
    bool same = true;
    for (size_t i = 0; i < r.body_len; i++) {
        same = same && (unsigned char)r.body[i] == fake_byte(i);
    }
    assert_true(same);
    assert_string_equal(header_in(&r, "content-type"), "audio/mpeg");
    free(r.body);
    r = ask(FAKE_SERVICE, "POST /openai/v1/audio/speech", KEY JSON, "{\"model\":\"gpt-4o\",\"bytes\":0}");
    assert_int_equal(r.body_len, 0);
    expect(r, 200, NULL);
    expect(ask(FAKE_SERVICE, "POST /openai/v1/audio/speech", KEY JSON, "{\"model\":\"gpt-4o\",\"bytes\":-1}"), 400,
           "\"param\":\"bytes\"");
    expect(ask(FAKE_SERVICE, "POST /openai/v1/files", KEY "Content-Type: multipart/form-data; boundary=x\r\n", "12345"),
           200, "\"object\":\"file\",\"bytes\":5}");
    expect(ask(FAKE_SERVICE, "POST /openai/v1/files", KEY, "12345"), 415, "Content-Type");
}

/* ------------------------------------------------------------------------------------------------ tokens */

static void test_entra_is_strict(void **state) {
    (void)state;
#define ID "&client_id=" FAKE_CLIENT_ID
#define SECRET "&client_secret=" SECRET_ENCODED
#define SCOPE "&scope=https%3A%2F%2Fai.azure.com%2F.default"
#define GRANT "grant_type=client_credentials"
    static const struct {
        const char *form;
        int status;
        const char *part;
    } cases[] = {
        {FORM, 200, "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"ext_expires_in\":3599,\"access_token\":\"fake."},
        {"scope=https%3a%2f%2fai.azure.com%2F.default&" GRANT SECRET ID, 200, "access_token"},
        {GRANT ID "&client_secret=a%7Eb.c_d-e%2bf%2Fg%3Dh%26i%25j+k" SCOPE, 200, "access_token"},
        {GRANT ID SECRET SCOPE "&claims=%7B%22access_token%22%3A%7B%7D%7D", 200, "access_token"},
        {GRANT ID SECRET SCOPE "&claims=x", 400, "claims"},
        {GRANT ID "&client_secret=a~b.c_d-e%252Bf%252Fg%253Dh%2526i%2525j%2520k" SCOPE, 401, "[7000215]"},
        {GRANT ID "&client_secret=a~b.c_d-e+f%2Fg%3Dh%26i%25j%20k" SCOPE, 401, "[7000215]"},
        {GRANT ID "&client_secret=a~b.c_d-e%2Bf/g%3Dh%26i%25j%20k" SCOPE, 400, "NAME=VALUE"},
        {GRANT ID "&client_secret=wrong" SCOPE, 401, "\"error\":\"invalid_client\""},
        {GRANT ID SCOPE, 401, "[7000218]"},
        {GRANT "&client_id=99999999-2222-3333-4444-555555555555" SECRET SCOPE, 400, "[700016]"},
        {GRANT SECRET SCOPE, 400, "'client_id'"},
        {"grant_type=password" ID SECRET SCOPE, 400, "unsupported_grant_type"},
        {GRANT ID SECRET, 400, "'scope'"},
        {GRANT ID SECRET "&scope=https%3A%2F%2Fai.azure.com", 400, "[70011]"},
        {GRANT ID SECRET "&scope=https%3A%2F%2Fai.azure.com%2F.default%20x", 400, "[700022]"},
        {GRANT ID SECRET "&scope=https%3A%2F%2Fai.azure.example%2F.default", 400, "[500011]"},
        {FORM "&scope=x", 400, "twice"},
        {FORM "&resource=x", 400, "unknown"},
        {FORM "&", 400, "NAME=VALUE"},
        {FORM "&claims=%7", 400, "NAME=VALUE"},
        {"", 400, "'grant_type'"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        print_message("%s\n", cases[i].form);
        expect(get_token(cases[i].form), cases[i].status, cases[i].part);
    }
    static const char form_type[] = "Content-Type: application/x-www-form-urlencoded\r\n";
    expect(ask(FAKE_ENTRA, "POST " TOKEN_PATH, JSON, FORM), 400, "x-www-form-urlencoded");
    expect(ask(FAKE_ENTRA, "POST " TOKEN_PATH "?x=y", form_type, FORM), 400, "query");
    expect(ask(FAKE_ENTRA, "GET " TOKEN_PATH, "", NULL), 400, "POST");
    expect(ask(FAKE_ENTRA, "POST /99999999-2222-3333-4444-555555555555/oauth2/v2.0/token", form_type, FORM), 400,
           "[90002]");
    expect(ask(FAKE_ENTRA, "POST /" FAKE_TENANT_ID "//oauth2/v2.0/token", form_type, FORM), 404, "path");
    expect(ask(FAKE_ENTRA, "GET /" FAKE_TENANT_ID "/v2.0/.well-known/openid-configuration", "", NULL), 200,
           "\"token_endpoint\":\"http://localhost:");
    client *c = dial(FAKE_ENTRA);
    say_request(c, FAKE_ENTRA, "POST " TOKEN_PATH "", KEY "Content-Type: application/x-www-form-urlencoded\r\n", FORM);
    expect(read_reply(c), 400, "do not belong here");
    hang_up(c);
    reply r = get_token("grant_type=x");
    assert_non_null(
        strstr(r.body, "\"error_description\":\"AADSTS70003: The grant type is not supported.\\u000d\\nTrace ID:"));
    expect(r, 400, "\"trace_id\":");
}

static void test_imds_is_strict(void **state) {
    (void)state;
#define V "api-version=2018-02-01"
#define R "&resource=https%3A%2F%2Fcognitiveservices.azure.com"
    static const struct {
        const char *query;
        int status;
        const char *part;
    } cases[] = {
        {V R, 200, "\"expires_in\":\"86399\""},
        {V R "%2F", 200, "\"resource\":\"https://cognitiveservices.azure.com\""},
        {V R "&client_id=" FAKE_CLIENT_ID, 200, "\"client_id\":\"" FAKE_CLIENT_ID "\""},
        {V R "&client_id=" FAKE_POWERLESS_CLIENT_ID, 200, "\"client_id\":\"" FAKE_POWERLESS_CLIENT_ID "\""},
        {V R "&object_id=" FAKE_OBJECT_ID, 200, "access_token"},
        {V R "&msi_res_id=%2Fsubscriptions%2F22222222-0000-0000-0000-000000000000%2FresourceGroups%2Ffake%2Fproviders"
             "%2FMicrosoft.ManagedIdentity%2FuserAssignedIdentities%2Ffake",
         200, "access_token"},
        {V R "&client_id=" FAKE_OBJECT_ID, 400, "Identity not found"},
        {V R "&client_id=" FAKE_CLIENT_ID "&object_id=" FAKE_OBJECT_ID, 400, "Only one"},
        {V R "&mi_res_id=x", 400, "unknown"},
        {V R "&" V, 400, "twice"},
        {V "&resource=https://cognitiveservices.azure.com", 400, "NAME=VALUE"},
        {V R "%2F.default", 400, "invalid_resource"},
        {V "&resource=https%3A%2F%2Fexample.com", 400, "AADSTS500011"},
        {V, 400, "resource"},
        {&R[1], 400, "newest-versions"},
        {"api-version=2017-01-01" R, 400, "newest-versions"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        print_message("%s\n", cases[i].query);
        expect(get_imds(cases[i].query), cases[i].status, cases[i].part);
    }
    static const char good[] = "GET " IMDS_PATH "?" V R;
    expect(ask(FAKE_IMDS, good, "", NULL), 400, "bad_request_102");
    expect(ask(FAKE_IMDS, good, "Metadata: True\r\n", NULL), 400, "bad_request_102");
    expect(ask(FAKE_IMDS, good, "Metadata: true\r\nX-Forwarded-For: 1.2.3.4\r\n", NULL), 400, "forwarded");
    expect(ask(FAKE_IMDS, good, "Metadata: true\r\n" KEY, NULL), 400, "do not belong here");
    expect(ask(FAKE_IMDS, "POST " IMDS_PATH "?" V R, "Metadata: true\r\n", ""), 405, "GET");
    expect(ask(FAKE_IMDS, "GET /metadata/instance", "Metadata: true\r\n", NULL), 404, "path");
    expect(ask(FAKE_IMDS, "GET " IMDS_PATH, "", NULL), 400, "bad_request_102");
    reply r = get_imds(V R);
    assert_int_equal(strncmp(header_in(&r, "server"), "IMDS/", 5), 0);
    static const char *const members[] = {"\"access_token\":\"fake.imds.",
                                          "\"client_id\":\"",
                                          "\"expires_in\":\"86399\"",
                                          "\"expires_on\":\"",
                                          "\"ext_expires_in\":\"",
                                          "\"not_before\":\"",
                                          "\"resource\":\"",
                                          "\"token_type\":\"Bearer\"",
                                          NULL};
    expect_in_order(r.body, members);
    expect(r, 200, NULL);
}

static void test_tokens_open_the_service(void **state) {
    (void)state;
    static const char classic[] = "POST " CLASSIC;
    static const char v1[] = "POST /openai/v1/chat/completions";
    const char *headers = bearer(FAKE_CLIENT_ID, "cognitiveservices.azure.com");
    expect(ask(FAKE_SERVICE, classic, headers, HELLO), 200, "You said");
    expect(ask(FAKE_SERVICE, v1, headers, HELLO), 200, "You said");
    headers = bearer(FAKE_CLIENT_ID, "ai.azure.com");
    expect(ask(FAKE_SERVICE, classic, headers, HELLO), 200, "You said");
    expect(ask(FAKE_SERVICE, v1, headers, HELLO), 200, "You said");
    fake_revoke_tokens(service);
    expect(ask(FAKE_SERVICE, v1, headers, HELLO), 401, "{\"statusCode\":401,\"message\":\"Access token is invalid");
    headers = bearer(FAKE_CLIENT_ID, "ai.azure.com");
    expect(ask(FAKE_SERVICE, v1, headers, HELLO), 200, "You said");
    headers = bearer(FAKE_CLIENT_ID, "management.azure.com");
    expect(ask(FAKE_SERVICE, v1, headers, HELLO), 401, "audience");
    headers = bearer(FAKE_POWERLESS_CLIENT_ID, "ai.azure.com");
    expect(ask(FAKE_SERVICE, v1, headers, HELLO), 401, "{\"error\":{\"code\":\"PermissionDenied\"");
    expect(ask(FAKE_SERVICE, v1, JSON "Authorization: Bearer nonsense\r\n", HELLO), 401, "\"statusCode\":401");
    expect(ask(FAKE_SERVICE, v1, JSON "Authorization: Bearer \r\n", HELLO), 401, "\"statusCode\":401");
    expect(ask(FAKE_SERVICE, v1, JSON "Authorization: Basic YTpi\r\n", HELLO), 401, "\"statusCode\":401");
    expect(ask(FAKE_SERVICE, v1, JSON "Authorization: Bearer " FAKE_API_KEY "\r\n", HELLO), 200, "You said");
    expect(ask(FAKE_SERVICE, classic, JSON "Authorization: Bearer " FAKE_API_KEY "\r\n", HELLO), 401, "statusCode");
}

static void test_token_settings(void **state) {
    (void)state;
    char first[128];
    char second[128];
    fake_set(service, FAKE_ENTRA, FAKE_TOKEN_REFRESH_S, 7);
    fake_set(service, FAKE_IMDS, FAKE_TOKEN_REFRESH_S, 8);
    expect(get_token(FORM), 200, "\"refresh_in\":7,");
    expect(get_imds(V R), 200, "\"refresh_in\":\"8\",");
    fake_set(service, FAKE_ENTRA, FAKE_TOKEN_LIFETIME_S, 100);
    expect(get_token(FORM), 200, "\"expires_in\":100,");
    reply r = get_imds(V R);
    token_in(r.body, first, sizeof first);
    expect(r, 200, NULL);
    fake_set(service, FAKE_IMDS, FAKE_TOKEN_REUSE, 1);
    fake_revoke_tokens(service);
    r = get_imds(V R);
    token_in(r.body, second, sizeof second);
    expect(r, 200, NULL);
    r = get_imds(V R);
    token_in(r.body, first, sizeof first);
    expect(r, 200, NULL);
    assert_string_equal(first, second);
    r = get_imds(V "&resource=https%3A%2F%2Fai.azure.com");
    token_in(r.body, second, sizeof second);
    expect(r, 200, NULL);
    assert_string_not_equal(first, second);
    fake_set(service, FAKE_ENTRA, FAKE_TOKEN_LIFETIME_S, 0);
    const char *headers = bearer(FAKE_CLIENT_ID, "ai.azure.com");
    expect(ask(FAKE_SERVICE, "POST " CLASSIC, headers, HELLO), 401, "expired");
}

/* ------------------------------------------------------------------------------------------------ scripts */

static void push(fake_reply scripted) {
    fake_push(service, FAKE_SERVICE, &scripted);
}

/* A request that any script answers; the reader decides the rest. */
static client *poke(void) {
    client *c = dial(FAKE_SERVICE);
    say(c, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n");
    return c;
}

/* All that comes until the end of the connection, or until a short silence. */
static client *poke_and_read(fake_reply scripted, end how) {
    push(scripted);
    client *c = poke();
    end got = read_to_end(c, how == STILL_OPEN ? SHORT_MS : PATIENCE_MS);
    if (got != how) {
        print_error("ended with %d instead of %d after: %s\n", (int)got, (int)how, c->bytes);
        fail();
    }
    return c;
}

static void expect_bytes(fake_reply scripted, end how, const char *bytes) {
    client *c = poke_and_read(scripted, how);
    assert_string_equal(c->bytes, bytes);
    hang_up(c);
}

static void test_scripts_are_used_in_turn(void **state) {
    (void)state;
    char body[] = "one";
    push((fake_reply){.body = body, .headers = "x: 1\r\n"});
    body[0] = 'X'; /* everything was copied */
    push((fake_reply){
        .status = 429, .reason = "Slow down", .headers = "Retry-After: 7\r\n", .body = "a\0b", .body_len = 3});
    push((fake_reply){.status = 204});
    push((fake_reply){.pass = true});
    assert_int_equal(fake_pending(service, FAKE_SERVICE), 4);
    client *c = dial(FAKE_SERVICE);
    say(c, "GET / HTTP/1.1\r\n\r\n");
    reply r = read_reply(c);
    assert_string_equal(r.head, "HTTP/1.1 200 OK\r\nx: 1\r\nContent-Length: 3\r\n\r\n");
    expect(r, 200, "one");
    say(c, "GET / HTTP/1.1\r\n\r\n");
    r = read_reply(c);
    assert_string_equal(r.head, "HTTP/1.1 429 Slow down\r\nRetry-After: 7\r\nContent-Length: 3\r\n\r\n");
    assert_memory_equal(r.body, "a\0b", 3);
    free(r.body);
    assert_int_equal(fake_pending(service, FAKE_SERVICE), 2);
    say(c, "HEAD / HTTP/1.1\r\n\r\n");
    r = read_reply(c);
    assert_string_equal(r.head, "HTTP/1.1 204 No Content\r\n\r\n");
    free(r.body);
    say_request(c, FAKE_SERVICE, "GET /openai/v1/models", KEY, NULL);
    expect(read_reply(c), 200, "\"list\"");
    say(c, "GET / HTTP/1.1\r\n\r\n");
    expect(read_reply(c), 400, "Host");
    assert_int_equal(fake_pending(service, FAKE_SERVICE), 0);
    push((fake_reply){.body = "never"});
    fake_clear(service, FAKE_SERVICE);
    assert_int_equal(fake_pending(service, FAKE_SERVICE), 0);
    say_request(c, FAKE_SERVICE, "GET /openai/v1/models", KEY, NULL);
    expect(read_reply(c), 200, "\"list\"");
    hang_up(c);
    assert_int_equal(fake_connections(service, FAKE_SERVICE), 1);
}

static void test_framings(void **state) {
    (void)state;
    expect_bytes((fake_reply){.body = "abc"}, STILL_OPEN, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
    expect_bytes((fake_reply){.body = "abc", .framing = FAKE_LENGTH, .close_after = true}, CLOSED_WITH_FIN,
                 "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
    expect_bytes((fake_reply){.body = "abc", .framing = FAKE_CHUNKED}, STILL_OPEN,
                 "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    expect_bytes((fake_reply){.framing = FAKE_CHUNKED}, STILL_OPEN,
                 "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    expect_bytes((fake_reply){.body = "abc", .framing = FAKE_UNTIL_CLOSE}, CLOSED_WITH_FIN,
                 "HTTP/1.1 200 OK\r\n\r\nabc");
    expect_bytes((fake_reply){.status = 403, .reason = "unreachable network.", .framing = FAKE_HTTP10}, CLOSED_WITH_FIN,
                 "HTTP/1.0 403 unreachable network.\r\n\r\n");
    expect_bytes((fake_reply){.body = "abc", .framing = FAKE_AS_GIVEN, .headers = "content-length: 2\r\n"}, STILL_OPEN,
                 "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabc");
    expect_bytes((fake_reply){.body = "abc", .headers = "Connection: close\r\n"}, CLOSED_WITH_FIN,
                 "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc");
    expect_bytes((fake_reply){.raw = "\0nonsense", .raw_len = 9}, STILL_OPEN, "");
    expect_bytes((fake_reply){.raw = "nonsense", .close_after = true}, CLOSED_WITH_FIN, "nonsense");
    expect_bytes((fake_reply){.body = "abc", .interim_100 = true}, STILL_OPEN,
                 "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
}

static void test_pieces(void **state) {
    (void)state;
#define HEAD "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    expect_bytes((fake_reply){.body = "abcdefg", .framing = FAKE_CHUNKED, .first_chunk = 1, .chunk_size = 4},
                 STILL_OPEN, HEAD "1\r\na\r\n4\r\nbcde\r\n2\r\nfg\r\n0\r\n\r\n");
    expect_bytes((fake_reply){.body = "abcdefg", .framing = FAKE_CHUNKED, .first_chunk = 3}, STILL_OPEN,
                 HEAD "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n");
    expect_bytes((fake_reply){.body = "a\n\nb\n\nc\n\nd", .framing = FAKE_CHUNKED, .events_per_chunk = 2}, STILL_OPEN,
                 HEAD "6\r\na\n\nb\n\n\r\n4\r\nc\n\nd\r\n0\r\n\r\n");
    expect_bytes((fake_reply){.body = "a\r\n\r\nb\r\rc\n\n", .framing = FAKE_CHUNKED, .events_per_chunk = 1},
                 STILL_OPEN, HEAD "5\r\na\r\n\r\n\r\n3\r\nb\r\r\r\n3\r\nc\n\n\r\n0\r\n\r\n");
    expect_bytes(
        (fake_reply){
            .body = "ab", .framing = FAKE_CHUNKED, .chunk_size = 1, .chunk_extensions = true, .trailers = true},
        STILL_OPEN,
        HEAD "1;fake=1;quoted=\"a \\\"b\\\"; c\"\r\na\r\n1;fake=1;quoted=\"a \\\"b\\\"; c\"\r\nb\r\n"
             "0;last\r\nx-fake-trailer: 1\r\nx-fake-other: two words\r\n\r\n");
}

static void test_cuts(void **state) {
    (void)state;
#define PLAIN "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"
    static const struct {
        fake_cut cut;
        end how;
    } kinds[] = {{FAKE_CUT_ORDERLY, CLOSED_WITH_FIN},
                 {FAKE_CUT_FIN, CLOSED_WITH_FIN},
                 {FAKE_CUT_RESET, CLOSED_WITH_RESET},
                 {FAKE_CUT_STALL, STILL_OPEN}};
    for (size_t i = 0; i < COUNT(kinds); i++) {
        fake_cut cut = kinds[i].cut;
        end how = kinds[i].how;
        expect_bytes((fake_reply){.body = "abcdefg", .cut = cut}, how, PLAIN);
        expect_bytes((fake_reply){.body = "abcdefg", .cut = cut, .cut_after = 3}, how, PLAIN "abc");
        expect_bytes((fake_reply){.body = "abcdefg", .cut = cut, .cut_after = 99}, how, PLAIN "abcdefg");
        expect_bytes(
            (fake_reply){.body = "abcdefg", .framing = FAKE_CHUNKED, .chunk_size = 4, .cut = cut, .cut_after = 3}, how,
            HEAD "4\r\nabc");
        expect_bytes(
            (fake_reply){.body = "abcdefg", .framing = FAKE_CHUNKED, .chunk_size = 4, .cut = cut, .cut_after = 4}, how,
            HEAD "4\r\nabcd\r\n");
        expect_bytes(
            (fake_reply){.body = "abcdefg", .framing = FAKE_CHUNKED, .chunk_size = 4, .cut = cut, .cut_after = 7}, how,
            HEAD "4\r\nabcd\r\n3\r\nefg\r\n");
        expect_bytes((fake_reply){.raw = "HTTP/1.1", .cut = cut, .cut_after = 4}, how, "HTTP");
        expect_bytes((fake_reply){.raw = "HTTP/1.1", .cut = cut}, how, "");
    }
}

static void test_delays(void **state) {
    (void)state;
    long began = now_ms();
    push((fake_reply){.body = "abc", .delay_before_head_ms = 60});
    client *c = poke();
    assert_true(read_more(c));
    assert_true(now_ms() - began >= 60);
    hang_up(c);
    began = now_ms();
    push((fake_reply){.body = "abc", .chunk_size = 1, .delay_between_chunks_ms = 40});
    c = poke();
    while (strstr(c->bytes, "\r\n\r\na") == NULL) {
        assert_true(read_more(c));
    }
    assert_null(strstr(c->bytes, "ab"));
    while (strstr(c->bytes, "abc") == NULL) {
        assert_true(read_more(c));
    }
    assert_true(now_ms() - began >= 80);
    hang_up(c);
}

static void test_silent_and_early(void **state) {
    (void)state;
    push((fake_reply){.silent = true});
    client *c = poke();
    assert_int_equal(read_to_end(c, SHORT_MS), STILL_OPEN);
    assert_int_equal(c->len, 0);
    assert_true(fake_wait(service, FAKE_SERVICE, 1, PATIENCE_MS));
    hang_up(c);
    push((fake_reply){.status = 413, .body = "too large", .early = true});
    c = dial(FAKE_SERVICE);
    say_request(c, FAKE_SERVICE, "POST /openai/v1/files", KEY "Content-Length: 100000000\r\n", NULL);
    expect(read_reply(c), 413, "too large");
    assert_int_equal(read_to_end(c, PATIENCE_MS), CLOSED_WITH_FIN);
    assert_int_equal(fake_request(service, FAKE_SERVICE, 1)->body_len, 0);
    hang_up(c);
}

static void test_pass_shapes_the_default(void **state) {
    (void)state;
    push((fake_reply){.pass = true, .chunk_size = 100, .framing = FAKE_CHUNKED});
    reply r = chat(HELLO);
    assert_int_equal(r.chunks[0], 100);
    expect(r, 200, "You said: Hello");
    push((fake_reply){.pass = true, .framing = FAKE_UNTIL_CLOSE});
    expect(chat(HELLO), 200, "You said: Hello");
    push((fake_reply){.pass = true, .cut = FAKE_CUT_FIN, .cut_after = 10});
    r = chat(HELLO);
    assert_false(r.complete);
    assert_string_equal(r.body, "{\"choices\"");
    free(r.body);
    push((fake_reply){.pass = true, .interim_100 = true});
    client *c = dial(FAKE_SERVICE);
    say_request(c, FAKE_SERVICE, "GET /openai/v1/models", KEY, NULL);
    r = read_reply(c);
    assert_int_equal(r.status, 100);
    free(r.body);
    expect(read_reply(c), 200, "\"list\"");
    hang_up(c);
}

/* ------------------------------------------------------------------------------------------------ settings */

#define STREAM "{\"model\":\"gpt-4o\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"a b c d\"}]}"

static void test_settings_of_streams(void **state) {
    (void)state;
    fake_set(service, FAKE_SERVICE, FAKE_STREAM_EVENTS, 1);
    reply r = chat(STREAM);
    assert_int_equal(r.chunk_count, 10);
    expect(r, 200, "[DONE]");
    fake_set(service, FAKE_SERVICE, FAKE_STREAM_EVENTS, 100);
    r = chat(STREAM);
    assert_int_equal(r.chunk_count, 1);
    expect(r, 200, "[DONE]");
    fake_set(service, FAKE_SERVICE, FAKE_STREAM_BYTES, 50);
    r = chat(STREAM);
    assert_int_equal(r.chunks[0], 50);
    assert_int_equal(r.chunks[1], 50);
    expect(r, 200, "[DONE]");
    fake_set(service, FAKE_SERVICE, FAKE_STREAM_BYTES, 0);
    fake_set(service, FAKE_SERVICE, FAKE_STREAM_EVENTS, 2);
    fake_set(service, FAKE_SERVICE, FAKE_STREAM_DELAY_MS, 20);
    long began = now_ms();
    expect(chat(STREAM), 200, "[DONE]");
    assert_true(now_ms() - began >= 80);
}

static void test_settings_of_answers(void **state) {
    (void)state;
    fake_set(service, FAKE_SERVICE, FAKE_DELAY_MS, 60);
    long began = now_ms();
    expect(chat(HELLO), 200, NULL);
    assert_true(now_ms() - began >= 60);
    fake_set(service, FAKE_SERVICE, FAKE_DELAY_MS, 0);
    fake_set(service, FAKE_SERVICE, FAKE_HEADER_CASE, 1);
    reply r = chat(HELLO);
    assert_non_null(strstr(r.head, "\r\napim-request-id: "));
    assert_non_null(strstr(r.head, "\r\ncontent-type: application/json\r\n"));
    expect(r, 200, NULL);
    fake_set(service, FAKE_SERVICE, FAKE_HEADER_CASE, 2);
    r = chat(HELLO);
    assert_non_null(strstr(r.head, "\r\nAPIM-REQUEST-ID: "));
    assert_non_null(strstr(r.head, "\r\nX-MS-REGION: Sweden Central\r\n"));
    expect(r, 200, NULL);
    fake_set(service, FAKE_SERVICE, FAKE_HEADER_CASE, 0);
    for (int closing = 1; closing <= 2; closing++) {
        fake_set(service, FAKE_SERVICE, FAKE_CLOSING, closing);
        client *c = dial(FAKE_SERVICE);
        say_request(c, FAKE_SERVICE, "GET /openai/v1/models", KEY, NULL);
        r = read_reply(c);
        const char *announced = header_in(&r, "connection");
        assert_true(closing == 1 ? announced != NULL && strcmp(announced, "close") == 0 : announced == NULL);
        expect(r, 200, NULL);
        assert_int_equal(read_to_end(c, PATIENCE_MS), CLOSED_WITH_FIN);
        hang_up(c);
    }
}

static void test_silence(void **state) {
    (void)state;
    fake_set(service, FAKE_SERVICE, FAKE_SILENCE, 1);
    client *c = poke();
    assert_true(fake_wait(service, FAKE_SERVICE, 1, PATIENCE_MS));
    assert_int_equal(read_to_end(c, SHORT_MS), STILL_OPEN);
    hang_up(c);
    fake_set(service, FAKE_SERVICE, FAKE_SILENCE, 2);
    c = dial(FAKE_SERVICE);
    say_request(c, FAKE_SERVICE, "GET /openai/v1/models", KEY, NULL);
    assert_int_equal(read_to_end(c, SHORT_MS), STILL_OPEN);
    assert_int_equal(fake_count(service, FAKE_SERVICE), 1);
    assert_int_equal(fake_connections(service, FAKE_SERVICE), 2);
    fake_set(service, FAKE_SERVICE, FAKE_SILENCE, 0);
    expect(read_reply(c), 200, "\"list\"");
    hang_up(c);
    expect(get_token(FORM), 200, "access_token"); /* the other roles were never silent */
}

static void test_idle_connections_are_dropped(void **state) {
    (void)state;
    client *idle = dial(FAKE_SERVICE);
    say_request(idle, FAKE_SERVICE, "GET /openai/v1/models", KEY, NULL);
    expect(read_reply(idle), 200, "\"list\"");
    push((fake_reply){.silent = true});
    client *busy = poke();
    assert_true(fake_wait(service, FAKE_SERVICE, 2, PATIENCE_MS));
    client *other = dial(FAKE_IMDS);
    say(other, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    expect(read_reply(other), 404, NULL);
    fake_drop_connections(service, FAKE_SERVICE);
    assert_int_equal(read_to_end(idle, PATIENCE_MS), CLOSED_WITH_FIN);
    assert_int_equal(read_to_end(busy, SHORT_MS), STILL_OPEN);
    say(other, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    expect(read_reply(other), 404, NULL);
    fake_drop_connections(service, FAKE_SERVICE);
    hang_up(idle);
    hang_up(busy);
    hang_up(other);
}

static void *ask_for_models(void *argument) {
    int *failures = argument;
    for (int i = 0; i < 5; i++) {
        reply r = ask(FAKE_SERVICE, "GET /openai/v1/models", KEY, NULL);
        *failures += r.status == 200 && r.complete ? 0 : 1;
        free(r.body);
    }
    return NULL;
}

static void test_many_at_once(void **state) {
    (void)state;
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    int failures[THREADS] = {0};
    fake_set(service, FAKE_SERVICE, FAKE_DELAY_MS, 20);
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, ask_for_models, &failures[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        (void)pthread_join(threads[i], NULL);
        assert_int_equal(failures[i], 0);
    }
    assert_int_equal(fake_count(service, FAKE_SERVICE), THREADS * 5);
    assert_int_equal(fake_connections(service, FAKE_SERVICE), THREADS * 5);
    assert_in_range(fake_most_concurrent(service, FAKE_SERVICE), 2, THREADS);
    assert_int_equal(fake_most_concurrent(service, FAKE_ENTRA), 0);
    assert_true(fake_wait(service, FAKE_SERVICE, THREADS * 5, 0));
    assert_false(fake_wait(service, FAKE_SERVICE, THREADS * 5 + 1, 10));
}

/* ------------------------------------------------------------------------------------------------ TLS */

static client *poke_tls(void) {
    client *c = dial_tls(fake_port(service, FAKE_SERVICE), NULL);
    say(c, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n");
    return c;
}

static void test_tls_answers(void **state) {
    (void)state;
    client *c = dial_tls(fake_port(service, FAKE_SERVICE), NULL);
    say_request(c, FAKE_SERVICE, "POST " CLASSIC, KEY JSON, HELLO);
    expect(read_reply(c), 200, "You said: Hello");
    assert_string_equal(fake_request(service, FAKE_SERVICE, 0)->sni, "localhost");
    assert_string_equal(fake_request(service, FAKE_SERVICE, 0)->tls, mbedtls_ssl_get_version(&c->ssl));
    hang_up(c);
    c = dial_tls(fake_port(service, FAKE_ENTRA), NULL);
    say_request(c, FAKE_ENTRA, "POST " TOKEN_PATH, "Content-Type: application/x-www-form-urlencoded\r\n", FORM);
    expect(read_reply(c), 200, "access_token");
    hang_up(c);
    c = dial(FAKE_SERVICE); /* plain words to a TLS port */
    say(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_not_equal(read_to_end(c, PATIENCE_MS), STILL_OPEN);
    hang_up(c);
}

static void test_tls_ends(void **state) {
    (void)state;
    static const struct {
        fake_reply reply;
        end how;
    } cases[] = {
        {{.body = "abc", .close_after = true}, CLOSED_WITH_NOTIFY},
        {{.body = "abc", .framing = FAKE_UNTIL_CLOSE}, CLOSED_WITH_NOTIFY},
        {{.body = "abc", .cut = FAKE_CUT_ORDERLY, .cut_after = 3}, CLOSED_WITH_NOTIFY},
        {{.body = "abc", .cut = FAKE_CUT_FIN, .cut_after = 3}, CLOSED_WITH_FIN},
        {{.body = "abc", .cut = FAKE_CUT_RESET, .cut_after = 3}, CLOSED_WITH_RESET},
        {{.body = "abc", .cut = FAKE_CUT_STALL, .cut_after = 3}, STILL_OPEN},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        push(cases[i].reply);
        client *c = poke_tls();
        assert_int_equal(read_to_end(c, cases[i].how == STILL_OPEN ? SHORT_MS : PATIENCE_MS), cases[i].how);
        assert_string_equal(c->bytes + c->len - 3, "abc");
        hang_up(c);
    }
    client *c = dial_tls(fake_port(service, FAKE_SERVICE), NULL);
    say_request(c, FAKE_SERVICE, "GET /openai/v1/models", KEY, NULL);
    expect(read_reply(c), 200, "\"list\"");
    fake_drop_connections(service, FAKE_SERVICE);
    assert_int_equal(read_to_end(c, PATIENCE_MS), CLOSED_WITH_NOTIFY);
    hang_up(c);
}

/* A record for each write, so that they can be counted. */
static void test_writes(void **state) {
    (void)state;
    static const struct {
        fake_reply reply;
        size_t records[4];
    } cases[] = {
        {{.body = "abc"}, {41, 0}},
        {{.body = "abc", .first_chunk = 1}, {38, 1, 2, 0}},
        {{.body = "abc", .first_chunk = 1, .glue_head = true}, {39, 2, 0}},
        {{.body = "abc", .framing = FAKE_CHUNKED, .chunk_size = 2}, {47, 7, 11, 0}},
        {{.raw = "abcd", .chunk_size = 3}, {3, 1, 0}},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        push(cases[i].reply);
        client *c = poke_tls();
        for (const size_t *size = cases[i].records; *size != 0; size++) {
            assert_true(read_more(c));
            assert_int_equal(c->last_read, *size);
        }
        hang_up(c);
    }
}

#if defined(MBEDTLS_SSL_SESSION_TICKETS)
/* Asks for something, so that tickets arrive, and takes the session along. */
static void get_session(mbedtls_ssl_session *from, mbedtls_ssl_session *to) {
    client *c = dial_tls(fake_port(service, FAKE_SERVICE), from);
    say_request(c, FAKE_SERVICE, "GET /openai/v1/models", KEY, NULL);
    int result;
    bool got = false;
    unsigned char bytes[1024];
    do {
        result = mbedtls_ssl_read(&c->ssl, bytes, sizeof bytes);
        if (!got && to != NULL && is_ticket(result)) {
            got = mbedtls_ssl_get_session(&c->ssl, to) == 0;
        }
    } while (must_repeat(result));
    assert_true(result > 0);
    if (!got && to != NULL) {
        assert_int_equal(mbedtls_ssl_get_session(&c->ssl, to), 0);
    }
    hang_up(c);
}

static void resume_with(fake_options options, const char *version, size_t resumptions) {
    mbedtls_ssl_session session;
    mbedtls_ssl_session_init(&session);
    start_with(options);
    get_session(NULL, &session);
    assert_int_equal(fake_resumptions(service), 0);
    get_session(&session, NULL);
    assert_int_equal(fake_resumptions(service), resumptions);
    assert_string_equal(fake_request(service, FAKE_SERVICE, 1)->tls, version);
    assert_string_equal(fake_request(service, FAKE_SERVICE, 1)->sni, "localhost");
    mbedtls_ssl_session_free(&session);
    fake_stop(service);
    service = NULL;
}

static void test_tls_versions_and_tickets(void **state) {
    (void)state;
    resume_with((fake_options){.tls_max = 12}, "TLSv1.2", 1);
    resume_with((fake_options){.tls_max = 12, .no_tickets = true}, "TLSv1.2", 0);
#if defined(MBEDTLS_SSL_PROTO_TLS1_3)
    resume_with((fake_options){.tls_min = 13}, "TLSv1.3", 1);
    resume_with((fake_options){0}, "TLSv1.3", 1);
#else
    fake_options options = {.cert_file = cert_path("server.pem"), .plain_entra = true, .tls_min = 13};
    fflush(stderr);
    assert_null(fake_start(&options));
#endif
}
#endif

/* ------------------------------------------------------------------------------------------------ stopping */

static void expect_prompt_stop(void) {
    long began = now_ms();
    fake_stop(service);
    service = NULL;
    assert_true(now_ms() - began < PROMPT_MS);
}

/* Clients in every state that a service can hang in. */
static void test_stop_does_not_wait(void **state) {
    (void)state;
    for (int secure = 0; secure <= 1; secure++) {
        start_with((fake_options){.plain_service = secure == 0, .plain_entra = secure == 0});
        client *clients[10];
        size_t count = 0;
        clients[count++] = dial(FAKE_SERVICE); /* says nothing, or in the middle of a handshake */
        push((fake_reply){.silent = true});
        clients[count++] = secure == 0 ? poke() : poke_tls();
        assert_true(fake_wait(service, FAKE_SERVICE, 1, PATIENCE_MS));
        push((fake_reply){.delay_before_head_ms = 60000});
        clients[count++] = secure == 0 ? poke() : poke_tls();
        assert_true(fake_wait(service, FAKE_SERVICE, 2, PATIENCE_MS));
        push((fake_reply){.body = "abc", .chunk_size = 1, .delay_between_chunks_ms = 60000});
        clients[count++] = secure == 0 ? poke() : poke_tls();
        assert_true(fake_wait(service, FAKE_SERVICE, 3, PATIENCE_MS));
        push((fake_reply){.body = "abc", .cut = FAKE_CUT_STALL, .cut_after = 1});
        clients[count++] = secure == 0 ? poke() : poke_tls();
        assert_true(fake_wait(service, FAKE_SERVICE, 4, PATIENCE_MS));
        push((fake_reply){.body = "abc", .close_after = true}); /* lingers */
        clients[count++] = secure == 0 ? poke() : poke_tls();
        assert_true(fake_wait(service, FAKE_SERVICE, 5, PATIENCE_MS));
        client *c = secure == 0 ? dial(FAKE_SERVICE) : dial_tls(fake_port(service, FAKE_SERVICE), NULL);
        clients[count++] = c; /* takes nothing of an endless answer */
        say_request(c, FAKE_SERVICE, "POST /openai/v1/audio/speech", KEY JSON,
                    "{\"model\":\"gpt-4o\",\"bytes\":16000000}");
        assert_true(fake_wait(service, FAKE_SERVICE, 6, PATIENCE_MS));
        c = secure == 0 ? dial(FAKE_SERVICE) : dial_tls(fake_port(service, FAKE_SERVICE), NULL);
        clients[count++] = c; /* in the middle of a body */
        say_request(c, FAKE_SERVICE, "POST /openai/v1/files", KEY "Content-Length: 10\r\n", NULL);
        say(c, "12345");
        fake_set(service, FAKE_SERVICE, FAKE_SILENCE, 2);
        clients[count++] = dial(FAKE_SERVICE);
        (void)poll(NULL, 0, 50);
        expect_prompt_stop();
        for (size_t i = 0; i < count; i++) {
            hang_up(clients[i]);
        }
    }
}

static void *stop_service(void *argument) {
    long *took = argument;
    (void)poll(NULL, 0, 30);
    long began = now_ms();
    fake_stop(service);
    *took = now_ms() - began;
    return NULL;
}

static void test_stop_under_fire(void **state) {
    (void)state;
    start_with((fake_options){.plain_service = true, .plain_entra = true, .counts_only = true});
    pthread_t thread;
    unsigned port = fake_port(service, FAKE_SERVICE);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    long took = PATIENCE_MS;
    assert_int_equal(pthread_create(&thread, NULL, stop_service, &took), 0);
    long began = now_ms();
    for (bool there = true; there && now_ms() - began < PATIENCE_MS;) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        there = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
        (void)send(fd, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL);
        (void)close(fd);
    }
    (void)pthread_join(thread, NULL);
    service = NULL;
    assert_true(took < PROMPT_MS);
}

/* ------------------------------------------------------------------------------------------------ the log */

static void test_log(void **state) {
    (void)state;
    char path[] = "/tmp/fake_service_log_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    start_with((fake_options){.plain_service = true, .plain_entra = true, .log_path = path, .counts_only = true});
    expect(chat(HELLO), 200, NULL);
    expect(get_token(FORM), 200, NULL);
    client *c = dial(FAKE_SERVICE);
    say(c, "nonsense \xff\"\n");
    expect(read_reply(c), 400, NULL);
    hang_up(c);
    assert_int_equal(fake_count(service, FAKE_SERVICE), 2);
    assert_null(fake_request(service, FAKE_SERVICE, 0));
    fake_stop(service);
    service = NULL;
    FILE *log = fopen(path, "r");
    assert_non_null(log);
    char line[4096];
    static const char *const parts[] = {"\"target\":\"/openai/v1/chat/completions\"", "\"role\":\"entra\"",
                                        "\"status\":400"};
    for (size_t i = 0; i < COUNT(parts); i++) {
        assert_non_null(fgets(line, sizeof line, log));
        assert_non_null(strstr(line, parts[i]));
        assert_true(is_json(line, strlen(line)));
    }
    assert_null(fgets(line, sizeof line, log));
    (void)fclose(log);
    (void)remove(path);
}

/* ------------------------------------------------------------------------------------------------ all */

#define PLAIN_TEST(name) cmocka_unit_test_setup_teardown(name, start_plain, stop)
#define SECURE_TEST(name) cmocka_unit_test_setup_teardown(name, start_secure, stop)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start_refuses_what_cannot_be),
        cmocka_unit_test(test_ports_can_be_chosen),
        PLAIN_TEST(test_heads_are_checked),
        PLAIN_TEST(test_request_lines_are_checked),
        PLAIN_TEST(test_bodies_end_where_they_say),
        PLAIN_TEST(test_continue_is_sent_if_expected),
        PLAIN_TEST(test_half_requests_are_seen),
        PLAIN_TEST(test_requests_are_kept),
        PLAIN_TEST(test_paths_and_versions),
        PLAIN_TEST(test_answers_have_the_headers),
        PLAIN_TEST(test_json_is_checked),
        PLAIN_TEST(test_deep_and_long_json),
        PLAIN_TEST(test_chat_says_what_was_promised),
        PLAIN_TEST(test_tools_are_called),
        PLAIN_TEST(test_chat_streams),
        PLAIN_TEST(test_embeddings),
        PLAIN_TEST(test_speech_and_files),
        PLAIN_TEST(test_entra_is_strict),
        PLAIN_TEST(test_imds_is_strict),
        PLAIN_TEST(test_tokens_open_the_service),
        PLAIN_TEST(test_token_settings),
        PLAIN_TEST(test_scripts_are_used_in_turn),
        PLAIN_TEST(test_framings),
        PLAIN_TEST(test_pieces),
        PLAIN_TEST(test_cuts),
        PLAIN_TEST(test_delays),
        PLAIN_TEST(test_silent_and_early),
        PLAIN_TEST(test_pass_shapes_the_default),
        PLAIN_TEST(test_settings_of_streams),
        PLAIN_TEST(test_settings_of_answers),
        PLAIN_TEST(test_silence),
        PLAIN_TEST(test_idle_connections_are_dropped),
        PLAIN_TEST(test_many_at_once),
        SECURE_TEST(test_tls_answers),
        SECURE_TEST(test_tls_ends),
        SECURE_TEST(test_writes),
#if defined(MBEDTLS_SSL_SESSION_TICKETS)
        cmocka_unit_test(test_tls_versions_and_tickets),
#endif
        cmocka_unit_test(test_stop_does_not_wait),
        cmocka_unit_test(test_stop_under_fire),
        cmocka_unit_test(test_log),
    };
    const char *directory = getenv("AZO_TEST_CERTS");
    (void)snprintf(cert_dir, sizeof cert_dir, "%s", directory != NULL ? directory : "build/certs");
    if (!set_up_tls()) {
        (void)fprintf(stderr, "test_fake_service: no certificates in %s\n", cert_dir);
        return 1;
    }
    int failed = cmocka_run_group_tests_name("fake service", tests, NULL, NULL);
    tear_down_tls();
    return failed;
}
