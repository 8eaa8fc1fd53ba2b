/* torture_json.c - JSON that lies, in every place where a client takes JSON: from the service (replies, stream chunks,
 * tool call fragments, embeddings, refusals, errors inside a stream), from Entra ID and the metadata service (tokens
 * and refusals), and from the caller. A well-formed document of each kind is mutated at every value, every key and
 * every byte; a small checker of its own says which of the results are JSON at all. What is none must never be a
 * success, nothing may crash, leak, be slow or large, and no word of a token's answer may be shown. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#include "script.h"

#include "hostile.h"

/* ---- what JSON is: RFC 8259 in UTF-8 (RFC 3629), at most AZO_MAX_JSON_DEPTH levels; independent of the library ----
 */

typedef struct reader {
    const unsigned char *at;
    const unsigned char *end;
} reader;

static int peek(const reader *r) {
    return r->at < r->end ? *r->at : -1;
}

static bool take(reader *r, int c) {
    bool is = peek(r) == c;
    r->at += is;
    return is;
}

static void skip_blanks(reader *r) {
    while (take(r, ' ') || take(r, '\t') || take(r, '\n') || take(r, '\r')) {
    }
}

static bool read_digits(reader *r) {
    const unsigned char *start = r->at;
    while (peek(r) >= '0' && peek(r) <= '9') {
        r->at++;
    }
    return r->at > start;
}

static bool read_number(reader *r) {
    (void)take(r, '-');
    if (!take(r, '0') && !read_digits(r)) {
        return false;
    }
    if (take(r, '.') && !read_digits(r)) {
        return false;
    }
    if (take(r, 'e') || take(r, 'E')) {
        (void)(take(r, '+') || take(r, '-'));
        return read_digits(r);
    }
    return true;
}

/* The well-formed sequences are those of table 3-7 of the Unicode standard. */
static bool read_wide(reader *r) {
    static const unsigned char table[][4] = {
        /* first byte from and to, second byte from and to */
        {0xc2, 0xdf, 0x80, 0xbf}, {0xe0, 0xe0, 0xa0, 0xbf}, {0xe1, 0xec, 0x80, 0xbf}, {0xed, 0xed, 0x80, 0x9f},
        {0xee, 0xef, 0x80, 0xbf}, {0xf0, 0xf0, 0x90, 0xbf}, {0xf1, 0xf3, 0x80, 0xbf}, {0xf4, 0xf4, 0x80, 0x8f}};
    int first = peek(r);
    for (size_t i = 0; i < COUNT(table); i++) {
        if (first >= table[i][0] && first <= table[i][1]) {
            size_t more = first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
            r->at++;
            for (size_t k = 0; k < more; k++, r->at++) {
                if (peek(r) < (k == 0 ? table[i][2] : 0x80) || peek(r) > (k == 0 ? table[i][3] : 0xbf)) {
                    return false;
                }
            }
            return true;
        }
    }
    return false;
}

static bool read_string(reader *r) {
    if (!take(r, '"')) {
        return false;
    }
    while (!take(r, '"')) {
        int c = peek(r);
        if (c < 0x20) {
            return false;
        }
        if (c >= 0x80) {
            if (!read_wide(r)) {
                return false;
            }
        } else if (c == '\\') {
            size_t digits = r->end - r->at > 1 && r->at[1] == 'u' ? 4 : 0;
            if (r->end - r->at < 2 || strchr("\"\\/bfnrtu", r->at[1]) == NULL || r->at[1] == '\0') {
                return false;
            }
            for (r->at += 2; digits > 0; digits--, r->at++) {
                if (peek(r) < 0 || strchr("0123456789abcdefABCDEF", peek(r)) == NULL || peek(r) == '\0') {
                    return false;
                }
            }
        } else {
            r->at++;
        }
    }
    return true;
}

static bool read_word(reader *r, const char *word) {
    while (*word != '\0' && take(r, (unsigned char)*word)) {
        word++;
    }
    return *word == '\0';
}

static bool read_value(reader *r, int depth);

static bool read_members(reader *r, int depth, bool object) {
    int close = object ? '}' : ']';
    skip_blanks(r);
    if (take(r, close)) {
        return true;
    }
    do {
        skip_blanks(r);
        if (object) {
            if (!read_string(r)) {
                return false;
            }
            skip_blanks(r);
            if (!take(r, ':')) {
                return false;
            }
        }
        if (!read_value(r, depth)) {
            return false;
        }
        skip_blanks(r);
    } while (take(r, ','));
    return take(r, close);
}

static bool read_value(reader *r, int depth) {
    skip_blanks(r);
    switch (peek(r)) {
    case '{':
    case '[':
        r->at++;
        return depth < AZO_MAX_JSON_DEPTH && read_members(r, depth + 1, r->at[-1] == '{');
    case '"':
        return read_string(r);
    case 't':
        return read_word(r, "true");
    case 'f':
        return read_word(r, "false");
    case 'n':
        return read_word(r, "null");
    default:
        return read_number(r);
    }
}

static bool is_json(azo_str text) {
    reader r = {(const unsigned char *)text.ptr, (const unsigned char *)text.ptr + text.len};
    bool is = read_value(&r, 0);
    skip_blanks(&r);
    return is && r.at == r.end;
}

/* ---- where the values of a well-formed document are ---- */

enum { MAX_SPANS = 128 };

typedef struct span {
    size_t key; /* where its quote is; == start for what has no key */
    size_t start;
    size_t end;
} span;

typedef struct spans {
    const char *text;
    span all[MAX_SPANS];
    size_t count;
} spans;

static void find_spans(spans *s, reader *r, size_t key) {
    size_t self = s->count++;
    assert_true(self < MAX_SPANS);
    skip_blanks(r);
    const unsigned char *base = (const unsigned char *)s->text;
    s->all[self].start = (size_t)(r->at - base);
    s->all[self].key = key == SIZE_MAX ? s->all[self].start : key;
    bool object = peek(r) == '{';
    if (object || peek(r) == '[') {
        r->at++;
        while (peek(r) != '}' && peek(r) != ']') {
            size_t name = SIZE_MAX;
            if (object) {
                name = (size_t)(r->at - base);
                assert_true(read_string(r) && take(r, ':'));
            }
            find_spans(s, r, name);
            (void)take(r, ',');
        }
        r->at++;
    } else {
        assert_true(read_value(r, 0));
    }
    s->all[self].end = (size_t)(r->at - base);
}

static void spans_of(spans *s, const char *text) {
    reader r = {(const unsigned char *)text, (const unsigned char *)text + strlen(text)};
    s->text = text;
    s->count = 0;
    find_spans(s, &r, SIZE_MAX);
    assert_true(r.at == r.end);
}

/* ---- documents ---- */

typedef struct target {
    const char *name;
    role role;
    int status;
    const char *before; /* in the body */
    const char *document;
    const char *after;
} target;

#define DELTA(text) "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text "\"}}]}\n\n"
#define LAST "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
#define FILTERS \
    "{\"hate\":{\"filtered\":false,\"severity\":\"safe\"},\"jailbreak\":{\"filtered\":true,\"detected\":true}}"

