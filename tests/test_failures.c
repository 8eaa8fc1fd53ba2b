/* test_failures.c - whole calls that go wrong, over sockets and TLS against the fake service: who is to blame, what is
 * kept, how often it is tried, and that it ends in time. test_calls.c has the calls that go well. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* setenv */
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "calls.h"

#include <netinet/in.h>

#define CHUNK(text) "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text "\"}}]}\n\n"
#define LAST "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
#define DONE "data: [DONE]\n\n"

/* A world whose client does not try again, has no token to fetch, and tells everything it allocates. */
static void world_of_failures(world *w, const fake_options *options) {
    world_open(w, options);
    world_use_key(w);
    world_count_memory(w, FAKE_API_KEY);
    w->desc.max_retries = AZO_OFF;
}

/* A port on which nobody listens. */
static unsigned dead_port(void) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    (void)close(fd);
    return ntohs(address.sin_port);
}

/* A call with a prompt that no message may repeat. */
static azo_result fail_chat(world *w) {
    int64_t start = now_ms();
    azo_result r = ask(w, "canary-prompt");
    assert_in_range(now_ms() - start, 0, IN_TIME_MS);
    return r;
}

/* The same, streamed to a listener unless that is NULL, with a limit for silence in the answer (0: the usual one). */
static azo_result listen_for(world *w, listener *l, int32_t idle_ms, azo_chat_reply *reply) {
    azo_message message = azo_user("canary-prompt");
    azo_chat_desc desc = l != NULL ? listener_desc(&message, l) : chat_desc(&message);
    desc.call.idle_timeout_ms = idle_ms;
    return chat_as(w, &desc, reply);
}

static azo_result stream_to(world *w, listener *l, azo_chat_reply *reply) {
    return listen_for(w, l, 0, reply);
}

/* ---- identity ---- */

static void test_wrong_secret(void **state) {
    (void)state;
    world w;
    world_open(&w, NULL);
    world_count_memory(&w, "canary-wrong-secret");
    w.desc.credential.client_secret = "canary-wrong-secret";
    world_start(&w);
    expect(&w, fail_chat(&w), AZO_ERR_TOKEN);
    expect_part(w.error.message,
                "Entra ID rejected the client secret (AADSTS7000215, HTTP 401). Put the secret's value");
    expect_part(w.error.message, "AZURE_CLIENT_SECRET");
    expect_part(w.error.detail, "Invalid client secret provided");
    assert_int_equal(w.error.aadsts, 7000215);
    assert_int_equal(w.error.http_status, 401);
    assert_int_equal(w.error.who, AZO_WHO_IDENTITY);
    assert_int_equal(w.error.stage, AZO_STAGE_TOKEN);
    assert_string_equal(w.error.service_code, "invalid_client");
    assert_true(w.error.request_id[0] != '\0');
    expect(&w, fail_chat(&w), AZO_ERR_TOKEN); /* from memory: Entra locks out who keeps asking */
    assert_in_range(w.error.retry_after_ms, 1, 5000);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 1);
    assert_int_equal(fake_count(w.service, FAKE_SERVICE), 0);
    world_close(&w);
}

static void test_wrong_names(void **state) {
    (void)state;
    for (int which = 0; which < 3; which++) {
        static const int numbers[] = {90002, 700016, 500011};
        world w;
        world_open(&w, NULL);
        if (which == 0) {
            w.desc.credential.tenant_id = "99999999-0000-0000-0000-000000000000";
        } else if (which == 1) {
            w.desc.credential.client_id = "99999999-0000-0000-0000-000000000000";
        } else {
            w.desc.scope = "https://nothing.example/.default";
        }
        world_start(&w);
        expect(&w, fail_chat(&w), AZO_ERR_TOKEN);
        assert_int_equal(w.error.aadsts, numbers[which]);
        assert_int_equal(fake_count(w.service, FAKE_ENTRA), 1);
        world_close(&w);
    }
}

static void test_missing_role(void **state) {
    (void)state;
    for (int imds = 0; imds < 2; imds++) {
        world w;
        world_open(&w, NULL);
        if (imds) {
            world_use_imds(&w);
            w.desc.credential.managed_client_id = FAKE_POWERLESS_CLIENT_ID;
        } else {
            w.desc.credential.client_id = FAKE_POWERLESS_CLIENT_ID;
        }
        world_start(&w);
        expect(&w, fail_chat(&w), AZO_ERR_FORBIDDEN);
        expect_part(w.error.message, "Give it the role Cognitive Services OpenAI User");
        expect_part(w.error.detail, "lacks the required data action");
        assert_string_equal(w.error.service_code, "PermissionDenied");
        assert_int_equal(w.error.http_status, 401);
        assert_int_equal(w.error.who, AZO_WHO_RESOURCE);
        assert_int_equal(w.error.attempts, 1); /* another token would have no other role */
        assert_int_equal(fake_count(w.service, imds ? FAKE_IMDS : FAKE_ENTRA), 1);
        world_close(&w);
    }
}

static void test_unknown_deployment(void **state) {
    static const char *const versions[] = {NULL, "2024-10-21"};
    (void)state;
    world w;
    world_of_failures(&w, NULL);
    w.desc.deployment = "gpt-x";
    for (size_t i = 0; i < COUNT(versions); i++) {
        w.desc.api_version = versions[i];
        world_restart(&w);
        expect(&w, fail_chat(&w), AZO_ERR_NOT_FOUND);
        expect_part(w.error.message, "No deployment named 'gpt-x' on localhost");
        assert_string_equal(w.error.service_code, "DeploymentNotFound");
        assert_int_equal(w.error.who, AZO_WHO_RESOURCE);
        assert_int_equal(w.error.attempts, 1);
    }
    w.desc.api_version = "2020-01-01"; /* not a version of the service */
    w.desc.deployment = FAKE_DEPLOYMENT;
    world_restart(&w);
    expect(&w, fail_chat(&w), AZO_ERR_NOT_FOUND);
    expect_part(w.error.message, "2020-01-01");
    world_close(&w);
}

