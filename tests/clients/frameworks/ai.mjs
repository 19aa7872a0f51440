// The AI SDK with its provider for compatible servers, as it is by default: text, stream, tools, an object. EDGE and KEY come
// from outside.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

globalThis.AI_SDK_LOG_WARNINGS = false;
const edge = createOpenAICompatible({ name: "edge", baseURL: process.env.EDGE + "/v1", apiKey: process.env.KEY });
const model = edge("general");
assert.equal((await generateText({ model, prompt: "hi" })).text, "you said hi");
assert.equal(await streamText({ model, prompt: "hi" }).text, "you said hi");
// Two requests: for the call, and with its result.
const local_time = tool({ description: "The time there.", inputSchema: z.object({ city: z.string() }), execute: async ({ city }) => `noon in ${city}` });
const answer = await generateText({ model, prompt: "what time is it?", tools: { local_time }, stopWhen: stepCountIs(3) });
assert.match(answer.text, /you said .*noon in Ulm/);
const { object } = await generateObject({ model, prompt: "what arrived?", schema: z.object({ model: z.string() }) });
assert.equal(object.model, "tiny");
console.log("ok      text, stream, tools, an object");
console.log("charged 5");
