/* test_calls.c - whole calls of the public API against the fake service, over sockets and TLS: identities, routes, chat
 * with and without streaming, tools, history, embeddings, raw calls, and how requests share a client.
 * test_failures.c has the calls that go wrong. Needs the certificates of make_certs.sh in $AZO_TEST_CERTS. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* setenv, epoll */
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "calls.h"

#include <sys/epoll.h>

static bool starts(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

static const fake_seen *last_request(const world *w, fake_role role) {
    const fake_seen *seen = fake_request(w->service, role, fake_count(w->service, role) - 1);
    assert_non_null(seen);
    return seen;
}

static void expect_field(const fake_seen *seen, const char *name, const char *want) {
    char value[256];
    if (want == NULL) {
        assert_false(fake_seen_field(seen, name, value, sizeof value));
        return;
    }
    assert_true(fake_seen_field(seen, name, value, sizeof value));
    assert_string_equal(value, want);
}

/* The answer to "Hi" in all its parts. */
static void expect_hi(const azo_chat_reply *reply) {
    expect_str(reply->text, "You said: Hi");
    expect_str(reply->finish_reason, "stop");
    expect_str(reply->model, "gpt-4o-2024-11-20");
    assert_null(reply->refusal.ptr);
    assert_int_equal(reply->tool_call_count, 0);
    assert_int_equal(reply->choice_count, 1);
    assert_ptr_equal(reply->choices[0].text.ptr, reply->text.ptr);
    assert_true(starts(reply->id.ptr, "chatcmpl-"));
    assert_int_equal(reply->http.status, 200);
    assert_int_equal(reply->http.attempts, 1);
    expect_part(reply->choices[0].filter_json.ptr, "\"severity\":\"safe\"");
    expect_part(reply->prompt_filter_json.ptr, "\"jailbreak\"");
    assert_true(starts(reply->http.request_id.ptr, "000000a0-"));
    expect_str(reply->http.region, "Sweden Central");
    expect_str(azo_http_header(&reply->http, "X-Content-Type-OPTIONS"), "nosniff");
    assert_null(azo_http_header(&reply->http, "x-absent").ptr);
    assert_int_equal(reply->http.limits.remaining_requests, 79);
    assert_int_equal(reply->http.limits.remaining_tokens, 61353);
    assert_int_equal(reply->http.limits.limit_requests, 80);
    assert_int_equal(reply->http.limits.limit_tokens, 80000);
    assert_int_equal(reply->http.limits.reset_tokens_ms, -1);
}

static void expect_usage(const azo_chat_reply *reply) {
    assert_int_equal(reply->prompt_tokens, 3);
    assert_int_equal(reply->completion_tokens, 4);
    assert_int_equal(reply->cached_tokens, 0);
    assert_int_equal(reply->reasoning_tokens, 0);
    expect_part(reply->usage_json.ptr, "\"total_tokens\":7");
}

/* ---- identities ---- */

/* The two environment variables of the design and an identity: nothing is in the desc. */
static void test_keyless_by_environment(void **state) {
    (void)state;
    world w;
    azo_chat_reply reply;
    world_open(&w, NULL);
    (void)setenv("AZURE_OPENAI_ENDPOINT", w.endpoint, 1);
    (void)setenv("AZURE_OPENAI_DEPLOYMENT", FAKE_DEPLOYMENT, 1);
    (void)setenv("AZURE_TENANT_ID", FAKE_TENANT_ID, 1);
    (void)setenv("AZURE_CLIENT_ID", FAKE_CLIENT_ID, 1);
    (void)setenv("AZURE_CLIENT_SECRET", FAKE_CLIENT_SECRET, 1);
    (void)setenv("AZURE_AUTHORITY_HOST", w.authority, 1);
    (void)setenv("SSL_CERT_FILE", w.ca_file, 1);
    assert_int_equal(azo_client_open(NULL, &w.client, &w.error), AZO_OK);
    expect(&w, chat(&w, "Hi", &reply), AZO_OK);
    expect_hi(&reply);
    expect_usage(&reply);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 1);
    assert_int_equal(fake_count(w.service, FAKE_SERVICE), 1);
    assert_int_equal(fake_count(w.service, FAKE_IMDS), 0);

    const fake_seen *token = fake_request(w.service, FAKE_ENTRA, 0);
    assert_string_equal(token->method, "POST");
    assert_string_equal(token->target, "/" FAKE_TENANT_ID "/oauth2/v2.0/token");
    assert_string_equal(token->sni, "localhost");
    assert_true(starts(token->tls, "TLSv1."));
    expect_field(token, "grant_type", "client_credentials");
    expect_field(token, "client_id", FAKE_CLIENT_ID);
    expect_field(token, "client_secret", FAKE_CLIENT_SECRET);
    expect_field(token, "scope", "https://ai.azure.com/.default");

    const fake_seen *call = fake_request(w.service, FAKE_SERVICE, 0);
    assert_string_equal(call->method, "POST");
    assert_string_equal(call->target, "/openai/v1/chat/completions");
    assert_string_equal(call->sni, "localhost");
    assert_true(starts(fake_seen_header(call, "authorization"), "Bearer fake.entra."));
    assert_null(fake_seen_header(call, "api-key"));
    assert_true(starts(fake_seen_header(call, "user-agent"), "azopenai.h/"));
    assert_string_equal(fake_seen_header(call, "content-type"), "application/json");
    azo_chat_reply_free(&reply);
    world_close(&w);
}

static void test_keyless_by_imds(void **state) {
    static const struct {
        const char *client_id;
        const char *object_id;
        const char *resource_id;
        const char *parameter;
        const char *value;
    } cases[] = {
        {NULL, NULL, NULL, NULL, NULL},
        {"", NULL, NULL, NULL, NULL},
        {FAKE_CLIENT_ID, NULL, NULL, "client_id", FAKE_CLIENT_ID},
        {NULL, FAKE_OBJECT_ID, NULL, "object_id", FAKE_OBJECT_ID},
        {NULL, NULL, FAKE_RESOURCE_ID, "msi_res_id", FAKE_RESOURCE_ID},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        world w;
        azo_chat_reply reply;
        world_open(&w, NULL);
        world_use_imds(&w);
        world_count_memory(&w, "fake.imds.");
        w.desc.credential.managed_client_id = cases[i].client_id;
        w.desc.credential.managed_object_id = cases[i].object_id;
        w.desc.credential.managed_resource_id = cases[i].resource_id;
        world_start(&w);
        for (int call = 0; call < 2; call++) {
            expect(&w, chat(&w, "Hi", &reply), AZO_OK);
            expect_hi(&reply);
            azo_chat_reply_free(&reply);
        }
        assert_int_equal(fake_count(w.service, FAKE_IMDS), 1);
        const fake_seen *token = fake_request(w.service, FAKE_IMDS, 0);
        assert_string_equal(token->method, "GET");
        assert_string_equal(fake_seen_header(token, "metadata"), "true");
        expect_field(token, "resource", "https://ai.azure.com");
        expect_field(token, cases[i].parameter != NULL ? cases[i].parameter : "client_id", cases[i].value);
        assert_true(starts(fake_seen_header(last_request(&w, FAKE_SERVICE), "authorization"), "Bearer fake.imds."));
        world_close(&w);
    }
}

/* Without a secret the chain goes on to managed identity; in one AZURE_CLIENT_ID names it. */
static void test_chain(void **state) {
    static const char *const limits[] = {NULL, "prod", "ManagedIdentityCredential"};
    (void)state;
    world w;
    world_open(&w, NULL);
    memset(&w.desc.credential, 0, sizeof w.desc.credential);
    (void)setenv("AZURE_CLIENT_ID", FAKE_CLIENT_ID, 1);
    for (size_t i = 0; i < COUNT(limits); i++) {
        if (limits[i] != NULL) {
            (void)setenv("AZURE_TOKEN_CREDENTIALS", limits[i], 1);
        }
        w.desc.credential.kind = i == 1 ? AZO_CRED_CHAIN : AZO_CRED_AUTO;
        world_restart(&w);
        expect(&w, ask(&w, "Hi"), AZO_OK);
        assert_int_equal(fake_count(w.service, FAKE_IMDS), i + 1);
        expect_field(last_request(&w, FAKE_IMDS), "client_id", FAKE_CLIENT_ID);
    }
    /* with a secret it is the secret, even where an API key is in the environment */
    (void)unsetenv("AZURE_TOKEN_CREDENTIALS");
    (void)setenv("AZURE_OPENAI_API_KEY", FAKE_API_KEY, 1);
    w.desc.credential.kind = AZO_CRED_CHAIN;
    w.desc.credential.tenant_id = FAKE_TENANT_ID;
    w.desc.credential.client_id = FAKE_CLIENT_ID;
    w.desc.credential.client_secret = FAKE_CLIENT_SECRET;
    w.desc.credential.authority_host = w.authority;
    world_restart(&w);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    assert_int_equal(fake_count(w.service, FAKE_IMDS), COUNT(limits));
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 1);
    assert_null(fake_seen_header(last_request(&w, FAKE_SERVICE), "api-key"));
    world_close(&w);
}

/* A token that the service takes, from another client. The caller frees it. */
static char *borrow_token(world *w, const char *scope) {
    azo_client *other = NULL;
    azo_token_desc desc;
    azo_token_reply reply;
    azo_client_desc client = w->desc;
    memset(&desc, 0, sizeof desc);
    desc.scope = scope;
    client.endpoint = NULL;
    client.api_key = NULL;
    client.token_provider = NULL;
    memset(&client.credential, 0, sizeof client.credential);
    client.credential.kind = AZO_CRED_IMDS;
    assert_int_equal(azo_client_open(&client, &other, &w->error), AZO_OK);
    azo_result r = azo_token(other, &desc, &reply, &w->error);
    expect(w, r, AZO_OK);
    azo_client_close(other);
    char *token = strdup(reply.token.ptr); /* a reply outlives its client */
    azo_token_reply_free(&reply);
    assert_non_null(token);
    return token;
}

static void test_static_token(void **state) {
    (void)state;
    world w;
    world_open(&w, NULL);
    memset(&w.desc.credential, 0, sizeof w.desc.credential);
    char *token = borrow_token(&w, "https://ai.azure.com/.default");
    (void)setenv("AZURE_OPENAI_AD_TOKEN", token, 1);
    (void)setenv("AZURE_OPENAI_API_KEY", FAKE_API_KEY, 1);
    world_start(&w);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    const char *sent = fake_seen_header(last_request(&w, FAKE_SERVICE), "authorization");
    assert_true(starts(sent, "Bearer ") && strcmp(sent + 7, token) == 0);
    assert_int_equal(fake_count(w.service, FAKE_IMDS), 1);

    fake_revoke_tokens(w.service); /* nothing can be done about that */
    expect(&w, ask(&w, "Hi"), AZO_ERR_UNAUTHORIZED);
    assert_int_equal(w.error.who, AZO_WHO_IDENTITY);
    assert_int_equal(w.error.attempts, 1);
    assert_int_equal(w.error.http_status, 401);
    assert_int_equal(fake_count(w.service, FAKE_IMDS), 1);
    free(token);
    world_close(&w);
}

