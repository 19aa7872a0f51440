"""What schemathesis cannot read from the document, because the document has it in prose.

A wallet's checksum, and in requests that are meant to be right: which fields exclude or need each other, and what is
right at this moment only. Requests that are meant to be wrong stay as they were made.
"""

import itertools
import json
import os
import re
import time
import urllib.request
from decimal import Decimal

import schemathesis
from hypothesis import strategies

EDGE, ADMIN, WALLET = os.environ["EDGE"], os.environ.get("ADMIN"), os.environ["WALLET"]
DIGITS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
PREFIX = "remes"


def checksum(values):
    """The checksum of BIP 173."""
    state = 1
    for value in values:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            if top >> bit & 1:
                state ^= generator
    return state ^ 1


def wallet(account):
    number = int.from_bytes(account, "big")
    data = [number >> shift & 31 for shift in range(155, -1, -5)]
    spread = [ord(letter) >> 5 for letter in PREFIX] + [0] + [ord(letter) & 31 for letter in PREFIX]
    check = checksum(spread + data + [0] * 6)
    data += [check >> shift & 31 for shift in range(25, -1, -5)]
    return PREFIX + "1" + "".join(DIGITS[digit] for digit in data)


# The one that has an account as often as all others together, else most answers would be "no such user".
schemathesis.openapi.format(
    "remes-wallet",
    strategies.just(WALLET) | strategies.binary(min_size=20, max_size=20).map(wallet),
)


@schemathesis.serializer("application/json")
def plain_numbers(context, value):
    """Amounts are written without an exponent, which Python would give the small ones."""
    if isinstance(value, bytes):
        return value
    number = r'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?[eE][-+]?[0-9]+'
    plain = lambda found: found[0] if found[0].startswith('"') else format(Decimal(found[0]), "f")
    return re.sub(number, plain, json.dumps(value)).encode()


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")


@schemathesis.deserializer("text/csv", "application/openmetrics-text", "text/html", "text/css", "text/javascript")
def text(context, response):
    return response.content.decode()


def ask(path, body=None):
    request = urllib.request.Request(EDGE + path, data=body and json.dumps(body).encode(), headers={"X-API-Key": ADMIN})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


OWN_KEY_ID = ADMIN and ask("/auth/me")["key"]["id"]
if ADMIN:
    # Enough for every chat.
    ask(f"/users/{WALLET}/credits", {"amount": 1000000, "reason": "schemathesis"})
ANOTHER_KEY_ID = "key_00000000000000000000000000"


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body if isinstance(case.body, dict) else {}
    # The key that all this is sent with has to outlive it.
    for place, name in ((case.path_parameters or {}, "id"), (body, "api_key_id")):
        if OWN_KEY_ID and place.get(name) == OWN_KEY_ID:
            place[name] = ANOTHER_KEY_ID
    # An upstream that is taken out of use would have everything after it answered with 503.
    if case.operation.path == "/admin/breakers/{name}" and body.get("state") == "open":
        body["state"] = "reset"
    if case.meta and case.meta.generation.mode.is_positive:
        make_right(case)


DOCUMENT = ask("/openapi.json") if ADMIN else {"paths": {}}
# The members of the requests that go to inference servers, by path.
PASSED_ON = {}
for path, item in DOCUMENT["paths"].items():
    if path.startswith("/v1/") and "post" in item:
        name = item["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
        PASSED_ON[path] = set(DOCUMENT["components"]["schemas"][name]["properties"])
TURNS = itertools.count()


def make_right(case):
    path, query, headers = case.operation.path, case.query or {}, case.headers or {}
    turn = next(TURNS)
    # Of four, three are used for the first time; else nearly all would be refused for what was done under them before.
    if "Idempotency-Key" in headers and turn % 4:
        headers["Idempotency-Key"] = f"{turn} {headers['Idempotency-Key']}"[:255]
    if path == "/miner/hashrate/{wallet}" and "hours" in query:
        query.pop("days", None)
    if path == "/miner/stats" and case.media_type == "application/x-ndjson":
        case.body = "".join(json.dumps({"hashrate": len(case.body) + n, "wallet_address": WALLET}) + "\n" for n in range(3))
    if path == "/usage":
        now = time.time()
        # In this order, and not too far apart; a cursor is of an earlier answer.
        query.pop("cursor", None)
        query.update({name: int(now - days * 86400) for name, days in (("from", 9), ("to", 2)) if name in query})
    if path == "/users" and "cursor" in query:
        # Its form depends on the order.
        query["cursor"] = WALLET if query.get("sort", "address") == "address" else f"0.{WALLET}"
    if path in PASSED_ON:
        case.headers = {**headers, "X-Wallet-Address": WALLET}
    bodies = case.body if isinstance(case.body, list) else [case.body]
    for body in (body for body in bodies if isinstance(body, dict)):
        # An admin's key has no wallet of its own to charge or to write of.
        if path in ("/miner/stats", "/chat"):
            body["wallet_address"] = body.get("wallet_address") or WALLET
        # It makes keys without one only for admins; and a wallet may have only so many keys.
        if path in ("/api/keys", "/api-keys/create") and body.get("scopes") != ["admin"]:
            body["wallet_address"] = wallet(turn.to_bytes(20, "big"))
        if path in ("/api/keys", "/api-keys/create"):
            if "admin" in (body.get("scopes") or []):
                # It has no limits.
                for name in ("models", "credit_limit", "credit_period", "max_concurrency"):
                    body.pop(name, None)
            # Adapters that are configured, and a limit with its period.
            if body.get("models") is not None:
                body["models"] = ["general"]
            if body.get("credit_limit") is None or body.get("credit_period") is None:
                body.pop("credit_limit", None)
                body.pop("credit_period", None)
        if body.get("recorded_at") is not None:
            now = time.time()
            utc = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
            body["recorded_at"] = utc if isinstance(body["recorded_at"], str) else now
        if path in PASSED_ON:
            # Others are passed on only to a server whose configuration says so.
            for name in set(body) - PASSED_ON[path]:
                del body[name]
            # The same in both places; several answers only where tokens have a price.
            body.pop("wallet_address", None)
            body.pop("n", None)
            if isinstance(body.get("prompt"), list):
                body["prompt"] = "hello"
            if body.get("model") is not None:
                body["model"] = "general"
            if body.get("stream"):
                case.headers.pop("Idempotency-Key", None)
        if path == "/chat":
            # One that is configured, and the same in both places.
            if body.get("adapter") is not None:
                body["adapter"] = "general"
            if "X-Adapter" in headers:
                headers["X-Adapter"] = "general"
            if "X-Wallet-Address" in headers:
                headers["X-Wallet-Address"] = body["wallet_address"]
