import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { downloadChecked } from "./archive.ts";

async function withServer(answer: () => Response, work: (url: string, file: string) => Promise<void>) {
  const dir = await Deno.makeTempDir();
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, answer);
  try {
    await work(`http://127.0.0.1:${server.addr.port}/`, join(dir, "file"));
  } finally {
    await server.shutdown();
    await Deno.remove(dir, { recursive: true });
  }
}

const CONTENT = "an archive";
const SHA256 = createHash("sha256").update(CONTENT).digest("hex");

Deno.test("a file with the right hash is taken", () =>
  withServer(() => new Response(CONTENT), async (url, file) => {
    await downloadChecked({ url, sha256: SHA256 }, file);
    assert.equal(await Deno.readTextFile(file), CONTENT);
  }));

Deno.test("a file with another hash is refused", () =>
  withServer(() => new Response(`${CONTENT}!`), async (url, file) => {
    await assert.rejects(downloadChecked({ url, sha256: SHA256 }, file), /SHA-256/);
  }));

Deno.test("an error of the server is one here", () =>
  withServer(() => new Response("no", { status: 404 }), async (url, file) => {
    await assert.rejects(downloadChecked({ url, sha256: SHA256 }, file), /404/);
  }));

Deno.test("where nobody answers it fails at once", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  const file = await Deno.makeTempFile();
  try {
    await assert.rejects(downloadChecked({ url: `http://127.0.0.1:${port}/`, sha256: SHA256 }, file));
  } finally {
    await Deno.remove(file);
  }
});
