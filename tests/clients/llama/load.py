"""Clients that stream chats, each one after the other on a connection of its own, from $EDGE with $KEY.

load.py CLIENTS SECONDS prints how many chats were whole, failed and paid, and the first failures. A chat is whole with
status 200, some text, and [DONE] at its end. It is paid with status 200: that comes with the first text.
"""

import http.client
import json
import os
import sys
import threading
import time
from urllib.parse import urlsplit

BODY = json.dumps({
    "stream": True,
    "max_tokens": 24,
    # The ends of the text: without them, no answer is empty.
    "logit_bias": {"256": -100, "258": -100},
    "messages": [{"role": "user", "content": "What comes after this?"}],
})
HEADERS = {"Authorization": "Bearer " + os.environ["KEY"], "Content-Type": "application/json"}
address = urlsplit(os.environ["EDGE"]).netloc
lock = threading.Lock()
whole, paid, failures = 0, 0, []


def chat(connection):
    """The status, and what was wrong with the answer."""
    connection.request("POST", "/v1/chat/completions", BODY, HEADERS)
    answer = connection.getresponse()
    if answer.status != 200:
        return answer.status, answer.read().decode()
    text = last = ""
    try:
        for line in answer:
            line = line.decode().strip()
            if not line:
                continue
            last = line.removeprefix("data: ")
            if last == "[DONE]":
                continue
            for choice in json.loads(last).get("choices", []):
                text += choice["delta"].get("content") or ""
    except (OSError, http.client.HTTPException) as error:
        return 200, f"broken off after {text!r}: {error!r}"
    if last != "[DONE]" or not text:
        return 200, f"{text!r} ended with {last!r}"
    return 200, None


def client(until):
    global whole, paid
    connection = http.client.HTTPConnection(address, timeout=60)
    while time.monotonic() < until:
        try:
            status, wrong = chat(connection)
        except (OSError, http.client.HTTPException) as error:
            status, wrong = 0, repr(error)
        with lock:
            paid += status == 200
            whole += wrong is None
            if wrong is not None:
                failures.append(f"{status} {wrong.strip()[:300]}")
        if wrong is not None:
            connection.close()
            time.sleep(0.05)


clients, seconds = int(sys.argv[1]), float(sys.argv[2])
until = time.monotonic() + seconds
threads = [threading.Thread(target=client, args=(until,)) for _ in range(clients)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(whole, len(failures), paid)
for failure in failures[:5]:
    print(failure)
