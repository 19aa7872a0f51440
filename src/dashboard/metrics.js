// Rates from the metrics page: differences of counters and of histogram buckets between two polls.

/** The window of rates, or less while the page was not open as long. */
const WINDOW = 5 * MINUTE;
const WANTED = /^(chat_requests_total|chat_request_duration_seconds_bucket|r3mes_(?:chat_first_byte_seconds_bucket|http_request_duration_seconds_bucket|credits_(?:charged|released|refunded)_total|miner_(?:shares_accepted|shares_rejected|power_watts)))(?:\{(.*)\})? (\S+)$/;
const HISTOGRAMS = { chat_request_duration_seconds_bucket: "whole", r3mes_chat_first_byte_seconds_bucket: "first", r3mes_http_request_duration_seconds_bucket: "http" };
const SINGLE = {
  r3mes_credits_charged_total: "charged", r3mes_credits_released_total: "released", r3mes_credits_refunded_total: "refunded",
  r3mes_miner_shares_accepted: "accepted", r3mes_miner_shares_rejected: "rejected", r3mes_miner_power_watts: "watts",
};

/** Parses the Prometheus text into sums by name and by the one label that the page needs. */
function readMetrics(text) {
  const read = { ended: {}, whole: {}, first: {}, http: {}, charged: 0, released: 0, refunded: 0, accepted: 0, rejected: 0, watts: 0 };
  const add = (to, label, value) => { to[label] = (to[label] ?? 0) + value; };
  for (const line of text.split("\n")) {
    const found = WANTED.exec(line);
    if (!found) continue;
    const [, name, labels = "", number] = found;
    const label = (wanted) => new RegExp(`(?:^|,)${wanted}="([^"]*)"`).exec(labels)?.[1] ?? "";
    const value = Number(number);
    if (name === "chat_requests_total") add(read.ended, label("status"), value);
    else if (SINGLE[name]) read[SINGLE[name]] += value;
    else add(read[HISTOGRAMS[name]], label("le"), value);
  }
  return read;
}

const sum = (record) => Object.values(record).reduce((all, value) => all + value, 0);

/** A quantile of a histogram, by linear interpolation within its bucket. */
function quantile(buckets, part) {
  const bounds = Object.keys(buckets).map((le) => [le === "+Inf" ? Infinity : Number(le), buckets[le]]).sort((a, b) => a[0] - b[0]);
  const wanted = part * (bounds.at(-1)?.[1] ?? 0);
  if (!(wanted > 0)) return null;
  let [low, below] = [0, 0];
  for (const [bound, upTo] of bounds) {
    // Above the last bound nothing more is known.
    if (upTo >= wanted) return bound === Infinity ? low : low + (bound - low) * (wanted - below) / (upTo - below);
    [low, below] = [bound, upTo];
  }
  return low;
}

class Rates {
  polls = [];

  add(read, at) {
    const last = this.polls.at(-1);
    // Counters that decreased are those of a node that restarted.
    if (last && (sum(read.ended) < sum(last.read.ended) || read.http["+Inf"] < last.read.http["+Inf"])) this.polls = [];
    this.polls.push({ read, at });
    while (this.polls.length > 2 && at - this.polls[1].at >= WINDOW) this.polls.shift();
  }

  /** The difference between the oldest poll and the newest; after the first poll, all since the node started. */
  now() {
    const last = this.polls.at(-1), first = this.polls[0];
    if (!last) return null;
    const only = first === last;
    const less = (record, by) => Object.fromEntries(Object.entries(record).map(([label, value]) => [label, value - (only ? 0 : by[label] ?? 0)]));
    const ended = less(last.read.ended, first.read.ended);
    return {
      ms: only ? null : last.at - first.at,
      ended,
      chats: sum(ended),
      whole: less(last.read.whole, first.read.whole),
      first: less(last.read.first, first.read.first),
      http: less(last.read.http, first.read.http),
      charged: last.read.charged - (only ? 0 : first.read.charged),
      released: last.read.released - (only ? 0 : first.read.released),
      refunded: last.read.refunded - (only ? 0 : first.read.refunded),
      last: last.read,
    };
  }
}
