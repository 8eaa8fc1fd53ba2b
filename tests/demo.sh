#!/bin/sh
# demo.sh - what `make demo` runs: three answers without an API key. Talks to AZURE_OPENAI_ENDPOINT if that is set,
# else to the fake service of the tests, which it starts.
set -eu

build=${AZO_TEST_BUILD:-build}

# call TITLE ARGUMENT...: one call of examples/chat.
call() {
    printf '\n%s\n$ chat' "$1"
    shift
    for word in "$@"; do
        case $word in
        *' '*) printf " '%s'" "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
    "$build/chat" "$@"
}

if [ -n "${AZURE_OPENAI_ENDPOINT:-}" ]; then
    echo "This talks to $AZURE_OPENAI_ENDPOINT."
    call '1. A question' 'Say hello in one short sentence.'
    call '2. With a system message' --system 'You are terse.' 'Name a colour.'
    call '3. Streamed' --stream 'Count from one to five in words.'
    exit 0
fi

. tests/fake.sh
trap stop_fake EXIT
trap 'exit 1' HUP INT TERM
unset AZURE_OPENAI_AD_TOKEN AZURE_OPENAI_API_KEY AZURE_TOKEN_CREDENTIALS OPENAI_API_VERSION HTTPS_PROXY https_proxy
start_fake

cat <<END
AZURE_OPENAI_ENDPOINT is not set, so this talks to the service bundled with the tests, at
$AZURE_OPENAI_ENDPOINT. It speaks the protocols of Azure OpenAI, Entra ID and the
instance metadata service over real TLS; its answers are echoes. No API key is involved.
END
call '1. Signed in with the client secret in the environment' 'Hello from a client secret!'
unset AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET
call '2. Signed in with the managed identity of the machine' 'Hello from a managed identity!'
call '3. The same, streamed' --stream 'Hello, word by word as they come!'
