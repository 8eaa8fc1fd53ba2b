/* eva_json.c - the scanner: whether a text is JSON, and where it stops being so. */
#ifndef EVA_LEN
#define EVA_LEN 5
#endif
#define AZO_MAX_JSON_DEPTH 2
#define EVA_BLOCK fresh
#include "eva.h"

static void check(azo_str text) {
    bool ok = azoi_json_check(text, &eva_at);
    //@ assert eva_at <= text.len;
    //@ assert ok ==> eva_at == text.len;
    (void)ok;
}

int main(void) {
    size_t len = eva_any(0, EVA_LEN);
    //@ split len;
    check(eva_text("", EVA_LEN, len));
    return 0;
}
