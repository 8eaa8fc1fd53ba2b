/* unit_scale.c - what one request costs does not depend on how many others there are: counted in calls of every hook
 * that a client has (transport, event loop, clock, allocator), in a scripted world. What is counted cannot see is
 * measured by `make bench` (rows "beside 1,000 requests"). */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#define SCRIPT_MAX_CONNS 1100
#include "script.h"

enum { FEW = 3, MANY = 1000, MAX_REQUESTS = MANY + 1, SERVICE_PORT = 8000, ENTRA_PORT = 8001, STAGGER_MS = 10 };

#define HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
#define EVENT "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n"
#define LAST "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"

/* Calls of the hooks; the bytes of blocks that grew. */
typedef enum touch {
    OPENS,
    CONNECTS,
    RECVS,
    SENDS,
    WATCHES,
    CLOSES,
    POLLS,
    CLOCKS,
    PUSHES,
    TIMERS,
    ALLOCATIONS,
    MOVES,
    EVENTS,
    TOUCHES
} touch;
static const char *const touch_names[TOUCHES] = {"open",     "connect", "recv",  "send",       "watch",
                                                 "close",    "poll",    "clock", "loop.watch", "loop.timer",
                                                 "allocate", "move",    "event"};

/* What all requests of a world do. */
typedef enum phase {
    STREAMING,      /* each on a connection of its own, after its first event */
    STREAMING_POLL, /* the same, moved by azo_poll */
    QUEUED,         /* the first so, the others wait until its connection is free */
    TOKENLESS       /* all wait for one token, which does not come */
} phase;

typedef struct world {
    script_world net; /* first: the hooks get its address */
    size_t touched[TOUCHES];
    test_memory memory;
    azo_client_desc desc;
    azo_client *client;
    phase phase;
    azo_request *requests[MAX_REQUESTS];
    size_t count;
    uint32_t ids[SCRIPT_CONNS]; /* of what is watched, by descriptor; 0: it is not */
} world;

/* ---- hooks that count ---- */

static world *touch_by(void *user_data, touch what) {
    world *w = (world *)user_data;
    w->touched[what]++;
    return w;
}

static azo_result counted_open(const azo_target *to, void **out, void *user_data) {
    return script_conn_open(to, out, &touch_by(user_data, OPENS)->net);
}

static int counted_connect(void *conn, void *user_data) {
    return script_conn_connect(conn, &touch_by(user_data, CONNECTS)->net);
}

static ptrdiff_t counted_recv(void *conn, void *buf, size_t cap, void *user_data) {
    return script_conn_recv(conn, buf, cap, &touch_by(user_data, RECVS)->net);
}

static ptrdiff_t counted_send(void *conn, const void *buf, size_t len, void *user_data) {
    return script_conn_send(conn, buf, len, &touch_by(user_data, SENDS)->net);
}

static size_t counted_watch(void *conn, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms,
                            void *user_data) {
    return script_conn_watch(conn, want, out, cap, timeout_ms, &touch_by(user_data, WATCHES)->net);
}

static void counted_close(void *conn, void *user_data) {
    script_conn_close(conn, &touch_by(user_data, CLOSES)->net);
}

static int counted_poll(azo_watch *set, size_t count, int32_t timeout_ms, void *user_data) {
    return script_poll(set, count, timeout_ms, &touch_by(user_data, POLLS)->net);
}

static int64_t counted_monotonic(void *user_data) {
    return script_monotonic(&touch_by(user_data, CLOCKS)->net);
}

static int64_t counted_unix(void *user_data) {
    return script_unix(&touch_by(user_data, CLOCKS)->net);
}

static void *counted_resize(void *ptr, size_t old_size, size_t new_size, void *user_data) {
    world *w = (world *)user_data;
    w->touched[ALLOCATIONS] += new_size > 0;
    w->touched[MOVES] += old_size < new_size ? old_size : 0;
    return test_memory_resize(ptr, old_size, new_size, &w->memory);
}

