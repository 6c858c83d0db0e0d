/** Addresses as people write them: `host:port`, `[v6]:port`. */
import { err, ok, type Result } from "bolt/result.ts";

/** Where Lightning nodes listen unless said otherwise. */
export const DEFAULT_PORT = 9735;
const IPV6_GROUPS = 8;
const IPV6_NETWORK_GROUPS = 4;
const MAX_PORT = 65_535;
const MAX_HOST_LENGTH = 253;
const BRACKETED = /^\[([0-9A-Fa-f:.]+)\](?::(\d{1,5}))?$/;
const PLAIN = /^([^\s:\[\]]+)(?::(\d{1,5}))?$/;

/** A host and a port. */
export interface Address {
  /** An IP address without brackets, or a name. */
  readonly host: string;
  readonly port: number;
}

/** Reads an address. An IPv6 address without brackets is taken as one without a port. */
export function parseAddress(text: string): Result<Address, string> {
  const trimmed = text.trim();
  const bracketed = BRACKETED.exec(trimmed);
  const match = bracketed ?? PLAIN.exec(trimmed);
  if (match === null) {
    if (/^[0-9A-Fa-f:.]+$/.test(trimmed) && trimmed.split(":").length > 2) {
      return ok({ host: trimmed, port: DEFAULT_PORT });
    }
    return err(`not an address: ${printable(text)}`);
  }
  const [, host, portText] = match;
  const port = portText === undefined ? DEFAULT_PORT : Number(portText);
  if (host === undefined || host.length > MAX_HOST_LENGTH) return err("a host name that is too long");
  if (port > MAX_PORT) return err(`not a port: ${port}`);
  return ok({ host, port });
}

/** The text of an address. */
export function formatAddress(address: Address): string {
  return address.host.includes(":") ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/**
 * Whom a limit per address counts as one: an IPv4 address, or the /64 of an IPv6 address, since whoever has one address
 * there has them all.
 */
export function addressGroup(host: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(host)?.[1];
  if (mapped !== undefined) return mapped;
  if (!host.includes(":")) return host;
  const [head = "", tail] = host.split("::");
  const front = head === "" ? [] : head.split(":");
  const back = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = Math.max(0, IPV6_GROUPS - front.length - back.length);
  const groups = [...front, ...Array<string>(tail === undefined ? 0 : zeros).fill("0"), ...back];
  return groups.slice(0, IPV6_NETWORK_GROUPS).map((group) => group.toLowerCase().replace(/^0+(?=.)/, ""))
    .join(":");
}

function printable(text: string): string {
  return text.slice(0, MAX_HOST_LENGTH).replace(/[^ -~]/g, "?");
}
