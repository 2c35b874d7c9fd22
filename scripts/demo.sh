#!/usr/bin/env bash
# The main job, as a user does it: start the suite, take in example/handbook, ask three questions, keep serving.
# ONCE=1 exits after the questions. CLARA_DEMO_DATA moves the data folder (default: data/demo).
set -euo pipefail
cd "$(dirname "$0")/.."
data=${CLARA_DEMO_DATA:-data/demo}
port=${CLARA_DEMO_PORT:-7400}
export CLARA_ADDR=http://127.0.0.1:$port
mkdir -p "$data"

bin/clara up --data "$data" --listen "127.0.0.1:$port" --nats-listen "127.0.0.1:${CLARA_DEMO_NATS_PORT:-4222}" >"$data/clara.log" 2>&1 &
suite=$!
trap 'kill -INT $suite 2>/dev/null || true; wait $suite 2>/dev/null || true' EXIT
echo "starting clara up (log: $data/clara.log)"
bin/clara wait --timeout 120s --pid $suite || { echo "clara up did not start; the end of $data/clara.log:"; tail -n 5 "$data/clara.log"; exit 1; } >&2

bin/clara models pull smollm2-135m --activate
bin/clara ingest example/handbook --collection handbook
for question in \
  "How soon must a lost laptop be reported to the help desk?" \
  "Within how many days must an expense report be handed in?" \
  "Who founded Halden Bay Instruments?"; do
  printf '\n> %s\n' "$question"
  # One passage and one paragraph: the example model is too small to keep five apart, and does not know when to stop.
  bin/clara ask --collection handbook --top-k 1 --stop $'\n\n' "$question"
done

if [ "${ONCE:-}" = 1 ]; then exit 0; fi
printf '\nserving on %s; ask more with: bin/clara ask --collection handbook "..."   (Ctrl-C stops)\n' "$CLARA_ADDR"
wait $suite
