// Sending files: Uppy's core keeps the queue, and its tus plugin (tus-js-client) sends. This adds the patience to outlast
// a failover, and sees to it that an upload is only continued with the file that began it.

import Uppy, { type Body, type Meta, type UppyFile } from "@uppy/core";
import Tus, { type TusOpts } from "@uppy/tus";
import { type UrlStorage, defaultOptions } from "tus-js-client";

import { Announcer } from "./announcer";
import type { Item } from "./item";
import { List, type Listener } from "./list";
import { inTime, retryDelays } from "./patience";
import { Different, Hasher, Unreadable, compare, assertReadable } from "./proof";
import { Recogniser } from "./recogniser";
import { httpStack, idOf, pathOf } from "./requests";
import { ANOTHER, CHECKING, explain, reconnecting, unreadable } from "./words";

type QueuedFile = UppyFile<Meta, Body>;

export interface SenderOptions {
  endpoint: string;
  owner: string;
  maxBytes: number;
  simultaneous: number;
  /** How long nothing may happen to an upload before its connection counts as dead. Longer than the server leaves a
   *  request without an answer: it may be waiting for a failover. */
  stallMs: number;
}

/** A comparison is not repeated for this many milliseconds: a file is compared before it is given to Uppy. */
const FRESH_MS = 10_000;

/** Sends files and tells `listener` how each is doing. `key` names a file within this window. */
export class Sender {
  private readonly uppy: Uppy<Meta, Body>;
  private readonly list: List;
  private readonly hasher = new Hasher();
  private readonly recogniser: Recogniser;
  private readonly announcer: Announcer;

  constructor(
    private readonly options: SenderOptions,
    private readonly listener: Listener,
  ) {
    this.uppy = new Uppy<Meta, Body>({
      id: `longhaul-${options.owner}`,
      autoProceed: true,
      restrictions: { maxFileSize: options.maxBytes },
      // Uppy would take two files of the same name, type, size and date for one.
      onBeforeFileAdded: (file) => ({ ...file, id: String(file.meta.key) }),
    });
    const { stallMs } = options;
    this.list = new List(listener);
    this.recogniser = new Recogniser(this.list, this.hasher, options.endpoint, this.uppy.getID(), stallMs);
    this.announcer = new Announcer(this.hasher, stallMs, {
      finished: (item, problem) => this.finished(item, problem),
      halt: (item, reason) => this.halt(item, reason),
    });
    this.uppy.use(Tus, {
      endpoint: options.endpoint,
      limit: options.simultaneous,
      retryDelays: retryDelays(),
      // Only unfinished uploads are found again: a file that is chosen again after it was finished is uploaded again.
      removeFingerprintOnSuccess: true,
      allowedMetaFields: ["name", "type"],
    });
    // Uppy also reports files that have left this list.
    const ifListed = (file: QueuedFile | undefined, act: (item: Item) => void): void => {
      const item = file && this.list.get(file.id);
      if (item !== undefined) act(item);
    };
    this.uppy.on("file-added", (file) => ifListed(file, (item) => this.added(item)));
    this.uppy.on("upload-progress", (file, { bytesUploaded }) =>
      ifListed(file, (item) => this.progressed(item, bytesUploaded)),
    );
    this.uppy.on("upload-pause", (file, isPaused) =>
      ifListed(file, (item) => this.list.set(item, isPaused ? "paused" : "waiting")),
    );
    this.uppy.on("upload-error", (file, error, response) =>
      ifListed(file, (item) => this.failed(item, error as Error, response?.status)),
    );
    this.uppy.on("upload-success", (file) => ifListed(file, (item) => this.arrived(item)));
    this.uppy.on("file-removed", (file) =>
      ifListed(file, (item) => {
        // A file that failed leaves Uppy's list too, but not this one.
        if (item.begun) this.list.dismiss(item);
      }),
    );
    window.setInterval(() => this.reviveStalled(stallMs), stallMs / 10);
    this.uppy.on("restriction-failed", (file, error) => {
      this.listener.onRefused(file === undefined ? error.message : `${file.name}: ${error.message}`);
    });
  }

  add(files: Iterable<File>): void {
    for (const file of files) void this.enlist(file);
  }

