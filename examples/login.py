#!/usr/bin/env python3
"""Signs in to r3mes-edge with a wallet, as ADR-036 says, and prints the access token.

    pip install ecdsa
    python3 examples/login.py http://127.0.0.1:8000

The wallet is a TEST wallet whose secret key everybody knows. For your own, set WALLET and SECRET_KEY_HEX in the
environment, or better, let your wallet program sign the same document.
"""

import base64
import hashlib
import json
import os
import sys
import urllib.request

import ecdsa

WALLET = os.environ.get("WALLET", "remes150rtrmj2f8vl9tem8qpfw36ylw5jg9j2vu34rm")
SECRET = bytes.fromhex(os.environ.get("SECRET_KEY_HEX", "07" * 32))


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def sign(message):
    """The 64 bytes r and s over SHA-256 of the amino sign document: keys sorted, no spaces, s in its low form."""
    document = {
        "account_number": "0",
        "chain_id": "",
        "fee": {"amount": [], "gas": "0"},
        "memo": "",
        "msgs": [
            {
                "type": "sign/MsgSignData",
                "value": {"data": base64.b64encode(message.encode()).decode(), "signer": WALLET},
            }
        ],
        "sequence": "0",
    }
    text = json.dumps(document, separators=(",", ":"), sort_keys=True)
    key = ecdsa.SigningKey.from_string(SECRET, curve=ecdsa.SECP256k1)
    signature = key.sign_deterministic(
        text.encode(), hashfunc=hashlib.sha256, sigencode=ecdsa.util.sigencode_string_canonize
    )
    return key.get_verifying_key().to_string("compressed"), signature


def main():
    edge = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    challenge = post(f"{edge}/login/challenge", {"wallet_address": WALLET})
    public_key, signature = sign(challenge["message"])
    login = post(
        f"{edge}/login",
        {
            "wallet_address": WALLET,
            "message": challenge["message"],
            "pub_key": base64.b64encode(public_key).decode(),
            "signature": base64.b64encode(signature).decode(),
        },
    )
    print(f"signed in as {login['user']['wallet_address']} for {login['expires_in']} s", file=sys.stderr)
    print(login["access_token"])


if __name__ == "__main__":
    main()
