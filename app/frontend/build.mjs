// Bundles src/ into dist/: what the web service serves below /static/.
//
// File names carry no hash on purpose: while a release rolls over the web hosts, the page may come from one host and
// its script from another, which would not know the other release's hash. The server sends them with an ETag and
// "no-cache" instead, so a browser asks each time and is answered 304.
import { copyFileSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "dist");

rmSync(dist, { recursive: true, force: true });
mkdirSync(dist);
await build({
  absWorkingDir: here,
  entryPoints: { app: "src/main.ts", hash: "src/hash.ts", style: "src/style.css" },
  bundle: true,
  minify: true,
  sourcemap: true,
  format: "esm",
  target: ["chrome109", "firefox115", "safari16"],
  outdir: "dist",
  legalComments: "linked",
  logLevel: "warning",
});
copyFileSync(join(here, "src/icon.svg"), join(dist, "icon.svg"));
