import assert from "node:assert/strict";
import fc from "fast-check";
import { formatJson, parseJson } from "common/rpc/json_text.ts";

Deno.test("whole numbers beyond 2^53 keep every digit", () => {
  const text = '{"a":18446744073709551615,"b":[-9007199254740993,1.5,7],"c":"18446744073709551615"}';
  assert.deepEqual(parseJson(text), {
    a: 18446744073709551615n,
    b: [-9007199254740993n, 1.5, 7],
    c: "18446744073709551615",
  });
  assert.equal(formatJson(parseJson(text)), text);
});

Deno.test("text of one value reads back, in one line and indented", () => {
  fc.assert(fc.property(fc.jsonValue({ noUnicodeString: false }), (value) => {
    const plain = JSON.parse(JSON.stringify(value));
    assert.deepEqual(parseJson(formatJson(plain)), plain);
    assert.deepEqual(parseJson(formatJson(plain, 3)), plain);
    assert.ok(!formatJson(plain).includes("\n"));
  }));
});

Deno.test("indented text looks like everybody's", () => {
  const value = { a: [1, { b: "x" }], c: [], d: {} };
  assert.equal(formatJson(value, 2), JSON.stringify(value, null, 2));
});
