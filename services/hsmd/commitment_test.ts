/** Names of contents stand in memory files: they never change. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils.js";
import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { CommitmentContentSchema } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { canonicalOrder, isMirrored, nameContent } from "./commitment.ts";

const VECTORS: { readonly contents: readonly Vector[] } = JSON.parse(
  readFileSync(new URL("../../tests/data/arcus/keys.json", import.meta.url), "utf8"),
);

interface Htlc {
  readonly id: string;
  readonly offered: boolean;
  readonly amount_msat: string;
  readonly payment_hash: string;
  readonly cltv_expiry: number;
}

interface Vector {
  readonly sighash: string;
  readonly number: string;
  readonly to_local_msat: string;
  readonly to_remote_msat: string;
  readonly feerate_perkw: number;
  readonly htlcs: readonly Htlc[];
  readonly name: string;
}

function contentOf(vector: Vector, htlcs: readonly Htlc[] = vector.htlcs) {
  return create(CommitmentContentSchema, {
    number: BigInt(vector.number),
    toLocalMsat: BigInt(vector.to_local_msat),
    toRemoteMsat: BigInt(vector.to_remote_msat),
    feeratePerkw: vector.feerate_perkw,
    htlcIds: htlcs.map(({ id }) => BigInt(id)),
    htlcOffered: htlcs.map(({ offered }) => offered),
    htlcAmountMsat: htlcs.map(({ amount_msat }) => BigInt(amount_msat)),
    htlcPaymentHashes: concatBytes(...htlcs.map(({ payment_hash }) => hexToBytes(payment_hash))),
    htlcCltvExpiry: htlcs.map(({ cltv_expiry }) => cltv_expiry),
  });
}

Deno.test("docs/keys.md: names of contents of our own vectors", () => {
  assert.equal(VECTORS.contents.length, 3);
  for (const vector of VECTORS.contents) {
    const content = contentOf(vector);
    const name = nameContent(content, hexToBytes(vector.sighash), canonicalOrder(content)!);
    assert.equal(bytesToHex(name), vector.name);
  }
});

Deno.test("a content has one order, whatever order its columns have; the same HTLC twice has none", () => {
  const htlc = fc.record({
    id: fc.nat(20).map(String),
    offered: fc.boolean(),
    amount_msat: fc.constant("1"),
    payment_hash: fc.constant("00".repeat(32)),
    cltv_expiry: fc.constant(1),
  });
  const vector = VECTORS.contents[2]!;
  fc.assert(
    fc.property(fc.array(htlc, { maxLength: 12 }), fc.nat(), (htlcs, seed) => {
      const keys = htlcs.map(({ id, offered }) => `${offered}${id}`);
      const order = canonicalOrder(contentOf(vector, htlcs));
      assert.equal(order === null, new Set(keys).size < keys.length);
      if (order === null) return;
      const turned = htlcs.map((_, i) => htlcs[(i + seed) % htlcs.length]!);
      const again = canonicalOrder(contentOf(vector, turned))!;
      assert.deepEqual(order.map((i) => htlcs[i]), again.map((i) => turned[i]));
      assert(isMirrored(contentOf(vector, htlcs), contentOf(vector, turned)));
    }),
  );
});