static void test_api_key(void **state) {
    (void)state;
    world w;
    azo_chat_reply reply;
    world_begin_with_key(&w);
    expect(&w, chat(&w, "Hi", &reply), AZO_OK);
    expect_hi(&reply);
    azo_chat_reply_free(&reply);
    const fake_seen *seen = last_request(&w, FAKE_SERVICE);
    assert_string_equal(fake_seen_header(seen, "api-key"), FAKE_API_KEY);
    assert_null(fake_seen_header(seen, "authorization"));

    w.desc.api_key = NULL; /* the same from the environment */
    (void)setenv("AZURE_OPENAI_API_KEY", FAKE_API_KEY, 1);
    world_restart(&w);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA) + fake_count(w.service, FAKE_IMDS), 0);

    w.desc.api_key = "canary-wrong-key";
    world_restart(&w);
    expect(&w, ask(&w, "Hi"), AZO_ERR_UNAUTHORIZED);
    assert_int_equal(w.error.attempts, 1);
    expect_part(w.error.message, "API key");
    world_close(&w);
}

/* ---- token providers ---- */

typedef struct provider {
    const char *token;
    azo_result answer; /* what it returns, if not a token */
    int64_t lifetime_s;
    int pipe[2];   /* waits until something can be read from it; -1: does not wait */
    int32_t delay; /* asks to be called again after so many ms */
    int calls;
    int abandons;
    char scope[128];
    int states; /* how many *ask->state were NULL */
} provider;

static azo_result provide(const azo_token_ask *ask, azo_token_answer *answer, void *user_data) {
    provider *p = (provider *)user_data;
    char byte;
    if (ask->abandon) {
        assert_ptr_equal(*ask->state, p);
        p->abandons++;
        return AZO_OK;
    }
    p->calls++;
    p->states += *ask->state == NULL ? 1 : 0;
    (void)snprintf(p->scope, sizeof p->scope, "%s", ask->scope);
    assert_int_equal(answer->wait_fd, -1);
    assert_int_equal(answer->wait_ms, -1);
    if (p->delay > 0 && *ask->state == NULL) {
        *ask->state = p;
        answer->wait_ms = p->delay;
        return AZO_PENDING;
    }
    if (p->pipe[0] >= 0 && read(p->pipe[0], &byte, 1) != 1) {
        *ask->state = p;
        answer->wait_fd = p->pipe[0];
        answer->wait_events = AZO_POLL_IN;
        return AZO_PENDING;
    }
    if (p->answer != AZO_OK) {
        answer->error_text = "the test says no";
        return p->answer;
    }
    assert_true(strlen(p->token) < answer->token_cap);
    memcpy(answer->token, p->token, strlen(p->token));
    answer->token_len = strlen(p->token);
    answer->expires_in_s = p->lifetime_s;
    return AZO_OK;
}

static void provider_open(world *w, provider *p) {
    world_open(w, NULL);
    memset(p, 0, sizeof *p);
    p->pipe[0] = p->pipe[1] = -1;
    p->lifetime_s = 3600;
    p->token = borrow_token(w, "https://ai.azure.com/.default");
    memset(&w->desc.credential, 0, sizeof w->desc.credential);
    w->desc.token_provider = provide;
    w->desc.token_user_data = p;
}

static void provider_close(world *w, provider *p) {
    free((void *)(uintptr_t)p->token);
    if (p->pipe[0] >= 0) {
        (void)close(p->pipe[0]);
        (void)close(p->pipe[1]);
    }
    world_close(w);
}

static void provider_waits(provider *p) {
    assert_int_equal(pipe(p->pipe), 0);
    assert_int_equal(fcntl(p->pipe[0], F_SETFL, O_NONBLOCK), 0);
}

static void test_provider(void **state) {
    (void)state;
    world w;
    provider p;
    provider_open(&w, &p);
    world_count_memory(&w, "fake.imds.");
    world_start(&w);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    assert_int_equal(p.calls, 1);
    assert_string_equal(p.scope, "https://ai.azure.com/.default");
    p.lifetime_s = 0; /* not known: asked for each request */
    world_restart(&w);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    assert_int_equal(p.calls, 3);
    p.delay = 20; /* pending on time alone */
    expect(&w, ask(&w, "Hi"), AZO_OK);
    assert_int_equal(p.calls, 5);
    assert_int_equal(p.abandons, 0);
    provider_close(&w, &p);
}

static void *write_soon(void *argument) {
    const int *fd = (const int *)argument;
    sleep_ms(50);
    (void)!write(*fd, "x", 1);
    return NULL;
}

/* PENDING on a descriptor: in a blocking call, while something else happens on the client, and abandoned. */
static void test_provider_that_waits(void **state) {
    (void)state;
    world w;
    provider p;
    azo_message message = azo_user("Hi");
    azo_chat_desc desc = chat_desc(&message);
    azo_chat_reply reply;
    pthread_t writer;
    provider_open(&w, &p);
    provider_waits(&p);
    world_start(&w);
    assert_int_equal(pthread_create(&writer, NULL, write_soon, &p.pipe[1]), 0);
    expect(&w, chat(&w, "Hi", &reply), AZO_OK);
    expect_hi(&reply);
    azo_chat_reply_free(&reply);
    assert_int_equal(pthread_join(writer, NULL), 0);
    assert_int_equal(p.calls, 2);
    assert_int_equal(p.states, 1);

    world_restart(&w);
    azo_request *all[3];
    for (size_t i = 0; i < COUNT(all); i++) {
        all[i] = chat_begin(&w, &desc);
    }
    poll_until(&w, &p.calls, 3);
    poll_for(&w, 10);
    assert_int_equal(p.calls, 3); /* one ask for the three */
    azo_watch watches[8];
    size_t count = azo_wait(w.client, watches, COUNT(watches), NULL);
    bool watched = false;
    for (size_t i = 0; i < count && i < COUNT(watches); i++) {
        watched = watched || (watches[i].fd == p.pipe[0] && watches[i].events == AZO_POLL_IN);
    }
    assert_true(watched);
    azo_request_cancel(all[0]);
    finish(&w, all[0]);
    assert_int_equal(azo_request_result(all[1]), AZO_PENDING);
    assert_int_equal(write(p.pipe[1], "x", 1), 1);
    for (size_t i = 0; i < COUNT(all); i++) {
        finish(&w, all[i]);
        expect(&w, chat_end(&w, all[i], &reply), i == 0 ? AZO_ERR_CANCELLED : AZO_OK);
        azo_chat_reply_free(&reply);
    }
    assert_int_equal(p.calls, 4);

    world_restart(&w); /* everybody leaves: by free, by cancel, by close */
    for (int i = 0; i < 3; i++) {
        all[0] = chat_begin(&w, &desc);
        poll_until(&w, &p.calls, 5 + i);
        assert_int_equal(p.abandons, i);
        if (i == 0) {
            azo_request_free(all[0]);
        } else if (i == 1) {
            azo_request_cancel(all[0]);
        } else {
            azo_client_close(w.client);
            w.client = NULL;
        }
        if (w.client != NULL) {
            poll_until(&w, &p.abandons, i + 1);
        }
        assert_int_equal(p.calls, 5 + i);
        assert_int_equal(p.abandons, i + 1);
        if (i > 0) {
            expect(&w, chat_end(&w, all[0], NULL), AZO_ERR_CANCELLED);
        }
    }
    provider_close(&w, &p);
}

static void test_provider_that_fails(void **state) {
    (void)state;
    world w;
    provider p;
    provider_open(&w, &p);
    p.answer = AZO_ERR_TIMEOUT;
    world_start(&w);
    expect(&w, ask(&w, "Hi"), AZO_ERR_PROVIDER);
    expect_part(w.error.message, "the test says no");
    assert_int_equal(w.error.stage, AZO_STAGE_TOKEN);
    assert_int_equal(w.error.attempts, 0);
    expect(&w, ask(&w, "Hi"), AZO_ERR_PROVIDER); /* answered from memory */
    assert_int_equal(p.calls, 1);
    world_restart(&w);
    p.answer = AZO_OK;
    char *token = (char *)(uintptr_t)p.token;
    p.token = "canary with spaces";
    expect(&w, ask(&w, "Hi"), AZO_ERR_PROVIDER);
    p.token = token;
    world_restart(&w);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    assert_int_equal(fake_count(w.service, FAKE_SERVICE), 1);
    provider_close(&w, &p);
}

/* ---- the credential alone ---- */

static void test_token_alone(void **state) {
    (void)state;
    world w;
    azo_token_desc desc;
    azo_token_reply reply;
    world_open(&w, NULL);
    world_count_memory(&w, "fake.entra.");
    w.desc.endpoint = NULL;
    w.desc.deployment = NULL;
    world_start(&w);
    memset(&desc, 0, sizeof desc);
    desc.scope = "https://vault.azure.net/.default";
    for (int i = 0; i < 2; i++) {
        expect(&w, token_as(&w, &desc, &reply), AZO_OK);
        assert_true(starts(reply.token.ptr, "fake.entra."));
        assert_int_equal(strlen(reply.token.ptr), reply.token.len);
        assert_in_range(reply.expires_in_s, 3500, 3599);
        assert_string_equal(reply.source, "environment");
        azo_token_reply_free(&reply);
    }
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 1);
    expect_field(last_request(&w, FAKE_ENTRA), "scope", "https://vault.azure.net/.default");
    desc.scope = "https://management.azure.com/.default"; /* another scope, another token */
    expect(&w, token_as(&w, &desc, &reply), AZO_OK);
    azo_token_reply_free(&reply);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 2);
    assert_int_equal(fake_connections(w.service, FAKE_ENTRA), 1);
    desc.claims = "{\"access_token\":{\"nbf\":{\"essential\":true}}}";
    expect(&w, token_as(&w, &desc, &reply), AZO_OK);
    azo_token_reply_free(&reply);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 3);
    expect_field(last_request(&w, FAKE_ENTRA), "claims", desc.claims);
    expect(&w, ask(&w, "Hi"), AZO_ERR_ARGUMENT); /* there is no endpoint */
    assert_int_equal(w.error.who, AZO_WHO_PROGRAM);
    expect_part(w.error.message, "AZURE_OPENAI_ENDPOINT");
    world_close(&w);
}

/* ---- routes ---- */

