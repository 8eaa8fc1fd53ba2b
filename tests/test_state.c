/* test_state.c - what one run of a program leaves to the next: azo_client_export and azo_client_import, over whole
 * calls to the fake service, and over every way in which a stored state can be wrong. The format's own expectations
 * are computed here from its description, not by the library. Needs the certificates of make_certs.sh. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* setenv */
#endif

#include <stdbool.h>

#include <mbedtls/md.h>
#include <mbedtls/ssl.h>
#include <mbedtls/version.h>

/* What these answer instead of doing anything; 0: they work. */
static int fault_session_save;
static int fault_session_load;
static int fault_hash;
static int fault_hash_after; /* so many calls work first */

static int faulty_session_save(const mbedtls_ssl_session *session, unsigned char *buf, size_t cap, size_t *len) {
    return fault_session_save != 0 ? fault_session_save : mbedtls_ssl_session_save(session, buf, cap, len);
}

static int faulty_session_load(mbedtls_ssl_session *session, const unsigned char *buf, size_t len) {
    return fault_session_load != 0 ? fault_session_load : mbedtls_ssl_session_load(session, buf, len);
}

static bool hash_fails(void) {
    return fault_hash != 0 && fault_hash_after-- <= 0;
}

#if MBEDTLS_VERSION_NUMBER < 0x04000000
enum { NO_HASH = MBEDTLS_ERR_MD_FEATURE_UNAVAILABLE };

static int faulty_md(const mbedtls_md_info_t *info, const unsigned char *bytes, size_t len, unsigned char *out) {
    return hash_fails() ? fault_hash : mbedtls_md(info, bytes, len, out);
}

/* HMAC-SHA256. */
static int seal_with(const unsigned char *key, size_t key_len, const char *bytes, size_t len, unsigned char *out) {
    const mbedtls_md_info_t *sha256 = mbedtls_md_info_from_type(MBEDTLS_MD_SHA256);
    return mbedtls_md_hmac(sha256, key, key_len, (const unsigned char *)bytes, len, out);
}
#else
enum { NO_HASH = PSA_ERROR_NOT_SUPPORTED };

static psa_status_t faulty_hash(psa_algorithm_t algorithm, const uint8_t *bytes, size_t len, uint8_t *out, size_t cap,
                                size_t *out_len) {
    return hash_fails() ? (psa_status_t)fault_hash : psa_hash_compute(algorithm, bytes, len, out, cap, out_len);
}

static int seal_with(const unsigned char *key, size_t key_len, const char *bytes, size_t len, unsigned char *out) {
    psa_key_attributes_t attributes = PSA_KEY_ATTRIBUTES_INIT;
    psa_key_id_t id;
    size_t out_len;
    psa_set_key_type(&attributes, PSA_KEY_TYPE_HMAC);
    psa_set_key_usage_flags(&attributes, PSA_KEY_USAGE_SIGN_MESSAGE);
    psa_set_key_algorithm(&attributes, PSA_ALG_HMAC(PSA_ALG_SHA_256));
    psa_status_t status = psa_import_key(&attributes, key, key_len, &id);
    if (status == PSA_SUCCESS) {
        status = psa_mac_compute(id, PSA_ALG_HMAC(PSA_ALG_SHA_256), (const uint8_t *)bytes, len, out, 32, &out_len);
        (void)psa_destroy_key(id);
    }
    return (int)status;
}
#define psa_hash_compute faulty_hash
#endif

#define mbedtls_ssl_session_save faulty_session_save
#define mbedtls_ssl_session_load faulty_session_load
#define mbedtls_md faulty_md
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"
#undef mbedtls_ssl_session_save
#undef mbedtls_ssl_session_load
#undef mbedtls_md
#undef psa_hash_compute

#include "calls.h"

#include <stdlib.h>

#define MARK "azo-state 1\n"

enum { MARK_LEN = sizeof MARK - 1, SEAL_LEN = 32, RECORD_HEAD = 4 * 8, DAY_S = 24 * 3600, NOON = 1700000000 };

#if MBEDTLS_VERSION_NUMBER >= 0x03000000 && defined(MBEDTLS_SSL_PROTO_TLS1_3)
#define HAS_TLS13 1
#else
#define HAS_TLS13 0
#endif

/* ---- a state in the test's own memory ---- */

typedef struct blob {
    char *bytes;
    size_t len;
} blob;

static blob blob_copy(azo_str text) {
    blob b = {(char *)malloc(text.len + 1), text.len};
    assert_non_null(b.bytes);
    memcpy(b.bytes, text.ptr, text.len);
    return b;
}

static void blob_free(blob *b) {
    free(b->bytes);
    memset(b, 0, sizeof *b);
}

static bool blob_has(const blob *b, const char *text) {
    return test_holds(b->bytes, b->len, text);
}

static blob export_state(world *w) {
    azo_state state;
    expect(w, azo_client_export(w->client, &state, &w->error), AZO_OK);
    assert_int_equal(state.bytes.ptr[state.bytes.len], '\0');
    blob b = blob_copy(state.bytes);
    azo_state_free(&state);
    assert_null(state.owned);
    assert_null(state.bytes.ptr);
    azo_state_free(&state);
    return b;
}

static azo_result import_state(world *w, const blob *b) {
    azo_error e;
    return told(w, azo_client_import(w->client, b->bytes, b->len, &e), &e);
}

static size_t count_sessions(const azo_client *c) {
    size_t count = 0;
    for (size_t i = 0; i < AZOI_MAX_KNOWN; i++) {
        count += c->net.known[i].has_session;
    }
    return count;
}

static size_t count_tokens(const azo_client *c) {
    size_t count = 0;
    for (const azoi_slot *slot = c->slots; slot != NULL; slot = slot->next) {
        count += slot->usable;
    }
    return count;
}

static void expect_nothing(const world *w) {
    assert_int_equal(count_tokens(w->client), 0);
    assert_int_equal(count_sessions(w->client), 0);
    assert_int_equal(w->client->identity.winner, -1);
}

