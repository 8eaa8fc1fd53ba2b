/* torture_machine.c - every scenario of torture.h with every allocation failing, every byte cut, every state
 * cancelled, every answer split, and with clocks that jump.
 *
 * AZO_TEST_STRIDE=n takes every n-th place only, where runs are slow; AZO_TEST_SCENARIO=text takes the scenarios that
 * have it in their names, AZO_TEST_CASE=pattern the tests that match. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#define SCRIPT_MAX_CONNS 16
#include "script.h"

#include "torture.h"

#include "torture_scenarios.h"

/* ---- reporting ---- */

static size_t stride(void) {
    const char *text = getenv("AZO_TEST_STRIDE");
    size_t n = text != NULL ? (size_t)strtoul(text, NULL, 10) : 1;
    return n > 0 ? n : 1;
}

static bool is_wanted(const torture_scenario *s) {
    const char *text = getenv("AZO_TEST_SCENARIO");
    return text == NULL || strstr(s->name, text) != NULL;
}

/* One torture of one scenario: returns how many runs it made. */
typedef size_t (*torturer)(const torture_scenario *s);

static void torture_all(const char *what, torturer run) {
    size_t runs = 0;
    size_t count = 0;
    for (size_t i = 0; i < TORTURE_SCENARIOS; i++) {
        if (is_wanted(&torture_scenarios[i])) {
            size_t made = run(&torture_scenarios[i]);
            runs += made;
            count += made > 0;
        }
    }
    printf("# %s: %lu runs of %lu scenarios\n", what, (unsigned long)runs, (unsigned long)count);
}

/* ---- unhurt ---- */

static size_t leave_alone(const torture_scenario *s) {
    torture_perfect perfect;
    torture_measure(s, NULL, &perfect);
    for (size_t k = 0; k < s->call_count; k++) {
        if (strcmp(perfect.said[k], s->calls[k].want) != 0 || strcmp(perfect.heard[k], s->calls[k].hears) != 0) {
            torture_fail(NULL, "call %lu came to: %s | %s", (unsigned long)k, perfect.said[k], perfect.heard[k]);
        }
    }
    for (size_t k = 0; k < TORTURE_PEERS; k++) {
        if (perfect.requests[k] != s->requests[k]) {
            torture_fail(NULL, "peer %lu saw %lu requests", (unsigned long)k, (unsigned long)perfect.requests[k]);
        }
    }
    return 1;
}

static void test_perfect(void **state) {
    (void)state;
    torture_all("unhurt", leave_alone);
}

#define WHERE(...) (void)snprintf(torture_where, sizeof torture_where, __VA_ARGS__)

static void expect_perfect(torture *t) {
    for (size_t i = 0; i < t->scenario->call_count; i++) {
        if (!torture_is_perfect(t, i)) {
            torture_fail(t, "call %lu came to: %s | %s | %s", (unsigned long)i, t->calls[i].said, t->calls[i].heard,
                         t->calls[i].error.message);
        }
    }
}

/* ---- every allocation ---- */

/* Either nobody notices, or it is a memory error. What follows from one is not begun. A call that would fail anyway may
 * still fail in its own way, with a reply that is empty for want of memory: the first error is the one to mend. */
static void check_starved(torture *t) {
    for (size_t i = 0; i < t->scenario->call_count; i++) {
        torture_outcome *o = &t->calls[i];
        if (!o->done && !t->gave_up) {
            torture_fail(t, "call %lu has no outcome", (unsigned long)i);
        }
        if (o->done && !torture_is_perfect(t, i)) {
            torture_check_prefix(t, i);
            if (o->code != AZO_ERR_MEMORY && (o->code == AZO_OK || o->code != t->perfect->code[i])) {
                torture_fail(t, "call %lu: %s | %s | %s", (unsigned long)i, o->said, o->heard, o->error.message);
            }
        }
    }
}

/* False: there were fewer allocations. */
static bool starve(const torture_scenario *s, const torture_perfect *perfect, size_t at, bool on) {
    torture *t = torture_prepare(s, perfect);
    WHERE("%s, allocation %lu fails%s", s->name, (unsigned long)at, on ? " and all after it" : "");
    t->memory.fail_at = at;
    t->memory.fail_on = on;
    azo_result r = torture_open_client(t);
    if (r == AZO_OK) {
        torture_run(t);
        check_starved(t);
    } else if (r != AZO_ERR_MEMORY) {
        torture_fail(t, "opening came to %s", azo_result_name(r));
    }
    bool hit = t->memory.failures > 0;
    torture_close(t);
    return hit;
}

