/* torture.h - whole uses of the library, each written once, to be hurt in every way that there is. Include it after
 * script.h.
 *
 * A scenario is a row of torture_scenarios: how the client is set up, the calls that its program makes, in rounds, and
 * what comes of them where nothing goes wrong. A torture runs every row again and again with one thing going wrong:
 *
 *     torture_perfect perfect;
 *     torture_measure(scenario, 0, &perfect);          once unhurt: what there is to hurt, and what is right
 *     torture *t = torture_open(scenario, options);
 *     t->net.cut = ...;                                what goes wrong
 *     torture_run(t);                                  the calls, as far as the program gets
 *     ...                                              t->calls[i]: what came of each
 *     torture_close(t, &perfect);                      the client must still serve; nothing leaked, nothing told
 *
 * All the secrets hold the word "canary": it may stand in no log line, no error, and no memory that is given back.
 */
#ifndef AZO_TEST_TORTURE_H
#define AZO_TEST_TORTURE_H

enum {
    TORTURE_CALLS = 3,
    TORTURE_HEARD = 512,  /* bytes of events of one call */
    TORTURE_SEEN = 64,    /* requests of one run */
    TORTURE_TURNS = 20000 /* of a driving loop: more means that it never ends */
};

enum { TORTURE_SERVICE, TORTURE_OTHER, TORTURE_ENTRA, TORTURE_IMDS, TORTURE_PEERS };

enum { TORTURE_CHAT, TORTURE_EMBED, TORTURE_RAW, TORTURE_TOKEN };

/* How a call is made. */
enum {
    TORTURE_EVENTS = 1,     /* with a callback for events */
    TORTURE_STREAM = 2,     /* a stream without one */
    TORTURE_PAUSES = 4,     /* the callback pauses each time, the program resumes later */
    TORTURE_TOOLS = 8,      /* offers a tool */
    TORTURE_HISTORY = 16,   /* sends the history, and adds what came */
    TORTURE_ELSEWHERE = 32, /* to the second endpoint */
    TORTURE_OWN_VECTORS = 64,
    TORTURE_SINK = 128,      /* the body goes to a callback */
    TORTURE_READ_BODY = 256, /* the body comes from a callback */
    TORTURE_BLOCKING = 512
};

typedef struct torture torture;

typedef struct torture_call {
    int kind;
    int round; /* calls of one round are on their way together; the next begins when all of them have ended */
    unsigned how;
    const char *path;           /* raw */
    int64_t rest_ms;            /* the program rests before the round of this call */
    void (*before)(torture *t); /* and then this happens */
    const char *want;           /* what comes of it, see torture_say */
    const char *hears;          /* its events, see torture_hear */
} torture_call;

typedef struct torture_scenario {
    const char *name;
    void (*set_up)(torture *t);
    size_t requests[TORTURE_PEERS];
    bool needs_retries;
    bool until_close; /* an answer ends with its connection, so an early end cannot always be told */
    size_t call_count;
    torture_call calls[TORTURE_CALLS];
} torture_scenario;

typedef struct torture_outcome { /* of a call */
    torture *owner;
    const torture_call *call;
    azo_request *request; /* while it lives */
    size_t listed;        /* how often azo_next gave it */
    size_t called;        /* callbacks */
    bool begun;
    bool done;
    bool freed;  /* by the torture: no outcome is wanted */
    bool struck; /* it was on its way when the torture acted */
    bool paused;
    azo_result code;
    azo_error error;
    int64_t done_at;
    char said[TORTURE_HEARD];  /* see torture_say */
    char heard[TORTURE_HEARD]; /* see torture_hear */
    char text[TORTURE_HEARD];  /* of its text events */
    float vectors[8];
} torture_outcome;

typedef struct torture_perfect {
    azo_result code[TORTURE_CALLS];
    char said[TORTURE_CALLS][TORTURE_HEARD];
    char heard[TORTURE_CALLS][TORTURE_HEARD];
    size_t requests[TORTURE_PEERS];
    uint64_t seen[TORTURE_SEEN]; /* hashes of all requests, those of the last, plain call included */
    size_t seen_count;
    size_t conn_count;
    script_mark marks[SCRIPT_MARKS];
    size_t turns;
    size_t callbacks;
    size_t allocations;
    int64_t elapsed_ms;
} torture_perfect;

/* What a torture does in the turn of its choice, from outside. */
typedef enum torture_act {
    TORTURE_NOTHING,
    TORTURE_CANCEL_ALL,
    TORTURE_CANCEL_FIRST,
    TORTURE_FREE_ALL,
    TORTURE_FREE_FIRST,
    TORTURE_CLOSE,
    TORTURE_SLEEP_A_DAY,  /* both clocks */
    TORTURE_SET_CLOCK_ON, /* the wall clock, by a day */
    TORTURE_SET_CLOCK_BACK,
    TORTURE_ACTS
} torture_act;

/* What it does in the callback of its choice. */
typedef enum torture_inside {
    TORTURE_LISTEN,
    TORTURE_STOP,
    TORTURE_CANCEL_SELF,
    TORTURE_FREE_SELF,
    TORTURE_CANCEL_OTHER,
    TORTURE_FREE_OTHER,
    TORTURE_BEGIN_ANOTHER,
    TORTURE_PAUSE,
    TORTURE_PAUSE_RESUMED, /* resumed in the callback, ahead of its answer */
    TORTURE_TRY_FORBIDDEN,
    TORTURE_CLOSE_INSIDE,
    TORTURE_INSIDES
} torture_inside;

