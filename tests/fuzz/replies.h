/* replies.h - targets in which a whole client gets one answer: chat, stream, embed, token, refusal, proxy; and those in
 * which what it sends is looked at: url, request.
 *
 * A scene is a client in the scripted world. Whatever asks gets `answer`, cut into pieces or not; a scene is played
 * twice, and must end the same way.
 */
#ifndef AZO_TEST_FUZZ_REPLIES_H
#define AZO_TEST_FUZZ_REPLIES_H

enum { FUZZ_SERVICE = 8000, FUZZ_ENTRA = 8001, FUZZ_IMDS = 8003, FUZZ_MAX_POLLS = 200000 };

#define FUZZ_TOKEN "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"canary-token\"}"

typedef struct fuzz_scene {
    test_memory memory;
    azo_client_desc desc;
    azo_client *client;
    azo_error error;
    azo_str answer; /* raw: what every request gets */
    bool ends;      /* ... and then closes */
    fuzz_cut cut;   /* how it arrives */
    char host[300]; /* that was connected to last, and its port */
    unsigned port;
    test_notes sent;  /* all of it */
    test_notes notes; /* what is compared */
} fuzz_scene;

static script_world fuzz_net;
static fuzz_scene *fuzz_now; /* that is played */

static void fuzz_log_line(int level, const char *text, void *user_data) {
    (void)user_data;
    FUZZ_CHECK(level >= AZO_LOG_WARN && level <= AZO_LOG_DEBUG);
    fuzz_check_shown(text);
}

/* ---- the world ---- */

static void fuzz_peer(script_conn *c, const char *request) {
    (void)request;
    if (fuzz_now->answer.len > 0) {
        script_send_bytes(c, 0, fuzz_now->answer.ptr, fuzz_now->answer.len);
    }
    if (fuzz_now->ends) {
        script_end(c, 0, AZO_OK);
    }
}

/* Every port leads to the one peer. */
static azo_result fuzz_open(const azo_target *to, void **conn, void *user_data) {
    azo_target there = *to;
    FUZZ_CHECK(strlen(to->host) < sizeof fuzz_now->host && to->port > 0);
    snprintf(fuzz_now->host, sizeof fuzz_now->host, "%s", to->host);
    fuzz_now->port = to->port;
    there.port = FUZZ_SERVICE;
    return script_conn_open(&there, conn, user_data);
}

static ptrdiff_t fuzz_recv(void *conn, void *buf, size_t cap, void *user_data) {
    script_world *w = (script_world *)user_data;
    if (fuzz_now->cut.width != 0 && fuzz_random(&fuzz_now->cut) % 8 == 0) {
        return AZO_IO_AGAIN;
    }
    w->recv_limit = fuzz_now->cut.width == 0 ? 0 : fuzz_width(&fuzz_now->cut);
    return script_conn_recv(conn, buf, cap, user_data);
}

static ptrdiff_t fuzz_send(void *conn, const void *buf, size_t len, void *user_data) {
    script_world *w = (script_world *)user_data;
    if (fuzz_now->cut.width != 0 && fuzz_random(&fuzz_now->cut) % 8 == 0) {
        return AZO_IO_AGAIN;
    }
    w->send_limit = fuzz_now->cut.width == 0 ? 0 : 8 * fuzz_width(&fuzz_now->cut);
    ptrdiff_t sent = script_conn_send(conn, buf, len, user_data);
    if (sent > 0) {
        test_note_bytes(&fuzz_now->sent, (const char *)buf, (size_t)sent);
    }
    return sent;
}

/* A key, no retries, small caps; the caller changes what it likes before it opens the client. */
static void fuzz_scene_open(fuzz_scene *s, unsigned char steer) {
    memset(s, 0, sizeof *s);
    fuzz_memory_open(&s->memory);
    script_open(&fuzz_net);
    (void)script_peer(&fuzz_net, FUZZ_SERVICE, fuzz_peer, s);
    fuzz_now = s;
    s->cut = fuzz_cut_of(steer);
    s->ends = true;
    s->desc.endpoint = "http://127.0.0.1:8000";
    s->desc.deployment = "gpt";
    s->desc.api_key = "canary-key";
    fuzz_secrets[0] = s->desc.api_key;
    fuzz_secrets[1] = NULL;
    s->desc.max_retries = AZO_OFF;
    s->desc.proxy = "";
    s->desc.max_response_bytes = 1 << 20;
    s->desc.max_event_bytes = 1 << 16;
    s->desc.allocator = s->memory.hook;
    s->desc.logger.line = (steer & 24) == 24 ? fuzz_log_line : NULL; /* a log costs as much as all the rest */
    s->desc.clock = fuzz_net.clock;
    s->desc.transport = fuzz_net.transport;
    s->desc.transport.open = fuzz_open;
    s->desc.transport.recv = fuzz_recv;
    s->desc.transport.send = fuzz_send;
}

