/**
 * Draws the passwords of a new node, once: each goes to the volumes of those who need it, so no password is in a file of the project
 * or on a command line. What is there already stays. An operator who brings secrets of his own mounts them at the same places.
 *
 *     deno run --allow-read=/secrets --allow-write=/secrets deploy/secrets.ts /secrets
 */
import { createHmac, randomBytes } from "node:crypto";
import { existsSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const DATABASE = "postgres:5432/arcus";
const ROLES = ["lightningd", "dualopend", "channeld", "closingd"] as const;
const PRIVATE = 0o600;
const PUBLIC = 0o644;

/** 256 bits, of characters that need no escape in a URL. */
const password = (): string => randomBytes(32).toString("hex");

/** A file is there whole or not at all. */
function write(path: string, text: string, mode: number): void {
  writeFileSync(`${path}.new`, text, { mode });
  renameSync(`${path}.new`, path);
}

/** Two files of one password are written in an order that lets an interrupted run be repeated: the one looked for is last. */
function database(root: string): void {
  const [passwordFile, url] = [join(root, "postgres", "password"), join(root, "postgres", "database-url")];
  if (!existsSync(url)) {
    const owner = password();
    write(passwordFile, owner, PRIVATE);
    write(url, `postgres://postgres:${owner}@${DATABASE}`, PRIVATE);
  }
  for (const daemon of ROLES) {
    const file = join(root, daemon, "database-url");
    if (!existsSync(file)) write(file, `postgres://arcus_${daemon}:${password()}@${DATABASE}`, PRIVATE);
  }
}

/** bitcoind gets only the password's hash, so its file may be read by its own user. */
function bitcoin(root: string): void {
  const configuration = join(root, "bitcoind", "bitcoin.conf");
  if (existsSync(configuration)) return;
  const [secret, salt] = [password(), randomBytes(16).toString("hex")];
  const hash = createHmac("sha256", salt).update(secret).digest("hex");
  write(join(root, "lightningd", "bitcoin-rpcpassword"), secret, PRIVATE);
  write(configuration, `rpcauth=arcus:${salt}$${hash}\n`, PUBLIC);
}

const [root] = Deno.args;
if (root === undefined) throw new Error("needs the folder of the secrets");
database(root);
bitcoin(root);
