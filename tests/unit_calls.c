/* unit_calls.c - endpoints and routes, request bodies, replies whole and in pieces, refusals, embeddings, the raw path,
 * tokens and histories, and how a client is opened and driven. No network: what the machine of attempts does with a
 * request is played here. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "support.h"

#define ENDPOINT "https://contoso.openai.azure.com"
#define VERSION "2024-10-21"
#define KEY "0123456789abcdef0123456789abcdef"

/* ---- a client and the play of a request ---- */

static azo_client_desc desc_of(const char *endpoint, const char *version, const char *deployment) {
    azo_client_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.endpoint = endpoint;
    desc.api_version = version;
    desc.deployment = deployment;
    desc.api_key = KEY;
    desc.ca_file = "unused.pem";
    desc.proxy = "";
    return desc;
}

static azo_client *client_of(const azo_client_desc *desc) {
    azo_client *client;
    azo_error err;
    if (azo_client_open(desc, &client, &err) != AZO_OK) {
        fail_msg("%s", err.message);
    }
    return client;
}

static azo_client *client_for(const char *endpoint, const char *version, const char *deployment) {
    azo_client_desc desc = desc_of(endpoint, version, deployment);
    return client_of(&desc);
}

static void scrub_environment(void) {
    static const char *const names[] = {"AZURE_OPENAI_ENDPOINT",    "AZURE_OPENAI_DEPLOYMENT", "OPENAI_API_VERSION",
                                        "AZURE_OPENAI_API_VERSION", "AZURE_OPENAI_API_KEY",    "AZURE_OPENAI_AD_TOKEN"};
    size_t i;
    for (i = 0; i < sizeof names / sizeof names[0]; i++) {
        unsetenv(names[i]);
    }
}

/* The head of an answer; `lines` end in CRLF. */
static void play_head(azo_request *job, int status, const char *lines) {
    char start[64];
    snprintf(start, sizeof start, "HTTP/1.1 %d Some Reason\r\n", status);
    azoi_buf_puts(&job->head_text, start);
    azoi_buf_puts(&job->head_text, lines);
    azoi_buf_puts(&job->head_text, "Connection: keep-alive\r\n\r\n");
    if (job->head_text.failed == AZO_OK) {
        assert_int_equal(azoi_head_parse(azoi_buf_view(&job->head_text), false, &job->head, &job->error), AZO_OK);
    }
    job->state = AZOI_JOB_BODY;
    job->attempts = 1;
}

static bool play_success(const azo_request *job) {
    return job->head.status >= 200 && job->head.status <= 299;
}

/* A piece of the body; a pause is ended at once. */
static azo_result play_piece(azo_request *job, azo_str piece) {
    azo_result r;
    if (!play_success(job) || job->ops->data == NULL) {
        azoi_buf_str(&job->body, piece);
        return azoi_buf_failed(&job->body, &job->error, "The answer");
    }
    r = job->complete ? AZO_OK : job->ops->data(job, &piece);
    while (r == AZO_PENDING) {
        assert_true(job->paused);
        job->paused = false;
        r = job->ops->data(job, &piece);
    }
    if (r == AZO_OK && !job->complete) {
        assert_int_equal(piece.len, 0);
    }
    return r;
}

static azo_result play_end(azo_request *job, azo_result r) {
    if (r == AZO_OK) {
        r = play_success(job) ? job->ops->end(job) : job->ops->refuse(job);
    }
    azoi_job_finish(job, r);
    return r;
}

static azo_result play(azo_request *job, int status, const char *lines, const char *body) {
    play_head(job, status, lines);
    return play_end(job, play_piece(job, azo_s(body)));
}

static azo_chat_desc chat_of(const azo_message *messages, size_t count) {
    azo_chat_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.messages = messages;
    desc.message_count = count;
    return desc;
}

static azo_request *begin_chat(azo_client *client, const azo_chat_desc *desc) {
    azo_request *job;
    azo_error err;
    if (azo_chat_begin(client, desc, &job, &err) != AZO_OK) {
        fail_msg("%s", err.message);
    }
    return job;
}

static azo_request *begin_hello(azo_client *client, bool stream) {
    azo_message hello = azo_user("hello");
    azo_chat_desc desc = chat_of(&hello, 1);
    desc.stream = stream;
    return begin_chat(client, &desc);
}

/* A NUL follows every view that is not NULL. */
static void check_text(azo_str text, const char *expected) {
    if (expected == NULL) {
        assert_null(text.ptr);
        assert_int_equal(text.len, 0);
        return;
    }
    assert_non_null(text.ptr);
    assert_int_equal(text.ptr[text.len], '\0');
    assert_string_equal(text.ptr, expected);
}

static void check_refused(azo_result r, const azo_error *err, const char *words) {
    assert_int_equal(r, AZO_ERR_ARGUMENT);
    assert_int_equal(err->code, AZO_ERR_ARGUMENT);
    test_sentences(err->message);
    if (strstr(err->message, words) == NULL) {
        fail_msg("'%s' is not in: %s", words, err->message);
    }
}

/* ---- endpoints, routes, deployments ---- */

typedef struct route_case {
    const char *endpoint;
    const char *version;
    const char *deployment;
    const char *expected; /* "scheme host port target" */
} route_case;

#define DATED "/openai/deployments/d/chat/completions?api-version=" VERSION
#define V1 "/openai/v1/chat/completions"
#define FIFTY "a.name.that.is.long.and.has.no.end.and.is.not.here."

static const route_case routes[] = {
    {"https://contoso.openai.azure.com", VERSION, "d", "s contoso.openai.azure.com 443 " DATED},
    {"https://contoso.openai.azure.com/", VERSION, "d", "s contoso.openai.azure.com 443 " DATED},
    {" https://contoso.openai.azure.com///\n", VERSION, "d", "s contoso.openai.azure.com 443 " DATED},
    {"contoso.openai.azure.com", VERSION, "d", "s contoso.openai.azure.com 443 " DATED},
    {"HTTPS://Contoso.openai.azure.com:8443/openai", VERSION, "d", "s Contoso.openai.azure.com 8443 " DATED},
    {"https://c.x/openai/", VERSION, "d", "s c.x 443 " DATED},
    {"https://c.x/openai/v1/", VERSION, "d", "s c.x 443 " DATED},
    {"https://c.x//openai//v1//", NULL, "d", "s c.x 443 " V1},
    {"https://c.x/openai/v1", NULL, "d", "s c.x 443 " V1},
    {"https://c.x", NULL, "d", "s c.x 443 " V1},
    {"https://c.x/openai/v1/chat/completions", NULL, "d", "s c.x 443 " V1},
    {"https://c.x", "v1", "d", "s c.x 443 " V1},
    {"https://c.x", "preview", "d", "s c.x 443 " V1 "?api-version=preview"},
    {"https://c.x/openai/v1/?api-version=preview", NULL, "d", "s c.x 443 " V1 "?api-version=preview"},
    {"https://c.x/openai/deployments/d/chat/completions?api-version=" VERSION, NULL, NULL, "s c.x 443 " DATED},
    {"https://c.x/openai/deployments/d/chat/completions?api-version=2023-05-15&x=y", VERSION, NULL, "s c.x 443 " DATED},
    {"https://c.x/openai/deployments/other/chat/completions", VERSION, "d", "s c.x 443 " DATED},
    {"https://c.x/openai/deployments/gpt%204o%2Fx/embeddings?API-version=" VERSION, NULL, NULL,
     "s c.x 443 /openai/deployments/gpt%204o%2Fx/chat/completions?api-version=" VERSION},
    {"https://c.x/openai/deployments/a%zzb%2gc%2/chat/completions", VERSION, NULL, /* no escapes: as they are */
     "s c.x 443 /openai/deployments/a%25zzb%252gc%252/chat/completions?api-version=" VERSION},
    {"https://c.x/openai/deployments/openai/chat/completions", VERSION, NULL,
     "s c.x 443 /openai/deployments/openai/chat/completions?api-version=" VERSION},
    {"https://c.x/openai/responses?api-version=" VERSION, NULL, "d", "s c.x 443 " DATED},
    {"https://gw.azure-api.net/team/a b", VERSION, "d", NULL},
    {"https://gw.azure-api.net/team/a%20b/", VERSION, "d", "s gw.azure-api.net 443 /team/a%20b" DATED},
    {"https://gw.azure-api.net/team/openai", NULL, "d", "s gw.azure-api.net 443 /team" V1},
    {"https://gw.azure-api.net/openai-team", NULL, "d", "s gw.azure-api.net 443 /openai-team" V1},
    {"https://gw.azure-api.net/team/deployments/d/chat/completions?api-version=" VERSION, NULL, NULL,
     "s gw.azure-api.net 443 /team/deployments/d/chat/completions?api-version=" VERSION},
    {"https://gw.x/api/v1", NULL, "d", "s gw.x 443 /api/v1/chat/completions"},
    {"https://r.services.ai.azure.com/api/projects/p", NULL, "d", "s r.services.ai.azure.com 443 /api/projects/p" V1},
    {"http://localhost:8080", NULL, "d", "p localhost 8080 " V1},
    {"http://127.0.0.1", NULL, "d", "p 127.0.0.1 80 " V1},
    {"http://[::1]:81/", NULL, "d", "p ::1 81 " V1},
    {"http://contoso.openai.azure.com", NULL, "d", NULL},
    {"http://" FIFTY FIFTY FIFTY FIFTY FIFTY "com", NULL, "d", NULL}, /* the longest name there is */
    {"https://user:pw@contoso.openai.azure.com", NULL, "d", NULL},
    {"https://contoso.openai.azure.com/#frag", NULL, "d", NULL},
    {"ftp://contoso.openai.azure.com", NULL, "d", NULL},
    {"https://", NULL, "d", NULL},
    {"https://c.x:99999", NULL, "d", NULL},
    {"https://c.x", VERSION, ".", NULL},
    {"https://c.x", VERSION, "..", NULL},
    {"https://c.x", VERSION, "gpt-4o.prod_2024",
     "s c.x 443 /openai/deployments/gpt-4o.prod_2024/chat/completions?api-version=" VERSION},
    {"https://c.x", VERSION, "x/y", "s c.x 443 /openai/deployments/x%2Fy/chat/completions?api-version=" VERSION},
    {"https://c.x", VERSION, "x?evil=1",
     "s c.x 443 /openai/deployments/x%3Fevil=1/chat/completions?api-version=" VERSION},
    {"https://c.x", VERSION, "x#fragment",
     "s c.x 443 /openai/deployments/x%23fragment/chat/completions?api-version=" VERSION},
    {"https://c.x", VERSION, "%2e%2e",
     "s c.x 443 /openai/deployments/%252e%252e/chat/completions?api-version=" VERSION},
    {"https://c.x", VERSION, "../../admin",
     "s c.x 443 /openai/deployments/..%2F..%2Fadmin/chat/completions?api-version=" VERSION},
    {"https://c.x", VERSION, "\xc3\xbcmlaut name",
     "s c.x 443 /openai/deployments/%C3%BCmlaut%20name/chat/completions?api-version=" VERSION},
    {"https://c.x", "2024 &x=1", "d", "s c.x 443 /openai/deployments/d/chat/completions?api-version=2024%20%26x%3D1"},
};

static void note_route(const azo_request *job, char *out, size_t cap) {
    snprintf(out, cap, "%c %s %u %s", job->spec.origin.secure ? 's' : 'p', job->spec.origin.host.ptr,
             (unsigned)job->spec.origin.port, job->spec.target.ptr);
}

static void test_routes(void **state) {
    size_t i;
    (void)state;
    for (i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        const route_case *c = &routes[i];
        int by_call;
        for (by_call = 0; by_call < 2; by_call++) { /* the client's endpoint, and one of the call */
            azo_client *client = client_for(by_call ? "https://other.example/openai" : c->endpoint, c->version,
                                            by_call ? NULL : c->deployment);
            azo_message hello = azo_user("hello");
            azo_chat_desc desc = chat_of(&hello, 1);
            azo_request *job = NULL;
            azo_error err;
            azo_result r;
            char got[512];
            desc.call.endpoint = by_call ? c->endpoint : NULL;
            desc.deployment = by_call ? c->deployment : NULL;
            r = azo_chat_begin(client, &desc, &job, &err);
            if (c->expected == NULL) {
                check_refused(r, &err, "");
                assert_null(job);
            } else if (r != AZO_OK) {
                fail_msg("%s: %s", c->endpoint, err.message);
            } else {
                note_route(job, got, sizeof got);
                assert_string_equal(got, c->expected);
            }
            azo_request_free(job);
            azo_client_close(client);
        }
    }
}

static void test_missing_settings(void **state) {
    azo_message hello = azo_user("hello");
    azo_chat_desc desc = chat_of(&hello, 1);
    azo_request *job;
    azo_error err;
    azo_client *client = client_for(NULL, NULL, NULL);
    azo_raw_desc raw;
    (void)state;
    check_refused(azo_chat_begin(client, &desc, &job, &err), &err, "AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_DEPLOYMENT");
    desc.deployment = "d";
    check_refused(azo_chat_begin(client, &desc, &job, &err), &err, "The endpoint is not set");
    desc.deployment = NULL;
    desc.call.endpoint = ENDPOINT;
    check_refused(azo_chat_begin(client, &desc, &job, &err), &err, "The deployment is not set");
    memset(&raw, 0, sizeof raw);
    raw.path = "/models";
    check_refused(azo_raw_begin(client, &raw, &job, &err), &err, "The endpoint is not set");
    assert_true(azoi_list_empty(&client->jobs));
    assert_int_equal(azo_chat_begin(NULL, &desc, &job, &err), AZO_ERR_ARGUMENT);
    test_sentences(err.message);
    assert_int_equal(azo_chat_begin(client, NULL, &job, &err), AZO_ERR_ARGUMENT);
    assert_int_equal(azo_chat_begin(client, &desc, NULL, NULL), AZO_ERR_ARGUMENT);
    azo_client_close(client);
}

static void test_scopes(void **state) {
    static const char *const cases[][3] = {
        {"https://c.openai.azure.com", VERSION, "https://cognitiveservices.azure.com/.default"},
        {"https://c.openai.azure.com", NULL, "https://ai.azure.com/.default"},
        {"https://c.openai.azure.com", "preview", "https://ai.azure.com/.default"},
        {"https://c.openai.azure.us", VERSION, "https://cognitiveservices.azure.us/.default"},
        {"https://c.openai.azure.us/", NULL, "https://cognitiveservices.azure.us/.default"},
        {"https://c.openai.azure.cn", NULL, "https://cognitiveservices.azure.cn/.default"},
        {NULL, VERSION, "https://cognitiveservices.azure.com/.default"},
        {NULL, NULL, "https://ai.azure.com/.default"},
        {NULL, "preview", "https://ai.azure.com/.default"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        azo_client_desc desc = desc_of(cases[i][0], cases[i][1], "d");
        azo_client *client;
        azo_request *job;
        azo_error err;
        desc.api_key = NULL;
        desc.credential.kind = AZO_CRED_SECRET;
        desc.credential.tenant_id = "11111111-2222-3333-4444-555555555555";
        desc.credential.client_id = "id";
        desc.credential.client_secret = "secret of the client";
        client = client_of(&desc);
        assert_int_equal(azo_token_begin(client, NULL, &job, &err), AZO_OK);
        assert_string_equal(job->slot->scope.data, cases[i][2]);
        azo_request_free(job);
        if (cases[i][0] != NULL) {
            job = begin_hello(client, false);
            assert_string_equal(job->slot->scope.data, cases[i][2]);
            azo_request_free(job);
        }
        azo_client_close(client);
        desc.scope = "api://mine/.default";
        client = client_of(&desc);
        assert_int_equal(azo_token_begin(client, NULL, &job, &err), AZO_OK);
        assert_string_equal(job->slot->scope.data, "api://mine/.default");
        azo_request_free(job);
        azo_client_close(client);
    }
}

static void test_proxies(void **state) {
    static const struct {
        const char *proxy;
        azo_result result;
        const char *host;
        const char *credential; /* base64 */
    } cases[] = {
        {"proxy.example", AZO_OK, "proxy.example", NULL},
        {" http://proxy.example:3128/ ", AZO_OK, "proxy.example", NULL},
        {"http://us%65r:p%40ss%zz@[::1]:3128", AZO_OK, "::1", "dXNlcjpwQHNzJXp6"},
        {"http://proxy.example/path", AZO_ERR_ARGUMENT, NULL, NULL},
        {"http://proxy.example?query", AZO_ERR_ARGUMENT, NULL, NULL},
        {"http://proxy.example/?query", AZO_ERR_ARGUMENT, NULL, NULL},
        {"socks5://proxy.example", AZO_ERR_ARGUMENT, NULL, NULL},
        {"https://proxy.example", AZO_ERR_UNSUPPORTED, NULL, NULL},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        azo_client_desc desc = desc_of(ENDPOINT, NULL, "d");
        azo_client *client;
        azo_error err;
        desc.proxy = cases[i].proxy;
        assert_int_equal(azo_client_open(&desc, &client, &err), cases[i].result);
        if (cases[i].result == AZO_OK) {
            assert_string_equal(client->proxy_host.data, cases[i].host);
            check_text(azoi_buf_view(&client->proxy_auth), cases[i].credential);
        } else {
            test_sentences(err.message);
            assert_null(client);
        }
        azo_client_close(client);
    }
}

static void test_headers(void **state) {
    azo_header ours[] = {{"X-One", "1"}};
    azo_header theirs[] = {{"Ocp-Apim-Subscription-Key", "sub-secret"}};
    static const char *const refused[] = {"Host",       "content-length", "Transfer-Encoding",
                                          "Connection", "Authorization",  "api-key",
                                          "bad name",   ""};
    azo_client_desc desc = desc_of(ENDPOINT, NULL, "d");
    azo_message hello = azo_user("hello");
    azo_chat_desc chat = chat_of(&hello, 1);
    azo_client *client;
    azo_request *job;
    azo_error err;
    azo_header bad = {"X", "a\r\nb: c"};
    size_t i;
    (void)state;
    desc.headers = theirs;
    desc.header_count = 1;
    desc.auth_header = "My-Key";
    client = client_of(&desc);
    chat.call.headers = ours;
    chat.call.header_count = 1;
    job = begin_chat(client, &chat);
    assert_string_equal(job->spec.headers.ptr, "Content-Type: application/json\r\nAccept: application/json\r\n");
    assert_string_equal(job->spec.own_headers.ptr, "Ocp-Apim-Subscription-Key: sub-secret\r\nX-One: 1\r\n");
    azo_request_free(job);
    for (i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        ours[0].name = refused[i];
        check_refused(azo_chat_begin(client, &chat, &job, &err), &err, "");
    }
    chat.call.headers = &bad;
    check_refused(azo_chat_begin(client, &chat, &job, &err), &err, "control character");
    chat.call.headers = NULL;
    check_refused(azo_chat_begin(client, &chat, &job, &err), &err, "");
    azo_client_close(client);
}

static void test_call_limits(void **state) {
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    azo_message hello = azo_user("hello");
    azo_chat_desc chat = chat_of(&hello, 1);
    int tag;
    azo_request *job = begin_chat(client, &chat);
    (void)state;
    assert_int_equal(job->spec.first_byte_ms, AZO_DEFAULT_FIRST_BYTE_MS);
    assert_int_equal(job->spec.total_ms, AZO_DEFAULT_TOTAL_MS);
    assert_int_equal(job->spec.max_retries, AZO_DEFAULT_RETRIES);
    azo_request_free(job);
    chat.call.tag = &tag;
    chat.call.first_byte_timeout_ms = AZO_OFF;
    chat.call.idle_timeout_ms = 7;
    chat.call.total_timeout_ms = 9;
    chat.call.max_retries = AZO_OFF;
    job = begin_chat(client, &chat);
    assert_int_equal(job->spec.first_byte_ms, AZO_OFF);
    assert_int_equal(job->spec.idle_ms, 7);
    assert_int_equal(job->spec.total_ms, 9);
    assert_int_equal(job->spec.max_retries, 0);
    assert_ptr_equal(azo_request_tag(job), &tag);
    azo_request_free(job);
    azo_client_close(client);
}

/* ---- request bodies ---- */

static void check_body(azo_client *client, const azo_chat_desc *desc, const char *expected) {
    azo_request *job = begin_chat(client, desc);
    assert_string_equal(job->spec.body.ptr, expected);
    assert_int_equal(job->spec.body.len, strlen(expected));
    azo_request_free(job);
}

static void check_no_body(azo_client *client, const azo_chat_desc *desc, const char *words) {
    azo_request *job;
    azo_error err;
    check_refused(azo_chat_begin(client, desc, &job, &err), &err, words);
    assert_null(job);
    assert_true(azoi_list_empty(&client->jobs));
}

static void test_body_of_81(void **state) {
    azo_client *client = client_for(ENDPOINT, VERSION, "gpt-4o prod");
    azo_message messages[2];
    azo_tool tool = {"get_weather",
                     "Weather by city",
                     "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"}},\"required\":[\"city\"],"
                     "\"additionalProperties\":false}",
                     {true, true}};
    azo_chat_desc desc = chat_of(messages, 2);
    azo_request *job;
    (void)state;
    messages[0] = azo_system("Be brief.");
    messages[1] = azo_user(NULL);
    messages[1].content_json = " [{\"type\":\"text\",\"text\":\"Wetter in Z\xc3\xbcrich? \\ud83c\\udf24\"},{\"type\":"
                               "\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,iVBORw0KGgo=\",\"detail\":"
                               "\"low\"}}]\n";
    desc.tools = &tool;
    desc.tool_count = 1;
    desc.tool_choice = "auto";
    desc.max_completion_tokens = 64;
    desc.seed = azo_int(INT64_MIN);
    check_body(client, &desc,
               "{\"messages\":[{\"role\":\"system\",\"content\":\"Be "
               "brief.\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"Wetter in Z\xc3\xbcrich? "
               "\\ud83c\\udf24\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/"
               "png;base64,iVBORw0KGgo=\",\"detail\":\"low\"}}]}],\"tools\":[{\"type\":"
               "\"function\",\"function\":{\"name\":\"get_weather\",\"description\":\"Weather by "
               "city\",\"strict\":true,\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":"
               "\"string\"}},\"required\":["
               "\"city\"],\"additionalProperties\":false}}}],\"tool_choice\":\"auto\",\"max_completion_tokens\":64,"
               "\"seed\":-9223372036854775808}");
    job = begin_chat(client, &desc);
    assert_string_equal(job->spec.target.ptr,
                        "/openai/deployments/gpt-4o%20prod/chat/completions?api-version=2024-10-21");
    assert_string_equal(job->spec.method.ptr, "POST");
    assert_true(job->spec.has_body);
    azo_request_free(job);
    azo_client_close(client);
}

