/** The real parts on a fresh machine: bitcoind, Postgres and libsecp256k1, and children that leave nothing behind. */
export * from "./bitcoin_rpc.ts";
export { type Bitcoind, findBitcoind } from "./bitcoind.ts";
export { cacheDir, installOnce, withFileLock } from "./cache.ts";
export {
  type ChildExit,
  endOnSignals,
  type GuardedChild,
  type GuardedOptions,
  processExists,
  runGuarded,
  type RunResult,
  spawnGuarded,
  stopAllChildren,
  whichProgram,
} from "./child.ts";
export { freePort } from "./ports.ts";
export {
  type DatabaseOptions,
  type PostgresOptions,
  type PostgresServer,
  startPostgres,
} from "./postgres.ts";
export { type Coin, Purse } from "./purse.ts";
export { type Payment, type RegtestNode, type RegtestOptions, startBitcoind } from "./regtest.ts";
export { findSecp256k1, type Secp256k1Library } from "./secp256k1.ts";
