-- What chain/ and wallet/ of lightningd need besides 0001.

-- Blocks are examined against the watch set that is read in their own transaction, so an attempt is watched from the
-- first block that is processed after its row was committed. The blocks before that, from created_height on, are
-- scanned once, and this row says that it was done. It matters where the peer could broadcast before our row existed
-- (all inputs are the peer's), and after a restore. It needs no undoing: a reorg brings every replaced block in again.
CREATE TABLE attempt_scans (
  attempt    bigint PRIMARY KEY REFERENCES funding_attempts (attempt) ON DELETE CASCADE,
  scanned_to integer NOT NULL CHECK (scanned_to >= 0)
);

-- What the stored transactions spend, foreign outputs too: which are live, which are dead by a conflict, and which of
-- our outputs they use, follows from here and from `spends`.
CREATE TABLE wallet_tx_inputs (
  txid      bytea NOT NULL REFERENCES wallet_txs (txid) ON DELETE CASCADE,
  prev_txid bytea NOT NULL CHECK (octet_length(prev_txid) = 32),
  prev_vout bigint NOT NULL CHECK (prev_vout >= 0),
  PRIMARY KEY (txid, prev_txid, prev_vout)
);
CREATE INDEX wallet_tx_inputs_outpoint ON wallet_tx_inputs (prev_txid, prev_vout);

-- The plan that an opening was given, arcus.lightningd.v1.Plan: asked again, it gets the same one.
CREATE TABLE opening_plans (
  opening bigint PRIMARY KEY REFERENCES openings (opening) ON DELETE CASCADE,
  plan    bytea NOT NULL
);

CREATE INDEX reservations_channel ON reservations (channel) WHERE channel IS NOT NULL;
CREATE INDEX reservations_opening ON reservations (opening) WHERE opening IS NOT NULL;

GRANT SELECT ON attempt_scans, wallet_tx_inputs, opening_plans TO arcus_lightningd, arcus_dualopend, arcus_channeld;
GRANT INSERT, UPDATE, DELETE ON attempt_scans, wallet_tx_inputs, opening_plans TO arcus_lightningd;
