/* eva_pem.c - the search for certificates in a root store that arrives in pieces: azoi_scan_text and azoi_scan_added as
 * they stand in azopenai.h (cut out by eva_pem.sed), with a buffer that small texts fill. What is done with a
 * certificate is mbedTLS's business. */
#ifndef EVA_LEN
#define EVA_LEN 2
#endif
#define EVA_BLOCK fresh
#include "eva.h"

typedef struct azoi_scan {
    bool mid_line;
    size_t len;
    char text[27 + EVA_LEN];
} azoi_scan;

static void azoi_scan_certificate(azoi_scan *z, azo_str pem) {
    //@ assert pem.len <= EVA_LEN;
    (void)z;
    (void)pem;
}

#include "pem.h"

/* `len` more bytes of a file, as fread leaves them in text[]. */
static void read_some(azoi_scan *z, size_t len) {
    size_t room = sizeof z->text - z->len;
    size_t got = len < room ? len : room;
    if (got > 0) {
        Frama_C_make_unknown(z->text + z->len, got);
        azoi_scan_added(z, got);
    }
}

int main(void) {
    azoi_scan z;
    size_t first = eva_any(0, EVA_LEN);
    size_t second = eva_any(0, EVA_LEN);
    //@ split first;
    //@ split second;
    (void)eva_text("", EVA_LEN, 0);
    z.mid_line = eva_any(0, 1) == 1;
    z.len = 27;
    memcpy(z.text, "-----BEGIN CERTIFICATE-----", 27);
    read_some(&z, first);
    read_some(&z, second);
    return 0;
}
