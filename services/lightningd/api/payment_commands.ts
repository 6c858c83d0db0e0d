/** The commands of invoices and payments. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { hexToBytes } from "@noble/hashes/utils.js";
import { fallbackOfScript } from "bolt/invoice/fallback.ts";
import type { Fallback, Invoice } from "bolt/invoice/types.ts";
import { stripLightningUri } from "bolt/invoice/uri.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import { parseShortChannelId } from "bolt/wire/short_channel_id.ts";
import { ArcusError, notFound } from "common/grpc/errors.ts";
import {
  DelinvoiceRequest_DelinvoiceStatus as DelinvoiceStatus,
  DelinvoiceResponse_DelinvoiceStatus as DeletedStatus,
  KeysendResponse_KeysendStatus as KeysendStatus,
  ListhtlcsHtlcs_ListhtlcsHtlcsDirection as HtlcDirection,
  type ListhtlcsHtlcsSchema,
  ListinvoicesInvoices_ListinvoicesInvoicesStatus as InvoicesStatus,
  type ListinvoicesInvoicesSchema,
  ListinvoicesRequest_ListinvoicesIndex as InvoicesIndex,
  ListpaysPays_ListpaysPaysStatus as PaysStatus,
  type ListpaysPaysSchema,
  ListpaysRequest_ListpaysStatus as PaysWanted,
  ListsendpaysPayments_ListsendpaysPaymentsStatus as PartsStatus,
  type ListsendpaysPaymentsSchema,
  ListsendpaysRequest_ListsendpaysStatus as PartsWanted,
  type PayRequest as PayMessage,
  PayResponse_PayStatus as PayStatus,
  SendpayResponse_SendpayStatus as SendpayStatus,
  type SendpayRoute,
  type SetchannelChannelsSchema,
  WaitanyinvoiceResponse_WaitanyinvoiceStatus as WaitanyStatus,
  WaitinvoiceResponse_WaitinvoiceStatus as WaitStatus,
  WaitsendpayResponse_WaitsendpayStatus as WaitsendpayStatus,
} from "gen/cln/node_pb.ts";
import type { AmountOrAny } from "gen/cln/primitives_pb.ts";
import { PayCode, payRefusal } from "../payments/codes.ts";
import { type InvoiceStatus, statusOf } from "../payments/invoices.ts";
import type { InvoiceRow } from "../payments/invoice_store.ts";
import { failureDetails, type RouteStep } from "../payments/payer.ts";
import type { PartRow, PaymentQuery, PaymentRow } from "../payments/payment_store.ts";
import type { ChannelTerms, PayRequest } from "../payments/payments.ts";
import type { ChannelInfo } from "../ports.ts";
import { scriptOf } from "../wallet/address.ts";
import { toDecoded } from "./decode_invoice.ts";
import type { Handlers } from "./handlers.ts";
import type { ApiParts } from "./parts.ts";
import { invalidParams } from "./refusals.ts";
import { aliasText, given, htlcState, readNodeId, scidOf, toAmount } from "./values.ts";

/** Names of the commands here. */
export type PaymentCommand =
  | "invoice"
  | "listInvoices"
  | "delInvoice"
  | "waitInvoice"
  | "waitAnyInvoice"
  | "decode"
  | "pay"
  | "xpay"
  | "sendPay"
  | "waitSendPay"
  | "listPays"
  | "listSendPays"
  | "keySend"
  | "setChannel"
  | "preApproveInvoice"
  | "listHtlcs";

const MS = 1_000;
const HASH_LENGTH = 32;
const MAX_LABEL = 1_000;
const MAX_EXPIRY = 1n << 40n;
const MAX_CLTV = 2016;
const MAX_MSAT = 2_100_000_000_000_000_000n;
/** CLN's defaults of fee-base and fee-per-satoshi. */
const DEFAULT_FEE_BASE_MSAT = 1_000n;
const DEFAULT_FEE_PPM = 10n;
/** CLN's code for a channel that is not known. */
const UNKNOWN_CHANNEL = -1;
const BOLT11 = /^ln(bc|tb|tbs|bcrt|sb)([0-9]+[munp]?)?1/i;
const NODE_ID_HEX = 66;
const CHANNEL_ID_HEX = 64;

