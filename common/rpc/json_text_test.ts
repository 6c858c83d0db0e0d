import assert from "node:assert/strict";
import fc from "fast-check";
import { formatJson, type Json, parseJson } from "common/rpc/json_text.ts";

Deno.test("whole numbers beyond 2^53 keep every digit", () => {
  const text = '{"a":18446744073709551615,"b":[-9007199254740993,1.5,7],"c":"18446744073709551615"}';
  assert.deepEqual(parseJson(text), {
    a: 18446744073709551615n,
    b: [-9007199254740993n, 1.5, 7],
    c: "18446744073709551615",
  });
  assert.equal(formatJson(parseJson(text)), text);
});

/** A value as it must read back: a whole number beyond 2^53, however the engine writes it, becomes a bigint. */
function exact(value: Json): Json {
  if (typeof value === "number") {
    const text = JSON.stringify(value);
    return !Number.isSafeInteger(value) && /^-?\d+$/.test(text) ? BigInt(text) : value;
  }
  if (Array.isArray(value)) return value.map(exact);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, exact(item)]));
}

Deno.test("text of one value reads back, in one line and indented", () => {
  fc.assert(fc.property(fc.jsonValue({ noUnicodeString: false }), (value) => {
    const plain = JSON.parse(JSON.stringify(value));
    assert.deepEqual(parseJson(formatJson(plain)), exact(plain));
    assert.deepEqual(parseJson(formatJson(plain, 3)), exact(plain));
    assert.ok(!formatJson(plain).includes("\n"));
  }));
});

Deno.test("indented text looks like everybody's", () => {
  const value = { a: [1, { b: "x" }], c: [], d: {} };
  assert.equal(formatJson(value, 2), JSON.stringify(value, null, 2));
});
