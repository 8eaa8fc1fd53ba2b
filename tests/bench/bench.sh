#!/bin/sh
# bench.sh [quick|full|servers]
# Measures this library beside a libcurl client and a bare mbedTLS program, all on loopback, and prints one table in
# Markdown: medians, half the distance between the quartiles in percent, ratios, and which bars hold. Runs of the
# clients alternate, so that a busy machine is busy for all of them. Nothing here can fail for being slow. `servers`
# only starts what they talk to and says how to ask for one figure.
#
# AZO_TEST_BUILD: where the programs are (see bench.mk).
set -u

build=${AZO_TEST_BUILD:-build}
run=${1:-quick}
work=$build/benchmark
results=$work/results
BENCH_OTHERS=0
export BENCH_OTHERS
clients='azo curl floor'
here=$(dirname "$0")

case $run in
quick) cold=5 warm=3 calls=500 embed=3 bulk=1 slow=2 delays=300 trips=20 many='1 100' counts=1 ;;
full) cold=25 warm=9 calls=2000 embed=7 bulk=50 slow=5 delays=500 trips='20 80' many='1 100 1000' counts=3 ;;
servers) ;;
*) echo 'usage: bench.sh [quick|full|servers]' >&2; exit 2 ;;
esac

for name in $(env | sed -n 's/^\(AZURE_[A-Z0-9_]*\)=.*/\1/p; s/^\(OPENAI_[A-Z0-9_]*\)=.*/\1/p'); do unset "$name"; done
unset HTTPS_PROXY https_proxy ALL_PROXY all_proxy SSL_CERT_FILE

. "$here/servers.sh"
relay_pids=
beside=
by=
stop_all() {
    for one in $relay_pids $beside; do kill "$one" 2>/dev/null; done
    stop_servers
}
trap stop_all EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$work"
start_servers || exit 1

if [ $run = servers ]; then
    echo "export BENCH_CA=$BENCH_CA BENCH_ENTRA=$BENCH_ENTRA BENCH_STATE=$work/state"
    echo "$build/bench warm $nginx 1000     or another mode; see tests/bench/bench.h"
    echo "$build/bench stream $peer 500     likewise: delay, many, step, poll"
    echo 'Until interrupted.'
    wait
    exit 0
fi
: >"$results"

program_of() {
    case $1 in
    azo) echo "$build/bench" ;;
    *) echo "$build/bench_${1%_whole}" ;;
    esac
}

# record NAME CLIENT COMMAND...: keeps the "metric value" lines that it prints.
record() {
    name=$1 client=$2
    shift 2
    if "$@" >"$work/out.$client"; then
        sed "s/^/$name $client /" "$work/out.$client" >>"$results"
    else
        echo "bench: no figure: $*" >&2
    fi
}

# whole_process NAME CLIENT MODE ADDRESS
whole_process() { record "$1" "$2" "$build/bench_run" "$(program_of "$2")" "$3" "$4" 1; }

# first_run CLIENT ADDRESS: what it keeps is for the runs of cold-state that come after it.
first_run() {
    BENCH_STATE=$work/state.$1
    export BENCH_STATE
    rm -f "$BENCH_STATE"
    "$(program_of "$1")" cold-state "$2" 1
}

# later_runs TIMES NAME ADDRESS
later_runs() {
    for client in $clients; do first_run $client "$3"; done
    round=0
    while [ $round -lt "$1" ]; do
        for client in $clients; do
            BENCH_STATE=$work/state.$client
            whole_process "$2" $client cold-state "$3"
        done
        round=$((round + 1))
    done
}

# repeat TIMES NAME MODE ADDRESS COUNT; by way of $by, if that is set
repeat() {
    round=0
    while [ $round -lt "$1" ]; do
        for client in $clients; do record "$2" $client $by "$(program_of $client)" "$3" "$4" "$5"; done
        round=$((round + 1))
    done
}