static const target targets[] = {
    {"reply", ROLE_CHAT, 200, "",
     "{\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":"
     "\"assistant\","
     "\"content\":\"Hello\",\"refusal\":\"No\"},\"content_filter_results\":" FILTERS "}],\"prompt_filter_results\":["
     "{\"prompt_index\":0,\"content_filter_results\":" FILTERS
     "}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,"
     "\"prompt_tokens_details\":{\"cached_tokens\":3},\"completion_tokens_details\":{\"reasoning_tokens\":4}}}",
     ""},
    {"tool calls", ROLE_CHAT, 200, "",
     "{\"choices\":[{\"index\":0,\"finish_reason\":\"tool_calls\",\"message\":{\"content\":null,\"tool_calls\":[{"
     "\"id\":\"a\","
     "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}},{\"id\":\"b\",\"type\":\"custom\","
     "\"custom\":{"
     "\"name\":\"g\",\"input\":\"x\"}}]}}]}",
     ""},
    {"chunk", ROLE_STREAM, 200, DELTA("Hel") "data: ",
     "{\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"lo\","
     "\"refusal\":"
     "\"No\"},\"finish_reason\":null,\"content_filter_results\":" FILTERS "}],\"usage\":{\"prompt_tokens\":1}}",
     "\n\n" LAST},
    {"fragment", ROLE_STREAM, 200, DELTA("Hel") "data: ",
     "{\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"type\":\"function\","
     "\"function\":{"
     "\"name\":\"f\",\"arguments\":\"{\\\"a\\\":\"}}]}}]}",
     "\n\n" LAST},
    {"stream error", ROLE_STREAM, 200, DELTA("Hel") "data: ",
     "{\"error\":{\"code\":\"429\",\"message\":\"m\",\"type\":\"t\",\"param\":\"p\",\"innererror\":{\"code\":\"c\","
     "\"content_filter_result\":" FILTERS "}}}",
     "\n\n" LAST},
    {"vectors", ROLE_EMBED, 200, "",
     "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[1,2.5]}],\"model\":\"m\","
     "\"usage\":{"
     "\"prompt_tokens\":1,\"total_tokens\":1}}",
     ""},
    {"base64", ROLE_EMBED, 200, "", "{\"data\":[{\"index\":0,\"embedding\":\"AACAPwAAIEA=\"}]}", ""},
    {"refusal", ROLE_CHAT, 400, "",
     "{\"error\":{\"message\":\"m\",\"type\":\"t\",\"param\":\"p\",\"code\":\"content_filter\",\"status\":400,"
     "\"innererror\":{"
     "\"code\":\"ResponsibleAIPolicyViolation\",\"content_filter_result\":" FILTERS "}}}",
     ""},
    {"gateway", ROLE_RAW, 401, "", "{\"statusCode\":401,\"message\":\"m\",\"activityId\":\"a\",\"error\":\"e\"}", ""},
    {"token", ROLE_ENTRA, 200, "",
     "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"ext_expires_in\":3599,\"refresh_in\":1800,\"access_token\":"
     "\"canary.token.1\",\"unnamed\":\"canary\"}",
     ""},
    {"no token", ROLE_ENTRA, 400, "",
     "{\"error\":\"invalid_request\",\"error_description\":\"AADSTS1: "
     "d\",\"error_codes\":[1],\"trace_id\":\"t\",\"claims\":"
     "\"{}\",\"unnamed\":\"canary\"}",
     ""},
    {"IMDS token", ROLE_IMDS, 200, "",
     "{\"access_token\":\"canary.token.2\",\"client_id\":\"canary\",\"expires_in\":\"3599\",\"expires_on\":"
     "\"1792571279\","
     "\"resource\":\"r\",\"token_type\":\"Bearer\"}",
     ""},
    {"IMDS refusal", ROLE_IMDS, 400, "",
     "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\",\"unnamed\":\"canary\"}", ""},
};

/* ---- one client for many documents ---- */

typedef struct bench {
    world w;
    const target *target;
    answer says;
    outcome o;
    test_notes digest; /* of what the last document became */
    size_t base_bytes; /* that the client keeps */
} bench;

static void note_view(test_notes *n, const char *name, azo_str text) {
    test_note(n, " %s=", name);
    test_note_text(n, text);
}

static void bench_chat(bench *b) {
    azo_message message = azo_user("Hi");
    azo_chat_reply reply;
    azo_chat_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.messages = &message;
    desc.message_count = 1;
    desc.on_event = b->target->role == ROLE_STREAM ? count_event : NULL;
    desc.user_data = &b->o;
    b->o.result = azo_chat(b->w.client, &desc, &reply, &b->o.error);
    note_view(&b->digest, "text", reply.text);
    note_view(&b->digest, "refusal", reply.refusal);
    note_view(&b->digest, "finish", reply.finish_reason);
    note_view(&b->digest, "id", reply.id);
    note_view(&b->digest, "model", reply.model);
    for (size_t i = 0; i < reply.tool_call_count; i++) {
        note_view(&b->digest, "call", reply.tool_calls[i].id);
        note_view(&b->digest, "name", reply.tool_calls[i].name);
        note_view(&b->digest, "arguments", reply.tool_calls[i].arguments);
    }
    test_note(&b->digest, " %lu choices, tokens %ld %ld %ld %ld", (unsigned long)reply.choice_count,
              (long)reply.prompt_tokens, (long)reply.cached_tokens, (long)reply.completion_tokens,
              (long)reply.reasoning_tokens);
    for (size_t i = 0; i < reply.choice_count; i++) { /* what is to be sent back is JSON, whatever came */
        assert_true(is_json(reply.choices[i].message_json));
        assert_true(reply.choices[i].filter_json.len == 0 || is_json(reply.choices[i].filter_json));
    }
    assert_true(reply.usage_json.len == 0 || is_json(reply.usage_json));
    assert_true(reply.prompt_filter_json.len == 0 || is_json(reply.prompt_filter_json));
    azo_chat_reply_free(&reply);
}

static void bench_embed(bench *b) {
    azo_str input = azo_s("x");
    azo_embed_desc desc;
    azo_embed_reply reply;
    memset(&desc, 0, sizeof desc);
    desc.inputs = &input;
    desc.input_count = 1;
    b->o.result = azo_embed(b->w.client, &desc, &reply, &b->o.error);
    for (size_t i = 0; i < reply.count * reply.dimensions; i++) {
        test_note(&b->digest, " %g", (double)reply.vectors[i]);
    }
    test_note(&b->digest, " tokens %ld", (long)reply.prompt_tokens);
    azo_embed_reply_free(&reply);
}

static void bench_raw(bench *b) {
    azo_raw_desc desc;
    azo_raw_reply reply;
    memset(&desc, 0, sizeof desc);
    desc.path = "/models";
    b->o.result = azo_raw(b->w.client, &desc, &reply, &b->o.error);
    azo_raw_reply_free(&reply);
}

static void bench_token(bench *b) {
    azo_token_desc desc;
    azo_token_reply reply;
    memset(&desc, 0, sizeof desc);
    desc.claims = "{}"; /* passes the cache by */
    b->o.result = azo_token(b->w.client, &desc, &reply, &b->o.error);
    test_note(&b->digest, " %ld", (long)reply.expires_in_s);
    note_view(&b->digest, "token", reply.token);
    azo_token_reply_free(&reply);
}

