/* azo.c - the benchmark's calls by this library. */
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "bench.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

static azo_client *open_looped(const bench *b, const char *endpoint, bool with_token, azo_loop loop) {
    char authority[BENCH_URL_SIZE];
    azo_client_desc desc = {0};
    azo_client *client;
    azo_error err;
    desc.endpoint = endpoint;
    desc.deployment = BENCH_DEPLOYMENT;
    desc.ca_file = b->ca_file;
    desc.loop = loop;
    if (with_token) {
        bench_require(b->entra != NULL, "BENCH_ENTRA is not set");
        bench_url(authority, b->entra, "");
        desc.credential.kind = AZO_CRED_SECRET;
        desc.credential.tenant_id = BENCH_TENANT;
        desc.credential.client_id = BENCH_CLIENT;
        desc.credential.client_secret = BENCH_SECRET;
        desc.credential.authority_host = authority;
    } else {
        desc.api_key = BENCH_KEY;
    }
    bench_require(azo_client_open(&desc, &client, &err) == AZO_OK, err.message);
    return client;
}

static azo_client *open_client(const bench *b, const char *endpoint, bool with_token) {
    static const azo_loop none;
    return open_looped(b, endpoint, with_token, none);
}

static const azo_message *messages(void) {
    static azo_message m[2];
    m[0] = azo_system(BENCH_SYSTEM);
    m[1] = azo_user(BENCH_QUESTION);
    return m;
}

static void chat(azo_client *client, bool stream, size_t min_len) {
    azo_chat_desc desc = {0};
    azo_chat_reply reply;
    azo_error err;
    desc.messages = messages();
    desc.message_count = 2;
    desc.stream = stream;
    bench_require(azo_chat(client, &desc, &reply, &err) == AZO_OK, err.message);
    bench_require(reply.text.len >= min_len, "the answer is too short");
    azo_chat_reply_free(&reply);
}

static void cold(const bench *b, bool with_token) {
    char url[BENCH_URL_SIZE];
    long i;
    bench_url(url, b->address, "");
    for (i = 0; i < b->count; i++) {
        azo_client *client = open_client(b, url, with_token);
        chat(client, false, BENCH_ANSWER_MIN);
        azo_client_close(client);
    }
}

static void cold_key(const bench *b) {
    cold(b, false);
}

static void cold_token(const bench *b) {
    cold(b, true);
}

/* As a job that runs again and again does: see examples/cron.c. */
static void cold_state(const bench *b) {
    static char kept[BENCH_MAX_STATE];
    char url[BENCH_URL_SIZE];
    azo_state state;
    azo_error err;
    long i;
    bench_url(url, b->address, "");
    for (i = 0; i < b->count; i++) {
        azo_client *client = open_client(b, url, true);
        size_t len = bench_load(b, kept);
        bench_require(len == 0 || azo_client_import(client, kept, len, &err) == AZO_OK, err.message);
        chat(client, false, BENCH_ANSWER_MIN);
        bench_require(azo_client_export(client, &state, &err) == AZO_OK, err.message);
        bench_store(b, state.bytes.ptr, state.bytes.len);
        azo_state_free(&state);
        azo_client_close(client);
    }
}

static void warm(const bench *b) {
    char url[BENCH_URL_SIZE];
    azo_client *client;
    long i;
    bench_url(url, b->address, "");
    client = open_client(b, url, false);
    chat(client, false, BENCH_ANSWER_MIN);
    bench_start();
    for (i = 0; i < b->count; i++) {
        chat(client, false, BENCH_ANSWER_MIN);
    }
    bench_stop(b->count);
    azo_client_close(client);
}

/* ---- Streams ---- */

static int count_text(const azo_event *event, void *user_data) {
    *(long *)user_data += event->kind == AZO_EVENT_TEXT && event->text.len > 0;
    return AZO_GO_ON;
}

static int note_delay(const azo_event *event, void *user_data) {
    if (event->kind == AZO_EVENT_TEXT) {
        bench_delay(event->text.ptr, event->text.len);
    }
    return count_text(event, user_data);
}

/* A stream from `url`, on the connection that a chat with `first_url` has opened. */
static long one_stream(const bench *b, const char *first_url, const char *url, azo_event_fn on_event) {
    azo_chat_desc desc = {0};
    azo_chat_reply reply;
    azo_client *client = open_client(b, first_url, false);
    azo_error err;
    long seen = 0;
    chat(client, true, 1);
    desc.messages = messages();
    desc.message_count = 2;
    desc.on_event = on_event;
    desc.user_data = &seen;
    desc.call.endpoint = url;
    bench_start();
    bench_require(azo_chat(client, &desc, &reply, &err) == AZO_OK, err.message);
    bench_stop(b->count);
    azo_chat_reply_free(&reply);
    azo_client_close(client);
    return seen;
}

