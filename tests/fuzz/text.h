/* text.h - targets: text (base64, UTF-8, percent encoding, cleaning), pem (the scan of a bundle of root certificates).
 */
#ifndef AZO_TEST_FUZZ_TEXT_H
#define AZO_TEST_FUZZ_TEXT_H

/* ---- encodings ---- */

static void fuzz_base64(azo_str bytes, const azo_allocator *allocator) {
    azoi_buf out;
    size_t len = 0;
    char *back = (char *)malloc(bytes.len + 1);
    azoi_buf_init(&out, allocator, SIZE_MAX, false);
    azoi_base64(&out, bytes);
    FUZZ_CHECK(out.len == (bytes.len + 2) / 3 * 4);
    FUZZ_CHECK(azoi_base64_decode(azoi_buf_view(&out), (unsigned char *)back, bytes.len, &len));
    FUZZ_CHECK(fuzz_same(fuzz_view(back, len), bytes));
    azoi_buf_free(&out);
    /* The input itself, into just as much room as it can need. */
    bool ok = azoi_base64_decode(bytes, (unsigned char *)back, bytes.len, &len);
    FUZZ_CHECK(len <= bytes.len / 4 * 3 + 2);
    if (ok) {
        char *exact = (char *)malloc(len + 1);
        size_t again = 0;
        FUZZ_CHECK(azoi_base64_decode(bytes, (unsigned char *)exact, len, &again) && again == len);
        FUZZ_CHECK(len == 0 || !azoi_base64_decode(bytes, (unsigned char *)exact, len - 1, &again));
        free(exact);
    }
    free(back);
}

/* A code point that is written is well-formed, and the length of every sequence agrees with the standard's table. */
static void fuzz_utf8(azo_str bytes) {
    uint32_t code = 0;
    char unit[4];
    for (size_t i = 0; i < bytes.len; i++) {
        azo_str rest = fuzz_view(bytes.ptr + i, bytes.len - i);
        FUZZ_CHECK(azoi_utf8(rest.ptr, rest.len) == ref_utf8(rest));
    }
    memcpy(&code, bytes.ptr, bytes.len < sizeof code ? bytes.len : sizeof code);
    code &= 0x1fffff;
    size_t size = azoi_utf8_put(unit, code);
    FUZZ_CHECK(ref_utf8(fuzz_view(unit, size)) == size);
}

static void fuzz_percent(azo_str bytes, const azo_allocator *allocator) {
    azoi_buf coded;
    azoi_buf back;
    azoi_buf_init(&coded, allocator, SIZE_MAX, false);
    azoi_buf_init(&back, allocator, SIZE_MAX, false);
    azoi_percent(&coded, bytes, "/");
    azoi_percent_decode(&back, azoi_buf_view(&coded));
    FUZZ_CHECK(fuzz_same(azoi_buf_view(&back), bytes));
    for (size_t i = 0; i < coded.len; i++) {
        FUZZ_CHECK(coded.data[i] > ' ' && coded.data[i] < 0x7f && strchr("\"<>\\^`{|}?#&+", coded.data[i]) == NULL);
    }
    azoi_buf_free(&coded);
    azoi_buf_free(&back);
}

/* Fit for a terminal, in as much room as there is; clean text stays as it is. */
static void fuzz_clean(azo_str bytes, size_t cap) {
    char *out = (char *)malloc(cap + 1);
    char *twice = (char *)malloc(cap + 1);
    azoi_clean(out, cap, bytes);
    if (cap > 0) {
        FUZZ_CHECK(strlen(out) < cap && strlen(out) <= bytes.len && ref_is_utf8(azo_s(out)));
        for (const char *at = out; *at != '\0'; at++) {
            FUZZ_CHECK((unsigned char)*at >= 0x20 && *at != 0x7f);
        }
        azoi_clean(twice, cap, azo_s(out));
        FUZZ_CHECK(strcmp(out, twice) == 0);
    }
    free(out);
    free(twice);
}

static void fuzz_strings(unsigned char steer, azo_str bytes) {
    test_memory m;
    fuzz_memory_open(&m);
    fuzz_base64(bytes, &m.hook);
    fuzz_utf8(bytes);
    fuzz_percent(bytes, &m.hook);
    fuzz_clean(bytes, steer);
    fuzz_clean(bytes, bytes.len + 1);
    test_memory_close(&m);
}

/* ---- root certificates ---- */

static void fuzz_scan_note(const azoi_scan *z, test_notes *out) {
    size_t parsed = 0;
    for (const mbedtls_x509_crt *crt = &z->found; crt != NULL && crt->raw.p != NULL; crt = crt->next) {
        parsed++;
    }
    FUZZ_CHECK(z->found_count >= 0 && parsed == (size_t)z->found_count && parsed <= z->certificates);
    test_note(out, "%lu certificates, %d found", (unsigned long)z->certificates, z->found_count);
}

/* As a bundle in memory, and as a file is read: by pieces. */
static void fuzz_pem(unsigned char steer, azo_str bytes) {
    static unsigned char issuer[] = "\x30\x0f\x31\x0d\x30\x0b\x06\x03\x55\x04\x03\x0c\x04root";
    static azoi_scan z;
    test_notes out[2];
    mbedtls_x509_crt chain;
    fuzz_cut cut = fuzz_cut_of(steer);
    memset(out, 0, sizeof out);
    memset(&chain, 0, sizeof chain);
    chain.issuer_raw.p = issuer;
    chain.issuer_raw.len = sizeof issuer - 1;
    for (int by_pieces = 0; by_pieces < 2; by_pieces++) {
        memset(&z, 0, sizeof z);
        mbedtls_x509_crt_init(&z.found);
        z.chain = &chain;
        if (by_pieces == 0) {
            size_t left = azoi_scan_text(&z, bytes);
            FUZZ_CHECK(left <= bytes.len);
        }
        for (azo_str rest = bytes; by_pieces == 1 && rest.len > 0;) {
            azo_str piece = fuzz_piece(&cut, &rest);
            size_t room = sizeof z.text - z.len;
            size_t take = piece.len < room ? piece.len : room;
            memcpy(z.text + z.len, piece.ptr, take);
            azoi_scan_added(&z, take);
            rest = fuzz_view(piece.ptr + take, rest.len + piece.len - take);
        }
        fuzz_scan_note(&z, &out[by_pieces]);
        mbedtls_x509_crt_free(&z.found);
    }
    if (bytes.len <= AZOI_MAX_PEM) { /* a longer block is no certificate, in a file */
        fuzz_check_equal(&out[0], &out[1]);
    }
    test_notes_free(&out[0]);
    test_notes_free(&out[1]);
}

#endif
