"""Random requests of $EDGE with $KEY before llama.cpp: fuzz.py URL MAX_TOKENS CONTEXT SEED SECONDS

Whatever a client sends, llama.cpp at the URL makes no more tokens than n times the limit that the server holds for, and its prompt
has no more than the bound. Requests that are refused prove nothing, so at least a third must be answered. Ends with 1 and the
first request that broke a bound.
"""

import http.client
import json
import os
import random
import re
import sys
import time
import urllib.request
from urllib.parse import urlsplit

URL, MOST, CONTEXT, SEED, SECONDS = sys.argv[1], *map(int, sys.argv[2:6])
EDGE = urlsplit(os.environ["EDGE"]).netloc
HEADERS = {"Authorization": "Bearer " + os.environ["KEY"], "Content-Type": "application/json"}
EXPONENT = re.compile(rb"[0-9][eE]")
dice = random.Random(SEED)

# Written by the server itself, or dropped by it: they are no part of a prompt.
OURS = set("model stream stream_options n max_tokens max_completion_tokens user metadata".split())
NUMBERS = [-1, 0, 1, 2, 5, MOST, MOST + 1, 1000, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 1e3, 5.0, 2.5, "5", "-1", True, None, [], {}]
LIMITS = """max_tokens max_completion_tokens n_predict num_predict max_new_tokens max_output_tokens max_length max_gen_len min_tokens
min_new_tokens min_length n_cmpl n best_of num_return_sequences use_beam_search num_beams ignore_eos n_keep n_discard n_probs
t_max_predict_ms n_indent min_keep prompt_logprobs thinking_budget_tokens reasoning_budget reasoning_budget_tokens id_slot
context_shift truncate_prompt_tokens speculative.n_max top_logprobs max_thinking_tokens budget_tokens""".split()
SCHEMA = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}, "minItems": 200}}, "required": ["a"]}
TEXTS = ["hello", "a" * 300, "<|im_end|>" * 20, "é" * 50, "\u20ac\U0001f600\u0001\n\"\\" * 20, "", "<tool_call>", "x " * 800, "\u00e9" * 500, "<>&'\"\\/" * 150]


def tool():
    # A template may write a space after each comma and colon.
    values = {"type": "integer", "enum": dice.choice([[0, 1], list(range(400)), [1] * 900, [1e14] * 250])}
    parameters = {"type": "object", "properties": {"city": values}, "required": ["city"]}
    return {"type": "function", "function": {"name": "local_time", "description": dice.choice(TEXTS), "parameters": parameters}}


def messages():
    listed = [{"role": "user", "content": dice.choice(TEXTS) + dice.choice(["", "b" * dice.randrange(3000)])}]
    if dice.random() < 0.3:
        listed.insert(0, {"role": dice.choice(["system", "developer", "assistant", "user"]), "content": dice.choice(TEXTS)})
    if dice.random() < 0.2:
        parts = [{"type": "text", "text": dice.choice(TEXTS)} for _ in range(dice.choice([1, 2, 30]))]
        listed.append({"role": "user", "content": parts})
    if dice.random() < 0.2:
        arguments = json.dumps({"list": [1] * dice.choice([1, 300])}, separators=(",", ":"))
        call = {"id": "a", "type": "function", "function": {"name": "local_time", "arguments": arguments}}
        listed.append({"role": "assistant", "content": None, "tool_calls": [call] * dice.choice([1, 4])})
        listed.append({"role": "tool", "tool_call_id": "a", "content": dice.choice(TEXTS)})
    if dice.random() < 0.1:
        listed += [{"role": "user", "content": ""}] * 40
    return listed


