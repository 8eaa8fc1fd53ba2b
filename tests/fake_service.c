/* fake_service.c - the service of fake_service.h.
 *
 * One thread accepts connections for the three roles; each connection has a thread of its own with blocking sockets.
 * One lock guards everything they share. Whatever a connection waits for, shutting its socket down ends the wait:
 * that is how fake_stop always terminates.
 *
 * From the bottom up: text, encodings, JSON, shared state, transport, reading requests, writing replies, answers
 * (Entra, IMDS, service), connections, and the public functions.
 *
 * What fake_service.h leaves open:
 *
 *     - A scripted reply answers any request whose end can be found, right or wrong; the others get their 400 always.
 *       It is taken as soon as the head is there. After `raw` the connection goes on unless the script ends it.
 *     - A head that the peer breaks off is kept as a request without a method, a body that it breaks off is not kept.
 *     - A request is in hand from its head to the last write of its answer; it is logged before that write.
 *     - Tokens for https://cognitiveservices.azure.com and https://ai.azure.com open both surfaces; v1 also takes the
 *       key as a bearer. Tokens for other known resources are issued, and refused by the service.
 *     - Unknown members of a JSON body are refused, unknown parameters of a query only by the metadata service.
 *     - The text of a message is that of its text parts, one right after the other.
 *
 * Several connections use one private key at a time, so mbedTLS has to be built with MBEDTLS_THREADING_C, as Debian
 * does.
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include "fake_service.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <mbedtls/net_sockets.h>
#include <mbedtls/pk.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_ticket.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>
#if MBEDTLS_VERSION_NUMBER < 0x04000000
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#endif
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
#include <psa/crypto.h>
#endif

#define JSMN_STATIC
#define JSMN_STRICT
#define JSMN_PARENT_LINKS
#include <jsmn.h>

enum {
    MAX_HEAD = 64 * 1024,
    MAX_LINE = 1024,
    MAX_BODY = 256 * 1024 * 1024,
    MAX_LOGGED_BODY = 64 * 1024,
    MAX_CUSTOM_HEADERS = 10,
    MAX_JSON_DEPTH = 64,
    MAX_MESSAGES = 2048,
    MAX_INPUTS = 2048,
    MAX_TOOLS = 128,
    MAX_CHOICES = 128,
    MAX_DIMENSIONS = 3072,
    DEFAULT_DIMENSIONS = 8,
    DEFAULT_SPEECH_BYTES = 4096,
    LINGER_MS = 2000,
    EARLY_PAUSE_MS = 200, /* before the rest of a request that was answered early is taken and thrown away */
    DEAF_POLL_MS = 20,
    TICKET_LIFETIME_S = 86400,
    STACK_SIZE = 1024 * 1024,
    PRINT_SIZE = 256,     /* printed in one go */
    READ_SIZE = 16 * 1024 /* a whole TLS record, so that none stays behind in the library */
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ------------------------------------------------------------------------------------------------ text */

typedef struct text {
    char *data; /* NUL-terminated once anything was added */
    size_t len;
    size_t capacity;
} text;

static void *must_have(void *memory) {
    if (memory == NULL) {
        fputs("fake service: out of memory\n", stderr);
        abort();
    }
    return memory;
}

static void text_reserve(text *t, size_t more) {
    size_t needed = t->len + more + 1;
    if (needed > t->capacity) {
        size_t doubled = t->capacity * 2;
        t->capacity = needed > doubled ? needed : doubled;
        t->data = must_have(realloc(t->data, t->capacity));
    }
}

static void text_add(text *t, const void *bytes, size_t len) {
    text_reserve(t, len);
    if (len > 0) {
        memcpy(t->data + t->len, bytes, len);
    }
    t->len += len;
    t->data[t->len] = '\0';
}

static void text_puts(text *t, const char *string) {
    text_add(t, string, strlen(string));
}

static void text_printf(text *t, const char *format, ...) {
    va_list arguments;
    text_reserve(t, PRINT_SIZE);
    va_start(arguments, format);
    int len = vsnprintf(t->data + t->len, PRINT_SIZE, format, arguments);
    va_end(arguments);
    if (len >= PRINT_SIZE) {
        text_reserve(t, (size_t)len);
        va_start(arguments, format);
        (void)vsnprintf(t->data + t->len, (size_t)len + 1, format, arguments);
        va_end(arguments);
    }
    t->len += len > 0 ? (size_t)len : 0;
    t->data[t->len] = '\0';
}

static void text_drop(text *t, size_t count) {
    if (count == 0) {
        return;
    }
    t->len -= count;
    memmove(t->data, t->data + count, t->len);
    t->data[t->len] = '\0';
}

static void text_clear(text *t) {
    t->len = 0;
    text_add(t, "", 0);
}

static void text_free(text *t) {
    free(t->data);
    *t = (text){0};
}

static bool text_is(const text *t, const char *string) {
    return t->len == strlen(string) && (t->len == 0 || memcmp(t->data, string, t->len) == 0);
}

static bool starts_with(const char *string, const char *prefix) {
    return strncmp(string, prefix, strlen(prefix)) == 0;
}

static char *copy_bytes(const char *bytes, size_t len) {
    char *copy = must_have(malloc(len + 1));
    memcpy(copy, bytes, len);
    copy[len] = '\0';
    return copy;
}

/* ------------------------------------------------------------------------------------------------ encodings */

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int hex_value(char c) {
    if (is_digit(c)) {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    if (c >= 'A' && c <= 'F') {
        return c - 'A' + 10;
    }
    return -1;
}

/* Decodes once; false if a % is not followed by two hexadecimal digits. */
static bool percent_decode(const char *bytes, size_t len, bool plus_is_space, text *out) {
    text_clear(out);
    for (size_t i = 0; i < len; i++) {
        char c = bytes[i];
        if (c == '%') {
            int high = len - i > 2 ? hex_value(bytes[i + 1]) : -1;
            int low = len - i > 2 ? hex_value(bytes[i + 2]) : -1;
            if (high < 0 || low < 0) {
                return false;
            }
            c = (char)(high * 16 + low);
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        text_add(out, &c, 1);
    }
    return true;
}

/* How many fields of that name an encoded form has, -1 if one of them is badly encoded; `out` gets the last. */
static int form_find(const char *form, size_t len, const char *name, text *out) {
    size_t name_len = strlen(name);
    int found = 0;
    for (size_t at = 0; at < len;) {
        const char *amp = memchr(form + at, '&', len - at);
        size_t end = amp != NULL ? (size_t)(amp - form) : len;
        if (end - at > name_len && memcmp(form + at, name, name_len) == 0 && form[at + name_len] == '=') {
            size_t value = at + name_len + 1;
            if (!percent_decode(form + value, end - value, true, out)) {
                return -1;
            }
            found++;
        }
        at = end + 1;
    }
    return found;
}

static void base64_add(text *out, const unsigned char *bytes, size_t len) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < len; i += 3) {
        size_t have = len - i < 3 ? len - i : 3;
        uint32_t group = (uint32_t)bytes[i] << 16;
        group |= have > 1 ? (uint32_t)bytes[i + 1] << 8 : 0;
        group |= have > 2 ? (uint32_t)bytes[i + 2] : 0;
        char quad[4] = {digits[group >> 18], digits[group >> 12 & 63], digits[group >> 6 & 63], digits[group & 63]};
        for (size_t pad = have + 1; pad < 4; pad++) {
            quad[pad] = '=';
        }
        text_add(out, quad, sizeof quad);
    }
}

static uint32_t hash_bytes(const char *bytes, size_t len) {
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < len; i++) {
        hash = (hash ^ (unsigned char)bytes[i]) * 16777619u;
    }
    return hash;
}

/* Length of the valid UTF-8 sequence at the start, 0 if there is none. */
static size_t utf8_len(const char *bytes, size_t len) {
    const unsigned char *b = (const unsigned char *)bytes;
    size_t need = b[0] < 0x80 ? 1 : b[0] >= 0xc2 && b[0] < 0xe0 ? 2 : (b[0] & 0xf0) == 0xe0 ? 3 : 4;
    if (b[0] > 0xf4 || (b[0] >= 0x80 && b[0] < 0xc2) || need > len) {
        return 0;
    }
    for (size_t i = 1; i < need; i++) {
        if ((b[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (b[0] == 0xe0 && b[1] < 0xa0) || (b[0] == 0xf0 && b[1] < 0x90);
    bool surrogate = b[0] == 0xed && b[1] >= 0xa0;
    bool too_large = b[0] == 0xf4 && b[1] >= 0x90;
    return overlong || surrogate || too_large ? 0 : need;
}

static void utf8_add(text *out, uint32_t code) {
    char bytes[4];
    size_t len = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = len; i-- > 1;) {
        bytes[i] = (char)(0x80 | (code & 0x3f));
        code >>= 6;
    }
    static const unsigned lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    bytes[0] = (char)(lead[len] | code);
    text_add(out, bytes, len);
}

/* ------------------------------------------------------------------------------------------------ JSON */

static void json_quote(text *out, const char *bytes, size_t len) {
    text_puts(out, "\"");
    for (size_t i = 0; i < len;) {
        char c = bytes[i];
        size_t sequence = utf8_len(bytes + i, len - i);
        if (c == '"' || c == '\\') {
            text_printf(out, "\\%c", c);
        } else if (c == '\n') {
            text_puts(out, "\\n");
        } else if (sequence == 0 || (unsigned char)c < 0x20) {
            text_printf(out, "\\u%04x", (unsigned)(unsigned char)c);
        } else {
            text_add(out, bytes + i, sequence);
        }
        i += sequence > 0 ? sequence : 1;
    }
    text_puts(out, "\"");
}

static void json_quote_string(text *out, const char *string) {
    json_quote(out, string, strlen(string));
}

/* jsmn takes a good deal that is not JSON, so a scan by the grammar of RFC 8259 comes first. */
typedef struct json_scan {
    const char *at;
    const char *end;
    int depth;
} json_scan;

static void scan_space(json_scan *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r')) {
        s->at++;
    }
}

static bool scan_char(json_scan *s, char c) {
    if (s->at < s->end && *s->at == c) {
        s->at++;
        return true;
    }
    return false;
}

static bool scan_word(json_scan *s, const char *word) {
    size_t len = strlen(word);
    if ((size_t)(s->end - s->at) < len || memcmp(s->at, word, len) != 0) {
        return false;
    }
    s->at += len;
    return true;
}

static bool scan_digits(json_scan *s) {
    const char *start = s->at;
    while (s->at < s->end && is_digit(*s->at)) {
        s->at++;
    }
    return s->at > start;
}

static bool scan_number(json_scan *s) {
    (void)scan_char(s, '-');
    if (!scan_char(s, '0') && !scan_digits(s)) {
        return false;
    }
    if (scan_char(s, '.') && !scan_digits(s)) {
        return false;
    }
    if (scan_char(s, 'e') || scan_char(s, 'E')) {
        (void)(scan_char(s, '+') || scan_char(s, '-'));
        return scan_digits(s);
    }
    return true;
}

static bool scan_escape(json_scan *s) {
    if (s->at == s->end) {
        return false;
    }
    char c = *s->at++;
    if (c != 'u') {
        return c != '\0' && strchr("\"\\/bfnrt", c) != NULL;
    }
    for (int i = 0; i < 4; i++) {
        if (s->at == s->end || hex_value(*s->at++) < 0) {
            return false;
        }
    }
    return true;
}

static bool scan_string(json_scan *s) {
    if (!scan_char(s, '"')) {
        return false;
    }
    while (!scan_char(s, '"')) {
        if (scan_char(s, '\\')) {
            if (!scan_escape(s)) {
                return false;
            }
            continue;
        }
        size_t len = s->at < s->end ? utf8_len(s->at, (size_t)(s->end - s->at)) : 0;
        if (len == 0 || (unsigned char)*s->at < 0x20) {
            return false;
        }
        s->at += len;
    }
    return true;
}

static bool scan_value(json_scan *s);

/* The members of an object or the items of an array, after the opening bracket. */
static bool scan_list(json_scan *s, char close, bool named) {
    if (++s->depth > MAX_JSON_DEPTH) {
        return false;
    }
    scan_space(s);
    if (!scan_char(s, close)) {
        do {
            scan_space(s);
            if (named && !scan_string(s)) {
                return false;
            }
            scan_space(s);
            if ((named && !scan_char(s, ':')) || !scan_value(s)) {
                return false;
            }
        } while (scan_char(s, ','));
        if (!scan_char(s, close)) {
            return false;
        }
    }
    s->depth--;
    return true;
}

static bool scan_value(json_scan *s) {
    scan_space(s);
    if (s->at == s->end) {
        return false;
    }
    bool ok;
    switch (*s->at) {
    case '{':
        s->at++;
        ok = scan_list(s, '}', true);
        break;
    case '[':
        s->at++;
        ok = scan_list(s, ']', false);
        break;
    case '"':
        ok = scan_string(s);
        break;
    case 't':
        ok = scan_word(s, "true");
        break;
    case 'f':
        ok = scan_word(s, "false");
        break;
    case 'n':
        ok = scan_word(s, "null");
        break;
    default:
        ok = scan_number(s);
        break;
    }
    scan_space(s);
    return ok;
}

/* A parsed document; values are named by the index of their token, -1 being none. */
typedef struct json {
    const char *data;
    jsmntok_t *tokens;
    int count;
} json;

typedef enum json_kind {
    JSON_STRING = 1,
    JSON_BOOL = 2,
    JSON_INTEGER = 4,
    JSON_FRACTION = 8,
    JSON_NUMBER = JSON_INTEGER | JSON_FRACTION,
    JSON_OBJECT = 16,
    JSON_ARRAY = 32,
    JSON_NULL = 64,
    JSON_NONE = 128
} json_kind;

static bool json_parse(json *j, const char *data, size_t len) {
    *j = (json){.data = data};
    json_scan scan = {.at = data, .end = data + len};
    if (len > INT_MAX || !scan_value(&scan) || scan.at != scan.end) {
        return false;
    }
    jsmn_parser parser;
    jsmn_init(&parser);
    j->count = jsmn_parse(&parser, data, len, NULL, 0);
    if (j->count <= 0) {
        return false;
    }
    j->tokens = must_have(malloc((size_t)j->count * sizeof *j->tokens));
    jsmn_init(&parser);
    return jsmn_parse(&parser, data, len, j->tokens, (unsigned)j->count) == j->count;
}

static void json_free(json *j) {
    free(j->tokens);
    *j = (json){0};
}

static const char *json_at(const json *j, int token) {
    return j->data + j->tokens[token].start;
}

static size_t json_len(const json *j, int token) {
    return (size_t)(j->tokens[token].end - j->tokens[token].start);
}

/* The token after a value and all it contains. */
static int json_after(const json *j, int token) {
    int next = token + 1;
    while (next < j->count && j->tokens[next].start < j->tokens[token].end) {
        next++;
    }
    return next;
}

static json_kind json_kind_of(const json *j, int token) {
    if (token < 0) {
        return JSON_NONE;
    }
    switch (j->tokens[token].type) {
    case JSMN_OBJECT:
        return JSON_OBJECT;
    case JSMN_ARRAY:
        return JSON_ARRAY;
    case JSMN_STRING:
        return JSON_STRING;
    default:
        break;
    }
    const char *value = json_at(j, token);
    if (*value == 't' || *value == 'f') {
        return JSON_BOOL;
    }
    if (*value == 'n') {
        return JSON_NULL;
    }
    for (size_t i = 0; i < json_len(j, token); i++) {
        if (value[i] == '.' || value[i] == 'e' || value[i] == 'E') {
            return JSON_FRACTION;
        }
    }
    return JSON_INTEGER;
}

static bool json_is(const json *j, int token, json_kind kind) {
    return json_kind_of(j, token) == kind;
}

static int json_size(const json *j, int token) {
    return j->tokens[token].size;
}

static bool json_equals(const json *j, int token, const char *string) {
    return token >= 0 && json_len(j, token) == strlen(string) && memcmp(json_at(j, token), string, strlen(string)) == 0;
}

static bool json_string_is(const json *j, int token, const char *string) {
    return json_is(j, token, JSON_STRING) && json_equals(j, token, string);
}

static bool json_true(const json *j, int token) {
    return json_is(j, token, JSON_BOOL) && json_equals(j, token, "true");
}

/* The value of a member; -1 if it is absent or the value is no object. */
static int json_member(const json *j, int object, const char *name) {
    if (!json_is(j, object, JSON_OBJECT)) {
        return -1;
    }
    int key = object + 1;
    for (int i = 0; i < json_size(j, object); i++) {
        if (json_equals(j, key, name)) {
            return key + 1;
        }
        key = json_after(j, key + 1);
    }
    return -1;
}

static uint32_t hex4(const char *digits) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        value = value * 16 + (uint32_t)hex_value(digits[i]);
    }
    return value;
}

/* Adds the character of an escape to `out` and returns how many bytes it took; lone surrogates become U+FFFD. */
static size_t json_unescape(const char *escape, size_t len, text *out) {
    static const char names[] = "bfnrt";
    static const char values[] = "\b\f\n\r\t";
    const char *name = strchr(names, escape[1]);
    if (escape[1] != 'u') {
        text_add(out, name != NULL ? &values[name - names] : &escape[1], 1);
        return 2;
    }
    uint32_t code = hex4(escape + 2);
    if (code >= 0xd800 && code < 0xdc00 && len >= 12 && escape[6] == '\\' && escape[7] == 'u') {
        uint32_t low = hex4(escape + 8);
        if (low >= 0xdc00 && low < 0xe000) {
            utf8_add(out, 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00));
            return 12;
        }
    }
    utf8_add(out, code >= 0xd800 && code < 0xe000 ? 0xfffd : code);
    return 6;
}

static void json_add_string(const json *j, int token, text *out) {
    const char *bytes = json_at(j, token);
    size_t len = json_len(j, token);
    text_add(out, "", 0);
    for (size_t i = 0; i < len;) {
        if (bytes[i] == '\\') {
            i += json_unescape(bytes + i, len - i, out);
        } else {
            text_add(out, bytes + i++, 1);
        }
    }
}

/* Whether two strings are the same once their escapes are undone. */
static bool json_same_string(const json *j, int a, int b) {
    const char *left = json_at(j, a);
    const char *right = json_at(j, b);
    if (memchr(left, '\\', json_len(j, a)) == NULL && memchr(right, '\\', json_len(j, b)) == NULL) {
        return json_len(j, a) == json_len(j, b) && memcmp(left, right, json_len(j, a)) == 0;
    }
    text first = {0};
    text second = {0};
    json_add_string(j, a, &first);
    json_add_string(j, b, &second);
    bool same = first.len == second.len && memcmp(first.data, second.data, first.len) == 0;
    text_free(&first);
    text_free(&second);
    return same;
}

/* The name that an object has twice, -1 if every name is unique. */
static int json_repeated_name(const json *j) {
    for (int object = 0; object < j->count; object++) {
        if (!json_is(j, object, JSON_OBJECT)) {
            continue;
        }
        int key = object + 1;
        for (int i = 0; i < json_size(j, object); i++) {
            int other = json_after(j, key + 1);
            for (int k = i + 1; k < json_size(j, object); k++) {
                if (json_same_string(j, key, other)) {
                    return other;
                }
                other = json_after(j, other + 1);
            }
            key = json_after(j, key + 1);
        }
    }
    return -1;
}

/* Not strtod, whose decimal point depends on the locale; exact enough for checking ranges. */
static double json_number(const json *j, int token) {
    const char *at = json_at(j, token);
    const char *end = at + json_len(j, token);
    bool negative = *at == '-';
    at += negative;
    double value = 0;
    int exponent = 0;
    bool fraction = false;
    for (; at < end && (is_digit(*at) || *at == '.'); at++) {
        if (*at == '.') {
            fraction = true;
        } else {
            value = value * 10 + (*at - '0');
            exponent -= fraction;
        }
    }
    if (at < end) {
        long written = strtol(at + 1, NULL, 10);
        exponent += written > 9999 ? 9999 : written < -9999 ? -9999 : (int)written;
    }
    for (; exponent > 0 && value < 1e300; exponent--) {
        value *= 10;
    }
    for (; exponent < 0 && value > 1e-300; exponent++) {
        value /= 10;
    }
    return negative ? -value : value;
}

static long json_long(const json *j, int token, long if_absent) {
    return json_is(j, token, JSON_INTEGER) ? strtol(json_at(j, token), NULL, 10) : if_absent;
}

/* ------------------------------------------------------------------------------------------------ shared state */

typedef struct seen_entry {
    fake_seen seen;
    char *head;
    char *lines; /* the head again, cut into strings */
    fake_header *headers;
    text body;
    char sni[128];
    char tls[16];
    int problem_status; /* 0, or why no service would take this */
    const char *problem;
    bool unreadable; /* where the request ends cannot be told */
    bool chunked;
    size_t content_length;
} seen_entry;

