/* Identities, token slots and token requests, from inside: the environment, what Entra ID and the metadata service
 * answer, who waits for whom. Bytes come from a scripted transport on a clock of its own, so nothing sleeps. The
 * letters and digits (E4, I7, ...) are the vectors of the identity fact sheet. */

#define _POSIX_C_SOURCE 200809L
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"
#include "support.h"

#define TENANT "11111111-2222-3333-4444-555555555555"
#define CLIENT "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
#define SECRET "a~b.c_d-e+f/g=h&i%j k"
#define SECRET_ENCODED "a~b.c_d-e%2Bf%2Fg%3Dh%26i%25j%20k"
#define SCOPE "https://cognitiveservices.azure.com/.default"
#define TOKEN_TARGET "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" \
                     "https%3A%2F%2Fcognitiveservices.azure.com"

/* ---- a scripted network ---- */

enum { ENTRA = 0, IMDS = 1, SERVICE = 2, ROLES = 3, FIRST_PORT = 7001, MAX_ANSWERS = 64, MAX_SEEN = 64 };

typedef enum answer_mode { ANSWER, REFUSE, BLACK_HOLE, SILENT, RESET } answer_mode;

typedef struct script {
    answer_mode mode;
    int delay_ms;
    char *raw;
} script;

typedef struct peer {
    script answers[MAX_ANSWERS];
    size_t pushed;
    size_t used;
    char *seen[MAX_SEEN]; /* requests, head and body */
    size_t count;
    size_t opened;
} peer;

typedef struct wire {
    struct world *world;
    peer *to;
    answer_mode mode;
    test_notes in; /* what the client sent of a request */
    const char *out;
    size_t out_len;
    int64_t out_at;
} wire;

typedef struct world {
    int64_t now;
    int64_t unix_now;
    int64_t next_event; /* the earliest answer on its way */
    peer peers[ROLES];
    test_notes log;
    test_memory own; /* used when a test brings none */
    azo_client *client;
} world;

static azo_result wire_open(const azo_target *to, void **conn, void *user_data) {
    world *w = (world *)user_data;
    int role = to->port - FIRST_PORT;
    wire *c;
    assert_true(role >= 0 && role < ROLES);
    c = (wire *)calloc(1, sizeof *c);
    assert_non_null(c);
    c->world = w;
    c->to = &w->peers[role];
    c->to->opened++;
    if (c->to->used < c->to->pushed) {
        c->mode = c->to->answers[c->to->used].mode;
    }
    if (c->mode == REFUSE || c->mode == BLACK_HOLE) {
        c->to->used++;
    }
    *conn = c;
    return AZO_OK;
}

static int wire_connect(void *conn, void *user_data) {
    wire *c = (wire *)conn;
    (void)user_data;
    errno = c->mode == REFUSE ? ECONNREFUSED : 0;
    return c->mode == REFUSE ? AZO_ERR_CONNECT : c->mode == BLACK_HOLE ? AZO_IO_AGAIN : 0;
}

/* Answers the request that is now complete. */
static void wire_serve(wire *c) {
    peer *p = c->to;
    const script *a;
    assert_true(p->count < MAX_SEEN);
    p->seen[p->count++] = c->in.text;
    memset(&c->in, 0, sizeof c->in);
    if (p->used == p->pushed) {
        fail_msg("an unexpected request:\n%s", p->seen[p->count - 1]);
    }
    a = &p->answers[p->used++];
    c->mode = a->mode;
    c->out = a->mode == ANSWER ? a->raw : NULL;
    c->out_len = c->out == NULL ? 0 : strlen(c->out);
    c->out_at = c->world->now + a->delay_ms;
    if (c->out != NULL && c->out_at < c->world->next_event) {
        c->world->next_event = c->out_at;
    }
}

static ptrdiff_t wire_send(void *conn, const void *buf, size_t len, void *user_data) {
    wire *c = (wire *)conn;
    const char *end;
    const char *length;
    size_t body = 0;
    (void)user_data;
    test_note_bytes(&c->in, (const char *)buf, len);
    end = strstr(c->in.text, "\r\n\r\n");
    length = strstr(c->in.text, "Content-Length: ");
    if (length != NULL) {
        body = (size_t)strtoul(length + 16, NULL, 10);
    }
    if (end != NULL && c->in.len == (size_t)(end + 4 - c->in.text) + body) {
        wire_serve(c);
    }
    return (ptrdiff_t)len;
}

static ptrdiff_t wire_recv(void *conn, void *buf, size_t cap, void *user_data) {
    wire *c = (wire *)conn;
    size_t take;
    (void)user_data;
    if (c->mode == RESET) {
        return AZO_ERR_CLOSED;
    }
    if (c->out_len > 0 && c->world->now < c->out_at) {
        if (c->out_at < c->world->next_event) {
            c->world->next_event = c->out_at;
        }
        return AZO_IO_AGAIN;
    }
    take = c->out_len < cap ? c->out_len : cap;
    if (take == 0) {
        return AZO_IO_AGAIN;
    }
    memcpy(buf, c->out, take);
    c->out += take;
    c->out_len -= take;
    return (ptrdiff_t)take;
}

static size_t wire_watch(void *conn, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms, void *user_data) {
    (void)conn;
    (void)want;
    (void)out;
    (void)cap;
    (void)timeout_ms;
    (void)user_data;
    return 0;
}

static void wire_close(void *conn, void *user_data) {
    wire *c = (wire *)conn;
    (void)user_data;
    test_notes_free(&c->in);
    free(c);
}

static int64_t world_monotonic(void *user_data) {
    return ((world *)user_data)->now;
}

static int64_t world_unix(void *user_data) {
    return ((world *)user_data)->unix_now;
}

static void world_log(int level, const char *text, void *user_data) {
    world *w = (world *)user_data;
    (void)level;
    test_note_bytes(&w->log, text, strlen(text));
    test_note_bytes(&w->log, "\n", 1);
}

/* ---- the environment ---- */

static void set_env(const char *name, const char *value) {
    assert_int_equal(value != NULL ? setenv(name, value, 1) : unsetenv(name), 0);
}

static void clear_env(void) {
    static const char *const names[] = {
        "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_AUTHORITY_HOST",
        "AZURE_TOKEN_CREDENTIALS", "AZURE_POD_IDENTITY_AUTHORITY_HOST", "AZURE_OPENAI_AD_TOKEN",
        "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", "AZURE_CLIENT_CERTIFICATE_PATH", "IDENTITY_ENDPOINT",
        "MSI_ENDPOINT", "AZURE_FEDERATED_TOKEN_FILE", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy",
        "SSL_CERT_FILE"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        set_env(names[i], NULL);
    }
}

static void env_secret(void) {
    set_env("AZURE_TENANT_ID", TENANT);
    set_env("AZURE_CLIENT_ID", CLIENT);
    set_env("AZURE_CLIENT_SECRET", SECRET);
    set_env("AZURE_AUTHORITY_HOST", "http://127.0.0.1:7001");
}

static void env_imds(void) {
    set_env("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:7002/");
}

/* ---- the world: open, script, close ---- */

static void world_init(world *w) {
    clear_env();
    memset(w, 0, sizeof *w);
    w->now = 1000000;
    w->unix_now = 1767225600; /* 2026-01-01 */
    w->next_event = INT64_MAX;
    test_memory_open(&w->own);
    w->own.secret = "tok.";
}

static azo_result world_open(world *w, test_memory *memory, const azo_client_desc *desc, azo_error *e) {
    azo_client_desc d;
    memset(&d, 0, sizeof d);
    if (desc != NULL) {
        d = *desc;
    }
    d.allocator = memory->hook;
    d.transport.user_data = w;
    d.transport.open = wire_open;
    d.transport.connect = wire_connect;
    d.transport.recv = wire_recv;
    d.transport.send = wire_send;
    d.transport.watch = wire_watch;
    d.transport.close = wire_close;
    d.clock.user_data = w;
    d.clock.monotonic_ms = world_monotonic;
    d.clock.unix_seconds = world_unix;
    d.logger.user_data = w;
    d.logger.line = world_log;
    return azo_client_open(&d, &w->client, e);
}

static void world_start(world *w, const azo_client_desc *desc) {
    azo_error e;
    if (world_open(w, &w->own, desc, &e) != AZO_OK) {
        fail_msg("open: %s", e.message);
    }
}

static void world_reset_peers(world *w) {
    for (int role = 0; role < ROLES; role++) {
        peer *p = &w->peers[role];
        for (size_t i = 0; i < p->pushed; i++) {
            free(p->answers[i].raw);
        }
        for (size_t i = 0; i < p->count; i++) {
            free(p->seen[i]);
        }
        memset(p, 0, sizeof *p);
    }
}

/* No secret may be in the log, and every answer must have been used. */
static void world_end(world *w) {
    azo_client_close(w->client);
    w->client = NULL;
    for (int role = 0; role < ROLES; role++) {
        assert_int_equal(w->peers[role].used, w->peers[role].pushed);
    }
    if (w->log.text != NULL) {
        assert_null(strstr(w->log.text, "tok."));
        assert_null(strstr(w->log.text, SECRET));
        assert_null(strstr(w->log.text, SECRET_ENCODED));
    }
    test_notes_free(&w->log);
    world_reset_peers(w);
    test_memory_close(&w->own);
    clear_env();
}

static script *push(world *w, int role, answer_mode mode) {
    peer *p = &w->peers[role];
    script *a = &p->answers[p->pushed++];
    assert_true(p->pushed <= MAX_ANSWERS);
    memset(a, 0, sizeof *a);
    a->mode = mode;
    return a;
}

static script *push_raw(world *w, int role, const char *raw) {
    script *a = push(w, role, ANSWER);
    a->raw = (char *)malloc(strlen(raw) + 1);
    assert_non_null(a->raw);
    strcpy(a->raw, raw);
    return a;
}

static script *push_reply(world *w, int role, int status, const char *headers, const char *body) {
    test_notes raw;
    script *a;
    memset(&raw, 0, sizeof raw);
    test_note(&raw, "HTTP/1.1 %d Whatever\r\n%sContent-Length: %lu\r\n\r\n", status, headers,
              (unsigned long)strlen(body));
    test_note_bytes(&raw, body, strlen(body));
    a = push_raw(w, role, raw.text);
    test_notes_free(&raw);
    return a;
}

static script *push_token(world *w, int role, const char *token, int lifetime_s) {
    char body[256];
    snprintf(body, sizeof body, "{\"token_type\":\"Bearer\",\"expires_in\":%d,\"access_token\":\"%s\"}", lifetime_s, token);
    return push_reply(w, role, 200, "", body);
}

static const char *seen(world *w, int role, size_t index) {
    assert_true(index < w->peers[role].count);
    return w->peers[role].seen[index];
}

static size_t count(const world *w, int role) {
    return w->peers[role].count;
}

/* ---- jobs of our own: one that wants a token, one that calls a service with it ---- */

typedef struct probe {
    azo_request *job;
    char token[64];
    char source[32];
    int64_t expires_in_s;
} probe;

static azo_result probe_token_end(azo_request *job) {
    probe *p = (probe *)job->spec.tag;
    const azoi_slot *slot = job->slot;
    snprintf(p->token, sizeof p->token, "%s", slot->token.data);
    snprintf(p->source, sizeof p->source, "%s", azoi_slot_source(slot).ptr);
    p->expires_in_s = azoi_slot_expires_in(slot);
    return AZO_OK;
}

static azo_result probe_refuse(azo_request *job) {
    return azoi_fail(&job->error, job->head.status == 401 ? AZO_ERR_UNAUTHORIZED : AZO_ERR_SERVICE,
                     "The service said no (HTTP %d). Look why.", job->head.status);
}

static const azoi_policy probe_policy = {500, 8000, 0, {0, 0}};
static const azoi_job_ops probe_token_ops = {
    AZOI_KIND_TOKEN, azoi_auth_authorize, NULL, NULL, NULL, NULL, probe_token_end, NULL, NULL, NULL};
static const azoi_job_ops probe_call_ops = {
    AZOI_KIND_RAW, azoi_auth_authorize, azoi_auth_sign, azoi_auth_challenge, NULL, NULL, NULL, probe_refuse, NULL, NULL};

