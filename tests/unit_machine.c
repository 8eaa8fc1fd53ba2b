/* unit_machine.c - the pump, connections and attempts, in a scripted world: the ten walk-throughs of the design, and
 * what else the machine decides (retries, time limits, reuse, early answers, pausing, cancelling). */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#include "script.h"

enum { SERVICE_PORT = 8000, ENTRA_PORT = 8001, OTHER_PORT = 8002, MAX_SEEN = 128 };

#define REPLY                                                                                                          \
    "{\"id\":\"chatcmpl-1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{"         \
    "\"role\":\"assistant\",\"content\":\"Hello\"}}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}"
#define CHUNK(text) "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text "\"}}]}\n\n"
#define LAST "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
#define STREAM_HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

typedef struct world {
    script_world net;
    script_peer_entry *service;
    script_peer_entry *entra;
    script_peer_entry *other;
    test_memory memory;
    bool counted_memory;
    azo_client_desc desc;
    azo_client *client;
    int token_number; /* of the token that the service takes; Entra issues it */
    bool same_token;  /* Entra issues the first one for ever */
    int entra_delay_ms;
    int entra_status; /* 0: tokens */
    char *seen[MAX_SEEN];
    size_t seen_count;
    const char *script[16]; /* raw answers of the service, before the usual one */
    int script_delay[16];
    size_t script_count;
    size_t script_used;
} world;

static void entra(script_conn *c, const char *request) {
    world *w = (world *)c->peer->state;
    char body[256];
    assert_non_null(strstr(request, "grant_type=client_credentials"));
    if (w->entra_status != 0) {
        script_answer(c, w->entra_delay_ms, w->entra_status, "",
                      "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: synthetic.\","
                      "\"error_codes\":[7000215]}");
        return;
    }
    (void)snprintf(body, sizeof body, "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"tok.%d\"}",
                   w->same_token ? 1 : w->token_number);
    script_answer(c, w->entra_delay_ms, 200, "", body);
}

static void send_chunk(script_conn *c, int delay_ms, const char *text) {
    char size[32];
    (void)snprintf(size, sizeof size, "%lx\r\n", (unsigned long)strlen(text));
    script_send(c, delay_ms, size);
    script_send(c, delay_ms, text);
    script_send(c, delay_ms, "\r\n");
}

static void service(script_conn *c, const char *request) {
    world *w = (world *)c->peer->state;
    char bearer[64];
    assert_true(w->seen_count < MAX_SEEN);
    w->seen[w->seen_count++] = strdup(request);
    (void)snprintf(bearer, sizeof bearer, "Authorization: Bearer tok.%d\r\n", w->token_number);
    if (w->script_used < w->script_count) {
        const char *raw = w->script[w->script_used];
        int delay = w->script_delay[w->script_used++];
        if (strcmp(raw, "close") == 0) {
            script_end(c, delay, AZO_OK);
        } else if (strcmp(raw, "reset") == 0) {
            script_end(c, delay, AZO_ERR_CLOSED);
        } else if (strcmp(raw, "silence") != 0) {
            script_send(c, delay, raw);
        }
    } else if (strstr(request, bearer) == NULL) {
        script_answer(c, 5, 401, "", "{\"statusCode\":401,\"message\":\"synthetic: expired\"}");
    } else if (strstr(request, "\"stream\":true") != NULL) {
        script_send(c, 5, STREAM_HEAD);
        send_chunk(c, 5, CHUNK("Hel"));
        send_chunk(c, 10, CHUNK("lo"));
        send_chunk(c, 10, LAST);
        script_send(c, 10, "0\r\n\r\n");
    } else {
        script_answer(c, 5, 200, "apim-request-id: req-1\r\n", REPLY);
    }
}

static void world_open(world *w) {
    memset(w, 0, sizeof *w);
    script_open(&w->net);
    w->service = script_peer(&w->net, SERVICE_PORT, service, w);
    w->entra = script_peer(&w->net, ENTRA_PORT, entra, w);
    w->other = script_peer(&w->net, OTHER_PORT, service, w);
    w->token_number = 1;
    w->entra_delay_ms = 20;
    w->desc.endpoint = "http://127.0.0.1:8000";
    w->desc.deployment = "gpt";
    w->desc.credential.kind = AZO_CRED_SECRET;
    w->desc.credential.tenant_id = "11111111-2222-3333-4444-555555555555";
    w->desc.credential.client_id = "app";
    w->desc.credential.client_secret = "canary-secret";
    w->desc.credential.authority_host = "http://127.0.0.1:8001";
    w->desc.transport = w->net.transport;
    w->desc.clock = w->net.clock;
}

static void world_start(world *w) {
    azo_error e;
    azo_result r = azo_client_open(&w->desc, &w->client, &e);
    if (r != AZO_OK) {
        fail_msg("%s", e.message);
    }
}

static void world_close(world *w) {
    azo_client_close(w->client);
    for (size_t i = 0; i < w->seen_count; i++) {
        free(w->seen[i]);
    }
    script_close(&w->net);
}

static void push(world *w, int delay_ms, const char *raw) {
    w->script[w->script_count] = raw;
    w->script_delay[w->script_count++] = delay_ms;
}

static azo_request *begin(world *w) {
    azo_chat_desc desc;
    azo_request *request = NULL;
    azo_message message = azo_user("Hi");
    azo_error e;
    memset(&desc, 0, sizeof desc);
    desc.messages = &message;
    desc.message_count = 1;
    if (azo_chat_begin(w->client, &desc, &request, &e) != AZO_OK) {
        fail_msg("%s", e.message);
    }
    return request;
}

