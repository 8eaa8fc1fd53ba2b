#!/bin/sh
# run.sh - what `make test-official` runs: the official packages of package.json and our own examples make the same
# keyless calls to the fake service, and what both put on the wire is compared (official.js). Ends with
# "N passed, N failed".
#
# AZO_TEST_BUILD says where the programs are; the packages are installed under it, in official/. AZO_TEST_CERTS says
# where the certificates are. Where there is no npm, no node, or no registry in reach, it says so, tests nothing and
# succeeds.
set -u
cd "$(dirname "$0")/../.." || exit 1

AZO_TEST_BUILD=${AZO_TEST_BUILD:-build}
AZO_TEST_CERTS=${AZO_TEST_CERTS:-build/certs}
export AZO_TEST_BUILD AZO_TEST_CERTS
here=tests/official
work=$AZO_TEST_BUILD/official

skip() {
    echo "test-official: SKIPPED, $1"
    [ "${CI:-}" = true ] && echo 'test-official: SKIPPED in CI: the official packages have not tried the fake service'
    echo '0 passed, 0 failed'
    exit 0
}

# Prints npm's error code, or "unknown", when it fails. A proxy of the machine is for npm alone.
install_packages() {
    cmp -s "$here/package-lock.json" "$work/installed.json" && [ -d "$work/node_modules" ] && return 0
    rm -f "$work/installed.json"
    cp "$here/package.json" "$here/package-lock.json" "$work/" || return 1
    output=$(cd "$work" && npm_config_update_notifier=false npm ci --ignore-scripts --no-audit --no-fund \
        --engine-strict=false --fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-timeout=60000 2>&1) || {
        code=$(printf '%s\n' "$output" | sed -n 's/^npm \(error\|ERR!\) code \([A-Za-z0-9_]*\).*/\2/p' | head -n 1)
        echo "${code:-unknown}"
        return 1
    }
    cp "$here/package-lock.json" "$work/installed.json"
}

command -v npm >/dev/null 2>&1 || skip 'npm is not installed'
command -v node >/dev/null 2>&1 || skip 'node is not installed'
node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 20 ? 0 : 1)' || skip 'node is older than 20'
for program in fake_service chat embed tools token; do
    [ -x "$AZO_TEST_BUILD/$program" ] || {
        echo "not ok - $AZO_TEST_BUILD/$program is not built"
        echo '0 passed, 1 failed'
        exit 1
    }
done
mkdir -p "$work" || exit 1
problem=$(install_packages) || case $problem in
# Not the fault of the network: the two files here do not agree, or a package is not the one that was tried.
EUSAGE | EINTEGRITY | EJSONPARSE)
    echo "not ok - npm could not install the official packages ($problem)"
    echo '0 passed, 1 failed'
    exit 1
    ;;
*) skip "npm could not install the official packages ($problem)" ;;
esac

# The machine's own settings must not reach the tests.
for name in $(env | sed -n 's/^\(AZURE_[A-Z0-9_]*\)=.*/\1/p; s/^\(OPENAI_[A-Z0-9_]*\)=.*/\1/p'); do unset "$name"; done
unset HTTPS_PROXY https_proxy HTTP_PROXY http_proxy ALL_PROXY all_proxy NO_PROXY no_proxy SSL_CERT_FILE \
    NODE_OPTIONS NODE_TLS_REJECT_UNAUTHORIZED IDENTITY_ENDPOINT IDENTITY_HEADER MSI_ENDPOINT MSI_SECRET IMDS_ENDPOINT

. tests/fake.sh
trap stop_fake EXIT
trap 'exit 1' HUP INT TERM
AZO_TEST_LOG=$work/requests.jsonl
rm -f "$AZO_TEST_LOG"
start_fake --log "$AZO_TEST_LOG" --lifetime 900 || exit 1
NODE_EXTRA_CA_CERTS=$SSL_CERT_FILE
NODE_PATH=$(cd "$work" && pwd)/node_modules
export AZO_TEST_LOG NODE_EXTRA_CA_CERTS NODE_PATH
node "$here/official.js"
