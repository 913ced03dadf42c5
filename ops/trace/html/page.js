/* The page: what is shown of the trace (filters, search, the present step), and the keys and buttons that change it. */

class Page {
  constructor(trace) {
    this.trace = trace;
    this.position = -1;
    this.step = -1;
    this.sought = null;
    this.found = [];
    this.filters = new Map(); // name -> value; the hosts that are off are in hostsOff
    this.hostsOff = new Set();
    const jump = (step) => this.jump(step);
    this.timeline = new Timeline(trace, (index) => this.go(index));
    this.source = new SourceView(trace, (line) => this.sameLine(1, this.source.file, line));
    this.files = new FileList(trace, (file) => this.open(file));
    this.slow = new SlowList(trace, jump, (file, line) => this.sameLine(1, file, line));
    this.exceptions = new ExceptionList(trace, jump);
    this.details = new StepView(trace, jump, (name, value) => this.filter(name, value));
    this.overview = new Overview(trace);
    this.#describe();
    this.#makeFilters();
    this.#listen();
    this.#show();
  }

  /* Go to a position of the steps that are shown. */
  go(position) {
    if (!this.shown.length) return;
    this.position = Math.min(this.shown.length - 1, Math.max(0, position));
    this.step = this.shown[this.position];
    const file = this.trace.file(this.step);
    if (file >= 0 && file !== this.source.file) this.source.open(file, this.totals, this.sought);
    this.source.mark(this.step);
    this.files.mark(this.source.file);
    this.timeline.rows.activate(this.position);
    this.#tell();
  }

  /* Go to a step; on a narrow screen also to where it can be seen. */
  jump(step) {
    this.pane(document.body.dataset.pane === "path" ? "path" : "source");
    this.go(lowerBound(this.shown, step));
  }

  /* Show a file without going anywhere. */
  open(file) {
    this.pane("source");
    this.source.open(file, this.totals, this.sought);
    this.source.mark(this.step);
    this.files.mark(file);
  }

  /* Go to the next or previous step that executed a line (by default the present one); the first after the last. */
  sameLine(direction, file = this.trace.file(this.step), line = this.trace.line(this.step)) {
    this.#next(direction, this.totals.positions(file, line));
  }

