#!/bin/sh
# fixed.sh [VERSION...] - what `make fixed` runs: keyless streams in two buffers, azo_pool's and that of mbedTLS's own
# allocator, over TLS with the service of the tests, for mbedTLS 2.28 and 3.6 if not said.
#
# 2,000 calls each way in 80 and 128 KB, with new connections and tokens in between; every size of each buffer from none
# to enough; memory that was taken and is given back. Prints the table of the README.
set -eu
. tests/ports/common.sh
. tests/fake.sh

calls=2000
dir=$ports/fixed
mkdir -p "$dir"
failed=0
ok() { echo "ok - $1"; }
not_ok() { echo "not ok - $1"; sed 's/^/# /' "$dir/output"; failed=1; }

buffers='-DMBEDTLS_PLATFORM_MEMORY -DMBEDTLS_MEMORY_BUFFER_ALLOC_C -DMBEDTLS_MEMORY_DEBUG'

# library VERSION KIND: sets prefix and flags. KIND is default, minimal, or short: minimal with 4 KB records going out.
library() {
    prefix=$dir/mbedtls-$1-$2
    flags=
    mbedtls_source "$1"
    if [ "$2" = default ]; then
        mbedtls_library "$ports/mbedtls-$1" "$prefix" gcc -O2 PLATFORM_MEMORY MEMORY_BUFFER_ALLOC_C MEMORY_DEBUG
        return
    fi
    config=mbedtls_minimal_$(echo "$1" | tr -d .).h
    more=$buffers
    [ "$2" = minimal ] || more="$buffers -DMBEDTLS_SSL_OUT_CONTENT_LEN=4096"
    mbedtls_library "$ports/mbedtls-$1" "$prefix" gcc "-Os -I$PWD/tests/ports $more \
        -DMBEDTLS_CONFIG_FILE='\"$config\"' -DMINIMAL_$(cksum <"tests/ports/$config" | cut -d ' ' -f 1)"
    flags="-Itests/ports $more -DMBEDTLS_CONFIG_FILE=\"$config\""
}

compile() {
    output=$1
    shift
    quietly gcc -std=c99 -Wall -Wextra -Werror -O2 $flags -I. -isystem "$prefix/include" "$@" -o "$output" \
        "$prefix/lib/libmbedtls.a" "$prefix/lib/libmbedx509.a" "$prefix/lib/libmbedcrypto.a"
}

# run NAME COMMAND...: what it prints is in $printed.
run() {
    name=$1
    shift
    if timeout 600 "$@" >"$dir/output" 2>&1; then ok "$name"; else not_ok "$name"; fi
    printed=$(cat "$dir/output")
}

# measured NAME VERSION KIND IDENTITY
measured() {
    program=$dir/fixed-$2-$3
    run "$1: $calls calls" "$program" "$calls"
    peaks=$printed
    run "$1: buffers of the library" "$program" ours
    run "$1: buffers of mbedTLS" "$program" theirs
    set -- "$1" "$2" "$3" "$4" $peaks "$printed"
    run "$1: memory that comes back" "$program" back
    [ $# -eq 8 ] || return 0
    echo "| $2, $3 | $4 | $5 | $6 | $7 | $8 |" >>"$dir/table"
}

trap stop_fake EXIT
trap 'exit 1' HUP INT TERM
no_settings
need gcc libc6-dev make openssl libmbedtls-dev libjsmn-dev
service || die 'no service to talk to'
printf '| mbedTLS | identity | library: client | one call | for ever | mbedTLS |\n|---|---|---:|---:|---:|---:|\n' \
    >"$dir/table"
[ $# -gt 0 ] || set -- 2.28 3.6
for version in "$@"; do
    for kind in default minimal short; do
        library $version $kind || die "mbedTLS $version was not built"
        compile "$dir/fixed-$version-$kind" tests/ports/fixed.c
        compile "$dir/example-$version-$kind" examples/fixed.c examples/azopenai.c
        run "$version $kind: examples/fixed" "$dir/example-$version-$kind" Hello. 20
        measured "$version $kind, secret" $version $kind 'client secret'
        (no_secret && measured "$version $kind, IMDS" $version $kind 'managed identity'; exit $failed) || failed=1
    done
done
cat "$dir/table"
exit $failed
