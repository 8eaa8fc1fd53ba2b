/* torture_tls.c - what can go wrong under TLS: every cut, every allocation, flipped bits and hostile peers.
 *
 * The first half runs in a scripted world (script_tls.h), where each run differs from the others in one byte or one
 * allocation; the second talks to openssl s_server over sockets. AZO_TEST_STRIDE=n takes every n-th position.
 * Needs the certificates of make_certs.sh in $AZO_TEST_CERTS (default build/certs) and openssl in the PATH. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* setenv */
#endif
#include <stddef.h>
#include <mbedtls/version.h>
#if MBEDTLS_VERSION_NUMBER < 0x04000000
#include <mbedtls/ctr_drbg.h>
static int script_random(void *self, unsigned char *out, size_t len);
#define mbedtls_ctr_drbg_random script_random /* see script_tls.h */
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
#include <psa/crypto.h>
#endif

#define SCRIPT_MAX_CONNS 8
#include "script.h"

#include "script_tls.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum {
    SERVICE_PORT = 8443,
    ENTRA_PORT = 8444,
    PLAIN_SERVICE_PORT = 8080,
    TLS_12 = 0x303,
    TLS_13 = 0x304,
    CONNECT_MS = 10000,
    FIRST_BYTE_MS = 20000,
    IDLE_MS = 5000,
    HOLD_OFF_MS = 6000, /* longer than a failed token fetch is not repeated */
    TOTAL_MS = 60000
};

#define REPLY                                                                                                   \
    "{\"id\":\"chatcmpl-1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{" \
    "\"role\":\"assistant\",\"content\":\"Hello\"}}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}"
#define CHUNK(text) "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text "\"}}]}\n\n"
#define LAST "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
#define TOKEN "canary-token"
#define SECRET "canary-secret"
#define PROMPT "canary-prompt"

#if MBEDTLS_VERSION_NUMBER >= 0x03000000 && defined(MBEDTLS_SSL_PROTO_TLS1_3)
#define HAS_TLS13 1
#else
#define HAS_TLS13 0
#endif

/* Every n-th position only: for tools that slow everything down. */
static size_t stride(void) {
    const char *text = getenv("AZO_TEST_STRIDE");
    long n = text != NULL ? strtol(text, NULL, 10) : 1;
    return n > 0 ? (size_t)n : 1;
}

/* Reads a file of the certificates; the caller frees it. */
static azo_str read_cert(const char *name, const char *kind) {
    const char *dir = getenv("AZO_TEST_CERTS");
    char path[512];
    char *text = (char *)malloc(1 << 18);
    (void)snprintf(path, sizeof path, "%s/%s%s", dir != NULL && dir[0] != '\0' ? dir : "build/certs", name, kind);
    FILE *file = fopen(path, "rb");
    if (file == NULL || text == NULL) {
        fail_msg("cannot read %s", path);
    }
    size_t len = fread(text, 1, (1 << 18) - 1, file);
    (void)fclose(file);
    text[len] = '\0';
    return azo_s(text);
}

/* ---- the heap of mbedTLS ----
 *
 * Usual builds of mbedTLS have no hook for their allocator, so the linker puts these two in front of the C library's:
 * link statically with mbedTLS, with -Wl,--wrap=calloc -Wl,--wrap=free. In a program that is linked otherwise
 * __real_calloc is NULL, and the tests that need it are skipped. */

void *__wrap_calloc(size_t count, size_t size);
void __wrap_free(void *ptr);
extern void *__real_calloc(size_t count, size_t size) __attribute__((weak));
extern void __real_free(void *ptr) __attribute__((weak));

enum { HEAP_SLOTS = 1 << 14, HEAP_CALLS = 1 << 17, MPI_GROW_SIZE = 512 };

/* What mbedTLS has for the client, while it is watched. */
typedef struct heap {
    bool watched;
    size_t calls;
    size_t big; /* asked for by mbedtls_mpi_grow */
    bool is_big[HEAP_CALLS];
    size_t fail_at; /* 0: none */
    bool fail_on;   /* and all after it */
    size_t failures;
    size_t live;
    void *blocks[HEAP_SLOTS]; /* open addressing; a block that was freed leaves its tomb */
} heap;

static heap mbedtls_heap;
static char heap_tomb;

/* The slot of a block, or (for NULL) the first that is free from where `ptr` belongs. */
static void **heap_slot(const void *ptr, const void *wanted) {
    size_t at = ((uintptr_t)ptr >> 4) * 0x9e3779b1u % HEAP_SLOTS;
    for (size_t i = 0; i < HEAP_SLOTS; i++) {
        void **slot = &mbedtls_heap.blocks[(at + i) % HEAP_SLOTS];
        if (*slot == wanted || (wanted == NULL && *slot == &heap_tomb)) {
            return slot;
        }
        if (*slot == NULL) {
            return NULL;
        }
    }
    return NULL;
}

void *__wrap_calloc(size_t count, size_t size) {
    heap *h = &mbedtls_heap;
    if (!h->watched || script_tls_serving) {
        return __real_calloc(count, size);
    }
    h->calls++;
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    bool big = (uintptr_t)__builtin_return_address(0) - (uintptr_t)mbedtls_mpi_grow < MPI_GROW_SIZE;
#else
    bool big = true; /* its arithmetic is not public any more: all in steps */
#endif
    h->is_big[h->calls % HEAP_CALLS] = big;
    h->big += big;
    if (h->fail_at != 0 && (h->calls == h->fail_at || (h->fail_on && h->calls > h->fail_at))) {
        h->failures++;
        return NULL;
    }
    void *ptr = __real_calloc(count, size);
    void **slot = heap_slot(ptr, NULL);
    assert_true(ptr != NULL && slot != NULL);
    *slot = ptr;
    h->live++;
    return ptr;
}

void __wrap_free(void *ptr) {
    void **slot = ptr != NULL && mbedtls_heap.live > 0 ? heap_slot(ptr, ptr) : NULL;
    if (slot != NULL) {
        *slot = &heap_tomb;
        mbedtls_heap.live--;
    }
    __real_free(ptr);
}

/* The part of mbedTLS that is for the whole process starts anew, and leaves nothing behind. */
static void heap_without_psa(void) {
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
    mbedtls_psa_crypto_free();
#endif
}

static void heap_watch(size_t fail_at, bool fail_on) {
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    heap_without_psa(); /* 4.x keeps the server's key in there */
#endif
    memset(&mbedtls_heap, 0, sizeof mbedtls_heap);
    mbedtls_heap.watched = true;
    mbedtls_heap.fail_at = fail_at;
    mbedtls_heap.fail_on = fail_on;
}

static void heap_close(void) {
    heap_without_psa();
    mbedtls_heap.watched = false;
    if (mbedtls_heap.live > 0) {
        fail_msg("mbedTLS: %lu blocks leaked", (unsigned long)mbedtls_heap.live);
    }
}

/* ---- the world: Entra ID (or a token provider) and the service (with TLS or without) ---- */

typedef enum answer_kind {
    ANSWER_WHOLE,
    ANSWER_UNTIL_CLOSE,
    ANSWER_STREAM,
    ANSWER_NONE,          /* and the peer has nothing more to say */
    ANSWER_HALF_STREAM,   /* the same after the first delta */
    ANSWER_ENDLESS_STREAM /* the same but for the end of the body, on a connection that is kept */
} answer_kind;

typedef struct call_kind {
    const char *name;
    bool entra_tls;
    bool service_tls;
    answer_kind answer;
} call_kind;

static const call_kind entra_call = {"a token", true, false, ANSWER_WHOLE};
static const call_kind chat_call = {"a chat", false, true, ANSWER_WHOLE};
static const call_kind closing_call = {"a chat until close", false, true, ANSWER_UNTIL_CLOSE};
static const call_kind stream_call = {"a stream", false, true, ANSWER_STREAM};
static const call_kind silent_call = {"a chat without answer", false, true, ANSWER_NONE};
static const call_kind half_call = {"half a stream", false, true, ANSWER_HALF_STREAM};
static const call_kind endless_call = {"a stream without the last chunk", false, true, ANSWER_ENDLESS_STREAM};
static const call_kind cold_call = {"a cold chat", true, true, ANSWER_WHOLE};

typedef struct world {
    script_world net;
    script_tls tls;
    const call_kind *kind;
    azo_client_desc desc;
    azo_client *client;
    test_memory memory;
    azo_error error;
    char heard[64]; /* by the stream's callback */
    char text[64];  /* of the reply */
    int64_t began;
    int64_t took_ms;
    script_peer_entry *tls_peer; /* that the test is about */
    bool resumed;
    size_t shaken_up; /* bytes on its last connection when hands were shaken, */
    size_t shaken_down;
    size_t shaken_calls; /* allocations of mbedTLS by then */
    size_t asked_up;     /* when the service had the whole request, */
    size_t done_down;    /* and at the end */
} world;

