/* The lists beside the path: files, the slowest lines, exceptions, and all about the present step. */

const MOST_SLOW = 300;

/* The steps that took longest, the longest first. */
function slowest(trace, shown) {
  const found = [];
  let least = 0;
  for (const step of shown) {
    const took = trace.took[step];
    if (!(took > least)) continue;
    let at = found.length;
    while (at > 0 && trace.took[found[at - 1]] < took) at--;
    found.splice(at, 0, step);
    if (found.length > MOST_SLOW) found.pop();
    if (found.length === MOST_SLOW) least = trace.took[found.at(-1)];
  }
  return found;
}

/* Lines by the sum of what they took, the longest first: {file, line, hits, seconds, place}. */
function slowestInAll(totals) {
  const found = totals.lines.flatMap((lines, file) => [...lines].map(([line, total]) => ({ file, line, ...total })));
  return found
    .filter((each) => each.seconds > 0)
    .sort((a, b) => b.seconds - a.seconds)
    .slice(0, MOST_SLOW);
}

/* A row of two lines: a title with a figure, and text below. */
function twoLines(row, title, figure, below, share) {
  row.style.setProperty("--share", `${Math.round(share * 100)}%`);
  const top = element("span", "top");
  top.append(element("span", "title", title), element("span", "figure", figure));
  const text = element("span", "below");
  if (typeof below === "string") text.textContent = below;
  else paint(text, below, []);
  row.append(element("span", "bar"), top, text);
}

/* The folders that all paths have in common, with the last slash. */
function commonFolder(paths) {
  const folders = paths.map((path) => path.split("/").slice(0, -1));
  const first = folders[0] ?? [];
  let same = 0;
  while (same < first.length && folders.every((each) => each[same] === first[same])) same++;
  return same ? `${first.slice(0, same).join("/")}/` : "";
}

class FileList {
  constructor(trace, choose) {
    const paths = trace.files.map((file) => file.path);
    const folder = commonFolder(paths);
    const order = paths.map((_, file) => file).sort((a, b) => (paths[a] < paths[b] ? -1 : 1));
    this.order = order;
    this.rows = new Rows(byId("files-list"), {
      height: 42,
      draw: (row, index) => {
        const path = paths[order[index]].slice(folder.length);
        const { hits, lines } = this.totals.files[order[index]];
        const share = hits ? Math.log1p(hits) / Math.log1p(this.totals.mostFileHits) : 0;
        const name = path.split("/").at(-1);
        const within = path.slice(0, -name.length) || "./";
        twoLines(
          row,
          name,
          hits ? number(hits) : "–",
          `${within}  ${hits ? `${counted(lines, "line")} executed` : "not executed"}`,
          share,
        );
        row.classList.toggle("never", !hits);
        row.title = paths[order[index]];
      },
      choose: (index) => choose(order[index]),
    });
  }

  show(totals) {
    this.totals = totals;
    this.rows.set(this.order.length);
  }

  mark(file) {
    this.rows.activate(this.order.indexOf(file));
  }
}

class SlowList {
  /* `jump(step)` shows a step, `jumpTo(file, line)` the first that executed a line. */
  constructor(trace, jump, jumpTo) {
    this.trace = trace;
    this.inAll = false;
    this.rows = new Rows(byId("slowest-list"), {
      height: 42,
      draw: (row, index) => {
        const each = this.found[index];
        const place = this.inAll ? each.place : trace.place[each];
        const seconds = this.inAll ? each.seconds : trace.took[each];
        const most = this.inAll ? this.found[0].seconds : trace.took[this.found[0]];
        const figure = this.inAll ? `${duration(seconds)} in ${number(each.hits)}` : duration(seconds);
        const { module, line, text } = trace.places;
        twoLines(row, `${module[place]}:${line[place]}`, figure, colour(text[place].trim(), "").parts, seconds / most);
        row.title = text[place].trim();
      },
      choose: (index) =>
        this.inAll ? jumpTo(this.found[index].file, this.found[index].line) : jump(this.found[index]),
    });
    for (const each of document.querySelectorAll("[data-slow]")) {
      each.addEventListener("click", () => {
        this.inAll = each.dataset.slow === "all";
        this.#fill();
      });
    }
  }

  show(shown, totals) {
    Object.assign(this, { shown, totals });
    this.#fill();
  }

  #fill() {
    this.found = this.inAll ? slowestInAll(this.totals) : slowest(this.trace, this.shown);
    for (const each of document.querySelectorAll("[data-slow]")) {
      each.ariaPressed = (each.dataset.slow === "all") === this.inAll;
    }
    byId("slowest-none").hidden = this.found.length > 0;
    this.rows.set(this.found.length, -1);
    this.rows.viewport.scrollTop = 0;
  }
}

class ExceptionList {
  constructor(trace, jump) {
    this.trace = trace;
    this.found = [];
    this.rows = new Rows(byId("exceptions-list"), {
      height: 42,
      draw: (row, index) => {
        const { step, functions } = this.found[index];
        const passed = functions > 1 ? `, passes ${functions} functions` : "";
        twoLines(row, trace.text(step), fromStart(trace, trace.time[step]), `${trace.at(step)}${passed}`, 0);
        row.title = trace.text(step);
      },
      choose: (index) => jump(this.found[index].step),
    });
  }

  show(shown) {
    this.found = this.trace.exceptions(shown);
    byId("exceptions-none").hidden = this.found.length > 0;
    byId("exceptions-count").textContent = this.found.length ? number(this.found.length) : "";
    this.rows.set(this.found.length, -1);
  }
}
