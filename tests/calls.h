/* calls.h - what the tests of whole calls share: a fake service, a client that is set up for it, and a memory for all
 * that the library shows to people. Include it after defining AZOPENAI_IMPLEMENTATION; once in a program.
 *
 *     world w;
 *     world_open(&w, NULL);            a fake service; w.desc signs in with a client secret, w.options go to the fake
 *     w.desc.max_retries = AZO_OFF;    ... or whatever the test needs
 *     world_start(&w);                 opens w.client (world_begin does all this for the usual world)
 *     expect(&w, chat(&w, "Hi", &reply), AZO_OK);
 *     azo_chat_reply_free(&reply);
 *     world_close(&w);                 also checks the memory, after world_count_memory
 *
 * Every line of the log and every error text goes through show(). The last test of each program is
 * test_no_secret_was_shown, which looks for secrets in all of them. What a test calls a secret has "canary" in it.
 */
#ifndef AZO_TEST_CALLS_H
#define AZO_TEST_CALLS_H

#include "azopenai.h"

#include "support.h"

#include "fake_service.h"

#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum {
    WAIT_MS = 30000,  /* the limit of every wait that should end by itself */
    IN_TIME_MS = 8000 /* what "at once" is on a loaded machine under valgrind */
};

/* ---- what was shown ---- */

static test_notes shown;
static size_t errors_shown;
static size_t lines_shown;

static inline void show(const char *text) {
    test_note_bytes(&shown, text, strlen(text));
    test_note_bytes(&shown, "\n", 1);
}

static inline void show_line(int level, const char *text, void *user_data) {
    (void)user_data;
    assert_true(level >= AZO_LOG_WARN && level <= AZO_LOG_DEBUG);
    assert_null(strpbrk(text, "\r\n"));
    lines_shown++;
    show(text);
}

static inline void show_error(const azo_error *e) {
    if (e->code != AZO_OK) {
        test_sentences(e->message);
        assert_true(e->who != AZO_WHO_NOBODY || e->code == AZO_ERR_CANCELLED);
        errors_shown++;
        show(e->message);
        show(e->detail);
        show(e->service_code);
        show(e->request_id);
    }
}

/* The secrets of the fake service, raw and as they travel, and everything that a test itself calls a canary. */
static inline void test_no_secret_was_shown(void **state) {
    static const char *const secrets[] = {FAKE_CLIENT_SECRET, "a~b.c_d-e%2Bf", "a~b.c_d-e+f", FAKE_API_KEY,
                                          "fake.entra.", "fake.imds.", "canary", "Y2FuYXJ5", "Bearer f", "Bearer c"};
    (void)state;
    assert_true(lines_shown > 0 && errors_shown > 0);
    for (size_t i = 0; i < COUNT(secrets); i++) {
        const char *at = strstr(shown.text, secrets[i]);
        if (at != NULL) {
            const char *start = at;
            while (start > shown.text && start[-1] != '\n') {
                start--;
            }
            fail_msg("\"%s\" was shown: %.*s", secrets[i], (int)strcspn(start, "\n"), start);
        }
    }
    test_notes_free(&shown);
}

/* ---- surroundings ---- */

static inline const char *cert_path(char *out, size_t cap, const char *name) {
    const char *dir = getenv("AZO_TEST_CERTS");
    (void)snprintf(out, cap, "%s/%s", dir != NULL && dir[0] != '\0' ? dir : "build/certs", name);
    return out;
}

/* No setting of this machine may reach the tests. */
static inline int clear_environment(void **state) {
    static const char *const names[] = {
        "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_DEPLOYMENT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN",
        "AZURE_OPENAI_API_VERSION", "OPENAI_API_VERSION", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET",
        "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_AUTHORITY_HOST", "AZURE_POD_IDENTITY_AUTHORITY_HOST",
        "AZURE_TOKEN_CREDENTIALS", "AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT", "MSI_ENDPOINT", "HTTPS_PROXY",
        "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE"};
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        (void)unsetenv(names[i]);
    }
    return 0;
}