/* ---- the second run ---- */

static const fake_options tls_kinds[] = {{.tls_max = 12}, {.tls_min = 13}, {.tls_max = 12, .no_tickets = true}};

static bool kind_is_there(const fake_options *kind) {
    return kind->tls_min != 13 || HAS_TLS13;
}

/* No token request, and a handshake that is a short one. */
static void test_second_run(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(tls_kinds); i++) {
        world w;
        if (!kind_is_there(&tls_kinds[i])) {
            continue;
        }
        world_open(&w, &tls_kinds[i]);
        world_count_memory(&w, "fake.entra.");
        world_start(&w);
        expect(&w, ask(&w, "Hi"), AZO_OK);
        blob b = export_state(&w);
        assert_true(blob_has(&b, "fake.entra.") && !blob_has(&b, FAKE_CLIENT_SECRET));
        for (int run = 1; run <= 3; run++) {
            world_restart(&w);
            expect(&w, import_state(&w, &b), AZO_OK);
            expect(&w, ask(&w, "Hi"), AZO_OK);
            assert_int_equal(fake_count(w.service, FAKE_ENTRA), 1);
            assert_int_equal(fake_connections(w.service, FAKE_ENTRA), 1);
            assert_int_equal(fake_connections(w.service, FAKE_SERVICE), run + 1);
            assert_int_equal(fake_resumptions(w.service), tls_kinds[i].no_tickets ? 0 : run);
            blob_free(&b);
            b = export_state(&w);
        }
        blob_free(&b);
        world_close(&w);
    }
}

static void use_secret(world *w) {
    (void)w;
}

static void use_static(world *w) {
    memset(&w->desc.credential, 0, sizeof w->desc.credential);
    assert_int_equal(setenv("AZURE_OPENAI_AD_TOKEN", "fake.imds.1", 1), 0);
}

static void use_chain(world *w) {
    w->desc.credential.kind = AZO_CRED_CHAIN;
}

/* Tokens are of the chain only; sessions are everybody's. */
static void test_identities(void **state) {
    static const struct {
        void (*use)(world *w);
        size_t tokens;
        fake_role role;
    } cases[] = {{use_secret, 1, FAKE_ENTRA}, {use_chain, 1, FAKE_ENTRA}, {world_use_imds, 1, FAKE_IMDS},
                 {world_use_key, 0, FAKE_SERVICE}, {use_static, 0, FAKE_SERVICE}};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        static const fake_options twelve = {.tls_max = 12};
        world w;
        world_open(&w, &twelve);
        cases[i].use(&w);
        world_start(&w);
        (void)ask(&w, "Hi"); /* the fixed token is refused, which does not matter to TLS */
        azo_result first = w.error.code;
        blob b = export_state(&w);
        assert_int_equal(blob_has(&b, "fake."), cases[i].tokens);
        world_restart(&w);
        expect(&w, import_state(&w, &b), AZO_OK);
        assert_int_equal(count_tokens(w.client), cases[i].tokens);
        assert_in_range(count_sessions(w.client), 1, 2);
        size_t requests = fake_count(w.service, cases[i].role);
        assert_int_equal(ask(&w, "Hi"), first);
        assert_int_equal(fake_count(w.service, cases[i].role), requests + (cases[i].tokens == 0 ? 1 : 0));
        assert_int_equal(fake_resumptions(w.service), 1);
        blob_free(&b);
        world_close(&w);
    }
}

static azo_result give_token(const azo_token_ask *ask, azo_token_answer *answer, void *user_data) {
    (void)ask;
    (*(int *)user_data)++;
    answer->token_len = strlen("canary-of-a-provider");
    memcpy(answer->token, "canary-of-a-provider", answer->token_len);
    answer->expires_in_s = 3600;
    return AZO_OK;
}

static void test_provider(void **state) {
    (void)state;
    world w;
    int calls = 0;
    azo_token_desc desc = {.scope = "https://vault.azure.net/.default"};
    azo_token_reply reply;
    world_open(&w, NULL);
    memset(&w.desc.credential, 0, sizeof w.desc.credential);
    w.desc.token_provider = give_token;
    w.desc.token_user_data = &calls;
    world_start(&w);
    expect(&w, token_as(&w, &desc, &reply), AZO_OK);
    azo_token_reply_free(&reply);
    blob b = export_state(&w);
    assert_int_equal(b.len, MARK_LEN + 8 + SEAL_LEN);
    world_restart(&w);
    expect(&w, import_state(&w, &b), AZO_OK);
    expect(&w, token_as(&w, &desc, &reply), AZO_OK);
    azo_token_reply_free(&reply);
    assert_int_equal(calls, 2);
    blob_free(&b);
    world_close(&w);
}

/* Polls until the role has had so many requests. */
static void poll_until_asked(world *w, fake_role role, size_t count) {
    int64_t end = now_ms() + WAIT_MS;
    while (fake_count(w->service, role) < count) {
        assert_true(now_ms() < end);
        poll_for(w, 1);
    }
}

