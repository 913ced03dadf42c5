// Runs in a worker, so that the page stays quick: SHA-256 of a whole file or of some of its blocks.

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";

/** Bytes from `start` to `start + length`. */
export interface Range {
  start: number;
  length: number;
}

/** An order of the page: digests of `ranges`, or of the whole file (null); or the end of an order. */
export type Order = { id: number; file: Blob; ranges: Range[] | null } | { id: number; cancelled: true };

/** Digests in hexadecimal, in the order of the ranges; or the name of the DOMException that reading ended with. */
export type Answer = { id: number; digests: string[] } | { id: number; error: string };

/** Larger parts are read a little faster, but each needs several times its size in memory. */
const PART = 4 << 20;
/** Several ranges are read at once, so that their seek times overlap. */
const AT_ONCE = 4;

const cancelled = new Set<number>();

self.onmessage = (event: MessageEvent<Order>): void => {
  const order = event.data;
  if ("cancelled" in order) cancelled.add(order.id);
  else void carryOut(order.id, order.file, order.ranges);
};

async function carryOut(id: number, file: Blob, ranges: Range[] | null): Promise<void> {
  let answer: Answer;
  try {
    answer = { id, digests: ranges === null ? [await whole(id, file)] : await some(file, ranges) };
  } catch (error) {
    answer = { id, error: error instanceof DOMException ? error.name : String(error) };
  }
  if (!cancelled.delete(id)) self.postMessage(answer);
}

async function whole(id: number, file: Blob): Promise<string> {
  const hash = sha256.create();
  for (let start = 0; start < file.size && !cancelled.has(id); start += PART) {
    hash.update(await read(file, start, Math.min(PART, file.size - start)));
  }
  return bytesToHex(hash.digest());
}

async function some(file: Blob, ranges: Range[]): Promise<string[]> {
  const digests: string[] = [];
  for (let first = 0; first < ranges.length; first += AT_ONCE) {
    const group = ranges.slice(first, first + AT_ONCE);
    digests.push(...(await Promise.all(group.map(async ({ start, length }) => digest(await read(file, start, length))))));
  }
  return digests;
}

async function read(file: Blob, start: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  const data = new Uint8Array(await file.slice(start, start + length).arrayBuffer());
  // If the file became shorter, there is not always an error.
  if (data.length !== length) throw new DOMException("the file became shorter", "NotReadableError");
  return data;
}

/** With the browser's own SHA-256, if it has one: on pages by plain HTTP it has none. */
async function digest(data: Uint8Array<ArrayBuffer>): Promise<string> {
  const subtle = (self.crypto as Crypto | undefined)?.subtle;
  return bytesToHex(subtle ? new Uint8Array(await subtle.digest("SHA-256", data)) : sha256(data));
}
