/** The one table of options: Core Lightning's names where it has one. What needs no option is a named constant where it is used. */
import {
  type Daemon,
  DAEMONS,
  many,
  optional,
  type OptionTable,
  secret,
  withDefault,
} from "common/config/option.ts";
import {
  ADDRESS,
  BOOLEAN,
  choice,
  integer,
  PATH,
  pattern,
  SAT,
  TEXT,
  type ValueType,
} from "common/config/types.ts";
import { LOG_LEVELS } from "common/log.ts";

const ALL: readonly Daemon[] = DAEMONS;
const NODE: readonly Daemon[] = ["lightningd"];
const DATABASE: readonly Daemon[] = ["lightningd", "dualopend", "channeld", "closingd"];
const SUBDS: readonly Daemon[] = ["dualopend", "channeld", "closingd"];
const FUNDS: readonly Daemon[] = ["lightningd", "dualopend"];

/** The chains that a node may be on. */
export const NETWORKS = ["regtest", "signet", "testnet4", "testnet"] as const;

/** Mainnet has a name, and an answer. */
const NETWORK: ValueType<typeof NETWORKS[number]> = {
  ...choice(NETWORKS),
  parse(text) {
    if (text === "bitcoin" || text === "mainnet") {
      throw new Error(
        "mainnet is refused: a channel that is closed on chain is not resolved yet, so coins could be lost",
      );
    }
    return choice(NETWORKS).parse(text);
  },
};

const PERCENT = integer(0, 100);
/** Three times any sensible fee rate, in satoshi per 1000 weight. */
const MAX_FEERATE = 1_000_000;
const FEERATE = integer(253, MAX_FEERATE);
const FORCED_FEERATES = pattern("fee rates separated by /", /^\d{3,7}(\/\d{3,7}){0,3}$/);

