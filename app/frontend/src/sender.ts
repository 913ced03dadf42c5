// Sending files: Uppy's core keeps the list, its tus plugin (tus-js-client) sends. This file adds what a person needs
// to see of it, the patience to outlast a failover, and that an upload is only gone on with by the file that began it.

import Uppy, { type Body, type Meta, type UppyFile } from "@uppy/core";
import { getSafeFileId } from "@uppy/core/utils";
import Tus, { type TusOpts } from "@uppy/tus";
import { type PreviousUpload, type UrlStorage, defaultOptions } from "tus-js-client";

import { duration, size } from "./format";
import { type Item, newItem } from "./item";
import { type Compared, Different, Hasher, NoUpload, Unreadable, announce, compare, probe } from "./proof";
import { httpStack, pathOf } from "./requests";
import type { Sending } from "./view";
import { ANOTHER, CHECKING, NOT_COMPARED, NOT_TOLD, explain, reconnecting, unreadable } from "./words";

type File = UppyFile<Meta, Body>;

/** Milliseconds before each try to reconnect. tus-js-client counts from the start again whenever bytes got through,
 *  so this bounds one outage: about two hours. The spread keeps all users from coming back in the same second. */
function retryDelays(): number[] {
  const delays = [500, 1000, 2000, 3000, 5000, 5000];
  for (let i = 0; i < 720; i += 1) delays.push(8000 + Math.round(Math.random() * 4000));
  return delays;
}

/** The upload's id is the last part of its URL: /files/<key>/<id>. */
export function idOf(uploadUrl: string): string {
  return pathOf(uploadUrl).split("/").at(-1) ?? "";
}

export interface Listener {
  onChange(key: string, filename: string, bytes: number, sending: Sending): void;
  onUrl(key: string, id: string): void;
  onDone(key: string, filename: string): void;
  onGone(key: string): void;
  onRefused(message: string): void;
  /** Something that is no trouble, and that nobody need look for. */
  onSaid(message: string): void;
}

export interface SenderOptions {
  endpoint: string;
  owner: string;
  maxBytes: number;
  simultaneous: number;
  /** How long nothing may happen to an upload before its connection counts as dead: longer than the server, which may be
   *  waiting for a fail-over itself, leaves a request without an answer. */
  stallMs: number;
}

/** So often the server is told what the whole file is before that is left until more has arrived: some minutes. */
const TELL_TRIES = 30;

/** A comparison this long ago, in milliseconds, was just made: what begins an upload need not be compared twice. */
const FRESH_MS = 10_000;

