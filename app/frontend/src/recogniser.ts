// Finds the upload that was begun with this very file, among those that this browser remembers.

import { getSafeFileId } from "@uppy/core/utils";
import { type PreviousUpload, defaultOptions } from "tus-js-client";

import type { Item } from "./item";
import type { List } from "./list";
import { inTime, pause, retryDelays } from "./patience";
import { type Compared, Different, type Hasher, NoUpload, Unreadable, compare } from "./proof";
import { idOf, pathOf } from "./requests";
import { ANOTHER, CHECKING, unreadable } from "./words";

export class Recogniser {
  constructor(
    private readonly list: List,
    private readonly hasher: Hasher,
    private readonly endpoint: string,
    private readonly uppyId: string,
    private readonly stallMs: number,
  ) {}

  /** Whether this browser remembers an upload that may be one of this file. */
  async remembers(item: Item): Promise<boolean> {
    return (await this.candidates(item)).length > 0;
  }

  /** This user's unfinished uploads, begun in this browser with a file of the same name, type, size and date; newest
   *  first. Not those that another file of this window continues. */
  private async candidates({ file }: Item): Promise<PreviousUpload[]> {
    const found = await defaultOptions.urlStorage.findUploadsByFingerprint(this.fingerprint(file));
    return found
      .filter((upload) => upload.uploadUrl !== null && !this.isTaken(upload))
      .sort((one, other) => Date.parse(other.creationTime) - Date.parse(one.creationTime));
  }

  private isTaken(upload: PreviousUpload): boolean {
    return this.list.all().some((item) => item.previous?.urlStorageKey === upload.urlStorageKey);
  }

  /** Uploads are found again by it. It does not prove that two files are the same. */
  fingerprint(file: globalThis.File): string {
    const described = { name: file.name, type: file.type, data: file } as unknown as Parameters<typeof getSafeFileId>[0];
    return ["tus", getSafeFileId(described, this.uppyId), this.endpoint].join("-");
  }

  /** Looks for the upload that was begun with this very file, and chooses it to be continued. False if the file must not
   *  be sent: it cannot be read, the server cannot be reached, or the file was taken off the list. */
  async recognise(item: Item): Promise<boolean> {
    const { signal } = item.ended;
    for (const delay of retryDelays()) {
      this.list.say(item, "checking", CHECKING);
      try {
        let others = 0;
        for (const candidate of await this.candidates(item)) {
          this.list.showAs(item, idOf(candidate.uploadUrl!));
          const compared = await this.compared(item, candidate, signal);
          if (signal.aborted) return false;
          if (compared instanceof Different) others += 1;
          // If two files agree in all that is stored, only one of them can have the upload.
          else if (compared !== null && !this.isTaken(candidate)) {
            this.take(item, candidate, compared);
            break;
          }
        }
        if (item.previous === null) this.list.showAs(item, null);
        if (item.previous === null && others > 0) this.list.note(item, ANOTHER);
        return true;
      } catch (error) {
        if (signal.aborted) return false;
        if (error instanceof Unreadable) {
          this.list.set(item, "failed", unreadable(error));
          return false;
        }
        this.list.set(item, "reconnecting", `${CHECKING} Trying again by itself: ${(error as Error).message}.`);
        await pause(delay);
        if (signal.aborted) return false;
      }
    }
    this.list.set(item, "failed", "The server could not be reached. What it has stored is kept: press Try again.");
    return false;
  }

  /** The file continues that upload, and takes its row from a file that was only compared with it. */
  private take(item: Item, candidate: PreviousUpload, compared: Compared): void {
    const id = idOf(candidate.uploadUrl!);
    for (const other of this.list.all()) if (other !== item && other.shownAs === id) this.list.showAs(other, null);
    item.previous = candidate;
    item.compared = compared.bytes;
    item.comparedAt = performance.now();
    if (compared.whole) item.sum = "settled";
  }

  /** Compares the file with what the server has of an upload. Null if there is nothing to continue. */
  private async compared(item: Item, candidate: PreviousUpload, signal: AbortSignal): Promise<Compared | Different | null> {
    try {
      const compared = await inTime(this.stallMs, signal, (limited) =>
        compare(this.hasher, item.file, pathOf(candidate.uploadUrl!), limited),
      );
      // Nothing is stored yet, and the SHA-256 is announced already. Or all bytes have arrived, and nothing that this
      // window could send would prove that they are of this file.
      const useless = compared.complete || (compared.bytes === 0 && compared.sha256Known);
      return useless && !compared.whole ? null : compared;
    } catch (error) {
      if (error instanceof Different) return error;
      if (!(error instanceof NoUpload)) throw error;
      await defaultOptions.urlStorage.removeUpload(candidate.urlStorageKey);
      return null;
    }
  }
}
