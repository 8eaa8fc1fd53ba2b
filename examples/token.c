/* token.c - the credential alone: fetches a token for any scope, for use with other tools.
 *
 * Says where the token came from and how long it lasts. The token itself is a secret and is printed, on a line of its
 * own, only with --print:
 *
 *     token [--print] [SCOPE]
 *     curl -H "Authorization: Bearer $(token --print https://vault.azure.net/.default | tail -n 1)" ...
 *
 * Who asks comes from AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, else from the managed identity of the
 * machine. No endpoint is needed.
 *
 *     cc -std=c99 -I. examples/token.c examples/azopenai.c -o token -lmbedtls -lmbedx509 -lmbedcrypto
 */
#include "azopenai.h"
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    bool print = argc > 1 && strcmp(argv[1], "--print") == 0;
    int scope_at = print ? 2 : 1;
    if (argc > scope_at + 1 || (argc > scope_at && argv[scope_at][0] == '-')) {
        fprintf(stderr, "usage: token [--print] [SCOPE]\n");
        return 2;
    }

    azo_client_desc desc = {0};
    desc.credential.kind = AZO_CRED_CHAIN;
    azo_token_desc ask = {0};
    ask.scope = argc > scope_at ? argv[scope_at] : NULL;

    azo_client *client;
    azo_token_reply reply = {0};
    azo_error error;
    azo_result result = azo_client_open(&desc, &client, &error);
    if (result == AZO_OK) {
        result = azo_token(client, &ask, &reply, &error);
    }
    if (result == AZO_OK) {
        printf("source: %s\n", reply.source);
        printf("expires in: %lld s\n", (long long)reply.expires_in_s);
        if (print) {
            printf("%s\n", reply.token.ptr);
        }
    } else {
        fprintf(stderr, "token: %s\n", error.message);
        if (error.detail[0] != '\0') {
            fprintf(stderr, "%s\n", error.detail);
        }
    }
    azo_token_reply_free(&reply);
    azo_client_close(client);
    return result == AZO_OK ? 0 : 1;
}