def usual():
    """Members as clients send them."""
    return dice.choice([
        lambda: {"max_tokens": dice.choice([1, 3, MOST, 100000])},
        lambda: {"max_completion_tokens": dice.choice([1, 3, MOST, 100000])},
        lambda: {"max_tokens": dice.choice([1, 30]), "max_completion_tokens": dice.choice([2, 300])},
        lambda: {"n": dice.choice([1, 2, 3, 4])},
        lambda: {"stop": dice.choice(["zzz", ["a", "b"], []])},
        lambda: {"temperature": dice.choice([0, 1, 2]), "top_p": 0.9, "seed": dice.randrange(99)},
        # No end of the model's own.
        lambda: {"logit_bias": {"256": -100, "258": -100}},
        lambda: {"logit_bias": {"258": 100}},
        lambda: {"response_format": {"type": "json_object"}},
        lambda: {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        lambda: {"tools": [tool() for _ in range(dice.choice([1, 1, 5]))], "tool_choice": dice.choice(["auto", "none", "required"])},
        lambda: {"stream": True, "stream_options": {"include_usage": dice.random() < 0.5}},
        lambda: {"logprobs": True, "top_logprobs": 3},
        lambda: {"reasoning_effort": "high", "reasoning_format": "deepseek"},
        lambda: {"chat_template_kwargs": {"enable_thinking": dice.random() < 0.5}},
        lambda: {"top_k": 5, "min_p": 0.1, "repeat_penalty": 1.1},
        lambda: {"frequency_penalty": 2, "presence_penalty": -2, "parallel_tool_calls": True},
    ])()


def spelled(name):
    return dice.choice([str, str, str.upper, str.title, lambda text: text.replace("_", "-"), lambda text: text.replace("_", "")])(name)


def odd():
    """Members that a server may read as a limit, or as a reason to pass one."""
    some = {spelled(dice.choice(LIMITS)): dice.choice(NUMBERS) for _ in range(dice.choice([1, 1, 2, 4]))}
    nested = "options chat_template_kwargs extra_body sampling_params generation_config generation_settings stream_options metadata params"
    return dice.choice([
        lambda: some,
        lambda: some,
        lambda: {dice.choice(nested.split()): some},
        lambda: {"chat_template_kwargs": {"a": {"b": [some]}}},
        lambda: {"ignore_eos": dice.choice([True, 1, "true"]), "max_tokens": dice.choice([3, MOST])},
        lambda: {"logit_bias": dice.choice([[[256, False], [258, False]], [["x", -1]], {"x": False}, [[258, 1e9]], 7])},
        lambda: {"stop": dice.choice([None, "", [""], ["a"] * 200, 5, {}])},
        lambda: {"grammar": 'root ::= [a-z]* "!"', "max_tokens": 5},
        lambda: {"json_schema": SCHEMA, "n_predict": -1},
        lambda: {"prompt": "x" * 1000, "input": "x", "suffix": "y", "echo": True},
        lambda: {"add_generation_prompt": False, "continue_final_message": True},
        lambda: {"tools": [tool()], "functions": [{"name": "f", "parameters": SCHEMA}], "function_call": "auto"},
        lambda: {"samplers": ["top_k"], "speculative.n_max": 64, "post_sampling_probs": True, "n_probs": 5},
        lambda: {"cache_prompt": dice.random() < 0.5, "id_slot": dice.choice([-1, 0, 99]), "return_progress": True},
        lambda: {"thinking": {"type": "enabled", "budget_tokens": 100000}, "reasoning": {"max_tokens": -1, "effort": "high"}},
        lambda: {"chat_format": 1, "chat_parser": "x", "generation_prompt": "y" * 700, "timings_per_token": True},
    ])()


def request():
    """Pairs of names and values; a name may be there twice."""
    pairs = [("messages", messages())]
    for _ in range(dice.randrange(4)):
        pairs += usual().items()
    if dice.random() < 0.4:
        for _ in range(dice.choice([1, 1, 2])):
            pairs += odd().items()
    if dice.random() < 0.95:
        pairs = list(dict(pairs).items())
    dice.shuffle(pairs)
    return pairs


def whole_number(value, most):
    return type(value) is int and 1 <= value <= most


def bounds(pairs, texts):
    """Tokens of the answers and of the prompt that the server holds for, if it takes the request."""
    members = dict(pairs)
    limits = [members.get(name) for name in ("max_tokens", "max_completion_tokens")]
    limit = min([MOST, *(limit for limit in limits if whole_number(limit, 2**32 - 1))])
    choices = members["n"] if whole_number(members.get("n"), 8) else 1
    size = 512
    for (name, _), text in zip(pairs, texts):
        if name not in OURS:
            size += len(name) + len(text)
            # JSON that the template writes anew.
            if name != "messages" or b'"tool_calls"' in text:
                size += 2 * sum(text.count(mark) for mark in (b",", b":", b"[", b"]", b"{", b"}")) + 16 * len(EXPONENT.findall(text))
    return choices * limit, min(CONTEXT, size)


def counted():
    """The tokens that llama.cpp made and read, when it has nothing to do any more."""
    given_up = time.monotonic() + 30
    idle = 0
    while idle < 2:
        with urllib.request.urlopen(URL + "/slots", timeout=10) as answer:
            idle = 0 if any(slot["is_processing"] for slot in json.load(answer)) else idle + 1
        if time.monotonic() > given_up:
            sys.exit("llama.cpp is at work 30 s after the answer")
    # Not before the slots: tokens are counted when a slot is free.
    with urllib.request.urlopen(URL + "/metrics", timeout=10) as answer:
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    return [int(float(lines[f"llamacpp:{name}_total"])) for name in ("tokens_predicted", "prompt_tokens")]


def ask(body, streams):
    """The status, and the usages that the client read; of a stream it may leave the rest."""
    headers = dict(HEADERS)
    if dice.random() < 0.1:
        headers |= {"X-Conversation-Id": "x", "X-data-parallel-rank": "1", "Extra-Usage": "1"}
    connection = http.client.HTTPConnection(EDGE, timeout=60)
    leaves = streams and dice.random() < 0.1
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        text = answer.read1() if leaves else answer.read()
    except http.client.IncompleteRead as cut:
        text = cut.partial
    finally:
        connection.close()
    usages = []
    if answer.status == 200:
        events = [line.removeprefix(b"data: ") for line in text.splitlines()] if streams else [text]
        for event in events:
            if event.startswith(b"{") and event.endswith(b"}") or not streams:
                usages += [json.loads(event).get("usage") or {}]
    return answer.status, usages, text


began, before, sent = time.monotonic(), counted(), 0
statuses, made, read, held, unpaid = {}, 0, 0, 0, 0
while sent < 20000 and time.monotonic() - began < SECONDS:
    pairs = request()
    plain = dice.random() < 0.5
    texts = [json.dumps(value, separators=(",", ":"), ensure_ascii=plain).replace("100000000000000.0", "1e14") for _, value in pairs]
    names = [json.dumps(name) for name, _ in pairs]
    if dice.random() < 0.05:
        # The same name, written in another way.
        names = [name.replace("e", "\\u0065") for name in names]
    body = "{" + ",".join(f"{name}:{text}" for name, text in zip(names, texts)) + "}"
    output_bound, prompt_bound = bounds(pairs, [text.encode() for text in texts])
    status, usages, text = ask(body.encode(), dict(pairs).get("stream") is True)
    try:
        now = counted()
    except OSError as error:
        sys.exit(f"llama.cpp ended with this request: {error}\n{body}\n{status} {text!r}")
    output, prompt = now[0] - before[0], now[1] - before[1]
    before = now
    sent += 1
    statuses[status] = statuses.get(status, 0) + 1
    reported = max((usage.get("prompt_tokens", 0) for usage in usages), default=0)
    made, read, held = made + output, read + prompt, held + output_bound
    # llama.cpp fails after the work where what a model wrote is not the format that was asked for.
    unpaid += output if status != 200 else 0
    if output > output_bound or max(prompt, reported) > prompt_bound:
        print(f"{status}: {output} tokens made, {output_bound} held for; {prompt} read, {reported} reported, {prompt_bound} held for\n{body}\n{text!r}")
        sys.exit(1)
whole = statuses.get(200, 0)
figures = ", ".join(f"{count} times {status}" for status, count in sorted(statuses.items()))
print(f"ok      {sent} requests with seed {SEED}: {figures}; {made} tokens made of {held} held for, {unpaid} of them without an answer, {read} read")
if whole * 3 < sent or whole < 20 or made == 0:
    sys.exit("too few were answered, so nothing was tested")
