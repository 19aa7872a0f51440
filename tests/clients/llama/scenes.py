"""What clients of $EDGE with $KEY see of a real server of the model beside this: scenes.py SCENE [ARGUMENT…]

Prints what was found; the last line is how many chats have content, and so are paid. Ends with 1 and the first thing that was
not as it should be. The scenes are the functions at the end.
"""

import base64
import http.client
import json
import os
import struct
import sys
import threading
import time
import urllib.request
import zlib
from urllib.parse import urlsplit

HEADERS = {"Authorization": "Bearer " + os.environ["KEY"], "Content-Type": "application/json"}
EDGE = urlsplit(os.environ["EDGE"]).netloc
# No end before max_tokens or the end of the context.
ENDLESS = {"256": -100, "258": -100}
TOOL = {
    "type": "function",
    "function": {
        "name": "local_time",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Ulm", "Bonn"]}},
            "required": ["city"],
        },
    },
}


def fail(text):
    print(text)
    sys.exit(1)


def message(content, **members):
    return {"messages": [{"role": "user", "content": content}], **members}


class Stream:
    """A streamed chat: how far it is, and how it ended."""

    def __init__(self, body):
        self.connection = http.client.HTTPConnection(EDGE, timeout=120)
        self.connection.request("POST", "/v1/chat/completions", json.dumps({"stream": True, **body}), HEADERS)
        self.answer = self.connection.getresponse()
        self.status = self.answer.status
        self.rest, self.pieces, self.tools, self.usage = b"", 0, {}, None
        self.finish = self.error = self.last = self.broken = None

    def read(self, pieces=None):
        """Until there are so many pieces of content, or to the end."""
        try:
            while pieces is None or self.pieces < pieces:
                # Not readline(), which takes a cut answer for one that ended.
                some = self.answer.read1()
                if not some:
                    break
                *lines, self.rest = (self.rest + some).split(b"\n")
                for line in lines:
                    self.line(line.decode().strip())
        except (OSError, http.client.HTTPException) as error:
            self.broken = repr(error)

    def line(self, line):
        if not line.startswith("data: "):
            return
        self.last = line.removeprefix("data: ")
        if self.last == "[DONE]":
            return
        event = json.loads(self.last)
        self.error = self.error or event.get("error")
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices", []):
            delta = choice["delta"]
            for call in delta.get("tool_calls") or []:
                name, arguments = self.tools.get(call["index"], ("", ""))
                function = call["function"]
                self.tools[call["index"]] = name + (function.get("name") or ""), arguments + (function.get("arguments") or "")
            self.pieces += bool(delta.get("content") or delta.get("tool_calls"))
            self.finish = choice.get("finish_reason") or self.finish

    def looks_whole(self):
        return self.last == "[DONE]" or (self.finish is not None and self.error is None and self.broken is None)

    def leave(self):
        self.answer.close()
        self.connection.close()

    def __repr__(self):
        return f"{self.pieces} pieces, finish {self.finish}, error {self.error}, broken {self.broken}, last {self.last!r}"


def whole(body):
    connection = http.client.HTTPConnection(EDGE, timeout=120)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), HEADERS)
    answer = connection.getresponse()
    text = answer.read()
    return answer.status, json.loads(text)


def inside(url):
    """How many slots of llama.cpp are at work, and how many tokens it has made."""
    with urllib.request.urlopen(url + "/slots") as answer:
        slots = sum(slot["is_processing"] for slot in json.load(answer))
    # Not before the slots: tokens are counted when a slot is free.
    with urllib.request.urlopen(url + "/metrics") as answer:
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    return slots, int(float(lines["llamacpp:tokens_predicted_total"]))


