// The JavaScript NATS client against the server at argv[2], as the nkey whose seed is in the file argv[3]; over a web
// socket when argv[4] says `ws`. Prints one line per thing that works; exits non-zero at the first that does not.
"use strict";

const assert = require("node:assert");
const fs = require("node:fs");
const nats = require("@nats-io/transport-node");
const { wsconnect } = require("@nats-io/nats-core");

async function open(server, seed, transport) {
  const options = { servers: server, authenticator: nats.nkeyAuthenticator(seed), reconnect: false };
  return transport === "ws" ? wsconnect(options) : nats.connect(options);
}

async function main([server, seedFile, transport]) {
  if (transport === "ws" && typeof globalThis.WebSocket === "undefined") {
    // Node has one from version 22 on.
    globalThis.WebSocket = require("ws");
  }
  const seed = fs.readFileSync(seedFile);
  const [alice, bob] = [await open(server, seed, transport), await open(server, seed, transport)];
  console.log("connect with nkey");

  const inbox = bob.subscribe("agent.*.output", { max: 1 });
  await bob.flush();
  const headers = nats.headers();
  headers.append("Seq", "1");
  headers.append("Seq", "2");
  alice.publish("agent.joe.output", "hello", { headers });
  for await (const message of inbox) {
    assert.equal(message.subject, "agent.joe.output");
    assert.equal(message.string(), "hello");
    assert.deepEqual(message.headers.values("Seq"), ["1", "2"]);
  }
  console.log("publish, wildcard, headers, a maximum of one");

  bob.subscribe("shout", {
    callback: (error, request) => request.respond(request.string().toUpperCase()),
  });
  await bob.flush();
  const response = await alice.request("shout", "quiet", { timeout: 10_000 });
  assert.equal(response.string(), "QUIET");
  console.log("request and reply");

  await assert.rejects(alice.request("nobody", "?", { timeout: 10_000 }), (error) =>
    error instanceof nats.errors.NoRespondersError
      || error.cause instanceof nats.errors.NoRespondersError);
  console.log("no responders");

  const seen = [];
  let finished;
  const all = new Promise((resolve) => (finished = resolve));
  for (const client of [alice, bob]) {
    client.subscribe("jobs", {
      queue: "workers",
      callback: (error, job) => {
        seen.push(Number(job.string()));
        if (seen.length === 100) finished();
      },
    });
    await client.flush();
  }
  for (let number = 0; number < 100; number++) alice.publish("jobs", String(number));
  await all;
  await Promise.all([alice.flush(), bob.flush()]);
  assert.deepEqual([...seen].sort((a, b) => a - b), Array.from({ length: 100 }, (_, number) => number));
  console.log("queue group");

  const large = new Uint8Array(2 << 20).map((_, at) => at % 251);
  const big = bob.subscribe("big", { max: 1 });
  await bob.flush();
  alice.publish("big", large);
  for await (const message of big) assert.ok(Buffer.from(large).equals(Buffer.from(message.data)));
  console.log("2 MiB payload");

  await alice.drain();
  await bob.drain();
  assert.equal(await alice.closed(), undefined);
  assert.equal(await bob.closed(), undefined);
  console.log("drain");
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
