// A chart over time: a line with its band, or bars. It is read by pointer, by arrow keys, by screen readers (as a slider
// whose value is the point), and as a table.

const SVG = "http://www.w3.org/2000/svg";
const STEPS = [MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 5 * DAY, 10 * DAY];
/** The width of a bar at most. */
const WIDEST_BAR = 48;
/** Rows of the table at most; more points are put together. */
const MOST_ROWS = 60;

function make(name, attributes = {}, ...inside) {
  const element = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  element.append(...inside);
  return element;
}

/** Round numbers that enclose two others, four or five of them. */
function scale(low, high) {
  const step = [1, 2, 2.5, 5, 10].map((n) => n * 10 ** Math.floor(Math.log10((high - low) / 4)));
  const fits = step.find((s) => (high - low) / s <= 4.01) ?? step.at(-1);
  const [first, last] = [Math.floor(low / fits + 1e-9), Math.ceil(high / fits - 1e-9)];
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * fits);
}

/** Merges points into at most `most` buckets of equal length. */
function downsample(points, most, from, to) {
  if (points.length <= most) return points;
  const length = (to - from) / most, buckets = new Map();
  for (const point of points) {
    const column = Math.floor((point.at - from) / length), bucket = buckets.get(column);
    if (!bucket) buckets.set(column, { ...point, sum: point.value, count: 1 });
    else {
      bucket.sum += point.value;
      bucket.count += 1;
      bucket.value = bucket.sum / bucket.count;
      bucket.min = Math.min(bucket.min, point.min);
      bucket.max = Math.max(bucket.max, point.max);
    }
  }
  return [...buckets.values()];
}

