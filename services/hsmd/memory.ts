/**
 * hsmd's memory on disk: an append-only file of its own, never the node's database.
 *
 *     header    "ARCUSMEM" | version u32 | memory id 16 | node id 33 | chain hash 32 | check 16
 *     snapshot  "AMS1" | body length u32 | records in it u64 | previous check 16 | body | check 16
 *     frame     "AMF1" | body length u32 | records before u64 | previous check 16 | body | check 16
 *     body      (record length u32 | record)*
 *
 * A file of version 1 has no snapshot, one of version 2 begins with one: a memory that grew large is written anew, to
 * another file that takes its place by its name once it is whole and on the disk. Until then the old one stands.
 *
 * Numbers are big-endian; a check is the first 16 bytes of SHA-256 of all bytes of its header or frame before it, and each
 * frame names its predecessor's, so a frame that was changed, removed or moved is found. A frame is one write and one
 * fsync; the next begins only after it. So a crash can tear only the last frame, which is cut off (nothing of it was
 * answered); a bad frame with a good one behind it is damage, and the file is refused.
 */
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, concatBytes, utf8ToBytes } from "@noble/hashes/utils.js";
import { dirname } from "node:path";
import { sameBytes } from "bolt/tx/transaction.ts";
import { applyRecord, emptyMemory, type Memory, type MemoryRecord } from "./memory_state.ts";
import { decodeRecord, encodeRecord, type RecordFailure } from "./record_codec.ts";
import { decodeSnapshot, encodeSnapshot } from "./snapshot.ts";

/** Bytes of a memory id. */
export const MEMORY_ID_LENGTH = 16;
const HEADER_MAGIC = utf8ToBytes("ARCUSMEM");
const FRAME_MAGIC = utf8ToBytes("AMF1");
const SNAPSHOT_MAGIC = utf8ToBytes("AMS1");
/** A file of records only. */
const VERSION_PLAIN = 1;
/** A file that begins with a snapshot: an hsmd that knows no snapshots must not take it for a torn one. */
const VERSION_SNAPSHOT = 2;
/** A file below this size is not written anew, bytes. */
const COMPACT_SIZE = 16 * 1024 * 1024;
/** How much a file may have grown since its snapshot. */
const COMPACT_GROWTH = 4;
const NODE_ID_LENGTH = 33;
const CHAIN_HASH_LENGTH = 32;
const CHECK_LENGTH = 16;
const HEADER_LENGTH = HEADER_MAGIC.length + 4 + MEMORY_ID_LENGTH + NODE_ID_LENGTH + CHAIN_HASH_LENGTH +
  CHECK_LENGTH;
const FRAME_HEAD_LENGTH = FRAME_MAGIC.length + 4 + 8 + CHECK_LENGTH;
const FILE_MODE = 0o600;

/** Why a memory file cannot be used. The message is for the operator. */
export class MemoryError extends Error {
  override readonly name = "MemoryError";
  constructor(
    readonly type: "locked" | "damaged" | "foreign" | "newer_version" | "io",
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** Whose memory it is. */
export interface MemoryOwner {
  /** 33 bytes. */
  readonly nodeId: Uint8Array;
  /** 32 bytes. */
  readonly chainHash: Uint8Array;
}

function check(bytes: Uint8Array): Uint8Array {
  return sha256(bytes).slice(0, CHECK_LENGTH);
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}

function u64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value);
  return bytes;
}

function encodeHeader(version: number, memoryId: Uint8Array, owner: MemoryOwner): Uint8Array {
  const head = concatBytes(HEADER_MAGIC, u32(version), memoryId, owner.nodeId, owner.chainHash);
  return concatBytes(head, check(head));
}

interface Header {
  readonly version: number;
  readonly memoryId: Uint8Array;
}