static void test_body_fields(void **state) {
    azo_client *client = client_for(ENDPOINT, NULL, "my \"d\"");
    azo_message messages[4];
    azo_tool tool = {"get_weather", NULL, NULL, {true, false}};
    azo_chat_desc desc = chat_of(messages, 4);
    azo_str id = {"call_1", 6};
    (void)state;
    messages[0] = azo_say("developer", "tab\t \xff \x01");
    messages[1] = azo_assistant(NULL);
    messages[1].name = "n";
    messages[2] = azo_tool_result(id, "{}");
    messages[3] = azo_say(NULL, NULL);
    messages[3].raw_json = " {\"role\":\"user\",\"content\":\"x\"} ";
    desc.tools = &tool;
    desc.tool_count = 1;
    desc.response_format_json = "{\"type\":\"json_object\"}";
    desc.reasoning_effort = "low";
    desc.user = "u";
    desc.temperature = azo_num(0.2);
    desc.top_p = azo_num(1);
    desc.presence_penalty = azo_num(-0.5);
    desc.frequency_penalty = azo_num(0);
    desc.top_logprobs = azo_int(3);
    desc.logprobs = azo_bool(true);
    desc.parallel_tool_calls = azo_bool(false);
    desc.include_usage = azo_bool(true);
    desc.max_tokens = 5;
    desc.n = 2;
    desc.tool_choice = "get_weather";
    desc.extra_json = " { \"stop\" : [\"\\n\"], \"store\":false } ";
    desc.stream = true;
    check_body(
        client, &desc,
        "{\"model\":\"my \\\"d\\\"\",\"messages\":[{\"role\":\"developer\",\"content\":\"tab\\t \xef\xbf\xbd "
        "\\u0001\"},{\"role\":\"assistant\",\"content\":null,\"name\":\"n\"},{\"role\":\"tool\",\"content\":\"{}\","
        "\"tool_call_id\":\"call_1\"},{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{\"type\":\"function\","
        "\"function\":{\"name\":\"get_weather\",\"strict\":false}}],\"tool_choice\":{\"type\":"
        "\"function\",\"function\":{\"name\":\"get_weather\"}},\"response_format\":{\"type\":\"json_object\"},"
        "\"reasoning_effort\":\"low\",\"user\":\"u\",\"temperature\":0.2,\"top_p\":1,\"presence_penalty\":-0.5,"
        "\"frequency_penalty\":0,\"max_tokens\":5,\"n\":2,\"logprobs\":true,\"top_logprobs\":3,"
        "\"parallel_tool_calls\":false,\"stream\":true,\"stream_options\":{\"include_usage\":true},"
        "\"stop\" : [\"\\n\"], \"store\":false}");
    desc = chat_of(messages + 3, 1);
    desc.tool_choice = " {\"type\":\"function\"}";
    desc.include_usage = azo_bool(true); /* means nothing without a stream */
    desc.extra_json = "{}";
    check_body(client, &desc,
               "{\"model\":\"my \\\"d\\\"\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
               "\"tool_choice\":{\"type\":\"function\"}}");
    azo_client_close(client);
}

static void test_body_refusals(void **state) {
    static const char *const extras[] = {
        "{\"temperature\":1}",
        "{\"stream\":false}",
        "{\"messages\":[]}",
        "{\"model\":\"x\"}",
        "[]",
        "{\"a\":1,}",
        "",
        "{} {}",
    };
    azo_message message = azo_user("x");
    azo_chat_desc desc;
    azo_tool tool;
    size_t i;
    int dated;
    (void)state;
    for (dated = 0; dated < 2; dated++) {
        azo_client *client = client_for(ENDPOINT, dated ? VERSION : NULL, "d");
        for (i = 0; i < sizeof extras / sizeof extras[0]; i++) {
            desc = chat_of(&message, 1);
            desc.temperature = azo_num(1);
            desc.extra_json = extras[i];
            check_no_body(client, &desc, "extra_json");
        }
        desc = chat_of(&message, 1);
        desc.extra_json = "{\"stream_options\":{}}";
        desc.stream = true;
        azo_request_free(begin_chat(client, &desc));
        desc.include_usage = azo_bool(false);
        check_no_body(client, &desc, "stream_options");
        azo_client_close(client);
    }
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    desc = chat_of(NULL, 0);
    check_no_body(client, &desc, "no messages");
    desc = chat_of(&message, 1);
    message.role = NULL;
    check_no_body(client, &desc, "messages[0] has no role");
    message = azo_user(NULL);
    check_no_body(client, &desc, "no content");
    message.content_json = "[";
    check_no_body(client, &desc, "not valid JSON");
    message.content_json = "[]";
    message.content = "x";
    check_no_body(client, &desc, "both");
    message.raw_json = "[]";
    check_no_body(client, &desc, "messages[0]");
    message = azo_user("x");
    desc.temperature = azo_num(strtod("nan", NULL));
    check_no_body(client, &desc, "temperature");
    desc.temperature = azo_num(strtod("-inf", NULL));
    desc.n = -1; /* of two faults the first is told */
    check_no_body(client, &desc, "temperature");
    desc.extra_json = "{\"temperature\":1}";
    check_no_body(client, &desc, "The field temperature is infinite");
    desc.extra_json = NULL;
    desc.temperature.set = false;
    check_no_body(client, &desc, "negative");
    desc.n = 0;
    desc.response_format_json = "\"text\"";
    check_no_body(client, &desc, "response_format_json");
    desc.response_format_json = NULL;
    memset(&tool, 0, sizeof tool);
    desc.tools = &tool;
    desc.tool_count = 1;
    check_no_body(client, &desc, "tools[0] has no name");
    tool.name = "t";
    tool.parameters_json = "{";
    check_no_body(client, &desc, "tools[0].parameters_json");
    azo_client_close(client);
}

/* ---- histories ---- */

static void check_history(azo_client *client, const azo_history *history, const char *expected) {
    azo_message last = azo_user("z");
    azo_chat_desc desc = chat_of(&last, 1);
    char body[512];
    desc.history = history;
    snprintf(body, sizeof body, "{\"model\":\"d\",\"messages\":[%s%s{\"role\":\"user\",\"content\":\"z\"}]}", expected,
             expected[0] != '\0' ? "," : "");
    check_body(client, &desc, body);
}

#define MSG(text) "{\"role\":\"user\",\"content\":\"" text "\"}"

static void test_history(void **state) {
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    azo_history *h;
    azo_error err;
    azo_message m;
    azo_chat_reply reply;
    char text[2] = "a";
    azo_chat_desc desc;
    (void)state;
    assert_int_equal(azo_history_open(client, &h, &err), AZO_OK);
    check_history(client, h, "");
    desc = chat_of(NULL, 0);
    desc.history = h;
    check_no_body(client, &desc, "no messages");
    for (; text[0] <= 'e'; text[0]++) {
        m = azo_user(text);
        assert_int_equal(azo_history_add(h, &m, &err), AZO_OK);
    }
    check_history(client, h, MSG("a") "," MSG("b") "," MSG("c") "," MSG("d") "," MSG("e"));
    m.role = NULL;
    check_refused(azo_history_add(h, &m, &err), &err, "The message has no role");
    m.raw_json = "{\"role\":\"user\",}";
    check_refused(azo_history_add(h, &m, &err), &err, "not valid JSON");
    memset(&reply, 0, sizeof reply);
    check_refused(azo_history_add_reply(h, &reply, &err), &err, "no role");
    assert_int_equal(azo_history_count(h), 5);
    azo_history_remove(h, 5, 1);
    azo_history_remove(h, 1, 0);
    check_history(client, h, MSG("a") "," MSG("b") "," MSG("c") "," MSG("d") "," MSG("e"));
    azo_history_remove(h, 1, 2);
    check_history(client, h, MSG("a") "," MSG("d") "," MSG("e"));
    azo_history_remove(h, 0, 1);
    check_history(client, h, MSG("d") "," MSG("e"));
    azo_history_remove(h, 1, SIZE_MAX);
    check_history(client, h, MSG("d"));
    reply.message_json = azo_s("{\"role\":\"assistant\",\"content\":\"q\"}");
    assert_int_equal(azo_history_add_reply(h, &reply, &err), AZO_OK);
    check_history(client, h, MSG("d") ",{\"role\":\"assistant\",\"content\":\"q\"}");
    azo_history_remove(h, 0, 9);
    assert_int_equal(azo_history_count(h), 0);
    check_history(client, h, "");
    assert_int_equal(azo_history_add(NULL, &m, NULL), AZO_ERR_ARGUMENT);
    assert_int_equal(azo_history_count(NULL), 0);
    azo_client_close(client); /* a history outlives its client */
    m = azo_user("still");
    assert_int_equal(azo_history_add(h, &m, &err), AZO_OK);
    azo_history_close(h);
    azo_history_close(NULL);
}

static void run_history(test_memory *memory, void *self) {
    azo_client_desc desc = desc_of(ENDPOINT, NULL, "d");
    azo_client *client;
    azo_history *h;
    azo_error err;
    azo_message m = azo_user("a text that is long enough to make the buffer grow, and grow, and grow");
    size_t i;
    (void)self;
    desc.allocator = memory->hook;
    if (azo_client_open(&desc, &client, &err) != AZO_OK) {
        assert_int_equal(err.code, AZO_ERR_MEMORY);
        return;
    }
    if (azo_history_open(client, &h, &err) == AZO_OK) {
        for (i = 0; i < 40; i++) {
            size_t before = h->text.len;
            azo_result r = azo_history_add(h, &m, &err);
            assert_true(r == AZO_OK || r == AZO_ERR_MEMORY);
            if (r != AZO_OK) {
                assert_int_equal(h->text.len, before);
            }
        }
        assert_true(h->count + memory->failures >= 40);
        assert_int_equal(azoi_history_at(h, h->count), h->text.len);
        azo_history_close(h);
    }
    azo_client_close(client);
}

static void test_history_memory(void **state) {
    (void)state;
    test_every_failure(run_history, NULL);
}

/* ---- chat replies ---- */

#define BODY_81                                                                                                      \
    "{\"choices\":[{\"content_filter_results\":{\"hate\":{\"filtered\":false,\"severity\":\"safe\"},\"protected_"    \
    "material_code\":{\"filtered\":false,\"detected\":true,\"citation\":{\"URL\":\"https://example.invalid/repo\","  \
    "\"license\":\"EXAMPLE\"}}},\"finish_reason\":\"tool_calls\",\"index\":0,\"logprobs\":null,\"message\":{"        \
    "\"content\":null,\"refusal\":null,\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":"         \
    "\"{\\\"city\\\":\\\"Z\\\\u00fcrich\\\"}\",\"name\":\"get_weather\"},\"id\":\"call_A1\",\"type\":\"function\"}]" \
    "}}],\"created\":1760000000,\"id\":\"chatcmpl-T1\",\"model\":\"gpt-4o-2024-11-20\",\"object\":"                  \
    "\"chat.completion\",\"prompt_filter_results\":[{\"prompt_index\":0,\"content_filter_results\":{\"jailbreak\":{" \
    "\"filtered\":false,\"detected\":false},\"self_harm\":{\"filtered\":false,\"severity\":\"safe\"}}}],"            \
    "\"system_fingerprint\":\"fp_0000000000\",\"usage\":{\"completion_tokens\":17,\"completion_tokens_details\":{"   \
    "\"accepted_prediction_tokens\":0,\"audio_tokens\":0,\"reasoning_tokens\":0,\"rejected_prediction_tokens\":0},"  \
    "\"prompt_tokens\":61,\"prompt_tokens_details\":{\"audio_tokens\":0,\"cached_tokens\":0},\"total_tokens\":78}}"
#define HEAD_81                                                                                   \
    "Content-Type: application/json\r\napim-request-id: 6a1d0c1e-0000-4000-8000-000000000001\r\n" \
    "x-request-id: 6a1d0c1e-0000-4000-8000-0000000000aa\r\nX-MS-Region: \tSweden Central \r\n"    \
    "x-ratelimit-remaining-requests: 79\r\nx-ratelimit-remaining-tokens: 61353\r\nX-Empty:\r\n"   \
    "x-rate-limit-reset-tokens: 55\r\nx-ratelimit-reset-requests: 6m0s\r\nx-ratelimit-limit-requests: -1\r\n"

static void test_reply_81(void **state) {
    azo_client *client = client_for(ENDPOINT, VERSION, "gpt-4o prod");
    azo_request *job = begin_hello(client, false);
    azo_chat_reply reply;
    azo_error err;
    (void)state;
    assert_int_equal(play(job, 200, HEAD_81, BODY_81), AZO_OK);
    azo_client_close(client); /* the reply is independent of it */
    assert_int_equal(azo_chat_end(job, &reply, &err), AZO_OK);
    check_text(reply.text, NULL);
    check_text(reply.refusal, NULL);
    check_text(reply.finish_reason, "tool_calls");
    assert_int_equal(reply.choice_count, 1);
    assert_int_equal(reply.tool_call_count, 1);
    check_text(reply.tool_calls[0].id, "call_A1");
    check_text(reply.tool_calls[0].name, "get_weather");
    check_text(reply.tool_calls[0].arguments, "{\"city\":\"Z\\u00fcrich\"}");
    check_text(reply.message_json,
               "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"call_A1\",\"type\":\"function\","
               "\"function\":{\"name\":\"get_weather\",\"arguments\":\"{\\\"city\\\":\\\"Z\\\\u00fcrich\\\"}\"}}]}");
    check_text(reply.choices[0].filter_json,
               "{\"hate\":{\"filtered\":false,\"severity\":\"safe\"},\"protected_material_code\":{\"filtered\":false,"
               "\"detected\":true,\"citation\":{\"URL\":\"https://example.invalid/repo\",\"license\":\"EXAMPLE\"}}}");
    check_text(reply.prompt_filter_json, "[{\"prompt_index\":0,\"content_filter_results\":{\"jailbreak\":{\"filtered\":"
                                         "false,\"detected\":false},\"self_harm\":{\"filtered\":false,\"severity\":"
                                         "\"safe\"}}}]");
    check_text(reply.id, "chatcmpl-T1");
    check_text(reply.model, "gpt-4o-2024-11-20");
    assert_int_equal(reply.prompt_tokens, 61);
    assert_int_equal(reply.cached_tokens, 0);
    assert_int_equal(reply.completion_tokens, 17);
    assert_int_equal(reply.reasoning_tokens, 0);
    assert_non_null(strstr(reply.usage_json.ptr, "\"total_tokens\":78}"));
    check_text(reply.http.body, BODY_81);
    assert_int_equal(reply.http.status, 200);
    assert_int_equal(reply.http.attempts, 1);
    check_text(reply.http.request_id, "6a1d0c1e-0000-4000-8000-000000000001");
    check_text(reply.http.region, "Sweden Central");
    check_text(azo_http_header(&reply.http, "X-Ms-Region"), "Sweden Central");
    check_text(azo_http_header(&reply.http, "X-EMPTY"), "");
    check_text(azo_http_header(&reply.http, "absent"), NULL);
    check_text(reply.http.headers, HEAD_81 "Connection: keep-alive\r\n");
    assert_int_equal(reply.http.limits.remaining_requests, 79);
    assert_int_equal(reply.http.limits.remaining_tokens, 61353);
    assert_int_equal(reply.http.limits.limit_requests, -1);
    assert_int_equal(reply.http.limits.limit_tokens, -1);
    assert_int_equal(reply.http.limits.reset_tokens_ms, 55000);
    assert_int_equal(reply.http.limits.reset_requests_ms, 360000);
    azo_chat_reply_free(&reply);
    azo_chat_reply_free(&reply);
    azo_chat_reply_free(NULL);
}

