/* support.h - what the tests share. Include it after azopenai.h (with or without the implementation).
 *
 * test_memory: an allocator that knows every block. It fails on request, moves a block on every resize, fills fresh
 * memory with junk, and notes wrong sizes, unknown pointers and double frees. With `secret` set it also notes blocks
 * that still hold those bytes when they are let go.
 *
 *     test_memory m;
 *     test_memory_open(&m);
 *     desc.allocator = m.hook;
 *     ...
 *     test_memory_close(&m);            fails the test if anything leaked or was wrong
 *
 *     static void run(test_memory *m, void *self) { ... }
 *     test_every_failure(run, &self);   once with every allocation failing, alone and with all behind it
 *
 * test_guard: memory that ends where a page begins that may not be touched, so that reading one byte too far crashes.
 *
 *     test_guard g;
 *     test_guard_open(&g, 4096);
 *     azo_str text = test_guard_put(&g, azo_s("..."));     until the next put; there is no NUL behind it
 *     test_guard_close(&g);
 *
 * test_notes: a text that grows, to compare what happened with what should have happened.
 *
 *     test_note(&notes, "event %d ", 3);
 *     test_note_text(&notes, view);     quoted, with escapes for what is not printable; NULL as -
 *
 * test_splits: feeds an input whole, byte by byte, with empty pieces, and cut in two at every offset. The notes must
 * be `expected` every time. Each piece lies in a test_guard, and is overwritten when the next one comes.
 *
 *     static const test_parser parser = {begin, feed, end};
 *     test_splits(&parser, &self, azo_s("data: x\n\n"), "event 'x' end");
 *
 * test_sentences: an error message must be two sentences, in one line, and each must end in a full stop.
 */
#ifndef AZO_TEST_SUPPORT_H
#define AZO_TEST_SUPPORT_H

#include "azopenai.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- test_memory ---- */

enum { TEST_BUCKETS = 1024 };

typedef struct test_block {
    struct test_block *next;
    char *ptr;
    size_t size;
} test_block;

typedef struct test_memory {
    azo_allocator hook;  /* for the library */
    size_t calls;        /* allocations and growths asked for so far */
    size_t fail_at;      /* the one that fails, from 1 on; 0: none */
    bool fail_on;        /* and all after it */
    size_t failures;     /* how many failed */
    size_t live_blocks;
    size_t live_bytes;
    size_t peak_bytes;
    const char *secret;  /* NULL, or bytes that must be wiped before a block is let go */
    size_t secrets_left; /* blocks that still held them */
    size_t errors;
    char error[160]; /* the first */
    test_block *buckets[TEST_BUCKETS];
} test_memory;

static inline test_block **test_block_find(test_memory *m, const void *ptr) {
    test_block **at = &m->buckets[((uintptr_t)ptr >> 4) % TEST_BUCKETS];
    while (*at != NULL && (*at)->ptr != ptr) {
        at = &(*at)->next;
    }
    return at;
}

static inline void test_memory_error(test_memory *m, const char *what, size_t told, size_t known) {
    if (m->errors == 0) {
        snprintf(m->error, sizeof m->error, "%s (told %lu bytes, known %lu)", what, (unsigned long)told,
                 (unsigned long)known);
    }
    m->errors++;
}

static inline bool test_holds(const void *bytes, size_t len, const char *needle) {
    size_t needle_len = strlen(needle);
    size_t i;
    for (i = 0; i + needle_len <= len; i++) {
        if (memcmp((const char *)bytes + i, needle, needle_len) == 0) {
            return true;
        }
    }
    return false;
}

static inline void test_block_drop(test_memory *m, test_block **at) {
    test_block *block = *at;
    if (m->secret != NULL && test_holds(block->ptr, block->size, m->secret)) {
        m->secrets_left++;
    }
    *at = block->next;
    m->live_blocks--;
    m->live_bytes -= block->size;
    memset(block->ptr, 0xdd, block->size);
    free(block->ptr);
    free(block);
}

static inline test_block *test_block_new(test_memory *m, size_t size) {
    test_block *block = (test_block *)malloc(sizeof *block);
    char *ptr = (char *)malloc(size);
    test_block **bucket;
    if (block == NULL || ptr == NULL) {
        free(block);
        free(ptr);
        return NULL;
    }
    memset(ptr, 0xa5, size);
    bucket = &m->buckets[((uintptr_t)ptr >> 4) % TEST_BUCKETS];
    block->ptr = ptr;
    block->size = size;
    block->next = *bucket;
    *bucket = block;
    m->live_blocks++;
    m->live_bytes += size;
    if (m->live_bytes > m->peak_bytes) {
        m->peak_bytes = m->live_bytes;
    }
    return block;
}

