/* script.h - a network without sockets and a clock that nobody waits for. Include it after support.h.
 *
 * A world has peers, one per port, each a function that answers whole HTTP requests; what it sends arrives at a time
 * of its choice, in pieces if it likes. The world's transport and clock hooks make a client live in it: its poll
 * hook moves the clock to whatever happens next. Descriptors are numbered as a kernel does, the lowest free first.
 *
 *     static void service(script_conn *c, const char *request) { script_send(c, 20, "HTTP/1.1 200 OK\r\n..."); }
 *
 *     script_world w;
 *     script_open(&w);
 *     script_peer(&w, 8000, service, &state);
 *     azo_client_desc desc = {.endpoint = "http://127.0.0.1:8000", .transport = w.transport, .clock = w.clock};
 *     ...
 *     script_close(&w);                 fails the test if a connection was left open
 */
#ifndef AZO_TEST_SCRIPT_H
#define AZO_TEST_SCRIPT_H

enum { SCRIPT_PEERS = 4, SCRIPT_CONNS = 256, SCRIPT_PARTS = 64 };

typedef struct script_world script_world;
typedef struct script_conn script_conn;
typedef void (*script_service)(script_conn *conn, const char *request);

typedef struct script_peer_entry {
    unsigned port;
    script_service serve;
    void *state;
    azo_result connect_result; /* AZO_OK, AZO_PENDING for a black hole, or a failure */
    int connect_ms;
    size_t requests;
    size_t connections;
} script_peer_entry;

typedef struct script_part { /* of what a peer sends */
    int64_t at;
    char *bytes;  /* NULL: the end of the connection */
    size_t len;
    size_t taken;
    azo_result end; /* AZO_OK: orderly; else what recv returns */
} script_part;

struct script_conn {
    script_world *world;
    script_peer_entry *peer;
    bool open;
    bool connected;
    int64_t connect_at;
    int fd;
    uint32_t id;
    char *request;
    size_t request_len;
    script_part parts[SCRIPT_PARTS];
    size_t first;
    size_t count;
    size_t in_edges;  /* how often recv ran dry: a new edge is due after each */
    unsigned number;  /* of the connections to this peer, from 1 */
};

struct script_world {
    azo_transport transport;
    azo_clock clock;
    int64_t now;
    int64_t unix_base;
    script_peer_entry peers[SCRIPT_PEERS];
    size_t peer_count;
    script_conn conns[SCRIPT_CONNS];
    bool fds[SCRIPT_CONNS];
    size_t recv_limit; /* bytes per recv; 0: all */
    size_t send_limit;
    size_t opened;
};

static void script_send_bytes(script_conn *c, int64_t delay_ms, const char *bytes, size_t len) {
    if (c->count == SCRIPT_PARTS) {
        fail_msg("script: too many parts");
    }
    script_part *part = &c->parts[c->count++];
    part->at = c->world->now + delay_ms;
    part->bytes = (char *)malloc(len + 1);
    memcpy(part->bytes, bytes, len);
    part->len = len;
    part->taken = 0;
}

static void script_send(script_conn *c, int64_t delay_ms, const char *text) {
    script_send_bytes(c, delay_ms, text, strlen(text));
}

static void script_end(script_conn *c, int64_t delay_ms, azo_result how) {
    script_part *part = &c->parts[c->count++];
    memset(part, 0, sizeof *part);
    part->at = c->world->now + delay_ms;
    part->end = how;
}

/* A whole answer with a Content-Length; `headers` are lines with CRLF. */
static void script_answer(script_conn *c, int64_t delay_ms, int status, const char *headers, const char *body) {
    char head[2048];
    int len = snprintf(head, sizeof head, "HTTP/1.1 %d Status\r\nContent-Type: application/json\r\n%sContent-Length: "
                       "%lu\r\n\r\n", status, headers, (unsigned long)strlen(body));
    assert_in_range(len, 1, (int)sizeof head - 1);
    script_send(c, delay_ms, head);
    script_send(c, delay_ms, body);
}

static script_peer_entry *script_peer(script_world *w, unsigned port, script_service serve, void *state) {
    script_peer_entry *peer = &w->peers[w->peer_count++];
    memset(peer, 0, sizeof *peer);
    peer->port = port;
    peer->serve = serve;
    peer->state = state;
    return peer;
}

static azo_result script_conn_open(const azo_target *to, void **out, void *user_data) {
    script_world *w = (script_world *)user_data;
    script_peer_entry *peer = NULL;
    for (size_t i = 0; i < w->peer_count; i++) {
        peer = w->peers[i].port == to->port ? &w->peers[i] : peer;
    }
    if (peer == NULL) {
        return AZO_ERR_RESOLVE;
    }
    int fd = 0;
    while (w->fds[fd]) {
        fd++;
        assert_true(fd < SCRIPT_CONNS);
    }
    script_conn *c = &w->conns[fd];
    memset(c, 0, sizeof *c);
    c->world = w;
    c->peer = peer;
    c->open = true;
    c->fd = fd;
    c->id = to->id;
    c->number = (unsigned)++peer->connections;
    c->connect_at = w->now + peer->connect_ms;
    w->fds[fd] = true;
    w->opened++;
    *out = c;
    return AZO_OK;
}

static int script_conn_connect(void *conn, void *user_data) {
    script_conn *c = (script_conn *)conn;
    script_world *w = (script_world *)user_data;
    if (c->peer->connect_result == AZO_PENDING || w->now < c->connect_at) {
        return AZO_IO_AGAIN;
    }
    c->connected = c->peer->connect_result == AZO_OK;
    return c->peer->connect_result;
}

