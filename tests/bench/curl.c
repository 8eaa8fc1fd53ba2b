/* curl.c - the benchmark's calls as one writes them with libcurl and cJSON: one easy handle for all calls of a client,
 * lists of headers built once, bodies in one growing buffer, streams parsed as they arrive, curl_multi for many. */
#include "bench.h"

#include <cjson/cJSON.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

typedef struct text {
    char *data;
    size_t len;
    size_t cap;
} text;

static void text_add(text *t, const char *bytes, size_t len) {
    if (t->len + len + 1 > t->cap) {
        t->cap = (t->len + len + 1) * 2;
        t->data = (char *)realloc(t->data, t->cap);
        bench_require(t->data != NULL, "memory");
    }
    memcpy(t->data + t->len, bytes, len);
    t->len += len;
    t->data[t->len] = '\0';
}

static size_t collect(char *bytes, size_t size, size_t count, void *user_data) {
    text_add((text *)user_data, bytes, size * count);
    return size * count;
}

/* ---- Client ---- */

typedef struct client {
    const bench *b;
    CURL *curl;
    struct curl_slist *headers;
    text body;
} client;

static CURL *new_handle(const bench *b) {
    CURL *curl = curl_easy_init();
    bench_require(curl != NULL, "curl_easy_init");
    (void)curl_easy_setopt(curl, CURLOPT_CAINFO, b->ca_file);
    (void)curl_easy_setopt(curl, CURLOPT_CAPATH, NULL); /* with one, the parsed bundle is not shared */
    (void)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    return curl;
}

static void perform(client *c, const char *url, const char *body, curl_write_callback on_data, void *user_data) {
    long status = 0;
    CURLcode result;
    (void)curl_easy_setopt(c->curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, body);
    (void)curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, c->headers);
    (void)curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_data);
    (void)curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, user_data);
    result = curl_easy_perform(c->curl);
    bench_require(result == CURLE_OK, curl_easy_strerror(result));
    (void)curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
    bench_require(status == 200, "the answer is no 200");
}

static const char *string_of(const cJSON *object, const char *name) {
    const char *string = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
    bench_require(string != NULL, "a string is missing");
    return string;
}

/* Makes a token the header of later calls. */
static void use_token(client *c, const char *token, size_t len) {
    text header = {NULL, 0, 0};
    text_add(&header, "Authorization: Bearer ", 22);
    text_add(&header, token, len);
    c->headers = curl_slist_append(NULL, header.data);
    free(header.data);
}

/* Trades the client's secret for a token, which it keeps if `keep`. */
static void sign_in(client *c, bool keep) {
    char url[BENCH_URL_SIZE];
    text form = {NULL, 0, 0};
    static const char fields[] = "grant_type=client_credentials&client_id=" BENCH_CLIENT
                                 "&scope=https%3A%2F%2Fai.azure.com%2F.default&client_secret=";
    char *secret = curl_easy_escape(c->curl, BENCH_SECRET, 0);
    cJSON *json;
    const char *token;
    bench_require(c->b->entra != NULL && secret != NULL, "BENCH_ENTRA is not set");
    bench_url(url, c->b->entra, "/" BENCH_TENANT "/oauth2/v2.0/token");
    text_add(&form, fields, sizeof fields - 1);
    text_add(&form, secret, strlen(secret));
    curl_free(secret);
    c->body.len = 0;
    perform(c, url, form.data, collect, &c->body);
    json = cJSON_ParseWithLength(c->body.data, c->body.len);
    token = string_of(json, "access_token");
    use_token(c, token, strlen(token));
    if (keep) {
        bench_store(c->b, token, strlen(token));
    }
    cJSON_Delete(json);
    free(form.data);
}

typedef enum identity { KEY, TOKEN, KEPT_TOKEN } identity;

static void client_open(client *c, const bench *b, identity who) {
    static char kept[BENCH_MAX_STATE];
    size_t kept_len = who == KEPT_TOKEN ? bench_load(b, kept) : 0;
    memset(c, 0, sizeof *c);
    c->b = b;
    c->curl = new_handle(b);
    if (who == KEY) {
        c->headers = curl_slist_append(NULL, "api-key: " BENCH_KEY);
    } else if (kept_len > 0) {
        use_token(c, kept, kept_len);
    } else {
        sign_in(c, who == KEPT_TOKEN);
    }
    c->headers = curl_slist_append(c->headers, "Content-Type: application/json");
}

