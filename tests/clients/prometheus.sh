#!/usr/bin/env bash
# Prometheus' own tools on what this version prints: its page in both formats, its rules, each of which fires and clears, and
# does not in a day of four nodes that are well, as tests/it records it; then a real Prometheus scrapes the real binary off
# loopback, with a key of its own, and a query gives the rate of chats. Installs Debian's prometheus and curl.
. "$(dirname "$0")/common.bash"
here=$PWD/tests/clients

need curl
if ! command -v promtool prometheus > /dev/null; then
  why='prometheus is needed'
  root=
  [ "$(id -u)" = 0 ] || root='sudo -n'
  $root apt-get update -q
  # Its service is not to be started.
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 $root apt-get install -q -y --no-install-recommends prometheus
  why='a command failed'
fi
need python3
build --bin r3mes-edge
edge=$built/r3mes-edge

"$edge" metrics rules > "$scratch/rules.yml"
cp "$here/prometheus/rules_test.yml" "$scratch/"
why='the rules are not right'
promtool check rules "$scratch/rules.yml"
promtool test rules "$scratch/rules_test.yml"
# Every alert that there is has its test.
for name in $(sed -n 's/.*- alert: //p' "$scratch/rules.yml"); do
  grep -q "alertname: $name, exp_alerts" "$scratch/rules_test.yml" || fail "$name is not tested"
done
why='a day of nodes that are well was not recorded'
RECORD_SERIES=$scratch cargo test --locked --test it alerts::day > "$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
why='the rules raise an alert in a day of nodes that are well'
for node in with-everything without-{miner,chain,model}; do
  promtool test rules "$scratch/$node.yml"
done

why='this machine has no address but loopback'
# No packet is sent.
address=$(python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("192.0.2.1", 9)); print(s.getsockname()[0])')
export no_proxy=$no_proxy,$address
why='the inference server does not start'
python3 "$here/openai/upstream.py" > "$scratch/port" 2> "$scratch/log" &
upstream=$!
running+=("$upstream")
await "$scratch/port" "$upstream"
cat > "$scratch/edge.toml" <<TOML
listen = "$address:0"
discover = false
rates = { chat = "off", read = "off", health = "off" }
[[inference]]
name = "stand-in"
kind = "openai"
url = "http://127.0.0.1:$(cat "$scratch/port")"
TOML
why='the server does not start'
"$edge" --config "$scratch/edge.toml" --database "$scratch/edge.db" > /dev/null 2> "$scratch/log" &
server=$!
running+=("$server")
await "$scratch/edge.db.lock" "$server"
EDGE=$(cat "$scratch/edge.db.lock")
admin=$(cat "$scratch/edge.db.admin-key")
wallet=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm
curl -sf "$EDGE/users/$wallet/credits" -H "X-API-Key: $admin" -d '{"amount":10000,"reason":"test"}' > "$scratch/granted"
key=$("$edge" --database "$scratch/edge.db" keys create --wallet $wallet 2> "$scratch/err")
"$edge" --database "$scratch/edge.db" keys create --wallet $wallet --scopes metrics > "$scratch/r3mes-edge.key" 2> "$scratch/err"

why='the page is not right'
curl -sf "$EDGE/metrics" -H "Authorization: Bearer $(cat "$scratch/r3mes-edge.key")" | promtool check metrics
# A rule or a panel that asks for what is not there is silent for ever. Tokens are there once an answer had some.
curl -sf --max-time 10 "$EDGE/chat" -H "X-API-Key: $key" -d '{"message":"hello"}' > "$scratch/text"
curl -sf "$EDGE/metrics" -H "Authorization: Bearer $(cat "$scratch/r3mes-edge.key")" | sed -n 's/^\([a-z_0-9]*\)[{ ].*/\1/p' | sort -u > "$scratch/names"
# Figures that this node has none of are left out.
sed -n 's/^    "\([a-z_0-9]*\)" [a-z_]*: Optional<.*/\1/p' src/metrics/table.rs >> "$scratch/names"
"$edge" metrics dashboard > "$scratch/dashboard.json"
for name in $(cat "$scratch/rules.yml" "$scratch/dashboard.json" | grep -oE '\b(r3mes|chat|credits|active)_[a-z0-9_]+\b' | sort -u); do
  grep -qx "$name" "$scratch/names" || fail "$name is asked for and not on the page"
done

why='the metrics are open off loopback'
[ "$(curl -s -o "$scratch/refused" -w '%{http_code}' "$EDGE/metrics")" = 401 ]
# As it is printed, but for the address and the pace.
cp "$scratch/rules.yml" "$scratch/r3mes-edge.rules.yml"
"$edge" metrics scrape | sed "s|127.0.0.1:8000|${EDGE#http://}|; s|scrape_interval: 15s|scrape_interval: 1s|" > "$scratch/prometheus.yml"
why='prometheus does not start'
promtool check config "$scratch/prometheus.yml"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
prometheus --config.file="$scratch/prometheus.yml" --storage.tsdb.path="$scratch/tsdb" --web.listen-address="127.0.0.1:$port" \
  > "$scratch/prometheus" 2>&1 &
watching=$!
running+=("$watching")
# query TEXT: the first value of its answer, or nothing.
query() {
  # Until it has started it answers 503.
  curl -sf --max-time 5 -G "http://127.0.0.1:$port/api/v1/query" --data-urlencode "query=$1" > "$scratch/result" || return 0
  python3 -c 'import json, sys
result = json.load(open(sys.argv[1]))["data"]["result"]
print(result[0]["value"][1] if result else "")' "$scratch/result"
}
why='the rate of chats does not come'
rate=
for _ in $(seq 60); do
  kill -0 "$watching" 2> /dev/null || { cat "$scratch/prometheus"; fail 'prometheus ended'; }
  curl -sf --max-time 10 "$EDGE/chat" -H "X-API-Key: $key" -d '{"message":"hello"}' > "$scratch/text"
  rate=$(query 'sum(rate(chat_requests_total{status="success"}[10s])) > 0')
  [ -z "$rate" ] || break
  sleep 0.5
done
[ -n "$rate" ] || fail 'a query gives no rate of chats'
echo "chats a second, as Prometheus sees them: $rate"
[ "$(query 'up{job="r3mes-edge"}')" = 1 ] || fail 'the target is not up'
[ -z "$(query 'ALERTS{alertstate="firing"}')" ] || fail 'an alert fires on a healthy node'
end "$server"
passed
