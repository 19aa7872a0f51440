// Calls of a generated client: what it sends and reads has the types of the document.

import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./edge.js";

type Schemas = components["schemas"];

const { EDGE, ADMIN, KEY, WALLET } = process.env;
assert(EDGE && ADMIN && KEY && WALLET);
const as = (key: string) => createClient<paths>({ baseUrl: EDGE, headers: { Authorization: `Bearer ${key}` } });
const admin = as(ADMIN);
const wallet = as(KEY);

const grant = await admin.POST("/users/{wallet}/credits", {
  params: { path: { wallet: WALLET } },
  body: { amount: 5, reason: "generated" },
});
const granted: number | undefined = grant.data?.credits;
assert(granted !== undefined && granted >= 5);
const users = await admin.GET("/users", { params: { query: { limit: 10 } } });
const first: Schemas["User"] | undefined = users.data?.users[0];
assert(first && first.wallet_address.startsWith("remes1"));
const made = await wallet.GET("/auth/me");
assert.equal(made.data?.wallet_address, WALLET);

const models = await wallet.GET("/v1/models");
const model: Schemas["Model"] | undefined = models.data?.data[0];
assert(model && typeof model.price.request === "number");
assert.equal((await wallet.GET("/v1/models/{id}", { params: { path: { id: model.id } } })).data?.id, model.id);

const messages: Schemas["ChatMessage"][] = [
  { role: "system", content: "be short" },
  { role: "user", content: [{ type: "text", text: "one two" }] },
];
const chat = await wallet.POST("/v1/chat/completions", { body: { model: model.id, messages, temperature: 0.5 } });
// An event of a stream is the other thing that it may be.
assert(chat.data && "choices" in chat.data, JSON.stringify(chat.error));
const text: string | null | undefined = chat.data.choices[0]?.message?.content;
assert(text && text.length > 0);
const cost: number | undefined = chat.data.usage?.cost;
assert(cost !== undefined && cost > 0);

const stream = await wallet.POST("/v1/chat/completions", {
  body: { messages: [{ role: "user", content: "one two" }], stream: true },
  parseAs: "text",
});
let streamed = "";
for (const line of String(stream.data).split("\n")) {
  if (line.startsWith("data: {")) {
    const chunk = JSON.parse(line.slice(6)) as Schemas["ChatCompletionChunk"];
    streamed += chunk.choices[0]?.delta?.content ?? "";
  }
}
assert(streamed.length > 0);

const usage = await wallet.GET("/usage", { params: { query: { by: "day" } } });
assert(usage.data && typeof usage.data !== "string" && usage.data.usage.length > 0);

// Errors are typed by their status: a problem, and on /v1/messages what Anthropic's clients read.
const wrong = await wallet.POST("/v1/chat/completions", { body: { model: "nothing", messages } });
const code: Schemas["ErrorCode"] | undefined = wrong.error?.code;
assert.equal(wrong.response.status, 404);
assert(code);
assert.equal(wrong.error?.error.code, code);
const other = await wallet.POST("/v1/messages", {
  body: { model: "nothing", max_tokens: 9, messages: [{ role: "user", content: "hi" }] },
});
assert.equal(other.response.status, 404);
const kind: Schemas["AnthropicError"]["error"]["type"] | undefined = other.error?.error.type;
assert.equal(kind, "not_found_error");

// Requests of every endpoint compile; @ts-expect-error fails the build where a wrong one does.
export const requests: [
  Schemas["CompletionRequest"],
  Schemas["EmbeddingsRequest"],
  Schemas["RerankRequest"],
  Schemas["ResponsesRequest"],
  Schemas["MessagesRequest"],
] = [
  { prompt: ["a", "b"], max_tokens: 9, logit_bias: { "7": -1 } },
  { input: [[1, 2], [3]], encoding_format: "base64" },
  { query: "q", documents: ["a", { text: "b" }], top_n: 1 },
  {
    input: [{ role: "user", content: "hi" }],
    tools: [{ type: "function", name: "f" }, { type: "namespace", name: "n", tools: [{ type: "custom", name: "c" }] }],
    tool_choice: { type: "function", name: "f" },
    store: false,
  },
  { max_tokens: 9, system: "s", messages: [{ role: "user", content: [{ type: "text", text: "hi" }] }] },
];
// @ts-expect-error a role that there is not
export const wrongRole: Schemas["ChatMessage"] = { role: "guest", content: "hi" };
// @ts-expect-error no messages
export const noMessages: Schemas["MessagesRequest"] = { max_tokens: 9 };
console.log("typescript: passed");
