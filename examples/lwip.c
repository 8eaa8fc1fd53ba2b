/* lwip.c - a streamed chat over a network stack that is not the system's: lwIP, with a resolver of the program's own.
 *
 *     lwip [PROMPT]
 *
 * The first half is what firmware would have: an azo_transport over lwIP's sockets, in about 100 lines. The second
 * half stands in for the cable: lwIP runs inside this process, on an interface of its own, and a gateway there
 * carries each connection to the same port of this machine's loopback. So it talks to services on this machine only,
 * such as the one of the tests. Configuration comes from the environment, as for chat.
 *
 *     cc -std=c99 -D_DEFAULT_SOURCE -I. -I/usr/include/lwip examples/lwip.c examples/azopenai.c -o lwip -llwip
 *        -lmbedtls -lmbedx509 -lmbedcrypto -lpthread
 *
 * The library may be built with AZO_NO_SOCKETS: none of its own is used. */
#include "azopenai.h"
#include <lwip/netif.h>
#include <lwip/sockets.h>
#include <lwip/tcpip.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- The transport ---- */

/* The one interface that there is, and the resolver: whoever is asked for, the gateway on it knows the way. */
static const char gateway[] = "10.1.1.1";

static bool resolve(const char *host, struct sockaddr_in *address) {
    address->sin_addr.s_addr = inet_addr(gateway);
    return host[0] != '\0';
}

/* Sockets of lwIP are small numbers; a pointer to one is what the library keeps. */
static int number_of(const void *conn) {
    return *(const int *)conn;
}

static void link_close(void *conn, void *user_data) {
    (void)user_data;
    (void)lwip_close(number_of(conn));
    free(conn);
}

static azo_result link_open(const azo_target *to, void **conn, void *user_data) {
    struct sockaddr_in address;
    int *number = (int *)malloc(sizeof *number);
    (void)user_data;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(to->port);
    if (number == NULL) {
        return AZO_ERR_MEMORY;
    }
    *number = resolve(to->host, &address) ? lwip_socket(AF_INET, SOCK_STREAM, 0) : -1;
    if (*number < 0) {
        free(number);
        return AZO_ERR_RESOLVE;
    }
    (void)lwip_fcntl(*number, F_SETFL, O_NONBLOCK);
    if (lwip_connect(*number, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS) {
        link_close(number, NULL);
        return AZO_ERR_CONNECT;
    }
    *conn = number;
    return AZO_OK;
}

static int link_connect(void *conn, void *user_data) {
    struct pollfd wait = {0};
    int error = 0;
    socklen_t size = sizeof error;
    (void)user_data;
    wait.fd = number_of(conn);
    wait.events = POLLOUT;
    if (lwip_poll(&wait, 1, 0) < 1) {
        return AZO_IO_AGAIN;
    }
    if (lwip_getsockopt(wait.fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0) {
        errno = error;
        return AZO_ERR_CONNECT;
    }
    return 0;
}

static ptrdiff_t again_or_closed(ssize_t moved) {
    return moved >= 0 ? moved : errno == EWOULDBLOCK ? AZO_IO_AGAIN : AZO_ERR_CLOSED;
}

static ptrdiff_t link_recv(void *conn, void *buf, size_t cap, void *user_data) {
    (void)user_data;
    return again_or_closed(lwip_recv(number_of(conn), buf, cap, 0));
}

static ptrdiff_t link_send(void *conn, const void *buf, size_t len, void *user_data) {
    (void)user_data;
    return again_or_closed(lwip_send(number_of(conn), buf, len, 0));
}

static size_t link_watch(void *conn, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms, void *user_data) {
    (void)timeout_ms;
    (void)user_data;
    if (cap > 0) {
        out->fd = number_of(conn);
        out->events = want;
    }
    return 1;
}

/* For blocking calls: sleeps until lwIP has something. */
static int link_poll(azo_watch *set, size_t count, int32_t timeout_ms, void *user_data) {
    struct pollfd waits[16];
    int ready;
    size_t i;
    (void)user_data;
    memset(waits, 0, sizeof waits);
    count = count < 16 ? count : 16;
    for (i = 0; i < count; i++) {
        waits[i].fd = (int)set[i].fd;
        waits[i].events =
            (short)((set[i].events & AZO_POLL_IN ? POLLIN : 0) | (set[i].events & AZO_POLL_OUT ? POLLOUT : 0));
    }
    ready = lwip_poll(waits, (nfds_t)count, timeout_ms);
    for (i = 0; i < count; i++) {
        bool failed = (waits[i].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0;
        set[i].events = failed ? AZO_POLL_IN | AZO_POLL_OUT : 0;
        set[i].events |= waits[i].revents & POLLIN ? AZO_POLL_IN : 0;
        set[i].events |= waits[i].revents & POLLOUT ? AZO_POLL_OUT : 0;
    }
    return ready;
}

/* ---- The cable: an interface whose packets come back, and a gateway on it ---- */

/* One direction of a connection that the gateway carries. */
typedef struct carrier {
    int from;
    int to;
    bool outwards; /* from lwIP to this machine */
} carrier;

/* Threads end with the process; a firmware has none of this. */
static bool start_thread(void *(*run)(void *), void *argument) {
    pthread_t thread;
    return pthread_create(&thread, NULL, run, argument) == 0 && pthread_detach(thread) == 0;
}

static bool carry_all(const carrier *c, const char *bytes, ssize_t len) {
    while (len > 0) {
        size_t left = (size_t)len;
        ssize_t sent = c->outwards ? send(c->to, bytes, left, MSG_NOSIGNAL) : lwip_send(c->to, bytes, left, 0);
        if (sent <= 0) {
            return false;
        }
        bytes += sent;
        len -= sent;
    }
    return true;
}

static void *carry(void *argument) {
    carrier *c = (carrier *)argument;
    char bytes[4096];
    ssize_t got;
    do {
        got = c->outwards ? lwip_recv(c->from, bytes, sizeof bytes, 0) : recv(c->from, bytes, sizeof bytes, 0);
    } while (got > 0 && carry_all(c, bytes, got));
    (void)(c->outwards ? shutdown(c->to, SHUT_WR) : lwip_shutdown(c->to, SHUT_WR));
    free(c);
    return NULL;
}

static bool start_carrier(int from, int to, bool outwards) {
    carrier *c = (carrier *)malloc(sizeof *c);
    if (c == NULL) {
        return false;
    }
    c->from = from;
    c->to = to;
    c->outwards = outwards;
    return start_thread(carry, c);
}

static int dial_machine(uint16_t port) {
    struct sockaddr_in address;
    int number = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (number >= 0 && connect(number, (struct sockaddr *)&address, sizeof address) != 0) {
        (void)close(number);
        number = -1;
    }
    return number;
}

static void *accept_for_ever(void *argument) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    int listener = *(int *)argument;
    int inside;
    free(argument);
    while ((inside = lwip_accept(listener, NULL, NULL)) >= 0) {
        int outside = -1;
        if (lwip_getsockname(inside, (struct sockaddr *)&address, &size) == 0) {
            outside = dial_machine(ntohs(address.sin_port));
        }
        if (outside < 0 || !start_carrier(inside, outside, true) || !start_carrier(outside, inside, false)) {
            (void)lwip_close(inside);
        }
    }
    return NULL;
}

/* The gateway listens on the ports that the environment's addresses end in. */
static bool gateway_serves(const char *variable) {
    const char *url = getenv(variable);
    const char *port = url == NULL ? NULL : strrchr(url, ':');
    struct sockaddr_in address;
    int *listener;
    if (port == NULL || port[1] == '/') {
        return true; /* not here */
    }
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)atoi(port + 1));
    address.sin_addr.s_addr = inet_addr(gateway);
    listener = (int *)malloc(sizeof *listener);
    if (listener == NULL) {
        return false;
    }
    *listener = lwip_socket(AF_INET, SOCK_STREAM, 0);
    return *listener >= 0 && lwip_bind(*listener, (struct sockaddr *)&address, sizeof address) == 0 &&
           lwip_listen(*listener, 8) == 0 && start_thread(accept_for_ever, listener);
}