class Chart {
  /** `bars` or a line; `name` names its values; `reading` is the element that shows the selected point. */
  constructor(box, { bars = false, name, reading }) {
    Object.assign(this, { box, bars, name, reading, at: null, shown: null, width: 0 });
    this.plot = make("div", { class: bars ? "plot bars" : "plot" });
    this.more = make("details", {}, make("summary", {}, "As a table"));
    box.append(this.plot, this.more);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.choose(null));
    this.plot.addEventListener("blur", () => this.choose(null));
    this.plot.addEventListener("focus", () => this.at == null && this.choose(this.points.length - 1));
    this.plot.addEventListener("keydown", (event) => this.key(event));
    this.more.addEventListener("toggle", () => this.table());
    new ResizeObserver(([entry]) => {
      const [width, height] = [entry.contentRect.width, entry.contentRect.height].map(Math.round);
      if (width === this.width && height === this.height) return;
      Object.assign(this, { width, height });
      if (this.shown && width) this.draw();
    }).observe(this.plot);
  }

  get points() {
    return this.drawn ?? [];
  }

  /**
   * `points` of `{at, until?, value, min, max}`, oldest first, within `from` and `to`; `value`, `time` and `tick` write
   * them; `summary` says it all in a sentence, `note` stands where no point is chosen, `empty` where there is none.
   */
  show(shown) {
    this.shown = shown;
    if (this.width) this.draw();
    this.table();
  }

  draw() {
    const { points, from, to, value, summary, empty } = this.shown;
    const { width, height } = this;
    const drawn = this.drawn = downsample(points, Math.max(30, Math.floor(width / 3)), from, to);
    this.plot.replaceChildren();
    this.plot.classList.toggle("empty", drawn.length === 0);
    if (drawn.length === 0) {
      for (const name of ["role", "tabindex", "aria-label", "aria-valuemin", "aria-valuemax", "aria-valuenow", "aria-valuetext"]) this.plot.removeAttribute(name);
      this.plot.append(make("p", { class: "nothing quiet" }, empty));
      return;
    }
    let low = Math.min(...drawn.map((p) => p.min)), high = Math.max(...drawn.map((p) => p.max));
    if (this.bars || low < high / 3) low = 0;
    // What hardly moves is drawn as hardly moving.
    const pad = Math.max(0, 0.2 * high - (high - low)) / 2;
    [low, high] = [Math.max(0, low - pad), high + pad || 1];
    const levels = scale(low, high);
    [low, high] = [levels[0], levels.at(-1)];
    const labels = levels.map((level) => value(level, true));
    const left = 10 + 7 * Math.max(...labels.map((label) => label.length)), right = 10, top = 8, bottom = 24;
    this.x = (at) => left + (width - left - right) * (at - from) / (to - from);
    this.y = (level) => top + (height - top - bottom) * (high - level) / (high - low);
    const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
    levels.forEach((level, i) => svg.append(
      make("svg:line", { class: i === 0 ? "base" : "grid", x1: left, x2: width - right, y1: this.y(level), y2: this.y(level) }),
      make("svg:text", { x: left - 8, y: this.y(level) + 4, "text-anchor": "end" }, labels[i]),
    ));
    this.times(svg, width - left - right, height);
    if (this.bars) this.drawBars(svg, drawn);
    else this.drawLine(svg, drawn);
    this.rule = make("svg:line", { class: "rule", y1: top, y2: height - bottom, visibility: "hidden" });
    this.dot = make("svg:circle", { class: "dot", r: 4, visibility: "hidden" });
    svg.append(this.rule, this.dot);
    this.plot.append(svg);
    for (const [name, set] of Object.entries({ role: "slider", tabindex: 0, "aria-label": `${this.name}: ${summary}`, "aria-valuemin": 0, "aria-valuemax": drawn.length - 1 })) this.plot.setAttribute(name, set);
    this.choose(this.at == null ? null : this.nearest(this.at));
  }

  /** Labels of the time axis, at whole hours or days in the browser's time zone, or in UTC. */
  times(svg, width, height) {
    const { points, from, to, tick, utc } = this.shown;
    // No bar has two labels.
    const least = this.bars ? points[0].until - points[0].at : 0;
    const step = STEPS.find((step) => step >= least && width * step / (to - from) >= 56) ?? STEPS.at(-1);
    const zone = utc ? 0 : new Date(to).getTimezoneOffset() * MINUTE;
    for (let at = Math.ceil((from - zone) / step) * step + zone; at <= to; at += step) {
      const x = this.x(at + (this.bars && step >= DAY ? DAY / 2 : 0));
      if (x < this.x(from) + 14 || x > this.x(to) - 14) continue;
      svg.append(make("svg:text", { x, y: height - 6, "text-anchor": "middle" }, tick(at, step)));
    }
  }

  drawLine(svg, points) {
    let run = [];
    // Where samples usually come by the minute, three minutes without one are a time without a miner.
    const apart = points.slice(1).map((point, i) => point.at - points[i].at).sort((a, b) => a - b);
    const gap = Math.max(3 * (apart[apart.length >> 1] ?? 0), 90 * SECOND);
    const flush = () => {
      if (run.length === 1) svg.append(make("svg:circle", { class: "line", r: 1.5, cx: this.x(run[0].at), cy: this.y(run[0].value) }));
      if (run.length > 1) {
        const at = (level) => (p) => `${this.x(p.at).toFixed(1)},${this.y(p[level]).toFixed(1)}`;
        svg.append(
          make("svg:path", { class: "band", d: `M${run.map(at("max")).join("L")}L${run.toReversed().map(at("min")).join("L")}Z` }),
          make("svg:path", { class: "line", d: `M${run.map(at("value")).join("L")}` }),
        );
      }
      run = [];
    };
    for (const point of points) {
      if (run.length && point.at - run.at(-1).at > gap) flush();
      run.push(point);
    }
    flush();
  }

  drawBars(svg, points) {
    this.marks = points.map(({ at, until, value }) => {
      const width = Math.min(WIDEST_BAR, Math.max(1, this.x(until) - this.x(at) - 2)), y = this.y(value);
      const x = (this.x(at) + this.x(until) - width) / 2;
      const mark = make("svg:rect", { class: "bar", x, y, width, height: Math.max(0, this.y(0) - y), rx: Math.min(2, width / 3) });
      svg.append(mark);
      return mark;
    });
  }

  middle({ at, until }) {
    return until ? (at + until) / 2 : at;
  }

  nearest(at) {
    let best = 0;
    this.points.forEach((point, i) => {
      if (Math.abs(this.middle(point) - at) < Math.abs(this.middle(this.points[best]) - at)) best = i;
    });
    return best;
  }

  point(event) {
    if (!this.points.length) return;
    const x = event.clientX - this.plot.getBoundingClientRect().left;
    const { from, to } = this.shown;
    this.choose(this.nearest(from + (to - from) * (x - this.x(from)) / (this.x(to) - this.x(from))));
  }

  key(event) {
    if (!this.points.length) return;
    const last = this.points.length - 1, now = this.at == null ? last : this.nearest(this.at);
    const page = Math.ceil(last / 10);
    const to = {
      ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1,
      PageDown: now - page, PageUp: now + page, Home: 0, End: last, Escape: null,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.choose(to === null ? null : Math.min(last, Math.max(0, to)));
  }

  /** Selects a point by its index, or none with `null`. Without a selection the slider's value is the newest. */
  choose(index) {
    const { points } = this;
    if (!points.length) return;
    const point = points[index ?? points.length - 1];
    const text = `${this.shown.time(point)}: ${this.shown.value(point.value)}`;
    this.plot.setAttribute("aria-valuenow", index ?? points.length - 1);
    this.plot.setAttribute("aria-valuetext", text);
    this.at = index == null ? null : this.middle(point);
    const band = point.max > point.min ? ` (${this.shown.value(point.min)} to ${this.shown.value(point.max)})` : "";
    this.reading.textContent = index == null ? this.shown.note ?? "" : text + band;
    this.reading.classList.toggle("chosen", index != null);
    const visibility = index == null ? "hidden" : "visible";
    this.rule.setAttribute("visibility", this.bars ? "hidden" : visibility);
    this.dot.setAttribute("visibility", this.bars ? "hidden" : visibility);
    this.marks?.forEach((mark, i) => mark.classList.toggle("chosen", i === index));
    if (index == null) return;
    const x = this.x(this.middle(point));
    this.rule.setAttribute("x1", x);
    this.rule.setAttribute("x2", x);
    this.dot.setAttribute("cx", x);
    this.dot.setAttribute("cy", this.y(point.value));
  }

  table() {
    if (!this.more.open || !this.shown) return;
    const { points, from, to, value, time } = this.shown;
    const rows = downsample(points, MOST_ROWS, from, to).toReversed();
    const columns = this.bars ? ["value"] : ["value", "min", "max"];
    const titles = { value: this.name, min: "Least", max: "Most" };
    const cell = (point) => (column) => make("td", {}, value(point[column]));
    const head = make("thead", {}, make("tr", {}, ...["Time", ...columns.map((c) => titles[c])].map((t) => make("th", { scope: "col" }, t))));
    const body = make("tbody", {}, ...rows.map((point) => make("tr", {}, make("th", { scope: "row" }, time(point)), ...columns.map(cell(point)))));
    const old = this.more.querySelector(".scroll");
    const box = old ?? make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${this.name} as a table` });
    box.replaceChildren(make("table", {}, head, body));
    if (!old) this.more.append(box);
  }
}
