import { join } from "node:path";
import { type Progress, withStep } from "tools/progress.ts";
import { cacheDir, installOnce, removeDir, waitForFormerBuilder, withFileLock } from "./cache.ts";
import { type GuardedChild, runGuarded, spawnGuarded, whichProgram } from "./child.ts";

/** A container engine with docker compose. */
export interface DockerEngine {
  /** Started here for this run: its images are ours to make and are kept, everything else in it goes. */
  readonly own: boolean;
  /** Runs docker to its end; gives its standard output. Throws an error with its last lines when it fails. */
  docker(args: readonly string[], options?: DockerRun): Promise<string>;
  /** The same for docker compose. */
  compose(args: readonly string[], options?: DockerRun): Promise<string>;
}

/** How a command runs. */
export interface DockerRun {
  readonly env?: Record<string, string>;
  readonly cwd?: string;
  /** Gets every line of both outputs. */
  readonly onLine?: (line: string) => void;
}

/** What {@link withDocker} came to. */
export type WithDocker<T> =
  | { readonly type: "ran"; readonly value: T }
  /** No engine can run here, and why. */
  | { readonly type: "none"; readonly reason: string };

/** Why no engine can run, as an error on the way out. */
class NoEngine extends Error {}

/** The version of docker compose that is built where there is none. */
export const COMPOSE_VERSION = "2.40.3";
/** An engine answers within this time after its start, or has failed. */
export const ENGINE_START_MS = 60_000;
/** An engine that is asked to end stops its containers first. */
const ENGINE_STOP_MS = 60_000;
const POLL_MS = 100;
/** Debian's packages of what an engine needs, by program. */
const PACKAGES: Readonly<Record<string, string>> = {
  dockerd: "docker.io",
  containerd: "containerd",
  runc: "runc",
  docker: "docker.io",
  iptables: "iptables",
  ip: "iproute2",
};
/** Debian keeps some of those programs where an ordinary PATH does not look. */
const PATH = `${Deno.env.get("PATH") ?? ""}:/usr/local/sbin:/usr/sbin:/sbin`;

/**
 * Runs `work` with the engine that this user can reach, else with one that is started for it: Debian's packages, as
 * root, with its images in the user's cache. One process at a time has such an engine.
 */
export async function withDocker<T>(
  progress: Progress,
  work: (engine: DockerEngine) => Promise<T>,
): Promise<WithDocker<T>> {
  try {
    const reachable = await reachableEngine(progress);
    if (reachable !== undefined) return { type: "ran", value: await work(reachable) };
    const impossible = whyNoEngine();
    if (impossible !== undefined) return { type: "none", reason: impossible };
    await installPackages(progress);
    const compose = await composeProgram(progress);
    const lock = join(cacheDir(), "docker-engine.lock");
    return await withFileLock(lock, progress, async () => {
      const started = await startEngine(compose, progress);
      try {
        return { type: "ran", value: await work(started.engine) };
      } finally {
        await withStep(progress, "stopping the container engine", () => started.stop());
      }
    });
  } catch (error) {
    if (error instanceof NoEngine) return { type: "none", reason: error.message };
    throw error;
  }
}

/** Why no engine can be started here, as far as that shows at a glance; undefined if one may. */
export function whyNoEngine(): string | undefined {
  if (Deno.build.os !== "linux") return "no container engine answers, and one can be started only on Linux";
  if (Deno.uid() !== 0) return "no container engine answers, and only root can start one";
  if (whichProgram("dockerd", PATH) === undefined && whichProgram("apt-get") === undefined) {
    return "no container engine answers, and neither dockerd nor apt-get is here";
  }
  const allowed = new Deno.Command("unshare", { args: ["--mount", "--net", "true"], stderr: "null" });
  try {
    if (!allowed.outputSync().success) return "no container engine answers, and this machine lets none start";
  } catch {
    return "no container engine answers, and there is no unshare to see whether one may start";
  }
  return undefined;
}

