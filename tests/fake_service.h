/* fake_service.h - Azure OpenAI, Entra ID and the instance metadata service, on loopback, for tests.
 *
 *     fake_options options = {.cert_file = "certs/server.pem", .key_file = "certs/server.key"};
 *     fake *service = fake_start(&options);
 *     ... point a client at https://localhost:<fake_port(service, FAKE_SERVICE)> ...
 *     fake_push(service, FAKE_SERVICE, &(fake_reply){.status = 429, .headers = "retry-after: 1\r\n"});
 *     ... call, then look at fake_count() and fake_request() ...
 *     fake_stop(service);
 *
 * Without a script it is a strict service: it checks every request and says what is wrong with it. What it answers:
 *
 *     chat          "You said: <last user text>"; a JSON object {"echo": "..."} if response_format asks for JSON;
 *                   calls of the offered get_weather({"city":"Bern"}) and get_time({"tz":"CET"}) when the last
 *                   message is from the user and says "weather"; "The tools said: <a>; <b>" after tool messages;
 *                   a refusal by the content filter when a user text says "forbidden"
 *     embeddings    fake_embedding() per position, 8 dimensions unless told, the rows in reverse order
 *     audio/speech  as many bytes as the member "bytes" of the body says, each fake_byte() of its position
 *     files         {"id", "object", "bytes"} with the length of the body
 *     models        a list of two
 *
 * All functions may be called from any thread. Every pointer handed out stays valid until fake_stop.
 */
#ifndef FAKE_SERVICE_H
#define FAKE_SERVICE_H

#include <stdbool.h>
#include <stddef.h>

#define FAKE_TENANT_ID "11111111-2222-3333-4444-555555555555"
#define FAKE_CLIENT_ID "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
#define FAKE_CLIENT_SECRET "a~b.c_d-e+f/g=h&i%j k"
/* An identity that gets tokens but has no role on the service. */
#define FAKE_POWERLESS_CLIENT_ID "dddddddd-0000-0000-0000-000000000000"
/* Other names of FAKE_CLIENT_ID that the metadata service knows. */
#define FAKE_OBJECT_ID "bbbbbbbb-cccc-dddd-eeee-ffffffffffff"
#define FAKE_RESOURCE_ID                                                                            \
    "/subscriptions/22222222-0000-0000-0000-000000000000/resourceGroups/fake/providers/"            \
    "Microsoft.ManagedIdentity/userAssignedIdentities/fake"
#define FAKE_API_KEY "0123456789abcdef0123456789abcdef"
/* Deployments: "gpt-4o", "gpt-4o prod", "embed". */
#define FAKE_DEPLOYMENT "gpt-4o"

typedef struct fake fake;

typedef enum fake_role { FAKE_SERVICE, FAKE_ENTRA, FAKE_IMDS, FAKE_ROLE_COUNT } fake_role;

typedef struct fake_options {
    const char *cert_file; /* PEM chain and key; needed unless both TLS roles are plain */
    const char *key_file;
    bool plain_service; /* HTTP instead of HTTPS */
    bool plain_entra;
    int tls_min; /* 12 or 13; 0 is what the library offers from 1.2 up */
    int tls_max;
    bool no_tickets;                  /* no session resumption */
    unsigned ports[FAKE_ROLE_COUNT];  /* 0: chosen by the kernel */
    const char *log_path;             /* gets one JSON line per answered request */
    bool counts_only;                 /* do not keep requests: for long runs */
} fake_options;

/* NULL on failure, after a line on stderr. Stopping closes every connection and joins every thread. */
fake *fake_start(const fake_options *options);
void fake_stop(fake *service);
unsigned fake_port(fake *service, fake_role role);

/* ---- Scripted replies: each is used up by one request of its role; without one the default answer is given. ---- */

typedef enum fake_framing {
    FAKE_BY_DEFAULT, /* Content-Length; chunked for default answers that are streams */
    FAKE_LENGTH,
    FAKE_CHUNKED,
    FAKE_UNTIL_CLOSE, /* neither; the end of the connection ends the body */
    FAKE_HTTP10,      /* the same, with HTTP/1.0 in the status line */
    FAKE_AS_GIVEN     /* `headers` frame the body, or fail to */
} fake_framing;

/* What happens to the connection after `cut_after` bytes of the body (with `raw`: of the whole reply). With chunked
 * framing a cut after the last byte comes before the terminating chunk. */
typedef enum fake_cut {
    FAKE_NO_CUT,
    FAKE_CUT_ORDERLY, /* close_notify, then FIN */
    FAKE_CUT_FIN,     /* FIN alone: a truncation, under TLS */
    FAKE_CUT_RESET,   /* RST */
    FAKE_CUT_STALL    /* stays open, sends nothing more */
} fake_cut;

