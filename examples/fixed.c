/* fixed.c - chats in two static buffers, one for the library and one for mbedTLS, and says how full they were.
 *
 *     fixed [PROMPT [TIMES]]
 *
 * mbedTLS allocates for itself. The second buffer is in use where it was built with MBEDTLS_PLATFORM_MEMORY and
 * MBEDTLS_MEMORY_BUFFER_ALLOC_C, and MBEDTLS_MEMORY_DEBUG has it count. All configuration comes from the environment,
 * as with chat. What still uses the heap is the C library: for files, and in getaddrinfo.
 *
 *     cc -std=c99 -I. examples/fixed.c examples/azopenai.c -o fixed -lmbedtls -lmbedx509 -lmbedcrypto
 */
#include "azopenai.h"
#include <mbedtls/version.h>
#ifdef MBEDTLS_MEMORY_BUFFER_ALLOC_C
#include <mbedtls/memory_buffer_alloc.h>
#endif
#include <stdio.h>
#include <stdlib.h>

enum { OURS = 80 * 1024, THEIRS = 128 * 1024 };

static unsigned char ours[OURS];
static azo_pool pool;

#ifdef MBEDTLS_MEMORY_BUFFER_ALLOC_C
static unsigned char theirs[THEIRS];
#endif

static int on_event(const azo_event *event, void *user_data) {
    (void)user_data;
    if (event->kind == AZO_EVENT_TEXT) {
        fwrite(event->text.ptr, 1, event->text.len, stdout);
    }
    return AZO_GO_ON;
}

static azo_result chat(azo_client *client, const char *prompt, azo_error *error) {
    azo_message message = azo_user(prompt);
    azo_chat_desc desc = {0};
    azo_chat_reply reply;
    desc.messages = &message;
    desc.message_count = 1;
    desc.on_event = on_event;
    azo_result result = azo_chat(client, &desc, &reply, error);
    azo_chat_reply_free(&reply);
    puts("");
    return result;
}

static void print_peaks(void) {
    fprintf(stderr, "library: %lu of %d bytes, %lu in use\n", (unsigned long)pool.peak, (int)OURS,
            (unsigned long)pool.used);
#if defined(MBEDTLS_MEMORY_BUFFER_ALLOC_C) && defined(MBEDTLS_MEMORY_DEBUG)
    size_t bytes;
    size_t blocks;
    mbedtls_memory_buffer_alloc_max_get(&bytes, &blocks);
    fprintf(stderr, "mbedTLS: %lu of %d bytes in %lu blocks, their heads not counted\n", (unsigned long)bytes,
            (int)THEIRS, (unsigned long)blocks);
#endif
}

int main(int argc, char **argv) {
    const char *prompt = argc > 1 ? argv[1] : "Hello.";
    long times = argc > 2 ? strtol(argv[2], NULL, 10) : 1;
    azo_client_desc desc = {0};
    azo_client *client;
    azo_error error;
#ifdef MBEDTLS_MEMORY_BUFFER_ALLOC_C
    mbedtls_memory_buffer_alloc_init(theirs, sizeof theirs); /* for the whole process, before anything of mbedTLS */
#endif
    desc.credential.kind = AZO_CRED_CHAIN;
    desc.allocator = azo_pool_init(&pool, ours, sizeof ours);
    azo_result result = azo_client_open(&desc, &client, &error);
    for (long i = 0; result == AZO_OK && i < times; i++) {
        result = chat(client, prompt, &error);
    }
    if (result != AZO_OK) {
        fprintf(stderr, "fixed: %s\n", error.message);
    }
    print_peaks();
    azo_client_close(client);
    return result == AZO_OK ? 0 : 1;
}
