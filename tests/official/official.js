/* official.js - the official packages and our examples make the same calls in the same environment; both have to
 * succeed, or be refused, alike, and send the same. Started by run.sh, which has started the fake service.
 */
'use strict';

const assert = require('node:assert');
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { compare, checkAlone, explained, extras } = require('./compare.js');

const build = process.env.AZO_TEST_BUILD;
const logPath = process.env.AZO_TEST_LOG;

/* Of tests/fake_service.h: may get tokens but not use them. */
const powerless = 'dddddddd-0000-0000-0000-000000000000';

/* ---- Results ---- */

let passed = 0;
let failed = 0;

function report(name, problems) {
    if (problems.length === 0) {
        passed++;
        console.log(`ok - ${name}`);
        return;
    }
    failed++;
    console.log(`not ok - ${name}`);
    for (const line of problems.join('\n').split('\n').slice(0, 40)) {
        console.log(`# ${line}`);
    }
}

/* What `check` finds wrong. */
function problemsOf(check) {
    try {
        check();
        return [];
    } catch (error) {
        return [error.message];
    }
}

/* ---- Running both sides ---- */

const secret = {
    AZURE_TENANT_ID: process.env.AZURE_TENANT_ID,
    AZURE_CLIENT_ID: process.env.AZURE_CLIENT_ID,
    AZURE_CLIENT_SECRET: process.env.AZURE_CLIENT_SECRET,
};

/* Without an identity; the address of the metadata service is always that of the fake one. */
const bare = { ...process.env };
for (const name of Object.keys(secret)) {
    delete bare[name];
}
assert.match(bare.AZURE_POD_IDENTITY_AUTHORITY_HOST, /^http:\/\/127\.0\.0\.1:\d+$/);

/* Runs a program and returns it with the requests that it made. */
function run(command, args, env) {
    const before = fs.existsSync(logPath) ? fs.statSync(logPath).size : 0;
    const done = spawnSync(command, args, { env: { ...bare, ...env }, encoding: 'utf8', timeout: 60000 });
    const log = fs.existsSync(logPath) ? fs.readFileSync(logPath).subarray(before).toString() : '';
    const requests = log.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line));
    return { status: done.status, stdout: done.stdout, stderr: done.stderr, requests };
}

function runOfficial(task, env) {
    const done = run(process.execPath, [path.join(__dirname, 'client.js'), JSON.stringify(task)], env);
    let answer = { error: { message: `client.js ended with status ${done.status}: ${done.stderr}` } };
    if (done.status === 0) {
        answer = JSON.parse(done.stdout);
    }
    return { ...answer, requests: done.requests };
}

function runOurs(program, args, env) {
    return run(path.join(build, program), args, env);
}

function checkOfficial(name, official, check) {
    const problems = problemsOf(() => check(official));
    if (problems.length > 0 && official.error !== undefined) {
        problems.push(`error: ${official.error.message}`);
    }
    report(`${name}: official`, [...problems, ...checkAlone(official.requests)]);
}

/* One call made by both. `scenario`: {name, env, task, program, args, official(answer), ours(done), alike}; the two
 * functions throw when something is wrong, and `alike` is false where one side gets further than the other. */
function both(scenario) {
    const { name, env, task, program, args } = scenario;
    const official = runOfficial(task, env);
    const ours = runOurs(program, args, env);
    checkOfficial(name, official, scenario.official);
    const problems = problemsOf(() => scenario.ours(ours));
    if (problems.length > 0) {
        problems.push(`status ${ours.status}: ${ours.stdout}${ours.stderr}`);
    }
    report(`${name}: ours`, [...problems, ...checkAlone(ours.requests)]);
    if (scenario.alike !== false) {
        report(`${name}: the same on the wire`, compare(official.requests, ours.requests));
    }
}

/* One call that only the official packages can make in this way: it proves the fake service. */
function officialOnly({ name, env, task, official }) {
    checkOfficial(name, runOfficial(task, env), official);
}

/* ---- The calls ---- */

const routes = [
    { name: 'dated', env: { OPENAI_API_VERSION: '2024-10-21' }, scope: 'https://cognitiveservices.azure.com/.default' },
    { name: 'v1', env: {}, scope: 'https://ai.azure.com/.default' },
];

