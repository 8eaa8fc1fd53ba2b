/* curl_chat.c - a chat without an API key by libcurl and cJSON, to compare sizes with. It does the least of what
 * examples/chat.c does: signs in with the client secret of the environment, or with the machine's identity without
 * one, asks once, streamed with --stream, and prints the answer. It does not retry, renew tokens, or explain.
 *
 *     curl_chat [--stream] PROMPT */
#include <cjson/cJSON.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char scope[] = "https%3A%2F%2Fcognitiveservices.azure.com";

/* What comes back: collected, or for a stream one line at a time. */
typedef struct answer {
    char *data;
    size_t len;
    int stream;
} answer;

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : otherwise;
}

static void print_delta(const char *line) {
    cJSON *event = strncmp(line, "data: {", 7) == 0 ? cJSON_Parse(line + 6) : NULL;
    cJSON *choice = cJSON_GetArrayItem(cJSON_GetObjectItem(event, "choices"), 0);
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetObjectItem(choice, "delta"), "content"));
    if (text != NULL) {
        fputs(text, stdout);
        fflush(stdout);
    }
    cJSON_Delete(event);
}

static void take_lines(answer *a) {
    char *start = a->data;
    char *end;
    while ((end = strchr(start, '\n')) != NULL) {
        *end = '\0';
        print_delta(start);
        start = end + 1;
    }
    a->len -= (size_t)(start - a->data);
    memmove(a->data, start, a->len + 1);
}

static size_t on_bytes(char *bytes, size_t size, size_t count, void *user_data) {
    answer *a = (answer *)user_data;
    char *grown = (char *)realloc(a->data, a->len + size * count + 1);
    if (grown == NULL) {
        return 0;
    }
    a->data = grown;
    memcpy(a->data + a->len, bytes, size * count);
    a->len += size * count;
    a->data[a->len] = '\0';
    if (a->stream) {
        take_lines(a);
    }
    return size * count;
}

/* A body of NULL makes it a GET. Frees the headers. True if the status is 200. */
static int call(CURL *curl, const char *url, struct curl_slist *headers, const char *body, answer *a) {
    long status = 0;
    CURLcode result;
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, a);
    if (setting("SSL_CERT_FILE", NULL) != NULL) {
        curl_easy_setopt(curl, CURLOPT_CAINFO, setting("SSL_CERT_FILE", NULL));
    }
    if (body != NULL) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    }
    result = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (result != CURLE_OK || status != 200) {
        fprintf(stderr, "curl_chat: %s, status %ld\n", curl_easy_strerror(result), status);
    }
    curl_slist_free_all(headers);
    return result == CURLE_OK && status == 200;
}

static int token_by_secret(CURL *curl, answer *a) {
    const char *host = setting("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com");
    const char *tenant = setting("AZURE_TENANT_ID", "");
    char *id = curl_easy_escape(curl, setting("AZURE_CLIENT_ID", ""), 0);
    char *secret = curl_easy_escape(curl, setting("AZURE_CLIENT_SECRET", ""), 0);
    char url[1024];
    char form[4096];
    snprintf(url, sizeof url, "%s/%s/oauth2/v2.0/token", host, tenant);
    snprintf(form, sizeof form, "grant_type=client_credentials&client_id=%s&client_secret=%s&scope=%s%%2F.default", id,
             secret, scope);
    curl_free(id);
    curl_free(secret);
    return call(curl, url, NULL, form, a);
}

static int token_by_machine(CURL *curl, answer *a) {
    char url[1024];
    snprintf(url, sizeof url, "%s/metadata/identity/oauth2/token?api-version=2018-02-01&resource=%s",
             setting("AZURE_POD_IDENTITY_AUTHORITY_HOST", ""), scope);
    return call(curl, url, curl_slist_append(NULL, "Metadata: true"), NULL, a);
}

/* The headers of the call with the token in them, or NULL. */
static struct curl_slist *authorization(CURL *curl) {
    answer a = {NULL, 0, 0};
    int ok = setting("AZURE_CLIENT_SECRET", NULL) != NULL ? token_by_secret(curl, &a) : token_by_machine(curl, &a);
    cJSON *reply = ok ? cJSON_Parse(a.data) : NULL;
    const char *token = cJSON_GetStringValue(cJSON_GetObjectItem(reply, "access_token"));
    struct curl_slist *headers = NULL;
    char line[8192];
    if (token != NULL && strlen(token) < sizeof line - 32) {
        snprintf(line, sizeof line, "Authorization: Bearer %s", token);
        headers = curl_slist_append(curl_slist_append(NULL, "Content-Type: application/json"), line);
    }
    cJSON_Delete(reply);
    free(a.data);
    return headers;
}

static char *chat_body(const char *prompt, int stream) {
    cJSON *body = cJSON_CreateObject();
    cJSON *message = cJSON_CreateObject();
    char *text;
    cJSON_AddStringToObject(message, "role", "user");
    cJSON_AddStringToObject(message, "content", prompt);
    cJSON_AddItemToArray(cJSON_AddArrayToObject(body, "messages"), message);
    if (stream) {
        cJSON_AddTrueToObject(body, "stream");
    }
    text = cJSON_PrintUnformatted(body);
    cJSON_Delete(body);
    return text;
}

static void print_reply(const char *data) {
    cJSON *reply = cJSON_Parse(data);
    cJSON *choice = cJSON_GetArrayItem(cJSON_GetObjectItem(reply, "choices"), 0);
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetObjectItem(choice, "message"), "content"));
    fputs(text != NULL ? text : "", stdout);
    cJSON_Delete(reply);
}

int main(int argc, char **argv) {
    answer a = {NULL, 0, argc == 3 && strcmp(argv[1], "--stream") == 0};
    CURL *curl = curl_easy_init();
    struct curl_slist *headers = authorization(curl);
    char *body = chat_body(argv[argc - 1], a.stream);
    char url[1024];
    int ok;
    snprintf(url, sizeof url, "%s/openai/deployments/%s/chat/completions?api-version=2024-10-21",
             setting("AZURE_OPENAI_ENDPOINT", ""), setting("AZURE_OPENAI_DEPLOYMENT", ""));
    ok = headers != NULL && body != NULL && call(curl, url, headers, body, &a);
    if (ok && !a.stream) {
        print_reply(a.data);
    }
    putchar('\n');
    cJSON_free(body);
    free(a.data);
    curl_easy_cleanup(curl);
    return ok ? 0 : 1;
}