static void test_limit_waits(void **state) {
    static const struct {
        const char *text;
        int32_t ms;
    } cases[] = {{"10", 10000},  {"0", 0},    {"17ms", 17}, {"6m0s", 360000}, {"1h2m3.5s", 3723500},
                 {"1.25", 1250}, {"0s", 0},   {"", -1},     {"-1", -1},       {"x", -1},
                 {"5x", -1},     {"5 s", -1}, {"5sm", -1},  {"1m5hh", -1},    {"99999999h", INT32_MAX},
                 {"1s1", 2000},  {"ms", -1}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(azoi_limit_wait(azo_s(cases[i].text)), cases[i].ms);
    }
}

/* ---- streams: the notes say every event and the reply ---- */

typedef struct stream_run {
    azo_client *client;
    azo_request *job;
    azo_result result;
    bool pauses;      /* after every event */
    unsigned stop_at; /* the event that answers STOP; 0: none */
    unsigned events;
    bool quiet;        /* no events in the notes */
    test_notes *notes; /* of the present piece */
} stream_run;

static const char *or_dash(azo_str text) {
    return text.ptr != NULL ? text.ptr : "-";
}

static int on_event(const azo_event *event, void *user_data) {
    static const char *const kinds[] = {"?", "text", "refusal", "tool", "filter", "finish", "usage", "other"};
    stream_run *run = (stream_run *)user_data;
    run->events++;
    assert_int_equal(event->json.ptr[event->json.len], '\0');
    if (event->text.ptr != NULL) {
        assert_int_equal(event->text.ptr[event->text.len], '\0');
    }
    if (!run->quiet) {
        test_note(run->notes, "%s %d.%d ", kinds[event->kind], event->choice, event->tool);
        if (event->tool_id.ptr != NULL || event->tool_name.ptr != NULL) {
            test_note(run->notes, "%s %s ", or_dash(event->tool_id), or_dash(event->tool_name));
        }
        test_note_text(run->notes, event->text);
        test_note(run->notes, "\n");
    }
    return run->stop_at == run->events ? AZO_STOP : run->pauses ? AZO_PAUSE : AZO_GO_ON;
}

static void stream_begin(void *self) {
    stream_run *run = (stream_run *)self;
    azo_message hello = azo_user("hello");
    azo_chat_desc desc = chat_of(&hello, 1);
    desc.on_event = on_event;
    desc.user_data = run;
    run->job = begin_chat(run->client, &desc);
    run->result = AZO_OK;
    run->events = 0;
    play_head(run->job, 200, "Content-Type: text/event-stream\r\n");
}

static void stream_feed(void *self, azo_str piece, test_notes *notes) {
    stream_run *run = (stream_run *)self;
    run->notes = notes;
    if (run->result == AZO_OK && !run->job->complete) {
        run->result = play_piece(run->job, piece);
    }
}

static void note_reply(test_notes *n, const azo_chat_reply *reply) {
    size_t i;
    size_t k;
    for (i = 0; i < reply->choice_count; i++) {
        const azo_choice *c = &reply->choices[i];
        test_note(n, "choice ");
        test_note_text(n, c->text);
        if (c->refusal.ptr != NULL) {
            test_note(n, " refusal ");
            test_note_text(n, c->refusal);
        }
        test_note(n, " %s", or_dash(c->finish_reason));
        if (c->filter_json.ptr != NULL) {
            test_note(n, " %s", c->filter_json.ptr);
        }
        for (k = 0; k < c->tool_call_count; k++) {
            test_note(n, " [%s %s %s]", or_dash(c->tool_calls[k].id), or_dash(c->tool_calls[k].name),
                      or_dash(c->tool_calls[k].arguments));
        }
        test_note(n, "\n");
    }
    if (reply->prompt_filter_json.ptr != NULL) {
        test_note(n, "prompt %s\n", reply->prompt_filter_json.ptr);
    }
    test_note(n, "id %s tokens %d+%d\n", or_dash(reply->id), (int)reply->prompt_tokens, (int)reply->completion_tokens);
}

static void stream_end(void *self, test_notes *notes) {
    stream_run *run = (stream_run *)self;
    azo_chat_reply reply;
    azo_error err;
    azo_result r;
    run->notes = notes;
    (void)play_end(run->job, run->result);
    r = azo_chat_end(run->job, &reply, &err);
    test_note(notes, "%s\n", azo_result_name(r));
    if (r != AZO_OK) {
        test_sentences(err.message);
    }
    note_reply(notes, &reply);
    azo_chat_reply_free(&reply);
    run->job = NULL;
}

static const test_parser stream_parser = {stream_begin, stream_feed, stream_end};

static void check_stream_with(const char *version, bool pauses, const char *input, const char *expected) {
    stream_run run;
    memset(&run, 0, sizeof run);
    run.client = client_for(ENDPOINT, version, "d");
    run.pauses = pauses;
    test_splits(&stream_parser, &run, azo_s(input), expected);
    azo_client_close(run.client);
}

static void check_stream(const char *input, const char *expected) {
    check_stream_with(NULL, false, input, expected);
    check_stream_with(NULL, true, input, expected); /* pauses neither lose nor repeat */
}

#define CHUNK_82(choices, usage)                                                                                      \
    "data: {\"choices\":[" choices "],\"created\":1760000001,\"id\":\"chatcmpl-T2\",\"model\":\"gpt-4o-2024-11-20\"," \
    "\"object\":\"chat.completion.chunk\",\"usage\":" usage "}\n\n"
#define CHOICE_82(delta, finish) \
    "{\"content_filter_results\":{},\"delta\":" delta ",\"finish_reason\":" finish ",\"index\":0,\"logprobs\":null}"
#define TOOL_82(fragment) CHUNK_82(CHOICE_82("{\"tool_calls\":[" fragment "]}", "null"), "null")
#define BODY_82                                                                                                        \
    "data: {\"choices\":[],\"created\":0,\"id\":\"\",\"model\":\"\",\"object\":\"\",\"prompt_filter_results\":[{"      \
    "\"prompt_index\":0,\"content_filter_results\":{\"hate\":{\"filtered\":false,\"severity\":\"safe\"}}}],"           \
    "\"usage\":null}\n\n" CHUNK_82(CHOICE_82("{\"content\":null,\"refusal\":null,\"role\":\"assistant\"}", "null"),    \
                                   "null")                                                                             \
        TOOL_82("{\"function\":{\"arguments\":\"\",\"name\":\"get_weather\"},\"id\":\"call_A\",\"index\":0,\"type\":"  \
                "\"function\"}") ": keep-alive\n\n" TOOL_82("{\"function\":{\"arguments\":\"{\\\"city\\\":\"},"        \
                                                            "\"index\":0}")                                            \
            TOOL_82("{\"function\":{\"arguments\":\"\",\"name\":\"get_time\"},\"id\":\"call_B\",\"index\":1,\"type\":" \
                    "\"function\"}") TOOL_82("{\"function\":{\"arguments\":\"\\\"Bern\\\"}\"},\"index\":0}")           \
                TOOL_82("{\"function\":{\"arguments\":\"{\\\"tz\\\":\\\"CET\\\"}\"},\"index\":1}")                     \
                    CHUNK_82(CHOICE_82("{}", "\"tool_calls\""), "null")                                                \
                        CHUNK_82("", "{\"completion_tokens\":31,\"prompt_tokens\":70,\"total_tokens\":101}")
#define EVENTS_82                                                                                                \
    "filter -1.0 '{\"hate\":{\"filtered\":false,\"severity\":\"safe\"}}'\nother 0.0 -\n"                         \
    "tool 0.0 call_A get_weather ''\ntool 0.0 '{\"city\":'\ntool 0.1 call_B get_time ''\ntool 0.0 '\"Bern\"}'\n" \
    "tool 0.1 '{\"tz\":\"CET\"}'\nfinish 0.0 'tool_calls'\n"                                                     \
    "usage 0.0 '{\"completion_tokens\":31,\"prompt_tokens\":70,\"total_tokens\":101}'\n"
#define REPLY_82                                                                                                       \
    "choice - tool_calls [call_A get_weather {\"city\":\"Bern\"}] [call_B get_time {\"tz\":\"CET\"}]\n"                \
    "prompt [{\"prompt_index\":0,\"content_filter_results\":{\"hate\":{\"filtered\":false,\"severity\":\"safe\"}}}]\n" \
    "id chatcmpl-T2 tokens 70+31\n"

/* Replaces every LF. */
static char *with_line_ends(const char *text, const char *ending, const char *prefix) {
    char *out = (char *)malloc(strlen(text) * 2 + 16);
    char *at = out;
    assert_non_null(out);
    at += sprintf(at, "%s", prefix);
    for (; *text != '\0'; text++) {
        if (*text == '\n') {
            at += sprintf(at, "%s", ending);
        } else {
            *at++ = *text;
        }
    }
    *at = '\0';
    return out;
}

static void test_stream_82(void **state) {
    static const char input[] = BODY_82 "data: [DONE]\n\n";
    static const char expected[] = EVENTS_82 "AZO_OK\n" REPLY_82;
    char *text;
    (void)state;
    check_stream(input, expected);
    check_stream(BODY_82, expected); /* all choices finished: the mark is not needed */
    text = with_line_ends(input, "\r\n", "");
    check_stream(text, expected);
    free(text);
    text = with_line_ends(input, "\r", "\xef\xbb\xbf");
    check_stream(text, expected);
    free(text);
    text = with_line_ends(input, "\n", " \n\n");
    check_stream(text, expected);
    free(text);
}

/* The same with and without streaming. */
static void test_stream_message(void **state) {
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    azo_request *job = begin_hello(client, true);
    azo_chat_reply reply;
    azo_error err;
    (void)state;
    assert_int_equal(play(job, 200, HEAD_81, BODY_82 "data: [DONE]\n\n"), AZO_OK);
    assert_int_equal(azo_chat_end(job, &reply, &err), AZO_OK);
    check_text(reply.message_json,
               "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"call_A\",\"type\":\"function\","
               "\"function\":{\"name\":\"get_weather\",\"arguments\":\"{\\\"city\\\":\\\"Bern\\\"}\"}},{\"id\":"
               "\"call_B\",\"type\":\"function\",\"function\":{\"name\":\"get_time\",\"arguments\":\"{\\\"tz\\\":"
               "\\\"CET\\\"}\"}}]}");
    check_text(reply.http.body, NULL);
    check_text(reply.http.region, "Sweden Central");
    check_text(
        reply.prompt_filter_json,
        "[{\"prompt_index\":0,\"content_filter_results\":{\"hate\":{\"filtered\":false,\"severity\":\"safe\"}}}]");
    azo_chat_reply_free(&reply);
    azo_client_close(client);
}

#define BODY_83                                                                                                       \
    "data: {\"id\":\"\",\"object\":\"\",\"created\":0,\"model\":\"\",\"prompt_annotations\":[{\"prompt_index\":0,"    \
    "\"content_filter_results\":{\"hate\":{\"filtered\":false,\"severity\":\"safe\"}}}],\"choices\":[],\"usage\":"    \
    "null} \n\n"                                                                                                      \
    "data: {\"id\":\"chatcmpl-T3\",\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"finish_reason\":null,"            \
    "\"delta\":{\"role\":\"assistant\"}}],\"usage\":null}\n\n"                                                        \
    "data: {\"id\":\"chatcmpl-T3\",\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"finish_reason\":null,"            \
    "\"delta\":{\"content\":\"Gr\xc3\xbc"                                                                             \
    "ezi \xf0\x9f\x98\x80\"}}],\"usage\":null}\n\n"                                                                   \
    "data: {\"id\":\"\",\"model\":\"\",\"choices\":[{\"index\":0,\"finish_reason\":null,\"content_filter_results\":{" \
    "\"violence\":{\"filtered\":false,\"severity\":\"low\"}},\"content_filter_offsets\":{\"check_offset\":44}}],"     \
    "\"usage\":null}\n\n"                                                                                             \
    "data: {\"id\":\"chatcmpl-T3\",\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\","        \
    "\"delta\":{}}],\"usage\":null}\n\n"                                                                              \
    "data: {\"id\":\"\",\"model\":\"\",\"choices\":[{\"index\":0,\"finish_reason\":\"content_filter\","               \
    "\"content_filter_results\":{\"protected_material_text\":{\"detected\":true,\"filtered\":true}}}],\"usage\":"     \
    "null}\n\n"                                                                                                       \
    "data: [DONE] \n\n"

static void test_stream_83(void **state) {
    (void)state;
    check_stream(BODY_83,
                 "filter -1.0 '{\"hate\":{\"filtered\":false,\"severity\":\"safe\"}}'\nother 0.0 -\n"
                 "text 0.0 'Gr\\xc3\\xbcezi \\xf0\\x9f\\x98\\x80'\n"
                 "filter 0.0 '{\"violence\":{\"filtered\":false,\"severity\":\"low\"}}'\nfinish 0.0 'stop'\n"
                 "filter 0.0 '{\"protected_material_text\":{\"detected\":true,\"filtered\":true}}'\n"
                 "finish 0.0 'content_filter'\nAZO_OK\n"
                 "choice 'Gr\\xc3\\xbcezi \\xf0\\x9f\\x98\\x80' content_filter {\"violence\":{\"filtered\":false,"
                 "\"severity\":\"low\"},\"protected_material_text\":{\"detected\":true,\"filtered\":true}}\n"
                 "prompt [{\"prompt_index\":0,\"content_filter_results\":{\"hate\":{\"filtered\":false,\"severity\":"
                 "\"safe\"}}}]\nid chatcmpl-T3 tokens -1+-1\n");
}

/* Of each category the latest results count; a finish by the filter is not taken back. */
static void test_stream_filters(void **state) {
    (void)state;
    check_stream("data: {\"prompt_filter_results\":[{\"prompt_index\":0,\"content_filter_results\":{\"hate\":1}},{"
                 "\"prompt_index\":1,\"content_filter_results\":{\"hate\":2}}],\"choices\":[]}\n\n"
                 "data: {\"choices\":[{\"content_filter_results\":{\"hate\":0,\"violence\":0}}]}\n\n"
                 "data: {\"choices\":[{\"content_filter_results\":{\"violence\":4,\"jailbreak\":0}}]}\n\n"
                 "data: {\"choices\":[{\"finish_reason\":\"content_filter\"}]}\n\n"
                 "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n",
                 "filter -1.0 '{\"hate\":1}'\nfilter -1.0 '{\"hate\":2}'\nfilter 0.0 '{\"hate\":0,\"violence\":0}'\n"
                 "filter 0.0 '{\"violence\":4,\"jailbreak\":0}'\nfinish 0.0 'content_filter'\nfinish 0.0 'stop'\n"
                 "AZO_OK\nchoice - content_filter {\"hate\":0,\"violence\":4,\"jailbreak\":0}\n"
                 "prompt [{\"prompt_index\":0,\"content_filter_results\":{\"hate\":1}},{\"prompt_index\":1,"
                 "\"content_filter_results\":{\"hate\":2}}]\nid - tokens -1+-1\n");
}

#define DELTA(content)                                                                                       \
    "data: {\"id\":\"i\",\"choices\":[{\"index\":0,\"finish_reason\":null,\"delta\":{\"content\":\"" content \
    "\"}}]}\n\n"
#define STOP_CHUNK "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"delta\":{}}]}\n\n"

static void test_stream_84(void **state) {
    (void)state;
    check_stream(DELTA("Par") "data: {\"error\":{\"message\":\"synthetic backend failure\",\"type\":\"server_error\","
                              "\"param\":null,\"code\":null}}\n\n",
                 "text 0.0 'Par'\nAZO_ERR_SERVICE\nchoice 'Par' -\nid i tokens -1+-1\n");
    check_stream("data: {\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"x\"}}\n\n",
                 "AZO_ERR_RATE_LIMIT\nid - tokens -1+-1\n");
    check_stream("event: error\ndata: {\"code\":\"429\",\"message\":\"x\"}\n\n",
                 "AZO_ERR_RATE_LIMIT\nid - tokens -1+-1\n");
    check_stream("data: {\"error\":{\"code\":\"content_filter\",\"message\":\"x\"}}\n\n",
                 "AZO_ERR_CONTENT_FILTER\nid - tokens -1+-1\n");
    check_stream("data: {\"error\":\"plain\"}\n\n", "AZO_ERR_SERVICE\nid - tokens -1+-1\n");
    check_stream("data: {\"error\":{\"code\":\"200\"}}\n\n", "AZO_ERR_SERVICE\nid - tokens -1+-1\n");
    check_stream("data: {\"error\":{\"code\":\"600\"}}\n\n", "AZO_ERR_SERVICE\nid - tokens -1+-1\n");
    /* the last event without its blank line */
    check_stream(DELTA("Par") "data: {\"error\":{\"code\":\"429\",\"message\":\"x\"}}",
                 "text 0.0 'Par'\nAZO_ERR_RATE_LIMIT\nchoice 'Par' -\nid i tokens -1+-1\n");
    /* an event with choices is one of the answer, whatever its name */
    check_stream("event: error\n" DELTA("a") STOP_CHUNK,
                 "text 0.0 'a'\nfinish 0.0 'stop'\nAZO_OK\nchoice 'a' stop\nid i tokens -1+-1\n");
}

