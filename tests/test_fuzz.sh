#!/bin/sh
# test_fuzz.sh
# A short run of every fuzz target (see fuzz/fuzz.h): by libFuzzer where clang has it, with a fixed seed; else all seeds
# and 3,000 fixed changes of them for each, with the ordinary compiler. fuzz/run.sh is for longer runs.
#
# AZO_FUZZ_REPLAY=1 asks for the second way.
set -u

build=${AZO_TEST_BUILD:-build}/fuzz-short
cc=${CC:-cc}
clang=${FUZZ_CLANG:-clang}
targets=$(cd tests/fuzz/seeds && ls | sed 's/\.txt$//')
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
failed=0

if [ -n "${MBEDTLS_ROOT:-}" ]; then
    lib=$(dirname "$(ls "$MBEDTLS_ROOT"/usr/lib/*/libmbedtls.a "$MBEDTLS_ROOT"/usr/lib/libmbedtls.a 2>/dev/null |
        head -n 1)")
    libs="$lib/libmbedtls.a $lib/libmbedx509.a $lib/libmbedcrypto.a"
else
    libs='-lmbedtls -lmbedx509 -lmbedcrypto'
fi
rm -rf "$build"
mkdir -p "$build"

# compile COMPILER FLAG...
compile() {
    "$@" -std=c99 -I. ${MBEDTLS_ROOT:+-isystem "$MBEDTLS_ROOT/usr/include"} tests/fuzz/fuzz.c $more \
        -o "$build/targets" -lcmocka $libs -lm
}

has_fuzzer() {
    [ -z "${AZO_FUZZ_REPLAY:-}" ] || return 1
    echo 'int LLVMFuzzerTestOneInput(const char *a, unsigned long b) { return a == 0 && b != 0; }' >"$build/probe.c"
    $clang -fsanitize=fuzzer,address,undefined "$build/probe.c" -o "$build/probe" 2>/dev/null &&
        "$build/probe" -runs=1 >/dev/null 2>&1
}

# runs TARGET: how many executions by libFuzzer; those with a whole client take longer.
runs() {
    case $1 in
    exchange) echo 300 ;;
    chat | embed | proxy | refusal | request | state | stream | token | url) echo 1000 ;;
    *) echo 5000 ;;
    esac
}

# one TARGET
one() {
    AZO_FUZZ_TARGET=$1
    export AZO_FUZZ_TARGET
    if [ -n "$fuzzer" ]; then
        "$build/targets" -seed=1 -runs="$(runs "$1")" -max_len=1024 -timeout=20 -entropic=0 \
            -artifact_prefix="$build/$1-" "$build/fuzz/corpus/$1" >"$build/$1.log" 2>&1
    else
        "$build/targets" "$build/fuzz/corpus/$1" 3000 >"$build/$1.log" 2>&1
    fi
    echo $? >"$build/$1.status"
}

fuzzer=
more=
if has_fuzzer; then
    fuzzer=1
    compile $clang -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
else
    echo '# skip: fuzzing, as there is no clang with libFuzzer; seeds and fixed changes of them are run instead'
    more=tests/fuzz/replay.c
    compile $cc -O1 -g
fi
if [ $? -ne 0 ]; then
    echo 'not ok - the fuzz targets compile'
    exit 1
fi
AZO_TEST_BUILD=$build tests/fuzz/run.sh --seeds

running=0
for target in $targets; do
    one "$target" &
    running=$((running + 1))
    if [ "$running" -ge "$jobs" ]; then
        wait
        running=0
    fi
done
wait

for target in $targets; do
    if [ "$(cat "$build/$target.status")" -eq 0 ]; then
        echo "ok - $target"
    else
        echo "not ok - $target"
        tail -n 60 "$build/$target.log" | grep -v '^ *#[0-9]* 0x.*/libFuzzer\|^INFO' | sed 's/^/# /'
        failed=1
    fi
done
exit $failed
