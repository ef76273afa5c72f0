// Reads events with nats.js and prints each as one line of JSON.
//
//   node consume.mjs <url> <stream> <count> ordered <from sequence>
//   node consume.mjs <url> <stream> <count> durable <name>
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const [url, stream, count, mode, place] = process.argv.slice(2);
const nc = await connect({ servers: url });
const js = jetstream(nc);

let consumer;
if (mode === "durable") {
  const manager = await jetstreamManager(nc);
  await manager.consumers.add(stream, { durable_name: place, ack_policy: AckPolicy.Explicit });
  consumer = await js.consumers.get(stream, place);
} else {
  consumer = await js.consumers.get(stream, {
    deliver_policy: DeliverPolicy.StartSequence,
    opt_start_seq: Number(place),
  });
}

const messages = await consumer.fetch({ max_messages: Number(count), expires: 20_000 });
for await (const m of messages) {
  m.json(); // throws if the data is not JSON
  const headers = Object.fromEntries(m.headers);
  console.log(JSON.stringify({ seq: m.seq, subject: m.subject, headers, data: m.string() }));
  if (mode === "durable") {
    await m.ackAck();
  }
}
await nc.close();
