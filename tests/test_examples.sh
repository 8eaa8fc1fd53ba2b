#!/bin/sh
# test_examples.sh
# The examples end to end, as a user runs them: against the fake service in a process of its own, with everything from
# the environment. Standard output is compared exactly, exit statuses and messages are those that the issue and the
# README promise, and no secret may appear in anything that was printed.
set -u

build=${AZO_TEST_BUILD:-build}
certs=${AZO_TEST_CERTS:-build/certs}
wrap=${AZO_TEST_WRAP:-}
dir=$build/examples
secret='a~b.c_d-e+f/g=h&i%j k'
failed=0
servers=
rm -rf "$dir"
mkdir -p "$dir/bin"
: >"$dir/everything"

. tests/fake.sh
stop_all() {
    for one in $servers; do kill "$one" 2>/dev/null; done
    stop_fake
}
trap stop_all EXIT
trap 'exit 1' HUP INT TERM

ok() { echo "ok - $1"; }
not_ok() {
    echo "not ok - $1"
    failed=1
    shift
    for line in "$@"; do printf '%s\n' "$line" | head -n 20 | sed 's/^/# /'; done
}

# expect NAME STATUS STDOUT STDERR COMMAND...: STDOUT is exact, its last newline excepted ("-": do not look). STDERR is
# an extended regular expression that a line must match; empty: there must be nothing.
expect() {
    name=$1 status=$2 out=$3 err=$4
    shift 4
    program=$1
    shift
    $wrap "$build/$program" "$@" >"$dir/out" 2>"$dir/err" </dev/null
    judge $?
}

# with_input TEXT (printf format) NAME STATUS STDOUT STDERR COMMAND...
with_input() {
    printf "$1" >"$dir/in"
    shift
    name=$1 status=$2 out=$3 err=$4
    shift 4
    program=$1
    shift
    $wrap "$build/$program" "$@" >"$dir/out" 2>"$dir/err" <"$dir/in"
    judge $?
}

judge() {
    got_status=$1
    cat "$dir/out" "$dir/err" >>"$dir/everything"
    problem=
    [ "$got_status" -eq "$status" ] || problem="exit status $got_status instead of $status"
    if [ "$out" != - ]; then
        if [ -z "$out" ]; then : >"$dir/wanted"; else printf '%s\n' "$out" >"$dir/wanted"; fi
        cmp -s "$dir/wanted" "$dir/out" || problem="$problem; wrong standard output"
    fi
    if [ -z "$err" ]; then
        [ ! -s "$dir/err" ] || problem="$problem; something on standard error"
    elif ! grep -q -E -- "$err" "$dir/err"; then
        problem="$problem; no line on standard error matches $err"
    fi
    if [ -z "$problem" ]; then
        ok "$name"
    else
        not_ok "$name" "$problem" "stdout:" "$(cat "$dir/out")" "stderr:" "$(cat "$dir/err")"
    fi
}

start_fake --log "$dir/requests" || { echo 'not ok - the fake service starts'; exit 1; }
tenant=$AZURE_TENANT_ID
client=$AZURE_CLIENT_ID
export AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET
service=$AZURE_OPENAI_ENDPOINT

# ---- hello

expect 'hello answers' 0 'You said: Why is the sky blue?' '' hello
(AZURE_CLIENT_SECRET=wrong expect 'hello explains a failure' 1 '' '^hello: .*AADSTS7000215.*\. .*AZURE_CLIENT_SECRET' \
    hello; exit $failed) || failed=1

# ---- chat: what it prints

