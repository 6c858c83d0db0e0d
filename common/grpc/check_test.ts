import assert from "node:assert/strict";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { optionalEnum, requireBytes, requireCase, requireEnum, requireField } from "common/grpc/check.ts";
import { ArcusError, Code } from "common/grpc/errors.ts";
import { Color, ColorSchema, EchoMessageSchema } from "gen/arcus/testing/v1/testing_pb.ts";

function reasonOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    assert(error instanceof ArcusError);
    assert.equal(error.code, Code.INVALID_ARGUMENT);
    return error.reason;
  }
  return assert.fail("nothing was thrown");
}

Deno.test("check: a oneof that is unset, or has a case of a newer contract", () => {
  const set = create(EchoMessageSchema, { order: { case: "count", value: 3 } });
  assert.equal(requireCase(set.order, "order").case, "count");
  assert.equal(reasonOf(() => requireCase(create(EchoMessageSchema).order, "order")), "UNSET_ONEOF");
  // Field 100, a string: what a newer caller's new case looks like.
  const newer = fromBinary(EchoMessageSchema, new Uint8Array([0xa2, 0x06, 0x01, 0x41]));
  assert.equal(reasonOf(() => requireCase(newer.order, "order")), "UNSET_ONEOF");
});

Deno.test("check: an enum value of a newer contract", () => {
  const red = fromBinary(
    EchoMessageSchema,
    toBinary(EchoMessageSchema, create(EchoMessageSchema, { color: Color.RED })),
  );
  assert.equal(requireEnum(ColorSchema, red.color, "color"), Color.RED);
  const newer = fromBinary(EchoMessageSchema, new Uint8Array([0x38, 0x63]));
  assert.equal(reasonOf(() => requireEnum(ColorSchema, newer.color, "color")), "UNKNOWN_ENUM_VALUE");
  assert.equal(reasonOf(() => optionalEnum(ColorSchema, newer.color, "color")), "UNKNOWN_ENUM_VALUE");
  assert.equal(reasonOf(() => requireEnum(ColorSchema, Color.UNSPECIFIED, "color")), "UNKNOWN_ENUM_VALUE");
  assert.equal(optionalEnum(ColorSchema, Color.UNSPECIFIED, "color"), Color.UNSPECIFIED);
});

Deno.test("check: missing fields and lengths", () => {
  assert.equal(requireField(0, "n"), 0);
  assert.equal(reasonOf(() => requireField(undefined, "n")), "MISSING_FIELD");
  assert.equal(requireBytes(new Uint8Array(33), 33, "id").length, 33);
  for (const bytes of [undefined, new Uint8Array(32), new Uint8Array(34)]) {
    assert.equal(reasonOf(() => requireBytes(bytes, 33, "id")), "BAD_LENGTH");
  }
});
