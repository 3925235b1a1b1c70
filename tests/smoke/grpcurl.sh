#!/usr/bin/env bash
# The server as an independent client sees it that knows nothing but reflection: every method, answers and errors.
# usage: grpcurl.sh BINARY    (grpcurl is found by $GRPCURL, or on the path)

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "$0")/lib.sh"
grpcurl=${GRPCURL:-grpcurl}
command -v "$grpcurl" >/dev/null || fail "there is no grpcurl; set GRPCURL to where it is"
service=steadfast.v1.AttributeService

# call METHOD MESSAGE...: must succeed; the answer is in $out.
call() {
    local method=$1
    shift
    out=$(printf '%s\n' "$@" | "$grpcurl" -plaintext -max-time 20 -d @ "$data" "$service/$method" 2>&1) ||
        fail "$method: $out"
}

# refuse METHOD MESSAGE: must fail; the status with its details is in $out.
refuse() {
    local method=$1 message=$2
    if out=$("$grpcurl" -plaintext -max-time 20 -format-error -d "$message" "$data" "$service/$method" 2>&1); then
        fail "$method was not refused: $out"
    fi
}

start_server

echo "reflection"
out=$("$grpcurl" -plaintext "$data" list) || fail "list: $out"
for name in $service steadfast.v1.OperatorService grpc.health.v1.Health; do
    expect "list" "'$name' in text.split()"
done
out=$("$grpcurl" -plaintext "$data" list $service) || fail "list the service: $out"
for method in Identify IdentifyMany IdentifyStream GetProfile BatchGetProfiles DeleteProfile GetWrite ListAttributes \
    ExportProfiles ImportProfiles QueryProfiles CountProfiles ExplainQuery MatchProfile; do
    expect "list the service" "'$service.$method' in text.split()"
done
out=$("$grpcurl" -plaintext "$data" describe $service.Identify) || fail "describe: $out"
expect "describe a method" "'rpc Identify ( .steadfast.v1.IdentifyRequest ) returns' in text"
out=$("$grpcurl" -plaintext "$data" describe steadfast.v1.IdentifyRequest) || fail "describe: $out"
expect "describe a message, with its comments" "'map<string, .steadfast.v1.Value> attributes = 3' in text and '// ' in text"
out=$("$grpcurl" -plaintext "$data" describe google.rpc.ErrorInfo) || fail "describe: $out"
expect "the details of errors are known" "'map<string, string> metadata' in text"
out=$("$grpcurl" -plaintext "$operations" list) || fail "list the operations: $out"
expect "operations" "'steadfast.v1.OperatorService' in text.split()"

echo "health"
for address in "$data" "$operations"; do
    for name in "" $service; do
        out=$("$grpcurl" -plaintext -d "{\"service\":\"$name\"}" "$address" grpc.health.v1.Health/Check) || fail "health: $out"
        expect "health of '$name'" "r == {'status': 'SERVING'}"
    done
done

echo "writes"
call Identify '{"site":"acme","user":"alice","attributes":{"plan":{"stringValue":"pro"},"seats":{"numberValue":12},
    "trial":{"boolValue":false},"signed_up":{"timeValue":"2020-04-10T00:00:00Z"},
    "tags":{"listValue":{"values":["a","b"]}}},"requestId":"first"}'
expect "a write" "r['receipt']['outcome'] == 'OUTCOME_APPLIED' and r['receipt']['version'] == '1'"
position=$(OUT=$out python3 -c 'import json, os; print(json.dumps(json.loads(os.environ["OUT"])["receipt"]["position"]))')
call Identify '{"site":"acme","user":"alice","attributes":{"plan":{"stringValue":"pro"}}}'
expect "nothing to change" "r['receipt']['outcome'] == 'OUTCOME_UNCHANGED' and r['receipt']['version'] == '1'"
call Identify '{"site":"acme","user":"alice","attributes":{"plan":{"stringValue":"pro"},"seats":{"numberValue":12},
    "trial":{"boolValue":false},"signed_up":{"timeValue":"2020-04-10T00:00:00Z"},
    "tags":{"listValue":{"values":["a","b"]}}},"requestId":"first"}'
expect "the same request id" "r['receipt']['outcome'] == 'OUTCOME_DUPLICATE' and r['receipt']['version'] == '1'"
call Identify '{"site":"acme","user":"alice","ifVersion":"1","changes":[
    {"name":"plan","setOnce":{"stringValue":"free"}},{"name":"seats","add":3},{"name":"trial","unset":{}},
    {"name":"tags","union":{"values":["b","c"]}},{"name":"log","append":{"values":["x"]}}]}'
