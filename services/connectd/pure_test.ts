import assert from "node:assert/strict";
import fc from "fast-check";
import { encodeMessage } from "bolt/wire/messages.ts";
import { addressGroup, formatAddress, parseAddress } from "./address.ts";
import {
  backoffDelay,
  failedOnce,
  FAST_FUZZ_MS,
  FAST_MAX_MS,
  MAX_BACKOFF_MS,
  NO_BACKOFF,
} from "./backoff.ts";
import { ControlClock } from "./clock.ts";
import { MUTUAL_WINDOW_MS, newConnectionWins } from "./duplicate.ts";
import { parseFaultLine, parseFaultText } from "./fault_text.ts";
import { Faults } from "./faults.ts";
import { TokenBucket } from "./rate.ts";

Deno.test("address: hosts, IPv6 in brackets, default port; anything else is refused", () => {
  const good: [string, string, number][] = [
    ["127.0.0.1:9736", "127.0.0.1", 9736],
    ["node.example", "node.example", 9735],
    ["[::1]:1", "::1", 1],
    ["[fe80::1]", "fe80::1", 9735],
    ["::1", "::1", 9735],
    ["localhost:0", "localhost", 0],
  ];
  for (const [text, host, port] of good) {
    const parsed = parseAddress(text);
    assert.ok(parsed.ok, text);
    assert.deepEqual(parsed.value, { host, port });
    const again = parseAddress(formatAddress(parsed.value));
    assert.ok(again.ok);
    assert.deepEqual(again.value, parsed.value);
  }
  for (
    const text of ["", ":1", "a b:1", "host:65536", "host:x", "[::1", "[host]:1", `${"a".repeat(300)}:1`]
  ) {
    assert.equal(parseAddress(text).ok, false, text);
  }
  fc.assert(fc.property(fc.string(), (text) => void parseAddress(text)));
});

Deno.test("address: limits count an IPv4 address, or an IPv6 network", () => {
  assert.equal(addressGroup("10.0.0.1"), "10.0.0.1");
  assert.equal(addressGroup("::ffff:10.0.0.1"), "10.0.0.1");
  assert.equal(addressGroup("::1"), "0:0:0:0");
  assert.equal(addressGroup("2001:db8:0:1::5"), addressGroup("2001:DB8::1:9:8:7:6"));
  assert.notEqual(addressGroup("2001:db8:0:1::5"), addressGroup("2001:db8:0:2::5"));
  fc.assert(fc.property(fc.ipV6(), (ip) => void addressGroup(ip)));
});

Deno.test("backoff: at once, then doubling to the maximum, never beyond", () => {
  assert.equal(backoffDelay(NO_BACKOFF, false, 0), 0);
  let backoff = NO_BACKOFF;
  const waits: number[] = [];
  for (let i = 0; i < 12; i++) {
    backoff = failedOnce(backoff);
    waits.push(backoffDelay(backoff, false, 0));
  }
  assert.deepEqual(waits.slice(0, 5), [1_000, 2_000, 4_000, 8_000, 16_000]);
  assert.equal(waits.at(-1), MAX_BACKOFF_MS);
  for (let i = 0; i < 5_000; i++) backoff = failedOnce(backoff);
  assert.ok(backoffDelay(backoff, false, 0.999) <= MAX_BACKOFF_MS + 1_000);
  assert.ok(backoffDelay(backoff, true, 0.999) <= FAST_MAX_MS + FAST_FUZZ_MS);
});

Deno.test("duplicate: both sides keep the same one of two mutual connections, whichever came first to whom", () => {
  const ids = [new Uint8Array(33).fill(2), new Uint8Array(33).fill(3)] as const;
  // Connection "a" was dialled by the first node, "b" by the second.
  const survivor = (me: 0 | 1, first: "a" | "b") => {
    const dialled = (name: "a" | "b") => (name === "a") === (me === 0) ? "us" : "them";
    const second = first === "a" ? "b" : "a";
    const wins = newConnectionWins({
      localId: ids[me],
      peerId: ids[me === 0 ? 1 : 0],
      oldDialled: dialled(first),
      newDialled: dialled(second),
      apart: 10,
    });
    return wins ? second : first;
  };
  const survivors = new Set([survivor(0, "a"), survivor(0, "b"), survivor(1, "a"), survivor(1, "b")]);
  assert.equal(survivors.size, 1);
  const base = { localId: ids[0], peerId: ids[1], oldDialled: "us", newDialled: "them" } as const;
  assert.equal(newConnectionWins({ ...base, apart: 10 }), false);
  // Long after, or dialled by the same side, the new one wins.
  assert.equal(newConnectionWins({ ...base, apart: MUTUAL_WINDOW_MS + 1 }), true);
  assert.equal(newConnectionWins({ ...base, oldDialled: "them", apart: 10 }), true);
});

