/* script_tls.h - TLS in the scripted world. Include it after script.h.
 *
 * A layer between a client and a script_world: on the ports that it is told, a TLS server (mbedTLS, in memory) stands
 * before the scripted peer. What the client sends is decrypted and becomes the peer's requests; what the peer sends
 * becomes one record per part. So whole calls over https run with the fake clock, without sockets and threads.
 *
 *     script_tls t;
 *     script_open(&w);
 *     script_tls_open(&t, &w, chain_pem, key_pem);
 *     script_tls_port(&t, 8443);
 *     script_peer(&w, 8443, service, &state);
 *     desc.transport = t.transport;        instead of w.transport
 *     t.cut = ...                          what the network does to the bytes of one connection
 *     ...
 *     script_tls_close(&t);
 *     script_close(&w);
 *
 * A peer ends its connection with script_end: AZO_OK means close_notify and FIN, AZO_ERR_CLOSED a reset.
 *
 * The server's randomness starts at the same seed in each script_tls_open. To have the client's do so as well, so that
 * runs differ in what the test changes and in little else, include mbedtls/ctr_drbg.h, declare script_random and define
 * mbedtls_ctr_drbg_random as script_random, all before azopenai.h.
 *
 * A script_tls_tape keeps what the server said to which bytes in a handshake, and says it again to the same bytes: the
 * server's half of the arithmetic, which is most of what a run costs that ends within the handshake.
 */
#ifndef AZO_TEST_SCRIPT_TLS_H
#define AZO_TEST_SCRIPT_TLS_H

#include <mbedtls/pk.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_ticket.h>
#include <mbedtls/x509_crt.h>

enum { SCRIPT_TLS_PORTS = 2 };

typedef struct script_tls script_tls;
typedef struct script_tls_conn script_tls_conn;

/* What happens when so many bytes have gone that way. */
typedef enum script_tls_how { SCRIPT_TLS_UNCUT, SCRIPT_TLS_END, SCRIPT_TLS_RESET, SCRIPT_TLS_STALL } script_tls_how;
typedef enum script_tls_way { SCRIPT_TLS_DOWN, SCRIPT_TLS_UP } script_tls_way; /* to the client, to the peer */

typedef struct script_tls_cut {
    script_tls_how how;
    script_tls_way way;
    unsigned port;
    unsigned number; /* of the connection to that port, from 1; 0: each */
    size_t at;
    unsigned char flip; /* instead of a cut: these bits of the byte at `at` on its way down */
    bool hit;
} script_tls_cut;

typedef struct script_bytes {
    unsigned char *bytes;
    size_t len;
    size_t taken;
} script_bytes;

enum { SCRIPT_TLS_TAKES = 8 };

typedef struct script_tls_tape {
    script_bytes up;
    size_t up_at[SCRIPT_TLS_TAKES]; /* when so many bytes had come, the server said down[] up to down_at */
    size_t down_at[SCRIPT_TLS_TAKES];
    script_bytes down;
    size_t takes;
    bool whole; /* to be played */
} script_tls_tape;

struct script_tls_conn {
    script_tls *tls;
    script_conn *plain; /* NULL: no TLS on this port */
    mbedtls_ssl_context ssl;
    script_bytes in;  /* from the client, encrypted */
    script_bytes out; /* to the client */
    size_t up;        /* bytes that went each way so far */
    size_t down;
    bool ready;    /* hands were shaken */
    bool finished; /* nothing more comes: FIN follows */
    bool reset;
    size_t takes; /* of the tape, played so far */
    bool live;    /* the tape does not fit */
};

