"""Anthropic's own client for Python: messages whole and streamed, tools, counts, errors. EDGE, KEY, POOR, ANSWERS and LACKS come
from outside."""

import os

import anthropic
from answers import note, raises, served

edge = os.environ["EDGE"]


def with_key(**key):
    return anthropic.Anthropic(base_url=edge, max_retries=0, timeout=60, **key)


client, poor = (with_key(api_key=os.environ[key]) for key in ("KEY", "POOR"))
hello = [{"role": "user", "content": "hello"}]
asked = {"model": "general", "max_tokens": 9, "messages": hello}
tool = {
    "name": "local_time",
    "description": "The time of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Ulm", "Bonn"]}}, "required": ["city"]},
}


def prompt_of(usage):
    return usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)


def of(what, headers, usage, cost):
    assert headers["request-id"] == headers["x-request-id"]
    note(f"anthropic, {what}", "general", headers, prompt_of(usage), usage.cache_read_input_tokens or 0, usage.output_tokens, cost)


def whole(what, by=client.messages, **members):
    raw = by.with_raw_response.create(**{**asked, **members})
    message = raw.parse()
    assert message.type == "message" and message.role == "assistant" and message.content
    assert message.stop_reason in ("max_tokens", "end_turn", "tool_use") and message.usage.output_tokens <= members.get("max_tokens", 9)
    of(what, raw.headers, message.usage, message.usage.cost)
    return message


# Whole, by either header of a key, and as the beta endpoints are asked: ?beta=true and a list of betas.
message = whole("message")
assert message.content[0].type == "text" and message.content[0].text
whole("message with a bearer key", with_key(auth_token=os.environ["KEY"]).messages)
whole("beta message", client.beta.messages, betas=["token-counting-2024-11-01", "context-1m-2025-08-07"])
whole("message with a system", system=[{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}], metadata={"user_id": "7"})

# Streamed: the first event is the start, and the helper puts the same message together.
raw = client.messages.with_raw_response.create(**asked, stream=True)
events = list(raw.parse())
assert events[0].type == "message_start" and events[-1].type == "message_stop", events
last = [event for event in events if event.type == "message_delta"][-1]
usage = events[0].message.usage
usage.output_tokens = last.usage.output_tokens
usage.input_tokens = last.usage.input_tokens or usage.input_tokens
of("message streamed", raw.headers, usage, last.usage.cost)
with client.messages.stream(**asked) as stream:
    text, cost = "", None
    for event in stream:
        if event.type == "content_block_delta":
            text += event.delta.text
        elif event.type == "message_delta":
            cost = event.usage.cost
    message, headers = stream.get_final_message(), stream.response.headers
assert text and text == message.content[0].text
of("message streamed by the helper", headers, message.usage, cost)

# Tools: definitions, and a turn in which one was called.
whole("message with tools", tools=[tool], tool_choice={"type": "auto"})
turns = [
    *hello,
    {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "local_time", "input": {"city": "Ulm"}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "12:00"}]},
]
whole("message to a tool's result", tools=[tool], messages=turns)
# This model writes nonsense, in which sooner or later a call begins; llama.cpp refuses what is no text around a call.
must_call = {**asked, "tools": [tool], "tool_choice": {"type": "any"}, "max_tokens": 400}


def called_whole():
    try:
        return whole("message that must call a tool", **must_call)
    except anthropic.InternalServerError as error:
        assert error.status_code == 502, error


def called_in_a_stream():
    headers = cost = None
    try:
        with client.messages.stream(**must_call) as stream:
            headers = stream.response.headers
            cost = [event.usage.cost for event in stream if event.type == "message_delta"][-1]
            message = stream.get_final_message()
        of("message streamed that must call a tool", headers, message.usage, cost)
        return message
    except anthropic.APIStatusError as error:
        assert "reported an error inside its answer" in str(error), error
        if headers:
            note("anthropic, message whose call is cut", "general", headers, None, None, None, None, "cut")


