/**
 * The Control stream to lightningd: dialled, kept, begun anew with a hello that lists everything. connectd keeps every
 * peer and attachment while lightningd is away. Of several lightningds only the one with the highest leader epoch is
 * obeyed.
 */
import type { MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { bytesToHex } from "@noble/hashes/utils.js";
import { type Channel, dial, INITIAL_BACKOFF_MS, MAX_BACKOFF_MS, openBidi } from "common/grpc/client.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import type { Logger } from "common/log.ts";
import {
  type ConnectdWelcome,
  type ConnectRequestSchema,
  type ConnectResponseSchema,
  Control,
} from "gen/arcus/connectd/v1/connectd_pb.ts";
import type { ControlClock } from "./clock.ts";

/** How long one wait for a connection to lightningd takes before it is logged and begun again. */
const READY_MS = 10_000;
/** How long lightningd may take to welcome us. */
const WELCOME_MS = 15_000;
const NODE_ID_LENGTH = 33;
const CHAIN_HASH_LENGTH = 32;

/** What goes to lightningd. */
export type ToLightningd = MessageInitShape<typeof ConnectRequestSchema>;
/** What comes from lightningd after the welcome. */
export type FromLightningd = MessageShape<typeof ConnectResponseSchema>["message"];

type Stream = BidiStream<
  MessageShape<typeof ConnectResponseSchema>,
  MessageInitShape<typeof ConnectRequestSchema>
>;

/** Which node we serve; learnt from the first welcome, and then fixed. */
export interface NodeIdentity {
  readonly nodeId: Uint8Array;
  readonly chainHash: Uint8Array;
  readonly databaseId: Uint8Array;
}

/** Settings of {@link ControlLink}. */
export interface ControlOptions {
  readonly address: string;
  readonly log: Logger;
  readonly clock: ControlClock;
  readonly tls: TlsFiles | undefined;
  /** The hello, made at the moment when it is sent. */
  readonly hello: (identity: NodeIdentity | undefined) => ToLightningd;
  /** Every welcome, also the second and later ones. */
  readonly welcomed: (welcome: ConnectdWelcome, identity: NodeIdentity) => void;
  /** Each command, in order. A throw ends the stream: it is then begun anew from what we hold. */
  readonly command: (message: FromLightningd) => void;
}

/** The stream, or the effort to have one. */
export class ControlLink {
  readonly #channel: Channel;
  #stream: Stream | undefined;
  #up = false;
  #leaderEpoch = 0n;
  #identity: NodeIdentity | undefined;
  #stopped = false;
  #running: Promise<void> = Promise.resolve();
  #stopWaiting: () => void = () => {};

  constructor(private readonly options: ControlOptions) {
    const { tls } = options;
    this.#channel = dial(options.address, tls === undefined ? {} : { tls });
  }

  /** Whether lightningd has welcomed us on the present stream. */
  get up(): boolean {
    return this.#up;
  }

  /** The highest leader epoch heard of. */
  get leaderEpoch(): bigint {
    return this.#leaderEpoch;
  }

  /** Which node this is, once known. */
  get identity(): NodeIdentity | undefined {
    return this.#identity;
  }

  /** Begins, and never ends before `stop`. */
  start(): void {
    this.#running = this.#run();
  }

  /** Says something, if a stream is there. Without one it is not kept: the next hello lists what is. */
  send(message: ToLightningd): void {
    this.#stream?.write(message);
  }

  /** Ends the stream and closes the connection. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#stopWaiting();
    this.#stream?.cancel();
    this.#channel.close();
    await this.#running;
  }

  async #run(): Promise<void> {
    let backoff = INITIAL_BACKOFF_MS;
    while (!this.#stopped) {
      const wasUp = await this.#once();
      if (this.#stopped) return;
      backoff = wasUp ? INITIAL_BACKOFF_MS : Math.min(backoff * 2, MAX_BACKOFF_MS);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, backoff);
        this.#stopWaiting = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** One stream from its beginning to its end; whether we were welcomed on it. */
  async #once(): Promise<boolean> {
    const { log } = this.options;
    const ready = this.#channel.ready(READY_MS).then(() => true, () => false);
    const stopped = new Promise<false>((resolve) => this.#stopWaiting = () => resolve(false));
    if (!await Promise.race([ready, stopped]) || this.#stopped) {
      if (!this.#stopped) log.debug({ address: this.options.address }, "lightningd is not there");
      return false;
    }
    return await new Promise((resolve) => {
      const stream: Stream = openBidi(this.#channel, Control.method.connect);
      this.#stream = stream;
      const welcomeTimer = setTimeout(() => stream.cancel(), WELCOME_MS);
      const wasUp = () => this.#up && this.#stream === stream;
      stream.onMessage((response) => {
        if (this.#stream !== stream || stream.closed) return;
        try {
          if (this.#up) return this.options.command(response.message);
          clearTimeout(welcomeTimer);
          this.#welcome(response.message);
        } catch (error) {
          log.error({ err: error }, "a command of lightningd's cannot be obeyed; beginning anew");
          stream.cancel();
        }
      });
      stream.onEnd((error) => {
        clearTimeout(welcomeTimer);
        const result = wasUp();
        if (result) log.warn({ err: error }, "lightningd is away; every peer is kept");
        this.#down();
        resolve(result);
      });
      stream.write(this.options.hello(this.#identity));
    });
  }

  #down(): void {
    this.#stream = undefined;
    this.#up = false;
    this.options.clock.stand();
  }

  /** Throws for a welcome that we must not follow. */
  #welcome(message: FromLightningd): void {
    if (message.case !== "welcome") throw new Error("the first message must be a welcome");
    const hello = message.value.hello;
    if (hello === undefined) throw new Error("a welcome without a hello");
    if (hello.leaderEpoch < this.#leaderEpoch) {
      throw new Error(`leader epoch ${hello.leaderEpoch} is older than ${this.#leaderEpoch}`);
    }
    const { nodeId, chainHash, databaseId } = hello;
    if (nodeId.length !== NODE_ID_LENGTH) throw new Error("a node id has 33 bytes");
    if (chainHash.length !== CHAIN_HASH_LENGTH) throw new Error("a chain hash has 32 bytes");
    const known = this.#identity;
    if (known !== undefined) {
      const same = equal(known.nodeId, nodeId) && equal(known.chainHash, chainHash) &&
        equal(known.databaseId, databaseId);
      if (!same) throw new Error("this lightningd serves another node");
    }
    const identity = known ?? { nodeId, chainHash, databaseId };
    this.options.welcomed(message.value, identity);
    this.#identity = identity;
    this.#leaderEpoch = hello.leaderEpoch;
    this.#up = true;
    this.options.clock.run();
    this.options.log.info({ leaderEpoch: hello.leaderEpoch }, "lightningd welcomed us");
  }
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return bytesToHex(a) === bytesToHex(b);
}