struct script_tls {
    script_world *world;
    azo_transport transport;
    mbedtls_ssl_config config;
    mbedtls_x509_crt chain;
    mbedtls_pk_context key;
    mbedtls_ssl_ticket_context tickets;
    unsigned ports[SCRIPT_TLS_PORTS];
    size_t port_count;
    script_tls_cut cut;
    size_t record_limit;                  /* most bytes of a record; 0: no limit */
    void (*on_ready)(script_tls_conn *c); /* after the handshake, before anything is answered */
    void (*on_dry)(script_tls_conn *c);   /* after it, when the client wants more than there is */
    void (*on_bytes)(script_tls_conn *c); /* instead of TLS: looks at c->in */
    void *state;                          /* of the three */
    script_tls_tape *tape;                /* NULL, or one to record, or to play */
    uint64_t random;
    size_t last_up; /* of the connection that was closed last */
    size_t last_down;
    size_t plain_bytes; /* decrypted so far: what the peers could read */
    script_tls_conn conns[SCRIPT_CONNS];
};

/* While this is set, mbedTLS works for the server. */
static bool script_tls_serving;

#define SCRIPT_TLS_SEED 0x9e3779b97f4a7c15u

static uint64_t script_client_random = SCRIPT_TLS_SEED;

/* xorshift64*: the server's. */
static int script_tls_random(void *self, unsigned char *out, size_t len) {
    uint64_t *x = (uint64_t *)self;
    for (size_t i = 0; i < len; i++) {
        *x ^= *x >> 12;
        *x ^= *x << 25;
        *x ^= *x >> 27;
        out[i] = (unsigned char)(*x * 0x2545f4914f6cdd1du >> 56);
    }
    return 0;
}

/* The client's. */
static inline int script_random(void *self, unsigned char *out, size_t len) {
    (void)self;
    return script_tls_random(&script_client_random, out, len);
}

static inline void script_bytes_add(script_bytes *b, const void *bytes, size_t len) {
    b->bytes = (unsigned char *)realloc(b->bytes, b->len + len + 1);
    assert_non_null(b->bytes);
    memcpy(b->bytes + b->len, bytes, len);
    b->len += len;
}

static inline size_t script_bytes_take(script_bytes *b, void *out, size_t cap) {
    size_t take = b->len - b->taken < cap ? b->len - b->taken : cap;
    if (take > 0) {
        memcpy(out, b->bytes + b->taken, take);
        b->taken += take;
    }
    return take;
}

static inline bool script_bytes_empty(const script_bytes *b) {
    return b->taken == b->len;
}

static inline int script_tls_bio_recv(void *self, unsigned char *buf, size_t cap) {
    size_t got = script_bytes_take(&((script_tls_conn *)self)->in, buf, cap);
    return got > 0 ? (int)got : MBEDTLS_ERR_SSL_WANT_READ;
}

static inline int script_tls_bio_send(void *self, const unsigned char *buf, size_t len) {
    script_bytes_add(&((script_tls_conn *)self)->out, buf, len);
    return (int)len;
}

/* ---- the cut ---- */

static inline bool script_tls_cut_concerns(const script_tls_conn *c, script_tls_way way) {
    const script_tls_cut *cut = &c->tls->cut;
    return (cut->how != SCRIPT_TLS_UNCUT || cut->flip != 0) && cut->way == way && cut->port == c->plain->peer->port &&
           (cut->number == 0 || cut->number == c->plain->number);
}

/* Whether the connection is past its cut: the peer is not there any more, or not to be heard. */
static inline bool script_tls_cut_reached(const script_tls_conn *c) {
    const script_tls_cut *cut = &c->tls->cut;
    return cut->how != SCRIPT_TLS_UNCUT && ((script_tls_cut_concerns(c, SCRIPT_TLS_UP) && c->up >= cut->at) ||
                                            (script_tls_cut_concerns(c, SCRIPT_TLS_DOWN) && c->down >= cut->at));
}

/* At most so many bytes before the cut. */
static inline size_t script_tls_cut_limit(const script_tls_conn *c, script_tls_way way, size_t len) {
    size_t gone = way == SCRIPT_TLS_UP ? c->up : c->down;
    const script_tls_cut *cut = &c->tls->cut;
    return cut->how != SCRIPT_TLS_UNCUT && script_tls_cut_concerns(c, way) && len > cut->at - gone ? cut->at - gone
                                                                                                   : len;
}