/* The metadata service takes the connection and says nothing, as a host in the way may. */
static void test_imds_that_hangs(void **state) {
    (void)state;
    for (int silence = 1; silence <= 2; silence++) {
        world w;
        int64_t start = now_ms();
        world_open(&w, NULL);
        memset(&w.desc.credential, 0, sizeof w.desc.credential);
        fake_set(w.service, FAKE_IMDS, FAKE_SILENCE, silence);
        w.desc.total_timeout_ms = 700;
        world_start(&w);
        expect(&w, fail_chat(&w), AZO_ERR_TIMEOUT);
        assert_in_range(now_ms() - start, 650, IN_TIME_MS);
        assert_int_equal(w.error.stage, AZO_STAGE_TOKEN);
        expect_part(w.error.message, "waiting for its token");
        world_close(&w);
    }
    world w; /* with time enough, the chain itself gives up: after five seconds, which the clock jumps over */
    azo_message message = azo_user("canary-prompt");
    azo_chat_desc desc = chat_desc(&message);
    world_open(&w, NULL);
    memset(&w.desc.credential, 0, sizeof w.desc.credential);
    world_use_clock(&w);
    fake_set(w.service, FAKE_IMDS, FAKE_SILENCE, 1);
    world_start(&w);
    azo_request *request = chat_begin(&w, &desc);
    int64_t end = now_ms() + WAIT_MS;
    while (fake_count(w.service, FAKE_IMDS) == 0 && now_ms() < end) {
        poll_for(&w, 5);
    }
    clock_ahead_ms += 5001;
    finish(&w, request);
    expect(&w, chat_end(&w, request, NULL), AZO_ERR_NO_CREDENTIAL);
    expect_part(w.error.detail, "did not answer in time");
    assert_int_equal(fake_count(w.service, FAKE_IMDS), 1);
    world_close(&w);
}

static void test_nothing_to_sign_in_with(void **state) {
    (void)state;
    world w;
    char imds[64];
    world_open(&w, NULL);
    world_count_memory(&w, "canary");
    memset(&w.desc.credential, 0, sizeof w.desc.credential);
    (void)snprintf(imds, sizeof imds, "http://127.0.0.1:%u", dead_port());
    (void)setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", imds, 1);
    (void)setenv("AZURE_TENANT_ID", FAKE_TENANT_ID, 1);
    world_start(&w);
    expect(&w, fail_chat(&w), AZO_ERR_NO_CREDENTIAL);
    expect_part(w.error.message, "AZURE_CLIENT_SECRET");
    expect_part(w.error.detail, "environment: unavailable");
    expect_part(w.error.detail, "\nmanaged identity: unavailable");
    assert_int_equal(w.error.who, AZO_WHO_PROGRAM);
    (void)setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:1/canary-identity-endpoint", 1);
    world_restart(&w);
    expect(&w, fail_chat(&w), AZO_ERR_NO_CREDENTIAL);
    expect_part(w.error.message, "token_provider");
    world_close(&w);
}

/* A wrong secret stops the chain: going on to another identity would hide the mistake. */
static void test_failed_is_not_unavailable(void **state) {
    (void)state;
    world w;
    world_open(&w, NULL);
    w.desc.credential.kind = AZO_CRED_CHAIN;
    w.desc.credential.client_secret = "canary-wrong-secret";
    world_start(&w);
    expect(&w, fail_chat(&w), AZO_ERR_TOKEN);
    assert_int_equal(w.error.aadsts, 7000215);
    assert_int_equal(fake_count(w.service, FAKE_IMDS), 0);
    world_close(&w);
}

static void test_dead_entra(void **state) {
    (void)state;
    world w;
    world_open(&w, NULL);
    (void)snprintf(w.authority, sizeof w.authority, "https://localhost:%u", dead_port());
    world_start(&w);
    expect(&w, fail_chat(&w), AZO_ERR_TOKEN);
    expect_part(w.error.message, "No token from Entra ID");
    expect_part(w.error.message, "localhost");
    assert_int_equal(fake_count(w.service, FAKE_SERVICE), 0);
    world_close(&w);
}

/* What a server repeats of a secret is taken out again. */
static void test_servers_that_repeat_secrets(void **state) {
    (void)state;
    world w;
    char body[512];
    world_open(&w, NULL);
    w.desc.max_retries = AZO_OFF;
    world_start(&w);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    const char *bearer = fake_seen_header(fake_request(w.service, FAKE_SERVICE, 0), "authorization");
    (void)snprintf(body, sizeof body, "{\"error\":{\"code\":\"Bad\",\"message\":\"You sent %s to me\"}}", bearer);
    fake_reply refusal = {.status = 400, .body = body};
    fake_push(w.service, FAKE_SERVICE, &refusal);
    expect(&w, fail_chat(&w), AZO_ERR_BAD_REQUEST);
    expect_part(w.error.detail, "to me");
    fake_reply entra = {.status = 400,
                        .body = "{\"error\":\"invalid_request\",\"error_description\":\"AADSTS900144: look: "
                                "client_secret=" FAKE_CLIENT_SECRET " is what you sent.\"}"};
    fake_push(w.service, FAKE_ENTRA, &entra);
    world_restart(&w);
    expect(&w, fail_chat(&w), AZO_ERR_TOKEN);
    world_use_key(&w);
    world_restart(&w);
    fake_reply keyed = {.status = 401,
                        .body = "{\"error\":{\"code\":\"401\",\"message\":\"Not " FAKE_API_KEY "\"}}",
                        .headers = "Set-Cookie: session=canary-cookie\r\n"};
    fake_push(w.service, FAKE_SERVICE, &keyed);
    expect(&w, fail_chat(&w), AZO_ERR_UNAUTHORIZED);
    world_close(&w);
}

/* ---- refusals ---- */

