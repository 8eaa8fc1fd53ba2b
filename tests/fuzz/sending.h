/* sending.h - targets in which what a client sends is looked at: url (endpoint, proxy, NO_PROXY), request (extra_json,
 * messages, tools and histories). */
#ifndef AZO_TEST_FUZZ_SENDING_H
#define AZO_TEST_FUZZ_SENDING_H

/* ---- URLs ---- */

static bool fuzz_is_loopback(const char *host) {
    size_t len = strlen(host);
    azo_str tail = fuzz_view(host + (len > 10 ? len - 10 : 0), len > 10 ? 10 : len);
    unsigned part[4];
    char again[64] = ""; /* 127.3 and 127.0.0.01 are addresses to some and names to others */
    if (sscanf(host, "%9u.%9u.%9u.%9u", &part[0], &part[1], &part[2], &part[3]) == 4 && part[0] == 127 &&
        part[1] < 256 && part[2] < 256 && part[3] < 256) {
        snprintf(again, sizeof again, "%u.%u.%u.%u", part[0], part[1], part[2], part[3]);
    }
    return strcmp(again, host) == 0 || strcmp(host, "::1") == 0 || ref_named(azo_s(host), "localhost") ||
           ref_named(tail, ".localhost");
}

/* What is split is put together again, and split the same way. */
static void fuzz_url_parts(azo_str text) {
    azoi_url url;
    azoi_url again;
    azo_error e;
    char *exact = fuzz_exact(text);
    text.ptr = exact;
    azoi_error_clear(&e);
    azo_result r = azoi_url_split(text, &url, &e);
    fuzz_check_error(&e, r);
    if (r == AZO_OK) {
        test_notes whole = {NULL, 0, 0};
        bool v6 = memchr(url.host.ptr, ':', url.host.len) != NULL;
        FUZZ_CHECK(url.host.len > 0 && url.port > 0 && ref_is_field_value(text) && ref_is_utf8(text));
        FUZZ_CHECK(url.path.len == 0 || url.path.ptr[0] == '/');
        test_note(&whole, url.secure ? "https://" : "http://");
        test_note_bytes(&whole, url.userinfo.len > 0 ? url.userinfo.ptr : "", url.userinfo.len);
        test_note(&whole, url.userinfo.len > 0 ? "@" : "");
        test_note(&whole, v6 ? "[" : "");
        test_note_bytes(&whole, url.host.ptr, url.host.len);
        test_note(&whole, "%s:%u", v6 ? "]" : "", (unsigned)url.port);
        test_note_bytes(&whole, url.path.len > 0 ? url.path.ptr : "", url.path.len);
        test_note(&whole, url.query.len > 0 ? "?" : "");
        test_note_bytes(&whole, url.query.len > 0 ? url.query.ptr : "", url.query.len);
        FUZZ_CHECK(azoi_url_split(fuzz_notes_view(&whole), &again, NULL) == AZO_OK);
        FUZZ_CHECK(again.secure == url.secure && again.port == url.port && fuzz_same(again.host, url.host));
        FUZZ_CHECK(fuzz_same(again.userinfo, url.userinfo) && fuzz_same(again.path, url.path) &&
                   fuzz_same(again.query, url.query));
        test_notes_free(&whole);
    }
    free(exact);
}

/* Is `host` one of the comma-separated `list`, or below one of them? A port behind an entry does not count. */
static bool fuzz_is_excepted(const char *list, const char *host) {
    azo_str rest = azo_s(list);
    while (rest.len > 0) {
        azo_str entry = fuzz_field(&rest, ',');
        while (entry.len > 0 && ref_is_blank(entry.ptr[0])) {
            entry = fuzz_view(entry.ptr + 1, entry.len - 1);
        }
        while (entry.len > 0 && ref_is_blank(entry.ptr[entry.len - 1])) {
            entry.len--;
        }
        if (entry.len == 1 && entry.ptr[0] == '*') {
            return true;
        }
        azo_str port = entry;
        azo_str name = fuzz_field(&port, ':');
        bool v6 = port.len > 0 && memchr(port.ptr, ':', port.len) != NULL;
        entry = v6 ? entry : name;
        entry = entry.len > 0 && entry.ptr[0] == '.' ? fuzz_view(entry.ptr + 1, entry.len - 1) : entry;
        size_t len = strlen(host);
        if (entry.len > 0 && entry.len <= len) {
            azo_str tail = fuzz_view(host + len - entry.len, entry.len);
            bool same = true;
            for (size_t i = 0; i < tail.len; i++) {
                same = same && azoi_lower(tail.ptr[i]) == azoi_lower(entry.ptr[i]);
            }
            if (same && (tail.len == len || host[len - tail.len - 1] == '.')) {
                return true;
            }
        }
    }
    return false;
}

