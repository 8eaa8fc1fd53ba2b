#!/bin/sh
# test_header.sh
# The header as a neighbour: compiles everywhere without a warning, exports and defines nothing but its own names,
# lives beside another jsmn in the same file, and the programs in its documentation compile and link as shown.
set -u

build=${AZO_TEST_BUILD:-build}
dir=$build/header
cc=${CC:-cc}
root=${MBEDTLS_ROOT:+-isystem $MBEDTLS_ROOT/usr/include}
strict='-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wstrict-prototypes -Wcast-qual -Wundef'
failed=0

if [ -n "${MBEDTLS_ROOT:-}" ]; then
    lib=$(dirname "$(ls "$MBEDTLS_ROOT"/usr/lib/*/libmbedtls.a "$MBEDTLS_ROOT"/usr/lib/libmbedtls.a 2>/dev/null |
        head -n 1)")
    libs="$lib/libmbedtls.a $lib/libmbedx509.a $lib/libmbedcrypto.a"
else
    libs='-lmbedtls -lmbedx509 -lmbedcrypto'
fi
rm -rf "$dir"
mkdir -p "$dir"

# check NAME COMMAND...: one test; what the command prints explains a failure.
check() {
    name=$1
    shift
    if "$@" >"$dir/output" 2>&1; then
        echo "ok - $name"
    else
        echo "not ok - $name"
        head -n 20 "$dir/output" | sed 's/^/# /'
        failed=1
    fi
}

# nothing TEXT...: succeeds if there is none.
nothing() {
    [ -z "$*" ] || { echo "$*"; return 1; }
}

compile() { $cc -std=c99 $strict -Werror $root -I. "$@"; }

# ---- Symbols

printf '#define AZOPENAI_IMPLEMENTATION\n#include "azopenai.h"\n' >"$dir/implemented.c"
printf '#define AZO_STATIC\n#define AZOPENAI_IMPLEMENTATION\n#include "azopenai.h"\n' >"$dir/static.c"
printf '#include "azopenai.h"\n' >"$dir/declared.c"

exports() {
    compile -c "$dir/$1.c" -o "$dir/$1.o" && nm -g --defined-only "$dir/$1.o" | awk 'NF == 3 { print $3 }'
}
foreign_exports() { nothing "$(exports implemented | grep -v '^azo_[a-z]')"; }
static_exports() { nothing "$(exports static)"; }
# Every function of the public half exists, and no other.
all_exports() {
    exports implemented | sort >"$dir/exported"
    sed -n '/^AZO_API/,/;/p' azopenai.h | tr '\n' ' ' | tr ';' '\n' |
        sed -n 's/.*AZO_API[^(]*[ *]\(azo_[a-z_]*\)(.*/\1/p' | sort -u >"$dir/promised"
    [ -s "$dir/promised" ] && diff "$dir/promised" "$dir/exported"
}
check 'exports only azo_ names' foreign_exports
check 'exports what the public half declares' all_exports
check 'exports nothing under AZO_STATIC' static_exports

two_units() {
    printf 'int first(void);\n#include "azopenai.h"\nint first(void) { return azo_version()[0]; }\n' >"$dir/first.c"
    printf '#include "azopenai.h"\nint first(void);\nint main(void) { return azo_version()[0] != first(); }\n' \
        >"$dir/main.c"
    compile "$dir/first.c" "$dir/main.c" "$dir/implemented.c" -o "$dir/two" $libs && "$dir/two"
}
two_static_units() {
    printf '#define AZO_STATIC\n#define AZOPENAI_IMPLEMENTATION\n' | cat - "$dir/first.c" >"$dir/first_static.c"
    printf '#define AZO_STATIC\n#define AZOPENAI_IMPLEMENTATION\n' | cat - "$dir/main.c" >"$dir/main_static.c"
    compile "$dir/first_static.c" "$dir/main_static.c" -o "$dir/two_static" $libs && "$dir/two_static"
}
check 'several files share one implementation' two_units
check 'two files hold a static one each' two_static_units

# What the README advises to whoever has more warnings on than the header was written for.
as_system_header() {
    more='-Wswitch-enum -Wfloat-equal'
    ! $cc -std=c99 $more -Werror $root -I. -c "$dir/implemented.c" -o "$dir/system.o" 2>"$dir/warned" &&
        $cc -std=c99 $more -Werror $root -isystem . -c "$dir/implemented.c" -o "$dir/system.o"
}
check 'as a system header it is quiet under any warning' as_system_header

# ---- Macros

