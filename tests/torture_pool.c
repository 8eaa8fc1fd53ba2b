/* torture_pool.c - a client in one buffer: azo_pool alone against a model of it, tens of thousands of keyless streams
 * inside one buffer, and buffers of every size that is too small. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#define SCRIPT_MAX_CONNS 16
#include "script.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Every n-th only: for tools that slow everything down. */
static size_t stride(void) {
    const char *text = getenv("AZO_TEST_STRIDE");
    long n = text != NULL ? strtol(text, NULL, 10) : 1;
    return n > 0 ? (size_t)n : 1;
}

static uint64_t lot_state;

/* 0 ... below - 1 */
static size_t lot(size_t below) {
    lot_state = lot_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (size_t)(lot_state >> 33) % below;
}

/* ---- the pool alone ---- */

enum { BLOCKS = 40, ROOM = 16384 };

typedef struct model {
    azo_pool pool;
    azo_allocator hook;
    unsigned char *buffer;
    size_t size;
    unsigned char *blocks[BLOCKS];
    size_t sizes[BLOCKS];
    size_t refused;
    size_t most; /* in use at one time */
    uint64_t places; /* a sum over where everything was put */
} model;

static void model_open(model *m, void *buffer, size_t size) {
    memset(m, 0, sizeof *m);
    m->buffer = (unsigned char *)buffer;
    m->size = size;
    m->hook = azo_pool_init(&m->pool, buffer, size);
    assert_int_equal(m->pool.used, 0);
    assert_int_equal(m->pool.peak, 0);
}

static unsigned char model_byte(size_t block, size_t at) {
    return (unsigned char)(block * 37 + at * 11 + 1);
}

static void model_check(const model *m, size_t block, size_t len) {
    for (size_t i = 0; i < len; i++) {
        assert_int_equal(m->blocks[block][i], model_byte(block, i));
    }
}

/* A block that keeps what was in it, lies in the buffer, and is aligned for anything. */
static void model_resize(model *m, size_t block, size_t size) {
    size_t old = m->sizes[block];
    size_t used = m->pool.used;
    model_check(m, block, old);
    unsigned char *got = (unsigned char *)m->hook.resize(m->blocks[block], old, size, m->hook.user_data);
    if (got == NULL && size > 0) {
        m->refused++;
        assert_true(size > old);
        assert_int_equal(m->pool.used, used);
        model_check(m, block, old);
        return;
    }
    assert_true(size > 0 || got == NULL);
    m->blocks[block] = got;
    m->sizes[block] = size;
    if (got == NULL) {
        return;
    }
    assert_true(got >= m->buffer && size <= (size_t)(m->buffer + m->size - got));
    assert_true((size_t)(got + size - m->buffer) <= m->pool.peak && m->pool.peak <= m->size);
    assert_int_equal((uintptr_t)got % sizeof(azoi_gap), 0);
    model_check(m, block, old < size ? old : size);
    for (size_t i = old; i < size; i++) {
        got[i] = model_byte(block, i);
    }
    m->places = m->places * 31 + (uint64_t)(got - m->buffer);
}

static size_t model_used(const model *m) {
    size_t used = 0;
    for (size_t i = 0; i < BLOCKS; i++) {
        used += (m->sizes[i] + sizeof(azoi_gap) - 1) / sizeof(azoi_gap) * sizeof(azoi_gap);
    }
    return used;
}

/* Blocks that come, grow, shrink and go by lot, all gone in the end. */
static void model_run(model *m, uint64_t seed, size_t steps) {
    lot_state = seed;
    for (size_t i = 0; i < steps; i++) {
        size_t block = lot(BLOCKS);
        size_t size = lot(3) == 0 ? 0 : lot(8) == 0 ? lot(ROOM / 4) : lot(200);
        model_resize(m, block, size);
        assert_int_equal(m->pool.used, model_used(m));
        m->most = m->pool.used > m->most ? m->pool.used : m->most;
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        model_check(m, i, m->sizes[i]);
    }
}

static void model_close(model *m) {
    for (size_t i = 0; i < BLOCKS; i++) {
        model_resize(m, (i * 7 + 3) % BLOCKS, 0);
    }
    assert_int_equal(m->pool.used, 0);
    assert_true(m->pool.gaps == NULL || m->pool.gaps->is.next == NULL);
}

