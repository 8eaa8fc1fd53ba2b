#!/bin/sh
# msan.sh [fetch|PROGRAM...]
# Test programs under MemorySanitizer, by default unit_* and test_*; torture_* take long and are named. It sees reads
# of uninitialised memory only in what was compiled with it, so mbedTLS is built with it too, from Debian's source
# package of this release, in $AZO_TEST_BUILD/msan/mbedtls; `fetch` does only that. Prints TAP.
#
# Prepared differently from Debian's own: no assembler and no AES instructions, which MemorySanitizer cannot see into.
# Threads are on as they are there, since the bundled service signs with one key in many threads. cmocka and libc stay
# as they are: what they write reaches the tests through functions that MemorySanitizer knows.
set -u

build=${AZO_TEST_BUILD:-build}
dir=$build/msan
certs=${AZO_TEST_CERTS:-build/certs}
flags='-fsanitize=memory -fno-omit-frame-pointer -O1 -g'
root=$(pwd)

# skip WHY: says so, and is no failure.
skip() {
    echo "# skip msan: $1"
    exit 0
}

# A private apt, so that neither root nor a deb-src line of the machine's own is needed.
get_source() {
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -r "$key" ] || return 1
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
        sed -n -e 's/^deb \(\[[^]]*\] *\)\{0,1\}\([^ ]*\) .*/\2/p' -e 's/^URIs: *\([^ ]*\).*/\1/p' |
        grep -v -i security | head -n 1)
    suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    [ -n "$mirror" ] && [ -n "$suite" ] || return 1
    apt=$root/$dir/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/state"
    printf 'deb-src [signed-by=%s] %s %s main\n' "$key" "$mirror" "$suite" >"$apt/sources.list"
    for step in update '--download-only source mbedtls'; do
        (cd "$dir" && apt-get -qq -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
            -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User=root $step) || return 1
    done
}

build_mbedtls() {
    lib=$dir/mbedtls/library
    [ -e "$lib/.complete" ] && return 0
    rm -rf "$dir/mbedtls"
    mkdir -p "$dir/mbedtls"
    ls "$dir"/mbedtls_*.orig.tar.* >/dev/null 2>&1 || get_source >&2 || return 1
    tar xf "$(ls "$dir"/mbedtls_*.orig.tar.* | head -n 1)" -C "$dir/mbedtls" --strip-components=1 || return 1
    config=$(ls "$dir"/mbedtls/include/mbedtls/mbedtls_config.h "$dir"/mbedtls/include/mbedtls/config.h 2>/dev/null)
    sed -i -e 's@^#define \(MBEDTLS_HAVE_ASM\|MBEDTLS_AESNI_C\|MBEDTLS_PADLOCK_C\)$@/* no \1 */@' \
        -e 's@^//#define \(MBEDTLS_THREADING_C\|MBEDTLS_THREADING_PTHREAD\)$@#define \1@' "$config" || return 1
    nice make -s -C "$lib" -j2 CC=clang CFLAGS="$flags" WARNING_CFLAGS= static >"$dir/mbedtls.log" 2>&1 || return 1
    touch "$lib/.complete"
}

compile() {
    clang -std=c99 $flags -w -isystem "$dir/mbedtls/include" -I. -Itests "$@"
}

# run PROGRAM: one test. cmocka's own lines are kept in the log.
run() {
    log=$dir/$1.log
    {
        compile "tests/$1.c" "$dir/fake_service.o" -o "$dir/$1" -lcmocka "$lib/libmbedtls.a" "$lib/libmbedx509.a" \
            "$lib/libmbedcrypto.a" -lpthread -lm &&
            AZO_TEST_CERTS=$certs AZO_TEST_BUILD=$dir "$dir/$1"
    } >"$log" 2>&1 </dev/null
    status=$?
    if [ $status -eq 0 ] && ! grep -q 'MemorySanitizer:' "$log"; then
        echo "ok - $1 under MemorySanitizer"
    else
        echo "not ok - $1 under MemorySanitizer (exit status $status)"
        grep -A 12 -E 'MemorySanitizer:|error:|FAILED|^not ok' "$log" | head -n 40 | sed 's/^/# /'
        failed=1
    fi
}

command -v clang >/dev/null 2>&1 || skip 'clang is not installed'
mkdir -p "$dir"
build_mbedtls || skip "no instrumented mbedTLS (see $dir/mbedtls.log; its source comes by apt-get)"
[ "${1:-}" = fetch ] && exit 0
failed=0
[ $# -gt 0 ] || set -- $(ls tests/unit_*.c tests/test_*.c | sed 's|^tests/||; s|\.c$||')
compile -c tests/fake_service.c -o "$dir/fake_service.o" || exit 1
for one in "$@"; do run "$one"; done
exit $failed
