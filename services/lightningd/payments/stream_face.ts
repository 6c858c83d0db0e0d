/** arcus.lightningd.v1.Payments: many invoices and payments on one stream, answered as they are done, together. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { invalidArgument, toArcusError } from "common/grpc/errors.ts";
import { implement, type ImplementedService } from "common/grpc/server.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import type { Logger } from "common/log.ts";
import {
  type PaymentCall,
  type PaymentRequest,
  type PaymentResponseSchema,
  type PaymentResultSchema,
  Payments,
} from "gen/arcus/lightningd/v1/payments_pb.ts";
import type { PaymentRoom } from "./payments.ts";

type Result = MessageInitShape<typeof PaymentResultSchema>;
type Stream = BidiStream<PaymentRequest, MessageInitShape<typeof PaymentResponseSchema>>;

/** Calls of one stream that are under way; more are not read. */
export const MAX_CALLS = 10_000;
/** CLN: an error without a code of its own. */
const GENERAL = -1;
const INVALID_PARAMS = -32602;

/** The service over an engine. */
export function paymentStream(room: PaymentRoom, log: Logger): ImplementedService {
  return implement(Payments, { stream: { open: (stream) => void new Caller(room, log, stream) } });
}

/** One caller. */
class Caller {
  #results: Result[] = [];
  #scheduled = false;
  #full = false;
  #under = 0;
  #paused = false;
  #ended = false;

  constructor(
    private readonly room: PaymentRoom,
    private readonly log: Logger,
    private readonly stream: Stream,
  ) {
    stream.onDrain(() => {
      this.#full = false;
      this.#flush();
    });
    stream.onMessage(({ calls }) => {
      for (const call of calls) this.#take(call);
      if (this.#under >= MAX_CALLS && !this.#paused) {
        this.#paused = true;
        stream.pause();
      }
    });
    stream.onEnd((error) => {
      this.#ended = true;
      if (error !== undefined) stream.end();
      else this.#finish();
    });
  }

  #take(call: PaymentCall): void {
    this.#under++;
    this.#run(call).catch((error): Result => {
      const failure = toArcusError(error);
      if (failure.reason === "INTERNAL") {
        this.log.error({ err: error }, "a call of the payment stream failed");
      }
      const { clnCode = GENERAL, reason, message } = failure;
      return { id: call.id, result: { case: "refused", value: { clnCode, reason, message } } };
    }).then((result) => {
      this.#under--;
      this.#results.push(result);
      if (this.#paused && this.#under < MAX_CALLS / 2) {
        this.#paused = false;
        this.stream.resume();
      }
      if (this.#scheduled || this.#full) return;
      this.#scheduled = true;
      queueMicrotask(() => {
        this.#scheduled = false;
        this.#flush();
      });
    });
  }

  async #run({ id, call }: PaymentCall): Promise<Result> {
    switch (call.case) {
      case "invoice": {
        const { amountMsat, label, description, expiry } = call.value;
        if (label === "" || amountMsat === 0n) {
          throw invalidArgument("INVALID_PARAMS", "an invoice needs a label, and an amount is not zero", {
            clnCode: INVALID_PARAMS,
          });
        }
        const value = await this.room.invoices.create({
          label,
          description,
          ...(amountMsat === undefined ? {} : { amountMsat }),
          ...(expiry === 0n ? {} : { expirySeconds: expiry }),
        });
        return { id, result: { case: "invoice", value } };
      }
      case "pay": {
        const { bolt11, amountMsat, label, retryFor } = call.value;
        const paid = await this.room.pay({
          bolt11,
          ...(amountMsat === undefined ? {} : { amountMsat }),
          ...(label === "" ? {} : { label }),
          ...(retryFor === 0 ? {} : { retrySeconds: retryFor }),
        });
        return {
          id,
          result: {
            case: "paid",
            value: {
              paymentPreimage: paid.preimage,
              paymentHash: paid.paymentHash,
              amountMsat: paid.amountMsat,
              amountSentMsat: paid.sentMsat,
              parts: paid.parts,
            },
          },
        };
      }
      case undefined:
        throw invalidArgument("UNSET_ONEOF", "a call that this build does not know");
    }
  }

  #flush(): void {
    if (this.#results.length > 0 && !this.#full) {
      this.#full = !this.stream.write({ results: this.#results.splice(0) });
    }
    this.#finish();
  }

  /** The caller said all, and all is answered. */
  #finish(): void {
    if (this.#ended && this.#under === 0 && this.#results.length === 0) this.stream.end();
  }
}
