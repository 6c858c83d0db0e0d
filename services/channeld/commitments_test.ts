import assert from "node:assert/strict";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import type { ChannelCommitments } from "bolt/channel/types.ts";
import { emptyShachain, FIRST_SHACHAIN_INDEX, insertSecret } from "bolt/keys/shachain.ts";
import { feerate, msat, sat } from "bolt/units.ts";
import { RowError } from "subd/rows.ts";
import { type CommitmentRows, decodeCommitments, encodeCommitments } from "./commitments.ts";
import { PARAMS, REMOTE_NEXT_POINT } from "./testing/rows.ts";

const fixture: { readonly commitments: string } = JSON.parse(
  await Deno.readTextFile(new URL("fixtures/commitments_v2.json", import.meta.url)),
);
const ROWS: CommitmentRows = {
  params: PARAMS,
  remoteNextPoint: REMOTE_NEXT_POINT,
  attempt: 42n,
  reserves: { local: sat(1800), remote: sat(1801) },
};

const point = (n: number): Uint8Array => new Uint8Array(33).fill(n).fill(3, 0, 1);
const shachain = insertSecret(emptyShachain(), FIRST_SHACHAIN_INDEX, new Uint8Array(32).fill(9));
assert(shachain.ok);

/** Every field with a value that no other one has. */
const FULL: ChannelCommitments = {
  active: [{
    attempt: 42n,
    funding: { txid: new Uint8Array(32).fill(7), vout: 3 },
    capacity: sat(180_000),
    reserves: ROWS.reserves,
    local: {
      number: 5n,
      toLocal: msat(110_000_001),
      toRemote: msat(60_000_002),
      feerate: feerate(1001),
      htlcs: [1n, 4n],
      remoteSignature: new Uint8Array(64).fill(10),
      htlcSignatures: new Uint8Array(128).fill(11),
    },
    pendingLocal: {
      number: 6n,
      toLocal: msat(110_000_003),
      toRemote: msat(60_000_004),
      feerate: feerate(1002),
      htlcs: [1n],
      remoteSignature: new Uint8Array(64).fill(12),
      htlcSignatures: new Uint8Array(64).fill(13),
    },
    remote: {
      number: 4n,
      toLocal: msat(110_000_005),
      toRemote: msat(60_000_006),
      feerate: feerate(1003),
      htlcs: [],
      perCommitmentPoint: point(14),
    },
    nextRemote: {
      number: 5n,
      toLocal: msat(110_000_007),
      toRemote: msat(60_000_008),
      feerate: feerate(1004),
      htlcs: [1n, 4n, 6n],
      perCommitmentPoint: point(15),
    },
  }],
  localNextHtlcId: 16n,
  remoteNextHtlcId: 17n,
  localCurrentPoint: point(18),
  localNextPoint: point(19),
  remoteNextPoint: point(20),
  revokedLast: true,
  fees: [{ feerate: feerate(1005), state: "RCVD_ADD_REVOCATION" }],
  shachain: shachain.value,
};

Deno.test("version 2 as it was written once is read, and written the same", () => {
  assert.deepEqual(decodeCommitments(hexToBytes(fixture.commitments), ROWS), FULL);
  assert.equal(bytesToHex(encodeCommitments(FULL)), fixture.commitments);
});

Deno.test("commitments on another attempt than the locked one, and states that nobody knows, are refused", () => {
  const bytes = encodeCommitments(FULL);
  assert.throws(() => decodeCommitments(bytes, { ...ROWS, attempt: 43n }), RowError);
  const name = (text: string) => bytesToHex(new TextEncoder().encode(text));
  const strange = bytesToHex(bytes).replace(name("RCVD_ADD_REVOCATION"), name("RCVD_ADD_SPLICED_IN"));
  assert.throws(() => decodeCommitments(hexToBytes(strange), ROWS), /HTLC state RCVD_ADD_SPLICED_IN/);
  assert.throws(() => decodeCommitments(bytes.subarray(0, bytes.length - 1), ROWS), RowError);
});
