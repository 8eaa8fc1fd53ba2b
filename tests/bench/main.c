/* main.c - the program round each client: arguments, measuring, printing. */
#ifndef _XOPEN_SOURCE
#define _XOPEN_SOURCE 700
#endif

#include "bench.h"

#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

typedef struct reading {
    double wall_us;
    double cpu_us;
    double rss_kb; /* the most so far */
    bench_heap heap;
} reading;

enum { MAX_DELAYS = 100000 };

static reading at_start;
static double delays_us[MAX_DELAYS];
static size_t delay_count;

void bench_require(bool ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "bench: failed: %s\n", what);
        exit(1);
    }
}

void bench_url(char out[BENCH_URL_SIZE], const char *address, const char *path) {
    int len = snprintf(out, BENCH_URL_SIZE, "https://%s%s", address, path);
    bench_require(len > 0 && len < BENCH_URL_SIZE, "the address is too long");
}

void bench_stream_url(char out[BENCH_URL_SIZE], const bench *b, bench_stream s) {
    char path[96];
    (void)snprintf(path, sizeof path, "/%ld/%ld/%ld", s.events, s.together, s.gap_us);
    bench_url(out, b->address, path);
}

size_t bench_load(const bench *b, char state[BENCH_MAX_STATE]) {
    FILE *file;
    size_t len = 0;
    bench_require(b->state_file != NULL, "BENCH_STATE is not set");
    file = fopen(b->state_file, "rb");
    if (file != NULL) {
        len = fread(state, 1, BENCH_MAX_STATE, file);
        (void)fclose(file);
    }
    return len;
}

void bench_store(const bench *b, const void *state, size_t len) {
    FILE *file = fopen(b->state_file, "wb");
    bench_require(file != NULL && fwrite(state, 1, len, file) == len && fclose(file) == 0, "keeping the state");
}

int bench_listen_silently(char url[BENCH_URL_SIZE]) {
    struct sockaddr_in address;
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bench_require(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 4096) == 0 &&
                      getsockname(fd, (struct sockaddr *)&address, &len) == 0,
                  "listening");
    (void)snprintf(url, BENCH_URL_SIZE, "http://127.0.0.1:%u", (unsigned)ntohs(address.sin_port));
    return fd;
}

static int64_t now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static double microseconds(struct timeval t) {
    return (double)t.tv_sec * 1e6 + (double)t.tv_usec;
}

static reading read_all(void) {
    struct rusage usage;
    reading r;
    (void)getrusage(RUSAGE_SELF, &usage);
    r.wall_us = (double)now_ns() / 1e3;
    r.cpu_us = microseconds(usage.ru_utime) + microseconds(usage.ru_stime);
    r.rss_kb = (double)usage.ru_maxrss;
    r.heap = bench_heap_now();
    return r;
}

void bench_start(void) {
    at_start = read_all();
}

void bench_stop(long units) {
    reading end = read_all();
    double n = (double)units;
    printf("wall_us %.2f\n", (end.wall_us - at_start.wall_us) / n);
    printf("cpu_us %.2f\n", (end.cpu_us - at_start.cpu_us) / n);
    printf("rss_kb %.2f\n", (end.rss_kb - at_start.rss_kb) / n);
    if (end.heap.counted) {
        printf("heap_calls %.2f\n", (double)(end.heap.calls - at_start.heap.calls) / n);
    }
}

void bench_delay(const char *text, size_t len) {
    int64_t now = now_ns();
    char digits[32];
    char *end;
    long long written;
    if (len == 0 || len >= sizeof digits || delay_count == MAX_DELAYS) {
        return;
    }
    memcpy(digits, text, len);
    digits[len] = '\0';
    written = strtoll(digits, &end, 10);
    if (*end == '\0') {
        delays_us[delay_count++] = (double)(now - written) / 1e3;
    }
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

void bench_delays_print(void) {
    bench_require(delay_count > 0, "no event carried the time");
    qsort(delays_us, delay_count, sizeof *delays_us, by_size);
    printf("delay_us %.2f\n", delays_us[delay_count / 2]);
}

int main(int argc, char **argv) {
    const bench_mode *mode = bench_modes;
    bench b;
    bench_heap heap;
    b.entra = getenv("BENCH_ENTRA");
    b.ca_file = getenv("BENCH_CA");
    b.state_file = getenv("BENCH_STATE");
    b.others = getenv("BENCH_OTHERS") != NULL ? strtol(getenv("BENCH_OTHERS"), NULL, 10) : 0;
    if (argc != 4 || b.ca_file == NULL) {
        fprintf(stderr,
                "usage: BENCH_CA=FILE [BENCH_ENTRA=HOST:PORT] [BENCH_STATE=FILE] [BENCH_OTHERS=NUMBER] "
                "%s MODE HOST:PORT COUNT\nmodes:",
                argv[0]);
        for (; mode->name != NULL; mode++) {
            fprintf(stderr, " %s", mode->name);
        }
        fputc('\n', stderr);
        return 2;
    }
    b.address = argv[2];
    b.count = strtol(argv[3], NULL, 10);
    bench_require(b.count > 0, "COUNT is not a number");
    while (mode->name != NULL && strcmp(mode->name, argv[1]) != 0) {
        mode++;
    }
    bench_require(mode->name != NULL, "there is no such mode");
    mode->run(&b);
    heap = bench_heap_now();
    if (heap.counted) {
        printf("heap_peak_kb %.1f\n", (double)heap.peak / 1024);
    }
    return 0;
}