const nowSeconds = (): bigint => BigInt(Math.floor(Date.now() / MS));
const seconds = (date: Date): bigint => BigInt(Math.floor(date.getTime() / MS));
const fractional = (date: Date): number => date.getTime() / MS;
const msat = (amount: bigint): { msat: bigint } => ({ msat: amount });

function readMsat(parameter: string, amount: { readonly msat: bigint } | undefined): bigint | undefined {
  if (amount === undefined) return undefined;
  if (amount.msat === 0n || amount.msat > MAX_MSAT) throw invalidParams(parameter, "is no amount to pay");
  return amount.msat;
}

function requireMsat(parameter: string, amount: { readonly msat: bigint } | undefined): bigint {
  const read = readMsat(parameter, amount);
  if (read === undefined) throw invalidParams(parameter, "missing");
  return read;
}

function readAmountOrAny(amount: AmountOrAny | undefined): bigint | undefined {
  switch (amount?.value.case) {
    case "amount":
      return requireMsat("amount_msat", amount.value.value);
    case "any":
      if (amount.value.value) return undefined;
      throw invalidParams("amount_msat", "neither an amount nor any");
    case undefined:
      throw invalidParams("amount_msat", "neither an amount nor any");
  }
}

function readHash(parameter: string, hash: Uint8Array): Uint8Array {
  if (hash.length !== HASH_LENGTH) throw invalidParams(parameter, `should be ${HASH_LENGTH} bytes in hex`);
  return hash;
}

/** The members of an invoice that four answers share. */
function invoiceMembers(row: InvoiceRow) {
  return {
    label: row.label,
    paymentHash: row.paymentHash,
    expiresAt: row.expiresAt,
    createdIndex: row.invoice,
    ...given({
      description: row.description,
      amountMsat: row.amountMsat === undefined ? undefined : msat(row.amountMsat),
      bolt11: row.bolt11,
    }),
    ...(row.paid === undefined ? {} : {
      payIndex: row.paid.payIndex,
      updatedIndex: row.paid.payIndex,
      amountReceivedMsat: msat(row.paid.receivedMsat),
      paidAt: seconds(row.paid.paidAt),
      paymentPreimage: row.preimage,
    }),
  };
}

const INVOICE_STATUS: Readonly<Record<InvoiceStatus, InvoicesStatus>> = {
  unpaid: InvoicesStatus.UNPAID,
  paid: InvoicesStatus.PAID,
  expired: InvoicesStatus.EXPIRED,
};
const DELETED_STATUS: Readonly<Record<InvoiceStatus, DeletedStatus>> = {
  unpaid: DeletedStatus.UNPAID,
  paid: DeletedStatus.PAID,
  expired: DeletedStatus.EXPIRED,
};

function toInvoice(row: InvoiceRow): MessageInitShape<typeof ListinvoicesInvoicesSchema> {
  return { ...invoiceMembers(row), status: INVOICE_STATUS[statusOf(row, nowSeconds())] };
}

function statusWanted(status: DelinvoiceStatus): InvoiceStatus {
  switch (status) {
    case DelinvoiceStatus.PAID:
      return "paid";
    case DelinvoiceStatus.EXPIRED:
      return "expired";
    case DelinvoiceStatus.UNPAID:
      return "unpaid";
  }
}

function paysStatus(row: PaymentRow): PaysStatus {
  if (row.ending === undefined) return PaysStatus.PENDING;
  return row.ending.type === "complete" ? PaysStatus.COMPLETE : PaysStatus.FAILED;
}

