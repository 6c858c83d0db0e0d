/** What an option is. The table of all options is in `options.ts`. */
import type { ValueType } from "common/config/types.ts";

/** The daemons of a node. */
export const DAEMONS = ["connectd", "lightningd", "hsmd", "dualopend", "channeld", "closingd"] as const;
/** One of the daemons. */
export type Daemon = typeof DAEMONS[number];

/** What every option says of itself. */
export interface OptionText {
  /** One or two sentences, for help. */
  readonly help: string;
  /** Who reads it. */
  readonly daemons: readonly Daemon[];
}

/** An option whose value, once loaded, is a `V`. */
export interface Option<V> extends OptionText {
  readonly label: string;
  /** All texts given (more than one only for `multi`) to the value. */
  parse(texts: readonly string[]): V;
  /** The value without any text. */
  readonly fallback: V;
  format(value: V): string | readonly string[] | undefined;
  /** May be given several times; in the environment separated by commas. */
  readonly multi: boolean;
  /** The name alone is enough. */
  readonly flag: boolean;
  /** Never on a command line, where every user of the machine sees it, and never shown. NAME-file names a file that holds it. */
  readonly secret: "no" | "file" | "file-or-environment";
}

function only<T>(type: ValueType<T>, texts: readonly string[]): T {
  const [text, second] = texts;
  if (text === undefined || second !== undefined) throw new Error("given more than once");
  return type.parse(text);
}

/** An option that always has a value. */
export function withDefault<T>(type: ValueType<T>, fallback: T, text: OptionText): Option<T> {
  return {
    ...text,
    label: type.label,
    parse: (texts) => only(type, texts),
    fallback,
    format: type.format,
    multi: false,
    flag: typeof fallback === "boolean",
    secret: "no",
  };
}

/** An option that may have no value. */
export function optional<T>(type: ValueType<T>, text: OptionText): Option<T | undefined> {
  return {
    ...text,
    label: type.label,
    parse: (texts) => only(type, texts),
    fallback: undefined,
    format: (value) => value === undefined ? undefined : type.format(value),
    multi: false,
    flag: false,
    secret: "no",
  };
}

/** An option with any number of values. */
export function many<T>(type: ValueType<T>, text: OptionText): Option<readonly T[]> {
  return {
    ...text,
    label: type.label,
    parse: (texts) => texts.map((each) => type.parse(each)),
    fallback: [],
    format: (value) => value.map((each) => type.format(each)),
    multi: true,
    flag: false,
    secret: "no",
  };
}

/** A secret. It comes from the file that NAME-file names, or from the configuration file; with `environment`, also from there. */
export function secret(
  type: ValueType<string>,
  text: OptionText & { readonly environment?: boolean },
): Option<string | undefined> {
  const { environment = false, ...rest } = text;
  return { ...optional(type, rest), secret: environment ? "file-or-environment" : "file" };
}

/** Options by name. */
export type OptionTable = Readonly<Record<string, Option<unknown>>>;

/** The loaded values of a table. */
export type ValuesOf<T> = { readonly [K in keyof T]: T[K] extends Option<infer V> ? V : never };
