/**
 * Keeps a server from ever sending GOAWAY by itself. Deno's HTTP/2 (2.9.6) may abort the whole process when it does
 * ("find_stream_on_goaway_func", "free(): invalid pointer"), and it does so in answer to a client's GOAWAY: any client that says
 * goodbye, as grpc-js does in `close()`, could end a daemon. So a session is ended by its socket alone: what is under way goes on,
 * then the socket closes, and a session whose socket is closed says nothing.
 */
import type { Socket } from "node:net";
import type { Http2Server, ServerHttp2Session } from "node:http2";
import type { Server } from "@grpc/grpc-js";

/** How long calls under way may take after their client said goodbye. */
export const GOODBYE_MS = 30_000;
/** How long the last bytes may take to leave. */
const FLUSH_MS = 1_000;

/** Ends sessions of this HTTP/2 server by their sockets. */
export function guardSessions(server: Http2Server): void {
  let socket: Socket | undefined;
  // A session is made while its connection is announced, so the last announced one is its own.
  const announce = (connection: Socket) => socket = connection;
  server.prependListener("connection", announce);
  server.prependListener("secureConnection", announce);
  server.on("session", (session) => {
    if (socket !== undefined) guardSession(session, socket);
  });
}

function guardSession(session: ServerHttp2Session, socket: Socket): void {
  const close = session.close.bind(session);
  const destroy = session.destroy.bind(session);
  let streams = 0;
  let leaving = false;
  const leave = (): void => {
    socket.end();
    const timer = setTimeout(() => socket.destroy(), FLUSH_MS);
    socket.once("close", () => clearTimeout(timer));
  };
  session.on("stream", (stream) => {
    streams++;
    stream.once("close", () => {
      if (--streams === 0 && leaving) leave();
    });
  });
  session.close = (callback) => {
    if (socket.destroyed) return close(callback);
    if (leaving) return;
    leaving = true;
    if (streams === 0) return leave();
    const timer = setTimeout(() => socket.destroy(), GOODBYE_MS);
    socket.once("close", () => clearTimeout(timer));
  };
  session.destroy = (error, code) => {
    socket.destroy();
    // The types of both forms of `destroy` in one.
    destroy(error, code);
  };
}

/** What grpc-js makes its servers with. */
interface MakesServers {
  createHttp2Server(...credentials: unknown[]): Http2Server;
}

/** Guards every HTTP/2 server that a grpc-js server will make. */
export function guardServer(server: Server): void {
  const maker = server as unknown as MakesServers;
  if (typeof maker.createHttp2Server !== "function") {
    throw new Error("this version of grpc-js makes its servers otherwise: sessions cannot be guarded");
  }
  const make = maker.createHttp2Server.bind(server);
  maker.createHttp2Server = (...credentials) => {
    const made = make(...credentials);
    guardSessions(made);
    return made;
  };
}
