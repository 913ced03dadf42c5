/* The whole trace at a glance, under the slider: a lane for each host, filled as high as the calls are deep; above them
   exceptions, and what the search found. */

const HIGHEST_LANE = 20;
const HIGHEST = 84;
const LOWEST_NAME = 11; // lanes that are lower have no room for the name of their host
const TICKS = 7;
const EDGE = 2; // half of the slider's thumb, which does not reach beyond the ends

class Overview {
  constructor(trace) {
    this.trace = trace;
    this.canvas = byId("overview");
    const hosts = Math.max(1, trace.hosts.length);
    this.lane = Math.max(2, Math.min(HIGHEST_LANE, Math.floor(HIGHEST / hosts)));
    this.height = TICKS + this.lane * hosts;
    byId("overview-frame").style.height = `${this.height}px`;
    const names = byId("lanes");
    names.style.paddingTop = `${TICKS}px`;
    names.style.lineHeight = `${this.lane}px`;
    for (const host of trace.hosts) names.append(element("span", "", host));
    names.hidden = hosts < 2 || this.lane < LOWEST_NAME;
    new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  show(shown, found) {
    Object.assign(this, { shown, found });
    this.draw();
  }

  draw() {
    const { trace, canvas, shown } = this;
    const width = canvas.parentElement.clientWidth;
    if (!shown || !width) return;
    const scale = devicePixelRatio;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(this.height * scale);
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    const colourOf = (name) => style.getPropertyValue(name).trim();
    const inner = width - 2 * EDGE;
    const columns = Math.max(1, Math.floor(inner));
    const xOf = (position) => EDGE + (shown.length > 1 ? (position / (shown.length - 1)) * inner : inner / 2);
    const deepest = Math.max(1, trace.depth ? trace.depth.reduce((most, depth) => Math.max(most, depth), 1) : 1);

    // Per host and column: how many steps, and how deep the deepest.
    const counts = new Int32Array(columns * trace.hosts.length);
    const depths = new Float32Array(columns * trace.hosts.length);
    const raised = new Set();
    shown.forEach((step, position) => {
      const column = Math.min(columns - 1, Math.floor(xOf(position) - EDGE));
      const at = trace.host(step) * columns + column;
      counts[at]++;
      depths[at] = Math.max(depths[at], trace.depth ? trace.depth[step] / deepest : 0);
      if (trace.kind(step) === "exception") raised.add(Math.round(xOf(position)));
    });
    // Without depths, a column is as high as its host has steps in it.
    const most = counts.reduce((largest, count) => Math.max(largest, count), 1);
    if (!trace.depth) counts.forEach((count, at) => (depths[at] = count / most));
    // Few steps: each is as wide as its share of the width.
    const wide = Math.max(1, Math.ceil(inner / Math.max(1, shown.length)));
    for (let host = 0; host < trace.hosts.length; host++) {
      const bottom = TICKS + this.lane * (host + 1);
      pen.fillStyle = colourOf(`--host-${host % 8}`);
      for (let column = 0; column < columns; column++) {
        if (!counts[host * columns + column]) continue;
        const high = Math.max(1, (this.lane - 2) * depths[host * columns + column]);
        pen.fillRect(EDGE + column, bottom - high, wide, high);
      }
      pen.fillStyle = colourOf("--line");
      pen.fillRect(0, bottom - 0.5, width, 0.5);
    }
    pen.fillStyle = colourOf("--found");
    for (const x of new Set(this.found.map((position) => Math.round(xOf(position)))))
      pen.fillRect(x - 0.5, 0, 1.5, TICKS - 1);
    pen.fillStyle = colourOf("--bad");
    for (const x of raised) pen.fillRect(x - 1, 0, 2, TICKS + 1);
  }
}
