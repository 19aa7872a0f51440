# What the scripts with a scripted inference server share. It is sourced after ../common.bash, not run.
#
# Starts upstream.py and writes $scratch/edge.toml for it; `against` runs a client against a new server. Sets `edge`, the program.
# R3MES_EDGE=FILE takes that instead of building one.
unset OPENAI_API_KEY OPENAI_BASE_URL OPENAI_API_BASE
edge=${R3MES_EDGE:-}
if [ -z "$edge" ]; then
  build --bin r3mes-edge
  edge=$built/r3mes-edge
fi

why='the inference server does not start'
python3 tests/clients/openai/upstream.py > "$scratch/port" 2> "$scratch/log" &
upstream=$!
running+=("$upstream")
await "$scratch/port" "$upstream"
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

# against NAME COMMAND…: a client against a server of its own, so that none meets another's rates. It gets EDGE, KEY and POOR, prints
# what it has seen, and at the end "charged" with the credits that it must have paid.
against() {
  local name=$1 database="$scratch/$1.db" printed
  shift
  why="$name: the server does not start"
  "$edge" --config "$scratch/edge.toml" --database "$database" > /dev/null 2> "$scratch/log" &
  server=$!
  running+=("$server")
  await "$database.lock" "$server"
  EDGE=$(cat "$database.lock")
  local rich=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm poor=remes19asaj7tyd9p698uqq74dwx5m2k6882cvq3c9lx
  KEY=$("$edge" --database "$database" keys create --wallet $rich)
  POOR=$("$edge" --database "$database" keys create --wallet $poor)
  export EDGE KEY POOR
  curl -sf -o "$scratch/granted" "$EDGE/users/$rich/credits" -H "X-API-Key: $(cat "$database.admin-key")" \
    -d '{"amount":100,"reason":"test"}' || fail "$name: no credits"
  why="$name: a check failed"
  printed=$("$@") || { cat "$scratch/log"; exit 1; }
  local charged=${printed##*charged }
  curl -sf "$EDGE/users/$rich" > "$scratch/user"
  grep -qE "\"credits\":$((100 - charged))[,}]" "$scratch/user" || fail "$name: $printed, but the account is $(cat "$scratch/user")"
  why="$name: the ledger"
  "$edge" --database "$database" ledger verify
  why="$name: the server's end"
  end "$server"
  why="$name: the ledger of the stopped server"
  "$edge" --database "$database" ledger verify
  ! grep -qF -e "$KEY" -e "$POOR" "$scratch/log" || fail "$name: a key is in the log"
  echo "$name: $printed"
}