/* What would end an object is a text like any other where it stands in a string. */
static void test_stream_braces(void **state) {
    (void)state;
    check_stream("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"{\"}}]}\n\n"
                 "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"}\"}}]}\n\n"
                 "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" }\",\"refusal\":\"}\"}}]}\n\n"
                 "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"}\"}]}\n\n"
                 "data: [DONE]\n\n",
                 "text 0.0 '{'\ntext 0.0 '}'\ntext 0.0 ' }'\nrefusal 0.0 '}'\nfinish 0.0 '}'\nAZO_OK\n"
                 "choice '{} }' refusal '}' }\nid - tokens -1+-1\n");
}

static void test_stream_ends(void **state) {
    (void)state;
    check_stream(DELTA("Par"), "text 0.0 'Par'\nAZO_ERR_STREAM\nchoice 'Par' -\nid i tokens -1+-1\n");
    check_stream(DELTA("Par") "data: {\"choices\":[{\"index\":0,\"del",
                 "text 0.0 'Par'\nAZO_ERR_STREAM\nchoice 'Par' -\nid i tokens -1+-1\n");
    check_stream(DELTA("a") STOP_CHUNK,
                 "text 0.0 'a'\nfinish 0.0 'stop'\nAZO_OK\nchoice 'a' stop\nid i tokens -1+-1\n");
    check_stream(DELTA("a") "data: [DONE]", "text 0.0 'a'\nAZO_OK\nchoice 'a' -\nid i tokens -1+-1\n");
    check_stream(DELTA("a") "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}]}",
                 "text 0.0 'a'\nfinish 0.0 'stop'\nAZO_OK\nchoice 'a' stop\nid i tokens -1+-1\n");
    check_stream(DELTA("a") STOP_CHUNK "data: [DONE]\n\n" DELTA("never"),
                 "text 0.0 'a'\nfinish 0.0 'stop'\nAZO_OK\nchoice 'a' stop\nid i tokens -1+-1\n");
    check_stream("", "AZO_ERR_STREAM\nid - tokens -1+-1\n");
    check_stream("\n \n", "AZO_ERR_STREAM\nid - tokens -1+-1\n");
    check_stream("data: [DONE]\n\n", "AZO_ERR_STREAM\nid - tokens -1+-1\n");
    check_stream("plain text\n", "AZO_ERR_HTTP\nid - tokens -1+-1\n");
    check_stream("<html>Sorry</html>", "AZO_ERR_HTTP\nid - tokens -1+-1\n");
    check_stream("{\"choices\":[]}", "other 0.0 -\nAZO_ERR_JSON\nid - tokens -1+-1\n");
    check_stream("{\"choices\":[", "AZO_ERR_JSON\nid - tokens -1+-1\n");
    check_stream(" {\"id\":\"w\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":"
                 "\"assistant\",\"content\":\"whole\"}}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}",
                 "text 0.0 'whole'\nfinish 0.0 'stop'\nusage 0.0 '{\"prompt_tokens\":1,\"completion_tokens\":2}'\n"
                 "AZO_OK\nchoice 'whole' stop\nid w tokens 1+2\n");
    check_stream(DELTA("a") "data: nonsense\n\n", "text 0.0 'a'\nAZO_ERR_JSON\nchoice 'a' -\nid i tokens -1+-1\n");
}

/* A gateway that forgets blank lines; a pause between the glued events must hold. */
static void test_stream_glued(void **state) {
    (void)state;
    check_stream("data: {\"id\":\"g\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n"
                 "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"},\"finish_reason\":\"stop\"}]}\n"
                 "data: [DONE]\n\n",
                 "text 0.0 'a'\ntext 0.0 'b'\nfinish 0.0 'stop'\nAZO_OK\nchoice 'ab' stop\nid g tokens -1+-1\n");
    check_stream("data: {\"id\":\"g\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\ndata:\ndata:  \n"
                 "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"}}]}\n"
                 "data: [DONE]\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"never\"}}]}\n\n",
                 "text 0.0 'a'\ntext 0.0 'b'\nAZO_OK\nchoice 'ab' -\nid g tokens -1+-1\n");
    check_stream("data: {\"id\":\"g\",\"choices\":[\ndata: {\"index\":0,\"delta\":{\"content\":\"a\"},\n"
                 "data: \"finish_reason\":\"stop\"}]}\n\n",
                 "text 0.0 'a'\nfinish 0.0 'stop'\nAZO_OK\nchoice 'a' stop\nid g tokens -1+-1\n");
}

static void test_stream_choices(void **state) {
    (void)state;
    /* interleaved choices, out of order; several events in one chunk; refusals */
    check_stream("data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"B\"}},{\"index\":0,\"delta\":{\"content\":"
                 "\"A\",\"refusal\":\"no\"}}]}\n\n"
                 "data: {\"choices\":[{\"index\":2,\"delta\":{\"content\":\"\"}}]}\n\n"
                 "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}},{\"index\":1,\"delta\":{\"content\":"
                 "\"b\\ud83d\\ude00\"}}]}\n\n"
                 "data: [DONE]\n\n",
                 "text 1.0 'B'\ntext 0.0 'A'\nrefusal 0.0 'no'\nother 0.0 -\ntext 0.0 'a'\n"
                 "text 1.0 'b\\xf0\\x9f\\x98\\x80'\nAZO_OK\nchoice 'Aa' refusal 'no' -\nchoice "
                 "'Bb\\xf0\\x9f\\x98\\x80' -\nchoice '' -\nid - tokens -1+-1\n");
    check_stream("data: {\"choices\":[{\"index\":-1,\"delta\":{}}]}\n\n", "AZO_ERR_JSON\nid - tokens -1+-1\n");
    check_stream("data: {\"choices\":[{\"index\":200,\"delta\":{}}]}\n\n", "AZO_ERR_JSON\nid - tokens -1+-1\n");
    check_stream("data: {\"choices\":[null,5,{\"index\":0,\"delta\":null},{\"index\":0,\"delta\":{\"tool_calls\":[7],"
                 "\"content\":{}}}],\"usage\":null,\"prompt_filter_results\":[3,{}],\"id\":7,\"model\":null}\n\n"
                 "data: 5\n\ndata: [DONE]\n\n",
                 "other 0.0 -\nother 0.0 -\nAZO_OK\nchoice - -\nid - tokens -1+-1\n");
}

/* A piece of a tool call of one choice; `members` end in a comma. */
#define PIECE(choice, members, arguments)                                             \
    "data: {\"choices\":[{\"index\":" #choice ",\"delta\":{\"tool_calls\":[{" members \
    "\"function\":{\"arguments\":\"" arguments "\"}}]}}]}\n\n"
#define DONE "data: [DONE]\n\n"

/* Where a piece of a tool call belongs. */
static void test_stream_tools(void **state) {
    static const char *const impossible[] = {"128", "-1", "-2", "1.5", "99999999999999999999"};
    size_t i;
    (void)state;
    /* fragments without an index, ids that are repeated, an object as arguments */
    check_stream(
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"c1\",\"function\":{\"name\":\"f\",\"arguments"
        "\":\"1\"}}]}}]}\n\n"
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"2\"}}]}}]}\n\n"
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"c2\",\"function\":{\"name\":\"g\",\"arguments"
        "\":{\"x\":1}}}]}}]}\n\n"
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"c1\",\"function\":{\"arguments\":\"3\"}}]},"
        "\"finish_reason\":\"tool_calls\"}]}\n\n",
        "tool 0.0 c1 f '1'\ntool 0.0 '2'\ntool 0.1 c2 g '{\"x\":1}'\ntool 0.0 '3'\nfinish 0.0 'tool_calls'\n"
        "AZO_OK\nchoice - tool_calls [c1 f 123] [c2 g {\"x\":1}]\nid - tokens -1+-1\n");
    /* the same for each choice */
    check_stream(PIECE(1, "\"id\":\"c1\",", "1") PIECE(0, "", "2") PIECE(1, "", "3") DONE,
                 "tool 1.0 c1 - '1'\ntool 0.0 '2'\ntool 1.0 '3'\n"
                 "AZO_OK\nchoice - - [- - 2]\nchoice - - [c1 - 13]\nid - tokens -1+-1\n");
    /* out of order */
    check_stream(PIECE(0, "\"index\":1,", "B") PIECE(0, "\"index\":0,", "A") PIECE(0, "\"index\":1,", "b") DONE,
                 "tool 0.1 'B'\ntool 0.0 'A'\ntool 0.1 'b'\n"
                 "AZO_OK\nchoice - - [- - A] [- - Bb]\nid - tokens -1+-1\n");
    /* an index that is no number is none */
    check_stream(PIECE(0, "\"index\":\"x\",", "1") DONE,
                 "tool 0.0 '1'\nAZO_OK\nchoice - - [- - 1]\nid - tokens -1+-1\n");
    for (i = 0; i < sizeof impossible / sizeof impossible[0]; i++) {
        char input[160];
        snprintf(input, sizeof input, PIECE(0, "\"index\":%s,", "1"), impossible[i]);
        check_stream(input, "AZO_ERR_JSON\nchoice - -\nid - tokens -1+-1\n");
    }
}

static void test_stream_stop(void **state) {
    stream_run run;
    test_notes notes;
    azo_error err;
    (void)state;
    memset(&run, 0, sizeof run);
    memset(&notes, 0, sizeof notes);
    run.client = client_for(ENDPOINT, NULL, "d");
    run.stop_at = 2;
    stream_begin(&run);
    stream_feed(&run, azo_s(DELTA("a") DELTA("b") DELTA("c")), &notes);
    assert_int_equal(run.result, AZO_ERR_CANCELLED);
    assert_int_equal(run.events, 2);
    azoi_job_finish(run.job, AZO_ERR_CANCELLED);
    assert_int_equal(azo_chat_end(run.job, NULL, &err), AZO_ERR_CANCELLED);
    assert_int_equal(err.code, AZO_ERR_CANCELLED);
    test_notes_free(&notes);
    azo_client_close(run.client);
}

static void test_stream_limit(void **state) {
    static const char *const bodies[] = {
        DELTA("1234") DELTA("5678") STOP_CHUNK, DELTA("123456789") STOP_CHUNK,
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"123456789\"}]}}]}\n\n"};
    static const char *const kept[] = {"1234", NULL, NULL};
    azo_client_desc desc = desc_of(ENDPOINT, NULL, "d");
    azo_client *client;
    size_t i;
    (void)state;
    desc.max_response_bytes = 8;
    client = client_of(&desc);
    for (i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        azo_request *job = begin_hello(client, true);
        azo_chat_reply reply;
        azo_error err;
        assert_int_equal(play(job, 200, "", bodies[i]), AZO_ERR_LIMIT);
        assert_int_equal(azo_chat_end(job, &reply, &err), AZO_ERR_LIMIT);
        test_sentences(err.message);
        check_text(reply.text, kept[i]);
        azo_chat_reply_free(&reply);
    }
    azo_client_close(client);
}

/* As many choices and tool calls as a reply may have, which all go on, and one more. */
static void test_stream_parts(void **state) {
    enum { TOOLS = 127, CHOICES = AZOI_MAX_PARTS / (1 + TOOLS) };
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    int more;
    (void)state;
    for (more = 0; more < 2; more++) {
        azo_result expected = more ? AZO_ERR_JSON : AZO_OK;
        azo_request *job = begin_hello(client, true);
        azo_chat_reply reply;
        int i;
        play_head(job, 200, "");
        for (i = 0; i < 2 * CHOICES * TOOLS; i++) {
            char piece[160];
            snprintf(piece, sizeof piece, PIECE(% d, "\"index\":%d,", "%d,"), i % CHOICES, i / CHOICES % TOOLS, i);
            assert_int_equal(play_piece(job, azo_s(piece)), AZO_OK);
        }
        assert_int_equal(play_end(job, play_piece(job, azo_s(more ? PIECE(4, "", "x") DONE : DONE))), expected);
        assert_int_equal(azo_chat_end(job, &reply, NULL), expected);
        assert_int_equal(reply.choice_count, CHOICES);
        for (i = 0; i < CHOICES; i++) {
            assert_int_equal(reply.choices[i].tool_call_count, TOOLS);
        }
        check_text(reply.choices[3].tool_calls[126].arguments, "507,1015,");
        azo_chat_reply_free(&reply);
    }
    azo_client_close(client);
}

/* Two choices in turn must not cost the square of their length. */
static void test_stream_interleaved(void **state) {
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    azo_request *job = begin_hello(client, true);
    azo_chat_reply reply;
    azo_error err;
    char chunk[128];
    int i;
    (void)state;
    play_head(job, 200, "");
    for (i = 0; i < 4000; i++) {
        snprintf(chunk, sizeof chunk, "data: {\"choices\":[{\"index\":%d,\"delta\":{\"content\":\"%d|\"}}]}\n\n", i % 2,
                 i);
        assert_int_equal(play_piece(job, azo_s(chunk)), AZO_OK);
    }
    assert_true(((azoi_chat *)job->data)->arena.len < 120000);
    assert_int_equal(play_piece(job, azo_s("data: [DONE]\n\n")), AZO_OK);
    assert_int_equal(play_end(job, AZO_OK), AZO_OK);
    assert_int_equal(azo_chat_end(job, &reply, &err), AZO_OK);
    assert_int_equal(reply.choice_count, 2);
    assert_non_null(strstr(reply.choices[1].text.ptr, "|1001|1003|1005|"));
    assert_int_equal(memcmp(reply.text.ptr, "0|2|4|", 6), 0);
    azo_chat_reply_free(&reply);
    azo_client_close(client);
}

