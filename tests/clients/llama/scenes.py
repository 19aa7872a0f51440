"""What clients of $EDGE with $KEY see of a real server of the model beside this: scenes.py SCENE [ARGUMENT…]

Prints what was found; the last line is how many chats have content, and so are paid. Ends with 1 and the first thing that was
not as it should be. The scenes are the functions at the end.
"""

import http.client
import json
import os
import sys
import threading
import time
import urllib.request
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
    left = time.monotonic()
    while (now := inside(url))[0]:
        if time.monotonic() - left > 5:
            fail(f"{now[0]} slots are still at work 5 s after the clients left")
        time.sleep(0.01)
    idle = time.monotonic() - left
    time.sleep(1)
    later = inside(url)
    if idle > 1 or later != now or busy != len(streams):
        fail(f"{busy} slots at work, idle after {idle:.3f} s, then {now}, a second later {later}")
    print(f"ok      {clients} clients left in answers of 3500 tokens: {busy} slots at work, idle {idle * 1000:.0f} ms later, no token since")
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


print({scene.__name__: scene for scene in (answers, tools, contexts, refusals, leave, die)}[sys.argv[1]](*sys.argv[2:]))
