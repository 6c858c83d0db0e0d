/** The end of a program by Ctrl-C, at whatever point it is. */
import { endOnSignals } from "tools/parts/mod.ts";

/**
 * Runs `work`. A signal ends everything: `cleanup`, every child that is left, and the process; what `work` then throws, because
 * its ground is gone, is nobody's concern. Resolves only if no signal came.
 */
export async function untilSignal<T>(work: () => Promise<T>, cleanup: () => Promise<void>): Promise<T> {
  let ending = false;
  const remove = endOnSignals(() => {
    ending = true;
    return cleanup();
  });
  const forever = new Promise<never>(() => {});
  try {
    const value = await work();
    return ending ? await forever : value;
  } catch (error) {
    if (ending) return await forever;
    throw error;
  } finally {
    remove();
  }
}
