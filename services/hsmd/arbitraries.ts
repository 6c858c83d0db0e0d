/** Generators for property tests of the memory. */
import fc from "fast-check";
import type { MemoryRecord } from "./memory_state.ts";

function record<T>(shape: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> {
  return fc.record<T>(shape, { noNullPrototype: true });
}

const BYTES = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const OUT = record({ txid: BYTES(32), vout: fc.nat(0xffffffff) });
const U64 = fc.bigInt(0n, (1n << 64n) - 1n);
/** Any record, of any channel. */
export const arbitraryRecord: fc.Arbitrary<MemoryRecord> = fc.oneof(
  record({ type: fc.constant("database_bound" as const), databaseId: BYTES(16) }),
  record({
    type: fc.constant("memory_distrusted" as const),
    reason: fc.constantFrom("MEMORY_LOST" as const, "MEMORY_ROLLED_BACK" as const),
    expectedMemoryId: fc.constantFrom(new Uint8Array(0), new Uint8Array(16).fill(1)),
    highWater: U64,
  }),
  record({ type: fc.constant("memory_accepted" as const) }),
  record({ type: fc.constant("channel_drawn" as const), channelKeyId: BYTES(32), peerId: BYTES(33) }),
  record({ type: fc.constant("channel_adopted" as const), channelKeyId: BYTES(32) }),
  record({ type: fc.constant("epoch_registered" as const), channelKeyId: BYTES(32), epoch: U64 }),
  record({ type: fc.constant("terms_fixed" as const), channelKeyId: BYTES(32), digest: BYTES(32) }),
  record({
    type: fc.constant("remote_commitment_signed" as const),
    channelKeyId: BYTES(32),
    outpoint: OUT,
    number: U64,
    content: BYTES(32),
  }),
  record({
    type: fc.constant("local_commitment_verified" as const),
    channelKeyId: BYTES(32),
    outpoint: OUT,
    number: U64,
    content: BYTES(32),
    fundingInputs: fc.array(OUT, { maxLength: 4 }),
  }),
  record({
    type: fc.constant("inputs_signed" as const),
    channelKeyId: BYTES(32),
    outpoint: OUT,
    inputs: fc.array(OUT, { maxLength: 4 }),
  }),
  record({
    type: fc.constant("destinations_named" as const),
    channelKeyId: BYTES(32),
    outputs: fc.array(record({ amount: U64, script: BYTES(34) }), { maxLength: 3 }),
  }),
  record({ type: fc.constant("funding_locked" as const), channelKeyId: BYTES(32), outpoint: OUT }),
  record({ type: fc.constant("channel_frozen" as const), channelKeyId: BYTES(32) }),
  record({ type: fc.constant("closing_signed" as const), channelKeyId: BYTES(32) }),
);