static inline void script_tls_cut_flip(script_tls_conn *c, unsigned char *buf, size_t len) {
    script_tls_cut *cut = &c->tls->cut;
    if (cut->flip != 0 && script_tls_cut_concerns(c, SCRIPT_TLS_DOWN) && cut->at >= c->down &&
        cut->at - c->down < len) {
        buf[cut->at - c->down] ^= cut->flip;
        cut->hit = true;
    }
}

/* ---- the server ---- */

static inline void script_tls_say(script_tls_conn *c, const void *bytes, size_t len) {
    script_bytes_add(&c->out, bytes, len);
}

/* Encrypts application data. */
static inline void script_tls_write(script_tls_conn *c, const unsigned char *bytes, size_t len) {
    size_t limit = c->tls->record_limit;
    for (size_t done = 0; done < len;) {
        size_t most = limit != 0 && len - done > limit ? limit : len - done;
        script_tls_serving = true;
        int ret = mbedtls_ssl_write(&c->ssl, bytes + done, most);
        script_tls_serving = false;
        if (ret <= 0) {
            fail_msg("script: the TLS server cannot write (-0x%04x)", (unsigned)-ret);
        }
        done += (size_t)ret;
    }
}

/* Decrypts what has come and hands it to the peer. */
static inline void script_tls_read(script_tls_conn *c) {
    unsigned char buf[4096];
    int ret = 0;
    if (!c->ready) {
        ret = mbedtls_ssl_handshake(&c->ssl);
        c->ready = ret == 0;
        if (c->ready && c->tls->on_ready != NULL) {
            c->tls->on_ready(c);
        }
    }
    while (ret == 0) {
        ret = mbedtls_ssl_read(&c->ssl, buf, sizeof buf);
        if (ret > 0) {
            c->tls->plain_bytes += (size_t)ret;
            script_tls_serving = false;
            (void)script_conn_send(c->plain, buf, (size_t)ret, c->tls->world);
            script_tls_serving = true;
            ret = 0;
        }
    }
    if (ret != MBEDTLS_ERR_SSL_WANT_READ && ret != MBEDTLS_ERR_SSL_WANT_WRITE) {
        c->finished = true; /* the alert that says why is on its way */
    }
}

/* What the server has said since there were `before` bytes, to what the client had said by then. */
static inline void script_tls_record(script_tls_conn *c, size_t before) {
    script_tls_tape *tape = c->tls->tape;
    if (c->out.len > before) {
        assert_true(tape->takes < SCRIPT_TLS_TAKES);
        script_bytes_add(&tape->down, c->out.bytes + before, c->out.len - before);
        script_bytes_add(&tape->up, c->in.bytes + tape->up.len, c->up - tape->up.len);
        tape->down_at[tape->takes] = tape->down.len;
        tape->up_at[tape->takes] = tape->up.len;
        tape->takes++;
    }
    tape->whole = c->ready;
    c->live = true;
}

/* True if the tape has the word, not the server. A first message that is not on it (the time of day is in there) is for
 * the server; with a later one there is nobody to answer. */
static inline bool script_tls_play(script_tls_conn *c) {
    const script_tls_tape *tape = c->tls->tape;
    while (!c->live && c->takes < tape->takes && c->up >= tape->up_at[c->takes]) {
        size_t from = c->takes == 0 ? 0 : tape->down_at[c->takes - 1];
        if (memcmp(c->in.bytes, tape->up.bytes, tape->up_at[c->takes]) != 0) {
            c->live = c->takes == 0;
            c->finished = !c->live;
            return !c->live;
        }
        script_bytes_add(&c->out, tape->down.bytes + from, tape->down_at[c->takes] - from);
        c->takes++;
    }
    return !c->live;
}

static inline void script_tls_serve(script_tls_conn *c) {
    const script_tls_tape *tape = c->tls->tape;
    size_t before = c->out.len;
    if (c->finished || script_tls_cut_reached(c) || (tape != NULL && tape->whole && script_tls_play(c))) {
        return;
    }
    if (c->tls->on_bytes != NULL) {
        c->tls->on_bytes(c);
        return;
    }
    bool recording = tape != NULL && !tape->whole;
    script_tls_serving = true;
    script_tls_read(c);
    script_tls_serving = false;
    if (recording) {
        script_tls_record(c, before);
    }
}

