/** The shape of the commands' code. */
import type { MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { Operator } from "gen/arcus/lightningd/v1/operator_pb.ts";
import type { Node } from "gen/cln/node_pb.ts";

type Methods = typeof Node["method"] & typeof Operator["method"];
/** The name of a method in the generated services. */
export type MethodName = keyof Methods;

/** The code of one command: a checked request to an answer. Refusals are ArcusErrors. */
export type Handler<K extends MethodName> = (
  request: MessageShape<Methods[K]["input"]>,
) => MessageInitShape<Methods[K]["output"]> | Promise<MessageInitShape<Methods[K]["output"]>>;

/** The code of some commands. */
export type Handlers<K extends MethodName = MethodName> = { readonly [N in K]: Handler<N> };
