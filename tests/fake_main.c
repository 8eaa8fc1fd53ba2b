/* fake_main.c - the service of fake_service.h as a program, for shells and for clients in other languages.
 *
 * Prints lines for a shell to eval, then "ready":
 *
 *     mkfifo lines stop
 *     fake_service --certs build/certs <stop >lines &
 *     exec 3>stop 4<lines
 *     while read -r line <&4 && [ "$line" != ready ]; do eval "$line"; done
 *     ... call ...
 *     exec 3>&-
 *
 * Ends when standard input does, on SIGTERM, SIGINT and SIGHUP, and after --lifetime. A standard input that can have
 * no end worth waiting for, such as the /dev/null of a command in the background, is not watched.
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include "fake_service.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PATH_SIZE = 1024, MAX_NUMBER = 1000000000 };

typedef struct arguments {
    fake_options options;
    const char *certs;
    const char *ca_file;
    const char *api_version;
    int stream_delay_ms;
    int token_lifetime_s;
    int lifetime_s;
} arguments;

static const char usage[] =
    "usage: fake_service [OPTION VALUE]...\n"
    "  --certs DIR           directory with server.pem, server.key, ca.pem ($AZO_TEST_CERTS, else build/certs)\n"
    "  --cert FILE           certificate chain instead of server.pem\n"
    "  --key FILE            its key instead of server.key\n"
    "  --ca FILE             what SSL_CERT_FILE is set to instead of ca.pem\n"
    "  --service-port PORT   port of the service; the kernel chooses where none is given\n"
    "  --entra-port PORT     port of Entra ID\n"
    "  --imds-port PORT      port of the instance metadata service\n"
    "  --plain-service 1     HTTP instead of HTTPS\n"
    "  --plain-entra 1       the same for Entra ID\n"
    "  --tls-min 12|13       lowest and highest version of TLS\n"
    "  --tls-max 12|13\n"
    "  --api-version DATE    also print OPENAI_API_VERSION\n"
    "  --log FILE            gets one JSON line per answered request\n"
    "  --stream-delay MS     between the chunks of streams\n"
    "  --token-lifetime S    of every token\n"
    "  --lifetime S          end after so many seconds\n"
    "  --help                print this\n";

static int signal_pipe[2] = {-1, -1};

static void note_signal(int number) {
    char byte = (char)number;
    int saved = errno;
    ssize_t written = write(signal_pipe[1], &byte, 1);
    (void)written;
    errno = saved;
}

static bool catch_signals(void) {
    struct sigaction action = {.sa_handler = note_signal};
    (void)sigemptyset(&action.sa_mask);
    return pipe(signal_pipe) == 0 && sigaction(SIGTERM, &action, NULL) == 0 && sigaction(SIGINT, &action, NULL) == 0 &&
           sigaction(SIGHUP, &action, NULL) == 0;
}

static bool read_number(const char *value, int *number) {
    char *end = NULL;
    errno = 0;
    long read = strtol(value, &end, 10);
    if (errno != 0 || end == value || *end != '\0' || read < 0 || read > MAX_NUMBER) {
        return false;
    }
    *number = (int)read;
    return true;
}

static bool read_port(const char *value, unsigned *port) {
    int number = 0;
    if (!read_number(value, &number) || number > 65535) {
        return false;
    }
    *port = (unsigned)number;
    return true;
}

static bool read_flag(const char *value, bool *flag) {
    int number = 0;
    bool ok = read_number(value, &number);
    *flag = number != 0;
    return ok;
}

static bool read_text(const char *value, const char **text) {
    *text = value;
    return true;
}

static bool read_option(arguments *a, const char *name, const char *value) {
    fake_options *o = &a->options;
    if (strcmp(name, "--certs") == 0) {
        return read_text(value, &a->certs);
    }
    if (strcmp(name, "--cert") == 0) {
        return read_text(value, &o->cert_file);
    }
    if (strcmp(name, "--key") == 0) {
        return read_text(value, &o->key_file);
    }
    if (strcmp(name, "--ca") == 0) {
        return read_text(value, &a->ca_file);
    }
    if (strcmp(name, "--log") == 0) {
        return read_text(value, &o->log_path);
    }
    if (strcmp(name, "--api-version") == 0) {
        return read_text(value, &a->api_version);
    }
    if (strcmp(name, "--service-port") == 0) {
        return read_port(value, &o->ports[FAKE_SERVICE]);
    }
    if (strcmp(name, "--entra-port") == 0) {
        return read_port(value, &o->ports[FAKE_ENTRA]);
    }
    if (strcmp(name, "--imds-port") == 0) {
        return read_port(value, &o->ports[FAKE_IMDS]);
    }
    if (strcmp(name, "--plain-service") == 0) {
        return read_flag(value, &o->plain_service);
    }
    if (strcmp(name, "--plain-entra") == 0) {
        return read_flag(value, &o->plain_entra);
    }
    if (strcmp(name, "--tls-min") == 0) {
        return read_number(value, &o->tls_min);
    }
    if (strcmp(name, "--tls-max") == 0) {
        return read_number(value, &o->tls_max);
    }
    if (strcmp(name, "--stream-delay") == 0) {
        return read_number(value, &a->stream_delay_ms);
    }
    if (strcmp(name, "--token-lifetime") == 0) {
        return read_number(value, &a->token_lifetime_s);
    }
    return strcmp(name, "--lifetime") == 0 && read_number(value, &a->lifetime_s);
}

static bool read_arguments(int count, char **strings, arguments *a) {
    for (int i = 1; i < count; i += 2) {
        if (i + 1 == count || !read_option(a, strings[i], strings[i + 1])) {
            return false;
        }
    }
    return true;
}

/* The file of the directory where none was named. */
static const char *file_in(const char *named, const char *directory, const char *name, char *path) {
    (void)snprintf(path, PATH_SIZE, "%s/%s", directory, name);
    return named != NULL ? named : path;
}

