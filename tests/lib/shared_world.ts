/** One world with a channel in use for a whole file of tests: made at the first use, gone after the last test. */
import type { Candidate } from "tools/node/commands.ts";
import { fundedAndConnected, normalChannel } from "./channels.ts";
import { balancesOf } from "./payments.ts";
import { logsOf, type World, type WorldOptions, type Worlds } from "./world.ts";

/** What every test of the file gets. */
export interface SharedChannel {
  readonly world: World;
  readonly channel: Candidate;
  /** Of the channel before the first payment, msat. */
  readonly opening: { readonly alice: bigint; readonly bob: bigint };
}

/** Makes the world. Its tests are declared by the function that comes with it: streams and timers outlive each test. */
export async function shareChannel(
  worlds: Worlds,
  options: WorldOptions = {},
): Promise<SharedChannel & { readonly test: (name: string, fn: () => Promise<void>) => void }> {
  const over = Promise.withResolvers<void>();
  const ready = Promise.withResolvers<SharedChannel>();
  const running = worlds.withWorld(async (world) => {
    await fundedAndConnected(world);
    const channel = await normalChannel(world);
    ready.resolve({ world, channel, opening: await balancesOf(world, [channel.channelId]) });
    await over.promise;
  }, options);
  running.catch(ready.reject);
  Deno.test.afterAll(async () => {
    over.resolve();
    await running;
  });
  const shared = await ready.promise;
  const { alice, bob } = shared.world;
  const test = (name: string, fn: () => Promise<void>) => {
    const explained = async () => {
      try {
        await fn();
      } catch (error) {
        const text = error instanceof Error ? error.message : String(error);
        throw new Error(`${text}\n${logsOf([alice, bob])}`, { cause: error });
      }
    };
    Deno.test({ name, fn: explained, sanitizeOps: false, sanitizeResources: false });
  };
  return { ...shared, test };
}