static int counted_push(intptr_t fd, unsigned events, uint32_t id, void **slot, void *user_data) {
    world *w = touch_by(user_data, PUSHES);
    (void)slot;
    w->ids[fd] = events != 0 ? id : 0;
    return 0;
}

static void counted_timer(int32_t timeout_ms, void *user_data) {
    (void)timeout_ms;
    (void)touch_by(user_data, TIMERS);
}

static int counted_event(const azo_event *event, void *user_data) {
    if (event->kind == AZO_EVENT_TEXT) {
        (void)touch_by(user_data, EVENTS);
    }
    return AZO_GO_ON;
}

/* ---- peers ---- */

static void send_chunk(script_conn *c, const char *text) {
    char size[32];
    (void)snprintf(size, sizeof size, "%lx\r\n", (unsigned long)strlen(text));
    script_send(c, 0, size);
    script_send(c, 0, text);
    script_send(c, 0, "\r\n");
}

static void begin_stream(script_conn *c, const char *request) {
    assert_non_null(strstr(request, "\"stream\":true"));
    script_send(c, 0, HEAD);
    send_chunk(c, EVENT);
}

static void end_stream(script_conn *c) {
    send_chunk(c, LAST);
    script_send(c, 0, "0\r\n\r\n");
}

static void say_nothing(script_conn *c, const char *request) {
    (void)c;
    assert_non_null(strstr(request, "grant_type=client_credentials"));
}

/* ---- worlds ---- */

static void hooks_of(world *w) {
    azo_transport *t = &w->desc.transport;
    t->user_data = w;
    t->open = counted_open;
    t->connect = counted_connect;
    t->recv = counted_recv;
    t->send = counted_send;
    t->watch = counted_watch;
    t->close = counted_close;
    t->poll = counted_poll;
    w->desc.clock.user_data = w;
    w->desc.clock.monotonic_ms = counted_monotonic;
    w->desc.clock.unix_seconds = counted_unix;
    w->desc.allocator.user_data = w;
    w->desc.allocator.resize = counted_resize;
    if (w->phase != STREAMING_POLL) {
        w->desc.loop.user_data = w;
        w->desc.loop.watch = counted_push;
        w->desc.loop.timer = counted_timer;
    }
}

static void world_open(world *w, phase p) {
    azo_error e;
    memset(w, 0, sizeof *w);
    script_open(&w->net);
    test_memory_open(&w->memory);
    w->phase = p;
    (void)script_peer(&w->net, SERVICE_PORT, begin_stream, w);
    (void)script_peer(&w->net, ENTRA_PORT, say_nothing, w);
    hooks_of(w);
    w->desc.endpoint = "http://127.0.0.1:8000";
    w->desc.deployment = "gpt";
    w->desc.first_byte_timeout_ms = AZO_OFF;
    w->desc.idle_timeout_ms = AZO_OFF;
    w->desc.max_connections = p == QUEUED ? 1 : 0;
    if (p == TOKENLESS) {
        w->desc.credential.kind = AZO_CRED_SECRET;
        w->desc.credential.tenant_id = "11111111-2222-3333-4444-555555555555";
        w->desc.credential.client_id = "app";
        w->desc.credential.client_secret = "secret";
        w->desc.credential.authority_host = "http://127.0.0.1:8001";
    } else {
        w->desc.api_key = "key";
    }
    assert_int_equal(azo_client_open(&w->desc, &w->client, &e), AZO_OK);
}

static void world_close(world *w) {
    azo_client_close(w->client);
    for (size_t i = 0; i < w->count; i++) {
        azo_request_free(w->requests[i]);
    }
    script_close(&w->net);
    test_memory_close(&w->memory);
}

/* Their limits pass one after the other, the first one's last. */
static azo_request *begin(world *w) {
    azo_message message = azo_user("Hi");
    azo_chat_desc desc = {0};
    azo_error e;
    desc.messages = &message;
    desc.message_count = 1;
    desc.on_event = counted_event;
    desc.user_data = w;
    desc.call.total_timeout_ms = 500000 - (int32_t)w->count * STAGGER_MS;
    assert_int_equal(azo_chat_begin(w->client, &desc, &w->requests[w->count], &e), AZO_OK);
    return w->requests[w->count++];
}

