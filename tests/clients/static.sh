#!/usr/bin/env bash
# The static binary on a place with nothing else: a folder that holds it alone is its whole file system. It starts, serves,
# and speaks to an inference server over TLS by name, with the name from /etc/hosts, from a name server, and from nowhere.
# Builds it in two folders with less optimising than a release (which RELEASE=1 makes), and compares the bytes. With
# TARGET=x86_64-unknown-linux-gnu it is the binary for where musl cannot be had. Then the archive and the Debian package that
# hold it: contents, checksums, and what dpkg does with it below a root of its own. Installs curl, openssl, file and what
# .github/release.sh needs.
. "$(dirname "$0")/common.bash"
need curl file ip=iproute2 openssl
need python3
wallet=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm

# BINARY is for this script alone, when it runs itself.
if [ -z "${BINARY:-}" ]; then
  why='the static build failed'
  if [ -z "${RELEASE:-}" ]; then
    export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
  fi
  .github/release.sh --twice --to "$scratch/dist" --target "${TARGET:-x86_64-unknown-linux-musl}" | tee "$scratch/made"
  grep -qE '^ldd +(statically linked|not a dynamic executable)' "$scratch/made" || fail 'ldd does not call it static'
  grep -qE '^file .*static' "$scratch/made" || fail 'file does not call it static'
  BINARY=$(head -n 1 "$scratch/made")
  for what in 'built in another folder' 'packed again'; do
    grep -q "^twice .*$what" "$scratch/made" || fail "not $what"
  done
fi
# To change the root and to be a name server is for root: who is not is it in namespaces.
if [ "$(id -u)" != 0 ]; then
  why='in namespaces of its own it fails, or they cannot be had here'
  BINARY=$BINARY unshare --user --map-root-user --net sh -c 'ip link set lo up && exec tests/clients/static.sh'
  passed
  exit
fi
why='a command failed'

dist=${BINARY%/*}
. tests/clients/static/packages.bash

place=$scratch/place
# The environment is emptied too, and with it the way to this.
chroot=$(command -v chroot)
# alone COMMAND…: runs it where nothing else is.
alone() { exec env -i R3MES_EDGE_DISCOVER=false "$chroot" "$place" "$@"; }
# start: serves in a new place with what is in $scratch/etc, if there is such a folder; sets server, EDGE, ADMIN.
start() {
  mkdir "$place"
  install -m 755 "$BINARY" "$place/r3mes-edge"
  [ ! -d "$scratch/etc" ] || cp -r "$scratch/etc" "$place/etc"
  ( alone /r3mes-edge --listen 127.0.0.1:0 "$@" ) > "$scratch/printed" 2> "$scratch/log" &
  server=$!
  running+=("$server")
  await "$place/r3mes-edge.db.lock" "$server"
  EDGE=$(cat "$place/r3mes-edge.db.lock")
  ADMIN=$(cat "$place/r3mes-edge.db.admin-key")
}
stop() {
  end "$server"
  rm -r "$place"
}
ask() { curl -s --max-time 30 "$EDGE$1" -H "X-API-Key: $ADMIN" "${@:2}"; }
# holds TEXT ANSWER
holds() { grep -qF -- "$1" <<< "$2" || { cat "$scratch/log"; fail "no $1 in: $2"; }; }
edge() { ( alone /r3mes-edge "$@" ); }

# nothing at all: no /etc, no /dev, no /proc, no /tmp

start
before=$(find "$place" | wc -l)
holds '"status":"ok"' "$(ask /health)"
holds '"credits":100,' "$(ask "/users/$wallet/credits" -d '{"amount":100,"reason":"welcome"}')"
KEY=$(edge keys create --wallet $wallet --scopes chat,read,miner 2> "$scratch/err") || { cat "$scratch/err"; fail 'keys create'; }
[ "$(curl -s "$EDGE/miner/stats" -H "X-API-Key: $KEY" -d '{"hashrate":42.5}')" = '{"accepted":1}' ] || fail 'a sample is not taken'
holds '"hashrate":42.5,' "$(curl -s "$EDGE/miner/stats/$wallet")"
edge ledger verify
edge backup create > "$scratch/out" || fail 'backup create'
echo "ok      nothing but the binary: serves, counts, copies; of $before files and folders"
stop

# an inference server over TLS that is known by name, and by its own authority

why='openssl failed'
cd "$scratch"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=an authority of the test' -keyout ca.key -out ca.pem 2> err
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=model' -keyout model.key -out model.csr 2> err
echo 'subjectAltName=DNS:model.test' > names
openssl x509 -req -in model.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out model.crt 2> err
cat model.crt model.key > model.pem
cd - > /dev/null
why='the inference server does not start'
python3 tests/clients/openai/upstream.py "$scratch/model.pem" > "$scratch/port" 2> "$scratch/log" &
upstream=$!
running+=("$upstream")
await "$scratch/port" "$upstream"
mkdir -p "$scratch/etc/r3mes-edge"
cp "$scratch/ca.pem" "$scratch/etc/r3mes-edge/"
cat > "$scratch/etc/r3mes-edge/config.toml" <<TOML
[[inference]]
name = "model"
kind = "openai"
url = "https://model.test:$(cat "$scratch/port")"
ca_file = "/etc/r3mes-edge/ca.pem"
TOML
# chat: as a wallet with two credits; prints the status, and leaves the answer in $scratch/answer.
chat() {
  ask "/users/$wallet/credits" -d '{"amount":2,"reason":"test"}' > "$scratch/granted"
  KEY=$(edge keys create --wallet $wallet 2> "$scratch/err")
  curl -s --max-time 60 -o "$scratch/answer" -w '%{http_code} after %{time_total} s' "$EDGE/v1/chat/completions" -H "X-API-Key: $KEY" \
    -d '{"model":"general","messages":[{"role":"user","content":"hello"}]}'
}

echo '127.0.0.1 model.test' > "$scratch/etc/hosts"
start
answer=$(chat)
holds 'you said hello' "$(cat "$scratch/answer")"
echo "ok      https by a name of /etc/hosts: $answer"
stop
rm "$scratch/etc/hosts"

# No /etc/hosts and no /etc/resolv.conf: a name server on this machine is asked, where there is none.
start
answer=$(chat)
holds 'upstream' "$(cat "$scratch/answer")"
holds '"credits":2' "$(ask "/users/$wallet")"
holds '"status":"ok"' "$(ask /health)"
echo "ok      no names at all: $answer, paid back: $(grep -o '"code":"[a-z_]*"' "$scratch/answer")"
stop

python3 tests/clients/static/names.py 127.0.0.53 model.test > "$scratch/asked" 2> "$scratch/log" &
names=$!
running+=("$names")
await "$scratch/asked" "$names"
echo 'nameserver 127.0.0.53' > "$scratch/etc/resolv.conf"
start
answer=$(chat)
holds 'you said hello' "$(cat "$scratch/answer")"
grep -qx model.test "$scratch/asked" || fail 'the name server was not asked'
echo "ok      https by a name of the name server in /etc/resolv.conf: $answer"
stop
passed
