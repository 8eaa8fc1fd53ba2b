#!/bin/sh
# run.sh PROGRAM|SCRIPT...
# Runs cmocka programs and test scripts from the root of the repository, prints one line for each and the output of
# those that failed, and ends with "N passed, N failed". Fails if anything did. Everything they print is kept in
# $AZO_TEST_BUILD/logs.
#
# AZO_TEST_CERTS, AZO_TEST_BUILD: where certificates and programs are. AZO_TEST_WRAP: a command to run programs under.
# TEST: names, for a few programs only. AZO_TEST_SECONDS: the time limit of each.
set -u

build=${AZO_TEST_BUILD:-build}
logs=$build/logs
wrap=${AZO_TEST_WRAP:-}
limit=${AZO_TEST_SECONDS:-900}
passed=0
failed=0
export AZO_TEST_CERTS AZO_TEST_BUILD

# The machine's own settings must not reach the tests.
for name in $(env | sed -n 's/^\(AZURE_[A-Z0-9_]*\)=.*/\1/p; s/^\(OPENAI_[A-Z0-9_]*\)=.*/\1/p'); do unset "$name"; done
unset HTTPS_PROXY https_proxy HTTP_PROXY http_proxy ALL_PROXY all_proxy NO_PROXY no_proxy SSL_CERT_FILE \
    IDENTITY_ENDPOINT IDENTITY_HEADER MSI_ENDPOINT MSI_SECRET IMDS_ENDPOINT
CMOCKA_MESSAGE_OUTPUT=TAP
export CMOCKA_MESSAGE_OUTPUT

mkdir -p "$logs"
if command -v timeout >/dev/null 2>&1; then
    guard="timeout $limit"
else
    guard=
fi

# chosen NAME: is it one of those to run?
chosen() {
    case " ${TEST:-$1} " in
    *" $1 "* | *" ${1%.sh} "*) return 0 ;;
    esac
    return 1
}

# count LOG: sets ok, not_ok. cmocka prints a skipped test as "not ok N # SKIP name"; each group has a plan,
# and a crash keeps the rest of it from running.
count() {
    set -- $(LC_ALL=C awk '
        { sub(/\r$/, ""); sub(/^[ \t]+/, "") }
        /^ok / { ok++; next }
        /^not ok .*# SKIP/ { ok++; next }
        /^not ok / { bad++; next }
        /^1\.\.[0-9]+$/ { planned += substr($0, 4) }
        END { left = planned - ok - bad - skipped; print ok + 0, bad + 0, (left > 0 ? left : 0) }' "$1")
    ok=$1
    not_ok=$(($2 + $3))
}

for one in "$@"; do
    name=${one##*/}
    chosen "$name" || continue
    log=$logs/$name.log
    began=$(date +%s)
    case $one in
    *.sh) $guard "$one" >"$log" 2>&1 </dev/null ;;
    *) $guard $wrap "$one" >"$log" 2>&1 </dev/null ;;
    esac
    status=$?
    took=$(($(date +%s) - began))
    count "$log"
    # No test at all is a failure, and so is a bad exit status if every test passed.
    if [ $((ok + not_ok)) -eq 0 ] || { [ "$status" -ne 0 ] && [ "$not_ok" -eq 0 ]; }; then
        not_ok=$((not_ok + 1))
    fi
    passed=$((passed + ok))
    failed=$((failed + not_ok))
    note=
    [ "$status" -eq 124 ] && note=", out of time after $limit s"
    [ "$status" -gt 128 ] && note=", killed by signal $((status - 128))"
    if [ "$not_ok" -eq 0 ]; then
        printf 'ok      %-28s %4d passed  (%d s)\n' "$name" "$ok" "$took"
    else
        printf 'FAILED  %-28s %4d passed, %d failed  (%d s, exit status %d%s)\n' "$name" "$ok" "$not_ok" "$took" \
            "$status" "$note"
        grep -v '^[[:space:]]*ok ' "$log" | tail -n 60 | sed 's/^/    | /'
    fi
    grep '^[[:space:]]*# skip' "$log" | sed 's/^[[:space:]]*/    /'
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
