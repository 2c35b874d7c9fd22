#!/usr/bin/env bash
# Tries the containers for real on this machine's Docker daemon: builds, starts, takes in example/handbook by upload and by
# event, asks, scales, kills a replica in mid-work, restarts services, and compares the index with the records.
# Nothing is pulled: NATS and the index come from docker-compose.local.yml. Cleans up however it ends.
# usage: scripts/compose-test.sh        needs bin/clara, the example model (make build deps), docker compose 2.24 or later
#   COMPOSE="docker compose"   command    CLARA=bin/clara   program    LIMIT=3600   seconds, after which it gives up
#   CLARA_PORTS=79 CLARA_PORT_NATS=7999   published ports: 79xx, 7999    KEEP=1   leave the containers running
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${CLARA_COMPOSE_TEST_BOUNDED:-}" ]; then
  CLARA_COMPOSE_TEST_BOUNDED=1 exec timeout --kill-after=60 "${LIMIT:-3600}" "$BASH" "scripts/$(basename "$0")" "$@"
fi

export CLARA_PORTS=${CLARA_PORTS:-79} CLARA_PORT_NATS=${CLARA_PORT_NATS:-7999} CLARA_VERSION=${CLARA_VERSION:-test}
export CLARA_ADDR=http://127.0.0.1:${CLARA_PORTS}00 CLARA_NATS_URL=nats://127.0.0.1:$CLARA_PORT_NATS
export CLARA_DOCUMENTS=$PWD/example
unset CLARA_MODELS CLARA_BLOB_URL CLARA_INGEST_ADDR CLARA_GENERATOR_ADDR CLARA_TRAINER_ADDR
clara=${CLARA:-bin/clara}
work=$(mktemp -d)
read -ra compose <<<"${COMPOSE:-docker compose}"
compose+=(-p clara-test -f docker-compose.yml -f docker-compose.local.yml)
compose() { "${compose[@]}" "$@"; }
ids() { compose ps -q "$1"; }
name() { docker inspect -f '{{.Name}}' "$1" | tr -d /; }

finish() {
  local status=$?
  trap - EXIT
  if [ $status != 0 ]; then
    echo "FAILED: the last lines of each service:" >&2
    compose ps -a >&2 || true
    compose logs --no-color --tail 15 >&2 || true
  fi
  if [ -z "${KEEP:-}" ]; then compose down -v --timeout 5 --remove-orphans >"$work/down.log" 2>&1 || cat "$work/down.log" >&2; fi
  rm -rf "$work"
  exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

started=$SECONDS
step() { printf '[%4d s] %s\n' $((SECONDS - started)) "$*"; }
fail() { echo "compose-test: $*" >&2; exit 1; }
# until SECONDS COMMAND..: until the command holds.
until_holds() {
  local end=$((SECONDS + $1)); shift
  until "$@"; do
    [ $SECONDS -lt $end ] || fail "not so within its time: $*"
    sleep 1
  done
}
call() { curl -sS --fail-with-body --max-time 120 -H 'Content-Type: application/json' -d "$2" "$CLARA_ADDR/$1"; }

# settled COLLECTION COUNT: so many documents are searchable, and none is on its way or failed.
settled() {
  "$clara" docs list -c "$1" --json >"$work/docs" 2>/dev/null && python3 - "$work/docs" "$2" <<'PY'
import json, sys
states = [json.loads(line)["state"] for line in open(sys.argv[1])]
failed = [s for s in states if s in ("STATE_FAILED", "STATE_CANCELLED")]
if failed:
    print("compose-test: documents failed:", failed, file=sys.stderr)
sys.exit(0 if len(states) == int(sys.argv[2]) and set(states) <= {"STATE_READY", "STATE_PARTIAL"} else 1)
PY
}

# exact COLLECTION: every passage of the records is in the index once, and nothing else is. Prints how many.
exact() {
  call clara.ingest.v1.IngestService/GetCollection "{\"name\": \"collections/$1\"}" >"$work/collection"
  "$clara" docs list -c "$1" --json >"$work/docs"
  # What the records say and what the index holds, compared by compressor itself.
  call clara.compressor.v1.CompressorService/SweepIndex "$(python3 - "$work/docs" "$work/collection" "$1" <<'PY'
import json, sys
docs = [json.loads(line) for line in open(sys.argv[1])]
print(json.dumps({"collection": sys.argv[3], "index": json.load(open(sys.argv[2]))["index"], "repair": False, "expected": [
    {"document": d["name"].split("/")[-1], "revision": d["revision"], "passages": d.get("passage_count", 0)} for d in docs]}))
PY
)" >"$work/sweep"
  python3 - "$work/docs" "$work/sweep" "$1" <<'PY'
import json, sys
want = sum(json.loads(line).get("passage_count", 0) for line in open(sys.argv[1]))
sweep = json.load(open(sys.argv[2]))
got = int(sweep.get("points", 0))
if got != want or sweep.get("orphans") or sweep.get("incomplete"):
    sys.exit(f"compose-test: {sys.argv[3]}: {want} passages, {got} points, {sweep}")
print(got)
PY
}