/* A token keeps its scope, its age and its source. */
static void test_what_a_token_keeps(void **state) {
    static const char *const scopes[] = {"https://vault.azure.net/.default", "https://management.azure.com/.default"};
    (void)state;
    world w;
    azo_token_desc desc = {0};
    azo_token_reply reply;
    azo_str tokens[2];
    world_open(&w, NULL);
    world_use_clock(&w);
    fake_set(w.service, FAKE_ENTRA, FAKE_TOKEN_LIFETIME_S, 3000);
    fake_set(w.service, FAKE_ENTRA, FAKE_TOKEN_REFRESH_S, 2000);
    world_start(&w);
    azo_token_reply first[2];
    for (int i = 0; i < 2; i++) {
        desc.scope = scopes[i];
        expect(&w, token_as(&w, &desc, &first[i]), AZO_OK);
        tokens[i] = first[i].token;
    }
    clock_ahead_ms = 1000 * 1000;
    blob b = export_state(&w);
    world_restart(&w);
    clock_ahead_ms += 500 * 1000;
    expect(&w, import_state(&w, &b), AZO_OK);
    for (int i = 0; i < 2; i++) {
        desc.scope = scopes[i];
        expect(&w, token_as(&w, &desc, &reply), AZO_OK);
        expect_str(reply.token, tokens[i].ptr);
        assert_string_equal(reply.source, "environment");
        assert_in_range(reply.expires_in_s, 1490, 1501);
        azo_token_reply_free(&reply);
    }
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 2);
    clock_ahead_ms += 510 * 1000; /* due to be renewed: the old one serves meanwhile */
    expect(&w, token_as(&w, &desc, &reply), AZO_OK);
    expect_str(reply.token, tokens[1].ptr);
    azo_token_reply_free(&reply);
    poll_until_asked(&w, FAKE_ENTRA, 3);
    for (int i = 0; i < 2; i++) {
        azo_token_reply_free(&first[i]);
    }
    blob_free(&b);
    world_close(&w);
}

/* ---- whose state it is ---- */

static void another_secret(world *w) {
    w->desc.credential.client_secret = "another canary";
}

static void another_client(world *w) {
    w->desc.credential.client_id = "99999999-0000-0000-0000-000000000000";
}

static void another_tenant(world *w) {
    w->desc.credential.tenant_id = "99999999-0000-0000-0000-000000000000";
}

static void another_authority(world *w) {
    w->desc.credential.authority_host = "https://login.microsoftonline.us";
}

static void another_kind(world *w) {
    w->desc.credential.kind = w->desc.credential.kind == AZO_CRED_SECRET ? AZO_CRED_CHAIN : AZO_CRED_SECRET;
}

static void another_file(world *w) {
    (void)cert_path(w->ca_file, sizeof w->ca_file, "bundle.pem");
}

static void another_trust(world *w) {
    w->desc.ca_file = NULL;
    w->desc.ca_pem = azo_s("-----BEGIN CERTIFICATE-----\n");
}

static void another_machine(world *w) {
    assert_int_equal(setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:9", 1), 0);
    (void)w;
}

static void by_client_id(world *w) {
    world_use_imds(w);
    w->desc.credential.managed_client_id = "22222222-0000-0000-0000-000000000000";
}

static void by_object_id(world *w) {
    w->desc.credential.managed_client_id = NULL;
    w->desc.credential.managed_object_id = "22222222-0000-0000-0000-000000000000";
}

static void another_key(world *w) {
    w->desc.api_key = "another canary that is longer than the block of the hash, which is what keys of today are";
}

static void test_other_identities(void **state) {
    static const struct {
        void (*first)(world *w);
        void (*second)(world *w); /* on top of the first */
    } cases[] = {{use_secret, another_secret}, {use_secret, another_client},    {use_secret, another_tenant},
                 {use_secret, another_kind},   {use_secret, another_authority}, {use_secret, another_file},
                 {use_secret, another_trust},  {use_secret, world_use_imds},    {use_secret, world_use_key},
                 {use_chain, another_kind},    {use_chain, another_machine},    {world_use_imds, another_machine},
                 {world_use_imds, by_client_id}, {by_client_id, by_object_id},  {world_use_key, another_key}};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        world w;
        world_open(&w, NULL);
        cases[i].first(&w);
        world_start(&w);
        blob b = export_state(&w);
        azo_client_close(w.client);
        cases[i].second(&w);
        world_start(&w);
        expect(&w, import_state(&w, &b), AZO_ERR_ARGUMENT);
        expect_part(w.error.message, "another identity");
        assert_int_equal(w.error.who, AZO_WHO_PROGRAM);
        expect_nothing(&w);
        blob_free(&b);
        world_close(&w);
    }
}

/* A client that goes on after a refusal is as good as any. */
static void test_refusal_is_harmless(void **state) {
    (void)state;
    world w;
    blob b = {0};
    world_begin(&w, NULL);
    b = blob_copy(azo_s("Lorem ipsum"));
    expect(&w, import_state(&w, &b), AZO_ERR_ARGUMENT);
    expect_part(w.error.message, "that a client has exported");
    expect(&w, ask(&w, "Hi"), AZO_OK);
    blob_free(&b);
    world_close(&w);
}

static void test_arguments(void **state) {
    (void)state;
    world w;
    azo_state out;
    azo_error e;
    world_begin(&w, NULL);
    memset(&out, 0xff, sizeof out);
    assert_int_equal(azo_client_export(NULL, &out, &e), AZO_ERR_ARGUMENT);
    expect_part(e.message, "(argument 1)");
    assert_null(out.owned);
    assert_int_equal(azo_client_export(w.client, NULL, &e), AZO_ERR_ARGUMENT);
    expect_part(e.message, "(argument 2)");
    assert_int_equal(azo_client_import(NULL, "x", 1, &e), AZO_ERR_ARGUMENT);
    expect_part(e.message, "(argument 1)");
    assert_int_equal(azo_client_import(w.client, NULL, 0, &e), AZO_ERR_ARGUMENT);
    expect_part(e.message, "(argument 2)");
    assert_int_equal(azo_client_import(w.client, "", 0, NULL), AZO_ERR_ARGUMENT);
    azo_state_free(NULL);
    world_close(&w);
}

/* ---- every wrong byte ---- */

/* A client with a token and a session. */
static void begin_with_state(world *w, void (*use)(world *w), blob *b) {
    static const fake_options twelve = {.tls_max = 12};
    world_open(w, &twelve);
    use(w);
    w->desc.logger.line = NULL; /* thousands of lines */
    world_start(w);
    expect(w, ask(w, "Hi"), AZO_OK);
    *b = export_state(w);
    world_restart(w);
}