static azo_result begin(world *w, probe *p, const azoi_job_ops *ops, const char *scope, const char *claims) {
    azoi_job_spec spec;
    azo_result r;
    memset(p, 0, sizeof *p);
    memset(&spec, 0, sizeof spec);
    spec.ops = ops;
    spec.policy = &probe_policy;
    spec.method = azo_s("GET");
    spec.target = azo_s("/x");
    if (ops == &probe_call_ops) {
        spec.origin.host = azo_s("127.0.0.1");
        spec.origin.port = FIRST_PORT + SERVICE;
    }
    spec.connect_ms = 10000;
    spec.first_byte_ms = 600000;
    spec.idle_ms = 120000;
    spec.total_ms = 600000;
    spec.max_retries = 2;
    spec.max_body = 1 << 20;
    spec.tag = p;
    r = azoi_job_new(w->client, &spec, &p->job, NULL);
    if (r == AZO_OK) {
        r = azoi_auth_attach(p->job, azo_s(scope), azo_s(claims), NULL);
        if (r != AZO_OK) {
            azoi_job_free(p->job);
            p->job = NULL;
        }
    }
    return r;
}

static void begin_token(world *w, probe *p) {
    assert_int_equal(begin(w, p, &probe_token_ops, SCOPE, NULL), AZO_OK);
}

static void begin_call(world *w, probe *p) {
    assert_int_equal(begin(w, p, &probe_call_ops, SCOPE, NULL), AZO_OK);
}

/* Steps until nothing is left to do, or the clock would pass `until`. */
static void run_until(world *w, int64_t until) {
    for (int i = 0; i < 100000; i++) {
        int32_t timeout_ms;
        int64_t next;
        w->next_event = INT64_MAX;
        assert_int_equal(azo_step(w->client, NULL, 0), AZO_OK);
        (void)azo_wait(w->client, NULL, 0, &timeout_ms);
        if (timeout_ms == 0) {
            continue;
        }
        next = timeout_ms < 0 ? INT64_MAX : w->now + timeout_ms;
        next = w->next_event < next ? w->next_event : next;
        if (next > until) {
            return;
        }
        w->now = next;
    }
    fail_msg("it runs for ever");
}

static void run_for(world *w, int64_t ms) {
    int64_t end = w->now + ms;
    run_until(w, end);
    w->now = end;
}

static azo_result finish(world *w, probe *p) {
    for (int i = 0; i < 1000 && azo_request_result(p->job) == AZO_PENDING; i++) {
        int32_t timeout_ms;
        run_until(w, w->now); /* what can be done now */
        if (azo_request_result(p->job) != AZO_PENDING) {
            break;
        }
        (void)azo_wait(w->client, NULL, 0, &timeout_ms);
        int64_t next = timeout_ms < 0 ? INT64_MAX : w->now + timeout_ms;
        next = w->next_event < next ? w->next_event : next;
        assert_true(next != INT64_MAX);
        w->now = next > w->now ? next : w->now + 1;
    }
    return azo_request_result(p->job);
}

static const azo_error *error_of(const probe *p) {
    test_sentences(p->job->error.message);
    assert_int_equal(p->job->error.stage, AZO_STAGE_TOKEN);
    assert_null(strstr(p->job->error.message, SECRET));
    assert_null(strstr(p->job->error.detail, SECRET));
    return &p->job->error;
}

static void drop(probe *p) {
    azo_request_free(p->job);
    p->job = NULL;
}

/* One token, by its text; expects success. */
static void want_token(world *w, const char *text) {
    probe p;
    begin_token(w, &p);
    if (finish(w, &p) != AZO_OK) {
        fail_msg("no token: %s", p.job->error.message);
    }
    assert_string_equal(p.token, text);
    drop(&p);
}

/* One token that fails; returns a copy of the error. */
static azo_error want_failure(world *w, azo_result code) {
    probe p;
    azo_error e;
    begin_token(w, &p);
    azo_result r = finish(w, &p);
    if (r != code) {
        fail_msg("result %d, not %d: %s", (int)r, (int)code, p.job->error.message);
    }
    e = *error_of(&p);
    drop(&p);
    return e;
}

static void want_text(const char *text, const char *part) {
    if (strstr(text, part) == NULL) {
        fail_msg("\"%s\" is not in \"%s\"", part, text);
    }
}

static void want_start(const char *text, const char *start) {
    if (strncmp(text, start, strlen(start)) != 0) {
        fail_msg("\"%s\" does not begin \"%s\"", start, text);
    }
}

/* ---- opening ---- */

static const azoi_identity *opened(world *w, const azo_client_desc *desc) {
    world_start(w, desc);
    return &w->client->identity;
}

static void reopen(world *w) {
    azo_client_close(w->client);
    w->client = NULL;
    clear_env();
}

static void want_no_open(world *w, const azo_client_desc *desc, azo_result code, const char *part) {
    azo_error e;
    assert_int_equal(world_open(w, &w->own, desc, &e), code);
    test_sentences(e.message);
    want_text(e.message, part);
    assert_null(w->client);
    clear_env();
}

static void test_environment(void **state) {
    world w;
    const azoi_identity *id;
    (void)state;
    world_init(&w);
    id = opened(&w, NULL);
    assert_int_equal(id->kind, AZOI_IDENTITY_CHAIN);
    assert_true(id->members[AZOI_MEMBER_SECRET] && id->members[AZOI_MEMBER_IMDS]);
    assert_string_equal(id->lacks[AZOI_MEMBER_SECRET],
                        "AZURE_TENANT_ID not set, AZURE_CLIENT_ID not set, AZURE_CLIENT_SECRET not set");
    assert_string_equal(id->imds.data, "http://169.254.169.254");
    assert_null(id->selector);
    reopen(&w);

    set_env("AZURE_OPENAI_API_KEY", " key-1 \n");
    id = opened(&w, NULL);
    assert_int_equal(id->kind, AZOI_IDENTITY_KEY);
    assert_string_equal(id->secret.data, "key-1");
    want_text(w.log.text, "AZURE_OPENAI_API_KEY");
    assert_null(strstr(w.log.text, "key-1"));
    reopen(&w);

    set_env("AZURE_OPENAI_API_KEY", "key-1");
    set_env("AZURE_OPENAI_AD_TOKEN", "tok.static");
    id = opened(&w, NULL);
    assert_int_equal(id->kind, AZOI_IDENTITY_STATIC);
    assert_string_equal(id->secret.data, "tok.static");
    reopen(&w);

    /* AZO_CRED_CHAIN never looks at keys */
    azo_client_desc d;
    memset(&d, 0, sizeof d);
    d.credential.kind = AZO_CRED_CHAIN;
    set_env("AZURE_OPENAI_API_KEY", "key-1");
    set_env("AZURE_OPENAI_AD_TOKEN", "tok.static");
    assert_int_equal(opened(&w, &d)->kind, AZOI_IDENTITY_CHAIN);
    reopen(&w);

    /* blank is unset; blanks round ids come off, of the secret only one line end does */
    set_env("AZURE_OPENAI_AD_TOKEN", "  ");
    set_env("AZURE_OPENAI_API_KEY", "");
    set_env("AZURE_TENANT_ID", " contoso.onmicrosoft.com\r\n");
    set_env("AZURE_CLIENT_ID", "\t" CLIENT "  ");
    set_env("AZURE_CLIENT_SECRET", " s \r\n");
    id = opened(&w, NULL);
    assert_int_equal(id->kind, AZOI_IDENTITY_CHAIN);
    assert_string_equal(id->tenant_id.data, "contoso.onmicrosoft.com");
    assert_string_equal(id->client_id.data, CLIENT);
    assert_string_equal(id->secret.data, " s ");
    assert_string_equal(id->lacks[AZOI_MEMBER_SECRET], "");
    reopen(&w);
    set_env("AZURE_CLIENT_SECRET", " s\n\n");
    assert_string_equal(opened(&w, NULL)->secret.data, " s\n");
    reopen(&w);

    set_env("AZURE_CLIENT_ID", CLIENT);
    set_env("AZURE_TENANT_ID", TENANT);
    set_env("AZURE_CLIENT_CERTIFICATE_PATH", "/x");
    id = opened(&w, NULL);
    want_text(id->lacks[AZOI_MEMBER_SECRET], "AZURE_TENANT_ID set, AZURE_CLIENT_ID set, AZURE_CLIENT_SECRET not set");
    want_text(id->lacks[AZOI_MEMBER_SECRET], "AZURE_CLIENT_CERTIFICATE_PATH");
    world_end(&w);
}

static void test_desc_identity(void **state) {
    world w;
    azo_client_desc d;
    const azoi_identity *id;
    (void)state;
    world_init(&w);
    memset(&d, 0, sizeof d);

    d.api_key = "key-2";
    set_env("AZURE_OPENAI_AD_TOKEN", "tok.static");
    id = opened(&w, &d);
    assert_int_equal(id->kind, AZOI_IDENTITY_KEY);
    assert_string_equal(id->secret.data, "key-2");
    reopen(&w);
    d.api_key = "";
    want_no_open(&w, &d, AZO_ERR_ARGUMENT, "api_key");
    d.api_key = "a\nb";
    want_no_open(&w, &d, AZO_ERR_ARGUMENT, "api_key");
    set_env("AZURE_OPENAI_AD_TOKEN", "tok. with a blank");
    want_no_open(&w, NULL, AZO_ERR_ARGUMENT, "AZURE_OPENAI_AD_TOKEN");

    d.api_key = "key-2";
    d.credential.kind = AZO_CRED_CHAIN;
    want_no_open(&w, &d, AZO_ERR_ARGUMENT, "gives 2 identities");
    d.api_key = NULL;
    d.credential.kind = 4;
    want_no_open(&w, &d, AZO_ERR_ARGUMENT, "kind is 4");

    /* a given field means the chain, whatever the environment says of keys */
    memset(&d, 0, sizeof d);
    d.credential.client_secret = "s2";
    env_secret();
    set_env("AZURE_OPENAI_API_KEY", "key-1");
    id = opened(&w, &d);
    assert_int_equal(id->kind, AZOI_IDENTITY_CHAIN);
    assert_string_equal(id->secret.data, "s2");
    assert_string_equal(id->client_id.data, CLIENT);
    reopen(&w);
    d.credential.client_secret = " ";
    want_no_open(&w, &d, AZO_ERR_ARGUMENT, "AZURE_CLIENT_SECRET is empty");

    memset(&d, 0, sizeof d);
    d.credential.kind = AZO_CRED_SECRET;
    set_env("AZURE_TOKEN_CREDENTIALS", "nonsense"); /* a pinned kind does not look at it */
    id = opened(&w, &d);
    assert_true(id->members[AZOI_MEMBER_SECRET] && !id->members[AZOI_MEMBER_IMDS]);
    reopen(&w);
    world_end(&w);
}

/* Each field alone says that there is a credential, so a key beside it is one identity too many. */
static void test_each_field_is_a_credential(void **state) {
    static const size_t fields[] = {
        offsetof(azo_credential_desc, tenant_id),         offsetof(azo_credential_desc, client_id),
        offsetof(azo_credential_desc, client_secret),     offsetof(azo_credential_desc, managed_client_id),
        offsetof(azo_credential_desc, managed_object_id), offsetof(azo_credential_desc, managed_resource_id)};
    const char *value = "x";
    (void)state;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        world w;
        azo_client_desc d;
        world_init(&w);
        memset(&d, 0, sizeof d);
        memcpy((char *)&d.credential + fields[i], &value, sizeof value);
        set_env("AZURE_OPENAI_API_KEY", "key-1");
        assert_int_equal(opened(&w, &d)->kind, AZOI_IDENTITY_CHAIN);
        reopen(&w);
        d.api_key = "key-2";
        want_no_open(&w, &d, AZO_ERR_ARGUMENT, "gives 2 identities");
        world_end(&w);
    }
}

/* Other libraries name a managed identity so; here it would sign in as the system-assigned one without a word. */
static void test_app_for_a_managed_identity(void **state) {
    static const azo_credential_desc wrong = {NULL, "app", NULL, NULL, NULL, NULL, NULL, AZO_CRED_IMDS};
    static const azo_credential_desc right = {"t", "app", "s", "h", "", NULL, NULL, AZO_CRED_IMDS};
    world w;
    azo_client_desc d;
    (void)state;
    world_init(&w);
    memset(&d, 0, sizeof d);
    d.credential = wrong;
    want_no_open(&w, &d, AZO_ERR_ARGUMENT, "managed_client_id");
    d.credential = right;
    assert_null(opened(&w, &d)->selector);
    world_end(&w);
}

