/* compare.js - what two clients put on the wire, field by field, out of the request log of the fake service.
 *
 * A field has a name such as "header accept", "query api-version", "form scope" or "body messages[0].role", and a text
 * as it was sent: parameters stay encoded. Order is not compared, neither of headers nor of members.
 */
'use strict';

const any = /^[^]*$/;
const service = ['service'];
const tokens = ['entra', 'imds'];
const all = ['service', 'entra', 'imds'];
const absent = null;

/* Every difference there may be: who receives it, the field, what the official package and ours say (absent: nothing),
 * and why. One that is not met is out of date and fails too. */
const explained = [
    [all, 'header user-agent', /^(AzureOpenAI|OpenAI)\/JS |^azsdk-js-identity\//, /^azopenai\.h\/[0-9.]+$/,
        'each says who it is'],
    [all, 'header connection', /^keep-alive$/, absent,
        'HTTP/1.1 keeps connections open without being told'],
    [all, 'header accept-encoding', /gzip/, absent,
        'ours reads no compressed bodies, so it must not ask for one'],
    [service, /^header x-stainless-/, any, absent,
        'telemetry of the openai package'],
    [service, /^header (accept-language|sec-fetch-mode)$/, any, absent,
        'the fetch of node adds it to every request'],
    [service, 'header accept', /^application\/json$/, /^text\/event-stream$/,
        'ours names what a stream is sent as; the service looks at "stream" in the body'],
    [service, 'body model', any, absent,
        'on the dated route the path names the deployment and the service ignores the member'],
    [service, /^body messages\[\d+\]\.refusal$/, /^null$/, absent,
        'the official way is to send the message back as it came; ours leaves out what says nothing'],
    [service, /^body messages\[\d+\]\.annotations$/, /^\[\]$/, absent,
        'the same'],
    [service, 'header content-length', /^\d+$/, /^\d+$/,
        'follows from the differences of the body'],

    [tokens, 'header x-ms-client-request-id', any, absent,
        'an id for support; the answers carry an id of their own'],
    [tokens, 'header accept', absent, /^application\/json$/,
        'ours says that JSON is all it reads'],
    [['entra'], 'header content-type', /^application\/x-www-form-urlencoded;charset=utf-8$/,
        /^application\/x-www-form-urlencoded$/,
        'the media type has no such parameter'],
    [['entra'], 'header content-length', /^\d+$/, /^\d+$/,
        'follows from the differences of the form'],
    [['entra'], 'query client-request-id', any, absent,
        'an id for support, given twice'],
    [['entra'], 'form client-request-id', any, absent,
        'an id for support'],
    [['entra'], /^form x-(client|ms-lib)-/, any, absent,
        'telemetry of MSAL'],
    [['entra'], 'form claims', any, absent,
        'MSAL says that it can answer claims challenges; ours asks with claims only after one'],

    [['imds'], 'path', /^\/metadata\/identity\/oauth2\/token\/$/, /^\/metadata\/identity\/oauth2\/token$/,
        'MSAL adds the slash only where AZURE_POD_IDENTITY_AUTHORITY_HOST is set, the real address has none'],
    [['imds'], /^header x-client-/, any, absent,
        'telemetry of MSAL'],
    [['imds'], 'header content-type', any, absent,
        'a GET has no body that could have a type'],
].map(([roles, field, official, ours, why]) => ({ roles, field, official, ours, why, met: 0, sample: null }));

/* Requests that only the official packages make. */
const extras = [
    {
        role: 'entra', method: 'GET', path: /^\/[^/]+\/v2\.0\/\.well-known\/openid-configuration$/,
        why: 'MSAL asks where the token endpoint is; its path is the same everywhere', met: 0, sample: null,
    },
];

function addParameters(fields, kind, encoded) {
    for (const pair of encoded.split('&')) {
        if (pair !== '') {
            const [name, ...value] = pair.split('=');
            addField(fields, `${kind} ${name}`, value.join('='));
        }
    }
}

