#!/usr/bin/env bash
# What is answered is on the disk: strace watches the real binary, and every write that is answered with success must have
# been followed by a completed fdatasync (or fsync) before the answer left. A streamed chat sends its content before any, and
# `[DONE]` after the one that its charge waits for. Installs strace and curl where they are missing.
# R3MES_EDGE=FILE takes that program instead of building one.
. "$(dirname "$0")/common.bash"
need curl strace
edge=${R3MES_EDGE:-}
if [ -z "$edge" ]; then
  build --bin r3mes-edge
  edge=$built/r3mes-edge
fi
why='the inference server does not start'
python3 tests/clients/openai/upstream.py > "$scratch/port" &
running+=("$!")
await "$scratch/port" "$!"
cat > "$scratch/edge.toml" << TOML
listen = "127.0.0.1:0"
discover = false
rates = { chat = "off" }
chat = { in_flight = 8 }
[[inference]]
name = "stand-in"
kind = "openai"
url = "http://127.0.0.1:$(cat "$scratch/port")"
TOML

# -D: strace watches from aside, so that the server is our child. -y: with the name of the file.
strace -D -f -q -y -s 1000 -e trace=recvfrom,read,readv,sendto,write,writev,sendmsg,fdatasync,fsync -o "$scratch/trace" \
  "$edge" --config "$scratch/edge.toml" --database "$scratch/edge.db" > "$scratch/printed" 2> "$scratch/log" &
server=$!
running+=("$server")
await "$scratch/edge.db.lock" "$server"
edge=$(cat "$scratch/edge.db.lock") # its address
wallet=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm
ask() {
  curl -sf --max-time 20 -o "$scratch/answer" -H "X-API-Key: $(cat "$scratch/edge.db.admin-key")" "$edge$1" -d "$2" || fail "$1 failed"
}
# The default rates let so many pass.
for n in $(seq 25); do
  ask "/users/$wallet/credits" '{"amount":1,"reason":"durable"}'
  ask /miner/stats "{\"wallet_address\":\"$wallet\",\"hashrate\":$n}"
done
# chat MESSAGE: a streamed one, paid by the wallet.
chat() {
  curl -sfN --max-time 20 -H "X-API-Key: $(cat "$scratch/edge.db.admin-key")" -H "X-Wallet-Address: $wallet" \
    "$edge/v1/chat/completions" -d "{\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"$1\"}]}"
}
why='a chat failed'
mark() { wc -l < "$scratch/trace"; }
since=$(mark)
head -n "$since" "$scratch/trace" > "$scratch/writes"
chat 'hello' > "$scratch/answer"
tail -n "+$((since + 1))" "$scratch/trace" > "$scratch/one"
since=$(mark)
chats=()
for n in 1 2 3 4 5 6 7 8; do
  chat "wait for $scratch/go" > "$scratch/answer-$n" &
  chats+=("$!")
done
# Each has its content, and its model has not ended.
for n in 1 2 3 4 5 6 7 8; do
  for _ in $(seq 200); do
    ! grep -q 'said ' "$scratch/answer-$n" || break
    sleep 0.05
  done
done
touch "$scratch/go"
wait "${chats[@]}"
tail -n "+$((since + 1))" "$scratch/trace" > "$scratch/eight"
end "$server"

# What a client is sent, and what reaches the disk: the content before the flush, `[DONE]` after it.
flushes() {
  awk -v chats="$2" '
    /(sendto|writev?|sendmsg)\(/ && /socket:/ && index($0, "\\\"content\\\": \\\"you ") { contents++; if (syncs) late++; print substr($0, 1, 60) " ... content" }
    /(fdatasync|fsync)\(.*-wal>\) *= 0$/ || /(fdatasync|fsync) resumed.*= 0$/ { syncs++; print }
    /(sendto|writev?|sendmsg)\(/ && /socket:/ && /DONE/ { dones++; if (!syncs) early++; print substr($0, 1, 60) " ... [DONE]" }
    END {
      printf "%d chats: %d first contents, %d flushes, %d ends\n", chats, contents, syncs, dones
      exit !(contents == chats && dones == chats && !late && !early && syncs >= 1 && syncs <= chats)
    }
  ' "$1" || fail "a chat's first content waited for the disk, its end did not, or it was charged more than once"
}
flushes "$scratch/one" 1
flushes "$scratch/eight" 8

# One request at a time, so that what happens between its arrival and its answer is its own.
awk '
  /recvfrom\(.*"POST \// { asked = 1; synced = 0 }
  /(fdatasync|fsync)(\(| resumed)/ && / = 0$/ { synced = 1; syncs++ }
  /"HTTP\/1.1 20[01]/ && asked { asked = 0; answers++; if (!synced) early++ }
  END { printf "%d answers, %d syncs, %d answers before their sync\n", answers, syncs, early; exit !(answers == 50 && early == 0) }
' "$scratch/writes" || { grep -c . "$scratch/writes"; fail 'an answer left before the disk had it'; }
passed