static void client_close(client *c) {
    curl_slist_free_all(c->headers);
    curl_easy_cleanup(c->curl);
    free(c->body.data);
}

/* ---- Chat ---- */

static void add_message(cJSON *list, const char *role, const char *content) {
    cJSON *message = cJSON_CreateObject();
    (void)cJSON_AddStringToObject(message, "role", role);
    (void)cJSON_AddStringToObject(message, "content", content);
    (void)cJSON_AddItemToArray(list, message);
}

static char *chat_body(bool stream) {
    cJSON *json = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(json, "messages");
    char *printed;
    (void)cJSON_AddStringToObject(json, "model", BENCH_DEPLOYMENT);
    add_message(list, "system", BENCH_SYSTEM);
    add_message(list, "user", BENCH_QUESTION);
    if (stream) {
        (void)cJSON_AddTrueToObject(json, "stream");
    }
    printed = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    return printed;
}

static const cJSON *first_choice(const cJSON *json) {
    return cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(json, "choices"), 0);
}

static void chat(client *c) {
    char url[BENCH_URL_SIZE];
    char *body = chat_body(false);
    cJSON *json;
    bench_url(url, c->b->address, "/openai/v1/chat/completions");
    c->body.len = 0;
    perform(c, url, body, collect, &c->body);
    json = cJSON_ParseWithLength(c->body.data, c->body.len);
    bench_require(strlen(string_of(cJSON_GetObjectItemCaseSensitive(first_choice(json), "message"), "content")) >=
                      BENCH_ANSWER_MIN,
                  "the answer is too short");
    cJSON_Delete(json);
    free(body);
}

static void cold(const bench *b, identity who) {
    client c;
    long i;
    for (i = 0; i < b->count; i++) {
        (void)curl_global_init(CURL_GLOBAL_DEFAULT);
        client_open(&c, b, who);
        chat(&c);
        client_close(&c);
        curl_global_cleanup();
    }
}

static void cold_key(const bench *b) {
    cold(b, KEY);
}

static void cold_token(const bench *b) {
    cold(b, TOKEN);
}

/* The token alone: libcurl hands no TLS session out before 8.12. */
static void cold_state(const bench *b) {
    cold(b, KEPT_TOKEN);
}

static void warm(const bench *b) {
    client c;
    long i;
    client_open(&c, b, KEY);
    chat(&c);
    bench_start();
    for (i = 0; i < b->count; i++) {
        chat(&c);
    }
    bench_stop(b->count);
    client_close(&c);
}

/* ---- Streams ---- */

typedef struct events {
    text line;
    text answer;
    long count;
    bool with_delay;
} events;

static void take_event(events *e, const char *data, size_t len) {
    cJSON *json = cJSON_ParseWithLength(data, len);
    const cJSON *delta = cJSON_GetObjectItemCaseSensitive(first_choice(json), "delta");
    const char *content = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(delta, "content"));
    if (content != NULL && *content != '\0') {
        size_t content_len = strlen(content);
        if (e->with_delay) {
            bench_delay(content, content_len);
        }
        e->count++;
        text_add(&e->answer, content, content_len);
    }
    cJSON_Delete(json);
}

static void take_line(events *e, const char *line, size_t len) {
    len -= len > 0 && line[len - 1] == '\r';
    if (len > 6 && memcmp(line, "data: ", 6) == 0 && line[6] == '{') {
        take_event(e, line + 6, len - 6);
    }
}

/* Lines that are whole are taken where they are. */
static size_t on_stream(char *bytes, size_t size, size_t count, void *user_data) {
    events *e = (events *)user_data;
    const char *at = bytes;
    size_t left = size * count;
    const char *end;
    while ((end = (const char *)memchr(at, '\n', left)) != NULL) {
        size_t len = (size_t)(end - at);
        if (e->line.len > 0) {
            text_add(&e->line, at, len);
            take_line(e, e->line.data, e->line.len);
            e->line.len = 0;
        } else {
            take_line(e, at, len);
        }
        at = end + 1;
        left -= len + 1;
    }
    if (left > 0) {
        text_add(&e->line, at, left);
    }
    return size * count;
}

static void events_free(events *e) {
    free(e->line.data);
    free(e->answer.data);
}