static void bench_say(bench *b, azo_str document) {
    test_notes n;
    char head[64];
    size_t before = strlen(b->target->before);
    size_t after = strlen(b->target->after);
    memset(&n, 0, sizeof n);
    (void)snprintf(head, sizeof head, "HTTP/1.1 %d x\r\nContent-Length: %lu\r\n\r\n", b->target->status,
                   (unsigned long)(before + document.len + after));
    test_note_bytes(&n, head, strlen(head));
    test_note_bytes(&n, b->target->before, before);
    test_note_bytes(&n, document.len > 0 ? document.ptr : "", document.len);
    test_note_bytes(&n, b->target->after, after);
    free(b->says.bytes);
    b->says.bytes = n.text;
    b->says.len = n.len;
}

static void bench_call(bench *b) {
    b->w.net.now += HOLD_MS; /* no failure is remembered, no connection kept */
    b->w.polls = 0;
    b->w.call_began = b->w.net.now;
    test_notes_free(&b->digest);
    memset(&b->o, 0, sizeof b->o);
    switch (b->target->role) {
    case ROLE_CHAT:
    case ROLE_STREAM:
        bench_chat(b);
        break;
    case ROLE_EMBED:
        bench_embed(b);
        break;
    case ROLE_RAW:
        bench_raw(b);
        break;
    default:
        bench_token(b);
        break;
    }
    const azo_error *e = &b->o.error;
    test_note(&b->digest, " %s events %d code '%s' AADSTS%d ", azo_result_name(b->o.result), b->o.events,
              e->service_code, e->aadsts);
    test_note_bytes(&b->digest, e->detail, strlen(e->detail));
}

static void bench_fail(const bench *b, azo_str document, const char *what) {
    fail_msg("%s, %s: %s: %s (%s)\n%.*s", b->target->name, what, azo_result_name(b->o.result), b->o.error.message,
             b->o.error.detail, document.len < 600 ? (int)document.len : 600, document.ptr);
}

/* Whether an outcome may come of what is no JSON. In refusals the status decides, so that they lose only the details.
 */
static bool is_refusal(const bench *b) {
    azo_result r = b->o.result;
    if (b->target->role == ROLE_ENTRA || b->target->role == ROLE_IMDS) {
        return r == (b->target->role == ROLE_ENTRA ? AZO_ERR_TOKEN : AZO_ERR_IMDS);
    }
    if (b->target->status != 200) {
        return r == (b->target->status == 401 ? AZO_ERR_UNAUTHORIZED : AZO_ERR_BAD_REQUEST);
    }
    return r == AZO_ERR_JSON || (r == AZO_ERR_HTTP && b->target->role != ROLE_STREAM);
}

/* Of JSON with anything in it: it is what was asked for or it is not, and nothing else. What an error of the service is
 * about, its code may say. */
static bool may_come_of_json(const bench *b) {
    azo_result r = b->o.result;
    if (b->target->role == ROLE_ENTRA || b->target->role == ROLE_IMDS) {
        return is_refusal(b) || (r == AZO_OK && b->target->status == 200);
    }
    if (b->target->status != 200 || strcmp(b->target->name, "stream error") == 0) {
        return r != AZO_OK || b->target->status == 200;
    }
    return r == AZO_OK || r == AZO_ERR_JSON || r == (b->target->role == ROLE_STREAM ? AZO_ERR_STREAM : AZO_ERR_HTTP);
}

/* In a stream a line end cuts the document, and an event without data is none. */
static bool is_other_event(const bench *b, azo_str document) {
    size_t blank = 0;
    while (blank < document.len && strchr(" \t", document.ptr[blank]) != NULL && document.ptr[blank] != '\0') {
        blank++;
    }
    return b->target->role == ROLE_STREAM &&
           (blank == document.len || memchr(document.ptr, '\n', document.len) != NULL ||
            memchr(document.ptr, '\r', document.len) != NULL);
}

/* Says it and looks at what becomes of it. */
static void bench_run(bench *b, azo_str document) {
    bool well_formed = is_json(document);
    runs++;
    bench_say(b, document);
    bench_call(b);
    if (b->o.result != AZO_OK) {
        check_error(&b->o.error);
    }
    if (!well_formed && !is_other_event(b, document) && !is_refusal(b)) {
        bench_fail(b, document, "malformed");
    }
    if (well_formed && !may_come_of_json(b)) {
        bench_fail(b, document, "well-formed");
    }
    if (b->w.memory.live_bytes > b->base_bytes + 4 * document.len + 4096) {
        bench_fail(b, document, "memory is kept");
    }
}

static void bench_open_capped(bench *b, const target *t, size_t response_cap, size_t event_cap) {
    memset(b, 0, sizeof *b);
    world_open(&b->w, t->role);
    b->w.desc.max_response_bytes = response_cap;
    b->w.desc.max_event_bytes = event_cap;
    b->target = t;
    b->w.says = &b->says;
    world_start(&b->w);
    bench_say(b, azo_s(t->document));
    bench_call(b);
    b->base_bytes = b->w.memory.live_bytes;
    if ((t->status == 200 && b->o.result != AZO_OK && strcmp(t->name, "stream error") != 0) ||
        !is_json(azo_s(t->document))) {
        bench_fail(b, azo_s(t->document), "as it should be");
    }
}

static void bench_open(bench *b, const target *t) {
    bench_open_capped(b, t, RESPONSE_CAP, EVENT_CAP);
}

static void bench_close(bench *b) {
    check_still_works(&b->w);
    free(b->says.bytes);
    test_notes_free(&b->digest);
    world_close(&b->w);
}

/* ---- other values ---- */

static const char *const good_values[] = {"null",
                                          "true",
                                          "false",
                                          "0",
                                          "-1",
                                          "1",
                                          "\"\"",
                                          "\"x\"",
                                          "[]",
                                          "{}",
                                          "[[]]",
                                          "[null]",
                                          "[{}]",
                                          "{\"a\":{}}",
                                          "{\"index\":0}",
                                          "128",
                                          "127",
                                          "2147483647",
                                          "2147483648",
                                          "-2147483649",
                                          "9223372036854775807",
                                          "9223372036854775808",
                                          "-9223372036854775808",
                                          "18446744073709551616",
                                          "123456789012345678901234567890",
                                          "1e400",
                                          "-1e400",
                                          "1e-400",
                                          "-0",
                                          "0.0",
                                          "1e2",
                                          "1.5",
                                          "\"1.5\"",
                                          "\"-1\"",
                                          "\"9223372036854775808\"",
                                          "\" 3599 \"",
                                          "\"1e3\"",
                                          "\"\\u0000\"",
                                          "\"a\\u0000b\"",
                                          "\"\\ud800\"",
                                          "\"\\udc00\\ud800\"",
                                          "\"\\ud83d\\ude00\"",
                                          "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
                                          "\"\x7f\"",
                                          "\"\xc2\x9b;31m\"",
                                          "\"\xe2\x80\xae\"",
                                          "\"\xf0\x9f\x98\x80\"",
                                          "\"\\u001b[31m\"",
                                          "\"\\u009b\""};