typedef struct fake_reply {
    int status;          /* 0 means 200 */
    const char *reason;  /* NULL: the usual phrase */
    const char *headers; /* lines, each with its CRLF; nothing but framing is added to them */
    const char *body;
    size_t body_len; /* 0 means strlen(body) */
    fake_framing framing;

    const char *raw; /* complete reply, written as it is instead of all the above */
    size_t raw_len;  /* 0 means strlen(raw) */

    bool pass; /* answer by default after all; what follows applies to that answer */

    int delay_before_head_ms;
    int delay_between_chunks_ms;
    size_t first_chunk;      /* the body (or raw) goes out in pieces: the first of this length, */
    size_t chunk_size;       /* the others of this one, 0 meaning the rest; */
    size_t events_per_chunk; /* or each ends after this many blank lines */
    bool chunk_extensions;
    bool trailers;
    bool glue_head; /* first piece in the same write as the head, even when more follow */

    fake_cut cut;
    size_t cut_after;
    bool close_after; /* ends the connection after the reply without announcing it */
    bool silent;      /* take the request and never answer */
    bool interim_100; /* "100 Continue" first */
    bool early;       /* answer on the head alone, read no body, close */
} fake_reply;

/* Copies everything it needs. */
void fake_push(fake *service, fake_role role, const fake_reply *reply);
/* Scripted replies not yet used. */
size_t fake_pending(fake *service, fake_role role);
void fake_clear(fake *service, fake_role role);

/* ---- Behaviour that lasts, per role; everything starts as 0 unless said otherwise. ---- */

typedef enum fake_setting {
    FAKE_DELAY_MS,         /* before every default answer */
    FAKE_SILENCE,          /* 1: requests are read and not answered; 2: connections are taken and not even read */
    FAKE_CLOSING,          /* after each default answer: 1 closes with "Connection: close", 2 closes silently */
    FAKE_HEADER_CASE,      /* names of default answers: 1 lower, 2 upper */
    FAKE_STREAM_DELAY_MS,  /* between the chunks of default streams */
    FAKE_STREAM_EVENTS,    /* events per chunk of default streams; starts as 2 */
    FAKE_STREAM_BYTES,     /* if set, the chunks of default streams have this size instead */
    FAKE_TOKEN_LIFETIME_S, /* of tokens issued from now on; starts as 3599 for Entra, 86399 for IMDS */
    FAKE_TOKEN_REFRESH_S,  /* sent as refresh_in when set */
    FAKE_TOKEN_REUSE,      /* 1: issue the same string again while it is valid, as the metadata service does */
    FAKE_SETTING_COUNT
} fake_setting;

void fake_set(fake *service, fake_role role, fake_setting setting, int value);
/* From now on the service refuses every token issued so far. */
void fake_revoke_tokens(fake *service);
/* Closes the connections of a role that wait for a request, as an idle timeout does. */
void fake_drop_connections(fake *service, fake_role role);

/* ---- What happened. ---- */

typedef struct fake_header {
    const char *name;
    const char *value;
} fake_header;

typedef struct fake_seen {
    const char *method; /* "" if the head was not HTTP */
    const char *target;
    const char *head; /* all of it as received, from the request line to the blank line */
    const fake_header *headers;
    size_t header_count;
    const char *body; /* chunked framing removed; a NUL follows */
    size_t body_len;
    unsigned connection; /* 1, 2, ... in the order of their arrival at this role */
    const char *tls;     /* "TLSv1.2", "TLSv1.3", or "" */
    const char *sni;     /* server name the client asked for, or "" */
    long at_ms;          /* since fake_start */
} fake_seen;

size_t fake_count(fake *service, fake_role role);
/* NULL if there are not so many. */
const fake_seen *fake_request(fake *service, fake_role role, size_t index);
size_t fake_connections(fake *service, fake_role role);
/* The most requests that were in hand at one time. */
size_t fake_most_concurrent(fake *service, fake_role role);
/* TLS sessions that were resumed by ticket, both TLS roles together. */
size_t fake_resumptions(fake *service);
/* Waits until `count` requests have been seen; false if that takes longer than `ms`. */
bool fake_wait(fake *service, fake_role role, size_t count, int ms);

/* First header of that name, in any case; NULL if absent. */
const char *fake_seen_header(const fake_seen *seen, const char *name);
/* A parameter of the query or else a field of a form body, decoded; false if absent or too long. */
bool fake_seen_field(const fake_seen *seen, const char *name, char *out, size_t size);

/* ---- What the default answers are made of. ---- */

float fake_embedding(const char *input, size_t input_len, size_t position);
unsigned char fake_byte(size_t position);

#endif
