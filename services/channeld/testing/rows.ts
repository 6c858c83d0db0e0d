/** Rows for tests: a channel as dualopend hands it over at lock-in. */
import { create, toBinary } from "@bufbuild/protobuf";
import type { ChannelStore, Htlc, HtlcState } from "bolt/channel/types.ts";
import { htlcKey } from "bolt/channel/types.ts";
import type { ChannelParams, PartyParams } from "bolt/dualopen/types.ts";
import { feerate, msat, sat } from "bolt/units.ts";
import { ANCHORS_STATIC_REMOTEKEY, encodeChannelType } from "bolt/wire/channel_type.ts";
import type { Sql } from "common/pg/client.ts";
import { CommitmentsSchema, FundingAttemptSchema } from "gen/arcus/store/v1/store_pb.ts";
import { encodeParams } from "subd/rows.ts";

const point = (n: number): Uint8Array => new Uint8Array(33).fill(n).fill(2, 0, 1);

function party(n: number): PartyParams {
  return {
    fundingPubkey: point(n),
    revocationBasepoint: point(n + 1),
    paymentBasepoint: point(n + 2),
    delayedPaymentBasepoint: point(n + 3),
    htlcBasepoint: point(n + 4),
    firstPerCommitmentPoint: point(n + 5),
    secondPerCommitmentPoint: point(n + 6),
    dustLimit: sat(354),
    maxHtlcValueInFlight: msat(100_000_000),
    htlcMinimum: msat(1),
    toSelfDelay: 144,
    maxAcceptedHtlcs: 30,
    upfrontShutdownScript: null,
  };
}

/** What both sides fixed. */
export const PARAMS: ChannelParams = {
  local: party(10),
  remote: party(20),
  channelType: encodeChannelType(ANCHORS_STATIC_REMOTEKEY),
  commitmentFeerate: feerate(1000),
  minimumDepth: 1,
};
/** The point of the peer's channel_ready. */
export const REMOTE_NEXT_POINT: Uint8Array = point(26);
/** Epoch of {@link insertChannel}. */
export const EPOCH = 3n;

const random = (length: number): Uint8Array => crypto.getRandomValues(new Uint8Array(length));

/** A channel of 180,000 sat, 120,000 of them ours, locked on its confirmed attempt. Answers channels.channel. */
export async function insertChannel(sql: Sql): Promise<bigint> {
  const [channel] = await sql<{ channel: bigint }[]>`
    INSERT INTO channels (peer_id, channel_id, temporary_channel_id, opener, state, owner_epoch, owner_instance,
      owner_daemon, channel_key_id, payment_key_index, params, generation, local_alias, created_height)
    VALUES (${point(9)}, ${random(32)}, ${random(32)}, 'local', 'DUALOPEND_AWAITING_LOCKIN', ${EPOCH}, 'test',
      'channeld', ${random(32)}, 7, ${encodeParams(PARAMS, { local: random(1), remote: random(1) })}, 1,
      ${String(new DataView(random(8).buffer).getBigUint64(0))}, 100)
    RETURNING channel`;
  const txid = random(32);
  const detail = toBinary(
    FundingAttemptSchema,
    create(FundingAttemptSchema, { version: 1, localReserveSat: 1800n, remoteReserveSat: 1801n }),
  );
  const [attempt] = await sql<{ attempt: bigint }[]>`
    INSERT INTO funding_attempts (channel, seq, initiator, txid, output_index, funding_script,
      local_contribution_sat, remote_contribution_sat, capacity_sat, feerate_perkw, fee_sat, locktime, detail,
      created_height)
    VALUES (${channel!.channel}, 0, 'local', ${txid}, 1, ${random(34)}, 120000, 60000, 180000, 1000, 500, 100,
      ${detail}, 100)
    RETURNING attempt`;
  const commitments = toBinary(
    CommitmentsSchema,
    create(CommitmentsSchema, {
      version: 1,
      active: [{
        attempt: attempt!.attempt,
        funding: { txid, vout: 1 },
        capacitySat: 180_000n,
        toLocalMsat: 120_000_000n,
        toRemoteMsat: 60_000_000n,
        feeratePerkw: 1000,
        remoteSignature: new Uint8Array(64).fill(5),
      }],
    }),
  );
  await sql`
    UPDATE channels SET state = 'CHANNELD_NORMAL', locked_attempt = ${attempt!.attempt},
      commitments = ${commitments}, channel_ready_received = true, remote_next_point = ${REMOTE_NEXT_POINT}
    WHERE channel = ${channel!.channel}`;
  await sql`
    INSERT INTO blocks VALUES (101, ${random(32)}, ${new Uint8Array(32)}) ON CONFLICT DO NOTHING`;
  await sql`
    INSERT INTO attempt_confirmations (attempt, height, tx_index, matches)
    VALUES (${attempt!.attempt}, 101, 1, true)`;
  return channel!.channel;
}

/** A live HTLC. */
export function htlcOf(
  offered: boolean,
  id: bigint,
  state: HtlcState,
  changes: Partial<Htlc> = {},
): Htlc {
  return {
    key: htlcKey(offered, id),
    offered,
    id,
    state,
    amount: msat(1_000_000n + id),
    paymentHash: new Uint8Array(32).fill(Number(id % 256n)),
    cltvExpiry: 500,
    origin: offered ? id + 1n : null,
    onion: new Uint8Array(1366).fill(Number(id % 256n)),
    removal: null,
    sharedSecret: null,
    blinded: false,
    ...changes,
  };
}

/** A step that changes only what is named. */
export function storeOf(changes: Partial<ChannelStore>): ChannelStore {
  return {
    state: "CHANNELD_NORMAL",
    commitments: null,
    added: [],
    changed: [],
    removed: [],
    remoteAlias: null,
    shutdownSent: null,
    shutdownReceived: null,
    errorText: null,
    dataLoss: false,
    ...changes,
  };
}
