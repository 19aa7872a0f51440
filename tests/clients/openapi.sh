#!/usr/bin/env bash
# The served document as public tools see it: linters read it, schemathesis asks what it promises (all checks, all phases,
# with an admin's key and without one), and a Structured Fields library reads the rate limits of real answers.
#
# OPENAPI_SECONDS: how long schemathesis asks with the key, 45 if not set; without one it asks a third of that.
# OPENAPI_SEED: what it makes its requests of, drawn if not set; the same seed makes the same requests.
set -euo pipefail
cd "$(dirname "$0")/../.."
export no_proxy=127.0.0.1,localhost
unset RUST_LOG
# The caller's own settings of schemathesis would change what is asked.
for name in $(compgen -e SCHEMATHESIS_ || true); do unset "$name"; done

seconds=${OPENAPI_SECONDS:-45}
seed=${OPENAPI_SEED:-$RANDOM}
here=$PWD/tests/clients/openapi
scratch=$(mktemp -d)
demo=
why='a command failed'
stop() {
  [ -z "$demo" ] || { kill "$demo" && wait "$demo"; } 2> /dev/null || true
  demo=
}
finish() {
  local code=$?
  stop
  rm -rf "$scratch"
  if [ "$code" = 0 ] && [ -z "$why" ]; then
    echo "tests/clients/openapi.sh: passed"
  else
    echo "tests/clients/openapi.sh: FAILED: $why"
  fi
}
trap finish EXIT
fail() {
  why=$1
  exit 1
}

why='python3 with venv and pip is needed'
python3 -m venv "$scratch/venv"
python=$scratch/venv/bin/python
"$python" -m pip install --quiet --disable-pip-version-check 'schemathesis==4.*' 'openapi-spec-validator==0.*' 'http-sf==1.*'
why='node with npm is needed'
npm install --silent --no-audit --no-fund --prefix "$scratch/npm" '@redocly/cli@2'
why='the build failed'
cargo build --release --locked --example demo
target=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

# start [--for-tools]: sets demo, and exports what its file assigns.
start() {
  stop
  rm -f "$scratch/env"
  "$target/release/examples/demo" --listen 127.0.0.1:0 --env-file "$scratch/env" "$@" > "$scratch/printed" 2> "$scratch/log" &
  demo=$!
  for _ in $(seq 100); do
    [ ! -e "$scratch/env" ] || break
    kill -0 "$demo" 2> /dev/null || break
    sleep 0.1
  done
  [ -e "$scratch/env" ] || { cat "$scratch/log"; fail 'the demo does not serve'; }
  set -a
  . "$scratch/env"
  set +a
}
quiet() {
  [ ! -s "$scratch/log" ] || { cat "$scratch/log"; fail "the demo logged something while $1"; }
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

# ask SECONDS [OPTION…]: everything that schemathesis can check.
ask() {
  local most=$1
  shift
  PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 SCHEMATHESIS_HOOKS=hooks "$scratch/venv/bin/schemathesis" \
    --no-color --config-file "$here/schemathesis.toml" run "$EDGE/openapi.json" "$@" \
    --checks all --phases examples,coverage,fuzzing,stateful --continue-on-failure \
    --max-time "$most" --seed "$seed" --generation-database none --request-timeout 30
}
why='schemathesis with the key of an admin'
ask "$seconds" --header "X-API-Key: $ADMIN"
why='schemathesis without a key'
ADMIN='' ask "$((seconds / 3))"
quiet 'schemathesis asked'
"$python" - << 'END'
import json, os, urllib.request
request = urllib.request.Request(os.environ["EDGE"] + "/admin/ledger/verify", headers={"X-API-Key": os.environ["ADMIN"]})
report = json.load(urllib.request.urlopen(request, timeout=10))
print("ledger after it:", report)
assert report["mistakes"] == [] and report["open_reservations"] == 0 and report["entries"] > 1
END

# Only whoever comes this far has passed.
why=
