// The page's script. It adds uploading; without it the pages still show every state and refresh themselves.

import { size } from "./format";
import { follow } from "./live";
import { type Action, type Row, Rows, localise } from "./rows";
import { Sender } from "./sender";
import type { View } from "./view";

function byId<T extends HTMLElement>(id: string): T | null {
  return document.getElementById(id) as T | null;
}

function say(message: string): void {
  const status = byId("announce");
  if (status !== null) status.textContent = message;
}

function warn(message: string): void {
  const box = byId("notice");
  if (box === null) return;
  box.textContent = message;
  box.hidden = false;
}

function showConnection(live: boolean): void {
  const mark = byId("live");
  if (mark === null) return;
  mark.textContent = live ? "live" : "reconnecting…";
  mark.dataset.live = String(live);
}

async function post(url: string, method: "POST" | "DELETE"): Promise<void> {
  const answer = await fetch(url, { method, headers: { Accept: "application/json" } });
  if (answer.ok) return;
  const problem = (await answer.json().catch(() => null)) as { error?: string } | null;
  warn(problem?.error ?? `The server answered ${answer.status}. Reload the page and try again.`);
}

/** Five uploads and the live feed fill the six connections that a browser has over HTTP/1.1; HTTP/2 has no such limit. */
function simultaneousUploads(): number {
  const [page] = performance.getEntriesByType("navigation") as PerformanceNavigationTiming[];
  return page !== undefined && /^h[23]/.test(page.nextHopProtocol) ? 5 : 4;
}

function landing(body: HTMLElement): void {
  const rows = new Rows(byId("rows")!, byId<HTMLTemplateElement>("row")!, byId("empty"));
  const area = byId("drop")!;
  const mine = new Map<string, Row>();
  const keyOf = (row: Element | null): string | undefined => [...mine].find(([, item]) => item.element === row)?.[0];

  const sender = new Sender(
    {
      endpoint: area.dataset.endpoint!,
      owner: area.dataset.owner!,
      maxBytes: Number(area.dataset.maxBytes),
      simultaneous: simultaneousUploads(),
      stallMs: 1000 * Number(area.dataset.stallSeconds),
    },
    {
      onChange(key, filename, bytes, sending) {
        let row = mine.get(key);
        if (row === undefined) {
          row = rows.add();
          mine.set(key, row);
          row.element.querySelector('[data-field="filename"]')!.textContent = filename;
          row.element.querySelector('[data-field="size"]')!.textContent = size(bytes);
        }
        row.sending = sending;
        row.render();
      },
      onUrl(key, id) {
        const row = mine.get(key);
        if (row !== undefined) rows.name(row, id);
      },
      onDone(key, filename) {
        const row = mine.get(key);
        mine.delete(key);
        say(`${filename} was uploaded.`);
        if (row === undefined) return;
        row.sending = null;
        // The live feed says more soon. It also brings the row if this window never learned the upload's id.
        if (row.view === null && row.element.dataset.id === undefined) rows.remove(row);
        else if (row.view !== null) row.render();
      },
      onGone(key) {
        const row = mine.get(key);
        mine.delete(key);
        if (row === undefined) return;
        row.sending = null;
        if (row.view === null) rows.remove(row);
        else row.render();
      },
      onRefused: warn,
      onSaid: say,
    },
  );

  const input = byId<HTMLInputElement>("files")!;
  input.addEventListener("change", () => {
    sender.add([...(input.files ?? [])]);
    // Else choosing the same file a second time would not be a change.
    input.value = "";
  });
  for (const type of ["dragenter", "dragover"]) {
    area.addEventListener(type, (event) => {
      event.preventDefault();
      area.classList.add("over");
    });
  }
  for (const type of ["dragleave", "drop"]) area.addEventListener(type, () => area.classList.remove("over"));
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    sender.add([...(event.dataTransfer?.files ?? [])]);
  });
  // A file dropped beside the area must not make the browser leave the page that is uploading.
  for (const type of ["dragover", "drop"]) window.addEventListener(type, (event) => event.preventDefault());

  body.addEventListener("click", (event) => {
    const button = (event.target as Element).closest<HTMLButtonElement>("button[data-action]");
    if (button === null) return;
    event.preventDefault();
    const element = button.closest<HTMLElement>("[data-row]");
    const key = keyOf(element);
    const id = element?.dataset.id;
    switch (button.dataset.action as Action) {
      case "pause":
        if (key !== undefined) sender.pause(key);
        break;
      case "resume":
        if (key !== undefined) sender.resume(key);
        break;
      case "again":
        if (key !== undefined) sender.again(key);
        break;
      case "cancel":
        if (key !== undefined && confirm("Cancel this upload and delete what was sent?")) sender.cancel(key);
        break;
      case "dismiss":
        if (key !== undefined) sender.dismiss(key);
        break;
      case "retry":
        if (id !== undefined) void post(`/api/uploads/${id}/retry`, "POST");
        break;
      case "remove":
        if (id !== undefined && confirm("Delete this file and its results from the server?")) {
          void post(`/api/uploads/${id}`, "DELETE");
        }
        break;
    }
  });

  window.addEventListener("beforeunload", (event) => {
    if (sender.busy) event.preventDefault();
  });

  follow("/api/events", {
    onAll: (views) => rows.replaceAll(views),
    onOne: (view) => {
      if (view.mismatched && !rows.get(view.id)?.view?.mismatched) warn(`${view.filename}: ${view.hint}`);
      rows.update(view);
    },
    onConnection: showConnection,
  });
}

/** The page of one upload. Its fields are kept up to date. When the state changes, the page is loaded again. */
function detail(element: HTMLElement): void {
  const row = new Rows(element, byId<HTMLTemplateElement>("row") ?? document.createElement("template"), null).get(
    element.dataset.upload!,
  );
  const shown = element.dataset.shown;
  const update = (view: View): void => {
    if (row !== undefined) {
      row.view = view;
      row.render();
    }
    if (view.state !== shown) location.reload();
  };
  follow(`/api/events?upload=${element.dataset.upload}`, {
    onAll: (views) => views.forEach(update),
    onOne: update,
    onConnection: showConnection,
  });
  element.addEventListener("submit", (event) => {
    const question = (event.target as HTMLFormElement).dataset.confirm;
    if (question !== undefined && !confirm(question)) event.preventDefault();
  });
}

for (const node of document.querySelectorAll("time")) localise(node);
const list = byId("uploads");
if (list !== null) landing(list);
const one = byId("upload");
if (one !== null) detail(one);