typedef struct script {
    fake_reply reply;
    char *strings[4]; /* what the reply points to */
    struct script *next;
} script;

typedef struct token {
    char string[64];
    char audience[64];
    char client_id[40];
    fake_role issuer;
    long expires_ms;
    bool revoked;
    struct token *next;
} token;

typedef enum ending { END_ORDERLY, END_FIN, END_RESET } ending;

typedef struct connection {
    fake *owner;
    fake_role role;
    unsigned number;
    int fd; /* closed and set to -1 under the lock only, so that nobody shuts down another's socket */
    bool secure;
    bool idle;     /* waits for a request */
    bool dropped;  /* is to end, being idle */
    bool ended;    /* has told the peer so */
    bool finished; /* its thread has nothing left to do */
    bool in_hand;  /* has a request that is not settled */
    int status;    /* of its answer, 0 as long as there is none */
    ending ending;
    pthread_t thread;
    mbedtls_ssl_context tls;
    char sni[128];
    text in; /* received and not yet used */
    struct connection *next;
} connection;

typedef struct role_state {
    int listener;
    unsigned port;
    bool secure;
    int settings[FAKE_SETTING_COUNT];
    script *scripts;
    seen_entry **entries;
    size_t entry_count;
    size_t entry_capacity;
    size_t seen_count;
    size_t connection_count;
    size_t active;
    size_t most_active;
} role_state;

struct fake {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t acceptor;
    int wake[2]; /* closing the write end ends the acceptor */
    long started_ms;
    bool stopping;
    bool counts_only;
    FILE *log;
    role_state roles[FAKE_ROLE_COUNT];
    connection *connections;
    token *tokens;
    unsigned token_count;
    unsigned answer_count;
    size_t resumptions;

    bool has_tls;
    mbedtls_ssl_config tls;
    mbedtls_x509_crt chain;
    mbedtls_pk_context key;
    mbedtls_ssl_ticket_context tickets;
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    pthread_mutex_t random_lock;
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
#endif
};

static const char *const role_names[FAKE_ROLE_COUNT] = {"service", "entra", "imds"};

static void lock(fake *f) {
    (void)pthread_mutex_lock(&f->lock);
}

static void unlock(fake *f) {
    (void)pthread_mutex_unlock(&f->lock);
}

