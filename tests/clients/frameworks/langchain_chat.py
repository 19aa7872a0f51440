"""langchain-openai as it is by default: text, stream, tools, an object. EDGE and KEY come from outside."""

import os

from langchain_core.messages import ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Arrived(BaseModel):
    model: str


def local_time(city: str) -> str:
    """The time there."""
    return f"noon in {city}"


chat = ChatOpenAI(model="general", base_url=os.environ["EDGE"] + "/v1", api_key=os.environ["KEY"], max_retries=0)
answer = chat.invoke("hi")
assert (answer.content, answer.usage_metadata["total_tokens"]) == ("you said hi", 5), answer
assert "".join(chunk.content for chunk in chat.stream("hi")) == "you said hi"
tools = chat.bind_tools([local_time])
messages = [("user", "what time is it?"), tools.invoke("what time is it?")]
[call] = messages[1].tool_calls
assert (call["name"], call["args"]) == ("local_time", {"city": "Ulm"}), call
answer = tools.invoke([*messages, ToolMessage(local_time(**call["args"]), tool_call_id=call["id"])])
assert answer.content == "you said noon in Ulm", answer
assert chat.with_structured_output(Arrived).invoke("what arrived?").model == "tiny"
print("ok      text, stream, tools, an object")
print("charged 5")