static void test_dated_route(void **state) {
    (void)state;
    world w;
    azo_chat_reply reply;
    world_open(&w, NULL);
    w.desc.api_version = "2024-10-21";
    w.desc.deployment = "gpt-4o prod";
    world_start(&w);
    expect(&w, chat(&w, "Hi", &reply), AZO_OK);
    expect_hi(&reply);
    azo_chat_reply_free(&reply);
    assert_string_equal(last_request(&w, FAKE_SERVICE)->target,
                        "/openai/deployments/gpt-4o%20prod/chat/completions?api-version=2024-10-21");
    expect_field(last_request(&w, FAKE_ENTRA), "scope", "https://cognitiveservices.azure.com/.default");
    w.desc.api_version = NULL;
    (void)setenv("OPENAI_API_VERSION", "2025-04-01-preview", 1);
    world_restart(&w);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    expect_field(last_request(&w, FAKE_SERVICE), "api-version", "2025-04-01-preview");
    w.desc.api_version = "v1";
    world_restart(&w);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    assert_true(starts(last_request(&w, FAKE_SERVICE)->target, "/openai/v1/chat/completions"));
    world_close(&w);
}

/* Every spelling that people paste. */
static void test_spellings_of_the_endpoint(void **state) {
    static const struct {
        const char *tail;
        const char *target;
    } cases[] = {
        {"", "/openai/v1/chat/completions"},
        {"/", "/openai/v1/chat/completions"},
        {"/openai", "/openai/v1/chat/completions"},
        {"/openai/", "/openai/v1/chat/completions"},
        {"/openai/v1", "/openai/v1/chat/completions"},
        {"/openai/v1/", "/openai/v1/chat/completions"},
        {"/openai/v1/chat/completions", "/openai/v1/chat/completions"},
        {"/openai/deployments/gpt-4o%20prod/chat/completions?api-version=2024-06-01",
         "/openai/deployments/gpt-4o%20prod/chat/completions?api-version=2024-06-01"},
    };
    (void)state;
    world w;
    world_open(&w, NULL);
    world_use_key(&w);
    for (size_t i = 0; i < COUNT(cases); i++) {
        char endpoint[256];
        (void)snprintf(endpoint, sizeof endpoint, "  %s%s ", w.endpoint, cases[i].tail);
        w.desc.endpoint = endpoint;
        w.desc.deployment = strstr(cases[i].tail, "deployments") != NULL ? NULL : FAKE_DEPLOYMENT;
        world_restart(&w);
        expect(&w, ask(&w, "Hi"), AZO_OK);
        assert_string_equal(last_request(&w, FAKE_SERVICE)->target, cases[i].target);
    }
    world_close(&w);
}

/* One client is one identity, at two services. */
static void test_endpoint_of_a_call(void **state) {
    static const fake_reply hello = {.body = CHOICE("from the other")};
    (void)state;
    world w;
    world other;
    azo_message message = azo_user("Hi");
    azo_chat_desc desc = chat_desc(&message);
    azo_chat_reply reply;
    world_open(&other, NULL);
    fake_push(other.service, FAKE_SERVICE, &hello); /* it does not know the token */
    world_begin(&w, NULL);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    desc.call.endpoint = other.endpoint;
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
    expect_str(reply.text, "from the other");
    assert_int_equal(reply.prompt_tokens, -1);
    azo_chat_reply_free(&reply);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 1);
    assert_int_equal(fake_count(w.service, FAKE_SERVICE), 2);
    assert_int_equal(fake_connections(w.service, FAKE_SERVICE), 1);
    assert_int_equal(fake_count(other.service, FAKE_SERVICE), 1);
    world_close(&w);
    world_close(&other);
}

static void test_extra_headers(void **state) {
    (void)state;
    world w;
    azo_header of_client = {"Ocp-Apim-Subscription-Key", "canary-subscription"};
    azo_header of_call = {"x-ms-client-request-id", "canary-id-1"};
    azo_message message = azo_user("Hi");
    azo_chat_desc desc = chat_desc(&message);
    azo_chat_reply reply;
    world_open(&w, NULL);
    w.desc.headers = &of_client;
    w.desc.header_count = 1;
    world_count_memory(&w, "canary-subscription");
    world_start(&w);
    desc.call.headers = &of_call;
    desc.call.header_count = 1;
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
    azo_chat_reply_free(&reply);
    const fake_seen *seen = last_request(&w, FAKE_SERVICE);
    assert_string_equal(fake_seen_header(seen, of_client.name), of_client.value);
    assert_string_equal(fake_seen_header(seen, of_call.name), of_call.value);
    assert_null(fake_seen_header(last_request(&w, FAKE_ENTRA), of_client.name)); /* not for Entra */
    of_call.value = "canary\r\nX-Injected: 1";
    expect(&w, chat_as(&w, &desc, &reply), AZO_ERR_ARGUMENT);
    azo_chat_reply_free(&reply);
    assert_int_equal(fake_count(w.service, FAKE_SERVICE), 1);
    world_close(&w);
}

/* ---- chat ---- */

/* Every field of the desc, judged by a service that knows them all. */
static void test_fields_of_chat(void **state) {
    (void)state;
    world w;
    azo_message messages[] = {azo_system("Answer in JSON."), azo_user("one"), azo_assistant("two"), azo_user("three")};
    azo_chat_desc desc = chat_desc(messages);
    azo_chat_reply reply;
    azo_str value;
    double number;
    world_begin_with_key(&w);
    desc.message_count = COUNT(messages);
    messages[3].content = NULL;
    messages[3].content_json = "[{\"type\":\"text\",\"text\":\"four \"},{\"type\":\"text\",\"text\":\"f\\u00fcnf\"}]";
    messages[1].name = "somebody";
    desc.temperature = azo_num(0.2);
    desc.top_p = azo_num(1);
    desc.presence_penalty = azo_num(-0.5);
    desc.frequency_penalty = azo_num(0);
    desc.seed = azo_int(9223372036854775806);
    desc.logprobs = azo_bool(true);
    desc.top_logprobs = azo_int(2);
    desc.response_format_json = "{\"type\":\"json_object\"}";
    desc.user = "user \"1\"";
    desc.max_completion_tokens = 100;
    desc.n = 2;
    desc.extra_json = "{\"stop\": [\"\\n\"], \"logit_bias\": {\"50256\": -100}, \"metadata\": {\"a\": \"b\"}}";
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
    expect_str(reply.text, "{\"echo\": \"four f\xc3\xbcnf\"}");
    assert_int_equal(reply.choice_count, 2);
    for (size_t i = 0; i < reply.choice_count; i++) {
        expect_str(reply.choices[i].text, "{\"echo\": \"four f\xc3\xbcnf\"}");
        expect_str(reply.choices[i].finish_reason, "stop");
    }
    azo_chat_reply_free(&reply);
    const fake_seen *seen = last_request(&w, FAKE_SERVICE);
    azo_str body = {seen->body, seen->body_len};
    assert_int_equal(azo_json_get(body, "seed", &value), AZO_OK);
    assert_int_equal(value.len, 19);
    assert_memory_equal(value.ptr, "9223372036854775806", 19);
    assert_int_equal(azo_json_get(body, "temperature", &value), AZO_OK);
    assert_int_equal(azo_json_number(value, &number), AZO_OK);
    static const double sent = 0.2; /* in memory: an x87 constant has more digits */
    assert_true(number == sent && value.len == 3);
    world_close(&w);
}

/* The same answer with and without streaming, whatever pieces it comes in. */
static void test_stream_in_every_shape(void **state) {
    static const struct {
        const char *name;
        fake_reply shape;
    } plans[] = {
        {"an event per chunk", {.events_per_chunk = 1}},
        {"two events per chunk", {.events_per_chunk = 2}},
        {"three events per chunk", {.events_per_chunk = 3}},
        {"all events in a chunk", {.events_per_chunk = 1000}},
        {"a byte per chunk", {.chunk_size = 1}},
        {"two bytes per chunk", {.chunk_size = 2}},
        {"3 bytes per chunk", {.chunk_size = 3}},
        {"5 bytes per chunk", {.chunk_size = 5}},
        {"7 bytes per chunk", {.chunk_size = 7}},
        {"64 bytes per chunk", {.chunk_size = 64}},
        {"1000 bytes per chunk", {.chunk_size = 1000}},
        {"a first chunk of one byte", {.first_chunk = 1}},
        {"a first chunk of six bytes", {.first_chunk = 6, .chunk_size = 333}},
        {"glued to the head", {.events_per_chunk = 1, .glue_head = true}},
        {"all glued to the head", {.events_per_chunk = 1000, .glue_head = true}},
        {"trailers", {.events_per_chunk = 1, .trailers = true}},
        {"chunk extensions", {.events_per_chunk = 1, .chunk_extensions = true}},
        {"all of it", {.chunk_size = 11, .trailers = true, .chunk_extensions = true, .glue_head = true}},
        {"an interim answer", {.events_per_chunk = 1, .interim_100 = true}},
        {"a length", {.events_per_chunk = 1, .framing = FAKE_LENGTH}},
        {"a length, byte by byte", {.chunk_size = 1, .framing = FAKE_LENGTH}},
        {"until the connection ends", {.events_per_chunk = 1, .framing = FAKE_UNTIL_CLOSE}},
        {"HTTP/1.0", {.chunk_size = 50, .framing = FAKE_HTTP10}},
        {"with pauses", {.events_per_chunk = 1, .delay_between_chunks_ms = 2}},
        {"closed afterwards", {.events_per_chunk = 1, .close_after = true}},
    };
    static const char text[] = "One \"quoted\", two\n\\ three \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80 \x01 end";
    static const char said[] = "You said: One \"quoted\", two\n\\ three \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80 \x01 end";
    (void)state;
    world w;
    azo_message message = azo_user(text);
    azo_chat_desc desc = chat_desc(&message);
    azo_chat_reply whole;
    azo_chat_reply reply;
    world_begin(&w, "fake.entra.");
    expect(&w, chat_as(&w, &desc, &whole), AZO_OK);
    expect_str(whole.text, said);
    for (size_t i = 0; i < COUNT(plans); i++) {
        listener l;
        fake_reply shape = plans[i].shape;
        shape.pass = true;
        fake_push(w.service, FAKE_SERVICE, &shape);
        desc = listener_desc(&message, &l);
        desc.include_usage = azo_bool(true);
        azo_result r = chat_as(&w, &desc, &reply);
        if (r != AZO_OK) {
            print_error("%s: ", plans[i].name);
        }
        expect(&w, r, AZO_OK);
        assert_string_equal(l.text.text, said);
        expect_str(reply.text, said);
        expect_str(reply.finish_reason, whole.finish_reason.ptr);
        expect_str(reply.model, whole.model.ptr);
        expect_str(reply.message_json, whole.message_json.ptr);
        expect_str(reply.usage_json, whole.usage_json.ptr);
        expect_str(reply.prompt_filter_json, whole.prompt_filter_json.ptr);
        expect_str(reply.choices[0].filter_json, whole.choices[0].filter_json.ptr);
        assert_int_equal(reply.prompt_tokens, whole.prompt_tokens);
        assert_int_equal(reply.completion_tokens, whole.completion_tokens);
        assert_int_equal(reply.http.attempts, 1);
        assert_int_equal(reply.http.body.len, 0);
        azo_chat_reply_free(&reply);
        listener_free(&l);
    }
    azo_chat_reply_free(&whole);
    world_close(&w);
}

