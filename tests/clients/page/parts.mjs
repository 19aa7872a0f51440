// The parts of the page's script that need no browser: rates, quantiles, spans. parts.mjs FOLDER_OF_THE_SCRIPT
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const source = ["format.js", "metrics.js"].map((name) => readFileSync(`${process.argv[2]}/${name}`, "utf8")).join("\n");
const { span, ago, seconds, credits, share, hashrateIn, readMetrics, quantile, Rates } =
  new Function(`${source}; return { span, ago, seconds, credits, share, hashrateIn, readMetrics, quantile, Rates };`)();

assert.deepEqual([0, 59_499, 60_000, 3_599_000, 3_600_000, 90_061_000].map(span), ["0 s", "59 s", "1 min", "59 min", "1 h 0 min", "1 d 1 h"]);
assert.deepEqual([-5000, 1000, 2000].map(ago), ["just now", "just now", "2 s ago"]);
assert.deepEqual([null, 0.0004, 0.0051, 0.3, 2.04, 63.7].map(seconds), ["–", "under 1 ms", "5 ms", "300 ms", "2 s", "64 s"]);
assert.deepEqual([null, 0, 0.000001, 1234567.891234].map(credits), ["–", "0", "0.000001", "1,234,567.891234"]);
assert.deepEqual([[1, 0], [0, 5], [1, 300], [1, 3]].map(([part, all]) => share(part, all)), ["–", "0 %", "0.3 %", "33 %"]);
assert.deepEqual(hashrateIn("H/s", 2_500_000), { factor: 1e-6, name: "MH/s" });
assert.deepEqual(hashrateIn("gradients/h", 2_500_000), { factor: 1, name: "gradients/h" });

// Ten within 0.1 s, ten more within 0.5, one longer than any bound.
const buckets = { 0.1: 10, 0.5: 20, 1: 20, "+Inf": 21 };
assert.equal(quantile(buckets, 10 / 21), 0.1);
assert(Math.abs(quantile(buckets, 15 / 21) - 0.3) < 1e-9);
assert.equal(quantile(buckets, 1), 1);
assert.equal(quantile({ 0.1: 0, "+Inf": 0 }, 0.5), null);
assert.equal(quantile({}, 0.5), null);

const page = (success, failed, http, accepted) => readMetrics(`# HELP chat_requests_total Chats by how they ended
# TYPE chat_requests_total counter
chat_requests_total{status="success",adapter="general"} ${success}
chat_requests_total{adapter="coding",status="success"} 1
chat_requests_total{status="failed",adapter="general"} ${failed}
r3mes_chat_first_byte_seconds_bucket{le="0.5"} ${success}
r3mes_chat_first_byte_seconds_bucket{le="+Inf"} ${success}
r3mes_http_request_duration_seconds_bucket{le="+Inf",route="/a,le=\\"9\\""} ${http}
r3mes_http_request_duration_seconds_bucket{le="+Inf",route="/b"} 1
r3mes_credits_charged_total ${success}
r3mes_credits_released_total{cause="failed"} ${failed}
r3mes_credits_released_total{cause="client_left"} 1
r3mes_credits_refunded_total ${failed}
r3mes_miner_shares_accepted ${accepted}
r3mes_other_total 7
`);
const read = page(4, 1, 10, 36);
assert.deepEqual(read.ended, { success: 5, failed: 1 });
assert.deepEqual([read.http["+Inf"], read.charged, read.released, read.refunded, read.accepted], [11, 4, 2, 1, 36]);

const rates = new Rates();
assert.equal(rates.now(), null);
rates.add(read, 0);
assert.deepEqual([rates.now().ms, rates.now().chats], [null, 6], "of one poll, all since the start");
rates.add(page(10, 2, 20, 36), 3000);
const now = rates.now();
assert.deepEqual([now.ms, now.chats, now.ended.success, now.charged, now.released, now.refunded, now.first["+Inf"], now.http["+Inf"]], [3000, 7, 6, 6, 1, 1, 6, 10]);
for (let at = 6000; at <= 900_000; at += 3000) rates.add(page(10, 2, 20, 36), at);
assert(rates.polls.length <= 102 && rates.now().chats === 0 && rates.now().ms >= 300_000, "the window is bounded");
rates.add(page(0, 0, 1, 0), 903_000);
assert.deepEqual([rates.polls.length, rates.now().ms], [1, null], "a node that started anew");
