/* Sockets and TLS: azoi_stream_* against `openssl s_server`, plain peers in threads, and awkward transport hooks.
 * Needs the certificates of make_certs.sh in $AZO_TEST_CERTS (default build/certs) and openssl in the PATH. */

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <mbedtls/ssl.h>
#include <mbedtls/version.h>
#if MBEDTLS_VERSION_NUMBER < 0x04000000
#include <mbedtls/entropy.h>
#endif

/* ---- what the header calls, made to fail on demand where nothing on a sane machine would ---- */

typedef struct faults {
    bool clock;             /* clock_gettime fails */
    bool blocking;          /* fcntl cannot make a socket non-blocking */
    const char *root_place; /* the one root certificate file that is there; NULL: the machine's own */
    const char *root_file;  /* what is in it */
    uint32_t verdict;       /* flags that mbedtls_x509_crt_verify_with_profile leaves when it fails */
    /* What these answer instead of doing anything; 0: they work. */
    int mbedtls_ssl_config_defaults;
    int mbedtls_entropy_func;
    int mbedtls_ssl_set_session;
    int mbedtls_x509_crt_verify_with_profile;
    int mbedtls_ssl_get_max_out_record_payload;
    int mbedtls_ssl_read;
    int mbedtls_ssl_write;
} faults;

static faults fault;

static int faulty_clock_gettime(clockid_t id, struct timespec *out) {
    return fault.clock ? -1 : clock_gettime(id, out);
}

static int faulty_fcntl(int fd, int command, int value) {
    if (fault.blocking && command == F_SETFL) {
        errno = EPERM;
        return -1;
    }
    return fcntl(fd, command, value);
}

static FILE *faulty_fopen(const char *path, const char *mode) {
    if (fault.root_place == NULL) {
        return fopen(path, mode);
    }
    errno = ENOENT;
    return strcmp(path, fault.root_place) == 0 ? fopen(fault.root_file, mode) : NULL;
}

static int faulty_mbedtls_x509_crt_verify_with_profile(
    mbedtls_x509_crt *crt, mbedtls_x509_crt *roots, mbedtls_x509_crl *revoked, const mbedtls_x509_crt_profile *profile,
    const char *name, uint32_t *flags, int (*verify)(void *, mbedtls_x509_crt *, int, uint32_t *), void *user_data) {
    if (fault.mbedtls_x509_crt_verify_with_profile != 0) {
        *flags = fault.verdict;
        return fault.mbedtls_x509_crt_verify_with_profile;
    }
    return mbedtls_x509_crt_verify_with_profile(crt, roots, revoked, profile, name, flags, verify, user_data);
}

#define FAULTY(name, parameters, arguments)                                                                            \
    static int faulty_##name parameters {                                                                              \
        return fault.name != 0 ? fault.name : name arguments;                                                          \
    }
FAULTY(mbedtls_ssl_config_defaults, (mbedtls_ssl_config * config, int end, int kind, int preset),
       (config, end, kind, preset))
#if MBEDTLS_VERSION_NUMBER < 0x04000000
FAULTY(mbedtls_entropy_func, (void *entropy, unsigned char *out, size_t len), (entropy, out, len))
#endif
FAULTY(mbedtls_ssl_set_session, (mbedtls_ssl_context * tls, const mbedtls_ssl_session *session), (tls, session))
FAULTY(mbedtls_ssl_get_max_out_record_payload, (const mbedtls_ssl_context *tls), (tls))
FAULTY(mbedtls_ssl_read, (mbedtls_ssl_context * tls, unsigned char *buf, size_t cap), (tls, buf, cap))
FAULTY(mbedtls_ssl_write, (mbedtls_ssl_context * tls, const unsigned char *buf, size_t len), (tls, buf, len))
#undef FAULTY

#define clock_gettime faulty_clock_gettime
#define fcntl faulty_fcntl
#define fopen faulty_fopen
#define mbedtls_ssl_config_defaults faulty_mbedtls_ssl_config_defaults
#define mbedtls_entropy_func faulty_mbedtls_entropy_func
#define mbedtls_ssl_set_session faulty_mbedtls_ssl_set_session
#define mbedtls_x509_crt_verify_with_profile faulty_mbedtls_x509_crt_verify_with_profile
#define mbedtls_ssl_get_max_out_record_payload faulty_mbedtls_ssl_get_max_out_record_payload
#define mbedtls_ssl_read faulty_mbedtls_ssl_read
#define mbedtls_ssl_write faulty_mbedtls_ssl_write
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"
#undef clock_gettime
#undef fcntl
#undef fopen
#undef mbedtls_ssl_config_defaults
#undef mbedtls_entropy_func
#undef mbedtls_ssl_set_session
#undef mbedtls_x509_crt_verify_with_profile
#undef mbedtls_ssl_get_max_out_record_payload
#undef mbedtls_ssl_read
#undef mbedtls_ssl_write

#include "support.h"

#define SCRIPT_MAX_CONNS 2
#include "script.h"

#include "script_tls.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <wchar.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { WAIT_MS = 20000 };

#if MBEDTLS_VERSION_NUMBER >= 0x03000000 && defined(MBEDTLS_SSL_PROTO_TLS1_3)
#define HAS_TLS13 1
#else
#define HAS_TLS13 0
#endif

/* ---- certificates ---- */

static const char *cert_path(char *out, size_t cap, const char *name) {
    const char *dir = getenv("AZO_TEST_CERTS");
    snprintf(out, cap, "%s/%s", dir != NULL && dir[0] != '\0' ? dir : "build/certs", name);
    return out;
}

/* The caller frees it. */
static char *read_cert(const char *name, size_t *len) {
    char path[512];
    FILE *file = fopen(cert_path(path, sizeof path, name), "rb");
    char *text = (char *)malloc(1 << 20);
    assert_non_null(file);
    assert_non_null(text);
    *len = fread(text, 1, (1 << 20) - 1, file);
    text[*len] = '\0';
    fclose(file);
    return text;
}

/* ---- a client's half: what upper layers would do ---- */

typedef struct client {
    test_memory memory;
    azoi_net net;
    azoi_stream stream;
    azo_error error;
    char log[16384];
    size_t log_len;
    bool quiet;
} client;

static void keep_line(int level, const char *text, void *user_data) {
    client *c = (client *)user_data;
    size_t len = strlen(text);
    assert_true(level >= AZO_LOG_WARN && level <= AZO_LOG_DEBUG);
    assert_null(strchr(text, '\n'));
    if (c->log_len + len + 2 < sizeof c->log) {
        memcpy(c->log + c->log_len, text, len);
        c->log_len += len;
        c->log[c->log_len++] = '\n';
        c->log[c->log_len] = '\0';
    }
}

static void clear_log(client *c) {
    c->log_len = 0;
    c->log[0] = '\0';
}

static bool logged(const client *c, const char *text) {
    return strstr(c->log, text) != NULL;
}

static client *client_new(azo_client_desc *desc) {
    client *c = (client *)calloc(1, sizeof *c);
    assert_non_null(c);
    test_memory_open(&c->memory);
    desc->logger.line = keep_line;
    desc->logger.user_data = c;
    azoi_error_clear(&c->error);
    azo_result r = azoi_net_init(&c->net, desc, &c->memory.hook, &c->error);
    if (r != AZO_OK) {
        print_error("%s\n", c->error.message);
    }
    assert_int_equal(r, AZO_OK);
    return c;
}

static client *client_trusting(const char *cert) {
    azo_client_desc desc;
    char path[512];
    memset(&desc, 0, sizeof desc);
    desc.ca_file = cert != NULL ? cert_path(path, sizeof path, cert) : NULL;
    return client_new(&desc);
}

static void client_free(client *c) {
    azoi_stream_close(&c->stream);
    azoi_net_close(&c->net);
    test_memory_close(&c->memory);
    free(c);
}

static void fail_from_now(client *c) {
    c->memory.fail_at = c->memory.calls + 1;
    c->memory.fail_on = true;
}

static int64_t now_ms(void) {
    return azoi_default_monotonic(NULL);
}

/* Sleeps until the stream may go on; the limit is absolute. */
static void client_wait(client *c, int64_t deadline) {
    azo_watch watches[4];
    int32_t timeout = azoi_left(now_ms(), deadline);
    unsigned want =
        (c->stream.in_blocked ? (unsigned)AZO_POLL_IN : 0u) | (c->stream.out_blocked ? (unsigned)AZO_POLL_OUT : 0u);
    assert_true(timeout > 0);
    if (want != 0) {
        size_t count = azoi_stream_watch(&c->stream, want, watches, COUNT(watches), &timeout);
        assert_true(count <= COUNT(watches));
        azoi_socket_poll(watches, count, timeout, &c->net);
    }
}

static azo_result client_connect(client *c, const char *host, uint16_t port) {
    int64_t deadline = now_ms() + WAIT_MS;
    azoi_error_clear(&c->error);
    azo_result r = azoi_stream_open(&c->stream, &c->net, host, port, 7, &c->error);
    if (r != AZO_OK) {
        return r;
    }
    while ((r = azoi_stream_connect(&c->stream)) == AZO_PENDING) {
        client_wait(c, deadline);
    }
    return r;
}

static azo_result client_secure(client *c, const char *host, uint16_t port) {
    int64_t deadline = now_ms() + WAIT_MS;
    azo_result r = azoi_stream_start_tls(&c->stream, host, port);
    if (r != AZO_OK) {
        return r;
    }
    while ((r = azoi_stream_handshake(&c->stream)) == AZO_PENDING) {
        client_wait(c, deadline);
    }
    return r;
}

static azo_result client_tls(client *c, const char *host, uint16_t port) {
    azo_result r = client_connect(c, "127.0.0.1", port);
    return r == AZO_OK ? client_secure(c, host, port) : r;
}

static ptrdiff_t client_read(client *c, void *buf, size_t cap) {
    int64_t deadline = now_ms() + WAIT_MS;
    ptrdiff_t got;
    while ((got = azoi_stream_read(&c->stream, buf, cap)) == AZO_IO_AGAIN) {
        assert_true(c->stream.in_blocked || c->stream.out_blocked || c->stream.reads == 0);
        client_wait(c, deadline);
    }
    return got;
}

static void client_write(client *c, const char *bytes, size_t len) {
    int64_t deadline = now_ms() + WAIT_MS;
    while (len > 0) {
        ptrdiff_t sent = azoi_stream_write(&c->stream, bytes, len);
        if (sent == AZO_IO_AGAIN) {
            client_wait(c, deadline);
            continue;
        }
        assert_true(sent > 0 && (size_t)sent <= len);
        bytes += sent;
        len -= (size_t)sent;
    }
}

/* What is common to all failures: a code, two sentences, numbers. */
static void check_error(const client *c, azo_result code, const char *part) {
    const char *message = c->error.message;
    if (c->error.code != code || strstr(message, part) == NULL) {
        print_error("expected %d and \"%s\", have %d: %s\n", (int)code, part, (int)c->error.code, message);
    }
    assert_int_equal(c->error.code, code);
    assert_non_null(strstr(message, part));
    test_sentences(message);
    assert_true(strlen(message) < sizeof c->error.message - 1);
}

/* ---- openssl s_server ---- */

typedef struct server {
    pid_t pid;
    int in; /* its stdin: open, or it ends */
    int out;
    uint16_t port;
} server;

static pid_t running[8]; /* so that a test that failed leaves none behind */

static void server_replace(pid_t old_pid, pid_t new_pid) {
    size_t i = 0;
    while (i < COUNT(running) && running[i] != old_pid) {
        i++;
    }
    if (i < COUNT(running)) {
        running[i] = new_pid;
    }
}

static void server_port(server *s) {
    char text[4096];
    size_t len = 0;
    int64_t deadline = now_ms() + WAIT_MS;
    while (s->port == 0) {
        struct pollfd p;
        p.fd = s->out;
        p.events = POLLIN;
        assert_int_equal(poll(&p, 1, azoi_left(now_ms(), deadline)), 1);
        ssize_t got = read(s->out, text + len, sizeof text - 1 - len);
        if (got <= 0) {
            text[len] = '\0';
            print_error("openssl s_server: %s\n", text);
        }
        assert_true(got > 0);
        len += (size_t)got;
        text[len] = '\0';
        const char *line = strstr(text, "ACCEPT 127.0.0.1:");
        if (line != NULL && strchr(line, '\n') != NULL) {
            s->port = (uint16_t)strtol(line + 17, NULL, 10);
        }
    }
}

