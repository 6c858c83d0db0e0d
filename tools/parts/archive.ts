import { createHash } from "node:crypto";
import { join } from "node:path";
import { type Progress, type Step, withStep } from "tools/progress.ts";
import { runGuarded } from "./child.ts";

/** The version of the official archives below. */
export const BITCOIN_ARCHIVE_VERSION = "30.2";

/** A file of the official release and its SHA-256. */
export interface Archive {
  url: string;
  sha256: string;
}

const BASE =
  `https://bitcoincore.org/bin/bitcoin-core-${BITCOIN_ARCHIVE_VERSION}/bitcoin-${BITCOIN_ARCHIVE_VERSION}`;

/** By Deno's name of the platform. */
const ARCHIVES: Record<string, Archive> = {
  "x86_64-unknown-linux-gnu": {
    url: `${BASE}-x86_64-linux-gnu.tar.gz`,
    sha256: "6aa7bb4feb699c4c6262dd23e4004191f6df7f373b5d5978b5bcdd4bb72f75d8",
  },
  "aarch64-unknown-linux-gnu": {
    url: `${BASE}-aarch64-linux-gnu.tar.gz`,
    sha256: "73e76c14edc79808a0511c744d102ffbb494807ee90cbcba176568243254b532",
  },
  "aarch64-apple-darwin": {
    url: `${BASE}-arm64-apple-darwin.tar.gz`,
    sha256: "c2ecab62891de22228043815cb6211549a32272be3d5d052ff19847d3420bd10",
  },
  "x86_64-apple-darwin": {
    url: `${BASE}-x86_64-apple-darwin.tar.gz`,
    sha256: "99d5cee9b9c37be506396c30837a4b98e320bfea71c474d6120a7e8eb6075c7b",
  },
};

/** The server must answer within this time: without the Internet the next way should be tried soon. */
export const CONNECT_TIMEOUT_MS = 6_000;
/** A download that gives nothing for this time has failed. */
export const STALL_TIMEOUT_MS = 20_000;
/** No archive is larger. */
const MAX_ARCHIVE_BYTES = 200 * 1024 * 1024;

/** Fills `into` with `bin/bitcoind` and `bin/bitcoin-cli` of the official release for this platform. */
export async function downloadBitcoin(into: string, progress: Progress): Promise<void> {
  const archive = ARCHIVES[Deno.build.target];
  if (archive === undefined) throw new Error(`there is none for ${Deno.build.target}`);
  await withStep(progress, `fetching bitcoind ${BITCOIN_ARCHIVE_VERSION}`, async (step) => {
    const file = join(into, "archive.tar.gz");
    await downloadChecked(archive, file, step);
    const args = ["-xzf", file, "-C", into, "--strip-components=1"];
    const { code, output } = await runGuarded({ cmd: "tar", args });
    if (code !== 0) throw new Error(`the archive cannot be unpacked: ${output}`);
    await Deno.remove(file);
    const { code: started } = await runGuarded({ cmd: join(into, "bin", "bitcoind"), args: ["--version"] });
    if (started !== 0) throw new Error("its bitcoind does not run on this machine");
  });
}

/** Downloads a file; throws if its SHA-256 is another, if the server is silent, or if it sends too much. */
export async function downloadChecked(archive: Archive, file: string, step?: Step): Promise<void> {
  const abort = new AbortController();
  let timer = setTimeout(() => abort.abort(new Error("no answer in time")), CONNECT_TIMEOUT_MS);
  const output = await Deno.open(file, { write: true, create: true, truncate: true });
  try {
    const response = await fetch(archive.url, { signal: abort.signal });
    if (!response.ok || response.body === null) {
      await response.body?.cancel();
      throw new Error(`the server answered ${response.status}`);
    }
    const total = Number(response.headers.get("content-length") ?? 0);
    const hash = createHash("sha256");
    let received = 0;
    for await (const chunk of response.body) {
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort(new Error("the download stalled")), STALL_TIMEOUT_MS);
      received += chunk.length;
      if (received > MAX_ARCHIVE_BYTES) throw new Error("it is larger than any archive");
      hash.update(chunk);
      for (let rest = chunk; rest.length > 0;) rest = rest.subarray(await output.write(rest));
      step?.update(`${Math.round(received / 1e6)} MB`, total > 0 ? received / total : undefined);
    }
    const sha256 = hash.digest("hex");
    if (sha256 !== archive.sha256) throw new Error(`its SHA-256 is ${sha256}, not ${archive.sha256}`);
  } finally {
    clearTimeout(timer);
    output.close();
  }
}
