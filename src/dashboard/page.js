// The page: where the data of its feeds is shown. Texts are set as text, never as markup.

// The status line of the node.

function nodeStatus() {
  const now = health.data, firing = alerts.data?.firing ?? [];
  if (!now) {
    return health.trouble ? ["bad", "The node does not answer", `${sentence(health.trouble.message)}; retried every 2 s.`] : ["unknown", "Asking the node…", ""];
  }
  if (health.trouble?.status === 429) return ["warn", "Too many requests to the node", `The data is ${span(health.age)} old.`];
  if (health.trouble?.kind === "refused") return ["bad", "The node refuses the health request", `${sentence(health.trouble.message)}.`];
  if (health.trouble || health.isStale) return ["bad", "The node does not answer", `Last response ${ago(health.age)}; the data below is from then. Retried every 2 s.`];
  const about = [count(now.breakers.length, "upstream"), alerts.data ? "no alert" : "alerts not known"].join(", ");
  const worst = firing.find((alert) => alert.severity === "CRITICAL") ?? firing[0];
  if (now.draining) return ["warn", "The node is shutting down", "It completes requests in flight and accepts no new ones."];
  if (ready.trouble?.status === 503) return ["bad", "The node rejects writes", `${sentence(ready.trouble.message)}.`];
  if (worst) return [worst.severity === "CRITICAL" ? "bad" : "warn", sentence(worst.summary), firing.length > 1 ? `${firing.length} alerts fire; all are listed below.` : `One alert fires, for ${lasting(since(worst.since))}.`];
  const open = now.breakers.filter((breaker) => breaker.state !== "CLOSED");
  if (open.length) return ["warn", `${open.map((breaker) => breaker.name).join(", ")} ${open.length === 1 ? "is" : "are"} out of use`, open.map(whyOpen).join(" ")];
  if (now.chain_halted) return ["warn", "The chain is halted", "Its newest block is older than it should be."];
  if (now.status !== "ok") return ["warn", "The node is degraded", ""];
  if (isIdle() && !(network.data || network.trouble || leaders.trouble)) return ["unknown", "Asking the node…", ""];
  if (isIdle()) return ["idle", "Nothing is connected yet", "The node runs and accepts requests. It needs a model to sell answers, and a miner to show."];
  return ["ok", "All systems normal", `${sentence(about)}.`];
}

/** Whether the node has no upstream, and no miner sends it samples. */
const isIdle = () => health.data.breakers.length === 0 && !health.data.inference && !network.data?.active_miners && !miner.data?.recorded_at;

function whyOpen(breaker) {
  if (breaker.forced) return `An operator opened ${breaker.name}'s breaker; it stays open until it is reset.`;
  const again = breaker.retry_after_seconds != null ? ` Next attempt in ${span(breaker.retry_after_seconds * SECOND)}.` : "";
  return `${sentence(breaker.reason ?? `The breaker of ${breaker.name} is not closed`)}.${again}`;
}

function showStatus() {
  // After the start or another key, the line waits for the alerts.
  if (health.data && !health.trouble && started && !alerts.data && !alerts.trouble) return;
  const [state, line, more] = nodeStatus();
  document.body.dataset.status = state;
  by("start").hidden = state !== "idle";
  set("status", line);
  set("status-more", more || "\u00a0");
  set("about", health.data ? `${health.data.version} · up ${span(health.data.uptime_seconds * SECOND)}` : "");
  document.title = `${{ ok: "OK", idle: "Ready", warn: "Warning", bad: "Problem", unknown: "…" }[state]} · r3mes-edge`;
}

// A feed's panel: its data and their age, or why there are none.

const panels = [...document.querySelectorAll("[data-feed]")].map((element) => {
  const of = (selector) => element.querySelector(selector);
  return { element, feed: feeds.find((feed) => feed.name === element.dataset.feed), content: of(".content"), message: of(".message"), age: of(".age") };
});