/* Further arguments of s_server are separated by single spaces. */
static server server_start(const char *cert, const char *options) {
    server s;
    int in[2];
    int out[2];
    char words[512];
    char cert_file[512], key_file[512], chain_file[512], name[64];
    char *argv[40];
    size_t argc = 0;
    memset(&s, 0, sizeof s);
    snprintf(words, sizeof words, "openssl s_server -accept 127.0.0.1:0 %s", options);
    for (char *word = words; word != NULL; argc++) {
        argv[argc] = word;
        word = strchr(word, ' ');
        if (word != NULL) {
            *word++ = '\0';
        }
    }
    snprintf(name, sizeof name, "%s.pem", cert);
    argv[argc++] = (char *)(intptr_t) "-cert";
    argv[argc++] = (char *)(intptr_t)cert_path(cert_file, sizeof cert_file, name);
    snprintf(name, sizeof name, "%s.key", cert);
    argv[argc++] = (char *)(intptr_t) "-key";
    argv[argc++] = (char *)(intptr_t)cert_path(key_file, sizeof key_file, name);
    if (strcmp(cert, "nochain") != 0 && strcmp(cert, "selfsigned") != 0) {
        argv[argc++] = (char *)(intptr_t) "-cert_chain";
        argv[argc++] = (char *)(intptr_t)cert_path(chain_file, sizeof chain_file, "intermediate.pem");
    }
    argv[argc] = NULL;
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    s.pid = fork();
    assert_true(s.pid >= 0);
    if (s.pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(out[1], 2);
        for (int fd = 3; fd < 100; fd++) {
            close(fd);
        }
        execvp("openssl", argv);
        _exit(127);
    }
    server_replace(0, s.pid);
    close(in[0]);
    close(out[1]);
    s.in = in[1];
    s.out = out[0];
    server_port(&s);
    return s;
}

static void server_stop(server *s) {
    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, 0);
        server_replace(s->pid, 0);
        close(s->in);
        close(s->out);
        s->pid = 0;
    }
}

static void check_page(client *c) {
    static const char get[] = "GET / HTTP/1.0\r\n\r\n";
    char page[20000];
    size_t len = 0;
    ptrdiff_t got;
    client_write(c, get, sizeof get - 1);
    while (len < sizeof page && (got = client_read(c, page + len, sizeof page - len)) > 0) {
        len += (size_t)got;
    }
    assert_true(len > 100);
    assert_memory_equal(page, "HTTP/1.0 200 ok", 15);
    assert_int_equal(client_read(c, page, 1), got); /* the end stays the end */
}

static void check_echo(client *c, const char *line) {
    char back[256];
    size_t len = strlen(line);
    size_t have = 0;
    client_write(c, line, len);
    while (have < len) {
        ptrdiff_t got = client_read(c, back + have, sizeof back - have);
        assert_true(got > 0);
        have += (size_t)got;
    }
    assert_int_equal(have, len);
    for (size_t i = 0; i + 1 < len; i++) {
        assert_int_equal(back[i], line[len - 2 - i]); /* s_server -rev */
    }
}

/* ---- plain peers ---- */

typedef enum behaviour { ECHO_BYTES, SAY_HTTP, HANG_UP, RESET_IT, SAY_NOISE } behaviour;

typedef struct peer {
    pthread_t thread;
    int listener;
    uint16_t port;
    behaviour what;
} peer;

static int listen_on(int family, uint16_t *port) {
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    int fd = socket(family, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    if (fd < 0) {
        return -1;
    }
    if (family == AF_INET6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&address;
        v6->sin6_family = AF_INET6;
        v6->sin6_addr = in6addr_loopback;
        v6->sin6_port = htons(*port);
        size = sizeof *v6;
    } else {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&address;
        v4->sin_family = AF_INET;
        v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        v4->sin_port = htons(*port);
        size = sizeof *v4;
    }
    if (bind(fd, (struct sockaddr *)&address, size) != 0 || listen(fd, 16) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) != 0) {
        close(fd);
        return -1;
    }
    *port = ntohs(family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                     : ((struct sockaddr_in *)&address)->sin_port);
    return fd;
}

/* A port that nobody listens on. */
static uint16_t closed_port(void) {
    uint16_t port = 0;
    int fd = listen_on(AF_INET, &port);
    assert_true(fd >= 0);
    close(fd);
    return port;
}

static bool readable(int fd) {
    struct pollfd p;
    p.fd = fd;
    p.events = POLLIN;
    return poll(&p, 1, WAIT_MS) == 1;
}

static void *peer_run(void *user_data) {
    static const char http[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    peer *p = (peer *)user_data;
    char bytes[1000];
    struct linger linger = {1, 0};
    ssize_t got;
    if (!readable(p->listener)) {
        return NULL;
    }
    int fd = accept(p->listener, NULL, NULL);
    got = readable(fd) ? recv(fd, bytes, sizeof bytes, 0) : 0;
    switch (p->what) {
    case ECHO_BYTES:
        while (got > 0) {
            (void)!send(fd, bytes, (size_t)got, MSG_NOSIGNAL);
            got = bytes[got - 1] != '.' && readable(fd) ? recv(fd, bytes, sizeof bytes, 0) : 0;
        }
        break;
    case SAY_HTTP:
        (void)!send(fd, http, sizeof http - 1, MSG_NOSIGNAL);
        break;
    case SAY_NOISE:
        (void)!send(fd, "220 mail.example ESMTP ready\r\n", 30, MSG_NOSIGNAL);
        break;
    case RESET_IT:
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        break;
    case HANG_UP:
        break;
    }
    if (p->what == SAY_HTTP || p->what == SAY_NOISE) {
        shutdown(fd, SHUT_WR);
        while (readable(fd) && recv(fd, bytes, sizeof bytes, 0) > 0) {
        }
    }
    close(fd);
    return NULL;
}

static void peer_start(peer *p, behaviour what) {
    memset(p, 0, sizeof *p);
    p->what = what;
    p->listener = listen_on(AF_INET, &p->port);
    assert_true(p->listener >= 0);
    assert_int_equal(pthread_create(&p->thread, NULL, peer_run, p), 0);
}

static void peer_stop(peer *p) {
    pthread_join(p->thread, NULL);
    close(p->listener);
}

/* ---- a hook that makes the built-in transport awkward ---- */

typedef struct awkward {
    azoi_net *net;
    bool one_byte;
    bool every_second; /* says "again" every second time */
    bool no_sending;
    unsigned calls;
    unsigned char last_type; /* first byte of the last send */
    size_t sends;
    bool fail_recv;
} awkward;

static azo_result awkward_open(const azo_target *to, void **conn, void *user_data) {
    return azoi_socket_open(to, conn, ((awkward *)user_data)->net);
}

static int awkward_connect(void *conn, void *user_data) {
    return azoi_socket_connect(conn, ((awkward *)user_data)->net);
}

static ptrdiff_t awkward_recv(void *conn, void *buf, size_t cap, void *user_data) {
    awkward *a = (awkward *)user_data;
    if (a->fail_recv) {
        errno = EIO;
        return AZO_ERR_TIMEOUT;
    }
    if (a->every_second && ++a->calls % 2 == 0) {
        return AZO_IO_AGAIN;
    }
    return azoi_socket_recv(conn, buf, a->one_byte && cap > 1 ? 1 : cap, a->net);
}

static ptrdiff_t awkward_send(void *conn, const void *buf, size_t len, void *user_data) {
    awkward *a = (awkward *)user_data;
    if (a->no_sending || (a->every_second && ++a->calls % 2 == 0)) {
        return AZO_IO_AGAIN;
    }
    a->last_type = *(const unsigned char *)buf;
    a->sends++;
    return azoi_socket_send(conn, buf, a->one_byte && len > 1 ? 1 : len, a->net);
}

static size_t awkward_watch(void *conn, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms,
                            void *user_data) {
    return azoi_socket_watch(conn, want, out, cap, timeout_ms, ((awkward *)user_data)->net);
}

static void awkward_close(void *conn, void *user_data) {
    azoi_socket_close(conn, ((awkward *)user_data)->net);
}

static client *client_awkward(awkward *a) {
    azo_client_desc desc;
    char path[512];
    memset(&desc, 0, sizeof desc);
    desc.ca_file = cert_path(path, sizeof path, "ca.pem");
    desc.transport.user_data = a;
    desc.transport.open = awkward_open;
    desc.transport.connect = awkward_connect;
    desc.transport.recv = awkward_recv;
    desc.transport.send = awkward_send;
    desc.transport.watch = awkward_watch;
    desc.transport.close = awkward_close;
    client *c = client_new(&desc);
    a->net = &c->net;
    return c;
}

/* ---- hooks, clocks, log ---- */

static int no_connect(void *conn, void *user_data) {
    (void)conn;
    (void)user_data;
    return 0;
}

static int64_t fixed_time(void *user_data) {
    (void)user_data;
    return 42;
}

static void refuses(azo_client_desc *desc, const char *part) {
    client c;
    memset(&c, 0, sizeof c);
    test_memory_open(&c.memory);
    azoi_error_clear(&c.error);
    assert_int_equal(azoi_net_init(&c.net, desc, &c.memory.hook, &c.error), AZO_ERR_ARGUMENT);
    check_error(&c, AZO_ERR_ARGUMENT, part);
    azoi_net_close(&c.net);
    test_memory_close(&c.memory);
}

static void test_half_filled_hooks(void **state) {
    (void)state;
    azo_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.transport.connect = no_connect;
    refuses(&desc, "(1 of 6 functions)");
    memset(&desc, 0, sizeof desc);
    desc.transport.poll = azoi_socket_poll;
    refuses(&desc, "(0 of 6 functions)");
    memset(&desc, 0, sizeof desc);
    desc.clock.monotonic_ms = fixed_time;
    refuses(&desc, "(1 of 2 functions)");
    memset(&desc, 0, sizeof desc);
    desc.clock.unix_seconds = fixed_time;
    refuses(&desc, "(1 of 2 functions)");
    memset(&desc, 0, sizeof desc);
    desc.ca_file = "some.pem";
    desc.ca_pem = azo_s("-----BEGIN CERTIFICATE-----");
    refuses(&desc, "ca_file and ca_pem");
}

static void test_clock_and_jitter(void **state) {
    (void)state;
    azo_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.clock.monotonic_ms = fixed_time;
    desc.clock.unix_seconds = fixed_time;
    client *c = client_new(&desc);
    assert_int_equal(azoi_net_now(&c->net), 42);
    assert_int_equal(azoi_net_unix(&c->net), 42);
    uint32_t all = 0;
    for (int i = 0; i < 100; i++) {
        all |= azoi_net_random(&c->net);
    }
    assert_int_equal(all, 0xffffffff);
    client_free(c);
    assert_true(azoi_default_monotonic(NULL) > 0);
    fault.clock = true;
    assert_int_equal(azoi_default_monotonic(NULL), 0); /* it stands still, and is no garbage */
    fault.clock = false;
}

static void test_log_lines(void **state) {
    (void)state;
    client *c = client_trusting("ca.pem");
    char text[10000];
    azoi_log(&c->net, AZO_LOG_INFO, "%d\r\n%s", 1, "two\x1b[0m");
    assert_string_equal(c->log, "1  two?[0m\n");
    clear_log(c);
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    azoi_log(&c->net, AZO_LOG_INFO, "%s", text);
    assert_int_equal(c->log_len, 1024); /* cut, with its line end */
    clear_log(c);
    azoi_log(&c->net, AZO_LOG_INFO, "text %lc", (wint_t)0x7fffffff); /* no character: printf fails */
    assert_int_equal(c->log_len, 0);
    c->net.logger.line = NULL;
    azoi_log(&c->net, AZO_LOG_INFO, "nobody listens");
    client_free(c);
}

static void test_hook_results(void **state) {
    (void)state;
    static const struct {
        ptrdiff_t answer;
        azo_result code;
    } cases[] = {
#define CASE(name, number) {name, number < 0 ? name : AZO_ERR_CONNECT},
        AZO_RESULTS(CASE)
#undef CASE
        {-7, AZO_ERR_CONNECT},
        {AZO_IO_AGAIN, AZO_ERR_CONNECT},
        {70000, AZO_ERR_CONNECT}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        azoi_stream s;
        errno = EIO;
        azoi_stream_note(&s, cases[i].answer, AZO_ERR_CONNECT);
        assert_int_equal(s.failed, cases[i].code);
        assert_int_equal(s.failed_errno, EIO);
    }
}

/* ---- sockets ---- */

static void test_plain_stream(void **state) {
    (void)state;
    peer p;
    char back[64];
    peer_start(&p, ECHO_BYTES);
    client *c = client_trusting(NULL);
    assert_int_equal(client_connect(c, "localhost", p.port), AZO_OK);
    assert_int_equal(azoi_stream_read(&c->stream, back, sizeof back), AZO_IO_AGAIN);
    assert_true(c->stream.in_blocked);
    client_write(c, "hello", 5);
    assert_int_equal(client_read(c, back, sizeof back), 5);
    assert_memory_equal(back, "hello", 5);
    assert_false(c->stream.in_blocked);
    assert_int_equal(azoi_stream_write(&c->stream, back, 0), 0);
    client_write(c, "end.", 4);
    assert_int_equal(client_read(c, back, sizeof back), 4);
    assert_int_equal(client_read(c, back, sizeof back), 0);
    assert_int_equal(azoi_stream_read(&c->stream, back, sizeof back), 0);
    assert_int_equal(c->stream.end, 0);
    assert_int_equal(c->error.code, AZO_OK);
    assert_true(logged(c, "* resolving localhost\n"));
    assert_true(logged(c, "* connected to localhost port"));
    peer_stop(&p);
    client_free(c);
}

static void test_socket_options(void **state) {
    (void)state;
    peer p;
    int on = 0;
    socklen_t size = sizeof on;
    peer_start(&p, HANG_UP);
    client *c = client_trusting(NULL);
    assert_int_equal(client_connect(c, "127.0.0.1", p.port), AZO_OK);
    int fd = ((azoi_socket *)c->stream.conn)->fd[0];
    assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_true((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &size), 0);
    assert_int_not_equal(on, 0);
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, &size), 0);
    assert_int_not_equal(on, 0);
    client_write(c, "x", 1);
    peer_stop(&p);
    client_free(c);
}