static size_t starve_everywhere(const torture_scenario *s) {
    torture_perfect perfect;
    size_t runs = 0;
    torture_measure(s, NULL, &perfect);
    for (int on = 0; on < 2; on++) {
        for (size_t at = 1; starve(s, &perfect, at, on == 1); at += stride()) {
            runs++;
        }
    }
    return runs;
}

static void test_every_allocation(void **state) {
    (void)state;
    torture_all("allocations that fail", starve_everywhere);
}

/* ---- every split ---- */

static void split(const torture_scenario *s, const torture_perfect *perfect, size_t conn, script_way way, size_t at) {
    torture *t = torture_prepare(s, perfect);
    WHERE("%s, connection %lu pauses %s at %lu", s->name, (unsigned long)conn, way == SCRIPT_IN ? "in" : "out",
          (unsigned long)at);
    t->net.cut.conn = conn;
    t->net.cut.way = way;
    t->net.cut.how = SCRIPT_PAUSE;
    t->net.cut.at = at;
    assert_int_equal(torture_open_client(t), AZO_OK);
    torture_run(t);
    expect_perfect(t);
    torture_close(t);
}

static void drip(const torture_scenario *s, const torture_perfect *perfect, size_t in, size_t out, bool slow) {
    torture *t = torture_prepare(s, perfect);
    WHERE("%s, %lu bytes in and %lu out at a time%s", s->name, (unsigned long)in, (unsigned long)out,
          slow ? ", slowly" : "");
    t->net.recv_limit = in;
    t->net.send_limit = out;
    t->net.drip = slow;
    assert_int_equal(torture_open_client(t), AZO_OK);
    torture_run(t);
    expect_perfect(t);
    torture_close(t);
}

static size_t split_everywhere(const torture_scenario *s) {
    static const size_t limits[] = {1, 2, 3, 7, 0};
    torture_perfect perfect;
    size_t runs = 0;
    torture_measure(s, NULL, &perfect);
    for (size_t k = 0; k < 20; k++, runs++) {
        drip(s, &perfect, limits[k % 5], limits[(k / 5 + k) % 5], k >= 10);
    }
    for (size_t conn = 1; conn <= perfect.conn_count; conn++) {
        for (size_t at = 0; at < perfect.marks[conn - 1].in; at += stride(), runs++) {
            split(s, &perfect, conn, SCRIPT_IN, at);
        }
        for (size_t at = 0; at < perfect.marks[conn - 1].out; at += stride(), runs++) {
            split(s, &perfect, conn, SCRIPT_OUT, at);
        }
    }
    return runs;
}

static void test_every_split(void **state) {
    (void)state;
    torture_all("splits", split_everywhere);
}

/* ---- every cut ---- */

enum { CONNECT_MS = 300, FIRST_BYTE_MS = 500, IDLE_MS = 700, TOTAL_MS = 60000 };

/* Who tries again how often after which failures. */
typedef enum persistence { NO_RETRIES, RETRIES, RETRIES_IN_VAIN /* all later connections are cut too */ } persistence;

static void limit_time(torture *t) {
    t->desc.connect_timeout_ms = CONNECT_MS;
    t->desc.first_byte_timeout_ms = FIRST_BYTE_MS;
    t->desc.idle_timeout_ms = IDLE_MS;
    t->desc.total_timeout_ms = TOTAL_MS;
}

static void limit_time_and_retries(torture *t) {
    limit_time(t);
    t->desc.max_retries = AZO_OFF;
}

static bool is_service(const torture *t) {
    return t->net.cut.peer->port <= t->net.peers[TORTURE_OTHER].port;
}

/* The end of such a connection is that of the answer, so it was a whole answer, of half a text or none. */
static bool ends_early(const torture *t) {
    return t->scenario->until_close && t->net.cut.how == SCRIPT_END && t->net.cut.way == SCRIPT_IN;
}

