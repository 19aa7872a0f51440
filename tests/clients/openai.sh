#!/usr/bin/env bash
# OpenAI's own clients for Python and JavaScript against the real binary, with an inference server that misbehaves on
# demand behind it: what they read, what they raise, that the bill says the same, and what becomes of every parameter.
. "$(dirname "$0")/common.bash"
here=$PWD/tests/clients/openai

need_venv
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check openai
need npm
cp "$here/client.mjs" "$scratch/"
(cd "$scratch" && npm install --silent --no-fund --no-audit --no-save openai > /dev/null)
. "$here/common.bash"

against python "$scratch/venv/bin/python" "$here/client.py"
against parameters "$scratch/venv/bin/python" "$here/parameters.py"
against javascript node "$scratch/client.mjs"
passed