static azo_result fuzz_scene_start(fuzz_scene *s) {
    azo_result r = azo_client_open(&s->desc, &s->client, &s->error);
    fuzz_check_error(&s->error, r);
    return r;
}

static void fuzz_scene_close(fuzz_scene *s) {
    azo_client_close(s->client);
    test_memory_close(&s->memory);
    script_close(&fuzz_net);
    test_notes_free(&s->sent);
    test_notes_free(&s->notes);
}

/* Plays the scene in one piece and in the pieces that `steer` chooses. */
static void fuzz_scene_twice(void (*play)(fuzz_scene *s, unsigned char steer, azo_str bytes), unsigned char steer,
                             azo_str bytes) {
    fuzz_scene s;
    test_notes first;
    fuzz_scene_open(&s, 7);
    play(&s, steer, bytes);
    first = s.notes;
    memset(&s.notes, 0, sizeof s.notes);
    fuzz_scene_close(&s);
    fuzz_scene_open(&s, steer);
    play(&s, steer, bytes);
    fuzz_check_equal(&first, &s.notes);
    fuzz_scene_close(&s);
    test_notes_free(&first);
}

/* ---- replies ---- */

/* A view of a reply has a NUL behind it. */
static void fuzz_note_view(fuzz_scene *s, const char *name, azo_str view) {
    FUZZ_CHECK(view.ptr != NULL ? view.ptr[view.len] == '\0' : view.len == 0);
    test_note(&s->notes, " %s=", name);
    test_note_text(&s->notes, view);
}

static void fuzz_note_json(fuzz_scene *s, const char *name, azo_str view) {
    fuzz_note_view(s, name, view);
    FUZZ_CHECK(view.len == 0 || ref_json(view, 2 * AZO_MAX_JSON_DEPTH));
}

static void fuzz_note_http(fuzz_scene *s, const azo_http *http) {
    test_note(&s->notes, " http %d %d", http->status, http->attempts);
    fuzz_note_view(s, "request id", http->request_id);
    fuzz_note_view(s, "region", http->region);
    fuzz_note_view(s, "headers", http->headers);
    fuzz_note_view(s, "body", http->body);
    fuzz_note_view(s, "type", azo_http_header(http, "content-type"));
}

static void fuzz_note_calls(fuzz_scene *s, const azo_tool_call *calls, size_t count) {
    for (size_t i = 0; i < count; i++) {
        fuzz_note_view(s, "call", calls[i].id);
        fuzz_note_view(s, "name", calls[i].name);
        fuzz_note_view(s, "arguments", calls[i].arguments);
    }
}

static void fuzz_note_chat(fuzz_scene *s, const azo_chat_reply *reply) {
    fuzz_note_view(s, "id", reply->id);
    fuzz_note_view(s, "model", reply->model);
    fuzz_note_json(s, "prompt filter", reply->prompt_filter_json);
    fuzz_note_json(s, "usage", reply->usage_json);
    test_note(&s->notes, " tokens %lld %lld %lld %lld", (long long)reply->prompt_tokens,
              (long long)reply->cached_tokens, (long long)reply->completion_tokens, (long long)reply->reasoning_tokens);
    for (size_t i = 0; i < reply->choice_count; i++) {
        const azo_choice *c = &reply->choices[i];
        fuzz_note_view(s, "text", c->text);
        fuzz_note_view(s, "refusal", c->refusal);
        fuzz_note_view(s, "finish", c->finish_reason);
        fuzz_note_json(s, "filter", c->filter_json);
        fuzz_note_json(s, "message", c->message_json);
        fuzz_note_calls(s, c->tool_calls, c->tool_call_count);
    }
    if (reply->choice_count > 0) {
        FUZZ_CHECK(reply->text.ptr == reply->choices[0].text.ptr && reply->text.len == reply->choices[0].text.len);
        FUZZ_CHECK(reply->message_json.ptr == reply->choices[0].message_json.ptr);
        FUZZ_CHECK(reply->tool_calls == reply->choices[0].tool_calls);
    }
    FUZZ_CHECK(reply->prompt_tokens >= -1 && reply->cached_tokens >= -1 && reply->completion_tokens >= -1 &&
               reply->reasoning_tokens >= -1);
    fuzz_note_http(s, &reply->http);
}