/* An identity: what is in the environment, which credential of the package stands for it, and its name in ours. */
const identities = [
    { name: 'client secret', credential: 'secret', env: secret, source: 'environment', lifetime: 3599 },
    { name: 'chain with client secret', credential: 'default', env: secret, source: 'environment', lifetime: 3599 },
    { name: 'chain with system-assigned identity', credential: 'default', env: {}, source: 'managed identity',
        lifetime: 86399 },
    { name: 'chain with user-assigned identity', credential: 'default',
        env: { AZURE_CLIENT_ID: secret.AZURE_CLIENT_ID }, source: 'managed identity', lifetime: 86399 },
    { name: 'managed identity', credential: 'managed', env: {}, source: 'managed identity', lifetime: 86399 },
    { name: 'chain with AZURE_TOKEN_CREDENTIALS=prod', credential: 'default',
        env: { AZURE_TOKEN_CREDENTIALS: 'prod' }, source: 'managed identity', lifetime: 86399 },
    { name: 'chain pinned to ManagedIdentityCredential beside a client secret', credential: 'default',
        env: { ...secret, AZURE_TOKEN_CREDENTIALS: 'ManagedIdentityCredential' }, source: 'managed identity',
        lifetime: 86399 },
    { name: 'chain pinned to EnvironmentCredential', credential: 'default',
        env: { ...secret, AZURE_TOKEN_CREDENTIALS: 'EnvironmentCredential' }, source: 'environment', lifetime: 3599 },
];

const prompt = 'Grüße, "world" \\ 😀\n\tbye </script> \u007f';

function said(text) {
    return ({ result }) => {
        assert.strictEqual(result.text, text);
        assert.strictEqual(result.finish, 'stop');
        assert.ok(result.total > 0, 'there is no usage');
        assert.ok(result.filters > 0, 'there are no results of the content filter');
    };
}

function printed(text) {
    return (done) => {
        assert.strictEqual(done.stderr, '');
        assert.strictEqual(done.status, 0);
        assert.strictEqual(done.stdout, `${text}\n`);
    };
}

function refused(expected) {
    return ({ error }) => {
        assert.ok(error !== undefined, 'it was not refused');
        const { message, ...values } = expected;
        assert.match(error.message, message);
        for (const [name, value] of Object.entries(values)) {
            assert.strictEqual(error[name], value, `${name} is ${error[name]}, not ${value}`);
        }
    };
}

function explainedFailure(status, pattern) {
    return (done) => {
        assert.match(done.stderr, pattern);
        assert.strictEqual(done.status, status);
        assert.strictEqual(done.stdout, '');
    };
}

function testTokens() {
    for (const identity of identities) {
        both({
            name: `token, ${identity.name}`,
            env: identity.env,
            task: { call: 'token', credential: identity.credential, scope: 'https://vault.azure.net/.default' },
            official: ({ result }) => assert.ok(Math.abs(result.lifetime - identity.lifetime) < 10),
            program: 'token',
            args: ['https://vault.azure.net/.default'],
            ours: (done) => {
                const [, source, lifetime] = /^source: (.*)\nexpires in: (\d+) s\n$/.exec(done.stdout) ?? [];
                assert.strictEqual(source, identity.source);
                assert.ok(Math.abs(lifetime - identity.lifetime) < 10);
                assert.strictEqual(done.status, 0);
            },
        });
    }
    both({
        name: 'token, wrong secret',
        env: { ...secret, AZURE_CLIENT_SECRET: 'wrong' },
        task: { call: 'token', credential: 'default', scope: 'https://ai.azure.com/.default' },
        official: refused({ message: /AADSTS7000215/ }),
        program: 'token',
        args: [],
        ours: explainedFailure(1, /AADSTS7000215/),
    });
    /* MSAL already fails when it looks for the token endpoint. */
    both({
        name: 'token, unknown tenant',
        alike: false,
        env: { ...secret, AZURE_TENANT_ID: '99999999-2222-3333-4444-555555555555' },
        task: { call: 'token', credential: 'secret', scope: 'https://ai.azure.com/.default' },
        official: refused({ message: /./ }),
        program: 'token',
        args: [],
        ours: explainedFailure(1, /AADSTS90002/),
    });
    both({
        name: 'token, unknown user-assigned identity',
        env: { AZURE_CLIENT_ID: '99999999-bbbb-cccc-dddd-eeeeeeeeeeee' },
        task: { call: 'token', credential: 'managed', scope: 'https://ai.azure.com/.default' },
        official: refused({ kind: 'CredentialUnavailableError', message: /Identity not found/ }),
        program: 'token',
        args: [],
        ours: explainedFailure(1, /[Ii]dentity not found/),
    });
}