/** Every option of every daemon. */
export const OPTIONS = {
  // The node.
  "network": withDefault(NETWORK, "regtest", { daemons: ALL, help: "Chain of the node." }),
  "lightning-dir": withDefault(PATH, ".data", {
    daemons: ALL,
    help: "Folder for files of the node, such as sockets.",
  }),
  "alias": optional(TEXT, { daemons: NODE, help: "Name of the node for others, at most 32 bytes." }),
  "rgb": optional(pattern("six hex digits", /^[0-9a-fA-F]{6}$/), {
    daemons: NODE,
    help: "Colour of the node for others.",
  }),
  "log-level": withDefault(choice(LOG_LEVELS), "info", { daemons: ALL, help: "Least level that is logged." }),
  "log-file": optional(PATH, { daemons: ALL, help: "File to append logs to, instead of standard output." }),
  "developer": withDefault(BOOLEAN, false, {
    daemons: ALL,
    help: "Allow what only developers need: dev- options and commands, fault injection.",
  }),

  // Between daemons.
  "listen": withDefault(ADDRESS, "127.0.0.1:0", {
    daemons: ALL,
    help: "Where this daemon serves gRPC to the others: host:port (port 0: any) or unix:/path.",
  }),
  "advertise-address": optional(ADDRESS, {
    daemons: ALL,
    help: "Where the others reach this daemon, if not at what it listens on; in a container its name.",
  }),
  "lightningd-address": optional(ADDRESS, {
    daemons: ["connectd", "dualopend", "channeld", "closingd"],
    help: "Where lightningd listens for the other daemons.",
  }),
  "hsmd-address": optional(ADDRESS, {
    daemons: ["connectd", "lightningd", "dualopend", "channeld", "closingd"],
    help: "Where hsmd listens.",
  }),
  "tls-dir": optional(PATH, {
    daemons: ALL,
    help:
      "Folder with ca.pem, cert.pem and key.pem of this daemon: connections between daemons then use mutual TLS.",
  }),
  "metrics-listen": optional(ADDRESS, {
    daemons: ALL,
    help: "Where /metrics, /healthz and /readyz are served over HTTP; none if not given.",
  }),

  // Peers.
  "addr": many(ADDRESS, {
    daemons: ["connectd"],
    help: "Where to listen for peers, host:port; may be given several times. Also announced.",
  }),
  "bind-addr": many(ADDRESS, { daemons: ["connectd"], help: "Like addr, but not announced." }),
  "announce-addr": many(ADDRESS, { daemons: ["connectd", "lightningd"], help: "Announced only." }),
  "max-peers": withDefault(integer(1, 100_000), 1_000, {
    daemons: ["connectd"],
    help: "Most connections with peers.",
  }),
  "max-peers-per-address": withDefault(integer(1), 50, {
    daemons: ["connectd"],
    help: "Most incoming connections from one IP address.",
  }),

  // Bitcoin.
  "bitcoin-datadir": optional(PATH, {
    daemons: NODE,
    help:
      "Data folder of bitcoind, where its cookie is found when neither a cookie file nor a password is given.",
  }),
  "bitcoin-cookie-file": optional(PATH, { daemons: NODE, help: "Cookie file of bitcoind's RPC." }),
  "bitcoin-rpcconnect": withDefault(TEXT, "127.0.0.1", { daemons: NODE, help: "Host of bitcoind's RPC." }),
  "bitcoin-rpcport": optional(integer(1, 65535), {
    daemons: NODE,
    help: "Port of bitcoind's RPC; default by network.",
  }),
  "bitcoin-rpcuser": optional(TEXT, { daemons: NODE, help: "User of bitcoind's RPC." }),
  "bitcoin-rpcpassword": secret(TEXT, { daemons: NODE, help: "Password of bitcoind's RPC." }),
  "bitcoin-retry-timeout": withDefault(integer(1), 60, {
    daemons: NODE,
    help: "Seconds without an answer of bitcoind after which lightningd gives up.",
  }),
  "bitcoin-poll-interval": withDefault(integer(50), 30_000, {
    daemons: NODE,
    help: "Milliseconds between questions for a new block.",
  }),

  // Database.
  "database-url": secret(pattern("a postgres:// URL", /^postgres(ql)?:\/\/\S+$/), {
    daemons: DATABASE,
    environment: true,
    help: "URL of the Postgres database that holds the node.",
  }),
  "database-schema": optional(pattern("a plain name", /^[a-z_][a-z0-9_]{0,62}$/), {
    daemons: DATABASE,
    help: "Schema that holds the node, if a database holds several.",
  }),
  "database-pool": withDefault(integer(1, 100), 8, {
    daemons: DATABASE,
    help: "Connections of this daemon's pool.",
  }),

  // Keys.
  "hsmd-dir": withDefault(PATH, ".data/hsmd", {
    daemons: ["hsmd"],
    help:
      "Folder of the seed and of the memory of what was signed. Losing it loses coins; a copy must never run.",
  }),
  "hsmd-passphrase": secret(TEXT, { daemons: ["hsmd"], help: "Encrypts the seed at rest." }),

  // The public API.
  "grpc-host": withDefault(TEXT, "127.0.0.1", { daemons: NODE, help: "Host of the API's gRPC." }),
  "grpc-port": optional(integer(0, 65535), {
    daemons: NODE,
    help: "Port of the API's gRPC (0: any); none if not given.",
  }),
  "rpc-file": withDefault(TEXT, "lightning-rpc", {
    daemons: NODE,
    help: "Unix socket of JSON-RPC, inside lightning-dir unless absolute.",
  }),
  "clnrest-host": withDefault(TEXT, "127.0.0.1", { daemons: NODE, help: "Host of the API over REST." }),
  "clnrest-port": optional(integer(0, 65535), {
    daemons: NODE,
    help: "Port of the API over REST; none if not given.",
  }),

  // Channels. Policy is read by lightningd alone, stored, and handed to the others with each channel.
  "min-capacity-sat": withDefault(SAT, 10_000n, {
    daemons: NODE,
    help: "Smallest channel that is accepted.",
  }),
  "max-capacity-sat": optional(SAT, { daemons: NODE, help: "Largest channel that is opened or accepted." }),
  "funding-confirms": withDefault(integer(1, 2016), 3, {
    daemons: NODE,
    help: "Depth that a funding transaction of a peer's open must have.",
  }),
  "max-concurrent-htlcs": withDefault(integer(1, 483), 30, {
    daemons: NODE,
    help: "Payments under way per channel and direction.",
  }),
  "htlc-minimum-msat": withDefault(integer(0), 0, {
    daemons: NODE,
    help: "Smallest payment that a channel takes.",
  }),
  "watchtime-blocks": withDefault(integer(1, 2016), 144, {
    daemons: NODE,
    help: "Blocks that the other side must wait for its coins after it closes alone (to_self_delay).",
  }),
  "max-locktime-blocks": withDefault(integer(1, 2016), 2016, {
    daemons: NODE,
    help: "Most blocks that we agree to wait for ours.",
  }),
  "max-dust-htlc-exposure-msat": withDefault(integer(0), 50_000_000, {
    daemons: NODE,
    help: "Most that may be lost to payments too small for an output.",
  }),
  "cltv-final": withDefault(integer(1, 2016), 18, {
    daemons: NODE,
    help: "Blocks that a payment to us must leave until it expires (min_final_cltv_expiry_delta).",
  }),
  "invoices-onchain-fallback": withDefault(BOOLEAN, false, {
    daemons: NODE,
    help: "Put a new address of the wallet into every invoice, to be paid on chain instead.",
  }),
  "require-confirmed-inputs": withDefault(BOOLEAN, false, {
    daemons: NODE,
    help: "Whether peers must fund with confirmed coins only.",
  }),
  "max-opens-per-peer": withDefault(integer(1), 3, {
    daemons: NODE,
    help: "Channels of one peer that are not locked in yet.",
  }),
  "max-opens-per-minute": withDefault(integer(1), 30, {
    daemons: NODE,
    help: "Opens that one peer may start in a minute, on however many connections.",
  }),
  "open-timeout": withDefault(integer(1), 120, {
    daemons: FUNDS,
    help: "Seconds without progress after which an open or a replacement under negotiation is aborted.",
  }),
  "max-rbf-attempts": withDefault(integer(1, 100), 10, {
    daemons: FUNDS,
    help: "Replacements of a funding transaction that a peer may start.",
  }),
  "rbf-blocks-apart": withDefault(integer(0, 144), 3, {
    daemons: FUNDS,
    help: "Blocks between replacements that a peer starts; less than 3 only on regtest.",
  }),
  "funding-giveup-blocks": withDefault(integer(1), 2016, {
    daemons: NODE,
    help:
      "Blocks without confirmation after which our inputs of a funding transaction may be spent elsewhere.",
  }),
  "unsigned-giveup-blocks": withDefault(integer(1), 36, {
    daemons: NODE,
    help: "Blocks after which a new channel whose funding transaction we have not signed is forgotten.",
  }),

  // Fee rates, satoshi per 1000 weight.
  "feerate-fallback": withDefault(FEERATE, 1_000, {
    daemons: NODE,
    help: "Fee rate on regtest, where bitcoind has no estimate. Elsewhere opens wait until there is one.",
  }),
  "force-feerates": optional(FORCED_FEERATES, {
    daemons: NODE,
    help:
      "Fee rates instead of estimates: opening/mutual close/unilateral close/penalty; the last one stands for the missing.",
  }),
  "commit-fee": withDefault(integer(1, 1_000), 100, {
    daemons: NODE,
    help: "Percentage of the estimate that a commitment transaction pays.",
  }),
  "min-feerate": withDefault(FEERATE, 253, {
    daemons: NODE,
    help: "Least fee rate that is accepted of a peer.",
  }),
  "max-feerate": optional(FEERATE, {
    daemons: NODE,
    help: "Greatest fee rate that is accepted of a peer or used; default ten times the estimate.",
  }),
  "max-funding-fee-sat": withDefault(SAT, 100_000n, {
    daemons: ["lightningd", "hsmd"],
    help: "Most that we pay in fees for one funding transaction; hsmd signs none that costs us more.",
  }),
  "ignore-fee-limits": withDefault(BOOLEAN, false, { daemons: NODE, help: "Accept any fee rate of a peer." }),

  // What we add to the channels that others open.
  "funder-policy": withDefault(choice(["match", "available", "fixed"]), "fixed", {
    daemons: NODE,
    help: "match: a percentage of theirs; available: a percentage of our coins; fixed: an amount.",
  }),
  "funder-policy-mod": withDefault(SAT, 0n, {
    daemons: NODE,
    help: "The percentage, or the satoshi of fixed; 0: nothing.",
  }),
  "funder-min-their-funding": withDefault(SAT, 10_000n, {
    daemons: NODE,
    help: "Least that they must put in.",
  }),
  "funder-max-their-funding": optional(SAT, { daemons: NODE, help: "Most that they may put in." }),
  "funder-per-channel-min": withDefault(SAT, 10_000n, {
    daemons: NODE,
    help: "Least that we put in; below it nothing.",
  }),
  "funder-per-channel-max": optional(SAT, { daemons: NODE, help: "Most that we put in." }),
  "funder-reserve-tank": withDefault(SAT, 0n, {
    daemons: NODE,
    help: "Satoshi that always stay in the wallet.",
  }),
  "funder-fund-probability": withDefault(PERCENT, 100, {
    daemons: NODE,
    help: "Percentage of opens that get something.",
  }),
  "funder-fuzz-percent": withDefault(PERCENT, 0, {
    daemons: NODE,
    help: "How far the amount varies at random, percent.",
  }),
  "funder-max-inputs-per-peer": withDefault(integer(0), 4, {
    daemons: NODE,
    help: "Our coins that unconfirmed opens of one peer may hold.",
  }),
  "funder-max-inputs": withDefault(integer(0), 20, {
    daemons: NODE,
    help: "Our coins that unconfirmed opens of all peers may hold.",
  }),

  // Replicas.
  "instance-name": optional(TEXT, {
    daemons: SUBDS.concat("connectd"),
    help: "Name of this replica in logs and listings.",
  }),
  "max-channels": withDefault(integer(1), 10_000, {
    daemons: SUBDS,
    help: "Channels that this replica takes.",
  }),

  "simple-close": withDefault(BOOLEAN, true, {
    daemons: ["lightningd", "dualopend", "channeld", "closingd"],
    help:
      "Offer option_simple_close: each side pays for the close that it proposes. All daemons of a node need the same.",
  }),

  // Developers.
  "dev-disconnect": optional(PATH, {
    daemons: ["connectd"],
    help: "File with faults to inject between peers; needs developer.",
  }),
  "dev-fast-reconnect": withDefault(BOOLEAN, false, {
    daemons: ["connectd"],
    help: "Reconnect to important peers within a second; needs developer.",
  }),
  "dev-seed": secret(pattern("64 hex digits", /^[0-9a-f]{64}$/), {
    daemons: ["hsmd"],
    help: "Seed of a throw-away node; needs developer.",
  }),
} satisfies OptionTable;
