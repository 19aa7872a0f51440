#!/usr/bin/env bash
# Each example in Rust, and the receiver of alerts: started, asked, and ended with Ctrl-C.
. "$(dirname "$0")/common.bash"

need curl python3
why='the examples do not build'
cargo build --quiet --locked --examples --bins
target=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug
why='a command failed'
cd "$scratch"
export WALLET=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm

# start NAME: sets said, what it printed first, and pid.
start() {
  "$target/examples/$1" > "$1.out" 2> log &
  pid=$!
  running+=("$pid")
  await "$1.out" "$pid"
  read -r said < "$1.out"
}
# stop: by Ctrl-C, which must go well.
stop() {
  local code=0
  kill -INT "$pid"
  wait "$pid" || code=$?
  over "$pid"
  [ "$code" = 0 ] || fail "Ctrl-C ended it with $code"
}
# wants TEXT FILE
wants() { grep -qF -- "$1" "$2" || { cat "$2"; fail "no $1"; }; }

[ "$(wc -l < "$OLDPWD/examples/embed.rs")" -lt 40 ] || fail 'examples/embed.rs has 40 lines or more'
start embed
curl -sf "$said" > answer
stop
wants '"status":"ok"' answer
# By the host's own logger.
wants 'host: ' log

start miner_agent
for _ in $(seq 100); do
  curl -s "$said" > answer
  ! grep -q '"gpu_temperature":61.5' answer || break
  sleep 0.1
done
stop
wants '"gpu_temperature":61.5' answer

start own_routes
[ "$(curl -s "$said")" = 40 ] || fail 'the fan shows no speed'
[ "$(curl -s -o /dev/null -w '%{http_code}' -X PUT -d 30 "$said")" = 403 ] || fail 'anybody turns the fan'
curl -s "${said%/rig/fan}/metrics" > answer
stop
wants 'route="own",method="any",status="2xx"} 1' answer

start custom_store
edge=${said% *} key=${said#* }
grant() { curl -s "$edge/users/$WALLET/credits" -H "X-API-Key: $key" -d "{\"amount\":$1,\"reason\":\"test\"}"; }
grant 100 > answer
wants '"credits":100,' answer
grant 101 > answer
wants 'at most 100 credits at once' answer
stop
wants "journal: $WALLET 100 -> 100" custom_store.out

# The receiver, and a server whose only upstream is shut by hand.
python3 "$OLDPWD/examples/webhook_receiver.py" --listen 127.0.0.1:0 --file webhook > alerts 2> log &
receiver=$!
running+=("$receiver")
await webhook "$receiver"
cat > r3mes-edge.toml << 'END'
listen = "127.0.0.1:0"
discover = false
[[inference]]
name = "node"
kind = "openai"
url = "http://127.0.0.1:9"
[alerts]
confirm = "1s"
webhook_file = "webhook"
END
"$target/r3mes-edge" > printed 2> log &
pid=$!
running+=("$pid")
await printed "$pid"
# received STATE: waits until the receiver has the breaker's alert in this state.
received() {
  for _ in $(seq 200); do
    ! grep -q "$1" alerts || break
    sleep 0.1
  done
  wants "$1 \"breaker_open\" \"node\"" alerts
}
"$target/r3mes-edge" breaker open node > /dev/null
received firing
"$target/r3mes-edge" breaker reset node > /dev/null
received resolved
# It refuses other senders, and bodies that are no alert.
address=$(cat webhook)
code() { curl -s -o /dev/null -w '%{http_code}' "$@"; }
[ "$(code -d '{}' "${address%/*}/guess")" = 404 ] || fail 'a guess is let in'
[ "$(code -d '{}' "$address")" = 400 ] || fail 'nonsense is taken'
end "$pid"
kill "$receiver"
wait "$receiver" 2> /dev/null || true
over "$receiver"
passed