/* Hands whole requests to the peer. */
static void script_conn_serve(script_conn *c) {
    for (;;) {
        char *end = c->request != NULL ? strstr(c->request, "\r\n\r\n") : NULL;
        if (end == NULL) {
            return;
        }
        size_t size = (size_t)(end - c->request) + 4;
        char *length = strstr(c->request, "Content-Length: ");
        if (length != NULL && length < end) {
            size += (size_t)strtoul(length + 16, NULL, 10);
        }
        if (c->request_len < size) {
            return;
        }
        char *one = (char *)malloc(size + 1);
        memcpy(one, c->request, size);
        one[size] = '\0';
        c->request_len -= size;
        memmove(c->request, c->request + size, c->request_len + 1);
        c->peer->requests++;
        c->peer->serve(c, one);
        free(one);
    }
}

static ptrdiff_t script_conn_send(void *conn, const void *buf, size_t len, void *user_data) {
    script_conn *c = (script_conn *)conn;
    script_world *w = (script_world *)user_data;
    size_t take = w->send_limit != 0 && len > w->send_limit ? w->send_limit : len;
    assert_true(c->open && c->connected);
    for (size_t i = c->first; i < c->count; i++) {
        if (c->parts[i].bytes == NULL && c->parts[i].at <= w->now && c->parts[i].end == AZO_ERR_CLOSED) {
            return AZO_ERR_CLOSED;
        }
    }
    c->request = (char *)realloc(c->request, c->request_len + take + 1);
    memcpy(c->request + c->request_len, buf, take);
    c->request_len += take;
    c->request[c->request_len] = '\0';
    script_conn_serve(c);
    return (ptrdiff_t)take;
}

static ptrdiff_t script_conn_recv(void *conn, void *buf, size_t cap, void *user_data) {
    script_conn *c = (script_conn *)conn;
    script_world *w = (script_world *)user_data;
    assert_true(c->open);
    if (c->first == c->count || c->parts[c->first].at > w->now) {
        c->in_edges++;
        return AZO_IO_AGAIN;
    }
    script_part *part = &c->parts[c->first];
    if (part->bytes == NULL) {
        return part->end == AZO_OK ? 0 : (ptrdiff_t)part->end;
    }
    size_t take = part->len - part->taken;
    take = take < cap ? take : cap;
    take = w->recv_limit != 0 && take > w->recv_limit ? w->recv_limit : take;
    memcpy(buf, part->bytes + part->taken, take);
    part->taken += take;
    if (part->taken == part->len) {
        free(part->bytes);
        part->bytes = NULL;
        c->first++;
        if (c->first == c->count) {
            c->first = 0;
            c->count = 0;
        }
    }
    return (ptrdiff_t)take;
}

static size_t script_conn_watch(void *conn, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms,
                                void *user_data) {
    script_conn *c = (script_conn *)conn;
    (void)user_data;
    (void)timeout_ms;
    if (cap > 0) {
        out[0].fd = c->fd;
        out[0].events = want;
    }
    return 1;
}

static void script_conn_close(void *conn, void *user_data) {
    script_conn *c = (script_conn *)conn;
    script_world *w = (script_world *)user_data;
    assert_true(c->open);
    for (size_t i = c->first; i < c->count; i++) {
        free(c->parts[i].bytes);
    }
    free(c->request);
    c->open = false;
    w->fds[c->fd] = false;
}

/* When a descriptor becomes ready for any of the events; INT64_MAX if nothing is on its way. */
static int64_t script_ready_at(const script_conn *c, unsigned events) {
    if (!c->connected) {
        return c->peer->connect_result == AZO_PENDING ? INT64_MAX : c->connect_at;
    }
    if ((events & AZO_POLL_OUT) != 0) {
        return c->world->now;
    }
    return c->first < c->count ? c->parts[c->first].at : INT64_MAX;
}

static int script_poll(azo_watch *set, size_t count, int32_t timeout_ms, void *user_data) {
    script_world *w = (script_world *)user_data;
    int64_t next = timeout_ms < 0 ? INT64_MAX : w->now + timeout_ms;
    for (size_t i = 0; i < count; i++) {
        int64_t at = script_ready_at(&w->conns[set[i].fd], set[i].events);
        next = at < next ? at : next;
    }
    if (next == INT64_MAX) {
        fail_msg("script: the client would sleep for ever");
    }
    w->now = next > w->now ? next : w->now;
    int ready = 0;
    for (size_t i = 0; i < count; i++) {
        bool is = script_ready_at(&w->conns[set[i].fd], set[i].events) <= w->now;
        set[i].events = is ? set[i].events : 0;
        ready += is;
    }
    return ready;
}

static int64_t script_monotonic(void *user_data) {
    return ((script_world *)user_data)->now;
}

static int64_t script_unix(void *user_data) {
    script_world *w = (script_world *)user_data;
    return w->unix_base == 0 ? 0 : w->unix_base + w->now / 1000;
}

static void script_open(script_world *w) {
    memset(w, 0, sizeof *w);
    w->now = 1000000;
    w->unix_base = 1792567680 - 1000; /* makes it 2026-10-21 07:28:00 now */
    w->transport.user_data = w;
    w->transport.open = script_conn_open;
    w->transport.connect = script_conn_connect;
    w->transport.recv = script_conn_recv;
    w->transport.send = script_conn_send;
    w->transport.watch = script_conn_watch;
    w->transport.close = script_conn_close;
    w->transport.poll = script_poll;
    w->clock.user_data = w;
    w->clock.monotonic_ms = script_monotonic;
    w->clock.unix_seconds = script_unix;
}

static void script_close(script_world *w) {
    for (size_t i = 0; i < SCRIPT_CONNS; i++) {
        if (w->conns[i].open) {
            fail_msg("script: connection %lu was left open", (unsigned long)i);
        }
    }
}

#endif
