import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import { type Progress, withStep } from "tools/progress.ts";
import { findBitcoind } from "./bitcoind.ts";
import { installOnce, removeDir } from "./cache.ts";
import { runGuarded, whichProgram } from "./child.ts";
import { aptInstall, type DockerEngine, goBuild } from "./docker.ts";
import { embeddedBin } from "./postgres_binaries.ts";

/** The images that the project's container files name and do not build. */
export interface ImageTags {
  /** Debian 12, slim. */
  readonly debian: string;
  /** The one that holds Deno's program alone. */
  readonly deno: string;
  readonly postgres: string;
  readonly grpcurl: string;
  /** Built by the compose file from the official archive. */
  readonly bitcoind: string;
}

/** How the images were had. */
export type ImageSource = "registry" | "stand-ins";

/**
 * Sees to it that the images are in the engine: from their registry, or where that cannot be reached and the engine is
 * our own, as stand-ins under the same tags, so that the project's files stay as users have them. Stand-ins are made of
 * Debian's packages, this process's Deno, the bitcoind and the Postgres that the tests use; what did not change since
 * the last run is not made again.
 */
export async function prepareImages(
  engine: DockerEngine,
  tags: ImageTags,
  progress: Progress,
): Promise<ImageSource> {
  const pulled = [tags.debian, tags.deno, tags.postgres, tags.grpcurl];
  const standIns = engine.own && await labelOf(engine, tags.debian) !== undefined;
  if (!standIns) {
    try {
      for (const tag of pulled) {
        await withStep(progress, `pulling ${tag}`, () => engine.docker(["pull", "--quiet", tag]));
      }
      return "registry";
    } catch (error) {
      if (!engine.own) throw error;
      progress.info("images cannot be pulled: stand-ins are made under the same tags");
    }
  }
  await debian(engine, tags, progress);
  await deno(engine, tags, progress);
  await grpcurl(engine, tags, progress);
  await bitcoind(engine, tags, progress);
  await postgres(engine, tags, progress);
  await engine.docker(["image", "prune", "--force"]);
  return "stand-ins";
}

