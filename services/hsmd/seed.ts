/**
 * The seed file: 16 bytes of entropy (12 words, BIP 39), encrypted when there is a passphrase, and the id of the memory that
 * belongs to it, so that a lost memory is noticed. JSON, so that a person can see what it is; never overwritten in place.
 */
import { xchacha20poly1305 } from "@noble/ciphers/chacha.js";
import { scryptAsync } from "@noble/hashes/scrypt.js";
import { bytesToHex, hexToBytes, utf8ToBytes } from "@noble/hashes/utils.js";
import { entropyToMnemonic, mnemonicToEntropy, mnemonicToSeed } from "@scure/bip39";
import { wordlist } from "@scure/bip39/wordlists/english.js";
import { dirname } from "node:path";
import { MEMORY_ID_LENGTH } from "./memory.ts";

/** Bytes of entropy of 12 words. */
export const ENTROPY_LENGTH = 16;
const KIND = "arcus-seed";
const VERSION = 1;
const FILE_MODE = 0o600;
const SALT_LENGTH = 16;
const NONCE_LENGTH = 24;
const KEY_LENGTH = 32;
const TAG_LENGTH = 16;
/** The strongest work factors that a file may ask for: a file put in our place must not take all memory. */
const MAX_SCRYPT = { N: 1 << 20, r: 8, p: 4 } as const;
/** Work factors of new files: 128 MiB and about a second. */
export const DEFAULT_SCRYPT: ScryptParameters = { N: 1 << 17, r: 8, p: 1 };
const MAX_FILE_BYTES = 4096;

/** scrypt's work factors. */
export interface ScryptParameters {
  readonly N: number;
  readonly r: number;
  readonly p: number;
}

/** Why there is no seed. The message is for the operator and holds no secret. */
export class SeedError extends Error {
  override readonly name = "SeedError";
  constructor(
    readonly type:
      | "exists"
      | "malformed"
      | "newer_version"
      | "passphrase_missing"
      | "passphrase_wrong"
      | "bad_mnemonic",
    message: string,
  ) {
    super(message);
  }
}

/** An opened seed. */
export interface Seed {
  /** 64 bytes (BIP 39, no passphrase of its own). */
  readonly seed: Uint8Array;
  /** The 12 words: only ever shown on a person's explicit command. */
  readonly mnemonic: string;
  /** 16 bytes, or null before the first memory. */
  readonly memoryId: Uint8Array | null;
  /** Made from words that a person gave: channels may exist of which no memory here knows. */
  readonly restored: boolean;
}

/** The file's content. */
interface SeedFile {
  readonly kind: typeof KIND;
  readonly version: number;
  readonly restored: boolean;
  readonly memory_id: string;
  /** Hex; one of the two. */
  readonly entropy?: string;
  readonly encrypted?: {
    readonly kdf: "scrypt";
    readonly n: number;
    readonly r: number;
    readonly p: number;
    readonly salt: string;
    readonly cipher: "xchacha20-poly1305";
    readonly nonce: string;
    readonly ciphertext: string;
  };
}

type Encrypted = NonNullable<SeedFile["encrypted"]>;

function random(length: number): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(length));
}

/** What the cipher authenticates beside the entropy: the parameters cannot be exchanged. */
function associatedData(parts: Pick<Encrypted, "n" | "r" | "p" | "salt">): Uint8Array {
  return utf8ToBytes(`${KIND}/${VERSION}/scrypt/${parts.n}/${parts.r}/${parts.p}/${parts.salt}`);
}

function keyOf(passphrase: string, salt: Uint8Array, scrypt: ScryptParameters): Promise<Uint8Array> {
  const maxmem = 128 * MAX_SCRYPT.N * MAX_SCRYPT.r + 1024 * 1024;
  return scryptAsync(utf8ToBytes(passphrase.normalize("NFKD")), salt, {
    ...scrypt,
    dkLen: KEY_LENGTH,
    maxmem,
  });
}

