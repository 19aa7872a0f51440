// Polls the node: one request in flight per feed, each with a time-out, less often while the page is hidden, and never
// before a Retry-After has passed. A feed's data stays until newer data arrives; the page shows their age.

const TIMEOUT = 5 * SECOND;
/** How many times longer the polling interval is while the page is hidden. */
const HIDDEN = 10;

/** The API key: never in a URL or an element, and in the tab's storage only if that was asked for. */
let key = null;
const feeds = [];
/** Called when a key that was valid is refused. */
let keyRefused = () => {};

/** Why a request failed: `gone` (no connection, or timed out), or `refused` with a status. */
class Trouble extends Error {
  constructor(kind, text, status = 0, code = "", wait = 0) {
    super(text);
    Object.assign(this, { kind, status, code, wait });
  }
}

/** A route's address relative to the page's folder: a proxy may serve the page below a path prefix. */
const at = (path) => `.${path}`;

/** Sends a request and reads its response with `read` if it is a success; else throws `Trouble`. */
async function request(path, read, { withKey = key, headers = {}, timeout = TIMEOUT, signal = AbortSignal.timeout(timeout), ...rest } = {}) {
  let response, problem;
  try {
    response = await fetch(at(path), {
      ...rest, headers: { ...headers, ...(withKey && { "X-API-Key": withKey }) }, signal,
      credentials: "omit", redirect: "error", referrerPolicy: "no-referrer",
    });
    if (response.ok) return await read(response);
    problem = await response.json().catch(() => ({}));
  } catch (error) {
    throw new Trouble("gone", error.name === "TimeoutError" ? `no answer within ${span(timeout)}` : "no connection");
  }
  const wait = Number(response.headers.get("Retry-After")) || 0;
  throw new Trouble("refused", String(problem.detail ?? `status ${response.status}`), response.status, String(problem.code ?? ""), wait * SECOND);
}

/** One GET of JSON, or of another type as text. */
function ask(path, { accept = "application/json", open = false, withKey = key } = {}) {
  const as = accept.endsWith("json") ? "json" : "text";
  return request(path, (response) => response[as](), { headers: { Accept: accept }, withKey: open ? null : withKey });
}

class Feed {
  /** `read` fetches the feed's data, or returns `undefined` if there is nothing to fetch now. */
  constructor(name, every, read) {
    Object.assign(this, { name, every, read });
    this.forget();
    feeds.push(this);
  }

  /** Clears all data. The response to a request in flight will be ignored. */
  forget() {
    clearTimeout(this.timer);
    this.turn = (this.turn ?? 0) + 1;
    Object.assign(this, { data: undefined, at: 0, trouble: null, busy: false, next: 0 });
  }

  /** Polls now, unless a request is in flight or a Retry-After has not passed. */
  async poll() {
    clearTimeout(this.timer);
    if (this.busy || performance.now() < this.next) return this.later();
    const turn = this.turn;
    this.busy = true;
    const { sent, data, trouble } = await this.fetch();
    // The feed was cleared meanwhile: the response is out of date.
    if (turn !== this.turn) return;
    this.busy = false;
    if (trouble) {
      this.trouble = trouble;
      this.next = performance.now() + trouble.wait;
      // This restarts every feed, this one too.
      if (trouble.status === 401 && sent !== null && sent === key) return keyRefused(trouble);
    } else if (data !== undefined) {
      Object.assign(this, { data, at: performance.now(), trouble: null });
    }
    // The data may change the polling interval.
    changed(this);
    // Without a valid key polling is pointless; a new key restarts the feed.
    if (turn === this.turn && ![401, 403].includes(this.trouble?.status)) this.later();
  }

  async fetch() {
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

  /** Whether the data is older than it should be. */
  get isStale() {
    return this.at > 0 && this.age > 2.5 * this.every + TIMEOUT;
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  for (const feed of feeds) {
    if (!feed.at) continue;
    if (feed.age > feed.every) feed.poll();
    else feed.later();
  }
});