function why(feed) {
  const { kind, status, code, wait, message } = feed.trouble;
  if (kind === "gone") return `No response: ${message}. Retried shortly.`;
  if (status === 401) return "For holders of a key.";
  if (status === 403) return [metrics, alerts].includes(feed) ? "For holders of an admin's key." : "This key may not read this.";
  if (feed === alerts && status === 404) return "This node evaluates no alerts.";
  if (code === "user_not_found") return "This node has no account of this wallet.";
  if (status === 429) return `Too many requests; retried in ${span(Math.max(wait, SECOND))}.`;
  return `${sentence(message)}.`;
}

/** What a panel says instead of its data where there are none. */
const NOTHING = {
  hashrate: () => miner.data && !miner.data.recorded_at ? "No samples of this wallet's miner yet." : "",
  miner: ({ recorded_at }) => recorded_at ? "" : "No sample yet.",
  earnings: ({ earnings: rows }) => rows.some((row) => row.earnings > 0) || miner.data?.total_earnings > 0 ? "" : "Nothing earned yet.",
  metrics: ({ last }) => sum(last.ended) ? "" : "No chats yet.",
  health: ({ breakers, chain }) => breakers.length || chain ? "" : "None yet; discovery runs every minute.",
  alerts: ({ firing = [], recent = [] }) => firing.length || recent.length ? "" : "No alert fires.",
  usage: ({ days }) => days.length ? "" : "No paid requests in the last 30 days.",
};
const LACKS = {
  models: () => hasScope("chat") ? "" : "This key may not chat: it has no scope “chat”.",
  usage: () => hasScope("read") ? "" : "This key may not read the usage: it has no scope “read”.",
  keys: () => hasScope("keys") ? "" : "This key may not list the wallet's keys: it has no scope “keys”.",
};

function insteadOfData(feed, hasContent) {
  if (feed.data !== undefined) return NOTHING[feed.name]?.(feed.data) ?? "";
  if (feed.trouble) return why(feed);
  if (walletFeeds.includes(feed) && !wallet() && leaders.data && hasContent) return "No wallet is known yet.";
  return LACKS[feed.name]?.() ?? "";
}

function showPanel({ element, feed, content, message, age }) {
  const heard = feed.data !== undefined;
  const text = insteadOfData(feed, Boolean(content));
  element.toggleAttribute("data-empty", text !== "");
  if (content) content.hidden = text !== "";
  message.hidden = text === "";
  if (message.textContent !== text) message.textContent = text;
  element.ariaBusy = String(!heard && text === "" && feed.busy);
  const old = !heard ? "" : feed.trouble?.status === 429 ? `waits, ${span(feed.age)} old` : feed.trouble || feed.isStale ? `${span(feed.age)} old` : "";
  age.hidden = old === "";
  if (age.textContent !== old) age.textContent = old;
}

// The miner and its charts.

function showMiner() {
  const stats = miner.data;
  const unit = hashrateIn(stats?.hashrate_unit, stats?.hashrate ?? 0);
  set("hashrate", stats?.hashrate == null ? none : hundredths.format(stats.hashrate * unit.factor));
  set("hashrate-unit", unit.name);
  set("temperature", stats?.gpu_temperature == null ? none : tenths.format(stats.gpu_temperature));
  set("miner-state", !stats ? none : stats.is_active ? "mining" : stats.recorded_at ? "silent" : "never heard");
  by("miner-state").dataset.mark = stats?.recorded_at && !stats.is_active ? "warn" : "";
  fact("blocks-found", stats?.blocks_found == null ? none : whole.format(stats.blocks_found));
  fact("miner-up", stats?.uptime_percentage == null ? none : `${tenths.format(stats.uptime_percentage)} %`);
  set("miner-last", stats?.recorded_at ? ago(since(stats.recorded_at)) : none);
  set("earned-total", credits(stats?.total_earnings));
}

