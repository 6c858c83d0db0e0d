/**
 * Lists as parameters of `unnest`: text of a Postgres array, to be cast (`${bytesList(x)}::bytea[]`). postgres.js takes an array's
 * type from its first element and gets that wrong for bytes, bigints and booleans.
 */

type Maybe<T> = T | null | undefined;

function literal<T>(items: readonly Maybe<T>[], write: (item: T) => string): string {
  let text = "{";
  for (let i = 0; i < items.length; i++) {
    const item = items[i];
    if (i > 0) text += ",";
    text += item === null || item === undefined ? "NULL" : write(item);
  }
  return text + "}";
}

/** For bytea[]. */
export function bytesList(items: readonly Maybe<Uint8Array>[]): string {
  return literal(items, (bytes) => `"\\\\x${bytes.toHex()}"`);
}

/** For bigint[], integer[], numeric[], boolean[]. */
export function numberList(items: readonly Maybe<bigint | number | boolean>[]): string {
  return literal(items, String);
}

/** For text[]. */
export function textList(items: readonly Maybe<string>[]): string {
  return literal(items, (text) => `"${text.replace(/[\\"]/g, "\\$&")}"`);
}
