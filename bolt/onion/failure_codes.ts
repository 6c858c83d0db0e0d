/** The numbers of BOLT 4's failures. */

/** Set in a `failure_code`: an onion that the sending peer made unreadable; goes by `update_fail_malformed_htlc`. */
export const BADONION = 0x8000;
/** Set in a `failure_code`: trying again is of no use. */
export const PERM = 0x4000;
/** Set in a `failure_code`: it is about the whole node, not a channel. */
export const NODE = 0x2000;
/** Set in a `failure_code`: the data hold a `channel_update`. */
export const UPDATE = 0x1000;

/** Every failure of BOLT 4 (Failure Messages) and its code. */
export const FAILURE_CODES = {
  temporary_node_failure: NODE | 2,
  permanent_node_failure: PERM | NODE | 2,
  required_node_feature_missing: PERM | NODE | 3,
  invalid_onion_version: BADONION | PERM | 4,
  invalid_onion_hmac: BADONION | PERM | 5,
  invalid_onion_key: BADONION | PERM | 6,
  temporary_channel_failure: UPDATE | 7,
  permanent_channel_failure: PERM | 8,
  required_channel_feature_missing: PERM | 9,
  unknown_next_peer: PERM | 10,
  amount_below_minimum: UPDATE | 11,
  fee_insufficient: UPDATE | 12,
  incorrect_cltv_expiry: UPDATE | 13,
  expiry_too_soon: UPDATE | 14,
  incorrect_or_unknown_payment_details: PERM | 15,
  final_incorrect_cltv_expiry: 18,
  final_incorrect_htlc_amount: 19,
  channel_disabled: UPDATE | 20,
  expiry_too_far: 21,
  invalid_onion_payload: PERM | 22,
  mpp_timeout: 23,
  invalid_onion_blinding: BADONION | PERM | 24,
} as const;

/** The name of a failure. */
export type FailureName = keyof typeof FAILURE_CODES;
