import assert from "node:assert/strict";
import { join } from "node:path";
import { tempFolder } from "common/testing/temp.ts";
import { createRpc, RpcError, RpcMixedUp, RpcUnauthorized, RpcUnreachable } from "./bitcoind.ts";

type Answer = (body: unknown, request: Request) => Response | Promise<Response>;

/** An HTTP server that answers as a test says. */
async function withServer(answer: Answer, work: (url: string) => Promise<void>): Promise<void> {
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    async (request) => await answer(await request.json(), request),
  );
  try {
    await work(`http://127.0.0.1:${server.addr.port}`);
  } finally {
    await server.shutdown();
  }
}

function idOf(body: unknown): unknown {
  return typeof body === "object" && body !== null && "id" in body ? body.id : undefined;
}

const PASSWORD = { type: "password", user: "u", password: "p" } as const;

Deno.test("an answer with another call's id is never used", async () => {
  await withServer(() => Response.json({ id: 77, result: "theirs", error: null }), async (url) => {
    const rpc = createRpc({ url, auth: PASSWORD });
    await assert.rejects(rpc.call("getbestblockhash"), RpcMixedUp);
    await assert.rejects(rpc.batch([{ method: "a", params: [] }]), RpcMixedUp);
  });
});

Deno.test("a batch is answered by id, in whatever order the answers come; errors are values", async () => {
  const answer: Answer = (body) => {
    assert.ok(Array.isArray(body));
    return Response.json(
      body.map((call, i) =>
        i === 1
          ? { id: idOf(call), result: null, error: { code: -5, message: "no such block" } }
          : { id: idOf(call), result: i, error: null }
      ).reverse(),
    );
  };
  await withServer(answer, async (url) => {
    const rpc = createRpc({ url, auth: PASSWORD });
    const answers = await rpc.batch([0, 1, 2].map((n) => ({ method: `m${n}`, params: [] })));
    assert.deepEqual([answers[0], answers[2]], [0, 2]);
    assert.ok(answers[1] instanceof RpcError && answers[1].code === -5 && answers[1].method === "m1");
    // More than one request takes.
    assert.equal(
      (await rpc.batch(Array.from({ length: 250 }, () => ({ method: "m", params: [] })))).length,
      250,
    );
    assert.deepEqual(await rpc.batch([]), []);
  });
});

Deno.test("a full queue, a warm-up and a closed connection are tried again; bitcoind's own errors are not", async () => {
  const script: Answer[] = [
    () => new Response("Work queue depth exceeded", { status: 503 }),
    (body) =>
      Response.json({ id: idOf(body), result: null, error: { code: -28, message: "Loading…" } }, {
        status: 500,
      }),
    (body) => Response.json({ id: idOf(body), result: 5, error: null }),
    (body) =>
      Response.json({ id: idOf(body), result: null, error: { code: -8, message: "no" } }, { status: 500 }),
  ];
  let calls = 0;
  const answer: Answer = (body, request) => {
    const next = script[calls++];
    assert.ok(next !== undefined);
    return next(body, request);
  };
  await withServer(answer, async (url) => {
    const rpc = createRpc({ url, auth: PASSWORD });
    assert.equal(await rpc.call("getblockcount"), 5);
    assert.equal(calls, 3);
    await assert.rejects(
      rpc.call("getblockhash", [9]),
      (error) => error instanceof RpcError && error.code === -8,
    );
    assert.equal(calls, 4);
  });
});

Deno.test("nobody there, or no answer in time: unreachable, after the time that was given", async () => {
  const rpc = createRpc({ url: "http://127.0.0.1:1", auth: PASSWORD, retryMs: 200 });
  await assert.rejects(rpc.call("getblockcount"), RpcUnreachable);
  const never = Promise.withResolvers<Response>();
  await withServer(() => never.promise, async (url) => {
    const slow = createRpc({ url, auth: PASSWORD });
    await assert.rejects(slow.call("getblockcount", [], { timeoutMs: 50, retryMs: 0 }), RpcUnreachable);
    const stop = new AbortController();
    const call = slow.call("waitfornewblock", [], { signal: stop.signal });
    stop.abort();
    await assert.rejects(call, RpcUnreachable);
    never.resolve(new Response());
  });
});

Deno.test("a wrong password is named at once, and is in no error", async () => {
  await withServer(() => new Response("", { status: 401 }), async (url) => {
    const rpc = createRpc({ url, auth: { ...PASSWORD, password: "sEcReT" } });
    await assert.rejects(
      rpc.call("getblockcount"),
      (error) => error instanceof RpcUnauthorized && !error.message.includes("sEcReT"),
    );
  });
});

Deno.test("a cookie is read again when bitcoind wrote a new one", async () => {
  await using folder = await tempFolder();
  const file = join(folder.path, ".cookie");
  await Deno.writeTextFile(file, "__cookie__:old");
  const seen: string[] = [];
  const answer: Answer = async (body, request) => {
    const header = request.headers.get("authorization") ?? "";
    seen.push(header);
    if (header === `Basic ${btoa("__cookie__:new")}`) {
      return Response.json({ id: idOf(body), result: "ok", error: null });
    }
    await Deno.writeTextFile(file, "__cookie__:new\n");
    return new Response("", { status: 401 });
  };
  await withServer(answer, async (url) => {
    const rpc = createRpc({ url, auth: { type: "cookie", file } });
    assert.equal(await rpc.call("uptime"), "ok");
    assert.equal(seen.length, 2);
  });
});
