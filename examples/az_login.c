/* az_login.c - signs in as whoever ran `az login`: a token provider over the Azure CLI.
 *
 *     az_login [QUESTION]
 *
 * The provider runs `az account get-access-token --output json --resource RESOURCE` without waiting for it: it hands
 * the library the pipe to wait for and answers AZO_PENDING until the command has ended, which takes seconds. So it
 * serves blocking calls and event loops alike. The library caches the token and asks again before it expires. Copy the
 * part between the lines into a program of your own.
 *
 * AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_DEPLOYMENT say whom to ask. AZ_LOGIN_SECONDS is the time limit for the
 * command (30).
 *
 *     cc -std=c99 -I. examples/az_login.c examples/azopenai.c -o az_login -lmbedtls -lmbedx509 -lmbedcrypto
 */
#define _POSIX_C_SOURCE 200809L
#include "azopenai.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------- the token provider */

enum { AZ_OUTPUT_BYTES = 64 * 1024, AZ_COMPLAINT_BYTES = 4 * 1024, AZ_RESOURCE_BYTES = 256, AZ_NOT_INSTALLED = 127 };

/* The user data of the provider. */
typedef struct az_login {
    int time_limit_ms;
    char message[512]; /* why it failed: must outlive the call that reports it */
} az_login;

/* One run of the command: what *ask->state points to. */
typedef struct az_run {
    pid_t pid; /* 0: ended and waited for */
    int status;
    int output;    /* its stdout; -1 once it ended */
    int complaint; /* its stderr; -1 once it ended */
    int64_t deadline_ms;
    size_t output_len;
    size_t complaint_len;
    char output_text[AZ_OUTPUT_BYTES]; /* holds the token: wiped at the end */
    char complaint_text[AZ_COMPLAINT_BYTES];
} az_run;

