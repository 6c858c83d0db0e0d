/** How a payment is cut into parts over direct channels. */

/** A channel that could carry a part now. */
export interface Carrier {
  readonly channel: bigint;
  /** What it can send in one more HTLC. */
  readonly availableMsat: bigint;
  /** Smallest HTLC that the other side takes. */
  readonly minimumMsat: bigint;
}

/** A part of a cut. */
export interface Cut {
  readonly channel: bigint;
  readonly amountMsat: bigint;
}

/**
 * Cuts an amount: one part where one channel has room for it (the one with the most, so that small ones stay useful
 * for small payments last), otherwise, if there may be several, the fewest, the largest channels first. Null: no room.
 */
export function cut(amountMsat: bigint, carriers: readonly Carrier[], several: boolean): Cut[] | null {
  const usable = carriers
    .filter(({ availableMsat, minimumMsat }) => availableMsat > 0n && availableMsat >= minimumMsat)
    .sort((a, b) => a.availableMsat < b.availableMsat ? 1 : a.availableMsat > b.availableMsat ? -1 : 0);
  const whole = usable.find(({ availableMsat, minimumMsat }) =>
    availableMsat >= amountMsat && minimumMsat <= amountMsat
  );
  if (whole !== undefined) return [{ channel: whole.channel, amountMsat }];
  if (!several) return null;
  const parts: { channel: bigint; amountMsat: bigint; minimumMsat: bigint }[] = [];
  let left = amountMsat;
  for (const { channel, availableMsat, minimumMsat } of usable) {
    if (left === 0n) break;
    const amount = left < availableMsat ? left : availableMsat;
    if (amount < minimumMsat) {
      // The rest is too small for this channel: the part before gives some of its own away.
      const before = parts.at(-1);
      const lack = minimumMsat - amount;
      if (
        before === undefined || before.amountMsat - lack < before.minimumMsat || before.amountMsat <= lack
      ) {
        continue;
      }
      before.amountMsat -= lack;
      parts.push({ channel, amountMsat: minimumMsat, minimumMsat });
      left = 0n;
      break;
    }
    parts.push({ channel, amountMsat: amount, minimumMsat });
    left -= amount;
  }
  return left > 0n ? null : parts.map(({ channel, amountMsat }) => ({ channel, amountMsat }));
}
