import assert from "node:assert/strict";
import fc from "fast-check";
import { encode } from "uqr";
import { qrCode } from "./qr.ts";

const INVOICE = "LNBCRT1" + "PVJLUEZSP5ZYG3ZYG3ZYG3ZYG3".repeat(10);

/** The black dots that a terminal would show. */
function dotsOf(code: string): boolean[][] {
  return code.split("\n").flatMap((line) => {
    // deno-lint-ignore no-control-regex
    const blocks = /^\x1b\[97;40m([█▀▄ ]+)\x1b\[0m$/.exec(line)?.[1] ?? assert.fail(line);
    return [
      [...blocks].map((block) => block === " " || block === "▄"),
      [...blocks].map((block) => block === " " || block === "▀"),
    ];
  });
}

Deno.test("a QR code is on the screen dot for dot, with a white edge", () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom(..."LNBC1QPZRY9X8"), maxLength: 500 }), (text) => {
      const { size, data } = encode(text, { ecc: "L", border: 2 });
      const dots = dotsOf(qrCode(text, size));
      assert.deepEqual(dots.slice(0, size), data);
      // Half a line more where the rows are odd in number: white.
      assert.ok(dots.slice(size).every((row) => row.every((dot) => !dot)));
      assert.ok(data[0]?.every((dot) => !dot) && data.every((row) => row[0] === false));
    }),
    { numRuns: 20 },
  );
});

Deno.test("an invoice in capitals fits a terminal of 80 columns, in small letters its code is larger", () => {
  const width = (text: string) => dotsOf(qrCode(text, 1_000))[0]?.length ?? 0;
  assert.ok(width(INVOICE) <= 80);
  assert.ok(width(INVOICE.toLowerCase()) > width(INVOICE));
});

Deno.test("a code that would not fit is not shown", () => {
  const { size } = encode(INVOICE, { ecc: "L", border: 2 });
  assert.match(qrCode(INVOICE, size), /█/);
  assert.equal(qrCode(INVOICE, size - 1), `(a terminal of ${size} columns would show a QR code)`);
  assert.match(qrCode("A".repeat(4_296), 1_000), /█/);
  assert.equal(qrCode("A".repeat(4_297), 1_000), "(too long for a QR code)");
});
