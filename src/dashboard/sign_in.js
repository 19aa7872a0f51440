// Signing in: by a key, or by a wallet whose extension signs a challenge (ADR-036). The key stays in this page's memory, or in
// the tab's storage if that was asked for.

const STORED = `r3mes-edge key of ${location.pathname}`;

/** The tab's storage, unless the browser denies it. */
function tabStorage() {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}

/** Another key, or none: every response may differ. */
function useKey(text, me) {
  [key, holder] = [text, me];
  rates.polls = [];
  started = true;
  unanswered.clear();
  for (const feed of feeds) if (feed !== health && feed !== ready) feed.restart();
  showAll();
  for (const listener of keyListeners) listener(me);
}

function forgetKey() {
  tabStorage()?.removeItem(STORED);
  useKey(null, null);
}

keyRefused = (trouble) => {
  forgetKey();
  set("key-problem", `The key opens nothing any more: ${trouble.message}.`);
};

/** Uses a key that the node accepts, and remembers it if that is wanted. */
async function signIn(text) {
  const me = await ask("/auth/me", { withKey: text });
  if (by("remember").checked) tabStorage()?.setItem(STORED, text);
  const focused = by("sign-in").contains(document.activeElement);
  useKey(text, me);
  if (focused) by("key-forget").focus();
}

/** The key of this tab from before a reload; asked again while the node does not answer. */
async function resume(text) {
  try {
    const me = await ask("/auth/me", { withKey: text });
    by("remember").checked = true;
    if (key === null) useKey(text, me);
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    if (error.status !== 401) return setTimeout(() => key === null && resume(text), 2 * SECOND);
    tabStorage()?.removeItem(STORED);
    set("key-problem", `The remembered key opens nothing any more: ${error.message}.`);
  }
}

const problemOf = (error) => error.kind === "gone" ? "The node does not answer; try again in a moment." : `Not accepted: ${error.message}.`;

by("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = by("key-field"), text = field.value.trim();
  set("key-problem", text ? "" : "Paste a key first.");
  if (!text) return;
  try {
    await signIn(text);
    field.value = "";
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    set("key-problem", problemOf(error));
  }
});

by("key-forget").addEventListener("click", () => {
  forgetKey();
  by("key-field").focus();
});

by("remember").addEventListener("change", ({ target }) => { if (!target.checked) tabStorage()?.removeItem(STORED); });

// Keplr.

/** The id of the chain whose addresses are wallets: as the node's chain reports it, else as Keplr knows it. */
async function chainId(keplr) {
  if (chain.data?.network) return String(chain.data.network);
  const found = (await keplr.getChainInfosWithoutEndpoints?.() ?? []).find((info) => info.bech32Config?.bech32PrefixAccAddr === "remes");
  if (!found) throw new Error("it knows no chain with remes1 addresses, and no chain answers this node");
  return found.chainId;
}

/** Has Keplr sign the node's challenge; returns the access token. */
async function signChallenge() {
  const { keplr } = window, id = await chainId(keplr);
  await keplr.enable(id);
  const { bech32Address: address } = await keplr.getKey(id);
  if (!asWallet(address)) throw new Error(`its account on ${id} is ${address}, not a wallet of remes1`);
  const { message } = await send("POST", "/login/challenge", { wallet_address: address });
  const { pub_key, signature } = await keplr.signArbitrary(id, address, message);
  return (await send("POST", "/login", { wallet_address: address, message, pub_key: pub_key.value, signature })).access_token;
}

by("keplr-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = by("keplr-button");
  set("key-problem", "");
  button.disabled = true;
  try {
    await signIn(await signChallenge());
  } catch (error) {
    set("key-problem", error instanceof Trouble ? problemOf(error) : `Keplr: ${error.message ?? error}.`);
  } finally {
    button.disabled = false;
  }
});
