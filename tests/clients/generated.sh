#!/usr/bin/env bash
# Clients that are generated from the served document: openapi-typescript with openapi-fetch, checked by tsc (strict), and
# openapi-python-client, whose every module is imported. Both then call the running server: models, users, keys, usage, a
# chat, a stream and errors, in types.
. "$(dirname "$0")/common.bash"
here=$PWD/tests/clients/openapi

need_venv
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check 'openapi-python-client==0.29.*' 'ruff==0.*'
need npm
cp "$here/client.ts" "$here/tsconfig.json" "$scratch/"
echo '{"type":"module"}' > "$scratch/package.json"
npm install --silent --no-fund --no-audit --no-save --prefix "$scratch" openapi-typescript@7 openapi-fetch@0 typescript@5 @types/node@22
build --bin r3mes-edge

"$built/r3mes-edge" demo --listen 127.0.0.1:0 --env-file "$scratch/env" --for-tools > "$scratch/printed" 2> "$scratch/log" &
demo=$!
running+=("$demo")
await "$scratch/env" "$demo"
set -a
. "$scratch/env"
set +a
cd "$scratch"
export PATH=$scratch/venv/bin:$PATH
python -c 'import os, urllib.request; urllib.request.urlretrieve(os.environ["EDGE"] + "/openapi.json", "openapi.json")'

why='openapi-typescript'
node_modules/.bin/openapi-typescript openapi.json --output edge.d.ts > generated.log 2>&1 || { cat generated.log; exit 1; }
# A type that nothing fits.
! grep -E ': Record<string, never>;$|\bnever\[\]' edge.d.ts || fail 'a type is empty'
why='the client in TypeScript'
node_modules/.bin/tsc --project tsconfig.json
node client.js

why='openapi-python-client'
openapi-python-client generate --path openapi.json --output-path edge_client --meta none > generated.log 2>&1 || { cat generated.log; exit 1; }
# Of the two forms of samples it knows the one in JSON. No other warning, as each stands for a type that is lost.
warnings=$(grep -cE '^WARNING|^ERROR|Unable to' generated.log || true)
grep -q '^Unsupported content type application/x-ndjson' generated.log && [ "$warnings" = 1 ] || { cat generated.log; fail 'the generator warns'; }
why='the client in Python'
python "$here/client.py"
passed
