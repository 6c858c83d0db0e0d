/** The two ways to make and pay invoices: a gRPC call each, or many on one stream. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { BidiStream } from "common/grpc/stream.ts";
import { type Channel, dial, openBidi } from "common/grpc/client.ts";
import {
  type PaymentCallSchema,
  type PaymentRequestSchema,
  type PaymentResponse,
  type PaymentResult,
  Payments,
} from "gen/arcus/lightningd/v1/payments_pb.ts";
import type { RunningNode } from "tools/node/launch.ts";
import type { Payer } from "./load.ts";

/** How a load calls the API. */
export const CALLS = ["stream", "unary"] as const;
/** One of them. */
export type Call = typeof CALLS[number];

const PAY_DEADLINE_MS = 60_000;
const DESCRIPTION = "bench";

/** Invoices of `payee`, paid by `payer`. */
export function payerOf(call: Call, payer: RunningNode, payee: RunningNode): Payer {
  return call === "unary" ? unary(payer, payee) : streaming(payer, payee);
}

function unary(payer: RunningNode, payee: RunningNode): Payer {
  return {
    name: "unary",
    async invoice(msat, label) {
      const { bolt11 } = await payee.rpc.invoice({
        amountMsat: { value: { case: "amount", value: { msat } } },
        description: DESCRIPTION,
        label,
      });
      return bolt11;
    },
    async pay(bolt11) {
      await payer.rpc.pay({ bolt11 }, { deadlineMs: PAY_DEADLINE_MS });
    },
    close: () => {},
  };
}

type CallInit = NonNullable<MessageInitShape<typeof PaymentCallSchema>["call"]>;

/** Calls of many workers on one stream: those that come together travel in one message. */
class PaymentStream {
  readonly #channel: Channel;
  readonly #stream: BidiStream<PaymentResponse, MessageInitShape<typeof PaymentRequestSchema>>;
  readonly #waiting = new Map<bigint, PromiseWithResolvers<PaymentResult["result"]>>();
  #calls: MessageInitShape<typeof PaymentCallSchema>[] = [];
  #next = 1n;
  #over: Error | undefined;

  constructor(node: RunningNode) {
    if (node.apiAddress === undefined) throw new Error(`${node.name} serves no API yet`);
    this.#channel = dial(node.apiAddress);
    this.#stream = openBidi(this.#channel, Payments.method.stream);
    this.#stream.onMessage(({ results }) => {
      for (const { id, result } of results) {
        this.#waiting.get(id)?.resolve(result);
        this.#waiting.delete(id);
      }
    });
    this.#stream.onEnd((error) => {
      this.#over = error ?? new Error("the stream ended");
      for (const each of this.#waiting.values()) each.reject(this.#over);
      this.#waiting.clear();
    });
  }

  async call(call: CallInit): Promise<PaymentResult["result"]> {
    if (this.#over !== undefined) throw this.#over;
    const id = this.#next++;
    const waiting = Promise.withResolvers<PaymentResult["result"]>();
    this.#waiting.set(id, waiting);
    if (this.#calls.length === 0) queueMicrotask(() => this.#flush());
    this.#calls.push({ id, call });
    return await waiting.promise;
  }

  #flush(): void {
    const calls = this.#calls;
    this.#calls = [];
    this.#stream.write({ calls });
  }

  close(): void {
    this.#stream.end();
    this.#channel.close();
  }
}

function streaming(payer: RunningNode, payee: RunningNode): Payer {
  const invoices = new PaymentStream(payee);
  const payments = new PaymentStream(payer);
  return {
    name: "stream",
    async invoice(msat, label) {
      const result = await invoices.call({
        case: "invoice",
        value: { amountMsat: msat, label, description: DESCRIPTION },
      });
      if (result.case !== "invoice") throw new Error(said(result));
      return result.value.bolt11;
    },
    async pay(bolt11) {
      const result = await payments.call({ case: "pay", value: { bolt11 } });
      if (result.case !== "paid") throw new Error(said(result));
    },
    close() {
      invoices.close();
      payments.close();
    },
  };
}

function said(result: PaymentResult["result"]): string {
  return result.case === "refused" ? result.value.message : "an answer to another question";
}
