/* unit_machine.c - the pump, connections and attempts, in a scripted world: the ten walk-throughs of the design, and
 * what else the machine decides (retries, time limits, reuse, early answers, pausing, cancelling, proxies, TLS that is
 * kept busy). Needs the certificates of make_certs.sh in $AZO_TEST_CERTS (default build/certs). */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#include "script.h"

#include "script_tls.h"

enum { SERVICE_PORT = 8000, ENTRA_PORT = 8001, OTHER_PORT = 8002, PROXY_PORT = 8003, MAX_SEEN = 128 };

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
    int32_t look_again_ms;   /* what timed_watch asks for */
    intptr_t times_watched;  /* by wandering_watch */
    intptr_t watches_left;   /* before limited_watch refuses */
    azo_result open_failure; /* what failing_open says once */
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
    char pass[64];
    assert_true(w->seen_count < MAX_SEEN);
    w->seen[w->seen_count++] = strdup(request);
    (void)snprintf(pass, sizeof pass, w->desc.api_key != NULL ? "api-key: key.%d\r\n" : "Bearer tok.%d\r\n",
                   w->token_number);
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
    } else if (strstr(request, pass) == NULL) {
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

static void world_use_key(world *w) {
    memset(&w->desc.credential, 0, sizeof w->desc.credential);
    w->desc.api_key = "key.1";
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
    bool cancel_other;
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
    if (l->cancel_other) {
        azo_request_cancel(l->other);
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

/* The token's failure and the cancelling meet in one walk through what is ready: who cancelled hears CANCELLED. */
static void test_cancelled_ahead_of_a_failure(void **state) {
    (void)state;
    world w;
    listener l;
    azo_error e;
    azo_token_desc desc;
    char stream[2048];
    memset(&l, 0, sizeof l);
    memset(&desc, 0, sizeof desc);
    world_open(&w);
    world_start(&w);
    assert_int_equal(call(&w, &e), AZO_OK); /* opens the connections, the service's first: so it is served first */
    w.entra_status = 401;
    w.entra_delay_ms = 5;
    push_stream(&w, 5, two_deltas, 3, stream, sizeof stream);
    desc.scope = "https://other.example/.default";
    begin_stream(&w, &l);
    assert_int_equal(azo_token_begin(w.client, &desc, &l.other, &e), AZO_OK);
    l.cancel_other = true;
    assert_int_equal(wait_for(&w, l.other), AZO_ERR_CANCELLED);
    assert_int_equal(w.entra->requests, 2);
    assert_int_equal(azo_token_end(l.other, NULL, &e), AZO_ERR_CANCELLED);
    assert_int_equal(e.who, AZO_WHO_NOBODY);
    assert_int_equal(wait_for(&w, l.self), AZO_OK);
    assert_int_equal(end(l.self, &e), AZO_OK);
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

/* More requests than the first heap of timers holds. */
static void starved_crowd(test_memory *memory, void *user_data) {
    enum { CROWD = 18 };
    world w;
    azo_error e;
    azo_request *all[CROWD];
    (void)user_data;
    world_open(&w);
    world_use_key(&w);
    w.desc.allocator = memory->hook;
    azo_result r = azo_client_open(&w.desc, &w.client, &e);
    for (size_t i = 0; i < CROWD && r == AZO_OK; i++) {
        azo_raw_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.path = "/models";
        if (azo_raw_begin(w.client, &desc, &all[i], &e) != AZO_OK) {
            assert_int_equal(e.code, AZO_ERR_MEMORY);
        }
    }
    for (size_t i = 0; i < CROWD && r == AZO_OK; i++) {
        azo_result one = all[i] == NULL ? AZO_ERR_MEMORY : wait_for(&w, all[i]);
        assert_true(one == AZO_OK || (one == AZO_ERR_MEMORY && memory->failures > 0));
        azo_request_free(all[i]);
    }
    assert_true(r == AZO_OK || r == AZO_ERR_MEMORY);
    world_close(&w);
}

/* A pause in the middle of all that a read brought: of an event's piece, and of the body behind it. */
static void starved_pause(test_memory *memory, void *user_data) {
    static const char *const events[] = {CHUNK("Hel") CHUNK("lo"), LAST};
    world w;
    listener l;
    azo_error e;
    char stream[2048];
    (void)user_data;
    memset(&l, 0, sizeof l);
    world_open(&w);
    world_use_key(&w);
    w.desc.allocator = memory->hook;
    push_stream(&w, 5, events, 2, stream, sizeof stream);
    azo_result r = azo_client_open(&w.desc, &w.client, &e);
    if (r == AZO_OK) {
        azo_message message = azo_user("Hi");
        azo_chat_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.messages = &message;
        desc.message_count = 1;
        desc.on_event = hear;
        desc.user_data = &l;
        l.w = &w;
        l.answer = AZO_PAUSE;
        r = azo_chat_begin(w.client, &desc, &l.self, &e);
    }
    if (r == AZO_OK) {
        run(&w, 100);
        azo_request_resume(l.self);
        (void)wait_for(&w, l.self);
        r = end(l.self, &e);
    }
    assert_true(r == AZO_OK || (r == AZO_ERR_MEMORY && memory->failures > 0));
    assert_string_equal(l.text, l.events == 0 ? "" : l.events == 1 ? "Hel" : "Hello");
    world_close(&w);
}

/* `user_data`: the value of a header. */
static void starved_call(test_memory *memory, void *user_data) {
    const azo_header pad = {"x-pad", (const char *)user_data};
    world w;
    azo_error e;
    world_open(&w);
    world_use_key(&w);
    w.desc.allocator = memory->hook;
    w.desc.headers = &pad;
    w.desc.header_count = 1;
    azo_result r = azo_client_open(&w.desc, &w.client, &e);
    r = r == AZO_OK ? call(&w, &e) : r;
    assert_true(r == AZO_OK || (r == AZO_ERR_MEMORY && memory->failures > 0));
    assert_true(r != AZO_OK || w.service->requests == 1);
    world_close(&w);
}

/* Where the head of the request outgrows its buffer (they double) with its last lines. */
static void starved_head(void) {
    enum { FULL = 512, ROOM = 4 };
    static const azo_header short_pad = {"x-pad", "1"};
    char pad[FULL];
    world w;
    azo_error e;
    world_open(&w);
    world_use_key(&w);
    w.desc.headers = &short_pad;
    w.desc.header_count = 1;
    world_start(&w);
    assert_int_equal(call(&w, &e), AZO_OK);
    const char *last = strstr(w.seen[0], "Content-Length: ");
    assert_non_null(last);
    assert_in_range(last - w.seen[0], 1, FULL - ROOM);
    size_t len = (size_t)(FULL - ROOM - (last - w.seen[0])) + 1;
    memset(pad, '1', len);
    pad[len] = '\0';
    world_close(&w);
    test_every_failure(starved_call, pad);
}

static void test_more_allocations(void **state) {
    (void)state;
    test_every_failure(starved_crowd, NULL);
    test_every_failure(starved_pause, NULL);
    starved_head();
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

static bool watch_refused;

static int sometimes_refusing_watch(intptr_t fd, unsigned events, uint32_t id, void **slot, void *user_data) {
    (void)fd;
    (void)id;
    (void)slot;
    (void)user_data;
    return events != 0 && watch_refused;
}

static size_t open_conns(const world *w, const script_peer_entry *peer) {
    size_t count = 0;
    for (size_t i = 0; i < SCRIPT_CONNS; i++) {
        count += w->net.conns[i].open && w->net.conns[i].peer == peer;
    }
    return count;
}

/* The answer is complete, only the end of its body is to come, and that cannot be watched for: no harm is done. */
static void test_loop_that_cannot_watch_the_rest(void **state) {
    (void)state;
    world w;
    listener l;
    azo_error e;
    char stream[2048];
    memset(&l, 0, sizeof l);
    world_open(&w);
    world_use_key(&w);
    w.desc.loop.watch = sometimes_refusing_watch;
    watch_refused = false;
    world_start(&w);
    push_stream(&w, 5, two_deltas, 3, stream, sizeof stream);
    stream[strlen(stream) - 5] = '\0'; /* without the last chunk */
    l.answer = AZO_PAUSE;
    begin_stream(&w, &l);
    run(&w, 100); /* paused: nothing is watched */
    watch_refused = true;
    azo_request_resume(l.self);
    assert_int_equal(wait_for(&w, l.self), AZO_OK);
    assert_int_equal(end(l.self, &e), AZO_OK);
    run(&w, 1);
    assert_int_equal(open_conns(&w, w.service), 0);
    watch_refused = false;
    assert_int_equal(call(&w, &e), AZO_OK);
    assert_int_equal(w.service->connections, 2);
    world_close(&w);
}

/* Another descriptor each time that it is asked. */
static size_t wandering_watch(void *conn, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms,
                              void *user_data) {
    world *w = (world *)((const script_conn *)conn)->peer->state;
    size_t count = script_conn_watch(conn, want, out, cap, timeout_ms, user_data);
    if (cap > 0) {
        out[0].fd = w->times_watched++;
    }
    return count;
}

static int limited_watch(intptr_t fd, unsigned events, uint32_t id, void **slot, void *user_data) {
    world *w = (world *)user_data;
    (void)fd;
    (void)id;
    (void)slot;
    return events != 0 && w->watches_left-- <= 0;
}

/* A descriptor that cannot be watched fails its connection, and with it the request, whenever that is. */
static void test_loop_that_cannot_watch_another(void **state) {
    (void)state;
    for (intptr_t watches = 0; watches < 8; watches++) {
        for (size_t blocked = 0; blocked < 2; blocked++) {
            world w;
            azo_error e;
            world_open(&w);
            world_use_key(&w);
            w.desc.transport.watch = wandering_watch;
            w.desc.loop.watch = limited_watch;
            w.desc.loop.user_data = &w;
            w.desc.max_retries = AZO_OFF;
            w.watches_left = watches;
            w.net.send_limit = blocked * 10;
            w.net.drip = blocked > 0;
            push(&w, 50, "silence");
            world_start(&w);
            azo_request *request = begin(&w);
            for (int i = 0; i < 200 && azo_request_result(request) == AZO_PENDING; i++) {
                w.net.now++;
                assert_int_equal(azo_step(w.client, NULL, 0), AZO_OK);
            }
            assert_int_equal(azo_request_result(request), AZO_ERR_MEMORY);
            assert_int_equal(end(request, &e), AZO_ERR_MEMORY);
            assert_non_null(strstr(e.message, "could not watch"));
            assert_int_equal(open_conns(&w, w.service), 0);
            world_close(&w);
        }
    }
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
        {"HTTP/1.1 410 X\r\nx-should-retry: true\r\nContent-Length: 0\r\n\r\n", 375, 600, AZO_OK},
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

/* The answer was whole; the connection waits a second for the end of its body, and is closed. */
static void test_chunks_without_end(void **state) {
    (void)state;
    world w;
    listener l;
    azo_error e;
    char stream[2048];
    memset(&l, 0, sizeof l);
    world_open(&w);
    world_start(&w);
    push_stream(&w, 5, two_deltas, 3, stream, sizeof stream);
    stream[strlen(stream) - 5] = '\0'; /* without the last chunk */
    begin_stream(&w, &l);
    assert_int_equal(wait_for(&w, l.self), AZO_OK);
    assert_int_equal(end(l.self, &e), AZO_OK);
    int64_t began = w.net.now;
    run(&w, AZOI_DRAIN_MS - 1);
    assert_int_equal(open_conns(&w, w.service), 1);
    run(&w, began + AZOI_DRAIN_MS + 1 - w.net.now);
    assert_int_equal(open_conns(&w, w.service), 0);
    world_close(&w);
}

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

/* Takes 20 ms, and says nothing about how long its token is good for: it is asked for each attempt. */
static azo_result provide_once(const azo_token_ask *ask, azo_token_answer *answer, void *user_data) {
    bool first = *ask->state == NULL && !ask->abandon;
    *ask->state = first ? user_data : NULL;
    answer->wait_ms = 20;
    if (!first && !ask->abandon) {
        memcpy(answer->token, "tok.1", 5);
        answer->token_len = 5;
    }
    return first ? AZO_PENDING : AZO_OK;
}

/* One connection that was closed while it waited is free, whatever was opened ahead of its token since. */
static void test_one_stale_connection_is_free(void **state) {
    (void)state;
    for (int retries = 0; retries < 2; retries++) {
        world w;
        azo_error e;
        world_open(&w);
        memset(&w.desc.credential, 0, sizeof w.desc.credential);
        w.desc.token_provider = provide_once;
        w.desc.token_user_data = &w;
        w.desc.max_retries = retries > 0 ? retries : AZO_OFF;
        world_start(&w);
        push(&w, 0, "close");
        push(&w, 0, "close");
        azo_result r = call(&w, &e);
        assert_int_equal(r, retries > 0 ? AZO_OK : AZO_ERR_CLOSED);
        assert_int_equal(w.service->requests, 2 + retries);
        if (r != AZO_OK) {
            assert_int_equal(e.attempts, 1);
        }
        world_close(&w);
    }
}

static azo_result failing_open(const azo_target *to, void **conn, void *user_data) {
    script_world *net = (script_world *)user_data;
    world *w = (world *)net->peers[0].state;
    azo_result r = w->open_failure;
    w->open_failure = AZO_OK;
    return r == AZO_OK ? script_conn_open(to, conn, net) : r;
}

/* A transport that cannot even begin: there is no connection that could be stale. */
static void test_connection_that_is_none(void **state) {
    static const struct {
        azo_result failure;
        azo_result want;
        bool retried;
    } cases[] = {
        {AZO_ERR_CLOSED, AZO_OK, true},
        {AZO_ERR_CONNECT, AZO_OK, true},
        {AZO_ERR_MEMORY, AZO_ERR_MEMORY, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        world w;
        azo_error e;
        world_open(&w);
        world_use_key(&w);
        w.desc.transport.open = failing_open;
        w.open_failure = cases[i].failure;
        world_start(&w);
        int64_t before = w.net.now;
        assert_int_equal(call(&w, &e), cases[i].want);
        assert_in_range(w.net.now - before, cases[i].retried ? 375 : 0, cases[i].retried ? 600 : 0);
        assert_int_equal(w.service->requests, cases[i].retried ? 1 : 0);
        world_close(&w);
    }
}

static azo_result asking_open(const azo_target *to, void **conn, void *user_data) {
    const world *w = (const world *)((const script_world *)user_data)->peers[0].state;
    azo_watch watch;
    assert_int_equal(azo_wait(w->client, &watch, 1, NULL), 0);
    return script_conn_open(to, conn, user_data);
}

/* Nothing is waited for at a connection that is only being opened. */
static void test_wishes_of_an_unborn_connection(void **state) {
    (void)state;
    world w;
    azo_error e;
    world_open(&w);
    world_use_key(&w);
    w.desc.transport.open = asking_open;
    world_start(&w);
    assert_int_equal(call(&w, &e), AZO_OK);
    world_close(&w);
}

/* A connection is used for an origin only if it is one to just this origin, reached and secured in just this way. */
static void test_what_a_connection_serves(void **state) {
    static const struct {
        const char *host;
        uint16_t port;
        bool secure;
        bool direct;
        bool serves;
    } cases[] = {
        {"a.example", 443, true, false, true},   {"A.Example", 443, true, false, true},
        {"a.example", 444, true, false, false},  {"a.example", 443, false, false, false},
        {"a.example", 443, true, true, false},   {"b.example", 443, true, false, false},
        {"a.example.", 443, true, false, false}, {"", 443, true, false, false},
    };
    (void)state;
    azoi_conn conn;
    memset(&conn, 0, sizeof conn);
    conn.origin.host = azo_s("a.example");
    conn.origin.port = 443;
    conn.origin.secure = true;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        azoi_origin origin;
        memset(&origin, 0, sizeof origin);
        origin.host = azo_s(cases[i].host);
        origin.port = cases[i].port;
        origin.secure = cases[i].secure;
        origin.direct = cases[i].direct;
        if (azoi_conn_serves(&conn, &origin) != cases[i].serves) {
            fail_msg("case %lu", (unsigned long)i);
        }
    }
}

/* What follows an answer on its connection is nobody's, also where a pause had put it aside. */
static void test_bytes_behind_an_answer(void **state) {
    static const char *const commented[] = {CHUNK("Hel"), CHUNK("lo"), LAST, ": behind the end\n\n"};
    (void)state;
    for (int paused = 0; paused < 2; paused++) {
        for (int extra = 0; extra < 2; extra++) {
            world w;
            listener l;
            azo_error e;
            char stream[2048];
            memset(&l, 0, sizeof l);
            world_open(&w);
            world_use_key(&w);
            world_start(&w);
            push_stream(&w, 5, commented, 4, stream, sizeof stream);
            strncat(stream, extra ? "HTTP/1.1 500 Smuggled\r\nContent-Length: 0\r\n\r\n" : "",
                    sizeof stream - strlen(stream) - 1);
            l.answer = paused ? AZO_PAUSE : AZO_GO_ON;
            begin_stream(&w, &l);
            run(&w, 100);
            azo_request_resume(l.self);
            assert_int_equal(wait_for(&w, l.self), AZO_OK);
            assert_int_equal(l.events, 3);
            assert_int_equal(end(l.self, &e), AZO_OK);
            assert_int_equal(call(&w, &e), AZO_OK);
            assert_int_equal(w.service->connections, extra ? 2 : 1);
            world_close(&w);
        }
    }
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
    push(&w, 1, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"); /* nobody asked for that */
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

static ptrdiff_t early_part(void *conn, const void *buf, size_t len, void *user_data) {
    (void)buf;
    (void)user_data;
    if (early_given) {
        return AZO_IO_AGAIN;
    }
    early_given = true;
    script_send((script_conn *)conn, 0, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nearly ");
    return (ptrdiff_t)len;
}

static int pause_at_first(const void *data, size_t len, void *user_data) {
    int *pieces = (int *)user_data;
    (void)data;
    assert_int_equal(len, *pieces == 0 ? 6 : 3);
    (*pieces)++;
    return *pieces == 1 ? AZO_PAUSE : AZO_GO_ON;
}

/* A pause while the body is still on its way: what would go on is not watched either. */
static void test_pause_ahead_of_the_end_of_a_body(void **state) {
    (void)state;
    world w;
    azo_error e;
    azo_raw_desc desc;
    azo_raw_reply reply;
    azo_request *request;
    int32_t timeout;
    int pieces = 0;
    world_open(&w);
    w.service->serve = early_service;
    world_use_key(&w);
    w.desc.transport.send = early_part;
    early_given = false;
    world_start(&w);
    memset(&desc, 0, sizeof desc);
    desc.path = "/files";
    desc.read_body = read_zeros;
    desc.body_len = 25 * 1024 * 1024;
    desc.on_body = pause_at_first;
    desc.user_data = &pieces;
    assert_int_equal(azo_raw_begin(w.client, &desc, &request, &e), AZO_OK);
    run(&w, 100);
    assert_int_equal(pieces, 1);
    assert_true(request->paused && request->conn->stream.out_blocked);
    assert_int_equal(azo_wait(w.client, NULL, 0, &timeout), 0);
    script_send(&w.net.conns[0], 0, "one");
    azo_request_resume(request);
    assert_int_equal(wait_for(&w, request), AZO_OK);
    assert_int_equal(pieces, 2);
    assert_int_equal(azo_raw_end(request, &reply, &e), AZO_OK);
    azo_raw_reply_free(&reply);
    world_close(&w);
}

static ptrdiff_t read_wrongly(uint64_t offset, void *buf, size_t cap, void *user_data) {
    int how = *(const int *)user_data;
    (void)offset;
    memset(buf, '0', cap);
    return how > 0 ? (ptrdiff_t)cap + 1 : how;
}

/* read_body has to give bytes, and no more than there is room for. */
static void test_body_that_is_read_wrongly(void **state) {
    (void)state;
    for (int how = -1; how <= 1; how++) {
        world w;
        azo_error e;
        azo_raw_desc desc;
        azo_raw_reply reply;
        world_open(&w);
        world_use_key(&w);
        world_start(&w);
        memset(&desc, 0, sizeof desc);
        desc.path = "/files";
        desc.read_body = read_wrongly;
        desc.read_user_data = &how;
        desc.body_len = 100;
        assert_int_equal(azo_raw(w.client, &desc, &reply, &e), AZO_ERR_ARGUMENT);
        assert_int_equal(e.who, AZO_WHO_PROGRAM);
        assert_non_null(strstr(e.message, "read_body"));
        test_sentences(e.message);
        azo_raw_reply_free(&reply);
        assert_int_equal(w.service->requests, 0);
        world_close(&w);
    }
}

/* No block can be so large: that is told before a byte of the body is looked at. */
static void test_body_without_end(void **state) {
    (void)state;
    world w;
    azo_error e;
    azo_raw_desc desc;
    azo_request *request;
    world_open(&w);
    world_use_key(&w);
    world_start(&w);
    memset(&desc, 0, sizeof desc);
    desc.path = "/files";
    desc.body = "x";
    for (size_t i = 0; i < 2; i++) {
        desc.body_len = SIZE_MAX - i * sizeof(azo_request);
        assert_int_equal(azo_raw_begin(w.client, &desc, &request, &e), AZO_ERR_MEMORY);
        assert_null(request);
        test_sentences(e.message);
    }
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

/* Each limit of a call goes before the client's, also to say that there is none. */
static void test_time_limits_of_a_call(void **state) {
    (void)state;
    for (int which = 0; which < 5; which++) {
        world w;
        azo_error e;
        azo_message message = azo_user("Hi");
        azo_chat_desc desc;
        world_open(&w);
        world_use_key(&w);
        w.desc.max_retries = AZO_OFF;
        w.desc.connect_timeout_ms = which == 4 ? 300 : 9000;
        w.desc.first_byte_timeout_ms = w.desc.idle_timeout_ms = w.desc.connect_timeout_ms;
        w.desc.total_timeout_ms = 9000;
        world_start(&w);
        memset(&desc, 0, sizeof desc);
        desc.messages = &message;
        desc.message_count = 1;
        desc.call.connect_timeout_ms = which == 0 ? 400 : which == 4 ? AZO_OFF : 0;
        desc.call.first_byte_timeout_ms = which == 1 ? 500 : which == 4 ? AZO_OFF : 0;
        desc.call.idle_timeout_ms = which == 2 ? 600 : which == 4 ? AZO_OFF : 0;
        desc.call.total_timeout_ms = which == 3 ? 700 : which == 4 ? 8000 : 0;
        if (which == 0) {
            w.service->connect_result = AZO_PENDING;
        } else if (which == 4) {
            w.service->connect_ms = 1000;
            push(&w, 1000, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{");
        } else {
            push(&w, 0, which == 2 ? "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{" : "silence");
        }
        static const int64_t want[] = {400, 500, 600, 700, 8000};
        int64_t before = w.net.now;
        assert_int_equal(azo_chat(w.client, &desc, NULL, &e), AZO_ERR_TIMEOUT);
        assert_in_range(w.net.now - before, want[which], want[which] + 20);
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

/* AZO_OFF: a day until the second try, an hour until its answer begins and another until it goes on. */
static void test_no_limits(void **state) {
    enum { HOUR = 3600 * 1000, DAY = 24 * HOUR };
    (void)state;
    world w;
    azo_error e;
    char head[100];
    world_open(&w);
    world_use_key(&w);
    w.desc.first_byte_timeout_ms = AZO_OFF;
    w.desc.idle_timeout_ms = AZO_OFF;
    w.desc.total_timeout_ms = AZO_OFF;
    w.desc.max_retry_wait_ms = AZO_OFF;
    world_start(&w);
    (void)snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %lu\r\n\r\n", (unsigned long)strlen(REPLY));
    push(&w, 0, "HTTP/1.1 503 X\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n");
    push(&w, HOUR, head);
    int64_t before = w.net.now;
    azo_request *request = begin(&w);
    run(&w, DAY - 1);
    assert_int_equal(w.service->requests, 1);
    run(&w, HOUR + 2);
    assert_int_equal(w.service->requests, 2);
    assert_int_equal(request->state, AZOI_JOB_BODY);
    for (size_t i = 0; i < SCRIPT_CONNS; i++) {
        if (w.net.conns[i].open) {
            script_send(&w.net.conns[i], HOUR, REPLY);
        }
    }
    assert_int_equal(wait_for(&w, request), AZO_OK);
    assert_in_range(w.net.now - before, DAY + 2 * (int64_t)HOUR, DAY + 2 * (int64_t)HOUR + 100);
    assert_int_equal(end(request, &e), AZO_OK);
    world_close(&w);
}

/* A transport without descriptors while it connects: it wants to be looked at again after a time. */
static size_t timed_watch(void *conn, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms, void *user_data) {
    const script_conn *c = (const script_conn *)conn;
    int32_t again_ms = ((const world *)c->peer->state)->look_again_ms;
    if (c->connected) {
        return script_conn_watch(conn, want, out, cap, timeout_ms, user_data);
    }
    *timeout_ms = *timeout_ms < 0 || again_ms < *timeout_ms ? again_ms : *timeout_ms;
    return 0;
}

static void test_transport_that_counts_time(void **state) {
    static const struct {
        int32_t look_again_ms;
        int connect_ms;
        azo_result want;
        int64_t took_ms;
    } cases[] = {
        {40, 100, AZO_OK, 120 + 5}, /* looked at after 40, 80 and 120 ms; then the answer */
        {20000, 1000, AZO_ERR_TIMEOUT, 300},
        {40, 1000, AZO_ERR_TIMEOUT, 300},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        world w;
        azo_error e;
        world_open(&w);
        world_use_key(&w);
        w.desc.max_retries = AZO_OFF;
        w.desc.connect_timeout_ms = 300;
        w.desc.transport.watch = timed_watch;
        w.service->connect_ms = cases[i].connect_ms;
        w.look_again_ms = cases[i].look_again_ms;
        world_start(&w);
        int64_t before = w.net.now;
        assert_int_equal(call(&w, &e), cases[i].want);
        assert_int_equal(w.net.now - before, cases[i].took_ms);
        world_close(&w);
    }
}

/* A limit of the last attempt that passes while the next one waits for its token: nothing is tried before that. */
static void test_old_limit_while_a_token_is_awaited(void **state) {
    (void)state;
    world w;
    azo_error e;
    world_open(&w);
    w.desc.first_byte_timeout_ms = 500;
    world_start(&w);
    push(&w, 5, "HTTP/1.1 401 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    azo_request *request = begin(&w);
    run(&w, 22); /* sent, not yet answered */
    assert_int_equal(w.service->requests, 1);
    w.token_number = 2;
    w.entra_delay_ms = 2000;
    w.service->connect_result = AZO_ERR_CONNECT;
    run(&w, 1500);
    assert_int_equal(azo_request_result(request), AZO_PENDING);
    assert_int_equal(w.service->connections, 2); /* the second, ahead of the token, was refused */
    w.service->connect_result = AZO_OK;
    assert_int_equal(wait_for(&w, request), AZO_OK);
    assert_int_equal(w.service->connections, 3);
    assert_int_equal(end(request, &e), AZO_OK);
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

/* ---- through a proxy ---- */

static void refusing_proxy(script_conn *c, const char *request) {
    static const char head[] = "CONNECT contoso.example.test:443 HTTP/1.1\r\nHost: contoso.example.test:443\r\n";
    assert_memory_equal(request, head, sizeof head - 1);
    assert_null(strstr(request, "key.1"));
    script_send(c, 1, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
}

static void world_open_far(world *w) {
    world_open(w);
    world_use_key(w);
    (void)script_peer(&w->net, PROXY_PORT, refusing_proxy, w);
    w->desc.endpoint = "https://contoso.example.test";
    w->desc.proxy = "http://127.0.0.1:8003";
}

static void test_proxy_that_takes_no_request(void **state) {
    (void)state;
    world w;
    azo_error e;
    world_open_far(&w);
    w.net.cut.conn = 1;
    w.net.cut.way = SCRIPT_OUT;
    w.net.cut.how = SCRIPT_RESET;
    world_start(&w);
    assert_int_equal(call(&w, &e), AZO_ERR_PROXY);
    assert_int_equal(e.stage, AZO_STAGE_CONNECT);
    assert_int_equal(e.who, AZO_WHO_MACHINE);
    assert_int_equal(e.sys_errno, EPIPE);
    assert_int_equal(e.attempts, 0);
    assert_non_null(strstr(e.message, "The proxy 127.0.0.1:8003 closed the connection"));
    test_sentences(e.message);
    assert_int_equal(w.net.opened, 1);
    world_close(&w);
}

static void test_proxy_that_takes_it_in_pieces(void **state) {
    (void)state;
    world w;
    azo_error e;
    world_open_far(&w);
    w.net.send_limit = 10;
    w.net.drip = true;
    world_start(&w);
    assert_int_equal(call(&w, &e), AZO_ERR_PROXY);
    assert_non_null(strstr(e.message, "refused a tunnel to contoso.example.test (HTTP 403)"));
    test_sentences(e.message);
    world_close(&w);
}

static void starved_far(test_memory *memory, void *user_data) {
    world w;
    azo_error e;
    (void)user_data;
    world_open_far(&w);
    w.desc.allocator = memory->hook;
    azo_result r = azo_client_open(&w.desc, &w.client, &e);
    r = r == AZO_OK ? call(&w, &e) : r;
    if (r != AZO_ERR_PROXY && (r != AZO_ERR_MEMORY || memory->failures == 0)) {
        fail_msg("allocation %lu: %s", (unsigned long)memory->fail_at, e.message);
    }
    test_sentences(e.message);
    world_close(&w);
}

static void test_proxy_without_memory(void **state) {
    (void)state;
    test_every_failure(starved_far, NULL);
}

/* ---- peers that keep TLS busy with nothing ---- */

enum { TLS_PORT = 8443, TLS_12 = 0x303, FLOOD_RECORDS = 200 };

typedef struct tls_world {
    world w;
    script_tls tls;
    int records_left;   /* of the flood, which only the first connection gets */
    const listener *at; /* NULL, or it begins when this one has heard all */
    const char *then;   /* said when it is over; NULL: nothing */
} tls_world;

static tls_world secure; /* too large for a stack */

/* The caller frees it. */
static char *read_cert(const char *name) {
    enum { MAX_CERT = 1 << 16 };
    const char *dir = getenv("AZO_TEST_CERTS");
    char path[512];
    char *text = (char *)malloc(MAX_CERT);
    assert_non_null(text);
    (void)snprintf(path, sizeof path, "%s/%s", dir != NULL && dir[0] != '\0' ? dir : "build/certs", name);
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fail_msg("cannot read %s", path);
    }
    text[fread(text, 1, MAX_CERT - 1, file)] = '\0';
    (void)fclose(file);
    return text;
}

/* A warning in a record of its own, each time that the client has read all there is. */
static void flood(script_tls_conn *c) {
    enum { NO_CERTIFICATE = 41, ALL_EVENTS = 3 };
    if (c->plain->number != 1 || (secure.at != NULL && secure.at->events < ALL_EVENTS)) {
        return;
    }
    if (secure.records_left > 0) {
        secure.records_left--;
        script_tls_serving = true;
        int ret = mbedtls_ssl_send_alert_message(&c->ssl, MBEDTLS_SSL_ALERT_LEVEL_WARNING, NO_CERTIFICATE);
        script_tls_serving = false;
        assert_int_equal(ret, 0);
    } else if (secure.then != NULL) {
        script_tls_write(c, (const unsigned char *)secure.then, strlen(secure.then));
        secure.then = NULL;
    }
}

static void secure_open(void) {
    char *chain = read_cert("ec_server.pem");
    char *key = read_cert("ec_server.key");
    char *root = read_cert("ec_root.pem");
    memset(&secure, 0, sizeof secure);
    world_open(&secure.w);
    world_use_key(&secure.w);
    script_tls_open(&secure.tls, &secure.w.net, azo_s(chain), azo_s(key));
    script_tls_version(&secure.tls, TLS_12);
    script_tls_port(&secure.tls, TLS_PORT);
    secure.tls.on_dry = flood;
    secure.w.service->port = TLS_PORT;
    secure.w.desc.endpoint = "https://localhost:8443";
    secure.w.desc.transport = secure.tls.transport;
    secure.w.desc.ca_pem = azo_s(root);
    world_start(&secure.w);
    free(chain);
    free(key);
    free(root);
}

static void secure_close(void) {
    azo_client_close(secure.w.client);
    secure.w.client = NULL;
    script_tls_close(&secure.tls);
    world_close(&secure.w);
}

/* A connection that is never quiet is of no use to the next request. */
static void test_flood_while_idle(void **state) {
    (void)state;
    azo_error e;
    secure_open();
    assert_int_equal(call(&secure.w, &e), AZO_OK);
    assert_int_equal(call(&secure.w, &e), AZO_OK);
    assert_int_equal(secure.w.service->connections, 1);
    secure.records_left = FLOOD_RECORDS;
    run(&secure.w, 1); /* it is not asked in the millisecond of its answer */
    assert_int_equal(secure.records_left, FLOOD_RECORDS);
    assert_int_equal(call(&secure.w, &e), AZO_OK);
    assert_int_equal(secure.w.service->connections, 2);
    assert_int_equal(open_conns(&secure.w, secure.w.service), 1);
    secure_close();
}

/* Nor one on which more than the answer came, in a record of its own but in the same read. */
static void test_more_than_the_answer(void **state) {
    (void)state;
    azo_error e;
    char answers[1024];
    int len = snprintf(answers, sizeof answers, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", (int)strlen(REPLY),
                       REPLY);
    secure_open();
    secure.tls.record_limit = (size_t)len;
    (void)snprintf(answers + len, sizeof answers - (size_t)len, "HTTP/1.1 404 None\r\nContent-Length: 0\r\n\r\n");
    push(&secure.w, 0, answers);
    assert_int_equal(call(&secure.w, &e), AZO_OK);
    int64_t then = secure.w.net.now;
    azo_request *next = begin(&secure.w);
    assert_int_equal(azo_step(secure.w.client, NULL, 0), AZO_OK);
    assert_int_equal(secure.w.net.now, then);
    assert_int_equal(secure.w.service->connections, 2);
    assert_int_equal(wait_for(&secure.w, next), AZO_OK);
    assert_int_equal(end(next, &e), AZO_OK);
    secure_close();
}

/* Nor is one on which nothing but the end of the body is to come, and that does not. */
static void test_flood_instead_of_an_end(void **state) {
    (void)state;
    listener l;
    azo_error e;
    char stream[2048];
    memset(&l, 0, sizeof l);
    secure_open();
    push_stream(&secure.w, 0, two_deltas, 3, stream, sizeof stream);
    stream[strlen(stream) - 5] = '\0'; /* without the last chunk */
    secure.at = &l;
    secure.records_left = FLOOD_RECORDS;
    begin_stream(&secure.w, &l);
    assert_int_equal(wait_for(&secure.w, l.self), AZO_OK);
    run(&secure.w, 1);
    assert_in_range(secure.records_left, 1, FLOOD_RECORDS - 1);
    assert_int_equal(open_conns(&secure.w, secure.w.service), 0);
    assert_int_equal(end(l.self, &e), AZO_OK);
    assert_int_equal(call(&secure.w, &e), AZO_OK);
    assert_int_equal(secure.w.service->connections, 2);
    secure_close();
}

/* An upload of which the peer takes a part. */
static azo_request *begin_stalled_upload(void) {
    azo_error e;
    azo_raw_desc desc;
    azo_request *request;
    secure.tls.cut.how = SCRIPT_TLS_STALL;
    secure.tls.cut.way = SCRIPT_TLS_UP;
    secure.tls.cut.port = TLS_PORT;
    secure.tls.cut.number = 1;
    secure.tls.cut.at = 10000;
    memset(&desc, 0, sizeof desc);
    desc.path = "/files";
    desc.read_body = read_zeros;
    desc.body_len = 100 * 1024;
    assert_int_equal(azo_raw_begin(secure.w.client, &desc, &request, &e), AZO_OK);
    return request;
}

/* An answer behind the flood is read, though the request cannot be sent on. */
static void test_flood_ahead_of_an_early_answer(void **state) {
    (void)state;
    azo_error e;
    secure_open();
    secure.records_left = FLOOD_RECORDS;
    secure.then = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large";
    int64_t before = secure.w.net.now;
    azo_request *request = begin_stalled_upload();
    assert_int_equal(wait_for(&secure.w, request), AZO_ERR_BAD_REQUEST);
    assert_in_range(secure.w.net.now - before, 0, 100);
    assert_int_equal(azo_raw_end(request, NULL, &e), AZO_ERR_BAD_REQUEST);
    assert_int_equal(e.http_status, 413);
    secure_close();
}

static void ask_to_renegotiate(script_tls_conn *c) {
    if (secure.records_left > 0 && script_tls_cut_reached(c)) {
        secure.records_left--;
        script_tls_serving = true;
        int ret = mbedtls_ssl_renegotiate(&c->ssl); /* HelloRequest */
        script_tls_serving = false;
        assert_true(ret == 0 || ret == MBEDTLS_ERR_SSL_WANT_READ);
    }
}

/* What mbedTLS wants to answer has to wait for its turn: the read waits for the socket to take bytes. */
static void test_wish_to_renegotiate_while_sending(void **state) {
    (void)state;
    azo_error e;
    azo_watch watch;
    secure_open();
    mbedtls_ssl_conf_renegotiation(&secure.tls.config, MBEDTLS_SSL_RENEGOTIATION_ENABLED);
    mbedtls_ssl_conf_renegotiation_enforced(&secure.tls.config, MBEDTLS_SSL_RENEGOTIATION_NOT_ENFORCED);
    secure.tls.on_dry = ask_to_renegotiate;
    secure.records_left = 1;
    azo_request *request = begin_stalled_upload();
    run(&secure.w, 10);
    assert_int_equal(secure.records_left, 0);
    assert_int_equal(azo_wait(secure.w.client, &watch, 1, NULL), 1);
    assert_int_equal(watch.events, AZO_POLL_OUT);
    secure.tls.cut.how = SCRIPT_TLS_UNCUT;
    assert_int_equal(wait_for(&secure.w, request), AZO_OK);
    assert_int_equal(azo_raw_end(request, NULL, &e), AZO_OK);
    assert_int_equal(secure.w.service->requests, 1);
    secure_close();
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
        cmocka_unit_test(test_cancelled_ahead_of_a_failure),
        cmocka_unit_test(test_two_endpoints_one_fetch),
        cmocka_unit_test(test_every_allocation),
        cmocka_unit_test(test_more_allocations),
        cmocka_unit_test(test_stale_ids),
        cmocka_unit_test(test_edge_triggered),
        cmocka_unit_test(test_loop_that_cannot_watch),
        cmocka_unit_test(test_loop_that_cannot_watch_the_rest),
        cmocka_unit_test(test_loop_that_cannot_watch_another),
        cmocka_unit_test(test_retry_after),
        cmocka_unit_test(test_retries_end),
        cmocka_unit_test(test_no_retry_after_a_delta),
        cmocka_unit_test(test_no_retry_of_what_is_retryable_after_a_delta),
        cmocka_unit_test(test_chunks_without_end),
        cmocka_unit_test(test_reuse_and_stale),
        cmocka_unit_test(test_one_stale_connection_is_free),
        cmocka_unit_test(test_connection_that_is_none),
        cmocka_unit_test(test_wishes_of_an_unborn_connection),
        cmocka_unit_test(test_what_a_connection_serves),
        cmocka_unit_test(test_bytes_behind_an_answer),
        cmocka_unit_test(test_connection_close_is_obeyed),
        cmocka_unit_test(test_interim_and_odd_framing),
        cmocka_unit_test(test_early_answer),
        cmocka_unit_test(test_pause_ahead_of_the_end_of_a_body),
        cmocka_unit_test(test_body_that_is_read_wrongly),
        cmocka_unit_test(test_body_without_end),
        cmocka_unit_test(test_time_limits),
        cmocka_unit_test(test_time_limits_of_a_call),
        cmocka_unit_test(test_no_limits),
        cmocka_unit_test(test_transport_that_counts_time),
        cmocka_unit_test(test_old_limit_while_a_token_is_awaited),
        cmocka_unit_test(test_retry_beyond_the_budget),
        cmocka_unit_test(test_pause),
        cmocka_unit_test(test_cancel_at_every_step),
        cmocka_unit_test(test_interrupted),
        cmocka_unit_test(test_blocking_and_stepped_are_equal),
        cmocka_unit_test(test_wrong_end_and_close_with_live_requests),
        cmocka_unit_test(test_body_over_its_limit),
        cmocka_unit_test(test_proxy_that_takes_no_request),
        cmocka_unit_test(test_proxy_that_takes_it_in_pieces),
        cmocka_unit_test(test_proxy_without_memory),
        cmocka_unit_test(test_flood_while_idle),
        cmocka_unit_test(test_more_than_the_answer),
        cmocka_unit_test(test_flood_instead_of_an_end),
        cmocka_unit_test(test_flood_ahead_of_an_early_answer),
        cmocka_unit_test(test_wish_to_renegotiate_while_sending),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
