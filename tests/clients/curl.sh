#!/usr/bin/env bash
# curl as a client: the demo's printed lines, then examples/curl.sh, against the demo. Installs curl where it is missing.
. "$(dirname "$0")/common.bash"

need curl
build --bin r3mes-edge

"$built/r3mes-edge" demo --listen 127.0.0.1:0 --env-file "$scratch/env" > "$scratch/printed" 2> "$scratch/log" &
demo=$!
running+=("$demo")
await "$scratch/env" "$demo"

# The printed lines are those that are indented; the last of them runs examples/curl.sh, so they cover the whole story.
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

end "$demo"
[ ! -s "$scratch/log" ] || { cat "$scratch/log"; fail 'the demo logged a warning'; }
passed