function decodeHeader(bytes: Uint8Array, owner: MemoryOwner): Header {
  const head = bytes.subarray(0, HEADER_LENGTH - CHECK_LENGTH);
  const start = HEADER_MAGIC.length;
  if (bytes.length < HEADER_LENGTH || !sameBytes(head.subarray(0, start), HEADER_MAGIC)) {
    throw new MemoryError("damaged", "the memory file has no header of hsmd's memory");
  }
  const version = new DataView(bytes.buffer, bytes.byteOffset).getUint32(start);
  if (version > VERSION_SNAPSHOT) {
    throw new MemoryError("newer_version", "the memory file is of a newer version of hsmd");
  }
  if (!sameBytes(check(head), bytes.subarray(HEADER_LENGTH - CHECK_LENGTH, HEADER_LENGTH))) {
    throw new MemoryError("damaged", "the header of the memory file is damaged");
  }
  const id = start + 4;
  const node = id + MEMORY_ID_LENGTH;
  const chain = node + NODE_ID_LENGTH;
  if (!sameBytes(head.subarray(node, chain), owner.nodeId)) {
    throw new MemoryError("foreign", "the memory file belongs to another seed");
  }
  if (!sameBytes(head.subarray(chain), owner.chainHash)) {
    throw new MemoryError("foreign", "the memory file belongs to another chain");
  }
  return { version, memoryId: bytes.slice(id, node) };
}

interface Frame {
  readonly before: bigint;
  readonly previous: Uint8Array;
  readonly body: Uint8Array;
  readonly check: Uint8Array;
  readonly end: number;
}

function frameOf(magic: Uint8Array, count: bigint, previous: Uint8Array, body: Uint8Array): Uint8Array {
  const frame = concatBytes(magic, u32(body.length), u64(count), previous, body);
  return concatBytes(frame, check(frame));
}

function encodeFrame(before: bigint, previous: Uint8Array, records: readonly Uint8Array[]): Uint8Array {
  const body = concatBytes(...records.flatMap((record) => [u32(record.length), record]));
  return frameOf(FRAME_MAGIC, before, previous, body);
}

/** A whole file with nothing but a snapshot. */
function encodeCompacted(memory: Memory, memoryId: Uint8Array, owner: MemoryOwner): Uint8Array {
  const header = encodeHeader(VERSION_SNAPSHOT, memoryId, owner);
  const previous = header.subarray(-CHECK_LENGTH);
  return concatBytes(
    header,
    frameOf(SNAPSHOT_MAGIC, memory.highWater, previous, encodeSnapshot(memory)),
  );
}

/** The frame at an offset, if its bytes are all there and its check is good. */
function readFrame(file: Uint8Array, offset: number, magic: Uint8Array = FRAME_MAGIC): Frame | null {
  if (file.length < offset + FRAME_HEAD_LENGTH + CHECK_LENGTH) return null;
  if (!sameBytes(file.subarray(offset, offset + magic.length), magic)) return null;
  const view = new DataView(file.buffer, file.byteOffset + offset);
  const bodyEnd = offset + FRAME_HEAD_LENGTH + view.getUint32(FRAME_MAGIC.length);
  const end = bodyEnd + CHECK_LENGTH;
  if (file.length < end) return null;
  const given = file.slice(bodyEnd, end);
  if (!sameBytes(check(file.subarray(offset, bodyEnd)), given)) return null;
  return {
    before: view.getBigUint64(FRAME_MAGIC.length + 4),
    previous: file.slice(offset + FRAME_HEAD_LENGTH - CHECK_LENGTH, offset + FRAME_HEAD_LENGTH),
    body: file.slice(offset + FRAME_HEAD_LENGTH, bodyEnd),
    check: given,
    end,
  };
}

/** Whether a good frame begins anywhere behind an offset. */
function hasFrameAfter(file: Uint8Array, offset: number): boolean {
  for (let at = offset + 1; at <= file.length - FRAME_HEAD_LENGTH - CHECK_LENGTH; at++) {
    if (file[at] === FRAME_MAGIC[0] && readFrame(file, at) !== null) return true;
  }
  return false;
}

function unreadable(failure: RecordFailure): MemoryError {
  return failure.type === "unknown_record"
    ? new MemoryError("newer_version", "the memory file holds a record of a newer version of hsmd")
    : new MemoryError("damaged", "the memory file holds a malformed record");
}

