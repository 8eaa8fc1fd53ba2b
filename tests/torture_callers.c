/* torture_callers.c - callers that do everything wrong: hostile text in every string that can reach the wire, NULL for
 * every pointer, numbers and enumerators out of range, calls in the wrong order and from inside every callback, hooks
 * and token providers that lie.
 *
 * A stage is a scripted network whose every byte is recorded. However a call ends, what it put on the wire has to be
 * well-formed requests, no more of them than the call may make, with nothing in them that a string smuggled in; and
 * what it said has to be two sentences without a secret. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#include "script.h"

#include <float.h>
#include <limits.h>
#include <math.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { SERVICE_PORT = 8000, ENTRA_PORT = 8001, IMDS_PORT = 8002, PROXY_PORT = 8003, HUGE_BYTES = 1024 * 1024 };

/* ---- the stage ---- */

typedef struct stage {
    script_world net; /* first: the hooks get its address */
    test_memory memory;
    script_peer_entry *service;
    script_peer_entry *entra;
    script_peer_entry *imds;
    script_peer_entry *proxy;
    test_notes sent[SCRIPT_CONNS]; /* by each open connection */
    bool unread;                   /* what they send is kept in `body` as it is */
    test_notes body;               /* of the last request to the service */
    test_notes marks;              /* what divides targets and forms into their parts, of all requests */
    test_notes log;
    azo_client *client;
    azo_error error;
    const struct lie *lie; /* what a hook does wrong, */
    size_t lie_at;         /* the time it is asked, from 1 on; 0: always */
    size_t lie_asked;
} stage;

static size_t cases; /* that ran in the whole program */
static size_t wrong; /* of those of a table: all are shown before the test fails */

static void answer_service(script_conn *c, const char *request) {
    static const char chat[] =
        "{\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{"
        "\"role\":\"assistant\",\"content\":\"Hello\"}}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}";
    static const char embedding[] =
        "{\"data\":[{\"index\":0,\"embedding\":\"AACAPwAAAEA=\"}],\"usage\":{\"prompt_tokens\":1}}";
    static const char events[] =
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}}]}\n\n"
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"}}]}\n\n"
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    bool stream = strstr(request, "Accept: text/event-stream\r\n") != NULL;
    bool embeds = strstr(request, "/embeddings") != NULL;
    const char *body = stream ? events : embeds ? embedding : chat;
    char head[256];
    (void)snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %lu\r\n\r\n",
                   stream ? "text/event-stream" : "application/json", (unsigned long)strlen(body));
    script_send(c, 5, head);
    script_send(c, 5, body);
}

static void answer_token(script_conn *c, const char *request) {
    (void)request;
    script_answer(c, 5, 200, "", "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"canary.token\"}");
}

static void answer_proxy(script_conn *c, const char *request) {
    (void)request;
    script_answer(c, 5, 407, "", "");
    script_end(c, 6, AZO_OK);
}

/* ---- what is on the wire ---- */

typedef struct seen {
    azo_str method;
    azo_str target;
    azo_str headers; /* with the CRLF of the last one */
    azo_str body;
} seen;

static void stage_log(int level, const char *text, void *user_data) {
    stage *s = (stage *)user_data;
    assert_in_range(level, AZO_LOG_WARN, AZO_LOG_DEBUG);
    for (const char *at = text; *at != '\0'; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7f) {
            fail_msg("a control character in a log line: %s", text);
        }
    }
    test_note_bytes(&s->log, text, strlen(text));
    test_note_bytes(&s->log, "\n", 1);
}

/* The next line of `rest`, which must end in CRLF and hold no other control character. */
static azo_str take_line(azo_str *rest) {
    azo_str line = {rest->ptr, 0};
    while (line.len < rest->len && rest->ptr[line.len] != '\r') {
        unsigned char c = (unsigned char)rest->ptr[line.len];
        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            fail_msg("a control character (%u) in the head: %.200s", c, rest->ptr);
        }
        line.len++;
    }
    if (rest->len < line.len + 2 || rest->ptr[line.len + 1] != '\n') {
        fail_msg("a line of the head does not end in CRLF: %.200s", rest->ptr);
    }
    rest->ptr += line.len + 2;
    rest->len -= line.len + 2;
    return line;
}

static azo_str take_until(azo_str *rest, char end) {
    azo_str part = {rest->ptr, 0};
    while (part.len < rest->len && rest->ptr[part.len] != end) {
        part.len++;
    }
    size_t used = part.len + (part.len < rest->len ? 1 : 0);
    rest->ptr += used;
    rest->len -= used;
    return part;
}

static bool is_text(azo_str s, const char *text) {
    return s.len == strlen(text) && memcmp(s.ptr, text, s.len) == 0;
}

static bool is_name(azo_str s, const char *lower) {
    size_t i;
    for (i = 0; i < s.len && lower[i] != '\0'; i++) {
        char c = s.ptr[i] >= 'A' && s.ptr[i] <= 'Z' ? (char)(s.ptr[i] - 'A' + 'a') : s.ptr[i];
        if (c != lower[i]) {
            return false;
        }
    }
    return i == s.len && lower[i] == '\0';
}

static void check_request_line(azo_str line, seen *r) {
    azo_str rest = line;
    r->method = take_until(&rest, ' ');
    r->target = take_until(&rest, ' ');
    bool ok = r->method.len > 0 && r->target.len > 0 && is_text(rest, "HTTP/1.1");
    ok = ok && (is_text(r->method, "CONNECT") || r->target.ptr[0] == '/');
    for (size_t i = 0; ok && i < r->method.len; i++) {
        ok = r->method.ptr[i] > ' ' && r->method.ptr[i] < 0x7f;
    }
    for (size_t i = 0; ok && i < r->target.len; i++) {
        ok = r->target.ptr[i] > ' ' && r->target.ptr[i] < 0x7f && r->target.ptr[i] != '#';
    }
    if (!ok) {
        fail_msg("not a request line: %.*s", (int)(line.len < 300 ? line.len : 300), line.ptr);
    }
}

/* One header line. `counts` is of the names that may stand in a head only once. */
static void check_header(azo_str line, size_t *length, unsigned counts[6]) {
    static const char *const single[] = {"host",          "content-length", "content-type",
                                         "authorization", "user-agent",     "connection"};
    azo_str value = line;
    azo_str name = take_until(&value, ':');
    bool ok =
        name.len > 0 && name.len < line.len && !is_name(name, "x-injected") && !is_name(name, "transfer-encoding");
    for (size_t i = 0; ok && i < name.len; i++) {
        ok = name.ptr[i] > ' ' && name.ptr[i] < 0x7f && strchr("()<>@,;:\\\"/[]?={}", name.ptr[i]) == NULL;
    }
    for (size_t i = 0; ok && i < COUNT(single); i++) {
        if (is_name(name, single[i])) {
            counts[i]++;
            ok = counts[i] == 1;
        }
    }
    if (!ok) {
        fail_msg("not a header that may be there: %.*s", (int)(line.len < 300 ? line.len : 300), line.ptr);
    }
    if (is_name(name, "content-length")) {
        char digits[32] = "";
        size_t i = 0;
        for (; value.len > 0 && value.ptr[0] == ' '; value.len--) {
            value.ptr++;
        }
        for (; i < value.len && i + 1 < sizeof digits; i++) {
            assert_in_range(value.ptr[i], '0', '9');
            digits[i] = value.ptr[i];
        }
        assert_true(i == value.len && i > 0);
        *length = (size_t)strtoul(digits, NULL, 10);
    }
}

/* A form has nothing in it that could be taken for anything else. */
static void check_body(const seen *r, bool form, bool json) {
    size_t offset;
    for (size_t i = 0; form && i < r->body.len; i++) {
        unsigned char c = (unsigned char)r->body.ptr[i];
        if (c <= ' ' || c >= 0x7f) {
            fail_msg("a byte that no form holds (%u)", c);
        }
    }
    if (json && !azoi_json_check(r->body, &offset)) {
        fail_msg("the body is not JSON at byte %lu: %.300s", (unsigned long)offset, r->body.ptr);
    }
}

/* Takes one whole request off what a connection sent; everything about it is checked. */
static seen take_request(azo_str *rest) {
    seen r;
    unsigned counts[6] = {0, 0, 0, 0, 0, 0};
    size_t length = 0;
    bool form = false;
    bool json = false;
    memset(&r, 0, sizeof r);
    check_request_line(take_line(rest), &r);
    r.headers.ptr = rest->ptr;
    for (azo_str line = take_line(rest); line.len > 0; line = take_line(rest)) {
        check_header(line, &length, counts);
        form = form || is_text(line, "Content-Type: application/x-www-form-urlencoded");
        json = json || is_text(line, "Content-Type: application/json");
    }
    r.headers.len = (size_t)(rest->ptr - r.headers.ptr) - 2;
    assert_int_equal(counts[0], 1); /* Host */
    if (rest->len < length) {
        fail_msg("the body is shorter than its Content-Length (%lu of %lu)", (unsigned long)rest->len,
                 (unsigned long)length);
    }
    r.body.ptr = rest->ptr;
    r.body.len = length;
    rest->ptr += length;
    rest->len -= length;
    check_body(&r, form, json);
    return r;
}

/* In a path only slashes divide. */
static void note_marks(stage *s, azo_str text) {
    const char *marks = text.len > 0 && text.ptr[0] == '/' ? "/?" : "&=";
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == '?') {
            marks = "?&=";
        }
        if (strchr(marks, text.ptr[i]) != NULL) {
            test_note_bytes(&s->marks, &text.ptr[i], 1);
        }
    }
    test_note_bytes(&s->marks, "\n", 1);
}

/* Everything that a connection sent: whole requests and nothing between them. */
static void check_sent(stage *s, const script_conn *c) {
    test_notes *sent = &s->sent[c->fd];
    azo_str rest = {sent->text, s->unread ? 0 : sent->len};
    if (s->unread && sent->len > 0) {
        test_note_bytes(&s->body, sent->text, sent->len);
    }
    while (rest.len > 0) {
        seen r = take_request(&rest);
        note_marks(s, r.target);
        if (c->peer == s->entra) {
            note_marks(s, r.body);
        }
        if (c->peer == s->service) {
            test_notes_free(&s->body);
            test_note_bytes(&s->body, r.body.ptr, r.body.len);
        }
    }
    test_notes_free(sent);
}

static ptrdiff_t stage_send(void *conn, const void *buf, size_t len, void *user_data) {
    stage *s = (stage *)user_data;
    script_conn *c = (script_conn *)conn;
    ptrdiff_t taken = script_conn_send(conn, buf, len, &s->net);
    if (taken > 0) {
        test_note_bytes(&s->sent[c->fd], (const char *)buf, (size_t)taken);
    }
    return taken;
}

static void stage_close_conn(void *conn, void *user_data) {
    stage *s = (stage *)user_data;
    check_sent(s, (const script_conn *)conn);
    script_conn_close(conn, &s->net);
}

static void stage_open(stage *s) {
    memset(s, 0, sizeof *s);
    script_open(&s->net);
    test_memory_open(&s->memory);
    s->net.transport.send = stage_send;
    s->net.transport.close = stage_close_conn;
    s->service = script_peer(&s->net, SERVICE_PORT, answer_service, s);
    s->entra = script_peer(&s->net, ENTRA_PORT, answer_token, s);
    s->imds = script_peer(&s->net, IMDS_PORT, answer_token, s);
    s->proxy = script_peer(&s->net, PROXY_PORT, answer_proxy, s);
}

static size_t stage_requests(const stage *s) {
    return s->service->requests + s->entra->requests + s->imds->requests + s->proxy->requests;
}

/* Closes the client, which ends its connections and so checks what they sent; then the memory, and what was shown. */
static void stage_close(stage *s) {
    azo_client_close(s->client);
    script_close(&s->net);
    test_memory_close(&s->memory);
    if (s->log.text != NULL && strstr(s->log.text, "canary") != NULL) {
        fail_msg("a secret is in the log: %.300s", strstr(s->log.text, "canary"));
    }
    assert_null(strstr(s->error.message, "canary"));
    assert_null(strstr(s->error.detail, "canary"));
    test_notes_free(&s->body);
    test_notes_free(&s->marks);
    test_notes_free(&s->log);
    cases++;
}

/* ---- a call as it should be, in which one thing at a time is spoiled ---- */

typedef enum call_kind { CALL_CHAT, CALL_STREAM, CALL_EMBED, CALL_RAW, CALL_TOKEN, CALL_HISTORY, CALL_PROXY } call_kind;

typedef enum identity_kind { BY_KEY, BY_STATIC, BY_SECRET, BY_IMDS, BY_NOTHING } identity_kind;

typedef struct setup {
    azo_client_desc client;
    azo_chat_desc chat;
    azo_embed_desc embed;
    azo_raw_desc raw;
    azo_token_desc token;
    azo_message messages[2];
    azo_tool tool;
    azo_str input;
    azo_header headers[2]; /* of the client, of the call */
} setup;

