-- A role per daemon: GRANTs say who writes which table. connectd and hsmd have no database access at all.
-- Roles belong to the cluster, so several databases may share them.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'arcus_lightningd') THEN CREATE ROLE arcus_lightningd NOLOGIN; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'arcus_dualopend') THEN CREATE ROLE arcus_dualopend NOLOGIN; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'arcus_channeld') THEN CREATE ROLE arcus_channeld NOLOGIN; END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- two databases migrated at once
END $$;

GRANT SELECT ON ALL TABLES IN SCHEMA public TO arcus_lightningd, arcus_dualopend, arcus_channeld;

GRANT INSERT, UPDATE, DELETE ON
  node, hsmd_mark, leader, blocks, tx_confirmations, spends, wallet_keys, wallet_txs, wallet_outputs, connections,
  peer_addresses, channels, funding_attempts, attempt_inputs, attempt_confirmations, openings, reservations
  TO arcus_lightningd;

-- dualopend turns an opening into a channel and an attempt, and moves the opening's reservations along.
GRANT INSERT, UPDATE, DELETE ON channels, funding_attempts, attempt_inputs, openings TO arcus_dualopend;
GRANT UPDATE (purpose, opening, channel) ON reservations TO arcus_dualopend;
GRANT UPDATE, DELETE ON reservations TO arcus_dualopend;

GRANT UPDATE ON channels, funding_attempts TO arcus_channeld;
