"""Compares what the clients noted in ANSWERS with the ledger: charges.py PAYER POOR

Each answer has one entry, with the tokens that its client read and the price that /v1/models has for them, rounded up one time;
there is no other entry. What was cut is estimated, and not for nothing."""

import json
import math
import os
import sys
import time
import urllib.request
from decimal import Decimal

EDGE, MICRO = os.environ["EDGE"], 1_000_000


def get(path, key):
    request = urllib.request.Request(EDGE + path, headers={"X-API-Key": os.environ[key]})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer, parse_float=Decimal, parse_int=Decimal)


def ledger(wallet, key):
    entries, page = [], ""
    while page is not None:
        answer = get(f"/users/{wallet}/ledger?limit=100{page}", key)
        entries += answer["entries"]
        page = answer["next_cursor"] and f"&cursor={answer['next_cursor']}"
    return [entry for entry in entries if entry["reason"] != "test"]


prices = {model["id"]: model["price"] for model in get("/v1/models", "KEY")["data"]}
answers = [json.loads(line, parse_float=Decimal) for line in open(os.environ["ANSWERS"])]
charges = {entry["detail"]["request_id"]: entry for entry in ledger(sys.argv[1], "KEY")}
# The charge of a stream that was cut comes beside its end.
for _ in range(50):
    if len(charges) >= len(answers):
        break
    time.sleep(0.1)
    charges = {entry["detail"]["request_id"]: entry for entry in ledger(sys.argv[1], "KEY")}
total, untold = Decimal(0), 0
for answer in answers:
    entry = charges.pop(answer["request_id"], None)
    assert entry, ("no charge", answer)
    detail, charged = entry["detail"], -entry["amount"]
    total += charged
    assert detail["adapter"] == answer["model"], (answer, entry)
    # llama.cpp counts the prompt of a streamed message at its start alone, and leaves that out before some characters.
    is_untold = detail["estimated"] == "no_usage" and answer["what"].startswith("anthropic, message streamed")
    untold += is_untold
    assert is_untold or detail["estimated"] == answer["estimated"], (answer, entry)
    price = prices[answer["model"]]
    tokens = [detail[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens")]
    if answer["estimated"]:
        assert tokens[2] > 0, (answer, entry)
    else:
        assert tokens == [answer[name] for name in ("prompt", "cached", "completion")], (answer, entry)
        assert charged == answer["cost"], (answer, entry)
    prompt, cached, completion = tokens
    cost = (prompt - cached) * price["prompt"] + cached * price["cached_prompt"] + completion * price["completion"]
    assert charged * MICRO == math.ceil(price["request"] * MICRO + cost), (answer, entry, cost)
assert not charges, ("charged, but not answered", charges)
assert not ledger(sys.argv[2], "POOR")
left = get(f"/users/{sys.argv[1]}", "KEY")["credits"]
assert left == 1000 - total, (left, total)
print(f"ok      {len(answers)} answers, each charged by its usage: {total} credits; nothing else was charged")
print(f"note    {untold} streamed messages without a start, whose prompts are estimated")
