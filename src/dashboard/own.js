// Workers of a wallet, and what its key may see beside the ledger: usage and keys.

function showWorkers() {
  const rows = workers.data?.workers ?? [];
  by("workers").hidden = rows.length < 2;
  if (rows.length < 2) return;
  const most = Math.max(...rows.map((worker) => worker.hashrate));
  const rate = ({ hashrate, hashrate_unit }) => {
    const unit = hashrateIn(hashrate_unit, most);
    return hashrate == null ? none : `${hundredths.format(hashrate * unit.factor)} ${unit.name}`;
  };
  table(by("workers-table"), [
    { title: "Worker", of: ({ worker }) => worker },
    { title: "State", of: ({ is_active }) => make("span", { "data-mark": is_active ? "" : "warn" }, is_active ? "mining" : "silent") },
    { title: "Hashrate", of: rate, number: true },
    { title: "Temperature", of: ({ gpu_temperature: c }) => c == null ? none : `${tenths.format(c)} °C`, number: true },
    { title: "Power", of: ({ power_watts: watts }) => watts == null ? none : `${whole.format(watts)} W`, number: true },
    { title: "Shares", of: ({ accepted: good, rejected: bad }) => good == null ? none : `${whole.format(good)}${bad ? `, ${whole.format(bad)} rejected` : ""}`, number: true },
    { title: "Last sample", of: ({ recorded_at }) => recorded_at ? ago(since(recorded_at)) : none, number: true },
  ], rows.map((worker) => ({ ...worker, id: worker.worker })));
}

const usageChart = new Chart(by("usage-chart"), { name: "Credits", bars: true, reading: by("usage-reading") });

function showOwnUsage() {
  by("usage").hidden = own() === "";
  const now = ownUsage.data;
  if (!now) return;
  const days = bars(DAY, 30, Math.floor(Date.now() / DAY + 1) * DAY, now.days.map((row) => [Date.parse(row.day), row.credits]));
  const spent = exact(now.days.reduce((all, row) => all + row.credits, 0));
  const requests = now.days.reduce((all, row) => all + row.requests, 0);
  set("spent", credits(spent));
  const points = fit(days);
  usageChart.show({
    points, from: (points[0] ?? days[0]).at, to: days.at(-1).until, utc: true, value: (number, bare) => micro.format(number) + (bare ? "" : " credits"),
    tick: (at) => utcDay.format(at), time: (point) => utcDay.format(point.at), note: `For ${count(requests, "request")} in the last 30 days`,
    summary: `${credits(spent)} credits in the last 30 days`, empty: "Nothing was charged in the last 30 days.",
  });
  table(by("usage-models"), [
    { title: "Model", of: ({ model }) => model },
    { title: "Requests", of: ({ requests }) => whole.format(requests), number: true },
    { title: "Prompt tokens", of: ({ prompt_tokens: tokens }) => whole.format(tokens), number: true },
    { title: "Answer tokens", of: ({ completion_tokens: tokens }) => whole.format(tokens), number: true },
    { title: "Credits", of: ({ credits: amount }) => credits(amount), number: true },
  ], now.models);
}

/** Keys shown at most, valid ones first; the API has all. */
const SHOWN_KEYS = 12;

function ownLimits({ limits, spent }) {
  if (!limits) return "";
  const { credit_limit: limit, credit_period: period, models, max_concurrency: most } = limits;
  return [
    limit != null && `${credits(spent ?? 0)} of ${credits(limit)} credits${period && period !== "total" ? ` this ${period}` : ""}`,
    models && `only ${models.join(", ")}`, most != null && `${count(most, "request")} at a time`,
  ].filter(Boolean).join(" · ");
}

function showOwnKeys() {
  by("keys").hidden = own() === "";
  const now = ownKeys.data;
  if (!now) return;
  const sorted = now.toSorted((a, b) => b.is_active - a.is_active);
  const used = ({ last_used, expires_at }) => [last_used ? `used ${ago(since(last_used))}` : "not used yet", expires_at && `until ${dayClock.format(new Date(expires_at))}`];
  list("keys-list", sorted.slice(0, SHOWN_KEYS).map((item) => row(
    item.is_active ? "ok" : "", item.is_active ? "valid" : "ended", item.name || "without a name",
    [`${item.start}…`, item.scopes.join(", "), ...used(item)].filter(Boolean).join(" · "), ownLimits(item),
  )));
  const left = now.length - SHOWN_KEYS;
  set("keys-more", left > 0 ? `${whole.format(left)} more; GET /api/keys lists all.` : "");
}
