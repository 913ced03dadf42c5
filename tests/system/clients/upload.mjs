// Uploads one file with tus-js-client as it comes: no option is set that changes how it sends, retries or gives up.
// Prints what happens as one JSON object per line; the test that started it reads them.
//
//   node upload.mjs FILE --endpoint=URL [--token=TOKEN]      a new upload
//   node upload.mjs FILE --upload-url=URL                    goes on with one that exists
//
// Ends with 0 after success and 1 after tus-js-client has given up.

import fs from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { Upload } from "tus-js-client";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { endpoint: { type: "string" }, token: { type: "string" }, "upload-url": { type: "string" } },
});
const [file] = positionals;

function tell(event, facts = {}) {
  process.stdout.write(`${JSON.stringify({ event, at: Date.now() / 1000, ...facts })}\n`);
}

// A stream with a path: tus-js-client reads the file from there, at any offset and as often as it must.
const upload = new Upload(fs.createReadStream(file), {
  endpoint: values.endpoint ?? null,
  uploadUrl: values["upload-url"] ?? null,
  headers: values.token ? { Authorization: `Bearer ${values.token}` } : {},
  metadata: { filename: path.basename(file), filetype: "application/octet-stream" },
  // Only told, never decided: these do not alter what the client does.
  onUploadUrlAvailable: () => tell("url", { url: upload.url }),
  onProgress: (sent, total) => tell("progress", { sent, total }),
  onBeforeRequest: (request) => tell("request", { method: request.getMethod(), url: request.getURL() }),
  onAfterResponse: (request, response) =>
    tell("response", {
      method: request.getMethod(),
      status: response.getStatus(),
      offset: response.getHeader("Upload-Offset") ?? null,
    }),
  onSuccess: () => tell("success", { url: upload.url }),
  onError: (error) => {
    tell("error", { message: String(error) });
    process.exitCode = 1;
  },
});
upload.start();
