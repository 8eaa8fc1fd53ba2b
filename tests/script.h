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
 *
 * A connection can be hurt at one byte, whatever its peer does. Connections are numbered as they are opened:
 *
 *     w.cut.conn = 2;                   the second one
 *     w.cut.way = SCRIPT_IN;            on its way from the peer to the client,
 *     w.cut.at = 100;                   when 100 bytes have passed,
 *     w.cut.how = SCRIPT_STALL;         goes silent
 *
 * w.marks tells what there is to hurt: the bytes that passed each connection each way, and where the peer paused.
 */
#ifndef AZO_TEST_SCRIPT_H
#define AZO_TEST_SCRIPT_H

#ifndef SCRIPT_MAX_CONNS
#define SCRIPT_MAX_CONNS 256 /* open at one time */
#endif

enum { SCRIPT_PEERS = 4, SCRIPT_CONNS = SCRIPT_MAX_CONNS, SCRIPT_PARTS = 64, SCRIPT_MARKS = 32, SCRIPT_DRY = 32 };

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

typedef enum script_way { SCRIPT_CONNECT, SCRIPT_IN, SCRIPT_OUT } script_way;

typedef enum script_how {
    SCRIPT_END,   /* the peer closes; connecting: the name has no address */
    SCRIPT_RESET, /* the connection is gone, both ways; connecting: refused */
    SCRIPT_BREAK, /* going out: sending fails, and nothing comes in, not even an end */
    SCRIPT_STALL, /* nothing passes that way any more */
    SCRIPT_PAUSE  /* nothing passes that way for one millisecond */
} script_how;

typedef struct script_cut {
    size_t conn;    /* 0: none is hurt */
    bool and_later; /* those to the same peer that are opened later, too */
    bool eager;     /* coming in: as soon as the byte before has passed; else when the next one is due */
    script_way way;
    script_how how;
    size_t at;
    const script_peer_entry *peer; /* of the connection, once it is open */
    size_t hits;
    int64_t hit_at;    /* when it struck first */
    size_t hit_answer; /* bytes of the current answer that had come by then */
    bool hit_idle;     /* the connection had been open for a while, or used, when the current request began */
    bool over;         /* from now on nothing strikes, and what stalls gets on; what has ended stays so */
} script_cut;

typedef struct script_mark { /* what happened on one connection */
    const script_peer_entry *peer;
    size_t in;
    size_t out;
    size_t dry[SCRIPT_DRY]; /* counts of bytes in at which nothing more had come yet */
    size_t dry_count;
} script_mark;

