/** Methods of generated services as grpc-js wants them. */
import { Buffer } from "node:buffer";
import {
  create,
  type DescMessage,
  type DescMethod,
  type DescMethodBiDiStreaming,
  type DescMethodClientStreaming,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";

/** A message to bytes. protobuf-es makes a Uint8Array, grpc-js copies with Buffer's methods. */
export function encoder<Desc extends DescMessage>(schema: Desc): (message: MessageShape<Desc>) => Buffer {
  return (message) => {
    const bytes = toBinary(schema, message);
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  };
}

/**
 * Bytes to a message. A plain Uint8Array goes in, so that `bytes` fields come out as plain Uint8Arrays: a Buffer would give
 * Buffers, whose `slice` shares memory.
 */
export function decoder<Desc extends DescMessage>(schema: Desc): (bytes: Buffer) => MessageShape<Desc> {
  return (bytes) => fromBinary(schema, new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength));
}

/** A message of an initializer; a message is passed through as it is. */
export function maker<Desc extends DescMessage>(
  schema: Desc,
): (init: MessageInitShape<Desc>) => MessageShape<Desc> {
  return (init) => create(schema, init);
}

/** "/package.Service/Method". */
export function pathOf(method: DescMethod): string {
  return `/${method.parent.typeName}/${method.name}`;
}

/** Narrows a method by its kind. */
export function isUnary(
  method: DescMethod,
): method is DescMethod & DescMethodUnary<DescMessage, DescMessage> {
  return method.methodKind === "unary";
}

/** Narrows a method by its kind. */
export function isClientStreaming(
  method: DescMethod,
): method is DescMethod & DescMethodClientStreaming<DescMessage, DescMessage> {
  return method.methodKind === "client_streaming";
}

/** Narrows a method by its kind. */
export function isServerStreaming(
  method: DescMethod,
): method is DescMethod & DescMethodServerStreaming<DescMessage, DescMessage> {
  return method.methodKind === "server_streaming";
}

/** Narrows a method by its kind. */
export function isBidi(
  method: DescMethod,
): method is DescMethod & DescMethodBiDiStreaming<DescMessage, DescMessage> {
  return method.methodKind === "bidi_streaming";
}