/* What jsmn alone would take, and more. */
static const char *const bad_values[] = {"",
                                         "0.1e",
                                         "01",
                                         "-01",
                                         "+1",
                                         ".5",
                                         "1.",
                                         "-",
                                         "1e",
                                         "1e+",
                                         "0x10",
                                         "NaN",
                                         "-NaN",
                                         "Infinity",
                                         "-Infinity",
                                         "nul",
                                         "nulll",
                                         "True",
                                         "TRUE",
                                         "undefined",
                                         "'x'",
                                         "x",
                                         "\"",
                                         "\"x",
                                         "x\"",
                                         "\"\\x\"",
                                         "\"\\u12\"",
                                         "\"\\u12g4\"",
                                         "\"\\U0041\"",
                                         "\"\\\"",
                                         "\"\x01\"",
                                         "\"\n\"",
                                         "\"\t\"",
                                         "\"\x80\"",
                                         "\"\xc0\xaf\"",
                                         "\"\xc1\xbf\"",
                                         "\"\xe0\x80\xaf\"",
                                         "\"\xed\xa0\x80\"",
                                         "\"\xed\xbf\xbf\"",
                                         "\"\xf0\x80\x80\xaf\"",
                                         "\"\xf4\x90\x80\x80\"",
                                         "\"\xf8\x88\x80\x80\x80\"",
                                         "\"\xff\xfe\"",
                                         "\"\xe2\x82\"",
                                         "\"\xf0\x9f\x98\"",
                                         "1 2",
                                         "\"a\" \"b\"",
                                         "[1 2]",
                                         "[1,]",
                                         "[,]",
                                         "[,1]",
                                         "[",
                                         "]",
                                         "{",
                                         "}",
                                         "[}",
                                         "{]",
                                         "{\"a\"}",
                                         "{\"a\":}",
                                         "{\"a\":1,}",
                                         "{,}",
                                         "{a:1}",
                                         "{1:2}",
                                         "{\"a\" 1}",
                                         "{\"a\":1 \"b\":2}",
                                         "{\"a\":\"b\":\"c\"}",
                                         "{'a':1}",
                                         "[:]",
                                         ":",
                                         ",",
                                         "/**/1",
                                         "1/**/",
                                         "//x\n1",
                                         "1#",
                                         "\xef\xbb\xbf"
                                         "1",
                                         "\xa0"
                                         "1",
                                         "\x0b"
                                         "1",
                                         "\x0c"
                                         "1"};

/* document with the bytes from `start` to `end` replaced */
static azo_str spliced(test_notes *n, const char *document, size_t start, size_t end, azo_str by) {
    azo_str result;
    n->len = 0;
    test_note_bytes(n, document, start);
    test_note_bytes(n, by.len > 0 ? by.ptr : "", by.len);
    test_note_bytes(n, document + end, strlen(document + end));
    result.ptr = n->text;
    result.len = n->len;
    return result;
}

static void report(const char *what, size_t before) {
    print_message("# %s: %lu documents\n", what, (unsigned long)(runs - before));
}

static void replace_values(bench *b, const spans *s, const char *const *by, size_t count, test_notes *n) {
    for (size_t i = 0; i < s->count; i++) {
        for (size_t v = 0; v < count; v++) {
            if (!is_thinned_out()) {
                bench_run(b, spliced(n, s->text, s->all[i].start, s->all[i].end, azo_s(by[v])));
            }
        }
    }
}

static void every_value_replaced(void **state) {
    static bench b;
    size_t before = runs;
    test_notes n;
    (void)state;
    memset(&n, 0, sizeof n);
    for (size_t v = 0; v < COUNT(good_values); v++) {
        assert_true(is_json(azo_s(good_values[v])));
    }
    for (size_t v = 0; v < COUNT(bad_values); v++) {
        assert_false(is_json(azo_s(bad_values[v])));
    }
    for (size_t t = 0; t < COUNT(targets); t++) {
        spans s;
        bench_open(&b, &targets[t]);
        spans_of(&s, targets[t].document);
        replace_values(&b, &s, good_values, COUNT(good_values), &n);
        replace_values(&b, &s, bad_values, COUNT(bad_values), &n);
        for (size_t i = 0; i < s.count; i++) {
            bench_run(&b, spliced(&n, s.text, s.all[i].start, s.all[i].end, azoi_view("\0", 1)));
            bench_run(&b, spliced(&n, s.text, s.all[i].start, s.all[i].end, azoi_view("\"a\0b\"", 5)));
        }
        bench_close(&b);
    }
    test_notes_free(&n);
    report("every value replaced", before);
}

/* ---- keys ---- */

static void keep_digest(bench *b, test_notes *kept) {
    kept->len = 0;
    test_note_bytes(kept, b->digest.text, b->digest.len);
}

static void expect_digest(bench *b, const test_notes *want, azo_str document, const char *what) {
    if (strcmp(want->text, b->digest.text) != 0) {
        print_error("got      %s\nexpected %s\n", b->digest.text, want->text);
        bench_fail(b, document, what);
    }
}

/* key: value becomes (key: first, key: second). */
static azo_str doubled(test_notes *n, const char *text, span s, const char *first, const char *second) {
    test_notes pair;
    azo_str result;
    size_t name = s.start - s.key;
    memset(&pair, 0, sizeof pair);
    test_note_bytes(&pair, text + s.key, name);
    test_note_bytes(&pair, first, strlen(first));
    test_note_bytes(&pair, ",", 1);
    test_note_bytes(&pair, text + s.key, name);
    test_note_bytes(&pair, second, strlen(second));
    result.ptr = pair.text;
    result.len = pair.len;
    result = spliced(n, text, s.key, s.end, result);
    test_notes_free(&pair);
    return result;
}

/* Of equal names the first counts, as with azo_json_get, so that no two readers of ours disagree. */
static void double_key(bench *b, const spans *s, span at, test_notes *n) {
    static const char *const others[] = {"true", "7", "\"other\"", "[]", "{}", "[{\"index\":0}]", "1e400"};
    test_notes good;
    test_notes want;
    char value[512];
    memset(&good, 0, sizeof good);
    memset(&want, 0, sizeof want);
    (void)snprintf(value, sizeof value, "%.*s", (int)(at.end - at.start), s->text + at.start);
    bool is_null = strcmp(value, "null") == 0;
    bench_run(b, azo_s(s->text));
    keep_digest(b, &good);
    for (size_t i = 0; i < COUNT(others) && !is_null; i++) {
        azo_str document = doubled(n, s->text, at, value, others[i]);
        bench_run(b, document);
        expect_digest(b, &good, document, "the second of equal names counted");
        bench_run(b, spliced(n, s->text, at.start, at.end, azo_s(others[i])));
        keep_digest(b, &want);
        document = doubled(n, s->text, at, others[i], value);
        bench_run(b, document);
        expect_digest(b, &want, document, "the second of equal names counted");
    }
    test_notes_free(&good);
    test_notes_free(&want);
}

/* Names are compared as they are written, so one with an escape in it is another name. */
static void hide_key(bench *b, const spans *s, span at, test_notes *n) {
    test_notes unknown;
    char escaped[8];
    memset(&unknown, 0, sizeof unknown);
    bench_run(b, spliced(n, s->text, at.key + 1, at.key + 2, azo_s("~")));
    keep_digest(b, &unknown);
    (void)snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)(unsigned char)s->text[at.key + 1]);
    azo_str document = spliced(n, s->text, at.key + 1, at.key + 2, azo_s(escaped));
    bench_run(b, document);
    expect_digest(b, &unknown, document, "an escaped name is another");
    test_notes_free(&unknown);
}