static void test_every_wrong_byte(void **state) {
    static void (*const uses[])(world *w) = {use_secret, world_use_imds};
    (void)state;
    for (size_t i = 0; i < COUNT(uses); i++) {
        world w;
        blob b;
        test_guard g;
        azo_error e;
        begin_with_state(&w, uses[i], &b);
        test_guard_open(&g, b.len + 1);
        for (size_t len = 0; len < b.len; len++) {
            azo_str cut = test_guard_put(&g, azoi_view(b.bytes, len));
            assert_int_equal(azo_client_import(w.client, cut.ptr, cut.len, &e), AZO_ERR_ARGUMENT);
            test_sentences(e.message);
        }
        for (size_t bit = 0; bit < 8 * b.len; bit++) {
            b.bytes[bit / 8] ^= (char)(1 << bit % 8);
            azo_result r = azo_client_import(w.client, b.bytes, b.len, &e);
            b.bytes[bit / 8] ^= (char)(1 << bit % 8);
            bool version = bit / 8 == MARK_LEN - 2 || bit / 8 == MARK_LEN - 1;
            assert_int_equal(r, version ? AZO_ERR_UNSUPPORTED : AZO_ERR_ARGUMENT);
        }
        b.bytes[b.len] = 'x';
        assert_int_equal(azo_client_import(w.client, b.bytes, b.len + 1, &e), AZO_ERR_ARGUMENT);
        expect_nothing(&w);
        azo_str whole = test_guard_put(&g, azoi_view(b.bytes, b.len));
        assert_int_equal(azo_client_import(w.client, whole.ptr, whole.len, &e), AZO_OK);
        assert_int_equal(count_tokens(w.client), 1);
        assert_true(count_sessions(w.client) > 0);
        test_guard_close(&g);
        blob_free(&b);
        world_close(&w);
    }
}

/* ---- the format, from its description ---- */

static void put_number(test_notes *n, uint64_t value) {
    for (int i = 7; i >= 0; i--) {
        char byte = (char)(unsigned char)(value >> 8 * i & 0xff);
        test_note_bytes(n, &byte, 1);
    }
}

static void put_text(test_notes *n, const char *text, size_t len) {
    put_number(n, len);
    test_note_bytes(n, text, len);
}

static void put_record(test_notes *n, char kind, uint64_t detail, uint64_t time, uint64_t number, const char *name,
                       azo_str secret) {
    put_number(n, (uint64_t)kind);
    put_number(n, detail);
    put_number(n, time);
    put_number(n, number);
    put_text(n, name, strlen(name));
    put_text(n, secret.ptr, secret.len);
}

static void begin_notes(test_notes *n, uint64_t made) {
    memset(n, 0, sizeof *n);
    test_note_bytes(n, MARK, MARK_LEN);
    put_number(n, made);
}

/* The seal of a managed identity without a name that trusts w->ca_file: as whoever may write the file can make it. */
static blob seal_imds(const world *w, test_notes *n) {
    static const unsigned char no_secret[SEAL_LEN] = { /* SHA-256 of nothing */
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
        0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55};
    unsigned char seal[SEAL_LEN];
    test_notes who = {0};
    const char *const texts[] = {"", "", "", w->imds, "", w->ca_file, "", ""};
    put_number(&who, AZOI_IDENTITY_CHAIN);
    put_number(&who, 2);
    for (size_t i = 0; i < COUNT(texts); i++) {
        put_text(&who, texts[i], strlen(texts[i]));
    }
    assert_int_equal(azoi_net_digest(&w->client->net, azoi_view(n->text, n->len), seal, NULL), AZO_OK);
    test_note_bytes(&who, (const char *)seal, sizeof seal);
    assert_int_equal(seal_with(no_secret, sizeof no_secret, who.text, who.len, seal), 0);
    test_note_bytes(n, (const char *)seal, sizeof seal);
    blob b = blob_copy(azoi_view(n->text, n->len));
    test_notes_free(&who);
    test_notes_free(n);
    return b;
}

/* The clock stands at NOON unless the test moves it. */
static int64_t stopped_unix;

static int64_t clock_stopped(void *user_data) {
    (void)user_data;
    return stopped_unix;
}

/* A managed identity that has not done anything. */
static void begin_imds(world *w) {
    world_open(w, NULL);
    world_use_imds(w);
    w->desc.clock.monotonic_ms = clock_monotonic;
    w->desc.clock.unix_seconds = clock_stopped;
    stopped_unix = NOON;
    world_start(w);
    assert_int_equal(azoi_tls_setup(&w->client->net, NULL), AZO_OK);
}

static azo_result import_records(world *w, test_notes *n) {
    blob b = seal_imds(w, n);
    azo_result r = import_state(w, &b);
    blob_free(&b);
    return r;
}

static void test_format(void **state) {
    (void)state;
    world w;
    test_notes n;
    azo_error e;
    azo_state out;
    begin_imds(&w);
    begin_notes(&n, NOON - 5);
    put_record(&n, 'T', 1, NOON + 1000, NOON + 100, "scope", azo_s("canary"));
    assert_int_equal(import_records(&w, &n), AZO_OK);
    assert_int_equal(count_tokens(w.client), 1);
    expect_str(azoi_buf_view(&w.client->slots->token), "canary");
    expect_str(azoi_buf_view(&w.client->slots->scope), "scope");
    assert_int_equal(azoi_slot_expires_in(w.client->slots), 1000);
    assert_int_equal(w.client->identity.winner, AZOI_MEMBER_IMDS);

    stopped_unix = NOON + 7;
    clock_ahead_ms += 100; /* a fraction of a second is lost rather than gained */
    begin_notes(&n, NOON + 7);
    put_record(&n, 'T', 1, NOON + 1000 + 6, NOON + 100 + 6, "scope", azo_s("canary"));
    blob want = seal_imds(&w, &n);
    assert_int_equal(azo_client_export(w.client, &out, &e), AZO_OK);
    assert_int_equal(out.bytes.len, want.len);
    assert_memory_equal(out.bytes.ptr, want.bytes, want.len);
    azo_client_close(w.client); /* the state outlives it */
    w.client = NULL;
    assert_memory_equal(out.bytes.ptr, want.bytes, want.len);
    azo_state_free(&out);
    blob_free(&want);
    world_close(&w);
}

