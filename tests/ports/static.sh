#!/bin/sh
# static.sh [VERSION...] - what `make static` runs: examples/chat as one file without libraries, by musl and mbedTLS
# (2.28 and 3.6 if not said) in the smallest configuration, as $AZO_TEST_BUILD/ports/chat-VERSION.
#
# Each is run against the service of the tests by its name, in a root directory that holds nothing but the program,
# /etc/hosts, the root certificates where Debian keeps them, and the random devices, of which 2.28 reads the one and
# 3.6 the other.
set -eu
. tests/ports/common.sh
. tests/fake.sh

failed=0
ok() { echo "ok - $1"; }
not_ok() { echo "not ok - $1"; failed=1; }

# is_static PROGRAM: no interpreter, no dynamic section, so nothing that a system would have to bring.
is_static() {
    headers=$(readelf -lW "$1")
    case $headers in *INTERP* | *DYNAMIC*) return 1 ;; esac
    readelf -d "$1" | grep -q 'no dynamic section'
}

# jail DIR PROGRAM: what there is in the world of the program.
jail() {
    rm -rf "$1"
    mkdir -p "$1/etc/ssl/certs" "$1/dev"
    cp "$2" "$1/chat"
    cp "$certs/ca.pem" "$1/etc/ssl/certs/ca-certificates.crt"
    echo '127.0.0.1 localhost' >"$1/etc/hosts"
    mknod "$1/dev/random" c 1 8
    mknod "$1/dev/urandom" c 1 9
}

# answers PROMPT CHAT...: the service echoes.
answers() {
    prompt=$1
    shift
    "$@" "$prompt" >"$ports/chat.out" 2>&1 && [ "$(cat "$ports/chat.out")" = "You said: $prompt" ] && return 0
    sed 's/^/# /' "$ports/chat.out"
    return 1
}

# runs CHAT...: with a secret, streamed, and with the identity of the machine.
runs() {
    answers 'Hello from one file!' "$@" && answers 'Hello, word by word!' "$@" --stream &&
        (no_secret && answers 'No secret.' "$@" --stream)
}

check_version() {
    program=$ports/chat-$1
    minimal "$1" || die "mbedTLS $1 was not built"
    quietly musl-gcc -std=c99 -Wall -Wextra -Werror $minimal_flags examples/chat.c examples/azopenai.c -o "$program" \
        $minimal_libs
    if is_static "$program"; then ok "chat with $1 is static"; else not_ok "chat with $1 is static"; fi
    if SSL_CERT_FILE=$certs/ca.pem runs "$program"; then
        ok "chat with $1 runs, roots from SSL_CERT_FILE"
    else
        not_ok "chat with $1 runs, roots from SSL_CERT_FILE"
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "# skip: only root can run it in a directory of its own"
    elif jail "$ports/jail-$1" "$program" && (unset SSL_CERT_FILE && runs chroot "$ports/jail-$1" /chat); then
        ok "chat with $1 runs where there is nothing else, roots found"
    else
        not_ok "chat with $1 runs where there is nothing else, roots found"
    fi
    printf '# chat with mbedTLS %s: %s bytes, %s\n' "$1" "$(wc -c <"$program")" "$program"
}

trap stop_fake EXIT
trap 'exit 1' HUP INT TERM
no_settings
need gcc libc6-dev make openssl binutils libmbedtls-dev libjsmn-dev
service || die 'no service to talk to'
[ $# -gt 0 ] || set -- 2.28 3.6
for version in "$@"; do check_version "$version"; done
exit $failed