static void test_events_of_a_stream(void **state) {
    (void)state;
    world w;
    listener l;
    azo_message message = azo_user("Hi there");
    azo_chat_desc desc = listener_desc(&message, &l);
    azo_chat_reply reply;
    world_begin(&w, NULL);
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK); /* without usage */
    assert_int_equal(reply.prompt_tokens, -1);
    assert_null(reply.usage_json.ptr);
    assert_null(strchr(l.kinds.text, 'u'));
    assert_int_equal(l.kinds.text[l.kinds.len - 1], 'f');
    azo_chat_reply_free(&reply);
    listener_free(&l);

    desc.include_usage = azo_bool(true);
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
    assert_int_equal(reply.prompt_tokens, 5);
    assert_int_equal(l.kinds.text[l.kinds.len - 1], 'u');
    expect_part(l.kinds.text, "t");
    expect_part(l.kinds.text, "F");
    expect_part(l.kinds.text, "fu");
    azo_chat_reply_free(&reply);
    listener_free(&l);

    desc.on_event = NULL; /* a stream that nobody listens to */
    desc.stream = true;
    desc.n = 3;
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
    assert_int_equal(reply.choice_count, 3);
    for (size_t i = 0; i < 3; i++) {
        expect_str(reply.choices[i].text, "You said: Hi there");
        expect_str(reply.choices[i].finish_reason, "stop");
    }
    azo_chat_reply_free(&reply);
    expect_part(last_request(&w, FAKE_SERVICE)->body, "\"stream\":true");
    assert_int_equal(fake_connections(w.service, FAKE_SERVICE), 1);
    world_close(&w);
}

/* Stopped in the callback, paused and resumed, cancelled from outside, freed, closed. */
static void test_stream_ends_early(void **state) {
    (void)state;
    world w;
    listener l;
    azo_message message = azo_user("many words that come one by one in a stream");
    azo_chat_desc desc = listener_desc(&message, &l);
    azo_chat_reply reply;
    world_begin(&w, "fake.entra.");
    fake_set(w.service, FAKE_SERVICE, FAKE_STREAM_EVENTS, 1);
    l.stop_at = 6;
    expect(&w, chat_as(&w, &desc, &reply), AZO_ERR_CANCELLED);
    assert_int_equal(l.events, 6);
    assert_true(reply.text.len > 0 && starts("You said: many words", reply.text.ptr));
    azo_chat_reply_free(&reply);
    listener_free(&l);

    l.pause_at = -1; /* each event by itself */
    azo_request *request = chat_begin(&w, &desc);
    int64_t end = now_ms() + WAIT_MS;
    int resumed = 0;
    while (azo_request_result(request) == AZO_PENDING) {
        int before = l.events;
        assert_true(now_ms() < end);
        assert_int_equal(azo_poll(w.client, l.events == resumed ? 1000 : 0), AZO_OK);
        assert_in_range(l.events, before, before + 1);
        if (l.events > resumed) {
            assert_int_equal(azo_poll(w.client, 0), AZO_OK);
            assert_int_equal(l.events, resumed + 1);
            resumed++;
            azo_request_resume(request);
        }
    }
    expect(&w, chat_end(&w, request, &reply), AZO_OK);
    expect_str(reply.text, "You said: many words that come one by one in a stream");
    assert_string_equal(l.text.text, reply.text.ptr);
    azo_chat_reply_free(&reply);
    listener_free(&l);

    fake_set(w.service, FAKE_SERVICE, FAKE_STREAM_DELAY_MS, 20);
    for (int how = 0; how < 3; how++) { /* cancel, free, close */
        request = chat_begin(&w, &desc);
        for (end = now_ms() + WAIT_MS; l.text.len == 0 && now_ms() < end;) {
            assert_int_equal(azo_poll(w.client, 1000), AZO_OK);
        }
        if (how == 0) {
            azo_request_cancel(request);
            finish(&w, request);
            assert_ptr_equal(azo_next(w.client), request);
            expect(&w, chat_end(&w, request, &reply), AZO_ERR_CANCELLED);
            assert_true(reply.text.len > 0);
            azo_chat_reply_free(&reply);
        } else if (how == 1) {
            azo_request_free(request);
        } else {
            azo_client_close(w.client);
            w.client = NULL;
            expect(&w, chat_end(&w, request, &reply), AZO_ERR_CANCELLED);
            azo_chat_reply_free(&reply);
        }
        listener_free(&l);
    }
    world_close(&w);
}

/* ---- tools ---- */

static const azo_tool tools[] = {
    {"get_weather",
     "Weather of a city",
     "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"}},\"required\":[\"city\"]}",
     {false, false}},
    {"get_time", NULL, NULL, {false, false}},
};

static void expect_calls(const azo_chat_reply *reply) {
    assert_int_equal(reply->tool_call_count, 2);
    expect_str(reply->tool_calls[0].name, "get_weather");
    expect_str(reply->tool_calls[0].arguments, "{\"city\":\"Bern\"}");
    expect_str(reply->tool_calls[1].name, "get_time");
    expect_str(reply->tool_calls[1].arguments, "{\"tz\":\"CET\"}");
    assert_true(starts(reply->tool_calls[0].id.ptr, "call_"));
    assert_string_not_equal(reply->tool_calls[0].id.ptr, reply->tool_calls[1].id.ptr);
    expect_str(reply->finish_reason, "tool_calls");
    assert_null(reply->text.ptr);
}

static void test_tools(void **state) {
    (void)state;
    world w;
    world_begin(&w, "fake.entra.");
    for (int streamed = 0; streamed < 2; streamed++) {
        azo_message messages[4];
        listener l;
        azo_chat_desc desc = listener_desc(messages, &l);
        azo_chat_reply calls;
        azo_chat_reply reply;
        fake_set(w.service, FAKE_SERVICE, FAKE_STREAM_BYTES, 9);
        messages[0] = azo_user("What is the weather?");
        desc.tools = tools;
        desc.tool_count = COUNT(tools);
        desc.tool_choice = "auto";
        desc.on_event = streamed ? listen_to : NULL;
        expect(&w, chat_as(&w, &desc, &calls), AZO_OK);
        expect_calls(&calls);
        if (streamed) {
            expect_part(l.kinds.text, "T");
            assert_null(strchr(l.kinds.text, 't'));
        }

        messages[1] = azo_same(&calls); /* by hand */
        messages[2] = azo_tool_result(calls.tool_calls[1].id, "12:00");
        messages[3] = azo_tool_result(calls.tool_calls[0].id, "sunny");
        desc.message_count = 4;
        expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
        expect_str(reply.text, "The tools said: 12:00; sunny");
        azo_chat_reply_free(&reply);

        azo_history *history = NULL; /* and by a history */
        assert_int_equal(azo_history_open(w.client, &history, &w.error), AZO_OK);
        assert_int_equal(azo_history_add(history, &messages[0], &w.error), AZO_OK);
        assert_int_equal(azo_history_add_reply(history, &calls, &w.error), AZO_OK);
        for (size_t i = 0; i < calls.tool_call_count; i++) {
            azo_message result = azo_tool_result(calls.tool_calls[i].id, i == 0 ? "rain" : "13:00");
            assert_int_equal(azo_history_add(history, &result, &w.error), AZO_OK);
        }
        azo_chat_reply_free(&calls);
        assert_int_equal(azo_history_count(history), 4);
        desc.messages = NULL;
        desc.message_count = 0;
        desc.history = history;
        expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
        expect_str(reply.text, "The tools said: rain; 13:00");
        azo_chat_reply_free(&reply);
        azo_history_close(history);
        listener_free(&l);
    }
    world_close(&w);
}

static void test_tool_choice(void **state) {
    (void)state;
    world w;
    azo_message message = azo_user("the weather");
    azo_chat_desc desc = chat_desc(&message);
    azo_chat_reply reply;
    world_begin(&w, NULL);
    desc.tools = tools;
    desc.tool_count = COUNT(tools);
    desc.tool_choice = "none";
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
    expect_str(reply.text, "You said: the weather");
    azo_chat_reply_free(&reply);
    desc.tool_choice = "get_time";
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
    assert_int_equal(reply.tool_call_count, 1);
    expect_str(reply.tool_calls[0].name, "get_time");
    azo_chat_reply_free(&reply);
    desc.tool_choice = NULL;
    desc.parallel_tool_calls = azo_bool(false);
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
    assert_int_equal(reply.tool_call_count, 1);
    azo_chat_reply_free(&reply);
    world_close(&w);
}

/* ---- history ---- */

static void test_history(void **state) {
    (void)state;
    world w;
    azo_chat_desc desc;
    azo_chat_reply reply;
    azo_history *history = NULL;
    azo_message system = azo_system("Be brief.");
    world_begin(&w, "fake.entra.");
    assert_int_equal(azo_history_open(w.client, &history, &w.error), AZO_OK);
    assert_int_equal(azo_history_add(history, &system, &w.error), AZO_OK);
    memset(&desc, 0, sizeof desc);
    desc.history = history;
    for (int turn = 0; turn < 3; turn++) {
        char text[32];
        char said[64];
        (void)snprintf(text, sizeof text, "turn \"%d\"", turn);
        (void)snprintf(said, sizeof said, "You said: turn \"%d\"", turn);
        azo_message message = azo_user(text);
        assert_int_equal(azo_history_add(history, &message, &w.error), AZO_OK);
        desc.stream = turn == 1;
        expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
        expect_str(reply.text, said);
        assert_int_equal(azo_history_add_reply(history, &reply, &w.error), AZO_OK);
        azo_chat_reply_free(&reply);
    }
    assert_int_equal(azo_history_count(history), 7);
    azo_history_remove(history, 1, 2);
    assert_int_equal(azo_history_count(history), 5);
    azo_message last = azo_user("last");
    desc.messages = &last; /* behind the history */
    desc.message_count = 1;
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
    expect_str(reply.text, "You said: last");
    azo_chat_reply_free(&reply);
    const fake_seen *seen = last_request(&w, FAKE_SERVICE);
    azo_str body = {seen->body, seen->body_len};
    azo_str value;
    char text[64];
    assert_int_equal(azo_json_get(body, "messages[1].content", &value), AZO_OK);
    assert_int_equal(azo_json_text(value, text, sizeof text, NULL), AZO_OK);
    assert_string_equal(text, "turn \"1\"");
    assert_int_equal(azo_json_get(body, "messages[5].content", &value), AZO_OK);
    assert_int_equal(azo_json_get(body, "messages[6]", &value), AZO_ERR_JSON);
    azo_history_close(history);
    world_close(&w);
}

/* ---- embeddings ---- */

static azo_embed_desc embed_desc(const azo_str *inputs, size_t count) {
    azo_embed_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.inputs = inputs;
    desc.input_count = count;
    desc.deployment = "embed";
    return desc;
}