static void test_content_filter(void **state) {
    (void)state;
    world w;
    world_of_failures(&w, NULL);
    world_start(&w);
    for (int streamed = 0; streamed < 2; streamed++) {
        azo_message message = azo_user("canary-prompt that is forbidden");
        listener l;
        azo_chat_desc desc = listener_desc(&message, &l);
        azo_chat_reply reply;
        azo_str value;
        desc.on_event = streamed ? listen_to : NULL;
        expect(&w, chat_as(&w, &desc, &reply), AZO_ERR_CONTENT_FILTER);
        assert_int_equal(w.error.who, AZO_WHO_PROMPT);
        assert_int_equal(w.error.http_status, 400);
        assert_int_equal(w.error.attempts, 1);
        assert_string_equal(w.error.service_code, "content_filter");
        expect_part(w.error.message, "violence");
        assert_int_equal(reply.http.status, 400);
        assert_int_equal(azo_json_get(reply.http.body, "error.innererror.code", &value), AZO_OK);
        assert_memory_equal(value.ptr, "\"ResponsibleAIPolicyViolation\"", value.len);
        assert_int_equal(
            azo_json_get(reply.http.body, "error.innererror.content_filter_result.violence.severity", &value), AZO_OK);
        assert_memory_equal(value.ptr, "\"medium\"", value.len);
        assert_int_equal(l.events, 0);
        assert_int_equal(reply.choice_count, 0);
        azo_chat_reply_free(&reply);
    }
    fake_reply filtered = {.body =
                               "{\"choices\":[{\"index\":0,\"finish_reason\":\"content_filter\",\"message\":{\"role\":"
                               "\"assistant\",\"content\":\"cut\"},\"content_filter_results\":{\"hate\":{"
                               "\"filtered\":true}}}]}"};
    azo_chat_reply reply;
    fake_push(w.service, FAKE_SERVICE, &filtered); /* the answer was cut by it: that is an answer */
    expect(&w, chat(&w, "Hi", &reply), AZO_OK);
    expect_str(reply.finish_reason, "content_filter");
    expect_str(reply.text, "cut");
    azo_chat_reply_free(&reply);
    assert_int_equal(fake_connections(w.service, FAKE_SERVICE), 1);
    world_close(&w);
}

static void test_rate_limit(void **state) {
    (void)state;
    world w;
    azo_chat_reply reply;
    world_begin_with_key(&w);
    fake_reply busy = {.status = 429,
                       .headers = "retry-after-ms: 100\r\nRetry-After: 50\r\n",
                       .body = "{\"error\":{\"code\":\"429\",\"message\":\"Slow down.\"}}"};
    int64_t start = now_ms();
    fake_push(w.service, FAKE_SERVICE, &busy);
    fake_push(w.service, FAKE_SERVICE, &busy);
    expect(&w, chat(&w, "Hi", &reply), AZO_OK);
    assert_in_range(now_ms() - start, 200, IN_TIME_MS);
    assert_int_equal(reply.http.attempts, 3);
    azo_chat_reply_free(&reply);

    static const struct {
        const char *headers;
        int32_t wait;
        int32_t total;
    } longer[] = {
        {"Retry-After: 61\r\n", 61000, 0},
        {"retry-after: 86400\r\n", 86400000, 0},
        {"x-ms-retry-after-ms: 600000\r\nRetry-After: 1\r\n", 600000, 0},
        {"Retry-After: 20\r\n", 20000, 15000}, /* would end the budget */
    };
    for (size_t i = 0; i < COUNT(longer); i++) {
        azo_message message = azo_user("canary-prompt");
        azo_chat_desc desc = chat_desc(&message);
        busy.headers = longer[i].headers;
        desc.call.total_timeout_ms = longer[i].total;
        fake_push(w.service, FAKE_SERVICE, &busy);
        start = now_ms();
        expect(&w, chat_as(&w, &desc, &reply), AZO_ERR_RATE_LIMIT);
        assert_in_range(now_ms() - start, 0, IN_TIME_MS);
        assert_int_equal(w.error.retry_after_ms, longer[i].wait);
        assert_int_equal(w.error.attempts, 1);
        assert_int_equal(w.error.who, AZO_WHO_WAIT);
        assert_int_equal(w.error.http_status, 429);
        expect_part(reply.http.body.ptr, "Slow down.");
        azo_chat_reply_free(&reply);
    }
    assert_int_equal(fake_pending(w.service, FAKE_SERVICE), 0);
    world_close(&w);
}

static void test_what_is_tried_again(void **state) {
    static const struct {
        int status;
        const char *headers;
        azo_result code;
        int attempts;
    } cases[] = {
        {408, "retry-after-ms: 1\r\n", AZO_ERR_SERVICE, 3},
        {409, "retry-after-ms: 1\r\n", AZO_ERR_SERVICE, 3},
        {429, "retry-after-ms: 1\r\n", AZO_ERR_RATE_LIMIT, 3},
        {500, "retry-after-ms: 1\r\n", AZO_ERR_SERVICE, 3},
        {502, "retry-after-ms: 1\r\n", AZO_ERR_SERVICE, 3},
        {503, "retry-after-ms: 1\r\n", AZO_ERR_SERVICE, 3},
        {504, "retry-after-ms: 1\r\n", AZO_ERR_SERVICE, 3},
        {503, "x-should-retry: false\r\n", AZO_ERR_SERVICE, 1},
        {400, "retry-after-ms: 1\r\nx-should-retry: true\r\n", AZO_ERR_BAD_REQUEST, 3},
        {400, "retry-after-ms: 1\r\n", AZO_ERR_BAD_REQUEST, 1},
        {401, "retry-after-ms: 1\r\n", AZO_ERR_UNAUTHORIZED, 1},
        {403, "retry-after-ms: 1\r\n", AZO_ERR_FORBIDDEN, 1},
        {404, "retry-after-ms: 1\r\n", AZO_ERR_NOT_FOUND, 1},
        {422, "retry-after-ms: 1\r\n", AZO_ERR_BAD_REQUEST, 1},
    };
    static const char page[] =
        "<html><head><title>Oops</title></head><body>Our services are not available</body></html>";
    (void)state;
    world w;
    azo_chat_reply reply;
    world_begin_with_key(&w);
    for (size_t i = 0; i < COUNT(cases); i++) {
        char headers[128];
        fake_reply refusal = {.status = cases[i].status, .headers = headers, .body = page};
        (void)snprintf(headers, sizeof headers, "Content-Type: text/html\r\n%s", cases[i].headers);
        size_t before = fake_count(w.service, FAKE_SERVICE);
        for (int k = 0; k < cases[i].attempts; k++) {
            fake_push(w.service, FAKE_SERVICE, &refusal);
        }
        expect(&w, chat(&w, "canary-prompt", &reply), cases[i].code);
        assert_int_equal(w.error.attempts, cases[i].attempts);
        assert_int_equal(w.error.http_status, cases[i].status);
        assert_int_equal(reply.http.status, cases[i].status);
        assert_int_equal(reply.http.attempts, cases[i].attempts);
        expect_str(reply.http.body, page);
        azo_chat_reply_free(&reply);
        assert_int_equal(fake_count(w.service, FAKE_SERVICE) - before, cases[i].attempts);
        for (int k = 1; k < cases[i].attempts; k++) { /* the same request each time */
            const fake_seen *first = fake_request(w.service, FAKE_SERVICE, before);
            const fake_seen *again = fake_request(w.service, FAKE_SERVICE, before + (size_t)k);
            assert_string_equal(first->head, again->head);
            assert_string_equal(first->body, again->body);
        }
    }
    fake_reply failing = {.status = 500, .body = page}; /* nothing is said about the wait: half a second */
    int64_t start = now_ms();
    fake_push(w.service, FAKE_SERVICE, &failing);
    expect(&w, chat(&w, "Hi", &reply), AZO_OK);
    assert_int_equal(reply.http.attempts, 2);
    assert_in_range(now_ms() - start, 375, IN_TIME_MS);
    azo_chat_reply_free(&reply);
    world_close(&w);
}

