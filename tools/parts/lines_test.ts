import assert from "node:assert/strict";
import fc from "fast-check";
import { TextLineStream } from "./lines.ts";

async function linesOf(chunks: readonly string[]): Promise<string[]> {
  const lines: string[] = [];
  for await (const line of ReadableStream.from(chunks).pipeThrough(new TextLineStream())) lines.push(line);
  return lines;
}

Deno.test("line ends of every kind cut, also between chunks", async () => {
  assert.deepEqual(await linesOf(["a\r", "\nb\rc\n", "\nd"]), ["a", "b", "c", "", "d"]);
  assert.deepEqual(await linesOf(["a\r"]), ["a"]);
  assert.deepEqual(await linesOf([]), []);
});

Deno.test("how the text is cut into chunks makes no difference", async () => {
  const text = fc.array(fc.constantFrom("a", "b", "\n", "\r", "\r\n"), { maxLength: 20 });
  await fc.assert(fc.asyncProperty(text, async (parts) => {
    assert.deepEqual(await linesOf([...parts.join("")]), await linesOf([parts.join("")]));
  }));
});