static void run(world *w, int64_t ms) {
    int64_t end = w->net.now + ms;
    while (w->net.now < end) {
        assert_int_equal(azo_poll(w->client, (int32_t)(end - w->net.now)), AZO_OK);
        int32_t timeout;
        if (azo_wait(w->client, NULL, 0, &timeout) == 0 && timeout < 0) {
            w->net.now = end;
        }
    }
}

static azo_result wait_for(world *w, azo_request *request) {
    for (int i = 0; i < 100000 && azo_request_result(request) == AZO_PENDING; i++) {
        assert_int_equal(azo_poll(w->client, -1), AZO_OK);
    }
    return azo_request_result(request);
}

static azo_result end(azo_request *request, azo_error *e) {
    azo_chat_reply reply;
    azo_result r = azo_chat_end(request, &reply, e);
    if (r == AZO_OK) {
        assert_int_equal(reply.text.len, 5);
        assert_string_equal(reply.text.ptr, "Hello");
    }
    azo_chat_reply_free(&reply);
    return r;
}

static azo_result call(world *w, azo_error *e) {
    azo_chat_desc desc;
    azo_chat_reply reply;
    azo_message message = azo_user("Hi");
    memset(&desc, 0, sizeof desc);
    desc.messages = &message;
    desc.message_count = 1;
    azo_result r = azo_chat(w->client, &desc, &reply, e);
    azo_chat_reply_free(&reply);
    return r;
}

/* ---- the walk-throughs ---- */

static void test_first_of_three_cancelled(void **state) { /* D6.1 */
    (void)state;
    world w;
    azo_error e;
    world_open(&w);
    world_start(&w);
    azo_request *a = begin(&w);
    azo_request *b = begin(&w);
    azo_request *c = begin(&w);
    run(&w, 10);
    azo_request_cancel(a);
    assert_int_equal(wait_for(&w, b), AZO_OK);
    assert_int_equal(wait_for(&w, c), AZO_OK);
    assert_int_equal(azo_request_result(a), AZO_ERR_CANCELLED);
    assert_int_equal(end(a, &e), AZO_ERR_CANCELLED);
    assert_int_equal(e.who, AZO_WHO_NOBODY);
    assert_int_equal(end(b, &e), AZO_OK);
    assert_int_equal(end(c, &e), AZO_OK);
    assert_int_equal(w.entra->requests, 1);
    assert_int_equal(w.service->requests, 2);
    assert_in_range(w.service->connections, 2, 3);
    world_close(&w);
}

static void test_one_refusal_for_all(void **state) { /* D6.2 */
    (void)state;
    world w;
    azo_error e;
    azo_request *all[4];
    world_open(&w);
    world_start(&w);
    w.entra_status = 401;
    for (int i = 0; i < 3; i++) {
        all[i] = begin(&w);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(wait_for(&w, all[i]), AZO_ERR_TOKEN);
    }
    all[3] = begin(&w);
    assert_int_equal(wait_for(&w, all[3]), AZO_ERR_TOKEN);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(end(all[i], &e), AZO_ERR_TOKEN);
        assert_int_equal(e.aadsts, 7000215);
        assert_int_equal(e.who, AZO_WHO_IDENTITY);
        assert_null(strstr(e.message, "canary"));
    }
    assert_int_equal(w.entra->requests, 1);
    assert_int_equal(w.service->requests, 0);
    run(&w, 6000); /* the hold-off ends: a new try */
    w.entra_status = 0;
    assert_int_equal(call(&w, &e), AZO_OK);
    world_close(&w);
}

static void test_backoff_is_not_disturbed(void **state) { /* D6.3 */
    (void)state;
    world w;
    azo_error e;
    world_open(&w);
    world_start(&w);
    push(&w, 1, "HTTP/1.1 503 Busy\r\nretry-after: 3\r\nContent-Length: 0\r\n\r\n");
    azo_request *a = begin(&w);
    run(&w, 100);
    assert_int_equal(a->state, AZOI_JOB_BACKOFF);
    w.token_number = 2; /* the old token is refused: the next two cause a fetch */
    w.entra_delay_ms = 500;
    azo_request *b = begin(&w);
    azo_request *c = begin(&w);
    assert_int_equal(wait_for(&w, b), AZO_OK);
    assert_int_equal(wait_for(&w, c), AZO_OK);
    assert_int_equal(a->state, AZOI_JOB_BACKOFF);
    assert_int_equal(wait_for(&w, a), AZO_OK);
    assert_int_equal(end(a, &e), AZO_OK);
    assert_int_equal(end(b, &e), AZO_OK);
    assert_int_equal(end(c, &e), AZO_OK);
    assert_int_equal(w.entra->requests, 2);
    world_close(&w);
}

static void twenty(world *w, azo_result want) {
    azo_request *all[20];
    azo_error e;
    for (int i = 0; i < 20; i++) {
        all[i] = begin(w);
    }
    for (int i = 0; i < 20; i++) {
        assert_int_equal(wait_for(w, all[i]), want);
        assert_int_equal(end(all[i], &e), want);
    }
}

static void test_twenty_refused_tokens(void **state) { /* D6.4 */
    (void)state;
    for (int same = 0; same < 2; same++) {
        world w;
        azo_error e;
        world_open(&w);
        world_start(&w);
        assert_int_equal(call(&w, &e), AZO_OK);
        w.token_number = 2;
        w.same_token = same;
        twenty(&w, same ? AZO_ERR_UNAUTHORIZED : AZO_OK);
        assert_int_equal(w.entra->requests, 2);
        assert_int_equal(w.service->requests, same ? 21 : 41);
        world_close(&w);
    }
}

