/* chat.c - Azure OpenAI on the command line.
 *
 *     chat [--stream] [--system TEXT] [--deployment NAME] [--max-tokens N] [--timeout SECONDS] [--retries N]
 *          [--verbose] [PROMPT...]
 *
 * Without a prompt standard input is the prompt; when that is a terminal, a conversation begins, streamed, until
 * Ctrl-D. SECONDS is the whole budget of an answer and may have a fraction. Standard output carries the assistant's
 * text and one newline. A failure is one message on standard error that starts with "chat: ". All configuration comes
 * from the environment: AZURE_OPENAI_ENDPOINT, AZURE_OPENAI_DEPLOYMENT, OPENAI_API_VERSION, the identity (AZURE_x),
 * SSL_CERT_FILE, HTTPS_PROXY and NO_PROXY.
 *
 * Exit status: 0 done; 1 anything that is not below; 2 usage: the command line or a variable is wrong, nothing was
 * sent; 3 network or TLS; 4 identity; 5 the peer broke the protocol or cut the stream; 6 the service refused;
 * 130 interrupted.
 *
 *     cc -std=c99 -I. examples/chat.c examples/azopenai.c -o chat -lmbedtls -lmbedx509 -lmbedcrypto
 */
#define _POSIX_C_SOURCE 200809L
#include "azopenai.h"
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    EXIT_DONE = 0,
    EXIT_OTHER = 1,
    EXIT_USAGE = 2,
    EXIT_NETWORK = 3,
    EXIT_IDENTITY = 4,
    EXIT_PROTOCOL = 5,
    EXIT_REFUSED = 6,
    EXIT_INTERRUPTED = 130
};

enum { MAX_RETRIES = 100, MAX_PROMPT_BYTES = 64 * 1024 * 1024 };

typedef struct options {
    const char *system;
    const char *deployment;
    int32_t max_tokens;
    int32_t timeout_ms;
    int retries; /* 0: the library's default; AZO_OFF: none */
    bool stream;
    bool verbose;
} options;

/* What one answer has put on standard output. */
typedef struct output {
    bool started;
    int failure; /* errno of the write that failed; 0: none */
} output;

static volatile sig_atomic_t got_interrupt;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    got_interrupt = 1;
}

static bool interrupted(void *user_data) {
    (void)user_data;
    return got_interrupt != 0;
}

/* Ctrl-C ends a call and a read; a second one ends the program at once, should a name lookup hang. A closed pipe is
 * to be a failed write with a message, not a silent death. */
static void catch_signals(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    (void)sigemptyset(&action.sa_mask);
    action.sa_handler = on_interrupt;
    action.sa_flags = (int)SA_RESETHAND;
    (void)sigaction(SIGINT, &action, NULL);
    action.sa_handler = SIG_IGN;
    action.sa_flags = 0;
    (void)sigaction(SIGPIPE, &action, NULL);
}

/* ---- The command line ---- */

static int usage(const char *problem, const char *what) {
    fprintf(stderr,
            "chat: %s%s\n"
            "usage: chat [--stream] [--system TEXT] [--deployment NAME] [--max-tokens N] [--timeout SECONDS]\n"
            "            [--retries N] [--verbose] [PROMPT...]\n",
            problem, what);
    return EXIT_USAGE;
}

/* Digits only, at most `max`. */
static bool parse_count(const char *text, int32_t max, int32_t *out) {
    int64_t value = 0;
    if (*text == '\0') {
        return false;
    }
    for (; *text >= '0' && *text <= '9' && value <= max; text++) {
        value = value * 10 + (*text - '0');
    }
    *out = (int32_t)(value <= max ? value : 0);
    return *text == '\0' && value <= max;
}

/* Seconds with or without a fraction, more than none, as milliseconds; any part of a millisecond counts as one. */
static bool parse_seconds(const char *text, int32_t *out) {
    int64_t ms = 0;
    int64_t unit = 1000; /* of the digit to come, times ten before the point */
    bool digits = false;
    for (; *text >= '0' && *text <= '9' && ms <= INT32_MAX; text++, digits = true) {
        ms = ms * 10 + (int64_t)(*text - '0') * 1000;
    }
    if (*text == '.') {
        bool rest = false;
        for (text++; *text >= '0' && *text <= '9'; text++, digits = true) {
            unit /= 10;
            ms += unit * (*text - '0');
            rest = rest || (unit == 0 && *text != '0');
        }
        ms += rest ? 1 : 0;
    }
    *out = (int32_t)(ms <= INT32_MAX ? ms : 0);
    return digits && *text == '\0' && ms > 0 && ms <= INT32_MAX;
}