static void every_key_hidden_and_doubled(void **state) {
    static const char *const names[] = {"\"\"", "\"\\u0000\"", "\"a\\u0000b\"",   "null", "1", "'k'",
                                        "k",    "\"\xff\"",    "\"\xed\xa0\x80\""};
    static bench b;
    size_t before = runs;
    test_notes n;
    (void)state;
    memset(&n, 0, sizeof n);
    for (size_t t = 0; t < COUNT(targets); t++) {
        spans s;
        bench_open(&b, &targets[t]);
        spans_of(&s, targets[t].document);
        for (size_t i = 0; i < s.count; i++) {
            span at = s.all[i];
            if (at.key == at.start || is_thinned_out()) {
                continue;
            }
            hide_key(&b, &s, at, &n);
            double_key(&b, &s, at, &n);
            for (size_t k = 0; k < COUNT(names); k++) {
                bench_run(&b, spliced(&n, s.text, at.key, at.start - 1, azo_s(names[k])));
            }
        }
        bench_close(&b);
    }
    test_notes_free(&n);
    report("every key hidden, doubled and renamed", before);
}

/* ---- bytes ---- */

static void every_byte_replaced(void **state) {
    static const unsigned char evil[] = {0,    1,    '\n', '\r', ' ',  '"',  '\\', '{',  '}',  '[',
                                         ']',  ',',  ':',  '0',  '-',  'e',  'n',  '/',  '\'', 0x7f,
                                         0x80, 0xbf, 0xc0, 0xc2, 0xe0, 0xed, 0xf4, 0xf5, 0xff};
    static bench b;
    size_t before = runs;
    (void)state;
    for (size_t t = 0; t < COUNT(targets); t++) {
        size_t len = strlen(targets[t].document);
        char *copy = strdup(targets[t].document);
        bench_open(&b, &targets[t]);
        for (size_t i = 0; i < len; i++) {
            for (size_t k = 0; k < COUNT(evil); k++) {
                copy[i] = (char)evil[k];
                if (!is_thinned_out()) {
                    bench_run(&b, azoi_view(copy, len));
                }
            }
            copy[i] = targets[t].document[i];
        }
        bench_close(&b);
        free(copy);
    }
    report("every byte replaced", before);
}

static void every_byte_cut_or_added(void **state) {
    static bench b;
    size_t before = runs;
    test_notes n;
    (void)state;
    memset(&n, 0, sizeof n);
    for (size_t t = 0; t < COUNT(targets); t++) {
        const char *text = targets[t].document;
        size_t len = strlen(text);
        bench_open(&b, &targets[t]);
        for (size_t i = 0; i <= len; i++) {
            if (is_thinned_out()) {
                continue;
            }
            bench_run(&b, azoi_view(text, i));
            bench_run(&b, azoi_view(text + i, len - i));
            bench_run(&b, spliced(&n, text, i, i < len ? i + 1 : i, azo_s("")));
            bench_run(&b, spliced(&n, text, i, i, azo_s("\"")));
            bench_run(&b, spliced(&n, text, i, i, azo_s(",")));
            bench_run(&b, spliced(&n, text, i, i, azo_s("}")));
            bench_run(&b, spliced(&n, text, i, i, azoi_view("\0", 1)));
        }
        bench_close(&b);
    }
    test_notes_free(&n);
    report("every byte left out, and something put before it", before);
}

/* Around a whole document. */
static void documents_in_bad_company(void **state) {
    static const char *const before[] = {"\xef\xbb\xbf", "\xff\xfe", "{} ", "[",    "x",        ")]}',\n",
                                         "/* */",        "\"",       ",",   "\x0c", "\xc2\xa0", "// x\n"};
    static const char *const behind[] = {"x",    "{}",           "}",    "]",    ",", " {}", "\"", "/* */", "//",
                                         "\x0c", "\xef\xbb\xbf", "\x1a", "null", "0"};
    static bench b;
    size_t at_first = runs;
    test_notes n;
    (void)state;
    memset(&n, 0, sizeof n);
    for (size_t t = 0; t < COUNT(targets); t++) {
        const char *text = targets[t].document;
        size_t len = strlen(text);
        bench_open(&b, &targets[t]);
        for (size_t i = 0; i < COUNT(before); i++) {
            bench_run(&b, spliced(&n, text, 0, 0, azo_s(before[i])));
        }
        for (size_t i = 0; i < COUNT(behind); i++) {
            bench_run(&b, spliced(&n, text, len, len, azo_s(behind[i])));
        }
        bench_run(&b, spliced(&n, text, len, len, azoi_view("\0", 1)));
        bench_run(&b, spliced(&n, text, len, len, azoi_view("\0{}", 3)));
        bench_run(&b, spliced(&n, text, len, len, azo_s(text)));
        bench_run(&b, spliced(&n, text, 0, 0, azo_s(" \t ")));
        bench_close(&b);
    }
    test_notes_free(&n);
    report("something before or behind a document", at_first);
}

/* ---- sizes ---- */

/* How often a document may lie in memory: as it came, in a buffer that grows by doubling; with large texts also
 * decoded, assembled, quoted in the message to be sent back, and each of these once more in the reply. */
enum { SMALL_TEXTS = 8, LARGE_TEXTS = 10, KEPT_BYTES = 512 * 1024 };

/* A document that repeats itself. */
typedef struct pile {
    const char *before;
    const char *unit;
    size_t count;
    const char *after;
} pile;

static azo_str pile_up(const pile *p) {
    size_t before = strlen(p->before);
    size_t unit = strlen(p->unit);
    size_t after = strlen(p->after);
    azo_str text;
    text.len = before + unit * p->count + after;
    char *at = (char *)malloc(text.len + 1);
    assert_non_null(at);
    text.ptr = at;
    memcpy(at, p->before, before);
    at += before;
    for (size_t i = 0; i < p->count; i++, at += unit) {
        memcpy(at, p->unit, unit);
    }
    memcpy(at, p->after, after + 1);
    return text;
}

static const target *target_named(const char *name) {
    for (size_t i = 0; i < COUNT(targets); i++) {
        if (strcmp(targets[i].name, name) == 0) {
            return &targets[i];
        }
    }
    fail_msg("no target %s", name);
    return NULL;
}

/* One document for a client of its own, which may take so many times its size, and keeps hardly anything of it. */
static azo_result say_large(const target *t, azo_str document, size_t times, size_t response_cap, size_t event_cap) {
    static bench b;
    bench_open_capped(&b, t, response_cap, event_cap);
    runs++;
    bench_say(&b, document);
    b.w.memory.peak_bytes = b.w.memory.live_bytes;
    bench_call(&b);
    azo_result r = b.o.result;
    if (r != AZO_OK) {
        check_error(&b.o.error);
    }
    if (!is_json(document) && !is_other_event(&b, document) && !is_refusal(&b) && r != AZO_ERR_LIMIT) {
        bench_fail(&b, document, "malformed");
    }
    if (b.w.memory.peak_bytes > MAX_BASE_BYTES + times * document.len) {
        print_error("%lu bytes for %lu\n", (unsigned long)b.w.memory.peak_bytes, (unsigned long)document.len);
        bench_fail(&b, document, "too much memory");
    }
    if (b.w.memory.live_bytes > KEPT_BYTES) {
        print_error("%lu bytes after %lu\n", (unsigned long)b.w.memory.live_bytes, (unsigned long)document.len);
        bench_fail(&b, document, "memory is kept");
    }
    bench_close(&b);
    return r;
}