/* What a call may come to whose own connection is cut, if nobody tries again. */
static bool is_service_failure(const torture *t, size_t i) {
    const torture_outcome *o = &t->calls[i];
    const script_cut *cut = &t->net.cut;
    if (cut->way == SCRIPT_CONNECT) {
        return o->code == (cut->how == SCRIPT_END     ? AZO_ERR_RESOLVE
                           : cut->how == SCRIPT_RESET ? AZO_ERR_CONNECT
                                                      : AZO_ERR_TIMEOUT);
    }
    if (cut->how == SCRIPT_STALL) {
        return o->code == AZO_ERR_TIMEOUT;
    }
    if (ends_early(t)) {
        return o->code == AZO_ERR_JSON || o->code == AZO_ERR_HTTP || o->code == AZO_ERR_CLOSED;
    }
    return o->code == (o->called > 0 ? AZO_ERR_STREAM : AZO_ERR_CLOSED);
}

/* The fetch of a token has retries of its own, but not at the first contact of a chain with the metadata service. */
static bool is_credential_failure(const torture *t, size_t i, persistence p) {
    azo_result code = t->calls[i].code;
    bool entra = t->net.cut.peer == &t->net.peers[TORTURE_ENTRA];
    if (t->calls[i].error.stage != AZO_STAGE_TOKEN) {
        return false;
    }
    if (t->desc.credential.kind == AZO_CRED_CHAIN) {
        return code == AZO_ERR_NO_CREDENTIAL;
    }
    /* The metadata service is given 100 s, which is more than the call has. */
    return p == RETRIES_IN_VAIN && (entra ? code == AZO_ERR_TOKEN : code == AZO_ERR_IMDS || code == AZO_ERR_TIMEOUT);
}

static void check_outcomes(torture *t, persistence p) {
    bool failed = false;
    for (size_t i = 0; i < t->scenario->call_count; i++) {
        const torture_outcome *o = &t->calls[i];
        if (!o->done && !failed) {
            torture_fail(t, "call %lu has no outcome", (unsigned long)i);
        }
        if (!o->done || torture_is_perfect(t, i)) {
            continue;
        }
        failed = true;
        torture_check_prefix(t, i);
        bool allowed = is_service(t) ? is_service_failure(t, i) : is_credential_failure(t, i, p);
        bool as_ever = o->code != AZO_OK && o->code == t->perfect->code[i];
        if (!allowed && !as_ever) {
            torture_fail(t, "call %lu came to: %s | %s | %s", (unsigned long)i, o->said, o->heard, o->error.message);
        }
        bool heals = p == RETRIES && is_service(t) && o->called == 0 && !ends_early(t) && !as_ever;
        if (heals) {
            torture_fail(t, "call %lu was not tried again: %s %s", (unsigned long)i, o->said, o->error.message);
        }
    }
}

static bool is_all_perfect(const torture *t) {
    bool perfect = true;
    for (size_t i = 0; i < t->scenario->call_count; i++) {
        perfect = perfect && torture_is_perfect(t, i);
    }
    return perfect;
}

/* Even unhurt, it needs the other connection that is free where one had been closed while it was idle. */
static bool spends_free_one(const torture_scenario *s) {
    return s->calls[s->call_count - 1].before == torture_hang_up;
}

/* Without retries a request is sent once. What is free is another connection, where the one that was cut had been open
 * for a while and no byte of the answer had come; and where one was opened ahead of the token. */
static void check_no_retry(torture *t) {
    const script_cut *cut = &t->net.cut;
    size_t sent = t->net.peers[TORTURE_SERVICE].requests + t->net.peers[TORTURE_OTHER].requests;
    size_t once = t->perfect->requests[TORTURE_SERVICE] + t->perfect->requests[TORTURE_OTHER];
    bool gone = cut->how != SCRIPT_STALL;
    bool stale = gone && cut->way != SCRIPT_CONNECT && cut->hit_idle && cut->hit_answer == 0;
    bool fetches = t->perfect->requests[TORTURE_ENTRA] + t->perfect->requests[TORTURE_IMDS] > 0 ||
                   t->desc.token_provider == torture_provide_later;
    bool ahead = gone && cut->way == SCRIPT_CONNECT && fetches && cut->hit_at == t->began_at;
    bool nothing_came = cut->way != SCRIPT_IN || (cut->hit_answer == 0 && !cut->eager);
    bool fine = is_all_perfect(t);
    if (sent > once && !stale) {
        torture_fail(t, "%lu requests were sent instead of %lu", (unsigned long)sent, (unsigned long)once);
    }
    if (once > 0 && nothing_came && fine != (stale || ahead) && !(stale && spends_free_one(t->scenario))) {
        torture_fail(t, "another connection was %s", fine ? "opened" : "not tried");
    }
}

