// JetStream through the JavaScript NATS client, against the server at argv[2]. Prints one line per thing that works;
// exits non-zero at the first that does not.
"use strict";

const assert = require("node:assert");
const nats = require("@nats-io/transport-node");
const { AckPolicy, jetstream, jetstreamManager } = require("@nats-io/jetstream");
const { Kvm } = require("@nats-io/kv");
const { Objm } = require("@nats-io/obj");

async function main([server]) {
  const client = await nats.connect({ servers: server, reconnect: false });
  const streams = jetstream(client);
  const manager = await jetstreamManager(client);

  let info = await manager.streams.add({ name: "ORDERS", subjects: ["orders.>"] });
  assert.equal(info.config.name, "ORDERS");
  info = await manager.streams.update("ORDERS", { description: "changed" });
  assert.equal(info.config.description, "changed");
  await assert.rejects(manager.streams.add({ name: "OTHER", subjects: ["orders.eu"] }), (error) => error.code === 10065);
  console.log("create, update and refuse a stream");

  for (let number = 0; number < 10; number++) {
    const ack = await streams.publish(`orders.${number % 2}`, String(number), { msgID: `id-${number}` });
    assert.deepEqual([ack.stream, ack.seq, ack.duplicate], ["ORDERS", number + 1, false]);
  }
  const twice = await streams.publish("orders.0", "again", { msgID: "id-3" });
  assert.deepEqual([twice.seq, twice.duplicate], [4, true]);
  console.log("publish, refuse a duplicate");

  const message = await manager.streams.getMessage("ORDERS", { last_by_subj: "orders.1" });
  assert.deepEqual([message.seq, message.string()], [10, "9"]);
  console.log("read single messages");

  await manager.consumers.add("ORDERS", {
    durable_name: "odd", ack_policy: AckPolicy.Explicit, filter_subject: "orders.1",
  });
  const consumer = await streams.consumers.get("ORDERS", "odd");
  const seen = [];
  for await (const fetched of await consumer.fetch({ max_messages: 3, expires: 10_000 })) {
    seen.push([fetched.string(), fetched.info.deliveryCount]);
    if (fetched.string() === "3") fetched.nak();
    else assert.ok(await fetched.ackAck());
  }
  await client.flush();
  const again = await consumer.next({ expires: 10_000 });
  seen.push([again.string(), again.info.deliveryCount]);
  assert.ok(await again.ackAck());
  assert.deepEqual(seen, [["1", 1], ["3", 1], ["5", 1], ["3", 2]]);
  const state = await consumer.info();
  assert.deepEqual([state.ack_floor.stream_seq, state.num_ack_pending, state.num_pending], [6, 0, 2]);
  console.log("pull, acknowledge, have delivered again");

  const ordered = await streams.consumers.get("ORDERS", { filter_subjects: ["orders.0"] });
  const even = [];
  const messages = await ordered.consume();
  for await (const one of messages) {
    even.push(Number(one.string()));
    if (even.length === 5) break;
  }
  assert.deepEqual(even, [0, 2, 4, 6, 8]);
  console.log("an ordered consumer");

  const bucket = await new Kvm(client).create("config", { history: 3 });
  const revision = await bucket.put("colour", "red");
  await bucket.update("colour", "blue", revision);
  await assert.rejects(bucket.update("colour", "green", revision));
  assert.equal((await bucket.get("colour")).string(), "blue");
  await bucket.create("size", "large");
  const keys = [];
  for await (const key of await bucket.keys()) keys.push(key);
  assert.deepEqual(keys.sort(), ["colour", "size"]);
  await bucket.delete("size");
  assert.equal((await bucket.get("size")).operation, "DEL");
  const history = [];
  for await (const entry of await bucket.history({ key: "colour" })) history.push(entry.string());
  assert.deepEqual(history, ["red", "blue"]);
  console.log("keys and values");

  const store = await new Objm(client).create("files");
  const large = new Uint8Array(512 << 10).map((_, at) => at % 251);
  const put = await store.putBlob({ name: "large" }, large);
  assert.ok(put.size === large.length && put.chunks > 1, JSON.stringify(put));
  assert.ok(Buffer.from(large).equals(Buffer.from(await store.getBlob("large"))));
  await store.delete("large");
  assert.equal((await store.info("large")).deleted, true);
  console.log("objects");

  assert.ok(await manager.streams.delete("ORDERS"));
  await assert.rejects(manager.streams.info("ORDERS"), (error) => error.code === 10059);
  console.log("delete");
  await client.close();
}

const timer = setTimeout(() => {
  console.error("nothing happened for a minute");
  process.exit(1);
}, 60_000);
main(process.argv.slice(2)).then(
  () => clearTimeout(timer),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