static inline int64_t now_ms(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static inline void sleep_ms(int ms) {
    (void)poll(NULL, 0, ms);
}

/* A clock that the test puts forward. */
static int64_t clock_ahead_ms;

static inline int64_t clock_monotonic(void *user_data) {
    (void)user_data;
    return now_ms() + clock_ahead_ms;
}

static inline int64_t clock_unix(void *user_data) {
    (void)user_data;
    return (int64_t)time(NULL) + clock_ahead_ms / 1000;
}

/* ---- a world ---- */

typedef struct world {
    fake *service;
    azo_client_desc desc;
    azo_client *client;
    azo_error error; /* of the last call */
    test_memory memory;
    bool counts_memory;
    char endpoint[64];
    char authority[64];
    char imds[64];
    char ca_file[512];
} world;

/* `options`: NULL, or what the fake is to be; certificates are added where it names none. */
static inline void world_open(world *w, const fake_options *options) {
    char cert[512];
    char key[512];
    fake_options all;
    memset(w, 0, sizeof *w);
    memset(&all, 0, sizeof all);
    if (options != NULL) {
        all = *options;
    }
    if (all.cert_file == NULL) {
        all.cert_file = cert_path(cert, sizeof cert, "server.pem");
        all.key_file = cert_path(key, sizeof key, "server.key");
    }
    w->service = fake_start(&all);
    assert_non_null(w->service);
    (void)snprintf(w->endpoint, sizeof w->endpoint, "%s://localhost:%u", all.plain_service ? "http" : "https",
                   fake_port(w->service, FAKE_SERVICE));
    (void)snprintf(w->authority, sizeof w->authority, "%s://localhost:%u", all.plain_entra ? "http" : "https",
                   fake_port(w->service, FAKE_ENTRA));
    (void)snprintf(w->imds, sizeof w->imds, "http://127.0.0.1:%u", fake_port(w->service, FAKE_IMDS));
    (void)clear_environment(NULL);
    assert_int_equal(setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", w->imds, 1), 0);
    w->desc.endpoint = w->endpoint;
    w->desc.deployment = FAKE_DEPLOYMENT;
    w->desc.credential.kind = AZO_CRED_SECRET;
    w->desc.credential.tenant_id = FAKE_TENANT_ID;
    w->desc.credential.client_id = FAKE_CLIENT_ID;
    w->desc.credential.client_secret = FAKE_CLIENT_SECRET;
    w->desc.credential.authority_host = w->authority;
    w->desc.ca_file = cert_path(w->ca_file, sizeof w->ca_file, "ca.pem");
    w->desc.proxy = "";
    w->desc.total_timeout_ms = WAIT_MS;
    w->desc.logger.line = show_line;
    clock_ahead_ms = 0;
}

/* Everything that the client allocates is counted; blocks are checked for `secret` when they are let go. */
static inline void world_count_memory(world *w, const char *secret) {
    test_memory_open(&w->memory);
    w->memory.secret = secret;
    w->desc.allocator = w->memory.hook;
    w->counts_memory = true;
}

static inline void world_use_key(world *w) {
    memset(&w->desc.credential, 0, sizeof w->desc.credential);
    w->desc.api_key = FAKE_API_KEY;
}

static inline void world_use_imds(world *w) {
    memset(&w->desc.credential, 0, sizeof w->desc.credential);
    w->desc.credential.kind = AZO_CRED_IMDS;
}

static inline void world_use_clock(world *w) {
    w->desc.clock.monotonic_ms = clock_monotonic;
    w->desc.clock.unix_seconds = clock_unix;
}

static inline void world_start(world *w) {
    azo_result r = azo_client_open(&w->desc, &w->client, &w->error);
    if (r != AZO_OK) {
        fail_msg("%s", w->error.message);
    }
}

/* The usual world. `secret`: NULL, or count its memory and look for that in it. */
static inline void world_begin(world *w, const char *secret) {
    world_open(w, NULL);
    if (secret != NULL) {
        world_count_memory(w, secret);
    }
    world_start(w);
}

static inline void world_begin_with_key(world *w) {
    world_open(w, NULL);
    world_use_key(w);
    world_count_memory(w, FAKE_API_KEY);
    world_start(w);
}

/* Another client on the same service. */
static inline void world_restart(world *w) {
    azo_client_close(w->client);
    world_start(w);
}

static inline void world_close(world *w) {
    azo_client_close(w->client);
    fake_stop(w->service);
    if (w->counts_memory) {
        test_memory_close(&w->memory);
    }
    (void)clear_environment(NULL);
}

/* ---- expectations ---- */

static inline void expect_at(const world *w, azo_result got, azo_result want, const char *file, int line) {
    if (got != want) {
        print_error("%s instead of %s: %s (%s)\n", azo_result_name(got), azo_result_name(want), w->error.message,
                    w->error.detail);
        _fail(file, line);
    }
    if (got < 0) {
        assert_int_equal(w->error.code, got);
    }
}

#define expect(w, got, want) expect_at(w, got, want, __FILE__, __LINE__)

static inline void expect_str_at(azo_str got, const char *want, const char *file, int line) {
    if (got.ptr == NULL || strlen(want) != got.len || memcmp(got.ptr, want, got.len) != 0 || got.ptr[got.len] != '\0') {
        print_error("\"%.*s\" instead of \"%s\"\n", (int)got.len, got.ptr != NULL ? got.ptr : "", want);
        _fail(file, line);
    }
}

#define expect_str(got, want) expect_str_at(got, want, __FILE__, __LINE__)

static inline void expect_part_at(const char *got, const char *part, const char *file, int line) {
    if (strstr(got, part) == NULL) {
        print_error("\"%s\" is not in: %s\n", part, got);
        _fail(file, line);
    }
}

#define expect_part(got, part) expect_part_at(got, part, __FILE__, __LINE__)

/* ---- calls ---- */

/* The body of an answer. */
#define CHOICE(text)                                                                                                \
    "{\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":\"assistant\",\"content\":\"" text \
    "\"}}]}"

/* Keeps and shows the error of a call. */
static inline azo_result told(world *w, azo_result r, const azo_error *e) {
    w->error = *e;
    if (r < 0) {
        show_error(e);
    }
    return r;
}

static inline azo_result chat_as(world *w, const azo_chat_desc *desc, azo_chat_reply *reply) {
    azo_error e;
    return told(w, azo_chat(w->client, desc, reply, &e), &e);
}

/* A desc with one message of the user. */
static inline azo_chat_desc chat_desc(const azo_message *message) {
    azo_chat_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.messages = message;
    desc.message_count = 1;
    return desc;
}

static inline azo_result chat(world *w, const char *text, azo_chat_reply *reply) {
    azo_message message = azo_user(text);
    azo_chat_desc desc = chat_desc(&message);
    return chat_as(w, &desc, reply);
}

/* For calls whose reply does not matter. */
static inline azo_result ask(world *w, const char *text) {
    azo_chat_reply reply;
    azo_result r = chat(w, text, &reply);
    azo_chat_reply_free(&reply);
    return r;
}

static inline azo_raw_desc raw_desc(const char *path) {
    azo_raw_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.path = path;
    return desc;
}

static inline azo_result raw_as(world *w, const azo_raw_desc *desc, azo_raw_reply *reply) {
    azo_error e;
    return told(w, azo_raw(w->client, desc, reply, &e), &e);
}

static inline azo_result embed_as(world *w, const azo_embed_desc *desc, azo_embed_reply *reply) {
    azo_error e;
    return told(w, azo_embed(w->client, desc, reply, &e), &e);
}

static inline azo_result token_as(world *w, const azo_token_desc *desc, azo_token_reply *reply) {
    azo_error e;
    return told(w, azo_token(w->client, desc, reply, &e), &e);
}

static inline azo_request *chat_begin(world *w, const azo_chat_desc *desc) {
    azo_request *request = NULL;
    azo_result r = told(w, azo_chat_begin(w->client, desc, &request, &w->error), &w->error);
    expect(w, r, AZO_OK);
    return request;
}

static inline azo_result chat_end(world *w, azo_request *request, azo_chat_reply *reply) {
    azo_error e;
    return told(w, azo_chat_end(request, reply, &e), &e);
}

/* Polls until the request is finished. */
static inline void finish(world *w, const azo_request *request) {
    int64_t end = now_ms() + WAIT_MS;
    while (azo_request_result(request) == AZO_PENDING) {
        assert_true(now_ms() < end);
        assert_int_equal(azo_poll(w->client, 1000), AZO_OK);
    }
}

/* Polls for a while. */
static inline void poll_for(world *w, int ms) {
    int64_t end = now_ms() + ms;
    for (int64_t left = ms; left > 0; left = end - now_ms()) {
        (void)azo_poll(w->client, (int32_t)left);
        if (azo_wait(w->client, NULL, 0, NULL) == 0) {
            sleep_ms(1);
        }
    }
}

/* Polls until something has been counted so often. */
static inline void poll_until(world *w, const int *counter, int at_least) {
    int64_t end = now_ms() + WAIT_MS;
    while (*counter < at_least) {
        assert_true(now_ms() < end);
        poll_for(w, 2);
    }
}

/* ---- a body that is read piece by piece ---- */

typedef struct body_source {
    size_t len;
    size_t calls;
    size_t restarts; /* how often it was asked for offset 0 */
    size_t read;     /* bytes in all */
} body_source;

static inline ptrdiff_t read_source(uint64_t offset, void *buf, size_t cap, void *user_data) {
    body_source *u = (body_source *)user_data;
    size_t left = u->len - (size_t)offset;
    size_t take = left < cap ? left : cap;
    take = take > 5000 ? 5000 : take;
    for (size_t i = 0; i < take; i++) {
        ((unsigned char *)buf)[i] = fake_byte((size_t)offset + i);
    }
    u->calls++;
    u->read += take;
    u->restarts += offset == 0 ? 1 : 0;
    return (ptrdiff_t)take;
}

/* ---- what a stream's callback saw ---- */

typedef struct listener {
    test_notes text;  /* of AZO_EVENT_TEXT */
    test_notes kinds; /* one letter per event, equal ones in a row only once */
    int events;
    int stop_at;  /* the event that is answered with AZO_STOP; 0: none */
    int pause_at; /* the same with AZO_PAUSE; -1: every one */
} listener;

static inline int listen_to(const azo_event *event, void *user_data) {
    static const char letters[] = "?trTFfu.";
    listener *l = (listener *)user_data;
    char letter = event->kind >= 0 && event->kind < (int)sizeof letters - 1 ? letters[event->kind] : '?';
    assert_non_null(event->json.ptr);
    assert_int_equal(event->json.ptr[event->json.len], '\0');
    assert_true(event->text.ptr == NULL || event->text.ptr[event->text.len] == '\0');
    if (event->kind == AZO_EVENT_TEXT) {
        test_note_bytes(&l->text, event->text.ptr, event->text.len);
    }
    if (l->kinds.len == 0 || l->kinds.text[l->kinds.len - 1] != letter) {
        test_note_bytes(&l->kinds, &letter, 1);
    }
    l->events++;
    return l->events == l->stop_at ? AZO_STOP : l->pause_at == -1 || l->events == l->pause_at ? AZO_PAUSE : AZO_GO_ON;
}

/* A desc that streams one message of the user to a listener, who has heard nothing yet. */
static inline azo_chat_desc listener_desc(const azo_message *message, listener *l) {
    azo_chat_desc desc = chat_desc(message);
    memset(l, 0, sizeof *l);
    desc.on_event = listen_to;
    desc.user_data = l;
    return desc;
}

static inline void listener_free(listener *l) {
    test_notes_free(&l->text);
    test_notes_free(&l->kinds);
    memset(l, 0, sizeof *l);
}

#endif