static void test_reset(void **state) {
    (void)state;
    peer p;
    char byte;
    peer_start(&p, RESET_IT);
    client *c = client_trusting(NULL);
    assert_int_equal(client_connect(c, "127.0.0.1", p.port), AZO_OK);
    client_write(c, "x", 1);
    peer_stop(&p);
    assert_int_equal(client_read(c, &byte, 1), AZO_ERR_CLOSED);
    check_error(c, AZO_ERR_CLOSED, "broke while receiving (errno 104");
    assert_int_equal(c->error.sys_errno, ECONNRESET);
    assert_int_equal(azoi_stream_read(&c->stream, &byte, 1), AZO_ERR_CLOSED);
    assert_int_equal(azoi_stream_write(&c->stream, &byte, 1), AZO_ERR_CLOSED);
    client_free(c);
}

static void test_write_after_reset(void **state) {
    (void)state;
    peer p;
    peer_start(&p, RESET_IT);
    client *c = client_trusting(NULL);
    assert_int_equal(client_connect(c, "127.0.0.1", p.port), AZO_OK);
    client_write(c, "x", 1);
    peer_stop(&p);
    ptrdiff_t sent = 1;
    for (int i = 0; i < 100 && sent >= 0; i++) {
        sent = azoi_stream_write(&c->stream, "y", 1);
        poll(NULL, 0, 1);
    }
    assert_int_equal(sent, AZO_ERR_CLOSED); /* and no SIGPIPE */
    check_error(c, AZO_ERR_CLOSED, "broke while sending");
    client_free(c);
}

static void test_refused(void **state) {
    (void)state;
    client *c = client_trusting(NULL);
    assert_int_equal(client_connect(c, "localhost", closed_port()), AZO_ERR_CONNECT);
    check_error(c, AZO_ERR_CONNECT, "localhost does not answer on port");
    assert_non_null(strstr(c->error.message, "refused"));
    assert_int_equal(c->error.sys_errno, ECONNREFUSED);
    assert_int_equal(c->net.known[0].addresses.count, 0); /* to be looked up again */
    assert_true(logged(c, "* no connection to localhost port"));
    client_free(c);
}

/* The number that the next descriptor will have. */
static int next_descriptor(void) {
    int fd = dup(0);
    assert_true(fd >= 0);
    close(fd);
    return fd;
}

static void test_too_many_open_files(void **state) {
    (void)state;
    struct rlimit before, few;
    client *c = client_trusting(NULL);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = (rlim_t)next_descriptor();
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    azo_result r = client_connect(c, "127.0.0.1", 1);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(r, AZO_ERR_CONNECT);
    check_error(c, AZO_ERR_CONNECT, "too many open files");
    assert_int_equal(c->error.sys_errno, EMFILE);
    client_free(c);
}

/* A socket that would wait is not used. */
static void test_socket_that_stays_blocking(void **state) {
    (void)state;
    peer p;
    peer_start(&p, HANG_UP);
    client *c = client_trusting(NULL);
    int unused = next_descriptor();
    fault.blocking = true;
    azo_result r = client_connect(c, "127.0.0.1", p.port);
    fault.blocking = false;
    assert_int_equal(r, AZO_ERR_CONNECT);
    assert_int_equal(c->error.sys_errno, EPERM);
    azoi_stream_close(&c->stream);
    assert_int_equal(next_descriptor(), unused);
    assert_int_equal(client_connect(c, "127.0.0.1", p.port), AZO_OK);
    client_write(c, "x", 1);
    peer_stop(&p);
    client_free(c);
}

static void test_unresolvable(void **state) {
    (void)state;
    char host[70]; /* a label has at most 63 characters, so that no name server is asked */
    memset(host, 'x', sizeof host - 1);
    host[sizeof host - 1] = '\0';
    client *c = client_trusting(NULL);
    assert_int_equal(client_connect(c, host, 443), AZO_ERR_RESOLVE);
    check_error(c, AZO_ERR_RESOLVE, "does not resolve (resolver code -");
    assert_int_not_equal(c->error.sys_errno, 0);
    azoi_stream_close(&c->stream);
    client_free(c);
}

static void test_addresses_are_kept(void **state) {
    (void)state;
    client *c = client_trusting(NULL);
    for (int i = 0; i < 2; i++) {
        peer p;
        uint16_t port;
        peer_start(&p, HANG_UP);
        port = p.port;
        for (int k = 0; k < 2; k++) {
            clear_log(c);
            assert_int_equal(client_connect(c, "localhost", port), AZO_OK);
            assert_int_equal(logged(c, "resolving"), k == 0);
            if (k == 1) {
                azoi_stream_close(&c->stream);
                continue;
            }
            client_write(c, "x", 1);
            azoi_stream_close(&c->stream);
        }
        peer_stop(&p);
    }
    assert_int_equal(c->net.next_known, 2);
    client_free(c);
}

static void test_address_order(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"444666", "304152"}, {"6644", "0213"}, {"4", "0"}, {"66", "01"},
                                           {"64", "01"}, {"46", "10"}, {"4464", "2013"}, {"64666", "01234"},
                                           {"", ""}, {"4444444444", "01234567"}, {"x4", "1"}};
    /* The first string lists families; the second says which are asked for, in which order. */
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct addrinfo list[10];
        azoi_address in[10];
        azoi_addresses out;
        size_t count = strlen(cases[i][0]);
        memset(list, 0, sizeof list);
        memset(in, 0, sizeof in);
        for (size_t k = 0; k < count; k++) {
            char family = cases[i][0][k];
            in[k].v4.sin_port = (in_port_t)k;
            list[k].ai_family = in[k].any.sa_family = family == '6' ? AF_INET6 : family == '4' ? AF_INET : AF_UNIX;
            list[k].ai_addr = &in[k].any;
            list[k].ai_next = k + 1 < count ? &list[k + 1] : NULL;
        }
        size_t expected = strlen(cases[i][1]);
        azoi_addresses_sort(count > 0 ? list : NULL, &out);
        assert_int_equal(out.count, expected);
        for (size_t k = 0; k < expected; k++) {
            assert_int_equal(out.list[k].v4.sin_port, cases[i][1][k] - '0');
        }
    }
}

static void test_winner_goes_first(void **state) {
    (void)state;
    static const uint16_t orders[][4] = {{0, 1, 2, 3}, {1, 0, 2, 3}, {2, 0, 1, 3}, {3, 0, 1, 2}};
    client *c = client_trusting(NULL);
    for (size_t winner = 0; winner < 4; winner++) {
        azoi_socket s;
        memset(&s, 0, sizeof s);
        s.to.host = "four.test";
        s.to.port = 4;
        s.fd[0] = -1;
        s.fd[1] = -1;
        for (s.to_try.count = 0; s.to_try.count < 4; s.to_try.count++) {
            s.to_try.list[s.to_try.count].v4.sin_port = (in_port_t)s.to_try.count;
        }
        s.place[1] = winner;
        azoi_socket_settle(&s, &c->net, 1, 0);
        for (size_t i = 0; i < 4; i++) {
            assert_int_equal(c->net.known[0].addresses.list[i].v4.sin_port, orders[winner][i]);
        }
        assert_int_equal(c->net.known[0].addresses.count, 4);
        assert_int_equal(c->net.next_known, 1);
    }
    client_free(c);
}

/* Puts two loopback addresses under one name: the ports differ. */
static void name_two(client *c, uint16_t first, uint16_t second) {
    azoi_addresses *two = &azoi_net_known(&c->net, "two.test", 1)->addresses;
    for (two->count = 0; two->count < 2; two->count++) {
        two->list[two->count].v4.sin_family = AF_INET;
        two->list[two->count].v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        two->list[two->count].v4.sin_port = htons(two->count == 0 ? first : second);
    }
}

static uint16_t first_port(const client *c) {
    return ntohs(c->net.known[0].addresses.list[0].v4.sin_port);
}

static void test_second_address_after_failure(void **state) {
    (void)state;
    peer p;
    peer_start(&p, HANG_UP);
    client *c = client_trusting(NULL);
    name_two(c, closed_port(), p.port);
    assert_int_equal(client_connect(c, "two.test", 1), AZO_OK);
    assert_int_equal(first_port(c), p.port);
    client_write(c, "x", 1);
    azoi_stream_close(&c->stream);
    peer_stop(&p);
    /* The winner goes first; when it is gone too, both are tried and the list is forgotten. */
    assert_int_equal(client_connect(c, "two.test", 1), AZO_ERR_CONNECT);
    assert_int_equal(c->net.known[0].addresses.count, 0);
    azoi_stream_close(&c->stream);
    client_free(c);
}

/* A socket whose buffer is full looks like one that nobody answers. */
static void make_silence(int pair[2]) {
    static const char junk[4096];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0);
    while (send(pair[0], junk, sizeof junk, MSG_NOSIGNAL) > 0) {
    }
}

/* Takes all that was sent; true if the other end was closed then. */
static bool drain(int fd) {
    char junk[4096];
    ssize_t left;
    while ((left = recv(fd, junk, sizeof junk, MSG_DONTWAIT)) > 0) {
    }
    return left == 0;
}

static void test_second_address_after_silence(void **state) {
    (void)state;
    peer p;
    int pair[2];
    azo_watch watches[4];
    int32_t timeout = -1;
    peer_start(&p, HANG_UP);
    client *c = client_trusting(NULL);
    name_two(c, closed_port(), p.port);
    assert_int_equal(azoi_stream_open(&c->stream, &c->net, "two.test", 1, 9, &c->error), AZO_OK);
    assert_int_equal(azoi_stream_watch(&c->stream, 0, watches, 4, &timeout), 0);
    assert_int_equal(timeout, 0); /* it wants to be called */

    azoi_socket *s = (azoi_socket *)c->stream.conn;
    assert_int_equal(azoi_socket_resolve(s, &c->net), AZO_OK);
    make_silence(pair);
    s->fd[0] = pair[0];
    s->place[0] = 0;
    s->tried = 1;
    s->stagger_at = now_ms() + AZOI_STAGGER_MS;

    int64_t began = now_ms();
    assert_int_equal(azoi_stream_connect(&c->stream), AZO_PENDING);
    assert_true(c->stream.out_blocked);
    timeout = -1;
    assert_int_equal(azoi_stream_watch(&c->stream, AZO_POLL_OUT, watches, 4, &timeout), 1);
    assert_int_equal(watches[0].fd, pair[0]);
    assert_int_equal(watches[0].id, 9);
    assert_int_equal(watches[0].events, AZO_POLL_OUT);
    assert_true(timeout > 0 && timeout <= AZOI_STAGGER_MS);
    timeout = 0;
    assert_int_equal(azoi_stream_watch(&c->stream, AZO_POLL_OUT, watches, 4, &timeout), 1);
    assert_int_equal(timeout, 0); /* it is lowered only */
    azo_result r;
    while ((r = azoi_stream_connect(&c->stream)) == AZO_PENDING) {
        client_wait(c, began + WAIT_MS);
    }
    assert_int_equal(r, AZO_OK);
    assert_true(now_ms() - began >= AZOI_STAGGER_MS - 1);
    assert_true(drain(pair[1])); /* the loser is closed */
    assert_int_equal(first_port(c), p.port);
    timeout = -1;
    assert_int_equal(azoi_stream_watch(&c->stream, AZO_POLL_IN, watches, 4, &timeout), 1);
    assert_int_equal(timeout, -1);
    assert_int_equal(azoi_stream_watch(&c->stream, 0, watches, 4, &timeout), 0);
    client_write(c, "x", 1);
    close(pair[1]);
    azoi_stream_close(&c->stream);
    peer_stop(&p);
    client_free(c);
}

