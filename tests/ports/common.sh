# common.sh - sourced by the scripts of tests/ports: where things go, and how packages come here.
#
#     ports             the directory that everything is built in
#     need PACKAGE...   installs Debian packages that are missing
#     fetch_binary SUITE ARCH DIR PACKAGE...   unpacks packages of any suite and architecture under DIR
#     fetch_source SUITE DIR PACKAGE           unpacks the source of a package as DIR
#     switches          every AZO_NO_x of the header
#
# What is fetched comes through apt from the mirror that this system uses, with state of its own under $ports/apt, and
# is not installed: the system's packages stay as they are.

build=${AZO_TEST_BUILD:-build}
mkdir -p "$build/ports"
ports=$(cd "$build/ports" && pwd)
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}

say() { printf '# %s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# quietly COMMAND...: shows what it printed only if it fails.
quietly() {
    "$@" >"$ports/output.$$" 2>&1 && { rm -f "$ports/output.$$"; return 0; }
    echo "failed: $*" >&2
    tail -n 30 "$ports/output.$$" >&2
    rm -f "$ports/output.$$"
    return 1
}

need() {
    for one in "$@"; do
        shift
        dpkg-query -W -f '${db:Status-Abbrev}' "$one" 2>/dev/null | grep -q '^ii' || set -- "$@" "$one"
    done
    [ $# -eq 0 ] && return 0
    sudo=
    [ "$(id -u)" -eq 0 ] || sudo='sudo -n'
    say "installing $*"
    # The system's lists may be old or empty: ask for new ones only if these do not do.
    install="$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=600 \
        --no-install-recommends install"
    $install "$@" >/dev/null 2>&1 && return 0
    quietly $sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
    quietly $install "$@"
}

# What can be left out, as the head comment lists it: a new one is tried and measured without an edit here.
switches=$(sed -n '/^ \* OPTIONS/,/^ \* [A-Z][A-Z ]*$/p; /^#ifndef AZOPENAI_H/q' azopenai.h |
    grep -o 'AZO_NO_[A-Z0-9_]*' | sort -u)

# The certificates and the service of the tests, for programs here to talk to; fake.sh must be there.
certs=$ports/certs
service() {
    quietly tests/make_certs.sh "$certs" && quietly make --no-print-directory "$build/fake_service" BUILD="$build" &&
        AZO_TEST_CERTS=$certs start_fake "$@"
}
# Nothing but what the service prints may decide who a program is and where it goes.
no_settings() {
    for name in $(env | sed -n 's/^\(AZURE_[A-Z0-9_]*\)=.*/\1/p; s/^\(OPENAI_[A-Z0-9_]*\)=.*/\1/p'); do
        unset "$name"
    done
    unset HTTPS_PROXY https_proxy HTTP_PROXY http_proxy ALL_PROXY all_proxy NO_PROXY no_proxy SSL_CERT_FILE \
        IDENTITY_ENDPOINT MSI_ENDPOINT MBEDTLS_ROOT
}
# The identity of the machine remains.
no_secret() { unset AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET; }

# The suite of this system, for packages that have to go with its compilers.
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")

mirror() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
        sed -n -e 's/^deb \(\[[^]]*\] *\)\{0,1\}\([^ ]*\) .*/\2/p' -e 's/^URIs: *\([^ ]*\).*/\1/p' |
        grep '/debian/*$' | head -n 1
}

# apt_state SUITE ARCH: prepares a private apt, for private_apt. Its lists are fetched once.
apt_state() {
    state=$ports/apt/$1-$2
    architecture=$2
    [ -e "$state/ready" ] && return 0
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    from=$(mirror)
    [ -n "$from" ] && [ -r "$key" ] || { say 'this system has no Debian mirror'; return 1; }
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
    : >"$state/status"
    for kind in deb deb-src; do
        printf '%s [signed-by=%s] %s %s main\n' "$kind" "$key" "$from" "$1"
    done >"$state/sources.list"
    quietly private_apt update && : >"$state/ready"
}

private_apt() {
    apt-get -qq -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" \
        -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$state/lists" -o Dir::State::Status="$state/status" -o Dir::Cache="$state/cache" \
        -o APT::Sandbox::User=root "$@"
}

# once STAMP COMMAND...: does it unless it was done; a changed command is done again.
once() {
    stamp=$1
    shift
    [ "$(cat "$stamp" 2>/dev/null)" = "$*" ] && return 0
    rm -f "$stamp"
    "$@" && echo "$*" >"$stamp"
}

unpack_binary() {
    apt_state "$1" "$2" || return 1
    target=$3
    shift 3
    rm -rf "$target" "$target.debs"
    mkdir -p "$target" "$target.debs"
    (cd "$target.debs" && quietly private_apt download "$@") || return 1
    for package in "$target.debs"/*.deb; do dpkg-deb -x "$package" "$target" || return 1; done
    rm -rf "$target.debs"
}
fetch_binary() { once "$3.fetched" unpack_binary "$@"; }

unpack_source() {
    apt_state "$1" "$(dpkg --print-architecture)" || return 1
    need dpkg-dev
    target=$2
    rm -rf "$target" "$target.source"
    mkdir -p "$target.source"
    (cd "$target.source" && quietly private_apt source --download-only "$3" &&
        quietly dpkg-source --no-check -x ./*.dsc tree && mv tree "$target") ||
        return 1
    rm -rf "$target.source"
}
fetch_source() { once "$2.fetched" unpack_source "$@"; }

# The mbedTLS that goes with a Debian release: 2.28 with bookworm, 3.6 with trixie.
mbedtls_source() {
    case $1 in
    2.28) fetch_source bookworm "$ports/mbedtls-2.28" mbedtls ;;
    3.6) fetch_source trixie "$ports/mbedtls-3.6" mbedtls ;;
    *) die "no mbedTLS $1" ;;
    esac
}

fetch_jsmn() { fetch_binary "$suite" "$(dpkg --print-architecture)" "$ports/jsmn" libjsmn-dev; }

# mbedtls_library SOURCE PREFIX COMPILER FLAGS [FEATURE...]: headers and static libraries under PREFIX. FLAGS may name a
# configuration; each FEATURE, without MBEDTLS_, is switched on in the default one.
mbedtls_library() { once "$2.built" build_mbedtls "$@"; }

build_mbedtls() {
    work=$2.work prefix=$2 compiler=$3 flags=$4
    rm -rf "$work" "$prefix"
    mkdir -p "$work" "$prefix/lib"
    # Without its tests and programs. The generated files are in the package; newer than their generators they stay.
    (cd "$1" && cp -R include library 3rdparty scripts "$work/" && { [ ! -d framework ] || cp -R framework "$work/"; })
    touch "$work"/library/*.c "$work"/library/*.h
    shift 4
    for feature in "$@"; do
        sed -i "s|^//\(#define MBEDTLS_$feature\)\$|\1|" "$work"/include/mbedtls/*config.h
    done
    quietly make -C "$work/library" -j"$jobs" CC="$compiler" CFLAGS="$flags" \
        libmbedcrypto.a libmbedx509.a libmbedtls.a || return 1
    cp -R "$work/include" "$prefix/"
    cp "$work"/library/*.a "$prefix/lib/"
    rm -rf "$work"
}

# minimal VERSION: builds mbedTLS with musl and our smallest configuration, and sets what goes before and after the
# sources on the command line of a static program. Unwind tables serve exceptions and debuggers; without
# noseparate-code the file is filled up to whole pages.
small='-Os -ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables -fno-unwind-tables'
minimal() {
    need musl-tools musl-dev make
    config=mbedtls_minimal_$(echo "$1" | tr -d .).h
    prefix=$ports/minimal-$1
    mbedtls_source "$1" && fetch_jsmn || return 1
    # A changed configuration is another library.
    mbedtls_library "$ports/mbedtls-$1" "$prefix" musl-gcc \
        "$small -I$PWD/tests/ports -DMBEDTLS_CONFIG_FILE='\"$config\"' -DMINIMAL_$(cksum <"tests/ports/$config" |
            cut -d ' ' -f 1)" || return 1
    minimal_flags="$small -I. -Itests/ports -DMBEDTLS_CONFIG_FILE=\"$config\" -isystem $prefix/include \
        -isystem $ports/jsmn/usr/include"
    minimal_libs="-static -Wl,--gc-sections,-z,noseparate-code -s $prefix/lib/libmbedtls.a $prefix/lib/libmbedx509.a \
        $prefix/lib/libmbedcrypto.a"
}
