/* relay.c - bench_relay RTT_MS PORT: prints a port of its own and passes what comes there on to PORT of loopback, and
 * back, half a round trip later each way. The handshake of TCP, which the kernel completes at once, is made up for:
 * nothing that a client sends arrives before one and a half round trips after its connection was taken. Until it is
 * killed, and an hour at most. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PAIRS = 256, PIECE_SIZE = 16384, LIFETIME_S = 3600 };

/* On its way; len 0 is the end of the stream. */
typedef struct piece {
    struct piece *next;
    int64_t due;
    size_t len;
    size_t sent;
    char bytes[PIECE_SIZE];
} piece;

typedef struct direction {
    int from;
    int to;
    int64_t not_before; /* when its first bytes may count as sent */
    bool ended;         /* the sender has nothing more */
    bool closed;        /* and the receiver knows */
    piece *first;
    piece *last;
} direction;

typedef struct pair {
    bool used;
    direction ways[2]; /* to the server, to the client */
} pair;

static pair pairs[MAX_PAIRS];
static int64_t half_trip_ns;

static int64_t now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static struct sockaddr_in loopback(unsigned port) {
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)port);
    return address;
}

static void prepare_socket(int fd) {
    const int yes = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
}

static void take_client(int listener, unsigned port) {
    struct sockaddr_in address = loopback(port);
    int client = accept(listener, NULL, NULL);
    int server = socket(AF_INET, SOCK_STREAM, 0);
    pair *p = pairs;
    while (p < pairs + MAX_PAIRS && p->used) {
        p++;
    }
    if (client < 0 || server < 0 || p == pairs + MAX_PAIRS ||
        connect(server, (struct sockaddr *)&address, sizeof address) != 0) {
        (void)close(client);
        (void)close(server);
        return;
    }
    prepare_socket(client);
    prepare_socket(server);
    memset(p, 0, sizeof *p);
    p->used = true;
    p->ways[0].from = client;
    p->ways[0].to = server;
    p->ways[0].not_before = now_ns() + 2 * half_trip_ns;
    p->ways[1].from = server;
    p->ways[1].to = client;
}

static void take_bytes(direction *d) {
    int64_t now = now_ns();
    piece *p = (piece *)malloc(sizeof *p);
    ssize_t n = p == NULL ? -1 : recv(d->from, p->bytes, sizeof p->bytes, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        free(p);
        return;
    }
    if (p == NULL) {
        fputs("bench_relay: no memory\n", stderr);
        exit(1);
    }
    d->ended = n <= 0;
    p->next = NULL;
    p->len = n > 0 ? (size_t)n : 0;
    p->sent = 0;
    p->due = (now > d->not_before ? now : d->not_before) + half_trip_ns;
    if (d->last != NULL) {
        d->last->next = p;
    } else {
        d->first = p;
    }
    d->last = p;
}

static void drop_first(direction *d) {
    piece *p = d->first;
    d->first = p->next;
    d->last = d->first == NULL ? NULL : d->last;
    free(p);
}

/* What is due goes out, as far as the receiver takes it. */
static void give_bytes(direction *d, int64_t now) {
    while (d->first != NULL && d->first->due <= now) {
        piece *p = d->first;
        if (p->len == 0) {
            (void)shutdown(d->to, SHUT_WR);
            d->closed = true;
        } else {
            ssize_t n = send(d->to, p->bytes + p->sent, p->len - p->sent, MSG_NOSIGNAL);
            if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
                p->due = now + 1000000;
                return;
            }
            p->sent += n > 0 ? (size_t)n : p->len - p->sent; /* a receiver that is gone takes everything */
            if (p->sent < p->len) {
                continue;
            }
        }
        drop_first(d);
    }
}

static void end_pair(pair *p) {
    int i;
    for (i = 0; i < 2; i++) {
        while (p->ways[i].first != NULL) {
            drop_first(&p->ways[i]);
        }
        (void)close(p->ways[i].from);
    }
    p->used = false;
}

/* Fills in what to wait for and, in *due, until when. */
static nfds_t plan(struct pollfd *wishes, direction **owners, int64_t *due) {
    nfds_t count = 1;
    pair *p;
    int i;
    *due = INT64_MAX;
    for (p = pairs; p < pairs + MAX_PAIRS; p++) {
        for (i = 0; p->used && i < 2; i++) {
            direction *d = &p->ways[i];
            if (d->first != NULL && d->first->due < *due) {
                *due = d->first->due;
            }
            if (!d->ended) {
                wishes[count].fd = d->from;
                wishes[count].events = POLLIN;
                owners[count] = d;
                count++;
            }
        }
    }
    return count;
}

static void relay(int listener, unsigned port) {
    static struct pollfd wishes[1 + 2 * MAX_PAIRS];
    static direction *owners[1 + 2 * MAX_PAIRS];
    struct timespec wait;
    int64_t due;
    int64_t now;
    nfds_t count;
    nfds_t i;
    pair *p;
    wishes[0].fd = listener;
    wishes[0].events = POLLIN;
    for (;;) {
        count = plan(wishes, owners, &due);
        now = now_ns();
        due = due < now ? now : due;
        wait.tv_sec = due == INT64_MAX ? LIFETIME_S : (time_t)((due - now) / 1000000000);
        wait.tv_nsec = due == INT64_MAX ? 0 : (long)((due - now) % 1000000000);
        if (ppoll(wishes, count, &wait, NULL) < 0 && errno != EINTR) {
            return;
        }
        for (i = 1; i < count; i++) {
            if (wishes[i].revents != 0) {
                take_bytes(owners[i]);
            }
        }
        if ((wishes[0].revents & POLLIN) != 0) {
            take_client(listener, port);
        }
        now = now_ns();
        for (p = pairs; p < pairs + MAX_PAIRS; p++) {
            if (p->used) {
                give_bytes(&p->ways[0], now);
                give_bytes(&p->ways[1], now);
                if (p->ways[0].closed && p->ways[1].closed) {
                    end_pair(p);
                }
            }
        }
    }
}

int main(int argc, char **argv) {
    struct sockaddr_in address = loopback(0);
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (argc != 3 || listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 256) != 0 || getsockname(listener, (struct sockaddr *)&address, &len) != 0) {
        fputs("usage: bench_relay RTT_MS PORT\n", stderr);
        return 1;
    }
    half_trip_ns = strtol(argv[1], NULL, 10) * 500000;
    (void)alarm(LIFETIME_S);
    printf("%u\n", ntohs(address.sin_port));
    (void)fflush(stdout);
    relay(listener, (unsigned)strtoul(argv[2], NULL, 10));
    return 1;
}
