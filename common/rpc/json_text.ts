/** JSON text whose whole numbers are never rounded: those beyond 2^53 are bigint. */

/** A JSON value. */
export type Json = null | boolean | number | bigint | string | readonly Json[] | JsonObject;
/** A JSON object. */
export interface JsonObject {
  readonly [name: string]: Json;
}

/** What the engine tells a reviver of a primitive: its text. */
interface SourceContext {
  readonly source?: string;
}
type Reviver = (this: unknown, key: string, value: unknown, context: SourceContext) => unknown;

/** Parses JSON text. Throws SyntaxError. */
export function parseJson(text: string): Json {
  const exact: Reviver = (_key, value, context) =>
    typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context.source ?? "")
      ? BigInt(context.source ?? "")
      : value;
  // The engine passes the third argument; the library's type does not have it yet.
  return JSON.parse(text, exact as (key: string, value: unknown) => unknown);
}

/** Whether a value is a JSON object. */
export function isJsonObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** JSON text of a value; with `indent`, one member a line. */
export function formatJson(value: Json, indent = 0): string {
  return format(value, indent, "");
}

function format(value: Json, indent: number, before: string): string {
  if (typeof value === "bigint") return value.toString();
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const inner = before + " ".repeat(indent);
  const isList = Array.isArray(value);
  const parts = isList
    ? value.map((item: Json) => format(item, indent, inner))
    : Object.entries(value).map(([name, item]) =>
      `${JSON.stringify(name)}:${indent > 0 ? " " : ""}${format(item, indent, inner)}`
    );
  const [open, close] = isList ? ["[", "]"] : ["{", "}"];
  if (parts.length === 0) return open + close;
  return indent === 0
    ? open + parts.join(",") + close
    : `${open}\n${parts.map((part) => inner + part).join(",\n")}\n${before}${close}`;
}
