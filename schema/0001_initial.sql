-- One schema holds exactly one node. Who writes what is granted in 0002_roles.sql.
-- Amounts are satoshis in bigint unless the column says msat; full-range u64 (serial_id, alias) is numeric(20).

-- Written once, at the first start; every daemon compares it and refuses to run against another node's database.
CREATE TABLE node (
  one            boolean PRIMARY KEY DEFAULT true CHECK (one),
  node_id        bytea NOT NULL CHECK (octet_length(node_id) = 33),
  chain_hash     bytea NOT NULL CHECK (octet_length(chain_hash) = 32),
  database_id    bytea NOT NULL CHECK (octet_length(database_id) = 16),
  hsmd_memory_id bytea NOT NULL CHECK (octet_length(hsmd_memory_id) = 16),
  created_at     timestamptz NOT NULL DEFAULT now()
);

-- How far hsmd's memory had come when we last heard of it: a memory older than this mark was rolled back.
CREATE TABLE hsmd_mark (
  one        boolean PRIMARY KEY DEFAULT true CHECK (one),
  high_water bigint NOT NULL CHECK (high_water >= 0)
);

-- The active lightningd. Its epoch fences its own writes, its hellos and its commands.
CREATE TABLE leader (
  one        boolean PRIMARY KEY DEFAULT true CHECK (one),
  epoch      bigint NOT NULL CHECK (epoch > 0),
  instance   text NOT NULL,
  taken_at   timestamptz NOT NULL DEFAULT now()
);

-- ---------------------------------------------------------------------------------------------------------- chain

-- The best chain from the height at which this node began. A reorg deletes rows, and with them every fact
-- that hangs on a block.
CREATE TABLE blocks (
  height    integer PRIMARY KEY CHECK (height >= 0),
  hash      bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
  prev_hash bytea NOT NULL CHECK (octet_length(prev_hash) = 32)
);

-- Transactions that we care for (the wallet's and funding attempts') and the block that holds them.
CREATE TABLE tx_confirmations (
  txid     bytea PRIMARY KEY CHECK (octet_length(txid) = 32),
  height   integer NOT NULL REFERENCES blocks (height) ON DELETE CASCADE,
  tx_index integer NOT NULL CHECK (tx_index >= 0)
);
CREATE INDEX tx_confirmations_height ON tx_confirmations (height);

-- Watched outpoints that a confirmed transaction spent.
CREATE TABLE spends (
  txid          bytea NOT NULL CHECK (octet_length(txid) = 32),
  vout          bigint NOT NULL CHECK (vout >= 0),
  spending_txid bytea NOT NULL CHECK (octet_length(spending_txid) = 32),
  height        integer NOT NULL REFERENCES blocks (height) ON DELETE CASCADE,
  PRIMARY KEY (txid, vout)
);
CREATE INDEX spends_height ON spends (height);

-- --------------------------------------------------------------------------------------------------------- wallet

-- Every address handed out: BIP 86 below m/86'/coin'/0', chain 0 to receive, chain 1 for change.
CREATE TABLE wallet_keys (
  change    boolean NOT NULL,
  key_index bigint NOT NULL CHECK (key_index >= 0),
  script    bytea NOT NULL UNIQUE,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (change, key_index)
);

-- Full transactions, stored before they are sent anywhere; rebroadcast until deep.
CREATE TABLE wallet_txs (
  txid       bytea PRIMARY KEY CHECK (octet_length(txid) = 32),
  raw        bytea NOT NULL,
  -- 'deposit': seen on chain or in the mempool; 'withdraw': ours; 'psbt': sendpsbt; 'attempt': a funding attempt's.
  kind       text NOT NULL CHECK (kind IN ('deposit', 'withdraw', 'psbt', 'attempt')),
  broadcast  boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now()
);