/* A retry starts over. */
static void test_stream_restart(void **state) {
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    azo_request *job = begin_hello(client, true);
    azo_chat_reply reply;
    azo_error err;
    (void)state;
    play_head(job, 200, "");
    assert_int_equal(
        play_piece(job, azo_s(DELTA("lost") "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"x")), AZO_OK);
    azoi_job_start_over(job);
    assert_int_equal(play(job, 200, "", DELTA("kept") STOP_CHUNK), AZO_OK);
    assert_int_equal(azo_chat_end(job, &reply, &err), AZO_OK);
    assert_int_equal(reply.choice_count, 1);
    check_text(reply.text, "kept");
    azo_chat_reply_free(&reply);
    azo_client_close(client);
}

static void test_whole_bodies(void **state) {
    static const struct {
        const char *body;
        azo_result result;
    } cases[] = {
        {"", AZO_ERR_HTTP},
        {"<html>Sign in</html>", AZO_ERR_HTTP},
        {"{\"choices\":[]}", AZO_ERR_JSON},
        {"{\"object\":\"list\"}", AZO_ERR_JSON},
        {"{\"choices\":[{\"message\":{\"content\":\"x\"}}]", AZO_ERR_JSON},
        {"{\"error\":{\"code\":\"server_error\",\"message\":\"x\"}}", AZO_ERR_SERVICE},
        {"{\"choices\":[{\"message\":{\"content\":\"x\"}}]}", AZO_OK},
        {"\n {\"choices\":[{\"message\":{\"content\":\"x\",\"custom\":1}}],\"error\":null}\n", AZO_OK},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        azo_client *client = client_for(ENDPOINT, NULL, "d");
        azo_request *job = begin_hello(client, false);
        azo_chat_reply reply;
        azo_error err;
        assert_int_equal(play(job, 200, "", cases[i].body), cases[i].result);
        assert_int_equal(azo_chat_end(job, &reply, &err), cases[i].result);
        if (cases[i].result == AZO_OK) {
            check_text(reply.text, "x");
        } else {
            test_sentences(err.message);
        }
        check_text(reply.http.body, cases[i].body[0] != '\0' ? cases[i].body : NULL);
        azo_chat_reply_free(&reply);
        azo_client_close(client);
    }
}

/* The same in one piece and in several. */
static void test_custom_tools(void **state) {
    static const char *const bodies[] = {
        "{\"choices\":[{\"message\":{\"content\":\"\",\"refusal\":\"r\",\"tool_calls\":[{"
        "\"id\":\"i\",\"type\":\"custom\",\"custom\":{\"name\":\"n\",\"input\":\"raw\"}},"
        "{\"id\":\"j\",\"function\":{\"name\":\"m\",\"arguments\":\"{}\"}}]}}]}",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\",\"refusal\":\"r\",\"tool_calls\":[{\"index\":0,"
        "\"id\":\"i\",\"type\":\"custom\",\"custom\":{\"name\":\"n\",\"input\":\"r\"}}]}}]}\n\n"
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"custom\":{\"input\":\"aw\"}},"
        "{\"index\":1,\"id\":\"j\",\"function\":{\"name\":\"m\",\"arguments\":\"{}\"}}]}}]}\n\ndata: [DONE]\n\n"};
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    int stream;
    (void)state;
    for (stream = 0; stream < 2; stream++) {
        azo_request *job = begin_hello(client, stream == 1);
        azo_chat_reply reply;
        azo_error err;
        assert_int_equal(play(job, 200, "", bodies[stream]), AZO_OK);
        assert_int_equal(azo_chat_end(job, &reply, &err), AZO_OK);
        check_text(reply.message_json,
                   "{\"role\":\"assistant\",\"content\":\"\",\"refusal\":\"r\",\"tool_calls\":[{\"id\":\"i\",\"type\":"
                   "\"custom\",\"custom\":{\"name\":\"n\",\"input\":\"raw\"}},{\"id\":\"j\",\"type\":\"function\","
                   "\"function\":{\"name\":\"m\",\"arguments\":\"{}\"}}]}");
        assert_int_equal(reply.tool_call_count, 2);
        check_text(reply.tool_calls[0].arguments, "raw");
        azo_chat_reply_free(&reply);
    }
    azo_client_close(client);
}

/* ---- ends ---- */

static int on_event_that_ends(const azo_event *event, void *user_data) {
    azo_request *job = *(azo_request **)user_data;
    azo_error err;
    (void)event;
    assert_int_equal(azo_chat_end(job, NULL, &err), AZO_ERR_STATE);
    test_sentences(err.message);
    assert_int_equal(azo_embed_end(job, NULL, NULL), AZO_ERR_STATE);
    return AZO_GO_ON;
}

static void test_ends(void **state) {
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    azo_message hello = azo_user("hello");
    azo_chat_desc desc = chat_of(&hello, 1);
    azo_request *job = begin_hello(client, false);
    azo_chat_reply reply;
    azo_embed_reply embed;
    azo_error err;
    (void)state;
    assert_int_equal(azo_chat_end(job, &reply, &err), AZO_PENDING);
    assert_int_equal(err.code, AZO_OK);
    assert_ptr_equal(client->jobs.next, &job->link);
    assert_int_equal(azo_embed_end(job, &embed, &err), AZO_ERR_ARGUMENT);
    test_sentences(err.message);
    assert_true(azoi_list_empty(&client->jobs));
    assert_int_equal(azo_chat_end(NULL, &reply, &err), AZO_ERR_ARGUMENT);
    assert_int_equal(azo_raw_end(NULL, NULL, NULL), AZO_ERR_ARGUMENT);
    job = begin_hello(client, false);
    assert_int_equal(play(job, 200, "", BODY_81), AZO_OK);
    assert_int_equal(azo_chat_end(job, NULL, NULL), AZO_OK);
    job = begin_hello(client, false);
    assert_int_equal(play(job, 404, "", ""), AZO_ERR_NOT_FOUND);
    assert_int_equal(azo_chat_end(job, NULL, NULL), AZO_ERR_NOT_FOUND);
    desc.on_event = on_event_that_ends;
    desc.user_data = &job;
    job = begin_chat(client, &desc);
    assert_int_equal(play(job, 200, "", DELTA("a") STOP_CHUNK), AZO_OK);
    assert_int_equal(azo_chat_end(job, NULL, NULL), AZO_OK);
    job = begin_hello(client, true); /* a shell with partial text */
    play_head(job, 200, HEAD_81);
    assert_int_equal(play_piece(job, azo_s(DELTA("part"))), AZO_OK);
    azo_client_close(client);
    assert_int_equal(azo_chat_end(job, &reply, &err), AZO_ERR_CANCELLED);
    check_text(reply.text, "part");
    check_text(reply.message_json, "{\"role\":\"assistant\",\"content\":\"part\"}");
    check_text(reply.http.region, "Sweden Central");
    azo_chat_reply_free(&reply);
}

/* A callback begins another request, which must not disturb the event it got. */
typedef struct nested_run {
    azo_client *client;
    azo_request *others[8];
    size_t count;
} nested_run;

static int on_event_that_begins(const azo_event *event, void *user_data) {
    nested_run *run = (nested_run *)user_data;
    char before[64];
    azo_message m = azo_user("another one, with a text");
    azo_chat_desc desc = chat_of(&m, 1);
    snprintf(before, sizeof before, "%s", event->text.ptr != NULL ? event->text.ptr : "");
    desc.extra_json = "{\"a\":[1,2,3]}";
    run->others[run->count++] = begin_chat(run->client, &desc);
    assert_string_equal(before, event->text.ptr != NULL ? event->text.ptr : "");
    return AZO_GO_ON;
}

static void test_begin_in_callback(void **state) {
    nested_run run;
    azo_message hello = azo_user("hello");
    azo_chat_desc desc = chat_of(&hello, 1);
    azo_request *job;
    azo_chat_reply reply;
    (void)state;
    memset(&run, 0, sizeof run);
    run.client = client_for(ENDPOINT, NULL, "d");
    desc.on_event = on_event_that_begins;
    desc.user_data = &run;
    job = begin_chat(run.client, &desc);
    assert_int_equal(play(job, 200, "",
                          "{\"choices\":[{\"message\":{\"content\":\"x\",\"tool_calls\":[{\"id\":\"i\","
                          "\"function\":{\"name\":\"n\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"stop\""
                          "}]}"),
                     AZO_OK);
    assert_int_equal(run.count, 3);
    assert_int_equal(azo_chat_end(job, &reply, NULL), AZO_OK);
    check_text(reply.text, "x");
    check_text(reply.tool_calls[0].arguments, "{}");
    check_text(reply.finish_reason, "stop");
    azo_chat_reply_free(&reply);
    azo_client_close(run.client);
    while (run.count > 0) {
        azo_request_free(run.others[--run.count]);
    }
}

/* ---- refusals ---- */

typedef struct refusal_case {
    int status;
    const char *headers;
    const char *body;
    bool key; /* else a fixed token */
    const char *version;
    azo_result code;
    azo_who who;
    const char *service_code;
    const char *detail; /* NULL: not compared */
    const char *words;  /* in the message */
} refusal_case;

#define BODY_A                                                                                                    \
    "{\"error\":{\"message\":\"synthetic: prompt blocked\",\"type\":null,\"param\":\"prompt\",\"code\":"          \
    "\"content_filter\",\"status\":400,\"innererror\":{\"code\":\"ResponsibleAIPolicyViolation\","                \
    "\"content_filter_result\":{\"hate\":{\"filtered\":false,\"severity\":\"safe\"},\"jailbreak\":{\"filtered\":" \
    "false,\"detected\":false},\"violence\":{\"filtered\":true,\"severity\":\"medium\"}}}}}"
#define BODY_B                                                                                                   \
    "{\"error\":{\"message\":\"synthetic: parameter not allowed\",\"type\":\"invalid_request_error\",\"param\":" \
    "\"max_tokens\",\"code\":\"unsupported_parameter\"}}"
#define BODY_C "{\"error\":{\"code\":\"401\",\"message\":\"synthetic: bad key or endpoint\"}}"
#define BODY_D "{\"statusCode\":401,\"message\":\"synthetic: token missing, expired or wrong audience\"}"
#define BODY_E "{\"error\":{\"code\":\"PermissionDenied\",\"message\":\"synthetic: role missing\"}}"
#define BODY_F "{\"error\":{\"code\":\"403\",\"message\":\"synthetic: blocked by network rules\"}}"
#define BODY_G "{\"error\":{\"code\":\"DeploymentNotFound\",\"message\":\"synthetic: no such deployment\"}}"
#define BODY_H "{\"error\":{\"code\":\"404\",\"message\":\"synthetic: no such resource\"}}"
#define BODY_I "{\"error\":{\"code\":\"Timeout\",\"message\":\"synthetic: took too long\"}}"
#define BODY_J "{\"error\":{\"code\":\"OperationParameterInvalid\",\"message\":\"synthetic: stream not supported\"}}"
#define BODY_K "{\"error\":{\"code\":\"429\",\"message\":\"synthetic: token rate limit, retry after 7 seconds\"}}"
#define BODY_L \
    "{\"error\":{\"message\":\"synthetic: server error\",\"type\":\"server_error\",\"param\":null,\"code\":null}}"
#define BODY_M \
    "{\"statusCode\":500,\"message\":\"synthetic: internal\",\"activityId\":\"00000000-0000-4000-8000-000000000005\"}"
#define BODY_N                                                                                                       \
    "{\"error\":{\"requestid\":\"00000000-0000-4000-8000-000000000006\",\"code\":400,\"message\":\"synthetic: data " \
    "source invalid\"}}"

static const refusal_case refusals[] = {
    {400, "apim-request-id: rq-1\r\n", BODY_A, true, VERSION, AZO_ERR_CONTENT_FILTER, AZO_WHO_PROMPT, "content_filter",
     "synthetic: prompt blocked", "blocked the text: violence medium (content_filter, prompt, HTTP 400, request rq-1)"},
    {400, "",
     "{\"error\":{\"code\":\"BadRequest\",\"message\":\"x\",\"inner_error\":{\"code\":"
     "\"ResponsibleAIPolicyViolation\",\"content_filter_results\":{\"jailbreak\":{\"filtered\":true}}}}}",
     true, VERSION, AZO_ERR_CONTENT_FILTER, AZO_WHO_PROMPT, "BadRequest", "x", ": jailbreak (BadRequest"},
    {400, "",
     "{\"error\":{\"code\":\"content_filter\",\"innererror\":{\"content_filter_result\":{\"hate\":{\"filtered\":true,"
     "\"severity\":\"high\"},\"a b\":{\"filtered\":true,\"severity\":\"c d\"},\"jailbreak\":{\"filtered\":true}}}}}",
     true, VERSION, AZO_ERR_CONTENT_FILTER, AZO_WHO_PROMPT, "content_filter", "",
     ": hate high, another, jailbreak (content_filter"},
    {400, "", BODY_B, true, VERSION, AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM, "unsupported_parameter",
     "synthetic: parameter not allowed", "max_completion_tokens"},
    {401, "", BODY_C, true, VERSION, AZO_ERR_UNAUTHORIZED, AZO_WHO_PROGRAM, "401", "synthetic: bad key or endpoint",
     "The API key is not accepted by contoso.openai.azure.com (HTTP 401)"},
    {401, "", BODY_C, false, VERSION, AZO_ERR_UNAUTHORIZED, AZO_WHO_IDENTITY, "401", NULL, "The token is not accepted"},
    {401, "", BODY_D, false, VERSION, AZO_ERR_UNAUTHORIZED, AZO_WHO_IDENTITY, "",
     "synthetic: token missing, expired or wrong audience", "https://cognitiveservices.azure.com/.default"},
    {401, "", "{\"statusCode\":401,\"message\":\"Access denied due to missing subscription key.\"}", false, VERSION,
     AZO_ERR_UNAUTHORIZED, AZO_WHO_PROGRAM, "", NULL, "Ocp-Apim-Subscription-Key"},
    {401, "", BODY_E, false, VERSION, AZO_ERR_FORBIDDEN, AZO_WHO_RESOURCE, "PermissionDenied", NULL,
     "(PermissionDenied, HTTP 401). Give it the role Cognitive Services OpenAI User"},
    {403, "policy-id: ThrowExceptionDueToTrafficDenied\r\n", BODY_F, true, VERSION, AZO_ERR_FORBIDDEN, AZO_WHO_RESOURCE,
     "403", NULL, "network rules"},
    {403, "policy-id: ThrowExceptionDueToTrafficDenied\r\n", "", true, VERSION, AZO_ERR_FORBIDDEN, AZO_WHO_RESOURCE, "",
     "", "network rules"},
    {403, "", "{\"code\":\"403\",\"message\":\"something\"}", true, VERSION, AZO_ERR_FORBIDDEN, AZO_WHO_RESOURCE, "403",
     "something", "forbids this call (HTTP 403)"},
    {403, "",
     "{\"error\":{\"code\":\"AuthenticationTypeDisabled\",\"message\":\"Key based authentication is disabled\"}}", true,
     VERSION, AZO_ERR_FORBIDDEN, AZO_WHO_RESOURCE, "AuthenticationTypeDisabled", NULL, "Entra ID"},
    {404, "", BODY_G, true, VERSION, AZO_ERR_NOT_FOUND, AZO_WHO_RESOURCE, "DeploymentNotFound", NULL,
     "No deployment named 'gpt-x' on contoso.openai.azure.com (DeploymentNotFound, HTTP 404)"},
    {404, "", BODY_G, true, NULL, AZO_ERR_NOT_FOUND, AZO_WHO_RESOURCE, "DeploymentNotFound", NULL, "'gpt-x'"},
    {404, "", BODY_H, true, VERSION, AZO_ERR_NOT_FOUND, AZO_WHO_PROGRAM, "404", NULL,
     "has no /openai/deployments/gpt-x/chat/completions under api_version 2024-10-21 (HTTP 404)"},
    {404, "", BODY_H, true, "0613", AZO_ERR_NOT_FOUND, AZO_WHO_PROGRAM, "404", NULL, "not the model's version"},
    {404, "", BODY_H, true, NULL, AZO_ERR_NOT_FOUND, AZO_WHO_PROGRAM, "404", NULL, "none where v1 is offered"},
    {404, "", "", true, NULL, AZO_ERR_NOT_FOUND, AZO_WHO_PROGRAM, "", "", "(HTTP 404)"},
    {408, "", BODY_I, true, VERSION, AZO_ERR_SERVICE, AZO_WHO_WAIT, "Timeout", NULL, "Ask with `stream`"},
    {409, "", "", true, VERSION, AZO_ERR_SERVICE, AZO_WHO_WAIT, "", "", "collided"},
    {422, "", BODY_J, true, VERSION, AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM, "OperationParameterInvalid", NULL,
     "(OperationParameterInvalid, HTTP 422)"},
    {429, "retry-after: 7\r\nretry-after-ms: 6500\r\npolicy-id: DeploymentRatelimit-Token\r\n", BODY_K, true, VERSION,
     AZO_ERR_RATE_LIMIT, AZO_WHO_WAIT, "429", NULL,
     "1 attempt made (HTTP 429). Wait 7 s (retry_after_ms) or raise the deployment's tokens per minute."},
    {429, "x-rate-limit-reset-tokens: 55\r\n", BODY_K, true, VERSION, AZO_ERR_RATE_LIMIT, AZO_WHO_WAIT, "429", NULL,
     "Wait 55 s"},
    {429, "retry-after: 86400\r\n", BODY_K, true, VERSION, AZO_ERR_RATE_LIMIT, AZO_WHO_WAIT, "429", NULL,
     "Wait 86400 s"},
    {429, "policy-id: DeploymentRatelimit-Call\r\n", "{\"error\":{\"code\":\"insufficient_quota\"}}", true, VERSION,
     AZO_ERR_RATE_LIMIT, AZO_WHO_WAIT, "insufficient_quota", "", "requests per minute"},
    {500, "", BODY_L, true, VERSION, AZO_ERR_SERVICE, AZO_WHO_WAIT, "server_error", NULL, "(server_error, HTTP 500)"},
    {500, "", BODY_M, true, VERSION, AZO_ERR_SERVICE, AZO_WHO_WAIT, "", "synthetic: internal", "failed (HTTP 500)"},
    {400, "", BODY_N, true, VERSION, AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM, "400", "synthetic: data source invalid",
     "refused the request (HTTP 400)"},
    {503, "Content-Type: text/html\r\n",
     "<html><head><title>503</title></head><body>Service\r\n Unavailable</body></html>", true, VERSION, AZO_ERR_SERVICE,
     AZO_WHO_WAIT, "", "<html><head><title>503</title></head><body>Service   Unavailable</body></html>", "HTTP 503"},
    {504, "Content-Length: 0\r\n", "", true, VERSION, AZO_ERR_SERVICE, AZO_WHO_WAIT, "", "", "HTTP 504"},
    {413, "Content-Type: text/plain\r\n", "too large", true, VERSION, AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM, "",
     "too large", "too long"},
    {431, "", "", true, VERSION, AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM, "", "", "ten headers"},
    {415, "", "{\"detail\":\"media\"}", true, VERSION, AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM, "", "media", "HTTP 415"},
    {400, "", "{\"error\":{\"code\":\"BadRequest\",\"message\":\"This API version is not supported\"}}", true,
     "2020-01-01", AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM, "BadRequest", NULL,
     "refused the request under api_version 2020-01-01"},
    {400, "", "{\"error\":\"just words\"}", true, VERSION, AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM, "", "just words", ""},
    {400, "", "{\"error\":{\"code\":{\"a\":1},\"message\":[1]},\"message\":\"outer\"}", true, VERSION,
     AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM, "", "outer", ""},
    {400, "", "{\"error\":{\"code\":\"x. Y\",\"message\":\"a\\u0000b\\u001b[1m\\ud800\"}}", true, VERSION,
     AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM, "x. Y", "a?b?[1m\xef\xbf\xbd", "refused the request (HTTP 400)"},
    {400, "", "{\"detail\":[{\"input\":\"the prompt\"}]}", true, VERSION, AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM, "", "",
     ""},
    {400, "", "{\"cut\":\"the pro", true, VERSION, AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM, "", "", ""},
    {400, "", "[1]", true, VERSION, AZO_ERR_BAD_REQUEST, AZO_WHO_PROGRAM, "", "", ""},
    {700, "", "", true, VERSION, AZO_ERR_HTTP, AZO_WHO_REPORT, "", "", "HTTP 700"},
};

static void check_refusal(const refusal_case *c) {
    azo_client_desc desc = desc_of(ENDPOINT "/", c->version, "gpt-x");
    azo_client *client;
    azo_request *job;
    azo_chat_reply reply;
    azo_error err;
    if (!c->key) {
        setenv("AZURE_OPENAI_AD_TOKEN", "fixed-token-fixed-token", 1);
        desc.api_key = NULL;
    }
    client = client_of(&desc);
    unsetenv("AZURE_OPENAI_AD_TOKEN");
    job = begin_hello(client, false);
    (void)play(job, c->status, c->headers, c->body);
    azo_client_close(client);
    if (azo_chat_end(job, &reply, &err) != c->code) {
        fail_msg("%d %s: %s", c->status, azo_result_name(err.code), err.message);
    }
    assert_int_equal(err.code, c->code);
    if (err.who != c->who) {
        fail_msg("who is %d for: %s", (int)err.who, err.message);
    }
    assert_int_equal(err.http_status, c->status);
    assert_string_equal(err.service_code, c->service_code);
    if (c->detail != NULL) {
        assert_string_equal(err.detail, c->detail);
    }
    if (strstr(err.message, c->words) == NULL) {
        fail_msg("'%s' is not in: %s", c->words, err.message);
    }
    test_sentences(err.message);
    assert_int_equal(reply.http.status, c->status);
    check_text(reply.http.body, c->body[0] != '\0' ? c->body : NULL);
    assert_int_equal(reply.choice_count, 0);
    azo_chat_reply_free(&reply);
}

static void test_refusals(void **state) {
    size_t i;
    (void)state;
    for (i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        check_refusal(&refusals[i]);
    }
}

static void test_refusal_wait(void **state) {
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    azo_request *job = begin_hello(client, false);
    azo_error err;
    (void)state;
    (void)play(job, 429, "retry-after-ms: 6500\r\napim-request-id: abc\r\n", BODY_K);
    assert_int_equal(azo_chat_end(job, NULL, &err), AZO_ERR_RATE_LIMIT);
    assert_int_equal(err.retry_after_ms, 6500);
    assert_string_equal(err.request_id, "abc");
    assert_int_equal(err.attempts, 1);
    azo_client_close(client);
}

/* A server that quotes what it refuses gives away neither key nor header. */
static void test_refusal_secrets(void **state) {
    azo_header header = {"Ocp-Apim-Subscription-Key", "subscription-secret"};
    azo_client_desc desc = desc_of(ENDPOINT, NULL, "d");
    azo_client *client;
    azo_request *job;
    azo_error err;
    int plain;
    (void)state;
    desc.headers = &header;
    desc.header_count = 1;
    for (plain = 0; plain < 2; plain++) {
        client = client_of(&desc);
        job = begin_hello(client, false);
        (void)play(job, 401, "",
                   plain ? "key " KEY " and subscription-secret"
                         : "{\"error\":{\"code\":\"" KEY "\",\"message\":\"key " KEY " and subscription-secret\"}}");
        assert_int_equal(azo_chat_end(job, NULL, &err), AZO_ERR_UNAUTHORIZED);
        assert_null(strstr(err.detail, KEY));
        assert_null(strstr(err.detail, "subscription-secret"));
        assert_null(strstr(err.service_code, KEY));
        assert_null(strstr(err.message, KEY));
        assert_non_null(strstr(err.detail, " and ****"));
        azo_client_close(client);
    }
}

/* A sentence that is longer than its place is cut, wherever its end falls. */
static void test_refusal_cut(void **state) {
    static const char *const texts[][2] = {
        {"1234567", "1234567"}, {"12345678", "1234567"}, {"123$h, 456", "123cont"}, {"123456$h", "123456c"}};
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    azo_request *job = begin_hello(client, false);
    azoi_refusal refusal;
    size_t i;
    (void)state;
    memset(&refusal, 0, sizeof refusal);
    refusal.job = job;
    for (i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char out[8];
        azoi_refusal_expand(&refusal, texts[i][0], out, sizeof out);
        assert_string_equal(out, texts[i][1]);
    }
    azo_request_free(job);
    azo_client_close(client);
}

static void test_regional(void **state) {
    azo_client_desc desc = desc_of("https://westeurope.api.cognitive.microsoft.com/", VERSION, "d");
    azo_client *client;
    azo_request *job;
    azo_error err;
    (void)state;
    setenv("AZURE_OPENAI_AD_TOKEN", "fixed-token-fixed-token", 1);
    desc.api_key = NULL;
    client = client_of(&desc);
    unsetenv("AZURE_OPENAI_AD_TOKEN");
    job = begin_hello(client, false);
    (void)play(job, 401, "", "{\"error\":{\"code\":\"x\",\"message\":\"Please provide a key\"}}");
    assert_int_equal(azo_chat_end(job, NULL, &err), AZO_ERR_UNAUTHORIZED);
    assert_non_null(strstr(err.message, "regional"));
    assert_int_equal(err.who, AZO_WHO_PROGRAM);
    test_sentences(err.message);
    azo_client_close(client);
}

/* Usage that says nothing is none. */
static void test_empty_usage(void **state) {
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    azo_request *job = begin_hello(client, false);
    azo_chat_reply reply;
    (void)state;
    assert_int_equal(play(job, 200, "", "{\"choices\":[{\"message\":{\"content\":\"x\"}}],\"usage\":{ }}"), AZO_OK);
    assert_int_equal(azo_chat_end(job, &reply, NULL), AZO_OK);
    assert_null(reply.usage_json.ptr);
    assert_int_equal(reply.prompt_tokens, -1);
    assert_int_equal(reply.completion_tokens, -1);
    assert_int_equal(reply.cached_tokens, -1);
    assert_int_equal(reply.reasoning_tokens, -1);
    azo_chat_reply_free(&reply);
    azo_client_close(client);
}

/* ---- embeddings ---- */

static const azo_str two_inputs[] = {{"a", 1}, {"b", 1}};

static azo_embed_desc embed_of(void) {
    azo_embed_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.inputs = two_inputs;
    desc.input_count = 2;
    return desc;
}

static azo_request *begin_embed(azo_client *client, const azo_embed_desc *desc) {
    azo_request *job;
    azo_error err;
    if (azo_embed_begin(client, desc, &job, &err) != AZO_OK) {
        fail_msg("%s", err.message);
    }
    return job;
}

#define BODY_85                                                                                                  \
    "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":1,\"embedding\":\"AACAPgAAAL8AAIA/\"},{" \
    "\"object\":\"embedding\",\"index\":0,\"embedding\":[0.25,-0.5,1e0]}],\"model\":\"text-embedding-3-small\"," \
    "\"usage\":{\"prompt_tokens\":2,\"total_tokens\":2}}"

static void check_rows(const char *body, size_t dimensions) {
    static const float expected[] = {0.25f, -0.5f, 1.0f};
    int owned;
    for (owned = 0; owned < 2; owned++) {
        azo_client *client = client_for(ENDPOINT, NULL, "d");
        azo_embed_desc desc = embed_of();
        azo_embed_reply reply;
        azo_error err;
        azo_request *job;
        float vectors[6];
        size_t i;
        desc.vectors = owned ? NULL : vectors;
        desc.vector_cap = 2 * dimensions;
        job = begin_embed(client, &desc);
        if (play(job, 200, HEAD_81, body) != AZO_OK) {
            fail_msg("%s: %s", body, job->error.message);
        }
        azo_client_close(client);
        assert_int_equal(azo_embed_end(job, &reply, &err), AZO_OK);
        assert_int_equal(reply.count, 2);
        assert_int_equal(reply.dimensions, dimensions);
        if (!owned) {
            assert_ptr_equal(reply.vectors, vectors);
        }
        for (i = 0; i < 2 * dimensions; i++) {
            assert_memory_equal(&reply.vectors[i], &expected[i % dimensions], sizeof(float));
        }
        check_text(reply.http.body, NULL);
        check_text(reply.http.region, "Sweden Central");
        azo_embed_reply_free(&reply);
        azo_embed_reply_free(&reply);
    }
}

static void test_embeddings(void **state) {
    azo_client *client = client_for(ENDPOINT, VERSION, "d");
    azo_embed_desc desc = embed_of();
    azo_request *job;
    azo_embed_reply reply;
    (void)state;
    desc.dimensions = 3;
    job = begin_embed(client, &desc);
    assert_string_equal(job->spec.body.ptr,
                        "{\"input\":[\"a\",\"b\"],\"encoding_format\":\"base64\",\"dimensions\":3}");
    assert_string_equal(job->spec.target.ptr, "/openai/deployments/d/embeddings?api-version=2024-10-21");
    assert_int_equal(play(job, 200, "", BODY_85), AZO_OK);
    assert_int_equal(azo_embed_end(job, &reply, NULL), AZO_OK);
    assert_int_equal(reply.prompt_tokens, 2);
    azo_embed_reply_free(&reply);
    azo_client_close(client);
    check_rows(BODY_85, 3);
    check_rows(" { \"usage\" : null , \"data\" : [ { \"embedding\" : [ 0.25 , -5e-1 , 1 ] , \"index\" : 1 } , { "
               "\"embedding\" : \"AACAPgAAAL8AAIA/\" , \"index\" : 0 } ] } ",
               3);
}

static void test_embeddings_order(void **state) {
    (void)state;
    check_rows("{\"data\":[{\"embedding\":[0.25,-0.5]},{\"embedding\":\"AACAPgAAAL8=\"}]}", 2);
    check_rows(
        "{\"data\":[{\"embedding\":\"AACAPgAAAL8AAIA\\/\",\"index\":0},{\"index\":1,\"embedding\":\"AACAPgAAAL8AAIA"
        "\\u002f\"}]}",
        3);
    check_rows("{\"data\":[{\"index\":0,\"embedding\":[0.25]},{\"index\":1,\"embedding\":\"AACAPg==\"}]}", 1);
}

static void test_embeddings_refused(void **state) {
    static const struct {
        const char *body;
        azo_result code;
        const char *words;
        const char *left; /* in http.body, where that is not the whole */
    } cases[] = {
        {"", AZO_ERR_HTTP, "nothing", NULL},
        {"<html>", AZO_ERR_HTTP, "a web page", NULL},
        {"{}", AZO_ERR_JSON, "0 of 2", NULL},
        {"{\"data\":{}}", AZO_ERR_JSON, "0 of 2", NULL},
        {"{\"data\":[]}", AZO_ERR_JSON, "0 of 2", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":[1]}]}", AZO_ERR_JSON, "1 of 2", "{\"data\":[{}]}"},
        {"{\"data\":[{\"index\":0,\"embedding\":[1]},{\"index\":0,\"embedding\":[1]}]}", AZO_ERR_JSON, "twice",
         "{\"data\":[{},{\"index\":0,\"embedding\":[1]}]}"},
        {"{\"data\":[{\"index\":2,\"embedding\":[1]}]}", AZO_ERR_JSON, "too large", NULL},
        {"{\"data\":[{\"embedding\":[1],\"index\":99999999999999999999}]}", AZO_ERR_JSON, "too large", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":[]}]}", AZO_ERR_JSON, "empty", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":\"\"}]}", AZO_ERR_JSON, "empty", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":\"AAC\"}]}", AZO_ERR_JSON, "empty", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":\"AACAPg*=\"}]}", AZO_ERR_JSON, "base64", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":\"AACAPgA=\"}]}", AZO_ERR_JSON, "base64", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":\"AACAPg          \"}]}", AZO_ERR_JSON, "base64", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":[1,2]},{\"index\":1,\"embedding\":[1]}]}", AZO_ERR_JSON, "differ",
         "{\"data\":[{},{\"index\":1,\"embedding\":[1]}]}"},
        {"{\"data\":[{\"index\":0,\"embedding\":[1]},{\"index\":1,\"embedding\":[1,2]}]}", AZO_ERR_JSON, "differ",
         "{\"data\":[{},{\"index\":1,\"embedding\":[1,2]}]}"},
        {"{\"data\":[{\"index\":0,\"embedding\":[1]},{\"index\":1,\"embedding\":\"AACAPgAAAL8=\"}]}", AZO_ERR_JSON,
         "differ", "{\"data\":[{},{\"index\":1,\"embedding\":\"AACAPgAAAL8=\"}]}"},
        {"{\"data\":[{\"index\":0,\"embedding\":[1,null]}]}", AZO_ERR_JSON, "no number", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":[1e39,1]}]}", AZO_ERR_JSON, "no number", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":[-1e39,1]}]}", AZO_ERR_JSON, "no number", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":[1,1e999]}]}", AZO_ERR_JSON, "no number", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":[1,]}]}", AZO_ERR_JSON, "", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":[1", AZO_ERR_JSON, "malformed", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":null}]}", AZO_ERR_JSON, "missing", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":[1]}{}]}", AZO_ERR_JSON, "malformed", "{\"data\":[{}{}]}"},
        {"{\"data\":[{\"index\":0,\"embedding\":[1]},{\"index\":1,\"embedding\":[1]}]} x", AZO_ERR_JSON, "malformed",
         "{\"data\":[{},{}]} x"},
        {"{\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}}", AZO_ERR_RATE_LIMIT, "Quota", NULL},
        {"{\"data\":[{\"index\":0,\"embedding\":[1,2,3,4]}]}", AZO_ERR_LIMIT, "8 floats (2 x 4)", NULL},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        azo_client *client = client_for(ENDPOINT, NULL, "d");
        azo_embed_desc desc = embed_of();
        azo_embed_reply reply;
        azo_error err;
        azo_request *job;
        float vectors[6];
        desc.vectors = cases[i].code == AZO_ERR_LIMIT ? vectors : NULL;
        desc.vector_cap = 6;
        job = begin_embed(client, &desc);
        (void)play(job, 200, "", cases[i].body);
        if (azo_embed_end(job, &reply, &err) != cases[i].code || strstr(err.message, cases[i].words) == NULL) {
            fail_msg("%s: %s", cases[i].body, err.message);
        }
        test_sentences(err.message);
        assert_null(reply.vectors);
        check_text(reply.http.body, cases[i].left != NULL ? cases[i].left : i > 0 ? cases[i].body : NULL);
        azo_embed_reply_free(&reply);
        azo_client_close(client);
    }
}

/* What came of an answer; message and offset say nothing where it was a good one. */
typedef struct embed_outcome {
    azo_error err;
    size_t dimensions;
    float vectors[6];
} embed_outcome;

/* In pieces of so many bytes, the first of which has `first`. Not early: the rows are only read at the end. */
static void play_embed(const char *body, size_t first, size_t others, bool early, embed_outcome *out) {
    test_memory memory;
    azo_client_desc client_desc = desc_of(ENDPOINT, NULL, "d");
    azo_embed_desc desc = embed_of();
    azo_embed_reply reply;
    azo_str rest = azo_s(body);
    azo_result r = AZO_OK;
    memset(out, 0, sizeof *out);
    test_memory_open(&memory);
    client_desc.allocator = memory.hook;
    azo_client *client = client_of(&client_desc);
    azo_request *job = begin_embed(client, &desc);
    play_head(job, 200, "");
    if (!early) {
        ((azoi_embed *)job->data)->rows = AZOI_ROWS_BEHIND;
    }
    for (size_t size = first; rest.len > 0 && r == AZO_OK; size = others) {
        size = size < rest.len ? size : rest.len;
        r = play_piece(job, azoi_view(rest.ptr, size));
        rest = azoi_skip(rest, size);
    }
    (void)play_end(job, r);
    if (azo_embed_end(job, &reply, &out->err) == AZO_OK) {
        out->dimensions = reply.dimensions;
        assert_int_equal(reply.count, 2);
        assert_true(reply.dimensions <= 3);
        memcpy(out->vectors, reply.vectors, 2 * reply.dimensions * sizeof(float));
    }
    azo_embed_reply_free(&reply);
    azo_client_close(client);
    test_memory_close(&memory);
}

#define OPEN_16 "[[[[[[[[[[[[[[[["
#define CLOSE_16 "]]]]]]]]]]]]]]]]"
#define OPEN_61 OPEN_16 OPEN_16 OPEN_16 "[[[[[[[[[[[[["
#define CLOSE_61 CLOSE_16 CLOSE_16 CLOSE_16 "]]]]]]]]]]]]]"
#define ROW_0 "{\"index\":0,\"embedding\":[0.25,-5e-1]}"
#define ROW_1 "{\"embedding\" : \"AACAPgAAAL8=\" , \"index\":1, \"x\":\"}]\\\"\\\\\"}"

/* Rows are read as they come; all that can be seen of it is the same wherever the answer is cut, and as if it had been
 * read in one piece at its end. */
static void test_embeddings_in_pieces(void **state) {
    static const char *const bodies[] = {
        BODY_85,
        " { \"data\" : [ " ROW_1 " , " ROW_0 " ] , \"usage\" : { \"prompt_tokens\" : 7 } } ",
        "{\"data\":null,\"x\":[[],{\"data\":[1]}],\"data\":[" ROW_0 "," ROW_1 "]}",
        "{\"data\":{},\"data\":[" ROW_0 "," ROW_1 "]}",
        "{\"data\":[" ROW_0 "," ROW_1 "],\"data\":[1,2,3]}",
        "{\"x\\\"data\":[" ROW_0 "," ROW_1 "]}",
        "{\"x\":\"\\\"data\":[" ROW_0 "," ROW_1 "]}",
        "{\"x\":\"[\\\\\",\"data\":[" ROW_0 "," ROW_1 "]}",
        "[{\"data\":[" ROW_0 "," ROW_1 "]}]",
        "{\"data\":[" ROW_0 "," ROW_1 "],\"error\":{\"code\":\"rate_limit_exceeded\"}}",
        "{\"data\":[" ROW_0 "," ROW_1 "]",
        "{\"data\":[" ROW_0 "," ROW_1,
        "{\"data\":[" ROW_0 ",\"",
        "{\"data\":[" ROW_0 "," ROW_1 "]}]",
        "{\"data\":[" ROW_0 "," ROW_1 ",]}",
        "{\"data\":[" ROW_0 ",," ROW_1 "]}",
        "{\"data\":[," ROW_0 "," ROW_1 "]}",
        "{\"data\":[" ROW_0 " " ROW_1 "]}",
        "{\"data\":[" ROW_0 "," ROW_1 "],}",
        "{\"data\":[" ROW_0 ",5]}",
        "{\"data\":[" ROW_0 "," ROW_1 "," ROW_1 "]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":[\"]\",1]}]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":[1,[2]]}]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":[1 2]}]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":[1,2],\"embedding\":[x]}]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":[1,2],\"embedding\":[3,4]}]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":null,\"embedding\":[1,2]}]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":[1,2],\"x\":[}]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":[1,2]},{\"x\":\"\\x\"}]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":[1,2],\"x\":" OPEN_61 CLOSE_61 "}]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":[1,2],\"x\":[" OPEN_61 CLOSE_61 "]}]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":[1,02]}]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":[1,2]} x]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":[[1]},{\"x\":1]}]}",
        "{\"data\":[" ROW_0 ",{\"embedding\":\"AACAPgAAAL8=\",\"x\":01}]}",
        "{[" ROW_0 "," ROW_1 "]}",
        "}}{\"data\":[" ROW_0 "," ROW_1 "]}",
        "<data>\"data\":[" ROW_0 "</data>",
        "{\"data\":[{}]}",
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        size_t len = strlen(bodies[i]);
        embed_outcome expected;
        size_t first;
        play_embed(bodies[i], len, len, false, &expected);
        for (first = 0; first <= len; first++) {
            embed_outcome got;
            play_embed(bodies[i], first == 0 ? 1 : first, first == 0 ? 1 : len, true, &got); /* 0: byte by byte */
            if (memcmp(&got, &expected, sizeof got) != 0) {
                fail_msg("%s, cut at %lu: %d at %lu: %s (not %d at %lu: %s)", bodies[i], (unsigned long)first,
                         (int)got.err.code, (unsigned long)got.err.json_offset, got.err.message,
                         (int)expected.err.code, (unsigned long)expected.err.json_offset, expected.err.message);
            }
        }
    }
}

static azo_result play_limited(const char *body, size_t limit) {
    azo_client_desc desc = desc_of(ENDPOINT, NULL, "d");
    azo_embed_desc embed = embed_of();
    desc.max_response_bytes = limit;
    azo_client *client = client_of(&desc);
    azo_request *job = begin_embed(client, &embed);
    azo_result r = play(job, 200, "", body);
    if (r != AZO_OK) {
        test_sentences(job->error.message);
    }
    azo_request_free(job);
    azo_client_close(client);
    return r;
}

/* The limit is for all that came, also for what was taken out already. */
static void test_embeddings_limit(void **state) {
    static const char body[] = "{\"data\":[" ROW_0 "," ROW_1 "]}";
    (void)state;
    assert_int_equal(play_limited(body, sizeof body - 1), AZO_OK);
    for (size_t limit = 1; limit < sizeof body - 1; limit++) {
        assert_int_equal(play_limited(body, limit), AZO_ERR_LIMIT);
    }
}

/* What a row promises of the others has to fit in what may come: the limit, or the length that was announced. */
static void promise(size_t limit, const char *headers, bool fits) {
    static const char long_row[] = "{\"data\":[{\"embedding\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}]}";
    azo_client_desc desc = desc_of(ENDPOINT, NULL, "d");
    azo_embed_desc embed = embed_of();
    desc.max_response_bytes = limit;
    azo_client *client = client_of(&desc);
    azo_request *job = begin_embed(client, &embed);
    assert_int_equal(play(job, 200, headers, long_row), AZO_ERR_JSON);
    const char *why = fits ? "vectors for 1 of 2 inputs" : "is longer than all that may come";
    if (strstr(job->error.message, why) == NULL) {
        fail_msg("limit %lu, %s: %s", (unsigned long)limit, headers, job->error.message);
    }
    azo_request_free(job);
    azo_client_close(client);
}

static void test_embeddings_promise(void **state) {
    (void)state;
    promise(0, "", true);
    promise(80, "", true); /* 40 floats */
    promise(79, "", false);
    promise(0, "Content-Length: 80\r\n", true);
    promise(0, "Content-Length: 79\r\n", false);
}

/* Half a row is all that there is, and no memory to say so. */
static void test_embeddings_memory(void **state) {
    test_memory memory;
    azo_client_desc desc = desc_of(ENDPOINT, NULL, "d");
    azo_embed_desc embed = embed_of();
    char ones[10000]; /* more than is kept from one request to the next */
    azo_error err;
    (void)state;
    test_memory_open(&memory);
    desc.allocator = memory.hook;
    azo_client *client = client_of(&desc);
    azo_request *job = begin_embed(client, &embed);
    memset(ones, '1', sizeof ones);
    play_head(job, 200, "");
    assert_int_equal(play_piece(job, azo_s("{\"data\":[{\"embedding\":[")), AZO_OK);
    memory.fail_at = memory.calls + 1;
    assert_int_equal(play_end(job, play_piece(job, azoi_view(ones, sizeof ones))), AZO_ERR_MEMORY);
    assert_int_equal(memory.failures, 1);
    assert_int_equal(azo_embed_end(job, NULL, &err), AZO_ERR_MEMORY);
    test_sentences(err.message);
    azo_client_close(client);
    test_memory_close(&memory);
}

static void test_embeddings_arguments(void **state) {
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    azo_embed_desc desc = embed_of();
    azo_str inputs[2] = {{"a", 1}, {NULL, 0}};
    azo_request *job;
    azo_error err;
    (void)state;
    desc.extra_json = "{\"user\":\"u\"}";
    job = begin_embed(client, &desc);
    assert_string_equal(job->spec.body.ptr,
                        "{\"model\":\"d\",\"input\":[\"a\",\"b\"],\"encoding_format\":\"base64\",\"user\":\"u\"}");
    azo_request_free(job);
    desc.extra_json = "{\"encoding_format\":\"float\"}";
    check_refused(azo_embed_begin(client, &desc, &job, &err), &err, "encoding_format");
    desc.extra_json = "{\"input\":1}";
    check_refused(azo_embed_begin(client, &desc, &job, &err), &err, "input");
    desc.extra_json = NULL;
    desc.dimensions = -3;
    check_refused(azo_embed_begin(client, &desc, &job, &err), &err, "dimensions");
    desc.dimensions = 0;
    desc.inputs = inputs;
    check_refused(azo_embed_begin(client, &desc, &job, &err), &err, "inputs[1]");
    desc.input_count = 0;
    check_refused(azo_embed_begin(client, &desc, &job, &err), &err, "no inputs");
    azo_client_close(client);
}

/* ---- raw ---- */

typedef struct raw_case {
    const char *version;
    const char *method;
    const char *path;
    const char *query;
    const char *deployment;
    const char *body;
    const char *expected; /* method, target, headers; NULL: refused */
} raw_case;

static const raw_case raws[] = {
    {NULL, NULL, "/models", NULL, NULL, NULL, "GET /openai/v1/models|Accept: application/json\r\n"},
    {VERSION, NULL, "/models", NULL, NULL, NULL,
     "GET /openai/models?api-version=2024-10-21|Accept: application/json\r\n"},
    {VERSION, NULL, "/models", "?api-version=x", NULL, NULL,
     "GET /openai/models?api-version=x|Accept: application/json\r\n"},
    {VERSION, "DELETE", "/files/file-1%2F", "a=b&c=%20", NULL, NULL,
     "DELETE /openai/files/file-1%2F?a=b&c=%20&api-version=2024-10-21|Accept: application/json\r\n"},
    {"preview", NULL, "/responses", "a=b", NULL, "{}",
     "POST /openai/v1/responses?a=b&api-version=preview|Content-Type: application/json\r\nAccept: "
     "application/json\r\n"},
    {VERSION, NULL, "/audio/speech", NULL, "tts 1", "{}",
     "POST /openai/deployments/tts%201/audio/speech?api-version=2024-10-21|Content-Type: application/json\r\n"
     "Accept: application/json\r\n"},
    {NULL, NULL, "/audio/speech", NULL, "tts", "{}",
     "POST /openai/v1/audio/speech|Content-Type: application/json\r\nAccept: application/json\r\n"},
    {NULL, "G T", "/x", NULL, NULL, NULL, NULL},
    {NULL, "", "/x", NULL, NULL, NULL, NULL},
    {NULL, "CONNECT", "/x", NULL, NULL, NULL, NULL},
    {NULL, "GET\r\n", "/x", NULL, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL, NULL, NULL},
    {NULL, NULL, "models", NULL, NULL, NULL, NULL},
    {NULL, NULL, "/a b", NULL, NULL, NULL, NULL},
    {NULL, NULL, "/a\nb", NULL, NULL, NULL, NULL},
    {NULL, NULL, "/a\xc3\xbc", NULL, NULL, NULL, NULL},
    {NULL, NULL, "/a\x7f", NULL, NULL, NULL, NULL},
    {NULL, NULL, "/a/../b", NULL, NULL, NULL, NULL},
    {NULL, NULL, "/a/..", NULL, NULL, NULL, NULL},
    {NULL, NULL, "/%2E./b", NULL, NULL, NULL, NULL},
    {NULL, NULL, "/./b", NULL, NULL, NULL, NULL},
    {NULL, NULL, "/a?b=c", NULL, NULL, NULL, NULL},
    {NULL, NULL, "/a#b", NULL, NULL, NULL, NULL},
    {NULL, NULL, "/a\\b", NULL, NULL, NULL, NULL},
    {NULL, NULL, "/a", "x y", NULL, NULL, NULL},
    {NULL, NULL, "/a", "x#y", NULL, NULL, NULL},
    {NULL, NULL, "/.../..a", NULL, NULL, NULL, "GET /openai/v1/.../..a|Accept: application/json\r\n"},
};

static void test_raw_targets(void **state) {
    size_t i;
    (void)state;
    for (i = 0; i < sizeof raws / sizeof raws[0]; i++) {
        azo_client *client = client_for(ENDPOINT, raws[i].version, NULL);
        azo_raw_desc desc;
        azo_request *job;
        azo_error err;
        azo_result r;
        char got[512];
        memset(&desc, 0, sizeof desc);
        desc.method = raws[i].method;
        desc.path = raws[i].path;
        desc.query = raws[i].query;
        desc.deployment = raws[i].deployment;
        desc.body = raws[i].body;
        r = azo_raw_begin(client, &desc, &job, &err);
        if (raws[i].expected == NULL) {
            check_refused(r, &err, "");
        } else {
            assert_int_equal(r, AZO_OK);
            snprintf(got, sizeof got, "%s %s|%s", job->spec.method.ptr, job->spec.target.ptr, job->spec.headers.ptr);
            assert_string_equal(got, raws[i].expected);
            assert_int_equal(job->spec.has_body, raws[i].body != NULL);
            azo_request_free(job);
        }
        azo_client_close(client);
    }
}

static ptrdiff_t read_nothing(uint64_t offset, void *buf, size_t cap, void *user_data) {
    (void)offset;
    (void)buf;
    (void)cap;
    (void)user_data;
    return -1;
}

static int on_body(const void *data, size_t len, void *user_data) {
    stream_run *run = (stream_run *)user_data;
    test_note_bytes(run->notes, (const char *)data, len);
    return run->pauses ? AZO_PAUSE : AZO_GO_ON;
}

static int on_raw_event(const azo_event *event, void *user_data) {
    stream_run *run = (stream_run *)user_data;
    assert_int_equal(event->kind, AZO_EVENT_OTHER);
    test_note(run->notes, "%s ", event->name.len > 0 ? event->name.ptr : "-");
    test_note_text(run->notes, event->json);
    return ++run->events == run->stop_at ? AZO_STOP : run->pauses ? AZO_PAUSE : AZO_GO_ON;
}

static void test_raw_bodies(void **state) {
    azo_client *client = client_for(ENDPOINT, NULL, NULL);
    azo_raw_desc desc;
    azo_request *job;
    azo_error err;
    char body[] = "text";
    (void)state;
    memset(&desc, 0, sizeof desc);
    desc.path = "/files";
    desc.body = body;
    assert_int_equal(azo_raw_begin(client, &desc, &job, &err), AZO_OK);
    assert_int_equal(job->spec.body.len, 4);
    assert_true(job->spec.body.ptr != body);
    azo_request_free(job);
    desc.body_len = 2;
    desc.body_borrowed = true;
    desc.content_type = "audio/mpeg";
    desc.accept = "*/*";
    assert_int_equal(azo_raw_begin(client, &desc, &job, &err), AZO_OK);
    assert_int_equal(job->spec.body.len, 2);
    assert_ptr_equal(job->spec.body.ptr, body);
    assert_string_equal(job->spec.headers.ptr, "Content-Type: audio/mpeg\r\nAccept: */*\r\n");
    azo_request_free(job);
    desc.accept = "a\r\nb: c";
    check_refused(azo_raw_begin(client, &desc, &job, &err), &err, "accept");
    desc.accept = NULL;
    desc.read_body = read_nothing;
    check_refused(azo_raw_begin(client, &desc, &job, &err), &err, "read_body");
    desc.body = NULL;
    assert_int_equal(azo_raw_begin(client, &desc, &job, &err), AZO_OK);
    assert_int_equal(job->spec.body.len, 2);
    assert_true(job->spec.read_body == read_nothing);
    azo_request_free(job);
    desc.read_body = NULL;
    check_refused(azo_raw_begin(client, &desc, &job, &err), &err, "Neither body");
    desc.body_len = 0;
    desc.on_body = on_body;
    desc.on_event = on_raw_event;
    check_refused(azo_raw_begin(client, &desc, &job, &err), &err, "on_event");
    desc.on_event = NULL;
    desc.method = "POST";
    assert_int_equal(azo_raw_begin(client, &desc, &job, &err), AZO_OK);
    assert_true(job->spec.has_body);
    assert_int_equal(job->spec.body.len, 0);
    azo_request_free(job);
    azo_client_close(client);
}

/* kind 0: collected; 1: to a sink; 2: events */
static void check_raw(int kind, bool pauses, int status, const char *body, azo_result expected, const char *notes_text,
                      const char *kept) {
    azo_client *client = client_for(ENDPOINT, NULL, NULL);
    azo_raw_desc desc;
    azo_raw_reply reply;
    azo_request *job;
    azo_error err;
    stream_run run;
    test_notes notes;
    memset(&run, 0, sizeof run);
    memset(&notes, 0, sizeof notes);
    memset(&desc, 0, sizeof desc);
    run.notes = &notes;
    run.pauses = pauses;
    desc.path = "/x";
    desc.on_body = kind == 1 ? on_body : NULL;
    desc.on_event = kind == 2 ? on_raw_event : NULL;
    desc.user_data = &run;
    assert_int_equal(azo_raw_begin(client, &desc, &job, &err), AZO_OK);
    assert_int_equal(play(job, status, HEAD_81, body), expected);
    azo_client_close(client);
    assert_int_equal(azo_raw_end(job, &reply, &err), expected);
    assert_string_equal(notes.text != NULL ? notes.text : "", notes_text);
    check_text(reply.http.body, kept);
    assert_int_equal(reply.http.status, status);
    check_text(reply.http.region, "Sweden Central");
    azo_raw_reply_free(&reply);
    azo_raw_reply_free(&reply);
    test_notes_free(&notes);
}

/* What ends the events of a raw call early, in the reply as in the callback. */
static void test_raw_ends(void **state) {
    static const struct {
        const char *body;
        unsigned stop_at;
        azo_result expected;
        const char *events;
    } cases[] = {{"data: 1\n\ndata: 123456789\n\n", 0, AZO_ERR_LIMIT, "- '1'"},
                 {"data: 1\n\ndata: 2\n\ndata: 3\n\n", 2, AZO_ERR_CANCELLED, "- '1'- '2'"},
                 {"data: 1\n\ndata: 2", 2, AZO_ERR_CANCELLED, "- '1'- '2'"}};
    azo_client_desc desc = desc_of(ENDPOINT, NULL, NULL);
    azo_client *client;
    azo_raw_desc raw;
    size_t i;
    (void)state;
    desc.max_event_bytes = 8;
    client = client_of(&desc);
    memset(&raw, 0, sizeof raw);
    raw.path = "/x";
    raw.on_event = on_raw_event;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        stream_run run;
        test_notes notes;
        azo_request *job;
        memset(&run, 0, sizeof run);
        memset(&notes, 0, sizeof notes);
        run.notes = &notes;
        run.stop_at = cases[i].stop_at;
        raw.user_data = &run;
        assert_int_equal(azo_raw_begin(client, &raw, &job, NULL), AZO_OK);
        assert_int_equal(play(job, 200, "", cases[i].body), cases[i].expected);
        assert_int_equal(azo_raw_end(job, NULL, NULL), cases[i].expected);
        assert_string_equal(notes.text, cases[i].events);
        test_notes_free(&notes);
    }
    azo_client_close(client);
}