/* The endpoint's own host and port, for comparison with where the client went. */
static void fuzz_url_went(const fuzz_scene *s, const char *endpoint, const char *proxy, const char *no_proxy) {
    azoi_url url;
    azoi_url via;
    char host[300];
    test_notes whole = {NULL, 0, 0};
    azo_str trimmed = azoi_trim(azo_s(endpoint));
    test_note(&whole, strstr(endpoint, "://") == NULL ? "https://" : "");
    test_note_bytes(&whole, trimmed.ptr, trimmed.len);
    FUZZ_CHECK(azoi_url_split(fuzz_notes_view(&whole), &url, NULL) == AZO_OK && url.userinfo.len == 0);
    snprintf(host, sizeof host, "%.*s", (int)url.host.len, url.host.ptr);
    FUZZ_CHECK(url.secure || fuzz_is_loopback(host));
    bool direct = azoi_trim(azo_s(proxy)).len == 0 || fuzz_is_loopback(host) || fuzz_is_excepted(no_proxy, host);
    if (direct) {
        FUZZ_CHECK(strcmp(s->host, host) == 0 && s->port == url.port);
        FUZZ_CHECK(!url.secure || !fuzz_holds(fuzz_notes_view(&s->sent), "HTTP/1.1"));
    } else {
        test_notes_free(&whole);
        trimmed = azoi_trim(azo_s(proxy));
        test_note(&whole, strstr(proxy, "://") == NULL ? "http://" : "");
        test_note_bytes(&whole, trimmed.ptr, trimmed.len);
        FUZZ_CHECK(azoi_url_split(fuzz_notes_view(&whole), &via, NULL) == AZO_OK && !via.secure);
        FUZZ_CHECK(strlen(s->host) == via.host.len && memcmp(s->host, via.host.ptr, via.host.len) == 0);
        FUZZ_CHECK(s->port == via.port && (s->sent.len == 0 || memcmp(s->sent.text, "CONNECT ", 8) == 0));
    }
    bool told = fuzz_secrets[0] != NULL && fuzz_holds(fuzz_notes_view(&s->sent), fuzz_secrets[0]);
    FUZZ_CHECK(!told || fuzz_is_loopback(s->host));
    test_notes_free(&whole);
}

/* Not with MemorySanitizer, which does not know what mbedTLS writes. */
static int fuzz_connect(void *conn, void *user_data) {
    return FUZZ_MEMORY ? (int)AZO_ERR_CONNECT : script_conn_connect(conn, user_data);
}

/* Endpoint, proxy and NO_PROXY, each in a line of its own. */
static void fuzz_url(unsigned char steer, azo_str bytes) {
    azo_str rest = bytes;
    char *endpoint = fuzz_text(fuzz_field(&rest, '\n'));
    char *proxy = fuzz_text(fuzz_field(&rest, '\n'));
    char *no_proxy = fuzz_text(fuzz_field(&rest, '\n'));
    fuzz_scene s;
    fuzz_url_parts(azo_s(endpoint));
    fuzz_url_parts(azo_s(proxy));
    fuzz_scene_open(&s, steer);
    s.desc.endpoint = endpoint;
    s.desc.proxy = proxy;
    s.desc.no_proxy = no_proxy;
    fuzz_secrets[0] = fuzz_holds(bytes, "canary") ? NULL : fuzz_secrets[0]; /* hosts are no secret */
    s.desc.transport.connect = fuzz_connect;
    if (fuzz_scene_start(&s) == AZO_OK) {
        azo_raw_desc desc;
        azo_raw_reply reply;
        memset(&desc, 0, sizeof desc);
        desc.path = "/models";
        azo_result r = azo_raw(s.client, &desc, &reply, &s.error);
        FUZZ_CHECK(r < 0);
        fuzz_check_error(&s.error, r);
        if (s.host[0] != '\0') {
            fuzz_url_went(&s, endpoint, proxy, no_proxy);
        } else {
            FUZZ_CHECK(r == AZO_ERR_ARGUMENT);
        }
        azo_raw_reply_free(&reply);
    }
    fuzz_scene_close(&s);
    free(no_proxy);
    free(proxy);
    free(endpoint);
}

