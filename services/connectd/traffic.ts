/** What goes through connectd, as metrics. Counted as plain numbers on the hot path, shown at every tick. */
import type { Metrics } from "common/metrics.ts";

/** Messages and their decrypted bytes, both ways, since the start. */
export interface Traffic {
  messagesIn: number;
  messagesOut: number;
  bytesIn: number;
  bytesOut: number;
}

/** Levels at this moment. */
export interface Shown {
  readonly peers: number;
  readonly attachments: number;
  readonly heldBytes: number;
}

/** Nothing yet. */
export function newTraffic(): Traffic {
  return { messagesIn: 0, messagesOut: 0, bytesIn: 0, bytesOut: 0 };
}

/** Registers the metrics; the answer brings them up to date. */
export function showOn(metrics: Metrics, traffic: Traffic): (now: Shown) => void {
  const peers = metrics.gauge("arcus_connectd_peers", "Peers whose init is done.");
  const attachments = metrics.gauge("arcus_connectd_attachments", "Streams to subds.");
  const held = metrics.gauge(
    "arcus_connectd_held_bytes",
    "Bytes of peers' messages that are not durable yet.",
  );
  const messages = metrics.counter("arcus_connectd_messages_total", "Messages of peers.", ["direction"]);
  const bytes = metrics.counter("arcus_connectd_message_bytes_total", "Bytes of those messages.", [
    "direction",
  ]);
  let shown = newTraffic();
  return (now) => {
    peers.set(now.peers);
    attachments.set(now.attachments);
    held.set(now.heldBytes);
    messages.inc({ direction: "in" }, traffic.messagesIn - shown.messagesIn);
    messages.inc({ direction: "out" }, traffic.messagesOut - shown.messagesOut);
    bytes.inc({ direction: "in" }, traffic.bytesIn - shown.bytesIn);
    bytes.inc({ direction: "out" }, traffic.bytesOut - shown.bytesOut);
    shown = { ...traffic };
  };
}
