/* test_proxy.c - calls through CONNECT proxies and a gateway: a small proxy of our own that can misbehave, and, where
 * they are installed, tinyproxy and nginx. Loopback addresses bypass proxies, so the calls go to names that do not
 * exist (contoso.openai.azure.test): the proxy resolves them, and ours knows where the fake service is. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* setenv, mkdtemp */
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "calls.h"

#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define SERVICE_HOST "contoso.openai.azure.test"
#define ENTRA_HOST "login.microsoftonline.test"

/* ---- a small proxy ---- */

typedef enum proxy_mode {
    PROXY_WORKS,
    PROXY_DRIPS,      /* answers byte by byte */
    PROXY_WANTS_AUTH, /* 407 without the right Proxy-Authorization */
    PROXY_REFUSES,    /* 403 with a page */
    PROXY_FAILS,      /* 502 */
    PROXY_HANGS_UP,   /* before it reads */
    PROXY_CUTS,       /* after it has read the request */
    PROXY_TALKS,      /* sends something behind its answer */
    PROXY_BABBLES,    /* does not speak HTTP */
    PROXY_IS_SILENT,
    PROXY_IS_ENDLESS /* with its head */
} proxy_mode;

enum { MAX_TUNNELS = 64 };

typedef struct proxy {
    unsigned service_port;
    unsigned entra_port;
    proxy_mode mode;
    const char *authorization; /* what PROXY_WANTS_AUTH wants */
    size_t cut_after;          /* bytes from the server that pass; 0: all */
    int listener;
    unsigned port;
    int wake[2]; /* its end wakes whoever waits */
    pthread_t thread;
    pthread_t tunnels[MAX_TUNNELS];
    size_t tunnel_count;
    pthread_mutex_t lock;
    test_notes heads; /* all requests, one after the other */
} proxy;

typedef struct tunnel {
    proxy *owner;
    int client;
} tunnel;

/* Waits until something can be read from fd; false when the proxy is stopped. */
static bool proxy_wait(const proxy *p, int fd) {
    struct pollfd fds[2];
    memset(fds, 0, sizeof fds);
    fds[0].fd = fd;
    fds[0].events = POLLIN;
    fds[1].fd = p->wake[0];
    fds[1].events = POLLIN;
    return poll(fds, 2, WAIT_MS) > 0 && fds[1].revents == 0;
}

static int connect_to(unsigned port) {
    struct sockaddr_in address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        (void)close(fd);
        fd = -1;
    }
    return fd;
}

