/** Shows on standard error that a slow command is still waited for. */

const TICK_MS = 250;
/** Where nobody watches a terminal, a line now and then is enough. */
const LINE_EVERY_MS = 15_000;
const FRAMES = ["|", "/", "-", "\\"];

/** Where the progress goes. */
export interface Screen {
  readonly isTerminal: boolean;
  write(text: string): void;
}

/** Begins to show; answers the end of it, which leaves a clean line. */
export function showWaiting(what: string, screen: Screen): () => void {
  const begin = Date.now();
  let frame = 0;
  let lastLine = begin;
  const timer = setInterval(() => {
    const now = Date.now();
    const seconds = Math.floor((now - begin) / 1_000);
    if (screen.isTerminal) {
      screen.write(`\r${FRAMES[frame++ % FRAMES.length]} ${what}: ${seconds} s`);
    } else if (now - lastLine >= LINE_EVERY_MS) {
      lastLine = now;
      screen.write(`${what}: still waiting, ${seconds} s\n`);
    }
  }, TICK_MS);
  return () => {
    clearInterval(timer);
    if (screen.isTerminal) screen.write("\r\x1b[K");
  };
}
