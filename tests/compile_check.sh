#!/bin/sh
# compile_check.sh
# Compiles the header under every compiler that is here, as C and as C++, in every way it can be included and with
# every switch, and expects not one warning. Prints "ok - name" or "not ok - name" for each, and fails if any failed.
#
# AZO_TEST_BUILD: where to work. MBEDTLS_ROOT: another mbedTLS than the system's. CC and CXX are not looked at.
set -u

build=${AZO_TEST_BUILD:-build}
dir=$build/compile
warnings='-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-qual -Wundef -Werror'

# compile NAME COMPILER STANDARD SOURCE [FLAG...]: one cell of the matrix, called through xargs.
if [ "${1:-}" = compile ]; then
    shift
    name=$1 compiler=$2 standard=$3 source=$4
    shift 4
    case $standard in
    c++*) language="-x c++ -Wno-missing-field-initializers" ;;
    *) language="-x c -Wstrict-prototypes" ;;
    esac
    # Some warnings come from the optimiser only; once per compiler and standard is enough for those.
    case $name in
    *', implemented') language="$language -O2" ;;
    esac
    object=$dir/$(echo "$name" | tr ' /,' '___').o
    if $compiler $language -std="$standard" $warnings ${MBEDTLS_ROOT:+-isystem "$MBEDTLS_ROOT/usr/include"} "$@" -I. \
        -c "$dir/$source" -o "$object" >"$object.log" 2>&1; then
        echo "ok - $name"
    else
        # In one write, so that the lines of two compilers do not mix.
        printf 'not ok - %s\n%s\n' "$name" "$(head -n 20 "$object.log" | sed 's/^/# /')"
    fi
    rm -f "$object"
    exit 0
fi

rm -rf "$dir"
mkdir -p "$dir"
cat >"$dir/declared" <<'END'
#include "azopenai.h"
int version_number(void);
int version_number(void) { return AZO_VERSION_MAJOR; }
END
cat >"$dir/implemented" <<'END'
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"
END
cat >"$dir/twice" <<'END'
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"
#include "azopenai.h"
END
cat >"$dir/declared_first" <<'END'
#include "azopenai.h"
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"
END
cat >"$dir/static" <<'END'
#define AZO_STATIC
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"
int version_is_there(void);
int version_is_there(void) { return azo_version()[0] != '\0'; }
END
cat >"$dir/after_libc" <<'END'
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#define AZOPENAI_IMPLEMENTATION
#include "azopenai.h"
END

# cells COMPILER STANDARD: one line of arguments per cell.
cells() {
    for way in declared implemented twice static; do
        printf '"%s %s, %s" %s %s %s\n' "$1" "$2" "$way" "$1" "$2" "$way"
    done
    printf '"%s %s, after libc headers" %s %s after_libc -D_POSIX_C_SOURCE=200809L\n' "$1" "$2" "$1" "$2"
    printf '"%s %s, declared first" %s %s declared_first\n' "$1" "$2" "$1" "$2"
    for switch in AZO_NO_SOCKETS AZO_NO_ENV AZO_NO_STDIO; do
        printf '"%s %s, %s" %s %s implemented -D%s\n' "$1" "$2" "$switch" "$1" "$2" "$switch"
    done
    printf '"%s %s, all AZO_NO_x" %s %s static -DAZO_NO_SOCKETS -DAZO_NO_ENV -DAZO_NO_STDIO' "$1" "$2" "$1" "$2"
    grep -q 'AZO_NO_CLOCK' azopenai.h && printf ' -DAZO_NO_CLOCK'
    printf '\n'
}

for compiler in gcc clang g++ clang++; do
    if ! command -v "$compiler" >/dev/null 2>&1 ||
        ! echo 'int x;' | "$compiler" -x "$(case $compiler in *++) echo c++ ;; *) echo c ;; esac)" -c - -o /dev/null \
            2>/dev/null; then
        echo "# skip: no $compiler" >&2
        continue
    fi
    case $compiler in
    *++) standards='c++11 c++17' ;;
    *) standards='c99 c11' ;;
    esac
    for standard in $standards; do cells "$compiler" "$standard"; done
done >"$dir/cells" 2>"$dir/skipped"
cat "$dir/skipped"

xargs -L 1 -P "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)" "$0" compile <"$dir/cells" | tee "$dir/results"
# Every cell must have spoken.
[ "$(grep -c '^ok - ' "$dir/results")" -eq "$(wc -l <"$dir/cells")" ]
