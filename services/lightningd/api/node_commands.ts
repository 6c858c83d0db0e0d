/** getinfo, listconfigs, feerates, help, stop. */
import { bytesToHex } from "@noble/hashes/utils.js";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { nodeFeatures } from "bolt/wire/features.ts";
import { ArcusError } from "common/grpc/errors.ts";
import { buildInfo } from "common/lifecycle.ts";
import { type Command, usageOf } from "common/rpc/command.ts";
import {
  FeeratesRequest_FeeratesStyle as Style,
  type FeeratesResponseSchema,
  GetinfoAddress_GetinfoAddressType as AddressType,
  type GetinfoAddressSchema,
  GetinfoBinding_GetinfoBindingType as BindingType,
  type GetinfoBindingSchema,
  HelpResponse_HelpFormathint,
  StopResponse_StopResult,
} from "gen/cln/node_pb.ts";
import type { Feerates } from "../ports.ts";
import { splitAddress } from "./address.ts";
import { listconfigs } from "./configs.ts";
import type { Handlers } from "./handlers.ts";
import type { ApiParts } from "./parts.ts";
import { unknownCommand } from "./refusals.ts";

/** Where a channel counts in getinfo. */
const PENDING: readonly string[] = [
  "DUALOPEND_OPEN_INIT",
  "DUALOPEND_OPEN_COMMIT_READY",
  "DUALOPEND_OPEN_COMMITTED",
  "DUALOPEND_AWAITING_LOCKIN",
  "CHANNELD_AWAITING_LOCKIN",
];
const ACTIVE = "CHANNELD_NORMAL";
const CLOSED = "CLOSED";
/** Characters of the node id that name a node without an alias. */
const ALIAS_LENGTH = 20;
/** Bytes of the node id that colour a node without a colour. */
const COLOR_BYTES = 3;
/** sat/kvB of one sat/kw. */
const PERKB = 4;

const TYPE_OF = {
  ipv4: { address: AddressType.IPV4, binding: BindingType.IPV4 },
  ipv6: { address: AddressType.IPV6, binding: BindingType.IPV6 },
  torv3: { address: AddressType.TORV3, binding: BindingType.TORV3 },
  dns: { address: AddressType.DNS, binding: BindingType.IPV4 },
} as const;

function toAddress(text: string): MessageInitShape<typeof GetinfoAddressSchema> {
  const { type, host, port } = splitAddress(text);
  return { itemType: TYPE_OF[type].address, address: host, port };
}

function toBinding(text: string): MessageInitShape<typeof GetinfoBindingSchema> {
  const { type, host, port } = splitAddress(text);
  return { itemType: TYPE_OF[type].binding, address: host, port };
}

function atStyle(rates: Feerates, style: Style) {
  const scale = (rate: number) => style === Style.PERKB ? rate * PERKB : rate;
  return {
    minAcceptable: scale(rates.minAcceptable),
    maxAcceptable: scale(rates.maxAcceptable),
    floor: scale(rates.floor),
    opening: scale(rates.opening),
    // Of a commitment with anchors, which need not confirm by its own fee.
    unilateralAnchorClose: scale(rates.commitment),
    estimates: rates.estimates.map(({ blockcount, feerate }) => ({
      blockcount,
      feerate: scale(feerate),
      smoothedFeerate: scale(feerate),
    })),
  };
}

/** The commands of the node itself. */
export function nodeCommands(
  parts: ApiParts,
  commands: ReadonlyMap<string, Command>,
): Handlers<"getinfo" | "listConfigs" | "feerates" | "help" | "stop"> {
  const { nodeId, config, chain, peers } = parts;
  const visible = (command: Command) => !command.developer || config.get("developer");
  return {
    async getinfo() {
      const [everyone, channels] = await Promise.all([peers.listPeers(), peers.listPeerChannels()]);
      const pending = channels.filter(({ state }) => PENDING.includes(state)).length;
      const active = channels.filter(({ state }) => state === ACTIVE).length;
      const closed = channels.filter(({ state }) => state === CLOSED).length;
      const features = nodeFeatures({ simpleClose: config.get("simple-close") }).toBytes();
      const warning = chain.warning();
      return {
        id: nodeId,
        alias: config.get("alias") ?? bytesToHex(nodeId).slice(0, ALIAS_LENGTH),
        color: Uint8Array.fromHex(config.get("rgb") ?? bytesToHex(nodeId.slice(0, COLOR_BYTES))),
        numPeers: everyone.filter(({ connected }) => connected).length,
        numPendingChannels: pending,
        numActiveChannels: active,
        numInactiveChannels: channels.length - pending - active - closed,
        version: `arcus-${buildInfo().version}`,
        lightningDir: config.get("lightning-dir"),
        ourFeatures: { init: features, node: features },
        blockheight: chain.height(),
        network: parts.network,
        // Nothing is forwarded yet.
        feesCollectedMsat: { msat: 0n },
        address: config.get("announce-addr").map(toAddress),
        binding: peers.bindings().map(toBinding),
        ...(warning === undefined ? {} : { warningBitcoindSync: warning }),
      };
    },

    listConfigs: ({ config: name }) => ({ configs: listconfigs(config.list(), config.values, name) }),

    async feerates({ style }): Promise<MessageInitShape<typeof FeeratesResponseSchema>> {
      let rates: Feerates;
      try {
        rates = await chain.feerates();
      } catch (error) {
        if (!(error instanceof ArcusError) || error.reason !== "FEERATE_UNKNOWN") throw error;
        return { warningMissingFeerates: error.message };
      }
      const values = atStyle(rates, style);
      return style === Style.PERKB ? { perkb: values } : { perkw: values };
    },

    help({ command: name }) {
      const asked = [...commands.values()].filter((command) =>
        visible(command) && (name === undefined || command.name === name)
      );
      if (name !== undefined && asked.length === 0) throw unknownCommand(name);
      return {
        help: asked.map((command) => ({ command: usageOf(command) })),
        formatHint: HelpResponse_HelpFormathint.SIMPLE,
      };
    },

    stop() {
      // After this answer: it is the last one, and should arrive.
      setTimeout(() => parts.stop(), 0);
      return { result: StopResponse_StopResult.SHUTDOWN_COMPLETE };
    },
  };
}
