/* hostile.h - what torture_http.c and torture_json.c share: a client in a scripted world where one peer lies. Include
 * it after script.h.
 *
 *     world_open(&w, ROLE_ENTRA);      ... by the role that the liar has; set w.says to what it says
 *     world_start(&w);
 *     call(&w, &o);                    the call that meets it; checks the error and every line of the log
 *     check_still_works(&w);           a chat with peers that are well again
 *     world_close(&w);                 checks for leaks, and for secrets that were not wiped
 */
#ifndef AZO_TEST_HOSTILE_H
#define AZO_TEST_HOSTILE_H

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- peers and what they say when they are well ---- */

typedef enum role {
    ROLE_CHAT,
    ROLE_STREAM,
    ROLE_EMBED,
    ROLE_RAW,
    ROLE_ENTRA,
    ROLE_IMDS,  /* managed identity only */
    ROLE_CHAIN, /* managed identity as the last of a chain */
    ROLE_PROXY,
    ROLE_COUNT
} role;

static const char *const role_names[] = {"chat", "stream", "embed", "raw", "Entra", "IMDS", "chain", "proxy"};

enum {
    SERVICE_PORT = 8000,
    ENTRA_PORT = 8001,
    IMDS_PORT = 8002,
    PROXY_PORT = 8003,
    HEADER_CAP = 16 * 1024,
    RESPONSE_CAP = 256 * 1024,
    EVENT_CAP = 64 * 1024,
    MAX_POLLS = 20000,          /* in one call */
    MAX_CALL_MS = 610 * 1000,   /* AZO_DEFAULT_TOTAL_MS and a little */
    HOLD_MS = 3700 * 1000,      /* longer than a failed token fetch is remembered */
    MAX_BASE_BYTES = 160 * 1024 /* of a client that does nothing special, read buffers included */
};

#define CHAT_BODY                                                                                       \
    "{\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{" \
    "\"role\":\"assistant\",\"content\":\"Hello\"}}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}"
#define STREAM_BODY                                                           \
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}}]}\n\n" \
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"}}]}\n\n"  \
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
#define EMBED_BODY "{\"data\":[{\"index\":0,\"embedding\":[1,2.5]}],\"usage\":{\"prompt_tokens\":1}}"
#define TOKEN_BODY "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"canary.token.1\"}"
#define FORGED_BODY                                                                                            \
    "{\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"content\":\"Forged\"}}],\"data\":[{" \
    "\"index\":0,"                                                                                             \
    "\"embedding\":[8,9]}],\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"forged.token\"}"
#define IMDS_BODY \
    "{\"access_token\":\"canary.token.2\",\"expires_in\":\"3599\",\"resource\":\"r\",\"token_type\":\"Bearer\"}"

#define PROXY_SECRET "dXNlcjpjYW5hcnktcGFzc3dvcmQ=" /* user:canary-password */

/* What each is sent that it must keep to itself; the metadata service is sent none. */
static const char *const role_secrets[] = {
    "canary.token.1", "canary-key-0123456789", "canary.token.1", "canary-key-0123456789", "canary-secret", "", "",
    PROXY_SECRET};
static const char *const role_bodies[] = {CHAT_BODY,  STREAM_BODY, EMBED_BODY, CHAT_BODY,
                                          TOKEN_BODY, IMDS_BODY,   IMDS_BODY,  ""};

/* ---- what the tests count ---- */

static size_t runs;

/* AZO_TEST_STRIDE=n leaves out all but every n-th run, for slower tools. */
static inline bool is_thinned_out(void) {
    static size_t asked;
    const char *text = getenv("AZO_TEST_STRIDE");
    size_t stride = text != NULL ? (size_t)strtoul(text, NULL, 10) : 1;
    return stride > 1 && asked++ % stride != 0;
}

static uint32_t random_state = 2463534242u;

static inline size_t random_below(size_t limit) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % limit;
}

/* ---- what is shown ---- */

/* Terminals obey controls, C1 too, in UTF-8 and alone. */
static inline void check_shown(const char *text) {
    size_t len = strlen(text);
    for (size_t i = 0; i < len;) {
        unsigned char c = (unsigned char)text[i];
        size_t size = azoi_utf8(text + i, len - i);
        if (c < 0x20 || c == 0x7f || size == 0 || (c == 0xc2 && (unsigned char)text[i + 1] < 0xa0)) {
            fail_msg("byte 0x%02x was shown in: %s", c, text);
        }
        i += size;
    }
    if (strstr(text, "canary") != NULL || strstr(text, "Y2FuYXJ5") != NULL || strstr(text, PROXY_SECRET) != NULL) {
        fail_msg("a secret was shown in: %s", text);
    }
}