function toPay(
  row: PaymentRow,
  counts: ReadonlyMap<bigint, number>,
): MessageInitShape<typeof ListpaysPaysSchema> {
  const { ending } = row;
  const parts = ending?.type === "complete" ? ending.parts : counts.get(row.payment) ?? 0;
  return {
    paymentHash: row.paymentHash,
    status: paysStatus(row),
    createdAt: seconds(row.createdAt),
    createdIndex: row.payment,
    ...given({
      destination: row.destination,
      label: row.label,
      bolt11: row.bolt11,
      description: row.description,
    }),
    ...(ending?.type === "complete"
      ? {
        amountMsat: msat(row.amountMsat),
        amountSentMsat: msat(ending.sentMsat),
        preimage: ending.preimage,
        completedAt: seconds(ending.completedAt),
        updatedIndex: ending.updated,
      }
      : {}),
    ...(parts > 1 ? { numberOfParts: BigInt(parts) } : {}),
  };
}

/** The members of a part that three answers share. */
function partMembers(row: PartRow) {
  const { of, resolved } = row;
  return {
    id: row.part,
    groupid: of.groupid,
    paymentHash: of.paymentHash,
    createdAt: seconds(row.createdAt),
    amountMsat: msat(row.amountMsat),
    amountSentMsat: msat(row.sentMsat),
    createdIndex: row.part,
    ...given({
      destination: of.destination,
      label: of.label,
      bolt11: of.bolt11,
      paymentPreimage: resolved?.preimage,
    }),
    ...(row.partid === 0n ? {} : { partid: row.partid }),
  };
}

function toPart(row: PartRow): MessageInitShape<typeof ListsendpaysPaymentsSchema> {
  const { resolved, of } = row;
  const status = resolved === undefined
    ? PartsStatus.PENDING
    : resolved.preimage === undefined
    ? PartsStatus.FAILED
    : PartsStatus.COMPLETE;
  return {
    ...partMembers(row),
    status,
    ...given({
      description: of.description,
      erroronion: resolved?.failure?.errorOnion,
      completedAt: resolved === undefined ? undefined : seconds(resolved.at),
    }),
  };
}

type Wanted = NonNullable<PaymentQuery["status"]>;
const PAYS_WANTED: Readonly<Record<PaysWanted, Wanted>> = {
  [PaysWanted.PENDING]: "pending",
  [PaysWanted.COMPLETE]: "complete",
  [PaysWanted.FAILED]: "failed",
};
const PARTS_WANTED: Readonly<Record<PartsWanted, Wanted>> = {
  [PartsWanted.PENDING]: "pending",
  [PartsWanted.COMPLETE]: "complete",
  [PartsWanted.FAILED]: "failed",
};

/** Terms of a page, checked: `start` and `limit` go with `index` (CLN). */
function pageOf(
  request: {
    readonly index?: number | undefined;
    readonly start?: bigint | undefined;
    readonly limit?: number | undefined;
  },
): { index?: "created" | "updated"; start?: bigint; limit?: number } {
  const { index, start, limit } = request;
  if (index === undefined) {
    if (start !== undefined) throw invalidParams("start", "can only be given with index");
    if (limit !== undefined) throw invalidParams("limit", "can only be given with index");
    return {};
  }
  return {
    index: index === InvoicesIndex.UPDATED ? "updated" : "created",
    ...given({ start, limit }),
  };
}

function routeOf(route: readonly SendpayRoute[]): RouteStep[] {
  return route.map((hop, index) => {
    const name = `route[${index}]`;
    const pubkey = hop.id ?? hop.nodeIdOut;
    const channel = hop.channel ?? hop.shortChannelIdDir?.split("/")[0];
    const delay = hop.delay ?? hop.cltvOut;
    if (pubkey === undefined) throw invalidParams(`${name}.id`, "missing");
    if (channel === undefined) throw invalidParams(`${name}.channel`, "missing");
    if (delay === undefined) throw invalidParams(`${name}.delay`, "missing");
    const scid = parseShortChannelId(channel);
    if (scid === undefined) throw invalidParams(`${name}.channel`, "should be a short channel id");
    return {
      pubkey: readNodeId(`${name}.id`, pubkey),
      shortChannelId: scid,
      amountMsat: requireMsat(`${name}.amount_msat`, hop.amountMsat ?? hop.amountOutMsat),
      delay,
    };
  });
}

