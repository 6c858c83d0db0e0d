import { dirname } from "node:path";

/** A user whose rights a child is started with. */
export interface UnixUser {
  name: string;
  uid: number;
  gid: number;
}

/** Postgres refuses to run as root, and wants a user that has a name. The first of these that exists is taken. */
const CANDIDATES = ["postgres", "nobody"];

/** Undefined when this process is not root (then children simply run as this user). Throws if root finds nobody. */
export function unprivilegedUser(): UnixUser | undefined {
  if (Deno.uid() !== 0) return undefined;
  const users = parsePasswd(Deno.readTextFileSync("/etc/passwd"));
  for (const name of CANDIDATES) {
    const user = users.find((candidate) => candidate.name === name && candidate.uid !== 0);
    if (user !== undefined) return user;
  }
  throw new Error(
    `Postgres does not run as root, and there is no user ${CANDIDATES.join(" or ")} on this machine`,
  );
}

/** The users that the text of /etc/passwd names. */
export function parsePasswd(text: string): UnixUser[] {
  return text.split("\n").map((line) => line.split(":")).filter((fields) => fields.length >= 7)
    .map(([name, , uid, gid]) => ({ name: name ?? "", uid: Number(uid), gid: Number(gid) }));
}

/** Whether `user` (undefined: this one) can do what `flag` of test(1) says with this path: x enter or run, w write. */
export function mayUse(path: string, flag: "x" | "w", user: UnixUser | undefined): boolean {
  return new Deno.Command("/bin/sh", {
    args: ["-c", `test -${flag} "$1"`, "sh", path],
    cwd: "/",
    stdout: "null",
    stderr: "null",
    ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
  }).outputSync().success;
}

/** Whether `user` could use a directory made in `parent` (which need not exist yet) and then given to it. */
export function mayEnter(parent: string, user: UnixUser | undefined): boolean {
  let existing = parent;
  for (;;) {
    try {
      Deno.statSync(existing);
      return mayUse(existing, "x", user);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound) || dirname(existing) === existing) return false;
      existing = dirname(existing);
    }
  }
}
