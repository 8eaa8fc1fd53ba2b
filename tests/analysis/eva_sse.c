/* eva_sse.c - server-sent events, fed in two pieces, and their end. */
#ifndef EVA_LEN
#define EVA_LEN 3
#endif
#define EVA_BLOCK fresh
#include "eva.h"

static void feed(azoi_sse *sse, const char *known, size_t len) {
    azo_str in = eva_text(known, EVA_LEN, len);
    azo_result result = AZO_OK;
    while (in.len > 0 && result == AZO_OK) {
        result = azoi_sse_feed(sse, &in, NULL);
    }
}

int main(void) {
    azo_allocator allocator = {0};
    azoi_sse sse;
    size_t first = eva_any(0, EVA_LEN);
    size_t second = eva_any(0, EVA_LEN);
    //@ split first;
    //@ split second;
    azoi_sse_init(&sse, &allocator, 8);
    azoi_buf_reserve(&sse.line, 1);
    azoi_buf_reserve(&sse.data, 1);
    azoi_buf_reserve(&sse.name, 1);
    feed(&sse, "data:", first);
    feed(&sse, "", second);
    (void)azoi_sse_end(&sse);
    azoi_sse_free(&sse);
    return 0;
}