static void test_selector(void **state) {
    world w;
    azo_client_desc d;
    const azoi_identity *id;
    (void)state;
    world_init(&w);
    memset(&d, 0, sizeof d);
    set_env("AZURE_CLIENT_ID", CLIENT);
    id = opened(&w, NULL);
    assert_string_equal(id->selector, "client_id");
    assert_string_equal(id->selected.data, CLIENT);
    assert_true(id->selected_by_env);
    reopen(&w);

    d.credential.kind = AZO_CRED_IMDS; /* as the stand-alone credential of the SDKs */
    set_env("AZURE_CLIENT_ID", CLIENT);
    assert_null(opened(&w, &d)->selector);
    reopen(&w);

    d.credential.kind = AZO_CRED_CHAIN;
    d.credential.managed_client_id = "";
    set_env("AZURE_CLIENT_ID", CLIENT);
    id = opened(&w, &d);
    assert_null(id->selector);
    assert_false(id->selected_by_env);
    reopen(&w);

    d.credential.managed_client_id = NULL;
    d.credential.managed_object_id = "o";
    set_env("AZURE_CLIENT_ID", CLIENT);
    assert_string_equal(opened(&w, &d)->selector, "object_id");
    reopen(&w);
    d.credential.managed_object_id = NULL;
    d.credential.managed_resource_id = "/subscriptions/x";
    assert_string_equal(opened(&w, &d)->selector, "msi_res_id");
    reopen(&w);
    d.credential.managed_client_id = "";
    want_no_open(&w, &d, AZO_ERR_ARGUMENT, "in 2 ways");
    world_end(&w);
}

static void test_token_credentials(void **state) { /* C3 */
    static const struct {
        const char *value;
        bool secret;
        bool imds;
        azo_result result;
    } rows[] = {{"prod", true, true, AZO_OK},
                {" PROD ", true, true, AZO_OK},
                {"", true, true, AZO_OK},
                {" EnvironmentCredential ", true, false, AZO_OK},
                {"managedidentitycredential", false, true, AZO_OK},
                {"dev", false, false, AZO_ERR_UNSUPPORTED},
                {"AzureCliCredential", false, false, AZO_ERR_UNSUPPORTED},
                {"workloadidentitycredential", false, false, AZO_ERR_UNSUPPORTED},
                {"nonsense", false, false, AZO_ERR_ARGUMENT}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        world w;
        world_init(&w);
        set_env("AZURE_TOKEN_CREDENTIALS", rows[i].value);
        if (rows[i].result == AZO_OK) {
            const azoi_identity *id = opened(&w, NULL);
            assert_true(id->members[AZOI_MEMBER_SECRET] == rows[i].secret);
            assert_true(id->members[AZOI_MEMBER_IMDS] == rows[i].imds);
        } else {
            want_no_open(&w, NULL, rows[i].result, "AZURE_TOKEN_CREDENTIALS");
        }
        world_end(&w);
    }
}

static void test_urls(void **state) { /* E11 */
    static const char *const tenants[] = {"{" TENANT "}", "common", "Organizations", "consumers", "adfs", "a/b", "a b",
                                          "..", "x?y"};
    static const struct {
        const char *given;
        const char *kept; /* NULL: refused */
    } hosts[] = {{"login.example/", "https://login.example"},
                 {" https://login.example// ", "https://login.example"},
                 {"HTTPS://login.example:8443/base/", "HTTPS://login.example:8443/base"},
                 {"http://localhost:7001", "http://localhost:7001"},
                 {"http://[::1]:7001/", "http://[::1]:7001"},
                 {"http://login.example", NULL},
                 {"ftp://login.example", NULL},
                 {"https://user@login.example", NULL},
                 {"https://login.example?x=1", NULL},
                 {"https://login.example#x", NULL},
                 {"https://", NULL},
                 {"https://login.example:0", NULL}};
    world w;
    (void)state;
    world_init(&w);
    for (size_t i = 0; i < sizeof tenants / sizeof tenants[0]; i++) {
        env_secret();
        set_env("AZURE_TENANT_ID", tenants[i]);
        want_no_open(&w, NULL, AZO_ERR_ARGUMENT, "tenant");
    }
    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
        env_secret();
        set_env("AZURE_AUTHORITY_HOST", hosts[i].given);
        if (hosts[i].kept != NULL) {
            assert_string_equal(opened(&w, NULL)->authority.data, hosts[i].kept);
            reopen(&w);
        } else {
            want_no_open(&w, NULL, AZO_ERR_ARGUMENT, "AZURE_AUTHORITY_HOST");
        }
    }
    /* without a whole secret nothing of it is looked at */
    set_env("AZURE_TENANT_ID", "{" TENANT "}");
    set_env("AZURE_AUTHORITY_HOST", "ftp://x");
    (void)opened(&w, NULL);
    reopen(&w);
    set_env("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://10.0.0.1:40342/prefix/");
    assert_string_equal(opened(&w, NULL)->imds.data, "http://10.0.0.1:40342/prefix");
    reopen(&w);
    set_env("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://a:b@10.0.0.1");
    want_no_open(&w, NULL, AZO_ERR_ARGUMENT, "AZURE_POD_IDENTITY_AUTHORITY_HOST");
    world_end(&w);
}

/* ---- parts ---- */

static void test_refresh_after(void **state) {
    (void)state;
    assert_int_equal(azoi_refresh_after(3599, 0), 3299);
    assert_int_equal(azoi_refresh_after(86399, 43199), 43199);
    assert_int_equal(azoi_refresh_after(86399, 0), 43199);
    assert_int_equal(azoi_refresh_after(7200, 0), 3600);
    assert_int_equal(azoi_refresh_after(7199, 0), 6899);
    assert_int_equal(azoi_refresh_after(599, 0), 299);
    assert_int_equal(azoi_refresh_after(600, 0), 300);
    assert_int_equal(azoi_refresh_after(3599, 3599), 3299);
    assert_int_equal(azoi_refresh_after(3599, -5), 3299);
    assert_int_equal(azoi_refresh_after(0, 0), 0);
}

static void test_challenges(void **state) {
    static const struct {
        const char *value;
        const char *claims; /* NULL: none */
    } rows[] = {
        {"Bearer realm=\"\", error=\"insufficient_claims\", claims=\"e30=\"", "e30="}, /* D4 */
        {"bearer claims=e30 , ERROR = insufficient_claims", "e30"},
        {"Bearer error=\"insufficient_claims\", error_description=\"a, b=\\\"c\\\", claims=\\\"no\\\"\", claims=\"eA==\"",
         "eA=="},
        {"Basic realm=\"x, Bearer claims=\\\"no\\\"\", Bearer error=\"insufficient_claims\", claims=\"eA==\"", "eA=="},
        {"Bearer error=\"insufficient_claims\", claims=\"eA==\", Basic realm=\"x\"", "eA=="},
        {"Negotiate abc/+def==, Bearer error=\"insufficient_claims\", claims=\"eA==\"", "eA=="},
        {"Bearer realm=\"x\", Basic realm=\"y\"", NULL},
        {"Bearer realm=\"x\", Bearer error=\"insufficient_claims\", claims=\"eA==\"", "eA=="},
        {"PoP error=\"insufficient_claims\", claims=\"eA==\"", NULL},
        {"Bearer error=\"invalid_token\", claims=\"eA==\"", NULL},
        {"Bearer error=\"insufficient_claims\"", NULL},
        {"Bearer error=\"insufficient_claims\", claims=\"\"", NULL},
        {"Bearer error=\"insufficient_claims\", Basic claims=\"eA==\"", NULL},
        {"Bearer claims=\"eA==\"", NULL},
        {"Bearer", NULL},
        {"", NULL},
        {"Bearer error=\"insufficient_claims\", claims=\"eA", "eA"},
        {"Bearer claims=\"\\", NULL},
        {",,,=,\"", NULL}};
    test_guard g;
    (void)state;
    test_guard_open(&g, 4096);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        azo_str claims = azoi_challenge_claims(test_guard_put(&g, azo_s(rows[i].value)));
        bool found = claims.len > 0;
        if (found != (rows[i].claims != NULL) || (found && !azoi_equal(claims, rows[i].claims))) {
            fail_msg("%s: %.*s", rows[i].value, (int)claims.len, claims.ptr == NULL ? "" : claims.ptr);
        }
    }
    test_guard_close(&g);
}

/* ---- Entra ID ---- */

static void test_entra_request(void **state) { /* E1 */
    world w;
    probe p;
    (void)state;
    world_init(&w);
    env_secret();
    world_start(&w, NULL);
    push_reply(&w, ENTRA, 200, "", "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"ext_expires_in\":3599,"
                                   "\"access_token\":\"tok.E1\"}");
    begin_token(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_OK);
    assert_string_equal(p.token, "tok.E1");
    assert_string_equal(p.source, "environment");
    assert_in_range(p.expires_in_s, 3590, 3599);
    drop(&p);
    const char *request = seen(&w, ENTRA, 0);
    want_start(request, "POST /" TENANT "/oauth2/v2.0/token HTTP/1.1\r\n");
    want_text(request, "\r\nHost: 127.0.0.1:7001\r\n");
    want_text(request, "\r\nContent-Type: application/x-www-form-urlencoded\r\n");
    want_text(request, "\r\nAccept: application/json\r\n");
    assert_string_equal(strstr(request, "\r\n\r\n") + 4,
                        "grant_type=client_credentials&client_id=" CLIENT "&client_secret=" SECRET_ENCODED
                        "&scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default");
    assert_null(strstr(request, "Authorization"));
    want_token(&w, "tok.E1"); /* from memory */
    assert_int_equal(w.client->slots->refresh_at - w.client->slots->fetch_sent_at, 3299000);
    world_end(&w);
}

/* Bodies of a 200 and what comes of them. */
static void test_entra_answers(void **state) {
    static const struct {
        int status;
        const char *body;
        long refresh_s; /* 0: refused */
        const char *words;
    } rows[] = {
        {200, "{\"token_type\":\"bearer\",\"expires_in\":\"3599\",\"access_token\":\"tok.E2\"}", 3299, ""},
        {200, "{\"token_type\":\"Bearer\",\"expires_in\":86399,\"refresh_in\":43199,\"access_token\":\"tok.E3\"}",
         43199, ""},
        {200, "{\"token_type\":\"Bearer\",\"expires_in\":86399,\"refresh_in\":\"100\",\"access_token\":\"tok.E3\"}",
         100, ""},
        {200, "{\"expires_in\":3599,\"access_token\":\"tok.E3\\u0041\"}", 3299, ""},
        {200, "{\"expires_on\":\"1767229200\",\"access_token\":\"tok.on\"}", 3300, ""}, /* an hour from now */
        {200, "{}", 0, "without an access_token"},
        {200, "<html>", 0, "JSON object"},
        {201, "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"tok.x\"}", 0, "HTTP 201"},
        {200, "[]", 0, "JSON object"},
        {200, "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_tok", 0, "JSON object"},
        {200, "{\"token_type\":\"Bearer\",\"access_token\":\"tok.x\"}", 0, "expires_in"},
        {200, "{\"expires_in\":-1,\"access_token\":\"tok.x\"}", 0, "expires_in"},
        {200, "{\"expires_in\":\"soon\",\"expires_on\":\"01/02/2026 03:04:05 AM +00:00\",\"access_token\":\"tok.x\"}",
         0, "expires_in"},
        {200, "{\"expires_in\":3599,\"access_token\":\"\"}", 0, "without an access_token"},
        {200, "{\"expires_in\":3599,\"access_token\":\"tok.a\\r\\nX: y\"}", 0, "header"},
        {200, "{\"expires_in\":3599,\"access_token\":17}", 0, "access_token"},
        {200, "{\"token_type\":\"pop\",\"expires_in\":3599,\"access_token\":\"tok.x\"}", 0, "bearer"}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        world w;
        world_init(&w);
        env_secret();
        world_start(&w, NULL);
        push_reply(&w, ENTRA, rows[i].status, "", rows[i].body);
        probe p;
        begin_token(&w, &p);
        azo_result r = finish(&w, &p);
        if (rows[i].refresh_s != 0) {
            assert_int_equal(r, AZO_OK);
            assert_int_equal(w.client->slots->refresh_at - w.client->slots->fetch_sent_at, rows[i].refresh_s * 1000);
        } else {
            assert_int_equal(r, AZO_ERR_TOKEN);
            want_text(error_of(&p)->message, rows[i].words);
            assert_null(strstr(p.job->error.message, "tok."));
        }
        drop(&p);
        assert_int_equal(count(&w, ENTRA), 1);
        world_end(&w);
    }
}