macros() { $cc -std=c99 $root -I. -dM -E "$1" | sed -n 's/^#define \([A-Za-z0-9_]*\).*/\1/p' | sort -u; }
private_macros() { nothing "$(macros "$dir/implemented.c" | grep -E '^(AZOI_|azoi_|JSMN|jsmn)')"; }
# What is defined beyond what the system headers themselves define has our prefix.
foreign_macros() {
    {
        sed -n 's/^# *define \(_POSIX_C_SOURCE\|_DARWIN_C_SOURCE\|_DEFAULT_SOURCE\).*/&/p' azopenai.h | sort -u
        sed -n '/^# *include </p' azopenai.h | grep -v jsmn
    } >"$dir/includes.c"
    macros "$dir/includes.c" >"$dir/macros_before"
    macros "$dir/$1.c" >"$dir/macros_after"
    nothing "$(comm -13 "$dir/macros_before" "$dir/macros_after" | grep -v -E '^(AZO_|AZOPENAI_)')"
}
public_includes() {
    $cc -std=c99 -I. -M "$dir/declared.c" | tr ' \\' '\n\n' | sed -n 's|.*/\(.*\.h\)$|\1|p' >"$dir/included"
    nothing "$(grep -E '^(stdio|stdlib|string|errno|poll|unistd|socket|netdb|jsmn|ssl)\.h$' "$dir/included")"
}
# Files that are compiled with other switches must still agree on every type and prototype: a switch may take whole ones
# away, but what is left has to be as without it.
declarations() {
    $cc -std=c99 -I. "-D$1=64" -E -P "$dir/declared.c" | sed 's/static __attribute__((unused))/extern/' |
        awk '{ text = text " " $0; depth += gsub(/{/, "{") - gsub(/}/, "}") }
            depth == 0 && /;$/ { print text; text = "" }' | sort
}
same_declarations() {
    declarations NOTHING >"$dir/declarations"
    grep -q ' azo_client_open(' "$dir/declarations" || return 1
    for switch in $(grep -o -E '\b(AZO_(NO|DEFAULT|MAX)_[A-Z0-9_]+|AZO_STATIC|AZO_JSMN_HEADER)\b' azopenai.h |
        sort -u) NDEBUG _GNU_SOURCE _FILE_OFFSET_BITS JSMN_PARENT_LINKS; do
        changed=$(declarations "$switch" | comm -13 "$dir/declarations" -)
        [ -z "$changed" ] || { echo "$switch: $changed"; return 1; }
    done
}
check 'leaves no private macro behind' private_macros
check 'defines only AZO_ macros, implemented' foreign_macros implemented
check 'defines only AZO_ macros, declared' foreign_macros declared
check 'no switch changes a declaration' same_declarations
check 'the public half includes only stdbool, stddef and stdint' public_includes

# ---- Another jsmn in the same file

# jsmn_case NAME BEFORE AFTER TOKEN_FIELDS: BEFORE and AFTER are the lines round the library.
jsmn_case() {
    {
        printf '%b' "$2"
        printf '#define AZOPENAI_IMPLEMENTATION\n#include "azopenai.h"\n'
        printf '%b' "$3"
        cat <<'END'
#include <stdio.h>
#include <string.h>
int main(void) {
    const char *text = "{\"a\":[1,2]}";
    jsmntok_t tokens[8];
    jsmn_parser parser;
    jsmn_init(&parser);
    int count = jsmn_parse(&parser, text, strlen(text), tokens, 8);
    azo_str value;
    bool found = azo_json_get(azo_s(text), "a[1]", &value) == AZO_OK && value.len == 1 && value.ptr[0] == '2';
    printf("%d %d %d\n", (int)(sizeof(jsmntok_t) / sizeof(int)), count, (int)found);
    return 0;
}
END
    } >"$dir/jsmn.c"
    # jsmn.h itself is not clean under all warnings.
    $cc -std=c99 -Wall -Wextra -Werror -Wno-sign-compare -Wno-unused-function -D_POSIX_C_SOURCE=200809L $root -I. \
        "$dir/jsmn.c" -o "$dir/jsmn" $libs || return 1
    [ "$("$dir/jsmn")" = "$4 5 1" ] || { echo "printed: $("$dir/jsmn")"; return 1; }
}
links='#define JSMN_PARENT_LINKS\n'
check 'jsmn with parent links before' jsmn_case a "$links#include <jsmn.h>\n" '' 5
check 'jsmn without parent links before' jsmn_case b '#include <jsmn.h>\n' '' 4
check 'jsmn with parent links after' jsmn_case c '' "$links#include <jsmn.h>\n" 5
check 'jsmn without parent links after' jsmn_case d '' '#include <jsmn.h>\n' 4
check 'static and strict jsmn before' jsmn_case e '#define JSMN_STATIC\n#define JSMN_STRICT\n#include <jsmn.h>\n' '' 4
check 'static jsmn after' jsmn_case f '' '#define JSMN_STATIC\n#include <jsmn.h>\n' 4
check 'jsmn before and once more after' jsmn_case g '#include <jsmn.h>\n' '#include <jsmn.h>\n' 4
check 'jsmn switches set long before' jsmn_case h "$links#define JSMN_STRICT\n" '#include <jsmn.h>\n' 5
# Declarations alone before, as JSMN_HEADER makes them; the bodies come from a file of the user's.
jsmn_declared() {
    printf '#include <jsmn.h>\n' >"$dir/jsmn_bodies.c"
    $cc -std=c99 -c "$dir/jsmn_bodies.c" -o "$dir/jsmn_bodies.o" || return 1
    libs="$dir/jsmn_bodies.o $libs" jsmn_case i '#define JSMN_HEADER\n#include <jsmn.h>\n' '' 4
}
check 'jsmn declared before, defined elsewhere' jsmn_declared