expect 'chat answers its arguments' 0 'You said: Good morning to you' '' chat Good morning 'to you'
expect 'chat --stream prints the same' 0 'You said: Good morning to you' '' chat --stream Good morning to you
expect 'chat takes words after --' 0 'You said: --stream' '' chat -- --stream
expect 'chat prints UTF-8 as it is' 0 'You said: Grüezi 世界 🙂' '' chat --stream 'Grüezi 世界 🙂'
expect 'chat prints several lines' 0 "You said: one
two \"three\"" '' chat "one
two \"three\""
with_input 'from a pipe\n' 'chat reads standard input' 0 'You said: from a pipe' '' chat
with_input 'no newline' 'chat reads standard input without a newline' 0 'You said: no newline' '' chat --stream
with_input 'a\nb\n\n' 'chat keeps the lines of standard input' 0 "You said: a
b" '' chat
expect 'chat takes every option' 0 'You said: hi' '' chat --system 'Be brief.' --deployment gpt-4o --max-tokens 50 \
    --timeout 30.5 --retries 1 hi
expect 'chat takes a deployment with a space' 0 'You said: hi' '' chat --deployment 'gpt-4o prod' hi
expect 'chat --retries 0' 0 'You said: hi' '' chat --retries 0 --stream hi
(OPENAI_API_VERSION=2024-10-21 && export OPENAI_API_VERSION
    expect 'chat on the dated route' 0 'You said: hi' '' chat hi
    expect 'chat --stream on the dated route' 0 'You said: hi' '' chat --stream hi
    exit $failed) || failed=1
for spelling in "$service/" "$service/openai" "$service/openai/v1/"; do
    (AZURE_OPENAI_ENDPOINT=$spelling expect "chat with the endpoint written as ...${spelling#"$service"}" 0 \
        'You said: hi' '' chat hi; exit $failed) || failed=1
done
expect 'chat --verbose logs to standard error' 0 'You said: hi' '^> POST ' chat --verbose hi
grep -q 'POST /openai/v1/chat/completions' "$dir/err" && ok 'the log shows the request' ||
    not_ok 'the log shows the request' "$(cat "$dir/err")"

# ---- chat: usage

for wrong in '--nonsense x' '--stream --max-tokens 0 x' '--max-tokens x y' \
    '--max-tokens 99999999999 x' '--timeout 0 x' '--timeout -1 x' '--timeout 1e3 x' '--timeout nan x' \
    '--timeout . x' '--retries -1 x' '--retries 1.5 x' '--deployment' '--system' '-x'; do
    expect "usage: chat $wrong" 2 '' '^chat: ' chat $wrong
done
expect 'usage: chat with an empty prompt' 2 '' '^chat: ' chat ''
expect 'usage: chat with nothing on standard input' 2 '' '^chat: ' chat
with_input 'a\000b' 'usage: chat with a NUL byte' 2 '' '^chat: .*NUL' chat

# refused NAME STATUS STDERR ARGUMENT...: both ways of asking fail alike and print nothing.
refused() {
    what=$1 code=$2 message=$3
    shift 3
    expect "$what" "$code" '' "$message" chat "$@" hi
    expect "$what, streamed" "$code" '' "$message" chat --stream "$@" hi
    [ "$(grep -c '^chat: ' "$dir/err")" -eq 1 ] || not_ok "$what says it once" "$(cat "$dir/err")"
}

# ---- chat: configuration, network, TLS

(unset AZURE_OPENAI_ENDPOINT
    refused 'no endpoint' 2 '^chat: .*AZURE_OPENAI_ENDPOINT'; exit $failed) || failed=1
(AZURE_OPENAI_ENDPOINT='not an endpoint' && export AZURE_OPENAI_ENDPOINT
    refused 'malformed endpoint' 2 '^chat: .*\. '; exit $failed) || failed=1
(unset AZURE_OPENAI_DEPLOYMENT
    refused 'no deployment' 2 '^chat: .*AZURE_OPENAI_DEPLOYMENT'; exit $failed) || failed=1
(AZURE_OPENAI_ENDPOINT=http://contoso.openai.azure.com && export AZURE_OPENAI_ENDPOINT
    refused 'plain HTTP' 2 '^chat: .*\. '; exit $failed) || failed=1
(AZURE_OPENAI_ENDPOINT=https://127.0.0.1:1 && export AZURE_OPENAI_ENDPOINT
    refused 'dead host' 3 '^chat: .*127\.0\.0\.1.*\. ' --retries 0; exit $failed) || failed=1