static void forget_environment(void) {
    static const char *const names[] = {"AZURE_OPENAI_ENDPOINT",
                                        "AZURE_OPENAI_DEPLOYMENT",
                                        "AZURE_OPENAI_API_KEY",
                                        "AZURE_OPENAI_AD_TOKEN",
                                        "AZURE_OPENAI_API_VERSION",
                                        "OPENAI_API_VERSION",
                                        "AZURE_TENANT_ID",
                                        "AZURE_CLIENT_ID",
                                        "AZURE_CLIENT_SECRET",
                                        "AZURE_CLIENT_CERTIFICATE_PATH",
                                        "AZURE_AUTHORITY_HOST",
                                        "AZURE_TOKEN_CREDENTIALS",
                                        "AZURE_FEDERATED_TOKEN_FILE",
                                        "IDENTITY_ENDPOINT",
                                        "MSI_ENDPOINT",
                                        "HTTPS_PROXY",
                                        "https_proxy",
                                        "NO_PROXY",
                                        "no_proxy",
                                        "SSL_CERT_FILE"};
    for (size_t i = 0; i < COUNT(names); i++) {
        (void)unsetenv(names[i]);
    }
    assert_int_equal(setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:8002", 1), 0);
}

static void setup_identity(setup *u, identity_kind identity) {
    azo_credential_desc *c = &u->client.credential;
    if (identity == BY_KEY) {
        u->client.api_key = "canary-key";
    } else if (identity == BY_STATIC) {
        assert_int_equal(setenv("AZURE_OPENAI_AD_TOKEN", "canary-static", 1), 0);
    } else if (identity == BY_SECRET) {
        c->kind = AZO_CRED_SECRET;
        c->tenant_id = "11111111-2222-3333-4444-555555555555";
        c->client_id = "app";
        c->client_secret = "canary-secret";
        c->authority_host = "http://127.0.0.1:8001";
    } else if (identity == BY_IMDS) {
        c->kind = AZO_CRED_IMDS;
    }
}

static void setup_open(setup *u, stage *s, identity_kind identity) {
    forget_environment();
    memset(u, 0, sizeof *u);
    setup_identity(u, identity);
    u->client.endpoint = "http://127.0.0.1:8000";
    u->client.deployment = "gpt";
    u->client.proxy = "";
    u->client.transport = s->net.transport;
    u->client.clock = s->net.clock;
    u->client.allocator = s->memory.hook;
    u->client.logger.line = stage_log;
    u->client.logger.user_data = s;
    u->client.max_retries = AZO_OFF;
    u->messages[0] = azo_system("Be brief.");
    u->messages[1] = azo_user("Hi");
    u->chat.messages = u->messages;
    u->chat.message_count = 2;
    u->tool.name = "get_time";
    u->tool.description = "The time";
    u->tool.parameters_json = "{\"type\":\"object\"}";
    u->input = azo_s("text");
    u->embed.inputs = &u->input;
    u->embed.input_count = 1;
    u->raw.path = "/responses";
    u->raw.body = "{}";
}

/* ---- calls ---- */

static azo_result run_chat(stage *s, const azo_chat_desc *desc) {
    azo_chat_reply reply;
    azo_result r = azo_chat(s->client, desc, &reply, &s->error);
    if (r == AZO_OK) {
        assert_string_equal(reply.text.ptr, "Hello");
    }
    azo_chat_reply_free(&reply);
    return r;
}

static azo_result run_history(stage *s, const setup *u) {
    azo_history *history;
    azo_chat_desc desc = u->chat;
    azo_result r = azo_history_open(s->client, &history, &s->error);
    for (size_t i = 0; i < 2 && r == AZO_OK; i++) {
        r = azo_history_add(history, &u->messages[i], &s->error);
        assert_int_equal(azo_history_count(history), r == AZO_OK ? i + 1 : i);
    }
    desc.message_count = desc.messages == NULL ? desc.message_count : 0;
    desc.messages = NULL;
    desc.history = history;
    r = r == AZO_OK ? run_chat(s, &desc) : r;
    azo_history_close(history);
    return r;
}

static azo_result run_embed(stage *s, const setup *u) {
    azo_embed_reply reply;
    azo_result r = azo_embed(s->client, &u->embed, &reply, &s->error);
    azo_embed_reply_free(&reply);
    return r;
}

static azo_result run_raw(stage *s, const setup *u) {
    azo_raw_reply reply;
    azo_result r = azo_raw(s->client, &u->raw, &reply, &s->error);
    azo_raw_reply_free(&reply);
    return r;
}

static azo_result run_token(stage *s, const setup *u) {
    azo_token_reply reply;
    azo_result r = azo_token(s->client, &u->token, &reply, &s->error);
    azo_token_reply_free(&reply);
    return r;
}

/* Opens a client and makes one call; each of the two may be what fails. */
static azo_result run_call(stage *s, const setup *u, call_kind kind) {
    azo_result r = azo_client_open(&u->client, &s->client, &s->error);
    if (r != AZO_OK) {
        assert_null(s->client);
        return r;
    }
    switch (kind) {
    case CALL_HISTORY:
        return run_history(s, u);
    case CALL_EMBED:
        return run_embed(s, u);
    case CALL_RAW:
        return run_raw(s, u);
    case CALL_TOKEN:
        return run_token(s, u);
    case CALL_CHAT:
    case CALL_STREAM:
    case CALL_PROXY:
        break;
    }
    return run_chat(s, &u->chat);
}

/* ---- hostile text ---- */

#define SPLIT "\r\nX-Injected: 1\r\n\r\nGET /injected HTTP/1.1\r\nHost: x\r\nX-Injected: 1\r\n\r\n"

/* What stands in the place of '|' in the shape of a field. EMPTY and BLANKS replace the whole of it, LINE_END stands
 * behind it. */
enum {
    NO_POISON = -1,
    EMPTY,
    BLANKS,
    CR,
    LF,
    SPLITS,
    LINE_END,
    NOT_UTF8,
    CONTROLS,
    BLANK,
    QUOTES,
    ESCAPES,
    DOTS,
    HUGE_TEXT,
    POISONS
};

static const char *const poisons[POISONS] = {"",
                                             "   ",
                                             "a\rb",
                                             "a\nb",
                                             SPLIT,
                                             "\r\n",
                                             "\xff\xc3(\xed\xa0\x80",
                                             "\x01\x1b[31m\x7f",
                                             "a b",
                                             "\"\\',}<>",
                                             "%0d%0aX-Injected:%201%0d%0a%00",
                                             "/../..\\evil?x=1&y#z",
                                             NULL};
static const char *const poison_names[POISONS] = {"empty",    "blanks",    "CR",       "LF",    "CRLF and a request",
                                                  "line end", "not UTF-8", "controls", "blank", "quotes",
                                                  "escapes",  "dots",      "1 MB"};

/* How a text travels, and so what has to become of it: R: refused, P: passed on, e: one of the two, well-formed; u: as
 * if it were not set, which may lead to a host that is not on this stage. */
typedef enum travel {
    AS_URL,     /* taken apart */
    AS_SEGMENT, /* percent-encoded into the target */
    AS_FORM,    /* percent-encoded into a form or a query */
    AS_TENANT,  /* in a path, without being encoded */
    AS_HEADER,  /* in a header line as it is */
    AS_NAME,    /* a token of RFC 9110 */
    AS_KEY,     /* a setting of one word or more */
    AS_WORD,    /* a setting of one word */
    AS_TEXT,    /* quoted into JSON: everything can be */
    AS_JSON,    /* checked and then sent as it is */
    AS_CHOICE,  /* the same if it looks like JSON */
    AS_PATH,    /* already encoded */
    AS_QUERY,   /* already encoded */
    AS_NOTHING  /* stays here */
} travel;

static const char *const fates[] = {
    /*                empty, blanks, CR, LF, split, line end, not UTF-8, controls, blank, quotes, escapes, dots, huge */
    /* AS_URL     */ "uuRRReRRReeee",
    /* AS_SEGMENT */ "eeeeeeeeePPPe",
    /* AS_FORM    */ "eeeeeeeeePPPe",
    /* AS_TENANT  */ "eeRRReRRRRRRR",
    /* AS_HEADER  */ "PPRRRReRPPPPe",
    /* AS_NAME    */ "RRRRReRRRRRRe",
    /* AS_KEY     */ "eeRRReeRPPPPe",
    /* AS_WORD    */ "eeRRReRRRPPPe",
    /* AS_TEXT    */ "PPPPPPPPPPPPP",
    /* AS_JSON    */ "RRRRRPRRPRPRP",
    /* AS_CHOICE  */ "eeRRRPRRPRPRP",
    /* AS_PATH    */ "RRRRRRRRRRPRe",
    /* AS_QUERY   */ "PRRRRRRRRPPRe",
    /* AS_NOTHING */ "eeeeeeeeeeeee",
};

#define NO_OFFSET SIZE_MAX
#define AT(member) offsetof(setup, member)

/* One string that a caller can set. `says` is in the error, in any case; `where` is its place in the JSON body. */
typedef struct field {
    const char *says;
    travel as;
    call_kind call;
    identity_kind identity;
    const char *variable; /* of the environment, or NULL for the member at `offset` */
    size_t offset;
    const char *shape;
    const char *where;
} field;

static const field fields[] = {
    {"endpoint", AS_URL, CALL_CHAT, BY_KEY, NULL, AT(client.endpoint), "http://127.0.0.1:8000/a|/", NULL},
    {"endpoint", AS_URL, CALL_CHAT, BY_KEY, NULL, AT(client.endpoint), "http://127.0.0.1|:8000", NULL},
    {"endpoint", AS_URL, CALL_CHAT, BY_KEY, NULL, AT(client.endpoint), "http://127.0.0.1:8000|", NULL},
    {"endpoint", AS_URL, CALL_CHAT, BY_KEY, NULL, AT(chat.call.endpoint), "http://127.0.0.1:8000/a|/", NULL},
    {"endpoint", AS_URL, CALL_EMBED, BY_KEY, NULL, AT(embed.call.endpoint), "http://127.0.0.1:8000/a|", NULL},
    {"endpoint", AS_URL, CALL_RAW, BY_KEY, NULL, AT(raw.call.endpoint), "http://127.0.0.1:8000|/openai", NULL},
    {"endpoint", AS_URL, CALL_CHAT, BY_KEY, "AZURE_OPENAI_ENDPOINT", AT(client.endpoint), "http://127.0.0.1:8000/a|",
     NULL},
    {"deployment", AS_SEGMENT, CALL_CHAT, BY_KEY, NULL, AT(client.deployment), "g|t", NULL},
    {"deployment", AS_SEGMENT, CALL_CHAT, BY_KEY, NULL, AT(chat.deployment), "g|t", NULL},
    {"deployment", AS_SEGMENT, CALL_EMBED, BY_KEY, NULL, AT(embed.deployment), "g|t", NULL},
    {"deployment", AS_SEGMENT, CALL_RAW, BY_KEY, NULL, AT(raw.deployment), "g|t", NULL},
    {"deployment", AS_SEGMENT, CALL_CHAT, BY_KEY, "AZURE_OPENAI_DEPLOYMENT", AT(client.deployment), "g|t", NULL},
    {"", AS_FORM, CALL_CHAT, BY_KEY, NULL, AT(client.deployment), "g|t", "model"},
    {"", AS_FORM, CALL_CHAT, BY_KEY, NULL, AT(chat.deployment), "g|t", "model"},
    {"api_version", AS_SEGMENT, CALL_CHAT, BY_KEY, NULL, AT(client.api_version), "2024-10-21|", NULL},
    {"api_version", AS_SEGMENT, CALL_RAW, BY_KEY, "OPENAI_API_VERSION", NO_OFFSET, "2024-10-21|", NULL},
    {"api_version", AS_SEGMENT, CALL_RAW, BY_KEY, "AZURE_OPENAI_API_VERSION", NO_OFFSET, "2024-10-21|", NULL},
    {"api_key", AS_KEY, CALL_CHAT, BY_NOTHING, NULL, AT(client.api_key), "canary-key|x", NULL},
    {"auth_header", AS_NAME, CALL_CHAT, BY_KEY, NULL, AT(client.auth_header), "x-key|x", NULL},
    {"api_key", AS_KEY, CALL_CHAT, BY_NOTHING, "AZURE_OPENAI_API_KEY", NO_OFFSET, "canary-key|x", NULL},
    {"ad_token", AS_WORD, CALL_CHAT, BY_NOTHING, "AZURE_OPENAI_AD_TOKEN", NO_OFFSET, "canary-token|x", NULL},
    {"tenant_id", AS_TENANT, CALL_CHAT, BY_SECRET, NULL, AT(client.credential.tenant_id), "a|b", NULL},
    {"client_id", AS_FORM, CALL_CHAT, BY_SECRET, NULL, AT(client.credential.client_id), "a|b", NULL},
    {"client_secret", AS_FORM, CALL_CHAT, BY_SECRET, NULL, AT(client.credential.client_secret), "canary|b", NULL},
    {"authority_host", AS_URL, CALL_CHAT, BY_SECRET, NULL, AT(client.credential.authority_host),
     "http://127.0.0.1:8001/a|b", NULL},
    {"authority_host", AS_URL, CALL_CHAT, BY_SECRET, NULL, AT(client.credential.authority_host),
     "http://127.0.0.1|:8001", NULL},
    {"managed", AS_FORM, CALL_CHAT, BY_IMDS, NULL, AT(client.credential.managed_client_id), "a|b", NULL},
    {"managed", AS_FORM, CALL_CHAT, BY_IMDS, NULL, AT(client.credential.managed_object_id), "a|b", NULL},
    {"managed", AS_FORM, CALL_CHAT, BY_IMDS, NULL, AT(client.credential.managed_resource_id), "a|b", NULL},
    {"tenant_id", AS_TENANT, CALL_CHAT, BY_SECRET, "AZURE_TENANT_ID", AT(client.credential.tenant_id), "a|b", NULL},
    {"client_id", AS_FORM, CALL_CHAT, BY_SECRET, "AZURE_CLIENT_ID", AT(client.credential.client_id), "a|b", NULL},
    {"client_id", AS_FORM, CALL_CHAT, BY_NOTHING, "AZURE_CLIENT_ID", NO_OFFSET, "a|b", NULL},
    {"client_secret", AS_FORM, CALL_CHAT, BY_SECRET, "AZURE_CLIENT_SECRET", AT(client.credential.client_secret),
     "canary|b", NULL},
    {"authority_host", AS_URL, CALL_CHAT, BY_SECRET, "AZURE_AUTHORITY_HOST", AT(client.credential.authority_host),
     "http://127.0.0.1:8001/a|b", NULL},
    {"pod_identity", AS_URL, CALL_CHAT, BY_IMDS, "AZURE_POD_IDENTITY_AUTHORITY_HOST", NO_OFFSET,
     "http://127.0.0.1:8002/a|b", NULL},
    {"token_credentials", AS_NOTHING, CALL_CHAT, BY_NOTHING, "AZURE_TOKEN_CREDENTIALS", NO_OFFSET, "prod|", NULL},
    {"", AS_NOTHING, CALL_CHAT, BY_NOTHING, "AZURE_CLIENT_CERTIFICATE_PATH", NO_OFFSET, "/a|b", NULL},
    {"", AS_NOTHING, CALL_CHAT, BY_NOTHING, "AZURE_FEDERATED_TOKEN_FILE", NO_OFFSET, "/a|b", NULL},
    {"", AS_NOTHING, CALL_CHAT, BY_IMDS, "IDENTITY_ENDPOINT", NO_OFFSET, "http://x/a|b", NULL},
    {"", AS_NOTHING, CALL_CHAT, BY_IMDS, "MSI_ENDPOINT", NO_OFFSET, "http://x/a|b", NULL},
    {"scope", AS_WORD, CALL_CHAT, BY_SECRET, NULL, AT(client.scope), "https://x/|.default", NULL},
    {"scope", AS_WORD, CALL_TOKEN, BY_SECRET, NULL, AT(token.scope), "https://x/|.default", NULL},
    {"scope", AS_WORD, CALL_TOKEN, BY_IMDS, NULL, AT(token.scope), "https://x/|.default", NULL},
    {"claims", AS_FORM, CALL_TOKEN, BY_SECRET, NULL, AT(token.claims), "{\"a\":\"|\"}", NULL},
    {"proxy", AS_URL, CALL_PROXY, BY_KEY, NULL, AT(client.proxy), "http://127.0.0.1|:8003", NULL},
    {"proxy", AS_URL, CALL_PROXY, BY_KEY, NULL, AT(client.proxy), "http://u:canary|@127.0.0.1:8003", NULL},
    {"proxy", AS_URL, CALL_PROXY, BY_KEY, "HTTPS_PROXY", AT(client.proxy), "http://u:canary|@127.0.0.1:8003", NULL},
    {"proxy", AS_URL, CALL_PROXY, BY_KEY, "https_proxy", AT(client.proxy), "http://127.0.0.1:8003|", NULL},
    {"endpoint", AS_URL, CALL_PROXY, BY_KEY, NULL, AT(client.endpoint), "https://x|.example", NULL},
    {"", AS_NOTHING, CALL_PROXY, BY_KEY, NULL, AT(client.no_proxy), "x|,y", NULL},
    {"", AS_NOTHING, CALL_PROXY, BY_KEY, "NO_PROXY", NO_OFFSET, "x|,y", NULL},
    {"header", AS_NAME, CALL_CHAT, BY_KEY, NULL, AT(headers[0].name), "X-a|b", NULL},
    {"header", AS_HEADER, CALL_CHAT, BY_KEY, NULL, AT(headers[0].value), "canary|b", NULL},
    {"header", AS_NAME, CALL_CHAT, BY_KEY, NULL, AT(headers[1].name), "X-a|b", NULL},
    {"header", AS_HEADER, CALL_EMBED, BY_KEY, NULL, AT(headers[1].value), "canary|b", NULL},
    {"header", AS_HEADER, CALL_RAW, BY_KEY, NULL, AT(headers[1].value), "canary|b", NULL},
    {"method", AS_NAME, CALL_RAW, BY_KEY, NULL, AT(raw.method), "PUT|", NULL},
    {"path", AS_PATH, CALL_RAW, BY_KEY, NULL, AT(raw.path), "/responses/|x", NULL},
    {"path", AS_PATH, CALL_RAW, BY_KEY, NULL, AT(raw.path), "/|", NULL},
    {"query", AS_QUERY, CALL_RAW, BY_KEY, NULL, AT(raw.query), "a=|&b=1", NULL},
    {"content_type", AS_HEADER, CALL_RAW, BY_KEY, NULL, AT(raw.content_type), "text/x;a=|b", NULL},
    {"accept", AS_HEADER, CALL_RAW, BY_KEY, NULL, AT(raw.accept), "text/x;a=|b", NULL},
    {"", AS_TEXT, CALL_CHAT, BY_KEY, NULL, AT(messages[1].role), "u|r", "messages[1].role"},
    {"", AS_TEXT, CALL_CHAT, BY_KEY, NULL, AT(messages[1].content), "a|b", "messages[1].content"},
    {"", AS_TEXT, CALL_STREAM, BY_KEY, NULL, AT(messages[1].content), "a|b", "messages[1].content"},
    {"", AS_TEXT, CALL_HISTORY, BY_KEY, NULL, AT(messages[1].content), "a|b", "messages[1].content"},
    {"", AS_TEXT, CALL_HISTORY, BY_KEY, NULL, AT(messages[1].role), "a|b", "messages[1].role"},
    {"", AS_TEXT, CALL_HISTORY, BY_KEY, NULL, AT(messages[0].name), "a|b", "messages[0].name"},
    {"", AS_TEXT, CALL_CHAT, BY_KEY, NULL, AT(messages[1].name), "a|b", "messages[1].name"},
    {"", AS_TEXT, CALL_CHAT, BY_KEY, NULL, AT(messages[1].tool_call_id), "a|b", "messages[1].tool_call_id"},
    {"messages[1]", AS_JSON, CALL_CHAT, BY_KEY, NULL, AT(messages[1].content_json), "[\"|\"]", NULL},
    {"messages[1]", AS_JSON, CALL_CHAT, BY_KEY, NULL, AT(messages[1].raw_json), "{\"role\":\"|\"}", NULL},
    {"message", AS_JSON, CALL_HISTORY, BY_KEY, NULL, AT(messages[1].raw_json), "{\"role\":\"|\"}", NULL},
    {"message", AS_JSON, CALL_HISTORY, BY_KEY, NULL, AT(messages[1].content_json), "[\"|\"]", NULL},
    {"", AS_TEXT, CALL_CHAT, BY_KEY, NULL, AT(tool.name), "a|b", "tools[0].function.name"},
    {"", AS_TEXT, CALL_CHAT, BY_KEY, NULL, AT(tool.description), "a|b", "tools[0].function.description"},
    {"parameters_json", AS_JSON, CALL_CHAT, BY_KEY, NULL, AT(tool.parameters_json), "{\"a\":\"|\"}", NULL},
    {"", AS_TEXT, CALL_CHAT, BY_KEY, NULL, AT(chat.tool_choice), "a|b", "tool_choice.function.name"},
    {"tool_choice", AS_CHOICE, CALL_CHAT, BY_KEY, NULL, AT(chat.tool_choice), "{\"a\":\"|\"}", NULL},
    {"response_format_json", AS_JSON, CALL_CHAT, BY_KEY, NULL, AT(chat.response_format_json), "{\"a\":\"|\"}", NULL},
    {"", AS_TEXT, CALL_CHAT, BY_KEY, NULL, AT(chat.reasoning_effort), "a|b", "reasoning_effort"},
    {"", AS_TEXT, CALL_CHAT, BY_KEY, NULL, AT(chat.user), "a|b", "user"},
    {"extra_json", AS_JSON, CALL_CHAT, BY_KEY, NULL, AT(chat.extra_json), "{\"a\":\"|\"}", NULL},
    {"extra_json", AS_JSON, CALL_EMBED, BY_KEY, NULL, AT(embed.extra_json), "{\"a\":\"|\"}", NULL},
};

/* The value of a spoiled field; malloc'd. */
static char *spoil(const char *shape, int poison) {
    const char *text = poison == NO_POISON ? "" : poisons[poison];
    const char *bar = strchr(shape, '|');
    size_t before = (size_t)(bar - shape);
    test_notes value;
    memset(&value, 0, sizeof value);
    if (poison == EMPTY || poison == BLANKS) {
        test_note_bytes(&value, text, strlen(text));
        return value.text;
    }
    test_note_bytes(&value, shape, before);
    if (poison == HUGE_TEXT) {
        char *huge = (char *)malloc(HUGE_BYTES);
        memset(huge, 'a', HUGE_BYTES);
        test_note_bytes(&value, huge, HUGE_BYTES);
        free(huge);
    } else if (poison != LINE_END) {
        test_note_bytes(&value, text, strlen(text));
    }
    test_note_bytes(&value, bar + 1, strlen(bar + 1));
    if (poison == LINE_END) {
        test_note_bytes(&value, text, strlen(text));
    }
    return value.text;
}

/* Puts the value where the field says, and around it what makes the field matter. */
static void apply(setup *u, const field *f, const char *value) {
    bool tool = f->offset >= AT(tool) && f->offset < AT(tool) + sizeof u->tool;
    bool json = f->offset == AT(messages[1].content_json);
    u->client.api_version = f->as == AS_SEGMENT ? "2024-10-21" : NULL;
    if (f->call == CALL_PROXY) {
        u->client.endpoint = "https://x.example";
        u->client.proxy = "http://127.0.0.1:8003";
    }
    u->chat.tools = tool ? &u->tool : NULL;
    u->chat.tool_count = tool ? 1 : 0;
    u->chat.stream = f->call == CALL_STREAM;
    u->messages[1].content = json ? NULL : u->messages[1].content;
    if (f->offset >= AT(headers) && f->offset < AT(headers) + sizeof u->headers) {
        bool of_call = f->offset >= AT(headers[1]);
        azo_call *call = f->call == CALL_EMBED ? &u->embed.call : f->call == CALL_RAW ? &u->raw.call : &u->chat.call;
        u->headers[0].name = u->headers[1].name = "X-Name";
        u->headers[0].value = u->headers[1].value = "value";
        *(of_call ? &call->headers : &u->client.headers) = &u->headers[of_call];
        *(of_call ? &call->header_count : &u->client.header_count) = 1;
    }
    if (f->variable != NULL) {
        assert_int_equal(setenv(f->variable, value, 1), 0);
        value = NULL;
    }
    if (f->variable != NULL && strstr(f->variable, "API_VERSION") != NULL) {
        u->client.api_version = NULL;
    }
    if (f->offset != NO_OFFSET) {
        memcpy((char *)u + f->offset, &value, sizeof value);
    }
}

/* Whether `part` is in `text`, in any case, with blanks for underscores. */
static bool says(const char *text, const char *part) {
    for (; *text != '\0'; text++) {
        size_t i = 0;
        for (; part[i] != '\0' && text[i] != '\0'; i++) {
            char c = text[i] == ' ' ? '_' : text[i];
            char d = part[i] == ' ' ? '_' : part[i];
            c = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
            if (c != d) {
                break;
            }
        }
        if (part[i] == '\0') {
            return true;
        }
    }
    return part[0] == '\0';
}

static void check_refused(stage *s, const char *name, azo_result r) {
    assert_int_equal(s->error.code, r);
    assert_true(s->error.who != AZO_WHO_NOBODY);
    assert_int_equal(stage_requests(s), 0);
    test_sentences(s->error.message);
    if (!says(s->error.message, name)) {
        fail_msg("the error does not name %s: %s", name, s->error.message);
    }
}

static void check_passed(stage *s, const field *f) {
    bool proxied = f->call == CALL_PROXY;
    assert_int_equal(s->service->requests, proxied || f->call == CALL_TOKEN ? 0 : 1);
    assert_in_range(s->entra->requests + s->imds->requests, 0, 1);
    assert_in_range(s->proxy->requests, 0, proxied ? 1 : 0);
}

/* The text that arrived is the one that was given; what is not UTF-8 became U+FFFD. */
static void check_arrival(const stage *s, const field *f, int poison, const char *value) {
    azo_str json = {s->body.text, s->body.len};
    azo_str found;
    size_t len = 0;
    size_t cap = strlen(value) * 3 + 1;
    char *text = (char *)malloc(cap);
    assert_int_equal(azo_json_get(json, f->where, &found), AZO_OK);
    assert_int_equal(azo_json_text(found, text, cap, &len), AZO_OK);
    if (poison == NOT_UTF8) {
        assert_non_null(strstr(text, "\xef\xbf\xbd"));
    } else {
        assert_string_equal(text, value);
    }
    free(text);
}

/* Whether the call came through: through a proxy that refuses, or as if the field were not set, it cannot. */
static bool is_passed(const field *f, char fate, azo_result r) {
    bool elsewhere = fate == 'u' && (r == AZO_ERR_RESOLVE || r == AZO_ERR_TOKEN || r == AZO_ERR_IMDS);
    return r == AZO_OK || (f->call == CALL_PROXY && r == AZO_ERR_PROXY) || elsewhere;
}

static bool is_refused(azo_result r) {
    return r == AZO_ERR_ARGUMENT || r == AZO_ERR_LIMIT || r == AZO_ERR_UNSUPPORTED || r == AZO_ERR_NO_CREDENTIAL;
}

/* A text that is encoded cannot add a part to the target or the form. `marks` are those of a harmless text, which
 * sets them. */
static void check_marks(stage *s, const field *f, int poison, test_notes *marks) {
    bool encoded = f->as == AS_SEGMENT || f->as == AS_FORM || f->as == AS_TENANT;
    if (!encoded) {
        return;
    }
    if (poison == NO_POISON) {
        *marks = s->marks;
        memset(&s->marks, 0, sizeof s->marks);
    } else if (poison != EMPTY && poison != BLANKS && strcmp(marks->text, s->marks.text) != 0) {
        fail_msg("%s, %s: the text changed the parts of\n%sto\n%s", f->shape, poison_names[poison], marks->text,
                 s->marks.text);
    }
}

static void run_field(const field *f, int poison, test_notes *marks) {
    stage s;
    setup u;
    char fate = poison != NO_POISON ? fates[f->as][poison] : f->as != AS_NOTHING ? 'P' : 'e';
    char *value = spoil(f->shape, poison);
    stage_open(&s);
    setup_open(&u, &s, f->identity);
    apply(&u, f, value);
    azo_result r = run_call(&s, &u, f->call);
    bool passed = is_passed(f, fate, r);
    if ((!passed && !is_refused(r)) || (fate == 'P' && !passed) || (fate == 'R' && passed)) {
        print_error("%s (%s), %s: %s instead of %c: %s\n", f->variable != NULL ? f->variable : f->says, f->shape,
                    poison == NO_POISON ? "harmless" : poison_names[poison], azo_result_name(r), fate, s.error.message);
        wrong++;
    } else if (!passed) {
        check_refused(&s, f->says, r);
    } else {
        azo_client_close(s.client); /* to see all that was sent */
        s.client = NULL;
        if (r == AZO_OK || r == AZO_ERR_PROXY) {
            check_passed(&s, f);
        }
        check_marks(&s, f, poison, marks);
        if (f->where != NULL && fate == 'P') {
            check_arrival(&s, f, poison, value);
        }
    }
    stage_close(&s);
    free(value);
}

static void test_every_string(void **state) {
    (void)state;
    wrong = 0;
    for (size_t i = 0; i < COUNT(fields); i++) {
        test_notes marks;
        memset(&marks, 0, sizeof marks);
        for (int poison = NO_POISON; poison < POISONS; poison++) {
            run_field(&fields[i], poison, &marks);
        }
        test_notes_free(&marks);
    }
    assert_int_equal(wrong, 0);
    print_message("# %lu strings, %d texts each\n", (unsigned long)COUNT(fields), (int)POISONS);
}

/* ---- views: the strings that may hold a NUL ---- */

/* What arrives when `view` is sent by a call of that kind. */
static void run_view(call_kind kind, azo_str view, azo_str arrives) {
    stage s;
    setup u;
    stage_open(&s);
    setup_open(&u, &s, BY_KEY);
    u.input = view;
    u.raw.content_type = "application/octet-stream";
    u.raw.body = view.ptr;
    u.raw.body_len = view.len;
    assert_int_equal(run_call(&s, &u, kind), AZO_OK);
    azo_client_close(s.client); /* to see what was sent */
    s.client = NULL;
    azo_str found = {s.body.text, s.body.len};
    if (kind == CALL_EMBED) {
        assert_int_equal(azo_json_get(found, "input[0]", &found), AZO_OK);
    }
    assert_int_equal(found.len, arrives.len);
    assert_memory_equal(found.ptr, arrives.ptr, arrives.len);
    stage_close(&s);
}

static void test_views(void **state) {
    (void)state;
    static const azo_str views[] = {{"", 0}, {"\0", 1}, {"a\0b", 3}, {"\r\nX-Injected: 1\r\n\r\n", 19}, {"\xff\0", 2}};
    static const char *const quoted[] = {"\"\"", "\"\\u0000\"", "\"a\\u0000b\"", "\"\\r\\nX-Injected: 1\\r\\n\\r\\n\"",
                                         "\"\xef\xbf\xbd\\u0000\""};
    for (size_t i = 0; i < COUNT(views); i++) {
        run_view(CALL_EMBED, views[i], azo_s(quoted[i]));
        run_view(CALL_RAW, views[i], views[i]);
    }
}

/* Roots that are none: the connection must not come about, whatever stands there instead of a certificate. */
static void test_roots(void **state) {
    (void)state;
    static const azo_str roots[] = {{"\0", 1},
                                    {"   ", 3},
                                    {"\r\n", 2},
                                    {"\xff\xfe", 2},
                                    {"-----BEGIN CERTIFICATE-----", 27},
                                    {"-----BEGIN CERTIFICATE-----\n\0\n-----END CERTIFICATE-----\n", 55},
                                    {"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", 58}};
    static const char *const files[] = {"/\r\nX-Injected: 1", "\xff", "/dev/null", "/", "\x01"};
    for (size_t i = 0; i < COUNT(roots) + COUNT(files); i++) {
        stage s;
        setup u;
        stage_open(&s);
        s.unread = true;
        setup_open(&u, &s, BY_KEY);
        u.client.endpoint = "https://127.0.0.1:8000";
        if (i < COUNT(roots)) {
            u.client.ca_pem = roots[i];
        } else {
            u.client.ca_file = files[i - COUNT(roots)];
        }
        azo_result r = run_call(&s, &u, CALL_CHAT);
        if (r != AZO_ERR_TRUST_STORE && r != AZO_ERR_TIMEOUT) {
            fail_msg("roots %lu: %s: %s", (unsigned long)i, azo_result_name(r), s.error.message);
        }
        test_sentences(s.error.message);
        stage_close(&s);
    }
}

/* ---- NULL for each pointer ---- */

/* Calls a function with argument number `null` NULL, counted from 1; 0: none. */
typedef azo_result (*null_call)(stage *s, setup *u, int null);

#define NULL_CALLS(X)                                                                                             \
    static azo_result null_##X(stage *s, setup *u, int null) {                                                    \
        azo_##X##_reply reply;                                                                                    \
        memset(&reply, 0xa5, sizeof reply);                                                                       \
        azo_result r = azo_##X(null == 1 ? NULL : s->client, null == 2 ? NULL : &u->X, null == 3 ? NULL : &reply, \
                               null == 4 ? NULL : &s->error);                                                     \
        azo_##X##_reply_free(null == 3 ? NULL : &reply);                                                          \
        return r;                                                                                                 \
    }                                                                                                             \
    static azo_result null_##X##_begin(stage *s, setup *u, int null) {                                            \
        azo_request *request = (azo_request *)(void *)s;                                                          \
        azo_result r = azo_##X##_begin(null == 1 ? NULL : s->client, null == 2 ? NULL : &u->X,                    \
                                       null == 3 ? NULL : &request, null == 4 ? NULL : &s->error);                \
        assert_true(null == 3 || (r == AZO_OK) == (request != NULL));                                             \
        azo_request_free(null == 3 ? NULL : request);                                                             \
        return r;                                                                                                 \
    }                                                                                                             \
    static azo_result null_##X##_end(stage *s, setup *u, int null) {                                              \
        azo_##X##_reply reply;                                                                                    \
        azo_request *request;                                                                                     \
        memset(&reply, 0xa5, sizeof reply);                                                                       \
        assert_int_equal(azo_##X##_begin(s->client, &u->X, &request, NULL), AZO_OK);                              \
        finish(s, request);                                                                                       \
        azo_result r =                                                                                            \
            azo_##X##_end(null == 1 ? NULL : request, null == 2 ? NULL : &reply, null == 3 ? NULL : &s->error);   \
        azo_##X##_reply_free(null == 2 ? NULL : &reply);                                                          \
        azo_request_free(null == 1 ? request : NULL);                                                             \
        return r;                                                                                                 \
    }                                                                                                             \
    static azo_result null_##X##_reply_free(stage *s, setup *u, int null) {                                       \
        azo_##X##_reply zero;                                                                                     \
        (void)s;                                                                                                  \
        (void)u;                                                                                                  \
        memset(&zero, 0, sizeof zero);                                                                            \
        azo_##X##_reply_free(null == 1 ? NULL : &zero);                                                           \
        azo_##X##_reply_free(null == 1 ? NULL : &zero);                                                           \
        return AZO_OK;                                                                                            \
    }