/* One of the peer's, `gap_us` between its events. */
static void peer_stream(const bench *b, long gap_us, azo_event_fn on_event) {
    static const bench_stream first = {1, 1, 0};
    char first_url[BENCH_URL_SIZE];
    char url[BENCH_URL_SIZE];
    bench_stream s = {b->count, 1, gap_us};
    bench_stream_url(first_url, b, first);
    bench_stream_url(url, b, s);
    bench_require(one_stream(b, first_url, url, on_event) == b->count, "events are missing");
}

static void stream(const bench *b) {
    peer_stream(b, 0, count_text);
}

static void delay(const bench *b) {
    peer_stream(b, 1000, note_delay);
    bench_delays_print();
}

static void bulk(const bench *b) {
    char first_url[BENCH_URL_SIZE];
    char url[BENCH_URL_SIZE];
    char path[32];
    (void)snprintf(path, sizeof path, "/bulk/%ld", b->count);
    bench_url(first_url, b->address, "");
    bench_url(url, b->address, path);
    bench_require(one_stream(b, first_url, url, count_text) > 1000 * b->count, "events are missing");
}

static void many(const bench *b) {
    bench_stream s = {BENCH_MANY_EVENTS, b->count, 0};
    char url[BENCH_URL_SIZE];
    azo_chat_desc desc = {0};
    azo_request *request;
    azo_client *client;
    azo_error err;
    long seen = 0;
    long left;
    bench_stream_url(url, b, s);
    client = open_client(b, url, false);
    desc.messages = messages();
    desc.message_count = 2;
    desc.on_event = count_text;
    desc.user_data = &seen;
    bench_start();
    for (left = 0; left < b->count; left++) {
        bench_require(azo_chat_begin(client, &desc, &request, &err) == AZO_OK, err.message);
    }
    while (left > 0) {
        bench_require(azo_poll(client, -1) == AZO_OK, "azo_poll");
        while ((request = azo_next(client)) != NULL) {
            azo_chat_reply reply;
            bench_require(azo_chat_end(request, &reply, &err) == AZO_OK, err.message);
            azo_chat_reply_free(&reply);
            left--;
        }
    }
    bench_stop(b->count);
    bench_require(seen == b->count * BENCH_MANY_EVENTS, "events are missing");
    azo_client_close(client);
}

/* ---- One among others that wait ---- */

/* epoll, as in examples/async.c. */
typedef struct loop {
    int fd;
    int32_t timeout_ms;
} loop;

static int loop_watch(intptr_t fd, unsigned events, uint32_t id, void **slot, void *user_data) {
    loop *l = (loop *)user_data;
    struct epoll_event wish;
    int operation = events == 0 ? EPOLL_CTL_DEL : *slot == NULL ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    memset(&wish, 0, sizeof wish);
    wish.events = EPOLLET;
    wish.events |= (events & AZO_POLL_IN) != 0 ? (uint32_t)EPOLLIN : 0u;
    wish.events |= (events & AZO_POLL_OUT) != 0 ? (uint32_t)EPOLLOUT : 0u;
    wish.data.u32 = id;
    *slot = events == 0 ? NULL : l;
    return epoll_ctl(l->fd, operation, (int)fd, &wish);
}

static void loop_timer(int32_t timeout_ms, void *user_data) {
    ((loop *)user_data)->timeout_ms = timeout_ms;
}

static azo_loop loop_open(loop *l) {
    azo_loop hooks = {l, loop_watch, loop_timer};
    l->fd = epoll_create1(EPOLL_CLOEXEC);
    l->timeout_ms = -1;
    bench_require(l->fd >= 0, "epoll_create1");
    return hooks;
}

enum { MAX_READY = 64 };

/* Waits `max_ms` at most (-1: no limit), and steps; whether something happened, or goes on happening. */
static bool turn(azo_client *client, const loop *l, int32_t max_ms) {
    struct epoll_event events[MAX_READY];
    static azo_watch ready[MAX_READY];
    int32_t wait_ms = max_ms >= 0 && (l->timeout_ms < 0 || l->timeout_ms > max_ms) ? max_ms : l->timeout_ms;
    int count = epoll_wait(l->fd, events, MAX_READY, wait_ms);
    int i;
    bench_require(count >= 0, "epoll_wait");
    for (i = 0; i < count; i++) {
        ready[i].fd = -1;
        ready[i].id = events[i].data.u32;
        ready[i].events = AZO_POLL_IN | AZO_POLL_OUT;
    }
    bench_require(azo_step(client, ready, (size_t)count) == AZO_OK, "azo_step");
    return count > 0 || l->timeout_ms == 0;
}

static azo_request *begin_at(azo_client *client, const char *url, azo_event_fn on_event, void *user_data) {
    azo_chat_desc desc = {0};
    azo_request *request;
    azo_error err;
    desc.messages = messages();
    desc.message_count = 2;
    desc.on_event = on_event;
    desc.user_data = user_data;
    desc.call.endpoint = url;
    bench_require(azo_chat_begin(client, &desc, &request, &err) == AZO_OK, err.message);
    return request;
}

