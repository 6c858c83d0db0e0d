import { join } from "node:path";
import { type Progress, withStep } from "tools/progress.ts";
import { installOnce } from "./cache.ts";
import { runGuarded } from "./child.ts";

/** The crate that publishes Bitcoin Core's source tree (without wallet, ZMQ and GUI), and libsecp256k1's in it. */
export const SOURCE_CRATE = "libbitcoinkernel-sys";
/** Its exact version. */
export const SOURCE_CRATE_VERSION = "0.4.1";
/** SHA-256 of the crate file, as a lock file names it. */
export const SOURCE_CRATE_SHA256 = "345d18a1ce19a1becfcaaa066e3a60e9c7813ef5c23ea8c20704ca4ba1a46339";

const MANIFEST = `[package]
name = "bitcoin-source"
version = "0.0.0"
edition = "2021"

[lib]
path = "lib.rs"

[dependencies]
${SOURCE_CRATE} = "=${SOURCE_CRATE_VERSION}"

[workspace]
`;

/** The directory of Bitcoin Core's source tree, fetched by cargo once and checked by its hash. Nothing is compiled. */
export async function bitcoinSource(progress: Progress): Promise<string> {
  const dir = await installOnce(
    `bitcoin-source-${SOURCE_CRATE_VERSION}`,
    progress,
    (into) =>
      withStep(progress, "fetching the source of Bitcoin Core (a crate)", async () => {
        const work = join(into, "work");
        await Deno.mkdir(work);
        await Deno.writeTextFile(join(work, "Cargo.toml"), MANIFEST);
        await Deno.writeTextFile(join(work, "lib.rs"), "");
        const { code, output } = await runGuarded({ cmd: "cargo", args: ["vendor", "crates"], cwd: work });
        if (code !== 0) throw new Error(`cargo could not fetch ${SOURCE_CRATE}:\n${output}`);
        checkLock(await Deno.readTextFile(join(work, "Cargo.lock")));
        await Deno.rename(join(work, "crates", SOURCE_CRATE, "bitcoin"), join(into, "bitcoin"));
        await Deno.remove(work, { recursive: true });
      }),
  );
  return join(dir, "bitcoin");
}

/** cargo has compared the crate with the index' hash; this compares the index with ours. */
function checkLock(lock: string): void {
  const entry = lock.split("[[package]]").find((text) => text.includes(`name = "${SOURCE_CRATE}"`)) ?? "";
  if (!entry.includes(`checksum = "${SOURCE_CRATE_SHA256}"`)) {
    throw new Error(
      `${SOURCE_CRATE} ${SOURCE_CRATE_VERSION} is not the crate that it was (its SHA-256 differs)`,
    );
  }
}
