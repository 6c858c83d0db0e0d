/**
 * The server side of the channelds' HTLC streams: hello first, then reports of each channel in order, once its rows said that they come
 * from its owner; commands go out together while a write is under way.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { invalidArgument } from "common/grpc/errors.ts";
import { implement, type ImplementedService } from "common/grpc/server.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import type { Logger } from "common/log.ts";
import {
  type ChannelLevel,
  type HtlcCommandSchema,
  type HtlcCommandsSchema,
  type HtlcReport,
  type HtlcReports,
  Htlcs,
  type IncomingHtlc,
  type IncomingResolved,
  type NodeLevelSchema,
  type OfferResult,
  type OutgoingResolved,
} from "gen/arcus/channeld/v1/htlcs_pb.ts";
import type { NodeIdentity } from "../node.ts";
import { checkHello, ourHello } from "../peers/hello.ts";
import type { Leader } from "../ports.ts";

/** What goes to one channel. */
export type Command = MessageInitShape<typeof HtlcCommandSchema>["command"];
type Level = MessageInitShape<typeof NodeLevelSchema>;
type Stream = BidiStream<HtlcReports, MessageInitShape<typeof HtlcCommandsSchema>>;

/** Commands of one message at most. */
const MAX_COMMANDS = 500;

/** Whom the reports concern. Reports of an older owner never arrive here. */
export interface HtlcEvents {
  /** The owner of this epoch begins to tell what there is. */
  began(channel: bigint, epoch: bigint): void;
  level(channel: bigint, level: ChannelLevel): void;
  offered(channel: bigint, result: OfferResult): void;
  incoming(channel: bigint, htlc: IncomingHtlc): void;
  resolved(channel: bigint, outcome: OutgoingResolved): void;
  incomingResolved(channel: bigint, resolved: IncomingResolved): void;
  /** Everything that there is was told. */
  synced(channel: bigint): void;
  /** Its owner's stream ended. */
  lost(channel: bigint): void;
  /** Called after each message of reports: what was held back may go on. */
  flushed(): void;
}

/** Settings of {@link HtlcStreams}. */
export interface HtlcStreamsOptions {
  readonly node: NodeIdentity;
  readonly leader: Leader;
  readonly log: Logger;
  readonly events: HtlcEvents;
  /** The owner's epoch as the channel's row has it now; undefined: no such channel. */
  readonly epochOf: (channel: bigint) => Promise<bigint | undefined>;
  readonly onFatal: (error: unknown) => void;
}

/** One replica's stream. */
class Session {
  instance: string | undefined;
  over = false;
  readonly channels = new Set<bigint>();
  /** Reports that wait until the channel's row is read. */
  readonly checking = new Map<bigint, { readonly epoch: bigint; readonly reports: HtlcReport[] }>();
  #queue: MessageInitShape<typeof HtlcCommandSchema>[] = [];
  #full = false;
  #scheduled = false;

  constructor(readonly stream: Stream) {
    stream.onDrain(() => {
      this.#full = false;
      this.#flush();
    });
  }

  send(command: MessageInitShape<typeof HtlcCommandSchema>): void {
    if (this.over) return;
    this.#queue.push(command);
    if (this.#full || this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#flush();
    });
  }

  #flush(): void {
    while (!this.#full && !this.over && this.#queue.length > 0) {
      this.#full = !this.stream.write({ commands: this.#queue.splice(0, MAX_COMMANDS) });
    }
  }
}

/** Who owns a channel, as far as we heard. */
interface Link {
  readonly session: Session;
  readonly epoch: bigint;
}

/** All HTLC streams. */
export class HtlcStreams {
  readonly service: ImplementedService;
  readonly #links = new Map<bigint, Link>();
  readonly #sessions = new Set<Session>();
  #node: Level | undefined;

