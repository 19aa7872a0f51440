// Prints an audit (`audit list --json` on the standard input), oldest first: action, target, amount and reason of each change.
// Ids, and names with a time in them, differ by nature: they are numbered in the order in which they come.
import { readFileSync } from "node:fs";

const known = new Map();
const numbered = (text) => text.replace(/key_[0-9A-Z]{26}|[^"\s]+\.backup(?=")/g, (id) => {
  if (!known.has(id)) known.set(id, `${id.startsWith("key_") ? "key" : "backup"} ${known.size + 1}`);
  return known.get(id);
});
const { entries } = JSON.parse(readFileSync(0, "utf8"));
for (const { action, target, amount, reason } of entries.toReversed()) console.log(numbered(JSON.stringify([action, target, amount, reason])));
