// The requests of tus-js-client, with two checks of our own: before an upload is continued, the file is compared with
// what the server has; and a file that cannot be read is not mistaken for a lost connection.

import { type HttpRequest, type HttpResponse, type HttpStack, defaultOptions } from "tus-js-client";

export interface Checks {
  /** The server told an offset, and the next request would continue there. Rejects if it must not. */
  beforeGoingOn(offset: number, signal: AbortSignal): Promise<void>;
  /** A request with bytes of the file broke off. Rejects if the file is the reason. */
  afterBreak(): Promise<void>;
}

/** The path of an upload on the site that this page came from. The server's URLs have its public address, but the user
 *  may have come by another one (a tunnel, a second name), and must stay with it. */
export function pathOf(url: string): string {
  return new URL(url, location.href).pathname;
}

/** The upload's id is the last part of its URL: /files/<key>/<id>. */
export function idOf(uploadUrl: string): string {
  return pathOf(uploadUrl).split("/").at(-1) ?? "";
}

export function httpStack(checks: Checks): HttpStack {
  return {
    createRequest: (method, url) => checked(defaultOptions.httpStack.createRequest(method, pathOf(url)), checks),
    getName: () => "same origin, checked",
  };
}

function checked(inner: HttpRequest, checks: Checks): HttpRequest {
  const aborted = new AbortController();

  async function exchange(body: unknown): Promise<HttpResponse> {
    let response: HttpResponse;
    try {
      response = await inner.send(body);
    } catch (error) {
      if (body !== null) await checks.afterBreak();
      throw error;
    }
    const offset = Number.parseInt(response.getHeader("Upload-Offset") ?? "", 10);
    if (inner.getMethod() === "HEAD" && offset > 0) await checks.beforeGoingOn(offset, aborted.signal);
    return response;
  }

  return {
    getMethod: () => inner.getMethod(),
    getURL: () => inner.getURL(),
    setHeader: (header, value) => inner.setHeader(header, value),
    getHeader: (header) => inner.getHeader(header),
    setProgressHandler: (handler) => inner.setProgressHandler(handler),
    getUnderlyingObject: () => inner.getUnderlyingObject(),
    // Like the request itself, never answers after it was aborted: tus-js-client may have begun another one by then.
    send: (body) =>
      new Promise((resolve, reject) => {
        if (aborted.signal.aborted) return;
        exchange(body).then(
          (response) => aborted.signal.aborted || resolve(response),
          (error) => aborted.signal.aborted || reject(error as Error),
        );
      }),
    abort: () => {
      aborted.abort();
      return inner.abort();
    },
  };
}
