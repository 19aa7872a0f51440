#!/usr/bin/env bash
# OpenAI's clients for Python and JavaScript and Anthropic's for Python against the real binary with a real llama.cpp behind it:
# every endpoint that it serves, whole and streamed, through the stream helpers too, tools, counts of tokens, errors by their own
# types, streams that are cut. Each answer's charge must be what its usage costs, and the ledger may have no other.
#
# R3MES_EDGE=FILE takes that program instead of building one.
. "$(dirname "$0")/common.bash"
. "$(dirname "$0")/llama/common.bash"
unset OPENAI_API_KEY OPENAI_BASE_URL ANTHROPIC_API_KEY ANTHROPIC_AUTH_TOKEN ANTHROPIC_BASE_URL
mine=$PWD/tests/clients/endpoints
why='the clients are not installed'
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check openai anthropic
need npm
cp "$mine/with_openai.mjs" "$scratch/"
(cd "$scratch" && npm install --silent --no-fund --no-audit --no-save openai > /dev/null)
why='a command failed'

general=$(free_port)
start_llama tiny "$general"
embed=$(free_port)
start_llama tiny "$embed" 0 '' embeddings
slow=$(free_port)
why='no model is made'
"$scratch/venv/bin/python" "$here/model.py" "$scratch/endless.gguf" 512 6 endless
start_llama endless "$slow"

# ask PORT PATH BODY: notes in LACKS what this build of llama.cpp does not serve.
export LACKS=
ask() {
  local status
  status=$(curl -s -o "$scratch/out" -w '%{http_code}' --max-time 60 "http://127.0.0.1:$1/v1/$2" -d "$3")
  case $status in
    200) ;;
    404 | 405 | 501)
      echo "note    this llama.cpp does not serve /v1/$2 ($status)"
      LACKS+=" $2"
      ;;
    *) cat "$scratch/out"; fail "llama.cpp answers /v1/$2 with $status" ;;
  esac
}
message='"messages":[{"role":"user","content":"hi"}]'
ask "$general" completions '{"prompt":"hi","max_tokens":1}'
ask "$general" responses '{"input":"hi","max_output_tokens":1}'
ask "$general" messages "{\"max_tokens\":1,$message}"
[ -z "$LACKS" ] || fail "this llama.cpp is too old to be tested with:$LACKS"
ask "$general" messages/count_tokens "{$message}"
ask "$embed" embeddings '{"input":"hi"}'

cat > "$scratch/edge.toml" << TOML
listen = "127.0.0.1:0"
discover = false
rates = { chat = "off", write = "off", auth = "off" }
[chat]
price = { request = 0.01, prompt = 100, cached_prompt = 25.5, completion = 400.25 }
max_output_tokens = 512
[adapters.embed]
price = { prompt = 33.3 }
[adapters.dead]
[adapters.slow]
max_output_tokens = 3000
[[inference]]
name = "general"
kind = "openai"
url = "http://127.0.0.1:$general"
adapters = ["general"]
[[inference]]
name = "embed"
kind = "openai"
url = "http://127.0.0.1:$embed"
adapters = ["embed"]
[[inference]]
name = "slow"
kind = "openai"
url = "http://127.0.0.1:$slow"
adapters = ["slow"]
[[inference]]
name = "dead"
kind = "openai"
url = "http://127.0.0.1:9"
adapters = ["dead"]
TOML
why='the server does not start'
database=$scratch/edge.db
"$edge" --config "$scratch/edge.toml" --database "$database" > /dev/null 2> "$scratch/log" &
server=$!
running+=("$server")
await "$database.lock" "$server"
EDGE=$(cat "$database.lock")
KEY=$("$edge" --database "$database" keys create --wallet $wallet 2> /dev/null)
POOR=$("$edge" --database "$database" keys create --wallet $other 2> /dev/null)
ANSWERS=$scratch/answers
export EDGE KEY POOR ANSWERS
"$edge" --database "$database" credits grant $wallet 1000 --reason test > "$scratch/out"

# client NAME COMMAND…: it prints what it has seen, and writes each answer's usage to $ANSWERS.
client() {
  local name=$1 code=0
  shift
  "$@" > "$scratch/seen" 2>&1 || code=$?
  cat "$scratch/seen"
  [ "$code" = 0 ] || { grep -v '"INFO"' "$scratch/log" | tail -n 20 || true; fail "$name: see above"; }
}
python=$scratch/venv/bin/python
client 'openai for Python' "$python" "$mine/with_openai.py"
client 'openai for JavaScript' node "$scratch/with_openai.mjs"
client 'anthropic for Python' "$python" "$mine/with_anthropic.py"

# The model's server dies in the middle of a stream of each endpoint.
rm -f "$scratch/begun"
"$python" "$mine/cut.py" "$scratch/begun" > "$scratch/cut" 2>&1 &
cut=$!
running+=("$cut")
for _ in $(seq 600); do
  [ ! -e "$scratch/begun" ] && kill -0 "$cut" 2> /dev/null || break
  sleep 0.1
done
kill_hard "$llama"
code=0
wait "$cut" || code=$?
over "$cut"
cat "$scratch/cut"
[ "$code" = 0 ] || fail 'cut: see above'

client 'the charges' "$python" "$mine/charges.py" $wallet $other
why='the ledger'
"$edge" --database "$database" ledger verify --full
end "$server"
! grep -qF -e "$KEY" -e "$POOR" "$scratch/log" || fail 'a key is in the log'
passed
