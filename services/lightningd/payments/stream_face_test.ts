/** Many invoices and payments on one stream. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { sha256 } from "@noble/hashes/sha2.js";
import { dial, openBidi } from "common/grpc/client.ts";
import { createServer } from "common/grpc/server.ts";
import { createLogger } from "common/log.ts";
import { usePostgres } from "common/testing/database.ts";
import { tempFolder } from "common/testing/temp.ts";
import { waitFor } from "common/testing/wait.ts";
import { type PaymentResult, Payments } from "gen/arcus/lightningd/v1/payments_pb.ts";
import { paymentStream } from "./stream_face.ts";
import { StandInChanneld, TestNode, Wire } from "./testing.ts";

const postgres = await usePostgres();

Deno.test({
  name: "calls are answered as they are done, each with its id, refusals with CLN's code",
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    await using payer = await TestNode.start(postgres);
    await using payee = await TestNode.start(postgres);
    await using folder = await tempFolder();
    const here = await payer.channel(payee.nodeId);
    const there = await payee.channel(payer.nodeId);
    const [a, b] = [new StandInChanneld(payer), new StandInChanneld(payee)];
    await Promise.all([a.hello(), b.hello()]);
    new Wire(a, b, new Map([[here, there]]));
    a.sync(here, 1_000_000n);
    b.sync(there, 0n);
    await waitFor(() => payer.room.views.get(here)?.usable, { what: "a channel that can be used" });

    const log = createLogger({ sink: () => {} });
    const call = async (node: TestNode) => {
      const server = createServer({ services: [paymentStream(node.room, log)], log });
      const address = await server.listen(`unix:${join(folder.path, node.databaseId.toHex())}`);
      const channel = dial(address);
      const stream = openBidi(channel, Payments.method.stream);
      const results = new Map<bigint, PaymentResult["result"]>();
      let ended = false;
      stream.onMessage((message) => {
        for (const { id, result } of message.results) results.set(id, result);
      });
      stream.onEnd(() => ended = true);
      return {
        stream,
        results,
        /** Says no more, and waits for the stream's end. */
        async finish() {
          stream.end();
          await waitFor(() => ended, { what: "the stream's end" });
          channel.close();
          server.closeAfterClients();
        },
      };
    };
    const [pays, invoices] = [await call(payer), await call(payee)];
    const ids = Array.from({ length: 20 }, (_, i) => BigInt(i));
    invoices.stream.write({
      calls: [
        ...ids.map((id) => ({
          id,
          call: { case: "invoice" as const, value: { amountMsat: 1_000n, label: `l${id}`, description: "" } },
        })),
        { id: 98n, call: { case: "invoice", value: { label: "l0", description: "" } } },
        { id: 99n, call: { case: "invoice", value: { label: "", description: "" } } },
      ],
    });
    // Ends while calls are under way: they are answered all the same.
    await invoices.finish();
    assert.equal(invoices.results.size, 22);
    const codeOf = (result: PaymentResult["result"] | undefined) =>
      result?.case === "refused" ? result.value.clnCode : result?.case;
    assert.equal(codeOf(invoices.results.get(98n)), 900);
    assert.equal(codeOf(invoices.results.get(99n)), -32602);
    const made = ids.map((id) => {
      const result = invoices.results.get(id);
      assert.ok(result?.case === "invoice");
      return result.value;
    });
    pays.stream.write({
      calls: made.map(({ bolt11 }, i) => ({
        id: BigInt(i),
        call: { case: "pay" as const, value: { bolt11 } },
      })),
    });
    pays.stream.write({
      calls: [{ id: 50n, call: { case: "pay", value: { bolt11: "lnbcrt1nonsense" } } }, { id: 51n }],
    });
    await waitFor(() => pays.results.size === 22, { what: "every answer" });
    ids.forEach((id) => {
      const result = pays.results.get(id);
      assert.ok(result?.case === "paid");
      assert.deepEqual(sha256(result.value.paymentPreimage), made[Number(id)]!.paymentHash);
    });
    assert.deepEqual([50n, 51n].map((id) => codeOf(pays.results.get(id))), [-32602, -1]);
    await pays.finish();
  },
});
