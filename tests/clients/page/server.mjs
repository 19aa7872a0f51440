// Servers of a test's own: a stand-in for a model, a server over a fresh database, and a relay before it whose address stays
// while the server is started again.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import http from "node:http";

/** A model that answers in OpenAI's form, with its usage. */
export async function model(names) {
  const answers = {
    "/v1/models": { object: "list", data: names.map((id) => ({ id, object: "model" })) },
    "/v1/chat/completions": {
      id: "1", object: "chat.completion", created: 1, model: names[0], choices: [{ index: 0, finish_reason: "stop", message: { role: "assistant", content: "Hello." } }],
      usage: { prompt_tokens: 12, completion_tokens: 3, total_tokens: 15 },
    },
  };
  const server = http.createServer(async (request, response) => {
    for await (const _ of request);
    const answer = answers[request.url];
    response.writeHead(answer ? 200 : 404, { "content-type": "application/json" }).end(JSON.stringify(answer ?? {}));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { url: `http://127.0.0.1:${server.address().port}`, close: () => server.closeAllConnections() ?? server.close() };
}

/** A server's configuration: one node named `node`, no rates, everything at port 0. */
export function configured(folder, url, more = "") {
  const rates = ["auth", "chat", "write", "telemetry", "read", "health", "failures", "page", "refused"];
  writeFileSync(`${folder}/edge.toml`, `listen = "127.0.0.1:0"\ndiscover = false\n[rates]\n${rates.map((rate) => `${rate} = "off"\n`).join("")}[[inference]]\nname = "node"\nkind = "openai"\nurl = "${url}"\n${more}`);
}

export class Server {
  constructor(binary, folder) {
    Object.assign(this, { binary, folder, database: `${folder}/edge.db` });
  }

  async start() {
    const options = ["--config", `${this.folder}/edge.toml`, "--database", this.database];
    const lock = `${this.database}.lock`, before = existsSync(lock) ? readFileSync(lock, "utf8") : "";
    this.process = spawn(this.binary, options, { stdio: ["ignore", "ignore", "pipe"] });
    process.once("exit", () => this.process.kill("SIGKILL"));
    this.log = "";
    this.process.stderr.on("data", (text) => { this.log += text; });
    for (let tries = 0; tries < 200; tries++) {
      // A server that was killed leaves its address behind.
      const address = existsSync(lock) ? readFileSync(lock, "utf8").trim() : "";
      if (address && address !== before.trim() && await fetch(`${address}/livez`).then((answer) => answer.ok, () => false)) {
        this.url = address;
        this.admin = readFileSync(`${this.database}.admin-key`, "utf8").trim();
        return;
      }
      assert.equal(this.process.exitCode, null, this.log);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.fail(`the server does not serve: ${this.log}`);
  }

  async stop(signal = "SIGTERM") {
    const ended = once(this.process, "exit");
    this.process.kill(signal);
    await ended;
  }
}

/** With DASHBOARD, a folder like src/dashboard, a file of the page as it is there: what was edited shows without a build. */
function fromFolder(url) {
  const { DASHBOARD: folder } = process.env;
  const name = { "/": "page.html", "/page.css": "page.css", "/page.js": "" }[url];
  if (!folder || name === undefined) return null;
  const parts = name ? [name] : readFileSync(`${folder}/../handlers/dashboard.rs`, "utf8").match(/[\w-]+\.js(?="\))/g);
  return parts.map((part) => readFileSync(`${folder}/${part}`, "utf8")).join("");
}

/** A wallet for a number: bech32 of 20 bytes that end with it. */
export function walletOf(number) {
  const letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l", prefix = "remes";
  const words = Array.from({ length: 32 }, (_, i) => Number((BigInt(number) >> BigInt(5 * (31 - i))) & 31n));
  const known = [...prefix].map((letter) => letter.charCodeAt(0));
  let sum = 1;
  for (const word of [...known.map((code) => code >> 5), 0, ...known.map((code) => code & 31), ...words, 0, 0, 0, 0, 0, 0]) {
    const top = sum >>> 25;
    sum = ((sum & 0x1ffffff) << 5) ^ word;
    [0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3].forEach((generator, bit) => { if ((top >> bit) & 1) sum ^= generator; });
  }
  const checksum = Array.from({ length: 6 }, (_, i) => ((sum ^ 1) >>> (5 * (5 - i))) & 31);
  return `${prefix}1${[...words, ...checksum].map((word) => letters[word]).join("")}`;
}

/** Passes every request on. `lost(request)` is awaited before an answer is given; where it returns true, the connection ends instead. */
export class Relay {
  lost = async () => false;

  async start(target) {
    this.target = target;
    this.server = http.createServer((request, response) => {
      const { method, url, headers } = request;
      const passed = http.request(new URL(url, this.target), { method, headers, agent: false }, async (answer) => {
        if (await this.lost(request)) return response.destroy();
        const own = fromFolder(url);
        if (own !== null) {
          delete answer.headers["content-length"];
          response.writeHead(answer.statusCode, answer.headers).end(own);
          return answer.resume();
        }
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      });
      passed.on("error", () => response.destroy());
      request.pipe(passed);
    });
    this.server.listen(0, "127.0.0.1");
    await once(this.server, "listening");
    this.url = `http://127.0.0.1:${this.server.address().port}`;
  }

  stop() {
    this.server.closeAllConnections();
    this.server.close();
  }
}
