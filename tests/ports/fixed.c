/* fixed.c - a client in one buffer and mbedTLS in another, over real TLS: what fixed.sh runs.
 *
 *     fixed CALLS            keyless streams with a clock that leaps, so that connections and tokens are renewed
 *     fixed ours|theirs      every size of that buffer, from none to enough; prints the least that is enough
 *     fixed back             memory of both that was taken and is given back
 *
 * Where the service is and who asks comes from the environment. mbedTLS has to be built with
 * MBEDTLS_MEMORY_BUFFER_ALLOC_C and MBEDTLS_MEMORY_DEBUG. Prints numbers, or what went wrong and exits with 1. */
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"
#include <mbedtls/memory_buffer_alloc.h>

enum {
    OURS = 80 * 1024, /* what the README promises to be enough */
    THEIRS = 128 * 1024,
    ENOUGH = 512 * 1024,
    STEP = 128,
    PIECE = 256,
    PIECES = ENOUGH / PIECE
};

static unsigned char ours[ENOUGH];
static unsigned char theirs[ENOUGH];
static azo_pool pool;
static azo_client_desc desc;
static azo_client *client;
static azo_error error;
static int64_t ahead_ms; /* the clock's leaps */

static void die(const char *what, size_t number) {
    printf("%s (%lu): %s %s\n", what, (unsigned long)number, azo_result_name(error.code), error.message);
    exit(1);
}

static int64_t monotonic_ms(void *user_data) {
    struct timespec now;
    (void)user_data;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + ahead_ms;
}

static int64_t unix_seconds(void *user_data) {
    (void)user_data;
    return (int64_t)time(NULL) + ahead_ms / 1000;
}

static int on_event(const azo_event *event, void *user_data) {
    size_t *heard = (size_t *)user_data;
    *heard += event->kind == AZO_EVENT_TEXT ? event->text.len : 0;
    return AZO_GO_ON;
}

static azo_result open_client(size_t our_size) {
    memset(&desc, 0, sizeof desc);
    desc.credential.kind = AZO_CRED_CHAIN;
    desc.allocator = azo_pool_init(&pool, ours, our_size);
    desc.clock.monotonic_ms = monotonic_ms;
    desc.clock.unix_seconds = unix_seconds;
    return azo_client_open(&desc, &client, &error);
}

/* The service of the tests says "You said: " and the prompt. */
static azo_result call(size_t number) {
    char prompt[64];
    azo_message message;
    azo_chat_desc chat;
    azo_chat_reply reply;
    size_t heard = 0;
    (void)snprintf(prompt, sizeof prompt, "This is call %08lu, and it is kept short.", (unsigned long)number);
    message = azo_user(prompt);
    memset(&chat, 0, sizeof chat);
    chat.messages = &message;
    chat.message_count = 1;
    chat.on_event = on_event;
    chat.user_data = &heard;
    azo_result r = azo_chat(client, &chat, &reply, &error);
    if (r == AZO_OK && (heard != strlen("You said: ") + strlen(prompt) || reply.text.len != heard)) {
        die("the answer is not whole", number);
    }
    azo_chat_reply_free(&reply);
    return r;
}

static void open_or_die(size_t our_size, size_t their_size) {
    mbedtls_memory_buffer_alloc_init(theirs, their_size);
    if (open_client(our_size) != AZO_OK) {
        die("open", 0);
    }
}

static void call_or_die(size_t number) {
    if (call(number) != AZO_OK) {
        die("call", number);
    }
}

static void close_client(void) {
    azo_client_close(client);
    client = NULL;
    if (pool.used != 0) {
        die("something is still in use", pool.used);
    }
}

/* Prints the peak of the library with a client, after one call, and after all. Which of two connections is ready first
 * changes it a little, so it may rise late. */