/* The longest that one failure may take longer than a perfect run. */
static int64_t extra_ms(const torture *t, persistence p) {
    const script_cut *cut = &t->net.cut;
    bool stalls = cut->how == SCRIPT_STALL;
    if (is_service(t)) {
        static const int64_t limits[] = {CONNECT_MS, IDLE_MS, FIRST_BYTE_MS};
        int64_t limit = stalls ? limits[cut->way] : 0;
        bool once = p == RETRIES && !t->scenario->needs_retries && !spends_free_one(t->scenario);
        limit += t->desc.max_connections > 0 ? 1000 : 0; /* the next call waits for the rest of a body */
        return p == NO_RETRIES ? limit + 50 : once ? limit + 500 + 50 : 3 * limit + 500 + 1000 + 150;
    }
    if (cut->peer == &t->net.peers[TORTURE_ENTRA]) { /* 10 s to connect, 15 s for the first byte, 30 s in all */
        return p == RETRIES_IN_VAIN ? (stalls ? 30100 : 2600) : (stalls ? 15000 : 0) + 900;
    }
    return p == RETRIES_IN_VAIN ? (stalls ? TOTAL_MS : 15500) : (stalls ? 20000 : 0) + 1100;
}

static void cut_once(const torture_scenario *s, const torture_perfect *perfect, const script_cut *cut, persistence p) {
    static const char *const ways[] = {"connecting", "in", "out"};
    static const char *const hows[] = {"ends", "is reset", "breaks", "stalls"};
    static const char *const tries[] = {"without retries", "with retries", "as all after it"};
    torture *t = torture_prepare(s, perfect);
    WHERE("%s, %s, connection %lu %s %s at %lu%s", s->name, tries[p], (unsigned long)cut->conn, hows[cut->how],
          ways[cut->way], (unsigned long)cut->at, cut->eager ? " at once" : "");
    (p == NO_RETRIES ? limit_time_and_retries : limit_time)(t);
    t->net.cut = *cut;
    t->net.cut.and_later = p == RETRIES_IN_VAIN;
    assert_int_equal(torture_open_client(t), AZO_OK);
    torture_run(t);
    if (t->net.cut.hits == 0) { /* the rest of a body that nobody reads, an idle connection */
        expect_perfect(t);
    } else {
        check_outcomes(t, p);
        if (p == NO_RETRIES && is_service(t)) {
            check_no_retry(t);
        }
        int64_t took = t->net.now - t->began_at;
        int64_t jitter = s->needs_retries ? 500 / 4 : 0; /* of the first wait, in the perfect run */
        if (took > perfect->elapsed_ms + jitter + extra_ms(t, p)) {
            torture_fail(t, "it took %ld ms instead of %ld", (long)took, (long)perfect->elapsed_ms);
        }
    }
    torture_close(t);
}

static size_t cut_connection(const torture_scenario *s, const torture_perfect *perfect, size_t conn, persistence p) {
    static const script_how all[] = {SCRIPT_END, SCRIPT_RESET, SCRIPT_STALL, SCRIPT_BREAK};
    const script_mark *mark = &perfect->marks[conn - 1];
    script_cut cut;
    size_t runs = 0;
    memset(&cut, 0, sizeof cut);
    cut.conn = conn;
    for (size_t how = 0; how < 4; how++) {
        cut.how = all[how];
        cut.way = SCRIPT_CONNECT;
        cut.at = 0;
        if (how < 3) {
            cut_once(s, perfect, &cut, p);
            runs++;
        }
        cut.way = SCRIPT_OUT;
        for (cut.at = 0; cut.at < mark->out; cut.at += stride(), runs++) {
            cut_once(s, perfect, &cut, p);
        }
        cut.way = SCRIPT_IN;
        for (cut.at = 0; cut.at < mark->in && how < 3; cut.at += stride(), runs++) {
            cut_once(s, perfect, &cut, p);
        }
        cut.eager = true;
        for (size_t i = 0; i < mark->dry_count && how < 2; i++, runs++) {
            cut.at = mark->dry[i];
            cut_once(s, perfect, &cut, p);
        }
        cut.eager = false;
    }
    return runs;
}

