/** The forms in which invoices are passed around (BOLT 11, encoding overview). */

const SCHEME = /^lightning:(\/\/)?/i;

/** The invoice without white space around it and without a `lightning:` (or, as seen in the wild, `lightning://`). */
export function stripLightningUri(text: string): string {
  return text.trim().replace(SCHEME, "");
}
