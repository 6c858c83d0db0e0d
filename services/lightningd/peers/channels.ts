/** Views of channels for listings: which attempt funds one is derived, never stored. */
import { feerate, height, sat } from "bolt/units.ts";
import type { AttemptInfo, ChannelInfo } from "../ports.ts";
import type { AttemptRow, ChannelListRow, OpeningRow } from "./store.ts";

/**
 * The attempt that funds a channel: the one that the chain confirmed; before that the newest fully signed one; before
 * that the newest that is not aborted. So it does not matter who was there when a block came.
 */
export function fundingOf<
  A extends {
    readonly seq: number;
    readonly confirmed?: unknown;
    readonly completeTx?: unknown;
    readonly aborted: boolean;
  },
>(attempts: readonly A[]): A | undefined {
  const newest = (of: readonly A[]) => of.toSorted((a, b) => b.seq - a.seq)[0];
  return newest(attempts.filter((attempt) => attempt.confirmed !== undefined)) ??
    newest(attempts.filter((attempt) => attempt.completeTx !== undefined)) ??
    newest(attempts.filter((attempt) => !attempt.aborted)) ?? newest(attempts);
}

/** A row as the API sees it. */
export function attemptInfo(row: AttemptRow): AttemptInfo {
  return {
    attempt: row.attempt,
    seq: row.seq,
    initiator: row.initiator,
    txid: Uint8Array.from(row.txid),
    outputIndex: row.output_index,
    fundingScript: Uint8Array.from(row.funding_script),
    localContribution: sat(row.local_contribution_sat),
    remoteContribution: sat(row.remote_contribution_sat),
    capacity: sat(row.capacity_sat),
    feerate: feerate(Number(row.feerate_perkw)),
    fee: sat(row.fee_sat),
    tx: row.detail.tx,
    createdHeight: height(row.created_height),
    localReserve: sat(row.detail.localReserveSat),
    remoteReserve: sat(row.detail.remoteReserveSat),
    committed: row.committed,
    localSigned: row.local_signed,
    remoteSigned: row.remote_signed,
    aborted: row.aborted,
    ...(row.complete_tx === null ? {} : { completeTx: Uint8Array.from(row.complete_tx) }),
    ...(row.confirmed_height === null || row.confirmed_index === null ? {} : {
      confirmed: {
        height: height(row.confirmed_height),
        txIndex: row.confirmed_index,
        matches: row.matches === true,
      },
    }),
  };
}

/** What is not in the rows. */
export interface Surroundings {
  readonly peerConnected: boolean;
  /** Kind of the live owner. */
  readonly owner: string | undefined;
  /** The RBF under negotiation. */
  readonly opening: bigint | undefined;
  /** Of the live connection; undefined while there is none. */
  readonly generation: bigint | undefined;
}

/** A saved channel. */
export function channelInfo(
  row: ChannelListRow,
  attempts: readonly AttemptInfo[],
  around: Surroundings,
): ChannelInfo {
  const funding = fundingOf(attempts);
  const bytes = (value: Uint8Array) => Uint8Array.from(value);
  const reestablished = row.generation === around.generation &&
    (row.reestablish_received || !row.reestablish_sent);
  const base = {
    channel: row.channel,
    peerId: bytes(row.peer_id),
    peerConnected: around.peerConnected,
    state: row.state,
    channelId: bytes(row.channel_id),
    temporaryChannelId: bytes(row.temporary_channel_id),
    opener: row.opener,
    params: row.params,
    attempts,
    localAlias: row.local_alias,
    channelReadyReceived: row.channel_ready_received,
    reestablished,
    createdAt: row.created_at,
    stateChangedAt: row.state_changed_at,
    ...(around.opening === undefined ? {} : { opening: around.opening }),
    ...(around.owner === undefined ? {} : { owner: around.owner }),
    ...(funding === undefined ? {} : { funding }),
    ...(funding?.confirmed === undefined ? {} : {
      shortChannelId: {
        height: funding.confirmed.height,
        txIndex: funding.confirmed.txIndex,
        outputIndex: funding.outputIndex,
      },
    }),
    ...(row.locked_attempt === null ? {} : { lockedAttempt: row.locked_attempt }),
    ...(row.remote_alias === null ? {} : { remoteAlias: row.remote_alias }),
    ...(row.shutdown_sent === null ? {} : { shutdownSent: bytes(row.shutdown_sent) }),
    ...(row.shutdown_received === null ? {} : { shutdownReceived: bytes(row.shutdown_received) }),
    ...(row.error_text === null ? {} : { errorText: row.error_text }),
  } satisfies Omit<ChannelInfo, "status">;
  return { ...base, status: statusOf(base) };
}

/** An open without a row in `channels`. */
export function openingInfo(
  row: OpeningRow,
  around: Surroundings,
  channelId: Uint8Array | undefined,
): ChannelInfo {
  return {
    opening: row.opening,
    peerId: Uint8Array.from(row.peer_id),
    peerConnected: around.peerConnected,
    state: "DUALOPEND_OPEN_INIT",
    ...(channelId === undefined ? {} : { channelId }),
    ...(row.temporary_channel_id === null
      ? {}
      : { temporaryChannelId: Uint8Array.from(row.temporary_channel_id) }),
    opener: row.initiator,
    ...(around.owner === undefined ? {} : { owner: around.owner }),
    attempts: [],
    channelReadyReceived: false,
    reestablished: true,
    status: ["DUALOPEND_OPEN_INIT: the funding transaction is negotiated"],
    createdAt: row.created_at,
    stateChangedAt: row.created_at,
  };
}

/** What the channel waits for, in words. */
function statusOf(channel: Omit<ChannelInfo, "status">): string[] {
  const { state, errorText, funding } = channel;
  if (errorText !== undefined) return [`${state}: failed: ${errorText}`];
  const lines: string[] = [];
  switch (state) {
    case "DUALOPEND_OPEN_COMMIT_READY":
      lines.push(`${state}: waits for the peer's first commitment`);
      break;
    case "DUALOPEND_OPEN_COMMITTED":
      lines.push(`${state}: waits for tx_signatures`);
      break;
    case "DUALOPEND_AWAITING_LOCKIN":
      lines.push(
        funding?.confirmed === undefined
          ? `${state}: the funding transaction waits for a block`
          : `${state}: confirmed at height ${funding.confirmed.height}; ` +
            (channel.lockedAttempt === undefined
              ? "waits for depth"
              : channel.channelReadyReceived
              ? "ready"
              : "our channel_ready is sent, the peer's is missing"),
      );
      break;
    case "CHANNELD_NORMAL":
      lines.push(
        funding?.confirmed === undefined
          ? `${state}: paused, its funding transaction was undone by a reorg`
          : `${state}: channel is usable`,
      );
      break;
    default:
      lines.push(state);
  }
  if (channel.opening !== undefined) lines.push("a replacement of the funding transaction is negotiated");
  if (!channel.peerConnected) lines.push("the peer is away");
  else if (!channel.reestablished) lines.push("waits for channel_reestablish");
  return lines;
}