enum { MAX_TURNS = 100000 };

/* Polls until the request is finished. */
static void finish(stage *s, const azo_request *request) {
    for (int i = 0; azo_request_result(request) == AZO_PENDING; i++) {
        assert_true(i < MAX_TURNS);
        assert_int_equal(azo_poll(s->client, -1), AZO_OK);
    }
}

NULL_CALLS(token)
NULL_CALLS(chat)
NULL_CALLS(embed)
NULL_CALLS(raw)

static azo_result null_client_open(stage *s, setup *u, int null) {
    azo_client *client = (azo_client *)(void *)s;
    azo_result r =
        azo_client_open(null == 1 ? NULL : &u->client, null == 2 ? NULL : &client, null == 3 ? NULL : &s->error);
    assert_true(null == 2 || (r == AZO_OK) == (client != NULL));
    azo_client_close(null == 2 ? NULL : client);
    return r;
}

static azo_result null_client_close(stage *s, setup *u, int null) {
    (void)u;
    azo_client_close(null == 1 ? NULL : s->client);
    s->client = null == 1 ? s->client : NULL;
    return AZO_OK;
}

static azo_result null_http_header(stage *s, setup *u, int null) {
    azo_http http;
    (void)s;
    (void)u;
    memset(&http, 0, sizeof http);
    azo_str value = azo_http_header(null == 1 ? NULL : &http, null == 2 ? NULL : "date");
    assert_int_equal(value.len, 0);
    return AZO_OK;
}