static void expect_vectors(const float *vectors, const azo_str *inputs, size_t count, size_t dimensions) {
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < dimensions; k++) {
            if (vectors[i * dimensions + k] != fake_embedding(inputs[i].ptr, inputs[i].len, k)) {
                fail_msg("vector %lu, position %lu", (unsigned long)i, (unsigned long)k);
            }
        }
    }
}

static void test_embeddings(void **state) {
    static const int dimensions[] = {0, 1, 256, 1536};
    (void)state;
    world w;
    char texts[100][16];
    azo_str inputs[100];
    azo_embed_reply reply;
    world_begin(&w, "fake.entra.");
    for (size_t i = 0; i < COUNT(inputs); i++) {
        (void)snprintf(texts[i], sizeof texts[i], "text \"%lu\"", (unsigned long)i);
        inputs[i] = azo_s(texts[i]);
    }
    inputs[1].len = 4; /* a view that has no end of its own */
    azo_embed_desc desc = embed_desc(inputs, COUNT(inputs));
    for (size_t i = 0; i < COUNT(dimensions); i++) {
        for (desc.input_count = 1; desc.input_count <= 100; desc.input_count *= 10) {
            size_t floats = dimensions[i] != 0 ? (size_t)dimensions[i] : 8;
            desc.dimensions = dimensions[i];
            expect(&w, embed_as(&w, &desc, &reply), AZO_OK);
            assert_int_equal(reply.count, desc.input_count);
            assert_int_equal(reply.dimensions, floats);
            assert_true(reply.prompt_tokens > 0);
            assert_int_equal(reply.http.body.len, 0);
            expect_vectors(reply.vectors, inputs, reply.count, floats);
            azo_embed_reply_free(&reply);
        }
    }
    expect_part(last_request(&w, FAKE_SERVICE)->body, "\"encoding_format\":\"base64\"");

    float room[100 * 8 + 1];
    desc.input_count = 100;
    desc.dimensions = 0;
    desc.vectors = room;
    desc.vector_cap = 100 * 8;
    room[100 * 8] = 42;
    expect(&w, embed_as(&w, &desc, &reply), AZO_OK);
    assert_ptr_equal(reply.vectors, room);
    expect_vectors(room, inputs, 100, 8);
    assert_true(room[100 * 8] == 42);
    azo_embed_reply_free(&reply);
    desc.vector_cap = 100 * 8 - 1;
    expect(&w, embed_as(&w, &desc, &reply), AZO_ERR_LIMIT);
    expect_part(w.error.message, "800");
    azo_embed_reply_free(&reply);
    expect(&w, ask(&w, "Hi"), AZO_OK); /* and the connection is good */
    assert_int_equal(fake_connections(w.service, FAKE_SERVICE), 1);
    world_close(&w);
}

/* A gateway that ignores encoding_format, in any pieces. */
static void test_embeddings_as_numbers(void **state) {
    static const char body[] = "{\"object\":\"list\",\"data\":[{\"index\":1,\"embedding\":[1.5e0,-0.25,0,1E-2]},{"
                               "\"object\":\"embedding\",\"index\":0,"
                               "\"embedding\":[ 3, -4.125 ,0.333333343, 16777217 ]}],\"usage\":{\"prompt_tokens\":7}}";
    static const float want[] = {3, -4.125F, 0.333333343F, 16777216, 1.5F, -0.25F, 0, 0.01F};
    (void)state;
    world w;
    azo_str inputs[2] = {{"a", 1}, {"b", 1}};
    azo_embed_desc desc = embed_desc(inputs, COUNT(inputs));
    azo_embed_reply reply;
    world_begin_with_key(&w);
    for (size_t size = 0; size < 20; size += 3) {
        fake_reply numbers = {.body = body, .chunk_size = size, .framing = FAKE_CHUNKED};
        fake_push(w.service, FAKE_SERVICE, &numbers);
        expect(&w, embed_as(&w, &desc, &reply), AZO_OK);
        assert_int_equal(reply.count, 2);
        assert_int_equal(reply.dimensions, 4);
        assert_int_equal(reply.prompt_tokens, 7);
        assert_memory_equal(reply.vectors, want, sizeof want);
        azo_embed_reply_free(&reply);
    }
    world_close(&w);
}

/* ---- raw ---- */

static void expect_uploaded(const fake_seen *seen, size_t len) {
    assert_int_equal(seen->body_len, len);
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)seen->body[i] != fake_byte(i)) {
            fail_msg("byte %lu is wrong", (unsigned long)i);
        }
    }
}

static void test_raw(void **state) {
    (void)state;
    world w;
    azo_raw_desc desc = raw_desc("/models");
    azo_raw_reply reply;
    azo_str value;
    world_begin(&w, "fake.entra.");
    expect(&w, raw_as(&w, &desc, &reply), AZO_OK);
    assert_int_equal(reply.http.status, 200);
    assert_int_equal(azo_json_get(reply.http.body, "data[0].id", &value), AZO_OK);
    assert_memory_equal(value.ptr, "\"gpt-4o-2024-11-20\"", value.len);
    expect_str(azo_http_header(&reply.http, "content-type"), "application/json");
    azo_raw_reply_free(&reply);
    assert_string_equal(last_request(&w, FAKE_SERVICE)->method, "GET");
    assert_string_equal(last_request(&w, FAKE_SERVICE)->target, "/openai/v1/models");

    desc.query = "subscription-key=canary"; /* of API Management, which takes it here, too */
    expect(&w, raw_as(&w, &desc, &reply), AZO_OK);
    azo_raw_reply_free(&reply);
    assert_string_equal(last_request(&w, FAKE_SERVICE)->target, "/openai/v1/models?subscription-key=canary");
    expect_part(shown.text, "> GET /openai/v1/models?<hidden> HTTP/1.1");
    desc.query = NULL;

    desc.path = "/chat/completions"; /* as text */
    desc.body = "{\"model\":\"gpt-4o\",\"messages\":[{\"role\":\"user\",\"content\":\"raw\"}]}";
    expect(&w, raw_as(&w, &desc, &reply), AZO_OK);
    expect_part(reply.http.body.ptr, "You said: raw");
    azo_raw_reply_free(&reply);

    desc.path = "/nothing/here"; /* a refusal brings its body along */
    desc.body = NULL;
    desc.method = "GET";
    expect(&w, raw_as(&w, &desc, &reply), AZO_ERR_NOT_FOUND);
    assert_int_equal(reply.http.status, 404);
    expect_part(reply.http.body.ptr, "Resource not found");
    assert_int_equal(w.error.http_status, 404);
    assert_int_equal(w.error.attempts, 1);
    azo_raw_reply_free(&reply);

    w.desc.api_version = "2024-10-21"; /* the same program on the dated route */
    world_restart(&w);
    desc = raw_desc("/chat/completions");
    desc.deployment = FAKE_DEPLOYMENT;
    desc.body = "{\"messages\":[{\"role\":\"user\",\"content\":\"raw\"}]} and what is behind body_len";
    desc.body_len = strlen("{\"messages\":[{\"role\":\"user\",\"content\":\"raw\"}]}");
    expect(&w, raw_as(&w, &desc, &reply), AZO_OK);
    expect_part(reply.http.body.ptr, "You said: raw");
    azo_raw_reply_free(&reply);
    assert_string_equal(last_request(&w, FAKE_SERVICE)->target,
                        "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21");
    desc.path = "/models";
    desc.query = "a=b%20c";
    desc.deployment = NULL;
    desc.body = NULL;
    desc.body_len = 0;
    expect(&w, raw_as(&w, &desc, &reply), AZO_OK);
    azo_raw_reply_free(&reply);
    assert_string_equal(last_request(&w, FAKE_SERVICE)->target, "/openai/models?a=b%20c&api-version=2024-10-21");
    world_close(&w);
}

static void test_upload(void **state) {
    enum { SIZE = 300000 };
    (void)state;
    world w;
    azo_raw_desc desc = raw_desc("/files");
    azo_raw_reply reply;
    body_source u = {SIZE, 0, 0, 0};
    char *bytes = (char *)malloc(SIZE);
    assert_non_null(bytes);
    for (size_t i = 0; i < SIZE; i++) {
        bytes[i] = (char)fake_byte(i);
    }
    world_begin(&w, "fake.entra.");
    desc.content_type = "multipart/form-data; boundary=x";
    desc.body_len = SIZE;
    for (int how = 0; how < 3; how++) { /* read piece by piece, borrowed, copied */
        desc.read_body = how == 0 ? read_source : NULL;
        desc.read_user_data = how == 0 ? &u : NULL;
        desc.body = how == 0 ? NULL : bytes;
        desc.body_borrowed = how == 1;
        expect(&w, raw_as(&w, &desc, &reply), AZO_OK);
        expect_part(reply.http.body.ptr, "\"bytes\":300000");
        azo_raw_reply_free(&reply);
        expect_uploaded(last_request(&w, FAKE_SERVICE), SIZE);
        assert_string_equal(fake_seen_header(last_request(&w, FAKE_SERVICE), "content-length"), "300000");
        if (how == 1) {
            assert_true(w.memory.peak_bytes < SIZE); /* neither kept it */
        }
    }
    assert_int_equal(u.restarts, 1);
    assert_true(u.calls >= SIZE / 5000);

    fake_reply busy = {.status = 503, .headers = "retry-after-ms: 1\r\n", .body = "busy"};
    fake_push(w.service, FAKE_SERVICE, &busy);
    memset(&u, 0, sizeof u);
    u.len = SIZE;
    desc.body = NULL;
    desc.read_body = read_source;
    desc.read_user_data = &u;
    expect(&w, raw_as(&w, &desc, &reply), AZO_OK);
    assert_int_equal(reply.http.attempts, 2);
    assert_int_equal(u.restarts, 2);
    expect_uploaded(last_request(&w, FAKE_SERVICE), SIZE);
    azo_raw_reply_free(&reply);

    azo_request *request = NULL; /* a turn ends after 64 KB, however fast the peer reads: others want theirs */
    memset(&u, 0, sizeof u);
    u.len = desc.body_len = 2000000;
    assert_int_equal(azo_raw_begin(w.client, &desc, &request, &w.error), AZO_OK);
    for (int64_t end = now_ms() + WAIT_MS; azo_request_result(request) == AZO_PENDING;) {
        size_t before = u.read;
        assert_true(now_ms() < end);
        assert_int_equal(azo_poll(w.client, 1000), AZO_OK);
        assert_true(u.read - before <= 100000);
    }
    expect(&w, azo_raw_end(request, NULL, &w.error), AZO_OK);
    free(bytes);
    world_close(&w);
}

typedef struct sink {
    size_t len;
    size_t wrong;
    size_t pause_every; /* bytes; 0: never */
    size_t pause_at;
    size_t stop_at;
    bool paused;
} sink;