(AZURE_OPENAI_ENDPOINT=https://no-such-host.invalid && export AZURE_OPENAI_ENDPOINT
    refused 'unknown host' 3 '^chat: .*no-such-host\.invalid.*\. ' --retries 0; exit $failed) || failed=1
(AZURE_OPENAI_AD_TOKEN=x SSL_CERT_FILE=$certs/other_ca.pem && export AZURE_OPENAI_AD_TOKEN SSL_CERT_FILE
    refused 'untrusted certificate' 3 '^chat: .*trusted.*\. '; exit $failed) || failed=1
(SSL_CERT_FILE=$certs/other_ca.pem && export SSL_CERT_FILE
    refused 'untrusted certificate of Entra ID' 3 '^chat: .*trusted.*\. '; exit $failed) || failed=1
(SSL_CERT_FILE=$dir/missing.pem && export SSL_CERT_FILE
    refused 'missing trust store' 3 '^chat: .*missing\.pem.*\. '; exit $failed) || failed=1
(HTTPS_PROXY=http://127.0.0.1:1 AZURE_OPENAI_AD_TOKEN=x && export HTTPS_PROXY AZURE_OPENAI_AD_TOKEN
    AZURE_OPENAI_ENDPOINT=https://contoso.openai.azure.test # loopback addresses are reached directly
    refused 'dead proxy' 3 '^chat: .*127\.0\.0\.1.*\. ' --retries 0; exit $failed) || failed=1

# ---- chat: identity

(AZURE_CLIENT_SECRET=wrong && export AZURE_CLIENT_SECRET
    refused 'wrong secret' 4 '^chat: .*AADSTS7000215.*\. .*AZURE_CLIENT_SECRET'; exit $failed) || failed=1
(AZURE_CLIENT_ID=99999999-0000-0000-0000-000000000000 && export AZURE_CLIENT_ID
    refused 'unknown application' 4 '^chat: .*AADSTS700016.*\. '; exit $failed) || failed=1
(AZURE_TENANT_ID=99999999-0000-0000-0000-000000000000 && export AZURE_TENANT_ID
    refused 'unknown tenant' 4 '^chat: .*AADSTS90002.*\. '; exit $failed) || failed=1
(unset AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET
    expect 'managed identity' 0 'You said: hi' '' chat hi
    AZURE_CLIENT_ID=99999999-0000-0000-0000-000000000000 && export AZURE_CLIENT_ID
    refused 'unknown managed identity' 4 '^chat: .*AZURE_CLIENT_ID'
    exit $failed) || failed=1
(unset AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET
    AZURE_POD_IDENTITY_AUTHORITY_HOST=http://127.0.0.1:1 && export AZURE_POD_IDENTITY_AUTHORITY_HOST
    refused 'no identity at all' 4 '^chat: .*\. '
    grep -q 'AZURE_CLIENT_SECRET' "$dir/err" || not_ok 'no identity at all names the variables' "$(cat "$dir/err")"
    exit $failed) || failed=1
(AZURE_TOKEN_CREDENTIALS=AzureCliCredential && export AZURE_TOKEN_CREDENTIALS
    refused 'a credential of other libraries' 1 '^chat: .*AzureCliCredential.*\. '; exit $failed) || failed=1

# ---- chat: the service

(AZURE_CLIENT_ID=dddddddd-0000-0000-0000-000000000000 && export AZURE_CLIENT_ID
    refused 'missing role' 6 '^chat: .*PermissionDenied.*\. .*role'; exit $failed) || failed=1
(unset AZURE_TENANT_ID AZURE_CLIENT_SECRET
    AZURE_CLIENT_ID=dddddddd-0000-0000-0000-000000000000 && export AZURE_CLIENT_ID
    refused 'missing role of a managed identity' 6 '^chat: .*PermissionDenied.*\. .*role'; exit $failed) || failed=1
