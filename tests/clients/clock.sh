#!/usr/bin/env bash
# A wall clock that jumps under the real binary, by libfaketime: three years ahead for a minute, two years back, 1970 at the
# start, and ahead from the first start on. Nothing is deleted, no figure is wrong, the alert is the only one, and afterwards
# every answer is as before. Installs curl, jq and faketime where they are missing.
. "$(dirname "$0")/common.bash"

need curl jq faketime
need python3
library=$(compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' | head -n 1) || fail 'libfaketimeMT.so.1 is not there'
build --bin r3mes-edge
edge=$built/r3mes-edge
wallet=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm

fail() {
  why=$1
  [ ! -e "$scratch/log" ] || tail -n 30 "$scratch/log" | sed 's/^/  log: /'
  exit 1
}
ok() { echo "ok      $1"; }

# A miner's page, read every second.
mkdir "$scratch/page"
echo '{"hashrate": 42.5, "gpu_temp": 60.0}' > "$scratch/page/stats"
python3 -c '
import functools, http.server, sys
class Page(http.server.SimpleHTTPRequestHandler):
    log_message = lambda *a: None
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Page, directory=sys.argv[1]))
print(server.server_address[1], flush=True)
server.serve_forever()' "$scratch/page" > "$scratch/port" 2> "$scratch/log" &
running+=("$!")
await "$scratch/port" "$!"
cat > "$scratch/edge.toml" <<TOML
listen = "127.0.0.1:0"
discover = false
rates = { write = "off", read = "off", health = "off", telemetry = "off" }
[miner]
url = "http://127.0.0.1:$(cat "$scratch/port")/stats"
wallet = "$wallet"
every = "1s"
[alerts]
confirm = "1s"
miner_silent = "10s"
TOML

# set_clock TIME: as libfaketime reads it; +0 is the right time.
set_clock() { echo "$1" > "$scratch/time"; }
# start DATABASE: sets server, EDGE and KEY.
start() {
  database=$scratch/$1
  LD_PRELOAD=$library FAKETIME_TIMESTAMP_FILE=$scratch/time FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 \
    "$edge" --config "$scratch/edge.toml" --database "$database" > "$scratch/printed" 2> "$scratch/log" &
  server=$!
  running+=("$server")
  for _ in $(seq 100); do
    kill -0 "$server" 2> /dev/null || fail 'the server ended'
    EDGE=$(cat "$database.lock" 2> /dev/null || true)
    if [ -n "$EDGE" ] && curl -sf -o /dev/null "$EDGE/readyz"; then break; fi
    sleep 0.1
  done
  KEY=$(cat "$database.admin-key")
}
get() { curl -sf "$EDGE$1" -H "X-API-Key: $KEY" || fail "GET $1"; }
firing() { get /alerts | jq -c '[.firing[].name]'; }
# within SECONDS WHAT WANTED COMMAND…: the command prints this in time.
within() {
  local seconds=$1 what=$2 wanted=$3 got=
  shift 3
  for _ in $(seq $((seconds * 5))); do
    got=$("$@")
    [ "$got" != "$wanted" ] || { ok "$what"; return 0; }
    sleep 0.2
  done
  fail "$what: $got instead of $wanted"
}
same() { [ "$2" = "$3" ] && ok "$1" || fail "$1: $2 instead of $3"; }
# The figures that a reader sees, without their times.
figures() {
  get "/miner/stats/$wallet" | jq -c '[.hashrate, .gpu_temperature, .is_active, .total_earnings]'
  get '/leaderboard?period=week' | jq -c '.miners'
  get "/users/$wallet" | jq -c '[.credits, .is_miner]'
  get /network/stats | jq -c '[.active_miners, .total_users, .total_credits]'
}
year() { get "/miner/stats/$wallet" | jq -r '.recorded_at[:4]'; }
points() { get "/miner/hashrate/$wallet?hours=2&resolution=raw" | jq '.hashrate | length'; }
# grant NAME: a grant of one credit with this idempotency key; prints whether the response was replayed.
grant() {
  curl -sf -o /dev/null -D - "$EDGE/users/$wallet/credits" -H "X-API-Key: $KEY" -H "Idempotency-Key: $1" \
    -d '{"amount":1,"reason":"welcome"}' | tr -d '\r' | awk 'tolower($1) == "idempotency-replayed:" { print $2 }'
}
# How many entries are in the ledger, the audit trail and the list of keys; none may go.
entries() {
  local what
  for what in 'ledger export' 'audit list' 'keys list'; do
    # shellcheck disable=SC2086
    "$edge" --database "$database" $what | wc -l
  done | paste -sd ' '
}
# jumped WHAT SECONDS TIME: what holds in a jump and after it.
jumped() {
  local what=$1 seconds=$2 before rows stored
  before=$(figures) rows=$(points) stored=$(entries)
  set_clock "$3"
  within 10 "$what: the alert clock_jump fires" '["clock_jump"]' firing
  sleep "$seconds"
  same "$what: no other alert fires" "$(firing)" '["clock_jump"]'
  same "$what: the figures are the same" "$(figures)" "$before"
  same "$what: a stored response is replayed" "$(grant one)" true
  set_clock +0
  within 15 "$what: the alert ends with it" '[]' firing
  same "$what: the figures are the same afterwards" "$(figures)" "$before"
  same "$what: the newest sample is of this year" "$(year)" "$(date +%Y)"
  same "$what: no entry was deleted" "$(entries)" "$stored"
  [ "$(points)" -ge "$rows" ] || fail "$what: $(points) samples of $rows"
  ok "$what: no sample was deleted"
}

