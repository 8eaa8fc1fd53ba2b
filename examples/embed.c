/* embed.c - which texts mean the same: embeds a few of them in one call and prints their cosine similarities.
 *
 *     embed [TEXT TEXT...]
 *
 * AZURE_OPENAI_DEPLOYMENT must name a deployment of an embedding model. All other configuration comes from the
 * environment too.
 *
 *     cc -std=c99 -I. examples/embed.c examples/azopenai.c -o embed -lmbedtls -lmbedx509 -lmbedcrypto -lm
 */
#include "azopenai.h"
#include <math.h>
#include <stdio.h>

enum { MAX_TEXTS = 64 };

static double dot(const float *a, const float *b, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

static double cosine(const float *a, const float *b, size_t count) {
    double norms = sqrt(dot(a, a, count) * dot(b, b, count));
    return norms > 0 ? dot(a, b, count) / norms : 0;
}

static void print_similarities(const azo_embed_reply *reply, const azo_str *texts) {
    for (size_t i = 0; i < reply->count; i++) {
        for (size_t j = i + 1; j < reply->count; j++) {
            const float *a = reply->vectors + i * reply->dimensions;
            const float *b = reply->vectors + j * reply->dimensions;
            printf("%6.3f  %s | %s\n", cosine(a, b, reply->dimensions), texts[i].ptr, texts[j].ptr);
        }
    }
}

int main(int argc, char **argv) {
    static const char *const defaults[] = {"The cat sat on the mat.", "A kitten was lying on the rug.",
                                           "Interest rates rose again."};
    azo_str texts[MAX_TEXTS];
    size_t count = 0;
    if (argc == 2 || argc > MAX_TEXTS + 1) {
        fprintf(stderr, "usage: embed [TEXT TEXT...], 2 to %d texts\n", MAX_TEXTS);
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        texts[count++] = azo_s(argv[i]);
    }
    for (size_t i = 0; argc == 1 && i < sizeof defaults / sizeof defaults[0]; i++) {
        texts[count++] = azo_s(defaults[i]);
    }

    azo_embed_desc embed = {0};
    embed.inputs = texts;
    embed.input_count = count;

    azo_client *client;
    azo_embed_reply reply = {0};
    azo_error error;
    azo_result result = azo_client_open(NULL, &client, &error);
    if (result == AZO_OK) {
        result = azo_embed(client, &embed, &reply, &error);
    }
    if (result == AZO_OK) {
        print_similarities(&reply, texts);
    } else {
        fprintf(stderr, "embed: %s\n", error.message);
    }
    azo_embed_reply_free(&reply);
    azo_client_close(client);
    return result == AZO_OK ? 0 : 1;
}