static int take_bytes(const void *data, size_t len, void *user_data) {
    sink *s = (sink *)user_data;
    assert_false(s->paused);
    for (size_t i = 0; i < len; i++) {
        s->wrong += ((const unsigned char *)data)[i] != fake_byte(s->len + i) ? 1 : 0;
    }
    s->len += len;
    if (s->stop_at > 0 && s->len >= s->stop_at) {
        return AZO_STOP;
    }
    if (s->pause_every > 0 && s->len >= s->pause_at) {
        s->pause_at = s->len + s->pause_every;
        s->paused = true;
        return AZO_PAUSE;
    }
    return AZO_GO_ON;
}

static void test_download(void **state) {
    enum { SIZE = 300000 };
    static const fake_reply shapes[] = {
        {.pass = true},
        {.pass = true, .framing = FAKE_CHUNKED, .chunk_size = 1000, .chunk_extensions = true},
        {.pass = true, .framing = FAKE_UNTIL_CLOSE},
        {.pass = true, .framing = FAKE_CHUNKED, .chunk_size = 33000},
    };
    (void)state;
    world w;
    azo_raw_desc desc = raw_desc("/audio/speech");
    azo_raw_reply reply;
    world_begin(&w, "fake.entra.");
    desc.body = "{\"model\":\"gpt-4o\",\"input\":\"x\",\"voice\":\"alloy\",\"bytes\":300000}";
    desc.accept = "audio/mpeg";
    desc.on_body = take_bytes;
    for (size_t i = 0; i < COUNT(shapes); i++) {
        sink s;
        memset(&s, 0, sizeof s);
        desc.user_data = &s;
        fake_push(w.service, FAKE_SERVICE, &shapes[i]);
        expect(&w, raw_as(&w, &desc, &reply), AZO_OK);
        assert_int_equal(s.len, SIZE);
        assert_int_equal(s.wrong, 0);
        assert_int_equal(reply.http.body.len, 0);
        assert_int_equal(reply.http.status, 200);
        azo_raw_reply_free(&reply);

        azo_request *request = NULL; /* with pauses */
        int pauses = 0;
        int64_t end = now_ms() + WAIT_MS;
        memset(&s, 0, sizeof s);
        s.pause_every = s.pause_at = 40000;
        fake_push(w.service, FAKE_SERVICE, &shapes[i]);
        assert_int_equal(azo_raw_begin(w.client, &desc, &request, &w.error), AZO_OK);
        while (azo_request_result(request) == AZO_PENDING) {
            assert_true(now_ms() < end);
            assert_int_equal(azo_poll(w.client, s.paused ? 0 : 1000), AZO_OK);
            if (s.paused) {
                size_t len = s.len;
                poll_for(&w, 2);
                assert_int_equal(s.len, len);
                s.paused = false;
                pauses++;
                azo_request_resume(request);
            }
        }
        assert_int_equal(azo_raw_end(request, &reply, &w.error), AZO_OK);
        azo_raw_reply_free(&reply);
        assert_int_equal(s.len, SIZE);
        assert_int_equal(s.wrong, 0);
        assert_in_range(pauses, 4, 7);
    }
    assert_true(w.memory.peak_bytes < SIZE);

    sink s;
    memset(&s, 0, sizeof s);
    s.stop_at = 100000;
    desc.user_data = &s;
    expect(&w, raw_as(&w, &desc, &reply), AZO_ERR_CANCELLED);
    azo_raw_reply_free(&reply);
    assert_in_range(s.len, 100000, 200000);

    memset(&s, 0, sizeof s); /* no page of an error lands in the file */
    fake_reply page = {.status = 404, .headers = "Content-Type: text/html\r\n", .body = "<html>not here</html>"};
    fake_push(w.service, FAKE_SERVICE, &page);
    expect(&w, raw_as(&w, &desc, &reply), AZO_ERR_NOT_FOUND);
    assert_int_equal(s.len, 0);
    expect_str(reply.http.body, "<html>not here</html>");
    azo_raw_reply_free(&reply);

    desc.on_body = NULL; /* collected */
    expect(&w, raw_as(&w, &desc, &reply), AZO_OK);
    assert_int_equal(reply.http.body.len, SIZE);
    assert_int_equal((unsigned char)reply.http.body.ptr[SIZE - 1], fake_byte(SIZE - 1));
    azo_raw_reply_free(&reply);
    world_close(&w);
}

static int note_event(const azo_event *event, void *user_data) {
    test_notes *notes = (test_notes *)user_data;
    assert_int_equal(event->kind, AZO_EVENT_OTHER);
    test_note(notes, "[%s] ", event->name.len > 0 ? event->name.ptr : "");
    test_note_text(notes, event->json);
    return AZO_GO_ON;
}

static void test_raw_events(void **state) {
    static const char stream[] = ": hello\n\nevent: response.created\ndata: {\"a\":1}\n\n"
                                 "data: one\ndata: two\n\nevent: done\r\ndata: [DONE]\r\n\r\ndata: late\n\n";
    (void)state;
    world w;
    azo_raw_desc desc = raw_desc("/responses");
    azo_raw_reply reply;
    test_notes notes;
    memset(&notes, 0, sizeof notes);
    world_begin(&w, NULL);
    desc.body = "{}";
    desc.on_event = note_event;
    desc.user_data = &notes;
    for (size_t size = 0; size < 12; size++) {
        fake_reply events = {.body = stream, .chunk_size = size, .framing = FAKE_CHUNKED};
        fake_push(w.service, FAKE_SERVICE, &events);
        expect(&w, raw_as(&w, &desc, &reply), AZO_OK);
        assert_string_equal(notes.text, "[response.created] '{\"a\":1}'[] 'one\\ntwo'[done] '[DONE]'");
        azo_raw_reply_free(&reply);
        test_notes_free(&notes);
    }
    assert_string_equal(fake_seen_header(last_request(&w, FAKE_SERVICE), "accept"), "text/event-stream");
    desc.path = "/chat/completions";
    desc.body = "{\"model\":\"gpt-4o\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"raw\"}]}";
    expect(&w, raw_as(&w, &desc, &reply), AZO_OK);
    expect_part(notes.text, "[] '{\"choices\":[{");
    assert_string_equal(notes.text + notes.len - strlen("[] '[DONE]'"), "[] '[DONE]'");
    azo_raw_reply_free(&reply);
    test_notes_free(&notes);
    world_close(&w);
}

/* ---- forms of driving ---- */

enum { BLOCKING, POLLED, STEPPED, PUSHED, WAYS };

/* What epoll needs: edge-triggered, told by the push hook. */
typedef struct pusher {
    int epoll;
    int32_t timer;
    int registered;
} pusher;

static int push_watch(intptr_t fd, unsigned events, uint32_t id, void **slot, void *user_data) {
    pusher *p = (pusher *)user_data;
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.data.u32 = id;
    event.events = (uint32_t)EPOLLET | (events & AZO_POLL_IN ? (uint32_t)EPOLLIN : 0U) |
                   (events & AZO_POLL_OUT ? (uint32_t)EPOLLOUT : 0U);
    int operation = events == 0 ? EPOLL_CTL_DEL : *slot == NULL ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    p->registered += operation == EPOLL_CTL_ADD ? 1 : operation == EPOLL_CTL_DEL ? -1 : 0;
    *slot = events == 0 ? NULL : p;
    return epoll_ctl(p->epoll, operation, (int)fd, &event);
}

static void push_timer(int32_t timeout_ms, void *user_data) {
    ((pusher *)user_data)->timer = timeout_ms;
}

static void drive_by_push(world *w, pusher *p, const azo_request *request) {
    int64_t end = now_ms() + WAIT_MS;
    while (azo_request_result(request) == AZO_PENDING) {
        struct epoll_event events[4];
        azo_watch ready[4];
        assert_true(now_ms() < end);
        int count = epoll_wait(p->epoll, events, (int)COUNT(events), p->timer < 0 ? 5000 : p->timer);
        assert_true(count > 0 || p->timer >= 0); /* else something was never told */
        for (int i = 0; i < count; i++) {
            memset(&ready[i], 0, sizeof ready[i]);
            ready[i].id = events[i].data.u32;
        }
        assert_int_equal(azo_step(w->client, ready, (size_t)count), AZO_OK);
    }
}

static void drive_by_step(world *w, const azo_request *request) {
    int64_t end = now_ms() + WAIT_MS;
    while (azo_request_result(request) == AZO_PENDING) {
        azo_watch watches[8];
        struct pollfd fds[8];
        int32_t timeout;
        size_t ready = 0;
        assert_true(now_ms() < end);
        size_t count = azo_wait(w->client, watches, COUNT(watches), &timeout);
        assert_true(count <= COUNT(watches));
        for (size_t i = 0; i < count; i++) {
            fds[i].fd = (int)watches[i].fd;
            fds[i].events = (short)((watches[i].events & AZO_POLL_IN ? POLLIN : 0) |
                                    (watches[i].events & AZO_POLL_OUT ? POLLOUT : 0));
            fds[i].revents = 0;
        }
        assert_true(poll(fds, (nfds_t)count, timeout) >= 0);
        for (size_t i = 0; i < count; i++) {
            if (fds[i].revents != 0) {
                watches[ready++] = watches[i];
            }
        }
        assert_int_equal(azo_step(w->client, watches, ready), AZO_OK);
    }
}

typedef struct driver {
    world *w;
    int way;
    pusher pusher;
} driver;

static void drive(driver *d, azo_result begun, const azo_request *request) {
    expect(d->w, begun, AZO_OK);
    if (d->way == PUSHED) {
        drive_by_push(d->w, &d->pusher, request);
    } else if (d->way == STEPPED) {
        drive_by_step(d->w, request);
    } else {
        finish(d->w, request);
    }
}

static void note_chat(test_notes *notes, azo_result r, const azo_chat_reply *reply, const azo_error *e) {
    test_note(notes, "%d %d %d %s ", (int)r, reply->http.status, reply->http.attempts, r < 0 ? e->message : "");
    test_note_text(notes, reply->text);
    test_note_text(notes, reply->finish_reason);
    test_note_text(notes, reply->usage_json);
    test_note_text(notes, reply->message_json);
    test_note_text(notes, reply->prompt_filter_json);
    test_note_text(notes, reply->model);
    test_note(notes, "%d choices\n", (int)reply->choice_count);
}

static void drive_chat(driver *d, const azo_chat_desc *desc, test_notes *notes) {
    world *w = d->w;
    azo_chat_reply reply;
    azo_result r;
    if (d->way == BLOCKING) {
        r = azo_chat(w->client, desc, &reply, &w->error);
    } else {
        azo_request *request = NULL;
        r = azo_chat_begin(w->client, desc, &request, &w->error);
        drive(d, r, request);
        r = azo_chat_end(request, &reply, &w->error);
    }
    note_chat(notes, r, &reply, &w->error);
    azo_chat_reply_free(&reply);
}

