/** QR codes for a terminal. */
import { encode } from "uqr";

/** The white edge that a reader needs, in dots; two are enough on a screen. */
const BORDER = 2;
/** What the largest code holds of digits, capital letters and a few signs, at the least error correction. */
const MAX_CHARACTERS = 4_296;
/** White on black, whatever the colours of the terminal: many readers take no inverted code. */
const COLOURS = "\x1b[97;40m";
const RESET = "\x1b[0m";
/** Two dots, one above the other, by which of them are black. */
const BLOCKS = { none: "\u2588", lower: "\u2580", upper: "\u2584", both: " " } as const;

function block(upper: boolean, lower: boolean): string {
  if (upper) return lower ? BLOCKS.both : BLOCKS.upper;
  return lower ? BLOCKS.lower : BLOCKS.none;
}

/** A text as a QR code, two rows of dots in a line; where it is too wide or too long, a line that says so. */
export function qrCode(text: string, columns: number): string {
  if (text.length > MAX_CHARACTERS) return "(too long for a QR code)";
  const { size, data } = encode(text, { ecc: "L", border: BORDER });
  if (size > columns) return `(a terminal of ${size} columns would show a QR code)`;
  const rows: string[] = [];
  for (let y = 0; y < size; y += 2) {
    const upper = data[y] ?? [];
    // Below the last row of an odd number there is nothing: white.
    const lower = data[y + 1] ?? [];
    rows.push(`${COLOURS}${upper.map((dot, x) => block(dot, lower[x] ?? false)).join("")}${RESET}`);
  }
  return rows.join("\n");
}
