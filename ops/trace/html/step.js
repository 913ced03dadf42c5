/* All about the present step: where, when, for what, its variables and its callers. */

class StepView {
  /* `jump(step)` shows a step; `filter(name, value)` shows only the steps that have this id, host or process. */
  constructor(trace, jump, filter) {
    Object.assign(this, { trace, jump, filter });
  }

  /* `nth` of `hits`: which execution of its line it is. */
  show(step, nth, hits) {
    const { trace } = this;
    const kind = trace.kind(step);
    const file = trace.file(step);
    const inside = trace.functionOf(step);
    byId("step-place").textContent = file < 0 ? trace.module(step) : trace.at(step);
    byId("step-function").textContent = inside ? `in ${inside[2]}` : "";
    const what = byId("step-what");
    what.className = `is-${kind}`;
    what.replaceChildren();
    if (MARKS[kind]) what.append(element("span", "sign", MARKS[kind]));
    paint(what, kind === "line" ? colour(trace.text(step).trim(), "").parts : [["", trace.text(step)]], []);
    const facts = byId("step-facts");
    facts.replaceChildren();
    const fact = (name, value) => {
      const part = element("div");
      part.append(element("dt", "", name), element("dd", "", value));
      facts.append(part);
    };
    fact("from the start", `${fromStart(trace, trace.time[step])} s`);
    fact("time of day", timeOfDay(trace, step));
    if (trace.took[step] >= 0) fact("until the next line", duration(trace.took[step]));
    const before = trace.before[step];
    if (before >= 0) fact("since the step before", duration(Math.max(0, trace.time[step] - trace.time[before])));
    if (hits) fact("this line", `${number(nth)} of ${times(hits)}`);
    if (trace.depth && file >= 0) fact("depth", number(trace.depth[step]));
    this.#ids(step);
    this.#variables(step);
    this.#callers(step);
  }

  #ids(step) {
    const { host, process, thread, ids } = this.trace.flows[this.trace.flow[step]];
    const list = byId("step-ids");
    list.replaceChildren();
    for (const [name, value] of Object.entries({ host, process, ...ids })) {
      const button = element("button", "id");
      button.type = "button";
      button.append(element("span", "dim", name), ` ${value}`);
      button.title = `Show only ${name} ${value}`;
      button.addEventListener("click", () => this.filter(name, value));
      list.append(button);
    }
    if (thread) list.append(element("span", "id", `thread ${thread}`));
  }

  #variables(step) {
    const known = [...this.trace.variables(step).entries()].sort(([a], [b]) => (a < b ? -1 : 1));
    byId("step-variables-part").hidden = !known.length;
    byId("step-variables").replaceChildren(
      ...known.map(([name, { text, step: by }]) => {
        const row = element("tr", by === step ? "now" : "");
        row.append(element("th", "", name), element("td", "", text.slice(name.length + 3)));
        row.firstChild.scope = "row";
        return row;
      }),
    );
  }

  #callers(step) {
    const callers = this.trace.callers(step);
    byId("step-callers-part").hidden = !callers.length;
    byId("step-callers").replaceChildren(
      ...callers.map((caller) => {
        const button = element("button", "caller");
        button.type = "button";
        const text = element("span", "code");
        paint(text, colour(this.trace.text(caller).trim(), "").parts, []);
        button.append(element("span", "dim", this.trace.at(caller)), text);
        button.addEventListener("click", () => this.jump(caller));
        const item = element("li");
        item.append(button);
        return item;
      }),
    );
  }
}