/** Sends files and tells `listener` how each is doing. `key` names a file within this window. */
export class Sender {
  private readonly uppy: Uppy<Meta, Body>;
  private readonly items = new Map<string, Item>();
  private readonly hasher = new Hasher();
  private keys = 0;

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
    this.uppy.use(Tus, {
      endpoint: options.endpoint,
      limit: options.simultaneous,
      retryDelays: retryDelays(),
      // Only an unfinished upload is to be found again: choosing a finished file once more uploads it once more.
      removeFingerprintOnSuccess: true,
      allowedMetaFields: ["name", "type"],
    });
    this.uppy.on("file-added", (file) => this.added(file));
    this.uppy.on("upload-progress", (file, progress) => {
      if (file !== undefined) this.progressed(file.id, progress.bytesUploaded);
    });
    this.uppy.on("upload-pause", (file, isPaused) => {
      if (file !== undefined) this.set(file.id, isPaused ? "paused" : "waiting");
    });
    this.uppy.on("upload-error", (file, error, response) => {
      if (file !== undefined) this.failed(file.id, error as Error, response?.status);
    });
    this.uppy.on("upload-success", (file) => {
      if (file !== undefined) this.arrived(file.id);
    });
    this.uppy.on("file-removed", (file) => {
      const item = this.items.get(file.id);
      // A file that failed leaves Uppy's list too, but not this one.
      if (!item?.begun) return;
      item.ended.abort();
      this.items.delete(file.id);
      this.listener.onGone(file.id);
    });
    window.setInterval(() => this.reviveStalled(options.stallMs), options.stallMs / 10);
    this.uppy.on("restriction-failed", (file, error) => {
      this.listener.onRefused(file === undefined ? error.message : `${file.name}: ${error.message}`);
    });
  }

  add(files: Iterable<globalThis.File>): void {
    for (const file of files) void this.enlist(file);
  }

  pause(key: string): void {
    if (!this.uppy.getFile(key)?.isPaused) this.uppy.pauseResume(key);
  }

  resume(key: string): void {
    if (this.uppy.getFile(key)?.isPaused) this.uppy.pauseResume(key);
  }

  again(key: string): void {
    const item = this.items.get(key);
    if (item?.phase !== "failed") return;
    this.set(key, "checking", CHECKING);
    void this.recognise(key, item);
  }

  /** Ends the upload for good: the server is told to delete what it has. */
  cancel(key: string): void {
    this.uppy.removeFile(key);
  }

  /** Takes a file that is not being sent (any more) off the list; what the server has of it stays, so that choosing it
   *  again goes on. */
  dismiss(key: string): void {
    this.forget(key);
    this.listener.onGone(key);
  }

  get busy(): boolean {
    return [...this.items.values()].some((item) => item.phase !== "failed");
  }

  // --- From being chosen to being sent ---------------------------------------------------------------------------------

  private async enlist(file: globalThis.File): Promise<void> {
    const key = `file-${++this.keys}`;
    const item = newItem(file);
    this.items.set(key, item);
    if ((await this.candidates(item)).length === 0) this.begin(key, item);
    else await this.recognise(key, item);
  }

  private note(item: Item, note: string): void {
    item.note = note;
    this.listener.onSaid(`${item.file.name}: ${note}`);
  }

  /** The uploads that this browser began and did not finish with a file of this name, type, size and date, by this user;
   *  those that another file of this window goes on with left out. The newest first. */
  private async candidates({ file }: Item): Promise<PreviousUpload[]> {
    const found = await defaultOptions.urlStorage.findUploadsByFingerprint(this.fingerprint(file));
    return found
      .filter((upload) => upload.uploadUrl !== null && !this.isTaken(upload))
      .sort((one, other) => Date.parse(other.creationTime) - Date.parse(one.creationTime));
  }

  private isTaken(upload: PreviousUpload): boolean {
    return [...this.items.values()].some((item) => item.previous?.urlStorageKey === upload.urlStorageKey);
  }

  /** What uploads are found again by. It is no proof of identity. */
  private fingerprint(file: globalThis.File): string {
    const described = { name: file.name, type: file.type, data: file } as unknown as Parameters<typeof getSafeFileId>[0];
    return ["tus", getSafeFileId(described, this.uppy.getID()), this.options.endpoint].join("-");
  }

  /** Looks for the upload that was begun with this very file, and goes on with it, or begins a new one. */
  private async recognise(key: string, item: Item): Promise<void> {
    const { signal } = item.ended;
    for (const delay of retryDelays()) {
      this.say(item, "checking", CHECKING);
      try {
        let others = 0;
        for (const candidate of await this.candidates(item)) {
          this.showAs(key, item, idOf(candidate.uploadUrl!));
          const compared = await this.compared(item, candidate, signal);
          if (signal.aborted) return;
          if (compared instanceof Different) others += 1;
          // Of two files that are the same in all they have stored, only one can have it.
          else if (compared !== null && !this.isTaken(candidate)) {
            this.take(item, candidate, compared);
            break;
          }
        }
        if (item.previous === null) this.showAs(key, item, null);
        if (item.previous === null && others > 0) this.note(item, ANOTHER);
        this.begin(key, item);
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Unreadable) {
          this.set(key, "failed", unreadable(error));
          return;
        }
        this.set(key, "reconnecting", `${CHECKING} Trying again by itself: ${(error as Error).message}.`);
        await new Promise((resolve) => window.setTimeout(resolve, delay));
        if (signal.aborted) return;
      }
    }
    this.set(key, "failed", "The server could not be reached. What it has stored is kept: press Try again.");
  }

  /** Shows the file in the row of that upload, in the place of one that failed there, or in a row of its own. */
  private showAs(key: string, item: Item, id: string | null): void {
    if (item.shownAs === id) return;
    if (item.shownAs !== null) this.listener.onGone(key);
    const others = [...this.items].filter(([, other]) => other.shownAs === id && id !== null);
    for (const [other, { phase }] of others) if (phase === "failed") this.dismiss(other);
    item.shownAs = others.every(([, { phase }]) => phase === "failed") ? id : null;
    this.show(key);
    if (item.shownAs !== null) this.listener.onUrl(key, item.shownAs);
  }

  /** The file goes on with that upload; one that was only compared with it gives way in its row. */
  private take(item: Item, candidate: PreviousUpload, compared: Compared): void {
    const id = idOf(candidate.uploadUrl!);
    for (const [key, other] of this.items) if (other !== item && other.shownAs === id) this.showAs(key, other, null);
    item.previous = candidate;
    item.compared = compared.bytes;
    item.comparedAt = performance.now();
    if (compared.whole) item.sum = "settled";
  }

  /** How the file compares with what the server has of an upload; null if there is nothing to go on with. */
  private async compared(item: Item, candidate: PreviousUpload, signal: AbortSignal): Promise<Compared | Different | null> {
    try {
      const compared = await this.inTime(signal, (limited) =>
        compare(this.hasher, item.file, pathOf(candidate.uploadUrl!), limited),
      );
      // It is said already what it must become, and nothing is stored that could be lost; or all was sent by others, and
      // nothing that this window sends would prove that it was this file.
      const useless = compared.complete || (compared.bytes === 0 && compared.sha256Known);
      return useless && !compared.whole ? null : compared;
    } catch (error) {
      if (error instanceof Different) return error;
      if (!(error instanceof NoUpload)) throw error;
      await defaultOptions.urlStorage.removeUpload(candidate.urlStorageKey);
      return null;
    }
  }

  /** What `work` gives, or an error if it takes longer than a connection that is alive. */
  private async inTime<T>(signal: AbortSignal, work: (limited: AbortSignal) => Promise<T>): Promise<T> {
    const limited = new AbortController();
    const timer = window.setTimeout(() => limited.abort(new Error("the server did not answer")), this.options.stallMs);
    const end = (): void => limited.abort(signal.reason);
    signal.addEventListener("abort", end);
    try {
      return await work(limited.signal);
    } finally {
      window.clearTimeout(timer);
      signal.removeEventListener("abort", end);
    }
  }

  private begin(key: string, item: Item): void {
    item.begun = true;
    item.shownAs = null;
    item.arrived = false;
    item.phase = "waiting";
    item.hint = "";
    const { name, type } = item.file;
    try {
      this.uppy.addFile({ name, type, data: item.file, source: "page", meta: { key } });
    } catch (error) {
      this.items.delete(key);
      this.listener.onGone(key);
      // Restrictions were told by "restriction-failed".
      if (!(error as { isRestriction?: boolean }).isRestriction) this.listener.onRefused((error as Error).message);
    }
  }

  private added(file: File): void {
    const key = file.id;
    const item = this.items.get(key)!;
    const memory: UrlStorage = {
      findAllUploads: () => defaultOptions.urlStorage.findAllUploads(),
      findUploadsByFingerprint: async () => (item.previous === null ? [] : [item.previous]),
      removeUpload: (urlStorageKey) => defaultOptions.urlStorage.removeUpload(urlStorageKey),
      addUpload: async (_, upload) => {
        const urlStorageKey = await defaultOptions.urlStorage.addUpload(this.fingerprint(item.file), upload);
        item.previous = { ...upload, urlStorageKey };
        // What was settled was about an upload that is no longer there.
        if (item.sum === "settled") item.sum = "unknown";
        this.sumUp(key, item);
        return urlStorageKey;
      },
    };
    const tus: TusOpts<Meta, Body> = {
      urlStorage: memory,
      httpStack: httpStack({
        beforeGoingOn: (offset, signal) => this.beforeGoingOn(key, item, offset, signal),
        afterBreak: () => this.stopping(item, probe(item.file)),
      }),
      onUploadUrlAvailable: () => {
        const url = this.tus().uploaders[key]?.url;
        if (url) this.listener.onUrl(key, idOf(url));
      },
      onShouldRetry: (error, attempt, _options, next) => {
        if (item.stop !== null) return false;
        const again = next(error);
        if (again) this.set(key, "reconnecting", reconnecting(error, attempt));
        return again;
      },
    };
    this.uppy.setFileState(key, { tus } as Partial<File>);
    this.show(key);
    // Shown as what it is from the start, and not only when its turn comes.
    if (item.previous !== null) this.listener.onUrl(key, idOf(item.previous.uploadUrl!));
  }

  // --- While it is sent ------------------------------------------------------------------------------------------------

  /** The file is compared with what the server has, each time that it is gone on with. */
  private async beforeGoingOn(key: string, item: Item, offset: number, signal: AbortSignal): Promise<void> {
    if (item.stop !== null) throw item.stop;
    const fresh = offset <= item.compared && performance.now() - item.comparedAt < FRESH_MS;
    item.compared = 0;
    if (fresh) return;
    this.set(key, "checking", CHECKING);
    const url = pathOf(item.previous!.uploadUrl!);
    await this.stopping(
      item,
      this.inTime(signal, (limited) => compare(this.hasher, item.file, url, limited)),
    );
    if (!signal.aborted) this.set(key, "waiting");
  }

  /** Waits, and remembers an error that no further try can mend. */
  private async stopping(item: Item, work: Promise<unknown>): Promise<void> {
    try {
      await work;
    } catch (error) {
      if (error instanceof Different || error instanceof Unreadable) item.stop = error;
      throw error;
    }
  }

  private progressed(key: string, sent: number): void {
    const item = this.items.get(key);
    if (item === undefined) return;
    item.speed.add(sent);
    item.sent = sent;
    item.moved = performance.now();
    // Not at the first word of it: what is gone on with shall go on at once.
    if (item.phase === "sending") this.sumUp(key, item);
    // A last event of a connection that was just closed must not hide that it was.
    if (item.phase !== "paused" && item.phase !== "failed") {
      item.phase = "sending";
      item.hint = "";
    }
    this.show(key);
  }

  /** Sending has ended without success. The file leaves Uppy, which would try it again before any other one. */
  private failed(key: string, error: Error, status: number | undefined): void {
    const item = this.items.get(key);
    if (item === undefined) return;
    const { stop, previous } = item;
    item.ended.abort();
    item.ended = new AbortController();
    this.hasher.forget(item.file);
    Object.assign(item, { begun: false, previous: null, compared: 0, stop: null, sum: "unknown" });
    if (stop instanceof Different) {
      item.sent = 0;
      this.listener.onGone(key);
      this.note(item, ANOTHER);
    } else {
      item.shownAs = previous && idOf(previous.uploadUrl!);
      this.set(key, "failed", stop instanceof Unreadable ? unreadable(stop) : explain(error, status));
    }
    window.setTimeout(() => {
      this.uppy.removeFile(key);
      if (stop instanceof Different && this.items.has(key)) this.begin(key, item);
    });
  }

  /** Ends the sending for a reason that tus-js-client does not know. */
  private halt(key: string, item: Item, reason: Different | Unreadable): void {
    item.stop = reason;
    const upload = this.tus().uploaders[key];
    // Without one it has not begun to send: it stops when it asks where to go on.
    if (upload) void upload.abort().then(() => upload.options.onError?.(reason));
  }

  /** A connection whose other end is gone without a word (a host without power, a changed network) never ends by itself. */
  private reviveStalled(stallMs: number): void {
    for (const [key, item] of this.items) {
      const stalled = performance.now() - item.moved > stallMs;
      if (!stalled || !item.begun || (item.phase !== "sending" && item.phase !== "reconnecting")) continue;
      const upload = this.tus().uploaders[key];
      if (!upload) continue;
      this.set(key, "reconnecting", "Nothing moves any more: trying another connection. What the server has stored is kept.");
      void upload.abort().then(() => upload.start());
    }
  }

  // --- What arrived is what is here ------------------------------------------------------------------------------------

  /** Computes the SHA-256 of the whole file and tells the server, which lets nothing else become a result. */
  private sumUp(key: string, item: Item): void {
    if (item.sum !== "unknown" || item.previous === null) return;
    item.sum = "computing";
    void this.tell(key, item, item.previous.uploadUrl!, item.ended.signal);
  }

  private async tell(key: string, item: Item, uploadUrl: string, signal: AbortSignal): Promise<void> {
    let problem: string | null = NOT_TOLD;
    let told = false;
    for (const delay of retryDelays().slice(0, TELL_TRIES)) {
      try {
        const sha256 = await this.hasher.wholeInTurn(item.file, signal);
        problem = await this.inTime(signal, (limited) => announce(pathOf(uploadUrl), sha256, limited));
        told = true;
        break;
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Unreadable) return this.unsummed(key, item, error);
        if (error instanceof NoUpload) break;
        await new Promise((resolve) => window.setTimeout(resolve, delay));
        if (signal.aborted) return;
      }
    }
    if (signal.aborted) return;
    if (item.previous?.uploadUrl !== uploadUrl) {
      // Another upload has taken its place meanwhile.
      item.sum = "unknown";
      this.sumUp(key, item);
    } else if (item.arrived) {
      this.finished(key, item, problem);
    } else {
      item.sum = told ? "settled" : "unknown";
      if (told && problem !== null) this.halt(key, item, new Different());
    }
  }

  /** The file could not be read as a whole. */
  private unsummed(key: string, item: Item, error: Unreadable): void {
    if (item.arrived) {
      this.finished(key, item, error.gone ? null : NOT_COMPARED);
    } else {
      item.sum = "settled";
      // A file that was moved is sent on. Of one that was changed, what is sent from here on would be of another file.
      if (!error.gone) this.halt(key, item, error);
    }
  }

  private arrived(key: string): void {
    const item = this.items.get(key);
    if (item === undefined) return;
    item.arrived = true;
    item.sent = item.file.size;
    this.sumUp(key, item);
    if (item.sum === "computing") {
      this.set(key, "comparing", "All has arrived, and is compared with the file on this device.");
    } else {
      this.finished(key, item);
    }
  }

  private finished(key: string, item: Item, problem: string | null = null): void {
    this.listener.onDone(key, item.file.name);
    if (problem !== null) this.listener.onRefused(`${item.file.name}: ${problem}`);
    this.forget(key);
  }

  // --- The list --------------------------------------------------------------------------------------------------------

  /** Takes a file that is not being sent any more off the list, so that it can be chosen again. */
  private forget(key: string): void {
    const item = this.items.get(key);
    if (item === undefined) return;
    item.ended.abort();
    this.items.delete(key);
    if (item.begun) this.removeWhenReleased(key);
  }

  /** While the tus plugin still holds a file, removing it means deleting it on the server, even if it has just been
   *  completed: the plugin tells of the success before it lets go. */
  private removeWhenReleased(key: string): void {
    if (this.tus().uploaders[key]) window.setTimeout(() => this.removeWhenReleased(key), 10);
    else this.uppy.removeFile(key);
  }

  private tus(): Tus<Meta, Body> {
    return this.uppy.getPlugin<Tus<Meta, Body>>("Tus")!;
  }

  private set(key: string, phase: Sending["phase"], hint = ""): void {
    const item = this.items.get(key);
    if (item === undefined) return;
    this.say(item, phase, hint);
    this.show(key);
  }

  private say(item: Item, phase: Sending["phase"], hint: string): void {
    item.phase = phase;
    item.hint = hint;
    item.moved = performance.now();
    item.speed.reset();
  }

  private show(key: string): void {
    const item = this.items.get(key);
    if (item === undefined) return;
    const total = item.file.size;
    const percent = total === 0 ? 0 : (100 * item.sent) / total;
    const parts = [`${Math.floor(percent)} %`, `${size(item.sent)} of ${size(total)}`];
    const speed = item.speed.value;
    if (item.phase === "sending" && speed !== null && speed > 0) {
      parts.push(`${size(speed)}/s`, `about ${duration((total - item.sent) / speed)} left`);
    }
    this.listener.onChange(key, item.file.name, total, {
      phase: item.phase,
      begun: item.begun,
      percent,
      text: item.phase === "waiting" && item.sent === 0 ? "Waiting for its turn" : parts.join(" · "),
      hint: item.hint || item.note,
    });
  }
}
