#!/usr/bin/env bash
# A wallet signs in: examples/login.py, with a signing library that is not ours, against the real binary.
. "$(dirname "$0")/common.bash"

need_venv
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check ecdsa
build --bin r3mes-edge

R3MES_EDGE_DISCOVER=false "$built/r3mes-edge" --listen 127.0.0.1:0 --database "$scratch/edge.db" \
  > "$scratch/printed" 2> "$scratch/log" &
server=$!
running+=("$server")
await "$scratch/edge.db.lock" "$server"
edge=$(cat "$scratch/edge.db.lock")

token=$("$scratch/venv/bin/python" examples/login.py "$edge")
[[ $token =~ ^r3mes_[0-9A-Za-z]{49}$ ]] || fail 'the token is no key'
me=$(EDGE=$edge TOKEN=$token "$scratch/venv/bin/python" -c '
import json, os, urllib.request
request = urllib.request.Request(os.environ["EDGE"] + "/auth/me", headers={"Authorization": "Bearer " + os.environ["TOKEN"]})
print(json.dumps(json.load(urllib.request.urlopen(request, timeout=10))))')
echo "$me"
grep -qF '"wallet_address": "remes150rtrmj2f8vl9tem8qpfw36ylw5jg9j2vu34rm"' <<< "$me" || fail 'the token belongs to another wallet'
grep -qF '"scopes": ["chat", "read", "miner", "keys"]' <<< "$me" || fail 'the token has other scopes'
SECRET_KEY_HEX=$(printf '08%.0s' {1..32}) "$scratch/venv/bin/python" examples/login.py "$edge" 2> "$scratch/refused" \
  && fail 'another wallet'"'"'s key was taken'
grep -q '401' "$scratch/refused" || fail 'another wallet'"'"'s key was not refused with 401'
! grep -qF "$token" "$scratch/log" || fail 'the token is in the log'
passed