struct torture {
    script_world net;
    test_memory memory;
    azo_allocator inner; /* the one of `memory` */
    const torture_scenario *scenario;
    const torture_perfect *perfect; /* NULL while it is measured */
    azo_client_desc desc;
    azo_client *client;
    bool closed; /* no hook may be called any more */
    azo_history *history;
    torture_outcome calls[TORTURE_CALLS];
    torture_outcome other; /* TORTURE_CANCEL_OTHER and the like */
    torture_outcome plain; /* the last call */
    size_t round_first;
    size_t round_end;
    bool gave_up; /* a call failed: its program makes no more */
    int64_t began_at;

    /* the peers */
    int issues;     /* the number of the token that is handed out */
    int accepts;    /* the one that the service takes; 0: any that is not too old */
    int oldest;     /* that is not */
    bool relents;   /* in the end the service takes what it did not take before */
    int claims_for; /* the token that is only handed out for claims; 0: none */
    int refusals;   /* so many times Entra answers `refusal` */
    const char *refusal;
    const char *once;   /* the service's first answer; "" closes the connection */
    const char *always; /* its only answer, until the last, plain call */
    bool numbers;       /* embeddings as text */
    uint64_t seen[TORTURE_SEEN];
    size_t seen_count;
    int provider_states; /* alive */

    /* the torture */
    size_t turns;
    size_t act_at; /* 0: never */
    torture_act act;
    size_t callbacks;
    size_t inside_at; /* 0: never */
    torture_inside inside;
    bool closed_inside;
    bool acted;
    size_t fetched_before; /* requests for tokens, before it acted */

    test_notes log;
    size_t secrets_left;
};

static torture torture_world; /* of the run at hand; the text of its log is kept from one to the next */

/* The run at hand, for who reads a failure. */
static char torture_where[240];

static const char torture_plain_want[] = "AZO_OK 200 'Hello' stop 1+2";

/* Prints what happened and fails. */
#ifdef __GNUC__
__attribute__((__format__(__printf__, 2, 3)))
#endif
static void torture_fail(const torture *t, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (t != NULL && t->log.text != NULL) {
        printf("# the log of the run:\n%s", t->log.text);
    }
    fail_msg("%s: %s", torture_where, text);
}

/* ---- memory: nothing secret may be in what is given back ---- */

static bool torture_holds_secret(const char *bytes, size_t len) {
    static const char word[] = "canary";
    const char *end = bytes + len;
    for (const char *at = bytes; (at = (const char *)memchr(at, word[0], (size_t)(end - at))) != NULL; at++) {
        if ((size_t)(end - at) < sizeof word - 1) {
            return false;
        }
        if (memcmp(at, word, sizeof word - 1) == 0) {
            return true;
        }
    }
    return false;
}

static void *torture_resize(void *ptr, size_t old_size, size_t new_size, void *user_data) {
    torture *t = (torture *)user_data;
    bool secret = ptr != NULL && torture_holds_secret((const char *)ptr, old_size);
    void *result = t->inner.resize(ptr, old_size, new_size, t->inner.user_data);
    bool given_back = new_size == 0 || result != NULL;
    t->secrets_left += secret && given_back;
    return result;
}

/* ---- the other hooks ---- */

static void torture_log_line(int level, const char *text, void *user_data) {
    torture *t = (torture *)user_data;
    size_t len = strlen(text);
    test_note_bytes(&t->log, text, len);
    test_note_bytes(&t->log, "\n", 1);
    if (t->closed) {
        torture_fail(t, "a log line after the client was closed");
    }
    if (level < AZO_LOG_WARN || level > AZO_LOG_DEBUG || strpbrk(text, "\r\n") != NULL ||
        torture_holds_secret(text, len)) {
        torture_fail(t, "this stands in the log (level %d): %s", level, text);
    }
}

static int64_t torture_monotonic(void *user_data) {
    torture *t = (torture *)user_data;
    if (t->closed) {
        torture_fail(t, "the clock was read after the client was closed");
    }
    return t->net.now;
}

static int64_t torture_unix(void *user_data) {
    return script_unix(&((torture *)user_data)->net);
}

#include "torture_peers.h"

/* ---- the program: callbacks ---- */

static void torture_append(char *to, azo_str text) {
    size_t used = strlen(to);
    assert_true(used + text.len < TORTURE_HEARD);
    if (text.len > 0) {
        memcpy(to + used, text.ptr, text.len);
    }
    to[used + text.len] = '\0';
}

static azo_result torture_begin(torture *t, torture_outcome *o);

/* Every function that a callback may not call answers so, and changes nothing. */
static void torture_try_forbidden(torture *t, torture_outcome *o) {
    azo_chat_desc desc;
    azo_message message = azo_user("Hi");
    azo_error e;
    memset(&desc, 0, sizeof desc);
    desc.messages = &message;
    desc.message_count = 1;
    bool refused = azo_step(t->client, NULL, 0) == AZO_ERR_STATE && azo_poll(t->client, 0) == AZO_ERR_STATE &&
                   azo_chat(t->client, &desc, NULL, &e) == AZO_ERR_STATE && e.code == AZO_ERR_STATE;
    if (!refused) {
        torture_fail(t, "step, poll or a blocking call was not refused in a callback");
    }
    if (o->request != NULL &&
        (azo_request_result(o->request) != AZO_PENDING || azo_chat_end(o->request, NULL, &e) != AZO_ERR_STATE)) {
        torture_fail(t, "the end of a request was not refused in its callback");
    }
}

