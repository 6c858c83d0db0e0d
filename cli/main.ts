/** arcus-cli: calls a node's commands. `deno task cli --help`. */
import { writeSync } from "node:fs";
import { run } from "./run.ts";

const [STDOUT, STDERR] = [1, 2];

Deno.exit(
  await run({
    args: Deno.args,
    env: Deno.env.toObject(),
    isTerminal: Deno.stdout.isTerminal(),
    // Written to the end before the program ends, also into a pipe.
    out: (line) => writeAll(STDOUT, `${line}\n`),
    screen: { isTerminal: Deno.stderr.isTerminal(), write: (text) => writeAll(STDERR, text) },
  }),
);

function writeAll(file: number, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += writeSync(file, bytes, at);
}
