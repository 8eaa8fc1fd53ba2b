/* fuzz.h - what the fuzz targets share. Include it after the implementation of azopenai.h.
 *
 * A target is a function of (steer, bytes). `bytes` lies in a heap block of exactly its size, so that reading one byte
 * too far is seen. `steer`, the first byte of the input, chooses how the rest is cut into pieces, and where a target
 * says so some option; seeds and dictionaries need not know of it.
 *
 *     fuzz_cut cut = fuzz_cut_of(steer);
 *     while (rest.len > 0) feed(fuzz_piece(&cut, &rest));
 *
 *     FUZZ_CHECK(condition)             a property; ends the program with the line that does not hold
 */
#ifndef AZO_TEST_FUZZ_H
#define AZO_TEST_FUZZ_H

#include "../support.h"

#define SCRIPT_MAX_CONNS 32
#include "../script.h"

#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#define FUZZ_MEMORY 1
#endif
#endif
#ifndef FUZZ_MEMORY
#define FUZZ_MEMORY 0
#endif

#define FUZZ_CHECK(condition) fuzz_check((condition), #condition, __FILE__, __LINE__)
#define FUZZ_COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void fuzz_check(bool holds, const char *what, const char *file, int line) {
    if (!holds) {
        fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
        abort();
    }
}

/* ---- texts ---- */

static azo_str fuzz_view(const char *ptr, size_t len) {
    azo_str view;
    view.ptr = ptr;
    view.len = len;
    return view;
}

/* A block of exactly these bytes, to be freed by free(). */
static char *fuzz_exact(azo_str bytes) {
    char *copy = (char *)malloc(bytes.len > 0 ? bytes.len : 1);
    FUZZ_CHECK(copy != NULL);
    if (bytes.len > 0) {
        memcpy(copy, bytes.ptr, bytes.len);
    }
    return copy;
}

/* A C string: ends at the first NUL of the bytes, if there is one. */
static char *fuzz_text(azo_str bytes) {
    char *copy = (char *)malloc(bytes.len + 1);
    FUZZ_CHECK(copy != NULL);
    if (bytes.len > 0) {
        memcpy(copy, bytes.ptr, bytes.len);
    }
    copy[bytes.len] = '\0';
    return copy;
}

