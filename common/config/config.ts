/**
 * Configuration of a daemon: flag over environment over file over default. Whatever is not in the table is an error, and all errors
 * are told at once.
 */
import { readFileSync } from "node:fs";
import { Command, CommanderError, Option as Flag } from "commander";
import { type Daemon, DAEMONS, type Option, type OptionTable, type ValuesOf } from "common/config/option.ts";
import { OPTIONS } from "common/config/options.ts";
import { ExitCode, VERSION } from "common/lifecycle.ts";

const ENV_PREFIX = "ARCUS_";
/** Variables of that prefix that belong to building, tools and tests, not to a daemon. */
const OTHER_VARIABLES = /^ARCUS_(BUILD|TEST|TOOLS|CACHE|BITCOIND|SECP)/;
/** Largest configuration or secret file. */
const MAX_FILE_BYTES = 1024 * 1024;

/** Where a value came from. */
export type Source = "default" | "file" | "environment" | "flag" | "program";

/** Something that the user must change. Its message names every problem. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";

  constructor(readonly problems: readonly string[]) {
    super(problems.join("\n"));
  }
}

/** One line of a listing. */
export interface ConfigEntry {
  readonly name: string;
  /** Undefined: not set. A secret shows as "set". */
  readonly value: string | readonly string[] | undefined;
  readonly source: Source;
  readonly help: string;
}

/** A loaded configuration. */
export interface Config<T = typeof OPTIONS> {
  readonly values: ValuesOf<T>;
  get<K extends keyof T>(name: K): ValuesOf<T>[K];
  /** The value, or a ConfigError that says that it is needed. */
  require<K extends keyof T>(name: K): Exclude<ValuesOf<T>[K], undefined>;
  source(name: keyof T): Source;
  /** Every option that the daemon reads, with where its value came from; secrets not shown. */
  list(): ConfigEntry[];
}

/** What loading gives. */
export type Loaded<T = typeof OPTIONS> =
  | { readonly type: "config"; readonly config: Config<T> }
  /** The user asked for help or the version. */
  | { readonly type: "text"; readonly text: string };

/** What is loaded from. */
export interface LoadOptions<T> {
  /** Whose options are on the command line; "node" for all of them in one process. */
  readonly daemon: Daemon | "node";
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Texts that a program sets, by name; above everything else, and secrets are allowed. */
  readonly program?: Readonly<Record<string, string | readonly string[]>>;
  readonly table?: T;
}

/** The texts of one option from one place. */
interface Given {
  readonly texts: readonly string[];
  readonly source: Source;
}

/** Collects what is given, the strongest source last. */
class Gathering {
  readonly given = new Map<string, Given>();
  readonly problems: string[] = [];

  constructor(readonly table: OptionTable, readonly daemon: Daemon | "node") {}

  /** The option of a name, and whether the name was its file's. */
  find(
    name: string,
  ): { readonly name: string; readonly option: Option<unknown>; readonly file: boolean } | undefined {
    const direct = this.table[name];
    if (direct !== undefined) return { name, option: direct, file: false };
    const stem = name.endsWith("-file") ? name.slice(0, -"-file".length) : undefined;
    const behind = stem === undefined ? undefined : this.table[stem];
    return stem === undefined || behind === undefined || behind.secret === "no"
      ? undefined
      : { name: stem, option: behind, file: true };
  }

  reads(option: Option<unknown>): boolean {
    return this.daemon === "node" || option.daemons.includes(this.daemon);
  }