/* The answer comes while the body is still on its way: it counts, not the broken pipe. */
static void test_early_answer(void **state) {
    (void)state;
    world w;
    azo_raw_desc desc = raw_desc("/files");
    azo_raw_reply reply;
    body_source u = {20000000, 0, 0, 0};
    world_of_failures(&w, NULL);
    w.desc.max_retries = 2;
    world_start(&w);
    desc.content_type = "application/octet-stream";
    desc.read_body = read_source;
    desc.read_user_data = &u;
    desc.body_len = u.len;
    fake_reply early = {
        .status = 413, .early = true, .body = "{\"error\":{\"code\":\"413\",\"message\":\"Too large.\"}}"};
    fake_push(w.service, FAKE_SERVICE, &early);
    expect(&w, raw_as(&w, &desc, &reply), AZO_ERR_BAD_REQUEST);
    assert_int_equal(w.error.http_status, 413);
    assert_int_equal(w.error.attempts, 1);
    expect_part(w.error.detail, "Too large.");
    expect_part(reply.http.body.ptr, "Too large.");
    assert_true(u.read < u.len);
    azo_raw_reply_free(&reply);
    assert_true(w.memory.peak_bytes < 1000000);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    assert_int_equal(fake_connections(w.service, FAKE_SERVICE), 2); /* half a request was left on the first */

    fake_reply rebuff = {.status = 401, .early = true, .body = "{\"error\":{\"code\":\"401\",\"message\":\"No.\"}}"};
    fake_push(w.service, FAKE_SERVICE, &rebuff);
    expect(&w, raw_as(&w, &desc, &reply), AZO_ERR_UNAUTHORIZED);
    azo_raw_reply_free(&reply);
    world_close(&w);
}

/* ---- truncation ---- */

enum { STALL_MS = 40 };

static const fake_cut cuts[] = {FAKE_CUT_ORDERLY, FAKE_CUT_FIN, FAKE_CUT_RESET, FAKE_CUT_STALL};
static const char *const cut_names[] = {"orderly", "FIN", "RST", "stall"};

/* Bodies in one piece: nothing but the whole of one is a success. */
static void test_cut_bodies(void **state) {
    static const char body[] = CHOICE("A text with some words in it");
    static const fake_framing framings[] = {FAKE_LENGTH, FAKE_CHUNKED, FAKE_UNTIL_CLOSE};
    const size_t size = sizeof body - 1;
    const size_t places[] = {0, 1, size / 2, size - 1, size};
    (void)state;
    world w;
    azo_chat_reply reply;
    world_of_failures(&w, NULL);
    world_start(&w);
    for (size_t f = 0; f < COUNT(framings); f++) {
        for (size_t c = 0; c < COUNT(cuts); c++) {
            for (size_t p = 0; p < COUNT(places); p++) {
                bool stalls = cuts[c] == FAKE_CUT_STALL;
                fake_reply cut = {.body = body,
                                  .framing = framings[f],
                                  .cut = cuts[c],
                                  .cut_after = places[p],
                                  .chunk_size = p % 2 == 0 ? 0 : 10,
                                  .headers = stalls ? "Connection: close\r\n" : NULL};
                bool whole = places[p] == size && (framings[f] == FAKE_LENGTH ||
                                                   (framings[f] == FAKE_UNTIL_CLOSE && cuts[c] == FAKE_CUT_ORDERLY));
                fake_push(w.service, FAKE_SERVICE, &cut);
                azo_result r = listen_for(&w, NULL, stalls ? STALL_MS : 0, &reply);
                /* without framing an end in order ends the body: then it is the JSON that is cut */
                bool ended = framings[f] == FAKE_UNTIL_CLOSE && cuts[c] == FAKE_CUT_ORDERLY;
                azo_result want = whole                     ? AZO_OK
                                  : ended && places[p] == 0 ? AZO_ERR_HTTP
                                  : ended                   ? AZO_ERR_JSON
                                  : stalls                  ? AZO_ERR_TIMEOUT
                                                            : AZO_ERR_CLOSED;
                if (r != want) {
                    print_error("framing %d, %s at %lu of %lu: ", (int)framings[f], cut_names[c],
                                (unsigned long)places[p], (unsigned long)size);
                }
                expect(&w, r, want);
                if (whole) {
                    expect_str(reply.text, "A text with some words in it");
                } else if (cuts[c] != FAKE_CUT_RESET) { /* which may overtake the head */
                    assert_int_equal(reply.http.status, 200);
                    assert_int_equal(w.error.stage, AZO_STAGE_BODY);
                }
                azo_chat_reply_free(&reply);
            }
        }
    }
    fake_clear(w.service, FAKE_SERVICE);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    world_close(&w);
}