static int torture_act_inside(torture *t, torture_outcome *o) {
    bool nameless = o->request == NULL; /* in a blocking call */
    switch (t->inside) {
    case TORTURE_STOP:
        return AZO_STOP;
    case TORTURE_CANCEL_SELF:
        azo_request_cancel(o->request);
        break;
    case TORTURE_FREE_SELF:
        azo_request_free(o->request);
        o->request = NULL;
        o->freed = !nameless;
        break;
    case TORTURE_CANCEL_OTHER:
        azo_request_cancel(t->other.request);
        break;
    case TORTURE_FREE_OTHER:
        azo_request_free(t->other.request);
        t->other.request = NULL;
        t->other.freed = true;
        break;
    case TORTURE_BEGIN_ANOTHER:
        (void)torture_begin(t, &t->other);
        break;
    case TORTURE_PAUSE_RESUMED:
        azo_request_resume(o->request);
        /* falls through */
    case TORTURE_PAUSE:
        return nameless ? AZO_GO_ON : AZO_PAUSE; /* nobody could resume it */
    case TORTURE_TRY_FORBIDDEN:
        torture_try_forbidden(t, o);
        break;
    case TORTURE_CLOSE_INSIDE:
        azo_client_close(t->client);
        t->closed_inside = true;
        break;
    case TORTURE_LISTEN:
    case TORTURE_INSIDES:
        break;
    }
    return AZO_GO_ON;
}

static int torture_called(torture_outcome *o) {
    torture *t = o->owner;
    int answer = AZO_GO_ON;
    if (o->freed || o->done || t->closed || t->closed_inside) {
        torture_fail(t, "a callback of a request that has ended");
    }
    if (o->paused) {
        torture_fail(t, "a callback of a request that pauses");
    }
    o->called++;
    t->callbacks++;
    if (o->call != NULL && (o->call->how & TORTURE_PAUSES) != 0) {
        o->paused = true;
        answer = AZO_PAUSE;
    }
    if (t->callbacks == t->inside_at) {
        o->struck = true;
        int special = torture_act_inside(t, o);
        answer = special != AZO_GO_ON ? special : answer;
        o->paused = answer == AZO_PAUSE;
    }
    return answer;
}

/* Text as it is; of the rest what tells it apart: <0:id,name> of a tool call, <finish>, <usage>, <name:event>. */
static int torture_hear(const azo_event *event, void *user_data) {
    torture_outcome *o = (torture_outcome *)user_data;
    char mark[TORTURE_HEARD] = "";
    bool tagged = event->kind != AZO_EVENT_TEXT && event->kind != AZO_EVENT_TOOL_CALL;
    bool text_ends = event->text.ptr == NULL || event->text.ptr[event->text.len] == '\0';
    if (event->json.ptr[event->json.len] != '\0' || !text_ends) {
        torture_fail(o->owner, "no NUL behind the text of an event");
    }
    if (event->kind == AZO_EVENT_TEXT) {
        torture_append(o->text, event->text);
    }
    if (event->tool_id.len > 0) {
        (void)snprintf(mark, sizeof mark, "<%d:%s,%s>", event->tool, event->tool_id.ptr, event->tool_name.ptr);
    } else if (tagged) {
        const char *name = event->name.len > 0 ? event->name.ptr : "";
        const char *what = event->kind == AZO_EVENT_OTHER ? event->json.ptr : event->text.ptr;
        (void)snprintf(mark, sizeof mark, "<%s%s%s>", name, name[0] != '\0' ? ":" : "", what);
    }
    torture_append(o->heard, azo_s(mark));
    torture_append(o->heard, tagged ? azo_s("") : event->text);
    return torture_called(o);
}

static int torture_take(const void *data, size_t len, void *user_data) {
    torture_outcome *o = (torture_outcome *)user_data;
    azo_str piece;
    piece.ptr = (const char *)data;
    piece.len = len;
    torture_append(o->heard, piece);
    return torture_called(o);
}

static ptrdiff_t torture_read(uint64_t offset, void *buf, size_t cap, void *user_data) {
    torture_outcome *o = (torture_outcome *)user_data;
    size_t len = cap < 40 ? cap : 40;
    if (o->freed || o->done || o->owner->closed) {
        torture_fail(o->owner, "a body is read for a request that has ended");
    }
    for (size_t i = 0; i < len; i++) {
        ((char *)buf)[i] = torture_upload_byte(offset + i);
    }
    return (ptrdiff_t)len;
}

/* ---- the program: calls ---- */

typedef union torture_desc {
    azo_chat_desc chat;
    azo_embed_desc embed;
    azo_raw_desc raw;
    azo_token_desc token;
} torture_desc;

typedef union torture_reply {
    azo_chat_reply chat;
    azo_embed_reply embed;
    azo_raw_reply raw;
    azo_token_reply token;
} torture_reply;

