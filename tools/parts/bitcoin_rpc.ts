/** An error that bitcoind itself answered (`code` is its RPC_* number). */
export class BitcoinRpcError extends Error {
  override readonly name = "BitcoinRpcError";
  constructor(readonly method: string, readonly code: number, readonly reason: string) {
    super(`${method}: ${reason} (${code})`);
  }
}

/** What bitcoind answers while it loads. */
export const RPC_IN_WARMUP = -28;

/** Where a bitcoind is and how it knows us. */
export interface BitcoinRpcAddress {
  rpcUrl: string;
  rpcUser: string;
  rpcPassword: string;
}

/** One call of bitcoind's JSON-RPC. Throws {@link BitcoinRpcError}, or the transport's error. */
export async function bitcoinRpc<T>(
  address: BitcoinRpcAddress,
  method: string,
  params: readonly unknown[] | Record<string, unknown> = [],
): Promise<T> {
  const response = await fetch(address.rpcUrl, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      authorization: `Basic ${btoa(`${address.rpcUser}:${address.rpcPassword}`)}`,
    },
    body: JSON.stringify({ jsonrpc: "1.0", id: 0, method, params }),
  });
  const text = await response.text();
  if (response.status === 401 || response.status === 403) {
    throw new Error(`bitcoind refuses this user (HTTP ${response.status})`);
  }
  let answer: { result?: T; error?: { code: number; message: string } | null };
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(`bitcoind answered ${method} with HTTP ${response.status} and no JSON`);
  }
  if (answer.error) throw new BitcoinRpcError(method, answer.error.code, answer.error.message);
  return answer.result as T;
}
