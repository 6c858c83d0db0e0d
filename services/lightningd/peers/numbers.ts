/** Whether a channel's rows are as new as hsmd's memory of it. */
import { fromBinary } from "@bufbuild/protobuf";
import { sameBytes } from "bolt/tx/transaction.ts";
import type { ChannelMemory } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { type Commitment, CommitmentsSchema } from "gen/arcus/store/v1/store_pb.ts";

/** Newest numbers that the rows of one funding outpoint know: committed before hsmd is asked for either. */
function newestOf(commitment: Commitment): { readonly local: bigint; readonly remote: bigint } {
  const { local, pendingLocal, remote, nextRemote, localNumber, remoteNumber } = commitment;
  return {
    local: pendingLocal?.number ?? local?.number ?? localNumber,
    remote: nextRemote?.number ?? remote?.number ?? remoteNumber,
  };
}

/**
 * Why the channel must stop: hsmd verified or signed a commitment that `commitments` (the column, null before the lock)
 * does not have. A step is committed before hsmd hears of it, so these rows were restored from an older state, and a
 * channel_reestablish said from them would make the peer close, or us reveal what is revoked. Rows that are ahead are not
 * judged here: hsmd takes the next number and no other one, unless a person accepted its memory.
 */
export function behindHsmd(commitments: Uint8Array | null, memory: ChannelMemory): string | undefined {
  if (commitments === null) return undefined;
  for (const commitment of fromBinary(CommitmentsSchema, commitments).active) {
    const { funding } = commitment;
    const known = memory.outpoints.find(({ outpoint }) =>
      funding !== undefined && outpoint?.vout === funding.vout && sameBytes(outpoint.txid, funding.txid)
    );
    if (known === undefined) continue;
    const { local, remote } = newestOf(commitment);
    if ((known.localNumber ?? 0n) > local) {
      return `hsmd verified our commitment ${known.localNumber}, the database has ${local}: it is an older one`;
    }
    if ((known.remoteNumber ?? 0n) > remote) {
      return `hsmd signed the peer's commitment ${known.remoteNumber}, the database has ${remote}: it is an older one`;
    }
  }
  return undefined;
}
