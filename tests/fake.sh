# fake.sh - sourced by scripts: starts and stops the fake service as a program of its own.
#
#     start_fake [ARGUMENT...]   its addresses, certificates and identity are then in the environment
#     stop_fake
#
# AZO_TEST_BUILD says where it was built, AZO_TEST_CERTS where the certificates are.

fake_pid=
fake_build=${AZO_TEST_BUILD:-build}

start_fake() {
    fake_output=$fake_build/fake_service.$$.out # one each, for scripts that run at once
    rm -f "$fake_output"
    "$fake_build/fake_service" "$@" >"$fake_output" </dev/null &
    fake_pid=$!
    fake_tries=0
    until grep -q '^ready' "$fake_output" 2>/dev/null; do
        if ! kill -0 "$fake_pid" 2>/dev/null || [ "$fake_tries" -gt 200 ]; then
            echo 'the fake service did not start' >&2
            stop_fake
            return 1
        fi
        fake_tries=$((fake_tries + 1))
        sleep 0.05
    done
    eval "$(grep '^export ' "$fake_output")"
}

stop_fake() {
    [ -n "$fake_pid" ] || return 0
    kill "$fake_pid" 2>/dev/null
    wait "$fake_pid" 2>/dev/null
    fake_pid=
    rm -f "$fake_output"
}