static err_t send_back(struct netif *interface, struct pbuf *packet, const ip4_addr_t *to) {
    (void)to;
    return netif_loop_output(interface, packet);
}

static err_t begin_interface(struct netif *interface) {
    interface->name[0] = 'c';
    interface->name[1] = 'b';
    interface->mtu = 1500;
    interface->output = send_back;
    return ERR_OK;
}

static bool plug_in(void) {
    static struct netif interface;
    ip4_addr_t address;
    ip4_addr_t mask;
    bool there;
    tcpip_init(NULL, NULL);
    address.addr = inet_addr(gateway);
    mask.addr = inet_addr("255.255.255.0");
    LOCK_TCPIP_CORE();
    there = netif_add(&interface, &address, &mask, &address, NULL, begin_interface, tcpip_input) != NULL;
    if (there) {
        netif_set_default(&interface);
        netif_set_link_up(&interface);
        netif_set_up(&interface);
    }
    UNLOCK_TCPIP_CORE();
    return there && gateway_serves("AZURE_OPENAI_ENDPOINT") && gateway_serves("AZURE_AUTHORITY_HOST") &&
           gateway_serves("AZURE_POD_IDENTITY_AUTHORITY_HOST");
}

/* ---- The program ---- */

static int on_event(const azo_event *event, void *user_data) {
    (void)user_data;
    if (event->kind == AZO_EVENT_TEXT) {
        (void)fwrite(event->text.ptr, 1, event->text.len, stdout);
        (void)fflush(stdout);
    }
    return AZO_GO_ON;
}

int main(int argc, char **argv) {
    const azo_transport over_lwip = {NULL,      link_open,  link_connect, link_recv,
                                     link_send, link_watch, link_close,   link_poll};
    azo_message messages[1];
    azo_client_desc desc = {0};
    azo_chat_desc chat = {0};
    azo_chat_reply reply;
    azo_client *client;
    azo_error err;
    if (!plug_in()) {
        fputs("lwip: the stack did not start\n", stderr);
        return 1;
    }
    messages[0] = azo_user(argc > 1 ? argv[1] : "Say hello.");
    chat.messages = messages;
    chat.message_count = 1;
    chat.on_event = on_event;
    desc.transport = over_lwip;
    if (azo_client_open(&desc, &client, &err) == AZO_OK) {
        (void)azo_chat(client, &chat, &reply, &err);
        azo_chat_reply_free(&reply);
        azo_client_close(client);
    }
    (void)putchar('\n');
    if (err.code != AZO_OK) {
        fprintf(stderr, "lwip: %s\n", err.message);
    }
    return err.code == AZO_OK ? 0 : 1;
}
