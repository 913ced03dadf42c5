// The files of this window, and what a person sees of each.

import { duration, size } from "./format";
import { type Item, newItem } from "./item";
import type { Sending } from "./view";

/** Is told what happens to the files; `key` names one within this window. */
export interface Listener {
  onChange(key: string, filename: string, bytes: number, sending: Sending): void;
  onUrl(key: string, id: string): void;
  onDone(key: string, filename: string): void;
  onGone(key: string): void;
  onRefused(message: string): void;
  /** Something that is not an error; it is read out, not shown. */
  onSaid(message: string): void;
}

export class List {
  private readonly items = new Map<string, Item>();
  private count = 0;

  constructor(private readonly listener: Listener) {}

  add(file: File): Item {
    const item = newItem(`file-${++this.count}`, file);
    this.items.set(item.key, item);
    return item;
  }

  get(key: string): Item | undefined {
    return this.items.get(key);
  }

  has(item: Item): boolean {
    return this.items.get(item.key) === item;
  }

  all(): Item[] {
    return [...this.items.values()];
  }

  /** Takes a file off the list, so that it can be chosen again, and ends what is under way for it. */
  remove(item: Item): void {
    item.ended.abort();
    this.items.delete(item.key);
  }

  /** The same, and removes its row. */
  dismiss(item: Item): void {
    this.remove(item);
    this.listener.onGone(item.key);
  }

  /** Says something that is not an error, and keeps it beside the file. */
  note(item: Item, note: string): void {
    item.note = note;
    this.listener.onSaid(`${item.file.name}: ${note}`);
  }

  /** Notes the state of a file without showing it. */
  say(item: Item, phase: Sending["phase"], hint: string): void {
    item.phase = phase;
    item.hint = hint;
    item.moved = performance.now();
    item.speed.reset();
  }

  set(item: Item, phase: Sending["phase"], hint = ""): void {
    if (!this.has(item)) return;
    this.say(item, phase, hint);
    this.show(item);
  }

  /** Shows the file in the row of that upload, in the place of one that failed there, or (null) in a row of its own. */
  showAs(item: Item, id: string | null): void {
    if (item.shownAs === id) return;
    if (item.shownAs !== null) this.listener.onGone(item.key);
    const others = this.all().filter((other) => other.shownAs === id && id !== null);
    for (const other of others) if (other.phase === "failed") this.dismiss(other);
    item.shownAs = others.every((other) => other.phase === "failed") ? id : null;
    this.show(item);
    if (item.shownAs !== null) this.listener.onUrl(item.key, item.shownAs);
  }

  show(item: Item): void {
    if (!this.has(item)) return;
    const total = item.file.size;
    const percent = total === 0 ? 0 : (100 * item.sent) / total;
    const parts = [`${Math.floor(percent)} %`, `${size(item.sent)} of ${size(total)}`];
    const speed = item.speed.value;
    if (item.phase === "sending" && speed !== null && speed > 0) {
      parts.push(`${size(speed)}/s`, `about ${duration((total - item.sent) / speed)} left`);
    }
    this.listener.onChange(item.key, item.file.name, total, {
      phase: item.phase,
      begun: item.begun,
      percent,
      text: item.phase === "waiting" && item.sent === 0 ? "Waiting for its turn" : parts.join(" · "),
      hint: item.hint || item.note,
    });
  }
}
