#!/usr/bin/env bash
# The page at / in a real browser: what it weighs and how soon it is there, that its figures are the API's, that a breaker
# and an alert show within 5 s, what it says when something is amiss or nothing is connected, signing in by a key or a wallet,
# a paid chat, every action of an admin, a path prefix, axe's rules in light, dark and on a phone, and that a key is left
# nowhere. Installs Debian's chromium, and puppeteer-core and axe-core from npm.
#
# SCREENSHOTS: a folder for pictures of each state; without one they go with the scratch folder.
. "$(dirname "$0")/common.bash"
here=$PWD/tests/clients/page
shots=${SCREENSHOTS:-$scratch/shots}
mkdir -p "$shots"
SCREENSHOTS=$(cd "$shots" && pwd)
export SCREENSHOTS

need chromium
need npm
cp "$here"/*.mjs "$scratch/"
npm install --silent --no-fund --no-audit --no-save --prefix "$scratch" puppeteer-core@24 axe-core@4
why='a part of the script'
node "$here/parts.mjs" src/dashboard
build --bin r3mes-edge

# At the usual rates, with stand-ins that mine, chat and make blocks.
# It is killed at the end, and its folder goes with the scratch folder.
TMPDIR=$scratch "$built/r3mes-edge" demo --listen 127.0.0.1:0 --env-file "$scratch/env" > "$scratch/printed" 2> "$scratch/log" &
demo=$!
running+=("$demo")
await "$scratch/env" "$demo"
set -a
. "$scratch/env"
set +a
PROFILE=$scratch/profile
export PROFILE
why='a check of the page'
node "$scratch/open.mjs"
why='a check of what people do on the page'
SERVER=$demo node "$scratch/wallet.mjs"
! grep -qF -e "$KEY" -e "$ADMIN" "$scratch/log" || fail 'a key is in the log'
why='a key is in the profile of the browser'
! grep -rqaF -e "$KEY" -e "$ADMIN" "$PROFILE"
wait "$demo" 2> /dev/null || true
over "$demo"

# serve NAME SCOPES SETTING...: a node to which nothing is connected, with a wallet's key of these scopes.
serve() {
  why="the $1 server does not start"
  local database=$scratch/$1.db scopes=$2
  shift 2
  printf '%s\n' 'listen = "127.0.0.1:0"' 'discover = false' "$@" > "$scratch/edge.toml"
  "$built/r3mes-edge" --config "$scratch/edge.toml" --database "$database" > /dev/null 2> "$scratch/log" &
  server=$!
  running+=("$server")
  await "$database.lock" "$server"
  EDGE=$(cat "$database.lock")
  ADMIN=$(cat "$database.admin-key")
  KEY=$("$built/r3mes-edge" --database "$database" keys create --wallet "$WALLET" --scopes "$scopes" 2> /dev/null)
  export EDGE ADMIN KEY SERVER=$server
}

serve idle read,miner
why='a check of the page of a node to which nothing is connected'
node "$scratch/idle.mjs"
end "$server"

# A node that shows strangers nothing, and goes while it is looked at.
serve closed read 'auth.public_reads = false'
why='a check of the page of a closed node'
node "$scratch/closed.mjs"
why='the end of the server, which was shown while the page was open'
wait "$server"
over "$server"

# It starts servers of its own, as it ends one in the middle of an action.
why="a check of the page with an admin's key"
mkdir "$scratch/admin"
BINARY=$built/r3mes-edge FOLDER=$scratch/admin PROFILE=$scratch/admin/profile node "$scratch/admin.mjs"
passed
