// What a user reads about a file that is being sent: what happened, what was kept and what to do.

import type { DetailedError } from "tus-js-client";

import type { Unreadable } from "./proof";

export const CHECKING = "Checking that it is the same file.";
export const ANOTHER =
  "Another file of the same name, size and date was being uploaded, or this one has changed since. It is uploaded from" +
  " its beginning, and the earlier upload stays as it is.";

export const NOT_COMPARED = "everything has arrived, but could not be compared with the file on this device, which has changed since.";
export const NOT_TOLD = "everything has arrived, but the server could not be asked whether it is this file.";

export function reconnecting(error: DetailedError, attempt: number): string {
  const status = error.originalResponse?.getStatus();
  const why = navigator.onLine ? (status ? `the server answered ${status}` : "the connection was lost") : "this device is offline";
  return `Trying again by itself (${attempt + 1}): ${why}. What the server has stored is kept.`;
}

export function unreadable(error: Unreadable): string {
  const what = error.gone ? "was moved or removed" : "was changed, or can no longer be read";
  return `This file ${what} on this device. What the server has stored is kept: choose the file again to continue.`;
}

/** What happened, what was kept and what to do, for an upload that Uppy has given up. */
export function explain(error: Error, status: number | undefined): string {
  switch (status) {
    case 401:
      return "You are signed out. What was sent is kept: sign in again, then choose the same file to continue.";
    case 403:
      return "The server refused the upload from this page. Reload the page, then choose the same file again.";
    case 413:
      return "This file is larger than the server accepts. Nothing of it was kept.";
    case 410:
      return "This upload was removed or has expired. Press Try again to upload the file from its beginning.";
    default:
      return `${error.message.split(", caused by")[0]}. What the server has stored is kept: press Try again, or choose the same file later.`;
  }
}
