"""pydantic-ai as it is by default: text, stream, tools, an object. EDGE and KEY come from outside."""

import asyncio
import os

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Arrived(BaseModel):
    model: str


provider = OpenAIProvider(base_url=os.environ["EDGE"] + "/v1", api_key=os.environ["KEY"])
model = OpenAIChatModel("general", provider=provider)


async def main():
    agent = Agent(model, instructions="Be kind.")
    result = await agent.run("hi")
    assert result.output == "you said hi", result
    async with agent.run_stream("hi") as stream:
        assert await stream.get_output() == "you said hi"

    @agent.tool_plain
    def local_time(city: str) -> str:
        """The time there."""
        return f"noon in {city}"

    # Two requests: for the call, and with its result.
    result = await agent.run("what time is it?")
    assert result.output == "you said noon in Ulm", result
    agent = Agent(model, output_type=NativeOutput(Arrived))
    assert (await agent.run("what arrived?")).output.model == "tiny"


asyncio.run(main())
print("ok      text, stream, tools, an object")
print("charged 5")
