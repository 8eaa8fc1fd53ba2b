/* torture_soak.c - one client for a long time: thousands of mixed requests with faults of every kind, and hundreds of
 * streams at one time, in a scripted world and over real TLS sockets.
 *
 * What is drawn by lot comes from one seed, which is printed; AZO_TEST_SEED=n repeats a run. AZO_TEST_SOAK=n makes
 * everything n times as long.
 *
 * Each request has a ticket: what is to happen to it, and so how it may end. The right text is a function of its
 * number; a success has exactly that text, and what a failed stream delivered is the beginning of it. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#define SCRIPT_MAX_CONNS 512
#include "script.h"

#include "calls.h"

#include <dirent.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

/* ---- the lot ---- */

static uint32_t first_seed;
static uint64_t lot_state;

static void lot_open(uint32_t seed) {
    lot_state = seed * UINT64_C(2862933555777941757) + 3037000493u;
}

/* 0 ... below - 1 */
static unsigned lot(unsigned below) {
    lot_state = lot_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)((lot_state >> 33) % below);
}

/* Once in so many times. */
static bool once_in(unsigned times) {
    return lot(times) == 0;
}

static unsigned soak_factor(void) {
    const char *text = getenv("AZO_TEST_SOAK");
    unsigned factor = text != NULL ? (unsigned)strtoul(text, NULL, 10) : 1;
    return factor > 0 ? factor : 1;
}

/* ---- what the right text is ---- */

enum { MAX_UNITS = 400, MAX_TEXT = MAX_UNITS * 2 + 16, MAX_ESCAPED = MAX_UNITS * 6 + 16 };

typedef struct right {
    char text[MAX_TEXT];
    char escaped[MAX_ESCAPED]; /* inside a JSON string */
    size_t len;
    size_t escaped_len;
    size_t ends[MAX_UNITS + 1]; /* of the characters in `escaped` */
    size_t units;
} right;

/* Deterministic, of 1 to MAX_UNITS characters, of which some need an escape and some are longer than a byte. */
static void write_right(right *r, unsigned number) {
    static const char *const units[][2] = {{"a", "a"},     {"b", "b"},      {" ", " "},
                                           {"\"", "\\\""}, {"\n", "\\n"},   {"\xc3\xa9", "\xc3\xa9"},
                                           {"\\", "\\\\"}, {"z", "\\u007a"}};
    uint32_t x = number * 2654435761u + 12345u;
    unsigned count = number % 10 == 9 ? MAX_UNITS : 1 + x % (MAX_UNITS / 4);
    (void)snprintf(r->text, sizeof r->text, "%u:", number);
    r->len = strlen(r->text);
    memcpy(r->escaped, r->text, r->len);
    r->escaped_len = r->len;
    r->units = 0;
    for (unsigned i = 0; i < count; i++) {
        x = x * 1664525u + 1013904223u;
        const char *const *unit = units[(x >> 24) % COUNT(units)];
        memcpy(r->text + r->len, unit[0], strlen(unit[0]));
        r->len += strlen(unit[0]);
        memcpy(r->escaped + r->escaped_len, unit[1], strlen(unit[1]));
        r->escaped_len += strlen(unit[1]);
        r->ends[r->units++] = r->escaped_len;
    }
    r->text[r->len] = '\0';
    r->escaped[r->escaped_len] = '\0';
}

/* ---- tickets ---- */

typedef enum kind { CHAT, STREAM, TOOLS, EMBED, SINK, TOKEN, KINDS } kind;

typedef enum fault {
    NO_FAULT,
    CUT_END,   /* the answer ends after some of its bytes */
    CUT_RESET, /* the connection is reset there */
    CUT_STALL, /* nothing more comes */
    STATUS,    /* 408, 429 or 5xx, with or without a wait */
    LONG_WAIT, /* 429 or 503, and a wait that is too long */
    UNAUTHORIZED,
    REFUSED, /* 400 */
    NOT_FOUND,
    NO_HTTP,
    NO_JSON,
    LAST_ANSWER, /* a good one, announced to be the connection's last */
    GOES_AWAY,   /* a good one, and the connection ends without a word */
    FAULTS
} fault;

typedef enum outcome { GOOD, BY_FAULT, BY_CANCEL, BY_MEMORY, BY_TOKEN, FREED, OUTCOMES, FORBIDDEN } outcome;

typedef enum life { UNBORN, LIVE, ENDED, DROPPED } life;

typedef struct ticket {
    unsigned number;
    kind kind;
    fault fault;
    unsigned faulty;   /* how many attempts meet the fault */
    unsigned permille; /* where it cuts */
    bool blocking;
    unsigned pause_at; /* the event, from 1 on, that is answered so; 0: none */
    unsigned stop_at;
    unsigned begin_at;
    unsigned free_at;
    life state;
    bool given; /* by azo_next */
    bool paused;
    bool cancelled;
    bool complete; /* an answer was sent of which no cut took anything that matters */
    azo_request *request;
    unsigned served; /* attempts that the service saw */
    unsigned events;
    int64_t began_at;
    int64_t resume_at;
    size_t failures;  /* of the allocator, when it began */
    test_notes heard; /* the text of the events, or the bytes of the sink */
    float vectors[2];
} ticket;

enum { SERVICE_PORT = 8000, ENTRA_PORT = 8001, MAX_LIVE = 12, MAX_ISSUED = 1 << 16 };

typedef struct soak {
    script_world net; /* first: the hooks get its address */
    script_peer_entry *service;
    script_peer_entry *entra;
    test_memory memory;
    azo_client_desc desc;
    azo_client *client;
    ticket *tickets;
    size_t count;
    size_t begun;
    size_t live;
    bool by_imds;
    int64_t expires_at[MAX_ISSUED]; /* of each token */
    unsigned issued;
    int64_t entra_bad_until;
    unsigned entra_bad_how;
    int64_t no_token_until; /* requests that began before may fail for want of a token */
    int64_t slept_at;       /* when the clock leapt last */
    int64_t outage_until;   /* of the network */
    unsigned outage_how;
    unsigned longest_pause_ms;
    bool only_streams;
    struct edges *edges; /* NULL: azo_poll moves the client */
    size_t outcomes[FAULTS][OUTCOMES];
    size_t retries;
} soak;

/* ---- what the service answers ---- */

typedef struct wire {
    test_notes body;
    test_notes bytes;
    size_t done_at; /* a success is possible when so much of the body, or here of all, has come */
} wire;

static void write_chat(wire *w, const right *r) {
    test_note(&w->body,
              "{\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{"
              "\"role\":\"assistant\",\"content\":\"");
    test_note_bytes(&w->body, r->escaped, r->escaped_len);
    test_note(&w->body, "\"}}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}");
    w->done_at = w->body.len;
}