/* Takes one option that has a value; -1: there is none of that name, else an exit status. */
static int value_option(options *o, const char *name, const char *value) {
    int32_t number = 0;
    bool known = true;
    bool good = value != NULL;
    if (strcmp(name, "--system") == 0) {
        o->system = value;
    } else if (strcmp(name, "--deployment") == 0) {
        good = good && *value != '\0';
        o->deployment = value;
    } else if (strcmp(name, "--max-tokens") == 0) {
        good = good && parse_count(value, INT32_MAX, &number) && number > 0;
        o->max_tokens = number;
    } else if (strcmp(name, "--timeout") == 0) {
        good = good && parse_seconds(value, &o->timeout_ms);
    } else if (strcmp(name, "--retries") == 0) {
        good = good && parse_count(value, MAX_RETRIES, &number);
        o->retries = number == 0 ? AZO_OFF : (int)number;
    } else {
        known = false;
    }
    if (!known) {
        return -1;
    }
    if (value == NULL) {
        return usage("a value is missing after ", name);
    }
    return good ? EXIT_DONE : usage("that is not a value for ", name);
}

/* Sets *first to the index of the first word of the prompt. */
static int parse_options(int argc, char **argv, options *o, int *first) {
    int i = 1;
    for (; i < argc && argv[i][0] == '-' && argv[i][1] != '\0'; i++) {
        if (strcmp(argv[i], "--") == 0) {
            i++;
            break;
        }
        if (strcmp(argv[i], "--stream") == 0) {
            o->stream = true;
        } else if (strcmp(argv[i], "--verbose") == 0) {
            o->verbose = true;
        } else {
            int status = value_option(o, argv[i], i + 1 < argc ? argv[i + 1] : NULL);
            if (status != EXIT_DONE) {
                return status < 0 ? usage("there is no option ", argv[i]) : status;
            }
            i++;
        }
    }
    *first = i;
    return EXIT_DONE;
}

/* ---- The prompt ---- */

/* The words with spaces between them; NULL: no memory. */
static char *join_words(char **words, int count) {
    size_t size = 1;
    for (int i = 0; i < count; i++) {
        size += strlen(words[i]) + 1;
    }
    char *text = (char *)malloc(size);
    size_t len = 0;
    for (int i = 0; text != NULL && i < count; i++) {
        size_t word = strlen(words[i]);
        memcpy(text + len, words[i], word);
        len += word;
        text[len++] = ' ';
    }
    if (text != NULL) {
        text[len > 0 ? len - 1 : 0] = '\0';
    }
    return text;
}

/* All of standard input, without line ends at its end. Explains on stderr and returns NULL with *status on failure. */
static char *read_prompt(int *status) {
    char *text = NULL;
    size_t len = 0;
    size_t cap = 0;
    for (;;) {
        if (cap - len < 2) {
            cap = cap == 0 ? 4096 : cap * 2;
            char *grown = cap > 2 * (size_t)MAX_PROMPT_BYTES ? NULL : (char *)realloc(text, cap);
            if (grown == NULL) {
                fprintf(stderr, "chat: the prompt on standard input is too long\n");
                *status = EXIT_OTHER;
                break;
            }
            text = grown;
        }
        ssize_t got = read(STDIN_FILENO, text + len, cap - len - 1);
        if (got > 0) {
            len += (size_t)got;
        } else if (got == 0) {
            while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r')) {
                len--;
            }
            text[len] = '\0';
            if (strlen(text) == len) {
                return text;
            }
            *status = usage("the prompt on standard input holds a NUL byte", "");
            break;
        } else if (got_interrupt != 0) {
            fprintf(stderr, "chat: interrupted\n");
            *status = EXIT_INTERRUPTED;
            break;
        } else if (errno != EINTR) {
            fprintf(stderr, "chat: cannot read standard input: %s\n", strerror(errno));
            *status = EXIT_OTHER;
            break;
        }
    }
    free(text);
    return NULL;
}

