/** Mutual TLS between daemons: each has a certificate whose common name is its identity. */
import { Buffer } from "node:buffer";
import { ChannelCredentials, ServerCredentials } from "@grpc/grpc-js";

/** PEM texts. With none given, connections are plain text, for unix sockets and loopback only. */
export interface TlsFiles {
  /** The authority that both ends trust. */
  readonly ca: string;
  /** This daemon's certificate. */
  readonly cert: string;
  /** This daemon's key. */
  readonly key: string;
}

/** Credentials of a serving end: a client without a certificate of the authority is refused. */
export function serverCredentials(tls: TlsFiles | undefined): ServerCredentials {
  if (tls === undefined) return ServerCredentials.createInsecure();
  const pair = { private_key: Buffer.from(tls.key), cert_chain: Buffer.from(tls.cert) };
  return ServerCredentials.createSsl(Buffer.from(tls.ca), [pair], true);
}

/** Credentials of a calling end. */
export function channelCredentials(tls: TlsFiles | undefined): ChannelCredentials {
  if (tls === undefined) return ChannelCredentials.createInsecure();
  return ChannelCredentials.createSsl(Buffer.from(tls.ca), Buffer.from(tls.key), Buffer.from(tls.cert));
}