function addField(fields, name, text) {
    /* Which token or which call it is does not matter, but who issued it and which of several it is does. */
    text = text.replace(/(fake\.[a-z]+)\.\d+\.[0-9a-f]+/, '$1.TOKEN').replace(/^"call_\d+([A-Z])"$/, '"call_N$1"');
    /* Twice the same is never equal to once. */
    fields.set(name, fields.has(name) ? `${fields.get(name)} | ${text}` : text);
}

function addJson(fields, name, value) {
    const inner = typeof value === 'object' && value !== null ? Object.entries(value) : [];
    if (inner.length === 0) {
        addField(fields, name, JSON.stringify(value));
    }
    for (const [key, member] of inner) {
        addJson(fields, Array.isArray(value) ? `${name}[${key}]` : `${name}${name.endsWith(' ') ? '' : '.'}${key}`,
            member);
    }
}

/* A request of the log as a map of fields. */
function fieldsOf(request) {
    const fields = new Map();
    const [path, query] = request.target.split(/\?(.*)/s);
    fields.set('method', request.method);
    fields.set('path', path);
    fields.set('answer', String(request.status));
    addParameters(fields, 'query', query ?? '');
    let type = '';
    for (const header of request.headers) {
        const [name, value] = header.split(/: (.*)/s);
        addField(fields, `header ${name.toLowerCase()}`, value);
        type = name.toLowerCase() === 'content-type' ? value : type;
    }
    if (request.body !== '' && type.startsWith('application/json')) {
        addJson(fields, 'body ', JSON.parse(request.body));
    } else if (request.body !== '' && type.startsWith('application/x-www-form-urlencoded')) {
        addParameters(fields, 'form', request.body);
    } else if (request.body !== '') {
        fields.set('body', request.body);
    }
    return fields;
}

function fits(pattern, text) {
    return pattern === absent ? text === undefined : text !== undefined && pattern.test(text);
}

function explanation(role, field, official, ours) {
    return explained.find((one) => one.roles.includes(role) &&
        (one.field instanceof RegExp ? one.field.test(field) : one.field === field) &&
        fits(one.official, official) && fits(one.ours, ours));
}

function show(text) {
    return text === undefined ? 'nothing' : JSON.stringify(text.length > 100 ? `${text.slice(0, 100)}...` : text);
}

function compareRequest(role, official, ours) {
    const problems = [];
    for (const field of new Set([...official.keys(), ...ours.keys()])) {
        const [theirs, own] = [official.get(field), ours.get(field)];
        if (theirs === own) {
            continue;
        }
        const why = explanation(role, field, theirs, own);
        if (why === undefined) {
            problems.push(`${role}, ${field}: official ${show(theirs)}, ours ${show(own)}`);
        } else {
            why.met++;
            why.sample ??= `${role}, ${field}: official ${show(theirs)}, ours ${show(own)}`;
        }
    }
    return problems;
}

function isExtra(request) {
    const extra = extras.find((one) => one.role === request.role && one.method === request.method &&
        one.path.test(request.target));
    if (extra !== undefined) {
        extra.met++;
        extra.sample ??= `${request.role}, ${request.method} ${request.target}: official only`;
    }
    return extra !== undefined;
}

/* The differences that have no explanation between two lists of requests. Those to one role are paired in their
 * order. */
function compare(official, ours) {
    const problems = [];
    official = official.filter((request) => !isExtra(request));
    for (const role of all) {
        const theirs = official.filter((request) => request.role === role);
        const own = ours.filter((request) => request.role === role);
        if (theirs.length !== own.length) {
            problems.push(`${role}: official ${theirs.length} requests, ours ${own.length}`);
        }
        for (let i = 0; i < Math.min(theirs.length, own.length); i++) {
            problems.push(...compareRequest(role, fieldsOf(theirs[i]), fieldsOf(own[i])));
        }
    }
    return problems;
}

/* What can be wrong with one client's requests without looking at the other's. */
function checkAlone(requests) {
    const problems = [];
    for (const request of requests) {
        const length = fieldsOf(request).get('header content-length');
        if ((length ?? '0') !== String(request.body_len) || (request.method === 'POST' && length === undefined)) {
            problems.push(`${request.role}: Content-Length is ${show(length)}, the body has ${request.body_len}`);
        }
    }
    return problems;
}

module.exports = { compare, checkAlone, explained, extras };