cold_calls() {
    round=0
    while [ $round -lt $cold ]; do
        for mode in cold-key cold-token; do
            for client in $clients; do whole_process $mode $client $mode "$nginx"; done
            whole_process $mode floor_whole $mode-whole "$nginx"
        done
        round=$((round + 1))
    done
    later_runs $cold cold-state "$nginx"
}

# start_relay RTT PORT: leaves its port in $port.
start_relay() {
    start_program bench_relay "$1" "$2"
    relay_pids="$relay_pids $program_pid"
}

distant_calls() {
    near_entra=$BENCH_ENTRA
    for trip in $trips; do
        start_relay "$trip" "${near_entra#*:}"
        BENCH_ENTRA=localhost:$port
        start_relay "$trip" "${nginx#*:}"
        round=0
        while [ $round -lt $slow ]; do
            for mode in cold-key cold-token; do
                for client in $clients; do whole_process $mode-$trip $client $mode "localhost:$port"; done
            done
            round=$((round + 1))
        done
        later_runs $slow cold-state-$trip "localhost:$port"
    done
    BENCH_ENTRA=$near_entra
}

many_streams() {
    for count in $many; do
        times=$slow
        [ "$count" -lt 1000 ] || times=3
        repeat $times many-$count many "$peer" $count
    done
}

# Events while other requests of the client wait.
among() {
    round=0
    while [ $round -lt $slow ]; do
        for BENCH_OTHERS in 0 1000; do
            for mode in step poll; do
                for client in azo curl; do
                    record $mode-$BENCH_OTHERS $client "$(program_of $client)" $mode "$peer" 200
                done
            done
        done
        round=$((round + 1))
    done
}

# heap_of CLIENT MODE ADDRESS COUNT: its peak.
heap_of() { "$(program_of "$1")_heap" "$2" "$3" "$4" | awk '$1 == "heap_peak_kb" { print $2 }'; }

heap() {
    for client in $clients; do
        first_run $client "$nginx"
        for mode in cold-key cold-token cold-state; do
            echo "$mode $client heap_kb $(heap_of $client $mode "$nginx" 1)" >>"$results"
        done
        base=$(heap_of $client cold-key "$nginx" 1)
        for mode in embed-text embed-base64; do
            peak=$(heap_of $client $mode "$nginx" 1)
            echo "$mode $client heap_above_kb $peak $base" | awk '{ print $1, $2, $3, $4 - $5 }' >>"$results"
        done
        "$(program_of $client)_heap" warm "$nginx" 100 | sed -n "s/^heap_calls/warm $client &/p" >>"$results"
    done
}

# counted CLIENT MODE ADDRESS COUNT: instructions of the process.
counted() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$(program_of "$1")" "$2" "$3" "$4" 2>&1 |
        awk '/Collected/ { print $4 }'
}

# counted_inside CLIENT MODE ADDRESS COUNT: those between bench_start and bench_stop. (Handshakes vary.)
counted_inside() {
    counts_file=$work/callgrind.$1
    rm -f "$counts_file.1"
    valgrind --tool=callgrind --callgrind-out-file="$counts_file" --zero-before=bench_start --dump-before=bench_stop \
        "$(program_of "$1")" "$2" "$3" "$4" >/dev/null 2>&1
    awk '/^totals:/ { print $2 }' "$counts_file.1"
}

# each_of NAME CLIENT MODE ADDRESS FEW MANY FEW_UNITS MANY_UNITS: instructions of one unit of the work that COUNT sets;
# what does not depend on it cancels.
each_of() {
    echo "$(counted_inside "$2" "$3" "$4" "$5") $(counted_inside "$2" "$3" "$4" "$6") $7 $8" |
        awk -v name="$1 $2 instructions" '{ print name, ($2 - $1) / ($4 - $3) }' >>"$results"
}