-- Our outputs, each with the full transaction that made it.
CREATE TABLE wallet_outputs (
  txid       bytea NOT NULL REFERENCES wallet_txs (txid),
  vout       bigint NOT NULL CHECK (vout >= 0),
  amount_sat bigint NOT NULL CHECK (amount_sat BETWEEN 0 AND 2100000000000000),
  change     boolean NOT NULL,
  key_index  bigint NOT NULL,
  PRIMARY KEY (txid, vout),
  FOREIGN KEY (change, key_index) REFERENCES wallet_keys (change, key_index)
);

-- ----------------------------------------------------------------------------------------- connections, replicas

-- One row a connection. `generation` orders connections across connectd replicas; a message of an old one is dropped.
CREATE TABLE connections (
  generation        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  peer_id           bytea NOT NULL CHECK (octet_length(peer_id) = 33),
  connectd_instance text NOT NULL,
  connection        bigint NOT NULL,
  incoming          boolean NOT NULL,
  remote_addr       text NOT NULL,
  features          bytea NOT NULL,
  connected_at      timestamptz NOT NULL DEFAULT now(),
  disconnected_at   timestamptz,
  UNIQUE (connectd_instance, connection)
);
-- One live connection a peer: taking a new one closes the old one in the same statement.
CREATE UNIQUE INDEX connections_live ON connections (peer_id) WHERE disconnected_at IS NULL;

-- Where a peer with channels can be reached again.
CREATE TABLE peer_addresses (
  peer_id bytea NOT NULL CHECK (octet_length(peer_id) = 33),
  address text NOT NULL,
  used_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (peer_id, address)
);

-- -------------------------------------------------------------------------------------------------------- channels

CREATE TABLE channels (
  channel              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  peer_id              bytea NOT NULL CHECK (octet_length(peer_id) = 33),
  channel_id           bytea NOT NULL UNIQUE CHECK (octet_length(channel_id) = 32),
  temporary_channel_id bytea NOT NULL CHECK (octet_length(temporary_channel_id) = 32),
  -- Who opened pays the commitment fee and the anchors, whoever starts an RBF later.
  opener               text NOT NULL CHECK (opener IN ('local', 'remote')),
  state                text NOT NULL CHECK (state IN (
    'DUALOPEND_OPEN_COMMIT_READY', 'DUALOPEND_OPEN_COMMITTED', 'DUALOPEND_AWAITING_LOCKIN',
    'CHANNELD_AWAITING_LOCKIN', 'CHANNELD_NORMAL', 'CHANNELD_SHUTTING_DOWN', 'CLOSINGD_SIGEXCHANGE',
    'CLOSINGD_COMPLETE', 'AWAITING_UNILATERAL', 'FUNDING_SPEND_SEEN', 'ONCHAIN', 'CLOSED')),

  -- The fence: every write of a subd names both and raises version.
  owner_epoch          bigint NOT NULL CHECK (owner_epoch > 0),
  owner_instance       text NOT NULL,
  -- Which daemon the owner is: where it is not the state's, the handover at lock-in is still to come.
  owner_daemon         text NOT NULL DEFAULT 'dualopend' CHECK (owner_daemon IN ('dualopend', 'channeld')),
  version              bigint NOT NULL DEFAULT 1 CHECK (version > 0),

  -- Keys: 32 random bytes drawn by hsmd, never a sequence (a restored database would hand out a used one).
  channel_key_id       bytea NOT NULL UNIQUE CHECK (octet_length(channel_key_id) = 32),
  payment_key_index    integer NOT NULL CHECK (payment_key_index BETWEEN 0 AND 999),

  -- What open_channel2 and accept_channel2 fixed: arcus.store.v1.ChannelParams.
  params               bytea NOT NULL,
  -- The commitments once an attempt is locked: arcus.store.v1.Commitments.
  commitments          bytea,

  -- The connection's place: what a successor goes on from.
  generation           bigint NOT NULL,
  in_seq               bigint NOT NULL DEFAULT 0,
  out_seq              bigint NOT NULL DEFAULT 0,
  reestablish_sent     boolean NOT NULL DEFAULT false,
  reestablish_received boolean NOT NULL DEFAULT false,

  -- Our channel_ready, stored as sent, is the lock.
  locked_attempt       bigint,
  channel_ready_received boolean NOT NULL DEFAULT false,
  remote_next_point    bytea CHECK (octet_length(remote_next_point) = 33),
  local_alias          numeric(20) NOT NULL UNIQUE,
  remote_alias         numeric(20),

  shutdown_sent        bytea,
  shutdown_received    bytea,

  -- Failing a saved channel is a fact: no more signatures, the error repeated on every reconnect.
  error_text           text CHECK (error_text <> ''),

  created_height       integer NOT NULL CHECK (created_height >= 0),
  created_at           timestamptz NOT NULL DEFAULT now(),
  state_changed_at     timestamptz NOT NULL DEFAULT now(),

  CHECK ((state LIKE 'DUALOPEND_OPEN%') <= (locked_attempt IS NULL)),
  CHECK ((state IN ('CHANNELD_NORMAL', 'CHANNELD_AWAITING_LOCKIN')) <= (locked_attempt IS NOT NULL)),
  CHECK ((state = 'CHANNELD_NORMAL') <= channel_ready_received),
  CHECK (channel_ready_received = (remote_next_point IS NOT NULL)),
  CHECK (commitments IS NULL OR locked_attempt IS NOT NULL)
);
CREATE INDEX channels_peer ON channels (peer_id);