static void test_entra_token_size(void **state) { /* E10 */
    static const size_t sizes[] = {48 * 1024, AZO_MAX_TOKEN_BYTES, AZO_MAX_TOKEN_BYTES + 1, 100 * 1024};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        world w;
        test_notes body;
        memset(&body, 0, sizeof body);
        world_init(&w);
        env_secret();
        world_start(&w, NULL);
        test_note(&body, "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"");
        for (size_t k = 0; k < sizes[i]; k++) {
            test_note_bytes(&body, "x", 1);
        }
        test_note(&body, "\"}");
        push_reply(&w, ENTRA, 200, "", body.text);
        probe p;
        begin_token(&w, &p);
        if (sizes[i] <= AZO_MAX_TOKEN_BYTES) {
            assert_int_equal(finish(&w, &p), AZO_OK);
            assert_int_equal(w.client->slots->token.len, sizes[i]);
        } else {
            /* the token's limit, or, where the answer is far too long, none that was looked at */
            assert_int_equal(finish(&w, &p), sizes[i] < 80 * 1024 ? AZO_ERR_LIMIT : AZO_ERR_TOKEN);
            (void)error_of(&p);
        }
        drop(&p);
        test_notes_free(&body);
        world_end(&w);
    }
}

#define E4_BODY                                                                                                       \
    "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: synthetic.\\r\\nTrace ID: t\\r\\n"           \
    "Correlation ID: c\\r\\nTimestamp: 2026-01-02 03:04:05Z\",\"error_codes\":[7000215],\"timestamp\":"                \
    "\"2026-01-02 03:04:05Z\",\"trace_id\":\"t\",\"correlation_id\":\"c\"}"

static void test_entra_refusal(void **state) { /* E4 */
    world w;
    (void)state;
    world_init(&w);
    env_secret();
    env_imds();
    world_start(&w, NULL);
    push_reply(&w, ENTRA, 401, "", E4_BODY);
    azo_error e = want_failure(&w, AZO_ERR_TOKEN);
    assert_int_equal(e.aadsts, 7000215);
    assert_int_equal(e.http_status, 401);
    assert_int_equal(e.who, AZO_WHO_IDENTITY);
    assert_string_equal(e.service_code, "invalid_client");
    assert_string_equal(e.request_id, "t");
    assert_string_equal(e.detail, "AADSTS7000215: synthetic.  Trace ID: t  Correlation ID: c  Timestamp: 2026-01-02 "
                                  "03:04:05Z");
    want_start(e.message, "Entra ID rejected the client secret (AADSTS7000215, HTTP 401). ");
    assert_int_equal(count(&w, ENTRA), 1);
    assert_int_equal(w.peers[IMDS].opened, 0); /* another identity is not an answer to a wrong secret */
    world_end(&w);
}

static void test_aadsts(void **state) {
    static const int numbers[] = {7000215, 7000222, 7000216, 7000218, 900144, 700016, 700011, 7000112, 700025, 90002,
                                  900023,  90038,   900432,  70011,   28002,  500011, 50001,  53003,   530032, 50034,
                                  50196,   90033,   90006,   90012,   90024,  50033,  90055,  9001023, 700022, 50049};
    (void)state;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        world w;
        char body[200];
        char number[32];
        world_init(&w);
        env_secret();
        world_start(&w, NULL);
        snprintf(body, sizeof body, "{\"error\":\"x\",\"error_description\":\"AADSTS%d: synthetic\",\"error_codes\":[%d]}",
                 numbers[i], numbers[i]);
        push_reply(&w, ENTRA, 400, "", body);
        azo_error e = want_failure(&w, AZO_ERR_TOKEN);
        snprintf(number, sizeof number, "(AADSTS%d, HTTP 400)", numbers[i]);
        want_text(e.message, number);
        assert_int_equal(e.aadsts, numbers[i]);
        assert_ptr_not_equal(azoi_advice_find(numbers[i]), azoi_advice_find(AZOI_SAYS_NO));
        world_end(&w);
    }
}

static void test_entra_other_refusals(void **state) {
    static const struct {
        int status;
        const char *body;
        const char *message;
        const char *detail;
        int aadsts;
    } rows[] = {
        {400, "{\"error\":\"unauthorized_client\",\"error_codes\":[700016]}", /* E5 */
         "rejected the client ID (AADSTS700016, HTTP 400)", "", 700016},
        {400, "{\"error\":\"interaction_required\",\"claims\":\"{\\\"access_token\\\":{\\\"x\\\":{\\\"essential\\\":true}}}\","
              "\"suberror\":\"basic_action\",\"error_codes\":[53003]}",
         "rejected the sign-in by policy", "{\"access_token\":{\"x\":{\"essential\":true}}}", 53003}, /* E8 */
        {400, "{\"error\":\"invalid_request\"}", "(invalid_request, HTTP 400)", "", 0},
        {400, "{\"error\":\"x\",\"error_codes\":[99999]}", "(AADSTS99999, HTTP 400)", "", 99999},
        {400, "{\"error\":\"temporarily_unavailable\"}", "Wait and try again", "", 0},
        {400, "{\"error\":\"temporarily_unavailable\",\"error_codes\":[99998]}", "Wait and try again", "", 99998},
        {401, "{\"error\":\"invalid_client\",\"error_description\":\"'" SECRET "' is wrong\"}", "(invalid_client, HTTP 401)",
         "'*********************' is wrong", 0}, /* what quotes the secret is not passed on */
        {403, "<html>", "does not answer as it should", "", 0},
        {400, "{\"error\":5,\"error_description\":[],\"error_codes\":{\"a\":1}}", "does not answer as it should", "", 0},
        {400, "{\"error\":\"x\",\"error_codes\":[-1]}", "(x, HTTP 400)", "", 0},
        {400, "{\"error\":\"x\",\"error_codes\":[2147483648]}", "(x, HTTP 400)", "", 0}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        world w;
        world_init(&w);
        env_secret();
        world_start(&w, NULL);
        push_reply(&w, ENTRA, rows[i].status, "x-ms-request-id: r-1\r\n", rows[i].body);
        azo_error e = want_failure(&w, AZO_ERR_TOKEN);
        want_text(e.message, rows[i].message);
        assert_string_equal(e.detail, rows[i].detail);
        assert_int_equal(e.aadsts, rows[i].aadsts);
        assert_string_equal(e.request_id, "r-1");
        world_end(&w);
    }
}

static void test_entra_retries(void **state) {
    world w;
    azo_error e;
    int64_t before;
    (void)state;
    world_init(&w); /* E6 */
    env_secret();
    world_start(&w, NULL);
    push_reply(&w, ENTRA, 429, "Retry-After: 2\r\n", "");
    push_token(&w, ENTRA, "tok.E6", 3599);
    before = w.now;
    want_token(&w, "tok.E6");
    assert_in_range(w.now - before, 2000, 2100);
    world_end(&w);

    static const struct {
        int status;
        azo_who who;
    } rows[] = {{503, AZO_WHO_WAIT}, {408, AZO_WHO_WAIT}, {429, AZO_WHO_WAIT}, {504, AZO_WHO_MACHINE}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) { /* E7 */
        world_init(&w);
        env_secret();
        world_start(&w, NULL);
        for (int k = 0; k < 3; k++) {
            push_reply(&w, ENTRA, rows[i].status, "", "<html>");
        }
        e = want_failure(&w, AZO_ERR_TOKEN);
        assert_int_equal(e.who, rows[i].who);
        assert_int_equal(e.http_status, rows[i].status);
        assert_int_equal(count(&w, ENTRA), 3);
        world_end(&w);
    }

    world_init(&w); /* not reachable: three tries, and the cause is told */
    env_secret();
    env_imds();
    world_start(&w, NULL);
    for (int i = 0; i < 3; i++) {
        push(&w, ENTRA, REFUSE);
    }
    e = want_failure(&w, AZO_ERR_TOKEN);
    want_text(e.message, "No token from Entra ID: ");
    assert_int_equal(e.who, AZO_WHO_MACHINE);
    assert_int_equal(w.peers[IMDS].opened, 0);
    world_end(&w);

    world_init(&w); /* answers nothing: 30 s in all */
    env_secret();
    world_start(&w, NULL);
    push(&w, ENTRA, SILENT);
    push(&w, ENTRA, SILENT);
    before = w.now;
    e = want_failure(&w, AZO_ERR_TOKEN);
    want_text(e.message, "did not answer in time");
    assert_in_range(w.now - before, 15000, 31000);
    world_end(&w);

    world_init(&w); /* E9 */
    env_secret();
    world_start(&w, NULL);
    push_reply(&w, ENTRA, 302, "Location: https://elsewhere.example/\r\n", "");
    e = want_failure(&w, AZO_ERR_TOKEN);
    want_text(e.message, "redirect");
    assert_int_equal(count(&w, ENTRA), 1);
    world_end(&w);
}

static void test_authority_by_scope(void **state) {
    static const char *const rows[][2] = {
        {"https://cognitiveservices.azure.us/.default", "https://login.microsoftonline.us"},
        {"https://ai.azure.us/.default", "https://login.microsoftonline.us"},
        {"https://cognitiveservices.azure.cn/.default", "https://login.chinacloudapi.cn"},
        {SCOPE, "https://login.microsoftonline.com"},
        {"api://x.azure.us.example/.default", "https://login.microsoftonline.com"}};
    world w;
    (void)state;
    world_init(&w);
    env_secret();
    set_env("AZURE_AUTHORITY_HOST", NULL);
    world_start(&w, NULL);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        azoi_slot *slot = azoi_slot_new(w.client, azo_s(rows[i][0]));
        assert_string_equal(azoi_authority(slot).ptr, rows[i][1]);
    }
    world_end(&w);
}

/* ---- managed identity ---- */

#define I1_BODY                                                                                                        \
    "{\"access_token\":\"tok.I1\",\"client_id\":\"" CLIENT "\",\"expires_in\":\"86399\",\"expires_on\":"                 \
    "\"1893456000\",\"ext_expires_in\":\"86399\",\"not_before\":\"1893369301\",\"resource\":"                          \
    "\"https://cognitiveservices.azure.com\",\"token_type\":\"Bearer\"}"

static void imds_world(world *w, const azo_client_desc *desc) {
    world_init(w);
    env_imds();
    world_start(w, desc);
}

static void test_imds_request(void **state) { /* I1, I2 */
    static const char *const suffix[] = {"", "&client_id=c%26d", "&object_id=o", "&msi_res_id=%2Fsubscriptions%2Fx"};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        world w;
        azo_client_desc d;
        char line[300];
        memset(&d, 0, sizeof d);
        d.credential.kind = AZO_CRED_IMDS;
        d.credential.managed_client_id = i == 1 ? "c&d" : NULL;
        d.credential.managed_object_id = i == 2 ? "o" : NULL;
        d.credential.managed_resource_id = i == 3 ? "/subscriptions/x" : NULL;
        d.proxy = "http://127.0.0.1:1"; /* I14: would trip wire_open */
        imds_world(&w, &d);
        push_reply(&w, IMDS, 200, "Server: IMDS/150.0.0.0\r\nx-ms-request-id: r\r\n", I1_BODY);
        probe p;
        begin_token(&w, &p);
        assert_int_equal(finish(&w, &p), AZO_OK);
        assert_string_equal(p.token, "tok.I1");
        assert_string_equal(p.source, "managed identity");
        drop(&p);
        snprintf(line, sizeof line, "GET %s%s HTTP/1.1\r\n", TOKEN_TARGET, suffix[i]);
        want_start(seen(&w, IMDS, 0), line);
        want_text(seen(&w, IMDS, 0), "\r\nMetadata: true\r\n");
        assert_null(strstr(seen(&w, IMDS, 0), "X-Forwarded-For"));
        assert_int_equal(w.client->slots->refresh_at - w.client->slots->fetch_sent_at, 43199000);
        world_end(&w);
    }
}

