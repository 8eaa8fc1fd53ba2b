/* floor.c - the benchmark's calls by mbedTLS alone: prepared requests, and answers that are read and not looked at.
 * What any client over mbedTLS has to pay. Modes with "whole" load the whole bundle of roots; the others look up the
 * one that is needed, as the library does. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <mbedtls/asn1.h>
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/ssl.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>

enum { MAX_CERTIFICATE = 8192, BUFFER = 16384 };

typedef struct roots {
    const char *ca_file;
    const char *host;
    mbedtls_x509_crt found; /* kept for the next connection */
    bool open;              /* nothing in `found` vouches for the chain in hand */
} roots;

typedef struct floor_tls {
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
    mbedtls_ssl_config config;
    roots roots;
    char host[64];
} floor_tls;

typedef struct tunnel {
    mbedtls_ssl_context ssl;
    int fd;
} tunnel;

/* ---- Roots ---- */

/* The subject of a certificate, as it is encoded; false if this is none. */
static bool find_subject(unsigned char *der, size_t len, unsigned char **subject, size_t *subject_len) {
    unsigned char *at = der;
    const unsigned char *end = der + len;
    const int sequence = MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE;
    static const int before[] = {MBEDTLS_ASN1_INTEGER, MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE,
                                 MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE,
                                 MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE};
    size_t field;
    size_t i;
    if (mbedtls_asn1_get_tag(&at, end, &field, sequence) != 0 ||
        mbedtls_asn1_get_tag(&at, end, &field, sequence) != 0) {
        return false;
    }
    if (mbedtls_asn1_get_tag(&at, end, &field, MBEDTLS_ASN1_CONTEXT_SPECIFIC | MBEDTLS_ASN1_CONSTRUCTED) == 0) {
        at += field; /* the version */
    }
    for (i = 0; i < sizeof before / sizeof *before; i++) { /* serial, algorithm, issuer, validity */
        if (mbedtls_asn1_get_tag(&at, end, &field, before[i]) != 0) {
            return false;
        }
        at += field;
    }
    *subject = at;
    if (mbedtls_asn1_get_tag(&at, end, &field, sequence) != 0) {
        return false;
    }
    *subject_len = (size_t)(at - *subject) + field;
    return true;
}

static bool is_issuer(const mbedtls_x509_crt *chain, const unsigned char *subject, size_t len) {
    for (; chain != NULL; chain = chain->next) {
        if (chain->issuer_raw.len == len && memcmp(chain->issuer_raw.p, subject, len) == 0) {
            return true;
        }
    }
    return false;
}

typedef struct decoder {
    signed char value[256]; /* of a base64 digit, -1 for what is none */
    uint32_t bits;
    int bit_count;
    size_t len;
    unsigned char der[MAX_CERTIFICATE];
} decoder;

static void prepare(decoder *d) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    int i;
    memset(d->value, -1, sizeof d->value);
    for (i = 0; i < 64; i++) {
        d->value[(unsigned char)digits[i]] = (signed char)i;
    }
}

static void decode_line(decoder *d, const char *line) {
    for (; *line != '\0'; line++) {
        int value = d->value[(unsigned char)*line];
        if (value < 0) {
            continue;
        }
        d->bits = d->bits << 6 | (uint32_t)value;
        d->bit_count += 6;
        if (d->bit_count >= 8 && d->len < sizeof d->der) {
            d->bit_count -= 8;
            d->der[d->len++] = (unsigned char)(d->bits >> d->bit_count & 0xff);
        }
    }
}

/* Reads the bundle and keeps the roots that a certificate of the chain names as its issuer. */
static void find_roots(roots *r, const mbedtls_x509_crt *chain) {
    static decoder d;
    char line[256];
    unsigned char *subject;
    size_t subject_len;
    bool inside = false;
    FILE *file = fopen(r->ca_file, "r");
    bench_require(file != NULL, "the bundle cannot be read");
    prepare(&d);
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "-----BEGIN CERTIFICATE", 22) == 0) {
            inside = true;
            d.len = 0;
            d.bit_count = 0;
        } else if (line[0] == '-') {
            if (inside && find_subject(d.der, d.len, &subject, &subject_len) &&
                is_issuer(chain, subject, subject_len)) {
                (void)mbedtls_x509_crt_parse_der(&r->found, d.der, d.len);
            }
            inside = false;
        } else if (inside) {
            decode_line(&d, line);
        }
    }
    (void)fclose(file);
}

