/* data.c - bench_data KIND [MEGABYTES]: prints a body for nginx to serve, laid out as the service does: "chat" is an
 * answer in one piece, "bulk" one in a stream of so many megabytes; "text" and "base64" are 100 embeddings. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Between -0.1 and 0.1, the same in every run. */
static float next_number(void) {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)((double)state / 4294967296.0 - 0.5) * 0.2F;
}

static void print_numbers(void) {
    int i;
    fputs("[\n", stdout);
    for (i = 0; i < BENCH_DIMENSIONS; i++) {
        printf("        %.9g%s\n", (double)next_number(), i + 1 < BENCH_DIMENSIONS ? "," : "");
    }
    fputs("      ]", stdout);
}

static void print_base64(void) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static unsigned char bytes[BENCH_DIMENSIONS * sizeof(float)]; /* a multiple of three */
    size_t i;
    for (i = 0; i < BENCH_DIMENSIONS; i++) {
        float number = next_number();
        memcpy(bytes + i * sizeof number, &number, sizeof number);
    }
    putchar('"');
    for (i = 0; i < sizeof bytes; i += 3) {
        uint32_t bits = (uint32_t)bytes[i] << 16 | (uint32_t)bytes[i + 1] << 8 | bytes[i + 2];
        putchar(digits[bits >> 18]);
        putchar(digits[bits >> 12 & 63]);
        putchar(digits[bits >> 6 & 63]);
        putchar(digits[bits & 63]);
    }
    putchar('"');
}

static void print_embeddings(void (*print_vector)(void)) {
    int i;
    fputs("{\n  \"object\": \"list\",\n  \"data\": [\n", stdout);
    for (i = 0; i < BENCH_VECTORS; i++) {
        printf("    {\n      \"object\": \"embedding\",\n      \"index\": %d,\n      \"embedding\": ", i);
        print_vector();
        printf("\n    }%s\n", i + 1 < BENCH_VECTORS ? "," : "");
    }
    fputs("  ],\n  \"model\": \"text-embedding-3-small\",\n"
          "  \"usage\": {\n    \"prompt_tokens\": 1300,\n    \"total_tokens\": 1300\n  }\n}\n",
          stdout);
}

#define SAFE "{\"filtered\":false,\"severity\":\"safe\"}"
#define FILTERS "\"hate\":" SAFE ",\"self_harm\":" SAFE ",\"sexual\":" SAFE ",\"violence\":" SAFE

static void print_chat(void) {
    fputs(
        "{\"choices\":[{\"content_filter_results\":{" FILTERS
        "},\"finish_reason\":\"stop\",\"index\":0,\"logprobs\":null,"
        "\"message\":{\"annotations\":[],\"content\":\"The sky is blue because air scatters short waves of light more "
        "than long ones, and it is red in the evening because the light then comes a long way through the air, on "
        "which most of the blue is lost to the side.\",\"refusal\":null,\"role\":\"assistant\"}}],"
        "\"created\":1760000000,\"id\":\"chatcmpl-BenchBenchBenchBenchBenchB\",\"model\":\"gpt-4o-2024-11-20\","
        "\"object\":\"chat.completion\",\"prompt_filter_results\":[{\"prompt_index\":0,\"content_filter_results\":"
        "{" FILTERS
        ",\"jailbreak\":{\"filtered\":false,\"detected\":false}}}],\"system_fingerprint\":\"fp_0000000000\","
        "\"usage\":{\"completion_tokens\":52,\"completion_tokens_details\":{\"accepted_prediction_tokens\":0,"
        "\"audio_tokens\":0,\"reasoning_tokens\":0,\"rejected_prediction_tokens\":0},\"prompt_tokens\":37,"
        "\"prompt_tokens_details\":{\"audio_tokens\":0,\"cached_tokens\":0},\"total_tokens\":89}}\n",
        stdout);
}

static long print_event(const char *delta, const char *finish) {
    return printf(BENCH_EVENT, delta, finish);
}

static void print_bulk(long megabytes) {
    long left = megabytes * 1024 * 1024;
    while (left > 0) {
        left -= print_event("\"content\":\" molecules\"", "null");
    }
    (void)print_event("", "\"stop\"");
    fputs("data: [DONE]\n\n", stdout);
}

int main(int argc, char **argv) {
    const char *kind = argc > 1 ? argv[1] : "";
    if (strcmp(kind, "chat") == 0) {
        print_chat();
    } else if (strcmp(kind, "text") == 0) {
        print_embeddings(print_numbers);
    } else if (strcmp(kind, "base64") == 0) {
        print_embeddings(print_base64);
    } else if (strcmp(kind, "bulk") == 0 && argc > 2) {
        print_bulk(strtol(argv[2], NULL, 10));
    } else {
        fputs("usage: bench_data chat|text|base64|bulk MEGABYTES\n", stderr);
        return 2;
    }
    return ferror(stdout) == 0 ? 0 : 1;
}