/* The smaller of expires_in and expires_on counts, if the server's own clock is there to compare with. */
static void test_imds_lifetime(void **state) {
    world w;
    (void)state;
    imds_world(&w, NULL);
    push_reply(&w, IMDS, 200, "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n",
               "{\"access_token\":\"tok.1\",\"expires_in\":\"86399\",\"expires_on\":\"1767229200\"}");
    want_token(&w, "tok.1");
    assert_int_equal(w.client->slots->expires_at - w.client->slots->fetch_sent_at, 3600000);
    world_end(&w);

    imds_world(&w, NULL); /* our clock is two days ahead: no matter */
    w.unix_now += 2 * 86400;
    push_reply(&w, IMDS, 200, "", "{\"access_token\":\"tok.1\",\"expires_in\":\"3600\",\"expires_on\":\"1767229200\"}");
    want_token(&w, "tok.1");
    assert_int_equal(w.client->slots->expires_at - w.client->slots->fetch_sent_at, 3600000);
    world_end(&w);

    imds_world(&w, NULL); /* expired on arrival: for who waited, and then asked for again */
    for (int i = 0; i < 2; i++) {
        push_reply(&w, IMDS, 200, "", "{\"access_token\":\"tok.0\",\"expires_in\":\"0\"}");
        want_token(&w, "tok.0");
    }
    world_end(&w);
}

static void test_imds_classes(void **state) {
    static const struct {
        const char *name;
        int status;
        const char *headers;
        const char *body;
        const char *selector;
        azo_result chained; /* in a chain without a client secret */
        int requests;
        const char *words; /* of message or detail */
    } rows[] = {
        {"I4", 400, "", "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\"}", NULL,
         AZO_ERR_NO_CREDENTIAL, 1, "managed identity: unavailable (HTTP 400 invalid_request: Identity not found)"},
        {"I4 selected", 400, "", "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\"}", CLIENT,
         AZO_ERR_IMDS, 1, "the identity that AZURE_CLIENT_ID names"},
        {"I5", 400, "", "{\"error\":\"invalid_request\",\"error_description\":\"synthetic: several identities\"}", NULL,
         AZO_ERR_IMDS, 1, "several identities"},
        {"I6", 400, "", "{\"error\":\"invalid_resource\",\"error_description\":\"AADSTS500011: synthetic\"}", NULL,
         AZO_ERR_IMDS, 1, "AADSTS500011: synthetic"},
        {"I3", 400, "", "{\"error\":\"bad_request_102\",\"error_description\":\"synthetic: metadata header\"}", NULL,
         AZO_ERR_IMDS, 1, "bad_request_102"},
        {"I7", 403, "Connection: close\r\n", "", NULL, AZO_ERR_NO_CREDENTIAL, 1, "unavailable"},
        {"403 of its own", 403, "", "{\"error\":\"x\"}", NULL, AZO_ERR_IMDS, 1, "HTTP 403"},
        {"another cloud", 401, "", "<html>", NULL, AZO_ERR_NO_CREDENTIAL, 1, "unavailable"},
        {"401", 401, "", "{\"error\":\"unknown_source\"}", NULL, AZO_ERR_IMDS, 1, "unknown_source"},
        {"I11", 502, "", "<html>", NULL, AZO_ERR_IMDS, 5, "proxies (169.254.169.254 must pass by them)"},
        {"404", 404, "", "", NULL, AZO_ERR_IMDS, 5, "HTTP 404"},
        {"I12 HTML", 200, "", "<html>", NULL, AZO_ERR_NO_CREDENTIAL, 1, "unavailable"},
        {"I12 array", 200, "", "[1]", NULL, AZO_ERR_NO_CREDENTIAL, 1, "unavailable"},
        {"no token", 200, "", "{}", NULL, AZO_ERR_IMDS, 1, "access_token"},
        {"redirect", 302, "Location: https://login.example/\r\n", "", NULL, AZO_ERR_NO_CREDENTIAL, 1, "unavailable"}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        world w;
        char both[1100];
        world_init(&w);
        env_imds();
        set_env("AZURE_CLIENT_ID", rows[i].selector);
        world_start(&w, NULL);
        for (int k = 0; k < rows[i].requests; k++) {
            push_reply(&w, IMDS, rows[i].status, rows[i].headers, rows[i].body);
        }
        azo_error e = want_failure(&w, rows[i].chained);
        snprintf(both, sizeof both, "%s\n%s", e.message, e.detail);
        want_text(both, rows[i].words);
        want_text(e.detail, "environment: unavailable (");
        world_end(&w);
    }
}

static void test_imds_docker(void **state) { /* I7: the phrase is the host's, in the host's language */
    static const char *const heads[] = {
        "HTTP/1.0 403 connecting to 169.254.169.254:80: dial tcp: unreachable network.\r\nConnection: close\r\n"
        "Content-Length: 0\r\n\r\n",
        "HTTP/1.0 403 Verbindungsaufbau nicht m\xc3\xb6glich\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        world w;
        imds_world(&w, NULL);
        push_raw(&w, IMDS, heads[i]);
        (void)want_failure(&w, AZO_ERR_NO_CREDENTIAL);
        world_end(&w);
    }
}

static void test_imds_retries(void **state) {
    world w;
    int64_t before;
    (void)state;
    imds_world(&w, NULL); /* I8: it answers, so its schedule applies on the first contact too */
    push_reply(&w, IMDS, 404, "", "");
    push_reply(&w, IMDS, 404, "", "");
    push_reply(&w, IMDS, 200, "", I1_BODY);
    want_token(&w, "tok.I1");
    world_end(&w);

    imds_world(&w, NULL); /* I9 */
    before = w.now;
    push_reply(&w, IMDS, 410, "", "");
    push_reply(&w, IMDS, 410, "", "");
    push_reply(&w, IMDS, 410, "", "");
    push_reply(&w, IMDS, 410, "", "");
    push_reply(&w, IMDS, 200, "", I1_BODY);
    want_token(&w, "tok.I1");
    assert_in_range(w.now - before, 70000, 90000);
    world_end(&w);

    imds_world(&w, NULL); /* I10 */
    push_reply(&w, IMDS, 429, "Retry-After: 1\r\n", "");
    push_reply(&w, IMDS, 500, "", "");
    push_reply(&w, IMDS, 503, "", "");
    push_reply(&w, IMDS, 200, "", I1_BODY);
    want_token(&w, "tok.I1");
    world_end(&w);
}

static void test_imds_not_there(void **state) { /* I13 and C1 */
    static const answer_mode modes[] = {REFUSE, BLACK_HOLE, SILENT, RESET};
    static const int limits[] = {100, 1100, 5100, 100};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        world w;
        int64_t before;
        imds_world(&w, NULL);
        push(&w, IMDS, modes[i]);
        before = w.now;
        azo_error e = want_failure(&w, AZO_ERR_NO_CREDENTIAL);
        assert_in_range(w.now - before, 0, limits[i]);
        want_text(e.detail, "environment: unavailable (AZURE_TENANT_ID not set, AZURE_CLIENT_ID not set, "
                            "AZURE_CLIENT_SECRET not set)\nmanaged identity: unavailable (");
        assert_int_equal(w.peers[IMDS].opened, 1);
        world_end(&w);
    }
}

static void test_imds_pinned(void **state) {
    azo_client_desc d;
    world w;
    (void)state;
    memset(&d, 0, sizeof d);
    d.credential.kind = AZO_CRED_IMDS;
    imds_world(&w, &d); /* the full schedule */
    push(&w, IMDS, BLACK_HOLE);
    push(&w, IMDS, RESET);
    push_reply(&w, IMDS, 200, "", I1_BODY);
    want_token(&w, "tok.I1");
    world_end(&w);

    imds_world(&w, &d);
    for (int i = 0; i < 5; i++) {
        push(&w, IMDS, REFUSE);
    }
    azo_error e = want_failure(&w, AZO_ERR_IMDS);
    want_text(e.message, "No managed identity: ");
    world_end(&w);
}

/* Once a member has given a token, the chain is only that member. */
static void test_winner(void **state) {
    world w;
    (void)state;
    imds_world(&w, NULL);
    push_token(&w, IMDS, "tok.1", 3600);
    want_token(&w, "tok.1");
    assert_int_equal(w.client->identity.winner, AZOI_MEMBER_IMDS);
    run_for(&w, 3600000);
    for (int i = 0; i < 5; i++) {
        push(&w, IMDS, REFUSE); /* the pinned schedule */
    }
    azo_error e = want_failure(&w, AZO_ERR_IMDS);
    assert_null(strstr(e.detail, "environment"));
    world_end(&w);
}

static void test_foreign(void **state) {
    static const char *const names[] = {"IDENTITY_ENDPOINT", "MSI_ENDPOINT", "AZURE_FEDERATED_TOKEN_FILE"};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        world w;
        world_init(&w);
        env_imds();
        set_env(names[i], "http://x");
        world_start(&w, NULL);
        azo_error e = want_failure(&w, AZO_ERR_NO_CREDENTIAL);
        want_text(e.message, names[i]);
        want_text(e.message, "token_provider");
        want_text(e.detail, names[i]);
        assert_int_equal(w.peers[IMDS].opened, 0);
        assert_int_equal(e.retry_after_ms, -1);
        world_end(&w);

        world_init(&w); /* a whole client secret does not care */
        env_secret();
        set_env(names[i], "http://x");
        world_start(&w, NULL);
        push_token(&w, ENTRA, "tok.1", 3600);
        want_token(&w, "tok.1");
        world_end(&w);
    }
}

/* Pinned to managed identity: a federated token file is no announcement of another one of those. */
static void test_foreign_pinned(void **state) {
    azo_client_desc d;
    world w;
    (void)state;
    memset(&d, 0, sizeof d);
    d.credential.kind = AZO_CRED_IMDS;
    world_init(&w);
    env_imds();
    set_env("AZURE_FEDERATED_TOKEN_FILE", "/x");
    world_start(&w, &d);
    push_reply(&w, IMDS, 200, "", I1_BODY);
    want_token(&w, "tok.I1");
    world_end(&w);
}

static void test_only_client_id(void **state) { /* C2 */
    world w;
    (void)state;
    world_init(&w);
    env_imds();
    set_env("AZURE_CLIENT_ID", CLIENT);
    world_start(&w, NULL);
    push_reply(&w, IMDS, 200, "", I1_BODY);
    want_token(&w, "tok.I1");
    want_text(seen(&w, IMDS, 0), TOKEN_TARGET "&client_id=" CLIENT " HTTP/1.1");
    world_end(&w);
}

static void test_secret_missing(void **state) {
    world w;
    azo_client_desc d;
    (void)state;
    memset(&d, 0, sizeof d);
    d.credential.kind = AZO_CRED_SECRET;
    world_init(&w);
    set_env("AZURE_TENANT_ID", TENANT);
    world_start(&w, &d);
    azo_error e = want_failure(&w, AZO_ERR_NO_CREDENTIAL);
    want_text(e.message, "AZURE_TENANT_ID set, AZURE_CLIENT_ID not set, AZURE_CLIENT_SECRET not set");
    world_end(&w);
}

/* ---- the slot ---- */

static void secret_world(world *w) {
    world_init(w);
    env_secret();
    world_start(w, NULL);
}

static void test_single_flight(void **state) { /* I15, D6.1 */
    world w;
    probe p[16];
    (void)state;
    secret_world(&w);
    push_token(&w, ENTRA, "tok.1", 3600)->delay_ms = 200;
    for (int i = 0; i < 16; i++) {
        begin_token(&w, &p[i]);
    }
    run_for(&w, 50);
    drop(&p[0]); /* the one that began it */
    azo_request_cancel(p[7].job);
    for (int i = 1; i < 16; i++) {
        assert_int_equal(finish(&w, &p[i]), i == 7 ? AZO_ERR_CANCELLED : AZO_OK);
        drop(&p[i]);
    }
    assert_int_equal(count(&w, ENTRA), 1);
    world_end(&w);

    secret_world(&w); /* all leave: the fetch runs on and its token is kept */
    push_token(&w, ENTRA, "tok.1", 3600)->delay_ms = 200;
    begin_token(&w, &p[0]);
    run_for(&w, 50);
    drop(&p[0]);
    run_for(&w, 1000);
    want_token(&w, "tok.1");
    assert_int_equal(count(&w, ENTRA), 1);
    world_end(&w);
}

