/**
 * Checks at the door of a service. Protobuf keeps an unknown enum value as a number and drops an unknown oneof case, so a
 * newer caller's request would look like an emptier one: both are an error status here, never ignored.
 */
import type { DescEnum } from "@bufbuild/protobuf";
import { invalidArgument } from "common/grpc/errors.ts";

/** A oneof as protobuf-es represents it. */
type AnyOneof = { case: string; value?: unknown } | { case: undefined; value?: undefined };

/** The oneof, known to be set. Throws INVALID_ARGUMENT `UNSET_ONEOF` when it is unset or has a case newer than this build. */
export function requireCase<T extends AnyOneof>(oneof: T, field: string): Extract<T, { case: string }> {
  if (!hasCase(oneof)) {
    throw invalidArgument("UNSET_ONEOF", `${field}: unset, or a case that this build does not know`);
  }
  return oneof;
}

function hasCase<T extends AnyOneof>(oneof: T): oneof is Extract<T, { case: string }> {
  return oneof.case !== undefined;
}

/** The enum value, known to be named and not zero (unspecified). Throws INVALID_ARGUMENT `UNKNOWN_ENUM_VALUE`. */
export function requireEnum<T extends number>(schema: DescEnum, value: T, field: string): T {
  if (value === 0 || schema.value[value] === undefined) {
    throw invalidArgument("UNKNOWN_ENUM_VALUE", `${field}: ${value} is not a value of ${schema.typeName}`);
  }
  return value;
}

/** The enum value, known to be named; zero is allowed. Throws INVALID_ARGUMENT `UNKNOWN_ENUM_VALUE`. */
export function optionalEnum<T extends number>(schema: DescEnum, value: T, field: string): T {
  return value === 0 ? value : requireEnum(schema, value, field);
}

/** A field that must be there. Throws INVALID_ARGUMENT `MISSING_FIELD`. */
export function requireField<T>(value: T | undefined, field: string): T {
  if (value === undefined) throw invalidArgument("MISSING_FIELD", `${field}: missing`);
  return value;
}

/** Bytes of one exact length. Throws INVALID_ARGUMENT `BAD_LENGTH`. */
export function requireBytes(value: Uint8Array | undefined, length: number, field: string): Uint8Array {
  if (value === undefined || value.length !== length) {
    throw invalidArgument("BAD_LENGTH", `${field}: ${value?.length ?? 0} bytes instead of ${length}`);
  }
  return value;
}