/* Of two attempts that are under way the first fails: the other one is waited for. */
static void test_first_of_two_fails(void **state) {
    (void)state;
    int pair[2];
    int no_socket[2]; /* a pipe has no SO_ERROR to ask for */
    azo_watch watches[2];
    int32_t timeout = -1;
    client *c = client_trusting(NULL);
    name_two(c, 1, 2);
    assert_int_equal(azoi_stream_open(&c->stream, &c->net, "two.test", 1, 9, &c->error), AZO_OK);
    azoi_socket *s = (azoi_socket *)c->stream.conn;
    assert_int_equal(azoi_socket_resolve(s, &c->net), AZO_OK);
    make_silence(pair);
    assert_int_equal(pipe(no_socket), 0);
    s->fd[0] = no_socket[1];
    s->fd[1] = pair[0];
    s->place[1] = 1;
    s->tried = 2;

    memset(watches, 0, sizeof watches);
    assert_int_equal(azoi_stream_watch(&c->stream, AZO_POLL_OUT, watches, 1, &timeout), 2); /* there is room for one */
    assert_int_equal(watches[0].fd, no_socket[1]);
    assert_int_equal(watches[1].events, 0);
    assert_int_equal(timeout, -1); /* nothing is left to be started */
    assert_int_equal(azoi_stream_connect(&c->stream), AZO_PENDING);
    assert_int_equal(s->last_errno, ENOTSOCK);
    assert_int_equal(azoi_stream_watch(&c->stream, AZO_POLL_OUT, watches, 2, &timeout), 1);
    assert_int_equal(watches[0].fd, pair[0]);
    assert_false(drain(pair[1]));
    assert_int_equal(azoi_stream_connect(&c->stream), AZO_OK);
    assert_int_equal(first_port(c), 2);
    client_write(c, "x", 1);
    assert_int_equal(recv(pair[1], watches, 2, MSG_DONTWAIT), 1);
    close(pair[1]);
    close(no_socket[0]);
    client_free(c);
}

/* connect that a signal interrupts goes on by itself (POSIX). */
static void test_connect_is_interrupted(void **state) {
    (void)state;
    azoi_socket s;
    client *c = client_trusting(NULL);
    memset(&s, 0, sizeof s);
    s.fd[0] = 99;
    s.fd[1] = -1;
    int64_t before = now_ms();
    azoi_socket_settle(&s, &c->net, 0, EINTR);
    assert_true(s.stagger_at >= before + AZOI_STAGGER_MS);
    assert_int_equal(s.fd[0], 99);
    assert_false(s.connected);
    assert_int_equal(c->log_len, 0);
    client_free(c);
}

/* Some systems connect to their own addresses at once, as this one does for AF_UNIX. */
static void test_connected_at_once(void **state) {
    (void)state;
    struct sockaddr_un name;
    char byte = 0;
    client *c = client_trusting(NULL);
    azoi_addresses *near = &azoi_net_known(&c->net, "near.test", 1)->addresses;
    memset(&name, 0, sizeof name);
    name.sun_family = AF_UNIX;
    (void)snprintf(name.sun_path + 1, 13, "azo%x", (unsigned)getpid()); /* abstract: no file */
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(listener >= 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&name, sizeof near->list[0].v4), 0);
    assert_int_equal(listen(listener, 1), 0);
    near->count = 1;
    memcpy(&near->list[0], &name, sizeof near->list[0].v4);

    azoi_error_clear(&c->error);
    assert_int_equal(azoi_stream_open(&c->stream, &c->net, "near.test", 1, 9, &c->error), AZO_OK);
    assert_int_equal(azoi_stream_connect(&c->stream), AZO_OK);
    assert_true(logged(c, "* connected to near.test port 1"));
    client_write(c, "x", 1);
    int fd = accept(listener, NULL, NULL);
    assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 1);
    assert_int_equal(byte, 'x');
    close(fd);
    close(listener);
    client_free(c);
}

static void test_ipv6(void **state) {
    (void)state;
    uint16_t port = 0;
    int fd = listen_on(AF_INET6, &port);
    if (fd < 0) {
        skip();
    }
    client *c = client_trusting(NULL);
    assert_int_equal(client_connect(c, "::1", port), AZO_OK);
    assert_true(logged(c, "* connected to ::1 port") && logged(c, "by IPv6"));
    client_free(c);
    close(fd);
}

static void test_poll_hook(void **state) {
    (void)state;
    enum { MANY = 40 };
    int pairs[MANY][2];
    azo_watch set[MANY];
    client *c = client_trusting(NULL);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]), 0);
    }
    for (int round = 0; round < 3; round++) {
        size_t count = round == 0 ? 5 : MANY;
        if (round == 2) {
            fail_from_now(c);
        }
        for (size_t i = 0; i < count; i++) {
            set[i].fd = pairs[i][0];
            set[i].id = (uint32_t)i;
            set[i].events = i == 1 ? (unsigned)AZO_POLL_OUT : (unsigned)AZO_POLL_IN;
        }
        if (round == 0) {
            (void)!write(pairs[2][1], "x", 1);
            close(pairs[3][1]);
        }
        int ready = azoi_socket_poll(set, count, 1000, &c->net);
        assert_int_equal(ready, round == 2 ? MANY : 3); /* without memory all may be ready */
        assert_int_equal(set[0].events, round == 2 ? AZO_POLL_IN : 0);
        assert_int_equal(set[1].events, AZO_POLL_OUT);
        assert_int_equal(set[2].events, AZO_POLL_IN);
        assert_true((set[3].events & AZO_POLL_IN) != 0);
        if (round > 0) {
            assert_int_equal(set[MANY - 1].events, round == 2 ? AZO_POLL_IN : 0);
        }
    }
    c->memory.fail_at = 0;
    set[0].events = AZO_POLL_IN;
    assert_int_equal(azoi_socket_poll(set, 1, 5, &c->net), 0);
    assert_int_equal(azoi_socket_poll(NULL, 0, 5, &c->net), 0);
    for (int i = 0; i < MANY; i++) {
        close(pairs[i][0]);
        if (i != 3) {
            close(pairs[i][1]);
        }
    }
    client_free(c);
}

static void on_alarm(int number) {
    (void)number;
}

static void catch_alarms(struct sigaction *before) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm; /* and no SA_RESTART */
    sigaction(SIGALRM, &action, before);
}

static void test_poll_is_interrupted(void **state) {
    (void)state;
    struct sigaction before;
    client *c = client_trusting(NULL);
    catch_alarms(&before);
    alarm(1);
    assert_int_equal(azoi_socket_poll(NULL, 0, 5000, &c->net), -1);
    sigaction(SIGALRM, &before, NULL);
    client_free(c);
}

/* Signals for a thread that waits for a socket; then the socket gets ready. */
typedef struct nuisance {
    pthread_t victim;
    int fd;
    bool takes; /* else it sends a byte */
} nuisance;

static void *disturb(void *user_data) {
    const nuisance *n = (const nuisance *)user_data;
    for (int i = 0; i < 5; i++) {
        poll(NULL, 0, 2);
        pthread_kill(n->victim, SIGALRM);
    }
    if (n->takes) {
        (void)drain(n->fd);
    } else {
        (void)!send(n->fd, "x", 1, MSG_NOSIGNAL);
    }
    return NULL;
}

/* On a blocking socket, as only that can be interrupted. */
static void test_io_is_interrupted(void **state) {
    (void)state;
    struct sigaction before;
    catch_alarms(&before);
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        azoi_socket s;
        nuisance n;
        int pair[2];
        char byte = 'x';
        make_silence(pair);
        assert_int_equal(fcntl(pair[0], F_SETFL, 0), 0);
        memset(&s, 0, sizeof s);
        s.fd[0] = pair[0];
        n.victim = pthread_self();
        n.fd = pair[1];
        n.takes = i == 1;
        assert_int_equal(pthread_create(&thread, NULL, disturb, &n), 0);
        assert_int_equal(n.takes ? azoi_socket_send(&s, &byte, 1, NULL) : azoi_socket_recv(&s, &byte, 1, NULL), 1);
        pthread_join(thread, NULL);
        close(pair[0]);
        close(pair[1]);
    }
    sigaction(SIGALRM, &before, NULL);
}

/* ---- TLS that works ---- */

static void check_version(const char *option, const char *version) {
    char words[64];
    snprintf(words, sizeof words, "-www %s", option);
    server s = server_start("server", words);
    client *c = client_trusting("ca.pem");
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    assert_int_equal(c->error.code, AZO_OK);
    assert_true(logged(c, version));
    assert_true(logged(c, "certificate verified"));
    assert_true(logged(c, "* 1 of 1 root certificates fit the chain of localhost"));
    check_page(c);
    client_free(c);
    server_stop(&s);
}

static void test_tls12(void **state) {
    (void)state;
    check_version("-tls1_2", "* TLSv1.2 with localhost, TLS-ECDHE-RSA-WITH-CHACHA20-POLY1305-SHA256");
}

static void test_tls13(void **state) {
    (void)state;
#if HAS_TLS13
    check_version("-tls1_3", "* TLSv1.3 with localhost, TLS1-3-");
#else
    skip();
#endif
}

static void test_names(void **state) {
    (void)state;
    server s = server_start("server", "-www");
    static const struct {
        const char *host;
        bool good;
    } cases[] = {{"localhost", true},
                 {"LocalHost", true},
                 {"localhost.", true},
                 {"x.openai.azure.test", true},
                 {"a.b.openai.azure.test", false},
                 {"localhost.evil.test", false},
                 {"127.0.0.1", MBEDTLS_VERSION_NUMBER >= 0x03000000},
                 {"127.0.0.2", false}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        client *c = client_trusting("ca.pem");
        azo_result r = client_tls(c, cases[i].host, s.port);
        assert_int_equal(r, cases[i].good ? AZO_OK : AZO_ERR_TLS_VERIFY);
        if (!cases[i].good) {
            check_error(c, AZO_ERR_TLS_VERIFY, "is for another name");
            assert_non_null(strstr(c->error.message, cases[i].host));
            assert_int_equal(c->error.tls_verify_flags, MBEDTLS_X509_BADCERT_CN_MISMATCH);
        }
        client_free(c);
    }
    char too_long[300];
    memset(too_long, 'x', sizeof too_long - 1);
    too_long[sizeof too_long - 1] = '\0';
    const char *const refused[] = {"", "x:y", too_long, ":::1"}; /* the last by an mbedTLS with CVE-2026-25833 */
    for (size_t i = 0; i < COUNT(refused) - (MBEDTLS_VERSION_NUMBER >= 0x03060600); i++) {
        client *c = client_trusting("ca.pem");
        assert_int_equal(client_tls(c, refused[i], s.port), AZO_ERR_ARGUMENT);
        client_free(c);
    }
    server_stop(&s);
}

static void check_awkward(awkward *a, const char *option) {
    server s = server_start("server", option);
    client *c = client_awkward(a);
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    check_echo(c, "hello\n");
    check_echo(c, "a second, somewhat longer line\n");
    client_free(c);
    server_stop(&s);
}

static void test_awkward_hooks(void **state) {
    (void)state;
    for (int i = 0; i < 8; i++) {
        awkward a;
        memset(&a, 0, sizeof a);
        a.one_byte = (i & 1) != 0;
        a.every_second = (i & 2) != 0;
        if (HAS_TLS13 || (i & 4) == 0) {
            check_awkward(&a, (i & 4) != 0 ? "-rev -tls1_3" : "-rev -tls1_2");
        }
    }
}

/* A write takes what one record holds (RFC 8446 section 5.1), also if mbedTLS does not say ahead how much that is. */
static void test_long_write(void **state) {
    (void)state;
    enum { RECORD = 16384 };
    static char bytes[RECORD + 1000];
    server s = server_start("server", "-www");
    client *c = client_trusting("ca.pem");
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    memset(bytes, 'x', sizeof bytes);
    ptrdiff_t first = azoi_stream_write(&c->stream, bytes, sizeof bytes);
    assert_in_range(first, RECORD - 1, RECORD); /* TLS 1.3 puts a byte of its own into it */
    assert_int_equal(azoi_stream_write(&c->stream, bytes + first, sizeof bytes - (size_t)first),
                     (ptrdiff_t)sizeof bytes - first);
    fault.mbedtls_ssl_get_max_out_record_payload = MBEDTLS_ERR_SSL_FEATURE_UNAVAILABLE;
    ptrdiff_t sent = azoi_stream_write(&c->stream, bytes, sizeof bytes);
    fault.mbedtls_ssl_get_max_out_record_payload = 0;
    assert_int_equal(sent, first);
    client_free(c);
    server_stop(&s);
}

/* A write that mbedTLS has not finished keeps its length even if there is more to send by now, and is not made twice
 * if a read has flushed it: reading a ticket of TLS 1.3 does. */
static void check_unfinished_write(bool blocked_read, bool open_read) {
    awkward a;
    char back[16];
    memset(&a, 0, sizeof a);
    server s = server_start("server", "-rev");
    client *c = client_awkward(&a);
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    if (HAS_TLS13) {
        assert_true(readable(((azoi_socket *)c->stream.conn)->fd[0])); /* tickets */
    }
    a.no_sending = true;
    assert_int_equal(azoi_stream_write(&c->stream, "abc\n", 4), AZO_IO_AGAIN);
    assert_true(c->stream.out_blocked);
    if (blocked_read) {
        assert_int_equal(azoi_stream_read(&c->stream, back, sizeof back), AZO_IO_AGAIN);
        assert_true(c->stream.in_blocked || c->stream.out_blocked);
    }
    a.no_sending = false;
    ptrdiff_t got = open_read ? azoi_stream_read(&c->stream, back, sizeof back) : AZO_IO_AGAIN;
    assert_int_equal(azoi_stream_write(&c->stream, "abc\ndef\n", 8), 4);
    client_write(c, "def\n", 4);
    size_t have = got > 0 ? (size_t)got : 0;
    while (have < 8) {
        got = client_read(c, back + have, sizeof back - have);
        assert_true(got > 0);
        have += (size_t)got;
    }
    assert_int_equal(have, 8);
    assert_memory_equal(back, "cba\nfed\n", 8);
    poll(NULL, 0, 50);
    assert_int_equal(azoi_stream_read(&c->stream, back, sizeof back), AZO_IO_AGAIN);
    client_free(c);
    server_stop(&s);
}

