import assert from "node:assert/strict";
import { waitFor } from "common/testing/wait.ts";

Deno.test("waitFor: a promise, a predicate, and what did not happen in time", async () => {
  assert.equal(await waitFor(Promise.resolve(0), { what: "zero" }), 0);
  let asked = 0;
  assert.equal(await waitFor(() => ++asked === 3 && "third", { what: "the third time" }), "third");
  assert.equal(await waitFor(async () => 0, { what: "zero counts" }), 0);
  await assert.rejects(
    waitFor(() => false, { what: "a miracle", deadline: 30 }),
    /not within 30 ms: a miracle/,
  );
  await assert.rejects(waitFor(new Promise(() => {}), { what: "godot", deadline: 30 }), /godot/);
  await assert.rejects(
    waitFor(() => {
      throw new Error("mine");
    }, { what: "x" }),
    /mine/,
  );
});
