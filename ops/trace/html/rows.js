/* Lists of any length: only the rows that are visible are in the document. */

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

const byId = (id) => document.getElementById(id);

/* Put parts [class, text] into an element, with the ranges [from, to] of the whole text marked. */
function paint(parent, parts, ranges) {
  let at = 0;
  let range = 0;
  for (const [kind, text] of parts) {
    let from = 0;
    while (from < text.length) {
      while (range < ranges.length && ranges[range][1] <= at + from) range++;
      const [begin, end] = ranges[range] ?? [Infinity, Infinity];
      const marked = begin <= at + from;
      const to = Math.min(text.length, (marked ? end : begin) - at);
      const piece = text.slice(from, to);
      if (!kind && !marked) parent.append(piece);
      else parent.append(element(marked ? "mark" : "span", kind, piece));
      from = to;
    }
    at += text.length;
  }
}

/* Put a text into an element in two parts: where there is little room, only the second is sure to be shown. */
function paintSplit(parent, text, at, ranges) {
  const shift = ranges.map(([from, to]) => [from - at, to - at]);
  const head = element("span", "head");
  const tail = element("span", "tail");
  paint(head, [["", text.slice(0, at)]], ranges);
  paint(tail, [["", text.slice(at)]], shift);
  parent.replaceChildren(head, tail);
}

class Rows {
  /* `draw(row, index)` fills the element of a row. `choose(index, event)` is called for a click and for Enter; with
     `follow`, also for each key that moves. */
  constructor(viewport, { height, draw, choose, follow = false, selectable = true }) {
    this.viewport = viewport;
    this.height = height;
    this.draw = draw;
    this.choose = choose;
    this.follow = follow;
    this.role = selectable ? "option" : "listitem";
    this.count = 0;
    this.active = -1;
    this.pool = [];
    this.waiting = 0;
    this.wanted = null;
    this.sheet = element("div", "sheet");
    this.sheet.role = "presentation";
    viewport.append(this.sheet);
    viewport.tabIndex = 0;
    viewport.role = selectable ? "listbox" : "list";
    viewport.addEventListener("scroll", () => this.later(), { passive: true });
    viewport.addEventListener("keydown", (event) => this.#key(event));
    this.sheet.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row && !getSelection().toString()) this.choose?.(row.index, event);
    });
    new ResizeObserver(() => this.#resized()).observe(viewport);
  }

  /* Show so many rows, and draw all of them again. */
  set(count, active = this.active) {
    this.count = count;
    this.active = active;
    this.sheet.style.height = `${count * this.height}px`;
    this.redraw();
  }

  /* Draw the visible rows again. */
  redraw() {
    for (const row of this.pool) row.index = -1;
    this.later();
  }

  later() {
    this.waiting ||= requestAnimationFrame(() => {
      this.waiting = 0;
      this.render();
    });
  }

  render() {
    const { clientHeight, scrollTop } = this.viewport;
    const fits = clientHeight ? Math.ceil(clientHeight / this.height) + 7 : 0;
    while (this.pool.length < fits) {
      const row = element("div", "row");
      row.role = this.role;
      row.index = -1;
      this.pool.push(row);
      this.sheet.append(row);
    }
    const first = Math.max(0, Math.floor(scrollTop / this.height) - 3);
    this.pool.forEach((row, at) => {
      // Each element keeps the rows with its number modulo the pool, so that scrolling by a row draws one row.
      const index = first + ((((at - first) % this.pool.length) + this.pool.length) % this.pool.length);
      const used = index < this.count && index < first + fits;
      row.hidden = !used;
      if (!used || row.index === index) {
        if (!used) row.index = -1;
        return;
      }
      row.index = index;
      row.id = `${this.viewport.id}-${index}`;
      row.replaceChildren();
      for (const name of ["style", "title", "aria-current", "data-host", "data-trail"]) row.removeAttribute(name);
      row.className = "row";
      row.style.top = `${index * this.height}px`;
      row.ariaSetSize = this.count;
      row.ariaPosInSet = index + 1;
      if (this.role === "option") row.ariaSelected = index === this.active;
      this.draw(row, index);
    });
    if (this.role === "option")
      this.viewport.setAttribute("aria-activedescendant", `${this.viewport.id}-${this.active}`);
  }

  /* Make a row the active one, and scroll so that it is well inside the view. */
  activate(index) {
    this.active = index;
    this.reveal(index);
    this.redraw();
  }

  reveal(index) {
    const { clientHeight, scrollTop } = this.viewport;
    this.wanted = clientHeight ? null : index;
    if (!clientHeight || index < 0) return;
    const top = index * this.height;
    const margin = Math.min(4 * this.height, clientHeight / 4);
    if (top < scrollTop || top + this.height > scrollTop + clientHeight) {
      this.viewport.scrollTop = top - clientHeight / 3;
    } else if (top < scrollTop + margin) {
      this.viewport.scrollTop = top - margin;
    } else if (top + this.height > scrollTop + clientHeight - margin) {
      this.viewport.scrollTop = top + this.height + margin - clientHeight;
    }
  }

  /* A list that was not visible when it was asked to show a row does so when it appears. */
  #resized() {
    if (this.wanted !== null) this.reveal(this.wanted);
    this.later();
  }

  #key(event) {
    if (!this.choose || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.viewport.clientHeight / this.height) - 2);
    const moves = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -this.count, End: this.count };
    if (event.key in moves && this.role === "option") {
      const index = Math.min(this.count - 1, Math.max(0, this.active + moves[event.key]));
      if (this.count) this.activate(index);
      if (this.count && this.follow) this.choose(index, event);
    } else if (event.key === "Enter" && this.active >= 0 && this.active < this.count) {
      this.choose(this.active, event);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
