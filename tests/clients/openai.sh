#!/usr/bin/env bash
# OpenAI's own clients for Python and JavaScript against the real binary, with an inference server that misbehaves on
# demand behind it: what they read, what they raise, and that the bill says the same.
set -euo pipefail
cd "$(dirname "$0")/../.."
export no_proxy=127.0.0.1,localhost
unset RUST_LOG OPENAI_API_KEY OPENAI_BASE_URL
here=$PWD/tests/clients/openai

scratch=$(mktemp -d)
server='' upstream='' why='a command failed'
stop() {
  [ -z "$1" ] || { kill "$1" && wait "$1"; } 2> /dev/null || true
}
finish() {
  local code=$?
  stop "$server"
  stop "$upstream"
  rm -rf "$scratch"
  if [ "$code" = 0 ] && [ -z "$why" ]; then
    echo "tests/clients/openai.sh: passed"
  else
    echo "tests/clients/openai.sh: FAILED: $why"
  fi
}
trap finish EXIT
fail() {
  why=$1
  exit 1
}

why='python3 with venv and pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check openai
why='npm is needed'
cp "$here/client.mjs" "$scratch/"
(cd "$scratch" && npm install --silent --no-fund --no-audit --no-save openai > /dev/null)
why='the build failed'
cargo build --release --locked --bin r3mes-edge
edge=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/r3mes-edge

why='the inference server does not start'
python3 "$here/upstream.py" > "$scratch/port" &
upstream=$!
for _ in $(seq 100); do
  [ ! -s "$scratch/port" ] || break
  sleep 0.1
done
# 40 a minute: enough for what comes before, and one every 1.5 s after.
cat > "$scratch/edge.toml" <<TOML
listen = "127.0.0.1:0"
discover = false
rates = { chat = "40/min", write = "off" }
[[inference]]
name = "stand-in"
kind = "openai"
url = "http://127.0.0.1:$(cat "$scratch/port")"
[[inference]]
name = "dead"
kind = "openai"
url = "http://127.0.0.1:9"
adapters = ["dead"]
TOML

# A server of its own for each, so that neither meets the other's rates.
against() {
  local name=$1 database="$scratch/$1.db" printed
  shift
  why="$name: the server does not start"
  "$edge" --config "$scratch/edge.toml" --database "$database" > /dev/null 2> "$scratch/$name.log" &
  server=$!
  for _ in $(seq 100); do
    [ ! -s "$database.lock" ] || break
    sleep 0.1
  done
  EDGE=$(cat "$database.lock")
  local rich=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm poor=remes19asaj7tyd9p698uqq74dwx5m2k6882cvq3c9lx
  KEY=$("$edge" --database "$database" keys create --wallet $rich)
  POOR=$("$edge" --database "$database" keys create --wallet $poor)
  export EDGE KEY POOR
  curl -sf -o "$scratch/granted" "$EDGE/users/$rich/credits" -H "X-API-Key: $(cat "$database.admin-key")" \
    -d '{"amount":100,"reason":"test"}' || fail "$name: no credits"
  why="$name: a check failed"
  printed=$("$@") || { cat "$scratch/$name.log"; exit 1; }
  local charged=${printed#charged }
  curl -sf "$EDGE/users/$rich" > "$scratch/user"
  grep -qE "\"credits\":$((100 - charged))[,}]" "$scratch/user" || fail "$name: $printed, but the account is $(cat "$scratch/user")"
  why="$name: the ledger"
  "$edge" --database "$database" ledger verify
  kill "$server"
  wait "$server" || fail "$name: the server ended with $?"
  server=
  why="$name: the ledger of the stopped server"
  "$edge" --database "$database" ledger verify
  ! grep -qF -e "$KEY" -e "$POOR" "$scratch/$name.log" || fail "$name: a key is in the log"
  echo "$name: $printed"
}
against python "$scratch/venv/bin/python" "$here/client.py"
against javascript node "$scratch/client.mjs"

# Only whoever comes this far has passed.
why=
