/** Serves the public API: gRPC and JSON-RPC over one method table. */
import { isAbsolute, join } from "node:path";
import { type ArcusServer, createServer } from "common/grpc/server.ts";
import { paymentStream } from "../payments/stream_face.ts";
import { publicServices } from "./face.ts";
import { type JsonRpcServer, serveJsonRpc } from "./jsonrpc.ts";
import type { ApiParts } from "./parts.ts";
import { methodTable } from "./table.ts";

/** The running API. */
export interface Api {
  /** "host:port" of cln.Node; absent when `grpc-port` is not configured. */
  readonly grpcAddress?: string;
  /** Path of the JSON-RPC socket. */
  readonly rpcFile: string;
  /** Takes no more calls, and waits for those under way at most `graceMs`. The process then exits (no GOAWAY is ever sent). */
  drain(graceMs?: number): Promise<void>;
  /** Closes sockets too. Only in a test, after every client is closed. */
  closeAfterClients(): void;
}

/** Where the socket of a node is. */
export function rpcPath(lightningDir: string, rpcFile: string): string {
  return isAbsolute(rpcFile) ? rpcFile : join(lightningDir, rpcFile);
}

/** Starts serving. Stop it last registered, first drained: before the rooms that the commands stand on. */
export async function startApi(parts: ApiParts): Promise<Api> {
  const { config, log } = parts;
  const table = methodTable(parts);
  const rpc: JsonRpcServer = await serveJsonRpc(
    rpcPath(config.get("lightning-dir"), config.get("rpc-file")),
    table,
    log,
  );
  const port = config.get("grpc-port");
  const server: ArcusServer | undefined = port === undefined
    ? undefined
    : createServer({ services: [...publicServices(table), paymentStream(parts.payments, log)], log });
  const host = config.get("grpc-host");
  const grpcAddress = await server?.listen(host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`);
  log.info({ grpc: grpcAddress ?? "off", rpc: rpc.path }, "the API is served");
  return {
    ...(grpcAddress === undefined ? {} : { grpcAddress }),
    rpcFile: rpc.path,
    async drain(graceMs) {
      await Promise.all([rpc.close(graceMs), server?.drain(graceMs)]);
    },
    closeAfterClients: () => server?.closeAfterClients(),
  };
}