refused 'wrong deployment' 6 '^chat: .*no-such.*\. .*deployment name' --deployment no-such
refused 'deployment of another kind of model' 6 '^chat: .*\. ' --deployment embed
(OPENAI_API_VERSION=1999-01-01 && export OPENAI_API_VERSION
    refused 'unknown api-version' 6 '^chat: .*\. '; exit $failed) || failed=1
(AZURE_OPENAI_AD_TOKEN=expired && export AZURE_OPENAI_AD_TOKEN
    refused 'a token that is not accepted' 6 '^chat: .*401.*\. '; exit $failed) || failed=1
(AZURE_OPENAI_API_KEY=wrong && export AZURE_OPENAI_API_KEY
    refused 'a key that is not accepted' 6 '^chat: .*401.*\. '
    AZURE_OPENAI_API_KEY=0123456789abcdef0123456789abcdef
    expect 'chat with a key' 0 'You said: hi' '' chat hi
    exit $failed) || failed=1
expect 'content filter' 6 '' '^chat: .*filter.*\. ' chat something forbidden
expect 'content filter, streamed' 6 '' '^chat: .*filter.*\. ' chat --stream something forbidden

# ---- chat: where the output goes

if [ -e /dev/full ]; then
    $wrap "$build/chat" hi >/dev/full 2>"$dir/err" </dev/null
    code=$?
    [ $code -eq 1 ] && grep -q '^chat: cannot write' "$dir/err" && ok 'chat says when it cannot write' ||
        not_ok 'chat says when it cannot write' "exit status $code" "$(cat "$dir/err")"
fi

# ---- Peers that are scripted: openssl s_server, which sends what it reads to whoever is connected.

# serve NAME ANSWER [END]: starts a server that answers one request with ANSWER (printf format). Then the connection
# stays open and silent, or with END "cut" it is torn down. $served is the address.
port=$((20000 + $$ % 20000))
serve() {
    seen=$dir/$1.seen
    printf "$2" >"$dir/$1.answer"
    : >"$seen"
    tries=0
    while :; do
        port=$((port + 1))
        rm -f "$dir/answer_fifo"
        mkfifo "$dir/answer_fifo"
        openssl s_server -quiet -accept "127.0.0.1:$port" -naccept 1 -cert "$certs/server.pem" \
            -cert_chain "$certs/server.pem" -key "$certs/server.key" <"$dir/answer_fifo" >"$seen" 2>"$dir/$1.log" &
        server=$!
        (
            exec 3>"$dir/answer_fifo"
            left=200
            until grep -q '"messages"' "$seen" || [ $left -eq 0 ]; do
                sleep 0.05
                left=$((left - 1))
            done
            cat "$dir/$1.answer" >&3
            if [ "${3:-}" = cut ]; then
                sleep 0.5
                kill -9 $server 2>/dev/null
            else
                while kill -0 $server 2>/dev/null; do sleep 0.1; done
            fi
        ) 2>/dev/null &
        servers="$servers $server $!"
        sleep 0.5
        kill -0 $server 2>/dev/null && break
        tries=$((tries + 1))
        [ $tries -gt 20 ] && return 1
    done
    AZURE_OPENAI_ENDPOINT=https://localhost:$port
}

AZURE_OPENAI_AD_TOKEN=static-token-that-nobody-checks
export AZURE_OPENAI_AD_TOKEN
events='data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"Once upon"},"finish_reason":null}]}\n\n'
events="${events}"'data: {"choices":[{"index":0,"delta":{"content":" a time"},"finish_reason":null}]}\n\n'
stream='HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n'
json='HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n'

whole='{"choices":[{"index":0,"message":{"role":"assistant","content":"From OpenSSL."},"finish_reason":"stop"}]}'
serve third_party "${json}Content-Length: ${#whole}\r\n\r\n$whole"
expect 'a third-party TLS server' 0 'From OpenSSL.' '' chat --retries 0 hi
# A refusal, and what the content filter leaves of an answer, have no text.
empty='{"choices":[{"index":0,"message":{"role":"assistant","content":null},"finish_reason":"content_filter"}]}'
for example in hello cron async tools; do
    serve "no_text_$example" "${json}Content-Length: ${#empty}\\r\\n\\r\\n$empty"
    case $example in
    hello) set -- hello ;;
    cron) set -- cron "$dir/no_text.state" hi ;;
    *) set -- "$example" hi ;;
    esac
    expect "$example says that there is no text" 0 - '' "$@"
    grep -q '(no text)' "$dir/out" || not_ok "$example says that there is no text" "$(cat "$dir/out")"
