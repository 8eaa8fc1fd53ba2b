/* state.h - target: state. What azo_client_import makes of bytes that others stored: as they are, or, three times out
 * of four, as the inside of a state that is sealed rightly, as whoever may write the file of a managed identity can do.
 */
#ifndef AZO_TEST_FUZZ_STATE_H
#define AZO_TEST_FUZZ_STATE_H

enum { FUZZ_NOON = 1700000000 };

static int64_t fuzz_state_ms(void *user_data) {
    (void)user_data;
    return 1000;
}

static int64_t fuzz_state_unix(void *user_data) {
    (void)user_data;
    return FUZZ_NOON;
}

static azo_client *fuzz_state_client(test_memory *m) {
    azo_client_desc desc;
    azo_client *client = NULL;
    memset(&desc, 0, sizeof desc);
    desc.credential.kind = AZO_CRED_IMDS;
    desc.ca_file = "/dev/null";
    desc.allocator = m->hook;
    desc.clock.monotonic_ms = fuzz_state_ms;
    desc.clock.unix_seconds = fuzz_state_unix;
    FUZZ_CHECK(azo_client_open(&desc, &client, NULL) == AZO_OK);
    return client;
}

/* ---- the reference: a reader of its own, by the description of the format ---- */

typedef struct ref_record {
    uint64_t number[4];
    azo_str text[2];
} ref_record;

static bool ref_number(azo_str bytes, size_t at, uint64_t *out) {
    *out = 0;
    for (size_t i = 0; i < 8 && bytes.len >= at + 8; i++) {
        *out = *out * 256 + (unsigned char)bytes.ptr[at + i];
    }
    return bytes.len >= at + 8 && *out <= INT64_MAX;
}

/* Where the record at `at` ends; 0: there is none. */
static size_t ref_record_read(azo_str bytes, size_t at, ref_record *r) {
    for (int i = 0; i < 4; i++, at += 8) {
        if (!ref_number(bytes, at, &r->number[i])) {
            return 0;
        }
    }
    for (int i = 0; i < 2; i++) {
        uint64_t len;
        if (!ref_number(bytes, at, &len) || len > bytes.len - at - 8) {
            return 0;
        }
        r->text[i] = fuzz_view(bytes.ptr + at + 8, (size_t)len);
        at += 8 + (size_t)len;
    }
    return at;
}

static bool ref_is_word(azo_str text) {
    bool ok = text.len > 0 && text.len <= AZO_MAX_TOKEN_BYTES;
    for (size_t i = 0; i < text.len; i++) {
        ok = ok && text.ptr[i] > ' ' && text.ptr[i] <= '~';
    }
    return ok;
}

/* A token of a managed identity that has more than half a minute left. */
static bool ref_is_token(const ref_record *r) {
    uint64_t most = (uint64_t)FUZZ_NOON + INT32_MAX;
    return r->number[0] == 'T' && r->number[1] == 1 && r->number[2] > FUZZ_NOON + 30 && r->number[2] <= most &&
           ref_is_word(r->text[0]) && ref_is_word(r->text[1]);
}

/* Whether all of it is records; each token is to be in the client, unless one of its scope came before. */
static bool ref_check(azo_str inside, const azo_client *c, bool imported) {
    uint64_t made;
    ref_record r;
    size_t at = 8;
    size_t tokens = 0;
    if (!ref_number(inside, 0, &made)) {
        return false;
    }
    bool timely = made > 0 && made <= FUZZ_NOON;
    while (at < inside.len) {
        at = ref_record_read(inside, at, &r);
        if (at == 0) {
            return false;
        }
        if (imported && timely && ref_is_token(&r)) {
            const azoi_slot *slot = c->slots;
            while (slot != NULL && !fuzz_same(azoi_buf_view(&slot->scope), r.text[0])) {
                slot = slot->next;
            }
            FUZZ_CHECK(slot != NULL && slot->usable);
            tokens++;
        }
    }
    FUZZ_CHECK(!imported || tokens > 0 || c->slots == NULL);
    return true;
}

/* ---- the target ---- */

static azo_result fuzz_state_import(azo_client *c, azo_str state) {
    azo_error e;
    char *exact = fuzz_exact(state);
    azo_result r = azo_client_import(c, exact, state.len, &e);
    free(exact);
    fuzz_check_error(&e, r);
    FUZZ_CHECK(r == AZO_OK || r == AZO_ERR_ARGUMENT || r == AZO_ERR_UNSUPPORTED);
    return r;
}

/* What was taken goes on to a third run as it is. Not the sessions: mbedTLS promises nothing for those that it has
 * not saved itself. */
static void fuzz_state_again(azo_client *c, test_memory *m) {
    azo_state state;
    size_t found = 0;
    for (size_t i = 0; i < AZOI_MAX_KNOWN; i++) {
        FUZZ_CHECK(!c->net.known[i].has_session || c->net.known[i].verified_at > FUZZ_NOON - 24 * 3600);
        azoi_known_drop_session(&c->net.known[i]);
    }
    FUZZ_CHECK(azo_client_export(c, &state, NULL) == AZO_OK);
    azo_client *other = fuzz_state_client(m);
    FUZZ_CHECK(fuzz_state_import(other, state.bytes) == AZO_OK);
    azo_state_free(&state);
    for (const azoi_slot *a = c->slots; a != NULL; a = a->next) {
        for (const azoi_slot *b = other->slots; b != NULL; b = b->next) {
            bool same = fuzz_same(azoi_buf_view(&a->scope), azoi_buf_view(&b->scope));
            FUZZ_CHECK(!same || fuzz_same(azoi_buf_view(&a->token), azoi_buf_view(&b->token)));
            FUZZ_CHECK(!same || a->expires_at == b->expires_at);
            found += same ? 1 : 0;
        }
        FUZZ_CHECK(found > 0);
        found = 0;
    }
    azo_client_close(other);
}

static void fuzz_state(unsigned char steer, azo_str bytes) {
    static const char mark[] = "azo-state 1\n";
    test_memory m;
    test_notes sealed = {NULL, 0, 0};
    unsigned char seal[AZOI_DIGEST];
    fuzz_memory_open(&m);
    fuzz_wiped = "canary-token";
    azo_client *c = fuzz_state_client(&m);
    if (steer % 4 == 0) {
        FUZZ_CHECK(fuzz_state_import(c, bytes) != AZO_OK && c->slots == NULL);
    } else {
        test_note_bytes(&sealed, mark, sizeof mark - 1);
        test_note_bytes(&sealed, bytes.ptr, bytes.len);
        FUZZ_CHECK(azoi_tls_setup(&c->net, NULL) == AZO_OK);
        FUZZ_CHECK(azoi_identity_seal(c, fuzz_notes_view(&sealed), seal, NULL) == AZO_OK);
        test_note_bytes(&sealed, (const char *)seal, sizeof seal);
        azo_result r = fuzz_state_import(c, fuzz_notes_view(&sealed));
        FUZZ_CHECK((r == AZO_OK) == ref_check(bytes, c, r == AZO_OK));
        FUZZ_CHECK(r == AZO_OK || c->slots == NULL);
        fuzz_state_again(c, &m);
    }
    azo_client_close(c);
    test_notes_free(&sealed);
    test_memory_close(&m);
}

#endif
