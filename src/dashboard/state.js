// The state of the page and its feeds.

const by = (id) => document.getElementById(id);
const set = (id, text) => { const element = by(id); if (element.textContent !== text) element.textContent = text; };
/** A fact of a list; one that is not known is not shown. */
const fact = (id, text) => {
  set(id, text);
  by(id).parentElement.hidden = text === none;
};
const since = (time) => Date.now() - Date.parse(time);

const RANGES = {
  hour: { hours: 1, every: 10 * SECOND, bar: 5 * MINUTE, words: "the last hour" },
  day: { hours: 24, every: MINUTE, bar: HOUR, words: "the last 24 hours" },
  month: { hours: 720, every: 5 * MINUTE, bar: DAY, words: "the last 30 days" },
};
let range = "hour";
/** The response of `GET /auth/me` for the key. */
let holder = null;
/** The wallet that was entered; it is not secret and may be in the URL. */
const asWallet = (text) => /^remes1[02-9ac-hj-np-z]{38}$/.test(text) ? text : "";
let named = asWallet(location.hash.slice(1));
/** The node's own wallet, else the one whose miner reported last, else the only one that earned. */
let usual = "";
const wallet = () => holder?.wallet_address ?? (named || usual);
const hasScope = (name) => holder !== null && holder.key.scopes.some((scope) => [name, "admin"].includes(scope));
const mayReadLedger = () => wallet() !== "" && hasScope("read");
/** The wallet that the key belongs to; an admin's key belongs to none. */
const own = () => holder?.wallet_address ?? "";

/** Whether the feeds that may need a key are polled. */
let started = false;

// The feeds. Those of a wallet are polled only when a wallet is known.

const ofWallet = (path) => async () => wallet() ? ask(path(wallet())) : undefined;
const health = new Feed("health", 2 * SECOND, () => ask("/health", { open: true }));
const ready = new Feed("ready", 3 * SECOND, () => ask("/readyz", { open: true }));
const alerts = new Feed("alerts", 2.5 * SECOND, async () => {
  try {
    return await ask("/alerts");
  } catch (error) {
    if (error.status === 404) error.wait = MINUTE;
    throw error;
  }
});
const rates = new Rates();
const metrics = new Feed("metrics", 3 * SECOND, async () => {
  rates.add(readMetrics(await ask("/metrics", { accept: "text/plain" })), performance.now());
  return rates.now();
});
const chain = new Feed("chain", 3 * SECOND, async () => health.data?.chain ? ask("/chain/status") : undefined);
const leaders = new Feed("leaders", MINUTE, () => ask("/leaderboard?limit=100"));
const network = new Feed("network", MINUTE, () => ask("/network/stats"));
const miner = new Feed("miner", 3 * SECOND, ofWallet((w) => `/miner/stats/${w}`));
const hashrate = new Feed("hashrate", RANGES.hour.every, async () => {
  const of = range;
  // A third of the size of JSON.
  return wallet() ? { range: of, lines: await ask(`/miner/hashrate/${wallet()}?hours=${RANGES[of].hours}`, { accept: "text/csv" }) } : undefined;
});
const earnings = new Feed("earnings", 30 * SECOND, ofWallet((w) => `/miner/earnings/${w}?days=30`));
const ledger = new Feed("ledger", 3 * SECOND, async () => mayReadLedger() ? ask(`/users/${wallet()}/ledger?limit=8`) : undefined);
/** Ledger entries of a day, from a limited number of pages. */
const LEDGER_PAGES = 4;
const mined = new Feed("mined", MINUTE, async () => {
  if (!mayReadLedger() || range === "month") return undefined;
  const from = Date.now() - DAY, found = [];
  let cursor = "", reach = from;
  for (let page = 0; page < LEDGER_PAGES; page++) {
    const { entries, next_cursor } = await ask(`/users/${wallet()}/ledger?limit=500${cursor && `&cursor=${cursor}`}`);
    found.push(...entries.filter((entry) => entry.reason === "mining" && Date.parse(entry.created_at) >= from));
    const oldest = Date.parse(entries.at(-1)?.created_at);
    if (!next_cursor || oldest < from) return { found, reach: from };
    [cursor, reach] = [next_cursor, oldest];
  }
  return { found, reach };
});
const workers = new Feed("workers", 10 * SECOND, ofWallet((w) => `/miner/workers/${w}`));
const walletFeeds = [miner, workers, hashrate, earnings, ledger, mined];
const chatModels = new Feed("models", MINUTE, async () => own() && hasScope("chat") ? (await ask("/v1/models")).data : undefined);
const ownUsage = new Feed("usage", 30 * SECOND, async () => {
  if (!own() || !hasScope("read")) return undefined;
  const [days, byModel] = await Promise.all(["day", "model"].map((by) => ask(`/usage?by=${by}&limit=500`)));
  return { days: days.usage, models: byModel.usage };
});
const ownKeys = new Feed("keys", 30 * SECOND, async () => own() && hasScope("keys") ? (await ask("/api/keys?limit=500")).keys : undefined);

