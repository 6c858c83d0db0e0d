/** hsmd's gRPC face: each method's permission, then what it does. */
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { type CallContext, implement, type ImplementedService } from "common/grpc/server.ts";
import { ArcusError } from "common/grpc/errors.ts";
import type { Hsm } from "./hsm.ts";
import { type Method, requireAllowed } from "./permissions.ts";
import { StepLoop } from "./step_loop.ts";

/** Told of every call: its method, and "OK" or the reason of its refusal. */
export type Observe = (method: Method, outcome: string) => void;

/** The service over an {@link Hsm}. */
export function hsmdService(hsm: Hsm, observe: Observe = () => {}): ImplementedService {
  const guard =
    <Request, Response>(method: Method, code: (request: Request) => Response | Promise<Response>) =>
    async (request: Request, context: CallContext): Promise<Response> => {
      try {
        requireAllowed(method, context);
        const response = await code(request);
        observe(method, "OK");
        return response;
      } catch (error) {
        observe(method, error instanceof ArcusError ? error.reason : "INTERNAL");
        throw error;
      }
    };
  const steps = new StepLoop(hsm, (outcome) => observe("commitmentSteps", outcome));
  return implement(Hsmd, {
    getInfo: guard("getInfo", () => hsm.getInfo()),
    bindDatabase: guard("bindDatabase", (request) => hsm.bindDatabase(request)),
    acceptMemory: guard("acceptMemory", (request) => hsm.acceptMemory(request)),
    ecdh: guard("ecdh", (request) => hsm.ecdh(request)),
    deriveWalletKeys: guard("deriveWalletKeys", (request) => hsm.deriveWalletKeys(request)),
    signWalletInputs: guard("signWalletInputs", (request) => hsm.signWalletInputs(request)),
    newChannel: guard("newChannel", (request) => hsm.newChannel(request)),
    getChannelKeys: guard("getChannelKeys", (request) => hsm.getChannelKeys(request)),
    nameDestinations: guard("nameDestinations", (request) => hsm.nameDestinations(request)),
    registerEpochs: guard("registerEpochs", (request) => hsm.registerEpochs(request)),
    listEpochs: guard("listEpochs", () => hsm.listEpochs()),
    getPerCommitmentPoint: guard("getPerCommitmentPoint", (request) => hsm.getPerCommitmentPoint(request)),
    signRemoteCommitment0: guard("signRemoteCommitment0", (request) => hsm.signRemoteCommitment0(request)),
    signFundingAttempt: guard("signFundingAttempt", (request) => hsm.signFundingAttempt(request)),
    lockFunding: guard("lockFunding", (request) => hsm.lockFunding(request)),
    commitmentSteps: {
      open(stream, context) {
        requireAllowed("commitmentSteps", context);
        steps.serve(stream, context.draining);
      },
    },
    signClosing: guard("signClosing", (request) => hsm.signClosing(request)),
    signOwnCommitment: guard("signOwnCommitment", (request) => hsm.signOwnCommitment(request)),
    signInvoices: guard("signInvoices", (request) => hsm.signInvoices(request)),
    ecdhMany: guard("ecdhMany", (request) => hsm.ecdhMany(request)),
  });
}