static bool send_text(int fd, const char *bytes, size_t len) {
    while (len > 0) {
        ssize_t sent = send(fd, bytes, len, MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        bytes += sent;
        len -= (size_t)sent;
    }
    return true;
}

/* Passes on what can be read; false at the end, or after *left bytes (0: no limit). */
static bool pass_on(int from, int to, size_t *left) {
    char bytes[4096];
    ssize_t got = recv(from, bytes, sizeof bytes, 0);
    if (got <= 0) {
        return false;
    }
    if (*left > 0 && (size_t)got >= *left) {
        (void)send_text(to, bytes, *left);
        return false;
    }
    *left -= *left > 0 ? (size_t)got : 0;
    return send_text(to, bytes, (size_t)got);
}

static void relay(const proxy *p, int client, int server) {
    size_t all = 0;
    size_t left = p->cut_after;
    for (bool open = true; open;) {
        struct pollfd fds[3];
        memset(fds, 0, sizeof fds);
        fds[0].fd = client;
        fds[1].fd = server;
        fds[2].fd = p->wake[0];
        fds[0].events = fds[1].events = fds[2].events = POLLIN;
        open = poll(fds, 3, WAIT_MS) > 0 && fds[2].revents == 0;
        open = open && (fds[0].revents == 0 || pass_on(client, server, &all));
        open = open && (fds[1].revents == 0 || pass_on(server, client, &left));
    }
}

/* Byte by byte, so that nothing behind the head is taken. */
static bool read_request(proxy *p, int client, char *head, size_t cap) {
    size_t len = 0;
    while (len + 1 < cap && proxy_wait(p, client) && recv(client, head + len, 1, 0) == 1) {
        head[++len] = '\0';
        if (len >= 4 && strcmp(head + len - 4, "\r\n\r\n") == 0) {
            (void)pthread_mutex_lock(&p->lock);
            test_note_bytes(&p->heads, head, len);
            (void)pthread_mutex_unlock(&p->lock);
            return true;
        }
    }
    return false;
}

static bool has_authorization(const proxy *p, const char *head) {
    char line[256];
    (void)snprintf(line, sizeof line, "\r\nProxy-Authorization: %s\r\n", p->authorization);
    return strstr(head, line) != NULL;
}

/* True if the tunnel stands. */
static bool answer_connect(const proxy *p, int client, const char *head) {
    static const char yes[] = "HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n";
    static const char no[] = "HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 21\r\n\r\n"
                             "<html>denied</html>\r\n";
    static const char auth[] = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n"
                               "Content-Length: 0\r\nConnection: close\r\n\r\n";
    static const char bad[] = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
    static const char talk[] = "HTTP/1.1 200 OK\r\n\r\nand now for something else";
    static const char babble[] = "220 mail.example ESMTP\r\n\r\n";
    const char *text = yes;
    switch (p->mode) {
    case PROXY_WANTS_AUTH:
        text = has_authorization(p, head) ? yes : auth;
        break;
    case PROXY_REFUSES:
        text = no;
        break;
    case PROXY_FAILS:
        text = bad;
        break;
    case PROXY_TALKS:
        text = talk;
        break;
    case PROXY_BABBLES:
        text = babble;
        break;
    case PROXY_DRIPS:
        for (size_t i = 0; i + 1 < sizeof yes; i++) {
            if (!send_text(client, yes + i, 1)) {
                return false;
            }
            sleep_ms(1);
        }
        return true;
    case PROXY_CUTS:
        return false;
    case PROXY_IS_SILENT:
        (void)proxy_wait(p, client);
        return false;
    case PROXY_IS_ENDLESS:
        (void)send_text(client, yes, strlen(yes) - 2);
        for (int i = 0; i < 1000 && send_text(client, "X-Long: and longer and longer\r\n", 31); i++) {
        }
        return false;
    default:
        break;
    }
    return send_text(client, text, strlen(text)) && text == yes;
}

static void *serve_tunnel(void *argument) {
    tunnel *t = (tunnel *)argument;
    proxy *p = t->owner;
    char head[4096];
    if (p->mode != PROXY_HANGS_UP && read_request(p, t->client, head, sizeof head) &&
        answer_connect(p, t->client, head)) {
        int server = connect_to(strstr(head, "CONNECT login.") == head ? p->entra_port : p->service_port);
        if (server >= 0) {
            relay(p, t->client, server);
            (void)close(server);
        }
    }
    (void)close(t->client);
    free(t);
    return NULL;
}

static void *serve_proxy(void *argument) {
    proxy *p = (proxy *)argument;
    while (proxy_wait(p, p->listener)) {
        tunnel *t = (tunnel *)malloc(sizeof *t);
        t->owner = p;
        t->client = accept(p->listener, NULL, NULL);
        (void)pthread_mutex_lock(&p->lock);
        if (t->client >= 0 && p->tunnel_count < MAX_TUNNELS &&
            pthread_create(&p->tunnels[p->tunnel_count], NULL, serve_tunnel, t) == 0) {
            p->tunnel_count++;
        } else {
            free(t);
        }
        (void)pthread_mutex_unlock(&p->lock);
    }
    return NULL;
}

static int listen_on_loopback(unsigned *port) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    assert_int_equal(listen(fd, 64), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static unsigned dead_port(void) {
    unsigned port;
    (void)close(listen_on_loopback(&port));
    return port;
}

static void proxy_start(proxy *p, const world *w, proxy_mode mode) {
    memset(p, 0, sizeof *p);
    p->service_port = fake_port(w->service, FAKE_SERVICE);
    p->entra_port = fake_port(w->service, FAKE_ENTRA);
    p->mode = mode;
    p->listener = listen_on_loopback(&p->port);
    assert_int_equal(pipe(p->wake), 0);
    assert_int_equal(pthread_mutex_init(&p->lock, NULL), 0);
    assert_int_equal(pthread_create(&p->thread, NULL, serve_proxy, p), 0);
}

static void proxy_stop(proxy *p) {
    (void)close(p->wake[1]);
    (void)pthread_join(p->thread, NULL);
    for (size_t i = 0; i < p->tunnel_count; i++) {
        (void)pthread_join(p->tunnels[i], NULL);
    }
    (void)close(p->wake[0]);
    (void)close(p->listener);
    (void)pthread_mutex_destroy(&p->lock);
    test_notes_free(&p->heads);
}

static size_t tunnels(proxy *p) {
    (void)pthread_mutex_lock(&p->lock);
    size_t count = p->tunnel_count;
    (void)pthread_mutex_unlock(&p->lock);
    return count;
}

/* A world behind a proxy: its service and its Entra have names that only the proxy knows. */
typedef struct far_world {
    world w;
    proxy p;
    char proxy[128];
} far_world;

static void far_open(far_world *f, proxy_mode mode) {
    world_open(&f->w, NULL);
    proxy_start(&f->p, &f->w, mode);
    (void)snprintf(f->proxy, sizeof f->proxy, "http://127.0.0.1:%u", f->p.port);
    (void)snprintf(f->w.endpoint, sizeof f->w.endpoint, "https://%s/", SERVICE_HOST);
    (void)snprintf(f->w.authority, sizeof f->w.authority, "https://%s", ENTRA_HOST);
    f->w.desc.proxy = f->proxy;
    f->w.desc.max_retries = AZO_OFF;
}

static void far_close(far_world *f) {
    azo_client_close(f->w.client); /* ends the tunnels */
    f->w.client = NULL;
    proxy_stop(&f->p);
    world_close(&f->w);
}

static void expect_head(const far_world *f, const char *host, const char *authorization) {
    char head[512];
    (void)snprintf(head, sizeof head, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n%s%s%sUser-Agent: azopenai.h/", host,
                   host, authorization != NULL ? "Proxy-Authorization: " : "",
                   authorization != NULL ? authorization : "", authorization != NULL ? "\r\n" : "");
    expect_part(f->p.heads.text, head);
}

/* ---- tunnels ---- */

static void test_tunnel(void **state) {
    (void)state;
    far_world f;
    azo_chat_reply reply;
    far_open(&f, PROXY_WORKS);
    world_count_memory(&f.w, FAKE_CLIENT_SECRET);
    world_start(&f.w);
    expect(&f.w, chat(&f.w, "Hi", &reply), AZO_OK);
    expect_str(reply.text, "You said: Hi");
    assert_int_equal(reply.http.attempts, 1);
    azo_chat_reply_free(&reply);
    assert_int_equal(tunnels(&f.p), 2);
    expect_head(&f, SERVICE_HOST, NULL);
    expect_head(&f, ENTRA_HOST, NULL);
    const fake_seen *seen = fake_request(f.w.service, FAKE_SERVICE, 0);
    assert_string_equal(seen->sni, SERVICE_HOST);
    assert_string_equal(fake_seen_header(seen, "host"), SERVICE_HOST);
    assert_string_equal(fake_request(f.w.service, FAKE_ENTRA, 0)->sni, ENTRA_HOST);
    assert_null(strstr(f.p.heads.text, "uthorization")); /* nothing of ours is for the proxy */

    azo_message message = azo_user("a stream through the tunnel");
    azo_chat_desc desc = chat_desc(&message);
    listener l;
    memset(&l, 0, sizeof l);
    desc.on_event = listen_to;
    desc.user_data = &l;
    expect(&f.w, chat_as(&f.w, &desc, &reply), AZO_OK);
    expect_str(reply.text, "You said: a stream through the tunnel");
    azo_chat_reply_free(&reply);
    listener_free(&l);
    assert_int_equal(tunnels(&f.p), 2); /* kept alive */
    fake_drop_connections(f.w.service, FAKE_SERVICE);
    sleep_ms(20); /* for the proxy to notice */
    expect(&f.w, chat(&f.w, "Hi", &reply), AZO_OK);
    assert_int_equal(reply.http.attempts, 1);
    azo_chat_reply_free(&reply);
    assert_int_equal(tunnels(&f.p), 3);
    assert_int_equal(fake_resumptions(f.w.service), 1);
    far_close(&f);
}

/* CONNECT names the port, whichever it is; Host leaves out what "http" implies, as in RFC 9112's own example. */
static void test_tunnel_to_other_ports(void **state) {
    static const char *const heads[][2] = {
        {":80", "CONNECT " SERVICE_HOST ":80 HTTP/1.1\r\nHost: " SERVICE_HOST "\r\n"},
        {":8443", "CONNECT " SERVICE_HOST ":8443 HTTP/1.1\r\nHost: " SERVICE_HOST ":8443\r\n"},
        {"", "CONNECT " SERVICE_HOST ":443 HTTP/1.1\r\nHost: " SERVICE_HOST ":443\r\n"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(heads); i++) {
        far_world f;
        far_open(&f, PROXY_WORKS);
        world_use_key(&f.w);
        (void)snprintf(f.w.endpoint, sizeof f.w.endpoint, "https://" SERVICE_HOST "%s", heads[i][0]);
        world_start(&f.w);
        expect(&f.w, ask(&f.w, "Hi"), AZO_OK);
        assert_int_equal(strncmp(f.p.heads.text, heads[i][1], strlen(heads[i][1])), 0);
        far_close(&f);
    }
}

static void test_answer_in_drips(void **state) {
    (void)state;
    far_world f;
    far_open(&f, PROXY_DRIPS);
    world_start(&f.w);
    expect(&f.w, ask(&f.w, "Hi"), AZO_OK);
    far_close(&f);
}

static void test_password(void **state) {
    static const struct {
        const char *login;
        azo_result want;
    } cases[] = {
        {"us%40xx:canary%3apass%20word@", AZO_OK},
        {"us%40xx:canary@", AZO_ERR_PROXY},
        {"us%40xx@", AZO_ERR_PROXY},
        {"", AZO_ERR_PROXY},
    };
    static const char authorization[] = "Basic dXNAeHg6Y2FuYXJ5OnBhc3Mgd29yZA=="; /* us@xx:canary:pass word */
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        far_world f;
        far_open(&f, PROXY_WANTS_AUTH);
        f.p.authorization = authorization;
        f.w.desc.max_retries = 2;
        (void)snprintf(f.proxy, sizeof f.proxy, "http://%s127.0.0.1:%u", cases[i].login, f.p.port);
        world_count_memory(&f.w, "Y2FuYXJ5");
        if (i == 0) { /* from the environment for once */
            f.w.desc.proxy = NULL;
            (void)setenv("HTTPS_PROXY", f.proxy, 1);
        }
        world_start(&f.w);
        expect(&f.w, ask(&f.w, "Hi"), cases[i].want);
        if (cases[i].want == AZO_OK) {
            expect_head(&f, SERVICE_HOST, authorization);
            assert_null(fake_seen_header(fake_request(f.w.service, FAKE_SERVICE, 0), "proxy-authorization"));
        } else {
            expect_part(f.w.error.message, "wants a password (HTTP 407)");
            assert_int_equal(f.w.error.who, AZO_WHO_MACHINE);
            assert_int_equal(fake_connections(f.w.service, FAKE_ENTRA), 0);
        }
        assert_in_range(tunnels(&f.p), 1, 2); /* not tried again */
        far_close(&f);
    }
}

static void test_spellings(void **state) {
    static const char *const forms[] = {"http://127.0.0.1:%u", "http://127.0.0.1:%u/", "127.0.0.1:%u",
                                        " localhost:%u "};
    static const struct {
        const char *url;
        azo_result want;
    } wrong[] = {
        {"https://127.0.0.1:1", AZO_ERR_UNSUPPORTED},
        {"http://127.0.0.1:99999", AZO_ERR_ARGUMENT},
        {"http://us:canary@127.0.0.1:1/path", AZO_ERR_ARGUMENT},
        {"socks5://us:canary@127.0.0.1:1", AZO_ERR_ARGUMENT},
    };
    (void)state;
    far_world f;
    far_open(&f, PROXY_WORKS);
    for (size_t i = 0; i < COUNT(forms); i++) {
#ifdef __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#endif
        (void)snprintf(f.proxy, sizeof f.proxy, forms[i], f.p.port);
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif
        f.w.desc.proxy = i == 2 ? NULL : f.proxy;
        (void)setenv("https_proxy", f.proxy, 1);
        world_restart(&f.w);
        expect(&f.w, ask(&f.w, "Hi"), AZO_OK);
        assert_int_equal(tunnels(&f.p), 2 * (i + 1));
    }
    for (size_t i = 0; i < COUNT(wrong); i++) {
        azo_client *client = NULL;
        azo_error e;
        f.w.desc.proxy = wrong[i].url;
        azo_result r = azo_client_open(&f.w.desc, &client, &e);
        expect(&f.w, told(&f.w, r, &e), wrong[i].want);
        assert_null(client);
    }
    far_close(&f);
}

/* ---- what is not tunnelled ---- */

/* Managed identity and loopback addresses never see the proxy. */
static void test_bypass(void **state) {
    (void)state;
    far_world f;
    far_open(&f, PROXY_WORKS);
    world_use_imds(&f.w);
    world_start(&f.w);
    expect(&f.w, ask(&f.w, "Hi"), AZO_OK);
    assert_int_equal(tunnels(&f.p), 1);
    expect_head(&f, SERVICE_HOST, NULL);
    assert_int_equal(fake_count(f.w.service, FAKE_IMDS), 1);

    (void)snprintf(f.w.endpoint, sizeof f.w.endpoint, "https://localhost:%u", f.p.service_port);
    world_restart(&f.w);
    expect(&f.w, ask(&f.w, "Hi"), AZO_OK);
    (void)snprintf(f.w.endpoint, sizeof f.w.endpoint, "https://127.0.0.1:%u", f.p.service_port);
    world_restart(&f.w);
    azo_result r = ask(&f.w, "Hi");
    assert_true(r == AZO_OK || r == AZO_ERR_TLS_VERIFY); /* mbedTLS 2.28 knows no numeric addresses */
    assert_int_equal(tunnels(&f.p), 1);
    far_close(&f);
}

/* A transport that goes nowhere, and notes where it was to go. */
static azo_result note_open(const azo_target *to, void **conn, void *user_data) {
    char *place = (char *)user_data;
    (void)snprintf(place, 300, "%s:%u", to->host, (unsigned)to->port);
    *conn = NULL;
    return AZO_ERR_CONNECT;
}

static int nothing_connect(void *conn, void *user_data) {
    (void)conn;
    (void)user_data;
    return AZO_ERR_CONNECT;
}

static ptrdiff_t nothing_recv(void *conn, void *buf, size_t cap, void *user_data) {
    (void)conn;
    (void)buf;
    (void)cap;
    (void)user_data;
    return AZO_ERR_CLOSED;
}

static ptrdiff_t nothing_send(void *conn, const void *buf, size_t len, void *user_data) {
    (void)conn;
    (void)buf;
    (void)len;
    (void)user_data;
    return AZO_ERR_CLOSED;
}

static size_t nothing_watch(void *conn, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms,
                            void *user_data) {
    (void)conn;
    (void)want;
    (void)out;
    (void)cap;
    (void)timeout_ms;
    (void)user_data;
    return 0;
}

static void nothing_close(void *conn, void *user_data) {
    (void)conn;
    (void)user_data;
}

static int nothing_poll(azo_watch *set, size_t count, int32_t timeout_ms, void *user_data) {
    (void)set;
    (void)count;
    (void)timeout_ms;
    (void)user_data;
    return 0;
}

static void test_no_proxy(void **state) {
    static const struct {
        const char *no_proxy;
        const char *host;
        bool direct;
    } cases[] = {
        {"", SERVICE_HOST, false},
        {SERVICE_HOST, SERVICE_HOST, true},
        {"openai.azure.test", SERVICE_HOST, true},
        {".openai.azure.test", SERVICE_HOST, true},
        {"OpenAI.Azure.TEST", SERVICE_HOST, true},
        {"azure.test:443", SERVICE_HOST, true},
        {"a.example, openai.azure.test ,b.example", SERVICE_HOST, true},
        {"*", SERVICE_HOST, true},
        {"toso.openai.azure.test", SERVICE_HOST, false},
        {"contoso.openai.azure.tes", SERVICE_HOST, false},
        {"x" SERVICE_HOST, SERVICE_HOST, false},
        {",,", SERVICE_HOST, false},
        {".", SERVICE_HOST, false},
        {"192.0.2.1", "192.0.2.1", true},
        {"192.0.2.1", "192.0.2.10", false},
        {"2001:db8::1", "[2001:db8::1]", true},
        {"2001:db8::2", "[2001:db8::1]", false},
        {"", "localhost", true},
        {"", "me.localhost", true},
        {"", "127.1.2.3", true},
        {"", "[::1]", true},
        {"", "localhost.example", false},
    };
    (void)state;
    for (int from_environment = 0; from_environment < 2; from_environment++) {
        for (size_t i = 0; i < COUNT(cases); i++) {
            world w;
            char place[300] = "";
            char want[300];
            char host[100];
            world_open(&w, NULL);
            world_use_key(&w);
            w.desc.max_retries = AZO_OFF;
            w.desc.proxy = "http://proxy.example:3128";
            (void)setenv("NO_PROXY", from_environment ? cases[i].no_proxy : "*", 1);
            w.desc.no_proxy = from_environment ? NULL : cases[i].no_proxy;
            w.desc.transport.open = note_open;
            w.desc.transport.connect = nothing_connect;
            w.desc.transport.recv = nothing_recv;
            w.desc.transport.send = nothing_send;
            w.desc.transport.watch = nothing_watch;
            w.desc.transport.close = nothing_close;
            w.desc.transport.poll = nothing_poll;
            w.desc.transport.user_data = place;
            (void)snprintf(w.endpoint, sizeof w.endpoint, "https://%s", cases[i].host);
            world_start(&w);
            expect(&w, ask(&w, "Hi"), AZO_ERR_CONNECT);
            (void)snprintf(host, sizeof host, "%s", cases[i].host + (cases[i].host[0] == '['));
            host[strcspn(host, "]")] = '\0';
            (void)snprintf(want, sizeof want, "%s", "proxy.example:3128");
            if (cases[i].direct) {
                (void)snprintf(want, sizeof want, "%s:443", host);
            }
            if (strcmp(place, want) != 0) {
                fail_msg("\"%s\" and %s: %s instead of %s", cases[i].no_proxy, cases[i].host, place, want);
            }
            world_close(&w);
        }
    }
}

/* ---- proxies that fail ---- */

static void test_proxies_that_fail(void **state) {
    static const struct {
        proxy_mode mode;
        azo_result want;
        const char *part;
    } cases[] = {
        {PROXY_REFUSES, AZO_ERR_PROXY, "refused a tunnel to " SERVICE_HOST " (HTTP 403)"},
        {PROXY_FAILS, AZO_ERR_PROXY, "HTTP 502"},
        {PROXY_HANGS_UP, AZO_ERR_PROXY, "closed the connection"},
        {PROXY_CUTS, AZO_ERR_PROXY, "closed the connection"},
        {PROXY_TALKS, AZO_ERR_PROXY, "nobody asked for"},
        {PROXY_BABBLES, AZO_ERR_PROXY, "not HTTP"},
        {PROXY_IS_SILENT, AZO_ERR_TIMEOUT, "proxy's tunnel"},
        {PROXY_IS_ENDLESS, AZO_ERR_PROXY, "not HTTP"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        for (int keyless = 0; keyless < 2; keyless++) {
            far_world f;
            int64_t start = now_ms();
            far_open(&f, cases[i].mode);
            if (!keyless) {
                world_use_key(&f.w);
            }
            world_count_memory(&f.w, FAKE_CLIENT_SECRET);
            f.w.desc.connect_timeout_ms = cases[i].mode == PROXY_IS_SILENT ? 200 : 0;
            f.w.desc.total_timeout_ms = keyless ? 1500 : 0; /* silence towards Entra is tried again */
            world_start(&f.w);
            azo_result r = ask(&f.w, "Hi");
            expect(&f.w, r, cases[i].want);
            assert_int_equal(f.w.error.stage, keyless ? AZO_STAGE_TOKEN : AZO_STAGE_CONNECT);
            if (!keyless) {
                expect_part(f.w.error.message, cases[i].part);
                assert_int_equal(f.w.error.attempts, 0);
                assert_int_equal(tunnels(&f.p), 1);
            }
            assert_in_range(now_ms() - start, 0, IN_TIME_MS);
            assert_int_equal(fake_connections(f.w.service, FAKE_SERVICE), 0);
            far_close(&f);
        }
    }
}

static void test_dead_proxy(void **state) {
    (void)state;
    far_world f;
    far_open(&f, PROXY_WORKS);
    world_use_key(&f.w);
    (void)snprintf(f.proxy, sizeof f.proxy, "http://127.0.0.1:%u", dead_port());
    world_start(&f.w);
    azo_result r = ask(&f.w, "Hi");
    assert_true(r == AZO_ERR_CONNECT || r == AZO_ERR_PROXY);
    expect_part(f.w.error.message, "127.0.0.1");
    assert_int_equal(f.w.error.sys_errno, ECONNREFUSED);
    far_close(&f);
}

/* What is at the other end of the tunnel is checked as ever. */
static void test_wrong_host_behind_the_proxy(void **state) {
    (void)state;
    far_world f;
    far_open(&f, PROXY_WORKS);
    world_use_key(&f.w);
    (void)snprintf(f.w.endpoint, sizeof f.w.endpoint, "https://contoso.example.test");
    world_start(&f.w);
    expect(&f.w, ask(&f.w, "Hi"), AZO_ERR_TLS_VERIFY);
    assert_int_equal(f.w.error.tls_verify_flags, MBEDTLS_X509_BADCERT_CN_MISMATCH);
    expect_part(f.w.error.message, "contoso.example.test");
    assert_int_equal(fake_count(f.w.service, FAKE_SERVICE), 0);
    far_close(&f);
}

/* A tunnel that breaks: in the handshake, or in the answer. */
static void test_tunnel_that_breaks(void **state) {
    static const size_t places[] = {1, 100, 1000, 2500, 4000, 6000, 20000};
    (void)state;
    for (size_t i = 0; i < COUNT(places); i++) {
        far_world f;
        azo_raw_desc desc;
        azo_raw_reply reply;
        far_open(&f, PROXY_WORKS);
        world_use_key(&f.w);
        world_count_memory(&f.w, FAKE_API_KEY);
        f.p.cut_after = places[i];
        world_start(&f.w);
        memset(&desc, 0, sizeof desc);
        desc.path = "/audio/speech";
        desc.body = "{\"model\":\"gpt-4o\",\"input\":\"x\",\"voice\":\"alloy\",\"bytes\":30000}";
        azo_result r = raw_as(&f.w, &desc, &reply);
        if (r != AZO_ERR_CLOSED && r != AZO_ERR_TLS) {
            print_error("cut after %lu bytes: ", (unsigned long)places[i]);
            expect(&f.w, r, AZO_ERR_CLOSED);
        }
        azo_raw_reply_free(&reply);
        far_close(&f);
    }
}

/* ---- programs of others ---- */

/* One at a time. */
typedef struct program {
    pid_t pid;    /* 0: none */
    char dir[64]; /* its own, removed at the end */
} program;

static program running;

static const char *find_program(const char *name, char *out, size_t cap) {
    char dirs[2048];
    const char *path = getenv("PATH");
    (void)snprintf(dirs, sizeof dirs, "%s:/usr/sbin:/usr/local/sbin:/sbin", path != NULL ? path : "");
    for (char *dir = dirs; *dir != '\0';) {
        size_t len = strcspn(dir, ":");
        (void)snprintf(out, cap, "%.*s/%s", (int)len, dir, name);
        if (len > 0 && access(out, X_OK) == 0) {
            return out;
        }
        dir += len + (dir[len] == ':' ? 1 : 0);
    }
    return NULL;
}

/* Skips the test where the program is not installed. */
static void program_open(const char *name, char *path, size_t cap) {
    if (find_program(name, path, cap) == NULL) {
        print_message("# skipped: %s is not installed\n", name);
        skip();
    }
    (void)snprintf(running.dir, sizeof running.dir, "/tmp/azo-test-XXXXXX");
    assert_non_null(mkdtemp(running.dir));
}

static void program_file(const char *name, const char *text) {
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", running.dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* Starts it and waits until somebody listens on the port. */
static void program_start(const char *const *argv, unsigned port) {
    char log[128];
    int fd = -1;
    (void)snprintf(log, sizeof log, "%s/output", running.dir);
    running.pid = fork();
    if (running.pid == 0) {
        int out = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)dup2(out, 1);
        (void)dup2(out, 2);
        for (int i = 3; i < 256; i++) {
            (void)close(i); /* the pipes of the fake and of our proxy say by their end that it is over */
        }
        (void)execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    assert_true(running.pid > 0);
    for (int64_t end = now_ms() + 10000; fd < 0 && now_ms() < end && waitpid(running.pid, NULL, WNOHANG) == 0;) {
        fd = connect_to(port);
        if (fd < 0) {
            sleep_ms(10);
        }
    }
    if (fd < 0) {
        char text[512] = "";
        FILE *file = fopen(log, "r");
        if (file != NULL) {
            text[fread(text, 1, sizeof text - 1, file)] = '\0';
            (void)fclose(file);
        }
        fail_msg("%s does not start: %s", argv[0], text);
    }
    (void)close(fd);
}

/* Ends it and removes what it wrote. Also after a test that failed. */
static int program_stop(void **state) {
    static const char *const names[] = {"conf", "output", "log", "pid", "a", "b", "c", "d", "e"};
    char path[192];
    (void)state;
    if (running.pid > 0) {
        (void)kill(running.pid, SIGTERM);
        for (int64_t end = now_ms() + 3000; waitpid(running.pid, NULL, WNOHANG) == 0; sleep_ms(5)) {
            if (now_ms() > end) {
                (void)kill(running.pid, SIGKILL);
                (void)waitpid(running.pid, NULL, 0);
                break;
            }
        }
    }
    for (size_t i = 0; i < COUNT(names) && running.dir[0] != '\0'; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", running.dir, names[i]);
        if (unlink(path) != 0) {
            (void)rmdir(path);
        }
    }
    (void)rmdir(running.dir);
    memset(&running, 0, sizeof running);
    return 0;
}

/* tinyproxy in front of our proxy, which knows the names. */
static void test_tinyproxy(void **state) {
    static const struct {
        const char *login;
        const char *rules;
        azo_result want;
        const char *part;
    } cases[] = {
        {"", "", AZO_OK, ""},
        {"canaryuser:canarypassword1@", "BasicAuth canaryuser canarypassword1\n", AZO_OK, ""},
        {"canaryuser:canarywrong@", "BasicAuth canaryuser canarypassword1\n", AZO_ERR_PROXY, "HTTP 4"},
        {"", "BasicAuth canaryuser canarypassword1\n", AZO_ERR_PROXY, "wants a password (HTTP 407)"},
        {"", "ConnectPort 563\n", AZO_ERR_PROXY, "refused a tunnel to " SERVICE_HOST " (HTTP 403)"},
    };
    (void)state;
    char path[512];
    for (size_t i = 0; i < COUNT(cases); i++) {
        far_world f;
        char conf[1024];
        char file[128];
        azo_chat_reply reply;
        program_open("tinyproxy", path, sizeof path);
        far_open(&f, PROXY_WORKS);
        unsigned port = dead_port();
        (void)snprintf(conf, sizeof conf,
                       "Port %u\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nLogFile \"%s/log\"\nPidFile \"%s/pid\"\n"
                       "Allow 127.0.0.1\n%sUpstream http 127.0.0.1:%u\n",
                       port, running.dir, running.dir, cases[i].rules, f.p.port);
        program_file("conf", conf);
        (void)snprintf(file, sizeof file, "%s/conf", running.dir);
        const char *const argv[] = {path, "-d", "-c", file, NULL};
        program_start(argv, port);
        (void)snprintf(f.proxy, sizeof f.proxy, "http://%s127.0.0.1:%u", cases[i].login, port);
        if (cases[i].want != AZO_OK) {
            world_use_key(&f.w);
        }
        world_start(&f.w);
        expect(&f.w, chat(&f.w, "Hi", &reply), cases[i].want);
        if (cases[i].want == AZO_OK) {
            expect_str(reply.text, "You said: Hi");
            assert_int_equal(fake_count(f.w.service, FAKE_ENTRA), 1);
            assert_int_equal(tunnels(&f.p), 2);
            expect(&f.w, ask(&f.w, "Hi"), AZO_OK);
            assert_int_equal(tunnels(&f.p), 2);
        } else {
            expect_part(f.w.error.message, cases[i].part);
        }
        azo_chat_reply_free(&reply);
        azo_client_close(f.w.client);
        f.w.client = NULL;
        (void)program_stop(NULL);
        far_close(&f);
    }
}

typedef struct upload {
    size_t len;
} upload;

static ptrdiff_t read_zeros(uint64_t offset, void *buf, size_t cap, void *user_data) {
    const upload *u = (const upload *)user_data;
    size_t left = u->len - (size_t)offset;
    size_t take = left < cap ? left : cap;
    memset(buf, 0, take);
    return (ptrdiff_t)take;
}

static void nginx_conf(char *out, size_t cap, unsigned port, unsigned behind) {
    char cert[512];
    char key[512];
    char cert_abs[PATH_MAX];
    char key_abs[PATH_MAX];
    const char *dir = running.dir;
    assert_non_null(realpath(cert_path(cert, sizeof cert, "server.pem"), cert_abs));
    assert_non_null(realpath(cert_path(key, sizeof key, "server.key"), key_abs));
    (void)snprintf(out, cap,
                   "daemon off; master_process off; pid %s/pid; error_log %s/log info;\n"
                   "events { worker_connections 64; }\n"
                   "http { access_log off; client_body_temp_path %s/a; proxy_temp_path %s/b; fastcgi_temp_path %s/c;\n"
                   "uwsgi_temp_path %s/d; scgi_temp_path %s/e; gzip on; gzip_types *; gzip_min_length 1;\n"
                   "server { listen 127.0.0.1:%u ssl; ssl_certificate %s; ssl_certificate_key %s;\n"
                   "keepalive_requests 3; client_max_body_size 100k; proxy_http_version 1.1; proxy_buffering off;\n"
                   "proxy_set_header Connection \"\"; proxy_set_header Host localhost:%u;\n"
                   "location / { proxy_pass http://127.0.0.1:%u; }\n"
                   "location /gateway/x/ { proxy_pass http://127.0.0.1:%u/; }\n"
                   "location /moved/ { return 301 https://elsewhere.example$request_uri; }\n"
                   "location /static/ { default_type application/json; return 200 "
                   "'{\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":\"assistant\","
                   "\"content\":\"from nginx\"}}]}'; } } }\n",
                   dir, dir, dir, dir, dir, dir, dir, port, cert_abs, key_abs, behind, behind, behind);
}

/* A real gateway with a real TLS: it closes connections in its own time, refuses large bodies early, and answers
 * for a service that is gone. */
static void test_nginx(void **state) {
    static const fake_options plain = {.plain_service = true};
    (void)state;
    world w;
    char path[512];
    char conf[3 * PATH_MAX];
    char file[128];
    char endpoint[128];
    azo_chat_reply reply;
    azo_message message = azo_user("a stream through nginx");
    azo_chat_desc desc = chat_desc(&message);
    listener l;
    memset(&l, 0, sizeof l);
    program_open("nginx", path, sizeof path);
    world_open(&w, &plain);
    unsigned port = dead_port();
    nginx_conf(conf, sizeof conf, port, fake_port(w.service, FAKE_SERVICE));
    program_file("conf", conf);
    (void)snprintf(file, sizeof file, "%s/conf", running.dir);
    const char *const argv[] = {path, "-p", running.dir, "-c", file, NULL};
    program_start(argv, port);

    (void)snprintf(w.endpoint, sizeof w.endpoint, "https://localhost:%u", port);
    world_count_memory(&w, "fake.entra.");
    world_start(&w);
    for (int i = 0; i < 10; i++) { /* more than a connection serves */
        desc.on_event = i % 2 == 0 ? listen_to : NULL;
        desc.user_data = &l;
        expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
        expect_str(reply.text, "You said: a stream through nginx");
        assert_int_equal(reply.http.attempts, 1);
        azo_chat_reply_free(&reply);
        listener_free(&l);
    }
    assert_int_equal(fake_count(w.service, FAKE_SERVICE), 10);
    assert_int_equal(fake_count(w.service, FAKE_ENTRA), 1);

    desc.on_event = NULL; /* the endpoint of an API Management has a path */
    (void)snprintf(endpoint, sizeof endpoint, "https://localhost:%u/gateway/x", port);
    desc.call.endpoint = endpoint;
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
    azo_chat_reply_free(&reply);
    assert_string_equal(fake_request(w.service, FAKE_SERVICE, 10)->target, "/openai/v1/chat/completions");
    (void)snprintf(endpoint, sizeof endpoint, "https://localhost:%u/static/", port);
    expect(&w, chat_as(&w, &desc, &reply), AZO_OK);
    expect_str(reply.text, "from nginx");
    azo_chat_reply_free(&reply);
    (void)snprintf(endpoint, sizeof endpoint, "https://localhost:%u/moved/", port);
    expect(&w, chat_as(&w, &desc, &reply), AZO_ERR_REDIRECT);
    expect_part(w.error.message, "elsewhere.example");
    azo_chat_reply_free(&reply);

    upload u = {5000000};
    azo_raw_desc raw;
    azo_raw_reply raw_reply;
    memset(&raw, 0, sizeof raw);
    raw.path = "/files";
    raw.content_type = "application/octet-stream";
    raw.read_body = read_zeros;
    raw.read_user_data = &u;
    raw.body_len = u.len;
    expect(&w, raw_as(&w, &raw, &raw_reply), AZO_ERR_BAD_REQUEST);
    assert_int_equal(w.error.http_status, 413);
    assert_int_equal(w.error.attempts, 1);
    azo_raw_reply_free(&raw_reply);

    fake_stop(w.service); /* 502 with a page of nginx's */
    w.service = NULL;
    desc.call.endpoint = NULL;
    desc.call.max_retries = AZO_OFF;
    expect(&w, chat_as(&w, &desc, &reply), AZO_ERR_SERVICE);
    assert_int_equal(w.error.http_status, 502);
    expect_part(reply.http.body.ptr, "<html>");
    azo_chat_reply_free(&reply);

    azo_client_close(w.client);
    w.client = NULL;
    (void)program_stop(NULL);
    test_memory_close(&w.memory);
    (void)clear_environment(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tunnel),
        cmocka_unit_test(test_tunnel_to_other_ports),
        cmocka_unit_test(test_answer_in_drips),
        cmocka_unit_test(test_password),
        cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_bypass),
        cmocka_unit_test(test_no_proxy),
        cmocka_unit_test(test_proxies_that_fail),
        cmocka_unit_test(test_dead_proxy),
        cmocka_unit_test(test_wrong_host_behind_the_proxy),
        cmocka_unit_test(test_tunnel_that_breaks),
        cmocka_unit_test_teardown(test_tinyproxy, program_stop),
        cmocka_unit_test_teardown(test_nginx, program_stop),
        cmocka_unit_test(test_no_secret_was_shown), /* the last one */
    };
    return cmocka_run_group_tests(tests, clear_environment, NULL);
}