function testIdentities(route) {
    for (const identity of identities) {
        both({
            name: `${route.name}, chat, ${identity.name}`,
            env: { ...route.env, ...identity.env },
            task: { call: 'chat', credential: identity.credential, scope: route.scope,
                body: { messages: [{ role: 'user', content: 'hello' }] } },
            official: said('You said: hello'),
            program: 'chat',
            args: ['hello'],
            ours: printed('You said: hello'),
        });
    }
}

function testChat(call) {
    const messages = [{ role: 'system', content: 'Be terse.' }, { role: 'user', content: prompt }];
    both({
        ...call('chat', 'chat', { messages, max_completion_tokens: 50 }),
        official: said(`You said: ${prompt}`),
        program: 'chat',
        args: ['--system', 'Be terse.', '--max-tokens', '50', prompt],
        ours: printed(`You said: ${prompt}`),
    });
    both({
        ...call('chat, streamed', 'stream', { messages }),
        official: ({ result }) => {
            assert.strictEqual(result.text, `You said: ${prompt}`);
            assert.strictEqual(result.finish, 'stop');
            assert.strictEqual(result.total, null);
            assert.ok(result.chunks > 4 && result.filters === 1);
        },
        program: 'chat',
        args: ['--stream', '--system', 'Be terse.', prompt],
        ours: printed(`You said: ${prompt}`),
    });
    officialOnly({
        ...call('chat, streamed with include_usage', 'stream', { messages, stream_options: { include_usage: true } }),
        official: said(`You said: ${prompt}`),
    });
    officialOnly({
        ...call('chat, streamed and put together', 'accumulate',
            { messages, stream_options: { include_usage: true } }),
        official: said(`You said: ${prompt}`),
    });
    both({
        ...call('chat, deployment with a space', 'chat', { messages }, { model: 'gpt-4o prod' }),
        official: said(`You said: ${prompt}`),
        program: 'chat',
        args: ['--deployment', 'gpt-4o prod', '--system', 'Be terse.', prompt],
        ours: printed(`You said: ${prompt}`),
    });
}

/* Those of examples/tools.c. */
function toolOf(name, description, argument) {
    return {
        type: 'function',
        function: {
            name,
            description,
            parameters: { type: 'object', properties: { [argument]: { type: 'string' } }, required: [argument] },
        },
    };
}
const tools = [
    toolOf('get_weather', 'The weather in a city', 'city'),
    toolOf('get_time', 'The time in a time zone', 'tz'),
];
const results = { get_weather: '21 degrees and sunny in Bern', get_time: '14:05 CET' };
const toolCalls = ['get_weather({"city":"Bern"})', 'get_time({"tz":"CET"})'];

function testTools(call) {
    const body = { messages: [{ role: 'user', content: 'What is the weather, and the time?' }], tools };
    const answer = `The tools said: ${results.get_weather}; ${results.get_time}`;
    both({
        ...call('tools', 'tools', body, { results }),
        official: ({ result }) => {
            assert.deepStrictEqual(result.called, toolCalls);
            assert.strictEqual(result.text, answer);
        },
        program: 'tools',
        args: [body.messages[0].content],
        ours: printed(`${toolCalls[0]} -> ${results.get_weather}\n${toolCalls[1]} -> ${results.get_time}\n${answer}`),
    });
    officialOnly({
        ...call('tools, streamed and put together', 'accumulate', body),
        official: ({ result }) => {
            assert.strictEqual(result.finish, 'tool_calls');
            assert.deepStrictEqual(
                result.calls.map((one) => `${one.function.name}(${one.function.arguments})`), toolCalls);
        },
    });
}