static void test_unfinished_write(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        check_unfinished_write((i & 1) != 0, (i & 2) != 0);
    }
}

#ifdef MBEDTLS_SSL_RENEGOTIATION

enum { SCRIPTED_PORT = 8443 };

/* Notes the request line; answers the last request, and closes. */
static void hear(script_conn *conn, const char *request) {
    char *heard = (char *)conn->peer->state;
    (void)snprintf(heard + strlen(heard), 64, "%.*s, ", (int)strcspn(request, "\r"), request);
    if (strstr(request, "/last") != NULL) {
        script_answer(conn, 0, 200, "", "{}");
        script_end(conn, 0, AZO_OK);
    }
}

static ptrdiff_t blockable_send(void *conn, const void *buf, size_t len, void *user_data) {
    script_tls *t = (script_tls *)user_data;
    return *(const bool *)t->state ? AZO_IO_AGAIN : script_tls_conn_send(conn, buf, len, t);
}

/* A client that has shaken hands with a server in memory, of TLS 1.2 and willing to renegotiate. */
static client *client_scripted(script_tls *t, script_world *net, char *heard, bool *no_sending) {
    size_t len;
    char *chain = read_cert("nochain.pem", &len);
    char *key = read_cert("nochain.key", &len);
    char path[512];
    azo_client_desc desc;
    script_open(net);
    script_tls_open(t, net, azo_s(chain), azo_s(key));
    script_tls_version(t, 0x303);
    mbedtls_ssl_conf_renegotiation(&t->config, MBEDTLS_SSL_RENEGOTIATION_ENABLED);
    mbedtls_ssl_conf_renegotiation_enforced(&t->config, MBEDTLS_SSL_RENEGOTIATION_NOT_ENFORCED);
    script_tls_port(t, SCRIPTED_PORT);
    script_peer(net, SCRIPTED_PORT, hear, heard);
    t->state = no_sending;
    t->transport.send = blockable_send;
    memset(&desc, 0, sizeof desc);
    desc.ca_file = cert_path(path, sizeof path, "intermediate.pem");
    desc.transport = t->transport;
    desc.clock = net->clock;
    client *c = client_new(&desc);
    assert_int_equal(azoi_stream_open(&c->stream, &c->net, "localhost", SCRIPTED_PORT, 7, &c->error), AZO_OK);
    assert_int_equal(azoi_stream_connect(&c->stream), AZO_OK);
    assert_int_equal(client_secure(c, "localhost", SCRIPTED_PORT), AZO_OK);
    free(chain);
    free(key);
    return c;
}

static const char first_request[] = "GET /first HTTP/1.1\r\n\r\n";
static const char last_request[] = "GET /last HTTP/1.1\r\n\r\n";

/* Each once, and answered; then all is closed. */
static void check_heard(client *c, script_tls *t, const char *heard) {
    char back[512];
    ptrdiff_t got;
    assert_string_equal(heard, "GET /first HTTP/1.1, GET /last HTTP/1.1, ");
    while ((got = azoi_stream_read(&c->stream, back, sizeof back)) > 0) {
    }
    assert_int_equal(got, 0);
    client_free(c);
    script_close(t->world);
    script_tls_close(t);
}

/* The server asks to renegotiate; inside a read mbedTLS answers that it will not, or flushes what was written before.
 * Sending may be blocked, then the read waits for that. All that is written before and after goes out, once. */
static void check_renegotiation(bool write_before, bool blocked) {
    static script_world net;
    static script_tls tls;
    char heard[256] = "";
    char back[512];
    bool no_sending = false;
    client *c = client_scripted(&tls, &net, heard, &no_sending);
    no_sending = true;
    if (write_before) {
        assert_int_equal(azoi_stream_write(&c->stream, first_request, sizeof first_request - 1), AZO_IO_AGAIN);
    }
    script_tls_conn *asking = script_tls_of(&tls, (script_conn *)c->stream.conn);
    size_t before = asking->up;
    assert_int_equal(mbedtls_ssl_renegotiate(&asking->ssl), 0);
    no_sending = blocked;
    c->stream.out_blocked = false; /* as after a wake-up */
    assert_int_equal(azoi_stream_read(&c->stream, back, sizeof back), AZO_IO_AGAIN);
    assert_int_equal(c->stream.out_blocked, blocked);
    if (blocked) { /* still */
        assert_int_equal(azoi_stream_read(&c->stream, back, sizeof back), AZO_IO_AGAIN);
        assert_int_equal(azoi_stream_write(&c->stream, first_request, sizeof first_request - 1), AZO_IO_AGAIN);
    }
    no_sending = false;
    if (!write_before) { /* the server may wait for its answer before it says anything else */
        c->stream.out_blocked = false;
        assert_int_equal(azoi_stream_read(&c->stream, back, sizeof back), AZO_IO_AGAIN);
        assert_true(asking->up > before);
        assert_false(c->stream.out_blocked);
    }
    client_write(c, first_request, sizeof first_request - 1);
    client_write(c, last_request, sizeof last_request - 1);
    check_heard(c, &tls, heard);
}

/* The same twice: one read flushes a write, and the next one's answer is blocked before the write has heard of that. */
static void test_renegotiation_after_a_flush(void **state) {
    (void)state;
    static script_world net;
    static script_tls tls;
    char heard[256] = "";
    char byte;
    bool no_sending = false;
    client *c = client_scripted(&tls, &net, heard, &no_sending);
    mbedtls_ssl_context *asking = &script_tls_of(&tls, (script_conn *)c->stream.conn)->ssl;
    no_sending = true;
    assert_int_equal(azoi_stream_write(&c->stream, first_request, sizeof first_request - 1), AZO_IO_AGAIN);
    for (int i = 0; i < 2; i++) {
        no_sending = i == 1;
        assert_int_equal(mbedtls_ssl_renegotiate(asking), 0);
        assert_int_equal(azoi_stream_read(&c->stream, &byte, 1), AZO_IO_AGAIN);
    }
    assert_int_equal(azoi_stream_write(&c->stream, first_request, sizeof first_request - 1), sizeof first_request - 1);
    assert_int_equal(azoi_stream_write(&c->stream, last_request, sizeof last_request - 1), AZO_IO_AGAIN);
    no_sending = false;
    client_write(c, last_request, sizeof last_request - 1);
    check_heard(c, &tls, heard);
}

static void test_renegotiation_amid_writes(void **state) {
    (void)state;
    check_renegotiation(true, false);
    check_renegotiation(true, true);
    check_renegotiation(false, false);
    check_renegotiation(false, true);
}

#endif

static void test_close_notify(void **state) {
    (void)state;
    awkward a;
    memset(&a, 0, sizeof a);
    server s = server_start("server", "-rev -tls1_2");
    client *c = client_awkward(&a);
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    check_echo(c, "hello\n");
    assert_int_equal(a.last_type, 23);
    size_t before = a.sends;
    azoi_stream_close(&c->stream);
    assert_int_equal(a.last_type, 21); /* an alert */
    assert_int_equal(a.sends, before + 1);
    azoi_stream_close(&c->stream); /* harmless */

    char byte;
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    a.fail_recv = true;
    assert_int_equal(azoi_stream_read(&c->stream, &byte, 1), AZO_ERR_TIMEOUT);
    check_error(c, AZO_ERR_TIMEOUT, "broke while receiving (errno 5");
    assert_int_equal(c->error.sys_errno, EIO);
    before = a.sends;
    azoi_stream_close(&c->stream); /* broken: nothing is said any more */
    assert_int_equal(a.sends, before);
    client_free(c);
    server_stop(&s);
}

static void test_cut(void **state) {
    (void)state;
    char byte;
    server s = server_start("server", "-rev");
    client *c = client_trusting("ca.pem");
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    check_echo(c, "hello\n");
    server_stop(&s); /* the kernel says FIN, nobody says close_notify */
    assert_int_equal(client_read(c, &byte, 1), AZO_ERR_CLOSED);
    assert_int_equal(c->stream.end, AZO_ERR_CLOSED);
    assert_int_equal(c->error.code, AZO_OK); /* that is for the layer above, which knows what is missing */
    assert_int_equal(azoi_stream_read(&c->stream, &byte, 1), AZO_ERR_CLOSED);
    client_free(c);
}

/* ---- resumption ---- */

static void check_resumption(const char *option) {
    char words[64];
    snprintf(words, sizeof words, "-www %s", option);
    server s = server_start("server", words);
    client *c = client_trusting("ca.pem");
    for (int i = 0; i < 4; i++) {
        clear_log(c);
        assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
        assert_int_equal(logged(c, "session resumed"), i > 0);
        assert_int_equal(logged(c, "certificate verified"), i == 0);
        check_page(c);
        azoi_stream_close(&c->stream);
    }
    /* Another name of the same server is another key. */
    clear_log(c);
    assert_int_equal(client_tls(c, "contoso.openai.azure.test", s.port), AZO_OK);
    assert_true(logged(c, "certificate verified"));
    assert_false(logged(c, "root certificates fit")); /* the root is known by now */
    client_free(c);
    server_stop(&s);
}

static void test_resumption_tls12(void **state) {
    (void)state;
    check_resumption("-tls1_2");
}

static void test_resumption_tls12_by_id(void **state) {
    (void)state;
    check_resumption("-tls1_2 -no_ticket");
}

static void test_resumption_tls13(void **state) {
    (void)state;
#if HAS_TLS13
    check_resumption("-tls1_3");
#else
    skip();
#endif
}

static void test_server_without_sessions(void **state) {
    (void)state;
    server s = server_start("server", "-www -no_ticket -no_cache");
    client *c = client_trusting("ca.pem");
    for (int i = 0; i < 2; i++) {
        clear_log(c);
        assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
        assert_true(logged(c, "certificate verified"));
        check_page(c);
        azoi_stream_close(&c->stream);
    }
    client_free(c);
    server_stop(&s);
}

static size_t session_count(const client *c) {
    size_t count = 0;
    for (size_t i = 0; i < AZOI_MAX_KNOWN; i++) {
        count += c->net.known[i].has_session;
    }
    return count;
}

/* Restarted, the server has other ticket keys. */
static void test_session_that_is_refused(void **state) {
    (void)state;
    server s = server_start("server", "-www");
    client *c = client_trusting("ca.pem");
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    check_page(c);
    azoi_stream_close(&c->stream);
    assert_true(session_count(c) > 0);
    server_stop(&s);
    s = server_start("server", "-www");
    for (size_t i = 0; i < AZOI_MAX_KNOWN; i++) {
        if (c->net.known[i].has_session) {
            c->net.known[i].port = s.port;
        }
    }
    clear_log(c);
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    assert_true(logged(c, "certificate verified"));
    check_page(c);
    client_free(c);
    server_stop(&s);
}

