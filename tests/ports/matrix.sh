#!/bin/sh
# matrix.sh [short] - what `make matrix` runs: the header under every compiler, standard, mbedTLS and switch, in every
# way it can be included, without one warning. Prints "ok - name" or "not ok - name" for each, and fails if any failed.
#
# In full it brings mbedTLS 2.28 and 3.6 and cross compilers from Debian, and links and runs too. `short` takes what is
# installed, or MBEDTLS_ROOT, and the oldest and the newest standard: that is part of `make test`.
#
# Every object that comes out must export azo_ names only, or none under AZO_STATIC.
set -u

# ---- One cell, called back through xargs: cell NAME COMPILER STANDARD SOURCE [FLAG...]

# exports OBJECT PATTERN: the names for the linker that match. Functions of the sources below are called user_.
exports() { nm -g --defined-only "$1" 2>/dev/null | awk 'NF == 3 { print $3 }' | grep -E "$2"; }

# What compilers add, and the functions of the sources here.
compilers_own='^(user_|_Z[0-9]+user_|__gnu_lto_|DW\.ref\.|__clang_call_terminate$|__x86\.get_pc_thunk)'

# judge OBJECT SOURCE: what is wrong with an object, or nothing.
judge() {
    case $2 in
    static*) foreign='^' ;;
    *) foreign='^([^a]|a[^z]|az[^o]|azo[^_])' ;;
    esac
    found=$(exports "$1" "$foreign" | grep -v -E "$compilers_own" | head -n 5 | tr '\n' ' ')
    [ -z "$found" ] || echo "exports $found"
}

# refused LOG: the first error is the header's own, which says what to do.
refused() { grep 'error:' "$1" | head -n 1 | grep -q 'error "\{0,1\}azopenai.h: \|error: "\{0,1\}azopenai.h: '; }

if [ "${1:-}" = cell ]; then
    name=$2 compiler=$3 standard=$4 source=$5
    shift 5
    warnings='-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-qual -Wundef -Werror'
    case $standard in
    *++*) language='-x c++' ;;
    *) language='-x c -Wstrict-prototypes' ;;
    esac
    # The example there is C, and says `= {0}`; the header may not.
    [ "$source$language" != 'unity-x c++' ] || language="$language -Wno-missing-field-initializers"
    [ "$compiler" != tcc ] || language='' warnings='-Wall -Werror' # it knows no others
    object=$MATRIX/objects/$(printf '%s' "$name" | tr -c 'A-Za-z0-9_+.-' '_').o
    if $compiler $warnings $language -std="$standard" -I. -I"$MATRIX" "$@" -c "$MATRIX/$source.c" -o "$object" \
        >"$object.log" 2>&1; then
        problem=$(judge "$object" "$source")
        [ "$source" != libc_first ] || problem='compiles, though libc hides what it needs'
    elif [ "$source" = libc_first ] && refused "$object.log"; then
        problem=
    else
        problem='does not compile'
    fi
    # In one write, so that the lines of two do not mix.
    if [ -z "$problem" ]; then
        echo "ok - $name"
    else
        printf 'not ok - %s: %s\n%s\n' "$name" "$problem" "$(head -n 20 "$object.log" | sed 's/^/# /')"
    fi
    rm -f "$object" "$object.log"
    exit 0
fi

. tests/ports/common.sh
began=$(date +%s)
short=${1:-}
MATRIX=$ports/matrix${short:+-$short}
export MATRIX
rm -rf "$MATRIX"
mkdir -p "$MATRIX/objects"

# ---- The ways to include it

# way NAME [LINE...]: a source file of these lines. `@` stands for the implementation.
way() {
    file=$MATRIX/$1.c
    shift
    for line in "$@"; do
        case $line in
        @) printf '#define AZOPENAI_IMPLEMENTATION\n#include "azopenai.h"\n' ;;
        *) printf '%s\n' "$line" ;;
        esac
    done >"$file"
}
posix='#define _POSIX_C_SOURCE 200809L'
header='#include "azopenai.h"'
user='int user_version(void);
int user_version(void) { return AZO_VERSION_MAJOR; }'
user_jsmn='int user_tokens(void);
int user_tokens(void) {
    jsmn_parser parser;
    jsmntok_t tokens[4];
    jsmn_init(&parser);
    return jsmn_parse(&parser, "[1]", 3, tokens, 4);
}'
# What embedded projects, windows.h and old Unix define for themselves.
user_macros='#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) min(a, b)
#define MAX(a, b) max(a, b)
#define ARRAY_SIZE(a) (sizeof(a) / sizeof *(a))
#define COUNT(a) ARRAY_SIZE(a)
#define BIT(n) (1u << (n))
#define container_of(pointer, type, member) ((type *)(pointer))
#define likely(x) (x)
#define unlikely(x) (x)
#define UNUSED(x) ((void)(x))
#define ASSERT(x) ((void)(x))
#define LOG(x) printf x
#define swap(a, b) ((void)0)
#define IN
#define OUT
#define OPTIONAL
#define CONST const
#define near
#define far
#define small char
#define interface struct
#define TRUE 1
#define FALSE 0
#define OK 0
#define ERROR 1
#define FAIL 2
#define PASS 3
#define NONE 0
#define DEBUG 1
#define INFO 2
#define WARN 3
#define STATE 1
#define IDLE 1
#define READ 1
#define WRITE 2
#define SEND 3
#define CLOSED 4
#define TIMEOUT 1000
#define BUFFER_SIZE 128
#define UNIX 1'

