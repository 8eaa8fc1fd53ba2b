/* torture_peers.h - the services, Entra ID and the metadata service of the scenarios; torture.h includes it. */
#ifndef AZO_TEST_TORTURE_PEERS_H
#define AZO_TEST_TORTURE_PEERS_H

#define TORTURE_CHUNK(text) "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text "\"}}]}\n\n"
#define TORTURE_TOOL(fragment) \
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0," fragment "}]}}]}\n\n"
#define TORTURE_LAST(reason) "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"" reason "\"}]}\n\n"
#define TORTURE_USAGE "{\"prompt_tokens\":1,\"completion_tokens\":2}"
#define TORTURE_DONE "data: [DONE]\n\n"
#define TORTURE_REPLY(message, reason)                                                                        \
    "{\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"finish_reason\":\"" reason "\",\"message\":{" \
    "\"role\":\"assistant\"," message "}}],\"usage\":" TORTURE_USAGE "}"
#define TORTURE_VECTORS(first, second)                                                                     \
    "{\"data\":[{\"index\":1,\"embedding\":" second "},{\"index\":0,\"embedding\":" first "}],\"usage\":{" \
    "\"prompt_tokens\":4}}"
#define TORTURE_HELLO TORTURE_REPLY("\"content\":\"Hello\"", "stop")

static torture *torture_of(script_conn *c) {
    return (torture *)c->peer->state;
}

static const char torture_bearer[] = "\r\nAuthorization: Bearer canary-tok.";

/* FNV-1a. Which token it is does not count: the service looks at that. */
static uint64_t torture_hash(const char *text) {
    uint64_t hash = 14695981039346656037u;
    const char *bearer = strstr(text, torture_bearer);
    const char *number = bearer != NULL ? bearer + sizeof torture_bearer - 1 : NULL;
    for (; *text != '\0'; text++) {
        hash = text == number ? hash : (hash ^ (unsigned char)*text) * 1099511628211u;
    }
    return hash;
}

/* Nothing may reach a peer that would not reach it in a perfect run, and nothing twice after a part of the answer
 * reached the program. */
static void torture_note_request(torture *t, script_conn *c, const char *request) {
    uint64_t hash = torture_hash(request);
    bool known = t->perfect == NULL;
    for (size_t i = 0; !known && i < t->perfect->seen_count; i++) {
        known = t->perfect->seen[i] == hash;
    }
    if (!known) {
        torture_fail(t, "this is not sent in a perfect run:\n%.600s", request);
    }
    assert_true(t->perfect != NULL || t->seen_count < TORTURE_SEEN);
    if (t->perfect == NULL) {
        t->seen[t->seen_count++] = hash;
    }
    bool alone = t->round_end == t->round_first + 1 && c->peer == &t->net.peers[TORTURE_SERVICE];
    const torture_outcome *o = &t->calls[t->round_first];
    if (alone && o->begun && !o->done && o->called > 0 && !t->other.begun) {
        torture_fail(t, "a second request after a part of the answer was delivered");
    }
}

static void torture_send_chunked(script_conn *c, const char *type, const char *const *pieces, size_t count) {
    char text[256];
    (void)snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n",
                   type);
    script_send(c, 5, text);
    for (size_t i = 0; i < count; i++) {
        int64_t delay_ms = 5 + 10 * ((int64_t)i / 2);
        (void)snprintf(text, sizeof text, "%lx\r\n", (unsigned long)strlen(pieces[i]));
        script_send(c, delay_ms, text);
        script_send(c, delay_ms, pieces[i]);
        script_send(c, delay_ms, "\r\n");
    }
    script_send(c, 5 + 10 * ((int64_t)count / 2), "0\r\n\r\n");
}

static void torture_answer_chat(script_conn *c, const char *request) {
    static const char *const text[] = {TORTURE_CHUNK("Hel"), TORTURE_CHUNK("lo"), TORTURE_LAST("stop"), TORTURE_DONE};
    static const char *const tools[] = {
        TORTURE_TOOL("\"id\":\"t1\",\"type\":\"function\",\"function\":{\"name\":\"sky\",\"arguments\":\"\"}"),
        TORTURE_TOOL("\"function\":{\"arguments\":\"{\\\"at\\\"\"}"),
        TORTURE_TOOL("\"function\":{\"arguments\":\":1}\"}"),
        TORTURE_LAST("tool_calls"),
        "data: {\"choices\":[],\"usage\":" TORTURE_USAGE "}\n\n",
        TORTURE_DONE};
    bool stream = strstr(request, "\"stream\":true") != NULL;
    bool offers = strstr(request, "\"tools\":") != NULL;
    if (stream) {
        torture_send_chunked(c, "text/event-stream", offers ? tools : text, offers ? 6 : 4);
    } else if (strstr(request, "\"role\":\"tool\"") != NULL) {
        script_answer(c, 5, 200, "", TORTURE_REPLY("\"content\":\"Sunny\"", "stop"));
    } else if (offers) {
        script_answer(c, 5, 200, "",
                      TORTURE_REPLY("\"content\":null,\"tool_calls\":[{\"id\":\"t1\",\"type\":"
                                    "\"function\",\"function\":{\"name\":\"sky\",\"arguments\":"
                                    "\"{}\"}}]",
                                    "tool_calls"));
    } else {
        script_answer(c, 5, 200, "apim-request-id: r1\r\n", TORTURE_HELLO);
    }
}

static void torture_answer_vectors(script_conn *c, bool numbers) {
    script_answer(c, 5, 200, "",
                  numbers ? TORTURE_VECTORS("[1,2e0]", "[0.25,-0.5]")
                          : TORTURE_VECTORS("\"AACAPwAAAEA=\"", "\"AACAPgAAAL8=\""));
}