/* ---- requests ---- */

/* Lines of the input: what callers write as JSON, and one text. An empty line stands for NULL. */
typedef enum fuzz_line {
    FUZZ_EXTRA,
    FUZZ_RAW_MESSAGE,
    FUZZ_CONTENT,
    FUZZ_PARAMETERS,
    FUZZ_CHOICE,
    FUZZ_FORMAT,
    FUZZ_PAST, /* a message of the history */
    FUZZ_TEXT,
    FUZZ_LINES
} fuzz_line;

static bool fuzz_is_object(const char *text) {
    azo_str trimmed = azoi_trim(azo_s(text));
    return trimmed.len > 0 && trimmed.ptr[0] == '{' && ref_json(trimmed, AZO_MAX_JSON_DEPTH);
}

static size_t fuzz_times(azo_str object, azo_str name) {
    azo_str key;
    azo_str value;
    size_t times = 0;
    while (azoi_json_step(&object, &key, &value)) {
        times += fuzz_same(key, name) ? 1 : 0;
    }
    return times;
}

/* No name comes twice but as often as the caller wrote it, and all that the caller wrote is there. */
static void fuzz_body_members(azo_str body, const char *extra) {
    azo_str given = azoi_trim(azo_s(extra));
    azo_str rest = body;
    azo_str key;
    azo_str value;
    while (azoi_json_step(&rest, &key, &value)) {
        size_t times = fuzz_times(given, key);
        FUZZ_CHECK(fuzz_times(body, key) == (times > 0 ? times : 1));
    }
    for (rest = given; azoi_json_step(&rest, &key, &value);) {
        azo_str found = fuzz_view(NULL, 0);
        azo_str first = fuzz_view(NULL, 0);
        FUZZ_CHECK(azoi_json_pick(given, key, 0, &first) && azoi_json_pick(body, key, 0, &found));
        FUZZ_CHECK(fuzz_same(found, first));
    }
}

/* Valid JSON of the announced length, with so many messages. */
static void fuzz_body_sent(const fuzz_scene *s, const char *extra, size_t messages) {
    const char *body = strstr(s->sent.text, "\r\n\r\n");
    const char *length = strstr(s->sent.text, "Content-Length: ");
    FUZZ_CHECK(body != NULL && length != NULL && length < body);
    azo_str json = azo_s(body + 4);
    azo_str item;
    char path[40];
    FUZZ_CHECK(strtoul(length + 16, NULL, 10) == json.len);
    FUZZ_CHECK(ref_json(json, AZO_MAX_JSON_DEPTH + 8));
    fuzz_body_members(json, extra);
    if (ref_json(json, AZO_MAX_JSON_DEPTH)) {
        snprintf(path, sizeof path, "messages[%lu]", (unsigned long)messages - 1);
        FUZZ_CHECK(azo_json_get(json, path, &item) == AZO_OK && item.ptr[0] == '{');
        snprintf(path, sizeof path, "messages[%lu]", (unsigned long)messages);
        FUZZ_CHECK(azo_json_get(json, path, &item) == AZO_ERR_JSON);
    }
}

/* Up to three messages, of which some are removed again; a refused one changes nothing. */
static azo_history *fuzz_history(fuzz_scene *s, unsigned char steer, const char *past) {
    azo_history *history;
    azo_message all[3] = {azo_user("a"), azo_say(NULL, NULL), azo_assistant("b\"\x01\xff")};
    size_t count = 0;
    all[1].raw_json = past != NULL ? past : "";
    FUZZ_CHECK(azo_history_open(s->client, &history, &s->error) == AZO_OK);
    for (size_t i = 0; i < 3; i++) {
        bool good = all[i].raw_json == NULL || fuzz_is_object(all[i].raw_json);
        azo_result r = azo_history_add(history, &all[i], &s->error);
        fuzz_check_error(&s->error, r);
        count += r == AZO_OK ? 1 : 0;
        FUZZ_CHECK((r == AZO_OK) == good && azo_history_count(history) == count);
    }
    size_t first = (steer >> 3) % 4;
    size_t removed = (steer >> 5) % 4;
    azo_history_remove(history, first, removed);
    count -= first >= count ? 0 : removed < count - first ? removed : count - first;
    FUZZ_CHECK(azo_history_count(history) == count);
    return history;
}

