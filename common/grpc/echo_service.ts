/** The Echo service of the adapter's own tests. */
import { ArcusError, Code, failedPrecondition } from "common/grpc/errors.ts";
import { type CallContext, implement } from "common/grpc/server.ts";
import { Echo, type EchoMessage } from "gen/arcus/testing/v1/testing_pb.ts";

/** What a test sees of the calls. */
export interface EchoProbe {
  readonly contexts: CallContext[];
  /** Messages that the callback-form handler wrote before `write` said false for the first time. */
  acceptedBeforeFull: number;
}

function over(context: CallContext): Promise<void> {
  return new Promise((resolve) => {
    if (context.signal.aborted) resolve();
    else context.signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

async function obey(request: EchoMessage, context: CallContext): Promise<EchoMessage> {
  switch (request.order.case) {
    case "fail":
      throw failedPrecondition(request.order.value, "as ordered — nach Wunsch", {
        clnCode: -32602,
        channel: "ab".repeat(32),
        retryable: true,
        details: { limit: "7" },
      });
    case "crash":
      throw new Error(request.order.value);
    case "hang":
      await over(context);
      throw new ArcusError({ code: Code.ABORTED, reason: "OVER", message: "over" });
    case "count":
    case undefined:
      return request;
  }
}

/** Echo, and a probe into it. */
export function echoService() {
  const probe: EchoProbe = { contexts: [], acceptedBeforeFull: 0 };
  const service = implement(Echo, {
    unary(request, context) {
      probe.contexts.push(context);
      return obey(request, context);
    },
    async collect(requests, context) {
      probe.contexts.push(context);
      let number = 0n;
      for await (const request of requests) number += (await obey(request, context)).number;
      return { number };
    },
    async *count(request, context) {
      probe.contexts.push(context);
      await obey(request, context);
      const count = request.order.case === "count" ? request.order.value : 0;
      for (let number = 0; number < count; number++) yield { number: BigInt(number), data: request.data };
    },
    async *chat(requests, context) {
      probe.contexts.push(context);
      for await (const request of requests) yield await obey(request, context);
    },
    raw: {
      open(stream, context) {
        probe.contexts.push(context);
        stream.onDrain(() => stream.resume());
        stream.onMessage((message) => {
          if (message.order.case === "count") {
            // Floods, to find out where the buffer is full.
            let room = true;
            let sent = 0;
            for (; sent < message.order.value && room; sent++) {
              room = stream.write({ number: BigInt(sent), data: message.data });
            }
            probe.acceptedBeforeFull = sent;
            return;
          }
          if (message.order.case === "fail") throw failedPrecondition(message.order.value, "as ordered");
          if (message.order.case === "crash") throw new Error(message.order.value);
          // A number that no uint64 holds.
          const number = message.order.case === "hang" ? -1n : message.number;
          if (!stream.write({ ...message, number })) stream.pause();
        });
        stream.onEnd(() => stream.end());
      },
    },
  });
  return { service, probe };
}
