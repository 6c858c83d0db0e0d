/** The hello of a stream: whose it is, and ours. */
import { sameBytes } from "bolt/tx/transaction.ts";
import { failedPrecondition, invalidArgument } from "common/grpc/errors.ts";
import { buildInfo } from "common/lifecycle.ts";
import type { Hello } from "gen/arcus/types/v1/types_pb.ts";
import type { NodeIdentity } from "../node.ts";
import type { Leader } from "../ports.ts";

/** Version of the contracts that this build speaks. */
export const CONTRACT_VERSION = 1;

/** Our hello on every stream. */
export function ourHello(node: NodeIdentity, leader: Leader) {
  return {
    daemon: "lightningd",
    build: buildInfo().version,
    contractVersion: CONTRACT_VERSION,
    instance: leader.instance,
    nodeId: node.nodeId,
    chainHash: node.chainHash,
    databaseId: node.databaseId,
    leaderEpoch: leader.epoch,
  };
}

/**
 * The hello of another daemon, checked. Throws INVALID_ARGUMENT without one, FAILED_PRECONDITION FOREIGN_NODE for
 * another node's; ids that it has not learnt yet are empty.
 */
export function checkHello(hello: Hello | undefined, node: NodeIdentity): Hello {
  if (hello === undefined || hello.instance === "") {
    throw invalidArgument("MISSING_FIELD", "hello: missing, or without an instance");
  }
  const pairs: [string, Uint8Array, Uint8Array][] = [
    ["node_id", hello.nodeId, node.nodeId],
    ["chain_hash", hello.chainHash, node.chainHash],
    ["database_id", hello.databaseId, node.databaseId],
  ];
  for (const [field, theirs, ours] of pairs) {
    if (theirs.length > 0 && !sameBytes(theirs, ours)) {
      throw failedPrecondition("FOREIGN_NODE", `hello: ${field} is another node's`);
    }
  }
  return hello;
}
