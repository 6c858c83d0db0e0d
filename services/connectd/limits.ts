/** Every bound that connectd keeps. Tests pass smaller ones; a node runs with {@link DEFAULT_LIMITS}. */

/** What connectd allows. Times are in milliseconds. */
export interface Limits {
  /** Connections in all, those that still shake hands included. */
  readonly maxConnections: number;
  /** Incoming connections from one IP address. */
  readonly maxConnectionsPerIp: number;
  /** Incoming connections whose handshake and init are not done: a crowd that says nothing must not shut others out. */
  readonly maxHalfOpen: number;
  /** From the first byte to the end of the handshake and `init`. */
  readonly handshakeTimeout: number;
  /** One TCP connect. */
  readonly connectTimeout: number;
  /** Outgoing attempts at one time. */
  readonly maxConnectsInFlight: number;
  /** Addresses that one peer may have. */
  readonly maxAddresses: number;
  /** Nothing heard for so long: we ping. */
  readonly pingAfterSilence: number;
  /** Nothing heard for so long after our ping: the peer is gone. */
  readonly pongTimeout: number;
  /** Pings of lightningd's on one connection that wait for a pong. */
  readonly maxPendingPings: number;
  /** Bytes a second that a peer may send, averaged over a burst. */
  readonly incomingBytesPerSecond: number;
  /** Bytes that a peer may send at once. */
  readonly incomingBurst: number;
  /** Held frames of one channel; beyond it the peer floods, or our subd hangs: hang up. */
  readonly maxHeldFramesPerChannel: number;
  /** Bytes of held frames of one channel. */
  readonly maxHeldBytesPerChannel: number;
  /** Bytes of held frames of one peer; beyond it that peer is not read. */
  readonly maxHeldBytesPerPeer: number;
  /** Bytes of held frames in all; beyond it no peer is read that holds more than its share. */
  readonly maxHeldBytes: number;
  /** Reading stood still for so long because our side is full: hang up. */
  readonly maxReadPause: number;
  /** Spokes of one peer without an answer; beyond it that peer is not read. */
  readonly maxUnansweredSpokes: number;
  /** lightningd's time to answer a spoke. Stands still while it is away. */
  readonly spokeDeadline: number;
  /** lightningd's time to name a successor after it said wait. Stands still while it is away. */
  readonly spokeWaitDeadline: number;
  /** Channels, ended ones included, on one connection: their sequence numbers and epochs are kept until it ends. */
  readonly maxChannelsPerConnection: number;
  /** Ids that one channel may have had on a connection. */
  readonly maxIdsPerChannel: number;
  /** Frames that a subd is given before it must say `taken`. */
  readonly creditFrames: number;
  /** Unwritten bytes of one channel; beyond it its subd is not read. */
  readonly maxQueuedBytesPerChannel: number;
  /** Unwritten bytes of one peer; beyond it none of its subds is read. */
  readonly maxQueuedBytesPerPeer: number;
  /** Unwritten bytes of connectd's own (pongs): beyond it the peer is not read. */
  readonly maxControlBytes: number;
  /** Frames that a subd may ask to be written back to back. */
  readonly maxContiguousFrames: number;
  /** Bytes handed to the socket in one write; what is handed over cannot be called back. */
  readonly maxWriteBytes: number;
  /** A subd's time to accept an attachment. */
  readonly attachTimeout: number;
  /** Subds' time to flush when a connection drains. */
  readonly drainSubds: number;
  /** The socket's time to take what is queued when a connection drains. */
  readonly drainWrites: number;
  /** The peer's time to close after our FIN. */
  readonly drainFin: number;
  /** hsmd's time for the ECDH of one handshake. */
  readonly ecdhTimeout: number;
  /** Between two looks at all deadlines. */
  readonly tick: number;
}

/** The limits of a node. */
export const DEFAULT_LIMITS: Limits = {
  maxConnections: 4096,
  maxConnectionsPerIp: 64,
  maxHalfOpen: 256,
  handshakeTimeout: 15_000,
  connectTimeout: 15_000,
  maxConnectsInFlight: 10,
  maxAddresses: 32,
  pingAfterSilence: 45_000,
  pongTimeout: 30_000,
  maxPendingPings: 16,
  incomingBytesPerSecond: 8 * 1024 * 1024,
  incomingBurst: 32 * 1024 * 1024,
  maxHeldFramesPerChannel: 4096,
  maxHeldBytesPerChannel: 4 * 1024 * 1024,
  maxHeldBytesPerPeer: 16 * 1024 * 1024,
  maxHeldBytes: 256 * 1024 * 1024,
  maxReadPause: 60_000,
  maxUnansweredSpokes: 256,
  spokeDeadline: 30_000,
  spokeWaitDeadline: 60_000,
  maxChannelsPerConnection: 4096,
  maxIdsPerChannel: 8,
  creditFrames: 64,
  maxQueuedBytesPerChannel: 1024 * 1024,
  maxQueuedBytesPerPeer: 8 * 1024 * 1024,
  maxControlBytes: 512 * 1024,
  maxContiguousFrames: 64,
  maxWriteBytes: 128 * 1024,
  attachTimeout: 10_000,
  drainSubds: 5_000,
  drainWrites: 5_000,
  drainFin: 1_000,
  ecdhTimeout: 5_000,
  tick: 250,
};

/** Longest feature vector that is taken from a peer: it is stored and told to every subd. */
export const MAX_FEATURES_LENGTH = 8192;
/** A ping that asks for so many bytes or more gets no pong (BOLT 1). */
export const NO_PONG_FROM = 65_532;
/** Longest padding of a ping: the message is a u16 long, and type and the two lengths take six. */
export const MAX_PING_PADDING = 65_529;
/** Characters of a peer's error text that are logged or told. */
export const MAX_PEER_TEXT = 512;
/** Fault rules at one time. */
export const MAX_FAULT_RULES = 1000;
/** Longest delay that a fault rule may ask for. */
export const MAX_FAULT_DELAY = 60_000;
/** What a held frame costs besides its bytes: a crowd of tiny ones must not fill the memory below the cap. */
export const HELD_FRAME_OVERHEAD = 256;
/** What a message costs of the incoming rate besides its bytes: tiny ones cost time too. */
export const MESSAGE_RATE_COST = 512;
/** Share of one peer that is always allowed, whatever the others hold. */
export const ALWAYS_ALLOWED_HELD_BYTES = 64 * 1024;
