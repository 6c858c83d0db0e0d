/** The Connectd service: what connectd holds, for people and tests, and fault injection. */
import { optionalEnum, requireBytes, requireEnum } from "common/grpc/check.ts";
import { invalidArgument } from "common/grpc/errors.ts";
import { implement, type ImplementedService } from "common/grpc/server.ts";
import {
  Connectd,
  FaultAction,
  FaultActionSchema,
  type FaultRule as FaultRuleMessage,
} from "gen/arcus/connectd/v1/connectd_pb.ts";
import { Direction, DirectionSchema } from "gen/arcus/types/v1/types_pb.ts";
import type { ControlLink } from "./control.ts";
import { faultMessageName } from "./fault_text.ts";
import type { FaultKind, FaultRule, Faults } from "./faults.ts";
import { type Hub, requireFaults } from "./hub.ts";

const NODE_ID_LENGTH = 33;
const CHANNEL_ID_LENGTH = 32;

/** What the face shows. */
export interface FaceOptions {
  readonly hub: Hub;
  readonly control: ControlLink;
  readonly faults: Faults | undefined;
  readonly bindings: () => string[];
  readonly instance: string;
}

/** The service. */
export function connectdService(options: FaceOptions): ImplementedService {
  const { hub, control, faults, instance } = options;
  return implement(Connectd, {
    getInfo: () => ({
      instance,
      nodeId: control.identity?.nodeId ?? new Uint8Array(),
      bindings: options.bindings(),
      lightningdConnected: control.up,
      leaderEpoch: control.leaderEpoch,
      peers: hub.peerCount,
      attachments: hub.attachmentCount,
      developer: faults !== undefined,
    }),
    listPeers: ({ peerId }) => ({
      peers: peerId.length === 0
        ? hub.listPeers()
        : hub.listPeers(requireBytes(peerId, NODE_ID_LENGTH, "peer_id")),
    }),
    setFaults: ({ rules }) => {
      const result = requireFaults(faults).set(rules.map(ruleOf));
      if (!result.ok) throw invalidArgument("BAD_FAULT", result.error);
      return {};
    },
    listFaults: () => {
      const { pending, fired } = requireFaults(faults);
      return { pending: pending.map(messageOf), fired: fired.map(messageOf) };
    },
  });
}

const ACTIONS = {
  close_before: FaultAction.CLOSE_BEFORE,
  close_after: FaultAction.CLOSE_AFTER,
  nothing: FaultAction.NOTHING,
  drop: FaultAction.DROP,
  freeze_after: FaultAction.FREEZE_AFTER,
  blackhole: FaultAction.BLACKHOLE,
  close_on_receive: FaultAction.CLOSE_ON_RECEIVE,
  delay: FaultAction.DELAY,
} as const satisfies Record<FaultKind, FaultAction>;

function kindOf(action: Exclude<FaultAction, FaultAction.UNSPECIFIED>): FaultKind {
  switch (action) {
    case FaultAction.CLOSE_BEFORE:
      return "close_before";
    case FaultAction.CLOSE_AFTER:
      return "close_after";
    case FaultAction.NOTHING:
      return "nothing";
    case FaultAction.DROP:
      return "drop";
    case FaultAction.FREEZE_AFTER:
      return "freeze_after";
    case FaultAction.BLACKHOLE:
      return "blackhole";
    case FaultAction.CLOSE_ON_RECEIVE:
      return "close_on_receive";
    case FaultAction.DELAY:
      return "delay";
  }
}

function ruleOf(rule: FaultRuleMessage): FaultRule {
  const action = requireEnum(FaultActionSchema, rule.action, "action");
  if (action === FaultAction.UNSPECIFIED) throw invalidArgument("BAD_FAULT", "action: missing");
  const message = faultMessageName(rule.message);
  if (message === undefined) throw invalidArgument("BAD_FAULT", "message: no such message of BOLT's");
  const direction = optionalEnum(DirectionSchema, rule.direction, "direction");
  const kind = kindOf(action);
  const incoming = direction === Direction.INCOMING || kind === "close_on_receive";
  return {
    kind,
    message,
    nth: Math.max(rule.nth, 1),
    direction: incoming ? "in" : "out",
    channelId: rule.channelId.length === 0
      ? undefined
      : requireBytes(rule.channelId, CHANNEL_ID_LENGTH, "channel_id"),
    delayMs: rule.delayMs,
  };
}

function messageOf(rule: FaultRule) {
  return {
    action: ACTIONS[rule.kind],
    message: rule.message,
    nth: rule.nth,
    direction: rule.direction === "in" ? Direction.INCOMING : Direction.OUTGOING,
    channelId: rule.channelId ?? new Uint8Array(),
    delayMs: rule.delayMs,
  };
}