static void fuzz_request_call(fuzz_scene *s, unsigned char steer, char **line) {
    azo_message messages[3] = {azo_say(NULL, NULL), azo_say("user", NULL), azo_user(line[FUZZ_TEXT])};
    azo_tool tool = {"tool", line[FUZZ_TEXT], line[FUZZ_PARAMETERS], {true, true}};
    azo_chat_desc desc;
    azo_chat_reply reply;
    azo_history *history = fuzz_history(s, steer, line[FUZZ_PAST]);
    messages[0].raw_json = line[FUZZ_RAW_MESSAGE] != NULL ? line[FUZZ_RAW_MESSAGE] : "{}";
    messages[1].content_json = line[FUZZ_CONTENT] != NULL ? line[FUZZ_CONTENT] : "null";
    memset(&desc, 0, sizeof desc);
    desc.messages = messages;
    desc.message_count = line[FUZZ_TEXT] != NULL ? 3 : 2;
    desc.history = history;
    desc.extra_json = line[FUZZ_EXTRA];
    desc.tools = &tool;
    desc.tool_count = 1;
    desc.tool_choice = line[FUZZ_CHOICE];
    desc.response_format_json = line[FUZZ_FORMAT];
    desc.stream = (steer & 1) != 0;
    if (steer % 3 == 0) { /* a number of any size */
        desc.temperature = azo_num(ldexp(1.0 + steer, (int)steer * 7 - 1022));
        desc.seed = azo_int(INT64_MIN + steer);
        desc.logprobs = azo_bool(true);
        desc.include_usage = azo_bool(false);
        desc.n = steer;
        desc.user = line[FUZZ_TEXT];
    }
    bool objects = fuzz_is_object(messages[0].raw_json);
    objects = objects && ref_json(azo_s(messages[1].content_json), AZO_MAX_JSON_DEPTH);
    for (int i = FUZZ_EXTRA; i <= FUZZ_FORMAT; i += i == FUZZ_EXTRA ? FUZZ_PARAMETERS : 2) {
        objects = objects && (line[i] == NULL || fuzz_is_object(line[i]));
    }
    azo_result r = azo_chat(s->client, &desc, &reply, &s->error);
    fuzz_check_error(&s->error, r);
    FUZZ_CHECK(r == AZO_ERR_ARGUMENT || r == AZO_ERR_CLOSED);
    FUZZ_CHECK(objects || r == AZO_ERR_ARGUMENT);
    FUZZ_CHECK((r == AZO_ERR_ARGUMENT) == (s->sent.len == 0));
    if (r == AZO_ERR_CLOSED) {
        fuzz_body_sent(s, desc.extra_json, desc.message_count + azo_history_count(history));
    } else if (objects && desc.extra_json == NULL) {
        FUZZ_CHECK(azoi_starts(azoi_trim(azo_s(desc.tool_choice)), "{") && !fuzz_is_object(desc.tool_choice));
    }
    azo_chat_reply_free(&reply);
    azo_history_close(history);
}

static void fuzz_request(unsigned char steer, azo_str bytes) {
    char *line[FUZZ_LINES];
    azo_str rest = bytes;
    fuzz_scene s;
    for (size_t i = 0; i < FUZZ_LINES; i++) {
        azo_str field = fuzz_field(&rest, '\n');
        line[i] = field.len > 0 ? fuzz_text(field) : NULL;
    }
    fuzz_scene_open(&s, 7);
    fuzz_secrets[0] = fuzz_holds(bytes, "canary") ? NULL : fuzz_secrets[0];
    FUZZ_CHECK(fuzz_scene_start(&s) == AZO_OK);
    fuzz_request_call(&s, steer, line);
    fuzz_scene_close(&s);
    for (size_t i = 0; i < FUZZ_LINES; i++) {
        free(line[i]);
    }
}

#endif
