"""OpenAI's own client for Python: each endpoint, whole and streamed. EDGE, KEY, POOR, ANSWERS and LACKS come from outside."""

import math
import os

import openai
from answers import note, raises, served

edge = os.environ["EDGE"] + "/v1"
client = openai.OpenAI(base_url=edge, api_key=os.environ["KEY"], max_retries=0, timeout=60)
poor = openai.OpenAI(base_url=edge, api_key=os.environ["POOR"], max_retries=0, timeout=60)
wrong = openai.OpenAI(base_url=edge, api_key="wrong", max_retries=0, timeout=60)
hello = [{"role": "user", "content": "hello"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Ulm", "Bonn"]}}, "required": ["city"]}


def of_chat(what, headers, usage, model="general"):
    cached = usage.prompt_tokens_details.cached_tokens
    note(f"openai, {what}", model, headers, usage.prompt_tokens, cached, usage.completion_tokens, usage.cost)


def of_response(what, headers, usage):
    cached = usage.input_tokens_details.cached_tokens
    note(f"openai, {what}", "general", headers, usage.input_tokens, cached, usage.output_tokens, usage.cost)


def whole(call, **members):
    raw = call.with_raw_response.create(model="general", **members)
    return raw.parse(), raw.headers


# Chats.
answer, headers = whole(client.chat.completions, messages=hello, max_tokens=9)
assert answer.choices[0].message.content and answer.usage.completion_tokens <= 9
of_chat("chat", headers, answer.usage)
options = {"stream": True, "stream_options": {"include_usage": True}}
chunks, headers = whole(client.chat.completions, messages=hello, max_completion_tokens=9, **options)
chunks = list(chunks)
assert any(chunk.choices and chunk.choices[0].delta.content for chunk in chunks)
assert chunks[-1].usage.completion_tokens <= 9
of_chat("chat streamed", headers, chunks[-1].usage)
with client.chat.completions.stream(model="general", messages=hello, max_tokens=9, stream_options={"include_usage": True}) as stream:
    headers = stream._response.headers
    try:
        answer = stream.get_final_completion()
    except openai.LengthFinishReasonError as error:
        answer = error.completion
assert answer.choices[0].message.content
of_chat("chat by the stream helper", headers, answer.usage)

# Completions, also two prompts with two answers each.
answer, headers = whole(client.completions, prompt="hello", max_tokens=9)
assert answer.choices[0].text and answer.usage.completion_tokens <= 9
of_chat("completion", headers, answer.usage)
chunks, headers = whole(client.completions, prompt="hello", max_tokens=9, **options)
chunks = list(chunks)
assert any(chunk.choices and chunk.choices[0].text for chunk in chunks)
of_chat("completion streamed", headers, [chunk.usage for chunk in chunks if chunk.usage][-1])

# Responses.
answer, headers = whole(client.responses, input="hello", max_output_tokens=9)
assert answer.output_text and answer.status in ("completed", "incomplete") and answer.usage.output_tokens <= 9
of_response("response", headers, answer.usage)
events, headers = whole(client.responses, input="hello", instructions="Be short.", max_output_tokens=9, stream=True)
events = list(events)
assert [event.sequence_number for event in events] == list(range(len(events)))
assert events[0].type == "response.created" and events[-1].type in ("response.completed", "response.incomplete")
text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
assert text and text == events[-1].response.output_text
of_response("response streamed", headers, events[-1].response.usage)
with client.responses.stream(model="general", input="hello", max_output_tokens=9) as stream:
    text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    answer, headers = stream.get_final_response(), stream._response.headers
assert text and text == answer.output_text
of_response("response by the stream helper", headers, answer.usage)

# A tool: this model calls it where its bias says so, which responses have no member for.
tool = {"type": "function", "name": "local_time", "parameters": PARAMETERS}
answer, headers = whole(client.responses, input="hello", max_output_tokens=9, tools=[tool])
of_response("response with tools", headers, answer.usage)
call = {"type": "function_call", "call_id": "call_1", "name": "local_time", "arguments": '{"city":"Ulm"}'}
result = {"type": "function_call_output", "call_id": "call_1", "output": "12:00"}
turns = [{"role": "user", "content": "hello"}, call, result]
answer, headers = whole(client.responses, input=turns, max_output_tokens=9, tools=[tool], store=False)
assert answer.output_text
of_response("response to a tool's result", headers, answer.usage)

# Embeddings: the client asks for base64 by itself.
if served("embeddings"):
    vectors = []
    for options in {}, {"encoding_format": "float"}:
        raw = client.embeddings.with_raw_response.create(model="embed", input=["hello", "hello there"], **options)
        answer = raw.parse()
        assert len(answer.data) == 2 and len(answer.data[0].embedding) == 64
        vectors.append(answer.data[1].embedding)
        note(f"openai, embeddings {options}", "embed", raw.headers, answer.usage.prompt_tokens, 0, 0, answer.usage.cost)
    assert all(math.isclose(one, two, abs_tol=1e-5) for one, two in zip(*vectors))

# Errors by their types. What the server does not have is not charged.
raises(openai.AuthenticationError, 401, lambda: wrong.responses.create(model="general", input="hello"))
for call in (
    lambda: poor.responses.create(model="general", input="hello"),
    lambda: poor.responses.create(model="general", input="hello", stream=True),
    lambda: poor.completions.create(model="general", prompt="hello", max_tokens=9),
    lambda: poor.embeddings.create(model="embed", input="hello"),
):
    try:
        call()
    except openai.APIStatusError as error:
        assert (error.status_code, error.code) == (402, "insufficient_credits"), error
    else:
        raise AssertionError("nothing was raised without credits")
raises(openai.NotFoundError, 404, lambda: client.embeddings.create(model="gpt-9", input="hello"))
for member in {"background": True}, {"previous_response_id": "resp_1"}, {"store": True}, {"tools": [{"type": "web_search"}]}:
    error = raises(openai.BadRequestError, 400, lambda: client.responses.create(model="general", input="hello", **member))
    assert next(iter(member)) in error.message, error
try:
    client.embeddings.create(model="general", input="hello")
except openai.InternalServerError as error:
    assert (error.status_code, error.code) == (501, "not_supported"), error
else:
    raise AssertionError("embeddings came from a server without them")
print("ok      openai for Python: 401, 402, 404, 400 and 501 as its own errors")
