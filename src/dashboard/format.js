// Formats numbers and times for people; independent of the page.

const plain = (most, least = 0) => new Intl.NumberFormat("en", { maximumFractionDigits: most, minimumFractionDigits: least });
const whole = plain(0), tenths = plain(1), hundredths = plain(2), micro = plain(6);
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const clockSeconds = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayMonth = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const dayClock = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const utcDay = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });

const SECOND = 1000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
const none = "–";

/** A sum of credits without the error of floats: they have at most six decimals. */
const exact = (number) => Math.round(number * 1e6) / 1e6;

/** All decimals of credits are shown. */
const credits = (number) => number == null ? none : micro.format(number);

/** H/s get an SI prefix; other units are shown as reported. */
function hashrateIn(unit, most) {
  if (unit !== "H/s" || !(most >= 1000)) return { factor: 1, name: unit ?? "" };
  const power = Math.min(5, Math.floor(Math.log10(most) / 3));
  return { factor: 1000 ** -power, name: " kMGTP"[power] + "H/s" };
}

/** A span of milliseconds, in its two largest units at most. */
function span(ms) {
  const s = Math.max(0, Math.round(ms / SECOND));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

/** How long something has lasted. */
const lasting = (ms) => ms < 1500 ? "a moment" : span(ms);

/** How long ago something was; small clock differences are ignored. */
const ago = (ms) => ms < 1500 ? "just now" : `${span(ms)} ago`;

/** A time in seconds, to about two digits. */
function seconds(s) {
  if (s == null || Number.isNaN(s)) return none;
  if (s < 0.001) return "under 1 ms";
  if (s < 1) return `${whole.format(s * 1000)} ms`;
  return `${(s < 10 ? tenths : whole).format(s)} s`;
}

const share = (part, all) => all > 0 ? `${(part > 0 && part / all < 0.1 ? tenths : whole).format(100 * part / all)} %` : none;
const count = (number, one, more = `${one}s`) => number === 0 ? `no ${one}` : `${whole.format(number)} ${number === 1 ? one : more}`;
const sentence = (text) => text ? text[0].toUpperCase() + text.slice(1) : "";
