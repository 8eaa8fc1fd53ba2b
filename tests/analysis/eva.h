/* eva.h - what the drivers for Frama-C's value analysis share.
 *
 * Each driver feeds a parser every text up to a small length at once: Eva computes with sets of values, so one run
 * stands for all of them. An alarm is an access out of bounds, a read of something uninitialised, an overflow or a
 * shift that it cannot exclude; there must be none.
 *
 * eva_text gives `len` unknown bytes at the very end of their block, so that one byte too far is out of bounds. As long
 * as the block is a weak one, Eva does not refine its bytes by what they were compared with: the states that it keeps
 * apart then differ in positions only, not in contents, which makes more bytes affordable; and more is proven than is
 * needed, since the bytes may be others each time they are read. A parser that relies on what it read before, or that
 * subtracts pointers, needs `#define EVA_BLOCK fresh`.
 *
 * States are kept apart (-eva-partition-value) by the positions that decide what is in bounds: eva_at is what a driver
 * hands on as a position; eva_left is the length of the view that was cut last, eva_found where memchr stopped, eva_in
 * what is left of the input of a parser that is fed in pieces. eva.sed puts the last ones into azopenai.h, and splits
 * for the scanner of JSON, whose positions are pointers: what lies behind one, and how many brackets are open. */
#ifndef AZO_TEST_EVA_H
#define AZO_TEST_EVA_H

#define AZO_NO_SOCKETS
#define AZO_NO_CLOCK
#define AZO_NO_ENV
#define AZOPENAI_IMPLEMENTATION

#ifndef EVA_BLOCK
#define EVA_BLOCK fresh_weak
#endif

#include <stddef.h>
#include <string.h>

static size_t eva_at;
static size_t eva_left;
static size_t eva_found;
static size_t eva_in;

/* Frama-C's own knows only that the answer points somewhere into the text. */
static void *eva_memchr(const void *text, int byte, size_t len) {
    const unsigned char *bytes = (const unsigned char *)text;
    for (size_t i = 0; i < len; i++) {
        eva_found = i;
        if (bytes[i] == (unsigned char)byte) {
            return (void *)(bytes + i);
        }
    }
    eva_found = len;
    return NULL;
}
#define memchr eva_memchr

/* Frama-C's own subtracts, after which it does not know that the bytes were equal. */
static int eva_memcmp(const void *one, const void *other, size_t len) {
    const unsigned char *a = (const unsigned char *)one;
    const unsigned char *b = (const unsigned char *)other;
    for (size_t i = 0; i < len; i++) {
        if (a[i] != b[i]) {
            return 1; /* nobody asks which is larger */
        }
    }
    return 0;
}
#define memcmp eva_memcmp

#include "azopenai.h"

#include "__fc_builtin.h"

static size_t eva_any(size_t low, size_t high) {
    return (size_t)Frama_C_unsigned_long_interval(low, high);
}

static char *eva_block(size_t size) {
    //@ eva_allocate EVA_BLOCK;
    char *block = (char *)calloc(1, size);
    Frama_C_make_unknown(block, size);
    return block;
}

/* `known`, then `len` unknown bytes, at the end of a block that would take `max` of these. */
static azo_str eva_text(const char *known, size_t max, size_t len) {
    size_t known_len = strlen(known);
    char *block = eva_block(known_len + max);
    eva_at = 0;
    eva_left = 0;
    eva_found = 0;
    eva_in = known_len + len;
    if (known_len > 0) {
        memcpy(block + (max - len), known, known_len);
    }
    return azoi_view(block + (max - len), known_len + len);
}

#endif
