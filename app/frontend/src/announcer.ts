// Tells the server the SHA-256 of the whole file, so that the server compares what arrived with it.

import type { Item } from "./item";
import { inTime, pause, retryDelays } from "./patience";
import { Different, type Hasher, NoUpload, Unreadable, announce } from "./proof";
import { pathOf } from "./requests";
import { NOT_COMPARED, NOT_TOLD } from "./words";

/** Tries to tell the server, some minutes in all. After that it is told when more has arrived. */
const TELL_TRIES = 30;

/** What becomes of a file's upload after the server was told, or could not be. */
export interface Ending {
  /** Everything has arrived and was compared. `problem` is a sentence about what is wrong. */
  finished(item: Item, problem: string | null): void;
  /** The sending must stop. */
  halt(item: Item, reason: Different | Unreadable): void;
}

export class Announcer {
  constructor(
    private readonly hasher: Hasher,
    private readonly stallMs: number,
    private readonly ending: Ending,
  ) {}

  /** Computes the SHA-256 of the whole file and tells the server, which rejects any other content. */
  sumUp(item: Item): void {
    if (item.sum !== "unknown" || item.previous === null) return;
    item.sum = "computing";
    void this.tell(item, item.previous.uploadUrl!, item.ended.signal);
  }

  private async tell(item: Item, uploadUrl: string, signal: AbortSignal): Promise<void> {
    let problem: string | null = NOT_TOLD;
    let told = false;
    for (const delay of retryDelays().slice(0, TELL_TRIES)) {
      try {
        const sha256 = await this.hasher.wholeInTurn(item.file, signal);
        problem = await inTime(this.stallMs, signal, (limited) => announce(pathOf(uploadUrl), sha256, limited));
        told = true;
        break;
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Unreadable) return this.unsummed(item, error);
        if (error instanceof NoUpload) break;
        await pause(delay);
        if (signal.aborted) return;
      }
    }
    if (signal.aborted) return;
    if (item.previous?.uploadUrl !== uploadUrl) {
      // The file has another upload by now.
      item.sum = "unknown";
      this.sumUp(item);
    } else if (item.arrived) {
      this.ending.finished(item, problem);
    } else {
      item.sum = told ? "settled" : "unknown";
      if (told && problem !== null) this.ending.halt(item, new Different());
    }
  }

  /** The file could not be read as a whole. */
  private unsummed(item: Item, error: Unreadable): void {
    if (item.arrived) {
      this.ending.finished(item, error.gone ? null : NOT_COMPARED);
    } else {
      item.sum = "settled";
      // A file that was moved can still be sent. If it was changed, the bytes from here on would be of another file.
      if (!error.gone) this.ending.halt(item, error);
    }
  }
}
