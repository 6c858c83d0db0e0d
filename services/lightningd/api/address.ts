/** Addresses of peers. */
import { invalidParams } from "./refusals.ts";

/** Where peers listen if nobody says otherwise (BOLT 1). */
export const DEFAULT_PORT = 9735;
const MAX_PORT = 65_535;
/** Longest name of a host (RFC 1035). */
const MAX_HOST = 255;

/** An address taken apart. */
export interface PeerAddress {
  readonly type: "ipv4" | "ipv6" | "torv3" | "dns";
  /** Without brackets. */
  readonly host: string;
  readonly port: number;
}

function typeOfHost(host: string): PeerAddress["type"] {
  if (host.includes(":")) return "ipv6";
  if (/^\d{1,3}(\.\d{1,3}){3}$/.test(host)) return "ipv4";
  return host.endsWith(".onion") ? "torv3" : "dns";
}

/** "host", "host:port", "[v6]:port" or a bare v6 address. The port is {@link DEFAULT_PORT} where none is named. */
export function splitAddress(text: string): PeerAddress {
  const bracketed = /^\[([^\]]+)\](?::(\d+))?$/.exec(text);
  const [, host = text, port] = bracketed ??
    (text.split(":").length === 2 ? /^(.*):(\d+)$/.exec(text) : null) ?? [];
  return { type: typeOfHost(host), host, port: port === undefined ? DEFAULT_PORT : Number(port) };
}

/** "host:port", with brackets around v6. */
export function joinAddress({ host, port }: Pick<PeerAddress, "host" | "port">): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/**
 * Whom `connect` means: ID, ID@HOST or ID@HOST:PORT, with the host and port parameters beside. Throws INVALID_ARGUMENT, CLN code
 * -32602.
 */
export function readConnectTarget(
  id: string,
  host: string | undefined,
  port: number | undefined,
): { readonly id: string; readonly address?: string } {
  const [nodeId = "", ...rest] = id.split("@");
  if (rest.length > 1) throw invalidParams("id", "should be ID, ID@HOST or ID@HOST:PORT");
  const behind = rest[0];
  if (behind !== undefined && host !== undefined) {
    throw invalidParams("host", "can't be given beside id@host");
  }
  const place = behind ?? host;
  if (place === undefined) {
    if (port !== undefined) throw invalidParams("port", "needs a host");
    return { id: nodeId };
  }
  const parsed = splitAddress(place);
  const address = { host: parsed.host, port: port ?? parsed.port };
  if (!/^[A-Za-z0-9_.:%-]+$/.test(address.host) || address.host.length > MAX_HOST) {
    throw invalidParams(behind === undefined ? "host" : "id", "is no address");
  }
  if (address.port < 1 || address.port > MAX_PORT) {
    throw invalidParams("port", `should be between 1 and ${MAX_PORT}`);
  }
  return { id: nodeId, address: joinAddress(address) };
}
