#!/usr/bin/env bash
# A flood of made-up keys, half of them with a right checksum, through a trusted proxy from many addresses, against the real
# binary with its default rates; a good client is served beside it. First from some addresses again and again, where
# only so many keys may be looked up as the rate of failures lets through; then every request from an address of its own,
# where the tables may grow no further. REQUESTS=1000000 for the long form. Installs wrk where it is missing.
. "$(dirname "$0")/common.bash"
requests=${REQUESTS:-100000}

need curl wrk
need python3

build --bin r3mes-edge
edge=$built/r3mes-edge

printf 'listen = "127.0.0.1:0"\ndiscover = false\n[log]\nlevel = "warn"\n[auth]\ntrusted_proxies = ["127.0.0.1/32"]\nhosts = ["127.0.0.1"]\npublic_name = "flood"\n' > "$scratch/config.toml"
"$edge" --config "$scratch/config.toml" --database "$scratch/edge.db" > "$scratch/printed" 2> "$scratch/log" &
server=$!
running+=("$server")
await "$scratch/edge.db.lock" "$server"
EDGE=$(cat "$scratch/edge.db.lock")
KEY=$("$edge" --database "$scratch/edge.db" keys create --wallet remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm 2> "$scratch/err")
export KEY

memory() { awk '/^VmRSS/ { print $2 }' "/proc/$server/status"; }
# page: the metrics, asked for by the admin from an address of its own.
page() {
  curl -sf --max-time 20 --interface 127.0.0.3 "$EDGE/metrics" -H "X-API-Key: $(cat "$scratch/edge.db.admin-key")" > "$scratch/page"
}
# figure SERIES: its value on that page; 0 where it is not there.
figure() { awk -v series="$1" '$1 == series { value = $2 } END { print value + 0 }' "$scratch/page"; }
# flood REQUESTS ADDRESSES: sets looked_up, asked and took (seconds, rounded up).
flood() {
  local began=$SECONDS before_looked before_asked
  page
  before_looked=$(figure r3mes_key_lookups_total)
  before_asked=$(asked)
  wrk -t2 -c64 -d 900s --timeout 20s -s tests/clients/flood.lua "$EDGE" -- "$1" 2 "$2" > "$scratch/wrk" &
  wrk=$!
  running+=("$wrk")
  # Its threads end when they have asked enough; it itself sleeps on until it is interrupted.
  while
    sleep 0.5
    page
    [ $(($(asked) - before_asked)) -lt "$1" ] && kill -0 "$wrk" 2> /dev/null
  do :; done
  took=$((SECONDS - began + 1))
  { kill -INT "$wrk" && wait "$wrk"; } || fail 'wrk failed'
  over "$wrk"
  page
  looked_up=$(($(figure r3mes_key_lookups_total) - before_looked))
  asked=$(($(asked) - before_asked))
  ! grep 'Socket errors' "$scratch/wrk" || fail 'connections failed'
}
# asked: the requests answered so far to those whose key is not good.
asked() {
  awk '/^r3mes_http_requests_total.*route="\/auth\/me".*status="4xx"/ { sum += $2 } END { print sum + 0 }' "$scratch/page"
}
# others: the answers so far that are neither good nor a refusal of the key or the rate.
others() {
  awk '/^r3mes_http_requests_total/ && !/status="2xx"|route="\/auth\/me".*status="4xx"/ { sum += $2 } END { print sum + 0 }' "$scratch/page"
}

page
echo "memory before: $(memory) KiB"
# Four a second is below the default rate of reads.
python3 tests/clients/neighbour.py "$EDGE" 127.0.0.2 900 4 > "$scratch/good" &
good=$!
running+=("$good")

again=$((requests / 4))
addresses=$((requests / 1000))
echo "== $again requests from $addresses addresses"
flood $again $addresses
# The rate of failures is 20 a minute, all of which may come at once.
budget=$((addresses * (20 + took / 3 + 1)))
echo "$asked refused, $looked_up keys looked up (at most $budget), $(figure 'r3mes_rate_limited_total{class="failures"}') refused before a look-up; memory $(memory) KiB"
[ "$asked" -ge "$again" ] || fail "only $asked of $again requests were refused as they should"
[ "$looked_up" -le "$budget" ] || fail 'more keys were looked up than the rate of failures lets through'
[ "$looked_up" -ge "$addresses" ] || fail 'hardly a key was looked up, so nothing was shown'

new=$((requests - again))
echo "== $new requests, each from an address of its own"
flood $new 0
echo "$asked refused, $looked_up keys looked up; memory $(memory) KiB"
[ "$asked" -ge "$new" ] || fail "only $asked of $new requests were refused as they should"
# One that fails its checksum is never looked up, and that is every other one.
[ "$looked_up" -le $((asked * 51 / 100)) ] || fail 'keys with a wrong checksum were looked up'
for class in read failures; do
  entries=$(figure "r3mes_rate_limiter_entries{class=\"$class\"}")
  echo "buckets held of the class $class: $entries"
  [ "$entries" -gt 0 ] && [ "$entries" -le 65536 ] || fail "$entries buckets of the class $class"
done

kill -INT "$good"
wait "$good" || { cat "$scratch/good"; fail 'the good client was not served'; }
over "$good"
cat "$scratch/good"
page
[ "$(others)" = 0 ] || { grep '^r3mes_http_requests_total' "$scratch/page"; fail "$(others) other answers"; }
after=$(memory)
echo "memory at the end: $after KiB"
[ "$after" -le 65536 ] || fail 'the memory is not bounded'
end "$server"
[ ! -s "$scratch/log" ] || { cat "$scratch/log"; fail 'the server logged a warning'; }
passed