done
serve wait 'HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 2\r\n\r\n{}'
expect '429 with a long wait' 6 '' '^chat: .*429.*\. ' chat --retries 2 hi
grep -q '3600' "$dir/err" && ok '429 with a long wait says how long' ||
    not_ok '429 with a long wait says how long' "$(cat "$dir/err")"
serve cut "$stream$events" cut
expect 'a stream that is cut' 5 'Once upon a time' '^chat: .*\. ' chat --stream --retries 0 hi
printf "$events" >"$dir/events"
length="Content-Length: $(($(wc -c <"$dir/events")))\r\n"
serve ended "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n$length\r\n$events"
expect 'a stream that ends early' 5 'Once upon a time' '^chat: .*\. ' chat --stream --retries 0 hi
serve cut_body "${json}Content-Length: 500\r\n\r\n{\"choices\"" cut
expect 'a body that is cut' 5 '' '^chat: .*\. ' chat --retries 0 hi
serve not_http '220 mail.example ESMTP\r\n\r\n'
expect 'a peer that does not speak HTTP' 5 '' '^chat: .*\. ' chat --retries 0 hi
serve not_json "${json}Content-Length: 6\r\n\r\n<html>"
expect 'an answer that is not JSON' 5 '' '^chat: .*\. ' chat --retries 0 hi
serve redirect 'HTTP/1.1 302 Found\r\nLocation: https://login.example/x?secret=1\r\nContent-Length: 0\r\n\r\n'
expect 'a redirect' 5 '' '^chat: .*login\.example.*\. ' chat --retries 0 hi
serve failing 'HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n'
expect 'an internal error' 6 '' '^chat: .*500.*\. ' chat --retries 0 hi
serve silent ''
began=$(date +%s)
expect 'a silent peer' 3 '' '^chat: .*\. ' chat --timeout 1.5 hi
took=$(($(date +%s) - began))
[ $took -le 6 ] && ok 'a silent peer costs the timeout' || not_ok 'a silent peer costs the timeout' "$took s"
serve stalled "$stream$events"
expect 'a stream that stalls' 3 'Once upon a time' '^chat: .*\. ' chat --stream --timeout 2 hi

# interrupt NAME STATUS STDOUT STDERR ARGUMENT...: Ctrl-C two seconds after the start. A shell lets what it starts in
# the background ignore SIGINT, so env puts that back.
interrupt() {
    name=$1 status=$2 out=$3 err=$4
    shift 4
    env --default-signal=INT $wrap "$build/chat" "$@" >"$dir/out" 2>"$dir/err" </dev/null &
    running=$!
    sleep 2
    kill -INT $running
    wait $running
    judge $?
}
if env --default-signal=INT true 2>/dev/null; then
    serve interrupted ''
    interrupt 'Ctrl-C while waiting' 130 '' '^chat: interrupted' hi
    serve interrupted_stream "$stream$events"
    interrupt 'Ctrl-C inside a stream' 130 'Once upon a time' '^chat: interrupted' --stream hi
else
    echo '# skip: env cannot set signals here, so Ctrl-C is not tried'
fi
unset AZURE_OPENAI_AD_TOKEN
AZURE_OPENAI_ENDPOINT=$service

# An IMDS that takes connections and says nothing: the address of a server that waits for a TLS handshake.
serve hanging ''
(AZURE_OPENAI_ENDPOINT=$service
    unset AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET
    AZURE_POD_IDENTITY_AUTHORITY_HOST=http://127.0.0.1:$port && export AZURE_POD_IDENTITY_AUTHORITY_HOST
    expect 'hanging IMDS' 4 '' '^chat: .*\. ' chat --timeout 20 hi
    exit $failed) || failed=1