/* Streams: what came before is kept, in the reply as in the callback. */
static void test_cut_streams(void **state) {
    static const char body[] = CHUNK("One ") CHUNK("two ") CHUNK("three") LAST DONE;
    static const char text[] = "One two three";
    static const fake_framing framings[] = {FAKE_CHUNKED, FAKE_LENGTH, FAKE_UNTIL_CLOSE};
    const size_t event = strlen(CHUNK("One "));
    const size_t size = sizeof body - 1;
    const size_t places[] = {1,
                             event - 1,
                             event,
                             event + 10,
                             2 * event,
                             2 * event + 7,
                             size - strlen(LAST DONE),
                             size - strlen(DONE) - 5,
                             size - strlen(DONE),
                             size - 5,
                             size};
    (void)state;
    world w;
    azo_chat_reply reply;
    world_of_failures(&w, NULL);
    world_start(&w);
    for (size_t f = 0; f < COUNT(framings); f++) {
        for (size_t c = 0; c < COUNT(cuts); c++) {
            for (size_t p = 0; p < COUNT(places); p++) {
                listener l;
                fake_reply cut = {.body = body,
                                  .framing = framings[f],
                                  .cut = cuts[c],
                                  .cut_after = places[p],
                                  .events_per_chunk = 1,
                                  .headers = "Connection: close\r\n"};
                bool done = places[p] == size;
                bool finished = places[p] >= size - strlen(DONE);
                bool orderly = cuts[c] == FAKE_CUT_ORDERLY && framings[f] == FAKE_UNTIL_CLOSE;
                fake_push(w.service, FAKE_SERVICE, &cut);
                azo_result r = listen_for(&w, &l, cuts[c] == FAKE_CUT_STALL ? STALL_MS : 0, &reply);
                const char *heard = l.text.text != NULL ? l.text.text : "";
                /* an event that is whole counts without its blank line, if the peer ended in order */
                size_t sent = places[p] + (orderly ? 1 : 0);
                size_t came = sent < event ? 0 : sent < 2 * event ? 4 : sent < size - strlen(LAST DONE) ? 8 : 13;
                if ((r == AZO_OK) != done && !(finished && orderly)) {
                    print_error("framing %d, %s at %lu of %lu: ", (int)framings[f], cut_names[c],
                                (unsigned long)places[p], (unsigned long)size);
                    expect(&w, r, done ? AZO_OK : AZO_ERR_STREAM);
                    fail_msg("a success");
                }
                if (cuts[c] == FAKE_CUT_RESET) { /* may overtake what was sent before */
                    assert_true(strncmp(text, heard, strlen(heard)) == 0);
                } else {
                    assert_int_equal(strlen(heard), came);
                    assert_memory_equal(heard, text, came);
                    if (r != AZO_OK) {
                        expect(&w, r,
                               cuts[c] == FAKE_CUT_STALL ? AZO_ERR_TIMEOUT
                               : came > 0                ? AZO_ERR_STREAM
                               : orderly                 ? AZO_ERR_HTTP
                                                         : AZO_ERR_CLOSED);
                    }
                }
                if (heard[0] != '\0') {
                    expect_str(reply.text, heard);
                }
                azo_chat_reply_free(&reply);
                listener_free(&l);
            }
        }
    }
    expect(&w, ask(&w, "Hi"), AZO_OK);
    world_close(&w);
}