static void test_two_scopes(void **state) {
    world w;
    probe a;
    probe b;
    (void)state;
    secret_world(&w);
    push_token(&w, ENTRA, "tok.1", 3600);
    push_token(&w, ENTRA, "tok.2", 3600);
    begin_token(&w, &a);
    assert_int_equal(begin(&w, &b, &probe_token_ops, "https://ai.azure.com/.default", NULL), AZO_OK);
    assert_int_equal(finish(&w, &a), AZO_OK);
    assert_int_equal(finish(&w, &b), AZO_OK);
    assert_string_not_equal(a.token, b.token);
    drop(&a);
    drop(&b);
    assert_int_equal(begin(&w, &b, &probe_token_ops, "", NULL), AZO_ERR_ARGUMENT);
    assert_int_equal(begin(&w, &b, &probe_token_ops, "https://a/.default https://b/.default", NULL), AZO_ERR_ARGUMENT);
    world_end(&w);
}

static void test_held(void **state) { /* D6.2 */
    world w;
    probe p[3];
    azo_error e;
    (void)state;
    secret_world(&w);
    push_reply(&w, ENTRA, 401, "", E4_BODY)->delay_ms = 10;
    for (int i = 0; i < 3; i++) {
        begin_token(&w, &p[i]);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(finish(&w, &p[i]), AZO_ERR_TOKEN);
        assert_int_equal(error_of(&p[i])->aadsts, 7000215);
        assert_int_equal(p[i].job->error.retry_after_ms, -1);
        drop(&p[i]);
    }
    w.now += 1000;
    e = want_failure(&w, AZO_ERR_TOKEN); /* from memory */
    assert_int_equal(e.retry_after_ms, 4000);
    assert_int_equal(e.aadsts, 7000215);
    assert_int_equal(count(&w, ENTRA), 1);
    w.now += 4000;
    push_token(&w, ENTRA, "tok.1", 3600);
    want_token(&w, "tok.1");
    world_end(&w);

    secret_world(&w); /* what passes is held for 2 s, or as long as the server says */
    for (int i = 0; i < 3; i++) {
        push(&w, ENTRA, REFUSE);
    }
    (void)want_failure(&w, AZO_ERR_TOKEN);
    assert_int_equal(want_failure(&w, AZO_ERR_TOKEN).retry_after_ms, 2000);
    w.now += 2000;
    push_reply(&w, ENTRA, 429, "Retry-After: 100\r\n", "");
    assert_int_equal(want_failure(&w, AZO_ERR_TOKEN).retry_after_ms, 100000);
    w.now += 40000;
    assert_int_equal(want_failure(&w, AZO_ERR_TOKEN).retry_after_ms, 60000);
    world_end(&w);
}

static void test_renewal(void **state) { /* I16 */
    world w;
    (void)state;
    secret_world(&w);
    push_token(&w, ENTRA, "tok.1", 3600);
    want_token(&w, "tok.1");
    w.now += 3299000;
    want_token(&w, "tok.1");
    assert_int_equal(count(&w, ENTRA), 1);
    w.now += 1000; /* now it is renewed, while the old one serves */
    push_reply(&w, ENTRA, 400, "", "{\"error\":\"x\"}")->delay_ms = 10;
    want_token(&w, "tok.1");
    run_for(&w, 100);
    want_text(w.log.text, "keeping the one there is");
    assert_int_equal(count(&w, ENTRA), 2);
    w.now += 29800;
    want_token(&w, "tok.1");
    run_for(&w, 100);
    assert_int_equal(count(&w, ENTRA), 2);
    w.now += 200;
    push_token(&w, ENTRA, "tok.2", 3600)->delay_ms = 10;
    want_token(&w, "tok.1");
    run_for(&w, 100);
    want_token(&w, "tok.2");
    assert_int_equal(w.client->slots->generation, 2);
    w.now += 3600000 - 29000; /* too close to its end: everyone waits */
    push_token(&w, ENTRA, "tok.3", 3600)->delay_ms = 10;
    want_token(&w, "tok.3");
    world_end(&w);

    secret_world(&w); /* the hold-off after a failed renewal ends with the old token */
    push_token(&w, ENTRA, "tok.1", 3600);
    want_token(&w, "tok.1");
    w.now += 3569000;
    push_reply(&w, ENTRA, 400, "", "{\"error\":\"x\"}");
    want_token(&w, "tok.1");
    run_for(&w, 500);
    want_token(&w, "tok.1");
    w.now += 1000;
    push_token(&w, ENTRA, "tok.2", 3600);
    want_token(&w, "tok.2");
    world_end(&w);

    secret_world(&w); /* the renewal runs while the old token ends, and fails */
    push_token(&w, ENTRA, "tok.1", 3600);
    want_token(&w, "tok.1");
    w.now += 3569000;
    push_reply(&w, ENTRA, 400, "", "{\"error\":\"x\"}")->delay_ms = 5000;
    want_token(&w, "tok.1");
    run_for(&w, 2000);
    (void)want_failure(&w, AZO_ERR_TOKEN);
    assert_int_equal(w.client->slots->hold_until - w.now, 5000);
    assert_int_equal(count(&w, ENTRA), 2);
    world_end(&w);
}

/* B11: nobody stepped while a renewal was on its way. */
static void test_parked(void **state) {
    world w;
    (void)state;
    secret_world(&w);
    push_token(&w, ENTRA, "tok.1", 3600);
    want_token(&w, "tok.1");
    w.now += 3300000;
    push_token(&w, ENTRA, "tok.2", 3600)->delay_ms = 10;
    want_token(&w, "tok.1");
    w.now += 600000; /* both the token and the fetch have outlived their time */
    push_token(&w, ENTRA, "tok.3", 3600);
    want_token(&w, "tok.3");
    world_end(&w);
}

static void test_expiry_counts_from_sending(void **state) {
    world w;
    (void)state;
    secret_world(&w);
    push_token(&w, ENTRA, "tok.1", 3600)->delay_ms = 9000;
    probe p;
    begin_token(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_OK);
    assert_int_equal(p.expires_in_s, 3591);
    drop(&p);
    world_end(&w);
}

/* ---- 401 ---- */

#define D1_BODY "{\"statusCode\":401,\"message\":\"synthetic: audience or expiry\"}"

static void test_replay(void **state) { /* D1 */
    world w;
    probe p;
    (void)state;
    secret_world(&w);
    push_token(&w, ENTRA, "tok.A", 3600);
    push_reply(&w, SERVICE, 401, "", D1_BODY);
    push_token(&w, ENTRA, "tok.B", 3600);
    push_reply(&w, SERVICE, 200, "", "ok");
    begin_call(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_OK);
    drop(&p);
    want_text(seen(&w, SERVICE, 0), "\r\nAuthorization: Bearer tok.A\r\n");
    want_text(seen(&w, SERVICE, 1), "\r\nAuthorization: Bearer tok.B\r\n");
    assert_null(strstr(seen(&w, ENTRA, 1), "claims"));

    /* refused again within 30 s: that stands, without another fetch */
    push_reply(&w, SERVICE, 401, "", D1_BODY);
    begin_call(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_ERR_UNAUTHORIZED);
    want_text(p.job->error.message, "The service said no");
    drop(&p);
    assert_int_equal(count(&w, ENTRA), 2);

    /* 30 s later it is worth a try; a job replays only once */
    w.now += 30000;
    push_reply(&w, SERVICE, 401, "", D1_BODY);
    push_token(&w, ENTRA, "tok.C", 3600);
    push_reply(&w, SERVICE, 401, "", D1_BODY);
    begin_call(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_ERR_UNAUTHORIZED);
    drop(&p);
    assert_int_equal(count(&w, SERVICE), 5);
    world_end(&w);
}

static void test_twenty_401(void **state) { /* D6.4 and D2 */
    world w;
    probe p[20];
    (void)state;
    for (int same = 0; same < 2; same++) {
        secret_world(&w);
        push_token(&w, ENTRA, "tok.A", 3600);
        push_token(&w, ENTRA, same ? "tok.A" : "tok.B", 3600)->delay_ms = 20;
        for (int i = 0; i < 20; i++) {
            push_reply(&w, SERVICE, 401, "", D1_BODY)->delay_ms = 1 + i;
            begin_call(&w, &p[i]);
        }
        run_for(&w, 15);
        for (int i = 0; i < 20 && !same; i++) {
            push_reply(&w, SERVICE, 200, "", "ok");
        }
        for (int i = 0; i < 20; i++) {
            azo_result r = finish(&w, &p[i]);
            if (r != (same ? AZO_ERR_UNAUTHORIZED : AZO_OK)) {
                fail_msg("call %d of 20: %s", i, p[i].job->error.message);
            }
            if (same) {
                test_sentences(p[i].job->error.message);
                want_text(p[i].job->error.message, "gave the same one");
                assert_int_equal(p[i].job->error.http_status, 401);
                assert_int_equal(p[i].job->error.attempts, 1);
            }
            drop(&p[i]);
        }
        assert_int_equal(count(&w, ENTRA), 2);
        assert_int_equal(count(&w, SERVICE), same ? 20 : 40);
        world_end(&w);
    }
}

static void test_permission_denied(void **state) { /* D3 */
    world w;
    probe p;
    (void)state;
    secret_world(&w);
    push_token(&w, ENTRA, "tok.A", 3600);
    push_reply(&w, SERVICE, 401, "", "{\"error\":{\"code\":\"PermissionDenied\",\"message\":\"synthetic\"}}");
    begin_call(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_ERR_UNAUTHORIZED);
    drop(&p);
    assert_int_equal(count(&w, ENTRA), 1);
    want_token(&w, "tok.A");
    world_end(&w);
}

static void test_claims(void **state) { /* D4 */
    world w;
    probe p;
    (void)state;
    secret_world(&w);
    push_token(&w, ENTRA, "tok.A", 3600);
    push_reply(&w, SERVICE, 401, "WWW-Authenticate: Basic realm=\"x\"\r\nWWW-Authenticate: Bearer realm=\"\", "
                                 "error=\"insufficient_claims\", claims=\"eyJhY2Nlc3NfdG9rZW4iOnt9fQ==\"\r\n", "");
    push_token(&w, ENTRA, "tok.B", 3600);
    push_reply(&w, SERVICE, 200, "", "ok");
    begin_call(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_OK);
    drop(&p);
    want_text(seen(&w, ENTRA, 1), "&claims=%7B%22access_token%22%3A%7B%7D%7D");

    /* asked for by the caller: past the cache, and others are served meanwhile */
    push_token(&w, ENTRA, "tok.C", 3600)->delay_ms = 50;
    assert_int_equal(begin(&w, &p, &probe_token_ops, SCOPE, "{\"x\":1}"), AZO_OK);
    run_for(&w, 10);
    want_token(&w, "tok.B");
    assert_int_equal(finish(&w, &p), AZO_OK);
    assert_string_equal(p.token, "tok.C");
    drop(&p);
    want_text(seen(&w, ENTRA, 2), "&claims=%7B%22x%22%3A1%7D");
    want_token(&w, "tok.C");

    /* while a fetch without claims runs, one with them follows it */
    w.now += 3600000;
    probe q;
    push_token(&w, ENTRA, "tok.D", 3600)->delay_ms = 50;
    push_token(&w, ENTRA, "tok.E", 3600)->delay_ms = 50;
    begin_token(&w, &q);
    run_for(&w, 10);
    assert_int_equal(begin(&w, &p, &probe_token_ops, SCOPE, "{\"x\":2}"), AZO_OK);
    assert_int_equal(finish(&w, &q), AZO_OK);
    assert_int_equal(finish(&w, &p), AZO_OK);
    assert_string_equal(q.token, "tok.D");
    assert_string_equal(p.token, "tok.E");
    drop(&p);
    drop(&q);
    assert_null(strstr(seen(&w, ENTRA, 3), "claims"));
    want_text(seen(&w, ENTRA, 4), "claims");

    /* claims that cannot be read are none: the usual refetch */
    static const char *const unreadable[] = {"!!!", "bm8ganNvbg=="}; /* no base64; base64 of no JSON */
    for (size_t i = 0; i < 2; i++) {
        char header[200];
        w.now += 30000;
        snprintf(header, sizeof header, "WWW-Authenticate: Bearer error=\"insufficient_claims\", claims=\"%s\"\r\n",
                 unreadable[i]);
        push_reply(&w, SERVICE, 401, header, "");
        push_token(&w, ENTRA, i == 0 ? "tok.F" : "tok.G", 3600);
        push_reply(&w, SERVICE, 200, "", "ok");
        begin_call(&w, &p);
        assert_int_equal(finish(&w, &p), AZO_OK);
        drop(&p);
        assert_null(strstr(seen(&w, ENTRA, 5 + i), "claims"));
    }
    world_end(&w);
}