const timeIn = (name) => ({ hour: clockSeconds, day: clock, month: dayClock })[name];
const tick = (at, step) => (step >= DAY ? dayMonth : clock).format(at);
const hashrateChart = new Chart(by("hashrate-chart"), { name: "Hashrate", reading: by("hashrate-reading") });
const earningsChart = new Chart(by("earnings-chart"), { name: "Earnings", bars: true, reading: by("earnings-reading") });

/** Where a chart begins: with its range, or with its data if they cover less than two thirds of that. */
const startOf = (first, from, to) => first > from + (to - from) / 3 ? Math.min(first, to - (to - from) / 30) : from;

function showHashrate() {
  if (!hashrate.data) return;
  const { range: of, lines } = hashrate.data;
  // recorded_at, hashrate, hashrate_unit, min, max, samples; none of them quoted.
  const all = lines.trimEnd().split("\r\n").slice(1).map((line) => line.split(","));
  const { hours, words } = RANGES[of];
  const kind = all.at(-1)?.[2], to = Date.now(), earliest = to - hours * HOUR;
  const points = all.filter(([, , unit]) => unit === kind)
    .map(([at, value, , min, max]) => ({ at: Date.parse(at), value: Number(value), min: Number(min), max: Number(max) }))
    .filter((point) => point.at >= earliest);
  const from = startOf(points[0]?.at ?? earliest, earliest, to);
  const most = Math.max(...points.map((point) => point.max), 0), unit = hashrateIn(kind, most);
  const bare = (number) => hundredths.format(number * unit.factor);
  const value = (number, isBare) => bare(number) + (isBare ? "" : ` ${unit.name}`);
  const values = points.map((point) => point.value), mean = values.reduce((a, b) => a + b, 0) / values.length;
  const summary = points.length ? `mean ${bare(mean)}, least ${bare(Math.min(...points.map((p) => p.min)))}, most ${bare(most)} ${unit.name} in ${words}` : "";
  hashrateChart.show({
    points, from, to, value, tick, summary,
    time: (point) => timeIn(of).format(point.at), note: summary && sentence(summary), empty: `No samples in ${words}.`,
  });
}

/** Bars of equal length that end now, or with today in UTC. */
function bars(length, number, end, amounts) {
  const from = end - length * number;
  const made = Array.from({ length: number }, (_, i) => ({ at: from + i * length, until: from + (i + 1) * length, value: 0 }));
  for (const [at, amount] of amounts) {
    const bar = made[Math.floor((at - from) / length)];
    if (bar) bar.value += amount;
  }
  return made.map((bar) => ({ ...bar, value: exact(bar.value) })).map((bar) => ({ ...bar, min: bar.value, max: bar.value }));
}

/** Bars without the empty ones before the first, by the rule of `startOf` but a fifth of them at least; none if all are empty. */
function fit(bars) {
  const first = bars.findIndex((bar) => bar.value > 0), [from, to] = [bars[0].at, bars.at(-1).until];
  if (first < 0) return [];
  const start = startOf(bars[first].at, from, to - (to - from) / 6);
  return bars.filter((bar) => bar.until > start);
}