/* Until nothing moves. */
static void settle(world *w) {
    for (int i = 0; i < 4; i++) {
        if (w->phase == STREAMING_POLL) {
            assert_int_equal(azo_poll(w->client, 0), AZO_OK);
        } else {
            assert_int_equal(azo_step(w->client, NULL, 0), AZO_OK);
        }
    }
}

static void open_with(world *w, phase p, size_t count) {
    world_open(w, p);
    while (w->count < count) {
        (void)begin(w);
    }
    settle(w);
    memset(w->touched, 0, sizeof w->touched);
}

/* ---- one thing that happens in a world ---- */

typedef struct incident {
    const char *name;
    void (*happen)(world *w, size_t which);
    bool needs_stream; /* of the request that it happens to */
} incident;

/* One turn, as a loop takes it that was told that this descriptor is ready, or that time has passed. */
static void turn(world *w, const script_conn *c) {
    azo_watch ready = {0, 0, 0};
    if (w->phase == STREAMING_POLL) {
        assert_int_equal(azo_poll(w->client, 0), AZO_OK);
        return;
    }
    if (c != NULL) {
        ready.fd = c->fd;
        ready.id = w->ids[c->fd];
        ready.events = AZO_POLL_IN;
        assert_int_not_equal(ready.id, 0);
    }
    assert_int_equal(azo_step(w->client, &ready, c != NULL), AZO_OK);
}

/* Connections are numbered as the requests began. */
static script_conn *conn_of(world *w, size_t which) {
    assert_true(w->net.conns[which].open);
    return &w->net.conns[which];
}

static void ended(world *w, size_t which, azo_result want) {
    assert_ptr_equal(azo_next(w->client), w->requests[which]);
    assert_null(azo_next(w->client));
    assert_int_equal(azo_chat_end(w->requests[which], NULL, NULL), want);
    w->requests[which] = NULL;
}

static void an_event(world *w, size_t which) {
    send_chunk(conn_of(w, which), EVENT);
    turn(w, conn_of(w, which));
    assert_int_equal(w->touched[EVENTS], 1);
}

static void the_end(world *w, size_t which) {
    end_stream(conn_of(w, which));
    turn(w, conn_of(w, which));
    ended(w, which, AZO_OK);
    turn(w, NULL);
}

static void a_closed_connection(world *w, size_t which) {
    script_end(conn_of(w, which), 0, AZO_OK);
    turn(w, conn_of(w, which));
    ended(w, which, AZO_ERR_STREAM);
}

static void nothing(world *w, size_t which) {
    (void)which;
    turn(w, NULL);
}

static void a_new_one(world *w, size_t which) {
    (void)which;
    (void)begin(w);
    for (int i = 0; i < 3; i++) {
        turn(w, NULL);
    }
}

static void a_cancelled_one(world *w, size_t which) {
    azo_request_cancel(w->requests[which]);
    turn(w, NULL);
    ended(w, which, AZO_ERR_CANCELLED);
}

static void a_freed_one(world *w, size_t which) {
    azo_request_free(w->requests[which]);
    w->requests[which] = NULL;
    turn(w, NULL);
}

/* The limit of the last one passes first. */
static void a_limit(world *w, size_t which) {
    (void)which;
    w->net.now += 500000 - (int64_t)(w->count - 1) * STAGGER_MS;
    turn(w, NULL);
    ended(w, w->count - 1, AZO_ERR_TIMEOUT);
}

/* ---- tests ---- */

static void compare(const world *few, const world *many, const char *name) {
    for (int i = 0; i < TOUCHES; i++) {
        /* Whoever polls asks for all descriptors; but each of them once in a turn. */
        size_t asked =
            i == WATCHES && few->phase == STREAMING_POLL ? (many->count - few->count) * few->touched[POLLS] : 0;
        if (many->touched[i] != few->touched[i] + asked) {
            fail_msg("%s: %lu times \"%s\" with %d requests, %lu with %d", name, (unsigned long)few->touched[i],
                     touch_names[i], FEW, (unsigned long)many->touched[i], MANY);
        }
    }
}

