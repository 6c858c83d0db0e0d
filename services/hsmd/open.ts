/** Opens seed and memory together, and notices when they do not belong together. */
import { join } from "node:path";
import { chainHash, type Network } from "bolt/wire/chain_hash.ts";
import { KeyTree } from "./keys.ts";
import { MemoryFile, type MemoryFileOptions } from "./memory.ts";
import { createSeed, openSeed, recordMemoryId, type ScryptParameters, seedExists } from "./seed.ts";

/** Name of the seed file in hsmd's directory. */
export const SEED_FILE = "seed.json";
/** Name of the memory file in hsmd's directory. */
export const MEMORY_FILE = "memory";
const DIRECTORY_MODE = 0o700;

/** Where seed and memory are. */
export interface StoreOptions {
  /** Made, mode 0700, if it is not there. */
  readonly directory: string;
  readonly network: Network;
  readonly passphrase?: string | undefined;
  /** Work factors of a new, encrypted seed. */
  readonly scrypt?: ScryptParameters;
  /** Entropy of a new seed; only for throw-away nodes. */
  readonly entropy?: Uint8Array | undefined;
  readonly onFatal: MemoryFileOptions["onFatal"];
}

/** An opened seed and its memory. */
export interface Store {
  readonly keys: KeyTree;
  readonly memory: MemoryFile;
  /** A new seed was made. */
  readonly seedCreated: boolean;
}

/** The seed is gone and its memory is there: a new seed would take its place and hide the loss. */
export class SeedLostError extends Error {
  override readonly name = "SeedLostError";
}

/**
 * Opens the directory, making a seed and a memory the first time. A seed whose memory is missing or another one gets
 * a memory that distrusts itself: nothing is signed for existing channels until a person says so. Throws SeedError,
 * MemoryError, {@link SeedLostError}.
 */
export async function openStore(options: StoreOptions): Promise<Store> {
  const { directory, network, passphrase, scrypt, entropy, onFatal } = options;
  Deno.mkdirSync(directory, { recursive: true, mode: DIRECTORY_MODE });
  const seedPath = join(directory, SEED_FILE);
  const memoryPath = join(directory, MEMORY_FILE);
  const seedCreated = !seedExists(seedPath);
  if (seedCreated) {
    if (MemoryFile.exists(memoryPath)) {
      throw new SeedLostError(`${memoryPath} is there, but its seed ${seedPath} is not: bring the seed back`);
    }
    await createSeed(seedPath, { passphrase, entropy, ...(scrypt === undefined ? {} : { scrypt }) });
  }
  const seed = await openSeed(seedPath, passphrase);
  const keys = new KeyTree(seed.seed, network);
  const owner = { nodeId: keys.nodeId, chainHash: chainHash(network) };
  const memory = MemoryFile.open({ path: memoryPath, owner, onFatal });
  const isOther = seed.memoryId !== null && !seed.memoryId.every((byte, i) => byte === memory.memoryId[i]);
  const isRestored = seed.memoryId === null && seed.restored && memory.memory.highWater === 0n;
  if (isOther || isRestored) {
    memory.append([{
      type: "memory_distrusted",
      reason: "MEMORY_LOST",
      expectedMemoryId: seed.memoryId ?? new Uint8Array(0),
      highWater: 0n,
    }]);
    await memory.settled();
  }
  // After the distrust is on the disk: a crash in between finds the difference again.
  if (seed.memoryId === null || isOther) recordMemoryId(seedPath, memory.memoryId);
  return { keys, memory, seedCreated };
}