/* An answer with status and length. */
static char *fuzz_answer(fuzz_scene *s, int status, const char *type, azo_str body) {
    char head[160];
    int len = snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nContent-Type: %s\r\nContent-Length: %lu\r\n\r\n", status,
                       type, (unsigned long)body.len);
    char *all = (char *)malloc((size_t)len + body.len);
    memcpy(all, head, (size_t)len);
    memcpy(all + len, body.len > 0 ? body.ptr : "", body.len);
    s->answer = fuzz_view(all, (size_t)len + body.len);
    return all;
}

static azo_chat_desc fuzz_chat_desc(const azo_message *message) {
    azo_chat_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.messages = message;
    desc.message_count = 1;
    return desc;
}

/* ---- chat ---- */

/* What the model says may go back to it. */
static void fuzz_send_back(fuzz_scene *s, const azo_chat_reply *reply) {
    azo_history *history;
    azo_error e;
    FUZZ_CHECK(azo_history_open(s->client, &history, &e) == AZO_OK);
    azo_result r = azo_history_add_reply(history, reply, &e);
    fuzz_check_error(&e, r);
    FUZZ_CHECK(azo_history_count(history) == (r == AZO_OK ? 1u : 0u));
    FUZZ_CHECK(r == AZO_OK || r == AZO_ERR_ARGUMENT);
    FUZZ_CHECK(r == AZO_OK || reply->message_json.ptr == NULL ||
               !ref_json(reply->message_json, AZO_MAX_JSON_DEPTH)); /* one level deeper than it came is too deep */
    azo_history_close(history);
}

static void fuzz_play_chat(fuzz_scene *s, unsigned char steer, azo_str bytes) {
    azo_message message = azo_user("Hi");
    azo_chat_desc desc = fuzz_chat_desc(&message);
    azo_chat_reply reply;
    char *answer = fuzz_answer(s, 200, "application/json", bytes);
    (void)steer;
    FUZZ_CHECK(fuzz_scene_start(s) == AZO_OK);
    azo_result r = azo_chat(s->client, &desc, &reply, &s->error);
    fuzz_check_error(&s->error, r);
    FUZZ_CHECK(r != AZO_OK || (ref_json(bytes, AZO_MAX_JSON_DEPTH) && reply.choice_count > 0));
    fuzz_note_error(&s->notes, &s->error);
    fuzz_note_chat(s, &reply);
    if (r == AZO_OK) {
        fuzz_send_back(s, &reply);
    }
    azo_chat_reply_free(&reply);
    free(answer);
}

static void fuzz_chat(unsigned char steer, azo_str bytes) {
    fuzz_scene_twice(fuzz_play_chat, steer, bytes);
}

/* ---- stream ---- */

typedef struct fuzz_listener {
    fuzz_scene *scene;
    azo_request *request;
    test_notes text; /* of choice 0 */
    fuzz_cut pauses;
} fuzz_listener;

static int fuzz_on_event(const azo_event *ev, void *user_data) {
    fuzz_listener *l = (fuzz_listener *)user_data;
    FUZZ_CHECK(ev->kind >= AZO_EVENT_TEXT && ev->kind <= AZO_EVENT_OTHER);
    FUZZ_CHECK(ev->json.ptr != NULL && ev->json.ptr[ev->json.len] == '\0' && ref_json(ev->json, AZO_MAX_JSON_DEPTH));
    test_note(&l->scene->notes, "\nevent %d choice %d tool %d", ev->kind, ev->choice, ev->tool);
    fuzz_note_view(l->scene, "text", ev->text);
    fuzz_note_view(l->scene, "id", ev->tool_id);
    fuzz_note_view(l->scene, "name", ev->tool_name);
    if (ev->kind == AZO_EVENT_TEXT && ev->choice == 0) {
        test_note_bytes(&l->text, ev->text.len > 0 ? ev->text.ptr : "", ev->text.len);
    }
    if (ev->kind == AZO_EVENT_FILTER || ev->kind == AZO_EVENT_USAGE) {
        FUZZ_CHECK(ref_json(ev->text, AZO_MAX_JSON_DEPTH));
    }
    return l->pauses.width != 0 && fuzz_random(&l->pauses) % 4 == 0 ? AZO_PAUSE : AZO_GO_ON;
}

