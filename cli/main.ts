/** arcus-cli: calls a node's commands. `deno task cli --help`. */
import { writeSync } from "node:fs";
import { run } from "./run.ts";

const [STDOUT, STDERR] = [1, 2];
/** Of a terminal that does not say how wide it is. */
const USUAL_COLUMNS = 80;

Deno.exit(
  await run({
    args: Deno.args,
    env: Deno.env.toObject(),
    columns: Deno.stdout.isTerminal() ? Deno.consoleSize().columns || USUAL_COLUMNS : null,
    // Written to the end before the program ends, also into a pipe.
    out: (line) => writeAll(STDOUT, `${line}\n`),
    screen: { isTerminal: Deno.stderr.isTerminal(), write: (text) => writeAll(STDERR, text) },
  }),
);

function writeAll(file: number, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += writeSync(file, bytes, at);
}
