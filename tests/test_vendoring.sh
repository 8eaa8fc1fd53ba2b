#!/bin/sh
# test_vendoring.sh
# The recipes of the README, as a reader copies them: each is cut out of that page, put beside a copy of the header in a
# project of its own, built by its own tool, built again, and run against the fake service. What a machine has no tool
# for is skipped with a line that says so; a recipe that nothing here uses is a failure.
set -u

build=${AZO_TEST_BUILD:-build}
mkdir -p "$build"
build=$(cd "$build" && pwd)
dir=$build/vendoring
answer='You said: Why is the sky blue?'
failed=0
rm -rf "$dir"
mkdir -p "$dir/files" "$dir/bin"

. tests/fake.sh
trap stop_fake EXIT
trap 'exit 1' HUP INT TERM

# check NAME COMMAND...: one test; what the command prints explains a failure.
check() {
    name=$1
    shift
    if "$@" >"$dir/output" 2>&1; then
        echo "ok - $name"
    else
        echo "not ok - $name"
        tail -n 20 "$dir/output" | sed 's/^/# /'
        failed=1
    fi
}

skip() { echo "# skip: $1"; }

missing=
# have NAME TOOL...: all of these are installed; else NAME is skipped.
have() {
    what=$1
    shift
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 || { skip "$what, no $tool" && missing=yes && return 1; }
    done
}

# ---- What the page says. Whatever is taken from it is noted, to see at the end that nothing was left.

page=$dir/page
sed -n '/^## Recipes$/,/^## Testing$/p' README.md >"$page"

