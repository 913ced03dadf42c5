// How long to wait: between tries, and for an answer.

/** Milliseconds before each try to reconnect. tus-js-client begins at the first one again whenever bytes got through,
 *  so this limits one outage, to about two hours. They are random, so that not all users come back at once. */
export function retryDelays(): number[] {
  const delays = [500, 1000, 2000, 3000, 5000, 5000];
  for (let i = 0; i < 720; i += 1) delays.push(8000 + Math.round(Math.random() * 4000));
  return delays;
}

/** What `work` gives. Rejects if that takes longer than `ms`. */
export async function inTime<T>(ms: number, signal: AbortSignal, work: (limited: AbortSignal) => Promise<T>): Promise<T> {
  const limited = new AbortController();
  const timer = window.setTimeout(() => limited.abort(new Error("the server did not answer")), ms);
  const end = (): void => limited.abort(signal.reason);
  signal.addEventListener("abort", end);
  try {
    return await work(limited.signal);
  } finally {
    window.clearTimeout(timer);
    signal.removeEventListener("abort", end);
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => window.setTimeout(resolve, ms));
}
