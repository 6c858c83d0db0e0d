/**
 * The stream to lightningd on which HTLCs are told and asked for, beside the Registry stream. Levels, not edges: on
 * every new stream each owner tells everything of its channel that is not over.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { requireCase } from "common/grpc/check.ts";
import { type Channel, openBidi } from "common/grpc/client.ts";
import { failedPrecondition } from "common/grpc/errors.ts";
import type { Logger } from "common/log.ts";
import {
  type HtlcCommand,
  type HtlcCommands,
  type HtlcReportSchema,
  type HtlcReportsSchema,
  Htlcs,
} from "gen/arcus/channeld/v1/htlcs_pb.ts";
import type { Hello, HelloSchema } from "gen/arcus/types/v1/types_pb.ts";
import { BatchStream } from "subd/batch_stream.ts";

/** One report. */
export type Report = MessageInitShape<typeof HtlcReportSchema>;
/** A command, its case known. */
export type Command = Extract<HtlcCommand["command"], { case: string }>;

/** What the stream needs. */
export interface HtlcStreamOptions {
  readonly lightningd: Channel;
  readonly log: Logger;
  readonly timer: (ms: number, callback: () => void) => () => void;
  /** Who we are. */
  hello(): MessageInitShape<typeof HelloSchema>;
  /** Whether that is the lightningd that is obeyed. */
  obeys(hello: Hello): boolean;
  /** The stream is new: every owner tells everything again. */
  tellAll(): void;
  /** A command for a channel; 0: for all of them. */
  command(channel: bigint, command: Command): void;
}

/** The reason of a failure is the peer's, up to a whole Lightning message; an onion is of one length. */
function weigh({ report }: Report): number {
  switch (report?.case) {
    case "resolved":
      return report.value.outcome?.case === "failed" ? report.value.outcome.value.reason?.length ?? 0 : 0;
    case "incoming":
      return (report.value.payload?.length ?? 0) + (report.value.nextOnion?.length ?? 0);
    default:
      return 0;
  }
}

/** The client of Htlcs. */
export class HtlcStream {
  readonly #stream: BatchStream<Report, HtlcCommands, MessageInitShape<typeof HtlcReportsSchema>>;
  #obeyed = false;
  /** How many streams there were: what was begun to be told on one is not ended on the next. */
  #round = 0;

  constructor(options: HtlcStreamOptions) {
    this.#stream = new BatchStream({
      name: "lightningd (HTLCs)",
      log: options.log,
      timer: options.timer,
      open: () => openBidi(options.lightningd, Htlcs.method.exchange, { waitForReady: true }),
      batch: (reports) => ({ reports }),
      weigh,
      opened: (write) => {
        this.#obeyed = false;
        this.#round++;
        write({ hello: options.hello() });
        options.tellAll();
      },
      received: ({ hello, commands }) => {
        if (hello !== undefined) this.#obeyed = options.obeys(hello);
        if (!this.#obeyed) {
          throw failedPrecondition("LEADER_STALE", "an older lightningd, or none that said hello");
        }
        for (const { channel, command } of commands) {
          options.command(channel, requireCase(command, "command"));
        }
      },
    });
  }

  /** Which stream this is. */
  get round(): number {
    return this.#round;
  }

  /** lightningd welcomed this replica: opens the stream, or a new one, since it may be another lightningd. */
  welcomed(): void {
    this.#stream.restart();
  }

  /** Tells lightningd; dropped while it is away, which a new stream makes good. */
  report(report: Report): void {
    this.#stream.push(report);
  }

  /** Ends it. */
  stop(): void {
    this.#stream.stop();
  }
}
