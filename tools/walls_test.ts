import assert from "node:assert/strict";
import { importsOf, judge } from "./walls.ts";

Deno.test("walls: what each folder may import", () => {
  assert.equal(judge("bolt/tx/a.ts", "@noble/hashes/sha2.js"), undefined);
  assert.equal(judge("bolt/tx/a.ts", "bolt/units.ts"), undefined);
  assert.equal(judge("services/hsmd/a.ts", "bolt/units.ts"), undefined);
  assert.equal(judge("services/hsmd/a.ts", "./b.ts"), undefined);
  assert.equal(judge("services/hsmd/sub/a.ts", "../b.ts"), undefined);
});

Deno.test("walls: each breach is found", () => {
  assert.match(judge("bolt/tx/a.ts", "postgres")!, /crypto and bitcoin/);
  assert.match(judge("bolt/tx/a.ts", "common/log.ts")!, /nothing of ours/);
  assert.match(judge("bolt/tx/a.ts", "../../services/hsmd/a.ts")!, /nothing of ours/);
  assert.match(judge("common/log.ts", "bolt/units.ts")!, /no Lightning/);
  assert.match(judge("common/log.ts", "gen/arcus/hsmd/v1/hsmd_pb.ts")!, /no Lightning/);
  assert.match(judge("services/hsmd/a.ts", "../channeld/a.ts")!, /never another service/);
  assert.match(judge("services/hsmd/a.ts", "tests/lib/raw_peer.ts")!, /never another service/);
  assert.match(judge("cli/main.ts", "bolt/units.ts")!, /client/);
});

Deno.test("walls: every form of import is seen", () => {
  const source =
    `import a from "one";\nimport type { B } from './two.ts';\nexport * from "three";\nimport "four";\n` +
    `const x = await import("five");\nimport {\n  c,\n} from "six";`;
  assert.deepEqual(importsOf(source).toSorted(), ["./two.ts", "five", "four", "one", "six", "three"]);
});