static void nesting(void **state) {
    static const pile piles[] = {{"", "[", 100000, ""},
                                 {"", "{\"a\":", 100000, ""},
                                 {"{\"a\":", "[", 100000, ""},
                                 {"{\"error\":", "[", 100000, ""},
                                 {"{\"choices\":", "[", 100000, ""},
                                 {"", "[{\"a\":", 50000, ""},
                                 {"", "]", 100000, ""},
                                 {"", "[]", 100000, ""},
                                 {"{\"a\":", "[", AZO_MAX_JSON_DEPTH, ""}};
    size_t before = runs;
    (void)state;
    for (size_t t = 0; t < COUNT(targets); t++) {
        for (size_t i = 0; i < COUNT(piles); i++) {
            if (is_thinned_out()) {
                continue;
            }
            azo_str open = pile_up(&piles[i]);
            assert_false(is_json(open));
            (void)say_large(&targets[t], open, SMALL_TEXTS, 0, 0);
            pile close = {open.ptr, strchr(piles[i].unit, '{') != NULL ? "}" : "]", piles[i].count, ""};
            azo_str balanced = pile_up(&close);
            (void)say_large(&targets[t], balanced, SMALL_TEXTS, 0, 0);
            free((char *)(uintptr_t)balanced.ptr);
            free((char *)(uintptr_t)open.ptr);
        }
    }
    report("100,000 brackets", before);
}

/* The others differ only in the document, which does not count here. */
static bool is_first_of_its_kind(size_t t) {
    size_t i = 0;
    while (targets[i].role != targets[t].role || targets[i].status != targets[t].status) {
        i++;
    }
    return i == t;
}

/* Up to a million of everything. Time is not asserted: what is not linear here takes hours. */
static void many_values(void **state) {
    static const pile piles[] = {
        {"[", "{},", 1000000, "{}]"},
        {"{\"choices\":[", "{},", 250000, "{}]}"},
        {"{\"choices\":[{\"message\":{\"tool_calls\":[", "{},", 250000, "{}]}}]}"},
        {"{\"choices\":[", "{\"index\":0,\"message\":{\"content\":\"x\"}},", 200000, "{\"index\":0}]}"},
        {"{\"choices\":[", "{\"index\":0,\"content_filter_results\":{\"a\":{}}},", 100000, "{\"index\":0}]}"},
        {"{\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[", "{\"index\":0,\"function\":{\"arguments\":\"x\"}},",
         100000, "{}]}}]}"},
        {"{\"data\":[", "{},", 250000, "{}]}"},
        {"{\"data\":[{\"index\":0,\"embedding\":[", "0,", 250000, "0]}]}"},
        {"{\"error\":[", "0,", 250000, "0]}"},
        {"{\"error\":{", "\"code\":0,", 300000, "\"message\":0}}"},
        {"{\"error\":{\"innererror\":{\"content_filter_result\":{", "\"a\":{\"filtered\":true},", 100000,
         "\"b\":0}}}}"},
        {"{", "\"a\":0,", 1000000, "\"b\":0}"},
        {"{", "\"access_token\":\"x\",", 100000, "\"expires_in\":3599}"},
        {"{", "\"usage\":{},", 200000, "\"b\":0}"},
        {"{\"usage\":{", "\"prompt_tokens\":1,", 100000, "\"b\":0}}"},
        {"{\"prompt_filter_results\":[", "{\"content_filter_results\":{\"a\":{}}},", 100000, "{}]}"},
        {"", " ", 250000, "{}"},
        {"{\"a\":1", "0", 250000, "}"},
        {"{\"a\":0.", "0", 250000, "1}"},
        {"{\"a\":1e", "9", 250000, "}"},
        {"{\"a\":\"", "\\u0000", 200000, "\"}"},
        {"{\"choices\":[{\"index\":0,\"message\":{\"content\":\"", "\\ud800", 200000, "\"}}]}"},
        {"{\"choices\":[{\"index\":0,\"finish_reason\":\"", "\\\\", 500000, "\"}]}"},
    };
    size_t before = runs;
    (void)state;
    for (size_t i = 0; i < COUNT(piles); i++) {
        azo_str document = pile_up(&piles[i]);
        assert_true(is_json(document));
        for (size_t t = 0; t < COUNT(targets); t++) {
            if (is_first_of_its_kind(t) && !is_thinned_out()) {
                (void)say_large(&targets[t], document, SMALL_TEXTS, 0, 0);
            }
        }
        free((char *)(uintptr_t)document.ptr);
    }
    report("up to a million values", before);
}

/* Two events, each with a great many filter results of its own, which are merged. */
static void many_filters(void **state) {
    test_notes n;
    azo_str document;
    (void)state;
    memset(&n, 0, sizeof n);
    for (int event = 0; event < 2; event++) {
        test_note(&n, "%s{\"choices\":[{\"finish_reason\":\"stop\",\"content_filter_results\":{",
                  event > 0 ? "\n\ndata: " : "");
        for (int i = 0; i < 200000; i++) {
            test_note(&n, "\"%c%d\":{},", 'a' + event, i);
        }
        test_note(&n, "\"z\":0}}]}");
    }
    document.ptr = n.text;
    document.len = n.len;
    assert_int_equal(say_large(target_named("chunk"), document, LARGE_TEXTS, 0, 0), AZO_OK);
    test_notes_free(&n);
}

static void large_strings(void **state) {
    enum { MEGABYTES_50 = 50 * 1024 * 1024 };
    static const struct {
        const char *target;
        pile pile;
        size_t response_cap; /* 0: the default */
        size_t event_cap;
        azo_result result;
    } all[] = {
        {"reply",
         {"{\"choices\":[{\"message\":{\"content\":\"", "0123456789", MEGABYTES_50 / 10, "\"}}]}"},
         0,
         0,
         AZO_OK},
        {"reply",
         {"{\"choices\":[{\"message\":{\"content\":\"", "0123456789", MEGABYTES_50 / 10, "\"}}]}"},
         1 << 20,
         0,
         AZO_ERR_LIMIT},
        {"chunk",
         {"{\"choices\":[{\"delta\":{\"content\":\"", "0123456789", MEGABYTES_50 / 10, "\"}}]}"},
         0,
         0,
         AZO_ERR_LIMIT},
        {"chunk",
         {"{\"choices\":[{\"delta\":{\"content\":\"", "0123456789", MEGABYTES_50 / 10, "\"}}]}"},
         0,
         60 << 20,
         AZO_OK},
        {"token",
         {"{\"expires_in\":1,\"access_token\":\"", "0123456789", MEGABYTES_50 / 10, "\"}"},
         0,
         0,
         AZO_ERR_TOKEN},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(all); i++) {
        if (is_thinned_out()) {
            continue;
        }
        azo_str document = pile_up(&all[i].pile);
        azo_result r =
            say_large(target_named(all[i].target), document, LARGE_TEXTS, all[i].response_cap, all[i].event_cap);
        if (r != all[i].result) {
            fail_msg("%s, caps %lu and %lu: %s", all[i].target, (unsigned long)all[i].response_cap,
                     (unsigned long)all[i].event_cap, azo_result_name(r));
        }
        free((char *)(uintptr_t)document.ptr);
    }
}