/* A session that mbedTLS does not take, and one that may be offered once only (a ticket of TLS 1.3). */
static void test_session_that_is_not_offered_again(void **state) {
    (void)state;
    server s = server_start("server", "-www -tls1_2");
    client *c = client_trusting("ca.pem");
    static const struct {
        int set_session;
        bool once;
        const char *how;
    } cases[] = {{0, false, "certificate verified"},
                 {0, false, "session resumed"},
                 {MBEDTLS_ERR_SSL_ALLOC_FAILED, false, "certificate verified"},
                 {0, true, "session resumed"},
                 {0, false, "certificate verified"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        azoi_known *known = azoi_net_known(&c->net, "localhost", s.port);
        known->once = known->once || cases[i].once;
        fault.mbedtls_ssl_set_session = cases[i].set_session;
        clear_log(c);
        azo_result r = client_tls(c, "localhost", s.port);
        fault.mbedtls_ssl_set_session = 0;
        assert_int_equal(r, AZO_OK);
        assert_true(logged(c, cases[i].how));
        check_page(c);
        azoi_stream_close(&c->stream);
    }
    client_free(c);
    server_stop(&s);
}

static void test_session_cap(void **state) {
    (void)state;
    server s = server_start("server", "-www -tls1_2");
    client *c = client_trusting("ca.pem");
    for (int i = 0; i < 20; i++) {
        char host[64];
        snprintf(host, sizeof host, "h%d.openai.azure.test", i);
        assert_int_equal(client_tls(c, host, s.port), AZO_OK);
        azoi_stream_close(&c->stream);
        /* One of the places may be that of the address that all of them have. */
        assert_in_range(session_count(c), i + 1 < AZOI_MAX_KNOWN ? i + 1 : AZOI_MAX_KNOWN - 1, AZOI_MAX_KNOWN);
    }
    client_free(c);
    server_stop(&s);
}

/* ---- certificates that must be refused ---- */

static void check_hostile(const char *cert, const char *trusted, uint32_t flag, const char *part) {
    for (int i = 0; i < 1 + HAS_TLS13; i++) {
        server s = server_start(cert, i == 0 ? "-www -tls1_2" : "-www -tls1_3");
        client *c = client_trusting(trusted);
        for (int k = 0; k < 2; k++) { /* and again */
            assert_int_equal(client_tls(c, "localhost", s.port), AZO_ERR_TLS_VERIFY);
            check_error(c, AZO_ERR_TLS_VERIFY, part);
            assert_int_equal(c->error.tls_verify_flags & flag, flag);
            assert_true(c->error.tls_code < 0);
            assert_int_equal(c->error.who, AZO_WHO_MACHINE);
            assert_int_equal(session_count(c), 0);
            azoi_stream_close(&c->stream);
        }
        client_free(c);
        server_stop(&s);
    }
}

static void test_expired(void **state) {
    (void)state;
    check_hostile("expired", "ca.pem", MBEDTLS_X509_BADCERT_EXPIRED,
                  "has expired: it is for 2020-01-01 00:00:00 to 2021-01-01 00:00:00, and the clock of this machine "
                  "says 20");
    check_hostile("expired", "other_ca.pem", MBEDTLS_X509_BADCERT_NOT_TRUSTED, "has expired (mbedTLS"); /* and worse */
}

static void test_not_yet_valid(void **state) {
    (void)state;
    check_hostile("notyet", "ca.pem", MBEDTLS_X509_BADCERT_FUTURE, "-01-01 00:00:00, and the clock of this");
    check_hostile("notyet", "ca.pem", MBEDTLS_X509_BADCERT_FUTURE, "Set the clock");
}

static void test_wrong_host(void **state) {
    (void)state;
    check_hostile("wronghost", "ca.pem", MBEDTLS_X509_BADCERT_CN_MISMATCH, "localhost");
    check_hostile("wronghost", "bundle.pem", MBEDTLS_X509_BADCERT_CN_MISMATCH, "is for another name");
}

static void test_self_signed(void **state) {
    (void)state;
    check_hostile("selfsigned", "bundle.pem", MBEDTLS_X509_BADCERT_NOT_TRUSTED, "SSL_CERT_FILE");
}

static void test_client_certificate(void **state) {
    (void)state;
    check_hostile("clientonly", "ca.pem", MBEDTLS_X509_BADCERT_EXT_KEY_USAGE, "serverAuth");
}

static void test_missing_intermediate(void **state) {
    (void)state;
    check_hostile("nochain", "bundle.pem", MBEDTLS_X509_BADCERT_NOT_TRUSTED, "is not trusted");
}

static void test_unknown_root(void **state) {
    (void)state;
    check_hostile("server", "other_ca.pem", MBEDTLS_X509_BADCERT_NOT_TRUSTED, "azo_client_desc.ca_file");
}

static void test_trusted_self_signed_and_intermediate(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"selfsigned", "selfsigned.pem"}, {"nochain", "intermediate.pem"},
                                           {"server", "intermediate.pem"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        server s = server_start(cases[i][0], "-www");
        client *c = client_trusting(cases[i][1]);
        azo_result r = client_tls(c, "localhost", s.port);
        if (r != AZO_OK) {
            print_error("%s\n", c->error.message);
        }
        assert_int_equal(r, AZO_OK);
        check_page(c);
        client_free(c);
        server_stop(&s);
    }
}

/* ---- trust stores ---- */

static void test_bundles(void **state) {
    (void)state;
    static const char *const bundles[] = {"bundle.pem", "broken_bundle.pem"};
    server s = server_start("server", "-www -no_ticket -no_cache");
    for (size_t i = 0; i < COUNT(bundles); i++) {
        client *c = client_trusting(bundles[i]);
        for (int k = 0; k < 3; k++) {
            clear_log(c);
            assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
            assert_int_equal(logged(c, "* 1 of 41 root certificates fit the chain of localhost\n"), k == 0);
            assert_int_equal(c->net.root_count, 1);
            azoi_stream_close(&c->stream);
        }
        /* What is known already does not help the wrong name. */
        assert_int_equal(client_tls(c, "other.test", s.port), AZO_ERR_TLS_VERIFY);
        assert_int_equal(c->error.tls_verify_flags, MBEDTLS_X509_BADCERT_CN_MISMATCH);
        client_free(c);
    }
    server_stop(&s);
}

/* So many roots are kept; the next ones are looked up each time. */
static void test_roots_that_are_not_kept(void **state) {
    (void)state;
    server s = server_start("server", "-www -no_ticket -no_cache");
    client *c = client_trusting("bundle.pem");
    c->net.root_count = 8; /* as if others had taken the places */
    for (int i = 0; i < 2; i++) {
        clear_log(c);
        assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
        assert_true(logged(c, "* 1 of 41 root certificates fit the chain of localhost\n"));
        assert_int_equal(c->net.root_count, 8);
        azoi_stream_close(&c->stream);
    }
    client_free(c);
    server_stop(&s);
}

static void test_roots_from_memory(void **state) {
    (void)state;
    size_t len;
    char *pem = read_cert("broken_bundle.pem", &len);
    azo_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.ca_pem.ptr = pem;
    desc.ca_pem.len = len;
    client *c = client_new(&desc);
    memset(pem, 'x', len);
    free(pem);
    server s = server_start("server", "-www");
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    client_free(c);

    desc.ca_pem = azo_s("-----BEGIN CERTIFICATE-----\nbm90IGE=\n-----END CERTIFICATE-----\n");
    c = client_new(&desc);
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_ERR_TRUST_STORE);
    check_error(c, AZO_ERR_TRUST_STORE, "in azo_client_desc.ca_pem (errno 0)");
    client_free(c);
    server_stop(&s);
}

static void test_trust_store_that_is_none(void **state) {
    (void)state;
    server s = server_start("server", "-www");
    client *c = client_trusting("no_such_file.pem");
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_ERR_TRUST_STORE);
    check_error(c, AZO_ERR_TRUST_STORE, "no_such_file.pem (errno 2)");
    assert_int_equal(c->error.sys_errno, ENOENT);
    client_free(c);

    c = client_trusting("."); /* a directory */
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_ERR_TRUST_STORE);
    check_error(c, AZO_ERR_TRUST_STORE, ". (errno 21)");
    client_free(c);

    c = client_trusting("server.key");
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_ERR_TRUST_STORE);
    check_error(c, AZO_ERR_TRUST_STORE, "server.key (errno 0)");
    client_free(c);
    server_stop(&s);
}

static void test_usual_places(void **state) {
    (void)state;
    server s = server_start("server", "-www");
    client *c = client_trusting(NULL);
    azo_result r = client_tls(c, "localhost", s.port);
    if (r == AZO_ERR_TRUST_STORE) {
        check_error(c, r, "/etc/ssl/certs/ca-certificates.crt");
        assert_non_null(strstr(c->error.message, "/usr/local/etc/ssl/cert.pem"));
        assert_non_null(strstr(c->error.message, "SSL_CERT_FILE"));
    } else {
        check_error(c, AZO_ERR_TLS_VERIFY, "is not trusted");
    }
    client_free(c);
    server_stop(&s);
}

/* The first of them that has any counts, wherever it stands in the list. */
static void test_each_usual_place(void **state) {
    (void)state;
    static const char *const places[] = {"/etc/ssl/certs/ca-certificates.crt",
                                         "/etc/pki/tls/certs/ca-bundle.crt",
                                         "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
                                         "/etc/ssl/ca-bundle.pem",
                                         "/etc/ssl/cert.pem",
                                         "/usr/local/share/certs/ca-root-nss.crt",
                                         "/usr/local/etc/ssl/cert.pem"};
    char path[512];
    server s = server_start("server", "-www");
    fault.root_file = cert_path(path, sizeof path, "ca.pem");
    for (size_t i = 0; i < COUNT(places); i++) {
        client *c = client_trusting(NULL);
        fault.root_place = places[i];
        azo_result r = client_tls(c, "localhost", s.port);
        fault.root_place = NULL;
        assert_int_equal(r, AZO_OK);
        client_free(c);
    }
    client *c = client_trusting(NULL);
    fault.root_place = "nowhere";
    azo_result r = client_tls(c, "localhost", s.port);
    fault.root_place = NULL;
    assert_int_equal(r, AZO_ERR_TRUST_STORE);
    check_error(c, AZO_ERR_TRUST_STORE, "No root certificates to be read in /etc/ssl/certs/ca-certificates.crt, /etc/");
    for (size_t i = 0; i < COUNT(places); i++) {
        assert_non_null(strstr(c->error.message, places[i]));
    }
    assert_int_equal(c->error.sys_errno, ENOENT);
    client_free(c);
    server_stop(&s);
}

static void test_ssl_cert_file(void **state) {
    (void)state;
    char path[512];
    server s = server_start("server", "-www");
    setenv("SSL_CERT_FILE", cert_path(path, sizeof path, "bundle.pem"), 1);
    client *c = client_trusting(NULL);
    client *explicit_one = client_trusting("other_ca.pem");
    unsetenv("SSL_CERT_FILE");
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    azoi_stream_close(&c->stream);
    assert_int_equal(client_tls(explicit_one, "localhost", s.port), AZO_ERR_TLS_VERIFY);
    client_free(c);
    client_free(explicit_one);
    server_stop(&s);
}

/* ---- the scan of a bundle ---- */

static int scan(azoi_scan *z, const mbedtls_x509_crt *chain, const char *text, size_t len, size_t step) {
    memset(z, 0, sizeof *z);
    z->chain = chain;
    mbedtls_x509_crt_init(&z->found);
    for (size_t at = 0, size; at < len; at += size) {
        size_t room = sizeof z->text - z->len;
        size = len - at < step ? len - at : step;
        size = size < room ? size : room;
        assert_true(size > 0);
        memcpy(z->text + z->len, text + at, size);
        azoi_scan_added(z, size);
    }
    int found = z->found_count;
    mbedtls_x509_crt_free(&z->found);

    /* The same in one piece, of exactly its size, so that a sanitizer sees any overrun. */
    char *whole = (char *)malloc(len > 0 ? len : 1);
    assert_non_null(whole);
    memcpy(whole, text, len);
    memset(z, 0, sizeof *z);
    z->chain = chain;
    mbedtls_x509_crt_init(&z->found);
    azoi_scan_text(z, azoi_view(whole, len));
    assert_int_equal(z->found_count, found);
    mbedtls_x509_crt_free(&z->found);
    free(whole);
    return found;
}

/* Finds the first block of PEM text with its END line, as DER. */
static void parse_first(mbedtls_x509_crt *crt, const char *pem) {
    unsigned char der[8192];
    size_t len;
    const char *from = strstr(pem, "-----BEGIN CERTIFICATE-----");
    assert_non_null(from);
    from += 27;
    const char *to = strchr(from, '-');
    assert_true(azoi_base64_decode(azoi_view(from, (size_t)(to - from)), der, sizeof der, &len));
    mbedtls_x509_crt_init(crt);
    assert_int_equal(mbedtls_x509_crt_parse_der(crt, der, len), 0);
}

static void test_scan_in_pieces(void **state) {
    (void)state;
    static const size_t steps[] = {1, 2, 3, 7, 63, 64, 65, 1000, 4096, 1000000};
    size_t len, leaf_len;
    char *bundle = read_cert("broken_bundle.pem", &len);
    char *leaf_pem = read_cert("intermediate.pem", &leaf_len);
    azoi_scan *z = (azoi_scan *)malloc(sizeof *z);
    mbedtls_x509_crt leaf;
    assert_non_null(z);
    parse_first(&leaf, leaf_pem);
    for (size_t i = 0; i < COUNT(steps); i++) {
        assert_int_equal(scan(z, &leaf, bundle, len, steps[i]), 1);
        assert_int_equal(z->certificates, 41);
    }
    mbedtls_x509_crt_free(&leaf);
    free(z);
    free(leaf_pem);
    free(bundle);
}

