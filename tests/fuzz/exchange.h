/* exchange.h - target: exchange. A client with several calls at a time, a plan of what happens to them, and peers that
 * send what the input says.
 *
 * The input has a line with the plan, a line with the number of the allocation that fails (none if empty), and the
 * answers. In the plan
 *
 *     c s e t         begins a chat, a stream, embeddings, a token call
 *     r v d b T       begins a raw call, one with events, with data, with a body that is read; a token call with claims
 *     1 ... 9         polls that often
 *     w W             lets a second, a minute pass
 *     x f u           cancels or frees the oldest call; resumes all
 *     O R B           connections open from now on, are refused, never answer
 *     P S             lets the next event be answered with pause, with stop
 *     X F Z N         lets its callback cancel or free the call, close the client, begin another call
 *     k i p           first in the plan: a key, managed identity, a token provider; else a client secret
 *
 * An answer ends at byte 255; within it 254 waits half a second, 253 ends the connection, 252 resets it, 251 waits 100
 * seconds. Where there is no answer left, or an empty one, the peer answers well.
 */
#ifndef AZO_TEST_FUZZ_EXCHANGE_H
#define AZO_TEST_FUZZ_EXCHANGE_H

enum { FUZZ_MAX_CALLS = 8, FUZZ_TOTAL_MS = 30000 };

typedef struct fuzz_call {
    char kind; /* the letter of the plan; 0: there is none */
    azo_request *request;
    bool over;   /* ended or freed */
    bool listed; /* azo_next gave it */
    size_t events;
    char tag[8];
    azo_header header; /* carries the tag */
} fuzz_call;

/* What the push hook was told; the library is to keep `slot` for us. */
typedef struct fuzz_pushed {
    bool watched[SCRIPT_CONNS];
    size_t count;
    fuzz_cut fails;
} fuzz_pushed;

typedef struct fuzz_exchange_state {
    fuzz_scene scene;
    azo_str answers;
    fuzz_call calls[FUZZ_MAX_CALLS];
    size_t count;
    fuzz_pushed pushed;
    char act; /* the next event's */
    bool closed;
} fuzz_exchange_state;

/* ---- peers ---- */

static void fuzz_answer_well(script_conn *c, const char *request) {
    const char *stream = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                         "3f\r\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello\"}}]}\n\n\r\n"
                         "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    if (strstr(request, "oauth2") != NULL) {
        script_answer(c, 5, 200, "", FUZZ_TOKEN);
    } else if (strstr(request, "\"stream\":true") != NULL || strstr(request, "text/event-stream") != NULL) {
        script_send(c, 5, stream);
    } else if (strstr(request, "/embeddings") != NULL) {
        script_answer(c, 5, 200, "", "{\"data\":[{\"index\":0,\"embedding\":[1,-0.5]}]}");
    } else {
        script_answer(c, 5, 200, "",
                      "{\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":"
                      "\"assistant\",\"content\":\"Hello\"}}]}");
    }
}

/* Nobody who has heard an event is asked for again. */
static void fuzz_check_request(const fuzz_exchange_state *x, const char *request) {
    const char *tag = strstr(request, "x-tag: ");
    if (tag != NULL) {
        size_t which = (size_t)(tag[7] - '0');
        FUZZ_CHECK(which < x->count && x->calls[which].events == 0);
    }
}

static void fuzz_exchange_peer(script_conn *c, const char *request) {
    fuzz_exchange_state *x = (fuzz_exchange_state *)c->peer->state;
    azo_str answer = fuzz_field(&x->answers, '\xff');
    int64_t delay = 0;
    bool ended = false;
    fuzz_check_request(x, request);
    if (answer.len == 0) {
        fuzz_answer_well(c, request);
        return;
    }
    while (answer.len > 0 && !ended && c->count < SCRIPT_PARTS - 8) {
        size_t len = 0;
        while (len < answer.len && ((unsigned char)answer.ptr[len] < 251 || (unsigned char)answer.ptr[len] > 254)) {
            len++;
        }
        if (len > 0) {
            script_send_bytes(c, delay, answer.ptr, len);
        }
        unsigned char op = len < answer.len ? (unsigned char)answer.ptr[len] : 0;
        answer = op == 0 ? fuzz_view("", 0) : fuzz_view(answer.ptr + len + 1, answer.len - len - 1);
        delay += op == 254 ? 500 : op == 251 ? 100000 : 0;
        ended = op == 253 || op == 252;
        if (ended) {
            script_end(c, delay, op == 253 ? AZO_OK : AZO_ERR_CLOSED);
        }
    }
}