/* Steps until the request is finished, and takes up again what was paused. */
static void fuzz_finish(fuzz_scene *s, azo_request *request) {
    for (int i = 0; azo_request_result(request) == AZO_PENDING; i++) {
        FUZZ_CHECK(i < FUZZ_MAX_POLLS);
        FUZZ_CHECK(azo_poll(s->client, 1) == AZO_OK);
        azo_request_resume(request);
    }
}

static bool fuzz_has_done_mark(azo_str bytes) {
    test_notes events = {NULL, 0, 0};
    ref_sse(bytes, &events);
    bool has = events.text != NULL && strstr(events.text, "[DONE]") != NULL;
    test_notes_free(&events);
    return has;
}

static void fuzz_play_stream(fuzz_scene *s, unsigned char steer, azo_str bytes) {
    azo_message message = azo_user("Hi");
    azo_chat_desc desc = fuzz_chat_desc(&message);
    azo_chat_reply reply;
    fuzz_listener listener;
    char *answer = fuzz_answer(s, 200, "text/event-stream", bytes);
    memset(&listener, 0, sizeof listener);
    listener.scene = s;
    listener.pauses = s->cut;
    s->desc.max_response_bytes = (steer & 64) != 0 ? steer : 1 << 20;
    desc.on_event = fuzz_on_event;
    desc.user_data = &listener;
    FUZZ_CHECK(fuzz_scene_start(s) == AZO_OK);
    FUZZ_CHECK(azo_chat_begin(s->client, &desc, &listener.request, &s->error) == AZO_OK);
    fuzz_finish(s, listener.request);
    azo_result r = azo_chat_end(listener.request, &reply, &s->error);
    fuzz_check_error(&s->error, r);
    fuzz_note_error(&s->notes, &s->error);
    fuzz_note_chat(s, &reply);
    FUZZ_CHECK(reply.text.len <= s->desc.max_response_bytes);
    if (reply.choice_count > 0 && r != AZO_ERR_LIMIT) { /* with no choice 0 the first of the others stands there */
        azo_str heard = fuzz_notes_view(&listener.text);
        FUZZ_CHECK(heard.len == 0 || fuzz_same(heard, reply.text));
    }
    FUZZ_CHECK(r != AZO_OK || reply.choice_count > 0);
    FUZZ_CHECK(r != AZO_OK || ref_json(bytes, AZO_MAX_JSON_DEPTH) || fuzz_has_done_mark(bytes) ||
               reply.finish_reason.len > 0);
    if (r == AZO_OK) {
        fuzz_send_back(s, &reply);
    }
    azo_chat_reply_free(&reply);
    test_notes_free(&listener.text);
    free(answer);
}

static void fuzz_stream(unsigned char steer, azo_str bytes) {
    fuzz_scene_twice(fuzz_play_stream, steer, bytes);
}

/* ---- embeddings ---- */

/* A row that came as numbers is what azo_json_number reads, as floats. */
static void fuzz_embed_row(const azo_embed_reply *reply, azo_str body, size_t position) {
    char path[64];
    azo_str value;
    double number = (double)position;
    snprintf(path, sizeof path, "data[%lu].index", (unsigned long)position);
    if (azo_json_get(body, path, &value) == AZO_OK && azo_json_number(value, &number) != AZO_OK) {
        return;
    }
    for (size_t i = 0; i < reply->dimensions && number >= 0 && number < (double)reply->count; i++) {
        double right;
        snprintf(path, sizeof path, "data[%lu].embedding[%lu]", (unsigned long)position, (unsigned long)i);
        if (azo_json_get(body, path, &value) == AZO_OK) {
            FUZZ_CHECK(azo_json_number(value, &right) == AZO_OK);
            float got = reply->vectors[(size_t)number * reply->dimensions + i];
            FUZZ_CHECK(!(got < (float)right || got > (float)right));
        }
    }
}