/* The text in pieces of some characters, as content or as the arguments of a call. */
static void write_stream(wire *w, const right *r, bool tools) {
    size_t from = 0;
    if (tools) {
        test_note(&w->body, "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"call\","
                            "\"function\":{\"name\":\"get\",\"arguments\":\"\"}}]}}]}\n\n");
    }
    for (size_t unit = 0; unit < r->units;) {
        unit += 1 + lot(40);
        unit = unit < r->units ? unit : r->units;
        test_note(&w->body, tools ? "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,"
                                    "\"function\":{\"arguments\":\""
                                  : "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"");
        test_note_bytes(&w->body, r->escaped + from, r->ends[unit - 1] - from);
        test_note(&w->body, tools ? "\"}}]}}]}\n\n" : "\"}}]}\n\n");
        from = r->ends[unit - 1];
    }
    test_note(&w->body, "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]");
    w->done_at = w->body.len;
    test_note(&w->body, "\n\n");
}

static void write_body(wire *w, const ticket *t, const right *r) {
    if (t->kind == STREAM || t->kind == TOOLS) {
        write_stream(w, r, t->kind == TOOLS);
    } else if (t->kind == EMBED) {
        test_note(&w->body, "{\"data\":[{\"index\":0,\"embedding\":[%u,%u.5]}],\"usage\":{\"prompt_tokens\":1}}",
                  t->number, t->number);
        w->done_at = w->body.len;
    } else if (t->kind == SINK) {
        test_note_bytes(&w->body, r->text, r->len);
        w->done_at = w->body.len;
    } else {
        write_chat(w, r);
    }
}

/* Head and framing; chunks of odd sizes. */
static void write_frames(wire *w, const ticket *t) {
    bool stream = t->kind == STREAM || t->kind == TOOLS;
    bool chunked = !once_in(3);
    size_t most = once_in(4) ? 1 + lot(7) : 1 + lot(600);
    size_t done_at = 0;
    test_note(&w->bytes, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\n%s",
              stream            ? "text/event-stream"
              : t->kind == SINK ? "application/octet-stream"
                                : "application/json",
              t->fault == LAST_ANSWER ? "Connection: close\r\n" : "");
    if (!chunked) {
        test_note(&w->bytes, "Content-Length: %lu\r\n\r\n", (unsigned long)w->body.len);
        done_at = w->bytes.len + w->done_at;
        test_note_bytes(&w->bytes, w->body.text, w->body.len);
    } else {
        test_note(&w->bytes, "Transfer-Encoding: chunked\r\n\r\n");
        for (size_t from = 0; from < w->body.len;) {
            size_t size = 1 + lot((unsigned)most);
            size = size < w->body.len - from ? size : w->body.len - from;
            test_note(&w->bytes, once_in(5) ? "%lX;x=\"y\"\r\n" : "%lx\r\n", (unsigned long)size);
            if (w->done_at > from && w->done_at <= from + size) {
                done_at = w->bytes.len + w->done_at - from;
            }
            test_note_bytes(&w->bytes, w->body.text + from, size);
            test_note(&w->bytes, "\r\n");
            from += size;
        }
        test_note(&w->bytes, once_in(5) ? "0\r\nx-trailer: y\r\n\r\n" : "0\r\n\r\n");
    }
    w->done_at = stream ? done_at : w->bytes.len;
}

/* Sends it in some pieces, at some times. */
static void send_pieces(script_conn *c, const char *bytes, size_t len) {
    int64_t at = 1 + lot(30);
    size_t from = 0;
    unsigned pieces = once_in(3) ? 1 : 1 + lot(12);
    while (from < len) {
        size_t size = pieces > 1 && c->count + 8 < SCRIPT_PARTS ? 1 + lot((unsigned)(len - from)) : len - from;
        script_send_bytes(c, at, bytes + from, size);
        from += size;
        at += lot(40);
        pieces -= pieces > 1;
    }
}

static int64_t last_part_at(const script_conn *c) {
    return c->count > c->first ? c->parts[c->count - 1].at - c->world->now : 1;
}

/* A good answer, whole or cut. */
static void send_answer(script_conn *c, ticket *t, bool faulty) {
    right r;
    wire w;
    memset(&w, 0, sizeof w);
    write_right(&r, t->number);
    write_body(&w, t, &r);
    write_frames(&w, t);
    bool cut = faulty && (t->fault == CUT_END || t->fault == CUT_RESET || t->fault == CUT_STALL);
    size_t len = cut ? w.bytes.len * t->permille / 1000 : w.bytes.len;
    send_pieces(c, w.bytes.text, len);
    t->complete = t->complete || len >= w.done_at;
    if (cut && t->fault != CUT_STALL) {
        script_end(c, last_part_at(c) + lot(3), t->fault == CUT_END ? AZO_OK : AZO_ERR_CLOSED);
    } else if (t->fault == LAST_ANSWER || t->fault == GOES_AWAY) {
        script_end(c, last_part_at(c) + lot(50), AZO_OK);
    }
    test_notes_free(&w.body);
    test_notes_free(&w.bytes);
}

static void send_refusal(script_conn *c, const ticket *t) {
    static const char *const waits[] = {"", "retry-after: 1\r\n", "retry-after-ms: 20\r\n",
                                        "x-ms-retry-after-ms: 700\r\n"};
    static const int transient[] = {408, 429, 500, 502, 503, 504};
    static const char body[] = "{\"error\":{\"code\":\"%s\",\"message\":\"synthetic\"}}";
    char text[128];
    int status = t->fault == UNAUTHORIZED ? 401
                 : t->fault == REFUSED    ? 400
                 : t->fault == NOT_FOUND  ? 404
                 : t->fault == LONG_WAIT  ? (t->number % 2 == 0 ? 429 : 503)
                                          : transient[t->number % COUNT(transient)];
    (void)snprintf(text, sizeof text, body,
                   t->fault == NOT_FOUND ? "DeploymentNotFound"
                   : t->fault == REFUSED ? "invalid_request"
                                         : "x");
    script_answer(c, 1 + lot(20), status, t->fault == LONG_WAIT ? "retry-after: 120\r\n" : waits[lot(COUNT(waits))],
                  text);
}

static void send_nonsense(script_conn *c, const ticket *t) {
    bool stream = t->kind == STREAM || t->kind == TOOLS;
    if (t->fault == NO_HTTP) {
        script_send(c, 1 + lot(20),
                    once_in(2) ? "SSH-2.0-x\r\n\r\n" : "HTTP/1.1 2OO Okay\r\nContent-Length: 0\r\n\r\n");
    } else if (stream) {
        script_send(c, 1 + lot(20),
                    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 24\r\n\r\n"
                    "data: {\"choices\":[ ]\r\n\r\n");
    } else {
        script_answer(c, 1 + lot(20), 200, "", "{\"choices\":[{\"data\":[}]}");
    }
}

/* A connection that is going to end takes nothing more. */
static bool is_ending(const script_conn *c) {
    return c->count > c->first && c->parts[c->count - 1].bytes == NULL;
}

static void check_token(const soak *s, const char *request) {
    static const char before[] = "\r\nAuthorization: Bearer soak.token.";
    const char *token = strstr(request, before);
    assert_non_null(token);
    unsigned long number = strtoul(token + sizeof before - 1, NULL, 10);
    assert_true(number < s->issued);
    bool just_slept = s->slept_at != 0 && s->slept_at + 5000 > s->net.now; /* it was on its way before */
    if (s->expires_at[number] <= s->net.now && !just_slept) {
        fail_msg("token %lu was sent after its end", number);
    }
}

static void serve(script_conn *c, const char *request) {
    soak *s = (soak *)c->peer->state;
    const char *number = strstr(request, "\r\nX-Soak: ");
    if (is_ending(c)) {
        return;
    }
    check_token(s, request);
    assert_non_null(number);
    ticket *t = &s->tickets[strtoul(number + 10, NULL, 10)];
    if (t->state != LIVE || t->events > 0) {
        fail_msg("request %u was sent %s", t->number,
                 t->events > 0 ? "again after something had been delivered" : "after its end");
    }
    s->retries += t->served > 0;
    bool faulty = t->served++ < t->faulty;
    if (faulty && t->fault >= STATUS && t->fault <= NOT_FOUND) {
        send_refusal(c, t);
    } else if (faulty && (t->fault == NO_HTTP || t->fault == NO_JSON)) {
        send_nonsense(c, t);
    } else {
        send_answer(c, t, faulty);
    }
}

/* ---- Entra ID, or the metadata service ---- */

enum { BAD_500, BAD_503, BAD_END, BAD_RESET, BAD_STALL, BAD_REFUSAL, BAD_JSON, BAD_WAYS };

static void issue(script_conn *c, const char *request) {
    soak *s = (soak *)c->peer->state;
    char body[256];
    (void)request;
    if (is_ending(c)) {
        return;
    }
    if (s->net.now < s->entra_bad_until) {
        int64_t remembered_ms = s->entra_bad_how == BAD_STALL ? 120000 : 15000; /* by the fetch, and after it */
        if (s->no_token_until < s->net.now + remembered_ms) {
            s->no_token_until = s->net.now + remembered_ms;
        }
        if (s->entra_bad_how == BAD_END || s->entra_bad_how == BAD_RESET) {
            script_end(c, lot(20), s->entra_bad_how == BAD_END ? AZO_OK : AZO_ERR_CLOSED);
        } else if (s->entra_bad_how != BAD_STALL) {
            int status = s->entra_bad_how == BAD_500    ? 500
                         : s->entra_bad_how == BAD_503  ? 503
                         : s->entra_bad_how == BAD_JSON ? 200
                                                        : 400;
            script_answer(c, lot(20), status, s->entra_bad_how == BAD_503 ? "Retry-After: 1\r\n" : "",
                          s->entra_bad_how == BAD_JSON ? "{\"access_token\":"
                                                       : "{\"error\":\"invalid_client\",\"error_codes\":[7000215]}");
        }
        return;
    }
    assert_true(s->issued < MAX_ISSUED);
    unsigned lifetime_s = once_in(5) ? 3600 : 40 + lot(100);
    s->expires_at[s->issued] = s->net.now + (int64_t)lifetime_s * 1000;
    (void)snprintf(body, sizeof body,
                   "{\"token_type\":\"Bearer\",\"expires_in\":%s%u%s,\"access_token\":\"soak.token.%06u\"}",
                   s->by_imds ? "\"" : "", lifetime_s, s->by_imds ? "\"" : "", s->issued);
    s->issued++;
    script_answer(c, 1 + lot(60), 200, "", body);
}

/* ---- the network between ---- */

enum { OUT_REFUSED, OUT_SILENT, OUT_BROKEN, OUTAGES };

static bool is_out(const soak *s, unsigned how) {
    return s->net.now < s->outage_until && s->outage_how == how;
}

/* In a silent network a connection comes about when the network is back. */
static int soak_connect(void *conn, void *user_data) {
    soak *s = (soak *)user_data;
    script_conn *c = (script_conn *)conn;
    if (is_out(s, OUT_SILENT) && c->connect_at < s->outage_until) {
        c->connect_at = s->outage_until;
    }
    return is_out(s, OUT_REFUSED) ? AZO_ERR_CONNECT : script_conn_connect(conn, &s->net);
}

static ptrdiff_t soak_send(void *conn, const void *buf, size_t len, void *user_data) {
    soak *s = (soak *)user_data;
    return is_out(s, OUT_BROKEN) && once_in(2) ? AZO_ERR_CLOSED : script_conn_send(conn, buf, len, &s->net);
}

/* ---- callbacks ---- */

static void ticket_begin(soak *s, bool inside);

static soak *running; /* what the callbacks of a ticket belong to */

static int ticket_event(ticket *t, const char *bytes, size_t len) {
    soak *s = running;
    assert_int_equal(t->state, LIVE);
    assert_false(t->cancelled || t->paused);
    test_note_bytes(&t->heard, bytes, len);
    t->events++;
    if (t->events == t->begin_at && s->live < 2 * MAX_LIVE) {
        ticket_begin(s, true);
    }
    if (t->events == t->free_at) {
        azo_request_free(t->request);
        t->state = DROPPED;
        test_notes_free(&t->heard);
        s->outcomes[t->fault][FREED]++;
        s->live--;
        return (int)lot(3);
    }
    if (t->events == t->stop_at) {
        t->cancelled = true;
        return AZO_STOP;
    }
    if (t->events == t->pause_at) {
        t->paused = true;
        t->resume_at = s->net.now + lot(s->longest_pause_ms);
        return AZO_PAUSE;
    }
    return AZO_GO_ON;
}

static int on_chunk(const azo_event *event, void *user_data) {
    bool text = event->kind == AZO_EVENT_TEXT || event->kind == AZO_EVENT_TOOL_CALL;
    return ticket_event((ticket *)user_data, text && event->text.len > 0 ? event->text.ptr : "",
                        text ? event->text.len : 0);
}

static int on_bytes(const void *data, size_t len, void *user_data) {
    return ticket_event((ticket *)user_data, (const char *)data, len);
}

/* ---- the life of a ticket ---- */

static bool is_streamed(const ticket *t) {
    return t->kind == STREAM || t->kind == TOOLS || t->kind == SINK;
}

static void ticket_draw(ticket *t, unsigned number, bool only_streams) {
    static const unsigned faulty[] = {1, 2, 99};
    static const kind streams[] = {STREAM, TOOLS, SINK};
    memset(t, 0, sizeof *t);
    t->number = number;
    t->kind = only_streams ? streams[lot(COUNT(streams))] : (kind)lot(KINDS);
    t->fault = once_in(2) ? NO_FAULT : (fault)lot(FAULTS);
    t->fault = t->kind == SINK && t->fault == NO_JSON ? NO_FAULT : t->fault;
    t->faulty = faulty[lot(COUNT(faulty))];
    t->permille = lot(1000);
    t->blocking = once_in(5);
    if (is_streamed(t)) {
        t->pause_at = !t->blocking && once_in(6) ? 1 + lot(4) : 0;
        t->stop_at = once_in(15) ? 1 + lot(4) : 0;
        t->begin_at = once_in(12) ? 1 + lot(4) : 0;
        t->free_at = !t->blocking && once_in(25) ? 1 + lot(4) : 0;
    }
}

/* The four descs of a ticket, of which one is used. */
typedef struct descs {
    azo_chat_desc chat;
    azo_embed_desc embed;
    azo_raw_desc raw;
    azo_token_desc token;
    azo_message message;
    azo_tool tool;
    azo_str input;
    azo_header header;
    char digits[16];
} descs;

static azo_call *descs_call(descs *d, kind k) {
    return k == EMBED ? &d->embed.call : k == SINK ? &d->raw.call : k == TOKEN ? &d->token.call : &d->chat.call;
}

static void descs_open(descs *d, ticket *t) {
    memset(d, 0, sizeof *d);
    (void)snprintf(d->digits, sizeof d->digits, "%u", t->number);
    d->header.name = "X-Soak";
    d->header.value = d->digits;
    d->message = azo_user("Hi");
    d->chat.messages = &d->message;
    d->chat.message_count = 1;
    d->chat.on_event = t->kind == STREAM || t->kind == TOOLS ? on_chunk : NULL;
    d->chat.user_data = t;
    d->tool.name = "get";
    d->chat.tools = t->kind == TOOLS ? &d->tool : NULL;
    d->chat.tool_count = t->kind == TOOLS ? 1 : 0;
    d->input = azo_s("text");
    d->embed.inputs = &d->input;
    d->embed.input_count = 1;
    d->embed.vectors = t->number % 2 == 0 ? t->vectors : NULL;
    d->embed.vector_cap = COUNT(t->vectors);
    d->raw.path = "/files/x/content";
    d->raw.on_body = on_bytes;
    d->raw.user_data = t;
    azo_call *call = descs_call(d, t->kind);
    call->tag = t;
    call->headers = t->kind == TOKEN ? NULL : &d->header;
    call->header_count = t->kind == TOKEN ? 0 : 1;
}

/* The replies of a ticket, of which one is used. */
typedef struct replies {
    azo_chat_reply chat;
    azo_embed_reply embed;
    azo_raw_reply raw;
    azo_token_reply token;
    azo_error error;
} replies;

static azo_result ticket_call(soak *s, ticket *t, descs *d, replies *r) {
    switch (t->kind) {
    case EMBED:
        return azo_embed(s->client, &d->embed, &r->embed, &r->error);
    case SINK:
        return azo_raw(s->client, &d->raw, &r->raw, &r->error);
    case TOKEN:
        return azo_token(s->client, &d->token, &r->token, &r->error);
    default:
        return azo_chat(s->client, &d->chat, &r->chat, &r->error);
    }
}

static azo_result ticket_call_begin(soak *s, ticket *t, descs *d, azo_error *e) {
    switch (t->kind) {
    case EMBED:
        return azo_embed_begin(s->client, &d->embed, &t->request, e);
    case SINK:
        return azo_raw_begin(s->client, &d->raw, &t->request, e);
    case TOKEN:
        return azo_token_begin(s->client, &d->token, &t->request, e);
    default:
        return azo_chat_begin(s->client, &d->chat, &t->request, e);
    }
}

static azo_result ticket_call_end(ticket *t, replies *r) {
    switch (t->kind) {
    case EMBED:
        return azo_embed_end(t->request, &r->embed, &r->error);
    case SINK:
        return azo_raw_end(t->request, &r->raw, &r->error);
    case TOKEN:
        return azo_token_end(t->request, &r->token, &r->error);
    default:
        return azo_chat_end(t->request, &r->chat, &r->error);
    }
}

static void replies_free(replies *r) {
    azo_chat_reply_free(&r->chat);
    azo_embed_reply_free(&r->embed);
    azo_raw_reply_free(&r->raw);
    azo_token_reply_free(&r->token);
}

/* ---- how a ticket may end ---- */

/* More happened to it than its own fault: an outage may have cost attempts, and sleep the time for them. */
static bool is_unlucky(const soak *s, const ticket *t) {
    return t->began_at < s->outage_until || t->began_at < s->slept_at;
}

/* The failure that the ticket's fault is to cause. With retries left, and nothing delivered, some must not show. */
static bool is_own_failure(const soak *s, const ticket *t, azo_result r) {
    bool spent = t->faulty > 2 || t->events > 0 || is_unlucky(s, t);
    bool chunks = is_streamed(t);
    switch (t->fault) {
    case CUT_END:
    case CUT_RESET:
        return spent && (r == AZO_ERR_CLOSED || (chunks && r == AZO_ERR_STREAM));
    case CUT_STALL:
        return r == AZO_ERR_TIMEOUT;
    case STATUS:
        return spent && (r == AZO_ERR_RATE_LIMIT || r == AZO_ERR_SERVICE);
    case LONG_WAIT:
        return r == AZO_ERR_RATE_LIMIT || r == AZO_ERR_SERVICE;
    case UNAUTHORIZED:
        return r == AZO_ERR_UNAUTHORIZED;
    case REFUSED:
        return r == AZO_ERR_BAD_REQUEST;
    case NOT_FOUND:
        return r == AZO_ERR_NOT_FOUND;
    case NO_HTTP:
        return r == AZO_ERR_HTTP;
    case NO_JSON:
        return r == AZO_ERR_JSON || (chunks && r == AZO_ERR_STREAM);
    default:
        return false;
    }
}

static outcome outcome_of(const soak *s, const ticket *t, azo_result r) {
    if (t->cancelled || r == AZO_ERR_CANCELLED) {
        return t->cancelled && r == AZO_ERR_CANCELLED ? BY_CANCEL : FORBIDDEN;
    }
    if (r == AZO_OK) {
        return t->kind == TOKEN || t->complete ? GOOD : FORBIDDEN;
    }
    if (r == AZO_ERR_MEMORY) {
        return s->memory.failures > t->failures ? BY_MEMORY : FORBIDDEN;
    }
    bool network = r == AZO_ERR_CONNECT || r == AZO_ERR_CLOSED || r == AZO_ERR_TIMEOUT;
    if ((t->kind != TOKEN && is_own_failure(s, t, r)) || (network && is_unlucky(s, t))) {
        return BY_FAULT;
    }
    bool token = r == AZO_ERR_TOKEN || r == AZO_ERR_IMDS || r == AZO_ERR_TIMEOUT;
    int64_t odd = s->outage_until > s->slept_at ? s->outage_until : s->slept_at;
    return token && (t->began_at < s->no_token_until || t->began_at < odd + 15000) ? BY_TOKEN : FORBIDDEN;
}

static void check_text(const ticket *t, azo_str text, const right *r) {
    if (text.len != r->len || memcmp(text.ptr, r->text, r->len) != 0) {
        fail_msg("request %u: \"%.*s\" instead of \"%s\"", t->number, (int)text.len, text.ptr, r->text);
    }
}

/* The right text, in the reply and in the events. */
static void check_success(const soak *s, const ticket *t, const replies *r, const right *expected) {
    azo_str heard = {t->heard.text, t->heard.len};
    if (is_streamed(t)) {
        check_text(t, heard, expected);
    }
    if (t->kind == EMBED) {
        assert_int_equal(r->embed.count, 1);
        assert_int_equal(r->embed.dimensions, 2);
        assert_true(r->embed.vectors[0] == (float)t->number && r->embed.vectors[1] == (float)t->number + 0.5f);
    } else if (t->kind == TOKEN) {
        assert_true(test_holds(r->token.token.ptr, r->token.token.len, "soak.token."));
        assert_true(strtoul(r->token.token.ptr + 11, NULL, 10) < s->issued);
    } else if (t->kind == TOOLS) {
        assert_int_equal(r->chat.tool_call_count, 1);
        check_text(t, r->chat.tool_calls[0].arguments, expected);
    } else if (t->kind != SINK) {
        check_text(t, r->chat.text, expected);
    }
}

/* Each attempt is one request that the service got. A connection that was used before may have ended without a byte;
 * what was sent on it is sent once more, which is no attempt. Where memory or time ran out the attempt may have been
 * cut off, and the error of a token counts the attempts to get it. */
static void check_attempts(const ticket *t, azo_result result, const replies *r) {
    unsigned attempts = (unsigned)(t->kind == EMBED  ? r->embed.http.attempts
                                   : t->kind == SINK ? r->raw.http.attempts
                                                     : r->chat.http.attempts);
    attempts = result == AZO_OK ? attempts : (unsigned)r->error.attempts;
    bool ends = t->fault == CUT_END || t->fault == CUT_RESET;
    if (t->served < attempts || t->served > (ends ? 2 * attempts : attempts)) {
        fail_msg("seed %u, request %u (kind %d, fault %d x %u): %u attempts, but the service got %u", first_seed,
                 t->number, (int)t->kind, (int)t->fault, t->faulty, attempts, t->served);
    }
}

static void ticket_check(soak *s, ticket *t, azo_result result, const replies *r) {
    right expected;
    outcome how = outcome_of(s, t, result);
    write_right(&expected, t->number);
    if (how == FORBIDDEN) {
        fail_msg("seed %u, request %u (kind %d, fault %d x %u, served %u, events %u%s): %s: %s", first_seed, t->number,
                 (int)t->kind, (int)t->fault, t->faulty, t->served, t->events, t->cancelled ? ", cancelled" : "",
                 azo_result_name(result), r->error.message);
    }
    assert_int_equal(r->error.code, result);
    if (t->kind != TOKEN && how <= BY_FAULT && !is_unlucky(s, t)) {
        check_attempts(t, result, r);
    }
    if (result == AZO_OK) {
        check_success(s, t, r, &expected);
    } else {
        test_sentences(r->error.message);
        assert_true(t->heard.len <= expected.len); /* the beginning of what would have come */
        assert_true(t->heard.len == 0 || memcmp(t->heard.text, expected.text, t->heard.len) == 0);
    }
    s->outcomes[t->fault][how]++;
}

static void ticket_over(soak *s, ticket *t, life how) {
    if (t->state == LIVE) {
        s->live--;
    }
    t->state = how;
    t->request = NULL;
    test_notes_free(&t->heard);
}

static ticket *ticket_next(soak *s) {
    ticket *t = &s->tickets[s->begun];
    ticket_draw(t, (unsigned)s->begun, s->only_streams);
    s->begun++;
    s->live++;
    t->state = LIVE;
    t->began_at = s->net.now;
    t->failures = s->memory.failures;
    return t;
}

/* Inside a callback nothing blocks. */
static void ticket_begin(soak *s, bool inside) {
    descs d;
    replies r;
    if (s->begun == s->count) {
        return;
    }
    ticket *t = ticket_next(s);
    t->blocking = t->blocking && !inside && s->edges == NULL;
    descs_open(&d, t);
    memset(&r, 0, sizeof r);
    if (t->blocking) {
        azo_result result = ticket_call(s, t, &d, &r);
        ticket_check(s, t, result, &r);
        replies_free(&r);
        ticket_over(s, t, ENDED);
        return;
    }
    azo_result result = ticket_call_begin(s, t, &d, &r.error);
    if (result != AZO_OK) {
        assert_null(t->request);
        ticket_check(s, t, result, &r);
        ticket_over(s, t, ENDED);
    }
}

static void ticket_end(soak *s, ticket *t) {
    replies r;
    memset(&r, 0, sizeof r);
    azo_result result = ticket_call_end(t, &r);
    ticket_check(s, t, result, &r);
    replies_free(&r);
    ticket_over(s, t, ENDED);
}

static void take_finished(soak *s) {
    azo_request *request;
    while ((request = azo_next(s->client)) != NULL) {
        ticket *t = (ticket *)azo_request_tag(request);
        assert_int_equal(t->state, LIVE);
        assert_false(t->given);
        assert_ptr_equal(t->request, request);
        t->given = true;
        ticket_end(s, t);
    }
    if (s->entra_bad_until > s->net.now) {
        s->net.now += lot(1000); /* who gets no token does not ask again at once */
    }
}

/* What the world does to a live ticket from outside: as much whether few are alive or many. */
static void disturb(soak *s, ticket *t) {
    if (t->paused && s->net.now >= t->resume_at) {
        t->paused = false;
        azo_request_resume(t->request);
    }
    unsigned many = 12 + (unsigned)s->live;
    if (once_in(20 * many)) {
        azo_result before = azo_request_result(t->request);
        azo_request_cancel(t->request);
        t->cancelled = t->cancelled || before == AZO_PENDING;
    } else if (once_in(40 * many)) {
        azo_request_free(t->request);
        s->outcomes[t->fault][FREED]++;
        ticket_over(s, t, DROPPED);
    } else if (once_in(15 * many)) {
        azo_request_resume(t->request);
        t->paused = false;
    }
}

static void disturb_world(soak *s) {
    if (once_in(120)) {
        s->memory.fail_at = s->memory.calls + 1 + lot(60);
    }
    if (once_in(250)) {
        s->entra_bad_until = s->net.now + lot(30000);
        s->entra_bad_how = lot(BAD_WAYS);
    }
    if (once_in(400)) {
        s->outage_until = s->net.now + lot(4000);
        s->outage_how = lot(OUTAGES);
    }
    if (once_in(100)) {
        s->net.recv_limit = once_in(2) ? 0 : 1 + lot(40);
        s->net.send_limit = once_in(2) ? 0 : 1 + lot(300);
    }
    if (once_in(500)) { /* the machine slept */
        s->net.now += lot(400000);
        s->slept_at = s->net.now;
    }
}

/* ---- an edge-triggered loop: what azo_loop registers, and each readiness told once ---- */

typedef struct edges {
    soak *s;
    bool registered[SCRIPT_CONNS];
    bool armed[SCRIPT_CONNS]; /* registering reports what is ready now */
    unsigned events[SCRIPT_CONNS];
    uint32_t ids[SCRIPT_CONNS];
    size_t dry[SCRIPT_CONNS]; /* in_edges when the last edge was told */
    int64_t timer_at;
} edges;

static int edge_watch(intptr_t fd, unsigned events, uint32_t id, void **slot, void *user_data) {
    edges *x = (edges *)user_data;
    assert_true(x->s->net.fds[fd]); /* also when it is unregistered: before the close */
    if (events == 0) {
        assert_true(x->registered[fd] && x->ids[fd] == id && *slot == &x->ids[fd]);
        x->registered[fd] = false;
        return 0;
    }
    assert_ptr_equal(*slot, x->registered[fd] ? (void *)&x->ids[fd] : NULL);
    *slot = &x->ids[fd];
    x->registered[fd] = true;
    x->armed[fd] = true;
    x->events[fd] = events;
    x->ids[fd] = id;
    return 0;
}

static void edge_timer(int32_t timeout_ms, void *user_data) {
    edges *x = (edges *)user_data;
    x->timer_at = timeout_ms < 0 ? INT64_MAX : x->s->net.now + timeout_ms;
}

/* Takes the edges of now; *next is when the next one is due. */
static size_t edges_take(edges *x, azo_watch *ready, int64_t *next) {
    script_world *net = &x->s->net;
    size_t count = 0;
    for (int fd = 0; fd < SCRIPT_CONNS; fd++) {
        const script_conn *c = &net->conns[fd];
        if (!x->registered[fd] || (!x->armed[fd] && c->in_edges <= x->dry[fd])) {
            continue;
        }
        int64_t at = script_ready_at(c, x->events[fd]);
        if (at > net->now) {
            *next = at < *next ? at : *next;
            continue;
        }
        ready[count].fd = fd;
        ready[count].id = x->ids[fd];
        ready[count].events = x->events[fd];
        count++;
        x->armed[fd] = false;
        x->dry[fd] = c->in_edges;
    }
    return count;
}

/* Sleeps, for 50 ms at most, and steps with what happened; nothing happened: no step. */
static void edge_turn(edges *x) {
    azo_watch ready[SCRIPT_CONNS];
    int64_t next = x->timer_at;
    size_t count = edges_take(x, ready, &next);
    if (count == 0 && next > x->s->net.now) {
        x->s->net.now = next < x->s->net.now + 50 ? next : x->s->net.now + 50;
        count = edges_take(x, ready, &next);
    }
    if (count > 0 || x->timer_at <= x->s->net.now) {
        assert_int_equal(azo_step(x->s->client, ready, count), AZO_OK);
    }
}

static void soak_turn(soak *s) {
    if (s->edges != NULL) {
        edge_turn(s->edges);
    } else {
        assert_int_equal(azo_poll(s->client, 1 + (int32_t)lot(50)), AZO_OK);
    }
}

static void soak_to(soak *s, size_t count) {
    size_t oldest = s->begun;
    size_t polls = 0;
    s->count = count;
    while (s->begun < s->count || s->live > 0) {
        /* In the first hundred the most that there will ever be, so that tables need not grow later. */
        while (s->begun < s->count && s->live < (s->begun < 100 ? 3 * MAX_LIVE : MAX_LIVE) && !once_in(3)) {
            ticket_begin(s, false);
        }
        disturb_world(s);
        for (size_t i = oldest; i < s->begun; i++) {
            if (s->tickets[i].state == LIVE) {
                disturb(s, &s->tickets[i]);
            } else {
                oldest += i == oldest;
            }
        }
        soak_turn(s);
        take_finished(s);
        if (polls++ > count * 1000) {
            fail_msg("seed %u: %lu requests do not end", first_seed, (unsigned long)s->live);
        }
    }
    assert_null(azo_next(s->client));
}

/* ---- what stays behind ---- */

typedef struct remains {
    size_t blocks;
    size_t bytes;
    size_t descriptors;
} remains;

static size_t open_descriptors(const script_world *w) {
    size_t count = 0;
    for (size_t i = 0; i < SCRIPT_CONNS; i++) {
        count += w->fds[i];
    }
    return count;
}

/* Nothing is on its way, and everything that ages is old: then one call of a fixed kind. */
static remains come_to_rest(soak *s) {
    remains left;
    s->memory.fail_at = 0;
    s->entra_bad_until = 0;
    s->outage_until = 0;
    s->net.recv_limit = 0;
    s->net.send_limit = 0;
    for (int i = 0; i < 100; i++) { /* connections read the ends of bodies */
        s->net.now += 50;
        assert_int_equal(azo_step(s->client, NULL, 0), AZO_OK);
    }
    s->net.now += 7200000;
    ticket *t = ticket_next(s);
    t->kind = CHAT;
    t->fault = NO_FAULT;
    descs d;
    replies r;
    memset(&r, 0, sizeof r);
    descs_open(&d, t);
    ticket_check(s, t, ticket_call(s, t, &d, &r), &r);
    replies_free(&r);
    ticket_over(s, t, ENDED);
    left.blocks = s->memory.live_blocks;
    left.bytes = s->memory.live_bytes;
    left.descriptors = open_descriptors(&s->net);
    return left;
}

typedef struct soak_options {
    bool by_imds;
    bool by_edges;
    int max_connections;
} soak_options;

static soak *soak_open(const soak_options *o, size_t most) {
    soak *s = (soak *)calloc(1, sizeof *s);
    assert_non_null(s);
    bool by_imds = o->by_imds;
    script_open(&s->net);
    test_memory_open(&s->memory);
    running = s;
    s->longest_pause_ms = 9000; /* longer than idle_timeout_ms, which does not count then */
    s->by_imds = by_imds;
    s->tickets = (ticket *)calloc(most, sizeof *s->tickets);
    assert_non_null(s->tickets);
    s->service = script_peer(&s->net, SERVICE_PORT, serve, s);
    s->entra = script_peer(&s->net, ENTRA_PORT, issue, s);
    (void)clear_environment(NULL);
    assert_int_equal(setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:8001", 1), 0);
    azo_client_desc *d = &s->desc;
    d->endpoint = "http://127.0.0.1:8000";
    d->deployment = "gpt";
    d->credential.kind = by_imds ? AZO_CRED_IMDS : AZO_CRED_SECRET;
    d->credential.tenant_id = by_imds ? NULL : "11111111-2222-3333-4444-555555555555";
    d->credential.client_id = by_imds ? NULL : "app";
    d->credential.client_secret = by_imds ? NULL : "canary-secret";
    d->credential.authority_host = by_imds ? NULL : "http://127.0.0.1:8001";
    d->transport = s->net.transport;
    d->transport.connect = soak_connect;
    d->transport.send = soak_send;
    d->clock = s->net.clock;
    d->allocator = s->memory.hook;
    d->first_byte_timeout_ms = 5000;
    d->idle_timeout_ms = 4000;
    d->total_timeout_ms = 120000;
    d->max_connections = o->max_connections;
    if (o->by_edges) {
        s->edges = (edges *)calloc(1, sizeof *s->edges);
        assert_non_null(s->edges);
        s->edges->s = s;
        s->edges->timer_at = INT64_MAX;
        d->loop.user_data = s->edges;
        d->loop.watch = edge_watch;
        d->loop.timer = edge_timer;
    }
    azo_error e;
    if (azo_client_open(d, &s->client, &e) != AZO_OK) {
        fail_msg("%s", e.message);
    }
    s->client->net.jitter = first_seed; /* which else comes from an address */
    return s;
}

static void soak_close(soak *s) {
    azo_client_close(s->client);
    script_close(&s->net);
    test_memory_close(&s->memory);
    for (int fd = 0; s->edges != NULL && fd < SCRIPT_CONNS; fd++) {
        assert_false(s->edges->registered[fd]);
    }
    free(s->edges);
    free(s->tickets);
    free(s);
    (void)clear_environment(NULL);
}

/* Every request has had exactly one outcome. */
static void soak_report(const soak *s) {
    size_t sums[OUTCOMES] = {0};
    size_t all = 0;
    for (size_t i = 0; i < FAULTS * OUTCOMES; i++) {
        sums[i % OUTCOMES] += s->outcomes[i / OUTCOMES][i % OUTCOMES];
        all += s->outcomes[i / OUTCOMES][i % OUTCOMES];
    }
    print_message("# seed %u: %lu requests: %lu good, %lu failed by their fault, %lu cancelled, %lu without memory, "
                  "%lu without a token, %lu freed; %lu retries, %lu tokens, %lu connections\n",
                  first_seed, (unsigned long)s->begun, (unsigned long)sums[GOOD], (unsigned long)sums[BY_FAULT],
                  (unsigned long)sums[BY_CANCEL], (unsigned long)sums[BY_MEMORY], (unsigned long)sums[BY_TOKEN],
                  (unsigned long)sums[FREED], (unsigned long)s->retries, (unsigned long)s->issued,
                  (unsigned long)s->net.opened);
    assert_int_equal(all, s->begun);
}

static void run_soak(const soak_options *options, size_t total) {
    soak *s = soak_open(options, total + 8);
    soak_to(s, total / 10);
    remains early = come_to_rest(s);
    soak_to(s, total);
    remains late = come_to_rest(s);
    soak_report(s);
    assert_int_equal(late.descriptors, early.descriptors);
    assert_int_equal(late.blocks, early.blocks);
    /* Buffers and spares keep the size that they grew to, which is a matter of chance; a leak would be worth a block. */
    assert_in_range(late.bytes, 0, early.bytes + 4096 + AZOI_SPARE_COUNT * AZOI_SPARE_BYTES);
    soak_close(s);
}

static void test_mixed_requests(void **state) {
    static const soak_options options = {false, false, 0};
    (void)state;
    run_soak(&options, 10000 * soak_factor());
}

static void test_mixed_requests_by_imds(void **state) {
    static const soak_options options = {true, false, 0};
    (void)state;
    run_soak(&options, 2000 * soak_factor());
}

static void test_mixed_requests_by_edges(void **state) {
    static const soak_options options = {false, true, 6};
    (void)state;
    run_soak(&options, 2000 * soak_factor());
}

/* ---- many streams at one time ---- */

enum { CROWD = 200 };

/* All begin before anything moves. Every one ends once, in a number of steps that does not depend on luck. */
static void run_crowd(const soak_options *options, unsigned rounds) {
    soak *s = soak_open(options, 2 * CROWD * (size_t)rounds);
    s->only_streams = true;
    for (unsigned round = 0; round < rounds; round++) {
        size_t first = s->begun;
        s->count = s->begun + CROWD;
        while (s->begun < s->count) {
            ticket_begin(s, true);
        }
        for (size_t turns = 0; s->live > 0; turns++) {
            for (size_t i = first; i < s->begun; i++) {
                if (s->tickets[i].state == LIVE) {
                    disturb(s, &s->tickets[i]);
                }
            }
            soak_turn(s);
            take_finished(s);
            if (options->max_connections > 0) { /* and one for a token */
                assert_in_range(open_descriptors(&s->net), 0, options->max_connections + 1);
            }
            if (turns > 50000) {
                fail_msg("seed %u: %lu streams of %d do not end", first_seed, (unsigned long)s->live, CROWD);
            }
        }
    }
    soak_report(s);
    soak_close(s);
}

static void test_crowd(void **state) {
    static const soak_options options[] = {{false, false, 0}, {false, false, 3}, {false, false, 50}};
    (void)state;
    for (size_t i = 0; i < COUNT(options); i++) {
        run_crowd(&options[i], 3 * soak_factor());
    }
}

static void test_crowd_by_edges(void **state) {
    static const soak_options options[] = {{false, true, 0}, {false, true, 3}, {true, true, 50}};
    (void)state;
    for (size_t i = 0; i < COUNT(options); i++) {
        run_crowd(&options[i], 3 * soak_factor());
    }
}

/* ---- nobody starves, and nobody is forgotten ---- */

enum { LONG_EVENTS = 400, MAX_LEAD = 64, LONG_BYTES = 200 * 1024, RUNNERS = 100 };

/* Every second one reads a stream of events, the others a body of bytes. */
typedef struct runner {
    bool reads_bytes;
    size_t got;
    azo_request *request;
} runner;

/* All of a long answer at once. */
static void serve_long(script_conn *c, const char *request) {
    static const char event[] = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"abc\"}}]}\n\n";
    static const char last[] = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
                               "data: [DONE]\n\n";
    static char bytes[LONG_BYTES];
    test_notes all;
    memset(&all, 0, sizeof all);
    if (strstr(request, "GET ") == request) {
        test_note(&all, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", (int)LONG_BYTES);
        test_note_bytes(&all, bytes, sizeof bytes);
    } else {
        test_note(&all, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n");
        for (int i = 0; i < LONG_EVENTS; i++) {
            test_note_bytes(&all, event, sizeof event - 1);
        }
        test_note_bytes(&all, last, sizeof last - 1);
    }
    script_send_bytes(c, 1, all.text, all.len);
    test_notes_free(&all);
}

static int on_long_event(const azo_event *event, void *user_data) {
    (void)event;
    ((runner *)user_data)->got++;
    return AZO_GO_ON;
}

static int on_long_bytes(const void *data, size_t len, void *user_data) {
    (void)data;
    ((runner *)user_data)->got += len;
    return AZO_GO_ON;
}

static void runner_begin(soak *s, runner *r) {
    azo_message message = azo_user("Hi");
    azo_chat_desc chat = chat_desc(&message);
    azo_raw_desc raw;
    memset(&raw, 0, sizeof raw);
    raw.path = "/files/x/content";
    raw.on_body = on_long_bytes;
    raw.user_data = r;
    chat.on_event = on_long_event;
    chat.user_data = r;
    azo_result began = r->reads_bytes ? azo_raw_begin(s->client, &raw, &r->request, NULL)
                                      : azo_chat_begin(s->client, &chat, &r->request, NULL);
    assert_int_equal(began, AZO_OK);
}

/* How far the first of those who read events is ahead of the last. */
static size_t runners_lead(const runner *all) {
    size_t fewest = SIZE_MAX;
    size_t most = 0;
    for (int i = 0; i < RUNNERS; i++) {
        if (!all[i].reads_bytes) {
            fewest = all[i].got < fewest ? all[i].got : fewest;
            most = all[i].got > most ? all[i].got : most;
        }
    }
    return most - fewest;
}

/* Everybody has everything to read at once. A turn ends long before that, so that nobody gets far ahead; and who was
 * interrupted goes on by himself, although no event of the socket tells that there is more. */
static void run_race(const soak_options *options) {
    soak *s = soak_open(options, 1);
    runner *all = (runner *)calloc(RUNNERS, sizeof *all);
    assert_non_null(all);
    s->service->serve = serve_long;
    for (int i = 0; i < RUNNERS; i++) {
        all[i].reads_bytes = i % 2 == 1;
        runner_begin(s, &all[i]);
    }
    size_t left = RUNNERS;
    for (int turns = 0; left > 0; turns++) {
        assert_true(turns < 1000);
        soak_turn(s);
        assert_in_range(runners_lead(all), 0, MAX_LEAD);
        while (azo_next(s->client) != NULL) {
            left--;
        }
    }
    for (int i = 0; i < RUNNERS; i++) {
        azo_result r =
            all[i].reads_bytes ? azo_raw_end(all[i].request, NULL, NULL) : azo_chat_end(all[i].request, NULL, NULL);
        assert_int_equal(r, AZO_OK);
        assert_int_equal(all[i].got, all[i].reads_bytes ? LONG_BYTES : LONG_EVENTS + 1);
    }
    free(all);
    soak_close(s);
}

static void test_fairness(void **state) {
    static const soak_options options[] = {{false, false, 0}, {false, true, 0}};
    (void)state;
    run_race(&options[0]);
    run_race(&options[1]);
}

/* ---- the same over real TLS sockets ---- */

/* What the service does to an answer, and how a call without retries may end: whole, or read in pieces. */
static const struct socket_fault {
    fake_reply reply;
    int max_retries;
    azo_result whole;
    azo_result streamed;
    bool may_pass; /* a reset can overtake the head, and then is none of this answer on a connection used before */
} socket_faults[] = {
    {{.pass = true}, AZO_OFF, AZO_OK, AZO_OK, false},
    {{.pass = true, .framing = FAKE_CHUNKED, .chunk_size = 7, .chunk_extensions = true, .trailers = true},
     AZO_OFF,
     AZO_OK,
     AZO_OK,
     false},
    {{.pass = true, .first_chunk = 1, .chunk_size = 50, .glue_head = true}, AZO_OFF, AZO_OK, AZO_OK, false},
    {{.pass = true, .close_after = true}, AZO_OFF, AZO_OK, AZO_OK, false},
    {{.pass = true, .interim_100 = true}, AZO_OFF, AZO_OK, AZO_OK, false},
    {{.pass = true, .cut = FAKE_CUT_ORDERLY, .cut_after = 25}, AZO_OFF, AZO_ERR_CLOSED, AZO_ERR_STREAM, false},
    {{.pass = true, .cut = FAKE_CUT_FIN, .cut_after = 25}, AZO_OFF, AZO_ERR_CLOSED, AZO_ERR_STREAM, false},
    {{.pass = true, .cut = FAKE_CUT_RESET, .cut_after = 25}, AZO_OFF, AZO_ERR_CLOSED, AZO_ERR_STREAM, true},
    {{.pass = true, .cut = FAKE_CUT_STALL, .cut_after = 25}, AZO_OFF, AZO_ERR_TIMEOUT, AZO_ERR_TIMEOUT, false},
    {{.silent = true}, AZO_OFF, AZO_ERR_TIMEOUT, AZO_ERR_TIMEOUT, false},
    {{.status = 429, .headers = "retry-after-ms: 1\r\n", .body = "{}"},
     AZO_OFF,
     AZO_ERR_RATE_LIMIT,
     AZO_ERR_RATE_LIMIT,
     false},
    {{.status = 429, .headers = "retry-after-ms: 1\r\n", .body = "{}"}, 2, AZO_OK, AZO_OK, false},
    {{.status = 503, .headers = "retry-after-ms: 1\r\n", .body = "{}"}, 2, AZO_OK, AZO_OK, false},
    {{.status = 500, .body = "<html>"}, AZO_OFF, AZO_ERR_SERVICE, AZO_ERR_SERVICE, false},
    {{.status = 400, .body = "{\"error\":{\"code\":\"x\",\"message\":\"synthetic\"}}"},
     2,
     AZO_ERR_BAD_REQUEST,
     AZO_ERR_BAD_REQUEST,
     false},
    {{.raw = "SSH-2.0-x\r\n\r\n", .close_after = true}, AZO_OFF, AZO_ERR_HTTP, AZO_ERR_HTTP, false},
};

/* The first of them end by themselves, so that nobody has to wait. */
enum { QUICK_FAULTS = 8, SPEECH_BYTES = 5000, STALL_MS = 100, CROWD_WAIT_MS = 4 * WAIT_MS };

static void socket_text(const ticket *t, char out[32]) {
    (void)snprintf(out, 32, t->kind == TOOLS ? "weather %u" : "hello %u", t->number);
}

/* Turns the descs of the scripted world into those for the strict service. */
static void socket_descs_open(descs *d, ticket *t, char text[32]) {
    static const azo_tool tools[] = {{"get_weather", NULL, NULL, {false, false}},
                                     {"get_time", NULL, NULL, {false, false}}};
    descs_open(d, t);
    socket_text(t, text);
    d->message = azo_user(text);
    d->chat.tools = t->kind == TOOLS ? tools : NULL;
    d->chat.tool_count = t->kind == TOOLS ? COUNT(tools) : 0;
    d->embed.deployment = "embed";
    d->embed.vectors = NULL;
    d->raw.path = "/audio/speech";
    d->raw.accept = "audio/mpeg";
    d->raw.body = "{\"model\":\"gpt-4o\",\"input\":\"x\",\"voice\":\"alloy\",\"bytes\":5000}";
}

static void check_socket_success(const ticket *t, const replies *r) {
    char text[32];
    char expected[64];
    socket_text(t, text);
    (void)snprintf(expected, sizeof expected, "You said: %s", text);
    if (t->kind == SINK) {
        assert_int_equal(t->heard.len, SPEECH_BYTES);
        for (size_t i = 0; i < SPEECH_BYTES; i++) {
            assert_int_equal((unsigned char)t->heard.text[i], fake_byte(i));
        }
    } else if (t->kind == EMBED) {
        assert_int_equal(r->embed.dimensions, 8);
        for (size_t i = 0; i < 8; i++) {
            assert_true(r->embed.vectors[i] == fake_embedding("text", 4, i));
        }
    } else if (t->kind == TOOLS) {
        assert_int_equal(r->chat.tool_call_count, 2);
        expect_str(r->chat.tool_calls[0].arguments, "{\"city\":\"Bern\"}");
        expect_str(r->chat.tool_calls[1].arguments, "{\"tz\":\"CET\"}");
    } else if (t->kind == TOKEN) {
        assert_true(test_holds(r->token.token.ptr, r->token.token.len, "fake.entra."));
    } else {
        expect_str(r->chat.text, expected);
        assert_true(t->kind == CHAT ||
                    (t->heard.len == strlen(expected) && memcmp(t->heard.text, expected, t->heard.len) == 0));
    }
}

/* One call from its begin to its end, stepped. */
static azo_result socket_stepped(soak *s, ticket *t, descs *d, replies *r) {
    int64_t end = now_ms() + WAIT_MS;
    assert_int_equal(ticket_call_begin(s, t, d, &r->error), AZO_OK);
    while (azo_request_result(t->request) == AZO_PENDING) {
        assert_true(now_ms() < end);
        assert_int_equal(azo_poll(s->client, 1000), AZO_OK);
    }
    assert_ptr_equal(azo_next(s->client), t->request);
    assert_null(azo_next(s->client));
    return ticket_call_end(t, r);
}

static void socket_request(soak *s, world *w, unsigned number) {
    const struct socket_fault *f = &socket_faults[once_in(3) ? 0 : lot(COUNT(socket_faults))];
    ticket t;
    descs d;
    replies r;
    char text[32];
    memset(&t, 0, sizeof t);
    memset(&r, 0, sizeof r);
    t.number = number;
    t.kind = (kind)lot(KINDS);
    t.state = LIVE;
    f = t.kind == TOKEN ? &socket_faults[0] : f;
    socket_descs_open(&d, &t, text);
    azo_call *call = descs_call(&d, t.kind);
    call->max_retries = f->max_retries;
    call->first_byte_timeout_ms = f->whole == AZO_ERR_TIMEOUT ? STALL_MS : CROWD_WAIT_MS;
    call->idle_timeout_ms = call->first_byte_timeout_ms;
    if (t.kind != TOKEN) {
        fake_push(w->service, FAKE_SERVICE, &f->reply);
    }
    azo_result result = once_in(2) ? ticket_call(s, &t, &d, &r) : socket_stepped(s, &t, &d, &r);
    bool allowed =
        result == f->whole || (is_streamed(&t) && result == f->streamed) || (f->may_pass && result == AZO_OK);
    if (!allowed) {
        fail_msg("seed %u, kind %d, fault %d: %s: %s", first_seed, (int)t.kind, (int)(f - socket_faults),
                 azo_result_name(result), r.error.message);
    }
    if (result == AZO_OK) {
        check_socket_success(&t, &r);
    } else {
        test_sentences(r.error.message);
    }
    replies_free(&r);
    test_notes_free(&t.heard);
    fake_clear(w->service, FAKE_SERVICE);
}

/* Begins all streams of a crowd; returns how many answers will be cut. */
static size_t socket_crowd_begin(soak *s, world *w, ticket *crowd) {
    static const kind streams[] = {STREAM, TOOLS, SINK};
    size_t cut = 0;
    for (unsigned i = 0; i < CROWD; i++) {
        const struct socket_fault *f = &socket_faults[lot(QUICK_FAULTS)];
        ticket *t = &crowd[i];
        descs d;
        char text[32];
        fake_push(w->service, FAKE_SERVICE, &f->reply);
        cut += f->whole != AZO_OK;
        memset(t, 0, sizeof *t);
        t->number = i;
        t->kind = streams[lot(COUNT(streams))];
        t->state = LIVE;
        t->pause_at = once_in(5) ? 1 + lot(3) : 0;
        t->stop_at = once_in(20) ? 1 + lot(3) : 0;
        socket_descs_open(&d, t, text);
        descs_call(&d, t->kind)->max_retries = AZO_OFF;
        assert_int_equal(ticket_call_begin(s, t, &d, NULL), AZO_OK);
    }
    return cut;
}

/* Cancels one of them now and then, and resumes those that have paused long enough. */
static void socket_crowd_disturb(const soak *s, ticket *crowd) {
    ticket *odd = &crowd[lot(CROWD)];
    if (odd->state == LIVE && once_in(5)) {
        odd->cancelled = odd->cancelled || azo_request_result(odd->request) == AZO_PENDING;
        azo_request_cancel(odd->request);
    }
    for (unsigned i = 0; i < CROWD; i++) {
        if (crowd[i].paused && crowd[i].state == LIVE && s->net.now >= crowd[i].resume_at) {
            crowd[i].paused = false;
            azo_request_resume(crowd[i].request);
        }
    }
}

/* Takes those that finished; returns how many, and counts those that failed. */
static size_t socket_crowd_take(soak *s, size_t *failed) {
    size_t taken = 0;
    for (azo_request *request = azo_next(s->client); request != NULL; request = azo_next(s->client)) {
        ticket *t = (ticket *)azo_request_tag(request);
        replies r;
        memset(&r, 0, sizeof r);
        assert_int_equal(t->state, LIVE);
        t->state = ENDED;
        azo_result result = ticket_call_end(t, &r);
        assert_int_equal(t->cancelled, result == AZO_ERR_CANCELLED);
        if (result == AZO_OK) {
            check_socket_success(t, &r);
        } else if (result == AZO_ERR_CLOSED || result == AZO_ERR_STREAM) {
            (*failed)++;
        } else if (result != AZO_ERR_CANCELLED) {
            fail_msg("seed %u: %s: %s", first_seed, azo_result_name(result), r.error.message);
        }
        replies_free(&r);
        test_notes_free(&t->heard);
        taken++;
    }
    return taken;
}

/* Some answers are cut, some streams pause, some are cancelled. No more fail than were cut. */
static void socket_crowd(soak *s, world *w) {
    static ticket crowd[CROWD];
    size_t failed = 0;
    size_t cut = socket_crowd_begin(s, w, crowd);
    int64_t end = now_ms() + CROWD_WAIT_MS;
    for (size_t left = CROWD; left > 0; left -= socket_crowd_take(s, &failed)) {
        assert_true(now_ms() < end);
        s->net.now = now_ms();
        socket_crowd_disturb(s, crowd);
        assert_int_equal(azo_poll(s->client, 20), AZO_OK);
    }
    assert_in_range(failed, 1, cut);
    fake_clear(w->service, FAKE_SERVICE);
}

static size_t process_descriptors(void) {
    DIR *dir = opendir("/proc/self/fd");
    size_t count = 0;
    while (dir != NULL && readdir(dir) != NULL) {
        count++;
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    return count;
}

/* Of malloc, since mbedTLS does not use the client's allocator; 0: not known here. */
static size_t process_heap(void) {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
    return mallinfo2().uordblks;
#else
    return 0;
#endif
}

/* The service closes its ends a little later. */
static void check_descriptors(size_t before) {
    int64_t end = now_ms() + IN_TIME_MS;
    while (process_descriptors() > before && now_ms() < end) {
        sleep_ms(5);
    }
    assert_in_range(process_descriptors(), 0, before);
}

enum { SOCKET_ROUNDS = 3, SOCKET_REQUESTS = 100, HEAP_SLACK = 100 * 1024 };

static void test_sockets(void **state) {
    (void)state;
    static const fake_options options = {.counts_only = true};
    world w;
    size_t descriptors = 0;
    size_t heap = 0;
    soak *s = (soak *)calloc(1, sizeof *s);
    assert_non_null(s);
    running = s;
    s->longest_pause_ms = 200;
    world_open(&w, &options);
    world_count_memory(&w, "fake.entra.");
    memset(&w.desc.logger, 0, sizeof w.desc.logger); /* whose lines would be kept */
    w.desc.connect_timeout_ms = CROWD_WAIT_MS;       /* 200 handshakes at one time */
    w.desc.total_timeout_ms = CROWD_WAIT_MS;
    for (unsigned round = 0; round < SOCKET_ROUNDS * soak_factor(); round++) {
        size_t before = process_descriptors();
        world_start(&w);
        s->client = w.client;
        for (unsigned i = 0; i < SOCKET_REQUESTS; i++) {
            socket_request(s, &w, i);
        }
        socket_crowd(s, &w);
        azo_client_close(w.client);
        w.client = NULL;
        assert_int_equal(w.memory.live_blocks, 0);
        check_descriptors(before);
        if (round == 0) { /* everything has happened once */
            descriptors = process_descriptors();
            heap = process_heap();
        }
    }
    assert_in_range(process_descriptors(), 0, descriptors);
    assert_in_range(process_heap(), 0, heap + HEAP_SLACK);
    world_close(&w);
    free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixed_requests),
        cmocka_unit_test(test_mixed_requests_by_imds),
        cmocka_unit_test(test_mixed_requests_by_edges),
        cmocka_unit_test(test_crowd),
        cmocka_unit_test(test_crowd_by_edges),
        cmocka_unit_test(test_fairness),
        cmocka_unit_test(test_sockets),
    };
    const char *seed = getenv("AZO_TEST_SEED");
    first_seed = seed != NULL ? (uint32_t)strtoul(seed, NULL, 10) : 20261021u;
    lot_open(first_seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
