/* lean.h - what a build with most AZO_NO_x does and refuses, in a scripted world. unit_lean_x.c chooses the options
 * and includes this; with LEAN_RAW there are raw calls. Some keep no connections (AZO_MAX_IDLE_CONNECTIONS). */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZO_NO_STREAM
#define AZO_NO_PROXY
#define AZO_NO_LOG
#define AZO_NO_SENTENCES
#define AZO_NO_EMBED
#ifndef LEAN_RAW
#define AZO_NO_RAW
#endif
#define AZO_NO_HISTORY
#define AZO_NO_STATE
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#include "script.h"

#ifdef AZO_NO_SECRET
#define HAS_SECRET false
#else
#define HAS_SECRET true
#endif
#ifdef AZO_NO_IMDS
#define HAS_IMDS false
#else
#define HAS_IMDS true
#endif

#define COUNT(list) (sizeof(list) / sizeof *(list))

#define SERVICE "http://127.0.0.1:8000"
#define ISSUER "http://127.0.0.1:8001"

typedef struct world {
    script_world net;
    azo_client_desc desc;
    azo_client *client;
    azo_error error;
    script_peer_entry *service;
    script_peer_entry *issuer;
    int status; /* what the service answers; 0: 200; negative: nothing, and hangs up */
    size_t lines;
} world;

/* Entra ID or the metadata service, whichever is asked. */
static void issue(script_conn *c, const char *request) {
    bool is_entra = strstr(request, "POST /tenant/oauth2/v2.0/token ") != NULL;
    assert_true(is_entra ? HAS_SECRET : HAS_IMDS);
    script_answer(c, 1, 200, "", is_entra ? "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"secret\"}"
                                          : "{\"token_type\":\"Bearer\",\"expires_in\":\"3599\","
                                            "\"access_token\":\"managed\"}");
}

static void serve(script_conn *c, const char *request) {
    const world *w = (const world *)c->peer->state;
    if (w->status < 0) {
        script_end(c, 1, AZO_OK);
        return;
    }
    if (w->status > 0) {
        script_answer(c, 1, w->status, "", "{\"error\":{\"code\":\"DeploymentNotFound\",\"message\":\"synthetic\"}}");
        return;
    }
    const char *who = strstr(request, "api-key: ") != NULL          ? "key"
                      : strstr(request, "Bearer secret\r") != NULL  ? "secret"
                      : strstr(request, "Bearer managed\r") != NULL ? "managed"
                                                                    : "nobody";
    char body[256];
    (void)snprintf(body, sizeof body, "{\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":"
                                      "\"assistant\",\"content\":\"%s\"}}]}", who);
    script_answer(c, 1, 200, "", body);
}

static void count_line(int level, const char *text, void *user_data) {
    (void)level;
    (void)text;
    (*(size_t *)user_data)++;
}

static world the_world;

