# shellcheck shell=bash
# What the smoke scripts share: a server of their own on free ports, and checks that end the script when they fail.
# Sourced, with the binary to try as the script's first argument.

set -euo pipefail

smoke_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034 # used by the scripts
root_dir=$(cd "$smoke_dir/../.." && pwd)
binary=$(realpath "${1:?usage: $0 BINARY}")
work=$(mktemp -d)
server_pid=
checks=0

fail() {
    echo "FAILED: $*" >&2
    if [[ -s $work/server.log ]]; then
        echo "--- the server's log:" >&2
        tail -n 50 "$work/server.log" >&2
    fi
    exit 1
}

clean_up() {
    local status=$?
    if [[ -n $server_pid ]]; then
        kill -KILL "$server_pid" 2>/dev/null || true
        wait "$server_pid" 2>/dev/null || true
    fi
    rm -rf "$work"
    exit "$status"
}
trap clean_up EXIT

# Starts the server on $work/data and sets `data` and `operations` to its addresses.
start_server() {
    mkfifo "$work/said"
    # On a busy machine a write must not be DEFERRED for want of patience.
    "$binary" serve --data-dir "$work/data" --listen 127.0.0.1:0 --operations-listen 127.0.0.1:0 \
        --set 'writes.reply_after=20 s' "$@" 2>"$work/said" &
    server_pid=$!
    data='' operations=''
    exec 3<"$work/said"
    local line
    while read -r -t 60 line <&3; do
        echo "$line" >>"$work/server.log"
        # shellcheck disable=SC2034 # used by the scripts
        case $line in
            data\ *) data=$(awk '{ print $2 }' <<<"$line") ;;
            operations\ *) operations=$(awk '{ print $2 }' <<<"$line") ;;
            grpcurl\ *) break ;;
        esac
    done
    [[ -n $data && -n $operations ]] || fail "the server did not start"
    # Whatever it says later must not fill the pipe.
    cat <&3 >>"$work/server.log" &
    exec 3<&-
    rm "$work/said"
}

# Stops the server in order; it must end with 0.
stop_server() {
    local pid=$server_pid status=0
    server_pid=
    kill -TERM "$pid"
    wait "$pid" || status=$?
    [[ $status -eq 0 ]] || fail "the server ended with $status"
}

# expect NAME EXPRESSION: the JSON in $out satisfies a Python expression over `r` (the first value), `all` (a list of
# every value) and `text`.
expect() {
    local name=$1 expression=$2
    checks=$((checks + 1))
    if ! OUT=$out EXPRESSION=$expression python3 "$smoke_dir/expect.py"; then
        fail "$name: expected $expression, got:"$'\n'"$out"
    fi
}

passed() {
    echo "ok: $checks checks of $1"
}