way declared "$header" "$user"
way implemented @
way twice @ "$header"
way declared_first "$header" @
way static '#define AZO_STATIC' @ "$user"
way after_libc "$posix" '#include <stdio.h>' '#include <string.h>' '#include <stdlib.h>' @
way after_libc_gnu '#ifndef _GNU_SOURCE' '#define _GNU_SOURCE' '#endif' '#include <stdio.h>' @
way libc_first '#include <stdio.h>' @
way extern_c '#ifdef __cplusplus' 'extern "C" {' '#endif' "$header" '#ifdef __cplusplus' '}' '#endif' "$user"
way extern_c_whole '#ifdef __cplusplus' 'extern "C" {' '#endif' @ '#ifdef __cplusplus' '}' '#endif'
way user_macros "$posix" '#include <stdbool.h>' '#include <stdio.h>' '#include <stdlib.h>' '#include <string.h>' \
    "$user_macros" @
way jsmn_before "$posix" '#define JSMN_STATIC' '#include <jsmn.h>' @ "$user_jsmn"
way jsmn_after @ '#define JSMN_STATIC' '#define JSMN_PARENT_LINKS' '#include <jsmn.h>' "$user_jsmn"
way jsmn_vendored '#define AZO_JSMN_HEADER "vendored_jsmn.h"' @
way unity '#define main user_main' '#include "examples/chat.c"' @
ways='declared implemented twice declared_first static after_libc after_libc_gnu extern_c extern_c_whole user_macros
    jsmn_before jsmn_after jsmn_vendored unity'

# ---- The axes

every_switch=$(printf ' -D%s' $switches)

# works COMPILER: it is there and compiles something.
works() {
    printf 'int x;\n' >"$MATRIX/works.c"
    [ "$1" = tcc ] && { tcc -c "$MATRIX/works.c" -o "$MATRIX/works.o" 2>/dev/null; return; }
    language=c
    case $1 in *++) language=c++ ;; esac
    "$1" -x $language -c "$MATRIX/works.c" -o "$MATRIX/works.o" 2>/dev/null
}

standards_of() {
    case $1$short in
    *++short) echo 'c++11 c++20' ;;
    *++) echo 'c++11 c++17 c++20' ;;
    tcc* | *-gcc*) echo c99 ;;
    *short) echo 'c99 c2x' ;;
    *) echo 'c99 c11 c17 c2x gnu99' ;;
    esac
}

# line NAME COMPILER STANDARD SOURCE [FLAG...]: one cell, for xargs. The compiler sees mbedTLS through $includes.
line() {
    printf '"%s" %s %s %s' "$1${label:+, $label}" "$2" "$3" "$4"
    [ "$2" != tcc ] || set -- "$@" "$minimal_config" -Itests/ports # Debian's is for gcc and clang only
    shift 4
    for flag in "$@" $includes; do printf ' "%s"' "$flag"; done
    printf '\n'
}

