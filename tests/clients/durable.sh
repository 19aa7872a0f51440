#!/usr/bin/env bash
# What is answered is on the disk: strace watches the real binary, and every write that is answered with success must have
# been followed by a completed fdatasync (or fsync) before the answer left. Installs strace and curl where they are missing.
. "$(dirname "$0")/common.bash"
need curl strace
build --bin r3mes-edge

# -D: strace watches from aside, so that the server is our child.
R3MES_EDGE_DISCOVER=false strace -D -f -q -s 24 -e trace=recvfrom,read,readv,sendto,write,writev,sendmsg,fdatasync,fsync -o "$scratch/trace" \
  "$built/r3mes-edge" --listen 127.0.0.1:0 --database "$scratch/edge.db" > "$scratch/printed" 2> "$scratch/log" &
server=$!
running+=("$server")
await "$scratch/edge.db.lock" "$server"
edge=$(cat "$scratch/edge.db.lock")
wallet=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm
ask() {
  curl -sf --max-time 20 -o "$scratch/answer" -H "X-API-Key: $(cat "$scratch/edge.db.admin-key")" "$edge$1" -d "$2" || fail "$1 failed"
}
# The default rates let so many pass.
for n in $(seq 25); do
  ask "/users/$wallet/credits" '{"amount":1,"reason":"durable"}'
  ask /miner/stats "{\"wallet_address\":\"$wallet\",\"hashrate\":$n}"
done
end "$server"

# One request at a time, so that what happens between its arrival and its answer is its own.
awk '
  /"POST \// { asked = 1; synced = 0 }
  /(fdatasync|fsync)(\(| resumed)/ && / = 0$/ { synced = 1; syncs++ }
  /"HTTP\/1.1 20[01]/ && asked { asked = 0; answers++; if (!synced) early++ }
  END { printf "%d answers, %d syncs, %d answers before their sync\n", answers, syncs, early; exit !(answers == 50 && early == 0) }
' "$scratch/trace" || { grep -c . "$scratch/trace"; fail 'an answer left before the disk had it'; }
passed
