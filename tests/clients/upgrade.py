"""Clients that try again until they are answered, for upgrade.sh.

upgrade.py write URL WALLET FILE       grants and samples without pause until SIGTERM; keys are in the variables ADMIN and KEY;
                                       what was acknowledged is in the file then
upgrade.py check FILE DATABASE MARKS   holds what was acknowledged against a database that no server has, and measures how
                                       long nobody was answered after each mark: a line `name asked-to-end ended`
upgrade.py fill DATABASE MEGABYTES     makes a database of version 1 as large with a week of samples
upgrade.py count DATABASE              how many samples one holds, if nothing else is wrong with it
"""

import http.client
import json
import os
import signal
import sqlite3
import statistics
import sys
import threading
import time
import urllib.parse

# One of each kind a thread.
CLIENTS = 3
# Between two tries of what was not answered.
PAUSE = 0.005


class Client:
    def __init__(self, url, key):
        url = urllib.parse.urlsplit(url)
        # Another address than the server's: a port without a listener cannot be met by its own connection.
        self.connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10, source_address=("127.0.0.2", 0))
        self.headers = {"X-API-Key": key, "Content-Type": "application/json"}
        self.tries = self.last_tries = 0

    def ask(self, path, body, **headers):
        """The first answer; the same request again where there is none, or a 503."""
        self.last_tries = 0
        while True:
            self.tries += 1
            self.last_tries += 1
            try:
                self.connection.request("POST", path, json.dumps(body), {**self.headers, **headers})
                answer = self.connection.getresponse()
                text = answer.read()
                if answer.status in (200, 201):
                    return text
                if answer.status != 503:
                    raise SystemExit(f"{path} was answered {answer.status}: {text}")
            except (OSError, http.client.HTTPException):
                self.connection.close()
            time.sleep(PAUSE)


def write(url, wallet, file):
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    answers, failures, tries = [], [], []
    # Far enough back that the last of them is not ahead of the clock.
    start = int(time.time() * 1000) - 3_600_000

    def grants(number):
        client, before = Client(url, os.environ["ADMIN"]), None
        path = f"/users/{wallet}/credits"
        for n in range(1 << 30):
            if stop.is_set():
                return tries.append(client.tries)
            name = f"grant-{number}-{n}"
            request = ({"amount": 1, "reason": name}, {"Idempotency-Key": name})
            answer = client.ask(path, request[0], **request[1])
            answers.append((time.time(), "grant", name))
            # What the other program answered before is answered alike, and not done again.
            if client.last_tries > 1 and before and client.ask(path, before[0], **before[1]) != before[2]:
                raise SystemExit(f"{before[0]} was answered otherwise the second time")
            before = (*request, answer)

    def samples(number):
        client = Client(url, os.environ["KEY"])
        for n in range(1 << 30):
            if stop.is_set():
                return tries.append(client.tries)
            moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime((start + n) // 1000))}.{(start + n) % 1000:03}Z"
            client.ask("/miner/stats", {"worker": f"rig-{number}", "recorded_at": moment, "hashrate": n})
            answers.append((time.time(), "sample", [f"rig-{number}", start + n, n]))

    def run(work, number):
        try:
            work(number)
        except BaseException as error:  # told to the main thread, which fails
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work, n)) for work in (grants, samples) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open(file, "w") as out:
        json.dump({"answers": answers, "tries": sum(tries)}, out)
    if failures:
        sys.exit(f"a client failed: {failures[0]}")


def check(file, database, marks):
    told = json.load(open(file))
    answers = sorted(told["answers"])
    granted = [name for _, kind, name in answers if kind == "grant"]
    sampled = [tuple(sample) for _, kind, sample in answers if kind == "sample"]
    held = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    entries = [reason for reason, in held.execute("SELECT reason FROM ledger WHERE reason LIKE 'grant-%'")]
    rows = held.execute("SELECT w.worker, s.recorded_at, s.hashrate FROM mining_stats s JOIN workers w ON w.id = s.worker").fetchall()
    for what, acknowledged, found in (("grants", granted, entries), ("samples", sampled, rows)):
        if sorted(acknowledged) != sorted(found):
            lost, more = set(acknowledged) - set(found), set(found) - set(acknowledged)
            sys.exit(f"of {len(acknowledged)} acknowledged {what} the file holds {len(found)}: {len(lost)} are lost, {len(more)} "
                     f"were never acknowledged, {len(found) - len(set(found))} stand there again")
    print(f"{len(granted)} grants and {len(sampled)} samples were acknowledged after {told['tries']} tries; each is there once")

    times = [at for at, *_ in answers]
    silences, stops = {}, {}
    lines = [line.split() for line in open(marks)]
    ends = [float(asked) for _, asked, _ in lines[1:]] + [times[-1]]
    for (name, asked, ended), until in zip(lines, ends):
        asked, ended = float(asked), float(ended)
        # From the last answer before the mark on.
        first = max((n for n, at in enumerate(times) if at <= asked), default=0)
        around = [at for at in times[first:] if at <= until]
        silences.setdefault(name, []).append(max(later - at for at, later in zip(around, around[1:])))
        stops.setdefault(name, []).append(ended - asked)
    slow = False
    for name, seconds in silences.items():
        median = statistics.median(seconds)
        print(f"{name}: without an answer for {1000 * median:.0f} ms (median of {len(seconds)}), {1000 * max(seconds):.0f} ms at worst; "
              f"of it until the server had ended {1000 * statistics.median(stops[name]):.0f} ms")
        slow = slow or median > 1
    if slow:
        sys.exit("the median is above a second")


def fill(database, megabytes):
    """Miners that told a sample every ten seconds for a week, as many as it takes."""
    wallet, bytes_a_row, week = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm", 146, 7 * 8640
    miners = max(1, int(megabytes) * 1_000_000 // bytes_a_row // week)
    until = int(time.time()) * 1000 - 60_000
    held = sqlite3.connect(database)
    held.executescript(f"""
        PRAGMA journal_mode = off; PRAGMA synchronous = off; PRAGMA cache_size = -100000;
        INSERT INTO users (wallet, created_at) VALUES ('{wallet}', {until - week * 10_000}) ON CONFLICT DO NOTHING;
        WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {week * miners - 1})
        INSERT INTO mining_stats (wallet, recorded_at, worker, hashrate, unit, gpu_temperature, uptime_seconds, power_watts, accepted, rejected, loss)
        SELECT '{wallet}', {until} + 10000 * (i / {miners} - {week - 1}), format('rig-%02d', i % {miners}), 40 + i % 7 + 0.25, 'gradients/h',
            60.5 + i % 9, i * 10, 210.5 + i % 20, i, i / 100, 2.5 + i % 11 * 0.01 FROM n;
        INSERT INTO hashrate_history SELECT wallet, recorded_at - recorded_at % 3600000, worker, unit, sum(hashrate), min(hashrate), max(hashrate), count(*)
        FROM mining_stats GROUP BY wallet, recorded_at - recorded_at % 3600000, worker, unit;
        INSERT INTO workers (wallet, worker, recorded_at, hashrate, unit)
        SELECT wallet, worker, recorded_at, hashrate, unit FROM mining_stats WHERE recorded_at = {until};
        PRAGMA journal_mode = wal;
    """)
    held.close()


def count(database):
    held = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    if held.execute("PRAGMA quick_check").fetchall() != [("ok",)]:
        sys.exit("a page is damaged")
    print(held.execute("SELECT count(*) FROM mining_stats").fetchone()[0])


{"write": write, "check": check, "fill": fill, "count": count}[sys.argv[1]](*sys.argv[2:])