/* ---- indices that make no sense: never much memory for little text ---- */

static void odd_indices(void **state) {
    static const char *const numbers[] = {"-1",
                                          "-2147483648",
                                          "-9223372036854775808",
                                          "1",
                                          "127",
                                          "128",
                                          "2147483647",
                                          "2147483648",
                                          "4294967296",
                                          "9223372036854775807",
                                          "18446744073709551616",
                                          "1e9",
                                          "0.5",
                                          "1e400",
                                          "\"0\"",
                                          "null",
                                          "true",
                                          "[]",
                                          "{}"};
    static const struct {
        const char *target;
        const char *before;
        const char *after;
    } places[] = {
        {"reply", "{\"choices\":[{\"index\":", ",\"finish_reason\":\"stop\",\"message\":{\"content\":\"x\"}}]}"},
        {"reply", "{\"choices\":[{\"message\":{\"content\":\"x\"}},{\"index\":", ",\"message\":{\"content\":\"y\"}}]}"},
        {"tool calls",
         "{\"choices\":[{\"message\":{\"tool_calls\":[{\"index\":", ",\"id\":\"a\"},{\"index\":0,\"id\":\"b\"}]}}]}"},
        {"chunk", "{\"choices\":[{\"index\":", ",\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}"},
        {"fragment", "{\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":", ",\"id\":\"a\"}]}}]}"},
        {"vectors", "{\"data\":[{\"index\":", ",\"embedding\":[1,2.5]}]}"},
        {"vectors", "{\"data\":[{\"index\":0,\"embedding\":[1]},{\"index\":", ",\"embedding\":[2]}]}"},
        {"no token", "{\"error\":\"e\",\"error_codes\":[", "]}"},
        {"token", "{\"access_token\":\"canary.token.9\",\"expires_in\":", "}"},
        {"token", "{\"access_token\":\"canary.token.9\",\"expires_in\":1,\"refresh_in\":", "}"},
        {"IMDS token", "{\"access_token\":\"canary.token.9\",\"expires_on\":", "}"},
    };
    size_t at_first = runs;
    test_notes n;
    (void)state;
    memset(&n, 0, sizeof n);
    for (size_t p = 0; p < COUNT(places); p++) {
        for (size_t i = 0; i < COUNT(numbers); i++) {
            if (is_thinned_out()) {
                continue;
            }
            azo_str document;
            n.len = 0;
            test_note(&n, "%s%s%s", places[p].before, numbers[i], places[p].after);
            document.ptr = n.text;
            document.len = n.len;
            assert_true(is_json(document));
            (void)say_large(target_named(places[p].target), document, SMALL_TEXTS, 0, 0);
        }
    }
    test_notes_free(&n);
    report("odd indices", at_first);
}

/* The length of the first row says nothing about the rows that are not there. */
static void long_first_row(void **state) {
    enum { INPUTS = 2048, NUMBERS = 20000 };
    static const pile numbers = {"{\"data\":[{\"index\":0,\"embedding\":[", "0,", NUMBERS, "0]}]}"};
    static const pile base64 = {"{\"data\":[{\"index\":0,\"embedding\":\"", "AAAAAAAAAAAAAAAA", NUMBERS / 3, "\"}]}"};
    static const pile *const piles[] = {&numbers, &base64};
    static bench b;
    static azo_str inputs[INPUTS];
    (void)state;
    for (size_t i = 0; i < INPUTS; i++) {
        inputs[i] = azo_s("x");
    }
    for (size_t i = 0; i < COUNT(piles); i++) {
        azo_str document = pile_up(piles[i]);
        azo_embed_desc desc;
        azo_embed_reply reply;
        bench_open_capped(&b, target_named("vectors"), 0, 0);
        bench_say(&b, document);
        b.w.memory.peak_bytes = b.w.memory.live_bytes;
        memset(&desc, 0, sizeof desc);
        desc.inputs = inputs;
        desc.input_count = INPUTS;
        assert_int_equal(azo_embed(b.w.client, &desc, &reply, &b.o.error), AZO_ERR_JSON);
        check_error(&b.o.error);
        azo_embed_reply_free(&reply);
        assert_in_range(b.w.memory.peak_bytes, 1, MAX_BASE_BYTES + SMALL_TEXTS * document.len);
        bench_close(&b);
        free((char *)(uintptr_t)document.ptr);
    }
}

/* ---- JSON from the caller: what is sent is JSON, or nothing is sent ---- */

typedef struct caller {
    script_world net;
    test_memory memory;
    azo_client *client;
    size_t requests;
} caller;

/* Looks at the body of a request. */
static void strict_service(script_conn *c, const char *request) {
    caller *w = (caller *)c->peer->state;
    const char *body = strstr(request, "\r\n\r\n") + 4;
    w->requests++;
    if (!is_json(azo_s(body))) {
        fail_msg("this was sent: %s", body);
    }
    script_answer(c, 0, 200, "", CHAT_BODY);
}

static void caller_open(caller *w) {
    azo_client_desc desc;
    azo_error e;
    memset(&desc, 0, sizeof desc);
    script_open(&w->net);
    test_memory_open(&w->memory);
    w->requests = 0;
    (void)script_peer(&w->net, SERVICE_PORT, strict_service, w);
    desc.endpoint = "http://127.0.0.1:8000";
    desc.deployment = "gpt";
    desc.api_key = "canary-key-0123456789";
    desc.transport = w->net.transport;
    desc.clock = w->net.clock;
    desc.allocator = w->memory.hook;
    desc.logger.line = show_line;
    assert_int_equal(azo_client_open(&desc, &w->client, &e), AZO_OK);
}

static void caller_close(caller *w) {
    azo_client_close(w->client);
    script_close(&w->net);
    test_memory_close(&w->memory);
}

/* A place in a desc that takes JSON, what it takes as it should be, and how that begins. */
typedef struct caller_place {
    const char *name;
    const char *document;
    const char *starts; /* the values it takes, by their first byte */
} caller_place;

static const caller_place places[] = {
    {"extra_json", "{\"stop\":[\"\\n\",\"x\"],\"user_security_context\":{\"a\":{\"b\":1.5}}}", "{"},
    {"raw_json", "{\"role\":\"user\",\"content\":\"Hi\",\"name\":\"n\"}", "{"},
    {"content_json", "[{\"type\":\"text\",\"text\":\"Hi\"}]", NULL},
    {"parameters_json", "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}}}", "{"},
    {"response_format_json", "{\"type\":\"json_object\"}", "{"},
    {"tool_choice", "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}", NULL},
    {"history", "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"a\"}]}", "{"},
};

