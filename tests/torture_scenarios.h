/* torture_scenarios.h - the table that the tortures run over; see torture.h, which is included before. */
#ifndef AZO_TEST_TORTURE_SCENARIOS_H
#define AZO_TEST_TORTURE_SCENARIOS_H

/* ---- identities ---- */

static void torture_set_up_imds(torture *t) {
    t->desc.credential.kind = AZO_CRED_IMDS;
}

static void torture_set_up_chain(torture *t) {
    t->desc.credential.kind = AZO_CRED_CHAIN;
}

static void torture_set_up_key(torture *t) {
    t->desc.api_key = "canary-key";
}

static void torture_set_up_fixed(torture *t) {
    (void)t;
    assert_int_equal(setenv("AZURE_OPENAI_AD_TOKEN", "canary-tok.1", 1), 0);
}

static void torture_set_up_provider(torture *t) {
    t->desc.token_provider = torture_provide;
    t->desc.token_user_data = t;
}

static void torture_set_up_later_provider(torture *t) {
    t->desc.token_provider = torture_provide_later;
    t->desc.token_user_data = t;
}

/* ---- services ---- */

static void torture_set_up_busy(torture *t) {
    torture_set_up_secret(t);
    t->once = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
}

static void torture_set_up_limited(torture *t) {
    torture_set_up_secret(t);
    t->once = "HTTP/1.1 429 Slow\r\nretry-after: 2\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n"
              "{\"error\":{\"code\":\"limited\"}}";
}

static void torture_set_up_missing(torture *t) {
    torture_set_up_key(t);
    t->always = "HTTP/1.1 404 X\r\nContent-Type: application/json\r\nContent-Length: 39\r\n\r\n"
                "{\"error\":{\"code\":\"DeploymentNotFound\"}}";
}

static void torture_set_up_broken_stream(torture *t) {
    torture_set_up_key(t);
    t->always = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 114\r\n\r\n" TORTURE_CHUNK(
        "Hel") "data: {\"error\":{\"code\":\"server_error\",\"message\":\"x\"}}\n\n";
}

static void torture_set_up_until_close(torture *t) {
    torture_set_up_key(t);
    t->always = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" TORTURE_HELLO;
}

