/** What hsmd signs, before a real bitcoind. */
import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { address, networks, Transaction } from "bitcoinjs-lib";
import { decodeWitness } from "bolt/tx/witness.ts";
import { makeTransaction, txidFromDisplay } from "bolt/tx/transaction.ts";
import { sat } from "bolt/units.ts";
import { SignWalletInputsRequestSchema } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { startBitcoind } from "tools/parts/regtest.ts";
import { fund, type Funds, withPair } from "./testing.ts";

const FUNDS: Funds = { opener: 600_000n, accepter: 400_000n };

interface Accept {
  readonly allowed: boolean;
}

Deno.test({
  name: "bitcoind accepts the funding transaction that two hsmds signed, and a withdrawal",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    withPair(async (pair) => {
      const node = await startBitcoind();
      try {
        const at = (script: Uint8Array) => address.fromOutputScript(script, networks.regtest);
        const opener = pair.opener.keys.wallet({ change: false, index: 3 }).script;
        const accepter = pair.accepter.keys.wallet({ change: false, index: 5 }).script;
        const txid = await node.fund([{ address: at(opener), sat: 700_000n }, {
          address: at(accepter),
          sat: 500_000n,
        }]);
        const coins = Transaction.fromHex(await node.rpc<string>("getrawtransaction", [txid]));
        const coin = (script: Uint8Array) => ({
          txid: txidFromDisplay(txid),
          vout: coins.outs.findIndex((output) => output.script.toHex() === script.toHex()),
        });
        const accepted = async (tx: Transaction) =>
          (await node.rpc<Accept[]>("testmempoolaccept", [[tx.toHex()]]))[0];

        const outpoints = [coin(opener), coin(accepter)];
        const { funding, witnesses } = await fund(pair, { ...FUNDS, outpoints });
        const { tx } = funding;
        for (const [index, bytes] of Object.entries(witnesses)) {
          const stack = decodeWitness(bytes);
          assert(stack.ok);
          tx.setWitness(Number(index), [...stack.value]);
        }
        const verdict = await accepted(tx);
        assert.equal(verdict?.allowed, true, JSON.stringify(verdict));
        // The check can fail: one bit of a signature.
        const broken = tx.clone();
        const signature = broken.ins[0]!.witness[0]!.slice();
        signature[5]! ^= 1;
        broken.setWitness(0, [signature]);
        assert.equal((await accepted(broken))?.allowed, false);

        const path = { change: true, index: 1 };
        const spend = makeTransaction({
          locktime: 0,
          inputs: [{ outpoint: { txid: tx.getHash(), vout: 1 }, sequence: 0xfffffffd }],
          outputs: [{ amount: sat(tx.outs[1]!.value - 500n), script: accepter }],
        });
        await node.rpc("sendrawtransaction", [tx.toHex()]);
        const { signatures } = await pair.opener.hsm.signWalletInputs(create(SignWalletInputsRequestSchema, {
          tx: new Uint8Array(spend.toBuffer()),
          prevouts: [{ amountSat: tx.outs[1]!.value, script: tx.outs[1]!.script }],
          inputs: { 0: path },
          destinations: [0],
          maxFeeSat: 500n,
        }));
        spend.setWitness(0, [signatures[0]!]);
        const withdrawn = await accepted(spend);
        assert.equal(withdrawn?.allowed, true, JSON.stringify(withdrawn));
      } finally {
        await node.stop();
      }
    }),
});