# each_counted CLIENT MODE ADDRESS FEW MANY [NAME]
each_counted() { each_of "${6:-$2}" "$1" "$2" "$3" "$4" "$5" "$4" "$5"; }

events_in() { grep -c '^data: {' "$servers/bulk-$1"; }

instructions_among() {
    for BENCH_OTHERS in 0 1000; do
        for mode in step poll; do each_counted "$1" $mode "$peer" 20 120 $mode-$BENCH_OTHERS; done
    done
}

instructions_of() {
    round=0
    while [ $round -lt $counts ]; do
        echo "cold-key $1 instructions $(counted "$1" cold-key "$nginx" 1)" >>"$results"
        [ "$1-$run" != curl-quick ] || return # no bar needs more of libcurl
        echo "cold-token $1 instructions $(counted "$1" cold-token "$nginx" 1)" >>"$results"
        first_run $1 "$nginx"
        echo "cold-state $1 instructions $(counted "$1" cold-state "$nginx" 1)" >>"$results"
        each_counted "$1" warm "$nginx" 10 110
        each_counted "$1" stream "$peer" 100 600
        each_of bulk "$1" bulk "$nginx" 1 6 "$(events_in 1)" "$(events_in 6)"
        [ "$1-$run" = floor-full ] || [ $run = quick ] || instructions_among "$1"
        [ "$1" != curl ] || return # it takes long, and varies little
        round=$((round + 1))
    done
}

instructions() {
    command -v valgrind >/dev/null 2>&1 || { echo 'bench: no instruction counts without valgrind' >&2; return; }
    instructions_of curl &
    beside=$!
    instructions_of azo
    instructions_of floor
    wait $beside
    beside=
    [ $run = full ] || return
    echo "cold-key floor_whole instructions $(counted floor cold-key-whole "$nginx" 1)" >>"$results"
    each_counted azo begin "$nginx" 40 400 begin-400
    each_counted azo begin "$nginx" 400 4000 begin-4000
}

# What the figures of one among many mean: by poll, for each of the others; else beside what it is alone, as its floor.
compare_many() {
    awk '/^(step-0|begin-400) azo/ { sub(/-.* azo/, /^s/ ? "-1000 floor" : "-4000 floor"); print }
        /^poll-/ { key = $2 " " $3; n[$1 key, ++count[$1 key]] = $4; keys[key] }
        END { for (key in keys) for (i = 1; i <= count["poll-0" key]; i++)
            print "poll-each", key, (n["poll-1000" key, i] - n["poll-0" key, i]) / 1000 }' "$results" >"$work/compared"
    cat "$work/compared" >>"$results"
}

system_calls() {
    command -v strace >/dev/null 2>&1 || { echo 'bench: no system calls without strace' >&2; return; }
    for client in $clients; do
        for count in 10 210; do
            strace -f -c -o "$work/calls.$count" "$(program_of $client)" warm "$nginx" $count >/dev/null
        done
        awk -v name="warm $client calls" '$NF == "total" { n[FILENAME] = $4; last = FILENAME }
            END { for (f in n) if (f != last) print name, (n[last] - n[f]) / 200 }' \
            "$work/calls.10" "$work/calls.210" >>"$results"
    done
}

began=$(date +%s)
cold_calls
distant_calls
repeat $warm delay delay "$peer" $delays
together
repeat $warm warm warm "$nginx" $calls
repeat $warm stream stream "$peer" 500
repeat $slow bulk bulk "$nginx" $bulk
repeat $warm embed-text embed-text "$nginx" $embed
repeat $warm embed-base64 embed-base64 "$nginx" $embed
apart
many_streams
[ $run = quick ] || among
heap
system_calls
instructions
compare_many

awk -v run=$run -v mbedtls="$("$build/bench_floor" version - 1)" -v seconds=$(($(date +%s) - began)) \
    -v cores="$(getconf _NPROCESSORS_ONLN)" -f "$here/table.awk" "$here/bars.txt" "$results"
