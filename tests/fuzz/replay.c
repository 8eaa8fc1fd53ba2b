/* replay.c - runs a fuzz target where there is no libFuzzer: each file of a folder as it is, then with changes.
 *
 *     AZO_FUZZ_TARGET=json replay FOLDER CHANGES     prints how many inputs ran
 *
 * The changes are the same in every run.
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_INPUT = 4096, MAX_INPUTS = 2048 };

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct input {
    size_t len;
    uint8_t bytes[MAX_INPUT];
} input;

static input inputs[MAX_INPUTS];
static size_t count;
static uint32_t state = 1;

static uint32_t below(size_t limit) {
    state = state * 1664525u + 1013904223u;
    return limit == 0 ? 0 : (state >> 8) % (uint32_t)limit;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void read_all(const char *folder) {
    struct dirent **names = NULL;
    int found = scandir(folder, &names, NULL, by_name);
    for (int i = 0; i < found; i++) {
        char path[1024];
        (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        FILE *file = names[i]->d_name[0] != '.' && count < MAX_INPUTS ? fopen(path, "rb") : NULL;
        if (file != NULL) {
            inputs[count].len = fread(inputs[count].bytes, 1, MAX_INPUT, file);
            count++;
            (void)fclose(file);
        }
        free(names[i]);
    }
    free(names);
}

/* Takes out or puts in `len` bytes, which are then junk. */
static void resize(input *in, size_t at, size_t len, int grow) {
    size_t behind = in->len - at;
    if (grow != 0 && in->len + len <= MAX_INPUT) {
        memmove(in->bytes + at + len, in->bytes + at, behind);
        in->len += len;
        for (size_t i = 0; i < len; i++) {
            in->bytes[at + i] = (uint8_t)below(256);
        }
    } else if (grow == 0 && len <= behind) {
        memmove(in->bytes + at, in->bytes + at + len, behind - len);
        in->len -= len;
    }
}

/* One small change. */
static void change(input *in) {
    static const uint8_t telling[] = "\"\\{}[]:,\r\n\0 0-+.eE\x7f\x80\xc3\xff\xfe\xfd\xfc\xfb";
    const input *other = &inputs[below(count)];
    size_t at = below(in->len + 1);
    size_t from = below(other->len + 1);
    size_t len = 1 + below(8);
    switch (below(6)) {
    case 0:
        resize(in, at, len, 0);
        break;
    case 1:
        resize(in, at, len, 1);
        break;
    case 2: /* the end of another one */
        len = other->len - from < MAX_INPUT - at ? other->len - from : MAX_INPUT - at;
        memcpy(in->bytes + at, other->bytes + from, len);
        in->len = at + len;
        break;
    case 3:
        in->len = at;
        break;
    default:
        if (at < in->len) {
            in->bytes[at] = below(2) == 0 ? telling[below(sizeof telling - 1)] : (uint8_t)below(256);
        }
        break;
    }
}

int main(int argc, char **argv) {
    static input one;
    if (argc != 3) {
        (void)fprintf(stderr, "usage: AZO_FUZZ_TARGET=name %s FOLDER CHANGES\n", argv[0]);
        return 2;
    }
    (void)LLVMFuzzerInitialize(&argc, &argv);
    read_all(argv[1]);
    size_t changes = count == 0 ? 0 : strtoul(argv[2], NULL, 10);
    for (size_t i = 0; i < count + changes; i++) {
        one = inputs[i < count ? i : below(count)];
        for (size_t times = i < count ? 0 : 1 + below(4); times > 0; times--) {
            change(&one);
        }
        (void)LLVMFuzzerTestOneInput(one.bytes, one.len);
    }
    (void)printf("%lu inputs\n", (unsigned long)(count + changes));
    return count > 0 ? 0 : 1;
}