async function encrypt(
  entropy: Uint8Array,
  passphrase: string,
  scrypt: ScryptParameters,
): Promise<Encrypted> {
  const salt = random(SALT_LENGTH);
  const nonce = random(NONCE_LENGTH);
  const header = { n: scrypt.N, r: scrypt.r, p: scrypt.p, salt: bytesToHex(salt) };
  const key = await keyOf(passphrase, salt, scrypt);
  const ciphertext = xchacha20poly1305(key, nonce, associatedData(header)).encrypt(entropy);
  return {
    kdf: "scrypt",
    ...header,
    cipher: "xchacha20-poly1305",
    nonce: bytesToHex(nonce),
    ciphertext: bytesToHex(ciphertext),
  };
}

async function decrypt(encrypted: Encrypted, passphrase: string): Promise<Uint8Array> {
  const scrypt = { N: encrypted.n, r: encrypted.r, p: encrypted.p };
  const key = await keyOf(passphrase, hexToBytes(encrypted.salt), scrypt);
  const cipher = xchacha20poly1305(key, hexToBytes(encrypted.nonce), associatedData(encrypted));
  try {
    return cipher.decrypt(hexToBytes(encrypted.ciphertext));
  } catch {
    throw new SeedError("passphrase_wrong", "wrong passphrase: the seed file cannot be decrypted with it");
  }
}

function isHex(value: unknown, bytes: number): value is string {
  return typeof value === "string" && value.length === 2 * bytes && /^[0-9a-f]*$/.test(value);
}

function isFactor(value: unknown, max: number): value is number {
  return typeof value === "number" && Number.isInteger(value) && value > 0 && value <= max;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function malformed(): SeedError {
  return new SeedError(
    "malformed",
    "the seed file is damaged: restore it from a backup, or from the 12 words",
  );
}

function parseEncrypted(value: unknown): Encrypted {
  if (!isObject(value)) throw malformed();
  const { kdf, n, r, p, salt, cipher, nonce, ciphertext } = value;
  if (
    kdf !== "scrypt" || cipher !== "xchacha20-poly1305" || !isFactor(n, MAX_SCRYPT.N) ||
    (n & (n - 1)) !== 0 ||
    n < 2 || !isFactor(r, MAX_SCRYPT.r) || !isFactor(p, MAX_SCRYPT.p) || !isHex(salt, SALT_LENGTH) ||
    !isHex(nonce, NONCE_LENGTH) || !isHex(ciphertext, ENTROPY_LENGTH + TAG_LENGTH)
  ) throw malformed();
  return { kdf, n, r, p, salt, cipher, nonce, ciphertext };
}

function parseFile(text: string): SeedFile {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw malformed();
  }
  if (!isObject(value) || value.kind !== KIND || typeof value.version !== "number") throw malformed();
  if (value.version > VERSION) {
    throw new SeedError("newer_version", "the seed file is of a newer version of hsmd");
  }
  const { restored, memory_id, entropy, encrypted } = value;
  if (typeof restored !== "boolean" || !(memory_id === "" || isHex(memory_id, MEMORY_ID_LENGTH))) {
    throw malformed();
  }
  const common = { kind: KIND, version: VERSION, restored, memory_id } as const;
  if (encrypted !== undefined) return { ...common, encrypted: parseEncrypted(encrypted) };
  if (!isHex(entropy, ENTROPY_LENGTH)) throw malformed();
  return { ...common, entropy };
}

function readFile(path: string): SeedFile {
  if (Deno.statSync(path).size > MAX_FILE_BYTES) throw malformed();
  return parseFile(Deno.readTextFileSync(path));
}

