#!/usr/bin/env bash
# The default requests of programs and libraries on top of OpenAI's API, against the real binary with a scripted inference server
# behind it: langchain-openai, pydantic-ai, the AI SDK and aider.
. "$(dirname "$0")/common.bash"
here=$PWD/tests/clients/frameworks

need_venv
why='langchain-openai and pydantic-ai are not installed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check langchain-openai 'pydantic-ai-slim[openai]'
why='aider is not installed'
python3 -m venv "$scratch/aider"
"$scratch/aider/bin/pip" install --quiet --no-compile --disable-pip-version-check aider-chat
need npm
mkdir "$scratch/node"
cp "$here/ai.mjs" "$scratch/node/"
(cd "$scratch/node" && npm install --silent --no-fund --no-audit --no-save ai @ai-sdk/openai-compatible zod > /dev/null)
. "$PWD/tests/clients/openai/common.bash"

against langchain "$scratch/venv/bin/python" "$here/langchain_chat.py"
against pydantic-ai "$scratch/venv/bin/python" "$here/pydantic_agent.py"
against ai-sdk node "$scratch/node/ai.mjs"
mkdir "$scratch/folder"
against aider env AIDER="$scratch/aider/bin/aider" FOLDER="$scratch/folder" "$here/aider.sh"
passed