set_clock +0
start edge.db
curl -sf -o /dev/null "$EDGE/miner/earnings" -H "X-API-Key: $KEY" \
  -d "{\"wallet_address\":\"$wallet\",\"earnings\":2.5,\"source_id\":\"block-1\"}"
grant one > /dev/null
within 10 'the miner is read' 42.5 sh -c "curl -sf '$EDGE/miner/stats/$wallet' | jq .hashrate"
jumped 'two years back, seconds after the first start' 3 -2y
"$edge" --database "$database" db accept-clock
jumped 'three years ahead for a minute' 60 +3y
jumped 'two years back' 3 -2y

end "$server"
set_clock '@1970-01-01 00:00:05'
start edge.db
within 10 '1970 at the start: the alert clock_jump fires' '["clock_jump"]' firing
same '1970 at the start: the newest sample is of this year' "$(year)" "$(date +%Y)"
same '1970 at the start: a stored response is replayed' "$(grant one)" true
! "$edge" --database "$database" db accept-clock 2> /dev/null || fail 'a clock of 1970 was accepted'
set_clock +0
within 15 '1970 at the start: the alert ends when the clock is set' '[]' firing
same 'the ledger adds up' "$("$edge" --database "$database" ledger verify --full --json | jq -c .mistakes)" '[]'
end "$server"

set_clock +9y
start ahead.db
within 10 'ahead from the first start: the miner is read' 42.5 sh -c "curl -sf '$EDGE/miner/stats/$wallet' | jq .hashrate"
set_clock +0
echo '{"hashrate": 7.5, "gpu_temp": 61.5}' > "$scratch/page/stats"
within 5 'ahead from the first start: the latest figures are the latest' '[7.5,61.5,true]' \
  sh -c "curl -sf '$EDGE/miner/stats/$wallet' | jq -c '[.hashrate, .gpu_temperature, .is_active]'"
same 'ahead from the first start: the newest sample is of this year' "$(year)" "$(date +%Y)"
within 10 'ahead from the first start: the change is an alert' '["clock_jump"]' firing
"$edge" --database "$database" db accept-clock
within 15 'ahead from the first start: an accepted clock ends the alert' '[]' firing
end "$server"
passed
