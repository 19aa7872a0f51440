#!/usr/bin/env bash
# Random requests before a real llama.cpp, with prices by tokens: it never makes more tokens than are held for, nor reads more.
#
#   SEED=7 SECONDS_OF_FUZZ=100 tests/clients/fuzz.sh
# R3MES_EDGE=FILE takes that program instead of building one.
. "$(dirname "$0")/common.bash"
. "$(dirname "$0")/llama/common.bash"
seed=${SEED:-$(date +%s)}
echo "SEED=$seed"

port=$(free_port)
start_llama tiny "$port"
serve "$port" '[adapters.general]' 'price = { request = 0, prompt = 0.4, cached_prompt = 0.1, completion = 1.6 }' \
  'max_output_tokens = 40' 'context_length = 4096'
why='a bound does not hold'
python3 "$here/fuzz.py" "http://127.0.0.1:$port" 40 4096 "$seed" "${SECONDS_OF_FUZZ:-100}" ||
  { grep -nE "ASSERT|what\(\)|error" "$scratch/upstream.log" | tail -n 5; tail -n 3 "$scratch/upstream.log"; fail "$why"; }
why='the ledger'
"$edge" --database "$database" ledger verify --full
end "$server"
kill_hard "$llama"
passed
