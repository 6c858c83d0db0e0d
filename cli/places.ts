/** Where a node's socket is, unless said otherwise: the defaults of its options. */
import { OPTIONS } from "common/config/options.ts";

/** Of `lightning-dir`. */
export const DEFAULT_LIGHTNING_DIR: string = OPTIONS["lightning-dir"].fallback;
/** Of `rpc-file`. */
export const DEFAULT_RPC_FILE: string = OPTIONS["rpc-file"].fallback;