static void torture_describe_chat(torture *t, torture_outcome *o, azo_chat_desc *d, azo_message *message,
                                  azo_tool *tool) {
    bool with_history = (o->call->how & TORTURE_HISTORY) != 0;
    *message = azo_user("Hi");
    memset(tool, 0, sizeof *tool);
    tool->name = "sky";
    d->messages = with_history ? NULL : message;
    d->message_count = with_history ? 0 : 1;
    d->history = with_history ? t->history : NULL;
    d->tools = tool;
    d->tool_count = (o->call->how & TORTURE_TOOLS) != 0;
    d->on_event = (o->call->how & TORTURE_EVENTS) != 0 ? torture_hear : NULL;
    d->stream = (o->call->how & TORTURE_STREAM) != 0;
    d->user_data = o;
    d->call.tag = o;
    d->call.endpoint = (o->call->how & TORTURE_ELSEWHERE) != 0 ? "http://127.0.0.1:8001" : NULL;
}

static void torture_describe_embed(torture_outcome *o, azo_embed_desc *d, azo_str *inputs) {
    bool own = (o->call->how & TORTURE_OWN_VECTORS) != 0;
    inputs[0] = azo_s("a");
    inputs[1] = azo_s("b");
    d->inputs = inputs;
    d->input_count = 2;
    d->vectors = own ? o->vectors : NULL;
    d->vector_cap = own ? sizeof o->vectors / sizeof o->vectors[0] : 0;
    d->call.tag = o;
}

static void torture_describe_raw(torture_outcome *o, azo_raw_desc *d) {
    d->path = o->call->path;
    d->on_body = (o->call->how & TORTURE_SINK) != 0 ? torture_take : NULL;
    d->on_event = (o->call->how & TORTURE_EVENTS) != 0 ? torture_hear : NULL;
    d->read_body = (o->call->how & TORTURE_READ_BODY) != 0 ? torture_read : NULL;
    d->body_len = (o->call->how & TORTURE_READ_BODY) != 0 ? 250 : 0;
    d->user_data = o;
    d->read_user_data = o;
    d->call.tag = o;
}

/* Whether azo_request_result and the like told the truth, and what failed is told as it should be. */
static void torture_check_error(torture *t, azo_result code, const azo_error *e) {
    if (e->code != code) {
        torture_fail(t, "%s was returned, %s stands in azo_error", azo_result_name(code), azo_result_name(e->code));
    }
    if (torture_holds_secret(e->message, strlen(e->message)) || torture_holds_secret(e->detail, strlen(e->detail)) ||
        torture_holds_secret(e->service_code, strlen(e->service_code)) ||
        torture_holds_secret(e->request_id, strlen(e->request_id))) {
        torture_fail(t, "a secret in: %s %s %s %s", e->message, e->detail, e->service_code, e->request_id);
    }
    if (code == AZO_OK) {
        return;
    }
    test_sentences(e->message);
    if ((code == AZO_ERR_CANCELLED) != (e->who == AZO_WHO_NOBODY) ||
        (code == AZO_ERR_MEMORY && e->who != AZO_WHO_MACHINE)) {
        torture_fail(t, "the wrong one (%d) is asked to mend this: %s", (int)e->who, e->message);
    }
}

static void torture_say_chat(torture_outcome *o, const azo_chat_reply *reply, test_notes *said) {
    for (size_t i = 0; o->code == AZO_OK && i < reply->choice_count; i++) {
        const azo_choice *choice = &reply->choices[i];
        test_note(said, " ");
        test_note_text(said, choice->text);
        test_note(said, " %s", choice->finish_reason.ptr);
        for (size_t k = 0; k < choice->tool_call_count; k++) {
            test_note(said, " %s:%s(%s)", choice->tool_calls[k].id.ptr, choice->tool_calls[k].name.ptr,
                      choice->tool_calls[k].arguments.ptr);
        }
    }
    if (o->code == AZO_OK && reply->completion_tokens >= 0) {
        test_note(said, " %d+%d", (int)reply->prompt_tokens, (int)reply->completion_tokens);
    }
    /* What came before a failure is kept, unless there is no memory for a reply. */
    bool kept = reply->text.len == strlen(o->text) && (reply->text.len == 0 || strcmp(reply->text.ptr, o->text) == 0);
    kept = kept || (reply->text.len == 0 && o->code != AZO_OK && o->owner->memory.failures > 0);
    if ((o->call->how & TORTURE_EVENTS) != 0 && !kept) {
        torture_fail(o->owner, "'%s' was heard, '%s' is in the reply (%s)", o->text,
                     reply->text.ptr == NULL ? "" : reply->text.ptr, azo_result_name(o->code));
    }
}

/* "AZO_OK 200" and what the reply holds; an error with its status. */
static void torture_say(torture *t, torture_outcome *o, torture_reply *reply) {
    test_notes said = {NULL, 0, 0};
    int kind = o->call->kind;
    const azo_http *http = kind == TORTURE_CHAT    ? &reply->chat.http
                           : kind == TORTURE_EMBED ? &reply->embed.http
                           : kind == TORTURE_RAW   ? &reply->raw.http
                                                   : NULL;
    test_note(&said, "%s", azo_result_name(o->code));
    if (http != NULL) {
        test_note(&said, " %d", http->status);
    }
    if (kind == TORTURE_CHAT) {
        torture_say_chat(o, &reply->chat, &said);
    }
    for (size_t i = 0; kind == TORTURE_EMBED && i < reply->embed.count * reply->embed.dimensions; i++) {
        test_note(&said, " %g", (double)reply->embed.vectors[i]);
    }
    if (kind == TORTURE_RAW && o->code == AZO_OK) {
        test_note(&said, " '%s'", http->body.ptr != NULL ? http->body.ptr : "");
    }
    if (kind == TORTURE_TOKEN && o->code == AZO_OK) {
        test_note(&said, " %s from %s for %d", reply->token.token.ptr, reply->token.source,
                  (int)reply->token.expires_in_s);
    }
    torture_append(o->said, azo_s(said.text));
    test_notes_free(&said);
    torture_check_error(t, o->code, &o->error);
}

