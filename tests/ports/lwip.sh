#!/bin/sh
# lwip.sh - examples/lwip.c against the service of the tests: calls that travel over lwIP, a network stack inside the
# process, by a library that was built without sockets. Debian's lwIP is fetched, not installed.
set -eu
. tests/ports/common.sh
. tests/fake.sh

failed=0
# answers NAME PROMPT
answers() {
    if answer=$("$ports/lwip.program" "$2" 2>&1) && [ "$answer" = "You said: $2" ]; then
        echo "ok - $1"
    else
        printf 'not ok - %s\n# %s\n' "$1" "$answer"
        failed=1
    fi
}

trap stop_fake EXIT
trap 'exit 1' HUP INT TERM
no_settings
need gcc libc6-dev make openssl libmbedtls-dev libjsmn-dev
fetch_binary "$suite" "$(dpkg --print-architecture)" "$ports/lwip" liblwip-dev liblwip0
library=$(dirname "$(ls "$ports"/lwip/usr/lib/*/liblwip.so)")
quietly gcc -std=c99 -D_DEFAULT_SOURCE -O1 -g -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow \
    -Wstrict-prototypes -Wcast-qual -Werror -DAZO_NO_SOCKETS -I. -isystem "$ports/lwip/usr/include/lwip" \
    examples/lwip.c examples/azopenai.c -o "$ports/lwip.program" -L"$library" -Wl,-rpath,"$library" -llwip \
    -lmbedtls -lmbedx509 -lmbedcrypto -lpthread
service || die 'no service to talk to'
answers 'a streamed chat over lwIP, with a secret' 'Hello over lwIP, word by word!'
# Several times what TCP has under way at once.
answers 'a long one' "$(awk 'BEGIN { for (i = 0; i < 20000; i++) printf "word%d ", i }' | cut -c -120000)."
no_secret
answers 'a streamed chat over lwIP, by the identity of the machine' 'Hello without a secret!'
exit $failed