function applyBody(memory: Memory, body: Uint8Array): void {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  let at = 0;
  while (at < body.length) {
    const end = at + 4 + (at + 4 <= body.length ? view.getUint32(at) : body.length);
    if (end > body.length) {
      throw new MemoryError("damaged", "a frame of the memory file holds no whole record");
    }
    const record = decodeRecord(body.subarray(at + 4, end));
    if (!record.ok) throw unreadable(record.error);
    applyRecord(memory, record.value);
    at = end;
  }
}

/** What a file says; `end` is where the next frame goes, before a torn tail. */
interface Replay {
  readonly memoryId: Uint8Array;
  readonly memory: Memory;
  readonly lastCheck: Uint8Array;
  readonly end: number;
}

/** The snapshot behind the header. It was on the disk before the file had its name, so nothing of it can be torn. */
function readSnapshot(file: Uint8Array, headerCheck: Uint8Array): Omit<Replay, "memoryId"> {
  const frame = readFrame(file, HEADER_LENGTH, SNAPSHOT_MAGIC);
  if (frame === null || !sameBytes(frame.previous, headerCheck)) {
    throw new MemoryError("damaged", "the snapshot of the memory file is damaged");
  }
  const memory = decodeSnapshot(frame.body);
  if (!memory.ok) throw unreadable(memory.error);
  if (memory.value.highWater !== frame.before) {
    throw new MemoryError("damaged", "the snapshot of the memory file holds another count of records");
  }
  return { memory: memory.value, lastCheck: frame.check, end: frame.end };
}

function replay(file: Uint8Array, owner: MemoryOwner): Replay {
  const { version, memoryId } = decodeHeader(file, owner);
  const headerCheck = file.slice(HEADER_LENGTH - CHECK_LENGTH, HEADER_LENGTH);
  const start = version === VERSION_SNAPSHOT
    ? readSnapshot(file, headerCheck)
    : { memory: emptyMemory(), lastCheck: headerCheck, end: HEADER_LENGTH };
  const { memory } = start;
  let { lastCheck, end } = start;
  while (end < file.length) {
    const frame = readFrame(file, end);
    if (frame === null) {
      if (!hasFrameAfter(file, end)) break;
      throw new MemoryError("damaged", `the memory file is damaged at byte ${end}, and goes on behind it`);
    }
    if (!sameBytes(frame.previous, lastCheck) || frame.before !== memory.highWater) {
      throw new MemoryError("damaged", `the memory file lacks records before byte ${end}`);
    }
    applyBody(memory, frame.body);
    lastCheck = frame.check;
    end = frame.end;
  }
  return { memoryId, memory, lastCheck, end };
}

function syncDirectory(path: string): void {
  using directory = Deno.openSync(dirname(path));
  directory.syncSync();
}

function writeAll(file: Deno.FsFile, bytes: Uint8Array): void {
  let written = 0;
  while (written < bytes.length) written += file.writeSync(bytes.subarray(written));
}

/** Makes a memory file; it exists completely or not at all, and whoever comes second takes the first one's. */
function createFile(path: string, owner: MemoryOwner): void {
  const memoryId = crypto.getRandomValues(new Uint8Array(MEMORY_ID_LENGTH));
  // A name of its own: a second process must not reach the file that the link below makes the memory.
  const partial = `${path}.${bytesToHex(memoryId)}.partial`;
  try {
    using file = Deno.openSync(partial, { write: true, createNew: true, mode: FILE_MODE });
    writeAll(file, encodeHeader(VERSION_PLAIN, memoryId, owner));
    file.syncSync();
    // A link fails where a memory appeared meanwhile: nothing is ever overwritten.
    Deno.linkSync(partial, path);
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
  } finally {
    Deno.removeSync(partial);
  }
  syncDirectory(path);
}

/** Records that wait for one write. */
interface Waiting {
  /** Records before them. */
  readonly before: bigint;
  readonly records: Uint8Array[];
  readonly done: PromiseWithResolvers<void>;
}

