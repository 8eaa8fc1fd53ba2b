/* cron.c - a short program that runs often: keeps tokens and TLS sessions in a file, so that from the second run on it
 * asks for no token and shakes hands without certificates, with TLS 1.2 in one round trip less.
 *
 *     cron FILE [QUESTION]
 *
 * The file is made if it is not there, and readable by its owner only: it is worth as much as the tokens in it. A file
 * that is of no use is no failure: the run takes as long as the first one, and writes a good one.
 *
 * AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_DEPLOYMENT say whom to ask; the identity is found as in hello.c.
 *
 *     cc -std=c99 -I. examples/cron.c examples/azopenai.c -o cron -lmbedtls -lmbedx509 -lmbedcrypto
 */
#define _POSIX_C_SOURCE 200809L
#include "azopenai.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_STATE = 256 * 1024, MAX_PATH = 4096 };

/* Whatever the compiler thinks of memory that is not read again. */
static void wipe(void *ptr, size_t size) {
    volatile unsigned char *at = (volatile unsigned char *)ptr;
    while (size-- > 0) {
        *at++ = 0;
    }
}

/* What is left of the last run, if anything is. */
static void load(azo_client *client, const char *path) {
    static char state[MAX_STATE];
    azo_error error;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return;
    }
    (void)setvbuf(file, NULL, _IONBF, 0); /* no second copy of the tokens */
    size_t len = fread(state, 1, sizeof state, file);
    (void)fclose(file);
    if (azo_client_import(client, state, len, &error) != AZO_OK) {
        fprintf(stderr, "cron: %s: %s\n", path, error.message);
    }
    wipe(state, len);
}

static bool write_all(int fd, azo_str bytes) {
    while (bytes.len > 0) {
        ssize_t written = write(fd, bytes.ptr, bytes.len);
        if (written <= 0) {
            return false;
        }
        bytes.ptr += written;
        bytes.len -= (size_t)written;
    }
    return true;
}

/* Into a file of its own first, so that whoever reads meanwhile, or after a crash, finds a whole one. */
static void store(azo_client *client, const char *path) {
    char fresh[MAX_PATH];
    azo_state state;
    azo_error error;
    if (azo_client_export(client, &state, &error) != AZO_OK) {
        fprintf(stderr, "cron: %s\n", error.message);
        return;
    }
    int len = snprintf(fresh, sizeof fresh, "%s.XXXXXX", path);
    int fd = len < (int)sizeof fresh ? mkstemp(fresh) : -1; /* made with mode 0600 */
    bool ok = fd >= 0 && fchmod(fd, S_IRUSR | S_IWUSR) == 0 && write_all(fd, state.bytes);
    ok = (fd < 0 || close(fd) == 0) && ok && rename(fresh, path) == 0;
    if (!ok) {
        perror(path);
    }
    if (!ok && fd >= 0) {
        (void)unlink(fresh);
    }
    azo_state_free(&state);
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: cron FILE [QUESTION]\n");
        return 2;
    }
    azo_message message = azo_user(argc > 2 ? argv[2] : "Name a colour.");
    azo_chat_desc chat = {0};
    azo_chat_reply reply = {0};
    azo_client *client;
    azo_error error;
    chat.messages = &message;
    chat.message_count = 1;

    azo_result result = azo_client_open(NULL, &client, &error);
    if (result == AZO_OK) {
        load(client, argv[1]);
        result = azo_chat(client, &chat, &reply, &error);
        store(client, argv[1]);
    }
    if (result == AZO_OK) {
        printf("%s\n", reply.text.ptr != NULL ? reply.text.ptr : "(no text)");
    } else {
        fprintf(stderr, "cron: %s\n", error.message);
    }
    azo_chat_reply_free(&reply);
    azo_client_close(client);
    return result == AZO_OK ? 0 : 1;
}
