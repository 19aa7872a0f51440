#!/usr/bin/env bash
# aider as it is by default, for one message: AIDER is the program, FOLDER an empty folder. EDGE and KEY come from outside.
set -euo pipefail
cd "$FOLDER"
export HOME=$FOLDER LITELLM_LOCAL_MODEL_COST_MAP=True
answer=$("$AIDER" --model openai/general --openai-api-base "$EDGE/v1" --openai-api-key "$KEY" --message hi --yes-always --no-git \
  --no-pretty --no-check-update --no-show-model-warnings --no-show-release-notes --analytics-disable < /dev/null 2>&1) || { echo "$answer" >&2; exit 1; }
grep -q 'you said' <<< "$answer" || { echo "$answer" >&2; exit 1; }
echo 'ok      a message'
echo 'charged 1'