const LABEL = "arcus.stand-in";
const GRPCURL_VERSION = "v1.9.4";
/** The certificates that this machine's programs trust, when they are not the system's usual ones. */
const CERTIFICATE_VARIABLES = ["DENO_CERT", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"] as const;

async function labelOf(engine: DockerEngine, tag: string): Promise<string | undefined> {
  const format = `{{index .Config.Labels "${LABEL}"}}`;
  const label = await engine.docker(["image", "inspect", "--format", format, tag]).catch(() => "");
  return label === "" ? undefined : label;
}

/** What a stand-in is made of. */
interface Recipe {
  readonly tag: string;
  readonly dockerfile: string;
  /** Changes when the files do. */
  readonly key: string;
  /** Fills the folder that the build sees. */
  readonly fill: (context: string) => Promise<void>;
}

async function standIn(engine: DockerEngine, recipe: Recipe, progress: Progress): Promise<void> {
  const { tag, dockerfile, key, fill } = recipe;
  const label = createHash("sha256").update(dockerfile).update("\0").update(key).digest("hex").slice(0, 16);
  if (await labelOf(engine, tag) === label) return;
  const context = await Deno.makeTempDir({ prefix: "arcus-image-" });
  try {
    await withStep(progress, `making a stand-in for ${tag}`, async () => {
      await fill(context);
      await Deno.writeTextFile(join(context, "Dockerfile"), dockerfile);
      await engine.docker(["build", "--label", `${LABEL}=${label}`, "--tag", tag, context]);
    });
  } finally {
    await removeDir(context);
  }
}

/** A minimal Debian with the certificates of this machine, without which no registry may be reachable from a build. */
async function debian(engine: DockerEngine, tags: ImageTags, progress: Progress): Promise<void> {
  const base = "arcus-stand-in-debian";
  if (await engine.docker(["image", "inspect", "--format", "{{.Id}}", base]).catch(() => "") === "") {
    if (whichProgram("debootstrap") === undefined) await aptInstall(["debootstrap"], progress);
    const work = await Deno.makeTempDir({ prefix: "arcus-debian-" });
    try {
      await withStep(
        progress,
        "making a base image (debootstrap, once a machine, about a minute)",
        async () => {
          const root = join(work, "root");
          const { code, output } = await runGuarded({
            cmd: "debootstrap",
            args: ["--variant=minbase", "bookworm", root],
            env: { DEBIAN_FRONTEND: "noninteractive" },
          });
          if (code !== 0) throw new Error(`debootstrap ended with status ${code}: ${output}`);
          await removeDir(join(root, "var", "cache", "apt", "archives"));
          const archive = join(work, "root.tar");
          const packed = await runGuarded({ cmd: "tar", args: ["-C", root, "-cf", archive, "."] });
          if (packed.code !== 0) throw new Error(`tar ended with status ${packed.code}: ${packed.output}`);
          await engine.docker(["import", "--change", 'CMD ["bash"]', archive, base]);
        },
      );
    } finally {
      await removeDir(work);
    }
  }
  const certificates = CERTIFICATE_VARIABLES.map((name) => Deno.env.get(name)).find((path) => path) ??
    "/etc/ssl/certs/ca-certificates.crt";
  const text = await Deno.readTextFile(certificates).catch(() => "");
  const recipe: Recipe = {
    tag: tags.debian,
    dockerfile: `FROM ${base}
COPY certificates.pem /etc/build-certificates.pem
ENV DENO_CERT=/etc/build-certificates.pem
`,
    key: text,
    fill: (context) => Deno.writeTextFile(join(context, "certificates.pem"), text),
  };
  await standIn(engine, recipe, progress);
}

async function deno(engine: DockerEngine, tags: ImageTags, progress: Progress): Promise<void> {
  const version = /(\d+\.\d+\.\d+)$/.exec(tags.deno)?.[1];
  if (version !== Deno.version.deno) {
    throw new Error(`${tags.deno} is wanted and this is Deno ${Deno.version.deno}`);
  }
  await standIn(engine, {
    tag: tags.deno,
    dockerfile: "FROM scratch\nCOPY deno /deno\n",
    key: version,
    fill: async (context) => {
      await Deno.copyFile(Deno.execPath(), join(context, "deno"));
      await Deno.chmod(join(context, "deno"), 0o755);
    },
  }, progress);
}

async function grpcurl(engine: DockerEngine, tags: ImageTags, progress: Progress): Promise<void> {
  const dir = await installOnce(
    `grpcurl-${GRPCURL_VERSION}-${Deno.build.target}`,
    progress,
    (into) =>
      goBuild(
        `grpcurl ${GRPCURL_VERSION}`,
        { module: "github.com/fullstorydev/grpcurl", version: GRPCURL_VERSION, program: "cmd/grpcurl" },
        join(into, "grpcurl"),
        progress,
      ),
  );
  await standIn(engine, {
    tag: tags.grpcurl,
    dockerfile: 'FROM scratch\nCOPY grpcurl /bin/grpcurl\nENTRYPOINT ["/bin/grpcurl"]\n',
    key: GRPCURL_VERSION,
    fill: (context) => Deno.copyFile(join(dir, "grpcurl"), join(context, "grpcurl")),
  }, progress);
}

async function bitcoind(engine: DockerEngine, tags: ImageTags, progress: Progress): Promise<void> {
  const found = await findBitcoind(progress);
  const cli = found.bitcoinCli ?? join(dirname(found.bitcoind), "bitcoin-cli");
  await standIn(engine, {
    tag: tags.bitcoind,
    dockerfile: `FROM ${tags.debian}
COPY bitcoind bitcoin-cli /usr/local/bin/
RUN bitcoind --version \\
  && useradd --uid 10002 --user-group --create-home --home-dir /var/lib/bitcoind bitcoin \\
  && install -d -o bitcoin -g bitcoin -m 0700 /var/lib/bitcoind/.bitcoin
USER bitcoin
ENTRYPOINT ["bitcoind"]
`,
    key: found.version,
    fill: async (context) => {
      for (const [file, name] of [[found.bitcoind, "bitcoind"], [cli, "bitcoin-cli"]] as const) {
        await Deno.copyFile(file, join(context, name));
        await Deno.chmod(join(context, name), 0o755);
      }
    },
  }, progress);
}

/** Does what the compose file needs of the official image: a password by file, a database, pg_isready. */
const POSTGRES_ENTRYPOINT = `#!/bin/sh
set -eu
data=/var/lib/postgresql/18/docker
as_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
if [ ! -s "$data/PG_VERSION" ]; then
  install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/18 "$data"
  install -o postgres -g postgres -m 0400 "$POSTGRES_PASSWORD_FILE" /run/first-password
  as_postgres initdb -D "$data" -U postgres --pwfile=/run/first-password --auth=scram-sha-256 \\
    --encoding=UTF8 --locale=C.UTF-8
  rm /run/first-password
  echo 'host all all all scram-sha-256' >> "$data/pg_hba.conf"
  echo "create database \\"$POSTGRES_DB\\"" | as_postgres postgres --single -D "$data" postgres
fi
exec setpriv --reuid=postgres --regid=postgres --clear-groups postgres -D "$data" -c listen_addresses='*' \\
  -c unix_socket_directories=/tmp
`;

async function postgres(engine: DockerEngine, tags: ImageTags, progress: Progress): Promise<void> {
  const bin = await embeddedBin(undefined, progress);
  await standIn(engine, {
    tag: tags.postgres,
    dockerfile: `FROM ${tags.debian}
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-client-15 \\
  && rm -rf /var/lib/apt/lists/* \\
  && useradd --uid 999 --user-group postgres
COPY native /opt/postgres
COPY entrypoint.sh /entrypoint.sh
ENV PATH=/opt/postgres/bin:/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin
STOPSIGNAL SIGINT
ENTRYPOINT ["/entrypoint.sh"]
`,
    key: `${bin}\0${POSTGRES_ENTRYPOINT}`,
    fill: async (context) => {
      const copied = await runGuarded({ cmd: "cp", args: ["-a", dirname(bin), join(context, "native")] });
      if (copied.code !== 0) throw new Error(copied.output);
      await Deno.writeTextFile(join(context, "entrypoint.sh"), POSTGRES_ENTRYPOINT, { mode: 0o755 });
    },
  }, progress);
}
