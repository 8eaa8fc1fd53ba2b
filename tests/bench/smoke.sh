#!/bin/sh
# smoke.sh
# Every mode of every client of the benchmark once, with a small COUNT: that the programs and servers work together. It
# says nothing about speed.
#
# AZO_TEST_BUILD: where the programs are (see bench.mk).
set -u

build=${AZO_TEST_BUILD:-build}
failed=0
relay_pids=
number=0
BENCH_STATE=$build/benchmark/state
export BENCH_STATE
. "$(dirname "$0")/servers.sh"
stop_all() {
    for one in $relay_pids; do kill "$one" 2>/dev/null; done
    stop_servers
}
trap stop_all EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$build/benchmark"

# expect NAME METRICS COMMAND...: it succeeds and prints these metrics, each a number, and no others.
expect() {
    name=$1 metrics=$2
    shift 2
    number=$((number + 1))
    "$@" >"$servers/smoke.out" 2>"$servers/smoke.err"
    status=$?
    got=$(awk '$2 ~ /^[0-9.]+$/ { printf "%s%s", sep, $1; sep = " " }' "$servers/smoke.out")
    if [ $status -ne 0 ] || [ -s "$servers/smoke.err" ] || [ "$got" != "$metrics" ]; then
        echo "not ok $number - $name"
        echo "# exit status $status, metrics: $got"
        sed 's/^/# /' "$servers/smoke.err"
        failed=1
    else
        echo "ok $number - $name"
    fi
}

# all_modes CLIENT: with and without its allocations counted.
all_modes() {
    rm -f "$BENCH_STATE"
    for mode in cold-key cold-token cold-state; do
        expect "$1 $mode" '' "$build/$1" $mode "$nginx" 2
        expect "$1 $mode, allocations counted" heap_peak_kb "$build/$1_heap" $mode "$nginx" 1
    done
    for mode in warm embed-text embed-base64 bulk; do
        count=2
        [ $mode != bulk ] || count=1
        expect "$1 $mode" 'wall_us cpu_us rss_kb' "$build/$1" $mode "$nginx" $count
        expect "$1 $mode, allocations counted" 'wall_us cpu_us rss_kb heap_calls heap_peak_kb' \
            "$build/$1_heap" $mode "$nginx" $count
    done
    for mode in stream many; do
        expect "$1 $mode" 'wall_us cpu_us rss_kb' "$build/$1" $mode "$peer" 3
    done
    expect "$1 delay" 'wall_us cpu_us rss_kb delay_us' "$build/$1" delay "$peer" 5
}

PATH=$PATH:/usr/sbin:/sbin
command -v nginx >/dev/null 2>&1 || { echo '1..0 # SKIP nginx is not installed'; exit 0; }
start_servers || { echo 'not ok 1 - the servers start'; exit 1; }
for client in bench bench_curl bench_floor; do all_modes $client; done
BENCH_OTHERS=5
export BENCH_OTHERS
for client in bench bench_curl; do
    for mode in step poll; do expect "$client $mode" 'wall_us cpu_us rss_kb' "$build/$client" $mode "$peer" 3; done
done
expect 'bench begin' 'wall_us cpu_us rss_kb' "$build/bench" begin "$nginx" 20
for mode in cold-key-whole cold-token-whole; do
    expect "bench_floor $mode" '' "$build/bench_floor" $mode "$nginx" 1
done
expect 'a whole process' 'wall_us cpu_us rss_kb' "$build/bench_run" "$build/bench" cold-key "$nginx" 1
start_program bench_relay 5 "${nginx#*:}"
relay_pids=$program_pid
expect 'through the relay' '' "$build/bench" cold-key "localhost:$port" 2
rm -f "$BENCH_STATE"
start_program bench_relay 0 "${BENCH_ENTRA#*:}"
relay_pids="$relay_pids $program_pid"
BENCH_ENTRA=localhost:$port
expect 'a first run' '' "$build/bench" cold-state "$nginx" 1
kill "$program_pid"
wait "$program_pid" 2>/dev/null
expect 'a second run asks for no token' '' "$build/bench" cold-state "$nginx" 1
echo "1..$number"
exit $failed
