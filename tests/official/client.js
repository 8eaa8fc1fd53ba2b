/* client.js TASK - one call of the official packages, as a program: what examples/ is for azopenai.h.
 *
 * TASK is JSON: {call: "token" | "chat" | "stream" | "accumulate" | "tools" | "embed", credential: "secret" |
 * "managed" | "default", scope, ...}; the members that a call has are to be seen below. OPENAI_API_VERSION chooses
 * class AzureOpenAI and the dated route, its absence class OpenAI and the v1 route; the rest of the configuration
 * comes from the environment too. Prints what came back as JSON: {result} or {error}.
 */
'use strict';

const net = require('node:net');

/* Nothing may leave this machine, whatever the packages try. */
const loopback = ['localhost', '127.0.0.1', '::1'];
const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...args) {
    const given = Array.isArray(args[0]) ? args[0][0] : args[0];
    const host = typeof given === 'object' ? given.host : args[1];
    if (!loopback.includes(host)) {
        throw new Error(`refused to connect to ${host}: that is not this machine`);
    }
    return connect.apply(this, args);
};

const { OpenAI, AzureOpenAI } = require('openai');
const identity = require('@azure/identity');

const environment = process.env;
const task = JSON.parse(process.argv[2]);

function makeCredential() {
    /* MSAL would ask the public authority whether it knows ours. */
    const options = { disableInstanceDiscovery: true };
    switch (task.credential) {
        case 'secret':
            return new identity.ClientSecretCredential(environment.AZURE_TENANT_ID, environment.AZURE_CLIENT_ID,
                environment.AZURE_CLIENT_SECRET, options);
        case 'managed':
            return new identity.ManagedIdentityCredential(
                environment.AZURE_CLIENT_ID !== undefined ? { clientId: environment.AZURE_CLIENT_ID } : {});
        default:
            return new identity.DefaultAzureCredential(options);
    }
}

function makeClient() {
    const tokenProvider = identity.getBearerTokenProvider(makeCredential(), task.scope);
    return environment.OPENAI_API_VERSION !== undefined
        ? new AzureOpenAI({ azureADTokenProvider: tokenProvider })
        : new OpenAI({ apiKey: tokenProvider, baseURL: `${environment.AZURE_OPENAI_ENDPOINT}/openai/v1/` });
}

const model = task.model ?? environment.AZURE_OPENAI_DEPLOYMENT;

function summary(completion) {
    const choice = completion.choices[0];
    return {
        text: choice.message.content,
        finish: choice.finish_reason,
        total: completion.usage?.total_tokens,
        model: completion.model,
        filters: Object.keys(completion.prompt_filter_results?.[0].content_filter_results ?? {}).length,
    };
}

const calls = {
    async token() {
        const token = await makeCredential().getToken(task.scope);
        return { lifetime: Math.round((token.expiresOnTimestamp - Date.now()) / 1000) };
    },

    async chat() {
        return summary(await makeClient().chat.completions.create({ model, ...task.body }));
    },

    /* Chunk by chunk, as they come. */
    async stream() {
        const result = { text: '', finish: null, total: null, chunks: 0, filters: 0 };
        for await (const chunk of await makeClient().chat.completions.create({ model, stream: true, ...task.body })) {
            const choice = chunk.choices[0];
            result.chunks++;
            result.text += choice?.delta?.content ?? '';
            result.finish = choice?.finish_reason ?? result.finish;
            result.total = chunk.usage?.total_tokens ?? result.total;
            result.filters += chunk.prompt_filter_results?.length ?? 0;
        }
        return result;
    },

    /* Put together by the package, which finds fault with chunks that do not fit. */
    async accumulate() {
        const completion = await makeClient().chat.completions.stream({ model, ...task.body }).finalChatCompletion();
        return { ...summary(completion), calls: completion.choices[0].message.tool_calls };
    },

    /* Answers what the model calls with task.results, until it says something. */
    async tools() {
        const client = makeClient();
        const messages = [...task.body.messages];
        const called = [];
        for (;;) {
            const completion = await client.chat.completions.create({ model, ...task.body, messages });
            const message = completion.choices[0].message;
            if (message.tool_calls === undefined) {
                return { called, ...summary(completion) };
            }
            messages.push(message);
            for (const call of message.tool_calls) {
                called.push(`${call.function.name}(${call.function.arguments})`);
                messages.push({ role: 'tool', tool_call_id: call.id, content: task.results[call.function.name] });
            }
        }
    },

    async embed() {
        const reply = await makeClient().embeddings.create({ model, ...task.body });
        return reply.data.sort((a, b) => a.index - b.index).map((row) => row.embedding);
    },
};

/* The client wraps what the credential throws. */
function cause(error) {
    return error.cause instanceof Error ? cause(error.cause) : error;
}

calls[task.call]().then(
    (result) => ({ result }),
    (error) => ({
        error: {
            kind: error.constructor.name,
            status: error.status,
            code: error.code,
            message: `${error.message}\n${cause(error).message}`,
            inner: error.error?.innererror?.code,
        },
    }),
).then((answer) => {
    process.stdout.write(`${JSON.stringify(answer)}\n`, () => process.exit(0));
});