static world the_world; /* too large for a stack */
static int tls_version = TLS_12;
static azo_str ec_chain;
static azo_str ec_key;
static azo_str ec_root;

static void entra(script_conn *c, const char *request) {
    assert_non_null(strstr(request, "client_secret=" SECRET));
    script_answer(c, 0, 200, "", "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"" TOKEN "\"}");
}

static azo_result provide(const azo_token_ask *ask, azo_token_answer *answer, void *user_data) {
    (void)user_data;
    if (!ask->abandon) {
        answer->token_len = (size_t)snprintf(answer->token, answer->token_cap, "%s", TOKEN);
        answer->expires_in_s = 3600;
    }
    return AZO_OK;
}

static void send_chunk(script_conn *c, int delay_ms, const char *text) {
    char chunk[512];
    int len = snprintf(chunk, sizeof chunk, "%lx\r\n%s\r\n", (unsigned long)strlen(text), text);
    assert_in_range(len, 1, (int)sizeof chunk - 1);
    script_send(c, delay_ms, chunk);
}

static void service(script_conn *c, const char *request) {
    world *w = (world *)c->peer->state;
    w->asked_up = w->tls.conns[c->fd].up;
    assert_non_null(strstr(request, "Authorization: Bearer " TOKEN "\r\n"));
    assert_non_null(strstr(request, PROMPT));
    switch (w->kind->answer) {
    case ANSWER_WHOLE:
        script_answer(c, 5, 200, "Connection: close\r\n", REPLY);
        break;
    case ANSWER_UNTIL_CLOSE:
        script_send(c, 5, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n");
        script_send(c, 5, REPLY);
        script_end(c, 6, AZO_OK);
        break;
    case ANSWER_NONE:
        break;
    case ANSWER_STREAM:
    case ANSWER_HALF_STREAM:
    case ANSWER_ENDLESS_STREAM:
        script_send(c, 5,
                    w->kind->answer == ANSWER_ENDLESS_STREAM
                        ? "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                          "Transfer-Encoding: chunked\r\n\r\n"
                        : "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
                          "Transfer-Encoding: chunked\r\n\r\n");
        send_chunk(c, 5, CHUNK("Hel"));
        if (w->kind->answer == ANSWER_HALF_STREAM) {
            break;
        }
        send_chunk(c, 15, CHUNK("lo"));
        send_chunk(c, 25, LAST);
        if (w->kind->answer == ANSWER_STREAM) {
            script_send(c, 35, "0\r\n\r\n");
        }
        break;
    }
}

static const script_tls_conn *open_tls_conn(const world *w) {
    for (size_t i = 0; i < SCRIPT_CONNS; i++) {
        if (w->tls.conns[i].plain != NULL) {
            return &w->tls.conns[i];
        }
    }
    return NULL;
}

/* Nothing secret in a line; and the one that says that hands were shaken is a mark. */
static void see_line(int level, const char *line, void *user_data) {
    world *w = (world *)user_data;
    (void)level;
    assert_null(strstr(line, "canary"));
    const script_tls_conn *c = open_tls_conn(w);
    if (strncmp(line, "* TLSv1.", 8) == 0 && c != NULL) {
        w->shaken_up = c->up;
        w->shaken_down = c->down;
        w->shaken_calls = mbedtls_heap.calls;
        w->resumed = strstr(line, "session resumed") != NULL;
    }
}

/* The servers show another certificate from now on. */
static void world_serve(world *w, azo_str chain, azo_str key) {
    if (w->tls.world != NULL) {
        script_tls_close(&w->tls);
    }
    script_tls_open(&w->tls, &w->net, chain, key);
    script_tls_version(&w->tls, tls_version);
    script_tls_port(&w->tls, SERVICE_PORT);
    script_tls_port(&w->tls, ENTRA_PORT);
}

static void world_open(world *w, const call_kind *kind) {
    static const char *const names[] = {"HTTPS_PROXY",
                                        "https_proxy",
                                        "NO_PROXY",
                                        "no_proxy",
                                        "SSL_CERT_FILE",
                                        "AZURE_CLIENT_CERTIFICATE_PATH",
                                        "AZURE_TOKEN_CREDENTIALS",
                                        "OPENAI_API_VERSION",
                                        "AZURE_FEDERATED_TOKEN_FILE"};
    memset(w, 0, sizeof *w);
    for (size_t i = 0; i < COUNT(names); i++) {
        (void)unsetenv(names[i]);
    }
    script_open(&w->net);
    world_serve(w, ec_chain, ec_key);
    script_peer_entry *service_peer = script_peer(&w->net, SERVICE_PORT, service, w);
    script_peer_entry *entra_peer = script_peer(&w->net, ENTRA_PORT, entra, w);
    w->tls_peer = kind->service_tls ? service_peer : entra_peer;
    script_peer(&w->net, PLAIN_SERVICE_PORT, service, w);
    test_memory_open(&w->memory);
    w->memory.secret = SECRET;
    w->kind = kind;
    w->desc.endpoint = kind->service_tls ? "https://localhost:8443" : "http://localhost:8080";
    w->desc.deployment = "gpt";
    if (kind->entra_tls) {
        w->desc.credential.kind = AZO_CRED_SECRET;
        w->desc.credential.tenant_id = "11111111-2222-3333-4444-555555555555";
        w->desc.credential.client_id = "app";
        w->desc.credential.client_secret = SECRET;
        w->desc.credential.authority_host = "https://localhost:8444";
    } else {
        w->desc.token_provider = provide;
    }
    w->desc.ca_pem = ec_root;
    w->desc.proxy = "";
    w->desc.connect_timeout_ms = CONNECT_MS;
    w->desc.first_byte_timeout_ms = FIRST_BYTE_MS;
    w->desc.idle_timeout_ms = IDLE_MS;
    w->desc.total_timeout_ms = TOTAL_MS;
    w->desc.max_retries = AZO_OFF;
    w->desc.transport = w->tls.transport;
    w->desc.clock = w->net.clock;
    w->desc.allocator = w->memory.hook;
    w->desc.logger.line = see_line;
    w->desc.logger.user_data = w;
}

static void world_start(world *w) {
    if (azo_client_open(&w->desc, &w->client, &w->error) != AZO_OK) {
        fail_msg("%s", w->error.message);
    }
}

static void world_close(world *w) {
    azo_client_close(w->client);
    script_tls_close(&w->tls);
    script_close(&w->net);
    test_memory_close(&w->memory);
}

static int hear(const azo_event *event, void *user_data) {
    world *w = (world *)user_data;
    if (event->kind == AZO_EVENT_TEXT) {
        assert_true(strlen(w->heard) + event->text.len < sizeof w->heard);
        strncat(w->heard, event->text.ptr, event->text.len);
    }
    return AZO_GO_ON;
}

static void check_error(const world *w, azo_result r) {
    const azo_error *e = &w->error;
    assert_int_equal(e->code, r);
    if (r == AZO_OK) {
        return;
    }
    test_sentences(e->message);
    assert_int_not_equal(e->who, AZO_WHO_NOBODY);
    assert_null(strstr(e->message, "canary"));
    assert_null(strstr(e->detail, "canary"));
}

/* One call of the world's kind. Whatever happens, what it says of itself must fit together. */
static azo_result call(world *w) {
    azo_chat_desc desc;
    azo_chat_reply reply;
    azo_message message = azo_user(PROMPT);
    memset(&desc, 0, sizeof desc);
    desc.messages = &message;
    desc.message_count = 1;
    bool streamed = w->kind->answer == ANSWER_STREAM || w->kind->answer == ANSWER_HALF_STREAM ||
                    w->kind->answer == ANSWER_ENDLESS_STREAM;
    desc.on_event = streamed ? hear : NULL;
    desc.user_data = w;
    w->heard[0] = '\0';
    w->text[0] = '\0';
    w->shaken_down = 0;
    w->shaken_up = 0;
    w->began = w->net.now;
    azo_result r = azo_chat(w->client, &desc, &reply, &w->error);
    w->took_ms = w->net.now - w->began;
    w->done_down = w->tls.last_down;
    assert_true(reply.text.len < sizeof w->text);
    (void)snprintf(w->text, sizeof w->text, "%.*s", (int)reply.text.len, reply.text.len > 0 ? reply.text.ptr : "");
    azo_chat_reply_free(&reply);
    check_error(w, r);
    if (r == AZO_OK) {
        assert_string_equal(w->text, "Hello");
    }
    if (streamed && r != AZO_ERR_MEMORY) {
        assert_string_equal(w->heard, w->text); /* the partial text is kept */
        assert_true(strncmp("Hello", w->heard, strlen(w->heard)) == 0);
    }
    return r;
}

static void expect(const world *w, azo_result got, azo_result want) {
    if (got != want) {
        fail_msg("%s: %s, not %s: %s", w->kind->name, azo_result_name(got), azo_result_name(want), w->error.message);
    }
}

/* ---- every cut ---- */

static const char *const cut_names[] = {"uncut", "end", "reset", "stall"};

typedef struct cut_runs {
    size_t failed;
    size_t late; /* the call was over before */
} cut_runs;

/* Which limit ends a wait is decided by where the peer fell silent; the clock shows which it was. */
static void check_stall(const world *w, bool shaken) {
    int64_t limit = !shaken ? CONNECT_MS : w->error.stage == AZO_STAGE_BODY ? IDLE_MS : FIRST_BYTE_MS;
    assert_in_range(w->took_ms, limit, limit + 100);
}

/* What the documentation promises of a call that was cut. */
static azo_result cut_result(const world *w, const script_tls_cut *cut) {
    if (w->kind->entra_tls) {
        return AZO_ERR_TOKEN;
    }
    return cut->how == SCRIPT_TLS_STALL ? AZO_ERR_TIMEOUT : w->heard[0] != '\0' ? AZO_ERR_STREAM : AZO_ERR_CLOSED;
}

/* A call whose connection is cut. `whole`: where nothing that matters is lost. */
static void check_cut(world *w, const script_tls_cut *cut, bool whole, cut_runs *runs) {
    size_t connections = w->tls_peer->connections;
    w->tls.cut = *cut;
    azo_result r = call(w);
    azo_result want = whole ? AZO_OK : cut_result(w, cut);
    if (r != want || (!whole && !w->tls.cut.hit)) {
        fail_msg("%s, %s %s at %lu: %s, not %s: %s", w->kind->name, cut->way == SCRIPT_TLS_UP ? "up" : "down",
                 cut_names[cut->how], (unsigned long)cut->at, azo_result_name(r), azo_result_name(want),
                 w->error.message);
    }
    memset(&w->tls.cut, 0, sizeof w->tls.cut);
    runs->failed += !whole;
    runs->late += whole;
    if (whole) {
        return;
    }
    if (w->kind->entra_tls) { /* has limits of its own, and is asked again */
        assert_int_equal(w->error.stage, AZO_STAGE_TOKEN);
        assert_in_range(w->took_ms, 0, TOTAL_MS);
        return;
    }
    azo_stage stage = w->error.stage;
    bool shaken = w->shaken_down > 0;
    assert_int_equal(w->tls_peer->connections, connections + 1); /* nothing was tried again */
    assert_int_equal(w->error.attempts, shaken ? 1 : 0);
    assert_true(shaken ? stage >= AZO_STAGE_SEND && stage <= AZO_STAGE_BODY : stage == AZO_STAGE_TLS);
    if (cut->how == SCRIPT_TLS_STALL) {
        check_stall(w, shaken);
    } else {
        assert_in_range(w->took_ms, 0, 100);
    }
}

/* A handshake on tape, to be played in TLS 1.2 only: in 1.3 mbedTLS has randomness of its own. The first message tells
 * the time, so a tape is good for a second. */
typedef struct recording {
    script_tls_tape tape;
    time_t second;
    size_t ends[2]; /* bytes each way */
} recording;

static void record(recording *r, const call_kind *kind) {
    world *w = &the_world;
    script_tls_tape_free(&r->tape);
    r->second = time(NULL);
    world_open(w, kind);
    w->tls.tape = &r->tape;
    world_start(w);
    expect(w, call(w), AZO_OK);
    r->ends[SCRIPT_TLS_DOWN] = w->shaken_down;
    r->ends[SCRIPT_TLS_UP] = w->shaken_up;
    world_close(w);
}

static void cut_handshake(recording *r, const call_kind *kind, script_tls_cut *cut, cut_runs *runs) {
    world *w = &the_world;
    if (r->second != time(NULL)) {
        record(r, kind);
    }
    for (cut->how = SCRIPT_TLS_END; cut->how <= SCRIPT_TLS_STALL; cut->how++) {
        world_open(w, kind);
        w->tls.tape = tls_version == TLS_12 ? &r->tape : NULL;
        world_start(w);
        cut->port = w->tls_peer->port;
        check_cut(w, cut, false, runs);
        assert_true(w->shaken_down == 0 || (tls_version == TLS_13 && cut->way == SCRIPT_TLS_UP));
        world_close(w);
    }
}

/* Signatures vary by up to three bytes; in TLS 1.3 they are in a record that mbedTLS pads to a multiple of 16. */
static size_t handshake_slack(void) {
    return tls_version == TLS_13 ? 16 + 3 : 3;
}

/* Each byte of a full handshake, both ways, with a new client each time. */
static void cut_handshakes(const call_kind *kind, size_t step) {
    recording r;
    script_tls_cut cut;
    cut_runs runs = {0, 0};
    memset(&r, 0, sizeof r);
    memset(&cut, 0, sizeof cut);
    record(&r, kind);
    for (cut.way = SCRIPT_TLS_DOWN; cut.way <= SCRIPT_TLS_UP; cut.way++) {
        for (cut.at = 0; cut.at + handshake_slack() < r.ends[cut.way]; cut.at += step) {
            cut_handshake(&r, kind, &cut, &runs);
        }
    }
    script_tls_tape_free(&r.tape);
    print_message("# %s: %lu + %lu bytes of handshake, %lu cuts\n", kind->name, (unsigned long)r.ends[0],
                  (unsigned long)r.ends[1], (unsigned long)runs.failed);
}

/* Each byte that follows a resumed handshake, both ways, and with `step` the handshake itself. One client lives
 * through all of it. */
static void cut_resumed(const call_kind *kind, size_t step) {
    script_tls_cut cut;
    cut_runs runs = {0, 0};
    world *w = &the_world;
    memset(&cut, 0, sizeof cut);
    world_open(w, kind);
    script_tls_use_tickets(&w->tls);
    world_start(w);
    expect(w, call(w), AZO_OK);
    expect(w, call(w), AZO_OK);
    assert_true(w->resumed);
    cut.port = w->tls_peer->port;
    const size_t shaken[2] = {w->shaken_down, w->shaken_up};
    const size_t ends[2] = {w->done_down, w->asked_up + 1};
    for (cut.way = SCRIPT_TLS_DOWN; cut.way <= SCRIPT_TLS_UP; cut.way++) {
        cut.at = step != 0 ? 0 : shaken[cut.way];
        while (cut.at <= ends[cut.way]) {
            for (cut.how = SCRIPT_TLS_END; cut.how <= SCRIPT_TLS_STALL; cut.how++) {
                check_cut(w, &cut, cut.at >= ends[cut.way], &runs);
                if (cut.at > shaken[cut.way] || cut.way == SCRIPT_TLS_DOWN) {
                    assert_true(cut.at == shaken[cut.way] || (w->shaken_down > 0) == (cut.at > shaken[cut.way]));
                } /* the client has the last word of this handshake, and may have said it into the void */
                if (w->shaken_down == 0 || tls_version == TLS_13) { /* which may have cost the session */
                    expect(w, call(w), AZO_OK);
                }
            }
            size_t next = cut.at + (cut.at < shaken[cut.way] || tls_version == TLS_13 ? step : stride());
            cut.at = cut.at < ends[cut.way] && next > ends[cut.way] ? ends[cut.way] : next;
        }
    }
    world_close(w);
    print_message("# %s: %lu + %lu bytes, %lu cuts failed it, %lu came too late\n", kind->name, (unsigned long)ends[0],
                  (unsigned long)ends[1], (unsigned long)runs.failed, (unsigned long)runs.late);
}

static void test_cut_handshake(void **state) {
    (void)state;
    cut_handshakes(&chat_call, stride());
}

/* The layer above is another one, that below the same: fewer places will do. */
static void test_cut_token(void **state) {
    (void)state;
    cut_handshakes(&entra_call, 23 * stride());
}

static void test_cut_calls(void **state) {
    (void)state;
    cut_resumed(&chat_call, 7 * stride());
    cut_resumed(&closing_call, 0);
    cut_resumed(&stream_call, 0);
}

/* ---- every allocation ---- */

/* Numbers that mbedTLS gives to a failed allocation as well as to what they are named after. */
static bool hides_memory(int tls_code) {
    static const int codes[] = {
        MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE, /* a digest could not be made, so the other side finds it wrong */
#if MBEDTLS_VERSION_NUMBER < 0x03000000
        MBEDTLS_ERR_SSL_BAD_HS_FINISHED,
        MBEDTLS_ERR_SSL_BAD_HS_SERVER_KEY_EXCHANGE,
#else
        MBEDTLS_ERR_SSL_HANDSHAKE_FAILURE,
        MBEDTLS_ERR_SSL_ILLEGAL_PARAMETER,
#if MBEDTLS_VERSION_NUMBER < 0x04000000
        MBEDTLS_ERR_CTR_DRBG_ENTROPY_SOURCE_FAILED,
#else
        MBEDTLS_ERR_SSL_HW_ACCEL_FAILED, /* whatever goes wrong where TLS 1.2 derives its keys */
#endif
        PSA_ERROR_INSUFFICIENT_ENTROPY,
        -1, /* ERROR_GENERIC_ERROR */
#endif
    };
    size_t i = 0;
    while (i < COUNT(codes) && codes[i] != tls_code) {
        i++;
    }
    return i < COUNT(codes);
}

/* Whether a call with a failed allocation ended as it may: well, if mbedTLS can do without that block; with a memory
 * error; or, where there was memory again afterwards, with what mbedTLS made of it. A signature that it has no memory
 * to check makes an untrusted chain. */
static bool starved_well(const world *w, azo_result r, bool fail_on) {
    const azo_error *e = &w->error;
    bool hidden = (r == AZO_ERR_TLS && hides_memory(e->tls_code)) ||
                  (r == AZO_ERR_TLS_VERIFY && e->tls_verify_flags == MBEDTLS_X509_BADCERT_NOT_TRUSTED);
    return r == AZO_OK || r == AZO_ERR_MEMORY || (hidden && !fail_on);
}

static void expect_starved(const world *w, azo_result r, size_t at, bool fail_on) {
    if (!starved_well(w, r, fail_on)) {
        fail_msg("%s, allocation %lu%s: %s: %s", w->kind->name, (unsigned long)at, fail_on ? " and all behind" : "",
                 azo_result_name(r), w->error.message);
    }
}

/* Fails one allocation of a client's life, or all from there on. */
static void starve(const call_kind *kind, size_t at, bool fail_on) {
    world *w = &the_world;
    world_open(w, kind);
    heap_watch(at, fail_on);
    world_start(w);
    azo_result r = call(w);
    expect_starved(w, r, at, fail_on);
    mbedtls_heap.fail_at = 0;
    w->net.now += HOLD_OFF_MS;
    expect(w, call(w), AZO_OK);
    world_close(w);
    heap_close();
}

/* The same with the server on tape, for those in the handshake; false where that did not end it. */
static bool starve_handshake(const call_kind *kind, recording *r, size_t at) {
    world *w = &the_world;
    if (r->second != time(NULL)) {
        record(r, kind);
    }
    world_open(w, kind);
    w->tls.tape = &r->tape;
    heap_watch(at, false);
    world_start(w);
    azo_result result = call(w);
    bool ended = result == AZO_ERR_MEMORY || result == AZO_ERR_TLS_VERIFY;
    if (ended) {
        expect_starved(w, result, at, false);
    }
    world_close(w);
    heap_close();
    return ended;
}

typedef struct starving {
    const call_kind *kind;
    recording *tape; /* NULL: none */
    size_t arithmetic_step;
    size_t step; /* of those outside of the arithmetic */
    bool after_handshake;
} starving;

/* Those outside of the arithmetic alone and with all behind them; those inside, which are nearly all, in steps. */
static void starve_everywhere(const starving *s) {
    static heap all;
    world *w = &the_world;
    size_t runs = 0;
    size_t outside = 0;
    world_open(w, s->kind);
    heap_watch(0, false);
    world_start(w);
    expect(w, call(w), AZO_OK);
    all = mbedtls_heap;
    world_close(w);
    heap_close();
    for (size_t at = s->after_handshake ? w->shaken_calls : 1; at <= all.calls; at++) {
        bool big = all.is_big[at % HEAP_CALLS];
        if (big && at % s->arithmetic_step == 0) {
            if (s->tape == NULL || !starve_handshake(s->kind, s->tape, at)) {
                starve(s->kind, at, false);
            }
            runs++;
        } else if (!big && outside++ % s->step == 0) {
            starve(s->kind, at, false);
            starve(s->kind, at, true);
            runs += 2;
        }
    }
    print_message("# %s: mbedTLS allocates %lu times, %lu of them for its arithmetic; %lu runs\n", s->kind->name,
                  (unsigned long)all.calls, (unsigned long)all.big, (unsigned long)runs);
}

static void test_tls_allocations(void **state) {
    recording r;
    (void)state;
    if (__real_calloc == NULL) {
        print_message("# not linked with --wrap=calloc,--wrap=free\n");
        skip();
    }
    memset(&r, 0, sizeof r);
    const size_t few = 1 + stride() / 10; /* these are the ones that matter, and not many */
    const starving cases[] = {{&chat_call, &r, 41 * stride(), few, false},
                              {&stream_call, NULL, stride(), few, true},
                              {&cold_call, NULL, 1001 * stride(), 5 * stride(), false}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        starve_everywhere(&cases[i]);
    }
    script_tls_tape_free(&r.tape);
}

/* ---- every allocation of the library's own ---- */

static void starve_library(const call_kind *kind, size_t at, bool fail_on, bool *hit) {
    world *w = &the_world;
    world_open(w, kind);
    w->memory.fail_at = at;
    w->memory.fail_on = fail_on;
    azo_result r = azo_client_open(&w->desc, &w->client, &w->error);
    if (r == AZO_OK) {
        r = call(w);
    }
    *hit = w->memory.failures > 0;
    if (r != AZO_OK && r != AZO_ERR_MEMORY) {
        fail_msg("%s, own allocation %lu: %s: %s", kind->name, (unsigned long)at, azo_result_name(r), w->error.message);
    }
    check_error(w, r);
    w->memory.fail_at = 0;
    if (w->client != NULL) {
        azo_error first = w->error;
        azo_result again = call(w);
        if (again != AZO_OK) {
            fail_msg("%s, own allocation %lu%s: after %s (%s) %s: %s", kind->name, (unsigned long)at,
                     fail_on ? " and all behind" : "", azo_result_name(r), first.message, azo_result_name(again),
                     w->error.message);
        }
    }
    world_close(w);
}

static void test_own_allocations(void **state) {
    static const call_kind *const kinds[] = {&cold_call, &stream_call};
    (void)state;
    for (size_t i = 0; i < COUNT(kinds); i++) {
        size_t runs = 0;
        for (int on = 0; on < 2; on++) {
            bool hit = true;
            for (size_t at = 1; hit; at += stride()) {
                starve_library(kinds[i], at, on != 0, &hit);
                runs++;
            }
        }
        print_message("# %s: %lu runs\n", kinds[i]->name, (unsigned long)runs);
    }
}

/* ---- flipped bits ---- */

/* Altered bytes may cost the call, and time up to the limit, but nothing altered gets through: call() looks at that.
 * Neither does a call try again by itself here. */
static bool flip_once(world *w, size_t at, unsigned bit) {
    w->tls.cut.port = w->tls_peer->port;
    w->tls.cut.way = SCRIPT_TLS_DOWN;
    w->tls.cut.at = at;
    w->tls.cut.flip = (unsigned char)(1u << bit % 8);
    azo_result r = call(w);
    if (!w->tls.cut.hit || (r != AZO_OK && r != AZO_ERR_TLS && r != AZO_ERR_TLS_VERIFY && r != AZO_ERR_TIMEOUT &&
                            r != AZO_ERR_CLOSED && r != AZO_ERR_STREAM)) {
        fail_msg("%s, byte %lu, bit %u: %s: %s", w->kind->name, (unsigned long)at, bit, azo_result_name(r),
                 w->error.message);
    }
    assert_in_range(w->took_ms, 0, FIRST_BYTE_MS + 100);
    memset(&w->tls.cut, 0, sizeof w->tls.cut);
    return r == AZO_OK;
}

/* The second and third byte of a record, its version: before there are keys nothing vouches for that, and nothing
 * depends on it (RFC 8446 section 5.1 has it ignored). With 4.x, whose random numbers are its own, the record may have
 * begun a little earlier or later than in the recording. */
static bool is_record_version(const script_bytes *down, size_t at) {
    const size_t moved = MBEDTLS_VERSION_NUMBER < 0x04000000 ? 0 : handshake_slack();
    size_t record = 0;
    while (record + 5 + moved <= at) {
        record += 5 + ((size_t)down->bytes[record + 3] << 8 | down->bytes[record + 4]);
    }
    return at + moved >= record + 1 && at <= record + 2 + moved;
}

static void flip_in_handshake(recording *r, const call_kind *kind, size_t at) {
    world *w = &the_world;
    if (r->second != time(NULL)) {
        record(r, kind);
    }
    world_open(w, kind);
    w->tls.tape = tls_version == TLS_12 ? &r->tape : NULL;
    world_start(w);
    (void)flip_once(w, at, (unsigned)at);
    bool past = w->shaken_down > 0;
    world_close(w);
    if (!past) {
        return;
    }
    world_open(w, kind); /* beyond the tape: again with a server that lives */
    world_start(w);
    if (flip_once(w, at, (unsigned)at) && !is_record_version(&r->tape.down, at)) {
        fail_msg("%s: byte %lu was altered, and nobody saw it", kind->name, (unsigned long)at);
    }
    world_close(w);
}

static void flip_handshake(const call_kind *kind, size_t step) {
    recording r;
    size_t runs = 0;
    memset(&r, 0, sizeof r);
    record(&r, kind);
    for (size_t at = 0; at + handshake_slack() < r.ends[SCRIPT_TLS_DOWN]; at += step, runs++) {
        flip_in_handshake(&r, kind, at);
    }
    script_tls_tape_free(&r.tape);
    print_message("# %s: %lu bytes of handshake, %lu flips\n", kind->name, (unsigned long)r.ends[SCRIPT_TLS_DOWN],
                  (unsigned long)runs);
}

static void flip_answer(const call_kind *kind, size_t step) {
    world *w = &the_world;
    size_t runs = 0;
    world_open(w, kind);
    script_tls_use_tickets(&w->tls);
    world_start(w);
    expect(w, call(w), AZO_OK);
    expect(w, call(w), AZO_OK);
    assert_true(w->resumed);
    const size_t from = w->shaken_down;
    const size_t to = w->done_down;
    for (size_t at = from; at < to; at += step) {
        for (unsigned bit = 0; bit < 8; bit++, runs++) {
            if (tls_version == TLS_13) { /* a ticket is good for one connection, and may not have come */
                expect(w, call(w), AZO_OK);
            }
            if (flip_once(w, at, bit)) {
                fail_msg("%s: byte %lu, bit %u was altered, and nobody saw it", kind->name, (unsigned long)at, bit);
            }
        }
    }
    expect(w, call(w), AZO_OK);
    world_close(w);
    print_message("# %s: %lu bytes of answer, %lu flips\n", kind->name, (unsigned long)(to - from),
                  (unsigned long)runs);
}

static void test_flips(void **state) {
    (void)state;
    flip_handshake(&chat_call, stride());
    flip_answer(&chat_call, stride());
    flip_answer(&closing_call, stride());
    flip_answer(&stream_call, stride());
}

/* ---- peers that misbehave after a good handshake ---- */

enum {
    FLOOD = 100000, /* more than any limit should let through, at a millisecond each */
    TURN_MS = 1000  /* a turn counts bytes, and here each of them takes its time */
};

static size_t flooded;

/* One more millisecond has passed, and one more piece of nothing has come. */
static void flood(script_tls_conn *c) {
    c->tls->world->now++;
    if (++flooded > FLOOD) {
        fail_msg("the client took %d pieces of nothing and never looked at its clock", (int)FLOOD);
    }
}

static void ask_to_renegotiate(script_tls_conn *c) {
    script_tls_serving = true;
    int ret = mbedtls_ssl_renegotiate(&c->ssl); /* HelloRequest */
    script_tls_serving = false;
    assert_true(ret == 0 || ret == MBEDTLS_ERR_SSL_WANT_READ);
}

static void flood_renegotiations(script_tls_conn *c) {
    flood(c);
    ask_to_renegotiate(c);
}

static void warn(script_tls_conn *c) {
    enum { NO_CERTIFICATE_NEEDED = 41 };
    script_tls_serving = true;
    int ret = mbedtls_ssl_send_alert_message(&c->ssl, MBEDTLS_SSL_ALERT_LEVEL_WARNING, NO_CERTIFICATE_NEEDED);
    script_tls_serving = false;
    assert_int_equal(ret, 0);
}

static void flood_warnings(script_tls_conn *c) {
    flood(c);
    warn(c);
}

static void say_nothing(script_tls_conn *c) {
    script_tls_serving = true;
    int ret = mbedtls_ssl_write(&c->ssl, NULL, 0); /* a record with nothing in it */
    script_tls_serving = false;
    assert_int_equal(ret, 0);
}

static void say_nothing_twice(script_tls_conn *c) {
    say_nothing(c);
    say_nothing(c);
}

static void flood_empty_records(script_tls_conn *c) {
    flood(c);
    say_nothing(c);
}

typedef struct misbehaviour {
    const char *name;
    void (*on_ready)(script_tls_conn *c);
    void (*on_dry)(script_tls_conn *c);
    size_t record_limit;
    bool harmless;
} misbehaviour;

static void misbehave(const misbehaviour *m, const call_kind *kind) {
    world *w = &the_world;
    world_open(w, kind);
    mbedtls_ssl_conf_renegotiation(&w->tls.config, MBEDTLS_SSL_RENEGOTIATION_ENABLED);
    mbedtls_ssl_conf_renegotiation_enforced(&w->tls.config, MBEDTLS_SSL_RENEGOTIATION_NOT_ENFORCED);
    w->tls.on_ready = m->on_ready;
    w->tls.on_dry = m->on_dry;
    w->tls.record_limit = m->record_limit;
    flooded = 0;
    world_start(w);
    azo_result r = call(w);
    bool good = m->harmless ? r == AZO_OK : r == AZO_ERR_TLS || r == AZO_ERR_TIMEOUT;
    if (!good) {
        fail_msg("%s: %s: %s", m->name, azo_result_name(r), w->error.message);
    }
    assert_in_range(w->took_ms, 0, m->harmless ? 100 : FIRST_BYTE_MS + TURN_MS);
    assert_in_range(w->memory.peak_bytes, 1, 256 * 1024);
    world_close(w);
}

static void test_misbehaviour(void **state) {
    static const misbehaviour cases[] = {
        {"records of one byte", NULL, NULL, 1, true},
        {"records of seven bytes", NULL, NULL, 7, true},
        {"a warning", warn, NULL, 0, true},
        {"an empty record", say_nothing, NULL, 0, true},
        {"two empty records", say_nothing_twice, NULL, 0, true},
        {"one wish to renegotiate", ask_to_renegotiate, NULL, 0, true},
        {"wishes to renegotiate without end", NULL, flood_renegotiations, 0, false},
        {"warnings without end", NULL, flood_warnings, 0, false},
        {"empty records without end", NULL, flood_empty_records, 0, false},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        misbehave(&cases[i], cases[i].harmless ? &chat_call : &silent_call);
        misbehave(&cases[i], cases[i].harmless ? &stream_call : &half_call);
    }
}

static void flood_behind_the_answer(script_tls_conn *c) {
    if (c->tls->world->now >= the_world.began + 25) { /* which is when its last event comes */
        flood_warnings(c);
    }
}

/* The answer is whole, so the call is over; the connection is not kept for one that says nothing without end. */
static void test_nothing_without_end_behind_an_answer(void **state) {
    (void)state;
    world *w = &the_world;
    world_open(w, &endless_call);
    w->tls.on_dry = flood_behind_the_answer;
    flooded = 0;
    world_start(w);
    assert_int_equal(call(w), AZO_OK);
    assert_int_equal(azo_poll(w->client, 0), AZO_OK);
    assert_null(open_tls_conn(w));
    world_close(w);
}

/* ---- peers that are no TLS servers, or bad ones ---- */

typedef struct false_server {
    const char *name;
    const char *bytes; /* said to the first message of the client, */
    size_t len;
    bool again;       /* every millisecond from then on, */
    bool stays;       /* else silence, */
    azo_result want;  /* else the end */
    const char *part; /* of the error's message */
} false_server;

#define BYTES(text) text, sizeof(text) - 1

/* A ServerHello from its record to its session ID, which is empty; `c` and `b` are record and message length. */
#define RANDOM "0123456789abcdef0123456789abcdef"
#define HELLO(version, c, b) "\x16\x03\x03" c "\x02\x00" b version RANDOM "\x00"
#define ECDSA_CHACHA "\xcc\xa9\x00" /* which is offered, without compression */
#define TLS12 "\x03\x03"

static void say_false(script_tls_conn *c) {
    const false_server *f = (const false_server *)c->tls->state;
    bool asked = c->in.len >= 5 && c->in.len >= 5 + ((size_t)c->in.bytes[3] << 8 | c->in.bytes[4]);
    if (asked && c->out.len == 0) {
        script_tls_say(c, f->bytes, f->len);
        c->finished = !f->stays && !f->again;
        c->ready = f->again; /* so that it is asked for more */
    }
}

static void say_false_again(script_tls_conn *c) {
    const false_server *f = (const false_server *)c->tls->state;
    if (f->again) {
        flood(c);
        script_tls_say(c, f->bytes, f->len);
    }
}

static void check_false_server(const false_server *f) {
    world *w = &the_world;
    world_open(w, &chat_call);
    w->tls.on_bytes = say_false;
    w->tls.on_dry = say_false_again;
    w->tls.state = (void *)(uintptr_t)f;
    flooded = 0;
    world_start(w);
    azo_result r = call(w);
    if (r != f->want || strstr(w->error.message, f->part) == NULL) {
        fail_msg("%s: %s: %s", f->name, azo_result_name(r), w->error.message);
    }
    assert_int_equal(w->error.stage, AZO_STAGE_TLS);
    assert_int_equal(w->error.attempts, 0);
    assert_in_range(w->took_ms, 0, CONNECT_MS + TURN_MS);
    assert_in_range(w->memory.peak_bytes, 1, 256 * 1024);
    world_close(w);
}

static const char told_not_tls[] = "is not TLS";
static const char told_failed[] = "failed while shaking hands";
static const char told_no_time[] = "for the TLS handshake";
static const char told_closed[] = "broke while shaking hands";
static const false_server false_servers[] = {
    {"plain HTTP", BYTES("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nThis is a TLS port"), false, false,
     AZO_ERR_TLS, told_not_tls},
    {"a redirect", BYTES("HTTP/1.1 301 Moved\r\nLocation: https://evil.test/\r\nContent-Length: 0\r\n\r\n"), false,
     true, AZO_ERR_TLS, told_not_tls},
    {"SSL 2", BYTES("\x80\x2e\x04\x00\x01\x00\x02\x00\x00\x00\x03\x00\x10" RANDOM), false, true, AZO_ERR_TLS,
     told_not_tls},
    {"NULs", BYTES("\0\0\0\0\0\0\0\0\0\0\0\0"), false, true, AZO_ERR_TLS, told_not_tls},
    {"half a header", BYTES("\x16\x03"), false, false, AZO_ERR_CLOSED, told_closed},
    {"half a header, silence", BYTES("\x16\x03"), false, true, AZO_ERR_TIMEOUT, told_no_time},
    {"a record of 65535 bytes", BYTES("\x16\x03\x03\xff\xff"), false, true, AZO_ERR_TLS, told_failed},
    {"application data", BYTES("\x17\x03\x03\x00\x05Hello"), false, true, AZO_ERR_TLS, told_failed},
    {"a change of keys", BYTES("\x14\x03\x03\x00\x01\x01"), false, true, HAS_TLS13 ? AZO_ERR_TIMEOUT : AZO_ERR_TLS,
     HAS_TLS13 ? told_no_time : told_failed}, /* which TLS 1.3 passes over */
    {"an end", BYTES("\x15\x03\x03\x00\x02\x01\x00"), false, true, AZO_ERR_CLOSED, told_closed},
    {"handshake_failure", BYTES("\x15\x03\x03\x00\x02\x02\x28"), false, true, AZO_ERR_TLS, "(alert 40,"},
    {"warnings for ever", BYTES("\x15\x03\x03\x00\x02\x01\x29"), true, true, AZO_ERR_TIMEOUT, told_no_time},
    {"a message of 16 MB", BYTES("\x16\x03\x03\x00\x08\x02\xff\xff\xff\x03\x03\x00\x00"), true, true, AZO_ERR_TLS,
     told_failed},
    {"TLS 1.1", BYTES(HELLO("\x03\x02", "\x00\x2a", "\x00\x26") "\xc0\x09\x00"), false, true, AZO_ERR_TLS,
     "TLS version (1.2"},
    {"TLS 1.0", BYTES(HELLO("\x03\x01", "\x00\x2a", "\x00\x26") "\xc0\x09\x00"), false, true, AZO_ERR_TLS,
     "TLS version (1.2"},
    {"a suite not offered", BYTES(HELLO(TLS12, "\x00\x2a", "\x00\x26") "\x00\x2f\x00"), false, true, AZO_ERR_TLS,
     told_failed},
    {"no suite", BYTES(HELLO(TLS12, "\x00\x2a", "\x00\x26") "\x00\x00\x00"), false, true, AZO_ERR_TLS, told_failed},
    {"compression", BYTES(HELLO(TLS12, "\x00\x2a", "\x00\x26") "\xcc\xa9\x01"), false, true, AZO_ERR_TLS, told_failed},
    {"a protocol not offered",
     BYTES(HELLO(TLS12, "\x00\x35", "\x00\x31") ECDSA_CHACHA "\x00\x09\x00\x10\x00\x05\x00\x03\x02h2"), false, true,
     AZO_ERR_TLS, told_failed},
    {"two protocols",
     BYTES(HELLO(TLS12, "\x00\x44", "\x00\x40") ECDSA_CHACHA
           "\x00\x18\x00\x10\x00\x14\x00\x12\x08http/1.1\x08http/1.1"),
     false, true, AZO_ERR_TLS, told_failed},
    {"an extension beyond its end", BYTES(HELLO(TLS12, "\x00\x30", "\x00\x2c") ECDSA_CHACHA "\x00\x04\xfa\xfa\xff\xff"),
     false, true, AZO_ERR_TLS, told_failed},
};

static void test_false_servers(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(false_servers); i++) {
        check_false_server(&false_servers[i]);
    }
}