Deno.test("faults: CLN's lines with WIRE_ names, BOLT names, counts and comments", () => {
  const rules = parseFaultText(
    "# a comment\n\n-WIRE_TX_SIGNATURES*2\n<init\n0WIRE_FUNDING_LOCKED\n=WIRE_INIT_RBF\r\n",
  );
  assert.ok(rules.ok);
  assert.deepEqual(
    rules.value.map(({ kind, message, nth, direction }) => [kind, message, nth, direction]),
    [
      ["close_before", "tx_signatures", 2, "out"],
      ["close_on_receive", "init", 1, "in"],
      ["blackhole", "channel_ready", 1, "out"],
      ["nothing", "tx_init_rbf", 1, "out"],
    ],
  );
  const kinds = [..."-+=$x0<"].map((code) => parseFaultLine(`${code}WIRE_STFU`)).map((rule) =>
    rule.ok && rule.value.kind
  );
  assert.deepEqual(kinds, [
    "close_before",
    "close_after",
    "nothing",
    "drop",
    "freeze_after",
    "blackhole",
    "close_on_receive",
  ]);
  for (
    const bad of [
      "",
      "tx_signatures",
      "-",
      "-NO_SUCH",
      "-tx_complete*0",
      "-tx_complete*x",
      "?init",
      "-__proto__",
    ]
  ) {
    assert.equal(parseFaultLine(bad).ok, false, bad);
  }
  fc.assert(fc.property(fc.string(), (text) => void parseFaultText(text)));
});

Deno.test("faults: only the head is compared, rules are used up in order, setting them starts afresh", () => {
  const faults = new Faults();
  const rules = parseFaultText("-tx_complete*2\n$init");
  assert.ok(rules.ok && faults.set(rules.value).ok);
  const complete = encodeMessage({ type: "tx_complete", channel_id: new Uint8Array(32) });
  const init = encodeMessage({ type: "init", globalfeatures: new Uint8Array(), features: new Uint8Array() });
  const judged = (message: Uint8Array, direction: "in" | "out" = "out") =>
    faults.judge(direction, message).kind;
  assert.deepEqual([judged(init), judged(complete, "in"), judged(complete)], ["pass", "pass", "pass"]);
  assert.deepEqual([judged(complete), judged(complete), judged(init), judged(init)], [
    "close_before",
    "pass",
    "drop",
    "pass",
  ]);
  assert.deepEqual([faults.pending.length, faults.fired.length], [0, 2]);
  assert.deepEqual([judged(new Uint8Array()), judged(Uint8Array.of(1))], ["pass", "pass"]);
  assert.ok(faults.set(rules.value).ok);
  assert.deepEqual([faults.pending.length, faults.fired.length], [2, 0]);
});

Deno.test("rate: so much at once, then so much a second", () => {
  const bucket = new TokenBucket(1_000, 5_000, 0);
  bucket.take(5_000, 0);
  assert.equal(bucket.wait(0), 0);
  bucket.take(2_000, 0);
  assert.equal(bucket.wait(0), 2_000);
  assert.equal(bucket.wait(1_500), 500);
  assert.equal(bucket.wait(60_000), 0);
  bucket.take(5_001, 60_000);
  assert.equal(bucket.wait(60_000), 1);
});

Deno.test("clock: stands still while lightningd is away", () => {
  let now = 100;
  const clock = new ControlClock(() => now);
  now = 200;
  assert.equal(clock.read(), 0);
  clock.run();
  now = 250;
  clock.run();
  assert.equal(clock.read(), 50);
  clock.stand();
  now = 1_000;
  clock.stand();
  assert.equal(clock.read(), 50);
  clock.run();
  now = 1_010;
  assert.equal(clock.read(), 60);
});