static void drive_embed(driver *d, test_notes *notes) {
    world *w = d->w;
    azo_str input = azo_s("text");
    azo_embed_desc desc = embed_desc(&input, 1);
    azo_embed_reply reply;
    azo_result r;
    if (d->way == BLOCKING) {
        r = azo_embed(w->client, &desc, &reply, &w->error);
    } else {
        azo_request *request = NULL;
        r = azo_embed_begin(w->client, &desc, &request, &w->error);
        drive(d, r, request);
        r = azo_embed_end(request, &reply, &w->error);
    }
    test_note(notes, "%d %d %d:", (int)r, (int)reply.count, (int)reply.dimensions);
    for (size_t i = 0; i < reply.count * reply.dimensions; i++) {
        test_note(notes, " %f", (double)reply.vectors[i]);
    }
    test_note(notes, "\n");
    azo_embed_reply_free(&reply);
}

static void drive_raw(driver *d, const azo_raw_desc *desc, test_notes *notes) {
    world *w = d->w;
    azo_raw_reply reply;
    azo_result r;
    if (d->way == BLOCKING) {
        r = azo_raw(w->client, desc, &reply, &w->error);
    } else {
        azo_request *request = NULL;
        r = azo_raw_begin(w->client, desc, &request, &w->error);
        drive(d, r, request);
        r = azo_raw_end(request, &reply, &w->error);
    }
    test_note(notes, "%d %d ", (int)r, reply.http.status);
    test_note_bytes(notes, reply.http.body.ptr, reply.http.body.len < 100 ? reply.http.body.len : 100);
    test_note(notes, "\n");
    azo_raw_reply_free(&reply);
}

static void drive_token(driver *d, test_notes *notes) {
    world *w = d->w;
    azo_token_reply reply;
    azo_result r;
    if (d->way == BLOCKING) {
        r = azo_token(w->client, NULL, &reply, &w->error);
    } else {
        azo_request *request = NULL;
        r = azo_token_begin(w->client, NULL, &request, &w->error);
        drive(d, r, request);
        r = azo_token_end(request, &reply, &w->error);
    }
    expect(w, r, AZO_OK);
    test_note_text(notes, reply.token);
    test_note(notes, " %s\n", reply.source);
    azo_token_reply_free(&reply);
}

/* A call of every kind. */
static void drive_all(driver *d, test_notes *notes) {
    azo_message message = azo_user("Hi");
    azo_message bad = azo_user("this is forbidden");
    azo_chat_desc chat_it = chat_desc(&message);
    azo_raw_desc raw_it = raw_desc("/models");
    listener l;
    body_source u = {50000, 0, 0, 0};
    drive_chat(d, &chat_it, notes);
    chat_it = listener_desc(&message, &l);
    drive_chat(d, &chat_it, notes);
    test_note(notes, "%s %s %d\n", l.text.text, l.kinds.text, l.events);
    chat_it.messages = &bad;
    drive_chat(d, &chat_it, notes);
    drive_embed(d, notes);
    drive_raw(d, &raw_it, notes);
    raw_it.path = "/files";
    raw_it.content_type = "text/plain";
    raw_it.read_body = read_source;
    raw_it.read_user_data = &u;
    raw_it.body_len = u.len;
    drive_raw(d, &raw_it, notes);
    drive_token(d, notes);
    listener_free(&l);
}

static void expect_same_request(const fake_seen *a, const fake_seen *b) {
    assert_string_equal(a->head, b->head);
    assert_int_equal(a->body_len, b->body_len);
    assert_memory_equal(a->body, b->body, a->body_len);
}

/* The numbers that the fake counts up. */
static void hide_numbers(char *text, const char *before) {
    for (char *at = strstr(text, before); at != NULL; at = strstr(at, before)) {
        at += strlen(before);
        for (; (*at >= '0' && *at <= '9') || (*at >= 'a' && *at <= 'f') || *at == '-'; at++) {
            *at = '#';
        }
    }
}

/* Blocking, polled, stepped with ids, and pushed to an edge-triggered epoll: the same requests to the byte, and the
 * same replies. The fake issues the same token each time. */
static void test_forms_are_equal(void **state) {
    (void)state;
    world w;
    test_notes notes[WAYS];
    size_t first[WAYS + 1];
    memset(notes, 0, sizeof notes);
    world_open(&w, NULL);
    fake_set(w.service, FAKE_ENTRA, FAKE_TOKEN_REUSE, 1);
    for (int way = 0; way < WAYS; way++) {
        driver d;
        memset(&d, 0, sizeof d);
        d.w = &w;
        d.way = way;
        d.pusher.epoll = epoll_create1(0);
        assert_true(d.pusher.epoll >= 0);
        if (way == PUSHED) {
            w.desc.loop.watch = push_watch;
            w.desc.loop.timer = push_timer;
            w.desc.loop.user_data = &d.pusher;
        }
        first[way] = fake_count(w.service, FAKE_SERVICE);
        world_start(&w);
        drive_all(&d, &notes[way]);
        azo_client_close(w.client);
        w.client = NULL;
        assert_int_equal(d.pusher.registered, 0);
        (void)close(d.pusher.epoll);
    }
    first[WAYS] = fake_count(w.service, FAKE_SERVICE);
    for (int way = 0; way < WAYS; way++) {
        assert_int_equal(first[way + 1] - first[way], 6);
        expect_same_request(fake_request(w.service, FAKE_ENTRA, 0), fake_request(w.service, FAKE_ENTRA, (size_t)way));
        for (size_t i = 0; i < 6; i++) {
            expect_same_request(fake_request(w.service, FAKE_SERVICE, i),
                                fake_request(w.service, FAKE_SERVICE, first[way] + i));
        }
        hide_numbers(notes[way].text, "request ");
        hide_numbers(notes[way].text, "file-");
        assert_string_equal(notes[way].text, notes[0].text);
    }
    for (int way = 0; way < WAYS; way++) {
        test_notes_free(&notes[way]);
    }
    world_close(&w);
}

/* ---- many requests on one client ---- */

/* Begins `count` chats, and takes them all out of azo_next, each one once. */
static void run_many(world *w, int count) {
    azo_request *all[32];
    char texts[32][32];
    bool seen[32];
    int64_t end = now_ms() + WAIT_MS;
    memset(seen, 0, sizeof seen);
    assert_true(count <= 32);
    for (int i = 0; i < count; i++) {
        azo_message message;
        (void)snprintf(texts[i], sizeof texts[i], "number %d", i);
        message = azo_user(texts[i]);
        azo_chat_desc desc = chat_desc(&message);
        desc.stream = i % 2 == 1;
        desc.call.tag = texts[i];
        all[i] = chat_begin(w, &desc);
        assert_ptr_equal(azo_request_tag(all[i]), texts[i]);
    }
    assert_null(azo_next(w->client));
    for (int done = 0; done < count;) {
        azo_request *request;
        assert_true(now_ms() < end);
        assert_int_equal(azo_poll(w->client, 1000), AZO_OK);
        while ((request = azo_next(w->client)) != NULL) {
            azo_chat_reply reply;
            char said[64];
            const char *tag = (const char *)azo_request_tag(request);
            (void)snprintf(said, sizeof said, "You said: %s", tag);
            expect(w, chat_end(w, request, &reply), AZO_OK);
            expect_str(reply.text, said);
            long number = strtol(tag + 7, NULL, 10);
            assert_false(seen[number]);
            seen[number] = true;
            azo_chat_reply_free(&reply);
            done++;
        }
    }
    assert_null(azo_next(w->client));
}

static void test_twenty_at_once(void **state) {
    (void)state;
    world w;
    world_open(&w, NULL);
    world_count_memory(&w, "fake.entra.");
    fake_set(w.service, FAKE_SERVICE, FAKE_DELAY_MS, 30);
    w.desc.connect_timeout_ms = AZO_OFF; /* twenty handshakes in one thread, on a machine of any speed */
    world_start(&w);
    run_many(&w, 20);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 1);
    assert_int_equal(fake_count(w.service, FAKE_SERVICE), 20);
    assert_in_range(fake_connections(w.service, FAKE_SERVICE), 2, 20);
    assert_in_range(fake_most_concurrent(w.service, FAKE_SERVICE), 2, 20);
    size_t connections = fake_connections(w.service, FAKE_SERVICE);
    run_many(&w, 10); /* over connections that are there */
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 1);
    assert_true(fake_connections(w.service, FAKE_SERVICE) <= connections + 1);
    world_close(&w);
}

static void test_few_connections(void **state) {
    (void)state;
    for (int most = 1; most <= 3; most++) {
        world w;
        world_open(&w, NULL);
        w.desc.max_connections = most;
        fake_set(w.service, FAKE_SERVICE, FAKE_DELAY_MS, 5);
        world_start(&w);
        run_many(&w, 20);
        assert_int_equal(fake_count(w.service, FAKE_ENTRA), 1);
        assert_int_equal(fake_count(w.service, FAKE_SERVICE), 20);
        assert_int_equal(fake_connections(w.service, FAKE_SERVICE), most);
        assert_in_range(fake_most_concurrent(w.service, FAKE_SERVICE), 1, most);
        fake_drop_connections(w.service, FAKE_SERVICE);
        run_many(&w, 6);
        assert_true(fake_most_concurrent(w.service, FAKE_SERVICE) <= (size_t)most);
        world_close(&w);
    }
}

/* A blocking call moves what else is on its way. */
static void test_blocking_moves_the_others(void **state) {
    (void)state;
    world w;
    azo_message message = azo_user("other");
    azo_chat_desc desc = chat_desc(&message);
    azo_chat_reply reply;
    world_begin(&w, NULL);
    azo_request *other = chat_begin(&w, &desc);
    for (int64_t end = now_ms() + WAIT_MS; azo_request_result(other) == AZO_PENDING && now_ms() < end;) {
        expect(&w, ask(&w, "Hi"), AZO_OK);
    }
    assert_int_equal(azo_request_result(other), AZO_OK);
    assert_ptr_equal(azo_next(w.client), other);
    expect(&w, chat_end(&w, other, &reply), AZO_OK);
    expect_str(reply.text, "You said: other");
    azo_chat_reply_free(&reply);
    world_close(&w);
}

/* ---- connections ---- */

