/** The 5-bit values that bech32 is made of ("words", one in a byte), and bytes and numbers in them. */

const WORD_BITS = 5;
const BYTE_BITS = 8;
const WORD_MASK = 0x1f;
const BYTE_MASK = 0xff;
const MAX_U64_BITS = 64;

/** How many words so many bytes fill. */
export function wordCount(byteLength: number): number {
  return Math.ceil(byteLength * BYTE_BITS / WORD_BITS);
}

/** Bytes as words; the last is filled up with zero bits. */
export function bytesToWords(bytes: Uint8Array): Uint8Array {
  const words = new Uint8Array(wordCount(bytes.length));
  let bits = 0;
  let value = 0;
  let at = 0;
  for (const byte of bytes) {
    value = ((value << BYTE_BITS) | byte) & 0xfff;
    bits += BYTE_BITS;
    while (bits >= WORD_BITS) {
      bits -= WORD_BITS;
      words[at++] = (value >> bits) & WORD_MASK;
    }
  }
  if (bits > 0) words[at] = (value << (WORD_BITS - bits)) & WORD_MASK;
  return words;
}

function regroup(words: Uint8Array, bytes: Uint8Array): { readonly bits: number; readonly rest: number } {
  let bits = 0;
  let value = 0;
  let at = 0;
  for (const word of words) {
    value = ((value << WORD_BITS) | word) & 0xfff;
    bits += WORD_BITS;
    if (bits >= BYTE_BITS) {
      bits -= BYTE_BITS;
      bytes[at++] = (value >> bits) & BYTE_MASK;
    }
  }
  return { bits, rest: value & ((1 << bits) - 1) };
}

/** The bytes that words hold; null if what is left over is a whole word or not zero (BOLT 11: fields are padded with 0). */
export function wordsToBytes(words: Uint8Array): Uint8Array | null {
  const bytes = new Uint8Array(Math.floor(words.length * WORD_BITS / BYTE_BITS));
  const { bits, rest } = regroup(words, bytes);
  return bits >= WORD_BITS || rest !== 0 ? null : bytes;
}

/** Words as bytes, filled up with zero bits at the end: what a signature covers (BOLT 11, data part). */
export function padWords(words: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(Math.ceil(words.length * WORD_BITS / BYTE_BITS));
  const { bits, rest } = regroup(words, bytes);
  if (bits > 0) bytes[bytes.length - 1] = (rest << (BYTE_BITS - bits)) & BYTE_MASK;
  return bytes;
}

/** Words as bytes, filled up with zero bits at the front: a bit set, the lowest bit last. */
export function wordsToBitSet(words: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(Math.ceil(words.length * WORD_BITS / BYTE_BITS));
  let bits = 0;
  let value = 0;
  let at = bytes.length;
  for (let i = words.length - 1; i >= 0; i--) {
    value |= (words[i] ?? 0) << bits;
    bits += WORD_BITS;
    if (bits >= BYTE_BITS) {
      bytes[--at] = value & BYTE_MASK;
      value >>= BYTE_BITS;
      bits -= BYTE_BITS;
    }
  }
  if (bits > 0) bytes[--at] = value;
  return bytes;
}

/** A bit set as words without leading zeros. */
export function bitSetToWords(bytes: Uint8Array): Uint8Array {
  const words = new Uint8Array(wordCount(bytes.length));
  let bits = 0;
  let value = 0;
  let at = words.length;
  for (let i = bytes.length - 1; i >= 0; i--) {
    value |= (bytes[i] ?? 0) << bits;
    bits += BYTE_BITS;
    while (bits >= WORD_BITS) {
      words[--at] = value & WORD_MASK;
      value >>= WORD_BITS;
      bits -= WORD_BITS;
    }
  }
  if (bits > 0) words[--at] = value;
  const first = words.findIndex((word) => word !== 0);
  return first === -1 ? new Uint8Array() : words.slice(first);
}

/** The big-endian number in words; null beyond u64. No words are zero. */
export function wordsToUint(words: Uint8Array): bigint | null {
  let value = 0n;
  for (const word of words) {
    value = (value << BigInt(WORD_BITS)) | BigInt(word);
    if (value >> BigInt(MAX_U64_BITS) !== 0n) return null;
  }
  return value;
}

/** A number as the fewest words, at least one; with `length`, as exactly so many. */
export function uintToWords(value: bigint, length?: number): Uint8Array {
  const count = length ?? Math.max(1, Math.ceil(value.toString(2).length / WORD_BITS));
  const words = new Uint8Array(count);
  let rest = value;
  for (let i = count - 1; i >= 0; i--) {
    words[i] = Number(rest & BigInt(WORD_MASK));
    rest >>= BigInt(WORD_BITS);
  }
  return words;
}