/* Encrypts what the peer has to say by now. */
static inline void script_tls_speak(script_tls_conn *c) {
    unsigned char buf[16384];
    while (c->ready && !c->finished && !c->reset && !script_tls_cut_reached(c)) {
        ptrdiff_t got = script_conn_recv(c->plain, buf, sizeof buf, c->tls->world);
        if (got == AZO_IO_AGAIN) {
            return;
        }
        if (got > 0) {
            script_tls_write(c, buf, (size_t)got);
            continue;
        }
        if (got == 0) {
            script_tls_serving = true;
            (void)mbedtls_ssl_close_notify(&c->ssl);
            script_tls_serving = false;
        }
        c->finished = true;
        c->reset = got != 0;
    }
}

/* ---- the transport ---- */

static inline script_tls_conn *script_tls_of(const script_tls *t, const script_conn *plain) {
    const script_tls_conn *c = &t->conns[plain->fd];
    return c->plain == NULL ? NULL : (script_tls_conn *)(uintptr_t)c;
}

static inline azo_result script_tls_conn_open(const azo_target *to, void **out, void *user_data) {
    script_tls *t = (script_tls *)user_data;
    bool speaks = false;
    azo_result r = script_conn_open(to, out, t->world);
    for (size_t i = 0; i < t->port_count; i++) {
        speaks = speaks || t->ports[i] == to->port;
    }
    if (r == AZO_OK && speaks) {
        script_conn *plain = (script_conn *)*out;
        script_tls_conn *c = &t->conns[plain->fd];
        memset(c, 0, sizeof *c);
        c->tls = t;
        c->plain = plain;
        script_tls_serving = true;
        mbedtls_ssl_init(&c->ssl);
        int ret = mbedtls_ssl_setup(&c->ssl, &t->config);
        script_tls_serving = false;
        assert_int_equal(ret, 0);
        mbedtls_ssl_set_bio(&c->ssl, c, script_tls_bio_send, script_tls_bio_recv, NULL);
    }
    return r;
}

static inline int script_tls_conn_connect(void *conn, void *user_data) {
    return script_conn_connect(conn, ((script_tls *)user_data)->world);
}

static inline ptrdiff_t script_tls_broken(script_tls *t) {
    t->cut.hit = t->cut.hit || t->cut.how == SCRIPT_TLS_RESET;
    errno = ECONNRESET;
    return AZO_ERR_CLOSED;
}

static inline ptrdiff_t script_tls_conn_send(void *conn, const void *buf, size_t len, void *user_data) {
    script_tls *t = (script_tls *)user_data;
    script_tls_conn *c = script_tls_of(t, (script_conn *)conn);
    if (c == NULL) {
        return script_conn_send(conn, buf, len, t->world);
    }
    assert_true(c->plain->open && c->plain->connected);
    if (c->reset) {
        return script_tls_broken(t);
    }
    if (script_tls_cut_reached(c)) {
        t->cut.hit = true;
        return t->cut.how == SCRIPT_TLS_RESET   ? script_tls_broken(t)
               : t->cut.how == SCRIPT_TLS_STALL ? AZO_IO_AGAIN
                                                : (ptrdiff_t)len; /* into the void */
    }
    size_t take = t->world->send_limit != 0 && len > t->world->send_limit ? t->world->send_limit : len;
    take = script_tls_cut_limit(c, SCRIPT_TLS_UP, take);
    script_bytes_add(&c->in, buf, take);
    c->up += take;
    script_tls_serve(c);
    return (ptrdiff_t)take;
}

