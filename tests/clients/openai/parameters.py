"""Every parameter of OpenAI's client for Python: it arrives at the inference server, is accepted and dropped, or is refused with
a reason that names it. EDGE and KEY come from outside. The names are those of the installed version; one that is new must be
refused by its name."""

import inspect
import json
import os

import openai
from openai.resources.chat.completions import Completions

client = openai.OpenAI(base_url=os.environ["EDGE"] + "/v1", api_key=os.environ["KEY"], max_retries=9, timeout=20)
# The inference server answers it with the request that it got.
SAYS = [{"role": "user", "content": "what arrived?"}]
TOOL = {"name": "local_time", "parameters": {"type": "object"}}
charged = 0

ARRIVES = {
    "messages": SAYS,
    "frequency_penalty": 0.5,
    "function_call": "none",
    "functions": [TOOL],
    "logit_bias": {"7": -100},
    "logprobs": True,
    "max_completion_tokens": 7,
    "max_tokens": 7,
    "n": 1,
    "parallel_tool_calls": False,
    "presence_penalty": 0.5,
    "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    "seed": 7,
    "stop": ["a", "b"],
    "stream": False,
    "temperature": 0.2,
    "tool_choice": "none",
    "top_logprobs": 20,
    "top_p": 0.9,
    "verbosity": "low",
}
DROPPED = {
    "metadata": {"a": "b"},
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "service_tier": "auto",
    "store": False,
    "user": "u",
}
REFUSED = {
    "audio": {"voice": "alloy", "format": "wav"},
    "modalities": ["text", "audio"],
    "moderation": {"model": "x"},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_options": {"ttl": "24h"},
    "service_tier": "priority",
    "store": True,
    "web_search_options": {},
}
# Seen elsewhere: the model under the server's name of it, tools by their call, the options of a stream by its usage.
ELSEWHERE = {"model", "tools", "stream_options"}
# Of the call, not of the body.
OF_THE_CALL = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}


def ask(**more):
    global charged
    answer = client.chat.completions.create(**{"model": "general", "messages": SAYS} | more)
    charged += 1
    return answer


def arrived(**more):
    return json.loads(ask(**more).choices[0].message.content)


def refused(name, value, code="unsupported_parameter"):
    try:
        arrived(extra_body={name: value})
    except openai.BadRequestError as error:
        assert (error.code, error.param) == (code, name) and name in error.message, (name, error.body)
        return
    raise AssertionError(f"{name} {value!r} was not refused")


documented = set(inspect.signature(Completions.create).parameters) - OF_THE_CALL
listed = ARRIVES.keys() | DROPPED.keys() | REFUSED.keys() | ELSEWHERE
assert len(documented) > 30, documented
for name, value in ARRIVES.items():
    sent = arrived(**{name: value})
    assert sent.get(name) == value, (name, value, sent)
for name, value in DROPPED.items():
    sent = arrived(**{name: value})
    assert name not in sent, (name, sent)
for name, value in REFUSED.items():
    refused(name, value)
for name in sorted(documented - listed):
    refused(name, {})
    print(f"new     {name}: refused by its name", flush=True)
assert arrived()["model"] == "tiny"
assert ask(tools=[{"type": "function", "function": TOOL}]).choices[0].finish_reason == "tool_calls"
chunks = list(ask(stream=True, stream_options={"include_usage": True}))
assert chunks[-1].usage.total_tokens == 5

# Members of extra_body are members of the body.
assert arrived(extra_body={"top_k": 40, "chat_template_kwargs": {"enable_thinking": False}})["top_k"] == 40
for name in ["ignore_eos", "n_predict", "guided_regex", "extra_body"]:
    refused(name, 1)
refused("stop", ["a"] * 5, "invalid_request")
# Headers and the query are not forwarded, and change nothing.
assert arrived(extra_headers={"X-Conversation-Id": "c"}, extra_query={"n_predict": 9}).keys() == arrived().keys()
print(f"ok      {len(documented)} documented parameters of openai {openai.__version__}: {len(ARRIVES) + len(ELSEWHERE)} work, {len(DROPPED)} are dropped, {len(REFUSED)} values refused by name")
print(f"charged {charged}")