static void stream_once(client *c, const char *url, events *e) {
    char path[BENCH_URL_SIZE + 32];
    char *body = chat_body(true);
    (void)snprintf(path, sizeof path, "%s/openai/v1/chat/completions", url);
    perform(c, path, body, on_stream, e);
    free(body);
}

/* One stream of `s`, on a connection that one short stream has opened. */
static void one_stream(const bench *b, bench_stream s, events *e) {
    static const bench_stream one = {1, 1, 0};
    char url[BENCH_URL_SIZE];
    events first = {{NULL, 0, 0}, {NULL, 0, 0}, 0, false};
    client c;
    client_open(&c, b, KEY);
    bench_stream_url(url, b, one);
    stream_once(&c, url, &first);
    bench_stream_url(url, b, s);
    bench_start();
    stream_once(&c, url, e);
    bench_stop(s.events);
    bench_require(e->count == s.events, "events are missing");
    events_free(&first);
    events_free(e);
    client_close(&c);
}

static void stream(const bench *b) {
    bench_stream s = {b->count, 1, 0};
    events e = {{NULL, 0, 0}, {NULL, 0, 0}, 0, false};
    one_stream(b, s, &e);
}

static void delay(const bench *b) {
    bench_stream s = {b->count, 1, 1000};
    events e = {{NULL, 0, 0}, {NULL, 0, 0}, 0, true};
    one_stream(b, s, &e);
    bench_delays_print();
}

static void bulk(const bench *b) {
    events e = {{NULL, 0, 0}, {NULL, 0, 0}, 0, false};
    char url[BENCH_URL_SIZE];
    char path[32];
    client c;
    (void)snprintf(path, sizeof path, "/bulk/%ld", b->count);
    bench_url(url, b->address, path);
    client_open(&c, b, KEY);
    chat(&c);
    bench_start();
    stream_once(&c, url, &e);
    bench_stop(b->count);
    bench_require(e.count > 1000 * b->count, "events are missing");
    events_free(&e);
    client_close(&c);
}

typedef struct worker {
    CURL *curl;
    events e;
} worker;