static void test_scan_of_odd_text(void **state) {
    (void)state;
    size_t len, leaf_len;
    char *ca = read_cert("ca.pem", &len);
    char *leaf_pem = read_cert("intermediate.pem", &leaf_len);
    char *text = (char *)malloc(400000);
    azoi_scan *z = (azoi_scan *)malloc(sizeof *z);
    mbedtls_x509_crt leaf;
    size_t out;
    assert_non_null(text);
    assert_non_null(z);
    parse_first(&leaf, leaf_pem);
    char *body = strstr(ca, "\n") + 1;
    char *end = strstr(ca, "-----END");
    assert_non_null(end);

    assert_int_equal(scan(z, &leaf, ca, (size_t)(end - ca) + 20, 5), 1); /* no line end at the end */
    assert_int_equal(scan(z, &leaf, ca, (size_t)(end - ca), 5), 0);      /* no end at all */
    for (size_t cut = 0; cut < (size_t)(end - ca); cut++) {
        assert_int_equal(scan(z, &leaf, ca, cut, 1000000), 0);
    }

    /* One long line. */
    out = (size_t)snprintf(text, 400000, "-----BEGIN CERTIFICATE-----\n");
    for (char *at = body; at < end; at++) {
        if (*at != '\n') {
            text[out++] = *at;
        }
    }
    out += (size_t)snprintf(text + out, 1000, "-----END CERTIFICATE-----");
    assert_int_equal(scan(z, &leaf, text, out, 11), 1);

    /* A block without its end hides nothing, one that is commented out is not seen. */
    out = (size_t)snprintf(text, 400000, "-----BEGIN CERTIFICATE-----\nMIIB\n%s# %s", ca, ca);
    assert_int_equal(scan(z, &leaf, text, out, 13), 1);
    out = (size_t)snprintf(text, 400000, "#%s", ca);
    assert_int_equal(scan(z, &leaf, text, out, 13), 0);
    out = (size_t)snprintf(text, 400000, " -----BEGIN CERTIFICATE-----\n%s", body);
    assert_int_equal(scan(z, &leaf, text, out, 13), 0);

    /* Too long, or no base64: passed by. */
    out = (size_t)snprintf(text, 400000, "-----BEGIN CERTIFICATE-----\nMII!\n-----END CERTIFICATE-----\n"
                                         "-----BEGIN CERTIFICATE-----\n");
    memcpy(text + out, body, (size_t)(end - body));
    out += (size_t)(end - body);
    for (int i = 0; i < 20000; i++) {
        text[out++] = 'A';
    }
    size_t before = out;
    out += (size_t)snprintf(text + out, 100000, "\n-----END CERTIFICATE-----\n%s", ca);
    assert_int_equal(scan(z, &leaf, text, out, 1000000), 1);
    assert_int_equal(scan(z, &leaf, text, before + 27, 1000000), 0);

    /* Many of the same: no more than a few are taken. */
    out = 0;
    for (int i = 0; i < 40; i++) {
        out += (size_t)snprintf(text + out, 400000 - out, "%s", ca);
    }
    assert_int_equal(scan(z, &leaf, text, out, 4096), 16);

    mbedtls_x509_crt_free(&leaf);
    free(z);
    free(text);
    free(leaf_pem);
    free(ca);
}

static void test_der_is_not_trusted(void **state) {
    (void)state;
    size_t len;
    azo_str subject;
    char *pem = read_cert("ca.pem", &len);
    unsigned char *der = (unsigned char *)calloc(1, AZOI_MAX_DER); /* of its own, so that a sanitizer sees overruns */
    mbedtls_x509_crt crt;
    assert_non_null(der);
    parse_first(&crt, pem);
    memcpy(der, crt.raw.p, crt.raw.len);
    assert_true(azoi_der_subject(der, crt.raw.len, &subject));
    assert_int_equal(subject.len, crt.subject_raw.len);
    assert_memory_equal(subject.ptr, crt.subject_raw.p, subject.len);
    size_t end = (size_t)((const unsigned char *)subject.ptr - der) + subject.len;
    for (size_t cut = 0; cut < crt.raw.len; cut++) {
        memcpy(der, crt.raw.p, cut);
        memset(der + cut, 0x30, AZOI_MAX_DER - cut); /* what an earlier one may have left behind */
        assert_int_equal(azoi_der_subject(der, cut, &subject), cut >= end);
    }
    /* Every byte replaced by every value: never beyond the end. */
    for (size_t i = 0; i < end; i++) {
        for (unsigned value = 0; value < 256; value++) {
            memcpy(der, crt.raw.p, end);
            der[i] = (unsigned char)value;
            if (azoi_der_subject(der, end, &subject)) {
                assert_true(subject.ptr >= (const char *)der);
                assert_true(subject.ptr + subject.len <= (const char *)der + end);
            }
        }
    }
    free(der);
    mbedtls_x509_crt_free(&crt);
    free(pem);
}

/* ---- mbedTLS's numbers ---- */

static void test_numbers_for_memory(void **state) {
    (void)state;
    static const struct {
        int ret;
        bool memory;
    } cases[] = {{MBEDTLS_ERR_SSL_ALLOC_FAILED, true},
                 {MBEDTLS_ERR_X509_ALLOC_FAILED, true},
                 {MBEDTLS_ERR_PK_ALLOC_FAILED, true},
                 {-0x10, true},   /* MBEDTLS_ERR_MPI_ALLOC_FAILED */
                 {-0x6a, true},   /* MBEDTLS_ERR_ASN1_ALLOC_FAILED */
                 {-0x21ea, true}, /* the same below MBEDTLS_ERR_X509_INVALID_FORMAT */
                 {0, false},
                 {0x70, false}, /* a count of bytes */
                 {MBEDTLS_ERR_SSL_BAD_INPUT_DATA, false},
                 {MBEDTLS_ERR_SSL_WANT_READ, false},
                 {AZOI_TLS_STOPPED, false}};
    azoi_net n;
    memset(&n, 0, sizeof n);
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (azoi_tls_is_memory(&n, cases[i].ret) != cases[i].memory) {
            fail_msg("-0x%04x", (unsigned)-cases[i].ret);
        }
    }
}

static void test_numbers_to_call_again(void **state) {
    (void)state;
    static const struct {
        int ret;
        bool again;
    } cases[] = {{MBEDTLS_ERR_SSL_WANT_READ, true},
                 {MBEDTLS_ERR_SSL_WANT_WRITE, true},
                 {MBEDTLS_ERR_SSL_CRYPTO_IN_PROGRESS, true},
                 {MBEDTLS_ERR_SSL_ASYNC_IN_PROGRESS, true},
                 {0, false},
                 {MBEDTLS_ERR_SSL_CONN_EOF, false},
                 {MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY, false},
                 {MBEDTLS_ERR_SSL_INVALID_RECORD, false},
                 {AZOI_TLS_STOPPED, false}};
    azoi_stream s;
    memset(&s, 0, sizeof s);
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(azoi_tls_again(&s, cases[i].ret), cases[i].again);
    }
}

static void test_numbers_for_certificates(void **state) {
    (void)state;
    static const int certificate[] = {MBEDTLS_ERR_X509_FEATURE_UNAVAILABLE, MBEDTLS_ERR_X509_INVALID_FORMAT,
                                      MBEDTLS_ERR_X509_BUFFER_TOO_SMALL, MBEDTLS_ERR_X509_FATAL_ERROR};
    static const int other[] = {0, -0x04, /* MBEDTLS_ERR_MPI_BAD_INPUT_DATA alone */
                                -0x2a00, -0x2f80, -0x3080, MBEDTLS_ERR_SSL_INVALID_RECORD,
                                MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE};
    for (size_t i = 0; i < COUNT(certificate); i++) {
        assert_true(azoi_tls_is_unreadable(certificate[i]));
        assert_true(azoi_tls_is_unreadable(certificate[i] - 0x60)); /* with a part of ASN.1 */
    }
    for (size_t i = 0; i < COUNT(other); i++) {
        assert_false(azoi_tls_is_unreadable(other[i]));
    }
}

/* ---- an mbedTLS that fails ---- */

static void check_no_setup(client *c, uint16_t port, int code) {
    azo_error e;
    assert_int_equal(client_tls(c, "localhost", port), AZO_ERR_TLS);
    check_error(c, AZO_ERR_TLS, "mbedTLS could not be set up (mbedTLS -0x");
    assert_non_null(strstr(c->error.message, "randomness"));
    assert_int_equal(c->error.tls_code, code);
    azoi_stream_close(&c->stream);
    assert_int_equal(azoi_tls_setup(&c->net, NULL), AZO_ERR_TLS);
    azoi_error_clear(&e);
    (void)azoi_fail(&e, AZO_ERR_LIMIT, "Something else came first. Look there.");
    assert_int_equal(azoi_tls_setup(&c->net, &e), AZO_ERR_TLS);
    assert_int_equal(e.code, AZO_ERR_LIMIT);
    assert_int_equal(e.tls_code, 0);
}

static void test_tls_that_cannot_be_set_up(void **state) {
    (void)state;
    server s = server_start("server", "-www");
    client *c = client_trusting("ca.pem");
    fault.mbedtls_ssl_config_defaults = MBEDTLS_ERR_SSL_BAD_CONFIG;
    check_no_setup(c, s.port, MBEDTLS_ERR_SSL_BAD_CONFIG);
    fault.mbedtls_ssl_config_defaults = 0;
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    fault.mbedtls_entropy_func = MBEDTLS_ERR_ENTROPY_SOURCE_FAILED;
    check_no_setup(c, s.port, MBEDTLS_ERR_CTR_DRBG_ENTROPY_SOURCE_FAILED);
    fault.mbedtls_entropy_func = 0;
#endif
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK); /* the next try sets it up */
    client_free(c);
    server_stop(&s);
}

/* An mbedTLS that never gets on with a write, although nothing is blocked, is an error and no endless loop. */
static void test_write_that_never_ends(void **state) {
    (void)state;
    static const int answers[] = {MBEDTLS_ERR_SSL_WANT_READ, MBEDTLS_ERR_SSL_CRYPTO_IN_PROGRESS};
    server s = server_start("server", "-rev -tls1_2");
    client *c = client_trusting("ca.pem");
    for (size_t i = 0; i < COUNT(answers); i++) {
        assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
        c->stream.in_blocked = false;
        fault.mbedtls_ssl_write = answers[i];
        ptrdiff_t sent = azoi_stream_write(&c->stream, "abc\n", 4);
        fault.mbedtls_ssl_write = 0;
        assert_int_equal(sent, AZO_ERR_TLS);
        check_error(c, AZO_ERR_TLS, "failed while sending");
        assert_int_equal(c->error.tls_code, answers[i]);
        azoi_stream_close(&c->stream);
    }
    client_free(c);
    server_stop(&s);
}

/* To write it may have to read, as with TLS 1.3; that is waited for, and the length of the write stands. */
static void test_write_that_reads(void **state) {
    (void)state;
    char byte;
    server s = server_start("server", "-rev -tls1_2");
    client *c = client_trusting("ca.pem");
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    assert_int_equal(azoi_stream_read(&c->stream, &byte, 1), AZO_IO_AGAIN);
    assert_true(c->stream.in_blocked);
    fault.mbedtls_ssl_write = MBEDTLS_ERR_SSL_WANT_READ;
    ptrdiff_t sent = azoi_stream_write(&c->stream, "abc\n", 4);
    fault.mbedtls_ssl_write = 0;
    assert_int_equal(sent, AZO_IO_AGAIN);
    assert_int_equal(azoi_stream_write(&c->stream, "abc\ndef\n", 8), 4);
    assert_int_equal(client_read(c, &byte, 1), 1);
    assert_int_equal(byte, 'c');
    client_free(c);
    server_stop(&s);
}

/* Some versions could tell the end of TCP by a number of its own: cut, like any end without close_notify. */
static void test_end_by_number(void **state) {
    (void)state;
    char byte;
    server s = server_start("server", "-rev -tls1_2");
    client *c = client_trusting("ca.pem");
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    fault.mbedtls_ssl_read = MBEDTLS_ERR_SSL_CONN_EOF;
    ptrdiff_t got = azoi_stream_read(&c->stream, &byte, 1);
    fault.mbedtls_ssl_read = 0;
    assert_int_equal(got, AZO_ERR_CLOSED);
    assert_int_equal(c->stream.end, AZO_ERR_CLOSED);
    assert_int_equal(c->error.code, AZO_OK);
    assert_int_equal(azoi_stream_read(&c->stream, &byte, 1), AZO_ERR_CLOSED);
    client_free(c);
    server_stop(&s);
}

/* Whatever mbedTLS says about the chain and the roots that were found: an error never becomes trust. */
static void test_no_verdict(void **state) {
    (void)state;
    static const struct {
        int ret;
        uint32_t verdict;
    } cases[] = {{MBEDTLS_ERR_X509_FATAL_ERROR, 0xffffffff},
                 {MBEDTLS_ERR_X509_FATAL_ERROR, 0},
                 {MBEDTLS_ERR_X509_CERT_VERIFY_FAILED, 0}};
    server s = server_start("server", "-www");
    client *c = client_trusting("ca.pem");
    for (size_t i = 0; i < COUNT(cases); i++) {
        fault.mbedtls_x509_crt_verify_with_profile = cases[i].ret;
        fault.verdict = cases[i].verdict;
        azo_result r = client_tls(c, "localhost", s.port);
        fault.mbedtls_x509_crt_verify_with_profile = 0;
        assert_int_equal(r, AZO_ERR_TLS_VERIFY);
        check_error(c, AZO_ERR_TLS_VERIFY, "was refused");
        assert_int_equal(c->error.tls_verify_flags, MBEDTLS_X509_BADCERT_OTHER);
        assert_int_equal(c->net.root_count, 0);
        azoi_stream_close(&c->stream);
    }
    client_free(c);
    server_stop(&s);
}

