import assert from "node:assert/strict";
import fc from "fast-check";
import { DocumentError, Documents } from "common/rpc/documents.ts";

const LIMITS = { maxBytes: 1_000, maxDepth: 8 };
const bytes = (text: string) => new TextEncoder().encode(text);

Deno.test("values are found wherever the stream is cut, with or without space between", () => {
  const value = fc.oneof(
    fc.dictionary(fc.string(), fc.oneof(fc.string(), fc.integer(), fc.array(fc.string(), { maxLength: 3 })), {
      maxKeys: 4,
    }),
    fc.array(fc.string({ unit: "binary" }), { maxLength: 4 }),
  ).map((v) => JSON.stringify(v)).filter((text) => bytes(text).length <= LIMITS.maxBytes);
  const space = fc.constantFrom("", " ", "\n\n", "\t\r\n");
  const stream = fc.tuple(fc.array(fc.tuple(value, space), { maxLength: 6 }), fc.array(fc.nat({ max: 40 })));
  fc.assert(fc.property(stream, ([items, cuts]) => {
    const all = bytes(items.map(([text, gap]) => text + gap).join(""));
    const documents = new Documents(LIMITS);
    const found: string[] = [];
    let at = 0;
    for (const cut of cuts) {
      // A reader's buffer is used again.
      const buffer = all.slice(at, at + cut);
      found.push(...documents.push(buffer));
      buffer.fill(0);
      at += buffer.length;
    }
    found.push(...documents.push(all.slice(at)));
    assert.deepEqual(found, items.map(([text]) => text));
    assert.equal(documents.unfinished, false);
  }));
});

Deno.test("a value that is too long or too deep is refused as soon as it is", () => {
  assert.throws(() => new Documents(LIMITS).push(bytes(`["${"x".repeat(1_000)}"]`)), DocumentError);
  assert.throws(() => new Documents(LIMITS).push(bytes("[".repeat(9))), DocumentError);
  const slow = new Documents(LIMITS);
  slow.push(bytes('["'));
  assert.throws(() => {
    for (let i = 0; i < 1_000; i++) slow.push(bytes("x"));
  }, DocumentError);
  assert.equal(new Documents(LIMITS).push(bytes("[".repeat(8) + "]".repeat(8))).length, 1);
});

Deno.test("what is no object or array, or no UTF-8, is refused", () => {
  for (const text of ["7", '"x"', "}", "]", "null", ","]) {
    assert.throws(() => new Documents(LIMITS).push(bytes(text)), DocumentError, text);
  }
  assert.throws(() => new Documents(LIMITS).push(Uint8Array.of(0x5b, 0x22, 0xff, 0x22, 0x5d)), DocumentError);
});

Deno.test("garbage is cut or refused, and never anything else", () => {
  fc.assert(fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 10 }), (chunks) => {
    const documents = new Documents(LIMITS);
    try {
      for (const chunk of chunks) documents.push(chunk);
    } catch (error) {
      assert.ok(error instanceof DocumentError);
    }
  }));
});