static inline void show_line(int level, const char *text, void *user_data) {
    (void)user_data;
    assert_in_range(level, AZO_LOG_WARN, AZO_LOG_DEBUG);
    check_shown(text);
}

/* One line for each member of a chain in `detail`; the rest is one line. */
static inline void check_error(const azo_error *e) {
    char detail[sizeof e->detail];
    test_sentences(e->message);
    check_shown(e->message);
    check_shown(e->service_code);
    check_shown(e->request_id);
    memcpy(detail, e->detail, sizeof detail);
    for (char *line = strchr(detail, '\n'); line != NULL; line = strchr(line, '\n')) {
        *line = ' ';
    }
    check_shown(detail);
    assert_true(e->retry_after_ms >= -1);
    assert_true(e->who != AZO_WHO_NOBODY);
}

/* ---- the world ---- */

typedef struct answer { /* of the hostile peer */
    char *bytes;
    size_t len;
    size_t pause; /* where the rest comes later by itself; 0: nowhere */
    bool ends;
    azo_result how;
} answer;

typedef struct delivery {
    size_t cut;   /* the rest comes later; 0: whole */
    size_t bytes; /* per read; 0: all */
} delivery;

typedef struct world {
    script_world net;
    test_memory memory;
    azo_client_desc desc;
    azo_client *client;
    role role;
    bool hostile; /* the role's peer, as yet */
    bool stalls;  /* and reads nothing more */
    const answer *says;
    delivery how;
    size_t polls;
    int64_t call_began;
    size_t hostile_requests;
} world;

static inline void deliver(script_conn *c, world *w) {
    size_t first = w->how.cut != 0 && w->how.cut < w->says->len ? w->how.cut : w->says->len;
    w->hostile_requests++;
    if (first > 0) {
        script_send_bytes(c, 1, w->says->bytes, first);
    }
    if (first < w->says->len) {
        script_send_bytes(c, 4, w->says->bytes + first, w->says->len - first);
    }
    if (w->says->ends) {
        script_end(c, 6, w->says->how);
    }
}

static inline bool is_service(role who) {
    return who <= ROLE_RAW;
}

static const char *healthy_body(const char *request) {
    return strstr(request, "\"stream\":true") != NULL ? STREAM_BODY
           : strstr(request, "/embeddings") != NULL   ? EMBED_BODY
                                                      : CHAT_BODY;
}

static inline void service(script_conn *c, const char *request) {
    world *w = (world *)c->peer->state;
    assert_null(strstr(request, "canary-secret"));
    assert_true(strstr(request, "Authorization: Bearer canary.token.") != NULL ||
                strstr(request, "api-key: canary-key") != NULL);
    if (w->hostile && is_service(w->role)) {
        deliver(c, w);
    } else {
        script_answer(c, 1, 200, "", healthy_body(request));
    }
}

static inline void entra(script_conn *c, const char *request) {
    world *w = (world *)c->peer->state;
    assert_non_null(strstr(request, "client_secret=canary-secret"));
    assert_null(strstr(request, "canary.token"));
    if (w->hostile && w->role == ROLE_ENTRA) {
        deliver(c, w);
    } else {
        script_answer(c, 1, 200, "", TOKEN_BODY);
    }
}

static inline void imds(script_conn *c, const char *request) {
    world *w = (world *)c->peer->state;
    assert_null(strstr(request, "canary"));
    assert_non_null(strstr(request, "Metadata: true\r\n"));
    if (w->hostile && (w->role == ROLE_IMDS || w->role == ROLE_CHAIN)) {
        deliver(c, w);
    } else {
        script_answer(c, 1, 200, "", IMDS_BODY);
    }
}

static inline void proxy(script_conn *c, const char *request) {
    world *w = (world *)c->peer->state;
    assert_int_equal(strncmp(request, "CONNECT proxied.example:443 HTTP/1.1\r\n", 38), 0);
    assert_null(strstr(request, "canary")); /* its password is in base64 */
    deliver(c, w);
    if (!w->says->ends) {
        script_end(c, 50, AZO_OK); /* there is nobody behind the tunnel */
    }
}

/* Nobody else is ever called. */
static inline azo_result open_known(const azo_target *to, void **out, void *user_data) {
    if (strcmp(to->host, "127.0.0.1") != 0 || to->port < SERVICE_PORT || to->port > PROXY_PORT) {
        fail_msg("a connection to %s:%u", to->host, (unsigned)to->port);
    }
    return script_conn_open(to, out, user_data);
}

