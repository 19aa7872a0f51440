#!/usr/bin/env bash
# A real llama.cpp (a Python wheel of its server) with a tiny model before the real binary: clients that stream one chat
# right after the other must each get all of it, and the ledger must say what they paid.
#
# The long form adds a crash of the server and pictures, which this server cannot read and answers with 500:
#   SECONDS_A_ROUND=60 CLIENTS="1 4 8 16" IN_FLIGHT="1 4" FAULTS="crash pictures" tests/clients/llama.sh
# R3MES_EDGE=FILE takes that program instead of building one.
. "$(dirname "$0")/common.bash"
seconds=${SECONDS_A_ROUND:-20}
here=$PWD/tests/clients/llama

need curl
why='python3 with venv and pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check xllamacpp gguf numpy
edge=${R3MES_EDGE:-}
if [ -z "$edge" ]; then
  build --bin r3mes-edge
  edge=$built/r3mes-edge
fi
wallet=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm other=remes19asaj7tyd9p698uqq74dwx5m2k6882cvq3c9lx
granted=1000000

why='no model is made'
"$scratch/venv/bin/python" "$here/model.py" "$scratch/tiny.gguf"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# start_llama: sets llama; returns when it answers.
start_llama() {
  why='llama.cpp does not start'
  "$scratch/venv/bin/python" "$here/server.py" "$scratch/tiny.gguf" "$port" > "$scratch/llama.log" 2>&1 &
  llama=$!
  running+=("$llama")
  for _ in $(seq 150); do
    if curl -sf -o "$scratch/models" "http://127.0.0.1:$port/v1/models"; then
      why='a command failed'
      return
    fi
    kill -0 "$llama" 2> /dev/null || break
    sleep 0.2
  done
  tail -n 5 "$scratch/llama.log"
  fail "$why"
}

# serve IN_FLIGHT: starts the edge over a new database; sets server, EDGE and the keys KEY and OTHER.
serve() {
  cat > "$scratch/edge.toml" << TOML
listen = "127.0.0.1:0"
discover = false
rates = { chat = "off", write = "off", auth = "off" }
chat = { queue = 16 }
[[inference]]
name = "llama"
kind = "openai"
url = "http://127.0.0.1:$port"
in_flight = $1
TOML
  why="the server does not start"
  database=$scratch/edge-$1.db
  "$edge" --config "$scratch/edge.toml" --database "$database" > /dev/null 2> "$scratch/log" &
  server=$!
  running+=("$server")
  await "$database.lock" "$server"
  EDGE=$(cat "$database.lock") paid=0
  KEY=$("$edge" --database "$database" keys create --wallet $wallet 2> /dev/null)
  OTHER=$("$edge" --database "$database" keys create --wallet $other 2> /dev/null)
  export EDGE KEY
  for one in $wallet $other; do
    "$edge" --database "$database" credits grant $one $granted --reason test > "$scratch/out"
  done
  why='a command failed'
}

# load CLIENTS SECONDS: sets whole and failed, adds to paid. The first failures are in $scratch/load.
load() {
  why='the clients do not run'
  python3 "$here/load.py" "$1" "$2" > "$scratch/load"
  count
  why='a command failed'
}
count() {
  local now
  read -r whole failed now < "$scratch/load"
  paid=$((paid + now))
}

# settled WHAT: the ledger has what was paid, and nothing else.
settled() {
  why="$1: the ledger"
  "$edge" --database "$database" ledger verify > "$scratch/out" || { cat "$scratch/out"; fail "$why"; }
  curl -sf -o "$scratch/user" "$EDGE/users/$wallet"
  grep -qE "\"credits\":$((granted - paid))[,}]" "$scratch/user" ||
    fail "$1: $paid chats are paid, but the account is $(cat "$scratch/user")"
  why='a command failed'
}

# chat KEY BODY: the status of one that is not streamed.
chat() {
  curl -s -o "$scratch/answer" -w '%{http_code}' --max-time 60 "$EDGE/v1/chat/completions" -H "X-API-Key: $1" -d "$2"
}
hello='{"max_tokens":8,"logit_bias":{"2":-100},"messages":[{"role":"user","content":"hello"}]}'

# crash: llama.cpp dies under eight clients and comes back; soon after it no client is refused any more.
crash() {
  python3 "$here/load.py" 8 6 > "$scratch/load" &
  local load=$! back
  running+=("$load")
  sleep 2
  kill -KILL "$llama"
  wait "$llama" 2> /dev/null || true
  over "$llama"
  start_llama
  back=$(date +%s%N)
  wait "$load"
  over "$load"
  count
  until [ "$(chat "$KEY" "$hello")" = 200 ]; do
    [ $(($(date +%s%N) - back)) -lt 30000000000 ] || { cat "$scratch/answer"; fail 'after a crash of llama.cpp chats stay refused'; }
    sleep 0.2
  done
  paid=$((paid + 1))
  echo "ok      kill -9 of llama.cpp under 8 clients: $whole chats whole, $failed failed, answered again $((($(date +%s%N) - back) / 1000000)) ms after it was back"
  settled 'crash'
}

# pictures: what this server cannot read, asked for by two wallets in turn, shuts no client out.
pictures() {
  local picture key
  picture='{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}]}'
  for _ in $(seq 6); do
    for key in "$KEY" "$OTHER"; do
      [ "$(chat "$key" "$picture")" != 200 ] || fail 'a picture was understood'
    done
  done
  [ "$(chat "$KEY" "$hello")" = 200 ] || { cat "$scratch/answer"; fail 'pictures of two wallets shut the server for a third request'; }
  paid=$((paid + 1))
  echo 'ok      12 pictures of two wallets, each refused, and a chat after them is answered'
  settled 'pictures'
}

start_llama
printf '%-10s %-9s %-9s %-9s %-9s %s\n' clients in_flight seconds whole failed 'chats/s'
bad=0
for in_flight in ${IN_FLIGHT:-4}; do
  serve "$in_flight"
  for clients in ${CLIENTS:-8}; do
    load "$clients" "$seconds"
    printf '%-10s %-9s %-9s %-9s %-9s %s\n' "$clients" "$in_flight" "$seconds" "$whole" "$failed" $((whole / seconds))
    sed 1d "$scratch/load"
    [ "$whole" -gt 0 ] || fail 'no chat was answered'
    bad=$((bad + failed))
    settled "$clients clients"
  done
  for fault in ${FAULTS:-}; do "$fault"; done
  why="the server's end"
  end "$server"
  why='a command failed'
done
[ "$bad" = 0 ] || fail "$bad chats failed"
passed
