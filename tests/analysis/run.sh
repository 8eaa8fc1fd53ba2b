#!/bin/sh
# run.sh [quick|all|STEP...]
# Machines that read the code, each a step of its own; prints TAP. `quick` are those that tests/test_analysis.sh runs,
# `all` adds the long ones. A tool that is not installed is skipped. What a tool says and is not so stands in known.txt
# with the reason; everything else is a failure.
set -u

here=tests/analysis
build=${AZO_TEST_BUILD:-build}
dir=$build/analysis
certs=${AZO_TEST_CERTS:-build/certs}
root=${MBEDTLS_ROOT:+-isystem $MBEDTLS_ROOT/usr/include}
strict='-std=c99 -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wstrict-prototypes -Wcast-qual'
strict="$strict -Wundef"
quick='gcc_warnings clang_warnings tidy cppcheck gcc_analyzer eva stack integer threads'
long='clang_analyzer eva_long tests_tidy tests_cppcheck msan'
failed=0
# Those that are built here; others want headers of a system of their own.
examples=$(sed -n 's/^EXAMPLES = //p' Makefile | tr ' ' '\n' | sed 's|.*|examples/&.c|')

if [ -n "${MBEDTLS_ROOT:-}" ]; then
    lib=$(dirname "$(ls "$MBEDTLS_ROOT"/usr/lib/*/libmbedtls.a "$MBEDTLS_ROOT"/usr/lib/libmbedtls.a 2>/dev/null |
        head -n 1)")
    libs="$lib/libmbedtls.a $lib/libmbedx509.a $lib/libmbedcrypto.a -lpthread -lm"
else
    libs='-lmbedtls -lmbedx509 -lmbedcrypto -lpthread -lm'
fi

# check NAME COMMAND...: one test; what the command prints explains a failure.
check() {
    name=$1
    shift
    if "$@" >"$dir/output" 2>&1; then
        echo "ok - $name"
    else
        echo "not ok - $name"
        head -n 30 "$dir/output" | sed 's/^/# /'
        failed=1
    fi
}

# needs TOOL...: false, and a line that says so, where one is not installed.
needs() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 || { echo "# skip $step: $tool is not installed"; return 1; }
    done
}

# report TOOL COMMAND...: fails if the command does, or if it says anything that known.txt does not explain.
report() {
    tool=$1
    shift
    "$@" >"$dir/$step.log" 2>&1 || { grep -E 'error|rror:' "$dir/$step.log" || tail -n 5 "$dir/$step.log"; return 1; }
    awk -v known=$here/known.txt -v tool="$tool" -f $here/report.awk "$dir/$step.log"
}

# each TOOL FILES COMMAND...: the command for every file; findings of all.
each() {
    tool=$1
    files=$2
    shift 2
    for file in $files; do
        report "$tool" "$@" "$file" || wrong=1
    done
    return "${wrong:-0}"
}

# ---- warnings

# What other projects compile with. Not asked: -Wdeclaration-after-statement and -Wswitch-enum (C99, and default: is
# meant), -Wstack-usage (the step `stack`), -Wimplicit-fallthrough above 3 (comments say it).
step_gcc_warnings() {
    needs gcc || return 0
    check 'gcc, more warnings' report gcc gcc $strict -O2 $root -Wformat=2 -Wformat-signedness -Wnull-dereference \
        -Wduplicated-cond -Wduplicated-branches -Wlogical-op -Wvla -Walloca -Wimplicit-fallthrough=3 \
        -Wbad-function-cast -Wfloat-equal -Wredundant-decls -Wnested-externs -Wwrite-strings -Wpointer-arith \
        -Wmissing-prototypes -Wold-style-definition -Wjump-misses-init -Wcast-align=strict -Wstringop-overflow=4 \
        -Warray-bounds=2 -Wunused-macros -Wtrampolines -Wdouble-promotion -Wshift-overflow=2 -Warith-conversion \
        -Wstrict-overflow=2 -Wc++-compat -Wdate-time -I. -c "$dir/implemented.c" -o "$dir/implemented.o"
}

# Everything but: padding, C99's declarations, fall-through that comments say, enum switches with a default, exact
# comparisons of doubles, and "may be uninitialized" (outputs that are set wherever the result is AZO_OK).
step_clang_warnings() {
    needs clang || return 0
    check 'clang -Weverything' report clang clang -std=c99 -fsyntax-only $root \
        -Weverything -Wno-padded -Wno-declaration-after-statement -Wno-implicit-fallthrough -Wno-switch-enum \
        -Wno-switch-default -Wno-float-equal -Wno-conditional-uninitialized -Wno-unsafe-buffer-usage \
        -Wno-unknown-warning-option -I. "$dir/implemented.c"
}