static void test_raw_replies(void **state) {
    int pauses;
    (void)state;
    for (pauses = 0; pauses < 2; pauses++) {
        check_raw(0, pauses, 200, "{\"a\":1}", AZO_OK, "", "{\"a\":1}");
        check_raw(1, pauses, 200, "bytes", AZO_OK, "bytes", NULL);
        check_raw(1, pauses, 404, BODY_G, AZO_ERR_NOT_FOUND, "", BODY_G);
        check_raw(2, pauses, 200, "event: e\ndata: {}\n\ndata: x\n\n: c\n\ndata: last", AZO_OK, "e '{}'- 'x'- 'last'",
                  NULL);
        check_raw(2, pauses, 200, "data: 1\n\ndata: [DONE]\n\ndata: 2\n\n", AZO_OK, "- '1'- '[DONE]'", NULL);
        check_raw(2, pauses, 200, " {\"a\":1}", AZO_OK, "", "{\"a\":1}");
        check_raw(2, pauses, 500, BODY_L, AZO_ERR_SERVICE, "", BODY_L);
    }
}

/* ---- tokens ---- */

static azo_result give_token(const azo_token_ask *ask, azo_token_answer *answer, void *user_data) {
    static const char token[] = "eyJ.the-provided.token";
    (void)user_data;
    if (ask->abandon) {
        return AZO_OK;
    }
    assert_true(answer->token_cap > sizeof token);
    memcpy(answer->token, token, sizeof token);
    answer->token_len = sizeof token - 1;
    answer->expires_in_s = 3600;
    return AZO_OK;
}

