/** The public gRPC face: cln.Node, and what CLN has no command for, over the method table. */
import type { DescService, Message } from "@bufbuild/protobuf";
import { implement, type Implementation, type ImplementedService } from "common/grpc/server.ts";
import { Operator } from "gen/arcus/lightningd/v1/operator_pb.ts";
import { Node } from "gen/cln/node_pb.ts";
import type { Table } from "./table.ts";

/** The services of a table. */
export function publicServices(table: Table): ImplementedService[] {
  return [Node, Operator].map((service) => serviceOf(table, service));
}

function serviceOf(table: Table, service: DescService): ImplementedService {
  const methods: Record<string, (request: Message) => Promise<Message>> = {};
  for (const { command: { method }, call } of table.values()) {
    if (method.parent === service) methods[method.localName] = call;
  }
  // Each row takes and answers the messages of its own method.
  return implement(service, methods as unknown as Implementation<typeof service>);
}
