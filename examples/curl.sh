#!/usr/bin/env bash
# The whole story of a wallet, with curl alone against a running server. Every answer is checked; the first wrong one
# ends the script with the step's name.
#
#   EDGE=http://127.0.0.1:8000 ADMIN=r3mes_… examples/curl.sh
#
# ADMIN is an admin key. The script writes to two example wallets of its own and can be run again on the same server.
set -euo pipefail

EDGE=${EDGE:-http://127.0.0.1:8000}
: "${ADMIN:?set ADMIN to an admin key, e.g. ADMIN=\$(cat r3mes-edge.db.admin-key)}"
WALLET=remes19asaj7tyd9p698uqq74dwx5m2k6882cvq3c9lx
EMPTY=remes16kykek0kkvk803mfw4e3wukykhaccla26tvxhq

scratch=$(mktemp -d)
step='starting'
made_keys=()
reported=no
finish() {
  # A command that failed where nothing else was expected of it: at least the step is named.
  [ $? = 0 ] || [ $reported = yes ] || echo "FAILED at step \"$step\"" >&2
  # Whatever happened, no key stays valid: a wallet may have ten, and each run makes one.
  for id in ${made_keys[@]+"${made_keys[@]}"}; do
    curl -s -o "$scratch/body" -X DELETE "$EDGE/api/keys/$id" -H "X-API-Key: $ADMIN" || true
  done
  rm -rf "$scratch"
}
trap finish EXIT

fail() {
  reported=yes
  echo "FAILED at step \"$step\": $1" >&2
  if [ -s "$scratch/body" ]; then
    # The answer that makes a key holds it; a log must not.
    sed -E 's/r3mes_[0-9A-Za-z]{49}/r3mes_(hidden)/g; s/^/  answer: /' "$scratch/body" >&2
    echo >&2
  fi
  exit 1
}

# call METHOD PATH [curl's options]: sets status; the answer is in $scratch/body, its head in $scratch/head.
call() {
  local method=$1 path=$2
  shift 2
  for _ in 1 2 3; do
    : > "$scratch/body"
    status=$(curl -sS --max-time 60 -o "$scratch/body" -D "$scratch/head" -w '%{http_code}' -X "$method" "$EDGE$path" "$@") ||
      fail "$method $path was not answered"
    limited || return 0
  done
}

# chat MESSAGE: the same for a chat with KEY, whose text is shown as it comes.
chat() {
  for _ in 1 2 3; do
    # -N: curl hands on each piece at once instead of filling a buffer.
    curl -sSN --max-time 120 "$EDGE/chat" -H "X-API-Key: $KEY" -D "$scratch/head" -d "{\"message\":\"$1\"}" | tee "$scratch/body" ||
      fail 'the chat broke off'
    status=$(sed -n '1s/^[^ ]* \([0-9]*\).*/\1/p' "$scratch/head")
    limited || return 0
  done
}

# Whether a rate limit refused the last request; then it has waited, so that a second run right after the first works too.
limited() {
  local wait
  [ "$status" = 429 ] || return 1
  wait=$(header_value retry-after)
  echo "        (rate limit reached, waiting ${wait:=1} s)"
  sleep "$wait"
}

says() { grep -qF -- "$1" "$scratch/body"; }
expect() { # expect STATUS [TEXT …]: the status, and what the answer must hold
  local wanted=$1 text
  shift
  [ "$status" = "$wanted" ] || fail "status $status instead of $wanted"
  for text in "$@"; do
    says "$text" || fail "the answer does not hold $text"
  done
}
header_value() { tr -d '\r' < "$scratch/head" | sed -nE "s/^$1: *//p"; }
header() { grep -qiE "^$1" "$scratch/head" || fail "no header like $1"; }
# The value of the first field of that name: a text, a number.
first() { grep -oE "\"$1\":\"[^\"]*\"" "$scratch/body" | sed -n "1s/^\"$1\":\"\(.*\)\"$/\1/p"; }
amount() { grep -oE "\"$1\":-?[0-9.]+" "$scratch/body" | sed -n '1s/.*://p'; }
# Credits have up to six places; the shell counts in whole numbers.
micro() {
  local whole=${1%%.*} places=
  [ "$whole" = "$1" ] || places=${1#*.}
  places=${places}000000
  echo $((whole * 1000000 + 10#${places:0:6}))
}
credits() { # of KEY's wallet
  call GET /auth/me -H "X-API-Key: $KEY"
  expect 200 "\"wallet_address\":\"$WALLET\""
  balance=$(micro "$(amount credits)")
}
begin() { step=$1; }
shown() { echo "ok      $step${1:+ ($1)}"; }
json=(-H 'Content-Type: application/json')
admin=(-H "X-API-Key: $ADMIN")

begin 'the server is well'
call GET /health
expect 200 '"ready":true'
inference=no chain=no
says '"inference":true' && inference=yes
says '"chain":true' && chain=yes
shown "inference: $inference, chain: $chain"

begin 'an account is made, and only once'
call POST /users "${admin[@]}" -d '{"wallet_address":"'$WALLET'"}'
case $status in
  201) expect 201 "\"wallet_address\":\"$WALLET\"" '"credits":0' ;;
  *) expect 409 '"code":"conflict"' ;;
esac
shown "status $status"

begin 'an admin grants credits'
call POST /users/$WALLET/credits "${admin[@]}" -d '{"amount":10,"reason":"curl.sh"}'
expect 200 '"amount":10,' '"reason":"curl.sh"'
call POST /users/$WALLET/credits "${admin[@]}" -d '{"amount":0.25,"reason":"curl.sh, a quarter"}'
expect 200 '"amount":0.25,'
shown "balance $(amount credits)"

begin 'a key is made and shown once'
call POST /api/keys "${admin[@]}" -d '{"wallet_address":"'$WALLET'","name":"curl.sh","scopes":["chat","read","miner","keys"],"expires_days":1}'
expect 201 '"scopes":["chat","read","miner","keys"]'
KEY=$(first api_key)
KEY_ID=$(first id)
made_keys+=("$KEY_ID")
[[ $KEY =~ ^r3mes_[0-9A-Za-z]{49}$ ]] || fail 'the key has another shape'
# From here on reads send the key: they are open on a loopback address only.
key=(-H "X-API-Key: $KEY")
shown "$KEY_ID"

begin 'a miner posts one sample'
call POST /miner/stats "${key[@]}" -d '{"hashrate":42.5,"gpu_temperature":67,"blocks_found":3}'
expect 201 '{"accepted":1}'
shown

begin 'two workers post an array'
call POST /miner/stats "${key[@]}" -d '[{"worker":"rig-1","hashrate":40},{"worker":"rig-2","hashrate":30}]'
expect 201 '{"accepted":2}'
shown

begin 'two more post NDJSON'
# --data-binary: -d would take the line ends away.
printf '%s\n' '{"worker":"rig-3","hashrate":20}' '{"worker":"rig-4","hashrate":10}' > "$scratch/samples"
call POST /miner/stats "${key[@]}" --data-binary "@$scratch/samples"
expect 201 '{"accepted":2}'
shown

begin 'the statistics add the workers up'
call GET /miner/stats/$WALLET "${key[@]}"
expect 200 '"hashrate":142.5,' '"gpu_temperature":67' '"blocks_found":3' '"is_active":true'
shown "hashrate $(amount hashrate)"

begin 'the hashrate has a history, as JSON and as CSV'
call GET "/miner/hashrate/$WALLET?hours=1" "${key[@]}"
expect 200 '"hashrate":[{' '"samples":'
call GET "/miner/hashrate/$WALLET?days=1" "${key[@]}" -H 'Accept: text/csv'
expect 200 'recorded_at,hashrate,'
shown

begin 'an earning with one source_id counts once'
source_id=curl-$(date +%s)-$$
earning='{"wallet_address":"'$WALLET'","earnings":1.5,"source_id":"'$source_id'"}'
credits
before=$balance
call POST /miner/earnings "${admin[@]}" -d "$earning"
expect 201 '"counted":true'
call POST /miner/earnings "${admin[@]}" -d "$earning"
expect 200 '"counted":false'
credits
[ $((balance - before)) = 1500000 ] || fail "the balance moved by $((balance - before)) micro-credits instead of 1500000"
call GET "/miner/earnings/$WALLET?days=1" "${key[@]}"
expect 200 '"earnings":[{"date":'
shown "$source_id"

begin 'the leaderboard'
call GET '/leaderboard?limit=5' "${key[@]}"
expect 200 '{"miners":['
header 'x-cache: '
shown

begin 'figures of the network, and 304 where they have not changed'
call GET /network/stats "${key[@]}"
expect 200 '"total_users":' '"active_miners":'
tag=$(header_value etag)
[ -n "$tag" ] || fail 'no ETag'
call GET /network/stats "${key[@]}" -H "If-None-Match: $tag"
expect 304
shown "ETag $tag"

if [ $inference = yes ]; then
  begin 'a chat streams text and costs exactly 1 credit'
  credits
  before=$balance
  echo '        > Hello from curl'
  chat 'Hello from curl'
  expect 200
  header 'content-type: text/plain'
  [ -n "$(tr -d '[:space:]' < "$scratch/body")" ] || fail 'the answer holds no text'
  credits
  [ $((before - balance)) = 1000000 ] || fail "it cost $((before - balance)) micro-credits instead of 1000000"
  shown

  begin 'a wallet without credits cannot chat'
  call POST /api/keys "${admin[@]}" -d '{"wallet_address":"'$EMPTY'","name":"curl.sh","scopes":["chat"],"expires_days":1}'
  expect 201
  made_keys+=("$(first id)")
  call POST /chat -H "Authorization: Bearer $(first api_key)" -d '{"message":"For free?"}'
  expect 402 '"code":"insufficient_credits"'
  shown
else
  echo 'skipped chat: this server has no inference server'
fi

if [ $chain = yes ]; then
  begin 'the chain: its height, and blocks newest first'
  call GET /chain/status "${key[@]}"
  expect 200 '"latest_block_height":' '"stale":false'
  # More than CometBFT gives in one answer.
  call GET '/blocks?limit=25' "${key[@]}"
  expect 200 '"limit":25'
  total=$(amount total)
  grep -oE '"height":[0-9]+' "$scratch/body" | sed 's/.*://' > "$scratch/heights"
  count=$(wc -l < "$scratch/heights")
  [ "$count" -eq $((total < 25 ? total : 25)) ] || fail "$count blocks of $total"
  sort -rnu "$scratch/heights" | cmp -s - "$scratch/heights" || fail 'they are not newest first'
  shown "$count blocks, height $total"
else
  echo 'skipped blocks: this server has no chain'
fi

begin 'the ledger comes in pages, newest first'
call GET "/users/$WALLET/ledger?limit=2" "${key[@]}"
expect 200 '"next_cursor":"led_'
credits_now=$(amount credits)
[ "$credits_now" = "$(amount balance)" ] || fail 'the newest entry does not end at the balance'
grep -o '"id":"led_[0-9]*"' "$scratch/body" > "$scratch/ids"
call GET "/users/$WALLET/ledger?limit=2&cursor=$(first next_cursor)" "${key[@]}"
expect 200 '"entries":[{"id":"led_'
grep -o '"id":"led_[0-9]*"' "$scratch/body" >> "$scratch/ids"
# The identifiers have leading zeros: as texts they stand in the order of the entries.
sort -ru "$scratch/ids" | cmp -s - "$scratch/ids" || fail 'the pages overlap or are out of order'
shown "$(wc -l < "$scratch/ids") entries on two pages, balance $credits_now"

begin 'a list of keys shows everything but the keys'
call GET /api/keys "${key[@]}"
expect 200 "\"id\":\"$KEY_ID\"" '"name":"curl.sh"'
if says "$KEY"; then fail 'the list holds the key'; fi
shown

begin 'a revoked key fails on its very next request'
call DELETE "/api/keys/$KEY_ID" "${key[@]}"
expect 200 '"is_active":false'
call GET /auth/me "${key[@]}"
expect 401 '"code":"invalid_api_key"'
header 'www-authenticate: '
shown

begin 'a chat without credentials'
call POST /chat "${json[@]}" -d '{"message":"Who am I?"}'
expect 400 '"code":"missing_credentials"' 'Either API key or wallet_address is required'
shown "status $status"

begin 'a wallet address with a typing error'
call GET "/users/${WALLET%x}q" "${admin[@]}"
expect 400 '"code":"invalid_wallet_address"'
shown "status $status"

begin 'a path that is not there'
call GET /nothing-here
expect 404 '"code":"not_found"'
shown "status $status"

begin 'a method that the path does not have'
call PUT /users
expect 405 '"code":"method_not_allowed"'
header 'allow: POST'
shown "status $status"

begin 'every balance is the sum of its ledger'
call GET /admin/ledger/verify "${admin[@]}"
expect 200 '"mistakes":[]'
shown "$(amount entries) entries of $(amount wallets) wallets"

echo 'curl.sh: the whole story works'
