/* small_chat.c - the smallest program that chats, streamed if the library can: for measuring what the library takes.
 * All that is its own is static.
 *
 *     small_chat PROMPT */
#include "azopenai.h"
#include <stdio.h>

#ifndef AZO_NO_STREAM
static int on_event(const azo_event *event, void *user_data) {
    (void)user_data;
    if (event->kind == AZO_EVENT_TEXT) {
        fwrite(event->text.ptr, 1, event->text.len, stdout);
    }
    return AZO_GO_ON;
}
#endif

int main(int argc, char **argv) {
    static azo_error error;
    static azo_chat_desc chat;
    static azo_chat_reply reply;
    static azo_message message;
    azo_client *client;
    message = azo_user(argc > 1 ? argv[1] : "Hello.");
    chat.messages = &message;
    chat.message_count = 1;
#ifndef AZO_NO_STREAM
    chat.on_event = on_event;
#endif
    if (azo_client_open(NULL, &client, &error) == AZO_OK) {
        if (azo_chat(client, &chat, &reply, &error) == AZO_OK) {
#ifdef AZO_NO_STREAM
            fwrite(reply.text.ptr, 1, reply.text.len, stdout);
#endif
        }
        azo_chat_reply_free(&reply);
        azo_client_close(client);
    }
    puts(error.message);
    return error.code == AZO_OK ? 0 : 1;
}
