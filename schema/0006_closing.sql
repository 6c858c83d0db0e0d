-- Cooperative close, and going to the chain alone.

-- Who negotiates the close.
ALTER TABLE channels DROP CONSTRAINT channels_owner_daemon_check;
ALTER TABLE channels ADD CONSTRAINT channels_owner_daemon_check
  CHECK (owner_daemon IN ('dualopend', 'channeld', 'closingd'));

-- The peer proved that it knows a newer state than our rows have: our commitment is revoked, and is never broadcast.
-- Written by whoever reads that channel_reestablish, in the statement that fails the channel; never taken back.
ALTER TABLE channels ADD COLUMN data_loss boolean NOT NULL DEFAULT false;

-- 'close': a cooperative close, signed by both.
ALTER TABLE wallet_txs DROP CONSTRAINT wallet_txs_kind_check;
ALTER TABLE wallet_txs ADD CONSTRAINT wallet_txs_kind_check
  CHECK (kind IN ('deposit', 'withdraw', 'psbt', 'attempt', 'close'));

-- A person's decision to close a channel. Written by lightningd; whoever owns the channel reads it when it looks again
-- (LookAgain) and at every load: there is no other message. It starts the shutdown, with `script` where it names one.
CREATE TABLE closings (
  channel      bigint PRIMARY KEY REFERENCES channels (channel) ON DELETE CASCADE,
  -- Where our money goes; null: where it would go anyway (the upfront script, else the wallet's).
  script       bytea,
  -- What of the fee we accept, both null or neither; sat/kw.
  min_feerate_perkw integer CHECK (min_feerate_perkw > 0),
  max_feerate_perkw integer CHECK (max_feerate_perkw >= min_feerate_perkw),
  -- How far a step goes where the peer gives no range: "50%" of the gap, or satoshis.
  fee_step     text NOT NULL DEFAULT '50%',
  -- From then on without the peer; null: never.
  deadline     timestamptz,
  requested_at timestamptz NOT NULL DEFAULT now(),
  CHECK ((min_feerate_perkw IS NULL) = (max_feerate_perkw IS NULL))
);

-- Every cooperative close that both signed: stored complete, in the same statement, before anything of it is said.
CREATE TABLE closing_txs (
  txid       bytea PRIMARY KEY REFERENCES wallet_txs (txid),
  channel    bigint NOT NULL REFERENCES channels (channel) ON DELETE CASCADE,
  fee_sat    bigint NOT NULL CHECK (fee_sat >= 0),
  -- What we get of it; 0: our output was too small to be one.
  local_sat  bigint NOT NULL CHECK (local_sat >= 0),
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX closing_txs_channel ON closing_txs (channel);

-- What spent the funding output, as the chain has it; only lightningd writes it. A reorg takes it back with its block.
CREATE TABLE channel_ends (
  channel bigint PRIMARY KEY REFERENCES channels (channel) ON DELETE CASCADE,
  txid    bytea NOT NULL CHECK (octet_length(txid) = 32),
  height  integer NOT NULL REFERENCES blocks (height) ON DELETE CASCADE,
  -- 'mutual': a cooperative close of either form; 'unilateral': a commitment, whoever's; 'unknown': neither.
  kind    text NOT NULL CHECK (kind IN ('mutual', 'unilateral', 'unknown')),
  raw     bytea NOT NULL
);
CREATE INDEX channel_ends_height ON channel_ends (height);

-- Timers look for what is due.
CREATE INDEX closings_deadline ON closings (deadline) WHERE deadline IS NOT NULL;

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'arcus_closingd') THEN CREATE ROLE arcus_closingd NOLOGIN; END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- two databases migrated at once
END $$;

GRANT SELECT ON ALL TABLES IN SCHEMA public TO arcus_closingd;
GRANT SELECT ON closings, closing_txs, channel_ends TO arcus_lightningd, arcus_dualopend, arcus_channeld;
GRANT INSERT, UPDATE, DELETE ON closings, closing_txs, channel_ends TO arcus_lightningd;
-- closingd stores what both signed; it changes and deletes nothing of the wallet's.
GRANT UPDATE ON channels TO arcus_closingd;
GRANT INSERT ON wallet_txs, wallet_tx_inputs, closing_txs TO arcus_closingd;
