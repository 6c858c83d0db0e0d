import assert from "node:assert/strict";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import fc from "fast-check";
import type { Attempt, ChannelParams } from "bolt/dualopen/types.ts";
import { ChannelParamsSchema, CommitmentsSchema, FundingAttemptSchema } from "gen/arcus/store/v1/store_pb.ts";
import fixtures from "./fixtures/rows_v1.json" with { type: "json" };
import {
  ATTEMPT_VERSION,
  type AttemptRow,
  COMMITMENTS_VERSION,
  decodeAttempt,
  decodeChannel,
  encodeAttempt,
  encodeFirstCommitments,
} from "./codec.ts";
import {
  decodeParams,
  decodeWitnesses,
  encodeParams,
  encodeWitnesses,
  PARAMS_VERSION,
  RowError,
} from "subd/rows.ts";
import { opened, savedOf, unsigned } from "./testing/rows.ts";

const FEATURES = { local: Uint8Array.of(1, 2), remote: Uint8Array.of(3) };
const world = opened();
const channel = savedOf(world);
const attempt = channel.attempts[0]!;

function rowOf(a: Attempt, detail = encodeAttempt(a)): AttemptRow {
  const witnesses = (list: readonly Uint8Array[] | null) => list === null ? null : encodeWitnesses(list);
  return {
    seq: a.seq,
    initiator: a.initiator,
    txid: a.tx.txid,
    output_index: a.tx.fundingOutputIndex,
    local_contribution_sat: a.tx.contributions.local,
    remote_contribution_sat: a.tx.contributions.remote,
    feerate_perkw: BigInt(a.tx.feerate),
    locktime: BigInt(a.tx.locktime),
    detail,
    created_height: a.createdHeight,
    remote_commitment_signature: a.remoteCommitmentSignature,
    local_tx_signatures: witnesses(a.localTxSignatures),
    remote_tx_signatures: witnesses(a.remoteTxSignatures),
    complete_tx: a.completeTx,
    aborted: a.aborted,
  };
}

const columns = {
  channel_id: channel.channelId,
  opener: channel.opener,
  state: channel.state,
  params: encodeParams(channel.params, FEATURES),
  locked_seq: null,
  channel_ready_received: false,
  remote_next_point: null,
  remote_alias: null,
  shutdown_sent: null,
  shutdown_received: null,
  error_text: null,
};

Deno.test("what both fixed comes back as it was, an absent upfront script apart from an empty one", () => {
  for (const script of [null, new Uint8Array(), Uint8Array.of(0x51)]) {
    const params: ChannelParams = {
      ...channel.params,
      local: { ...channel.params.local, upfrontShutdownScript: script },
    };
    assert.deepEqual(decodeParams(encodeParams(params, FEATURES)), { params, features: FEATURES });
  }
});

Deno.test("attempts come back as they were, from both points of view, with and without signatures", () => {
  const bobs = savedOf(world, "bob");
  for (const [a, id] of [[attempt, channel.channelId], [bobs.attempts[0]!, bobs.channelId]] as const) {
    assert.deepEqual(decodeAttempt(rowOf(a), id), a);
    assert.deepEqual(decodeAttempt(rowOf(unsigned(a)), id), unsigned(a));
  }
  const own = {
    ...attempt,
    wallet: { ...attempt.wallet, inputs: [], userInputs: [...localInputs(attempt)] },
  };
  assert.deepEqual(decodeAttempt(rowOf(own), channel.channelId), own);
  const destination = {
    ...attempt,
    awaitUserSignature: true,
    wallet: { ...attempt.wallet, change: [], destinations: attempt.wallet.change.map(({ index }) => index) },
  };
  assert.deepEqual(decodeAttempt(rowOf(destination), channel.channelId), destination);
});

function localInputs(a: Attempt): number[] {
  return a.tx.inputs.flatMap((input, index) => input.side === "local" ? [index] : []);
}

Deno.test("the full range of a serial id and of amounts survives", () => {
  const [input, ...rest] = attempt.tx.inputs;
  const huge = { ...input!, serialId: (1n << 64n) - 1n };
  const changed = { ...attempt, tx: { ...attempt.tx, inputs: [huge, ...rest] } };
  assert.deepEqual(decodeAttempt(rowOf(changed), channel.channelId), changed);
});

Deno.test("a row that is newer than this build is refused, and one without a version", () => {
  const params = fromBinary(ChannelParamsSchema, encodeParams(channel.params, FEATURES));
  const detail = fromBinary(FundingAttemptSchema, encodeAttempt(attempt));
  for (const version of [0, PARAMS_VERSION + 1]) {
    const bytes = toBinary(ChannelParamsSchema, create(ChannelParamsSchema, { ...params, version }));
    assert.throws(() => decodeParams(bytes), RowError);
    assert.throws(() => decodeChannel({ ...columns, params: bytes }, [rowOf(attempt)]), RowError);
  }
  for (const version of [0, ATTEMPT_VERSION + 1]) {
    const bytes = toBinary(FundingAttemptSchema, create(FundingAttemptSchema, { ...detail, version }));
    assert.throws(() => decodeAttempt(rowOf(attempt, bytes), channel.channelId), RowError);
  }
});