static void fuzz_note_vectors(fuzz_scene *s, const azo_embed_reply *reply) {
    test_note(&s->notes, " %lu x %lu, %lld:", (unsigned long)reply->count, (unsigned long)reply->dimensions,
              (long long)reply->prompt_tokens);
    for (size_t i = 0; i < reply->count * reply->dimensions; i++) {
        uint32_t bits;
        memcpy(&bits, &reply->vectors[i], sizeof bits);
        test_note(&s->notes, " %08lx", (unsigned long)bits);
    }
}

static void fuzz_play_embed(fuzz_scene *s, unsigned char steer, azo_str bytes) {
    azo_str inputs[3] = {{"a", 1}, {"b", 1}, {"c", 1}};
    azo_embed_desc desc;
    azo_embed_reply reply;
    float *room = (float *)malloc(24 * sizeof *room);
    char *answer = fuzz_answer(s, 200, "application/json", bytes);
    memset(&desc, 0, sizeof desc);
    desc.inputs = inputs;
    desc.input_count = 1 + (steer >> 4) % 3;
    if ((steer & 8) != 0) {
        desc.vectors = room;
        desc.vector_cap = 24;
    }
    FUZZ_CHECK(fuzz_scene_start(s) == AZO_OK);
    azo_result r = azo_embed(s->client, &desc, &reply, &s->error);
    fuzz_check_error(&s->error, r);
    fuzz_note_error(&s->notes, &s->error);
    fuzz_note_http(s, &reply.http);
    if (r == AZO_OK) {
        FUZZ_CHECK(ref_json(bytes, AZO_MAX_JSON_DEPTH) && reply.count == desc.input_count && reply.dimensions > 0);
        FUZZ_CHECK(desc.vectors == NULL || (reply.vectors == room && reply.count * reply.dimensions <= 24));
        fuzz_note_vectors(s, &reply);
        for (size_t i = 0; i < reply.count; i++) {
            fuzz_embed_row(&reply, bytes, i);
        }
    } else {
        FUZZ_CHECK(reply.count == 0 && reply.vectors == NULL);
    }
    azo_embed_reply_free(&reply);
    free(answer);
    free(room);
}

static void fuzz_embed(unsigned char steer, azo_str bytes) {
    fuzz_scene_twice(fuzz_play_embed, steer, bytes);
}

/* ---- tokens ---- */

static void fuzz_use_secret(fuzz_scene *s) {
    s->desc.api_key = NULL;
    s->desc.credential.kind = AZO_CRED_SECRET;
    s->desc.credential.tenant_id = "11111111-2222-3333-4444-555555555555";
    s->desc.credential.client_id = "app";
    s->desc.credential.client_secret = "canary-secret";
    fuzz_secrets[0] = s->desc.credential.client_secret;
    s->desc.credential.authority_host = "http://127.0.0.1:8001";
}

static void fuzz_use_imds(fuzz_scene *s) { /* its address comes from the environment, which fuzz_start sets */
    s->desc.api_key = NULL;
    s->desc.credential.kind = AZO_CRED_IMDS;
    fuzz_secrets[0] = NULL;
}

static void fuzz_token_call(fuzz_scene *s, azo_str body) {
    azo_token_desc desc;
    azo_token_reply reply;
    memset(&desc, 0, sizeof desc);
    FUZZ_CHECK(fuzz_scene_start(s) == AZO_OK);
    azo_result r = azo_token(s->client, &desc, &reply, &s->error);
    fuzz_check_error(&s->error, r);
    fuzz_note_error(&s->notes, &s->error);
    fuzz_note_view(s, "token", reply.token);
    test_note(&s->notes, " %lld %s", (long long)reply.expires_in_s, reply.source != NULL ? reply.source : "-");
    if (r == AZO_OK) {
        FUZZ_CHECK(ref_json(body, AZO_MAX_JSON_DEPTH) && reply.token.len > 0 && reply.token.len <= AZO_MAX_TOKEN_BYTES);
        FUZZ_CHECK(reply.expires_in_s >= 0);
        for (size_t i = 0; i < reply.token.len; i++) {
            FUZZ_CHECK(reply.token.ptr[i] > ' ' && reply.token.ptr[i] < 0x7f);
        }
    } else {
        FUZZ_CHECK(reply.token.len == 0);
    }
    azo_token_reply_free(&reply);
}