  constructor(private readonly options: HtlcStreamsOptions) {
    this.service = implement(Htlcs, { exchange: { open: (stream) => this.#open(stream) } });
  }

  /** Says something to a channel's owner. False: nobody has it now; its next stream begins with all levels. */
  send(channel: bigint, command: Command): boolean {
    const link = this.#links.get(channel);
    if (link === undefined || link.session.over) return false;
    link.session.send({ channel, command } as MessageInitShape<typeof HtlcCommandSchema>);
    return true;
  }

  /** What every channel shall know of the chain. */
  setNode(level: Level): void {
    this.#node = level;
    for (const session of this.#sessions) {
      if (session.instance !== undefined) session.send({ command: { case: "node", value: level } });
    }
  }

  #open(stream: Stream): void {
    const { log } = this.options;
    const session = new Session(stream);
    this.#sessions.add(session);
    stream.onMessage((message) => {
      if (session.over) return;
      try {
        if (session.instance === undefined) this.#welcome(session, message);
        for (const report of message.reports) this.#take(session, report);
        this.options.events.flushed();
      } catch (error) {
        log.error({ err: error, channeld: session.instance }, "an HTLC stream is ended");
        this.#end(session, error);
      }
    });
    stream.onEnd(() => {
      if (session.instance !== undefined && !session.over) {
        log.warn({ channeld: session.instance }, "an HTLC stream ended");
      }
      this.#end(session);
    });
  }

  #welcome(session: Session, message: HtlcReports): void {
    const { node, leader, log } = this.options;
    const hello = checkHello(message.hello, node);
    if (hello.daemon !== "channeld") {
      throw invalidArgument("UNKNOWN_DAEMON", `no HTLCs for a daemon named ${hello.daemon}`);
    }
    for (const other of this.#sessions) {
      // The same instance on a second stream: the first one is dead, only not noticed yet.
      if (other !== session && other.instance === hello.instance) this.#end(other);
    }
    session.instance = hello.instance;
    session.stream.write({ hello: ourHello(node, leader) });
    if (this.#node !== undefined) session.send({ command: { case: "node", value: this.#node } });
    log.info({ channeld: hello.instance }, "channeld's HTLC stream is open");
  }

  #end(session: Session, error?: unknown): void {
    if (session.over) return;
    session.over = true;
    this.#sessions.delete(session);
    session.stream.end(error);
    session.checking.clear();
    for (const channel of session.channels) {
      if (this.#links.get(channel)?.session !== session) continue;
      this.#links.delete(channel);
      this.options.events.lost(channel);
    }
    this.options.events.flushed();
  }

  #take(session: Session, report: HtlcReport): void {
    const { channel, epoch } = report;
    const link = this.#links.get(channel);
    if (link?.session === session && link.epoch === epoch) return this.#dispatch(report);
    const checking = session.checking.get(channel);
    if (checking?.epoch === epoch) {
      checking.reports.push(report);
      return;
    }
    // An owner that was replaced: what it says is of the past.
    if ((link !== undefined && link.epoch > epoch) || (checking !== undefined && checking.epoch > epoch)) {
      return;
    }
    session.checking.set(channel, { epoch, reports: [report] });
    this.options.epochOf(channel).then((owner) => this.#checked(session, channel, epoch, owner)).catch(
      (error) => {
        this.options.onFatal(error);
      },
    );
  }

  /** The channel's row was read: its reports count if they come from the owner that it names. */
  #checked(session: Session, channel: bigint, epoch: bigint, owner: bigint | undefined): void {
    const waiting = session.checking.get(channel);
    if (session.over || waiting?.epoch !== epoch) return;
    session.checking.delete(channel);
    const link = this.#links.get(channel);
    if (owner !== epoch || (link !== undefined && link.epoch > epoch)) {
      this.options.log.info(
        { channeld: session.instance, row: channel, epoch, owner },
        "reports of another than the owner are dropped",
      );
      return;
    }
    link?.session.channels.delete(channel);
    this.#links.set(channel, { session, epoch });
    session.channels.add(channel);
    try {
      this.options.events.began(channel, epoch);
      for (const report of waiting.reports) this.#dispatch(report);
      this.options.events.flushed();
    } catch (error) {
      this.options.log.error({ err: error, channeld: session.instance }, "an HTLC stream is ended");
      this.#end(session, error);
    }
  }

  #dispatch({ channel, report }: HtlcReport): void {
    const { events } = this.options;
    switch (report.case) {
      case "level":
        return events.level(channel, report.value);
      case "offered":
        return events.offered(channel, report.value);
      case "incoming":
        return events.incoming(channel, report.value);
      case "resolved":
        return events.resolved(channel, report.value);
      case "incomingResolved":
        return events.incomingResolved(channel, report.value);
      case "synced":
        return events.synced(channel);
      case undefined:
        throw invalidArgument("UNSET_ONEOF", "a report that this build does not know");
    }
  }
}
