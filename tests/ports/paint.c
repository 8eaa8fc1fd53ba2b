/* paint.c - how deep the stack of a program gets. The program is compiled with -Dmain=painted_main and linked with
 * this, which runs it on a thread whose stack was filled with a pattern, and then prints "stack: N" on standard error.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { STACK_BYTES = 1024 * 1024, PAINT = 0xA5 };

int painted_main(int argc, char **argv);

typedef struct call {
    int argc;
    char **argv;
    int status;
} call;

static void *run(void *argument) {
    call *c = (call *)argument;
    c->status = painted_main(c->argc, c->argv);
    return NULL;
}

/* Stacks grow downwards on every machine that we know; what is untouched is at the low end. */
static size_t untouched(const unsigned char *stack) {
    size_t i = 0;
    while (i < STACK_BYTES && stack[i] == PAINT) {
        i++;
    }
    return i;
}

int main(int argc, char **argv) {
    void *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    call c = {argc, argv, 1};
    pthread_attr_t attributes;
    pthread_t thread;
    if (stack == MAP_FAILED) {
        return 1;
    }
    memset(stack, PAINT, STACK_BYTES);
    if (pthread_attr_init(&attributes) != 0 || pthread_attr_setstack(&attributes, stack, STACK_BYTES) != 0 ||
        pthread_create(&thread, &attributes, run, &c) != 0 || pthread_join(thread, NULL) != 0) {
        return 1;
    }
    fflush(stdout);
    fprintf(stderr, "stack: %lu\n", (unsigned long)(STACK_BYTES - untouched((const unsigned char *)stack)));
    return c.status;
}
