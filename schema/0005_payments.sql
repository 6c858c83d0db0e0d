-- Invoices and payments. lightningd alone writes; every statement is fenced by the leader's epoch. What is settled only
-- grows, append-only, with no more indexes than a question needs; what is live is apart and small, and only that is
-- read at start. So a long history costs nothing but space.

-- An invoice never changes after it was made: paid is a row of invoice_payments, expired is a matter of time.
CREATE TABLE invoices (
  -- CLN's created_index.
  invoice         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  label           text NOT NULL UNIQUE,
  payment_hash    bytea NOT NULL UNIQUE CHECK (octet_length(payment_hash) = 32),
  preimage        bytea NOT NULL CHECK (octet_length(preimage) = 32),
  -- Null: a payment without an invoice (keysend), which needs none.
  payment_secret  bytea CHECK (octet_length(payment_secret) = 32),
  -- Null: any.
  amount_msat     bigint CHECK (amount_msat > 0),
  description     text,
  bolt11          text,
  -- Blocks that the last hop must leave.
  min_final_cltv  integer NOT NULL CHECK (min_final_cltv >= 0),
  created_at      timestamptz NOT NULL DEFAULT now(),
  expires_at      timestamptz NOT NULL
);

-- Its number is CLN's pay_index, and updated_index too: nothing else changes an invoice.
CREATE TABLE invoice_payments (
  pay_index     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  invoice       bigint NOT NULL UNIQUE,
  received_msat bigint NOT NULL CHECK (received_msat > 0),
  paid_at       timestamptz NOT NULL DEFAULT now()
);

-- What shall become of an incoming HTLC. Durable before channeld hears of it, told again on every stream, gone once the
-- HTLC is.
CREATE TABLE htlc_decisions (
  -- htlcs.htlc.
  htlc           bigint PRIMARY KEY,
  channel        bigint NOT NULL,
  id             bigint NOT NULL,
  preimage       bytea CHECK (octet_length(preimage) = 32),
  -- update_fail_htlc's reason, encrypted for the sender.
  failure        bytea,
  attribution    bytea,
  CHECK (num_nonnulls(preimage, failure) = 1)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);

-- A payment of ours: an attempt (CLN's group) to pay one hash. Pending until it has a result or failed.
CREATE TABLE payments (
  payment         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  payment_hash    bytea NOT NULL CHECK (octet_length(payment_hash) = 32),
  groupid         bigint NOT NULL CHECK (groupid >= 0),
  -- 'pay': the engine makes the parts; 'sendpay': the caller does.
  kind            text NOT NULL CHECK (kind IN ('pay', 'sendpay')),
  destination     bytea CHECK (octet_length(destination) = 33),
  -- What arrives when it is complete.
  amount_msat     bigint NOT NULL CHECK (amount_msat > 0),
  -- total_msat of each part: more than our amount if others pay the rest.
  total_msat      bigint NOT NULL CHECK (total_msat >= amount_msat),
  payment_secret  bytea CHECK (octet_length(payment_secret) = 32),
  metadata        bytea,
  -- More records for the destination, as a TLV stream.
  extra_tlvs      bytea,
  -- keysend: sent with the part.
  keysend_preimage bytea CHECK (octet_length(keysend_preimage) = 32),
  final_cltv      integer NOT NULL,
  mpp             boolean NOT NULL,
  bolt11          text,
  label           text,
  description     text,
  created_at      timestamptz NOT NULL DEFAULT now(),
  -- After it no part is tried again.
  deadline        timestamptz NOT NULL,
  failed          boolean NOT NULL DEFAULT false,
  failed_at       timestamptz,
  -- CLN's code and a text for people.
  error_code      integer,
  error_text      text,
  CHECK (failed = (failed_at IS NOT NULL))
) WITH (fillfactor = 90);
-- One hash is never paid twice: a second attempt must wait until the first has failed for good.
CREATE UNIQUE INDEX payments_unfailed ON payments (payment_hash) WHERE NOT failed;
CREATE INDEX payments_failed ON payments (payment_hash) WHERE failed;

-- The preimage of a payment: it is complete.
CREATE TABLE payment_results (
  -- CLN's updated_index.
  updated       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  payment       bigint NOT NULL UNIQUE,
  preimage      bytea NOT NULL CHECK (octet_length(preimage) = 32),
  -- Of the parts that were under way or done by then.
  sent_msat     bigint NOT NULL,
  parts         integer NOT NULL,
  completed_at  timestamptz NOT NULL DEFAULT now()
);

-- Parts under way. `part` is the origin that channeld knows the HTLC by.
CREATE TABLE live_parts (
  part         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  payment      bigint NOT NULL,
  partid       bigint NOT NULL,
  channel      bigint NOT NULL,
  -- What arrives, and what we send.
  amount_msat  bigint NOT NULL CHECK (amount_msat > 0),
  sent_msat    bigint NOT NULL CHECK (sent_msat >= amount_msat),
  cltv_expiry  integer NOT NULL,
  -- Node ids of the hops, one after the other, and what made the onion: with them its errors are read.
  hops         bytea NOT NULL,
  session_key  bytea NOT NULL CHECK (octet_length(session_key) = 32),
  created_at   timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX live_parts_payment ON live_parts (payment);

-- Pending payments without any part under way, between two tries.
CREATE TABLE idle_payments (
  payment bigint PRIMARY KEY
);

-- Parts that are resolved: append-only.
CREATE TABLE part_history (
  part          bigint PRIMARY KEY,
  payment       bigint NOT NULL,
  partid        bigint NOT NULL,
  channel       bigint NOT NULL,
  amount_msat   bigint NOT NULL,
  sent_msat     bigint NOT NULL,
  created_at    timestamptz NOT NULL,
  resolved_at   timestamptz NOT NULL DEFAULT now(),
  -- Null: it failed.
  preimage      bytea,
  -- CLN's code for it, and what the network said: where, which code, the message, the onion as it came.
  error_code    integer,
  erring_index  integer,
  failcode      integer,
  raw_message   bytea,
  error_onion   bytea,
  error_text    text
);
CREATE INDEX part_history_payment ON part_history (payment);

-- Terms of setchannel; a channel without a row has the defaults.
CREATE TABLE channel_terms (
  channel           bigint PRIMARY KEY REFERENCES channels (channel) ON DELETE CASCADE,
  fee_base_msat     bigint,
  fee_ppm           bigint,
  htlc_min_msat     bigint,
  htlc_max_msat     bigint,
  ignore_fee_limits boolean
);

GRANT SELECT ON invoices, invoice_payments, htlc_decisions, payments, payment_results, live_parts, idle_payments,
  part_history, channel_terms TO arcus_lightningd, arcus_dualopend, arcus_channeld;
GRANT INSERT, UPDATE, DELETE ON invoices, invoice_payments, htlc_decisions, payments, payment_results, live_parts,
  idle_payments, part_history, channel_terms TO arcus_lightningd;