/* AZO_OK, or what the first of its calls that failed answered. */
static azo_result call_with(caller *w, size_t place, const char *json, azo_error *e) {
    azo_message message = azo_user("Hi");
    azo_tool tool;
    azo_chat_desc desc;
    azo_history *history = NULL;
    memset(&desc, 0, sizeof desc);
    memset(&tool, 0, sizeof tool);
    tool.name = "f";
    desc.messages = &message;
    desc.message_count = 1;
    switch (place) {
    case 0:
        desc.extra_json = json;
        break;
    case 1:
        message = azo_say(NULL, NULL);
        message.raw_json = json;
        break;
    case 2:
        message.content = NULL;
        message.content_json = json;
        break;
    case 3:
        tool.parameters_json = json;
        desc.tools = &tool;
        desc.tool_count = 1;
        break;
    case 4:
        desc.response_format_json = json;
        break;
    case 5:
        desc.tools = &tool;
        desc.tool_count = 1;
        desc.tool_choice = json;
        break;
    default:
        message = azo_say(NULL, NULL);
        message.raw_json = json;
        assert_int_equal(azo_history_open(w->client, &history, e), AZO_OK);
        desc.history = history;
        desc.messages = NULL;
        desc.message_count = 0;
        break;
    }
    azo_result r = history != NULL ? azo_history_add(history, &message, e) : AZO_OK;
    r = r == AZO_OK ? azo_chat(w->client, &desc, NULL, e) : r;
    azo_history_close(history);
    return r;
}

static void call_and_check(caller *w, size_t place, const char *json) {
    azo_error e;
    bool well_formed = is_json(azo_s(json));
    size_t requests = w->requests;
    runs++;
    azo_result r = call_with(w, place, json, &e);
    if (r != AZO_OK) {
        check_error(&e);
    }
    /* a tool_choice that is no object is a name; NULL and empty are "none" */
    bool is_none = json[0] == '\0';
    bool is_name = place == 5 && json[strspn(json, " \t\r\n")] != '{';
    bool ok = r == AZO_OK ? well_formed || is_none || is_name : r == AZO_ERR_ARGUMENT && requests == w->requests;
    if (!ok || (r == AZO_OK && places[place].starts != NULL && !is_none && strchr(json, '{') == NULL)) {
        fail_msg("%s: %s (%s): %s", places[place].name, azo_result_name(r), e.message, json);
    }
}

static void callers_json(void **state) {
    static caller w;
    size_t before = runs;
    test_notes n;
    (void)state;
    memset(&n, 0, sizeof n);
    for (size_t place = 0; place < COUNT(places); place++) {
        spans s;
        const char *text = places[place].document;
        caller_open(&w);
        call_and_check(&w, place, text);
        assert_int_equal(w.requests, 1);
        spans_of(&s, text);
        for (size_t i = 0; i < s.count; i++) {
            for (size_t v = 0; v < COUNT(good_values) + COUNT(bad_values); v++) {
                const char *by = v < COUNT(good_values) ? good_values[v] : bad_values[v - COUNT(good_values)];
                if (!is_thinned_out()) {
                    call_and_check(&w, place, spliced(&n, text, s.all[i].start, s.all[i].end, azo_s(by)).ptr);
                }
            }
        }
        for (size_t i = 0; i <= strlen(text); i++) {
            if (is_thinned_out()) {
                continue;
            }
            call_and_check(&w, place, spliced(&n, text, i, strlen(text), azo_s("")).ptr);
            call_and_check(&w, place, spliced(&n, text, i, i, azo_s("\"")).ptr);
            call_and_check(&w, place, spliced(&n, text, i, i, azo_s("}")).ptr);
            call_and_check(&w, place, spliced(&n, text, i, i, azo_s("\r\n")).ptr);
            call_and_check(&w, place, spliced(&n, text, i, i < strlen(text) ? i + 1 : i, azo_s("\xff")).ptr);
        }
        caller_close(&w);
    }
    test_notes_free(&n);
    report("JSON of the caller", before);
}

/* ---- the view: azo_json_get and its like on anything, up to an unreadable page ---- */

static void view_one(test_guard *g, azo_str document) {
    static const char *const paths[] = {"choices[0].message.content",
                                        "error.innererror.code",
                                        "data[0].embedding[1]",
                                        "access_token",
                                        "choices",
                                        "usage.prompt_tokens_details.cached_tokens",
                                        "choices[18446744073709551615]"};
    bool well_formed = is_json(document);
    azo_str in = test_guard_put(g, document);
    runs++;
    for (size_t i = 0; i < COUNT(paths); i++) {
        azo_str value = azo_s(NULL);
        char text[32];
        size_t len = 0;
        double number;
        azo_result r = azo_json_get(in, paths[i], &value);
        if (r != AZO_OK) {
            assert_int_equal(r, AZO_ERR_JSON);
            continue;
        }
        if (!well_formed || !is_json(value)) {
            fail_msg("%s was found in: %.*s", paths[i], (int)document.len, document.ptr);
        }
        assert_true(value.ptr >= in.ptr && value.ptr + value.len <= in.ptr + in.len);
        memset(text, '#', sizeof text);
        r = azo_json_text(value, text, sizeof text - 1, &len);
        assert_int_equal(text[sizeof text - 1], '#');
        assert_int_equal(r, value.ptr[0] != '"' ? AZO_ERR_JSON : len < sizeof text - 1 ? AZO_OK : AZO_ERR_LIMIT);
        assert_true(r != AZO_OK || text[len] == '\0');
        bool is_number = value.ptr[0] == '-' || (value.ptr[0] >= '0' && value.ptr[0] <= '9');
        r = azo_json_number(value, &number);
        assert_true(r == AZO_OK ? is_number : r == AZO_ERR_JSON);
    }
}

static void views(void **state) {
    size_t before = runs;
    test_guard g;
    test_notes n;
    (void)state;
    memset(&n, 0, sizeof n);
    test_guard_open(&g, 4096);
    for (size_t t = 0; t < COUNT(targets); t++) {
        spans s;
        const char *text = targets[t].document;
        spans_of(&s, text);
        for (size_t i = 0; i < s.count; i++) {
            for (size_t v = 0; v < COUNT(good_values) + COUNT(bad_values); v++) {
                const char *by = v < COUNT(good_values) ? good_values[v] : bad_values[v - COUNT(good_values)];
                if (!is_thinned_out()) {
                    view_one(&g, spliced(&n, text, s.all[i].start, s.all[i].end, azo_s(by)));
                }
            }
        }
        for (size_t i = 0; i <= strlen(text); i++) {
            view_one(&g, azoi_view(text, i));
            view_one(&g, spliced(&n, text, i, i, azoi_view("\0", 1)));
        }
    }
    test_guard_close(&g);
    test_notes_free(&n);
    report("views", before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_replaced),
        cmocka_unit_test(every_key_hidden_and_doubled),
        cmocka_unit_test(every_byte_replaced),
        cmocka_unit_test(every_byte_cut_or_added),
        cmocka_unit_test(documents_in_bad_company),
        cmocka_unit_test(nesting),
        cmocka_unit_test(many_values),
        cmocka_unit_test(many_filters),
        cmocka_unit_test(large_strings),
        cmocka_unit_test(odd_indices),
        cmocka_unit_test(long_first_row),
        cmocka_unit_test(callers_json),
        cmocka_unit_test(views),
    };
    int failed = cmocka_run_group_tests_name("torture_json", tests, settle_environment, NULL);
    print_message("# %lu runs\n", (unsigned long)runs);
    return failed;
}
