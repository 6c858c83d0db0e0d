/** What processes used: CPU time and memory as Linux counts them. Elsewhere nothing is known, and nothing is claimed. */

/** Clock ticks a second of /proc on every Linux that Deno runs on (USER_HZ). */
const TICKS_PER_SECOND = 100;
const KIB = 1024;
const MIB = 1024 * 1024;
/** Fields of /proc/PID/stat after the name in brackets, counted from 0. */
const PPID = 1;
const UTIME = 11;
const STIME = 12;
const CUTIME = 13;
const CSTIME = 14;

/** Of one process: CPU so far, with that of its ended children, ms; memory now, MiB. */
export interface Usage {
  readonly cpuMs: number;
  readonly rssMb: number;
}

function statOf(pid: number): number[] | undefined {
  try {
    const text = Deno.readTextFileSync(`/proc/${pid}/stat`);
    return text.slice(text.lastIndexOf(")") + 2).split(" ").map(Number);
  } catch {
    return undefined;
  }
}

/** Undefined where the process or /proc is not there. */
export function usageOf(pid: number): Usage | undefined {
  const stat = statOf(pid);
  if (stat === undefined) return undefined;
  const ticks = [UTIME, STIME, CUTIME, CSTIME].reduce((sum, field) => sum + (stat[field] ?? 0), 0);
  let status = "";
  try {
    status = Deno.readTextFileSync(`/proc/${pid}/status`);
  } catch {
    return undefined;
  }
  const kib = Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0);
  return { cpuMs: ticks * 1000 / TICKS_PER_SECOND, rssMb: kib * KIB / MIB };
}

/** Of a process and those that it started (a Postgres server and its backends). */
export function usageOfTree(pid: number): Usage | undefined {
  const own = usageOf(pid);
  if (own === undefined) return undefined;
  let { cpuMs, rssMb } = own;
  for (const { name } of Deno.readDirSync("/proc")) {
    const child = Number(name);
    if (!Number.isInteger(child) || statOf(child)?.[PPID] !== pid) continue;
    const usage = usageOf(child);
    if (usage === undefined) continue;
    cpuMs += usage.cpuMs;
    rssMb += usage.rssMb;
  }
  return { cpuMs, rssMb };
}
