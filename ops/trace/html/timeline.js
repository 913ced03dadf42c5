/* The path: one row for each step that is shown, with its time, place, source and values. */

const MARKS = { call: "→", return: "←", yield: "⇠", exception: "✕", count: "…", notice: "ℹ", ids: "ℹ" };

/* The time from the start: the same number of digits in the whole trace. */
function fromStart(trace, seconds) {
  const sign = seconds < 0 ? "−" : "";
  const value = Math.abs(seconds);
  if (trace.seconds < 100) return `${sign}${value.toFixed(6)}`;
  const minutes = Math.floor(value / 60);
  return `${sign}${minutes}:${(value - minutes * 60).toFixed(3).padStart(6, "0")}`;
}

/* The time of day on the hosts, in the zone of the recording's begin. */
function timeOfDay(trace, step) {
  const milliseconds = (trace.began + trace.time[step]) * 1000 + trace.zoneMinutes * 60000;
  return new Date(milliseconds).toISOString().slice(11, 23);
}

class Timeline {
  constructor(trace, choose) {
    this.trace = trace;
    this.shown = [];
    this.matches = new Set();
    this.shallowest = trace.depth ? trace.depth.reduce((least, depth) => Math.min(least, depth), Infinity) : 0;
    this.rows = new Rows(byId("path-steps"), {
      height: 22,
      draw: (row, index) => this.#draw(row, this.shown[index], index),
      choose,
      follow: true,
    });
    byId("path").classList.toggle("several-hosts", trace.hosts.length > 1);
  }

  show(shown, found, sought) {
    Object.assign(this, { shown, sought, matches: new Set(found) });
    this.rows.set(shown.length);
  }

  #draw(row, step, index) {
    const { trace, sought } = this;
    const kind = trace.kind(step);
    row.classList.add(`is-${kind}`);
    if (this.matches.has(index)) row.classList.add("match");
    row.dataset.host = trace.host(step) % 8;
    const time = element("span", "time", fromStart(trace, trace.time[step]));
    const took = element("span", "took", trace.took[step] >= 0 ? duration(trace.took[step]) : "");
    if (trace.took[step] >= 0.001) took.classList.add(trace.took[step] >= 0.1 ? "very-slow" : "slow");
    const place = element("span", "place");
    const at = trace.file(step) < 0 ? "" : trace.at(step);
    paintSplit(place, at, at.lastIndexOf(".") + 1, ranges(sought, at));
    place.title = at;
    const what = element("span", "what");
    if (trace.depth) what.style.setProperty("--depth", Math.min(24, trace.depth[step] - this.shallowest));
    if (MARKS[kind]) what.append(element("span", "sign", MARKS[kind]));
    const text = (trace.depth ? trace.text(step).trimStart() : trace.text(step)).slice(0, 500);
    const python = kind === "line" || kind === "value";
    paint(what, python ? colour(text, "").parts : [["", text]], ranges(sought, text));
    for (const value of trace.values(step)) {
      if (kind === "call" && text.includes(value.replace(" = ", "="))) continue; // an argument, shown already
      const chip = element("span", "value");
      paint(chip, [["", value]], ranges(sought, value));
      what.append(chip);
    }
    row.append(time, took, place, what);
  }
}