static void torture_set_up_interim(torture *t) {
    torture_set_up_key(t);
    t->always = "HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                "4;x=y\r\n{\"id\r\n54\r\n\":\"c2\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\","
                "\"message\":{\"content\":\"Hello\"}}]}\r\n0\r\nTrailer: 1\r\n\r\n";
}

static void torture_set_up_claims(torture *t) {
    torture_set_up_secret(t);
    t->accepts = 2;
    t->claims_for = 2;
}

static void torture_set_up_refused_secret(torture *t) {
    torture_set_up_secret(t);
    t->refusals = 1000;
    t->refusal = "HTTP/1.1 401 X\r\nContent-Type: application/json\r\nContent-Length: 102\r\n\r\n"
                 "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: canary-secret.\","
                 "\"error_codes\":[7000215]}";
}

static void torture_set_up_no_identity(torture *t) {
    torture_set_up_chain(t);
    t->refusals = 1000;
    t->refusal = "HTTP/1.1 400 X\r\nContent-Type: application/json\r\nContent-Length: 68\r\n\r\n"
                 "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\"}";
}

static void torture_set_up_unwelcome(torture *t) {
    torture_set_up_secret(t);
    t->accepts = 9;
    t->relents = true;
}

static void torture_set_up_numbers(torture *t) {
    torture_set_up_secret(t);
    t->numbers = true;
}

static void torture_set_up_narrow(torture *t) {
    torture_set_up_secret(t);
    t->desc.max_connections = 1;
}

/* ---- what happens between two rounds ---- */

static void torture_rotate(torture *t) { /* the service takes no old token any more */
    t->accepts = ++t->issues;
}

static void torture_renew(torture *t) {
    t->issues++;
}

static void torture_break_renewal(torture *t) {
    t->refusals = 1000;
    t->refusal = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
}

static void torture_hang_up(torture *t) { /* the request and the service's idle limit cross */
    t->once = "";
}

static void torture_ask(torture *t) {
    azo_message message = azo_user("Sky?");
    azo_error e;
    azo_result r = azo_history_open(t->client, &t->history, &e);
    r = r == AZO_OK ? azo_history_add(t->history, &message, &e) : r;
    torture_check_error(t, r, &e);
    t->gave_up = r != AZO_OK;
}

/* ---- the table ---- */

#define HELLO "AZO_OK 200 'Hello' stop 1+2"
#define STREAMED "AZO_OK 200 'Hello' stop"

enum { EV = TORTURE_EVENTS, BLOCK = TORTURE_BLOCKING };

/* clang-format off */
static const torture_scenario torture_scenarios[] = {
    {"chat, client secret", torture_set_up_secret, {1, 0, 1, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""}}},
    {"blocking chat, client secret", torture_set_up_secret, {1, 0, 1, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, BLOCK, NULL, 0, NULL, HELLO, ""}}},
    {"chat, managed identity", torture_set_up_imds, {1, 0, 0, 1}, false, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""}}},
    {"chat, chain that ends at managed identity", torture_set_up_chain, {1, 0, 0, 1}, false, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""}}},
    {"chat, API key", torture_set_up_key, {1, 0, 0, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""}}},
    {"chat, fixed token", torture_set_up_fixed, {1, 0, 0, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""}}},
    {"chat, provider", torture_set_up_provider, {1, 0, 0, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""}}},
    {"chat, provider that takes its time", torture_set_up_later_provider, {1, 0, 0, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""}}},
    {"stream", torture_set_up_secret, {1, 0, 1, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, EV, NULL, 0, NULL, STREAMED, "Hello<stop>"}}},
    {"blocking stream", torture_set_up_key, {1, 0, 0, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, EV | BLOCK, NULL, 0, NULL, STREAMED, "Hello<stop>"}}},
    {"stream of tool calls and usage", torture_set_up_key, {1, 0, 0, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, EV | TORTURE_TOOLS, NULL, 0, NULL, "AZO_OK 200 - tool_calls t1:sky({\"at\":1}) 1+2",
       "<0:t1,sky>{\"at\":1}<tool_calls><" TORTURE_USAGE ">"}}},
    {"stream without a callback", torture_set_up_key, {1, 0, 0, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, TORTURE_STREAM, NULL, 0, NULL, STREAMED, ""}}},
    {"stream that pauses", torture_set_up_key, {1, 0, 0, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, EV | TORTURE_PAUSES, NULL, 0, NULL, STREAMED, "Hello<stop>"}}},
    {"retry after 503", torture_set_up_busy, {2, 0, 1, 0}, true, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""}}},
    {"stream after 429 with retry-after", torture_set_up_limited, {2, 0, 1, 0}, true, false, 1,
     {{TORTURE_CHAT, 0, EV, NULL, 0, NULL, STREAMED, "Hello<stop>"}}},
    {"replay with a new token", torture_set_up_secret, {3, 0, 2, 0}, false, false, 2,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""},
      {TORTURE_CHAT, 1, 0, NULL, 40000, torture_rotate, HELLO, ""}}},
    {"claims challenge", torture_set_up_claims, {2, 0, 2, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""}}},
    {"renewal ahead of time", torture_set_up_secret, {3, 0, 2, 0}, false, false, 3,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""},
      {TORTURE_CHAT, 1, 0, NULL, 3400000, torture_renew, HELLO, ""},
      {TORTURE_CHAT, 2, 0, NULL, 100, NULL, HELLO, ""}}},
    {"renewal that fails while the old token is good", torture_set_up_secret, {3, 0, 4, 0}, false, false, 3,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""},
      {TORTURE_CHAT, 1, 0, NULL, 3400000, torture_break_renewal, HELLO, ""},
      {TORTURE_CHAT, 2, 0, NULL, 5000, NULL, HELLO, ""}}},
    {"connection that was closed while idle", torture_set_up_key, {3, 0, 0, 0}, false, false, 2,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""},
      {TORTURE_CHAT, 1, 0, NULL, 100, torture_hang_up, HELLO, ""}}},
    {"embeddings in base64", torture_set_up_secret, {1, 0, 1, 0}, false, false, 1,
     {{TORTURE_EMBED, 0, 0, NULL, 0, NULL, "AZO_OK 200 1 2 0.25 -0.5", ""}}},
    {"embeddings as numbers, vectors of the program", torture_set_up_numbers, {1, 0, 1, 0}, false, false, 1,
     {{TORTURE_EMBED, 0, TORTURE_OWN_VECTORS | BLOCK, NULL, 0, NULL, "AZO_OK 200 1 2 0.25 -0.5", ""}}},
    {"download to a sink", torture_set_up_key, {1, 0, 0, 0}, false, false, 1,
     {{TORTURE_RAW, 0, TORTURE_SINK, "/download", 0, NULL, "AZO_OK 200 ''",
       "some bytes, more of them, and the last"}}},
    {"server-sent events, raw", torture_set_up_key, {1, 0, 0, 0}, false, false, 1,
     {{TORTURE_RAW, 0, EV, "/events", 0, NULL, "AZO_OK 200 ''", "<one:{\"n\":1}><two:{\"n\":2}\nx><three>"}}},
    {"upload by read_body", torture_set_up_secret, {1, 0, 1, 0}, false, false, 1,
     {{TORTURE_RAW, 0, TORTURE_READ_BODY, "/upload", 0, NULL, "AZO_OK 201 '{\"bytes\":250}'", ""}}},
    {"tool loop with a history", torture_set_up_secret, {2, 0, 1, 0}, false, false, 2,
     {{TORTURE_CHAT, 0, TORTURE_TOOLS | TORTURE_HISTORY, NULL, 0, torture_ask,
       "AZO_OK 200 - tool_calls t1:sky({}) 1+2", ""},
      {TORTURE_CHAT, 1, TORTURE_TOOLS | TORTURE_HISTORY, NULL, 0, NULL, "AZO_OK 200 'Sunny' stop 1+2", ""}}},
    {"token alone", torture_set_up_secret, {0, 0, 1, 0}, false, false, 2,
     {{TORTURE_TOKEN, 0, 0, NULL, 0, NULL, "AZO_OK canary-tok.1 from environment for 3598", ""},
      {TORTURE_TOKEN, 1, BLOCK, NULL, 0, NULL, "AZO_OK canary-tok.1 from environment for 3598", ""}}},
    {"two endpoints, one token", torture_set_up_secret, {1, 1, 1, 0}, false, false, 2,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""},
      {TORTURE_CHAT, 0, TORTURE_ELSEWHERE, NULL, 0, NULL, HELLO, ""}}},
    {"three calls, one connection", torture_set_up_narrow, {3, 0, 1, 0}, false, false, 3,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""},
      {TORTURE_CHAT, 0, EV, NULL, 0, NULL, STREAMED, "Hello<stop>"},
      {TORTURE_EMBED, 0, 0, NULL, 0, NULL, "AZO_OK 200 1 2 0.25 -0.5", ""}}},
    {"token that is refused, and no other to be had", torture_set_up_unwelcome, {1, 0, 2, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, "AZO_ERR_UNAUTHORIZED 0", ""}}},
    {"interim answer, chunks and trailers", torture_set_up_interim, {1, 0, 0, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, STREAMED, ""}}},
    {"answer that ends with its connection", torture_set_up_until_close, {1, 0, 0, 0}, false, true, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, HELLO, ""}}},
    {"no such deployment", torture_set_up_missing, {1, 0, 0, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, "AZO_ERR_NOT_FOUND 404", ""}}},
    {"stream that ends with an error", torture_set_up_broken_stream, {1, 0, 0, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, EV, NULL, 0, NULL, "AZO_ERR_SERVICE 200", "Hel"}}},
    {"client secret that is refused", torture_set_up_refused_secret, {0, 0, 1, 0}, false, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, "AZO_ERR_TOKEN 0", ""}}},
    {"chain without any identity", torture_set_up_no_identity, {0, 0, 0, 1}, false, false, 1,
     {{TORTURE_CHAT, 0, 0, NULL, 0, NULL, "AZO_ERR_NO_CREDENTIAL 0", ""}}},
};
/* clang-format on */

enum { TORTURE_SCENARIOS = sizeof torture_scenarios / sizeof torture_scenarios[0] };

#endif
