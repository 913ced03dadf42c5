/* The source of one file: how often each line was executed, and what the present step did there. */

const LONGEST_LINE = 2000;
const CUT = /… \[[\d,]+ octets cut\]$/;

/* The lines of a file as {number, text, open, note}; `number` is 0 where executed lines leave a gap. What was executed
   completes what was recorded of the file. */
function content(trace, file) {
  const ran = new Map();
  trace.places.file.forEach((each, place) => {
    const text = trace.places.text[place];
    if (each === file && trace.isLine[place] && text && !ran.has(trace.places.line[place])) {
      ran.set(trace.places.line[place], text);
    }
  });
  const source = trace.files[file].source;
  const lines = [];
  const recorded = source === null ? [] : source.replace(/\r\n?/g, "\n").replace(/\n$/, "").split("\n");
  recorded.forEach((own, index) => {
    const text = ran.get(index + 1);
    const differs = text !== undefined && text !== own.trimEnd() && !CUT.test(text);
    const other = differs && !text.startsWith(own.trimEnd());
    lines.push({
      number: index + 1,
      text: differs ? text : own,
      note: other ? "the recorded file has other text here" : "",
    });
  });
  let last = recorded.length;
  for (const line of [...ran.keys()].filter((each) => each > last).sort((a, b) => a - b)) {
    if (line > last + 1) lines.push({ number: 0, text: `${last + 1}–${line - 1}`, note: "" });
    lines.push({ number: line, text: ran.get(line), note: "" });
    last = line;
  }
  let open = "";
  for (const line of lines) {
    line.open = open;
    if (line.number) ({ open } = colour(line.text.slice(0, LONGEST_LINE), open));
  }
  return lines;
}

class SourceView {
  /* `jump(line)` is called with the number of a line that was clicked. */
  constructor(trace, jump) {
    this.trace = trace;
    this.file = -1;
    this.lines = [];
    this.contents = new Map();
    this.failed = new Set();
    trace.places.kind.forEach((kind, place) => {
      if (kind === "exception") this.failed.add(`${trace.places.file[place]}:${trace.places.line[place]}`);
    });
    this.rows = new Rows(byId("source-lines"), {
      height: 21,
      draw: (row, index) => this.#draw(row, this.lines[index]),
      choose: (index) => this.lines[index].number && jump(this.lines[index].number),
      selectable: false,
    });
  }

  /* Show a file, with the totals of the steps that are shown. */
  open(file, totals, sought) {
    const { rows } = this;
    Object.assign(this, { totals, sought });
    if (file !== this.file) {
      this.file = file;
      if (!this.contents.has(file)) this.contents.set(file, content(this.trace, file));
      this.lines = this.contents.get(file);
      const widest = this.lines.reduce((most, line) => Math.max(most, Math.min(line.text.length, LONGEST_LINE)), 0);
      rows.sheet.style.minWidth = `calc(${widest}ch + 14rem)`;
      rows.viewport.scrollTo(0, 0);
    }
    this.#describe();
    rows.set(this.lines.length);
  }

  /* Show what a step did: its line, those before it, and the values that the variables of its call have. */
  mark(step) {
    const { trace } = this;
    this.step = step;
    this.trail = new Map();
    this.made = new Map();
    if (trace.file(step) !== this.file) return this.rows.redraw();
    let at = trace.before[step];
    for (let age = 1; age <= 8 && at >= 0; at = trace.before[at]) {
      if (trace.depth && trace.depth[at] < trace.depth[step]) break;
      if (trace.file(at) !== this.file || (trace.depth && trace.depth[at] > trace.depth[step])) continue;
      const line = trace.line(at);
      if (!this.trail.has(line)) this.trail.set(line, age++);
    }
    for (const { text, step: by } of [...trace.variables(step).values()].reverse()) {
      const line = trace.line(by);
      if (trace.file(by) !== this.file) continue;
      this.made.set(line, [...(this.made.get(line) ?? []), { text, now: by === step }]);
    }
    const index = this.lines.findIndex((line) => line.number === trace.line(step));
    this.rows.activate(index);
  }

  #describe() {
    const { path, source } = this.trace.files[this.file];
    const { hits, lines, seconds } = this.totals.files[this.file];
    paintSplit(byId("source-path"), path, path.lastIndexOf("/") + 1, []);
    byId("source-path").title = path;
    const spent = seconds ? `, ${duration(seconds)}` : "";
    const executed = source === null ? number(lines) : `${number(lines)} of ${number(this.lines.length)}`;
    byId("source-about").textContent = `${executed} lines executed, ${times(hits)}${spent}`;
    byId("source-note").hidden = source !== null;
  }

  #draw(row, { number: line, text, open, note }) {
    const { trace } = this;
    if (!line) {
      row.classList.add("gap");
      row.append(element("span", "gutter"), element("span", "code", `lines ${text} were not executed`));
      return;
    }
    const total = this.totals.lines[this.file].get(line);
    const gutter = element("span", "gutter");
    const hits = element("span", "hits", total ? number(total.hits + total.rest) : "");
    if (total) {
      const share = Math.log1p(total.hits + total.rest) / Math.log1p(this.totals.mostHits[this.file]);
      hits.style.setProperty("--share", `${Math.round(share * 100)}%`);
      hits.title = total.rest
        ? `${times(total.hits)} in this trace, ${number(total.rest)} more only counted`
        : times(total.hits);
    } else row.classList.add("never");
    const spent = element("span", "spent", total?.seconds ? duration(total.seconds) : "");
    gutter.append(hits, spent, element("span", "number", String(line)));
    const code = element("span", "code");
    const shown = text.length > LONGEST_LINE ? `${text.slice(0, LONGEST_LINE)}…` : text;
    paint(code, colour(shown, open).parts, ranges(this.sought, shown));
    row.append(gutter, code);
    if (note) row.append(element("span", "note", note));
    if (this.failed.has(`${this.file}:${line}`)) row.classList.add("raises");
    if (total) row.title = "Click: the next time that this line is executed";
    for (const { text: value, now } of this.made?.get(line) ?? []) {
      const chip = element("span", now ? "value now" : "value");
      paint(chip, [["", value]], ranges(this.sought, value));
      row.append(chip);
    }
    if (this.step === undefined || trace.file(this.step) !== this.file) return;
    if (trace.line(this.step) === line) {
      row.classList.add("current");
      row.ariaCurrent = "step";
      if (trace.kind(this.step) === "exception") row.append(element("span", "raised", trace.text(this.step)));
      if (["return", "yield"].includes(trace.kind(this.step)))
        row.append(element("span", "value now", `${MARKS[trace.kind(this.step)]} ${trace.text(this.step)}`));
    } else {
      row.ariaCurrent = null;
      if (this.trail.has(line)) row.dataset.trail = this.trail.get(line);
    }
  }
}