static size_t cut_everywhere(const torture_scenario *s) {
    size_t runs = 0;
    for (int p = NO_RETRIES; p <= RETRIES_IN_VAIN; p++) {
        torture_perfect perfect;
        if (p == NO_RETRIES && s->needs_retries) {
            continue;
        }
        torture_measure(s, p == NO_RETRIES ? limit_time_and_retries : limit_time, &perfect);
        for (size_t conn = 1; conn <= perfect.conn_count; conn++) {
            runs += cut_connection(s, &perfect, conn, (persistence)p);
        }
    }
    return runs;
}

static void test_every_cut(void **state) {
    (void)state;
    torture_all("cuts", cut_everywhere);
}

/* ---- every state cancelled ---- */

/* So that there are many states: some bytes in each turn. */
static void go_slowly(torture *t) {
    t->net.recv_limit = 11;
    t->net.send_limit = 17;
    t->net.drip = true;
    for (size_t i = 0; i < TORTURE_PEERS; i++) {
        t->net.peers[i].connect_ms = 3;
    }
}

/* What was on its way when the torture acted is cancelled, the rest is as ever. */
static void check_struck(torture *t, bool only_struck) {
    bool any = false;
    for (size_t i = 0; i < t->scenario->call_count; i++) {
        const torture_outcome *o = &t->calls[i];
        any = any || o->struck || o->freed;
        torture_check_prefix(t, i);
        if (!o->done && !o->freed && !any && !t->closed) {
            torture_fail(t, "call %lu has no outcome", (unsigned long)i);
        }
        bool cancelled = o->done && o->code == AZO_ERR_CANCELLED;
        if (o->done && (o->struck || !only_struck) ? !cancelled && !(torture_is_perfect(t, i) && !o->struck)
                                                   : o->done && !torture_is_perfect(t, i)) {
            torture_fail(t, "call %lu came to: %s | %s | %s", (unsigned long)i, o->said, o->heard, o->error.message);
        }
        if (o->freed && o->struck && o->listed > 0) {
            torture_fail(t, "azo_next gave a request that was freed");
        }
    }
}

typedef void (*checker)(torture *t);

/* False: it had ended before that turn. */
static bool act_once(const torture_scenario *s, const torture_perfect *perfect, torture_act act, size_t at,
                     checker check) {
    static const char *const acts[] = {"nothing",     "cancel all",        "cancel the first",
                                       "free all",    "free the first",    "close",
                                       "sleep a day", "clock on by a day", "clock back by a day"};
    torture *t = torture_prepare(s, perfect);
    WHERE("%s, %s in turn %lu", s->name, acts[act], (unsigned long)at);
    go_slowly(t);
    t->act = act;
    t->act_at = at;
    assert_int_equal(torture_open_client(t), AZO_OK);
    torture_run(t);
    bool acted = t->acted || t->turns >= at;
    check(t);
    torture_close(t);
    return acted;
}

static void check_struck_only(torture *t) {
    check_struck(t, true);
}

static size_t cancel_everywhere(const torture_scenario *s) {
    torture_perfect perfect;
    size_t runs = 0;
    torture_measure(s, go_slowly, &perfect);
    for (int act = TORTURE_CANCEL_ALL; act <= TORTURE_CLOSE; act++) {
        for (size_t at = 1; act_once(s, &perfect, (torture_act)act, at, check_struck_only); at += stride()) {
            runs++;
        }
    }
    return runs;
}

static void test_every_state_cancelled(void **state) {
    (void)state;
    torture_all("cancelled from outside", cancel_everywhere);
}

/* ---- the same from inside ---- */

