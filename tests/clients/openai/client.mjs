// OpenAI's own client for JavaScript: what it reads, and that it throws where it must. EDGE, KEY and POOR come from outside.

import assert from 'node:assert/strict'
import OpenAI from 'openai'

const baseURL = `${process.env.EDGE}/v1`
const client = new OpenAI({ baseURL, apiKey: process.env.KEY, maxRetries: 0, timeout: 20_000 })
const poor = new OpenAI({ baseURL, apiKey: process.env.POOR, maxRetries: 0, timeout: 20_000 })
let charged = 0

const ask = (says, more = {}, { by = client, model = 'general', ...options } = {}) =>
  by.chat.completions.create({ model, messages: [{ role: 'user', content: says }], ...more }, options)

const text = async stream => {
  let text = ''
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? ''
  return text
}

const throws = async (kind, status, code, call) => {
  try {
    await call()
  } catch (error) {
    assert.ok(error instanceof kind, error)
    assert.equal(error.status, status)
    assert.equal(error.code, code)
    return error
  }
  assert.fail(`${kind.name} was not thrown`)
}

const models = await client.models.list()
assert.ok(models.data.some(model => model.id === 'general'))

const answer = await ask('hi', { seed: 7, temperature: 0.2 })
assert.equal(answer.choices[0].message.content, 'you said hi')
assert.equal(answer.usage.total_tokens, 5)
charged++
assert.equal(await text(await ask('hi', { stream: true })), 'you said hi')
charged++
let last
for await (const chunk of await ask('hi', { stream: true, stream_options: { include_usage: true } })) last = chunk
assert.equal(last.usage.total_tokens, 5)
charged++

const tools = [{ type: 'function', function: { name: 'local_time', parameters: { type: 'object' } } }]
const called = await ask('what time is it?', { tools })
assert.equal(called.choices[0].message.tool_calls[0].function.arguments, '{"city":"Ulm"}')
charged++

// The same key, the same answer, one price.
const headers = { headers: { 'Idempotency-Key': 'javascript-1' } }
assert.deepEqual(await ask('once', {}, headers), await ask('once', {}, headers))
charged++

await throws(OpenAI.APIError, 402, 'insufficient_credits', () => ask('hi', {}, { by: poor }))
await throws(OpenAI.APIError, 402, 'insufficient_credits', () => ask('hi', { stream: true }, { by: poor }))
await throws(OpenAI.NotFoundError, 404, 'model_not_found', () => ask('hi', {}, { model: 'gpt-9' }))
await throws(OpenAI.BadRequestError, 400, 'invalid_request', () => ask('hi', { n: 2 }))
const wrong = new OpenAI({ baseURL, apiKey: 'wrong', maxRetries: 0 })
await throws(OpenAI.AuthenticationError, 401, 'invalid_api_key', () => ask('hi', {}, { by: wrong }))

// A stream that is cut in the middle throws; it is no short text.
await throws(OpenAI.APIError, undefined, 'upstream_bad_response', async () => text(await ask('cut', { stream: true })))
charged++

// A server that is not there: its failures open its breaker, and that is a 503 which says when to come back.
for (let failure = 0; failure < 5; failure++) {
  await throws(OpenAI.InternalServerError, 502, 'upstream_bad_response', () => ask('hi', {}, { model: 'dead' }))
}
const open = await throws(OpenAI.InternalServerError, 503, 'circuit_open', () => ask('hi', {}, { model: 'dead' }))
assert.ok(Number(open.headers.get('retry-after')) > 30)

// Faster than the rate: 429 says when, and a client that heeds it gets its answer.
let limited
for (let at = 0; at < 60 && !limited; at++) {
  try {
    await ask('hi')
    charged++
  } catch (error) {
    limited = error
  }
}
assert.ok(limited instanceof OpenAI.RateLimitError)
assert.equal(limited.code, 'rate_limited')
assert.ok(Number(limited.headers.get('retry-after')) >= 1)
const patient = await ask('patience', {}, { maxRetries: 5 })
assert.equal(patient.choices[0].message.content, 'you said patience')
charged++
console.log(`charged ${charged}`)