static void blocks_keep_what_is_in_them(void **state) {
    test_guard guard;
    model m;
    size_t refused = 0;
    (void)state;
    test_guard_open(&guard, ROOM);
    for (uint64_t seed = 0; seed < 200; seed += stride()) {
        model_open(&m, test_guard_room(&guard, ROOM), ROOM);
        model_run(&m, seed, 1000);
        model_close(&m);
        refused += m.refused;
    }
    assert_true(refused > 0);
    test_guard_close(&guard);
}

/* A buffer of `peak` bytes serves the same calls in the same places; one that holds less than all blocks does not. */
static void the_peak_is_what_a_buffer_needs(void **state) {
    enum { PLENTY = 1 << 20 };
    unsigned char *buffer = (unsigned char *)malloc(PLENTY);
    (void)state;
    assert_non_null(buffer);
    for (uint64_t seed = 0; seed < 50; seed += stride()) {
        model free_one;
        model tight;
        model_open(&free_one, buffer, PLENTY);
        model_run(&free_one, seed, 1000);
        assert_int_equal(free_one.refused, 0);
        model_open(&tight, buffer, free_one.pool.peak);
        model_run(&tight, seed, 1000);
        assert_int_equal(tight.refused, 0);
        assert_int_equal(tight.places, free_one.places);
        assert_int_equal(tight.pool.peak, free_one.pool.peak);
        model_close(&tight);
        model_open(&tight, buffer, free_one.most - 1);
        model_run(&tight, seed, 1000);
        assert_true(tight.refused > 0);
        model_close(&tight);
    }
    free(buffer);
}

static void buffers_of_every_size_and_alignment(void **state) {
    test_guard guard;
    (void)state;
    test_guard_open(&guard, 512);
    for (size_t size = 0; size <= 300; size++) {
        model m;
        model_open(&m, test_guard_room(&guard, size), size);
        model_resize(&m, 0, 1);
        model_resize(&m, 1, 17);
        model_resize(&m, 0, 40);
        assert_true(size < 2 * sizeof(azoi_gap) || m.sizes[0] > 0);
        assert_true(size < 112 + 2 * sizeof(azoi_gap) || m.refused == 0);
        model_close(&m);
    }
    for (size_t skip = 0; skip < 32; skip++) {
        model m;
        model_open(&m, test_guard_room(&guard, 200 + skip), 200);
        model_run(&m, skip, 300);
        model_close(&m);
    }
    test_guard_close(&guard);
}

static void sizes_that_cannot_be(void **state) {
    static unsigned char buffer[1024];
    const size_t sizes[] = {sizeof buffer + 1, PTRDIFF_MAX, SIZE_MAX / 2 + 1, SIZE_MAX - sizeof(azoi_gap), SIZE_MAX - 1,
                            SIZE_MAX};
    model m;
    (void)state;
    model_open(&m, buffer, sizeof buffer);
    model_resize(&m, 0, 100);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        size_t refused = m.refused;
        model_resize(&m, 0, sizes[i]);
        model_resize(&m, 1, sizes[i]);
        assert_int_equal(m.refused, refused + 2);
    }
    assert_null(m.hook.resize(NULL, 0, 0, m.hook.user_data));
    model_close(&m);
    model_open(&m, NULL, 1000);
    model_resize(&m, 0, 1);
    assert_int_equal(m.refused, 1);
    model_close(&m);
}

/* What lies behind a block is taken without moving it, and given back. */
static void blocks_grow_where_they_are(void **state) {
    static unsigned char buffer[1024];
    model m;
    (void)state;
    model_open(&m, buffer, sizeof buffer);
    model_resize(&m, 0, 100);
    model_resize(&m, 1, 100);
    unsigned char *second = m.blocks[1];
    model_resize(&m, 1, 700);
    assert_ptr_equal(m.blocks[1], second);
    model_resize(&m, 1, 10);
    assert_ptr_equal(m.blocks[1], second);
    model_resize(&m, 0, 200);
    assert_true(m.blocks[0] > second);
    model_close(&m);
}

/* ---- a client in a pool ---- */

enum { SERVICE_PORT = 8000, IMDS_PORT = 8001, ENTRA_PORT = 8002, CAP = 1 << 20, MAX_WORDS = 120 };

typedef enum trouble { NONE, BUSY, EXPIRED, CUT, FILTERED, TROUBLES } trouble;