static azo_result fuzz_provide(const azo_token_ask *ask, azo_token_answer *answer, void *user_data) {
    static const char token[] = "canary-token";
    int *turns = (int *)user_data;
    if (ask->abandon) {
        return AZO_OK;
    }
    FUZZ_CHECK(answer->token_cap >= sizeof token && ask->scope != NULL);
    if (++*turns % 3 == 1) {
        answer->wait_ms = 100;
        return AZO_PENDING;
    }
    memcpy(answer->token, token, sizeof token - 1);
    answer->token_len = sizeof token - 1;
    answer->expires_in_s = 60;
    return *turns % 7 == 0 ? AZO_ERR_PROVIDER : AZO_OK;
}

/* Registered once, unregistered once, before the descriptor is closed. */
static int fuzz_push(intptr_t fd, unsigned events, uint32_t id, void **slot, void *user_data) {
    fuzz_pushed *p = (fuzz_pushed *)user_data;
    FUZZ_CHECK(fd >= 0 && fd < SCRIPT_CONNS && fuzz_net.conns[fd].open && fuzz_net.conns[fd].id == id);
    FUZZ_CHECK(*slot == (p->watched[fd] ? &p->watched[fd] : NULL));
    FUZZ_CHECK((events & ~(unsigned)(AZO_POLL_IN | AZO_POLL_OUT)) == 0 && (events != 0 || p->watched[fd]));
    if (events != 0 && fuzz_random(&p->fails) % 64 == 0) {
        return -1;
    }
    p->count += events != 0 && !p->watched[fd] ? 1u : 0u;
    p->count -= events == 0 ? 1u : 0u;
    p->watched[fd] = events != 0;
    *slot = events != 0 ? &p->watched[fd] : NULL;
    return 0;
}

static void fuzz_push_timer(int32_t timeout_ms, void *user_data) {
    (void)user_data;
    FUZZ_CHECK(timeout_ms >= -1);
}

/* ---- calls ---- */

static void fuzz_exchange_begin(fuzz_exchange_state *x, char kind);

static int fuzz_exchange_act(fuzz_exchange_state *x, fuzz_call *call) {
    char act = x->act;
    x->act = 0;
    FUZZ_CHECK(!call->over && !x->closed);
    call->events++;
    switch (act) {
    case 'P':
        return AZO_PAUSE;
    case 'S':
        return AZO_STOP;
    case 'X':
        azo_request_cancel(call->request);
        break;
    case 'F':
        call->over = true;
        azo_request_free(call->request);
        break;
    case 'Z':
        x->closed = true;
        azo_client_close(x->scene.client);
        break;
    case 'N':
        fuzz_exchange_begin(x, 's');
        break;
    default:
        break;
    }
    return AZO_GO_ON;
}

static int fuzz_exchange_event(const azo_event *ev, void *user_data) {
    fuzz_exchange_state *x = (fuzz_exchange_state *)(void *)fuzz_now;
    FUZZ_CHECK(ev->json.ptr != NULL && ev->json.ptr[ev->json.len] == '\0');
    FUZZ_CHECK(azo_step(x->scene.client, NULL, 0) == AZO_ERR_STATE);
    return fuzz_exchange_act(x, (fuzz_call *)user_data);
}

static int fuzz_exchange_data(const void *data, size_t len, void *user_data) {
    FUZZ_CHECK(data != NULL && len > 0);
    return fuzz_exchange_act((fuzz_exchange_state *)(void *)fuzz_now, (fuzz_call *)user_data);
}