  pause(key: string): void {
    if (!this.uppy.getFile(key)?.isPaused) this.uppy.pauseResume(key);
  }

  resume(key: string): void {
    if (this.uppy.getFile(key)?.isPaused) this.uppy.pauseResume(key);
  }

  again(key: string): void {
    const item = this.list.get(key);
    if (item?.phase !== "failed") return;
    this.list.set(item, "checking", CHECKING);
    void this.recognise(item);
  }

  /** Ends the upload for good: the server is told to delete what it has. */
  cancel(key: string): void {
    this.uppy.removeFile(key);
  }

  /** Takes a file that is not being sent (any more) off the list. The server keeps what it has, so choosing the file
   *  again continues the upload. */
  dismiss(key: string): void {
    const item = this.list.get(key);
    if (item !== undefined) this.forget(item);
    this.listener.onGone(key);
  }

  get busy(): boolean {
    return this.list.all().some((item) => item.phase !== "failed");
  }

  // --- Before sending -------------------------------------------------------------------------------------------------

  private async enlist(file: File): Promise<void> {
    const item = this.list.add(file);
    if (await this.recogniser.remembers(item)) await this.recognise(item);
    else this.begin(item);
  }

  private async recognise(item: Item): Promise<void> {
    if (await this.recogniser.recognise(item)) this.begin(item);
  }

  private begin(item: Item): void {
    item.begun = true;
    item.shownAs = null;
    item.arrived = false;
    item.phase = "waiting";
    item.hint = "";
    const { name, type } = item.file;
    try {
      this.uppy.addFile({ name, type, data: item.file, source: "page", meta: { key: item.key } });
    } catch (error) {
      this.list.dismiss(item);
      // Restrictions were told by "restriction-failed".
      if (!(error as { isRestriction?: boolean }).isRestriction) this.listener.onRefused((error as Error).message);
    }
  }

  private added(item: Item): void {
    const { key } = item;
    const memory: UrlStorage = {
      findAllUploads: () => defaultOptions.urlStorage.findAllUploads(),
      findUploadsByFingerprint: async () => (item.previous === null ? [] : [item.previous]),
      removeUpload: (urlStorageKey) => defaultOptions.urlStorage.removeUpload(urlStorageKey),
      addUpload: async (_, upload) => {
        const urlStorageKey = await defaultOptions.urlStorage.addUpload(this.recogniser.fingerprint(item.file), upload);
        item.previous = { ...upload, urlStorageKey };
        // The server was told about an earlier upload, which no longer exists.
        if (item.sum === "settled") item.sum = "unknown";
        this.announcer.sumUp(item);
        return urlStorageKey;
      },
    };
    const tus: TusOpts<Meta, Body> = {
      urlStorage: memory,
      httpStack: httpStack({
        beforeGoingOn: (offset, signal) => this.beforeGoingOn(item, offset, signal),
        afterBreak: () => this.stopping(item, assertReadable(item.file)),
      }),
      onUploadUrlAvailable: () => {
        const url = this.tus().uploaders[key]?.url;
        if (url) this.listener.onUrl(key, idOf(url));
      },
      onShouldRetry: (error, attempt, _options, next) => {
        if (item.stop !== null) return false;
        const again = next(error);
        if (again) this.list.set(item, "reconnecting", reconnecting(error, attempt));
        return again;
      },
    };
    this.uppy.setFileState(key, { tus } as Partial<QueuedFile>);
    this.list.show(item);
    // So that it is shown in its upload's row from the start, and not only when its turn comes.
    if (item.previous !== null) this.listener.onUrl(key, idOf(item.previous.uploadUrl!));
  }

  // --- While sending --------------------------------------------------------------------------------------------------

  /** Compares the file with what the server has, each time before sending continues. */
  private async beforeGoingOn(item: Item, offset: number, signal: AbortSignal): Promise<void> {
    if (item.stop !== null) throw item.stop;
    const fresh = offset <= item.compared && performance.now() - item.comparedAt < FRESH_MS;
    item.compared = 0;
    if (fresh) return;
    this.list.set(item, "checking", CHECKING);
    const url = pathOf(item.previous!.uploadUrl!);
    await this.stopping(
      item,
      inTime(this.options.stallMs, signal, (limited) => compare(this.hasher, item.file, url, limited)),
    );
    if (!signal.aborted) this.list.set(item, "waiting");
  }

