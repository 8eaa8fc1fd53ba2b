/* hello.c - asks one question without an API key.
 *
 * AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_DEPLOYMENT say whom. Who is asking comes from AZURE_TENANT_ID,
 * AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, else from the managed identity of the machine.
 *
 *     cc -std=c99 -I. examples/hello.c -o hello -lmbedtls -lmbedx509 -lmbedcrypto
 */
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"
#include <stdio.h>

int main(void) {
    azo_client_desc desc = {0};
    desc.credential.kind = AZO_CRED_CHAIN;
    azo_message messages[2];
    messages[0] = azo_system("Answer in one sentence.");
    messages[1] = azo_user("Why is the sky blue?");
    azo_chat_desc chat = {0};
    chat.messages = messages;
    chat.message_count = 2;

    azo_client *client;
    azo_chat_reply reply = {0};
    azo_error error;
    azo_result result = azo_client_open(&desc, &client, &error);
    if (result == AZO_OK) {
        result = azo_chat(client, &chat, &reply, &error);
    }
    if (result == AZO_OK) {
        printf("%s\n", reply.text.ptr != NULL ? reply.text.ptr : "(no text)");
    } else {
        fprintf(stderr, "hello: %s\n", error.message);
    }
    azo_chat_reply_free(&reply);
    azo_client_close(client);
    return result == AZO_OK ? 0 : 1;
}