/* No call may go on for ever. user_data is the script's world, which is the first member of ours. */
static inline int poll_bounded(azo_watch *set, size_t count, int32_t timeout_ms, void *user_data) {
    world *w = (world *)user_data;
    w->polls++;
    if (w->polls > MAX_POLLS || w->net.now - w->call_began > MAX_CALL_MS) {
        fail_msg("a call that does not end: %lu polls, %ld ms", (unsigned long)w->polls,
                 (long)(w->net.now - w->call_began));
    }
    for (size_t i = 0; i < count && w->stalls; i++) { /* what stalls is not writable */
        set[i].events = AZO_POLL_IN;
    }
    return script_poll(set, count, timeout_ms, user_data);
}

static inline void set_identity(world *w) {
    switch (w->role) {
    case ROLE_STREAM:
    case ROLE_RAW:
    case ROLE_PROXY:
        w->desc.api_key = "canary-key-0123456789";
        return;
    case ROLE_IMDS:
        w->desc.credential.kind = AZO_CRED_IMDS;
        return;
    case ROLE_CHAIN:
        w->desc.credential.kind = AZO_CRED_CHAIN;
        return;
    default:
        w->desc.credential.kind = AZO_CRED_SECRET;
        w->desc.credential.tenant_id = "11111111-2222-3333-4444-555555555555";
        w->desc.credential.client_id = "app";
        w->desc.credential.client_secret = "canary-secret";
        w->desc.credential.authority_host = "http://127.0.0.1:8001";
        return;
    }
}

static inline void world_open(world *w, role who) {
    memset(&w->desc, 0, sizeof w->desc);
    script_open(&w->net);
    (void)script_peer(&w->net, SERVICE_PORT, service, w);
    (void)script_peer(&w->net, ENTRA_PORT, entra, w);
    (void)script_peer(&w->net, IMDS_PORT, imds, w);
    (void)script_peer(&w->net, PROXY_PORT, proxy, w);
    test_memory_open(&w->memory);
    w->memory.secret = "canary";
    w->role = who;
    w->hostile = true;
    w->stalls = false;
    w->hostile_requests = 0;
    set_identity(w);
    w->desc.endpoint = "http://127.0.0.1:8000";
    w->desc.deployment = "gpt";
    w->desc.proxy = who == ROLE_PROXY ? "http://user:canary-password@127.0.0.1:8003" : "";
    w->desc.ca_pem = azo_s("-");
    w->desc.max_retries = AZO_OFF;
    w->desc.max_header_bytes = HEADER_CAP;
    w->desc.max_response_bytes = RESPONSE_CAP;
    w->desc.max_event_bytes = EVENT_CAP;
    w->desc.transport = w->net.transport;
    w->desc.transport.open = open_known;
    w->desc.transport.poll = poll_bounded;
    w->desc.clock = w->net.clock;
    w->desc.allocator = w->memory.hook;
    w->desc.logger.line = show_line;
}

static inline void world_start(world *w) {
    azo_error e;
    if (azo_client_open(&w->desc, &w->client, &e) != AZO_OK) {
        fail_msg("%s", e.message);
    }
}

static inline void world_close(world *w) {
    azo_client_close(w->client);
    script_close(&w->net);
    test_memory_close(&w->memory);
}

/* No setting of this machine reaches the tests, and the metadata service is one of the script's. */
static inline int settle_environment(void **state) {
    static const char *const names[] = {"AZURE_OPENAI_ENDPOINT",
                                        "AZURE_OPENAI_DEPLOYMENT",
                                        "AZURE_OPENAI_API_KEY",
                                        "AZURE_OPENAI_AD_TOKEN",
                                        "OPENAI_API_VERSION",
                                        "AZURE_OPENAI_API_VERSION",
                                        "AZURE_TENANT_ID",
                                        "AZURE_CLIENT_ID",
                                        "AZURE_CLIENT_SECRET",
                                        "AZURE_AUTHORITY_HOST",
                                        "HTTPS_PROXY",
                                        "NO_PROXY",
                                        "AZURE_TOKEN_CREDENTIALS",
                                        "AZURE_FEDERATED_TOKEN_FILE",
                                        "https_proxy",
                                        "no_proxy",
                                        "IDENTITY_ENDPOINT",
                                        "MSI_ENDPOINT",
                                        "SSL_CERT_FILE",
                                        "AZURE_CLIENT_CERTIFICATE_PATH"};
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        (void)unsetenv(names[i]);
    }
    return setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:8002", 1);
}

/* ---- calls ---- */

typedef struct outcome {
    azo_result result;
    azo_error error;
    int events;    /* of a stream */
    int status;    /* as the reply has it */
    bool is_right; /* the reply says what the healthy body says */
    test_notes text;
} outcome;