static void for_ever(size_t calls) {
    open_or_die(OURS, THEIRS);
    printf("%lu ", (unsigned long)pool.peak);
    for (size_t i = 0; i < calls; i++) {
        call_or_die(i);
        if (i == 0) {
            printf("%lu ", (unsigned long)pool.peak);
        }
        ahead_ms += i % 4 == 3 ? 700000 : i % 4 == 1 ? 40000 : 100; /* a token lasts for an hour, a connection 30 s */
    }
    printf("%lu\n", (unsigned long)pool.peak);
    close_client();
}

/* All that mbedTLS still has once everything is closed belongs to PSA, whose start-up is for the whole process. */
static void forget(void) {
    size_t bytes = 0;
    size_t blocks = 0;
#if MBEDTLS_VERSION_NUMBER >= 0x03000000 && defined(MBEDTLS_PSA_CRYPTO_C)
    mbedtls_psa_crypto_free();
#endif
    mbedtls_memory_buffer_alloc_cur_get(&bytes, &blocks);
    if (bytes != 0) {
        die("mbedTLS still has memory", bytes);
    }
    mbedtls_memory_buffer_alloc_free();
}

static bool works_in(size_t our_size, size_t their_size) {
    bool works = false;
    mbedtls_memory_buffer_alloc_init(theirs, their_size);
    for (size_t i = 0; i < 3 && (i == 0 || works); i++) { /* the last with other connections and another token */
        works = (i > 0 || open_client(our_size) == AZO_OK) && call(i) == AZO_OK;
        ahead_ms += i == 1 ? 3600000 : 0;
    }
    if (!works && error.code != AZO_ERR_MEMORY) {
        die("not for want of memory", our_size < their_size ? our_size : their_size);
    }
    close_client();
    forget();
    return works;
}

/* A size is enough if many after it are, too. */
static void every_size(bool of_ours) {
    enum { MANY = 40 };
    size_t least = 0;
    size_t good = 0;
    for (size_t size = 0; good < MANY; size += STEP) {
        if (size > ENOUGH) {
            die("nothing is enough", size);
        }
        good = works_in(of_ours ? size : sizeof ours, of_ours ? sizeof theirs : size) ? good + 1 : 0;
        least = good == 1 ? size : least;
    }
    printf("%lu\n", (unsigned long)least);
}

static void memory_comes_back(bool of_ours) {
    static void *pieces[PIECES + 1];
    size_t failed = 0;
    open_or_die(sizeof ours, sizeof theirs);
    call_or_die(0);
    for (size_t room = 0; room < PIECES / 4; room += 8) {
        size_t count = 0;
        ahead_ms += 200000;
        (void)azo_step(client, NULL, 0); /* closes the connections, so that the next call opens some */
        do { /* all there is */
            pieces[count] = of_ours ? desc.allocator.resize(NULL, 0, PIECE, &pool) : mbedtls_calloc(1, PIECE);
        } while (pieces[count] != NULL && ++count < PIECES);
        for (size_t i = 0; count > 0; i++) { /* some of it back, a call, and the rest */
            void *piece = pieces[--count];
            if (of_ours) {
                (void)desc.allocator.resize(piece, PIECE, 0, &pool);
            } else {
                mbedtls_free(piece);
            }
            if (i == room && call(room) != AZO_OK) {
                failed++;
                if (error.code != AZO_ERR_MEMORY) {
                    die("not for want of memory", room);
                }
            }
        }
        ahead_ms += 200000; /* past what is remembered of a failure */
        call_or_die(room);
    }
    if (failed == 0) {
        die("nothing was missed", 0);
    }
    close_client();
    forget();
}

int main(int argc, char **argv) {
    const char *what = argc == 2 ? argv[1] : "0";
    if (strcmp(what, "ours") == 0 || strcmp(what, "theirs") == 0) {
        every_size(what[0] == 'o');
    } else if (strcmp(what, "back") == 0) {
        memory_comes_back(true);
        memory_comes_back(false);
    } else {
        for_ever((size_t)strtoul(what, NULL, 10));
    }
    return 0;
}