Deno.test("rows that contradict themselves are refused", () => {
  const rows = [rowOf(attempt)];
  assert.deepEqual(decodeChannel(columns, rows), { channel, features: FEATURES });
  const bad = [
    { ...columns, state: "CHANNELD_SHUTTING_DOWN" },
    { ...columns, state: "ONCHAIN" },
    { ...columns, opener: "nobody" },
    { ...columns, channel_ready_received: true },
    { ...columns, params: Uint8Array.of(255) },
  ];
  for (const row of bad) assert.throws(() => decodeChannel(row, rows), RowError);
  assert.throws(() => decodeChannel(columns, []), RowError);
  assert.throws(
    () => decodeAttempt({ ...rowOf(attempt), output_index: 9 }, channel.channelId),
    RowError,
  );
  assert.throws(
    () => decodeAttempt({ ...rowOf(attempt), local_contribution_sat: -1n }, channel.channelId),
    RowError,
  );
});

Deno.test("witnesses survive, and bytes that are none are refused", () => {
  fc.assert(fc.property(fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 20 }), (witnesses) => {
    assert.deepEqual(decodeWitnesses(encodeWitnesses(witnesses)), witnesses);
  }));
  fc.assert(fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
    try {
      assert.deepEqual(encodeWitnesses(decodeWitnesses(bytes)), bytes);
    } catch (error) {
      assert(error instanceof RowError);
    }
  }));
});

Deno.test("garbage in a row is a RowError, nothing else", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
    for (
      const read of [() => decodeParams(bytes), () => decodeAttempt(rowOf(attempt, bytes), channel.channelId)]
    ) {
      try {
        read();
      } catch (error) {
        assert(error instanceof RowError);
      }
    }
  }));
});

Deno.test("first commitments: number 0 of both, balances before fee and anchors", () => {
  const stored = fromBinary(CommitmentsSchema, encodeFirstCommitments(attempt, 42n, channel.params));
  assert.equal(stored.version, COMMITMENTS_VERSION);
  const [commitment, ...more] = stored.active;
  assert.equal(more.length, 0);
  assert.equal(commitment?.attempt, 42n);
  assert.equal(commitment?.toLocalMsat, 120_000_000n);
  assert.equal(commitment?.toRemoteMsat, 60_000_000n);
  assert.equal(commitment?.capacitySat, 180_000n);
  assert.deepEqual(commitment?.remoteSignature, attempt.remoteCommitmentSignature);
  assert.throws(() => encodeFirstCommitments(unsigned(attempt), 42n, channel.params), RowError);
});

Deno.test("rows that version 1 wrote are read for ever", () => {
  const [params, detail] = [hexToBytes(fixtures.params), hexToBytes(fixtures.attempt)];
  const read = decodeParams(params);
  const { columns: c } = fixtures;
  const stored = decodeAttempt({
    seq: c.seq,
    initiator: c.initiator,
    txid: hexToBytes(c.txid),
    output_index: c.output_index,
    local_contribution_sat: BigInt(c.local_contribution_sat),
    remote_contribution_sat: BigInt(c.remote_contribution_sat),
    feerate_perkw: BigInt(c.feerate_perkw),
    locktime: BigInt(c.locktime),
    detail,
    created_height: c.created_height,
    remote_commitment_signature: hexToBytes(c.remote_commitment_signature),
    local_tx_signatures: hexToBytes(c.local_tx_signatures),
    remote_tx_signatures: hexToBytes(c.remote_tx_signatures),
    complete_tx: hexToBytes(c.complete_tx),
    aborted: c.aborted,
  }, new Uint8Array(32));
  assert.equal(read.params.minimumDepth, fixtures.means.minimumDepth);
  assert.equal(read.params.commitmentFeerate, fixtures.means.commitmentFeerate);
  assert.equal(read.params.local.dustLimit, BigInt(fixtures.means.localDustLimit));
  assert.equal(bytesToHex(read.params.remote.fundingPubkey), fixtures.means.remoteFundingPubkey);
  assert.equal(bytesToHex(read.features.remote), fixtures.means.remoteFeatures);
  assert.equal(stored.tx.inputs.length, fixtures.means.inputs);
  assert.deepEqual(stored.wallet.inputs.map(({ key }) => key.index), fixtures.means.walletInputKeys);
  assert.equal(stored.tx.signsFirst, fixtures.means.signsFirst);
  assert.equal(stored.maxFee, BigInt(fixtures.means.maxFee));
  assert.equal(bytesToHex(stored.tx.unsignedTx), fixtures.means.unsignedTx);
  // This build writes what it reads, byte for byte, while the version is the same.
  assert.equal(bytesToHex(encodeParams(read.params, read.features)), fixtures.params);
  assert.equal(bytesToHex(encodeAttempt(stored)), fixtures.attempt);
  const commitments = fromBinary(CommitmentsSchema, hexToBytes(fixtures.commitments));
  assert.equal(commitments.active[0]?.toLocalMsat, BigInt(fixtures.means.toLocalMsat));
  assert.equal(
    bytesToHex(encodeFirstCommitments(stored, commitments.active[0]!.attempt, read.params)),
    fixtures.commitments,
  );
});
