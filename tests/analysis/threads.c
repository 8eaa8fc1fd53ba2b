/* threads.c - clients are independent: eight threads, each with clients of its own, against one service over TLS, for
 * ThreadSanitizer to watch. Whatever the library kept for all of them would be a race here. */
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"

#include "fake_service.h"

#include <pthread.h>
#include <stdio.h>

enum { THREADS = 8, ROUNDS = 2 };

typedef struct job {
    pthread_t thread;
    const azo_client_desc *desc;
    unsigned calls; /* that went well */
    azo_error error;
} job;

static int on_event(const azo_event *event, void *user_data) {
    *(size_t *)user_data += event->kind == AZO_EVENT_TEXT ? event->text.len : 0;
    return AZO_GO_ON;
}

static bool chat_twice(azo_client *client, azo_error *e) {
    azo_message message = azo_user("Hello");
    azo_chat_desc desc = {.messages = &message, .message_count = 1};
    bool ok = true;
    for (int streamed = 0; ok && streamed < 2; streamed++) {
        azo_chat_reply reply;
        size_t seen = 0;
        desc.on_event = streamed == 1 ? on_event : NULL;
        desc.user_data = &seen;
        ok = azo_chat(client, &desc, &reply, e) == AZO_OK && reply.text.len > 0 &&
             (streamed == 0 || seen == reply.text.len);
        azo_chat_reply_free(&reply);
    }
    return ok;
}

static bool embed(azo_client *client, azo_error *e) {
    azo_str inputs[] = {azo_s("one"), azo_s("two")};
    azo_embed_desc desc = {.inputs = inputs, .input_count = 2, .deployment = "embed"};
    azo_embed_reply reply;
    bool ok = azo_embed(client, &desc, &reply, e) == AZO_OK && reply.count == 2;
    azo_embed_reply_free(&reply);
    return ok;
}

/* Ends in a failure, which has a text of its own. */
static bool miss(azo_client *client, azo_error *e) {
    azo_raw_desc desc = {.path = "/nothing/here"};
    azo_raw_reply reply;
    bool ok = azo_raw(client, &desc, &reply, e) == AZO_ERR_NOT_FOUND && e->http_status == 404;
    azo_raw_reply_free(&reply);
    return ok;
}

static void *work(void *argument) {
    job *j = (job *)argument;
    for (int round = 0; round < ROUNDS; round++) {
        azo_client *client;
        if (azo_client_open(j->desc, &client, &j->error) != AZO_OK) {
            break;
        }
        j->calls += chat_twice(client, &j->error) && embed(client, &j->error) && miss(client, &j->error) ? 1u : 0u;
        azo_client_close(client);
    }
    return NULL;
}

/* In how many threads all went well. */
static unsigned run(job *jobs, const azo_client_desc *desc) {
    unsigned good = 0;
    for (int i = 0; i < THREADS; i++) {
        jobs[i].desc = desc;
        if (pthread_create(&jobs[i].thread, NULL, work, &jobs[i]) != 0) {
            return 0;
        }
    }
    for (int i = 0; i < THREADS; i++) {
        (void)pthread_join(jobs[i].thread, NULL);
        good += jobs[i].calls == ROUNDS ? 1u : 0u;
        if (jobs[i].calls != ROUNDS) {
            printf("# thread %d: %s\n", i, jobs[i].error.message);
        }
    }
    return good;
}

int main(int argc, char **argv) {
    static job jobs[THREADS];
    char cert[512];
    char key[512];
    char ca[512];
    char endpoint[64];
    char authority[64];
    const char *certs = argc > 1 ? argv[1] : "build/certs";
    (void)snprintf(cert, sizeof cert, "%s/server.pem", certs);
    (void)snprintf(key, sizeof key, "%s/server.key", certs);
    (void)snprintf(ca, sizeof ca, "%s/ca.pem", certs);
    fake_options options = {.cert_file = cert, .key_file = key};
    fake *service = fake_start(&options);
    if (service == NULL) {
        return 1;
    }
    (void)snprintf(endpoint, sizeof endpoint, "https://localhost:%u", fake_port(service, FAKE_SERVICE));
    (void)snprintf(authority, sizeof authority, "https://localhost:%u", fake_port(service, FAKE_ENTRA));
    azo_client_desc desc = {.endpoint = endpoint, .deployment = FAKE_DEPLOYMENT, .ca_file = ca};
    desc.credential.kind = AZO_CRED_SECRET;
    desc.credential.tenant_id = FAKE_TENANT_ID;
    desc.credential.client_id = FAKE_CLIENT_ID;
    desc.credential.client_secret = FAKE_CLIENT_SECRET;
    desc.credential.authority_host = authority;
    unsigned good = run(jobs, &desc);
    fake_stop(service);
    printf("# %u of %d threads, %d clients each\n", good, THREADS, ROUNDS);
    return good == THREADS ? 0 : 1;
}
