/** A compose project of one run: a name of its own, no fixed port, and gone with everything that it made. */
import { bytesToHex, randomBytes } from "@noble/hashes/utils.js";
import type { DockerEngine, DockerRun } from "tools/parts/docker.ts";

/** A container, as `docker compose ps` shows it. */
export interface Container {
  readonly Name: string;
  readonly Service: string;
  readonly State: string;
  /** Empty without a health check. */
  readonly Health: string;
  readonly ExitCode: number;
}

/** Every container serves within this time after `up`, or has failed. */
const HEALTHY_MS = 180_000;
const POLL_MS = 500;
/** Services that end when they have done their work. */
const ONE_SHOT = ["secrets", "migrate"];
const LOG_LINES = "40";

/** See the module. */
export class ComposeProject {
  readonly #name = `arcus-test-${bytesToHex(randomBytes(4))}`;
  readonly #env: Record<string, string>;
  readonly #image: string;

  constructor(readonly engine: DockerEngine, readonly root: string) {
    // In our own engine the tag stays, and with it the layers that the next build need not make again.
    this.#image = engine.own ? "arcus:test" : `arcus:${this.#name}`;
    this.#env = {
      ARCUS_IMAGE: this.#image,
      ARCUS_API_ADDRESS: "127.0.0.1:0",
      ARCUS_PEER_PORTS: "127.0.0.1:0",
    };
  }

  #run(args: readonly string[], onLine?: (line: string) => void): Promise<string> {
    const options: DockerRun = {
      env: this.#env,
      cwd: this.root,
      ...(onLine === undefined ? {} : { onLine }),
    };
    return this.engine.compose(["--project-name", this.#name, "--progress", "plain", ...args], options);
  }

  /** Builds the images of these services. */
  async build(services: readonly string[], onLine: (line: string) => void): Promise<void> {
    await this.#run(["build", ...services], onLine);
  }

  /** Starts everything, as far as what must be there first allows. */
  async up(onLine: (line: string) => void): Promise<void> {
    await this.#run(["up", "--detach", "--no-build"], onLine);
  }

  /** Starts or stops replicas of one service. */
  async scale(service: string, count: number): Promise<void> {
    await this.#run([
      "up",
      "--detach",
      "--no-build",
      "--no-recreate",
      "--scale",
      `${service}=${count}`,
      service,
    ]);
  }

  /** All its containers. */
  async containers(): Promise<Container[]> {
    const lines = await this.#run(["ps", "--all", "--format", "json"]);
    return lines.split("\n").filter((line) => line.startsWith("{")).map((line): Container =>
      JSON.parse(line)
    );
  }

  /** Waits until every container serves; throws at once for one that ended. */
  async untilHealthy(onState: (text: string) => void): Promise<void> {
    const deadline = performance.now() + HEALTHY_MS;
    for (;;) {
      const containers = await this.containers();
      const ended = containers.find(({ Service, ExitCode }) => ONE_SHOT.includes(Service) && ExitCode !== 0);
      if (ended !== undefined) throw new Error(`${ended.Service} ended with status ${ended.ExitCode}`);
      const serving = containers.filter(({ Service }) => !ONE_SHOT.includes(Service));
      const waiting = serving.filter(({ Health }) => Health !== "healthy");
      if (serving.length > 0 && waiting.length === 0) return;
      const states = waiting.map(({ Service, State, Health }) => `${Service} ${Health || State}`).join(", ");
      if (performance.now() > deadline) throw new Error(`not healthy in time: ${states}`);
      onState(states);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** Where a port of a service is on this host. */
  async published(service: string, port: number): Promise<string> {
    return (await this.#run(["port", service, String(port)])).trim();
  }

  /** Services with a port on this host, sorted. */
  async publicServices(): Promise<string[]> {
    const ids = (await this.#run(["ps", "--quiet"])).split("\n").filter((id) => id !== "");
    const format = '{{index .Config.Labels "com.docker.compose.service"}} {{json .NetworkSettings.Ports}}';
    const lines = (await this.engine.docker(["inspect", "--format", format, ...ids])).split("\n");
    return [
      ...new Set(lines.filter((line) => line.includes("HostPort")).map((line) => line.split(" ")[0] ?? "")),
    ].sort();
  }

  /** Runs grpcurl in a container beside the daemons, as the compose file offers it. */
  async grpcurl(args: readonly string[]): Promise<string> {
    return await this.#run(["run", "--rm", "--no-TTY", "--quiet-pull", "grpcurl", ...args]);
  }

  /** Whether a container of `service` knows the name of another. */
  async resolves(service: string, name: string): Promise<boolean> {
    const script = `getent hosts ${name} >/dev/null && echo found || echo unknown`;
    return (await this.exec(service, ["sh", "-c", script])).trim() === "found";
  }

  /** Runs a command in a service's container. */
  async exec(service: string, command: readonly string[]): Promise<string> {
    return await this.#run(["exec", "--no-TTY", service, ...command]);
  }

  /** The last lines of every container, for a failure. */
  async logs(): Promise<string> {
    const states = await this.#run(["ps", "--all"]).catch(String);
    return `${states}\n${await this.#run(["logs", "--no-color", "--tail", LOG_LINES]).catch(String)}`;
  }

  /** Ends and removes containers, networks, volumes; its image too, in an engine that is not ours. */
  async down(): Promise<void> {
    await this.#run(["--profile", "tools", "down", "--volumes", "--remove-orphans", "--timeout", "20"]);
    if (!this.engine.own) {
      await this.engine.docker(["image", "rm", "--force", this.#image]).catch(() => "");
    }
  }
}