/* A 401 for a token that was renewed meanwhile is replayed with what there is. */
static void test_late_401(void **state) {
    world w;
    probe p;
    (void)state;
    secret_world(&w);
    push_token(&w, ENTRA, "tok.A", 3600);
    push_reply(&w, SERVICE, 401, "", D1_BODY)->delay_ms = 50000;
    begin_call(&w, &p);
    run_for(&w, 1000);
    w.client->slots->refresh_at = w.now;
    push_token(&w, ENTRA, "tok.B", 3600);
    want_token(&w, "tok.A");
    run_for(&w, 1000);
    push_reply(&w, SERVICE, 200, "", "ok");
    assert_int_equal(finish(&w, &p), AZO_OK);
    drop(&p);
    assert_int_equal(count(&w, ENTRA), 2);
    world_end(&w);
}

/* A 401 soon after another, for the token that came of that: as long as a renewal runs, its token is worth a try. */
static void test_401_while_a_renewal_runs(void **state) {
    (void)state;
    for (int same = 0; same < 2; same++) {
        world w;
        probe p;
        secret_world(&w);
        push_token(&w, ENTRA, "tok.A", 3600);
        push_reply(&w, SERVICE, 401, "", D1_BODY);
        push_reply(&w, ENTRA, 200, "", "{\"expires_in\":3600,\"refresh_in\":5,\"access_token\":\"tok.B\"}");
        push_reply(&w, SERVICE, 200, "", "ok");
        begin_call(&w, &p);
        assert_int_equal(finish(&w, &p), AZO_OK);
        drop(&p);
        w.now += 6000; /* time to renew it */
        push_token(&w, ENTRA, same ? "tok.B" : "tok.C", 3600)->delay_ms = 500;
        push_reply(&w, SERVICE, 401, "", D1_BODY);
        if (!same) {
            push_reply(&w, SERVICE, 200, "", "ok");
        }
        begin_call(&w, &p);
        azo_result r = finish(&w, &p);
        if (r != (same ? AZO_ERR_UNAUTHORIZED : AZO_OK)) {
            fail_msg("%s: %s", same ? "the same token" : "a new token", p.job->error.message);
        }
        if (same) {
            want_text(p.job->error.message, "gave the same one");
        } else {
            want_text(seen(&w, SERVICE, 3), "\r\nAuthorization: Bearer tok.C\r\n");
        }
        drop(&p);
        assert_int_equal(count(&w, ENTRA), 3);
        world_end(&w);
    }
}

static void test_fixed(void **state) {
    world w;
    probe p;
    azo_client_desc d;
    (void)state;
    memset(&d, 0, sizeof d);
    d.api_key = "key-1";
    world_init(&w);
    world_start(&w, &d);
    push_reply(&w, SERVICE, 401, "", D1_BODY);
    begin_call(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_ERR_UNAUTHORIZED);
    drop(&p);
    want_text(seen(&w, SERVICE, 0), "\r\napi-key: key-1\r\n");
    assert_null(strstr(seen(&w, SERVICE, 0), "Authorization"));
    world_end(&w);

    d.auth_header = "Ocp-Apim-Subscription-Key";
    world_init(&w);
    world_start(&w, &d);
    push_reply(&w, SERVICE, 200, "", "");
    begin_call(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_OK);
    drop(&p);
    want_text(seen(&w, SERVICE, 0), "\r\nOcp-Apim-Subscription-Key: key-1\r\n");
    world_end(&w);

    world_init(&w);
    set_env("AZURE_OPENAI_AD_TOKEN", "tok.static");
    world_start(&w, NULL);
    push_reply(&w, SERVICE, 401, "", D1_BODY);
    begin_call(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_ERR_UNAUTHORIZED);
    drop(&p);
    want_text(seen(&w, SERVICE, 0), "\r\nAuthorization: Bearer tok.static\r\n");
    begin_token(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_OK);
    assert_string_equal(p.source, "static");
    assert_int_equal(p.expires_in_s, 0);
    drop(&p);
    assert_int_equal(begin(&w, &p, &probe_token_ops, SCOPE, "{}"), AZO_ERR_ARGUMENT);
    world_end(&w);
}

/* ---- the token provider ---- */

typedef struct provider {
    int asks;
    int abandons;
    int pending; /* asks that answer PENDING first */
    azo_result result;
    const char *token;
    size_t token_len; /* 0: strlen */
    int64_t expires_in_s;
    const char *error_text;
    intptr_t wait_fd;
    unsigned wait_events;
    int32_t wait_ms;
    void *state_seen;
    char scope[100];
    char claims[100];
    world *reenter;
} provider;

static azo_result provide(const azo_token_ask *ask, azo_token_answer *answer, void *user_data) {
    provider *p = (provider *)user_data;
    p->state_seen = *ask->state;
    if (ask->abandon) {
        p->abandons++;
        *ask->state = NULL;
        return AZO_OK;
    }
    p->asks++;
    assert_int_equal(answer->wait_fd, -1);
    assert_int_equal(answer->wait_ms, -1);
    assert_int_equal(answer->token_cap, AZO_MAX_TOKEN_BYTES);
    snprintf(p->scope, sizeof p->scope, "%s", ask->scope);
    snprintf(p->claims, sizeof p->claims, "%s", ask->claims != NULL ? ask->claims : "none");
    if (p->reenter != NULL) {
        assert_int_equal(azo_step(p->reenter->client, NULL, 0), AZO_ERR_STATE);
    }
    if (p->pending > 0) {
        p->pending--;
        *ask->state = p;
        answer->wait_fd = p->wait_fd;
        answer->wait_events = p->wait_events;
        answer->wait_ms = p->wait_ms;
        return AZO_PENDING;
    }
    if (p->token != NULL) {
        memcpy(answer->token, p->token, strlen(p->token));
        answer->token_len = p->token_len != 0 ? p->token_len : strlen(p->token);
    }
    answer->expires_in_s = p->expires_in_s;
    answer->error_text = p->error_text;
    return p->result;
}

static void provider_world(world *w, provider *p) {
    azo_client_desc d;
    memset(&d, 0, sizeof d);
    memset(p, 0, sizeof *p);
    p->wait_fd = -1;
    p->wait_ms = -1;
    p->token = "tok.P1";
    p->expires_in_s = 3600;
    d.token_provider = provide;
    d.token_user_data = p;
    world_init(w);
    world_start(w, &d);
}

static void test_provider(void **state) {
    world w;
    provider v;
    probe p;
    (void)state;
    provider_world(&w, &v);
    v.reenter = &w;
    begin_token(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_OK);
    assert_string_equal(p.token, "tok.P1");
    assert_string_equal(p.source, "provider");
    assert_int_equal(p.expires_in_s, 3600);
    drop(&p);
    assert_string_equal(v.scope, SCOPE);
    assert_string_equal(v.claims, "none");
    want_token(&w, "tok.P1");
    assert_int_equal(v.asks, 1);
    v.token = "tok.P2";
    assert_int_equal(begin(&w, &p, &probe_token_ops, SCOPE, "{\"c\":1}"), AZO_OK);
    assert_int_equal(finish(&w, &p), AZO_OK);
    assert_string_equal(p.token, "tok.P2");
    drop(&p);
    assert_string_equal(v.claims, "{\"c\":1}");
    assert_int_equal(v.abandons, 0);
    world_end(&w);

    provider_world(&w, &v); /* lifetime not known: asked for each request */
    v.expires_in_s = 0;
    want_token(&w, "tok.P1");
    v.token = "tok.P2";
    want_token(&w, "tok.P2");
    begin_token(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_OK);
    assert_int_equal(p.expires_in_s, 0);
    drop(&p);
    assert_int_equal(v.asks, 3);
    world_end(&w);

    static const char *const seconds[] = {"tok.P1", "tok.P2"};
    for (size_t i = 0; i < 2; i++) { /* after a 401 a token that was for one request is for none */
        provider_world(&w, &v);
        v.expires_in_s = 0;
        push_reply(&w, SERVICE, 401, "", D1_BODY)->delay_ms = 100;
        begin_call(&w, &p);
        run_for(&w, 50);
        v.token = seconds[i];
        if (i == 1) {
            push_reply(&w, SERVICE, 200, "", "ok");
        }
        assert_int_equal(finish(&w, &p), i == 1 ? AZO_OK : AZO_ERR_UNAUTHORIZED);
        drop(&p);
        assert_int_equal(v.asks, 2);
        assert_int_equal(count(&w, SERVICE), i + 1);
        world_end(&w);
    }

    provider_world(&w, &v); /* a 401 asks it again */
    push_reply(&w, SERVICE, 401, "", D1_BODY);
    begin_call(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_ERR_UNAUTHORIZED);
    want_text(p.job->error.message, "gave the same one");
    drop(&p);
    assert_int_equal(v.asks, 2);
    world_end(&w);
}

static void test_provider_failures(void **state) {
    static const struct {
        azo_result result;
        const char *token;
        size_t len;
        int64_t expires;
        const char *words;
        const char *expected;
    } rows[] = {{AZO_OK, NULL, 0, 0, NULL, "token_len 0"},
                {AZO_OK, "tok.x", AZO_MAX_TOKEN_BYTES + 1, 0, NULL, "token_len 65537"},
                {AZO_OK, "tok.a b", 0, 0, NULL, "spaces"},
                {AZO_OK, "tok.a\r\n", 0, 0, NULL, "line ends"},
                {AZO_OK, "tok.\xc3\xa4", 0, 0, NULL, "cannot be used"},
                {AZO_OK, "tok.\x7f", 0, 0, NULL, "cannot be used"},
                {AZO_OK, "tok.x", 0, -10, NULL, "expires_in_s -10"},
                {AZO_OK, "tok.x", 0, INT64_MIN, NULL, "expired"},
                {AZO_ERR_PROVIDER, NULL, 0, 0, "Please run\n'az login'. \x1b", "(-23): Please run 'az login'. ?."},
                {AZO_ERR_TIMEOUT, NULL, 0, 0, "too slow.", "(-16): too slow. Look there"},
                {AZO_ERR_PROVIDER, NULL, 0, 0, NULL, "it gave no reason"}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        world w;
        provider v;
        probe p;
        provider_world(&w, &v);
        v.result = rows[i].result;
        v.token = rows[i].token;
        v.token_len = rows[i].len;
        v.expires_in_s = rows[i].expires;
        v.error_text = rows[i].words;
        begin_token(&w, &p);
        assert_int_equal(finish(&w, &p), AZO_ERR_PROVIDER);
        want_text(p.job->error.message, rows[i].expected);
        assert_null(strstr(p.job->error.message, "tok."));
        drop(&p);
        begin_token(&w, &p); /* held for a while */
        assert_int_equal(finish(&w, &p), AZO_ERR_PROVIDER);
        assert_int_equal(p.job->error.retry_after_ms, 2000);
        drop(&p);
        assert_int_equal(v.asks, 1);
        assert_int_equal(v.abandons, 0);
        world_end(&w);
    }
}

static void test_provider_waits(void **state) {
    world w;
    provider v;
    probe p;
    azo_watch watch[4];
    int32_t timeout_ms;
    (void)state;
    provider_world(&w, &v); /* for a time */
    v.pending = 2;
    v.wait_ms = 100;
    int64_t before = w.now;
    begin_token(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_OK);
    drop(&p);
    assert_int_equal(w.now - before, 200);
    assert_int_equal(v.asks, 3);
    assert_ptr_equal(v.state_seen, &v);
    assert_int_equal(v.abandons, 0);
    world_end(&w);

    provider_world(&w, &v); /* for a descriptor, which others are not woken by */
    v.pending = 1;
    v.wait_fd = 77;
    v.wait_events = AZO_POLL_IN;
    begin_token(&w, &p);
    azo_watch none;
    memset(&none, 0, sizeof none);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(azo_step(w.client, &none, 1), AZO_OK);
    }
    assert_int_equal(azo_wait(w.client, NULL, 0, &timeout_ms), 1); /* counted, though there is no room for it */
    assert_int_equal(azo_wait(w.client, watch, 4, &timeout_ms), 1);
    assert_int_equal(watch[0].fd, 77);
    assert_int_equal(watch[0].events, AZO_POLL_IN);
    assert_int_equal(v.asks, 1);
    assert_int_equal(azo_step(w.client, watch, 1), AZO_OK);
    assert_int_equal(azo_step(w.client, &none, 1), AZO_OK);
    assert_int_equal(azo_request_result(p.job), AZO_OK);
    assert_int_equal(azo_wait(w.client, watch, 4, &timeout_ms), 0);
    drop(&p);
    assert_int_equal(v.asks, 2);
    world_end(&w);

    provider_world(&w, &v); /* for nothing */
    v.pending = 1;
    begin_token(&w, &p);
    assert_int_equal(finish(&w, &p), AZO_ERR_PROVIDER);
    want_text(error_of(&p)->message, "without anything to wait for");
    drop(&p);
    assert_int_equal(v.abandons, 1);
    world_end(&w);
}

