/** What both next commitments would hold if they were signed now: one pass over the HTLCs, then kept up to date. */
import { isTrimmed } from "bolt/tx/commitment.ts";
import type { CommitmentFormat } from "bolt/tx/scripts.ts";
import { anchorsCost, commitmentFee } from "bolt/tx/weights.ts";
import { type FeeratePerKw, type Msat, type Sat, sat } from "bolt/units.ts";
import type { PerSide, Side } from "bolt/interactive/types.ts";
import { ON_LOCAL, ON_REMOTE } from "./htlc_state.ts";
import type { ActiveCommitment, FeeUpdate, Htlc, LockedChannel } from "./types.ts";

/** Millisatoshis of a satoshi. */
export const MSAT = 1000n;

/** The next commitment of one side. Amounts in msat, before fee and anchors; `toLocal` is ours on either. */
export interface NextFigures {
  toLocal: bigint;
  toRemote: bigint;
  feerate: FeeratePerKw;
  /** HTLCs with an output. */
  untrimmed: number;
  /** HTLCs by who offered them: how many, and their sum. */
  readonly count: { local: number; remote: number };
  readonly sum: { local: bigint; remote: bigint };
}

/** Every live HTLC at once, whichever commitments it is on: what no order of messages exceeds. By the commitment's owner. */
export interface WorstFigures {
  readonly untrimmed: { local: number; remote: number };
  /** Sum of the trimmed ones, msat. */
  readonly dust: { local: bigint; remote: bigint };
  /** The highest rate on any commitment or on its way. */
  feerate: FeeratePerKw;
}

/** What of a channel its figures follow from. */
export type FiguresOf = Pick<LockedChannel, "format" | "limits">;

/** Both next commitments on one funding output. */
export class Figures {
  readonly local: NextFigures;
  readonly remote: NextFigures;
  readonly worst: WorstFigures;
  readonly #channel: FiguresOf;

  constructor(
    channel: FiguresOf,
    active: ActiveCommitment,
    fees: readonly FeeUpdate[],
    htlcs: Iterable<Htlc>,
  ) {
    this.#channel = channel;
    const local = active.pendingLocal ?? active.local;
    const remote = active.nextRemote ?? active.remote;
    this.local = nextOf(local);
    this.remote = nextOf(remote);
    this.worst = {
      untrimmed: { local: 0, remote: 0 },
      dust: { local: 0n, remote: 0n },
      feerate: local.feerate > remote.feerate ? local.feerate : remote.feerate,
    };
    for (const { feerate, state } of fees) {
      if (ON_LOCAL[state] === "entering") this.local.feerate = feerate;
      if (ON_REMOTE[state] === "entering") this.remote.feerate = feerate;
      if (feerate > this.worst.feerate) this.worst.feerate = feerate;
    }
    for (const htlc of htlcs) this.#count(htlc);
  }

  #count(htlc: Htlc): void {
    let live = false;
    switch (ON_LOCAL[htlc.state]) {
      case "entering":
        enter(this.local, htlc);
        live = true;
        this.#add("local", htlc);
        break;
      case "in":
        live = true;
        this.#add("local", htlc);
        break;
      case "leaving":
        credit(this.local, htlc);
        break;
      case "out":
        break;
    }
    switch (ON_REMOTE[htlc.state]) {
      case "entering":
        enter(this.remote, htlc);
        live = true;
        this.#add("remote", htlc);
        break;
      case "in":
        live = true;
        this.#add("remote", htlc);
        break;
      case "leaving":
        credit(this.remote, htlc);
        break;
      case "out":
        break;
    }
    if (live) this.#addWorst(htlc);
  }

  #add(owner: Side, htlc: Htlc): void {
    const figures = this[owner];
    const by = htlc.offered ? "local" : "remote";
    figures.count[by]++;
    figures.sum[by] += htlc.amount;
    if (!this.trims(owner, htlc, figures.feerate)) figures.untrimmed++;
  }

  #addWorst(htlc: Pick<Htlc, "offered" | "amount">): void {
    for (const owner of ["local", "remote"] as const) {
      if (this.trims(owner, htlc)) this.worst.dust[owner] += htlc.amount;
      else this.worst.untrimmed[owner]++;
    }
  }

  /** Whether an HTLC has no output on a commitment of `owner`. */
  trims(
    owner: Side,
    htlc: Pick<Htlc, "offered" | "amount">,
    feerate: FeeratePerKw = this.worst.feerate,
  ): boolean {
    const { format, limits } = this.#channel;
    const direction = htlc.offered === (owner === "local") ? "offered" : "received";
    return isTrimmed(
      { format, feerate, dustLimit: limits[owner].dustLimit },
      { direction, amount: htlc.amount },
    );
  }

  /** A new HTLC: the peer's is on our next commitment, ours on the peer's. */
  adds(htlc: Pick<Htlc, "offered" | "amount">): void {
    const owner = htlc.offered ? "remote" : "local";
    const figures = this[owner];
    const by = htlc.offered ? "local" : "remote";
    enter(figures, htlc);
    figures.count[by]++;
    figures.sum[by] += htlc.amount;
    if (!this.trims(owner, htlc, figures.feerate)) figures.untrimmed++;
    this.#addWorst(htlc);
  }

  /** A removal: an HTLC of ours leaves our next commitment, one of the peer the peer's. `htlc` has its removal. */
  removes(htlc: Htlc): void {
    const owner = htlc.offered ? "local" : "remote";
    const figures = this[owner];
    const by = htlc.offered ? "local" : "remote";
    credit(figures, htlc);
    figures.count[by]--;
    figures.sum[by] -= htlc.amount;
    if (!this.trims(owner, htlc, figures.feerate)) figures.untrimmed--;
  }
}

function nextOf(
  from: { readonly toLocal: Msat; readonly toRemote: Msat; readonly feerate: FeeratePerKw },
): NextFigures {
  return {
    toLocal: from.toLocal,
    toRemote: from.toRemote,
    feerate: from.feerate,
    untrimmed: 0,
    count: { local: 0, remote: 0 },
    sum: { local: 0n, remote: 0n },
  };
}

function enter(figures: NextFigures, htlc: Pick<Htlc, "offered" | "amount">): void {
  if (htlc.offered) figures.toLocal -= htlc.amount;
  else figures.toRemote -= htlc.amount;
}

function credit(figures: NextFigures, htlc: Htlc): void {
  const toPayee = htlc.removal?.type === "fulfill";
  if (htlc.offered === toPayee) figures.toRemote += htlc.amount;
  else figures.toLocal += htlc.amount;
}

/** What the opener pays for a commitment: its fee and both anchors (BOLT 3). */
export function commitmentCost(format: CommitmentFormat, feerate: FeeratePerKw, untrimmed: number): Sat {
  return sat(commitmentFee(format, feerate, untrimmed) + anchorsCost(format));
}

/** The balance of one side in msat. */
export function balanceOf(figures: Pick<NextFigures, "toLocal" | "toRemote">, side: Side): bigint {
  return side === "local" ? figures.toLocal : figures.toRemote;
}

/** The other side. */
export function otherSide(side: Side): Side {
  return side === "local" ? "remote" : "local";
}

/** One value for each side, made by a function. */
export function perSide<T>(make: (side: Side) => T): PerSide<T> {
  return { local: make("local"), remote: make("remote") };
}
