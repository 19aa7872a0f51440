#!/usr/bin/env bash
# LiteLLM's proxy before a real llama.cpp as the inference server of the real binary: chats, streams with usage, tools, long
# contexts, its own errors and what the server is blamed for, clients that leave, kill -9 of either in the middle of answers,
# and a restart under load. R3MES_EDGE=FILE takes that program instead of building one.
. "$(dirname "$0")/common.bash"
. "$(dirname "$0")/llama/common.bash"
why='litellm is not installed'
python3 -m venv "$scratch/proxy"
"$scratch/proxy/bin/pip" install --quiet --no-compile --disable-pip-version-check 'litellm[proxy]'
why='a command failed'

port=$(free_port) slow_port=$(free_port) proxy_port=$(free_port)
printf '%s\n' sk-proxy > "$scratch/key"
printf '%s\n' sk-wrong > "$scratch/wrong"
chmod 600 "$scratch/key" "$scratch/wrong"
cat > "$scratch/proxy.yaml" << YAML
model_list:
  - model_name: tiny
    litellm_params: {model: openai/tiny, api_base: "http://127.0.0.1:$port/v1", api_key: none}
  - model_name: slow
    litellm_params: {model: openai/tiny, api_base: "http://127.0.0.1:$slow_port/v1", api_key: none}
general_settings: {master_key: sk-proxy}
router_settings: {num_retries: 2}
YAML
# start_proxy: sets proxy; returns when it answers.
start_proxy() {
  # It asks again after a 500, which it also says where llama.cpp has closed a kept connection; without a pause of seconds.
  LITELLM_LOCAL_MODEL_COST_MAP=True INITIAL_RETRY_DELAY=0.02 MAX_RETRY_DELAY=0.1 JITTER=0.01 "$scratch/proxy/bin/litellm" --config "$scratch/proxy.yaml" --host 127.0.0.1 \
    --port "$proxy_port" --telemetry False > "$scratch/upstream.log" 2>&1 &
  proxy=$!
  running+=("$proxy")
  answers "http://127.0.0.1:$proxy_port/health/liveliness" "$proxy" 'LiteLLM does not start'
}
key="api_key_file = \"$scratch/key\""

start_llama tiny "$port"
start_llama slow "$slow_port"
start_proxy

# A wrong key of ours is this server's fault, not the client's: LiteLLM without a database says 400.
serve "$proxy_port" 'model = "tiny"' "api_key_file = \"$scratch/wrong\""
status=$(chat "$KEY" "$hello")
[ "$status" = 502 ] || { cat "$scratch/answer"; fail "a wrong key of the edge is $status to its client"; }
curl -sf -o "$scratch/health" "$EDGE/health"
grep -q '"cause":"credentials"' "$scratch/health" || { cat "$scratch/health"; fail 'health does not name the wrong key'; }
echo "ok      a wrong key of the edge: $status to the client, \"credentials\" in health"
settled 'wrong key'
end "$server"

# A model that it does not have: likewise.
serve "$proxy_port" 'model = "nope"' "$key"
status=$(chat "$KEY" "$hello")
[ "$status" = 502 ] || { cat "$scratch/answer"; fail "a wrong model is $status to the client"; }
curl -sf -o "$scratch/health" "$EDGE/health"
grep -q '"cause":"model"' "$scratch/health" || { cat "$scratch/health"; fail 'health does not name the wrong model'; }
echo "ok      a model that LiteLLM does not have: $status to the client, \"model\" in health"
settled 'wrong model'
end "$server"

serve "$proxy_port" 'model = "tiny"' "$key"
for name in answers tools contexts refusals; do scene "$name"; done
pictures
blameless
load 4 5
[ "$whole" -gt 0 ] && [ "$failed" = 0 ] || { cat "$scratch/load"; fail "$failed chats failed"; }
echo "ok      4 clients for 5 s: $whole chats whole, none failed"
settled 'load'

# restart: it is killed under four clients and starts again.
python3 "$here/load.py" 4 16 > "$scratch/load" &
clients=$!
running+=("$clients")
sleep 2
kill_hard "$proxy"
start_proxy
back=$(date +%s%N)
wait "$clients"
over "$clients"
count
again "$back"
echo "ok      kill -9 and restart of LiteLLM under 4 clients: $whole chats whole, $failed failed, answered again at most $took ms after it was back"
settled 'restart'
end "$server"

serve "$proxy_port" 'model = "slow"' "$key"
scene leave "http://127.0.0.1:$slow_port" 4
blameless
echo 'LiteLLM:'
die "$proxy"
end "$server"
start_proxy
serve "$proxy_port" 'model = "slow"' "$key"
echo 'llama.cpp behind LiteLLM:'
die "$llama"
start_llama slow "$slow_port"
again "$(date +%s%N)"
echo "ok      answered again $took ms after llama.cpp was back"
settled 'the end'
end "$server"
kill_hard "$proxy"
passed