# ---- Programs in the documentation

# programs FILE PREFIX: writes every program in FILE to PREFIX<n>.c. A program is a block that has a main: fenced by
# ```c in the README, indented by the same depth in a comment of the header.
readme_programs() {
    awk -v prefix="$dir/readme" '
        /^```c$/ { inside = 1; text = ""; next }
        /^```/ { if (inside && text ~ /int main\(/) { n++; printf "%s", text >(prefix n ".c") } inside = 0; next }
        inside { text = text $0 "\n" }' README.md
}
head_programs() {
    awk -v prefix="$dir/head" '
        /^\/\* >>config/ || /^#ifndef AZOPENAI_H/ && seen { exit }
        { seen = 1; line = $0; sub(/^ \*( |$)/, "", line) }
        !inside && match(line, /^ +#(define|include) /) {
            inside = 1; text = ""; main = 0
            depth = index(line, "#") - 1
        }
        inside {
            if (line != "" && substr(line, 1, depth) !~ /^ +$/) { inside = 0; next }
            code = substr(line, depth + 1)
            text = text code "\n"
            if (code ~ /^int main\(/) { main = 1 }
            if (main && code ~ /^}/) { n++; printf "%s", text >(prefix n ".c"); inside = 0 }
        }' azopenai.h
}
# documented FILE: compiles and links, with the library of its own if it brings one.
documented() {
    if grep -q '^#define AZOPENAI_IMPLEMENTATION' "$1"; then
        compile "$1" -o "$1.out" $libs -lm
    else
        compile "$1" "$dir/implemented.c" -o "$1.out" $libs -lm
    fi
}
some() { [ -e "$1" ] || { echo 'no program found'; return 1; }; }
readme_programs
head_programs
check 'the README has a program' some "$dir/readme1.c"
check 'the head comment has a program' some "$dir/head1.c"
for one in "$dir"/readme*.c "$dir"/head*.c; do
    [ -e "$one" ] && check "program $(basename "$one" .c) of the documentation compiles" documented "$one"
done
# The program of the README is examples/hello.c, so that what is shown is what is tested.
check 'the README shows examples/hello.c' sh -c \
    "sed '1,/^ \*\/$/d' examples/hello.c | diff - '$dir/readme1.c'"

# The README names every variable that the library looks at.
variables() {
    names=$(sed -n '/>>prologue/,$s/"/\n/gp' azopenai.h |
        grep -xE '(AZURE|OPENAI|HTTPS|NO|SSL|IDENTITY|MSI)_[A-Z_]+' | sort -u)
    [ "$(echo "$names" | wc -l)" -gt 15 ] || { echo "few: $names"; return 1; }
    for one in $names; do grep -q "\`$one\`" README.md || { echo "not in the README: $one"; missing=1; }; done
    nothing "${missing:-}"
}
check 'the README names each variable of the environment' variables

# ---- Installing

installed() {
    rm -rf "$dir/stage"
    make -s install PREFIX=/opt/azo DESTDIR="$dir/stage" || return 1
    cmp azopenai.h "$dir/stage/opt/azo/include/azopenai.h" || return 1
    grep -q "^Version: $(sed -n 's/^#define AZO_VERSION "\(.*\)"/\1/p' azopenai.h)\$" \
        "$dir/stage/opt/azo/lib/pkgconfig/azopenai.pc" || return 1
    if command -v pkg-config >/dev/null 2>&1; then
        flags=$(PKG_CONFIG_PATH=$dir/stage/opt/azo/lib/pkgconfig pkg-config --cflags --libs azopenai) || return 1
        [ "$(echo $flags)" = '-I/opt/azo/include -lmbedtls -lmbedx509 -lmbedcrypto' ] || { echo "$flags"; return 1; }
    fi
}
check 'make install' installed

# ---- The matrix

tests/ports/matrix.sh short || failed=1
exit $failed
