#!/usr/bin/env bash
# curl as a client: the demo's printed lines, then examples/curl.sh, against the demo. Installs curl where it is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
# A proxy is for the world outside; the server is on this machine.
export no_proxy=127.0.0.1,localhost
# Its warnings are read below.
unset RUST_LOG

scratch=$(mktemp -d)
demo=
why='a command failed'
finish() {
  local code=$?
  [ -z "$demo" ] || { kill "$demo" && wait "$demo"; } 2> /dev/null || true
  rm -rf "$scratch"
  # The last line, whatever was printed before.
  if [ "$code" = 0 ] && [ -z "$why" ]; then
    echo "tests/clients/curl.sh: passed"
  else
    echo "tests/clients/curl.sh: FAILED: $why"
  fi
}
trap finish EXIT
fail() {
  why=$1
  exit 1
}

if ! command -v curl > /dev/null; then
  root=
  [ "$(id -u)" = 0 ] || root='sudo -n'
  $root apt-get update -q
  DEBIAN_FRONTEND=noninteractive $root apt-get install -q -y --no-install-recommends curl ca-certificates
fi

cargo build --release --locked --example demo
target=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

"$target/release/examples/demo" --listen 127.0.0.1:0 --env-file "$scratch/env" > "$scratch/printed" 2> "$scratch/log" &
demo=$!
for _ in $(seq 100); do
  [ ! -e "$scratch/env" ] || break
  kill -0 "$demo" 2> /dev/null || break
  sleep 0.1
done
[ -e "$scratch/env" ] || { cat "$scratch/log"; fail 'the demo does not serve'; }

# The printed lines are those that are indented; the last of them runs examples/curl.sh, so they tell the whole story.
sed -n 's/^  //p' "$scratch/printed" > "$scratch/lines"
[ "$(wc -l < "$scratch/lines")" -ge 10 ] || fail 'the demo printed fewer lines than there should be'
# Not -e: pasted lines go on after one that failed, so each one's answer is looked at instead.
bash "$scratch/lines" > "$scratch/answers" 2>&1 < /dev/null || { cat "$scratch/answers"; fail 'a printed line failed'; }
cat "$scratch/answers"
for text in '"credits":100,' 'Your words, last one first: me? to back come words Which' '"reason":"welcome"' '"hashrate_unit":"gradients/h"' \
  '"block_height":1' '"network":"r3mes-demo"' 'chat_requests_total{' '"inference":true' 'curl.sh: the whole story works'; do
  grep -qF "$text" "$scratch/answers" || fail "the answers to the printed lines do not hold $text"
done

# By the assignments of the file as well, which is how other scripts find the demo. Limits of the first run are waited for.
( set -a && . "$scratch/env" && bash examples/curl.sh ) || fail 'examples/curl.sh'

kill "$demo"
wait "$demo" || fail "the demo ended with $?"
demo=
[ ! -s "$scratch/log" ] || { cat "$scratch/log"; fail 'the demo logged a warning'; }

# Only whoever comes this far has passed.
why=
