// The wallet, its key and its ledger; then the start.

function showLedger() {
  const now = ledger.data;
  by("balance-box").hidden = !now;
  if (!now) return;
  set("balance", credits(now.credits));
  const made = now.entries.map(({ id, reason, amount, balance, created_at }) => make("tr", { "data-id": id },
    make("th", { scope: "row" }, reason, " ", make("time", { datetime: created_at, class: "quiet" }, dayClock.format(new Date(created_at)))),
    make("td", { class: amount < 0 ? "out" : "in" }, `${amount < 0 ? "−" : "+"}${credits(Math.abs(amount))}`),
    make("td", { class: "quiet" }, credits(balance))));
  const body = by("entries").tBodies[0], same = (row, i) => row.isEqualNode(body.rows[i]);
  if (made.length !== body.rows.length || !made.every(same)) body.replaceChildren(...made);
}

/** Whether the reader is about to name another wallet. */
let choosing = false;

function showAccount() {
  const gated = leaders.trouble?.status === 401 && key === null;
  document.body.toggleAttribute("data-gated", gated);
  set("account-title", gated ? "For holders of a key" : "Wallet");
  set("key-hint", gated
    ? "This node shows its figures to holders of a key only. The key stays in this page's memory and goes when you leave."
    : "Shows balance, ledger and earnings by the hour. It stays in this page's memory and goes when you leave.");
  by("key-form").hidden = key !== null;
  by("key-box").hidden = key === null;
  by("wallet").hidden = !wallet();
  set("wallet", wallet());
  // A wallet's key identifies its wallet.
  const given = gated || Boolean(holder?.wallet_address);
  by("wallet-form").hidden = given || Boolean(wallet() && !choosing);
  by("wallet-other").hidden = given || !wallet() || choosing;
  if (holder) set("key-about", `Key ${holder.key.id.slice(0, 12)}… · ${holder.key.scopes.join(", ")}${holder.key.expires_at ? ` · until ${dayClock.format(new Date(holder.key.expires_at))}` : ""}`);
  showLedger();
}

function showLeaders() {
  const wallets = leaders.data?.miners.map((row) => row.wallet_address) ?? [];
  const before = wallet();
  sole = wallets.length === 1 ? wallets[0] : "";
  by("wallets").replaceChildren(...wallets.map((address) => make("option", { value: address })));
  // A wallet that just began to earn is on it within a minute.
  leaders.every = wallet() ? MINUTE : 10 * SECOND;
  if (wallet() !== before) turnTo();
}

/** Another wallet: drops the data of the previous one. */
function turnTo() {
  for (const feed of walletFeeds) feed.restart();
  showAll();
}

/** Another key, or none: every response may differ. */
function useKey(text, me) {
  [key, holder] = [text, me];
  rates.polls = [];
  started = true;
  for (const feed of feeds) if (feed !== health && feed !== ready) feed.restart();
  showAll();
  for (const listener of keyListeners) listener(me);
}

keyRefused = (trouble) => {
  useKey(null, null);
  set("key-problem", `The key opens nothing any more: ${trouble.message}.`);
};

by("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = by("key-field"), text = field.value.trim();
  set("key-problem", text ? "" : "Paste a key first.");
  if (!text) return;
  try {
    const me = await ask("/auth/me", { withKey: text });
    field.value = "";
    const focused = by("key-form").contains(document.activeElement);
    useKey(text, me);
    if (focused) by("key-forget").focus();
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    set("key-problem", error.kind === "gone" ? "The node does not answer; try again in a moment." : `Not accepted: ${error.message}.`);
  }
});

by("key-forget").addEventListener("click", () => {
  useKey(null, null);
  by("key-field").focus();
});

by("wallet-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = asWallet(by("wallet-field").value.trim());
  set("wallet-problem", text ? "" : "A wallet is remes1 and 38 characters.");
  if (!text) return;
  [named, choosing] = [text, false];
  history.replaceState(null, "", `#${text}`);
  turnTo();
});

addEventListener("hashchange", () => {
  named = asWallet(location.hash.slice(1));
  turnTo();
});

by("wallet-other").addEventListener("click", () => {
  choosing = true;
  showAccount();
  by("wallet-field").focus();
});

by("ranges").addEventListener("change", (event) => {
  range = event.target.value;
  hashrate.every = RANGES[range].every;
  hashrate.restart();
  mined.restart();
  showEarnings();
});

const shows = {
  health: [showUpstreams], chain: [showUpstreams], alerts: [showAlerts], metrics: [showMetrics], leaders: [showLeaders, showAccount],
  miner: [showMiner], hashrate: [showHashrate], earnings: [showEarnings], mined: [showEarnings], ledger: [showAccount], ready: [],
};

function changed(feed) {
  for (const show of shows[feed.name]) show();
  if (feed === leaders && !started && feed.trouble?.status !== 401) startClosed();
  showPanels();
}

function showPanels() {
  showStatus();
  panels.forEach(showPanel);
}

function showAll() {
  for (const show of new Set(Object.values(shows).flat())) if (show !== showLeaders) show();
  showPanels();
}

/** Feeds that may need a key are polled when it is known whether they do. */
let started = false;
function startClosed() {
  started = true;
  for (const feed of feeds) if (![health, ready, leaders].includes(feed)) feed.poll();
}

for (const feed of [health, ready, leaders]) feed.poll();
// Ages change without new data.
setInterval(() => {
  showPanels();
  if (!document.hidden) showMiner();
}, SECOND);
showAll();