/* An extension that nobody knows and that is as large as a record allows is passed over: the call ends with the
 * connection, not before. */
static void test_huge_extension(void **state) {
    enum { SIZE = 16000 };
    static char hello[5 + 4 + 35 + 3 + 2 + 4 + SIZE];
    static const char head[] = HELLO(TLS12, "\x3e\xb0", "\x3e\xac") ECDSA_CHACHA "\x3e\x84\xfa\xfa\x3e\x80";
    const false_server f = {"a huge extension",         hello, sizeof hello, false, false, AZO_ERR_CLOSED,
                            "broke while shaking hands"};
    (void)state;
    assert_int_equal(sizeof head - 1 + SIZE, sizeof hello);
    memcpy(hello, head, sizeof head - 1);
    check_false_server(&f);
}

/* ---- openssl s_server ---- */

enum { WAIT_MS = 60000, SERVER_LIMIT_MS = 30000 }; /* which nothing here should come near */

typedef struct server {
    pid_t pid;
    int in; /* what is written here it sends; lines of one letter are commands */
    int out;
    unsigned port;
    test_notes said; /* what it received, among its own words */
} server;

static pid_t running; /* so that a test that fails leaves none behind */

static int64_t real_ms(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Reads what it has to say for at most so long; false at the end of its output. */
static bool server_listen(server *s, int ms) {
    char text[4096];
    struct pollfd p = {s->out, POLLIN, 0};
    if (poll(&p, 1, ms) <= 0) {
        return true;
    }
    ssize_t got = read(s->out, text, sizeof text);
    for (ssize_t i = 0; i < got; i++) { /* it prints NULs, too */
        test_note_bytes(&s->said, text[i] != '\0' ? &text[i] : "?", 1);
    }
    return got > 0;
}

static bool server_has_said(const server *s, const char *text) {
    return s->said.text != NULL && strstr(s->said.text, text) != NULL;
}

static void server_wait(server *s, const char *text) {
    int64_t end = real_ms() + WAIT_MS;
    while (!server_has_said(s, text)) {
        if (!server_listen(s, 100) || real_ms() > end) {
            fail_msg("openssl s_server never said \"%s\": %s", text, s->said.text != NULL ? s->said.text : "");
        }
    }
}

/* `options` are separated by single spaces; `cert` names a file, and one with the rest of the chain if there is one. */
static void server_words(char *words, size_t cap, const char *cert, const char *options) {
    const char *given = getenv("AZO_TEST_CERTS");
    const char *dir = given != NULL && given[0] != '\0' ? given : "build/certs";
    char chain[256];
    int len = snprintf(chain, sizeof chain, " -cert_chain %s/%s.chain", dir, cert);
    assert_in_range(len, 1, (int)sizeof chain - 1);
    bool has_chain = access(chain + strlen(" -cert_chain "), R_OK) == 0;
    len = snprintf(words, cap, "openssl s_server -accept 127.0.0.1:0 -naccept 1 -cert %s/%s.pem -key %s/%s.key%s %s",
                   dir, cert, dir, cert, has_chain ? chain : "", options);
    assert_in_range(len, 1, (int)cap - 1);
}

static void server_start(server *s, const char *cert, const char *options) {
    char words[1024];
    char *argv[40];
    size_t argc = 0;
    int in[2];
    int out[2];
    memset(s, 0, sizeof *s);
    server_words(words, sizeof words, cert, options);
    for (char *word = strtok(words, " "); word != NULL && argc + 1 < COUNT(argv); word = strtok(NULL, " ")) {
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (s->pid == 0) {
        (void)dup2(in[0], 0);
        (void)dup2(out[1], 1);
        (void)dup2(out[1], 2);
        for (int fd = 3; fd < 64; fd++) {
            (void)close(fd);
        }
        (void)execvp("openssl", argv);
        _exit(127);
    }
    running = s->pid;
    (void)close(in[0]);
    (void)close(out[1]);
    s->in = in[1];
    s->out = out[0];
    server_wait(s, "ACCEPT 127.0.0.1:");
    while (strchr(strstr(s->said.text, "ACCEPT"), '\n') == NULL && server_listen(s, WAIT_MS)) {
    }
    s->port = (unsigned)strtoul(strstr(s->said.text, "ACCEPT 127.0.0.1:") + 17, NULL, 10);
    assert_in_range(s->port, 1, 65535);
}

static void server_say(const server *s, const char *text) {
    assert_int_equal(write(s->in, text, strlen(text)), (ssize_t)strlen(text));
}

/* It ends with its first connection, having read and told all that came over that. */
static void server_end(server *s) {
    int64_t end = real_ms() + WAIT_MS;
    while (server_listen(s, 100)) {
        assert_true(real_ms() < end);
    }
    (void)waitpid(s->pid, NULL, 0);
    running = 0;
    (void)close(s->in);
    (void)close(s->out);
}

static int end_server(void **state) {
    (void)state;
    if (running > 0) {
        (void)kill(running, SIGKILL);
        (void)waitpid(running, NULL, 0);
        running = 0;
    }
    return 0;
}

/* ---- calls over sockets ---- */

#define API_KEY "canary-api-key"

typedef struct socket_call {
    server server;
    azo_client *client;
    azo_request *request;
    azo_error error;
    azo_result result;
    char text[64];
} socket_call;

static void refuse_secrets(int level, const char *line, void *user_data) {
    (void)level;
    (void)user_data;
    assert_null(strstr(line, "canary"));
}

/* A chat with a server that was started, up to where it has to be polled. */
static void socket_begin(socket_call *c, const char *host, const char *roots) {
    azo_client_desc desc;
    azo_chat_desc chat;
    azo_message message = azo_user(PROMPT);
    char endpoint[128];
    azo_str pem = read_cert(roots, ".pem");
    (void)snprintf(endpoint, sizeof endpoint, "https://%s:%u", host, c->server.port);
    memset(&desc, 0, sizeof desc);
    memset(&chat, 0, sizeof chat);
    desc.endpoint = endpoint;
    desc.deployment = "gpt";
    desc.api_key = API_KEY;
    desc.ca_pem = pem;
    desc.proxy = "";
    desc.max_retries = AZO_OFF;
    desc.total_timeout_ms = SERVER_LIMIT_MS;
    desc.logger.line = refuse_secrets;
    chat.messages = &message;
    chat.message_count = 1;
    if (azo_client_open(&desc, &c->client, &c->error) != AZO_OK ||
        azo_chat_begin(c->client, &chat, &c->request, &c->error) != AZO_OK) {
        fail_msg("%s", c->error.message);
    }
    free((char *)(uintptr_t)pem.ptr);
}

/* Moves the call and listens to the server until it has said `text`, or (NULL) until the call is over. */
static void socket_run(socket_call *c, const char *text) {
    int64_t end = real_ms() + WAIT_MS;
    while (azo_request_result(c->request) == AZO_PENDING && (text == NULL || !server_has_said(&c->server, text))) {
        assert_int_equal(azo_poll(c->client, 10), AZO_OK);
        (void)server_listen(&c->server, 0);
        assert_true(real_ms() < end);
    }
}

static void socket_end(socket_call *c) {
    azo_chat_reply reply;
    socket_run(c, NULL);
    c->result = azo_chat_end(c->request, &reply, &c->error);
    (void)snprintf(c->text, sizeof c->text, "%.*s", (int)reply.text.len, reply.text.len > 0 ? reply.text.ptr : "");
    azo_chat_reply_free(&reply);
    azo_client_close(c->client);
    server_end(&c->server);
    if (c->result != AZO_OK) {
        test_sentences(c->error.message);
        assert_null(strstr(c->error.message, "canary"));
    }
}

static void socket_free(socket_call *c) {
    test_notes_free(&c->server.said);
}

static const char *const http_answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                                       "Content-Length: 177\r\n\r\n" REPLY "\n";

/* ---- certificates that must be refused, and a few that look odd and are fine ---- */

/* mbedTLS has no flag for what it cannot read: critical extensions that it does not know, name constraints among
 * them, and chains of more than eight authorities. */
#define UNREADABLE UINT32_MAX

typedef struct bad_certificate {
    const char *name;
    uint32_t flag;    /* MBEDTLS_X509_BADCERT_x, or UNREADABLE; 0: the call succeeds */
    const char *part; /* of the message */
    const char *roots;
    bool only_tls13; /* openssl does not show it in TLS 1.2 */
} bad_certificate;

/* Neither the request nor any part of it reached the server. */
static void check_nothing_said(const socket_call *c, const char *name) {
    static const char *const words[] = {"canary", "POST", "HTTP/1.1\r", "openai/v1", "api-key:"};
    for (size_t i = 0; i < COUNT(words); i++) {
        if (server_has_said(&c->server, words[i])) {
            fail_msg("%s: the server was told \"%s\"", name, words[i]);
        }
    }
}

static void check_certificate(const bad_certificate *b, const char *version) {
    socket_call c;
    char options[64];
    (void)snprintf(options, sizeof options, "%s -cipher ALL@SECLEVEL=0", version);
    memset(&c, 0, sizeof c);
    server_start(&c.server, b->name, options);
    socket_begin(&c, "localhost", b->roots != NULL ? b->roots : "ec_root");
    socket_run(&c, PROMPT);
    if (b->flag == 0) {
        server_say(&c.server, http_answer);
    }
    socket_end(&c);
    azo_result want = b->flag == 0 ? AZO_OK : AZO_ERR_TLS_VERIFY;
    if (c.result != want || (b->flag != UNREADABLE && (c.error.tls_verify_flags & b->flag) != b->flag) ||
        (b->part != NULL && strstr(c.error.message, b->part) == NULL)) {
        fail_msg("%s: %s (flags 0x%x): %s", b->name, azo_result_name(c.result), (unsigned)c.error.tls_verify_flags,
                 c.error.message);
    }
    if (want == AZO_OK) {
        assert_string_equal(c.text, "Hello");
        assert_true(server_has_said(&c.server, "api-key: " API_KEY)); /* so that not saying it proves something */
    } else {
        check_nothing_said(&c, b->name);
        assert_int_equal(c.error.stage, AZO_STAGE_TLS);
    }
    socket_free(&c);
}

static void test_certificates(void **state) {
    static const bad_certificate cases[] = {
        {"ec_server", 0, NULL, NULL, false},
        {"cn_only", 0, NULL, NULL, false}, /* the last resort of RFC 6125 section 6.4.4 */
        {"other_san", MBEDTLS_X509_BADCERT_CN_MISMATCH, "is for another name", NULL, false}, /* which this is not */
        {"nul_name", MBEDTLS_X509_BADCERT_CN_MISMATCH, "is for another name", NULL, false},
        {"bare_wildcard", MBEDTLS_X509_BADCERT_CN_MISMATCH, "is for another name", NULL, false},
        {"address", MBEDTLS_X509_BADCERT_CN_MISMATCH, "is for another name", NULL, false},
        {"client_only", MBEDTLS_X509_BADCERT_EXT_KEY_USAGE, "is not meant for a server", NULL, false},
        {"encrypt_only", MBEDTLS_X509_BADCERT_KEY_USAGE, "is not meant for a server", NULL, true},
        {"weak_key", MBEDTLS_X509_BADCERT_BAD_KEY, "weak or unusual key", NULL, false},
        {"sha1", MBEDTLS_X509_BADCERT_BAD_MD, "weak or unusual key", NULL, false},
        {"impostor", MBEDTLS_X509_BADCERT_NOT_TRUSTED, "is not trusted", NULL, false},
        {"under_leaf", MBEDTLS_X509_BADCERT_NOT_TRUSTED, "is not trusted", NULL, false},
        {"under_expired", MBEDTLS_X509_BADCERT_EXPIRED, "has expired", NULL, false},
        {"under_expired_root", MBEDTLS_X509_BADCERT_EXPIRED, "has expired", "expired_root", false},
        {"under_short", MBEDTLS_X509_BADCERT_NOT_TRUSTED, "is not trusted", NULL, false},
        {"long_chain", UNREADABLE, "-0x3000", NULL, false},
        {"unknown_critical", UNREADABLE, "The certificate of localhost", NULL, false},
        {"under_narrow", UNREADABLE, "The certificate of localhost", NULL, false},
    };
    size_t runs = 0;
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        for (int tls13 = cases[i].only_tls13; tls13 <= HAS_TLS13; tls13++, runs++) {
            check_certificate(&cases[i], tls13 ? "-tls1_3" : "-tls1_2");
        }
    }
    print_message("# %lu certificates, %lu runs\n", (unsigned long)COUNT(cases), (unsigned long)runs);
}

/* ---- real servers with odd ideas ---- */

typedef struct odd_server {
    const char *name;
    const char *cert;
    const char *options;
    const char *command; /* said to s_server when the request has come; NULL: the answer */
    azo_result want;
    const char *part; /* of the message */
    bool needs_tls13;
} odd_server;

static void check_odd_server(const odd_server *o) {
    socket_call c;
    int64_t start = real_ms();
    memset(&c, 0, sizeof c);
    server_start(&c.server, o->cert, o->options);
    socket_begin(&c, "localhost", "ec_root");
    socket_run(&c, PROMPT);
    if (azo_request_result(c.request) == AZO_PENDING) {
        server_say(&c.server, o->command != NULL ? o->command : http_answer);
    }
    socket_end(&c);
    if (c.result != o->want || strstr(c.error.message, o->part) == NULL) {
        fail_msg("%s: %s: %s", o->name, azo_result_name(c.result), c.error.message);
    }
    assert_in_range(real_ms() - start, 0, WAIT_MS);
    if (o->want == AZO_OK) {
        assert_string_equal(c.text, "Hello");
    } else if (o->command == NULL) {
        check_nothing_said(&c, o->name);
    }
    socket_free(&c);
}

static void test_odd_servers(void **state) {
    static const char nothing_shared[] = "It shares no TLS version";
    enum { in_parts = MBEDTLS_VERSION_NUMBER >= 0x03060300 ? AZO_OK : AZO_ERR_TLS }; /* older ones join no messages */
    static const odd_server servers[] = {
        {"TLS 1.0", "ec_server", "-tls1 -cipher ALL@SECLEVEL=0", NULL, AZO_ERR_TLS, "TLS version (1.2", false},
        {"a key of a kind unknown", "ed25519", "-tls1_2", NULL, AZO_ERR_TLS, nothing_shared, false},
        {"a curve unknown", "ec_server", "-tls1_2 -curves secp256k1", NULL, AZO_ERR_TLS, nothing_shared, false},
        {"no forward secrecy", "server", "-tls1_2 -cipher AES128-GCM-SHA256", NULL, AZO_ERR_TLS, nothing_shared, false},
        {"a hundred certificates", "hundred_chain", "-tls1_2", NULL, AZO_ERR_TLS, "failed while shaking hands", false},
        {"records of 512 bytes", "ec_server", "-max_send_frag 512", NULL, in_parts, "", false},
        {"a certificate asked for, not needed", "ec_server", "-verify 1", NULL, AZO_OK, "", false},
        {"protocols to choose from", "ec_server", "-alpn h2,http/1.1,h3", NULL, AZO_OK, "", false},
        {"renegotiation", "ec_server", "-tls1_2", "R\n", AZO_ERR_TLS, "failed while receiving (alert 40", false},
        {"many tickets", "ec_server", "-tls1_3 -num_tickets 255", NULL, AZO_OK, "", true},
        {"no tickets", "ec_server", "-tls1_3 -num_tickets 0", NULL, AZO_OK, "", true},
        {"new keys", "ec_server", "-tls1_3", "k\n", AZO_ERR_TLS, "failed while receiving", true},
        {"new keys for both", "ec_server", "-tls1_3", "K\n", AZO_ERR_TLS, "failed while receiving", true},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(servers); i++) {
        if (HAS_TLS13 || !servers[i].needs_tls13) {
            check_odd_server(&servers[i]);
        }
    }
}

/* ---- what is tried again ---- */

/* The first connection is cut. A second is made, unless a delta has been heard. False beyond its end. */
static bool cut_and_retry(const script_tls_cut *cut, size_t *again, size_t *never) {
    world *w = &the_world;
    world_open(w, &stream_call);
    w->desc.max_retries = 0; /* the default */
    w->tls.cut = *cut;
    world_start(w);
    azo_result r = call(w);
    bool hit = w->tls.cut.hit;
    size_t connections = w->tls_peer->connections;
    if (r == AZO_OK) {
        bool after_request = cut->way == SCRIPT_TLS_UP && cut->at > w->asked_up; /* only close_notify is cut */
        assert_int_equal(connections, hit && (connections == 2 || !after_request) ? 2 : 1);
        *again += connections == 2;
    } else {
        expect(w, r, cut->how == SCRIPT_TLS_STALL ? AZO_ERR_TIMEOUT : AZO_ERR_STREAM);
        assert_true(hit && connections == 1 && w->heard[0] != '\0');
        assert_int_equal(w->error.attempts, 1);
        ++*never;
    }
    world_close(w);
    return hit;
}

static void test_retries(void **state) {
    script_tls_cut cut;
    size_t again = 0;
    size_t never = 0;
    (void)state;
    memset(&cut, 0, sizeof cut);
    cut.port = SERVICE_PORT;
    cut.number = 1;
    for (cut.way = SCRIPT_TLS_DOWN; cut.way <= SCRIPT_TLS_UP; cut.way++) {
        for (cut.how = SCRIPT_TLS_END; cut.how <= SCRIPT_TLS_STALL; cut.how++) {
            cut.at = 0;
            while (cut_and_retry(&cut, &again, &never)) {
                cut.at += 41 * stride();
            }
        }
    }
    assert_true(again > 0 && (never > 0 || stride() > 1));
    print_message("# %lu cuts were made good by another try, %lu came after a delta\n", (unsigned long)again,
                  (unsigned long)never);
}

/* ---- names ---- */

/* Where the server is called what its certificate does not say, it is told nothing. */
static void check_name(const char *cert, const char *host, bool good) {
    world *w = &the_world;
    char endpoint[128];
    azo_str chain = read_cert(cert, ".pem");
    azo_str key = read_cert(cert, ".key");
    (void)snprintf(endpoint, sizeof endpoint, "https://%s:%d", host, (int)SERVICE_PORT);
    world_open(w, &chat_call);
    world_serve(w, chain, key);
    w->desc.endpoint = endpoint;
    world_start(w);
    azo_result r = call(w);
    if (r != (good ? AZO_OK : AZO_ERR_TLS_VERIFY)) {
        fail_msg("%s for %s: %s: %s", cert, host, azo_result_name(r), w->error.message);
    }
    if (!good) {
        assert_int_equal(w->error.tls_verify_flags, MBEDTLS_X509_BADCERT_CN_MISMATCH);
        assert_non_null(strstr(w->error.message, host));
        assert_int_equal(w->tls.plain_bytes, 0);
    }
    world_close(w);
    free((char *)(uintptr_t)chain.ptr);
    free((char *)(uintptr_t)key.ptr);
}

static void test_names(void **state) {
    (void)state;
    check_name("wildcard", "x.openai.azure.test", true);
    check_name("wildcard", "X.OpenAI.Azure.Test", true);
    check_name("wildcard", "a.b.openai.azure.test", false);
    check_name("wildcard", "openai.azure.test", false);
    check_name("wildcard", "openai.azure.test.evil.test", false);
    check_name("wildcard", "localhost", false);
    check_name("address", "127.0.0.1", MBEDTLS_VERSION_NUMBER >= 0x03000000); /* older ones know names only */
    check_name("address", "127.0.0.2", false);
    check_name("bare_wildcard", "test", false);
}

/* ---- a certificate without its key ---- */

/* Verification is one half; the other is that the server signs with that key. */
static void test_stolen_certificate(void **state) {
    world *w = &the_world;
    azo_str key = read_cert("cn_only", ".key");
    (void)state;
    for (int version = TLS_12; version <= (HAS_TLS13 ? TLS_13 : TLS_12); version++) {
        tls_version = version;
        world_open(w, &chat_call);
        world_serve(w, ec_chain, key);
        world_start(w);
        expect(w, call(w), AZO_ERR_TLS);
        assert_non_null(strstr(w->error.message, "failed while shaking hands"));
        assert_int_equal(w->error.stage, AZO_STAGE_TLS);
        assert_int_equal(w->tls.plain_bytes, 0);
        world_close(w);
    }
    tls_version = TLS_12;
    free((char *)(uintptr_t)key.ptr);
}

/* ---- TLS 1.3 ---- */

static int use_tls13(void **state) {
    (void)state;
    tls_version = TLS_13;
    return 0;
}

static int use_tls12(void **state) {
    (void)state;
    tls_version = TLS_12;
    return 0;
}

static void test_tls13(void **state) {
    (void)state;
    if (!HAS_TLS13) {
        skip();
    }
    cut_handshakes(&chat_call, 29 * stride());
    cut_resumed(&chat_call, 31 * stride());
    cut_resumed(&stream_call, 31 * stride());
    flip_handshake(&chat_call, 11 * stride());
    flip_answer(&stream_call, 41 * stride());
}

static int read_certs(void **state) {
    (void)state;
    ec_chain = read_cert("ec_server", ".pem");
    ec_key = read_cert("ec_server", ".key");
    ec_root = read_cert("ec_root", ".pem");
    return 0;
}

static int free_certs(void **state) {
    (void)state;
    free((char *)(uintptr_t)ec_chain.ptr);
    free((char *)(uintptr_t)ec_key.ptr);
    free((char *)(uintptr_t)ec_root.ptr);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_handshake),
        cmocka_unit_test(test_cut_token),
        cmocka_unit_test(test_cut_calls),
        cmocka_unit_test(test_tls_allocations),
        cmocka_unit_test(test_own_allocations),
        cmocka_unit_test(test_flips),
        cmocka_unit_test(test_retries),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_stolen_certificate),
        cmocka_unit_test_setup_teardown(test_tls13, use_tls13, use_tls12),
        cmocka_unit_test(test_misbehaviour),
        cmocka_unit_test(test_nothing_without_end_behind_an_answer),
        cmocka_unit_test(test_false_servers),
        cmocka_unit_test(test_huge_extension),
        cmocka_unit_test_teardown(test_certificates, end_server),
        cmocka_unit_test_teardown(test_odd_servers, end_server),
    };
    return cmocka_run_group_tests(tests, read_certs, free_certs);
}
