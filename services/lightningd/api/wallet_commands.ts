/** The wallet's commands: addresses, coins, PSBTs, transactions. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Transaction } from "bitcoinjs-lib";
import { sat } from "bolt/units.ts";
import {
  type ListfundsChannelsSchema,
  ListfundsOutputs_ListfundsOutputsStatus as Status,
  type ListfundsOutputsSchema,
  NewaddrRequest_NewaddrAddresstype as AddressType,
} from "gen/cln/node_pb.ts";
import type { ChannelInfo, FundedPsbt, ReservationChange, WalletOutput } from "../ports.ts";
import type { Handlers } from "./handlers.ts";
import type { ApiParts } from "./parts.ts";
import { invalidParams } from "./refusals.ts";
import {
  flipTxid,
  given,
  readFeerate,
  readOutpoints,
  readSat,
  readSatOrAll,
  scidOf,
  toAmount,
  toState,
} from "./values.ts";

const STATUS = {
  unconfirmed: Status.UNCONFIRMED,
  confirmed: Status.CONFIRMED,
  spent: Status.SPENT,
  immature: Status.IMMATURE,
} as const;
/** Longest reservation, blocks: a year. */
const MAX_RESERVE = 52_560;

function toOutput(output: WalletOutput): MessageInitShape<typeof ListfundsOutputsSchema> {
  const { outpoint, amount, script, address, status, blockheight, reserved } = output;
  return {
    txid: flipTxid(outpoint.txid),
    output: outpoint.vout,
    amountMsat: toAmount(amount),
    scriptpubkey: script,
    address,
    status: STATUS[status],
    reserved: reserved !== undefined,
    ...given({ blockheight, reservedToBlock: reserved?.untilHeight }),
  };
}

function toFundsChannel(channel: ChannelInfo): MessageInitShape<typeof ListfundsChannelsSchema>[] {
  const { funding, channelId } = channel;
  if (funding === undefined || channelId === undefined) return [];
  return [{
    peerId: channel.peerId,
    connected: channel.peerConnected,
    state: toState(channel.state),
    channelId,
    fundingTxid: flipTxid(funding.txid),
    fundingOutput: funding.outputIndex,
    amountMsat: toAmount(funding.capacity),
    ourAmountMsat: toAmount(funding.localContribution),
    ...given({ shortChannelId: scidOf(channel) }),
  }];
}

function toReservation(change: ReservationChange) {
  return {
    txid: flipTxid(change.outpoint.txid),
    vout: change.outpoint.vout,
    wasReserved: change.wasReserved,
    reserved: change.reserved,
    ...given({ reservedToBlock: change.reservedToBlock }),
  };
}

function toFunded(funded: FundedPsbt) {
  return {
    psbt: funded.psbt,
    feeratePerKw: funded.feerate,
    estimatedFinalWeight: funded.estimatedFinalWeight,
    excessMsat: toAmount(funded.excess),
    reservations: funded.reservations.map(toReservation),
    ...given({ changeOutnum: funded.changeOutnum }),
  };
}

function requireFeerate(...args: Parameters<typeof readFeerate>) {
  const rate = readFeerate(...args);
  if (rate === undefined) throw invalidParams(args[0], "missing");
  return rate;
}

function readReserve(reserve: number | undefined): number | undefined {
  if (reserve !== undefined && reserve > MAX_RESERVE) {
    throw invalidParams("reserve", `at most ${MAX_RESERVE} blocks`);
  }
  return reserve;
}

/** The commands of the wallet. */
export function walletCommands({ wallet, peers }: ApiParts): Handlers<
  | "newAddr"
  | "listFunds"
  | "withdraw"
  | "fundPsbt"
  | "utxoPsbt"
  | "addPsbtOutput"
  | "reserveInputs"
  | "unreserveInputs"
  | "signPsbt"
  | "sendPsbt"
  | "listTransactions"