static long now_ms(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int setting(fake *f, fake_role role, fake_setting which) {
    lock(f);
    int value = f->roles[role].settings[which];
    unlock(f);
    return value;
}

/* ------------------------------------------------------------------------------------------------ transport */

static int socket_send(void *context, const unsigned char *bytes, size_t len) {
    connection *c = context;
    ssize_t sent;
    do {
        sent = send(c->fd, bytes, len, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? MBEDTLS_ERR_NET_SEND_FAILED : (int)sent;
}

static int socket_receive(void *context, unsigned char *bytes, size_t len) {
    connection *c = context;
    ssize_t received;
    do {
        received = recv(c->fd, bytes, len, 0);
    } while (received < 0 && errno == EINTR);
    return received < 0 ? MBEDTLS_ERR_NET_RECV_FAILED : (int)received;
}

static bool must_repeat(int tls_result) {
    return tls_result == MBEDTLS_ERR_SSL_WANT_READ || tls_result == MBEDTLS_ERR_SSL_WANT_WRITE ||
           tls_result == MBEDTLS_ERR_SSL_CRYPTO_IN_PROGRESS;
}

/* Appends to c->in what arrives next; false once nothing more will. */
static bool receive_more(connection *c) {
    unsigned char bytes[READ_SIZE];
    int received;
    if (c->secure) {
        do {
            received = mbedtls_ssl_read(&c->tls, bytes, sizeof bytes);
        } while (must_repeat(received));
    } else {
        received = socket_receive(c, bytes, sizeof bytes);
    }
    if (received <= 0) {
        return false;
    }
    text_add(&c->in, bytes, (size_t)received);
    return true;
}

static bool send_all(connection *c, const char *bytes, size_t len) {
    const unsigned char *at = (const unsigned char *)bytes;
    while (len > 0) {
        int sent = c->secure ? mbedtls_ssl_write(&c->tls, at, len) : socket_send(c, at, len);
        if (c->secure && must_repeat(sent)) {
            continue;
        }
        if (sent <= 0) {
            return false;
        }
        at += sent;
        len -= (size_t)sent;
    }
    return true;
}

/* Lets time pass, -1 being for ever; false as soon as the peer is gone or the service stops. */
static bool stay(connection *c, int ms) {
    long end = now_ms() + ms;
    for (;;) {
        long left = ms < 0 ? -1 : end - now_ms();
        if (ms >= 0 && left <= 0) {
            return true;
        }
        struct pollfd wish = {.fd = c->fd, .events = c->in.len < MAX_HEAD ? POLLIN : 0};
        int ready = poll(&wish, 1, (int)left);
        if (ready > 0 && ((wish.revents & POLLIN) == 0 || !receive_more(c))) {
            return false;
        }
    }
}

/* Reads and forgets until the peer is gone, at most for some time, -1 being for ever. */
static void discard_input(connection *c, int ms) {
    long end = now_ms() + ms;
    unsigned char bytes[READ_SIZE];
    for (;;) {
        long left = ms < 0 ? -1 : end - now_ms();
        struct pollfd wish = {.fd = c->fd, .events = POLLIN};
        int ready = ms >= 0 && left <= 0 ? 0 : poll(&wish, 1, (int)left);
        if (ready == 0 || (ready > 0 && socket_receive(c, bytes, sizeof bytes) <= 0)) {
            return;
        }
    }
}

static bool start_tls(connection *c) {
    fake *f = c->owner;
    if (mbedtls_ssl_setup(&c->tls, &f->tls) != 0) {
        return false;
    }
    mbedtls_ssl_set_bio(&c->tls, c, socket_send, socket_receive, NULL);
    int result;
    do {
        result = mbedtls_ssl_handshake(&c->tls);
    } while (must_repeat(result));
    return result == 0;
}

#if defined(MBEDTLS_SSL_SERVER_NAME_INDICATION)
static int note_server_name(void *context, mbedtls_ssl_context *tls, const unsigned char *name, size_t len) {
    fake *f = context;
    lock(f);
    connection *c = f->connections;
    while (c != NULL && &c->tls != tls) {
        c = c->next;
    }
    unlock(f);
    if (c != NULL && len < sizeof c->sni) {
        memcpy(c->sni, name, len);
        c->sni[len] = '\0';
    }
    return 0;
}
#endif

#if MBEDTLS_VERSION_NUMBER < 0x04000000
static int random_bytes(void *context, unsigned char *bytes, size_t len) {
    fake *f = context;
    (void)pthread_mutex_lock(&f->random_lock);
    int result = mbedtls_ctr_drbg_random(&f->random, bytes, len);
    (void)pthread_mutex_unlock(&f->random_lock);
    return result;
}
#endif

#if defined(MBEDTLS_SSL_SESSION_TICKETS) && defined(MBEDTLS_SSL_TICKET_C)
static int write_ticket(void *context, const mbedtls_ssl_session *session, unsigned char *start,
                        const unsigned char *end, size_t *len, uint32_t *lifetime) {
    fake *f = context;
    return mbedtls_ssl_ticket_write(&f->tickets, session, start, end, len, lifetime);
}

static int parse_ticket(void *context, mbedtls_ssl_session *session, unsigned char *bytes, size_t len) {
    fake *f = context;
    int result = mbedtls_ssl_ticket_parse(&f->tickets, session, bytes, len);
    lock(f);
    f->resumptions += result == 0 ? 1 : 0;
    unlock(f);
    return result;
}
#endif

static bool start_random(fake *f) {
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
    if (psa_crypto_init() != PSA_SUCCESS) {
        return false;
    }
#endif
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    if (mbedtls_ctr_drbg_seed(&f->random, mbedtls_entropy_func, &f->entropy, NULL, 0) != 0) {
        return false;
    }
    mbedtls_ssl_conf_rng(&f->tls, random_bytes, f);
#else
    (void)f;
#endif
    return true;
}

static bool load_certificate(fake *f, const fake_options *options) {
    if (options->cert_file == NULL || options->key_file == NULL ||
        mbedtls_x509_crt_parse_file(&f->chain, options->cert_file) != 0) {
        return false;
    }
#if MBEDTLS_VERSION_NUMBER >= 0x03000000 && MBEDTLS_VERSION_NUMBER < 0x04000000
    int result = mbedtls_pk_parse_keyfile(&f->key, options->key_file, NULL, random_bytes, f);
#else
    int result = mbedtls_pk_parse_keyfile(&f->key, options->key_file, NULL);
#endif
    return result == 0 && mbedtls_ssl_conf_own_cert(&f->tls, &f->chain, &f->key) == 0;
}

/* False if the library has no such version. */
static bool choose_versions(fake *f, int min, int max) {
    int lowest = min != 0 ? min : 12;
    int highest = max != 0 ? max : 13;
#if defined(MBEDTLS_SSL_PROTO_TLS1_3)
    bool has_13 = true;
#else
    bool has_13 = false;
#endif
    if (lowest < 12 || highest > 13 || lowest > highest || (lowest == 13 && !has_13)) {
        return false;
    }
#if MBEDTLS_VERSION_NUMBER >= 0x03020000
    bool up_to_13 = highest == 13 && has_13;
    mbedtls_ssl_conf_min_tls_version(&f->tls, lowest == 13 ? MBEDTLS_SSL_VERSION_TLS1_3 : MBEDTLS_SSL_VERSION_TLS1_2);
    mbedtls_ssl_conf_max_tls_version(&f->tls, up_to_13 ? MBEDTLS_SSL_VERSION_TLS1_3 : MBEDTLS_SSL_VERSION_TLS1_2);
#else
    mbedtls_ssl_conf_min_version(&f->tls, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
    mbedtls_ssl_conf_max_version(&f->tls, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
#endif
    return true;
}

static bool offer_tickets(fake *f) {
#if defined(MBEDTLS_SSL_SESSION_TICKETS) && defined(MBEDTLS_SSL_TICKET_C)
#if MBEDTLS_VERSION_NUMBER >= 0x04000000
    int result = mbedtls_ssl_ticket_setup(&f->tickets, PSA_ALG_GCM, PSA_KEY_TYPE_AES, 256, TICKET_LIFETIME_S);
#else
    int result = mbedtls_ssl_ticket_setup(&f->tickets, random_bytes, f, MBEDTLS_CIPHER_AES_256_GCM, TICKET_LIFETIME_S);
#endif
    if (result != 0) {
        return false;
    }
    mbedtls_ssl_conf_session_tickets_cb(&f->tls, write_ticket, parse_ticket, f);
#if defined(MBEDTLS_SSL_PROTO_TLS1_3) && MBEDTLS_VERSION_NUMBER >= 0x03020000
    mbedtls_ssl_conf_new_session_tickets(&f->tls, 2);
#endif
#else
    (void)f;
#endif
    return true;
}

/* NULL, or what failed. */
static const char *set_up_tls(fake *f, const fake_options *options) {
    if (mbedtls_ssl_config_defaults(&f->tls, MBEDTLS_SSL_IS_SERVER, MBEDTLS_SSL_TRANSPORT_STREAM,
                                    MBEDTLS_SSL_PRESET_DEFAULT) != 0 ||
        !start_random(f)) {
        return "TLS does not start";
    }
    if (!load_certificate(f, options)) {
        return "the certificate or its key cannot be read";
    }
    if (!choose_versions(f, options->tls_min, options->tls_max)) {
        return "the library has no such version of TLS";
    }
#if defined(MBEDTLS_SSL_SERVER_NAME_INDICATION)
    mbedtls_ssl_conf_sni(&f->tls, note_server_name, f);
#endif
#if defined(MBEDTLS_SSL_ALPN)
    static const char *protocols[] = {"http/1.1", NULL};
    if (mbedtls_ssl_conf_alpn_protocols(&f->tls, protocols) != 0) {
        return "TLS does not take the name of the protocol";
    }
#endif
    return options->no_tickets || offer_tickets(f) ? NULL : "session tickets do not start";
}

static void init_tls(fake *f) {
    mbedtls_ssl_config_init(&f->tls);
    mbedtls_x509_crt_init(&f->chain);
    mbedtls_pk_init(&f->key);
    mbedtls_ssl_ticket_init(&f->tickets);
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    mbedtls_entropy_init(&f->entropy);
    mbedtls_ctr_drbg_init(&f->random);
#endif
}

static void free_tls(fake *f) {
    mbedtls_ssl_config_free(&f->tls);
    mbedtls_ssl_ticket_free(&f->tickets);
    mbedtls_pk_free(&f->key);
    mbedtls_x509_crt_free(&f->chain);
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    mbedtls_ctr_drbg_free(&f->random);
    mbedtls_entropy_free(&f->entropy);
#endif
}

/* Waits for the first byte of a request; false if the connection is to end instead. */
static bool await_request(connection *c) {
    fake *f = c->owner;
    lock(f);
    c->idle = true;
    unlock(f);
    struct pollfd wish = {.fd = c->fd, .events = POLLIN};
    while (c->in.len == 0 && poll(&wish, 1, -1) < 0 && errno == EINTR) {
    }
    lock(f);
    c->idle = false;
    bool wanted = !c->dropped && !f->stopping;
    unlock(f);
    return wanted;
}

/* While the role does not even read; false if the peer goes away meanwhile. */
static bool wait_while_deaf(connection *c) {
    while (setting(c->owner, c->role, FAKE_SILENCE) == 2) {
        struct pollfd wish = {.fd = c->fd};
        if (poll(&wish, 1, DEAF_POLL_MS) > 0) {
            return false;
        }
    }
    return true;
}

static void end_connection(connection *c) {
    fake *f = c->owner;
    if (c->ending == END_RESET) {
        struct linger at_once = {.l_onoff = 1, .l_linger = 0};
        (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    } else {
        if (c->ending == END_ORDERLY && c->secure) {
            (void)mbedtls_ssl_close_notify(&c->tls);
        }
        (void)shutdown(c->fd, SHUT_WR);
        lock(f);
        c->ended = true;
        (void)pthread_cond_broadcast(&f->changed);
        unlock(f);
        discard_input(c, LINGER_MS);
    }
    lock(f);
    (void)close(c->fd);
    c->fd = -1;
    c->ended = true;
    (void)pthread_cond_broadcast(&f->changed);
    unlock(f);
}

/* ------------------------------------------------------------------------------------------------ reading requests */

static void entry_free(seen_entry *e) {
    free(e->head);
    free(e->lines);
    free(e->headers);
    text_free(&e->body);
    free(e);
}

/* The first problem found is the one that counts. */
static void blame(seen_entry *e, int status, const char *problem) {
    if (e->problem == NULL) {
        e->problem_status = status;
        e->problem = problem;
    }
}

static void blame_framing(seen_entry *e, int status, const char *problem) {
    blame(e, status, problem);
    e->unreadable = true;
}

static bool is_token_char(char c) {
    return c != '\0' && (is_letter(c) || is_digit(c) || strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool is_token(const char *string) {
    size_t len = 0;
    while (is_token_char(string[len])) {
        len++;
    }
    return len > 0 && string[len] == '\0';
}

static bool is_number(const char *string) {
    size_t len = 0;
    while (is_digit(string[len])) {
        len++;
    }
    return len > 0 && string[len] == '\0';
}

/* Length of the head with its blank line, 0 if there is more to come; what cannot become a head is blamed. */
static size_t head_len(const text *in, seen_entry *e) {
    for (size_t i = 0; i < in->len; i++) {
        unsigned char c = (unsigned char)in->data[i];
        bool after_cr = i > 0 && in->data[i - 1] == '\r';
        if ((c == '\n') != after_cr || (c < 0x20 && c != '\r' && c != '\n' && c != '\t') || c >= 0x7f) {
            blame_framing(e, 400, "the head has a byte that is not allowed there, or a line end that is not CRLF");
            return in->len;
        }
        if (c == '\n' && i >= 3 && in->data[i - 2] == '\n') {
            return i + 1;
        }
    }
    if (in->len > MAX_HEAD) {
        blame_framing(e, 431, "the head is too long");
        return in->len;
    }
    return 0;
}

/* Ends the line there and returns the start of the next. */
static char *cut_line(char *line) {
    char *end = strstr(line, "\r\n");
    *end = '\0';
    return end + 2;
}

static bool is_target(const char *target) {
    for (const char *at = target; *at != '\0'; at++) {
        if (strchr("\"#<>\\^`{|}", *at) != NULL || (*at == '%' && (hex_value(at[1]) < 0 || hex_value(at[2]) < 0))) {
            return false;
        }
    }
    return true;
}

static void parse_request_line(seen_entry *e, char *line) {
    char *target = strchr(line, ' ');
    char *version = target != NULL ? strchr(target + 1, ' ') : NULL;
    if (version == NULL || strchr(version + 1, ' ') != NULL || !starts_with(version + 1, "HTTP/")) {
        blame_framing(e, 400, "the first line is not METHOD TARGET VERSION");
        return;
    }
    *target++ = '\0';
    *version++ = '\0';
    if (!is_token(line)) {
        blame_framing(e, 400, "the method is not a token");
        return;
    }
    e->seen.method = line;
    e->seen.target = target;
    if (strcmp(version, "HTTP/1.1") != 0) {
        blame(e, 505, "the version is not HTTP/1.1");
    }
    if (target[0] != '/' || !is_target(target)) {
        blame(e, 400, "the target is not a path with an optional query, both properly encoded");
    }
}

static void parse_header(seen_entry *e, char *line) {
    char *colon = strchr(line, ':');
    if (colon != NULL) {
        *colon = '\0';
    }
    if (colon == NULL || !is_token(line)) {
        blame_framing(e, 400, "a header is not NAME: VALUE");
        return;
    }
    char *value = colon + 1;
    value += strspn(value, " \t");
    size_t len = strlen(value);
    while (len > 0 && (value[len - 1] == ' ' || value[len - 1] == '\t')) {
        len--;
    }
    value[len] = '\0';
    if (fake_seen_header(&e->seen, line) != NULL) {
        bool frames = strcasecmp(line, "content-length") == 0 || strcasecmp(line, "transfer-encoding") == 0;
        blame(e, 400, "a header is given twice");
        e->unreadable = e->unreadable || frames;
    }
    e->headers[e->seen.header_count++] = (fake_header){.name = line, .value = value};
}

/* host or host:port; if the host is this machine, with the right port unless that is a usual one. */
static bool is_host(const char *host, unsigned port) {
    const char *after = host;
    if (*after == '[') {
        after += 1 + strspn(after + 1, "0123456789abcdefABCDEF:.");
        after += *after == ']' ? 1 : 0;
    } else {
        while (is_letter(*after) || is_digit(*after) || *after == '-' || *after == '.' || *after == '_') {
            after++;
        }
    }
    size_t name_len = (size_t)(after - host);
    if (name_len == 0 || (*after != '\0' && *after != ':')) {
        return false;
    }
    if (*after == ':' && (!is_number(after + 1) || after[1] == '0' || strlen(after + 1) > 5)) {
        return false;
    }
    static const char *const here[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; i < COUNT(here); i++) {
        if (strlen(here[i]) == name_len && strncasecmp(host, here[i], name_len) == 0) {
            return *after == ':' ? strtoul(after + 1, NULL, 10) == port : port == 80 || port == 443;
        }
    }
    return true;
}

static bool is_usual_header(const char *name) {
    static const char *const usual[] = {"host",       "content-type",    "content-length", "transfer-encoding",
                                        "accept",     "accept-encoding", "user-agent",     "accept-language",
                                        "connection", "authorization",   "api-key",        "expect"};
    for (size_t i = 0; i < COUNT(usual); i++) {
        if (strcasecmp(usual[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static void check_headers(seen_entry *e, unsigned port) {
    const char *host = fake_seen_header(&e->seen, "host");
    if (host == NULL || !is_host(host, port)) {
        blame(e, 400, "Host is missing or is not HOST[:PORT] of this service");
    }
    const char *connection_header = fake_seen_header(&e->seen, "connection");
    if (connection_header != NULL && strcasecmp(connection_header, "close") != 0 &&
        strcasecmp(connection_header, "keep-alive") != 0) {
        blame(e, 400, "Connection is neither close nor keep-alive");
    }
    size_t custom = 0;
    for (size_t i = 0; i < e->seen.header_count; i++) {
        custom += is_usual_header(e->headers[i].name) ? 0 : 1;
    }
    if (custom > MAX_CUSTOM_HEADERS) {
        blame(e, 431, "there are more than 10 custom headers");
    }
}

static void find_framing(seen_entry *e) {
    const char *length = fake_seen_header(&e->seen, "content-length");
    const char *coding = fake_seen_header(&e->seen, "transfer-encoding");
    if (coding != NULL && (length != NULL || strcasecmp(coding, "chunked") != 0)) {
        blame_framing(e, 400, "Transfer-Encoding is not chunked, or stands beside Content-Length");
    } else if (length != NULL && (!is_number(length) || strlen(length) > 18)) {
        blame_framing(e, 400, "Content-Length is not a number");
    } else if (length != NULL && strtoull(length, NULL, 10) > MAX_BODY) {
        blame_framing(e, 413, "the body is too long");
    } else {
        e->chunked = coding != NULL;
        e->content_length = length != NULL ? (size_t)strtoull(length, NULL, 10) : 0;
    }
    bool sends = strcmp(e->seen.method, "POST") == 0 || strcmp(e->seen.method, "PUT") == 0;
    if (sends && length == NULL && coding == NULL) {
        blame_framing(e, 411, "neither Content-Length nor Transfer-Encoding says where the body ends");
    }
    if (strcmp(e->seen.method, "GET") == 0 && (e->chunked || e->content_length > 0)) {
        blame(e, 400, "GET has a body");
    }
}

static void parse_head(seen_entry *e, unsigned port) {
    e->lines = copy_bytes(e->head, strlen(e->head));
    size_t lines = 0;
    for (const char *at = e->head; *at != '\0'; at++) {
        lines += *at == '\n' ? 1 : 0;
    }
    e->headers = must_have(calloc(lines, sizeof *e->headers));
    e->seen.headers = e->headers;
    char *line = e->lines;
    char *next = cut_line(line);
    parse_request_line(e, line);
    while (*next != '\r' && !e->unreadable) {
        line = next;
        next = cut_line(line);
        parse_header(e, line);
    }
    if (!e->unreadable) {
        find_framing(e);
        check_headers(e, port);
    }
}

/* False if the peer is gone without a word. */
static bool read_head(connection *c, seen_entry *e) {
    size_t len = 0;
    while ((len = head_len(&c->in, e)) == 0) {
        if (receive_more(c)) {
            continue;
        }
        if (c->in.len == 0) {
            return false;
        }
        blame_framing(e, 400, "the connection ended within a head");
        len = c->in.len;
        break;
    }
    e->head = copy_bytes(c->in.data, len);
    text_drop(&c->in, len);
    e->seen.method = "";
    e->seen.target = "";
    e->seen.head = e->head;
    if (!e->unreadable) {
        parse_head(e, c->owner->roles[c->role].port);
    }
    return true;
}

/* Moves exactly that many received bytes; false if the peer ends before. */
static bool take(connection *c, text *out, size_t len) {
    while (len > 0) {
        if (c->in.len == 0 && !receive_more(c)) {
            return false;
        }
        size_t part = c->in.len < len ? c->in.len : len;
        text_add(out, c->in.data, part);
        text_drop(&c->in, part);
        len -= part;
    }
    return true;
}

/* A line with its end; shorter than that only if it would get too long. */
static bool take_line(connection *c, text *line) {
    text_clear(line);
    while (line->len < MAX_LINE && !(line->len > 0 && line->data[line->len - 1] == '\n')) {
        if (!take(c, line, 1)) {
            return false;
        }
    }
    return true;
}

static bool parse_chunk_size(const text *line, size_t *size) {
    *size = 0;
    size_t digits = 0;
    for (; digits < line->len && digits < 8 && hex_value(line->data[digits]) >= 0; digits++) {
        *size = *size * 16 + (size_t)hex_value(line->data[digits]);
    }
    return digits > 0 && line->len == digits + 2 && line->data[digits] == '\r' && line->data[digits + 1] == '\n';
}

/* One chunk; *last once it was the empty one. */
static bool take_chunk(connection *c, seen_entry *e, text *line, bool *last) {
    size_t size = 0;
    if (!take_line(c, line)) {
        return false;
    }
    if (!parse_chunk_size(line, &size)) {
        blame_framing(e, 400, "the size of a chunk is not a hexadecimal number and CRLF");
        return true;
    }
    if (size > MAX_BODY - e->body.len) {
        blame_framing(e, 413, "the body is too long");
        return true;
    }
    *last = size == 0;
    text_clear(line);
    if (!take(c, &e->body, size) || !take(c, line, 2)) {
        return false;
    }
    if (!text_is(line, "\r\n")) {
        blame_framing(e, 400, "a chunk does not end with CRLF, or the last one has trailers");
    }
    return true;
}

/* False if the peer is gone before the end. */
static bool read_body(connection *c, seen_entry *e) {
    if (!e->chunked) {
        return take(c, &e->body, e->content_length);
    }
    text line = {0};
    bool last = false;
    bool there = true;
    while (there && !last && !e->unreadable) {
        there = take_chunk(c, e, &line, &last);
    }
    text_free(&line);
    return there;
}

/* Keeps the request where fake_request finds it. */
static void record(connection *c, seen_entry *e) {
    fake *f = c->owner;
    role_state *r = &f->roles[c->role];
    if (c->secure) {
        (void)snprintf(e->tls, sizeof e->tls, "%s", mbedtls_ssl_get_version(&c->tls));
    }
    (void)snprintf(e->sni, sizeof e->sni, "%s", c->sni);
    text_add(&e->body, "", 0);
    e->seen.body = e->body.data;
    e->seen.body_len = e->body.len;
    e->seen.connection = c->number;
    e->seen.tls = e->tls;
    e->seen.sni = e->sni;
    lock(f);
    e->seen.at_ms = now_ms() - f->started_ms;
    if (!f->counts_only) {
        if (r->entry_count == r->entry_capacity) {
            r->entry_capacity = r->entry_capacity * 2 + 16;
            r->entries = must_have(realloc(r->entries, r->entry_capacity * sizeof(seen_entry *)));
        }
        r->entries[r->entry_count++] = e;
    }
    r->seen_count++;
    (void)pthread_cond_broadcast(&f->changed);
    unlock(f);
}

/* ------------------------------------------------------------------------------------------------ writing replies */

/* A default answer before it is framed. */
typedef struct answer {
    int status;
    bool stream;
    text headers; /* lines, each with its CRLF */
    text body;
} answer;

static void answer_free(answer *a) {
    text_free(&a->headers);
    text_free(&a->body);
}

static void add_header(answer *a, const char *name, const char *value) {
    text_printf(&a->headers, "%s: %s\r\n", name, value);
}

static const char *usual_phrase(int status) {
    static const struct {
        int status;
        const char *phrase;
    } phrases[] = {
        {100, "Continue"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {422, "Unprocessable Content"},
        {424, "Failed Dependency"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < COUNT(phrases); i++) {
        if (phrases[i].status == status) {
            return phrases[i].phrase;
        }
    }
    return "Unknown";
}

/* Where the blank line ends that ends this many events. */
static size_t after_events(const char *body, size_t len, size_t at, size_t events) {
    while (at < len && events > 0) {
        size_t line = at;
        while (at < len && body[at] != '\n' && body[at] != '\r') {
            at++;
        }
        events -= at == line ? 1 : 0;
        bool crlf = len - at > 1 && body[at] == '\r' && body[at + 1] == '\n';
        at += crlf ? 2 : at < len ? 1 : 0;
    }
    return at;
}

static size_t piece_end(const fake_reply *shape, const char *body, size_t len, size_t at) {
    size_t size = at == 0 && shape->first_chunk > 0 ? shape->first_chunk : shape->chunk_size;
    if (size > 0) {
        return len - at < size ? len : at + size;
    }
    return shape->events_per_chunk > 0 ? after_events(body, len, at, shape->events_per_chunk) : len;
}

static void take_in_hand(connection *c) {
    fake *f = c->owner;
    role_state *r = &f->roles[c->role];
    lock(f);
    c->in_hand = true;
    c->status = 0;
    r->active++;
    r->most_active = r->active > r->most_active ? r->active : r->most_active;
    unlock(f);
}

static void log_answer(connection *c, const seen_entry *e) {
    fake *f = c->owner;
    text line = {0};
    text_printf(&line, "{\"at_ms\":%ld,\"role\":\"%s\",\"connection\":%u,\"tls\":\"%s\",\"status\":%d,\"method\":",
                e->seen.at_ms, role_names[c->role], c->number, e->tls, c->status);
    json_quote_string(&line, e->seen.method);
    text_puts(&line, ",\"target\":");
    json_quote_string(&line, e->seen.target);
    text_puts(&line, ",\"headers\":[");
    for (size_t i = 0; i < e->seen.header_count; i++) {
        text header = {0};
        text_printf(&header, "%s: %s", e->headers[i].name, e->headers[i].value);
        text_puts(&line, i > 0 ? "," : "");
        json_quote(&line, header.data, header.len);
        text_free(&header);
    }
    text_printf(&line, "],\"body_len\":%zu,\"body\":", e->body.len);
    json_quote(&line, e->body.data, e->body.len < MAX_LOGGED_BODY ? e->body.len : MAX_LOGGED_BODY);
    text_printf(&line, ",\"took_ms\":%ld}\n", now_ms() - f->started_ms - e->seen.at_ms);
    lock(f);
    (void)fwrite(line.data, 1, line.len, f->log);
    (void)fflush(f->log);
    unlock(f);
    text_free(&line);
}

/* The request leaves the hand, and is logged. That comes before the last byte of the answer, so that whoever has seen
 * the answer sees this too. */
static void settle(connection *c, const seen_entry *e, bool goes_on) {
    fake *f = c->owner;
    if (!c->in_hand) {
        return;
    }
    if (f->log != NULL && c->status != 0) {
        log_answer(c, e);
    }
    lock(f);
    c->in_hand = false;
    c->idle = goes_on;
    f->roles[c->role].active--;
    unlock(f);
}

/* A reply on its way out. */
typedef struct outgoing {
    connection *c;
    const seen_entry *entry;
    bool goes_on; /* the connection, afterwards */
    const fake_reply *shape;
    const char *body;
    size_t len;
    bool chunked;
    text bytes; /* of the next write */
} outgoing;

static bool flush_bytes(outgoing *o) {
    bool sent = send_all(o->c, o->bytes.data, o->bytes.len);
    text_clear(&o->bytes);
    return sent;
}

/* The same, but settles the request before the last record of it. */
static bool flush_last(outgoing *o) {
    size_t before = o->bytes.len > 0 ? (o->bytes.len - 1) / READ_SIZE * READ_SIZE : 0;
    if (!send_all(o->c, o->bytes.data, before)) {
        return false;
    }
    settle(o->c, o->entry, o->goes_on);
    text_drop(&o->bytes, before);
    return flush_bytes(o);
}

/* The piece, which a cut may end early. */
static void add_piece(outgoing *o, size_t at, size_t end, size_t limit) {
    if (o->chunked) {
        const char *extensions = o->shape->chunk_extensions ? ";fake=1;quoted=\"a \\\"b\\\"; c\"" : "";
        text_printf(&o->bytes, "%zx%s\r\n", end - at, extensions);
    }
    text_add(&o->bytes, o->body + at, (end < limit ? end : limit) - at);
    if (o->chunked && end <= limit) {
        text_puts(&o->bytes, "\r\n");
    }
}

static void add_last_chunk(outgoing *o) {
    const char *extensions = o->shape->chunk_extensions ? ";last" : "";
    const char *trailers = o->shape->trailers ? "x-fake-trailer: 1\r\nx-fake-other: two words\r\n" : "";
    text_printf(&o->bytes, "0%s\r\n%s\r\n", extensions, trailers);
}

/* Sends what waits in o->bytes, which is the head, and the body. */
static bool send_pieces(outgoing *o) {
    const fake_reply *shape = o->shape;
    bool cut = shape->cut != FAKE_NO_CUT;
    size_t limit = cut && shape->cut_after < o->len ? shape->cut_after : o->len;
    bool one = limit == 0 || piece_end(shape, o->body, o->len, 0) >= limit;
    if (!one && !shape->glue_head && !flush_bytes(o)) {
        return false;
    }
    for (size_t at = 0; at < limit;) {
        size_t end = piece_end(shape, o->body, o->len, at);
        if (at > 0 && shape->delay_between_chunks_ms > 0 && !stay(o->c, shape->delay_between_chunks_ms)) {
            return false;
        }
        add_piece(o, at, end, limit);
        at = end;
        if (at < limit && !flush_bytes(o)) {
            return false;
        }
    }
    if (o->chunked && !cut) {
        add_last_chunk(o);
    }
    return flush_last(o);
}

/* What comes after the last byte that is sent. */
static void cut_connection(connection *c, const fake_reply *shape) {
    switch (shape->cut) {
    case FAKE_CUT_FIN:
        c->ending = END_FIN;
        break;
    case FAKE_CUT_RESET:
        c->ending = END_RESET;
        break;
    case FAKE_CUT_STALL:
        (void)stay(c, -1);
        break;
    default:
        break;
    }
    if (shape->early) {
        struct pollfd nothing = {.fd = c->fd};
        (void)poll(&nothing, 1, EARLY_PAUSE_MS);
    }
}

static bool says_close(const char *headers) {
    for (const char *line = headers; line != NULL && *line != '\0';) {
        if (strncasecmp(line, "connection:", 11) == 0) {
            const char *value = line + 11 + strspn(line + 11, " \t");
            return strncasecmp(value, "close", 5) == 0;
        }
        const char *end = strchr(line, '\n');
        line = end != NULL ? end + 1 : NULL;
    }
    return false;
}

/* The head, framed; says whether the body is to be chunked. */
static bool add_head(text *out, const fake_reply *reply, size_t body_len) {
    int status = reply->status != 0 ? reply->status : 200;
    const char *version = reply->framing == FAKE_HTTP10 ? "HTTP/1.0" : "HTTP/1.1";
    text_printf(out, "%s %d %s\r\n", version, status, reply->reason != NULL ? reply->reason : usual_phrase(status));
    text_puts(out, reply->headers != NULL ? reply->headers : "");
    bool bodyless = status < 200 || status == 204 || status == 304;
    bool chunked = reply->framing == FAKE_CHUNKED && !bodyless;
    if (chunked) {
        text_puts(out, "Transfer-Encoding: chunked\r\n");
    } else if (!bodyless && (reply->framing == FAKE_BY_DEFAULT || reply->framing == FAKE_LENGTH)) {
        text_printf(out, "Content-Length: %zu\r\n", body_len);
    }
    text_puts(out, "\r\n");
    return chunked;
}

static bool ends_connection(const seen_entry *e, const fake_reply *reply) {
    bool by_framing = reply->framing == FAKE_UNTIL_CLOSE || reply->framing == FAKE_HTTP10;
    return e->unreadable || reply->cut != FAKE_NO_CUT || reply->close_after || reply->early ||
           says_close(strchr(e->head, '\n') + 1) || (reply->raw == NULL && (by_framing || says_close(reply->headers)));
}

/* Sends a whole reply; true if the connection goes on. */
static bool send_reply(connection *c, const seen_entry *e, const fake_reply *reply) {
    outgoing o = {.c = c, .entry = e, .shape = reply, .body = reply->body, .len = reply->body_len};
    bool sent = true;
    o.goes_on = !ends_connection(e, reply);
    if (reply->interim_100) {
        text_puts(&o.bytes, "HTTP/1.1 100 Continue\r\n\r\n");
        sent = flush_bytes(&o);
    }
    if (reply->raw != NULL) {
        o.body = reply->raw;
        o.len = reply->raw_len;
    } else {
        o.chunked = add_head(&o.bytes, reply, o.len);
        if (strcmp(e->seen.method, "HEAD") == 0) {
            o.chunked = false;
            o.len = 0;
        }
    }
    sent = sent && send_pieces(&o);
    text_free(&o.bytes);
    if (sent) {
        cut_connection(c, reply);
    }
    return sent && o.goes_on;
}

static void change_case(text *headers, int which) {
    bool in_name = true;
    for (size_t i = 0; i < headers->len; i++) {
        char *c = &headers->data[i];
        in_name = *c == '\n' || (in_name && *c != ':');
        if (in_name && which == 1 && *c >= 'A' && *c <= 'Z') {
            *c = (char)(*c + 32);
        } else if (in_name && which == 2 && *c >= 'a' && *c <= 'z') {
            *c = (char)(*c - 32);
        }
    }
}

static bool has_shape(const fake_reply *reply) {
    return reply->first_chunk > 0 || reply->chunk_size > 0 || reply->events_per_chunk > 0;
}

/* Sends a default answer in the shape that the settings give it, or a script with `pass`. */
static bool send_answer(connection *c, const seen_entry *e, answer *a, const fake_reply *scripted) {
    fake *f = c->owner;
    fake_reply reply = scripted != NULL ? *scripted : (fake_reply){0};
    if (a->stream && !has_shape(&reply)) {
        reply.chunk_size = (size_t)setting(f, c->role, FAKE_STREAM_BYTES);
        reply.events_per_chunk = reply.chunk_size > 0 ? 0 : (size_t)setting(f, c->role, FAKE_STREAM_EVENTS);
    }
    if (a->stream && reply.delay_between_chunks_ms == 0) {
        reply.delay_between_chunks_ms = setting(f, c->role, FAKE_STREAM_DELAY_MS);
    }
    if (a->stream && reply.framing == FAKE_BY_DEFAULT) {
        reply.framing = FAKE_CHUNKED;
    }
    int closing = setting(f, c->role, FAKE_CLOSING);
    if (closing == 1 || e->unreadable || says_close(strchr(e->head, '\n') + 1)) {
        add_header(a, "Connection", "close");
    }
    reply.close_after = reply.close_after || closing == 2;
    change_case(&a->headers, setting(f, c->role, FAKE_HEADER_CASE));
    reply.status = a->status;
    reply.reason = NULL;
    reply.headers = a->headers.data;
    reply.body = a->body.data;
    reply.body_len = a->body.len;
    reply.raw = NULL;
    return stay(c, setting(f, c->role, FAKE_DELAY_MS)) && send_reply(c, e, &reply);
}

/* ------------------------------------------------------------------------------------------------ answers in general
 */

static void add_date(answer *a) {
    static const char *const days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    time_t now = time(NULL);
    struct tm utc;
    (void)gmtime_r(&now, &utc);
    text_printf(&a->headers, "Date: %s, %02d %s %d %02d:%02d:%02d GMT\r\n", days[utc.tm_wday], utc.tm_mday,
                months[utc.tm_mon], utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

/* In the form that Entra writes into its errors. */
static void add_timestamp(text *out) {
    time_t now = time(NULL);
    struct tm utc;
    (void)gmtime_r(&now, &utc);
    text_printf(out, "%d-%02d-%02d %02d:%02d:%02dZ", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour,
                utc.tm_min, utc.tm_sec);
}

static unsigned next_number(fake *f) {
    lock(f);
    unsigned number = ++f->answer_count;
    unlock(f);
    return number;
}

static void add_id_header(answer *a, const char *name, unsigned group, unsigned number) {
    text_printf(&a->headers, "%s: %08x-0000-4000-8000-%012x\r\n", name, group, number);
}

/* What a request asks for: the path, and the query without its question mark. */
typedef struct place {
    const char *path;
    size_t path_len;
    const char *query;
    size_t query_len;
} place;

static place place_of(const fake_seen *seen) {
    size_t path_len = strcspn(seen->target, "?");
    const char *query = seen->target + path_len + (seen->target[path_len] == '?' ? 1 : 0);
    return (place){.path = seen->target, .path_len = path_len, .query = query, .query_len = strlen(query)};
}

static bool path_is(const place *p, const char *path) {
    return p->path_len == strlen(path) && memcmp(p->path, path, p->path_len) == 0;
}

static bool is_form_char(char c) {
    return is_letter(c) || is_digit(c) || (c != '\0' && strchr("-._~*+%", c) != NULL);
}

/* NAME=VALUE with nothing in it that should have been encoded. */
static bool is_form_field(const char *field, size_t len, size_t *name_len) {
    const char *equals = memchr(field, '=', len);
    *name_len = equals != NULL ? (size_t)(equals - field) : 0;
    for (size_t i = 0; i < len; i++) {
        if (i != *name_len && !is_form_char(field[i])) {
            return false;
        }
        if (field[i] == '%' && (len - i < 3 || hex_value(field[i + 1]) < 0 || hex_value(field[i + 2]) < 0)) {
            return false;
        }
    }
    return *name_len > 0;
}

static bool is_one_of(const char *name, size_t len, const char *const *names) {
    for (; *names != NULL; names++) {
        if (strlen(*names) == len && memcmp(*names, name, len) == 0) {
            return true;
        }
    }
    return false;
}

/* NULL, or what is wrong with a form or a query; `names` ends with NULL and may itself be NULL for any name. */
static const char *form_problem(const char *form, size_t len, const char *const *names) {
    for (size_t at = 0; at < len;) {
        const char *amp = memchr(form + at, '&', len - at);
        size_t end = amp != NULL ? (size_t)(amp - form) : len;
        size_t name_len = 0;
        if (!is_form_field(form + at, end - at, &name_len) || end + 1 == len) {
            return "a parameter is not an encoded NAME=VALUE";
        }
        if (names != NULL && !is_one_of(form + at, name_len, names)) {
            return "a parameter is unknown";
        }
        for (size_t before = 0; before < at;) {
            if (memcmp(form + before, form + at, name_len + 1) == 0) {
                return "a parameter is given twice";
            }
            before = (size_t)((const char *)memchr(form + before, '&', len - before) - form) + 1;
        }
        at = end + 1;
    }
    return NULL;
}

static bool has_content_type(const seen_entry *e, const char *type) {
    const char *given = fake_seen_header(&e->seen, "content-type");
    size_t len = strlen(type);
    if (given == NULL || strncasecmp(given, type, len) != 0) {
        return false;
    }
    given += len + strspn(given + len, " ");
    return *given == '\0' || *given == ';';
}

/* ------------------------------------------------------------------------------------------------ tokens */

static const char *const known_resources[] = {
    "https://cognitiveservices.azure.com",
    "https://ai.azure.com",
    "https://cognitiveservices.azure.us",
    "https://ai.azure.us",
    "https://management.azure.com",
    "https://vault.azure.net",
    "https://storage.azure.com",
    "https://graph.microsoft.com",
    "https://search.azure.com",
};

/* NULL if there is no such resource. One slash at the end means nothing. */
static const char *find_resource(const char *name, size_t len) {
    len -= len > 0 && name[len - 1] == '/' ? 1 : 0;
    for (size_t i = 0; i < COUNT(known_resources); i++) {
        if (strlen(known_resources[i]) == len && memcmp(known_resources[i], name, len) == 0) {
            return known_resources[i];
        }
    }
    return NULL;
}

typedef struct issued {
    char string[64];
    long seconds_left;
} issued;

static token *find_valid_token(fake *f, fake_role issuer, const char *client_id, const char *audience) {
    for (token *t = f->tokens; t != NULL; t = t->next) {
        if (t->issuer == issuer && t->expires_ms > now_ms() && strcmp(t->client_id, client_id) == 0 &&
            strcmp(t->audience, audience) == 0) {
            return t;
        }
    }
    return NULL;
}

static issued issue_token(fake *f, fake_role issuer, const char *client_id, const char *audience) {
    lock(f);
    const int *settings = f->roles[issuer].settings;
    token *t = settings[FAKE_TOKEN_REUSE] == 1 ? find_valid_token(f, issuer, client_id, audience) : NULL;
    if (t == NULL) {
        t = must_have(calloc(1, sizeof *t));
        unsigned number = ++f->token_count;
        uint32_t salt = hash_bytes(client_id, strlen(client_id)) ^ hash_bytes(audience, strlen(audience)) ^ number;
        (void)snprintf(t->string, sizeof t->string, "fake.%s.%u.%08x", role_names[issuer], number, (unsigned)salt);
        (void)snprintf(t->audience, sizeof t->audience, "%s", audience);
        (void)snprintf(t->client_id, sizeof t->client_id, "%s", client_id);
        t->issuer = issuer;
        t->expires_ms = now_ms() + (long)settings[FAKE_TOKEN_LIFETIME_S] * 1000;
        t->next = f->tokens;
        f->tokens = t;
    }
    issued result = {.seconds_left = (t->expires_ms - now_ms() + 999) / 1000};
    memcpy(result.string, t->string, sizeof result.string);
    unlock(f);
    return result;
}

/* NULL and the identity, or what is wrong with the token. */
static const char *token_problem(fake *f, const char *string, char *client_id, size_t size) {
    const char *problem = "Access token is invalid: it was not issued here.";
    lock(f);
    for (const token *t = f->tokens; t != NULL; t = t->next) {
        if (strcmp(t->string, string) != 0) {
            continue;
        }
        (void)snprintf(client_id, size, "%s", t->client_id);
        bool fits = strcmp(t->audience, "https://cognitiveservices.azure.com") == 0 ||
                    strcmp(t->audience, "https://ai.azure.com") == 0;
        problem = !fits                       ? "Access token has the wrong audience: it has to be "
                                                "https://cognitiveservices.azure.com or https://ai.azure.com."
                  : t->revoked                ? "Access token is invalid: it was revoked."
                  : t->expires_ms <= now_ms() ? "Access token is expired."
                                              : NULL;
        break;
    }
    unlock(f);
    return problem;
}

/* ------------------------------------------------------------------------------------------------ Entra ID */

static void entra_head(fake *f, const seen_entry *e, answer *a, int status) {
    a->status = status;
    add_header(a, "Cache-Control", "no-store, no-cache");
    add_header(a, "Pragma", "no-cache");
    add_header(a, "Content-Type", "application/json; charset=utf-8");
    add_id_header(a, "x-ms-request-id", 0xe0, next_number(f));
    const char *id = fake_seen_header(&e->seen, "client-request-id");
    if (id != NULL) {
        add_header(a, "client-request-id", id);
    }
    add_date(a);
}

static void entra_refuse(fake *f, const seen_entry *e, answer *a, int status, const char *error, int number,
                         const char *message) {
    entra_head(f, e, a, status);
    text description = {0};
    text_printf(&description,
                "AADSTS%d: %s\r\nTrace ID: trace-%d\r\nCorrelation ID: correlation-%d\r\nTimestamp: ", number, message,
                number, number);
    add_timestamp(&description);
    text_printf(&a->body, "{\"error\":\"%s\",\"error_description\":", error);
    json_quote(&a->body, description.data, description.len);
    text_printf(&a->body, ",\"error_codes\":[%d],\"timestamp\":\"", number);
    add_timestamp(&a->body);
    text_printf(&a->body,
                "\",\"trace_id\":\"trace-%d\",\"correlation_id\":\"correlation-%d\","
                "\"error_uri\":\"https://login.microsoftonline.test/error?code=%d\"}",
                number, number, number);
    text_free(&description);
}

/* A field that has to be there; false after refusing. */
static bool entra_field(fake *f, const seen_entry *e, answer *a, const char *name, text *out) {
    if (form_find(e->body.data, e->body.len, name, out) == 1 && out->len > 0) {
        return true;
    }
    text message = {0};
    text_printf(&message, "The request body must contain the following parameter: '%s'.", name);
    entra_refuse(f, e, a, 400, "invalid_request", 900144, message.data);
    text_free(&message);
    return false;
}

static bool entra_grant(fake *f, const seen_entry *e, answer *a) {
    text value = {0};
    bool ok = entra_field(f, e, a, "grant_type", &value);
    if (ok && !text_is(&value, "client_credentials")) {
        ok = false;
        entra_refuse(f, e, a, 400, "unsupported_grant_type", 70003, "The grant type is not supported.");
    }
    text_free(&value);
    return ok;
}

/* NULL after refusing. */
static const char *entra_client(fake *f, const seen_entry *e, answer *a) {
    text value = {0};
    const char *client_id = NULL;
    if (entra_field(f, e, a, "client_id", &value)) {
        client_id = text_is(&value, FAKE_CLIENT_ID)             ? FAKE_CLIENT_ID
                    : text_is(&value, FAKE_POWERLESS_CLIENT_ID) ? FAKE_POWERLESS_CLIENT_ID
                                                                : NULL;
        if (client_id == NULL) {
            entra_refuse(f, e, a, 400, "unauthorized_client", 700016, "The application was not found in this tenant.");
        }
    }
    text_free(&value);
    return client_id;
}

static bool entra_secret(fake *f, const seen_entry *e, answer *a) {
    text value = {0};
    bool given = form_find(e->body.data, e->body.len, "client_secret", &value) == 1 && value.len > 0;
    bool right = given && text_is(&value, FAKE_CLIENT_SECRET);
    text_free(&value);
    if (!given) {
        entra_refuse(f, e, a, 401, "invalid_client", 7000218,
                     "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.");
    } else if (!right) {
        entra_refuse(f, e, a, 401, "invalid_client", 7000215,
                     "Invalid client secret provided. Ensure the secret being sent in the request is the client secret "
                     "value, not the client secret ID.");
    }
    return right;
}

/* NULL after refusing. */
static const char *entra_scope(fake *f, const seen_entry *e, answer *a) {
    static const char suffix[] = "/.default";
    const size_t suffix_len = sizeof suffix - 1;
    text value = {0};
    const char *resource = NULL;
    if (!entra_field(f, e, a, "scope", &value)) {
        text_free(&value);
        return NULL;
    }
    bool has_suffix = value.len > suffix_len && strcmp(value.data + value.len - suffix_len, suffix) == 0;
    if (strchr(value.data, ' ') != NULL) {
        entra_refuse(f, e, a, 400, "invalid_scope", 700022, "The scope names more than one resource.");
    } else if (!has_suffix) {
        entra_refuse(f, e, a, 400, "invalid_scope", 70011, "The scope is not valid: it has to end with /.default.");
    } else {
        resource = find_resource(value.data, value.len - suffix_len);
        if (resource == NULL) {
            entra_refuse(f, e, a, 400, "invalid_resource", 500011,
                         "The resource principal was not found in the tenant.");
        }
    }
    text_free(&value);
    return resource;
}

static bool entra_claims(fake *f, const seen_entry *e, answer *a) {
    text value = {0};
    json j = {0};
    bool ok = true;
    if (form_find(e->body.data, e->body.len, "claims", &value) == 1) {
        ok = json_parse(&j, value.data, value.len) && json_is(&j, 0, JSON_OBJECT);
    }
    if (!ok) {
        entra_refuse(f, e, a, 400, "invalid_request", 900144, "The claims are not a JSON object.");
    }
    json_free(&j);
    text_free(&value);
    return ok;
}

/* What libraries ask for before their first token. */
static bool entra_discovery(fake *f, const seen_entry *e, answer *a) {
    const char *scheme = f->roles[FAKE_ENTRA].secure ? "https" : "http";
    const char *host = fake_seen_header(&e->seen, "host");
    if (e->problem != NULL || strcmp(e->seen.method, "GET") != 0 ||
        strcmp(e->seen.target, "/" FAKE_TENANT_ID "/v2.0/.well-known/openid-configuration") != 0) {
        return false;
    }
    entra_head(f, e, a, 200);
    text_printf(&a->body, "{\"issuer\":\"%s://%s/%s/v2.0\"", scheme, host, FAKE_TENANT_ID);
    text_printf(&a->body, ",\"token_endpoint\":\"%s://%s/%s/oauth2/v2.0/token\"", scheme, host, FAKE_TENANT_ID);
    text_printf(&a->body, ",\"authorization_endpoint\":\"%s://%s/%s/oauth2/v2.0/authorize\"", scheme, host,
                FAKE_TENANT_ID);
    text_printf(&a->body, ",\"jwks_uri\":\"%s://%s/%s/discovery/v2.0/keys\"}", scheme, host, FAKE_TENANT_ID);
    return true;
}

/* Where any tenant has its tokens. */
static bool is_token_path(const place *p) {
    static const char tail[] = "/oauth2/v2.0/token";
    size_t tenant_len = p->path_len > 0 ? 1 + strcspn(p->path + 1, "/?") : 0;
    return tenant_len > 1 && p->path_len - tenant_len == sizeof tail - 1 &&
           memcmp(p->path + tenant_len, tail, sizeof tail - 1) == 0;
}

/* What is wrong with the request before its fields are looked at; false after refusing. */
static bool entra_request(fake *f, const seen_entry *e, answer *a) {
    static const char *const fields[] = {"grant_type", "client_id", "client_secret", "scope", "claims",
                                         /* ... and what the official libraries add */
                                         "client_info", "client-request-id", "x-client-SKU", "x-client-VER",
                                         "x-client-OS", "x-client-CPU", "x-client-current-telemetry",
                                         "x-client-last-telemetry", "x-ms-lib-capability", NULL};
    /* The same id in the query, which the official library for node adds. */
    static const char *const parameters[] = {"client-request-id", NULL};
    place p = place_of(&e->seen);
    bool right_path = path_is(&p, "/" FAKE_TENANT_ID "/oauth2/v2.0/token");
    const char *problem = form_problem(e->body.data, e->body.len, fields);
    if (e->problem != NULL) {
        entra_refuse(f, e, a, e->problem_status, "invalid_request", 90013, e->problem);
    } else if (!right_path && !is_token_path(&p)) {
        entra_refuse(f, e, a, 404, "invalid_request", 90014, "There is nothing at this path.");
    } else if (!right_path) {
        entra_refuse(f, e, a, 400, "invalid_request", 90002, "The tenant was not found.");
    } else if (strcmp(e->seen.method, "POST") != 0 || form_problem(p.query, p.query_len, parameters) != NULL) {
        entra_refuse(f, e, a, 400, "invalid_request", 900561,
                     "The endpoint only accepts POST requests without a query of other parameters.");
    } else if (!has_content_type(e, "application/x-www-form-urlencoded") || e->chunked) {
        entra_refuse(f, e, a, 400, "invalid_request", 90014,
                     "The body has to be application/x-www-form-urlencoded and have a Content-Length.");
    } else if (fake_seen_header(&e->seen, "authorization") != NULL || fake_seen_header(&e->seen, "api-key") != NULL) {
        entra_refuse(f, e, a, 400, "invalid_request", 90013, "Secrets of the service do not belong here.");
    } else if (problem != NULL) {
        entra_refuse(f, e, a, 400, "invalid_request", 90013, problem);
    } else {
        return true;
    }
    return false;
}

static void answer_entra(fake *f, const seen_entry *e, answer *a) {
    if (entra_discovery(f, e, a) || !entra_request(f, e, a) || !entra_grant(f, e, a)) {
        return;
    }
    const char *client_id = entra_client(f, e, a);
    if (client_id == NULL || !entra_secret(f, e, a)) {
        return;
    }
    const char *resource = entra_scope(f, e, a);
    if (resource == NULL || !entra_claims(f, e, a)) {
        return;
    }
    issued fresh = issue_token(f, FAKE_ENTRA, client_id, resource);
    int refresh = setting(f, FAKE_ENTRA, FAKE_TOKEN_REFRESH_S);
    entra_head(f, e, a, 200);
    text_printf(&a->body, "{\"token_type\":\"Bearer\",\"expires_in\":%ld,\"ext_expires_in\":%ld,", fresh.seconds_left,
                fresh.seconds_left);
    if (refresh != 0) {
        text_printf(&a->body, "\"refresh_in\":%d,", refresh);
    }
    text_printf(&a->body, "\"access_token\":\"%s\"}", fresh.string);
}

/* ------------------------------------------------------------------------------------------------ metadata service */

static void imds_head(fake *f, answer *a, int status) {
    a->status = status;
    add_header(a, "Content-Type", "application/json; charset=utf-8");
    add_header(a, "Server", "IMDS/150.870.65.1854");
    add_id_header(a, "x-ms-request-id", 0x1d, next_number(f));
    add_date(a);
}

static void imds_refuse(fake *f, answer *a, int status, const char *error, const char *description) {
    imds_head(f, a, status);
    text_printf(&a->body, "{\"error\":\"%s\",\"error_description\":", error);
    json_quote_string(&a->body, description);
    text_puts(&a->body, "}");
}

/* False after refusing. */
static bool imds_version(fake *f, const place *p, answer *a) {
    static const char *const versions[] = {"2018-02-01", "2019-08-01", "2020-06-01", "2021-02-01", NULL};
    text value = {0};
    bool ok =
        form_find(p->query, p->query_len, "api-version", &value) == 1 && is_one_of(value.data, value.len, versions);
    if (!ok) {
        imds_head(f, a, 400);
        text_printf(&a->body,
                    "{\"error\":\"Bad request. api-version %s.\",\"newest-versions\":"
                    "[\"2021-02-01\",\"2020-06-01\",\"2019-08-01\"]}",
                    value.len > 0 ? "is invalid" : "was not specified");
    }
    text_free(&value);
    return ok;
}

/* NULL after refusing. */
static const char *imds_identity(fake *f, const place *p, answer *a) {
    static const struct {
        const char *parameter;
        const char *value;
        const char *client_id;
    } identities[] = {
        {"client_id", FAKE_CLIENT_ID, FAKE_CLIENT_ID},
        {"client_id", FAKE_POWERLESS_CLIENT_ID, FAKE_POWERLESS_CLIENT_ID},
        {"object_id", FAKE_OBJECT_ID, FAKE_CLIENT_ID},
        {"msi_res_id", FAKE_RESOURCE_ID, FAKE_CLIENT_ID},
    };
    static const char *const selectors[] = {"client_id", "object_id", "msi_res_id"};
    text value = {0};
    int given = 0;
    for (size_t i = 0; i < COUNT(selectors); i++) {
        given += form_find(p->query, p->query_len, selectors[i], &value);
    }
    const char *client_id = given == 0 ? FAKE_CLIENT_ID : NULL;
    for (size_t i = 0; i < COUNT(identities); i++) {
        if (given == 1 && form_find(p->query, p->query_len, identities[i].parameter, &value) == 1 &&
            text_is(&value, identities[i].value)) {
            client_id = identities[i].client_id;
        }
    }
    text_free(&value);
    if (given > 1) {
        imds_refuse(f, a, 400, "invalid_request", "Only one of client_id, object_id and msi_res_id may be given");
    } else if (client_id == NULL) {
        imds_refuse(f, a, 400, "invalid_request", "Identity not found");
    }
    return client_id;
}

/* NULL after refusing. */
static const char *imds_resource(fake *f, const place *p, answer *a) {
    text value = {0};
    const char *resource = NULL;
    if (form_find(p->query, p->query_len, "resource", &value) != 1 || value.len == 0) {
        imds_refuse(f, a, 400, "invalid_request", "Required query variable 'resource' is missing");
    } else {
        resource = find_resource(value.data, value.len);
        if (resource == NULL) {
            imds_refuse(f, a, 400, "invalid_resource",
                        "AADSTS500011: The resource principal was not found in the tenant.");
        }
    }
    text_free(&value);
    return resource;
}

/* MSAL for node puts a slash behind it when AZURE_POD_IDENTITY_AUTHORITY_HOST is set. */
static bool is_imds_path(const place *p) {
    return path_is(p, "/metadata/identity/oauth2/token") || path_is(p, "/metadata/identity/oauth2/token/");
}

/* False after refusing. */
static bool imds_request(fake *f, const seen_entry *e, const place *p, answer *a) {
    static const char *const parameters[] = {"api-version", "resource", "client_id", "object_id", "msi_res_id", NULL};
    const char *metadata = fake_seen_header(&e->seen, "metadata");
    const char *problem = form_problem(p->query, p->query_len, parameters);
    if (e->problem != NULL) {
        imds_refuse(f, a, e->problem_status, "invalid_request", e->problem);
    } else if (!is_imds_path(p)) {
        imds_refuse(f, a, 404, "not_found", "There is nothing at this path");
    } else if (strcmp(e->seen.method, "GET") != 0) {
        imds_refuse(f, a, 405, "method_not_allowed", "Only GET is allowed");
    } else if (metadata == NULL || strcmp(metadata, "true") != 0) {
        imds_refuse(f, a, 400, "bad_request_102", "Required metadata header not specified");
    } else if (fake_seen_header(&e->seen, "x-forwarded-for") != NULL) {
        imds_refuse(f, a, 400, "bad_request_102", "Requests that were forwarded are refused");
    } else if (fake_seen_header(&e->seen, "authorization") != NULL || fake_seen_header(&e->seen, "api-key") != NULL) {
        imds_refuse(f, a, 400, "invalid_request", "Secrets of the service do not belong here");
    } else if (problem != NULL) {
        imds_refuse(f, a, 400, "invalid_request", problem);
    } else {
        return true;
    }
    return false;
}

static void answer_imds(fake *f, const seen_entry *e, answer *a) {
    place p = place_of(&e->seen);
    if (!imds_request(f, e, &p, a) || !imds_version(f, &p, a)) {
        return;
    }
    const char *client_id = imds_identity(f, &p, a);
    const char *resource = client_id != NULL ? imds_resource(f, &p, a) : NULL;
    if (resource == NULL) {
        return;
    }
    issued fresh = issue_token(f, FAKE_IMDS, client_id, resource);
    int refresh = setting(f, FAKE_IMDS, FAKE_TOKEN_REFRESH_S);
    long now = (long)time(NULL);
    imds_head(f, a, 200);
    text_printf(&a->body,
                "{\"access_token\":\"%s\",\"client_id\":\"%s\",\"expires_in\":\"%ld\",\"expires_on\":\"%ld\",",
                fresh.string, client_id, fresh.seconds_left, now + fresh.seconds_left);
    if (refresh != 0) {
        text_printf(&a->body, "\"refresh_in\":\"%d\",", refresh);
    }
    text_printf(&a->body,
                "\"ext_expires_in\":\"%ld\",\"not_before\":\"%ld\",\"resource\":\"%s\",\"token_type\":\"Bearer\"}",
                fresh.seconds_left, now - 300, resource);
}

/* ------------------------------------------------------------------------------------------------ service: in general
 */

static void service_head(fake *f, const seen_entry *e, answer *a, int status, const char *content_type) {
    unsigned number = next_number(f);
    a->status = status;
    add_header(a, "Content-Type", content_type);
    add_id_header(a, "apim-request-id", 0xa0, number);
    add_header(a, "Strict-Transport-Security", "max-age=31536000; includeSubDomains; preload");
    add_header(a, "x-content-type-options", "nosniff");
    add_header(a, "x-ms-region", "Sweden Central");
    const char *id = fake_seen_header(&e->seen, "x-ms-client-request-id");
    if (id != NULL) {
        add_header(a, "x-ms-client-request-id", id);
    }
    add_date(a);
}

/* What comes from behind the gateway has one id more. */
static void model_head(fake *f, const seen_entry *e, answer *a, int status, const char *content_type) {
    service_head(f, e, a, status, content_type);
    add_id_header(a, "x-request-id", 0xb0, next_number(f));
    if (status == 200) {
        add_header(a, "x-ratelimit-limit-requests", "80");
        add_header(a, "x-ratelimit-limit-tokens", "80000");
        add_header(a, "x-ratelimit-remaining-requests", "79");
        add_header(a, "x-ratelimit-remaining-tokens", "61353");
        add_header(a, "azureml-model-session", "d008-20260101000000");
    }
}

/* Shape A of the sheet: what the gateway says. */
static void service_refuse(fake *f, const seen_entry *e, answer *a, int status, const char *code, const char *message) {
    service_head(f, e, a, status, "application/json");
    text_printf(&a->body, "{\"error\":{\"code\":\"%s\",\"message\":", code);
    json_quote_string(&a->body, message);
    text_puts(&a->body, "}}");
}

/* Shape D: what it says about tokens. */
static void service_refuse_token(fake *f, const seen_entry *e, answer *a, const char *message) {
    service_head(f, e, a, 401, "application/json");
    text_puts(&a->body, "{\"statusCode\":401,\"message\":");
    json_quote_string(&a->body, message);
    text_puts(&a->body, "}");
}

typedef enum operation { OP_NONE, OP_CHAT, OP_EMBEDDINGS, OP_SPEECH, OP_FILES, OP_MODELS } operation;

typedef struct operation_info {
    const char *path;
    operation op;
    const char *method;
    bool of_deployment;
    const char *action; /* of the role that allows it */
} operation_info;

static const operation_info operations[] = {
    {"chat/completions", OP_CHAT, "POST", true, "OpenAI/deployments/chat/completions/action"},
    {"embeddings", OP_EMBEDDINGS, "POST", true, "OpenAI/deployments/embeddings/action"},
    {"audio/speech", OP_SPEECH, "POST", true, "OpenAI/deployments/audio/action"},
    {"files", OP_FILES, "POST", false, "OpenAI/files/write"},
    {"models", OP_MODELS, "GET", false, "OpenAI/models/read"},
};

typedef struct route {
    const operation_info *info; /* NULL if the path leads nowhere */
    bool v1;
    text deployment; /* of the path */
} route;

static const operation_info *find_operation(const char *path, size_t len, bool of_deployment, bool any) {
    for (size_t i = 0; i < COUNT(operations); i++) {
        if (strlen(operations[i].path) == len && memcmp(operations[i].path, path, len) == 0 &&
            (any || operations[i].of_deployment == of_deployment)) {
            return &operations[i];
        }
    }
    return NULL;
}

static bool skip_prefix(const char **at, size_t *len, const char *prefix) {
    size_t prefix_len = strlen(prefix);
    if (*len < prefix_len || memcmp(*at, prefix, prefix_len) != 0) {
        return false;
    }
    *at += prefix_len;
    *len -= prefix_len;
    return true;
}

static route find_route(const place *p) {
    route r = {0};
    const char *at = p->path;
    size_t len = p->path_len;
    if (!skip_prefix(&at, &len, "/openai/")) {
        return r;
    }
    r.v1 = skip_prefix(&at, &len, "v1/");
    if (r.v1) {
        r.info = find_operation(at, len, false, true);
    } else if (!skip_prefix(&at, &len, "deployments/")) {
        r.info = find_operation(at, len, false, false);
    } else {
        const char *slash = memchr(at, '/', len);
        size_t name_len = slash != NULL ? (size_t)(slash - at) : 0;
        if (name_len > 0 && percent_decode(at, name_len, false, &r.deployment)) {
            r.info = find_operation(slash + 1, len - name_len - 1, true, false);
        }
    }
    return r;
}

/* The token of "Authorization: Bearer <token>"; NULL if it is anything else. */
static const char *bearer_of(const char *authorization) {
    if (strncasecmp(authorization, "Bearer ", 7) != 0) {
        return NULL;
    }
    const char *string = authorization + 7;
    for (const char *at = string; *at != '\0'; at++) {
        if (!is_letter(*at) && !is_digit(*at) && strchr("-._~+/=", *at) == NULL) {
            return NULL;
        }
    }
    return *string != '\0' ? string : NULL;
}

static bool has_role(fake *f, const seen_entry *e, const operation_info *info, const char *client_id, answer *a) {
    if (strcmp(client_id, FAKE_POWERLESS_CLIENT_ID) != 0) {
        return true;
    }
    text message = {0};
    text_printf(&message,
                "The principal `%s` lacks the required data action `Microsoft.CognitiveServices/accounts/%s` to "
                "perform this operation.",
                client_id, info != NULL ? info->action : "OpenAI/read");
    service_refuse(f, e, a, 401, "PermissionDenied", message.data);
    text_free(&message);
    return false;
}

/* False after refusing. */
static bool authorize(fake *f, const seen_entry *e, const route *r, answer *a) {
    const char *key = fake_seen_header(&e->seen, "api-key");
    const char *authorization = fake_seen_header(&e->seen, "authorization");
    const char *bearer = authorization != NULL ? bearer_of(authorization) : NULL;
    if (key != NULL && authorization != NULL) {
        service_refuse(f, e, a, 400, "BadRequest", "There is both an api-key and an Authorization.");
        return false;
    }
    if (key != NULL || authorization == NULL) {
        if (key != NULL && strcmp(key, FAKE_API_KEY) == 0) {
            return true;
        }
        service_refuse(f, e, a, 401, "401",
                       "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a "
                       "valid key for an active subscription and use a correct regional API endpoint.");
        return false;
    }
    if (bearer == NULL) {
        service_refuse_token(f, e, a, "Authorization is not Bearer and one token.");
        return false;
    }
    if (r->v1 && strcmp(bearer, FAKE_API_KEY) == 0) {
        return true;
    }
    char client_id[40] = "";
    const char *problem = token_problem(f, bearer, client_id, sizeof client_id);
    if (problem != NULL) {
        service_refuse_token(f, e, a, problem);
        return false;
    }
    return has_role(f, e, r->info, client_id, a);
}

/* The dated surface needs one of its versions, the other has its own two. False after refusing. */
static bool check_version(fake *f, const seen_entry *e, const place *p, const route *r, answer *a) {
    static const char *const dated[] = {"2022-12-01",
                                        "2023-05-15",
                                        "2024-02-01",
                                        "2024-06-01",
                                        "2024-10-21",
                                        "2023-06-01-preview",
                                        "2023-07-01-preview",
                                        "2023-08-01-preview",
                                        "2023-12-01-preview",
                                        "2024-02-15-preview",
                                        "2024-03-01-preview",
                                        "2024-04-01-preview",
                                        "2024-05-01-preview",
                                        "2024-07-01-preview",
                                        "2024-08-01-preview",
                                        "2024-09-01-preview",
                                        "2024-10-01-preview",
                                        "2024-12-01-preview",
                                        "2025-01-01-preview",
                                        "2025-02-01-preview",
                                        "2025-03-01-preview",
                                        "2025-04-01-preview",
                                        NULL};
    static const char *const named[] = {"v1", "preview", NULL};
    text value = {0};
    bool given = form_find(p->query, p->query_len, "api-version", &value) == 1;
    bool known = given && is_one_of(value.data, value.len, r->v1 ? named : dated);
    text_free(&value);
    if (known || (r->v1 && !given)) {
        return true;
    }
    if (r->v1) {
        service_refuse(f, e, a, 400, "BadRequest", "API version not supported");
    } else {
        service_refuse(f, e, a, 404, "404", "Resource not found");
    }
    return false;
}

/* Everything before the body; false after refusing. */
static bool check_service_request(fake *f, const seen_entry *e, const place *p, const route *r, answer *a) {
    const char *problem = form_problem(p->query, p->query_len, NULL);
    if (e->problem != NULL) {
        service_refuse(f, e, a, e->problem_status, "BadRequest", e->problem);
    } else if (problem != NULL) {
        service_refuse(f, e, a, 400, "BadRequest", problem);
    } else if (!authorize(f, e, r, a)) {
        return false;
    } else if (r->info == NULL) {
        service_refuse(f, e, a, 404, "404", "Resource not found");
    } else if (!check_version(f, e, p, r, a)) {
        return false;
    } else if (strcmp(e->seen.method, r->info->method) != 0) {
        service_refuse(f, e, a, 405, "405", "The method is not allowed here.");
        add_header(a, "Allow", r->info->method);
    } else {
        return true;
    }
    return false;
}

/* ------------------------------------------------------------------------------------------------ service: bodies */

/* The body of a request, and what is wrong with it. */
typedef struct document {
    json j;
    char code[48]; /* "" is null */
    char param[192];
    text message;
} document;

static void document_free(document *d) {
    json_free(&d->j);
    text_free(&d->message);
}

/* Always false. */
static bool refuse(document *d, const char *code, const char *param, const char *format, ...) {
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    (void)snprintf(d->code, sizeof d->code, "%s", code);
    (void)snprintf(d->param, sizeof d->param, "%s", param);
    text_clear(&d->message);
    text_puts(&d->message, message);
    return false;
}

static void quote_or_null(text *out, const char *string) {
    if (*string == '\0') {
        text_puts(out, "null");
    } else {
        json_quote_string(out, string);
    }
}

/* Shape B of the sheet: what the model layer says. */
static void model_refuse(fake *f, const seen_entry *e, answer *a, const document *d) {
    model_head(f, e, a, 400, "application/json");
    text_puts(&a->body, "{\"error\":{\"message\":");
    json_quote(&a->body, d->message.data, d->message.len);
    text_puts(&a->body, ",\"type\":\"invalid_request_error\",\"param\":");
    quote_or_null(&a->body, d->param);
    text_puts(&a->body, ",\"code\":");
    quote_or_null(&a->body, d->code);
    text_puts(&a->body, "}}");
}

static bool parse_document(const seen_entry *e, document *d) {
    if (!json_parse(&d->j, e->body.data, e->body.len)) {
        return refuse(d, "", "",
                      "We could not parse the JSON body of your request. The service expects a JSON payload, but what "
                      "was sent was not valid JSON.");
    }
    if (!json_is(&d->j, 0, JSON_OBJECT)) {
        return refuse(d, "invalid_type", "", "The JSON body of the request has to be an object.");
    }
    int name = json_repeated_name(&d->j);
    if (name >= 0) {
        char param[64];
        (void)snprintf(param, sizeof param, "%.*s", (int)json_len(&d->j, name), json_at(&d->j, name));
        return refuse(d, "duplicate_parameter", param, "The JSON body has the name '%s' twice in one object.", param);
    }
    return true;
}

/* What a member may be. */
typedef struct field {
    const char *name;
    int kinds; /* json_kind */
    bool required;
    double min; /* of a number or the length of an array, unless both are 0 */
    double max;
    const char *choices; /* of a string: "|one|two|"; NULL: any */
} field;

static const char *kind_name(json_kind kind) {
    switch (kind) {
    case JSON_STRING:
        return "a string";
    case JSON_BOOL:
        return "a boolean";
    case JSON_INTEGER:
        return "an integer";
    case JSON_FRACTION:
        return "a decimal";
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_NULL:
        return "null";
    default:
        return "nothing";
    }
}

static void name_kinds(int kinds, text *out) {
    static const json_kind all[] = {JSON_STRING, JSON_BOOL,  JSON_INTEGER, JSON_FRACTION,
                                    JSON_OBJECT, JSON_ARRAY, JSON_NULL};
    for (size_t i = 0; i < COUNT(all); i++) {
        if ((kinds & (int)all[i]) != 0) {
            text_printf(out, "%s%s", out->len > 0 ? " or " : "", kind_name(all[i]));
        }
    }
}

static bool is_choice(const json *j, int value, const char *choices) {
    text wanted = {0};
    text_puts(&wanted, "|");
    text_add(&wanted, json_at(j, value), json_len(j, value));
    text_puts(&wanted, "|");
    bool found = strchr(wanted.data + 1, '|') == wanted.data + wanted.len - 1 && strstr(choices, wanted.data) != NULL;
    text_free(&wanted);
    return found;
}

static bool check_kind(document *d, int value, const char *path, int kinds) {
    json_kind kind = json_kind_of(&d->j, value);
    if ((kinds & (int)kind) != 0) {
        return true;
    }
    text wanted = {0};
    name_kinds(kinds, &wanted);
    (void)refuse(d, "invalid_type", path, "Invalid type for '%s': expected %s, but got %s instead.", path, wanted.data,
                 kind_name(kind));
    text_free(&wanted);
    return false;
}

static bool check_value(document *d, int value, const char *path, const field *wanted) {
    if (!check_kind(d, value, path, wanted->kinds)) {
        return false;
    }
    json_kind kind = json_kind_of(&d->j, value);
    if (kind == JSON_STRING && wanted->choices != NULL && !is_choice(&d->j, value, wanted->choices)) {
        return refuse(d, "invalid_value", path, "Invalid value: '%.*s' for '%s'. Supported values are: %s.",
                      (int)json_len(&d->j, value), json_at(&d->j, value), path, wanted->choices);
    }
    bool counted = kind == JSON_ARRAY || kind == JSON_INTEGER || kind == JSON_FRACTION;
    if (counted && (wanted->min != 0 || wanted->max != 0)) {
        double size = kind == JSON_ARRAY ? (double)json_size(&d->j, value) : json_number(&d->j, value);
        if (size < wanted->min || size > wanted->max) {
            return refuse(d, kind == JSON_ARRAY ? "invalid_array_length" : "invalid_value", path,
                          "Invalid %s of '%s': expected one from %ld to %ld.", kind == JSON_ARRAY ? "length" : "value",
                          path, (long)wanted->min, (long)wanted->max);
        }
    }
    return true;
}

enum { PATH_SIZE = 160 };

/* Cuts what gets too long. */
static void path_add(char *path, const char *bytes, size_t len) {
    size_t used = strlen(path);
    size_t room = PATH_SIZE - 1 - used;
    size_t part = len < room ? len : room;
    memcpy(path + used, bytes, part);
    path[used + part] = '\0';
}

static void path_member(char *out, const char *object, const char *name, size_t name_len) {
    *out = '\0';
    path_add(out, object, strlen(object));
    path_add(out, ".", *object != '\0' ? 1 : 0);
    path_add(out, name, name_len);
}

static void path_item(char *out, const char *array, int index) {
    char brackets[16];
    (void)snprintf(brackets, sizeof brackets, "[%d]", index);
    *out = '\0';
    path_add(out, array, strlen(array));
    path_add(out, brackets, strlen(brackets));
}

static const field *find_field(const json *j, int key, const field *fields) {
    for (; fields->name != NULL; fields++) {
        if (json_equals(j, key, fields->name)) {
            return fields;
        }
    }
    return NULL;
}

/* Whether an object has all it needs and nothing else. The list of fields ends with an empty one. */
static bool check_object(document *d, int object, const char *path, const field *fields) {
    const json *j = &d->j;
    char inner[PATH_SIZE];
    if (!check_kind(d, object, path, JSON_OBJECT)) {
        return false;
    }
    int key = object + 1;
    for (int i = 0; i < json_size(j, object); i++) {
        const field *wanted = find_field(j, key, fields);
        path_member(inner, path, json_at(j, key), json_len(j, key));
        if (wanted == NULL) {
            return refuse(d, "unknown_parameter", inner, "Unknown parameter: '%s'.", inner);
        }
        if (!check_value(d, key + 1, inner, wanted)) {
            return false;
        }
        key = json_after(j, key + 1);
    }
    for (; fields->name != NULL; fields++) {
        if (fields->required && json_member(j, object, fields->name) < 0) {
            path_member(inner, path, fields->name, strlen(fields->name));
            return refuse(d, "missing_required_parameter", inner, "Missing required parameter: '%s'.", inner);
        }
    }
    return true;
}

/* Letters, digits, _ and -, at most 64. */
static bool check_name(document *d, int name, const char *path) {
    const char *at = json_at(&d->j, name);
    size_t len = json_len(&d->j, name);
    bool ok = len > 0 && len <= 64;
    for (size_t i = 0; ok && i < len; i++) {
        ok = is_letter(at[i]) || is_digit(at[i]) || at[i] == '_' || at[i] == '-';
    }
    return ok || refuse(d, "invalid_value", path, "Invalid '%s': it has to match ^[a-zA-Z0-9_-]{1,64}$.", path);
}

static bool is_known_deployment(const text *name) {
    return text_is(name, FAKE_DEPLOYMENT) || text_is(name, "gpt-4o prod") || text_is(name, "embed");
}

/* The deployment of the path or of the body has to be there and to know the operation; false after refusing. */
static bool check_deployment(fake *f, const seen_entry *e, const route *r, document *d, answer *a) {
    text name = {0};
    int model = json_member(&d->j, 0, "model");
    if (r->v1 && !json_is(&d->j, model, JSON_STRING)) {
        (void)refuse(d, "missing_required_parameter", "model", "You must provide a model parameter: 'model'.");
        model_refuse(f, e, a, d);
        return false;
    }
    if (r->v1) {
        json_add_string(&d->j, model, &name);
    } else {
        text_add(&name, r->deployment.data, r->deployment.len);
    }
    bool known = is_known_deployment(&name);
    bool fits = text_is(&name, "embed") == (r->info->op == OP_EMBEDDINGS);
    text_free(&name);
    if (!known) {
        service_refuse(f, e, a, 404, "DeploymentNotFound",
                       "The API deployment for this resource does not exist. If you created the deployment within the "
                       "last 5 minutes, please wait a moment and try again.");
    } else if (!fits) {
        service_refuse(f, e, a, 400, "OperationNotSupported",
                       "The operation does not work with the model of this deployment. Please choose different model "
                       "and try again.");
    }
    return known && fits;
}

/* Whether a text has a word in it, in small or capital letters. */
static bool has_word(const text *t, const char *word) {
    size_t len = strlen(word);
    for (size_t i = 0; i + len <= t->len; i++) {
        if (strncasecmp(t->data + i, word, len) == 0) {
            return true;
        }
    }
    return false;
}

/* ------------------------------------------------------------------------------------------------ service: chat */

enum {
    ANY_STRING = JSON_STRING | JSON_NULL,
    ANY_NUMBER = JSON_NUMBER | JSON_NULL,
    ANY_COUNT = JSON_INTEGER | JSON_NULL,
    ANY_BOOL = JSON_BOOL | JSON_NULL,
    ANY_OBJECT = JSON_OBJECT | JSON_NULL,
    ANY_ARRAY = JSON_ARRAY | JSON_NULL
};

static const field chat_fields[] = {
    {"messages", JSON_ARRAY, true, 1, MAX_MESSAGES, NULL},
    {"model", JSON_STRING, false, 0, 0, NULL},
    {"stream", ANY_BOOL, false, 0, 0, NULL},
    {"stream_options", ANY_OBJECT, false, 0, 0, NULL},
    {"max_tokens", ANY_COUNT, false, 1, INT_MAX, NULL},
    {"max_completion_tokens", ANY_COUNT, false, 1, INT_MAX, NULL},
    {"temperature", ANY_NUMBER, false, 0, 2, NULL},
    {"top_p", ANY_NUMBER, false, 0, 1, NULL},
    {"n", ANY_COUNT, false, 1, MAX_CHOICES, NULL},
    {"stop", JSON_STRING | JSON_ARRAY | JSON_NULL, false, 1, 4, NULL},
    {"presence_penalty", ANY_NUMBER, false, -2, 2, NULL},
    {"frequency_penalty", ANY_NUMBER, false, -2, 2, NULL},
    {"logit_bias", ANY_OBJECT, false, 0, 0, NULL},
    {"logprobs", ANY_BOOL, false, 0, 0, NULL},
    {"top_logprobs", ANY_COUNT, false, 0, 20, NULL},
    {"seed", ANY_COUNT, false, 0, 0, NULL},
    {"response_format", JSON_OBJECT, false, 0, 0, NULL},
    {"tools", JSON_ARRAY, false, 1, MAX_TOOLS, NULL},
    {"tool_choice", JSON_STRING | JSON_OBJECT, false, 0, 0, "|none|auto|required|"},
    {"parallel_tool_calls", JSON_BOOL, false, 0, 0, NULL},
    {"functions", JSON_ARRAY, false, 1, MAX_TOOLS, NULL},
    {"function_call", JSON_STRING | JSON_OBJECT, false, 0, 0, "|none|auto|"},
    {"reasoning_effort", ANY_STRING, false, 0, 0, "|none|minimal|low|medium|high|xhigh|max|"},
    {"verbosity", ANY_STRING, false, 0, 0, "|low|medium|high|"},
    {"modalities", ANY_ARRAY, false, 1, 2, NULL},
    {"audio", ANY_OBJECT, false, 0, 0, NULL},
    {"prediction", ANY_OBJECT, false, 0, 0, NULL},
    {"store", ANY_BOOL, false, 0, 0, NULL},
    {"metadata", ANY_OBJECT, false, 0, 0, NULL},
    {"service_tier", ANY_STRING, false, 0, 0, "|auto|default|flex|scale|priority|fast|"},
    {"user", JSON_STRING, false, 0, 0, NULL},
    {"safety_identifier", JSON_STRING, false, 0, 0, NULL},
    {"prompt_cache_key", JSON_STRING, false, 0, 0, NULL},
    {"prompt_cache_retention", ANY_STRING, false, 0, 0, NULL},
    {"moderation", JSON_OBJECT | JSON_STRING, false, 0, 0, NULL},
    {"web_search_options", JSON_OBJECT, false, 0, 0, NULL},
    {"data_sources", JSON_ARRAY, false, 1, 1, NULL},
    {"user_security_context", JSON_OBJECT, false, 0, 0, NULL},
    {0},
};
static const field stream_option_fields[] = {
    {"include_usage", JSON_BOOL, false, 0, 0, NULL},
    {"include_obfuscation", JSON_BOOL, false, 0, 0, NULL},
    {0},
};
static const field format_fields[] = {
    {"type", JSON_STRING, true, 0, 0, "|text|json_object|json_schema|"},
    {"json_schema", JSON_OBJECT, false, 0, 0, NULL},
    {0},
};
static const field schema_fields[] = {
    {"name", JSON_STRING, true, 0, 0, NULL},
    {"description", JSON_STRING, false, 0, 0, NULL},
    {"schema", JSON_OBJECT, false, 0, 0, NULL},
    {"strict", ANY_BOOL, false, 0, 0, NULL},
    {0},
};
static const field tool_fields[] = {
    {"type", JSON_STRING, true, 0, 0, "|function|"},
    {"function", JSON_OBJECT, true, 0, 0, NULL},
    {0},
};
static const field custom_tool_fields[] = {
    {"type", JSON_STRING, true, 0, 0, "|custom|"},
    {"custom", JSON_OBJECT, true, 0, 0, NULL},
    {0},
};
static const field function_fields[] = {
    {"name", JSON_STRING, true, 0, 0, NULL},
    {"description", JSON_STRING, false, 0, 0, NULL},
    {"parameters", JSON_OBJECT, false, 0, 0, NULL},
    {"strict", ANY_BOOL, false, 0, 0, NULL},
    {0},
};
static const field chosen_function_fields[] = {
    {"name", JSON_STRING, true, 0, 0, NULL},
    {0},
};
static const field call_fields[] = {
    {"id", JSON_STRING, true, 0, 0, NULL},
    {"type", JSON_STRING, true, 0, 0, "|function|"},
    {"function", JSON_OBJECT, true, 0, 0, NULL},
    {0},
};
static const field called_function_fields[] = {
    {"name", JSON_STRING, true, 0, 0, NULL},
    {"arguments", JSON_STRING, true, 0, 0, NULL},
    {0},
};

static const field system_fields[] = {
    {"role", JSON_STRING, true, 0, 0, NULL},
    {"content", JSON_STRING | JSON_ARRAY, true, 0, 0, NULL},
    {"name", JSON_STRING, false, 0, 0, NULL},
    {0},
};
static const field assistant_fields[] = {
    {"role", JSON_STRING, true, 0, 0, NULL},
    {"content", JSON_STRING | JSON_ARRAY | JSON_NULL, false, 0, 0, NULL},
    {"refusal", ANY_STRING, false, 0, 0, NULL},
    {"name", JSON_STRING, false, 0, 0, NULL},
    {"tool_calls", JSON_ARRAY, false, 1, MAX_TOOLS, NULL},
    {"function_call", ANY_OBJECT, false, 0, 0, NULL},
    {"audio", ANY_OBJECT, false, 0, 0, NULL},
    {"annotations", JSON_ARRAY, false, 0, 0, NULL},
    {0},
};
static const field tool_message_fields[] = {
    {"role", JSON_STRING, true, 0, 0, NULL},
    {"content", JSON_STRING | JSON_ARRAY, true, 0, 0, NULL},
    {"tool_call_id", JSON_STRING, true, 0, 0, NULL},
    {"name", JSON_STRING, false, 0, 0, NULL},
    {0},
};
static const field function_message_fields[] = {
    {"role", JSON_STRING, true, 0, 0, NULL},
    {"content", JSON_STRING | JSON_NULL, true, 0, 0, NULL},
    {"name", JSON_STRING, true, 0, 0, NULL},
    {0},
};

typedef struct role_info {
    const char *name;
    const field *fields;
    const char *parts; /* types of content parts */
} role_info;

static const role_info message_roles[] = {
    {"system", system_fields, "|text|"},
    {"developer", system_fields, "|text|"},
    {"user", system_fields, "|text|image_url|input_audio|file|"},
    {"assistant", assistant_fields, "|text|refusal|"},
    {"tool", tool_message_fields, "|text|"},
    {"function", function_message_fields, ""},
};

static const field text_part_fields[] = {
    {"type", JSON_STRING, true, 0, 0, NULL},
    {"text", JSON_STRING, true, 0, 0, NULL},
    {0},
};
static const field refusal_part_fields[] = {
    {"type", JSON_STRING, true, 0, 0, NULL},
    {"refusal", JSON_STRING, true, 0, 0, NULL},
    {0},
};
static const field image_part_fields[] = {
    {"type", JSON_STRING, true, 0, 0, NULL},
    {"image_url", JSON_OBJECT, true, 0, 0, NULL},
    {0},
};
static const field image_fields[] = {
    {"url", JSON_STRING, true, 0, 0, NULL},
    {"detail", JSON_STRING, false, 0, 0, "|auto|low|high|"},
    {0},
};
static const field audio_part_fields[] = {
    {"type", JSON_STRING, true, 0, 0, NULL},
    {"input_audio", JSON_OBJECT, true, 0, 0, NULL},
    {0},
};
static const field audio_fields[] = {
    {"data", JSON_STRING, true, 0, 0, NULL},
    {"format", JSON_STRING, true, 0, 0, "|wav|mp3|"},
    {0},
};
static const field file_part_fields[] = {
    {"type", JSON_STRING, true, 0, 0, NULL},
    {"file", JSON_OBJECT, true, 0, 0, NULL},
    {0},
};

typedef struct part_info {
    const char *type;
    const field *fields;
    const char *inner_name; /* an object inside with fields of its own, or NULL */
    const field *inner_fields;
} part_info;

static const part_info part_types[] = {
    {"text", text_part_fields, NULL, NULL},
    {"refusal", refusal_part_fields, NULL, NULL},
    {"image_url", image_part_fields, "image_url", image_fields},
    {"input_audio", audio_part_fields, "input_audio", audio_fields},
    {"file", file_part_fields, NULL, NULL},
};

static bool check_image_url(document *d, int url, const char *path) {
    static const char *const schemes[] = {"https://", "http://", "data:image/"};
    for (size_t i = 0; i < COUNT(schemes); i++) {
        size_t len = strlen(schemes[i]);
        if (json_len(&d->j, url) > len && memcmp(json_at(&d->j, url), schemes[i], len) == 0) {
            return true;
        }
    }
    return refuse(d, "invalid_image_url", path, "Invalid '%s.image_url.url': expected a URL or a data URL.", path);
}

static bool check_part(document *d, int part, const char *path, const char *types) {
    char inner[PATH_SIZE];
    int type = json_member(&d->j, part, "type");
    if (!json_is(&d->j, type, JSON_STRING) || !is_choice(&d->j, type, types)) {
        path_member(inner, path, "type", 4);
        return refuse(d, "invalid_value", inner, "Missing or invalid '%s'. Supported values are: %s.", inner, types);
    }
    const part_info *info = part_types;
    while (!json_equals(&d->j, type, info->type)) {
        info++;
    }
    if (!check_object(d, part, path, info->fields)) {
        return false;
    }
    if (info->inner_name == NULL) {
        return true;
    }
    int object = json_member(&d->j, part, info->inner_name);
    path_member(inner, path, info->inner_name, strlen(info->inner_name));
    return check_object(d, object, inner, info->inner_fields) &&
           (info->inner_fields != image_fields || check_image_url(d, json_member(&d->j, object, "url"), path));
}

static bool check_content(document *d, int message, const char *path, const char *types) {
    char content_path[PATH_SIZE];
    char part_path[PATH_SIZE];
    int content = json_member(&d->j, message, "content");
    path_member(content_path, path, "content", 7);
    if (!json_is(&d->j, content, JSON_ARRAY)) {
        return true;
    }
    if (json_size(&d->j, content) == 0) {
        return refuse(d, "invalid_array_length", content_path, "Invalid '%s': the array is empty.", content_path);
    }
    int part = content + 1;
    for (int i = 0; i < json_size(&d->j, content); i++) {
        path_item(part_path, content_path, i);
        if (!check_part(d, part, part_path, types)) {
            return false;
        }
        part = json_after(&d->j, part);
    }
    return true;
}

static bool check_calls(document *d, int calls, const char *path) {
    char item[PATH_SIZE];
    char inner[PATH_SIZE];
    int call = calls + 1;
    for (int i = 0; i < json_size(&d->j, calls); i++) {
        path_item(item, path, i);
        path_member(inner, item, "function", 8);
        if (!check_object(d, call, item, call_fields) ||
            !check_object(d, json_member(&d->j, call, "function"), inner, called_function_fields)) {
            return false;
        }
        call = json_after(&d->j, call);
    }
    return true;
}

static bool check_assistant(document *d, int message, const char *path) {
    static const char *const instead[] = {"tool_calls", "function_call", "audio", "refusal"};
    char inner[PATH_SIZE];
    int content = json_member(&d->j, message, "content");
    bool has_other = false;
    for (size_t i = 0; i < COUNT(instead); i++) {
        json_kind kind = json_kind_of(&d->j, json_member(&d->j, message, instead[i]));
        has_other = has_other || (kind != JSON_NONE && kind != JSON_NULL);
    }
    if (!has_other && (content < 0 || json_is(&d->j, content, JSON_NULL))) {
        path_member(inner, path, "content", 7);
        return refuse(d, "invalid_value", inner, "Invalid value for '%s': expected a string, got null.", inner);
    }
    int calls = json_member(&d->j, message, "tool_calls");
    path_member(inner, path, "tool_calls", 10);
    return calls < 0 || check_calls(d, calls, inner);
}

static const role_info *find_message_role(const json *j, int role) {
    for (size_t i = 0; i < COUNT(message_roles); i++) {
        if (json_string_is(j, role, message_roles[i].name)) {
            return &message_roles[i];
        }
    }
    return NULL;
}

static bool check_message(document *d, int message, const char *path) {
    char inner[PATH_SIZE];
    if (!check_kind(d, message, path, JSON_OBJECT)) {
        return false;
    }
    int role = json_member(&d->j, message, "role");
    const role_info *info = find_message_role(&d->j, role);
    path_member(inner, path, "role", 4);
    if (role < 0) {
        return refuse(d, "missing_required_parameter", inner, "Missing required parameter: '%s'.", inner);
    }
    if (info == NULL) {
        return refuse(d, "invalid_value", inner,
                      "Invalid value for '%s'. Supported values are: 'system', 'assistant', 'user', 'function', "
                      "'tool' and 'developer'.",
                      inner);
    }
    return check_object(d, message, path, info->fields) && check_content(d, message, path, info->parts) &&
           (info->fields != assistant_fields || check_assistant(d, message, path));
}

/* The calls of the last assistant message that still have to be answered. */
typedef struct open_calls {
    int calls; /* -1: none */
    bool answered[MAX_TOOLS];
} open_calls;

static bool answer_call(document *d, open_calls *open, int message, const char *path) {
    char inner[PATH_SIZE];
    if (open->calls < 0) {
        path_member(inner, path, "role", 4);
        return refuse(d, "", inner,
                      "Invalid parameter: messages with role 'tool' must be a response to a preceding message with "
                      "'tool_calls' ('%s').",
                      inner);
    }
    int id = json_member(&d->j, message, "tool_call_id");
    int call = open->calls + 1;
    for (int i = 0; i < json_size(&d->j, open->calls); i++) {
        if (!open->answered[i] && json_same_string(&d->j, id, json_member(&d->j, call, "id"))) {
            open->answered[i] = true;
            return true;
        }
        call = json_after(&d->j, call);
    }
    path_member(inner, path, "tool_call_id", 12);
    return refuse(d, "", inner, "Invalid parameter: '%s' is not the id of an open tool call.", inner);
}

static bool all_answered(document *d, const open_calls *open) {
    if (open->calls < 0) {
        return true;
    }
    int call = open->calls + 1;
    for (int i = 0; i < json_size(&d->j, open->calls); i++) {
        if (!open->answered[i]) {
            int id = json_member(&d->j, call, "id");
            return refuse(d, "", "messages",
                          "An assistant message with 'tool_calls' in 'messages' must be followed by tool messages "
                          "responding to each 'tool_call_id'. There is none for: %.*s",
                          (int)json_len(&d->j, id), json_at(&d->j, id));
        }
        call = json_after(&d->j, call);
    }
    return true;
}

static bool check_messages(document *d, int messages) {
    char path[PATH_SIZE];
    open_calls open = {.calls = -1};
    int message = messages + 1;
    for (int i = 0; i < json_size(&d->j, messages); i++) {
        path_item(path, "messages", i);
        if (!check_message(d, message, path)) {
            return false;
        }
        if (json_string_is(&d->j, json_member(&d->j, message, "role"), "tool")) {
            if (!answer_call(d, &open, message, path)) {
                return false;
            }
        } else {
            if (!all_answered(d, &open)) {
                return false;
            }
            open = (open_calls){.calls = json_member(&d->j, message, "tool_calls")};
        }
        message = json_after(&d->j, message);
    }
    return all_answered(d, &open);
}

static bool check_tools(document *d, int tools) {
    char path[PATH_SIZE];
    char inner[PATH_SIZE];
    int tool = tools + 1;
    for (int i = 0; tools >= 0 && i < json_size(&d->j, tools); i++) {
        bool custom = json_string_is(&d->j, json_member(&d->j, tool, "type"), "custom");
        path_item(path, "tools", i);
        if (!check_object(d, tool, path, custom ? custom_tool_fields : tool_fields)) {
            return false;
        }
        int function = json_member(&d->j, tool, "function");
        path_member(inner, path, "function", 8);
        if (!custom && !check_object(d, function, inner, function_fields)) {
            return false;
        }
        path_member(inner, path, "function.name", 13);
        if (!custom && !check_name(d, json_member(&d->j, function, "name"), inner)) {
            return false;
        }
        tool = json_after(&d->j, tool);
    }
    return true;
}

/* The function of that name among the tools, -1 if it was not offered. */
static int find_tool(const json *j, int tools, const char *name, size_t name_len) {
    int tool = tools + 1;
    for (int i = 0; tools >= 0 && i < json_size(j, tools); i++) {
        int function_name = json_member(j, json_member(j, tool, "function"), "name");
        if (function_name >= 0 && json_len(j, function_name) == name_len &&
            memcmp(json_at(j, function_name), name, name_len) == 0) {
            return tool;
        }
        tool = json_after(j, tool);
    }
    return -1;
}

static bool check_tool_choice(document *d, int tools) {
    const json *j = &d->j;
    int choice = json_member(j, 0, "tool_choice");
    if (tools < 0 && choice >= 0) {
        return refuse(d, "invalid_value", "tool_choice", "'tool_choice' is only allowed when 'tools' are specified.");
    }
    if (tools < 0 && json_member(j, 0, "parallel_tool_calls") >= 0) {
        return refuse(d, "invalid_value", "parallel_tool_calls",
                      "'parallel_tool_calls' is only allowed when 'tools' are specified.");
    }
    if (!json_is(j, choice, JSON_OBJECT) || json_string_is(j, json_member(j, choice, "type"), "allowed_tools")) {
        return true;
    }
    int function = json_member(j, choice, "function");
    if (!check_object(d, choice, "tool_choice", tool_fields) ||
        !check_object(d, function, "tool_choice.function", chosen_function_fields)) {
        return false;
    }
    int name = json_member(j, function, "name");
    return find_tool(j, tools, json_at(j, name), json_len(j, name)) >= 0 ||
           refuse(d, "invalid_value", "tool_choice", "The function of 'tool_choice' is not among the 'tools'.");
}

static bool check_format(document *d) {
    int format = json_member(&d->j, 0, "response_format");
    if (format < 0) {
        return true;
    }
    if (!check_object(d, format, "response_format", format_fields)) {
        return false;
    }
    int schema = json_member(&d->j, format, "json_schema");
    if (json_string_is(&d->j, json_member(&d->j, format, "type"), "json_schema")) {
        if (schema < 0) {
            return refuse(d, "missing_required_parameter", "response_format.json_schema",
                          "Missing required parameter: 'response_format.json_schema'.");
        }
        return check_object(d, schema, "response_format.json_schema", schema_fields) &&
               check_name(d, json_member(&d->j, schema, "name"), "response_format.json_schema.name");
    }
    return schema < 0 || refuse(d, "unknown_parameter", "response_format.json_schema",
                                "Unknown parameter: 'response_format.json_schema'.");
}

static bool check_stop(document *d) {
    char path[PATH_SIZE];
    int stop = json_member(&d->j, 0, "stop");
    if (!json_is(&d->j, stop, JSON_ARRAY)) {
        return true;
    }
    for (int i = 0; i < json_size(&d->j, stop); i++) {
        path_item(path, "stop", i);
        if (!check_kind(d, stop + 1 + i, path, JSON_STRING)) {
            return false;
        }
    }
    return true;
}

/* The members of an object that has free names. */
static bool check_map(document *d, const char *name, const field *wanted, int max_count) {
    char path[PATH_SIZE];
    int map = json_member(&d->j, 0, name);
    if (!json_is(&d->j, map, JSON_OBJECT)) {
        return true;
    }
    if (json_size(&d->j, map) > max_count) {
        return refuse(d, "object_above_max_properties", name, "Invalid '%s': it has too many members.", name);
    }
    int key = map + 1;
    for (int i = 0; i < json_size(&d->j, map); i++) {
        path_member(path, name, json_at(&d->j, key), json_len(&d->j, key));
        if (!check_value(d, key + 1, path, wanted)) {
            return false;
        }
        key = json_after(&d->j, key + 1);
    }
    return true;
}

static bool check_seed(document *d) {
    int seed = json_member(&d->j, 0, "seed");
    if (!json_is(&d->j, seed, JSON_INTEGER)) {
        return true;
    }
    errno = 0;
    (void)strtoll(json_at(&d->j, seed), NULL, 10);
    return errno != ERANGE || refuse(d, "invalid_value", "seed", "Invalid 'seed': it is no 64-bit integer.");
}

/* Members that are only allowed together, or only one at a time. */
static bool check_pairs(document *d) {
    const json *j = &d->j;
    bool streams = json_true(j, json_member(j, 0, "stream"));
    if (json_is(j, json_member(j, 0, "stream_options"), JSON_OBJECT) && !streams) {
        return refuse(d, "", "stream_options",
                      "The 'stream_options' parameter is only allowed when 'stream' is enabled.");
    }
    if (json_is(j, json_member(j, 0, "top_logprobs"), JSON_INTEGER) && !json_true(j, json_member(j, 0, "logprobs"))) {
        return refuse(d, "", "top_logprobs",
                      "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.");
    }
    if (json_is(j, json_member(j, 0, "max_tokens"), JSON_INTEGER) &&
        json_is(j, json_member(j, 0, "max_completion_tokens"), JSON_INTEGER)) {
        return refuse(d, "invalid_parameter_combination", "max_tokens",
                      "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.");
    }
    return true;
}

static bool check_chat(document *d) {
    static const field bias = {"", JSON_NUMBER, false, -100, 100, NULL};
    static const field metadata = {"", JSON_STRING, false, 0, 0, NULL};
    if (!check_object(d, 0, "", chat_fields)) {
        return false;
    }
    int tools = json_member(&d->j, 0, "tools");
    int options = json_member(&d->j, 0, "stream_options");
    return check_messages(d, json_member(&d->j, 0, "messages")) && check_tools(d, tools) &&
           check_tool_choice(d, tools) && check_format(d) && check_stop(d) && check_seed(d) && check_pairs(d) &&
           check_map(d, "logit_bias", &bias, INT_MAX) && check_map(d, "metadata", &metadata, 16) &&
           (!json_is(&d->j, options, JSON_OBJECT) || check_object(d, options, "stream_options", stream_option_fields));
}

typedef struct tool_call {
    const char *name;
    const char *arguments;
    char letter; /* of its id */
} tool_call;

/* What is going to be said. */
typedef struct chat {
    unsigned number; /* of its id */
    long created;
    long choices;
    bool include_usage;
    bool obfuscate;
    text content;
    tool_call calls[2];
    size_t call_count;
    size_t prompt_tokens;
    size_t completion_tokens;
} chat;

static const char safe_filters[] =
    "{\"hate\":{\"filtered\":false,\"severity\":\"safe\"},\"self_harm\":{\"filtered\":false,\"severity\":\"safe\"},"
    "\"sexual\":{\"filtered\":false,\"severity\":\"safe\"},\"violence\":{\"filtered\":false,\"severity\":\"safe\"}}";
static const char prompt_filters[] =
    "[{\"prompt_index\":0,\"content_filter_results\":{\"hate\":{\"filtered\":false,\"severity\":\"safe\"},"
    "\"jailbreak\":{\"filtered\":false,\"detected\":false},\"self_harm\":{\"filtered\":false,\"severity\":\"safe\"},"
    "\"sexual\":{\"filtered\":false,\"severity\":\"safe\"},\"violence\":{\"filtered\":false,\"severity\":\"safe\"}}}]";
static const char chat_model[] = "gpt-4o-2024-11-20";

static void add_content(const json *j, int message, text *out) {
    int content = json_member(j, message, "content");
    text_add(out, "", 0);
    if (json_is(j, content, JSON_STRING)) {
        json_add_string(j, content, out);
    } else if (json_is(j, content, JSON_ARRAY)) {
        int part = content + 1;
        for (int i = 0; i < json_size(j, content); i++) {
            int part_text = json_member(j, part, "text");
            if (part_text >= 0) {
                json_add_string(j, part_text, out);
            }
            part = json_after(j, part);
        }
    }
}

/* What the messages come to. */
typedef struct conversation {
    text all;
    text last_user;
    text results; /* of the tools, if the last messages are such */
    bool user_is_last;
    bool tool_is_last;
    bool forbidden;
} conversation;

static void conversation_free(conversation *c) {
    text_free(&c->all);
    text_free(&c->last_user);
    text_free(&c->results);
}

static void read_messages(const json *j, conversation *c) {
    int messages = json_member(j, 0, "messages");
    int message = messages + 1;
    for (int i = 0; i < json_size(j, messages); i++) {
        int role = json_member(j, message, "role");
        c->user_is_last = json_equals(j, role, "user");
        c->tool_is_last = json_equals(j, role, "tool");
        add_content(j, message, &c->all);
        if (c->user_is_last) {
            text_clear(&c->last_user);
            add_content(j, message, &c->last_user);
            c->forbidden = c->forbidden || has_word(&c->last_user, "forbidden");
        }
        if (c->tool_is_last) {
            text_puts(&c->results, c->results.len > 0 ? "; " : "");
            add_content(j, message, &c->results);
        } else {
            text_clear(&c->results);
        }
        message = json_after(j, message);
    }
}

static void choose_calls(const json *j, chat *p) {
    static const tool_call known[] = {{"get_weather", "{\"city\":\"Bern\"}", 'A'},
                                      {"get_time", "{\"tz\":\"CET\"}", 'B'}};
    int tools = json_member(j, 0, "tools");
    int choice = json_member(j, 0, "tool_choice");
    int chosen = json_member(j, json_member(j, choice, "function"), "name");
    int parallel = json_member(j, 0, "parallel_tool_calls");
    size_t most = parallel >= 0 && !json_true(j, parallel) ? 1 : COUNT(known);
    for (size_t i = 0; i < COUNT(known) && !json_string_is(j, choice, "none"); i++) {
        bool offered = find_tool(j, tools, known[i].name, strlen(known[i].name)) >= 0;
        if (offered && (chosen < 0 || json_equals(j, chosen, known[i].name)) && p->call_count < most) {
            p->calls[p->call_count++] = known[i];
        }
    }
}

static void choose_content(const json *j, const conversation *c, chat *p) {
    int type = json_member(j, json_member(j, 0, "response_format"), "type");
    text_add(&p->content, "", 0);
    if (json_string_is(j, type, "json_object") || json_string_is(j, type, "json_schema")) {
        text_puts(&p->content, "{\"echo\": ");
        json_quote(&p->content, c->last_user.data, c->last_user.len);
        text_puts(&p->content, "}");
    } else {
        const text *said = c->tool_is_last ? &c->results : &c->last_user;
        text_puts(&p->content, c->tool_is_last ? "The tools said: " : "You said: ");
        text_add(&p->content, said->data, said->len);
    }
}

static chat plan_chat(fake *f, const json *j, const conversation *c) {
    int options = json_member(j, 0, "stream_options");
    chat p = {
        .number = next_number(f),
        .created = (long)time(NULL),
        .choices = json_long(j, json_member(j, 0, "n"), 1),
        .include_usage = json_true(j, json_member(j, options, "include_usage")),
        .obfuscate = json_true(j, json_member(j, options, "include_obfuscation")),
    };
    if (c->user_is_last && has_word(&c->last_user, "weather")) {
        choose_calls(j, &p);
    }
    if (p.call_count == 0) {
        choose_content(j, c, &p);
    }
    p.prompt_tokens = c->all.len / 4 + 3;
    p.completion_tokens = (size_t)p.choices * (p.content.len / 4 + 1 + 8 * p.call_count);
    return p;
}

static void add_usage(text *out, const chat *p) {
    text_printf(out,
                "{\"completion_tokens\":%zu,\"completion_tokens_details\":{\"accepted_prediction_tokens\":0,"
                "\"audio_tokens\":0,\"reasoning_tokens\":0,\"rejected_prediction_tokens\":0},\"prompt_tokens\":%zu,"
                "\"prompt_tokens_details\":{\"audio_tokens\":0,\"cached_tokens\":0},\"total_tokens\":%zu}",
                p->completion_tokens, p->prompt_tokens, p->completion_tokens + p->prompt_tokens);
}

static void add_call_start(text *out, const chat *p, const tool_call *call) {
    text_printf(out, "\"name\":\"%s\"},\"id\":\"call_%u%c\",\"type\":\"function\"", call->name, p->number,
                call->letter);
}

static void add_message(text *out, const chat *p) {
    text_puts(out, "{\"annotations\":[],\"content\":");
    if (p->call_count == 0) {
        json_quote(out, p->content.data, p->content.len);
    } else {
        text_puts(out, "null");
    }
    text_puts(out, ",\"refusal\":null,\"role\":\"assistant\"");
    for (size_t i = 0; i < p->call_count; i++) {
        text_puts(out, i == 0 ? ",\"tool_calls\":[{\"function\":{\"arguments\":" : ",{\"function\":{\"arguments\":");
        json_quote_string(out, p->calls[i].arguments);
        text_puts(out, ",");
        add_call_start(out, p, &p->calls[i]);
        text_puts(out, "}");
    }
    text_puts(out, p->call_count > 0 ? "]}" : "}");
}

static const char *finish_reason(const chat *p) {
    return p->call_count > 0 ? "tool_calls" : "stop";
}

static void add_completion(text *out, const chat *p) {
    text_puts(out, "{\"choices\":[");
    for (long i = 0; i < p->choices; i++) {
        text_printf(out, "%s{\"content_filter_results\":%s,\"finish_reason\":\"%s\",\"index\":%ld,\"logprobs\":null,",
                    i > 0 ? "," : "", p->call_count > 0 ? "{}" : safe_filters, finish_reason(p), i);
        text_puts(out, "\"message\":");
        add_message(out, p);
        text_puts(out, "}");
    }
    text_printf(out, "],\"created\":%ld,\"id\":\"chatcmpl-%u\",\"model\":\"%s\",\"object\":\"chat.completion\",",
                p->created, p->number, chat_model);
    text_printf(out,
                "\"prompt_filter_results\":%s,\"system_fingerprint\":\"fp_0000000000\",\"usage\":", prompt_filters);
    add_usage(out, p);
    text_puts(out, "}");
}

/* The end of a chunk, after its choices. */
static void end_chunk(text *out, const chat *p, bool with_usage) {
    text_printf(out,
                ",\"created\":%ld,\"id\":\"chatcmpl-%u\",\"model\":\"%s\",\"object\":\"chat.completion.chunk\","
                "\"system_fingerprint\":\"fp_0000000000\"",
                p->created, p->number, chat_model);
    if (p->obfuscate) {
        text_printf(out, ",\"obfuscation\":\"%.*s\"", (int)(out->len % 16), "aB3dE6gH9jK2mN5p");
    }
    if (p->include_usage) {
        text_puts(out, ",\"usage\":");
        if (with_usage) {
            add_usage(out, p);
        } else {
            text_puts(out, "null");
        }
    }
    text_puts(out, "}\n\n");
}

/* One chunk for each choice with the same delta. */
static void add_deltas(text *out, const chat *p, const char *delta, const char *filters, const char *reason) {
    for (long i = 0; i < p->choices; i++) {
        text_printf(out, "data: {\"choices\":[{\"content_filter_results\":%s,\"delta\":", filters);
        text_puts(out, delta);
        text_printf(out, ",\"finish_reason\":%s,\"index\":%ld,\"logprobs\":null}]", reason, i);
        end_chunk(out, p, false);
    }
}

/* A few words at a time, never a part of a character. */
static size_t delta_end(const text *content, size_t at) {
    size_t start = at;
    while (at < content->len && at - start < 12) {
        size_t len = utf8_len(content->data + at, content->len - at);
        bool space = content->data[at] == ' ';
        at += len > 0 ? len : 1;
        if (space) {
            break;
        }
    }
    return at;
}

static void stream_content(text *out, const chat *p) {
    text delta = {0};
    for (size_t at = 0; at < p->content.len;) {
        size_t end = delta_end(&p->content, at);
        text_clear(&delta);
        text_puts(&delta, "{\"content\":");
        json_quote(&delta, p->content.data + at, end - at);
        text_puts(&delta, "}");
        add_deltas(out, p, delta.data, safe_filters, "null");
        at = end;
    }
    text_free(&delta);
}

static void stream_call_start(text *out, const chat *p, size_t index) {
    text delta = {0};
    text_puts(&delta, "{\"tool_calls\":[{\"function\":{\"arguments\":\"\",");
    add_call_start(&delta, p, &p->calls[index]);
    text_printf(&delta, ",\"index\":%zu}]}", index);
    add_deltas(out, p, delta.data, "{}", "null");
    text_free(&delta);
}

static void stream_arguments(text *out, const chat *p, size_t index, size_t from, size_t to) {
    text delta = {0};
    text_puts(&delta, "{\"tool_calls\":[{\"function\":{\"arguments\":");
    json_quote(&delta, p->calls[index].arguments + from, to - from);
    text_printf(&delta, "},\"index\":%zu}]}", index);
    add_deltas(out, p, delta.data, "{}", "null");
    text_free(&delta);
}

/* The parts of two calls come mixed. */
static void stream_calls(text *out, const chat *p) {
    static const size_t half = 8;
    stream_call_start(out, p, 0);
    stream_arguments(out, p, 0, 0, half);
    if (p->call_count > 1) {
        stream_call_start(out, p, 1);
    }
    stream_arguments(out, p, 0, half, strlen(p->calls[0].arguments));
    if (p->call_count > 1) {
        stream_arguments(out, p, 1, 0, strlen(p->calls[1].arguments));
    }
}

static void add_stream(text *out, const chat *p) {
    text_printf(out,
                "data: {\"choices\":[],\"created\":0,\"id\":\"\",\"model\":\"\",\"object\":\"\","
                "\"prompt_filter_results\":%s%s}\n\n",
                prompt_filters, p->include_usage ? ",\"usage\":null" : "");
    add_deltas(out, p,
               p->call_count > 0 ? "{\"content\":null,\"refusal\":null,\"role\":\"assistant\"}"
                                 : "{\"content\":\"\",\"refusal\":null,\"role\":\"assistant\"}",
               "{}", "null");
    if (p->call_count > 0) {
        stream_calls(out, p);
    } else {
        stream_content(out, p);
    }
    add_deltas(out, p, "{}", "{}", p->call_count > 0 ? "\"tool_calls\"" : "\"stop\"");
    if (p->include_usage) {
        text_puts(out, "data: {\"choices\":[]");
        end_chunk(out, p, true);
    }
    text_puts(out, "data: [DONE]\n\n");
}

static void refuse_content(fake *f, const seen_entry *e, answer *a) {
    model_head(f, e, a, 400, "application/json");
    text_puts(&a->body,
              "{\"error\":{\"message\":\"The response was filtered due to the prompt triggering the service's content "
              "management policy. Please modify your prompt and retry.\",\"type\":null,\"param\":\"prompt\","
              "\"code\":\"content_filter\",\"status\":400,\"innererror\":{\"code\":\"ResponsibleAIPolicyViolation\","
              "\"content_filter_result\":{\"hate\":{\"filtered\":false,\"severity\":\"safe\"},"
              "\"jailbreak\":{\"filtered\":false,\"detected\":false},"
              "\"self_harm\":{\"filtered\":false,\"severity\":\"safe\"},"
              "\"sexual\":{\"filtered\":false,\"severity\":\"safe\"},"
              "\"violence\":{\"filtered\":true,\"severity\":\"medium\"}}}}}");
}

/* JSON mode wants the word in the messages. */
static bool check_json_mode(document *d, const conversation *c) {
    int type = json_member(&d->j, json_member(&d->j, 0, "response_format"), "type");
    return !json_string_is(&d->j, type, "json_object") || has_word(&c->all, "json") ||
           refuse(d, "", "messages",
                  "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
                  "'json_object'.");
}

static void answer_chat(fake *f, const seen_entry *e, document *d, answer *a) {
    conversation c = {0};
    bool right = check_chat(d);
    if (right) {
        read_messages(&d->j, &c);
        right = check_json_mode(d, &c);
    }
    if (!right) {
        model_refuse(f, e, a, d);
    } else if (c.forbidden) {
        refuse_content(f, e, a);
    } else {
        chat p = plan_chat(f, &d->j, &c);
        a->stream = json_true(&d->j, json_member(&d->j, 0, "stream"));
        model_head(f, e, a, 200, a->stream ? "text/event-stream; charset=utf-8" : "application/json");
        if (a->stream) {
            add_stream(&a->body, &p);
        } else {
            add_completion(&a->body, &p);
        }
        text_free(&p.content);
    }
    conversation_free(&c);
}

/* ------------------------------------------------------------------------------------------------ service: others */

static const field embedding_fields[] = {
    {"input", JSON_STRING | JSON_ARRAY, true, 1, MAX_INPUTS, NULL},
    {"model", JSON_STRING, false, 0, 0, NULL},
    {"dimensions", JSON_INTEGER, false, 1, MAX_DIMENSIONS, NULL},
    {"encoding_format", JSON_STRING, false, 0, 0, "|float|base64|"},
    {"user", JSON_STRING, false, 0, 0, NULL},
    {"input_type", JSON_STRING, false, 0, 0, NULL},
    {0},
};

enum { EMBEDDING_SCALE = 1024 };

/* In steps of 1/1024, so that ten decimals write it exactly. */
static int embedding_steps(uint32_t hash, size_t position) {
    uint32_t mixed = (hash ^ ((uint32_t)position * 2654435761u)) * 2246822519u;
    mixed = (mixed ^ (mixed >> 15)) * 3266489917u;
    return (int)((mixed ^ (mixed >> 13)) % (2 * EMBEDDING_SCALE + 1)) - EMBEDDING_SCALE;
}

float fake_embedding(const char *input, size_t input_len, size_t position) {
    return (float)embedding_steps(hash_bytes(input, input_len), position) / EMBEDDING_SCALE;
}

unsigned char fake_byte(size_t position) {
    return (unsigned char)((position * 2654435761u) >> 13 & 0xff);
}

static void add_fake_bytes(text *out, size_t count) {
    const size_t period = (size_t)1 << 21; /* of fake_byte */
    text_reserve(out, count);
    for (size_t i = 0; i < count && i < period; i++) {
        out->data[out->len + i] = (char)fake_byte(i);
    }
    for (size_t done = period; done < count; done += period) {
        memcpy(out->data + out->len + done, out->data + out->len, count - done < period ? count - done : period);
    }
    out->len += count;
    out->data[out->len] = '\0';
}

/* Not printf, whose decimal point depends on the locale. */
static void add_steps(text *out, int steps) {
    const uint64_t decimals_of_a_step = 9765625; /* 1e10 / 1024 */
    uint64_t size = (uint64_t)(steps < 0 ? -steps : steps);
    uint64_t decimals = size % EMBEDDING_SCALE * decimals_of_a_step;
    char digits[16] = "-0.0000000000";
    digits[1] = (char)('0' + size / EMBEDDING_SCALE);
    for (size_t i = 12; i > 2; i--) {
        digits[i] = (char)('0' + decimals % 10);
        decimals /= 10;
    }
    text_puts(out, steps < 0 ? digits : digits + 1);
}

static void add_float_bytes(text *out, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    char bytes[4];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (char)(bits >> (8 * i) & 0xff);
    }
    text_add(out, bytes, sizeof bytes);
}

static void add_vector(text *out, const text *input, size_t dimensions, bool base64) {
    uint32_t hash = hash_bytes(input->data, input->len);
    text bytes = {0};
    if (!base64) {
        text_puts(out, "[");
    }
    for (size_t i = 0; i < dimensions; i++) {
        int steps = embedding_steps(hash, i);
        if (base64) {
            add_float_bytes(&bytes, (float)steps / EMBEDDING_SCALE);
        } else {
            text_puts(out, i > 0 ? "," : "");
            add_steps(out, steps);
        }
    }
    if (base64) {
        text_puts(out, "\"");
        base64_add(out, (const unsigned char *)bytes.data, bytes.len);
    }
    text_puts(out, base64 ? "\"" : "]");
    text_free(&bytes);
}

static bool check_tokens(document *d, int array, const char *path) {
    char item[PATH_SIZE];
    for (int i = 0; i < json_size(&d->j, array); i++) {
        path_item(item, path, i);
        if (!check_kind(d, array + 1 + i, item, JSON_INTEGER)) {
            return false;
        }
    }
    return json_size(&d->j, array) > 0 || refuse(d, "invalid_value", path, "'%s' cannot be an empty array.", path);
}

/* Strings, or arrays of tokens, but not both. */
static bool check_inputs(document *d, int input) {
    char path[PATH_SIZE];
    int item = input + 1;
    int kind = (int)json_kind_of(&d->j, item) & (JSON_STRING | JSON_ARRAY);
    for (int i = 0; i < json_size(&d->j, input); i++) {
        path_item(path, "input", i);
        if (!check_kind(d, item, path, kind != 0 ? kind : JSON_STRING | JSON_ARRAY)) {
            return false;
        }
        if (json_len(&d->j, item) == 0) {
            return refuse(d, "invalid_value", path, "'%s' cannot be an empty string.", path);
        }
        if (kind == JSON_ARRAY && !check_tokens(d, item, path)) {
            return false;
        }
        item = json_after(&d->j, item);
    }
    return true;
}

/* One row for the whole input: a string, or an array of tokens. */
static bool is_single_input(const json *j, int input) {
    return json_is(j, input, JSON_STRING) || json_is(j, input + 1, JSON_INTEGER);
}

static bool check_embeddings(document *d) {
    if (!check_object(d, 0, "", embedding_fields)) {
        return false;
    }
    int input = json_member(&d->j, 0, "input");
    if (!is_single_input(&d->j, input)) {
        return check_inputs(d, input);
    }
    if (json_is(&d->j, input, JSON_ARRAY)) {
        return check_tokens(d, input, "input");
    }
    return json_len(&d->j, input) > 0 || refuse(d, "invalid_value", "input", "'input' cannot be an empty string.");
}

static void add_row(text *out, const json *j, int item, int index, size_t *input_bytes) {
    text input = {0};
    json_add_string(j, item, &input);
    *input_bytes += input.len;
    bool base64 = json_string_is(j, json_member(j, 0, "encoding_format"), "base64");
    long dimensions = json_long(j, json_member(j, 0, "dimensions"), DEFAULT_DIMENSIONS);
    text_printf(out, "{\"object\":\"embedding\",\"index\":%d,\"embedding\":", index);
    add_vector(out, &input, (size_t)dimensions, base64);
    text_puts(out, "}");
    text_free(&input);
}

static void add_rows(text *out, const json *j, int input, size_t *input_bytes) {
    if (is_single_input(j, input)) {
        add_row(out, j, input, 0, input_bytes);
        return;
    }
    int count = json_size(j, input);
    int *items = must_have(malloc((size_t)count * sizeof *items));
    int item = input + 1;
    for (int i = 0; i < count; i++) {
        items[i] = item;
        item = json_after(j, item);
    }
    for (int i = count - 1; i >= 0; i--) {
        add_row(out, j, items[i], i, input_bytes);
        text_puts(out, i > 0 ? "," : "");
    }
    free(items);
}

static void answer_embeddings(fake *f, const seen_entry *e, document *d, answer *a) {
    if (!check_embeddings(d)) {
        model_refuse(f, e, a, d);
        return;
    }
    size_t input_bytes = 0;
    model_head(f, e, a, 200, "application/json");
    text_puts(&a->body, "{\"object\":\"list\",\"data\":[");
    add_rows(&a->body, &d->j, json_member(&d->j, 0, "input"), &input_bytes);
    size_t tokens = input_bytes / 4 + 1;
    text_printf(&a->body,
                "],\"model\":\"text-embedding-3-small\",\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu}}",
                tokens, tokens);
}

static const field speech_fields[] = {
    {"model", JSON_STRING, false, 0, 0, NULL},
    {"input", JSON_STRING, false, 0, 0, NULL},
    {"voice", JSON_STRING, false, 0, 0, NULL},
    {"instructions", JSON_STRING, false, 0, 0, NULL},
    {"response_format", JSON_STRING, false, 0, 0, "|mp3|opus|aac|flac|wav|pcm|"},
    {"speed", JSON_NUMBER, false, 0.25, 4, NULL},
    {"bytes", JSON_INTEGER, false, 0, MAX_BODY, NULL},
    {0},
};

static void answer_speech(fake *f, const seen_entry *e, document *d, answer *a) {
    long bytes = json_long(&d->j, json_member(&d->j, 0, "bytes"), DEFAULT_SPEECH_BYTES);
    if (!check_object(d, 0, "", speech_fields)) {
        model_refuse(f, e, a, d);
        return;
    }
    model_head(f, e, a, 200, "audio/mpeg");
    add_fake_bytes(&a->body, (size_t)bytes);
}

static void answer_files(fake *f, const seen_entry *e, answer *a) {
    if (fake_seen_header(&e->seen, "content-type") == NULL) {
        service_refuse(f, e, a, 415, "UnsupportedMediaType", "There is no Content-Type.");
        return;
    }
    model_head(f, e, a, 200, "application/json");
    text_printf(&a->body, "{\"id\":\"file-%u\",\"object\":\"file\",\"bytes\":%zu}", next_number(f), e->body.len);
}

static void answer_models(fake *f, const seen_entry *e, answer *a) {
    model_head(f, e, a, 200, "application/json");
    text_printf(&a->body,
                "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":1731974400,"
                "\"owned_by\":\"azure-openai\"},{\"id\":\"text-embedding-3-small\",\"object\":\"model\","
                "\"created_at\":1706140800,\"owned_by\":\"azure-openai\"}]}",
                chat_model);
}

static void answer_json(fake *f, const seen_entry *e, const route *r, answer *a) {
    document d = {0};
    if (!has_content_type(e, "application/json")) {
        service_refuse(f, e, a, 415, "UnsupportedMediaType", "The Content-Type has to be application/json.");
    } else if (!parse_document(e, &d)) {
        model_refuse(f, e, a, &d);
    } else if (!check_deployment(f, e, r, &d, a)) {
        document_free(&d);
        return;
    } else if (r->info->op == OP_CHAT) {
        answer_chat(f, e, &d, a);
    } else if (r->info->op == OP_EMBEDDINGS) {
        answer_embeddings(f, e, &d, a);
    } else {
        answer_speech(f, e, &d, a);
    }
    document_free(&d);
}

static void answer_service(fake *f, const seen_entry *e, answer *a) {
    place p = place_of(&e->seen);
    route r = find_route(&p);
    if (check_service_request(f, e, &p, &r, a)) {
        if (r.info->op == OP_FILES) {
            answer_files(f, e, a);
        } else if (r.info->op == OP_MODELS) {
            answer_models(f, e, a);
        } else {
            answer_json(f, e, &r, a);
        }
    }
    text_free(&r.deployment);
}

/* ------------------------------------------------------------------------------------------------ connections */

static char *copy_string(const char *string) {
    return string != NULL ? copy_bytes(string, strlen(string)) : NULL;
}

static script *script_copy(const fake_reply *reply) {
    script *s = must_have(calloc(1, sizeof *s));
    s->reply = *reply;
    s->reply.body_len = reply->body == NULL ? 0 : reply->body_len != 0 ? reply->body_len : strlen(reply->body);
    s->reply.raw_len = reply->raw == NULL ? 0 : reply->raw_len != 0 ? reply->raw_len : strlen(reply->raw);
    s->reply.reason = s->strings[0] = copy_string(reply->reason);
    s->reply.headers = s->strings[1] = copy_string(reply->headers);
    s->reply.body = s->strings[2] = copy_bytes(reply->body != NULL ? reply->body : "", s->reply.body_len);
    s->reply.raw = s->strings[3] = reply->raw != NULL ? copy_bytes(reply->raw, s->reply.raw_len) : NULL;
    return s;
}

static void script_free(script *s) {
    if (s == NULL) {
        return;
    }
    for (size_t i = 0; i < COUNT(s->strings); i++) {
        free(s->strings[i]);
    }
    free(s);
}

static script *take_script(fake *f, fake_role role) {
    lock(f);
    script *s = f->roles[role].scripts;
    if (s != NULL) {
        f->roles[role].scripts = s->next;
    }
    unlock(f);
    return s;
}

static void make_answer(fake *f, fake_role role, const seen_entry *e, answer *a) {
    switch (role) {
    case FAKE_ENTRA:
        answer_entra(f, e, a);
        break;
    case FAKE_IMDS:
        answer_imds(f, e, a);
        break;
    default:
        answer_service(f, e, a);
        break;
    }
}

static int scripted_status(const fake_reply *reply) {
    bool has_status = reply->raw != NULL && reply->raw_len > 12 && starts_with(reply->raw, "HTTP/1.");
    return has_status ? (int)strtol(reply->raw + 9, NULL, 10) : reply->status != 0 ? reply->status : 200;
}

/* Answers a request that is in hand; true if the connection goes on. */
static bool answer_request(connection *c, const seen_entry *e, const script *s) {
    const fake_reply *reply = s != NULL ? &s->reply : NULL;
    bool silent = reply != NULL ? reply->silent : setting(c->owner, c->role, FAKE_SILENCE) == 1;
    if (silent) {
        (void)stay(c, -1);
        return false;
    }
    if (reply != NULL && !stay(c, reply->delay_before_head_ms)) {
        return false;
    }
    if (reply != NULL && !reply->pass) {
        c->status = scripted_status(reply);
        return send_reply(c, e, reply);
    }
    answer a = {0};
    make_answer(c->owner, c->role, e, &a);
    c->status = a.status;
    bool goes_on = send_answer(c, e, &a, reply);
    answer_free(&a);
    return goes_on;
}

/* The body, unless the answer does not wait for it; false if the peer is gone. */
static bool receive_rest(connection *c, seen_entry *e, const script *s) {
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (e->unreadable || (s != NULL && s->reply.early)) {
        return true;
    }
    const char *expects = fake_seen_header(&e->seen, "expect");
    bool waits = expects != NULL && strcasecmp(expects, "100-continue") == 0 && (e->chunked || e->content_length > 0);
    if (waits && c->in.len == 0 && !send_all(c, go_on, sizeof go_on - 1)) {
        return false;
    }
    return read_body(c, e);
}

/* One request and its answer; true if another may follow. */
static bool serve_request(connection *c) {
    fake *f = c->owner;
    seen_entry *e = must_have(calloc(1, sizeof *e));
    if (!read_head(c, e)) {
        entry_free(e);
        return false;
    }
    script *s = e->unreadable ? NULL : take_script(f, c->role);
    take_in_hand(c);
    bool complete = receive_rest(c, e, s);
    bool goes_on = false;
    if (complete) {
        record(c, e);
        goes_on = answer_request(c, e, s);
    }
    settle(c, e, false);
    script_free(s);
    if (!complete || f->counts_only) {
        entry_free(e);
    }
    return goes_on;
}

static void *serve_connection(void *argument) {
    connection *c = argument;
    fake *f = c->owner;
    bool up = wait_while_deaf(c);
    if (up && c->secure && !start_tls(c)) {
        c->ending = END_FIN;
        up = false;
    }
    while (up) {
        up = wait_while_deaf(c) && await_request(c) && wait_while_deaf(c) && serve_request(c);
    }
    end_connection(c);
    mbedtls_ssl_free(&c->tls);
    text_free(&c->in);
    lock(f);
    c->finished = true;
    unlock(f);
    return NULL;
}

static void unlink_connection(fake *f, const connection *c) {
    connection **link = &f->connections;
    while (*link != c) {
        link = &(*link)->next;
    }
    *link = c->next;
}

/* Joins the threads that are done, or all. */
static void reap(fake *f, bool all) {
    connection *done = NULL;
    lock(f);
    for (connection *c = f->connections; c != NULL;) {
        connection *next = c->next;
        if (all || c->finished) {
            unlink_connection(f, c);
            c->next = done;
            done = c;
        }
        c = next;
    }
    unlock(f);
    while (done != NULL) {
        connection *c = done;
        done = c->next;
        (void)pthread_join(c->thread, NULL);
        free(c);
    }
}

static bool start_thread(pthread_t *thread, void *(*run)(void *), void *argument) {
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) {
        return false;
    }
    (void)pthread_attr_setstacksize(&attributes, STACK_SIZE);
    bool started = pthread_create(thread, &attributes, run, argument) == 0;
    (void)pthread_attr_destroy(&attributes);
    return started;
}

static void take_connection(fake *f, fake_role role, int fd) {
    int yes = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    connection *c = must_have(calloc(1, sizeof *c));
    mbedtls_ssl_init(&c->tls);
    c->owner = f;
    c->role = role;
    c->fd = fd;
    c->secure = f->roles[role].secure;
    lock(f);
    c->number = (unsigned)++f->roles[role].connection_count;
    c->next = f->connections;
    f->connections = c;
    bool started = !f->stopping && start_thread(&c->thread, serve_connection, c);
    if (!started) {
        f->connections = c->next;
        (void)close(fd);
        free(c);
    }
    (void)pthread_cond_broadcast(&f->changed);
    unlock(f);
}

static void accept_one(fake *f, fake_role role) {
    int fd = accept(f->roles[role].listener, NULL, NULL);
    if (fd >= 0) {
        take_connection(f, role, fd);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        (void)poll(NULL, 0, DEAF_POLL_MS);
    }
}

static void *accept_connections(void *argument) {
    fake *f = argument;
    struct pollfd wishes[FAKE_ROLE_COUNT + 1];
    for (int i = 0; i < FAKE_ROLE_COUNT; i++) {
        wishes[i] = (struct pollfd){.fd = f->roles[i].listener, .events = POLLIN};
    }
    wishes[FAKE_ROLE_COUNT] = (struct pollfd){.fd = f->wake[0], .events = POLLIN};
    for (;;) {
        int ready = poll(wishes, FAKE_ROLE_COUNT + 1, -1);
        if (ready > 0 && wishes[FAKE_ROLE_COUNT].revents != 0) {
            return NULL;
        }
        for (int i = 0; ready > 0 && i < FAKE_ROLE_COUNT; i++) {
            if ((wishes[i].revents & POLLIN) != 0) {
                accept_one(f, (fake_role)i);
            }
        }
        reap(f, false);
    }
}

/* Ends whatever a connection waits for. */
static void shut_connections(fake *f) {
    lock(f);
    f->stopping = true;
    for (connection *c = f->connections; c != NULL; c = c->next) {
        if (c->fd >= 0) {
            (void)shutdown(c->fd, SHUT_RDWR);
        }
    }
    unlock(f);
}

/* ------------------------------------------------------------------------------------------------ public functions */

static bool open_listener(role_state *r, unsigned port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    int yes = 1;
    r->listener = socket(AF_INET, SOCK_STREAM, 0);
    if (r->listener < 0) {
        return false;
    }
    (void)setsockopt(r->listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    (void)fcntl(r->listener, F_SETFL, O_NONBLOCK);
    if (port > 65535 || bind(r->listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(r->listener, SOMAXCONN) != 0 || getsockname(r->listener, (struct sockaddr *)&address, &size) != 0) {
        return false;
    }
    r->port = ntohs(address.sin_port);
    return true;
}

static void init_lock(fake *f) {
    pthread_condattr_t attributes;
    (void)pthread_mutex_init(&f->lock, NULL);
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&f->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    (void)pthread_mutex_init(&f->random_lock, NULL);
#endif
}

static fake *fake_new(const fake_options *options) {
    fake *f = must_have(calloc(1, sizeof *f));
    init_lock(f);
    init_tls(f);
    f->wake[0] = f->wake[1] = -1;
    f->started_ms = now_ms();
    f->counts_only = options->counts_only;
    f->roles[FAKE_SERVICE].secure = !options->plain_service;
    f->roles[FAKE_ENTRA].secure = !options->plain_entra;
    f->has_tls = f->roles[FAKE_SERVICE].secure || f->roles[FAKE_ENTRA].secure;
    for (int i = 0; i < FAKE_ROLE_COUNT; i++) {
        f->roles[i].listener = -1;
        f->roles[i].settings[FAKE_STREAM_EVENTS] = 2;
        f->roles[i].settings[FAKE_TOKEN_LIFETIME_S] = i == FAKE_IMDS ? 86399 : 3599;
    }
    return f;
}

/* NULL, or what failed. */
static const char *open_all(fake *f, const fake_options *options) {
    const char *problem = f->has_tls ? set_up_tls(f, options) : NULL;
    if (problem != NULL) {
        return problem;
    }
    for (int i = 0; i < FAKE_ROLE_COUNT; i++) {
        if (!open_listener(&f->roles[i], options->ports[i])) {
            return "a port cannot be listened at";
        }
    }
    if (options->log_path != NULL && (f->log = fopen(options->log_path, "w")) == NULL) {
        return "the log cannot be written";
    }
    return pipe(f->wake) != 0 ? "there is no pipe" : NULL;
}

static void close_if_open(int fd) {
    if (fd >= 0) {
        (void)close(fd);
    }
}

static void role_free(role_state *r) {
    while (r->scripts != NULL) {
        script *s = r->scripts;
        r->scripts = s->next;
        script_free(s);
    }
    for (size_t i = 0; i < r->entry_count; i++) {
        entry_free(r->entries[i]);
    }
    free(r->entries);
    close_if_open(r->listener);
}

/* Frees what no thread uses any more. */
static void fake_free(fake *f) {
    for (int i = 0; i < FAKE_ROLE_COUNT; i++) {
        role_free(&f->roles[i]);
    }
    while (f->tokens != NULL) {
        token *t = f->tokens;
        f->tokens = t->next;
        free(t);
    }
    close_if_open(f->wake[0]);
    close_if_open(f->wake[1]);
    if (f->log != NULL) {
        (void)fclose(f->log);
    }
    free_tls(f);
    (void)pthread_cond_destroy(&f->changed);
    (void)pthread_mutex_destroy(&f->lock);
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    (void)pthread_mutex_destroy(&f->random_lock);
#endif
    free(f);
}

fake *fake_start(const fake_options *options) {
    fake *f = fake_new(options);
    const char *problem = open_all(f, options);
    if (problem == NULL && !start_thread(&f->acceptor, accept_connections, f)) {
        problem = "there is no thread";
    }
    if (problem != NULL) {
        (void)fprintf(stderr, "fake service: %s\n", problem);
        fake_free(f);
        return NULL;
    }
    return f;
}

void fake_stop(fake *service) {
    if (service == NULL) {
        return;
    }
    shut_connections(service);
    (void)close(service->wake[1]);
    service->wake[1] = -1;
    (void)pthread_join(service->acceptor, NULL);
    for (int i = 0; i < FAKE_ROLE_COUNT; i++) {
        (void)close(service->roles[i].listener);
        service->roles[i].listener = -1;
    }
    shut_connections(service);
    reap(service, true);
    fake_free(service);
}

unsigned fake_port(fake *service, fake_role role) {
    return service->roles[role].port;
}

void fake_push(fake *service, fake_role role, const fake_reply *reply) {
    script *s = script_copy(reply);
    lock(service);
    script **link = &service->roles[role].scripts;
    while (*link != NULL) {
        link = &(*link)->next;
    }
    *link = s;
    unlock(service);
}

size_t fake_pending(fake *service, fake_role role) {
    size_t count = 0;
    lock(service);
    for (const script *s = service->roles[role].scripts; s != NULL; s = s->next) {
        count++;
    }
    unlock(service);
    return count;
}

void fake_clear(fake *service, fake_role role) {
    script *s;
    while ((s = take_script(service, role)) != NULL) {
        script_free(s);
    }
}

void fake_set(fake *service, fake_role role, fake_setting which, int value) {
    lock(service);
    service->roles[role].settings[which] = value;
    unlock(service);
}

void fake_revoke_tokens(fake *service) {
    lock(service);
    for (token *t = service->tokens; t != NULL; t = t->next) {
        t->revoked = true;
    }
    unlock(service);
}

/* Marks the idle connections, or counts those that were marked and have not ended yet. */
static size_t drop_idle(fake *f, fake_role role, bool mark) {
    size_t count = 0;
    for (connection *c = f->connections; c != NULL; c = c->next) {
        if (c->role == role && mark && c->idle && !c->dropped) {
            c->dropped = true;
            (void)shutdown(c->fd, SHUT_RD);
        }
        count += c->role == role && c->dropped && !c->ended ? 1 : 0;
    }
    return count;
}

static struct timespec in_ms(int ms) {
    struct timespec end;
    (void)clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += ms / 1000;
    end.tv_nsec += (long)(ms % 1000) * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }
    return end;
}

/* Comes back when the connections are closed; not if a peer that does not read holds the last bytes up for long. */
void fake_drop_connections(fake *service, fake_role role) {
    struct timespec end = in_ms(LINGER_MS);
    lock(service);
    size_t open = drop_idle(service, role, true);
    while (open > 0 && pthread_cond_timedwait(&service->changed, &service->lock, &end) != ETIMEDOUT) {
        open = drop_idle(service, role, false);
    }
    unlock(service);
}

static size_t read_count(fake *f, const size_t *count) {
    lock(f);
    size_t value = *count;
    unlock(f);
    return value;
}

size_t fake_count(fake *service, fake_role role) {
    return read_count(service, &service->roles[role].seen_count);
}

const fake_seen *fake_request(fake *service, fake_role role, size_t index) {
    lock(service);
    const role_state *r = &service->roles[role];
    const fake_seen *seen = index < r->entry_count ? &r->entries[index]->seen : NULL;
    unlock(service);
    return seen;
}

size_t fake_connections(fake *service, fake_role role) {
    return read_count(service, &service->roles[role].connection_count);
}

size_t fake_most_concurrent(fake *service, fake_role role) {
    return read_count(service, &service->roles[role].most_active);
}

size_t fake_resumptions(fake *service) {
    return read_count(service, &service->resumptions);
}

bool fake_wait(fake *service, fake_role role, size_t count, int ms) {
    struct timespec end = in_ms(ms);
    const size_t *seen = &service->roles[role].seen_count;
    lock(service);
    while (*seen < count && pthread_cond_timedwait(&service->changed, &service->lock, &end) != ETIMEDOUT) {
    }
    bool enough = *seen >= count;
    unlock(service);
    return enough;
}

const char *fake_seen_header(const fake_seen *seen, const char *name) {
    for (size_t i = 0; i < seen->header_count; i++) {
        if (strcasecmp(seen->headers[i].name, name) == 0) {
            return seen->headers[i].value;
        }
    }
    return NULL;
}

bool fake_seen_field(const fake_seen *seen, const char *name, char *out, size_t size) {
    place p = place_of(seen);
    text value = {0};
    bool found =
        form_find(p.query, p.query_len, name, &value) > 0 || (form_find(seen->body, seen->body_len, name, &value) > 0);
    bool fits = found && value.len < size;
    if (fits) {
        memcpy(out, value.data, value.len);
        out[value.len] = '\0';
    }
    text_free(&value);
    return fits;
}