static inline ptrdiff_t script_tls_conn_recv(void *conn, void *buf, size_t cap, void *user_data) {
    script_tls *t = (script_tls *)user_data;
    script_tls_conn *c = script_tls_of(t, (script_conn *)conn);
    if (c == NULL) {
        return script_conn_recv(conn, buf, cap, t->world);
    }
    script_tls_speak(c);
    if (t->on_dry != NULL && c->ready && !c->finished && script_bytes_empty(&c->out)) {
        t->on_dry(c);
    }
    bool reached = script_tls_cut_reached(c);
    if (c->reset || (reached && t->cut.how == SCRIPT_TLS_RESET)) {
        return script_tls_broken(t);
    }
    size_t most = t->world->recv_limit != 0 && cap > t->world->recv_limit ? t->world->recv_limit : cap;
    size_t got = script_bytes_take(&c->out, buf, script_tls_cut_limit(c, SCRIPT_TLS_DOWN, most));
    if (got > 0) {
        script_tls_cut_flip(c, (unsigned char *)buf, got);
        c->down += got;
        return (ptrdiff_t)got;
    }
    t->cut.hit = t->cut.hit || reached;
    bool ended = reached ? t->cut.how == SCRIPT_TLS_END : c->finished;
    return ended ? 0 : AZO_IO_AGAIN;
}

static inline size_t script_tls_conn_watch(void *conn, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms,
                                           void *user_data) {
    return script_conn_watch(conn, want, out, cap, timeout_ms, ((script_tls *)user_data)->world);
}

static inline void script_tls_conn_close(void *conn, void *user_data) {
    script_tls *t = (script_tls *)user_data;
    script_tls_conn *c = script_tls_of(t, (script_conn *)conn);
    if (c != NULL) {
        t->last_up = c->up;
        t->last_down = c->down;
        script_tls_serving = true;
        mbedtls_ssl_free(&c->ssl);
        script_tls_serving = false;
        free(c->in.bytes);
        free(c->out.bytes);
        c->plain = NULL;
    }
    script_conn_close(conn, t->world);
}

static inline int64_t script_tls_ready_at(const script_tls *t, int fd, unsigned events) {
    const script_conn *plain = &t->world->conns[fd];
    const script_tls_conn *c = script_tls_of(t, plain);
    if (c == NULL || !plain->connected) {
        return script_ready_at(plain, events);
    }
    bool reached = script_tls_cut_reached(c);
    if (reached && t->cut.how == SCRIPT_TLS_STALL) {
        bool more = (events & AZO_POLL_IN) != 0 && t->cut.way == SCRIPT_TLS_UP && !script_bytes_empty(&c->out);
        return more ? t->world->now : INT64_MAX;
    }
    if (reached || c->finished || !script_bytes_empty(&c->out)) {
        return t->world->now;
    }
    return script_ready_at(plain, c->ready ? events : events & ~(unsigned)AZO_POLL_IN);
}

static inline int script_tls_poll(azo_watch *set, size_t count, int32_t timeout_ms, void *user_data) {
    script_tls *t = (script_tls *)user_data;
    int64_t next = timeout_ms < 0 ? INT64_MAX : t->world->now + timeout_ms;
    int ready = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t at = script_tls_ready_at(t, (int)set[i].fd, set[i].events);
        next = at < next ? at : next;
    }
    if (next == INT64_MAX) {
        fail_msg("script: the client would sleep for ever");
    }
    t->world->now = next > t->world->now ? next : t->world->now;
    for (size_t i = 0; i < count; i++) {
        bool is = script_tls_ready_at(t, (int)set[i].fd, set[i].events) <= t->world->now;
        set[i].events = is ? set[i].events : 0;
        ready += is;
    }
    return ready;
}

/* ---- opening and closing ---- */

static inline void script_tls_port(script_tls *t, unsigned port) {
    assert_true(t->port_count < SCRIPT_TLS_PORTS);
    t->ports[t->port_count++] = port;
}

static inline void script_tls_configure(script_tls *t) {
    assert_int_equal(mbedtls_ssl_config_defaults(&t->config, MBEDTLS_SSL_IS_SERVER, MBEDTLS_SSL_TRANSPORT_STREAM,
                                                 MBEDTLS_SSL_PRESET_DEFAULT),
                     0);
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    mbedtls_ssl_conf_rng(&t->config, script_tls_random, &t->random);
#endif
    assert_int_equal(mbedtls_ssl_conf_own_cert(&t->config, &t->chain, &t->key), 0);
}

