/** Deno programs as processes of a test. */
import { fileURLToPath } from "node:url";
import { waitFor } from "common/testing/wait.ts";

const CONFIG = fileURLToPath(new URL("../../deno.json", import.meta.url));

/** How a program ended. */
export interface ProgramEnd {
  readonly code: number;
  readonly signal: string | null;
  readonly output: string;
}

/** A running program. */
export interface Program {
  readonly pid: number;
  /** Waits for a line of its output that matches, and answers the match. */
  said(expression: RegExp): Promise<RegExpExecArray>;
  kill(signal: Deno.Signal): void;
  /** Sends text to its standard input. */
  tell(text: string): Promise<void>;
  /** Waits until it has ended. */
  ended(): Promise<ProgramEnd>;
}

/** How a program is started. */
export interface ProgramOptions {
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly v8Flags?: string;
}

/** Starts a program, by its module's URL or path. Whoever starts it must wait for `ended`. */
export function startProgram(module: string, options: ProgramOptions = {}): Program {
  const flags = options.v8Flags === undefined ? [] : [`--v8-flags=${options.v8Flags}`];
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "--config", CONFIG, ...flags, module, ...options.args ?? []],
    env: { ...options.env },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const input = child.stdin.getWriter();
  let output = "";
  const read = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> => {
    for await (const chunk of stream.pipeThrough(new TextDecoderStream())) output += chunk;
  };
  const reading = Promise.all([read(child.stdout), read(child.stderr)]);
  return {
    pid: child.pid,
    async said(expression) {
      const match = () => expression.exec(output);
      try {
        return await waitFor(match, { what: `${expression} from ${module}` });
      } catch (error) {
        throw new Error(`${error}\nits output:\n${output}`);
      }
    },
    kill: (signal) => child.kill(signal),
    tell: (text) => input.write(new TextEncoder().encode(text)),
    async ended() {
      const { code, signal } = await waitFor(child.status, { what: `the end of ${module}` });
      await input.close().catch(() => {});
      await reading;
      return { code, signal, output };
    },
  };
}