static void test_tokens(void **state) {
    azo_client_desc desc = desc_of(NULL, NULL, NULL);
    azo_client *client = client_of(&desc);
    azo_request *job;
    azo_token_reply reply;
    azo_error err;
    (void)state;
    check_refused(azo_token_begin(client, NULL, &job, &err), &err, "API key");
    azo_client_close(client);
    desc.api_key = NULL;
    desc.token_provider = give_token;
    client = client_of(&desc);
    assert_int_equal(azo_token_begin(client, NULL, &job, &err), AZO_OK);
    assert_int_equal(azo_step(client, NULL, 0), AZO_OK);
    assert_int_equal(azo_step(client, NULL, 0), AZO_OK);
    assert_int_equal(azo_request_result(job), AZO_OK);
    azo_client_close(client);
    assert_int_equal(azo_token_end(job, &reply, &err), AZO_OK);
    check_text(reply.token, "eyJ.the-provided.token");
    assert_string_equal(reply.source, "provider");
    assert_true(reply.expires_in_s > 3500 && reply.expires_in_s <= 3600);
    azo_token_reply_free(&reply);
    azo_token_reply_free(&reply);
}

/* A provider that keeps everybody waiting, and closes its client when it is told that nobody does any more. It must
 * not, and it is refused: the client is closed once. */
typedef struct closing_provider {
    azo_client *client;
    int abandons;
} closing_provider;

static azo_result wait_then_close(const azo_token_ask *ask, azo_token_answer *answer, void *user_data) {
    closing_provider *p = (closing_provider *)user_data;
    answer->wait_ms = 60000;
    if (ask->abandon) {
        p->abandons++;
        azo_client_close(p->client);
    }
    return ask->abandon ? AZO_OK : AZO_PENDING;
}

static void test_provider_closes(void **state) {
    test_memory memory;
    closing_provider provider = {NULL, 0};
    azo_client_desc desc = desc_of(NULL, NULL, NULL);
    azo_request *job;
    azo_error err;
    (void)state;
    test_memory_open(&memory);
    desc.allocator = memory.hook;
    desc.api_key = NULL;
    desc.token_provider = wait_then_close;
    desc.token_user_data = &provider;
    provider.client = client_of(&desc);
    assert_int_equal(azo_token_begin(provider.client, NULL, &job, &err), AZO_OK);
    assert_int_equal(azo_step(provider.client, NULL, 0), AZO_OK);
    assert_int_equal(azo_request_result(job), AZO_PENDING);
    azo_client_close(provider.client);
    assert_int_equal(provider.abandons, 1);
    assert_int_equal(azo_token_end(job, NULL, &err), AZO_ERR_CANCELLED);
    test_memory_close(&memory);
}

/* ---- every allocation failed in turn ---- */

typedef struct failing_run {
    int kind; /* 0: whole; 1: stream; 2: embeddings; 3: raw; 4: refused; 5: content filters that are merged */
} failing_run;

static azo_result failing_begin(int kind, azo_client *client, azo_request **job, azo_error *err) {
    azo_message m = azo_user("hello");
    azo_chat_desc chat = chat_of(&m, 1);
    azo_embed_desc embed = embed_of();
    azo_raw_desc raw;
    chat.stream = kind == 1 || kind == 5;
    chat.extra_json = "{\"stop\":\"x\"}";
    memset(&raw, 0, sizeof raw);
    raw.path = "/models";
    return kind == 2   ? azo_embed_begin(client, &embed, job, err)
           : kind == 3 ? azo_raw_begin(client, &raw, job, err)
                       : azo_chat_begin(client, &chat, job, err);
}

#define TEXT_100 "one hundred bytes of a text that says nothing at all, but in so many words that nobody can miss it !"
#define TEXT_1000 TEXT_100 TEXT_100 TEXT_100 TEXT_100 TEXT_100 TEXT_100 TEXT_100 TEXT_100 TEXT_100 TEXT_100
#define FILTER(results) "data: {\"choices\":[{\"content_filter_results\":{" results "}}]}\n\n"
#define BODY_FILTERS FILTER("\"" TEXT_1000 "\":1") FILTER("\"x\":\"" TEXT_1000 TEXT_100 "\"") DONE