/* Sealed rightly, but not what a client would have exported. */
static void test_hostile_records(void **state) {
    (void)state;
    static char long_name[400];
    static const char *const bad_tokens[] = {"", "two words", "line\r\nHost: x", "\x7f", "\xc3\xbc"};
    world w;
    test_notes n;
    memset(long_name, 'h', sizeof long_name - 1);
    begin_imds(&w);
    for (size_t i = 0; i < COUNT(bad_tokens); i++) {
        begin_notes(&n, NOON);
        put_record(&n, 'T', 1, NOON + 1000, NOON + 500, "scope", azo_s(bad_tokens[i]));
        put_record(&n, 'T', 1, NOON + 1000, NOON + 500, bad_tokens[i], azo_s("token"));
        assert_int_equal(import_records(&w, &n), AZO_OK);
    }
    begin_notes(&n, NOON);
    put_record(&n, 'T', 0, NOON + 1000, NOON, "scope", azo_s("token")); /* of a member that is not in the chain */
    put_record(&n, 'T', 2, NOON + 1000, NOON, "scope", azo_s("token"));
    put_record(&n, 'T', INT64_MAX, NOON + 1000, NOON, "scope", azo_s("token"));
    put_record(&n, 'T', 1, INT64_MAX, INT64_MAX, "scope", azo_s("token"));
    put_record(&n, 'T', 1, 0, 0, "scope", azo_s("token"));
    put_record(&n, 'X', 1, NOON + 1000, NOON, "scope", azo_s("token"));
    put_record(&n, 'S', 0, NOON, 443, "", azo_s("session"));
    put_record(&n, 'S', 0, NOON, 443, long_name, azo_s("session"));
    put_record(&n, 'S', 0, NOON, 0, "host", azo_s("session"));
    put_record(&n, 'S', 0, NOON, 65536, "host", azo_s("session"));
    put_record(&n, 'S', 0, NOON, 443, "host", azo_s("session"));
    put_record(&n, 'S', 0, NOON, 443, "host", azo_s(""));
    put_record(&n, 'S', 0, NOON + 1, 443, "host", azo_s("session")); /* verified tomorrow */
    put_record(&n, 'S', 0, INT64_MAX, 443, "host", azo_s("session"));
    assert_int_equal(import_records(&w, &n), AZO_OK);
    expect_nothing(&w);
    world_close(&w);
}

/* Sealed by the client itself, whoever it is. */
static void import_own(world *w, test_notes *n) {
    unsigned char seal[SEAL_LEN];
    azo_error e;
    assert_int_equal(azoi_identity_seal(w->client, azoi_view(n->text, n->len), seal, &e), AZO_OK);
    test_note_bytes(n, (const char *)seal, sizeof seal);
    assert_int_equal(azo_client_import(w->client, n->text, n->len, &e), AZO_OK);
    test_notes_free(n);
}

/* A token is taken for what the chain would ask, and for nothing else: not with a key, not of a member that lacks
 * something, not of another member than the one whose tokens are there. */
static void test_tokens_of_other_members(void **state) {
    (void)state;
    world w;
    test_notes n;
    world_open(&w, NULL);
    w.desc.clock.monotonic_ms = clock_monotonic;
    w.desc.clock.unix_seconds = clock_stopped;
    stopped_unix = NOON;
    world_use_key(&w);
    world_start(&w);
    assert_int_equal(azoi_tls_setup(&w.client->net, NULL), AZO_OK);
    begin_notes(&n, NOON);
    put_record(&n, 'T', AZOI_MEMBER_IMDS, NOON + 1000, NOON + 500, "scope", azo_s("token"));
    import_own(&w, &n);
    expect_nothing(&w);
    azo_client_close(w.client);
    w.client = NULL;

    w.desc.api_key = NULL;
    use_chain(&w);
    world_start(&w);
    assert_int_equal(azoi_tls_setup(&w.client->net, NULL), AZO_OK);
    (void)snprintf(w.client->identity.lacks[AZOI_MEMBER_SECRET], sizeof w.client->identity.lacks[0], "no secret");
    begin_notes(&n, NOON);
    put_record(&n, 'T', AZOI_MEMBER_SECRET, NOON + 1000, NOON + 500, "scope", azo_s("token"));
    import_own(&w, &n);
    expect_nothing(&w);
    w.client->identity.lacks[AZOI_MEMBER_SECRET][0] = '\0';
    w.client->identity.lacks[AZOI_MEMBER_IMDS][0] = '\0';
    begin_notes(&n, NOON);
    put_record(&n, 'T', AZOI_MEMBER_IMDS, NOON + 1000, NOON + 500, "one", azo_s("token"));
    put_record(&n, 'T', AZOI_MEMBER_SECRET, NOON + 1000, NOON + 500, "two", azo_s("token"));
    put_record(&n, 'T', AZOI_MEMBER_IMDS, NOON + 1000, NOON + 500, "three", azo_s("token"));
    import_own(&w, &n);
    assert_int_equal(count_tokens(w.client), 2);
    assert_int_equal(w.client->identity.winner, AZOI_MEMBER_IMDS);
    world_close(&w);
}

