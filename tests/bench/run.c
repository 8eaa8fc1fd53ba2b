/* run.c - bench_run COMMAND...: runs it and prints what the process has cost, from its start to its end. */
#ifndef _XOPEN_SOURCE
#define _XOPEN_SOURCE 700
#endif

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_us(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static double microseconds(struct timeval t) {
    return (double)t.tv_sec * 1e6 + (double)t.tv_usec;
}

int main(int argc, char **argv) {
    struct rusage usage;
    double began = now_us();
    double wall;
    int status = 0;
    pid_t child = argc > 1 ? fork() : -1;
    if (child == 0) {
        (void)execvp(argv[1], argv + 1);
        perror(argv[1]);
        _exit(127);
    }
    if (child < 0) {
        fputs("usage: bench_run COMMAND...\n", stderr);
        return 2;
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    wall = now_us() - began;
    (void)getrusage(RUSAGE_CHILDREN, &usage);
    printf("wall_us %.2f\ncpu_us %.2f\nrss_kb %ld\n", wall, microseconds(usage.ru_utime) + microseconds(usage.ru_stime),
           usage.ru_maxrss);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
