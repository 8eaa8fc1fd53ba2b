/* azo.c - the benchmark's calls by this library. */
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "bench.h"

static azo_client *open_client(const bench *b, const char *endpoint, bool with_token) {
    char authority[BENCH_URL_SIZE];
    azo_client_desc desc = {0};
    azo_client *client;
    azo_error err;
    desc.endpoint = endpoint;
    desc.deployment = BENCH_DEPLOYMENT;
    desc.ca_file = b->ca_file;
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
    {NULL, NULL},
};
