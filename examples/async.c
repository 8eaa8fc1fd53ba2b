/* async.c - several questions at once on one thread, inside an event loop of the program's own.
 *
 *     async [--epoll] [QUESTION...]
 *
 * Without --epoll the loop is poll(): it asks azo_wait before each sleep what to wait for. With it the loop is epoll,
 * edge-triggered, and the library pushes what it waits for through azo_client_desc.loop, so that a turn costs nothing
 * for descriptors on which nothing happens. Either way all requests share one token and one set of connections. All
 * configuration comes from the environment.
 *
 *     cc -std=c99 -I. examples/async.c examples/azopenai.c -o async -lmbedtls -lmbedx509 -lmbedcrypto
 */
#define _POSIX_C_SOURCE 200809L
#include "azopenai.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#ifdef __linux__
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>
#endif

enum { MAX_QUESTIONS = 16, MAX_WATCHES = 64 };

typedef struct question {
    const char *text;
    azo_request *request; /* NULL once it was ended */
    azo_chat_reply reply;
    azo_error error;
    azo_result result;
} question;

/* Starts one request per question. None sends anything before the first azo_step. */
static size_t begin_all(azo_client *client, question *questions, size_t count) {
    size_t started = 0;
    for (size_t i = 0; i < count; i++) {
        azo_message message = azo_user(questions[i].text);
        azo_chat_desc chat = {0};
        chat.messages = &message;
        chat.message_count = 1;
        chat.call.tag = &questions[i];
        questions[i].result = azo_chat_begin(client, &chat, &questions[i].request, &questions[i].error);
        started += questions[i].result == AZO_OK;
    }
    return started;
}

/* Takes what has finished and returns how many that were. */
static size_t collect(azo_client *client) {
    size_t finished = 0;
    for (azo_request *request = azo_next(client); request != NULL; request = azo_next(client)) {
        question *q = (question *)azo_request_tag(request);
        q->result = azo_chat_end(request, &q->reply, &q->error);
        q->request = NULL;
        finished++;
    }
    return finished;
}

/* The loop with poll(). A program with other descriptors puts them into the same set. */
static bool run_poll(azo_client *client, size_t running) {
    while (running > 0) {
        azo_watch watches[MAX_WATCHES];
        struct pollfd set[MAX_WATCHES];
        int32_t timeout;
        size_t count = azo_wait(client, watches, MAX_WATCHES, &timeout);
        if (count > MAX_WATCHES) {
            return false;
        }
        for (size_t i = 0; i < count; i++) {
            set[i].fd = (int)watches[i].fd;
            set[i].events = (short)(((watches[i].events & AZO_POLL_IN) != 0 ? POLLIN : 0) |
                                    ((watches[i].events & AZO_POLL_OUT) != 0 ? POLLOUT : 0));
            set[i].revents = 0;
        }
        if (poll(set, (nfds_t)count, timeout) < 0 && errno != EINTR) {
            return false;
        }
        azo_watch ready[MAX_WATCHES];
        size_t ready_count = 0;
        for (size_t i = 0; i < count; i++) {
            if (set[i].revents != 0) {
                ready[ready_count++] = watches[i]; /* which events they were is only a hint */
            }
        }
        if (azo_step(client, ready, ready_count) != AZO_OK) {
            return false;
        }
        running -= collect(client);
    }
    return true;
}

#ifdef __linux__
typedef struct epoll_loop {
    int fd;
    int64_t due_ms; /* when to step even if nothing happens; -1: never */
} epoll_loop;