typedef struct board {
    script_world net; /* first: the hooks get its address */
    azo_pool pool;
    azo_client_desc desc;
    azo_client *client;
    unsigned char *buffer;
    size_t words;    /* of the next answers */
    trouble trouble; /* that the next request meets */
    unsigned issued; /* tokens */
    unsigned good;   /* the token that is accepted, if only one is */
    char heard[16384];
    size_t heard_len;
} board;

/* Words that are told apart by their place. */
static const char *word(size_t i) {
    static const char *const words[] = {"sky ", "is \\\"blue\\\" ", "because ", "of \\u00e9ther ", "and\\n", "light "};
    return words[i % COUNT(words)];
}

/* How they are heard. */
static const char *spoken(size_t i) {
    static const char *const words[] = {"sky ", "is \"blue\" ", "because ", "of \xc3\xa9ther ", "and\n", "light "};
    return words[i % COUNT(words)];
}

static void send_chunk(script_conn *c, int64_t delay_ms, const char *body) {
    char text[2048];
    (void)snprintf(text, sizeof text, "%lx\r\n%s\r\n", (unsigned long)strlen(body), body);
    script_send(c, delay_ms, text);
}

static void send_stream(script_conn *c, board *b) {
    char body[1024];
    script_send(c, 5, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nx-request-id: 01234567-89ab\r\n"
                      "Transfer-Encoding: chunked\r\n\r\n");
    for (size_t i = 0; i < b->words;) {
        size_t len = 0;
        for (size_t together = 1 + i % 7; together > 0 && i < b->words; together--, i++) {
            len += (size_t)snprintf(body + len, sizeof body - len,
                                    "data: {\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{"
                                    "\"content\":\"%s\"}}]}\n\n", word(i));
            assert_true(len < sizeof body);
        }
        send_chunk(c, 6 + (int64_t)i, body);
    }
    if (b->trouble == CUT) {
        script_end(c, 200, AZO_ERR_CLOSED);
        return;
    }
    send_chunk(c, 300, "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n");
    send_chunk(c, 301, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n"
                       "data: [DONE]\n\n");
    script_send(c, 302, "0\r\n\r\n");
}

static void serve_chat(script_conn *c, const char *request) {
    board *b = (board *)c->peer->state;
    trouble now = b->trouble;
    const char *bearer = strstr(request, "Bearer pool.token.");
    assert_non_null(bearer);
    b->trouble = NONE;
    if (now == BUSY) {
        script_answer(c, 5, 503, "Retry-After: 1\r\n", "{\"error\":{\"code\":\"busy\",\"message\":\"Later.\"}}");
    } else if (now == EXPIRED) {
        script_answer(c, 5, 401, "", "{\"error\":{\"code\":\"401\",\"message\":\"The token has expired.\"}}");
    } else if (now == FILTERED) {
        script_answer(c, 5, 400, "", "{\"error\":{\"code\":\"content_filter\",\"message\":\"No.\"}}");
    } else {
        b->trouble = now;
        send_stream(c, b);
        b->trouble = NONE;
    }
}

/* The tokens of both are of one length, as they are in life but for some bytes. */
static void serve_token(script_conn *c, const char *request) {
    board *b = (board *)c->peer->state;
    char body[4096];
    bool imds = c->peer->port == IMDS_PORT;
    (void)request;
    (void)snprintf(body, sizeof body, "{\"token_type\":\"Bearer\",\"expires_in\":%s3600%s,\"access_token\":\""
                   "pool.token.%0*u\"}", imds ? "\"" : "", imds ? "\"" : "", 1500, b->issued++);
    script_answer(c, 5, 200, "", body);
}

static int hear(const azo_event *event, void *user_data) {
    board *b = (board *)user_data;
    if (event->kind == AZO_EVENT_TEXT) {
        assert_true(b->heard_len + event->text.len < sizeof b->heard);
        memcpy(b->heard + b->heard_len, event->text.ptr, event->text.len);
        b->heard_len += event->text.len;
    }
    return AZO_GO_ON;
}