/* ---- One answer ---- */

static void write_text(output *out, azo_str text) {
    if (out->failure == 0 && text.len > 0) {
        out->started = true;
        if (fwrite(text.ptr, 1, text.len, stdout) != text.len || fflush(stdout) != 0) {
            out->failure = errno;
        }
    }
}

static int on_event(const azo_event *event, void *user_data) {
    output *out = (output *)user_data;
    if (event->choice == 0 && (event->kind == AZO_EVENT_TEXT || event->kind == AZO_EVENT_REFUSAL)) {
        write_text(out, event->text);
    }
    return out->failure != 0 ? AZO_STOP : AZO_GO_ON;
}

static int exit_status(const azo_error *error) {
    switch (error->code) {
    case AZO_OK:
        return EXIT_DONE;
    case AZO_ERR_ARGUMENT:
        return EXIT_USAGE;
    case AZO_ERR_TIMEOUT:
        return error->stage == AZO_STAGE_TOKEN ? EXIT_IDENTITY : EXIT_NETWORK;
    case AZO_ERR_CLOSED:
        return error->stage == AZO_STAGE_BODY ? EXIT_PROTOCOL : EXIT_NETWORK;
    case AZO_ERR_RESOLVE:
    case AZO_ERR_CONNECT:
    case AZO_ERR_PROXY:
    case AZO_ERR_TLS:
    case AZO_ERR_TLS_VERIFY:
    case AZO_ERR_TRUST_STORE:
        return EXIT_NETWORK;
    case AZO_ERR_NO_CREDENTIAL:
    case AZO_ERR_TOKEN:
    case AZO_ERR_IMDS:
    case AZO_ERR_PROVIDER:
        return EXIT_IDENTITY;
    case AZO_ERR_HTTP:
    case AZO_ERR_JSON:
    case AZO_ERR_STREAM:
    case AZO_ERR_REDIRECT:
        return EXIT_PROTOCOL;
    case AZO_ERR_BAD_REQUEST:
    case AZO_ERR_UNAUTHORIZED:
    case AZO_ERR_FORBIDDEN:
    case AZO_ERR_NOT_FOUND:
    case AZO_ERR_RATE_LIMIT:
    case AZO_ERR_CONTENT_FILTER:
    case AZO_ERR_SERVICE:
        return EXIT_REFUSED;
    default:
        return EXIT_OTHER;
    }
}

/* Explains a failure in one message: the library's two sentences, then the server's words or what each member of the
 * credential chain said. */
static int fail(const azo_error *error, const output *out) {
    if (out->failure != 0) {
        fprintf(stderr, "chat: cannot write to standard output: %s\n", strerror(out->failure));
        return EXIT_OTHER;
    }
    if (error->code == AZO_ERR_CANCELLED && got_interrupt != 0) {
        fprintf(stderr, "chat: interrupted\n");
        return EXIT_INTERRUPTED;
    }
    fprintf(stderr, "chat: %s\n", error->message);
    for (const char *line = error->detail; *line != '\0';) {
        int len = (int)strcspn(line, "\n");
        fprintf(stderr, "    %.*s\n", len, line);
        line += line[len] == '\n' ? len + 1 : len;
    }
    return exit_status(error);
}

static azo_chat_desc chat_desc(const options *o, output *out) {
    azo_chat_desc chat = {0};
    chat.deployment = o->deployment;
    chat.max_completion_tokens = o->max_tokens;
    chat.call.total_timeout_ms = o->timeout_ms;
    chat.call.max_retries = o->retries;
    if (o->stream) {
        chat.on_event = on_event;
        chat.user_data = out;
    }
    return chat;
}

/* Asks and prints the answer, or the failure. The reply wants to be freed either way. */
static int answer(azo_client *client, const azo_chat_desc *chat, output *out, azo_chat_reply *reply) {
    azo_error error;
    const azo_str newline = azo_s("\n");
    azo_result result = azo_chat(client, chat, reply, &error);
    if (result == AZO_OK && chat->on_event == NULL) {
        write_text(out, reply->text.len > 0 ? reply->text : reply->refusal);
    }
    if (result == AZO_OK || out->started) {
        write_text(out, newline);
    }
    return result == AZO_OK && out->failure == 0 ? EXIT_DONE : fail(&error, out);
}