struct script_conn {
    script_world *world;
    script_peer_entry *peer;
    bool open;
    bool connected;
    size_t ordinal;   /* of all connections, from 1 on */
    int64_t ready_at; /* when it was connected */
    size_t served;    /* requests */
    bool fresh;       /* the current request is its first, and began as soon as it was connected */
    size_t taken;     /* bytes in, of all answers */
    size_t answered;  /* bytes in, of the current answer */
    size_t given;     /* bytes out */
    bool struck;
    bool hurt;
    int64_t in_gate; /* nothing comes in before */
    int64_t out_gate;
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
    bool drip; /* one recv and one send in a millisecond, for each connection */
    size_t opened;
    script_cut cut;
    script_mark marks[SCRIPT_MARKS]; /* by ordinal - 1 */
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
static inline void script_answer(script_conn *c, int64_t delay_ms, int status, const char *headers, const char *body) {
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

/* ---- hurting ---- */

static bool script_is_target(const script_conn *c, script_way way) {
    const script_cut *cut = &c->world->cut;
    bool later = cut->and_later && c->ordinal > cut->conn && c->peer == cut->peer;
    return cut->conn != 0 && cut->way == way && !cut->over && (c->ordinal == cut->conn || later);
}

/* How many of `len` bytes may pass before the place. */
static size_t script_room(const script_conn *c, script_way way, size_t passed, size_t len) {
    size_t at = c->world->cut.at;
    return script_is_target(c, way) && passed < at && passed + len > at ? at - passed : len;
}

/* Strikes if this is the place. */
static void script_strike(script_conn *c, script_way way, size_t passed) {
    script_cut *cut = &c->world->cut;
    if (c->struck || !script_is_target(c, way) || passed != cut->at) {
        return;
    }
    c->struck = true;
    if (cut->hits++ == 0) {
        bool begun = c->request_len > 0 || c->served > 0;
        cut->hit_at = c->world->now;
        cut->hit_answer = way == SCRIPT_IN ? c->answered : 0;
        cut->hit_idle = way == SCRIPT_OUT && c->request_len == 0 ? c->served > 0 || c->world->now > c->ready_at
                                                                 : !begun || !c->fresh;
    }
    if (cut->how == SCRIPT_PAUSE) {
        *(way == SCRIPT_IN ? &c->in_gate : &c->out_gate) = c->world->now + 1;
    } else {
        c->hurt = true;
    }
}

/* Whether a hurt connection is silent that way. A peer that reads no more has still sent what it had. */
static bool script_is_silent(const script_conn *c, script_way way) {
    const script_cut *cut = &c->world->cut;
    bool stalls = cut->how == SCRIPT_STALL && cut->way == way;
    return c->hurt && !cut->over && (stalls || (cut->how == SCRIPT_BREAK && way == SCRIPT_IN));
}

/* Whether a hurt connection has ended for its reader. */
static bool script_has_ended(const script_conn *c) {
    const script_cut *cut = &c->world->cut;
    bool ends = cut->how == SCRIPT_END && (cut->way == SCRIPT_IN || c->first == c->count);
    return c->hurt && (ends || cut->how == SCRIPT_RESET || (cut->how == SCRIPT_BREAK && cut->over));
}

static script_mark *script_mark_of(script_conn *c) {
    return c->ordinal <= SCRIPT_MARKS ? &c->world->marks[c->ordinal - 1] : NULL;
}

static ptrdiff_t script_conn_dry(script_conn *c) {
    script_mark *mark = script_mark_of(c);
    c->in_edges++;
    if (mark != NULL && mark->dry_count < SCRIPT_DRY &&
        (mark->dry_count == 0 || mark->dry[mark->dry_count - 1] != c->taken)) {
        mark->dry[mark->dry_count++] = c->taken;
    }
    return AZO_IO_AGAIN;
}

/* ---- the transport hook ---- */

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
    c->ordinal = w->opened + 1;
    if (c->ordinal == w->cut.conn) {
        w->cut.peer = peer;
    }
    w->opened++;
    if (script_mark_of(c) != NULL) {
        script_mark_of(c)->peer = peer;
    }
    script_strike(c, SCRIPT_CONNECT, 0);
    if (c->hurt && w->cut.how == SCRIPT_END) {
        c->open = false;
        return AZO_ERR_RESOLVE;
    }
    w->fds[fd] = true;
    *out = c;
    return AZO_OK;
}

static int script_conn_connect(void *conn, void *user_data) {
    script_conn *c = (script_conn *)conn;
    script_world *w = (script_world *)user_data;
    if (c->peer->connect_result == AZO_PENDING || w->now < c->connect_at || script_is_silent(c, SCRIPT_CONNECT)) {
        return AZO_IO_AGAIN;
    }
    if (c->hurt && w->cut.how == SCRIPT_RESET) {
        errno = ECONNREFUSED;
        return AZO_ERR_CONNECT;
    }
    c->ready_at = w->now;
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
        c->answered = 0;
        c->served++;
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
    script_strike(c, SCRIPT_OUT, c->given);
    if (c->hurt && w->cut.how != SCRIPT_STALL) {
        errno = w->cut.how == SCRIPT_END ? 0 : EPIPE;
        return w->cut.how == SCRIPT_END ? (ptrdiff_t)take : AZO_ERR_CLOSED;
    }
    if (w->now < c->out_gate || script_is_silent(c, SCRIPT_OUT)) {
        return AZO_IO_AGAIN;
    }
    take = script_room(c, SCRIPT_OUT, c->given, take);
    for (size_t i = c->first; i < c->count; i++) {
        if (c->parts[i].bytes == NULL && c->parts[i].at <= w->now && c->parts[i].end == AZO_ERR_CLOSED) {
            return AZO_ERR_CLOSED;
        }
    }
    c->given += take;
    c->out_gate = w->drip ? w->now + 1 : 0;
    c->fresh = c->request_len == 0 ? c->served == 0 && w->now == c->ready_at : c->fresh;
    if (script_mark_of(c) != NULL) {
        script_mark_of(c)->out = c->given;
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
    bool due = c->first < c->count && c->parts[c->first].at <= w->now;
    if (due || w->cut.eager) {
        script_strike(c, SCRIPT_IN, c->taken);
    }
    if (script_has_ended(c)) {
        errno = w->cut.how == SCRIPT_END ? 0 : ECONNRESET;
        return w->cut.how == SCRIPT_END ? 0 : AZO_ERR_CLOSED;
    }
    if (!due || w->now < c->in_gate || script_is_silent(c, SCRIPT_IN)) {
        return script_conn_dry(c);
    }
    script_part *part = &c->parts[c->first];
    if (part->bytes == NULL) {
        return part->end == AZO_OK ? 0 : (ptrdiff_t)part->end;
    }
    size_t take = part->len - part->taken;
    take = take < cap ? take : cap;
    take = w->recv_limit != 0 && take > w->recv_limit ? w->recv_limit : take;
    take = script_room(c, SCRIPT_IN, c->taken, take);
    c->taken += take;
    c->answered += take;
    c->in_gate = w->drip ? w->now + 1 : 0;
    if (script_mark_of(c) != NULL) {
        script_mark_of(c)->in = c->taken;
    }
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

static int64_t script_in_ready_at(const script_conn *c) {
    bool soon = c->world->cut.eager && !c->struck && script_is_target(c, SCRIPT_IN) && c->taken == c->world->cut.at;
    if (soon || script_has_ended(c)) {
        return c->world->now;
    }
    if (c->first == c->count || script_is_silent(c, SCRIPT_IN)) {
        return INT64_MAX;
    }
    return c->parts[c->first].at > c->in_gate ? c->parts[c->first].at : c->in_gate;
}

static int64_t script_out_ready_at(const script_conn *c) {
    if (script_is_silent(c, SCRIPT_OUT)) {
        return INT64_MAX;
    }
    return c->world->now > c->out_gate ? c->world->now : c->out_gate;
}

/* When a descriptor becomes ready for any of the events; INT64_MAX if nothing is on its way. */
static int64_t script_ready_at(const script_conn *c, unsigned events) {
    if (!c->connected) {
        bool never = c->peer->connect_result == AZO_PENDING || script_is_silent(c, SCRIPT_CONNECT);
        return never ? INT64_MAX : c->connect_at;
    }
    int64_t in = (events & AZO_POLL_IN) != 0 ? script_in_ready_at(c) : INT64_MAX;
    int64_t out = (events & AZO_POLL_OUT) != 0 ? script_out_ready_at(c) : INT64_MAX;
    return in < out ? in : out;
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