static void fuzz_play_token(fuzz_scene *s, unsigned char steer, azo_str bytes) {
    char *answer = fuzz_answer(s, 200, "application/json", bytes);
    if ((steer & 8) != 0) {
        fuzz_use_imds(s);
    } else {
        fuzz_use_secret(s);
    }
    fuzz_token_call(s, bytes);
    free(answer);
}

static void fuzz_token(unsigned char steer, azo_str bytes) {
    fuzz_scene_twice(fuzz_play_token, steer, bytes);
}

/* ---- refusals ---- */

static void fuzz_raw_call(fuzz_scene *s) {
    azo_raw_desc desc;
    azo_raw_reply reply;
    memset(&desc, 0, sizeof desc);
    desc.path = "/models";
    FUZZ_CHECK(fuzz_scene_start(s) == AZO_OK);
    azo_result r = azo_raw(s->client, &desc, &reply, &s->error);
    fuzz_check_error(&s->error, r);
    FUZZ_CHECK(r < 0 || (reply.http.status >= 200 && reply.http.status <= 299));
    fuzz_note_error(&s->notes, &s->error);
    fuzz_note_http(s, &reply.http);
    azo_raw_reply_free(&reply);
}

/* The body of an answer that is no success, from each of the three services. */
static void fuzz_play_refusal(fuzz_scene *s, unsigned char steer, azo_str bytes) {
    static const int statuses[] = {400, 401, 403, 404, 408, 409, 410, 413, 422, 429, 500, 503, 302, 304, 600, 999};
    static const char *const types[] = {"application/json", "text/html"};
    unsigned choice = bytes.len > 0 ? (unsigned char)bytes.ptr[0] : 0;
    azo_str body = bytes.len > 0 ? fuzz_view(bytes.ptr + 1, bytes.len - 1) : bytes;
    char *answer = fuzz_answer(s, statuses[choice % 16], types[choice >> 6 & 1], body);
    (void)steer;
    if (choice % 64 / 16 == 1) {
        fuzz_use_secret(s);
        fuzz_token_call(s, fuzz_view("", 0)); /* which is no JSON: success would be noticed */
    } else if (choice % 64 / 16 == 2) {
        fuzz_use_imds(s);
        fuzz_token_call(s, fuzz_view("", 0));
    } else {
        fuzz_raw_call(s);
    }
    FUZZ_CHECK(s->error.code < 0);
    free(answer);
}

static void fuzz_refusal(unsigned char steer, azo_str bytes) {
    fuzz_scene_twice(fuzz_play_refusal, steer, bytes);
}

/* ---- proxy ---- */

/* Nothing but CONNECT is sent before the proxy has agreed, nothing but TLS after it, and never the key. */
static void fuzz_play_proxy(fuzz_scene *s, unsigned char steer, azo_str bytes) {
    ref_head head;
    size_t size = azoi_head_size(bytes, 0);
    (void)steer;
    s->answer = bytes;
    s->desc.endpoint = "https://x.openai.azure.com";
    s->desc.proxy = "http://user:canary-password@proxy.example:3128";
    fuzz_secrets[1] = "canary-password";
    fuzz_raw_call(s);
    FUZZ_CHECK(s->error.code < 0 && strcmp(s->host, "proxy.example") == 0 && s->port == 3128);
    char *connect_end = s->sent.text != NULL ? strstr(s->sent.text, "\r\n\r\n") : NULL;
    FUZZ_CHECK(connect_end != NULL && memcmp(s->sent.text, "CONNECT x.openai.azure.com:443 HTTP/1.1\r\n", 41) == 0);
    bool agreed = size > 0 && ref_head_ok(fuzz_view(bytes.ptr, size), true, &head) && head.status / 100 == 2;
    connect_end += 4;
    FUZZ_CHECK(agreed || *connect_end == '\0');
    FUZZ_CHECK(agreed || s->error.code == AZO_ERR_PROXY);
    FUZZ_CHECK(!agreed || s->sent.text + s->sent.len == connect_end || *connect_end == 0x16);
    FUZZ_CHECK(!fuzz_holds(fuzz_notes_view(&s->sent), "canary-key"));
    test_notes_free(&s->notes);
    if (size == bytes.len) { /* what came too early is seen only if it came along */
        test_note(&s->notes, "%s", azo_result_name(s->error.code));
    }
}

static void fuzz_proxy(unsigned char steer, azo_str bytes) {
    fuzz_scene_twice(fuzz_play_proxy, steer, bytes);
}

#endif
