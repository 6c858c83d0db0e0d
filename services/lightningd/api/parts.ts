/** What the API stands on. */
import type { Network } from "bolt/wire/chain_hash.ts";
import type { Config } from "common/config/config.ts";
import type { Logger } from "common/log.ts";
import type { PaymentRoom } from "../payments/payments.ts";
import type { Chain, Peers, WalletApi } from "../ports.ts";

/** The rooms of lightningd and the facts of this node that the commands need. */
export interface ApiParts {
  readonly nodeId: Uint8Array;
  readonly network: Network;
  readonly config: Config;
  readonly chain: Chain;
  readonly wallet: WalletApi;
  readonly peers: Peers;
  readonly payments: PaymentRoom;
  readonly log: Logger;
  /** Begins to stop lightningd; called once the answer to `stop` is on its way. */
  readonly stop: () => void;
}