# switch_cells COMPILER STANDARD: with each switch alone, and beside another. The short form takes the first of the
# compilers; those for other machines see nothing new in a pair.
switch_cells() {
    case $short$1 in short*cl* | shorttcc) return 0 ;; esac
    before=
    optimise= # as for a small program: what is left is inlined elsewhere, and gcc warns of other things
    [ "$short$1" != gcc ] || optimise=-Os
    for switch in $switches; do
        line "$1 $2, $switch" "$1" "$2" implemented "-D$switch" $optimise
        case $short$before/$1 in
        AZO*/gcc | AZO*/clang | AZO*/*++)
            line "$1 $2, $before and $switch" "$1" "$2" static "-D$before" "-D$switch" ;;
        esac
        before=$switch
    done
}

# The oldest standard is included in every way and with every switch; the others in the usual ways.
cells() {
    head="$1 $2"
    case $2 in
    c99 | c++11) these=$ways ;;
    *) these='declared implemented static' ;;
    esac
    for one in $these; do
        optimise= # Some warnings come from the optimiser only; once is enough for those.
        [ "$one$these" != "implemented$ways" ] || optimise=-O2
        line "$head, $one" "$1" "$2" "$one" $optimise
    done
    line "$head, static, every AZO_NO_x" "$1" "$2" static $every_switch
    [ "$these$1" != "${ways}gcc" ] || line "$head, static, every AZO_NO_x, -Os" "$1" "$2" static $every_switch -Os
    [ "$these" = "$ways" ] || return 0
    switch_cells "$1" "$2"
    # What strict ISO C hides is hidden by glibc, and in C only.
    [ "$2" != c99 ] || [ "$1" = tcc ] || [ "$1" = musl-gcc ] || line "$head, libc first" "$1" "$2" libc_first
}

flag_count=99
[ -z "$short" ] || flag_count=2
# flag_cells COMPILER STANDARD: fewer in the short form, for they cost the most.
flag_cells() {
    printf '%s\n' '-Os' '-O1 -funsigned-char' '-O1 -fvisibility=hidden' '-O1 -fshort-enums' '-O3 -flto' \
        '-O2 -D_FORTIFY_SOURCE=2 -fstack-protector-strong' '-O2 -DNDEBUG -fno-strict-aliasing -fwrapv' |
        head -n "$flag_count" |
        while read -r flags; do line "$1 $2, $flags" "$1" "$2" implemented $flags; done
}

# one_mbedtls: cells of all compilers with the mbedTLS of $includes.
one_mbedtls() {
    for compiler in $compilers; do
        for standard in $(standards_of "$compiler"); do cells "$compiler" "$standard"; done
        case $compiler in
        gcc | clang) flag_cells "$compiler" c99 ;;
        g++ | clang++) [ -n "$short" ] || flag_cells "$compiler" c++17 ;;
        esac
    done
}

# ---- What is linked and run, in full only: library NAME COMPILER STANDARD FLAGS

check() {
    name=$1${label:+, $label}
    shift
    if "$@" >"$MATRIX/output" 2>&1; then
        echo "ok - $name"
    else
        printf 'not ok - %s\n%s\n' "$name" "$(head -n 20 "$MATRIX/output" | sed 's/^/# /')"
    fi
}

# two_units COMPILER FLAG...: two files with the library's declarations and one with the library, then two static ones.
two_units() {
    compiler=$1
    shift
    $compiler -std=c99 -I. $includes "$@" "$MATRIX/first.c" "$MATRIX/second.c" "$MATRIX/implemented.c" \
        -o "$MATRIX/two" $libraries && "$MATRIX/two" &&
        $compiler -std=c99 -I. $includes "$@" -DAZO_STATIC -DAZOPENAI_IMPLEMENTATION "$MATRIX/first.c" \
            "$MATRIX/second.c" -o "$MATRIX/two" $libraries && "$MATRIX/two"
}
way first "$header" 'int user_first(void);' 'int user_first(void) { return azo_version()[0]; }'
way second "$header" 'int user_first(void);' 'int main(void) { return azo_version()[0] != user_first(); }'

# clean COMPILER [FLAG...]: what is defined after the header and not before is called AZO_ or AZOPENAI_.
macros() { "$@" -std=c99 -I. $includes -dM -E | sed -n 's/^#define \([A-Za-z0-9_]*\).*/\1/p' | sort -u; }
clean() {
    { echo "$posix"; sed -n '/^# *include </p' azopenai.h | grep -v jsmn; } >"$MATRIX/includes.c"
    macros "$1" "$MATRIX/includes.c" >"$MATRIX/macros_before"
    for switch in $switches NOTHING; do
        macros "$1" "-D$switch" "$MATRIX/implemented.c" | comm -13 "$MATRIX/macros_before" - |
            grep -v -E '^(AZO_|AZOPENAI_|NOTHING$)' && return 1
    done
    return 0
}

# tests_with NAME FLAGS TEST...: the tests of the library's inside, compiled so.
tests_with() {
    out=$MATRIX/$1 flags=$2
    shift 2
    programs=$(printf "$out/tests/%s " "$@")
    quietly make --no-print-directory -s -j"$jobs" BUILD="$out" CFLAGS="$flags" $programs &&
        AZO_TEST_CERTS=$certs AZO_TEST_BUILD=$out TEST='' tests/run.sh $programs
}

# ---- Putting it together

run_cells() { xargs -L 1 -P "$jobs" "$0" cell <"$MATRIX/cells" | tee -a "$MATRIX/results"; }

find_compilers() {
    compilers=
    for compiler in gcc clang g++ clang++ tcc; do
        if works "$compiler"; then compilers="$compilers $compiler"; else echo "# skip: no $compiler"; fi
    done
}

