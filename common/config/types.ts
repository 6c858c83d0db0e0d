/** Kinds of option values. Each parses text and throws an `Error` whose message completes "NAME: ...". */

/** How text becomes a value. */
export interface ValueType<T> {
  /** What help shows in place of the value. */
  readonly label: string;
  parse(text: string): T;
  /** The value as text again, for listings and help. */
  format(value: T): string;
}

/** Any text that is not empty. */
export const TEXT: ValueType<string> = {
  label: "text",
  parse(text) {
    if (text === "") throw new Error("empty");
    return text;
  },
  format: (value) => value,
};

/** A path of this machine. */
export const PATH: ValueType<string> = { ...TEXT, label: "path" };

/** "host:port" or "unix:/path"; also "[v6]:port" and "dns:///name:port". */
export const ADDRESS: ValueType<string> = {
  label: "address",
  parse(text) {
    if (text.startsWith("unix:/") && text.length > "unix:/".length) return text;
    const port = /:(\d{1,5})$/.exec(text)?.[1];
    if (port === undefined || Number(port) > 65535 || text.startsWith(":")) {
      throw new Error(`'${text}' is neither host:port nor unix:/path`);
    }
    return text;
  },
  format: (value) => value,
};

/** true or false; the name alone means true. */
export const BOOLEAN: ValueType<boolean> = {
  label: "true|false",
  parse(text) {
    if (text === "true" || text === "1") return true;
    if (text === "false" || text === "0") return false;
    throw new Error(`'${text}' is neither true nor false`);
  },
  format: String,
};

/** A whole number within bounds. */
export function integer(min: number, max: number = Number.MAX_SAFE_INTEGER): ValueType<number> {
  return {
    label: "number",
    parse(text) {
      const value = /^-?\d{1,16}$/.test(text) ? Number(text) : NaN;
      if (!Number.isSafeInteger(value)) throw new Error(`'${text}' is not a whole number`);
      if (value < min || value > max) throw new Error(`${value} is not within ${min} and ${max}`);
      return value;
    },
    format: String,
  };
}

/** 21 million coins. */
const MAX_SAT = 2_100_000_000_000_000n;

/** An amount in satoshi: "50000", "50000sat". */
export const SAT: ValueType<bigint> = {
  label: "sat",
  parse(text) {
    const digits = /^(\d{1,16})(sat)?$/.exec(text)?.[1];
    if (digits === undefined) throw new Error(`'${text}' is not an amount in satoshi`);
    const value = BigInt(digits);
    if (value > MAX_SAT) throw new Error(`${value} sat is more than there is`);
    return value;
  },
  format: (value) => `${value}`,
};

/** One of some words. */
export function choice<const W extends string>(words: readonly W[]): ValueType<W> {
  return {
    label: words.join("|"),
    parse(text) {
      const found = words.find((word) => word === text);
      if (found === undefined) throw new Error(`'${text}' is none of ${words.join(", ")}`);
      return found;
    },
    format: (value) => value,
  };
}

/** Text of a pattern. */
export function pattern(label: string, expression: RegExp): ValueType<string> {
  return {
    label,
    parse(text) {
      if (!expression.test(text)) throw new Error(`'${text}' is not ${label}`);
      return text;
    },
    format: (value) => value,
  };
}
