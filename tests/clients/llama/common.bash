# What the scripts with a real llama.cpp share. It is sourced after ../common.bash, not run.
#
# Makes a virtual environment, two models (`tiny.gguf` answers at once, `slow.gguf` takes seconds for a long answer), and sets
# `edge`, the program. R3MES_EDGE=FILE takes that instead of building one.
here=$PWD/tests/clients/llama
need curl
need_venv
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
"$scratch/venv/bin/python" "$here/model.py" "$scratch/slow.gguf" 512 6
why='a command failed'

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# answers URL PID TEXT: waits until there is an answer at the URL; else TEXT is what failed, and $scratch/PID.log says why.
answers() {
  local url=$1 pid=$2
  why=$3
  for _ in $(seq 300); do
    if curl -sf -o "$scratch/out" "$url"; then
      why='a command failed'
      return
    fi
    kill -0 "$pid" 2> /dev/null || break
    sleep 0.2
  done
  tail -n 20 "$scratch/upstream.log"
  fail "$why"
}

# start_llama MODEL PORT [SECONDS [PROJECTOR [embeddings]]]: sets llama, server.py of these; returns when it answers.
start_llama() {
  local model=$1 port=$2
  shift 2
  "$scratch/venv/bin/python" "$here/server.py" "$scratch/$model.gguf" "$port" "$@" > "$scratch/upstream.log" 2>&1 &
  llama=$!
  running+=("$llama")
  answers "http://127.0.0.1:$port/v1/models" "$llama" 'llama.cpp does not start'
}

# kill_hard PID
kill_hard() {
  kill -KILL "$1"
  wait "$1" 2> /dev/null || true
  over "$1"
}

# serve PORT [LINE…]: starts the edge over a new database before the server at the port, with these lines about it; sets
# server, EDGE and the keys KEY and OTHER.
serve() {
  local port=$1
  shift
  cat > "$scratch/edge.toml" << TOML
listen = "127.0.0.1:0"
discover = false
rates = { chat = "off", write = "off", auth = "off" }
chat = { queue = 16 }
[[inference]]
name = "upstream"
kind = "openai"
url = "http://127.0.0.1:$port"
$(printf '%s\n' "$@")
TOML
  why="the server does not start"
  rm -f "$scratch"/edge.db*
  database=$scratch/edge.db
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

# scene NAME [ARGUMENT…]: one of scenes.py; adds to paid.
scene() {
  local code=0
  python3 "$here/scenes.py" "$@" > "$scratch/scene" || code=$?
  seen "$1" "$code"
}
# seen NAME CODE: how a scene ended.
seen() {
  [ "$2" = 0 ] || { cat "$scratch/scene"; grep -v '"INFO"' "$scratch/log" | tail -n 20 || true; fail "$1: see above"; }
  sed '$d' "$scratch/scene"
  paid=$((paid + $(tail -n 1 "$scratch/scene")))
  settled "$1"
}

# die PID: it is killed in the middle of four long answers.
die() {
  local code=0 clients
  rm -f "$scratch/begun"
  python3 "$here/scenes.py" die 4 "$scratch/begun" > "$scratch/scene" &
  clients=$!
  running+=("$clients")
  while [ ! -e "$scratch/begun" ] && kill -0 "$clients" 2> /dev/null; do sleep 0.05; done
  kill_hard "$1"
  wait "$clients" || code=$?
  over "$clients"
  seen 'die' "$code"
}

# settled WHAT: the ledger has what was paid, and nothing else. A chat whose client left is charged when that is noticed.
settled() {
  why="$1: the ledger"
  for _ in $(seq 20); do
    curl -sf -o "$scratch/user" "$EDGE/users/$wallet"
    ! grep -qE "\"credits\":$((granted - paid))[,}]" "$scratch/user" || break
    sleep 0.1
  done
  grep -qE "\"credits\":$((granted - paid))[,}]" "$scratch/user" ||
    fail "$1: $paid chats are paid, but the account is $(cat "$scratch/user")"
  "$edge" --database "$database" ledger verify --full > "$scratch/out" || { cat "$scratch/out"; fail "$why"; }
  why='a command failed'
}

# blameless: no failure was counted but those of the clients' own requests, and no breaker opened.
blameless() {
  curl -sf -o "$scratch/metrics" "$EDGE/metrics"
  ! grep -E '^r3mes_upstream_failures_total|^r3mes_breaker_transitions_total' "$scratch/metrics" |
    grep -vE 'cause="request"| 0$' || fail 'the server is blamed for what its clients did'
}

# chat KEY BODY: the status of one that is not streamed.
chat() {
  curl -s -o "$scratch/answer" -w '%{http_code}' --max-time 60 "$EDGE/v1/chat/completions" -H "X-API-Key: $1" -d "$2"
}
hello='{"max_tokens":8,"logit_bias":{"256":-100,"258":-100},"messages":[{"role":"user","content":"hello"}]}'

# again SINCE: chats are answered again, at most 30 s after that time in ns; sets took, in ms.
again() {
  until [ "$(chat "$KEY" "$hello")" = 200 ]; do
    [ $(($(date +%s%N) - $1)) -lt 30000000000 ] || { cat "$scratch/answer"; fail 'chats stay refused'; }
    sleep 0.2
  done
  took=$((($(date +%s%N) - $1) / 1000000)) paid=$((paid + 1))
}

# pictures: what this model cannot read, asked for by two wallets in turn, shuts no client out.
pictures() {
  local picture key
  picture='{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}]}'
  for _ in $(seq 6); do
    for key in "$KEY" "$OTHER"; do
      [ "$(chat "$key" "$picture")" = 400 ] || { cat "$scratch/answer"; fail 'a picture is not refused'; }
    done
  done
  grep -q '"code":"unsupported_media"' "$scratch/answer" || { cat "$scratch/answer"; fail 'a picture is refused without a reason'; }
  [ "$(chat "$KEY" "$hello")" = 200 ] || { cat "$scratch/answer"; fail 'pictures of two wallets shut the server for a third request'; }
  paid=$((paid + 1))
  echo 'ok      12 pictures of two wallets, each refused as unsupported_media, and a chat after them is answered'
  settled 'pictures'
}