static azo_request **begin_silent(azo_client *client, const char *url, long count) {
    azo_request **requests = (azo_request **)calloc((size_t)count + 1, sizeof *requests);
    long i;
    bench_require(requests != NULL, "memory");
    for (i = 0; i < count; i++) {
        requests[i] = begin_at(client, url, NULL, NULL);
    }
    return requests;
}

/* Of the peer; `l` is NULL where azo_poll is to move it. */
static void stream_beside(const bench *b, azo_client *client, const loop *l, long events) {
    char url[BENCH_URL_SIZE];
    bench_stream s = {events, 1, 10000};
    azo_request *request;
    azo_error err;
    long seen = 0;
    bench_stream_url(url, b, s);
    request = begin_at(client, url, count_text, &seen);
    while (azo_request_result(request) == AZO_PENDING) {
        if (l != NULL) {
            (void)turn(client, l, -1);
        } else {
            bench_require(azo_poll(client, -1) == AZO_OK, "azo_poll");
        }
    }
    bench_require(azo_chat_end(request, NULL, &err) == AZO_OK, err.message);
    bench_require(seen == events, "events are missing");
}

static void beside(const bench *b, azo_client *client, const loop *l) {
    char silent[BENCH_URL_SIZE];
    int listener = bench_listen_silently(silent);
    azo_request **others = begin_silent(client, silent, b->others);
    long i;
    stream_beside(b, client, l, 10); /* meanwhile the others have been sent */
    bench_start();
    stream_beside(b, client, l, b->count);
    bench_stop(b->count);
    azo_client_close(client);
    for (i = 0; i < b->others; i++) {
        azo_request_free(others[i]);
    }
    free(others);
    (void)close(listener);
}

static void step(const bench *b) {
    loop l;
    azo_loop hooks = loop_open(&l);
    beside(b, open_looped(b, "https://unused", false, hooks), &l);
    (void)close(l.fd);
}

static void poll_beside(const bench *b) {
    beside(b, open_client(b, "https://unused", false), NULL);
}

static void begin(const bench *b) {
    loop l;
    char silent[BENCH_URL_SIZE];
    int listener = bench_listen_silently(silent);
    azo_loop hooks = loop_open(&l);
    azo_client *client = open_looped(b, silent, false, hooks);
    azo_request **requests;
    azo_request *ended;
    long left = b->count / 2;
    long i;
    bench_start();
    requests = begin_silent(client, silent, b->count);
    while (turn(client, &l, 20)) {
    }
    for (i = 0; i < b->count; i++) {
        azo_request *one = requests[i * 7919 % b->count]; /* a prime: each comes once */
        if (i % 2 == 0) {
            azo_request_free(one);
        } else {
            azo_request_cancel(one);
        }
    }
    while (left > 0) {
        (void)turn(client, &l, 0);
        while ((ended = azo_next(client)) != NULL) {
            bench_require(azo_chat_end(ended, NULL, NULL) == AZO_ERR_CANCELLED, "a request that was cancelled");
            left--;
        }
    }
    bench_stop(b->count);
    free(requests);
    azo_client_close(client);
    (void)close(l.fd);
    (void)close(listener);
}

/* ---- Embeddings ---- */

/* The first one does not count. */
static void embed(const bench *b, const char *path) {
    static azo_str inputs[BENCH_VECTORS];
    char url[BENCH_URL_SIZE];
    azo_embed_desc desc = {0};
    azo_embed_reply reply;
    azo_client *client;
    azo_error err;
    long i;
    for (i = 0; i < BENCH_VECTORS; i++) {
        inputs[i] = azo_s(BENCH_QUESTION);
    }
    desc.inputs = inputs;
    desc.input_count = BENCH_VECTORS;
    bench_url(url, b->address, path);
    client = open_client(b, url, false);
    for (i = 0; i <= b->count; i++) {
        if (i == 1) {
            bench_start();
        }
        bench_require(azo_embed(client, &desc, &reply, &err) == AZO_OK, err.message);
        bench_require(reply.count == BENCH_VECTORS && reply.dimensions == BENCH_DIMENSIONS, "vectors are missing");
        azo_embed_reply_free(&reply);
    }
    bench_stop(b->count);
    azo_client_close(client);
}

static void embed_text(const bench *b) {
    embed(b, "/text");
}

static void embed_base64(const bench *b) {
    embed(b, "/base64");
}

const bench_mode bench_modes[] = {
    {"cold-key", cold_key},
    {"cold-token", cold_token},
    {"cold-state", cold_state},
    {"warm", warm},
    {"stream", stream},
    {"bulk", bulk},
    {"embed-text", embed_text},
    {"embed-base64", embed_base64},
    {"many", many},
    {"delay", delay},
    {"step", step},
    {"poll", poll_beside},
    {"begin", begin},
    {NULL, NULL},
};