/* Takes a round of the conversation into the history. */
static void torture_remember(torture *t, const azo_chat_reply *reply, azo_result code) {
    size_t before = azo_history_count(t->history);
    azo_error e;
    azo_result r = code != AZO_OK ? code : azo_history_add_reply(t->history, reply, &e);
    if (code == AZO_OK && r != AZO_OK && azo_history_count(t->history) != before) {
        torture_fail(t, "a failure changed the history");
    }
    for (size_t i = 0; r == AZO_OK && i < reply->tool_call_count; i++) {
        azo_message message = azo_tool_result(reply->tool_calls[i].id, "clear");
        r = azo_history_add(t->history, &message, &e);
    }
    if (code == AZO_OK && r != AZO_OK) {
        t->gave_up = true;
        torture_check_error(t, r, &e);
        assert_int_equal(r, AZO_ERR_MEMORY);
        assert_true(t->memory.failures > 0);
    }
}

static void torture_ended(torture *t, torture_outcome *o, torture_reply *reply) {
    o->request = NULL;
    o->done = true;
    o->done_at = t->net.now;
    torture_say(t, o, reply);
    t->gave_up = t->gave_up || (o->code != AZO_OK && o != &t->other);
    if ((o->call->how & TORTURE_HISTORY) != 0) {
        torture_remember(t, &reply->chat, o->code);
    }
    switch (o->call->kind) {
    case TORTURE_CHAT:
        azo_chat_reply_free(&reply->chat);
        break;
    case TORTURE_EMBED:
        azo_embed_reply_free(&reply->embed);
        break;
    case TORTURE_RAW:
        azo_raw_reply_free(&reply->raw);
        break;
    default:
        azo_token_reply_free(&reply->token);
    }
}

/* Begins a call; a blocking one has ended when this returns. */
static azo_result torture_begin(torture *t, torture_outcome *o) {
    torture_desc d;
    torture_reply reply;
    azo_message message;
    azo_tool tool;
    azo_str inputs[2];
    bool blocking = (o->call->how & TORTURE_BLOCKING) != 0;
    azo_error *e = &o->error;
    memset(&d, 0, sizeof d);
    memset(&reply, 0, sizeof reply);
    o->begun = true;
    switch (o->call->kind) {
    case TORTURE_CHAT:
        torture_describe_chat(t, o, &d.chat, &message, &tool);
        o->code = blocking ? azo_chat(t->client, &d.chat, &reply.chat, e)
                           : azo_chat_begin(t->client, &d.chat, &o->request, e);
        break;
    case TORTURE_EMBED:
        torture_describe_embed(o, &d.embed, inputs);
        o->code = blocking ? azo_embed(t->client, &d.embed, &reply.embed, e)
                           : azo_embed_begin(t->client, &d.embed, &o->request, e);
        break;
    case TORTURE_RAW:
        torture_describe_raw(o, &d.raw);
        o->code =
            blocking ? azo_raw(t->client, &d.raw, &reply.raw, e) : azo_raw_begin(t->client, &d.raw, &o->request, e);
        break;
    default:
        d.token.call.tag = o;
        o->code = blocking ? azo_token(t->client, &d.token, &reply.token, e)
                           : azo_token_begin(t->client, &d.token, &o->request, e);
    }
    if (blocking || o->code != AZO_OK) {
        o->listed = 1;
        torture_ended(t, o, &reply);
    }
    return o->code;
}

/* Takes the outcome of a request that is not pending any more. */
static void torture_end(torture *t, torture_outcome *o) {
    torture_reply reply;
    azo_result told = azo_request_result(o->request);
    bool closed = t->closed || t->closed_inside;
    switch (o->call->kind) {
    case TORTURE_CHAT:
        o->code = azo_chat_end(o->request, &reply.chat, &o->error);
        break;
    case TORTURE_EMBED:
        o->code = azo_embed_end(o->request, &reply.embed, &o->error);
        break;
    case TORTURE_RAW:
        o->code = azo_raw_end(o->request, &reply.raw, &o->error);
        break;
    default:
        o->code = azo_token_end(o->request, &reply.token, &o->error);
    }
    if (o->code != told && !(told == AZO_OK && o->code == AZO_ERR_MEMORY && t->memory.failures > 0)) {
        torture_fail(t, "azo_request_result said %s, the end %s", azo_result_name(told), azo_result_name(o->code));
    }
    if (o->listed != 1 && !(closed && o->listed == 0)) {
        torture_fail(t, "azo_next gave a request %lu times", (unsigned long)o->listed);
    }
    torture_ended(t, o, &reply);
}

/* ---- the program: driving ---- */

/* Of the current round, and the one that a torture added; NULL behind the last. */
static torture_outcome *torture_nth(torture *t, size_t n) {
    size_t i = t->round_first + n;
    return i < t->round_end ? &t->calls[i] : i == t->round_end ? &t->other : NULL;
}

