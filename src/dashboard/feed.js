// Asking the node: one request in flight per feed, a time-out for each, slower where nobody looks, and never against a
// refusal's Retry-After. What a feed heard stays until it hears something newer; the page says how old that is.

const TIMEOUT = 5 * SECOND;
/** While the page is hidden, everything is asked this much more seldom. */
const HIDDEN = 10;

/** The API key. It lives here and in no storage, URL or element. */
let key = null;
const feeds = [];
/** Called when a key that opened something opens nothing any more. */
let keyRefused = () => {};

/** Why there is no answer: `gone` (no connection, no answer in time), or `refused` with a status. */
class Trouble extends Error {
  constructor(kind, text, status = 0, code = "", wait = 0) {
    super(text);
    Object.assign(this, { kind, status, code, wait });
  }
}

/** One GET of JSON, or of another type as text. */
async function ask(path, { accept = "application/json", open = false, withKey = key } = {}) {
  const headers = { Accept: accept }, as = accept.endsWith("json") ? "json" : "text";
  if (withKey && !open) headers["X-API-Key"] = withKey;
  let response, body;
  try {
    response = await fetch(path, {
      headers, credentials: "omit", redirect: "error", referrerPolicy: "no-referrer", signal: AbortSignal.timeout(TIMEOUT),
    });
    body = response.ok ? await response[as]() : await response.json().catch(() => ({}));
  } catch (error) {
    throw new Trouble("gone", error.name === "TimeoutError" ? "no answer within 5 s" : "no connection");
  }
  if (response.ok) return body;
  const wait = Number(response.headers.get("Retry-After")) || 0;
  throw new Trouble("refused", String(body.detail ?? `status ${response.status}`), response.status, String(body.code ?? ""), wait * SECOND);
}

class Feed {
  /** `read` asks for the feed's data; it returns `undefined` where there is nothing to ask now. */
  constructor(name, every, read) {
    Object.assign(this, { name, every, read });
    this.forget();
    feeds.push(this);
  }

  /** As if nothing had ever been heard. An answer that is under way will not count. */
  forget() {
    clearTimeout(this.timer);
    this.turn = (this.turn ?? 0) + 1;
    Object.assign(this, { data: undefined, at: 0, trouble: null, busy: false, next: 0 });
  }

  /** Asks now, unless an answer is awaited or a refusal told to wait. */
  async poll() {
    clearTimeout(this.timer);
    if (this.busy || performance.now() < this.next) return this.later();
    const turn = this.turn;
    this.busy = true;
    const { sent, data, trouble } = await this.once();
    // Somebody forgot this feed meanwhile: the answer is to another question.
    if (turn !== this.turn) return;
    this.busy = false;
    if (trouble) {
      this.trouble = trouble;
      this.next = performance.now() + trouble.wait;
      // That starts every feed anew, this one too.
      if (trouble.status === 401 && sent !== null && sent === key) return keyRefused(trouble);
    } else if (data !== undefined) {
      Object.assign(this, { data, at: performance.now(), trouble: null });
    }
    // What is heard may change how often it is asked for.
    changed(this);
    // Who was refused for want of a key has to be given one first; that starts the feed anew.
    if (turn === this.turn && ![401, 403].includes(this.trouble?.status)) this.later();
  }

  async once() {
    const sent = key;
    try {
      return { sent, data: await this.read() };
    } catch (error) {
      if (error instanceof Trouble) return { sent, trouble: error };
      throw error;
    }
  }

  later() {
    clearTimeout(this.timer);
    const pause = this.every * (document.hidden ? HIDDEN : 1);
    this.timer = setTimeout(() => this.poll(), Math.max(pause, this.next - performance.now()));
  }

  restart() {
    this.forget();
    this.poll();
  }

  /** Milliseconds since the last answer. */
  get age() {
    return this.at ? performance.now() - this.at : Infinity;
  }

  /** Whether what is shown is older than it should be. */
  get isStale() {
    return this.at > 0 && this.age > 2.5 * this.every + TIMEOUT;
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  for (const feed of feeds) if (feed.at && feed.age > feed.every) feed.poll();
});