  take(name: string, texts: readonly string[], source: Source): void {
    const found = this.find(name);
    if (found === undefined) {
      this.problems.push(`${name}: no such option (${source})`);
      return;
    }
    // One file and one environment may serve every daemon.
    if (!this.reads(found.option)) return;
    if (!found.file && source === "flag" && found.option.secret !== "no") {
      this.problems.push(`${name}: a secret does not belong on a command line; use --${name}-file`);
      return;
    }
    if (!found.file) {
      this.given.set(found.name, { texts, source });
      return;
    }
    try {
      this.given.set(found.name, { texts: texts.map(readSecret), source });
    } catch (error) {
      this.problems.push(`${name}: ${messageOf(error)}`);
    }
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function readText(path: string): string {
  const text = readFileSync(path, "utf8");
  if (text.length > MAX_FILE_BYTES) throw new Error(`${path} is too large`);
  return text;
}

/** A secret's file: its text without the line end. */
function readSecret(path: string): string {
  try {
    return readText(path).replace(/\r?\n$/, "");
  } catch {
    throw new Error(`cannot read the file ${path}`);
  }
}

/** `name=value` lines, `name` alone for true, `#` comments. */
function parseFile(text: string): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const line of text.split(/\r?\n/)) {
    const trimmed = line.trim();
    if (trimmed === "" || trimmed.startsWith("#")) continue;
    const at = trimmed.indexOf("=");
    const name = at < 0 ? trimmed : trimmed.slice(0, at).trim();
    const value = at < 0 ? "true" : trimmed.slice(at + 1).trim();
    found.set(name, [...found.get(name) ?? [], value]);
  }
  return found;
}

function fromFile(gathering: Gathering, path: string): void {
  try {
    for (const [name, texts] of parseFile(readText(path))) gathering.take(name, texts, "file");
  } catch (error) {
    gathering.problems.push(`conf: ${messageOf(error)}`);
  }
}

function fromEnvironment(gathering: Gathering, env: Readonly<Record<string, string>>): void {
  for (const [variable, text] of Object.entries(env)) {
    if (!variable.startsWith(ENV_PREFIX) || variable === "ARCUS_CONF" || OTHER_VARIABLES.test(variable)) {
      continue;
    }
    const name = variable.slice(ENV_PREFIX.length).toLowerCase().replaceAll("_", "-");
    const found = gathering.find(name);
    if (found?.option.secret === "file" && !found.file) {
      gathering.problems.push(`${variable}: a secret; use ${variable}_FILE`);
      continue;
    }
    gathering.take(
      name,
      found?.option.multi ? text.split(",").map((each) => each.trim()) : [text],
      "environment",
    );
  }
}

function describe(name: string, option: Option<unknown>): string {
  const fallback = option.format(option.fallback);
  const shown = fallback === undefined || fallback.length === 0 ? "" : ` (default: ${fallback})`;
  const several = option.multi ? " May be given several times." : "";
  return `${option.help}${several}${shown} [${ENV_PREFIX}${name.toUpperCase().replaceAll("-", "_")}]`;
}

function collect(text: string, earlier: unknown): string[] {
  return [...(Array.isArray(earlier) ? earlier : []), text];
}

/** The command line of a daemon, made from the table. */
function commandOf(gathering: Gathering): Command {
  const command = new Command(gathering.daemon === "node" ? "arcus" : gathering.daemon)
    .allowExcessArguments(false)
    .exitOverride()
    .version(VERSION, "--version", "Show the version.")
    .helpOption("--help", "Show this help.")
    .configureOutput({ writeOut: () => {}, writeErr: () => {}, getOutHelpWidth: () => 110 })
    .addOption(new Flag("--conf <path>", `Configuration file: lines of name=value. [${ENV_PREFIX}CONF]`));
  for (const [name, option] of Object.entries(gathering.table)) {
    if (!gathering.reads(option)) continue;
    if (option.secret !== "no") {
      command.addOption(
        new Flag(`--${name}-file <path>`, `File with: ${describe(`${name}-file`, option)}`).argParser(
          collect,
        ),
      );
    }
    const value = option.flag ? `[${option.label}]` : `<${option.label}>`;
    const flag = new Flag(`--${name} ${value}`, describe(name, option)).argParser(collect);
    // Known, so that its use gets an answer that does not repeat it.
    if (option.secret !== "no") flag.hideHelp();
    command.addOption(flag);
  }
  return command;
}

