/** What lightningd answers the subds, over gRPC and real rows; chain and wallet are stand-ins. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { usePostgres } from "common/testing/database.ts";
import { Code } from "common/grpc/errors.ts";
import { client } from "common/grpc/client.ts";
import {
  Lightningd,
  TestFundingTxResponse_Verdict as Verdict,
} from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { MessageType } from "./peers/spoke.ts";
import { peerKey, saveChannel, type StandInConnectd, TestRoom } from "./peers/testing.ts";

const postgres = await usePostgres();

function faceTest(
  name: string,
  work: (room: TestRoom, face: ReturnType<typeof client<typeof Lightningd>>) => Promise<void>,
): void {
  Deno.test(name, async () => {
    await using room = await TestRoom.start(postgres);
    await work(room, client(Lightningd, room.dial()));
    assert.deepEqual(room.fatal, []);
  });
}

async function connected(
  room: TestRoom,
): Promise<{ connectd: StandInConnectd; peer: Uint8Array; generation: bigint }> {
  const connectd = room.connectd();
  await connectd.hello();
  await room.subd("dualopend").hello();
  const peer = peerKey();
  return { connectd, peer, generation: await connectd.peer(peer) };
}

faceTest("a plan is for the opening's owner alone", async (room, face) => {
  const { connectd, peer, generation } = await connected(room);
  connectd.spoke(peer, generation, new Uint8Array(randomBytes(32)), MessageType.openChannel2);
  const { epoch } = await connectd.inbox.next("peerConnectSubd");
  const [row] = await room.sql<{ opening: bigint }[]>`SELECT opening FROM openings`;
  const request = { opening: row!.opening, epoch, theirFundingSat: 100_000n, fundingFeeratePerkw: 1_000 };
  assert.equal((await face.planContribution(request)).plan?.contributionSat, 0n);
  await assert.rejects(face.planContribution({ ...request, epoch: epoch - 1n }), { reason: "EPOCH_STALE" });
  await assert.rejects(face.planContribution({ ...request, opening: 999n }), { reason: "EPOCH_STALE" });
  await assert.rejects(face.planContribution({ ...request, theirFundingSat: 2n ** 63n }), {
    code: Code.INVALID_ARGUMENT,
  });
  await face.openingProgress({ opening: row!.opening, epoch });
  await assert.rejects(face.openingProgress({ opening: row!.opening, epoch: epoch - 1n }), {
    reason: "EPOCH_STALE",
  });
  // A negotiation that became an attempt has no row: nothing to keep alive, and nothing wrong.
  await face.openingProgress({ opening: 999n, epoch });
});

faceTest("a peer's replacement: one a channel, for its owner", async (room, face) => {
  const { peer, generation } = await connected(room);
  const channel = await saveChannel(room.sql, peer, { epoch: 7n });
  const request = {
    channel: channel.channel,
    epoch: 7n,
    generation,
    theirFundingSat: 100_000n,
    feeratePerkw: 2_000,
  };
  await assert.rejects(face.startRemoteRbf({ ...request, epoch: 6n }), { reason: "EPOCH_STALE" });
  const { opening, plan } = await face.startRemoteRbf(request);
  assert.ok(opening > 0n && plan !== undefined);
  await assert.rejects(face.startRemoteRbf(request), { code: Code.ALREADY_EXISTS });
});

faceTest("only a complete attempt is broadcast", async (room, face) => {
  const channel = await saveChannel(room.sql, peerKey());
  const [row] = await room.sql<{ txid: Uint8Array }[]>`SELECT txid FROM funding_attempts`;
  const txid = new Uint8Array(row!.txid);
  assert.equal((await face.broadcastAttempt({ channel: channel.channel, txid })).detail, "");
  await assert.rejects(face.broadcastAttempt({ channel: channel.channel, txid: new Uint8Array(32) }), {
    code: Code.NOT_FOUND,
  });
  await assert.rejects(face.broadcastAttempt({ channel: channel.channel, txid: new Uint8Array(31) }), {
    code: Code.INVALID_ARGUMENT,
  });
});

faceTest("what the chain says is passed on", async (_room, face) => {
  const { confirmed } = await face.checkConfirmed({ outpoints: [{ txid: new Uint8Array(32), vout: 0 }] });
  assert.deepEqual(confirmed, [true]);
  await assert.rejects(face.checkConfirmed({ outpoints: [{ txid: new Uint8Array(3), vout: 0 }] }), {
    code: Code.INVALID_ARGUMENT,
  });
  assert.equal((await face.testFundingTx({ tx: new Uint8Array([1]) })).verdict, Verdict.ACCEPTED);
  assert.equal((await face.getFeerates({})).opening, 1_000);
});
