/** How a program tells a person what happens: chapters, facts and long steps; plain where there is no terminal. */
import { createProgress, type Progress, withStep } from "tools/progress.ts";

/** Writes a story to standard output. */
export interface Story {
  readonly progress: Progress;
  /** A heading. */
  chapter(title: string): void;
  /** A line of text. */
  say(line: string): void;
  /** A name and what it is. */
  fact(name: string, value: string): void;
  /** A step that takes a while; its result is a line when it is done. */
  step<T>(title: string, work: () => Promise<T>): Promise<T>;
  readonly bold: (text: string) => string;
  readonly dim: (text: string) => string;
  readonly good: (text: string) => string;
  readonly bad: (text: string) => string;
}

const FACT_WIDTH = 16;

/** A story for the terminal, if standard output is one; else without a single escape sequence. */
export function createStory(): Story {
  const tty = Deno.stdout.isTerminal() && Deno.env.get("NO_COLOR") === undefined;
  const paint = (code: number) => (text: string) => tty ? `\x1b[${code}m${text}\x1b[0m` : text;
  const [bold, dim, cyan, good, bad] = [paint(1), paint(2), paint(36), paint(32), paint(31)];
  const encoder = new TextEncoder();
  const writeAll = (text: string) => {
    let bytes = encoder.encode(text);
    while (bytes.length > 0) bytes = bytes.subarray(Deno.stdout.writeSync(bytes));
  };
  // One stream for story and progress: they keep their order in a file too.
  const progress = createProgress({
    write: (text) => writeAll(text),
    tty: Deno.stdout.isTerminal(),
  });
  const say = (text: string) => progress.info(text);
  let chapters = 0;
  return {
    progress,
    chapter: (title) => say(`\n${cyan(`${++chapters}.`)} ${bold(title)}`),
    say: (text) => say(`   ${text}`),
    fact: (name, value) => say(`   ${dim(name.padEnd(FACT_WIDTH))} ${value}`),
    step: (title, work) => withStep(progress, title, work),
    bold,
    dim,
    good,
    bad,
  };
}

/** 1234567 as "1,234,567 sat". */
export function sats(amount: bigint): string {
  return `${amount.toLocaleString("en-US")} sat`;
}