static azo_result null_step(stage *s, setup *u, int null) {
    azo_watch watch = {0, 0, AZO_POLL_IN};
    (void)u;
    return azo_step(null == 1 ? NULL : s->client, null == 2 ? NULL : &watch, 1);
}

static azo_result null_wait(stage *s, setup *u, int null) {
    azo_watch watch;
    int32_t timeout_ms = 7;
    (void)u;
    assert_int_equal(
        azo_wait(null == 1 ? NULL : s->client, null == 2 ? NULL : &watch, 1, null == 3 ? NULL : &timeout_ms), 0);
    assert_int_equal(timeout_ms, null == 3 ? 7 : -1);
    return AZO_OK;
}

static azo_result null_poll(stage *s, setup *u, int null) {
    (void)u;
    return azo_poll(null == 1 ? NULL : s->client, 0);
}

static azo_result null_next(stage *s, setup *u, int null) {
    (void)u;
    assert_null(azo_next(null == 1 ? NULL : s->client));
    return AZO_OK;
}

static azo_result null_request_result(stage *s, setup *u, int null) {
    azo_request *request;
    assert_int_equal(azo_chat_begin(s->client, &u->chat, &request, NULL), AZO_OK);
    azo_result r = azo_request_result(null == 1 ? NULL : request);
    azo_request_free(request);
    return r;
}

static azo_result null_request_tag(stage *s, setup *u, int null) {
    azo_request *request;
    u->chat.call.tag = s;
    assert_int_equal(azo_chat_begin(s->client, &u->chat, &request, NULL), AZO_OK);
    assert_ptr_equal(azo_request_tag(null == 1 ? NULL : request), null == 1 ? NULL : (void *)s);
    azo_request_free(request);
    return AZO_OK;
}

static azo_result null_request_mark(stage *s, setup *u, int null, void (*mark)(azo_request *request)) {
    azo_request *request;
    assert_int_equal(azo_chat_begin(s->client, &u->chat, &request, NULL), AZO_OK);
    mark(null == 1 ? NULL : request);
    if (null == 1 || mark != azo_request_free) {
        azo_request_free(request);
    }
    return AZO_OK;
}

static azo_result null_request_cancel(stage *s, setup *u, int null) {
    return null_request_mark(s, u, null, azo_request_cancel);
}

static azo_result null_request_resume(stage *s, setup *u, int null) {
    return null_request_mark(s, u, null, azo_request_resume);
}

static azo_result null_request_free(stage *s, setup *u, int null) {
    return null_request_mark(s, u, null, azo_request_free);
}

static azo_result null_history_open(stage *s, setup *u, int null) {
    azo_history *history = NULL;
    (void)u;
    azo_result r =
        azo_history_open(null == 1 ? NULL : s->client, null == 2 ? NULL : &history, null == 3 ? NULL : &s->error);
    azo_history_close(history);
    return r;
}

static azo_history *new_history(stage *s) {
    azo_history *history;
    assert_int_equal(azo_history_open(s->client, &history, &s->error), AZO_OK);
    return history;
}

static azo_result null_history_close(stage *s, setup *u, int null) {
    azo_history *history = new_history(s);
    (void)u;
    azo_history_close(null == 1 ? NULL : history);
    azo_history_close(null == 1 ? history : NULL);
    return AZO_OK;
}

static azo_result null_history_add(stage *s, setup *u, int null) {
    azo_history *history = new_history(s);
    azo_result r =
        azo_history_add(null == 1 ? NULL : history, null == 2 ? NULL : &u->messages[1], null == 3 ? NULL : &s->error);
    azo_history_close(history);
    return r;
}

static azo_result null_history_add_reply(stage *s, setup *u, int null) {
    azo_history *history = new_history(s);
    azo_chat_reply reply;
    assert_int_equal(azo_chat(s->client, &u->chat, &reply, &s->error), AZO_OK);
    azo_result r =
        azo_history_add_reply(null == 1 ? NULL : history, null == 2 ? NULL : &reply, null == 3 ? NULL : &s->error);
    azo_chat_reply_free(&reply);
    azo_history_close(history);
    return r;
}

static azo_result null_history_count(stage *s, setup *u, int null) {
    (void)s;
    (void)u;
    (void)null; /* nothing else can be left out */
    assert_int_equal(azo_history_count(NULL), 0);
    return AZO_OK;
}

static azo_result null_history_remove(stage *s, setup *u, int null) {
    azo_history *history = new_history(s);
    (void)u;
    azo_history_remove(null == 1 ? NULL : history, 0, SIZE_MAX);
    azo_history_close(history);
    return AZO_OK;
}

static azo_result null_pool_init(stage *s, setup *u, int null) {
    static unsigned char buffer[256];
    azo_pool pool;
    azo_allocator hook = azo_pool_init(null == 1 ? NULL : &pool, null == 2 ? NULL : buffer, sizeof buffer);
    (void)s;
    (void)u;
    return hook.resize(NULL, 0, 10, hook.user_data) != NULL ? AZO_OK : AZO_ERR_MEMORY;
}

static azo_result null_client_export(stage *s, setup *u, int null) {
    azo_state state;
    (void)u;
    memset(&state, 0, sizeof state);
    azo_result r =
        azo_client_export(null == 1 ? NULL : s->client, null == 2 ? NULL : &state, null == 3 ? NULL : &s->error);
    assert_true((state.bytes.len > 0) == (r == AZO_OK));
    azo_state_free(&state);
    return r;
}

static azo_result null_client_import(stage *s, setup *u, int null) {
    azo_state state;
    (void)u;
    assert_int_equal(azo_client_export(s->client, &state, NULL), AZO_OK);
    azo_result r = azo_client_import(null == 1 ? NULL : s->client, null == 2 ? NULL : state.bytes.ptr,
                                     state.bytes.len, null == 3 ? NULL : &s->error);
    azo_state_free(&state);
    return r;
}

static azo_result null_state_free(stage *s, setup *u, int null) {
    azo_state zero;
    (void)s;
    (void)u;
    memset(&zero, 0, sizeof zero);
    azo_state_free(null == 1 ? NULL : &zero);
    return AZO_OK;
}

static azo_result null_json_get(stage *s, setup *u, int null) {
    azo_str value;
    (void)s;
    (void)u;
    return azo_json_get(azo_s(null == 1 ? NULL : "{\"a\":1}"), null == 2 ? NULL : "a", null == 3 ? NULL : &value);
}

static azo_result null_json_text(stage *s, setup *u, int null) {
    char buf[8];
    size_t len;
    (void)s;
    (void)u;
    return azo_json_text(azo_s(null == 1 ? NULL : "\"a\""), null == 2 ? NULL : buf, sizeof buf,
                         null == 3 ? NULL : &len);
}

static azo_result null_json_number(stage *s, setup *u, int null) {
    double number;
    (void)s;
    (void)u;
    return azo_json_number(azo_s(null == 1 ? NULL : "1"), null == 2 ? NULL : &number);
}

static azo_result null_json_quote(stage *s, setup *u, int null) {
    char buf[8];
    size_t len;
    (void)s;
    (void)u;
    return azo_json_quote(azo_s(null == 1 ? NULL : "a"), null == 2 ? NULL : buf, sizeof buf, null == 3 ? NULL : &len);
}

static azo_result null_nothing(stage *s, setup *u, int null) { /* no pointer goes in */
    (void)s;
    (void)u;
    (void)null;
    assert_string_equal(azo_version(), AZO_VERSION);
    assert_non_null(azo_result_name((azo_result)12345));
    assert_non_null(azo_result_name((azo_result)-12345));
    return AZO_OK;
}

/* What each says with no argument NULL, the first, the second ...: O: OK, A: ARGUMENT, P: PENDING, L: LIMIT, J: JSON,
 * M: MEMORY, h: anything, since nothing promises it. */
static const struct null_row {
    const char *name;
    null_call call;
    const char *says;
} null_rows[] = {
    {"azo_client_open", null_client_open, "OhAO"},
    {"azo_client_close", null_client_close, "OO"},
    {"azo_pool_init", null_pool_init, "OMM"},
    {"azo_client_export", null_client_export, "OAAO"},
    {"azo_client_import", null_client_import, "OAAO"},
    {"azo_state_free", null_state_free, "OO"},
    {"azo_token", null_token, "OAhOO"},
    {"azo_token_begin", null_token_begin, "OAhAO"},
    {"azo_token_end", null_token_end, "OAOO"},
    {"azo_token_reply_free", null_token_reply_free, "OO"},
    {"azo_chat", null_chat, "OAAOO"},
    {"azo_chat_begin", null_chat_begin, "OAAAO"},
    {"azo_chat_end", null_chat_end, "OAOO"},
    {"azo_chat_reply_free", null_chat_reply_free, "OO"},
    {"azo_embed", null_embed, "OAAOO"},
    {"azo_embed_begin", null_embed_begin, "OAAAO"},
    {"azo_embed_end", null_embed_end, "OAOO"},
    {"azo_embed_reply_free", null_embed_reply_free, "OO"},
    {"azo_raw", null_raw, "OAAOO"},
    {"azo_raw_begin", null_raw_begin, "OAAAO"},
    {"azo_raw_end", null_raw_end, "OAOO"},
    {"azo_raw_reply_free", null_raw_reply_free, "OO"},
    {"azo_http_header", null_http_header, "OOO"},
    {"azo_step", null_step, "OAO"},
    {"azo_wait", null_wait, "OOOO"},
    {"azo_poll", null_poll, "OA"},
    {"azo_next", null_next, "OO"},
    {"azo_request_result", null_request_result, "PA"},
    {"azo_request_tag", null_request_tag, "OO"},
    {"azo_request_cancel", null_request_cancel, "OO"},
    {"azo_request_resume", null_request_resume, "OO"},
    {"azo_request_free", null_request_free, "OO"},
    {"azo_history_open", null_history_open, "OAAO"},
    {"azo_history_close", null_history_close, "OO"},
    {"azo_history_add", null_history_add, "OAAO"},
    {"azo_history_add_reply", null_history_add_reply, "OAAO"},
    {"azo_history_count", null_history_count, "OO"},
    {"azo_history_remove", null_history_remove, "OO"},
    {"azo_json_get", null_json_get, "OJhA"},
    {"azo_json_text", null_json_text, "OJLO"},
    {"azo_json_number", null_json_number, "OJA"},
    {"azo_json_quote", null_json_quote, "OOLO"},
    {"azo_result_name", null_nothing, "O"},
    {"azo_version", null_nothing, "O"},
};

static void run_null(const struct null_row *row, int null) {
    static const char letters[] = "OAPLJM";
    static const azo_result results[] = {AZO_OK,        AZO_ERR_ARGUMENT, AZO_PENDING,
                                         AZO_ERR_LIMIT, AZO_ERR_JSON,     AZO_ERR_MEMORY};
    stage s;
    setup u;
    stage_open(&s);
    setup_open(&u, &s, BY_SECRET);
    assert_int_equal(azo_client_open(&u.client, &s.client, &s.error), AZO_OK);
    azo_result r = row->call(&s, &u, null);
    char says = row->says[null];
    if (says != 'h' && r != results[strchr(letters, says) - letters]) {
        fail_msg("%s, argument %d NULL: %s instead of %c", row->name, null, azo_result_name(r), says);
    }
    if (s.error.code != AZO_OK) {
        assert_int_equal(s.error.code, r);
        test_sentences(s.error.message);
    }
    stage_close(&s);
}

