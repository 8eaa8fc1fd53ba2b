/* torture_http.c - servers that lie in HTTP, heard through the public API in a scripted world. Each row of a table is
 * what a peer says; it is said by each peer that a client has (the service to a chat, a stream, embeddings and a raw
 * call; Entra ID; the metadata service, pinned and in a chain; a proxy) and delivered whole, byte by byte and cut in
 * two. Whatever it says: the right error in two sentences, in bounded time and memory, without a secret or a control
 * character in it or in the log, nothing sent to anybody else, and a client that works afterwards. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#include "script.h"

#include "hostile.h"

/* ---- one run ---- */

/* What comes of an answer, for all roles at once. */
typedef enum want {
    FINE,     /* the body is taken */
    BROKEN,   /* this is no HTTP/1.1, or could be understood in two ways */
    CUT,      /* the connection ended inside it */
    SLOW,     /* what is missing never came */
    HUGE,     /* a cap of the desc was hit */
    SENT_ON,  /* a redirect */
    NO_SENSE, /* HTTP, but no answer to what was asked, or a status that nobody sends */
    NOTHING,  /* an empty body where one belongs */
    FAILS,    /* somehow */
    ANYTHING, /* only the invariants count */
    WANT_MASK = 15,
    LATE = 16 /* behind the body, where a stream has ended with its [DONE] */
} want;

typedef enum proxy_want {
    AS_OTHERS, /* FINE means that the tunnel stands */
    TUNNEL,    /* it stands all the same: a CONNECT's answer has no body (RFC 9110 9.3.6) */
    NO_TUNNEL,
    NOT_TLS, /* bytes behind the head: refused at once, or by TLS where they come later */
    NOT_ASKED
} proxy_want;

typedef struct row {
    const char *text; /* see expand() */
    int want;         /* a want, with or without LATE */
    proxy_want proxy;
} row;

static want wanted(const world *w, const row *r) {
    bool over = w->role == ROLE_STREAM && (r->want & LATE) != 0;
    return over ? FINE : (want)(r->want & WANT_MASK);
}

static azo_result expected_code(const world *w, want what, const outcome *o) {
    static const azo_result service_codes[] = {AZO_OK,        AZO_ERR_HTTP,     AZO_ERR_CLOSED, AZO_ERR_TIMEOUT,
                                               AZO_ERR_LIMIT, AZO_ERR_REDIRECT, AZO_ERR_HTTP,   AZO_ERR_HTTP};
    if (is_service(w->role)) {
        return w->role == ROLE_STREAM && (what == NOTHING || (what == CUT && o->events > 0)) ? AZO_ERR_STREAM
               : w->role == ROLE_RAW && (what == NOTHING || (what == NO_SENSE && o->status == 200))
                   ? AZO_OK /* takes any body */
                   : service_codes[what];
    }
    /* max_header_bytes is a setting, so the code that names it stays. */
    return what == FINE            ? AZO_OK
           : what == HUGE          ? AZO_ERR_LIMIT
           : w->role == ROLE_ENTRA ? AZO_ERR_TOKEN
           : w->role == ROLE_IMDS  ? AZO_ERR_IMDS
                                   : AZO_ERR_NO_CREDENTIAL;
}

/* In the proxy's role: AZO_ERR_PROXY, or whatever TLS says of a tunnel with nobody behind it. */
static bool is_proxy_outcome(const world *w, const row *r, const outcome *o) {
    want what = (want)(r->want & WANT_MASK);
    bool stands = r->proxy == TUNNEL || (r->proxy == AS_OTHERS && what == FINE);
    bool slow = r->proxy == AS_OTHERS && what == SLOW;
    bool in_pieces = w->how.cut != 0 || w->how.bytes != 0;
    bool by_proxy = o->result == AZO_ERR_PROXY || (slow && o->result == AZO_ERR_TIMEOUT);
    bool by_tls = o->result == AZO_ERR_TLS || o->result == AZO_ERR_CLOSED;
    return (!stands && by_proxy) || ((stands || (r->proxy == NOT_TLS && in_pieces)) && by_tls);
}

static bool is_right(const world *w, const row *r, const outcome *o) {
    want what = wanted(w, r);
    if (w->role == ROLE_PROXY && (r->proxy != AS_OTHERS || what < FAILS)) {
        return is_proxy_outcome(w, r, o);
    }
    if (what >= FAILS) {
        return what == ANYTHING || o->result != AZO_OK || w->role == ROLE_RAW;
    }
    return o->result == expected_code(w, what, o) && (what != FINE || o->is_right);
}

static void check_outcome(const world *w, const row *r, const outcome *o) {
    want what = wanted(w, r);
    if (!is_right(w, r, o)) {
        fail_msg("%s, cut at %lu, %lu bytes a read: %s (\"%s\") instead of %s: %s (%s)\n%.300s", role_names[w->role],
                 (unsigned long)w->how.cut, (unsigned long)w->how.bytes, azo_result_name(o->result), o->text.text,
                 what >= FAILS || w->role == ROLE_PROXY ? "what it deserves"
                                                        : azo_result_name(expected_code(w, what, o)),
                 o->error.message, o->error.detail, r->text);
    }
    if (what == BROKEN && w->role != ROLE_PROXY) {
        assert_int_equal(w->hostile_requests, 1); /* who breaks HTTP will do it again */
    }
}

static void run(role who, const row *r, const answer *says, delivery how) {
    static world w; /* large */
    outcome o;
    if (is_thinned_out()) {
        return;
    }
    runs++;
    world_open(&w, who);
    w.says = says;
    w.how = how;
    w.net.recv_limit = how.bytes;
    world_start(&w);
    call(&w, &o);
    check_outcome(&w, r, &o);
    check_memory(&w);
    outcome_free(&o);
    check_still_works(&w);
    world_close(&w);
}

/* ---- rows ---- */

static void note_chunk(test_notes *n, const char *body) {
    test_note(n, "%lx\r\n", (unsigned long)strlen(body));
    test_note_bytes(n, body, strlen(body));
    test_note_bytes(n, "\r\n", 2);
}

/* Writes one @ code: B the body of the role, L its length (M one more, K one less, S in hexadecimal), C the body in
 * one chunk, F a whole answer that nobody asked for, X the secret that the peer was sent, 0 a NUL, @ an @, P: what
 * follows comes later, E the orderly end of the connection, R its reset. */
static void expand_code(char code, role who, test_notes *n, answer *out) {
    const char *body = role_bodies[who];
    unsigned long len = (unsigned long)strlen(body);
    switch (code) {
    case 'B':
        test_note_bytes(n, body, len);
        break;
    case 'L':
        test_note(n, "%lu", len);
        break;
    case 'M':
        test_note(n, "%lu", len + 1);
        break;
    case 'K':
        test_note(n, "%lu", len > 0 ? len - 1 : 0);
        break;
    case 'S':
        test_note(n, "%lx", len);
        break;
    case 'C':
        note_chunk(n, body);
        break;
    case 'F':
        test_note(n, "HTTP/1.1 200 OK\r\nContent-Length: %lu\r\n\r\n" FORGED_BODY,
                  (unsigned long)sizeof FORGED_BODY - 1);
        break;
    case 'P':
        out->pause = n->len;
        break;
    case '0':
        test_note_bytes(n, "", 1);
        break;
    case 'X':
        test_note(n, "%s", role_secrets[who]);
        break;
    case '@':
        test_note_bytes(n, "@", 1);
        break;
    case 'E':
    case 'R':
        out->ends = true;
        out->how = code == 'E' ? AZO_OK : AZO_ERR_CLOSED;
        break;
    default:
        fail_msg("no such code: @%c", code);
    }
}