static void board_set_up(board *b, bool imds) {
    memset(b, 0, sizeof *b);
    script_open(&b->net);
    (void)script_peer(&b->net, SERVICE_PORT, serve_chat, b);
    (void)script_peer(&b->net, IMDS_PORT, serve_token, b);
    (void)script_peer(&b->net, ENTRA_PORT, serve_token, b);
    assert_int_equal(setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:8001", 1), 0);
    b->buffer = (unsigned char *)malloc(CAP);
    assert_non_null(b->buffer);
    b->words = 10;
    b->desc.endpoint = "http://127.0.0.1:8000";
    b->desc.deployment = "d";
    b->desc.proxy = "";
    b->desc.transport = b->net.transport;
    b->desc.clock = b->net.clock;
    b->desc.credential.kind = imds ? AZO_CRED_IMDS : AZO_CRED_SECRET;
    if (!imds) {
        b->desc.credential.tenant_id = "11111111-2222-3333-4444-555555555555";
        b->desc.credential.client_id = "66666666-7777-8888-9999-000000000000";
        b->desc.credential.client_secret = "canary-secret";
        b->desc.credential.authority_host = "http://127.0.0.1:8002";
    }
}

static azo_result board_open(board *b, size_t size) {
    azo_error e;
    b->desc.allocator = azo_pool_init(&b->pool, b->buffer, size);
    azo_result r = azo_client_open(&b->desc, &b->client, &e);
    assert_int_equal(r, e.code);
    if (r != AZO_OK) {
        assert_int_equal(r, AZO_ERR_MEMORY);
        test_sentences(e.message);
        assert_null(b->client);
        assert_int_equal(b->pool.used, 0);
    }
    return r;
}

static void board_close(board *b) {
    azo_client_close(b->client);
    b->client = NULL;
    assert_int_equal(b->pool.used, 0);
}

static void board_tear_down(board *b) {
    script_close(&b->net);
    free(b->buffer);
    (void)unsetenv("AZURE_POD_IDENTITY_AUTHORITY_HOST");
}

/* The answer is right as far as it got, and whole after a success. */
static void board_check(const board *b, azo_result r, const azo_chat_reply *reply) {
    size_t at = 0;
    for (size_t i = 0; i < b->words && at < b->heard_len; i++) {
        size_t len = strlen(spoken(i));
        len = len < b->heard_len - at ? len : b->heard_len - at;
        assert_memory_equal(b->heard + at, spoken(i), len);
        at += len;
    }
    assert_int_equal(at, b->heard_len);
    if (r == AZO_OK) {
        for (size_t i = 0; i < b->words; i++) {
            at -= strlen(spoken(i));
        }
        assert_int_equal(at, 0);
        assert_int_equal(reply->text.len, b->heard_len);
        assert_memory_equal(reply->text.ptr, b->heard, b->heard_len);
        assert_int_equal(reply->completion_tokens, 2);
    }
}

/* One streamed call with a prompt of so many bytes. */
static azo_result board_chat(board *b, size_t prompt, azo_error *e) {
    static char text[4096];
    azo_message messages[2];
    azo_chat_desc desc;
    azo_chat_reply reply;
    assert_true(prompt < sizeof text);
    memset(text, 'p', prompt);
    text[prompt] = '\0';
    messages[0] = azo_system("Be brief.");
    messages[1] = azo_user(text);
    memset(&desc, 0, sizeof desc);
    desc.messages = messages;
    desc.message_count = COUNT(messages);
    desc.on_event = hear;
    desc.user_data = b;
    b->heard_len = 0;
    azo_result r = azo_chat(b->client, &desc, &reply, e);
    assert_int_equal(r, e->code);
    if (r != AZO_OK) {
        test_sentences(e->message);
    }
    board_check(b, r, &reply);
    azo_chat_reply_free(&reply);
    return r;
}

/* Until idle connections have been given up. */
static void board_rest(board *b, int64_t ms) {
    b->net.now += ms;
    assert_int_equal(azo_step(b->client, NULL, 0), AZO_OK);
}

/* ---- for ever ---- */

static size_t board_connections(const board *b, bool to_service) {
    size_t count = 0;
    for (size_t i = 0; i < SCRIPT_CONNS; i++) {
        const script_conn *c = &b->net.conns[i];
        count += c->open && (c->peer->port == SERVICE_PORT) == to_service;
    }
    return count;
}

/* What is in use between two calls depends on nothing but which connections are kept, and the peak stays where it was
 * after the second token. */
static void the_same_calls_for_ever(void **state) {
    enum { CALLS = 6000, WARM = 200 };
    static board b;
    size_t used[2][2];
    azo_error e;
    size_t peak = 0;
    (void)state;
    for (int imds = 0; imds < 2; imds++) {
        memset(used, 0, sizeof used);
        board_set_up(&b, imds != 0);
        assert_int_equal(board_open(&b, CAP), AZO_OK);
        for (size_t i = 0; i < CALLS; i++) {
            b.words = 30;
            assert_int_equal(board_chat(&b, 100, &e), AZO_OK);
            size_t *known = &used[board_connections(&b, true)][board_connections(&b, false)];
            *known = *known == 0 ? b.pool.used : *known;
            assert_int_equal(b.pool.used, *known);
            peak = i < WARM ? b.pool.peak : peak;
            assert_int_equal(b.pool.peak, peak);
            board_rest(&b, i % 5 == 0 ? 200000 : 2000);
        }
        assert_true(b.issued > 50);
        assert_true(used[1][0] != 0 && used[1][1] != 0);
        board_close(&b);
        board_tear_down(&b);
    }
}

static size_t most_used;

/* Keeps how much is in use at most: no allocator could do with less. */
static void *watched_resize(void *ptr, size_t old_size, size_t new_size, void *user_data) {
    azo_pool *pool = (azo_pool *)user_data;
    void *got = azoi_pool_resize(ptr, old_size, new_size, pool);
    most_used = pool->used > most_used ? pool->used : most_used;
    return got;
}

static bool is_expected(const board *b, trouble met, azo_result r) {
    static const azo_result ends[TROUBLES] = {AZO_OK, AZO_OK, AZO_OK, AZO_ERR_STREAM, AZO_ERR_CONTENT_FILTER};
    bool fresh = met == EXPIRED && r == AZO_ERR_UNAUTHORIZED; /* a token that has just come is not replaced */
    bool again = met == CUT && r == AZO_OK && b->words == 0; /* nothing was delivered, so it is tried again */
    return r == ends[met] || fresh || again;
}

/* Prompts and answers of every size, refusals, retries, cut streams and new tokens, in a buffer that is a quarter
 * larger than what is in use at most. */
static void mixed_calls_for_ever(void **state) {
    enum { CALLS = 12000, SIZE = 84 * 1024 };
    static board b;
    azo_error e;
    (void)state;
    for (int imds = 0; imds < 2; imds++) {
        size_t seen[TROUBLES] = {0};
        board_set_up(&b, imds != 0);
        most_used = 0;
        b.desc.allocator = azo_pool_init(&b.pool, b.buffer, SIZE);
        b.desc.allocator.resize = watched_resize;
        assert_int_equal(azo_client_open(&b.desc, &b.client, &e), AZO_OK);
        lot_state = 1;
        for (size_t i = 0; i < CALLS; i += stride()) {
            trouble met = lot(4) == 0 ? (trouble)lot(TROUBLES) : NONE;
            b.words = lot(MAX_WORDS);
            b.trouble = met;
            azo_result r = board_chat(&b, lot(2000), &e);
            if (!is_expected(&b, met, r)) {
                fail_msg("call %lu, trouble %d: %s", (unsigned long)i, (int)met, e.message);
            }
            seen[met]++;
            board_rest(&b, (int64_t)(lot(3) != 0 ? lot(1000) : lot(400000)));
        }
        assert_true(seen[CUT] > 0 && seen[EXPIRED] > 0 && seen[FILTERED] > 0 && b.issued > 10);
        assert_in_range(b.pool.peak, most_used, most_used + most_used / 4);
        board_close(&b);
        board_tear_down(&b);
    }
}

/* Two clients, whose streams take turns, share one pool. */
static void two_clients_in_one_pool(void **state) {
    static board b;
    azo_client *clients[2];
    azo_error e;
    (void)state;
    board_set_up(&b, true);
    b.desc.allocator = azo_pool_init(&b.pool, b.buffer, CAP);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(azo_client_open(&b.desc, &clients[i], &e), AZO_OK);
    }
    for (size_t round = 0; round < 200; round++) {
        azo_message message = azo_user("Sky?");
        azo_chat_desc desc;
        azo_request *requests[4];
        memset(&desc, 0, sizeof desc);
        desc.messages = &message;
        desc.message_count = 1;
        desc.stream = true;
        for (size_t i = 0; i < 4; i++) {
            assert_int_equal(azo_chat_begin(clients[i % 2], &desc, &requests[i], &e), AZO_OK);
        }
        for (size_t left = 4; left > 0;) {
            left = 0;
            for (size_t i = 0; i < 4; i++) {
                left += azo_request_result(requests[i]) == AZO_PENDING;
                assert_int_equal(azo_poll(clients[i % 2], 1), AZO_OK);
            }
        }
        for (size_t i = 0; i < 4; i++) {
            azo_chat_reply reply;
            assert_int_equal(azo_chat_end(requests[i], &reply, &e), AZO_OK);
            assert_int_equal(reply.completion_tokens, 2);
            azo_chat_reply_free(&reply);
        }
    }
    azo_client_close(clients[0]);
    assert_true(b.pool.used > 0);
    b.client = clients[1];
    assert_int_equal(board_chat(&b, 10, &e), AZO_OK);
    board_close(&b);
    board_tear_down(&b);
}