AZURE_OPENAI_ENDPOINT=$service

# ---- chat: the conversation on a terminal

if script -q -c true /dev/null >/dev/null 2>&1 </dev/null; then
    {
        sleep 1
        printf 'first\n'
        sleep 1
        printf 'second one\n'
        sleep 1
        printf '\004'
        sleep 0.5
    } | script -q -e -c "$wrap $build/chat" /dev/null >"$dir/terminal" 2>&1
    code=$?
    tr -d '\r' <"$dir/terminal" >>"$dir/everything"
    [ $code -eq 0 ] && tr -d '\r' <"$dir/terminal" | grep -c '^You said: first$' | grep -q '^1$' &&
        tr -d '\r' <"$dir/terminal" | grep -q '^You said: second one$' && ok 'a conversation on a terminal' ||
        not_ok 'a conversation on a terminal' "exit status $code" "$(cat "$dir/terminal")"
else
    echo '# skip: no script(1), or no terminals, so the conversation on one is not tried'
fi

# ---- The other examples

rivers='Name a river.
    You said: Name a river.
Name a mountain.
    You said: Name a mountain.
Name a lake.
    You said: Name a lake.'
expect 'async' 0 "$rivers" '' async
expect 'async --epoll' 0 "$rivers" '' async --epoll
expect 'async with one question' 0 'hi
    You said: hi' '' async hi
many=$(i=0; while [ $i -lt 16 ]; do i=$((i + 1)); echo "q$i"; done)
answers=$(for one in $many; do printf '%s\n    You said: %s\n' "$one" "$one"; done)
expect 'async with many questions' 0 "$answers" '' async $many
expect 'async --epoll with many questions' 0 "$answers" '' async --epoll $many
expect 'async usage' 2 '' '^usage: async' async --nonsense
(AZURE_CLIENT_SECRET=wrong && export AZURE_CLIENT_SECRET
    expect 'async explains each failure' 1 '' '^async: Name a lake\.: .*AADSTS7000215' async
    expect 'async --epoll explains each failure' 1 '' '^async: Name a lake\.: .*AADSTS7000215' async --epoll
    exit $failed) || failed=1
expect 'async, one of two fails' 1 'fine
    You said: fine' '^async: forbidden: .*filter' async fine forbidden

expect 'tools' 0 'get_weather({"city":"Bern"}) -> 21 degrees and sunny in Bern
get_time({"tz":"CET"}) -> 14:05 CET
The tools said: 21 degrees and sunny in Bern; 14:05 CET' '' tools
expect 'tools that are not needed' 0 'You said: hi' '' tools hi
(AZURE_CLIENT_SECRET=wrong && export AZURE_CLIENT_SECRET
    expect 'tools explains a failure' 1 '' '^tools: .*AADSTS7000215' tools; exit $failed) || failed=1

(AZURE_OPENAI_DEPLOYMENT=embed && export AZURE_OPENAI_DEPLOYMENT
    expect 'embed, the same text twice' 0 ' 1.000  same | same' '' embed same same
    expect 'embed' 0 - '' embed
    [ "$(wc -l <"$dir/out")" -eq 3 ] && ! grep -v -q -E '^ *-?[01]\.[0-9]{3}  .* \| ' "$dir/out" &&
        ok 'embed prints each pair' || not_ok 'embed prints each pair' "$(cat "$dir/out")"
    expect 'embed usage' 2 '' '^usage: embed' embed one
    exit $failed) || failed=1
expect 'embed with a chat model' 1 '' '^embed: .*\. ' embed

# A second may pass between the answer and the print.
expect 'token' 0 - '' token
tr '\n' ' ' <"$dir/out" | grep -q -E '^source: environment expires in: 359[0-9] s $' && ok 'token prints two lines' ||
    not_ok 'token prints two lines' "$(cat "$dir/out")"
