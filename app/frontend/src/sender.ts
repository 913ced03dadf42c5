// Sending files: Uppy's core keeps the list, its tus plugin (tus-js-client) sends. This file adds what a person needs
// to see of it, and the patience to outlast a failover.

import Uppy, { type Body, type Meta, type UppyFile } from "@uppy/core";
import Tus, { type TusOpts } from "@uppy/tus";
import { type DetailedError, defaultOptions } from "tus-js-client";

import { Speed, duration, size } from "./format";
import type { Sending } from "./view";

type File = UppyFile<Meta, Body>;

/** Milliseconds before each try to reconnect. tus-js-client counts from the start again whenever bytes got through,
 *  so this bounds one outage: about two hours. The spread keeps all users from coming back in the same second. */
function retryDelays(): number[] {
  const delays = [500, 1000, 2000, 3000, 5000, 5000];
  for (let i = 0; i < 720; i += 1) delays.push(8000 + Math.round(Math.random() * 4000));
  return delays;
}

function pathOf(url: string): string {
  return new URL(url, location.href).pathname;
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

interface Local {
  /** When something last happened to it. */
  moved: number;
  speed: Speed;
  phase: Sending["phase"];
  sent: number;
  hint: string;
}

/** Sends files and tells `listener` how each is doing. `key` names a file within this window. */
export class Sender {
  private readonly uppy: Uppy<Meta, Body>;
  private readonly local = new Map<string, Local>();
  private readonly urls = new Map<string, string>();
  private readonly endpoint: string;

  constructor(
    options: SenderOptions,
    private readonly listener: Listener,
  ) {
    this.endpoint = options.endpoint;
    this.uppy = new Uppy<Meta, Body>({
      // The id is part of what tus-js-client remembers an interrupted upload by: another user of this browser who
      // chooses the same file starts an upload of his own.
      id: `longhaul-${options.owner}`,
      autoProceed: true,
      restrictions: { maxFileSize: options.maxBytes },
    });
    this.uppy.use(Tus, {
      endpoint: options.endpoint,
      limit: options.simultaneous,
      retryDelays: retryDelays(),
      // The server names uploads by its public address; whoever came by another one (a tunnel, a second name) must stay
      // with that, because a page may only talk to where it came from.
      httpStack: {
        createRequest: (method, url) => defaultOptions.httpStack.createRequest(method, pathOf(url)),
        getName: () => "same origin",
      },
      // Only an unfinished upload is to be found again: choosing a finished file once more uploads it once more.
      removeFingerprintOnSuccess: true,
      allowedMetaFields: ["name", "type"],
    });
    this.uppy.on("file-added", (file) => this.added(file));
    this.uppy.on("upload-progress", (file, progress) => {
      if (file !== undefined) this.progressed(file, progress.bytesUploaded);
    });
    this.uppy.on("upload-pause", (file, isPaused) => {
      if (file !== undefined) this.set(file, isPaused ? "paused" : "waiting");
    });
    this.uppy.on("upload-retry", (file) => this.set(file, "waiting"));
    this.uppy.on("upload-error", (file, error, response) => {
      if (file !== undefined) this.set(file, "failed", explain(error as Error, response?.status));
    });
    this.uppy.on("upload-success", (file, response) => {
      if (file === undefined) return;
      // An empty file, or one whose last byte had arrived before, ends without any progress event.
      if (response?.uploadURL) this.named(file.id, response.uploadURL);
      this.listener.onDone(file.id, file.name);
      this.forget(file.id);
    });
    this.uppy.on("file-removed", (file) => {
      if (this.local.delete(file.id)) this.listener.onGone(file.id);
    });
    window.setInterval(() => this.reviveStalled(options.stallMs), options.stallMs / 10);
    this.uppy.on("restriction-failed", (file, error) => {
      this.listener.onRefused(file === undefined ? error.message : `${file.name}: ${error.message}`);
    });
  }

  add(files: Iterable<globalThis.File>): void {
    for (const data of files) {
      try {
        this.uppy.addFile({ name: data.name, type: data.type, data, source: "page" });
      } catch (error) {
        // Restrictions were told by "restriction-failed"; what is left is a file that is already in the list.
        if (!(error as { isRestriction?: boolean }).isRestriction) this.listener.onRefused((error as Error).message);
      }
    }
  }

  pause(key: string): void {
    if (!this.uppy.getFile(key)?.isPaused) this.uppy.pauseResume(key);
  }

  resume(key: string): void {
    if (this.uppy.getFile(key)?.isPaused) this.uppy.pauseResume(key);
  }

  again(key: string): void {
    void this.uppy.retryUpload(key);
  }

  /** Ends the upload for good: the server is told to delete what it has. */
  cancel(key: string): void {
    this.uppy.removeFile(key);
  }

  /** Takes a failed file off the list; what the server has of it stays, so that choosing it again goes on. */
  dismiss(key: string): void {
    this.forget(key);
    this.listener.onGone(key);
  }

  get busy(): boolean {
    return [...this.local.values()].some((item) => item.phase !== "failed");
  }

  /** Takes a file that is not being sent any more off Uppy's list, so that it can be chosen again. */
  private forget(key: string): void {
    this.local.delete(key);
    this.urls.delete(key);
    this.removeWhenReleased(key);
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

  private added(file: File): void {
    this.local.set(file.id, { moved: performance.now(), speed: new Speed(), phase: "waiting", sent: 0, hint: "" });
    const tus: TusOpts<Meta, Body> = {
      onShouldRetry: (error, attempt, _options, next) => {
        const again = next(error);
        if (again) this.set(this.uppy.getFile(file.id), "reconnecting", reconnecting(error, attempt));
        return again;
      },
    };
    this.uppy.setFileState(file.id, { tus } as Partial<File>);
    this.show(file);
    void this.recognise(file);
  }

  /** An upload of this file that was begun earlier in this browser will be gone on with: show it as that from the start. */
  private async recognise(file: File): Promise<void> {
    const fingerprint = ["tus", file.id, this.endpoint].join("-"); // as the tus plugin makes it
    const [earlier] = await defaultOptions.urlStorage.findUploadsByFingerprint(fingerprint);
    if (earlier?.uploadUrl && !this.urls.has(file.id)) this.named(file.id, earlier.uploadUrl);
  }

  private progressed(file: File, sent: number): void {
    const item = this.local.get(file.id);
    if (item === undefined) return;
    const url = (this.uppy.getFile(file.id) as { tus?: { uploadUrl?: string | null } } | undefined)?.tus?.uploadUrl;
    if (url) this.named(file.id, url);
    item.speed.add(sent);
    item.sent = sent;
    item.moved = performance.now();
    // A last event of a connection that was just closed must not hide that it was.
    if (item.phase !== "paused" && item.phase !== "failed") {
      item.phase = "sending";
      item.hint = "";
    }
    this.show(file);
  }

  /** A connection whose other end is gone without a word (a host without power, a changed network) never ends by itself. */
  private reviveStalled(stallMs: number): void {
    for (const [key, item] of this.local) {
      const stalled = performance.now() - item.moved > stallMs;
      if (!stalled || (item.phase !== "sending" && item.phase !== "reconnecting")) continue;
      const upload = this.tus().uploaders[key];
      if (!upload) continue;
      this.set(this.uppy.getFile(key), "reconnecting", "Nothing moves any more: trying another connection. What the server has stored is kept.");
      void upload.abort().then(() => upload.start());
    }
  }

  private named(key: string, url: string): void {
    if (this.urls.get(key) === url) return;
    this.urls.set(key, url);
    this.listener.onUrl(key, idOf(url));
  }

  private set(file: File | undefined, phase: Sending["phase"], hint = ""): void {
    const item = file && this.local.get(file.id);
    if (file === undefined || item === undefined) return;
    item.phase = phase;
    item.hint = hint;
    item.moved = performance.now();
    item.speed.reset();
    this.show(file);
  }

  private show(file: File): void {
    const item = this.local.get(file.id);
    if (item === undefined) return;
    const total = file.size ?? 0;
    const percent = total === 0 ? 0 : (100 * item.sent) / total;
    const parts = [`${Math.floor(percent)} %`, `${size(item.sent)} of ${size(total)}`];
    const speed = item.speed.value;
    if (item.phase === "sending" && speed !== null && speed > 0) {
      parts.push(`${size(speed)}/s`, `about ${duration((total - item.sent) / speed)} left`);
    }
    this.listener.onChange(file.id, file.name, total, {
      phase: item.phase,
      percent,
      text: item.phase === "waiting" && item.sent === 0 ? "Waiting for its turn" : parts.join(" · "),
      hint: item.hint,
    });
  }
}

function reconnecting(error: DetailedError, attempt: number): string {
  const status = error.originalResponse?.getStatus();
  const why = navigator.onLine ? (status ? `the server answered ${status}` : "the connection was lost") : "this device is offline";
  return `Trying again by itself (${attempt + 1}): ${why}. What the server has stored is kept.`;
}

/** What happened, what was kept and what to do, for an upload that Uppy has given up. */
function explain(error: Error, status: number | undefined): string {
  switch (status) {
    case 401:
      return "You are signed out. What was sent is kept: sign in again, then choose the same file to go on.";
    case 403:
      return "The server refused the upload from this page. Reload the page, then choose the same file again.";
    case 413:
      return "This file is larger than the server takes. Nothing of it was kept.";
    case 410:
      return "This upload was removed or has expired. Press Try again to start it anew.";
    default:
      return `${error.message.split(", caused by")[0]}. What the server has stored is kept: press Try again, or choose the same file later.`;
  }
}