static void test_cap_without_deadlock(void **state) { /* D6.5 */
    (void)state;
    world w;
    azo_error e;
    azo_request *all[5];
    world_open(&w);
    w.desc.max_connections = 2;
    world_start(&w);
    for (int i = 0; i < 5; i++) {
        all[i] = begin(&w);
    }
    for (int i = 0; i < 5; i++) {
        assert_int_equal(wait_for(&w, all[i]), AZO_OK);
        assert_true(w.client->counted_conns <= 2);
    }
    for (int i = 0; i < 5; i++) {
        assert_int_equal(end(all[i], &e), AZO_OK);
    }
    assert_int_equal(w.service->connections, 2);
    assert_int_equal(w.entra->requests, 1);
    world_close(&w);
}

typedef struct listener {
    world *w;
    azo_request *self;
    azo_request *other;
    char text[64];
    int events;
    int answer;    /* to the first event */
    bool free_self;
    bool free_other;
    bool close;
    bool begin;
} listener;

static int hear(const azo_event *event, void *user_data) {
    listener *l = (listener *)user_data;
    l->events++;
    assert_int_equal(event->json.ptr[event->json.len], 0);
    if (event->kind == AZO_EVENT_TEXT) {
        assert_int_equal(event->text.ptr[event->text.len], 0);
        strncat(l->text, event->text.ptr, sizeof l->text - strlen(l->text) - 1);
    }
    assert_int_equal(azo_step(l->w->client, NULL, 0), AZO_ERR_STATE);
    assert_int_equal(azo_poll(l->w->client, 0), AZO_ERR_STATE);
    azo_error e;
    assert_int_equal(call(l->w, &e), AZO_ERR_STATE);
    assert_int_equal(azo_chat_end(l->self, NULL, NULL), AZO_ERR_STATE);
    if (l->events > 1) {
        return AZO_GO_ON;
    }
    if (l->begin) {
        l->other = begin(l->w);
    }
    if (l->free_other) {
        azo_request_free(l->other);
    }
    if (l->free_self) {
        azo_request_free(l->self);
    }
    if (l->close) {
        azo_client_close(l->w->client);
    }
    return l->answer;
}

static azo_request *begin_stream(world *w, listener *l) {
    azo_chat_desc desc;
    azo_message message = azo_user("Hi");
    azo_error e;
    memset(&desc, 0, sizeof desc);
    desc.messages = &message;
    desc.message_count = 1;
    desc.on_event = hear;
    desc.user_data = l;
    l->w = w;
    if (azo_chat_begin(w->client, &desc, &l->self, &e) != AZO_OK) {
        fail_msg("%s", e.message);
    }
    return l->self;
}

/* Chunks of a body, each event one chunk, with their true sizes. */
static void push_stream(world *w, int delay_ms, const char *const *events, size_t count, char *buf, size_t size) {
    size_t len = (size_t)snprintf(buf, size, STREAM_HEAD);
    for (size_t i = 0; i < count; i++) {
        len += (size_t)snprintf(buf + len, size - len, "%lx\r\n%s\r\n", (unsigned long)strlen(events[i]), events[i]);
    }
    len += (size_t)snprintf(buf + len, size - len, "0\r\n\r\n");
    assert_true(len < size);
    push(w, delay_ms, buf);
}

static const char *const two_deltas[] = {CHUNK("Hel"), CHUNK("lo"), LAST};

static void test_death_inside_a_delta(void **state) { /* D6.6 */
    (void)state;
    for (int how = 0; how < 4; how++) {
        world w;
        listener l;
        char stream[2048];
        azo_error e;
        memset(&l, 0, sizeof l);
        world_open(&w);
        world_start(&w);
        assert_int_equal(call(&w, &e), AZO_OK);
        push_stream(&w, 5, two_deltas, 3, stream, sizeof stream);
        begin_stream(&w, &l);
        azo_request *other = NULL;
        l.free_self = how == 0;
        l.free_other = how == 1;
        l.close = how == 2;
        l.answer = how == 3 ? AZO_STOP : AZO_GO_ON;
        if (how == 1) {
            push(&w, 0, "silence");
            run(&w, 2);
            other = begin(&w);
            l.other = other;
        }
        if (how == 2) {
            for (int i = 0; i < 100 && azo_request_result(l.self) == AZO_PENDING; i++) {
                assert_int_equal(azo_poll(w.client, 10), AZO_OK);
            }
            w.client = NULL;
            assert_int_equal(azo_request_result(l.self), AZO_ERR_CANCELLED);
            assert_int_equal(end(l.self, &e), AZO_ERR_CANCELLED);
        } else {
            run(&w, 200);
        }
        assert_int_equal(l.events >= 1, true);
        if (how == 1) {
            assert_int_equal(end(l.self, &e), AZO_OK);
            assert_string_equal(l.text, "Hello");
        }
        if (how == 3) {
            assert_int_equal(end(l.self, &e), AZO_ERR_CANCELLED);
            assert_string_equal(l.text, "Hel");
        }
        world_close(&w);
    }
}

static void test_begin_inside_a_delta(void **state) {
    (void)state;
    world w;
    listener l;
    char stream[2048];
    azo_error e;
    memset(&l, 0, sizeof l);
    world_open(&w);
    world_start(&w);
    push_stream(&w, 5, two_deltas, 3, stream, sizeof stream);
    l.begin = true;
    begin_stream(&w, &l);
    assert_int_equal(wait_for(&w, l.self), AZO_OK);
    assert_int_equal(wait_for(&w, l.other), AZO_OK);
    assert_int_equal(end(l.self, &e), AZO_OK);
    assert_int_equal(end(l.other, &e), AZO_OK);
    world_close(&w);
}

