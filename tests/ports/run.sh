#!/bin/sh
# run.sh [TARGET...] - what `make run-matrix` runs: the tests on other machines and another libc.
# Targets: i386 armhf arm64 s390x (with Debian's cross compilers, mbedTLS of that architecture, and qemu-user) and musl
# (on this machine). Programs are static, so they run by themselves where the kernel can, as i386 on x86-64.
# Without one, all of them. Prints a line per target and fails if any test failed.
#
# TEST: names, for a few programs only. CFLAGS: -O1 -g if not set. AZO_TEST_BUILD: as everywhere; work goes to ports/
# in it, and nothing but compilers and qemu is installed. AZO_TEST_STRIDE=n: the torture tests take every n-th place;
# where it is not set, all of them if the programs run by themselves, and every 50th under qemu.
set -eu
. tests/ports/common.sh

# target NAME: sets triplet, compiler, emulator and what has to be installed. Its libc comes with the compiler.
target() {
    case $1 in
    i386) triplet=i386-linux-gnu compiler=i686-linux-gnu qemu=qemu-i386 ;;
    armhf) triplet=arm-linux-gnueabihf compiler=$triplet qemu=qemu-arm ;;
    arm64) triplet=aarch64-linux-gnu compiler=$triplet qemu=qemu-aarch64 ;;
    s390x) triplet=s390x-linux-gnu compiler=$triplet qemu=qemu-s390x ;;
    musl) ;;
    *) die "no target $1" ;;
    esac
    if [ "$1" = musl ]; then
        packages='musl-tools musl-dev' cc=musl-gcc qemu=
    else
        packages="gcc-$compiler libc6-dev-$1-cross qemu-user" cc=$compiler-gcc
    fi
}

# cmocka DIR: its one file as DIR/libcmocka.a; Debian has no static one, and none for musl.
cmocka() {
    fetch_source "$suite" "$ports/cmocka" cmocka &&
        quietly "$cc" -O1 -g -w -I"$ports/cmocka/include" -DHAVE_MALLOC_H -DHAVE_INTTYPES_H -DHAVE_SIGNAL_H \
            -DHAVE_STRINGS_H -DHAVE_STRSIGNAL -DHAVE_STRUCT_TIMESPEC -DHAVE_CLOCK_REALTIME -DHAVE_SIGLONGJMP \
            -DHAVE_GCC_THREAD_LOCAL_STORAGE -c "$ports/cmocka/src/cmocka.c" -o "$1/cmocka.o" &&
        ar rc "$1/libcmocka.a" "$1/cmocka.o"
}

# libraries TARGET ROOT: mbedTLS, jsmn and cmocka under ROOT/usr. The service in the tests has threads, as Debian's
# mbedTLS knows; that for musl must be told.
libraries() {
    if [ "$1" = musl ]; then
        fetch_jsmn && mbedtls_source 2.28 &&
            mbedtls_library "$ports/mbedtls-2.28" "$2/usr" "$cc" '-O1 -g' THREADING_C THREADING_PTHREAD || return 1
        cp "$ports/jsmn/usr/include/jsmn.h" "$2/usr/include/"
        libdir=$2/usr/lib
    else
        fetch_binary "$suite" "$1" "$2" libmbedtls-dev libjsmn-dev || return 1
        libdir=$2/usr/lib/$triplet
    fi
    cmocka "$libdir" && cp "$ports/cmocka/include/cmocka.h" "$2/usr/include/"
}

# wrapper DIR: prints the emulator, if this machine cannot do without. Where the kernel has been told of it, programs
# only seem to run by themselves.
wrapper() {
    printf 'int main(void) { return 0; }\n' >"$1/probe.c"
    quietly "$cc" -static "$1/probe.c" -o "$1/probe" || return 1
    [ ! -e "/proc/sys/fs/binfmt_misc/${qemu:-none}" ] && "$1/probe" 2>/dev/null || echo "$qemu"
}

# run_target NAME: ends with the line of tests/run.sh. A program that does not build is missing there, and so failed.
run_target() {
    target "$1"
    out=$ports/$1
    mkdir -p "$out/root"
    need $packages && libraries "$1" "$out/root" || return 1
    programs=
    for program in ${TEST:-$tests}; do programs="$programs $out/tests/$program"; done
    rm -f $programs
    make --no-print-directory -s -k -j"$jobs" BUILD="$out" CC="$cc" CFLAGS="${CFLAGS:--O1 -g}" \
        MBEDTLS_ROOT="$out/root" LDFLAGS="-static -L$libdir" $programs >"$out/build.log" 2>&1 ||
        grep -E 'error:|undefined|\*\*\*' "$out/build.log" | head -n 20
    emulator=$(wrapper "$out")
    stride=${AZO_TEST_STRIDE:-${emulator:+50}}
    echo "# $1${emulator:+ under $emulator}, AZO_TEST_STRIDE=${stride:-1}"
    AZO_TEST_CERTS=$certs AZO_TEST_BUILD=$out AZO_TEST_WRAP=$emulator AZO_TEST_STRIDE=${stride:-1} TEST='' \
        tests/run.sh $programs
}

tests=$(for one in tests/unit_*.c tests/test_*.c tests/torture_*.c; do
    [ -e "$one" ] && basename "$one" .c
done)
unset MBEDTLS_ROOT
need gcc libc6-dev make openssl
quietly tests/make_certs.sh "$certs"
[ $# -gt 0 ] || set -- i386 armhf arm64 s390x musl
failed=
for name in "$@"; do
    began=$(date +%s)
    run_target "$name" | tee "$ports/$name.log"
    result=$(tail -n 1 "$ports/$name.log")
    echo "$name: $result, $(($(date +%s) - began)) s"
    case $result in
    *' passed, 0 failed') ;;
    *) failed="$failed $name" ;;
    esac
done
[ -z "$failed" ] || die "failed on$failed"