  /** Waits for `work`, and remembers an error that no further try can mend. */
  private async stopping(item: Item, work: Promise<unknown>): Promise<void> {
    try {
      await work;
    } catch (error) {
      if (error instanceof Different || error instanceof Unreadable) item.stop = error;
      throw error;
    }
  }

  private progressed(item: Item, sent: number): void {
    item.speed.add(sent);
    item.sent = sent;
    item.moved = performance.now();
    // Not at the first event: sending shall continue first.
    if (item.phase === "sending") this.announcer.sumUp(item);
    // A late event of a closed connection must not hide that it is closed.
    if (item.phase !== "paused" && item.phase !== "failed") {
      item.phase = "sending";
      item.hint = "";
    }
    this.list.show(item);
  }

  /** Sending has failed. The file leaves Uppy, which would try it again before all other files. */
  private failed(item: Item, error: Error, status: number | undefined): void {
    const { stop, previous } = item;
    item.ended.abort();
    item.ended = new AbortController();
    this.hasher.forget(item.file);
    Object.assign(item, { begun: false, previous: null, compared: 0, stop: null, sum: "unknown" });
    if (stop instanceof Different) {
      item.sent = 0;
      this.listener.onGone(item.key);
      this.list.note(item, ANOTHER);
    } else {
      item.shownAs = previous && idOf(previous.uploadUrl!);
      this.list.set(item, "failed", stop instanceof Unreadable ? unreadable(stop) : explain(error, status));
    }
    window.setTimeout(() => {
      this.uppy.removeFile(item.key);
      if (stop instanceof Different && this.list.has(item)) this.begin(item);
    });
  }

  /** Stops the sending for a reason that tus-js-client does not know. */
  private halt(item: Item, reason: Different | Unreadable): void {
    item.stop = reason;
    const upload = this.tus().uploaders[item.key];
    // If there is none, sending has not begun: it stops when it asks for the offset.
    if (upload) void upload.abort().then(() => upload.options.onError?.(reason));
  }

  /** Starts stalled uploads again: a connection to a host that lost its power, or over a changed network, never ends. */
  private reviveStalled(stallMs: number): void {
    for (const item of this.list.all()) {
      const stalled = performance.now() - item.moved > stallMs;
      if (!stalled || !item.begun || (item.phase !== "sending" && item.phase !== "reconnecting")) continue;
      const upload = this.tus().uploaders[item.key];
      if (!upload) continue;
      this.list.set(item, "reconnecting", "No bytes get through: trying another connection. What the server has stored is kept.");
      void upload.abort().then(() => upload.start());
    }
  }

  private arrived(item: Item): void {
    item.arrived = true;
    item.sent = item.file.size;
    this.announcer.sumUp(item);
    if (item.sum === "computing") {
      this.list.set(item, "comparing", "Everything has arrived, and is compared with the file on this device.");
    } else {
      this.finished(item, null);
    }
  }

  private finished(item: Item, problem: string | null): void {
    this.listener.onDone(item.key, item.file.name);
    if (problem !== null) this.listener.onRefused(`${item.file.name}: ${problem}`);
    this.forget(item);
  }

  // --- After sending ---------------------------------------------------------------------------------------

  /** Takes a file that is not being sent any more off the list, so that it can be chosen again. */
  private forget(item: Item): void {
    if (!this.list.has(item)) return;
    this.list.remove(item);
    if (item.begun) this.removeWhenReleased(item.key);
  }

  /** While the tus plugin still holds a file, removing it deletes it on the server, even if it has just been completed:
   *  the plugin reports the success before it releases the file. */
  private removeWhenReleased(key: string): void {
    if (this.tus().uploaders[key]) window.setTimeout(() => this.removeWhenReleased(key), 10);
    else this.uppy.removeFile(key);
  }

  private tus(): Tus<Meta, Body> {
    return this.uppy.getPlugin<Tus<Meta, Body>>("Tus")!;
  }
}