# ---- analysers

step_tidy() {
    needs clang-tidy || return 0
    check 'clang-tidy, the header' report tidy clang-tidy --quiet azopenai.h -- -x c -std=c99 $root -I. \
        -DAZOPENAI_IMPLEMENTATION
    check 'clang-tidy, the examples' report tidy clang-tidy --quiet --header-filter=none $examples -- -std=c99 \
        $root -I.
}

# Without the checks that tests have good reasons to break: numbers as pointers, texts in pieces, memory compared with
# memory, hooks that leave an argument alone, bytes that are wrong on purpose, system().
step_tests_tidy() {
    needs clang-tidy || return 0
    for one in performance-no-int-to-ptr bugprone-suspicious-missing-comma bugprone-suspicious-memory-comparison \
        cert-env33-c cert-exp42-c cert-flp37-c bugprone-branch-clone bugprone-suspicious-memset-usage \
        bugprone-not-null-terminated-result misc-misleading-bidirectional readability-non-const-parameter \
        readability-inconsistent-declaration-parameter-name; do
        without=${without:-}${without:+,}-$one
    done
    check 'clang-tidy, the tests' each tidy "$(echo tests/*.c)" run_tidy_test "$without"
}
run_tidy_test() { clang-tidy --quiet --header-filter=none "--checks=$1" "$2" -- -std=c99 $root -I. -Itests; }

# One configuration: the others differ in what they leave out.
run_cppcheck() {
    report cppcheck cppcheck --quiet --enable=warning,performance,portability --inconclusive --std=c99 \
        --library=posix -I. -Itests --max-configs=1 -D_POSIX_C_SOURCE=200809L -D__GNUC__=12 -DCLOCK_MONOTONIC=1 \
        -DAI_ADDRCONFIG=1 --template='{file}:{line}:{column}: {severity}: {message} [{id}]' "$@"
}
step_cppcheck() { needs cppcheck && check 'cppcheck, the header' run_cppcheck "$dir/implemented.c"; }
step_tests_cppcheck() { needs cppcheck && check 'cppcheck, examples and tests' run_cppcheck $examples tests/*.c; }

step_gcc_analyzer() {
    needs gcc || return 0
    gcc --help=common 2>/dev/null | grep -q -e -fanalyzer ||
        { echo '# skip gcc_analyzer: this gcc has none'; return 0; }
    check 'gcc -fanalyzer' report gcc gcc -std=c99 -O2 $root -fanalyzer -I. -c "$dir/implemented.c" \
        -o "$dir/implemented.o"
}

# On a copy that is told what clang's analyser cannot know; see facts.sed.
run_clang_analyzer() {
    mkdir -p "$dir/told"
    sed -f $here/facts.sed azopenai.h >"$dir/told/azopenai.h"
    report clang clang --analyze --analyzer-output text -x c -std=c99 $root -DAZOPENAI_IMPLEMENTATION \
        "$dir/told/azopenai.h" -o /dev/null
}
examples_clang_analyzer() {
    each clang "$examples" clang --analyze --analyzer-output text -std=c99 $root "-I$dir/told" -I. -o /dev/null
}
step_clang_analyzer() {
    needs clang || return 0
    check 'clang --analyze, the header' run_clang_analyzer
    check 'clang --analyze, the examples' examples_clang_analyzer
}

# ---- Frama-C

# run_eva NAME SLEVEL LENGTH: one driver; fails if there is an alarm, or no complete analysis. In a directory of its
# own, since the cut azopenai.h must be found before the whole one.
run_eva() {
    jsmn=$(printf '#include <jsmn.h>\n' | ${CC:-cc} -E -x c - 2>/dev/null | sed -n 's/^# 1 "\(.*jsmn\.h\)".*/\1/p' |
        head -n 1)
    rm -rf "$dir/eva"
    mkdir -p "$dir/eva"
    cp "$jsmn" $here/eva.h "$here/eva_$1.c" "$dir/eva" || return 1
    { sed -f $here/eva.sed azopenai.h; echo '#endif'; } >"$dir/eva/azopenai.h"
    sed -f $here/eva_pem.sed azopenai.h >"$dir/eva/pem.h"
    splits=azoi_utf8:0:1:2:3:4,azoi_find:full,azoi_kind_end:full,azoi_run:full,azoi_value_run:full,eva_memchr:full
    for part in ahead digits number units string key scalar value; do
        splits=$splits,azoi_json_scan_$part:full
    done
    (cd "$dir/eva" && frama-c -machdep gcc_x86_64 \
        -cpp-extra-args="-I. -DAZO_JSMN_HEADER='\"jsmn.h\"' -DEVA_LEN=$3" \
        "eva_$1.c" "$(frama-c -print-share-path)/libc/string.c" \
        -eva -eva-no-print -eva-no-show-progress -eva-no-alloc-returns-null -eva-msg-key=-final-states,-initial-state \
        -eva-slevel "$2" -eva-auto-loop-unroll 20 -eva-unroll-recursive-calls 5 -eva-split-return auto \
        -eva-split-return-function "$splits" -eva-split-limit 200 \
        -eva-partition-value eva_at,eva_left,eva_found,eva_in) >"$dir/eva_$1.log" 2>&1
    grep -A 1 -E 'eva:alarm|User Error|Unexpected error' "$dir/eva_$1.log" && return 1
    grep -q 'ANALYSIS SUMMARY' "$dir/eva_$1.log" || { tail -n 5 "$dir/eva_$1.log"; return 1; }
}