static void expand(const char *text, role who, answer *out) {
    test_notes n;
    memset(&n, 0, sizeof n);
    memset(out, 0, sizeof *out);
    for (; *text != '\0'; text++) {
        if (*text == '@') {
            expand_code(*++text, who, &n, out);
        } else {
            test_note_bytes(&n, text, 1);
        }
    }
    out->bytes = n.text;
    out->len = n.len;
}

static void run_deliveries(role who, const row *r, const answer *says) {
    delivery how = {0, 0};
    run(who, r, says, how);
    how.bytes = 1;
    if (says->len < 4096) {
        run(who, r, says, how);
    }
    how.bytes = 0;
    for (int i = 0; i < 3 && says->len > 1; i++) {
        how.cut = 1 + random_below(says->len - 1);
        run(who, r, says, how);
    }
}

static void run_rows(const row *rows, size_t count) {
    size_t before = runs;
    for (size_t i = 0; i < count; i++) {
        for (int who = 0; who < ROLE_COUNT; who++) {
            answer says;
            if (who == ROLE_PROXY && rows[i].proxy == NOT_ASKED) {
                continue;
            }
            expand(rows[i].text, (role)who, &says);
            run_deliveries((role)who, &rows[i], &says);
            free(says.bytes);
        }
    }
    print_message("# %lu answers, %lu runs\n", (unsigned long)count, (unsigned long)(runs - before));
}

#define OK_LINE "HTTP/1.1 200 OK\r\n"
#define LENGTH "Content-Length: @L\r\n"
#define CHUNKED "Transfer-Encoding: chunked\r\n"

/* ---- two readers must not disagree on where an answer ends ---- */