> {
  return {
    async newAddr({ addresstype }) {
      if (addresstype === AddressType.BECH32) {
        throw invalidParams("addresstype", "this wallet makes p2tr addresses only (BIP 86)");
      }
      return { p2tr: (await wallet.newAddress()).address };
    },

    async listFunds({ spent }) {
      const [outputs, channels] = await Promise.all([
        wallet.listFunds({ spent: spent ?? false }),
        peers.listPeerChannels(),
      ]);
      return { outputs: outputs.map(toOutput), channels: channels.flatMap(toFundsChannel) };
    },

    async withdraw(request) {
      const { tx, txid, psbt } = await wallet.withdraw({
        destination: request.destination,
        amount: readSatOrAll("satoshi", request.satoshi),
        ...given({
          feerate: readFeerate("feerate", request.feerate),
          minconf: request.minconf,
          utxos: request.utxos.length === 0 ? undefined : readOutpoints("utxos", request.utxos),
        }),
      });
      return { tx, txid: flipTxid(txid), psbt };
    },

    async fundPsbt(request) {
      return toFunded(
        await wallet.fundPsbt({
          amount: readSatOrAll("satoshi", request.satoshi),
          feerate: requireFeerate("feerate", request.feerate),
          startweight: request.startweight,
          ...given({
            minconf: request.minconf,
            reserve: readReserve(request.reserve),
            locktime: request.locktime,
            minWitnessWeight: request.minWitnessWeight,
            excessAsChange: request.excessAsChange,
          }),
        }),
      );
    },

    async utxoPsbt(request) {
      return toFunded(
        await wallet.utxoPsbt({
          amount: readSatOrAll("satoshi", request.satoshi),
          feerate: requireFeerate("feerate", request.feerate),
          startweight: request.startweight,
          utxos: readOutpoints("utxos", request.utxos),
          ...given({
            reserve: readReserve(request.reserve),
            reservedok: request.reservedok,
            locktime: request.locktime,
            minWitnessWeight: request.minWitnessWeight,
            excessAsChange: request.excessAsChange,
          }),
        }),
      );
    },

    addPsbtOutput(request) {
      return wallet.addPsbtOutput({
        amount: readSat("satoshi", request.satoshi),
        ...given({ psbt: request.initialpsbt, locktime: request.locktime, destination: request.destination }),
      });
    },

    async reserveInputs({ psbt, exclusive, reserve }) {
      const changes = await wallet.reserveInputs({
        psbt,
        ...given({ exclusive, reserve: readReserve(reserve) }),
      });
      return { reservations: changes.map(toReservation) };
    },

    async unreserveInputs({ psbt, reserve }) {
      const changes = await wallet.unreserveInputs({ psbt, ...given({ reserve: readReserve(reserve) }) });
      return { reservations: changes.map(toReservation) };
    },

    async signPsbt({ psbt, signonly }) {
      return { signedPsbt: await wallet.signPsbt({ psbt, ...(signonly.length === 0 ? {} : { signonly }) }) };
    },

    async sendPsbt({ psbt }) {
      const { tx, txid } = await wallet.sendPsbt(psbt);
      return { tx, txid: flipTxid(txid) };
    },

    async listTransactions() {
      const stored = await wallet.listTransactions();
      return {
        transactions: stored.map(({ txid, raw, blockheight, txIndex }) => {
          const tx = Transaction.fromBuffer(raw);
          return {
            hash: flipTxid(txid),
            rawtx: raw,
            blockheight: blockheight ?? 0,
            txindex: txIndex ?? 0,
            locktime: tx.locktime,
            version: tx.version,
            inputs: tx.ins.map(({ hash, index, sequence }) => ({ txid: flipTxid(hash), index, sequence })),
            outputs: tx.outs.map(({ value, script }, index) => ({
              index,
              amountMsat: toAmount(sat(value)),
              scriptPubKey: script,
            })),
          };
        }),
      };
    },
  };
}
