#!/usr/bin/env bash
# The served document as public tools see it: linters read it, schemathesis asks what it promises (all checks, all phases,
# with an admin's key and without one), and a Structured Fields library reads the rate limits of real answers.
#
# OPENAPI_SECONDS: how long schemathesis asks with the key, 45 if not set; without one it asks a third of that.
# OPENAPI_SEED: what it makes its requests of, drawn if not set; the same seed makes the same requests.
. "$(dirname "$0")/common.bash"
# The caller's own settings of schemathesis would change what is asked.
for name in $(compgen -e SCHEMATHESIS_ || true); do unset "$name"; done

seconds=${OPENAPI_SECONDS:-45}
seed=${OPENAPI_SEED:-$RANDOM}
here=$PWD/tests/clients/openapi
demo=
need_venv
python3 -m venv "$scratch/venv"
python=$scratch/venv/bin/python
"$python" -m pip install --quiet --disable-pip-version-check 'schemathesis==4.*' 'openapi-spec-validator==0.*' 'http-sf==1.*'
need npm
npm install --silent --no-audit --no-fund --prefix "$scratch/npm" '@redocly/cli@2'
build --bin r3mes-edge

# start [--for-tools]: sets demo, and exports what its file assigns.
start() {
  [ -z "$demo" ] || end "$demo"
  rm -f "$scratch/env"
  "$built/r3mes-edge" demo --listen 127.0.0.1:0 --env-file "$scratch/env" "$@" > "$scratch/printed" 2> "$scratch/log" &
  demo=$!
  running+=("$demo")
  await "$scratch/env" "$demo"
  set -a
  . "$scratch/env"
  set +a
}
# quiet WHILE: nothing was logged, but alerts of invented samples, as of a GPU with 10^16 °C.
quiet() {
  ! grep -v '^[^ ]* WARN  alert temperature ' "$scratch/log" || fail "the demo logged something while $1"
}

# The fields, at the usual rates.
start
why='the fields of the rate limits'
"$python" "$here/fields.py"
quiet 'its rates were asked for'

start --for-tools
# What the tools leave behind (caches, found examples) goes with the scratch folder.
cd "$scratch"
"$python" -c 'import os, urllib.request; urllib.request.urlretrieve(os.environ["EDGE"] + "/openapi.json", "openapi.json")'
why='openapi-spec-validator'
"$scratch/venv/bin/openapi-spec-validator" --schema 3.1 openapi.json
why='the linter'
# All that it recommends; a warning counts as an error.
"$scratch/npm/node_modules/.bin/redocly" lint --extends=recommended --format=json openapi.json > lint.json 2> lint.log || { cat lint.log lint.json; exit 1; }
"$python" -c 'import json; found = json.load(open("lint.json"))["totals"]; print("redocly:", found); assert found["errors"] + found["warnings"] + found["ignored"] == 0' || { cat lint.json; exit 1; }

# ask SECONDS [OPTION…]: everything that schemathesis can check, but that what was deleted is gone: a revoked key still shows,
# as one that opens nothing.
ask() {
  local most=$1
  shift
  PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 SCHEMATHESIS_HOOKS=hooks "$scratch/venv/bin/schemathesis" \
    --no-color --config-file "$here/schemathesis.toml" run "$EDGE/openapi.json" "$@" \
    --checks all --exclude-checks use_after_free --phases examples,coverage,fuzzing,stateful --continue-on-failure \
    --max-time "$most" --seed "$seed" --generation-database none --request-timeout 30
}
why='schemathesis with the key of an admin'
ask "$seconds" --header "X-API-Key: $ADMIN"
why='schemathesis without a key'
ADMIN='' ask "$((seconds / 3))"
quiet 'schemathesis asked'
"$python" - << 'END'
import json, os, urllib.request
request = urllib.request.Request(os.environ["EDGE"] + "/admin/ledger/verify?full=true", headers={"X-API-Key": os.environ["ADMIN"]})
report = json.load(urllib.request.urlopen(request, timeout=10))
print("ledger after it:", report)
assert report["mistakes"] == [] and report["entries"] > 1
END
passed