static void test_happens(phase p, const incident *in, size_t from_front, size_t from_back) {
    static world few;
    static world many;
    open_with(&few, p, FEW);
    open_with(&many, p, MANY);
    in->happen(&few, from_back == 0 ? from_front : FEW - from_back);
    in->happen(&many, from_back == 0 ? from_front : MANY - from_back);
    compare(&few, &many, in->name);
    world_close(&few);
    world_close(&many);
}

/* To the first and to the last of them. */
static void test_incidents(phase p) {
    static const incident all[] = {
        {"an event", an_event, true},
        {"the end of a stream", the_end, true},
        {"a closed connection", a_closed_connection, true},
        {"nothing", nothing, false},
        {"a new request", a_new_one, false},
        {"a cancelled request", a_cancelled_one, false},
        {"a freed request", a_freed_one, false},
        {"a limit that passes", a_limit, false},
    };
    bool streams = p == STREAMING || p == STREAMING_POLL;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!all[i].needs_stream || streams || p == QUEUED) {
            test_happens(p, &all[i], 0, 0);
        }
        if (!all[i].needs_stream || streams) {
            test_happens(p, &all[i], 0, 1);
        }
    }
}

static void test_streaming(void **state) {
    (void)state;
    test_incidents(STREAMING);
}

static void test_queued(void **state) {
    (void)state;
    test_incidents(QUEUED);
}

static void test_tokenless(void **state) {
    (void)state;
    test_incidents(TOKENLESS);
}

static void test_polled(void **state) {
    (void)state;
    test_incidents(STREAMING_POLL);
}

/* ---- all of them, begun, moved and dropped ---- */

typedef enum way { CANCEL, FREE, CLOSE, WAYS } way;
typedef enum order { FORTH, BACK, ACROSS, ORDERS } order;

static size_t in_order(order o, size_t i, size_t count) {
    return o == FORTH ? i : o == BACK ? count - 1 - i : i * 37 % count;
}

static void live(world *w, phase p, size_t count, way how, order o) {
    world_open(w, p);
    while (w->count < count) {
        (void)begin(w);
    }
    settle(w);
    for (size_t i = 0; i < count && how != CLOSE; i++) {
        size_t which = in_order(o, i, count);
        if (how == CANCEL) {
            azo_request_cancel(w->requests[which]);
        } else {
            azo_request_free(w->requests[which]);
            w->requests[which] = NULL;
        }
    }
    settle(w);
    for (azo_request *one = azo_next(w->client); one != NULL; one = azo_next(w->client)) {
        assert_int_equal(azo_request_result(one), AZO_ERR_CANCELLED);
    }
    world_close(w);
}

/* Ten times as many cost ten times as much at most. */
static void test_lives(void **state) {
    static world tenth;
    static world whole;
    (void)state;
    for (int p = STREAMING; p <= TOKENLESS; p++) {
        for (int how = 0; how < WAYS; how++) {
            for (int o = 0; o < (how == CLOSE ? 1 : ORDERS); o++) {
                live(&tenth, (phase)p, MANY / 10, (way)how, (order)o);
                live(&whole, (phase)p, MANY, (way)how, (order)o);
                for (int i = 0; i < TOUCHES; i++) {
                    size_t times = i == MOVES ? 20 : 10; /* as arrays double */
                    if (whole.touched[i] > times * tenth.touched[i]) {
                        fail_msg("%lu times \"%s\" with %d requests, %lu with %d (phase %d, way %d, order %d)",
                                 (unsigned long)tenth.touched[i], touch_names[i], MANY / 10,
                                 (unsigned long)whole.touched[i], MANY, p, how, o);
                    }
                }
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streaming), cmocka_unit_test(test_queued), cmocka_unit_test(test_tokenless),
        cmocka_unit_test(test_polled),    cmocka_unit_test(test_lives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