static void failing_chat_end(int kind, azo_request *job, const test_memory *memory) {
    azo_chat_reply reply;
    azo_error err;
    azo_result r = azo_chat_end(job, &reply, &err);
    assert_true(r == AZO_ERR_MEMORY || r == (kind == 4 ? AZO_ERR_NOT_FOUND : AZO_OK));
    if (r == AZO_OK && kind == 5) {
        check_text(reply.choices[0].filter_json, "{\"" TEXT_1000 "\":1,\"x\":\"" TEXT_1000 TEXT_100 "\"}");
    } else if (r == AZO_OK) {
        check_text(reply.finish_reason, "tool_calls");
        assert_int_equal(reply.tool_call_count, kind == 1 ? 2 : 1);
    }
    if (memory->failures == 0) {
        assert_true(r != AZO_ERR_MEMORY);
    }
    azo_chat_reply_free(&reply);
}

static void failing_end(int kind, azo_request *job, const test_memory *memory) {
    azo_embed_reply embed;
    azo_raw_reply raw;
    azo_error err;
    azo_result r;
    if (kind == 2) {
        r = azo_embed_end(job, &embed, &err);
        assert_true(r == AZO_OK || r == AZO_ERR_MEMORY);
        azo_embed_reply_free(&embed);
    } else if (kind == 3) {
        r = azo_raw_end(job, &raw, &err);
        assert_true(r == AZO_OK || r == AZO_ERR_MEMORY);
        azo_raw_reply_free(&raw);
    } else {
        failing_chat_end(kind, job, memory);
    }
}

static void run_failing(test_memory *memory, void *self) {
    static const char *const bodies[] = {BODY_81, BODY_82, BODY_85, "{\"data\":[]}", BODY_G, BODY_FILTERS};
    failing_run *run = (failing_run *)self;
    azo_client_desc desc = desc_of(ENDPOINT "/", NULL, "d");
    azo_client *client;
    azo_request *job = NULL;
    azo_error err;
    desc.allocator = memory->hook;
    memory->secret = KEY;
    if (azo_client_open(&desc, &client, &err) != AZO_OK) {
        assert_int_equal(err.code, AZO_ERR_MEMORY);
        return;
    }
    if (failing_begin(run->kind, client, &job, &err) == AZO_OK) {
        play_head(job, run->kind == 4 ? 404 : 200, "X-Ms-Region: here\r\n");
        if (job->head_text.failed != AZO_OK) {
            azo_request_free(job);
        } else {
            (void)play_end(job, play_piece(job, azo_s(bodies[run->kind])));
            failing_end(run->kind, job, memory);
        }
    } else {
        assert_int_equal(err.code, AZO_ERR_MEMORY);
        test_sentences(err.message);
        assert_null(job);
        assert_true(azoi_list_empty(&client->jobs));
    }
    azo_client_close(client);
}

static void test_memory_failures(void **state) {
    failing_run run;
    (void)state;
    for (run.kind = 0; run.kind < 6; run.kind++) {
        test_every_failure(run_failing, &run);
    }
}

/* Clients that are opened with all that a desc can hold. */
static void run_open(test_memory *memory, void *self) {
    azo_header header = {"X-One", "1"};
    azo_client_desc desc = desc_of(ENDPOINT, VERSION, "d");
    azo_client *client;
    azo_error err;
    (void)self;
    desc.allocator = memory->hook;
    desc.scope = "api://mine/.default";
    desc.headers = &header;
    desc.header_count = 1;
    desc.proxy = "http://user:pass%77ord@proxy.example:3128";
    desc.no_proxy = "localhost";
    memory->secret = KEY;
    if (azo_client_open(&desc, &client, &err) != AZO_OK) {
        assert_int_equal(err.code, AZO_ERR_MEMORY);
        test_sentences(err.message);
        assert_null(client);
        assert_true(memory->failures > 0);
        return;
    }
    assert_int_equal(memory->failures, 0);
    assert_string_equal(client->proxy_auth.data, "dXNlcjpwYXNzd29yZA==");
    azo_client_close(client);
}

static void test_open_failures(void **state) {
    (void)state;
    test_every_failure(run_open, NULL);
}

/* What a warm call costs in allocations, the machine's own apart. */
static void test_warm_allocations(void **state) {
    test_memory memory;
    azo_client_desc desc = desc_of(ENDPOINT, NULL, "d");
    azo_client *client;
    azo_request *job;
    azo_chat_reply reply;
    size_t calls = 0;
    int i;
    (void)state;
    test_memory_open(&memory);
    desc.allocator = memory.hook;
    client = client_of(&desc);
    for (i = 0; i < 3; i++) {
        size_t before = memory.calls;
        job = begin_hello(client, false);
        calls = memory.calls - before; /* the job's block */
        play_head(job, 200, "");
        (void)play_piece(job, azo_s(BODY_81));
        before = memory.calls;
        assert_int_equal(play_end(job, AZO_OK), AZO_OK);
        assert_int_equal(azo_chat_end(job, &reply, NULL), AZO_OK);
        calls += memory.calls - before;
        azo_chat_reply_free(&reply);
    }
    assert_true(calls <= 4); /* the job, the texts, the choices, the reply */
    azo_client_close(client);
    test_memory_close(&memory);
}

/* ---- sizes that no answer on this machine can have ---- */

static void test_impossible_sizes(void **state) {
    azo_client *client = client_for(ENDPOINT, NULL, "d");
    azo_embed_desc desc = embed_of();
    azo_request *job = begin_hello(client, false);
    (void)state;
    assert_null(azoi_owned_new(job, 0, SIZE_MAX));
    assert_int_equal(job->error.code, AZO_ERR_MEMORY);
    azo_request_free(job);
    job = begin_embed(client, &desc);
    assert_int_equal(azoi_row_room(job, 0, SIZE_MAX), AZO_ERR_JSON); /* times two inputs */
    test_sentences(job->error.message);
    azo_request_free(job);
    azo_client_close(client);
}

/* ---- driving: a transport that connects and connects, with a clock that stands still ---- */

typedef struct limbo {
    size_t descriptors; /* of the connection */
    int32_t wait_ms;    /* until it wants to be asked again; -1: never */
    size_t polled;      /* what the client slept for last */
    int32_t slept_ms;
} limbo;

static azo_result limbo_open(const azo_target *to, void **conn, void *user_data) {
    (void)to;
    *conn = user_data;
    return AZO_OK;
}

static int limbo_connect(void *conn, void *user_data) {
    (void)conn;
    (void)user_data;
    return AZO_IO_AGAIN;
}

static ptrdiff_t limbo_recv(void *conn, void *buf, size_t cap, void *user_data) {
    (void)buf;
    (void)cap;
    return limbo_connect(conn, user_data);
}

static ptrdiff_t limbo_send(void *conn, const void *buf, size_t len, void *user_data) {
    (void)buf;
    (void)len;
    return limbo_connect(conn, user_data);
}

static size_t limbo_watch(void *conn, unsigned want, azo_watch *out, size_t cap, int32_t *timeout_ms, void *user_data) {
    const limbo *l = (const limbo *)conn;
    size_t i;
    (void)user_data;
    for (i = 0; i < l->descriptors && i < cap; i++) {
        out[i].fd = (intptr_t)i;
        out[i].events = want;
    }
    *timeout_ms = l->wait_ms;
    return l->descriptors;
}

static void limbo_close(void *conn, void *user_data) {
    (void)conn;
    (void)user_data;
}

static int limbo_poll(azo_watch *set, size_t count, int32_t timeout_ms, void *user_data) {
    limbo *l = (limbo *)user_data;
    (void)set;
    l->polled = count;
    l->slept_ms = timeout_ms;
    return 0;
}

static int64_t limbo_clock(void *user_data) {
    (void)user_data;
    return 1000;
}

static azo_client_desc limbo_desc(limbo *l, int32_t connect_ms) {
    azo_client_desc desc = desc_of("http://127.0.0.1:1", NULL, "d");
    azo_transport transport = {l,          limbo_open,  limbo_connect, limbo_recv,
                               limbo_send, limbo_watch, limbo_close,   limbo_poll};
    desc.transport = transport;
    desc.clock.monotonic_ms = limbo_clock;
    desc.clock.unix_seconds = limbo_clock;
    desc.connect_timeout_ms = connect_ms;
    desc.total_timeout_ms = AZO_OFF;
    return desc;
}

/* A call that hangs in limbo: there is nothing more to do for it. */
static azo_request *begin_in_limbo(azo_client *client) {
    azo_request *job = begin_hello(client, false);
    int i;
    for (i = 0; i < 4; i++) {
        assert_int_equal(azo_step(client, NULL, 0), AZO_OK);
    }
    assert_int_equal(azo_request_result(job), AZO_PENDING);
    return job;
}

/* What a transport asks for by itself counts beside the client's own deadlines, also where it changes its mind. */
static void test_wait(void **state) {
    static const struct {
        int32_t connect_ms;
        int32_t first_ms;
        int32_t wait_ms;
        int32_t timeout_ms;
    } cases[] = {{AZO_OFF, -1, -1, -1}, {AZO_OFF, 7, 7, 7}, {AZO_OFF, -1, 7, 7},      {AZO_OFF, 0, 0, 0},
                 {1000, -1, -1, 1000},  {1000, 7, 7, 7},    {1000, 5000, 5000, 1000}, {1000, -1, 7, 7}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        limbo l = {1, cases[i].first_ms, 0, 0};
        azo_client_desc desc = limbo_desc(&l, cases[i].connect_ms);
        azo_client *client = client_of(&desc);
        azo_request *job = begin_in_limbo(client);
        azo_watch watch[2];
        int32_t timeout_ms = -2;
        l.wait_ms = cases[i].wait_ms;
        assert_int_equal(azo_wait(client, watch, 2, &timeout_ms), 1);
        assert_int_equal(timeout_ms, cases[i].timeout_ms);
        assert_int_equal(watch[0].events, AZO_POLL_OUT);
        assert_int_equal(azo_wait(client, NULL, 2, NULL), 1);
        azo_request_free(job);
        azo_client_close(client);
    }
}

/* How long azo_poll sleeps, and for what. */
static void test_poll(void **state) {
    static const struct {
        size_t descriptors;
        bool no_memory; /* for the list of what to wait for: then it sleeps less and looks at everything */
        int32_t max_ms;
        size_t polled;
        int32_t slept_ms;
    } cases[] = {{1, false, -1, 1, -1},
                 {1, false, 9, 1, 9},
                 {0, false, -1, 0, -1}, /* nothing to watch, but something may happen that wakes the poll hook */
                 {1, true, -1, 0, AZOI_BLIND_MS},
                 {1, true, AZOI_BLIND_MS + 1, 0, AZOI_BLIND_MS},
                 {1, true, 9, 0, 9}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        limbo l = {cases[i].descriptors, -1, 99, -99};
        test_memory memory;
        azo_client_desc desc = limbo_desc(&l, AZO_OFF);
        azo_client *client;
        azo_request *job;
        test_memory_open(&memory);
        desc.allocator = memory.hook;
        client = client_of(&desc);
        job = begin_in_limbo(client);
        memory.fail_at = cases[i].no_memory ? memory.calls + 1 : 0;
        assert_int_equal(azo_poll(client, cases[i].max_ms), AZO_OK);
        assert_int_equal(l.polled, cases[i].polled);
        assert_int_equal(l.slept_ms, cases[i].slept_ms);
        azo_request_free(job);
        azo_client_close(client);
        test_memory_close(&memory);
    }
}

static void test_no_poll(void **state) {
    limbo l = {1, -1, 0, 0};
    azo_client_desc desc = limbo_desc(&l, 0);
    azo_client *client;
    (void)state;
    desc.transport.poll = NULL;
    client = client_of(&desc);
    assert_int_equal(azo_poll(client, 0), AZO_ERR_UNSUPPORTED);
    azo_client_close(client);
}

/* ---- a peer that takes the first bytes of an upload, answers, and takes no more ---- */

typedef struct early_peer {
    limbo limbo; /* the first member: limbo_watch looks at it */
    azo_str answer;
    bool spoken_to;
} early_peer;

static int early_connect(void *conn, void *user_data) {
    (void)conn;
    (void)user_data;
    return 0;
}

static ptrdiff_t early_recv(void *conn, void *buf, size_t cap, void *user_data) {
    early_peer *peer = (early_peer *)conn;
    size_t len = peer->answer.len < cap ? peer->answer.len : cap;
    (void)user_data;
    if (!peer->spoken_to || len == 0) {
        return AZO_IO_AGAIN;
    }
    memcpy(buf, peer->answer.ptr, len);
    peer->answer = azoi_skip(peer->answer, len);
    return (ptrdiff_t)len;
}

static ptrdiff_t early_send(void *conn, const void *buf, size_t len, void *user_data) {
    early_peer *peer = (early_peer *)conn;
    (void)buf;
    (void)user_data;
    if (peer->spoken_to) {
        errno = EPIPE;
        return AZO_ERR_CLOSED;
    }
    peer->spoken_to = true;
    return (ptrdiff_t)len;
}

typedef struct download {
    size_t len;
    bool pauses;
} download;

static int count_body(const void *data, size_t len, void *user_data) {
    download *d = (download *)user_data;
    (void)data;
    d->len += len;
    return d->pauses ? AZO_PAUSE : AZO_GO_ON;
}

static ptrdiff_t read_nuls(uint64_t offset, void *buf, size_t cap, void *user_data) {
    (void)offset;
    (void)user_data;
    memset(buf, 0, cap);
    return (ptrdiff_t)cap;
}

/* The answer counts, not the broken pipe: in however many turns it is read. */
static void check_early_answer(azo_str answer, size_t body_len, bool pauses) {
    early_peer peer = {{1, -1, 0, 0}, answer, false};
    download got = {0, pauses};
    azo_client_desc desc = limbo_desc(&peer.limbo, 0);
    azo_client *client;
    azo_raw_desc raw;
    azo_request *job;
    azo_error err;
    int i;
    desc.transport.connect = early_connect;
    desc.transport.recv = early_recv;
    desc.transport.send = early_send;
    client = client_of(&desc);
    memset(&raw, 0, sizeof raw);
    raw.path = "/files";
    raw.read_body = read_nuls;
    raw.body_len = 10000000;
    raw.on_body = count_body;
    raw.user_data = &got;
    assert_int_equal(azo_raw_begin(client, &raw, &job, &err), AZO_OK);
    for (i = 0; i < 1000 && azo_request_result(job) == AZO_PENDING; i++) {
        assert_int_equal(azo_step(client, NULL, 0), AZO_OK);
        azo_request_resume(job);
    }
    if (azo_raw_end(job, NULL, &err) != AZO_OK) {
        fail_msg("%lu of %lu bytes: %s", (unsigned long)got.len, (unsigned long)body_len, err.message);
    }
    assert_int_equal(got.len, body_len);
    azo_client_close(client);
}

static void test_early_answers(void **state) {
    static const size_t sizes[] = {3, 1000000};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *text = (char *)malloc(sizes[i] + 100);
        azo_str answer = {text, 0};
        assert_non_null(text);
        answer.len = (size_t)sprintf(text, "HTTP/1.1 200 OK\r\nContent-Length: %lu\r\n\r\n", (unsigned long)sizes[i]);
        memset(text + answer.len, 'x', sizes[i]);
        answer.len += sizes[i];
        check_early_answer(answer, sizes[i], false);
        check_early_answer(answer, sizes[i], true);
        free(text);
    }
}

/* ---- names ---- */

static void test_result_names(void **state) {
#define NAMED(name, value) {name, value, #name},
    static const struct {
        azo_result result;
        int value;
        const char *name;
    } all[] = {AZO_RESULTS(NAMED)};
#undef NAMED
    size_t i;
    (void)state;
    for (i = 0; i < sizeof all / sizeof all[0]; i++) {
        assert_int_equal(all[i].result, all[i].value);
        assert_string_equal(azo_result_name(all[i].result), all[i].name);
    }
    assert_string_equal(azo_result_name((azo_result)-49), "unknown result");
    assert_string_equal(azo_version(), AZO_VERSION);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_missing_settings),
        cmocka_unit_test(test_scopes),
        cmocka_unit_test(test_proxies),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_call_limits),
        cmocka_unit_test(test_body_of_81),
        cmocka_unit_test(test_body_fields),
        cmocka_unit_test(test_body_refusals),
        cmocka_unit_test(test_history),
        cmocka_unit_test(test_history_memory),
        cmocka_unit_test(test_reply_81),
        cmocka_unit_test(test_limit_waits),
        cmocka_unit_test(test_stream_82),
        cmocka_unit_test(test_stream_message),
        cmocka_unit_test(test_stream_83),
        cmocka_unit_test(test_stream_filters),
        cmocka_unit_test(test_stream_84),
        cmocka_unit_test(test_stream_braces),
        cmocka_unit_test(test_stream_ends),
        cmocka_unit_test(test_stream_glued),
        cmocka_unit_test(test_stream_choices),
        cmocka_unit_test(test_stream_tools),
        cmocka_unit_test(test_stream_stop),
        cmocka_unit_test(test_stream_limit),
        cmocka_unit_test(test_stream_parts),
        cmocka_unit_test(test_stream_interleaved),
        cmocka_unit_test(test_stream_restart),
        cmocka_unit_test(test_whole_bodies),
        cmocka_unit_test(test_custom_tools),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_begin_in_callback),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_refusal_wait),
        cmocka_unit_test(test_refusal_secrets),
        cmocka_unit_test(test_refusal_cut),
        cmocka_unit_test(test_regional),
        cmocka_unit_test(test_empty_usage),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_embeddings_order),
        cmocka_unit_test(test_embeddings_refused),
        cmocka_unit_test(test_embeddings_in_pieces),
        cmocka_unit_test(test_embeddings_limit),
        cmocka_unit_test(test_embeddings_promise),
        cmocka_unit_test(test_embeddings_memory),
        cmocka_unit_test(test_embeddings_arguments),
        cmocka_unit_test(test_raw_targets),
        cmocka_unit_test(test_raw_bodies),
        cmocka_unit_test(test_raw_ends),
        cmocka_unit_test(test_raw_replies),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_provider_closes),
        cmocka_unit_test(test_memory_failures),
        cmocka_unit_test(test_open_failures),
        cmocka_unit_test(test_warm_allocations),
        cmocka_unit_test(test_impossible_sizes),
        cmocka_unit_test(test_wait),
        cmocka_unit_test(test_poll),
        cmocka_unit_test(test_no_poll),
        cmocka_unit_test(test_early_answers),
        cmocka_unit_test(test_result_names),
    };
    scrub_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
