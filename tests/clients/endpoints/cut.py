"""A stream of each endpoint whose model's server dies: each client must raise, and pays for what it read. Writes the file that is
named when all have begun. EDGE, KEY and ANSWERS come from outside."""

import os
import sys
import threading

import anthropic
import openai
from answers import note

key = os.environ["KEY"]
of_openai = openai.OpenAI(base_url=os.environ["EDGE"] + "/v1", api_key=key, max_retries=0, timeout=120)
of_anthropic = anthropic.Anthropic(base_url=os.environ["EDGE"], api_key=key, max_retries=0, timeout=120)
slow = {"model": "slow", "stream": True}
hello = {"messages": [{"role": "user", "content": "hello"}]}
STREAMS = {
    "chat": (openai.APIError, lambda: of_openai.chat.completions.with_raw_response.create(**slow, **hello, max_tokens=3000)),
    "completion": (openai.APIError, lambda: of_openai.completions.with_raw_response.create(**slow, prompt="hello", max_tokens=3000)),
    "response": (openai.APIError, lambda: of_openai.responses.with_raw_response.create(**slow, input="hello", max_output_tokens=3000)),
    "message": (anthropic.APIStatusError, lambda: of_anthropic.messages.with_raw_response.create(**slow, **hello, max_tokens=3000)),
}
begun, failed, lock = [], [], threading.Lock()


def read(what, kind, open_stream):
    try:
        raw, events = open_stream(), 0
        try:
            for _ in raw.parse():
                events += 1
                if events == 5:
                    begun.append(what)
                    if len(begun) == len(STREAMS):
                        open(sys.argv[1], "w").close()
        except kind as error:
            assert events >= 5 and "closed its answer early" in str(error), (events, error)
            with lock:
                note(f"{what} that was cut after {events} events", "slow", raw.headers, None, None, None, None, "cut")
            return
        raise AssertionError(f"a cut stream of {events} events ended as if it were whole")
    except BaseException as error:
        failed.append(f"{what}: {error!r}")


threads = [threading.Thread(target=read, args=(what, *stream)) for what, stream in STREAMS.items()]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if failed:
    sys.exit("\n".join(failed))
