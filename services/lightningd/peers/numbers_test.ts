import assert from "node:assert/strict";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { ChannelMemorySchema } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { CommitmentSchema, CommitmentsSchema } from "gen/arcus/store/v1/store_pb.ts";
import { OutPointSchema } from "gen/arcus/types/v1/types_pb.ts";
import { behindHsmd } from "./numbers.ts";

const outpoint = { txid: new Uint8Array(32).fill(7), vout: 1 };

function rows(version: number, init: MessageInitShape<typeof CommitmentSchema>): Uint8Array {
  const commitment = create(CommitmentSchema, init);
  commitment.funding = create(OutPointSchema, outpoint);
  return toBinary(
    CommitmentsSchema,
    create(CommitmentsSchema, {
      version,
      active: [commitment],
    }),
  );
}

const memory = (localNumber: bigint, remoteNumber: bigint) =>
  create(ChannelMemorySchema, { outpoints: [{ outpoint, localNumber, remoteNumber }] });

const settled = rows(2, { local: { number: 5n }, remote: { number: 6n } });
const pending = rows(2, {
  local: { number: 5n },
  pendingLocal: { number: 6n },
  remote: { number: 6n },
  nextRemote: { number: 7n },
});

Deno.test("rows as new as hsmd's memory, or one step ahead of it, go on", () => {
  assert.equal(behindHsmd(settled, memory(5n, 6n)), undefined);
  for (const local of [5n, 6n]) {
    for (const remote of [6n, 7n]) assert.equal(behindHsmd(pending, memory(local, remote)), undefined);
  }
});

Deno.test("rows that were restored from an older state stop the channel", () => {
  assert.match(behindHsmd(settled, memory(6n, 6n)) ?? "", /our commitment 6, the database has 5/);
  assert.match(behindHsmd(settled, memory(5n, 7n)) ?? "", /peer's commitment 7, the database has 6/);
  assert.match(behindHsmd(pending, memory(7n, 7n)) ?? "", /our commitment 7, the database has 6/);
  assert.match(behindHsmd(pending, memory(6n, 8n)) ?? "", /peer's commitment 8, the database has 7/);
});

Deno.test("rows of the lock-in are at number 0 of both sides", () => {
  const locked = rows(1, { localNumber: 0n, remoteNumber: 0n });
  assert.equal(behindHsmd(locked, memory(0n, 0n)), undefined);
  assert.match(behindHsmd(locked, memory(1n, 0n)) ?? "", /older/);
});

Deno.test("without a lock, or for an outpoint that hsmd does not know, there is nothing to compare", () => {
  assert.equal(behindHsmd(null, memory(3n, 3n)), undefined);
  assert.equal(behindHsmd(settled, create(ChannelMemorySchema, {})), undefined);
});