expect "every kind of change" "r['receipt']['outcome'] == 'OUTCOME_APPLIED' and r['receipt']['version'] == '2'"
call Identify '{"site":"acme","user":"alice","changes":[{"name":"tags","remove":{"values":["a"]}}]}'
expect "remove" "r['receipt']['version'] == '3'"
call Identify '{"site":"acme","user":"alice","occurredAt":"2015-01-01T00:00:00Z","attributes":{"plan":{"stringValue":"old"}}}'
expect "an old event" "r['receipt']['notes'] == [{'name': 'plan', 'reason': 'REASON_STALE'}]"
call Identify '{"site":"acme","user":"bob","attributes":{"plan":{"stringValue":"free"}},"wait":"WAIT_JOURNALED"}'
expect "answered when durable" "r['receipt']['outcome'] == 'OUTCOME_DEFERRED' and 'position' in r['receipt']"
call IdentifyMany '{"requests":[{"site":"acme","user":"carol","attributes":{"plan":{"stringValue":"team"}}},
    {"site":"acme","user":"dave","attributes":{"plan":{"numberValue":1}}}]}'
expect "one of two fails" "r['failed'] == 1 and r['results'][0]['receipt']['outcome'] == 'OUTCOME_APPLIED'"
expect "and says why" "r['results'][1]['error']['reason'] == 'TYPE_MISMATCH' and
    r['results'][1]['error']['metadata']['kept'] == 'no' and r['results'][1]['error']['field'] == 'attributes[\"plan\"]'"
call IdentifyStream \
    '{"sequence":"1","request":{"site":"acme","user":"erin","changes":[{"name":"visits","add":1}]}}' \
    '{"sequence":"2","request":{"site":"acme","user":"erin","changes":[{"name":"visits","add":1}]}}' \
    '{"sequence":"3","request":{"site":"","user":"erin"}}'
expect "a stream answers all" "sorted(a['sequence'] for a in all) == ['1', '2', '3']"
expect "a bad item does not end it" "[a['result'].get('error', {}).get('reason') for a in sorted(all, key=lambda a: a['sequence'])] ==
    [None, None, 'INVALID_FIELD']"
call GetWrite "{\"site\":\"acme\",\"position\":$position}"
expect "what became of a write" "r == {'state': 'WRITE_STATE_APPLIED'}"

echo "reads"
call GetProfile '{"site":"acme","user":"alice","includeOccurredAt":true}'
expect "every attribute" "r['profile']['attributes'] == {'plan': {'stringValue': 'pro'}, 'seats': {'numberValue': 15},
    'signed_up': {'timeValue': '2020-04-10T00:00:00Z'}, 'tags': {'listValue': {'values': ['b', 'c']}},
    'log': {'listValue': {'values': ['x']}}}"
expect "version and times" "r['profile']['version'] == '3' and r['profile']['createdAt'] < r['profile']['updatedAt'] and
    set(r['profile']['occurredAt']) == set(r['profile']['attributes']) and 'pending' not in r['profile']"
call BatchGetProfiles '{"site":"acme","users":["erin","nobody","alice"]}'
expect "a batch" "[p['user'] for p in r['profiles']] == ['erin', 'alice'] and r['missing'] == ['nobody'] and
    r['profiles'][0]['attributes'] == {'visits': {'numberValue': 2}}"
call ListAttributes '{"site":"acme"}'
expect "the registry" "[(a['name'], a['type']) for a in r['attributes']] == [('log', 'VALUE_TYPE_LIST'),
    ('plan', 'VALUE_TYPE_STRING'), ('seats', 'VALUE_TYPE_NUMBER'), ('signed_up', 'VALUE_TYPE_TIME'),
    ('tags', 'VALUE_TYPE_LIST'), ('trial', 'VALUE_TYPE_BOOL'), ('visits', 'VALUE_TYPE_NUMBER')]"

echo "import, export, delete"
call ImportProfiles \
    '{"site":"copy","resumeToken":"b25l","records":[{"number":"1","user":"u1","attributes":{"n":{"numberValue":1}},
        "attributeOccurredAt":{"n":"2021-05-05T05:05:05Z"}},{"number":"2","user":"null","attributes":{"n":{"numberValue":2}}}]}' \
    '{"resumeToken":"dHdv","records":[{"number":"3","user":"u3","attributes":{"n":{"numberValue":3}}}]}'
expect "an answer a batch" "[(a['resumeToken'], a['kept']) for a in all] == [('b25l', 1), ('dHdv', 1)]"
expect "a bad record is reported" "[(e['number'], e['user'], e['error']['field']) for e in r['errors']] == [('2', 'null', 'user')]"
# Imports are answered when durable; a write of the same user that waits for its application comes after it.
call Identify '{"site":"copy","user":"u3","attributes":{"m":{"numberValue":1}}}'
call Identify '{"site":"copy","user":"u1","attributes":{"m":{"numberValue":1}}}'
call ExportProfiles '{"site":"copy"}'
expect "an export" "[(p['user'], p['attributes']['n']) for a in all for p in a['profiles']] ==
    [('u1', {'numberValue': 1}), ('u3', {'numberValue': 3})]"