static bool torture_is_pending(const torture_outcome *o) {
    return o->request != NULL && azo_request_result(o->request) == AZO_PENDING;
}

static void torture_drop(torture_outcome *o) {
    azo_request_free(o->request);
    o->freed = o->freed || o->request != NULL;
    o->request = NULL;
}

static size_t torture_fetches(const torture *t) {
    return t->net.peers[TORTURE_ENTRA].requests + t->net.peers[TORTURE_IMDS].requests;
}

static void torture_act_outside(torture *t) {
    torture_outcome *o;
    bool first = t->act == TORTURE_CANCEL_FIRST || t->act == TORTURE_FREE_FIRST;
    t->acted = true;
    t->fetched_before = torture_fetches(t);
    for (size_t i = 0; (o = torture_nth(t, i)) != NULL && !(first && i > 0); i++) {
        o->struck = torture_is_pending(o);
        if (t->act == TORTURE_CANCEL_ALL || t->act == TORTURE_CANCEL_FIRST) {
            azo_request_cancel(o->request);
        } else if (t->act == TORTURE_FREE_ALL || t->act == TORTURE_FREE_FIRST) {
            torture_drop(o);
        }
    }
    if (t->act == TORTURE_CLOSE) {
        azo_client_close(t->client);
        t->client = NULL;
        t->closed = true;
    }
    if (t->act == TORTURE_SLEEP_A_DAY) { /* no token outlives it */
        bool renewable = t->desc.token_provider != NULL || t->desc.credential.kind != AZO_CRED_AUTO;
        t->net.now += 86400000;
        t->issues += renewable ? 2 : 0;
        t->oldest = t->issues;
        t->accepts += t->accepts > 0 ? 2 : 0;
        t->claims_for += t->claims_for > 0 ? 2 : 0;
    }
    t->net.unix_base += t->act == TORTURE_SET_CLOCK_ON ? 86400 : t->act == TORTURE_SET_CLOCK_BACK ? -86400 : 0;
}

/* Counts a turn, and lets the torture act in it. */
static void torture_count_turn(torture *t) {
    if (++t->turns > TORTURE_TURNS) {
        torture_fail(t, "it never ends");
    }
    if (t->turns == t->act_at) {
        torture_act_outside(t);
    }
}

static void torture_collect(torture *t) {
    azo_request *next;
    while ((next = azo_next(t->client)) != NULL) {
        torture_outcome *o = (torture_outcome *)azo_request_tag(next);
        o->listed++;
        if (o->freed || o->done || o->request != next || torture_is_pending(o)) {
            torture_fail(t, "azo_next gave a request that it should not give");
        }
    }
}

static void torture_turn(torture *t, int32_t max_ms) {
    torture_outcome *o;
    bool pauses[TORTURE_CALLS + 1] = {false};
    bool any = false;
    torture_count_turn(t);
    if (t->closed) {
        return;
    }
    for (size_t i = 0; (o = torture_nth(t, i)) != NULL; i++) {
        pauses[i] = o->paused && torture_is_pending(o);
        any = any || pauses[i];
    }
    if (azo_poll(t->client, any && (max_ms < 0 || max_ms > 5) ? 5 : max_ms) != AZO_OK) {
        torture_fail(t, "azo_poll failed");
    }
    if (t->closed_inside) {
        t->client = NULL;
        t->closed = true;
        return;
    }
    torture_collect(t);
    for (size_t i = 0; (o = torture_nth(t, i)) != NULL; i++) {
        if (pauses[i] && o->request != NULL && !o->freed) {
            o->paused = false;
            azo_request_resume(o->request);
        }
    }
}

static void torture_rest(torture *t, int64_t ms) {
    int64_t end = t->net.now + ms;
    while (t->net.now < end && !t->closed) {
        int32_t timeout_ms;
        torture_turn(t, (int32_t)(end - t->net.now));
        if (!t->closed && azo_wait(t->client, NULL, 0, &timeout_ms) == 0 && timeout_ms < 0) {
            t->net.now = end > t->net.now ? end : t->net.now;
        }
    }
}

/* Drives the round until all of it has ended, and takes the outcomes. */
static void torture_finish_round(torture *t) {
    torture_outcome *o;
    bool pending = true;
    while (pending) {
        pending = false;
        for (size_t i = 0; (o = torture_nth(t, i)) != NULL; i++) {
            pending = pending || torture_is_pending(o);
        }
        if (pending) {
            torture_turn(t, -1);
        }
    }
    if (!t->closed) {
        torture_collect(t);
    }
    for (size_t i = 0; (o = torture_nth(t, i)) != NULL; i++) {
        if (o->freed) {
            o->request = NULL;
            t->gave_up = t->gave_up || o != &t->other;
        } else if (o->request != NULL && t->closed && (t->turns + i) % 2 == 0) {
            torture_drop(o); /* a shell wants one or the other */
        } else if (o->request != NULL) {
            torture_end(t, o);
        }
    }
}

