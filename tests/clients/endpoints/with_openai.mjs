// OpenAI's own client for JavaScript: each endpoint, whole and streamed. EDGE, KEY, POOR, ANSWERS and LACKS come from outside.

import assert from 'node:assert/strict'
import { appendFileSync } from 'node:fs'
import OpenAI from 'openai'

const baseURL = `${process.env.EDGE}/v1`
const client = new OpenAI({ baseURL, apiKey: process.env.KEY, maxRetries: 0, timeout: 60_000 })
const poor = new OpenAI({ baseURL, apiKey: process.env.POOR, maxRetries: 0, timeout: 60_000 })
const messages = [{ role: 'user', content: 'hello' }]
const general = { model: 'general' }

const note = (what, model, response, prompt, cached, completion, cost) => {
  const charged = response.headers.get('x-credits-charged')
  assert.ok(charged === null || Number(charged) === cost, `${what}: ${charged} ${cost}`)
  const answer = { what: `openai.js, ${what}`, model, request_id: response.headers.get('x-request-id'), prompt, cached, completion, cost, estimated: null }
  appendFileSync(process.env.ANSWERS, `${JSON.stringify(answer)}\n`)
  console.log(`ok      openai.js, ${what}: ${prompt} tokens (${cached} cached), ${completion} written, ${cost} credits`)
}
const ofChat = (what, response, usage) =>
  note(what, 'general', response, usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, usage.completion_tokens, usage.cost)
const ofResponse = (what, response, usage) =>
  note(what, 'general', response, usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens, usage.cost)
const all = async stream => {
  const events = []
  for await (const event of stream) events.push(event)
  return events
}

{
  const { data, response } = await client.chat.completions.create({ ...general, messages, max_tokens: 9 }).withResponse()
  assert.ok(data.choices[0].message.content)
  ofChat('chat', response, data.usage)
}
{
  const asked = { ...general, messages, max_tokens: 9, stream: true, stream_options: { include_usage: true } }
  const { data, response } = await client.chat.completions.create(asked).withResponse()
  const chunks = await all(data)
  assert.ok(chunks.some(chunk => chunk.choices[0]?.delta.content))
  ofChat('chat streamed', response, chunks.at(-1).usage)
}
{
  const { data, response } = await client.completions.create({ ...general, prompt: 'hello', max_tokens: 9 }).withResponse()
  assert.ok(data.choices[0].text)
  ofChat('completion', response, data.usage)
}
{
  const asked = { ...general, prompt: 'hello', max_tokens: 9, stream: true, stream_options: { include_usage: true } }
  const { data, response } = await client.completions.create(asked).withResponse()
  const chunks = await all(data)
  assert.ok(chunks.some(chunk => chunk.choices[0]?.text))
  ofChat('completion streamed', response, chunks.findLast(chunk => chunk.usage).usage)
}
{
  const { data, response } = await client.responses.create({ ...general, input: 'hello', max_output_tokens: 9 }).withResponse()
  assert.ok(data.output_text)
  ofResponse('response', response, data.usage)
}
{
  const { data, response } = await client.responses.create({ ...general, input: 'hello', max_output_tokens: 9, stream: true }).withResponse()
  const events = await all(data)
  assert.equal(events[0].type, 'response.created')
  assert.equal(events.at(-1).type, 'response.completed')
  assert.ok(events.some(event => event.type === 'response.output_text.delta' && event.delta))
  ofResponse('response streamed', response, events.at(-1).response.usage)
}
{
  // The helper gives no headers, so they are taken from the response itself.
  let response
  const watching = client.withOptions({ fetch: async (...request) => (response = await fetch(...request)) })
  const stream = watching.responses.stream({ ...general, input: 'hello', max_output_tokens: 9 })
  let text = ''
  stream.on('response.output_text.delta', event => (text += event.delta))
  const final = await stream.finalResponse()
  assert.ok(text && text === final.output_text)
  ofResponse('response by the stream helper', response, final.usage)
}
if (!process.env.LACKS.split(' ').includes('embeddings')) {
  const vectors = []
  for (const more of [{}, { encoding_format: 'float' }]) {
    const { data, response } = await client.embeddings.create({ model: 'embed', input: ['hello', 'hello there'], ...more }).withResponse()
    assert.equal(data.data[1].embedding.length, 64)
    vectors.push(data.data[1].embedding)
    note(`embeddings ${more.encoding_format ?? 'as it likes'}`, 'embed', response, data.usage.prompt_tokens, 0, 0, data.usage.cost)
  }
  assert.ok(vectors[0].every((value, at) => Math.abs(value - vectors[1][at]) < 1e-5))
}

const throws = async (kind, status, code, call) => {
  const error = await call().then(() => assert.fail(`${kind.name} was not thrown`), error => error)
  assert.ok(error instanceof kind, error)
  assert.equal(error.status, status)
  assert.equal(error.code, code)
}
await throws(OpenAI.APIError, 402, 'insufficient_credits', () => poor.responses.create({ ...general, input: 'hello' }))
await throws(OpenAI.NotFoundError, 404, 'model_not_found', () => client.completions.create({ model: 'gpt-9', prompt: 'hello' }))
await throws(OpenAI.BadRequestError, 400, 'unsupported_parameter', () => client.responses.create({ ...general, input: 'hello', background: true }))
await throws(OpenAI.InternalServerError, 501, 'not_supported', () => client.embeddings.create({ ...general, input: 'hello' }))
console.log('ok      openai for JavaScript: 402, 404, 400 and 501 as its own errors')
