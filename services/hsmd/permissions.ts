/** Who may call what. With mTLS each daemon's certificate names it; without, everyone on the socket is trusted. */
import type { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { permissionDenied } from "common/grpc/errors.ts";
import type { CallContext } from "common/grpc/server.ts";

/** A daemon, as its certificate names it. */
export type Identity = "connectd" | "lightningd" | "dualopend" | "channeld" | "closingd";

/** A method of the service, by its local name. */
export type Method = keyof typeof Hsmd["method"];

/** What each daemon's job needs, and no more: a wrong connectd can sign nothing, a wrong dualopend name no output. */
export const ALLOWED: Readonly<Record<Method, readonly Identity[]>> = {
  getInfo: ["connectd", "lightningd", "dualopend", "channeld", "closingd"],
  bindDatabase: ["lightningd"],
  acceptMemory: ["lightningd"],
  ecdh: ["connectd"],
  deriveWalletKeys: ["lightningd"],
  signWalletInputs: ["lightningd"],
  newChannel: ["lightningd", "dualopend"],
  getChannelKeys: ["lightningd", "dualopend", "channeld", "closingd"],
  nameDestinations: ["lightningd"],
  registerEpochs: ["lightningd"],
  listEpochs: ["lightningd"],
  getPerCommitmentPoint: ["lightningd", "dualopend", "channeld", "closingd"],
  signRemoteCommitment0: ["dualopend"],
  signFundingAttempt: ["dualopend"],
  lockFunding: ["dualopend", "channeld"],
  // closingd: the last revocation again, for a peer that missed it.
  commitmentSteps: ["channeld", "closingd"],
  signClosing: ["closingd"],
  signOwnCommitment: ["lightningd"],
  ecdhMany: ["lightningd", "channeld"],
  signInvoices: ["lightningd"],
};

/** Throws PERMISSION_DENIED unless the caller may call the method. */
export function requireAllowed(method: Method, context: Pick<CallContext, "identity">): void {
  const { identity } = context;
  if (identity === undefined) return;
  if (!ALLOWED[method].some((allowed) => allowed === identity)) {
    throw permissionDenied("NOT_ALLOWED", `this daemon may not call ${method}`);
  }
}