/* 3,000 bytes in pieces; now and then it gives up. */
static ptrdiff_t fuzz_exchange_read(uint64_t offset, void *buf, size_t cap, void *user_data) {
    fuzz_cut *random = (fuzz_cut *)user_data;
    FUZZ_CHECK(cap > 0 && offset < 3000);
    size_t len = 3000 - offset < cap ? (size_t)(3000 - offset) : cap;
    len = len > 300 ? len / 2 : len;
    memset(buf, 'x', len);
    return fuzz_random(random) % 64 == 0 ? -1 : (ptrdiff_t)len;
}

static azo_result fuzz_exchange_raw(azo_client *client, const azo_call *parts, fuzz_call *call, azo_error *e) {
    azo_raw_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.path = "/responses";
    desc.body = "{}";
    desc.call = *parts;
    desc.on_event = call->kind == 'v' ? fuzz_exchange_event : NULL;
    desc.on_body = call->kind == 'd' ? fuzz_exchange_data : NULL;
    desc.user_data = call;
    if (call->kind == 'b') {
        desc.body = NULL;
        desc.body_len = 3000;
        desc.read_body = fuzz_exchange_read;
        desc.read_user_data = &fuzz_now->cut;
    }
    return azo_raw_begin(client, &desc, &call->request, e);
}

static azo_result fuzz_exchange_chat(azo_client *client, const azo_call *parts, fuzz_call *call, azo_error *e) {
    azo_message message = azo_user("Hi");
    azo_chat_desc desc = fuzz_chat_desc(&message);
    desc.call = *parts;
    desc.on_event = call->kind == 's' ? fuzz_exchange_event : NULL;
    desc.user_data = call;
    return azo_chat_begin(client, &desc, &call->request, e);
}

static void fuzz_exchange_begin(fuzz_exchange_state *x, char kind) {
    azo_client *client = x->scene.client;
    azo_call parts;
    azo_error e;
    azo_result r;
    if (x->count == FUZZ_MAX_CALLS) {
        return;
    }
    fuzz_call *call = &x->calls[x->count++];
    memset(call, 0, sizeof *call);
    memset(&parts, 0, sizeof parts);
    call->kind = kind;
    snprintf(call->tag, sizeof call->tag, "%u", (unsigned)(call - x->calls));
    call->header.name = "x-tag";
    call->header.value = call->tag;
    parts.tag = call;
    bool token = kind == 't' || kind == 'T';
    parts.headers = token ? NULL : &call->header;
    parts.header_count = token ? 0 : 1;
    if (kind == 'c' || kind == 's') {
        r = fuzz_exchange_chat(client, &parts, call, &e);
    } else if (kind == 'e') {
        azo_str input = {"x", 1};
        azo_embed_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.inputs = &input;
        desc.input_count = 1;
        desc.call = parts;
        r = azo_embed_begin(client, &desc, &call->request, &e);
    } else if (token) {
        azo_token_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.claims = kind == 'T' ? "{\"access_token\":{}}" : NULL;
        desc.call = parts;
        r = azo_token_begin(client, &desc, &call->request, &e);
    } else {
        r = fuzz_exchange_raw(client, &parts, call, &e);
    }
    fuzz_check_error(&e, r);
    FUZZ_CHECK((r == AZO_OK) == (call->request != NULL));
    FUZZ_CHECK(r == AZO_OK || r == AZO_ERR_MEMORY || (token && r == AZO_ERR_ARGUMENT));
    call->over = r != AZO_OK;
}

/* A body that was collected is as long as was announced. */
static void fuzz_check_length(const azo_http *http) {
    azo_str length = azo_http_header(http, "content-length");
    if (length.len > 0 && http->status != 204) {
        FUZZ_CHECK(http->body.len == strtoull(length.ptr, NULL, 10));
    }
}

