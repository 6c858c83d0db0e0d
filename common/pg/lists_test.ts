import assert from "node:assert/strict";
import { openDatabase } from "common/pg/client.ts";
import { usePostgres } from "common/testing/database.ts";
import { bytesList, numberList, textList } from "./lists.ts";

const postgres = await usePostgres();

Deno.test("lists arrive as they were, nulls and all", async () => {
  await using fresh = await postgres.freshDatabase();
  const database = await openDatabase({ url: fresh.url, applicationName: "test" });
  try {
    const bytes = [Uint8Array.of(0, 255), null, new Uint8Array()];
    const numbers = [(1n << 62n) + 1n, null, -5n];
    const texts = ['a"\\,{}NULL', null, "NULL"];
    const flags = [true, null, false];
    const rows = await database.sql<{ b: Uint8Array | null; n: bigint | null; t: string; f: boolean }[]>`
      SELECT * FROM unnest(${bytesList(bytes)}::bytea[], ${numberList(numbers)}::bigint[], ${
      textList(texts)
    }::text[],
        ${numberList(flags)}::boolean[]) AS x(b, n, t, f)`;
    assert.deepEqual(rows.map(({ b }) => b === null ? null : Uint8Array.from(b)), bytes);
    assert.deepEqual(rows.map(({ n }) => n), numbers);
    assert.deepEqual(rows.map(({ t }) => t), texts);
    assert.deepEqual(rows.map(({ f }) => f), flags);
    assert.equal((await database.sql`SELECT FROM unnest(${numberList([])}::bigint[])`).length, 0);
  } finally {
    await database.close();
  }
});
