#!/bin/sh
# size.sh - what `make size` prints: how large programs become with this library, as tables for the README.
#
# In one run, on one machine: an empty program, a bare TLS client (bare.c), examples/chat with everything and with each
# AZO_NO_x of the header, the smallest chats that there are (small_chat.c with all that they can do without left out),
# and a chat by libcurl and cJSON (curl_chat.c). Every program is run against the service of the tests before its size
# counts, apart from those whose option takes away what a chat needs.
set -eu
. tests/ports/common.sh
. tests/fake.sh

dir=$ports/size
rm -rf "$dir"
mkdir -p "$dir"
failed=0
complain() { echo "size.sh: $*" >&2; failed=1; }

# ---- Building. Flags are the same for all: -Os, unused sections dropped, stripped.

# static VERSION OUTPUT SOURCE... and dynamic OUTPUT SOURCE...: flags of a program may come first among the sources.
static() {
    minimal "$1" || die "mbedTLS $1 was not built"
    output=$2
    shift 2
    musl-gcc -std=c99 $minimal_flags "$@" -o "$output" $minimal_libs 2>"$output.log"
}
dynamic() {
    output=$1
    shift
    gcc -std=c99 $small -I. "$@" -o "$output" -Wl,--gc-sections -Wl,--as-needed -s $dynamic_libs 2>"$output.log"
}
bytes() { if [ -s "$1" ]; then wc -c <"$1" | tr -d ' '; else echo -; fi; }

# libraries PROGRAM: what it loads beside the C library, in bytes.
libraries() {
    [ -s "$1" ] || { echo -; return; }
    ldd "$1" | sed -n 's|.* => \(/[^ ]*\) .*|\1|p' | grep -v -E '/(libc|libm|libpthread|libdl|ld-linux[^/]*)\.so' |
        while read -r library; do wc -c <"$(readlink -f "$library")"; done | awk '{ n += $1 } END { print n + 0 }'
}

# row NAME STEM [STEM]: of the programs STEM-2.28, STEM-3.6 and STEM-dynamic, and how much less than the other's those
# with 2.28 and the dynamic one hold. Files grow by whole pages; what they hold does not.
row() {
    set -- "$1" "$dir/$2" "${3:+$dir/$3}"
    printf '| %s | %s | %s | %s | %s | %s | %s |\n' "$1" "$(bytes "$2-2.28")" "$(less "$2-2.28" "${3:+$3-2.28}")" \
        "$(bytes "$2-3.6")" "$(bytes "$2-dynamic")" "$(less "$2-dynamic" "${3:+$3-dynamic}")" \
        "$(libraries "$2-dynamic")"
}
held() { size "$1" | awk 'NR == 2 { print $1 + $2 }'; }
less() { if [ -s "$1" ] && [ -n "$2" ]; then echo $(($(held "$2") - $(held "$1"))); fi; }

# build STEM SOURCE...: in all three ways.
build_three() {
    stem=$1
    shift
    for version in 2.28 3.6; do
        static "$version" "$dir/$stem-$version" "$@" || complain "$stem with $version: $(cat "$dir/$stem-$version.log")"
    done
    dynamic_libs='-lmbedtls -lmbedx509 -lmbedcrypto'
    dynamic "$dir/$stem-dynamic" "$@" || complain "$stem: $(cat "$dir/$stem-dynamic.log")"
}

# ---- Running

# chats STEM [IDENTITY]: by the client secret, or after IDENTITY, which is no_secret or only_key.
chats() {
    for program in "$dir/$1"-2.28 "$dir/$1"-3.6 "$dir/$1"-dynamic; do
        [ -e "$program" ] || continue
        (${2:-:} && "$program" 'Hello.') >"$dir/chat.out" 2>&1 && [ "$(cat "$dir/chat.out")" = 'You said: Hello.' ] ||
            complain "$program does not chat: $(cat "$dir/chat.out")"
    done
}
only_key() {
    no_secret
    AZURE_OPENAI_API_KEY=$(sed -n 's/^#define FAKE_API_KEY "\(.*\)"/\1/p' tests/fake_service.h)
    export AZURE_OPENAI_API_KEY
}

