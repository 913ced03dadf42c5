// The live feed. The server sends all uploads at each (re)connection, so nothing is remembered here.

import type { View } from "./view";

export interface Feed {
  /** All uploads of this user, newest first. Once for each connection. */
  onAll(views: View[]): void;
  /** One upload changed. */
  onOne(view: View): void;
  /** Whether the page is up to date now. */
  onConnection(live: boolean): void;
}

// After an HTTP error an EventSource does not try again by itself.
const RECONNECT_MS = 5_000;

/** Follows `url` while the page is visible. Over HTTP/1.1 a browser has six connections: hidden tabs must not use one. */
export function follow(url: string, feed: Feed): void {
  let source: EventSource | null = null;
  let timer: number | undefined;

  const close = (): void => {
    window.clearTimeout(timer);
    source?.close();
    source = null;
  };

  const open = (): void => {
    if (source !== null || document.hidden) return;
    const current = new EventSource(url);
    source = current;
    current.addEventListener("all", (event) => {
      feed.onConnection(true);
      feed.onAll(JSON.parse((event as MessageEvent<string>).data) as View[]);
    });
    current.addEventListener("one", (event) => feed.onOne(JSON.parse((event as MessageEvent<string>).data) as View));
    current.addEventListener("error", () => {
      feed.onConnection(false);
      if (current.readyState === EventSource.CLOSED) {
        close();
        timer = window.setTimeout(open, RECONNECT_MS);
      }
    });
  };

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  // A page that the browser takes from its cache has lost its connection.
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  open();
}