(unset AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET AZURE_OPENAI_ENDPOINT
    expect 'token of the managed identity, without an endpoint' 0 - '' token \
        https://cognitiveservices.azure.com/.default
    tr '\n' ' ' <"$dir/out" | grep -q -E '^source: managed identity expires in: 863[0-9][0-9] s $' ||
        not_ok 'token names the managed identity' "$(cat "$dir/out")"
    exit $failed) || failed=1
expect 'fixed' 0 'You said: Hello.
You said: Hello.' '^library: [0-9]+ of [0-9]+ bytes' fixed Hello. 2
expect 'token usage' 2 '' '^usage: token' token --nonsense
expect 'token for an unknown resource' 1 '' '^token: .*AADSTS500011' token https://nowhere.example/.default
# Not through expect: this output is a secret.
token=$("$build/token" --print 2>&1 | tail -n 1)
case $token in
fake.entra.*) ok 'token --print prints it' ;;
*) not_ok 'token --print prints it' "$token" ;;
esac

# ---- cron: what one run leaves to the next

token_requests() { grep -c '"role":"entra"' "$dir/requests"; }
state=$dir/cron.state
expect 'cron, the first run' 0 'You said: Name a colour.' '' cron "$state"
before=$(token_requests)
[ "$(ls -l "$state" | cut -c 1-10)" = -rw------- ] && ok 'cron leaves a file for its owner only' ||
    not_ok 'cron leaves a file for its owner only' "$(ls -l "$state")"
expect 'cron, the second run' 0 'You said: hi' '' cron "$state" hi
expect 'cron, the third run' 0 'You said: hi' '' cron "$state" hi
[ "$(token_requests)" -eq "$before" ] && ok 'cron asks for one token' ||
    not_ok 'cron asks for one token' "$(cat "$dir/requests")"
chmod 644 "$state"
printf 'x' >>"$state"
expect 'cron with a damaged file' 0 'You said: hi' '^cron: .*damaged.*\. Go on' cron "$state" hi
[ "$(token_requests)" -eq $((before + 1)) ] && ok 'cron then asks for another' || not_ok 'cron then asks for another'
[ "$(ls -l "$state" | cut -c 1-10)" = -rw------- ] && ok 'cron leaves a better one' || not_ok 'cron leaves a better one'
: >"$state"
expect 'cron with an empty file' 0 'You said: hi' '^cron: .*that a client has exported' cron "$state" hi
expect 'cron, then' 0 'You said: hi' '' cron "$state" hi
expect 'cron where no file can be' 0 'You said: hi' "^$dir/nowhere/file: " cron "$dir/nowhere/file" hi
(AZURE_CLIENT_SECRET=wrong expect 'cron of another identity' 1 '' '^cron: .*another identity' cron "$state" hi
    exit $failed) || failed=1
expect 'cron usage' 2 '' '^usage: cron' cron
[ "$(ls "$dir" | grep -c 'cron.state')" -eq 1 ] && ok 'cron leaves no other file' ||
    not_ok 'cron leaves no other file' "$(ls "$dir")"

# ---- az_login with a stand-in for the Azure CLI