static void start_worker(worker *w, CURLM *multi, client *c, const char *url, const char *body) {
    w->curl = new_handle(c->b);
    (void)curl_easy_setopt(w->curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(w->curl, CURLOPT_POSTFIELDS, body);
    (void)curl_easy_setopt(w->curl, CURLOPT_HTTPHEADER, c->headers);
    (void)curl_easy_setopt(w->curl, CURLOPT_WRITEFUNCTION, on_stream);
    (void)curl_easy_setopt(w->curl, CURLOPT_WRITEDATA, &w->e);
    bench_require(curl_multi_add_handle(multi, w->curl) == CURLM_OK, "curl_multi_add_handle");
}

static void run_all(CURLM *multi) {
    CURLMsg *message;
    int running = 1;
    int queued;
    while (running > 0) {
        bench_require(curl_multi_perform(multi, &running) == CURLM_OK, "curl_multi_perform");
        while ((message = curl_multi_info_read(multi, &queued)) != NULL) {
            bench_require(message->data.result == CURLE_OK, curl_easy_strerror(message->data.result));
        }
        if (running > 0) {
            bench_require(curl_multi_poll(multi, NULL, 0, 1000, NULL) == CURLM_OK, "curl_multi_poll");
        }
    }
}

static void many(const bench *b) {
    bench_stream s = {BENCH_MANY_EVENTS, b->count, 0};
    char base[BENCH_URL_SIZE];
    char url[BENCH_URL_SIZE + 32];
    worker *workers = (worker *)calloc((size_t)b->count, sizeof *workers);
    CURLM *multi;
    char *body;
    client c;
    long i;
    bench_require(workers != NULL, "memory");
    client_open(&c, b, KEY);
    multi = curl_multi_init();
    body = chat_body(true);
    bench_stream_url(base, b, s);
    (void)snprintf(url, sizeof url, "%s/openai/v1/chat/completions", base);
    bench_start();
    for (i = 0; i < b->count; i++) {
        start_worker(&workers[i], multi, &c, url, body);
    }
    run_all(multi);
    bench_stop(b->count);
    for (i = 0; i < b->count; i++) {
        bench_require(workers[i].e.count == BENCH_MANY_EVENTS, "events are missing");
        (void)curl_multi_remove_handle(multi, workers[i].curl);
        curl_easy_cleanup(workers[i].curl);
        events_free(&workers[i].e);
    }
    (void)curl_multi_cleanup(multi);
    free(workers);
    free(body);
    client_close(&c);
}

/* ---- One among others that wait ---- */

/* epoll, as libcurl's manual has it: curl_multi_socket_action. */
typedef struct loop {
    CURLM *multi;
    int fd;
    long timeout_ms;
} loop;

static int loop_watch(CURL *curl, curl_socket_t fd, int what, void *user_data, void *known) {
    loop *l = (loop *)user_data;
    struct epoll_event wish;
    int operation = what == CURL_POLL_REMOVE ? EPOLL_CTL_DEL : known == NULL ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    (void)curl;
    memset(&wish, 0, sizeof wish);
    wish.events |= (what & CURL_POLL_IN) != 0 ? (uint32_t)EPOLLIN : 0u;
    wish.events |= (what & CURL_POLL_OUT) != 0 ? (uint32_t)EPOLLOUT : 0u;
    wish.data.fd = fd;
    (void)epoll_ctl(l->fd, operation, fd, &wish);
    (void)curl_multi_assign(l->multi, fd, what == CURL_POLL_REMOVE ? NULL : l);
    return 0;
}

static int loop_timer(CURLM *multi, long timeout_ms, void *user_data) {
    (void)multi;
    ((loop *)user_data)->timeout_ms = timeout_ms;
    return 0;
}

static void loop_open(loop *l) {
    l->multi = curl_multi_init();
    l->fd = epoll_create1(EPOLL_CLOEXEC);
    l->timeout_ms = -1;
    bench_require(l->multi != NULL && l->fd >= 0, "an event loop");
    (void)curl_multi_setopt(l->multi, CURLMOPT_SOCKETFUNCTION, loop_watch);
    (void)curl_multi_setopt(l->multi, CURLMOPT_SOCKETDATA, l);
    (void)curl_multi_setopt(l->multi, CURLMOPT_TIMERFUNCTION, loop_timer);
    (void)curl_multi_setopt(l->multi, CURLMOPT_TIMERDATA, l);
}

enum { MAX_READY = 64 };

static void turn_loop(loop *l) {
    struct epoll_event ready[MAX_READY];
    int count = epoll_wait(l->fd, ready, MAX_READY, (int)l->timeout_ms);
    int running;
    int i;
    bench_require(count >= 0, "epoll_wait");
    if (count == 0) {
        l->timeout_ms = -1; /* it rings once */
        (void)curl_multi_socket_action(l->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    }
    for (i = 0; i < count; i++) {
        int what = ((ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 ? CURL_CSELECT_IN : 0) |
                   ((ready[i].events & EPOLLOUT) != 0 ? CURL_CSELECT_OUT : 0);
        (void)curl_multi_socket_action(l->multi, ready[i].data.fd, what, &running);
    }
}

static void turn_poll(loop *l) {
    int running;
    (void)curl_multi_poll(l->multi, NULL, 0, 1000, NULL);
    (void)curl_multi_perform(l->multi, &running);
}

/* Of the peer, while the others wait. */
static void stream_beside(client *c, loop *l, void (*turn)(loop *l), long number) {
    bench_stream s = {number, 1, 10000};
    char base[BENCH_URL_SIZE];
    char url[BENCH_URL_SIZE + 32];
    char *body = chat_body(true);
    CURLMsg *message = NULL;
    worker w;
    int queued;
    memset(&w, 0, sizeof w);
    bench_stream_url(base, c->b, s);
    (void)snprintf(url, sizeof url, "%s/openai/v1/chat/completions", base);
    start_worker(&w, l->multi, c, url, body);
    while (message == NULL) {
        turn(l);
        message = curl_multi_info_read(l->multi, &queued);
    }
    bench_require(message->easy_handle == w.curl && message->data.result == CURLE_OK, "the stream");
    bench_require(w.e.count == number, "events are missing");
    (void)curl_multi_remove_handle(l->multi, w.curl);
    curl_easy_cleanup(w.curl);
    events_free(&w.e);
    free(body);
}

static void beside(const bench *b, loop *l, void (*turn)(loop *l)) {
    char silent[BENCH_URL_SIZE];
    int listener = bench_listen_silently(silent);
    worker *others = (worker *)calloc((size_t)b->others + 1, sizeof *others);
    char *body = chat_body(false);
    client c;
    long i;
    bench_require(others != NULL, "memory");
    client_open(&c, b, KEY);
    for (i = 0; i < b->others; i++) {
        start_worker(&others[i], l->multi, &c, silent, body);
    }
    stream_beside(&c, l, turn, 10);
    bench_start();
    stream_beside(&c, l, turn, b->count);
    bench_stop(b->count);
    for (i = 0; i < b->others; i++) {
        (void)curl_multi_remove_handle(l->multi, others[i].curl);
        curl_easy_cleanup(others[i].curl);
    }
    (void)curl_multi_cleanup(l->multi);
    free(others);
    free(body);
    client_close(&c);
    (void)close(listener);
}

static void step(const bench *b) {
    loop l;
    loop_open(&l);
    beside(b, &l, turn_loop);
    (void)close(l.fd);
}

static void poll_beside(const bench *b) {
    loop l = {curl_multi_init(), -1, -1};
    beside(b, &l, turn_poll);
}

/* ---- Embeddings ---- */

static char *embed_body(void) {
    cJSON *json = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(json, "input");
    char *printed;
    long i;
    (void)cJSON_AddStringToObject(json, "model", BENCH_DEPLOYMENT);
    for (i = 0; i < BENCH_VECTORS; i++) {
        (void)cJSON_AddItemToArray(list, cJSON_CreateString(BENCH_QUESTION));
    }
    printed = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    return printed;
}

static void decode_numbers(const cJSON *list, float *vector) {
    const cJSON *number;
    long i = 0;
    cJSON_ArrayForEach(number, list) {
        bench_require(i < BENCH_DIMENSIONS, "a vector is too long");
        vector[i++] = (float)number->valuedouble;
    }
    bench_require(i == BENCH_DIMENSIONS, "a vector is too short");
}

static void decode_base64(const char *digits, float *vector) {
    static unsigned char value[256];
    unsigned char *out = (unsigned char *)vector; /* little-endian, as this machine is */
    size_t left = BENCH_DIMENSIONS * sizeof *vector;
    uint32_t bits = 0;
    int bit_count = 0;
    if (value['B'] == 0) {
        static const char all[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        int i;
        for (i = 0; i < 64; i++) {
            value[(unsigned char)all[i]] = (unsigned char)i;
        }
    }
    for (; *digits != '\0' && *digits != '='; digits++) {
        bits = bits << 6 | value[(unsigned char)*digits];
        bit_count += 6;
        if (bit_count >= 8 && left > 0) {
            bit_count -= 8;
            *out++ = (unsigned char)(bits >> bit_count & 0xff);
            left--;
        }
    }
    bench_require(left == 0, "a vector is too short");
}

static void decode_vectors(const text *body, float *vectors) {
    cJSON *json = cJSON_ParseWithLength(body->data, body->len);
    const cJSON *row;
    long rows = 0;
    cJSON_ArrayForEach(row, cJSON_GetObjectItemCaseSensitive(json, "data")) {
        const cJSON *embedding = cJSON_GetObjectItemCaseSensitive(row, "embedding");
        const cJSON *index = cJSON_GetObjectItemCaseSensitive(row, "index");
        float *vector;
        bench_require(index != NULL && index->valueint >= 0 && index->valueint < BENCH_VECTORS, "a row has no place");
        vector = vectors + (size_t)index->valueint * BENCH_DIMENSIONS;
        if (cJSON_IsString(embedding)) {
            decode_base64(embedding->valuestring, vector);
        } else {
            decode_numbers(embedding, vector);
        }
        rows++;
    }
    bench_require(rows == BENCH_VECTORS, "vectors are missing");
    cJSON_Delete(json);
}

static void embed(const bench *b, const char *prefix) {
    char base[BENCH_URL_SIZE];
    char url[BENCH_URL_SIZE + 32];
    client c;
    long i;
    client_open(&c, b, KEY);
    bench_url(base, b->address, prefix);
    (void)snprintf(url, sizeof url, "%s/openai/v1/embeddings", base);
    for (i = 0; i <= b->count; i++) {
        float *vectors = (float *)malloc(sizeof *vectors * BENCH_VECTORS * BENCH_DIMENSIONS);
        char *body = embed_body();
        if (i == 1) {
            bench_start();
        }
        c.body.len = 0;
        perform(&c, url, body, collect, &c.body);
        decode_vectors(&c.body, vectors);
        free(body);
        free(vectors);
    }
    bench_stop(b->count);
    client_close(&c);
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
    {NULL, NULL},
};
