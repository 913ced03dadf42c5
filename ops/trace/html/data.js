/* The trace: the columns of the page's JSON (columns.py) as typed arrays, and what follows from them. Steps, places,
   flows and files are numbers; times are in seconds. */

class Trace {
  constructor(raw) {
    const { steps, values } = raw;
    const column = (at) => raw.places.map((place) => place[at]);
    this.about = raw.about;
    this.zoneMinutes = raw.zone_minutes;
    this.count = steps.place.length;
    this.files = raw.files;
    this.flows = raw.flows;
    this.place = Int32Array.from(steps.place);
    this.flow = Int32Array.from(steps.flow);
    this.depth = steps.depth.length ? Int32Array.from(steps.depth) : null;
    this.took = Float64Array.from(steps.took, (tenths) => (tenths < 0 ? NaN : tenths / 1e7));
    this.began = (steps.time[0] ?? 0) / 1e6;
    this.time = new Float64Array(this.count);
    let microseconds = 0;
    for (let step = 1; step < this.count; step++) {
      microseconds += steps.time[step];
      this.time[step] = microseconds / 1e6;
    }
    this.seconds = microseconds / 1e6;
    this.places = {
      kind: column(0),
      module: column(1),
      file: Int32Array.from(column(2)),
      line: Int32Array.from(column(3)),
      text: column(4),
    };
    this.isLine = Uint8Array.from(this.places.kind, (kind) => (kind === "line" ? 1 : 0));
    this.hosts = [...new Set(raw.flows.map((flow) => flow.host))].sort((a, b) =>
      a.localeCompare(b, "en", { numeric: true }),
    );
    this.hostOf = Int32Array.from(raw.flows, (flow) => this.hosts.indexOf(flow.host));
    this.texts = values.texts;
    this.functions = new Map(); // by place, as far as they were asked for
    this.#sortValues(values);
    this.#link();
    this.#countRest();
  }

  kind(step) {
    return this.places.kind[this.place[step]];
  }
  module(step) {
    return this.places.module[this.place[step]];
  }
  file(step) {
    return this.places.file[this.place[step]];
  }
  line(step) {
    return this.places.line[this.place[step]];
  }
  text(step) {
    return this.places.text[this.place[step]];
  }
  host(step) {
    return this.hostOf[this.flow[step]];
  }
  at(step) {
    return `${this.module(step)}:${this.line(step)}`;
  }

  /* The values that a step made, as `name = value`. */
  values(step) {
    const found = [];
    for (let at = this.valueFrom[step]; at < this.valueFrom[step + 1]; at++) found.push(this.texts[this.valueText[at]]);
    return found;
  }

  /* The innermost function of a file that a step is in; null at the level of the module. */
  functionOf(step) {
    const place = this.place[step];
    if (!this.functions.has(place)) this.functions.set(place, this.#findFunction(step));
    return this.functions.get(place);
  }

  #findFunction(step) {
    const line = this.line(step);
    const defines = this.kind(step) === "line" ? 1 : 0; // a `def` is executed by the code around it
    let found = null;
    for (const each of this.files[this.file(step)]?.functions ?? []) {
      if (each[0] + defines <= line && line <= each[1]) found = each;
    }
    return found;
  }

  /* The variables of the call that a step is in, as far as they are known after it: name -> {text, step}. */
  variables(step) {
    const known = new Map();
    const file = this.file(step);
    const own = this.functionOf(step);
    for (let at = step, walked = 0; at >= 0 && walked < 20000; at = this.before[at], walked++) {
      if (this.depth && this.depth[at] < this.depth[step]) break;
      if (this.depth ? this.depth[at] > this.depth[step] : this.file(at) !== file) continue;
      if (!this.depth && this.functionOf(at) !== own) continue;
      for (const text of this.values(at).reverse()) {
        const name = text.slice(0, text.indexOf(" = "));
        if (!known.has(name)) known.set(name, { text, step: at });
      }
      // The call itself, or the arguments where calls are not recorded.
      if (this.kind(at) === "call" || (this.kind(at) === "value" && !this.depth)) break;
    }
    return known;
  }

  /* The steps that called the one that a step is in, innermost first. */
  callers(step) {
    const found = [];
    for (let at = this.caller?.[step] ?? -1; at >= 0 && found.length < 100; at = this.caller[at]) found.push(at);
    return found;
  }

  /* The first step of each exception, with the number of functions that it passed. */
  exceptions(shown) {
    const first = new Map();
    const found = [];
    for (const step of shown) {
      if (this.kind(step) !== "exception") continue;
      const before = this.before[step];
      const same = before >= 0 && this.kind(before) === "exception" && this.text(before) === this.text(step);
      const known = same ? first.get(before) : undefined;
      if (known) known.functions++;
      else found.push({ step, functions: 1 });
      first.set(step, known ?? found.at(-1));
    }
    return found;
  }