static int one_answer(azo_client *client, const options *o, const char *prompt) {
    azo_message messages[2];
    size_t count = 0;
    if (o->system != NULL) {
        messages[count++] = azo_system(o->system);
    }
    messages[count++] = azo_user(prompt);
    output out = {false, 0};
    azo_chat_desc chat = chat_desc(o, &out);
    chat.messages = messages;
    chat.message_count = count;
    azo_chat_reply reply = {0};
    int status = answer(client, &chat, &out, &reply);
    azo_chat_reply_free(&reply);
    return status;
}

/* ---- The conversation on a terminal ---- */

/* One question of a conversation. It and its answer enter the history together, so that a failed one can be asked
 * again. */
static int one_turn(azo_client *client, const options *o, azo_history *history, const char *line) {
    azo_message question = azo_user(line);
    output out = {false, 0};
    azo_chat_desc chat = chat_desc(o, &out);
    chat.history = history;
    chat.messages = &question;
    chat.message_count = 1;
    azo_chat_reply reply = {0};
    int status = answer(client, &chat, &out, &reply);
    azo_error error;
    if (status == EXIT_DONE) {
        size_t before = azo_history_count(history);
        if (azo_history_add(history, &question, &error) != AZO_OK ||
            azo_history_add_reply(history, &reply, &error) != AZO_OK) {
            azo_history_remove(history, before, 1);
            status = fail(&error, &out);
        }
    }
    azo_chat_reply_free(&reply);
    return status;
}

/* Ends with Ctrl-D, with the status of the last answer. Prompt signs go to stderr: they are no answer. */
static int talk(azo_client *client, const options *o, azo_history *history) {
    char *line = NULL;
    size_t cap = 0;
    int status = EXIT_DONE;
    while (status != EXIT_INTERRUPTED) {
        fprintf(stderr, "> ");
        ssize_t len = getline(&line, &cap, stdin);
        if (len < 0) {
            fprintf(stderr, "%s\n", got_interrupt != 0 ? "\nchat: interrupted" : "");
            status = got_interrupt != 0 ? EXIT_INTERRUPTED : status;
            break;
        }
        line[strcspn(line, "\r\n")] = '\0';
        if (line[0] != '\0') {
            status = one_turn(client, o, history, line);
        }
    }
    free(line);
    return status;
}

static int conversation(azo_client *client, const options *given) {
    options o = *given;
    o.stream = true;
    const output nothing = {false, 0};
    azo_history *history;
    azo_error error;
    azo_result result = azo_history_open(client, &history, &error);
    if (result == AZO_OK && o.system != NULL) {
        azo_message system = azo_system(o.system);
        result = azo_history_add(history, &system, &error);
    }
    int status = result == AZO_OK ? talk(client, &o, history) : fail(&error, &nothing);
    azo_history_close(history);
    return status;
}

/* ---- */

static void log_line(int level, const char *text, void *user_data) {
    (void)level;
    (void)user_data;
    fprintf(stderr, "%s\n", text);
}

int main(int argc, char **argv) {
    options o = {0};
    int first = 0;
    int status = parse_options(argc, argv, &o, &first);
    if (status != EXIT_DONE) {
        return status;
    }
    catch_signals();

    bool talking = first == argc && isatty(STDIN_FILENO) == 1;
    char *prompt = NULL;
    if (first < argc) {
        prompt = join_words(argv + first, argc - first);
        if (prompt == NULL) {
            fprintf(stderr, "chat: no memory for the prompt\n");
            return EXIT_OTHER;
        }
    } else if (!talking) {
        prompt = read_prompt(&status);
    }
    if (!talking && prompt == NULL) {
        return status;
    }
    if (!talking && prompt[0] == '\0') {
        free(prompt);
        return usage("the prompt is empty", "");
    }

    azo_client_desc desc = {0};
    desc.interrupted = interrupted;
    if (o.verbose) {
        desc.logger.line = log_line;
    }
    azo_client *client;
    azo_error error;
    const output nothing = {false, 0};
    if (azo_client_open(&desc, &client, &error) != AZO_OK) {
        status = fail(&error, &nothing);
    } else {
        status = talking ? conversation(client, &o) : one_answer(client, &o, prompt);
    }
    azo_client_close(client);
    free(prompt);
    return status;
}
