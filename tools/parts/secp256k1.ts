import { join } from "node:path";
import { type Progress, withStep } from "tools/progress.ts";
import { installOnce } from "./cache.ts";
import { runGuarded } from "./child.ts";
import { bitcoinSource, SOURCE_CRATE_VERSION } from "./source.ts";
import { prepareToolchain } from "./toolchain.ts";

/** A libsecp256k1 that this process can load. */
export interface Secp256k1Library {
  /** A path, or a file name that the loader finds. */
  library: string;
  source: "environment" | "cache" | "system";
}

const BUILT = `secp256k1-built-${SOURCE_CRATE_VERSION}-${Deno.build.target}`;
const FILE = Deno.build.os === "darwin" ? "libsecp256k1.dylib" : "libsecp256k1.so";
/** Sonames of the releases whose symbols we use. */
const SYSTEM_NAMES = Deno.build.os === "darwin"
  ? ["libsecp256k1.6.dylib", "libsecp256k1.5.dylib", "libsecp256k1.2.dylib", "libsecp256k1.dylib"]
  : ["libsecp256k1.so.6", "libsecp256k1.so.5", "libsecp256k1.so.2", "libsecp256k1.so.1"];

/**
 * Finds libsecp256k1, or builds it: named by ARCUS_SECP256K1_LIB, in the user cache, built from the source that
 * bitcoind is built from (seconds), or the system's. Undefined if there is none: then the JavaScript curve is used.
 */
export async function findSecp256k1(progress: Progress): Promise<Secp256k1Library | undefined> {
  const named = Deno.env.get("ARCUS_SECP256K1_LIB");
  if (named !== undefined && named !== "") {
    if (!loads(named)) throw new Error(`ARCUS_SECP256K1_LIB names '${named}', which cannot be loaded`);
    return { library: named, source: "environment" };
  }
  try {
    const valid = (dir: string) => Promise.resolve(loads(join(dir, "lib", FILE)));
    const dir = await installOnce(BUILT, progress, (into) => build(into, progress), { valid });
    const library = join(dir, "lib", FILE);
    if (loads(library)) return { library, source: "cache" };
    progress.info(`${library} was built but cannot be loaded`);
  } catch (error) {
    progress.info(`libsecp256k1 is not built: ${error instanceof Error ? error.message : String(error)}`);
  }
  const library = SYSTEM_NAMES.find(loads);
  return library === undefined ? undefined : { library, source: "system" };
}

/** Whether this process can load the library and it has what we need of it. */
function loads(library: string): boolean {
  try {
    Deno.dlopen(library, {
      secp256k1_ecdh: {
        parameters: ["buffer", "buffer", "buffer", "buffer", "pointer", "pointer"],
        result: "i32",
      },
    }).close();
    return true;
  } catch {
    return false;
  }
}

async function build(into: string, progress: Progress): Promise<void> {
  const toolchain = await prepareToolchain({ boost: false }, progress);
  const source = join(await bitcoinSource(progress), "src", "secp256k1");
  await withStep(progress, "building libsecp256k1", async () => {
    const work = join(into, "build");
    await run("cmake", ["-S", source, "-B", work, "-G", toolchain.generator, ...CMAKE_OPTIONS]);
    await run(toolchain.generator === "Ninja" ? "ninja" : "make", ["-C", work, `-j${toolchain.jobs}`]);
    await Deno.mkdir(join(into, "lib"));
    // Under its plain name: a copy follows the links that its version numbers are.
    await Deno.copyFile(join(work, "lib", FILE), join(into, "lib", FILE));
    await Deno.remove(work, { recursive: true });
  });
}

const CMAKE_OPTIONS = [
  "-DCMAKE_BUILD_TYPE=Release",
  "-DBUILD_SHARED_LIBS=ON",
  "-DSECP256K1_ENABLE_MODULE_ECDH=ON",
  "-DSECP256K1_ENABLE_MODULE_RECOVERY=ON",
  "-DSECP256K1_ENABLE_MODULE_EXTRAKEYS=ON",
  "-DSECP256K1_ENABLE_MODULE_SCHNORRSIG=ON",
  "-DSECP256K1_BUILD_TESTS=OFF",
  "-DSECP256K1_BUILD_EXHAUSTIVE_TESTS=OFF",
  "-DSECP256K1_BUILD_BENCHMARK=OFF",
  "-DSECP256K1_BUILD_CTIME_TESTS=OFF",
  "-DSECP256K1_BUILD_EXAMPLES=OFF",
  "-DSECP256K1_INSTALL=OFF",
];

async function run(cmd: string, args: readonly string[]): Promise<void> {
  const { code, output } = await runGuarded({ cmd, args });
  if (code !== 0) throw new Error(`${cmd} ended with status ${code}:\n${output}`);
}
