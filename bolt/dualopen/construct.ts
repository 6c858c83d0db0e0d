/** Building the funding transaction with the peer, up to the attempt's row (BOLT 2, interactive transaction construction). */
import { createSession, stepSession } from "bolt/interactive/session.ts";
import type {
  CompletedTx,
  ConfirmedResult,
  InteractiveMessage,
  Move,
  PreviousAttempt,
  SessionAction,
  SessionInputEvent,
} from "bolt/interactive/types.ts";
import { channelReserve } from "bolt/tx/initial.ts";
import { sameBytes, sameOutPoint } from "bolt/tx/transaction.ts";
import { addSat, type FeeratePerKw, type Sat } from "bolt/units.ts";
import { abort } from "./abort.ts";
import type { Action } from "./actions.ts";
import { andThen, fundingScriptOf, protest, send, stateAfter, type Step, to } from "./step.ts";
import type {
  Attempt,
  ChannelParams,
  Drive,
  DualOpenState,
  Negotiation,
  Plan,
  SavedChannel,
  WalletPart,
} from "./types.ts";

type Constructing = Extract<Negotiation, { type: "constructing" }>;

/** What a construction starts from. */
export interface Construction {
  readonly role: "initiator" | "accepter";
  readonly params: ChannelParams;
  readonly plan: Plan;
  readonly contributions: { readonly local: Sat; readonly remote: Sat };
  readonly feerate: FeeratePerKw;
  readonly locktime: number;
  readonly requireConfirmedInputs: { readonly byUs: boolean; readonly byThem: boolean };
  readonly drive: Drive;
  readonly entropy: Uint8Array;
}

/** Attempts that a new one must double-spend: every one that could still be mined. Aborted ones may lack a signature of ours, not of the peer's. */
function previousAttempts(channel: SavedChannel | null): PreviousAttempt[] {
  const live = channel?.attempts.filter((attempt) => !attempt.aborted) ?? [];
  return live.map(({ tx }) => ({
    txid: tx.txid,
    fee: addSat(tx.fees.local, tx.fees.remote),
    feerate: tx.feerate,
    inputs: {
      local: tx.inputs.filter((input) => input.side === "local").map((input) => input.outpoint),
      remote: tx.inputs.filter((input) => input.side === "remote").map((input) => input.outpoint),
    },
  }));
}

/** Starts the session; an initiator speaks at once. A plan that cannot be negotiated aborts, with our reason only in the log. */
export function beginConstruction(state: DualOpenState, c: Construction): Step {
  const session = createSession({
    role: c.role,
    channelId: state.channelId,
    nodeIds: state.setup.nodeIds,
    locktime: c.locktime,
    feerate: c.feerate,
    dustLimits: { local: c.params.local.dustLimit, remote: c.params.remote.dustLimit },
    contributions: c.contributions,
    fundingScript: fundingScriptOf(c.params),
    requireConfirmedInputs: c.requireConfirmedInputs,
    previousAttempts: previousAttempts(state.channel),
    inputs: c.plan.inputs,
    outputs: c.plan.outputs,
    serialIds: { type: "seed", seed: c.entropy },
  });
  if (!session.ok) {
    const text = `our funding plan does not work: ${session.error.type}`;
    return andThen(
      to(state, { type: "log", level: "warn", text }),
      (s) => abort(s, "cannot fund this transaction"),
    );
  }
  const negotiation: Constructing = {
    type: "constructing",
    params: c.params,
    plan: c.plan,
    drive: c.drive,
    session: session.value,
    held: null,
  };
  const begun: DualOpenState = { ...state, negotiation };
  return c.role === "initiator" ? drive(begun, negotiation, { type: "start" }) : to(begun);
}

/** Lets something happen to the session, and carries out what it says. */
function drive(state: DualOpenState, negotiation: Constructing, event: SessionInputEvent): Step {
  const { state: session, actions } = stepSession(negotiation.session, event);
  const stepped: DualOpenState = { ...state, negotiation: { ...negotiation, session } };
  return actions.reduce<Step>((step, action) => andThen(step, (s) => carryOut(s, action)), to(stepped));
}

function carryOut(state: DualOpenState, action: SessionAction): Step {
  switch (action.type) {
    case "send":
      return to(state, send(action.message), { type: "progress" });
    case "check_confirmed":
      return to(state, action);
    case "fail":
      return abort(state, action.abort);
    case "move_refused":
      return to(state, {
        type: "log",
        level: "warn",
        text: `change of our part refused: ${action.failure.type}`,
      });
    case "complete":
      return state.negotiation?.type === "constructing"
        ? save(state, state.negotiation, action.tx)
        : to(state);
  }
}

/** A message of the interactive construction. */
export function onInteractiveMessage(state: DualOpenState, message: InteractiveMessage): Step {
  const { negotiation } = state;
  if (negotiation?.type !== "constructing") {
    // Without a session there is nothing to abort, and an answer keeps the peer from waiting (item 36).
    return protest(state, `${message.type} without a transaction under construction`);
  }
  if (negotiation.held !== null) return abort(state, "not your turn");
  const ours = negotiation.session.queue.length === 0;
  if (negotiation.drive === "manual" && ours) {
    // Our next word would be tx_complete: the user decides (openchannel_update).
    const held: Constructing = { ...negotiation, held: message };
    return to({ ...state, negotiation: held }, { type: "outcome", outcome: { type: "constructing" } });
  }
  return drive(state, negotiation, { type: "message", message });
}

/** What the chain says of the peer's inputs. */
export function onConfirmedResult(state: DualOpenState, results: readonly ConfirmedResult[]): Step {
  const { negotiation } = state;
  if (negotiation?.type !== "constructing") return to(state);
  return drive(state, negotiation, { type: "confirmed", results });
}