# metric CONTAINER NAME: the sum of a counter over its labels.
metric() {
  local port
  port=$(docker port "$1" 8080 | sed -n 1p)
  curl -sS --max-time 10 "http://$port/metrics" | awk -v n="$2" '$1 ~ "^" n "({|$)" {s += $NF} END {printf "%d\n", s}'
}
# shares SERVICE METRIC: how much each replica did; fails where one did nothing.
shares() {
  local id n all=0
  for id in $(ids "$1"); do
    n=$(metric "$id" "$2")
    echo "           $(name "$id"): $n"
    [ "$n" -gt 0 ] || fail "$(name "$id") did nothing: $2 is 0"
    all=$((all + n))
  done
  total=$all
}

step "compose files are valid, with GPUs too"
compose -f docker-compose.gpu.yml config -q
compose config -q

step "building"
compose build -q
step "built: sizes in MB"
for s in ingest synthesis compressor reranker generator trainer clara nats index; do
  printf '           %-11s %s\n' $s "$(docker image inspect -f '{{.Size}}' "clara/$s:$CLARA_VERSION" | awk '{printf "%.0f", $1/1e6}')"
done

compose down -v --timeout 5 >/dev/null 2>&1 || true
step "starting"
up=$SECONDS
compose up -d --wait --wait-timeout 300 >"$work/up.log" 2>&1 || { cat "$work/up.log" >&2; exit 1; }
step "all healthy after $((SECONDS - up)) s"

for s in $(compose config --services); do
  for id in $(ids "$s"); do
    [ "$(docker exec "$id" id -u)" != 0 ] || fail "$s runs as root"
  done
done
code=$(curl -s -o /dev/null -w '%{http_code}' -H 'Host: bent.example' "$CLARA_ADDR/healthz")
[ "$code" = 403 ] || fail "a foreign Host header got $code instead of 403"
step "no container runs as root, foreign Host headers are refused"
compose exec -T trainer clara-train info >"$work/train" 2>&1 || { cat "$work/train" >&2; fail "clara-train does not run in the trainer's container"; }
step "clara-train runs in the trainer's container: $(cut -c1-60 "$work/train")"

model=$(scripts/deps.sh smollm2)
docker cp -q "$model" "$(ids trainer):/models/" 2>/dev/null || docker cp "$model" "$(ids trainer):/models/" >/dev/null
"$clara" models import "/models/$(basename "$model")/$(cd "$model" && ls ./*.gguf | sed -n 1p | cut -c3-)" --name smollm2-135m --activate >"$work/import.log" 2>&1 || { cat "$work/import.log" >&2; exit 1; }
step "model imported and active"

files=$(find example/handbook -type f | wc -l)
"$clara" ingest example/handbook -c handbook >"$work/ingest.log" 2>&1 || { cat "$work/ingest.log" >&2; exit 1; }
settled handbook "$files" || fail "documents of handbook are not all searchable"
uploaded=$(exact handbook)
step "uploaded $files files through the gateway: $uploaded passages, each in the index once"

find example/handbook -type f -printf '%P\n' | while read -r f; do
  "$clara" events publish clara.ingest.requested.v1 "$(python3 -c 'import json, sys, urllib.parse
print(json.dumps({"collection": "by-uri", "uri": "file:///documents/handbook/" + urllib.parse.quote(sys.argv[1])}))' "$f")" >/dev/null
done
until_holds 180 settled by-uri "$files"
[ "$(exact by-uri)" = "$uploaded" ] || fail "by event: $(exact by-uri) passages, by upload $uploaded"
step "the same $files files by events with file URIs: as many passages, each in the index once"

