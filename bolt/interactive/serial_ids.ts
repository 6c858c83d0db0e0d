import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes } from "@noble/hashes/utils.js";
import { err, ok, type Result } from "bolt/result.ts";
import type { PlanFailure } from "bolt/interactive/failures.ts";
import { MAX_SERIAL_ID } from "bolt/interactive/limits.ts";
import type { SerialIds, SessionParams } from "bolt/interactive/types.ts";

/** Whether a serial id is one of the initiator's (even) or of the other side's (odd): BOLT 2. */
export function serialIdIsInitiators(serialId: bigint): boolean {
  return (serialId & 1n) === 0n;
}

/** As many serial ids as asked for, of the role's parity, none repeated. */
export function ownSerialIds(
  source: SerialIds,
  role: SessionParams["role"],
  count: number,
): Result<readonly bigint[], PlanFailure> {
  const ids = source.type === "given" ? source.ids : derive(source.seed, role, count);
  const good = ids.length === count && new Set(ids).size === count &&
    ids.every((id) => id >= 0n && id <= MAX_SERIAL_ID && serialIdIsInitiators(id) === (role === "initiator"));
  return good ? ok(ids) : err({ type: "plan_bad_serial_ids" });
}

/** SHA-256(seed ‖ counter): scattered over all u64, so that the order of our items in the transaction tells nothing. */
function derive(seed: Uint8Array, role: SessionParams["role"], count: number): readonly bigint[] {
  const ids = new Set<bigint>();
  const parity = role === "initiator" ? 0n : 1n;
  for (let counter = 0; ids.size < count; counter++) {
    const index = new Uint8Array(4);
    new DataView(index.buffer).setUint32(0, counter);
    const hash = sha256(concatBytes(seed, index));
    const number = new DataView(hash.buffer, hash.byteOffset).getBigUint64(0);
    ids.add((number & ~1n) | parity);
  }
  return [...ids];
}