  #sortValues({ step, text }) {
    this.valueFrom = new Int32Array(this.count + 1);
    for (const each of step) this.valueFrom[each + 1]++;
    for (let at = 0; at < this.count; at++) this.valueFrom[at + 1] += this.valueFrom[at];
    const next = this.valueFrom.slice();
    this.valueText = new Int32Array(step.length);
    for (let at = 0; at < step.length; at++) this.valueText[next[step[at]]++] = text[at];
  }

  /* For each step: the one before of its strand, and the one that called. */
  #link() {
    this.before = new Int32Array(this.count).fill(-1);
    this.caller = this.depth ? new Int32Array(this.count).fill(-1) : null;
    const last = new Map();
    const stacks = new Map();
    for (let step = 0; step < this.count; step++) {
      const { strand } = this.flows[this.flow[step]];
      this.before[step] = last.get(strand) ?? -1;
      last.set(strand, step);
      if (!this.depth) continue;
      const depth = this.depth[step];
      if (!stacks.has(strand)) stacks.set(strand, []);
      const stack = stacks.get(strand);
      this.caller[step] = stack[depth - 1] ?? -1;
      if (!this.isLine[this.place[step]]) continue;
      stack[depth] = step;
      stack.length = depth + 1;
    }
  }

  /* By file and line: how often a line was executed beyond what is shown, as the tracer says at its end. */
  #countRest() {
    this.rest = new Map();
    this.places.kind.forEach((kind, place) => {
      const told = kind === "count" && /^([\d,]+) times more/.exec(this.places.text[place]);
      if (!told) return;
      const key = `${this.places.file[place]}:${this.places.line[place]}`;
      this.rest.set(key, (this.rest.get(key) ?? 0) + Number(told[1].replaceAll(",", "")));
    });
  }
}

/* Hits and seconds by line, and where each line was executed, of the steps that are shown. */
class Totals {
  constructor(trace, shown) {
    this.trace = trace;
    const places = trace.places.file.length;
    const hits = new Int32Array(places);
    const seconds = new Float64Array(places);
    for (const step of shown) {
      const place = trace.place[step];
      if (!trace.isLine[place]) continue;
      hits[place]++;
      if (trace.took[step] > 0) seconds[place] += trace.took[step];
    }
    this.lines = trace.files.map(() => new Map());
    this.files = trace.files.map(() => ({ hits: 0, seconds: 0, lines: 0 }));
    for (let place = 0; place < places; place++) {
      const file = trace.places.file[place];
      if (!hits[place] || file < 0) continue;
      const line = trace.places.line[place];
      const known = this.lines[file].get(line) ?? {
        hits: 0,
        rest: trace.rest.get(`${file}:${line}`) ?? 0,
        seconds: 0,
        place,
      };
      if (!known.hits) {
        this.files[file].lines++;
        this.files[file].hits += known.rest;
      }
      known.hits += hits[place];
      known.seconds += seconds[place];
      this.lines[file].set(line, known);
      this.files[file].hits += hits[place];
      this.files[file].seconds += seconds[place];
    }
    this.#index(shown);
    const most = (numbers) => numbers.reduce((least, each) => Math.max(least, each), 1);
    this.mostHits = this.lines.map((lines) => most([...lines.values()].map((line) => line.hits + line.rest)));
    this.mostFileHits = most(this.files.map((file) => file.hits));
  }

  /* The positions in what is shown of the steps that executed a line, in order. */
  positions(file, line) {
    const id = this.ids.get(`${file}:${line}`);
    return id === undefined ? new Int32Array(0) : this.sorted.subarray(this.from[id], this.from[id + 1]);
  }

  /* Sort the positions by line, counting first how many each line has. */
  #index(shown) {
    const { file, line } = this.trace.places;
    this.ids = new Map();
    const idOf = Int32Array.from(file, (each, place) => {
      if (!this.trace.isLine[place]) return -1;
      const key = `${each}:${line[place]}`;
      if (!this.ids.has(key)) this.ids.set(key, this.ids.size);
      return this.ids.get(key);
    });
    this.from = new Int32Array(this.ids.size + 1);
    for (const step of shown) this.from[idOf[this.trace.place[step]] + 1]++;
    this.from[0] = 0; // where those that are not lines were counted
    for (let id = 0; id < this.ids.size; id++) this.from[id + 1] += this.from[id];
    const next = this.from.slice();
    this.sorted = new Int32Array(this.from.at(-1));
    shown.forEach((step, position) => {
      const id = idOf[this.trace.place[step]];
      if (id >= 0) this.sorted[next[id]++] = position;
    });
  }
}

/* `1.23 s`, `4.56 ms`, `7 µs` */
function duration(seconds) {
  if (seconds >= 1) return `${seconds.toFixed(2)} s`;
  if (seconds >= 0.001) return `${(seconds * 1000).toFixed(2)} ms`;
  return `${(seconds * 1e6).toFixed(0)} µs`;
}

const number = (value) => value.toLocaleString("en-US");
const counted = (value, what) => `${number(value)} ${what}${value === 1 ? "" : "s"}`;
const times = (value) => counted(value, "time");