/** Nodes and channels of `exclude`: short channel ids, with or without a direction, and node ids. */
function readExclude(texts: readonly string[]): (bigint | string)[] {
  return texts.map((text, index) => {
    if (/^0[23][0-9a-f]{64}$/i.test(text)) return text.toLowerCase();
    const scid = parseShortChannelId(text.split("/")[0] ?? "");
    if (scid === undefined) {
      throw invalidParams(`exclude[${index}]`, "should be a short channel id or a node id");
    }
    return scid;
  });
}

function failPart(row: PartRow): ArcusError {
  const failure = row.resolved?.failure;
  return payRefusal(failure?.code ?? PayCode.unspecified, "PART_FAILED", failure?.text ?? "it failed", {
    id: String(row.part),
    payment_hash: row.of.paymentHash.toHex(),
    status: "failed",
    amount_msat: String(row.amountMsat),
    amount_sent_msat: String(row.sentMsat),
    created_at: String(seconds(row.createdAt)),
    ...(row.of.destination === undefined ? {} : { destination: row.of.destination.toHex() }),
    ...(failure === undefined ? {} : failureDetails({ ...failure, name: failcodeOf(failure.text) })),
  });
}

/** CLN's word at the end of a failure's text. */
function failcodeOf(text: string): string {
  return /WIRE_[A-Z0-9_]+/.exec(text)?.[0] ?? text;
}

function nameOfChannel(channel: ChannelInfo | undefined): string {
  if (channel === undefined) return "0x0x0";
  return scidOf(channel) ?? aliasText(channel.localAlias) ?? "0x0x0";
}

