// A paid chat with a model of the node, streamed. The conversation is in this page's memory only.

/** The messages so far, as the API takes them. */
let conversation = [];
/** Ends the answer that is being received, if one is. */
let stopAnswer = null;

function priceOf({ price }) {
  if (!price) return "";
  const parts = [
    price.request > 0 && `${credits(price.request)} ${price.request === 1 ? "credit" : "credits"} a request`,
    (price.prompt > 0 || price.completion > 0) && `${credits(price.prompt)} and ${credits(price.completion)} credits a million tokens of prompt and answer`,
  ].filter(Boolean);
  return parts.join(", ") || "free";
}

function showModels() {
  by("chat-box").hidden = own() === "";
  const now = chatModels.data ?? [], select = by("chat-model"), chosen = select.value;
  const options = now.map(({ id }) => make("option", { value: id }, id));
  const isSame = options.length === select.options.length && options.every((option, i) => option.value === select.options[i].value);
  if (!isSame) {
    select.replaceChildren(...options);
    if (now.some(({ id }) => id === chosen)) select.value = chosen;
  }
  const model = now.find(({ id }) => id === select.value);
  set("chat-price", model ? sentence(`${priceOf(model)}.`) : chatModels.data ? "This node serves no model at the moment." : "");
  by("chat-send").disabled = !model || stopAnswer !== null;
}

/** The data of each event of a stream. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** A message of the conversation on the page. */
function addMessage(who, text = "") {
  const words = make("p", { class: "words" }, text);
  const message = make("div", { class: `message-of ${who}` }, make("span", { class: "quiet who" }, who === "user" ? "You" : by("chat-model").value), words);
  by("chat-log").append(message);
  by("chat-log").hidden = false;
  return { message, words };
}

/** Reads an answer into the page. Returns its text, its cost if the node named it, and how it ended. */
async function receive(response, words) {
  const log = by("chat-log"), read = { text: "", cost: null, problem: "the connection ended before the answer did" };
  const show = (part, text) => {
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    part.append(text);
    if (isAtEnd) log.scrollTop = log.scrollHeight;
  };
  let thoughts = null;
  try {
    for await (const data of eventsOf(response)) {
      if (data === "[DONE]") return { ...read, problem: "" };
      const event = JSON.parse(data), delta = event.choices?.[0]?.delta ?? {};
      if (event.error) return { ...read, problem: String(event.error.message ?? "the model's server failed") };
      read.cost = event.usage?.cost ?? read.cost;
      const thought = delta.reasoning_content ?? delta.reasoning;
      if (thought) {
        if (!thoughts) words.before(thoughts = make("p", { class: "words quiet" }));
        show(thoughts, String(thought));
      }
      if (delta.content) {
        read.text += delta.content;
        show(words, String(delta.content));
      }
    }
  } catch {
    // The connection broke, or the reader stopped the answer: as `problem` has it.
  }
  return read;
}

/** What an answer cost that did not end by itself: the ledger's entry of its request, which is written soon after. */
async function chargeOf(requestId) {
  if (!requestId || !hasScope("read")) return null;
  for (let attempt = 0; attempt < 5; attempt++) {
    await new Promise((resolve) => setTimeout(resolve, 400));
    const { entries } = await ask(`/users/${own()}/ledger?limit=20`);
    const entry = entries.find(({ detail }) => detail?.request_id === requestId);
    if (entry) return -entry.amount;
  }
  return null;
}

/** Sends the conversation with a new message; shows the answer, and what it cost. */
async function converse(text) {
  const sent = key, control = new AbortController(), model = by("chat-model").value;
  const body = { model, stream: true, stream_options: { include_usage: true }, messages: [...conversation, { role: "user", content: text }] };
  stopAnswer = () => control.abort();
  const question = addMessage("user", text), answer = addMessage("assistant");
  set("chat-state", "Waiting for the model…");
  set("chat-problem", "");
  showTurn();
  let read = null, id = null;
  try {
    const headers = { Accept: "text/event-stream", "Content-Type": "application/json" };
    read = await request("/v1/chat/completions", (response) => {
      id = response.headers.get("X-Request-Id");
      set("chat-state", "Receiving…");
      return receive(response, answer.words);
    }, { method: "POST", headers, body: JSON.stringify(body), signal: control.signal });
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    if (key !== sent) return;
    // Nothing came: the message can be sent again as it is.
    for (const { message } of [question, answer]) message.remove();
    by("chat-log").hidden = conversation.length === 0;
    by("chat-text").value ||= text;
    const again = error.wait ? ` Try again in ${span(error.wait)}.` : "";
    set("chat-problem", control.signal.aborted ? "" : error.kind === "gone" ? "The node does not answer; nothing was received." : `${sentence(error.message)}.${again}`);
    set("chat-state", control.signal.aborted ? "Stopped before an answer came." : "");
  } finally {
    stopAnswer = null;
    showTurn();
  }
  // Another key is used meanwhile: its balance is not of this chat.
  if (read && key === sent) await conclude(read, { text, answer, id, wasStopped: control.signal.aborted });
}

async function conclude({ text: received, cost, problem }, { text, answer, id, wasStopped }) {
  if (received) conversation.push({ role: "user", content: text }, { role: "assistant", content: received });
  const ended = wasStopped ? "Stopped." : problem ? "Broken off." : "";
  if (problem) answer.message.append(make("p", { class: wasStopped ? "quiet" : "problem" }, wasStopped ? "Stopped here." : `Broken off: ${problem}.`));
  if (!problem && !received) answer.words.append(make("em", { class: "quiet" }, "The answer has no text."));
  const state = (...parts) => set("chat-state", [ended, ...parts].filter(Boolean).join(" "));
  state("Asking for the balance…");
  try {
    const paid = cost ?? await chargeOf(id), me = await ask("/auth/me");
    holder = me;
    showAccount();
    state(paid === null ? "" : paid > 0 ? `Charged ${credits(paid)} ${paid === 1 ? "credit" : "credits"};` : "Nothing was charged;", `balance ${credits(me.credits)}.`);
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    state("The balance is not known: the node does not answer.");
  }
  for (const feed of [ledger, ownUsage]) feed.poll();
}

function showTurn() {
  const isBusy = stopAnswer !== null;
  by("chat-stop").hidden = !isBusy;
  by("chat-clear").hidden = isBusy || by("chat-log").hidden;
  // Read as a whole when it is there, not word by word.
  by("chat-log").ariaBusy = String(isBusy);
  showModels();
}

by("chat-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = by("chat-text"), text = field.value.trim();
  if (!text || stopAnswer || by("chat-send").disabled) return;
  field.value = "";
  converse(text);
});

by("chat-text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  by("chat-form").requestSubmit();
});

by("chat-model").addEventListener("change", showModels);
by("chat-stop").addEventListener("click", () => {
  stopAnswer?.();
  by("chat-text").focus();
});

function clearChat() {
  conversation = [];
  by("chat-log").replaceChildren();
  by("chat-log").hidden = true;
  for (const id of ["chat-state", "chat-problem"]) set(id, "");
  showTurn();
}

by("chat-clear").addEventListener("click", () => {
  clearChat();
  by("chat-text").focus();
});

// A conversation belongs to the wallet that paid for it.
onKey(() => {
  stopAnswer?.();
  clearChat();
});