/* Lengths and numbers that are not possible; nothing before them is taken either. */
static void test_hostile_lengths(void **state) {
    static const uint64_t lengths[] = {6, 1000, INT32_MAX, UINT32_MAX, (uint64_t)1 << 32, INT64_MAX, UINT64_MAX,
                                       UINT64_MAX - 7};
    (void)state;
    world w;
    test_notes n;
    begin_imds(&w);
    for (size_t i = 0; i < COUNT(lengths); i++) {
        for (int field = 0; field < 6; field++) {
            if (field < 4 && lengths[i] <= INT64_MAX) {
                continue; /* numbers, which these are */
            }
            begin_notes(&n, NOON);
            put_record(&n, 'T', 1, NOON + 1000, NOON, "scope", azo_s("token"));
            for (int k = 0; k < 4; k++) {
                put_number(&n, k == field ? lengths[i] : k == 0 ? 'T' : 1);
            }
            put_number(&n, field == 4 ? lengths[i] : 0);
            put_number(&n, field == 5 ? lengths[i] : 0);
            assert_int_equal(import_records(&w, &n), AZO_ERR_ARGUMENT);
            expect_nothing(&w);
        }
    }
    for (size_t cut = 1; cut < RECORD_HEAD + 8 + 5 + 8 + 5; cut++) {
        begin_notes(&n, NOON);
        put_record(&n, 'T', 1, NOON + 1000, NOON, "scope", azo_s("token"));
        n.len -= cut;
        assert_int_equal(import_records(&w, &n), AZO_ERR_ARGUMENT);
        expect_nothing(&w);
    }
    begin_notes(&n, UINT64_MAX);
    assert_int_equal(import_records(&w, &n), AZO_ERR_ARGUMENT);
    begin_notes(&n, NOON);
    assert_int_equal(import_records(&w, &n), AZO_OK);
    world_close(&w);
}

/* ---- time ---- */

/* Without a clock, or with one that went back, nothing is taken. */
static void test_time(void **state) {
    static const struct {
        int64_t made;
        int64_t now;
        int64_t expires;
        bool taken;
    } cases[] = {{NOON, NOON, NOON + 3600, true},       {NOON, NOON + 1, NOON + 3600, true},
                 {NOON, NOON - 1, NOON + 3600, false},  {NOON, 0, NOON + 3600, false},
                 {0, NOON, NOON + 3600, false},         {NOON, -1, NOON + 3600, false},
                 {NOON, NOON + 3569, NOON + 3600, true}, /* 30 s are kept for the call itself */
                 {NOON, NOON + 3570, NOON + 3600, false}, {NOON, NOON + 3600, NOON + 3600, false},
                 {NOON, NOON + 9999, NOON + 3600, false}};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        world w;
        test_notes n;
        begin_imds(&w);
        stopped_unix = cases[i].now;
        begin_notes(&n, (uint64_t)cases[i].made);
        put_record(&n, 'T', 1, (uint64_t)cases[i].expires, NOON + 1800, "scope", azo_s("token"));
        assert_int_equal(import_records(&w, &n), AZO_OK);
        assert_int_equal(count_tokens(w.client), cases[i].taken);
        if (cases[i].taken) {
            assert_int_equal(azoi_slot_expires_in(w.client->slots), cases[i].expires - cases[i].now);
        }
        world_close(&w);
    }
}

static void test_export_without_a_clock(void **state) {
    static const int64_t unknown[] = {0, -1, INT64_MIN, INT64_MAX};
    (void)state;
    for (size_t i = 0; i < COUNT(unknown); i++) {
        world w;
        world_open(&w, NULL);
        w.desc.clock.monotonic_ms = clock_monotonic;
        w.desc.clock.unix_seconds = clock_stopped;
        stopped_unix = unknown[i];
        world_start(&w);
        expect(&w, ask(&w, "Hi"), AZO_OK);
        blob b = export_state(&w);
        assert_int_equal(b.len, MARK_LEN + 8 + SEAL_LEN);
        expect(&w, import_state(&w, &b), AZO_OK);
        blob_free(&b);
        world_close(&w);
    }
}

/* For a day after the certificate was seen, however often the session is handed on. */
static void test_age_of_a_session(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(tls_kinds); i++) {
        world w;
        if (!kind_is_there(&tls_kinds[i]) || tls_kinds[i].no_tickets) {
            continue;
        }
        world_open(&w, &tls_kinds[i]);
        world_use_key(&w);
        w.desc.clock.monotonic_ms = clock_monotonic;
        w.desc.clock.unix_seconds = clock_stopped;
        world_start(&w);
        for (int hour = 0; hour <= 25; hour += 5) {
            size_t resumed = fake_resumptions(w.service);
            stopped_unix = NOON + hour * 3600;
            if (hour > 0) {
                blob b = export_state(&w);
                world_restart(&w);
                expect(&w, import_state(&w, &b), AZO_OK);
                assert_int_equal(count_sessions(w.client), hour < 25 ? 1 : 0);
                blob_free(&b);
            }
            expect(&w, ask(&w, "Hi"), AZO_OK);
            assert_int_equal(fake_resumptions(w.service) - resumed, hour > 0 && hour < 25 ? 1 : 0);
        }
        world_close(&w);
    }
    assert_int_equal(AZOI_SESSION_S, DAY_S);
}

/* ---- a client at work ---- */

static void test_refused_token(void **state) {
    (void)state;
    world w;
    world_begin(&w, NULL);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    fake_revoke_tokens(w.service);
    fake_push(w.service, FAKE_ENTRA, &(fake_reply){.status = 401, .body = "{\"error\":\"invalid_client\"}"});
    expect(&w, ask(&w, "Hi"), AZO_ERR_TOKEN);
    blob b = export_state(&w);
    assert_false(blob_has(&b, "fake.entra."));
    blob_free(&b);
    world_close(&w);
}

/* What this run has by itself is newer. */
static void test_import_into_a_client_at_work(void **state) {
    (void)state;
    world w;
    azo_token_desc desc = {0};
    azo_token_reply mine;
    azo_token_reply after;
    world_begin(&w, NULL);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    blob b = export_state(&w);
    world_restart(&w);
    azo_message message = azo_user("Hi");
    azo_chat_desc chat = chat_desc(&message);
    azo_request *request = chat_begin(&w, &chat);
    assert_int_equal(azo_step(w.client, NULL, 0), AZO_OK);
    assert_true(w.client->slots->fetching); /* its token is on its way */
    expect(&w, import_state(&w, &b), AZO_OK);
    assert_int_equal(count_tokens(w.client), 0);
    finish(&w, request);
    azo_chat_reply reply;
    expect(&w, chat_end(&w, request, &reply), AZO_OK);
    azo_chat_reply_free(&reply);
    expect(&w, token_as(&w, &desc, &mine), AZO_OK);
    expect(&w, import_state(&w, &b), AZO_OK);
    expect(&w, token_as(&w, &desc, &after), AZO_OK);
    expect_str(after.token, mine.token.ptr);
    assert_false(test_holds(b.bytes, b.len, mine.token.ptr));
    azo_token_reply_free(&mine);
    azo_token_reply_free(&after);
    blob_free(&b);
    world_close(&w);
}