/** The commands of invoices and payments. */
export function paymentCommands(parts: ApiParts): Handlers<PaymentCommand> {
  const { payments, peers, wallet, network, config } = parts;
  const { invoices } = payments;

  const fallbacksOf = async (texts: readonly string[]): Promise<Fallback[]> => {
    const scripts = texts.map((text) => scriptOf(text, network));
    if (scripts.length === 0 && config.get("invoices-onchain-fallback")) {
      scripts.push((await wallet.newAddress()).script);
    }
    return scripts.map((script, index) => {
      const fallback = fallbackOfScript(script);
      if (fallback === null) throw invalidParams(`fallbacks[${index}]`, "is no address for an invoice");
      return fallback;
    });
  };

  /** The text of an invoice; refuses what is of another type. */
  const bolt11Of = (parameter: string, text: string): string => {
    const cut = stripLightningUri(text);
    if (!BOLT11.test(cut)) {
      throw invalidParams(parameter, "of a type that this node does not read: only BOLT 11 invoices are");
    }
    return cut;
  };

  const readInvoice = (parameter: string, text: string): Invoice =>
    payments.decode(bolt11Of(parameter, text));

  /** The hash that a list is asked for. */
  const hashOf = (
    request: { readonly bolt11?: string | undefined; readonly paymentHash?: Uint8Array | undefined },
  ): Uint8Array | undefined => {
    if (request.bolt11 !== undefined && request.paymentHash !== undefined) {
      throw invalidParams("bolt11", "can't be given together with payment_hash");
    }
    if (request.bolt11 !== undefined) return readInvoice("bolt11", request.bolt11).paymentHash;
    return request.paymentHash === undefined ? undefined : readHash("payment_hash", request.paymentHash);
  };

  const payRequest = (request: PayMessage): PayRequest => ({
    bolt11: bolt11Of("bolt11", request.bolt11),
    ...given({
      amountMsat: readMsat("amount_msat", request.amountMsat),
      label: request.label,
      description: request.description,
      retrySeconds: request.retryFor,
      maxDelay: request.maxdelay,
      partialMsat: readMsat("partial_msat", request.partialMsat),
      exclude: request.exclude.length === 0 ? undefined : readExclude(request.exclude),
    }),
  });

  /** Channels that `id` names: all, those of a node, one. */
  const channelsNamed = async (id: string): Promise<ChannelInfo[]> => {
    const all = await peers.listPeerChannels();
    if (id === "all") return all.filter(({ channel }) => channel !== undefined);
    const scid = parseShortChannelId(id);
    const bytes = /^[0-9a-f]+$/i.test(id) && (id.length === NODE_ID_HEX || id.length === CHANNEL_ID_HEX)
      ? hexToBytes(id)
      : undefined;
    if (scid === undefined && bytes === undefined) {
      throw invalidParams("id", "should be a node id, a channel id, a short channel id or all");
    }
    const found = all.filter((channel) =>
      bytes === undefined
        ? parseShortChannelId(scidOf(channel) ?? "") === scid || channel.localAlias === scid
        : sameBytes(bytes, id.length === NODE_ID_HEX ? channel.peerId : channel.channelId ?? new Uint8Array())
    ).filter(({ channel }) => channel !== undefined);
    if (found.length === 0) {
      throw notFound("UNKNOWN_CHANNEL", "no such channel", { clnCode: UNKNOWN_CHANNEL });
    }
    return found;
  };

  const toTerms = (
    channel: ChannelInfo,
    terms: ChannelTerms,
  ): MessageInitShape<typeof SetchannelChannelsSchema> => {
    const least = channel.params?.remote?.htlcMinimumMsat ?? 0n;
    const most = channel.funding === undefined ? 0n : toAmount(channel.funding.capacity).msat;
    const [min, max] = [terms.htlcMinMsat ?? least, terms.htlcMaxMsat ?? most];
    return {
      peerId: channel.peerId,
      channelId: channel.channelId ?? new Uint8Array(),
      feeBaseMsat: msat(terms.feeBaseMsat ?? DEFAULT_FEE_BASE_MSAT),
      feeProportionalMillionths: Number(terms.feePpm ?? DEFAULT_FEE_PPM),
      minimumHtlcOutMsat: msat(min < least ? least : min),
      maximumHtlcOutMsat: msat(max > most ? most : max),
      ignoreFeeLimits: terms.ignoreFeeLimits ?? config.get("ignore-fee-limits"),
      ...given({
        shortChannelId: scidOf(channel),
        warningHtlcminTooLow: min < least ? `the peer takes no less than ${least}msat` : undefined,
        warningHtlcmaxTooHigh: max > most ? `the channel has no more than ${most}msat` : undefined,
      }),
    };
  };

  return {
    async invoice(request) {
      const amountMsat = readAmountOrAny(request.amountMsat);
      const { label, description, preimage, cltv, expiry } = request;
      if (label === "" || label.length > MAX_LABEL) {
        throw invalidParams("label", `should have 1 to ${MAX_LABEL} characters`);
      }
      if (cltv !== undefined && (cltv === 0 || cltv > MAX_CLTV)) {
        throw invalidParams("cltv", `should be 1 to ${MAX_CLTV}`);
      }
      if (expiry !== undefined && (expiry === 0n || expiry > MAX_EXPIRY)) {
        throw invalidParams("expiry", "is no time that an invoice can have");
      }
      const fallbacks = await fallbacksOf(request.fallbacks);
      const made = await invoices.create({
        label,
        description,
        descriptionHashOnly: request.deschashonly ?? false,
        ...given({
          amountMsat,
          preimage: preimage === undefined ? undefined : readHash("preimage", preimage),
          minFinalCltv: cltv,
          expirySeconds: expiry,
          fallbacks: fallbacks.length === 0 ? undefined : fallbacks,
        }),
      });
      const short = amountMsat !== undefined && payments.receivableMsat() < amountMsat;
      return {
        bolt11: made.bolt11,
        paymentHash: made.paymentHash,
        paymentSecret: made.paymentSecret,
        expiresAt: made.expiresAt,
        createdIndex: made.createdIndex,
        ...(short ? { warningCapacity: "Insufficient incoming channel capacity to pay invoice" } : {}),
      };
    },

    async listInvoices(request) {
      const { label, invstring, paymentHash, offerId } = request;
      if ([label, invstring, paymentHash, offerId].filter((given) => given !== undefined).length > 1) {
        throw invalidParams("label", "only one of label, invstring, payment_hash and offer_id can be given");
      }
      if (offerId !== undefined) return { invoices: [] };
      const hash = invstring === undefined
        ? paymentHash === undefined ? undefined : readHash("payment_hash", paymentHash)
        : readInvoice("invstring", invstring).paymentHash;
      const rows = await invoices.list({ ...pageOf(request), ...given({ label, paymentHash: hash }) });
      return { invoices: rows.map(toInvoice) };
    },

    async delInvoice({ label, status, desconly }) {
      const wanted = statusWanted(status);
      const row = desconly === true
        ? await invoices.removeDescription(label, wanted)
        : await invoices.remove(label, wanted);
      return { ...invoiceMembers(row), status: DELETED_STATUS[wanted] };
    },

    async waitInvoice({ label }) {
      return { ...invoiceMembers(await invoices.wait(label)), status: WaitStatus.PAID };
    },

    async waitAnyInvoice({ lastpayIndex, timeout }) {
      const row = await invoices.waitAny(lastpayIndex ?? 0n, timeout);
      return { ...invoiceMembers(row), status: WaitanyStatus.PAID };
    },

    decode: ({ string }) => toDecoded(readInvoice("string", string)),

    async pay(request) {
      const paid = await payments.pay(payRequest(request));
      return {
        paymentPreimage: paid.preimage,
        paymentHash: paid.paymentHash,
        createdAt: fractional(paid.createdAt),
        parts: paid.parts,
        amountMsat: msat(paid.amountMsat),
        amountSentMsat: msat(paid.sentMsat),
        status: PayStatus.COMPLETE,
        ...given({ destination: paid.destination }),
      };
    },

    async xpay(request) {
      try {
        const paid = await payments.pay({
          bolt11: bolt11Of("invstring", request.invstring),
          ...given({
            amountMsat: readMsat("amount_msat", request.amountMsat),
            retrySeconds: request.retryFor,
            partialMsat: readMsat("partial_msat", request.partialMsat),
            maxDelay: request.maxdelay,
            label: request.label,
          }),
        });
        return {
          paymentPreimage: paid.preimage,
          failedParts: BigInt(paid.failedParts),
          successfulParts: BigInt(paid.parts),
          amountMsat: msat(paid.amountMsat),
          amountSentMsat: msat(paid.sentMsat),
        };
      } catch (error) {
        if (!(error instanceof ArcusError) || error.clnCode !== PayCode.stoppedRetrying) throw error;
        // xpay has no code for time that is over.
        throw payRefusal(PayCode.unspecified, error.reason, error.message, error.details);
      }
    },

    async sendPay(request) {
      const { part, payment } = await payments.sendpay({
        route: routeOf(request.route),
        paymentHash: readHash("payment_hash", request.paymentHash),
        ...given({
          amountMsat: readMsat("amount_msat", request.amountMsat),
          paymentSecret: request.paymentSecret === undefined
            ? undefined
            : readHash("payment_secret", request.paymentSecret),
          metadata: request.paymentMetadata,
          partid: request.partid,
          groupid: request.groupid,
          bolt11: request.bolt11,
          label: request.label,
          description: request.description,
        }),
      });
      const complete = payment.ending?.type === "complete" ? payment.ending : undefined;
      const id = part?.part ?? payment.payment;
      return {
        id,
        groupid: payment.groupid,
        paymentHash: payment.paymentHash,
        status: complete === undefined ? SendpayStatus.PENDING : SendpayStatus.COMPLETE,
        createdAt: seconds(part?.createdAt ?? payment.createdAt),
        amountMsat: msat(part?.amountMsat ?? payment.amountMsat),
        amountSentMsat: msat(part?.sentMsat ?? complete?.sentMsat ?? payment.amountMsat),
        createdIndex: id,
        ...given({
          destination: payment.destination,
          label: payment.label,
          bolt11: payment.bolt11,
          partid: part === undefined || part.partid === 0n ? undefined : part.partid,
          paymentPreimage: complete?.preimage,
          completedAt: complete === undefined ? undefined : seconds(complete.completedAt),
          message: complete === undefined ? "Monitor status with listpays or waitsendpay" : undefined,
        }),
      };
    },

    async waitSendPay({ paymentHash, partid, groupid, timeout }) {
      const row = await payments.waitSendpay(
        readHash("payment_hash", paymentHash),
        partid ?? 0n,
        groupid,
        timeout,
      );
      if (row.resolved?.preimage === undefined) throw failPart(row);
      return {
        ...partMembers(row),
        status: WaitsendpayStatus.COMPLETE,
        completedAt: fractional(row.resolved.at),
      };
    },

    async listPays(request) {
      const status = request.status === undefined ? undefined : PAYS_WANTED[request.status];
      const query: PaymentQuery = {
        ...pageOf(request),
        ...given({ paymentHash: hashOf(request), status }),
      };
      const rows = await payments.listPayments(query);
      const counts = await payments.partCounts(
        rows.filter(({ ending }) => ending === undefined).map(({ payment }) => payment),
      );
      return { pays: rows.map((row) => toPay(row, counts)) };
    },

    async listSendPays(request) {
      const status = request.status === undefined ? undefined : PARTS_WANTED[request.status];
      const rows = await payments.listParts({
        ...pageOf(request),
        ...given({ paymentHash: hashOf(request), status }),
      });
      return { payments: rows.map(toPart) };
    },

    async keySend(request) {
      const paid = await payments.keysend({
        destination: readNodeId("destination", request.destination),
        amountMsat: requireMsat("amount_msat", request.amountMsat),
        ...given({
          label: request.label,
          retrySeconds: request.retryFor,
          extraTlvs: request.extratlvs?.entries.map(({ type, value }) => ({ type, value })),
        }),
      });
      return {
        paymentPreimage: paid.preimage,
        paymentHash: paid.paymentHash,
        createdAt: fractional(paid.createdAt),
        parts: paid.parts,
        amountMsat: msat(paid.amountMsat),
        amountSentMsat: msat(paid.sentMsat),
        status: KeysendStatus.COMPLETE,
        ...given({ destination: paid.destination }),
      };
    },

    async setChannel(request) {
      const channels = await channelsNamed(request.id);
      const terms: ChannelTerms = given({
        feeBaseMsat: request.feebase?.msat,
        feePpm: request.feeppm === undefined ? undefined : BigInt(request.feeppm),
        htlcMinMsat: request.htlcmin?.msat,
        htlcMaxMsat: request.htlcmax?.msat,
        ignoreFeeLimits: request.ignorefeelimits,
      });
      if ((terms.feeBaseMsat ?? 0n) > MAX_MSAT || (terms.htlcMinMsat ?? 0n) > MAX_MSAT) {
        throw invalidParams("feebase", "more than there is");
      }
      const answers = [];
      for (const channel of channels) {
        if (channel.channel === undefined) continue;
        answers.push(toTerms(channel, await payments.setTerms(channel.channel, terms)));
      }
      return { channels: answers };
    },

    preApproveInvoice: ({ bolt11 }) => {
      readInvoice("bolt11", bolt11);
      return {};
    },

    async listHtlcs(request) {
      const { start, limit } = pageOf(request);
      const named = request.id === undefined
        ? await peers.listPeerChannels()
        : await channelsNamed(request.id);
      const known = new Map(named.map((channel) => [channel.channel, channel]));
      const rows = await payments.listHtlcs(given({
        channels: request.id === undefined ? undefined : named.flatMap(({ channel }) => channel ?? []),
        start,
        limit,
      }));
      return {
        htlcs: rows.map((row): MessageInitShape<typeof ListhtlcsHtlcsSchema> => ({
          shortChannelId: nameOfChannel(known.get(row.channel)),
          id: row.id,
          expiry: row.cltvExpiry,
          amountMsat: msat(row.amountMsat),
          direction: row.offered ? HtlcDirection.OUT : HtlcDirection.IN,
          paymentHash: row.paymentHash,
          state: htlcState(row),
          createdIndex: row.htlc,
        })),
      };
    },
  };
}