# Lines of a driver, how many states are kept apart in a loop, and how many bytes are unknown.
eva_drivers() {
    needs frama-c || return 0
    while read -r name slevel len; do
        check "Frama-C: eva_$name, up to $len unknown bytes" run_eva "$name" "$slevel" "$len"
    done
}
step_eva() {
    eva_drivers <<END
json 1000 5
text 2000 4
url 300 4
head 100 1
body 50 2
sse 100 2
pem 300 2
END
}
step_eva_long() {
    eva_drivers <<END
json 4000 7
text 2000 6
url 300 6
body 50 4
pem 300 6
END
}

# ---- stack

# What is deepest is in the log.
large_frames=2048
run_stack() {
    (cd "$dir" && gcc -std=c99 -O2 $root -fstack-usage -fcallgraph-info=su -I"$top" -c implemented.c -o stack.o) ||
        return 1
    awk -v max=$large_frames -v known=$here/known.txt -f $here/stack.awk "$dir/stack.ci" >"$dir/stack.log"
    status=$?
    tail -n 1 "$dir/stack.log"
    return $status
}
step_stack() {
    needs gcc || return 0
    check "no frame is larger than $large_frames bytes" run_stack
    sort -k1,1 -k2,2nr "$dir/stack.log" | awk '$1 == "chain" { print "# deepest: " $0; exit }'
}

# ---- sanitizers that make asan does not have

integer_flags='-fsanitize=integer,implicit-conversion,nullability,float-divide-by-zero -fno-sanitize-recover=all'
run_integer() {
    clang -std=c99 -w -g $integer_flags -fsanitize-ignorelist=$here/integer.ignorelist $root -I. -Itests \
        "tests/$1.c" -o "$dir/$1" -lcmocka $libs && "$dir/$1"
}
step_integer() {
    needs clang || return 0
    for one in tests/unit_*.c; do
        one=$(basename "$one" .c)
        check "$one without an integer that wraps or changes" run_integer "$one"
    done
}

run_threads() {
    clang -std=c99 -D_POSIX_C_SOURCE=200809L -O1 -g -fsanitize=thread $root -I. -Itests $here/threads.c \
        tests/fake_service.c -o "$dir/threads" $libs && TSAN_OPTIONS=exitcode=66 "$dir/threads" "$certs"
}
step_threads() {
    needs clang || return 0
    [ -e "$certs/server.pem" ] || { echo '# skip threads: no certificates'; return 0; }
    check 'clients in eight threads, under ThreadSanitizer' run_threads
}

step_msan() { AZO_TEST_BUILD=$dir $here/msan.sh || failed=1; }

mkdir -p "$dir"
top=$(pwd)
printf '#define AZOPENAI_IMPLEMENTATION\n#include "azopenai.h"\n' >"$dir/implemented.c"
case "${1:-quick}" in
quick) steps=$quick ;;
all) steps="$quick $long" ;;
*) steps=$* ;;
esac
for step in $steps; do
    began=$(date +%s)
    "step_$step"
    echo "# $step: $(($(date +%s) - began)) s"
done
exit $failed