static void test_two_endpoints_one_fetch(void **state) { /* D6.7 */
    (void)state;
    world w;
    azo_error e;
    azo_chat_desc desc;
    azo_message message = azo_user("Hi");
    azo_request *there;
    world_open(&w);
    world_start(&w);
    azo_request *first = begin(&w);
    memset(&desc, 0, sizeof desc);
    desc.messages = &message;
    desc.message_count = 1;
    desc.call.endpoint = "http://127.0.0.1:8002";
    assert_int_equal(azo_chat_begin(w.client, &desc, &there, &e), AZO_OK);
    run(&w, 10);
    azo_request_free(first); /* the one that began the fetch */
    assert_int_equal(wait_for(&w, there), AZO_OK);
    assert_int_equal(end(there, &e), AZO_OK);
    assert_int_equal(w.entra->requests, 1);
    assert_int_equal(w.other->requests, 1);
    assert_int_equal(w.service->requests, 0);
    world_close(&w);
}

/* One scenario of several with an allocator that fails: no crash, no leak, a memory error, and life goes on. */
static void starved(test_memory *memory, void *user_data) {
    int scenario = *(int *)user_data;
    world w;
    azo_error e;
    listener l;
    char stream[2048];
    memset(&l, 0, sizeof l);
    world_open(&w);
    w.desc.allocator = memory->hook;
    azo_result r = azo_client_open(&w.desc, &w.client, &e);
    if (r != AZO_OK) {
        assert_int_equal(r, AZO_ERR_MEMORY);
        world_close(&w);
        return;
    }
    azo_chat_desc desc;
    azo_message message = azo_user("Hi");
    azo_request *all[3] = {NULL, NULL, NULL};
    memset(&desc, 0, sizeof desc);
    desc.messages = &message;
    desc.message_count = 1;
    if (scenario == 1) {
        push_stream(&w, 5, two_deltas, 3, stream, sizeof stream);
        desc.stream = true;
    }
    if (scenario == 2) {
        push(&w, 1, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
    }
    for (int i = 0; i < 3; i++) {
        if (azo_chat_begin(w.client, &desc, &all[i], &e) != AZO_OK) {
            assert_int_equal(e.code, AZO_ERR_MEMORY);
            all[i] = NULL;
        }
    }
    for (int i = 0; i < 3; i++) {
        if (scenario == 3 && i == 0) {
            azo_request_cancel(all[0]);
        }
        for (int k = 0; k < 1000 && all[i] != NULL && azo_request_result(all[i]) == AZO_PENDING; k++) {
            r = azo_poll(w.client, 1000);
            assert_true(r == AZO_OK || r == AZO_ERR_MEMORY);
        }
        if (all[i] != NULL) {
            azo_chat_reply reply;
            r = azo_chat_end(all[i], &reply, &e);
            if (r != AZO_OK && r != AZO_ERR_MEMORY && r != AZO_ERR_CANCELLED && !(scenario == 1 && i > 0)) {
                fail_msg("scenario %d: %s: %s", scenario, azo_result_name(r), e.message);
            }
            azo_chat_reply_free(&reply);
        }
    }
    world_close(&w);
}

static void test_every_allocation(void **state) { /* D6.8 */
    (void)state;
    for (int scenario = 0; scenario < 4; scenario++) {
        test_every_failure(starved, &scenario);
    }
}

static void test_stale_ids(void **state) { /* D6.9 */
    (void)state;
    world w;
    azo_error e;
    azo_watch watches[8];
    int32_t timeout;
    world_open(&w);
    world_start(&w);
    azo_request *a = begin(&w);
    run(&w, 1);
    size_t count = azo_wait(w.client, watches, 8, &timeout);
    assert_in_range(count, 1, 2);
    azo_watch stale = watches[0];
    azo_request_free(a);
    run(&w, 100); /* the fetch ends, its connection idles, its number may be used again */
    azo_request *b = begin(&w);
    for (int i = 0; i < 1000 && azo_request_result(b) == AZO_PENDING; i++) {
        azo_watch junk[3] = {stale, {0, 0xffffffffu, AZO_POLL_IN}, {0, 0x00010000u, AZO_POLL_IN}};
        assert_int_equal(azo_step(w.client, junk, 3), AZO_OK);
        assert_int_equal(azo_poll(w.client, -1), AZO_OK);
    }
    assert_int_equal(end(b, &e), AZO_OK);
    world_close(&w);
}

/* An edge-triggered loop: remembers what was registered and reports each readiness once. */
typedef struct edges {
    world *w;
    bool registered[SCRIPT_CONNS];
    unsigned events[SCRIPT_CONNS];
    uint32_t ids[SCRIPT_CONNS];
    void *slots[SCRIPT_CONNS];
    size_t dry[SCRIPT_CONNS]; /* in_edges when the last edge was given */
    bool armed[SCRIPT_CONNS];
    int32_t timer;
    int64_t timer_at;
    int watches;
} edges;

static int edge_watch(intptr_t fd, unsigned events, uint32_t id, void **slot, void *user_data) {
    edges *x = (edges *)user_data;
    x->watches++;
    if (events == 0) {
        assert_true(x->registered[fd]);
        assert_ptr_equal(*slot, &x->slots[fd]);
        x->registered[fd] = false;
        return 0;
    }
    assert_true(x->w->net.fds[fd]);
    if (x->registered[fd]) {
        assert_ptr_equal(*slot, &x->slots[fd]);
        assert_int_equal(x->ids[fd], id);
    } else {
        assert_null(*slot);
        *slot = &x->slots[fd];
    }
    x->registered[fd] = true;
    x->events[fd] = events;
    x->ids[fd] = id;
    x->armed[fd] = true; /* EPOLL_CTL_ADD and _MOD report what is ready now */
    return 0;
}

static void edge_timer(int32_t timeout_ms, void *user_data) {
    edges *x = (edges *)user_data;
    x->timer = timeout_ms;
    x->timer_at = timeout_ms < 0 ? INT64_MAX : x->w->net.now + timeout_ms;
}

static void edge_run(edges *x, azo_request *request) {
    script_world *net = &x->w->net;
    for (int turns = 0; turns < 10000 && azo_request_result(request) == AZO_PENDING; turns++) {
        azo_watch ready[SCRIPT_CONNS];
        size_t count = 0;
        int64_t next = x->timer_at;
        for (int fd = 0; fd < SCRIPT_CONNS; fd++) {
            if (x->registered[fd]) {
                script_conn *c = &net->conns[fd];
                bool edge = x->armed[fd] || c->in_edges > x->dry[fd];
                int64_t at = script_ready_at(c, x->events[fd]);
                if (edge && at <= net->now) {
                    ready[count].fd = fd;
                    ready[count].id = x->ids[fd];
                    ready[count].events = x->events[fd];
                    count++;
                    x->armed[fd] = false;
                    x->dry[fd] = c->in_edges;
                } else if (edge && at < next) {
                    next = at;
                }
            }
        }
        if (count == 0) {
            assert_true(next != INT64_MAX);
            if (next > net->now) {
                net->now = next;
                if (next != x->timer_at) {
                    continue;
                }
            }
        }
        assert_int_equal(azo_step(x->w->client, ready, count), AZO_OK);
    }
}

static void test_edge_triggered(void **state) { /* D6.10 */
    (void)state;
    for (size_t limit = 0; limit < 3; limit++) {
        world w;
        edges x;
        listener l;
        azo_error e;
        char stream[2048];
        memset(&x, 0, sizeof x);
        memset(&l, 0, sizeof l);
        world_open(&w);
        w.net.recv_limit = limit * 7;
        x.w = &w;
        x.timer_at = INT64_MAX;
        w.desc.loop.user_data = &x;
        w.desc.loop.watch = edge_watch;
        w.desc.loop.timer = edge_timer;
        world_start(&w);
        push_stream(&w, 5, two_deltas, 3, stream, sizeof stream);
        begin_stream(&w, &l);
        assert_int_equal(x.timer, 0);
        edge_run(&x, l.self);
        assert_int_equal(end(l.self, &e), AZO_OK);
        assert_string_equal(l.text, "Hello");
        assert_int_equal(l.events, 3);
        azo_request *again = begin(&w); /* on the idle connection, registered anew */
        edge_run(&x, again);
        assert_int_equal(end(again, &e), AZO_OK);
        assert_int_equal(w.service->connections, 1);
        azo_client_close(w.client);
        w.client = NULL;
        for (int fd = 0; fd < SCRIPT_CONNS; fd++) {
            assert_false(x.registered[fd]);
        }
        world_close(&w);
    }
}

static int refusing_watch(intptr_t fd, unsigned events, uint32_t id, void **slot, void *user_data) {
    (void)fd;
    (void)id;
    (void)slot;
    (void)user_data;
    return events != 0;
}

static void test_loop_that_cannot_watch(void **state) {
    (void)state;
    world w;
    azo_error e;
    world_open(&w);
    w.desc.loop.watch = refusing_watch;
    w.desc.total_timeout_ms = 1000;
    world_start(&w);
    azo_request *a = begin(&w);
    for (int i = 0; i < 1000 && azo_request_result(a) == AZO_PENDING; i++) {
        w.net.now++;
        assert_int_equal(azo_step(w.client, NULL, 0), AZO_OK);
    }
    azo_result r = end(a, &e);
    assert_int_equal(r, AZO_ERR_MEMORY);
    world_close(&w);
}

/* ---- retries ---- */

static void test_retry_after(void **state) {
    (void)state;
    static const struct {
        const char *answer;
        int64_t min_ms;
        int64_t max_ms;
        azo_result result;
    } cases[] = {
        {"HTTP/1.1 429 X\r\nretry-after: 7\r\nretry-after-ms: 6500\r\nContent-Length: 0\r\n\r\n", 6500, 6600, AZO_OK},
        {"HTTP/1.1 429 X\r\nRetry-After: Wed, 21 Oct 2026 07:28:30 GMT\r\nContent-Length: 0\r\n\r\n", 28000, 30100,
         AZO_OK},
        {"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", 375, 600, AZO_OK},
        {"HTTP/1.1 409 X\r\nContent-Length: 0\r\n\r\n", 375, 600, AZO_OK},
        {"HTTP/1.1 400 X\r\nx-should-retry: true\r\nContent-Length: 0\r\n\r\n", 375, 600, AZO_OK},
        {"HTTP/1.1 500 X\r\nx-should-retry: false\r\nContent-Length: 0\r\n\r\n", 0, 50, AZO_ERR_SERVICE},
        {"HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n", 0, 50, AZO_ERR_BAD_REQUEST},
        {"HTTP/1.1 429 X\r\nretry-after: 86400\r\nContent-Length: 0\r\n\r\n", 0, 50, AZO_ERR_RATE_LIMIT},
        {"close", 0, 50, AZO_OK}, /* the connection was open before the token came: stale, one more is free */
        {"reset", 0, 50, AZO_OK},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        world w;
        azo_error e;
        world_open(&w);
        world_start(&w);
        push(&w, 1, cases[i].answer);
        azo_request *a = begin(&w);
        int64_t before = w.net.now + w.entra_delay_ms;
        wait_for(&w, a);
        int64_t took = w.net.now - before;
        azo_result r = end(a, &e);
        if (r != cases[i].result || took < cases[i].min_ms || took > cases[i].max_ms) {
            fail_msg("case %lu: %s after %ld ms", (unsigned long)i, azo_result_name(r), (long)took);
        }
        assert_int_equal(w.service->requests, cases[i].result == AZO_OK ? 2 : 1);
        if (cases[i].result == AZO_ERR_RATE_LIMIT) {
            assert_int_equal(e.retry_after_ms, 86400000);
            assert_int_equal(e.http_status, 429);
            assert_int_equal(e.who, AZO_WHO_WAIT);
            assert_int_equal(e.attempts, 1);
        }
        world_close(&w);
    }
}

static void test_retries_end(void **state) {
    (void)state;
    world w;
    azo_error e;
    world_open(&w);
    w.desc.max_retries = 3;
    world_start(&w);
    for (int i = 0; i < 4; i++) {
        push(&w, 1, "HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n");
    }
    assert_int_equal(call(&w, &e), AZO_ERR_SERVICE);
    assert_int_equal(e.attempts, 4);
    assert_int_equal(e.http_status, 503);
    assert_int_equal(w.service->requests, 4);
    world_close(&w);
    world_open(&w);
    w.desc.max_retries = AZO_OFF;
    world_start(&w);
    push(&w, 1, "HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n");
    assert_int_equal(call(&w, &e), AZO_ERR_SERVICE);
    assert_int_equal(w.service->requests, 1);
    world_close(&w);
}

static void test_no_retry_after_a_delta(void **state) {
    (void)state;
    world w;
    listener l;
    azo_error e;
    memset(&l, 0, sizeof l);
    world_open(&w);
    world_start(&w);
    char stream[2048];
    const char *const one[] = {CHUNK("Hel")};
    push_stream(&w, 5, one, 1, stream, sizeof stream);
    stream[strlen(stream) - 5] = '\0'; /* without the last chunk */
    begin_stream(&w, &l);
    run(&w, 100);
    for (int i = 0; i < SCRIPT_CONNS; i++) {
        if (w.net.conns[i].open && w.net.conns[i].peer == w.service) {
            script_end(&w.net.conns[i], 0, AZO_OK);
        }
    }
    assert_int_equal(wait_for(&w, l.self), AZO_ERR_STREAM);
    azo_chat_reply reply;
    assert_int_equal(azo_chat_end(l.self, &reply, &e), AZO_ERR_STREAM);
    assert_string_equal(reply.text.ptr, "Hel");
    assert_int_equal(reply.http.status, 200);
    azo_chat_reply_free(&reply);
    assert_int_equal(w.service->requests, 1);
    world_close(&w);
}

/* Failures that would be retried if nothing had been delivered: silence, and an error inside the stream. */
static void test_no_retry_of_what_is_retryable_after_a_delta(void **state) {
    (void)state;
    static const char *const busy =
        "data: {\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"synthetic\"}}\n\n";
    for (int deltas = 0; deltas < 2; deltas++) {
        for (int silent = 0; silent < 2; silent++) {
            world w;
            listener l;
            azo_error e;
            char stream[2048];
            const char *const events[] = {CHUNK("Hel"), busy};
            memset(&l, 0, sizeof l);
            world_open(&w);
            w.desc.idle_timeout_ms = 700;
            world_start(&w);
            push_stream(&w, 5, deltas ? events : events + 1, silent ? (size_t)deltas : (size_t)deltas + 1, stream,
                        sizeof stream);
            if (silent) {
                stream[strlen(stream) - 5] = '\0'; /* without the last chunk */
            }
            begin_stream(&w, &l);
            azo_result want = deltas == 0 ? AZO_OK : silent ? AZO_ERR_TIMEOUT : AZO_ERR_RATE_LIMIT;
            assert_int_equal(wait_for(&w, l.self), want);
            assert_int_equal(end(l.self, &e), want);
            assert_int_equal(w.service->requests, deltas == 0 ? 2 : 1);
            world_close(&w);
        }
    }
}

/* ---- connections ---- */

static void test_reuse_and_stale(void **state) {
    (void)state;
    world w;
    azo_error e;
    world_open(&w);
    world_start(&w);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(call(&w, &e), AZO_OK);
    }
    assert_int_equal(w.service->connections, 1);
    push(&w, 0, "close"); /* the request and the server's idle timeout cross: a fresh connection, no attempt counted */
    azo_request *a = begin(&w);
    assert_int_equal(wait_for(&w, a), AZO_OK);
    azo_chat_reply reply;
    assert_int_equal(azo_chat_end(a, &reply, &e), AZO_OK);
    assert_int_equal(reply.http.attempts, 1);
    azo_chat_reply_free(&reply);
    assert_int_equal(w.service->connections, 2);
    run(&w, 31000); /* older than the idle limit: closed by us */
    assert_true(azoi_list_empty(&w.client->idle));
    assert_int_equal(call(&w, &e), AZO_OK);
    assert_int_equal(w.service->connections, 3);
    world_close(&w);
}