/* ---- too small ---- */

/* A failure for want of memory, said in the right words, after which nothing is held that was not held before. */
static void board_check_memory_error(const azo_error *e) {
    if (e->code != AZO_ERR_MEMORY || e->who != AZO_WHO_MACHINE) {
        fail_msg("%s: %s", azo_result_name(e->code), e->message);
    }
}

/* Buffers from none to one that is large enough for a client and its call. */
static void buffers_that_are_too_small(void **state) {
    static board b;
    (void)state;
    for (int imds = 0; imds < 2; imds++) {
        azo_error e;
        size_t opened = 0;
        size_t called = 0;
        board_set_up(&b, imds != 0);
        assert_int_equal(board_open(&b, CAP), AZO_OK);
        size_t open_peak = b.pool.peak;
        assert_int_equal(board_chat(&b, 500, &e), AZO_OK);
        size_t call_peak = b.pool.peak;
        board_close(&b);
        for (size_t size = 0; size < call_peak + 16 * stride(); size += 16 * stride()) {
            if (board_open(&b, size) != AZO_OK) {
                assert_true(size < open_peak);
                continue;
            }
            opened++;
            azo_result r = board_chat(&b, 500, &e);
            if (r != AZO_OK) {
                assert_true(size < call_peak);
                board_check_memory_error(&e);
            }
            called += r == AZO_OK;
            assert_true(b.pool.peak <= size);
            board_close(&b);
        }
        assert_true(opened > called && called > 0);
        board_tear_down(&b);
    }
}