run_short() {
    label=
    find_compilers
    includes=${MBEDTLS_ROOT:+-isystem $MBEDTLS_ROOT/usr/include}
    jsmn=$(printf '#include <jsmn.h>\n' | gcc -E $includes - | sed -n 's/^# 1 "\(.*jsmn.h\)".*/\1/p' | head -n 1)
    cp "$jsmn" "$MATRIX/vendored_jsmn.h" 2>/dev/null
    version=228
    printf '#include <mbedtls/build_info.h>\n' | gcc -E $includes - >/dev/null 2>&1 && version=36
    minimal_config="-DMBEDTLS_CONFIG_FILE=<mbedtls_minimal_$version.h>"
    one_mbedtls >"$MATRIX/cells"
    run_cells
}

run_full() {
    need gcc libc6-dev make openssl g++ clang tcc musl-tools musl-dev libcmocka-dev libmbedtls-dev libjsmn-dev \
        gcc-i686-linux-gnu gcc-arm-linux-gnueabihf gcc-aarch64-linux-gnu gcc-s390x-linux-gnu \
        libc6-dev-i386-cross libc6-dev-armhf-cross libc6-dev-arm64-cross libc6-dev-s390x-cross || exit 1
    architecture=$(dpkg --print-architecture)
    fetch_jsmn && fetch_binary bookworm "$architecture" "$ports/libmbedtls-2.28" libmbedtls-dev &&
        fetch_binary trixie "$architecture" "$ports/libmbedtls-3.6" libmbedtls-dev || exit 1
    cp "$ports/jsmn/usr/include/jsmn.h" "$MATRIX/vendored_jsmn.h"
    find_compilers
    native=$compilers
    cross='i686-linux-gnu-gcc arm-linux-gnueabihf-gcc aarch64-linux-gnu-gcc s390x-linux-gnu-gcc'
    for label in 'mbedTLS 2.28' 'mbedTLS 3.6'; do
        version=${label#mbedTLS }
        root=$ports/libmbedtls-$version/usr
        includes="-isystem $root/include -isystem $ports/jsmn/usr/include"
        minimal_config="-DMBEDTLS_CONFIG_FILE=<mbedtls_minimal_$(echo "$version" | tr -d .).h>"
        compilers="$native musl-gcc $cross"
        one_mbedtls
        for compiler in gcc clang musl-gcc; do
            line "$compiler c99, minimal configuration" "$compiler" c99 implemented -Os -Itests/ports "$minimal_config"
        done
    done >"$MATRIX/cells"
    run_cells
    for label in 'mbedTLS 2.28' 'mbedTLS 3.6'; do
        root=$ports/libmbedtls-${label#mbedTLS }/usr
        includes="-isystem $root/include -isystem $ports/jsmn/usr/include"
        libraries="-L$(dirname "$(ls "$root"/lib/*/libmbedtls.a)") -l:libmbedtls.a -l:libmbedx509.a -l:libmbedcrypto.a"
        for compiler in gcc clang; do
            check "$compiler, two units" two_units "$compiler"
            check "$compiler, leaves no macro" clean "$compiler"
        done
        check 'gcc, two units, -O3 -flto' two_units gcc -O3 -flto
        check 'gcc, two units, -fvisibility=hidden' two_units gcc -fvisibility=hidden
    done >"$MATRIX/linked"
    label=
    tests=$(for one in tests/unit_*.c; do basename "$one" .c; done)
    unset MBEDTLS_ROOT
    quietly tests/make_certs.sh "$certs"
    {
        check 'tests with -O2 -funsigned-char' tests_with unsigned '-O2 -funsigned-char' $tests
        check 'tests with -O3 -flto' tests_with lto '-O3 -flto' $tests
        check 'tests with -Os' tests_with small '-Os' $tests
        # mbedTLS was compiled with other enumerations, so only what does without it.
        check 'tests with -fshort-enums' tests_with enums '-O1 -fshort-enums' unit_text unit_json unit_http unit_sse
    } >>"$MATRIX/linked"
    tee -a "$MATRIX/results" <"$MATRIX/linked"
}

: >"$MATRIX/results"
if [ -n "$short" ]; then run_short; else run_full; fi
# Every cell must have spoken.
spoken=$(grep -c -E '^(not )?ok - ' "$MATRIX/results")
wanted=$(($(wc -l <"$MATRIX/cells") + $(cat "$MATRIX/linked" 2>/dev/null | grep -c -E '^(not )?ok - ')))
bad=$(grep -c '^not ok - ' "$MATRIX/results")
echo "# $spoken of $wanted configurations, $bad bad, $(($(date +%s) - began)) s"
[ "$spoken" -eq "$wanted" ] && [ "$bad" -eq 0 ]