static inline int count_event(const azo_event *event, void *user_data) {
    (void)event;
    ((outcome *)user_data)->events++;
    return AZO_GO_ON;
}

static inline void note_reply(outcome *o, azo_str text, const char *right, const azo_http *http) {
    test_notes_free(&o->text);
    test_note_bytes(&o->text, text.ptr != NULL ? text.ptr : "", text.len);
    o->status = http->status;
    o->is_right = strcmp(o->text.text, right) == 0;
    if (http->request_id.ptr != NULL) {
        assert_int_equal(http->request_id.ptr[http->request_id.len], 0);
    }
}

static inline void call_chat(world *w, const char *endpoint, bool stream, outcome *o) {
    azo_message message = azo_user("Hi");
    azo_chat_reply reply;
    azo_chat_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.messages = &message;
    desc.message_count = 1;
    desc.on_event = stream ? count_event : NULL;
    desc.user_data = o;
    desc.call.endpoint = endpoint;
    o->result = azo_chat(w->client, &desc, &reply, &o->error);
    note_reply(o, reply.text, "Hello", &reply.http);
    azo_chat_reply_free(&reply);
}

static inline void call_embed(world *w, outcome *o) {
    azo_str input = azo_s("x");
    azo_embed_desc desc;
    azo_embed_reply reply;
    memset(&desc, 0, sizeof desc);
    desc.inputs = &input;
    desc.input_count = 1;
    o->result = azo_embed(w->client, &desc, &reply, &o->error);
    note_reply(o, azo_s(NULL), "", &reply.http);
    o->is_right = reply.count == 1 && reply.dimensions == 2 && reply.vectors[0] > 0.9f && reply.vectors[1] > 2.4f;
    azo_embed_reply_free(&reply);
}

static inline void call_raw(world *w, const char *method, outcome *o) {
    azo_raw_desc desc;
    azo_raw_reply reply;
    memset(&desc, 0, sizeof desc);
    desc.path = "/models";
    desc.method = method;
    o->result = azo_raw(w->client, &desc, &reply, &o->error);
    note_reply(o, reply.http.body, CHAT_BODY, &reply.http);
    azo_raw_reply_free(&reply);
}

static inline void call_token(world *w, const char *scope, outcome *o) {
    azo_token_desc desc;
    azo_token_reply reply;
    azo_http none;
    memset(&desc, 0, sizeof desc);
    memset(&none, 0, sizeof none);
    desc.scope = scope;
    o->result = azo_token(w->client, &desc, &reply, &o->error);
    note_reply(o, reply.token, w->role == ROLE_ENTRA ? "canary.token.1" : "canary.token.2", &none);
    azo_token_reply_free(&reply);
}

static inline void call(world *w, outcome *o) {
    memset(o, 0, sizeof *o);
    w->polls = 0;
    w->call_began = w->net.now;
    switch (w->role) {
    case ROLE_CHAT:
    case ROLE_STREAM:
        call_chat(w, NULL, w->role == ROLE_STREAM, o);
        break;
    case ROLE_EMBED:
        call_embed(w, o);
        break;
    case ROLE_RAW:
        call_raw(w, NULL, o);
        break;
    case ROLE_PROXY:
        call_chat(w, "https://proxied.example", false, o);
        break;
    default:
        call_token(w, NULL, o);
        break;
    }
    if (o->result != AZO_OK) {
        assert_int_equal(o->error.code, o->result);
        check_error(&o->error);
    }
}

static inline void outcome_free(outcome *o) {
    test_notes_free(&o->text);
}

/* ---- afterwards ---- */

/* The client still serves: a fresh chat with a healthy service, after what is remembered of failures has passed. */
static inline void check_still_works(world *w) {
    outcome o;
    memset(&o, 0, sizeof o);
    w->hostile = false;
    w->net.recv_limit = 0;
    w->net.now += HOLD_MS;
    w->polls = 0;
    w->call_began = w->net.now;
    call_chat(w, NULL, false, &o);
    if (o.result != AZO_OK || !o.is_right) {
        fail_msg("%s: afterwards nothing works: %s (%s)", role_names[w->role], o.error.message, o.error.detail);
    }
    outcome_free(&o);
}

/* max_response_bytes bounds the body, which may be moved once while it grows and is copied into the reply. */
static inline void check_memory(const world *w) {
    size_t limit = MAX_BASE_BYTES + 3 * (size_t)RESPONSE_CAP;
    if (w->memory.peak_bytes > limit) {
        fail_msg("%s: %lu bytes in use, more than %lu", role_names[w->role], (unsigned long)w->memory.peak_bytes,
                 (unsigned long)limit);
    }
}

#endif
