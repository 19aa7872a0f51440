#!/usr/bin/env bash
# An admin's day by the command line: BINARY, CONFIG, DATABASE and WALLET.
set -euo pipefail
edge() { "$BINARY" --config "$CONFIG" --database "$DATABASE" "$@"; }
newest_key() { edge keys list --wallet "$WALLET" | grep -o 'key_[0-9A-Z]*' | head -n 1; }

edge users create "$WALLET"
edge credits grant "$WALLET" 100 --reason 'welcome, Ada' --reference inv-1
edge keys create --wallet "$WALLET" --name day --scopes chat,read --models general --credit-limit 5 --credit-period day \
  --max-concurrency 2 --expires 90d > /dev/null
edge keys rotate "$(newest_key)" --grace 1h > /dev/null
edge credits take "$WALLET" 25.5 --reason correction
edge users block "$WALLET"
edge users unblock "$WALLET"
edge breaker open node
edge breaker reset node
edge backup create
edge ledger verify
edge keys revoke "$(newest_key)"
