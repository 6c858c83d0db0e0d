/** What lightningd does for the subds: the chain, the wallet, the funding policy. */
import { requireBytes } from "common/grpc/check.ts";
import { aborted, alreadyExists, failedPrecondition, invalidArgument, notFound } from "common/grpc/errors.ts";
import { implement, type ImplementedService } from "common/grpc/server.ts";
import type { Logger } from "common/log.ts";
import { feerate, isSat, type Sat } from "bolt/units.ts";
import type { OutPoint } from "gen/arcus/types/v1/types_pb.ts";
import {
  Lightningd,
  TestFundingTxResponse_Verdict as Verdict,
} from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import type { ClosingRoom } from "./closing/room.ts";
import type { PeerStore } from "./peers/store.ts";
import type { Chain, Wallet } from "./ports.ts";

/** Outpoints in one CheckConfirmed: as many as a transaction under negotiation may have. */
const MAX_OUTPOINTS = 4_096;
const TXID_LENGTH = 32;

/** Settings of {@link lightningdService}. */
export interface FaceOptions {
  readonly store: PeerStore;
  readonly chain: Chain;
  readonly wallet: Wallet;
  readonly closing: Pick<ClosingRoom, "plan">;
  readonly log: Logger;
}

function amount(value: bigint, field: string): Sat {
  if (!isSat(value)) throw invalidArgument("BAD_AMOUNT", `${field}: not an amount`);
  return value;
}

function outpoint(wire: OutPoint): { txid: Uint8Array; vout: number } {
  return { txid: requireBytes(wire.txid, TXID_LENGTH, "txid"), vout: wire.vout };
}

/** arcus.lightningd.v1.Lightningd. */
export function lightningdService(options: FaceOptions): ImplementedService {
  const { store, chain, wallet, closing, log } = options;
  const stale = () => aborted("EPOCH_STALE", "another owner has it by now");
  return implement(Lightningd, {
    async planContribution(request) {
      const row = await store.opening(request.opening);
      if (row === undefined || row.owner_epoch !== request.epoch) throw stale();
      if (row.initiator !== "remote") {
        throw failedPrecondition("OWN_OPEN", "an open of ours brings its plan with it");
      }
      const plan = await wallet.planAccept({
        opening: row.opening,
        ...(row.channel === null ? {} : { channel: row.channel }),
        theirFunding: amount(request.theirFundingSat, "their_funding_sat"),
        feerate: feerate(request.fundingFeeratePerkw),
        requireConfirmed: request.requireConfirmedInputs,
      });
      // The row may have gone while coins were chosen; they went with it.
      if (!await store.progress(row.opening, request.epoch)) throw stale();
      return { plan };
    },
    async startRemoteRbf(request) {
      const { channel, epoch, generation } = request;
      const theirFunding = amount(request.theirFundingSat, "their_funding_sat");
      const row = await store.insertRbf({ channel, epoch, generation, initiator: "remote" });
      if (row === undefined) {
        if (await store.rbfOpen(channel)) {
          throw alreadyExists("RBF_OPEN", "a replacement of this channel is under negotiation");
        }
        throw stale();
      }
      try {
        const plan = await wallet.planAccept({
          opening: row.opening,
          channel,
          theirFunding,
          feerate: feerate(request.feeratePerkw),
          requireConfirmed: request.requireConfirmedInputs,
        });
        return { opening: row.opening, plan };
      } catch (error) {
        await store.dropOpening(row.opening);
        throw error;
      }
    },
    async checkConfirmed(request) {
      if (request.outpoints.length > MAX_OUTPOINTS) {
        throw invalidArgument("TOO_MANY", `at most ${MAX_OUTPOINTS} outpoints`);
      }
      return { confirmed: await chain.confirmedUnspent(request.outpoints.map(outpoint)) };
    },
    async testFundingTx(request) {
      const { verdict, detail } = await chain.testmempoolaccept(request.tx);
      return {
        verdict: { accepted: Verdict.ACCEPTED, invalid: Verdict.INVALID, not_now: Verdict.NOT_NOW }[verdict],
        detail,
      };
    },
    async broadcastAttempt(request) {
      const txid = requireBytes(request.txid, TXID_LENGTH, "txid");
      const tx = await store.completeTx(request.channel, txid);
      if (tx === undefined) throw notFound("NOT_COMPLETE", "no complete attempt with that txid");
      const detail = await chain.broadcast(tx);
      if (detail !== "") {
        log.warn({ channel: request.channel, detail }, "bitcoind does not take a funding transaction");
      }
      return { detail };
    },
    async getFeerates() {
      const { opening, commitment, minAcceptable, maxAcceptable, floor } = await chain.feerates();
      return { opening, commitment, minAcceptable, maxAcceptable, floor };
    },
    planClosing: ({ channel, epoch }) => closing.plan(channel, epoch),
    async openingProgress(request) {
      if (await store.progress(request.opening, request.epoch)) return {};
      // A negotiation that became an attempt has no row any more, and needs no timeout.
      if (await store.opening(request.opening) !== undefined) throw stale();
      return {};
    },
  });
}
