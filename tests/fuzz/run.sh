#!/bin/sh
# run.sh [--memory | --seeds] SECONDS [TARGET...]
# Fuzzes each target, or all of them, for so many seconds, two at a time, and prints a line for each: executions,
# executions per second, coverage of the header (edges and features) and the size of the corpus. What is found fails it;
# the input is printed and kept. Everything is in $AZO_TEST_BUILD/fuzz, grown corpora in its folder `corpus`.
#
# --memory: MemorySanitizer instead of address and undefined behaviour, without the targets that enter mbedTLS, which is
# not instrumented. --seeds: only writes the seeds of seeds/ into the corpora. FUZZ_FLAGS: more flags for libFuzzer.
set -u

dir=$(dirname "$0")
build=${AZO_TEST_BUILD:-build}/fuzz
clang=${FUZZ_CLANG:-clang}
sanitize=address,undefined
program=$build/fuzz
all=$(cd "$dir/seeds" && ls | sed 's/\.txt$//')
memory=
only_seeds=
case ${1:-} in
--memory)
    memory=1
    sanitize=memory
    program=$build/fuzz_memory
    all=$(echo "$all" | grep -v -x -e proxy -e pem -e state)
    shift
    ;;
--seeds)
    only_seeds=1
    shift
    set -- 0 "$@"
    ;;
esac
seconds=${1:?"usage: run.sh [--memory | --seeds] SECONDS [TARGET...]"}
shift
[ $# -gt 0 ] || set -- $all

if [ -n "${MBEDTLS_ROOT:-}" ]; then
    lib=$(dirname "$(ls "$MBEDTLS_ROOT"/usr/lib/*/libmbedtls.a "$MBEDTLS_ROOT"/usr/lib/libmbedtls.a 2>/dev/null |
        head -n 1)")
    libs="$lib/libmbedtls.a $lib/libmbedx509.a $lib/libmbedcrypto.a"
else
    libs='-lmbedtls -lmbedx509 -lmbedcrypto'
fi

# seeds TARGET: one input for each line, with a steering byte of its own in front. Lines are as printf %b wants them.
seeds() {
    mkdir -p "$build/corpus/$1"
    number=0
    while IFS= read -r line; do
        number=$((number + 1))
        printf "\\$(printf %03o $((number * 37 % 256)))%b" "$line" >"$build/corpus/$1/seed$number"
    done <"$dir/seeds/$1.txt"
}

compile() {
    $clang -std=c99 -I"$dir/../.." -O1 -g -fno-omit-frame-pointer \
        -fsanitize=fuzzer,$sanitize -fno-sanitize-recover=all \
        ${MBEDTLS_ROOT:+-isystem "$MBEDTLS_ROOT/usr/include"} "$dir/fuzz.c" -o "$program" -lcmocka $libs -lm
}

# run TARGET: the line of the target goes to its .line, the rest to its .log.
run() {
    log=$build/$1.log
    dict=$dir/$1.dict
    [ -e "$dict" ] || dict=$dir/http.dict
    rm -f "$build/$1.line"
    AZO_FUZZ_TARGET=$1 "$program" -max_total_time="$seconds" -max_len=4096 -timeout=20 -entropic=0 \
        -print_final_stats=1 -dict="$dict" -artifact_prefix="$build/$1-" ${FUZZ_FLAGS:-} "$build/corpus/$1" >"$log" 2>&1
    status=$?
    set -- "$1" "$status" $(sed -n 's/^#\([0-9]*\).*cov: \([0-9]*\) ft: \([0-9]*\) corp: \([0-9]*\).*/\1 \2 \3 \4/p' \
        "$log" | tail -n 1)
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    printf '%-10s %9s executions, %6s a second, %5s edges, %6s features, %5s inputs\n' "$1" "${3:-0}" "${rate:-0}" \
        "${4:-0}" "${5:-0}" "${6:-0}" >"$build/$1.line"
    if [ "$status" -ne 0 ]; then
        printf '%-10s FAILED with %s\n' "$1" "$status" >"$build/$1.line"
        sed -n -e 's/.*Test unit written to /    input: /p' -e 's/^Base64: /    base64: /p' \
            -e '/does not hold\|^one way\|^the other\|runtime error\|ERROR: \|script: /s/^/    /p' "$log" \
            >>"$build/$1.line"
    fi
}

mkdir -p "$build"
for target in "$@"; do
    seeds "$target"
done
[ -z "$only_seeds" ] || exit 0
compile || exit 1

failed=0
while [ $# -gt 0 ]; do
    run "$1" &
    first=$!
    if [ $# -gt 1 ]; then
        run "$2"
    fi
    wait $first
    cat "$build/$1.line" ${2:+"$build/$2.line"}
    grep -q FAILED "$build/$1.line" ${2:+"$build/$2.line"} && failed=1
    shift
    [ $# -eq 0 ] || shift
done
exit $failed