/**
 * openchannel_update: the complete new plan. What it adds and drops goes out in turn; when it changes nothing, what we
 * held goes on and tx_complete follows.
 */
export function onUpdate(state: DualOpenState, plan: Plan): Step {
  const { negotiation } = state;
  if (negotiation?.type !== "constructing" || negotiation.drive !== "manual") {
    return to(state, {
      type: "outcome",
      outcome: { type: "failed", detail: "nothing is being constructed", byPeer: false },
    });
  }
  const { held } = negotiation;
  const updated: Constructing = { ...negotiation, plan, held: null };
  const moved = changes(negotiation, plan).reduce<Step>(
    (step, move) =>
      andThen(
        step,
        (s) =>
          s.negotiation?.type === "constructing" ? drive(s, s.negotiation, { type: "move", move }) : to(s),
      ),
    to({ ...state, negotiation: updated }),
  );
  return andThen(
    moved,
    (s) =>
      held === null || s.negotiation?.type !== "constructing"
        ? to(s)
        : drive(s, s.negotiation, { type: "message", message: held as InteractiveMessage }),
  );
}

/** Moves that lead from what the session has of ours to a plan. */
function changes(negotiation: Constructing, plan: Plan): Move[] {
  const { session } = negotiation;
  const inputs = session.inputs.filter((input) => input.side === "local");
  const funding = fundingScriptOf(negotiation.params);
  const outputs = session.outputs.filter((o) => o.side === "local" && !sameBytes(o.script, funding));
  const used = [...session.inputs, ...session.outputs].map((item) => item.serialId);
  const parity = session.params.role === "initiator" ? 0n : 1n;
  let next = used.reduce((max, id) => id > max ? id : max, 0n) + 2n;
  next += (next & 1n) === parity ? 0n : 1n;
  const fresh = () => (next += 2n) - 2n;
  const moves: Move[] = [];
  for (const input of inputs) {
    if (!plan.inputs.some((p) => sameOutPoint(p.outpoint, input.outpoint))) {
      moves.push({ type: "remove_input", serialId: input.serialId });
    }
  }
  for (const output of outputs) {
    if (!plan.outputs.some((p) => p.amount === output.amount && sameBytes(p.script, output.script))) {
      moves.push({ type: "remove_output", serialId: output.serialId });
    }
  }
  for (const input of plan.inputs) {
    if (!inputs.some((i) => sameOutPoint(i.outpoint, input.outpoint))) {
      moves.push({ type: "add_input", serialId: fresh(), input });
    }
  }
  for (const output of plan.outputs) {
    if (!outputs.some((o) => o.amount === output.amount && sameBytes(o.script, output.script))) {
      moves.push({ type: "add_output", serialId: fresh(), output });
    }
  }
  return moves;
}

/** Which inputs and outputs of the transaction are our wallet's. */
function walletPart(plan: Plan, tx: CompletedTx): WalletPart {
  const inputs: WalletPart["inputs"][number][] = [];
  const change: WalletPart["change"][number][] = [];
  const destinations: number[] = [];
  const userInputs: number[] = [];
  for (const [index, input] of tx.inputs.entries()) {
    if (input.side !== "local") continue;
    const key = plan.inputs.find((p) => sameOutPoint(p.outpoint, input.outpoint))?.key;
    if (key === undefined) userInputs.push(index);
    else inputs.push({ index, key });
  }
  for (const [index, output] of tx.outputs.entries()) {
    if (output.side !== "local") continue;
    const key = plan.outputs.find((p) => p.amount === output.amount && sameBytes(p.script, output.script))
      ?.key;
    if (key === undefined) destinations.push(index);
    else change.push({ index, key });
  }
  return { inputs, change, destinations, userInputs };
}

/**
 * Both said tx_complete: the attempt's row, then hsmd is asked for the signature on the peer's commitment 0
 * (items 46 and 48). From this row on the channel is saved.
 */
function save(state: DualOpenState, negotiation: Constructing, tx: CompletedTx): Step {
  const { params, plan } = negotiation;
  const capacity = addSat(tx.contributions.local, tx.contributions.remote);
  const attempt: Attempt = {
    seq: (state.channel?.attempts.at(-1)?.seq ?? -1) + 1,
    initiator: tx.initiator,
    tx,
    reserves: {
      local: channelReserve(capacity, params.remote.dustLimit),
      remote: channelReserve(capacity, params.local.dustLimit),
    },
    wallet: walletPart(plan, tx),
    maxFee: plan.maxFee,
    awaitUserSignature: negotiation.drive === "manual",
    createdHeight: state.chain.height,
    remoteCommitmentSignature: null,
    localTxSignatures: null,
    remoteTxSignatures: null,
    completeTx: null,
    aborted: false,
  };
  const ask: Action = { type: "sign_remote_commitment", attempt };
  if (state.channel === null) {
    const channel: SavedChannel = {
      channelId: state.channelId,
      opener: state.opener,
      state: "DUALOPEND_OPEN_COMMIT_READY",
      params,
      attempts: [attempt],
      lockedAttempt: null,
      remoteReady: null,
      shutdownSent: null,
      shutdownReceived: null,
      errorText: null,
    };
    return to({ ...state, channel, negotiation: null }, {
      type: "store",
      step: { type: "save_open", channel },
    }, ask);
  }
  const attempts = [...state.channel.attempts, attempt];
  const next = stateAfter(state.channel, attempts);
  return to(
    { ...state, channel: { ...state.channel, attempts, state: next }, negotiation: null },
    { type: "store", step: { type: "save_attempt", attempt, state: next } },
    ask,
  );
}