/** commander makes camel case of names; this makes them names again. */
function kebab(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

interface Line {
  readonly conf: string | undefined;
  readonly flags: readonly (readonly [name: string, texts: readonly string[]])[];
}

function textsOf(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.map(String) : [String(value)];
}

/** Parses the command line; a text is what the user asked to see. */
function parseLine(command: Command, args: readonly string[]): Line | string {
  try {
    command.parse(args, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.code === "commander.helpDisplayed") return command.helpInformation();
    if (error.code === "commander.version") return `${VERSION}\n`;
    throw new ConfigError([error.message.replace(/^error: /, "")]);
  }
  const { conf, ...rest } = command.opts<Record<string, unknown>>();
  const flags = Object.entries(rest).map(([key, value]) => [kebab(key), textsOf(value)] as const);
  return { conf: typeof conf === "string" ? conf : undefined, flags };
}

/** Loads a configuration. Throws `ConfigError`. */
export function loadConfig(options: LoadOptions<typeof OPTIONS>): Loaded {
  return loadTable({ ...options, table: options.table ?? OPTIONS });
}

/** The same for any table. */
export function loadTable<T extends OptionTable>(options: LoadOptions<T> & { readonly table: T }): Loaded<T> {
  const { table, daemon, args, env, program = {} } = options;
  const gathering = new Gathering(table, daemon);
  const line = parseLine(commandOf(gathering), args);
  if (typeof line === "string") return { type: "text", text: line };
  const conf = line.conf ?? env["ARCUS_CONF"];
  if (conf !== undefined) fromFile(gathering, conf);
  fromEnvironment(gathering, env);
  for (const [name, texts] of line.flags) gathering.take(name, texts, "flag");
  for (const [name, texts] of Object.entries(program)) {
    gathering.take(name, typeof texts === "string" ? [texts] : texts, "program");
  }
  const values: Record<string, unknown> = {};
  for (const [name, option] of Object.entries(table)) {
    const given = gathering.given.get(name);
    try {
      values[name] = given === undefined ? option.fallback : option.parse(given.texts);
    } catch (error) {
      // The text of a secret is no part of a message.
      const reason = option.secret === "no" ? messageOf(error) : "not of the right form";
      gathering.problems.push(`${name}: ${reason} (${given?.source})`);
    }
  }
  checkDeveloper(gathering, values);
  if (gathering.problems.length > 0) throw new ConfigError(gathering.problems);
  // Built from the table entry by entry, each by its own parser.
  return { type: "config", config: configOf(gathering, values as ValuesOf<T>) };
}

function checkDeveloper(gathering: Gathering, values: Readonly<Record<string, unknown>>): void {
  if (values["developer"] === true || gathering.table["developer"] === undefined) return;
  for (const name of gathering.given.keys()) {
    if (name.startsWith("dev-") && values[name] !== gathering.table[name]?.fallback) {
      gathering.problems.push(`${name}: only with developer`);
    }
  }
}

function configOf<T extends OptionTable>(gathering: Gathering, values: ValuesOf<T>): Config<T> {
  const source = (name: keyof T): Source => gathering.given.get(String(name))?.source ?? "default";
  return {
    values,
    get: (name) => values[name],
    require<K extends keyof T>(name: K) {
      const value = values[name];
      if (value === undefined) throw new ConfigError([`${String(name)}: needed by ${gathering.daemon}`]);
      // Only undefined is excluded, and that was checked.
      return value as Exclude<ValuesOf<T>[K], undefined>;
    },
    source,
    list: () =>
      Object.entries(gathering.table).filter(([, option]) => gathering.reads(option)).map((
        [name, option],
      ) => ({
        name,
        value: option.secret === "no"
          ? option.format(Reflect.get(values, name))
          : Reflect.get(values, name) === undefined
          ? undefined
          : "set",
        source: source(name),
        help: option.help,
      })),
  };
}

/**
 * For entry points: loads from the command line and the environment of this process. Help goes to standard output; errors go to
 * standard error and end the process with `ExitCode.config`.
 */
export function configOrExit(daemon: Daemon | "node"): Config {
  try {
    const loaded = loadConfig({ daemon, args: Deno.args, env: Deno.env.toObject() });
    if (loaded.type === "config") return loaded.config;
    console.log(loaded.text.trimEnd());
    Deno.exit(ExitCode.ok);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    for (const problem of error.problems) console.error(problem);
    console.error(`see: ${daemon === "node" ? "arcus" : daemon} --help`);
    Deno.exit(ExitCode.config);
  }
}

/** Every daemon's name; for programs that start them. */
export { DAEMONS };
