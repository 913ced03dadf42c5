// What this window knows about a file that was chosen in it.

import type { PreviousUpload } from "tus-js-client";

import { Speed } from "./format";
import type { Different, Unreadable } from "./proof";
import type { Sending } from "./view";
import { CHECKING } from "./words";

/** A file in this window's list. */
export interface Item {
  /** Names it within this window. */
  key: string;
  file: File;
  /** Whether Uppy has it. Before that it is compared with what an earlier window has sent. */
  begun: boolean;
  /** Id of the upload in whose row it is shown while it has not begun: it is being compared, or it failed. */
  shownAs: string | null;
  /** The upload that it continues, as tus-js-client remembers it. */
  previous: PreviousUpload | null;
  /** How many of the server's bytes were compared, and when. */
  compared: number;
  comparedAt: number;
  /** The reason to stop sending, also if tus-js-client wants to try again. */
  stop: Different | Unreadable | null;
  /** Ends what runs for it outside of Uppy. */
  ended: AbortController;
  /** Whether the server knows the SHA-256 of the whole file ("settled": it does, or it need not). */
  sum: "unknown" | "computing" | "settled";
  /** All bytes are at the server. */
  arrived: boolean;
  /** When something last happened to it, on the clock of `performance.now()`. */
  moved: number;
  speed: Speed;
  phase: Sending["phase"];
  sent: number;
  hint: string;
  /** Shown while there is no hint. */
  note: string;
}

export function newItem(key: string, file: File): Item {
  return {
    key,
    file,
    begun: false,
    shownAs: null,
    previous: null,
    compared: 0,
    comparedAt: 0,
    stop: null,
    ended: new AbortController(),
    sum: "unknown",
    arrived: false,
    moved: performance.now(),
    speed: new Speed(),
    phase: "checking",
    sent: 0,
    hint: CHECKING,
    note: "",
  };
}
