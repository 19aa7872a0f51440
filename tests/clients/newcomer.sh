#!/usr/bin/env bash
# A newcomer who follows the README by the letter, timed: its blocks of shell commands and its Python programs are taken out of
# the text and run, from a clone to a chat through the demo, and from nothing to a paid chat whose ledger entry is on the page
# in a browser. Only the wallet's address is put in. The miner and the model are stand-ins at the addresses where each is looked
# for; all of it in a network of its own where this machine allows that, so that the usual ports are free.
#
# Installs Debian's chromium, puppeteer-core and axe-core from npm, and OpenAI's and Anthropic's clients for Python.
#
# COLD=1: with nothing built before, as a newcomer has it. Else what is built already is taken.
. "$(dirname "$0")/common.bash"
need curl python3 ip=iproute2
if [ -z "${ALONE:-}" ]; then
  # What needs a network, before there is none.
  need chromium
  need npm
  need_venv
  npm install --silent --no-fund --no-audit --no-save --prefix "$scratch" puppeteer-core@24 axe-core@4
  python3 -m venv "$scratch/venv"
  "$scratch/venv/bin/pip" install --quiet --disable-pip-version-check openai anthropic
  export TOOLS=$scratch
  for user in '' '--user --map-root-user'; do
    unshare $user --net true 2> /dev/null || continue
    ALONE=1 exec unshare $user --net "tests/clients/$(basename "$0")"
  done
  echo 'this machine does not allow a network namespace: continuing without'
else
  mv "$TOOLS" "$scratch/tools"
  TOOLS=$scratch/tools
  ip link set lo up
fi

readme=$PWD/README.md here=$PWD/tests/clients
# blocks LANGUAGE HEADING: its blocks of a language, with a line of dashes after each.
blocks() {
  awk -v heading="## $2" -v fence='```'"$1" '
    $0 == heading { here = 1; next }
    here && /^## / && !inside { exit }
    here && $0 == fence { inside = 1; next }
    inside && $0 == "```" { inside = 0; print "----"; next }
    inside
  ' "$readme"
}
commands() { blocks sh "$1" | grep -v -- '^----$'; }
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
line=$(commands 'Try it')
why="\"$line\" does not serve"
: > "$scratch/printed"
bash -c "exec $line" > "$scratch/printed" 2> "$scratch/log" &
demo=$!
running+=("$demo")
until grep -q 'ends the demo' "$scratch/printed"; do
  kill -0 "$demo" || { cat "$scratch/log"; exit 1; }
  sleep 0.1
done
head -n 1 "$scratch/printed" | grep -qE '^Open http://127\.0\.0\.1:[0-9]+/$' || fail 'the first line is not the address of the page'
curl -sf -o "$scratch/page" "$(head -n 1 "$scratch/printed" | cut -d' ' -f2)" || fail 'the page is not at the address of the first line'
why='a line that the demo prints'
sed -n 's/^  //p' "$scratch/printed" | grep -v examples/curl.sh > "$scratch/lines"
sed '/\/chat /q' "$scratch/lines" > "$scratch/first"
bash -e "$scratch/first" > "$scratch/answers" 2> "$scratch/err"
grep -q 'come words Which' "$scratch/answers" || { cat "$scratch/answers"; fail 'the chat gave no text'; }
echo "from the clone to the first chat: $(since "$began")${built:+, built before}"
bash -e "$scratch/lines" > "$scratch/answers" 2> "$scratch/err"
end "$demo"

# From nothing to a paid chat on the page.
wallet=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm
mkdir "$scratch/miner"
blocks sh 'Beside your miner' | grep -q 'remes1your-own-address' || fail 'the README does not say where the wallet goes'
# The page that the README says a miner must have.
grep -o -m 1 '{"hashrate":[^}]*}' "$readme" > "$scratch/miner/stats"
python3 -m http.server --bind 127.0.0.1 --directory "$scratch/miner" 8080 > /dev/null 2>&1 &
running+=("$!")
PORT=11434 python3 "$here/openai/upstream.py" > "$scratch/port" 2> "$scratch/model-log" &
model=$!
running+=("$model")
await "$scratch/port" "$model"
count=0
while IFS= read -r line; do
  [ "$line" != ---- ] || { count=$((count + 1)); continue; }
  echo "$line" >> "$scratch/program-$count.py"
done < <(blocks python 'Connect a model and sell chat')
[ "$count" = 2 ] || fail "the README has $count programs in Python instead of 2"

{
  declare -f until_so fail
  commands Install
  # A newcomer reads what was printed before going on: the server is there, and has found the miner and the model.
  commands 'Beside your miner' | sed '/ serve /a\
echo "$!" > "$SERVER"\
until_so curl -sf http://127.0.0.1:8000/miner/stats/$WALLET\
until_so sh -c '\''curl -s http://127.0.0.1:8000/health | grep -q inference.:true'\''\
date +%s.%N > "$MONITORED"'
  commands 'Connect a model and sell chat'
  echo 'date +%s.%N > "$PAID"; echo "$KEY" > "$SHOWN"'
  for program in "$scratch"/program-*.py; do echo "'$TOOLS/venv/bin/python' '$program'"; done
  commands 'With curl'
} | sed "s/remes1your-own-address/$wallet/" > "$scratch/script"
began=$(now)
why='a command of the README'
SERVER=$scratch/server MONITORED=$scratch/monitored PAID=$scratch/paid SHOWN=$scratch/key bash -e "$scratch/script" > "$scratch/answers" 2> "$scratch/err" || {
  cat "$scratch/answers" "$scratch/err" "$HOME/r3mes/edge.log"
  exit 1
}
between() { echo "$1 $(cat "$2")" | awk '{ printf "%.1f s", $2 - $1 }'; }
echo "from nothing to a monitored miner: $(between "$began" "$scratch/monitored")"
echo "from nothing to a paid chat: $(between "$began" "$scratch/paid")"
for text in '"hashrate":41.2,' '"reason":"chat"' '"reason":"welcome"' '"accepted":1'; do
  grep -qF -- "$text" "$scratch/answers" || { cat "$scratch/answers"; fail "the answers have no $text"; }
done
[ "$(grep -oi 'you said hello' "$scratch/answers" | wc -l)" = 3 ] || { cat "$scratch/answers"; fail 'not three chats were answered'; }

cp "$here/page/browser.mjs" "$here/page/newcomer.mjs" "$TOOLS/"
why='the chat is not on the page'
shots=${SCREENSHOTS:-$scratch}
mkdir -p "$shots"
EDGE=http://127.0.0.1:8000 WALLET=$wallet KEY=$(cat "$scratch/key") PROFILE=$scratch/profile SCREENSHOTS=$shots node "$TOOLS/newcomer.mjs"
echo "from nothing to the chat's entry on the page: $(since "$began")"

why='the end of the server'
kill "$(cat "$scratch/server")"
until_so test ! -e "/proc/$(cat "$scratch/server")"
passed