bare_answers() {
    openssl x509 -in "$certs/ca.pem" -outform DER -out "$dir/ca.der"
    port=${AZURE_OPENAI_ENDPOINT##*:}
    printf 'GET / HTTP/1.1\r\nHost: localhost:%s\r\nConnection: close\r\n\r\n' "$port" >"$dir/request"
    for program in "$dir"/bare-2.28 "$dir"/bare-3.6 "$dir"/bare-dynamic; do
        "$program" localhost "$port" "$dir/ca.der" <"$dir/request" 2>&1 | grep -q '^HTTP/1.1 ' ||
            complain "$program gets no answer"
    done
}

# ---- The rows

chat='examples/chat.c examples/azopenai.c'
small_chat='tests/ports/small_chat.c examples/azopenai.c'
# Those without which none of these programs can work: only measured.
needed='AZO_NO_SOCKETS AZO_NO_CLOCK AZO_NO_ENV AZO_NO_STDIO'

# without SWITCH...: flags that leave out all but these and what is needed.
without() {
    for switch in $switches; do
        case " $needed $* " in *" $switch "*) ;; *) printf ' -D%s' "$switch" ;; esac
    done
}

# can_chat SWITCH: what examples/chat.c calls is still declared.
can_chat() { gcc -std=c99 -Werror -fsyntax-only -I. "-D$1" examples/chat.c 2>/dev/null; }

# with_switch SWITCH: examples/chat without something.
with_switch() {
    can_chat "$1" || return 0
    build_three "$1" "-D$1" $chat
    case " $needed " in *" $1 "*) return 0 ;; esac
    if [ "$1" = AZO_NO_SECRET ]; then chats "$1" no_secret; else chats "$1"; fi
}

# small STEM IDENTITY SWITCH...: small_chat without all but these.
small() {
    stem=$1 identity=$2
    shift 2
    build_three "$stem" $(without "$@") $small_chat
    chats "$stem" "$identity"
}

programs_table() {
    echo 'int main(void) { return 0; }' >"$dir/empty.c"
    build_three empty "$dir/empty.c"
    build_three bare tests/ports/bare.c
    bare_answers
    build_three chat $chat
    chats chat
    for switch in $switches; do with_switch "$switch"; done
    small small : AZO_NO_STREAM AZO_NO_SECRET AZO_NO_IMDS
    small small_secret : AZO_NO_SECRET
    small small_imds no_secret AZO_NO_IMDS
    small small_key only_key
    curl_program
    printf '| bytes, stripped | static, musl, 2.28 | saves | static, musl, 3.6 | dynamic, glibc | saves | + libraries |\n'
    printf '|---|---:|---:|---:|---:|---:|---:|\n'
    row 'empty program' empty
    row 'bare TLS client with a prepared request' bare
    row '`examples/chat`' chat
    for switch in $switches; do
        if can_chat "$switch"; then row "... \`$switch\`" "$switch" chat; fi
    done
    row 'smallest chat, streamed, by secret or managed identity' small chat
    row '... by secret, not streamed' small_secret chat
    row '... by managed identity, not streamed' small_imds chat
    row '... by key, not streamed' small_key chat
    row 'libcurl + cJSON, a chat without retries' curl
}

# Debian's libcurl.a wants a static Kerberos, and there is none, nor a static cJSON: dynamic only.
curl_program() {
    fetch_binary "$suite" "$(dpkg --print-architecture)" "$ports/curl" libcurl4-openssl-dev libcjson-dev
    need libcurl4 libcjson1
    triplet=$(gcc -print-multiarch)
    dynamic_libs="-l:libcurl.so.4 -l:libcjson.so.1"
    dynamic "$dir/curl-dynamic" -isystem "$ports/curl/usr/include" -isystem "$ports/curl/usr/include/$triplet" \
        tests/ports/curl_chat.c || complain "curl_chat: $(cat "$dir/curl-dynamic.log")"
    chats curl
}

# ---- The library's own share

# What the linker took of one object file, by kind of section, from its map.
own_share() {
    awk -v object="$2" '
        function kind(name) {
            if (name ~ /^\.text/) return "text"
            if (name ~ /^\.(rodata|data\.rel\.ro)/) return "rodata" # the latter: constants with addresses in them
            if (name ~ /^\.(data|tdata)/) return "data"
            if (name ~ /^\.(bss|tbss)/) return "bss"
                return ""
        }
        function number(hex,  i, n) {
            for (i = 3; i <= length(hex); i++) n = n * 16 + index("0123456789abcdef", substr(hex, i, 1)) - 1
            return n
        }
        /^Linker script and memory map/ { live = 1 }
        !live { next }
        /^ \.[a-z_]/ { name = $1; if (NF == 1) next; shift = 2 }
        /^ +0x/ { shift = 1 }
        /^ \.[a-z_]|^ +0x/ { if ($NF ~ object "$" && $(shift) ~ /^0x/) size[kind(name)] += number($(shift + 1)) }
        END { print size["text"] + 0, size["rodata"] + 0, size["data"] + 0, size["bss"] + 0 }
    ' "$1"
}