expect "with event times" "r['profiles'][0]['occurredAt']['n'] == '2021-05-05T05:05:05Z'"
call DeleteProfile '{"site":"acme","user":"alice","requestId":"erase"}'
expect "erased" "r['receipt']['outcome'] == 'OUTCOME_APPLIED'"
call DeleteProfile '{"site":"acme","user":"alice"}'
expect "nothing to erase" "r['receipt']['outcome'] == 'OUTCOME_UNCHANGED'"
refuse GetProfile '{"site":"acme","user":"alice"}'
expect "gone" "r['code'] == 5 and r['details'][0]['reason'] == 'PROFILE_NOT_FOUND'"

echo "errors"
# detail TYPE: a Python expression, the detail of that type.
detail() { echo "next(d for d in r['details'] if d['@type'].endswith('google.rpc.$1'))"; }
refuse Identify '{"site":"acme","user":"zoe","attributes":{"plan":{"numberValue":1}}}'
expect "a wrong type" "r['code'] == 3 and $(detail ErrorInfo)['reason'] == 'TYPE_MISMATCH'"
expect "is not kept" "$(detail ErrorInfo)['domain'] == 'steadfast' and $(detail ErrorInfo)['metadata']['kept'] == 'no'"
expect "names the field" "$(detail BadRequest)['fieldViolations'][0]['field'] == 'attributes[\"plan\"]'"
refuse Identify '{"site":"acme","user":"zoe","attributes":{"plan":{}}}'
expect "a value without a kind" "r['code'] == 3 and $(detail ErrorInfo)['reason'] == 'INVALID_FIELD'"
refuse Identify '{"site":"acme","user":"erin","ifVersion":"7","attributes":{"plan":{"stringValue":"x"}}}'
expect "another version" "r['code'] == 10 and $(detail ErrorInfo)['reason'] == 'VERSION_MISMATCH' and
    $(detail ErrorInfo)['metadata'] == {'kept': 'no', 'current_version': '2'}"
refuse GetWrite '{"site":"acme","position":{"node":"0000000000000001","number":"1"}}'
expect "another node's position" "r['code'] == 5 and $(detail ErrorInfo)['reason'] == 'POSITION_UNKNOWN'"
refuse GetProfile '{"site":"no spaces","user":"alice"}'
expect "a bad site" "$(detail BadRequest)['fieldViolations'][0]['field'] == 'site'"
refuse QueryProfiles '{"site":"acme"}'
expect "a method that is not built" "r['code'] == 12 and $(detail ErrorInfo)['reason'] == 'NOT_SUPPORTED'"

echo "operators"
# operate METHOD MESSAGE: must succeed; the answer is in $out.
operate() {
    out=$("$grpcurl" -plaintext -max-time 20 -d "$2" "$operations" "steadfast.v1.OperatorService/$1" 2>&1) || fail "$1: $out"
}
operate GetStatus '{}'
expect "status" "r['status']['state'] == 'SERVING_STATE_SERVING' and r['status']['store']['state'].startswith('STORE_STATE_')"
operate PlaceHold '{"scope":{"site":"acme"},"mode":"HOLD_MODE_REJECT","reason":"smoke","owner":"smoke","expiresIn":"60s"}'
expect "a hold" "r['hold']['durable'] and r['hold']['hold']['id'] == 'hold-1'"
refuse Identify '{"site":"acme","user":"zoe","attributes":{"plan":{"stringValue":"x"}}}'
expect "a held write" "r['code'] == 9 and $(detail ErrorInfo)['reason'] == 'WRITES_HELD' and
    $(detail ErrorInfo)['metadata']['hold_id'] == 'hold-1' and $(detail ErrorInfo)['metadata']['kept'] == 'no'"
operate ReleaseHold '{"holdId":"hold-1","reason":"smoke","owner":"smoke"}'
call Identify '{"site":"acme","user":"zoe","attributes":{"plan":{"stringValue":"x"}}}'
operate TakeSnapshot '{"owner":"smoke"}'
expect "a snapshot" "r['snapshot']['state'] in ('TASK_STATE_RUNNING', 'TASK_STATE_DONE')"
operate ListIncidents '{}'
expect "no incident" "r == {}"

echo "monitoring"
out=$(curl -sS --fail-with-body --max-time 10 "http://$operations/healthz") || fail "healthz: $out"
expect "healthz" "r == {'status': 'ok'}"
out=$(curl -sS --fail-with-body --max-time 10 "http://$operations/readyz") || fail "readyz: $out"
expect "readyz" "r == {'status': 'ready'}"
out=$(curl -sS --fail-with-body --max-time 10 "http://$operations/metrics") || fail "metrics: $out"
expect "metrics" "text.count('# HELP steadfast_') > 10 and text.count('# TYPE steadfast_') > 10"
out=$(curl -sS --max-time 10 -o /dev/null -w '%{http_code}' "http://$operations/nothing") || fail "curl: $out"
expect "another path" "text == '404'"

stop_server
passed "gRPC by reflection"
