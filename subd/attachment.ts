/** One Attach stream of connectd, as its owner uses it: numbers what goes out, and ends the stream in one of four ways. */
import type { MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { Message } from "bolt/wire/messages.ts";
import { encodeMessage } from "bolt/wire/messages.ts";
import { failedPrecondition } from "common/grpc/errors.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import type { AttachHello, AttachRequestSchema, AttachResponseSchema } from "gen/arcus/subd/v1/subd_pb.ts";

/** The stream that connectd opened. */
export type AttachStream = BidiStream<
  MessageShape<typeof AttachRequestSchema>,
  MessageInitShape<typeof AttachResponseSchema>
>;

/** An accepted stream. After an end nothing is written any more. */
export class Attachment {
  readonly generation: bigint;
  /** in_seq of the frame that must come next. */
  #expected: bigint;
  #outSeq: bigint;
  #over = false;

  constructor(private readonly stream: AttachStream, hello: AttachHello) {
    this.generation = hello.generation;
    this.#expected = hello.nextInSeq;
    this.#outSeq = hello.writtenOutSeq;
  }

  /** Last out_seq that was given out. */
  get outSeq(): bigint {
    return this.#outSeq;
  }

  /** Nothing can be said any more. */
  get over(): boolean {
    return this.#over || this.stream.closed;
  }

  /** Numbers go on after what a predecessor's row knows (design: the greater of the two). */
  goOnFrom(outSeq: bigint): void {
    if (outSeq > this.#outSeq) this.#outSeq = outSeq;
  }

  /** Accepts the stream. */
  attached(subdInstance: string, epoch: bigint): void {
    this.#write({ message: { case: "attached", value: { subdInstance, epoch } } });
  }

  /** Whether this is the frame that must come next; connectd never skips one. */
  inOrder(inSeq: bigint): boolean {
    if (inSeq !== this.#expected) return false;
    this.#expected++;
    return true;
  }

  /** Sends a message to the peer. */
  send(message: Message): void {
    this.sendAll([message]);
  }

  /** Sends several, in one message of the stream. `contiguous`: nothing of any channel between them. */
  sendAll(messages: readonly Message[], contiguous = false): void {
    if (this.over || messages.length === 0) return;
    const firstOutSeq = this.#outSeq + 1n;
    this.#outSeq += BigInt(messages.length);
    const data = messages.map(encodeMessage);
    this.#write({ message: { case: "frames", value: { firstOutSeq, data, contiguous } } });
  }

  /** Gives back the credit of one frame. */
  taken(inSeq: bigint): void {
    this.#write({ message: { case: "taken", value: { inSeq } } });
  }

  /** Nothing up to this frame is needed again. */
  durable(inSeq: bigint): void {
    this.#write({ message: { case: "durable", value: { inSeq } } });
  }

  /** The channel is known by this id from now on. */
  rekey(channelId: Uint8Array): void {
    this.#write({ message: { case: "rekey", value: { channelId } } });
  }

  /** This owner is done: frames that it did not take go to its successor. */
  finished(reason: string): void {
    this.#write({ message: { case: "finished", value: { reason } } });
    this.#lastWord();
  }

  /** These are the last words, then the attachment is over. */
  fail(messages: readonly Message[], reason: string, wantHangUp: boolean): void {
    this.#write({
      message: { case: "fail", value: { messages: messages.map(encodeMessage), reason, wantHangUp } },
    });
    this.#lastWord();
  }

  /** Another owner has the channel: not a word more. */
  fenced(): void {
    if (this.#over) return;
    this.#over = true;
    this.stream.end(failedPrecondition("EPOCH_STALE", "another owner has this channel"));
  }

  /** connectd ended it. */
  closed(): void {
    this.#end();
  }

  /**
   * connectd ends the stream once it has read this (subdFace). Were it ended here, connectd's `written` for an earlier frame
   * would meet a stream that is gone, and grpc-js would drop what is still unread: the last word would be lost.
   */
  #lastWord(): void {
    this.#over = true;
  }

  #end(): void {
    if (this.#over) return;
    this.#over = true;
    this.stream.end();
  }

  #write(message: MessageInitShape<typeof AttachResponseSchema>): void {
    if (!this.#over) this.stream.write(message);
  }
}