static void lengths(void **state) {
    static const row rows[] = {
        {OK_LINE LENGTH "\r\n@B", FINE, AS_OTHERS},
        {OK_LINE LENGTH CHUNKED "\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED LENGTH "\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED LENGTH "\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "Content-Length: 0\r\n\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE LENGTH LENGTH "\r\n@B", FINE, AS_OTHERS}, /* RFC 9110 8.6: may be taken as one */
        {OK_LINE LENGTH "content-length: @L\r\n\r\n@B", FINE, AS_OTHERS},
        {OK_LINE "Content-Length: 000@L\r\n\r\n@B", FINE, AS_OTHERS},
        {OK_LINE "Content-Length: \t @L \t\r\n\r\n@B", FINE, AS_OTHERS},
        {OK_LINE LENGTH "Content-Length: @M\r\n\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: @M\r\n" LENGTH "\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE LENGTH "Content-Length: 0\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: 0\r\n"
                 "Content-Length: 7@L\r\n\r\n@B",
         BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: @L, @M\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: @L, @L\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: @L,\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: -@L\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: -1\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: +@L\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: 0x@S\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: @L.0\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: 1e2\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: \r\n\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length:\r\n\r\n@E", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: @L @L\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: 1 0\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: \"@L\"\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: @L;x\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: \xc2\xb2\r\n\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: 9223372036854775808\r\n\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: 18446744073709551616\r\n\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: 18446744073709551617\r\n\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: 123456789012345678901234567890\r\n\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE "Content-Length: 9223372036854775807\r\n\r\n@B@R", CUT | LATE, NOT_ASKED},
        {OK_LINE "Content-Length: 1000000000000\r\n\r\n@B@E", CUT | LATE, NOT_ASKED},
        {OK_LINE "Content-Length: 4294967296\r\n\r\n@B", SLOW | LATE, NOT_ASKED},
        {OK_LINE "Content-Length: @M\r\n\r\n@B@E", CUT | LATE, NOT_ASKED},
        {OK_LINE "Content-Length: @M\r\n\r\n@B", SLOW | LATE, NOT_ASKED},
        {OK_LINE "Content_Length: 1\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS}, /* another name */
        {OK_LINE "Content-Length@0: 1\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "Content-Length : @L\r\n\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "Content-Length\t: @L\r\n\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE " Content-Length: @L\r\n\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X: y\r\n Content-Length: @L\r\n\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "Content-Length: @L\rX: y\r\n\r\n@B", BROKEN, AS_OTHERS},
    };
    (void)state;
    run_rows(rows, COUNT(rows));
}

static void transfer_codings(void **state) {
    static const row rows[] = {
        {OK_LINE CHUNKED "\r\n@C0\r\n\r\n", FINE, NOT_TLS}, /* in a tunnel those are somebody else's bytes */
        {OK_LINE CHUNKED "\r\n", ANYTHING, TUNNEL},
        {OK_LINE "transfer-encoding:\tChunkeD\t\r\n\r\n@C0\r\n\r\n", FINE, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: gzip\r\n\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: deflate\r\n" LENGTH "\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: chunked, gzip\r\n\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: gzip, chunked\r\n\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: identity\r\n\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: identity\r\n" LENGTH "\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: chunked, identity\r\n\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: chunked, chunked\r\n\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED CHUNKED "\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "Transfer-Encoding: identity\r\n\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: x\r\n" CHUNKED "\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding:\r\n\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: \x0b"
                 "chunked\r\n\r\n@C0\r\n\r\n",
         BROKEN, AS_OTHERS},
        {OK_LINE "Transfer-Encoding: chunked\x0b\r\n\r\n@C0\r\n\r\n", BROKEN, AS_OTHERS},
        {OK_LINE "Transfer-Encoding: chunked@0\r\n\r\n@C0\r\n\r\n", BROKEN, AS_OTHERS},
        {OK_LINE "Transfer-Encoding : chunked\r\n\r\n@C0\r\n\r\n", BROKEN, AS_OTHERS},
        {OK_LINE "Transfer-Encoding\t: chunked\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "Transfer-Encoding:\r\n chunked\r\n\r\n@C0\r\n\r\n", BROKEN, AS_OTHERS},
        {OK_LINE "X: y\r\n\tTransfer-Encoding: chunked\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X: y\nTransfer-Encoding: chunked\n" LENGTH "\r\n@B", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: chunked;q=1\r\n\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: \"chunked\"\r\n\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: chunke\xc5\xbf\r\n\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer-Encoding: x chunked\r\n\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE "Transfer Encoding: chunked\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "Transfer_Encoding: chunked\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS}, /* another name */
        {"HTTP/1.0 200 OK\r\n" CHUNKED "\r\n@C0\r\n\r\n", BROKEN, NOT_ASKED},
    };
    (void)state;
    run_rows(rows, COUNT(rows));
}

static void chunks(void **state) {
    static const row rows[] = {
        {OK_LINE CHUNKED "\r\n@S;x=y\r\n@B\r\n0;last\r\nX: y\r\n\r\n", FINE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n0000000000000000000000@S \t\r\n@B\r\n000\r\n\r\n", FINE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n0x@S\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n-@S\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n+@S\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n @S\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@S 1\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@Sh\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n;x=y\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n10000000000000000\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n100000000000000@S\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\nffffffffffffffff\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n8000000000000000\r\n@B@E", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n7fffffffffffffff\r\n@B@E", CUT | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@S\n@B\n0\n\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@S\r@B\r0\r\r", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@S\r\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@S@0\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@S;a@0b\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@S;a\nb\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@S\r\n@BX\r\n0\r\n\r\n", BROKEN | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@S\r\n@B0\r\n\r\n", BROKEN | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@S\r\n@B\n0\r\n\r\n", BROKEN | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@S\r\n@B\r\n\r\n0\r\n\r\n", BROKEN | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@C@E", CUT | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@C0\r\n@E", CUT | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@C0\r\n\r@R", CUT | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@C0\r\nX: y\r\n@E", CUT | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@C0\r\nX: y\n\r\n", BROKEN | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@C0\r\nX: @0\r\n\r\n", BROKEN | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@C0\r\n\n", BROKEN | LATE, NOT_ASKED},
        /* trailers are dropped, whatever they claim (RFC 9110 6.5.1) */
        {OK_LINE CHUNKED "\r\n@C0\r\nContent-Length: 3\r\nTransfer-Encoding: gzip\r\nHost: x\r\n\r\n", FINE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@C0\r\nRetry-After: 5\r\nLocation: http://x/\r\nStatus: 500\r\n\r\n", FINE, NOT_ASKED},
    };
    (void)state;
    run_rows(rows, COUNT(rows));
}

/* One answer, given for ever, and the error that comes of it after at most so many requests. */
static void expect_code(const char *text, role who, azo_result code, size_t most) {
    static world w;
    outcome o;
    answer says;
    if (is_thinned_out()) {
        return;
    }
    runs++;
    expand(text, who, &says);
    world_open(&w, who);
    w.says = &says;
    memset(&w.how, 0, sizeof w.how);
    world_start(&w);
    call(&w, &o);
    if (o.result != code || w.hostile_requests > most) {
        fail_msg("%s: %s after %lu requests: %s\n%s", role_names[who], azo_result_name(o.result),
                 (unsigned long)w.hostile_requests, o.error.message, text);
    }
    outcome_free(&o);
    check_still_works(&w);
    world_close(&w);
    free(says.bytes);
}

/* ---- heads ---- */

static void header_lines(void **state) {
    static const row rows[] = {
        {"HTTP/1.1 200 OK\n"
         "Content-Length: @L\n\n@B",
         FINE, AS_OTHERS}, /* RFC 9112 2.2: a bare LF ends a line */
        {"HTTP/1.1 200 OK\n" LENGTH "\n@B", FINE, AS_OTHERS},
        {OK_LINE "X: a\tb\r\nY:\r\nZ:  \t\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {OK_LINE "X: \xff\xfe \xc2\x9b"
                 "31m \xe2\x80\xae\r\n" LENGTH "\r\n@B",
         FINE, AS_OTHERS},
        {OK_LINE "!#$%&'*+-.^_`|~09: x\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {OK_LINE "X\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "no colon here\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE ": no name\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE ":\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X : y\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X Y: z\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X(Y): z\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "\"X\": z\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X\xc3\xa4: y\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X@0: y\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "@0: y\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X: a@0b\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X: a\x01\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X: \x1b[2J\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X: \x7f\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X: a\rb\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X: a\r\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1 200 OK\rX: a\r" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X: a\r\n b\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "X: a\r\n\tb\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE " X: a\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE " \r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE LENGTH " \r\n\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE LENGTH "@E", CUT, AS_OTHERS},
        {OK_LINE LENGTH "\r@R", CUT, AS_OTHERS},
        {OK_LINE LENGTH "\r", SLOW, AS_OTHERS},
        {"@E", CUT, AS_OTHERS},
        {"@R", CUT, AS_OTHERS},
        {"", SLOW, AS_OTHERS},
    };
    (void)state;
    run_rows(rows, COUNT(rows));
}

static void status_lines(void **state) {
    static const row rows[] = {
        {"HTTP/1.1 200\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {"HTTP/1.1 200 \r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {"HTTP/1.1 200 \xff\xc2\x9b"
         "0m\r\n" LENGTH "\r\n@B",
         FINE, AS_OTHERS},
        {"HTTP/1.2 200 OK\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS}, /* RFC 9110 2.5: as 1.1 */
        {"HTTP/1.0 200 OK\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {"HTTP/1.0 200 OK\r\n\r\n@B@E", FINE, NOT_ASKED},
        {OK_LINE "\r\n@B@E", FINE, NOT_ASKED},
        {OK_LINE "\r\n@B@R", CUT | LATE, NOT_ASKED}, /* without a length the end must be orderly */
        {"HTTP/1.1 099 x\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1 000 x\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1 20 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1 2000 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1 200OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1 -20 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1 2x0 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1  200 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1\t200 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1 200 \x1b]0;x\x07\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1 200 a@0b\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/0.9 200 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/2.0 200 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/2 200 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/3.0 200 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/11.1 200 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTTP/1.10 200 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"http/1.1 200 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"HTCPCP/1.0 418 teapot\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"ICY 200 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {" HTTP/1.1 200 OK\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"\r\n" OK_LINE LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"\r\n\r\n" OK_LINE LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"@0" OK_LINE LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"\xef\xbb\xbf" OK_LINE LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BROKEN, AS_OTHERS},
        {"SSH-2.0-OpenSSH_9.2\r\n\r\n", BROKEN, AS_OTHERS},
        {"<!DOCTYPE html>\n\n<p>@B@E", BROKEN, AS_OTHERS},
        {"@B@E", FAILS, AS_OTHERS}, /* HTTP/0.9 */
        {"\x16\x03\x01@0\x05hello@E", FAILS, AS_OTHERS},
        {"@0@0\x12\x04@0@0@0@0@0@0\x03@0@0@0\x64@E", FAILS, AS_OTHERS}, /* HTTP/2 */
    };
    (void)state;
    run_rows(rows, COUNT(rows));
}

#define INTERIM "HTTP/1.1 102 Processing\r\n\r\n"
#define INTERIM_8 INTERIM INTERIM INTERIM INTERIM INTERIM INTERIM INTERIM INTERIM
#define INTERIM_64 INTERIM_8 INTERIM_8 INTERIM_8 INTERIM_8 INTERIM_8 INTERIM_8 INTERIM_8 INTERIM_8

static void interim_answers(void **state) {
    static const row rows[] = {
        {"HTTP/1.1 100 Continue\r\n\r\n" OK_LINE LENGTH "\r\n@B", FINE, NO_TUNNEL},
        {"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" OK_LINE CHUNKED "\r\n@C0\r\n\r\n", FINE, NO_TUNNEL},
        {INTERIM_8 OK_LINE LENGTH "\r\n@B", FINE, NO_TUNNEL},
        {"HTTP/1.1 199 x\r\nContent-Length: 5\r\n\r\n" OK_LINE LENGTH "\r\n@B", FINE, NO_TUNNEL}, /* has no body */
        {"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello" OK_LINE LENGTH "\r\n@B", BROKEN, NO_TUNNEL},
        {"HTTP/1.1 100 x\r\n" CHUNKED "\r\n0\r\n\r\n" OK_LINE LENGTH "\r\n@B", BROKEN, NO_TUNNEL},
        {"HTTP/1.1 100 x\r\n" CHUNKED LENGTH "\r\n" OK_LINE LENGTH "\r\n@B", BROKEN, NO_TUNNEL},
        {"HTTP/1.1 100 x\r\nConnection: close\r\n\r\n" OK_LINE LENGTH "\r\n@B", FINE, NO_TUNNEL},
        {INTERIM_64 OK_LINE LENGTH "\r\n@B", BROKEN, NO_TUNNEL},
        {INTERIM "HTTP/1.1 101 x\r\n\r\n", BROKEN, NO_TUNNEL},
        {INTERIM "@E", CUT, NO_TUNNEL},
        {INTERIM, SLOW, NO_TUNNEL},
        {INTERIM "HTTP/1.1 20", SLOW, NO_TUNNEL},
    };
    (void)state;
    run_rows(rows, COUNT(rows));
}

/* ---- bodies that are none, or not what was asked for ---- */

#define PAGE "<!DOCTYPE html><html><head><title>Sign in</title></head><body>canteen wifi</body></html>"
#define SOMETHING "Content-Length: 88\r\n\r\n" PAGE

static void bodies(void **state) {
    static const row rows[] = {
        {OK_LINE "Content-Length: 0\r\n\r\n", NOTHING, TUNNEL},
        {OK_LINE CHUNKED "\r\n0\r\n\r\n", NOTHING, NOT_TLS},
        {OK_LINE "\r\n@E", NOTHING, TUNNEL},
        {"HTTP/1.1 204 No Content\r\n\r\n", NOTHING, TUNNEL},
        {"HTTP/1.1 204 No Content\r\n" LENGTH "\r\n@B", NOTHING, NOT_ASKED},
        {"HTTP/1.1 204 No Content\r\n" CHUNKED "\r\n@C0\r\n\r\n", NOTHING, NOT_ASKED},
        {"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", NOTHING, TUNNEL},
        {"HTTP/1.1 304 Not Modified\r\n" LENGTH "\r\n@B", FAILS, NO_TUNNEL},
        {OK_LINE "Content-Type: text/html\r\n" SOMETHING, NO_SENSE, NOT_TLS},
        {OK_LINE "Content-Type: application/json\r\n" SOMETHING, NO_SENSE, NOT_TLS},
        {OK_LINE "Content-Type: text/event-stream\r\n" SOMETHING, NO_SENSE, NOT_TLS},
        {OK_LINE "\r\n\r\n " PAGE "@E", NO_SENSE, NOT_TLS},
        {OK_LINE "Content-Type: text/plain\r\nContent-Length: 3\r\n\r\nyes", NO_SENSE, NOT_TLS},
        {OK_LINE "Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\n\x1f\x8b\x08@0@0", FAILS, NOT_TLS},
        {OK_LINE "Content-Encoding: deflate\r\nContent-Length: 4\r\n\r\n\x78\x9c\x01@0", FAILS, NOT_TLS},
        {OK_LINE "Content-Encoding: br\r\nContent-Length: 3\r\n\r\n\x8b\x02\x80", FAILS, NOT_TLS},
        {OK_LINE "Content-Type: text/html\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS}, /* what it is, not what it says */
        {OK_LINE "Content-Type: \r\nContent-Type: x/y\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {"HTTP/1.1 600 x\r\n" LENGTH "\r\n@B", NO_SENSE, NO_TUNNEL},
        {"HTTP/1.1 999 x\r\n" SOMETHING, NO_SENSE, NO_TUNNEL},
        {"HTTP/1.1 700 x\r\nContent-Length: 0\r\n\r\n", NO_SENSE, NO_TUNNEL},
    };
    (void)state;
    assert_int_equal(strlen(PAGE), 88);
    run_rows(rows, COUNT(rows));
}

/* ---- floods: more than anybody needs, with an end and without ---- */

typedef struct flood {
    const char *before;
    const char *unit;
    size_t count;
    const char *after;
    int want;
    proxy_want proxy;
} flood;

static char *flood_text(const flood *f) {
    test_notes n;
    memset(&n, 0, sizeof n);
    test_note_bytes(&n, f->before, strlen(f->before));
    for (size_t i = 0; i < f->count; i++) {
        test_note_bytes(&n, f->unit, strlen(f->unit));
    }
    test_note_bytes(&n, f->after, strlen(f->after));
    return n.text;
}

static void floods(void **state) {
    static const flood all[] = {
        {OK_LINE, "X: y\r\n", 2000, LENGTH "\r\n@B", FINE, AS_OTHERS}, /* below the cap: odd, no crime */
        {OK_LINE, "X: y\r\n", 200000, LENGTH "\r\n@B", HUGE, AS_OTHERS},
        {OK_LINE "X: ", "y", 1000000, "", HUGE, AS_OTHERS},
        {OK_LINE "", "y", 1000000, "", HUGE, AS_OTHERS},
        {"HTTP/1.1 200 ", "y", 10000, "\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {"HTTP/1.1 200 ", "y", 1000000, "", HUGE, AS_OTHERS},
        {"", "y", 1000000, "", HUGE, AS_OTHERS},
        {"", "\r", 1000000, "", HUGE, AS_OTHERS},
        {"", "\r\n", 1000000, "", BROKEN, AS_OTHERS},
        {"", "\n", 1000000, "", BROKEN, AS_OTHERS},
        {"HTTP/1.1 200", " ", 1000000, "", HUGE, AS_OTHERS},
        {"", "HTTP/1.1 100 Continue\r\n\r\n", 50000, "", BROKEN, NO_TUNNEL},
        {OK_LINE, "Content-Length: @L\r\n", 500, "\r\n@B", FINE, AS_OTHERS},
        {OK_LINE "Content-Length: ", "0", 10000, "@L\r\n\r\n@B", FINE, AS_OTHERS},
        {OK_LINE CHUNKED "\r\n@S;", "x", 1000000, "\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n", "0", 1000000, "@S\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@S", " ", 1000000, "\r\n@B\r\n0\r\n\r\n", BROKEN, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@C0\r\n", "X: y\r\n", 200000, "\r\n", BROKEN | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@C0\r\nX: ", "y", 1000000, "\r\n\r\n", BROKEN | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n@C0;", "y", 1000000, "\r\n\r\n", BROKEN | LATE, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n", "1\r\n \r\n", 20000, "@C0\r\n\r\n", ANYTHING, NOT_ASKED},
        {OK_LINE CHUNKED "\r\n", "1;12345678901234567890\r\n \r\n", 20000, "@C0\r\n\r\n", BROKEN, NOT_ASKED},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(all); i++) {
        char *text = flood_text(&all[i]);
        row one = {text, all[i].want, all[i].proxy};
        run_rows(&one, 1);
        free(text);
    }
}

/* Bodies beyond every cap. Those of a token request are the library's own, so no setting can be to blame. */
static void large_bodies(void **state) {
    static const struct {
        flood body;
        int tokens;  /* what it is in the place of a token, whose limits are no setting */
        int refusal; /* and what as an answer of the service, if not HUGE */
    } all[] = {
        {{OK_LINE "Content-Length: 2000000\r\n\r\n", "<p> ", 500000, "", HUGE, NOT_ASKED}, NO_SENSE, 0},
        {{OK_LINE CHUNKED "\r\n", "a\r\n<p>0123456\r\n", 40000, "0\r\n\r\n", HUGE, NOT_ASKED}, NO_SENSE, 0},
        {{OK_LINE "\r\n{\"a\":\"", "0123456789", 200000, "\"}@E", HUGE, NOT_ASKED}, NO_SENSE, 0},
        {{OK_LINE "\r\n", "yes ", 300000, "@B@E", HUGE, NOT_ASKED}, NO_SENSE, 0},
        {{"HTTP/1.1 400 no\r\n\r\n", "{\"error\":", 200000, "@E", FAILS, NOT_ASKED}, NO_SENSE, AZO_ERR_BAD_REQUEST},
        {{"HTTP/1.1 503 no\r\n\r\n", "<p>busy", 200000, "@E", FAILS, NOT_ASKED}, FAILS, AZO_ERR_SERVICE},
        {{"HTTP/1.1 302 no\r\nLocation: /x\r\n\r\n", "<p>", 200000, "@E", SENT_ON, NOT_ASKED}, SENT_ON, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(all); i++) {
        char *text = flood_text(&all[i].body);
        for (int who = 0; who < ROLE_PROXY; who++) {
            bool tokens = !is_service((role)who);
            int what = tokens                                           ? all[i].tokens
                       : who == ROLE_STREAM && all[i].body.want == HUGE ? FAILS
                                                                        : all[i].body.want;
            row one = {text, what, NOT_ASKED};
            answer says;
            expand(text, (role)who, &says);
            run_deliveries((role)who, &one, &says);
            free(says.bytes);
            if (!tokens && all[i].refusal != 0) {
                expect_code(text, (role)who, (azo_result)all[i].refusal, 1);
            }
        }
        free(text);
    }
}

/* ---- redirects: never followed; the error names the host they point to ---- */

typedef struct redirect {
    const char *location; /* header lines */
    const char *named;    /* in the message; "": any words; NULL: a malformed head, so that nothing of it is believed */
} redirect;

static const redirect redirects[] = {
    {"Location: https://elsewhere.example/x\r\n", "elsewhere.example"},
    {"location: HTTPS://elsewhere.example:8443/x?y=z\r\n", "elsewhere.example"},
    {"Location: http://elsewhere.example\r\n", "elsewhere.example"},
    {"Location: https://elsewhere.example/x#part\r\n", "elsewhere.example"}, /* RFC 9110 10.2.2: may have one */
    {"Location: https://elsewhere.example#part\r\n", "elsewhere.example"},
    {"Location: https://user:pass@@elsewhere.example/x\r\n", "elsewhere.example"},
    {"Location: https://elsewhere.example/\xc3\xbc\r\n", "elsewhere.example"},
    {"Location: https://elsewhere.example/a b\r\n", "elsewhere.example"},
    {"Location: //elsewhere.example/x\r\n", "elsewhere.example"}, /* a reference without its scheme */
    {"Location: https://[2001:db8::1]:8443/x\r\n", "2001:db8::1"},
    {"Location: http://192.0.2.1/metadata\r\n", "192.0.2.1"},
    {"Location: /x\r\n", "the same host"},
    {"Location: x/y?z\r\n", "the same host"},
    {"Location: ?y\r\n", "the same host"},
    {"Location: /redirect?to=https://elsewhere.example/\r\n", "the same host"},
    {"Location: \r\n", ""},
    {"", ""},
    {"Location: https://elsewhere.example/\xff\r\n", ""},
    {"Location: \xc2\x9b"
     "31m\r\n",
     ""},
    {"Location: https://\xc2\x9b"
     "31m.example/\r\n",
     ""},
    {"Location: javascript:alert(1)\r\n", ""},
    {"Location: https:///x\r\n", ""},
    {"Location: https://elsewhere.example:99999/\r\n", ""},
    {"Location: https://elsewhere.example/x\r\nLocation: https://third.example/\r\n", "elsewhere.example"},
    {"Location: https://a\rb/\r\n", NULL},
    {"Location: https://elsewhere.example/\r\n X-Forged: 1\r\n", NULL},
    {"Location: https://elsewhere.example/@0\r\n", NULL},
    {"Location: \x1b]0;owned\x07\r\n", NULL},
};

static void run_redirect(const redirect *r, role who, int status) {
    static world w;
    char text[256];
    outcome o;
    answer says;
    static const row sent_on = {"a redirect", SENT_ON, NO_TUNNEL};
    static const row broken = {"a broken redirect", BROKEN, NO_TUNNEL};
    (void)snprintf(text, sizeof text, "HTTP/1.1 %d Moved\r\n%s" LENGTH "\r\n@B", status, r->location);
    expand(text, who, &says);
    runs++;
    world_open(&w, who);
    w.says = &says;
    memset(&w.how, 0, sizeof w.how);
    world_start(&w);
    call(&w, &o);
    check_outcome(&w, r->named == NULL ? &broken : &sent_on, &o);
    /* a chain's message is about all its members; a proxy that redirects has refused */
    if (r->named != NULL && strstr(o.error.message, r->named) == NULL && who != ROLE_CHAIN && who != ROLE_PROXY) {
        fail_msg("%s, %s: \"%s\" is not in: %s", role_names[who], r->location, r->named, o.error.message);
    }
    assert_int_equal(w.hostile_requests, 1);
    outcome_free(&o);
    check_still_works(&w);
    world_close(&w);
    free(says.bytes);
}

static void test_redirects(void **state) {
    static const int statuses[] = {301, 302, 303, 307, 308, 300, 305};
    size_t before = runs;
    (void)state;
    for (size_t i = 0; i < COUNT(redirects); i++) {
        for (int who = 0; who < ROLE_COUNT; who++) {
            for (size_t k = 0; k < COUNT(statuses); k++) {
                if (!is_thinned_out()) {
                    run_redirect(&redirects[i], (role)who, statuses[k]);
                }
            }
        }
    }
    print_message("# %lu locations, %lu runs\n", (unsigned long)COUNT(redirects), (unsigned long)(runs - before));
}

/* ---- headers that say nonsense ---- */

static void expect_wait(const char *headers, int32_t wait_ms, int attempts) {
    static world w;
    char text[300];
    outcome o;
    answer says;
    (void)snprintf(text, sizeof text, "HTTP/1.1 429 Slow\r\n%sContent-Length: 2\r\n\r\n{}", headers);
    runs++;
    expand(text, ROLE_CHAT, &says);
    world_open(&w, ROLE_CHAT);
    w.desc.max_retries = 2;
    w.says = &says;
    memset(&w.how, 0, sizeof w.how);
    world_start(&w);
    call(&w, &o);
    if (o.error.retry_after_ms != wait_ms || o.error.attempts != attempts || o.result != AZO_ERR_RATE_LIMIT) {
        fail_msg("%s, %d attempts, wait %ld: %s", azo_result_name(o.result), o.error.attempts,
                 (long)o.error.retry_after_ms, headers);
    }
    assert_true(w.net.now - w.call_began < 20 * 1000);
    outcome_free(&o);
    check_still_works(&w);
    world_close(&w);
    free(says.bytes);
}

static void odd_headers(void **state) {
    static const row rows[] = {
        {OK_LINE "x-request-id: \xc2\x9b"
                 "31mred\xc2\x85\r\napim-request-id: \xff\xfe\r\n" LENGTH "\r\n@B",
         FINE, AS_OTHERS},
        {OK_LINE "apim-request-id: a\x1b[31m\r\n" LENGTH "\r\n@B", BROKEN, AS_OTHERS},
        {OK_LINE "x-ms-region: \xe2\x80\xae\xff\r\nx-ratelimit-remaining-tokens: -99999999999999999999\r\n"
                 "x-ratelimit-limit-requests: 1e999\r\nx-ratelimit-reset-tokens: -1\r\n" LENGTH "\r\n@B",
         FINE, AS_OTHERS},
        {OK_LINE "Date: yesterday\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {OK_LINE "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {OK_LINE "Date: Fri, 31 Dec 9999 23:59:59 GMT\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {OK_LINE "Date: Wed, 99 Xyz 99999 99:99:99 GMT\r\nDate: \r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {OK_LINE "Set-Cookie: a=Y2FuYXJ5\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS}, /* is not logged */
        {OK_LINE "Connection: close, close, ,\r\nConnection: x\r\nKeep-Alive: timeout=-1\r\n" LENGTH "\r\n@B", FINE,
         AS_OTHERS},
        {OK_LINE "Upgrade: h2c\r\nConnection: upgrade\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {OK_LINE "Trailer: Content-Length\r\nTE: gzip\r\nAlt-Svc: h3=\":443\"\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {OK_LINE "Retry-After: 5\r\nx-should-retry: true\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {OK_LINE "Location: https://elsewhere.example/\r\nRefresh: 0; url=/\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
        {OK_LINE "Host: elsewhere.example\r\nAuthorization: x\r\n" LENGTH "\r\n@B", FINE, AS_OTHERS},
    };
    (void)state;
    run_rows(rows, COUNT(rows));
}

#define CLAIMS(text) "HTTP/1.1 401 no\r\nWWW-Authenticate: " text "\r\nContent-Length: 2\r\n\r\n{}"
#define INSUFFICIENT "Bearer error=\"insufficient_claims\", claims="

/* A challenge that cannot be read is a plain 401: one other token, one replay, then the end. */
static void odd_challenges(void **state) {
    static const char *const texts[] = {
        CLAIMS(""),
        CLAIMS("Bearer"),
        CLAIMS(",,,=,\"\",;"),
        CLAIMS("Bearer realm=\"unterminated"),
        CLAIMS("Bearer claims=\"\\\\\\"),
        CLAIMS(INSUFFICIENT "\"not base64!\""),
        CLAIMS(INSUFFICIENT "\"bm90IEpTT04=\""),
        CLAIMS(INSUFFICIENT "\"/////w==\""),
        CLAIMS(INSUFFICIENT "\"eyJhIjoiXHVkODAwIn0=\""),
        CLAIMS(INSUFFICIENT "\"e30=\\"),
        CLAIMS(INSUFFICIENT "e30=, Basic realm=\"x\""),
        CLAIMS(INSUFFICIENT "\"\xff\xc2\x9b\""),
        CLAIMS("\xc2\x9b"
               "31m error=\"insufficient_claims\", claims=\"e30=\""),
    };
    static const azo_result codes[] = {AZO_ERR_UNAUTHORIZED,  AZO_ERR_UNAUTHORIZED, AZO_ERR_UNAUTHORIZED,
                                       AZO_ERR_UNAUTHORIZED,  AZO_ERR_TOKEN,        AZO_ERR_IMDS,
                                       AZO_ERR_NO_CREDENTIAL, AZO_ERR_PROXY};
    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        for (int who = 0; who < ROLE_COUNT; who++) {
            expect_code(texts[i], (role)who, codes[who], 2);
        }
    }
    /* as large as a head may be, and readable: it goes to Entra ID, which gives the same token again */
    static const flood large = {"HTTP/1.1 401 no\r\nContent-Length: 0\r\nWWW-Authenticate: " INSUFFICIENT "\"",
                                "ICAg",
                                4000,
                                "e30=\"\r\n\r\n",
                                ANYTHING,
                                NOT_ASKED};
    char *text = flood_text(&large);
    expect_code(text, ROLE_CHAT, AZO_ERR_UNAUTHORIZED, 2);
    free(text);
}

/* Nobody sends these; each is read as nothing, or makes the call fail at once with the wait it names. */
static void odd_waits(void **state) {
    static const struct {
        const char *headers;
        int32_t wait_ms;
        int attempts;
    } cases[] = {
        {"", -1, 3},
        {"Retry-After: -5\r\n", -1, 3},
        {"Retry-After: 0\r\n", -1, 3},
        {"Retry-After: nan\r\n", -1, 3},
        {"Retry-After: inf\r\n", -1, 3},
        {"Retry-After: 0x10\r\n", -1, 3},
        {"Retry-After: 1 second\r\n", -1, 3},
        {"Retry-After: \xd9\xa5\r\n", -1, 3},
        {"Retry-After: tomorrow\r\n", -1, 3},
        {"Retry-After: Thu, 01 Jan 1970 00:00:00 GMT\r\n", -1, 3},
        {"Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n", -1, 3},
        {"Retry-After: Wed, 21 Xyz 2026 07:28:00 GMT\r\n", -1, 3},
        {"Retry-After: Wed, 21 Oct 2026 99:99:99 GMT\r\n", -1, 3},
        {"Retry-After:\r\nretry-after-ms: -1\r\nx-ms-retry-after-ms: x\r\n", -1, 3},
        {"retry-after-ms: 0\r\nRetry-After: 2\r\n", 2000, 3},
        {"Retry-After: 1000000000\r\n", INT32_MAX, 1},
        {"Retry-After: 1e9\r\n", INT32_MAX, 1},
        {"Retry-After: 1e400\r\n", -1, 3},
        {"Retry-After: 123456789012345678901234567890\r\n", INT32_MAX, 1},
        {"Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n", INT32_MAX, 1},
        {"Retry-After: 86400\r\n", 86400000, 1},
        {"Retry-After: 61\r\nRetry-After: 1\r\n", 61000, 1},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        expect_wait(cases[i].headers, cases[i].wait_ms, cases[i].attempts);
    }
}

/* ---- what belongs to one answer is never taken for the next ---- */

typedef enum reuse { SAME, FRESH, EITHER } reuse;

typedef struct exchange {
    const char *text;  /* the first answer, and what comes behind it */
    reuse reuse;       /* of the connection by the next request */
    const char *roles; /* by the first letter of their names: c s e r E I; h: raw with HEAD */
} exchange;

static role role_of(char letter) {
    static const char letters[] = "cserEI";
    return letter == 'h' ? ROLE_RAW : (role)(strchr(letters, letter) - letters);
}

static const script_peer_entry *hostile_peer(const world *w) {
    return &w->net.peers[w->role == ROLE_ENTRA ? 1 : w->role == ROLE_IMDS ? 2 : 0];
}

/* Once more, with an answer that is right. Tokens are cached by scope. */
static void call_again(world *w, outcome *o) {
    w->hostile = false;
    w->stalls = false;
    if (is_service(w->role)) {
        call(w, o);
    } else {
        memset(o, 0, sizeof *o);
        call_token(w, "https://other.example/.default", o);
    }
}

static void run_exchange(const exchange *x, char letter, size_t recv_limit) {
    static world w;
    outcome first;
    outcome second;
    answer says;
    expand(x->text, role_of(letter), &says);
    runs++;
    world_open(&w, role_of(letter));
    w.says = &says;
    w.how.bytes = recv_limit;
    w.how.cut = says.pause;
    w.net.recv_limit = recv_limit;
    w.desc.total_timeout_ms = 5000;
    world_start(&w);
    if (letter == 'h') {
        memset(&first, 0, sizeof first);
        call_raw(&w, "HEAD", &first);
    } else {
        call(&w, &first);
    }
    w.net.now += 10;
    call_again(&w, &second);
    bool same = hostile_peer(&w)->connections == 1;
    /* What is behind [DONE] gets one read to show the end of the body, and with such reads it cannot. */
    reuse wants = letter == 's' && recv_limit != 0 && x->reuse == SAME ? EITHER : x->reuse;
    if (second.result != AZO_OK || !second.is_right || strstr(first.text.text, "orged") != NULL ||
        (wants == SAME && !same) || (wants == FRESH && same)) {
        fail_msg("%c: %s (%s), then %s (%s; %s) on %s connection\n%.300s", letter, azo_result_name(first.result),
                 first.text.text, azo_result_name(second.result), second.text.text, second.error.message,
                 same ? "the same" : "a fresh", x->text);
    }
    assert_true(second.result != AZO_OK || second.error.attempts <= 1);
    outcome_free(&first);
    outcome_free(&second);
    world_close(&w);
    free(says.bytes);
}

static void run_exchanges(const exchange *all, size_t count) {
    size_t before = runs;
    for (size_t i = 0; i < count; i++) {
        for (const char *letter = all[i].roles; *letter != '\0'; letter++) {
            for (size_t limit = 0; limit < 3; limit++) {
                if (is_thinned_out()) {
                    continue;
                }
                run_exchange(&all[i], *letter, limit);
            }
        }
    }
    print_message("# %lu exchanges, %lu runs\n", (unsigned long)count, (unsigned long)(runs - before));
}

#define ALL "cserEI"

static void kept_connections(void **state) {
    static const exchange all[] = {
        {OK_LINE LENGTH "\r\n@B", SAME, ALL}, /* so the others show something */
        {OK_LINE LENGTH "Connection: keep-alive\r\n\r\n@B", SAME, ALL},
        {OK_LINE CHUNKED "\r\n@C0\r\n\r\n", SAME, ALL},
        {OK_LINE CHUNKED "\r\n@C@P0\r\nX: y\r\n\r\n", SAME, ALL},
        {"HTTP/1.1 100 Continue\r\n\r\n" OK_LINE LENGTH "\r\n@B", SAME, ALL},
        {"HTTP/1.1 204 No Content\r\n\r\n", SAME, "cser"},
        {"HTTP/1.1 400 no\r\n" LENGTH "\r\n@B", SAME, "cser"},
        {OK_LINE "Content-Length: 999\r\n\r\n", SAME, "h"},
        {OK_LINE CHUNKED "\r\n", SAME, "h"},
        {OK_LINE "Content-Length: 3\r\n\r\n{a}", SAME, "ce"},
        {OK_LINE LENGTH "Connection: close\r\n\r\n@B", FRESH, ALL},
        {OK_LINE LENGTH "Connection: keep-alive, CLOSE\r\n\r\n@B", FRESH, ALL},
        {OK_LINE LENGTH "Connection: keep-alive\r\nConnection: close\r\n\r\n@B", FRESH, ALL},
        {OK_LINE LENGTH "Connection: close\r\nConnection: keep-alive\r\n\r\n@B", FRESH, ALL},
        {"HTTP/1.0 200 OK\r\n" LENGTH "\r\n@B", FRESH, ALL},
        {"HTTP/1.0 200 OK\r\n" LENGTH "Connection: keep-alive\r\n\r\n@B", FRESH, ALL},
        {OK_LINE "\r\n@B@E", FRESH, ALL},
        {OK_LINE LENGTH "\r\n@B@E", FRESH, ALL},
        {OK_LINE LENGTH "\r\n@B@R", FRESH, ALL},
    };
    (void)state;
    run_exchanges(all, COUNT(all));
}

static void response_splitting(void **state) {
    static const exchange all[] = {
        {OK_LINE LENGTH "\r\n@B@F", FRESH, ALL},
        {OK_LINE LENGTH "\r\n@B@P@F", FRESH, ALL},
        {OK_LINE LENGTH "\r\n@B@F@F@F", FRESH, ALL},
        {OK_LINE CHUNKED "\r\n@C0\r\n\r\n@F", FRESH, ALL},
        {OK_LINE CHUNKED "\r\n@C0\r\n\r\n@P@F", FRESH, ALL},
        {OK_LINE CHUNKED "\r\n@C@P0\r\n\r\n@F", FRESH, ALL},
        {OK_LINE CHUNKED "\r\n@C0\r\nX: y\r\n\r\n@P@F", FRESH, ALL},
        {OK_LINE LENGTH "\r\n@B\r\n", FRESH, ALL},
        {OK_LINE LENGTH "\r\n@B@P\r\n", FRESH, ALL},
        {OK_LINE LENGTH "\r\n@B@P@0", FRESH, ALL},
        {OK_LINE "Content-Length: 0\r\n\r\n@F", FRESH, "cser"},
        {OK_LINE "Content-Length: 0\r\n\r\n@P@F", FRESH, "cser"},
        {OK_LINE CHUNKED "\r\n0\r\n\r\n@F", FRESH, "cser"},
        {"HTTP/1.1 204 No Content\r\n" LENGTH "\r\n@B", FRESH, "cser"},
        {"HTTP/1.1 204 No Content\r\n" CHUNKED "\r\n@P@C0\r\n\r\n", FRESH, "cser"},
        {"HTTP/1.1 204 No Content\r\n\r\n@F", FRESH, "cser"},
        {"HTTP/1.1 304 Not Modified\r\n" LENGTH "\r\n@F", FRESH, "cser"},
        {"HTTP/1.1 400 no\r\n" LENGTH "\r\n@B@F", FRESH, "cser"},
        {"HTTP/1.1 400 no\r\n" LENGTH "\r\n@B@P@F", FRESH, "cser"},
        {"HTTP/1.1 400 no\r\n" LENGTH CHUNKED "\r\n@C0\r\n\r\n@F", FRESH, "cser"},
        {"HTTP/1.1 302 Found\r\nLocation: /x\r\n" LENGTH "\r\n@B@F", FRESH, "cser"},
        {OK_LINE LENGTH "\r\n@F", FRESH, "h"},
        {OK_LINE CHUNKED "\r\n@P0\r\n\r\n@F", FRESH, "h"},
        {OK_LINE LENGTH "\r\n@B@PHTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n@E", FRESH, ALL},
        {OK_LINE LENGTH "\r\n@B@PHTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", FRESH, ALL},
        {OK_LINE LENGTH "\r\n@B@PHTTP/1.1 100 Continue\r\n\r\n", FRESH, ALL},
        /* not all came of the first answer, so it failed or was over before its end */
        {OK_LINE "Content-Length: 9@L\r\n\r\n@B", FRESH, "cser"},
        {OK_LINE CHUNKED "\r\n@C", EITHER, "s"},
        {OK_LINE CHUNKED "\r\n@Cxyz\r\n\r\n@F", FRESH, "cser"},
        {OK_LINE CHUNKED "\r\n@C@Pxyz\r\n\r\n@F", FRESH, "s"},
        {OK_LINE CHUNKED "\r\n@S\r\n@B@F", FRESH, "cser"},
        {OK_LINE CHUNKED "\r\n@C2710\r\n", FRESH, "s"},
    };
    (void)state;
    run_exchanges(all, COUNT(all));
}

/* ---- answers out of turn ---- */

/* The peer speaks as soon as it is called, before it has seen a request. */
static azo_result open_and_speak(const azo_target *to, void **out, void *user_data) {
    world *w = (world *)user_data;
    azo_result r = open_known(to, out, user_data);
    if (r == AZO_OK && to->port == SERVICE_PORT && w->hostile) {
        deliver((script_conn *)*out, w);
    }
    return r;
}

/* Takes a few bytes of a request, then nothing more until the answer has been read. */
static ptrdiff_t send_slowly(void *conn, const void *buf, size_t len, void *user_data) {
    script_conn *c = (script_conn *)conn;
    world *w = (world *)user_data;
    if (c->peer->port != SERVICE_PORT || !w->hostile) {
        return script_conn_send(conn, buf, len, user_data);
    }
    if (c->request_len > 0) {
        return AZO_IO_AGAIN;
    }
    deliver(c, w);
    w->stalls = true;
    return script_conn_send(conn, buf, len < 20 ? len : 20, user_data);
}

typedef struct early {
    const char *text;
    azo_result result;
} early;

static void run_early(const early *x, char letter, bool on_call, size_t recv_limit) {
    static world w;
    outcome o;
    answer says;
    expand(x->text, role_of(letter), &says);
    runs++;
    world_open(&w, role_of(letter));
    w.says = &says;
    w.how.bytes = recv_limit;
    w.how.cut = says.pause;
    w.net.recv_limit = recv_limit;
    w.desc.total_timeout_ms = 5000;
    w.desc.transport.open = on_call ? open_and_speak : open_known;
    w.desc.transport.send = on_call ? script_conn_send : send_slowly;
    world_start(&w);
    call(&w, &o);
    if (on_call ? o.result == AZO_OK && strstr(o.text.text, "orged") != NULL && w.net.peers[0].requests == 0
                : o.result != x->result) {
        fail_msg("%c: %s (%s)\n%s", letter, azo_result_name(o.result), o.error.message, x->text);
    }
    outcome_free(&o);
    call_again(&w, &o);
    if (o.result != AZO_OK || !o.is_right || (!on_call && hostile_peer(&w)->connections < 2)) {
        fail_msg("%c: then %s (%s; %s)\n%s", letter, azo_result_name(o.result), o.text.text, o.error.message, x->text);
    }
    outcome_free(&o);
    world_close(&w);
    free(says.bytes);
}

/* An answer to half a request counts, since a server may refuse what it has not read to its end; but nothing follows on
 * that connection, where the other half is missing. */
static void early_answers(void **state) {
    static const early all[] = {
        {OK_LINE LENGTH "\r\n@B", AZO_OK},
        {OK_LINE LENGTH "Connection: keep-alive\r\n\r\n@B", AZO_OK},
        {OK_LINE CHUNKED "\r\n@C0\r\n\r\n", AZO_OK},
        {OK_LINE LENGTH "\r\n@B@F", AZO_OK},
        {OK_LINE LENGTH "\r\n@B@P@F", AZO_OK},
        {"HTTP/1.1 413 no\r\nContent-Length: 0\r\n\r\n", AZO_ERR_BAD_REQUEST},
        {"HTTP/1.1 413 no\r\nContent-Length: 0\r\n\r\n@P@F", AZO_ERR_BAD_REQUEST},
        {"HTTP/1.1 413 no\r\n\r\n@E", AZO_ERR_BAD_REQUEST},
        {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 no\r\n\r\n@R", AZO_ERR_CLOSED},
        {"HTTP/1.1 302 no\r\nLocation: /\r\n\r\n", AZO_ERR_REDIRECT},
        {"nonsense\r\n\r\n", AZO_ERR_HTTP},
        {"@E", AZO_ERR_CLOSED},
        {"@R", AZO_ERR_CLOSED},
    };
    static const early unasked[] = {{"@F", AZO_OK}, {"@F@F", AZO_OK}, {"@P@F", AZO_OK}, {"220 mail ESMTP\r\n", AZO_OK}};
    size_t before = runs;
    (void)state;
    for (const char *letter = "cser"; *letter != '\0'; letter++) {
        for (size_t limit = 0; limit < 2; limit++) {
            for (size_t i = 0; i < COUNT(all); i++) {
                run_early(&all[i], *letter, false, limit);
            }
            for (size_t i = 0; i < COUNT(unasked); i++) {
                run_early(&unasked[i], *letter, true, limit);
            }
        }
    }
    print_message("# %lu runs\n", (unsigned long)(runs - before));
}

typedef struct abandoned {
    const char *text;
    int32_t total_ms; /* 0: the callback stops */
    azo_result result;
} abandoned;

static int stop(const azo_event *event, void *user_data) {
    (void)event;
    (void)user_data;
    return AZO_STOP;
}

/* Whoever does not wait for an answer leaves its rest on the connection, so that is not used again. */
static void abandoned_answers(void **state) {
    static const abandoned all[] = {
        {OK_LINE CHUNKED "\r\n@C0\r\n\r\n", 0, AZO_ERR_CANCELLED},
        {OK_LINE LENGTH "\r\n@B@F", 0, AZO_ERR_CANCELLED},
        {OK_LINE CHUNKED "\r\n@P@C0\r\n\r\n", 3, AZO_ERR_TIMEOUT},
        {"H@PTTP/1.1 200 OK\r\n" LENGTH "\r\n@B", 3, AZO_ERR_TIMEOUT},
        {OK_LINE LENGTH "\r\n@P@B@F", 3, AZO_ERR_TIMEOUT},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(all); i++) {
        static world w;
        answer says;
        outcome o;
        azo_chat_desc desc;
        azo_message message = azo_user("Hi");
        expand(all[i].text, ROLE_STREAM, &says);
        world_open(&w, ROLE_STREAM);
        w.says = &says;
        w.how.bytes = 0;
        w.how.cut = says.pause;
        world_start(&w);
        memset(&o, 0, sizeof o);
        memset(&desc, 0, sizeof desc);
        desc.messages = &message;
        desc.message_count = 1;
        desc.on_event = stop;
        desc.call.total_timeout_ms = all[i].total_ms;
        w.call_began = w.net.now;
        w.polls = 0;
        assert_int_equal(azo_chat(w.client, &desc, NULL, &o.error), all[i].result);
        call_again(&w, &o);
        assert_true(o.result == AZO_OK && o.is_right && hostile_peer(&w)->connections == 2);
        outcome_free(&o);
        world_close(&w);
        free(says.bytes);
    }
}

/* ---- servers that repeat the secret they were sent ---- */

static void run_echo(const char *text, role who) {
    static world w;
    outcome o;
    answer says;
    expand(text, who, &says);
    runs++;
    world_open(&w, who);
    w.memory.secret = NULL; /* what the server repeats is not ours to wipe */
    w.says = &says;
    memset(&w.how, 0, sizeof w.how);
    world_start(&w);
    call(&w, &o); /* looks at the error and at every line of the log */
    outcome_free(&o);
    check_still_works(&w);
    world_close(&w);
    free(says.bytes);
}

#define UNTIL_END "\r\n"
#define REFUSES "HTTP/1.1 400 Bad Request\r\n" UNTIL_END

static void repeated_secrets(void **state) {
    static const char *const texts[] = {
        "HTTP/1.1 401 @X is wrong\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 @X\r\n" LENGTH "\r\n@B",
        OK_LINE "X-Echo: Bearer @X\r\n" LENGTH "\r\n@B",
        OK_LINE "X-@X: y\r\n" LENGTH "\r\n@B",
        "HTTP/1.1 400 no\r\nx-request-id: @X\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 400 no\r\napim-request-id: @X\r\nx-ms-request-id: @X\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 403 no\r\npolicy-id: @X\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 401 no\r\nWWW-Authenticate: Bearer realm=\"@X\"\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 no\r\nLocation: https://@X.example/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 no\r\nLocation: /?token=@X\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 429 no\r\nRetry-After: @X\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 407 @X\r\nProxy-Authenticate: Basic realm=\"@X\"\r\nContent-Length: 0\r\n\r\n",
        REFUSES "you sent @X, @X and @X@E",
        REFUSES "<html>@X</html>@E",
        REFUSES "{\"error\":\"@X\"}@E",
        REFUSES "{\"error\":\"x\",\"error_description\":\"AADSTS1: @X\",\"claims\":\"@X\",\"trace_id\":\"@X\"}@E",
        REFUSES "{\"error\":{\"message\":\"@X\",\"code\":\"@X\"}}@E",
        REFUSES "{\"error\":{\"message\":1,\"type\":\"@X\",\"param\":\"@X\"}}@E",
        REFUSES "{\"error\":{\"innererror\":{\"code\":\"@X\"}},\"message\":\"@X\"}@E",
        REFUSES
        "{\"error\":{\"code\":\"content_filter\",\"innererror\":{\"content_filter_result\":{\"@X\":{\"filtered\":true,"
        "\"severity\":\"high\"}}}}}@E",
        REFUSES "{\"error\":{\"code\":\"content_filter\",\"innererror\":{\"content_filter_result\":{\"hate\":{"
                "\"filtered\":true,"
                "\"severity\":\"@X\"}}}}}@E",
        REFUSES "{\"detail\":\"\\u0000@X\"}@E",
        REFUSES "{\"error\":{\"message\":\"@X@E",
        OK_LINE UNTIL_END "@X@E",
        OK_LINE UNTIL_END "{\"@X@E",
        OK_LINE UNTIL_END "data: {\"error\":{\"message\":\"@X\",\"code\":\"@X\"}}\n\n@E",
        OK_LINE UNTIL_END "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\ndata: @X\n\n@E",
        "@X\r\n\r\n",
        OK_LINE "@X\r\n\r\n",
        OK_LINE CHUNKED "\r\n@X\r\n",
    };
    size_t before = runs;
    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        for (int who = 0; who < ROLE_COUNT; who++) {
            if (role_secrets[who][0] != '\0' && !is_thinned_out()) {
                run_echo(texts[i], (role)who);
            }
        }
    }
    print_message("# %lu echoes, %lu runs\n", (unsigned long)COUNT(texts), (unsigned long)(runs - before));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths),
        cmocka_unit_test(transfer_codings),
        cmocka_unit_test(chunks),
        cmocka_unit_test(header_lines),
        cmocka_unit_test(status_lines),
        cmocka_unit_test(interim_answers),
        cmocka_unit_test(bodies),
        cmocka_unit_test(floods),
        cmocka_unit_test(large_bodies),
        cmocka_unit_test(test_redirects),
        cmocka_unit_test(odd_headers),
        cmocka_unit_test(odd_challenges),
        cmocka_unit_test(odd_waits),
        cmocka_unit_test(kept_connections),
        cmocka_unit_test(response_splitting),
        cmocka_unit_test(early_answers),
        cmocka_unit_test(abandoned_answers),
        cmocka_unit_test(repeated_secrets),
    };
    int failed = cmocka_run_group_tests_name("torture_http", tests, settle_environment, NULL);
    print_message("# %lu runs\n", (unsigned long)runs);
    return failed;
}