  exception(direction) {
    this.#next(
      direction,
      this.exceptions.found.map(({ step }) => lowerBound(this.shown, step)),
    );
  }

  match(direction) {
    this.#next(direction, this.found);
  }

  /* Show only the steps with this id, host or process; "" takes the filter away. */
  filter(name, value) {
    if (name === "host") {
      this.hostsOff = new Set(value ? this.trace.hosts.filter((host) => host !== value) : []);
    } else if (value) this.filters.set(name, value);
    else this.filters.delete(name);
    this.#show();
  }

  search(query) {
    const box = byId("search");
    let message = "";
    try {
      this.sought = pattern(query);
    } catch (error) {
      this.sought = null;
      message = "not a regular expression";
    }
    box.ariaInvalid = Boolean(message);
    this.found = find(this.trace, this.shown, this.sought);
    this.timeline.show(this.shown, this.found, this.sought);
    this.overview.show(this.shown, this.found);
    this.source.sought = this.sought;
    this.source.rows.redraw();
    this.#count(message);
  }

  /* Bring a part of the page to the front, where the screen has room for one only. */
  pane(name) {
    document.body.dataset.pane = name;
    for (const tab of document.querySelectorAll("#panes [data-to]")) tab.ariaSelected = tab.dataset.to === name;
  }

  side(name) {
    document.body.dataset.side = name;
    for (const tab of document.querySelectorAll("#sides [data-to]")) tab.ariaSelected = tab.dataset.to === name;
  }

  /* Go to the next or previous of these positions; to the first after the last. */
  #next(direction, positions) {
    const count = positions.length;
    if (!count) return;
    const at = direction > 0 ? lowerBound(positions, this.position + 1) : lowerBound(positions, this.position) - 1;
    if (document.body.dataset.pane !== "path") this.pane("source");
    this.go(positions[(at + count) % count]);
  }

  /* Everything again, after the filters changed. */
  #show() {
    const { trace, filters, hostsOff } = this;
    const wanted = trace.flows.map(
      (flow) =>
        !hostsOff.has(flow.host) &&
        [...filters].every(([name, value]) => (name === "process" ? flow.process : flow.ids[name]) === value),
    );
    const shown = new Int32Array(trace.count);
    let count = 0;
    for (let step = 0; step < trace.count; step++) if (wanted[trace.flow[step]]) shown[count++] = step;
    this.shown = shown.subarray(0, count);
    this.totals = new Totals(trace, this.shown);
    this.found = find(trace, this.shown, this.sought);
    this.timeline.show(this.shown, this.found, this.sought);
    this.overview.show(this.shown, this.found);
    this.files.show(this.totals);
    this.slow.show(this.shown, this.totals);
    this.exceptions.show(this.shown);
    const slider = byId("slider");
    slider.max = Math.max(0, count - 1);
    slider.disabled = !count;
    byId("path-none").hidden = count > 0;
    for (const select of document.querySelectorAll("#filters select")) select.value = filters.get(select.name) ?? "";
    for (const chip of document.querySelectorAll("#hosts button")) chip.ariaPressed = !hostsOff.has(chip.value);
    byId("all").hidden = !filters.size && !hostsOff.size;
    this.#count("");
    if (this.source.file >= 0) this.source.open(this.source.file, this.totals, this.sought);
    if (count)
      this.go(Math.min(count - 1, this.step < 0 ? firstLine(trace, this.shown) : lowerBound(this.shown, this.step)));
    else byId("position").textContent = "0 steps";
    if (this.source.file < 0 && trace.files.length) this.open(0);
  }

  /* What the present step is, beside the slider and in the details. */
  #tell() {
    const { trace, step, position, shown } = this;
    const slider = byId("slider");
    slider.value = position;
    slider.ariaValueText = `${trace.at(step)} ${trace.text(step)}`;
    byId("position").textContent = `${number(position + 1)} of ${number(shown.length)}`;
    byId("moment").textContent = `${fromStart(trace, trace.time[step])} s`;
    const same = trace.isLine[trace.place[step]] ? this.totals.positions(trace.file(step), trace.line(step)) : [];
    this.details.show(step, lowerBound(same, position) + 1, same.length);
    this.#count(byId("search").ariaInvalid === "true" ? "not a regular expression" : "");
  }

  #count(message) {
    const { found, position } = this;
    const at = lowerBound(found, position);
    const nth = found[at] === position ? `${number(at + 1)} of ` : "";
    const query = byId("search").value;
    byId("found").textContent = message || (query ? `${nth}${number(found.length)} found` : "");
    for (const id of ["found-previous", "found-next"]) byId(id).disabled = !found.length;
  }

  /* The head of the page. */
  #describe() {
    const { about } = this.trace;
    byId("what").textContent = about.what;
    const facts = byId("about-facts");
    const fact = (name, value, kind = "") => {
      if (value === "" || value === undefined) return;
      const part = element("div", kind);
      part.append(element("dt", "", name), element("dd", "", value));
      facts.append(part);
    };
    fact("environment", about.environment);
    fact("hosts", about.hosts.join(", "));
    fact("by", about.by);
    fact("reason", about.reason);
    fact("began", about.began.replace("T", " "));
    fact("took", duration(about.seconds));
    fact("lines", number(about.lines));
    fact("ended", about.ended);
    if (about.dropped) fact("dropped", `${number(about.dropped)} lines: the path has gaps`, "warning");
  }

  #makeFilters() {
    const { trace } = this;
    const known = new Map(); // name -> value -> steps
    const perFlow = new Int32Array(trace.flows.length);
    for (const flow of trace.flow) perFlow[flow]++;
    trace.flows.forEach(({ host, process, ids }, flow) => {
      for (const [name, value] of Object.entries({ host, process, ...ids })) {
        if (!known.has(name)) known.set(name, new Map());
        known.get(name).set(value, (known.get(name).get(value) ?? 0) + perFlow[flow]);
      }
    });
    trace.hosts.forEach((host, index) => {
      const chip = element("button", "host");
      chip.type = "button";
      chip.value = host;
      chip.dataset.host = index % 8;
      chip.append(element("i"), host, element("span", "dim", number(known.get("host").get(host))));
      chip.title = `Show or hide ${host}`;
      chip.addEventListener("click", () => {
        if (!this.hostsOff.delete(host)) this.hostsOff.add(host);
        this.#show();
      });
      byId("hosts").append(chip);
    });
    for (const [name, values] of known) {
      const steps = [...values.values()].reduce((sum, count) => sum + count, 0);
      if (name === "host" || (values.size < 2 && steps === trace.count)) continue; // nothing to choose
      const label = element("label", "", name);
      const select = element("select");
      select.name = name;
      select.append(new Option(`all ${number(values.size)}`, ""));
      for (const [value, count] of values) select.append(new Option(`${value} (${number(count)})`, value));
      select.addEventListener("change", () => this.filter(name, select.value));
      label.append(select);
      byId("filters").insertBefore(label, byId("all"));
    }
  }

  #listen() {
    const on = (id, act, event = "click") => byId(id).addEventListener(event, act);
    const actions = {
      first: () => this.go(0),
      previous: () => this.go(this.position - 1),
      next: () => this.go(this.position + 1),
      last: () => this.go(Infinity),
      "line-previous": () => this.sameLine(-1),
      "line-next": () => this.sameLine(1),
      "exception-previous": () => this.exception(-1),
      "exception-next": () => this.exception(1),
      "found-previous": () => this.match(-1),
      "found-next": () => this.match(1),
    };
    for (const [id, act] of Object.entries(actions)) on(id, act);
    on("slider", () => this.go(byId("slider").valueAsNumber), "input");
    on("all", () => {
      this.filters.clear();
      this.hostsOff.clear();
      this.#show();
    });
    let waiting = 0;
    on(
      "search",
      () => {
        clearTimeout(waiting);
        waiting = setTimeout(() => this.search(byId("search").value), 120);
      },
      "input",
    );
    on(
      "search",
      (event) => {
        if (event.key === "Enter") {
          clearTimeout(waiting);
          this.search(byId("search").value);
          this.match(event.shiftKey ? -1 : 1);
        } else if (event.key === "Escape") {
          byId("search").value = "";
          this.search("");
          byId("path-steps").focus();
        }
      },
      "keydown",
    );
    for (const tab of document.querySelectorAll("#panes [data-to]")) {
      tab.addEventListener("click", () => this.pane(tab.dataset.to));
    }
    for (const tab of document.querySelectorAll("#sides [data-to]")) {
      tab.addEventListener("click", () => this.side(tab.dataset.to));
    }
    on("help-open", () => byId("help").showModal());
    const keys = {
      ArrowRight: actions.next,
      ArrowLeft: actions.previous,
      j: actions.next,
      k: actions.previous,
      Home: actions.first,
      End: actions.last,
      n: actions["line-next"],
      N: actions["line-previous"],
      e: actions["exception-next"],
      E: actions["exception-previous"],
      "]": actions["found-next"],
      "[": actions["found-previous"],
      "/": () => byId("search").focus(),
      "?": () => byId("help").showModal(),
    };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
      if (event.target.matches("select, input[type=search]")) return;
      const act = keys[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
  }
}

/* The position to begin with: the first line, not what the tracer says before it. */
function firstLine(trace, shown) {
  return Math.max(
    0,
    shown.findIndex((step) => trace.isLine[trace.place[step]]),
  );
}

const page = new Page(new Trace(JSON.parse(byId("data").textContent)));
page.pane("source");
page.side(page.exceptions.found.length ? "exceptions" : "slowest");
requestAnimationFrame(() =>
  requestAnimationFrame(() => {
    performance.mark("usable"); // after the first frame: what benchmarks and tests wait for
    document.documentElement.dataset.ready = "true";
  }),
);
