/* heap.c - counts every allocation of the process, shared libraries included, by taking malloc's place. Each block
 * has its size and the start of its memory in front of it. Single-threaded programs only; needs glibc. */
#include "bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_calloc(size_t number, size_t size);
extern void *__libc_malloc(size_t size);
extern void __libc_free(void *ptr);
void *memalign(size_t align, size_t size);
size_t malloc_usable_size(void *ptr);

typedef struct header {
    size_t size;
    void *memory;
} header;

static bench_heap heap = {true, 0, 0, 0};

bench_heap bench_heap_now(void) {
    return heap;
}

static void count(size_t gone, size_t come) {
    heap.calls += come > 0;
    heap.live = heap.live - gone + come;
    heap.peak = heap.live > heap.peak ? heap.live : heap.peak;
}

static header *header_of(void *ptr) {
    return (header *)ptr - 1;
}

static void *place(size_t align, size_t size, bool zeroed) {
    size_t extra = sizeof(header) + (align > sizeof(header) ? align : 0);
    char *memory;
    char *ptr;
    if (size > SIZE_MAX - extra) {
        errno = ENOMEM;
        return NULL;
    }
    memory = (char *)(zeroed ? __libc_calloc(1, size + extra) : __libc_malloc(size + extra));
    if (memory == NULL) {
        return NULL;
    }
    ptr = memory + sizeof(header);
    if (align > sizeof(header)) {
        ptr += (align - (uintptr_t)ptr % align) % align;
    }
    header_of(ptr)->size = size;
    header_of(ptr)->memory = memory;
    return ptr;
}

static void *counted(void *ptr, size_t size) {
    if (ptr != NULL) {
        count(0, size);
    }
    return ptr;
}

void *malloc(size_t size) {
    return counted(place(1, size, false), size);
}

void *calloc(size_t number, size_t each) {
    if (each != 0 && number > SIZE_MAX / each) {
        errno = ENOMEM;
        return NULL;
    }
    return counted(place(1, number * each, true), number * each);
}

void free(void *ptr) {
    if (ptr != NULL) {
        count(header_of(ptr)->size, 0);
        __libc_free(header_of(ptr)->memory);
    }
}

void *realloc(void *ptr, size_t size) {
    void *moved;
    size_t old;
    if (ptr == NULL) {
        return malloc(size);
    }
    if ((moved = place(1, size, false)) == NULL) {
        return NULL;
    }
    old = header_of(ptr)->size;
    memcpy(moved, ptr, old < size ? old : size);
    count(old, size);
    __libc_free(header_of(ptr)->memory);
    return moved;
}

void *memalign(size_t align, size_t size) {
    return counted(place(align, size, false), size);
}

void *aligned_alloc(size_t align, size_t size) {
    return memalign(align, size);
}

int posix_memalign(void **out, size_t align, size_t size) {
    *out = memalign(align, size);
    return *out == NULL ? ENOMEM : 0;
}

size_t malloc_usable_size(void *ptr) {
    return ptr == NULL ? 0 : header_of(ptr)->size;
}