static void torture_run_round(torture *t) {
    const torture_call *first = t->calls[t->round_first].call;
    bool company = t->inside_at != 0 && (t->inside == TORTURE_CANCEL_OTHER || t->inside == TORTURE_FREE_OTHER);
    torture_rest(t, first->rest_ms);
    if (first->before != NULL) {
        first->before(t);
    }
    if (company && !t->other.begun && !t->gave_up && !t->closed) {
        (void)torture_begin(t, &t->other);
    }
    for (size_t i = t->round_first; i < t->round_end && !t->gave_up && !t->closed; i++) {
        (void)torture_begin(t, &t->calls[i]);
        if (t->closed_inside) { /* in a callback of a blocking call */
            t->client = NULL;
            t->closed = true;
        }
    }
    torture_finish_round(t);
}

static void torture_run(torture *t) {
    const torture_scenario *s = t->scenario;
    t->began_at = t->net.now;
    t->round_end = 0;
    while (t->round_end < s->call_count && !t->gave_up && t->client != NULL) {
        t->round_first = t->round_end++;
        while (t->round_end < s->call_count && s->calls[t->round_end].round == s->calls[t->round_first].round) {
            t->round_end++;
        }
        torture_run_round(t);
    }
}

/* ---- a run ---- */

/* All that can be done to a blocking call from outside is to interrupt it: like any hook this one may not close. */
static bool torture_interrupted(void *user_data) {
    torture *t = (torture *)user_data;
    if (t->act == TORTURE_CLOSE) {
        t->turns++;
        return false;
    }
    torture_count_turn(t);
    bool ends = t->turns == t->act_at && (t->act == TORTURE_CANCEL_ALL || t->act == TORTURE_CANCEL_FIRST);
    t->calls[t->round_first < TORTURE_CALLS ? t->round_first : 0].struck |= ends;
    return ends;
}

static void torture_set_up_secret(torture *t) {
    azo_credential_desc *d = &t->desc.credential;
    d->kind = AZO_CRED_SECRET;
    d->tenant_id = "11111111-2222-3333-4444-555555555555";
    d->client_id = "app";
    d->client_secret = "canary-secret";
    d->authority_host = "http://127.0.0.1:8002";
}

static const torture_call torture_plain_call = {TORTURE_CHAT,       0, TORTURE_BLOCKING, NULL, 0, NULL,
                                                torture_plain_want, ""};
static const torture_call torture_other_call = {TORTURE_CHAT, 0, 0, NULL, 0, NULL, torture_plain_want, ""};

static azo_result torture_open_client(torture *t) {
    azo_error e;
    azo_result r = azo_client_open(&t->desc, &t->client, &e);
    torture_check_error(t, r, &e);
    if ((r == AZO_OK) != (t->client != NULL)) {
        torture_fail(t, "%s, but the client is %p", azo_result_name(r), (void *)t->client);
    }
    return r;
}

/* Nothing of the tester's own identity comes in, and no metadata service but the scripted one is asked. */
static void torture_clear_environment(void) {
    static const char *const names[] = {"AZURE_OPENAI_AD_TOKEN",
                                        "AZURE_OPENAI_API_KEY",
                                        "AZURE_OPENAI_ENDPOINT",
                                        "AZURE_OPENAI_DEPLOYMENT",
                                        "OPENAI_API_VERSION",
                                        "AZURE_OPENAI_API_VERSION",
                                        "AZURE_TENANT_ID",
                                        "AZURE_CLIENT_ID",
                                        "AZURE_CLIENT_SECRET",
                                        "AZURE_AUTHORITY_HOST",
                                        "AZURE_TOKEN_CREDENTIALS",
                                        "AZURE_CLIENT_CERTIFICATE_PATH",
                                        "IDENTITY_ENDPOINT",
                                        "MSI_ENDPOINT",
                                        "AZURE_FEDERATED_TOKEN_FILE",
                                        "HTTPS_PROXY",
                                        "https_proxy",
                                        "NO_PROXY",
                                        "no_proxy"};
    static const char host[] = "http://127.0.0.1:8003";
    const char *old = getenv("AZURE_POD_IDENTITY_AUTHORITY_HOST");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_int_equal(unsetenv(names[i]), 0);
    }
    if (old == NULL || strcmp(old, host) != 0) {
        assert_int_equal(setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", host, 1), 0);
    }
}

/* Everything but the client. */
static torture *torture_prepare(const torture_scenario *s, const torture_perfect *perfect) {
    static const script_service serve[TORTURE_PEERS] = {torture_service, torture_service, torture_entra, torture_imds};
    torture *t = &torture_world;
    test_notes log = t->log;
    torture_clear_environment();
    memset(t, 0, sizeof *t);
    t->log = log;
    t->log.len = 0;
    script_open(&t->net);
    for (unsigned i = 0; i < TORTURE_PEERS; i++) {
        (void)script_peer(&t->net, 8000 + i, serve[i], t);
    }
    test_memory_open(&t->memory);
    t->inner = t->memory.hook;
    t->scenario = s;
    t->perfect = perfect;
    t->issues = 1;
    for (size_t i = 0; i < TORTURE_CALLS; i++) {
        t->calls[i].owner = t;
        t->calls[i].call = &s->calls[i];
    }
    t->other.owner = t;
    t->other.call = &torture_other_call;
    t->plain.owner = t;
    t->plain.call = &torture_plain_call;
    t->desc.endpoint = "http://127.0.0.1:8000";
    t->desc.deployment = "gpt";
    t->desc.transport = t->net.transport;
    t->desc.clock.user_data = t;
    t->desc.clock.monotonic_ms = torture_monotonic;
    t->desc.clock.unix_seconds = torture_unix;
    t->desc.allocator.user_data = t;
    t->desc.allocator.resize = torture_resize;
    t->desc.logger.user_data = t;
    t->desc.logger.line = torture_log_line;
    t->desc.interrupted = torture_interrupted;
    t->desc.interrupt_user_data = t;
    s->set_up(t);
    return t;
}