/* The bytes of an upload, by offset. */
static char torture_upload_byte(uint64_t offset) {
    return (char)('a' + offset % 23);
}

static void torture_answer_raw(script_conn *c, const char *request) {
    static const char *const parts[] = {"some bytes, ", "more of them, ", "and the last"};
    static const char *const events[] = {"event: one\ndata: {\"n\":1}\n\n", "event: two\ndata: {\"n\":2}\ndata: x\n\n",
                                         ": a comment\n\ndata: three\n\n"};
    if (strstr(request, "/download ") != NULL) {
        torture_send_chunked(c, "application/octet-stream", parts, 3);
    } else if (strstr(request, "/events ") != NULL) {
        torture_send_chunked(c, "text/event-stream", events, 3);
    } else {
        const char *body = strstr(request, "\r\n\r\n") + 4;
        for (size_t i = 0; body[i] != '\0'; i++) {
            assert_int_equal(body[i], torture_upload_byte(i));
        }
        char text[64];
        (void)snprintf(text, sizeof text, "{\"bytes\":%lu}", (unsigned long)strlen(body));
        script_answer(c, 5, 201, "", text);
    }
}

static bool torture_is_welcome(const torture *t, const char *request) {
    const char *bearer = strstr(request, torture_bearer);
    if (bearer == NULL) {
        return strstr(request, "\r\napi-key: canary-key\r\n") != NULL;
    }
    int number = bearer[sizeof torture_bearer - 1] - '0'; /* a single digit */
    return t->accepts == 0 ? number >= t->oldest : number == t->accepts;
}

static void torture_service(script_conn *c, const char *request) {
    torture *t = torture_of(c);
    torture_note_request(t, c, request);
    const char *raw = t->once != NULL ? t->once : t->always;
    t->once = NULL;
    if (raw != NULL) {
        if (raw[0] == '\0') {
            script_end(c, 1, AZO_OK);
        } else {
            script_send(c, 5, raw);
            if (strstr(raw, "\r\nConnection: close") != NULL) {
                script_end(c, 5, AZO_OK);
            }
        }
    } else if (!torture_is_welcome(t, request)) {
        script_answer(c, 5, 401,
                      t->claims_for == 0 ? ""
                                         : "WWW-Authenticate: Bearer realm=\"\", error="
                                           "\"insufficient_claims\", claims=\"eyJhIjp7fX0=\"\r\n",
                      "{\"statusCode\":401}");
    } else if (strstr(request, "/embeddings") != NULL) {
        torture_answer_vectors(c, t->numbers);
    } else if (strstr(request, "/chat/completions") != NULL) {
        torture_answer_chat(c, request);
    } else {
        torture_answer_raw(c, request);
    }
}

static void torture_answer_token(script_conn *c, int number, int lifetime_s) {
    char body[256];
    (void)snprintf(body, sizeof body,
                   "{\"token_type\":\"Bearer\",\"expires_in\":%d,\"access_token\":\"canary-tok.%d\""
                   "}",
                   lifetime_s, number);
    script_answer(c, 20, 200, "", body);
}

static void torture_entra(script_conn *c, const char *request) {
    torture *t = torture_of(c);
    torture_note_request(t, c, request);
    assert_non_null(strstr(request, "&client_secret=canary-secret&"));
    if (t->refusals > 0) {
        t->refusals--;
        script_send(c, 20, t->refusal);
    } else {
        bool claims = strstr(request, "&claims=%7B%22a%22") != NULL;
        torture_answer_token(c, claims ? t->claims_for : t->issues, 3599);
    }
}

static void torture_imds(script_conn *c, const char *request) {
    torture *t = torture_of(c);
    torture_note_request(t, c, request);
    assert_non_null(strstr(request, "\r\nMetadata: true\r\n"));
    if (t->refusals > 0) {
        t->refusals--;
        script_send(c, 20, t->refusal);
    } else {
        torture_answer_token(c, t->issues, 86399);
    }
}

static azo_result torture_give_token(const torture *t, azo_token_answer *answer) {
    char token[32];
    int len = snprintf(token, sizeof token, "canary-tok.%d", t->issues);
    assert_true(len > 0 && (size_t)len <= answer->token_cap);
    memcpy(answer->token, token, (size_t)len);
    answer->token_len = (size_t)len;
    answer->expires_in_s = 3600;
    return AZO_OK;
}

static azo_result torture_provide(const azo_token_ask *ask, azo_token_answer *answer, void *user_data) {
    const torture *t = (const torture *)user_data;
    assert_false(t->closed);
    assert_false(ask->abandon);
    return torture_give_token(t, answer);
}

/* Answers 30 ms after it was asked first. */
static azo_result torture_provide_later(const azo_token_ask *ask, azo_token_answer *answer, void *user_data) {
    torture *t = (torture *)user_data;
    assert_false(t->closed);
    if (*ask->state == NULL && !ask->abandon) {
        int64_t *due = (int64_t *)malloc(sizeof *due);
        *due = t->net.now + 30;
        *ask->state = due;
        t->provider_states++;
        answer->wait_ms = 30;
        return AZO_PENDING;
    }
    assert_non_null(*ask->state);
    assert_true(ask->abandon || t->net.now >= *(const int64_t *)*ask->state);
    free(*ask->state);
    *ask->state = NULL;
    t->provider_states--;
    return ask->abandon ? AZO_ERR_PROVIDER : torture_give_token(t, answer);
}

#endif