/** What happens to the files while the memory is written anew, in order. */
export type CompactStep = "create" | "write" | "sync" | "rename" | "sync_directory";

/** What {@link MemoryFile.open} needs. */
export interface MemoryFileOptions {
  readonly path: string;
  readonly owner: MemoryOwner;
  /** Told once when a write failed: what is on the disk is unknown then, so the process must end and read it anew. */
  readonly onFatal: (error: MemoryError) => void;
  /** From which size on the file is written anew, bytes. */
  readonly compactSize?: number;
  /** Told before each step of that; what it throws is taken for a failure of the step. For tests. */
  readonly onCompact?: (step: CompactStep) => void;
}

/** Where the file is written anew. */
function nextPath(path: string): string {
  return `${path}.next`;
}

function isSameFile(file: Deno.FsFile, path: string): boolean {
  const [open, named] = [file.statSync(), Deno.statSync(path)];
  return open.ino === named.ino && open.dev === named.dev;
}

function removeIfThere(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** The open memory: what it remembers, and the only way to add to it. Locked against a second process. */
export class MemoryFile {
  #next: Waiting | null = null;
  #writing: Promise<void> | null = null;
  #settled: Promise<void> = Promise.resolve();
  #failed: MemoryError | null = null;
  #closed = false;
  #file: Deno.FsFile;
  #lastCheck: Uint8Array;
  #size: number;
  #compactAt: number;
  #durable: bigint;
  /** Frames written in this run: less than the requests that waited for them. */
  frames = 0;
  /** How often the file was written anew in this run. */
  compactions = 0;

  private constructor(
    readonly memoryId: Uint8Array,
    /** Everything decided so far, durable or about to be. */
    readonly memory: Memory,
    readonly created: boolean,
    readonly tornBytes: number,
    private readonly options: MemoryFileOptions,
    at: { readonly file: Deno.FsFile; readonly lastCheck: Uint8Array; readonly size: number },
  ) {
    this.#file = at.file;
    this.#lastCheck = at.lastCheck;
    this.#size = at.size;
    this.#compactAt = options.compactSize ?? COMPACT_SIZE;
    this.#durable = memory.highWater;
    if (this.#isLarge) this.#writing = this.#write();
  }

  /** Whether there is a memory file. */
  static exists(path: string): boolean {
    try {
      Deno.statSync(path);
      return true;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return false;
      throw error;
    }
  }

  /** Opens the memory, or makes an empty one. Throws MemoryError: locked, damaged, of another seed or chain, newer. */
  static open(options: MemoryFileOptions): MemoryFile {
    const { path, owner } = options;
    const created = !MemoryFile.exists(path);
    if (created) createFile(path, owner);
    const file = Deno.openSync(path, { read: true, write: true });
    try {
      // The name may have gone to a new file since it was opened: the lock of the old one is worth nothing.
      if (!file.tryLockSync(true) || !isSameFile(file, path)) {
        throw new MemoryError("locked", `another process uses the memory file ${path}`);
      }
      // Of a run that ended while it wrote the file anew.
      removeIfThere(nextPath(path));
      const bytes = readAll(file);
      const { memoryId, memory, lastCheck, end } = replay(bytes, owner);
      if (end < bytes.length) {
        file.truncateSync(end);
        file.syncSync();
      }
      file.seekSync(end, Deno.SeekMode.Start);
      const at = { file, lastCheck, size: end };
      return new MemoryFile(memoryId, memory, created, bytes.length - end, options, at);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** Records on the disk: what may be told to others. */
  get durableHighWater(): bigint {
    return this.#durable;
  }

  get #isLarge(): boolean {
    return this.#size >= this.#compactAt;
  }

  /**
   * Adds facts: decided at once (the next rule sees them), on the disk when {@link settled} resolves. All that is added
   * while a write is under way shares the next one. Throws MemoryError once a write failed.
   */
  append(records: readonly MemoryRecord[]): void {
    if (this.#failed !== null) throw this.#failed;
    if (records.length === 0) return;
    if (this.#next === null) {
      this.#next = { before: this.memory.highWater, records: [], done: Promise.withResolvers() };
      this.#settled = this.#next.done.promise;
      // Whoever waits gets the failure; nobody waiting must not end the process in another way.
      this.#settled.catch(() => {});
    }
    for (const record of records) {
      const bytes = encodeRecord(record);
      applyRecord(this.memory, record);
      this.#next.records.push(bytes);
    }
    this.#writing ??= this.#write();
  }

  /**
   * Resolves when everything decided until now is on the disk. Every answer waits for it, also one that adds nothing: the
   * fact that it rests on may still be on its way.
   */
  async settled(): Promise<void> {
    if (this.#failed !== null) throw this.#failed;
    await this.#settled;
  }

  async #write(): Promise<void> {
    let current: Waiting | null = null;
    try {
      // What comes in during this turn of the loop shares the first write.
      await Promise.resolve();
      while (this.#next !== null || this.#isLarge) {
        current = this.#next;
        this.#next = null;
        // The memory holds what waits already: a snapshot of it takes the place of the frame.
        const highWater = this.memory.highWater;
        const compacted = this.#isLarge && await this.#compact();
        if (!compacted && current !== null) await this.#append(current);
        this.#durable = highWater;
        current?.done.resolve();
      }
    } catch (cause) {
      const error = new MemoryError("io", "the memory could not be written", { cause });
      this.#failed = error;
      current?.done.reject(error);
      this.#next?.done.reject(error);
      this.options.onFatal(error);
    } finally {
      this.#writing = null;
    }
  }

  async #append({ before, records }: Waiting): Promise<void> {
    const frame = encodeFrame(before, this.#lastCheck, records);
    // At once, so that the disk works while this process goes on.
    writeAll(this.#file, frame);
    await this.#file.syncData();
    this.#lastCheck = frame.slice(-CHECK_LENGTH);
    this.#size += frame.length;
    this.frames++;
  }

  /**
   * Writes all that is remembered to a new file that takes the name of this one. Answers whether it did: what fails before
   * the name changes leaves the old file as it is, and it is tried again when that has doubled.
   */
  async #compact(): Promise<boolean> {
    const { path, owner, onCompact = () => {} } = this.options;
    const partial = nextPath(path);
    const bytes = encodeCompacted(this.memory, this.memoryId, owner);
    let file: Deno.FsFile | null = null;
    try {
      onCompact("create");
      file = Deno.openSync(partial, { read: true, write: true, createNew: true, mode: FILE_MODE });
      // Before it has the name by which others find it.
      if (!file.tryLockSync(true)) throw new MemoryError("locked", `another process uses ${partial}`);
      onCompact("write");
      writeAll(file, bytes);
      onCompact("sync");
      await file.sync();
      onCompact("rename");
      Deno.renameSync(partial, path);
    } catch {
      file?.close();
      removeIfThere(partial);
      this.#compactAt = 2 * this.#size;
      return false;
    }
    const old = this.#file;
    this.#file = file;
    try {
      // Nothing is answered before the new name is durable: the disk may still know the old file under it.
      onCompact("sync_directory");
      syncDirectory(path);
    } finally {
      old.close();
    }
    this.#lastCheck = bytes.slice(-CHECK_LENGTH);
    this.#size = bytes.length;
    this.#compactAt = Math.max(this.options.compactSize ?? COMPACT_SIZE, COMPACT_GROWTH * bytes.length);
    this.compactions++;
    return true;
  }

  /** Waits for writes under way and gives the file and its lock back. Again: does nothing. */
  async close(): Promise<void> {
    await this.#writing;
    if (this.#closed) return;
    this.#closed = true;
    this.#file.close();
  }
}

function readAll(file: Deno.FsFile): Uint8Array {
  const bytes = new Uint8Array(file.statSync().size);
  let read = 0;
  while (read < bytes.length) {
    const count = file.readSync(bytes.subarray(read));
    if (count === null) break;
    read += count;
  }
  return bytes.subarray(0, read);
}