static void test_connection_close_is_obeyed(void **state) {
    (void)state;
    world w;
    azo_error e;
    char answer[1024];
    world_open(&w);
    world_start(&w);
    (void)snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %lu\r\n\r\n%s",
                   (unsigned long)strlen(REPLY), REPLY);
    push(&w, 1, answer);
    assert_int_equal(call(&w, &e), AZO_OK);
    assert_int_equal(w.client->idle_count, 1);
    assert_int_equal(call(&w, &e), AZO_OK);
    assert_int_equal(w.service->connections, 2);
    world_close(&w);
}

static void test_interim_and_odd_framing(void **state) {
    (void)state;
    static const char *const fine[] = {
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n"
        "Transfer-Encoding: chunked\r\n\r\n5;x=y\r\n{\"cho\r\n%lx\r\n%s\r\n0\r\nTrailer: 1\r\n\r\n",
    };
    world w;
    azo_error e;
    char answer[2048];
    world_open(&w);
    world_start(&w);
    (void)snprintf(answer, sizeof answer, fine[0], (unsigned long)strlen(REPLY) - 5, REPLY + 5);
    memcpy(strstr(answer, "{\"cho"), REPLY, 5);
    push(&w, 1, answer);
    assert_int_equal(call(&w, &e), AZO_OK);
    push(&w, 1, "HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/x\r\nContent-Length: 0\r\n\r\n");
    assert_int_equal(call(&w, &e), AZO_ERR_REDIRECT);
    assert_non_null(strstr(e.message, "elsewhere.example"));
    test_sentences(e.message);
    push(&w, 1, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_int_equal(call(&w, &e), AZO_ERR_HTTP);
    push(&w, 1, "SSH-2.0-OpenSSH_9\r\n\r\n");
    assert_int_equal(call(&w, &e), AZO_ERR_HTTP);
    assert_int_equal(e.who, AZO_WHO_REPORT);
    world_close(&w);
}

static ptrdiff_t read_zeros(uint64_t offset, void *buf, size_t cap, void *user_data) {
    (void)user_data;
    memset(buf, '0', cap);
    return offset > 100 * 1024 * 1024 ? -1 : (ptrdiff_t)cap;
}

static bool early_given;

static void early_service(script_conn *c, const char *request) {
    (void)c;
    (void)request;
    fail_msg("the whole body came");
}

static ptrdiff_t early_send(void *conn, const void *buf, size_t len, void *user_data) {
    script_conn *c = (script_conn *)conn;
    (void)buf;
    (void)user_data;
    if (!early_given) {
        early_given = true;
        script_send(c, 0, "HTTP/1.1 413 Too Large\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\ntoo large");
        return (ptrdiff_t)len;
    }
    return AZO_ERR_CLOSED;
}

static void test_early_answer(void **state) {
    (void)state;
    world w;
    azo_error e;
    azo_raw_desc desc;
    azo_raw_reply reply;
    world_open(&w);
    w.service->serve = early_service;
    w.desc.api_key = "key";
    memset(&w.desc.credential, 0, sizeof w.desc.credential);
    w.desc.transport.send = early_send;
    early_given = false;
    world_start(&w);
    memset(&desc, 0, sizeof desc);
    desc.path = "/files";
    desc.read_body = read_zeros;
    desc.body_len = 25 * 1024 * 1024;
    assert_int_equal(azo_raw(w.client, &desc, &reply, &e), AZO_ERR_BAD_REQUEST);
    assert_int_equal(e.http_status, 413);
    assert_string_equal(reply.http.body.ptr, "too large");
    azo_raw_reply_free(&reply);
    assert_true(azoi_list_empty(&w.client->idle));
    world_close(&w);
}

/* ---- time ---- */

static void test_time_limits(void **state) {
    (void)state;
    for (int which = 0; which < 4; which++) {
        world w;
        azo_error e;
        world_open(&w);
        w.desc.max_retries = AZO_OFF;
        w.desc.connect_timeout_ms = 300;
        w.desc.first_byte_timeout_ms = which == 3 ? AZO_OFF : 500;
        w.desc.idle_timeout_ms = 700;
        w.desc.total_timeout_ms = which == 3 ? 900 : 100000;
        w.entra_delay_ms = 0;
        world_start(&w);
        int64_t before = w.net.now;
        if (which == 0) {
            w.service->connect_result = AZO_PENDING;
        } else if (which == 2) {
            push(&w, 0, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{");
        } else {
            push(&w, 0, "silence");
        }
        static const int64_t want[] = {300, 500, 700, 900};
        assert_int_equal(call(&w, &e), AZO_ERR_TIMEOUT);
        test_sentences(e.message);
        int64_t took = w.net.now - before;
        if (which == 0) {
            assert_in_range(took, 300, 620); /* one connection ahead of the token, one with it */
        } else {
            assert_in_range(took, want[which], want[which] + 20);
        }
        world_close(&w);
    }
}

static void test_retry_beyond_the_budget(void **state) {
    (void)state;
    world w;
    azo_error e;
    world_open(&w);
    w.desc.total_timeout_ms = 5000;
    world_start(&w);
    push(&w, 1, "HTTP/1.1 429 X\r\nretry-after: 20\r\nContent-Length: 0\r\n\r\n");
    int64_t before = w.net.now;
    assert_int_equal(call(&w, &e), AZO_ERR_RATE_LIMIT);
    assert_int_equal(e.retry_after_ms, 20000);
    assert_true(w.net.now - before < 200);
    world_close(&w);
}

/* ---- pausing, cancelling, interrupting ---- */

static void test_pause(void **state) {
    (void)state;
    for (size_t limit = 0; limit < 40; limit++) {
        world w;
        listener l;
        azo_error e;
        char stream[2048];
        memset(&l, 0, sizeof l);
        world_open(&w);
        w.net.recv_limit = limit;
        w.desc.idle_timeout_ms = 1000;
        world_start(&w);
        push_stream(&w, 5, two_deltas, 3, stream, sizeof stream);
        l.answer = AZO_PAUSE;
        begin_stream(&w, &l);
        run(&w, 3000);
        assert_int_equal(l.events, 1);
        assert_string_equal(l.text, "Hel");
        assert_int_equal(azo_request_result(l.self), AZO_PENDING);
        azo_request_resume(l.self);
        azo_request_resume(l.self);
        assert_int_equal(wait_for(&w, l.self), AZO_OK);
        assert_int_equal(l.events, 3);
        assert_int_equal(end(l.self, &e), AZO_OK);
        assert_string_equal(l.text, "Hello");
        world_close(&w);
    }
}

static void test_cancel_at_every_step(void **state) {
    (void)state;
    for (int steps = 0; steps < 60; steps++) {
        world w;
        listener l;
        azo_error e;
        char stream[2048];
        memset(&l, 0, sizeof l);
        world_open(&w);
        w.net.recv_limit = 50;
        w.net.send_limit = 100;
        world_start(&w);
        push_stream(&w, 5, two_deltas, 3, stream, sizeof stream);
        begin_stream(&w, &l);
        for (int i = 0; i < steps; i++) {
            assert_int_equal(azo_poll(w.client, 3), AZO_OK);
        }
        bool done = azo_request_result(l.self) != AZO_PENDING;
        azo_request_cancel(l.self);
        assert_int_equal(azo_poll(w.client, 0), AZO_OK);
        assert_int_equal(azo_request_result(l.self), done ? AZO_OK : AZO_ERR_CANCELLED);
        assert_ptr_equal(azo_next(w.client), l.self);
        assert_null(azo_next(w.client));
        assert_int_equal(end(l.self, &e), done ? AZO_OK : AZO_ERR_CANCELLED);
        w.script_used = w.script_count;
        assert_int_equal(call(&w, &e), AZO_OK);
        world_close(&w);
    }
}

static bool interrupt_soon(void *user_data) {
    int *left = (int *)user_data;
    return --*left < 0;
}

static void test_interrupted(void **state) {
    (void)state;
    world w;
    azo_error e;
    int left = 3;
    world_open(&w);
    w.desc.interrupted = interrupt_soon;
    w.desc.interrupt_user_data = &left;
    world_start(&w);
    push(&w, 0, "silence");
    assert_int_equal(call(&w, &e), AZO_ERR_CANCELLED);
    world_close(&w);
}

static void test_blocking_and_stepped_are_equal(void **state) {
    (void)state;
    world w;
    azo_error e;
    world_open(&w);
    world_start(&w);
    assert_int_equal(call(&w, &e), AZO_OK);
    azo_request *a = begin(&w);
    assert_int_equal(wait_for(&w, a), AZO_OK);
    assert_int_equal(end(a, &e), AZO_OK);
    assert_int_equal(w.seen_count, 2);
    assert_string_equal(w.seen[0], w.seen[1]);
    world_close(&w);
}

static void test_wrong_end_and_close_with_live_requests(void **state) {
    (void)state;
    world w;
    azo_error e;
    azo_embed_reply reply;
    world_open(&w);
    world_start(&w);
    azo_request *a = begin(&w);
    assert_int_equal(azo_embed_end(a, &reply, &e), AZO_ERR_ARGUMENT); /* and frees */
    azo_embed_reply_free(&reply);
    azo_request *b = begin(&w);
    azo_request *c = begin(&w);
    run(&w, 2);
    azo_client_close(w.client);
    w.client = NULL;
    assert_int_equal(azo_request_result(b), AZO_ERR_CANCELLED);
    azo_request_cancel(b);
    azo_request_resume(b);
    assert_int_equal(end(c, &e), AZO_ERR_CANCELLED);
    test_sentences(e.message);
    azo_request_free(b);
    world_close(&w);
}

static void test_body_over_its_limit(void **state) {
    (void)state;
    for (size_t piece = 0; piece < 60; piece += 7) { /* 0: all at once */
        world w;
        azo_chat_reply reply;
        azo_chat_desc desc;
        azo_message message = azo_user("Hi");
        azo_error e;
        world_open(&w);
        w.desc.max_response_bytes = 50;
        world_start(&w);
        push(&w, 1, "HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n"
                    "{\"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdef}");
        w.net.recv_limit = piece;
        memset(&desc, 0, sizeof desc);
        desc.messages = &message;
        desc.message_count = 1;
        assert_int_equal(azo_chat(w.client, &desc, &reply, &e), AZO_ERR_LIMIT);
        assert_int_equal(reply.http.body.len, 50);
        azo_chat_reply_free(&reply);
        world_close(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_of_three_cancelled),
        cmocka_unit_test(test_one_refusal_for_all),
        cmocka_unit_test(test_backoff_is_not_disturbed),
        cmocka_unit_test(test_twenty_refused_tokens),
        cmocka_unit_test(test_cap_without_deadlock),
        cmocka_unit_test(test_death_inside_a_delta),
        cmocka_unit_test(test_begin_inside_a_delta),
        cmocka_unit_test(test_two_endpoints_one_fetch),
        cmocka_unit_test(test_every_allocation),
        cmocka_unit_test(test_stale_ids),
        cmocka_unit_test(test_edge_triggered),
        cmocka_unit_test(test_loop_that_cannot_watch),
        cmocka_unit_test(test_retry_after),
        cmocka_unit_test(test_retries_end),
        cmocka_unit_test(test_no_retry_after_a_delta),
        cmocka_unit_test(test_no_retry_of_what_is_retryable_after_a_delta),
        cmocka_unit_test(test_reuse_and_stale),
        cmocka_unit_test(test_connection_close_is_obeyed),
        cmocka_unit_test(test_interim_and_odd_framing),
        cmocka_unit_test(test_early_answer),
        cmocka_unit_test(test_time_limits),
        cmocka_unit_test(test_retry_beyond_the_budget),
        cmocka_unit_test(test_pause),
        cmocka_unit_test(test_cancel_at_every_step),
        cmocka_unit_test(test_interrupted),
        cmocka_unit_test(test_blocking_and_stepped_are_equal),
        cmocka_unit_test(test_wrong_end_and_close_with_live_requests),
        cmocka_unit_test(test_body_over_its_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
