"""JetStream through the Python NATS client, against the server at argv[1].

Prints one line per thing that works; exits non-zero at the first that does not.
"""

import asyncio
import io
import sys

import nats
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.errors import BadRequestError, KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError


async def main(url: str) -> None:
    errors = []

    async def on_error(error: Exception) -> None:
        errors.append(error)

    client = await nats.connect(url, error_cb=on_error, allow_reconnect=False)
    streams = client.jetstream()

    info = await streams.add_stream(StreamConfig(name="ORDERS", subjects=["orders.>"], max_msgs_per_subject=100))
    assert (info.config.name, info.state.messages) == ("ORDERS", 0), info
    info = await streams.update_stream(StreamConfig(name="ORDERS", subjects=["orders.>"], description="changed"))
    assert info.config.description == "changed", info
    try:
        await streams.add_stream(StreamConfig(name="OTHER", subjects=["orders.eu"]))
        raise AssertionError("two streams on one subject")
    except BadRequestError as error:
        assert error.err_code == 10065, error
    print("create, update and refuse a stream")

    for number in range(10):
        ack = await streams.publish(f"orders.{number % 2}", str(number).encode(), headers={"Nats-Msg-Id": f"id-{number}"})
        assert (ack.stream, ack.seq, ack.duplicate) == ("ORDERS", number + 1, None), ack
    ack = await streams.publish("orders.0", b"again", headers={"Nats-Msg-Id": "id-3"})
    assert (ack.seq, ack.duplicate) == (4, True), ack
    print("publish, refuse a duplicate")

    message = await streams.get_msg("ORDERS", 3)
    assert (message.subject, message.data, message.headers["Nats-Msg-Id"]) == ("orders.0", b"2", "id-2"), message
    message = await streams.get_last_msg("ORDERS", "orders.1")
    assert (message.seq, message.data) == (10, b"9"), message
    print("read single messages")

    puller = await streams.pull_subscribe("orders.1", durable="odd")
    batch = await puller.fetch(3, timeout=10)
    assert [int(message.data) for message in batch] == [1, 3, 5], batch
    await batch[0].ack_sync()
    await batch[1].nak()
    await batch[2].term()
    await client.flush()
    (again,) = await puller.fetch(1, timeout=10)
    assert (again.data, again.metadata.num_delivered) == (b"3", 2), again
    await again.ack_sync()
    state = await puller.consumer_info()
    assert (state.ack_floor.stream_seq, state.num_ack_pending, state.num_pending) == (6, 0, 2), state
    print("pull, acknowledge, have delivered again")

    seen = []
    all_seen = asyncio.get_running_loop().create_future()

    async def work(message):
        seen.append(int(message.data))
        await message.ack()
        if len(seen) == 5:
            all_seen.set_result(None)

    await streams.subscribe("orders.0", durable="even", cb=work, manual_ack=True, config=ConsumerConfig(ack_wait=30))
    await all_seen
    assert seen == [0, 2, 4, 6, 8], seen
    print("push")

    bucket = await streams.create_key_value(bucket="config", history=3)
    revision = await bucket.put("colour", b"red")
    await bucket.update("colour", b"blue", last=revision)
    try:
        await bucket.update("colour", b"green", last=revision)
        raise AssertionError("an update of an old revision")
    except KeyWrongLastSequenceError:
        pass
    assert (await bucket.get("colour")).value == b"blue"
    await bucket.create("size", b"large")
    assert sorted(await bucket.keys()) == ["colour", "size"]
    await bucket.delete("size")
    try:
        await bucket.get("size")
        raise AssertionError("a deleted key")
    except KeyNotFoundError:
        pass
    assert [entry.value for entry in await bucket.history("colour")] == [b"red", b"blue"]
    print("keys and values")

    store = await streams.create_object_store(bucket="files")
    large = bytes(range(256)) * 2048
    put = await store.put("large", io.BytesIO(large))
    assert put.size == len(large) and put.chunks > 1, put
    assert (await store.get("large")).data == large
    assert [entry.name for entry in await store.list()] == ["large"]
    await store.delete("large")
    print("objects")

    assert await streams.delete_stream("ORDERS")
    try:
        await streams.stream_info("ORDERS")
        raise AssertionError("a deleted stream")
    except NotFoundError:
        print("delete")
    await client.drain()
    assert not errors, errors


asyncio.run(asyncio.wait_for(main(sys.argv[1]), 60))