static int64_t az_now_ms(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void az_wipe(void *ptr, size_t size) {
    volatile unsigned char *at = (volatile unsigned char *)ptr;
    while (size-- > 0) {
        *at++ = 0;
    }
}

static void az_close(int *fd) {
    if (*fd >= 0) {
        (void)close(*fd);
        *fd = -1;
    }
}

/* The resource is the scope without its "/.default". Only the characters that one can have may reach the command
 * line, though no shell is involved: a leading '-' would be an option. */
static bool az_resource(const char *scope, char *out, size_t cap) {
    static const char suffix[] = "/.default";
    const size_t suffix_len = sizeof suffix - 1;
    size_t len = strlen(scope);
    if (len > suffix_len && strcmp(scope + len - suffix_len, suffix) == 0) {
        len -= suffix_len;
    }
    if (len == 0 || len >= cap || scope[0] == '-') {
        return false;
    }
    memcpy(out, scope, len);
    out[len] = '\0';
    return strspn(out, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:/_") == len;
}

/* Becomes the command; in the child, where nothing but system calls may be made. Its own process group lets az_kill
 * reach the Python behind the `az` script; in "/" no relative PATH entry finds a planted one. */
static void az_child(const char *resource, int output, int complaint) {
    static char name[] = "az";
    static char words[5][20] = {"account", "get-access-token", "--output", "json", "--resource"};
    char resource_word[AZ_RESOURCE_BYTES];
    char *arguments[8] = {name, words[0], words[1], words[2], words[3], words[4], resource_word, NULL};
    memcpy(resource_word, resource, strlen(resource) + 1);
    int nothing = open("/dev/null", O_RDONLY);
    if (setpgid(0, 0) == 0 && nothing >= 0 && dup2(nothing, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0 &&
        dup2(complaint, STDERR_FILENO) >= 0 && chdir("/") == 0) {
        (void)execvp(name, arguments);
    }
    _exit(AZ_NOT_INSTALLED);
}

/* A pipe that neither other children inherit nor a read waits on. */
static bool az_pipe(int ends[2]) {
    if (pipe(ends) != 0) {
        ends[0] = ends[1] = -1;
        return false;
    }
    return fcntl(ends[0], F_SETFD, FD_CLOEXEC) == 0 && fcntl(ends[1], F_SETFD, FD_CLOEXEC) == 0 &&
           fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0;
}

static bool az_start(az_run *run, const char *resource) {
    int output[2] = {-1, -1};
    int complaint[2] = {-1, -1};
    bool started = az_pipe(output) && az_pipe(complaint);
    if (started) {
        run->pid = fork();
        if (run->pid == 0) {
            az_child(resource, output[1], complaint[1]);
        }
        started = run->pid > 0;
    }
    if (started) {
        (void)setpgid(run->pid, run->pid); /* whoever of the two comes first */
        run->output = output[0];
        run->complaint = complaint[0];
    } else {
        run->pid = 0;
        az_close(&output[0]);
        az_close(&complaint[0]);
    }
    az_close(&output[1]);
    az_close(&complaint[1]);
    return started;
}

/* Ends the command if it still runs, and forgets everything about it. */
static void az_kill(void **state) {
    az_run *run = (az_run *)*state;
    if (run == NULL) {
        return;
    }
    if (run->pid > 0) {
        (void)kill(-run->pid, SIGKILL);
        (void)kill(run->pid, SIGKILL);
        while (waitpid(run->pid, &run->status, 0) < 0 && errno == EINTR) {
        }
    }
    az_close(&run->output);
    az_close(&run->complaint);
    az_wipe(run, sizeof *run);
    free(run);
    *state = NULL;
}

/* Reads what is there; closes *fd at the end. What does not fit is dropped: such output is not what was asked for. */
static void az_drain(int *fd, char *text, size_t cap, size_t *len) {
    char rest[512];
    while (*fd >= 0) {
        bool full = *len + 1 >= cap;
        ssize_t got = full ? read(*fd, rest, sizeof rest) : read(*fd, text + *len, cap - 1 - *len);
        if (got > 0) {
            *len += full ? 0 : (size_t)got;
        } else if (got < 0 && errno == EINTR) {
            continue;
        } else if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            break;
        } else {
            az_close(fd);
        }
    }
    text[*len] = '\0';
}

/* True once the command is gone. A helper that it left behind may keep the pipes open: that one is not waited for. */
static bool az_ended(az_run *run) {
    pid_t gone = waitpid(run->pid, &run->status, WNOHANG);
    if (gone == 0 || (gone < 0 && errno == EINTR)) {
        return false;
    }
    run->status = gone < 0 ? -1 : run->status; /* somebody else's SIGCHLD handler took it: let the output decide */
    run->pid = 0;
    az_drain(&run->output, run->output_text, sizeof run->output_text, &run->output_len);
    az_drain(&run->complaint, run->complaint_text, sizeof run->complaint_text, &run->complaint_len);
    return true;
}

/* Seconds left: from expires_on, which is UTC, or else from expiresOn, which older versions print alone and which is
 * local time; 0 if neither says. */
static int64_t az_lifetime(azo_str json) {
    azo_str value;
    double number;
    int64_t now = (int64_t)time(NULL);
    if (azo_json_get(json, "expires_on", &value) == AZO_OK && azo_json_number(value, &number) == AZO_OK &&
        number > (double)now && number < 1e12) {
        return (int64_t)number - now;
    }
    char text[40];
    struct tm local;
    memset(&local, 0, sizeof local);
    if (azo_json_get(json, "expiresOn", &value) == AZO_OK &&
        azo_json_text(value, text, sizeof text, NULL) == AZO_OK &&
        sscanf(text, "%4d-%2d-%2d %2d:%2d:%2d", &local.tm_year, &local.tm_mon, &local.tm_mday, &local.tm_hour,
               &local.tm_min, &local.tm_sec) == 6) {
        local.tm_year -= 1900;
        local.tm_mon -= 1;
        local.tm_isdst = -1;
        int64_t expiry = (int64_t)mktime(&local);
        return expiry > now ? expiry - now : 0;
    }
    return 0;
}

static azo_result az_fail(az_login *login, azo_token_answer *answer, const char *what, const char *next) {
    (void)snprintf(login->message, sizeof login->message, "%s. %s", what, next);
    answer->error_text = login->message;
    return AZO_ERR_PROVIDER;
}

/* Says why the command failed, with the first line of what it said itself. */
static azo_result az_explain(az_login *login, const az_run *run, azo_token_answer *answer) {
    int code = WIFEXITED(run->status) ? WEXITSTATUS(run->status) : 128 + WTERMSIG(run->status); /* as a shell has it */
    if (code == AZ_NOT_INSTALLED) {
        return az_fail(login, answer, "The Azure CLI is not installed: there is no `az` on the PATH",
                       "Install it and run az login, or use another identity.");
    }
    char what[320];
    size_t start = strspn(run->complaint_text, " \t\r\n");
    int len = (int)strcspn(run->complaint_text + start, "\r\n");
    bool signed_out = strstr(run->complaint_text, "az login") != NULL;
    (void)snprintf(what, sizeof what, "%s (exit status %d: %.*s)",
                   signed_out ? "The Azure CLI is not signed in, or not for this resource"
                              : "az account get-access-token failed",
                   code, len > 200 ? 200 : len, run->complaint_text + start);
    return az_fail(login, answer, what,
                   signed_out ? "Run az login, then try again." : "Run the command by hand to see more.");
}

static azo_result az_finish(az_login *login, const az_run *run, azo_token_answer *answer) {
    if (run->status > 0) {
        return az_explain(login, run, answer);
    }
    azo_str json;
    azo_str value;
    json.ptr = run->output_text;
    json.len = run->output_len;
    azo_result result = azo_json_get(json, "accessToken", &value);
    if (result == AZO_OK) {
        result = azo_json_text(value, answer->token, answer->token_cap, &answer->token_len);
    }
    if (result != AZO_OK || answer->token_len == 0) {
        return az_fail(login, answer, "az account get-access-token did not print a token as JSON",
                       "Run it by hand; old versions of the Azure CLI need an update.");
    }
    answer->expires_in_s = az_lifetime(json);
    return AZO_OK;
}

/* Starts the command for the scope that is asked for; NULL after a failure that it explains. */
static az_run *az_begin(az_login *login, const azo_token_ask *ask, azo_token_answer *answer) {
    char resource[AZ_RESOURCE_BYTES];
    if (ask->claims != NULL) {
        (void)az_fail(login, answer, "The service wants claims that the Azure CLI can get only by signing in again",
                      "Run az login --claims-challenge with the claims of the challenge.");
        return NULL;
    }
    if (!az_resource(ask->scope, resource, sizeof resource)) {
        (void)az_fail(login, answer, "The scope cannot be passed to the Azure CLI",
                      "Use one such as https://cognitiveservices.azure.com/.default.");
        return NULL;
    }
    az_run *run = (az_run *)calloc(1, sizeof *run);
    if (run == NULL || !az_start(run, resource)) {
        free(run);
        (void)az_fail(login, answer, "The Azure CLI could not be started",
                      "The machine is short of memory, processes or descriptors: see its limits.");
        return NULL;
    }
    run->deadline_ms = az_now_ms() + login->time_limit_ms;
    return run;
}

/* The azo_token_fn; its user data is an az_login. */
static azo_result az_token(const azo_token_ask *ask, azo_token_answer *answer, void *user_data) {
    az_login *login = (az_login *)user_data;
    if (ask->abandon) {
        az_kill(ask->state);
        return AZO_ERR_CANCELLED;
    }
    if (*ask->state == NULL) {
        *ask->state = az_begin(login, ask, answer);
        if (*ask->state == NULL) {
            return AZO_ERR_PROVIDER;
        }
    }
    az_run *run = (az_run *)*ask->state;
    az_drain(&run->output, run->output_text, sizeof run->output_text, &run->output_len);
    az_drain(&run->complaint, run->complaint_text, sizeof run->complaint_text, &run->complaint_len);

    int64_t left = run->deadline_ms - az_now_ms();
    if (az_ended(run)) {
        azo_result result = az_finish(login, run, answer);
        az_kill(ask->state);
        return result;
    }
    if (left <= 0) {
        az_kill(ask->state);
        return az_fail(login, answer, "The Azure CLI did not answer in time",
                       "Run az account get-access-token by hand, or raise AZ_LOGIN_SECONDS.");
    }
    /* Between the end of its output and its own end is a moment; otherwise look at stderr now and then. */
    int64_t pause = run->output < 0 ? 10 : 250;
    answer->wait_fd = run->output;
    answer->wait_events = AZO_POLL_IN;
    answer->wait_ms = (int32_t)(left < pause ? left : pause);
    return AZO_PENDING;
}

/* ---------------------------------------------------------------------------------- end of the token provider */

static int time_limit_ms(void) {
    const char *text = getenv("AZ_LOGIN_SECONDS");
    long seconds = text != NULL ? strtol(text, NULL, 10) : 0;
    return seconds > 0 && seconds < 3600 ? (int)seconds * 1000 : 30000;
}

int main(int argc, char **argv) {
    az_login login = {0};
    login.time_limit_ms = time_limit_ms();
    azo_client_desc desc = {0};
    desc.token_provider = az_token;
    desc.token_user_data = &login;
    azo_message message = azo_user(argc > 1 ? argv[1] : "Why is the sky blue? One sentence.");
    azo_chat_desc chat = {0};
    chat.messages = &message;
    chat.message_count = 1;

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
        fprintf(stderr, "az_login: %s\n", error.message);
        if (error.detail[0] != '\0') {
            fprintf(stderr, "%s\n", error.detail);
        }
    }
    azo_chat_reply_free(&reply);
    azo_client_close(client);
    return result == AZO_OK ? 0 : 1;
}
