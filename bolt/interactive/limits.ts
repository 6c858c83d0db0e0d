/** Every limit of interactive transaction construction, named. */

/**
 * The received `tx_add_input` (and, counted apart, `tx_add_output`) that ends a session, removed ones included
 * (BOLT 2): so a peer cannot keep us busy for ever. The 4096th is already one too many.
 */
export const ADD_MESSAGES_REFUSED_AT = 4096;
/** Inputs, and outputs, that a finished transaction has at most (BOLT 2, tx_complete); keeps both counts one byte. */
export const MAX_INPUTS = 252;
/** See {@link MAX_INPUTS}. */
export const MAX_OUTPUTS = 252;
/** The highest sequence that still signals replaceability (BOLT 2, tx_add_input). */
export const MAX_SEQUENCE = 0xffff_fffd;
/** The highest `serial_id` (u64). */
export const MAX_SERIAL_ID = 0xffff_ffff_ffff_ffffn;
/**
 * Whether an output to a witness program that nobody can spend by today's rules (version 0 is always just P2WPKH and
 * P2WSH) is taken from a peer. Such outputs are relayed, and BOLT 2 only obliges us to take P2WPKH, P2WSH and P2TR.
 */
export const ACCEPT_FUTURE_WITNESS_VERSIONS = true;
/**
 * The least witness that we charge a peer for a P2TR input (count, length, 64 byte signature). BOLT 3 counts 107 for
 * every input, yet wallets estimate a key path spend as it is, and the fee rate holds either way.
 */
export const P2TR_KEY_PATH_WITNESS = 66;
