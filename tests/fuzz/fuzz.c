/* fuzz.c - all fuzz targets in one program; AZO_FUZZ_TARGET says which one runs. See fuzz.h for what a target is, and
 * run.sh for how they are built and run. The first byte of an input steers, the rest is the target's.
 *
 * Every target checks more than that nothing crashes: the same result whole and in pieces, the same result as
 * reference.h, what we print read back by us, caps, NULs behind views, two sentences for each error, no secret shown,
 * no block leaked, one outcome for each request.
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#define AZOPENAI_IMPLEMENTATION
#include "../../azopenai.h"

#include <math.h>

/* What follows is not measured: the coverage is that of the header. */
#ifdef __clang__
#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)
#endif

#include "fuzz.h"

#include "reference.h"

#include "json.h"

#include "http.h"

#include "text.h"

#include "replies.h"

#include "sending.h"

#include "exchange.h"

#include "state.h"

typedef struct fuzz_target {
    const char *name;
    void (*run)(unsigned char steer, azo_str bytes);
} fuzz_target;

/* clang-format off */
static const fuzz_target fuzz_targets[] = {
    {"json", fuzz_json},           {"json_path", fuzz_json_path}, {"number", fuzz_number},
    {"text", fuzz_strings},        {"pem", fuzz_pem},             {"head", fuzz_head},
    {"body", fuzz_body},           {"sse", fuzz_sse},             {"wait", fuzz_wait},
    {"chat", fuzz_chat},           {"stream", fuzz_stream},       {"embed", fuzz_embed},
    {"token", fuzz_token},         {"refusal", fuzz_refusal},     {"proxy", fuzz_proxy},
    {"url", fuzz_url},             {"request", fuzz_request},     {"exchange", fuzz_exchange},
    {"state", fuzz_state}
};
/* clang-format on */

static const fuzz_target *fuzz_chosen;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* No setting of this machine may reach a target, and nothing of cmocka's may go on after a failure. */
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    static const char *const names[] = {
        "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_DEPLOYMENT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN",
        "AZURE_OPENAI_API_VERSION", "OPENAI_API_VERSION", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET",
        "AZURE_AUTHORITY_HOST", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE"};
    const char *wanted = getenv("AZO_FUZZ_TARGET");
    (void)argc;
    (void)argv;
    for (size_t i = 0; i < FUZZ_COUNT(names); i++) {
        (void)unsetenv(names[i]);
    }
    (void)setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:8003", 1);
    (void)setenv("CMOCKA_TEST_ABORT", "1", 1);
    for (size_t i = 0; i < FUZZ_COUNT(fuzz_targets); i++) {
        if (wanted != NULL && strcmp(wanted, fuzz_targets[i].name) == 0) {
            fuzz_chosen = &fuzz_targets[i];
        }
    }
    if (fuzz_chosen == NULL) {
        fprintf(stderr, "AZO_FUZZ_TARGET has to name a target:");
        for (size_t i = 0; i < FUZZ_COUNT(fuzz_targets); i++) {
            fprintf(stderr, " %s", fuzz_targets[i].name);
        }
        fprintf(stderr, "\n");
        exit(2);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    azo_str bytes = fuzz_view((const char *)data, size);
    unsigned char steer = size > 0 ? data[0] : 0;
    if (size > 0) {
        bytes = fuzz_view(bytes.ptr + 1, size - 1);
    }
    char *exact = fuzz_exact(bytes);
    fuzz_chosen->run(steer, fuzz_view(exact, bytes.len));
    free(exact);
    return 0;
}

#ifdef __clang__
#pragma clang attribute pop
#endif