/* The outcome is the one that was told before, and success is one by HTTP too. */
static void fuzz_exchange_end(fuzz_exchange_state *x, fuzz_call *call) {
    azo_result before = azo_request_result(call->request);
    azo_error e;
    azo_result r;
    int status = 200;
    azo_request *request = call->request;
    FUZZ_CHECK(before != AZO_PENDING && !call->over && (call->listed || x->closed));
    call->over = true;
    if (call->kind == 'c' || call->kind == 's') {
        azo_chat_reply reply;
        r = azo_chat_end(request, &reply, &e);
        status = reply.http.status;
        FUZZ_CHECK(r != AZO_OK || reply.choice_count > 0);
        azo_chat_reply_free(&reply);
    } else if (call->kind == 'e') {
        azo_embed_reply reply;
        r = azo_embed_end(request, &reply, &e);
        status = reply.http.status;
        FUZZ_CHECK((r == AZO_OK) == (reply.count == 1) || x->scene.memory.failures > 0);
        azo_embed_reply_free(&reply);
    } else if (call->kind == 't' || call->kind == 'T') {
        azo_token_reply reply;
        r = azo_token_end(request, &reply, &e);
        FUZZ_CHECK((r == AZO_OK) == (reply.token.len > 0));
        azo_token_reply_free(&reply);
    } else {
        azo_raw_reply reply;
        r = azo_raw_end(request, &reply, &e);
        status = reply.http.status;
        if (r == AZO_OK && strchr("rb", call->kind) != NULL) {
            fuzz_check_length(&reply.http);
        }
        azo_raw_reply_free(&reply);
    }
    FUZZ_CHECK(r == before && (r != AZO_OK || (status >= 200 && status <= 299)));
    fuzz_check_error(&e, r);
}

/* ---- the plan ---- */

static void fuzz_exchange_look(fuzz_exchange_state *x) {
    azo_request *done;
    while (!x->closed && (done = azo_next(x->scene.client)) != NULL) {
        fuzz_call *call = (fuzz_call *)azo_request_tag(done);
        FUZZ_CHECK(!call->listed && !call->over && call->request == done);
        FUZZ_CHECK(azo_request_result(done) != AZO_PENDING);
        call->listed = true;
    }
}

static void fuzz_exchange_poll(fuzz_exchange_state *x, int32_t ms) {
    if (!x->closed) {
        FUZZ_CHECK(azo_poll(x->scene.client, ms) == AZO_OK);
        fuzz_exchange_look(x);
    }
}

static fuzz_call *fuzz_exchange_oldest(fuzz_exchange_state *x) {
    for (size_t i = 0; i < x->count; i++) {
        if (!x->calls[i].over) {
            return &x->calls[i];
        }
    }
    return NULL;
}

static void fuzz_exchange_resume(fuzz_exchange_state *x) {
    for (size_t i = 0; i < x->count; i++) {
        if (!x->calls[i].over) {
            azo_request_resume(x->calls[i].request);
        }
    }
}

static void fuzz_exchange_do(fuzz_exchange_state *x, char step) {
    fuzz_call *oldest = fuzz_exchange_oldest(x);
    script_peer_entry *peer = &fuzz_net.peers[0];
    if (strchr("cservtdbT", step) != NULL) {
        fuzz_exchange_begin(x, step);
    } else if (step >= '1' && step <= '9') {
        for (char i = '1'; i <= step; i++) {
            fuzz_exchange_poll(x, 50);
        }
    } else if (step == 'w' || step == 'W') {
        fuzz_net.now += step == 'w' ? 1000 : 60000;
    } else if (step == 'x' && oldest != NULL) {
        azo_request_cancel(oldest->request);
    } else if (step == 'f' && oldest != NULL) {
        oldest->over = true;
        azo_request_free(oldest->request);
    } else if (step == 'u') {
        fuzz_exchange_resume(x);
    } else if (strchr("ORB", step) != NULL) {
        peer->connect_result = step == 'O' ? AZO_OK : step == 'R' ? AZO_ERR_CONNECT : AZO_PENDING;
    } else if (strchr("PSXFZN", step) != NULL) {
        x->act = step;
    }
}

