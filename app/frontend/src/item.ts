// What this window knows of a file that was chosen in it.

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
  /** Whether Uppy has it; before that it is compared with what an earlier window has sent. */
  begun: boolean;
  /** Id of the upload in whose row it is shown before it has begun: while the two are compared, or after it failed. */
  shownAs: string | null;
  /** The upload that it goes on with, as tus-js-client remembers it. */
  previous: PreviousUpload | null;
  /** So many of the server's bytes were compared at that time. */
  compared: number;
  comparedAt: number;
  /** What ends the sending, whatever tus-js-client makes of it. */
  stop: Different | Unreadable | null;
  /** Ends what is under way for it beside Uppy. */
  ended: AbortController;
  /** Whether the server was told what the whole file is, or need not be. */
  sum: "unknown" | "computing" | "settled";
  /** All bytes are at the server. */
  arrived: boolean;
  /** When something last happened to it. */
  moved: number;
  speed: Speed;
  phase: Sending["phase"];
  sent: number;
  hint: string;
  /** Said as long as there is no hint. */
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
