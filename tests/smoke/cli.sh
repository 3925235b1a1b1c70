#!/usr/bin/env bash
# The command line as people and scripts use it: what it prints, how it exits, and that imports and exports are whole.
# usage: cli.sh BINARY

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"
unset "${!STEADFAST_@}"

# cli STATUS ARGUMENT...: must exit so; what it prints is in $out.
cli() {
    local expected=$1 status=0
    shift
    checks=$((checks + 1))
    out=$("$binary" "$@" --addr "http://$data" 2>&1 </dev/null) || status=$?
    [[ $status -eq $expected ]] || fail "steadfast $*: exit $status, not $expected:"$'\n'"$out"
}

start_server

echo "writes and reads"
cli 0 identify acme u1 plan=pro seats:=12 trial:=false signed_up:=@2020-04-10 'tags:=["a","b"]' --json
expect "a receipt" "r['outcome'] == 'APPLIED' and r['version'] == 1 and len(r['request_id']) > 0"
position=$(OUT=$out python3 -c 'import json, os; print(json.loads(os.environ["OUT"])["position"])')
cli 0 identify acme u1 plan=pro
expect "for people" "text.startswith('unchanged (nothing to change)  version 1')"
cli 0 identify acme u1 --add visits=2 --unset trial --union tags=b,c --set-once plan=free
cli 0 identify acme u1 --remove tags=a
cli 0 identify acme u1 --append tags=z --if-version 3 --request-id once --json
expect "conditional" "r['outcome'] == 'APPLIED' and r['version'] == 4"
cli 0 identify acme u1 --append tags=z --if-version 3 --request-id once --json
expect "a retry" "r['outcome'] == 'DUPLICATE'"
cli 0 get acme u1 --json
expect "every type" "r['attributes'] == {'plan': 'pro', 'seats': 12, 'signed_up': {'time': '2020-04-10T00:00:00Z'},
    'tags': ['b', 'c', 'z'], 'visits': 2}"
cli 0 get acme u1
expect "for people" "'plan' in text and 'visits     number  2' in text"
cli 0 attributes acme --json
expect "the registry" "{(a['name'], a['type']) for a in all} >= {('plan', 'string'), ('tags', 'list')}"
cli 0 write acme "$position" --json
expect "what became of it" "'APPLIED' in r['state']"

echo "exit codes"
cli 2 identify acme u1 plan:=pro
cli 2 identify acme u1 plan=pro --unset plan
cli 2 nonsense
cli 65 identify acme u1 plan:=7 --json
expect "a wrong type" "r['error']['reason'] == 'TYPE_MISMATCH' and r['error']['kept'] == 'no'"
cli 65 identify acme null plan=pro
cli 65 identify acme u1 plan=pro --if-version 1
cli 66 get acme nobody
cli 66 write acme 0000000000000001/1

echo "import and export"
# Zip codes and long ids stay text; an empty cell is absent.
cat >"$work/users.csv" <<'CSV'
email,zip,seats,active,since,note
a@example.com,02139,12,true,2020-04-10,"one, ""two"""
b@example.com,10001,-0.5,false,2021-01-01T10:00:00Z,
c@example.com,99999,3,true,2022-02-02,naïve
CSV
cli 0 import shop "$work/users.csv" --user-column email --dry-run --json
expect "the types are shown" "r['rows'] == 3 and r['bad'] == 0"
cli 66 get shop a@example.com
cli 2 import shop "$work/users.csv" --user-column email
cli 0 import shop "$work/users.csv" --user-column email --yes --json
expect "imported" "(all[-1]['kept'], all[-1]['bad']) == (3, 0)"
cli 0 get shop a@example.com --json
expect "value for value" "r['attributes'] == {'zip': '02139', 'seats': 12, 'active': True,
    'since': {'time': '2020-04-10T00:00:00Z'}, 'note': 'one, \"two\"'}"
cli 0 get shop b@example.com --json
expect "empty is absent" "'note' not in r['attributes'] and r['attributes']['seats'] == -0.5"
printf '%s\n' 'email,seats' 'd@example.com,4' 'null,5' 'e@example.com' >"$work/bad.csv"
cli 65 import shop "$work/bad.csv" --user-column email --yes --json
expect "bad rows are reported, with their line, the others are kept" \
    "{a['bad_row']['line'] for a in all if 'bad_row' in a} == {3, 4} and all[-1]['kept'] == 1"
cli 66 import shop "$work/nothing.csv" --user-column email --yes

# Many, so that there are several batches and pages.
python3 - "$work/many.csv" <<'PY'
import csv, sys
with open(sys.argv[1], "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["id", "age", "answer", "score", "member"])
    for n in range(5000):
        rows.writerow([f"r{n:05}", n % 90, f"answer {n}, \"é\"", n / 7 + 0.1, ["true", "false"][n % 2]])
PY
cli 0 import survey "$work/many.csv" --user-column id --yes --json
expect "all are kept" "all[-1]['kept'] == 5000"
# Imported rows are durable; a later write of the last user is applied after its row, as are those before it.
cli 0 identify survey r04999 age:=5
cli 0 export survey "$work/survey.jsonl"
cli 0 import copy "$work/survey.jsonl" --yes --json
expect "all are kept" "all[-1]['kept'] == 5000"
cli 0 identify copy r04999 age:=5
cli 0 export copy "$work/copy.jsonl"
checks=$((checks + 1))
python3 - "$work" <<'PY' || fail "the export of an import differs"
import csv, json, sys

def profiles(site):
    with open(f"{sys.argv[1]}/{site}.jsonl") as lines:
        read = map(json.loads, lines)
        return {p["user"]: (p["attributes"], p["occurred_at"]) for p in read}

survey, copy = profiles("survey"), profiles("copy")
# Written to each site by itself.
for site in (survey, copy):
    site["r04999"][1].pop("age")
assert survey == copy, [user for user in survey if survey[user] != copy.get(user)][:3]
with open(f"{sys.argv[1]}/many.csv", newline="") as file:
    rows = list(csv.DictReader(file))
for n, row in enumerate(rows):
    expected = {"age": n % 90 if n != 4999 else 5, "answer": row["answer"], "score": n / 7 + 0.1, "member": row["member"] == "true"}
    assert survey[row["id"]][0] == expected, (row, survey[row["id"]])
assert len(survey) == 5000
PY

echo "erasure, completions, configuration"
cli 0 delete acme u1 --json
expect "erased" "r['outcome'] == 'APPLIED'"
cli 66 get acme u1
out=$("$binary" completions bash) || fail "completions"
expect "completions" "'identify' in text"
out=$("$binary" config) || fail "config"
expect "configuration" "'data_dir' in text and '# default' in text"
if out=$("$binary" config --set no.such=1 2>&1); then fail "an unknown setting is accepted"; fi
expect "an unknown setting" "'no.such' in text"
if out=$("$binary" serve --data-dir "$work/data" --listen 127.0.0.1:0 --operations-listen 127.0.0.1:0 2>&1); then
    fail "two servers in one directory"
fi
expect "a second server says why" "'another process' in text or 'in use' in text or 'locked' in text"

stop_server
cli 75 identify acme u1 plan=pro --no-retry
out=$("$binary" journal check --data-dir "$work/data" 2>&1) || fail "journal check: $out"
expect "the journal is sound" "'sound' in text"
passed "the command line"
