#!/bin/sh
# run.sh PROGRAM|SCRIPT...
# Runs cmocka programs and test scripts from the root of the repository, as many at a time as there are processors,
# prints one line for each and the output of those that failed, and ends with "N passed, N failed". Fails if anything
# did. Everything they print is kept in $AZO_TEST_BUILD/logs.
#
# AZO_TEST_CERTS, AZO_TEST_BUILD: where certificates and programs are. AZO_TEST_WRAP: a command to run programs under.
# TEST: names, for a few programs only. AZO_TEST_SECONDS: the time limit of each. AZO_TEST_JOBS: how many at a time.
set -u

build=${AZO_TEST_BUILD:-build}
logs=$build/logs
wrap=${AZO_TEST_WRAP:-}
limit=${AZO_TEST_SECONDS:-900}
jobs=${AZO_TEST_JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
export AZO_TEST_CERTS AZO_TEST_BUILD

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
        END { left = planned - ok - bad; print ok + 0, bad + 0, (left > 0 ? left : 0) }' "$1")
    ok=$1
    not_ok=$(($2 + $3))
}

# report NAME LOG STATUS SECONDS: what is to be said of one program.
report() {
    note=
    [ "$3" -eq 124 ] && note=", out of time after $limit s"
    [ "$3" -gt 128 ] && note=", killed by signal $(($3 - 128))"
    if [ "$not_ok" -eq 0 ]; then
        printf 'ok      %-28s %4d passed  (%d s)\n' "$1" "$ok" "$4"
    else
        printf 'FAILED  %-28s %4d passed, %d failed  (%d s, exit status %d%s)\n' "$1" "$ok" "$not_ok" "$4" "$3" "$note"
        grep -v '^[[:space:]]*ok ' "$2" | tail -n 60 | sed 's/^/    | /'
    fi
    grep '^[[:space:]]*# skip' "$2" | sed 's/^[[:space:]]*/    /'
}

# run_one PROGRAM|SCRIPT: runs it and leaves its counts beside its log.
run_one() {
    name=${1##*/}
    log=$logs/$name.log
    guard=
    command -v timeout >/dev/null 2>&1 && guard="timeout $limit"
    began=$(date +%s)
    case $1 in
    *.sh) $guard "$1" >"$log" 2>&1 </dev/null ;;
    *) $guard $wrap "$1" >"$log" 2>&1 </dev/null ;;
    esac
    status=$?
    count "$log"
    # No test at all is a failure, and so is a bad exit status if every test passed.
    if [ $((ok + not_ok)) -eq 0 ] || { [ "$status" -ne 0 ] && [ "$not_ok" -eq 0 ]; }; then
        not_ok=$((not_ok + 1))
    fi
    echo "$ok $not_ok" >"$logs/$name.count"
    text=$(report "$name" "$log" "$status" $(($(date +%s) - began)))
    printf '%s\n' "$text" # in one piece, as others print too
}

if [ "${1:-}" = --one ]; then
    run_one "$2"
    exit 0
fi

# The machine's own settings must not reach the tests.
for name in $(env | sed -n 's/^\(AZURE_[A-Z0-9_]*\)=.*/\1/p; s/^\(OPENAI_[A-Z0-9_]*\)=.*/\1/p'); do unset "$name"; done
unset HTTPS_PROXY https_proxy HTTP_PROXY http_proxy ALL_PROXY all_proxy NO_PROXY no_proxy SSL_CERT_FILE \
    IDENTITY_ENDPOINT IDENTITY_HEADER MSI_ENDPOINT MSI_SECRET IMDS_ENDPOINT
CMOCKA_MESSAGE_OUTPUT=TAP
export CMOCKA_MESSAGE_OUTPUT

mkdir -p "$logs"
rm -f "$logs"/*.count
wanted=0
for one in "$@"; do
    shift
    if chosen "${one##*/}"; then
        set -- "$@" "$one"
        wanted=$((wanted + 1))
    fi
done
[ "$wanted" -eq 0 ] || printf '%s\n' "$@" | xargs -n 1 -P "$jobs" "$0" --one

# One that left no count behind was lost, and that is a failure too.
set -- $(cat "$logs"/*.count 2>/dev/null |
    awk -v wanted="$wanted" '{ ok += $1; bad += $2 } END { print ok + 0, bad + wanted - NR }')
echo "$1 passed, $2 failed"
[ "$2" -eq 0 ] && [ "$1" -gt 0 ]
