/* bench.h - what the three clients of the benchmark share.
 *
 *     bench MODE HOST:PORT COUNT          this library            (azo.c)
 *     bench_curl MODE HOST:PORT COUNT     libcurl and cJSON       (curl.c)
 *     bench_floor MODE HOST:PORT COUNT    mbedTLS and nothing else (floor.c)
 *
 * Each is main.c and one of those files, which has a table of modes. A mode makes its calls against servers that
 * bench.sh starts, fails if an answer is not what it should be, and prints what it measured as "metric value" lines:
 *
 *     cold-key, cold-token      COUNT calls, each by a new client; the second fetches a token first. Nothing is
 *                               printed: it is the process that is measured (run.c, valgrind)
 *     cold-state                the same with what BENCH_STATE, a file, has kept of the run before: token and TLS
 *                               session, as far as the client can keep them. The first run makes the file
 *     warm                      COUNT calls on one connection, after a first one that does not count
 *     stream                    one stream of COUNT events, after one that does not count
 *     bulk                      one stream of COUNT megabytes, after a call that does not count
 *     delay                     one stream of COUNT events, a millisecond apart: from the peer's write to the callback
 *     embed-text, embed-base64  COUNT times 100 vectors of 1536 numbers
 *     many                      COUNT streams at one time, in one thread
 *     step, poll                one stream of COUNT events, 10 ms apart, while BENCH_OTHERS requests of the same client
 *                               wait for answers that do not come; moved by an event loop or by poll. The floor has none
 *     begin                     COUNT requests (4,000 at most), all begun, then sent, then cancelled or freed, in an
 *                               order of no order. This library only
 *
 * BENCH_CA names the bundle of root certificates, BENCH_ENTRA the HOST:PORT that issues tokens.
 */
#ifndef AZO_BENCH_H
#define AZO_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct bench {
    const char *address; /* of the service, HOST:PORT */
    const char *entra;
    const char *ca_file;
    const char *state_file;
    long others;
    long count;
} bench;

typedef struct bench_mode {
    const char *name;
    void (*run)(const bench *b);
} bench_mode;

/* Of the client; the last name is NULL. */
extern const bench_mode bench_modes[];

/* What all of them send, and what the answer must look like. */
#define BENCH_SYSTEM "You are a helpful assistant that answers in one sentence."
#define BENCH_QUESTION "Why is the sky blue, and why is it red in the evening?"
#define BENCH_KEY "0123456789abcdef0123456789abcdef"
#define BENCH_TENANT "11111111-2222-3333-4444-555555555555"
#define BENCH_CLIENT "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
#define BENCH_SECRET "a~b.c_d-e+f/g=h&i%j k"
#define BENCH_DEPLOYMENT "gpt-4o"
enum { BENCH_ANSWER_MIN = 200, BENCH_VECTORS = 100, BENCH_DIMENSIONS = 1536, BENCH_MANY_EVENTS = 20 };

/* A chunk of a chat stream as the service sends it, for printf with two strings: the members of its delta, and its
 * finish reason with the quotes, or null. */
#define BENCH_EVENT                                                                                                   \
    "data: {\"choices\":[{\"content_filter_results\":{\"hate\":{\"filtered\":false,\"severity\":\"safe\"},"           \
    "\"self_harm\":{\"filtered\":false,\"severity\":\"safe\"},\"sexual\":{\"filtered\":false,\"severity\":\"safe\"}," \
    "\"violence\":{\"filtered\":false,\"severity\":\"safe\"}},\"delta\":{%s},\"finish_reason\":%s,\"index\":0,"       \
    "\"logprobs\":null}],\"created\":1760000001,\"id\":\"chatcmpl-BenchBenchBenchBenchBenchB\","                      \
    "\"model\":\"gpt-4o-2024-11-20\",\"object\":\"chat.completion.chunk\",\"system_fingerprint\":\"fp_0000000000\"}"  \
    "\n\n"

/* Where streams come from: the peer (peer.c) reads its orders from the path. */
typedef struct bench_stream {
    long events;
    long together; /* waits until so many requests are there */
    long gap_us;   /* between the events */
} bench_stream;

enum { BENCH_URL_SIZE = 256 };
/* https://HOST:PORT/EVENTS/TOGETHER/GAP */
void bench_stream_url(char out[BENCH_URL_SIZE], const bench *b, bench_stream s);
void bench_url(char out[BENCH_URL_SIZE], const char *address, const char *path);

/* An endpoint that takes connections and requests and says nothing; returns its descriptor. */
int bench_listen_silently(char url[BENCH_URL_SIZE]);

/* Ends the program with a message unless `ok`. */
void bench_require(bool ok, const char *what);

/* What the run before has left in BENCH_STATE, and what it is to leave for the next one. */
enum { BENCH_MAX_STATE = 64 * 1024 };
size_t bench_load(const bench *b, char state[BENCH_MAX_STATE]); /* 0: nothing */
void bench_store(const bench *b, const void *state, size_t len);

/* Between the two: time, processor time and heap calls, printed per unit. */
void bench_start(void);
void bench_stop(long units);

/* Notes the delay of an event whose text is the time at which it was written, or is not kept at all. */
void bench_delay(const char *text, size_t len);
void bench_delays_print(void);

/* The process so far; heap.c counts, heap_off.c does not. */
typedef struct bench_heap {
    bool counted;
    unsigned long calls; /* allocations and resizes */
    size_t live;         /* bytes asked for */
    size_t peak;
} bench_heap;
bench_heap bench_heap_now(void);

#endif