# compiled FLAG...: the library alone as azopenai.o.
compiled() {
    musl-gcc -std=c99 $minimal_flags "$@" -c examples/azopenai.c -o "$dir/azopenai.o" 2>"$dir/share.log"
}
section() { size -A "$dir/azopenai.o" | awk -v name="^$1" '$1 ~ name { n += $2 } END { print n + 0 }'; }

# share NAME PROGRAM.C FLAG...: a row of what the library adds to a static program, and how much less that is than in
# the first row. A program that does not compile calls what was left out: only the object file is measured.
share() {
    name=$1 program=$2 linked='- - - - -'
    shift 2
    compiled "$@" -fasynchronous-unwind-tables && frames=$(section .eh_frame) && compiled "$@" ||
        { complain "share of $name: $(cat "$dir/share.log")"; return; }
    if musl-gcc -std=c99 -Werror $minimal_flags "$@" -c "$program" -o "$dir/program.o" 2>/dev/null; then
        musl-gcc "$dir/program.o" "$dir/azopenai.o" -o "$dir/share" -Wl,-Map="$dir/map" $minimal_libs \
            2>"$dir/share.log" || { complain "share of $name: $(cat "$dir/share.log")"; return; }
        linked=$(own_share "$dir/map" 'azopenai\\.o')
        code=$(echo "$linked" | awk '{ print $1 + $2 }')
        most=${most:-$code}
        linked="$linked $((most - code))"
    fi
    printf '| %s | %s | %s | %s | %s | %s | %s | %s |\n' "$name" $linked "$(section .text)" "$frames"
}

shares_table() {
    minimal 2.28
    most=
    printf '| the library in it, bytes | text | rodata | data | bss | saves (text + rodata) '
    printf '| text, all functions | unwind tables, if kept |\n'
    printf '|---|---:|---:|---:|---:|---:|---:|---:|\n'
    share '`examples/chat`' examples/chat.c
    for switch in $switches; do share "... \`$switch\`" examples/chat.c "-D$switch"; done
    small_chat=tests/ports/small_chat.c
    share 'smallest chat, streamed, by secret or managed identity' "$small_chat" \
        $(without AZO_NO_STREAM AZO_NO_SECRET AZO_NO_IMDS)
    share '... by secret, not streamed' "$small_chat" $(without AZO_NO_SECRET)
    share '... by managed identity, not streamed' "$small_chat" $(without AZO_NO_IMDS)
    share '... by key, not streamed' "$small_chat" $(without)
}

functions_table() {
    minimal 2.28
    compiled
    printf '| largest functions at -Os | bytes |\n|---|---:|\n'
    nm -S --size-sort -r -t d "$dir/azopenai.o" | grep -i ' t ' | head -n 10 |
        awk '{ printf "| `%s` | %d |\n", $4, $2 }'
}

# ---- Stack

# stack NAME PROGRAM... : a row.
depth() {
    name=$1
    shift
    "$@" >"$dir/stack.out" 2>"$dir/stack.err" <"$dir/request" || complain "stack of $name: $(cat "$dir/stack.err")"
    printf '| %s | %s |\n' "$name" "$(sed -n 's/^stack: //p' "$dir/stack.err")"
}

stack_table() {
    static 2.28 "$dir/bare-painted" -Dmain=painted_main tests/ports/bare.c "$dir/paint.o"
    static 2.28 "$dir/chat-painted" -Dmain=painted_main tests/ports/small_chat.c examples/azopenai.c "$dir/paint.o"
    no_secret
    printf '| stack, bytes, musl, 2.28, -Os | deepest |\n|---|---:|\n'
    depth 'bare TLS client' "$dir/bare-painted" localhost "${AZURE_OPENAI_ENDPOINT##*:}" "$dir/ca.der"
    depth 'streaming chat by managed identity' "$dir/chat-painted" 'One two three.'
    stop_fake
    service --plain-service 1
    no_secret
    depth '... over plain HTTP: what is not mbedTLS' "$dir/chat-painted" 'One two three.'
}

trap stop_fake EXIT
trap 'exit 1' HUP INT TERM
need gcc libc6-dev make binutils openssl libmbedtls-dev libjsmn-dev
no_settings
service || die 'no service to talk to'
minimal 2.28
musl-gcc -std=c99 -Os -c tests/ports/paint.c -o "$dir/paint.o"
printf 'azopenai.h %s, %s, %s\n\n' "$(sed -n 's/^#define AZO_VERSION "\(.*\)"/\1/p' azopenai.h)" \
    "$(gcc --version | head -n 1)" "$(uname -m)"
programs_table
echo
shares_table
echo
functions_table
echo
stack_table
exit $failed
