/* eva_body.c - body decoders of every framing, fed in two pieces, from any state that they can be in. */
#ifndef EVA_LEN
#define EVA_LEN 4
#endif
#define EVA_BLOCK fresh
#include "eva.h"

static azo_result feed(azoi_body *body, size_t len) {
    azo_str in = eva_text("", EVA_LEN, len);
    azo_result result = AZO_PENDING;
    for (int calls = 0; calls < 2 * EVA_LEN && in.len > 0 && result == AZO_PENDING; calls++) { /* one byte takes two */
        azo_str out;
        result = azoi_body_feed(body, &in, &out, NULL);
        //@ assert in.len <= len;
        //@ assert out.len <= len;
    }
    return result;
}

int main(void) {
    azoi_head head;
    azoi_body body;
    size_t first = eva_any(0, EVA_LEN);
    size_t second = eva_any(0, EVA_LEN);
    //@ split first;
    //@ split second;
    memset(&head, 0, sizeof head);
    head.framing = (azoi_framing)eva_any(AZOI_FRAMING_NONE, AZOI_FRAMING_CLOSE);
    //@ split head.framing;
    head.length = Frama_C_unsigned_long_interval(0, INT64_MAX);
    azoi_body_init(&body, &head);
    if (feed(&body, first) == AZO_PENDING) {
        (void)feed(&body, second);
    }
    (void)azoi_body_eof(&body, NULL);
    return 0;
}
