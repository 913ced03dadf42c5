// Numbers in words, for what only this window knows (speed, time left). All other texts come from the server.

const UNITS = ["bytes", "KB", "MB", "GB", "TB"];

/** Bytes in decimal units with at most one decimal, as the server writes them: 1_500_000 -> "1.5 MB". */
export function size(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits).replace(/\.0$/, "")} ${UNITS[unit]}`;
}

/** Seconds as the largest fitting unit: 90 -> "2 min". An upload on a 5 KB/s line takes days, so days are a unit too. */
export function duration(seconds: number): string {
  if (seconds < 55) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 55 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `${Math.max(1, Math.round(seconds / 3600))} h`;
  return `${Math.round(seconds / 86400)} days`;
}

/** Bytes per second over the last ten seconds. In a shorter window the value jumps with each buffer of the browser. */
export class Speed {
  static readonly WINDOW_MS = 10_000;
  private samples: { at: number; bytes: number }[] = [];

  add(bytes: number, at: number = performance.now()): void {
    const last = this.samples.at(-1);
    // After a lost connection the offset goes back: what the server had not yet stored is sent again.
    if (last !== undefined && bytes < last.bytes) this.samples = [];
    this.samples.push({ at, bytes });
    while (this.samples.length > 2 && at - this.samples[0]!.at > Speed.WINDOW_MS) this.samples.shift();
  }

  reset(): void {
    this.samples = [];
  }

  /** Bytes per second, or null while there are too few samples. */
  get value(): number | null {
    const first = this.samples[0];
    const last = this.samples.at(-1);
    if (first === undefined || last === undefined || last.at - first.at < 1000) return null;
    return ((last.bytes - first.bytes) / (last.at - first.at)) * 1000;
  }
}
