/** Where a negotiation is, for whoever asked: the transaction so far, and a word for people. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { currentAttempt, fundingScriptOf, weSigned } from "bolt/dualopen/step.ts";
import type { Attempt, DualOpenState } from "bolt/dualopen/types.ts";
import type { SessionInput, SessionOutput } from "bolt/interactive/types.ts";
import { makeTransaction, sameBytes } from "bolt/tx/transaction.ts";
import type { NegotiationResponseSchema } from "gen/arcus/dualopend/v1/dualopend_pb.ts";
import type { Owner } from "./owner.ts";

type Response = MessageInitShape<typeof NegotiationResponseSchema>;

function bySerialId<T extends { readonly serialId: bigint }>(items: readonly T[]): T[] {
  return [...items].sort((a, b) => a.serialId < b.serialId ? -1 : a.serialId > b.serialId ? 1 : 0);
}

/** The answer of OpenInit, Bump and Update, from what the owner's machine is in now. */
export function negotiationResponse(owner: Owner): Response {
  const { state } = owner;
  const { negotiation, channel } = state;
  const known = {
    channelId: owner.channelId,
    opening: owner.opening,
    channel: owner.channel,
    closeTo: channel?.params.local.upfrontShutdownScript ?? new Uint8Array(),
  };
  if (negotiation?.type === "constructing") {
    const { session, params } = negotiation;
    const inputs: SessionInput[] = bySerialId(session.inputs);
    const outputs: SessionOutput[] = bySerialId(session.outputs);
    const funding = fundingScriptOf(params);
    return {
      ...known,
      closeTo: params.local.upfrontShutdownScript ?? new Uint8Array(),
      tx: makeTransaction({ locktime: session.params.locktime, inputs, outputs }).toBuffer(),
      prevouts: inputs.map(prevout),
      fundingOutputIndex: Math.max(0, outputs.findIndex((output) => sameBytes(output.script, funding))),
      commitmentsSecured: false,
      channelType: params.channelType,
      requiresConfirmedInputs: session.params.requireConfirmedInputs.byThem,
      theirFundingSat: session.params.contributions.remote,
    };
  }
  const attempt = channel === null ? undefined : currentAttempt(channel);
  if (channel === null || attempt === undefined) return known;
  return {
    ...known,
    tx: attempt.tx.unsignedTx,
    prevouts: attempt.tx.inputs.map(prevout),
    fundingOutputIndex: attempt.tx.fundingOutputIndex,
    commitmentsSecured: attempt.remoteCommitmentSignature !== null,
    channelType: channel.params.channelType,
    theirFundingSat: attempt.tx.contributions.remote,
    ...(attempt.completeTx === null ? {} : { completeTx: attempt.completeTx }),
  };
}

function prevout(input: SessionInput) {
  return {
    amountSat: input.amount,
    script: input.script,
    local: input.side === "local",
    serialId: input.serialId,
  };
}

/** CLN's state name. */
export function stateName({ channel }: DualOpenState): string {
  return channel?.state ?? "DUALOPEND_OPEN_INIT";
}

/** What the negotiation waits for. */
export function stepName(state: DualOpenState): string {
  const { negotiation, channel } = state;
  if (state.awaitingAbortEcho) return "awaiting tx_abort";
  if (negotiation !== null) {
    switch (negotiation.type) {
      case "awaiting_accept_channel2":
        return "awaiting accept_channel2";
      case "planning_open":
      case "planning_rbf":
        return "planning our part";
      case "awaiting_tx_ack_rbf":
        return "awaiting tx_ack_rbf";
      case "constructing":
        return negotiation.held === null ? "constructing" : "awaiting openchannel_update";
    }
  }
  if (channel === null) return "awaiting open_channel2";
  if (channel.errorText !== null) return "failed";
  if (state.link.type === "reestablishing") return "awaiting channel_reestablish";
  if (channel.lockedAttempt !== null) return "awaiting channel_ready";
  const attempt = currentAttempt(channel);
  return attempt === undefined ? "aborted" : signingStep(attempt);
}

function signingStep(attempt: Attempt): string {
  if (attempt.remoteCommitmentSignature === null) return "awaiting commitment_signed";
  if (!weSigned(attempt) && attempt.awaitUserSignature) return "awaiting openchannel_signed";
  if (attempt.remoteTxSignatures === null) return "awaiting tx_signatures";
  return attempt.completeTx === null ? "signing" : "awaiting confirmations";
}
