#!/usr/bin/env python3
"""Receives the alerts of r3mes-edge, checks each, and prints it as one line. Needs nothing but Python 3.

    examples/webhook_receiver.py --listen 127.0.0.1:9000 --file webhook

writes the address with a secret in it into `webhook` (mode 0600), which is what the server's settings name:

    [alerts]
    webhook_file = "webhook"
"""

import argparse
import hmac
import json
import os
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The whole message of webhook_kind = "json": each member with its type.
MEMBERS = {
    "status": str, "name": str, "subject": (str, type(None)), "severity": str, "summary": str,
    "value": (int, float), "threshold": (int, float), "since": str, "at": str, "node": str,
}


def validation_error(alert):
    """What is wrong with a message, or None."""
    if not isinstance(alert, dict):
        return "no object"
    for name, kind in MEMBERS.items():
        if name not in alert or not isinstance(alert[name], kind):
            return f"{name} is missing or of another type"
    if alert["status"] not in ("firing", "resolved") or alert["severity"] not in ("WARNING", "CRITICAL"):
        return "an unknown status or severity"
    return None


class Receiver(BaseHTTPRequestHandler):
    # A sender that stops in the middle must not keep a thread for ever.
    timeout = 10

    def do_POST(self):
        # Only a sender that knows the secret is accepted; compared in constant time, so that it cannot be guessed piece by piece.
        if not hmac.compare_digest(self.path, self.server.path):
            return self.answer(404)
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= 65536:
            return self.answer(413)
        try:
            alert = json.loads(self.rfile.read(length))
        except ValueError:
            return self.answer(400)
        wrong = validation_error(alert)
        if wrong:
            print(f"refused: {wrong}", flush=True)
            return self.answer(400)
        # The texts are data: json.dumps keeps control characters out of the terminal.
        shown = [alert["name"], alert["subject"] or "-", alert["summary"]]
        print(alert["at"], alert["severity"], alert["status"], *map(json.dumps, shown), flush=True)
        # After anything but a 2xx the server sends it again, with growing pauses.
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        """Quiet: the path is a secret."""


arguments = argparse.ArgumentParser(description="Receives the alerts of r3mes-edge.")
arguments.add_argument("--listen", default="127.0.0.1:9000", metavar="ADDR:PORT")
arguments.add_argument("--file", default="webhook", help="where to write the address")
arguments = arguments.parse_args()
host, port = arguments.listen.rsplit(":", 1)
server = ThreadingHTTPServer((host, int(port)), Receiver)
server.path = f"/{secrets.token_urlsafe(24)}"
with open(os.open(arguments.file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
    file.write(f"http://{host}:{server.server_address[1]}{server.path}\n")
try:
    server.serve_forever()
except KeyboardInterrupt:
    pass