/** Writes beside, then renames (or links, where nothing may be replaced): at no time is there half a seed. */
function writeFile(path: string, content: SeedFile, replace: boolean): void {
  const partial = `${path}.${bytesToHex(random(8))}.partial`;
  {
    using file = Deno.openSync(partial, { write: true, createNew: true, mode: FILE_MODE });
    const bytes = utf8ToBytes(JSON.stringify(content, null, 2) + "\n");
    let written = 0;
    while (written < bytes.length) written += file.writeSync(bytes.subarray(written));
    file.syncSync();
  }
  try {
    if (replace) Deno.renameSync(partial, path);
    else {
      Deno.linkSync(partial, path);
      Deno.removeSync(partial);
    }
  } catch (error) {
    Deno.removeSync(partial);
    if (error instanceof Deno.errors.AlreadyExists) {
      throw new SeedError("exists", `there is a seed at ${path} already; it is never overwritten`);
    }
    throw error;
  }
  using directory = Deno.openSync(dirname(path));
  directory.syncSync();
}

/** Whether there is a seed file. */
export function seedExists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** How a seed file is made. */
export interface CreateSeedOptions {
  /** Encrypts the file. */
  readonly passphrase?: string | undefined;
  /** 12 words of an earlier seed; default: a new one. */
  readonly mnemonic?: string | undefined;
  /** 16 bytes instead of fresh random ones; only for throw-away nodes. */
  readonly entropy?: Uint8Array | undefined;
  readonly scrypt?: ScryptParameters;
}

/** Makes a seed file, mode 0600. Throws SeedError "exists" rather than overwrite one, "bad_mnemonic". */
export async function createSeed(path: string, options: CreateSeedOptions = {}): Promise<void> {
  const { passphrase, mnemonic, scrypt = DEFAULT_SCRYPT } = options;
  const entropy = mnemonic === undefined ? options.entropy ?? random(ENTROPY_LENGTH) : entropyOf(mnemonic);
  if (entropy.length !== ENTROPY_LENGTH) throw new RangeError("a seed of 12 words has 16 bytes of entropy");
  const common = { kind: KIND, version: VERSION, restored: mnemonic !== undefined, memory_id: "" } as const;
  writeFile(
    path,
    passphrase === undefined
      ? { ...common, entropy: bytesToHex(entropy) }
      : { ...common, encrypted: await encrypt(entropy, passphrase, scrypt) },
    false,
  );
}

function entropyOf(mnemonic: string): Uint8Array {
  const words = mnemonic.trim().toLowerCase().split(/\s+/).join(" ");
  try {
    const entropy = mnemonicToEntropy(words, wordlist);
    if (entropy.length === ENTROPY_LENGTH) return entropy;
  } catch {
    // Falls through: the library's error may quote the words.
  }
  throw new SeedError("bad_mnemonic", "not 12 words of BIP 39 with a good checksum");
}

/**
 * Opens a seed file. Throws SeedError: "passphrase_missing" (encrypted, none given), "passphrase_wrong", "malformed",
 * "newer_version"; Deno.errors.NotFound. A passphrase given for a plain file is an error too ("passphrase_wrong"): its
 * owner believes that the file is encrypted.
 */
export async function openSeed(path: string, passphrase?: string): Promise<Seed> {
  const file = readFile(path);
  const entropy = await entropyFrom(file, passphrase);
  const mnemonic = entropyToMnemonic(entropy, wordlist);
  return {
    seed: await mnemonicToSeed(mnemonic),
    mnemonic,
    memoryId: file.memory_id === "" ? null : hexToBytes(file.memory_id),
    restored: file.restored,
  };
}

async function entropyFrom(file: SeedFile, passphrase: string | undefined): Promise<Uint8Array> {
  if (file.encrypted !== undefined) {
    if (passphrase === undefined) {
      throw new SeedError(
        "passphrase_missing",
        "the seed file is encrypted: name the file with its passphrase (hsmd-passphrase-file)",
      );
    }
    return await decrypt(file.encrypted, passphrase);
  }
  if (passphrase !== undefined) {
    throw new SeedError("passphrase_wrong", "a passphrase is given, but the seed file is not encrypted");
  }
  if (file.entropy === undefined) throw malformed();
  return hexToBytes(file.entropy);
}

/** Writes into the seed file which memory belongs to it. */
export function recordMemoryId(path: string, memoryId: Uint8Array): void {
  writeFile(path, { ...readFile(path), memory_id: bytesToHex(memoryId) }, true);
}