/** docker and compose as functions. */
function commands(
  own: boolean,
  docker: string,
  compose: readonly string[],
  env: Record<string, string>,
): DockerEngine {
  const run = async (command: readonly string[], options: DockerRun = {}): Promise<string> => {
    const [cmd = docker, ...args] = command;
    const stdout: string[] = [];
    const { code, output } = await runGuarded({
      cmd,
      args,
      env: { ...env, ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      onLine(line, stream) {
        if (stream === "stdout") stdout.push(line);
        options.onLine?.(line);
      },
    });
    if (code !== 0) throw new Error(`${args.slice(0, 6).join(" ")} ended with status ${code}:\n${output}`);
    return stdout.join("\n");
  };
  return {
    own,
    docker: (args, options) => run([docker, ...args], options),
    compose: (args, options) => run([...compose, ...args], options),
  };
}

/** The user's engine, if it answers and there is a compose for it. */
async function reachableEngine(progress: Progress): Promise<DockerEngine | undefined> {
  const docker = whichProgram("docker");
  if (docker === undefined) return undefined;
  const { code } = await runGuarded({ cmd: docker, args: ["version"] });
  if (code !== 0) return undefined;
  const plugin = await runGuarded({ cmd: docker, args: ["compose", "version"] });
  return commands(
    false,
    docker,
    plugin.code === 0 ? [docker, "compose"] : [await composeProgram(progress)],
    {},
  );
}

/** docker compose, built from its Go module: neither a registry nor Debian 12 has it as a program. */
async function composeProgram(progress: Progress): Promise<string> {
  const name = `docker-compose-${COMPOSE_VERSION}-${Deno.build.target}`;
  const dir = await installOnce(name, progress, async (into) => {
    await goBuild(
      `docker compose ${COMPOSE_VERSION}`,
      { module: "github.com/docker/compose/v2", version: `v${COMPOSE_VERSION}`, program: "cmd" },
      join(into, "docker-compose"),
      progress,
    );
  });
  return join(dir, "docker-compose");
}

/** A program in a Go module. */
export interface GoProgram {
  readonly module: string;
  readonly version: string;
  /** Folder of the program in the module. */
  readonly program: string;
}

/** Builds a program without C, so that it runs in any container. */
export async function goBuild(
  title: string,
  { module, version, program }: GoProgram,
  output: string,
  progress: Progress,
): Promise<void> {
  if (whichProgram("go") === undefined) throw new NoEngine(`${title} must be built, and there is no Go`);
  const work = await Deno.makeTempDir({ prefix: "arcus-go-" });
  try {
    // Not `go install`: that refuses a module with replace directives.
    await Deno.writeTextFile(
      join(work, "go.mod"),
      `module build\n\ngo 1.24\n\nrequire ${module} ${version}\n`,
    );
    await Deno.writeTextFile(
      join(work, "build.go"),
      `//go:build build\n\npackage build\n\nimport _ "${module}/${program}"\n`,
    );
    await withStep(progress, `building ${title} (once a machine, about a minute)`, async () => {
      for (
        const args of [["mod", "tidy", "-e"], [
          "build",
          "-trimpath",
          "-ldflags=-s -w",
          "-o",
          output,
          `${module}/${program}`,
        ]]
      ) {
        const nice = whichProgram("nice");
        const command = nice === undefined ? ["go", ...args] : [nice, "-n", "5", "go", ...args];
        const [cmd = "go", ...rest] = command;
        const result = await runGuarded({ cmd, args: rest, cwd: work, env: { CGO_ENABLED: "0" } });
        if (result.code !== 0) throw new NoEngine(`${title} cannot be built: ${result.output}`);
      }
    });
  } finally {
    await removeDir(work);
  }
}

async function installPackages(progress: Progress): Promise<void> {
  await withFileLock(join(cacheDir(), "toolchain.lock"), progress, async () => {
    const missing = Object.entries(PACKAGES).filter(([program]) => whichProgram(program, PATH) === undefined);
    if (missing.length === 0) return;
    const packages = [...new Set(missing.map(([, name]) => name))];
    await aptInstall(packages, progress);
    const still = packages.length > 0 &&
      missing.find(([program]) => whichProgram(program, PATH) === undefined);
    if (still) throw new NoEngine(`${packages.join(", ")} cannot be installed with apt-get`);
  });
}

/** Installs Debian's packages without starting what they bring. What is missing afterwards is the caller's to see. */
export async function aptInstall(packages: readonly string[], progress: Progress): Promise<void> {
  // A run level in which no service is started: the engine of this run is its own.
  const env = { DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" };
  const args = [
    "-o",
    "DPkg::Lock::Timeout=300",
    "install",
    "-y",
    "--no-install-recommends",
    ...packages,
  ];
  await withStep(progress, `installing ${packages.join(", ")} (apt-get)`, async () => {
    if ((await runGuarded({ cmd: "apt-get", args, env })).code === 0) return;
    await runGuarded({ cmd: "apt-get", args: ["update"], env });
    await runGuarded({ cmd: "apt-get", args, env });
  });
}

/** An engine of our own. */
interface Started {
  readonly engine: DockerEngine;
  stop(): Promise<void>;
}

/** Everything but its images is in a folder that goes with it. The caller holds the lock. */
async function startEngine(compose: string, progress: Progress): Promise<Started> {
  const state = join(cacheDir(), "docker-engine");
  await Deno.mkdir(state, { recursive: true, mode: 0o700 });
  const pidFile = join(state, "engine.pid");
  await waitForFormerBuilder(pidFile);
  const run = await Deno.makeTempDir({ prefix: "arcus-docker-" });
  const socket = `unix://${join(run, "docker.sock")}`;
  const log = join(run, "log");
  const network = await NetworkState.before(join(state, "network.json"));
  const child = spawnGuarded({
    cmd: whichProgram("dockerd", PATH) ?? "dockerd",
    args: [
      `--data-root=${join(state, "data")}`,
      `--exec-root=${join(run, "exec")}`,
      `--pidfile=${join(run, "pid")}`,
      `--host=${socket}`,
      "--log-level=warn",
    ],
    env: { PATH },
    logFile: log,
    graceMs: ENGINE_STOP_MS,
    removeDirOnOrphan: run,
  });
  await Deno.writeTextFile(pidFile, String(child.pid));
  const stop = async () => {
    await child.stop(ENGINE_STOP_MS);
    await network.restore();
    await Deno.remove(run, { recursive: true }).catch(() => {});
  };
  const docker = whichProgram("docker", PATH) ?? "docker";
  // The classic builder: the other one is a plugin that may not be here.
  const env = { PATH, DOCKER_HOST: socket, DOCKER_BUILDKIT: "0", COMPOSE_BAKE: "false" };
  const engine = commands(true, docker, [compose], env);
  try {
    await withStep(progress, "starting a container engine", () => answers(engine, child, log));
    await removeLeftovers(engine);
    return { engine, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function answers(engine: DockerEngine, child: GuardedChild, log: string): Promise<void> {
  let ended = false;
  child.exited.then(() => ended = true);
  const deadline = performance.now() + ENGINE_START_MS;
  for (;;) {
    if (await engine.docker(["info"]).then(() => true, () => false)) return;
    if (ended || performance.now() > deadline) {
      const text = await Deno.readTextFile(log).catch(() => "");
      throw new NoEngine(`dockerd does not start here:\n${text.split("\n").slice(-15).join("\n")}`);
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** What a run that was killed left in our engine; nobody else uses it. */
async function removeLeftovers(engine: DockerEngine): Promise<void> {
  const containers = (await engine.docker(["ps", "--all", "--quiet"])).split("\n").filter((id) => id !== "");
  if (containers.length > 0) await engine.docker(["rm", "--force", "--volumes", ...containers]);
  await engine.docker(["network", "prune", "--force"]);
  const volumes = (await engine.docker(["volume", "ls", "--quiet"])).split("\n").filter((name) =>
    name !== ""
  );
  if (volumes.length > 0) await engine.docker(["volume", "rm", "--force", ...volumes]);
}

const FORWARDING = "/proc/sys/net/ipv4/ip_forward";
const BRIDGE = "docker0";

/** What the machine's network was like before an engine. */
interface NetworkFacts {
  readonly forwarding: string;
  readonly forwardPolicy: string;
  readonly bridge: boolean;
  /** Whether another engine had its rules there. */
  readonly rules: boolean;
}

/** What an engine changes in the machine's network and leaves so when it ends. */
class NetworkState {
  private constructor(readonly file: string, readonly facts: NetworkFacts) {}

  /** How it is now; after a run that was killed, how it was before that run. */
  static async before(file: string): Promise<NetworkState> {
    const kept = await Deno.readTextFile(file).catch(() => undefined);
    if (kept !== undefined) return new NetworkState(file, JSON.parse(kept));
    const rules = await listRules("filter");
    const facts: NetworkFacts = {
      forwarding: (await Deno.readTextFile(FORWARDING).catch(() => "")).trim(),
      forwardPolicy: /^-P FORWARD (\w+)$/m.exec(rules)?.[1] ?? "ACCEPT",
      bridge: await bridgeExists(),
      rules: rules.includes("DOCKER"),
    };
    await Deno.writeTextFile(file, JSON.stringify(facts));
    return new NetworkState(file, facts);
  }

  /** Undoes what was not so before. Another engine's rules are left alone. */
  async restore(): Promise<void> {
    const { forwarding, forwardPolicy, bridge, rules } = this.facts;
    if (!bridge && await bridgeExists()) await quietly("ip", ["link", "delete", BRIDGE]);
    if (!rules) await this.#removeRules(forwardPolicy);
    if (forwarding === "0") await Deno.writeTextFile(FORWARDING, "0").catch(() => {});
    await Deno.remove(this.file).catch(() => {});
  }

  async #removeRules(forwardPolicy: string): Promise<void> {
    await quietly("iptables", ["-P", "FORWARD", forwardPolicy]);
    for (const table of ["filter", "nat"]) {
      const lines = (await listRules(table)).split("\n");
      const ours = lines.filter((line) =>
        line.startsWith("-A ") && /DOCKER|docker0|br-[0-9a-f]{12}/.test(line)
      );
      for (const line of ours) await quietly("iptables", ["-t", table, "-D", ...line.slice(3).split(" ")]);
      const chains = lines.flatMap((line) => /^-N (DOCKER\S*)$/.exec(line)?.[1] ?? []);
      for (const chain of chains) await quietly("iptables", ["-t", table, "-F", chain]);
      for (const chain of chains) await quietly("iptables", ["-t", table, "-X", chain]);
    }
  }
}

const bridgeExists = (): Promise<boolean> =>
  Deno.stat(`/sys/class/net/${BRIDGE}`).then(() => true, () => false);

async function listRules(table: string): Promise<string> {
  return (await runGuarded({ cmd: "iptables", args: ["-t", table, "-S"], env: { PATH } })).output;
}

async function quietly(cmd: string, args: readonly string[]): Promise<void> {
  if (whichProgram(cmd, PATH) !== undefined) await runGuarded({ cmd, args, env: { PATH } });
}
