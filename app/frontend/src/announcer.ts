// What has arrived is what is on this device: the server is told what the whole file is, and compares.

import type { Item } from "./item";
import { inTime, pause, retryDelays } from "./patience";
import { Different, type Hasher, NoUpload, Unreadable, announce } from "./proof";
import { pathOf } from "./requests";
import { NOT_COMPARED, NOT_TOLD } from "./words";

/** So often the server is told what the whole file is before that is left until more has arrived: some minutes. */
const TELL_TRIES = 30;

/** What becomes of a file's upload after the server was told, or could not be. */
export interface Ending {
  /** All has arrived, and no more is to be compared; `problem` is a sentence about what is wrong. */
  finished(item: Item, problem: string | null): void;
  /** What is being sent must not be sent on. */
  halt(item: Item, reason: Different | Unreadable): void;
}

export class Announcer {
  constructor(
    private readonly hasher: Hasher,
    private readonly stallMs: number,
    private readonly ending: Ending,
  ) {}

  /** Computes the SHA-256 of the whole file and tells the server, which lets nothing else become a result. */
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
      // Another upload has taken its place meanwhile.
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
      // A file that was moved is sent on. Of one that was changed, what is sent from here on would be of another file.
      if (!error.gone) this.ending.halt(item, error);
    }
  }
}