static void test_provider_abandoned(void **state) {
    world w;
    provider v;
    probe p[2];
    (void)state;
    provider_world(&w, &v); /* by everybody */
    v.pending = 1000;
    v.wait_ms = 100;
    begin_token(&w, &p[0]);
    begin_token(&w, &p[1]);
    run_for(&w, 50);
    drop(&p[0]);
    run_for(&w, 200);
    assert_int_equal(v.abandons, 0);
    drop(&p[1]);
    run_for(&w, 200);
    assert_int_equal(v.abandons, 1);
    assert_ptr_equal(v.state_seen, &v);
    v.pending = 0;
    want_token(&w, "tok.P1");
    assert_null(v.state_seen);
    world_end(&w);
    assert_int_equal(v.abandons, 1);

    provider_world(&w, &v); /* by the end of the client */
    v.pending = 1;
    v.wait_ms = 100000;
    begin_token(&w, &p[0]);
    run_for(&w, 50);
    azo_client_close(w.client);
    w.client = NULL;
    assert_int_equal(v.abandons, 1);
    assert_int_equal(azo_request_result(p[0].job), AZO_ERR_CANCELLED);
    drop(&p[0]);
    world_end(&w);

    provider_world(&w, &v); /* a renewal that nobody waits for is not abandoned */
    want_token(&w, "tok.P1");
    w.now += 3300000;
    v.pending = 2;
    v.wait_ms = 100;
    v.token = "tok.P2";
    want_token(&w, "tok.P1");
    run_for(&w, 1000);
    want_token(&w, "tok.P2");
    assert_int_equal(v.abandons, 0);
    world_end(&w);
}

typedef struct pushed_loop {
    test_notes notes;
    int places;
    bool refuse;
} pushed_loop;

static int loop_watch(intptr_t fd, unsigned events, uint32_t id, void **slot, void *user_data) {
    pushed_loop *l = (pushed_loop *)user_data;
    (void)id;
    if (l->refuse) {
        return -1;
    }
    assert_true((*slot == NULL) == (events != 0)); /* what is registered is unregistered before it is registered again */
    *slot = events != 0 ? &l->places : NULL;
    test_note(&l->notes, "%ld:%u ", (long)fd, events);
    return 0;
}

/* A provider may close its descriptor when it is asked again, so the loop must have let go of it by then. */
static void test_provider_loop(void **state) {
    world w;
    provider v;
    probe p;
    pushed_loop l;
    azo_client_desc d;
    (void)state;
    for (int refuse = 0; refuse < 2; refuse++) {
        memset(&l, 0, sizeof l);
        memset(&d, 0, sizeof d);
        memset(&v, 0, sizeof v);
        l.refuse = refuse == 1;
        v.token = "tok.P1";
        v.pending = 2;
        v.wait_fd = 77;
        v.wait_events = AZO_POLL_IN | AZO_POLL_OUT;
        v.wait_ms = -1;
        d.token_provider = provide;
        d.token_user_data = &v;
        d.loop.user_data = &l;
        d.loop.watch = loop_watch;
        world_init(&w);
        world_start(&w, &d);
        begin_token(&w, &p);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(azo_step(w.client, NULL, 0), AZO_OK);
        }
        assert_int_equal(azo_request_result(p.job), refuse ? AZO_ERR_MEMORY : AZO_OK);
        assert_int_equal(v.abandons, refuse);
        if (!refuse) {
            assert_string_equal(l.notes.text, "77:3 77:0 77:3 77:0 ");
        }
        drop(&p);
        test_notes_free(&l.notes);
        world_end(&w);
    }
}

/* The client may be closed after any step, also between one member of the chain and the next. */
static void test_closed_after_any_step(void **state) {
    bool done = false;
    (void)state;
    for (int steps = 0; !done; steps++) {
        world w;
        probe p;
        imds_world(&w, NULL);
        push(&w, IMDS, REFUSE);
        begin_token(&w, &p);
        for (int i = 0; i < steps; i++) {
            assert_int_equal(azo_step(w.client, NULL, 0), AZO_OK);
        }
        done = azo_request_result(p.job) != AZO_PENDING;
        azo_client_close(w.client);
        w.client = NULL;
        assert_int_equal(azo_request_result(p.job), done ? AZO_ERR_NO_CREDENTIAL : AZO_ERR_CANCELLED);
        drop(&p);
        w.peers[IMDS].used = w.peers[IMDS].pushed; /* a client that was closed early has not asked */
        world_end(&w);
        assert_true(steps < 100);
    }
}

/* ---- every allocation fails ---- */

static void memory_run(test_memory *m, void *self) {
    static const char *const kinds[] = {"secret", "imds", "provider", "401", "claims", "fixed"};
    static const char *const claims = "WWW-Authenticate: Bearer error=\"insufficient_claims\", claims=\"e30=\"\r\n";
    const char *kind = kinds[*(int *)self];
    world w;
    provider v;
    azo_client_desc d;
    azo_error e;
    probe p[3];
    size_t ok = 0;
    world_init(&w);
    m->secret = "tok.";
    memset(&d, 0, sizeof d);
    memset(&v, 0, sizeof v);
    memset(p, 0, sizeof p);
    env_imds();
    if (kind[0] == 'p') {
        v.token = "tok.P1";
        v.wait_fd = -1;
        v.pending = 1;
        d.token_provider = provide;
        d.token_user_data = &v;
    } else if (kind[0] == 'f') {
        set_env("AZURE_OPENAI_AD_TOKEN", "tok.F");
    } else if (kind[0] != 'i') {
        env_secret();
    }
    bool calls = kind[0] == '4' || kind[0] == 'c';
    for (int i = 0; i < 4; i++) {
        push_token(&w, kind[0] == 'i' ? IMDS : ENTRA, i == 0 ? "tok.A" : "tok.B", 3600);
        push_reply(&w, SERVICE, calls && i == 0 ? 401 : 200, kind[0] == 'c' && i == 0 ? claims : "", D1_BODY);
    }
    azo_result r = world_open(&w, m, &d, &e);
    if (r == AZO_OK) {
        for (int i = 0; i < 3; i++) {
            r = begin(&w, &p[i], calls ? &probe_call_ops : &probe_token_ops, SCOPE,
                      i == 2 && kind[0] != 'f' ? "{\"c\":1}" : NULL);
            assert_true(r == AZO_OK || m->failures > 0);
        }
        for (int i = 0; i < 3; i++) {
            if (p[i].job == NULL) {
                continue;
            }
            r = finish(&w, &p[i]);
            ok += r == AZO_OK;
            if (r != AZO_OK) {
                test_sentences(p[i].job->error.message);
            }
            drop(&p[i]);
        }
        azo_client_close(w.client);
    } else {
        if (r != AZO_ERR_MEMORY) {
            fail_msg("allocation %lu: %s", (unsigned long)m->fail_at, e.message);
        }
        test_sentences(e.message);
    }
    assert_true(m->failures > 0 || ok == 3);
    world_reset_peers(&w);
    test_notes_free(&w.log);
    test_memory_close(&w.own);
    clear_env();
}

static void test_memory_failures(void **state) {
    (void)state;
    for (int kind = 0; kind < 6; kind++) {
        test_every_failure(memory_run, &kind);
    }
}

/* One scope more, where the first heap of timers is full: its slot has one, and each request. */
static void memory_scopes(test_memory *m, void *self) {
    enum { FIRST_SCOPE = 13, ALL = FIRST_SCOPE + 1 };
    world w;
    provider v;
    azo_client_desc d;
    azo_error e;
    probe p[ALL];
    size_t fail_at = m->fail_at;
    (void)self;
    memset(&d, 0, sizeof d);
    memset(&v, 0, sizeof v);
    v.token = "tok.P1";
    v.expires_in_s = 3600;
    v.wait_fd = -1;
    d.token_provider = provide;
    d.token_user_data = &v;
    world_init(&w);
    m->fail_at = 0;
    assert_int_equal(world_open(&w, m, &d, &e), AZO_OK);
    for (int i = 0; i < FIRST_SCOPE; i++) {
        begin_token(&w, &p[i]);
    }
    m->fail_at = m->calls + fail_at;
    azo_result r = begin(&w, &p[FIRST_SCOPE], &probe_token_ops, "https://ai.azure.com/.default", NULL);
    m->fail_at = 0;
    assert_int_equal(r, m->failures > 0 ? AZO_ERR_MEMORY : AZO_OK);
    for (int i = 0; i < (r == AZO_OK ? ALL : FIRST_SCOPE); i++) {
        assert_int_equal(finish(&w, &p[i]), AZO_OK);
        drop(&p[i]);
    }
    azo_client_close(w.client);
    w.client = NULL;
    world_end(&w);
}

static void test_memory_of_scopes(void **state) {
    (void)state;
    test_every_failure(memory_scopes, NULL);
}

/* What a server says is no sentence of ours. */
static void test_words_of_a_server(void **state) {
    (void)state;
    for (int imds = 0; imds < 2; imds++) {
        world w;
        if (imds == 0) {
            world_init(&w);
            env_secret();
            world_start(&w, NULL);
        } else {
            imds_world(&w, NULL);
        }
        push_reply(&w, imds ? IMDS : ENTRA, 400, "", "{\"error\":\"invalid_x. Trace ID: 1\"}");
        probe p;
        begin_token(&w, &p);
        assert_int_equal(finish(&w, &p), imds ? AZO_ERR_IMDS : AZO_ERR_TOKEN);
        const azo_error *e = error_of(&p);
        assert_null(strstr(e->message, "Trace"));
        assert_string_equal(e->service_code, "invalid_x. Trace ID: 1");
        drop(&p);
        world_end(&w);
    }
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_desc_identity),
        cmocka_unit_test(test_each_field_is_a_credential),
        cmocka_unit_test(test_app_for_a_managed_identity),
        cmocka_unit_test(test_selector),
        cmocka_unit_test(test_token_credentials),
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_refresh_after),
        cmocka_unit_test(test_challenges),
        cmocka_unit_test(test_entra_request),
        cmocka_unit_test(test_entra_answers),
        cmocka_unit_test(test_entra_token_size),
        cmocka_unit_test(test_entra_refusal),
        cmocka_unit_test(test_aadsts),
        cmocka_unit_test(test_entra_other_refusals),
        cmocka_unit_test(test_entra_retries),
        cmocka_unit_test(test_authority_by_scope),
        cmocka_unit_test(test_imds_request),
        cmocka_unit_test(test_imds_lifetime),
        cmocka_unit_test(test_imds_classes),
        cmocka_unit_test(test_imds_docker),
        cmocka_unit_test(test_imds_retries),
        cmocka_unit_test(test_imds_not_there),
        cmocka_unit_test(test_imds_pinned),
        cmocka_unit_test(test_winner),
        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_foreign_pinned),
        cmocka_unit_test(test_only_client_id),
        cmocka_unit_test(test_secret_missing),
        cmocka_unit_test(test_single_flight),
        cmocka_unit_test(test_two_scopes),
        cmocka_unit_test(test_held),
        cmocka_unit_test(test_renewal),
        cmocka_unit_test(test_parked),
        cmocka_unit_test(test_expiry_counts_from_sending),
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_twenty_401),
        cmocka_unit_test(test_permission_denied),
        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_late_401),
        cmocka_unit_test(test_401_while_a_renewal_runs),
        cmocka_unit_test(test_fixed),
        cmocka_unit_test(test_provider),
        cmocka_unit_test(test_provider_failures),
        cmocka_unit_test(test_provider_waits),
        cmocka_unit_test(test_provider_abandoned),
        cmocka_unit_test(test_provider_loop),
        cmocka_unit_test(test_closed_after_any_step),
        cmocka_unit_test(test_memory_failures),
        cmocka_unit_test(test_memory_of_scopes),
        cmocka_unit_test(test_words_of_a_server),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