function showEarnings() {
  const total = (days) => days.reduce((all, day) => all + day.value, 0);
  if (!earnings.data) return;
  const rows = earnings.data.earnings.map((row) => [Date.parse(row.date), row.earnings]);
  const tomorrow = Math.floor(Date.now() / DAY + 1) * DAY, days = bars(DAY, 30, tomorrow, rows);
  set("earned-today", credits(days.at(-1).value));
  set("earned-week", credits(exact(total(days.slice(-7)))));
  set("earned-month", credits(exact(total(days))));
  const fine = range !== "month" && mined.data;
  const { bar, hours, words } = RANGES[range];
  const end = Math.ceil(Date.now() / bar) * bar, number = hours * HOUR / bar;
  const shown = fine ? bars(bar, number, end, mined.data.found.map((entry) => [Date.parse(entry.created_at), entry.amount])) : days;
  const month = !fine && range === "month";
  const figure = fine || month ? exact(total(shown)) : days.at(-1).value;
  set("earned", credits(figure));
  const reach = fine && mined.data.reach > shown[0].at ? `The ledger moves fast: known from ${dayClock.format(mined.data.reach)} on.` : "";
  const note = reach || (fine || month ? "" : mayReadLedger() ? "By the day until the ledger has been read." : "By the day. The wallet's key shows them by the hour.");
  by("earnings-note").hidden = note === "";
  set("earnings-note", note);
  const value = (number, bare) => micro.format(exact(number)) + (bare ? "" : " credits");
  const fitted = fit(shown);
  earningsChart.show({
    points: fitted, from: (fitted[0] ?? shown[0]).at, to: shown.at(-1).until, value, utc: !fine, note: fine || month ? `In ${words}` : "Today (UTC)",
    tick: fine ? tick : (at) => utcDay.format(at), summary: `${credits(exact(total(shown)))} credits in ${fine ? words : "the last 30 days"}`,
    time: fine ? (point) => `${clock.format(point.at)} to ${clock.format(point.until)}` : (point) => utcDay.format(point.at),
    empty: `Nothing earned in ${fine ? words : "the last 30 days"}.`,
  });
}

// Chat, upstreams, alerts.

function showMetrics() {
  const now = metrics.data;
  if (!now) return;
  const { success = 0, cut = 0, failed = 0, client_left: left = 0, refused = 0 } = now.ended;
  const minutes = (now.ms ?? 0) / MINUTE;
  // Without recent ones, the latencies are of earlier chats; one may have begun before the window and ended in it.
  const timed = (name) => now[name]["+Inf"] > 0 ? now[name] : now.last[name];
  const latency = (buckets, part) => buckets["+Inf"] > 0 ? seconds(quantile(buckets, part)) : "no answer yet";
  const first = timed("first"), answers = timed("whole");
  // Of less than a minute a rate says nothing.
  const isRate = minutes >= 1;
  set("chat-rate", isRate ? tenths.format(now.chats / minutes) : whole.format(now.chats));
  set("chat-unit", isRate ? "a minute" : now.chats === 1 ? "chat" : "chats");
  set("chat-window", now.ms == null ? `${count(now.chats, "chat")} since the node started` : `${count(now.chats, "chat")} in the last ${span(now.ms)}${first === now.last.first && now.last.first["+Inf"] > 0 ? "; times of all before" : ""}`);
  set("first-median", latency(first, 0.5));
  set("first-slow", latency(first, 0.95));
  set("whole-median", latency(answers, 0.5));
  const free = now.released + now.refunded;
  set("chat-free", free > 0 ? `${credits(exact(free))} credits (${share(free, now.charged + now.released)})` : "nothing");
  const served = success + cut + failed + left + refused;
  set("chat-failed", cut + failed > 0 ? `${whole.format(cut + failed)} (${share(cut + failed, served)})` : "none");
  by("chat-failed").dataset.mark = cut + failed > 0 ? "warn" : "";
  const requests = now.http["+Inf"] ?? 0;
  set("requests", !isRate ? count(requests, "request") : `${whole.format(requests / minutes)} a minute, 95 % in ${seconds(quantile(now.http, 0.95))}`);
  const { accepted, rejected, watts } = now.last;
  // They are 0 for a miner that does not report them.
  fact("shares", accepted + rejected > 0 ? `${whole.format(accepted)} accepted, ${whole.format(rejected)} rejected` : none);
  by("shares").dataset.mark = rejected > accepted / 20 ? "warn" : "";
  fact("power", watts > 0 ? `${whole.format(watts)} W` : none);
}

/** A row of a list: a mark with its label, a title, and further texts. */
function row(mark, word, title, ...rest) {
  const texts = rest.filter(Boolean).map((text) => make("p", { class: "quiet" }, text));
  return make("li", { "data-mark": mark }, make("div", { class: "title" }, make("strong", {}, title), make("span", { class: "mark" }, word)), ...texts);
}

