/* bare.c - the least that a TLS client over mbedTLS is: sends a prepared request and prints whatever comes back.
 *
 *     bare HOST PORT ROOT.der <request >answer
 *
 * What is larger than this in other programs is their own. Certificate and name are verified. */
#define _POSIX_C_SOURCE 200809L
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/ssl.h>
#include <mbedtls/version.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct session {
    int fd;
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
    mbedtls_x509_crt root;
    mbedtls_ssl_config config;
    mbedtls_ssl_context ssl;
} session;

static int transmit(void *fd, const unsigned char *bytes, size_t len) {
    ssize_t sent = send(*(int *)fd, bytes, len, MSG_NOSIGNAL);
    return sent < 0 ? MBEDTLS_ERR_SSL_INTERNAL_ERROR : (int)sent;
}

static int receive(void *fd, unsigned char *bytes, size_t len) {
    ssize_t got = recv(*(int *)fd, bytes, len, 0);
    return got < 0 ? MBEDTLS_ERR_SSL_INTERNAL_ERROR : (int)got;
}

static int dial(const char *host, const char *port) {
    struct addrinfo hints;
    struct addrinfo *found = NULL;
    struct addrinfo *at;
    int fd = -1;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(host, port, &hints, &found) != 0) {
        return -1;
    }
    for (at = found; at != NULL && fd < 0; at = at->ai_next) {
        fd = socket(at->ai_family, at->ai_socktype, at->ai_protocol);
        if (fd >= 0 && connect(fd, at->ai_addr, at->ai_addrlen) != 0) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    return fd;
}

static size_t read_all(FILE *file, unsigned char *bytes, size_t room) {
    return file == NULL ? 0 : fread(bytes, 1, room, file);
}

static int handshake(session *s, const char *host, const char *root_file) {
    static unsigned char der[8192];
    FILE *file = fopen(root_file, "rb");
    size_t len = read_all(file, der, sizeof der);
    if (file != NULL) {
        fclose(file);
    }
    mbedtls_entropy_init(&s->entropy);
    mbedtls_ctr_drbg_init(&s->random);
    mbedtls_x509_crt_init(&s->root);
    mbedtls_ssl_config_init(&s->config);
    mbedtls_ssl_init(&s->ssl);
    if (mbedtls_x509_crt_parse_der(&s->root, der, len) != 0 ||
        mbedtls_ctr_drbg_seed(&s->random, mbedtls_entropy_func, &s->entropy, NULL, 0) != 0 ||
        mbedtls_ssl_config_defaults(&s->config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
                                    MBEDTLS_SSL_PRESET_DEFAULT) != 0) {
        return -1;
    }
#if MBEDTLS_VERSION_NUMBER < 0x03000000
    mbedtls_ssl_conf_min_version(&s->config, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
#endif
    mbedtls_ssl_conf_rng(&s->config, mbedtls_ctr_drbg_random, &s->random);
    mbedtls_ssl_conf_authmode(&s->config, MBEDTLS_SSL_VERIFY_REQUIRED);
    mbedtls_ssl_conf_ca_chain(&s->config, &s->root, NULL);
    if (mbedtls_ssl_setup(&s->ssl, &s->config) != 0 || mbedtls_ssl_set_hostname(&s->ssl, host) != 0) {
        return -1;
    }
    mbedtls_ssl_set_bio(&s->ssl, &s->fd, transmit, receive, NULL);
    return mbedtls_ssl_handshake(&s->ssl);
}

static int exchange(session *s, const unsigned char *request, size_t len) {
    unsigned char answer[4096];
    size_t at = 0;
    int got = 0;
    while (at < len && (got = mbedtls_ssl_write(&s->ssl, request + at, len - at)) > 0) {
        at += (size_t)got;
    }
    while (got > 0 && (got = mbedtls_ssl_read(&s->ssl, answer, sizeof answer)) > 0) {
        fwrite(answer, 1, (size_t)got, stdout);
    }
    return got == 0 || got == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY ? 0 : -1;
}

int main(int argc, char **argv) {
    static session s; /* the system takes back what it holds */
    static unsigned char request[65536];
    size_t len = read_all(stdin, request, sizeof request);
    if (argc != 4 || len == 0) {
        fputs("usage: bare HOST PORT ROOT.der <request\n", stderr);
        return 2;
    }
    s.fd = dial(argv[1], argv[2]);
    if (s.fd < 0 || handshake(&s, argv[1], argv[3]) != 0 || exchange(&s, request, len) != 0) {
        fputs("bare: it did not work\n", stderr);
        return 1;
    }
    return 0;
}
