/* eva_text.c - UTF-8, one line out of foreign bytes, base64 both ways, numbers. */
#ifndef EVA_LEN
#define EVA_LEN 6
#endif
#include "eva.h"

static void utf8(azo_str text) {
    size_t size = text.len > 0 ? azoi_utf8(text.ptr, text.len) : 0;
    //@ assert size <= text.len && size <= 4;
    (void)size;
}

static void put(void) {
    char out[4];
    size_t size = azoi_utf8_put(out, Frama_C_unsigned_int_interval(0, UINT32_MAX));
    //@ assert 1 <= size <= 4;
    (void)size;
}

static void clean(azo_str text) {
    char out[EVA_LEN];
    size_t cap = eva_any(0, sizeof out);
    //@ split cap;
    azoi_clean(out + (sizeof out - cap), cap, text);
}

static void base64(azo_str text) {
    unsigned char out[EVA_LEN / 2];
    size_t cap = eva_any(0, sizeof out);
    size_t len;
    //@ split cap;
    (void)azoi_base64_decode(text, out + (sizeof out - cap), cap, &len);
    //@ assert len <= cap;
}

static void number(azo_str text) {
    uint64_t value;
    (void)azoi_parse_u64(text, &value);
}

int main(void) {
    size_t len = eva_any(0, EVA_LEN);
    //@ split len;
    azo_str text = eva_text("", EVA_LEN, len);
    utf8(text);
    clean(text);
    base64(text);
    number(text);
    put();
    return 0;
}
