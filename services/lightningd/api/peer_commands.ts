/** connect, disconnect, ping, listpeers. */
import {
  ConnectAddress_ConnectAddressType as ConnectType,
  ConnectResponse_ConnectDirection as Direction,
} from "gen/cln/node_pb.ts";
import { readConnectTarget, splitAddress } from "./address.ts";
import type { Handlers } from "./handlers.ts";
import type { ApiParts } from "./parts.ts";
import { invalidParams } from "./refusals.ts";
import { readNodeId } from "./values.ts";

/** Bytes that a ping carries unless told otherwise, as CLN's. */
const DEFAULT_PING_BYTES = 128;
/** A message has 65,535 bytes, less the type and two lengths (BOLT 1). */
const MAX_PING_BYTES = 65_531;
const MAX_PONG_BYTES = 65_535;

const CONNECT_TYPE = {
  ipv4: ConnectType.IPV4,
  ipv6: ConnectType.IPV6,
  torv3: ConnectType.TORV3,
  dns: ConnectType.IPV4,
} as const;

/** A node id in hex, as `connect` takes it. */
function nodeIdOf(text: string): Uint8Array {
  if (!/^[0-9a-fA-F]{66}$/.test(text)) throw invalidParams("id", "should be a node id of 33 bytes in hex");
  return readNodeId("id", Uint8Array.fromHex(text));
}

/** The commands about connections. */
export function peerCommands(
  { peers }: ApiParts,
): Handlers<"connectPeer" | "disconnect" | "ping" | "listPeers"> {
  return {
    async connectPeer(request) {
      const target = readConnectTarget(request.id, request.host, request.port);
      const id = nodeIdOf(target.id);
      const connection = await peers.connect(id, target.address === undefined ? [] : [target.address]);
      const { type, host, port } = splitAddress(connection.remoteAddr);
      return {
        id,
        features: connection.features,
        direction: connection.direction === "in" ? Direction.IN : Direction.OUT,
        address: { itemType: CONNECT_TYPE[type], address: host, port },
      };
    },

    async disconnect({ id, force }) {
      await peers.disconnect(readNodeId("id", id), force ?? false);
      return {};
    },

    async ping({ id, len = DEFAULT_PING_BYTES, pongbytes = DEFAULT_PING_BYTES }) {
      if (len > MAX_PING_BYTES) throw invalidParams("len", `at most ${MAX_PING_BYTES}`);
      if (pongbytes > MAX_PONG_BYTES) throw invalidParams("pongbytes", `at most ${MAX_PONG_BYTES}`);
      return { totlen: await peers.ping(readNodeId("id", id), len, pongbytes) };
    },

    async listPeers({ id }) {
      const found = await peers.listPeers(id === undefined ? undefined : readNodeId("id", id));
      return {
        peers: found.map(({ peerId, connected, channels, connection }) => ({
          id: peerId,
          connected,
          numChannels: channels,
          ...(connection === undefined ? {} : {
            netaddr: [connection.remoteAddr],
            features: connection.features,
            ...(connection.direction === "in" ? { remoteAddr: connection.remoteAddr } : {}),
          }),
        })),
      };
    },
  };
}