/* Every byte of a reply with its head, cut by a FIN without close_notify. */
static void test_cut_anywhere(void **state) {
    static const char *const events[] = {CHUNK("One"), CHUNK("two") LAST, DONE};
    static const fake_options twelve = {.tls_max = 12}; /* whose resumption costs next to nothing */
    (void)state;
    world w;
    azo_chat_reply reply;
    test_notes notes;
    memset(&notes, 0, sizeof notes);
    test_note(&notes, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (size_t i = 0; i < COUNT(events); i++) {
        test_note(&notes, "%lx\r\n%s\r\n", (unsigned long)strlen(events[i]), events[i]);
    }
    size_t enough = notes.len - 2; /* the end of [DONE] */
    test_note(&notes, "0\r\n\r\n");
    world_of_failures(&w, &twelve);
    world_start(&w);
    for (size_t at = 0; at <= notes.len; at += at + 40 > notes.len ? 1 : 3) {
        listener l;
        fake_reply cut = {.raw = notes.text, .cut = FAKE_CUT_FIN, .cut_after = at};
        fake_push(w.service, FAKE_SERVICE, &cut);
        azo_result r = stream_to(&w, &l, &reply);
        if ((r == AZO_OK) != (at >= enough)) {
            fail_msg("%s at %lu of %lu, %lu should do: %s", azo_result_name(r), (unsigned long)at,
                     (unsigned long)notes.len, (unsigned long)enough, w.error.message);
        }
        if (r == AZO_OK) {
            expect_str(reply.text, "Onetwo");
        } else {
            expect(&w, r, l.text.len > 0 ? AZO_ERR_STREAM : AZO_ERR_CLOSED);
            assert_int_equal(reply.text.len, l.text.len);
        }
        azo_chat_reply_free(&reply);
        listener_free(&l);
    }
    test_notes_free(&notes);
    world_close(&w);
}

/* Cut before anything was delivered: tried again. After a delta: never. */
static void test_cut_and_tried_again(void **state) {
    static const char body[] = CHUNK("One ") CHUNK("two ") LAST DONE;
    (void)state;
    world w;
    azo_chat_reply reply;
    listener l;
    world_begin_with_key(&w);
    fake_reply cut = {
        .body = body, .framing = FAKE_CHUNKED, .cut = FAKE_CUT_FIN, .cut_after = 10, .events_per_chunk = 1};
    fake_push(w.service, FAKE_SERVICE, &cut);
    expect(&w, stream_to(&w, &l, &reply), AZO_OK);
    assert_int_equal(reply.http.attempts, 2);
    expect_str(reply.text, "You said: canary-prompt");
    assert_string_equal(l.text.text, reply.text.ptr);
    azo_chat_reply_free(&reply);
    listener_free(&l);
    cut.cut_after = strlen(CHUNK("One ")) + 3;
    fake_push(w.service, FAKE_SERVICE, &cut);
    expect(&w, stream_to(&w, &l, &reply), AZO_ERR_STREAM);
    assert_int_equal(w.error.attempts, 1);
    expect_str(reply.text, "One ");
    azo_chat_reply_free(&reply);
    listener_free(&l);
    world_close(&w);
}

/* ---- streams that are wrong in themselves ---- */

static void test_wrong_streams(void **state) {
    static const char denied[] = "data: {\"error\":{\"code\":\"429\",\"message\":\"Too many.\"}}\n\n";
    static const char broken[] = "data: {\"error\":{\"code\":\"InternalServerError\",\"message\":\"Oops.\"}}\n\n";
    static const struct {
        const char *body;
        azo_result want;
        const char *text;
    } cases[] = {
        {CHUNK("One ") LAST, AZO_OK, "One "}, /* without [DONE] it was finished all the same */
        {"\xef\xbb\xbf" CHUNK("One ") LAST DONE, AZO_OK, "One "},
        {CHUNK("One "), AZO_ERR_STREAM, "One "},
        {CHUNK("One ") "data: {\"choices\":[{\"index\":0,\"del\n\n" LAST DONE, AZO_ERR_JSON, "One "},
        {"nothing like a stream", AZO_ERR_HTTP, ""},
        {"<html>sign in</html>", AZO_ERR_HTTP, ""},
        {"", AZO_ERR_STREAM, ""},
        {denied, AZO_ERR_RATE_LIMIT, ""},
        {broken, AZO_ERR_SERVICE, ""},
        {CHOICE("whole"), AZO_OK, "whole"}, /* a gateway that does not stream */
    };
    (void)state;
    world w;
    azo_chat_reply reply;
    world_of_failures(&w, NULL);
    world_start(&w);
    for (size_t i = 0; i < COUNT(cases); i++) {
        listener l;
        fake_reply wrong = {.body = cases[i].body, .framing = FAKE_CHUNKED, .chunk_size = i % 3 * 10};
        fake_push(w.service, FAKE_SERVICE, &wrong);
        azo_result r = stream_to(&w, &l, &reply);
        if (r != cases[i].want) {
            print_error("%s: ", cases[i].body);
        }
        expect(&w, r, cases[i].want);
        assert_string_equal(reply.text.ptr != NULL ? reply.text.ptr : "", cases[i].text);
        assert_string_equal(l.text.text != NULL ? l.text.text : "", cases[i].text);
        azo_chat_reply_free(&reply);
        listener_free(&l);
    }
    listener l;
    char late[512];
    (void)snprintf(late, sizeof late, "%s%s", CHUNK("One "), broken);
    fake_reply wrong = {.body = late, .framing = FAKE_CHUNKED};
    fake_push(w.service, FAKE_SERVICE, &wrong);
    expect(&w, stream_to(&w, &l, &reply), AZO_ERR_SERVICE);
    expect_str(reply.text, "One ");
    expect_part(w.error.detail, "Oops.");
    azo_chat_reply_free(&reply);
    listener_free(&l);

    w.desc.max_retries = 2; /* an error in the place of the first delta is one like any other */
    world_restart(&w);
    wrong.body = denied;
    fake_push(w.service, FAKE_SERVICE, &wrong);
    expect(&w, stream_to(&w, &l, &reply), AZO_OK);
    assert_int_equal(reply.http.attempts, 2);
    azo_chat_reply_free(&reply);
    listener_free(&l);
    world_close(&w);
}

/* ---- peers that break HTTP or JSON ---- */

#define LABEL_50 "abcdefghijklmnopqrstuvwxyz-abcdefghijklmnopqrstuvw."

static void test_wrong_answers(void **state) {
    static const struct {
        const char *raw;
        azo_result want;
        const char *part;
    } cases[] = {
        {"SSH-2.0-OpenSSH_9.2\r\nsomething else\r\n\r\n", AZO_ERR_HTTP, ""},
        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", AZO_ERR_HTTP, ""},
        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", AZO_ERR_HTTP, ""},
        {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}", AZO_ERR_HTTP, ""},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n", AZO_ERR_HTTP, ""},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}", AZO_ERR_HTTP, ""},
        {"HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n<html>please pay</html>\r\n", AZO_ERR_HTTP, "web page"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"choices\":[", AZO_ERR_JSON, ""},
        {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", AZO_ERR_JSON, "no choices"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", AZO_ERR_HTTP, "nothing"},
        {"HTTP/1.1 204 No Content\r\n\r\n", AZO_ERR_HTTP, "nothing"},
        {"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/x\r\nContent-Length: 0\r\n\r\n", AZO_ERR_REDIRECT,
         "elsewhere.example"},
        {"HTTP/1.1 307 Temporary Redirect\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n", AZO_ERR_REDIRECT, "same host"},
        /* a long name is cut, what to do is not */
        {"HTTP/1.1 302 Found\r\nLocation: https://" LABEL_50 LABEL_50 LABEL_50 "test/\r\nContent-Length: 0\r\n\r\n",
         AZO_ERR_REDIRECT, "Put the right address into the endpoint."},
        {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", AZO_ERR_HTTP, ""},
        {"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", AZO_ERR_HTTP, "999"},
    };
    (void)state;
    world w;
    world_of_failures(&w, NULL);
    world_start(&w);
    for (size_t i = 0; i < COUNT(cases); i++) {
        fake_reply wrong = {.raw = cases[i].raw};
        fake_push(w.service, FAKE_SERVICE, &wrong);
        azo_result r = fail_chat(&w);
        if (r != cases[i].want) {
            print_error("%s: ", cases[i].raw);
        }
        expect(&w, r, cases[i].want);
        expect_part(w.error.message, cases[i].part);
        assert_int_equal(w.error.attempts, 1);
    }
    fake_reply more = {
        .raw = "HTTP/1.1 200 OK\r\nContent-Length: 102\r\n\r\n" CHOICE("a little more") "HTTP/1.1 200 OK\r\n"};
    azo_chat_reply reply;
    size_t connections = fake_connections(w.service, FAKE_SERVICE);
    char raw[512];
    (void)snprintf(raw, sizeof raw, "HTTP/1.1 200 OK\r\nContent-Length: %u\r\n\r\n%sHTTP/1.1 200 OK\r\n",
                   (unsigned)strlen(CHOICE("a little more")), CHOICE("a little more"));
    more.raw = raw;
    fake_push(w.service, FAKE_SERVICE, &more);
    expect(&w, chat(&w, "Hi", &reply), AZO_OK);
    expect_str(reply.text, "a little more");
    azo_chat_reply_free(&reply);
    expect(&w, ask(&w, "Hi"), AZO_OK); /* not on that connection: whose answer would it get? */
    assert_true(fake_connections(w.service, FAKE_SERVICE) > connections);
    world_close(&w);
}