static void test_every_null(void **state) {
    (void)state;
    int calls = 0;
    for (size_t i = 0; i < COUNT(null_rows); i++) {
        for (int null = 0; null_rows[i].says[null] != '\0'; null++) {
            run_null(&null_rows[i], null);
            calls++;
        }
    }
    print_message("# %lu functions, %d calls with one NULL or none\n", (unsigned long)COUNT(null_rows), calls);
}

/* Every function of the public half stands in the table. */
static void test_nothing_is_left_out(void **state) {
    (void)state;
    FILE *header = fopen("azopenai.h", "r");
    char line[512];
    size_t found = 0;
    assert_non_null(header);
    while (fgets(line, sizeof line, header) != NULL && strstr(line, ">>prologue") == NULL) {
        char *open = strchr(line, '(');
        if (strncmp(line, "AZO_API ", 8) != 0 || open == NULL) {
            continue;
        }
        char *name = open;
        while (name[-1] == '_' || (name[-1] >= 'a' && name[-1] <= 'z')) {
            name--;
        }
        size_t i = 0;
        while (i < COUNT(null_rows) && (strncmp(null_rows[i].name, name, (size_t)(open - name)) != 0 ||
                                        null_rows[i].name[open - name] != '\0')) {
            i++;
        }
        if (i == COUNT(null_rows)) {
            fail_msg("not in the table: %s", line);
        }
        found++;
    }
    (void)fclose(header);
    assert_int_equal(found, COUNT(null_rows));
}

/* ---- numbers ---- */

/* A number that a caller can set. The fates are those of the values below, in their order; s: only slow, small or
 * surprised: it may also end in TIMEOUT, LIMIT or JSON. */
typedef struct number {
    const char *says;
    call_kind call;
    size_t offset;
    size_t size; /* of its type: int32_t, or size_t with a NULL array that it would be the count of */
    const void *values;
    const char *fates;
} number;

static const int32_t small_values[] = {INT32_MIN, -2, -1, 0, 1, INT32_MAX};
static const size_t size_values[] = {0, 1, SIZE_MAX / 2, SIZE_MAX};

#define INT32(member) AT(member), sizeof(int32_t), small_values
#define SIZE(member) AT(member), sizeof(size_t), size_values

static const number numbers[] = {
    {"connect_timeout_ms", CALL_CHAT, INT32(client.connect_timeout_ms), "RRPPPP"},
    {"first_byte_timeout_ms", CALL_CHAT, INT32(client.first_byte_timeout_ms), "RRPPsP"},
    {"idle_timeout_ms", CALL_CHAT, INT32(client.idle_timeout_ms), "RRPPsP"},
    {"total_timeout_ms", CALL_CHAT, INT32(client.total_timeout_ms), "RRPPsP"},
    {"max_retry_wait_ms", CALL_CHAT, INT32(client.max_retry_wait_ms), "RRPPPP"},
    {"max_retries", CALL_CHAT, INT32(client.max_retries), "RRPPPP"},
    {"max_connections", CALL_CHAT, INT32(client.max_connections), "RReePP"},
    {"connect_timeout_ms", CALL_CHAT, INT32(chat.call.connect_timeout_ms), "RRPPPP"},
    {"first_byte_timeout_ms", CALL_CHAT, INT32(chat.call.first_byte_timeout_ms), "RRPPsP"},
    {"idle_timeout_ms", CALL_EMBED, INT32(embed.call.idle_timeout_ms), "RRPPsP"},
    {"total_timeout_ms", CALL_RAW, INT32(raw.call.total_timeout_ms), "RRPPsP"},
    {"total_timeout_ms", CALL_TOKEN, INT32(token.call.total_timeout_ms), "RRPPsP"},
    {"max_retries", CALL_CHAT, INT32(chat.call.max_retries), "RRPPPP"},
    {"max_completion_tokens", CALL_CHAT, INT32(chat.max_completion_tokens), "RRRPPP"},
    {"max_tokens", CALL_CHAT, INT32(chat.max_tokens), "RRRPPP"},
    {"field n", CALL_CHAT, INT32(chat.n), "RRRPPP"},
    {"dimensions", CALL_EMBED, INT32(embed.dimensions), "RRRPss"},
    {"kind", CALL_CHAT, INT32(client.credential.kind), "RRRPPR"},
    {"", CALL_CHAT, SIZE(client.max_response_bytes), "PsPP"},
    {"", CALL_CHAT, SIZE(client.max_header_bytes), "PsPP"},
    {"", CALL_STREAM, SIZE(client.max_event_bytes), "PsPP"},
    {"header", CALL_CHAT, SIZE(client.header_count), "PRRR"},
    {"header", CALL_EMBED, SIZE(embed.call.header_count), "PRRR"},
    {"tool", CALL_CHAT, SIZE(chat.tool_count), "PRRR"},
    {"input", CALL_EMBED, SIZE(embed.input_count), "RRRR"},
    {"", CALL_EMBED, SIZE(embed.vector_cap), "PPPP"},
    {"messages", CALL_CHAT, SIZE(chat.message_count), "RRRR"},
    {"messages", CALL_HISTORY, SIZE(chat.message_count), "PRRR"},
    {"body", CALL_RAW, SIZE(raw.body_len), "PRRR"},
};

/* The arrays that a count is of. */
static void setup_without_arrays(setup *u, const number *n) {
    u->embed.inputs = n->offset == AT(embed.input_count) ? NULL : u->embed.inputs;
    u->chat.messages = n->offset == AT(chat.message_count) ? NULL : u->chat.messages;
    u->raw.body = n->offset == AT(raw.body_len) ? NULL : u->raw.body;
}

static void run_number(const number *n, size_t i) {
    stage s;
    setup u;
    char fate = n->fates[i];
    stage_open(&s);
    setup_open(&u, &s, BY_SECRET);
    u.chat.stream = n->call == CALL_STREAM;
    setup_without_arrays(&u, n);
    memcpy((char *)&u + n->offset, (const char *)n->values + i * n->size, n->size);
    azo_result r = run_call(&s, &u, n->call);
    bool slow = r == AZO_ERR_TIMEOUT || r == AZO_ERR_LIMIT || r == AZO_ERR_JSON;
    bool right = fate == 'P'   ? r == AZO_OK
                 : fate == 'R' ? r == AZO_ERR_ARGUMENT
                 : fate == 's' ? r == AZO_OK || slow
                               : r == AZO_OK || r == AZO_ERR_ARGUMENT;
    if (!right) {
        print_error("%s, value %lu: %s instead of %c: %s\n", n->says, (unsigned long)i, azo_result_name(r), fate,
                    s.error.message);
        wrong++;
    } else if (r == AZO_ERR_ARGUMENT) {
        check_refused(&s, n->says, r);
    } else if (r != AZO_OK) {
        test_sentences(s.error.message);
    }
    s.unread = slow; /* may have been cut off in a request */
    stage_close(&s);
}

static void test_numbers(void **state) {
    (void)state;
    wrong = 0;
    for (size_t i = 0; i < COUNT(numbers); i++) {
        for (size_t k = 0; numbers[i].fates[k] != '\0'; k++) {
            run_number(&numbers[i], k);
        }
    }
    assert_int_equal(wrong, 0);
}

/* Sends `desc` and looks at what arrived as `name`. */
static void run_optional(const char *name, size_t offset, const void *value, size_t size, const char *arrives) {
    stage s;
    setup u;
    stage_open(&s);
    setup_open(&u, &s, BY_KEY);
    memcpy((char *)&u + offset, value, size);
    azo_result r = run_call(&s, &u, CALL_CHAT);
    if (arrives == NULL) {
        assert_int_equal(r, AZO_ERR_ARGUMENT);
        check_refused(&s, name, r);
    } else {
        azo_str found;
        double parsed;
        assert_int_equal(r, AZO_OK);
        azo_client_close(s.client);
        s.client = NULL;
        assert_int_equal(azo_json_get((azo_str){s.body.text, s.body.len}, name, &found), AZO_OK);
        assert_int_equal(azo_json_number(found, &parsed), AZO_OK);
        assert_true(parsed == strtod(arrives, NULL));
        assert_true(strchr(arrives, '.') != NULL || is_text(found, arrives)); /* whole numbers to the last digit */
    }
    stage_close(&s);
}

static void test_optional_numbers(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t offset;
    } doubles[] = {{"temperature", AT(chat.temperature)},
                   {"top_p", AT(chat.top_p)},
                   {"presence_penalty", AT(chat.presence_penalty)},
                   {"frequency_penalty", AT(chat.frequency_penalty)}},
      integers[] = {{"seed", AT(chat.seed)}, {"top_logprobs", AT(chat.top_logprobs)}};
    static const struct {
        double value;
        const char *text; /* NULL: refused */
    } doubled[] = {{(double)NAN, NULL},
                   {(double)INFINITY, NULL},
                   {-(double)INFINITY, NULL},
                   {DBL_MAX, "1.7976931348623157e308"},
                   {-DBL_MAX, "-1.7976931348623157e308"},
                   {DBL_MIN, "2.2250738585072014e-308"},
                   {DBL_EPSILON, "2.220446049250313e-16"},
                   {0.1, "0.1"},
                   {-0.0, "0.0"},
                   {1e21, "1.0e21"}};
    static const struct {
        int64_t value;
        const char *text;
    } whole[] = {{INT64_MIN, "-9223372036854775808"}, {INT64_MAX, "9223372036854775807"}, {0, "0"}, {-1, "-1"}};
    for (size_t i = 0; i < COUNT(doubles); i++) {
        for (size_t k = 0; k < COUNT(doubled); k++) {
            azo_opt_num value = azo_num(doubled[k].value);
            run_optional(doubles[i].name, doubles[i].offset, &value, sizeof value, doubled[k].text);
        }
    }
    for (size_t i = 0; i < COUNT(integers); i++) {
        for (size_t k = 0; k < COUNT(whole); k++) {
            azo_opt_int value = azo_int(whole[k].value);
            run_optional(integers[i].name, integers[i].offset, &value, sizeof value, whole[k].text);
        }
    }
}

/* ---- what is missing ---- */

/* A pointer that is needed, or may be left out. */
static const struct hole {
    const char *says;
    call_kind call;
    size_t offset;
    size_t size;
    azo_result result;
} holes[] = {
    {"path", CALL_RAW, AT(raw.path), sizeof(char *), AZO_ERR_ARGUMENT},
    {"header", CALL_CHAT, AT(headers[0].name), sizeof(char *), AZO_ERR_ARGUMENT},
    {"header", CALL_CHAT, AT(headers[0].value), sizeof(char *), AZO_ERR_ARGUMENT},
    {"tools[0]", CALL_CHAT, AT(tool.name), sizeof(char *), AZO_ERR_ARGUMENT},
    {"", CALL_CHAT, AT(tool.description), sizeof(char *), AZO_OK},
    {"", CALL_CHAT, AT(tool.parameters_json), sizeof(char *), AZO_OK},
    {"messages[0]", CALL_CHAT, AT(messages[0].role), sizeof(char *), AZO_ERR_ARGUMENT},
    {"messages[1]", CALL_CHAT, AT(messages[1].content), sizeof(char *), AZO_ERR_ARGUMENT},
    {"message", CALL_HISTORY, AT(messages[0].role), sizeof(char *), AZO_ERR_ARGUMENT},
    {"inputs[0]", CALL_EMBED, AT(input.ptr), sizeof(char *), AZO_ERR_ARGUMENT},
    {"endpoint", CALL_CHAT, AT(client.endpoint), sizeof(char *), AZO_ERR_ARGUMENT},
    {"deployment", CALL_CHAT, AT(client.deployment), sizeof(char *), AZO_ERR_ARGUMENT},
    {"", CALL_RAW, AT(client.deployment), sizeof(char *), AZO_OK},
    {"", CALL_TOKEN, AT(client.endpoint), sizeof(char *), AZO_OK},
    {"transport", CALL_CHAT, AT(client.transport.open), sizeof(azo_data_fn), AZO_ERR_ARGUMENT},
    {"transport", CALL_CHAT, AT(client.transport.connect), sizeof(azo_data_fn), AZO_ERR_ARGUMENT},
    {"transport", CALL_CHAT, AT(client.transport.recv), sizeof(azo_data_fn), AZO_ERR_ARGUMENT},
    {"transport", CALL_CHAT, AT(client.transport.send), sizeof(azo_data_fn), AZO_ERR_ARGUMENT},
    {"transport", CALL_CHAT, AT(client.transport.watch), sizeof(azo_data_fn), AZO_ERR_ARGUMENT},
    {"transport", CALL_CHAT, AT(client.transport.close), sizeof(azo_data_fn), AZO_ERR_ARGUMENT},
    {"poll", CALL_CHAT, AT(client.transport.poll), sizeof(azo_data_fn), AZO_ERR_UNSUPPORTED},
    {"clock", CALL_CHAT, AT(client.clock.monotonic_ms), sizeof(azo_data_fn), AZO_ERR_ARGUMENT},
    {"clock", CALL_CHAT, AT(client.clock.unix_seconds), sizeof(azo_data_fn), AZO_ERR_ARGUMENT},
    {"", CALL_CHAT, AT(client.logger.line), sizeof(azo_data_fn), AZO_OK},
    {"", CALL_CHAT, AT(client.allocator), sizeof(azo_allocator), AZO_OK},
};

static void test_holes(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(holes); i++) {
        stage s;
        setup u;
        stage_open(&s);
        setup_open(&u, &s, BY_SECRET);
        u.chat.tools = &u.tool;
        u.chat.tool_count = 1;
        u.headers[0].name = "X-Name";
        u.headers[0].value = "value";
        u.client.headers = u.headers;
        u.client.header_count = 1;
        memset((char *)&u + holes[i].offset, 0, holes[i].size);
        azo_result r = run_call(&s, &u, holes[i].call);
        if (r != holes[i].result) {
            fail_msg("hole %lu: %s: %s", (unsigned long)i, azo_result_name(r), s.error.message);
        }
        if (r != AZO_OK) {
            check_refused(&s, holes[i].says, r);
        }
        stage_close(&s);
    }
}

/* Ten bytes, and then no more. */
static ptrdiff_t read_little(uint64_t offset, void *buf, size_t cap, void *user_data) {
    (void)user_data;
    assert_true(cap >= 10);
    memset(buf, 'x', 10);
    return offset == 0 ? 10 : -1;
}

/* The head of a body that no size_t but the largest can count. */
static void test_huge_length(void **state) {
    (void)state;
    for (size_t i = 2; i < COUNT(size_values); i++) {
        stage s;
        setup u;
        stage_open(&s);
        setup_open(&u, &s, BY_KEY);
        s.unread = true;
        u.raw.body = NULL;
        u.raw.read_body = read_little;
        u.raw.body_len = size_values[i];
        assert_int_equal(run_call(&s, &u, CALL_RAW), AZO_ERR_ARGUMENT);
        test_sentences(s.error.message);
        azo_client_close(s.client);
        s.client = NULL;
        if (s.service->connections > 0) { /* or it was refused before */
            char length[64];
            (void)snprintf(length, sizeof length, "Content-Length: %llu\r\n", (unsigned long long)size_values[i]);
            assert_non_null(s.body.text);
            assert_non_null(strstr(s.body.text, length));
        }
        stage_close(&s);
    }
}