/* A handshake that mbedTLS is content with, although the certificate is bad or was not looked at. */
static void check_lax(int mode, const char *host, uint32_t flags, uint16_t port) {
    client *c = client_trusting("ca.pem");
    assert_int_equal(azoi_tls_setup(&c->net, &c->error), AZO_OK);
    mbedtls_ssl_conf_authmode(&c->net.config, mode);
    assert_int_equal(client_tls(c, host, port), AZO_ERR_TLS_VERIFY);
    check_error(c, AZO_ERR_TLS_VERIFY, host);
    assert_int_equal(c->error.tls_verify_flags & flags, flags);
    assert_int_equal(session_count(c), 0);
    client_free(c);
}

static void test_verification_is_verified(void **state) {
    (void)state;
    server s = server_start("server", "-www -tls1_2");
    check_lax(MBEDTLS_SSL_VERIFY_OPTIONAL, "other.test", MBEDTLS_X509_BADCERT_CN_MISMATCH, s.port);
    check_lax(MBEDTLS_SSL_VERIFY_NONE, "localhost", MBEDTLS_X509_BADCERT_SKIP_VERIFY, s.port);
    client *c = client_trusting("ca.pem");
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
    c->stream.checked = false; /* as if no certificate had been shown to the library, nor a session resumed */
    assert_int_equal(azoi_tls_finished(&c->stream), AZO_ERR_TLS_VERIFY);
    assert_int_equal(c->error.tls_verify_flags, MBEDTLS_X509_BADCERT_SKIP_VERIFY);
    client_free(c);
    server_stop(&s);
}

/* ---- handshakes that fail ---- */

static void check_peer(behaviour what, azo_result code, const char *part) {
    peer p;
    peer_start(&p, what);
    client *c = client_trusting("ca.pem");
    assert_int_equal(client_tls(c, "localhost", p.port), code);
    check_error(c, code, part);
    client_free(c);
    peer_stop(&p);
}

static void test_plain_http(void **state) {
    (void)state;
    check_peer(SAY_HTTP, AZO_ERR_TLS, "is not TLS");
}

static void test_noise(void **state) {
    (void)state;
    check_peer(SAY_NOISE, AZO_ERR_TLS, "is not TLS");
}

static void test_hang_up(void **state) {
    (void)state;
    peer p;
    peer_start(&p, HANG_UP);
    client *c = client_trusting("ca.pem");
    assert_int_equal(client_tls(c, "localhost", p.port), AZO_ERR_CLOSED);
    /* The peer has not read the whole of our first flight, so this may be a reset as well as a FIN. */
    check_error(c, AZO_ERR_CLOSED, "while shaking hands");
    assert_non_null(strstr(c->error.message, "proxy"));
    assert_true(c->error.tls_code != 0 || c->error.sys_errno != 0);
    client_free(c);
    peer_stop(&p);
}

static void test_reset_in_handshake(void **state) {
    (void)state;
    check_peer(RESET_IT, AZO_ERR_CLOSED, "broke while shaking hands (errno 104");
}

static void check_alert(const char *options, const char *part) {
    server s = server_start("server", options);
    client *c = client_trusting("ca.pem");
    azo_result r = client_tls(c, "localhost", s.port);
    char byte;
    if (r == AZO_OK) { /* TLS 1.3 tells a client about its missing certificate only afterwards */
        assert_int_equal(client_read(c, &byte, 1), AZO_ERR_TLS);
    } else {
        assert_int_equal(r, AZO_ERR_TLS);
    }
    check_error(c, AZO_ERR_TLS, part);
    assert_int_equal(c->error.tls_code, MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE);
    client_free(c);
    server_stop(&s);
}

static void test_alerts(void **state) {
    (void)state;
    check_alert("-www -alpn h2", "does not speak HTTP/1.1");
    check_alert("-www -tls1_2 -cipher AES128-SHA", "(alert 40,"); /* no forward secrecy: not offered */
    check_alert("-www -tls1_2 -Verify 1", "(alert 40,");
#if HAS_TLS13
    check_alert("-www -tls1_3 -Verify 1", "client certificate");
#else
    check_alert("-www -tls1_3", "shares no TLS version (1.2");
#endif
}

static void test_old_version(void **state) {
    (void)state;
    server s = server_start("server", "-www -tls1_1 -cipher DEFAULT@SECLEVEL=0");
    client *c = client_trusting("ca.pem");
    assert_int_equal(client_tls(c, "localhost", s.port), AZO_ERR_TLS);
    check_error(c, AZO_ERR_TLS, "TLS version (1.2");
    client_free(c);
    server_stop(&s);
}

static void test_curves(void **state) {
    (void)state;
    static const char *const curves[] = {"X25519", "P-256", "P-384"};
    for (size_t i = 0; i < COUNT(curves); i++) {
        char words[64];
        snprintf(words, sizeof words, "-www -curves %s", curves[i]);
        server s = server_start("server", words);
        client *c = client_trusting("ca.pem");
        assert_int_equal(client_tls(c, "localhost", s.port), AZO_OK);
        client_free(c);
        server_stop(&s);
    }
}

/* Flags that no test server can cause have their sentences too. */
static void test_verify_sentences(void **state) {
    (void)state;
    client *c = client_trusting("ca.pem");
    for (unsigned bit = 0; bit < 32; bit++) {
        azoi_error_clear(&c->error);
        c->stream.net = &c->net;
        c->stream.error = &c->error;
        c->stream.host = "a-host-name-of-more-than-usual-length.services.ai.azure.test";
        c->stream.port = 65535;
        azoi_tls_bad_certificate(&c->stream, -0x2700, (uint32_t)1 << bit);
        check_error(c, AZO_ERR_TLS_VERIFY, "mbedTLS -0x2700");
        assert_int_equal(c->error.tls_verify_flags, (uint32_t)1 << bit);
    }
    for (int alert = -1; alert < 256; alert++) {
        const char *advice = azoi_tls_advice(MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE, alert);
        assert_true(strlen(advice) > 20 && strlen(advice) < 200);
        assert_int_equal(advice[strlen(advice) - 1], '.');
    }
    static const azo_result codes[] = {AZO_ERR_RESOLVE, AZO_ERR_CONNECT, AZO_ERR_CLOSED, AZO_ERR_TIMEOUT};
    static const int errnos[] = {0, ECONNREFUSED, ETIMEDOUT, ENETUNREACH, EMFILE, EACCES, ECONNRESET};
    for (size_t i = 0; i < COUNT(codes) * COUNT(errnos); i++) {
        azoi_error_clear(&c->error);
        c->stream.failed = codes[i % COUNT(codes)];
        c->stream.failed_errno = errnos[i / COUNT(codes)];
        azoi_stream_failed(&c->stream, "testing", 0);
        azo_result code = codes[i % COUNT(codes)];
        check_error(c, code, code == AZO_ERR_RESOLVE ? "(resolver code" : "errno");
    }
    memset(&c->stream, 0, sizeof c->stream);
    client_free(c);
}

/* First error wins, and an unset one is nothing to trip over. */
static void test_without_error(void **state) {
    (void)state;
    client *c = client_trusting("no_such_file.pem");
    server s = server_start("server", "-www");
    assert_int_equal(client_connect(c, "127.0.0.1", s.port), AZO_OK);
    c->stream.error = NULL;
    assert_int_equal(client_secure(c, "localhost", s.port), AZO_ERR_TRUST_STORE);
    azoi_stream_close(&c->stream);
    client_free(c);
    server_stop(&s);
}

/* ---- memory ---- */

static void test_every_allocation_fails(void **state) {
    (void)state;
    server s = server_start("server", "-www");
    for (int on = 0; on < 2; on++) {
        bool done = false;
        for (size_t n = 1; !done; n++) {
            client *c = client_trusting("bundle.pem");
            c->memory.fail_at = c->memory.calls + n;
            c->memory.fail_on = on != 0;
            azo_result r = client_tls(c, "localhost", s.port);
            done = c->memory.failures == 0;
            if (r != AZO_OK) {
                check_error(c, AZO_ERR_MEMORY, "memory");
            }
            client_free(c);
            assert_true(n < 100);
        }
    }
    server_stop(&s);
}

static void test_open_without_memory(void **state) {
    (void)state;
    azo_client_desc desc;
    client c;
    memset(&desc, 0, sizeof desc);
    memset(&c, 0, sizeof c);
    desc.ca_file = "x.pem";
    test_memory_open(&c.memory);
    fail_from_now(&c);
    azoi_error_clear(&c.error);
    assert_int_equal(azoi_net_init(&c.net, &desc, &c.memory.hook, &c.error), AZO_ERR_MEMORY);
    azoi_net_close(&c.net);
    test_memory_close(&c.memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_half_filled_hooks),
        cmocka_unit_test(test_clock_and_jitter),
        cmocka_unit_test(test_log_lines),
        cmocka_unit_test(test_hook_results),
        cmocka_unit_test(test_plain_stream),
        cmocka_unit_test(test_socket_options),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_write_after_reset),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_too_many_open_files),
        cmocka_unit_test(test_socket_that_stays_blocking),
        cmocka_unit_test(test_unresolvable),
        cmocka_unit_test(test_addresses_are_kept),
        cmocka_unit_test(test_address_order),
        cmocka_unit_test(test_winner_goes_first),
        cmocka_unit_test(test_second_address_after_failure),
        cmocka_unit_test(test_second_address_after_silence),
        cmocka_unit_test(test_first_of_two_fails),
        cmocka_unit_test(test_connect_is_interrupted),
        cmocka_unit_test(test_connected_at_once),
        cmocka_unit_test(test_ipv6),
        cmocka_unit_test(test_poll_hook),
        cmocka_unit_test(test_poll_is_interrupted),
        cmocka_unit_test(test_io_is_interrupted),
        cmocka_unit_test(test_tls12),
        cmocka_unit_test(test_tls13),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_awkward_hooks),
        cmocka_unit_test(test_long_write),
        cmocka_unit_test(test_unfinished_write),
#ifdef MBEDTLS_SSL_RENEGOTIATION
        cmocka_unit_test(test_renegotiation_amid_writes),
        cmocka_unit_test(test_renegotiation_after_a_flush),
#endif
        cmocka_unit_test(test_close_notify),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_resumption_tls12),
        cmocka_unit_test(test_resumption_tls12_by_id),
        cmocka_unit_test(test_resumption_tls13),
        cmocka_unit_test(test_server_without_sessions),
        cmocka_unit_test(test_session_that_is_refused),
        cmocka_unit_test(test_session_that_is_not_offered_again),
        cmocka_unit_test(test_session_cap),
        cmocka_unit_test(test_expired),
        cmocka_unit_test(test_not_yet_valid),
        cmocka_unit_test(test_wrong_host),
        cmocka_unit_test(test_self_signed),
        cmocka_unit_test(test_client_certificate),
        cmocka_unit_test(test_missing_intermediate),
        cmocka_unit_test(test_unknown_root),
        cmocka_unit_test(test_trusted_self_signed_and_intermediate),
        cmocka_unit_test(test_bundles),
        cmocka_unit_test(test_roots_that_are_not_kept),
        cmocka_unit_test(test_roots_from_memory),
        cmocka_unit_test(test_trust_store_that_is_none),
        cmocka_unit_test(test_usual_places),
        cmocka_unit_test(test_each_usual_place),
        cmocka_unit_test(test_ssl_cert_file),
        cmocka_unit_test(test_scan_in_pieces),
        cmocka_unit_test(test_scan_of_odd_text),
        cmocka_unit_test(test_der_is_not_trusted),
        cmocka_unit_test(test_numbers_for_memory),
        cmocka_unit_test(test_numbers_to_call_again),
        cmocka_unit_test(test_numbers_for_certificates),
        cmocka_unit_test(test_tls_that_cannot_be_set_up),
        cmocka_unit_test(test_write_that_never_ends),
        cmocka_unit_test(test_write_that_reads),
        cmocka_unit_test(test_end_by_number),
        cmocka_unit_test(test_no_verdict),
        cmocka_unit_test(test_verification_is_verified),
        cmocka_unit_test(test_plain_http),
        cmocka_unit_test(test_noise),
        cmocka_unit_test(test_hang_up),
        cmocka_unit_test(test_reset_in_handshake),
        cmocka_unit_test(test_alerts),
        cmocka_unit_test(test_old_version),
        cmocka_unit_test(test_curves),
        cmocka_unit_test(test_verify_sentences),
        cmocka_unit_test(test_without_error),
        cmocka_unit_test(test_every_allocation_fails),
        cmocka_unit_test(test_open_without_memory),
    };
    unsetenv("SSL_CERT_FILE");
#if MBEDTLS_VERSION_NUMBER >= 0x03000000 && defined(MBEDTLS_PSA_CRYPTO_C)
    psa_crypto_init(); /* some tests parse certificates by themselves */
#endif
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (size_t i = 0; i < COUNT(running); i++) {
        if (running[i] > 0) {
            kill(running[i], SIGKILL);
            waitpid(running[i], NULL, 0);
        }
    }
    return failed;
}