static void test_caps(void **state) {
    (void)state;
    world w;
    char *big = (char *)malloc(40001);
    assert_non_null(big);
    memset(big, ' ', 40000);
    big[40000] = '\0';
    world_of_failures(&w, NULL);
    w.desc.max_header_bytes = 1000;
    w.desc.max_response_bytes = 20000;
    w.desc.max_event_bytes = 10000;
    world_start(&w);
    fake_reply long_body = {.body = big};
    fake_push(w.service, FAKE_SERVICE, &long_body);
    expect(&w, fail_chat(&w), AZO_ERR_LIMIT);
    expect_part(w.error.message, "max_response_bytes");
    memcpy(big, "X-Long: ", 8);
    memset(big + 8, 'x', 2000);
    memcpy(big + 2008, "\r\n", 3);
    fake_reply long_head = {.headers = big, .body = "{}"};
    fake_push(w.service, FAKE_SERVICE, &long_head);
    expect(&w, fail_chat(&w), AZO_ERR_LIMIT);
    expect_part(w.error.message, "max_header_bytes");
    memset(big, 'x', 40000);
    memcpy(big, "data: ", 6);
    fake_reply long_event = {.body = big, .framing = FAKE_CHUNKED, .chunk_size = 1000};
    azo_chat_reply reply;
    listener l;
    fake_push(w.service, FAKE_SERVICE, &long_event);
    expect(&w, stream_to(&w, &l, &reply), AZO_ERR_LIMIT);
    expect_part(w.error.message, "max_event_bytes");
    azo_chat_reply_free(&reply);
    listener_free(&l);
    assert_true(w.memory.peak_bytes < 200000);
    free(big);
    world_close(&w);
}

/* ---- peers that are not there, or silent ---- */

static void test_dead_port(void **state) {
    (void)state;
    world w;
    world_of_failures(&w, NULL);
    (void)snprintf(w.endpoint, sizeof w.endpoint, "https://localhost:%u", dead_port());
    world_start(&w);
    expect(&w, fail_chat(&w), AZO_ERR_CONNECT);
    assert_int_equal(w.error.stage, AZO_STAGE_CONNECT);
    assert_int_equal(w.error.who, AZO_WHO_MACHINE);
    assert_int_equal(w.error.sys_errno, ECONNREFUSED);
    assert_int_equal(w.error.http_status, 0);
    expect_part(w.error.message, "localhost");
    w.desc.max_retries = 1;
    world_restart(&w);
    expect(&w, fail_chat(&w), AZO_ERR_CONNECT);
    world_close(&w);
}

