// Is the file on this device the one that the upload was begun with? And in the end, does the server have this file?
// Name, size and date prove nothing: two files may agree in all of them.

import type { Answer, Order, Range } from "./hash";

/** The file cannot be read (any more). `gone`: it was moved or removed. Else it was changed, or may not be read. */
export class Unreadable extends Error {
  constructor(readonly gone: boolean) {
    super(gone ? "the file is not where it was" : "the file was changed");
  }
}

/** What the server has is not of this file. */
export class Different extends Error {}

/** The server has no such upload. */
export class NoUpload extends Error {}

/** Computes digests in a worker. */
export class Hasher {
  private worker: Worker | null = null;
  private orders = 0;
  private readonly waiting = new Map<number, { resolve(digests: string[]): void; reject(error: Error): void }>();
  /** Whole files are read one after the other: at the same time they would only slow each other down. */
  private turn: Promise<unknown> = Promise.resolve();
  private readonly sums = new WeakMap<Blob, string>();

  /** SHA-256 of the whole file in hexadecimal. Rejects with Unreadable, or another error if it cannot be computed now. */
  async whole(file: Blob, signal: AbortSignal): Promise<string> {
    const [digest] = await this.ask(file, null, signal);
    return digest!;
  }

  /** The same, after all earlier calls of this method. The sum is computed once and then remembered. */
  wholeInTurn(file: Blob, signal: AbortSignal): Promise<string> {
    const computed = this.turn.then(async () => {
      signal.throwIfAborted();
      const sum = this.sums.get(file) ?? (await this.whole(file, signal));
      this.sums.set(file, sum);
      return sum;
    });
    this.turn = computed.catch(() => undefined);
    return computed;
  }

  /** Forgets the sum of a file that may have changed. */
  forget(file: Blob): void {
    this.sums.delete(file);
  }

  /** The same for each range. */
  ranges(file: Blob, ranges: Range[], signal: AbortSignal): Promise<string[]> {
    return this.ask(file, ranges, signal);
  }

  private ask(file: Blob, ranges: Range[] | null, signal: AbortSignal): Promise<string[]> {
    return new Promise((resolve, reject) => {
      const id = ++this.orders;
      this.waiting.set(id, { resolve, reject });
      const worker = this.started();
      signal.addEventListener("abort", () => {
        if (this.waiting.delete(id)) worker.postMessage({ id, cancelled: true } satisfies Order);
        reject(signal.reason as Error);
      });
      worker.postMessage({ id, file, ranges } satisfies Order);
    });
  }

  private started(): Worker {
    if (this.worker !== null) return this.worker;
    const worker = new Worker("/static/hash.js", { type: "module" });
    worker.addEventListener("message", (event: MessageEvent<Answer>) => {
      const order = this.waiting.get(event.data.id);
      this.waiting.delete(event.data.id);
      if ("digests" in event.data) order?.resolve(event.data.digests);
      else order?.reject(readingError(event.data.error));
    });
    // Its script could not be loaded. The next order starts another worker.
    worker.addEventListener("error", () => {
      this.worker = null;
      const orders = [...this.waiting.values()];
      this.waiting.clear();
      for (const order of orders) order.reject(new Error("the script that computes checksums could not be loaded"));
    });
    this.worker = worker;
    return worker;
  }
}

function readingError(name: string): Error {
  if (name === "NotFoundError") return new Unreadable(true);
  if (name === "NotReadableError") return new Unreadable(false);
  return new Error(`the file could not be read: ${name}`);
}

/** The outcome of a comparison. */
export interface Compared {
  /** How many bytes the server has. The file begins with them, as far as the sample tells. */
  bytes: number;
  /** The server knows what the whole file must be. */
  sha256Known: boolean;
  /** The whole file was compared with its SHA-256. */
  whole: boolean;
  /** The server has as many bytes as the file. */
  complete: boolean;
}

interface Sample {
  /** SHA-256 of the whole file, if it is known. */
  sha256: string | null;
  blocks: (Range & { sha256: string })[];
}

/** A file of up to this many bytes is read as a whole, which proves more. A sample may have as many bytes. */
const WHOLE = 64_000_000;

/** Compares the file with a sample, chosen by the server, of what it has of the upload at `url`.
 *
 *  Rejects with Different, Unreadable, NoUpload, or another error if the server cannot be asked now. */
export async function compare(hasher: Hasher, file: Blob, url: string, signal: AbortSignal): Promise<Compared> {
  const answer = await fetch(`${url}/digests`, { signal, cache: "no-store" });
  if (!answer.ok) throw new Error(await refused(answer));
  const { blocks, sha256 } = (await answer.json()) as Sample;
  const last = blocks.at(-1);
  const bytes = last === undefined ? 0 : last.start + last.length;
  const complete = bytes === file.size;
  const whole = sha256 !== null && (file.size <= WHOLE || complete);
  if (whole) {
    if ((await hasher.whole(file, signal)) !== sha256) throw new Different();
  } else {
    const digests = await hasher.ranges(file, blocks, signal);
    if (!blocks.every((block, number) => block.sha256 === digests[number])) throw new Different();
  }
  return { bytes, sha256Known: sha256 !== null, whole, complete };
}

/** Tells the server the SHA-256 of the whole file. Returns null if the server agrees, else its sentence about it.
 *
 *  Rejects with NoUpload, or another error if the server cannot be told now. */
export async function announce(url: string, sha256: string, signal: AbortSignal): Promise<string | null> {
  const answer = await fetch(`${url}/sha256`, { method: "PUT", body: sha256, signal });
  if (answer.ok) return null;
  return refused(answer);
}

/** The server's sentence about a contradiction (409). Rejects after any other answer. */
async function refused(answer: Response): Promise<string> {
  const told = (await answer.json().catch(() => null)) as { error?: string } | null;
  // A server of an older release, which cannot compare, answers 404 too, but not in JSON. During a deployment another
  // web host can compare.
  if (told?.error !== undefined && (answer.status === 404 || answer.status === 410)) throw new NoUpload();
  if (told?.error !== undefined && answer.status === 409) return told.error;
  const advice = answer.status === 404 ? "; reload the page if this lasts" : "";
  throw new Error(`the server answered ${answer.status}${advice}`);
}

/** Rejects with Unreadable if the file cannot be read as it was when it was chosen. */
export async function assertReadable(file: Blob): Promise<void> {
  try {
    const last = await file.slice(-1).arrayBuffer();
    if (last.byteLength !== Math.min(1, file.size)) throw new Unreadable(false);
  } catch (error) {
    throw error instanceof DOMException ? readingError(error.name) : error;
  }
}