static bool fuzz_same(azo_str a, azo_str b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

static bool fuzz_within(azo_str part, azo_str whole) {
    return part.ptr >= whole.ptr && part.ptr + part.len <= whole.ptr + whole.len;
}

/* What stands before the next `mark`, or all there is; the mark is taken too. */
static azo_str fuzz_field(azo_str *rest, char mark) {
    const char *at = rest->len == 0 ? NULL : (const char *)memchr(rest->ptr, mark, rest->len);
    azo_str field = fuzz_view(rest->ptr, at == NULL ? rest->len : (size_t)(at - rest->ptr));
    size_t taken = field.len + (at == NULL ? 0 : 1);
    *rest = taken == 0 ? *rest : fuzz_view(rest->ptr + taken, rest->len - taken);
    return field;
}

static azo_str fuzz_notes_view(const test_notes *notes) {
    return fuzz_view(notes->text, notes->len);
}

/* ---- cuts ---- */

typedef struct fuzz_cut {
    uint32_t state;
    size_t width; /* the longest piece; 0: all at once */
} fuzz_cut;

static fuzz_cut fuzz_cut_of(unsigned char steer) {
    static const size_t widths[] = {1, 2, 3, 7, 16, 64, 300, 0};
    fuzz_cut cut;
    cut.state = (uint32_t)steer * 2654435761u + 1;
    cut.width = widths[steer & 7];
    return cut;
}

static uint32_t fuzz_random(fuzz_cut *cut) {
    cut->state = cut->state * 1664525u + 1013904223u;
    return cut->state >> 8;
}

static size_t fuzz_width(fuzz_cut *cut) {
    return cut->width == 0 ? SIZE_MAX : 1 + fuzz_random(cut) % cut->width;
}

/* Off the front of *rest; sometimes an empty one. */
static azo_str fuzz_piece(fuzz_cut *cut, azo_str *rest) {
    size_t width = fuzz_random(cut) % 16 == 0 ? 0 : fuzz_width(cut);
    azo_str piece = fuzz_view(rest->ptr, width < rest->len ? width : rest->len);
    *rest = fuzz_view(rest->ptr + piece.len, rest->len - piece.len);
    return piece;
}

/* ---- memory ---- */

/* Bytes that must be wiped before a block is let go; NULL: none. */
static const char *fuzz_wiped;

/* Without memcmp, which libFuzzer takes note of every time. */
static bool fuzz_holds(azo_str bytes, const char *needle) {
    size_t len = strlen(needle);
    while (bytes.len >= len) {
        const char *at = (const char *)memchr(bytes.ptr, needle[0], bytes.len - len + 1);
        size_t same = 0;
        if (at == NULL) {
            return false;
        }
        while (same < len && at[same] == needle[same]) {
            same++;
        }
        if (same == len) {
            return true;
        }
        bytes.len -= (size_t)(at + 1 - bytes.ptr);
        bytes.ptr = at + 1;
    }
    return false;
}

/* test_memory fills fresh blocks with junk; for MemorySanitizer they count as unset all the same. */
static void *fuzz_resize(void *ptr, size_t old_size, size_t new_size, void *user_data) {
    bool looks = ptr != NULL && fuzz_wiped != NULL && !FUZZ_MEMORY; /* which does not like a look at unset bytes */
    FUZZ_CHECK(!looks || !fuzz_holds(fuzz_view((const char *)ptr, old_size), fuzz_wiped));
    char *fresh = (char *)test_memory_resize(ptr, old_size, new_size, user_data);
#if FUZZ_MEMORY
    if (fresh != NULL && new_size > old_size) {
        __msan_poison(fresh + old_size, new_size - old_size);
    }
#endif
    return fresh;
}

static void fuzz_memory_open(test_memory *m) {
    test_memory_open(m);
    m->hook.resize = fuzz_resize;
    fuzz_wiped = NULL;
}

/* ---- what people are shown ---- */

/* What nobody may be shown: secrets that the client has. */
static const char *fuzz_secrets[2];

/* One line of text without a control byte, and without a secret. */
static void fuzz_check_shown(const char *text) {
    for (const char *at = text; *at != '\0'; at++) {
        FUZZ_CHECK((unsigned char)*at >= 0x20 && *at != 0x7f);
    }
    for (size_t i = 0; i < FUZZ_COUNT(fuzz_secrets); i++) {
        FUZZ_CHECK(fuzz_secrets[i] == NULL || strstr(text, fuzz_secrets[i]) == NULL);
    }
}

/* A failure explains itself in two sentences, and what it quotes is fit for a terminal. */
static void fuzz_check_error(const azo_error *e, azo_result result) {
    FUZZ_CHECK(e->code == (result == AZO_PENDING ? AZO_OK : result));
    if (result < 0) {
        test_sentences(e->message);
        fuzz_check_shown(e->message);
        fuzz_check_shown(e->detail);
        fuzz_check_shown(e->service_code);
        fuzz_check_shown(e->request_id);
        FUZZ_CHECK((e->who == AZO_WHO_NOBODY) == (result == AZO_ERR_CANCELLED));
        FUZZ_CHECK(strcmp(azo_result_name(result), "?") != 0);
    }
}

static void fuzz_note_error(test_notes *notes, const azo_error *e) {
    test_note(notes, "%s status %d who %d wait %ld at %lu: ", azo_result_name(e->code), e->http_status, (int)e->who,
              (long)e->retry_after_ms, (unsigned long)e->json_offset);
    test_note_text(notes, azo_s(e->message));
    test_note_text(notes, azo_s(e->detail));
    test_note_text(notes, azo_s(e->service_code));
    test_note_text(notes, azo_s(e->request_id));
}

/* The same in both ways of coming by it. */
static void fuzz_check_equal(const test_notes *a, const test_notes *b) {
    if (!fuzz_same(fuzz_notes_view(a), fuzz_notes_view(b))) {
        fprintf(stderr, "one way:   %s\nthe other: %s\n", a->text != NULL ? a->text : "",
                b->text != NULL ? b->text : "");
        abort();
    }
}

#endif