static int open_world(void **state) {
    world *w = &the_world;
    memset(w, 0, sizeof *w);
    script_open(&w->net);
    w->service = script_peer(&w->net, 8000, serve, w);
    w->issuer = script_peer(&w->net, 8001, issue, w);
    w->desc.endpoint = SERVICE;
    w->desc.deployment = "gpt";
    w->desc.max_retries = AZO_OFF;
    w->desc.transport = w->net.transport;
    w->desc.clock = w->net.clock;
    w->desc.logger.line = count_line;
    w->desc.logger.user_data = &w->lines;
    assert_int_equal(setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", ISSUER, 1), 0);
    assert_int_equal(setenv("AZURE_AUTHORITY_HOST", ISSUER, 1), 0);
    *state = w;
    return 0;
}

static int close_world(void **state) {
    static const char *const names[] = {"AZURE_POD_IDENTITY_AUTHORITY_HOST", "AZURE_AUTHORITY_HOST", "AZURE_TENANT_ID",
                                        "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "HTTPS_PROXY"};
    world *w = (world *)*state;
    azo_client_close(w->client);
    script_close(&w->net);
    for (size_t i = 0; i < COUNT(names); i++) {
        unsetenv(names[i]);
    }
    return 0;
}

static void set_secret(void) {
    assert_int_equal(setenv("AZURE_TENANT_ID", "tenant", 1), 0);
    assert_int_equal(setenv("AZURE_CLIENT_ID", "app", 1), 0);
    assert_int_equal(setenv("AZURE_CLIENT_SECRET", "canary-secret", 1), 0);
}

/* All that is left of a message is its number; the rest of the error is as ever. */
static void check_error(const world *w, azo_result code) {
    char want[sizeof w->error.message];
    (void)snprintf(want, sizeof want, "Error %d. Look it up in AZO_RESULTS of azopenai.h.", (int)code);
    assert_int_equal(w->error.code, code);
    assert_int_not_equal(w->error.who, AZO_WHO_NOBODY);
    assert_string_equal(w->error.message, want);
}

static void open_fails(world *w, azo_result code) {
    assert_int_equal(azo_client_open(&w->desc, &w->client, &w->error), code);
    assert_null(w->client);
    check_error(w, code);
}

static azo_result ask(world *w, bool stream, azo_chat_reply *reply) {
    azo_message message = azo_user("Who am I?");
    azo_chat_desc chat;
    memset(&chat, 0, sizeof chat);
    chat.messages = &message;
    chat.message_count = 1;
    chat.stream = stream;
    return azo_chat(w->client, &chat, reply, &w->error);
}

static void answers(world *w, const char *text) {
    azo_chat_reply reply;
    if (w->client == NULL) {
        assert_int_equal(azo_client_open(&w->desc, &w->client, &w->error), AZO_OK);
    }
    assert_int_equal(ask(w, false, &reply), AZO_OK);
    assert_string_equal(reply.text.ptr, text);
    assert_string_equal(reply.finish_reason.ptr, "stop");
    azo_chat_reply_free(&reply);
}

static void test_key(void **state) {
    world *w = (world *)*state;
    w->desc.api_key = "key";
    answers(w, "key");
    answers(w, "key");
    assert_int_equal(w->service->connections, AZO_MAX_IDLE_CONNECTIONS > 0 ? 1 : 2);
    assert_int_equal(w->issuer->requests, 0);
    assert_int_equal(w->lines, 0);
}

static azo_result provide(const azo_token_ask *question, azo_token_answer *answer, void *user_data) {
    (void)user_data;
    assert_false(question->abandon);
    memcpy(answer->token, "secret", 6);
    answer->token_len = 6;
    answer->expires_in_s = 60;
    return AZO_OK;
}

static void test_provider(void **state) {
    world *w = (world *)*state;
    w->desc.token_provider = provide;
    answers(w, "secret");
    assert_int_equal(w->issuer->requests, 0);
}

/* The first of what the build has: client secret, managed identity, and then there is nothing to ask. */
static void test_chain(void **state) {
    world *w = (world *)*state;
    set_secret();
    if (HAS_SECRET || HAS_IMDS) {
        answers(w, HAS_SECRET ? "secret" : "managed");
        answers(w, HAS_SECRET ? "secret" : "managed");
        assert_int_equal(w->issuer->requests, 1);
    } else {
        open_fails(w, AZO_ERR_UNSUPPORTED);
    }
}

/* Without a secret the other one, where the build has it. */
static void test_chain_without_secret(void **state) {
    world *w = (world *)*state;
    azo_chat_reply reply;
    if (HAS_IMDS) {
        answers(w, "managed");
    } else if (HAS_SECRET) {
        assert_int_equal(azo_client_open(&w->desc, &w->client, &w->error), AZO_OK);
        assert_int_equal(ask(w, false, &reply), AZO_ERR_NO_CREDENTIAL);
        check_error(w, AZO_ERR_NO_CREDENTIAL);
        assert_non_null(strstr(w->error.detail, "AZURE_TENANT_ID not set"));
        azo_chat_reply_free(&reply);
        assert_int_equal(w->issuer->requests, 0);
    } else {
        open_fails(w, AZO_ERR_UNSUPPORTED);
    }
}

static void test_pinned(void **state) {
    world *w = (world *)*state;
    set_secret();
    w->desc.credential.kind = AZO_CRED_SECRET;
    if (HAS_SECRET) {
        answers(w, "secret");
        azo_client_close(w->client);
        w->client = NULL;
    } else {
        open_fails(w, AZO_ERR_UNSUPPORTED);
    }
    w->desc.credential.kind = AZO_CRED_IMDS;
    if (HAS_IMDS) {
        answers(w, "managed");
    } else {
        open_fails(w, AZO_ERR_UNSUPPORTED);
    }
}

static void test_stream_is_refused(void **state) {
    world *w = (world *)*state;
    azo_chat_reply reply;
    w->desc.api_key = "key";
    answers(w, "key");
    assert_int_equal(ask(w, true, &reply), AZO_ERR_UNSUPPORTED);
    check_error(w, AZO_ERR_UNSUPPORTED);
    azo_chat_reply_free(&reply);
    answers(w, "key");
}

#ifdef LEAN_RAW
static int never(const azo_event *event, void *user_data) {
    (void)event;
    (void)user_data;
    fail_msg("an event in a build without streams");
    return AZO_STOP;
}

static void test_raw_stream_is_refused(void **state) {
    world *w = (world *)*state;
    azo_raw_desc raw;
    azo_raw_reply reply;
    memset(&raw, 0, sizeof raw);
    raw.path = "/responses";
    raw.body = "{}";
    w->desc.api_key = "key";
    assert_int_equal(azo_client_open(&w->desc, &w->client, &w->error), AZO_OK);
    assert_int_equal(azo_raw(w->client, &raw, &reply, &w->error), AZO_OK);
    assert_non_null(strstr(reply.http.body.ptr, "\"key\""));
    azo_raw_reply_free(&reply);
    raw.on_event = never;
    assert_int_equal(azo_raw(w->client, &raw, &reply, &w->error), AZO_ERR_UNSUPPORTED);
    check_error(w, AZO_ERR_UNSUPPORTED);
    azo_raw_reply_free(&reply);
}
#endif

/* A proxy that somebody set is never passed by in silence. */
static void test_proxy_is_refused(void **state) {
    world *w = (world *)*state;
    w->desc.api_key = "key";
    assert_int_equal(setenv("HTTPS_PROXY", "http://127.0.0.1:8001", 1), 0);
    open_fails(w, AZO_ERR_UNSUPPORTED);
    w->desc.proxy = "";
    answers(w, "key");
}

static void test_refusal(void **state) {
    world *w = (world *)*state;
    azo_chat_reply reply;
    w->desc.api_key = "key";
    w->status = 404;
    assert_int_equal(azo_client_open(&w->desc, &w->client, &w->error), AZO_OK);
    assert_int_equal(ask(w, false, &reply), AZO_ERR_NOT_FOUND);
    check_error(w, AZO_ERR_NOT_FOUND);
    assert_int_equal(w->error.http_status, 404);
    assert_int_equal(w->error.who, AZO_WHO_RESOURCE);
    assert_string_equal(w->error.service_code, "DeploymentNotFound");
    assert_string_equal(w->error.detail, "synthetic");
    assert_non_null(strstr(reply.http.body.ptr, "DeploymentNotFound"));
    azo_chat_reply_free(&reply);
    w->status = -1;
    assert_int_equal(ask(w, false, &reply), AZO_ERR_CLOSED);
    check_error(w, AZO_ERR_CLOSED);
    azo_chat_reply_free(&reply);
    assert_int_equal(w->lines, 0);
}

#define LEAN_TEST(name) cmocka_unit_test_setup_teardown(name, open_world, close_world)

int main(void) {
    const struct CMUnitTest tests[] = {
        LEAN_TEST(test_key),
        LEAN_TEST(test_provider),
        LEAN_TEST(test_chain),
        LEAN_TEST(test_chain_without_secret),
        LEAN_TEST(test_pinned),
        LEAN_TEST(test_stream_is_refused),
#ifdef LEAN_RAW
        LEAN_TEST(test_raw_stream_is_refused),
#endif
        LEAN_TEST(test_proxy_is_refused),
        LEAN_TEST(test_refusal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
