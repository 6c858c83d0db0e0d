/** Addresses as people write them: `host:port`, `[v6]:port`. */
import { err, ok, type Result } from "bolt/result.ts";

/** Where Lightning nodes listen unless said otherwise. */
export const DEFAULT_PORT = 9735;
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

function printable(text: string): string {
  return text.slice(0, MAX_HOST_LENGTH).replace(/[^ -~]/g, "?");
}
