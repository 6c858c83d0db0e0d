/** What hsmd signs, before a real bitcoind. */
import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { address, networks, Transaction } from "bitcoinjs-lib";
import { decodeWitness } from "bolt/tx/witness.ts";
import { fundingScript } from "bolt/tx/scripts.ts";
import { ecdsaWitnessItem } from "bolt/tx/signature.ts";
import { compareBytes, makeTransaction, txidFromDisplay } from "bolt/tx/transaction.ts";
import { sat } from "bolt/units.ts";
import {
  SignClosingRequestSchema,
  SignOwnCommitmentRequestSchema,
  SignWalletInputsRequestSchema,
} from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { startBitcoind } from "tools/parts/regtest.ts";
import {
  contentOf,
  fund,
  type Funds,
  LockedChannel,
  mirrored,
  type Pair,
  type TestContent,
  withPair,
} from "./testing.ts";

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

type Node = Awaited<ReturnType<typeof startBitcoind>>;

/** A locked channel whose funding transaction is in the mempool. */
async function openOnChain(node: Node, pair: Pair): Promise<LockedChannel> {
  const scripts = [
    pair.opener.keys.wallet({ change: false, index: 3 }).script,
    pair.accepter.keys.wallet({ change: false, index: 5 }).script,
  ];
  const txid = await node.fund(
    scripts.map((script, i) => ({
      address: address.fromOutputScript(script, networks.regtest),
      sat: i === 0 ? 700_000n : 500_000n,
    })),
  );
  const coins = Transaction.fromHex(await node.rpc<string>("getrawtransaction", [txid]));
  const outpoints = scripts.map((script) => ({
    txid: txidFromDisplay(txid),
    vout: coins.outs.findIndex((output) => output.script.toHex() === script.toHex()),
  }));
  const channel = await LockedChannel.open(pair, { ...FUNDS, outpoints });
  const { funding, witnesses } = channel.first;
  for (const [index, bytes] of Object.entries(witnesses)) {
    const stack = decodeWitness(bytes);
    assert(stack.ok);
    funding.tx.setWitness(Number(index), [...stack.value]);
  }
  await node.rpc("sendrawtransaction", [funding.tx.toHex()]);
  return channel;
}

async function assertAccepted(node: Node, tx: Transaction): Promise<void> {
  const [verdict] = await node.rpc<Accept[]>("testmempoolaccept", [[tx.toHex()]]);
  assert.equal(verdict?.allowed, true, JSON.stringify(verdict));
}

const STATE: TestContent = { number: 1n, toRemoteMsat: 400_000_000n, feerate: 2500, htlcs: [] };

Deno.test({
  name: "bitcoind accepts our commitment as hsmd signs it for broadcast, and a close that two hsmds signed",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const node = await startBitcoind();
    try {
      await withPair(async (pair) => {
        const channel = await openOnChain(node, pair);
        const htlcs = Array.from({ length: 6 }, (_, i) => ({
          id: BigInt(i),
          offered: i % 2 === 0,
          amountMsat: 2_000_000n + BigInt(i),
          hash: new Uint8Array(32).fill(i),
          expiry: 500 + i,
        }));
        const { request, signatures } = await channel.commit(pair.opener, { ...STATE, htlcs });
        const { tx } = await pair.opener.hsm.signOwnCommitment(create(SignOwnCommitmentRequestSchema, {
          channel: request.channel,
          terms: request.terms!,
          outpoint: channel.outpoint,
          capacitySat: channel.capacitySat,
          local: contentOf({ ...STATE, htlcs }, channel.capacitySat),
          remoteSignature: signatures.signature,
        }));
        const own = Transaction.fromBuffer(tx);
        assert.equal(own.outs.length, 10);
        await assertAccepted(node, own);
      });
      await withPair(async (pair) => {
        const channel = await openOnChain(node, pair);
        const { opener, accepter } = pair;
        await channel.commit(opener, STATE);
        await channel.commit(accepter, mirrored(STATE, channel.capacitySat));
        const paths = [{ change: false, index: 3 }, { change: false, index: 5 }] as const;
        const close = makeTransaction({
          locktime: 0,
          inputs: [{ outpoint: channel.outpoint, sequence: 0xffffffff }],
          outputs: [
            { amount: sat(599_000), script: opener.keys.wallet(paths[0]).script },
            { amount: sat(400_000), script: accepter.keys.wallet(paths[1]).script },
          ],
        });
        const items: Uint8Array[] = [];
        for (const [i, side] of [opener, accepter].entries()) {
          const { signature } = await side.hsm.signClosing(create(SignClosingRequestSchema, {
            channel: channel.head(side).channel,
            terms: channel.head(side).terms,
            outpoint: channel.outpoint,
            capacitySat: channel.capacitySat,
            local: contentOf(i === 0 ? STATE : mirrored(STATE, channel.capacitySat), channel.capacitySat),
            tx: new Uint8Array(close.toBuffer()),
            localOutput: i,
            key: paths[i]!,
            maxFeeSat: i === 0 ? 1000n : 0n,
          }));
          items.push(ecdsaWitnessItem(signature, Transaction.SIGHASH_ALL));
        }
        const [first, second] = [opener.points.fundingPubkey, accepter.points.fundingPubkey];
        if (compareBytes(first, second) > 0) items.reverse();
        close.setWitness(0, [new Uint8Array(0), ...items, fundingScript(first, second)]);
        await assertAccepted(node, close);
      });
    } finally {
      await node.stop();
    }
  },
});
