/**
 * A TCP port of 127.0.0.1 that was free a moment ago. Somebody may take it before it is used: whoever asks tries again
 * with another when that happens.
 */
export function freePort(): number {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  return port;
}
