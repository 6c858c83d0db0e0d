import assert from "node:assert/strict";
import { fundingOf } from "./channels.ts";

const attempt = (seq: number, more: { confirmed?: true; completeTx?: true; aborted?: boolean } = {}) => ({
  seq,
  aborted: false,
  ...more,
});

Deno.test("no attempt funds nothing", () => assert.equal(fundingOf([]), undefined));

Deno.test("a single attempt funds, signed or not", () => assert.equal(fundingOf([attempt(0)])?.seq, 0));

Deno.test("the newest fully signed one funds while nothing is confirmed", () => {
  const attempts = [attempt(0, { completeTx: true }), attempt(1, { completeTx: true }), attempt(2)];
  assert.equal(fundingOf(attempts)?.seq, 1);
  assert.equal(fundingOf(attempts.toReversed())?.seq, 1);
});

Deno.test("the confirmed one funds, also a lesser-fee one, one that we never completed, or an aborted one", () => {
  const later = attempt(1, { completeTx: true });
  assert.equal(fundingOf([attempt(0, { completeTx: true, confirmed: true }), later])?.seq, 0);
  assert.equal(fundingOf([attempt(0, { confirmed: true }), later])?.seq, 0);
  assert.equal(fundingOf([attempt(0, { confirmed: true, aborted: true }), later])?.seq, 0);
});

Deno.test("an aborted one does not fund while another one may", () => {
  assert.equal(fundingOf([attempt(0), attempt(1, { aborted: true })])?.seq, 0);
  assert.equal(fundingOf([attempt(1, { aborted: true })])?.seq, 1);
});