def answers():
    """A chat, whole and streamed, with the usage for who asks for it alone."""
    body = message("hello", max_tokens=8, logit_bias=ENDLESS)
    status, answer = whole(body)
    if status != 200 or not answer["choices"][0]["message"]["content"] or answer["usage"]["completion_tokens"] != 8:
        fail(f"{status} {answer}")
    plain = Stream(body)
    plain.read()
    asked = Stream({**body, "stream_options": {"include_usage": True}})
    asked.read()
    if not plain.looks_whole() or plain.usage or plain.finish != "length":
        fail(f"without usage: {plain} {plain.usage}")
    if not asked.looks_whole() or (asked.usage or {}).get("completion_tokens") != 8:
        fail(f"with usage: {asked} {asked.usage}")
    print(f"ok      a chat, whole and streamed; usage {asked.usage['prompt_tokens']} + {asked.usage['completion_tokens']} tokens for who asks for it")
    return 3


def tools():
    """A call of a tool, whole, streamed and answered."""
    # The start of a call, and after it the end.
    bias = {"259": 100, "258": 200, "256": -100}
    body = message("hello", max_tokens=1500, tools=[TOOL], tool_choice="required", logit_bias=bias)
    status, answer = whole(body)
    if status != 200 or not (calls := answer["choices"][0]["message"].get("tool_calls")):
        fail(f"{status} {answer}")
    stream = Stream(body)
    stream.read()
    for name, arguments in [*stream.tools.values(), (calls[0]["function"]["name"], calls[0]["function"]["arguments"])]:
        if name != "local_time" or json.loads(arguments)["city"] not in ("Ulm", "Bonn"):
            fail(f"{name} {arguments}")
    reason = answer["choices"][0]["finish_reason"]
    if not stream.looks_whole() or not stream.tools or {stream.finish, reason} != {"tool_calls"}:
        fail(f"{stream} {reason}")
    reply = message("hello", max_tokens=8, logit_bias=ENDLESS)
    reply["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "noon"},
    ]
    status, answer = whole(reply)
    if status != 200:
        fail(f"{status} {answer}")
    print(f"ok      tools: a whole call, one of {stream.pieces} pieces, and its result given back")
    return 3


def png(width):
    """A red square."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes([200, 30, 40]) * width) * width
    head = struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()}}


def picture():
    """A server that reads pictures: its tokens say that it did; of one that is broken its client gets a reason."""
    text = {"type": "text", "text": "What is it?"}
    read = []
    for parts in ([text], [text, png(64)], [text, png(64), png(1024)]):
        stream = Stream(message(parts, max_tokens=8, logit_bias=ENDLESS, stream_options={"include_usage": True}))
        stream.read()
        if stream.status != 200 or not stream.looks_whole():
            fail(f"{stream.status} {stream}")
        read.append(stream.usage["prompt_tokens"])
    if not read[0] < read[1] < read[2]:
        fail(f"prompts of {read} tokens with 0, 1 and 2 pictures")
    status, answer = whole(message([text, {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]))
    if (status, answer.get("error", {}).get("code")) != (400, "unsupported_media"):
        fail(f"a broken picture: {status} {answer}")
    print(f"ok      pictures that are read: prompts of {read[0]}, {read[1]} and {read[2]} tokens with 0, 1 and 2; a broken one is unsupported_media")
    return len(read)


def contexts():
    """A prompt that nearly fills a slot's context of 4096 tokens; each byte is one."""
    stream = Stream(message("a" * 4000, max_tokens=16, logit_bias=ENDLESS, stream_options={"include_usage": True}))
    stream.read()
    if not stream.looks_whole() or stream.usage["prompt_tokens"] < 4000:
        fail(f"{stream} {stream.usage}")
    # What is cut by the end of the context is whole: it says so.
    cut = Stream(message("a" * 3900, max_tokens=1000, logit_bias=ENDLESS))
    cut.read()
    if not cut.looks_whole() or cut.finish != "length":
        fail(f"{cut}")
    print(f"ok      long contexts: {stream.usage['prompt_tokens']} tokens of 4096 answered; one that filled it ended with \"{cut.finish}\" after {cut.pieces} pieces")
    return 2