/* The client still serves, whatever happened to it. */
static void torture_serve_again(torture *t) {
    bool failed = t->refusal != NULL;
    for (size_t i = 0; i < TORTURE_CALLS; i++) {
        failed = failed || (t->calls[i].done && t->calls[i].code <= AZO_ERR_NO_CREDENTIAL &&
                            t->calls[i].code >= AZO_ERR_PROVIDER);
    }
    t->round_first = t->round_end = TORTURE_CALLS;
    torture_rest(t, failed ? 6000 : 0); /* a failed credential is not asked again at once */
    t->plain.begun = true;
    (void)torture_begin(t, &t->plain);
    if (strcmp(t->plain.said, torture_plain_want) != 0) {
        torture_fail(t, "the next call came to %s: %s", t->plain.said, t->plain.error.message);
    }
    bool fetches = t->desc.credential.kind != AZO_CRED_AUTO;
    if (fetches && t->act == TORTURE_SLEEP_A_DAY && t->acted && torture_fetches(t) == t->fetched_before) {
        torture_fail(t, "the next call had no new token");
    }
}

static void torture_check_memory(torture *t) {
    if (t->memory.errors > 0) {
        torture_fail(t, "the allocator was misused %lu times, first: %s", (unsigned long)t->memory.errors,
                     t->memory.error);
    }
    if (t->memory.live_blocks > 0) {
        torture_fail(t, "%lu blocks leaked, %lu bytes", (unsigned long)t->memory.live_blocks,
                     (unsigned long)t->memory.live_bytes);
    }
    if (t->secrets_left > 0) {
        torture_fail(t, "%lu blocks held a secret when they were given back", (unsigned long)t->secrets_left);
    }
    test_memory_close(&t->memory);
}

static void torture_close(torture *t) {
    t->net.cut.over = true;
    t->net.drip = false;
    t->memory.fail_at = 0;
    t->memory.fail_on = false;
    t->act_at = 0;
    t->inside_at = 0;
    t->refusals = 0;
    t->once = NULL;
    t->always = NULL;
    t->accepts = t->relents ? 0 : t->accepts;
    if (t->client == NULL && !t->closed) {
        assert_int_equal(torture_open_client(t), AZO_OK);
    }
    if (!t->closed) {
        torture_serve_again(t);
        azo_client_close(t->client);
        t->closed = true;
    }
    azo_history_close(t->history); /* may outlive its client */
    if (t->provider_states != 0) {
        torture_fail(t, "the token provider was left alone with its state");
    }
    for (size_t i = 0; i < SCRIPT_CONNS; i++) {
        if (t->net.conns[i].open) {
            torture_fail(t, "a connection to %u was left open", t->net.conns[i].peer->port);
        }
    }
    script_close(&t->net);
    torture_check_memory(t);
}

/* Runs a scenario unhurt. `options` sets the limits of the client, see torture_prepare; NULL: those by default. */
static void torture_measure(const torture_scenario *s, void (*options)(torture *t), torture_perfect *perfect) {
    torture *t = torture_prepare(s, NULL);
    memset(perfect, 0, sizeof *perfect);
    if (options != NULL) {
        options(t);
    }
    (void)snprintf(torture_where, sizeof torture_where, "%s, unhurt", s->name);
    assert_int_equal(torture_open_client(t), AZO_OK);
    torture_run(t);
    for (size_t i = 0; i < s->call_count; i++) {
        perfect->code[i] = t->calls[i].code;
        memcpy(perfect->said[i], t->calls[i].said, TORTURE_HEARD);
        memcpy(perfect->heard[i], t->calls[i].heard, TORTURE_HEARD);
    }
    for (size_t i = 0; i < TORTURE_PEERS; i++) {
        perfect->requests[i] = t->net.peers[i].requests;
    }
    perfect->conn_count = t->net.opened;
    assert_true(perfect->conn_count < SCRIPT_MARKS);
    memcpy(perfect->marks, t->net.marks, sizeof perfect->marks);
    perfect->turns = t->turns;
    perfect->callbacks = t->callbacks;
    perfect->elapsed_ms = t->net.now - t->began_at;
    perfect->allocations = t->memory.calls;
    torture_close(t);
    memcpy(perfect->seen, t->seen, sizeof perfect->seen);
    perfect->seen_count = t->seen_count;
}

static bool torture_is_perfect(const torture *t, size_t i) {
    return t->calls[i].done && strcmp(t->calls[i].said, t->perfect->said[i]) == 0 &&
           strcmp(t->calls[i].heard, t->perfect->heard[i]) == 0;
}

/* What was delivered before a failure is the beginning of what a perfect run delivers. */
static void torture_check_prefix(torture *t, size_t i) {
    if (strncmp(t->calls[i].heard, t->perfect->heard[i], strlen(t->calls[i].heard)) != 0) {
        torture_fail(t, "call %lu heard %s instead of %s", (unsigned long)i, t->calls[i].heard, t->perfect->heard[i]);
    }
}

#endif