/* ---- values that are whole and yet odd ---- */

/* A value that leaves nothing, or the wrong thing, once it has been taken apart. */
static const struct odd {
    call_kind call;
    identity_kind identity;
    size_t offset;
    const char *value;
    const char *says;
} odds[] = {
    {CALL_TOKEN, BY_IMDS, AT(token.scope), "/.default", "scope"},
    {CALL_TOKEN, BY_IMDS, AT(token.scope), ".default", "scope"},
    {CALL_TOKEN, BY_SECRET, AT(token.scope), "/.default", "scope"},
    {CALL_CHAT, BY_SECRET, AT(client.credential.tenant_id), "..", "tenant_id"},
    {CALL_CHAT, BY_SECRET, AT(client.credential.tenant_id), ".", "tenant_id"},
    {CALL_CHAT, BY_SECRET, AT(client.credential.tenant_id), "common", "tenant_id"},
    {CALL_CHAT, BY_SECRET, AT(client.credential.authority_host), "http://127.0.0.1:8001?a=b", "authority_host"},
    {CALL_CHAT, BY_SECRET, AT(client.credential.authority_host), "http://u:p@127.0.0.1:8001", "authority_host"},
    {CALL_CHAT, BY_SECRET, AT(client.credential.authority_host), "http://127.0.0.1:8001/../..", "authority_host"},
    {CALL_CHAT, BY_SECRET, AT(client.credential.authority_host), "///", "authority_host"},
    {CALL_CHAT, BY_KEY, AT(client.endpoint), "http://127.0.0.1:8000/../../x", "endpoint"},
    {CALL_CHAT, BY_KEY, AT(client.endpoint), "http://127.0.0.1:8000/openai/deployments//chat", "deployment"},
    {CALL_CHAT, BY_KEY, AT(client.endpoint), "http://127.0.0.1:8000/openai/deployments/%0d%0aX-Injected:%201/chat", ""},
    {CALL_CHAT, BY_KEY, AT(client.endpoint), "http://127.0.0.1:8000/openai?api-version=%0d%0aX-Injected:%201", ""},
    {CALL_CHAT, BY_KEY, AT(client.endpoint), "http://127.0.0.1:0", "endpoint"},
    {CALL_CHAT, BY_KEY, AT(client.endpoint), "http://127.0.0.1:65536", "endpoint"},
    {CALL_CHAT, BY_KEY, AT(client.endpoint), "http://127.0.0.1:-8000", "endpoint"},
    {CALL_CHAT, BY_KEY, AT(client.endpoint), "http://u:canary@127.0.0.1:8000", "endpoint"},
    {CALL_CHAT, BY_KEY, AT(client.endpoint), "http://[::1", "endpoint"},
    {CALL_CHAT, BY_KEY, AT(client.endpoint), "://", "endpoint"},
    {CALL_CHAT, BY_KEY, AT(client.deployment), ".", "deployment"},
    {CALL_CHAT, BY_KEY, AT(client.deployment), "..", "deployment"},
    {CALL_CHAT, BY_KEY, AT(client.auth_header), "Host", "auth_header"},
    {CALL_CHAT, BY_KEY, AT(client.auth_header), "Content-Length", "auth_header"},
    {CALL_CHAT, BY_KEY, AT(client.auth_header), "transfer-encoding", "auth_header"},
    {CALL_CHAT, BY_KEY, AT(client.auth_header), "Connection", "auth_header"},
    {CALL_CHAT, BY_KEY, AT(client.auth_header), "Content-Type", "auth_header"},
    {CALL_CHAT, BY_KEY, AT(headers[0].name), "Host", "header"},
    {CALL_CHAT, BY_KEY, AT(headers[0].name), "content-length", "header"},
    {CALL_CHAT, BY_KEY, AT(headers[0].name), "Transfer-Encoding", "header"},
    {CALL_CHAT, BY_KEY, AT(headers[0].name), "Authorization", "header"},
    {CALL_CHAT, BY_KEY, AT(headers[0].name), "User-Agent", "header"},
    {CALL_CHAT, BY_KEY, AT(headers[0].name), "Accept", ""},
    {CALL_RAW, BY_KEY, AT(raw.method), "CONNECT", "method"},
    {CALL_RAW, BY_KEY, AT(raw.path), "//", "path"},
    {CALL_RAW, BY_KEY, AT(raw.path), "/%2e%2E/x", "path"},
    {CALL_RAW, BY_KEY, AT(raw.path), "/.%2e", "path"},
    {CALL_RAW, BY_KEY, AT(raw.query), "?", "query"},
    {CALL_CHAT, BY_KEY, AT(chat.extra_json), "{}", "extra_json"},
    {CALL_CHAT, BY_KEY, AT(chat.extra_json), "[]", "extra_json"},
    {CALL_CHAT, BY_KEY, AT(chat.extra_json), "{\"m\\u0065ssages\":[]}", "extra_json"},
    {CALL_CHAT, BY_KEY, AT(chat.extra_json), "{\"stream\":true}", "extra_json"},
    {CALL_CHAT, BY_KEY, AT(chat.extra_json), "{\"model\":\"x\"}", "extra_json"},
};

static void test_odd_values(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(odds); i++) {
        const struct odd *o = &odds[i];
        stage s;
        setup u;
        stage_open(&s);
        setup_open(&u, &s, o->identity);
        u.headers[0].name = "X-Name";
        u.headers[0].value = "value";
        u.client.headers = u.headers;
        u.client.header_count = 1;
        memcpy((char *)&u + o->offset, &o->value, sizeof o->value);
        azo_result r = run_call(&s, &u, o->call);
        if (r != AZO_OK) {
            if (!is_refused(r)) {
                fail_msg("%s: %s: %s", o->value, azo_result_name(r), s.error.message);
            }
            check_refused(&s, o->says, r);
        }
        azo_client_close(s.client);
        s.client = NULL;
        stage_close(&s);
    }
}

/* ---- calls in the wrong order ---- */

static azo_request *begin_chat(stage *s, const setup *u) {
    azo_request *request;
    assert_int_equal(azo_chat_begin(s->client, &u->chat, &request, &s->error), AZO_OK);
    return request;
}

static void check_ends(stage *s, azo_request *request, azo_result result) {
    azo_chat_reply reply;
    assert_int_equal(azo_request_result(request), result);
    assert_int_equal(azo_chat_end(request, &reply, &s->error), result);
    assert_int_equal(s->error.code, result);
    if (result == AZO_OK) {
        assert_string_equal(reply.text.ptr, "Hello");
    } else {
        test_sentences(s->error.message);
    }
    azo_chat_reply_free(&reply);
}

static void test_end_too_early(void **state) {
    (void)state;
    stage s;
    setup u;
    stage_open(&s);
    setup_open(&u, &s, BY_SECRET);
    assert_int_equal(azo_client_open(&u.client, &s.client, &s.error), AZO_OK);
    assert_null(azo_next(s.client));
    azo_request *request = begin_chat(&s, &u);
    for (int i = 0; i < MAX_TURNS && azo_request_result(request) == AZO_PENDING; i++) {
        azo_chat_reply reply;
        assert_null(azo_next(s.client));
        assert_int_equal(azo_chat_end(request, &reply, &s.error), AZO_PENDING);
        assert_int_equal(s.error.code, AZO_OK);
        assert_null(reply.owned);
        azo_request_resume(request); /* it is not paused */
        assert_int_equal(azo_poll(s.client, -1), AZO_OK);
    }
    azo_request_cancel(request); /* too late */
    azo_request_resume(request);
    assert_ptr_equal(azo_next(s.client), request);
    assert_null(azo_next(s.client));
    check_ends(&s, request, AZO_OK);
    stage_close(&s);
}

/* Each azo_X_end for a request of each kind: only the right one takes it, the others free it. */
static void test_end_of_another_kind(void **state) {
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        for (int end = 0; end < 4; end++) {
            for (int polls = 0; polls < 4; polls++) {
                stage s;
                setup u;
                azo_request *r = NULL;
                stage_open(&s);
                setup_open(&u, &s, BY_SECRET);
                assert_int_equal(azo_client_open(&u.client, &s.client, &s.error), AZO_OK);
                azo_result began = kind == 0   ? azo_token_begin(s.client, &u.token, &r, NULL)
                                   : kind == 1 ? azo_chat_begin(s.client, &u.chat, &r, NULL)
                                   : kind == 2 ? azo_embed_begin(s.client, &u.embed, &r, NULL)
                                               : azo_raw_begin(s.client, &u.raw, &r, NULL);
                assert_int_equal(began, AZO_OK);
                for (int i = 0; i < polls; i++) {
                    assert_int_equal(azo_poll(s.client, -1), AZO_OK);
                }
                azo_result ended = end == 0   ? azo_token_end(r, NULL, &s.error)
                                   : end == 1 ? azo_chat_end(r, NULL, &s.error)
                                   : end == 2 ? azo_embed_end(r, NULL, &s.error)
                                              : azo_raw_end(r, NULL, &s.error);
                if (kind != end) {
                    assert_int_equal(ended, AZO_ERR_ARGUMENT);
                    test_sentences(s.error.message);
                } else if (ended == AZO_PENDING) {
                    azo_request_free(r);
                } else {
                    assert_int_equal(ended, AZO_OK);
                }
                s.unread = true; /* it may have been cut off in a request */
                stage_close(&s);
            }
        }
    }
}

static void test_cancel_twice(void **state) {
    (void)state;
    for (int polls = 0; polls < 6; polls++) {
        stage s;
        setup u;
        stage_open(&s);
        setup_open(&u, &s, BY_SECRET);
        assert_int_equal(azo_client_open(&u.client, &s.client, &s.error), AZO_OK);
        azo_request *request = begin_chat(&s, &u);
        for (int i = 0; i < polls && azo_request_result(request) == AZO_PENDING; i++) {
            assert_int_equal(azo_poll(s.client, -1), AZO_OK);
        }
        azo_result result = azo_request_result(request) == AZO_OK ? AZO_OK : AZO_ERR_CANCELLED;
        for (int i = 0; i < 3; i++) {
            azo_request_cancel(request);
        }
        finish(&s, request);
        azo_request_cancel(request);
        assert_ptr_equal(azo_next(s.client), request);
        assert_null(azo_next(s.client));
        check_ends(&s, request, result);
        stage_close(&s);
    }
}

/* Live requests become shells: they want their end, in any order, and nothing else has an effect on them. */
static void test_shells(void **state) {
    (void)state;
    for (unsigned order = 0; order < 6; order++) {
        static const unsigned char orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
        stage s;
        setup u;
        azo_request *all[3];
        stage_open(&s);
        setup_open(&u, &s, BY_SECRET);
        assert_int_equal(azo_client_open(&u.client, &s.client, &s.error), AZO_OK);
        u.chat.call.tag = &s;
        for (unsigned i = 0; i < 3; i++) {
            all[i] = begin_chat(&s, &u);
            for (unsigned k = 0; k < order; k++) {
                assert_int_equal(azo_poll(s.client, 10), AZO_OK);
            }
        }
        azo_result first = azo_request_result(all[0]) == AZO_OK ? AZO_OK : AZO_ERR_CANCELLED;
        azo_client_close(s.client);
        s.client = NULL;
        for (unsigned i = 0; i < 3; i++) {
            unsigned which = orders[order][i];
            azo_request *request = all[which];
            assert_ptr_equal(azo_request_tag(request), &s);
            azo_request_cancel(request);
            azo_request_resume(request);
            if (which == 1) {
                azo_request_free(request);
            } else {
                azo_result got = azo_request_result(request);
                assert_true(got == AZO_OK || got == AZO_ERR_CANCELLED);
                check_ends(&s, request, which == 0 ? first : got);
            }
        }
        stage_close(&s);
    }
}

/* Ids that are stale, of another client, or of nobody. */
static void test_ids_of_nobody(void **state) {
    (void)state;
    stage s;
    stage other;
    setup u;
    setup v;
    stage_open(&s);
    stage_open(&other);
    setup_open(&u, &s, BY_SECRET);
    setup_open(&v, &other, BY_SECRET);
    assert_int_equal(azo_client_open(&u.client, &s.client, &s.error), AZO_OK);
    assert_int_equal(azo_client_open(&v.client, &other.client, &other.error), AZO_OK);
    azo_request *mine = begin_chat(&s, &u);
    azo_request *theirs = begin_chat(&other, &v);
    for (int i = 0; i < MAX_TURNS && azo_request_result(mine) == AZO_PENDING; i++) {
        azo_watch watches[8];
        static const azo_watch nobody[] = {{0, 0, 0}, {-1, 1, 0xffff}, {0, UINT32_MAX, 1}, {5, 0x80000001u, 7}};
        assert_int_equal(azo_step(s.client, nobody, COUNT(nobody)), AZO_OK);
        size_t count = azo_wait(other.client, watches, COUNT(watches), NULL);
        assert_int_equal(azo_step(s.client, watches, count), AZO_OK);
        assert_int_equal(azo_poll(s.client, -1), AZO_OK);
        assert_int_equal(azo_poll(other.client, -1), AZO_OK);
    }
    finish(&other, theirs);
    check_ends(&s, mine, AZO_OK);
    check_ends(&other, theirs, AZO_OK);
    stage_close(&s);
    stage_close(&other);
}

/* ---- from inside a callback ---- */

typedef struct inside {
    stage *s;
    setup *u;
    azo_request *self; /* NULL: a blocking call */
    azo_request *other;
    azo_request *fresh; /* begun inside */
    const struct deed *deed;
    azo_result got;
    bool closed;
    int events;
} inside;

/* What a callback does, what that says, and how the requests end after it. */
typedef struct deed {
    const char *name;
    azo_result (*act)(inside *x);
    azo_result says;
    azo_result self;
    azo_result other;
    int answer; /* of the callback */
    bool needs_self;
} deed;

static azo_result act_step(inside *x) {
    return azo_step(x->s->client, NULL, 0);
}

static azo_result act_poll(inside *x) {
    return azo_poll(x->s->client, -1);
}

static azo_result act_token(inside *x) {
    azo_token_reply reply;
    memset(&reply, 0xa5, sizeof reply);
    azo_result r = azo_token(x->s->client, &x->u->token, &reply, &x->s->error);
    azo_token_reply_free(&reply);
    return r;
}

static azo_result act_chat(inside *x) {
    return run_chat(x->s, &x->u->chat);
}

static azo_result act_embed(inside *x) {
    return run_embed(x->s, x->u);
}

static azo_result act_raw(inside *x) {
    return run_raw(x->s, x->u);
}

static azo_result act_export(inside *x) {
    azo_state blob;
    azo_result r = azo_client_export(x->s->client, &blob, &x->s->error);
    assert_null(blob.owned);
    return r;
}

static azo_result act_import(inside *x) {
    return azo_client_import(x->s->client, "azo-state 1\n", 12, &x->s->error);
}

static azo_result act_end_self(inside *x) {
    return azo_raw_end(x->self, NULL, &x->s->error);
}