enum { PIECE = 512, PIECES = CAP / PIECE };

/* Takes all but so many bytes in pieces, one after the other; returns how many. */
static size_t take_pieces(board *b, void **pieces, size_t size, size_t left) {
    size_t count = 0;
    void *piece = b->pool.gaps;
    while (piece != NULL && b->pool.used + PIECE + left <= size) {
        piece = b->desc.allocator.resize(NULL, 0, PIECE, &b->pool);
        pieces[count] = piece;
        count += piece != NULL;
    }
    return count;
}

/* Memory that somebody else has had in the meantime is missed, and the client works again when it is back. */
static void memory_that_comes_back(void **state) {
    static board b;
    static void *pieces[PIECES];
    (void)state;
    for (int imds = 0; imds < 2; imds++) {
        azo_error e;
        size_t failed = 0;
        board_set_up(&b, imds != 0);
        assert_int_equal(board_open(&b, CAP), AZO_OK);
        assert_int_equal(board_chat(&b, 500, &e), AZO_OK);
        size_t size = b.pool.peak + b.pool.peak / 8;
        board_close(&b);
        assert_int_equal(board_open(&b, size), AZO_OK);
        for (size_t left = 0; left < size; left += 64 * stride()) {
            size_t count = take_pieces(&b, pieces, size, left);
            if (board_chat(&b, 500, &e) != AZO_OK) {
                board_check_memory_error(&e);
                failed++;
            }
            while (count > 0) {
                (void)b.desc.allocator.resize(pieces[--count], PIECE, 0, &b.pool);
            }
            board_rest(&b, 200000); /* past what is remembered of a failure, and past a token now and then */
            if (board_chat(&b, 500, &e) != AZO_OK) {
                fail_msg("all but %lu bytes were taken and given back: %s", (unsigned long)left, e.message);
            }
            board_rest(&b, 40000);
        }
        assert_true(failed > 1);
        board_close(&b);
        board_tear_down(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_keep_what_is_in_them),
        cmocka_unit_test(the_peak_is_what_a_buffer_needs),
        cmocka_unit_test(buffers_of_every_size_and_alignment),
        cmocka_unit_test(sizes_that_cannot_be),
        cmocka_unit_test(blocks_grow_where_they_are),
        cmocka_unit_test(the_same_calls_for_ever),
        cmocka_unit_test(mixed_calls_for_ever),
        cmocka_unit_test(two_clients_in_one_pool),
        cmocka_unit_test(buffers_that_are_too_small),
        cmocka_unit_test(memory_that_comes_back),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