ask() { timeout 300 "$clara" ask -c handbook --top-k 2 --max-tokens 8 --json "$1" 2>"$work/ask.err" || { cat "$work/ask.err" >&2; return 1; }; }
ask "How soon must a lost laptop be reported to the help desk?" >"$work/answer"
grep -q 'security.html' "$work/answer" || { cat "$work/answer" >&2; fail "the answer cites no security.html"; }
compose exec -T gateway clara ask -c handbook --max-tokens 4 "How soon must a lost laptop be reported to the help desk?" >"$work/answer" 2>&1 || { cat "$work/answer" >&2; fail "clara does not run in the gateway's container"; }
grep -q 'security.html' "$work/answer" || { cat "$work/answer" >&2; fail "clara in the gateway's container gives no source"; }
step "asked, from this machine and in the container: the right source is cited"

compose up -d --wait --wait-timeout 300 --scale compressor=2 --scale generator=2 >"$work/up.log" 2>&1 || { cat "$work/up.log" >&2; exit 1; }
step "scaled to two compressors and two generators: $(for s in compressor generator; do for id in $(ids $s); do docker port "$id" 8080; done; done | tr '\n' ' ')"
before=0
for id in $(ids compressor); do before=$((before + $(metric "$id" clara_compressor_passages_total))); done

# A document for each line; each has passages of its own.
texts() {
  mkdir -p "$work/$1"
  python3 - "$work/$1" "$1" "$2" <<'PY'
import sys
folder, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for i in range(count):
    with open(f"{folder}/{name}-{i:03}.md", "w") as f:
        f.write(f"# Buoy {i} of {name}\n\n")
        for day in range(1, 41):
            f.write(f"## Day {day}\n\nOn day {day} buoy {i} of the series {name} measured {(i * 37 + day * 11) % 97} units at {(i + day) % 24} o'clock. " * 4 + "\n\n")
PY
}
texts shared 60
"$clara" ingest "$work/shared" -c shared >"$work/ingest.log" 2>&1 || { cat "$work/ingest.log" >&2; exit 1; }
points=$(exact shared)
step "60 documents, $points passages written to the index by:"
shares compressor clara_compressor_passages_total
[ $((total - before)) = "$points" ] || fail "$((total - before)) passages were written for $points: some were done twice"

step "8 questions at once; tokens generated by:"
asked=()
for i in $(seq 8); do
  ask "What is rule $i for lost laptops?" >"$work/answer.$i" 2>&1 &
  asked+=($!)
done
for pid in "${asked[@]}"; do wait "$pid" || fail "a question got no answer: $(tail -n 2 "$work"/answer.*)"; done
shares generator clara_generator_tokens_total

texts killed 150
victim=$(ids compressor | sed -n 1p)
worked=$(metric "$victim" clara_compressor_passages_total)
"$clara" ingest "$work/killed" -c killed >"$work/ingest.log" 2>&1 &
ingest=$!
until [ "$(metric "$victim" clara_compressor_passages_total)" != "$worked" ]; do
  kill -0 $ingest 2>/dev/null || fail "$(name "$victim") had no part in the work"
  sleep 0.1
done
docker kill "$victim" >/dev/null
killed=$SECONDS
wait $ingest || { cat "$work/ingest.log" >&2; fail "documents failed through the loss of a compressor"; }
settled killed 150 || fail "documents are not all searchable after the loss of a compressor"
[ $SECONDS -gt $killed ] || echo "           (all was done when it was killed)"
step "150 documents, one compressor killed in mid-work: $(exact killed) passages, each in the index once"

victim=$(ids generator | sed -n 1p)
docker kill "$victim" >/dev/null
for i in 1 2 3; do ask "What is rule $i for lost laptops?" >"$work/answer"; done
step "one generator killed: the other answers"

for s in ingest compressor reranker generator trainer synthesis gateway nats qdrant; do
  compose restart --timeout 45 $s >/dev/null 2>&1 || fail "restart $s"
done
compose up -d --wait --wait-timeout 300 >"$work/up.log" 2>&1 || { cat "$work/up.log" >&2; exit 1; }
ask "How soon must a lost laptop be reported to the help desk?" >"$work/answer"
grep -q 'security.html' "$work/answer" || { cat "$work/answer" >&2; fail "after restarts the answer cites no security.html"; }
for c in handbook by-uri shared killed; do exact $c >/dev/null; done
step "each service restarted, nats and the index too: healthy, nothing lost, still answers"
step "passed"
