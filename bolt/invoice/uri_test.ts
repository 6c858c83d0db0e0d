import assert from "node:assert/strict";
import { stripLightningUri } from "bolt/invoice/uri.ts";

Deno.test("an invoice without what is written around it", () => {
  for (const text of ["lnbc1x", " lnbc1x\n", "lightning:lnbc1x", "LIGHTNING:lnbc1x", "lightning://lnbc1x"]) {
    assert.equal(stripLightningUri(text), "lnbc1x");
  }
  assert.equal(stripLightningUri("bitcoin:bc1?lightning=lnbc1x"), "bitcoin:bc1?lightning=lnbc1x");
});