/** Replaces the rows of a list only if they changed, so that a selection or scroll position is not lost. */
function list(id, rows) {
  const old = by(id), made = make("ul", {}, ...rows);
  const same = old.children.length === rows.length && rows.every((row, i) => row.isEqualNode(old.children[i]));
  if (!same) old.replaceChildren(...made.children);
}

const STATES = { CLOSED: ["ok", "in use"], OPEN: ["bad", "open"], HALF_OPEN: ["warn", "half-open"] };

function showUpstreams() {
  const now = health.data;
  if (!now) return;
  const block = now.chain ? chain.data : null;
  set("height", block ? whole.format(block.latest_block_height) : none);
  const facts = block && [block.network, `block ${ago(since(block.latest_block_time))}`, block.catching_up && "catching up", block.halted && "halted", block.stale && `last good answer, ${span(block.age_seconds * SECOND)} old`];
  set("chain", facts ? facts.filter(Boolean).join(" · ") : now.chain ? chain.trouble ? sentence(chain.trouble.message) : "chain height" : "no chain answers");
  by("chain").dataset.mark = block && (block.halted || block.stale || chain.trouble) ? "warn" : "";
  const rows = now.breakers.map((breaker) => {
    const [mark, word] = STATES[breaker.state] ?? ["warn", breaker.state];
    return row(mark, word, breaker.name, mark !== "ok" && whyOpen(breaker));
  });
  list("breakers", rows);
}

const asSeconds = (number) => number < 60 ? seconds(number) : span(number * SECOND);
const asBytes = (number) => `${whole.format(number / 2 ** 20)} MiB`;
const asShare = (number) => `${tenths.format(number * 100)} %`;
/** How a rule's value is formatted; a rule that is only true or false has none. */
const FIGURES = {
  response_time: asShare, gateway_overhead: asShare, miner_silent: asSeconds, earnings_stopped: asSeconds, clock_jump: (number) => asSeconds(Math.abs(number)),
  error_rate: asShare, pool_use: asShare, disk_free: asBytes, wal_size: asBytes, temperature: (number) => `${tenths.format(number)} °C`,
};
function figures({ name, value, threshold }) {
  if (typeof value !== "number" || typeof threshold !== "number" || threshold === 0) return "";
  const write = FIGURES[name] ?? hundredths.format;
  return `${write(value)}, where ${write(threshold)} is the limit · `;
}
const titled = ({ name, subject }) => sentence(String(name).replaceAll("_", " ")) + (subject ? `: ${subject}` : "");
const marks = { CRITICAL: "bad", WARNING: "warn" };
/** How many resolved alerts are shown, newest first; the API has more. */
const RECENT = 8;

function showAlerts() {
  const now = alerts.data;
  if (!now) return;
  const { firing = [], recent = [] } = now;
  set("firing", whole.format(firing.length));
  by("firing").dataset.mark = firing.some((alert) => marks[alert.severity] === "bad") ? "bad" : firing.length ? "warn" : "";
  set("firing-under", firing.length ? `the longest for ${lasting(Math.max(...firing.map((alert) => since(alert.since))))}` : "no alerts");
  list("firing-list", firing.map((alert) => row(marks[alert.severity] ?? "warn", String(alert.severity).toLowerCase(), titled(alert), `${sentence(alert.summary)}.`,
    sentence(`${figures(alert)}for ${lasting(since(alert.since))}`))));
  by("recent-title").hidden = recent.length === 0;
  list("recent-list", recent.slice(0, RECENT).map((alert) => row("", "over", titled(alert), `${sentence(alert.summary)}.`,
    `${dayClock.format(new Date(alert.resolved_at))}, after ${lasting(Date.parse(alert.resolved_at) - Date.parse(alert.since))}`)));
}