static inline void *test_memory_resize(void *ptr, size_t old_size, size_t new_size, void *user_data) {
    test_memory *m = (test_memory *)user_data;
    test_block *block;
    test_block **old = ptr == NULL ? NULL : test_block_find(m, ptr);
    if (ptr == NULL && old_size != 0) {
        test_memory_error(m, "NULL with a size", old_size, 0);
    }
    if (ptr != NULL && *old == NULL) {
        test_memory_error(m, "a pointer that is not allocated, or not any more", old_size, 0);
        return NULL;
    }
    if (ptr != NULL && (*old)->size != old_size) {
        test_memory_error(m, "wrong old size", old_size, (*old)->size);
    }
    if (new_size == 0) {
        if (old != NULL) {
            test_block_drop(m, old);
        }
        return NULL;
    }
    m->calls++;
    if (m->fail_at != 0 && (m->calls == m->fail_at || (m->fail_on && m->calls > m->fail_at))) {
        m->failures++;
        return NULL;
    }
    block = test_block_new(m, new_size);
    if (block != NULL && ptr != NULL) {
        old = test_block_find(m, ptr); /* the new block may stand before it in its bucket */
        memcpy(block->ptr, ptr, (*old)->size < new_size ? (*old)->size : new_size);
        test_block_drop(m, old);
    }
    return block == NULL ? NULL : block->ptr;
}

static inline void test_memory_open(test_memory *m) {
    memset(m, 0, sizeof *m);
    m->hook.user_data = m;
    m->hook.resize = test_memory_resize;
}

/* Frees what leaked, so that one failure is reported once. */
static inline void test_memory_close(test_memory *m) {
    size_t leaked_blocks = m->live_blocks;
    size_t leaked_bytes = m->live_bytes;
    size_t i;
    for (i = 0; i < TEST_BUCKETS; i++) {
        while (m->buckets[i] != NULL) {
            test_block_drop(m, &m->buckets[i]);
        }
    }
    if (m->errors > 0) {
        fail_msg("the allocator was misused %lu times, first: %s", (unsigned long)m->errors, m->error);
    }
    if (m->secrets_left > 0) {
        fail_msg("%lu blocks held the secret when they were let go", (unsigned long)m->secrets_left);
    }
    if (leaked_blocks > 0) {
        fail_msg("%lu blocks leaked, %lu bytes", (unsigned long)leaked_blocks, (unsigned long)leaked_bytes);
    }
}

/* Runs `run` with the first allocation failing, then the second, until none is left to fail: once with the rest
 * working, once with all the rest failing too. `run` frees all it allocates and checks its own results: where
 * m->failures is 0 they must be those of a run without failures. */
static inline void test_every_failure(void (*run)(test_memory *m, void *self), void *self) {
    int mode;
    for (mode = 0; mode < 2; mode++) {
        size_t at;
        bool hit = true;
        for (at = 1; hit; at++) {
            test_memory m;
            test_memory_open(&m);
            m.fail_at = at;
            m.fail_on = mode == 1;
            run(&m, self);
            hit = m.failures > 0;
            test_memory_close(&m);
        }
    }
}

/* ---- test_guard ---- */

typedef struct test_guard {
    char *map;
    size_t size; /* of the part that may be touched */
    size_t page;
} test_guard;

static inline void test_guard_open(test_guard *g, size_t cap) {
    int zero = open("/dev/zero", O_RDWR); /* MAP_ANONYMOUS is not in POSIX */
    void *map;
    g->page = (size_t)sysconf(_SC_PAGESIZE);
    g->size = (cap / g->page + 1) * g->page;
    map = mmap(NULL, g->size + g->page, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0);
    assert_true(zero >= 0 && map != MAP_FAILED);
    assert_int_equal(mprotect((char *)map + g->size, g->page, PROT_NONE), 0);
    close(zero);
    g->map = (char *)map;
}

static inline void test_guard_close(test_guard *g) {
    assert_int_equal(munmap(g->map, g->size + g->page), 0);
}

/* `len` bytes of junk in front of the forbidden page. */
static inline char *test_guard_room(test_guard *g, size_t len) {
    assert_true(len <= g->size);
    memset(g->map, 0xa5, g->size);
    return g->map + g->size - len;
}

static inline azo_str test_guard_put(test_guard *g, azo_str text) {
    azo_str view;
    char *to = test_guard_room(g, text.len);
    if (text.len > 0) {
        memcpy(to, text.ptr, text.len);
    }
    view.ptr = to;
    view.len = text.len;
    return view;
}