static azo_result act_end_other(inside *x) {
    return azo_chat_end(x->other, NULL, &x->s->error);
}

static azo_result act_end_wrong_kind(inside *x) { /* refused, so nothing is freed */
    return azo_embed_end(x->other, NULL, &x->s->error);
}

static azo_result act_begin(inside *x) {
    return azo_chat_begin(x->s->client, &x->u->chat, &x->fresh, &x->s->error);
}

static azo_result act_cancel_self(inside *x) {
    azo_request_cancel(x->self);
    azo_request_cancel(x->self);
    return azo_request_result(x->self) == AZO_ERR_CANCELLED ? AZO_PENDING : azo_request_result(x->self);
}

static azo_result act_cancel_other(inside *x) {
    azo_request_cancel(x->other);
    azo_request_cancel(x->other);
    return AZO_OK;
}

static azo_result act_resume(inside *x) { /* neither is paused */
    azo_request_resume(x->self);
    azo_request_resume(x->other);
    return AZO_OK;
}

static azo_result act_free_self(inside *x) {
    azo_request_free(x->self);
    x->self = NULL;
    return AZO_OK;
}

static azo_result act_free_other(inside *x) {
    azo_request_free(x->other);
    x->other = NULL;
    return AZO_OK;
}

static azo_result act_history(inside *x) {
    azo_str value;
    azo_history *history = new_history(x->s);
    azo_message message = azo_user("x");
    azo_result r = azo_history_add(history, &message, &x->s->error);
    azo_history_remove(history, 0, 1);
    azo_history_close(history);
    return r == AZO_OK ? azo_json_get(azo_s("{\"a\":1}"), "a", &value) : r;
}

static azo_result act_close(inside *x) {
    azo_client_close(x->s->client);
    azo_client_close(x->s->client);
    x->closed = true;
    return AZO_OK;
}

static azo_result act_close_and_begin(inside *x) {
    (void)act_close(x);
    return azo_chat_begin(x->s->client, &x->u->chat, &x->fresh, &x->s->error);
}

static azo_result act_next(inside *x) {
    azo_request *done = azo_next(x->s->client);
    assert_true(done == NULL || done == x->other);
    assert_in_range(azo_wait(x->s->client, NULL, 0, NULL), 0, 2);
    return AZO_OK;
}

static azo_result act_nothing(inside *x) {
    (void)x;
    return AZO_OK;
}

static const deed deeds[] = {
    {"azo_step", act_step, AZO_ERR_STATE, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"azo_poll", act_poll, AZO_ERR_STATE, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"azo_token", act_token, AZO_ERR_STATE, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"azo_chat", act_chat, AZO_ERR_STATE, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"azo_embed", act_embed, AZO_ERR_STATE, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"azo_raw", act_raw, AZO_ERR_STATE, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"azo_client_export", act_export, AZO_ERR_STATE, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"azo_client_import", act_import, AZO_ERR_STATE, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"its own end", act_end_self, AZO_ERR_STATE, AZO_OK, AZO_OK, AZO_GO_ON, true},
    {"another's end", act_end_other, AZO_ERR_STATE, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"an end of the wrong kind", act_end_wrong_kind, AZO_ERR_STATE, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"begin", act_begin, AZO_OK, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"cancel itself", act_cancel_self, AZO_PENDING, AZO_ERR_CANCELLED, AZO_OK, AZO_GO_ON, true},
    {"cancel another", act_cancel_other, AZO_OK, AZO_OK, AZO_ERR_CANCELLED, AZO_GO_ON, false},
    {"resume", act_resume, AZO_OK, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"free itself", act_free_self, AZO_OK, AZO_ERR_CANCELLED, AZO_OK, AZO_GO_ON, true},
    {"free another", act_free_other, AZO_OK, AZO_OK, AZO_ERR_CANCELLED, AZO_GO_ON, false},
    {"histories and JSON", act_history, AZO_OK, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"azo_next and azo_wait", act_next, AZO_OK, AZO_OK, AZO_OK, AZO_GO_ON, false},
    {"close", act_close, AZO_OK, AZO_ERR_CANCELLED, AZO_ERR_CANCELLED, AZO_GO_ON, false},
    {"close and begin", act_close_and_begin, AZO_ERR_STATE, AZO_ERR_CANCELLED, AZO_ERR_CANCELLED, AZO_GO_ON, false},
    {"close and stop", act_close, AZO_OK, AZO_ERR_CANCELLED, AZO_ERR_CANCELLED, AZO_STOP, false},
    {"close and pause", act_close, AZO_OK, AZO_ERR_CANCELLED, AZO_ERR_CANCELLED, AZO_PAUSE, false},
    {"stop", act_nothing, AZO_OK, AZO_ERR_CANCELLED, AZO_OK, AZO_STOP, false},
    {"cancel and pause", act_cancel_self, AZO_PENDING, AZO_ERR_CANCELLED, AZO_OK, AZO_PAUSE, true},
    {"free and pause", act_free_self, AZO_OK, AZO_ERR_CANCELLED, AZO_OK, AZO_PAUSE, true},
    {"free and stop", act_free_self, AZO_OK, AZO_ERR_CANCELLED, AZO_OK, AZO_STOP, true},
    {"an answer of no meaning", act_nothing, AZO_OK, AZO_PENDING, AZO_OK, 3, false},
    {"a negative answer", act_nothing, AZO_OK, AZO_PENDING, AZO_OK, -1, false},
    {"a large answer", act_nothing, AZO_OK, AZO_PENDING, AZO_OK, INT_MAX, false},
    {"the smallest answer", act_nothing, AZO_OK, AZO_PENDING, AZO_OK, INT_MIN, false},
};

/* Acts in the first event. */
static int act_inside(inside *x) {
    if (x->events++ > 0) {
        return AZO_GO_ON;
    }
    x->got = x->deed->act(x);
    return x->deed->answer;
}

static int act_on_event(const azo_event *event, void *user_data) {
    (void)event;
    return act_inside((inside *)user_data);
}

static int act_on_data(const void *data, size_t len, void *user_data) {
    (void)data;
    (void)len;
    return act_inside((inside *)user_data);
}

enum { IN_CHAT, IN_RAW_EVENTS, IN_RAW_DATA, CALLBACK_KINDS };

/* Begins, or makes, the call whose callback acts. */
static azo_result call_inside(inside *x, int kind, bool blocking) {
    azo_chat_desc chat = x->u->chat;
    azo_raw_desc raw = x->u->raw;
    chat.on_event = act_on_event;
    chat.user_data = x;
    raw.on_event = kind == IN_RAW_EVENTS ? act_on_event : NULL;
    raw.on_body = kind == IN_RAW_DATA ? act_on_data : NULL;
    raw.user_data = x;
    if (blocking) {
        return kind == IN_CHAT ? azo_chat(x->s->client, &chat, NULL, &x->s->error)
                               : azo_raw(x->s->client, &raw, NULL, &x->s->error);
    }
    azo_result r = kind == IN_CHAT ? azo_chat_begin(x->s->client, &chat, &x->self, &x->s->error)
                                   : azo_raw_begin(x->s->client, &raw, &x->self, &x->s->error);
    assert_int_equal(r, AZO_OK);
    for (int i = 0; i < MAX_TURNS && !x->closed && x->self != NULL && azo_request_result(x->self) == AZO_PENDING; i++) {
        assert_int_equal(azo_poll(x->s->client, -1), AZO_OK);
    }
    if (x->self == NULL) {
        return AZO_ERR_CANCELLED;
    }
    r = kind == IN_CHAT ? azo_chat_end(x->self, NULL, &x->s->error) : azo_raw_end(x->self, NULL, &x->s->error);
    return r;
}

static void run_deed(const deed *d, int kind, bool blocking) {
    stage s;
    setup u;
    inside x;
    stage_open(&s);
    setup_open(&u, &s, BY_SECRET);
    memset(&x, 0, sizeof x);
    x.s = &s;
    x.u = &u;
    x.deed = d;
    assert_int_equal(azo_client_open(&u.client, &s.client, &s.error), AZO_OK);
    assert_int_equal(run_chat(&s, &u.chat), AZO_OK); /* for a token */
    assert_int_equal(azo_chat_begin(s.client, &u.chat, &x.other, &s.error), AZO_OK);
    azo_result self = call_inside(&x, kind, blocking);
    s.client = x.closed ? NULL : s.client;
    bool defined = d->self != AZO_PENDING;
    if (x.got != d->says || (defined ? self != d->self : self != AZO_OK && self != AZO_ERR_CANCELLED)) {
        fail_msg("%s in callback %d: it said %s, and the call %s (%s)", d->name, kind, azo_result_name(x.got),
                 azo_result_name(self), s.error.message);
    }
    if (x.other != NULL) {
        if (!x.closed) {
            finish(&s, x.other);
        }
        azo_result other = azo_request_result(x.other); /* it may have been done before it was cancelled */
        assert_true(other == d->other || (d->other == AZO_ERR_CANCELLED && other == AZO_OK));
        check_ends(&s, x.other, other);
    }
    if (x.fresh != NULL) {
        finish(&s, x.fresh);
        check_ends(&s, x.fresh, AZO_OK);
    }
    s.error.code = AZO_OK;
    s.unread = true;
    stage_close(&s);
}

static void test_deeds(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(deeds); i++) {
        for (int kind = 0; kind < CALLBACK_KINDS; kind++) {
            run_deed(&deeds[i], kind, false);
            if (!deeds[i].needs_self) {
                run_deed(&deeds[i], kind, true);
            }
        }
    }
}

/* Nobody has the request of a blocking call: nobody could resume it. */
static void test_pause_in_blocking_call(void **state) {
    static const deed pause = {"pause", act_nothing, AZO_OK, AZO_ERR_STATE, AZO_OK, AZO_PAUSE, false};
    (void)state;
    for (int kind = 0; kind < CALLBACK_KINDS; kind++) {
        run_deed(&pause, kind, true);
    }
}

/* A callback that runs inside a blocking call is not given its request by azo_next, though that is done. */
static int next_on_event(const azo_event *event, void *user_data) {
    inside *x = (inside *)user_data;
    (void)event;
    assert_null(azo_next(x->s->client));
    x->events++;
    return AZO_GO_ON;
}

static void test_next_in_blocking_call(void **state) {
    (void)state;
    stage s;
    setup u;
    inside x;
    stage_open(&s);
    setup_open(&u, &s, BY_KEY);
    memset(&x, 0, sizeof x);
    x.s = &s;
    assert_int_equal(azo_client_open(&u.client, &s.client, &s.error), AZO_OK);
    azo_request *first = begin_chat(&s, &u); /* two connections, of which the one used last is taken first */
    azo_request *second = begin_chat(&s, &u);
    finish(&s, first);
    finish(&s, second);
    check_ends(&s, first, AZO_OK);
    check_ends(&s, second, AZO_OK);
    azo_chat_desc chat = u.chat;
    chat.on_event = next_on_event;
    chat.user_data = &x;
    assert_int_equal(azo_chat_begin(s.client, &chat, &x.other, &s.error), AZO_OK);
    assert_int_equal(run_chat(&s, &u.chat), AZO_OK);
    assert_true(x.events > 0); /* in the same step, after the end of the other */
    finish(&s, x.other);
    assert_ptr_equal(azo_next(s.client), x.other);
    check_ends(&s, x.other, AZO_OK);
    stage_close(&s);
}

/* ---- hooks that lie ---- */

typedef enum hook { OPEN, CONNECT, RECV, SEND, WATCH, POLL, MONOTONIC, UNIX } hook;

/* What a hook answers instead of the truth. What it says it did is done as far as that can be. */
typedef struct lie {
    const char *name;
    hook where;
    int64_t answer;
} lie;

static const lie lies[] = {
    {"opened, without a connection", OPEN, AZO_OK},
    {"opening, a positive number", OPEN, 7},
    {"opening, an unknown failure", OPEN, -7777},
    {"opening, to be asked again", OPEN, AZO_IO_AGAIN},
    {"connecting, a positive number", CONNECT, 7},
    {"connecting, an unknown failure", CONNECT, -7777},
    {"connecting, the smallest number", CONNECT, INT_MIN},
    {"received more than there was room for", RECV, INT32_MAX},
    {"received more than there is memory", RECV, PTRDIFF_MAX},
    {"receiving, an unknown failure", RECV, -7777},
    {"receiving, the smallest number", RECV, PTRDIFF_MIN},
    {"the end, and then more", RECV, 0},
    {"sent nothing", SEND, 0},
    {"sent more than there was", SEND, INT32_MAX},
    {"sent more than there is memory", SEND, PTRDIFF_MAX},
    {"sending, an unknown failure", SEND, -7777},
    {"sending, the smallest number", SEND, PTRDIFF_MIN},
    {"nothing to watch", WATCH, 0},
    {"more to watch than there is room for", WATCH, PTRDIFF_MAX},
    {"a negative time to sleep", WATCH, -1},
    {"slept, interrupted", POLL, -1},
    {"slept, nothing ready", POLL, 0},
    {"slept, more ready than there are", POLL, INT32_MAX},
    {"slept, a negative count", POLL, INT32_MIN},
    {"the clock stands still", MONOTONIC, 1000000},
    {"the clock is at nothing", MONOTONIC, 0},
    {"the clock is before all time", MONOTONIC, INT64_MIN / 2},
    {"the clock is at the end of time", MONOTONIC, INT64_MAX / 2},
    {"a date before all time", UNIX, INT64_MIN},
    {"a date at the end of time", UNIX, INT64_MAX},
};

/* Whether it is to be told now. */
static bool lies_now(stage *s, hook where) {
    return s->lie != NULL && s->lie->where == where && (++s->lie_asked == s->lie_at || s->lie_at == 0);
}

static azo_result lying_open(const azo_target *to, void **conn, void *user_data) {
    stage *s = (stage *)user_data;
    return lies_now(s, OPEN) ? (azo_result)s->lie->answer : script_conn_open(to, conn, &s->net);
}

static int lying_connect(void *conn, void *user_data) {
    stage *s = (stage *)user_data;
    return lies_now(s, CONNECT) ? (int)s->lie->answer : script_conn_connect(conn, &s->net);
}

static ptrdiff_t lying_recv(void *conn, void *buf, size_t cap, void *user_data) {
    stage *s = (stage *)user_data;
    return lies_now(s, RECV) ? (ptrdiff_t)s->lie->answer : script_conn_recv(conn, buf, cap, &s->net);
}

static ptrdiff_t lying_send(void *conn, const void *buf, size_t len, void *user_data) {
    stage *s = (stage *)user_data;
    return lies_now(s, SEND) ? (ptrdiff_t)s->lie->answer : stage_send(conn, buf, len, user_data);
}

static size_t lying_watch(void *conn, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms, void *user_data) {
    stage *s = (stage *)user_data;
    size_t count = script_conn_watch(conn, want, out, cap, timeout_ms, &s->net);
    if (!lies_now(s, WATCH)) {
        return count;
    }
    for (size_t i = count; i < cap; i++) { /* so that only the count is wrong */
        out[i] = out[0];
    }
    *timeout_ms = s->lie->answer < 0 ? INT32_MIN : *timeout_ms;
    return s->lie->answer < 0 ? count : (size_t)s->lie->answer;
}