for called in called_whole, called_in_a_stream:
    for _ in range(100):
        message = called()
        calls = [block for block in message.content if block.type == "tool_use"] if message else []
        # The limit may cut a call.
        if calls and message.stop_reason == "max_tokens" and calls[-1].input.get("city") not in ("Ulm", "Bonn"):
            calls.pop()
        if calls:
            break
    else:
        raise AssertionError("no tool was called in 100 attempts")
    for call in calls:
        assert call.name == "local_time" and call.input["city"] in ("Ulm", "Bonn"), call
    print(f"ok      anthropic, a call of {call.name} with {call.input}")

# Counts: what a message then has, for nothing.
for members in {"messages": hello}, {"messages": turns, "tools": [tool], "system": "Be short."}:
    count = client.messages.count_tokens(model="general", **members).input_tokens
    beta = client.beta.messages.count_tokens(model="general", betas=["token-counting-2024-11-01"], **members).input_tokens
    assert count == beta
    message = whole("message that was counted", **members)
    if served("messages/count_tokens"):
        assert count == prompt_of(message.usage), (count, message.usage)
    print(f"ok      anthropic, a count of {count} tokens, {prompt_of(message.usage)} in the message")
assert client.messages.count_tokens(model="dead", messages=hello).input_tokens > 0


# Errors by their types, in a stream's place too.
def fails(kind, status, error_type, **members):
    by = members.pop("by", client)
    for stream in False, True:
        error = raises(kind, status, lambda: by.messages.create(**{**asked, **members}, stream=stream))
        assert error.body["type"] == "error" and error.body["error"]["type"] == error_type, error.body
        assert error.request_id and error.request_id == error.body["request_id"], error.body
    return error


# The name that the client has for 402, if it has one.
without_credits = getattr(anthropic, "PaymentRequiredError", anthropic.APIStatusError)
error = fails(without_credits, 402, "billing_error", by=poor)
assert "0 are available" in error.message, error
fails(anthropic.NotFoundError, 404, "not_found_error", model="claude-9")
fails(anthropic.BadRequestError, 400, "invalid_request_error", tools=[{"type": "web_search_20250305", "name": "web_search"}])
fails(anthropic.BadRequestError, 400, "invalid_request_error", max_tokens=0)
fails(anthropic.BadRequestError, 400, "invalid_request_error", extra_body={"mcp_servers": []})
error = raises(anthropic.BadRequestError, 400, lambda: client.messages.count_tokens(model="general", messages=hello, extra_body={"max_tokens": 9}))
assert error.body["error"]["type"] == "invalid_request_error" and "max_tokens" in error.message
# A server that is not there: its failures open its breaker.
try:
    for _ in range(10):
        fails(anthropic.InternalServerError, 502, "api_error", model="dead")
except AssertionError:
    unavailable = getattr(anthropic, "ServiceUnavailableError", None) or type(
        anthropic.Anthropic(api_key="x")._make_status_error("", body=None, response=__import__("httpx2").Response(503))
    )
    error = fails(unavailable, 503, "overloaded_error", model="dead")
    assert int(error.response.headers["retry-after"]) > 0
else:
    raise AssertionError("the breaker never opened")
# Who guesses keys is limited.
fails(anthropic.AuthenticationError, 401, "authentication_error", by=with_key(api_key="wrong"))
guess = with_key(api_key="r3mes_" + "0" * 43)
try:
    for _ in range(60):
        fails(anthropic.AuthenticationError, 401, "authentication_error", by=guess)
except anthropic.RateLimitError as error:
    assert error.body["error"]["type"] == "rate_limit_error" and int(error.response.headers["retry-after"]) > 0
else:
    raise AssertionError("the rate was never reached")
print("ok      anthropic for Python: 400, 401, 402, 404, 429, 502 and 503 as its own errors")
