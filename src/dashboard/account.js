// The wallet, its balance and ledger; then the start.

function showLedger() {
  const now = ledger.data, balance = now?.credits ?? (own() ? holder.credits : null);
  by("balance-box").hidden = balance === null;
  set("balance", credits(balance));
  const made = (now?.entries ?? []).map(({ id, reason, amount, balance, created_at }) => make("tr", { "data-id": id },
    make("th", { scope: "row" }, reason, make("time", { datetime: created_at, class: "quiet" }, dayClock.format(new Date(created_at)))),
    make("td", { class: amount < 0 ? "out" : "in" }, `${amount < 0 ? "−" : "+"}${credits(Math.abs(amount))}`, make("span", { class: "quiet" }, credits(balance)))));
  const body = by("entries").tBodies[0], same = (row, i) => row.isEqualNode(body.rows[i]);
  if (made.length !== body.rows.length || !made.every(same)) body.replaceChildren(...made);
}

/** Whether the reader is about to name another wallet. */
let choosing = false;
/** Wallets offered: those whose miners reported, and those that earned. */
let known = [];
const OTHER = "other";

function showAccount() {
  const gated = leaders.trouble?.status === 401 && key === null;
  document.body.toggleAttribute("data-gated", gated);
  set("account-title", gated ? "For holders of a key" : "Wallet");
  by("gated-hint").hidden = !gated;
  by("sign-in").hidden = key !== null;
  by("keplr-form").hidden = !window.keplr;
  by("key-box").hidden = key === null;
  by("wallet").hidden = !wallet();
  set("wallet", wallet());
  // A wallet's key identifies its wallet.
  const given = gated || Boolean(holder?.wallet_address);
  by("wallet-form").hidden = given || Boolean(wallet() && !choosing);
  const offered = wallet() && !known.includes(wallet()) ? [wallet(), ...known] : known;
  by("wallet-choice").hidden = given || !wallet() || choosing || offered.length < 2;
  by("wallet-other").hidden = given || !wallet() || choosing || offered.length > 1;
  const options = [...offered.map((address) => make("option", { value: address }, `${address.slice(0, 12)}…${address.slice(-6)}`)), make("option", { value: OTHER }, "Another wallet…")];
  const choice = by("wallet-select"), isSame = options.length === choice.options.length && options.every((option, i) => option.value === choice.options[i].value);
  if (!isSame) choice.replaceChildren(...options);
  if (choice.value !== wallet()) choice.value = wallet();
  if (holder) set("key-about", `Key ${holder.key.id.slice(0, 12)}… · ${holder.key.scopes.join(", ")}${holder.key.expires_at ? ` · until ${dayClock.format(new Date(holder.key.expires_at))}` : ""}`);
  showLedger();
}

function showKnown() {
  const before = wallet(), reported = (network.data?.wallets ?? []).filter(asWallet);
  const earned = leaders.data?.miners.map((row) => row.wallet_address) ?? [];
  known = [...new Set([...reported, ...earned])];
  usual = reported[0] ?? (earned.length === 1 ? earned[0] : "");
  const listed = by("wallets"), isSame = known.length === listed.children.length && known.every((address, i) => address === listed.children[i].value);
  if (!isSame) listed.replaceChildren(...known.map((address) => make("option", { value: address })));
  // A miner that begins to report is on it soon.
  leaders.every = network.every = wallet() ? MINUTE : 10 * SECOND;
  if (wallet() !== before) turnTo();
}

/** Another wallet: drops the data of the previous one. */
function turnTo() {
  for (const feed of walletFeeds) feed.restart();
  showAll();
}

function nameWallet(address) {
  [named, choosing] = [address, false];
  history.replaceState(null, "", `#${address}`);
  turnTo();
}

by("wallet-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = asWallet(by("wallet-field").value.trim());
  set("wallet-problem", text ? "" : "A wallet is remes1 and 38 characters.");
  if (text) nameWallet(text);
});

addEventListener("hashchange", () => {
  named = asWallet(location.hash.slice(1));
  turnTo();
});

function chooseOther() {
  choosing = true;
  showAccount();
  by("wallet-field").focus();
}

by("wallet-other").addEventListener("click", chooseOther);
by("wallet-select").addEventListener("change", ({ target }) => target.value === OTHER ? chooseOther() : nameWallet(target.value));

by("ranges").addEventListener("change", (event) => {
  range = event.target.value;
  hashrate.every = RANGES[range].every;
  hashrate.restart();
  mined.restart();
  showEarnings();
});

const shows = {
  health: [showUpstreams], chain: [showUpstreams], alerts: [showAlerts], metrics: [showMetrics], leaders: [showKnown, showAccount],
  network: [showKnown, showAccount], miner: [showMiner], workers: [showWorkers], hashrate: [showHashrate], earnings: [showEarnings],
  mined: [showEarnings], ledger: [showAccount], models: [showModels], usage: [showOwnUsage], keys: [showOwnKeys],
};

function changed(feed) {
  for (const show of shows[feed.name] ?? []) show();
  if (feed === leaders && !started && feed.trouble?.status !== 401) startClosed();
  showPanels();
}

function showPanels() {
  showStatus();
  panels.forEach(showPanel);
}

function showAll() {
  for (const show of new Set(Object.values(shows).flat())) if (show !== showKnown) show();
  showPanels();
}

/** Feeds that may need a key are polled when it is known whether they do. */
const openFeeds = [health, ready, leaders];
function startClosed() {
  started = true;
  for (const feed of feeds) if (!openFeeds.includes(feed)) feed.poll();
}

for (const feed of openFeeds) feed.poll();
// Ages change without new data.
setInterval(() => {
  showPanels();
  if (!document.hidden) showMiner();
}, SECOND);
showAll();
const remembered = tabStorage()?.getItem(STORED);
if (remembered) resume(remembered);
