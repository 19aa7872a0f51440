#!/usr/bin/env bash
# The first quarter of an hour of an operator: the binary in an empty folder, the lines it prints, the command line beside
# the running server and without it. Installs what is missing.
. "$(dirname "$0")/common.bash"

need curl script=bsdutils
build --bin r3mes-edge
edge=$built/r3mes-edge
wallet=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm

# The server's folder holds nothing but what the server writes; ours is around it.
mkdir "$scratch/place"
cd "$scratch/place"

fail() {
  why=$1
  [ ! -e "$scratch/log" ] || sed 's/^/  log: /' "$scratch/log"
  exit 1
}
ok() { echo "ok      $1"; }
holds() { grep -qE -- "$2" "$1" || { sed 's/^/  /' "$1"; fail "$3"; }; }

# start: sets server and EDGE. The lock file names the address once it serves.
start() {
  "$edge" --listen 127.0.0.1:0 > "$scratch/printed" 2> "$scratch/log" &
  server=$!
  running+=("$server")
  EDGE=
  for _ in $(seq 100); do
    kill -0 "$server" 2> /dev/null || fail 'the server ended'
    # For a moment it holds the address of the server before, which does not answer any more.
    EDGE=$(cat r3mes-edge.db.lock 2> /dev/null || true)
    if [ -n "$EDGE" ] && curl -sf -o /dev/null "$EDGE/livez"; then return 0; fi
    sleep 0.1
  done
  fail 'the server does not serve'
}
stop() {
  local code=0
  kill -TERM "$server"
  wait "$server" || code=$?
  over "$server"
  [ "$code" = 0 ] || fail "SIGTERM: exit code $code instead of 0"
}
# me KEY: the status of a request with this key.
me() { curl -s -o /dev/null -w '%{http_code}' "$EDGE/auth/me" -H "X-API-Key: $1"; }
# run NAME COMMAND…: its exit code must be 0; what it printed is in $scratch/out and $scratch/err.
run() {
  local what=$1 code=0
  shift
  "$edge" "$@" > "$scratch/out" 2> "$scratch/err" < /dev/null || code=$?
  [ "$code" = 0 ] || { cat "$scratch/err"; fail "$what: exit code $code"; }
}
create() { # create NAME: sets KEY and KEY_ID
  run "keys create ($1)" keys create --wallet $wallet --name "$1"
  KEY=$(cat "$scratch/out")
  [[ $KEY =~ ^r3mes_[0-9A-Za-z]{49}$ ]] || fail "keys create ($1) printed something else than a key on stdout"
  KEY_ID=$(grep -oE 'key_[0-9A-Z]{26}' "$scratch/err")
}

# the first start

start
# They are printed a moment after the address is in the lock file.
for _ in $(seq 50); do
  if grep -q EDGE/health "$scratch/printed"; then break; fi
  sleep 0.1
