"""RateLimit, RateLimit-Policy and Retry-After of real answers, read by http-sf: the types that the IETF draft gives them,
and that they agree with each other. Every class is asked, and one until it refuses."""

import json
import os
import urllib.error
import urllib.request

import http_sf

EDGE, ADMIN, KEY, WALLET = (os.environ[name] for name in ("EDGE", "ADMIN", "KEY", "WALLET"))


def ask(path, key=None, body=None):
    request = urllib.request.Request(EDGE + path, data=body and json.dumps(body).encode())
    if key:
        request.add_header("X-API-Key", key)
    if body:
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
            return answer.status, answer.headers
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.headers


def only_item(headers, name):
    """The one member of a List whose items are Strings with parameters."""
    fields = headers.get_all(name)
    assert fields and len(fields) == 1, f"{name}: {fields}"
    [(value, parameters)] = http_sf.parse(fields[0].encode(), tltype="list")
    assert type(value) is str, f"{name} is no String: {fields[0]}"
    return value, parameters


def whole(parameters, name):
    assert type(parameters[name]) is int, f"{name} is no Integer: {parameters}"
    return parameters[name]


def read(status, headers):
    policy, rate = only_item(headers, "RateLimit-Policy")
    state, left = only_item(headers, "RateLimit")
    assert policy == state, f"{state} is not {policy}"
    assert set(rate) == {"q", "w"} and set(left) == {"r", "t"}, f"{rate} {left}"
    quota, window = whole(rate, "q"), whole(rate, "w")
    remaining, reset = whole(left, "r"), whole(left, "t")
    assert quota >= 1 and 0 <= remaining <= quota, f"{remaining} of {quota}"
    assert window >= 1 and 0 <= reset <= window, f"{reset} of {window} s"
    if status == 429:
        wait, parameters = http_sf.parse(headers["Retry-After"].encode(), tltype="item")
        assert type(wait) is int and wait >= 1 and not parameters, headers["Retry-After"]
        assert remaining == 0 and reset == wait, f"{left}, Retry-After {wait}"
    print(f"{status} {policy}: q={quota} w={window} r={remaining} t={reset} Retry-After={headers['Retry-After']}")
    return policy


seen = {
    read(*ask("/livez")),
    read(*ask(f"/users/{WALLET}")),
    read(*ask(f"/users/{WALLET}/ledger", KEY)),
    read(*ask(f"/users/{WALLET}/credits", ADMIN, {"amount": 1, "reason": "fields"})),
    read(*ask("/miner/stats", KEY, {"hashrate": 1})),
    read(*ask("/chat", KEY, {"message": "hello"})),
}
for _ in range(20):
    status, headers = ask("/login/challenge", body={"wallet_address": WALLET})
    seen.add(read(status, headers))
    if status == 429:
        break
assert status == 429, "the class auth never refused"
assert seen == {"health", "read", "write", "telemetry", "chat", "auth"}, seen
