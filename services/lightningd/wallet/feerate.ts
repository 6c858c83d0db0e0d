/** Fee rates as people write them. */
import { invalidArgument } from "common/grpc/errors.ts";
import { sanitize } from "common/log.ts";
import { feerate, type FeeratePerKw } from "bolt/units.ts";
import type { FeerateChoice, Feerates } from "../ports.ts";
import { INVALID_PARAMS } from "./address.ts";

/** Confirmation targets of the names, blocks. */
const TARGET: Readonly<Record<"opening" | "slow" | "normal" | "urgent", number>> = {
  opening: 12,
  slow: 100,
  normal: 12,
  urgent: 6,
};
/** sat/kvB of one sat/kw. */
const VBYTE_WEIGHT = 4;

/** Reads "slow", "normal", "urgent", "opening", "minimum", "12blocks", "253perkw", "1000perkb"; a bare number is per kB. */
export function parseFeerate(text: string): FeerateChoice {
  switch (text) {
    case "opening":
    case "slow":
    case "normal":
    case "urgent":
    case "minimum":
      return { type: "named", name: text };
  }
  const match = /^(\d{1,9})(perkw|perkb|blocks)?$/.exec(text);
  const number = Number(match?.[1]);
  if (match === null || number === 0) throw bad(`'${sanitize(text, 50)}' is not a fee rate`);
  if (match[2] === "perkw") return { type: "perkw", rate: number };
  if (match[2] === "blocks") return { type: "blocks", blocks: number };
  return { type: "perkb", rate: number };
}

/** The rate of a choice. A number below bitcoind's floor is raised to it, as CLN does. */
export function chooseFeerate(choice: FeerateChoice, rates: Feerates): FeeratePerKw {
  switch (choice.type) {
    case "named":
      if (choice.name === "opening") return rates.opening;
      if (choice.name === "minimum") return rates.floor;
      return forTarget(TARGET[choice.name], rates);
    case "blocks":
      return forTarget(choice.blocks, rates);
    case "perkw":
      return number(choice.rate, rates);
    case "perkb":
      return number(Math.ceil(choice.rate / VBYTE_WEIGHT), rates);
  }
}

function forTarget(blocks: number, rates: Feerates): FeeratePerKw {
  const fitting = rates.estimates.filter((estimate) => estimate.blockcount <= blocks);
  return (fitting.at(-1) ?? rates.estimates[0])?.feerate ?? rates.opening;
}

function number(rate: number, rates: Feerates): FeeratePerKw {
  if (!Number.isInteger(rate) || rate <= 0) throw bad("a fee rate is a positive whole number");
  if (rate > rates.maxAcceptable) {
    throw bad(`${rate} sat/kw is more than ${rates.maxAcceptable} sat/kw, the most that max-feerate allows`);
  }
  return feerate(Math.max(rate, rates.floor));
}

function bad(message: string): Error {
  return invalidArgument("BAD_FEERATE", message, { clnCode: INVALID_PARAMS });
}