static void test_silence(void **state) {
    static const struct {
        int silence;
        int32_t connect;
        int32_t first_byte;
        int32_t total;
        azo_stage stage;
        const char *part;
    } cases[] = {
        {1, 0, 150, 0, AZO_STAGE_HEAD, "first_byte_timeout_ms"},
        {1, 0, 0, 200, AZO_STAGE_HEAD, "total_timeout_ms"},
        {2, 150, 0, 0, AZO_STAGE_TLS, "TLS handshake"},
        {2, 0, 0, 200, AZO_STAGE_TLS, "total_timeout_ms"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        world w;
        azo_message message = azo_user("canary-prompt");
        azo_chat_desc desc = chat_desc(&message);
        world_of_failures(&w, NULL);
        w.desc.connect_timeout_ms = cases[i].connect;
        world_start(&w);
        if (cases[i].silence == 1) {
            expect(&w, ask(&w, "Hi"), AZO_OK); /* so that a connection is there */
        }
        fake_set(w.service, FAKE_SERVICE, FAKE_SILENCE, cases[i].silence);
        desc.call.first_byte_timeout_ms = cases[i].first_byte;
        desc.call.total_timeout_ms = cases[i].total;
        int64_t start = now_ms();
        expect(&w, chat_as(&w, &desc, NULL), AZO_ERR_TIMEOUT);
        assert_in_range(now_ms() - start, 0, IN_TIME_MS);
        assert_true(now_ms() - start >= 140);
        assert_int_equal(w.error.stage, cases[i].stage);
        assert_int_equal(w.error.who, AZO_WHO_MACHINE);
        expect_part(w.error.message, cases[i].part);
        world_close(&w);
    }
}

/* The whole budget covers the token, a slow stream and the waits between attempts. */
static void test_total_budget(void **state) {
    (void)state;
    world w;
    azo_chat_reply reply;
    listener l;
    world_open(&w, NULL);
    w.desc.total_timeout_ms = 300;
    fake_set(w.service, FAKE_ENTRA, FAKE_SILENCE, 1);
    world_start(&w);
    expect(&w, fail_chat(&w), AZO_ERR_TIMEOUT);
    assert_int_equal(w.error.stage, AZO_STAGE_TOKEN);
    world_close(&w);

    world_of_failures(&w, NULL);
    world_start(&w);
    expect(&w, ask(&w, "Hi"), AZO_OK); /* so that a connection is there */
    fake_set(w.service, FAKE_SERVICE, FAKE_STREAM_DELAY_MS, 100);
    fake_set(w.service, FAKE_SERVICE, FAKE_STREAM_EVENTS, 1);
    azo_message message = azo_user("one two three four five six seven eight nine ten");
    azo_chat_desc desc = listener_desc(&message, &l);
    desc.call.total_timeout_ms = 400;
    expect(&w, chat_as(&w, &desc, &reply), AZO_ERR_TIMEOUT);
    assert_int_equal(w.error.stage, AZO_STAGE_BODY);
    assert_int_equal(reply.text.len, l.text.len);
    azo_chat_reply_free(&reply);
    listener_free(&l);
    desc.call.total_timeout_ms = AZO_OFF;
    fake_set(w.service, FAKE_SERVICE, FAKE_STREAM_DELAY_MS, 70);
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
    azo_chat_reply_free(&reply);
    listener_free(&l);
    world_close(&w);
}

static bool interrupt_fourth(void *user_data) {
    int *calls = (int *)user_data;
    return ++*calls >= 4;
}

static void test_interrupted(void **state) {
    (void)state;
    world w;
    int calls = 0;
    listener l;
    azo_chat_reply reply;
    world_of_failures(&w, NULL);
    fake_set(w.service, FAKE_SERVICE, FAKE_STREAM_DELAY_MS, 10);
    w.desc.interrupted = interrupt_fourth;
    w.desc.interrupt_user_data = &calls;
    world_start(&w);
    expect(&w, stream_to(&w, &l, &reply), AZO_ERR_CANCELLED);
    assert_int_equal(w.error.who, AZO_WHO_NOBODY);
    azo_chat_reply_free(&reply);
    listener_free(&l);
    world_close(&w);
}

/* ---- certificates ---- */

static void test_certificates(void **state) {
    static const struct {
        const char *server;
        const char *roots;
        azo_result want;
        uint32_t flag;
    } cases[] = {
        {"server", "ca.pem", AZO_OK, 0},
        {"server", "bundle.pem", AZO_OK, 0},
        {"server", "broken_bundle.pem", AZO_OK, 0},
        {"server", "other_ca.pem", AZO_ERR_TLS_VERIFY, MBEDTLS_X509_BADCERT_NOT_TRUSTED},
        {"expired", "ca.pem", AZO_ERR_TLS_VERIFY, MBEDTLS_X509_BADCERT_EXPIRED},
        {"notyet", "ca.pem", AZO_ERR_TLS_VERIFY, MBEDTLS_X509_BADCERT_FUTURE},
        {"wronghost", "ca.pem", AZO_ERR_TLS_VERIFY, MBEDTLS_X509_BADCERT_CN_MISMATCH},
        {"selfsigned", "ca.pem", AZO_ERR_TLS_VERIFY, MBEDTLS_X509_BADCERT_NOT_TRUSTED},
        {"nochain", "ca.pem", AZO_ERR_TLS_VERIFY, MBEDTLS_X509_BADCERT_NOT_TRUSTED},
        {"server", "absent.pem", AZO_ERR_TRUST_STORE, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        for (int keyless = 0; keyless < 2; keyless++) {
            world w;
            char cert[512];
            char key[512];
            char name[32];
            fake_options options;
            memset(&options, 0, sizeof options);
            (void)snprintf(name, sizeof name, "%s.pem", cases[i].server);
            options.cert_file = cert_path(cert, sizeof cert, name);
            (void)snprintf(name, sizeof name, "%s.key", cases[i].server);
            options.key_file = cert_path(key, sizeof key, name);
            world_open(&w, &options);
            if (!keyless) {
                world_use_key(&w);
            }
            world_count_memory(&w, FAKE_CLIENT_SECRET);
            (void)cert_path(w.ca_file, sizeof w.ca_file, cases[i].roots);
            world_start(&w);
            azo_result r = fail_chat(&w);
            if (r != cases[i].want) {
                print_error("%s, %s: ", cases[i].server, cases[i].roots);
            }
            expect(&w, r, cases[i].want);
            if (r == AZO_OK) {
                world_close(&w);
                continue;
            }
            assert_int_equal(w.error.tls_verify_flags & cases[i].flag, cases[i].flag);
            assert_int_equal(w.error.http_status, 0);
            assert_int_equal(w.error.who, AZO_WHO_MACHINE);
            if (cases[i].want == AZO_ERR_TLS_VERIFY) {
                assert_int_equal(w.error.stage, keyless ? AZO_STAGE_TOKEN : AZO_STAGE_TLS);
                assert_true(w.error.tls_code != 0);
                assert_int_equal(fake_connections(w.service, keyless ? FAKE_ENTRA : FAKE_SERVICE), 1);
            }
            assert_int_equal(fake_count(w.service, FAKE_ENTRA) + fake_count(w.service, FAKE_SERVICE), 0);
            world_close(&w);
        }
    }
}

/* The metadata service answers without TLS, and so says what time it is whatever the certificates are. */
static void test_told_time(void **state) {
    world w;
    azo_token_reply token;
    char cert[512];
    char key[512];
    fake_options options;
    (void)state;
    memset(&options, 0, sizeof options);
    options.cert_file = cert_path(cert, sizeof cert, "notyet.pem");
    options.key_file = cert_path(key, sizeof key, "notyet.key");
    world_open(&w, &options);
    world_use_imds(&w);
    world_start(&w);
    expect(&w, token_as(&w, NULL, &token), AZO_OK);
    azo_token_reply_free(&token);
    expect(&w, fail_chat(&w), AZO_ERR_TLS_VERIFY);
    assert_int_equal(w.error.tls_verify_flags, MBEDTLS_X509_BADCERT_FUTURE);
    expect_part(w.error.message, "(UTC, by an earlier answer without TLS it is 20");
    expect_part(w.error.message, "The clock seems to be right, so the server needs another certificate.");
    assert_int_equal(fake_count(w.service, FAKE_SERVICE), 0);
    world_close(&w);
}

/* TLS where there is none, and the other way round. */
static void test_wrong_scheme(void **state) {
    static const fake_options plain = {.plain_service = true};
    (void)state;
    world w;
    world_of_failures(&w, &plain);
    memcpy(w.endpoint, "https", 5);
    (void)snprintf(w.endpoint, sizeof w.endpoint, "https://localhost:%u", fake_port(w.service, FAKE_SERVICE));
    world_start(&w);
    azo_result r = fail_chat(&w);
    assert_true(r == AZO_ERR_TLS || r == AZO_ERR_CLOSED);
    w.desc.endpoint = "http://contoso.openai.azure.test";
    world_restart(&w);
    expect(&w, fail_chat(&w), AZO_ERR_ARGUMENT); /* nothing was sent in the clear */
    world_close(&w);

    world_of_failures(&w, NULL);
    (void)snprintf(w.endpoint, sizeof w.endpoint, "http://localhost:%u", fake_port(w.service, FAKE_SERVICE));
    world_start(&w);
    r = fail_chat(&w);
    assert_true(r == AZO_ERR_HTTP || r == AZO_ERR_CLOSED);
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_secret),
        cmocka_unit_test(test_wrong_names),
        cmocka_unit_test(test_missing_role),
        cmocka_unit_test(test_unknown_deployment),
        cmocka_unit_test(test_imds_that_hangs),
        cmocka_unit_test(test_nothing_to_sign_in_with),
        cmocka_unit_test(test_failed_is_not_unavailable),
        cmocka_unit_test(test_dead_entra),
        cmocka_unit_test(test_servers_that_repeat_secrets),
        cmocka_unit_test(test_content_filter),
        cmocka_unit_test(test_rate_limit),
        cmocka_unit_test(test_what_is_tried_again),
        cmocka_unit_test(test_early_answer),
        cmocka_unit_test(test_cut_bodies),
        cmocka_unit_test(test_cut_streams),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_cut_and_tried_again),
        cmocka_unit_test(test_wrong_streams),
        cmocka_unit_test(test_wrong_answers),
        cmocka_unit_test(test_caps),
        cmocka_unit_test(test_dead_port),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_total_budget),
        cmocka_unit_test(test_interrupted),
        cmocka_unit_test(test_certificates),
        cmocka_unit_test(test_told_time),
        cmocka_unit_test(test_wrong_scheme),
        cmocka_unit_test(test_no_secret_was_shown), /* the last one */
    };
    return cmocka_run_group_tests(tests, clear_environment, NULL);
}
