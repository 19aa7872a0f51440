"""A good client beside the bad ones: asks at a given rate, every other time over a new connection, and measures.

neighbour.py URL SOURCE_ADDRESS SECONDS REQUESTS_A_SECOND [P99_MILLISECONDS]    its key is in the variable KEY
Ends early on SIGINT; with 1 where an answer was not 200, or where the 99th percentile of the latencies is above the bound.
"""

import collections
import http.client
import os
import signal
import sys
import time
import urllib.parse

url, source, seconds, often = urllib.parse.urlsplit(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
bound = float(sys.argv[5]) if len(sys.argv) > 5 else None


def connection():
    return http.client.HTTPConnection(url.hostname, url.port, timeout=30, source_address=(source, 0))


kept = connection()
latencies, answers = [], collections.Counter()
asked_to_end = []
# Also where the caller ignores it for its background jobs, as shells do.
signal.signal(signal.SIGINT, lambda *_: asked_to_end.append(True))
began = time.monotonic()
while (at := began + len(latencies) / often) < began + seconds and not asked_to_end:
    time.sleep(max(0.0, at - time.monotonic()))
    new = len(latencies) % 2 == 1
    used = connection() if new else kept
    try:
        used.request("GET", "/auth/me", headers={"X-API-Key": os.environ["KEY"]})
        answer = used.getresponse()
        answer.read()
        answers[answer.status] += 1
    except (OSError, http.client.HTTPException) as error:
        answers[type(error).__name__] += 1
        used.close()
    # From when it was due: a client that was kept waiting does not get to ask less often.
    latencies.append(time.monotonic() - at)
    if new:
        used.close()

latencies.sort()
part = lambda share: 1000 * latencies[min(len(latencies) - 1, int(share * len(latencies)))]
print(f"good client: {len(latencies)} requests, answers {dict(answers)}, "
      f"latency p50 {part(0.5):.1f} ms, p99 {part(0.99):.1f} ms, max {part(1):.1f} ms")
sys.exit(0 if set(answers) == {200} and (bound is None or part(0.99) <= bound) else 1)
