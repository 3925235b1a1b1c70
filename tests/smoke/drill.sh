#!/usr/bin/env bash
# The drill as somebody meets it who tries the product: the default one and two more keep every promise, and one that is
# broken on purpose is noticed.
# usage: drill.sh BINARY

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"
unset "${!STEADFAST_@}"

# drill STATUS ARGUMENT...: must exit so; what it prints is in $out.
drill() {
    local expected=$1 status=0
    shift
    checks=$((checks + 1))
    echo "drill $*"
    out=$("$binary" drill "$@" 2>&1 </dev/null) || status=$?
    [[ $status -eq $expected ]] || fail "steadfast drill $*: exit $status, not $expected:"$'\n'"$out"
    # What could not be judged, and the figures.
    grep -A 1 -E '^(not judged|BROKEN)' <<<"$out" || true
    grep -A 1 -E '^SCENARIO' <<<"$out"
}

drill 0 --report "$work/drill.html"
grep -q '</html>' "$work/drill.html" || fail "the report is not whole"
drill 0 --scenario slow-site --duration '15 s'
drill 0 --scenario hung-for-good --duration '15 s'
drill 1 --scenario hang --duration '6 s' --sabotage forgetful-store
passed "the drill"