done
sed -n 's/^  //p' "$scratch/printed" > "$scratch/lines"
[ "$(wc -l < "$scratch/lines")" -ge 9 ] || fail 'the first start printed fewer lines than there should be'
[[ $EDGE =~ ^http://127\.0\.0\.1:[1-9][0-9]*$ ]] || fail "the address is $EDGE"
[ "$(head -n 1 "$scratch/printed")" = "Open $EDGE/" ] || fail 'the first line does not say where the page is'
holds "$scratch/lines" "EDGE=$EDGE( |\$)" 'the printed EDGE= has another address than the one it serves on'
ok "--listen with port 0: the printed EDGE= is $EDGE, and answers"

for file in r3mes-edge.db r3mes-edge.db.admin-key r3mes-edge.db.lock; do
  [ "$(stat -c %a "$file")" = 600 ] || fail "$file has the mode $(stat -c %a "$file")"
done
ok 'the database, its lock and the admin key can be read by their owner only'

# The lines stay exactly as they are printed; its configuration makes curl add each answer's status and to
# leave the progress meter out, and the lines between them keep the answers apart.
mkdir "$scratch/curl"
printf '%s\n' 'write-out = "%{http_code}\n"' silent show-error > "$scratch/curl/.curlrc"
sed 'a\
echo' "$scratch/lines" > "$scratch/script"
CURL_HOME=$scratch/curl bash "$scratch/script" > "$scratch/answers" 2> "$scratch/err" < /dev/null || fail 'a printed line failed'
# answered STATUS TEXT: an answer of that status holds the text.
answered() {
  grep -B 1 -x "$1" "$scratch/answers" | grep -qF -- "$2" || { cat "$scratch/answers"; fail "no answer $1 with $2"; }
}
answered 201 "{\"wallet_address\":\"$wallet\",\"credits\":0,"
ok 'printed lines: the account is made (201)'
answered 200 '"credits":100,"entry":'
answered 200 '"amount":100,"balance":100,"reason":"welcome"'
ok 'printed lines: 100 credits are granted and stand in the ledger'
answered 201 '{"accepted":1}'
answered 200 '"hashrate":42.5,'
ok 'printed lines: the sample is read back with hashrate 42.5'
answered 200 '"status":"ok"'
if curl -s "$EDGE/health" | grep -qF '"inference":true'; then
  ok 'printed lines: chat found an inference server on this machine'
else
  answered 503 '"code":"inference_disabled"'
  ok 'printed lines: chat says that there is no inference server (503)'
fi
[ ! -s "$scratch/err" ] || { cat "$scratch/err"; fail 'the printed lines complained'; }

# a second server in the same folder

picture() { find . -type f -exec stat -c '%n %i %a %s %y' {} + | sort && find . -type f -exec sha256sum {} + | sort; }
picture > "$scratch/before"
code=0
timeout 20 "$edge" --listen 127.0.0.1:0 > "$scratch/out" 2> "$scratch/err" < /dev/null || code=$?
picture > "$scratch/after"
[ "$code" = 4 ] || { cat "$scratch/err"; fail "a second server ended with $code instead of 4"; }
holds "$scratch/err" "$EDGE" 'the second server does not say where the first one is'
cmp "$scratch/before" "$scratch/after" || fail "the second server changed a file: $(diff "$scratch/before" "$scratch/after")"
ok "a second server is refused (exit code 4), says where the first one is, and changes none of $(find . -type f | wc -l) files"

# the command line beside the server

run 'keys list beside the server' keys list
holds "$scratch/out" "^key_[0-9A-Z]{26} .*$wallet" 'keys list does not show the key of the wallet'
holds "$scratch/out" '^key_.*admin.*first admin key' 'keys list does not show the admin key'
ok 'keys list beside the server'
create beside
beside=$KEY
[ "$(me "$beside")" = 200 ] || fail 'a key made beside the server does not work'
ok 'keys create beside the server: the key works at once'
run 'keys revoke beside the server' keys revoke "$KEY_ID"
[ "$(me "$beside")" = 401 ] || fail 'a revoked key still works'
ok 'keys revoke beside the server: the very next request is 401'
run 'ledger verify beside the server' ledger verify
ok "ledger verify beside the server: $(cat "$scratch/out")"
[ "$(curl -s -o /dev/null -w '%{http_code}' "$EDGE/readyz")" = 200 ] || fail 'the server is not ready after all that'

# and without it

stop
ok 'SIGTERM ends the server with exit code 0'
run 'keys list without a server' keys list
holds "$scratch/out" "^$KEY_ID .* off " 'keys list does not show that the key is revoked'
ok 'keys list without a server'
create alone
alone=$KEY
run 'keys create without a server' keys create --wallet $wallet --name 'revoked alone'
revoked_id=$(grep -oE 'key_[0-9A-Z]{26}' "$scratch/err")
revoked=$(cat "$scratch/out")
run 'keys revoke without a server' keys revoke "$revoked_id"
ok 'keys create and keys revoke without a server'
run 'ledger verify without a server' ledger verify
ok "ledger verify without a server: $(cat "$scratch/out")"

# at a terminal

# at_a_terminal SHOWN COMMAND…: the terminal shows what the command is doing, and its output does not.
at_a_terminal() {
  local shown=$1
  shift
  script -qec "$(printf '%q ' "$edge" "$@") > $(printf %q "$scratch/out")" "$scratch/typescript" > /dev/null < /dev/null || { cat "$scratch/typescript"; fail "at a terminal: $*"; }
  grep -aqE -- "$shown" "$scratch/typescript" || { cat -v "$scratch/typescript"; fail "$* does not show how far it is"; }
  ! grep -aqE -- "$shown" "$scratch/out" || fail "$* prints how far it is"
  ok "at a terminal: $*"
}
at_a_terminal 'checking every wallet' ledger verify
holds "$scratch/out" '^the ledger adds up: ' 'ledger verify ends without a verdict'
at_a_terminal 'reading the ledger' ledger export
at_a_terminal 'copying and checking the database' backup create --to "$scratch/copy.db"
at_a_terminal 'copying the database' restore --database "$scratch/other.db" "$scratch/copy.db"
at_a_terminal 'checking every page' db check --database "$scratch/other.db"

# the second start

start
[ ! -s "$scratch/printed" ] || fail 'the second start printed first steps again'
[ "$(me "$alone")" = 200 ] || fail 'the key made without a server does not work'
[ "$(me "$revoked")" = 401 ] || fail 'the key revoked without a server works'
[ "$(me "$beside")" = 401 ] || fail 'the key revoked before the stop works again'
[ "$(me "$(cat r3mes-edge.db.admin-key)")" = 200 ] || fail 'the admin key does not work any more'
ok 'after the next start: keys made and revoked without a server are so'
stop
ok 'SIGTERM ends it again with exit code 0'
if ls -A | grep -vE '^r3mes-edge\.db(|-wal|-shm|\.lock|\.admin-key)$'; then fail 'these files should not be left behind'; fi
[ ! -s r3mes-edge.db-wal ] || fail 'the write-ahead log still holds something'
ok "everything is in the database file; left behind: $(ls -A | tr '\n' ' ')"

# by a Unix socket only

mkdir "$scratch/by a socket"
cd "$scratch/by a socket"
"$edge" --listen "unix:$PWD/edge.sock" > "$scratch/printed" 2> "$scratch/log" &
server=$!
running+=("$server")
await r3mes-edge.db.lock "$server"
[ "$(cat r3mes-edge.db.lock)" = "unix:$PWD/edge.sock" ] || fail "the lock file holds $(cat r3mes-edge.db.lock)"
[ "$(stat -c %a edge.sock)" = 660 ] || fail "the socket has the mode $(stat -c %a edge.sock)"
for _ in $(seq 50); do
  if grep -q EDGE/health "$scratch/printed"; then break; fi
  sleep 0.1
done
sed -n 's/^  //p' "$scratch/printed" | sed 'a\
echo' > "$scratch/script"
CURL_HOME=$scratch/curl bash "$scratch/script" > "$scratch/answers" 2> "$scratch/err" < /dev/null || fail 'a printed line failed'
answered 200 '"credits":100,"entry":'
answered 200 '"hashrate":42.5,'
ok 'by a Unix socket only: the printed lines work as they stand'
create socket
curl -sf -o /dev/null --unix-socket edge.sock http://localhost/auth/me -H "X-API-Key: $KEY" || fail 'a key made beside it does not work'
ok 'keys create finds it'
stop
[ ! -e edge.sock ] || fail 'the socket was left behind'
ok 'its end takes the socket away'
passed