static void print_export(const char *name, const char *value) {
    printf("export %s='", name);
    for (; *value != '\0'; value++) {
        if (*value == '\'') {
            fputs("'\\''", stdout);
        } else {
            putchar(*value);
        }
    }
    puts("'");
}

static void print_address(const char *name, const char *scheme, const char *host, unsigned port) {
    char address[64];
    (void)snprintf(address, sizeof address, "%s://%s:%u", scheme, host, port);
    print_export(name, address);
}

static void print_environment(fake *service, const arguments *a) {
    const char *service_scheme = a->options.plain_service ? "http" : "https";
    const char *entra_scheme = a->options.plain_entra ? "http" : "https";
    print_address("AZURE_OPENAI_ENDPOINT", service_scheme, "localhost", fake_port(service, FAKE_SERVICE));
    print_export("AZURE_OPENAI_DEPLOYMENT", FAKE_DEPLOYMENT);
    print_address("AZURE_AUTHORITY_HOST", entra_scheme, "localhost", fake_port(service, FAKE_ENTRA));
    print_address("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http", "127.0.0.1", fake_port(service, FAKE_IMDS));
    print_export("AZURE_TENANT_ID", FAKE_TENANT_ID);
    print_export("AZURE_CLIENT_ID", FAKE_CLIENT_ID);
    print_export("AZURE_CLIENT_SECRET", FAKE_CLIENT_SECRET);
    print_export("SSL_CERT_FILE", a->ca_file);
    if (a->api_version != NULL) {
        print_export("OPENAI_API_VERSION", a->api_version);
    }
    puts("ready");
    (void)fflush(stdout);
}

/* A pipe, a socket, a file or a terminal. */
static bool stdin_ends(void) {
    struct stat about;
    return fstat(STDIN_FILENO, &about) == 0 && (!S_ISCHR(about.st_mode) || isatty(STDIN_FILENO) == 1);
}

static long long now_ms(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void wait_for_end(int lifetime_s) {
    char ignored[256];
    long long end = now_ms() + (long long)lifetime_s * 1000;
    struct pollfd wishes[2] = {
        {.fd = signal_pipe[0], .events = POLLIN},
        {.fd = stdin_ends() ? STDIN_FILENO : -1, .events = POLLIN},
    };
    for (;;) {
        long long left = lifetime_s > 0 ? end - now_ms() : 60000;
        if (left <= 0) {
            return;
        }
        int ready = poll(wishes, 2, left < 60000 ? (int)left : 60000);
        if (ready > 0 && wishes[0].revents != 0) {
            return;
        }
        if (ready > 0 && wishes[1].revents != 0 && read(STDIN_FILENO, ignored, sizeof ignored) <= 0) {
            return;
        }
    }
}

static void configure(fake *service, const arguments *a) {
    fake_set(service, FAKE_SERVICE, FAKE_STREAM_DELAY_MS, a->stream_delay_ms);
    if (a->token_lifetime_s > 0) {
        fake_set(service, FAKE_ENTRA, FAKE_TOKEN_LIFETIME_S, a->token_lifetime_s);
        fake_set(service, FAKE_IMDS, FAKE_TOKEN_LIFETIME_S, a->token_lifetime_s);
    }
}

int main(int count, char **strings) {
    char cert_path[PATH_SIZE];
    char key_path[PATH_SIZE];
    char ca_path[PATH_SIZE];
    arguments a = {.certs = getenv("AZO_TEST_CERTS")};
    if (count == 2 && strcmp(strings[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (!read_arguments(count, strings, &a)) {
        fputs(usage, stderr);
        return 2;
    }
    a.certs = a.certs != NULL ? a.certs : "build/certs";
    a.options.cert_file = file_in(a.options.cert_file, a.certs, "server.pem", cert_path);
    a.options.key_file = file_in(a.options.key_file, a.certs, "server.key", key_path);
    a.ca_file = file_in(a.ca_file, a.certs, "ca.pem", ca_path);
    a.options.counts_only = true;
    if (!catch_signals()) {
        perror("fake_service");
        return 1;
    }
    fake *service = fake_start(&a.options);
    if (service == NULL) {
        return 1;
    }
    configure(service, &a);
    print_environment(service, &a);
    wait_for_end(a.lifetime_s);
    fake_stop(service);
    return 0;
}
