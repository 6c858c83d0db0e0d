/** TLV streams of types that callers choose. */
import type { TlvRecord } from "bolt/wire/tlv.ts";
import { encodeTlvStream } from "bolt/wire/tlv.ts";
import { readBigSize } from "bolt/wire/bigsize.ts";
import { Reader } from "bolt/wire/reader.ts";

/** The bytes of records, in rising order of their types. Throws RangeError for a type that is there twice. */
export function encodeTlvs(records: readonly TlvRecord[]): Uint8Array {
  return encodeTlvStream(records.toSorted((a, b) => (a.type < b.type ? -1 : a.type > b.type ? 1 : 0)));
}

/** What {@link encodeTlvs} wrote. */
export function decodeTlvStream(bytes: Uint8Array): TlvRecord[] {
  const reader = new Reader(bytes);
  const records: TlvRecord[] = [];
  while (reader.remaining > 0) {
    const type = readBigSize(reader);
    records.push({ type, value: reader.sub(Number(readBigSize(reader))).rest() });
  }
  return records;
}