/* All calls end in time, whatever was done to them. */
static void fuzz_exchange_finish(fuzz_exchange_state *x) {
    int64_t by = fuzz_net.now + FUZZ_TOTAL_MS + 1000;
    fuzz_exchange_look(x);
    for (int polls = 0; !x->closed; polls++) {
        bool pending = false;
        for (size_t i = 0; i < x->count; i++) {
            pending = pending || (!x->calls[i].over && azo_request_result(x->calls[i].request) == AZO_PENDING);
        }
        if (!pending) {
            break;
        }
        FUZZ_CHECK(polls < FUZZ_MAX_POLLS && fuzz_net.now <= by);
        fuzz_exchange_resume(x);
        fuzz_exchange_poll(x, -1);
    }
    for (size_t i = 0; i < x->count; i++) {
        if (!x->calls[i].over) {
            fuzz_exchange_end(x, &x->calls[i]);
        }
    }
}

/* With peers that answer well, and an hour later, a call succeeds. */
static void fuzz_exchange_again(fuzz_exchange_state *x) {
    azo_message message = azo_user("Hi");
    azo_chat_desc desc = fuzz_chat_desc(&message);
    azo_chat_reply reply;
    azo_error e;
    x->answers.len = 0;
    x->scene.memory.fail_at = 0;
    x->pushed.fails.state = 0; /* so that it is long before it fails again */
    fuzz_net.peers[0].connect_result = AZO_OK;
    fuzz_net.now += 3600000;
    azo_result r = azo_chat(x->scene.client, &desc, &reply, &e);
    if (r != AZO_OK) {
        fprintf(stderr, "%s (%s)\n", e.message, e.detail);
    }
    FUZZ_CHECK(r == AZO_OK && fuzz_same(reply.text, azo_s("Hello")));
    azo_chat_reply_free(&reply);
}

static void fuzz_exchange_client(fuzz_exchange_state *x, char who, unsigned char steer, int *turns) {
    azo_client_desc *desc = &x->scene.desc;
    desc->max_retries = 0;
    desc->total_timeout_ms = FUZZ_TOTAL_MS;
    desc->max_connections = steer % 3;
    desc->max_header_bytes = 2048;
    if (who == 'i') {
        fuzz_use_imds(&x->scene);
    } else if (who == 'p') {
        desc->api_key = NULL;
        desc->token_provider = fuzz_provide;
        desc->token_user_data = turns;
        fuzz_secrets[0] = NULL;
    } else if (who != 'k') {
        fuzz_use_secret(&x->scene);
    }
    if ((steer & 16) != 0) {
        x->pushed.fails = fuzz_cut_of(steer);
        desc->loop.watch = fuzz_push;
        desc->loop.timer = fuzz_push_timer;
        desc->loop.user_data = &x->pushed;
    }
    desc->api_version = (steer & 32) != 0 ? "2024-10-21" : NULL;
    fuzz_net.peers[0].serve = fuzz_exchange_peer;
    fuzz_net.peers[0].state = x;
}

static void fuzz_exchange(unsigned char steer, azo_str bytes) {
    static fuzz_exchange_state x;
    azo_str answers = bytes;
    azo_str plan = fuzz_field(&answers, '\n');
    char *fail = fuzz_text(fuzz_field(&answers, '\n'));
    int turns = 0;
    memset(&x, 0, sizeof x);
    fuzz_scene_open(&x.scene, steer);
    fuzz_exchange_client(&x, plan.len > 0 ? plan.ptr[0] : ' ', steer, &turns);
    x.answers = answers;
    x.scene.memory.fail_at = strtoul(fail, NULL, 10);
    bool clean = !fuzz_holds(bytes, "canary");
    fuzz_wiped = clean ? "canary-" : NULL;
    fuzz_secrets[1] = clean ? "canary-token" : NULL;
    if (fuzz_scene_start(&x.scene) == AZO_OK) {
        for (size_t i = 0; i < plan.len && i < 64 && !x.closed; i++) {
            fuzz_exchange_do(&x, plan.ptr[i]);
        }
        fuzz_exchange_finish(&x);
        if (!x.closed) {
            fuzz_exchange_again(&x);
        }
    } else {
        FUZZ_CHECK(x.scene.error.code == AZO_ERR_MEMORY && x.scene.memory.failures > 0);
    }
    x.scene.client = x.closed ? NULL : x.scene.client;
    fuzz_scene_close(&x.scene);
    FUZZ_CHECK(x.pushed.count == 0);
    free(fail);
}

#endif