static void check_inside(torture *t) {
    bool ends_self = t->inside == TORTURE_STOP || t->inside == TORTURE_CANCEL_SELF || t->inside == TORTURE_FREE_SELF;
    bool closes = t->inside == TORTURE_CLOSE_INSIDE;
    for (size_t i = 0; i < t->scenario->call_count; i++) {
        torture_outcome *o = &t->calls[i];
        bool nameless = (o->call->how & TORTURE_BLOCKING) != 0 && t->inside != TORTURE_STOP;
        o->struck = o->struck && ((ends_self && !nameless) || closes);
        if (o->struck && o->done && o->code != AZO_ERR_CANCELLED) {
            torture_fail(t, "it came to %s", o->said);
        }
    }
    check_struck(t, !closes);
    bool knows_plain = t->always == NULL; /* the service */
    if (t->other.begun && !t->other.freed && knows_plain && strcmp(t->other.said, torture_plain_want) != 0 &&
        !(t->inside == TORTURE_CANCEL_OTHER && t->other.code == AZO_ERR_CANCELLED)) {
        torture_fail(t, "the other request came to %s: %s", t->other.said, t->other.error.message);
    }
}

static void act_inside_once(const torture_scenario *s, const torture_perfect *perfect, torture_inside inside, size_t at,
                            bool slowly) {
    static const char *const insides[] = {
        "nothing",       "AZO_STOP",  "cancel itself",        "free itself",       "cancel another", "free another",
        "begin another", "AZO_PAUSE", "resume and AZO_PAUSE", "what is forbidden", "close"};
    torture *t = torture_prepare(s, perfect);
    WHERE("%s, %s in callback %lu%s", s->name, insides[inside], (unsigned long)at, slowly ? ", slowly" : "");
    if (slowly) {
        go_slowly(t);
    }
    t->inside = inside;
    t->inside_at = at;
    assert_int_equal(torture_open_client(t), AZO_OK);
    torture_run(t);
    check_inside(t);
    torture_close(t);
}

static size_t cancel_inside_everywhere(const torture_scenario *s) {
    size_t runs = 0;
    for (int slowly = 0; slowly < 2; slowly++) {
        torture_perfect perfect;
        torture_measure(s, slowly == 1 ? go_slowly : NULL, &perfect);
        for (int inside = TORTURE_LISTEN; inside < TORTURE_INSIDES; inside++) {
            for (size_t at = 1; at <= perfect.callbacks; at++, runs++) {
                act_inside_once(s, &perfect, (torture_inside)inside, at, slowly == 1);
            }
        }
    }
    return runs;
}

static void test_every_callback(void **state) {
    (void)state;
    torture_all("acted inside a callback", cancel_inside_everywhere);
}

/* ---- clocks that jump ---- */

/* A day later there is no token any more, and what was on its way may have run out of time, but nothing else. */
static void check_slept(torture *t) {
    for (size_t i = 0; i < t->scenario->call_count; i++) {
        const torture_outcome *o = &t->calls[i];
        torture_check_prefix(t, i);
        bool other_token = o->call->kind == TORTURE_TOKEN && o->code == AZO_OK;
        bool no_token = t->refusals > 0 && o->code == AZO_ERR_TOKEN; /* the old one is good no more */
        if (o->done && !torture_is_perfect(t, i) && !other_token && !no_token && o->code != AZO_ERR_TIMEOUT) {
            torture_fail(t, "call %lu came to: %s | %s | %s", (unsigned long)i, o->said, o->heard, o->error.message);
        }
    }
}

static size_t jump_everywhere(const torture_scenario *s) {
    torture_perfect perfect;
    size_t runs = 0;
    torture_measure(s, go_slowly, &perfect);
    for (int act = TORTURE_SLEEP_A_DAY; act <= TORTURE_SET_CLOCK_BACK; act++) {
        checker check = act == TORTURE_SLEEP_A_DAY ? check_slept : expect_perfect;
        for (size_t at = 1; act_once(s, &perfect, (torture_act)act, at, check); at += stride()) {
            runs++;
        }
    }
    return runs;
}

static void test_every_jump(void **state) {
    (void)state;
    torture_all("clocks that jump", jump_everywhere);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_perfect),
        cmocka_unit_test(test_every_allocation),
        cmocka_unit_test(test_every_split),
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_every_state_cancelled),
        cmocka_unit_test(test_every_callback),
        cmocka_unit_test(test_every_jump),
    };
    cmocka_set_test_filter(getenv("AZO_TEST_CASE"));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_notes_free(&torture_world.log);
    return failed;
}