function cosine(a, b) {
    const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
    return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

function testEmbeddings(call) {
    const input = ['one text', 'another, with "quotes" and ümlaut', ' '];
    const model = { model: 'embed' };
    let vectors = [];
    const base64 = call('embeddings', 'embed', { input }, model);
    both({
        ...base64,
        env: { ...base64.env, AZURE_OPENAI_DEPLOYMENT: 'embed' },
        official: ({ result }) => {
            vectors = result;
            assert.deepStrictEqual(result.map((row) => row.length), [8, 8, 8]);
        },
        program: 'embed',
        args: input,
        ours: (done) => {
            const lines = [[0, 1], [0, 2], [1, 2]].map(([i, j]) =>
                `${cosine(vectors[i], vectors[j]).toFixed(3).padStart(6)}  ${input[i]} | ${input[j]}`);
            printed(lines.join('\n'))(done);
        },
    });
    officialOnly({
        ...call('embeddings as numbers', 'embed', { input, encoding_format: 'float' }, model),
        official: ({ result }) => assert.deepStrictEqual(result, vectors),
    });
    officialOnly({
        ...call('embeddings of 100 dimensions', 'embed', { input, dimensions: 100 }, model),
        official: ({ result }) => assert.deepStrictEqual(result.map((row) => row.length), [100, 100, 100]),
    });
}

function testRefusals(call) {
    const messages = [{ role: 'user', content: 'Tell me what is forbidden.' }];
    both({
        ...call('content filter', 'chat', { messages }),
        official: refused({ kind: 'BadRequestError', status: 400, code: 'content_filter',
            inner: 'ResponsibleAIPolicyViolation', message: /content management policy/ }),
        program: 'chat',
        args: [messages[0].content],
        ours: explainedFailure(6, /^chat: The content filter blocked the text/),
    });
    both({
        ...call('content filter, streamed', 'stream', { messages }),
        official: refused({ kind: 'BadRequestError', status: 400, code: 'content_filter', message: /policy/ }),
        program: 'chat',
        args: ['--stream', messages[0].content],
        ours: explainedFailure(6, /^chat: The content filter blocked the text/),
    });
    for (const model of ['nope', 'x/y', 'x?evil=1', 'x#fragment', '%2e%2e', '../../admin', 'ümlaut name',
        "a-._~!$&'()*+,;=:@z", '[a]|^`{}<>"\\']) {
        both({
            ...call(`unknown deployment ${JSON.stringify(model)}`, 'chat', { messages }, { model }),
            official: refused({ kind: 'NotFoundError', status: 404, code: 'DeploymentNotFound', message: /./ }),
            program: 'chat',
            args: ['--deployment', model, messages[0].content],
            ours: explainedFailure(6, /^chat: No deployment named/),
        });
    }
    const roleless = call('missing role', 'chat', { messages });
    both({
        ...roleless,
        env: { ...roleless.env, AZURE_CLIENT_ID: powerless },
        official: refused({ kind: 'AuthenticationError', status: 401, code: 'PermissionDenied',
            message: /lacks the required data action/ }),
        program: 'chat',
        args: [messages[0].content],
        ours: explainedFailure(6, /lacks the required data action/),
    });
    const unsigned = call('wrong secret', 'chat', { messages });
    both({
        ...unsigned,
        env: { ...unsigned.env, AZURE_CLIENT_SECRET: 'wrong' },
        official: refused({ message: /AADSTS7000215/ }),
        program: 'chat',
        args: [messages[0].content],
        ours: explainedFailure(4, /AADSTS7000215/),
    });
    const strange = call('wrong audience', 'chat', { messages });
    officialOnly({
        ...strange,
        task: { ...strange.task, scope: 'https://vault.azure.net/.default' },
        official: refused({ kind: 'AuthenticationError', status: 401, message: /audience/ }),
    });
}

/* Every explanation has to be of use, and is printed with an example. */
function testExplanations() {
    const unmet = [];
    for (const one of [...explained, ...extras]) {
        if (one.met > 0) {
            console.log(`# ${String(one.met).padStart(3)} times ${one.sample}: ${one.why}`);
        } else {
            unmet.push(`not met: ${one.field ?? one.path}: ${one.why}`);
        }
    }
    report('every explained difference was met', unmet);
}

testTokens();
for (const route of routes) {
    /* A call on this route, signed in with the secret. */
    const call = (name, kind, body, more) => ({
        name: `${route.name}, ${name}`,
        env: { ...route.env, ...secret },
        task: { call: kind, credential: 'secret', scope: route.scope, body, ...more },
    });
    testIdentities(route);
    testChat(call);
    testTools(call);
    testEmbeddings(call);
    testRefusals(call);
}
testExplanations();
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