-- Every signed funding transaction: the first, each RBF, later each splice. Which one funds the channel is derived:
-- the one the chain confirmed; before that, the newest fully signed one.
CREATE TABLE funding_attempts (
  attempt                     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  channel                     bigint NOT NULL REFERENCES channels (channel) ON DELETE CASCADE,
  seq                         integer NOT NULL CHECK (seq >= 0),
  initiator                   text NOT NULL CHECK (initiator IN ('local', 'remote')),
  txid                        bytea NOT NULL UNIQUE CHECK (octet_length(txid) = 32),
  output_index                integer NOT NULL CHECK (output_index >= 0),
  funding_script              bytea NOT NULL,
  local_contribution_sat      bigint NOT NULL CHECK (local_contribution_sat >= 0),
  remote_contribution_sat     bigint NOT NULL CHECK (remote_contribution_sat >= 0),
  capacity_sat                bigint NOT NULL CHECK (capacity_sat BETWEEN 1 AND 2100000000000000),
  feerate_perkw               bigint NOT NULL CHECK (feerate_perkw BETWEEN 0 AND 4294967295),
  fee_sat                     bigint NOT NULL CHECK (fee_sat >= 0),
  locktime                    bigint NOT NULL CHECK (locktime BETWEEN 0 AND 4294967295),
  -- The unsigned transaction, its inputs and outputs by side: arcus.store.v1.FundingAttempt.
  detail                      bytea NOT NULL,
  created_height              integer NOT NULL CHECK (created_height >= 0),
  created_at                  timestamptz NOT NULL DEFAULT now(),

  -- The peer's signature on our commitment 0: stored only after hsmd found it good.
  remote_commitment_signature bytea CHECK (octet_length(remote_commitment_signature) = 64),
  -- Our witnesses (wire form of tx_signatures' witnesses), stored as sent before they are sent.
  local_tx_signatures         bytea,
  remote_tx_signatures        bytea,
  complete_tx                 bytea,
  -- Aborted before our tx_signatures: kept while the channel lives (hsmd remembers its commitment 0), still watched.
  aborted                     boolean NOT NULL DEFAULT false,

  UNIQUE (channel, seq),
  CHECK (capacity_sat = local_contribution_sat + remote_contribution_sat),
  CHECK (local_tx_signatures IS NULL OR remote_commitment_signature IS NOT NULL),
  CHECK (remote_tx_signatures IS NULL OR remote_commitment_signature IS NOT NULL),
  CHECK ((complete_tx IS NOT NULL) = (local_tx_signatures IS NOT NULL AND remote_tx_signatures IS NOT NULL)),
  -- After our tx_signatures we never abort.
  CHECK (NOT (aborted AND local_tx_signatures IS NOT NULL))
);
ALTER TABLE channels ADD FOREIGN KEY (locked_attempt) REFERENCES funding_attempts (attempt);

-- Outpoints that an attempt spends; `local` ones are ours.
CREATE TABLE attempt_inputs (
  attempt    bigint NOT NULL REFERENCES funding_attempts (attempt) ON DELETE CASCADE,
  serial_id  numeric(20) NOT NULL,
  side       text NOT NULL CHECK (side IN ('local', 'remote')),
  txid       bytea NOT NULL CHECK (octet_length(txid) = 32),
  vout       bigint NOT NULL CHECK (vout >= 0),
  amount_sat bigint NOT NULL CHECK (amount_sat BETWEEN 0 AND 2100000000000000),
  PRIMARY KEY (attempt, serial_id),
  UNIQUE (attempt, txid, vout)
);
CREATE INDEX attempt_inputs_outpoint ON attempt_inputs (txid, vout);

-- The confirmed funding output as the chain has it; only lightningd writes it. `matches` says that outpoint, script
-- and amount are those negotiated: nothing is locked on an output that does not match.
CREATE TABLE attempt_confirmations (
  attempt  bigint PRIMARY KEY REFERENCES funding_attempts (attempt) ON DELETE CASCADE,
  height   integer NOT NULL REFERENCES blocks (height) ON DELETE CASCADE,
  tx_index integer NOT NULL CHECK (tx_index >= 0),
  coinbase boolean NOT NULL DEFAULT false,
  matches  boolean NOT NULL
);
CREATE INDEX attempt_confirmations_height ON attempt_confirmations (height);

-- A negotiation without an attempt row yet: a first open or an RBF. Gone when its connection or its subd ends,
-- with every input that it reserved.
CREATE TABLE openings (
  opening              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  peer_id              bytea NOT NULL CHECK (octet_length(peer_id) = 33),
  generation           bigint NOT NULL,
  -- An RBF names its channel; one negotiation a channel.
  channel              bigint UNIQUE REFERENCES channels (channel) ON DELETE CASCADE,
  initiator            text NOT NULL CHECK (initiator IN ('local', 'remote')),
  owner_epoch          bigint NOT NULL CHECK (owner_epoch > 0),
  owner_instance       text NOT NULL,
  temporary_channel_id bytea CHECK (octet_length(temporary_channel_id) = 32),
  channel_key_id       bytea UNIQUE CHECK (octet_length(channel_key_id) = 32),
  payment_key_index    integer CHECK (payment_key_index BETWEEN 0 AND 999),
  progress_at          timestamptz NOT NULL DEFAULT now(),
  created_at           timestamptz NOT NULL DEFAULT now(),
  UNIQUE (peer_id, temporary_channel_id),
  CHECK ((channel IS NULL) = (channel_key_id IS NOT NULL AND payment_key_index IS NOT NULL AND temporary_channel_id IS NOT NULL))
);

-- A reserved output of ours, by purpose. One row an output: an attempt's row belongs to its channel, whose later
-- attempts may spend the same output (an RBF must). Release follows from rows, never from a callback or a timer.
CREATE TABLE reservations (
  txid          bytea NOT NULL CHECK (octet_length(txid) = 32),
  vout          bigint NOT NULL CHECK (vout >= 0),
  purpose       text NOT NULL CHECK (purpose IN ('opening', 'attempt', 'withdraw', 'user')),
  opening       bigint REFERENCES openings (opening) ON DELETE CASCADE,
  channel       bigint REFERENCES channels (channel) ON DELETE CASCADE,
  withdraw_txid bytea REFERENCES wallet_txs (txid),
  -- reserveinputs, fundpsbt, utxopsbt: reserved until this height is reached.
  until_height  integer,
  PRIMARY KEY (txid, vout),
  CHECK ((purpose = 'opening') = (opening IS NOT NULL)),
  CHECK ((purpose = 'attempt') = (channel IS NOT NULL)),
  CHECK ((purpose = 'withdraw') = (withdraw_txid IS NOT NULL)),
  CHECK ((purpose = 'user') = (until_height IS NOT NULL))
);
