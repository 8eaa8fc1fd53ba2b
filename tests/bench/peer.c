/* peer.c - bench_peer CHAIN KEY: the other end of streams, over OpenSSL. Prints its port, serves loopback until it is
 * killed, and an hour at most.
 *
 * A request for /EVENTS/TOGETHER/GAP/... is answered with a chat stream of so many text events, each written by itself
 * as one chunk and one TLS record, GAP microseconds apart, once TOGETHER requests are there. The text of an event is
 * the time at which it is written (CLOCK_MONOTONIC, in nanoseconds). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "bench.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST_SIZE = 16384, STACK_SIZE = 256 * 1024, LIFETIME_S = 3600 };

typedef struct order {
    long events;
    long together;
    long gap_us;
} order;

static SSL_CTX *tls;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static long waiting;
static long round_number;

static void wait_for_others(long together) {
    long mine;
    (void)pthread_mutex_lock(&mutex);
    mine = round_number;
    if (++waiting >= together) {
        waiting = 0;
        round_number++;
        (void)pthread_cond_broadcast(&released);
    }
    while (mine == round_number) {
        (void)pthread_cond_wait(&released, &mutex);
    }
    (void)pthread_mutex_unlock(&mutex);
}

/* Reads one request with its body; false at the end of the connection. */
static bool read_request(SSL *ssl, order *o) {
    static const char length_name[] = "content-length: ";
    char text[REQUEST_SIZE + 1];
    size_t len = 0;
    size_t want = 0;
    do {
        int n = SSL_read(ssl, text + len, (int)(REQUEST_SIZE - len));
        const char *end;
        if (n <= 0) {
            return false;
        }
        len += (size_t)n;
        text[len] = '\0';
        end = strstr(text, "\r\n\r\n");
        if (want == 0 && end != NULL) {
            const char *length = strcasestr(text, length_name);
            want = (size_t)(end + 4 - text);
            want += length == NULL ? 0 : strtoul(length + sizeof length_name - 1, NULL, 10);
        }
    } while ((want == 0 || len < want) && len < REQUEST_SIZE);
    return sscanf(text, "POST /%ld/%ld/%ld/", &o->events, &o->together, &o->gap_us) == 3;
}

static bool write_chunk(SSL *ssl, const char *text) {
    char chunk[1024];
    int len = snprintf(chunk, sizeof chunk, "%zx\r\n%s\r\n", strlen(text), text);
    return SSL_write(ssl, chunk, len) == len;
}

static bool write_event(SSL *ssl, const char *delta, const char *finish) {
    char event[900];
    (void)snprintf(event, sizeof event, BENCH_EVENT, delta, finish);
    return write_chunk(ssl, event);
}

static bool write_text_event(SSL *ssl) {
    char delta[64];
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    (void)snprintf(delta, sizeof delta, "\"content\":\"%lld\"", (long long)now.tv_sec * 1000000000 + now.tv_nsec);
    return write_event(ssl, delta, "null");
}

static bool answer(SSL *ssl, order o) {
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                               "apim-request-id: 6a1d0c1e-93b7-4e52-8f6a-2d7c41e9b3f5\r\n"
                               "x-ratelimit-remaining-requests: 79\r\nx-ratelimit-remaining-tokens: 61353\r\n"
                               "x-ms-region: East US\r\nTransfer-Encoding: chunked\r\n\r\n";
    static const char end[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"; /* and the last chunk */
    struct timespec gap = {o.gap_us / 1000000, o.gap_us % 1000000 * 1000};
    long i;
    wait_for_others(o.together);
    if (SSL_write(ssl, head, sizeof head - 1) <= 0 ||
        !write_event(ssl, "\"content\":\"\",\"role\":\"assistant\"", "null")) {
        return false;
    }
    for (i = 0; i < o.events; i++) {
        if (o.gap_us > 0) {
            (void)nanosleep(&gap, NULL);
        }
        if (!write_text_event(ssl)) {
            return false;
        }
    }
    return write_event(ssl, "", "\"stop\"") && SSL_write(ssl, end, sizeof end - 1) > 0;
}

static void *serve(void *context) {
    int fd = (int)(intptr_t)context;
    SSL *ssl = SSL_new(tls);
    order o;
    if (ssl != NULL && SSL_set_fd(ssl, fd) == 1 && SSL_accept(ssl) == 1) {
        while (read_request(ssl, &o) && answer(ssl, o)) {
        }
        (void)SSL_shutdown(ssl);
    }
    SSL_free(ssl);
    (void)close(fd);
    return NULL;
}

static void *accept_all(void *context) {
    int listener = (int)(intptr_t)context;
    const int yes = 1;
    pthread_attr_t small;
    pthread_t thread;
    (void)pthread_attr_init(&small);
    (void)pthread_attr_setstacksize(&small, STACK_SIZE);
    (void)pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED) {
                continue;
            }
            perror("bench_peer: accept");
            exit(1);
        }
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (pthread_create(&thread, &small, serve, (void *)(intptr_t)fd) != 0) {
            (void)close(fd);
        }
    }
}

static int listen_on_loopback(unsigned *port) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 4096) != 0 || getsockname(listener, (struct sockaddr *)&address, &len) != 0) {
        return -1;
    }
    *port = ntohs(address.sin_port);
    return listener;
}

int main(int argc, char **argv) {
    unsigned port = 0;
    int listener = listen_on_loopback(&port);
    pthread_t thread;
    (void)signal(SIGPIPE, SIG_IGN);
    tls = SSL_CTX_new(TLS_server_method());
    if (argc != 3 || listener < 0 || tls == NULL || SSL_CTX_use_certificate_chain_file(tls, argv[1]) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls, argv[2], SSL_FILETYPE_PEM) != 1 ||
        pthread_create(&thread, NULL, accept_all, (void *)(intptr_t)listener) != 0) {
        fputs("usage: bench_peer CHAIN KEY\n", stderr);
        return 1;
    }
    printf("%u\n", port);
    (void)fflush(stdout);
    (void)alarm(LIFETIME_S);
    return pause();
}