static int lying_poll(azo_watch *set, size_t count, int32_t timeout_ms, void *user_data) {
    stage *s = (stage *)user_data;
    if (!lies_now(s, POLL)) {
        return script_poll(set, count, timeout_ms < 0 ? 1000 : timeout_ms, &s->net);
    }
    s->net.now++;
    return (int)s->lie->answer;
}

static int64_t lying_monotonic(void *user_data) {
    stage *s = (stage *)user_data;
    return lies_now(s, MONOTONIC) ? s->lie->answer : script_monotonic(&s->net);
}

static int64_t lying_unix(void *user_data) {
    stage *s = (stage *)user_data;
    return lies_now(s, UNIX) ? s->lie->answer : script_unix(&s->net);
}

static void setup_lie(setup *u, stage *s, const lie *l, size_t at) {
    azo_transport *t = &u->client.transport;
    t->open = lying_open;
    t->connect = lying_connect;
    t->recv = lying_recv;
    t->send = lying_send;
    t->watch = lying_watch;
    t->poll = lying_poll;
    u->client.clock.monotonic_ms = lying_monotonic;
    u->client.clock.unix_seconds = lying_unix;
    s->lie = l;
    s->lie_at = at;
}

/* Whatever the hooks say, a request ends or can be cancelled, and a success is one. */
static void run_lie(const lie *l, size_t at) {
    stage s;
    setup u;
    stage_open(&s);
    setup_open(&u, &s, BY_SECRET);
    setup_lie(&u, &s, l, at);
    s.unread = true; /* nobody vouches for what was sent twice */
    azo_result r = azo_client_open(&u.client, &s.client, &s.error);
    for (int i = 0; i < 2 && r == AZO_OK; i++) {
        azo_request *request = begin_chat(&s, &u);
        for (int turn = 0; turn < 1000 && azo_request_result(request) == AZO_PENDING; turn++) {
            assert_int_equal(azo_poll(s.client, 1000), AZO_OK);
        }
        azo_request_cancel(request);
        for (int turn = 0; turn < 3 && azo_request_result(request) == AZO_PENDING; turn++) {
            assert_int_equal(azo_step(s.client, NULL, 0), AZO_OK);
        }
        if (azo_request_result(request) == AZO_PENDING) {
            fail_msg("%s (%lu): the request cannot be cancelled", l->name, (unsigned long)at);
        }
        check_ends(&s, request, azo_request_result(request));
    }
    stage_close(&s);
}

static void test_lying_hooks(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(lies); i++) {
        for (size_t at = 0; at <= 8; at++) {
            run_lie(&lies[i], at);
        }
    }
}

static uint32_t dice(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* An allocator that refuses now and then: each call ends well or for want of memory, and the client lives on. */
static void test_moody_allocator(void **state) {
    (void)state;
    static const call_kind kinds[] = {CALL_CHAT, CALL_EMBED, CALL_RAW, CALL_TOKEN, CALL_HISTORY};
    uint32_t seed = 20260101;
    size_t failed = 0;
    for (int round = 0; round < 60; round++) {
        stage s;
        setup u;
        stage_open(&s);
        setup_open(&u, &s, round % 2 == 0 ? BY_SECRET : BY_IMDS);
        s.unread = true;
        assert_int_equal(azo_client_open(&u.client, &s.client, &s.error), AZO_OK);
        for (int call = 0; call < 10; call++) {
            call_kind kind = kinds[dice(&seed) % COUNT(kinds)];
            s.memory.fail_at = s.memory.calls + 1 + dice(&seed) % 40;
            s.memory.fail_on = dice(&seed) % 4 == 0;
            azo_result r = kind == CALL_CHAT    ? run_chat(&s, &u.chat)
                           : kind == CALL_EMBED ? run_embed(&s, &u)
                           : kind == CALL_RAW   ? run_raw(&s, &u)
                           : kind == CALL_TOKEN ? run_token(&s, &u)
                                                : run_history(&s, &u);
            if (r != AZO_OK && r != AZO_ERR_MEMORY) {
                fail_msg("%s: %s", azo_result_name(r), s.error.message);
            }
            failed += r == AZO_ERR_MEMORY;
        }
        s.memory.fail_at = 0;
        assert_int_equal(run_chat(&s, &u.chat), AZO_OK);
        stage_close(&s);
    }
    assert_in_range(failed, 100, 500); /* the table does what it says */
}

/* A logger that calls back: what would move the client is refused, as inside every callback. */
static void nosy_line(int level, const char *text, void *user_data) {
    stage *s = (stage *)user_data;
    (void)level;
    (void)text;
    if (s->client != NULL && s->lie_at > 0) {
        assert_int_equal(azo_step(s->client, NULL, 0), AZO_ERR_STATE);
        assert_int_equal(azo_poll(s->client, -1), AZO_ERR_STATE);
        assert_int_equal(azo_chat(s->client, NULL, NULL, NULL), AZO_ERR_STATE);
        s->lie_asked++;
    }
}

static void test_nosy_logger(void **state) {
    (void)state;
    stage s;
    setup u;
    stage_open(&s);
    setup_open(&u, &s, BY_SECRET);
    u.client.logger.line = nosy_line;
    assert_int_equal(azo_client_open(&u.client, &s.client, &s.error), AZO_OK);
    azo_request *request = begin_chat(&s, &u);
    s.lie_at = 1; /* while it is polled */
    finish(&s, request);
    s.lie_at = 0;
    assert_true(s.lie_asked > 5);
    check_ends(&s, request, AZO_OK);
    stage_close(&s);
}

/* ---- token providers ---- */

static char huge_reason[HUGE_BYTES];

/* What a provider answers each time it is asked, and what becomes of the call. */
typedef struct answer {
    const char *name;
    azo_result returns;
    const char *token; /* written as far as there is room */
    size_t token_len;  /* what it says about it */
    int64_t expires_in_s;
    const char *error_text;
    intptr_t wait_fd;
    unsigned wait_events;
    int32_t wait_ms;
    azo_result result;
} answer;

static const answer answers[] = {
    {"a good one", AZO_OK, "canary.good", 11, 3600, NULL, -1, 0, -1, AZO_OK},
    {"without an expiry", AZO_OK, "canary.good", 11, 0, NULL, -1, 0, -1, AZO_OK},
    {"good for a second", AZO_OK, "canary.good", 11, 1, NULL, -1, 0, -1, AZO_OK},
    {"good for ever", AZO_OK, "canary.good", 11, INT64_MAX, NULL, -1, 0, -1, AZO_OK},
    {"expired", AZO_OK, "canary.good", 11, -1, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"expired before all time", AZO_OK, "canary.good", 11, INT64_MIN, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"empty", AZO_OK, "", 0, 3600, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"blank", AZO_OK, " ", 1, 3600, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"with CR", AZO_OK, "canary\rb", 8, 3600, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"with LF", AZO_OK, "canary\nb", 8, 3600, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"with a request", AZO_OK, "canary" SPLIT, sizeof "canary" SPLIT - 1, 3600, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"with a line end", AZO_OK, "canary\r\n", 8, 3600, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"with NUL", AZO_OK, "canary\0x", 8, 3600, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"not ASCII", AZO_OK, "canary\xff", 7, 3600, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"1 MB", AZO_OK, "canary", HUGE_BYTES, 3600, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"longer than memory", AZO_OK, "canary", SIZE_MAX, 3600, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"fails without a reason", AZO_ERR_TOKEN, "canary", 6, 3600, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"fails with an empty reason", AZO_ERR_TOKEN, NULL, 0, 0, "", -1, 0, -1, AZO_ERR_PROVIDER},
    {"fails with a reason in lines", AZO_ERR_TOKEN, NULL, 0, 0, "it\r\nbroke\x1b[2J\xff", -1, 0, -1, AZO_ERR_PROVIDER},
    {"fails with an endless reason", AZO_ERR_TOKEN, NULL, 0, 0, huge_reason, -1, 0, -1, AZO_ERR_PROVIDER},
    {"fails with an unknown number", (azo_result)-12345, NULL, 0, 0, "it broke.", -1, 0, -1, AZO_ERR_PROVIDER},
    {"succeeds with an unknown number", (azo_result)7, "canary", 6, 3600, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"waits for nothing", AZO_PENDING, "canary", 6, 3600, NULL, -1, 0, -1, AZO_ERR_PROVIDER},
    {"waits for no event", AZO_PENDING, NULL, 0, 0, NULL, 3, 0, -1, AZO_ERR_PROVIDER},
    {"waits for no descriptor", AZO_PENDING, NULL, 0, 0, NULL, -1, 0xffff, -1, AZO_ERR_PROVIDER},
    {"waits for a time without end", AZO_PENDING, NULL, 0, 0, NULL, -1, 0, INT32_MAX, AZO_ERR_TIMEOUT},
    {"asks again and again", AZO_PENDING, NULL, 0, 0, NULL, -1, 0, 100, AZO_ERR_TIMEOUT},
    {"waits for less than no time", AZO_PENDING, NULL, 0, 0, NULL, -1, 0, INT32_MIN, AZO_ERR_PROVIDER},
};

typedef struct provider {
    stage *s;
    const answer *gives;
    size_t asked;
    size_t abandoned;
    bool waits; /* it has answered PENDING and nothing else since */
    bool nosy;  /* it calls what moves the client */
} provider;

static azo_result provide(const azo_token_ask *ask, azo_token_answer *a, void *user_data) {
    provider *p = (provider *)user_data;
    const answer *gives = p->gives;
    if (p->nosy && p->s->client != NULL) {
        assert_int_equal(azo_poll(p->s->client, -1), AZO_ERR_STATE);
        assert_int_equal(azo_step(p->s->client, NULL, 0), AZO_ERR_STATE);
        assert_int_equal(azo_token(p->s->client, NULL, NULL, NULL), AZO_ERR_STATE);
    }
    assert_ptr_equal(*ask->state, p->waits ? (void *)p : NULL);
    if (ask->abandon) {
        assert_true(p->waits);
        p->waits = false;
        p->abandoned++;
        return AZO_OK;
    }
    assert_int_equal(a->wait_fd, -1);
    assert_int_equal(a->wait_ms, -1);
    p->asked++;
    if (gives->token != NULL) {
        size_t len = gives->token_len < 64 ? gives->token_len : strlen(gives->token);
        memset(a->token, 'a', a->token_cap);
        memcpy(a->token, gives->token, len);
    }
    a->token_len = gives->token_len;
    a->expires_in_s = gives->expires_in_s;
    a->error_text = gives->error_text;
    a->wait_fd = gives->wait_fd;
    a->wait_events = gives->wait_events;
    a->wait_ms = gives->wait_ms;
    p->waits = gives->returns == AZO_PENDING;
    *ask->state = p->waits ? p : NULL;
    return gives->returns;
}

static void provider_open(provider *p, stage *s, setup *u, const answer *gives) {
    memset(p, 0, sizeof *p);
    stage_open(s);
    setup_open(u, s, BY_NOTHING);
    p->s = s;
    p->gives = gives;
    p->nosy = true;
    u->client.token_provider = provide;
    u->client.token_user_data = p;
    u->client.total_timeout_ms = 60000;
    assert_int_equal(azo_client_open(&u->client, &s->client, &s->error), AZO_OK);
}

static void test_providers(void **state) {
    (void)state;
    memset(huge_reason, 'x', sizeof huge_reason - 1);
    for (size_t i = 0; i < COUNT(answers); i++) {
        stage s;
        setup u;
        provider p;
        provider_open(&p, &s, &u, &answers[i]);
        azo_result r = run_chat(&s, &u.chat);
        if (r != answers[i].result) {
            fail_msg("%s: %s: %s", answers[i].name, azo_result_name(r), s.error.message);
        }
        if (r == AZO_OK) {
            assert_int_equal(s.service->requests, 1);
        } else {
            test_sentences(s.error.message);
            assert_int_equal(s.service->requests, 0);
        }
        assert_true(p.asked > 0 && p.asked <= 601);
        azo_client_close(s.client);
        s.client = NULL;
        assert_int_equal(p.abandoned, answers[i].returns == AZO_PENDING ? 1 : 0);
        assert_false(p.waits);
        stage_close(&s);
    }
}

/* A token as long as there is room for. */
static void test_longest_token(void **state) {
    (void)state;
    for (size_t more = 0; more < 2; more++) {
        stage s;
        setup u;
        provider p;
        answer longest = answers[0];
        longest.token_len = AZO_MAX_TOKEN_BYTES + more;
        provider_open(&p, &s, &u, &longest);
        assert_int_equal(run_chat(&s, &u.chat), more == 0 ? AZO_OK : AZO_ERR_PROVIDER);
        stage_close(&s);
    }
}

enum { CANCEL_ALL, FREE_ALL, CLOSE_ALL, WAYS_TO_LEAVE };

/* Everybody stops waiting: the provider is told once, and is not asked again. */
static void test_abandoned_provider(void **state) {
    (void)state;
    for (int way = 0; way < WAYS_TO_LEAVE; way++) {
        stage s;
        setup u;
        provider p;
        azo_request *all[3];
        answer waits = answers[0];
        waits.returns = AZO_PENDING;
        waits.wait_ms = 5000;
        provider_open(&p, &s, &u, &waits);
        for (int i = 0; i < 3; i++) {
            all[i] = begin_chat(&s, &u);
        }
        assert_int_equal(azo_poll(s.client, 10), AZO_OK);
        assert_int_equal(azo_poll(s.client, 10), AZO_OK);
        assert_int_equal(p.asked, 1);
        if (way == CLOSE_ALL) {
            azo_client_close(s.client);
            s.client = NULL;
            assert_int_equal(p.abandoned, 1);
        }
        for (int i = 0; i < 3; i++) {
            if (way == CANCEL_ALL) {
                azo_request_cancel(all[i]);
                finish(&s, all[i]);
            }
            azo_request_free(all[i]);
        }
        if (way != CLOSE_ALL) {
            assert_int_equal(azo_step(s.client, NULL, 0), AZO_OK);
        }
        assert_int_equal(p.abandoned, 1);
        assert_int_equal(p.asked, 1);
        stage_close(&s);
        assert_int_equal(p.abandoned, 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_string),  cmocka_unit_test(test_views),
        cmocka_unit_test(test_roots),         cmocka_unit_test(test_odd_values),
        cmocka_unit_test(test_every_null),    cmocka_unit_test(test_nothing_is_left_out),
        cmocka_unit_test(test_numbers),       cmocka_unit_test(test_optional_numbers),
        cmocka_unit_test(test_holes),         cmocka_unit_test(test_huge_length),
        cmocka_unit_test(test_end_too_early), cmocka_unit_test(test_end_of_another_kind),
        cmocka_unit_test(test_cancel_twice),  cmocka_unit_test(test_shells),
        cmocka_unit_test(test_ids_of_nobody), cmocka_unit_test(test_deeds),
        cmocka_unit_test(test_lying_hooks),   cmocka_unit_test(test_moody_allocator),
        cmocka_unit_test(test_nosy_logger),   cmocka_unit_test(test_providers),
        cmocka_unit_test(test_longest_token), cmocka_unit_test(test_abandoned_provider),
        cmocka_unit_test(test_pause_in_blocking_call), cmocka_unit_test(test_next_in_blocking_call),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    forget_environment();
    print_message("# %lu cases of hostile callers\n", (unsigned long)cases);
    return failed;
}
