#!/usr/bin/env bash
# A newcomer's two ways, by the README's own commands, timed: from a clone to the first chat through the
# demo, and from nothing to a monitored miner. The miner is a stand-in, at the address where one is looked for; all of it
# in a network of its own where this machine allows that, so that the usual ports are free.
#
# COLD=1: with nothing built before, as a newcomer has it. Else what is built already is taken.
. "$(dirname "$0")/common.bash"
need curl python3 ip=iproute2
if [ -z "${ALONE:-}" ]; then
  for user in '' '--user --map-root-user'; do
    unshare $user --net true 2> /dev/null || continue
    rm -rf "$scratch"
    ALONE=1 exec unshare $user --net "tests/clients/$(basename "$0")"
  done
  echo 'this machine does not allow a network namespace: continuing without'
else
  ip link set lo up
fi

readme=$PWD/README.md
# commands HEADING: its blocks of shell commands.
commands() {
  awk -v heading="## $1" '
    $0 == heading { here = 1; next }
    here && /^## / { exit }
    here && /^ *```/ { shell = /```sh$/; next }
    here && shell { sub(/^   /, ""); print }
  ' "$readme"
}
now() { date +%s.%N; }
# since WHEN
since() { echo "$1 $(now)" | awk '{ printf "%.1f s", $2 - $1 }'; }
# until_so COMMAND…: until it goes well, for a minute.
until_so() {
  for _ in $(seq 600); do
    ! "$@" > /dev/null 2>&1 || return 0
    sleep 0.1
  done
  fail "in vain: $*"
}

export CARGO_HOME=${CARGO_HOME:-$HOME/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
if [ -z "${COLD:-}" ]; then
  build --bin r3mes-edge
  build --example demo
  # Where cargo is configured to put its output elsewhere.
  PATH=$PATH:$built
fi
export HOME=$scratch/home
mkdir "$HOME"

# From the clone to the first chat.
began=$(now)
if [ -n "${COLD:-}" ]; then
  unset CARGO_TARGET_DIR
  git clone -q . "$scratch/clone"
  cd "$scratch/clone"
fi
line=$(commands 'Two commands' | grep -- '--example demo')
why="\"$line\" does not serve"
bash -c "exec $line" > "$scratch/printed" 2> "$scratch/log" &
demo=$!
running+=("$demo")
until grep -q 'ends the demo' "$scratch/printed"; do
  kill -0 "$demo" || { cat "$scratch/log"; exit 1; }
  sleep 0.1
done
why='a line that the demo prints'
sed -n 's/^  //p' "$scratch/printed" | grep -v examples/curl.sh > "$scratch/lines"
sed '/\/chat /q' "$scratch/lines" > "$scratch/first"
bash -e "$scratch/first" > "$scratch/answers" 2> "$scratch/err"
grep -q 'come words Which' "$scratch/answers" || { cat "$scratch/answers"; fail 'the chat gave no text'; }
echo "from the clone to the first chat: $(since "$began")${built:+, built before}"
bash -e "$scratch/lines" > "$scratch/answers" 2> "$scratch/err"
end "$demo"

# From nothing to a monitored miner.
wallet=$(commands 'Beside your miner, in five steps' | grep -o -m 1 'remes1[0-9a-z]*')
mkdir "$scratch/miner"
echo '{"hashrate":41.25,"gpu_temp":63.0,"uptime_seconds":3600}' > "$scratch/miner/stats"
python3 -m http.server --bind 127.0.0.1 --directory "$scratch/miner" 8080 > /dev/null 2>&1 &
running+=("$!")
began=$(now)
commands 'Beside your miner, in five steps' > "$scratch/steps"
# A newcomer reads what was printed before going on: the server is there, and has seen the miner.
serving=$(grep -n ' serve ' "$scratch/steps" | cut -d: -f1)
[ "$serving" -gt 0 ] || fail 'no step serves'
{
  head -n "$serving" "$scratch/steps"
  echo 'echo "$!" > "$SERVER"'
  declare -f until_so fail
  echo "until_so curl -sf http://127.0.0.1:8000/miner/stats/$wallet"
  echo 'date +%s.%N > "$MONITORED"'
  tail -n "+$((serving + 1))" "$scratch/steps"
} > "$scratch/script"
why='a step'
SERVER=$scratch/server MONITORED=$scratch/monitored bash -e "$scratch/script" > "$scratch/answers" 2> "$scratch/err" || {
  cat "$scratch/answers" "$scratch/err"
  exit 1
}
echo "from nothing to a monitored miner: $(echo "$began $(cat "$scratch/monitored")" | awk '{ printf "%.1f s", $2 - $1 }')"
grep -q '"hashrate":41.25' "$scratch/answers" || { cat "$scratch/answers"; fail 'the hashrate does not show'; }
kill "$(cat "$scratch/server")"
until_so test ! -e "/proc/$(cat "$scratch/server")"
passed