/* The server issues tickets and takes them back. */
static inline void script_tls_use_tickets(script_tls *t) {
    enum { DAY = 86400 };
    script_tls_serving = true;
#if MBEDTLS_VERSION_NUMBER >= 0x04000000
    int ret = mbedtls_ssl_ticket_setup(&t->tickets, PSA_ALG_GCM, PSA_KEY_TYPE_AES, 256, DAY);
#else
    int ret = mbedtls_ssl_ticket_setup(&t->tickets, script_tls_random, &t->random, MBEDTLS_CIPHER_AES_256_GCM, DAY);
#endif
    script_tls_serving = false;
    assert_int_equal(ret, 0);
    mbedtls_ssl_conf_session_tickets_cb(&t->config, mbedtls_ssl_ticket_write, mbedtls_ssl_ticket_parse, &t->tickets);
}

static inline void script_tls_tape_free(script_tls_tape *tape) {
    free(tape->up.bytes);
    free(tape->down.bytes);
    memset(tape, 0, sizeof *tape);
}

/* 0x303 or 0x304: no other version. */
static inline void script_tls_version(script_tls *t, int version) {
#if MBEDTLS_VERSION_NUMBER >= 0x03020000
    mbedtls_ssl_conf_min_tls_version(&t->config, (mbedtls_ssl_protocol_version)version);
    mbedtls_ssl_conf_max_tls_version(&t->config, (mbedtls_ssl_protocol_version)version);
#else
    mbedtls_ssl_conf_min_version(&t->config, version >> 8, version & 0xff);
    mbedtls_ssl_conf_max_version(&t->config, version >> 8, version & 0xff);
#endif
}

static inline void script_tls_open(script_tls *t, script_world *w, azo_str chain_pem, azo_str key_pem) {
    const unsigned char *key = (const unsigned char *)key_pem.ptr;
    memset(t, 0, sizeof *t);
    script_client_random = SCRIPT_TLS_SEED;
    t->random = ~script_client_random;
    t->world = w;
    t->transport = w->transport;
    t->transport.user_data = t;
    t->transport.open = script_tls_conn_open;
    t->transport.connect = script_tls_conn_connect;
    t->transport.recv = script_tls_conn_recv;
    t->transport.send = script_tls_conn_send;
    t->transport.watch = script_tls_conn_watch;
    t->transport.close = script_tls_conn_close;
    t->transport.poll = script_tls_poll;
    script_tls_serving = true;
#if MBEDTLS_VERSION_NUMBER >= 0x04000000
    assert_int_equal(psa_crypto_init(), PSA_SUCCESS); /* without it no key can be read */
#endif
    mbedtls_ssl_config_init(&t->config);
    mbedtls_x509_crt_init(&t->chain);
    mbedtls_pk_init(&t->key);
    mbedtls_ssl_ticket_init(&t->tickets);
    assert_int_equal(mbedtls_x509_crt_parse(&t->chain, (const unsigned char *)chain_pem.ptr, chain_pem.len + 1), 0);
#if MBEDTLS_VERSION_NUMBER >= 0x04000000 || MBEDTLS_VERSION_NUMBER < 0x03000000
    assert_int_equal(mbedtls_pk_parse_key(&t->key, key, key_pem.len + 1, NULL, 0), 0);
#else
    assert_int_equal(mbedtls_pk_parse_key(&t->key, key, key_pem.len + 1, NULL, 0, script_tls_random, &t->random), 0);
#endif
    script_tls_configure(t);
    script_tls_serving = false;
}

static inline void script_tls_close(script_tls *t) {
    script_tls_serving = true;
    mbedtls_ssl_config_free(&t->config);
    mbedtls_x509_crt_free(&t->chain);
    mbedtls_pk_free(&t->key);
    mbedtls_ssl_ticket_free(&t->tickets);
    script_tls_serving = false;
}

#endif
