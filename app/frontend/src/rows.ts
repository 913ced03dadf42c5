// The table of files. The server writes the rows that exist when the page loads. New rows are cloned from its
// <template>, so the markup of a row is written once (templates/_row.html).

import type { Sending, View } from "./view";

export type Action = "pause" | "resume" | "again" | "cancel" | "dismiss" | "retry" | "remove";

/** Which buttons a row shows. */
function actions(view: View | null, sending: Sending | null): Action[] {
  if (sending !== null) {
    switch (sending.phase) {
      case "checking":
      case "waiting":
      case "sending":
      case "reconnecting":
        return sending.begun ? ["pause", "cancel"] : ["dismiss"];
      case "paused":
        return ["resume", "cancel"];
      case "comparing":
        return ["dismiss"];
      case "failed":
        return ["again", "dismiss"];
    }
  }
  const list: Action[] = [];
  if (view?.can_retry) list.push("retry");
  if (view?.can_remove) list.push("remove");
  return list;
}

const PHASES: Record<Sending["phase"], string> = {
  checking: "Checking",
  waiting: "Waiting",
  sending: "Uploading",
  paused: "Paused",
  reconnecting: "Reconnecting",
  comparing: "Comparing",
  failed: "Stopped",
};

/** Shows the time of a <time> in the format of this browser. */
export function localise(node: HTMLTimeElement): void {
  node.textContent = new Date(node.dateTime).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

export class Row {
  view: View | null = null;
  sending: Sending | null = null;

  constructor(readonly element: HTMLElement) {}

  /** Writes what is known into the element. Changes only what differs, so as not to disturb clicks and screen readers. */
  render(): void {
    const { view, sending } = this;
    if (view !== null) {
      this.text("filename", view.filename);
      this.link("filename", view.page_url);
      this.text("size", view.size_text);
      this.time("created", view.created);
      this.text("process_text", view.process_text);
      this.progress("process", view.process_percent);
    }
    this.text("upload_text", sending?.text ?? view?.upload_text ?? "");
    this.progress("upload", sending?.percent ?? view?.upload_percent ?? 0);
    this.text("state", sending ? PHASES[sending.phase] : (view?.state_text ?? ""));
    this.text("hint", sending?.hint ?? view?.hint ?? "");
    const state = sending ? `local-${sending.phase}` : (view?.state ?? "");
    if (this.element.dataset.state !== state) this.element.dataset.state = state;
    const wanted = actions(view, sending);
    for (const button of this.element.querySelectorAll<HTMLButtonElement>("button[data-action]")) {
      const hidden = !wanted.includes(button.dataset.action as Action);
      if (button.hidden !== hidden) button.hidden = hidden;
    }
  }

  private field(name: string): HTMLElement | null {
    return this.element.querySelector<HTMLElement>(`[data-field="${name}"]`);
  }

  private text(name: string, value: string): void {
    const node = this.field(name);
    if (node === null) return;
    if (node.textContent !== value) node.textContent = value;
    // Hidden if it is empty, so that it leaves no gap.
    if (node.hidden !== (value === "")) node.hidden = value === "";
  }

  /** Times come in universal time and are shown in this browser's. */
  private time(name: string, iso: string): void {
    const node = this.field(name);
    if (node instanceof HTMLTimeElement && node.dateTime !== iso) {
      node.dateTime = iso;
      localise(node);
    }
  }

  private link(name: string, url: string): void {
    const node = this.field(name);
    if (node instanceof HTMLAnchorElement && node.getAttribute("href") !== url) node.href = url;
  }

  private progress(name: string, percent: number | null): void {
    const node = this.field(name);
    if (!(node instanceof HTMLProgressElement)) return;
    node.hidden = percent === null;
    if (percent !== null && node.value !== percent) node.value = percent;
  }
}

export class Rows {
  private byId = new Map<string, Row>();

  constructor(
    private readonly body: HTMLElement,
    private readonly template: HTMLTemplateElement,
    private readonly empty: HTMLElement | null,
  ) {
    for (const element of body.querySelectorAll<HTMLElement>("[data-id]")) {
      this.byId.set(element.dataset.id!, new Row(element));
    }
    this.showEmpty();
  }

  /** A new row at the top, for a file that has no upload yet. */
  add(): Row {
    const element = (this.template.content.cloneNode(true) as DocumentFragment).firstElementChild as HTMLElement;
    this.body.prepend(element);
    this.showEmpty();
    return new Row(element);
  }

  get(id: string): Row | undefined {
    return this.byId.get(id);
  }

  /** Gives a row its upload's id. Another row that already shows this upload is removed. */
  name(row: Row, id: string): void {
    const other = this.byId.get(id);
    if (other === row) return;
    // The view so far may be of another upload.
    row.view = other?.view ?? null;
    other?.element.remove();
    for (const [key, value] of this.byId) if (value === row) this.byId.delete(key);
    this.byId.set(id, row);
    row.element.dataset.id = id;
    row.element.id = `upload-${id}`;
    this.showEmpty();
  }

  remove(row: Row): void {
    for (const [key, value] of this.byId) if (value === row) this.byId.delete(key);
    row.element.remove();
    this.showEmpty();
  }

  update(view: View): void {
    let row = this.byId.get(view.id);
    if (view.gone) {
      if (row !== undefined) this.remove(row);
      return;
    }
    if (row === undefined) {
      row = this.add();
      this.name(row, view.id);
    }
    row.view = view;
    row.render();
  }

  /** Shows what the server has, newest first. Removes all other rows, unless this window is sending them. */
  replaceAll(views: View[]): void {
    const ids = new Set(views.map((view) => view.id));
    for (const [id, row] of [...this.byId]) if (!ids.has(id) && row.sending === null) this.remove(row);
    for (const view of [...views].reverse()) this.update(view);
  }

  private showEmpty(): void {
    if (this.empty !== null) this.empty.hidden = this.body.querySelector("[data-row]") !== null;
  }
}