# az LINE...: the stand-in is a script of these lines.
az() {
    printf '#!/bin/sh\n' >"$dir/bin/az"
    printf '%s\n' "$@" >>"$dir/bin/az"
    chmod +x "$dir/bin/az"
}
case $dir in
/*) bin=$dir/bin ;;
*) bin=$PWD/$dir/bin ;;
esac
old_path=$PATH
PATH=$bin:$PATH
unset AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET
later=$(($(date +%s) + 3000))
right='case "$*" in
"account get-access-token --output json --resource https://"*) ;;
*) echo "unexpected arguments: $*" >&2; exit 64 ;;
esac'

az "$right" "echo 'WARNING: you have {old} extensions' >&2" "sleep 0.3" \
    "printf '{\n  \"accessToken\": \"%s\",\n' '$token'" \
    "printf '  \"expiresOn\": \"2020-01-01 00:00:00.000000\",\n  \"expires_on\": %s,\n' $later" \
    "printf '  \"subscription\": \"s\",\n  \"tenant\": \"t\",\n  \"tokenType\": \"Bearer\"\n}\n'"
expect 'az_login' 0 'You said: hi' '' az_login hi
az "$right" "echo '{\"accessToken\": \"$token\", \"expiresOn\": \"2099-01-01 00:00:00.000000\"}'"
expect 'az_login, an old CLI' 0 'You said: hi' '' az_login hi
az "$right" "echo '{\"accessToken\": \"$token\", \"expiresOn\": \"N/A\"}'"
expect 'az_login, no expiry' 0 'You said: hi' '' az_login hi
az "$right" "echo '{\"accessToken\": \"$token\", \"expires_on\": $later}'" 'sleep 60 & exit 0'
expect 'az_login, a helper stays behind' 0 'You said: hi' '' az_login hi
az "$right" "head -c 300000 /dev/zero | tr '\\000' x >&2" "echo '{\"accessToken\": \"$token\", \"expires_on\": $later}'"
expect 'az_login, much on standard error' 0 'You said: hi' '' az_login hi
az "echo \"ERROR: Please run 'az login' to setup account.\" >&2" 'exit 1'
expect 'az_login, not logged in' 1 '' '^az_login: .*az login' az_login hi
az "echo 'ERROR: AADSTS50076: you must use multi-factor authentication.' >&2" 'exit 1'
expect 'az_login, refused' 1 '' 'AADSTS50076' az_login hi
az 'echo "this is not JSON"'
expect 'az_login, garbage' 1 '' '^az_login: .*JSON' az_login hi
az 'echo "{\"accessToken\": 7}"'
expect 'az_login, a token that is none' 1 '' '^az_login: .*JSON' az_login hi
az 'exit 0'
expect 'az_login, nothing' 1 '' '^az_login: .*JSON' az_login hi
az 'kill -9 $$'
expect 'az_login, a crash' 1 '' '^az_login: .*\. ' az_login hi
az "echo \$\$ >'$bin/../az.pid'" 'sleep 61'
(AZ_LOGIN_SECONDS=1 && export AZ_LOGIN_SECONDS
    expect 'az_login, slow' 1 '' '^az_login: .*in time' az_login hi; exit $failed) || failed=1
sleep 0.2
if kill -0 "$(cat "$dir/az.pid")" 2>/dev/null; then
    not_ok 'az_login ends what it started'
else
    ok 'az_login ends what it started'
fi
rm "$dir/bin/az"
(wrap="$(command -v env) PATH=$bin"
    expect 'az_login, not installed' 1 '' '^az_login: .*not installed' az_login hi; exit $failed) || failed=1
PATH=$old_path
AZURE_TENANT_ID=$tenant AZURE_CLIENT_ID=$client AZURE_CLIENT_SECRET=$secret
export AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET

# ---- The demo, as a stranger runs it

stop_all
(for name in $(env | sed -n 's/^\(AZURE_[A-Z0-9_]*\)=.*/\1/p'); do unset "$name"; done
    unset SSL_CERT_FILE OPENAI_API_VERSION
    tests/demo.sh >"$dir/demo" 2>&1)
code=$?
cat "$dir/demo" >>"$dir/everything"
if [ $code -eq 0 ] && grep -q 'bundled' "$dir/demo" && [ "$(grep -c '^You said: ' "$dir/demo")" -eq 3 ]; then
    ok 'the demo prints three answers'
else
    not_ok 'the demo prints three answers' "exit status $code" "$(cat "$dir/demo")"
fi

# ---- No secret anywhere in what was printed

for one in "$secret" 'a~b.c_d-e%2Bf%2Fg%3Dh%26i%25j%20k' 0123456789abcdef0123456789abcdef "$token" fake.entra. \
    fake.imds. static-token-that-nobody-checks 'secret=1'; do
    if grep -q -F -- "$one" "$dir/everything"; then
        not_ok "no secret is printed ($(printf '%.4s' "$one")...)" "$(grep -F -- "$one" "$dir/everything")"
    else
        ok "no secret is printed ($(printf '%.4s' "$one")...)"
    fi
done
exit $failed