static void test_reuse(void **state) {
    (void)state;
    world w;
    azo_chat_reply reply;
    world_begin(&w, NULL);
    for (int i = 0; i < 5; i++) {
        expect(&w, ask(&w, "Hi"), AZO_OK);
        assert_int_equal(last_request(&w, FAKE_SERVICE)->connection, 1);
    }
    assert_int_equal(fake_connections(w.service, FAKE_SERVICE), 1);
    assert_int_equal(fake_connections(w.service, FAKE_ENTRA), 1);
    assert_int_equal(fake_resumptions(w.service), 0);

    for (int i = 0; i < 3; i++) { /* closed by the server in between: no attempt is lost, and TLS is resumed */
        fake_drop_connections(w.service, FAKE_SERVICE);
        expect(&w, chat(&w, "Hi", &reply), AZO_OK);
        expect_hi(&reply);
        azo_chat_reply_free(&reply);
        assert_int_equal(fake_connections(w.service, FAKE_SERVICE), i + 2);
        assert_int_equal(fake_resumptions(w.service), i + 1);
        assert_int_equal(fake_count(w.service, FAKE_SERVICE), i + 6);
    }
    for (int closing = 1; closing <= 2; closing++) { /* after each answer, with and without saying so */
        fake_set(w.service, FAKE_SERVICE, FAKE_CLOSING, closing);
        for (int i = 0; i < 5; i++) {
            expect(&w, chat(&w, "Hi", &reply), AZO_OK);
            assert_int_equal(reply.http.attempts, 1);
            azo_chat_reply_free(&reply);
        }
    }
    assert_int_equal(fake_count(w.service, FAKE_SERVICE), 18);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 1);
    world_close(&w);
}

/* Some servers take a ticket for another host's, or know no tickets, or only one version. */
static void test_kinds_of_tls(void **state) {
    static const fake_options kinds[] = {
        {.tls_max = 12}, {.tls_max = 12, .no_tickets = true}, {.tls_min = 13}, {.no_tickets = true}};
    (void)state;
    for (size_t i = 0; i < COUNT(kinds); i++) {
        world w;
#if MBEDTLS_VERSION_NUMBER < 0x03000000
        if (kinds[i].tls_min == 13) {
            continue;
        }
#endif
        world_open(&w, &kinds[i]);
        world_start(&w);
        for (int k = 0; k < 3; k++) {
            expect(&w, ask(&w, "Hi"), AZO_OK);
            fake_drop_connections(w.service, FAKE_SERVICE);
        }
        assert_int_equal(fake_resumptions(w.service), kinds[i].no_tickets ? 0 : 2);
        if (kinds[i].tls_max == 12 || kinds[i].tls_min == 13) {
            assert_string_equal(last_request(&w, FAKE_SERVICE)->tls, kinds[i].tls_max == 12 ? "TLSv1.2" : "TLSv1.3");
        }
        world_close(&w);
    }
}

static void test_plain_http_on_loopback(void **state) {
    static const fake_options plain = {.plain_service = true, .plain_entra = true};
    (void)state;
    world w;
    azo_chat_reply reply;
    world_open(&w, &plain);
    world_start(&w);
    expect(&w, chat(&w, "Hi", &reply), AZO_OK);
    expect_hi(&reply);
    azo_chat_reply_free(&reply);
    fake_set(w.service, FAKE_SERVICE, FAKE_HEADER_CASE, 2);
    expect(&w, chat(&w, "Hi", &reply), AZO_OK);
    expect_hi(&reply);
    azo_chat_reply_free(&reply);
    fake_set(w.service, FAKE_SERVICE, FAKE_HEADER_CASE, 1);
    expect(&w, chat(&w, "Hi", &reply), AZO_OK);
    expect_hi(&reply);
    azo_chat_reply_free(&reply);
    assert_string_equal(last_request(&w, FAKE_SERVICE)->tls, "");
    world_close(&w);
}

/* ---- tokens that change ---- */

static const char *bearer(const world *w, size_t index) {
    const fake_seen *seen = fake_request(w->service, FAKE_SERVICE, index);
    assert_non_null(seen);
    return fake_seen_header(seen, "authorization");
}

static void test_revoked_token(void **state) {
    (void)state;
    world w;
    azo_chat_reply reply;
    world_open(&w, NULL);
    world_use_clock(&w);
    world_start(&w);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    fake_revoke_tokens(w.service);
    expect(&w, chat(&w, "Hi", &reply), AZO_OK); /* refused, fetched, sent again */
    expect_str(reply.text, "You said: Hi");
    azo_chat_reply_free(&reply);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 2);
    assert_int_equal(fake_count(w.service, FAKE_SERVICE), 3);
    assert_string_equal(bearer(&w, 0), bearer(&w, 1));
    assert_string_not_equal(bearer(&w, 1), bearer(&w, 2));

    fake_revoke_tokens(w.service); /* twice in half a minute is not the token's fault */
    expect(&w, ask(&w, "Hi"), AZO_ERR_UNAUTHORIZED);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 2);
    clock_ahead_ms += 31000;
    run_many(&w, 10); /* one fetch for all */
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 3);
    world_close(&w);
}

/* The metadata service gives the same token again: no replay is worth it. */
static void test_revoked_token_that_stays(void **state) {
    (void)state;
    world w;
    world_open(&w, NULL);
    world_use_imds(&w);
    fake_set(w.service, FAKE_IMDS, FAKE_TOKEN_REUSE, 1);
    world_start(&w);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    fake_revoke_tokens(w.service);
    expect(&w, ask(&w, "Hi"), AZO_ERR_UNAUTHORIZED);
    assert_int_equal(fake_count(w.service, FAKE_IMDS), 2);
    assert_int_equal(fake_count(w.service, FAKE_SERVICE), 2);
    world_close(&w);
}

static void poll_until_count(world *w, fake_role role, size_t count) {
    int64_t end = now_ms() + WAIT_MS;
    while (fake_count(w->service, role) < count) {
        assert_true(now_ms() < end);
        poll_for(w, 5);
    }
    poll_for(w, 20);
}

/* Ahead of its end a token is renewed beside the calls that it still serves. */
static void test_refresh_ahead(void **state) {
    (void)state;
    world w;
    world_open(&w, NULL);
    world_use_clock(&w);
    fake_set(w.service, FAKE_ENTRA, FAKE_TOKEN_REFRESH_S, 600);
    world_start(&w);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    clock_ahead_ms += 590000;
    expect(&w, ask(&w, "Hi"), AZO_OK);
    poll_for(&w, 20);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 1);
    clock_ahead_ms += 20000;
    fake_set(w.service, FAKE_ENTRA, FAKE_DELAY_MS, 100);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    assert_string_equal(bearer(&w, 2), bearer(&w, 0)); /* did not wait */
    poll_until_count(&w, FAKE_ENTRA, 2);
    size_t last = 2;
    for (int64_t end = now_ms() + WAIT_MS; strcmp(bearer(&w, last), bearer(&w, 0)) == 0 && now_ms() < end; last++) {
        poll_for(&w, 50);
        expect(&w, ask(&w, "Hi"), AZO_OK);
    }
    assert_string_not_equal(bearer(&w, last), bearer(&w, 0));
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 2);

    fake_reply refusal = {.status = 401,
                          .body = "{\"error\":\"invalid_client\",\"error_description\":"
                                  "\"AADSTS7000222: expired.\",\"error_codes\":[7000222]}"};
    fake_push(w.service, FAKE_ENTRA, &refusal); /* a renewal that fails harms nobody while the token is good */
    clock_ahead_ms += 610000;
    expect(&w, ask(&w, "Hi"), AZO_OK);
    poll_until_count(&w, FAKE_ENTRA, 3);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    assert_string_equal(bearer(&w, last + 2), bearer(&w, last));
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 3);
    clock_ahead_ms += 4000000; /* past its end: fetched before the call */
    expect(&w, ask(&w, "Hi"), AZO_OK);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 4);
    assert_string_not_equal(bearer(&w, last + 3), bearer(&w, last));
    world_close(&w);
}

/* A claims challenge goes to Entra word for word. */
static void test_claims_challenge(void **state) {
    (void)state;
    world w;
    azo_chat_reply reply;
    world_begin(&w, NULL);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    fake_reply challenge = {
        .status = 401,
        .headers = "WWW-Authenticate: Bearer realm=\"\", authorization_uri=\"https://login.example/authorize\", "
                   "error=\"insufficient_claims\", "
                   "claims=\"eyJhY2Nlc3NfdG9rZW4iOnsibmJmIjp7ImVzc2VudGlhbCI6dHJ1ZX19fQ==\"\r\n",
        .body = "{\"error\":{\"code\":\"InvalidAuthenticationToken\",\"message\":\"Continuous access evaluation.\"}}"};
    fake_push(w.service, FAKE_SERVICE, &challenge);
    expect(&w, chat(&w, "Hi", &reply), AZO_OK);
    azo_chat_reply_free(&reply);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 2);
    expect_field(fake_request(w.service, FAKE_ENTRA, 0), "claims", NULL);
    expect_field(fake_request(w.service, FAKE_ENTRA, 1), "claims", "{\"access_token\":{\"nbf\":{\"essential\":true}}}");
    world_close(&w);
}

/* The request's block and the reply's: what lies between is kept from the calls before. */
static void test_heap_calls_of_a_warm_call(void **state) {
    world w;
    (void)state;
    world_open(&w, NULL);
    world_count_memory(&w, "fake.entra.");
    world_start(&w);
    for (int i = 0; i < 4; i++) {
        azo_chat_reply reply;
        size_t before = w.memory.calls;
        expect(&w, chat(&w, "Hi", &reply), AZO_OK);
        assert_true(reply.text.len > 0 && reply.http.body.len > 0);
        azo_chat_reply_free(&reply);
        assert_true(i < 2 || w.memory.calls - before == 2);
    }
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keyless_by_environment),
        cmocka_unit_test(test_keyless_by_imds),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_static_token),
        cmocka_unit_test(test_api_key),
        cmocka_unit_test(test_provider),
        cmocka_unit_test(test_provider_that_waits),
        cmocka_unit_test(test_provider_that_fails),
        cmocka_unit_test(test_token_alone),
        cmocka_unit_test(test_dated_route),
        cmocka_unit_test(test_spellings_of_the_endpoint),
        cmocka_unit_test(test_endpoint_of_a_call),
        cmocka_unit_test(test_extra_headers),
        cmocka_unit_test(test_fields_of_chat),
        cmocka_unit_test(test_stream_in_every_shape),
        cmocka_unit_test(test_events_of_a_stream),
        cmocka_unit_test(test_stream_ends_early),
        cmocka_unit_test(test_tools),
        cmocka_unit_test(test_tool_choice),
        cmocka_unit_test(test_history),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_embeddings_as_numbers),
        cmocka_unit_test(test_raw),
        cmocka_unit_test(test_upload),
        cmocka_unit_test(test_download),
        cmocka_unit_test(test_raw_events),
        cmocka_unit_test(test_forms_are_equal),
        cmocka_unit_test(test_twenty_at_once),
        cmocka_unit_test(test_few_connections),
        cmocka_unit_test(test_blocking_moves_the_others),
        cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_kinds_of_tls),
        cmocka_unit_test(test_plain_http_on_loopback),
        cmocka_unit_test(test_revoked_token),
        cmocka_unit_test(test_revoked_token_that_stays),
        cmocka_unit_test(test_refresh_ahead),
        cmocka_unit_test(test_claims_challenge),
        cmocka_unit_test(test_heap_calls_of_a_warm_call),
        cmocka_unit_test(test_no_secret_was_shown), /* the last one */
    };
    return cmocka_run_group_tests(tests, clear_environment, NULL);
}
