/** Choices that a printed seed determines. */

/** A generator that a seed determines (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A generator by ARCUS_TEST_SEED, or by a new seed; prints which, so that a run can be had again. */
export function seededByEnvironment(): () => number {
  const named = Deno.env.get("ARCUS_TEST_SEED");
  const seed = named === undefined ? crypto.getRandomValues(new Uint32Array(1))[0] ?? 0 : Number(named);
  console.log(`ARCUS_TEST_SEED=${seed}`);
  return seeded(seed);
}

/** Some of these, in an order of chance. */
export function sample<T>(random: () => number, from: readonly T[], count: number): T[] {
  const left = [...from];
  return Array.from(
    { length: Math.min(count, left.length) },
    () => left.splice(Math.floor(random() * left.length), 1),
  ).flat();
}
