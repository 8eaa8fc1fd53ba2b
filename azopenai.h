/* azopenai.h - v0.1.0 - Azure OpenAI from C, without an API key - SPDX-License-Identifier: MIT
 *
 *     #define AZOPENAI_IMPLEMENTATION                              in ONE C or C++ file; the others only include it
 *     #include "azopenai.h"
 *     #include <stdio.h>
 *
 *     int main(void) {
 *         azo_client *client;
 *         azo_error err;
 *         if (azo_client_open(NULL, &client, &err) == AZO_OK) {
 *             azo_message messages[] = {azo_system("Be brief."), azo_user("What is C?")};
 *             azo_chat_desc chat = {0};
 *             azo_chat_reply reply;
 *             chat.messages = messages;
 *             chat.message_count = 2;
 *             if (azo_chat(client, &chat, &reply, &err) == AZO_OK) {
 *                 printf("%s\n", reply.text.ptr != NULL ? reply.text.ptr : "(no text)");
 *             }
 *             azo_chat_reply_free(&reply);
 *             azo_client_close(client);
 *         }
 *         if (err.code != AZO_OK) {
 *             fprintf(stderr, "%s\n", err.message);
 *         }
 *         return err.code == AZO_OK ? 0 : 1;
 *     }
 *
 *     AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_DEPLOYMENT say where; the identity is found as below. In C++ write
 *     `azo_chat_desc chat = {};`. Link with -lmbedtls -lmbedx509 -lmbedcrypto (mbedTLS 2.28 or 3.6; with 4.x
 *     -ltfpsacrypto takes the place of the last). jsmn.h has to be on the include path; nothing of it is linked, and
 *     a jsmn of your own in the same file is left alone.
 *
 * CONTENTS (search for >>word)
 *
 *     config types descs functions                                 the public half
 *     prologue structs memory strings error json http sse time     the private half, strictly bottom-up: a section
 *     pump transport connections attempts credentials calls        uses only those before it
 *     public end
 *
 * IDENTITY
 *
 *     With nothing in the desc: AZURE_OPENAI_AD_TOKEN, else AZURE_OPENAI_API_KEY, else the chain: a client secret from
 *     the environment (AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET), then managed identity (IMDS). A member
 *     that is not configured is passed over; one that is refused ends the chain. AZURE_TOKEN_CREDENTIALS leaves one
 *     member (EnvironmentCredential, ManagedIdentityCredential) or both (prod). credential.kind = AZO_CRED_CHAIN asks
 *     for the chain even where a key is set; token_provider brings any other source. Tokens are cached by scope,
 *     renewed ahead of time, fetched once for all who wait. azo_token hands one to other tools, azo_client_export all
 *     of them to the next run.
 *
 * STREAMING
 *
 *     static int on_event(const azo_event *ev, void *user_data) {
 *         if (ev->kind == AZO_EVENT_TEXT) fputs(ev->text.ptr, stdout);
 *         return AZO_GO_ON;                                        or AZO_STOP, or AZO_PAUSE
 *     }
 *     chat.on_event = on_event;                                    the reply is assembled all the same
 *
 * NON-BLOCKING
 *
 *     azo_request *request;
 *     if (azo_chat_begin(client, &chat, &request, &err) == AZO_OK) {    any number of them, from one thread
 *         while (azo_request_result(request) == AZO_PENDING)
 *             azo_poll(client, -1);                                or azo_wait, your own poll, azo_step
 *         azo_chat_end(request, &reply, &err);
 *     }
 *
 *     Nothing but name lookup (getaddrinfo) and the first reading of the root certificates blocks in a step; both go
 *     away with an azo_transport hook and ca_pem. azo_loop pushes wishes to epoll, libuv and the like.
 *
 * OWNERSHIP AND LIFETIME
 *
 *     1. Desc structs and what they point to may die when the call returns. By reference stay: hooks and their
 *        user_data (until the client closes); a request's callbacks, tag, vectors, borrowed body and read_body (until
 *        azo_X_end or azo_request_free).
 *     2. Who opens closes: open and close, begin and end (or free), reply and reply_free, export and azo_state_free.
 *        `out` is zeroed first, so freeing after a failure is always right.
 *     3. azo_request_cancel only marks; azo_X_end takes the outcome and frees; azo_request_free drops in any state.
 *        azo_client_close is final; live requests become cancelled shells that still want end or free.
 *     4. An azo_str of an event lives until the callback returns, one of a reply until its reply_free. A NUL follows.
 *     5. A client and its requests belong to one thread at a time. Clients are independent. There are no globals but
 *        those of mbedTLS 3.x and 4.x: for clients in several threads build it with MBEDTLS_THREADING_C.
 *     6. All memory comes from the client's allocator. The C library (getaddrinfo, files) and mbedTLS use their own,
 *        and the PSA start-up of mbedTLS (3.x, 4.x) is for the whole process.
 *
 * INSIDE A CALLBACK                              event, data     read_body, hooks, token provider
 *
 *     azo_X_begin, cancel, resume, free            yes             no
 *     azo_next, azo_wait, azo_request_result, tag  yes             no
 *     azo_json_*, history                          yes             azo_json_* only
 *     azo_client_close                             when it returns no
 *     azo_step, azo_poll, azo_X, azo_X_end,
 *     azo_client_export, import                    AZO_ERR_STATE   no
 *
 * OPTIONS (define them before the implementation; those marked * in every file that includes the header)
 *
 *     AZO_STATIC *           all functions static, for a single file
 *     AZO_API *              linkage of the functions, e.g. for a DLL
 *     AZO_NO_SOCKETS         no built-in transport: azo_client_desc.transport is needed
 *     AZO_NO_CLOCK           no built-in clock: azo_client_desc.clock is needed
 *     AZO_NO_ENV             the environment is not read
 *     AZO_NO_STDIO           no file is read: root certificates come from ca_pem
 *     AZO_NO_STREAM          no server-sent events: `stream` and on_event are refused
 *     AZO_NO_SECRET          no client secret, so no Entra ID
 *     AZO_NO_IMDS            no managed identity
 *     AZO_NO_PROXY           no tunnels: a proxy is refused
 *     AZO_NO_LOG             the logger gets nothing
 *     AZO_NO_SENTENCES       azo_error.message has a number only; what else azo_error holds is as ever
 *     AZO_NO_EMBED *         without azo_embed
 *     AZO_NO_RAW *           without azo_raw
 *     AZO_NO_HISTORY *       without azo_history
 *     AZO_NO_POOL *          without azo_pool
 *     AZO_NO_STATE *         without azo_client_export and azo_client_import
 *     AZO_JSMN_HEADER        where jsmn is, e.g. "third_party/jsmn.h"; <jsmn.h> by default
 *     AZO_DEFAULT_x, AZO_MAX_x   see >>config
 *
 * SECURITY
 *
 *     TLS 1.2 or newer with certificate and host name verified, always; there is no switch to turn that off. Plain
 *     HTTP goes to loopback addresses and the instance metadata service only. Redirects are never followed. Every
 *     buffer that grows has a cap. Secrets are wiped before their memory is freed and are in no error and no log line.
 *
 * WHAT IT DOES NOT DO
 *
 *     Certificate, federated and developer (az login) credentials: see token_provider and examples/az_login.c.
 *     HTTP/2, compression, cookies, HTTPS proxies, Windows sockets. No fallback for mbedTLS or jsmn.
 *
 * The licence and the history stand at the end of the file.
 */
/* The implementation needs sockets and clocks, which -std=c99 hides, and libc listens to this only before its first
 * header, so it cannot wait for the second include of a file that includes this twice. */
#if defined(__STRICT_ANSI__) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif

#ifndef AZOPENAI_H
#define AZOPENAI_H

/* >>config */

#define AZO_VERSION_MAJOR 0
#define AZO_VERSION_MINOR 1
#define AZO_VERSION_PATCH 0
#define AZO_VERSION "0.1.0"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Linkage of every public function. Everywhere; the same in all files that include the header. */
#ifndef AZO_API
#if defined(AZO_STATIC) && defined(__GNUC__)
#define AZO_API static __attribute__((unused))
#elif defined(AZO_STATIC)
#define AZO_API static
#else
#define AZO_API extern
#endif
#endif

/* What a zero in a desc stands for. Implementation file only. Times in milliseconds. */
#ifndef AZO_DEFAULT_CONNECT_MS
#define AZO_DEFAULT_CONNECT_MS 10000 /* name lookup excepted, TLS handshake included */
#endif
#ifndef AZO_DEFAULT_FIRST_BYTE_MS
#define AZO_DEFAULT_FIRST_BYTE_MS 600000 /* reasoning models think for minutes before they answer */
#endif
#ifndef AZO_DEFAULT_IDLE_MS
#define AZO_DEFAULT_IDLE_MS 120000 /* silence inside a body */
#endif
#ifndef AZO_DEFAULT_TOTAL_MS
#define AZO_DEFAULT_TOTAL_MS 600000 /* token, every attempt, every wait and the body */
#endif
#ifndef AZO_DEFAULT_RETRY_WAIT_MS
#define AZO_DEFAULT_RETRY_WAIT_MS 60000 /* the longest Retry-After that is waited for */
#endif
#ifndef AZO_DEFAULT_RETRIES
#define AZO_DEFAULT_RETRIES 2
#endif
#ifndef AZO_DEFAULT_RESPONSE_BYTES
#define AZO_DEFAULT_RESPONSE_BYTES (64u * 1024 * 1024) /* a body that is collected, and a stream's assembled text */
#endif
#ifndef AZO_DEFAULT_HEADER_BYTES
#define AZO_DEFAULT_HEADER_BYTES (64u * 1024) /* a response head */
#endif
#ifndef AZO_DEFAULT_EVENT_BYTES
#define AZO_DEFAULT_EVENT_BYTES (16u * 1024 * 1024) /* one server-sent event */
#endif
#ifndef AZO_MAX_IDLE_CONNECTIONS
#define AZO_MAX_IDLE_CONNECTIONS 16 /* kept for the next request, for 30 s; each takes some 45 KB; 0: none */
#endif
#ifndef AZO_MAX_JSON_DEPTH
#define AZO_MAX_JSON_DEPTH 64 /* 100,000 opening brackets take jsmn seconds; nothing real nests this deep */
#endif
#ifndef AZO_MAX_TOKEN_BYTES
#define AZO_MAX_TOKEN_BYTES (64u * 1024) /* an access token, and the buffer a token provider fills */
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* >>types */

/* Zero is the default of every member of every desc; AZO_OFF says "none" or "no limit" where zero has a meaning. */
#define AZO_OFF (-1)

/* From a transport hook: nothing now, ask again when the descriptor is ready. */
#define AZO_IO_AGAIN (-1000)

/* Outcomes, grouped by where things went wrong. azo_error.who says who can mend it. */
#define AZO_RESULTS(X)                                                                                                 \
    X(AZO_PENDING, 1)            /* not finished: step on */                                                           \
    X(AZO_OK, 0)                                                                                                       \
    X(AZO_ERR_ARGUMENT, -1)      /* a desc or an environment variable is wrong: nothing was sent; or read_body */      \
    X(AZO_ERR_STATE, -2)         /* not allowed here: inside a callback, or on a client that is being closed */        \
    X(AZO_ERR_MEMORY, -3)        /* the allocator said no */                                                           \
    X(AZO_ERR_LIMIT, -4)         /* a cap of the desc was hit */                                                       \
    X(AZO_ERR_UNSUPPORTED, -5)   /* not in this library, or not in this build of it */                                 \
    X(AZO_ERR_RESOLVE, -10)      /* the host name has no address */                                                    \
    X(AZO_ERR_CONNECT, -11)      /* no address answered */                                                             \
    X(AZO_ERR_PROXY, -12)        /* the proxy refused the tunnel */                                                    \
    X(AZO_ERR_TLS, -13)          /* the handshake or a record failed */                                                \
    X(AZO_ERR_TLS_VERIFY, -14)   /* the certificate is not acceptable */                                               \
    X(AZO_ERR_TRUST_STORE, -15)  /* no root certificates to check against */                                           \
    X(AZO_ERR_TIMEOUT, -16)      /* a time limit passed */                                                             \
    X(AZO_ERR_CLOSED, -17)       /* the peer went away in the middle */                                                \
    X(AZO_ERR_NO_CREDENTIAL, -20) /* no member of the chain is configured or there */                                  \
    X(AZO_ERR_TOKEN, -21)        /* Entra ID refused or did not answer */                                              \
    X(AZO_ERR_IMDS, -22)         /* managed identity refused or did not answer */                                      \
    X(AZO_ERR_PROVIDER, -23)     /* the token provider failed */                                                       \
    X(AZO_ERR_HTTP, -30)         /* the peer broke HTTP */                                                             \
    X(AZO_ERR_JSON, -31)         /* the peer broke JSON, or the JSON is not the answer that was asked for */           \
    X(AZO_ERR_STREAM, -32)       /* the stream ended early; the text so far is in the reply */                         \
    X(AZO_ERR_REDIRECT, -33)     /* redirects are never followed */                                                    \
    X(AZO_ERR_BAD_REQUEST, -40)  /* any other refusal: 400, 413, 422, ... */                                           \
    X(AZO_ERR_UNAUTHORIZED, -41) /* the key or token is not accepted */                                                \
    X(AZO_ERR_FORBIDDEN, -42)    /* the identity lacks a role, or the network is not allowed */                        \
    X(AZO_ERR_NOT_FOUND, -43)    /* no such deployment or path */                                                      \
    X(AZO_ERR_RATE_LIMIT, -44)   /* wait retry_after_ms, or raise the quota */                                         \
    X(AZO_ERR_CONTENT_FILTER, -45) /* the text was blocked; an answer cut by it is OK, with that finish_reason */      \
    X(AZO_ERR_SERVICE, -46)      /* 408, 409, 5xx after all retries */                                                 \
    X(AZO_ERR_CANCELLED, -50)    /* by azo_request_cancel, AZO_STOP, interrupted or azo_client_close */

#define AZO_ENUMERATOR_(name, value) name = value,
typedef enum azo_result { AZO_RESULTS(AZO_ENUMERATOR_) } azo_result;
#undef AZO_ENUMERATOR_

/* Who can mend a failure. */
typedef enum azo_who {
    AZO_WHO_NOBODY,   /* no failure, or cancelled on purpose */
    AZO_WHO_PROGRAM,  /* whoever wrote the call or set the variables */
    AZO_WHO_MACHINE,  /* whoever runs this machine: network, proxy, clock, root certificates, memory */
    AZO_WHO_IDENTITY, /* the Entra ID administrator: secret, app, managed identity */
    AZO_WHO_RESOURCE, /* the owner of the Azure resource: deployment, role, firewall, quota */
    AZO_WHO_PROMPT,   /* the author of the text: the content filter objected */
    AZO_WHO_WAIT,     /* nobody: wait and try again */
    AZO_WHO_REPORT    /* nobody here: the peer broke its protocol, report it */
} azo_who;

/* Where in a call the failure happened. */
typedef enum azo_stage {
    AZO_STAGE_SETUP,
    AZO_STAGE_TOKEN,
    AZO_STAGE_CONNECT,
    AZO_STAGE_TLS,
    AZO_STAGE_SEND,
    AZO_STAGE_HEAD,
    AZO_STAGE_BODY,
    AZO_STAGE_WAIT
} azo_stage;

typedef struct azo_client azo_client;   /* one identity, its connections, usually one endpoint */
typedef struct azo_request azo_request; /* one call on its way */
typedef struct azo_history azo_history; /* a growing conversation */

/* A view of bytes. Every one that the library hands out has a NUL at ptr[len], which len does not count; ptr is NULL
 * where the peer sent nothing (or null). */
typedef struct azo_str {
    const char *ptr;
    size_t len;
} azo_str;

/* Optional values, for which zero is a value too; see azo_num, azo_int and azo_bool. */
typedef struct azo_opt_num {
    bool set;
    double value;
} azo_opt_num;
typedef struct azo_opt_int {
    bool set;
    int64_t value;
} azo_opt_int;
typedef struct azo_opt_bool {
    bool set;
    bool value;
} azo_opt_bool;

typedef struct azo_header {
    const char *name;
    const char *value;
} azo_header;

/* What went wrong. A plain value: copy it, keep it, nothing to free. No secret or token is ever in it, and of the
 * prompt only what the server quotes, in `detail`. */
typedef struct azo_error {
    int http_status; /* 0: no HTTP answer was involved */
    azo_result code;
    azo_who who;
    azo_stage stage;
    int attempts;             /* HTTP attempts made by the call */
    int aadsts;               /* Entra ID's number (7000215: wrong secret); 0: none */
    int tls_code;             /* mbedTLS's negative number; 0: none */
    int sys_errno;            /* errno; for AZO_ERR_RESOLVE what getaddrinfo returned; 0: none */
    uint32_t tls_verify_flags; /* MBEDTLS_X509_BADCERT_x */
    int32_t retry_after_ms;   /* the wait that the service asked for; -1: none */
    size_t json_offset;       /* of the first malformed byte, for AZO_ERR_JSON */
    char service_code[64];    /* "DeploymentNotFound", "content_filter", "invalid_client", ... */
    char request_id[80];      /* to quote to support */
    char message[512];        /* two sentences: what failed, with its number; what to do next */
    char detail[512];         /* the server's own words, or one line per credential of a chain; may be empty */
} azo_error;

/* ---- Hooks. All zero means built in. They and what they point to live until azo_client_close returns. ---- */

/* realloc with sizes and context: old_size 0 allocates, new_size 0 frees (and returns NULL). Frees do not come in
 * LIFO order. mbedTLS allocates through its own platform layer, not through this. */
typedef struct azo_allocator {
    void *user_data;
    void *(*resize)(void *ptr, size_t old_size, size_t new_size, void *user_data);
} azo_allocator;

#ifndef AZO_NO_POOL
/* One buffer for all that a client allocates, or several clients of one thread; see azo_pool_init. */
typedef struct azo_pool {
    size_t used; /* bytes now */
    size_t peak; /* a buffer of so many bytes would have been enough for everything so far */
    void *buffer;
    union azoi_gap *gaps;
} azo_pool;
#endif

/* mbedTLS judges certificates by a clock of its own: time(), or what mbedtls_platform_set_time gave it. */
typedef struct azo_clock {
    void *user_data;
    int64_t (*monotonic_ms)(void *user_data);
    int64_t (*unix_seconds)(void *user_data); /* 0: not known; dates in headers are then ignored */
} azo_clock;

enum { AZO_LOG_WARN = 1, AZO_LOG_INFO = 2, AZO_LOG_DEBUG = 3 };

/* Gets what `curl -v` would show, one line at a time without its line end, with every secret replaced. */
typedef struct azo_logger {
    void *user_data;
    void (*line)(int level, const char *text, void *user_data);
} azo_logger;

enum { AZO_POLL_IN = 1, AZO_POLL_OUT = 2 };

/* A descriptor and what it is waited for. The id names the connection behind it and stays true when the number of
 * the descriptor is used again; one connection may have two descriptors for a moment. */
typedef struct azo_watch {
    intptr_t fd;
    uint32_t id;
    unsigned events;
} azo_watch;

typedef struct azo_target {
    const char *host; /* name or numeric address, no brackets */
    uint16_t port;
    uint32_t id; /* for azo_step, where there is no descriptor to watch */
} azo_target;

/* How bytes travel; the built-in one is POSIX sockets. TLS runs above it.
 *
 * `open` starts and never waits; if it fails there is nothing to close. `connect` is repeated until it returns 0 (or
 * an AZO_ERR_x). `recv` and `send` return how many bytes (> 0), 0 for the peer's end (recv), AZO_IO_AGAIN or an
 * AZO_ERR_x; errno, where set, ends up in azo_error.sys_errno. `watch` fills in up to `cap` descriptors to wait for
 * and returns how many there are; it may lower *timeout_ms to be asked again by itself. A descriptor that was
 * reported lives until `close`; what `open` has set going elsewhere, like the lookup of a name, may end after that and
 * must then do no harm. `poll` sleeps until a descriptor is ready or the time is over (-1: never), replaces `events` by
 * what happened and returns how many are ready, or -1 when it was interrupted; it serves blocking calls and azo_poll
 * only and may be NULL without them. */
typedef struct azo_transport {
    void *user_data;
    azo_result (*open)(const azo_target *to, void **conn, void *user_data);
    int (*connect)(void *conn, void *user_data);
    ptrdiff_t (*recv)(void *conn, void *buf, size_t cap, void *user_data);
    ptrdiff_t (*send)(void *conn, const void *buf, size_t len, void *user_data);
    size_t (*watch)(void *conn, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms, void *user_data);
    void (*close)(void *conn, void *user_data);
    int (*poll)(azo_watch *set, size_t count, int32_t timeout_ms, void *user_data);
} azo_transport;

/* For epoll, kqueue, libuv, GLib: pushes what azo_wait would answer, as it changes. Users of poll leave it zero.
 * `watch` registers, changes and (events 0, just before the descriptor is closed) unregisters; `slot` is a pointer
 * of yours per descriptor, NULL at first; nonzero means that you could not, and fails that connection. `timer` gives
 * the time until azo_step wants to be called again: -1 never, 0 soon. Neither may call the library. */
typedef struct azo_loop {
    void *user_data;
    int (*watch)(intptr_t fd, unsigned events, uint32_t id, void **slot, void *user_data);
    void (*timer)(int32_t timeout_ms, void *user_data);
} azo_loop;

/* >>descs */

/* ---- Identity ---- */

enum {
    AZO_CRED_AUTO = 0,   /* AZURE_OPENAI_AD_TOKEN, else AZURE_OPENAI_API_KEY, else the chain */
    AZO_CRED_CHAIN = 1,  /* environment client secret, then managed identity: never a key */
    AZO_CRED_SECRET = 2, /* client secret only */
    AZO_CRED_IMDS = 3    /* managed identity only */
};

/* What is NULL comes from the environment: AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET,
 * AZURE_AUTHORITY_HOST; in a chain AZURE_CLIENT_ID also names the user-assigned identity, unless one of the
 * managed_x is given ("" for the system-assigned one). Of the managed_x at most one. */
typedef struct azo_credential_desc {
    const char *tenant_id;
    const char *client_id;
    const char *client_secret;
    const char *authority_host;
    const char *managed_client_id;
    const char *managed_object_id;
    const char *managed_resource_id;
    int kind;
} azo_credential_desc;

/* A token provider is azure_ad_token_provider in C: it writes a token into answer->token (token_cap bytes; the
 * library owns and wipes them), sets token_len and expires_in_s (0: not known, ask again for each request) and
 * returns AZO_OK. On failure it may point error_text at a sentence and returns an AZO_ERR_x. It may also return
 * AZO_PENDING after setting what to wait for (a descriptor, a time, or both), and is asked again then; *ask->state,
 * NULL at first, is its own. If everybody stopped waiting it is called once more with `abandon`, to clean up.
 * `claims` is not NULL after a claims challenge and must then reach the token request. */
typedef struct azo_token_ask {
    const char *scope;
    const char *claims;
    void **state;
    bool abandon;
} azo_token_ask;
typedef struct azo_token_answer {
    char *token;
    size_t token_cap;
    size_t token_len;
    int64_t expires_in_s;
    const char *error_text;
    intptr_t wait_fd;     /* preset to -1 */
    unsigned wait_events; /* AZO_POLL_x */
    int32_t wait_ms;      /* preset to -1 */
} azo_token_answer;
typedef azo_result (*azo_token_fn)(const azo_token_ask *ask, azo_token_answer *answer, void *user_data);

/* ---- Client ---- */

typedef struct azo_client_desc {
    const char *endpoint;    /* NULL: AZURE_OPENAI_ENDPOINT; any spelling that the portal offers */
    const char *deployment;  /* NULL: AZURE_OPENAI_DEPLOYMENT */
    const char *api_version; /* NULL: OPENAI_API_VERSION, else AZURE_OPENAI_API_VERSION. One: dated route; none: v1 */
    const char *scope;       /* NULL: by route and cloud, "https://ai.azure.com/.default" and the like */

    /* At most one of the three. */
    const char *api_key;
    azo_token_fn token_provider;
    azo_credential_desc credential;
    void *token_user_data;

    const char *ca_file;  /* PEM bundle; NULL: SSL_CERT_FILE, then the usual places */
    azo_str ca_pem;       /* the same from memory */
    const char *proxy;    /* "http://[user:password@]host[:port]"; NULL: HTTPS_PROXY; "": none */
    const char *no_proxy; /* comma-separated host suffixes, or "*"; NULL: NO_PROXY */

    const char *auth_header;   /* carries the API key; NULL: "api-key"; API Management may want its own */
    const azo_header *headers; /* sent with every request to the service; their values are never logged */
    size_t header_count;

    int32_t connect_timeout_ms;
    int32_t first_byte_timeout_ms;
    int32_t idle_timeout_ms;
    int32_t total_timeout_ms;
    int32_t max_retry_wait_ms;
    int max_retries;     /* AZO_OFF: none */
    int max_connections; /* to the service at one time; 0: no limit */
    size_t max_response_bytes;
    size_t max_header_bytes;
    size_t max_event_bytes;

    bool (*interrupted)(void *user_data); /* asked after every wake-up of a blocking call; true ends it */
    void *interrupt_user_data;

    azo_allocator allocator;
    azo_transport transport;
    azo_clock clock;
    azo_logger logger;
    azo_loop loop;
} azo_client_desc;

/* ---- Parts of every call ---- */

typedef struct azo_call {
    void *tag;            /* yours; azo_request_tag gives it back */
    const char *endpoint; /* NULL: the client's */
    int32_t connect_timeout_ms; /* here and below: 0: the client's, AZO_OFF: none; not of what fetches a token */
    int32_t first_byte_timeout_ms;
    int32_t idle_timeout_ms;
    int32_t total_timeout_ms;
    int max_retries;
    const azo_header *headers; /* added to the client's, whatever their names */
    size_t header_count;
} azo_call;

/* What the service says about its limits; -1 where it says nothing. */
typedef struct azo_rate_limits {
    int64_t remaining_requests;
    int64_t remaining_tokens;
    int64_t limit_requests;
    int64_t limit_tokens;
    int32_t reset_requests_ms;
    int32_t reset_tokens_ms;
} azo_rate_limits;

/* The HTTP side of an answer; filled in on failure too, as far as it got. */
typedef struct azo_http {
    int status; /* 0: there was no answer */
    int attempts;
    azo_str request_id;
    azo_str region;
    azo_str headers; /* the whole block, for azo_http_header */
    azo_str body;    /* empty where it was streamed or decoded into vectors */
    azo_rate_limits limits;
} azo_http;

/* What an event or data callback answers. */
enum {
    AZO_GO_ON = 0,
    AZO_STOP = 1, /* cancel the request */
    AZO_PAUSE = 2 /* taken; nothing more until azo_request_resume, unless all of the answer has come. A blocking call,
                   * which nobody could resume, ends with AZO_ERR_STATE */
};

enum {
    AZO_EVENT_TEXT = 1,  /* text: a piece of the answer */
    AZO_EVENT_REFUSAL,   /* text: a piece of a refusal */
    AZO_EVENT_TOOL_CALL, /* tool: index of the call; tool_id and tool_name with its first piece; text: arguments */
    AZO_EVENT_FILTER,    /* text: content filter results, a JSON object; choice -1: those of the prompt */
    AZO_EVENT_FINISH,    /* text: the reason */
    AZO_EVENT_USAGE,     /* text: a JSON object */
    AZO_EVENT_OTHER      /* a chunk with none of these; every event of a raw call */
};

typedef struct azo_event {
    int kind;
    int choice;
    int tool;
    azo_str text;
    azo_str tool_id;
    azo_str tool_name;
    azo_str name; /* of the server-sent event; the chat stream has none */
    azo_str json; /* the whole chunk, as it came */
} azo_event;

typedef int (*azo_event_fn)(const azo_event *event, void *user_data);
typedef int (*azo_data_fn)(const void *data, size_t len, void *user_data);
/* pread of a request body: how many bytes (> 0), or a negative number to give up. May be asked for the same offset
 * again: a retry starts over. */
typedef ptrdiff_t (*azo_read_fn)(uint64_t offset, void *buf, size_t cap, void *user_data);

/* ---- Token ---- */

typedef struct azo_token_desc {
    const char *scope;  /* NULL: the client's */
    const char *claims; /* NULL, or a claims challenge to satisfy; the cache is passed by */
    azo_call call;      /* without endpoint and headers: those are for the service */
} azo_token_desc;

typedef struct azo_token_reply {
    void *owned;
    azo_str token;
    int64_t expires_in_s; /* left now; 0: not known */
    const char *source;   /* "environment", "managed identity", "provider", "static" */
} azo_token_reply;

/* ---- Chat ---- */

/* One message: role and content, or the whole of it as raw_json. See azo_user and its siblings. */
typedef struct azo_message {
    const char *role;
    const char *content;      /* text */
    const char *content_json; /* instead of content: an array of parts, or null */
    const char *name;
    const char *tool_call_id; /* in a tool message */
    const char *raw_json;     /* instead of all the above: a JSON object, sent as it is */
} azo_message;

typedef struct azo_tool {
    const char *name;
    const char *description;
    const char *parameters_json; /* a JSON schema; NULL: no parameters */
    azo_opt_bool strict;
} azo_tool;

typedef struct azo_tool_call {
    azo_str id;
    azo_str name;
    azo_str arguments; /* as the model wrote them: may be invalid JSON */
} azo_tool_call;

typedef struct azo_chat_desc {
    const azo_message *messages; /* after those of `history`, if both are given */
    size_t message_count;
    const azo_history *history;
    const char *deployment; /* NULL: the client's */

    const azo_tool *tools;
    size_t tool_count;
    const char *tool_choice; /* "auto", "none", "required", a tool's name, or a JSON object */
    const char *response_format_json;
    const char *reasoning_effort;
    const char *user;

    azo_opt_num temperature;
    azo_opt_num top_p;
    azo_opt_num presence_penalty;
    azo_opt_num frequency_penalty;
    azo_opt_int seed;
    azo_opt_int top_logprobs;
    azo_opt_bool logprobs;
    azo_opt_bool parallel_tool_calls;
    azo_opt_bool include_usage; /* with streaming: usage in the last chunk */
    int32_t max_completion_tokens; /* 0: not sent; what current models want */
    int32_t max_tokens;            /* 0: not sent; refused by reasoning models */
    int32_t n;                     /* 0: not sent */

    const char *extra_json; /* {"stop": ["\n"], ...}: merged in; a member that a field sets too is an error */
    bool stream;            /* stream without a callback: long answers escape the gateway's 408 */
    azo_event_fn on_event;  /* stream with one */
    void *user_data;
    azo_call call;
} azo_chat_desc;

typedef struct azo_choice {
    azo_str text;
    azo_str refusal;
    azo_str finish_reason; /* "stop", "length", "tool_calls", "content_filter", ... */
    azo_str filter_json;   /* content filter results; empty: none */
    azo_str message_json;
    const azo_tool_call *tool_calls;
    size_t tool_call_count;
} azo_choice;

/* The first six members are those of choices[0]. The same with and without streaming, but for http.body. */
typedef struct azo_chat_reply {
    void *owned;
    azo_str text;
    azo_str refusal;
    azo_str finish_reason;
    azo_str message_json; /* the assistant's message, to be sent back; see azo_same */
    const azo_tool_call *tool_calls;
    size_t tool_call_count;

    const azo_choice *choices; /* by index */
    size_t choice_count;
    azo_str id;
    azo_str model;
    azo_str prompt_filter_json;

    int64_t prompt_tokens; /* -1 here and below: the service did not say */
    int64_t cached_tokens;
    int64_t completion_tokens;
    int64_t reasoning_tokens;
    azo_str usage_json;
    azo_http http;
} azo_chat_reply;

/* ---- Embeddings ---- */

typedef struct azo_embed_desc {
    const azo_str *inputs;
    size_t input_count;
    const char *deployment;
    int32_t dimensions; /* 0: the model's own */
    float *vectors;     /* NULL: the reply owns them; else room for vector_cap floats, alive until end or free */
    size_t vector_cap;
    const char *extra_json;
    azo_call call;
} azo_embed_desc;

typedef struct azo_embed_reply {
    void *owned;
    const float *vectors; /* count rows of `dimensions` floats, in the order of the inputs */
    size_t count;
    size_t dimensions;
    int64_t prompt_tokens;
    azo_http http;
} azo_embed_reply;

/* ---- Raw: whatever has no typed call ---- */

typedef struct azo_raw_desc {
    const char *method; /* NULL: POST with a body, else GET */
    const char *path;   /* relative to the root of the route: "/responses", "/files/x" */
    const char *query;  /* "a=b&c=d", encoded; api-version is added on the dated route. Never logged */
    const char *deployment; /* given: under /deployments/{it} on the dated route, nothing on v1 */
    const char *content_type; /* NULL: application/json */
    const char *accept;       /* NULL: application/json, or text/event-stream with on_event */
    const void *body;
    size_t body_len;      /* 0: `body` is NUL-terminated text; with read_body its whole length */
    bool body_borrowed;   /* not copied: alive until end or free */
    azo_read_fn read_body; /* instead of `body` */
    void *read_user_data;
    azo_data_fn on_body;   /* gets the body of a 2xx; anything else is collected */
    azo_event_fn on_event; /* gets the server-sent events of a 2xx */
    void *user_data;
    azo_call call;
} azo_raw_desc;

typedef struct azo_raw_reply {
    void *owned;
    azo_http http;
} azo_raw_reply;

/* ---- State: for the next run of a program ---- */

typedef struct azo_state {
    void *owned;
    azo_str bytes; /* opaque */
} azo_state;

/* >>functions */

/* ---- Client ---- */

/* Opens a client; NULL for desc takes everything from the environment. Sends nothing. The desc and its strings may
 * die when this returns, hooks excepted. The endpoint is looked at by the first call that needs one. */
AZO_API azo_result azo_client_open(const azo_client_desc *desc, azo_client **out, azo_error *err);

/* Final: live requests become CANCELLED shells that still want azo_X_end or azo_request_free, in any order. When it
 * returns no descriptor is open, and no hook but the allocator is called again. Inside a callback it takes effect
 * when the callback returns. NULL is fine. */
AZO_API void azo_client_close(azo_client *client);

#ifndef AZO_NO_POOL
/* Makes an allocator of a buffer: desc.allocator = azo_pool_init(&pool, buffer, sizeof buffer). Both stay where they
 * are until all is closed and freed that came from them. What does not fit ends in AZO_ERR_MEMORY; the client stays
 * usable. The README has numbers, and what mbedTLS wants beside it. */
AZO_API azo_allocator azo_pool_init(azo_pool *pool, void *buffer, size_t size);
#endif

#ifndef AZO_NO_STATE
/* What the next run of the program needs to do without a token request and with short TLS handshakes: the tokens of
 * the chain and the TLS sessions, in one blob to be stored where you like; examples/cron.c does it with a file.
 *
 * It is worth as much as the tokens in it. Who can read it can use them and decrypt the sessions; who can write it can
 * pass for the service, or worse. So: mode 0600, and only on this machine. A client secret or API key also seals it,
 * so that nobody without that can make or change one; a managed identity has nothing to do so with, and only accidents
 * are noticed.
 *
 * Export last: TLS 1.3 tickets, good for one connection each, leave the client. Requests on their way do not matter.
 * azo_state_free wipes the blob, which may outlive the client. Import at any time: only what the client lacks is
 * taken. A token serves until it expires; a session for a day after the certificate was verified, as it is not looked
 * at again, and with the same build of mbedTLS. Both need the time: where it is not known, or was later at the export,
 * nothing is taken. Refused tokens and those of a provider are not in it.
 *
 * AZO_OK: it is sound, be anything in it still of use or not. AZO_ERR_ARGUMENT: damaged, or of a client with another
 * identity (kind, tenant, client, secret, authority) or other ca_file or ca_pem. AZO_ERR_UNSUPPORTED: in the format of
 * another version. Whatever it is, the client works on. */
AZO_API azo_result azo_client_export(azo_client *client, azo_state *out, azo_error *err);
AZO_API azo_result azo_client_import(azo_client *client, const void *state, size_t len, azo_error *err);
AZO_API void azo_state_free(azo_state *state);
#endif

/* ---- The four calls. Each exists four times:
 *
 *     azo_X            blocks. Moves the other requests of the client too, so their callbacks run inside it.
 *     azo_X_begin      starts one. What it needs of the desc is copied before it returns. No traffic yet.
 *     azo_X_end        takes the outcome and frees the request. AZO_PENDING: not finished, nothing changed. Inside a
 *                      callback it is refused with AZO_ERR_STATE. The wrong azo_X_end frees and says ARGUMENT.
 *     azo_X_reply_free frees what a reply owns. A zeroed reply is fine.
 *
 * `out` is zeroed first (token counts: -1) and may be NULL: what came is then dropped. `err` may be NULL. After a
 * failure the reply still carries status, headers, body and partial text, so always free it. A reply outlives its
 * client. ---- */

AZO_API azo_result azo_token(azo_client *client, const azo_token_desc *desc, azo_token_reply *out, azo_error *err);
AZO_API azo_result azo_token_begin(azo_client *client, const azo_token_desc *desc, azo_request **out, azo_error *err);
AZO_API azo_result azo_token_end(azo_request *request, azo_token_reply *out, azo_error *err);
AZO_API void azo_token_reply_free(azo_token_reply *reply);

AZO_API azo_result azo_chat(azo_client *client, const azo_chat_desc *desc, azo_chat_reply *out, azo_error *err);
AZO_API azo_result azo_chat_begin(azo_client *client, const azo_chat_desc *desc, azo_request **out, azo_error *err);
AZO_API azo_result azo_chat_end(azo_request *request, azo_chat_reply *out, azo_error *err);
AZO_API void azo_chat_reply_free(azo_chat_reply *reply);

#ifndef AZO_NO_EMBED
AZO_API azo_result azo_embed(azo_client *client, const azo_embed_desc *desc, azo_embed_reply *out, azo_error *err);
AZO_API azo_result azo_embed_begin(azo_client *client, const azo_embed_desc *desc, azo_request **out, azo_error *err);
AZO_API azo_result azo_embed_end(azo_request *request, azo_embed_reply *out, azo_error *err);
AZO_API void azo_embed_reply_free(azo_embed_reply *reply);
#endif

#ifndef AZO_NO_RAW
AZO_API azo_result azo_raw(azo_client *client, const azo_raw_desc *desc, azo_raw_reply *out, azo_error *err);
AZO_API azo_result azo_raw_begin(azo_client *client, const azo_raw_desc *desc, azo_request **out, azo_error *err);
AZO_API azo_result azo_raw_end(azo_request *request, azo_raw_reply *out, azo_error *err);
AZO_API void azo_raw_reply_free(azo_raw_reply *reply);
#endif

/* First header of that name in any case; empty if there is none. */
AZO_API azo_str azo_http_header(const azo_http *http, const char *name);

/* ---- Driving: one pump per client ---- */

/* Moves everything that can move and never waits, name lookup and the first reading of the root certificates
 * excepted. `ready` are the ids that something happened to, NULL meaning look at everything; what the events say is
 * only a hint. Returns after about 10 ms of work; azo_wait then gives a timeout of 0. */
AZO_API azo_result azo_step(azo_client *client, const azo_watch *ready, size_t count);

/* What to wait for before the next step: returns how many descriptors there are (fills in the first `cap`) and in
 * *timeout_ms for how long at most, -1 meaning no limit. The wishes change only inside azo_ functions, and one is
 * made only after the socket itself had nothing more, so edge-triggered loops work. */
AZO_API size_t azo_wait(azo_client *client, azo_watch *out, size_t cap, int32_t *timeout_ms);

/* azo_wait, sleep (at most max_ms, -1: no limit of its own), azo_step. Returns early on a signal. */
AZO_API azo_result azo_poll(azo_client *client, int32_t max_ms);

/* A request that finished, each one once; NULL: none now. */
AZO_API azo_request *azo_next(azo_client *client);

/* AZO_PENDING or the outcome. Moves nothing. */
AZO_API azo_result azo_request_result(const azo_request *request);
AZO_API void *azo_request_tag(const azo_request *request);

/* Ends a request with AZO_ERR_CANCELLED. It still comes out of azo_next and still wants end or free. */
AZO_API void azo_request_cancel(azo_request *request);

/* After AZO_PAUSE: delivers again. */
AZO_API void azo_request_resume(azo_request *request);

/* Drops a request in any state. NULL is fine. */
AZO_API void azo_request_free(azo_request *request);

/* ---- History: messages that are sent with azo_chat_desc.history ---- */

#ifndef AZO_NO_HISTORY
/* Uses the client's allocator and may outlive the client. */
AZO_API azo_result azo_history_open(azo_client *client, azo_history **out, azo_error *err);
AZO_API void azo_history_close(azo_history *history);
/* Both copy; after a failure the history is as it was. */
AZO_API azo_result azo_history_add(azo_history *history, const azo_message *message, azo_error *err);
AZO_API azo_result azo_history_add_reply(azo_history *history, const azo_chat_reply *reply, azo_error *err);
AZO_API size_t azo_history_count(const azo_history *history);
/* Removes messages first, first + 1, ...; what is not there is not removed. */
AZO_API void azo_history_remove(azo_history *history, size_t first, size_t count);
#endif

/* ---- Reading and quoting JSON ---- */

/* The value at a path such as "choices[0].message.content" ("": the whole), as a view into `json`: a string with its
 * quotes, an object with its braces. Member names are compared as they are written, escapes included; the first of
 * equal ones counts. AZO_ERR_JSON: malformed, or nothing there; AZO_ERR_ARGUMENT: the path is malformed. The value has
 * no NUL of its own. */
AZO_API azo_result azo_json_get(azo_str json, const char *path, azo_str *value);
/* Decodes a string value into UTF-8 with a NUL behind it. *len, which may be NULL, gets the length without it even
 * when `cap` is too small or `buf` is NULL (AZO_ERR_LIMIT). Lone surrogates become U+FFFD. AZO_ERR_JSON: no string. */
AZO_API azo_result azo_json_text(azo_str value, char *buf, size_t cap, size_t *len);
/* AZO_ERR_JSON: no number, or too large for a double. */
AZO_API azo_result azo_json_number(azo_str value, double *out);
/* Writes text as a JSON string with its quotes and a NUL behind them; *len and `cap` as above. Bytes that are not
 * UTF-8 become U+FFFD. */
AZO_API azo_result azo_json_quote(azo_str text, char *buf, size_t cap, size_t *len);

/* ---- Names ---- */

AZO_API const char *azo_result_name(azo_result result); /* "AZO_ERR_TOKEN" */
AZO_API const char *azo_version(void);

/* ---- Values ---- */

static inline azo_str azo_s(const char *text) {
    azo_str s;
    s.ptr = text;
    s.len = 0;
    while (text != NULL && text[s.len] != '\0') {
        s.len++;
    }
    return s;
}

static inline azo_opt_num azo_num(double value) {
    azo_opt_num o;
    o.set = true;
    o.value = value;
    return o;
}

static inline azo_opt_int azo_int(int64_t value) {
    azo_opt_int o;
    o.set = true;
    o.value = value;
    return o;
}

static inline azo_opt_bool azo_bool(bool value) {
    azo_opt_bool o;
    o.set = true;
    o.value = value;
    return o;
}

static inline azo_message azo_say(const char *role, const char *text) {
    azo_message m;
    m.role = role;
    m.content = text;
    m.content_json = NULL;
    m.name = NULL;
    m.tool_call_id = NULL;
    m.raw_json = NULL;
    return m;
}

static inline azo_message azo_system(const char *text) {
    return azo_say("system", text);
}

static inline azo_message azo_user(const char *text) {
    return azo_say("user", text);
}

static inline azo_message azo_assistant(const char *text) {
    return azo_say("assistant", text);
}

/* The answer to a tool call of the reply that still holds `id`. */
static inline azo_message azo_tool_result(azo_str id, const char *text) {
    azo_message m = azo_say("tool", text);
    m.tool_call_id = id.ptr;
    return m;
}

/* The assistant's message of a reply, as long as the reply lives. */
static inline azo_message azo_same(const azo_chat_reply *reply) {
    azo_message m = azo_say(NULL, NULL);
    m.raw_json = reply->message_json.ptr;
    return m;
}

#ifdef __cplusplus
}
#endif

#endif /* AZOPENAI_H: who only uses the library can stop reading here */
#if defined(AZOPENAI_IMPLEMENTATION) && !defined(AZOPENAI_IMPLEMENTATION_DONE)
#define AZOPENAI_IMPLEMENTATION_DONE

/* >>prologue */

#include <errno.h>
#include <float.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef AZO_NO_CLOCK
#include <time.h>
#endif
#ifndef AZO_NO_SOCKETS
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>
#endif
#if (!defined(AZO_NO_CLOCK) && !defined(CLOCK_MONOTONIC)) || (!defined(AZO_NO_SOCKETS) && !defined(AI_ADDRCONFIG))
#error "azopenai.h: include it before any libc header, or compile with -D_POSIX_C_SOURCE=200809L"
#endif

#include <mbedtls/platform.h>
#include <mbedtls/platform_util.h>
#include <mbedtls/ssl.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>
#if MBEDTLS_VERSION_NUMBER < 0x04000000
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/md.h>
#endif
#if MBEDTLS_VERSION_NUMBER >= 0x03000000 && defined(MBEDTLS_PSA_CRYPTO_C)
#include <psa/crypto.h>
#define AZOI_PSA
#endif

/* jsmn comes in under private names and with switches of our own, so that another jsmn may live in the same
 * translation unit, before this or after. */
#ifndef AZO_JSMN_HEADER
#define AZO_JSMN_HEADER <jsmn.h>
#endif
#ifdef JSMN_H
#define AZOI_OTHER_JSMN_H
#undef JSMN_H
#endif
#ifdef JSMN_STATIC
#define AZOI_OTHER_JSMN_STATIC
#undef JSMN_STATIC
#endif
#ifdef JSMN_STRICT
#define AZOI_OTHER_JSMN_STRICT
#undef JSMN_STRICT
#endif
#ifdef JSMN_PARENT_LINKS
#define AZOI_OTHER_JSMN_PARENT_LINKS
#undef JSMN_PARENT_LINKS
#endif
#ifdef JSMN_HEADER
#define AZOI_OTHER_JSMN_HEADER
#undef JSMN_HEADER
#endif
#undef JSMN_API
#define JSMN_STATIC
#define JSMN_STRICT
#define JSMN_PARENT_LINKS
#define jsmntype_t azoi_jsmn_type
#define jsmnerr azoi_jsmn_err
#define jsmntok azoi_jsmn_tok_tag
#define jsmntok_t azoi_jsmn_tok
#define jsmn_parser azoi_jsmn_parser
#define jsmn_init azoi_jsmn_init
#define jsmn_parse azoi_jsmn_parse
#define jsmn_alloc_token azoi_jsmn_alloc_token
#define jsmn_fill_token azoi_jsmn_fill_token
#define jsmn_parse_primitive azoi_jsmn_parse_primitive
#define jsmn_parse_string azoi_jsmn_parse_string
#define JSMN_UNDEFINED AZOI_JSMN_UNDEFINED
#define JSMN_OBJECT AZOI_JSMN_OBJECT
#define JSMN_ARRAY AZOI_JSMN_ARRAY
#define JSMN_STRING AZOI_JSMN_STRING
#define JSMN_PRIMITIVE AZOI_JSMN_PRIMITIVE
#define JSMN_ERROR_NOMEM AZOI_JSMN_ERROR_NOMEM
#define JSMN_ERROR_INVAL AZOI_JSMN_ERROR_INVAL
#define JSMN_ERROR_PART AZOI_JSMN_ERROR_PART
#ifdef __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wshadow"
#endif
#include AZO_JSMN_HEADER
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif
#undef jsmntype_t
#undef jsmnerr
#undef jsmntok
#undef jsmntok_t
#undef jsmn_parser
#undef jsmn_init
#undef jsmn_parse
#undef jsmn_alloc_token
#undef jsmn_fill_token
#undef jsmn_parse_primitive
#undef jsmn_parse_string
#undef JSMN_UNDEFINED
#undef JSMN_OBJECT
#undef JSMN_ARRAY
#undef JSMN_STRING
#undef JSMN_PRIMITIVE
#undef JSMN_ERROR_NOMEM
#undef JSMN_ERROR_INVAL
#undef JSMN_ERROR_PART
#undef JSMN_H
#undef JSMN_API
#undef JSMN_STATIC
#undef JSMN_STRICT
#undef JSMN_PARENT_LINKS
#ifdef AZOI_OTHER_JSMN_STATIC
#define JSMN_STATIC
#undef AZOI_OTHER_JSMN_STATIC
#endif
#ifdef AZOI_OTHER_JSMN_H
#define JSMN_H
#ifdef JSMN_STATIC
#define JSMN_API static
#else
#define JSMN_API extern
#endif
#undef AZOI_OTHER_JSMN_H
#endif
#ifdef AZOI_OTHER_JSMN_STRICT
#define JSMN_STRICT
#undef AZOI_OTHER_JSMN_STRICT
#endif
#ifdef AZOI_OTHER_JSMN_PARENT_LINKS
#define JSMN_PARENT_LINKS
#undef AZOI_OTHER_JSMN_PARENT_LINKS
#endif
#ifdef AZOI_OTHER_JSMN_HEADER
#define JSMN_HEADER
#undef AZOI_OTHER_JSMN_HEADER
#endif

#ifdef __GNUC__
#define AZOI_PRINTF(text, first) __attribute__((__format__(__printf__, text, first)))
#define AZOI_APART __attribute__((__noinline__)) /* what is rare is not paid for by what is not */
#define AZOI_UNREACHED static __attribute__((__unused__))
#else
#define AZOI_PRINTF(text, first)
#define AZOI_APART
#define AZOI_UNREACHED static
#endif

/* Features. What is left out is compiled all the same, as something that nothing can reach, and dropped. */
#ifdef AZO_NO_EMBED
#define AZOI_EMBED_API AZOI_UNREACHED
#else
#define AZOI_EMBED_API AZO_API
#endif
#ifdef AZO_NO_RAW
#define AZOI_RAW_API AZOI_UNREACHED
#else
#define AZOI_RAW_API AZO_API
#endif
#ifdef AZO_NO_HISTORY
#define AZOI_HISTORY_API AZOI_UNREACHED
#else
#define AZOI_HISTORY_API AZO_API
#endif
#ifdef AZO_NO_STATE
#define AZOI_STATE_API AZOI_UNREACHED
#else
#define AZOI_STATE_API AZO_API
#endif
#ifdef AZO_NO_STREAM
#define AZOI_HAS_STREAM false
#else
#define AZOI_HAS_STREAM true
#endif
#ifdef AZO_NO_SECRET
#define AZOI_HAS_SECRET false
#else
#define AZOI_HAS_SECRET true
#endif
#ifdef AZO_NO_IMDS
#define AZOI_HAS_IMDS false
#else
#define AZOI_HAS_IMDS true
#endif
#ifdef AZO_NO_PROXY
#define AZOI_HAS_PROXY false
#else
#define AZOI_HAS_PROXY true
#endif
#ifdef AZO_NO_LOG
#define AZOI_HAS_LOG false
#else
#define AZOI_HAS_LOG true
#endif

#define AZOI_NEVER INT64_MAX
#define AZOI_OF(pointer, type, member) ((type *)(void *)((char *)(pointer) - offsetof(type, member)))

/* >>structs */

/* ---- memory ---- */

/* A growing, capped, NUL-terminated buffer. The first failure sticks, so a writer checks once, at its end. */
typedef struct azoi_buf {
    const azo_allocator *allocator;
    char *data; /* NULL until something was added, else data[len] is NUL */
    size_t len;
    size_t cap; /* bytes of data[], the NUL's included */
    size_t max; /* len never exceeds this */
    bool secret; /* wiped wherever its bytes are let go */
    azo_result failed; /* AZO_OK, AZO_ERR_MEMORY or AZO_ERR_LIMIT */
} azoi_buf;

enum {
    AZOI_SPARE_COUNT = 6,
    AZOI_SPARE_BYTES = 4096,
    AZOI_SPARE_STEP = 128 /* sizes are multiples of it: the next need may be a little larger */
};

/* An allocator that keeps the largest of the smaller blocks that come back, for azoi_take. */
typedef struct azoi_spares {
    azo_allocator below;
    void *blocks[AZOI_SPARE_COUNT]; /* NULL: none */
    size_t sizes[AZOI_SPARE_COUNT];
} azoi_spares;

/* A member of a ring, or its head. */
typedef struct azoi_link {
    struct azoi_link *prev;
    struct azoi_link *next; /* NULL: a member of none */
} azoi_link;

/* ---- state ---- */

enum { AZOI_RECORD_TOKEN = 'T', AZOI_RECORD_SESSION = 'S' };

/* Something that one run leaves to the next. */
typedef struct azoi_record {
    int64_t kind;
    int64_t detail; /* a token's member of the chain; whether a session is to be used once only */
    int64_t time;   /* Unix seconds: when a token expires; when a session's certificate was verified */
    int64_t number; /* Unix seconds of when to renew a token; a session's port */
    azo_str name;   /* a token's scope; a session's host */
    azo_str secret; /* the token; the session as mbedTLS saves it */
} azoi_record;

/* ---- json ---- */

/* A checked and tokenised document. Values are named by token index: 0 is the root, -1 is "not there". */
typedef struct azoi_json {
    azo_str text;
    azoi_jsmn_tok *tokens;
    int count;
} azoi_json;

/* A number without its sign: digits x 10^exponent. */
typedef struct azoi_number {
    uint64_t digits; /* while count <= 19 */
    size_t count;
    int64_t exponent;
} azoi_number;

/* One member of an object, or item of an array, or the whole text. */
typedef struct azoi_json_entry {
    azo_str key; /* as it is written; NULL: of an item */
    azo_str value;
    struct azoi_json_entry *behind; /* all that is in the value */
} azoi_json_entry;

enum { AZOI_JSON_MAPPED = 72 }; /* a chat reply has some sixty, a chunk of a stream thirty */

/* What the check of a text saw on its way, in the order of the text, so that nobody needs to look again. Empty where
 * there was too much. */
typedef struct azoi_json_map {
    azo_str known; /* an object that passed the check before, and may stand in this text again... */
    size_t depth;  /* ...inside so many others: then it is not looked into */
    size_t count;
    azoi_json_entry entries[AZOI_JSON_MAPPED + 1]; /* the last one takes what is too much */
} azoi_json_map;

/* An object or array that the scanner is in. */
typedef struct azoi_json_open {
    int closer;
    azoi_json_entry *entry;
} azoi_json_open;

typedef struct azoi_json_scan {
    const char *end;
    const char *bad;
    const azoi_json_map *map;
    azoi_json_entry *next; /* for what comes next */
    azoi_json_entry *last; /* is used for all that follows */
    azoi_json_entry none;  /* where no map is wanted */
    azoi_json_open open[AZO_MAX_JSON_DEPTH + 1]; /* the first one is what holds the text itself */
} azoi_json_scan;

/* Where in its brackets a text stands that comes in pieces. */
typedef struct azoi_json_nesting {
    size_t depth;
    size_t deepest;
    bool quoted;
    bool escaped;
} azoi_json_nesting;

/* A walk over the members of an object, or the items of an array, by the map or by scanning. */
typedef struct azoi_json_cursor {
    const azoi_json_entry *next;
    const azoi_json_entry *behind; /* NULL: by scanning */
    azo_str rest;
} azoi_json_cursor;

/* ---- http ---- */

/* Views into the text that was split. */
typedef struct azoi_url {
    bool secure;      /* https */
    uint16_t port;    /* as given, or 80 or 443 */
    azo_str userinfo; /* without the @ */
    azo_str host;     /* without brackets */
    azo_str path;     /* from the slash on; may be empty */
    azo_str query;    /* without the question mark */
} azoi_url;

typedef enum azoi_framing {
    AZOI_FRAMING_NONE,   /* no body: 1xx, 204, 304, length 0, answers to HEAD */
    AZOI_FRAMING_LENGTH,
    AZOI_FRAMING_CHUNKED,
    AZOI_FRAMING_CLOSE   /* until the connection ends */
} azoi_framing;

/* A response head; the views point into its text. */
typedef struct azoi_head {
    int status;
    bool keep_alive;
    azoi_framing framing;
    uint64_t length;
    azo_str reason;
    azo_str headers; /* the header lines, each with its line end */
} azoi_head;

/* Where a body decoder stands; see azoi_body_feed. */
typedef struct azoi_body {
    azoi_framing framing;
    int state;          /* chunked: an azoi_chunk_state */
    uint64_t left;      /* of the body, or of the chunk */
    uint32_t overhead;  /* bytes of chunk extensions and trailers so far */
    uint32_t column;    /* chunked: bytes of this line so far */
    bool after_cr;      /* chunked */
} azoi_body;

/* ---- sse ---- */

typedef struct azoi_sse {
    azoi_buf line; /* an unfinished line */
    azoi_buf data; /* of the event so far */
    azoi_buf name; /* of the event */
    bool begun;    /* a line was seen: no byte order mark can come any more */
    bool skip_lf;  /* the last line ended in CR */
    bool ready;    /* data and name hold an event; the next feed clears them */
    size_t lines;  /* of data, maybe empty ones */
} azoi_sse;

/* ---- time ---- */

/* How a failed attempt is repeated. Waits are in milliseconds, before jitter. */
typedef struct azoi_policy {
    int32_t first_wait;
    int32_t max_wait;
    int32_t gone_wait;      /* after a 410; 0: a 410 is final */
    int also[2];            /* statuses that are worth another try beside 408, 429 and 5xx */
} azoi_policy;

/* ---- pump ---- */

/* Something that the pump can move. Upper layers set `advance`; lower ones only queue nodes. */
typedef struct azoi_node {
    azoi_link link; /* in the run queue */
    void (*advance)(struct azoi_node *node);
} azoi_node;

/* Queues its node when due. Stands in the heap while it is attached, set or not, so that setting it needs no memory. */
typedef struct azoi_timer {
    int64_t due; /* monotonic ms; AZOI_NEVER: not set */
    size_t place; /* in the heap, 1-based */
    azoi_node *node;
} azoi_timer;

enum { AZOI_MAX_FDS = 4 }; /* of one source: two for happy eyeballs, two to spare for a transport hook */

/* A descriptor as the push hook was last told of it. */
typedef struct azoi_told {
    intptr_t fd;
    unsigned events; /* 0: this place is free */
    void *slot;
} azoi_told;

/* Something with descriptors: a connection, or a token provider that waits. */
typedef struct azoi_source {
    uint32_t id;
    void (*happened)(struct azoi_source *source); /* what, shows: an error may be told as either event */
    /* The present wishes; returns how many. May lower *timeout_ms. */
    size_t (*describe)(struct azoi_source *source, azo_watch *out, size_t cap, int32_t *timeout_ms);
    azoi_told told[AZOI_MAX_FDS];
} azoi_source;

typedef struct azoi_place { /* of the watch table; id = generation << 16 | index */
    azoi_source *source;    /* NULL: free */
    uint16_t generation;
    uint16_t next_free;
} azoi_place;

typedef struct azoi_pump {
    const azo_allocator *allocator;
    const azo_loop *loop;
    const azo_clock *clock;
    int64_t now; /* monotonic ms, read once a turn */
    bool stop;   /* leave the walk through the queue: the client is closing */
    azoi_link queue; /* of nodes */
    azoi_timer **heap; /* heap[1..heap_len] */
    size_t heap_len;
    size_t heap_cap;
    azoi_place *places; /* places[1..place_count] */
    size_t place_count;
    size_t place_cap;
    uint16_t first_free;
    int64_t told_due; /* what loop.timer was last told: 0 soon, AZOI_NEVER */
} azoi_pump;

/* ---- transport ---- */

enum { AZOI_MAX_HOST = 255, AZOI_MAX_KNOWN = 6, AZOI_DIGEST = 32 };

#ifndef AZO_NO_SOCKETS
enum { AZOI_MAX_ADDRESSES = 8 }; /* tried for one connection */

typedef union azoi_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} azoi_address;

typedef struct azoi_addresses {
    azoi_address list[AZOI_MAX_ADDRESSES];
    size_t count; /* 0: not looked up */
} azoi_addresses;

/* One connection of the built-in transport: at most two sockets race (RFC 8305). */
typedef struct azoi_socket {
    azo_target to; /* the host lives as long as the stream */
    int fd[2];       /* -1: none; fd[0] is the one that won, once connected */
    size_t place[2]; /* in to_try.list[] of what it is for */
    azoi_addresses to_try;
    size_t tried;
    int64_t stagger_at; /* when to start the second one */
    bool connected;
    int last_errno;
} azoi_socket;
#endif

/* What is known of a host, for the next connection to it. A session's trust is the client's, which never changes. */
typedef struct azoi_known {
    char host[AZOI_MAX_HOST + 1];
    uint16_t port; /* 0: this place is free */
    bool has_session;
    bool once; /* it is a TLS 1.3 ticket: not to be used twice (RFC 8446 C.4) */
    int64_t verified_at; /* Unix seconds of the handshake that saw the certificate; 0: not known */
    mbedtls_ssl_session session;
#ifndef AZO_NO_SOCKETS
    azoi_addresses addresses; /* the one that answered last time first; none: none answers any more */
#endif
} azoi_known;

enum { AZOI_MAX_DER = 8192, AZOI_MAX_PEM = 12288 };

/* Looks through PEM text for certificates whose subject issued one of `chain`. */
typedef struct azoi_scan {
    const mbedtls_x509_crt *chain;
    mbedtls_x509_crt found; /* a list */
    int found_count;
    size_t certificates; /* seen, wanted or not */
    bool mid_line;       /* text[] does not begin a line */
    size_t len;          /* of text[] */
    char text[AZOI_MAX_PEM]; /* of a file: what was read and not dealt with */
    unsigned char der[AZOI_MAX_DER];
} azoi_scan;

/* What all streams of a client share. */
typedef struct azoi_net {
    const azo_allocator *allocator;
    azo_transport transport;
    azo_clock clock;
    azo_logger logger;
    azoi_buf ca_file; /* the desc's or SSL_CERT_FILE's; empty: the usual places */
    azoi_buf ca_pem;  /* anchors from memory; empty: files */
    bool tls_ready;
    bool starved; /* there was no memory to gather entropy with */
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    mbedtls_ctr_drbg_context random;
#endif
    mbedtls_ssl_config config;
    const char *alpn[2]; /* mbedTLS keeps the pointer */
    mbedtls_x509_crt roots; /* found so far, maybe none yet; only grows */
    int root_count;
    azoi_known known[AZOI_MAX_KNOWN];
    size_t next_known;
    uint32_t jitter; /* state of the generator for waits */
    int64_t told_date; /* of an answer; 0: none. To be told where the clock may be wrong, never to be used */
    int64_t told_at;
    bool told_safely;  /* over TLS */
} azoi_net;

/* One connection's bytes: the transport's, with TLS above it where `tls` is set. */
typedef struct azoi_stream {
    azoi_net *net;
    void *conn; /* the transport's; NULL: closed */
    mbedtls_ssl_context *tls;
    const char *host; /* lives as long as the stream */
    char name[AZOI_MAX_HOST + 1]; /* for certificates */
    uint16_t port;
    bool in_blocked;  /* the socket itself said "again" and nothing happened since */
    bool out_blocked;
    unsigned char ahead[2048]; /* read and not yet asked for by mbedTLS */
    size_t ahead_at;
    size_t ahead_len;
    unsigned reads;   /* how often the transport may still be read in this call */
    bool at_end;      /* the transport's last word was its end */
    ptrdiff_t end;    /* what every read answers; AZO_IO_AGAIN: the peer's end was not seen */
    bool broken;      /* a read or write failed: no close_notify */
    bool pending_roots; /* the library's own pass found no anchor: look one up at depth 0 */
    bool checked;     /* a certificate was verified in this handshake: not a resumed session */
    bool offered;     /* a session was offered to resume */
    mbedtls_x509_time dates[2]; /* of the certificate that is not valid now; year 0: there is none */
    int64_t verified_at; /* see azoi_known */
    azo_result failed; /* what a hook or the trust lookup said, carried round mbedTLS */
    int failed_errno;
    size_t unsent;    /* length of the write that mbedTLS has not finished */
    bool flushed;     /* it has left without mbedTLS saying so */
    bool owed;        /* a read has left an alert of mbedTLS's unsent, which a write would take for its own record */
    azo_error *error; /* where to explain; NULL: nowhere */
} azoi_stream;

/* ---- connections ---- */

typedef enum azoi_conn_state {
    AZOI_CONN_OPENING, /* name, addresses, TCP */
    AZOI_CONN_PROXY,   /* CONNECT sent, status awaited */
    AZOI_CONN_TLS,     /* handshake */
    AZOI_CONN_READY,   /* open, nothing sent on it for its present job */
    AZOI_CONN_BUSY,    /* its job drives it */
    AZOI_CONN_DRAIN,   /* no job any more; the end of a body is still to come */
    AZOI_CONN_IDLE,    /* no job; for the next one */
    AZOI_CONN_FAILED   /* could not be opened or was cut: the job is told, and releases it */
} azoi_conn_state;

/* Where a request goes. The strings belong to whoever holds the origin. */
typedef struct azoi_origin {
    azo_str host;
    uint16_t port;
    bool secure;
    bool direct; /* never through a proxy */
} azoi_origin;

typedef struct azoi_conn {
    azoi_node node;
    azoi_timer timer;
    azoi_source source;
    azoi_stream stream;
    struct azo_client *client;
    azoi_link link; /* in the client's list of those in use, or of the idle ones */
    azoi_node *user; /* its job; NULL: none */
    azoi_conn_state state;
    azo_result result; /* PENDING while it is opened, OK, or why it FAILED */
    azoi_origin origin; /* its host stands behind this block */
    bool via_proxy; /* a tunnel */
    bool counted;   /* against max_connections */
    bool stale_able; /* was open before its job needed it, and no answer came: the server may have closed it before */
    bool wants;     /* BUSY: the job waits for it */
    int64_t due; /* when it must be open, drained or used again */
    int32_t connect_ms;
    azoi_buf out; /* head and start of the body, or the CONNECT head */
    size_t out_sent;
    azoi_buf in;  /* read and not used yet: a proxy's answer, or what came for a paused job */
    azoi_body body; /* of the answer, also when its job does not want the rest */
} azoi_conn;

/* ---- attempts ---- */

typedef enum azoi_job_state {
    AZOI_JOB_PREPARE, /* waits for its token, for its connection, or for both */
    AZOI_JOB_SEND,
    AZOI_JOB_HEAD,    /* all sent; waits for the answer's head */
    AZOI_JOB_BODY,
    AZOI_JOB_BACKOFF, /* waits before the next attempt */
    AZOI_JOB_DONE
} azoi_job_state;

typedef enum azoi_job_kind {
    AZOI_KIND_TOKEN,
    AZOI_KIND_CHAT,
    AZOI_KIND_EMBED,
    AZOI_KIND_RAW,
    AZOI_KIND_FETCH /* internal: a token request */
} azoi_job_kind;

/* What the machine of attempts does not know. Each may be NULL. Those that fail explain in job->error. */
typedef struct azoi_job_ops {
    azoi_job_kind kind;
    /* Before an attempt. PENDING: the job is queued somewhere and will be woken. */
    azo_result (*authorize)(azo_request *job);
    /* Adds credential header lines to a head. NULL only where nothing is sent. */
    void (*sign)(azo_request *job, azoi_buf *head);
    /* After a whole 401. OK: authorize again and replay. AZO_ERR_UNAUTHORIZED: the 401 stands. */
    azo_result (*challenge)(azo_request *job);
    /* Forget what an attempt collected. */
    void (*restart)(azo_request *job);
    /* A piece of a 2xx body; takes bytes off its front. PENDING: paused, the rest is kept for later. Sets
     * job->complete where the answer is whole before the body ends. NULL: the body is collected in job->body. */
    azo_result (*data)(azo_request *job, azo_str *piece);
    /* The 2xx body is whole. */
    azo_result (*end)(azo_request *job);
    /* The answer that stands is not a 2xx: turn status and job->body into an error. */
    azo_result (*refuse)(azo_request *job);
    /* The outcome is final (job->result). */
    void (*finish)(azo_request *job);
    /* Free what job->data holds. */
    void (*drop)(azo_request *job);
} azoi_job_ops;

/* Everything azoi_job_new needs; all of it is copied, borrowed bodies and callbacks excepted. */
typedef struct azoi_job_spec {
    const azoi_job_ops *ops;
    const azoi_policy *policy;
    azoi_origin origin;
    azo_str method;
    azo_str target;  /* path and query, encoded */
    azo_str headers; /* further lines, each with CRLF */
    azo_str own_headers; /* the user's, whose values may be secrets */
    azo_str body;
    bool has_body;   /* send a Content-Length, be it 0 */
    bool body_borrowed;    /* not copied; so is one that is read */
    azo_read_fn read_body; /* instead of body.ptr; body.len is its length */
    void *read_user_data;
    int32_t connect_ms; /* all limits resolved: AZO_OFF or > 0 */
    int32_t first_byte_ms;
    int32_t idle_ms;
    int32_t total_ms;
    int max_retries;
    size_t max_body;
    size_t data_size; /* of job->data, zeroed */
    void *tag;
    bool token_body; /* wipe the answer, and keep as much of it as of a refusal: what is longer holds no token */
} azoi_job_spec;

struct azoi_slot;

struct azo_request {
    azoi_node node;
    azoi_timer timer;
    azo_client *client; /* NULL: the client was closed */
    azo_allocator allocator;
    azo_allocator spares; /* of its buffers: the client's, as long as there is one */
    size_t block_size;
    const azoi_job_ops *ops;
    void *data; /* of its kind */
    azoi_link link;     /* in the client's list of all */
    azoi_link finished; /* in the list that azo_next takes from */
    bool freed;    /* nobody wants it any more: freed as soon as its turn is over */
    bool in_turn;
    bool cancelled;
    bool blocking; /* nobody else has it, to resume it or to take it out of azo_next */

    /* token */
    struct azoi_slot *slot;
    azoi_link waiting; /* in the slot's list */
    bool authorized;
    bool replayed;       /* after a 401, once */
    bool refetched;      /* this job has caused a token to be fetched after a 401 */
    uint32_t generation; /* of the token that the attempt carries */
    uint32_t fetch_wanted; /* no token of an earlier fetch than this will do; 0: any */

    /* connection */
    azoi_conn *conn;
    azoi_link capped; /* in the client's list of those kept waiting by max_connections */

    /* attempt */
    azoi_job_state state;
    azo_result result;
    azoi_job_spec spec; /* its strings point into this block */
    int attempts;       /* counted ones */
    int retries_left;
    bool fresh_only;    /* the free reconnect after a stale connection was used */
    bool conn_failed;   /* a connection opened ahead of the token failed: wait for the token */
    bool final;         /* the failure is none of HTTP's: no retry */
    bool delivered;     /* an event or data callback was called: never retry */
    bool paused;
    bool resumed;       /* deliver what was left before reading on */
    bool complete;      /* the answer is whole, whatever is left of the body */
    bool body_whole;    /* the decoder saw the end */
    bool keep_conn;
    uint64_t body_sent;
    int interim;        /* 1xx heads so far */
    int64_t total_by;
    int64_t due;        /* end of the backoff, of the wait for the head, or of that for more of the body */
    azoi_head head;     /* status 0: none yet */
    azoi_buf head_text;
    azoi_buf body;      /* what is collected */
    azo_error error;    /* last: filled in on failure only */
};

/* ---- credentials ---- */

typedef enum azoi_identity_kind {
    AZOI_IDENTITY_KEY,
    AZOI_IDENTITY_STATIC,   /* a fixed token */
    AZOI_IDENTITY_PROVIDER,
    AZOI_IDENTITY_CHAIN     /* of the members below */
} azoi_identity_kind;

enum { AZOI_MEMBER_SECRET = 0, AZOI_MEMBER_IMDS = 1, AZOI_MEMBER_COUNT = 2 };

typedef struct azoi_identity {
    azoi_identity_kind kind;
    azo_token_fn provider;
    void *provider_data;
    bool members[AZOI_MEMBER_COUNT];      /* which ones are in the chain */
    char lacks[AZOI_MEMBER_COUNT][160];   /* why that one cannot be asked; empty: it can */
    int winner;            /* which one has given a token; -1: none yet */
    azoi_buf secret;       /* the key, the fixed token or the client secret */
    azoi_buf tenant_id;
    azoi_buf client_id;
    azoi_buf authority;    /* URL without a slash at its end; empty: by the cloud of the scope */
    azoi_buf imds;         /* URL without a slash at its end */
    const char *selector;  /* "client_id", "object_id", "msi_res_id"; NULL: system-assigned */
    azoi_buf selected;     /* its value */
    bool selected_by_env;  /* it is AZURE_CLIENT_ID's */
} azoi_identity;

/* The token of one scope. */
typedef struct azoi_slot {
    azoi_node node;   /* the turn of the provider, or of the next member of the chain */
    azoi_timer timer;
    azoi_source source; /* the provider's descriptor */
    azo_client *client;
    struct azoi_slot *next;
    azoi_buf scope;
    azoi_buf claims;  /* of the fetch that runs; empty: none */
    azoi_buf wanted;  /* claims that the next fetch is to carry */
    azoi_buf token;
    bool usable;         /* there is a token, and no 401 has spoken against it */
    bool once;           /* its lifetime is not known, or too short to keep: only for those who waited for it */
    bool fetching;       /* a job runs, the provider waits, or the next member of the chain is about to be asked */
    bool unavailable;    /* the member that was asked is not there, rather than refuses: the chain goes on */
    int member;          /* that is being asked */
    uint32_t generation; /* rises when the token string changes; 0: never had one */
    uint32_t fetches;    /* how many were begun */
    uint32_t token_fetch; /* which of them gave the token */
    int64_t refresh_at;
    int64_t expires_at;
    int64_t hold_until;  /* the last failure is answered from memory */
    int64_t force_after; /* when the next 401 may cause a fetch */
    int64_t fetch_sent_at; /* expiry counts from here */
    azo_request *fetch;  /* the running job; NULL: none */
    azoi_link waiting;   /* requests, in the order in which they came */
    azoi_buf room;       /* where the provider writes its token while it is asked */
    void *provider_state;
    azo_watch watch;     /* what the provider waits for; no events: for nothing but the timer */
    azo_error error;     /* of the last fetch that failed */
    char lines[512];     /* what each member of the chain said */
} azoi_slot;

/* ---- client ---- */

/* What an endpoint says, kept for the next call to the same one. The views point into `text`. */
typedef struct azoi_route {
    azoi_buf endpoint; /* as it was given; empty: the rest means nothing */
    azoi_buf text;
    azoi_origin origin;
    bool bare; /* it is that of a gateway without "/openai" */
    azo_str prefix; /* of the path, before "/openai" */
    azo_str version;
    azo_str deployment;
} azoi_route;

struct azo_client {
    azo_allocator allocator;
    azoi_pump pump;
    azoi_net net;
    azo_loop loop;
    bool in_step;
    bool in_callback; /* an event, data or read callback */
    bool closing;     /* azo_client_close was called inside a callback */
    bool (*interrupted)(void *user_data);
    void *interrupt_user_data;

    /* settings; empty: not given */
    azoi_buf endpoint;
    azoi_buf deployment;
    azoi_buf api_version;
    azoi_buf scope;
    azoi_buf auth_header;
    azoi_buf headers;     /* lines for every request to the service */
    azoi_buf proxy_host;
    azoi_buf proxy_auth; /* base64 of user:password */
    uint16_t proxy_port;
    azoi_buf no_proxy;
    int32_t connect_ms; /* AZO_OFF or > 0, here and below */
    int32_t first_byte_ms;
    int32_t idle_ms;
    int32_t total_ms;
    int32_t max_retry_wait_ms;
    int max_retries;
    int max_connections;
    size_t max_response;
    size_t max_header;
    size_t max_event;

    azoi_identity identity;
    azoi_slot *slots;

    azoi_link conns; /* all but the idle ones */
    azoi_link idle;  /* the one used last first */
    int idle_count;
    int counted_conns;
    azoi_link capped;   /* requests that wait for one, the first to come first */

    azoi_link jobs;     /* all requests */
    azoi_link finished; /* those that azo_next has not named yet */

    azoi_route route;
    azoi_spares spares; /* of the buffers of requests */
    azoi_buf scratch;  /* where requests are written */
    azoi_buf decoded;  /* event texts, valid during one callback */
    azoi_json_map map; /* of the answer or event that is walked: too large for the stack */
    azoi_buf input;    /* AZOI_READ_SIZE bytes of room for one read, from the first on */
    azoi_buf tokens;   /* of the JSON that was parsed last: no parse spans two steps */
    azoi_buf watches;  /* room for azo_poll */
};

/* ---- calls ---- */

/* A text somewhere in a buffer that still moves. */
typedef struct azoi_span {
    size_t at;
    size_t len;
    size_t room; /* in a builder's arena: its bytes, the NUL's included; 0: nothing came */
} azoi_span;

/* The block behind a reply: this, the reply itself, its tables, its texts. Independent of client and request. */
typedef struct azoi_owned {
    azo_allocator allocator;
    size_t size;
    bool secret;   /* wiped before it is freed */
    char *at;      /* where the next text goes while it is filled */
    azoi_buf body; /* taken over from the request: a large one */
    float *vectors;
    size_t vectors_size;
} azoi_owned;

/* job->data of every call begins with this. */
typedef struct azoi_answer {
    azoi_owned *owned;   /* made when the answer is whole */
    char version[32];    /* of the dated route, for errors; may be cut. Empty: of the other route */
    char deployment[64]; /* the same */
} azoi_answer;

typedef enum azoi_stream_mode {
    AZOI_STREAM_UNKNOWN, /* nothing but white space came */
    AZOI_STREAM_EVENTS,
    AZOI_STREAM_WHOLE    /* one body, asked for or not */
} azoi_stream_mode;

/* job->data of a chat or raw call begins with this: its answer as it comes. */
typedef struct azoi_events {
    azoi_answer answer;
    azo_event_fn on_event;
    void *user_data;
    bool asked;    /* for a stream */
    azoi_stream_mode mode;
    azoi_sse sse;
    bool in_event; /* sse holds an event that is not dealt with to its end */
    bool ended;    /* [DONE] */
} azoi_events;

/* A choice of a chat reply (tool -1), or one of its tool calls. */
typedef struct azoi_chat_part {
    int choice;
    int tool;
    bool custom; /* a custom tool: its input is no JSON */
    azoi_span text; /* or a call's arguments */
    azoi_span refusal;
    azoi_span finish;
    azoi_span filter;
    azoi_span message; /* in the buffer of azoi_chat_seal */
    azoi_span id;      /* of a call, and its name */
    azoi_span name;
} azoi_chat_part;

enum { AZOI_TOKENS_PROMPT, AZOI_TOKENS_COMPLETION, AZOI_TOKENS_CACHED, AZOI_TOKENS_REASONING, AZOI_TOKENS_COUNT };

/* A chat reply as it grows, from one body or from many chunks. */
typedef struct azoi_chat {
    azoi_events events;
    unsigned done;  /* steps taken in the present chunk: a pause must neither lose nor repeat one */
    bool got_event;
    size_t total;   /* bytes of text so far, against max_response */
    azoi_buf arena;
    azoi_buf table;
    azoi_chat_part *parts; /* in the table, by choice and tool: the calls of a choice follow it */
    size_t count;
    azoi_span id;
    azoi_span model;
    azoi_span prompt_filter;
    azoi_span usage;
    int64_t tokens[AZOI_TOKENS_COUNT]; /* that it counts; -1: it does not say */
} azoi_chat;

/* How far an answer with embeddings is read. */
typedef enum azoi_rows {
    AZOI_ROWS_AHEAD, /* we are before its array of rows */
    AZOI_ROWS_AMONG, /* in it */
    AZOI_ROWS_BEHIND /* behind it, or where something was no row */
} azoi_rows;

/* A row is read, and taken out of the body, as soon as it is whole; {} takes its place. What cannot be read stays, with
 * all that is behind it, so that the end sees what is wrong. Behind it lies a byte for each input: its row was seen. */
typedef struct azoi_embed {
    azoi_answer answer;
    size_t count;
    float *given;      /* the caller's room for the vectors; NULL: ours are wanted */
    size_t given_cap;
    azoi_rows rows;    /* this and all below is of one attempt */
    azoi_json_nesting nesting;
    size_t row_at;     /* where in the body one begins, or what stands before it */
    int64_t found;     /* rows that were read */
    size_t found_at;   /* where the first one stood in the body */
    size_t taken;      /* bytes that the body is shorter by */
    size_t dimensions; /* 0: no row was seen yet */
    float *vectors;
    size_t own_size;   /* of ours in bytes; 0: they are the caller's */
    int64_t prompt_tokens;
} azoi_embed;

typedef struct azoi_raw {
    azoi_events events;
    azo_data_fn on_body;
} azoi_raw;

struct azo_history {
    azo_allocator allocator;
    azoi_buf text; /* the messages, each behind a comma */
    size_t count;
};

/* >>memory */

/* The allocator, checked sizes and the growing buffer. Everything above allocates through here. Sizes travel with
 * pointers, since an allocator hook is told them when it frees. */

/* Through a volatile pointer, so that the compiler cannot know which function this is, and drop the call. */
static void azoi_wipe(void *ptr, size_t size) {
    void *(*volatile fill)(void *, int, size_t) = memset;
    if (size > 0) {
        fill(ptr, 0, size);
    }
}

static void *azoi_default_resize(void *ptr, size_t old_size, size_t new_size, void *user_data) {
    (void)old_size;
    (void)user_data;
    if (new_size == 0) {
        free(ptr);
        return NULL;
    }
    return realloc(ptr, new_size);
}

/* Freeing NULL does not reach the hook; an allocator that is all zero is the built-in one. */
static void *azoi_resize(const azo_allocator *a, void *ptr, size_t old_size, size_t new_size) {
    if (ptr == NULL && new_size == 0) {
        return NULL;
    }
    return (a->resize == NULL ? azoi_default_resize : a->resize)(ptr, old_size, new_size, a->user_data);
}

/* A size of 0 gives NULL. */
static void *azoi_alloc(const azo_allocator *a, size_t size) {
    void *ptr = azoi_resize(a, NULL, 0, size);
    if (ptr != NULL) {
        memset(ptr, 0, size);
    }
    return ptr;
}

static void azoi_free(const azo_allocator *a, void *ptr, size_t size) {
    (void)azoi_resize(a, ptr, size, 0);
}

static bool azoi_sum(size_t a, size_t b, size_t *out) {
    *out = a + b;
    return *out >= a;
}

static bool azoi_product(size_t a, size_t b, size_t *out) {
    *out = a * b;
    return a == 0 || *out / a == b;
}

/* ---- spares ---- */

/* The resize hook. */
static void *azoi_spares_resize(void *ptr, size_t old_size, size_t new_size, void *user_data) {
    azoi_spares *s = (azoi_spares *)user_data;
    size_t least = 0;
    for (size_t i = 1; i < AZOI_SPARE_COUNT; i++) {
        least = s->sizes[i] < s->sizes[least] ? i : least;
    }
    if (new_size == 0 && old_size <= AZOI_SPARE_BYTES && old_size > s->sizes[least]) {
        void *kept = s->blocks[least];
        size_t kept_size = s->sizes[least];
        s->blocks[least] = ptr;
        s->sizes[least] = old_size;
        ptr = kept;
        old_size = kept_size;
    }
    return azoi_resize(&s->below, ptr, old_size, new_size);
}

static void azoi_spares_free(azoi_spares *s) {
    for (size_t i = 0; i < AZOI_SPARE_COUNT; i++) {
        azoi_free(&s->below, s->blocks[i], s->sizes[i]);
    }
}

/* For those who can use more than they need: raises *size to what the block has. */
static void *azoi_take(const azo_allocator *a, size_t *size) {
    azoi_spares *s = a->resize == azoi_spares_resize ? (azoi_spares *)a->user_data : NULL;
    size_t best = AZOI_SPARE_COUNT;
    for (size_t i = 0; s != NULL && i < AZOI_SPARE_COUNT; i++) {
        if (s->sizes[i] >= *size && (best == AZOI_SPARE_COUNT || s->sizes[i] < s->sizes[best])) {
            best = i;
        }
    }
    if (best == AZOI_SPARE_COUNT) {
        *size += s != NULL && *size < AZOI_SPARE_BYTES ? AZOI_SPARE_STEP - 1 - (*size - 1) % AZOI_SPARE_STEP : 0;
        return azoi_resize(a, NULL, 0, *size);
    }
    void *block = s->blocks[best];
    *size = s->sizes[best];
    s->blocks[best] = NULL;
    s->sizes[best] = 0;
    return block;
}

/* ---- azoi_buf: no text that is added may lie in the buffer itself ---- */

static void azoi_buf_init(azoi_buf *b, const azo_allocator *a, size_t max, bool secret) {
    memset(b, 0, sizeof *b);
    b->allocator = a;
    b->max = max;
    b->secret = secret;
}

/* Not by realloc, which would leave a copy of a secret behind. */
static bool azoi_buf_move(azoi_buf *b, size_t cap) {
    char *data = (char *)azoi_take(b->allocator, &cap);
    if (data == NULL) {
        b->failed = AZO_ERR_MEMORY;
        return false;
    }
    if (b->len > 0) {
        memcpy(data, b->data, b->len);
    }
    data[b->len] = '\0';
    if (b->secret) {
        azoi_wipe(b->data, b->cap);
    }
    azoi_free(b->allocator, b->data, b->cap);
    b->data = data;
    b->cap = cap;
    return true;
}

static bool azoi_buf_fits(const azoi_buf *b, size_t more) {
    return b->failed == AZO_OK && more < b->cap - b->len && more <= b->max - b->len;
}

/* Doubles, so that n bytes added one by one cost O(n); the doubling stops at max. */
static bool azoi_buf_reserve(azoi_buf *b, size_t more) {
    if (azoi_buf_fits(b, more)) {
        return true;
    }
    if (b->failed == AZO_OK && (more > b->max - b->len || b->len + more == SIZE_MAX)) {
        b->failed = AZO_ERR_LIMIT;
    }
    if (b->failed != AZO_OK) {
        return false;
    }
    size_t cap = b->cap < 32 ? 64 : b->cap > SIZE_MAX / 2 ? SIZE_MAX : b->cap * 2;
    if (cap - 1 > b->max) {
        cap = b->max + 1;
    }
    return azoi_buf_move(b, b->len + more < cap ? cap : b->len + more + 1);
}

static void azoi_buf_add(azoi_buf *b, const void *bytes, size_t len) {
    if ((azoi_buf_fits(b, len) || azoi_buf_reserve(b, len)) && len > 0) {
        memcpy(b->data + b->len, bytes, len);
        b->len += len;
        b->data[b->len] = '\0';
    }
}

static void azoi_buf_str(azoi_buf *b, azo_str text) {
    azoi_buf_add(b, text.ptr, text.len);
}

/* What does not fit is cut off, so that where it is cut does not depend on the pieces it comes in. */
static void azoi_buf_collect(azoi_buf *b, azo_str piece) {
    size_t room = b->max - b->len;
    azoi_buf_add(b, piece.ptr, piece.len < room ? piece.len : room);
    if (piece.len > room && b->failed == AZO_OK) {
        b->failed = AZO_ERR_LIMIT;
    }
}

static void azoi_buf_puts(azoi_buf *b, const char *text) {
    azoi_buf_add(b, text, strlen(text));
}

static void azoi_buf_char(azoi_buf *b, char c) {
    if (azoi_buf_fits(b, 1) || azoi_buf_reserve(b, 1)) {
        b->data[b->len++] = c;
        b->data[b->len] = '\0';
    }
}

static void azoi_buf_count(azoi_buf *b, uint64_t value) {
    char text[20];
    size_t at = sizeof text;
    do {
        text[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    azoi_buf_add(b, text + at, sizeof text - at);
}

static void azoi_buf_int(azoi_buf *b, int64_t value) {
    azoi_buf_puts(b, value < 0 ? "-" : "");
    azoi_buf_count(b, value < 0 ? (uint64_t)-(value + 1) + 1 : (uint64_t)value);
}

static void azoi_buf_drop(azoi_buf *b, size_t count) {
    if (b->data == NULL) {
        return;
    }
    b->len -= count;
    memmove(b->data, b->data + count, b->len);
    if (b->secret) {
        azoi_wipe(b->data + b->len, count);
    }
    b->data[b->len] = '\0';
}

static void azoi_buf_clear(azoi_buf *b) {
    azoi_buf_drop(b, b->len);
    b->failed = AZO_OK;
}

static void azoi_buf_free(azoi_buf *b) {
    if (b->secret) {
        azoi_wipe(b->data, b->cap); /* the bytes behind len too: whoever reserves may have written there */
    }
    azoi_free(b->allocator, b->data, b->cap);
    azoi_buf_init(b, b->allocator, b->max, b->secret);
}

static azo_str azoi_view(const char *ptr, size_t len) {
    azo_str view;
    view.ptr = ptr;
    view.len = len;
    return view;
}

static azo_str azoi_buf_view(const azoi_buf *b) {
    return azoi_view(b->data, b->len);
}

static bool azoi_buf_set(azoi_buf *b, azo_str text) {
    azoi_buf_clear(b);
    azoi_buf_str(b, text);
    return b->failed == AZO_OK;
}

/* ---- lists: rings, so that no place in them is special ---- */

static void azoi_list_init(azoi_link *list) {
    list->prev = list;
    list->next = list;
}

static bool azoi_list_empty(const azoi_link *list) {
    return list->next == list;
}

static bool azoi_linked(const azoi_link *link) {
    return link->next != NULL;
}

/* At the end of a list, or, given a member, before that one; unless it is in a list already. */
static void azoi_list_add(azoi_link *list, azoi_link *link) {
    if (!azoi_linked(link)) {
        link->prev = list->prev;
        link->next = list;
        list->prev->next = link;
        list->prev = link;
    }
}

static void azoi_link_leave(azoi_link *link) {
    if (azoi_linked(link)) {
        link->prev->next = link->next;
        link->next->prev = link->prev;
        link->prev = NULL;
        link->next = NULL;
    }
}

/* Puts all of another list, which is empty afterwards, before the members of this one. */
static void azoi_list_prepend(azoi_link *list, azoi_link *other) {
    if (!azoi_list_empty(other)) {
        other->prev->next = list->next;
        list->next->prev = other->prev;
        other->next->prev = list;
        list->next = other->next;
        azoi_list_init(other);
    }
}
/* >>strings */

/* Views, ASCII, UTF-8 and encodings. Nothing here depends on the locale, as toupper, isdigit and their like do. */

/* What a byte can be. */
enum {
    AZOI_BYTE_PLAIN = 1, /* printable ASCII that stands for itself in JSON and in HTTP, as nearly all bytes do */
    AZOI_BYTE_SPACE = 2,
    AZOI_BYTE_URL = 4,   /* stands for itself in every part of a URL (RFC 3986 2.3) */
    AZOI_BYTE_BARE = 8,  /* may lie between the strings and brackets of JSON */
    AZOI_BYTE_TOKEN = 16 /* of a header's name (RFC 9110 5.6.2) */
};

static const unsigned char azoi_bytes[256] = {
     0,  0,  0,  0,  0,  0,  0,  0,  0, 10, 10,  0,  0, 10,  0,  0,
     0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
    11, 25,  0, 25, 25, 25, 25, 25,  9,  9, 25, 25,  9, 29, 29,  9,
    29, 29, 29, 29, 29, 29, 29, 29, 29, 29,  9,  9,  9,  9,  9,  9,
     9, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29,
    29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29,  1,  0,  1, 25, 29,
    25, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29,
    29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29,  1, 25,  1, 29,  0};

static bool azoi_byte_is(char c, unsigned kinds) {
    return (azoi_bytes[(unsigned char)c] & kinds) != 0;
}

static bool azoi_is_digit(char c) {
    return c >= '0' && c <= '9';
}

static char azoi_lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool azoi_is_alpha(char c) {
    return azoi_lower(c) >= 'a' && azoi_lower(c) <= 'z';
}

static bool azoi_is_space(char c) {
    return azoi_byte_is(c, AZOI_BYTE_SPACE);
}

/* The value of a hexadecimal digit, or -1. */
static int azoi_hex(char c) {
    if (azoi_is_digit(c)) {
        return c - '0';
    }
    c = azoi_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* ---- views ---- */

static bool azoi_same(azo_str a, azo_str b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

static bool azoi_same_ci(azo_str a, azo_str b) {
    size_t i = 0;
    if (a.len != b.len || azoi_same(a, b)) {
        return a.len == b.len;
    }
    while (i < a.len && azoi_lower(a.ptr[i]) == azoi_lower(b.ptr[i])) {
        i++;
    }
    return i == a.len;
}

static bool azoi_equal(azo_str a, const char *b) {
    return azoi_same(a, azo_s(b));
}

static bool azoi_equal_ci(azo_str a, const char *b) {
    return azoi_same_ci(a, azo_s(b));
}

/* What is left behind the first `count` bytes. */
static azo_str azoi_skip(azo_str s, size_t count) {
    count = count > s.len ? s.len : count;
    return count == 0 ? s : azoi_view(s.ptr + count, s.len - count);
}

static bool azoi_is(azo_str value, char first) {
    return value.len > 0 && value.ptr[0] == first;
}

static bool azoi_starts(azo_str s, const char *prefix) {
    size_t len = strlen(prefix);
    return s.len >= len && azoi_equal(azoi_view(s.ptr, len), prefix);
}

static bool azoi_starts_ci(azo_str s, const char *prefix) {
    size_t len = strlen(prefix);
    return s.len >= len && azoi_equal_ci(azoi_view(s.ptr, len), prefix);
}

static bool azoi_ends(azo_str s, const char *suffix) {
    size_t len = strlen(suffix);
    return s.len >= len && azoi_equal(azoi_skip(s, s.len - len), suffix);
}

static bool azoi_ends_ci(azo_str s, const char *suffix) {
    size_t len = strlen(suffix);
    return s.len >= len && azoi_equal_ci(azoi_skip(s, s.len - len), suffix);
}

static azo_str azoi_trim_end(azo_str s) {
    while (s.len > 0 && azoi_is_space(s.ptr[s.len - 1])) {
        s.len--;
    }
    return s;
}

static azo_str azoi_trim(azo_str s) {
    while (s.len > 0 && azoi_is_space(s.ptr[0])) {
        s = azoi_skip(s, 1);
    }
    return azoi_trim_end(s);
}

static size_t azoi_find(azo_str s, char c) {
    const char *at = s.len == 0 ? NULL : (const char *)memchr(s.ptr, c, s.len);
    return at == NULL ? s.len : (size_t)(at - s.ptr);
}

static bool azoi_contains_ci(azo_str s, const char *part) {
    while (s.len > 0 && !azoi_starts_ci(s, part)) {
        s = azoi_skip(s, 1);
    }
    return azoi_starts_ci(s, part);
}

/* What follows the bytes of a kind; four at a time, since the end need not be looked for in between. */
static inline const char *azoi_kind_end(const char *at, const char *end, unsigned kind) {
    const unsigned char *b = azoi_bytes;
    while (end - at >= 4 && (b[(unsigned char)at[0]] & b[(unsigned char)at[1]] & b[(unsigned char)at[2]] &
                             b[(unsigned char)at[3]] & kind) != 0) {
        at += 4;
    }
    while (at < end && azoi_byte_is(*at, kind)) {
        at++;
    }
    return at;
}

/* How many bytes at the front are of a kind. */
static size_t azoi_run(azo_str s, unsigned kind) {
    return s.len > 0 ? (size_t)(azoi_kind_end(s.ptr, s.ptr + s.len, kind) - s.ptr) : 0;
}

/* How many bytes at the front may stand in the value of a header: no control characters but tabs (RFC 9110 5.5). */
static size_t azoi_value_run(azo_str s) {
    size_t i = azoi_run(s, AZOI_BYTE_PLAIN);
    while (i < s.len && s.ptr[i] != 0x7f && ((unsigned char)s.ptr[i] >= 0x20 || s.ptr[i] == '\t')) {
        i += 1 + azoi_run(azoi_skip(s, i + 1), AZOI_BYTE_PLAIN);
    }
    return i;
}

static bool azoi_has_control(azo_str s) {
    return azoi_value_run(s) < s.len;
}

/* Printable ASCII without blanks and without any of `forbidden`. */
static bool azoi_is_plain(azo_str text, const char *forbidden) {
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] <= ' ' || text.ptr[i] > '~' || strchr(forbidden, text.ptr[i]) != NULL) {
            return false;
        }
    }
    return true;
}

/* Whether foreign text may stand in a sentence of ours. */
static bool azoi_is_word(const char *text) {
    static const char fine[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.[]";
    return text[0] != '\0' && text[strspn(text, fine)] == '\0';
}

/* Blanks a secret wherever it stands in the text. Short ones could be anything. */
static void azoi_buf_hide(azoi_buf *text, azo_str secret) {
    char *at = text->data;
    size_t left = text->len;
    while (secret.len >= 8 && left >= secret.len) {
        char *next = (char *)memchr(at, secret.ptr[0], left - secret.len + 1);
        if (next == NULL) {
            break;
        }
        size_t size = 1;
        if (next[1] == secret.ptr[1] && memcmp(next, secret.ptr, secret.len) == 0) {
            size = secret.len;
            memset(next, '*', size);
        }
        left -= (size_t)(next - at) + size;
        at = next + size;
    }
}

static bool azoi_parse_u64(azo_str digits, uint64_t *out) {
    uint64_t value = 0;
    for (size_t i = 0; i < digits.len; i++) {
        unsigned digit = (unsigned)(unsigned char)digits.ptr[i] - '0';
        if (digit > 9 || value > (UINT64_MAX - digit) / 10) {
            return false;
        }
        value = value * 10 + digit;
    }
    *out = value;
    return digits.len > 0;
}

/* ---- UTF-8 ---- */

/* No overlong forms, no surrogates, nothing above U+10FFFF. */
static size_t azoi_utf8(const char *bytes, size_t len) {
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *u = (const unsigned char *)bytes;
    if (len > 0 && u[0] < 0x80) {
        return 1;
    }
    if (len == 0 || u[0] < 0xc0 || u[0] > 0xf7) {
        return 0;
    }
    size_t size = u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
    uint32_t code = u[0] & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if (i == len || (u[i] & 0xc0) != 0x80) {
            return 0;
        }
        code = code << 6 | (u[i] & 0x3fu);
    }
    return code < smallest[size] || (code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff ? 0 : size;
}

/* Writes up to 4 bytes; a surrogate or a number above U+10FFFF is written as U+FFFD. */
static size_t azoi_utf8_put(char *out, uint32_t code) {
    static const unsigned lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    if ((code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) {
        code = 0xfffd;
    }
    size_t size = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = size - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code & 0x3f));
        code >>= 6;
    }
    out[0] = (char)(lead[size] | code);
    return size;
}

/* ---- encodings ---- */

static void azoi_percent(azoi_buf *b, azo_str text, const char *keep) {
    for (size_t i = 0; i < text.len; i++) {
        size_t run = i;
        char c = '\0';
        while (run < text.len && (c = text.ptr[run]) != '\0' && (azoi_byte_is(c, AZOI_BYTE_URL) || strchr(keep, c))) {
            run++;
        }
        azoi_buf_add(b, text.ptr + i, run - i);
        if (run < text.len) {
            char code[4];
            snprintf(code, sizeof code, "%%%02X", (unsigned)(unsigned char)c);
            azoi_buf_puts(b, code);
        }
        i = run;
    }
}

static const char azoi_base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void azoi_base64(azoi_buf *b, azo_str bytes) {
    for (size_t i = 0; i < bytes.len; i += 3) {
        size_t count = bytes.len - i < 3 ? bytes.len - i : 3;
        unsigned long word = 0;
        for (size_t k = 0; k < 3; k++) {
            word = word << 8 | (k < count ? (unsigned char)bytes.ptr[i + k] : 0u);
        }
        for (size_t k = 0; k < 4; k++) {
            azoi_buf_char(b, k <= count ? azoi_base64_digits[word >> (18 - 6 * k) & 63] : '=');
        }
    }
}

/* The value of a digit, or 255. */
static unsigned azoi_base64_value(char c) {
    /* from '+' to 'z' */
    static const unsigned char values[] = {
        62,  255, 255, 255, 63,  52,  53,  54, 55, 56, 57, 58, 59, 60, 61, 255, 255, 255, 255, 255, 255, 255, 0,  1,
        2,   3,   4,   5,   6,   7,   8,   9,  10, 11, 12, 13, 14, 15, 16, 17,  18,  19,  20,  21,  22,  23,  24, 25,
        255, 255, 255, 255, 255, 255, 26,  27, 28, 29, 30, 31, 32, 33, 34, 35,  36,  37,  38,  39,  40,  41,  42, 43,
        44,  45,  46,  47,  48,  49,  50,  51};
    unsigned at = (unsigned)(unsigned char)c - '+';
    return at < sizeof values ? values[at] : 255;
}

/* Four digits are three bytes; false: not all of them are digits. */
static bool azoi_base64_four(const char *digits, unsigned char *out) {
    unsigned a = azoi_base64_value(digits[0]);
    unsigned b = azoi_base64_value(digits[1]);
    unsigned c = azoi_base64_value(digits[2]);
    unsigned d = azoi_base64_value(digits[3]);
    if ((a | b | c | d) > 63) {
        return false;
    }
    out[0] = (unsigned char)(a << 2 | b >> 4);
    out[1] = (unsigned char)((b & 15) << 4 | c >> 2);
    out[2] = (unsigned char)((c & 3) << 6 | d);
    return true;
}

/* White space is skipped, and padding may be missing. */
static bool azoi_base64_decode(azo_str text, unsigned char *out, size_t cap, size_t *len) {
    unsigned word = 0;
    unsigned bits = 0;
    bool padded = false;
    *len = 0;
    for (size_t i = 0; i < text.len; i++) {
        while (bits == 0 && !padded && text.len - i > 4 && cap - *len >= 3 &&
               azoi_base64_four(text.ptr + i, out + *len)) {
            i += 4;
            *len += 3;
        }
        unsigned value = azoi_base64_value(text.ptr[i]);
        if (value == 255 && (text.ptr[i] == '=' || azoi_is_space(text.ptr[i]))) {
            padded = padded || text.ptr[i] == '=';
            continue;
        }
        if (value == 255 || padded) {
            return false;
        }
        word = (word << 6 | value) & 0xffff;
        bits += 6;
        if (bits >= 8) {
            if (*len == cap) {
                return false;
            }
            bits -= 8;
            out[*len] = (unsigned char)(word >> bits & 0xff);
            (*len)++;
        }
    }
    return bits < 6; /* no digit stands alone */
}

/* ---- records: the same bytes on every machine ---- */

/* Eight bytes, the highest first. */
static void azoi_number_put(azoi_buf *b, int64_t value) {
    for (int shift = 56; shift >= 0; shift -= 8) {
        azoi_buf_char(b, (char)(unsigned char)((uint64_t)value >> shift & 0xff));
    }
}

static bool azoi_number_take(azo_str *rest, int64_t *value) {
    uint64_t bits = 0;
    for (size_t i = 0; i < 8 && rest->len >= 8; i++) {
        bits = bits << 8 | (unsigned char)rest->ptr[i];
    }
    *value = (int64_t)(bits & INT64_MAX);
    bool ok = rest->len >= 8 && bits <= INT64_MAX;
    *rest = azoi_skip(*rest, 8);
    return ok;
}

static void azoi_text_put(azoi_buf *b, azo_str text) {
    azoi_number_put(b, (int64_t)text.len);
    azoi_buf_str(b, text);
}

static void azoi_record_put(azoi_buf *b, const azoi_record *r) {
    const int64_t numbers[] = {r->kind, r->detail, r->time, r->number};
    for (size_t i = 0; i < 4; i++) {
        azoi_number_put(b, numbers[i]);
    }
    azoi_text_put(b, r->name);
    azoi_text_put(b, r->secret);
}

/* False: no record begins here. */
static bool azoi_record_take(azo_str *rest, azoi_record *r) {
    int64_t *const numbers[] = {&r->kind, &r->detail, &r->time, &r->number};
    azo_str *const texts[] = {&r->name, &r->secret};
    bool ok = true;
    for (size_t i = 0; i < 4; i++) {
        ok = azoi_number_take(rest, numbers[i]) && ok;
    }
    for (size_t i = 0; i < 2; i++) {
        int64_t len;
        ok = azoi_number_take(rest, &len) && ok && (uint64_t)len <= rest->len;
        *texts[i] = azoi_view(rest->ptr, ok ? (size_t)len : 0);
        *rest = azoi_skip(*rest, texts[i]->len);
    }
    return ok;
}

/* ---- environment ---- */

static azo_str azoi_env(const char *name) {
#ifdef AZO_NO_ENV
    (void)name;
    return azoi_view(NULL, 0);
#else
    azo_str value = azoi_trim(azo_s(getenv(name)));
    return value.len > 0 ? value : azoi_view(NULL, 0);
#endif
}

/* >>error */

/* azoi_fail is the only writer of an azo_error: the first failure stays, and its text is made one line of valid
 * UTF-8 whatever was formatted into it. Sentences come in twos: what failed, with its number; what to do next. */

static void azoi_error_clear(azo_error *e) {
    memset(e, 0, sizeof *e);
    e->retry_after_ms = -1;
}

/* Who can mend it, as far as the code alone tells. */
static azo_who azoi_who(azo_result code) {
    static const struct {
        unsigned char who;
        signed char codes[9];
    } rows[] = {
        {AZO_WHO_NOBODY, {AZO_OK, AZO_PENDING, AZO_ERR_CANCELLED}},
        {AZO_WHO_MACHINE, {AZO_ERR_MEMORY, AZO_ERR_RESOLVE, AZO_ERR_CONNECT, AZO_ERR_PROXY, AZO_ERR_TLS,
                           AZO_ERR_TLS_VERIFY, AZO_ERR_TRUST_STORE, AZO_ERR_TIMEOUT, AZO_ERR_CLOSED}},
        {AZO_WHO_IDENTITY, {AZO_ERR_TOKEN, AZO_ERR_IMDS, AZO_ERR_UNAUTHORIZED}},
        {AZO_WHO_RESOURCE, {AZO_ERR_FORBIDDEN, AZO_ERR_NOT_FOUND}},
        {AZO_WHO_PROMPT, {AZO_ERR_CONTENT_FILTER}},
        {AZO_WHO_WAIT, {AZO_ERR_RATE_LIMIT, AZO_ERR_SERVICE, AZO_ERR_STREAM}},
        {AZO_WHO_REPORT, {AZO_ERR_HTTP, AZO_ERR_JSON}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (size_t k = 0; k < sizeof rows[i].codes / sizeof rows[i].codes[0]; k++) {
            if (rows[i].codes[k] == code) {
                return (azo_who)rows[i].who;
            }
        }
    }
    return AZO_WHO_PROGRAM;
}

/* Line ends become spaces, other controls (C1 too, which terminals obey) and bytes that are not UTF-8 question
 * marks. Never longer than `foreign`, so it may be used in place. */
static void azoi_clean(char *out, size_t cap, azo_str foreign) {
    size_t to = 0;
    while (foreign.len > 0) {
        size_t size = azoi_utf8(foreign.ptr, foreign.len);
        unsigned char first = (unsigned char)foreign.ptr[0];
        bool c1 = size == 2 && first == 0xc2 && (unsigned char)foreign.ptr[1] < 0xa0;
        bool good = size > 0 && first >= 0x20 && first != 0x7f && !c1;
        if (to + (good ? size : 1) >= cap) {
            break;
        }
        if (good) {
            memmove(out + to, foreign.ptr, size);
            to += size;
        } else {
            out[to++] = azoi_is_space((char)first) ? ' ' : '?';
        }
        foreign = azoi_skip(foreign, size == 0 ? 1 : size);
    }
    if (cap > 0) {
        out[to] = '\0';
    }
}

AZOI_PRINTF(3, 4)
static azo_result azoi_fail(azo_error *e, azo_result code, const char *format, ...) {
    char text[sizeof e->message + 4]; /* a character across the end of the message is whole in here */
    va_list args;
    if (e == NULL || e->code != AZO_OK) {
        return code;
    }
    e->code = code;
    e->who = azoi_who(code);
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    azoi_clean(e->message, sizeof e->message, azo_s(text));
    return code;
}

#ifdef AZO_NO_SENTENCES
/* Takes the place of azoi_fail, whose arguments are checked, but not kept. */
static azo_result azoi_fail_short(azo_error *e, azo_result code) {
    return (azoi_fail)(e, code, "Error %d. Look it up in AZO_RESULTS of azopenai.h.", (int)code);
}
#define azoi_fail(e, code, ...) (true ? azoi_fail_short(e, code) : (azoi_fail)(e, code, __VA_ARGS__))
#define AZOI_SENTENCES(what, to_do) "", ""
#else
#define AZOI_SENTENCES(what, to_do) what, to_do
#endif

/* For what one of the options has left out. */
static azo_result azoi_left_out(azo_error *e, const char *what, const char *option) {
    return azoi_fail(e, AZO_ERR_UNSUPPORTED, "%s was asked for, which this build cannot do (%s). Do without, or "
                     "compile azopenai.h without that option.", what, option);
}

static azo_result azoi_memory(azo_error *e) {
    return azoi_fail(e, AZO_ERR_MEMORY, "The allocator returned no memory. Free some or give the program more, then "
                                        "try again.");
}

/* `what` starts a sentence: "The response head (max_header_bytes)". */
static azo_result azoi_buf_failed(const azoi_buf *b, azo_error *e, const char *what) {
    if (b->failed != AZO_ERR_LIMIT) {
        return b->failed == AZO_OK ? AZO_OK : azoi_memory(e);
    }
    return azoi_fail(e, AZO_ERR_LIMIT, "%s is larger than its limit of %zu bytes. Raise the limit if that much is "
                                       "expected.", what, b->max);
}

/* >>json */

/* A scanner of our own that accepts exactly RFC 8259 in UTF-8, because jsmn alone takes `{"a"}`, `[1 2]`, `nulx`, raw
 * controls and much else for JSON. What passed it is tokenised by jsmn, where values are wanted by name here and there;
 * or walked, by the map that the check made of it, or by scanning it once more. Object keys are compared as they are
 * written. */

/* ---- scanner: each returns what lies behind what it read, or NULL, and then s->bad is the first bad byte ---- */

/* Returns the start of the text. */
static const char *azoi_json_scan_init(azoi_json_scan *s, azo_str text, azoi_json_map *map) {
    const char *at = text.len > 0 ? text.ptr : "";
    s->end = at + text.len;
    s->bad = NULL;
    s->map = map;
    s->next = map != NULL ? map->entries : &s->none;
    s->last = map != NULL ? map->entries + AZOI_JSON_MAPPED : &s->none;
    s->open[0].closer = UCHAR_MAX + 1; /* no byte */
    return at;
}

static const char *azoi_json_scan_bad(azoi_json_scan *s, const char *at) {
    s->bad = at;
    return NULL;
}

/* The byte at `at`; NUL at the end of the text. */
static char azoi_json_scan_peek(const azoi_json_scan *s, const char *at) {
    return at < s->end ? *at : '\0';
}

/* Skips white space, and returns what follows it; NUL at the end of the text. */
static char azoi_json_scan_ahead(const azoi_json_scan *s, const char **at) {
    for (; *at < s->end; (*at)++) {
        if (!azoi_byte_is(**at, AZOI_BYTE_SPACE)) {
            return **at;
        }
    }
    return '\0';
}

/* At least one, behind those that the number has. */
static const char *azoi_json_scan_digits(azoi_json_scan *s, const char *at, azoi_number *number) {
    const char *start = at;
    uint64_t digits = number->digits; /* in a register */
    for (; at < s->end && azoi_is_digit(*at); at++) {
        digits = digits * 10 + (uint64_t)(*at - '0');
    }
    number->digits = digits;
    number->count += (size_t)(at - start);
    return at > start ? at : azoi_json_scan_bad(s, at);
}

static const char *azoi_json_scan_number(azoi_json_scan *s, const char *at, azoi_number *number) {
    azoi_number power = {0, 0, 0};
    *number = power;
    at += azoi_json_scan_peek(s, at) == '-' ? 1 : 0;
    at = azoi_json_scan_peek(s, at) == '0' ? at + 1 : azoi_json_scan_digits(s, at, number);
    if (at != NULL && azoi_json_scan_peek(s, at) == '.') {
        size_t whole = number->count;
        at = azoi_json_scan_digits(s, at + 1, number);
        number->exponent = (int64_t)whole - (int64_t)number->count;
    }
    if (at == NULL || azoi_lower(azoi_json_scan_peek(s, at)) != 'e') {
        return at;
    }
    char sign = at + 1 < s->end ? at[1] : '\0';
    at += sign == '-' || sign == '+' ? 2 : 1;
    while (azoi_json_scan_peek(s, at) == '0' && azoi_is_digit(azoi_json_scan_peek(s, at + 1))) {
        at++;
    }
    at = azoi_json_scan_digits(s, at, &power);
    int64_t shift = power.count > 18 ? INT64_MAX / 4 : (int64_t)power.digits; /* no text makes up for that */
    number->exponent += sign == '-' ? -shift : shift;
    return at;
}

static const char azoi_json_escapes[] = "\"\\bfnrt/"; /* behind the backslash */
static const char azoi_json_escaped[] = "\"\\\b\f\n\r\t/";
enum { AZOI_JSON_MUST_ESCAPE = 7, AZOI_JSON_MAY_ESCAPE = 8 }; /* how many of them */

/* \uXXXX at the front of `s`; -1 if there is none. */
static int32_t azoi_json_code_unit(azo_str s) {
    int32_t code = 0;
    if (s.len < 6 || s.ptr[0] != '\\' || s.ptr[1] != 'u') {
        return -1;
    }
    for (size_t i = 2; i < 6; i++) {
        int digit = azoi_hex(s.ptr[i]);
        if (digit < 0) {
            return -1;
        }
        code = code * 16 + digit;
    }
    return code;
}

/* How many bytes the character or escape takes; 0: it must not stand in a string. */
static size_t azoi_json_unit_size(azo_str s) {
    if (s.ptr[0] != '\\') {
        return (unsigned char)s.ptr[0] < 0x20 ? 0 : azoi_utf8(s.ptr, s.len);
    }
    bool named = s.len > 1 && memchr(azoi_json_escapes, s.ptr[1], AZOI_JSON_MAY_ESCAPE) != NULL;
    return named ? 2 : azoi_json_code_unit(s) >= 0 ? 6 : 0;
}

/* The rest of a string, from where something else comes. */
AZOI_APART
static const char *azoi_json_scan_units(azoi_json_scan *s, const char *at) {
    while (azoi_json_scan_peek(s, at) != '"') {
        size_t size = at == s->end ? 0 : azoi_json_unit_size(azoi_view(at, (size_t)(s->end - at)));
        if (size == 0) {
            return azoi_json_scan_bad(s, at);
        }
        at = azoi_kind_end(at + size, s->end, AZOI_BYTE_PLAIN);
    }
    return at + 1;
}

/* From its opening quote, which is here. */
static const char *azoi_json_scan_string(azoi_json_scan *s, const char *at) {
    at = azoi_kind_end(at + 1, s->end, AZOI_BYTE_PLAIN);
    return azoi_json_scan_peek(s, at) == '"' ? at + 1 : azoi_json_scan_units(s, at);
}

/* A key and its colon. */
static inline const char *azoi_json_scan_key(azoi_json_scan *s, const char *at) {
    if (azoi_json_scan_ahead(s, &at) != '"') {
        return azoi_json_scan_bad(s, at);
    }
    const char *behind = azoi_json_scan_string(s, at);
    if (behind == NULL) {
        return NULL;
    }
    s->next->key = azoi_view(at + 1, (size_t)(behind - at) - 2);
    return azoi_json_scan_ahead(s, &behind) == ':' ? behind + 1 : azoi_json_scan_bad(s, behind);
}

static const char *azoi_json_scan_scalar(azoi_json_scan *s, const char *at, char first) {
    azoi_number number;
    if (first == '"') {
        return azoi_json_scan_string(s, at);
    }
    const char *word = first == 't' ? "true" : first == 'f' ? "false" : first == 'n' ? "null" : NULL;
    if (word == NULL) {
        return azoi_json_scan_number(s, at, &number);
    }
    size_t len = first == 'f' ? 5 : 4;
    return (size_t)(s->end - at) >= len && memcmp(at, word, len) == 0 ? at + len : azoi_json_scan_bad(s, at);
}

static azoi_json_entry *azoi_json_scan_begins(azoi_json_scan *s, const char *at) {
    azoi_json_entry *entry = s->next;
    entry->value.ptr = at;
    s->next += entry < s->last ? 1 : 0;
    return entry;
}

static void azoi_json_scan_ends(const azoi_json_scan *s, azoi_json_entry *entry, const char *at) {
    entry->value.len = (size_t)(at - entry->value.ptr);
    entry->behind = s->next;
}

/* The length of the known object, if that is what begins here. */
static size_t azoi_json_scan_known(const azoi_json_scan *s, const char *at, size_t depth) {
    azo_str known = s->map != NULL && s->map->depth == depth ? s->map->known : azoi_view(NULL, 0);
    return known.len <= (size_t)(s->end - at) && azoi_same(azoi_view(at, known.len), known) ? known.len : 0;
}

/* A value with all that is in it: one round for each scalar, and for each bracket that opens an object or array. */
static const char *azoi_json_scan_value(azoi_json_scan *s, const char *at) {
    azoi_json_open *open = s->open;
    for (;;) {
        char c = azoi_json_scan_ahead(s, &at);
        size_t known = c == '{' ? azoi_json_scan_known(s, at, (size_t)(open - s->open)) : 0;
        bool complete = known > 0 || (c != '{' && c != '[');
        azoi_json_entry *entry = azoi_json_scan_begins(s, at);
        if (complete) {
            at = known > 0 ? at + known : azoi_json_scan_scalar(s, at, c);
            if (at == NULL) {
                return NULL;
            }
            azoi_json_scan_ends(s, entry, at);
        } else if (open == s->open + AZO_MAX_JSON_DEPTH) {
            return azoi_json_scan_bad(s, at);
        } else {
            open++;
            open->closer = c + 2; /* ASCII has it so */
            open->entry = entry;
            at++;
        }
        while ((c = azoi_json_scan_ahead(s, &at)) == open->closer) {
            at++;
            azoi_json_scan_ends(s, open->entry, at);
            open--;
            complete = true;
        }
        if (open == s->open) {
            return at;
        }
        if (complete && c != ',') {
            return azoi_json_scan_bad(s, at);
        }
        at += complete ? 1 : 0;
        if (open->closer == '}' && (at = azoi_json_scan_key(s, at)) == NULL) {
            return NULL;
        }
    }
}

/* Whether it is JSON. The map may be NULL. */
static bool azoi_json_check_map(azo_str text, azoi_json_map *map, size_t *offset) {
    azoi_json_scan s;
    const char *start = azoi_json_scan_init(&s, text, map);
    const char *at = azoi_json_scan_value(&s, start);
    bool ok = at != NULL && azoi_json_scan_ahead(&s, &at) == '\0' && at == s.end;
    *offset = (size_t)((at != NULL ? at : s.bad) - start);
    if (map != NULL) {
        map->count = s.next < s.last ? (size_t)(s.next - map->entries) : 0;
    }
    return ok;
}

static bool azoi_json_check(azo_str text, size_t *offset) {
    return azoi_json_check_map(text, NULL, offset);
}

/* ---- pieces ---- */

/* The length of the piece up to behind its next bracket; all of it where there is none. */
static size_t azoi_json_bracket(azoi_json_nesting *n, azo_str piece) {
    const char *end = piece.ptr + piece.len;
    for (const char *at = piece.ptr; at < end; at++) {
        at = n->escaped  ? at
             : n->quoted ? azoi_kind_end(at, end, AZOI_BYTE_PLAIN) : azoi_kind_end(at, end, AZOI_BYTE_BARE);
        if (at == end) {
            break;
        }
        if (n->quoted) {
            n->quoted = n->escaped || *at != '"';
            n->escaped = !n->escaped && *at == '\\';
        } else if (*at == '"') {
            n->quoted = true;
        } else if ((*at | 0x20) == '{' || (*at | 0x20) == '}') { /* or [ or ] */
            bool opens = (*at | 0x20) == '{';
            n->depth += opens ? 1 : 0;
            n->depth -= !opens && n->depth > 0 ? 1 : 0;
            n->deepest = n->depth > n->deepest ? n->depth : n->deepest;
            return (size_t)(at + 1 - piece.ptr);
        }
    }
    return piece.len;
}

/* ---- numbers: exactly rounded, whatever decimal point the locale has ---- */

/* 767 digits decide every double exactly; what follows only says on which side of a halfway point the number lies,
 * so one nonzero digit can stand for all of it. */
enum { AZOI_MAX_DIGITS = 770 };

/* strtod gets an integer with an exponent. */
AZOI_APART
static double azoi_decimal_value(const azoi_number *number, azo_str text) {
    char digits[AZOI_MAX_DIGITS + 32]; /* and room for the exponent */
    int64_t exponent = number->exponent;
    size_t count = 0;
    for (size_t i = 0; i < text.len && azoi_lower(text.ptr[i]) != 'e'; i++) {
        char c = text.ptr[i];
        if (!azoi_is_digit(c) || (c == '0' && count == 0)) {
            continue;
        }
        if (count < AZOI_MAX_DIGITS) {
            digits[count++] = c;
        } else {
            exponent++;
            digits[count - 1] = c == '0' ? digits[count - 1] : '1';
        }
    }
    if (count == 0) {
        return 0;
    }
    snprintf(digits + count, 32, "e%lld", (long long)exponent);
    return strtod(digits, NULL);
}

/* Up to 2^53 and 10^22 are exact in a double, so one rounding is left (Clinger 1990): but only where the compiler
 * computes in double, not in the wider registers of the x87. */
static double azoi_number_value(const azoi_number *number, azo_str text) {
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD == 0
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    if (number->count <= 19 && number->digits <= (uint64_t)1 << 53 && number->exponent >= -22 &&
        number->exponent <= 22) {
        double whole = (double)number->digits;
        return number->exponent < 0 ? whole / powers[-number->exponent] : whole * powers[number->exponent];
    }
#endif
    return azoi_decimal_value(number, text);
}

/* Too large for a double is no number, too small is zero. */
static const char *azoi_json_scan_double(azoi_json_scan *s, const char *at, double *out) {
    azoi_number number;
    const char *behind = azoi_json_scan_number(s, at, &number);
    if (behind == NULL) {
        return NULL;
    }
    double value = azoi_number_value(&number, azoi_view(at, (size_t)(behind - at)));
    if (value > DBL_MAX) {
        return azoi_json_scan_bad(s, at);
    }
    *out = *at == '-' ? -value : value;
    return behind;
}

static bool azoi_parse_double(azo_str text, double *out) {
    azoi_json_scan s;
    const char *start = azoi_json_scan_init(&s, text, NULL);
    double value = 0;
    if (azoi_json_scan_double(&s, start, &value) != s.end) {
        return false;
    }
    *out = value;
    return true;
}

/* A finite number, with as many digits as it takes to read it back. The locale's decimal point may have several
 * bytes. */
static void azoi_print_double(azoi_buf *b, double value) {
    char text[64];
    double back;
    int digits = 14;
    do { /* 17 always suffice */
        digits++;
        snprintf(text, sizeof text, "%.*g", digits, value);
        back = strtod(text, NULL);
    } while (digits < 17 && !(back >= value && back <= value));
    const char *point = text + strspn(text, "0123456789+-e");
    azoi_buf_add(b, text, (size_t)(point - text));
    if (*point != '\0') {
        azoi_buf_char(b, '.');
        azoi_buf_puts(b, point + strcspn(point, "0123456789"));
    }
}

/* ---- tokens ---- */

enum { AZOI_MAX_TOKENS = 1024 }; /* what says something in a few words has some sixty */

/* No lone number or word: jsmn takes it for an unfinished one. The views in `out` live as long as `text` and until the
 * next parse into `tokens`. */
static azo_result azoi_json_parse(azoi_buf *tokens, azo_str text, azoi_json *out) {
    azoi_jsmn_parser parser;
    size_t offset = 0;
    int count = 0;
    memset(out, 0, sizeof *out);
    azoi_jsmn_init(&parser);
    if (text.len < INT_MAX && azoi_json_check(text, &offset)) { /* jsmn counts in int */
        count = azoi_jsmn_parse(&parser, text.ptr, text.len, NULL, 0);
    }
    if (count < 1 || count > AZOI_MAX_TOKENS) {
        return AZO_ERR_JSON;
    }
    azoi_buf_clear(tokens);
    if (!azoi_buf_reserve(tokens, (size_t)count * sizeof *out->tokens)) {
        return AZO_ERR_MEMORY;
    }
    azoi_jsmn_init(&parser);
    out->text = text;
    out->tokens = (azoi_jsmn_tok *)(void *)tokens->data;
    out->count = azoi_jsmn_parse(&parser, text.ptr, text.len, out->tokens, (unsigned)count);
    return AZO_OK;
}

/* ---- values by token ---- */

/* As it is written; a NULL view of a value that is not there. */
static azo_str azoi_json_raw(const azoi_json *j, int token) {
    if (token < 0 || token >= j->count) {
        return azoi_view(NULL, 0);
    }
    const azoi_jsmn_tok *t = &j->tokens[token];
    azo_str raw = azoi_view(j->text.ptr + t->start, (size_t)(t->end - t->start));
    return t->type == AZOI_JSMN_STRING ? azoi_view(raw.ptr - 1, raw.len + 2) : raw;
}

/* Of a string, as it is written. */
static azo_str azoi_inside(azo_str string) {
    return azoi_view(string.ptr + 1, string.len - 2);
}

/* The key of an object, or item of an array, that follows `last`; the first one follows the parent itself. */
static int azoi_json_child(const azoi_json *j, int parent, int last) {
    int token = last + 1;
    while (token < j->count && j->tokens[token].parent != parent) {
        token++;
    }
    return parent >= 0 && token < j->count ? token : -1;
}

static int azoi_json_get(const azoi_json *j, int object, const char *name) {
    int key = azoi_is(azoi_json_raw(j, object), '{') ? azoi_json_child(j, object, object) : -1;
    while (key >= 0 && !azoi_equal(azoi_inside(azoi_json_raw(j, key)), name)) {
        key = azoi_json_child(j, object, key);
    }
    return key < 0 ? -1 : key + 1;
}

/* A whole number, or a string that holds one, as IMDS sends them. */
static bool azoi_json_int(const azoi_json *j, int token, int64_t *out) {
    azo_str raw = azoi_json_raw(j, token);
    double value;
    if (!azoi_parse_double(azoi_is(raw, '"') ? azoi_inside(raw) : raw, &value) ||
        !(value > -9e15 && value < 9e15)) { /* where a double still counts one by one */
        return false;
    }
    *out = (int64_t)value;
    return (double)*out == value;
}

/* ---- strings ---- */

/* One escape off the front of *rest, decoded into `out`. What is no escape becomes U+FFFD. */
static azo_str azoi_json_unescape(azo_str *rest, char *out) {
    int32_t code = azoi_json_code_unit(*rest);
    char letter = rest->len < 2 ? '\0' : rest->ptr[1];
    const char *name = (const char *)memchr(azoi_json_escapes, letter, AZOI_JSON_MAY_ESCAPE);
    if (name != NULL) {
        *rest = azoi_skip(*rest, 2);
        return azoi_view(azoi_json_escaped + (name - azoi_json_escapes), 1);
    }
    *rest = azoi_skip(*rest, code < 0 ? 1 : 6);
    if (code >= 0xd800 && code <= 0xdbff) {
        int32_t low = azoi_json_code_unit(*rest);
        if (low >= 0xdc00 && low <= 0xdfff) {
            code = 0x10000 + (code - 0xd800) * 0x400 + (low - 0xdc00);
            *rest = azoi_skip(*rest, 6);
        }
    }
    return azoi_view(out, azoi_utf8_put(out, code < 0 ? 0xfffdu : (uint32_t)code));
}

/* The next piece of a decoded string: a run of plain bytes, or one escape, which may need 4 bytes of `unit`. */
static azo_str azoi_json_decoded(azo_str *rest, char *unit) {
    azo_str piece = azoi_view(rest->ptr, azoi_find(*rest, '\\'));
    if (piece.len == 0) {
        return azoi_json_unescape(rest, unit);
    }
    *rest = azoi_skip(*rest, piece.len);
    return piece;
}

static void azoi_json_decode(azoi_buf *out, azo_str inner) {
    char unit[4];
    azoi_buf_reserve(out, inner.len); /* escapes only shrink */
    while (inner.len > 0) {
        azoi_buf_str(out, azoi_json_decoded(&inner, unit));
    }
}

static bool azoi_json_text(const azoi_json *j, int token, azoi_buf *out) {
    azo_str raw = azoi_json_raw(j, token);
    if (!azoi_is(raw, '"')) {
        return false;
    }
    azoi_json_decode(out, azoi_inside(raw));
    return true;
}

/* How many bytes at the front stand for themselves in a string. */
static size_t azoi_json_verbatim(azo_str text) {
    size_t len = azoi_run(text, AZOI_BYTE_PLAIN);
    while (len < text.len && text.ptr[len] != '"' && text.ptr[len] != '\\') {
        size_t size = azoi_json_unit_size(azoi_skip(text, len));
        if (size == 0) {
            break;
        }
        len += size + azoi_run(azoi_skip(text, len + size), AZOI_BYTE_PLAIN);
    }
    return len;
}

/* The next piece of a quoted text: a run of such bytes, or one escape, which may need 7 bytes of `unit`. */
static azo_str azoi_json_quoted(azo_str *rest, char *unit) {
    azo_str piece = azoi_view(rest->ptr, azoi_json_verbatim(*rest));
    *rest = azoi_skip(*rest, piece.len > 0 ? piece.len : 1);
    if (piece.len > 0) {
        return piece;
    }
    unsigned char c = (unsigned char)piece.ptr[0];
    const char *value = (const char *)memchr(azoi_json_escaped, c, AZOI_JSON_MUST_ESCAPE);
    if (value == NULL) {
        size_t len = c < 0x20 ? (size_t)snprintf(unit, 7, "\\u%04x", (unsigned)c) : azoi_utf8_put(unit, 0xfffd);
        return azoi_view(unit, len);
    }
    unit[0] = '\\';
    unit[1] = azoi_json_escapes[value - azoi_json_escaped];
    return azoi_view(unit, 2);
}

static void azoi_json_quote(azoi_buf *b, azo_str text) {
    char unit[7];
    azoi_buf_char(b, '"');
    while (text.len > 0) {
        azoi_buf_str(b, azoi_json_quoted(&text, unit));
    }
    azoi_buf_char(b, '"');
}

/* ---- values by scanning: of an object or array that has been checked, which need not end in a NUL ----
 *
 * A chat reply is not tokenised: with tokens an event of 280 bytes took 24,000 instructions. By the map of its check
 * one of 540 takes 7,500, what the stream does included. */

static const char *azoi_json_value_start(const char *at) {
    while (azoi_byte_is(*at, AZOI_BYTE_SPACE)) {
        at++;
    }
    return at;
}

/* The next member of an object, or, without `key`, the next item of an array; *rest is first the whole of it. */
static bool azoi_json_step(azo_str *rest, azo_str *key, azo_str *value) {
    azoi_json_scan s;
    const char *at = azoi_json_scan_init(&s, azoi_skip(*rest, 1), NULL);
    char c = azoi_json_scan_ahead(&s, &at);
    if (c == '\0' || c == '}' || c == ']') {
        return false;
    }
    if (key != NULL) {
        at = azoi_json_scan_key(&s, at);
        *key = s.none.key;
        (void)azoi_json_scan_ahead(&s, &at);
    }
    const char *behind = azoi_json_scan_value(&s, at);
    *value = azoi_trim_end(azoi_view(at, (size_t)(behind - at)));
    *rest = azoi_view(behind, *behind == ',' ? (size_t)(s.end - behind) : 0);
    return true;
}

/* The member called `name`, or, where that is NULL, the item number `index` of an array. */
static bool azoi_json_pick(azo_str in, azo_str name, uint64_t index, azo_str *value) {
    bool named = name.ptr != NULL;
    azo_str rest = azoi_starts(in, named ? "{" : "[") ? in : azoi_view(NULL, 0);
    azo_str key = name;
    for (; azoi_json_step(&rest, named ? &key : NULL, value); index--) {
        if (named ? azoi_same(key, name) : index == 0) {
            return true;
        }
    }
    *value = azoi_view(NULL, 0);
    return false;
}

static bool azoi_json_find(azo_str object, const char *name, azo_str *value) {
    return azoi_json_pick(object, azo_s(name), 0, value);
}

/* Over a value that begins with `open`, over nothing where it does not. The map is of a text that the value lies in. */
static azoi_json_cursor azoi_json_over(const azoi_json_map *map, azo_str value, char open) {
    azoi_json_cursor c = {NULL, NULL, azoi_view(NULL, 0)};
    if (!azoi_is(value, open)) {
        return c;
    }
    const azoi_json_entry *low = map != NULL ? map->entries : NULL;
    size_t count = map != NULL ? map->count : 0;
    while (count > 1) { /* entries lie in the order of their values */
        size_t half = count / 2;
        bool later = low[half].value.ptr <= value.ptr;
        low += later ? half : 0;
        count = later ? count - half : half;
    }
    c.rest = value;
    if (count > 0 && low->value.ptr == value.ptr && low->behind > low + 1) {
        c.next = low + 1;
        c.behind = low->behind;
    }
    return c;
}

static bool azoi_json_each(azoi_json_cursor *c, azo_str *key, azo_str *value) {
    if (c->behind == NULL) {
        return azoi_json_step(&c->rest, key, value);
    }
    if (c->next == c->behind) {
        return false;
    }
    if (key != NULL) {
        *key = c->next->key;
    }
    *value = c->next->value;
    c->next = c->next->behind;
    return true;
}

/* "[3]", "name" or ".name" off the front of *path; false if it is none of them. */
static bool azoi_json_path_step(azo_str *path, azo_str *name, uint64_t *index) {
    bool item = azoi_is(*path, '[');
    azo_str rest = azoi_skip(*path, item || azoi_is(*path, '.') ? 1 : 0);
    azo_str part = azoi_view(rest.ptr, strcspn(rest.ptr, item ? "]" : ".["));
    *name = item ? azoi_view(NULL, 0) : part;
    *path = azoi_skip(rest, part.len + (item ? 1 : 0));
    return item ? part.len < rest.len && azoi_parse_u64(part, index) : part.len > 0;
}

AZO_API azo_result azo_json_get(azo_str json, const char *path, azo_str *value) {
    azo_str rest = azo_s(path);
    azo_str found = azoi_trim(json);
    azo_str name;
    uint64_t index = 0;
    size_t offset;
    if (value == NULL) {
        return AZO_ERR_ARGUMENT;
    }
    *value = azoi_view(NULL, 0);
    if (!azoi_json_check(json, &offset)) {
        return AZO_ERR_JSON;
    }
    while (rest.len > 0) {
        if (!azoi_json_path_step(&rest, &name, &index)) {
            return AZO_ERR_ARGUMENT;
        }
        if (!azoi_json_pick(found, name, index, &found)) {
            return AZO_ERR_JSON;
        }
    }
    *value = found;
    return AZO_OK;
}

/* Into the caller's memory; the length goes on counting where that does not suffice. */
static azo_result azoi_json_into(azo_str text, bool quote, char *buf, size_t cap, size_t *len) {
    size_t total = quote ? 2 : 0;
    char unit[7];
    cap = buf != NULL ? cap : 0;
    azoi_buf out = {NULL, buf, 0, cap, cap > 0 ? cap - 1 : 0, false, cap > 0 ? AZO_OK : AZO_ERR_LIMIT};
    azoi_buf_add(&out, "\"", quote ? 1 : 0);
    while (text.len > 0) {
        azo_str piece = quote ? azoi_json_quoted(&text, unit) : azoi_json_decoded(&text, unit);
        azoi_buf_str(&out, piece);
        total += piece.len;
    }
    azoi_buf_add(&out, "\"", quote ? 1 : 0);
    if (len != NULL) {
        *len = total;
    }
    if (cap > 0) {
        buf[out.failed == AZO_OK ? total : 0] = '\0';
    }
    return out.failed;
}

AZO_API azo_result azo_json_text(azo_str value, char *buf, size_t cap, size_t *len) {
    azoi_json_scan s;
    const char *start = azoi_json_scan_init(&s, value, NULL);
    bool ok = azoi_is(value, '"') && azoi_json_scan_string(&s, start) == s.end;
    azo_str inner = ok ? azoi_view(value.ptr + 1, value.len - 2) : azoi_view(NULL, 0);
    azo_result result = azoi_json_into(inner, false, buf, cap, len);
    return ok ? result : AZO_ERR_JSON;
}

AZO_API azo_result azo_json_number(azo_str value, double *out) {
    if (out == NULL) {
        return AZO_ERR_ARGUMENT;
    }
    *out = 0;
    return azoi_parse_double(value, out) ? AZO_OK : AZO_ERR_JSON;
}

AZO_API azo_result azo_json_quote(azo_str text, char *buf, size_t cap, size_t *len) {
    return azoi_json_into(text, true, buf, cap, len);
}

/* >>http */

/* URLs, response heads and bodies of HTTP/1.1 (RFC 9110, 9112): bytes in, views out, no socket. Whatever two readers
 * could understand differently (two lengths, a length beside chunks, folded lines, NUL) is refused, since a proxy
 * may stand in between. */

/* ---- host names ---- */

static bool azoi_is_ipv4(azo_str host) {
    for (int parts = 1; parts <= 4; parts++) {
        size_t len = parts < 4 ? azoi_find(host, '.') : host.len;
        uint64_t value;
        if (len > 3 || (parts < 4 && len == host.len) || !azoi_parse_u64(azoi_view(host.ptr, len), &value)) {
            return false;
        }
        if (value > 255 || (len > 1 && host.ptr[0] == '0')) { /* 010 is 8 to some */
            return false;
        }
        host = azoi_skip(host, len + 1);
    }
    return true;
}

/* Whatever only an IPv6 address can look like; the resolver has the last word. No zone. */
static bool azoi_is_ipv6(azo_str host) {
    size_t colons = 0;
    for (size_t i = 0; i < host.len; i++) {
        if (azoi_hex(host.ptr[i]) < 0 && host.ptr[i] != ':' && host.ptr[i] != '.') {
            return false;
        }
        colons += host.ptr[i] == ':' ? 1 : 0;
    }
    return colons >= 2 && host.len <= 45;
}

static bool azoi_is_numeric(azo_str host) {
    return azoi_is_ipv4(host) || azoi_is_ipv6(host);
}

static bool azoi_is_loopback(azo_str host) {
    return azoi_equal_ci(host, "localhost") || azoi_ends_ci(host, ".localhost") || azoi_equal(host, "::1") ||
           (azoi_is_ipv4(host) && azoi_starts(host, "127."));
}

/* Letters, digits, hyphen, underscore and dot, no empty label but the root's at the end. Longer names do not exist. */
static bool azoi_is_host(azo_str host) {
    for (size_t i = 0; i < host.len; i++) {
        char c = host.ptr[i];
        if (c == '.' && (i == 0 || host.ptr[i - 1] == '.')) {
            return false;
        }
        if (!azoi_is_alpha(c) && !azoi_is_digit(c) && c != '-' && c != '_' && c != '.') {
            return false;
        }
    }
    return host.len > 0 && host.len <= 253;
}

/* With brackets where the address needs them; the port unless it is the one that goes without saying. */
static void azoi_host_put(azoi_buf *b, azo_str host, uint16_t port, uint16_t unsaid) {
    bool brackets = azoi_find(host, ':') < host.len;
    azoi_buf_puts(b, brackets ? "[" : "");
    azoi_buf_str(b, host);
    azoi_buf_puts(b, brackets ? "]" : "");
    if (port != unsaid) {
        azoi_buf_char(b, ':');
        azoi_buf_count(b, port);
    }
}

/* ---- URLs: errors quote nothing of them, since a proxy's URL may hold a password ---- */

static azo_result azoi_url_fail(azo_error *e, const char *what) {
    return azoi_fail(e, AZO_ERR_ARGUMENT, "The URL has %s. Write it like https://name.openai.azure.com or "
                                          "http://[::1]:8080, in ASCII and percent-encoded.", what);
}

/* host, host:port, [v6], [v6]:port; and before them userinfo and an @ */
static azo_result azoi_url_authority(azo_str text, azoi_url *out, azo_error *e) {
    const char *start = text.ptr;
    uint64_t port = out->secure ? 443 : 80;
    size_t end;
    while ((end = azoi_find(text, '@')) < text.len) { /* up to the last: passwords are found with a raw one */
        text = azoi_skip(text, end + 1);
        out->userinfo = azoi_view(start, (size_t)(text.ptr - start) - 1);
    }
    end = azoi_find(text, ':');
    if (azoi_starts(text, "[")) {
        end = azoi_find(text, ']');
        out->host = azoi_view(text.ptr + 1, end - 1);
        if (end == text.len || !azoi_is_ipv6(out->host)) {
            return azoi_url_fail(e, "brackets, but no IPv6 address in them");
        }
        end++;
    } else {
        out->host = azoi_view(text.ptr, end);
        if (!azoi_is_host(out->host)) {
            return azoi_url_fail(e, "no valid host name");
        }
    }
    text = azoi_skip(text, end);
    if (text.len > 0 &&
        (text.ptr[0] != ':' || !azoi_parse_u64(azoi_skip(text, 1), &port) || port < 1 || port > 65535)) {
        return azoi_url_fail(e, "a port that is not a number from 1 to 65535");
    }
    out->port = (uint16_t)port;
    return AZO_OK;
}

static azo_result azoi_url_split(azo_str text, azoi_url *out, azo_error *e) {
    memset(out, 0, sizeof *out);
    if (!azoi_is_plain(text, "#")) {
        return azoi_url_fail(e, "a blank, a control character, a fragment (#) or a byte that is not ASCII");
    }
    out->secure = azoi_starts_ci(text, "https://");
    if (!out->secure && !azoi_starts_ci(text, "http://")) {
        return azoi_url_fail(e, "neither https:// nor http:// in front");
    }
    text = azoi_skip(text, out->secure ? 8 : 7);
    azo_str authority = azoi_view(text.ptr, azoi_find(text, '/'));
    authority.len = azoi_find(authority, '?');
    text = azoi_skip(text, authority.len);
    out->path = azoi_view(text.ptr, azoi_find(text, '?'));
    out->query = azoi_skip(text, out->path.len + 1);
    return azoi_url_authority(authority, out, e);
}

/* The host that a Location names, as "scheme://host..." or as "//host..." (RFC 3986 4.2), whatever follows it. False:
 * it is relative. Empty: it names none that could be one. */
static bool azoi_location_host(azo_str location, azo_str *host) {
    azoi_url url;
    location.len = azoi_find(location, '?');
    location.len = azoi_find(location, '#');
    size_t slash = azoi_find(location, '/');
    memset(&url, 0, sizeof url);
    *host = azoi_view(NULL, 0);
    if (!azoi_starts(azoi_skip(location, slash), "//") || (slash > 0 && azoi_find(location, ':') != slash - 1)) {
        return false;
    }
    azo_str authority = azoi_skip(location, slash + 2);
    authority.len = azoi_find(authority, '/');
    if (azoi_url_authority(authority, &url, NULL) == AZO_OK) {
        *host = url.host;
    }
    return true;
}

/* ---- header lines ---- */

static bool azoi_is_token(azo_str s) {
    return s.len > 0 && azoi_run(s, AZOI_BYTE_TOKEN) == s.len;
}

static bool azoi_header_ok(azo_str name, azo_str value) {
    return azoi_is_token(name) && !azoi_has_control(value);
}

static void azoi_header_add(azoi_buf *b, const char *name, azo_str value) {
    azoi_buf_puts(b, name);
    azoi_buf_puts(b, ": ");
    azoi_buf_str(b, value);
    azoi_buf_puts(b, "\r\n");
}

/* The next line without its end; false if there is no whole one. */
static bool azoi_line_next(azo_str *rest, azo_str *line) {
    size_t end = azoi_find(*rest, '\n');
    if (end == rest->len) {
        return false;
    }
    *line = azoi_view(rest->ptr, end > 0 && rest->ptr[end - 1] == '\r' ? end - 1 : end);
    *rest = azoi_skip(*rest, end + 1);
    return true;
}

/* Of lines that were checked: a head that was parsed, or our own. */
static bool azoi_header_next(azo_str *rest, azo_str *name, azo_str *value) {
    azo_str line;
    if (!azoi_line_next(rest, &line)) {
        return false;
    }
    *name = azoi_view(line.ptr, azoi_find(line, ':'));
    *value = azoi_trim(azoi_skip(line, name->len + 1));
    return true;
}

static azo_str azoi_header_named(azo_str headers, azo_str name) {
    azo_str key;
    azo_str value;
    while (azoi_header_next(&headers, &key, &value)) {
        if (azoi_same_ci(key, name)) {
            return value;
        }
    }
    return azoi_view(NULL, 0);
}

static azo_str azoi_header(azo_str headers, const char *name) {
    return azoi_header_named(headers, azo_s(name));
}

/* ---- response heads ---- */

static size_t azoi_head_size(azo_str bytes, size_t from) {
    size_t i = from > 3 ? from - 3 : 0;
    while ((i += azoi_find(azoi_skip(bytes, i), '\n')) < bytes.len) {
        i += i + 1 < bytes.len && bytes.ptr[i + 1] == '\r' ? 2 : 1;
        if (i < bytes.len && bytes.ptr[i] == '\n') {
            return i + 1;
        }
    }
    return 0;
}

static azo_result azoi_http_fail(azo_error *e, const char *what) {
    return azoi_fail(e, AZO_ERR_HTTP, "The answer breaks HTTP/1.1: %s. Check that the address and port belong to an "
                                      "HTTP server; a proxy on the way may also be at fault.", what);
}

/* "HTTP/1.1 200 OK"; the reason may be missing, long, and in any language. */
static azo_result azoi_status_line(azo_str line, azoi_head *out, azo_error *e) {
    uint64_t status = 0;
    if (line.len < 12 || !azoi_starts(line, "HTTP/1.") || !azoi_is_digit(line.ptr[7]) || line.ptr[8] != ' ' ||
        !azoi_parse_u64(azoi_view(line.ptr + 9, 3), &status) || status < 100 ||
        (line.len > 12 && line.ptr[12] != ' ') || azoi_has_control(line) || status == 101) {
        return azoi_http_fail(e, "the first line is no status line, or says that protocols are switched");
    }
    out->reason = azoi_trim(azoi_skip(line, 12));
    out->status = (int)status;
    out->keep_alive = line.ptr[7] != '0';
    return AZO_OK;
}

/* What a header line says about the body (RFC 9112 6.3) and the connection; blanks may stand round the value. Several
 * equal lengths are one, anything else is an attack or a broken server. */
static azo_result azoi_header_fact(azo_str name, azo_str value, bool one_zero, azoi_head *out, azo_error *e) {
    uint64_t length;
    if (azoi_equal_ci(name, "content-length")) {
        if (!azoi_parse_u64(azoi_trim(value), &length) || length > INT64_MAX) {
            return azoi_http_fail(e, "Content-Length is no number of bytes");
        }
        if (out->framing != AZOI_FRAMING_CLOSE && (out->framing != AZOI_FRAMING_LENGTH || length != out->length)) {
            return azoi_http_fail(e, "two different lengths of the body");
        }
        out->framing = AZOI_FRAMING_LENGTH;
        out->length = length;
    } else if (azoi_equal_ci(name, "transfer-encoding")) {
        if (!azoi_equal_ci(azoi_trim(value), "chunked") || out->framing != AZOI_FRAMING_CLOSE || one_zero) {
            return azoi_http_fail(e, "a Transfer-Encoding other than chunked, or beside another length of the body");
        }
        out->framing = AZOI_FRAMING_CHUNKED;
    } else if (azoi_equal_ci(name, "connection")) {
        while (value.len > 0) {
            size_t end = azoi_find(value, ',');
            out->keep_alive = out->keep_alive && !azoi_equal_ci(azoi_trim(azoi_view(value.ptr, end)), "close");
            value = azoi_skip(value, end + 1);
        }
    }
    return AZO_OK;
}

/* `text` is a whole head as azoi_head_size found it. */
static azo_result azoi_head_parse(azo_str text, bool to_head_method, azoi_head *out, azo_error *e) {
    azo_str line = azoi_view(NULL, 0);
    bool one_zero = azoi_starts(text, "HTTP/1.0");
    memset(out, 0, sizeof *out);
    out->framing = AZOI_FRAMING_CLOSE;
    (void)azoi_line_next(&text, &line);
    azo_result result = azoi_status_line(line, out, e);
    out->headers = azoi_view(text.ptr, 0);
    while (result == AZO_OK && azoi_line_next(&text, &line) && line.len > 0) {
        azo_str name = azoi_view(line.ptr, azoi_run(line, AZOI_BYTE_TOKEN));
        azo_str value = azoi_skip(line, name.len);
        if (name.len == 0 || !azoi_is(value, ':') || azoi_has_control(value)) {
            return azoi_http_fail(e, "a header line is malformed");
        }
        out->headers.len = (size_t)(text.ptr - out->headers.ptr);
        result = azoi_header_fact(name, azoi_skip(value, 1), one_zero, out, e);
    }
    if (result == AZO_OK && line.len > 0) {
        return azoi_http_fail(e, "the blank line behind the headers is missing");
    }
    if (to_head_method || out->status < 200 || out->status == 204 || out->status == 304 ||
        (out->framing == AZOI_FRAMING_LENGTH && out->length == 0)) {
        out->length = 0;
        out->framing = AZOI_FRAMING_NONE;
    }
    out->keep_alive = out->keep_alive && out->framing != AZOI_FRAMING_CLOSE;
    return result;
}

/* ---- bodies ---- */

typedef enum azoi_chunk_state {
    AZOI_CHUNK_SIZE, /* at first */
    AZOI_CHUNK_PAD, /* blanks behind the size: some servers write them */
    AZOI_CHUNK_EXT, /* behind a semicolon */
    AZOI_CHUNK_DATA,
    AZOI_CHUNK_DATA_END, /* the line end behind it */
    AZOI_CHUNK_TRAILER,
    AZOI_CHUNK_DONE
} azoi_chunk_state;

enum { AZOI_MAX_OVERHEAD = 16384 }; /* extensions and trailers, less the data that came with them */

static void azoi_body_init(azoi_body *b, const azoi_head *head) {
    memset(b, 0, sizeof *b);
    b->framing = head->framing;
    b->left = head->framing == AZOI_FRAMING_CLOSE ? UINT64_MAX : head->length;
}

/* At the end of a line. */
static bool azoi_chunk_line(azoi_body *b) {
    bool empty = b->column == 0;
    b->column = 0;
    if (b->state == AZOI_CHUNK_DATA_END) {
        b->state = AZOI_CHUNK_SIZE;
        return empty;
    }
    if (b->state == AZOI_CHUNK_TRAILER) {
        b->state = empty ? AZOI_CHUNK_DONE : AZOI_CHUNK_TRAILER;
        return true;
    }
    b->state = b->left > 0 ? AZOI_CHUNK_DATA : AZOI_CHUNK_TRAILER;
    return !empty;
}

/* One byte that is not data (RFC 9112 7.1); false if it may not stand there. CR and LF stand only together. */
static bool azoi_chunk_byte(azoi_body *b, char c) {
    bool after_cr = b->after_cr;
    b->after_cr = c == '\r';
    b->overhead += b->state == AZOI_CHUNK_TRAILER || b->column > 16 ? 1 : 0;
    if (after_cr || c == '\n') {
        return after_cr && c == '\n' && azoi_chunk_line(b);
    }
    if (c == '\r') {
        return true;
    }
    bool first = b->column++ == 0;
    if (b->state == AZOI_CHUNK_EXT || b->state == AZOI_CHUNK_TRAILER) {
        return c != '\0';
    }
    int digit = azoi_hex(c);
    if (b->state == AZOI_CHUNK_SIZE && digit >= 0) {
        bool fits = b->left <= (uint64_t)INT64_MAX >> 4;
        b->left = b->left << 4 | (uint64_t)digit;
        return fits;
    }
    b->state = c == ' ' || c == '\t' ? AZOI_CHUNK_PAD : AZOI_CHUNK_EXT;
    return !first && (b->state == AZOI_CHUNK_PAD || c == ';'); /* a size has a digit; behind data stands nothing */
}

/* Data up to the end of the body or chunk. */
static azo_str azoi_body_take(azoi_body *b, azo_str *in) {
    azo_str piece = azoi_view(in->ptr, b->left < in->len ? (size_t)b->left : in->len);
    *in = azoi_skip(*in, piece.len);
    b->left -= piece.len;
    return piece;
}

static azo_result azoi_chunked_feed(azoi_body *b, azo_str *in, azo_str *out, azo_error *e) {
    while (in->len > 0 && b->state != AZOI_CHUNK_DONE) {
        if (b->state == AZOI_CHUNK_DATA) {
            *out = azoi_body_take(b, in);
            b->overhead -= out->len < b->overhead ? (uint32_t)out->len : b->overhead;
            b->state = b->left > 0 ? AZOI_CHUNK_DATA : AZOI_CHUNK_DATA_END;
            return AZO_PENDING;
        }
        if (!azoi_chunk_byte(b, in->ptr[0])) {
            return azoi_http_fail(e, "the chunks of the body are malformed");
        }
        if (b->overhead > AZOI_MAX_OVERHEAD) {
            return azoi_http_fail(e, "more than 16 KB of chunk extensions or trailers");
        }
        *in = azoi_skip(*in, 1);
    }
    return b->state == AZOI_CHUNK_DONE ? AZO_OK : AZO_PENDING;
}

static azo_result azoi_body_feed(azoi_body *b, azo_str *in, azo_str *out, azo_error *e) {
    if (b->framing == AZOI_FRAMING_CHUNKED) {
        *out = azoi_view(in->ptr, 0);
        return azoi_chunked_feed(b, in, out, e);
    }
    *out = azoi_body_take(b, in);
    return b->left > 0 ? AZO_PENDING : AZO_OK;
}

/* Takes the last bytes of the piece that was just fed back into *in. */
static void azoi_body_unfeed(azoi_body *b, azo_str *in, size_t count) {
    *in = azoi_view(in->ptr - count, in->len + count);
    b->left += count;
    b->overhead += (uint32_t)count; /* feeding them again takes it off again */
    b->state = AZOI_CHUNK_DATA;
}

static azo_result azoi_body_eof(const azoi_body *b, azo_error *e) {
    if (b->framing == AZOI_FRAMING_CLOSE ||
        (b->framing == AZOI_FRAMING_CHUNKED ? b->state == AZOI_CHUNK_DONE : b->left == 0)) {
        return AZO_OK;
    }
    return azoi_fail(e, AZO_ERR_CLOSED, "The connection ended inside the answer (%llu announced bytes are missing). "
                                        "Try again; if it happens often, look at the network or proxy.",
                     (unsigned long long)b->left);
}

/* >>sse */

/* Server-sent events (the HTML standard's event stream): bytes in, one event out per call. Lines that lie whole in
 * the input are read in place; only a line that is cut by the end of the input is copied. id and retry are of no use
 * to a client that never reconnects, and are ignored with every other unknown field. */

static void azoi_sse_init(azoi_sse *s, const azo_allocator *a, size_t max_event) {
    memset(s, 0, sizeof *s);
    azoi_buf_init(&s->line, a, max_event > SIZE_MAX - 16 ? SIZE_MAX : max_event + 16, false); /* and a field's name */
    azoi_buf_init(&s->data, a, max_event, false);
    azoi_buf_init(&s->name, a, max_event, false);
}

static void azoi_sse_free(azoi_sse *s) {
    azoi_buf_free(&s->line);
    azoi_buf_free(&s->data);
    azoi_buf_free(&s->name);
}

static azo_result azoi_sse_failed(const azoi_sse *s, azo_error *e) {
    const azoi_buf *b = s->line.failed != AZO_OK ? &s->line : s->data.failed != AZO_OK ? &s->data : &s->name;
    return azoi_buf_failed(b, e, "A server-sent event (max_event_bytes)");
}

static void azoi_sse_reset(azoi_sse *s) {
    azoi_buf_clear(&s->data);
    azoi_buf_clear(&s->name);
    s->lines = 0;
    s->ready = false;
}

/* A whole line without its end. An empty one ends the event: that is one only if it has data, so a comment with a
 * blank line behind it is none. */
static void azoi_sse_line(azoi_sse *s, azo_str line) {
    if (!s->begun && azoi_starts(line, "\xef\xbb\xbf")) { /* a byte order mark */
        line = azoi_skip(line, 3);
    }
    s->begun = true;
    if (line.len == 0) {
        if (s->lines == 0) {
            azoi_sse_reset(s);
        }
        s->ready = s->lines > 0;
        return;
    }
    azo_str field = azoi_view(line.ptr, azoi_find(line, ':'));
    azo_str value = azoi_skip(line, field.len + 1);
    if (azoi_is(value, ' ')) {
        value = azoi_skip(value, 1);
    }
    if (azoi_equal(field, "data")) {
        if (s->lines++ > 0) {
            azoi_buf_char(&s->data, '\n');
        }
        azoi_buf_str(&s->data, value);
    } else if (azoi_equal(field, "event")) {
        azoi_buf_set(&s->name, value);
    }
}

/* Takes one line, or what there is of it. */
static void azoi_sse_take(azoi_sse *s, azo_str *in) {
    azo_str piece = azoi_view(in->ptr, azoi_find(*in, '\n'));
    piece.len = azoi_find(piece, '\r');
    if (piece.len > s->line.max - s->line.len) {
        azoi_buf_reserve(&s->line, piece.len); /* sets the failure: also of a line that would not be copied */
        return;
    }
    bool whole = piece.len < in->len;
    s->skip_lf = whole && in->ptr[piece.len] == '\r';
    *in = azoi_skip(*in, piece.len + 1);
    if (whole && s->line.len == 0) {
        azoi_sse_line(s, piece);
        return;
    }
    azoi_buf_str(&s->line, piece);
    if (whole && s->line.failed == AZO_OK) {
        azoi_sse_line(s, azoi_buf_view(&s->line));
        azoi_buf_clear(&s->line);
    }
}

static azo_result azoi_sse_feed(azoi_sse *s, azo_str *in, azo_error *e) {
    if (s->ready) {
        azoi_sse_reset(s);
    }
    while (in->len > 0 && !s->ready && azoi_sse_failed(s, NULL) == AZO_OK) {
        if (s->skip_lf && in->ptr[0] == '\n') {
            *in = azoi_skip(*in, 1);
            s->skip_lf = false;
        } else {
            azoi_sse_take(s, in);
        }
    }
    azo_result result = azoi_sse_failed(s, e);
    return result == AZO_OK && !s->ready ? AZO_PENDING : result;
}

/* Some proxies drop the last line end, or the last blank line. The standard would drop the event; it is kept, and
 * the caller judges whether it is whole. Memory failures show as "none". */
static bool azoi_sse_end(azoi_sse *s) {
    azo_str end = azo_s("\n\n");
    return azoi_sse_feed(s, &end, NULL) == AZO_OK;
}

/* >>time */

/* Clocks, deadlines, the waits that a service asks for, and backoff. A deadline is a point on the monotonic clock in
 * milliseconds, AZOI_NEVER where there is no limit. */

#ifndef AZO_NO_CLOCK
static int64_t azoi_default_monotonic(void *user_data) {
    struct timespec now = {0, 0};
    (void)user_data;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + (int64_t)(now.tv_nsec / 1000000);
}

static int64_t azoi_default_unix(void *user_data) {
    (void)user_data;
    return (int64_t)time(NULL);
}
#endif

static int64_t azoi_deadline(int64_t now, int32_t ms) {
    return ms < 0 || now > AZOI_NEVER - ms ? AZOI_NEVER : now + ms;
}

static int32_t azoi_left(int64_t now, int64_t due) {
    if (due == AZOI_NEVER || due <= now) {
        return due == AZOI_NEVER ? -1 : 0;
    }
    /* due > now, so the difference fits an unsigned whatever their signs */
    return (uint64_t)due - (uint64_t)now > INT32_MAX ? INT32_MAX : (int32_t)(due - now);
}

/* ---- HTTP dates (RFC 9110 5.6.7) ---- */

/* Gregorian, from 1970 on, a year of up to four digits; -1 for what is no date. */
static int64_t azoi_date_seconds(unsigned year, azo_str month_name, unsigned day, const unsigned clock[3]) {
    static const char names[] = "MarAprMayJunJulAugSepOctNovDecJanFeb"; /* so that a leap day ends a year */
    int64_t month = 0;
    while (month < 12 && !azoi_same(azoi_view(names + month * 3, 3), month_name)) {
        month++;
    }
    bool is_date = month < 12 && year >= 1970 && day >= 1 && day <= 31;
    if (!is_date || clock[0] > 23 || clock[1] > 59 || clock[2] > 60) {
        return -1;
    }
    int64_t years = (int64_t)year - (month >= 10 ? 1 : 0);
    int64_t days = /* since 1970 */
        years * 365 + years / 4 - years / 100 + years / 400 + (month * 153 + 2) / 5 + day - 719469;
    return ((days * 24 + clock[0]) * 60 + clock[1]) * 60 + clock[2];
}

/* In a form 2 and 4 are numbers of up to so many digits, w the letters of a weekday, M the three of a month; a blank
 * is any number of them, the rest is itself. What follows the form does not count. (sscanf weighs 13 KB with musl.) */
static bool azoi_date_read(azo_str text, const char *form, unsigned *numbers, azo_str *month) {
    for (; *form != '\0'; form++) {
        bool any = *form == 'w' || *form == ' ';
        size_t max = any ? text.len : *form == '2' ? 2 : *form == '4' ? 4 : *form == 'M' ? 3 : 1;
        size_t run = 0;
        unsigned number = 0;
        for (; run < max && run < text.len; run++) {
            char c = text.ptr[run];
            bool fits = azoi_is_digit(*form) ? azoi_is_digit(c) : azoi_is_alpha(*form) ? azoi_is_alpha(c) : c == *form;
            if (!fits) {
                break;
            }
            number = azoi_is_digit(c) ? number * 10 + (unsigned)(c - '0') : 0;
        }
        if (run == 0) {
            return false;
        }
        if (azoi_is_digit(*form)) {
            *numbers++ = number;
        } else if (*form == 'M') {
            *month = azoi_view(text.ptr, run);
        }
        text = azoi_skip(text, run);
    }
    return true;
}

static int64_t azoi_http_date(azo_str text) {
    unsigned n[5];
    azo_str month;
    azo_str date = azoi_trim(text);
    return date.len >= 40                                      ? -1
           : azoi_date_read(date, "w, 2 M 4 2:2:2", n, &month) ? azoi_date_seconds(n[1], month, n[0], n + 2)
           : azoi_date_read(date, "w M 2 2:2:2 4", n, &month)  ? azoi_date_seconds(n[4], month, n[0], n + 1)
           : azoi_date_read(date, "w, 2-M-2 2:2:2", n, &month) ? azoi_date_seconds(n[1] + (n[1] < 70 ? 2000 : 1900),
                                                                                   month, n[0], n + 2)
                                                               : -1;
}

/* ---- waits ---- */

/* "12", "1.5": positive decimal numbers times `scale`, rounded up to ms; -1 for anything else. Saturates. */
static int32_t azoi_wait_number(azo_str text, int scale) {
    double ms;
    if (!azoi_parse_double(text, &ms) || !(ms > 0)) {
        return -1;
    }
    ms *= scale;
    if (ms >= INT32_MAX) {
        return INT32_MAX;
    }
    int32_t whole = (int32_t)ms;
    return whole < ms ? whole + 1 : whole;
}

static int32_t azoi_wait_until(azo_str text, int64_t unix_now) {
    int64_t date = azoi_http_date(text);
    if (unix_now <= 0 || date <= unix_now) {
        return -1;
    }
    return date - unix_now > INT32_MAX / 1000 ? INT32_MAX : (int32_t)((date - unix_now) * 1000);
}

/* The first header that says something usable: zero, negative and malformed ones say nothing. */
static int32_t azoi_retry_after(azo_str headers, int status, int64_t unix_now) {
    static const struct {
        const char *name;
        int scale;
    } sources[] = {{"retry-after-ms", 1}, {"x-ms-retry-after-ms", 1}, {"retry-after", 1000},
                   /* only with a 429: */ {"x-ratelimit-reset-tokens", 1000}, {"x-rate-limit-reset-tokens", 1000}};
    int32_t wait = -1;
    for (size_t i = 0; i < (status == 429 ? 5 : 3) && wait < 0; i++) {
        azo_str text = azoi_header(headers, sources[i].name);
        wait = azoi_wait_number(text, sources[i].scale);
        if (wait < 0) {
            wait = azoi_wait_until(text, unix_now);
        }
    }
    return wait;
}

static bool azoi_retries(const azoi_policy *p, int status) {
    return status == 408 || status == 429 || status / 100 == 5 || status == p->also[0] || status == p->also[1];
}

/* Doubles from first_wait to max_wait; jitter takes up to a quarter off, so that many clients do not come back at the
 * same moment. */
static int32_t azoi_backoff(const azoi_policy *p, int attempt, uint32_t random) {
    int64_t wait = p->first_wait;
    for (; attempt > 0 && wait < p->max_wait; attempt--) {
        wait *= 2;
    }
    if (wait > p->max_wait) {
        wait = p->max_wait;
    }
    return (int32_t)(wait - (int64_t)((uint64_t)wait * random >> 34));
}
/* >>pump
 *
 * What runs next and when: a queue of nodes to move, a heap of timers, a table that turns ids into sources of
 * events. It knows neither sockets nor requests; `node->advance` is the only call upwards. */

static void azoi_pump_init(azoi_pump *p, const azo_allocator *allocator, const azo_loop *loop,
                           const azo_clock *clock) {
    memset(p, 0, sizeof *p);
    p->allocator = allocator;
    p->loop = loop;
    p->clock = clock;
    azoi_list_init(&p->queue);
    p->told_due = AZOI_NEVER;
}

static void azoi_pump_close(azoi_pump *p) {
    azoi_free(p->allocator, p->heap, p->heap_cap * sizeof *p->heap);
    azoi_free(p->allocator, p->places, p->place_cap * sizeof *p->places);
    p->heap = NULL;
    p->places = NULL;
}

static void azoi_pump_tick(azoi_pump *p) {
    p->now = p->clock->monotonic_ms(p->clock->user_data);
}

/* ---- run queue ---- */

static void azoi_pump_queue(azoi_pump *p, azoi_node *node) {
    azoi_list_add(&p->queue, &node->link);
}

/* ---- timers: a binary heap; heap[i / 2] is due no later than heap[i] ---- */

static void azoi_heap_put(azoi_pump *p, size_t place, azoi_timer *t) {
    p->heap[place] = t;
    t->place = place;
}

/* From a free place, or from its own when it is due at another time, to where it belongs. */
static void azoi_heap_move(azoi_pump *p, size_t place, azoi_timer *t) {
    for (; place > 1 && p->heap[place / 2]->due > t->due; place /= 2) {
        azoi_heap_put(p, place, p->heap[place / 2]);
    }
    for (size_t child; (child = place * 2) <= p->heap_len; place = child) {
        if (child < p->heap_len && p->heap[child + 1]->due < p->heap[child]->due) {
            child++;
        }
        if (p->heap[child]->due >= t->due) {
            break;
        }
        azoi_heap_put(p, place, p->heap[child]);
    }
    azoi_heap_put(p, place, t);
}

static void azoi_timer_set(azoi_pump *p, azoi_timer *t, int64_t due) {
    t->due = due;
    azoi_heap_move(p, t->place, t);
}

static bool azoi_timer_attach(azoi_pump *p, azoi_timer *t, azoi_node *node) {
    if (p->heap_len + 1 >= p->heap_cap) {
        size_t cap = p->heap_cap == 0 ? 16 : p->heap_cap * 2;
        void *grown = azoi_resize(p->allocator, p->heap, p->heap_cap * sizeof *p->heap, cap * sizeof *p->heap);
        if (grown == NULL) {
            return false;
        }
        p->heap = (azoi_timer **)grown;
        p->heap_cap = cap;
    }
    t->due = AZOI_NEVER;
    t->node = node;
    azoi_heap_put(p, ++p->heap_len, t);
    return true;
}

static void azoi_timer_detach(azoi_pump *p, azoi_timer *t) {
    if (t->node != NULL) {
        azoi_timer *last = p->heap[p->heap_len--];
        if (last != t) {
            azoi_heap_move(p, t->place, last);
        }
        t->node = NULL;
    }
}

/* ---- sources: an id is a place in the table and how often that place was used before ---- */

enum { AZOI_MAX_PLACES = 65535 };

static bool azoi_places_grow(azoi_pump *p) {
    size_t cap = p->place_cap == 0 ? 16 : p->place_cap * 2;
    void *grown = azoi_resize(p->allocator, p->places, p->place_cap * sizeof *p->places, cap * sizeof *p->places);
    if (grown == NULL) {
        return false;
    }
    p->places = (azoi_place *)grown;
    p->place_cap = cap;
    return true;
}

static bool azoi_source_attach(azoi_pump *p, azoi_source *s) {
    size_t index = p->first_free;
    if (index == 0) {
        index = p->place_count + 1;
        if (index > AZOI_MAX_PLACES || (index >= p->place_cap && !azoi_places_grow(p))) {
            return false;
        }
        p->place_count = index;
        p->places[index].generation = 1;
    } else {
        p->first_free = p->places[index].next_free;
    }
    p->places[index].source = s;
    s->id = (uint32_t)p->places[index].generation << 16 | (uint32_t)index;
    memset(s->told, 0, sizeof s->told);
    return true;
}

static azoi_source *azoi_source_find(const azoi_pump *p, uint32_t id) {
    size_t index = id & 0xffffu;
    if (index == 0 || index > p->place_count || p->places[index].generation != id >> 16) {
        return NULL; /* the program's own, or stale: the connection is gone */
    }
    return p->places[index].source;
}

/* Unregisters the descriptors that are not wished for. */
static void azoi_source_keep(azoi_pump *p, azoi_source *s, const azo_watch *wishes, size_t count) {
    for (azoi_told *told = s->told; told < s->told + AZOI_MAX_FDS; told++) {
        bool wished = told->events == 0;
        for (size_t k = 0; k < count && !wished; k++) {
            wished = wishes[k].fd == told->fd && wishes[k].events != 0;
        }
        if (!wished) {
            told->events = 0;
            (void)p->loop->watch(told->fd, 0, s->id, &told->slot, p->loop->user_data);
            told->slot = NULL;
        }
    }
}

/* Unregisters every descriptor, as must be done before one of them is closed. */
static void azoi_source_hush(azoi_pump *p, azoi_source *s) {
    azoi_source_keep(p, s, NULL, 0);
}

static void azoi_source_detach(azoi_pump *p, azoi_source *s) {
    if (s->id == 0) {
        return;
    }
    azoi_source_hush(p, s);
    azoi_place *place = &p->places[s->id & 0xffffu];
    place->source = NULL;
    place->generation = (uint16_t)(place->generation == 0xffff ? 1 : place->generation + 1);
    place->next_free = p->first_free;
    p->first_free = (uint16_t)(s->id & 0xffffu);
    s->id = 0;
}

static azoi_told *azoi_told_find(azoi_source *s, intptr_t fd) {
    azoi_told *unused = NULL;
    for (azoi_told *told = s->told; told < s->told + AZOI_MAX_FDS; told++) {
        if (told->events == 0) {
            unused = unused == NULL ? told : unused;
        } else if (told->fd == fd) {
            return told;
        }
    }
    return unused;
}

/* Tells the loop hook what changed; false: it could not register a descriptor. */
static bool azoi_source_sync(azoi_pump *p, azoi_source *s) {
    if (p->loop->watch == NULL || s->id == 0) {
        return true;
    }
    azo_watch wishes[AZOI_MAX_FDS];
    int32_t timeout_ms = -1;
    size_t count = s->describe(s, wishes, AZOI_MAX_FDS, &timeout_ms);
    count = count < AZOI_MAX_FDS ? count : (size_t)AZOI_MAX_FDS;
    azoi_source_keep(p, s, wishes, count);
    for (size_t i = 0; i < count; i++) {
        azoi_told *told = azoi_told_find(s, wishes[i].fd);
        if (told == NULL || wishes[i].events == 0 || told->events == wishes[i].events) {
            continue;
        }
        if (p->loop->watch(wishes[i].fd, wishes[i].events, s->id, &told->slot, p->loop->user_data) != 0) {
            return false;
        }
        told->fd = wishes[i].fd;
        told->events = wishes[i].events;
    }
    return true;
}

/* What a loop has seen, or, with NULL, anything for all we know. */
static void azoi_pump_happened(azoi_pump *p, const azo_watch *ready, size_t count) {
    count = ready != NULL ? count : p->place_count;
    for (size_t i = 0; i < count; i++) {
        azoi_source *s = ready != NULL ? azoi_source_find(p, ready[i].id) : p->places[i + 1].source;
        if (s != NULL) {
            s->happened(s);
        }
    }
}

/* ---- a walk through the queue ---- */

enum { AZOI_STEP_MS = 10 }; /* a token that arrives for 1,000 waiters must not keep a user's loop for seconds */

/* When to be called again: 0 soon, AZOI_NEVER. */
static int64_t azoi_pump_due(const azoi_pump *p) {
    return !azoi_list_empty(&p->queue) ? 0 : p->heap_len > 0 ? p->heap[1]->due : AZOI_NEVER;
}

static int32_t azoi_pump_timeout(azoi_pump *p) {
    int64_t due = azoi_pump_due(p);
    if (due != 0 && due != AZOI_NEVER) {
        azoi_pump_tick(p);
    }
    return due == 0 ? 0 : azoi_left(p->now, due);
}

/* `again`: tell it even if it is what the hook knows, because its timer may have fired since. */
static void azoi_pump_tell(azoi_pump *p, bool again) {
    int64_t due = azoi_pump_due(p);
    if (p->loop->timer != NULL && (due != p->told_due || (again && due != AZOI_NEVER))) {
        p->told_due = due;
        p->loop->timer(azoi_pump_timeout(p), p->loop->user_data);
    }
}

/* One pass over what is queued or due now; what gets queued meanwhile is left for the next one. */
static void azoi_pump_run(azoi_pump *p) {
    azoi_pump_tick(p);
    while (p->heap_len > 0 && azoi_left(p->now, p->heap[1]->due) == 0) {
        azoi_timer *t = p->heap[1];
        azoi_timer_set(p, t, AZOI_NEVER);
        azoi_pump_queue(p, t->node);
    }
    int64_t enough = p->now + AZOI_STEP_MS;
    azoi_link pass;
    azoi_list_init(&pass);
    azoi_list_prepend(&pass, &p->queue);
    while (!azoi_list_empty(&pass) && !p->stop && p->now < enough) {
        azoi_node *node = AZOI_OF(pass.next, azoi_node, link);
        azoi_link_leave(&node->link);
        node->advance(node);
        if (!azoi_list_empty(&pass)) {
            azoi_pump_tick(p);
        }
    }
    azoi_list_prepend(&p->queue, &pass); /* out of time: what is left goes first the next time */
}
/* >>transport
 *
 * Bytes to and from a peer. At the bottom the transport hook, or POSIX sockets as the built-in one; above it TLS by
 * mbedTLS where the stream asks for it. What all streams of a client share (hooks, TLS settings, roots, sessions,
 * addresses) is its azoi_net. Nothing in here waits, but for getaddrinfo and the reading of root certificates. */

/* ---- hooks, clocks, log ---- */

static int64_t azoi_net_now(azoi_net *n) {
    return n->clock.monotonic_ms(n->clock.user_data);
}

/* 0: not known. */
static int64_t azoi_net_unix(azoi_net *n) {
    int64_t now = n->clock.unix_seconds(n->clock.user_data);
    return now > 0 && now < INT64_MAX / 2 ? now : 0;
}

/* One date in an hour will do, and none without TLS where one came over it. */
static void azoi_net_told(azoi_net *n, int64_t now, azo_str headers, bool safely) {
    enum { HOUR_MS = 3600000 };
    bool old = (uint64_t)now - (uint64_t)n->told_at >= HOUR_MS;
    if (n->told_date == 0 || (safely && !n->told_safely) || (old && safely == n->told_safely)) {
        int64_t date = azoi_http_date(azoi_header(headers, "date"));
        n->told_safely = date > 0 ? safely : n->told_safely;
        n->told_at = date > 0 ? now : n->told_at;
        n->told_date = date > 0 ? date : n->told_date;
    }
}

/* A counter, mixed by the finaliser of MurmurHash3: spreads waits out, guards nothing. */
static uint32_t azoi_net_random(azoi_net *n) {
    n->jitter += 0x9e3779b9u;
    uint32_t x = (n->jitter ^ n->jitter >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
}

AZOI_PRINTF(3, 4)
static void azoi_log(azoi_net *n, int level, const char *format, ...) {
    char line[1024]; /* what is longer is cut */
    va_list args;
    if (!AZOI_HAS_LOG || n->logger.line == NULL) {
        return;
    }
    va_start(args, format);
    int printed = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (printed >= 0) {
        azoi_clean(line, sizeof line, azo_s(line));
        n->logger.line(level, line, n->logger.user_data);
    }
}

/* ---- what is known of hosts ---- */

static void azoi_known_drop_session(azoi_known *known) {
    mbedtls_ssl_session_free(&known->session); /* wipes it */
    mbedtls_ssl_session_init(&known->session);
    known->has_session = false;
}

/* The record of a host. A new one takes the place of the oldest. */
static azoi_known *azoi_net_known(azoi_net *n, const char *host, uint16_t port) {
    for (size_t i = 0; i < AZOI_MAX_KNOWN; i++) {
        if (n->known[i].port == port && azoi_same_ci(azo_s(n->known[i].host), azo_s(host))) {
            return &n->known[i];
        }
    }
    azoi_known *known = &n->known[n->next_known];
    n->next_known = (n->next_known + 1) % AZOI_MAX_KNOWN;
    azoi_known_drop_session(known);
    memset(known, 0, sizeof *known);
    (void)snprintf(known->host, sizeof known->host, "%s", host);
    known->port = port;
    return known;
}

/* ---- built-in transport: POSIX sockets ---- */

#ifndef AZO_NO_SOCKETS

enum {
    AZOI_STAGGER_MS = 250, /* RFC 8305 section 5 */
    AZOI_KEEPALIVE_S = 60  /* Azure's load balancers forget silent connections after four minutes */
};

static azo_result azoi_socket_open(const azo_target *to, void **conn, void *user_data) {
    azoi_socket *s = (azoi_socket *)azoi_alloc(((azoi_net *)user_data)->allocator, sizeof *s);
    if (s == NULL) {
        return AZO_ERR_MEMORY;
    }
    s->fd[0] = -1;
    s->fd[1] = -1;
    s->to = *to;
    *conn = s;
    return AZO_OK;
}

/* IPv6 and IPv4 by turns (RFC 8305 section 4). */
static void azoi_addresses_sort(const struct addrinfo *list, azoi_addresses *out) {
    static const int families[2] = {AF_INET6, AF_INET};
    const struct addrinfo *next[2] = {list, list};
    out->count = 0;
    for (int turn = 0; out->count < AZOI_MAX_ADDRESSES && (next[0] != NULL || next[1] != NULL); turn = 1 - turn) {
        const struct addrinfo *a = next[turn];
        while (a != NULL && a->ai_family != families[turn]) {
            a = a->ai_next;
        }
        if (a != NULL) {
            memcpy(&out->list[out->count++], a->ai_addr, turn == 0 ? sizeof out->list->v6 : sizeof out->list->v4);
        }
        next[turn] = a != NULL ? a->ai_next : NULL;
    }
}

/* AZO_OK, or RESOLVE with getaddrinfo's code in errno. AI_ADDRCONFIG saves the query for a family that this machine
 * does not have, but also hides ::1 on a machine whose only IPv6 address that is. */
static azo_result azoi_socket_resolve(azoi_socket *s, azoi_net *n) {
    struct addrinfo hints;
    struct addrinfo *list = NULL;
    char service[8];
    azo_str name = azo_s(s->to.host);
    azoi_known *known = azoi_net_known(n, s->to.host, s->to.port);
    s->to_try = known->addresses;
    if (s->to_try.count > 0) {
        return AZO_OK;
    }
    azoi_log(n, AZO_LOG_DEBUG, "* resolving %s", s->to.host);
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = azoi_is_numeric(name) ? AI_NUMERICHOST : azoi_is_loopback(name) ? 0 : AI_ADDRCONFIG;
    (void)snprintf(service, sizeof service, "%u", (unsigned)s->to.port);
    int code = getaddrinfo(s->to.host, service, &hints, &list);
    if (code == 0) {
        azoi_addresses_sort(list, &s->to_try);
        freeaddrinfo(list);
    }
    if (s->to_try.count == 0) {
        azoi_log(n, AZO_LOG_WARN, "* %s: %s", s->to.host, gai_strerror(code));
        errno = code;
        return AZO_ERR_RESOLVE;
    }
    known->addresses = s->to_try;
    return AZO_OK;
}

static void azoi_socket_option(int fd, int level, int name, int value) {
    (void)setsockopt(fd, level, name, &value, sizeof value); /* each is an improvement that can be done without */
}

static int azoi_socket_new(int family) {
    int fd = socket(family, SOCK_STREAM, 0);
    if (fd < 0) {
        return -1;
    }
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
        (void)close(fd);
        return -1;
    }
    azoi_socket_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    azoi_socket_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef TCP_KEEPIDLE
    azoi_socket_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, AZOI_KEEPALIVE_S);
#endif
#ifdef SO_NOSIGPIPE
    azoi_socket_option(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
    return fd;
}

/* An attempt ended with that errno, or is under way. The winner goes first the next time. */
static void azoi_socket_settle(azoi_socket *s, azoi_net *n, int which, int error) {
    const azoi_address to = s->to_try.list[s->place[which]];
    if (error == EINPROGRESS || error == EINTR) {
        s->stagger_at = azoi_net_now(n) + AZOI_STAGGER_MS;
        return;
    }
    azoi_log(n, error == 0 ? AZO_LOG_INFO : AZO_LOG_WARN, "* %s %s port %u by IPv%d (errno %d)",
             error == 0 ? "connected to" : "no connection to", s->to.host, (unsigned)s->to.port,
             to.any.sa_family == AF_INET6 ? 6 : 4, error);
    s->last_errno = error;
    int loser = error == 0 ? 1 - which : which;
    if (s->fd[loser] >= 0) {
        (void)close(s->fd[loser]);
        s->fd[loser] = -1;
    }
    s->stagger_at = 0; /* a failure lets the next one start at once */
    if (error == 0) {
        s->connected = true;
        s->fd[0] = s->fd[which];
        s->fd[1] = -1;
        memmove(s->to_try.list + 1, s->to_try.list, s->place[which] * sizeof to);
        s->to_try.list[0] = to;
        azoi_net_known(n, s->to.host, s->to.port)->addresses = s->to_try;
    }
}

/* Looks what became of the attempts that are under way. */
static void azoi_socket_look(azoi_socket *s, azoi_net *n) {
    for (int i = 0; i < 2 && !s->connected; i++) {
        struct pollfd one = {s->fd[i], POLLOUT, 0}; /* poll ignores a negative fd */
        int error = 0;
        socklen_t size = sizeof error;
        if (poll(&one, 1, 0) > 0) {
            bool known = getsockopt(s->fd[i], SOL_SOCKET, SO_ERROR, &error, &size) == 0;
            azoi_socket_settle(s, n, i, known ? error : errno);
        }
    }
}

/* Starts one more attempt. */
static void azoi_socket_start(azoi_socket *s, azoi_net *n) {
    const azoi_address *to = &s->to_try.list[s->tried];
    int which = s->fd[0] < 0 ? 0 : 1;
    s->place[which] = s->tried;
    s->tried++;
    s->fd[which] = azoi_socket_new(to->any.sa_family);
    socklen_t size = to->any.sa_family == AF_INET6 ? (socklen_t)sizeof to->v6 : (socklen_t)sizeof to->v4;
    bool connected = s->fd[which] >= 0 && connect(s->fd[which], &to->any, size) == 0;
    azoi_socket_settle(s, n, which, connected ? 0 : errno);
}

static bool azoi_socket_may_start(const azoi_socket *s) {
    return !s->connected && (s->fd[0] < 0 || s->fd[1] < 0) && (s->to_try.count == 0 || s->tried < s->to_try.count);
}

static int azoi_socket_connect(void *conn, void *user_data) {
    azoi_socket *s = (azoi_socket *)conn;
    azoi_net *n = (azoi_net *)user_data;
    if (s->to_try.count == 0 && azoi_socket_resolve(s, n) != AZO_OK) {
        return AZO_ERR_RESOLVE;
    }
    azoi_socket_look(s, n);
    while (azoi_socket_may_start(s) && azoi_net_now(n) >= s->stagger_at) {
        azoi_socket_start(s, n);
    }
    if (!s->connected && s->fd[0] < 0 && s->fd[1] < 0) {
        azoi_net_known(n, s->to.host, s->to.port)->addresses.count = 0; /* to be looked up again */
        errno = s->last_errno;
        return AZO_ERR_CONNECT;
    }
    return s->connected ? AZO_OK : AZO_IO_AGAIN;
}

static ptrdiff_t azoi_socket_failed(void) {
    bool again = errno == EAGAIN;
#if EWOULDBLOCK != EAGAIN
    again = again || errno == EWOULDBLOCK;
#endif
    return again ? AZO_IO_AGAIN : AZO_ERR_CLOSED;
}

static ptrdiff_t azoi_socket_recv(void *conn, void *buf, size_t cap, void *user_data) {
    ssize_t got;
    (void)user_data;
    while ((got = recv(((azoi_socket *)conn)->fd[0], buf, cap, 0)) < 0 && errno == EINTR) {
    }
    return got < 0 ? azoi_socket_failed() : (ptrdiff_t)got;
}

static ptrdiff_t azoi_socket_send(void *conn, const void *buf, size_t len, void *user_data) {
#ifdef MSG_NOSIGNAL
    const int flags = MSG_NOSIGNAL;
#else
    const int flags = 0;
#endif
    ssize_t sent;
    (void)user_data;
    while ((sent = send(((azoi_socket *)conn)->fd[0], buf, len, flags)) < 0 && errno == EINTR) {
    }
    return sent < 0 ? azoi_socket_failed() : (ptrdiff_t)sent;
}

static size_t azoi_socket_watch(void *conn, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms,
                                void *user_data) {
    azoi_socket *s = (azoi_socket *)conn;
    size_t count = 0;
    for (int i = 0; i < 2; i++) {
        unsigned events = s->connected ? want : (unsigned)AZO_POLL_OUT;
        if (s->fd[i] >= 0 && events != 0 && count < cap) {
            out[count].fd = s->fd[i];
            out[count].id = s->to.id;
            out[count].events = events;
        }
        count += s->fd[i] >= 0 && events != 0;
    }
    if (azoi_socket_may_start(s)) {
        int32_t left = azoi_left(azoi_net_now((azoi_net *)user_data), s->stagger_at);
        *timeout_ms = *timeout_ms < 0 || left < *timeout_ms ? left : *timeout_ms;
    }
    return count;
}

static void azoi_socket_close(void *conn, void *user_data) {
    azoi_socket *s = (azoi_socket *)conn;
    for (int i = 0; i < 2; i++) {
        if (s->fd[i] >= 0) {
            (void)close(s->fd[i]);
        }
    }
    azoi_free(((azoi_net *)user_data)->allocator, s, sizeof *s);
}

/* Without memory all descriptors are reported as ready: events are hints, so that costs time only. */
static int azoi_socket_poll(azo_watch *set, size_t count, int32_t timeout_ms, void *user_data) {
    azoi_net *n = (azoi_net *)user_data;
    struct pollfd few[16];
    struct pollfd *fds = few;
    if (count > sizeof few / sizeof few[0]) {
        fds = (struct pollfd *)azoi_alloc(n->allocator, count * sizeof *fds);
        if (fds == NULL) {
            (void)poll(NULL, 0, 10);
            return (int)count;
        }
    }
    for (size_t i = 0; i < count; i++) {
        fds[i].fd = (int)set[i].fd;
        fds[i].events = (short)(((set[i].events & AZO_POLL_IN) != 0 ? POLLIN : 0) |
                                ((set[i].events & AZO_POLL_OUT) != 0 ? POLLOUT : 0));
        fds[i].revents = 0;
    }
    int ready = poll(fds, (nfds_t)count, timeout_ms);
    for (size_t i = 0; ready >= 0 && i < count; i++) {
        bool broken = (fds[i].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0;
        set[i].events = (broken || (fds[i].revents & POLLIN) != 0 ? (unsigned)AZO_POLL_IN : 0u) |
                        (broken || (fds[i].revents & POLLOUT) != 0 ? (unsigned)AZO_POLL_OUT : 0u);
    }
    if (fds != few) {
        azoi_free(n->allocator, fds, count * sizeof *fds);
    }
    return ready;
}

#endif /* AZO_NO_SOCKETS */

/* ---- opening and closing what streams share ---- */

static azo_result azoi_net_hooks(azoi_net *n, const azo_client_desc *desc, azo_error *e) {
    const azo_transport *t = &desc->transport;
    int functions = (t->open != NULL) + (t->connect != NULL) + (t->recv != NULL) + (t->send != NULL) +
                    (t->watch != NULL) + (t->close != NULL);
    int clocks = (desc->clock.monotonic_ms != NULL) + (desc->clock.unix_seconds != NULL);
    n->transport = *t;
    n->clock = desc->clock;
    n->logger = desc->logger;
#ifndef AZO_NO_SOCKETS
    if (functions == 0 && t->poll == NULL) {
        const azo_transport sockets = {n, azoi_socket_open, azoi_socket_connect, azoi_socket_recv, azoi_socket_send,
                                       azoi_socket_watch, azoi_socket_close, azoi_socket_poll};
        n->transport = sockets;
        functions = 6;
    }
#endif
#ifndef AZO_NO_CLOCK
    if (clocks == 0) {
        n->clock.monotonic_ms = azoi_default_monotonic;
        n->clock.unix_seconds = azoi_default_unix;
        clocks = 2;
    }
#endif
    if (functions == 6 && clocks == 2) {
        return AZO_OK;
    }
    return azoi_fail(e, AZO_ERR_ARGUMENT, "azo_client_desc.%s is not filled in (%d of %d functions). Set all of them, "
                     "transport.poll at will, or none in a build that has its own.",
                     functions < 6 ? "transport" : "clock", functions < 6 ? functions : clocks, functions < 6 ? 6 : 2);
}

static azo_result azoi_net_trust(azoi_net *n, const azo_client_desc *desc, azo_error *e) {
    azo_str file = azoi_trim(azo_s(desc->ca_file));
    if (desc->ca_pem.len == 0) {
        azoi_buf_str(&n->ca_file, file.len > 0 ? file : azoi_env("SSL_CERT_FILE"));
        return azoi_buf_failed(&n->ca_file, e, "ca_file");
    }
    if (file.len > 0) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "Both ca_file and ca_pem are set. Set one of them.");
    }
    azoi_buf_str(&n->ca_pem, desc->ca_pem);
    return azoi_buf_failed(&n->ca_pem, e, "ca_pem");
}

static azo_result azoi_net_init(azoi_net *n, const azo_client_desc *desc, const azo_allocator *a, azo_error *e) {
    enum { PATH = 4096, PEM = 16 * 1024 * 1024 };
    memset(n, 0, sizeof *n);
    n->allocator = a;
    azoi_buf_init(&n->ca_file, a, PATH, false);
    azoi_buf_init(&n->ca_pem, a, PEM, false);
    azo_result r = azoi_net_hooks(n, desc, e);
    if (r == AZO_OK) {
        n->jitter = (uint32_t)((uintptr_t)n >> 4) ^ (uint32_t)azoi_net_now(n) ^ (uint32_t)azoi_net_unix(n) << 16;
        r = azoi_net_trust(n, desc, e);
    }
    return r;
}

static void azoi_tls_teardown(azoi_net *n) {
    mbedtls_ssl_config_free(&n->config);
    mbedtls_x509_crt_free(&n->roots);
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    mbedtls_ctr_drbg_free(&n->random);
#endif
    n->tls_ready = false;
}

/* Also fine for one that is all zero, or that azoi_net_init refused. No stream may be open any more. */
static void azoi_net_close(azoi_net *n) {
    if (n->tls_ready) {
        azoi_tls_teardown(n);
    }
    for (size_t i = 0; i < AZOI_MAX_KNOWN; i++) {
        azoi_known_drop_session(&n->known[i]);
    }
    azoi_buf_free(&n->ca_file);
    azoi_buf_free(&n->ca_pem);
}

/* ---- client TLS, set up once ---- */

static void azoi_tls_limits(azoi_net *n) {
    /* Forward secrecy only. ChaCha20 first: mbedTLS does it faster than AES. What this mbedTLS lacks it passes over. */
    static const int suites[] = {0x1303, 0x1302, 0x1301,                  /* TLS 1.3 */
                                 0xcca9, 0xcca8,                          /* ECDHE, ECDSA before RSA: ChaCha20 */
                                 0xc02c, 0xc030, 0xc02b, 0xc02f,          /* AES-GCM */
                                 0xc024, 0xc028, 0xc023, 0xc027, 0xc0ac,  /* AES-CBC; AES-CCM for small builds */
                                 0};
    mbedtls_ssl_conf_ciphersuites(&n->config, suites);
#if MBEDTLS_VERSION_NUMBER >= 0x03020000
    mbedtls_ssl_conf_min_tls_version(&n->config, MBEDTLS_SSL_VERSION_TLS1_2);
#else
    mbedtls_ssl_conf_min_version(&n->config, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
#endif
#if MBEDTLS_VERSION_NUMBER < 0x03000000 && defined(MBEDTLS_ECP_DP_CURVE25519_ENABLED) &&                               \
    defined(MBEDTLS_ECP_DP_SECP256R1_ENABLED) && defined(MBEDTLS_ECP_DP_SECP384R1_ENABLED)
    /* 2.28 offers secp521r1 first, servers take it, and it costs three times as much. */
    static const mbedtls_ecp_group_id groups[] = {MBEDTLS_ECP_DP_CURVE25519, MBEDTLS_ECP_DP_SECP256R1,
                                                  MBEDTLS_ECP_DP_SECP384R1, MBEDTLS_ECP_DP_NONE};
    mbedtls_ssl_conf_curves(&n->config, groups);
#endif
#if (MBEDTLS_VERSION_NUMBER == 0x03060600 || MBEDTLS_VERSION_NUMBER == 0x04010000) && defined(MBEDTLS_SSL_PROTO_TLS1_2)
    /* These offer RSA-PSS but refuse it in TLS 1.2 (Mbed-TLS/mbedtls issue 10668). Servers mostly take what is offered
     * first, so PKCS #1 goes before it; TLS 1.3 allows PSS only, and has it still. */
    static const uint16_t algorithms[] = {0x0403, 0x0503, 0x0603, 0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806, 0};
    mbedtls_ssl_conf_sig_algs(&n->config, algorithms);
#endif
#if defined(MBEDTLS_SSL_PROTO_TLS1_3) && defined(MBEDTLS_SSL_SESSION_TICKETS) &&                                       \
    MBEDTLS_VERSION_NUMBER >= 0x03060100 && MBEDTLS_VERSION_NUMBER < 0x04000000
    /* From 3.6.1 on, 3.6 keeps quiet about tickets unless it is told not to; 4.x always speaks of them. */
    mbedtls_ssl_conf_tls13_enable_signal_new_session_tickets(&n->config,
                                                             MBEDTLS_SSL_TLS1_3_SIGNAL_NEW_SESSION_TICKETS_ENABLED);
#endif
}

#if MBEDTLS_VERSION_NUMBER < 0x04000000
/* Asked at first and after every ten thousand draws; its context (33 KB in 2.28) lives as long as that takes. */
static int azoi_tls_entropy(void *user_data, unsigned char *out, size_t len) {
    azoi_net *n = (azoi_net *)user_data;
    mbedtls_entropy_context *entropy = (mbedtls_entropy_context *)azoi_alloc(n->allocator, sizeof *entropy);
    n->starved = entropy == NULL;
    if (n->starved) {
        return MBEDTLS_ERR_SSL_ALLOC_FAILED;
    }
    mbedtls_entropy_init(entropy);
    int ret = mbedtls_entropy_func(entropy, out, len);
    mbedtls_entropy_free(entropy); /* wipes it */
    azoi_free(n->allocator, entropy, sizeof *entropy);
    return ret;
}
#endif

/* mbedTLS's number of what failed, or 0. */
static int azoi_tls_configure(azoi_net *n) {
    mbedtls_ssl_config_init(&n->config);
    mbedtls_x509_crt_init(&n->roots);
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    mbedtls_ctr_drbg_init(&n->random);
#endif
#ifdef AZOI_PSA
    psa_status_t status = psa_crypto_init(); /* for the whole process; never undone, others may use it */
    if (status != PSA_SUCCESS) {
        return (int)status;
    }
#endif
    int ret = mbedtls_ssl_config_defaults(&n->config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
                                          MBEDTLS_SSL_PRESET_DEFAULT);
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    if (ret == 0) {
        ret = mbedtls_ctr_drbg_seed(&n->random, azoi_tls_entropy, n, NULL, 0);
        mbedtls_ssl_conf_rng(&n->config, mbedtls_ctr_drbg_random, &n->random);
    }
    ret = ret == 0 ? mbedtls_ctr_drbg_random(&n->random, (unsigned char *)&n->jitter, sizeof n->jitter) : ret;
#endif
    azoi_tls_limits(n);
    mbedtls_ssl_conf_authmode(&n->config, MBEDTLS_SSL_VERIFY_REQUIRED);
    mbedtls_ssl_conf_ca_chain(&n->config, &n->roots, NULL);
#ifdef MBEDTLS_SSL_ALPN
    n->alpn[0] = "http/1.1";
    n->alpn[1] = NULL;
    ret = ret == 0 ? mbedtls_ssl_conf_alpn_protocols(&n->config, n->alpn) : ret;
#endif
    return ret;
}

/* Parts of mbedTLS that get no memory call it a bad key, signature, digest or source of randomness. So a failure tells
 * nothing while there is less than the largest step takes. */
static bool azoi_tls_is_starved(void) {
    enum { STEP = 20 * 1024 };
    void *room = mbedtls_calloc(1, STEP);
    mbedtls_free(room);
    return room == NULL;
}

/* Each of mbedTLS's modules has a number of its own for want of memory; those of the lower ones (the last seven bits)
 * may be added to another's. */
static bool azoi_tls_is_memory(const azoi_net *n, int ret) {
    static const int modules[] = {MBEDTLS_ERR_SSL_ALLOC_FAILED, MBEDTLS_ERR_X509_ALLOC_FAILED,
                                  MBEDTLS_ERR_PK_ALLOC_FAILED,
#if MBEDTLS_VERSION_NUMBER < 0x04000000
                                  MBEDTLS_ERR_ECP_ALLOC_FAILED, MBEDTLS_ERR_MD_ALLOC_FAILED,
                                  MBEDTLS_ERR_CIPHER_ALLOC_FAILED,
#endif
#ifdef AZOI_PSA
                                  PSA_ERROR_INSUFFICIENT_MEMORY,
#endif
    };
    const int low = -ret & 0x7f;
    for (size_t i = 0; i < sizeof modules / sizeof modules[0]; i++) {
        if (ret == modules[i]) {
            return true;
        }
    }
    /* MBEDTLS_ERR_MPI_ALLOC_FAILED, MBEDTLS_ERR_ASN1_ALLOC_FAILED */
    return n->starved || (ret < 0 && (low == 0x10 || low == 0x6a)) || azoi_tls_is_starved();
}

static azo_result azoi_tls_unusable(const azoi_net *n, int ret, azo_error *e) {
    if (azoi_tls_is_memory(n, ret)) {
        return azoi_memory(e);
    }
    if (e != NULL && e->code == AZO_OK) {
        e->tls_code = ret;
    }
    return azoi_fail(e, AZO_ERR_TLS, "mbedTLS could not be set up (mbedTLS -0x%04x). See that this machine has a "
                     "source of randomness, and that library and headers are of one version.", (unsigned)-ret);
}

static azo_result azoi_tls_setup(azoi_net *n, azo_error *e) {
    if (n->tls_ready) {
        return AZO_OK;
    }
    int ret = azoi_tls_configure(n);
    if (ret != 0) {
        azoi_tls_teardown(n);
        return azoi_tls_unusable(n, ret, e);
    }
#ifndef MBEDTLS_HAVE_TIME_DATE
    azoi_log(n, AZO_LOG_WARN, "* this mbedTLS checks no dates of certificates (no MBEDTLS_HAVE_TIME_DATE)");
#endif
    n->tls_ready = true;
    return AZO_OK;
}

/* ---- explaining failures ---- */

/* Fills in the numbers, unless an earlier failure is there already. */
static void azoi_stream_numbers(azoi_stream *s, int sys_errno, int tls_code, uint32_t flags) {
    s->broken = true;
    if (s->error != NULL && s->error->code == AZO_OK) {
        s->error->sys_errno = sys_errno;
        s->error->tls_code = tls_code;
        s->error->tls_verify_flags = flags;
    }
}

/* Keeps what a hook answered (errno must still be its own); what is no AZO_ERR_x becomes `other`. */
static void azoi_stream_note(azoi_stream *s, ptrdiff_t answer, azo_result other) {
    s->failed_errno = errno;
    s->failed = other;
#define AZOI_RESULT_CASE(name, number) s->failed = answer == number && number < 0 ? name : s->failed;
    AZO_RESULTS(AZOI_RESULT_CASE)
#undef AZOI_RESULT_CASE
}

static const char *azoi_errno_hint(int code) {
#ifndef AZO_NO_SOCKETS
    static const struct {
        int code;
        const char *hint;
    } rows[] = {{0, ", closed by the peer"},    {ECONNREFUSED, ", refused"},
                {ETIMEDOUT, ", timed out"},     {ECONNRESET, ", reset by the peer"},
                {ENETUNREACH, ", unreachable"}, {EHOSTUNREACH, ", unreachable"},
                {EMFILE, ", too many open files"}, {EACCES, ", forbidden on this machine"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].code == code) {
            return rows[i].hint;
        }
    }
#endif
    (void)code;
    return "";
}

/* Explains what azoi_stream_note kept; `ret` is mbedTLS's number, if it has one. */
static azo_result azoi_stream_failed(azoi_stream *s, const char *doing, int ret) {
    const char *hint = azoi_errno_hint(s->failed_errno);
    azoi_stream_numbers(s, s->failed_errno, ret, 0);
    if (s->failed == AZO_ERR_MEMORY) {
        return azoi_memory(s->error);
    }
    if (s->failed == AZO_ERR_RESOLVE) {
        return azoi_fail(s->error, s->failed, "The host name %s does not resolve (resolver code %d). Check its "
                         "spelling, and the DNS of this machine.", s->host, s->failed_errno);
    }
    if (s->failed == AZO_ERR_CONNECT) {
        return azoi_fail(s->error, s->failed, "%s does not answer on port %u (errno %d%s). Check the address, the "
                         "network and its firewall; where a proxy is needed, set HTTPS_PROXY.", s->host,
                         (unsigned)s->port, s->failed_errno, hint);
    }
    return azoi_fail(s->error, s->failed, "The connection to %s:%u broke while %s (errno %d%s). Try again; if it stays "
                     "so, look for a firewall or proxy that cuts it; where a proxy is needed, set HTTPS_PROXY.",
                     s->host, (unsigned)s->port, doing, s->failed_errno, hint);
}

#ifdef MBEDTLS_HAVE_TIME_DATE
enum { AZOI_TIME_TEXT = 24 };

static void azoi_time_text(const mbedtls_x509_time *t, char out[AZOI_TIME_TEXT]) {
    (void)snprintf(out, AZOI_TIME_TEXT, "%04u-%02u-%02u %02u:%02u:%02u", (unsigned)t->year % 10000,
                   (unsigned)t->mon % 100, (unsigned)t->day % 100, (unsigned)t->hour % 100, (unsigned)t->min % 100,
                   (unsigned)t->sec % 100);
}

static void azoi_time_unix(int64_t seconds, char out[AZOI_TIME_TEXT]) {
    mbedtls_time_t whole = (mbedtls_time_t)seconds;
    struct tm parts;
    memset(&parts, 0, sizeof parts);
    (void)mbedtls_platform_gmtime_r(&whole, &parts);
    const mbedtls_x509_time t = {parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min,
                                 parts.tm_sec};
    azoi_time_text(&t, out);
}

/* Dates are all that is wrong: says what they are, what the clock that mbedTLS asks says, and what a peer said. */
static azo_result azoi_tls_bad_dates(azoi_stream *s, int ret, uint32_t flags) {
    static const char set_clock[] = "Set the clock of this machine (NTP, or date -s), which is probably wrong; where "
                                    "there is none, give mbedTLS the time by mbedtls_platform_set_time";
    azoi_net *n = s->net;
    bool future = (flags & MBEDTLS_X509_BADCERT_FUTURE) != 0;
    char from[AZOI_TIME_TEXT];
    char to[AZOI_TIME_TEXT];
    char now[AZOI_TIME_TEXT];
    char date[AZOI_TIME_TEXT];
    char told[AZOI_TIME_TEXT + 48] = "";
    const char *advice = future ? set_clock
                                : "Check the clock of this machine; if it is right, the server needs a new certificate";
    azoi_time_text(&s->dates[0], from);
    azoi_time_text(&s->dates[1], to);
    azoi_time_unix((int64_t)mbedtls_time(NULL), now);
    if (n->told_date > 0) {
        azoi_time_unix(n->told_date + (int64_t)(((uint64_t)azoi_net_now(n) - (uint64_t)n->told_at) / 1000), date);
        (void)snprintf(told, sizeof told, ", by an earlier answer%s it is %s", n->told_safely ? "" : " without TLS",
                       date);
        advice = strcmp(from, date) <= 0 && strcmp(date, to) <= 0
                     ? set_clock
                     : "The clock seems to be right, so the server needs another certificate";
    }
    return azoi_fail(s->error, AZO_ERR_TLS_VERIFY, "The certificate of %s:%u %s: it is for %s to %s, and the clock of "
                     "this machine says %s (UTC%s; mbedTLS -0x%04x, flags 0x%x). %s.", s->host, (unsigned)s->port,
                     future ? "is not valid yet" : "has expired", from, to, now, told, (unsigned)-ret, (unsigned)flags,
                     advice);
}
#endif

static azo_result azoi_tls_bad_certificate(azoi_stream *s, int ret, uint32_t flags) {
    static const struct {
        uint32_t flags;
        const char *what;
        const char *advice;
    } rows[] = { /* without flags; then the worst and likeliest first */
        {0, "cannot be checked by this mbedTLS",
         "Have one issued with a short chain and no unusual critical extension (name constraints are one)"},
        {MBEDTLS_X509_BADCERT_FUTURE, "is not valid yet", "Set the clock of this machine: it is probably slow"},
        {MBEDTLS_X509_BADCERT_EXPIRED, "has expired",
         "Check the clock of this machine; if it is right, the server needs a new certificate"},
        {MBEDTLS_X509_BADCERT_NOT_TRUSTED, "is not trusted: none of the root certificates vouches for it",
         "Put the root of the server, or of a proxy that inspects TLS, into the file that SSL_CERT_FILE or "
         "azo_client_desc.ca_file names"},
        {MBEDTLS_X509_BADCERT_CN_MISMATCH, "is for another name",
         "Connect by a name that it lists; mbedTLS before 3.6 cannot check numeric addresses"},
        {MBEDTLS_X509_BADCERT_KEY_USAGE | MBEDTLS_X509_BADCERT_EXT_KEY_USAGE | MBEDTLS_X509_BADCERT_NS_CERT_TYPE,
         "is not meant for a server", "Have one issued with the usage serverAuth"},
        {MBEDTLS_X509_BADCERT_BAD_MD | MBEDTLS_X509_BADCERT_BAD_PK | MBEDTLS_X509_BADCERT_BAD_KEY,
         "rests on a weak or unusual key or hash", "Have one issued with RSA of 2048 bits or P-256, and SHA-256"},
        {UINT32_MAX, "was refused", "Look the flags up: MBEDTLS_X509_BADCERT_x in mbedtls/x509.h"}};
    size_t i = flags == 0 ? 0 : 1;
    while (flags != 0 && (rows[i].flags & flags) == 0) {
        i++;
    }
    azoi_log(s->net, AZO_LOG_WARN, "* certificate of %s refused, flags 0x%x", s->host, (unsigned)flags);
    azoi_stream_numbers(s, 0, ret, flags);
#ifdef MBEDTLS_HAVE_TIME_DATE
    const uint32_t by_clock = MBEDTLS_X509_BADCERT_FUTURE | MBEDTLS_X509_BADCERT_EXPIRED;
    if (s->dates[0].year != 0 && (flags & ~by_clock) == 0) {
        return azoi_tls_bad_dates(s, ret, flags);
    }
#endif
    return azoi_fail(s->error, AZO_ERR_TLS_VERIFY, "The certificate of %s:%u %s (mbedTLS -0x%04x, flags 0x%x). %s.",
                     s->host, (unsigned)s->port, rows[i].what, (unsigned)-ret, (unsigned)flags, rows[i].advice);
}

/* The number of the peer's alert (RFC 8446 section 6), 0: none. Before 4.1 only the buffer that it lies in tells. */
static int azoi_tls_alert(const azoi_stream *s, int ret) {
    if (ret != MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE) {
        return 0;
    }
#if MBEDTLS_VERSION_NUMBER >= 0x04010000
    return mbedtls_ssl_get_fatal_alert(s->tls);
#elif MBEDTLS_VERSION_NUMBER >= 0x03000000
    return s->tls->MBEDTLS_PRIVATE(in_msg)[1];
#else
    return s->tls->in_msg[1];
#endif
}

/* What to do about an error of mbedTLS, or an alert of the peer. */
static const char *azoi_tls_advice(int ret, int alert) {
    if (ret == MBEDTLS_ERR_SSL_INVALID_RECORD) {
        return "What came back is not TLS, or was changed on the way: check the port, and look for a proxy.";
    }
    switch (ret == -0x6e80 ? 70 : alert) { /* BAD_PROTOCOL_VERSION, in 2.28 BAD_HS_PROTOCOL_VERSION */
    case 40: case 70: case 71: /* handshake_failure, protocol_version, insufficient_security */
        return "It shares no TLS version (1.2, since mbedTLS 3.6 also 1.3), cipher suite or curve with this mbedTLS, "
               "or wants a client certificate: compare both configurations.";
    case 42: case 43: case 44: case 45: case 46: case 48: case 49: case 116: /* bad_certificate ... */
        return "It wants a client certificate, which this library does not send: use an endpoint without.";
    case 112: /* unrecognized_name */
        return "It does not serve this host name: check the endpoint.";
    case 120: /* no_application_protocol */
        return "It does not speak HTTP/1.1: check host and port.";
    default:
        return "Check host and port, and look for a proxy that alters TLS; the number is in mbedtls/ssl.h.";
    }
}

enum { AZOI_TLS_STOPPED = -0x10000 }; /* through mbedTLS: see s->failed. Beyond its own numbers. */

static azo_result azoi_tls_failed(azoi_stream *s, int ret, const char *doing) {
    if (ret == MBEDTLS_ERR_SSL_CONN_EOF || ret == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY) {
        s->failed = AZO_ERR_CLOSED;
    } else if (azoi_tls_is_memory(s->net, ret)) {
        s->failed = AZO_ERR_MEMORY;
    }
    if (s->failed != AZO_OK) {
        return azoi_stream_failed(s, doing, ret == AZOI_TLS_STOPPED ? 0 : ret);
    }
    azoi_stream_numbers(s, 0, ret, 0);
    int alert = azoi_tls_alert(s, ret);
    return azoi_fail(s->error, AZO_ERR_TLS, "TLS with %s:%u failed while %s (%s%.0d%smbedTLS -0x%04x). %s", s->host,
                     (unsigned)s->port, doing, alert > 0 ? "alert " : "", alert, alert > 0 ? ", " : "", (unsigned)-ret,
                     azoi_tls_advice(ret, alert));
}

/* ---- root certificates, looked up when a chain needs one ----
 *
 * Parsing a whole system bundle costs more than everything else in a cold call. So the library is given an empty
 * list; when its own pass finds no anchor, the bundle is scanned for certificates whose subject is the issuer of one
 * that the server sent, and the complete chain is verified again with those. The scan can only withhold roots, never
 * accept anything: names, dates, signatures and usages are all judged by mbedTLS. */

/* RFC 5280 section 4.1: the subject of the certificate in der[AZOI_MAX_DER], of which the first `len` bytes are known;
 * false if it is not whole in them. mbedTLS is told of the whole array, as it wants to see that everything fits. */
static bool azoi_der_subject(unsigned char *der, size_t len, azo_str *subject) {
    static const int tags[] = {0x30, 0x30, 0xa0, 0x02, 0x30, 0x30, 0x30, 0x30};
    const size_t version = 2; /* optional */
    unsigned char *at = der;
    unsigned char *from = der;
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
        size_t size;
        from = at;
        if (mbedtls_asn1_get_tag(&at, der + AZOI_MAX_DER, &size, tags[i]) == 0) {
            at += i < version ? 0 : size;
        } else if (i != version) {
            return false;
        }
    }
    *subject = azoi_view((const char *)from, (size_t)(at - from));
    return (size_t)(at - der) <= len;
}

/* Decodes no more than `part` characters for it. */
static bool azoi_scan_subject(azoi_scan *z, azo_str pem, size_t part, azo_str *subject) {
    size_t len;
    (void)azoi_base64_decode(azoi_view(pem.ptr, pem.len < part ? pem.len : part), z->der, sizeof z->der, &len);
    return azoi_der_subject(z->der, len, subject);
}

/* `pem` is what stands between the lines that begin and end a certificate. */
static void azoi_scan_certificate(azoi_scan *z, azo_str pem) {
    enum { HEAD = 576, MAX_FOUND = 16 }; /* a peer that names more issuers has no honest chain */
    azo_str subject;
    size_t len;
    if (!azoi_scan_subject(z, pem, HEAD, &subject) && !azoi_scan_subject(z, pem, pem.len, &subject)) {
        return;
    }
    z->certificates++;
    const mbedtls_x509_crt *crt = z->chain;
    while (crt != NULL &&
           !azoi_same_ci(azoi_view((const char *)crt->issuer_raw.p, crt->issuer_raw.len), subject)) {
        crt = crt->next;
    }
    if (crt != NULL && z->found_count < MAX_FOUND && azoi_base64_decode(pem, z->der, sizeof z->der, &len)) {
        z->found_count += mbedtls_x509_crt_parse_der(&z->found, z->der, len) == 0;
    }
}

/* Returns how many bytes at the end are to be seen again with what follows them: an unfinished block. */
static size_t azoi_scan_text(azoi_scan *z, azo_str text) {
    static const char mark[] = "-----BEGIN CERTIFICATE-----";
    const size_t mark_len = sizeof mark - 1;
    size_t at = 0;
    for (;;) {
        at += azoi_find(azoi_skip(text, at), '-');
        azo_str block = azoi_skip(text, at);
        bool starts_line = at == 0 ? !z->mid_line : text.ptr[at - 1] == '\n';
        if (block.len == 0 || (starts_line && block.len < mark_len)) {
            return block.len;
        }
        if (!starts_line || !azoi_starts(block, mark)) {
            at++;
            continue;
        }
        azo_str pem = azoi_skip(block, mark_len);
        pem.len = azoi_find(pem, '-'); /* base64 has none */
        if (mark_len + pem.len == block.len) {
            return block.len;
        }
        azoi_scan_certificate(z, pem);
        at += mark_len + pem.len;
    }
}

#ifndef AZO_NO_STDIO
/* Deals with `added` more bytes of text[]. */
static void azoi_scan_added(azoi_scan *z, size_t added) {
    z->len += added;
    size_t left = azoi_scan_text(z, azoi_view(z->text, z->len));
    size_t done = z->len - (left < sizeof z->text ? left : 0); /* no certificate is that long */
    if (done > 0) {
        z->mid_line = z->text[done - 1] != '\n';
        z->len -= done;
        memmove(z->text, z->text + done, z->len);
    }
}
#endif

/* 0, or errno. */
static int azoi_scan_file(azoi_scan *z, const char *path) {
#ifdef AZO_NO_STDIO
    (void)z;
    (void)path;
    return -1;
#else
    size_t got;
    z->len = 0;
    z->mid_line = false;
    errno = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return errno;
    }
    (void)setvbuf(file, NULL, _IONBF, 0); /* text[] is the buffer */
    while ((got = fread(z->text + z->len, 1, sizeof z->text - z->len, file)) > 0) {
        azoi_scan_added(z, got);
    }
    int error = ferror(file) != 0 ? errno : 0;
    (void)fclose(file);
    return error;
#endif
}

/* Where there are roots: the desc's, SSL_CERT_FILE's, or the usual places, of which the first that has any counts. */
static azo_result azoi_roots_search(azoi_stream *s, azoi_scan *z) {
    /* Debian and its kin; Fedora, RHEL; openSUSE; Alpine, BSDs, macOS; FreeBSD */
    static const char *const usual[] = {
        "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
        "/usr/local/share/certs/ca-root-nss.crt", "/usr/local/etc/ssl/cert.pem"};
    char tried[280] = "azo_client_desc.ca_pem";
    size_t len = 0;
    int error = 0;
    if (s->net->ca_pem.len > 0) {
        (void)azoi_scan_text(z, azoi_buf_view(&s->net->ca_pem));
    } else if (s->net->ca_file.len > 0) {
        (void)snprintf(tried, sizeof tried, "%s", s->net->ca_file.data);
        error = azoi_scan_file(z, s->net->ca_file.data);
    } else {
        for (size_t i = 0; i < sizeof usual / sizeof usual[0] && z->certificates == 0; i++) {
            len += (size_t)snprintf(tried + len, sizeof tried - len, "%s%s", i > 0 ? ", " : "", usual[i]);
            error = azoi_scan_file(z, usual[i]);
        }
    }
    if (error == 0 && z->certificates > 0) {
        return AZO_OK;
    }
    azoi_stream_numbers(s, error, 0, 0);
    return azoi_fail(s->error, AZO_ERR_TRUST_STORE, "No root certificates to be read in %s (errno %d). Name a PEM file "
                     "in azo_client_desc.ca_file or SSL_CERT_FILE, or install the package ca-certificates.", tried,
                     error);
}

/* The whole chain again, with the roots that were found. Those that prove right are kept, so that the next connection
 * needs no lookup. That list only grows: handshakes that are under way point into it. */
static azo_result azoi_roots_decide(azoi_stream *s, azoi_scan *z, mbedtls_x509_crt *leaf, uint32_t *flags) {
    enum { MAX_ROOTS = 8 };
    uint32_t verdict = 0;
    z->chain = leaf;
    azo_result r = azoi_roots_search(s, z);
    if (r != AZO_OK) {
        return r;
    }
    azoi_log(s->net, AZO_LOG_DEBUG, "* %d of %zu root certificates fit the chain of %s", z->found_count,
             z->certificates, s->host);
    int ret = mbedtls_x509_crt_verify_with_profile(leaf, &z->found, NULL, &mbedtls_x509_crt_profile_default, s->name,
                                                   &verdict, NULL, NULL);
    if (ret != 0 && (verdict == 0 || verdict == 0xffffffff)) {
        verdict = MBEDTLS_X509_BADCERT_OTHER; /* never drop an error */
    }
    for (const mbedtls_x509_crt *crt = &z->found; verdict == 0 && crt != NULL; crt = crt->next) {
        if (s->net->root_count < MAX_ROOTS &&
            mbedtls_x509_crt_parse_der(&s->net->roots, crt->raw.p, crt->raw.len) == 0) {
            s->net->root_count++;
        }
    }
    *flags = verdict;
    return AZO_OK;
}

/* Called for every certificate of the chain, the one nearest to a root first, the server's (depth 0) last. */
static int azoi_tls_verify(void *user_data, mbedtls_x509_crt *crt, int depth, uint32_t *flags) {
    azoi_stream *s = (azoi_stream *)user_data;
    s->checked = true;
    if ((*flags & (MBEDTLS_X509_BADCERT_FUTURE | MBEDTLS_X509_BADCERT_EXPIRED)) != 0) {
        s->dates[0] = crt->valid_from;
        s->dates[1] = crt->valid_to;
    }
    s->pending_roots |= (*flags & MBEDTLS_X509_BADCERT_NOT_TRUSTED) != 0;
    if (!s->pending_roots) {
        return 0; /* anchored by a root that is known: the verdict stands */
    }
    if (depth > 0) {
        *flags = 0; /* decided at depth 0, for the chain as a whole */
        return 0;
    }
    s->pending_roots = false;
    azoi_scan *z = (azoi_scan *)azoi_alloc(s->net->allocator, sizeof *z);
    s->failed = AZO_ERR_MEMORY;
    if (z != NULL) {
        mbedtls_x509_crt_init(&z->found);
        s->failed = azoi_roots_decide(s, z, crt, flags);
        mbedtls_x509_crt_free(&z->found);
        azoi_free(s->net->allocator, z, sizeof *z);
    }
    return s->failed == AZO_OK ? 0 : AZOI_TLS_STOPPED;
}

/* ---- sessions to resume ---- */

/* Remembers the session as it is now. */
static void azoi_session_keep(azoi_stream *s, bool once) {
    azoi_known *known = azoi_net_known(s->net, s->host, s->port);
    azoi_known_drop_session(known);
    known->has_session = mbedtls_ssl_get_session(s->tls, &known->session) == 0;
    known->once = once;
    known->verified_at = s->verified_at;
}

static void azoi_session_offer(azoi_stream *s) {
    azoi_known *known = azoi_net_known(s->net, s->host, s->port);
    s->offered = known->has_session && mbedtls_ssl_set_session(s->tls, &known->session) == 0;
    s->verified_at = known->verified_at; /* stands unless the handshake turns out a full one */
    if (known->once) {
        azoi_known_drop_session(known);
    }
}

/* A resumed session's certificate is not looked at again, so however often it is handed on, that ends after a day
 * (RFC 5246 F.1.4). */
enum { AZOI_SESSION_S = 24 * 3600 };

/* Tickets that are good for one connection leave the client. What mbedTLS cannot save is not missed. */
static void azoi_net_export(azoi_net *n, azoi_buf *out) {
    azoi_buf saved;
    azoi_buf_init(&saved, n->allocator, SIZE_MAX / 2, true);
    for (azoi_known *known = n->known; known < n->known + AZOI_MAX_KNOWN; known++) {
        size_t len = 0;
        if (!known->has_session || known->verified_at == 0) {
            continue;
        }
        azoi_buf_clear(&saved);
        (void)mbedtls_ssl_session_save(&known->session, NULL, 0, &len);
        if (!azoi_buf_reserve(&saved, len)) {
            out->failed = saved.failed;
        } else if (mbedtls_ssl_session_save(&known->session, (unsigned char *)saved.data, len, &saved.len) == 0) {
            azoi_record r = {AZOI_RECORD_SESSION, known->once, known->verified_at, known->port, azo_s(known->host),
                             azoi_buf_view(&saved)};
            azoi_record_put(out, &r);
        }
        if (known->once) {
            azoi_known_drop_session(known);
        }
    }
    azoi_buf_free(&saved);
}

/* PENDING: not to be used, or not needed. mbedTLS itself refuses what another build of it has saved. */
static azo_result azoi_net_import(azoi_net *n, const azoi_record *r, int64_t now, azo_error *e) {
    char host[AZOI_MAX_HOST + 1];
    bool fresh = r->time <= now && now - r->time < AZOI_SESSION_S;
    if (!fresh || r->name.len == 0 || r->name.len > AZOI_MAX_HOST || r->number == 0 || r->number > UINT16_MAX) {
        return AZO_PENDING;
    }
    (void)snprintf(host, sizeof host, "%.*s", (int)r->name.len, r->name.ptr);
    azoi_known *known = azoi_net_known(n, host, (uint16_t)r->number);
    if (known->has_session) {
        return AZO_PENDING; /* this run's own is newer */
    }
    azoi_known_drop_session(known);
    int ret = mbedtls_ssl_session_load(&known->session, (const unsigned char *)r->secret.ptr, r->secret.len);
    known->has_session = ret == 0;
    known->once = r->detail != 0;
    known->verified_at = r->time;
    return ret == 0 ? AZO_OK : azoi_tls_is_memory(n, ret) ? azoi_memory(e) : AZO_PENDING;
}

/* SHA-256, after azoi_tls_setup. */
static azo_result azoi_net_digest(const azoi_net *n, azo_str bytes, unsigned char *out, azo_error *e) {
#if MBEDTLS_VERSION_NUMBER < 0x04000000
    const mbedtls_md_info_t *sha256 = mbedtls_md_info_from_type(MBEDTLS_MD_SHA256);
    int ret = mbedtls_md(sha256, (const unsigned char *)bytes.ptr, bytes.len, out);
#else
    size_t len;
    int ret = (int)psa_hash_compute(PSA_ALG_SHA_256, (const uint8_t *)bytes.ptr, bytes.len, out, AZOI_DIGEST, &len);
#endif
    return ret == 0 ? AZO_OK : azoi_tls_unusable(n, ret, e);
}

/* ---- streams ---- */

static azo_result azoi_stream_open(azoi_stream *s, azoi_net *n, const char *host, uint16_t port, uint32_t id,
                                   azo_error *e) {
    azo_target to;
    memset(&to, 0, sizeof to); /* its padding, too, is copied */
    to.host = host;
    to.port = port;
    to.id = id;
    memset(s, 0, sizeof *s);
    s->net = n;
    s->host = host;
    s->port = port;
    s->end = AZO_IO_AGAIN;
    s->error = e;
    errno = 0;
    azo_result r = n->transport.open(&to, &s->conn, n->transport.user_data);
    if (r == AZO_OK && s->conn != NULL) {
        return AZO_OK;
    }
    azoi_stream_note(s, r, AZO_ERR_CONNECT);
    s->conn = NULL;
    return azoi_stream_failed(s, "opening it", 0);
}

static azo_result azoi_stream_connect(azoi_stream *s) {
    errno = 0;
    int answer = s->net->transport.connect(s->conn, s->net->transport.user_data);
    s->out_blocked = answer == AZO_IO_AGAIN;
    if (answer == AZO_OK || answer == AZO_IO_AGAIN) {
        return answer == AZO_OK ? AZO_OK : AZO_PENDING;
    }
    azoi_stream_note(s, answer, AZO_ERR_CONNECT);
    return azoi_stream_failed(s, "connecting", 0);
}

/* What a hook answered, as mbedTLS wants to hear it: how many bytes, `again`, or STOPPED with s->failed set. */
static int azoi_bio_answer(azoi_stream *s, ptrdiff_t answer, size_t most, bool *blocked, int again) {
    *blocked = answer == AZO_IO_AGAIN;
    if (*blocked) {
        return again;
    }
    if (answer >= 0 && (size_t)answer <= most) {
        return (int)answer;
    }
    azoi_stream_note(s, answer, AZO_ERR_CLOSED);
    return AZOI_TLS_STOPPED;
}

/* mbedTLS swallows warnings and other records without data for as long as they come, so it is given only so many at
 * a time; after that it wants more although nothing is blocked. */
enum { AZOI_READS = 64 };

static int azoi_bio_recv(void *user_data, unsigned char *buf, size_t cap) {
    azoi_stream *s = (azoi_stream *)user_data;
    const azo_transport *t = &s->net->transport;
    /* mbedTLS wants a record's five bytes first, then the rest: one read for both takes a fifth off a stream's time. */
    bool ahead = s->tls != NULL && cap < sizeof s->ahead;
    if (s->ahead_len == 0) {
        unsigned char *to = ahead ? s->ahead : buf;
        size_t room = ahead ? sizeof s->ahead : cap < INT_MAX ? cap : INT_MAX;
        if (s->reads == 0) {
            return MBEDTLS_ERR_SSL_WANT_READ;
        }
        s->reads--;
        errno = 0;
        ptrdiff_t got = t->recv(s->conn, to, room, t->user_data);
        s->at_end = got == 0;
        int answer = azoi_bio_answer(s, got, room, &s->in_blocked, MBEDTLS_ERR_SSL_WANT_READ);
        if (answer <= 0 || !ahead) {
            return answer;
        }
        s->ahead_at = 0;
        s->ahead_len = (size_t)answer;
    }
    size_t take = cap < s->ahead_len ? cap : s->ahead_len;
    memcpy(buf, s->ahead + s->ahead_at, take);
    s->ahead_at += take;
    s->ahead_len -= take;
    return (int)take;
}

static int azoi_bio_send(void *user_data, const unsigned char *buf, size_t len) {
    azoi_stream *s = (azoi_stream *)user_data;
    const azo_transport *t = &s->net->transport;
    len = len < INT_MAX ? len : INT_MAX;
    errno = 0;
    ptrdiff_t sent = t->send(s->conn, buf, len, t->user_data);
    s->flushed |= s->unsent > 0 && sent > 0 && (size_t)sent == len;
    if (sent == 0) {
        sent = AZO_ERR_CLOSED; /* no answer for send */
    }
    return azoi_bio_answer(s, sent, len, &s->out_blocked, MBEDTLS_ERR_SSL_WANT_WRITE);
}

static azo_result azoi_stream_start_tls(azoi_stream *s, const char *host, uint16_t port) {
    size_t len = strlen(host);
    s->host = host;
    s->port = port;
    /* Before 3.6.6 mbedTLS reads out of bounds in malformed IPv6 addresses (CVE-2026-25833). */
    bool refused = strchr(host, ':') != NULL && (MBEDTLS_VERSION_NUMBER < 0x03060600 || !azoi_is_numeric(azo_s(host)));
    if (len == 0 || len >= sizeof s->name || refused) {
        return azoi_fail(s->error, AZO_ERR_ARGUMENT, "A certificate cannot be checked against this host (%zu bytes "
                         "long). Give the endpoint a host name.", len);
    }
    memcpy(s->name, host, len - (host[len - 1] == '.' ? 1 : 0)); /* certificates spell it without the last dot */
    azo_result r = azoi_tls_setup(s->net, s->error);
    if (r != AZO_OK) {
        return r;
    }
    s->tls = (mbedtls_ssl_context *)azoi_alloc(s->net->allocator, sizeof *s->tls);
    if (s->tls == NULL) {
        return azoi_memory(s->error);
    }
    mbedtls_ssl_init(s->tls);
    int ret = mbedtls_ssl_setup(s->tls, &s->net->config);
    ret = ret == 0 ? mbedtls_ssl_set_hostname(s->tls, s->name) : ret;
    if (ret != 0) {
        return azoi_tls_failed(s, ret, "setting it up");
    }
    mbedtls_ssl_set_verify(s->tls, azoi_tls_verify, s);
    mbedtls_ssl_set_bio(s->tls, s, azoi_bio_send, azoi_bio_recv, NULL);
    azoi_session_offer(s);
    return AZO_OK;
}

/* Not a failure: call again. Keeps a TLS 1.3 ticket that came by. */
static bool azoi_tls_again(azoi_stream *s, int ret) {
#ifdef MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET
    if (ret == MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET) {
        azoi_session_keep(s, true);
        return true;
    }
#endif
    (void)s;
    return ret == MBEDTLS_ERR_SSL_WANT_READ || ret == MBEDTLS_ERR_SSL_WANT_WRITE ||
           ret == MBEDTLS_ERR_SSL_CRYPTO_IN_PROGRESS || ret == MBEDTLS_ERR_SSL_ASYNC_IN_PROGRESS;
}

static azo_result azoi_tls_finished(azoi_stream *s) {
    uint32_t flags = mbedtls_ssl_get_verify_result(s->tls);
    if (s->offered && !s->checked) {
        flags &= ~(uint32_t)MBEDTLS_X509_BADCERT_SKIP_VERIFY; /* 4.1 says so of every session that TLS 1.3 resumes */
    }
    if (flags != 0 || (!s->checked && !s->offered)) {
        /* Cannot be with REQUIRED; but if it ever is, do not go on. */
        return azoi_tls_bad_certificate(s, 0, flags != 0 ? flags : MBEDTLS_X509_BADCERT_SKIP_VERIFY);
    }
    azoi_log(s->net, AZO_LOG_INFO, "* %s with %s, %s, %s", mbedtls_ssl_get_version(s->tls), s->host,
             mbedtls_ssl_get_ciphersuite(s->tls), s->checked ? "certificate verified" : "session resumed");
    s->verified_at = s->checked ? azoi_net_unix(s->net) : s->verified_at;
    if (s->checked && strcmp(mbedtls_ssl_get_version(s->tls), "TLSv1.3") != 0) {
        azoi_session_keep(s, false);
    }
    return AZO_OK;
}

/* MBEDTLS_ERR_X509_x, MBEDTLS_ERR_ASN1_x: a certificate that mbedTLS cannot parse. Until 4.x the latter, a part of its
 * number, never comes alone. */
static bool azoi_tls_is_unreadable(int ret) {
#if MBEDTLS_VERSION_NUMBER >= 0x04000000
    if (ret >= MBEDTLS_ERR_ASN1_INVALID_DATA && ret <= MBEDTLS_ERR_ASN1_OUT_OF_DATA) {
        return true;
    }
#endif
    const int module = -ret & ~0x7f;
    return (module >= 0x2080 && module <= 0x2980) || module == 0x3000;
}

static azo_result azoi_stream_handshake(azoi_stream *s) {
    s->in_blocked = false;
    s->out_blocked = false;
    s->reads = AZOI_READS;
    int ret = mbedtls_ssl_handshake(s->tls);
    if (ret == 0) {
        return azoi_tls_finished(s);
    }
    if (azoi_tls_again(s, ret)) {
        return AZO_PENDING;
    }
    if (s->offered) {
        azoi_known_drop_session(azoi_net_known(s->net, s->host, s->port)); /* in case it was the session's fault */
    }
    uint32_t flags = s->checked ? mbedtls_ssl_get_verify_result(s->tls) : 0;
    flags = flags != 0xffffffff ? flags : 0;
    if (s->failed == AZO_OK && !azoi_tls_is_memory(s->net, ret) && (flags != 0 || azoi_tls_is_unreadable(ret))) {
        return azoi_tls_bad_certificate(s, ret, flags);
    }
    return azoi_tls_failed(s, ret, "shaking hands");
}

/* Lets what a read has left unsent go first. 0: nothing is left. */
static int azoi_tls_settle(azoi_stream *s) {
    if (!s->owed || s->flushed) {
        return 0;
    }
    int ret = mbedtls_ssl_write(s->tls, (const unsigned char *)"", 0); /* an empty record at most, which is legal */
    s->owed = ret != 0;
    return ret;
}

/* The end for TLS is close_notify alone. A FIN without it may be an attack that cuts the answer short, so it is
 * CLOSED; s->error is left to the caller, who knows whether anything is missing. AGAIN where nothing is blocked: much
 * came that was no data. It is somebody else's turn. */
static ptrdiff_t azoi_stream_read(azoi_stream *s, void *buf, size_t cap) {
    unsigned char *bytes = (unsigned char *)buf;
    int ret = 0;
    if (s->end != AZO_IO_AGAIN) {
        return s->end;
    }
    (void)azoi_tls_settle(s); /* the peer may wait for it; what breaks here breaks in the read, too */
    s->reads = AZOI_READS;
    while (s->reads > 0) {
        s->in_blocked = false;
        ret = s->tls != NULL ? mbedtls_ssl_read(s->tls, bytes, cap) : azoi_bio_recv(s, bytes, cap);
        if (ret > 0) {
            return ret;
        }
        if ((ret == 0 && s->at_end) || ret == MBEDTLS_ERR_SSL_CONN_EOF || ret == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY) {
            s->end = s->tls != NULL && ret != MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY ? AZO_ERR_CLOSED : 0;
            return s->end;
        }
        if (ret != 0 && !azoi_tls_again(s, ret)) { /* a second record without data in a row is 0 for mbedTLS, too */
            s->end = AZO_ERR_CLOSED;
            return azoi_tls_failed(s, ret, "receiving");
        }
        /* mbedTLS may want to read while the socket has more: only its own "again" counts. */
        if (s->in_blocked || ret == MBEDTLS_ERR_SSL_WANT_WRITE) {
            s->owed = s->owed || (ret == MBEDTLS_ERR_SSL_WANT_WRITE && (s->unsent == 0 || s->flushed));
            break;
        }
    }
    return AZO_IO_AGAIN;
}

/* The record of an unfinished write is encrypted already, so its length must stand. When a TLS 1.3 ticket comes in
 * between, mbedTLS flushes that record and forgets that it was this write: calling it again would send it twice. */
static ptrdiff_t azoi_stream_write(azoi_stream *s, const void *buf, size_t len) {
    enum { MAX_ROUNDS = 100 };
    const unsigned char *bytes = (const unsigned char *)buf;
    int ret = 0;
    if (len == 0 || s->broken) {
        return len == 0 ? 0 : AZO_ERR_CLOSED; /* explained before */
    }
    int most = s->tls != NULL ? mbedtls_ssl_get_max_out_record_payload(s->tls) : INT_MAX;
    len = most > 0 && len > (size_t)most ? (size_t)most : len;
    len = s->unsent > 0 && s->unsent < len ? s->unsent : len;
    s->reads = AZOI_READS;
    for (int round = 0; round < MAX_ROUNDS; round++) {
        ret = azoi_tls_settle(s);
        if (ret == 0) {
            ret = s->flushed ? (int)len
                  : s->tls != NULL ? mbedtls_ssl_write(s->tls, bytes, len)
                                   : azoi_bio_send(s, bytes, len);
        }
        if (ret > 0) {
            s->unsent = 0;
            s->flushed = false;
            return ret;
        }
        if (!azoi_tls_again(s, ret)) {
            break;
        }
        if (ret == MBEDTLS_ERR_SSL_WANT_WRITE || (ret == MBEDTLS_ERR_SSL_WANT_READ && s->in_blocked)) {
            s->unsent = s->owed ? s->unsent : len;
            return AZO_IO_AGAIN;
        }
    }
    return azoi_tls_failed(s, ret, "sending");
}

static size_t azoi_stream_watch(azoi_stream *s, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms) {
    const azo_transport *t = &s->net->transport;
    return t->watch(s->conn, want, out, cap, timeout_ms, t->user_data);
}

static void azoi_stream_close(azoi_stream *s) {
    if (s->tls != NULL) {
        if (!s->broken) {
            (void)mbedtls_ssl_close_notify(s->tls); /* once, whatever it says: the peer is not waited for */
        }
        mbedtls_ssl_free(s->tls);
        azoi_free(s->net->allocator, s->tls, sizeof *s->tls);
        s->tls = NULL;
    }
    if (s->conn != NULL) {
        s->net->transport.close(s->conn, s->net->transport.user_data);
        s->conn = NULL;
    }
}
/* >>connections
 *
 * Opens connections (through a proxy's tunnel if need be), keeps idle ones for the next request, and lets each be
 * driven by one job at a time. A connection never frees its job: it changes state and wakes it. */

enum {
    AZOI_IDLE_MS = 30000, /* gateways close idle connections after a minute or more */
    AZOI_DRAIN_MS = 1000,
    AZOI_READ_SIZE = 16384 /* one TLS record */
};

typedef enum azoi_release {
    AZOI_RELEASE_REUSE, /* the answer is whole and the peer keeps the connection */
    AZOI_RELEASE_DRAIN, /* the answer is whole, the end of the body is still to come */
    AZOI_RELEASE_KILL
} azoi_release;

/* ---- proxy rules ---- */

/* An entry of NO_PROXY: "*", a host, a domain with or without its leading dot; a port is ignored. */
static bool azoi_no_proxy_entry(azo_str entry, azo_str host) {
    if (azoi_equal(entry, "*")) {
        return true;
    }
    size_t colon = azoi_find(entry, ':');
    if (azoi_find(azoi_skip(entry, colon + 1), ':') == azoi_skip(entry, colon + 1).len) {
        entry.len = colon;
    }
    if (entry.len > 0 && entry.ptr[0] == '.') {
        entry = azoi_skip(entry, 1);
    }
    if (entry.len == 0 || entry.len > host.len) {
        return false;
    }
    azo_str tail = azoi_skip(host, host.len - entry.len);
    return azoi_same_ci(tail, entry) && (tail.len == host.len || tail.ptr[-1] == '.');
}

static bool azoi_wants_proxy(const azo_client *c, const azoi_origin *origin) {
    if (!AZOI_HAS_PROXY || c->proxy_host.len == 0 || origin->direct || azoi_is_loopback(origin->host)) {
        return false;
    }
    azo_str rest = azoi_buf_view(&c->no_proxy);
    while (rest.len > 0) {
        size_t comma = azoi_find(rest, ',');
        if (azoi_no_proxy_entry(azoi_trim(azoi_view(rest.ptr, comma)), origin->host)) {
            return false;
        }
        rest = azoi_skip(rest, comma + 1);
    }
    return true;
}

/* ---- wishes ---- */

static void azoi_conn_happened(azoi_source *source) {
    azoi_conn *conn = AZOI_OF(source, azoi_conn, source);
    conn->stream.in_blocked = false;
    conn->stream.out_blocked = false;
    azoi_pump_queue(&conn->client->pump, conn->state == AZOI_CONN_BUSY ? conn->user : &conn->node);
}

static size_t azoi_conn_describe(azoi_source *source, azo_watch *out, size_t cap, int32_t *timeout_ms) {
    azoi_conn *conn = AZOI_OF(source, azoi_conn, source);
    unsigned want = (conn->stream.in_blocked ? (unsigned)AZO_POLL_IN : 0u) |
                    (conn->stream.out_blocked ? (unsigned)AZO_POLL_OUT : 0u);
    if (conn->state == AZOI_CONN_OPENING) {
        want = AZO_POLL_OUT;
    }
    bool rests = conn->state == AZOI_CONN_IDLE || (conn->state == AZOI_CONN_BUSY && !conn->wants);
    if (want == 0 || rests || conn->stream.conn == NULL) {
        return 0;
    }
    size_t count = azoi_stream_watch(&conn->stream, want, out, cap, timeout_ms);
    for (size_t i = 0; i < count && i < cap; i++) {
        out[i].id = source->id;
    }
    return count;
}

/* ---- the end of a connection ---- */

static void azoi_conn_wake_capped(azo_client *c) {
    if (!azoi_list_empty(&c->capped)) {
        azoi_pump_queue(&c->pump, &AZOI_OF(c->capped.next, azo_request, capped)->node);
    }
}

static void azoi_conn_shut(azoi_conn *conn) {
    azoi_source_hush(&conn->client->pump, &conn->source);
    azoi_stream_close(&conn->stream);
}

static void azoi_conn_free(azoi_conn *conn) {
    azo_client *c = conn->client;
    azoi_conn_shut(conn);
    azoi_source_detach(&c->pump, &conn->source);
    azoi_timer_detach(&c->pump, &conn->timer);
    azoi_link_leave(&conn->node.link);
    azoi_link_leave(&conn->link);
    c->idle_count -= conn->state == AZOI_CONN_IDLE;
    if (conn->counted) {
        c->counted_conns--;
        azoi_conn_wake_capped(c);
    }
    azoi_buf_free(&conn->out);
    azoi_buf_free(&conn->in);
    azoi_free(&c->allocator, conn, sizeof *conn + conn->origin.host.len + 1);
}

static void azoi_conn_fail(azoi_conn *conn, azo_result result) {
    if (conn->state == AZOI_CONN_TLS) {
        conn->stream.error->stage = AZO_STAGE_TLS; /* the state that says so is lost here */
    }
    azoi_conn_shut(conn);
    azoi_timer_set(&conn->client->pump, &conn->timer, AZOI_NEVER);
    conn->state = AZOI_CONN_FAILED;
    conn->result = result;
    if (conn->user != NULL) {
        azoi_pump_queue(&conn->client->pump, conn->user);
    } else {
        azoi_conn_free(conn);
    }
}

/* ---- opening ---- */

static azo_result azoi_conn_write_connect(azoi_conn *conn) {
    azoi_buf_puts(&conn->out, "CONNECT ");
    azoi_host_put(&conn->out, conn->origin.host, conn->origin.port, 0); /* the authority form always has its port */
    azoi_buf_puts(&conn->out, " HTTP/1.1\r\nHost: ");
    azoi_host_put(&conn->out, conn->origin.host, conn->origin.port, 80);
    azoi_buf_puts(&conn->out, "\r\n");
    if (conn->client->proxy_auth.len > 0) {
        azoi_buf_puts(&conn->out, "Proxy-Authorization: Basic ");
        azoi_buf_str(&conn->out, azoi_buf_view(&conn->client->proxy_auth));
        azoi_buf_puts(&conn->out, "\r\n");
    }
    azoi_buf_puts(&conn->out, "User-Agent: azopenai.h/" AZO_VERSION "\r\n\r\n");
    return azoi_buf_failed(&conn->out, conn->stream.error, "The CONNECT request");
}

static azo_result azoi_conn_send_out(azoi_conn *conn) {
    while (conn->out_sent < conn->out.len) {
        ptrdiff_t sent =
            azoi_stream_write(&conn->stream, conn->out.data + conn->out_sent, conn->out.len - conn->out_sent);
        if (sent == AZO_IO_AGAIN) {
            return AZO_PENDING;
        }
        if (sent <= 0) {
            return (azo_result)(int)sent;
        }
        conn->out_sent += (size_t)sent;
    }
    azoi_buf_clear(&conn->out);
    conn->out_sent = 0;
    return AZO_OK;
}

static azo_result azoi_conn_proxy_odd(azoi_conn *conn) {
    return azoi_fail(conn->stream.error, AZO_ERR_PROXY, "The proxy %s:%u answered with something that is not HTTP (%zu "
                     "bytes). Check that HTTPS_PROXY names an HTTP proxy.", conn->client->proxy_host.data,
                     (unsigned)conn->client->proxy_port, conn->in.len);
}

static azo_result azoi_conn_proxy_answer(azoi_conn *conn, size_t head_size) {
    azoi_head head;
    azo_error *error = conn->stream.error;
    if (azoi_head_parse(azoi_view(conn->in.data, head_size), true, &head, NULL) != AZO_OK) {
        return azoi_conn_proxy_odd(conn);
    }
    azoi_log(&conn->client->net, AZO_LOG_DEBUG, "< proxy answered %d", head.status);
    if (head.status == 407) {
        return azoi_fail(error, AZO_ERR_PROXY, "The proxy %s:%u wants a password (HTTP 407). Put user and password "
                         "into HTTPS_PROXY: http://user:password@host:port.",
                         conn->client->proxy_host.data, (unsigned)conn->client->proxy_port);
    }
    if (head.status / 100 != 2) {
        return azoi_fail(error, AZO_ERR_PROXY, "The proxy %s:%u refused a tunnel to %s (HTTP %d). Allow that host "
                         "on the proxy, or except it with NO_PROXY.",
                         conn->client->proxy_host.data, (unsigned)conn->client->proxy_port,
                         conn->origin.host.ptr, head.status);
    }
    if (conn->in.len > head_size) {
        return azoi_fail(error, AZO_ERR_PROXY, "The proxy %s:%u sent %zu bytes that nobody asked for. Check that it "
                         "is an HTTP proxy.", conn->client->proxy_host.data, (unsigned)conn->client->proxy_port,
                         conn->in.len - head_size);
    }
    return AZO_OK;
}

/* Instead of an answer. What the stream says of it knows nothing of a proxy. */
static azo_result azoi_conn_proxy_gone(azoi_conn *conn, int how) {
    azo_error *error = conn->stream.error;
    int sys_errno = error->sys_errno;
    azoi_error_clear(error);
    error->sys_errno = sys_errno;
    return azoi_fail(error, AZO_ERR_PROXY, "The proxy %s:%u closed the connection instead of opening a tunnel (error "
                     "%d). Check HTTPS_PROXY.", conn->client->proxy_host.data, (unsigned)conn->client->proxy_port, how);
}

/* Sends CONNECT and reads the proxy's answer: OK when the tunnel stands. */
static azo_result azoi_conn_proxy(azoi_conn *conn) {
    azo_result r = azoi_conn_send_out(conn);
    if (r != AZO_OK) {
        return r == AZO_PENDING ? r : azoi_conn_proxy_gone(conn, (int)r);
    }
    for (;;) {
        char bytes[1024];
        ptrdiff_t got = azoi_stream_read(&conn->stream, bytes, sizeof bytes);
        if (got <= 0) {
            return got == AZO_IO_AGAIN ? AZO_PENDING : azoi_conn_proxy_gone(conn, (int)got);
        }
        size_t seen = conn->in.len;
        azoi_buf_add(&conn->in, bytes, (size_t)got);
        size_t head_size = azoi_head_size(azoi_buf_view(&conn->in), seen);
        if (head_size > 0) {
            return azoi_conn_proxy_answer(conn, head_size);
        }
        if (conn->in.failed != AZO_OK) {
            return conn->in.failed == AZO_ERR_LIMIT ? azoi_conn_proxy_odd(conn) : azoi_memory(conn->stream.error);
        }
    }
}

static void azoi_conn_ready(azoi_conn *conn) {
    azoi_buf_clear(&conn->in);
    conn->result = AZO_OK;
    conn->state = AZOI_CONN_READY;
    azoi_timer_set(&conn->client->pump, &conn->timer, AZOI_NEVER);
    azoi_pump_queue(&conn->client->pump, conn->user);
    azoi_pump_queue(&conn->client->pump, &conn->node); /* and watch for its end, if the job is not ready yet */
}

/* One phase of opening: OK when there is a next one. */
static azo_result azoi_conn_open_step(azoi_conn *conn) {
    azoi_conn_state phase = conn->state;
    if (phase == AZOI_CONN_OPENING) {
        azoi_source_hush(&conn->client->pump, &conn->source); /* a losing socket may be closed in there */
    }
    azo_result r = phase == AZOI_CONN_OPENING                   ? azoi_stream_connect(&conn->stream)
                   : AZOI_HAS_PROXY && phase == AZOI_CONN_PROXY ? azoi_conn_proxy(conn)
                                                                : azoi_stream_handshake(&conn->stream);
    if (r != AZO_OK) {
        return r;
    }
    if (AZOI_HAS_PROXY && conn->via_proxy && phase == AZOI_CONN_OPENING) {
        conn->state = AZOI_CONN_PROXY;
        return azoi_conn_write_connect(conn);
    }
    if (conn->origin.secure && phase != AZOI_CONN_TLS) {
        conn->state = AZOI_CONN_TLS;
        return azoi_stream_start_tls(&conn->stream, conn->origin.host.ptr, conn->origin.port);
    }
    azoi_conn_ready(conn);
    return AZO_OK;
}

static void azoi_conn_arm(azoi_conn *conn) {
    int64_t due = conn->due;
    azo_watch watches[AZOI_MAX_FDS];
    int32_t timeout_ms = -1;
    (void)azoi_conn_describe(&conn->source, watches, AZOI_MAX_FDS, &timeout_ms);
    if (timeout_ms >= 0 && conn->client->pump.now + timeout_ms < due) {
        due = conn->client->pump.now + timeout_ms;
    }
    azoi_timer_set(&conn->client->pump, &conn->timer, due);
    bool tls_wants_more = conn->state == AZOI_CONN_TLS && !conn->stream.in_blocked && !conn->stream.out_blocked;
    if (tls_wants_more) {
        azoi_pump_queue(&conn->client->pump, &conn->node); /* a turn ends after public-key work */
    }
}

static azo_result azoi_conn_timed_out(azoi_conn *conn) {
    static const char *const phases[] = {"to connect", "for the proxy's tunnel", "for the TLS handshake"};
    return azoi_fail(conn->stream.error, AZO_ERR_TIMEOUT, "No answer from %s:%u within %ld ms while waiting %s. Check "
                     "the endpoint, the network and its firewall.", conn->origin.host.ptr,
                     (unsigned)conn->origin.port, (long)conn->connect_ms, phases[conn->state]);
}

static void azoi_conn_advance_opening(azoi_conn *conn) {
    azo_result r = AZO_OK;
    while (r == AZO_OK && conn->state <= AZOI_CONN_TLS) {
        r = azoi_conn_open_step(conn);
    }
    if (r == AZO_PENDING && conn->client->pump.now >= conn->due) {
        r = azoi_conn_timed_out(conn);
    }
    if (r == AZO_PENDING) {
        azoi_conn_arm(conn);
    } else if (r != AZO_OK) {
        azoi_conn_fail(conn, r);
    }
}

/* ---- after the answer ---- */

static bool azoi_conn_is_quiet(azoi_conn *conn) {
    char byte;
    return azoi_stream_read(&conn->stream, &byte, 1) == AZO_IO_AGAIN && conn->stream.in_blocked;
}

static void azoi_conn_rest(azoi_conn *conn) {
    azo_client *c = conn->client;
    if (c->idle_count >= AZO_MAX_IDLE_CONNECTIONS) {
        azoi_conn_free(AZOI_OF(c->idle.prev, azoi_conn, link)); /* the oldest */
    }
    azoi_link_leave(&conn->link);
    azoi_list_add(c->idle.next, &conn->link);
    c->idle_count++;
    conn->state = AZOI_CONN_IDLE;
    conn->due = c->pump.now + AZOI_IDLE_MS;
    azoi_timer_set(&c->pump, &conn->timer, conn->due);
    azoi_conn_wake_capped(c);
}

static void azoi_conn_advance_drain(azoi_conn *conn) {
    azoi_buf *input = &conn->client->input; /* its job has read into it, so it is there */
    ptrdiff_t got = azoi_stream_read(&conn->stream, input->data, AZOI_READ_SIZE);
    azo_result r = AZO_PENDING;
    if (got > 0) {
        azo_str in = azoi_view(input->data, (size_t)got);
        while (r == AZO_PENDING && in.len > 0) {
            azo_str piece;
            r = azoi_body_feed(&conn->body, &in, &piece, NULL);
        }
        if (r == AZO_OK && in.len == 0) {
            azoi_conn_rest(conn);
            return;
        }
    }
    /* More than one read's worth of a body that nobody wants costs more than a new connection. */
    if (got != AZO_IO_AGAIN || !conn->stream.in_blocked || conn->client->pump.now >= conn->due) {
        azoi_conn_free(conn);
    }
}

static void azoi_conn_advance(azoi_conn *conn) {
    if (conn->state <= AZOI_CONN_TLS) {
        azoi_conn_advance_opening(conn);
    } else if (conn->state == AZOI_CONN_READY && !azoi_conn_is_quiet(conn)) { /* its job still waits for a token */
        azoi_conn_fail(conn, AZO_ERR_CLOSED);
    } else if (conn->state == AZOI_CONN_DRAIN) {
        azoi_conn_advance_drain(conn);
    } else if (conn->state == AZOI_CONN_IDLE && conn->client->pump.now >= conn->due) {
        azoi_conn_free(conn);
    }
}

/* Tells the loop what the connection waits for. */
static azo_result azoi_conn_sync(azoi_conn *conn) {
    if (azoi_source_sync(&conn->client->pump, &conn->source)) {
        return AZO_OK;
    }
    return azoi_fail(conn->stream.error, AZO_ERR_MEMORY, "The event loop could not watch a connection to %s. Look at "
                     "what azo_loop.watch answered.", conn->origin.host.ptr);
}

/* The pump's turn of a connection; `conn` may be gone after the inner one. */
static void azoi_conn_turn(azoi_node *node) {
    azoi_conn *conn = AZOI_OF(node, azoi_conn, node);
    azo_client *c = conn->client;
    uint32_t id = conn->source.id;
    azoi_conn_advance(conn);
    /* While a job drives it, its wishes are the job's to tell. */
    bool mine = azoi_source_find(&c->pump, id) != NULL && conn->state != AZOI_CONN_BUSY;
    if (mine && azoi_conn_sync(conn) != AZO_OK) {
        azoi_conn_fail(conn, AZO_ERR_MEMORY);
    }
}

/* ---- what jobs use ---- */

static bool azoi_conn_serves(const azoi_conn *conn, const azoi_origin *origin) {
    return conn->origin.port == origin->port && conn->origin.secure == origin->secure &&
           conn->origin.direct == origin->direct && azoi_same_ci(conn->origin.host, origin->host);
}

static void azoi_conn_assign(azoi_conn *conn, azoi_node *user, azo_error *error) {
    conn->user = user;
    conn->stream.error = error;
}

/* Of the idle connections for an origin (NULL: any) the one that was used last; NULL: none. */
static azoi_conn *azoi_conn_idle(azo_client *c, const azoi_origin *origin) {
    for (azoi_link *at = c->idle.next; at != &c->idle; at = at->next) {
        azoi_conn *conn = AZOI_OF(at, azoi_conn, link);
        if (origin == NULL || azoi_conn_serves(conn, origin)) {
            return conn;
        }
    }
    return NULL;
}

/* An idle connection on which, as far as one can tell, nothing came since its answer; NULL: none. */
static azoi_conn *azoi_conn_take_idle(azo_client *c, const azoi_origin *origin, azoi_node *user, azo_error *error) {
    azoi_conn *conn;
    while ((conn = azoi_conn_idle(c, origin)) != NULL) {
        conn->stream.in_blocked = false;
        conn->stream.out_blocked = false;
        /* Hardly a server closes in the millisecond of its answer: to ask then costs more than to send again. A read
         * takes a whole record, so what followed the answer in it was seen, and what was read ahead is looked at.
         * Without TLS anybody may have put an answer there that nobody has asked for. */
        bool fresh = conn->origin.secure && conn->due == c->pump.now + AZOI_IDLE_MS && conn->stream.ahead_len == 0;
        if (c->pump.now < conn->due && (fresh || azoi_conn_is_quiet(conn))) {
            azoi_link_leave(&conn->link);
            azoi_list_add(&c->conns, &conn->link);
            c->idle_count--;
            conn->state = AZOI_CONN_READY;
            azoi_timer_set(&c->pump, &conn->timer, AZOI_NEVER);
            conn->stale_able = true;
            azoi_conn_assign(conn, user, error);
            break;
        }
        azoi_conn_free(conn);
    }
    return conn;
}

/* What else is idle for this origin is no better than the one that was just found dead. NULL: every origin. */
static void azoi_conn_drop_idle(azo_client *c, const azoi_origin *origin) {
    azoi_conn *conn;
    while ((conn = azoi_conn_idle(c, origin)) != NULL) {
        azoi_conn_free(conn);
    }
}

/* Below max_connections, if need be after closing idle ones. */
static bool azoi_conn_make_room(azo_client *c) {
    azoi_conn *conn;
    while (c->counted_conns >= c->max_connections && (conn = azoi_conn_idle(c, NULL)) != NULL) {
        azoi_conn_free(conn);
    }
    return c->counted_conns < c->max_connections;
}

static azoi_conn *azoi_conn_alloc(azo_client *c, const azoi_origin *origin) {
    azoi_conn *conn = (azoi_conn *)azoi_alloc(&c->allocator, sizeof *conn + origin->host.len + 1);
    if (conn == NULL) {
        return NULL;
    }
    conn->client = c;
    conn->result = AZO_PENDING;
    conn->origin = *origin;
    conn->origin.host.ptr = (char *)memcpy(conn + 1, origin->host.ptr, origin->host.len); /* zeroed: a NUL follows */
    conn->node.advance = azoi_conn_turn;
    conn->source.happened = azoi_conn_happened;
    conn->source.describe = azoi_conn_describe;
    azoi_buf_init(&conn->out, &c->allocator, SIZE_MAX / 2, true);
    azoi_buf_init(&conn->in, &c->allocator, AZOI_READ_SIZE, true);
    azoi_list_add(&c->conns, &conn->link);
    if (!azoi_timer_attach(&c->pump, &conn->timer, &conn->node) || !azoi_source_attach(&c->pump, &conn->source)) {
        azoi_conn_free(conn);
        return NULL;
    }
    return conn;
}

/* Starts a connection; its user is woken when it is READY or FAILED. */
static azo_result azoi_conn_open(azo_client *c, const azoi_origin *origin, int32_t connect_ms, bool counted,
                                 azoi_node *user, azo_error *error, azoi_conn **out) {
    azoi_conn *conn = azoi_conn_alloc(c, origin);
    if (conn == NULL) {
        return azoi_memory(error);
    }
    conn->counted = counted;
    c->counted_conns += counted;
    conn->connect_ms = connect_ms;
    conn->due = azoi_deadline(c->pump.now, connect_ms);
    conn->via_proxy = azoi_wants_proxy(c, origin);
    conn->user = user;
    const char *host = conn->via_proxy ? c->proxy_host.data : conn->origin.host.ptr;
    uint16_t port = conn->via_proxy ? c->proxy_port : conn->origin.port;
    azo_result r = azoi_stream_open(&conn->stream, &c->net, host, port, conn->source.id, error);
    if (r != AZO_OK) {
        azoi_conn_free(conn);
        return r;
    }
    azoi_pump_queue(&c->pump, &conn->node);
    *out = conn;
    return AZO_OK;
}

/* The job is done with it. One that nothing was sent on serves the next job in any case. */
static void azoi_conn_release(azoi_conn *conn, azoi_release how) {
    azo_client *c = conn->client;
    azoi_conn_assign(conn, NULL, NULL);
    conn->wants = false;
    azoi_buf_clear(&conn->out);
    if (AZO_MAX_IDLE_CONNECTIONS == 0 || (how == AZOI_RELEASE_KILL && conn->state != AZOI_CONN_READY)) {
        azoi_conn_free(conn);
        return;
    }
    if (how == AZOI_RELEASE_DRAIN) {
        conn->state = AZOI_CONN_DRAIN;
        conn->due = c->pump.now + AZOI_DRAIN_MS;
        azoi_timer_set(&c->pump, &conn->timer, conn->due);
        azoi_pump_queue(&c->pump, &conn->node);
        return;
    }
    azoi_conn_rest(conn);
    (void)azoi_source_sync(&c->pump, &conn->source); /* only takes wishes back */
}

/* >>attempts
 *
 * One request as attempts: token and connection, head and body out, head and body in, again if it is worth it. What
 * the answer means is the business of job->ops. */

enum {
    AZOI_TURN_BYTES = 64 * 1024, /* a fast stream must not starve the others */
    AZOI_MAX_INTERIM = 16,       /* 1xx heads before the answer */
    AZOI_REFUSAL_BYTES = AZO_MAX_TOKEN_BYTES + 16384 /* what is kept of an error body, or of one with a token */
};

/* ---- lists ---- */

static void azoi_wait_leave(azo_request *job) {
    if (azoi_linked(&job->waiting)) {
        azoi_link_leave(&job->waiting);
        if (azoi_list_empty(&job->slot->waiting)) {
            azoi_pump_queue(&job->slot->client->pump, &job->slot->node); /* a provider hears that nobody waits */
        }
    }
}

static void azoi_cap_leave(azo_request *job) {
    if (azoi_linked(&job->capped)) {
        azoi_link_leave(&job->capped);
        azoi_conn_wake_capped(job->client); /* whatever woke this one may serve the next */
    }
}

static void azoi_job_wake(azo_request *job) {
    azoi_pump_queue(&job->client->pump, &job->node);
}

/* ---- the end of a job ---- */

static void azoi_job_drop_conn(azo_request *job, azoi_release how) {
    if (job->conn != NULL) {
        azoi_conn *conn = job->conn;
        job->conn = NULL;
        azoi_conn_release(conn, how);
    }
}

/* It waits for nothing and holds nothing any more. */
static void azoi_job_let_go(azo_request *job) {
    azoi_wait_leave(job);
    azoi_cap_leave(job);
    azoi_job_drop_conn(job, AZOI_RELEASE_KILL);
}

static azo_stage azoi_job_stage(const azo_request *job) {
    static const azo_stage stages[] = {AZO_STAGE_CONNECT, AZO_STAGE_SEND, AZO_STAGE_HEAD, AZO_STAGE_BODY,
                                       AZO_STAGE_WAIT, AZO_STAGE_WAIT}; /* by state */
    if (job->state == AZOI_JOB_PREPARE && !job->authorized && (azoi_linked(&job->waiting) || job->conn == NULL)) {
        return AZO_STAGE_TOKEN;
    }
    bool shakes = job->conn != NULL && job->conn->state == AZOI_CONN_TLS;
    return shakes ? AZO_STAGE_TLS : stages[job->state];
}

static azo_str azoi_request_id(azo_str headers) {
    azo_str id = azoi_header(headers, "apim-request-id");
    return id.len > 0 ? id : azoi_header(headers, "x-request-id");
}

/* What the machine itself knows about a failure. */
static void azoi_job_annotate(azo_request *job) {
    azo_error *e = &job->error;
    if (job->attempts > 0) {
        e->attempts = job->attempts;
    }
    if (job->head.status == 0) {
        return;
    }
    e->http_status = job->head.status;
    if (e->request_id[0] == '\0') {
        azoi_clean(e->request_id, sizeof e->request_id, azoi_request_id(job->head.headers));
    }
    if (e->retry_after_ms < 0) {
        e->retry_after_ms = azoi_retry_after(job->head.headers, job->head.status, azoi_net_unix(&job->client->net));
    }
}

/* Cuts a job that is done from its client: what is left is the outcome, for azo_X_end. */
static void azoi_job_orphan(azo_request *job) {
    azoi_link_leave(&job->finished);
    azoi_timer_detach(&job->client->pump, &job->timer);
    azoi_link_leave(&job->node.link);
    azoi_link_leave(&job->link);
    job->spares = job->allocator;
    job->client = NULL;
    job->slot = NULL;
}

static void azoi_job_free(azo_request *job) {
    if (job->client != NULL) {
        azoi_job_let_go(job);
    }
    if (job->ops->drop != NULL) {
        job->ops->drop(job);
    }
    azoi_buf_free(&job->head_text);
    azoi_buf_free(&job->body);
    if (job->client != NULL) {
        azoi_job_orphan(job);
    }
    azo_allocator allocator = job->allocator;
    size_t texts = (size_t)(job->spec.origin.host.ptr - (char *)job); /* among them header values and a client secret */
    azoi_wipe((char *)job + texts, job->block_size - texts);
    azoi_free(&allocator, job, job->block_size);
}

static void azoi_job_finish(azo_request *job, azo_result result) {
    azo_client *c = job->client;
    if (result != AZO_OK) {
        if (job->error.code == AZO_OK) {
            (void)azoi_fail(&job->error, result, "The request failed (error %d). Report this with the log.",
                            (int)result);
        }
        if (job->error.stage == AZO_STAGE_SETUP) {
            job->error.stage = azoi_job_stage(job);
        }
        azoi_job_annotate(job);
        azoi_log(&c->net, AZO_LOG_INFO, "* failed: %s", job->error.message);
    }
    azoi_job_let_go(job);
    job->state = AZOI_JOB_DONE;
    job->result = result;
    azoi_timer_set(&c->pump, &job->timer, AZOI_NEVER);
    azoi_link_leave(&job->node.link);
    if (job->ops->finish != NULL) {
        job->ops->finish(job);
    }
    if (job->ops->kind == AZOI_KIND_FETCH) {
        job->freed = true;
    } else if (!job->freed && !job->blocking) {
        azoi_list_add(&c->finished, &job->finished);
    }
    if (job->freed && !job->in_turn) {
        azoi_job_free(job);
    }
}

/* ---- user callbacks ---- */

static void azoi_callback_enter(azo_request *job) {
    job->delivered = true;
    job->client->in_callback = true;
}

/* What cancels the request is explained where it ends. */
static azo_result azoi_callback_leave(azo_request *job, int answer) {
    job->client->in_callback = false;
    job->cancelled = job->cancelled || job->client->closing || answer == AZO_STOP;
    if (job->cancelled) {
        return AZO_ERR_CANCELLED;
    }
    if (answer == AZO_PAUSE && job->blocking) {
        return azoi_fail(&job->error, AZO_ERR_STATE, "A callback answered AZO_PAUSE (%d) in a blocking call, which "
                         "nobody could resume. Use the begin form, or answer AZO_GO_ON.", (int)AZO_PAUSE);
    }
    job->paused = job->paused || answer == AZO_PAUSE;
    return job->paused ? AZO_PENDING : AZO_OK;
}

/* ---- retry ---- */

static void azoi_job_start_over(azo_request *job) {
    azoi_error_clear(&job->error);
    azoi_buf_clear(&job->head_text);
    azoi_buf_clear(&job->body);
    memset(&job->head, 0, sizeof job->head);
    job->authorized = false;
    job->conn_failed = false;
    job->complete = false;
    job->body_whole = false;
    job->body_sent = 0;
    job->interim = 0;
    job->state = AZOI_JOB_PREPARE;
    job->due = AZOI_NEVER;
    if (job->ops->restart != NULL) {
        job->ops->restart(job);
    }
}

static bool azoi_job_is_success(const azo_request *job) {
    return job->head.status / 100 == 2;
}

static bool azoi_job_worth_retrying(const azo_request *job, azo_result result) {
    if (job->head.status != 0 && !azoi_job_is_success(job)) {
        azo_str advice = azoi_header(job->head.headers, "x-should-retry");
        if (azoi_equal_ci(advice, "true") || azoi_equal_ci(advice, "false")) {
            return azoi_equal_ci(advice, "true");
        }
        bool worth = azoi_retries(job->spec.policy, job->head.status);
        if (worth || job->body_whole) {
            return worth;
        }
    }
    switch (result) {
    case AZO_ERR_RESOLVE:
    case AZO_ERR_CONNECT:
    case AZO_ERR_TIMEOUT:
    case AZO_ERR_CLOSED:
    case AZO_ERR_RATE_LIMIT: /* from inside a stream, before its first delta */
    case AZO_ERR_SERVICE:
        return true;
    default:
        return false;
    }
}

/* How long to wait before the next attempt; false: it would be too long, so the failure stands. */
static bool azoi_job_wait_time(azo_request *job, int32_t *wait_ms) {
    azo_client *c = job->client;
    const azoi_policy *policy = job->spec.policy;
    int32_t asked = job->error.retry_after_ms;
    int retry = job->spec.max_retries - job->retries_left;
    int32_t own = job->head.status == 410 && policy->gone_wait > 0
                      ? policy->gone_wait
                      : azoi_backoff(policy, retry, azoi_net_random(&c->net));
    *wait_ms = asked > 0 ? asked : own;
    if (asked > 0 && c->max_retry_wait_ms != AZO_OFF && asked > c->max_retry_wait_ms) {
        return false;
    }
    return job->total_by == AZOI_NEVER || c->pump.now + *wait_ms < job->total_by;
}

/* A connection that had been open for a while and was closed before a byte of the answer came: the server's idle
 * timeout and our request have crossed. One more connection is free. */
static bool azoi_job_was_stale(const azo_request *job, azo_result result) {
    return result == AZO_ERR_CLOSED && job->conn != NULL && job->conn->stale_able && !job->fresh_only;
}

static azo_result azoi_job_failed(azo_request *job, azo_result result) {
    azo_client *c = job->client;
    if (job->delivered || job->final) {
        return result;
    }
    if (azoi_job_was_stale(job, result)) {
        azoi_log(&c->net, AZO_LOG_INFO, "* the idle connection had been closed; opening another");
        azoi_job_drop_conn(job, AZOI_RELEASE_KILL);
        azoi_conn_drop_idle(c, &job->spec.origin);
        job->attempts -= job->state >= AZOI_JOB_SEND;
        azoi_job_start_over(job);
        job->fresh_only = true;
        azoi_job_wake(job);
        return AZO_PENDING;
    }
    azoi_job_annotate(job);
    int32_t wait_ms;
    if (job->retries_left <= 0 || !azoi_job_worth_retrying(job, result) || !azoi_job_wait_time(job, &wait_ms)) {
        return result;
    }
    job->retries_left--;
    azoi_log(&c->net, AZO_LOG_INFO, "* trying again in %ld ms, after: %s", (long)wait_ms, job->error.message);
    azoi_job_drop_conn(job, AZOI_RELEASE_KILL);
    azoi_wait_leave(job);
    job->fresh_only = false;
    job->state = AZOI_JOB_BACKOFF;
    job->due = c->pump.now + wait_ms;
    return AZO_PENDING;
}

/* ---- time limits ---- */

static azo_result azoi_job_timed_out(azo_request *job, const char *limit, int32_t ms) {
    static const char *const doing[] = {"being set up", "waiting for its token", "connecting", "in the TLS handshake",
                                        "sending", "waiting for the answer", "reading the answer",
                                        "waiting to try again"};
    job->error.stage = azoi_job_stage(job);
    return azoi_fail(&job->error, AZO_ERR_TIMEOUT, "The request was still %s when %s of %ld ms ended. Try again, "
                     "or give %s more time.", doing[job->error.stage], limit, (long)ms, limit);
}

/* PENDING, or a limit that has passed. */
static azo_result azoi_job_check_time(azo_request *job) {
    int64_t now = job->client->pump.now;
    if (now >= job->total_by) {
        job->final = true;
        azoi_error_clear(&job->error); /* of an attempt before */
        return azoi_job_timed_out(job, "total_timeout_ms", job->spec.total_ms);
    }
    if (now < job->due || job->paused || job->state == AZOI_JOB_BACKOFF) {
        return AZO_PENDING;
    }
    return job->state == AZOI_JOB_BODY ? azoi_job_timed_out(job, "idle_timeout_ms", job->spec.idle_ms)
                                       : azoi_job_timed_out(job, "first_byte_timeout_ms", job->spec.first_byte_ms);
}

static void azoi_job_arm(azo_request *job) {
    int64_t due = job->paused || job->due > job->total_by ? job->total_by : job->due;
    /* A timer that fires too early looks again: cheaper than moving it with every event of a stream. */
    if (due < job->timer.due) {
        azoi_timer_set(&job->client->pump, &job->timer, due);
    }
}

/* ---- PREPARE: a join of token and connection ---- */

/* Ahead of the token, a place under max_connections is only taken where another stays free. */
static bool azoi_job_may_open(azo_request *job) {
    azo_client *c = job->client;
    if (job->ops->kind == AZOI_KIND_FETCH) {
        return true; /* requests that wait for it may hold every place */
    }
    if (!job->authorized && c->counted_conns >= c->max_connections - 1) {
        return false;
    }
    bool first = azoi_list_empty(&c->capped) || c->capped.next == &job->capped;
    if (first && azoi_conn_make_room(c)) {
        azoi_cap_leave(job);
        return true;
    }
    azoi_list_add(&c->capped, &job->capped);
    return false;
}

static azo_result azoi_job_connect(azo_request *job) {
    azo_client *c = job->client;
    if (job->conn == NULL && !job->fresh_only) {
        job->conn = azoi_conn_take_idle(c, &job->spec.origin, &job->node, &job->error);
        if (job->conn != NULL) {
            azoi_cap_leave(job);
        }
    }
    if (job->conn == NULL && (job->authorized || !job->conn_failed) && azoi_job_may_open(job)) {
        azo_result r = azoi_conn_open(c, &job->spec.origin, job->spec.connect_ms, job->ops->kind != AZOI_KIND_FETCH,
                                      &job->node, &job->error, &job->conn);
        if (r != AZO_OK) {
            return r;
        }
    }
    return job->conn != NULL ? job->conn->result : AZO_PENDING;
}

static azo_result azoi_job_authorize(azo_request *job) {
    azo_result r = job->authorized || job->ops->authorize == NULL ? AZO_OK : job->ops->authorize(job);
    if (r < 0) {
        job->final = true; /* the fetch had its own retries */
    }
    job->authorized = r == AZO_OK;
    return r;
}

/* OK when both are there. A connection that fails ahead of the token was only an attempt to save time: if the token
 * comes it is opened again, and if that fails too, the token's error is the better one. */
static azo_result azoi_job_prepare(azo_request *job) {
    azo_result auth = azoi_job_authorize(job);
    if (auth < 0 || job->spec.origin.host.len == 0) {
        return auth;
    }
    azo_result conn = azoi_job_connect(job);
    if (conn < 0 && auth == AZO_PENDING) {
        azoi_job_drop_conn(job, AZOI_RELEASE_KILL);
        azoi_error_clear(&job->error);
        job->conn_failed = true;
        return AZO_PENDING;
    }
    if (conn == AZO_OK && auth == AZO_PENDING) {
        job->conn->stale_able = true;
    }
    return auth == AZO_OK ? conn : auth;
}

/* ---- SEND ---- */

/* `secret`: the values of these are not shown, here and where a server sends them back (x-ms-client-request-id). */
static void azoi_log_headers(azoi_net *net, char direction, azo_str lines, azo_str secret) {
    azo_str name;
    azo_str value;
    while (azoi_header_next(&lines, &name, &value)) {
        bool hide = azoi_equal_ci(name, "set-cookie") || azoi_header_named(secret, name).ptr != NULL;
        azo_str shown = hide ? azoi_view("<hidden>", 8) : value;
        azoi_log(net, AZO_LOG_DEBUG, "%c %.*s: %.*s", direction, (int)name.len, name.ptr, (int)shown.len, shown.ptr);
    }
}

/* `signature`: the header lines that carry the credentials. */
static void azoi_job_log_head(azo_request *job, azo_str signature) {
    azoi_net *net = &job->client->net;
    if (AZOI_HAS_LOG && net->logger.line != NULL) {
        azo_str target = job->spec.target;
        if (job->ops->kind == AZOI_KIND_RAW) {
            target.len = azoi_find(target, '?'); /* the query is the user's, and may hold a key */
        }
        azoi_log(net, AZO_LOG_DEBUG, "> %s %.*s%s HTTP/1.1", job->spec.method.ptr, (int)target.len, target.ptr,
                 target.len < job->spec.target.len ? "?<hidden>" : "");
        azoi_log(net, AZO_LOG_DEBUG, "> Host: %s", job->spec.origin.host.ptr);
        azoi_log_headers(net, '>', job->spec.headers, azoi_view(NULL, 0));
        azoi_log_headers(net, '>', job->spec.own_headers, job->spec.own_headers);
        azoi_log_headers(net, '>', signature, signature);
        azoi_log(net, AZO_LOG_DEBUG, "> (%lu bytes of body)", (unsigned long)job->spec.body.len);
    }
}

/* The next piece of the body behind what is in conn->out. Together they fill one TLS record, no more. */
static azo_result azoi_job_fill(azo_request *job) {
    azoi_buf *out = &job->conn->out;
    uint64_t left = job->spec.body.len - job->body_sent;
    size_t room = out->len < AZOI_READ_SIZE ? AZOI_READ_SIZE - out->len : 0;
    size_t want = left < room ? (size_t)left : room;
    if (want == 0 || !azoi_buf_reserve(out, want)) {
        return azoi_buf_failed(out, &job->error, "The request");
    }
    ptrdiff_t got = (ptrdiff_t)want;
    if (job->spec.read_body == NULL) {
        memcpy(out->data + out->len, job->spec.body.ptr + job->body_sent, want);
    } else {
        job->client->in_callback = true;
        got = job->spec.read_body(job->body_sent, out->data + out->len, want, job->spec.read_user_data);
        job->client->in_callback = false;
    }
    if (got <= 0 || (size_t)got > want) {
        job->final = true;
        return azoi_fail(&job->error, AZO_ERR_ARGUMENT, "read_body gave %ld bytes at offset %llu of %llu. Make it "
                         "deliver the whole of body_len.", (long)got, (unsigned long long)job->body_sent,
                         (unsigned long long)job->spec.body.len);
    }
    out->len += (size_t)got;
    out->data[out->len] = '\0';
    job->body_sent += (uint64_t)got;
    return AZO_OK;
}

static azo_result azoi_job_begin_send(azo_request *job) {
    azoi_conn *conn = job->conn;
    azoi_buf *out = &conn->out;
    azoi_buf_str(out, job->spec.method);
    azoi_buf_char(out, ' ');
    azoi_buf_str(out, job->spec.target);
    azoi_buf_puts(out, " HTTP/1.1\r\nHost: ");
    azoi_host_put(out, job->spec.origin.host, job->spec.origin.port, job->spec.origin.secure ? 443 : 80);
    azoi_buf_puts(out, "\r\n");
    if (azoi_header(job->spec.own_headers, "user-agent").ptr == NULL) {
        azoi_header_add(out, "User-Agent", azo_s("azopenai.h/" AZO_VERSION));
    }
    azoi_buf_str(out, job->spec.headers);
    azoi_buf_str(out, job->spec.own_headers);
    if (job->spec.has_body) {
        azoi_buf_puts(out, "Content-Length: ");
        azoi_buf_count(out, job->spec.body.len);
        azoi_buf_puts(out, "\r\n");
    }
    size_t signature = out->len;
    job->ops->sign(job, out);
    azoi_buf_puts(out, "\r\n");
    azo_result r = azoi_buf_failed(out, &job->error, "The request");
    if (r != AZO_OK) {
        return r;
    }
    azoi_job_log_head(job, azoi_view(out->data + signature, out->len - 2 - signature)); /* without the empty line */
    job->state = AZOI_JOB_SEND;
    job->attempts++;
    job->due = azoi_deadline(job->client->pump.now, job->spec.first_byte_ms);
    conn->state = AZOI_CONN_BUSY;
    return azoi_job_fill(job);
}

/* OK when all is sent. PENDING also when the turn is over, so that an early answer is seen and others have theirs. */
static azo_result azoi_job_send(azo_request *job) {
    for (size_t total = 0;;) {
        total += job->conn->out.len;
        azo_result r = azoi_conn_send_out(job->conn);
        if (r != AZO_OK) {
            return r;
        }
        job->due = azoi_deadline(job->client->pump.now, job->spec.first_byte_ms);
        if (job->body_sent == job->spec.body.len) {
            job->state = AZOI_JOB_HEAD;
            return AZO_OK;
        }
        r = azoi_job_fill(job);
        if (r != AZO_OK) {
            return r;
        }
        if (total >= AZOI_TURN_BYTES) {
            azoi_job_wake(job);
            return AZO_PENDING;
        }
    }
}

/* ---- HEAD and BODY ---- */

/* The answer that stands is whole (or as whole as it needs to be). */
static azo_result azoi_job_answered(azo_request *job) {
    azoi_job_drop_conn(job, !job->keep_conn  ? AZOI_RELEASE_KILL
                            : job->body_whole ? AZOI_RELEASE_REUSE
                                              : AZOI_RELEASE_DRAIN);
    if (azoi_job_is_success(job)) {
        return job->ops->end != NULL ? job->ops->end(job) : AZO_OK;
    }
    if (job->head.status == 401 && !job->replayed && job->ops->challenge != NULL) {
        azo_result r = job->ops->challenge(job);
        if (r == AZO_OK) {
            job->replayed = true;
            azoi_job_start_over(job);
            azoi_job_wake(job);
            return AZO_PENDING;
        }
        if (r != AZO_ERR_UNAUTHORIZED) {
            return r;
        }
    }
    return job->ops->refuse(job);
}

static azo_result azoi_job_redirected(azo_request *job) {
    azo_str location = azoi_header(job->head.headers, "location");
    azo_str target;
    bool relative = !azoi_location_host(location, &target);
    if (target.len == 0) {
        target = azo_s(relative && location.len > 0 ? "the same host" : "an address that cannot be read");
    }
    return azoi_fail(&job->error, AZO_ERR_REDIRECT, "%s answered with a redirect to %.*s (HTTP %d), which is not "
                     "followed. Put the right address into the endpoint.", job->spec.origin.host.ptr,
                     (int)(target.len < 127 ? target.len : 127), target.ptr, job->head.status);
}

static void azoi_job_log_answer(azo_request *job, const azoi_head *head) {
    azoi_net *net = &job->client->net;
    if (AZOI_HAS_LOG && net->logger.line != NULL) {
        azoi_log(net, AZO_LOG_DEBUG, "< HTTP %d %.*s", head->status, (int)head->reason.len, head->reason.ptr);
        azoi_log_headers(net, '<', head->headers, job->spec.own_headers);
    }
}

/* Servers and gateways like to quote what they were sent. */
static void azoi_job_hide(const azo_request *job, azoi_buf *text) {
    azoi_buf_hide(text, azoi_buf_view(&job->client->identity.secret));
    if (job->slot != NULL) {
        azoi_buf_hide(text, azoi_buf_view(&job->slot->token));
    }
}

static azo_result azoi_job_take_head(azo_request *job) {
    azoi_head head;
    azo_result r = azoi_head_parse(azoi_buf_view(&job->head_text), azoi_equal(job->spec.method, "HEAD"), &head,
                                   &job->error);
    if (r != AZO_OK) {
        return r;
    }
    azoi_job_log_answer(job, &head);
    if (head.status < 200) {
        azoi_buf_clear(&job->head_text);
        if (++job->interim <= AZOI_MAX_INTERIM) {
            return AZO_OK;
        }
        return azoi_fail(&job->error, AZO_ERR_HTTP, "The peer sent more than %d interim answers (the last was HTTP "
                         "%d). Check what stands between here and the service.", (int)AZOI_MAX_INTERIM, head.status);
    }
    job->head = head;
    azoi_net_told(&job->client->net, job->client->pump.now, job->head.headers, job->spec.origin.secure);
    job->keep_conn = job->head.keep_alive && job->state == AZOI_JOB_HEAD; /* an early answer leaves half a request */
    job->state = AZOI_JOB_BODY;
    azoi_body_init(&job->conn->body, &job->head);
    job->body_whole = job->head.framing == AZOI_FRAMING_NONE;
    return job->head.status / 100 == 3 && job->head.status != 304 ? azoi_job_redirected(job) : AZO_OK;
}

/* Takes bytes of the head off *in. */
static azo_result azoi_job_feed_head(azo_request *job, azo_str *in) {
    azoi_buf *text = &job->head_text;
    size_t before = text->len;
    azoi_buf_collect(text, *in);
    size_t size = azoi_head_size(azoi_buf_view(text), before);
    if (size == 0) {
        *in = azoi_skip(*in, in->len);
        return azoi_buf_failed(text, &job->error, "The head of the answer (max_header_bytes)");
    }
    text->failed = AZO_OK; /* too long only with what follows the head */
    text->len = size;
    text->data[size] = '\0';
    azoi_job_hide(job, text); /* before anything is logged or put into an error */
    *in = azoi_skip(*in, size - before);
    return azoi_job_take_head(job);
}

static azo_result azoi_job_collect(azo_request *job, azo_str *piece) {
    size_t take = piece->len;
    if (!azoi_job_is_success(job) || job->spec.token_body) {
        size_t most = job->body.max < AZOI_REFUSAL_BYTES ? job->body.max : (size_t)AZOI_REFUSAL_BYTES;
        size_t room = job->body.len < most ? most - job->body.len : 0;
        take = take < room ? take : room;
    } else if (job->body.cap == 0 && job->head.framing == AZOI_FRAMING_LENGTH && job->head.length < 1024 * 1024 &&
               job->head.length <= job->body.max) {
        (void)azoi_buf_reserve(&job->body, (size_t)job->head.length); /* one allocation for the usual answer */
    }
    azoi_buf_collect(&job->body, azoi_view(piece->ptr, take));
    *piece = azoi_skip(*piece, piece->len);
    return azoi_buf_failed(&job->body, &job->error, "The answer (max_response_bytes)");
}

static azo_result azoi_job_deliver(azo_request *job, azo_str *piece) {
    bool collects = job->ops->data == NULL || !azoi_job_is_success(job);
    return collects ? azoi_job_collect(job, piece) : job->ops->data(job, piece);
}

/* Takes bytes of the body off *in until they are used up (OK) or the job pauses (PENDING). Where the answer is
 * complete ahead of its body, the rest is only decoded, to find its end. */
static azo_result azoi_job_feed_body(azo_request *job, azo_str *in) {
    while (!job->body_whole && in->len > 0) {
        azo_str piece;
        azo_result r = azoi_body_feed(&job->conn->body, in, &piece, job->complete ? NULL : &job->error);
        if (r < 0) {
            job->keep_conn = false;
            return job->complete ? AZO_OK : r;
        }
        job->body_whole = r == AZO_OK;
        r = piece.len > 0 && !job->complete ? azoi_job_deliver(job, &piece) : AZO_OK;
        if (r == AZO_PENDING && piece.len > 0) {
            azoi_body_unfeed(&job->conn->body, in, piece.len);
            job->body_whole = false;
        }
        if (r != AZO_OK) {
            return r;
        }
    }
    if (in->len > 0) {
        job->keep_conn = false; /* the peer sent more than its answer */
    }
    return AZO_OK;
}

/* Bytes of the answer. OK: more may be read. PENDING: paused. The end of the answer is in the job's flags. */
static azo_result azoi_job_feed(azo_request *job, azo_str *in) {
    job->conn->stale_able = false;
    while (job->state != AZOI_JOB_BODY && in->len > 0) {
        azo_result r = azoi_job_feed_head(job, in);
        if (r != AZO_OK) {
            return r;
        }
    }
    if (job->state != AZOI_JOB_BODY) {
        return AZO_OK;
    }
    job->due = azoi_deadline(job->client->pump.now, job->spec.idle_ms);
    return azoi_job_feed_body(job, in);
}

/* The connection ended. */
static azo_result azoi_job_eof(azo_request *job, azo_result how) {
    bool orderly = how == AZO_OK;
    if (job->state == AZOI_JOB_BODY && orderly && azoi_body_eof(&job->conn->body, NULL) == AZO_OK) {
        job->body_whole = true;
        job->keep_conn = false;
        return AZO_OK;
    }
    if (!orderly && how != AZO_ERR_CLOSED) {
        return how; /* the stream has explained it */
    }
    if (job->state == AZOI_JOB_BODY && job->delivered) {
        azoi_error_clear(&job->error);
        return azoi_fail(&job->error, AZO_ERR_STREAM, "The connection was cut in the middle of the answer (HTTP %d). "
                         "What came before is in the reply; ask again for the rest.", job->head.status);
    }
    return azoi_fail(&job->error, AZO_ERR_CLOSED, "%s closed the connection %s. Try again; if it stays so, look at "
                     "proxies and firewalls in between.", job->spec.origin.host.ptr,
                     job->state == AZOI_JOB_BODY ? "in the middle of its answer" : "without an answer");
}

static bool azoi_job_has_answer(const azo_request *job) {
    return job->body_whole || job->complete;
}

/* What was left when the job paused: first what job->ops keeps, then the bytes. */
static azo_result azoi_job_feed_leftovers(azo_request *job) {
    azoi_buf *left = &job->conn->in;
    azo_str in = azoi_buf_view(left);
    azo_str nothing = azoi_view(in.ptr, 0);
    azo_result r = job->ops->data(job, &nothing);
    if (r == AZO_OK) {
        r = azoi_job_feed_body(job, &in);
        azoi_buf_drop(left, left->len - in.len);
    }
    return r;
}

/* Reads until the socket has nothing more (PENDING), the turn is over (PENDING, queued again), or the answer is
 * whole (OK). */
static azo_result azoi_job_receive(azo_request *job) {
    azo_client *c = job->client;
    azoi_buf_clear(&c->input); /* with an earlier failure, if there was one */
    if (!azoi_buf_reserve(&c->input, AZOI_READ_SIZE)) {
        return azoi_memory(&job->error);
    }
    for (size_t total = 0; !azoi_job_has_answer(job);) {
        if (total >= AZOI_TURN_BYTES) {
            azoi_job_wake(job);
            return AZO_PENDING;
        }
        ptrdiff_t got = azoi_stream_read(&job->conn->stream, c->input.data, AZOI_READ_SIZE);
        if (got == AZO_IO_AGAIN) {
            if (!job->conn->stream.in_blocked && job->conn->stream.reads == 0) {
                azoi_job_wake(job);
            }
            return AZO_PENDING;
        }
        if (got <= 0) {
            return azoi_job_eof(job, (azo_result)(int)got);
        }
        total += (size_t)got;
        azo_str in = azoi_view(c->input.data, (size_t)got);
        azo_result r = azoi_job_feed(job, &in);
        if (r == AZO_PENDING && in.len > 0) {
            azoi_buf_str(&job->conn->in, in);
            azo_result kept = azoi_buf_failed(&job->conn->in, &job->error, "What came for a paused request");
            return kept == AZO_OK ? AZO_PENDING : kept;
        }
        if (r != AZO_OK) {
            return r;
        }
    }
    return AZO_OK;
}

/* Sending and receiving; a head that comes early ends the sending. */
static azo_result azoi_job_exchange(azo_request *job) {
    azo_result sent = AZO_OK;
    if (job->state == AZOI_JOB_SEND) {
        sent = azoi_job_send(job);
        if (sent < 0 && sent != AZO_ERR_CLOSED) {
            return sent;
        }
    }
    if (sent == AZO_ERR_CLOSED) {
        /* The peer may have answered before it hung up: read that instead of reporting a broken pipe. */
        azoi_error_clear(&job->error);
        job->conn->stream.in_blocked = false;
    }
    if (job->paused) {
        return AZO_PENDING;
    }
    azo_result r = AZO_OK;
    if (job->resumed) {
        job->resumed = false;
        job->conn->stream.in_blocked = false; /* nobody watched it */
        r = azoi_job_feed_leftovers(job);
    }
    if (r == AZO_OK && !azoi_job_has_answer(job)) {
        /* The socket had nothing more, and nothing happened since: the next byte is a new event. */
        r = job->conn->stream.in_blocked ? AZO_PENDING : azoi_job_receive(job);
    }
    if (r == AZO_PENDING && sent == AZO_ERR_CLOSED && !job->paused && job->conn->stream.in_blocked) {
        r = azoi_job_eof(job, AZO_ERR_CLOSED);
    }
    return r == AZO_OK ? azoi_job_answered(job) : r;
}

/* ---- the turn of a job ---- */

/* OK: finished well. PENDING: waits. A failure is not judged yet. */
static azo_result azoi_job_move(azo_request *job) {
    azo_result r = azoi_job_check_time(job);
    if (r != AZO_PENDING) {
        return r;
    }
    if (job->state == AZOI_JOB_BACKOFF) {
        if (job->client->pump.now < job->due) {
            return AZO_PENDING;
        }
        azoi_job_start_over(job);
    }
    if (job->state == AZOI_JOB_PREPARE) {
        r = azoi_job_prepare(job);
        if (r != AZO_OK) {
            return r;
        }
        if (job->spec.origin.host.len == 0) {
            return job->ops->end(job);
        }
        r = azoi_job_begin_send(job);
        if (r != AZO_OK) {
            return r;
        }
    }
    return azoi_job_exchange(job);
}

/* Has the job's connection watched, if the job drives one. */
static azo_result azoi_job_sync_conn(azo_request *job) {
    if (job->conn == NULL || job->conn->state != AZOI_CONN_BUSY) {
        return AZO_PENDING;
    }
    job->conn->wants = !job->paused;
    azo_result r = azoi_conn_sync(job->conn);
    return r == AZO_OK ? AZO_PENDING : r;
}

static void azoi_job_advance(azoi_node *node) {
    azo_request *job = AZOI_OF(node, azo_request, node);
    job->in_turn = true;
    azo_result r = job->cancelled ? AZO_ERR_CANCELLED : azoi_job_move(job);
    if (job->cancelled) {
        azoi_error_clear(&job->error);
        r = azoi_fail(&job->error, AZO_ERR_CANCELLED, "The request was cancelled by this program. Nothing needs to be "
                      "done.");
    } else if (r < 0) {
        r = azoi_job_failed(job, r);
    }
    if (r == AZO_PENDING) {
        azoi_job_arm(job);
        r = azoi_job_sync_conn(job);
    }
    if (r != AZO_PENDING) {
        azoi_job_finish(job, r);
    }
    job->in_turn = false;
    if (job->freed) {
        azoi_job_free(job);
    }
}

/* Something changed outside a step: a loop that sleeps has to hear of it. */
static void azoi_client_tell(azo_client *c) {
    if (!c->in_step) {
        azoi_pump_tell(&c->pump, false);
    }
}

/* ---- a new job ---- */

typedef union azoi_unit { /* of alignment */
    void *pointer;
    int64_t integer;
    double number;
} azoi_unit;

static size_t azoi_aligned(size_t size) {
    return (size + sizeof(azoi_unit) - 1) / sizeof(azoi_unit) * sizeof(azoi_unit);
}

/* Of the block of a request, its data and its texts; 0: more than there can be. */
static size_t azoi_job_block_size(const azoi_job_spec *spec) {
    size_t heads = spec->origin.host.len + spec->method.len + spec->target.len + spec->headers.len +
                   spec->own_headers.len + 6; /* NULs, the body's included */
    size_t size = azoi_aligned(sizeof(azo_request)) + spec->data_size + heads;
    return azoi_sum(size, spec->body_borrowed ? 0 : spec->body.len, &size) ? size : 0;
}

/* Moves the texts to `at`, with a NUL behind each. */
static void azoi_job_own_texts(azoi_job_spec *spec, char *at) {
    azo_str *const texts[] = {&spec->origin.host, &spec->method,      &spec->target,
                              &spec->headers,     &spec->own_headers, &spec->body};
    for (size_t i = 0; i < (spec->body_borrowed ? 5 : 6); i++) {
        if (texts[i]->len > 0) {
            memcpy(at, texts[i]->ptr, texts[i]->len);
        }
        texts[i]->ptr = at;
        at += texts[i]->len;
        *at++ = '\0';
    }
}

static azo_result azoi_job_new(azo_client *c, const azoi_job_spec *spec, azo_request **out, azo_error *e) {
    size_t size = azoi_job_block_size(spec);
    azo_request *job = (azo_request *)azoi_resize(&c->allocator, NULL, 0, size);
    *out = NULL;
    if (job == NULL) {
        return azoi_memory(e);
    }
    memset(job, 0, offsetof(azo_request, error));
    job->block_size = size;
    job->client = c;
    job->allocator = c->allocator;
    job->spares.user_data = &c->spares;
    job->spares.resize = azoi_spares_resize;
    job->node.advance = azoi_job_advance;
    if (!azoi_timer_attach(&c->pump, &job->timer, &job->node)) {
        azoi_free(&c->allocator, job, size);
        return azoi_memory(e);
    }
    job->spec = *spec;
    job->ops = spec->ops;
    job->data = (char *)job + azoi_aligned(sizeof *job);
    memset(job->data, 0, spec->data_size);
    azoi_job_own_texts(&job->spec, (char *)job->data + spec->data_size);
    job->retries_left = spec->max_retries;
    azoi_error_clear(&job->error);
    azoi_buf_init(&job->head_text, &job->spares, c->max_header, spec->token_body);
    azoi_buf_init(&job->body, &job->spares, spec->max_body, spec->token_body);
    azoi_pump_tick(&c->pump);
    job->total_by = azoi_deadline(c->pump.now, spec->total_ms);
    job->due = AZOI_NEVER;
    azoi_list_add(&c->jobs, &job->link);
    azoi_job_arm(job);
    azoi_job_wake(job);
    azoi_client_tell(c);
    *out = job;
    return AZO_OK;
}

/* >>credentials
 *
 * Who signs requests. An identity is a key, a fixed token, a provider of the user's, or a chain of client secret and
 * managed identity. Tokens live in slots, one per scope: a slot runs at most one fetch at a time, which belongs to
 * nobody and serves all who wait, renews its token ahead of time, and answers from memory for a while after a
 * failure. A fetch is a job of the machine of attempts, or a turn of the provider. */

enum {
    AZOI_HOLD_WAIT_MS = 2000,    /* after a failure that may pass by itself */
    AZOI_HOLD_REFUSED_MS = 5000, /* after a refusal: Entra ID locks out who keeps asking (AADSTS50196) */
    AZOI_HOLD_MAX_MS = 3600 * 1000,
    AZOI_HOLD_FORCED_MS = 30000, /* after a failed renewal while the old token is good, and after a 401 */
    AZOI_EXPIRY_MARGIN_MS = 30000
};

/* ---- opening ---- */

/* One word of printable ASCII, to go into a header line as it is. */
static bool azoi_token_ok(azo_str token) {
    return token.len > 0 && token.len <= AZO_MAX_TOKEN_BYTES && azoi_is_plain(token, "");
}

/* The desc's value, else the environment's. Blank in the desc is a mistake, blank in the environment is unset. */
static azo_result azoi_identity_set(azoi_buf *out, const char *given, const char *variable, azo_error *e) {
    const char *raw = given;
#ifndef AZO_NO_ENV
    raw = raw != NULL ? raw : getenv(variable);
#endif
    azo_str value = azoi_trim(azo_s(raw));
    if (given != NULL && value.len == 0) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "What azo_client_desc.credential gives for %s is empty (%d). Give it a "
                         "value, or NULL to take it from there.", variable, (int)AZO_ERR_ARGUMENT);
    }
    if (out->secret && value.len > 0) { /* may end in blanks on purpose, but not in the newline of a file or shell */
        value = azo_s(raw);
        value.len -= azoi_ends(value, "\r\n") ? 2u : azoi_ends(value, "\n") ? 1u : 0u;
    }
    azoi_buf_str(out, value);
    return AZO_OK;
}

/* Makes a setting a URL of scheme, host, port and path without a slash at its end. */
static azo_result azoi_base_url(azoi_buf *out, azo_str text, const char *scheme, const char *what, azo_error *e) {
    azoi_url url;
    while (azoi_ends(text, "/")) {
        text.len--;
    }
    azoi_buf_puts(out, azoi_contains_ci(text, "://") ? "" : scheme);
    azoi_buf_str(out, text);
    bool split = azoi_url_split(azoi_buf_view(out), &url, NULL) == AZO_OK;
    bool safe = url.secure || azoi_is_loopback(url.host) || azoi_equal(azo_s(scheme), "http://");
    if (out->failed == AZO_OK && (!split || !safe || url.userinfo.len > 0 || url.query.len > 0)) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "%s is not a URL that can be used (%zu bytes). Write it like "
                         "%sname.example.", what, text.len, scheme);
    }
    return AZO_OK;
}

static azo_result azoi_fixed_open(azo_client *c, bool is_key, azo_str value, const char *origin, azo_error *e) {
    azoi_identity *id = &c->identity;
    if (is_key ? value.len == 0 || azoi_has_control(value) : !azoi_token_ok(value)) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "%s is empty, or has a byte that cannot stand in a header (%zu bytes). "
                         "Copy it again.", origin, value.len);
    }
    id->kind = is_key ? AZOI_IDENTITY_KEY : AZOI_IDENTITY_STATIC;
    azoi_buf_str(&id->secret, value);
    azoi_log(&c->net, AZO_LOG_INFO, "* identity: %s from %s", is_key ? "API key" : "fixed token", origin);
    return AZO_OK;
}

static azo_result azoi_secret_open(azoi_identity *id, const azo_credential_desc *d, azo_error *e) {
    azo_result r = azoi_identity_set(&id->tenant_id, d->tenant_id, "AZURE_TENANT_ID", e);
    r = r == AZO_OK ? azoi_identity_set(&id->client_id, d->client_id, "AZURE_CLIENT_ID", e) : r;
    r = r == AZO_OK ? azoi_identity_set(&id->secret, d->client_secret, "AZURE_CLIENT_SECRET", e) : r;
    if (r != AZO_OK) {
        return r;
    }
    if (id->tenant_id.len == 0 || id->client_id.len == 0 || id->secret.len == 0) {
        (void)snprintf(id->lacks[AZOI_MEMBER_SECRET], sizeof id->lacks[0],
                       "AZURE_TENANT_ID %sset, AZURE_CLIENT_ID %sset, AZURE_CLIENT_SECRET %sset%s",
                       id->tenant_id.len > 0 ? "" : "not ", id->client_id.len > 0 ? "" : "not ",
                       id->secret.len > 0 ? "" : "not ", azoi_env("AZURE_CLIENT_CERTIFICATE_PATH").len > 0
                       ? ", AZURE_CLIENT_CERTIFICATE_PATH set but not supported" : "");
        return AZO_OK;
    }
    azo_str tenant = azoi_buf_view(&id->tenant_id);
    if (!azoi_is_host(tenant) || azoi_equal_ci(tenant, "common") || azoi_equal_ci(tenant, "organizations") ||
        azoi_equal_ci(tenant, "consumers") || azoi_equal_ci(tenant, "adfs")) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "\"%.100s\" is not a tenant that a client secret can sign in to. Set "
                         "AZURE_TENANT_ID to the tenant's GUID, without braces, or to its domain name.", tenant.ptr);
    }
    azo_str host = d->authority_host != NULL ? azoi_trim(azo_s(d->authority_host)) : azoi_env("AZURE_AUTHORITY_HOST");
    return d->authority_host == NULL && host.len == 0
               ? AZO_OK : azoi_base_url(&id->authority, host, "https://", "AZURE_AUTHORITY_HOST (authority_host)", e);
}

static azo_result azoi_imds_open(azoi_identity *id, const azo_credential_desc *d, bool chained, azo_error *e) {
    static const char *const foreign[] = {"IDENTITY_ENDPOINT", "MSI_ENDPOINT", "AZURE_FEDERATED_TOKEN_FILE"};
    static const char *const selectors[] = {"client_id", "object_id", "msi_res_id"};
    const char *const values[] = {d->managed_client_id, d->managed_object_id, d->managed_resource_id};
    azo_str selected = chained ? azoi_env("AZURE_CLIENT_ID") : azoi_view(NULL, 0);
    azo_str host = azoi_env("AZURE_POD_IDENTITY_AUTHORITY_HOST");
    const char *selector = selectors[0];
    int given = 0;
    for (int i = 0; i < 3; i++) {
        if (values[i] != NULL) {
            given++;
            selector = selectors[i];
            selected = azoi_trim(azo_s(values[i]));
        }
        /* Sources that we do not speak. Where one is announced, the metadata service is not there, or another's. */
        if (azoi_env(foreign[i]).len > 0 && (chained || i < 2)) {
            (void)snprintf(id->lacks[AZOI_MEMBER_IMDS], sizeof id->lacks[0],
                           "%s points to a source of tokens that this library does not speak", foreign[i]);
        }
    }
    if (given > 1) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "azo_credential_desc names the managed identity in %d ways. Set only one "
                         "managed_x_id.", given);
    }
    id->selector = selected.len > 0 ? selector : NULL;
    id->selected_by_env = selected.len > 0 && given == 0;
    azoi_buf_str(&id->selected, selected);
    return azoi_base_url(&id->imds, host.len > 0 ? host : azo_s("169.254.169.254"), "http://",
                         "AZURE_POD_IDENTITY_AUTHORITY_HOST", e);
}

static azo_result azoi_chain_open(azo_client *c, const azo_credential_desc *d, const char *why, azo_error *e) {
    azoi_identity *id = &c->identity;
    bool chained = d->kind == AZO_CRED_AUTO || d->kind == AZO_CRED_CHAIN;
    azo_str name = chained ? azoi_env("AZURE_TOKEN_CREDENTIALS") : azoi_view(NULL, 0);
    bool only_secret = d->kind == AZO_CRED_SECRET || azoi_equal_ci(name, "EnvironmentCredential");
    bool only_imds = d->kind == AZO_CRED_IMDS || azoi_equal_ci(name, "ManagedIdentityCredential");
    azo_result r = AZO_OK;
    if (name.len > 0 && !only_secret && !only_imds && !azoi_equal_ci(name, "prod")) {
        bool known = azoi_equal_ci(name, "dev") || azoi_ends_ci(name, "Credential");
        return azoi_fail(e, known ? AZO_ERR_UNSUPPORTED : AZO_ERR_ARGUMENT, "AZURE_TOKEN_CREDENTIALS is \"%.60s\", not "
                         "prod, EnvironmentCredential or ManagedIdentityCredential. Set one, or use a token_provider.",
                         name.ptr);
    }
    bool secret = AZOI_HAS_SECRET && !only_imds;
    bool imds = AZOI_HAS_IMDS && !only_secret;
    if (!secret && !imds) {
        return azoi_left_out(e, only_imds ? "Managed identity" : only_secret ? "A client secret" : "A credential",
                             only_imds ? "AZO_NO_IMDS" : "AZO_NO_SECRET");
    }
    id->kind = AZOI_IDENTITY_CHAIN;
    id->members[AZOI_MEMBER_SECRET] = secret;
    id->members[AZOI_MEMBER_IMDS] = imds;
    r = secret ? azoi_secret_open(id, d, e) : r;
    r = imds && r == AZO_OK ? azoi_imds_open(id, d, chained, e) : r;
    azoi_log(&c->net, AZO_LOG_INFO, "* identity: %s%s%s, since %s. %s", secret ? "client secret" : "",
             secret && imds ? ", else " : "", imds ? "managed identity" : "", why, id->lacks[AZOI_MEMBER_SECRET]);
    return r;
}

static azo_result azoi_identity_open(azo_client *c, const azo_client_desc *desc, azo_error *e) {
    azoi_identity *id = &c->identity;
    const azo_credential_desc *d = &desc->credential;
    bool has_secret = d->tenant_id != NULL || d->client_id != NULL || d->client_secret != NULL;
    bool has_managed = d->managed_client_id != NULL || d->managed_object_id != NULL || d->managed_resource_id != NULL;
    bool has_credential = d->kind != AZO_CRED_AUTO || has_secret || has_managed;
    int given = (desc->api_key != NULL) + (desc->token_provider != NULL) + has_credential;
    azo_str token = azoi_env("AZURE_OPENAI_AD_TOKEN");
    azo_str key = azoi_env("AZURE_OPENAI_API_KEY");
    id->winner = -1;
    if (given > 1 || d->kind < AZO_CRED_AUTO || d->kind > AZO_CRED_IMDS) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "azo_client_desc gives %d identities, credential.kind is %d. Set only "
                         "one of api_key, token_provider and credential, of a kind AZO_CRED_x.", given, d->kind);
    }
    if (d->kind == AZO_CRED_IMDS && d->client_id != NULL && !has_managed) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "azo_client_desc.credential names an app (client_id, %zu bytes) for a "
                         "managed identity. Use managed_client_id, \"\" for the system-assigned one.",
                         strlen(d->client_id));
    }
    if (desc->token_provider != NULL) {
        id->kind = AZOI_IDENTITY_PROVIDER;
        id->provider = desc->token_provider;
        id->provider_data = desc->token_user_data;
        azoi_log(&c->net, AZO_LOG_INFO, "* identity: azo_client_desc.token_provider");
        return AZO_OK;
    }
    if (desc->api_key != NULL) {
        return azoi_fixed_open(c, true, azoi_trim(azo_s(desc->api_key)), "azo_client_desc.api_key", e);
    }
    if (has_credential || token.len + key.len == 0) {
        return azoi_chain_open(c, d, has_credential ? "azo_client_desc says so" : "no key or token is set", e);
    }
    return token.len > 0 ? azoi_fixed_open(c, false, token, "AZURE_OPENAI_AD_TOKEN", e)
                         : azoi_fixed_open(c, true, key, "AZURE_OPENAI_API_KEY", e);
}

/* ---- slots ---- */

static const char *azoi_member_name(int member) {
    return member == AZOI_MEMBER_SECRET ? "environment" : "managed identity";
}

/* Whether it is Entra ID that is asked, or else the metadata service. */
static bool azoi_is_entra(const azoi_slot *slot) {
    return AZOI_HAS_SECRET && (!AZOI_HAS_IMDS || slot->member == AZOI_MEMBER_SECRET);
}

/* Where the slot's token came from. */
static azo_str azoi_slot_source(const azoi_slot *slot) {
    const azoi_identity *id = &slot->client->identity;
    return azo_s(id->kind == AZOI_IDENTITY_STATIC ? "static" : id->kind == AZOI_IDENTITY_PROVIDER ? "provider"
                 : azoi_member_name(id->winner));
}

/* Seconds that the slot's token has left; 0: not known. */
static int64_t azoi_slot_expires_in(const azoi_slot *slot) {
    int64_t now = slot->client->pump.now;
    return slot->expires_at == AZOI_NEVER || slot->expires_at <= now ? 0 : (slot->expires_at - now) / 1000;
}

/* There is a token for whoever comes. */
static bool azoi_slot_lasts(const azoi_slot *slot) {
    return slot->usable && !slot->once && slot->client->pump.now < slot->expires_at - AZOI_EXPIRY_MARGIN_MS;
}

/* Whether the slot's token will do for this job. */
static bool azoi_slot_serves(const azoi_slot *slot, const azo_request *job) {
    bool has_token = slot->once ? slot->usable && job->fetch_wanted != 0 : azoi_slot_lasts(slot);
    return has_token && slot->token_fetch >= job->fetch_wanted;
}

/* The fetch is over: everyone who waits goes on or fails, in the order in which they came. */
static void azoi_slot_release(azoi_slot *slot, azo_result result) {
    slot->fetching = false;
    while (!azoi_list_empty(&slot->waiting)) {
        azo_request *job = AZOI_OF(slot->waiting.next, azo_request, waiting);
        azoi_wait_leave(job);
        if (result == AZO_OK || job->cancelled) {
            azoi_job_wake(job);
        } else {
            job->error = slot->error;
            azoi_job_finish(job, result);
        }
    }
}

/* When to renew, in seconds after the request for the token. */
static int64_t azoi_refresh_after(int64_t lifetime_s, int64_t refresh_in_s) {
    if (refresh_in_s > 0 && refresh_in_s < lifetime_s) {
        return refresh_in_s;
    }
    return lifetime_s >= 7200 || lifetime_s < 600 ? lifetime_s / 2 : lifetime_s - 300;
}

/* A new token; lifetime -1: not known. */
static azo_result azoi_slot_accept(azoi_slot *slot, azo_str token, int64_t lifetime_s, int64_t refresh_in_s,
                                   azo_error *e) {
    azo_client *c = slot->client;
    bool known = lifetime_s >= 0;
    if (!azoi_same(azoi_buf_view(&slot->token), token)) {
        azoi_buf fresh;
        azoi_buf_init(&fresh, &c->allocator, AZO_MAX_TOKEN_BYTES, true);
        if (!azoi_buf_set(&fresh, token)) {
            return azoi_memory(e);
        }
        azoi_buf_free(&slot->token);
        slot->token = fresh;
        slot->generation++;
    }
    lifetime_s = lifetime_s < INT32_MAX ? lifetime_s : INT32_MAX;
    slot->expires_at = known ? slot->fetch_sent_at + lifetime_s * 1000 : AZOI_NEVER;
    slot->refresh_at = known ? slot->fetch_sent_at + azoi_refresh_after(lifetime_s, refresh_in_s) * 1000 : AZOI_NEVER;
    slot->usable = true;
    slot->once = !known || c->pump.now >= slot->expires_at - AZOI_EXPIRY_MARGIN_MS;
    slot->token_fetch = slot->fetches;
    slot->hold_until = 0;
    azoi_log(&c->net, AZO_LOG_INFO, "* token for %s from %s, good for %ld s", slot->scope.data,
             azoi_slot_source(slot).ptr, (long)lifetime_s);
    azoi_slot_release(slot, AZO_OK);
    return AZO_OK;
}

/* The fetch failed, slot->error says why. A good token is kept. */
static azo_result azoi_slot_fail(azoi_slot *slot) {
    azo_client *c = slot->client;
    azo_error *e = &slot->error;
    bool renewal = azoi_slot_lasts(slot);
    int32_t hold_ms = renewal ? AZOI_HOLD_FORCED_MS : AZOI_HOLD_REFUSED_MS;
    if (e->code == AZO_ERR_MEMORY) {
        hold_ms = 0; /* says nothing about the next try */
    } else if (e->retry_after_ms >= 0) {
        hold_ms = e->retry_after_ms < AZOI_HOLD_MAX_MS ? e->retry_after_ms : (int32_t)AZOI_HOLD_MAX_MS;
    } else if (!renewal && (e->who == AZO_WHO_WAIT || e->who == AZO_WHO_MACHINE || e->code == AZO_ERR_NO_CREDENTIAL ||
                            e->code == AZO_ERR_PROVIDER)) {
        hold_ms = AZOI_HOLD_WAIT_MS;
    }
    e->stage = AZO_STAGE_TOKEN;
    slot->hold_until = c->pump.now + hold_ms;
    slot->force_after = 0; /* what a 401 asked for did not come */
    if (renewal && slot->hold_until > slot->expires_at - AZOI_EXPIRY_MARGIN_MS) {
        slot->hold_until = slot->expires_at - AZOI_EXPIRY_MARGIN_MS;
    }
    azoi_log(&c->net, AZO_LOG_WARN, "* no token for %s%s: %s", slot->scope.data,
             renewal ? ", keeping the one there is" : "", e->message);
    azoi_slot_release(slot, e->code);
    return e->code;
}

/* ---- fetching: refusals ---- */

/* A string member, cleaned into `out`, which is left alone if it is none. */
static void azoi_json_copy(azo_client *c, const azoi_json *json, const char *name, char *out, size_t cap) {
    azoi_buf_clear(&c->decoded);
    if (azoi_json_text(json, azoi_json_get(json, 0, name), &c->decoded)) {
        azoi_buf_hide(&c->decoded, azoi_buf_view(&c->identity.secret));
        azoi_clean(out, cap, azoi_buf_view(&c->decoded));
    }
}

/* What a refusal says goes into job->error. */
static void azoi_oauth_error(azo_request *job) {
    azo_client *c = job->client;
    azo_error *e = &job->error;
    azoi_json json;
    int64_t number = 0;
    azoi_clean(e->request_id, sizeof e->request_id, azoi_header(job->head.headers, "x-ms-request-id"));
    if (azoi_json_parse(&c->tokens, azoi_buf_view(&job->body), &json) == AZO_OK) {
        int codes = azoi_json_get(&json, 0, "error_codes");
        azoi_json_copy(c, &json, "error", e->service_code, sizeof e->service_code);
        azoi_json_copy(c, &json, "error_description", e->detail, sizeof e->detail);
        size_t used = strlen(e->detail);
        azoi_json_copy(c, &json, "claims", e->detail + used, sizeof e->detail - used);
        azoi_json_copy(c, &json, "trace_id", e->request_id, sizeof e->request_id);
        (void)azoi_json_int(&json, azoi_json_child(&json, codes, codes), &number);
        e->aadsts = number > 0 && number <= INT_MAX ? (int)number : 0;
    }
}

/* What a refusal says where there is no AADSTS number. */
enum { AZOI_SAYS_NO = 1, AZOI_SAYS_LATER, AZOI_SAYS_STRANGER, AZOI_SAYS_NOBODY, AZOI_SAYS_NOT_ENV };

typedef struct azoi_advice {
    int numbers[8]; /* AADSTS, or one of the above */
    azo_who who;
    const char *what; /* was rejected */
    const char *to_do;
} azoi_advice;

/* What people do to get these numbers, from the sheet's table and the threads behind it. */
static const azoi_advice azoi_advices[] = {
    {{AZOI_SAYS_NO}, AZO_WHO_IDENTITY,
     AZOI_SENTENCES("the request", "Its own words are in azo_error.detail.")},
    {{7000215, 7000216, 7000218, 900144}, AZO_WHO_IDENTITY,
     AZOI_SENTENCES("the client secret",
                    "Put the secret's value, not its ID, in AZURE_CLIENT_SECRET, as it is: not percent-encoded, and "
                    "with $, !, ` and quotes protected from the shell.")},
    {{7000222}, AZO_WHO_IDENTITY,
     AZOI_SENTENCES("the client secret", "It has expired: put a new one in AZURE_CLIENT_SECRET.")},
    {{700016, 700011, 50034, 7000112, 700025}, AZO_WHO_IDENTITY,
     AZOI_SENTENCES("the client ID",
                    "Check that AZURE_CLIENT_ID and AZURE_TENANT_ID belong together, and that the app is enabled "
                    "and confidential.")},
    {{90002, 900023, 9001023, 90038, 900432, 50049}, AZO_WHO_IDENTITY,
     AZOI_SENTENCES("the tenant",
                    "Check AZURE_TENANT_ID, and set AZURE_AUTHORITY_HOST to the login host of its cloud if it is "
                    "not the public one.")},
    {{70011, 28002, 700022, 500011, 50001}, AZO_WHO_PROGRAM,
     AZOI_SENTENCES("the scope",
                    "Give one resource that this tenant knows and /.default, like "
                    "https://cognitiveservices.azure.com/.default.")},
    {{53003, 530032}, AZO_WHO_IDENTITY,
     AZOI_SENTENCES("the sign-in by policy",
                    "Ask the administrator for an exception for this app; trying again does not help.")},
    {{50196}, AZO_WHO_WAIT,
     AZOI_SENTENCES("one equal request too many", "Wait; share one client instead of opening one per call.")},
    {{AZOI_SAYS_LATER, 90033, 90006, 90012, 90024, 50033, 90055}, AZO_WHO_WAIT,
     AZOI_SENTENCES("the request, being busy", "Wait and try again.")},
    {{AZOI_SAYS_STRANGER}, AZO_WHO_MACHINE,
     AZOI_SENTENCES("the request",
                    "It does not answer as it should: check AZURE_AUTHORITY_HOST, proxies (169.254.169.254 must "
                    "pass by them), and whether this is an Azure machine.")},
    {{AZOI_SAYS_NOBODY}, AZO_WHO_IDENTITY,
     AZOI_SENTENCES("the machine, which has no such identity, none at all, or several",
                    "Enable one, or name one that it has with AZURE_CLIENT_ID or managed_client_id.")},
    {{AZOI_SAYS_NOT_ENV}, AZO_WHO_IDENTITY,
     AZOI_SENTENCES("the identity that AZURE_CLIENT_ID names",
                    "Assign it to this machine, unset the variable, or set managed_client_id to \"\" for the "
                    "system-assigned one.")},
};

static const azoi_advice *azoi_advice_find(int number) {
    for (size_t i = 0; i < sizeof azoi_advices / sizeof azoi_advices[0]; i++) {
        for (size_t k = 0; k < 8; k++) {
            if (azoi_advices[i].numbers[k] == number) {
                return &azoi_advices[i];
            }
        }
    }
    return &azoi_advices[0];
}

/* The services' words may change, so hardly any of them decide anything. */
static azo_result azoi_fetch_refuse(azo_request *job) {
    azoi_slot *slot = (azoi_slot *)job->spec.tag;
    const azoi_identity *id = &job->client->identity;
    azo_error *e = &job->error;
    int status = job->head.status;
    bool entra = azoi_is_entra(slot);
    bool later = azoi_retries(job->spec.policy, status);
    char number[24];
    azoi_oauth_error(job);
    azo_str code = azo_s(e->service_code);
    bool nobody = !entra && status == 400 && azoi_equal(code, "invalid_request");
    int says = nobody && id->selected_by_env                          ? AZOI_SAYS_NOT_ENV
               : nobody                                               ? AZOI_SAYS_NOBODY
               : status == 502 || status == 504                       ? AZOI_SAYS_STRANGER
               : later || azoi_equal(code, "temporarily_unavailable") ? AZOI_SAYS_LATER
               : e->aadsts != 0                                       ? e->aadsts
               : code.len == 0                                        ? AZOI_SAYS_STRANGER
                                                                      : AZOI_SAYS_NO;
    /* Docker Desktop's 403 says why in the reason phrase, in the language of the host; other clouds' metadata services
     * say 401: only the shape tells that this is not Azure's. */
    bool not_found = nobody && id->selector == NULL && azoi_contains_ci(azo_s(e->detail), "identity not found");
    slot->unavailable = not_found || (!entra && !later && says == AZOI_SAYS_STRANGER);
    job->final = false; /* it answers, so the schedule of its retries applies from the first contact on */
    const azoi_advice *advice = azoi_advice_find(says);
    (void)snprintf(number, sizeof number, "AADSTS%d", e->aadsts);
    (void)azoi_fail(e, entra ? AZO_ERR_TOKEN : AZO_ERR_IMDS, "%s rejected %s (%s, HTTP %d). %s",
                    entra ? "Entra ID" : "The metadata service", advice->what,
                    e->aadsts != 0 ? number : azoi_is_word(code.ptr) ? code.ptr : "no OAuth error", status,
                    advice->to_do);
    e->who = advice->who;
    return e->code;
}

/* ---- fetching: tokens ---- */

/* expires_in, else what expires_on says. With both, and the server's own clock to compare with, the smaller: a
 * cached token's expires_in may count from its issue. -1: neither. */
static int64_t azoi_fetch_lifetime(azo_request *job, const azoi_json *json) {
    int64_t in = -1;
    int64_t on = -1;
    int64_t date = azoi_http_date(azoi_header(job->head.headers, "date"));
    (void)azoi_json_int(json, azoi_json_get(json, 0, "expires_in"), &in);
    (void)azoi_json_int(json, azoi_json_get(json, 0, "expires_on"), &on);
    if (date <= 0 && in < 0) {
        date = azoi_net_unix(&job->client->net);
    }
    if (on >= 0 && date > 0) {
        int64_t left = on > date ? on - date : 0;
        in = in < 0 || left < in ? left : in;
    }
    return in;
}

static azo_result azoi_fetch_end(azo_request *job) {
    azo_client *c = job->client;
    azoi_slot *slot = (azoi_slot *)job->spec.tag;
    bool entra = azoi_is_entra(slot);
    int64_t lifetime_s = -1;
    int64_t refresh_in_s = 0;
    int type = -1;
    azoi_json json;
    azoi_buf token;
    azo_result r = azoi_json_parse(&c->tokens, azoi_buf_view(&job->body), &json);
    bool is_object = r == AZO_OK && job->head.status == 200 && azoi_is(azoi_json_raw(&json, 0), '{');
    if (r == AZO_ERR_MEMORY) {
        return azoi_memory(&job->error);
    }
    azoi_buf_init(&token, &c->allocator, AZO_MAX_TOKEN_BYTES, true);
    if (is_object) {
        type = azoi_json_get(&json, 0, "token_type");
        lifetime_s = azoi_fetch_lifetime(job, &json);
        (void)azoi_json_text(&json, azoi_json_get(&json, 0, "access_token"), &token);
        (void)azoi_json_int(&json, azoi_json_get(&json, 0, "refresh_in"), &refresh_in_s);
    }
    const char *wrong = job->body.len == AZOI_REFUSAL_BYTES  ? "more than a token needs"
                        : !is_object                         ? "something else than a JSON object"
                        : type >= 0 && !azoi_equal_ci(azoi_json_raw(&json, type), "\"Bearer\"")
                                                             ? "a token that is not a bearer token"
                        : token.len == 0                     ? "JSON without an access_token"
                        : !azoi_token_ok(azoi_buf_view(&token)) ? "a token that cannot stand in a header"
                        : lifetime_s < 0                     ? "a token without expires_in or expires_on" : NULL;
    r = azoi_buf_failed(&token, &job->error, "The token (AZO_MAX_TOKEN_BYTES)");
    if (r == AZO_OK && wrong == NULL) {
        c->identity.winner = slot->member;
        r = azoi_slot_accept(slot, azoi_buf_view(&token), lifetime_s, refresh_in_s, &job->error);
    } else if (r == AZO_OK) {
        slot->unavailable = !is_object && !entra; /* a captive portal, another cloud's service */
        r = azoi_fail(&job->error, entra ? AZO_ERR_TOKEN : AZO_ERR_IMDS, "%s answered with %s (HTTP %d, %zu bytes). "
                      "Check %s, login pages and proxies in between.", job->spec.origin.host.ptr, wrong,
                      job->head.status, job->body.len, entra ? "AZURE_AUTHORITY_HOST" : "whether this is Azure");
        job->error.who = AZO_WHO_MACHINE;
    }
    azoi_buf_free(&token);
    return r;
}

/* ---- fetching: the end ---- */

/* One line of what a member of the chain said. */
static void azoi_slot_line(azoi_slot *slot, const char *text) {
    size_t used = strlen(slot->lines);
    char part[200];
    azoi_clean(part, sizeof part, azo_s(text));
    (void)snprintf(slot->lines + used, sizeof slot->lines - used, "%s%s: %s (%s)", used > 0 ? "\n" : "",
                   azoi_member_name(slot->member), slot->unavailable ? "unavailable" : "failed", part);
}

/* A request that had no answer, or none that could be read: the machine's words become the member's. Failures with a
 * remedy of their own (TLS, proxy, memory) stay what they are. */
static void azoi_fetch_unanswered(azoi_slot *slot, const azo_error *from) {
    bool entra = azoi_is_entra(slot);
    bool slow = from->code == AZO_ERR_TIMEOUT;
    if (slow || from->code == AZO_ERR_RESOLVE || from->code == AZO_ERR_CONNECT || from->code == AZO_ERR_CLOSED ||
        from->code == AZO_ERR_HTTP || from->code == AZO_ERR_REDIRECT) {
        slot->unavailable = !entra;
        slot->error.code = AZO_OK;
        (void)azoi_fail(&slot->error, entra ? AZO_ERR_TOKEN : AZO_ERR_IMDS, "No %s: %s", entra ? "token from Entra ID"
                        : "managed identity", slow && from->stage >= AZO_STAGE_SEND
                        ? "it did not answer in time. Look at proxies and firewalls in between." : from->message);
        slot->error.who = from->who;
    }
}

/* After a failure the next member is asked in the slot's turn. Once a member has given a token it stays the only one,
 * since an identity must not change in mid-process. */
static void azoi_fetch_finish(azo_request *job) {
    azoi_slot *slot = (azoi_slot *)job->spec.tag;
    azo_client *c = job->client;
    const azoi_identity *id = &c->identity;
    azo_error *e = &slot->error;
    bool is_chain = id->members[AZOI_MEMBER_SECRET] && id->members[AZOI_MEMBER_IMDS];
    /* Nobody stepped the client for so long that the fetch's time is up. That says nothing about the other side. */
    bool parked = job->result == AZO_ERR_TIMEOUT && c->pump.now - job->total_by > 1000;
    slot->fetch = NULL;
    if (job->result == AZO_OK || job->result == AZO_ERR_CANCELLED || (parked && azoi_list_empty(&slot->waiting))) {
        slot->fetching = false;
        return;
    }
    if (!parked) {
        char said[200];
        *e = job->error;
        azoi_fetch_unanswered(slot, &job->error);
        (void)snprintf(said, sizeof said, "HTTP %d %.40s: %.120s", e->http_status, e->service_code, e->detail);
        azoi_slot_line(slot, e->detail[0] != '\0' ? said : e->message);
        if (!slot->unavailable || !is_chain || id->winner >= 0) {
            if (strchr(slot->lines, '\n') != NULL) {
                memcpy(e->detail, slot->lines, sizeof e->detail);
            }
            (void)azoi_slot_fail(slot);
            return;
        }
    }
    slot->member = parked ? 0 : slot->member + 1;
    azoi_pump_queue(&c->pump, &slot->node);
}

/* ---- fetching: the request ---- */

/* By the cloud of the scope, so that a program for another cloud needs no second setting. */
static azo_str azoi_authority(const azoi_slot *slot) {
    azo_str given = azoi_buf_view(&slot->client->identity.authority);
    azo_str scope = azoi_buf_view(&slot->scope);
    return given.len > 0                           ? given
           : azoi_contains_ci(scope, ".azure.us/") ? azo_s("https://login.microsoftonline.us")
           : azoi_contains_ci(scope, ".azure.cn/") ? azo_s("https://login.chinacloudapi.cn")
                                                   : azo_s("https://login.microsoftonline.com");
}

static void azoi_form_add(azoi_buf *b, const char *name, azo_str value) {
    if (value.len > 0) {
        azoi_buf_puts(b, name);
        azoi_percent(b, value, "");
    }
}

/* Target and body, one behind the other; returns the target's length. */
static size_t azoi_fetch_write(const azoi_slot *slot, azo_str path, azoi_buf *out) {
    const azoi_identity *id = &slot->client->identity;
    azo_str scope = azoi_buf_view(&slot->scope);
    azoi_buf_str(out, path);
    if (azoi_is_entra(slot)) {
        azoi_form_add(out, "/", azoi_buf_view(&id->tenant_id));
        azoi_buf_puts(out, "/oauth2/v2.0/token");
        size_t target = out->len;
        azoi_form_add(out, "grant_type=client_credentials&client_id=", azoi_buf_view(&id->client_id));
        azoi_form_add(out, "&client_secret=", azoi_buf_view(&id->secret));
        azoi_form_add(out, "&scope=", scope);
        azoi_form_add(out, "&claims=", azoi_buf_view(&slot->claims));
        return target;
    }
    scope.len -= azoi_ends(scope, "/.default") ? sizeof "/.default" - 1 : 0u;
    azoi_buf_puts(out, "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=");
    azoi_percent(out, scope, "");
    if (id->selector != NULL) {
        azoi_buf_char(out, '&');
        azoi_buf_puts(out, id->selector);
        azoi_form_add(out, "=", azoi_buf_view(&id->selected));
    }
    return out->len;
}

/* Expiry counts from here: an answer may lie in the socket for minutes while nobody steps. */
static void azoi_fetch_sign(azo_request *job, azoi_buf *head) {
    (void)head;
    ((azoi_slot *)job->spec.tag)->fetch_sent_at = job->client->pump.now;
}

static const azoi_policy azoi_policy_entra = {800, 8000, 0, {0, 0}};
static const azoi_policy azoi_policy_imds = {1000, 8000, 20000, {404, 410}};
static const azoi_job_ops azoi_fetch_ops = {
    AZOI_KIND_FETCH, NULL, azoi_fetch_sign, NULL, NULL, NULL, azoi_fetch_end, azoi_fetch_refuse, azoi_fetch_finish,
    NULL};

static azo_result azoi_fetch_begin(azoi_slot *slot) {
    azo_client *c = slot->client;
    const azoi_identity *id = &c->identity;
    bool entra = azoi_is_entra(slot);
    /* Nothing has ever answered there, and the chain may have been tried off Azure, where the address swallows
     * packets: one quick try, and no second one until it answers. */
    bool probe = !entra && id->members[AZOI_MEMBER_SECRET] && id->winner != AZOI_MEMBER_IMDS;
    azoi_url url;
    azoi_job_spec spec;
    azoi_buf *text = &c->scratch;
    memset(&spec, 0, sizeof spec);
    azoi_error_clear(&slot->error);
    slot->unavailable = false;
    azoi_buf_clear(text);
    (void)azoi_url_split(entra ? azoi_authority(slot) : azoi_buf_view(&id->imds), &url, NULL); /* checked at open */
    size_t target = azoi_fetch_write(slot, url.path, text);
    spec.ops = &azoi_fetch_ops;
    spec.policy = entra ? &azoi_policy_entra : &azoi_policy_imds;
    spec.origin.host = url.host;
    spec.origin.port = url.port;
    spec.origin.secure = url.secure;
    spec.origin.direct = !entra;
    spec.method = azo_s(entra ? "POST" : "GET");
    spec.target = azoi_view(text->data, target);
    spec.headers = azo_s(entra ? "Accept: application/json\r\nContent-Type: application/x-www-form-urlencoded\r\n"
                               : "Accept: application/json\r\nMetadata: true\r\n");
    spec.body = azoi_skip(azoi_buf_view(text), target);
    spec.has_body = entra;
    spec.connect_ms = entra ? c->connect_ms : probe ? 1000 : 2000;
    spec.first_byte_ms = entra ? 15000 : probe ? 5000 : 20000;
    spec.idle_ms = 5000;
    spec.total_ms = entra ? 30000 : 100000; /* updates of the metadata service take up to 70 s */
    spec.max_retries = entra ? 2 : 4;
    spec.max_body = SIZE_MAX / 2;
    spec.token_body = true;
    spec.tag = slot;
    azo_result r = azoi_buf_failed(text, &slot->error, "The token request");
    r = r == AZO_OK ? azoi_job_new(c, &spec, &slot->fetch, &slot->error) : r;
    if (r == AZO_OK) {
        slot->fetch->final = probe;
    }
    azoi_buf_clear(text);
    return r;
}

/* Asks the first member that can be asked, from slot->member on. PENDING: it runs. */
static azo_result azoi_slot_walk(azoi_slot *slot) {
    const azoi_identity *id = &slot->client->identity;
    if (slot->member == 0) {
        slot->lines[0] = '\0';
    }
    for (; slot->member < AZOI_MEMBER_COUNT; slot->member++) {
        const char *lacks = id->lacks[slot->member];
        if (!id->members[slot->member] || (id->winner >= 0 && id->winner != slot->member)) {
            continue;
        }
        if (lacks[0] == '\0') {
            return azoi_fetch_begin(slot) == AZO_OK ? AZO_PENDING : azoi_slot_fail(slot);
        }
        slot->unavailable = true;
        azoi_slot_line(slot, lacks);
    }
    bool foreign = id->members[AZOI_MEMBER_IMDS] && id->lacks[AZOI_MEMBER_IMDS][0] != '\0';
    azoi_error_clear(&slot->error);
    (void)azoi_fail(&slot->error, AZO_ERR_NO_CREDENTIAL, "No credential works here (%s). %s",
                    id->lacks[foreign ? AZOI_MEMBER_IMDS : AZOI_MEMBER_SECRET],
                    foreign ? "Get the token in azo_client_desc.token_provider, or unset that variable."
                    : !AZOI_HAS_IMDS ? "Set these; this build knows no managed identity (AZO_NO_IMDS)."
                            : "Set these, or give this machine an identity; azo_error.detail has what each said.");
    memcpy(slot->error.detail, slot->lines, sizeof slot->error.detail);
    return azoi_slot_fail(slot);
}

/* ---- the token provider ---- */

static void azoi_provider_happened(azoi_source *source) {
    azoi_slot *slot = AZOI_OF(source, azoi_slot, source);
    if (slot->watch.events != 0) {
        azoi_pump_queue(&slot->client->pump, &slot->node);
    }
}

static size_t azoi_provider_describe(azoi_source *source, azo_watch *out, size_t cap, int32_t *timeout_ms) {
    const azoi_slot *slot = AZOI_OF(source, azoi_slot, source);
    (void)cap; /* there is room for one */
    (void)timeout_ms;
    out[0] = slot->watch;
    out[0].id = source->id;
    return slot->watch.events != 0 ? 1 : 0;
}

/* What it waited for is let go before it is called, since it may close its descriptor in there. */
static azo_result azoi_provider_call(azoi_slot *slot, azo_token_answer *answer, bool abandon) {
    azo_client *c = slot->client;
    const char *claims = slot->claims.len > 0 ? slot->claims.data : NULL;
    azo_token_ask ask = {slot->scope.data, claims, &slot->provider_state, abandon};
    bool outer = c->in_callback;
    slot->watch.events = 0;
    azoi_source_hush(&c->pump, &slot->source);
    azoi_timer_set(&c->pump, &slot->timer, AZOI_NEVER);
    memset(answer, 0, sizeof *answer);
    answer->token = slot->room.data;
    answer->token_cap = abandon ? 0 : AZO_MAX_TOKEN_BYTES;
    answer->wait_fd = -1;
    answer->wait_ms = -1;
    c->in_callback = true; /* refuses what must not be called from a hook */
    azo_result r = c->identity.provider(&ask, answer, c->identity.provider_data);
    c->in_callback = outer;
    return r;
}

/* The ask is over, with its answer or without. */
static void azoi_provider_done(azoi_slot *slot, bool abandon) {
    azo_token_answer answer;
    if (abandon) {
        (void)azoi_provider_call(slot, &answer, true);
    }
    slot->fetching = false;
    slot->provider_state = NULL;
    azoi_buf_free(&slot->room);
}

static azo_result azoi_provider_wait(azoi_slot *slot, const azo_token_answer *answer) {
    azoi_pump *p = &slot->client->pump;
    slot->watch.fd = answer->wait_fd;
    slot->watch.events = answer->wait_fd != -1 ? answer->wait_events & (unsigned)(AZO_POLL_IN | AZO_POLL_OUT) : 0u;
    azoi_timer_set(p, &slot->timer, answer->wait_ms < 0 ? AZOI_NEVER : azoi_deadline(p->now, answer->wait_ms));
    if (slot->watch.events == 0 && answer->wait_ms < 0) {
        return azoi_fail(&slot->error, AZO_ERR_PROVIDER, "The token provider returned AZO_PENDING (1) without anything "
                         "to wait for. Make it set wait_fd and wait_events, or wait_ms.");
    }
    return azoi_source_sync(p, &slot->source) ? AZO_PENDING
           : azoi_fail(&slot->error, AZO_ERR_MEMORY, "The event loop could not watch the token provider's descriptor "
                       "%ld. Look at what azo_loop.watch answered.", (long)answer->wait_fd);
}

/* It has answered for good. */
static azo_result azoi_provider_end(azoi_slot *slot, azo_result r, const azo_token_answer *answer) {
    azo_str token = azoi_view(slot->room.data, answer->token_len);
    azo_str reason = azoi_trim(azo_s(answer->error_text != NULL ? answer->error_text : "it gave no reason"));
    if (r != AZO_OK) {
        reason.len -= azoi_ends(reason, ".") ? 1u : 0u;
        return azoi_fail(&slot->error, AZO_ERR_PROVIDER, "The token provider failed (%d): %.*s. Look there, at what "
                         "token_provider points to.", (int)r, reason.len < 300 ? (int)reason.len : 300, reason.ptr);
    }
    if (!azoi_token_ok(token) || answer->expires_in_s < 0) {
        return azoi_fail(&slot->error, AZO_ERR_PROVIDER, "The token provider gave a token that cannot be used "
                         "(token_len %zu, expires_in_s %lld). It may be empty, too long, expired, or hold "
                         "spaces or line ends.", token.len, (long long)answer->expires_in_s);
    }
    return azoi_slot_accept(slot, token, answer->expires_in_s > 0 ? answer->expires_in_s : -1, 0, &slot->error);
}

static azo_result azoi_provider_ask(azoi_slot *slot) {
    azo_token_answer answer;
    bool waits = false;
    bool fresh = slot->room.data == NULL;
    azoi_error_clear(&slot->error);
    azo_result r = azoi_buf_reserve(&slot->room, AZO_MAX_TOKEN_BYTES) ? AZO_OK : azoi_memory(&slot->error);
    if (r == AZO_OK) { /* always, once it has been asked: the room is kept while it waits */
        if (fresh) {
            memset(slot->room.data, 0, slot->room.cap); /* it may say that it wrote more than it did */
        }
        r = azoi_provider_call(slot, &answer, false);
        waits = r == AZO_PENDING;
        r = waits ? azoi_provider_wait(slot, &answer) : azoi_provider_end(slot, r, &answer);
    }
    if (r != AZO_PENDING) {
        azoi_provider_done(slot, waits);
    }
    return r < 0 ? azoi_slot_fail(slot) : r;
}

/* ---- the life of a slot ---- */

/* Or else the chain; it is one of the two that needs slots. */
static bool azoi_asks_provider(const azo_client *c) {
    return AZOI_HAS_SECRET + AZOI_HAS_IMDS == 0 || c->identity.kind == AZOI_IDENTITY_PROVIDER;
}

static void azoi_slot_advance(azoi_node *node) {
    azoi_slot *slot = AZOI_OF(node, azoi_slot, node);
    bool provider = azoi_asks_provider(slot->client);
    if (!slot->fetching || slot->fetch != NULL) {
        return;
    }
    if (!provider) {
        (void)azoi_slot_walk(slot);
    } else if (azoi_list_empty(&slot->waiting) && !azoi_slot_lasts(slot)) {
        azoi_provider_done(slot, true);
    } else {
        (void)azoi_provider_ask(slot);
    }
}

/* Begins a fetch. PENDING: it runs. OK: it is done. A failure is in slot->error. */
static azo_result azoi_slot_fetch(azoi_slot *slot) {
    azoi_buf old = slot->claims;
    slot->claims = slot->wanted;
    slot->wanted = old;
    azoi_buf_clear(&slot->wanted);
    slot->fetches++;
    slot->fetching = true;
    slot->member = 0;
    slot->fetch_sent_at = slot->client->pump.now;
    return azoi_asks_provider(slot->client) ? azoi_provider_ask(slot) : azoi_slot_walk(slot);
}

static void azoi_slot_free(azoi_slot *slot) {
    azo_client *c = slot->client;
    if (slot->fetching && c->identity.kind == AZOI_IDENTITY_PROVIDER) {
        azoi_provider_done(slot, true);
    }
    azoi_source_detach(&c->pump, &slot->source);
    azoi_timer_detach(&c->pump, &slot->timer);
    azoi_link_leave(&slot->node.link);
    azoi_buf_free(&slot->scope);
    azoi_buf_free(&slot->claims);
    azoi_buf_free(&slot->wanted);
    azoi_buf_free(&slot->token);
    azoi_free(&c->allocator, slot, sizeof *slot);
}

static azoi_slot *azoi_slot_new(azo_client *c, azo_str scope) {
    azoi_slot *slot = (azoi_slot *)azoi_alloc(&c->allocator, sizeof *slot);
    if (slot == NULL) {
        return NULL;
    }
    slot->client = c;
    azoi_list_init(&slot->waiting);
    slot->node.advance = azoi_slot_advance;
    slot->source.happened = azoi_provider_happened;
    slot->source.describe = azoi_provider_describe;
    azoi_buf_init(&slot->scope, &c->allocator, AZO_MAX_TOKEN_BYTES, false);
    azoi_buf_init(&slot->claims, &c->allocator, AZOI_REFUSAL_BYTES, false);
    azoi_buf_init(&slot->wanted, &c->allocator, AZOI_REFUSAL_BYTES, false);
    azoi_buf_init(&slot->token, &c->allocator, AZO_MAX_TOKEN_BYTES, true);
    azoi_buf_init(&slot->room, &c->allocator, AZO_MAX_TOKEN_BYTES, true);
    bool ok = azoi_buf_set(&slot->scope, scope);
    if (c->identity.kind == AZOI_IDENTITY_PROVIDER) { /* so that waiting for it never needs memory */
        ok = ok && azoi_timer_attach(&c->pump, &slot->timer, &slot->node);
        ok = ok && azoi_source_attach(&c->pump, &slot->source);
    } else if (c->identity.kind == AZOI_IDENTITY_STATIC) {
        ok = ok && azoi_buf_set(&slot->token, azoi_buf_view(&c->identity.secret));
        slot->usable = true;
        slot->generation = 1;
        slot->refresh_at = AZOI_NEVER;
        slot->expires_at = AZOI_NEVER;
    }
    if (!ok) {
        azoi_slot_free(slot);
        return NULL;
    }
    slot->next = c->slots;
    c->slots = slot;
    return slot;
}

/* The slot of a scope, made if there is none; NULL: no memory. */
static azoi_slot *azoi_slot_of(azo_client *c, azo_str scope) {
    azoi_slot *slot = c->slots;
    while (slot != NULL && !azoi_same(azoi_buf_view(&slot->scope), scope)) {
        slot = slot->next;
    }
    return slot != NULL ? slot : azoi_slot_new(c, scope);
}

static void azoi_slots_free(azo_client *c) {
    while (c->slots != NULL) {
        azoi_slot *slot = c->slots;
        c->slots = slot->next;
        azoi_slot_free(slot);
    }
}

/* ---- for the next run ---- */

/* Only of the chain: a fixed token is at hand anyway, and whose token a provider gives cannot be told. */
static void azoi_slots_export(azo_client *c, int64_t unix_now, azoi_buf *out) {
    int64_t now = c->pump.now;
    for (const azoi_slot *slot = c->slots; slot != NULL; slot = slot->next) {
        if (c->identity.kind == AZOI_IDENTITY_CHAIN && azoi_slot_lasts(slot) && unix_now != 0) {
            azoi_record r = {AZOI_RECORD_TOKEN, c->identity.winner, unix_now + (slot->expires_at - now) / 1000,
                             unix_now + azoi_left(now, slot->refresh_at) / 1000, azoi_buf_view(&slot->scope),
                             azoi_buf_view(&slot->token)};
            azoi_record_put(out, &r);
        }
    }
}

/* PENDING: not to be used, or not needed. */
static azo_result azoi_slots_import(azo_client *c, const azoi_record *r, int64_t unix_now, azo_error *e) {
    azoi_identity *id = &c->identity;
    int64_t left_s = r->time - unix_now;
    int winner = id->winner;
    if (id->kind != AZOI_IDENTITY_CHAIN || r->detail >= AZOI_MEMBER_COUNT || !id->members[r->detail] ||
        id->lacks[r->detail][0] != '\0' || (winner >= 0 && winner != r->detail) ||
        left_s <= AZOI_EXPIRY_MARGIN_MS / 1000 || left_s > INT32_MAX || !azoi_token_ok(r->secret) ||
        !azoi_token_ok(r->name)) {
        return AZO_PENDING;
    }
    azoi_slot *slot = azoi_slot_of(c, r->name);
    if (slot == NULL) {
        return azoi_memory(e);
    }
    if (slot->generation != 0 || slot->fetching) {
        return AZO_PENDING; /* this run's own is newer, or on its way */
    }
    id->winner = (int)r->detail;
    slot->fetch_sent_at = c->pump.now;
    azo_result done = azoi_slot_accept(slot, r->secret, left_s, r->number > unix_now ? r->number - unix_now : 1, e);
    id->winner = done == AZO_OK ? id->winner : winner;
    return done;
}

/* HMAC-SHA256 (RFC 2104), its key made of the client's secret, be it empty, over all that says who the client is and
 * whom it trusts, and over the digest of `state`. */
static azo_result azoi_identity_seal(azo_client *c, azo_str state, unsigned char *out, azo_error *e) {
    enum { BLOCK = 64, BOTH = 64 + AZOI_DIGEST };
    const azoi_identity *id = &c->identity;
    const azoi_buf *const who[] = {&id->tenant_id, &id->client_id, &id->authority,  &id->imds,
                                   &id->selected,  &c->net.ca_file, &c->net.ca_pem};
    unsigned char outer[BOTH] = {0};
    azoi_buf inner;
    azo_result r = azoi_net_digest(&c->net, azoi_buf_view(&id->secret), outer, e);
    azoi_buf_init(&inner, &c->allocator, SIZE_MAX / 2, true);
    for (size_t i = 0; i < BLOCK; i++) {
        azoi_buf_char(&inner, (char)(outer[i] ^ 0x36u));
        outer[i] ^= 0x5cu;
    }
    azoi_number_put(&inner, id->kind);
    azoi_number_put(&inner, (id->members[0] ? 1 : 0) + (id->members[1] ? 2 : 0));
    for (size_t i = 0; i < sizeof who / sizeof who[0]; i++) {
        azoi_text_put(&inner, azoi_buf_view(who[i]));
    }
    azoi_text_put(&inner, azo_s(id->selector));
    r = r == AZO_OK ? azoi_net_digest(&c->net, state, out, e) : r;
    azoi_buf_add(&inner, out, AZOI_DIGEST);
    r = r == AZO_OK ? azoi_buf_failed(&inner, e, "The state") : r;
    r = r == AZO_OK ? azoi_net_digest(&c->net, azoi_buf_view(&inner), outer + BLOCK, e) : r;
    r = r == AZO_OK ? azoi_net_digest(&c->net, azoi_view((const char *)outer, sizeof outer), out, e) : r;
    azoi_wipe(outer, sizeof outer);
    azoi_buf_free(&inner);
    return r;
}

/* ---- what jobs use ---- */

/* `claims`: a challenge to satisfy, so that no token of before will do. */
static azo_result azoi_auth_attach(azo_request *job, azo_str scope, azo_str claims, azo_error *e) {
    azo_client *c = job->client;
    if (c->identity.kind == AZOI_IDENTITY_KEY) {
        return AZO_OK;
    }
    if (!azoi_token_ok(scope) || azoi_equal(scope, "/.default")) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "The scope (%zu bytes) is not a single name. Give one like "
                         "https://cognitiveservices.azure.com/.default.", scope.len);
    }
    if (claims.len > 0 && c->identity.kind == AZOI_IDENTITY_STATIC) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "A fixed token cannot satisfy claims (%zu bytes). Use another "
                         "credential.", claims.len);
    }
    job->slot = azoi_slot_of(c, scope);
    if (job->slot == NULL) {
        return azoi_memory(e);
    }
    if (claims.len > 0) {
        job->fetch_wanted = job->slot->fetches + 1;
        (void)azoi_buf_set(&job->slot->wanted, claims);
        return azoi_buf_failed(&job->slot->wanted, e, "The claims");
    }
    return AZO_OK;
}

static azo_result azoi_auth_authorize(azo_request *job) {
    azoi_slot *slot = job->slot;
    if (slot == NULL) {
        return AZO_OK; /* a key */
    }
    int64_t now = job->client->pump.now;
    if (azoi_slot_lasts(slot) && now >= slot->refresh_at && !slot->fetching && now >= slot->hold_until) {
        (void)azoi_slot_fetch(slot); /* whatever comes of it, the old token serves */
    }
    if (!azoi_slot_serves(slot, job)) {
        if (!slot->fetching && now < slot->hold_until) {
            job->error = slot->error;
            job->error.retry_after_ms = azoi_left(now, slot->hold_until);
            return slot->error.code;
        }
        azo_result r = slot->fetching ? AZO_PENDING : azoi_slot_fetch(slot);
        if (r < 0) {
            job->error = slot->error;
            return r;
        }
        job->fetch_wanted = job->fetch_wanted != 0 ? job->fetch_wanted : slot->fetches;
        if (!azoi_slot_serves(slot, job)) {
            azoi_list_add(&slot->waiting, &job->waiting);
            return AZO_PENDING;
        }
    }
    job->fetch_wanted = 0;
    if (job->refetched && slot->generation == job->generation) { /* IMDS hands out one token for up to a day */
        job->error.http_status = 401;
        return azoi_fail(&job->error, AZO_ERR_UNAUTHORIZED, "The service refused the token (HTTP 401), and asking for "
                         "another gave the same one (source: %s). Check the scope; if roles or groups have just "
                         "changed, wait until the old token is no longer handed out.", azoi_slot_source(slot).ptr);
    }
    job->refetched = false;
    return AZO_OK;
}

static void azoi_auth_sign(azo_request *job, azoi_buf *head) {
    azo_client *c = job->client;
    if (c->identity.kind == AZOI_IDENTITY_KEY) {
        azoi_header_add(head, c->auth_header.data, azoi_buf_view(&c->identity.secret));
    } else {
        job->generation = job->slot->generation;
        azoi_buf_puts(head, "Authorization: Bearer ");
        azoi_buf_str(head, azoi_buf_view(&job->slot->token));
        azoi_buf_puts(head, "\r\n");
    }
}

/* ---- 401 ---- */

/* A token or quoted string at the front of *rest, without its quotes; escapes are left as they are. */
static azo_str azoi_challenge_word(azo_str *rest) {
    size_t quote = azoi_starts(*rest, "\"") ? 1 : 0;
    azo_str all = azoi_skip(*rest, quote);
    size_t len = 0;
    while (len < all.len && strchr(quote ? "\"" : " \t,=\"", all.ptr[len]) == NULL) {
        len += quote > 0 && all.ptr[len] == '\\' && len + 1 < all.len ? 2u : 1u;
    }
    *rest = azoi_trim(azoi_skip(all, len + quote));
    return azoi_view(all.ptr, len);
}

/* The claims of a Bearer challenge with error="insufficient_claims", in base64, or empty; RFC 9110 11.6.1: one header
 * may hold several challenges, each a scheme with parameters between commas. */
static azo_str azoi_challenge_claims(azo_str value) {
    azo_str none = azoi_view(NULL, 0);
    azo_str claims = none;
    bool is_bearer = false;
    bool is_claims = false;
    for (value = azoi_trim(value); value.len > 0;) {
        if (strchr(",=\"", value.ptr[0]) != NULL) {
            value = azoi_trim(azoi_skip(value, 1));
            continue;
        }
        azo_str name = azoi_challenge_word(&value);
        if (azoi_starts(value, "=")) {
            value = azoi_trim(azoi_skip(value, 1));
            azo_str word = azoi_challenge_word(&value);
            is_claims = azoi_equal_ci(name, "error") ? azoi_equal_ci(word, "insufficient_claims") : is_claims;
            claims = azoi_equal_ci(name, "claims") ? word : claims;
        } else if (is_bearer && is_claims && claims.len > 0) {
            break; /* what follows is another challenge */
        } else {
            is_bearer = azoi_equal_ci(name, "Bearer");
            is_claims = false;
            claims = none;
        }
    }
    return is_bearer && is_claims ? claims : none;
}

/* Decodes a claims challenge of the answer into slot->wanted, which stays empty where there is none that is legible. */
static azo_result azoi_auth_claims(azo_request *job) {
    azoi_buf *wanted = &job->slot->wanted;
    azo_str rest = job->head.headers;
    azo_str name;
    azo_str value;
    azo_str claims = azoi_view(NULL, 0);
    size_t bad;
    while (claims.len == 0 && azoi_header_next(&rest, &name, &value)) {
        claims = azoi_equal_ci(name, "www-authenticate") ? azoi_challenge_claims(value) : claims;
    }
    azoi_buf_clear(wanted);
    if (claims.len == 0 || !azoi_buf_reserve(wanted, claims.len)) {
        return azoi_buf_failed(wanted, &job->error, "The claims challenge");
    }
    if (!azoi_base64_decode(claims, (unsigned char *)wanted->data, claims.len, &wanted->len) ||
        !azoi_json_check(azoi_buf_view(wanted), &bad)) {
        wanted->len = 0;
    }
    wanted->data[wanted->len] = '\0';
    return AZO_OK;
}

static azo_result azoi_auth_challenge(azo_request *job) {
    azoi_slot *slot = job->slot;
    int64_t now = job->client->pump.now;
    /* "PermissionDenied": the token is fine, the identity lacks a role, so another token would not help. */
    if (slot == NULL || job->client->identity.kind == AZOI_IDENTITY_STATIC ||
        azoi_contains_ci(azoi_buf_view(&job->body), "\"PermissionDenied\"")) {
        return AZO_ERR_UNAUTHORIZED;
    }
    job->fetch_wanted = 0;
    if (slot->generation != job->generation) {
        return AZO_OK; /* renewed meanwhile */
    }
    if (now < slot->force_after && slot->usable && !slot->fetching) {
        return AZO_ERR_UNAUTHORIZED;
    }
    if (now >= slot->force_after) {
        /* What is running was begun before the token was known to be bad, and will do unless claims are asked for. */
        azo_result r = azoi_auth_claims(job);
        if (r != AZO_OK) {
            return r;
        }
        job->fetch_wanted = slot->wanted.len > 0 ? slot->fetches + 1 : 0;
        slot->force_after = now + AZOI_HOLD_FORCED_MS;
        slot->hold_until = 0;
        slot->usable = false;
        azoi_log(&job->client->net, AZO_LOG_INFO, "* the token was refused; asking for another");
    } else if (slot->fetching) {
        job->fetch_wanted = slot->fetches; /* a renewal that runs already */
    }
    job->refetched = true;
    return AZO_OK;
}

/* >>calls */

/* The typed calls, the raw one, and histories. Each call exists three times here: azo_X_begin checks the desc and
 * serialises it into client->scratch, the ops of its kind turn the answer into a reply while it comes, azo_X_end hands
 * the reply out. A reply lives in one block of its own. azo_X_begin may run inside an event callback, so it touches
 * neither client->decoded nor client->tokens. Refusals are tokenised by jsmn; the hot shapes, chat replies and
 * embeddings, are scanned. */

enum {
    AZOI_SCRATCH_KEPT = 256 * 1024, /* a larger scratch buffer is let go after use */
    AZOI_MAX_INDEX = 128, /* of choices and tool calls; a hostile one must not make us allocate */
    AZOI_MAX_PARTS = 512, /* choices and tool calls together */
    AZOI_MAX_FILTERS = 4096 /* bytes of filter results that are merged */
};

static void azoi_buf_slim(azoi_buf *b) {
    if (b->cap > AZOI_SCRATCH_KEPT) {
        azoi_buf_free(b);
    }
    azoi_buf_clear(b);
}

/* Whether the text is one of several words with | between them, or, with `inside`, has one of them in it; any case. */
static bool azoi_matches(azo_str text, const char *list, bool inside) {
    char word[48];
    while (list[0] != '\0') {
        size_t len = strcspn(list, "|");
        snprintf(word, sizeof word, "%.*s", (int)len, list);
        if (inside ? azoi_contains_ci(text, word) : azoi_equal_ci(text, word)) {
            return true;
        }
        list += len + (list[len] == '|' ? 1 : 0);
    }
    return false;
}

static bool azoi_one_of(azo_str text, const char *list) {
    return azoi_matches(text, list, false);
}

/* Clears the caller's error; `argument`: the number of one that is NULL and must not be, 0: none is. */
static azo_result azoi_begin(azo_error *err, int argument) {
    if (err != NULL) {
        azoi_error_clear(err);
    }
    return argument == 0 ? AZO_OK : azoi_fail(err, AZO_ERR_ARGUMENT, "The pointer is NULL (argument %d). Pass a valid "
                                              "one.", argument);
}

/* ---- replies ---- */

/* A copy with a NUL behind it; the block was made large enough. */
static azo_str azoi_owned_put(azoi_owned *o, azo_str text) {
    char *start = o->at;
    if (text.ptr == NULL) {
        return text;
    }
    memcpy(start, text.ptr, text.len);
    start[text.len] = '\0';
    o->at += text.len + 1;
    return azoi_view(start, text.len);
}

static void azoi_owned_free(azoi_owned *o) {
    if (o != NULL) {
        azo_allocator allocator = o->allocator;
        size_t size = o->size;
        azoi_buf_free(&o->body);
        azoi_free(&allocator, o->vectors, o->vectors_size);
        if (o->secret) {
            azoi_wipe(o, size);
        }
        azoi_free(&allocator, o, size);
    }
}

/* Every reply begins with void *owned. */
static void azoi_reply_free(void *reply, size_t size) {
    void *owned;
    if (reply != NULL) {
        memcpy(&owned, reply, sizeof owned);
        azoi_owned_free((azoi_owned *)owned);
        memset(reply, 0, size);
    }
}

/* Then it is copied into the reply, and its block serves the next request. */
static bool azoi_body_is_small(const azo_request *job) {
    return job->body.cap <= AZOI_SPARE_BYTES;
}

/* What stands behind the head of the block: the reply, and then its tables. */
static void *azoi_owned_reply(azoi_owned *o) {
    return (char *)o + azoi_aligned(sizeof *o);
}

/* The block of job's reply, with room for the reply and its tables, for `texts` bytes of text (NULs included), for the
 * headers, twice, and for a small body. Returns the reply, zeroed but for its owner; NULL: no memory, as job->error
 * says. */
static void *azoi_owned_new(azo_request *job, size_t tables, size_t texts) {
    size_t head = azoi_aligned(sizeof(azoi_owned)) + azoi_aligned(tables);
    size_t body = azoi_body_is_small(job) ? job->body.len + 1 : 0;
    size_t size;
    azoi_owned *o = NULL;
    if (azoi_sum(head + 2 * (job->head.headers.len + 1) + body, texts, &size)) {
        o = (azoi_owned *)azoi_resize(&job->allocator, NULL, 0, size);
    }
    if (o == NULL) {
        (void)azoi_memory(&job->error);
        return NULL;
    }
    memset(o, 0, head);
    o->allocator = job->allocator;
    o->size = size;
    o->at = (char *)o + head;
    ((azoi_answer *)job->data)->owned = o;
    memcpy(azoi_owned_reply(o), &o, sizeof o);
    return azoi_owned_reply(o);
}

/* A number that counts something; `otherwise` if it is none, -1 if it makes no sense. */
static int64_t azoi_count_of(azo_str value, int64_t otherwise) {
    uint64_t number;
    if (!azoi_starts(value, "-") && (value.len == 0 || !azoi_is_digit(value.ptr[0]))) {
        return otherwise;
    }
    return azoi_parse_u64(value, &number) && number <= INT64_MAX ? (int64_t)number : -1;
}

/* "10" (seconds), "17ms", "6m0s": milliseconds; -1 for anything else. */
static int32_t azoi_limit_wait(azo_str text) {
    double total = text.len > 0 ? 0 : -1;
    while (text.len > 0) {
        size_t digits = strspn(text.ptr, "0123456789."); /* a line end or a NUL stands behind every header value */
        azo_str unit = azoi_view(text.ptr + digits, strspn(text.ptr + digits, "hms"));
        double value;
        if (!azoi_parse_double(azoi_view(text.ptr, digits), &value) ||
            (!azoi_one_of(unit, "ms|s|m|h") && digits < text.len)) {
            return -1;
        }
        bool minutes = azoi_equal(unit, "m");
        total += value * (azoi_equal(unit, "ms") ? 1 : minutes ? 60e3 : azoi_equal(unit, "h") ? 36e5 : 1e3);
        text = azoi_skip(text, digits + unit.len);
    }
    return total >= INT32_MAX ? INT32_MAX : (int32_t)total;
}

static void azoi_http_clear(azo_http *http) {
    memset(http, 0, sizeof *http);
    memset(&http->limits, 0xff, sizeof http->limits); /* -1 everywhere */
}

AZO_API azo_str azo_http_header(const azo_http *http, const char *name) {
    azo_str value = http != NULL && name != NULL ? azoi_header(http->headers, name) : azoi_view(NULL, 0);
    return value.ptr != NULL ? azoi_view(value.ptr + http->headers.len + 1, value.len) : value;
}

/* The header block is followed by a twin of itself in which a NUL stands behind every value: views that are handed out
 * point into that. */
static void azoi_owned_headers(azoi_owned *o, azo_str headers, azo_http *http) {
    enum { REGION, APIM_ID, ID, LEFT_REQUESTS, LEFT_TOKENS, MOST_REQUESTS, MOST_TOKENS, WAIT_REQUESTS, WAIT_TOKENS,
           WAIT_TOKENS_TOO, COUNT };
    static const azo_str names[COUNT] = {
        {"x-ms-region", 11}, {"apim-request-id", 15}, {"x-request-id", 12}, {"x-ratelimit-remaining-requests", 30},
        {"x-ratelimit-remaining-tokens", 28}, {"x-ratelimit-limit-requests", 26}, {"x-ratelimit-limit-tokens", 24},
        {"x-ratelimit-reset-requests", 26}, {"x-ratelimit-reset-tokens", 24}, {"x-rate-limit-reset-tokens", 25}};
    azo_str found[COUNT];
    azo_str name;
    azo_str value;
    memset(found, 0, sizeof found);
    http->headers = azoi_owned_put(o, headers);
    char *twin = o->at;
    azo_str rest = azoi_owned_put(o, headers);
    while (azoi_header_next(&rest, &name, &value)) {
        twin[(size_t)(value.ptr - twin) + value.len] = '\0';
        for (size_t i = 0; i < COUNT; i++) {
            if (name.len == names[i].len && found[i].ptr == NULL && azoi_same_ci(name, names[i])) {
                found[i] = value;
            }
        }
    }
    http->region = found[REGION];
    http->request_id = found[found[APIM_ID].len > 0 ? APIM_ID : ID];
    http->limits.remaining_requests = azoi_count_of(found[LEFT_REQUESTS], -1);
    http->limits.remaining_tokens = azoi_count_of(found[LEFT_TOKENS], -1);
    http->limits.limit_requests = azoi_count_of(found[MOST_REQUESTS], -1);
    http->limits.limit_tokens = azoi_count_of(found[MOST_TOKENS], -1);
    http->limits.reset_requests_ms = azoi_limit_wait(found[WAIT_REQUESTS]);
    http->limits.reset_tokens_ms = azoi_limit_wait(found[found[WAIT_TOKENS].len > 0 ? WAIT_TOKENS : WAIT_TOKENS_TOO]);
}

static void azoi_owned_http(azoi_owned *o, azo_request *job, bool with_body, azo_http *http) {
    azoi_http_clear(http);
    http->status = job->head.status;
    http->attempts = job->attempts;
    if (http->status == 0) {
        return;
    }
    azoi_owned_headers(o, job->head.headers, http);
    if (with_body && azoi_body_is_small(job)) {
        http->body = azoi_owned_put(o, azoi_buf_view(&job->body));
    } else if (with_body) {
        o->body = job->body;
        o->body.allocator = &o->allocator;
        azoi_buf_init(&job->body, &job->spares, job->spec.max_body, false);
        http->body = azoi_buf_view(&o->body);
    }
}

/* What every azo_X_end does; `out` was cleared and may be NULL. `seal` makes the reply of a call that failed, or was
 * cut from its client, out of what came. */
static azo_result azoi_end(azo_request *job, azoi_job_kind kind, azo_result (*seal)(azo_request *job), void *out,
                           size_t size, azo_error *err) {
    if (azoi_begin(err, job == NULL ? 1 : 0) != AZO_OK) {
        return AZO_ERR_ARGUMENT;
    }
    if (job->client != NULL && job->client->in_callback) {
        return azoi_fail(err, AZO_ERR_STATE, "An azo_X_end was called inside a callback (error %d). Call it after the "
                         "callback has returned.", (int)AZO_ERR_STATE);
    }
    if (job->ops->kind != kind) {
        azoi_job_free(job);
        return azoi_fail(err, AZO_ERR_ARGUMENT, "The request is of another kind than its azo_X_end (error %d). Use the "
                         "end function that belongs to its begin function.", (int)AZO_ERR_ARGUMENT);
    }
    if (job->state != AZOI_JOB_DONE) {
        return AZO_PENDING;
    }
    azo_result result = job->result;
    azoi_answer *answer = (azoi_answer *)job->data;
    if (result != AZO_OK && err != NULL) {
        *err = job->error;
    }
    if (out != NULL && (answer->owned != NULL || (seal != NULL && seal(job) == AZO_OK))) {
        memcpy(out, azoi_owned_reply(answer->owned), size);
        answer->owned = NULL;
    }
    azoi_job_free(job);
    return result;
}

/* ---- header lines of the user ---- */

/* Framing and connection are the library's business. */
static bool azoi_header_reserved(azo_str name) {
    return azoi_one_of(name, "host|content-length|transfer-encoding|connection|content-type|expect|upgrade|te|trailer|"
                             "keep-alive|proxy-connection");
}

static azo_result azoi_header_lines(azoi_buf *lines, const azo_header *headers, size_t count, azo_error *e) {
    for (size_t i = 0; i < count; i++) {
        if (headers == NULL || headers[i].name == NULL || headers[i].value == NULL ||
            !azoi_header_ok(azo_s(headers[i].name), azo_s(headers[i].value))) {
            return azoi_fail(e, AZO_ERR_ARGUMENT, "Header number %zu has no valid name, or a control character in its "
                             "value. Names are letters, digits and dashes; values are one line.", i);
        }
        azo_str name = azo_s(headers[i].name);
        if (azoi_header_reserved(name) || azoi_one_of(name, "authorization|api-key")) {
            return azoi_fail(e, AZO_ERR_ARGUMENT, "Header number %zu (%s) is written by the library. Leave it out; "
                             "credentials and content types have fields of their own.", i, headers[i].name);
        }
        azoi_header_add(lines, headers[i].name, azo_s(headers[i].value));
    }
    return azoi_buf_failed(lines, e, "The headers");
}

/* ---- drafts: a request as it is put together in client->scratch ---- */

/* What lies in the scratch buffer, each behind the one before it. */
enum { AZOI_PART_TARGET, AZOI_PART_HEADERS, AZOI_PART_OWN_HEADERS, AZOI_PART_BODY, AZOI_PART_COUNT };

typedef struct azoi_draft {
    azo_client *client;
    const azo_call *call;
    azo_error *error;
    azo_str host; /* NULL: there is no endpoint */
    bool dated;   /* the route */
    azo_str version;
    azo_str deployment;
    azo_str scope;
    azo_str claims;
    size_t ends[AZOI_PART_COUNT]; /* of the parts; 0: there is no such part */
    azoi_job_spec spec; /* all that does not lie in the scratch buffer */
} azoi_draft;

/* What RFC 3986 lets stand in one segment of a path. */
#define AZOI_SEGMENT "!$&'()*+,;=:@"

static azo_str azoi_draft_part(const azoi_draft *d, int part) {
    return azoi_skip(azoi_view(d->client->scratch.data, d->ends[part]), part > 0 ? d->ends[part - 1] : 0);
}

/* The next segment of a path; empty ones are passed over. */
static bool azoi_segment_next(azo_str *path, azo_str *segment) {
    while (azoi_starts(*path, "/")) {
        *path = azoi_skip(*path, 1);
    }
    *segment = azoi_view(path->ptr, azoi_find(*path, '/'));
    *path = azoi_skip(*path, segment->len);
    return segment->len > 0;
}

/* Cuts the path at its last "openai", or else at "deployments" or a "v1" at its end. */
static void azoi_route_path(azoi_route *route, azo_str path, azo_str *deployment) {
    azo_str rest = path;
    azo_str segment;
    azo_str none;
    size_t cut = path.len;
    while (azoi_segment_next(&rest, &segment)) {
        azo_str behind = rest;
        bool openai = azoi_equal_ci(segment, "openai");
        bool deployments = azoi_equal_ci(segment, "deployments");
        bool v1 = azoi_equal_ci(segment, "v1") && !azoi_segment_next(&behind, &none);
        if (openai || (cut == path.len && (deployments || v1))) {
            cut = (size_t)(segment.ptr - path.ptr);
            route->bare = !openai;
        }
        if (deployments) {
            (void)azoi_segment_next(&rest, deployment);
            break;
        }
    }
    route->prefix = azoi_view(path.ptr, cut);
}

static azo_str azoi_query_get(azo_str query, const char *name) {
    while (query.len > 0) {
        azo_str pair = azoi_view(query.ptr, azoi_find(query, '&'));
        size_t equals = azoi_find(pair, '=');
        if (azoi_equal_ci(azoi_view(pair.ptr, equals), name)) {
            return azoi_skip(pair, equals + 1);
        }
        query = azoi_skip(query, pair.len + 1);
    }
    return azoi_view(NULL, 0);
}

static void azoi_percent_decode(azoi_buf *out, azo_str text) {
    for (size_t i = 0; i < text.len; i++) {
        bool escape = text.ptr[i] == '%' && text.len - i > 2 && azoi_hex(text.ptr[i + 1]) >= 0 &&
                      azoi_hex(text.ptr[i + 2]) >= 0;
        azoi_buf_char(out, escape ? (char)(azoi_hex(text.ptr[i + 1]) * 16 + azoi_hex(text.ptr[i + 2])) : text.ptr[i]);
        i += escape ? 2 : 0;
    }
}

/* Takes any spelling that users paste. */
static azo_result azoi_route_set(azoi_route *route, azo_str endpoint, azo_error *e) {
    azoi_buf *b = &route->text;
    azoi_url url;
    azo_error why;
    azo_str deployment = azoi_view(NULL, 0);
    if (azoi_same(azoi_buf_view(&route->endpoint), endpoint)) {
        return AZO_OK;
    }
    azoi_buf_clear(&route->endpoint);
    azoi_buf_clear(b);
    if (!azoi_contains_ci(endpoint, "://")) {
        azoi_buf_puts(b, "https://");
    }
    azoi_buf_str(b, endpoint);
    (void)azoi_buf_reserve(b, endpoint.len); /* the deployment is decoded from this buffer into itself */
    azo_result r = azoi_buf_failed(b, e, "The endpoint");
    if (r != AZO_OK) {
        return r;
    }
    azoi_error_clear(&why);
    if (azoi_url_split(azoi_buf_view(b), &url, &why) != AZO_OK) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "Endpoint: %s", why.message);
    }
    if (url.userinfo.len > 0 || (!url.secure && !azoi_is_loopback(url.host))) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "The endpoint on %.*s would show a credential to others (error %d). Use "
                         "https:// without a user name; http:// is for loopback addresses.",
                         (int)url.host.len, url.host.ptr, (int)AZO_ERR_ARGUMENT);
    }
    route->origin.secure = url.secure;
    route->origin.port = url.port;
    route->origin.host = url.host;
    route->bare = false;
    azoi_route_path(route, url.path, &deployment);
    route->version = azoi_query_get(url.query, "api-version");
    size_t start = b->len;
    azoi_percent_decode(b, deployment);
    route->deployment = azoi_view(b->data + start, b->len - start);
    azoi_buf_str(&route->endpoint, endpoint); /* if that fails, it is read again the next time */
    return AZO_OK;
}

static azo_str azoi_or(const char *text, azo_str otherwise) {
    azo_str given = azo_s(text);
    return given.len > 0 ? given : otherwise;
}

static const char *azoi_scope_for(azo_str host, bool dated) {
    if (azoi_ends_ci(host, ".azure.us")) {
        return "https://cognitiveservices.azure.us/.default";
    }
    if (azoi_ends_ci(host, ".azure.cn")) {
        return "https://cognitiveservices.azure.cn/.default";
    }
    return dated ? "https://cognitiveservices.azure.com/.default" : "https://ai.azure.com/.default";
}

/* A draft with what the endpoint says, if there is one. */
static azo_result azoi_draft_route(azoi_draft *d, azo_client *c, const azo_call *call, azo_error *e) {
    memset(d, 0, sizeof *d);
    d->client = c;
    d->call = call;
    d->error = e;
    azoi_buf_slim(&c->scratch);
    azo_str endpoint = azoi_trim(azoi_or(call->endpoint, azoi_buf_view(&c->endpoint)));
    azo_result r = endpoint.len > 0 ? azoi_route_set(&c->route, endpoint, e) : AZO_OK;
    if (endpoint.len > 0 && r == AZO_OK) {
        d->host = c->route.origin.host;
        d->version = c->route.version;
        d->deployment = c->route.deployment;
    }
    if (c->api_version.len > 0) {
        d->version = azoi_buf_view(&c->api_version);
    }
    d->dated = d->version.len > 0 && !azoi_one_of(d->version, "v1|preview|latest");
    d->scope = c->scope.len > 0 ? azoi_buf_view(&c->scope) : azo_s(azoi_scope_for(d->host, d->dated));
    return r;
}

/* A draft that has an endpoint and a deployment. Whatever is missing is said at once. */
static azo_result azoi_draft_open(azoi_draft *d, azo_client *c, const azo_call *call, const char *deployment,
                                  bool needs_deployment, azo_error *e) {
    static const char *const missing[][2] = {
        {"deployment", "AZURE_OPENAI_DEPLOYMENT"}, {"endpoint", "AZURE_OPENAI_ENDPOINT"},
        {"endpoint, like the deployment,", "AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_DEPLOYMENT"}};
    azo_result r = azoi_draft_route(d, c, call, e);
    if (r != AZO_OK) {
        return r;
    }
    bool usual = needs_deployment && c->deployment.len > 0;
    d->deployment = azoi_or(deployment, usual ? azoi_buf_view(&c->deployment) : d->deployment);
    bool unnamed = needs_deployment && d->deployment.len == 0;
    if (d->host.ptr == NULL || unnamed) {
        const char *const *m = missing[d->host.ptr != NULL ? 0 : unnamed ? 2 : 1];
        return azoi_fail(e, AZO_ERR_ARGUMENT, "The %s is not set. Give it in azo_client_desc, in the call, or by %s.",
                         m[0], m[1]);
    }
    if (azoi_equal(d->deployment, ".") || azoi_equal(d->deployment, "..")) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "The deployment cannot be named '%s'. Give the name that the portal "
                         "shows.", d->deployment.len == 1 ? "." : "..");
    }
    return AZO_OK;
}

/* `path` is relative to the root of the route; `query` is encoded. */
static void azoi_draft_target(azoi_draft *d, bool with_deployment, azo_str path, azo_str query) {
    azoi_buf *b = &d->client->scratch;
    azo_str prefix = d->client->route.prefix;
    azo_str segment;
    d->spec.origin = d->client->route.origin;
    while (azoi_segment_next(&prefix, &segment)) {
        azoi_buf_char(b, '/');
        azoi_percent(b, segment, AZOI_SEGMENT "%");
    }
    azoi_buf_puts(b, d->client->route.bare ? "" : "/openai");
    azoi_buf_puts(b, d->dated ? "" : "/v1");
    if (with_deployment && d->dated) {
        azoi_buf_puts(b, "/deployments/");
        azoi_percent(b, d->deployment, AZOI_SEGMENT);
    }
    azoi_percent(b, path, AZOI_SEGMENT "/%");
    if (query.len > 0) {
        azoi_buf_char(b, '?');
        azoi_buf_str(b, query);
    }
    if (d->version.len > 0 && !azoi_equal_ci(d->version, "v1") && azoi_query_get(query, "api-version").ptr == NULL) {
        azoi_buf_puts(b, query.len > 0 ? "&api-version=" : "?api-version=");
        azoi_percent(b, d->version, "");
    }
    d->ends[AZOI_PART_TARGET] = b->len;
}

static azo_result azoi_draft_headers(azoi_draft *d, const char *content_type, const char *accept) {
    azoi_buf *b = &d->client->scratch;
    if (!azoi_header_ok(azo_s("Accept"), azo_s(accept)) ||
        (content_type != NULL && !azoi_header_ok(azo_s("Content-Type"), azo_s(content_type)))) {
        return azoi_fail(d->error, AZO_ERR_ARGUMENT, "content_type or accept has a control character in it (error %d). "
                         "Write a media type, like application/json.", (int)AZO_ERR_ARGUMENT);
    }
    if (content_type != NULL) {
        azoi_header_add(b, "Content-Type", azo_s(content_type));
    }
    azoi_header_add(b, "Accept", azo_s(accept));
    d->ends[AZOI_PART_HEADERS] = b->len;
    azoi_buf_str(b, azoi_buf_view(&d->client->headers));
    azo_result r = azoi_header_lines(b, d->call->headers, d->call->header_count, d->error);
    d->ends[AZOI_PART_OWN_HEADERS] = b->len;
    return r;
}

static const azoi_policy azoi_service_policy = {500, 8000, 0, {409, 0}};

/* A slip, like a difference that came out negative, must not mean "no limit". */
static azo_result azoi_limits_ok(const char *desc, const char *const *names, const int32_t *given, size_t count,
                                 azo_error *e) {
    for (size_t i = 0; i < count; i++) {
        if (given[i] < AZO_OFF) {
            return azoi_fail(e, AZO_ERR_ARGUMENT, "%s.%s is %ld. Use a positive number, 0 for the default, or AZO_OFF.",
                             desc, names[i], (long)given[i]);
        }
    }
    return AZO_OK;
}

static azo_result azoi_spec_limits(const azo_client *c, const azo_call *call, azoi_job_spec *spec, azo_error *e) {
    static const char *const names[] = {"connect_timeout_ms", "first_byte_timeout_ms", "idle_timeout_ms",
                                        "total_timeout_ms", "max_retries"};
    int retries = call->max_retries != 0 ? call->max_retries : c->max_retries;
    spec->policy = &azoi_service_policy;
    spec->connect_ms = call->connect_timeout_ms != 0 ? call->connect_timeout_ms : c->connect_ms;
    spec->first_byte_ms = call->first_byte_timeout_ms != 0 ? call->first_byte_timeout_ms : c->first_byte_ms;
    spec->idle_ms = call->idle_timeout_ms != 0 ? call->idle_timeout_ms : c->idle_ms;
    spec->total_ms = call->total_timeout_ms != 0 ? call->total_timeout_ms : c->total_ms;
    spec->max_retries = retries > 0 ? retries : 0;
    spec->max_body = c->max_response;
    spec->tag = call->tag;
    if ((call->connect_timeout_ms | call->first_byte_timeout_ms | call->idle_timeout_ms | call->total_timeout_ms |
         call->max_retries) >= 0) {
        return AZO_OK; /* none is negative */
    }
    const int32_t given[] = {call->connect_timeout_ms, call->first_byte_timeout_ms, call->idle_timeout_ms,
                             call->total_timeout_ms, call->max_retries};
    return azoi_limits_ok("azo_call", names, given, 5, e);
}

/* The draft becomes a request, with data_size bytes for its kind. */
static azo_result azoi_draft_send(azoi_draft *d, const azoi_job_ops *ops, size_t data_size, azo_request **out) {
    azo_request *job;
    azoi_job_spec *spec = &d->spec;
    azo_result r = azoi_spec_limits(d->client, d->call, spec, d->error);
    spec->ops = ops;
    spec->data_size = data_size;
    spec->target = azoi_draft_part(d, AZOI_PART_TARGET);
    spec->headers = azoi_draft_part(d, AZOI_PART_HEADERS);
    spec->own_headers = azoi_draft_part(d, AZOI_PART_OWN_HEADERS);
    if (d->ends[AZOI_PART_BODY] > 0) {
        spec->body = azoi_draft_part(d, AZOI_PART_BODY);
    }
    r = r == AZO_OK ? azoi_job_new(d->client, spec, &job, d->error) : r;
    if (r != AZO_OK) {
        return r;
    }
    r = azoi_auth_attach(job, d->scope, d->claims, d->error);
    if (r != AZO_OK) {
        azoi_job_free(job);
        return r;
    }
    azoi_answer *answer = (azoi_answer *)job->data;
    azoi_clean(answer->version, sizeof answer->version, d->dated ? d->version : azoi_view(NULL, 0));
    azoi_clean(answer->deployment, sizeof answer->deployment, d->deployment);
    azoi_buf_slim(&d->client->scratch);
    *out = job;
    return AZO_OK;
}

/* Target and headers of a typed call. */
static azo_result azoi_draft_post(azoi_draft *d, const char *path, const char *accept) {
    d->spec.method = azo_s("POST");
    d->spec.has_body = true;
    azoi_draft_target(d, true, azo_s(path), azoi_view(NULL, 0));
    return azoi_draft_headers(d, "application/json", accept);
}

/* What every azo_X_begin looks at first. */
static azo_result azoi_may_begin(azo_client *c, const void *desc, azo_request **out, azo_error *err) {
    azo_result r = azoi_begin(err, c == NULL ? 1 : desc == NULL ? 2 : out == NULL ? 3 : 0);
    if (out != NULL) {
        *out = NULL;
    }
    if (r == AZO_OK && c->closing) {
        return azoi_fail(err, AZO_ERR_STATE, "The client is being closed (error %d). Begin nothing more on it.",
                         (int)AZO_ERR_STATE);
    }
    return r;
}

/* ---- refusals: the one turn from status and body into an error ---- */

/* One kind of refusal: by status (below 10: all that begin with it) or by one of the codes. The first rule that fits
 * decides, and those with codes come first, since a missing role is a 401 and a stream has no status. In the sentences
 * $d is the deployment, $h the host, $p the path (without the query, which may hold a key), $v the version, $s the
 * scope, $f what the filter found, $n how often it was tried, $w how long to wait, $u the unit of the quota. */
typedef struct azoi_rule {
    int status;
    char if_sent;      /* 'k': with an API key; 'r': with a token to an address that a whole region shares; 0: any */
    const char *codes;
    const char *words; /* one of these in what the server said; NULL: whatever it said */
    azo_result result;
    azo_who who;
    const char *what;
    const char *advice;
} azoi_rule;

static const azoi_rule azoi_rules[] = {
    {0, 0, "content_filter|content_policy_violation|ResponsibleAIPolicyViolation", NULL, AZO_ERR_CONTENT_FILTER,
     AZO_WHO_PROMPT,
     AZOI_SENTENCES("The content filter blocked the text$f",
                    "Reword it, or ask the owner of the resource for another filter configuration.")},
    {0, 0, "PermissionDenied|AuthorizationFailed", NULL, AZO_ERR_FORBIDDEN, AZO_WHO_RESOURCE,
     AZOI_SENTENCES("The identity signed in but may not call this deployment",
                    "Give it the role Cognitive Services OpenAI User on the resource and wait five minutes; Owner "
                    "does not suffice.")},
    {0, 0, "DeploymentNotFound|model_not_found", NULL, AZO_ERR_NOT_FOUND, AZO_WHO_RESOURCE,
     AZOI_SENTENCES("No deployment$d on $h",
                    "Use the deployment name, not the model name; new ones need a few minutes.")},
    {429, 0, "rate_limit_exceeded|too_many_requests|TooManyRequests|RateLimitReached|NoCapacity|insufficient_quota",
     NULL, AZO_ERR_RATE_LIMIT, AZO_WHO_WAIT,
     AZOI_SENTENCES("Quota exceeded; $n made", "$w or raise the deployment's $u per minute.")},
    {401, 'r', NULL, NULL, AZO_ERR_UNAUTHORIZED, AZO_WHO_PROGRAM,
     AZOI_SENTENCES("$h is a regional address, which takes API keys only",
                    "Use the resource's own address, like https://name.openai.azure.com.")},
    {401, 0, NULL, "missing subscription key", AZO_ERR_UNAUTHORIZED, AZO_WHO_PROGRAM,
     AZOI_SENTENCES("API Management wants a key of its own",
                    "Give it in azo_client_desc.headers as Ocp-Apim-Subscription-Key, or name its header in "
                    "auth_header.")},
    {401, 'k', NULL, NULL, AZO_ERR_UNAUTHORIZED, AZO_WHO_PROGRAM,
     AZOI_SENTENCES("The API key is not accepted by $h",
                    "Take the key of this very resource, without spaces; it may also have been renewed.")},
    {401, 0, NULL, NULL, AZO_ERR_UNAUTHORIZED, AZO_WHO_IDENTITY,
     AZOI_SENTENCES("The token is not accepted by $h",
                    "Check that it comes from the resource's tenant and that its scope, $s, fits.")},
    {0, 0, "AuthenticationTypeDisabled", NULL, AZO_ERR_FORBIDDEN, AZO_WHO_RESOURCE,
     AZOI_SENTENCES("The resource does not take API keys",
                    "Sign in with Entra ID: leave api_key out, or have key access enabled.")},
    {403, 0, NULL, "TrafficDenied|network|firewall|public access|private endpoint", AZO_ERR_FORBIDDEN,
     AZO_WHO_RESOURCE,
     AZOI_SENTENCES("The resource's network rules keep this machine out",
                    "Have its address allowed in the resource's networking settings, or call through a private "
                    "endpoint.")},
    {403, 0, NULL, NULL, AZO_ERR_FORBIDDEN, AZO_WHO_RESOURCE,
     AZOI_SENTENCES("$h forbids this call",
                    "Ask the owner of the resource about network rules, suspension and roles; detail has the "
                    "server's words.")},
    {404, 0, NULL, NULL, AZO_ERR_NOT_FOUND, AZO_WHO_PROGRAM,
     AZOI_SENTENCES("$h has no $p$v",
                    "Check the endpoint, the deployment's name and api_version: a date like 2024-10-21, not the "
                    "model's version, or none where v1 is offered.")},
    {408, 0, NULL, NULL, AZO_ERR_SERVICE, AZO_WHO_WAIT,
     AZOI_SENTENCES("$h gave up before the answer was ready",
                    "Ask with `stream`, which keeps the gateway awake, or for a shorter answer.")},
    {409, 0, NULL, NULL, AZO_ERR_SERVICE, AZO_WHO_WAIT,
     AZOI_SENTENCES("The request collided with another one at $h", "Wait a little and try again.")},
    {0, 0, "unsupported_parameter", "max_tokens", AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM,
     AZOI_SENTENCES("This model does not take max_tokens", "Set max_completion_tokens instead.")},
    {413, 0, "context_length_exceeded|tokens_limit_reached", NULL, AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM,
     AZOI_SENTENCES("The request is too long for $h", "Send fewer or shorter messages.")},
    {431, 0, NULL, NULL, AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM,
     AZOI_SENTENCES("The request's headers are too large for $h", "Send at most ten headers of your own.")},
    {4, 0, NULL, "api version|api-version", AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM,
     AZOI_SENTENCES("$h refused the request$v", "Set azo_client_desc.api_version to one that detail accepts.")},
    {4, 0, "invalid_request_error|invalid_prompt|BadRequest", NULL, AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM,
     AZOI_SENTENCES("$h refused the request", "See detail for the server's words, and correct the call.")},
    {5, 0, NULL, NULL, AZO_ERR_SERVICE, AZO_WHO_WAIT,
     AZOI_SENTENCES("$h failed", "Try again later; if it lasts, give these numbers to its support.")},
    {0, 0, NULL, NULL, AZO_ERR_HTTP, AZO_WHO_REPORT,
     AZOI_SENTENCES("$h answered with a status that makes no sense here",
                    "Check what stands between here and the service.")},
};

/* What a refusal says, in any of the shapes that are on the wire (azure-openai-wire.md 5.1), cleaned. */
typedef struct azoi_refusal {
    azo_request *job;
    int status;        /* 0: inside a stream that began well */
    char code[64];
    char inner[64];    /* innererror.code */
    char param[64];
    char policy[64];
    char filters[128]; /* which content filters objected */
    char detail[512];  /* the server's words */
} azoi_refusal;

/* Header values of the user's may be keys, too. */
static void azoi_hide(const azo_request *job, azoi_buf *text) {
    azo_str own = job->spec.own_headers;
    azo_str name;
    azo_str value;
    azoi_job_hide(job, text);
    while (azoi_header_next(&own, &name, &value)) {
        azoi_buf_hide(text, value);
    }
}

/* A string, or a number as it is written; nothing for anything else. */
static void azoi_refusal_text(azoi_refusal *r, const azoi_json *json, int token, char *out, size_t cap) {
    azoi_buf *b = &r->job->client->decoded;
    azo_str raw = azoi_json_raw(json, token);
    azoi_buf_clear(b);
    if (!azoi_json_text(json, token, b) && (azoi_is(raw, '-') || (raw.len > 0 && azoi_is_digit(raw.ptr[0])))) {
        azoi_buf_str(b, raw);
    }
    azoi_hide(r->job, b);
    azoi_clean(out, cap, azoi_buf_view(b));
}

/* The first of two members that is there and not null. */
static int azoi_json_either(const azoi_json *json, int object, const char *name, const char *other) {
    int token = azoi_json_get(json, object, name);
    return token < 0 || azoi_is(azoi_json_raw(json, token), 'n') ? azoi_json_get(json, object, other) : token;
}

/* ": violence medium, jailbreak": what has "filtered": true. */
static void azoi_refusal_filters(azoi_refusal *r, const azoi_json *json, int results) {
    int key = azoi_is(azoi_json_raw(json, results), '{') ? azoi_json_child(json, results, results) : -1;
    for (; key >= 0; key = azoi_json_child(json, results, key)) {
        char name[32];
        char severity[16];
        size_t len = strlen(r->filters);
        if (azoi_equal(azoi_json_raw(json, azoi_json_get(json, key + 1, "filtered")), "true")) {
            azoi_refusal_text(r, json, key, name, sizeof name);
            azoi_refusal_text(r, json, azoi_json_get(json, key + 1, "severity"), severity, sizeof severity);
            bool known = azoi_is_word(severity);
            snprintf(r->filters + len, sizeof r->filters - len, "%s%s%s%s", len > 0 ? ", " : ": ",
                     azoi_is_word(name) ? name : "another", known ? " " : "", known ? severity : "");
        }
    }
}

static void azoi_refusal_json(azoi_refusal *r, const azoi_json *json) {
    int error = azoi_json_get(json, 0, "error");
    azo_str raw = azoi_json_raw(json, error);
    int holder = azoi_is(raw, '{') ? error : 0;
    int inner = azoi_json_either(json, holder, "innererror", "inner_error");
    int message = azoi_json_get(json, holder, "message");
    if (!azoi_is(azoi_json_raw(json, message), '"')) {
        message = azoi_is(raw, '"') ? error : azoi_json_either(json, 0, "message", "detail");
    }
    azoi_refusal_text(r, json, azoi_json_either(json, holder, "code", "type"), r->code, sizeof r->code);
    azoi_refusal_text(r, json, azoi_json_get(json, inner, "code"), r->inner, sizeof r->inner);
    azoi_refusal_text(r, json, azoi_json_get(json, holder, "param"), r->param, sizeof r->param);
    azoi_refusal_text(r, json, message, r->detail, sizeof r->detail);
    azoi_refusal_filters(r, json, azoi_json_either(json, inner, "content_filter_result", "content_filter_results"));
}

static void azoi_refusal_read(azoi_refusal *r, azo_str body) {
    azoi_buf *b = &r->job->client->decoded;
    azoi_json json;
    body = azoi_trim(body);
    if (azoi_starts(body, "{") && azoi_json_parse(&r->job->client->tokens, body, &json) == AZO_OK) {
        azoi_refusal_json(r, &json);
    } else if (!azoi_starts(body, "{") && !azoi_starts(body, "[") && azoi_buf_set(b, body)) {
        azoi_hide(r->job, b); /* half a JSON text is left out: it could be half a prompt */
        azoi_clean(r->detail, sizeof r->detail, azoi_buf_view(b));
    }
}

static const azoi_rule *azoi_refusal_rule(const azoi_refusal *r) {
    const azo_request *job = r->job;
    const azoi_rule *rule = azoi_rules;
    const azoi_rule *last = azoi_rules + sizeof azoi_rules / sizeof azoi_rules[0] - 1;
    char sent = job->slot == NULL                                                              ? 'k'
                : azoi_ends_ci(job->spec.origin.host, ".api.cognitive.microsoft.com") ? 'r' : 't';
    uint64_t number = 0;
    int status = r->status;
    if (status == 0) { /* the service failed, unless the code says something else */
        bool numeric = azoi_parse_u64(azo_s(r->code), &number) && number >= 400 && number <= 599;
        status = numeric ? (int)number : 500;
    }
    for (; rule < last; rule++) {
        bool fits = rule->status == status || rule->status == status / 100;
        fits = fits || (rule->codes != NULL && (azoi_one_of(azo_s(r->code), rule->codes) ||
                                                azoi_one_of(azo_s(r->inner), rule->codes)));
        fits = fits && (rule->if_sent == '\0' || rule->if_sent == sent);
        if (fits && (rule->words == NULL || azoi_matches(azo_s(r->detail), rule->words, true) ||
                     azoi_matches(azo_s(r->param), rule->words, true) ||
                     azoi_matches(azo_s(r->policy), rule->words, true))) {
            return rule;
        }
    }
    return last;
}

/* "PermissionDenied, HTTP 401, request 3f...": the code only if it says more than the status. */
static void azoi_refusal_numbers(const azoi_refusal *r, char *out, size_t cap) {
    char status[32] = "inside the stream";
    char id[64];
    if (r->status != 0) {
        snprintf(status, sizeof status, "HTTP %d", r->status);
    }
    bool code = azoi_is_word(r->code) && strcmp(r->code, status + 5) != 0;
    bool param = azoi_is_word(r->param);
    azoi_clean(id, sizeof id, azoi_request_id(r->job->head.headers));
    bool known = azoi_is_word(id);
    snprintf(out, cap, "%s%s%s%s%s%s%s", code ? r->code : "", code ? ", " : "", param ? r->param : "",
             param ? ", " : "", status, known ? ", request " : "", known ? id : "");
}

static void azoi_refusal_name(const azoi_refusal *r, char name, char *out, size_t cap) {
    const azo_request *job = r->job;
    const azoi_answer *answer = (const azoi_answer *)job->data;
    int32_t wait;
    switch (name) {
    case 'd':
        snprintf(out, cap, answer->deployment[0] != '\0' ? " named '%s'" : "%s", answer->deployment);
        break;
    case 'f':
        azoi_clean(out, cap, azo_s(r->filters));
        break;
    case 'h':
        azoi_clean(out, cap, job->spec.origin.host);
        break;
    case 'n':
        snprintf(out, cap, "%d attempt%s", job->attempts, job->attempts == 1 ? "" : "s");
        break;
    case 'p':
        azoi_clean(out, cap, azoi_view(job->spec.target.ptr, azoi_find(job->spec.target, '?')));
        break;
    case 's':
        azoi_clean(out, cap, azoi_buf_view(&job->slot->scope)); /* only said of tokens */
        break;
    case 'u':
        snprintf(out, cap, azoi_matches(azo_s(r->policy), "call|request", true) ? "requests" : "tokens");
        break;
    case 'v':
        snprintf(out, cap, answer->version[0] != '\0' ? " under api_version %s" : "%.0s", answer->version);
        break;
    default:
        wait = azoi_retry_after(job->head.headers, r->status != 0 ? r->status : 429, azoi_net_unix(&job->client->net));
        snprintf(out, cap, wait > 0 ? "Wait %ld s (retry_after_ms)" : "Wait",
                 (long)(wait / 1000 + (wait % 1000 > 0 ? 1 : 0)));
        break;
    }
}

static void azoi_refusal_expand(const azoi_refusal *r, const char *text, char *out, size_t cap) {
    size_t len = 0;
    while (text[0] != '\0' && len + 1 < cap) {
        if (text[0] == '$') {
            size_t room = cap - len < 130 ? cap - len : 130; /* one long name must not push out all else */
            azoi_refusal_name(r, text[1], out + len, room);
            len += strlen(out + len);
            text += 2;
        } else {
            out[len++] = *text++;
        }
    }
    out[len] = '\0';
}

/* Status 0: the refusal came inside a stream that began well. */
static azo_result azoi_refuse(azo_request *job, int status, azo_str body) {
    azoi_refusal r;
    char what[400];
    char advice[400];
    char numbers[256];
    memset(&r, 0, sizeof r);
    r.job = job;
    r.status = status;
    azoi_clean(r.policy, sizeof r.policy, azoi_header(job->head.headers, "policy-id"));
    azoi_refusal_read(&r, body);
    const azoi_rule *rule = azoi_refusal_rule(&r);
    azoi_refusal_numbers(&r, numbers, sizeof numbers);
    azoi_refusal_expand(&r, rule->what, what, sizeof what);
    azoi_refusal_expand(&r, rule->advice, advice, sizeof advice);
    (void)azoi_fail(&job->error, rule->result, "%s (%s). %s", what, numbers, advice);
    job->error.who = rule->who;
    memcpy(job->error.service_code, r.code, sizeof r.code);
    memcpy(job->error.detail, r.detail, sizeof r.detail);
    return rule->result;
}

static azo_result azoi_refused(azo_request *job) {
    return azoi_refuse(job, job->head.status, azoi_buf_view(&job->body));
}

/* A 2xx whose body is something else than was asked for. */
static azo_result azoi_not_json(azo_request *job, const char *otherwise) {
    azo_str body = azoi_trim(azoi_buf_view(&job->body));
    return azoi_fail(&job->error, AZO_ERR_HTTP, "%s answered with %s (HTTP %d). Check the endpoint, and what proxy or "
                     "gateway stands before it.", job->spec.origin.host.ptr,
                     azoi_starts(body, "<") ? "a web page" : otherwise, job->head.status);
}

/* ---- request bodies ---- */

typedef struct azoi_writer {
    azoi_buf *out;
    azo_error *error;
    azo_result result; /* AZO_OK or AZO_ERR_ARGUMENT */
    size_t message;    /* the number of the one that is being written; SIZE_MAX: it has none */
} azoi_writer;

/* A member's name, with the comma before it. */
static void azoi_name(azoi_buf *b, const char *name) {
    azoi_buf_puts(b, b->len > 0 && b->data[b->len - 1] != '{' ? ",\"" : "\"");
    azoi_buf_puts(b, name);
    azoi_buf_puts(b, "\":");
}

/* The message in errors. */
static const char *azoi_message_name(const azoi_writer *w, char out[32]) {
    if (w->message == SIZE_MAX) {
        return "The message";
    }
    (void)snprintf(out, 32, "messages[%zu]", w->message);
    return out;
}

/* The user's JSON without white space round it; of the kind that begins with `open`, 0 meaning any. `what`: NULL: a
 * message, or its content. */
static azo_str azoi_checked(azoi_writer *w, const char *what, const char *text, char open) {
    azo_str json = azoi_trim(azo_s(text));
    size_t offset = 0;
    char name[32];
    if (azoi_json_check(json, &offset) && (open == '\0' || json.ptr[0] == open)) {
        return json;
    }
    w->result = azoi_fail(w->error, AZO_ERR_ARGUMENT, "%s is not valid JSON%s (byte %zu). Correct it: it would be sent "
                          "as it is.", what != NULL ? what : azoi_message_name(w, name),
                          open != '\0' ? ", or no object" : "", offset);
    return azoi_view(NULL, 0);
}

static void azoi_field_text(azoi_writer *w, const char *name, const char *text) {
    if (text != NULL) {
        azoi_name(w->out, name);
        azoi_json_quote(w->out, azo_s(text));
    }
}

static void azoi_field_object(azoi_writer *w, const char *name, const char *what, const char *text) {
    if (text != NULL) {
        azoi_name(w->out, name);
        azoi_buf_str(w->out, azoi_checked(w, what, text, '{'));
    }
}

static void azoi_field_num(azoi_writer *w, const char *name, azo_opt_num number) {
    if (number.set && number.value - number.value != 0) {
        w->result = azoi_fail(w->error, AZO_ERR_ARGUMENT, "The field %s is infinite or no number. Give a finite one.",
                              name);
    } else if (number.set) {
        azoi_name(w->out, name);
        azoi_print_double(w->out, number.value);
    }
}

static void azoi_field_int(azoi_writer *w, const char *name, azo_opt_int number) {
    if (number.set) {
        azoi_name(w->out, name);
        azoi_buf_int(w->out, number.value);
    }
}

static void azoi_field_bool(azoi_writer *w, const char *name, azo_opt_bool flag) {
    if (flag.set) {
        azoi_name(w->out, name);
        azoi_buf_puts(w->out, flag.value ? "true" : "false");
    }
}

static void azoi_field_count(azoi_writer *w, const char *name, int32_t count) {
    if (count < 0) {
        w->result = azoi_fail(w->error, AZO_ERR_ARGUMENT, "The field %s is negative (%ld). Give a positive number, or "
                              "0 to leave it out.", name, (long)count);
    } else if (count > 0) {
        azoi_name(w->out, name);
        azoi_buf_int(w->out, count);
    }
}

static void azoi_write_message(azoi_writer *w, const azo_message *m) {
    azoi_buf *b = w->out;
    char name[32];
    if (m->raw_json != NULL) {
        azoi_buf_str(b, azoi_checked(w, NULL, m->raw_json, '{'));
        return;
    }
    if (m->role == NULL) {
        w->result = azoi_fail(w->error, AZO_ERR_ARGUMENT, "%s has no role. Set role, or raw_json (NULL in the reply of "
                              "a call that failed).", azoi_message_name(w, name));
        return;
    }
    bool both = m->content != NULL && m->content_json != NULL;
    bool none = m->content == NULL && m->content_json == NULL && !azoi_one_of(azo_s(m->role), "assistant|function");
    if (both || none) {
        w->result = azoi_fail(w->error, AZO_ERR_ARGUMENT, "%s has %s. Set either content or content_json (\"null\" "
                              "sends null).", azoi_message_name(w, name),
                              both ? "both content and content_json" : "no content");
        return;
    }
    azoi_buf_char(b, '{');
    azoi_field_text(w, "role", m->role);
    if (m->content != NULL) {
        azoi_field_text(w, "content", m->content);
    } else {
        azoi_name(b, "content");
        azoi_buf_str(b, m->content_json != NULL ? azoi_checked(w, NULL, m->content_json, '\0') : azo_s("null"));
    }
    azoi_field_text(w, "name", m->name);
    azoi_field_text(w, "tool_call_id", m->tool_call_id);
    azoi_buf_char(b, '}');
}

/* ---- histories ---- */

AZOI_HISTORY_API azo_result azo_history_open(azo_client *client, azo_history **out, azo_error *err) {
    azo_result r = azoi_begin(err, client == NULL ? 1 : out == NULL ? 2 : 0);
    if (out != NULL) {
        *out = NULL;
    }
    if (r != AZO_OK) {
        return r;
    }
    azo_history *h = (azo_history *)azoi_alloc(&client->allocator, sizeof *h);
    if (h == NULL) {
        return azoi_memory(err);
    }
    h->allocator = client->allocator;
    azoi_buf_init(&h->text, &h->allocator, SIZE_MAX / 2, false);
    *out = h;
    return AZO_OK;
}

AZOI_HISTORY_API void azo_history_close(azo_history *history) {
    if (history != NULL) {
        azo_allocator allocator = history->allocator;
        azoi_buf_free(&history->text);
        azoi_free(&allocator, history, sizeof *history);
    }
}

AZOI_HISTORY_API azo_result azo_history_add(azo_history *history, const azo_message *message, azo_error *err) {
    azo_result r = azoi_begin(err, history == NULL ? 1 : message == NULL ? 2 : 0);
    if (r != AZO_OK) {
        return r;
    }
    azoi_writer w = {&history->text, err, AZO_OK, SIZE_MAX};
    size_t before = history->text.len;
    azoi_buf_char(w.out, ',');
    azoi_write_message(&w, message);
    r = w.result == AZO_OK ? azoi_buf_failed(w.out, err, "The history") : w.result;
    if (r == AZO_OK) {
        history->count++;
    } else if (w.out->data != NULL) {
        w.out->len = before;
        w.out->data[before] = '\0';
    }
    w.out->failed = AZO_OK;
    return r;
}

AZOI_HISTORY_API azo_result azo_history_add_reply(azo_history *history, const azo_chat_reply *reply, azo_error *err) {
    azo_result r = azoi_begin(err, history == NULL ? 1 : reply == NULL ? 2 : 0);
    if (r != AZO_OK) {
        return r;
    }
    azo_message message = azo_same(reply);
    return azo_history_add(history, &message, err);
}

AZOI_HISTORY_API size_t azo_history_count(const azo_history *history) {
    return history != NULL ? history->count : 0;
}

/* Where the comma before that message is; the end of all for one more. */
static size_t azoi_history_at(const azo_history *history, size_t index) {
    azo_str rest = azoi_buf_view(&history->text);
    azo_str message;
    for (; index > 0; index--) {
        (void)azoi_json_step(&rest, NULL, &message);
    }
    return history->text.len - rest.len;
}

AZOI_HISTORY_API void azo_history_remove(azo_history *history, size_t first, size_t count) {
    if (history == NULL || first >= history->count || count == 0) {
        return;
    }
    azoi_buf *b = &history->text;
    count = count < history->count - first ? count : history->count - first;
    size_t from = azoi_history_at(history, first);
    size_t to = azoi_history_at(history, first + count);
    memmove(b->data + from, b->data + to, b->len - to + 1);
    b->len -= to - from;
    history->count -= count;
}

/* ---- chat: the request ---- */

static void azoi_chat_messages_write(azoi_writer *w, const azo_chat_desc *desc) {
    azoi_buf *b = w->out;
    size_t count = azo_history_count(desc->history);
    azoi_name(w->out, "messages");
    azoi_buf_char(b, '[');
    if (count > 0) {
        azoi_buf_str(b, azoi_skip(azoi_buf_view(&desc->history->text), 1));
    }
    for (size_t i = 0; i < desc->message_count && w->result == AZO_OK && desc->messages != NULL; i++) {
        if (count + i > 0) {
            azoi_buf_char(b, ',');
        }
        w->message = i;
        azoi_write_message(w, &desc->messages[i]);
    }
    azoi_buf_char(b, ']');
    if (desc->message_count > 0 ? desc->messages == NULL : count == 0) {
        w->result = azoi_fail(w->error, AZO_ERR_ARGUMENT, "The call has no messages (message_count %zu). Give "
                              "messages, a history, or both.", desc->message_count);
    }
}

static void azoi_chat_tools_write(azoi_writer *w, const azo_chat_desc *desc) {
    azoi_buf *b = w->out;
    if (desc->tool_count == 0) {
        return;
    }
    azoi_name(w->out, "tools");
    for (size_t i = 0; i < desc->tool_count; i++) {
        const azo_tool *tool = desc->tools != NULL ? &desc->tools[i] : NULL;
        char where[48];
        snprintf(where, sizeof where, "tools[%zu].parameters_json", i);
        if (tool == NULL || tool->name == NULL) {
            w->result = azoi_fail(w->error, AZO_ERR_ARGUMENT, "tools[%zu] has no name. Give it one.", i);
            return;
        }
        azoi_buf_puts(b, i == 0 ? "[" : ",");
        azoi_buf_puts(b, "{\"type\":\"function\",\"function\":{");
        azoi_field_text(w, "name", tool->name);
        azoi_field_text(w, "description", tool->description);
        azoi_field_bool(w, "strict", tool->strict);
        azoi_field_object(w, "parameters", where, tool->parameters_json);
        azoi_buf_puts(b, "}}");
    }
    azoi_buf_char(b, ']');
}

static void azoi_chat_tool_choice_write(azoi_writer *w, const char *choice) {
    if (choice == NULL) {
        return;
    }
    if (azoi_starts(azoi_trim(azo_s(choice)), "{")) {
        azoi_field_object(w, "tool_choice", "tool_choice", choice);
    } else if (azoi_one_of(azo_s(choice), "auto|none|required")) {
        azoi_field_text(w, "tool_choice", choice);
    } else {
        azoi_name(w->out, "tool_choice");
        azoi_buf_puts(w->out, "{\"type\":\"function\",\"function\":{");
        azoi_field_text(w, "name", choice);
        azoi_buf_puts(w->out, "}}");
    }
}

static azoi_writer azoi_write_open(azoi_draft *d) {
    azoi_writer w = {&d->client->scratch, d->error, AZO_OK, 0};
    azoi_buf_char(w.out, '{');
    if (!d->dated) { /* else the path names it */
        azoi_name(w.out, "model");
        azoi_json_quote(w.out, d->deployment);
    }
    return w;
}

/* Where the body has no model, the path has; where it has no stream, none is expected. */
static void azoi_check_extra(azoi_writer *w, azo_str body, azo_str extra) {
    azo_str key;
    azo_str value;
    azo_str ours;
    while (azoi_json_step(&extra, &key, &value)) {
        if (azoi_equal(key, "model") || azoi_equal(key, "stream") || azoi_json_pick(body, key, 0, &ours)) {
            w->result = azoi_fail(w->error, AZO_ERR_ARGUMENT, "extra_json sets \"%.*s\" (%zu bytes), which the "
                                  "library writes itself. Use the field of the desc instead.", (int)key.len, key.ptr,
                                  value.len);
        }
    }
}

/* Closes the body, behind the members of extra_json, of which none may stand in it already. */
static azo_result azoi_write_close(azoi_writer *w, azoi_draft *d, const char *extra_json) {
    azoi_buf *b = w->out;
    azo_str extra = extra_json != NULL ? azoi_checked(w, "extra_json", extra_json, '{') : azoi_view(NULL, 0);
    azo_str members = extra.len > 0 ? azoi_trim(azoi_view(extra.ptr + 1, extra.len - 2)) : extra;
    azoi_buf_char(b, '}');
    if (members.len > 0 && w->result == AZO_OK && b->failed == AZO_OK) {
        azoi_check_extra(w, azoi_skip(azoi_buf_view(b), d->ends[AZOI_PART_OWN_HEADERS]), extra);
        b->data[b->len - 1] = ',';
        azoi_buf_str(b, members);
        azoi_buf_char(b, '}');
    }
    d->ends[AZOI_PART_BODY] = b->len;
    return w->result != AZO_OK ? w->result : azoi_buf_failed(b, d->error, "The request");
}

static azo_result azoi_chat_write(azoi_draft *d, const azo_chat_desc *desc, bool stream) {
    azoi_writer w = azoi_write_open(d);
    azoi_chat_messages_write(&w, desc);
    azoi_chat_tools_write(&w, desc);
    azoi_chat_tool_choice_write(&w, desc->tool_choice);
    azoi_field_object(&w, "response_format", "response_format_json", desc->response_format_json);
    azoi_field_text(&w, "reasoning_effort", desc->reasoning_effort);
    azoi_field_text(&w, "user", desc->user);
    azoi_field_num(&w, "temperature", desc->temperature);
    azoi_field_num(&w, "top_p", desc->top_p);
    azoi_field_num(&w, "presence_penalty", desc->presence_penalty);
    azoi_field_num(&w, "frequency_penalty", desc->frequency_penalty);
    azoi_field_count(&w, "max_completion_tokens", desc->max_completion_tokens);
    azoi_field_count(&w, "max_tokens", desc->max_tokens);
    azoi_field_count(&w, "n", desc->n);
    azoi_field_int(&w, "seed", desc->seed);
    azoi_field_bool(&w, "logprobs", desc->logprobs);
    azoi_field_int(&w, "top_logprobs", desc->top_logprobs);
    azoi_field_bool(&w, "parallel_tool_calls", desc->parallel_tool_calls);
    if (stream) {
        azoi_name(w.out, "stream");
        azoi_buf_puts(w.out, "true");
    }
    if (stream && desc->include_usage.set) {
        azoi_name(w.out, "stream_options");
        azoi_buf_puts(w.out, desc->include_usage.value ? "{\"include_usage\":true}" : "{\"include_usage\":false}");
    }
    return azoi_write_close(&w, d, desc->extra_json);
}

/* ---- events ---- */

/* Forgets what came. */
static void azoi_events_restart(azo_request *job) {
    azoi_events *e = (azoi_events *)job->data;
    azoi_sse_free(&e->sse);
    azoi_sse_init(&e->sse, &job->spares, job->client->max_event);
    e->mode = e->asked ? AZOI_STREAM_UNKNOWN : AZOI_STREAM_WHOLE;
    e->in_event = false;
    e->ended = false;
}

static void azoi_events_drop(azo_request *job) {
    azoi_events *e = (azoi_events *)job->data;
    azoi_owned_free(e->answer.owned);
    azoi_sse_free(&e->sse);
}

static bool azoi_is_stream(const azo_request *job) {
    return AZOI_HAS_STREAM && ((const azoi_events *)job->data)->mode != AZOI_STREAM_WHOLE;
}

/* Whether a body that was asked for as a stream is one. Gateways lose the content type, so it does not count. */
static azoi_stream_mode azoi_stream_decide(azo_str *piece) {
    while (piece->len > 0 && azoi_is_space(piece->ptr[0])) {
        *piece = azoi_skip(*piece, 1);
    }
    bool whole = azoi_is(*piece, '{') || azoi_is(*piece, '<');
    return piece->len == 0 ? AZOI_STREAM_UNKNOWN : whole ? AZOI_STREAM_WHOLE : AZOI_STREAM_EVENTS;
}

static bool azoi_is_done_mark(azo_str data) {
    return azoi_starts(azoi_trim(data), "[DONE]");
}

/* `take` deals with the event in sse. */
static azo_result azoi_events_data(azo_request *job, azo_str *piece, azo_result (*take)(azo_request *job)) {
    azoi_events *e = (azoi_events *)job->data;
    if (e->mode == AZOI_STREAM_UNKNOWN) {
        e->mode = azoi_stream_decide(piece);
    }
    if (e->mode == AZOI_STREAM_WHOLE) {
        return azoi_job_collect(job, piece);
    }
    while (!e->ended) {
        azo_result r = e->in_event ? AZO_OK : azoi_sse_feed(&e->sse, piece, &job->error);
        if (r != AZO_OK) {
            return r == AZO_PENDING ? AZO_OK : r; /* used up */
        }
        r = take(job);
        if (r != AZO_OK) {
            return r;
        }
    }
    job->complete = true;
    return AZO_OK;
}

/* ---- chat: the reply as it grows ---- */

static azo_str azoi_span_view(const azoi_buf *arena, const azoi_span *span) {
    return span->room > 0 ? azoi_view(arena->data + span->at, span->len) : azoi_view(NULL, 0);
}

/* Room for `len` bytes and a NUL. The text at the end of the arena grows where it is; another one moves there and
 * doubles, so that interleaved choices cost no more than their length. */
static bool azoi_span_grow(azoi_buf *arena, azoi_span *span, size_t len) {
    bool last = span->room > 0 && span->at + span->room == arena->len;
    if (len < span->room) {
        return true;
    }
    size_t room = last || span->room == 0 ? len + 1 : 2 * len + 1;
    if (!azoi_buf_reserve(arena, last ? room - span->room : room)) {
        return false;
    }
    if (!last) {
        memmove(arena->data + arena->len, arena->data + span->at, span->len);
        span->at = arena->len;
    }
    span->room = room;
    arena->len = span->at + room;
    return true;
}

static azo_result azoi_span_add(azo_request *job, azoi_span *span, azo_str text) {
    azoi_chat *chat = (azoi_chat *)job->data;
    if (text.len > job->spec.max_body || chat->total > job->spec.max_body - text.len) {
        return azoi_fail(&job->error, AZO_ERR_LIMIT, "The answer is longer than %zu bytes. Raise max_response_bytes if "
                         "that much is expected.", job->spec.max_body);
    }
    if (!azoi_span_grow(&chat->arena, span, span->len + text.len)) {
        return azoi_memory(&job->error);
    }
    char *at = chat->arena.data + span->at + span->len;
    if (text.len > 0) {
        memcpy(at, text.ptr, text.len);
    }
    at[text.len] = '\0';
    span->len += text.len;
    chat->total += text.len;
    return AZO_OK;
}

static azo_result azoi_span_set(azo_request *job, azoi_span *span, azo_str text) {
    ((azoi_chat *)job->data)->total -= span->len;
    span->len = 0;
    return azoi_span_add(job, span, text);
}

/* Finds the choice (tool -1) or the tool call of it, or makes it; NULL: job->error says why not. */
static azoi_chat_part *azoi_chat_part_at(azo_request *job, int64_t choice, int64_t tool) {
    azoi_chat *chat = (azoi_chat *)job->data;
    size_t i = 0;
    while (i < chat->count && (chat->parts[i].choice < choice ||
                               (chat->parts[i].choice == choice && chat->parts[i].tool < tool))) {
        i++;
    }
    if (i < chat->count && chat->parts[i].choice == choice && chat->parts[i].tool == tool) {
        return &chat->parts[i];
    }
    if (choice < 0 || choice >= AZOI_MAX_INDEX || tool >= AZOI_MAX_INDEX || chat->count == AZOI_MAX_PARTS) {
        (void)azoi_fail(&job->error, AZO_ERR_JSON, "The answer has an impossible index (choice %lld, tool call %lld). "
                        "Report it to whoever runs the service or the gateway before it.", (long long)choice,
                        (long long)tool);
        return NULL;
    }
    if (!azoi_buf_reserve(&chat->table, sizeof *chat->parts)) {
        (void)azoi_memory(&job->error);
        return NULL;
    }
    chat->table.len += sizeof *chat->parts;
    chat->parts = (azoi_chat_part *)(void *)chat->table.data;
    memmove(chat->parts + i + 1, chat->parts + i, (chat->count - i) * sizeof *chat->parts);
    memset(chat->parts + i, 0, sizeof *chat->parts);
    chat->parts[i].choice = (int)choice;
    chat->parts[i].tool = (int)tool;
    chat->count++;
    return &chat->parts[i];
}

/* Where a fragment without an index belongs: to the call with its id, to a new one if it brings an id, else to the
 * last one. */
static int64_t azoi_chat_tool_guess(const azoi_chat *chat, int choice, azo_str id) {
    int64_t last = -1;
    for (size_t i = 0; i < chat->count; i++) {
        const azoi_chat_part *part = &chat->parts[i];
        if (part->choice == choice && part->tool >= 0) {
            if (id.len > 0 && azoi_same(azoi_span_view(&chat->arena, &part->id), id)) {
                return part->tool;
            }
            last = part->tool;
        }
    }
    return id.len > 0 || last < 0 ? last + 1 : last;
}

/* ---- chat: a walk over a chunk or a whole reply ----
 *
 * What a chunk brings is dealt with in steps: each goes into the reply and then to the callback. A pause ends the walk
 * behind a step; after it the chunk is walked again, and the steps that were taken are passed over. So whether
 * something is a step must depend on the chunk alone. */

/* The members of these names, in one pass; NULL where one is not there or null. The first of equal ones counts. */
static void azoi_pick(const azoi_json_map *map, azo_str object, const azo_str *names, size_t count, azo_str *values) {
    azoi_json_cursor members = azoi_json_over(map, object, '{');
    azo_str key;
    azo_str value;
    for (size_t i = 0; i < count; i++) {
        values[i] = azoi_view(NULL, 0);
    }
    while (azoi_json_each(&members, &key, &value)) {
        for (size_t i = 0; i < count; i++) {
            if (azoi_same(key, names[i])) {
                values[i] = values[i].ptr == NULL && value.ptr[0] != 'n' ? value : values[i];
                break;
            }
        }
    }
}

/* `taken` bytes are missing in the text, behind `front` of it. */
static azo_result azoi_check_answer(azo_request *job, azo_str text, azoi_json_map *map, size_t front, size_t taken) {
    size_t offset;
    if (azoi_json_check_map(text, map, &offset)) {
        return AZO_OK;
    }
    offset += offset > front ? taken : 0;
    job->error.json_offset = offset;
    return azoi_fail(&job->error, AZO_ERR_JSON, "The answer is malformed JSON, or nested deeper than %d levels (byte "
                     "%zu of %zu). Report it to whoever runs the service or the gateway before it.",
                     (int)AZO_MAX_JSON_DEPTH, offset, text.len + taken);
}

typedef struct azoi_walk {
    azo_request *job;
    azoi_chat *chat;
    azo_str chunk;
    azoi_json_map *map; /* of the chunk */
    unsigned steps;
    azoi_buf *texts;    /* of the step's event */
    azo_event event;
} azoi_walk;

/* Counts a step; true: it was taken before. */
static bool azoi_walk_taken(azoi_walk *w) {
    w->steps++;
    memset(&w->event, 0, sizeof w->event);
    return w->steps <= w->chat->done;
}

/* The last thing in a step. Anything but OK ends the walk at once. */
static azo_result azoi_walk_emit(azoi_walk *w, int kind, int choice) {
    const azoi_events *e = &w->chat->events;
    w->chat->done = w->steps;
    if (e->on_event == NULL) {
        return AZO_OK;
    }
    w->event.kind = kind;
    w->event.choice = choice;
    w->event.json = w->chunk;
    azoi_callback_enter(w->job);
    return azoi_callback_leave(w->job, e->on_event(&w->event, e->user_data));
}

/* Text of an event: a string decoded, or an object as it is written (some servers send arguments so). */
static azo_result azoi_walk_put(azoi_walk *w, azo_str value) {
    azoi_buf_clear(w->texts);
    if (azoi_is(value, '"')) {
        azoi_json_decode(w->texts, azoi_inside(value));
    } else if (azoi_is(value, '{')) {
        azoi_buf_str(w->texts, value);
    }
    w->event.text = azoi_buf_view(w->texts);
    return azoi_buf_failed(w->texts, &w->job->error, "A piece of the answer");
}

/* Filter results come piece by piece; the last one counts for each category. */
static void azoi_filter_merge(azoi_buf *out, azo_str fresh, azo_str old) {
    azo_str key;
    azo_str value;
    azo_str newer;
    azoi_buf_char(out, '{');
    while (azoi_json_step(&old, &key, &value)) {
        azoi_pick(NULL, fresh, &key, 1, &newer);
        if (newer.ptr == NULL) {
            azoi_buf_add(out, key.ptr - 1, (size_t)(value.ptr + value.len - key.ptr) + 1); /* as it is written */
            azoi_buf_char(out, ',');
        }
    }
    azoi_buf_str(out, azoi_skip(fresh, 1));
}

/* Counted here, where the map is at hand. */
static void azoi_walk_usage(azoi_walk *w, azo_str usage) {
    static const azo_str names[] = {{"prompt_tokens", 13}, {"completion_tokens", 17}, {"prompt_tokens_details", 21},
                                    {"completion_tokens_details", 25}};
    static const azo_str inner_names[] = {{"cached_tokens", 13}, {"reasoning_tokens", 16}};
    azo_str v[AZOI_TOKENS_COUNT];
    azoi_pick(w->map, usage, names, AZOI_TOKENS_COUNT, v);
    azoi_pick(w->map, v[AZOI_TOKENS_CACHED], &inner_names[0], 1, &v[AZOI_TOKENS_CACHED]);
    azoi_pick(w->map, v[AZOI_TOKENS_REASONING], &inner_names[1], 1, &v[AZOI_TOKENS_REASONING]);
    for (size_t i = 0; i < AZOI_TOKENS_COUNT; i++) {
        w->chat->tokens[i] = azoi_count_of(v[i], -1);
    }
}

/* The event goes into the reply. */
static azo_result azoi_walk_keep(azoi_walk *w, azo_str value, azoi_span *span, int kind) {
    azo_str old = azoi_span_view(&w->chat->arena, span);
    if (kind == AZO_EVENT_TEXT || kind == AZO_EVENT_REFUSAL) {
        return azoi_span_add(w->job, span, w->event.text);
    }
    if (azoi_same(old, value) || (kind == AZO_EVENT_FINISH && azoi_equal(old, "content_filter"))) {
        return AZO_OK; /* services repeat filter results with every chunk; other reasons may be overridden */
    }
    if (kind == AZO_EVENT_USAGE) {
        azoi_walk_usage(w, value);
    }
    /* A handful of categories; where there are more, comparing each with each could take for ever. */
    if (kind == AZO_EVENT_FILTER && old.len > 0 && old.len + value.len < AZOI_MAX_FILTERS) {
        azoi_buf_clear(w->texts);
        azoi_filter_merge(w->texts, value, old);
        azo_result r = azoi_buf_failed(w->texts, &w->job->error, "A piece of the answer");
        r = r == AZO_OK ? azoi_span_set(w->job, span, azoi_buf_view(w->texts)) : r;
        return r == AZO_OK ? azoi_walk_put(w, value) : r;
    }
    return azoi_span_set(w->job, span, w->event.text);
}

/* A value that is an event of its own. */
static azo_result azoi_walk_piece(azoi_walk *w, azo_str value, azoi_span *span, int kind, int choice) {
    bool object = kind == AZO_EVENT_FILTER || kind == AZO_EVENT_USAGE;
    bool text = kind == AZO_EVENT_TEXT || kind == AZO_EVENT_REFUSAL;
    if (!azoi_is(value, object ? '{' : '"')) {
        return AZO_OK;
    }
    if (object ? *azoi_json_value_start(value.ptr + 1) == '}' : value.len == 2) {
        return text ? azoi_span_add(w->job, span, azoi_view("", 0)) : AZO_OK; /* no event, but it is not null */
    }
    if (azoi_walk_taken(w)) {
        return AZO_OK;
    }
    azo_result r = azoi_walk_put(w, value);
    r = r == AZO_OK ? azoi_walk_keep(w, value, span, kind) : r;
    return r == AZO_OK ? azoi_walk_emit(w, kind, choice) : r;
}

/* Names and ids: the first that is not empty; some servers repeat them with every fragment. */
static azo_result azoi_walk_name(azoi_walk *w, azo_str value, azoi_span *span) {
    if (span->len > 0 || !azoi_is(value, '"') || value.len == 2) {
        return AZO_OK;
    }
    azo_result r = azoi_walk_put(w, value);
    return r == AZO_OK ? azoi_span_set(w->job, span, w->event.text) : r;
}

/* One tool call of a message, or a fragment of one; position -1: where it stands means nothing. */
static azo_result azoi_walk_tool(azoi_walk *w, azo_str value, int choice, int64_t position) {
    static const azo_str names[] = {{"id", 2}, {"index", 5}, {"function", 8}, {"custom", 6}};
    static const azo_str inner_names[] = {{"name", 4}, {"arguments", 9}, {"input", 5}};
    azo_str v[4];
    azo_str f[3];
    azoi_pick(w->map, value, names, 4, v);
    bool custom = v[3].ptr != NULL;
    azoi_pick(w->map, custom ? v[3] : v[2], inner_names, 3, f);
    azo_str arguments = f[custom ? 2 : 1];
    if ((v[0].len <= 2 && f[0].len <= 2 && arguments.len <= 2) || azoi_walk_taken(w)) { /* "" is nothing */
        return AZO_OK;
    }
    if (position < 0) {
        position = azoi_chat_tool_guess(w->chat, choice, azoi_is(v[0], '"') ? azoi_inside(v[0]) : azoi_view(NULL, 0));
    }
    int64_t index = azoi_count_of(v[1], position);
    azoi_chat_part *tool = azoi_chat_part_at(w->job, choice, index < 0 ? (int64_t)AZOI_MAX_INDEX : index);
    if (tool == NULL) {
        return w->job->error.code;
    }
    bool new_id = tool->id.len == 0;
    bool new_name = tool->name.len == 0;
    azo_result r = azoi_walk_name(w, v[0], &tool->id);
    r = r == AZO_OK ? azoi_walk_name(w, f[0], &tool->name) : r;
    r = r == AZO_OK ? azoi_walk_put(w, arguments) : r;
    r = r == AZO_OK ? azoi_span_add(w->job, &tool->text, w->event.text) : r;
    if (r != AZO_OK) {
        return r;
    }
    tool->custom = tool->custom || custom;
    w->event.tool = tool->tool;
    w->event.tool_id = new_id ? azoi_span_view(&w->chat->arena, &tool->id) : azoi_view(NULL, 0);
    w->event.tool_name = new_name ? azoi_span_view(&w->chat->arena, &tool->name) : azoi_view(NULL, 0);
    return azoi_walk_emit(w, AZO_EVENT_TOOL_CALL, choice);
}

static azo_result azoi_walk_choice(azoi_walk *w, azo_str value, int64_t position) {
    static const azo_str names[] = {{"index", 5}, {"delta", 5}, {"message", 7}, {"finish_reason", 13},
                                    {"content_filter_results", 22}};
    static const azo_str message_names[] = {{"content", 7}, {"refusal", 7}, {"tool_calls", 10}};
    azo_str v[5];
    azo_str m[3];
    azo_str call;
    if (!azoi_is(value, '{')) {
        return AZO_OK;
    }
    azoi_pick(w->map, value, names, 5, v);
    int64_t index = azoi_count_of(v[0], position);
    bool whole = !azoi_is(v[1], '{');
    azoi_pick(w->map, whole ? v[2] : v[1], message_names, 3, m);
    azoi_chat_part *c = azoi_chat_part_at(w->job, index, -1);
    if (c == NULL) {
        return w->job->error.code;
    }
    int choice = c->choice;
    azo_result r = azoi_walk_piece(w, m[0], &c->text, AZO_EVENT_TEXT, choice);
    r = r == AZO_OK ? azoi_walk_piece(w, m[1], &c->refusal, AZO_EVENT_REFUSAL, choice) : r;
    azoi_json_cursor calls = azoi_json_over(w->map, m[2], '[');
    for (int64_t i = 0; r == AZO_OK && azoi_json_each(&calls, NULL, &call); i++) {
        r = azoi_walk_tool(w, call, choice, whole ? i : -1);
    }
    if (r != AZO_OK) {
        return r;
    }
    c = azoi_chat_part_at(w->job, index, -1); /* the tool calls may have moved it */
    r = azoi_walk_piece(w, v[4], &c->filter, AZO_EVENT_FILTER, choice);
    return r == AZO_OK ? azoi_walk_piece(w, v[3], &c->finish, AZO_EVENT_FINISH, choice) : r;
}

/* Of the prompt: an array of {prompt_index, content_filter_results}; choice is -1 in their events. */
static azo_result azoi_walk_prompt_filters(azoi_walk *w, azo_str filters) {
    static const azo_str name = {"content_filter_results", 22};
    azoi_json_cursor prompts = azoi_json_over(w->map, filters, '[');
    azo_str value;
    azo_str results;
    bool kept = false;
    azo_result r = AZO_OK;
    while (r == AZO_OK && azoi_json_each(&prompts, NULL, &value)) {
        azoi_pick(w->map, value, &name, 1, &results);
        if (azoi_is(results, '{') && !azoi_walk_taken(w)) {
            r = azoi_walk_put(w, results);
            r = r == AZO_OK && !kept ? azoi_span_set(w->job, &w->chat->prompt_filter, filters) : r;
            r = r == AZO_OK ? azoi_walk_emit(w, AZO_EVENT_FILTER, -1) : r;
            kept = true;
        }
    }
    return r;
}

static azo_result azoi_walk_chunk(azoi_walk *w) {
    static const azo_str names[] = {{"error", 5}, {"id", 2}, {"model", 5}, {"choices", 7}, {"usage", 5},
                                    {"prompt_filter_results", 21}, {"prompt_annotations", 18}};
    azo_str v[7];
    azo_str value;
    azoi_pick(w->map, azoi_trim(w->chunk), names, 7, v);
    bool named_error = azoi_equal(azoi_buf_view(&w->chat->events.sse.name), "error") && v[3].ptr == NULL;
    if (v[0].ptr != NULL || named_error) {
        return azoi_refuse(w->job, 0, w->chunk);
    }
    azo_result r = azoi_walk_name(w, v[1], &w->chat->id);
    r = r == AZO_OK ? azoi_walk_name(w, v[2], &w->chat->model) : r;
    r = r == AZO_OK ? azoi_walk_prompt_filters(w, v[5].ptr != NULL ? v[5] : v[6]) : r;
    azoi_json_cursor choices = azoi_json_over(w->map, v[3], '[');
    for (int64_t i = 0; r == AZO_OK && azoi_json_each(&choices, NULL, &value); i++) {
        r = azoi_walk_choice(w, value, i);
    }
    r = r == AZO_OK ? azoi_walk_piece(w, v[4], &w->chat->usage, AZO_EVENT_USAGE, 0) : r;
    bool other = r == AZO_OK && w->steps == 0 && !azoi_walk_taken(w);
    return other ? azoi_walk_emit(w, AZO_EVENT_OTHER, 0) : r;
}

/* PENDING: paused; to be called again with the same text. */
static azo_result azoi_chat_chunk(azo_request *job, azo_str text) {
    azoi_walk w;
    w.job = job;
    w.chat = (azoi_chat *)job->data;
    w.texts = &job->client->decoded;
    w.chunk = text;
    w.steps = 0;
    w.map = &job->client->map;
    w.map->known = w.chat->count > 0 ? azoi_span_view(&w.chat->arena, &w.chat->parts[0].filter) : azoi_view(NULL, 0);
    w.map->depth = 3; /* the answer, its choices, and the choice that it is of */
    azo_result r = azoi_check_answer(job, text, w.map, 0, 0);
    r = r == AZO_OK ? azoi_walk_chunk(&w) : r;
    if (r == AZO_OK) {
        w.chat->done = 0;
    }
    return r;
}

/* ---- chat: the stream ---- */

static void azoi_chat_drop(azo_request *job) {
    azoi_chat *chat = (azoi_chat *)job->data;
    azoi_events_drop(job);
    azoi_buf_free(&chat->table);
    azoi_buf_free(&chat->arena);
}

static void azoi_chat_restart(azo_request *job) {
    azoi_chat *chat = (azoi_chat *)job->data;
    azoi_events_restart(job);
    azoi_buf_free(&chat->table);
    azoi_buf_free(&chat->arena);
    memset((char *)chat + sizeof chat->events, 0, sizeof *chat - sizeof chat->events);
    memset(chat->tokens, 0xff, sizeof chat->tokens); /* -1 everywhere */
    azoi_buf_init(&chat->arena, &job->spares, SIZE_MAX / 2, false);
    azoi_buf_init(&chat->table, &job->spares, AZOI_MAX_PARTS * sizeof(azoi_chat_part), false);
}

/* The event that sse holds, or what a pause left of it. Some gateways forget the blank line between two events, whose
 * data is then joined to no JSON: each line is taken for itself. */
static azo_result azoi_chat_event(azo_request *job) {
    azoi_chat *chat = (azoi_chat *)job->data;
    azoi_events *e = &chat->events;
    azoi_buf *data = &e->sse.data;
    size_t offset;
    e->in_event = true;
    while (data->len > 0 && !e->ended) {
        azo_str piece = azoi_buf_view(data);
        azo_result r = AZO_OK;
        if (e->sse.lines > 1 && !azoi_json_check(piece, &offset)) {
            piece.len = azoi_find(piece, '\n');
        }
        char behind = data->data[piece.len];
        data->data[piece.len] = '\0';
        if (azoi_is_done_mark(piece)) {
            e->ended = true;
        } else if (azoi_trim(piece).len > 0) {
            r = azoi_chat_chunk(job, piece);
        }
        if (r != AZO_ERR_CANCELLED) { /* else the job may be gone */
            data->data[piece.len] = behind;
        }
        if (r != AZO_OK) {
            return r;
        }
        azoi_buf_drop(data, piece.len + (piece.len < data->len ? 1 : 0));
    }
    e->in_event = false;
    chat->got_event = true;
    return AZO_OK;
}

static azo_result azoi_chat_data(azo_request *job, azo_str *piece) {
    return AZOI_HAS_STREAM ? azoi_events_data(job, piece, azoi_chat_event) : azoi_job_collect(job, piece);
}

/* A body in one piece, whether it was asked for or came instead of a stream. */
static azo_result azoi_chat_whole(azo_request *job) {
    azoi_chat *chat = (azoi_chat *)job->data;
    azo_str body = azoi_buf_view(&job->body);
    azo_result r;
    if (!azoi_starts(azoi_trim(body), "{")) {
        return azoi_not_json(job, job->body.len > 0 ? "text instead of JSON" : "nothing");
    }
    (void)azoi_buf_reserve(&chat->arena, body.len); /* once instead of often; a failure shows later */
    do {
        r = azoi_chat_chunk(job, body); /* a pause makes no sense any more: all is here */
    } while (r == AZO_PENDING);
    if (r == AZO_OK && chat->count == 0) {
        return azoi_fail(&job->error, AZO_ERR_JSON, "The answer of %zu bytes has no choices. Check that the endpoint "
                         "is one for chat completions.", body.len);
    }
    return r;
}

/* An event without its blank line counts if it is whole. */
static azo_result azoi_chat_last_event(azo_request *job) {
    azoi_events *e = (azoi_events *)job->data;
    size_t offset;
    azo_result r;
    if (e->ended || !azoi_sse_end(&e->sse)) {
        return AZO_OK;
    }
    azo_str data = azoi_buf_view(&e->sse.data);
    if (!azoi_is_done_mark(data) && !azoi_json_check(data, &offset)) {
        return AZO_OK;
    }
    do {
        r = azoi_chat_event(job);
    } while (r == AZO_PENDING);
    return r;
}

/* The end of a stream: in order if [DONE] came, or if every choice had come to its end. */
static azo_result azoi_chat_stream_end(azo_request *job) {
    azoi_chat *chat = (azoi_chat *)job->data;
    azo_result r = azoi_chat_last_event(job);
    size_t open = 0;
    if (r != AZO_OK) {
        return r;
    }
    if (!chat->got_event && chat->events.mode == AZOI_STREAM_EVENTS) {
        return azoi_not_json(job, "something that is no stream of events");
    }
    for (size_t i = 0; i < chat->count; i++) {
        open += chat->parts[i].tool < 0 && chat->parts[i].finish.room == 0 ? 1 : 0;
    }
    if (chat->count == 0 || (open > 0 && !chat->events.ended)) {
        return azoi_fail(&job->error, AZO_ERR_STREAM, "The stream ended early: %zu choices were not finished (HTTP "
                         "%d). Ask again; what came is in the reply.", open, job->head.status);
    }
    return AZO_OK;
}

/* ---- chat: the reply ---- */

/* The assistant's message as it is to be sent back; its tool calls follow the choice. Returns how many there are. */
static size_t azoi_chat_message_write(const azoi_chat *chat, azoi_chat_part *choice, azoi_buf *b) {
    const azoi_buf *arena = &chat->arena;
    azo_str text = azoi_span_view(arena, &choice->text);
    const azoi_chat_part *tool = choice + 1;
    const azoi_chat_part *end = chat->parts + chat->count;
    choice->message.at = b->len;
    azoi_buf_puts(b, "{\"role\":\"assistant\",\"content\":");
    if (text.ptr != NULL) {
        azoi_json_quote(b, text);
    } else {
        azoi_buf_puts(b, "null");
    }
    if (choice->refusal.len > 0) {
        azoi_buf_puts(b, ",\"refusal\":");
        azoi_json_quote(b, azoi_span_view(arena, &choice->refusal));
    }
    for (; tool < end && tool->tool >= 0; tool++) {
        azoi_buf_puts(b, tool == choice + 1 ? ",\"tool_calls\":[{\"id\":" : ",{\"id\":");
        azoi_json_quote(b, azoi_span_view(arena, &tool->id));
        azoi_buf_puts(b, tool->custom ? ",\"type\":\"custom\",\"custom\":{\"name\":"
                                      : ",\"type\":\"function\",\"function\":{\"name\":");
        azoi_json_quote(b, azoi_span_view(arena, &tool->name));
        azoi_buf_puts(b, tool->custom ? ",\"input\":" : ",\"arguments\":");
        azoi_json_quote(b, azoi_span_view(arena, &tool->text));
        azoi_buf_puts(b, "}}");
    }
    azoi_buf_puts(b, tool == choice + 1 ? "}" : "]}");
    choice->message.len = b->len - choice->message.at;
    choice->message.room = 1;
    return (size_t)(tool - choice) - 1;
}

static void azoi_chat_reply_choices(const azoi_chat *chat, const azoi_buf *messages, size_t count, azoi_owned *o,
                                    azo_chat_reply *reply) {
    const azoi_buf *arena = &chat->arena;
    azo_choice *choice = (azo_choice *)(void *)(reply + 1);
    azo_tool_call *call = (azo_tool_call *)(void *)(choice + count);
    reply->choices = choice;
    reply->choice_count = count;
    for (size_t i = 0; i < chat->count; i++) {
        const azoi_chat_part *p = &chat->parts[i];
        if (p->tool >= 0) {
            call->id = azoi_owned_put(o, azoi_span_view(arena, &p->id));
            call->name = azoi_owned_put(o, azoi_span_view(arena, &p->name));
            call->arguments = azoi_owned_put(o, azoi_span_view(arena, &p->text));
            choice[-1].tool_call_count++;
            call++;
            continue;
        }
        choice->text = azoi_owned_put(o, azoi_span_view(arena, &p->text));
        choice->refusal = azoi_owned_put(o, azoi_span_view(arena, &p->refusal));
        choice->finish_reason = azoi_owned_put(o, azoi_span_view(arena, &p->finish));
        choice->filter_json = azoi_owned_put(o, azoi_span_view(arena, &p->filter));
        choice->message_json = azoi_owned_put(o, azoi_span_view(messages, &p->message));
        choice->tool_calls = call;
        choice++;
    }
    if (count > 0) {
        const azo_choice *first = reply->choices;
        reply->text = first->text;
        reply->refusal = first->refusal;
        reply->finish_reason = first->finish_reason;
        reply->message_json = first->message_json;
        reply->tool_calls = first->tool_calls;
        reply->tool_call_count = first->tool_call_count;
    }
}

static void azoi_chat_reply_rest(const azoi_chat *chat, azoi_owned *o, azo_chat_reply *reply) {
    const azoi_buf *arena = &chat->arena;
    reply->usage_json = azoi_owned_put(o, azoi_span_view(arena, &chat->usage));
    reply->id = azoi_owned_put(o, azoi_span_view(arena, &chat->id));
    reply->model = azoi_owned_put(o, azoi_span_view(arena, &chat->model));
    reply->prompt_filter_json = azoi_owned_put(o, azoi_span_view(arena, &chat->prompt_filter));
    reply->prompt_tokens = chat->tokens[AZOI_TOKENS_PROMPT];
    reply->completion_tokens = chat->tokens[AZOI_TOKENS_COMPLETION];
    reply->cached_tokens = chat->tokens[AZOI_TOKENS_CACHED];
    reply->reasoning_tokens = chat->tokens[AZOI_TOKENS_REASONING];
}

/* Puts all that came into a block of its own; also what came before a failure. The client may be closed. */
static azo_result azoi_chat_seal(azo_request *job) {
    azoi_chat *chat = (azoi_chat *)job->data;
    azoi_buf *messages = job->client != NULL ? &job->client->decoded : &chat->events.sse.data;
    size_t choices = 0;
    size_t calls = 0;
    azoi_buf_clear(messages);
    for (size_t i = 0; i < chat->count; i++) {
        if (chat->parts[i].tool < 0) {
            calls += azoi_chat_message_write(chat, &chat->parts[i], messages);
            choices++;
        }
    }
    size_t tables = sizeof(azo_chat_reply) + choices * sizeof(azo_choice) + calls * sizeof(azo_tool_call);
    size_t texts = chat->total + messages->len + 5 * chat->count + 4; /* with the NULs */
    azo_chat_reply *reply =
        messages->failed == AZO_OK ? (azo_chat_reply *)azoi_owned_new(job, tables, texts) : NULL;
    if (reply != NULL) {
        azoi_chat_reply_choices(chat, messages, choices, chat->events.answer.owned, reply);
        azoi_chat_reply_rest(chat, chat->events.answer.owned, reply);
        azoi_owned_http(chat->events.answer.owned, job, job->body.len > 0, &reply->http);
    }
    azoi_buf_slim(messages);
    return reply != NULL ? AZO_OK : azoi_memory(&job->error);
}

static azo_result azoi_chat_end(azo_request *job) {
    azo_result r = azoi_is_stream(job) ? azoi_chat_stream_end(job) : azoi_chat_whole(job);
    return r == AZO_OK ? azoi_chat_seal(job) : r;
}

static const azoi_job_ops azoi_chat_ops = {
    AZOI_KIND_CHAT, azoi_auth_authorize, azoi_auth_sign, azoi_auth_challenge, azoi_chat_restart, azoi_chat_data,
    azoi_chat_end,  azoi_refused,        NULL,           azoi_chat_drop};

AZO_API azo_result azo_chat_begin(azo_client *client, const azo_chat_desc *desc, azo_request **out, azo_error *err) {
    azoi_draft d;
    azo_result r = azoi_may_begin(client, desc, out, err);
    bool stream = r == AZO_OK && (desc->stream || desc->on_event != NULL);
    if (!AZOI_HAS_STREAM && stream) {
        return azoi_left_out(err, "A stream", "AZO_NO_STREAM");
    }
    r = r == AZO_OK ? azoi_draft_open(&d, client, &desc->call, desc->deployment, true, err) : r;
    r = r == AZO_OK ? azoi_draft_post(&d, "/chat/completions", stream ? "text/event-stream" : "application/json") : r;
    r = r == AZO_OK ? azoi_chat_write(&d, desc, stream) : r;
    r = r == AZO_OK ? azoi_draft_send(&d, &azoi_chat_ops, sizeof(azoi_chat), out) : r;
    if (r == AZO_OK) {
        azoi_events *e = (azoi_events *)(*out)->data;
        e->on_event = desc->on_event;
        e->user_data = desc->user_data;
        e->asked = stream;
        azoi_chat_restart(*out);
    }
    return r;
}

AZO_API azo_result azo_chat_end(azo_request *request, azo_chat_reply *out, azo_error *err) {
    if (out != NULL) {
        memset(out, 0, sizeof *out);
        out->prompt_tokens = -1;
        out->cached_tokens = -1;
        out->completion_tokens = -1;
        out->reasoning_tokens = -1;
        azoi_http_clear(&out->http);
    }
    return azoi_end(request, AZOI_KIND_CHAT, azoi_chat_seal, out, sizeof *out, err);
}

AZO_API void azo_chat_reply_free(azo_chat_reply *reply) {
    azoi_reply_free(reply, sizeof *reply);
}

/* ---- embeddings ---- */

static azo_result azoi_row_bad(azo_request *job, int64_t row, const char *what) {
    return azoi_fail(&job->error, AZO_ERR_JSON, "An embedding in the answer %s (row %lld of %zu). Report it to whoever "
                     "runs the service or the gateway before it.", what, (long long)row,
                     ((azoi_embed *)job->data)->count);
}

/* The first row decides about the dimensions; then there must be room for all. */
static azo_result azoi_row_room(azo_request *job, int64_t row, size_t dimensions) {
    azoi_embed *embed = (azoi_embed *)job->data;
    size_t floats;
    bool announced = job->head.framing == AZOI_FRAMING_LENGTH && job->head.length < job->spec.max_body;
    size_t most = announced ? (size_t)job->head.length : job->spec.max_body; /* bytes that may come */
    if (dimensions == 0 || (embed->dimensions != 0 && dimensions != embed->dimensions)) {
        return azoi_row_bad(job, row, dimensions == 0 ? "is empty" : "differs in length");
    }
    if (embed->dimensions != 0) {
        return AZO_OK;
    }
    if (!azoi_product(dimensions, embed->count, &floats) || floats > most / 2) { /* "0," */
        return azoi_row_bad(job, row, "is longer than all that may come has room for");
    }
    if (embed->given != NULL && floats > embed->given_cap) {
        return azoi_fail(&job->error, AZO_ERR_LIMIT, "The vectors are %zu floats (%zu x %zu), but vector_cap is %zu. "
                         "Give room for that many, or ask for fewer dimensions.", floats, embed->count, dimensions,
                         embed->given_cap);
    }
    embed->own_size = embed->given == NULL ? floats * sizeof(float) : 0;
    embed->vectors = embed->given != NULL ? embed->given
                                          : (float *)azoi_resize(&job->allocator, NULL, 0, embed->own_size);
    if (embed->vectors == NULL) {
        return azoi_memory(&job->error);
    }
    embed->dimensions = dimensions;
    return AZO_OK;
}

/* More than there are, if some are no numbers. */
static size_t azoi_row_count(azo_str array) {
    size_t count = *azoi_json_value_start(array.ptr + 1) != ']' ? 1 : 0;
    while ((array = azoi_skip(array, azoi_find(array, ','))).len > 0) {
        array = azoi_skip(array, 1);
        count++;
    }
    return count;
}

/* The array need not have been checked. */
static azo_result azoi_row_numbers(azo_request *job, int64_t row, azo_str array) {
    azoi_embed *embed = (azoi_embed *)job->data;
    azoi_json_scan s;
    const char *at = azoi_json_scan_init(&s, array, NULL) + 1;
    double number;
    size_t count = embed->dimensions > 0 ? embed->dimensions : azoi_row_count(array);
    azo_result r = azoi_row_room(job, row, count);
    if (r != AZO_OK) {
        return r;
    }
    float *out = embed->vectors + (size_t)row * count;
    for (size_t i = 0; i < count; i++) {
        (void)azoi_json_scan_ahead(&s, &at);
        at = azoi_json_scan_double(&s, at, &number);
        if (at == NULL || number > (double)FLT_MAX || number < -(double)FLT_MAX ||
            azoi_json_scan_ahead(&s, &at) != (i + 1 < count ? ',' : ']')) {
            r = azoi_row_room(job, row, azoi_row_count(array));
            return r != AZO_OK ? r : azoi_row_bad(job, row, "holds something that is no number");
        }
        at++;
        out[i] = (float)number;
    }
    return AZO_OK;
}

/* Base64 of little-endian IEEE 754 singles. */
static azo_result azoi_row_base64(azo_request *job, int64_t row, azo_str text) {
    azoi_embed *embed = (azoi_embed *)job->data;
    if (azoi_find(text, '\\') < text.len) { /* some write / as \/ */
        azoi_buf *decoded = &job->client->decoded;
        azoi_buf_clear(decoded);
        azoi_json_decode(decoded, text);
        text = azoi_buf_view(decoded);
    }
    while (azoi_ends(text, "=")) {
        text.len--;
    }
    size_t dimensions = text.len / 16 * 3 + text.len % 16 * 3 / 16;
    azo_result r = azoi_row_room(job, row, dimensions);
    if (r != AZO_OK) {
        return r;
    }
    float *out = embed->vectors + (size_t)row * dimensions;
    unsigned char *bytes = (unsigned char *)out;
    size_t len;
    if (!azoi_base64_decode(text, bytes, dimensions * 4, &len) || len != dimensions * 4) {
        return azoi_row_bad(job, row, "is malformed base64");
    }
    for (size_t i = 0; i < dimensions; i++) {
        const unsigned char *b = bytes + 4 * i;
        uint32_t bits = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        memcpy(&out[i], &bits, sizeof bits);
    }
    return AZO_OK;
}

/* The members of a row, checked but for an array of numbers, which is passed over: it is checked as it is read. False:
 * something is no JSON, or no object. */
static bool azoi_row_open(azo_str text, azo_str *index, azo_str *embedding) {
    azoi_json_scan s;
    const char *at = azoi_json_scan_init(&s, text, NULL);
    char c = azoi_json_scan_ahead(&s, &at);
    *index = azoi_view(NULL, 0);
    *embedding = azoi_view(NULL, 0);
    for (bool first = true; c == (first ? '{' : ','); first = false) {
        at = azoi_json_scan_key(&s, at + 1);
        if (at == NULL) {
            return false;
        }
        azo_str key = s.next->key;
        c = azoi_json_scan_ahead(&s, &at);
        azo_str *member = azoi_equal(key, "index") ? index : azoi_equal(key, "embedding") ? embedding : NULL;
        bool wanted = member != NULL && member->ptr == NULL && c != 'n';
        azo_str value = azoi_view(at, (size_t)(s.end - at));
        size_t numbers = wanted && member == embedding && c == '[' ? azoi_find(value, ']') : value.len;
        at = numbers < value.len ? at + numbers + 1 : azoi_json_scan_value(&s, at);
        if (at == NULL) {
            return false;
        }
        if (wanted) {
            *member = azoi_trim_end(azoi_view(value.ptr, (size_t)(at - value.ptr)));
        }
        c = azoi_json_scan_ahead(&s, &at);
    }
    return c == '}' && at + 1 == s.end;
}

/* {"index": 1, "embedding": ...}; the position counts where there is no index. */
static azo_result azoi_row(azo_request *job, azo_str text, int64_t position) {
    azoi_embed *embed = (azoi_embed *)job->data;
    char *seen = (char *)(embed + 1);
    azo_str index;
    azo_str value;
    bool open = azoi_row_open(text, &index, &value);
    int64_t row = azoi_count_of(index, position);
    azo_result r;
    if (row < 0 || (uint64_t)row >= embed->count || seen[row] != 0) {
        return azoi_row_bad(job, row, "has an index that is too large or comes twice");
    }
    if (azoi_is(value, '[') && open) {
        r = azoi_row_numbers(job, row, value);
    } else if (azoi_is(value, '"') && open) {
        r = azoi_row_base64(job, row, azoi_inside(value));
    } else {
        r = azoi_row_bad(job, row, azoi_is(value, '[') ? "holds something that is no number" : "is missing");
    }
    seen[row] = r == AZO_OK ? 1 : 0;
    return r;
}

/* Whether the array that begins behind this is that of the rows. Inside a string the first quote has a backslash. */
static bool azoi_rows_begin(azo_str front) {
    front = azoi_trim_end(front); /* a brace at least */
    azo_str name = azoi_trim_end(azoi_view(front.ptr, front.len - 1));
    return azoi_ends(front, ":") && azoi_ends(name, "\"data\"") && !azoi_ends(name, "\\\"data\"");
}

/* Reads the row that the body ends with. */
static void azoi_rows_read(azo_request *job) {
    azoi_embed *embed = (azoi_embed *)job->data;
    azoi_buf *body = &job->body;
    azo_str text = azoi_skip(azoi_buf_view(body), embed->row_at);
    if (embed->nesting.deepest > AZO_MAX_JSON_DEPTH || azoi_row(job, text, embed->found) != AZO_OK) {
        azoi_error_clear(&job->error); /* the end will find it again */
        embed->rows = AZOI_ROWS_BEHIND;
        return;
    }
    embed->found++;
    embed->taken += text.len - 2;
    body->max -= text.len - 2; /* what was taken out counts */
    body->len = embed->row_at;
    azoi_buf_puts(body, "{}");
    embed->row_at = body->len;
}

/* Takes what comes up to the next bracket. */
static void azoi_rows_take(azo_request *job, azo_str *piece) {
    azoi_embed *embed = (azoi_embed *)job->data;
    azoi_buf *body = &job->body;
    size_t depth = embed->nesting.depth;
    size_t len = azoi_json_bracket(&embed->nesting, *piece);
    char bracket = piece->ptr[len - 1];
    azoi_buf_collect(body, azoi_view(piece->ptr, len));
    *piece = azoi_skip(*piece, len);
    if (depth == embed->nesting.depth || body->failed != AZO_OK) {
        return;
    }
    azo_str front = azoi_view(body->data, body->len - 1);
    if (embed->rows == AZOI_ROWS_AHEAD) {
        bool begins = depth == 1 && bracket == '[' && azoi_rows_begin(front);
        embed->rows = begins ? AZOI_ROWS_AMONG : AZOI_ROWS_AHEAD;
        embed->found_at = body->len;
        embed->row_at = body->len;
    } else if (depth == 2) {
        azo_str between = azoi_trim(azoi_skip(front, embed->row_at));
        bool begins = bracket == '{' && azoi_equal(between, embed->found > 0 ? "," : "");
        embed->rows = begins ? AZOI_ROWS_AMONG : AZOI_ROWS_BEHIND;
        embed->row_at = front.len;
    } else if (embed->nesting.depth == 2) {
        azoi_rows_read(job);
    }
}

static azo_result azoi_embed_data(azo_request *job, azo_str *piece) {
    const azoi_embed *embed = (const azoi_embed *)job->data;
    while (piece->len > 0 && embed->rows != AZOI_ROWS_BEHIND && job->body.failed == AZO_OK) {
        azoi_rows_take(job, piece);
    }
    return azoi_job_collect(job, piece);
}

static azo_result azoi_embed_seal(azo_request *job) {
    azoi_embed *embed = (azoi_embed *)job->data;
    azo_embed_reply *reply = (azo_embed_reply *)azoi_owned_new(job, sizeof(azo_embed_reply), 0);
    if (reply == NULL) {
        return AZO_ERR_MEMORY;
    }
    reply->prompt_tokens = embed->prompt_tokens;
    bool whole = job->result == AZO_OK;
    if (whole) {
        reply->vectors = embed->vectors;
        reply->count = embed->count;
        reply->dimensions = embed->dimensions;
        embed->answer.owned->vectors = embed->own_size > 0 ? embed->vectors : NULL;
        embed->answer.owned->vectors_size = embed->own_size;
        embed->own_size = 0;
    }
    azoi_owned_http(embed->answer.owned, job, !whole && job->body.len > 0, &reply->http);
    return AZO_OK;
}

static azo_result azoi_embed_end(azo_request *job) {
    static const azo_str names[] = {{"error", 5}, {"data", 4}, {"usage", 5}};
    azoi_embed *embed = (azoi_embed *)job->data;
    azo_str body = azoi_buf_view(&job->body);
    azo_str v[3];
    azo_str tokens;
    azo_str value;
    int64_t found = 0;
    if (!azoi_starts(azoi_trim(body), "{")) {
        return azoi_not_json(job, body.len > 0 ? "text instead of JSON" : "nothing");
    }
    azo_result r = azoi_check_answer(job, body, NULL, embed->found_at, embed->taken);
    if (r != AZO_OK) {
        return r;
    }
    azoi_pick(NULL, azoi_trim(body), names, 3, v);
    if (v[0].ptr != NULL) {
        return azoi_refuse(job, 0, body);
    }
    azo_str rest = azoi_is(v[1], '[') ? v[1] : azoi_view(NULL, 0);
    for (; r == AZO_OK && azoi_json_step(&rest, NULL, &value); found++) {
        r = found < embed->found ? AZO_OK : azoi_row(job, value, found);
    }
    (void)azoi_json_find(v[2], "prompt_tokens", &tokens);
    embed->prompt_tokens = azoi_count_of(tokens, -1);
    if (r == AZO_OK && (uint64_t)found != embed->count) {
        return azoi_fail(&job->error, AZO_ERR_JSON, "The answer has vectors for %lld of %zu inputs. Report it to "
                         "whoever runs the service or the gateway before it.", (long long)found, embed->count);
    }
    return r == AZO_OK ? azoi_embed_seal(job) : r;
}

static void azoi_embed_restart(azo_request *job) {
    azoi_embed *embed = (azoi_embed *)job->data;
    azoi_free(&job->allocator, embed->own_size > 0 ? embed->vectors : NULL, embed->own_size);
    memset((char *)embed + offsetof(azoi_embed, rows), 0, sizeof *embed - offsetof(azoi_embed, rows) + embed->count);
    embed->prompt_tokens = -1;
    job->body.max = job->spec.max_body;
}

static void azoi_embed_drop(azo_request *job) {
    azoi_embed_restart(job);
    azoi_owned_free(((azoi_embed *)job->data)->answer.owned);
}

static const azoi_job_ops azoi_embed_ops = {
    AZOI_KIND_EMBED, azoi_auth_authorize, azoi_auth_sign, azoi_auth_challenge, azoi_embed_restart, azoi_embed_data,
    azoi_embed_end,  azoi_refused,        NULL,           azoi_embed_drop};

static azo_result azoi_embed_write(azoi_draft *d, const azo_embed_desc *desc) {
    azoi_writer w = azoi_write_open(d);
    azoi_name(w.out, "input");
    for (size_t i = 0; i < desc->input_count; i++) {
        if (desc->inputs[i].ptr == NULL) {
            w.result = azoi_fail(d->error, AZO_ERR_ARGUMENT, "inputs[%zu] is NULL. Give a text.", i);
            break;
        }
        azoi_buf_char(w.out, i == 0 ? '[' : ',');
        azoi_json_quote(w.out, desc->inputs[i]);
    }
    azoi_buf_char(w.out, ']');
    azoi_field_text(&w, "encoding_format", "base64");
    azoi_field_count(&w, "dimensions", desc->dimensions);
    return azoi_write_close(&w, d, desc->extra_json);
}

AZOI_EMBED_API azo_result azo_embed_begin(azo_client *client, const azo_embed_desc *desc, azo_request **out,
                                          azo_error *err) {
    azoi_draft d;
    azo_result r = azoi_may_begin(client, desc, out, err);
    if (r == AZO_OK && (desc->input_count == 0 || desc->inputs == NULL)) {
        r = azoi_fail(err, AZO_ERR_ARGUMENT, "The call has no inputs (input_count %zu). Give at least one text.",
                      desc->input_count);
    }
    r = r == AZO_OK ? azoi_draft_open(&d, client, &desc->call, desc->deployment, true, err) : r;
    r = r == AZO_OK ? azoi_draft_post(&d, "/embeddings", "application/json") : r;
    r = r == AZO_OK ? azoi_embed_write(&d, desc) : r;
    r = r == AZO_OK ? azoi_draft_send(&d, &azoi_embed_ops, sizeof(azoi_embed) + desc->input_count, out) : r;
    if (r == AZO_OK) {
        azoi_embed *embed = (azoi_embed *)(*out)->data;
        embed->count = desc->input_count;
        embed->given = desc->vectors;
        embed->given_cap = desc->vector_cap;
        azoi_embed_restart(*out);
    }
    return r;
}

AZOI_EMBED_API azo_result azo_embed_end(azo_request *request, azo_embed_reply *out, azo_error *err) {
    if (out != NULL) {
        memset(out, 0, sizeof *out);
        out->prompt_tokens = -1;
        azoi_http_clear(&out->http);
    }
    return azoi_end(request, AZOI_KIND_EMBED, azoi_embed_seal, out, sizeof *out, err);
}

AZOI_EMBED_API void azo_embed_reply_free(azo_embed_reply *reply) {
    azoi_reply_free(reply, sizeof *reply);
}

/* ---- raw ---- */

/* Every event of a raw call is handed on as it is. */
static azo_result azoi_raw_event(azo_request *job) {
    azoi_events *e = (azoi_events *)job->data;
    azo_event event;
    memset(&event, 0, sizeof event);
    event.kind = AZO_EVENT_OTHER;
    event.name = azoi_buf_view(&e->sse.name);
    event.json = azoi_buf_view(&e->sse.data);
    event.text = event.json;
    e->ended = azoi_is_done_mark(event.json);
    azoi_callback_enter(job);
    return azoi_callback_leave(job, e->on_event(&event, e->user_data));
}

static azo_result azoi_raw_data(azo_request *job, azo_str *piece) {
    const azoi_raw *raw = (const azoi_raw *)job->data;
    if (raw->on_body == NULL) {
        return AZOI_HAS_STREAM ? azoi_events_data(job, piece, azoi_raw_event) : azoi_job_collect(job, piece);
    }
    azo_str all = *piece; /* nothing after a pause */
    *piece = azoi_skip(all, all.len);
    azoi_callback_enter(job);
    return azoi_callback_leave(job, all.len > 0 ? raw->on_body(all.ptr, all.len, raw->events.user_data) : AZO_GO_ON);
}

static azo_result azoi_raw_seal(azo_request *job) {
    azo_raw_reply *reply = (azo_raw_reply *)azoi_owned_new(job, sizeof(azo_raw_reply), 0);
    if (reply == NULL) {
        return AZO_ERR_MEMORY;
    }
    azoi_owned_http(((azoi_answer *)job->data)->owned, job, job->body.data != NULL, &reply->http);
    return AZO_OK;
}

static azo_result azoi_raw_end(azo_request *job) {
    azoi_events *e = (azoi_events *)job->data;
    azo_result r = azoi_is_stream(job) && !e->ended && azoi_sse_end(&e->sse) ? azoi_raw_event(job) : AZO_OK;
    return r < 0 ? r : azoi_raw_seal(job);
}

static const azoi_job_ops azoi_raw_ops = {
    AZOI_KIND_RAW, azoi_auth_authorize, azoi_auth_sign, azoi_auth_challenge, azoi_events_restart, azoi_raw_data,
    azoi_raw_end,  azoi_refused,        NULL,           azoi_events_drop};

/* A name put into a path must not be able to leave it. */
static bool azoi_raw_path_ok(azo_str path) {
    azo_str segment;
    bool ok = azoi_starts(path, "/") && azoi_is_plain(path, "?#\\");
    while (ok && azoi_segment_next(&path, &segment)) {
        ok = !azoi_one_of(segment, ".|..|%2e|.%2e|%2e.|%2e%2e");
    }
    return ok;
}

static azo_result azoi_raw_check(const azo_raw_desc *desc, azo_str method, azo_str query, azo_error *err) {
    if (!azoi_is_token(method) || azoi_equal_ci(method, "CONNECT")) {
        return azoi_fail(err, AZO_ERR_ARGUMENT, "The method (%zu bytes) is none that can be sent. Use GET, POST, "
                         "DELETE or the like.", method.len);
    }
    bool two_bodies = desc->body != NULL && desc->read_body != NULL;
    bool no_body = desc->body == NULL && desc->read_body == NULL && desc->body_len > 0;
    if (two_bodies || no_body || (desc->on_body != NULL && desc->on_event != NULL)) {
        return azoi_fail(err, AZO_ERR_ARGUMENT, "%s (body_len %zu). Set one of the two.",
                         two_bodies ? "Both body and read_body are given"
                         : no_body  ? "Neither body nor read_body is given"
                                    : "Both on_body and on_event are given", desc->body_len);
    }
    if (!azoi_raw_path_ok(azo_s(desc->path)) || !azoi_is_plain(query, "#")) {
        return azoi_fail(err, AZO_ERR_ARGUMENT, "The path (%zu bytes) or the query cannot be sent. Begin the path with "
                         "a slash, without segments of dots, percent-encode all but plain ASCII, and put what follows "
                         "a question mark into query.", azo_s(desc->path).len);
    }
    return AZO_OK;
}

static void azoi_raw_spec(const azo_raw_desc *desc, azo_str method, azoi_job_spec *spec) {
    spec->method = method;
    spec->has_body = desc->body != NULL || desc->read_body != NULL || azoi_one_of(method, "POST|PUT|PATCH");
    spec->read_body = desc->read_body;
    spec->read_user_data = desc->read_user_data;
    spec->body_borrowed = desc->body_borrowed || desc->read_body != NULL;
    spec->body = azoi_view((const char *)desc->body, desc->body_len);
    if (desc->body != NULL && desc->body_len == 0) {
        spec->body = azo_s((const char *)desc->body);
    }
}

AZOI_RAW_API azo_result azo_raw_begin(azo_client *client, const azo_raw_desc *desc, azo_request **out, azo_error *err) {
    azoi_draft d;
    azo_result r = azoi_may_begin(client, desc, out, err);
    if (r != AZO_OK) {
        return r;
    }
    if (!AZOI_HAS_STREAM && desc->on_event != NULL) {
        return azoi_left_out(err, "A stream", "AZO_NO_STREAM");
    }
    bool sends = desc->body != NULL || desc->read_body != NULL;
    azo_str method = azo_s(desc->method != NULL ? desc->method : sends ? "POST" : "GET");
    azo_str query = azo_s(desc->query != NULL ? desc->query : "");
    query = azoi_skip(query, azoi_starts(query, "?") ? 1 : 0);
    r = azoi_raw_check(desc, method, query, err);
    r = r == AZO_OK ? azoi_draft_open(&d, client, &desc->call, desc->deployment, false, err) : r;
    if (r != AZO_OK) {
        return r;
    }
    azoi_draft_target(&d, azo_s(desc->deployment).len > 0, azo_s(desc->path), query);
    r = azoi_draft_headers(&d, !sends ? NULL : desc->content_type != NULL ? desc->content_type : "application/json",
                           desc->accept != NULL     ? desc->accept
                           : desc->on_event != NULL ? "text/event-stream"
                                                    : "application/json");
    azoi_raw_spec(desc, method, &d.spec);
    r = r == AZO_OK ? azoi_draft_send(&d, &azoi_raw_ops, sizeof(azoi_raw), out) : r;
    if (r == AZO_OK) {
        azoi_raw *raw = (azoi_raw *)(*out)->data;
        raw->on_body = desc->on_body;
        raw->events.on_event = desc->on_event;
        raw->events.user_data = desc->user_data;
        raw->events.asked = desc->on_event != NULL;
        azoi_events_restart(*out);
    }
    return r;
}

AZOI_RAW_API azo_result azo_raw_end(azo_request *request, azo_raw_reply *out, azo_error *err) {
    if (out != NULL) {
        memset(out, 0, sizeof *out);
        azoi_http_clear(&out->http);
    }
    return azoi_end(request, AZOI_KIND_RAW, azoi_raw_seal, out, sizeof *out, err);
}

AZOI_RAW_API void azo_raw_reply_free(azo_raw_reply *reply) {
    azoi_reply_free(reply, sizeof *reply);
}

/* ---- tokens: a request without any HTTP of its own ---- */

static azo_result azoi_token_end(azo_request *job) {
    azo_str token = azoi_buf_view(&job->slot->token);
    azo_token_reply *reply = (azo_token_reply *)azoi_owned_new(job, sizeof(azo_token_reply), token.len + 1);
    if (reply == NULL) {
        return AZO_ERR_MEMORY;
    }
    azoi_owned *o = ((azoi_answer *)job->data)->owned;
    o->secret = true;
    reply->token = azoi_owned_put(o, token);
    reply->expires_in_s = azoi_slot_expires_in(job->slot);
    reply->source = azoi_slot_source(job->slot).ptr;
    return AZO_OK;
}

static void azoi_token_drop(azo_request *job) {
    azoi_owned_free(((azoi_answer *)job->data)->owned);
}

static const azoi_job_ops azoi_token_ops = {AZOI_KIND_TOKEN, azoi_auth_authorize, NULL, NULL, NULL, NULL,
                                            azoi_token_end,  NULL,                NULL, azoi_token_drop};

AZO_API azo_result azo_token_begin(azo_client *client, const azo_token_desc *desc, azo_request **out, azo_error *err) {
    static const azo_token_desc none = {NULL, NULL, {NULL, NULL, 0, 0, 0, 0, 0, NULL, 0}};
    azoi_draft d;
    desc = desc != NULL ? desc : &none;
    azo_result r = azoi_may_begin(client, desc, out, err);
    if (r != AZO_OK) {
        return r;
    }
    if (client->identity.kind == AZOI_IDENTITY_KEY) {
        return azoi_fail(err, AZO_ERR_ARGUMENT, "The client uses an API key, so there are no tokens (error %d). Open "
                         "one with a credential or a token provider.", (int)AZO_ERR_ARGUMENT);
    }
    (void)azoi_draft_route(&d, client, &none.call, NULL); /* a client without an endpoint has a scope, too */
    d.call = &desc->call;
    d.error = err;
    d.scope = azoi_or(desc->scope, d.scope);
    d.claims = azo_s(desc->claims);
    return azoi_draft_send(&d, &azoi_token_ops, sizeof(azoi_answer), out);
}

AZO_API azo_result azo_token_end(azo_request *request, azo_token_reply *out, azo_error *err) {
    if (out != NULL) {
        memset(out, 0, sizeof *out);
    }
    return azoi_end(request, AZOI_KIND_TOKEN, NULL, out, sizeof *out, err);
}

AZO_API void azo_token_reply_free(azo_token_reply *reply) {
    azoi_reply_free(reply, sizeof *reply);
}
/* >>public
 *
 * Opening and closing a client, driving it, and the blocking forms, which are loops over the driving functions and
 * know no protocol. */

/* ---- settings ---- */

/* The desc's value, else the first of two variables that is set. */
static azo_str azoi_setting(const char *text, const char *variable, const char *other) {
    azo_str value = text != NULL ? azoi_trim(azo_s(text)) : azoi_env(variable);
    return text == NULL && value.len == 0 && other != NULL ? azoi_env(other) : value;
}

/* Every buffer that a client has, those that hold secrets first. */
enum { AZOI_SECRET_BUFS = 5 };
static const size_t azoi_client_bufs[] = {
    offsetof(azo_client, identity.secret),    offsetof(azo_client, headers),
    offsetof(azo_client, proxy_auth),         offsetof(azo_client, scratch),
    offsetof(azo_client, input),              offsetof(azo_client, decoded),
    offsetof(azo_client, endpoint),           offsetof(azo_client, deployment),
    offsetof(azo_client, api_version),        offsetof(azo_client, scope),
    offsetof(azo_client, auth_header),        offsetof(azo_client, proxy_host),
    offsetof(azo_client, no_proxy),           offsetof(azo_client, route.endpoint),
    offsetof(azo_client, route.text),         offsetof(azo_client, identity.tenant_id),
    offsetof(azo_client, identity.client_id), offsetof(azo_client, identity.authority),
    offsetof(azo_client, identity.imds),      offsetof(azo_client, identity.selected),
    offsetof(azo_client, tokens),             offsetof(azo_client, watches)};

enum { AZOI_CLIENT_BUFS = sizeof azoi_client_bufs / sizeof azoi_client_bufs[0] };

static azoi_buf *azoi_client_buf(azo_client *c, size_t index) {
    return (azoi_buf *)(void *)((char *)c + azoi_client_bufs[index]);
}

static azo_result azoi_client_set_limits(azo_client *c, const azo_client_desc *desc, azo_error *e) {
    const int32_t given[] = {desc->connect_timeout_ms, desc->first_byte_timeout_ms, desc->idle_timeout_ms,
                             desc->total_timeout_ms, desc->max_retry_wait_ms, desc->max_retries,
                             desc->max_connections};
    static const char *const names[] = {"connect_timeout_ms", "first_byte_timeout_ms", "idle_timeout_ms",
                                        "total_timeout_ms", "max_retry_wait_ms", "max_retries", "max_connections"};
    azo_result r = azoi_limits_ok("azo_client_desc", names, given, sizeof given / sizeof given[0], e);
    c->connect_ms = given[0] != 0 ? given[0] : AZO_DEFAULT_CONNECT_MS;
    c->first_byte_ms = given[1] != 0 ? given[1] : AZO_DEFAULT_FIRST_BYTE_MS;
    c->idle_ms = given[2] != 0 ? given[2] : AZO_DEFAULT_IDLE_MS;
    c->total_ms = given[3] != 0 ? given[3] : AZO_DEFAULT_TOTAL_MS;
    c->max_retry_wait_ms = given[4] != 0 ? given[4] : AZO_DEFAULT_RETRY_WAIT_MS;
    c->max_retries = given[5] != 0 ? given[5] : AZO_DEFAULT_RETRIES;
    c->max_connections = given[6] > 0 ? given[6] : INT_MAX;
    c->max_response = desc->max_response_bytes != 0 ? desc->max_response_bytes : AZO_DEFAULT_RESPONSE_BYTES;
    c->max_header = desc->max_header_bytes != 0 ? desc->max_header_bytes : AZO_DEFAULT_HEADER_BYTES;
    c->max_event = desc->max_event_bytes != 0 ? desc->max_event_bytes : AZO_DEFAULT_EVENT_BYTES;
    return r;
}

static azo_result azoi_client_set_proxy(azo_client *c, const azo_client_desc *desc, azo_error *e) {
    azo_str proxy = azoi_setting(desc->proxy, "HTTPS_PROXY", "https_proxy");
    azoi_buf_str(&c->no_proxy, azoi_setting(desc->no_proxy, "NO_PROXY", "no_proxy"));
    if (proxy.len == 0) {
        return AZO_OK;
    }
    if (!AZOI_HAS_PROXY) {
        return azoi_left_out(e, "A proxy", "AZO_NO_PROXY");
    }
    azoi_url url;
    azoi_buf_puts(&c->scratch, azoi_contains_ci(proxy, "://") ? "" : "http://");
    azoi_buf_str(&c->scratch, proxy);
    if (c->scratch.failed != AZO_OK) {
        return azoi_memory(e);
    }
    if (azoi_url_split(azoi_buf_view(&c->scratch), &url, NULL) != AZO_OK || url.path.len > 1 || url.query.len > 0) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "The proxy's URL is malformed (%zu bytes). Write it as "
                         "http://user:password@host:port, with special characters percent-encoded.", proxy.len);
    }
    if (url.secure) {
        return azoi_fail(e, AZO_ERR_UNSUPPORTED, "The proxy %.*s wants TLS to itself (https://), which this library "
                         "does not speak. Use its http:// port.", (int)url.host.len, url.host.ptr);
    }
    azoi_buf_str(&c->proxy_host, url.host);
    c->proxy_port = url.port;
    azoi_percent_decode(&c->input, url.userinfo);
    azoi_base64(&c->proxy_auth, azoi_buf_view(&c->input));
    azoi_buf_clear(&c->scratch);
    return AZO_OK;
}

static azo_result azoi_client_set_texts(azo_client *c, const azo_client_desc *desc, azo_error *e) {
    azoi_buf_str(&c->endpoint, azoi_setting(desc->endpoint, "AZURE_OPENAI_ENDPOINT", NULL));
    azoi_buf_str(&c->deployment, azoi_setting(desc->deployment, "AZURE_OPENAI_DEPLOYMENT", NULL));
    azoi_buf_str(&c->api_version, azoi_setting(desc->api_version, "OPENAI_API_VERSION", "AZURE_OPENAI_API_VERSION"));
    azoi_buf_str(&c->scope, azoi_trim(azo_s(desc->scope)));
    azo_str name = desc->auth_header != NULL ? azoi_trim(azo_s(desc->auth_header)) : azo_s("api-key");
    azoi_buf_str(&c->auth_header, name);
    if (!azoi_is_token(name) || azoi_header_reserved(name)) {
        return azoi_fail(e, AZO_ERR_ARGUMENT, "azo_client_desc.auth_header is not the name of a header for a key (%zu "
                         "bytes). Use letters, digits and dashes, and no name that HTTP itself needs.", name.len);
    }
    return azoi_header_lines(&c->headers, desc->headers, desc->header_count, e);
}

static azo_result azoi_client_set_up(azo_client *c, const azo_client_desc *desc, azo_error *e) {
    azo_result r = azoi_net_init(&c->net, desc, &c->allocator, e);
    r = r == AZO_OK ? azoi_client_set_limits(c, desc, e) : r;
    r = r == AZO_OK ? azoi_client_set_texts(c, desc, e) : r;
    r = r == AZO_OK ? azoi_client_set_proxy(c, desc, e) : r;
    r = r == AZO_OK ? azoi_identity_open(c, desc, e) : r;
    for (size_t i = 0; i < AZOI_CLIENT_BUFS && r == AZO_OK; i++) {
        r = azoi_buf_failed(azoi_client_buf(c, i), e, "A setting");
    }
    return r;
}

/* ---- open and close ---- */

static void azoi_client_free(azo_client *c) {
    azoi_slots_free(c);
    while (!azoi_list_empty(&c->conns)) {
        azoi_conn_free(AZOI_OF(c->conns.next, azoi_conn, link));
    }
    azoi_conn_drop_idle(c, NULL);
    azoi_net_close(&c->net);
    azoi_pump_close(&c->pump);
    for (size_t i = 0; i < AZOI_CLIENT_BUFS; i++) {
        azoi_buf_free(azoi_client_buf(c, i));
    }
    azoi_spares_free(&c->spares);
    azo_allocator allocator = c->allocator;
    azoi_wipe(c, sizeof *c);
    azoi_free(&allocator, c, sizeof *c);
}

AZO_API azo_result azo_client_open(const azo_client_desc *desc, azo_client **out, azo_error *err) {
    azo_client_desc none;
    azo_error ignored;
    azo_error *e = err != NULL ? err : &ignored;
    if (azoi_begin(e, out == NULL ? 2 : 0) != AZO_OK) {
        return AZO_ERR_ARGUMENT;
    }
    memset(&none, 0, sizeof none);
    desc = desc != NULL ? desc : &none;
    azo_client *c = (azo_client *)azoi_alloc(&desc->allocator, sizeof *c);
    *out = NULL;
    if (c == NULL) {
        return azoi_memory(e);
    }
    c->allocator = desc->allocator;
    c->spares.below = desc->allocator;
    c->loop = desc->loop;
    c->interrupted = desc->interrupted;
    c->interrupt_user_data = desc->interrupt_user_data;
    for (size_t i = 0; i < AZOI_CLIENT_BUFS; i++) {
        azoi_buf_init(azoi_client_buf(c, i), &c->allocator, SIZE_MAX / 2, i < AZOI_SECRET_BUFS);
    }
    azoi_pump_init(&c->pump, &c->allocator, &c->loop, &c->net.clock);
    azoi_list_init(&c->conns);
    azoi_list_init(&c->idle);
    azoi_list_init(&c->capped);
    azoi_list_init(&c->jobs);
    azoi_list_init(&c->finished);
    azo_result r = azoi_client_set_up(c, desc, e);
    if (r != AZO_OK) {
        azoi_client_free(c);
        return r;
    }
    *out = c;
    return AZO_OK;
}

/* What is left of live requests are their outcomes. */
static void azoi_client_drop_jobs(azo_client *c) {
    while (!azoi_list_empty(&c->jobs)) {
        azo_request *job = AZOI_OF(c->jobs.next, azo_request, link);
        bool fetch = job->ops->kind == AZOI_KIND_FETCH; /* frees itself */
        if (job->state != AZOI_JOB_DONE) {
            azoi_error_clear(&job->error);
            (void)azoi_fail(&job->error, AZO_ERR_CANCELLED, "The client was closed while the request was on its way. "
                            "Nothing needs to be done.");
            azoi_job_finish(job, AZO_ERR_CANCELLED);
        }
        if (!fetch) {
            azoi_job_orphan(job);
        }
    }
}

AZO_API void azo_client_close(azo_client *client) {
    if (client == NULL) {
        return;
    }
    if (client->in_step || client->in_callback) {
        client->closing = true;
        client->pump.stop = true;
        return;
    }
    azoi_client_drop_jobs(client);
    azoi_client_free(client);
}

/* ---- driving ---- */

AZO_API azo_result azo_step(azo_client *client, const azo_watch *ready, size_t count) {
    if (client == NULL) {
        return AZO_ERR_ARGUMENT;
    }
    if (client->in_step || client->in_callback) {
        return AZO_ERR_STATE;
    }
    client->in_step = true;
    azoi_pump_happened(&client->pump, ready, count);
    azoi_pump_run(&client->pump);
    client->in_step = false;
    if (client->closing) {
        azo_client_close(client);
        return AZO_OK;
    }
    azoi_pump_tell(&client->pump, true);
    return AZO_OK;
}

/* Of two waits, of which less than 0 is for ever. */
static int32_t azoi_sooner(int32_t a, int32_t b) {
    return a >= 0 && (b < 0 || a < b) ? a : b;
}

AZO_API size_t azo_wait(azo_client *client, azo_watch *out, size_t cap, int32_t *timeout_ms) {
    size_t count = 0;
    size_t places = client != NULL ? client->pump.place_count : 0;
    int32_t timeout = client != NULL ? azoi_pump_timeout(&client->pump) : -1;
    for (size_t i = 1; i <= places; i++) {
        azoi_source *source = client->pump.places[i].source;
        azo_watch wishes[AZOI_MAX_FDS];
        int32_t wait_ms = -1;
        size_t wished = source != NULL ? source->describe(source, wishes, AZOI_MAX_FDS, &wait_ms) : 0;
        for (size_t k = 0; k < wished && k < AZOI_MAX_FDS; k++, count++) {
            if (count < cap && out != NULL) {
                out[count] = wishes[k];
            }
        }
        timeout = azoi_sooner(timeout, wait_ms);
    }
    if (timeout_ms != NULL) {
        *timeout_ms = timeout;
    }
    return count;
}

enum { AZOI_BLIND_MS = 50 };

/* Sleeps and moves what became ready to the front; returns how many. */
static size_t azoi_sleep(const azo_transport *t, azo_watch *watches, size_t count, int32_t timeout_ms) {
    size_t ready = 0;
    if (t->poll(watches, count, timeout_ms, t->user_data) > 0) {
        for (size_t i = 0; i < count; i++) {
            if (watches[i].events != 0) {
                watches[ready++] = watches[i];
            }
        }
    }
    return ready;
}

AZO_API azo_result azo_poll(azo_client *client, int32_t max_ms) {
    if (client == NULL) {
        return AZO_ERR_ARGUMENT;
    }
    if (client->in_step || client->in_callback) {
        return AZO_ERR_STATE;
    }
    if (client->net.transport.poll == NULL) {
        return AZO_ERR_UNSUPPORTED;
    }
    azoi_buf *room = &client->watches;
    room->failed = AZO_OK; /* a poll that had no memory says nothing about this one */
    (void)azoi_buf_reserve(room, client->pump.place_count * AZOI_MAX_FDS * sizeof(azo_watch));
    azo_watch *watches = (azo_watch *)(void *)room->data;
    size_t cap = room->cap / sizeof *watches;
    int32_t timeout_ms;
    size_t count = azo_wait(client, watches, cap, &timeout_ms);
    bool blind = count > cap; /* no memory for all of them: sleep less and look at everything */
    if (blind) {
        count = cap;
        max_ms = azoi_sooner(max_ms, AZOI_BLIND_MS);
    }
    timeout_ms = azoi_sooner(timeout_ms, max_ms);
    bool nothing_to_wait_for = count == 0 && (timeout_ms == 0 || (timeout_ms < 0 && azoi_list_empty(&client->conns)));
    size_t ready = nothing_to_wait_for ? 0 : azoi_sleep(&client->net.transport, watches, count, timeout_ms);
    return azo_step(client, blind ? NULL : watches, ready);
}

AZO_API azo_request *azo_next(azo_client *client) {
    if (client == NULL || azoi_list_empty(&client->finished)) {
        return NULL;
    }
    azo_request *job = AZOI_OF(client->finished.next, azo_request, finished);
    azoi_link_leave(&job->finished);
    return job;
}

AZO_API azo_result azo_request_result(const azo_request *request) {
    if (request == NULL) {
        return AZO_ERR_ARGUMENT;
    }
    return request->state == AZOI_JOB_DONE ? request->result : AZO_PENDING;
}

AZO_API void *azo_request_tag(const azo_request *request) {
    return request != NULL ? request->spec.tag : NULL;
}

AZO_API void azo_request_cancel(azo_request *request) {
    if (request == NULL || request->state == AZOI_JOB_DONE) {
        return;
    }
    request->cancelled = true;
    if (!request->in_turn) {
        azoi_job_wake(request);
        azoi_client_tell(request->client);
    }
}

AZO_API void azo_request_resume(azo_request *request) {
    if (request == NULL || request->state == AZOI_JOB_DONE || !request->paused) {
        return;
    }
    request->paused = false;
    request->resumed = true;
    azoi_pump_tick(&request->client->pump);
    request->due = azoi_deadline(request->client->pump.now, request->spec.idle_ms);
    azoi_job_wake(request);
    azoi_client_tell(request->client);
}

AZO_API void azo_request_free(azo_request *request) {
    if (request == NULL) {
        return;
    }
    if (request->in_turn) {
        request->freed = true;
        request->cancelled = true;
        return;
    }
    azo_client *c = request->client;
    azoi_job_free(request);
    if (c != NULL) {
        azoi_client_tell(c);
    }
}

/* ---- blocking forms ---- */

static azo_result azoi_may_block(azo_client *c, azo_error *err) {
    azo_result r = azoi_begin(err, c == NULL ? 1 : 0);
    if (r != AZO_OK) {
        return r;
    }
    if (c->in_step || c->in_callback) {
        return azoi_fail(err, AZO_ERR_STATE, "A blocking call was made inside a callback of the same client (error "
                         "%d). Use the begin form there.", (int)AZO_ERR_STATE);
    }
    if (c->net.transport.poll == NULL) {
        return azoi_fail(err, AZO_ERR_UNSUPPORTED, "The transport hook has no poll function, so nothing can block "
                         "(error %d). Set azo_transport.poll, or use the begin form.", (int)AZO_ERR_UNSUPPORTED);
    }
    return AZO_OK;
}

static void azoi_block(azo_request *job) {
    job->blocking = true;
    while (job->state != AZOI_JOB_DONE) {
        azo_client *c = job->client;
        (void)azo_poll(c, -1); /* azoi_may_block saw to it that it works; afterwards the client may be gone */
        if (job->state != AZOI_JOB_DONE && c->interrupted != NULL && c->interrupted(c->interrupt_user_data)) {
            azo_request_cancel(job);
        }
    }
}

AZO_API azo_result azo_token(azo_client *client, const azo_token_desc *desc, azo_token_reply *out, azo_error *err) {
    azo_request *job;
    azo_result r = azoi_may_block(client, err);
    r = r == AZO_OK ? azo_token_begin(client, desc, &job, err) : r;
    if (r != AZO_OK) {
        (void)azo_token_end(NULL, out, NULL); /* clears the reply */
        return r;
    }
    azoi_block(job);
    return azo_token_end(job, out, err);
}

AZO_API azo_result azo_chat(azo_client *client, const azo_chat_desc *desc, azo_chat_reply *out, azo_error *err) {
    azo_request *job;
    azo_result r = azoi_may_block(client, err);
    r = r == AZO_OK ? azo_chat_begin(client, desc, &job, err) : r;
    if (r != AZO_OK) {
        (void)azo_chat_end(NULL, out, NULL); /* clears the reply */
        return r;
    }
    azoi_block(job);
    return azo_chat_end(job, out, err);
}

AZOI_EMBED_API azo_result azo_embed(azo_client *client, const azo_embed_desc *desc, azo_embed_reply *out,
                                    azo_error *err) {
    azo_request *job;
    azo_result r = azoi_may_block(client, err);
    r = r == AZO_OK ? azo_embed_begin(client, desc, &job, err) : r;
    if (r != AZO_OK) {
        (void)azo_embed_end(NULL, out, NULL); /* clears the reply */
        return r;
    }
    azoi_block(job);
    return azo_embed_end(job, out, err);
}

AZOI_RAW_API azo_result azo_raw(azo_client *client, const azo_raw_desc *desc, azo_raw_reply *out, azo_error *err) {
    azo_request *job;
    azo_result r = azoi_may_block(client, err);
    r = r == AZO_OK ? azo_raw_begin(client, desc, &job, err) : r;
    if (r != AZO_OK) {
        (void)azo_raw_end(NULL, out, NULL); /* clears the reply */
        return r;
    }
    azoi_block(job);
    return azo_raw_end(job, out, err);
}

#ifndef AZO_NO_POOL
/* ---- azo_pool: the lowest gap that is large enough is taken, so that what is above `peak` never made a difference. A
 * block in use has no header, since its size comes back with it. ---- */

typedef union azoi_gap { /* also the unit of all sizes and places, so that whatever is in a block is aligned */
    struct {
        union azoi_gap *next; /* by address */
        size_t units;
    } is;
    long long integer;
    long double number;
    void (*function)(void);
} azoi_gap;

static size_t azoi_pool_units(size_t size) {
    return size / sizeof(azoi_gap) + (size % sizeof(azoi_gap) != 0);
}

/* The link to the first gap from an address on. */
static azoi_gap **azoi_pool_from(azo_pool *p, const azoi_gap *place) {
    azoi_gap **at = &p->gaps;
    while (*at != NULL && *at < place) {
        at = &(*at)->is.next;
    }
    return at;
}

/* Takes the beginning of a gap that is large enough. */
static void *azoi_pool_cut(azo_pool *p, azoi_gap **at, size_t units) {
    azoi_gap *gap = *at;
    azoi_gap *end = gap + units;
    size_t reached = (size_t)((char *)end - (char *)p->buffer);
    if (gap->is.units > units) {
        end->is.next = gap->is.next;
        end->is.units = gap->is.units - units;
        *at = end;
    } else {
        *at = gap->is.next;
    }
    p->used += units * sizeof *gap;
    p->peak = p->peak < reached ? reached : p->peak;
    return gap;
}

static void azoi_pool_join(azoi_gap *gap) {
    azoi_gap *next = gap->is.next;
    if (next == gap + gap->is.units) {
        gap->is.units += next->is.units;
        gap->is.next = next->is.next;
    }
}

static void azoi_pool_give(azo_pool *p, azoi_gap *block, size_t units) {
    azoi_gap **at = azoi_pool_from(p, block);
    block->is.next = *at;
    block->is.units = units;
    *at = block;
    p->used -= units * sizeof *block;
    azoi_pool_join(block);
    if (at != &p->gaps) {
        azoi_pool_join(AZOI_OF(at, azoi_gap, is.next));
    }
}

static void *azoi_pool_resize(void *ptr, size_t old_size, size_t new_size, void *user_data) {
    azo_pool *p = (azo_pool *)user_data;
    azoi_gap *block = (azoi_gap *)ptr;
    size_t had = azoi_pool_units(old_size);
    size_t wanted = azoi_pool_units(new_size);
    if (p == NULL) {
        return NULL;
    }
    if (wanted <= had) {
        if (wanted < had) {
            azoi_pool_give(p, block + wanted, had - wanted);
        }
        return wanted > 0 ? block : NULL;
    }
    azoi_gap **at = block != NULL ? azoi_pool_from(p, block) : NULL;
    if (at != NULL && *at == block + had && (*at)->is.units >= wanted - had) {
        (void)azoi_pool_cut(p, at, wanted - had);
        return block;
    }
    at = &p->gaps;
    while (*at != NULL && (*at)->is.units < wanted) {
        at = &(*at)->is.next;
    }
    if (*at == NULL) {
        return NULL;
    }
    void *moved = azoi_pool_cut(p, at, wanted);
    if (block != NULL) {
        memcpy(moved, block, old_size);
        azoi_pool_give(p, block, had);
    }
    return moved;
}

AZO_API azo_allocator azo_pool_init(azo_pool *pool, void *buffer, size_t size) {
    azo_allocator hook = {pool, azoi_pool_resize};
    size_t skip = (sizeof(azoi_gap) - (uintptr_t)buffer % sizeof(azoi_gap)) % sizeof(azoi_gap);
    if (pool == NULL) {
        return hook; /* which refuses everything */
    }
    memset(pool, 0, sizeof *pool);
    pool->buffer = buffer;
    if (buffer != NULL && size >= skip + sizeof(azoi_gap)) {
        pool->gaps = (azoi_gap *)(void *)((char *)buffer + skip);
        pool->gaps->is.next = NULL;
        pool->gaps->is.units = (size - skip) / sizeof(azoi_gap);
    }
    return hook;
}
#endif

/* ---- state ---- */

/* A mark with the version of the format, the time, records, and the seal over all these. */
static const char azoi_state_mark[] = "azo-state 1\n";

enum { AZOI_STATE_MARK = sizeof azoi_state_mark - 1 };

/* Sees to it that the time and mbedTLS are there. */
static azo_result azoi_may_carry(azo_client *c, int argument, azo_error *err) {
    azo_result r = azoi_begin(err, argument);
    if (r == AZO_OK && (c->in_step || c->in_callback)) {
        return azoi_fail(err, AZO_ERR_STATE, "The state of a client was asked for inside one of its callbacks (error "
                         "%d). Do it when azo_step or the blocking call has returned.", (int)AZO_ERR_STATE);
    }
    if (r == AZO_OK) {
        azoi_pump_tick(&c->pump);
        r = azoi_tls_setup(&c->net, err);
    }
    return r;
}

AZOI_STATE_API azo_result azo_client_export(azo_client *client, azo_state *out, azo_error *err) {
    unsigned char seal[AZOI_DIGEST];
    azo_result r = azoi_may_carry(client, client == NULL ? 1 : out == NULL ? 2 : 0, err);
    if (out != NULL) {
        memset(out, 0, sizeof *out);
    }
    if (r != AZO_OK) {
        return r;
    }
    azoi_owned *o = (azoi_owned *)azoi_alloc(&client->allocator, sizeof *o);
    if (o == NULL) {
        return azoi_memory(err);
    }
    o->allocator = client->allocator;
    o->size = sizeof *o;
    azoi_buf_init(&o->body, &o->allocator, SIZE_MAX / 2, true);
    int64_t now = azoi_net_unix(&client->net);
    azoi_buf_puts(&o->body, azoi_state_mark);
    azoi_number_put(&o->body, now);
    azoi_slots_export(client, now, &o->body);
    azoi_net_export(&client->net, &o->body);
    r = azoi_identity_seal(client, azoi_buf_view(&o->body), seal, err);
    azoi_buf_add(&o->body, seal, sizeof seal);
    r = r == AZO_OK ? azoi_buf_failed(&o->body, err, "The state") : r;
    if (r != AZO_OK) {
        azoi_owned_free(o);
        return r;
    }
    out->owned = o;
    out->bytes = azoi_buf_view(&o->body);
    azoi_log(&client->net, AZO_LOG_INFO, "* state of %zu bytes exported", o->body.len);
    return AZO_OK;
}

AZOI_STATE_API void azo_state_free(azo_state *state) {
    azoi_reply_free(state, sizeof *state);
}

/* Checks a state and leaves its records of it, and when it was made. */
static azo_result azoi_state_open(azo_client *c, azo_str *state, int64_t *made, azo_error *e) {
    unsigned char seal[AZOI_DIGEST];
    unsigned differs = 0;
    size_t len = state->len;
    azoi_record record;
    bool marked = azoi_starts(*state, azoi_state_mark);
    if (!marked || len < AZOI_STATE_MARK + 8 + sizeof seal) {
        bool other = !marked && len > AZOI_STATE_MARK && azoi_starts(*state, "azo-state ");
        return azoi_fail(e, other ? AZO_ERR_UNSUPPORTED : AZO_ERR_ARGUMENT, "These %zu bytes are no state %s. Go on "
                         "without them; the next azo_client_export gives good ones.", len,
                         other ? "in the format of this version" : "that a client has exported");
    }
    state->len -= sizeof seal;
    azo_result r = azoi_identity_seal(c, *state, seal, e);
    if (r != AZO_OK) {
        return r;
    }
    for (size_t i = 0; i < sizeof seal; i++) {
        differs |= (unsigned)(unsigned char)state->ptr[state->len + i] ^ seal[i];
    }
    *state = azoi_skip(*state, AZOI_STATE_MARK);
    bool sound = azoi_number_take(state, made) && differs == 0;
    for (azo_str rest = *state; sound && rest.len > 0;) {
        sound = azoi_record_take(&rest, &record);
    }
    return sound ? AZO_OK
                 : azoi_fail(e, AZO_ERR_ARGUMENT, "The state (%zu bytes) is damaged, or of a client with another "
                             "identity or other root certificates. Go on without it; the next azo_client_export gives "
                             "a good one.", len);
}

AZOI_STATE_API azo_result azo_client_import(azo_client *client, const void *state, size_t len, azo_error *err) {
    azo_str rest = azoi_view((const char *)state, len);
    azoi_record record;
    int64_t made;
    size_t count = 0;
    size_t taken = 0;
    azo_result r = azoi_may_carry(client, client == NULL ? 1 : state == NULL ? 2 : 0, err);
    r = r == AZO_OK ? azoi_state_open(client, &rest, &made, err) : r;
    if (r != AZO_OK) {
        return r;
    }
    int64_t now = azoi_net_unix(&client->net);
    bool timely = made != 0 && made <= now; /* once the clock went back, no time means anything */
    for (; r >= 0 && rest.len > 0; count++) {
        (void)azoi_record_take(&rest, &record);
        r = !timely                              ? AZO_PENDING
            : record.kind == AZOI_RECORD_TOKEN   ? azoi_slots_import(client, &record, now, err)
            : record.kind == AZOI_RECORD_SESSION ? azoi_net_import(&client->net, &record, now, err) : AZO_PENDING;
        taken += r == AZO_OK ? 1 : 0;
    }
    azoi_log(&client->net, AZO_LOG_INFO, "* state of %zu bytes imported: of use are %zu of %zu tokens and sessions",
             len, taken, count);
    return r < 0 ? r : AZO_OK;
}

/* ---- names ---- */

AZO_API const char *azo_result_name(azo_result result) {
#define AZOI_NAME(name, value) \
    case name:                 \
        return #name;
    switch (result) { AZO_RESULTS(AZOI_NAME) }
#undef AZOI_NAME
    return "unknown result";
}

AZO_API const char *azo_version(void) {
    return AZO_VERSION;
}

/* >>end */

#undef AZOI_APART
#undef AZOI_EMBED_API
#undef AZOI_HAS_IMDS
#undef AZOI_HAS_LOG
#undef AZOI_HAS_PROXY
#undef AZOI_HAS_SECRET
#undef AZOI_HAS_STREAM
#undef AZOI_HISTORY_API
#undef AZOI_NEVER
#undef AZOI_OF
#undef AZOI_PRINTF
#undef AZOI_PSA
#undef AZOI_RAW_API
#undef AZOI_SEGMENT
#undef AZOI_SENTENCES
#undef AZOI_STATE_API
#undef AZOI_UNREACHED
#ifdef AZO_NO_SENTENCES
#undef azoi_fail
#endif

#endif /* AZOPENAI_IMPLEMENTATION */

/* HISTORY
 *
 *     0.1.0  Added: chat (blocking, streamed, stepped), embeddings, raw calls, tokens; environment secret, managed
 *            identity, API key, static token and token provider; history and JSON views; state for the next run.
 *
 * LICENCE
 *
 * MIT License
 *
 * Copyright (c) 2026 the azopenai.h authors
 *
 * Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
 * documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
 * rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
 * permit persons to whom the Software is furnished to do so, subject to the following conditions:
 *
 * The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
 * Software.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
 * WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
 * COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
 * OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
 */