/* After a failure that is answered from memory for some seconds a token from elsewhere is welcome. */
static void test_import_after_a_failure(void **state) {
    (void)state;
    world w;
    world_begin(&w, NULL);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    blob b = export_state(&w);
    world_restart(&w);
    fake_push(w.service, FAKE_ENTRA, &(fake_reply){.status = 401, .body = "{\"error\":\"invalid_client\"}"});
    expect(&w, ask(&w, "Hi"), AZO_ERR_TOKEN);
    expect(&w, ask(&w, "Hi"), AZO_ERR_TOKEN);
    expect(&w, import_state(&w, &b), AZO_OK);
    expect(&w, ask(&w, "Hi"), AZO_OK);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 2);
    blob_free(&b);
    world_close(&w);
}

static void test_export_while_requests_are_live(void **state) {
    (void)state;
    world w;
    azo_message message = azo_user("Hi");
    azo_chat_desc desc = chat_desc(&message);
    azo_chat_reply reply;
    world_begin(&w, "fake.entra.");
    expect(&w, ask(&w, "Hi"), AZO_OK);
    fake_set(w.service, FAKE_SERVICE, FAKE_SILENCE, 1);
    azo_request *request = chat_begin(&w, &desc);
    assert_int_equal(azo_step(w.client, NULL, 0), AZO_OK);
    assert_int_equal(azo_request_result(request), AZO_PENDING);
    blob b = export_state(&w);
    assert_true(blob_has(&b, "fake.entra."));
    assert_int_equal(azo_request_result(request), AZO_PENDING);
    fake_set(w.service, FAKE_SERVICE, FAKE_SILENCE, 0);
    azo_request_cancel(request);
    finish(&w, request);
    expect(&w, chat_end(&w, request, &reply), AZO_ERR_CANCELLED);
    azo_chat_reply_free(&reply);
    blob_free(&b);
    world_close(&w);
}

typedef struct inside {
    world *w;
    const blob *b;
    int seen;
    int lines;
} inside;

static int carry_inside(const azo_event *event, void *user_data) {
    inside *self = (inside *)user_data;
    azo_state out;
    azo_error e;
    (void)event;
    if (self->seen++ == 0) {
        assert_int_equal(azo_client_export(self->w->client, &out, &e), AZO_ERR_STATE);
        test_sentences(e.message);
        assert_int_equal(azo_client_import(self->w->client, self->b->bytes, self->b->len, &e), AZO_ERR_STATE);
    }
    return AZO_GO_ON;
}

/* Hooks may not call the library at all; should one do so, that does no harm. */
static void carry_in_a_line(int level, const char *text, void *user_data) {
    inside *self = (inside *)user_data;
    azo_state out;
    (void)level;
    (void)text;
    if (self->w->client != NULL && self->w->client->in_step) {
        assert_int_equal(azo_client_export(self->w->client, &out, NULL), AZO_ERR_STATE);
        self->lines++;
    }
}

static void test_inside_a_callback(void **state) {
    (void)state;
    world w;
    azo_message message = azo_user("Hi");
    azo_chat_desc desc = chat_desc(&message);
    azo_chat_reply reply;
    blob b = {0};
    inside self = {&w, &b, 0, 0};
    world_open(&w, NULL);
    w.desc.logger.line = carry_in_a_line;
    w.desc.logger.user_data = &self;
    world_start(&w);
    b = export_state(&w);
    desc.on_event = carry_inside;
    desc.user_data = &self;
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
    assert_true(self.seen > 0 && self.lines > 0);
    azo_chat_reply_free(&reply);
    blob_free(&b);
    world_close(&w);
}

static azo_result carry_when_abandoned(const azo_token_ask *ask, azo_token_answer *answer, void *user_data) {
    inside *self = (inside *)user_data;
    azo_state out;
    if (ask->abandon) {
        assert_int_equal(azo_client_export(self->w->client, &out, NULL), AZO_ERR_STATE);
        self->seen++;
        return AZO_OK;
    }
    answer->wait_ms = WAIT_MS;
    return AZO_PENDING;
}

/* The one hook that is called outside a step. */
static void test_inside_the_last_call_of_a_provider(void **state) {
    (void)state;
    world w;
    azo_request *request;
    inside self = {&w, NULL, 0, 0};
    world_open(&w, NULL);
    memset(&w.desc.credential, 0, sizeof w.desc.credential);
    w.desc.token_provider = carry_when_abandoned;
    w.desc.token_user_data = &self;
    world_start(&w);
    expect(&w, azo_token_begin(w.client, NULL, &request, &w.error), AZO_OK);
    assert_int_equal(azo_step(w.client, NULL, 0), AZO_OK);
    azo_request_free(request);
    world_close(&w);
    assert_int_equal(self.seen, 1);
}

