/* tools.c - the model calls functions of this program: it asks for two at once, gets both results and answers.
 *
 *     tools [QUESTION]
 *
 * Each round sends the whole conversation, which azo_history keeps: the question, the assistant's message with its
 * calls, and one tool message per call. The rounds end when the model answers without calling anything. All
 * configuration comes from the environment.
 *
 *     cc -std=c99 -I. examples/tools.c examples/azopenai.c -o tools -lmbedtls -lmbedx509 -lmbedcrypto
 */
#include "azopenai.h"
#include <stdio.h>
#include <string.h>

enum { MAX_ROUNDS = 5 };

/* What the model wrote as the argument `name`; false if it is no string or too long. The model may get this wrong. */
static bool string_argument(const azo_tool_call *call, const char *name, char *out, size_t cap) {
    azo_str value;
    return azo_json_get(call->arguments, name, &value) == AZO_OK && azo_json_text(value, out, cap, NULL) == AZO_OK;
}

/* Runs one call. What cannot be done is told to the model, which can then ask again. */
static void run_tool(const azo_tool_call *call, char *result, size_t cap) {
    char text[64];
    if (strcmp(call->name.ptr, "get_weather") == 0) {
        if (string_argument(call, "city", text, sizeof text)) {
            snprintf(result, cap, "21 degrees and sunny in %s", text);
        } else {
            snprintf(result, cap, "error: get_weather needs {\"city\": \"...\"}");
        }
    } else if (strcmp(call->name.ptr, "get_time") == 0) {
        if (string_argument(call, "tz", text, sizeof text)) {
            snprintf(result, cap, "14:05 %s", text);
        } else {
            snprintf(result, cap, "error: get_time needs {\"tz\": \"...\"}");
        }
    } else {
        snprintf(result, cap, "error: there is no such tool");
    }
    printf("%s(%s) -> %s\n", call->name.ptr, call->arguments.ptr, result);
}

/* Adds the assistant's message and the result of each of its calls. */
static azo_result answer_calls(azo_history *history, const azo_chat_reply *reply, azo_error *error) {
    azo_result result = azo_history_add_reply(history, reply, error);
    for (size_t i = 0; result == AZO_OK && i < reply->tool_call_count; i++) {
        char text[256];
        run_tool(&reply->tool_calls[i], text, sizeof text);
        azo_message message = azo_tool_result(reply->tool_calls[i].id, text);
        result = azo_history_add(history, &message, error);
    }
    return result;
}

static azo_result converse(azo_client *client, azo_history *history, azo_error *error) {
    azo_tool tools[2];
    memset(tools, 0, sizeof tools);
    tools[0].name = "get_weather";
    tools[0].description = "The weather in a city";
    tools[0].parameters_json =
        "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"}},\"required\":[\"city\"]}";
    tools[1].name = "get_time";
    tools[1].description = "The time in a time zone";
    tools[1].parameters_json =
        "{\"type\":\"object\",\"properties\":{\"tz\":{\"type\":\"string\"}},\"required\":[\"tz\"]}";
    azo_chat_desc chat = {0};
    chat.history = history;
    chat.tools = tools;
    chat.tool_count = 2;

    bool calling = true;
    azo_result result = AZO_OK;
    for (int round = 0; result == AZO_OK && calling && round < MAX_ROUNDS; round++) {
        azo_chat_reply reply;
        result = azo_chat(client, &chat, &reply, error);
        calling = reply.tool_call_count > 0;
        if (result == AZO_OK && calling) {
            result = answer_calls(history, &reply, error);
        } else if (result == AZO_OK) {
            printf("%s\n", reply.text.ptr != NULL ? reply.text.ptr : "(no text)");
        }
        azo_chat_reply_free(&reply);
    }
    if (result == AZO_OK && calling) {
        fprintf(stderr, "tools: still calling tools after %d rounds\n", MAX_ROUNDS);
    }
    return result;
}

int main(int argc, char **argv) {
    azo_message question = azo_user(argc > 1 ? argv[1] : "What is the weather in Bern, and what time is it there?");
    azo_client *client;
    azo_history *history = NULL;
    azo_error error;
    azo_result result = azo_client_open(NULL, &client, &error);
    if (result == AZO_OK) {
        result = azo_history_open(client, &history, &error);
    }
    if (result == AZO_OK) {
        result = azo_history_add(history, &question, &error);
    }
    if (result == AZO_OK) {
        result = converse(client, history, &error);
    }
    if (result != AZO_OK) {
        fprintf(stderr, "tools: %s\n", error.message);
    }
    azo_history_close(history);
    azo_client_close(client);
    return result == AZO_OK ? 0 : 1;
}
