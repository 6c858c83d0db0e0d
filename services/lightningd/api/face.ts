/** The public gRPC face: cln.Node over the method table. */
import type { Message } from "@bufbuild/protobuf";
import { implement, type Implementation, type ImplementedService } from "common/grpc/server.ts";
import { Node } from "gen/cln/node_pb.ts";
import type { Table } from "./table.ts";

/** The service of a table. */
export function nodeService(table: Table): ImplementedService {
  const methods: Record<string, (request: Message) => Promise<Message>> = {};
  for (const { command, call } of table.values()) methods[command.method.localName] = call;
  // Each row takes and answers the messages of its own method.
  return implement(Node, methods as unknown as Implementation<typeof Node>);
}