/* Called for each certificate, the leaf last. Where nothing known vouches for the chain, all of it is verified again
 * with the roots that are found for it. */
static int on_verify(void *context, mbedtls_x509_crt *crt, int depth, uint32_t *flags) {
    roots *r = (roots *)context;
    uint32_t verdict = 0;
    if ((*flags & MBEDTLS_X509_BADCERT_NOT_TRUSTED) != 0) {
        r->open = true;
    }
    if (!r->open) {
        return 0;
    }
    if (depth > 0) {
        *flags = 0;
        return 0;
    }
    r->open = false;
    find_roots(r, crt);
    if (mbedtls_x509_crt_verify(crt, &r->found, NULL, r->host, &verdict, NULL, NULL) != 0 && verdict == 0) {
        verdict = MBEDTLS_X509_BADCERT_OTHER;
    }
    *flags = verdict;
    return 0;
}

/* ---- Connections ---- */

static void tls_open(floor_tls *t, const bench *b, bool whole) {
    static const char *protocols[] = {"http/1.1", NULL};
    const char *colon = strrchr(b->address, ':');
    bench_require(colon != NULL && (size_t)(colon - b->address) < sizeof t->host, "no HOST:PORT");
    memset(t, 0, sizeof *t);
    memcpy(t->host, b->address, (size_t)(colon - b->address));
    t->roots.ca_file = b->ca_file;
    t->roots.host = t->host;
    mbedtls_entropy_init(&t->entropy);
    mbedtls_ctr_drbg_init(&t->random);
    mbedtls_ssl_config_init(&t->config);
    mbedtls_x509_crt_init(&t->roots.found);
    bench_require(mbedtls_ctr_drbg_seed(&t->random, mbedtls_entropy_func, &t->entropy, NULL, 0) == 0 &&
                      mbedtls_ssl_config_defaults(&t->config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
                                                  MBEDTLS_SSL_PRESET_DEFAULT) == 0,
                  "TLS set-up");
    mbedtls_ssl_conf_rng(&t->config, mbedtls_ctr_drbg_random, &t->random);
    mbedtls_ssl_conf_authmode(&t->config, MBEDTLS_SSL_VERIFY_REQUIRED);
    mbedtls_ssl_conf_ca_chain(&t->config, &t->roots.found, NULL);
    (void)mbedtls_ssl_conf_alpn_protocols(&t->config, protocols);
#if MBEDTLS_VERSION_NUMBER >= 0x03020000
    mbedtls_ssl_conf_min_tls_version(&t->config, MBEDTLS_SSL_VERSION_TLS1_2);
#else
    static const mbedtls_ecp_group_id groups[] = {MBEDTLS_ECP_DP_CURVE25519, MBEDTLS_ECP_DP_SECP256R1,
                                                  MBEDTLS_ECP_DP_SECP384R1, MBEDTLS_ECP_DP_NONE};
    mbedtls_ssl_conf_curves(&t->config, groups); /* secp521r1, its own first choice, costs four times as much */
    mbedtls_ssl_conf_min_version(&t->config, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
#endif
    if (whole) {
        bench_require(mbedtls_x509_crt_parse_file(&t->roots.found, b->ca_file) >= 0, "the bundle cannot be read");
    } else {
        mbedtls_ssl_conf_verify(&t->config, on_verify, &t->roots);
    }
}

static void tls_close(floor_tls *t) {
    mbedtls_x509_crt_free(&t->roots.found);
    mbedtls_ssl_config_free(&t->config);
    mbedtls_ctr_drbg_free(&t->random);
    mbedtls_entropy_free(&t->entropy);
}

static bool would_block(void) {
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

static int on_send(void *context, const unsigned char *bytes, size_t len) {
    ssize_t n = send(((tunnel *)context)->fd, bytes, len, MSG_NOSIGNAL);
    return n >= 0 ? (int)n : would_block() ? MBEDTLS_ERR_SSL_WANT_WRITE : MBEDTLS_ERR_SSL_INTERNAL_ERROR;
}

static int on_receive(void *context, unsigned char *bytes, size_t len) {
    ssize_t n = recv(((tunnel *)context)->fd, bytes, len, 0);
    return n >= 0 ? (int)n : would_block() ? MBEDTLS_ERR_SSL_WANT_READ : MBEDTLS_ERR_SSL_INTERNAL_ERROR;
}

/* Connected, with TLS set up and no handshake yet. */
static void tunnel_open(tunnel *l, floor_tls *t, const char *address) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list;
    struct addrinfo *one;
    const int yes = 1;
    bench_require(getaddrinfo(t->host, strrchr(address, ':') + 1, &hints, &list) == 0, "the host has no address");
    l->fd = -1;
    for (one = list; one != NULL && l->fd < 0; one = one->ai_next) {
        l->fd = socket(one->ai_family, one->ai_socktype, one->ai_protocol);
        if (l->fd >= 0 && connect(l->fd, one->ai_addr, one->ai_addrlen) != 0) {
            (void)close(l->fd);
            l->fd = -1;
        }
    }
    freeaddrinfo(list);
    bench_require(l->fd >= 0, "nobody answers");
    (void)setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    mbedtls_ssl_init(&l->ssl);
    bench_require(mbedtls_ssl_setup(&l->ssl, &t->config) == 0 && mbedtls_ssl_set_hostname(&l->ssl, t->host) == 0,
                  "TLS set-up");
    mbedtls_ssl_set_bio(&l->ssl, l, on_send, on_receive, NULL);
}

static void tunnel_close(tunnel *l) {
    (void)mbedtls_ssl_close_notify(&l->ssl);
    mbedtls_ssl_free(&l->ssl);
    (void)close(l->fd);
}

/* Progress is to be made by trying once more, at once or when the socket is ready. */
static bool goes_on(int result) {
    bool ticket = false;
#if defined(MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET)
    ticket = result == MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET;
#endif
    return result == MBEDTLS_ERR_SSL_WANT_READ || result == MBEDTLS_ERR_SSL_WANT_WRITE || ticket;
}

static void shake_hands(tunnel *l) {
    int result;
    do {
        result = mbedtls_ssl_handshake(&l->ssl);
    } while (goes_on(result));
    bench_require(result == 0, "the handshake");
}

/* ---- Sessions that last from one run to the next ---- */

static void offer_session(tunnel *l, const bench *b) {
    static char kept[BENCH_MAX_STATE];
    mbedtls_ssl_session session;
    size_t len = bench_load(b, kept);
    mbedtls_ssl_session_init(&session);
    if (len > 0) {
        bench_require(mbedtls_ssl_session_load(&session, (unsigned char *)kept, len) == 0 &&
                          mbedtls_ssl_set_session(&l->ssl, &session) == 0,
                      "the session that was kept");
    }
    mbedtls_ssl_session_free(&session);
}

static void keep_session(tunnel *l, const bench *b) {
    static unsigned char out[BENCH_MAX_STATE];
    mbedtls_ssl_session session;
    size_t len;
    mbedtls_ssl_session_init(&session);
    bench_require(mbedtls_ssl_get_session(&l->ssl, &session) == 0 &&
                      mbedtls_ssl_session_save(&session, out, sizeof out, &len) == 0,
                  "a session to keep");
    bench_store(b, out, len);
    mbedtls_ssl_session_free(&session);
}

/* ---- Exchanges ---- */

typedef struct request {
    char text[2048];
    size_t len;
} request;

static void finish_request(request *r, const char *address, const char *path, const char *headers, const char *body) {
    int len = snprintf(r->text, sizeof r->text,
                       "POST %s HTTP/1.1\r\nHost: %s\r\nAccept: application/json\r\nUser-Agent: floor\r\n%s"
                       "Content-Length: %zu\r\n\r\n%s",
                       path, address, headers, strlen(body), body);
    bench_require(len > 0 && (size_t)len < sizeof r->text, "the request is too long");
    r->len = (size_t)len;
}

static void prepare_call(request *r, const char *address, const char *prefix, const char *operation) {
    char path[160];
    (void)snprintf(path, sizeof path, "%s/openai/v1/%s", prefix, operation);
    finish_request(r, address, path, "api-key: " BENCH_KEY "\r\nContent-Type: application/json\r\n",
                   "{\"model\":\"" BENCH_DEPLOYMENT "\",\"messages\":[{\"role\":\"system\",\"content\":\"" BENCH_SYSTEM
                   "\"},{\"role\":\"user\",\"content\":\"" BENCH_QUESTION "\"}]}");
}

static void prepare_stream(request *r, const char *address, bench_stream s) {
    char prefix[96];
    (void)snprintf(prefix, sizeof prefix, "/%ld/%ld/%ld", s.events, s.together, s.gap_us);
    prepare_call(r, address, prefix, "chat/completions");
}

static void send_request(tunnel *l, const request *r) {
    size_t sent = 0;
    while (sent < r->len) {
        int n = mbedtls_ssl_write(&l->ssl, (const unsigned char *)r->text + sent, r->len - sent);
        bench_require(n > 0 || goes_on(n), "sending");
        sent += n > 0 ? (size_t)n : 0;
    }
}

typedef struct reader {
    unsigned char buf[BUFFER + 1];
    size_t len;   /* of the piece in buf */
    size_t left;  /* of a body with a length */
    bool begun;   /* the head has been seen, which comes in one piece */
    bool chunked; /* ends with a piece that ends like the last chunk */
    long pieces;
} reader;

/* Takes the piece that has been read; false when it was the last. */
static bool take_piece(reader *r) {
    static const char last[] = "0\r\n\r\n";
    const char *text = (const char *)r->buf;
    r->pieces++;
    if (!r->begun) {
        const char *end = strstr(text, "\r\n\r\n");
        const char *length = strstr(text, "Content-Length: ");
        bench_require(end != NULL && strstr(text, " 200 ") != NULL, "the answer is no 200");
        r->begun = true;
        r->chunked = length == NULL;
        r->left = (r->chunked ? 0 : strtoul(length + 16, NULL, 10)) + (size_t)(end + 4 - text);
    }
    if (r->chunked) {
        return r->len < 5 || memcmp(text + r->len - 5, last, 5) != 0;
    }
    r->left -= r->len;
    return r->left > 0;
}

static void receive(tunnel *l, reader *r, void (*on_piece)(const reader *r)) {
    r->begun = false;
    r->pieces = 0;
    do {
        int n;
        do {
            n = mbedtls_ssl_read(&l->ssl, r->buf, BUFFER);
        } while (goes_on(n));
        bench_require(n > 0, "receiving");
        r->len = (size_t)n;
        r->buf[r->len] = '\0';
        if (on_piece != NULL) {
            on_piece(r);
        }
    } while (take_piece(r));
}

static reader the_reader;

static void exchange(tunnel *l, const request *r, void (*on_piece)(const reader *r)) {
    send_request(l, r);
    receive(l, &the_reader, on_piece);
}

static void connect_for(tunnel *l, floor_tls *t, const char *address) {
    tunnel_open(l, t, address);
    shake_hands(l);
}

/* ---- Modes ---- */

static void prepare_token(request *r, const char *address) {
    finish_request(r, address, "/" BENCH_TENANT "/oauth2/v2.0/token",
                   "Content-Type: application/x-www-form-urlencoded\r\n",
                   "grant_type=client_credentials&client_id=" BENCH_CLIENT
                   "&client_secret=a~b.c_d-e%2Bf%2Fg%3Dh%26i%25j%20k&scope=https%3A%2F%2Fai.azure.com%2F.default");
}

static void cold(const bench *b, bool with_token, bool whole) {
    static floor_tls t;
    static request call;
    static request token;
    static tunnel l;
    long i;
    prepare_call(&call, b->address, "", "chat/completions");
    for (i = 0; i < b->count; i++) {
        tls_open(&t, b, whole);
        if (with_token) {
            bench_require(b->entra != NULL, "BENCH_ENTRA is not set");
            prepare_token(&token, b->entra);
            connect_for(&l, &t, b->entra);
            exchange(&l, &token, NULL);
            tunnel_close(&l);
        }
        connect_for(&l, &t, b->address);
        exchange(&l, &call, NULL);
        tunnel_close(&l);
        tls_close(&t);
    }
}

static void cold_key(const bench *b) {
    cold(b, false, false);
}

static void cold_token(const bench *b) {
    cold(b, true, false);
}

/* With a token that was fetched before, too: one prepared request. */
static void cold_state(const bench *b) {
    static floor_tls t;
    static tunnel l;
    request call;
    long i;
    prepare_call(&call, b->address, "", "chat/completions");
    for (i = 0; i < b->count; i++) {
        tls_open(&t, b, false);
#if MBEDTLS_VERSION_NUMBER >= 0x03060100
        mbedtls_ssl_conf_tls13_enable_signal_new_session_tickets(&t.config,
                                                                 MBEDTLS_SSL_TLS1_3_SIGNAL_NEW_SESSION_TICKETS_ENABLED);
#endif
        tunnel_open(&l, &t, b->address);
        offer_session(&l, b);
        shake_hands(&l);
        exchange(&l, &call, NULL);
        keep_session(&l, b);
        tunnel_close(&l);
        tls_close(&t);
    }
}

static void cold_key_whole(const bench *b) {
    cold(b, false, true);
}

static void cold_token_whole(const bench *b) {
    cold(b, true, true);
}

/* `count` times `r` on one connection, after `first`, which does not count. */
static void repeat(const bench *b, const request *first, const request *r, long count,
                   void (*on_piece)(const reader *r)) {
    static floor_tls t;
    static tunnel l;
    long i;
    tls_open(&t, b, false);
    connect_for(&l, &t, b->address);
    exchange(&l, first, NULL);
    bench_start();
    for (i = 0; i < count; i++) {
        exchange(&l, r, on_piece);
    }
    bench_stop(b->count);
    tunnel_close(&l);
    tls_close(&t);
}

static void warm(const bench *b) {
    request call;
    prepare_call(&call, b->address, "", "chat/completions");
    repeat(b, &call, &call, b->count, NULL);
}

static void peer_stream(const bench *b, long gap_us, void (*on_piece)(const reader *r)) {
    static const bench_stream one = {1, 1, 0};
    bench_stream s = {b->count, 1, gap_us};
    request first;
    request r;
    prepare_stream(&first, b->address, one);
    prepare_stream(&r, b->address, s);
    repeat(b, &first, &r, 1, on_piece);
    bench_require(the_reader.pieces >= b->count, "events are missing");
}

static void stream(const bench *b) {
    peer_stream(b, 0, NULL);
}

static void note_delay(const reader *r) {
    static const char before[] = "\"content\":\"";
    const char *at = strstr((const char *)r->buf, before);
    if (at != NULL) {
        at += sizeof before - 1;
        bench_delay(at, strcspn(at, "\""));
    }
}

static void delay(const bench *b) {
    peer_stream(b, 1000, note_delay);
    bench_delays_print();
}

static void bulk(const bench *b) {
    char prefix[32];
    request first;
    request r;
    (void)snprintf(prefix, sizeof prefix, "/bulk/%ld", b->count);
    prepare_call(&first, b->address, "", "chat/completions");
    prepare_call(&r, b->address, prefix, "chat/completions");
    repeat(b, &first, &r, 1, NULL);
}

static void embed(const bench *b, const char *prefix) {
    request r;
    prepare_call(&r, b->address, prefix, "embeddings");
    repeat(b, &r, &r, b->count, NULL);
}

static void embed_text(const bench *b) {
    embed(b, "/text");
}

static void embed_base64(const bench *b) {
    embed(b, "/base64");
}

/* ---- Many: each connection shakes hands, sends and reads, whichever is ready ---- */

typedef struct worker {
    tunnel l;
    bool connected;
    size_t sent;
    bool begun;
    bool done;
} worker;

/* As far as it goes without waiting; leaves in *events what to wait for. */
static void work(worker *w, const request *r, short *events) {
    int n = 0;
    while (!w->done) {
        if (!w->connected) {
            n = mbedtls_ssl_handshake(&w->l.ssl);
            w->connected = n == 0;
        } else if (w->sent < r->len) {
            n = mbedtls_ssl_write(&w->l.ssl, (const unsigned char *)r->text + w->sent, r->len - w->sent);
            w->sent += n > 0 ? (size_t)n : 0;
        } else {
            n = mbedtls_ssl_read(&w->l.ssl, the_reader.buf, BUFFER);
            the_reader.len = n > 0 ? (size_t)n : 0;
            the_reader.buf[the_reader.len] = '\0';
            the_reader.begun = w->begun;
            the_reader.chunked = true;
            w->done = n > 0 && !take_piece(&the_reader);
            w->begun = w->begun || n > 0;
        }
        if (n == MBEDTLS_ERR_SSL_WANT_READ || n == MBEDTLS_ERR_SSL_WANT_WRITE) {
            *events = n == MBEDTLS_ERR_SSL_WANT_READ ? POLLIN : POLLOUT;
            return;
        }
        bench_require(n >= 0 || goes_on(n), "a connection");
    }
}

static void many(const bench *b) {
    static floor_tls t;
    bench_stream s = {BENCH_MANY_EVENTS, b->count, 0};
    request r;
    worker *workers = (worker *)calloc((size_t)b->count, sizeof *workers);
    struct pollfd *wishes = (struct pollfd *)calloc((size_t)b->count, sizeof *wishes);
    long left = b->count;
    long i;
    bench_require(workers != NULL && wishes != NULL, "memory");
    prepare_stream(&r, b->address, s);
    tls_open(&t, b, false);
    bench_start();
    for (i = 0; i < b->count; i++) {
        tunnel_open(&workers[i].l, &t, b->address);
        bench_require(fcntl(workers[i].l.fd, F_SETFL, O_NONBLOCK) == 0, "fcntl");
        wishes[i].fd = workers[i].l.fd;
        wishes[i].events = POLLOUT;
    }
    while (left > 0) {
        bench_require(poll(wishes, (nfds_t)b->count, -1) > 0, "poll");
        for (i = 0; i < b->count; i++) {
            if (wishes[i].revents != 0) {
                work(&workers[i], &r, &wishes[i].events);
                if (workers[i].done) {
                    wishes[i].fd = -1;
                    left--;
                }
            }
        }
    }
    bench_stop(b->count);
    for (i = 0; i < b->count; i++) {
        tunnel_close(&workers[i].l);
    }
    free(workers);
    free(wishes);
    tls_close(&t);
}

static void version(const bench *b) {
    (void)b;
    puts(MBEDTLS_VERSION_STRING);
}

const bench_mode bench_modes[] = {
    {"version", version}, /* of mbedTLS */
    {"cold-key", cold_key},
    {"cold-token", cold_token},
    {"cold-state", cold_state},
    {"cold-key-whole", cold_key_whole},
    {"cold-token-whole", cold_token_whole},
    {"warm", warm},
    {"stream", stream},
    {"bulk", bulk},
    {"embed-text", embed_text},
    {"embed-base64", embed_base64},
    {"many", many},
    {"delay", delay},
    {NULL, NULL},
};
