"""OpenAI's own client for Python: what it reads, and that it raises where it must. EDGE, KEY and POOR come from outside."""

import os

import openai

edge = os.environ["EDGE"] + "/v1"
client = openai.OpenAI(base_url=edge, api_key=os.environ["KEY"], max_retries=0, timeout=20)
poor = openai.OpenAI(base_url=edge, api_key=os.environ["POOR"], max_retries=0, timeout=20)
charged = 0


def ask(says, by=client, **more):
    return by.chat.completions.create(model="general", messages=[{"role": "user", "content": says}], **more)


def text(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def raises(kind, status, code, call):
    try:
        answer = call()
    except kind as error:
        assert getattr(error, "status_code", None) == status, error
        assert error.code == code, (error.code, error.body)
        return error
    raise AssertionError(f"{kind.__name__} was not raised: {answer!r}")


assert "general" in [model.id for model in client.models.list()]

answer = ask("hi", seed=7, temperature=0.2)
assert answer.choices[0].message.content == "you said hi" and answer.usage.total_tokens == 5
charged += 1
assert text(ask("hi", stream=True)) == "you said hi"
charged += 1
chunks = list(ask("hi", stream=True, stream_options={"include_usage": True}))
assert chunks[-1].usage.total_tokens == 5
charged += 1

tools = [{"type": "function", "function": {"name": "local_time", "parameters": {"type": "object"}}}]
call = ask("what time is it?", tools=tools).choices[0].message.tool_calls[0]
assert (call.function.name, call.function.arguments) == ("local_time", '{"city":"Ulm"}')
charged += 1
calls = [chunk.choices[0].delta.tool_calls for chunk in ask("what time is it?", tools=tools, stream=True) if chunk.choices]
assert any(call and call[0].function.name == "local_time" for call in calls)
charged += 1

# The same key, the same answer, one price.
headers = {"Idempotency-Key": "python-1"}
assert ask("once", extra_headers=headers) == ask("once", extra_headers=headers)
charged += 1

raises(openai.APIStatusError, 402, "insufficient_credits", lambda: ask("hi", by=poor))
raises(openai.APIStatusError, 402, "insufficient_credits", lambda: ask("hi", by=poor, stream=True))
raises(openai.NotFoundError, 404, "model_not_found", lambda: client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}]))
raises(openai.BadRequestError, 400, "invalid_request", lambda: ask("hi", n=2))
wrong = openai.OpenAI(base_url=edge, api_key="wrong", max_retries=0)
raises(openai.AuthenticationError, 401, "invalid_api_key", lambda: ask("hi", by=wrong))

# A stream that is cut in the middle raises; it is no short text.
raises(openai.APIError, None, "upstream_bad_response", lambda: text(ask("cut", stream=True)))
charged += 1

# A server that is not there: its failures open its breaker, and that is a 503 which says when to come back.
dead = lambda: client.chat.completions.create(model="dead", messages=[{"role": "user", "content": "hi"}])
for _ in range(5):
    raises(openai.InternalServerError, 502, "upstream_bad_response", dead)
error = raises(openai.InternalServerError, 503, "circuit_open", dead)
assert int(error.response.headers["retry-after"]) > 30

# Faster than the rate: 429 says when, and a client that heeds it gets its answer.
for _ in range(60):
    try:
        ask("hi")
        charged += 1
    except openai.RateLimitError as error:
        assert error.code == "rate_limited" and int(error.response.headers["retry-after"]) >= 1
        break
else:
    raise AssertionError("the rate was never reached")
assert ask("patience", by=client.with_options(max_retries=5)).choices[0].message.content == "you said patience"
charged += 1
print(f"charged {charged}")
