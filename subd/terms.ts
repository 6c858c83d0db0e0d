/** What hsmd is told of a channel by every subd. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ChannelParams } from "bolt/dualopen/types.ts";
import type { Side } from "bolt/interactive/types.ts";
import type { ChannelTermsSchema } from "gen/arcus/hsmd/v1/hsmd_pb.ts";

/** What the commitments depend on, from our side (hsmd's ChannelTerms). */
export function channelTerms(
  channel: { readonly opener: Side; readonly params: ChannelParams },
): MessageInitShape<typeof ChannelTermsSchema> {
  const { local, remote, channelType, commitmentFeerate } = channel.params;
  return {
    localIsOpener: channel.opener === "local",
    channelType,
    remoteFundingPubkey: remote.fundingPubkey,
    remoteRevocationBasepoint: remote.revocationBasepoint,
    remotePaymentBasepoint: remote.paymentBasepoint,
    remoteDelayedPaymentBasepoint: remote.delayedPaymentBasepoint,
    remoteHtlcBasepoint: remote.htlcBasepoint,
    remoteFirstPerCommitmentPoint: remote.firstPerCommitmentPoint,
    // Each side waits as long as the other one asked.
    localToSelfDelay: remote.toSelfDelay,
    remoteToSelfDelay: local.toSelfDelay,
    localDustLimitSat: local.dustLimit,
    remoteDustLimitSat: remote.dustLimit,
    commitmentFeeratePerkw: commitmentFeerate,
  };
}