/* ---- test_notes ---- */

typedef struct test_notes {
    char *text; /* NULL, or NUL-terminated */
    size_t len;
    size_t cap;
} test_notes;

static inline void test_note_bytes(test_notes *n, const char *bytes, size_t len) {
    if (n->len + len + 1 > n->cap) {
        n->cap = (n->len + len + 1) * 2;
        n->text = (char *)realloc(n->text, n->cap);
        assert_non_null(n->text);
    }
    memcpy(n->text + n->len, bytes, len);
    n->len += len;
    n->text[n->len] = '\0';
}

#ifdef __GNUC__
__attribute__((__format__(__printf__, 2, 3)))
#endif
static inline void test_note(test_notes *n, const char *format, ...) {
    char line[1024];
    va_list args;
    int len;
    va_start(args, format);
    len = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    assert_true(len >= 0 && (size_t)len < sizeof line);
    test_note_bytes(n, line, (size_t)len);
}

static inline void test_note_text(test_notes *n, azo_str text) {
    size_t i;
    if (text.ptr == NULL) {
        test_note(n, "-");
        return;
    }
    test_note(n, "'");
    for (i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        if (c == '\n') {
            test_note(n, "\\n");
        } else if (c == '\r') {
            test_note(n, "\\r");
        } else if (c < 0x20 || c >= 0x7f || c == '\\') {
            test_note(n, "\\x%02x", c);
        } else {
            test_note_bytes(n, text.ptr + i, 1);
        }
    }
    test_note(n, "'");
}

static inline void test_notes_free(test_notes *n) {
    free(n->text);
    memset(n, 0, sizeof *n);
}

/* ---- test_splits ---- */

typedef struct test_parser {
    void (*begin)(void *self);
    void (*feed)(void *self, azo_str piece, test_notes *notes);
    void (*end)(void *self, test_notes *notes);
} test_parser;

typedef struct test_split_run {
    const test_parser *parser;
    void *self;
    azo_str input;
    test_guard guard;
    test_notes notes;
} test_split_run;

static inline void test_split_piece(test_split_run *r, size_t from, size_t to) {
    azo_str piece;
    piece.ptr = r->input.ptr + from;
    piece.len = to - from;
    r->parser->feed(r->self, test_guard_put(&r->guard, piece), &r->notes);
}

static inline void test_split_check(test_split_run *r, const char *how, size_t at, const char *expected) {
    r->parser->end(r->self, &r->notes);
    if (r->notes.text == NULL || strcmp(r->notes.text, expected) != 0) {
        fail_msg("%s (%lu of %lu bytes):\n     got %s\nexpected %s", how, (unsigned long)at,
                 (unsigned long)r->input.len, r->notes.text == NULL ? "nothing" : r->notes.text, expected);
    }
    test_notes_free(&r->notes);
}

static inline void test_splits(const test_parser *parser, void *self, azo_str input, const char *expected) {
    test_split_run r;
    size_t i;
    size_t width;
    memset(&r, 0, sizeof r);
    r.parser = parser;
    r.self = self;
    r.input = input;
    test_guard_open(&r.guard, input.len);
    for (i = 0; i <= input.len; i++) { /* i == 0: an empty piece, then the whole */
        parser->begin(self);
        test_split_piece(&r, 0, i);
        test_split_piece(&r, i, input.len);
        test_split_check(&r, "cut in two", i, expected);
    }
    parser->begin(self);
    test_split_piece(&r, 0, input.len);
    test_split_check(&r, "whole", input.len, expected);
    for (width = 1; width <= 3; width++) {
        parser->begin(self);
        for (i = 0; i < input.len; i += width) {
            test_split_piece(&r, i, i + width < input.len ? i + width : input.len);
            if (width == 2) {
                test_split_piece(&r, i, i); /* empty ones in between */
            }
        }
        test_split_check(&r, width == 1 ? "byte by byte" : "in small pieces", width, expected);
    }
    test_guard_close(&r.guard);
}

/* ---- test_sentences ---- */

static inline void test_sentences(const char *message) {
    size_t len = strlen(message);
    size_t inner = 0;
    size_t i;
    for (i = 0; i < len; i++) {
        if ((unsigned char)message[i] < 0x20 || message[i] == 0x7f) {
            fail_msg("a control character in: %s", message);
        }
        if (message[i] == '.' && message[i + 1] == ' ' && message[i + 2] >= 'A' && message[i + 2] <= 'Z') {
            inner++;
        }
    }
    if (len == 0 || message[len - 1] != '.' || inner != 1) {
        fail_msg("not two sentences: %s", message);
    }
}

#endif
