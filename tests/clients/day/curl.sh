#!/usr/bin/env bash
# An admin's day by curl: EDGE, ADMIN and WALLET.
set -euo pipefail
ask() { curl -sS --fail-with-body -w '\n' -H "X-API-Key: $ADMIN" "$@"; }
once() { ask -H "Idempotency-Key: $RANDOM-$RANDOM-$RANDOM" "$@"; }
newest_key() { ask "$EDGE/api/keys?wallet=$WALLET&limit=1" | grep -o 'key_[0-9A-Z]*' | head -n 1; }

once "$EDGE/users" -d "{\"wallet_address\":\"$WALLET\"}"
once "$EDGE/users/$WALLET/credits" -d '{"amount":100,"reason":"welcome, Ada","reference":"inv-1"}'
once "$EDGE/api/keys" -d "{\"wallet_address\":\"$WALLET\",\"name\":\"day\",\"scopes\":[\"chat\",\"read\"],\"models\":[\"general\"],
  \"credit_limit\":5,\"credit_period\":\"day\",\"max_concurrency\":2,\"expires_days\":90}" > /dev/null
ask "$EDGE/api/keys/$(newest_key)/rotate" -d '{"grace_seconds":3600}' > /dev/null
once "$EDGE/users/$WALLET/credits" -d '{"amount":-25.5,"reason":"correction"}'
ask -X POST "$EDGE/users/$WALLET/block"
ask -X POST "$EDGE/users/$WALLET/unblock"
ask "$EDGE/admin/breakers/node" -d '{"state":"open"}'
ask "$EDGE/admin/breakers/node" -d '{"state":"reset"}'
ask -X POST "$EDGE/admin/backup"
ask "$EDGE/admin/ledger/verify?full=true" | grep '"mistakes":\[\]'
ask -X DELETE "$EDGE/api/keys/$(newest_key)"
