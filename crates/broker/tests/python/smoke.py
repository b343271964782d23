"""The Python NATS client against the server at argv[1], as the nkey whose seed is in the file argv[2].

Prints one line per thing that works; exits non-zero at the first that does not. Messages come by callback: in this
client `next_msg` with a timeout can lose the message that comes as the time is up.
"""

import asyncio
import sys

import nats
from nats.errors import NoRespondersError


async def in_force(client) -> None:
    """Waits until the server has what the client said so far. `flush` does not: its PING goes past what waits to be sent,
    so that the PONG may come before a SUB has left. A message to oneself keeps its place.
    """
    inbox = client.new_inbox()
    back = asyncio.get_running_loop().create_future()

    async def take(_message):
        back.set_result(None)

    subscription = await client.subscribe(inbox, cb=take)
    await client.publish(inbox)
    await back
    await subscription.unsubscribe()


async def expect(client, subject: str) -> asyncio.Future:
    """Subscribes; the first message that comes is the future's result."""
    first = asyncio.get_running_loop().create_future()

    async def take(message):
        if not first.done():
            first.set_result(message)

    await client.subscribe(subject, cb=take)
    await in_force(client)
    return first


async def main(url: str, seed_file: str) -> None:
    errors = []

    async def on_error(error: Exception) -> None:
        errors.append(error)

    # Two connections: what one publishes goes through the server to the other.
    alice = await nats.connect(url, nkeys_seed=seed_file, error_cb=on_error, allow_reconnect=False)
    bob = await nats.connect(url, nkeys_seed=seed_file, error_cb=on_error, allow_reconnect=False)
    print("connect with nkey")

    inbox = await expect(bob, "agent.*.output")
    await alice.publish("agent.joe.output", b"hello", headers={"Seq": "1"})
    message = await inbox
    assert (message.subject, message.data) == ("agent.joe.output", b"hello"), message
    assert message.headers == {"Seq": "1"}, message.headers
    print("publish, wildcard, headers")

    async def answer(request):
        await request.respond(request.data.upper())

    await bob.subscribe("shout", cb=answer)
    await in_force(bob)
    response = await alice.request("shout", b"quiet", timeout=10)
    assert response.data == b"QUIET", response
    print("request and reply")

    try:
        await alice.request("nobody", b"?", timeout=10)
        raise AssertionError("somebody answered")
    except NoRespondersError:
        print("no responders")

    seen = []
    all_seen = asyncio.get_running_loop().create_future()

    async def work(job):
        seen.append(int(job.data))
        if len(seen) == 100:
            all_seen.set_result(None)

    for client in (alice, bob):
        await client.subscribe("jobs", queue="workers", cb=work)
        await in_force(client)
    for number in range(100):
        await alice.publish("jobs", str(number).encode())
    await all_seen
    for client in (alice, bob):
        await in_force(client)
    assert sorted(seen) == list(range(100)), seen
    print("queue group")

    large = bytes(range(256)) * 4096 * 2
    big = await expect(bob, "big")
    await alice.publish("big", large)
    assert (await big).data == large
    print("2 MiB payload")

    await alice.drain()
    await bob.drain()
    assert not errors, errors
    print("drain")


asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2]), 60))
