"""The Python NATS client against the server at argv[1], as the nkey whose seed is in the file argv[2].

Prints one line per thing that works; exits non-zero at the first that does not.
"""

import asyncio
import sys

import nats
from nats.errors import NoRespondersError


async def main(url: str, seed_file: str) -> None:
    errors = []

    async def on_error(error: Exception) -> None:
        errors.append(error)

    # Two connections: what one publishes goes through the server to the other.
    alice = await nats.connect(url, nkeys_seed=seed_file, error_cb=on_error, allow_reconnect=False)
    bob = await nats.connect(url, nkeys_seed=seed_file, error_cb=on_error, allow_reconnect=False)
    print("connect with nkey")

    inbox = await bob.subscribe("agent.*.output")
    await bob.flush()
    await alice.publish("agent.joe.output", b"hello", headers={"Seq": "1"})
    message = await inbox.next_msg(timeout=10)
    assert (message.subject, message.data) == ("agent.joe.output", b"hello"), message
    assert message.headers == {"Seq": "1"}, message.headers
    print("publish, wildcard, headers")

    async def answer(request):
        await request.respond(request.data.upper())

    await bob.subscribe("shout", cb=answer)
    await bob.flush()
    response = await alice.request("shout", b"quiet", timeout=10)
    assert response.data == b"QUIET", response
    print("request and reply")

    try:
        await alice.request("nobody", b"?", timeout=10)
        raise AssertionError("somebody answered")
    except NoRespondersError:
        print("no responders")

    seen = []

    async def work(job):
        seen.append(int(job.data))

    for client in (alice, bob):
        await client.subscribe("jobs", queue="workers", cb=work)
        await client.flush()
    for number in range(100):
        await alice.publish("jobs", str(number).encode())
    for client in (alice, bob):
        await client.flush()
    for _ in range(1000):
        if len(seen) >= 100:
            break
        await asyncio.sleep(0.01)
    assert sorted(seen) == list(range(100)), seen
    print("queue group")

    large = bytes(range(256)) * 4096 * 2
    big = await bob.subscribe("big")
    await bob.flush()
    await alice.publish("big", large)
    assert (await big.next_msg(timeout=10)).data == large
    print("2 MiB payload")

    await alice.drain()
    await bob.drain()
    assert not errors, errors
    print("drain")


asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2]), 60))