# block FILE: the block that says in its first line that it is FILE.
block() {
    echo "$1" >>"$dir/used"
    awk -v name="$1" '
        /^```./ { inside = 1; first = 1; next }
        /^```$/ { inside = 0; wanted = 0 }
        inside && first { title = $0; gsub(/^(#|\/\*) | \*\/$/, "", title); wanted = title == name; first = 0 }
        wanted' "$page" | grep . || { echo "the README has no block for $1" >&2; return 1; }
}

# command_of TITLE: the lines below "# TITLE" in a block of commands.
command_of() {
    echo "$1" >>"$dir/used"
    awk -v title="# $1" '
        /^```/ { inside = $0 == "```sh"; wanted = 0; next }
        inside && /^#/ { wanted = $0 == title; next }
        inside && wanted' "$page" | grep . || { echo "the README has no command for $1" >&2; return 1; }
}

# inline PATTERN: what the text has between backquotes.
inline() { tr '\n' ' ' <"$page" | grep -o "\`$1[^\`]*\`" | tr -d '\140' | head -n 1 | grep .; }

# ---- Projects

# The make that runs this has flags and a BUILD of its own. Unoptimised is quicker.
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL CPPFLAGS LDFLAGS CXXFLAGS
export CFLAGS=-O0
# What the recipes call cc and c++: compilers that know another mbedTLS as they would that of the system.
flags=
if [ -n "${MBEDTLS_ROOT:-}" ]; then
    root=$(cd "$MBEDTLS_ROOT" && pwd)
    lib=$(dirname "$(ls "$root"/usr/lib/*/libmbedtls.a "$root"/usr/lib/libmbedtls.a 2>/dev/null | head -n 1)")
    flags="-isystem $root/usr/include -L$lib"
    export LD_LIBRARY_PATH="$lib" PKG_CONFIG_PATH="$lib/pkgconfig"
fi
compiler() {
    command -v $2 >/dev/null 2>&1 || return 0
    printf '#!/bin/sh\nPATH="%s" exec %s %s "$@"\n' "$PATH" "$2" "$flags" >"$dir/bin/$1"
    chmod +x "$dir/bin/$1"
}
compiler cc "${CC:-cc}"
compiler c++ "${CXX:-c++}"
PATH=$dir/bin:$PATH
unset CC CXX
where() { printf '#include <%s>\n' "$1" | cc -E - | sed -n "s|^# 1 \"\(.*\)$1\".*|\1|p" | head -n 1; }

cp azopenai.h "$(where jsmn.h)jsmn.h" "$dir/files"
awk '/^```/ { n += inside = $0 == "```c"; next } inside && n == 1' README.md >"$dir/files/hello.c"
sed '1{/#define AZOPENAI_IMPLEMENTATION/d;}' "$dir/files/hello.c" >"$dir/files/main.c"
awk '/In exactly one C file:$/ { here = 1 } here && /^```$/ { exit } here && inside; /^```c/ { inside = here }' \
    README.md >"$dir/files/azopenai.c"
sed 's/= {0}/= {}/' "$dir/files/main.c" >"$dir/files/main.cpp"

# project NAME FILE...: a directory with copies of these, and the current project from here on.
project() {
    here=$dir/$1
    shift
    mkdir -p "$here"
    for file in "$@"; do cp "$dir/files/$file" "$here" || return 1; done
}
usual='azopenai.h jsmn.h azopenai.c main.c'

in_project() { (cd "$here" && "$@"); }

# run_command TITLE [MORE]: as a reader would, and without a warning.
run_command() {
    text=$(command_of "$1") || return 1
    printf '$ %s\n' "$text${2:+ $2}"
    in_project sh -ec "$text${2:+ $2}" >"$dir/log" 2>&1 || { cat "$dir/log"; return 1; }
    cat "$dir/log"
    ! grep -q '\.[ch]:[0-9:]* warning: ' "$dir/log"
}

# answers [PROGRAM]
answers() {
    said=$("${1:-$here/ask}" 2>&1) || { echo "$said"; return 1; }
    [ "$said" = "$answer" ] || { echo "said: $said"; return 1; }
}

# compiles FILES COMMAND...: the command prints that it compiles these, each name with a space after it.
compiles() {
    wanted=$1
    shift
    in_project "$@" >"$dir/log" 2>&1 || { cat "$dir/log"; return 1; }
    compiled=$(grep -o -E ' -c [^ ]*(main|azopenai)\.c' "$dir/log" | sed 's/.*[ /]//' | sort -u | tr '\n' ' ')
    [ "$compiled" = "$wanted" ] || { echo "$* compiled: $compiled"; cat "$dir/log"; return 1; }
}

# again PROGRAM BUILD...: after a first build there is nothing to do; a new main.c is compiled alone; a new header has
# all compiled again.
again() {
    program=$here/$1
    shift
    compiles '' "$@" &&
        touch "$here/main.c" && compiles 'main.c ' "$@" && answers "$program" &&
        touch "$here/azopenai.h" && compiles 'azopenai.c main.c ' "$@" && answers "$program"
}

start_fake || { echo 'not ok - the fake service starts'; exit 1; }

# ---- Single commands

one_file() { project one_file azopenai.h jsmn.h hello.c && run_command 'one file' && answers; }
two_files() { project two_files $usual && run_command two && answers; }
static() { project static $usual && run_command 'fully static' && answers; }
installed() {
    make -s install PREFIX="$dir/usr" && project installed azopenai.c main.c &&
        PKG_CONFIG_PATH=$dir/usr/lib/pkgconfig run_command 'after make install' && answers
}
mbedtls_title="with mbedTLS's own files for pkg-config, which 3.6 has and 2.28 has not"
mbedtls_pc() { project mbedtls_pc $usual && run_command "$mbedtls_title" && answers; }
cplusplus_title='C++, with `= {}` in main.cpp for what is `= {0}` in C; azopenai.c may be compiled as C, too'
cplusplus() { project cplusplus azopenai.h jsmn.h azopenai.c main.cpp && run_command "$cplusplus_title" && answers; }
plugin() {
    project plugin $usual && sed 's/int main(void)/int ask(void);\nint ask(void)/' "$here/main.c" >"$here/plugin.c" &&
        run_command 'a shared library that shows nothing of what is in it' || return 1
    shown=$(nm -D --defined-only "$here/libplugin.so" | awk '{ print $NF }')
    [ "$shown" = ask ] || { echo "exports $shown"; return 1; }
    # A program with another version of the library in it.
    printf '%s\n' 'int ask(void);' 'int azo_chat(void);' 'int azo_chat(void) { return 1; }' \
        'int main(void) { return ask(); }' >"$here/program.c"
    in_project cc -rdynamic program.c -o ask -L. -lplugin -Wl,-rpath,"$here" && answers
}

check 'one file' one_file
check 'two files' two_files
if [ -e "$(cc -print-file-name=libmbedtls.a)" ]; then
    check 'fully static' static
else
    skip 'fully static, no libmbedtls.a' && command_of 'fully static' >/dev/null
fi
have 'pkg-config' pkg-config && check 'after make install' installed
if have 'pkg-config' pkg-config && pkg-config --exists mbedtls; then
    check "mbedTLS's pkg-config files" mbedtls_pc
else
    skip "mbedTLS's pkg-config files, there are none" && command_of "$mbedtls_title" >/dev/null
fi
have 'C++' c++ && check 'C++' cplusplus
check 'a shared library that hides it' plugin

# ---- make

by_make() {
    project make $usual && block Makefile >"$here/Makefile" && run_command make && answers && again ask make || return 1
    foreign=$(nm -g --defined-only "$here/azopenai.o" | awk 'NF == 3 && $3 !~ /^azo_/ { print $3 }')
    [ -z "$foreign" ] || { echo "exports $foreign"; return 1; }
}
# The library as C, the program as C++.
cplusplus_over_c() {
    project cplusplus_over_c azopenai.h jsmn.h main.cpp && cp "$dir/make/azopenai.o" "$here" &&
        in_project sh -ec "$(command_of "$cplusplus_title" | sed 's/-x c++ azopenai\.c/azopenai.o/')" && answers
}
# other TITLE MACHINE: the objects alone, as there are no libraries for it; mbedTLS's headers are the same everywhere.
other() {
    project "make-$2" $usual && block Makefile >"$here/Makefile" || return 1
    mkdir -p "$dir/sysroot/usr/include"
    for one in mbedtls psa; do cp -r "$(where mbedtls/ssl.h)$one" "$dir/sysroot/usr/include"; done
    (export SYSROOT="$dir/sysroot" MUSL="$dir/sysroot/usr" && run_command "$1" 'main.o azopenai.o') &&
        readelf -h "$here/azopenai.o" | grep -i "Machine:.*$2"
}
# The libraries that `make run-matrix` and its like build, where they were.
with_musl() {
    project musl $usual && block Makefile >"$here/Makefile" &&
        (export MUSL="$build/ports/musl/root/usr" && run_command 'make with musl') && answers
}
check 'make' by_make
have 'C++ over a C object' c++ && check 'C++ over a C object' cplusplus_over_c
if command -v aarch64-linux-gnu-gcc >/dev/null 2>&1; then
    check 'make for arm64' other 'make for arm64' AArch64
else
    skip 'make for arm64, no aarch64-linux-gnu-gcc' && command_of 'make for arm64' >/dev/null
fi
if ! have 'make with musl' musl-gcc; then
    :
elif [ -e "$build/ports/musl/root/usr/lib/libmbedtls.a" ]; then
    check 'make with musl' with_musl
else
    skip 'linking with musl, no libraries (see make run-matrix)'
    check 'make with musl' other 'make with musl' "$(uname -m | tr _ .)"
fi

# ---- CMake and Meson, with the copy and without

# upstream: the repository that the page calls https://example.com/azopenai.git. Git goes nowhere else.
upstream() {
    git init -q "$dir/upstream" && cp azopenai.h "$dir/upstream" && git -C "$dir/upstream" add azopenai.h &&
        git -C "$dir/upstream" -c user.name=test -c user.email=test@example.com commit -qm 'Add the header' &&
        git -C "$dir/upstream" tag "v$(sed -n 's/^#define AZO_VERSION "\(.*\)"/\1/p' azopenai.h)"
}
export GIT_ALLOW_PROTOCOL=file GIT_CONFIG_COUNT=1 GIT_CONFIG_VALUE_0=https://example.com/azopenai.git \
    GIT_CONFIG_KEY_0="url.file://$dir/upstream.insteadOf"
without_copy='jsmn.h azopenai.c main.c'

submodule() {
    project submodule $without_copy && in_project git init -q &&
        run_command 'a submodule instead of the copy' && answers
}
cmake_command=$(inline 'cmake -B')
by_cmake() {
    project cmake $usual && block CMakeLists.txt >"$here/CMakeLists.txt" && in_project sh -ec "$cmake_command" &&
        answers "$here/build/ask" && again build/ask cmake --build build -v
}
fetched_by_cmake() {
    project fetchcontent $without_copy &&
        { block CMakeLists.txt && block 'CMakeLists.txt, at the end'; } >"$here/CMakeLists.txt" &&
        in_project sh -ec "$cmake_command" && answers "$here/build/ask"
}
meson_command=$(inline 'meson setup')
by_meson() {
    project meson $usual && block meson.build >"$here/meson.build" && in_project sh -ec "$meson_command" &&
        answers "$here/build/ask" && again build/ask ninja -v -C build
}
wrapped_by_meson() {
    project wrap $without_copy && mkdir -p "$here/subprojects/packagefiles/azopenai" || return 1
    for file in subprojects/azopenai.wrap subprojects/packagefiles/azopenai/meson.build; do
        block "$file" >"$here/$file" || return 1
    done
    { block meson.build | sed '$d' && inline 'azopenai += ' && block meson.build | tail -n 1; } >"$here/meson.build" &&
        in_project sh -ec "$meson_command" && answers "$here/build/ask"
}
have 'fetching' git && fetch=yes || fetch=
if [ -n "$fetch" ]; then
    check 'a repository to fetch from' upstream
    check 'a submodule' submodule
fi
if have 'CMake' cmake; then
    check 'CMake' by_cmake
    [ -z "$fetch" ] || check 'CMake, fetched' fetched_by_cmake
fi
if have 'Meson' meson ninja; then
    check 'Meson' by_meson
    [ -z "$fetch" ] || check 'Meson, with a wrap' wrapped_by_meson
fi

# ---- OpenWrt and Yocto: what they would do with the recipe, by the rules that it relies on

# A buildroot that knows as much as the recipe uses: variables of rules.mk, and package.mk's steps in their order.
buildroot() {
    mkdir -p "$dir/openwrt/include" "$dir/openwrt/package"
    cat >"$dir/openwrt/rules.mk" <<'END'
INCLUDE_DIR := $(TOPDIR)/include
BUILD_DIR := $(TOPDIR)/build_dir
CP := cp -fpR
INSTALL_DIR := install -d -m0755
INSTALL_BIN := install -m0755
END
    cat >"$dir/openwrt/include/package.mk" <<'END'
PKG_BUILD_DIR ?= $(BUILD_DIR)/$(PKG_NAME)-$(PKG_VERSION)
define Build/Compile
	CFLAGS="-O0 -pipe" LDFLAGS="-Wl,-z,now" $(MAKE) -C $(PKG_BUILD_DIR) CC="cc"
endef
define BuildPackage
$(foreach name,PKG_NAME PKG_VERSION PKG_RELEASE,$(if $($(name)),,$(error no $(name))))
$(eval $(Package/$(1)))
$(foreach name,SECTION CATEGORY TITLE DEPENDS,$(if $($(name)),,$(error Package/$(1) has no $(name))))
compile:
	rm -rf $(PKG_BUILD_DIR)
	mkdir -p $(PKG_BUILD_DIR)
$(Build/Prepare)
$(Build/Compile)
$(call Package/$(1)/install,$(BUILD_DIR)/ipkg-$(1))
endef
END
}
by_openwrt() {
    buildroot && project openwrt/package/ask && block ask/Makefile >"$here/Makefile" &&
        project openwrt/package/ask/src $usual && block Makefile >"$here/Makefile" || return 1
    here=$dir/openwrt
    in_project make -C package/ask TOPDIR="$here" compile && answers "$here/build_dir/ipkg-ask/usr/bin/ask"
}
# Assignments, comments and functions only; the files that it names are there; base.bbclass's do_compile is make with
# the compiler in the environment.
by_yocto() {
    project yocto/ask $usual && block Makefile >"$here/Makefile" && block ask_1.0.bb >"$dir/recipe.bb" || return 1
    odd=$(sed '/^[a-z_]*() {$/,/^}$/d' "$dir/recipe.bb" | grep -v -E '^(#.*|[A-Z_]+(:\$\{PN\})? = ".*"|)$')
    [ -z "$odd" ] || { echo "not a recipe's line: $odd"; return 1; }
    for file in $(sed -n 's/^SRC_URI = "\(.*\)"$/\1/p' "$dir/recipe.bb"); do
        [ -e "$here/${file#file://}" ] || { echo "no ${file#file://}"; return 1; }
    done
    (export CC=cc CFLAGS='-O0 -pipe' LDFLAGS='-Wl,-z,now' D="$dir/image" bindir=/usr/bin && in_project make &&
        in_project sh -ec "$(sed -n '/^do_install() {$/,/^}$/p' "$dir/recipe.bb")
            do_install") && answers "$dir/image/usr/bin/ask"
}
check 'OpenWrt' by_openwrt
check 'Yocto' by_yocto

# ---- Unity builds, other libraries with a jsmn

# jsmn_user NAME FIELDS: a function that has its tokens parsed before main, by a jsmn whose tokens have so many members.
jsmn_user() {
    cat <<END
__attribute__((constructor)) static void $1(void) {
    jsmn_parser parser;
    jsmntok_t tokens[8];
    jsmn_init(&parser);
    if (jsmn_parse(&parser, "{\"a\":[1,2]}", 11, tokens, 8) != 5 || sizeof *tokens != $2 * sizeof(int)) {
        fprintf(stderr, "$1 has another jsmn\n");
        exit(9);
    }
}
END
}
libc='#include <stdio.h>\n#include <stdlib.h>\n'
jsmn_include='#define JSMN_STATIC\n%b#include "own/jsmn.h"\n'
# Like cgltf.h, which holds a copy of jsmn without its guard.
embedded() {
    printf "$libc"'#define JSMN_STRICT\n#define JSMN_PARENT_LINKS\n#define JSMN_STATIC\n'
    grep -v 'JSMN_H$' "$dir/files/jsmn.h" | sed '$d'
}
# unity NAME: first.c and second.c are in the current project.
unity() {
    mkdir "$here/own" "$here/third_party" && cp "$here/jsmn.h" "$here/own" &&
        mv "$here/jsmn.h" "$here/third_party" && block unity.c >"$here/unity.c" &&
        run_command 'a unity build, where <stdio.h> may come before azopenai.h' && answers &&
        in_project cc -I. -M unity.c | grep ' third_party/jsmn\.h'
}
between_two() {
    project unity $usual && { printf "$libc$jsmn_include" '#define JSMN_PARENT_LINKS\n' && jsmn_user first 5; } \
        >"$here/first.c" && { printf '#include "own/jsmn.h"\n' && jsmn_user second 5; } >"$here/second.c" && unity
}
after_embedded() {
    project unity_before $usual && { embedded && jsmn_user first 5; } >"$here/first.c" && : >"$here/second.c" && unity
}
before_embedded() {
    project unity_after $usual && printf "$libc" >"$here/first.c" &&
        { embedded && jsmn_user second 5; } >"$here/second.c" && unity
}
# Strict C99 hides what the library needs as soon as <stdio.h> was included: then it says so, in one sentence.
too_late() {
    here=$dir/unity
    ! in_project cc -std=c99 -I. -c unity.c >"$dir/log" 2>&1 &&
        grep 'error:' "$dir/log" | head -n 1 | grep 'include it before any libc header'
}
# A library whose jsmn has names for the linker, in the same program.
linked() {
    project linked jsmn.h && printf "$libc"'#include "jsmn.h"\n' >"$here/user.c" && jsmn_user user 4 >>"$here/user.c" &&
        in_project cc -c user.c && nm -g --defined-only "$here/user.o" | grep jsmn_parse &&
        cc "$here/user.o" "$dir/make/main.o" "$dir/make/azopenai.o" -o "$here/ask" -lmbedtls -lmbedx509 -lmbedcrypto &&
        answers
}
check 'unity build between two users of one jsmn' between_two
check 'unity build after a library that holds jsmn' after_embedded
check 'unity build before a library that holds jsmn' before_embedded
check 'unity build that hides POSIX' too_late
check 'linked with a library that exports jsmn' linked

# ---- Nothing is left

unused() {
    awk '/^```/ { inside = substr($0, 4); first = 1; next }
        inside == "sh" && sub(/^# /, "") { print; next }
        inside != "" && inside != "sh" && first { gsub(/^(#|\/\*) | \*\/$/, ""); print; first = 0 }' "$page" |
        sort -u >"$dir/shown"
    sort -u "$dir/used" | comm -13 - "$dir/shown" >"$dir/left"
    [ -s "$dir/shown" ] && ! grep . "$dir/left"
}
if [ -n "$missing" ]; then
    skip 'whether every recipe of the README is tried, as tools are missing'
else
    check 'every recipe of the README is tried' unused
fi
exit $failed