/* RFC 8446 C.4: a ticket goes into the state or stays in the client, which then has a full handshake next time. */
static void test_ticket_leaves_the_client(void **state) {
    (void)state;
    for (size_t i = 0; i < 1 + HAS_TLS13; i++) {
        world w;
        world_open(&w, &tls_kinds[i]);
        world_use_key(&w);
        world_start(&w);
        expect(&w, ask(&w, "Hi"), AZO_OK);
        assert_int_equal(count_sessions(w.client), 1);
        azoi_known *known = azoi_net_known(&w.client->net, "localhost", (uint16_t)fake_port(w.service, FAKE_SERVICE));
        assert_int_equal(known->once, i == 1);
        known->once = true; /* as if the session of TLS 1.2 were one */
        blob b = export_state(&w);
        assert_int_equal(count_sessions(w.client), 0);
        fake_drop_connections(w.service, FAKE_SERVICE);
        expect(&w, ask(&w, "Hi"), AZO_OK);
        assert_int_equal(fake_resumptions(w.service), 0);
        world_restart(&w);
        expect(&w, import_state(&w, &b), AZO_OK);
        known = azoi_net_known(&w.client->net, "localhost", (uint16_t)fake_port(w.service, FAKE_SERVICE));
        assert_true(known->has_session && known->once);
        expect(&w, ask(&w, "Hi"), AZO_OK);
        assert_int_equal(fake_resumptions(w.service), 1);
        blob_free(&b);
        world_close(&w);
    }
}

/* ---- what mbedTLS refuses ---- */

static void test_session_of_another_build(void **state) {
    static const int refusals[] = {MBEDTLS_ERR_SSL_VERSION_MISMATCH, MBEDTLS_ERR_SSL_BAD_INPUT_DATA,
                                   MBEDTLS_ERR_SSL_FEATURE_UNAVAILABLE};
    (void)state;
    world w;
    blob b;
    begin_with_state(&w, use_secret, &b);
    for (size_t i = 0; i < COUNT(refusals); i++) {
        fault_session_load = refusals[i];
        azo_result r = import_state(&w, &b);
        fault_session_load = 0;
        expect(&w, r, AZO_OK);
        assert_int_equal(count_tokens(w.client), 1);
        assert_int_equal(count_sessions(w.client), 0);
    }
    fault_session_load = MBEDTLS_ERR_SSL_ALLOC_FAILED;
    azo_result r = import_state(&w, &b);
    fault_session_load = 0;
    expect(&w, r, AZO_ERR_MEMORY);
    assert_int_equal(count_sessions(w.client), 0);
    expect(&w, import_state(&w, &b), AZO_OK);
    assert_true(count_sessions(w.client) > 0);

    fault_session_save = MBEDTLS_ERR_SSL_FEATURE_UNAVAILABLE;
    blob without = export_state(&w);
    fault_session_save = 0;
    assert_true(without.len < b.len && blob_has(&without, "fake.entra."));
    blob_free(&without);
    blob_free(&b);
    world_close(&w);
}

static void test_no_digest(void **state) {
    (void)state;
    world w;
    azo_state out;
    blob b;
    begin_with_state(&w, use_secret, &b);
    for (int works = 0; works < 4; works++) { /* key, state, inner, outer */
        fault_hash = NO_HASH;
        fault_hash_after = works;
        azo_result r = azo_client_export(w.client, &out, &w.error);
        fault_hash_after = works;
        azo_result other = import_state(&w, &b);
        fault_hash = 0;
        assert_int_equal(r, AZO_ERR_TLS);
        assert_null(out.owned);
        expect(&w, other, AZO_ERR_TLS);
        assert_int_equal(w.error.tls_code, NO_HASH);
        expect_nothing(&w);
    }
    blob_free(&b);
    world_close(&w);
}

/* ---- memory ---- */

typedef struct carrier {
    world w;
    blob b;
} carrier;

static void carry_once(test_memory *m, void *user_data) {
    carrier *self = (carrier *)user_data;
    azo_client *client = NULL;
    azo_state out = {0};
    azo_error e;
    m->secret = "fake.entra.";
    self->w.desc.allocator = m->hook;
    azo_result r = azo_client_open(&self->w.desc, &client, &e);
    r = r == AZO_OK ? azo_client_import(client, self->b.bytes, self->b.len, &e) : r;
    if (r == AZO_OK) {
        assert_int_equal(count_tokens(client), 1);
        assert_true(count_sessions(client) > 0);
        r = azo_client_export(client, &out, &e);
    } else if (client != NULL && count_tokens(client) == 0) {
        assert_int_equal(client->identity.winner, -1);
    }
    assert_int_equal(r, m->failures > 0 ? AZO_ERR_MEMORY : AZO_OK);
    assert_int_equal(out.owned != NULL, r == AZO_OK);
    azo_client_close(client);
    assert_true(r != AZO_OK || test_holds(out.bytes.ptr, out.bytes.len, "fake.entra."));
    azo_state_free(&out);
}

static void test_every_allocation(void **state) {
    (void)state;
    carrier self;
    begin_with_state(&self.w, use_secret, &self.b);
    test_every_failure(carry_once, &self);
    blob_free(&self.b);
    world_close(&self.w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_second_run),
        cmocka_unit_test(test_identities),
        cmocka_unit_test(test_provider),
        cmocka_unit_test(test_what_a_token_keeps),
        cmocka_unit_test(test_other_identities),
        cmocka_unit_test(test_refusal_is_harmless),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_every_wrong_byte),
        cmocka_unit_test(test_format),
        cmocka_unit_test(test_hostile_records),
        cmocka_unit_test(test_tokens_of_other_members),
        cmocka_unit_test(test_hostile_lengths),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_export_without_a_clock),
        cmocka_unit_test(test_age_of_a_session),
        cmocka_unit_test(test_refused_token),
        cmocka_unit_test(test_import_into_a_client_at_work),
        cmocka_unit_test(test_import_after_a_failure),
        cmocka_unit_test(test_export_while_requests_are_live),
        cmocka_unit_test(test_inside_a_callback),
        cmocka_unit_test(test_inside_the_last_call_of_a_provider),
        cmocka_unit_test(test_ticket_leaves_the_client),
        cmocka_unit_test(test_session_of_another_build),
        cmocka_unit_test(test_no_digest),
        cmocka_unit_test(test_every_allocation),
        cmocka_unit_test(test_no_secret_was_shown), /* the last one */
    };
    return cmocka_run_group_tests(tests, clear_environment, NULL);
}