static int64_t now_ms(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The hook: one descriptor to add, change or (events 0) remove. The slot remembers whether epoll has it. */
static int loop_watch(intptr_t fd, unsigned events, uint32_t id, void **slot, void *user_data) {
    epoll_loop *loop = (epoll_loop *)user_data;
    struct epoll_event wish;
    memset(&wish, 0, sizeof wish);
    wish.events = EPOLLET;
    wish.events |= (events & AZO_POLL_IN) != 0 ? EPOLLIN : 0u;
    wish.events |= (events & AZO_POLL_OUT) != 0 ? EPOLLOUT : 0u;
    wish.data.u32 = id;
    int operation = events == 0 ? EPOLL_CTL_DEL : *slot == NULL ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    *slot = events == 0 ? NULL : loop;
    return epoll_ctl(loop->fd, operation, (int)fd, &wish);
}

/* The hook: the nearest time limit changed. */
static void loop_timer(int32_t timeout_ms, void *user_data) {
    epoll_loop *loop = (epoll_loop *)user_data;
    loop->due_ms = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
}

static int sleep_ms(const epoll_loop *loop) {
    int64_t left = loop->due_ms - now_ms();
    return loop->due_ms < 0 ? -1 : left < 0 ? 0 : left > INT32_MAX ? INT32_MAX : (int)left;
}

static bool run_epoll(azo_client *client, const epoll_loop *loop, size_t running) {
    while (running > 0) {
        struct epoll_event events[MAX_WATCHES];
        int count = epoll_wait(loop->fd, events, MAX_WATCHES, sleep_ms(loop));
        if (count < 0 && errno != EINTR) {
            return false;
        }
        azo_watch ready[MAX_WATCHES];
        size_t ready_count = 0;
        for (int i = 0; i < count; i++) {
            ready[ready_count].fd = -1; /* ids are enough */
            ready[ready_count].id = events[i].data.u32;
            ready[ready_count++].events = AZO_POLL_IN | AZO_POLL_OUT;
        }
        if (azo_step(client, ready, ready_count) != AZO_OK) {
            return false;
        }
        running -= collect(client);
    }
    return true;
}
#endif

/* Prints and frees everything; 0 if all questions were answered. */
static int report(question *questions, size_t count) {
    int status = 0;
    for (size_t i = 0; i < count; i++) {
        if (questions[i].result == AZO_OK) {
            azo_str text = questions[i].reply.text;
            printf("%s\n    %s\n", questions[i].text, text.ptr != NULL ? text.ptr : "(no text)");
        } else {
            fprintf(stderr, "async: %s: %s\n", questions[i].text, questions[i].error.message);
            status = 1;
        }
        azo_chat_reply_free(&questions[i].reply);
    }
    return status;
}

static int ask_all(question *questions, size_t count, bool with_epoll) {
    azo_client_desc desc = {0};
#ifdef __linux__
    epoll_loop loop = {-1, -1};
    if (with_epoll) {
        loop.fd = epoll_create1(EPOLL_CLOEXEC);
        if (loop.fd < 0) {
            perror("async: epoll_create1");
            return 1;
        }
        desc.loop.user_data = &loop;
        desc.loop.watch = loop_watch;
        desc.loop.timer = loop_timer;
    }
#endif
    azo_client *client;
    azo_error error;
    bool fine = azo_client_open(&desc, &client, &error) == AZO_OK;
    if (!fine) {
        fprintf(stderr, "async: %s\n", error.message);
    } else {
        size_t running = begin_all(client, questions, count);
#ifdef __linux__
        fine = with_epoll ? run_epoll(client, &loop, running) : run_poll(client, running);
#else
        (void)with_epoll;
        fine = run_poll(client, running);
#endif
    }
    int status = fine ? report(questions, count) : 1;
    for (size_t i = 0; i < count; i++) {
        azo_request_free(questions[i].request); /* of a loop that broke off */
    }
    azo_client_close(client); /* unregisters what is still watched, so before the loop goes */
#ifdef __linux__
    if (loop.fd >= 0) {
        (void)close(loop.fd);
    }
#endif
    return status;
}

int main(int argc, char **argv) {
    static const char *const defaults[] = {"Name a river.", "Name a mountain.", "Name a lake."};
    bool with_epoll = argc > 1 && strcmp(argv[1], "--epoll") == 0;
    int first = with_epoll ? 2 : 1;
#ifndef __linux__
    if (with_epoll) {
        fprintf(stderr, "async: epoll is a facility of Linux\n");
        return 2;
    }
#endif
    if (argc - first > MAX_QUESTIONS || (argc > first && argv[first][0] == '-')) {
        fprintf(stderr, "usage: async [--epoll] [QUESTION...], at most %d questions\n", MAX_QUESTIONS);
        return 2;
    }
    question questions[MAX_QUESTIONS];
    memset(questions, 0, sizeof questions);
    size_t count = 0;
    for (int i = first; i < argc; i++) {
        questions[count++].text = argv[i];
    }
    if (count == 0) {
        for (; count < sizeof defaults / sizeof defaults[0]; count++) {
            questions[count].text = defaults[count];
        }
    }
    return ask_all(questions, count, with_epoll);
}