def refusals():
    """What is wrong with a request reaches its client by name, and the server is not blamed for it."""
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]
    call = {"id": "a", "type": "function", "function": {"name": "local_time", "arguments": "{bad"}}
    broken = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "a", "content": "x"}]
    rows = [
        ("context too long", message("a" * 5000), "context_length_exceeded"),
        ("temperature of text", message("hello", temperature="hot"), "invalid_request"),
        ("unusable schema", message("hello", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nope"}}}), "invalid_schema"),
        ("picture", message(picture), "unsupported_media"),
        ("tool without a name", message("hello", tools=[{"type": "function", "function": {}}]), "invalid_request"),
        ("broken arguments of a call", {"messages": broken}, "invalid_request"),
        ("unknown kind of content", message([{"type": "nope"}]), "invalid_request"),
    ]
    for name, body, code in rows:
        for body in (body, {**body, "stream": True}):
            status, answer = whole(body)
            error = answer.get("error", {})
            if (status, error.get("code")) != (400, code):
                fail(f"{name}: {status} {answer} instead of 400 {code}")
    print(f"ok      {len(rows)} kinds of requests refused, twice each: " + ", ".join(f"{name} is {code}" for name, _, code in rows))
    return 0


def stopped(url):
    """Llama.cpp becomes idle, and makes no token in the second after; how long that took, in s."""
    left = time.monotonic()
    while (now := inside(url))[0]:
        if time.monotonic() - left > 5:
            fail(f"{now[0]} slots are still at work 5 s after the clients left")
        time.sleep(0.01)
    idle = time.monotonic() - left
    time.sleep(1)
    later = inside(url)
    if idle > 1 or later != now:
        fail(f"idle after {idle:.3f} s, then {now}, a second later {later}")
    return idle


def leave(url, clients):
    """Clients leave in the middle of long answers: llama.cpp at this address stops them."""
    # As many tokens as the slot has.
    body = message("hello", max_tokens=3500, logit_bias=ENDLESS)
    streams = [Stream(body) for _ in range(int(clients))]
    for stream in streams:
        stream.read(20)
        if stream.status != 200 or stream.pieces < 20:
            fail(f"{stream.status} {stream}")
    busy, _ = inside(url)
    for stream in streams:
        stream.leave()
    idle = stopped(url)
    print(f"ok      {clients} clients left in streams of 3500 tokens: {busy} slots at work, idle {idle * 1000:.0f} ms later, no token since")
    # Who left before a whole answer was there has got nothing of it. llama.cpp sees only in a stream that a client has left.
    body = message("hello", max_tokens=400, logit_bias=ENDLESS)
    waiting = [http.client.HTTPConnection(EDGE, timeout=120) for _ in streams]
    for connection in waiting:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), HEADERS)
    begun = time.monotonic()
    while inside(url)[0] < len(waiting):
        if time.monotonic() - begun > 10:
            fail(f"{len(waiting)} requests do not fill the slots of llama.cpp")
        time.sleep(0.01)
    for connection in waiting:
        connection.close()
    left = time.monotonic()
    while inside(url)[0]:
        if time.monotonic() - left > 30:
            fail("answers of 400 tokens take more than 30 s")
        time.sleep(0.01)
    print(f"ok      {clients} left before whole answers of 400 tokens: none is paid; llama.cpp worked on for {(time.monotonic() - left) * 1000:.0f} ms")
    return len(streams)


def die(clients, begun):
    """Clients in the middle of long answers when the server dies, which the file BEGUN asks for."""
    body = message("hello", max_tokens=3500, logit_bias=ENDLESS)
    streams = [Stream(body) for _ in range(int(clients))]
    for stream in streams:
        stream.read(20)
        if stream.status != 200 or stream.pieces < 20:
            fail(f"{stream.status} {stream}")
    open(begun, "w").close()
    readers = [threading.Thread(target=stream.read) for stream in streams]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    for stream in streams:
        if stream.looks_whole() or stream.error is None or stream.broken is None:
            fail(f"a cut answer looks whole, or says nothing: {stream}")
    codes = sorted({str(stream.error.get("code")) for stream in streams})
    print(f"ok      kill -9 under {clients} answers after {min(s.pieces for s in streams)} to {max(s.pieces for s in streams)} pieces: each has an error event ({', '.join(codes)}) and is cut, none looks whole")
    return len(streams)


print({scene.__name__: scene for scene in (answers, tools, picture, contexts, refusals, leave, die)}[sys.argv[1]](*sys.argv[2:]))
