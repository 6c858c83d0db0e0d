/** Node-wide policy as lightningd says it. */
import type { Policy } from "bolt/dualopen/types.ts";
import { msat, sat } from "bolt/units.ts";
import { requireField } from "common/grpc/check.ts";
import type { SubdWelcome } from "gen/arcus/subd/v1/subd_pb.ts";

/** The policy of a welcome, as the machine takes it. Throws RangeError for amounts that are none. */
export function readPolicy(
  welcome: SubdWelcome,
): { readonly policy: Policy; readonly openTimeoutMs: number } {
  const policy = requireField(welcome.policy, "policy");
  return {
    policy: {
      fundingConfirms: policy.fundingConfirms,
      dustLimit: sat(policy.dustLimitSat),
      maxDustLimit: sat(policy.maxDustLimitSat),
      maxHtlcValueInFlight: msat(policy.maxHtlcValueInFlightMsat),
      htlcMinimum: msat(policy.htlcMinimumMsat),
      toSelfDelay: policy.toSelfDelay,
      maxToSelfDelay: policy.maxToSelfDelay,
      maxAcceptedHtlcs: policy.maxAcceptedHtlcs,
      minCapacity: sat(policy.minCapacitySat),
      largeChannels: policy.largeChannels,
      maxRemoteRbfAttempts: policy.maxRemoteRbfAttempts,
      remoteRbfMinBlocks: policy.remoteRbfMinBlocks,
      requireConfirmedInputs: policy.requireConfirmedInputs,
    },
    openTimeoutMs: policy.openTimeoutMs,
  };
}
