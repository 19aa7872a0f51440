#!/usr/bin/env bash
# An admin's whole day (an account, a grant, a key with limits, its rotation, a correction, block and unblock, a breaker, a
# backup, the ledger, a revocation) three times, over three fresh databases: by the page only, by the command line only, by
# curl only. The three audits hold the same actions, targets, amounts and reasons. Installs what page.sh does, and curl.
. "$(dirname "$0")/common.bash"
here=$PWD/tests/clients

need chromium
need npm
need curl
cp "$here"/page/browser.mjs "$here"/day/*.mjs "$scratch/"
npm install --silent --no-fund --no-audit --no-save --prefix "$scratch" puppeteer-core@24 axe-core@4
build --bin r3mes-edge

export BINARY=$built/r3mes-edge WALLET=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm CONFIG=$scratch/edge.toml
# No model answers there: a breaker opens and closes all the same.
cat > "$CONFIG" << 'TOML'
listen = "127.0.0.1:0"
discover = false
[rates]
auth = "60/min"
[[inference]]
name = "node"
kind = "openai"
url = "http://127.0.0.1:9"
adapters = ["general"]
TOML

# day WAY COMMAND…: a server of its own, the day, its audit and what is left.
day() {
  local way=$1 server
  shift
  why="the server of the $way"
  mkdir "$scratch/$way"
  export DATABASE=$scratch/$way/edge.db PROFILE=$scratch/$way/profile
  "$BINARY" --config "$CONFIG" --database "$DATABASE" > /dev/null 2> "$scratch/log" &
  server=$!
  running+=("$server")
  await "$DATABASE.lock" "$server"
  EDGE=$(cat "$DATABASE.lock")
  ADMIN=$(cat "$DATABASE.admin-key")
  export EDGE ADMIN
  why="the day by the $way"
  "$@" > "$scratch/$way/printed" 2>&1 || { cat "$scratch/$way/printed"; fail "the day by the $way"; }
  why="the audit of the $way"
  "$BINARY" --config "$CONFIG" --database "$DATABASE" audit list --json | node "$scratch/audit.mjs" > "$scratch/$way/audit"
  [ "$(grep -c . "$scratch/$way/audit")" -ge 11 ] || { cat "$scratch/$way/audit"; fail "the audit of the $way is too short"; }
  curl -sS "$EDGE/users/$WALLET" -H "X-API-Key: $ADMIN" | grep -q '"credits":74.5,' || fail "the balance after the day by the $way"
  ! grep -rqaF "$ADMIN" "$scratch/log" "$scratch/$way/printed" || fail "the admin key was printed by the $way"
  end "$server"
}

day page node "$scratch/page.mjs"
day cli bash "$here/day/cli.sh"
day curl bash "$here/day/curl.sh"
cat "$scratch/page/audit"
for way in cli curl; do
  diff "$scratch/page/audit" "$scratch/$way/audit" || fail "the audits of the page and of the $way differ"
done
passed
