#!/usr/bin/env python3
"""Asks a real nats-server what the scripts here ask, and writes down what it answers.

usage: capture.py PORT SCRIPT...      (nats-server -js, with no streams of its own)

A script is a file of JSON lines: {"subject": .., "payload": .., "headers": [[name, value], ..], "wait": seconds,
"reply": "_P.1" .. "_P.8" when it matters whose request is answered}.
Beside `x.script` it writes `x.answers`: a line with the answers to each, in the same order.
"""
import json, socket, sys, time


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.bytes, self.count, self.messages = b"", 0, []
        self.line()
        self.socket.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"protocol":1}\r\nSUB _I.* 1\r\n'
                            + b"".join(b"SUB _P.%d %d\r\nSUB _P.%d.> %d\r\n" % (i, i + 1, i, i + 11) for i in range(1, 9)))

    def fill(self):
        more = self.socket.recv(65536)
        if not more:
            raise EOFError
        self.bytes += more

    def line(self):
        while b"\r\n" not in self.bytes:
            self.fill()
        line, self.bytes = self.bytes.split(b"\r\n", 1)
        return line

    def take(self, count):
        while len(self.bytes) < count:
            self.fill()
        part, self.bytes = self.bytes[:count], self.bytes[count:]
        return part

    def step(self):
        parts = self.line().split()
        if parts[0] == b"MSG":
            total, header, shortest = int(parts[-1]), 0, 4
        elif parts[0] == b"HMSG":
            total, header, shortest = int(parts[-1]), int(parts[-2]), 5
        else:
            return
        body = self.take(total + 2)[:-2]
        reply = parts[3].decode() if len(parts) > shortest else ""
        subject, sid = parts[1].decode(), int(parts[2])
        self.messages.append({"to": "" if sid == 1 else f"_P.{(sid - 1) % 10}", "subject": "" if subject.startswith("_I.") else subject, "reply": reply,
                              "headers": body[:header].decode().replace("\r\n", "|"), "payload": body[header:].decode()})

    def ask(self, subject, payload="", headers=None, wait=0.15, reply=None):
        self.count, self.messages = self.count + 1, []
        body = payload if isinstance(payload, str) else json.dumps(payload)
        body, reply = body.encode(), reply or f"_I.{self.count}"
        if headers:
            block = b"NATS/1.0\r\n" + b"".join(f"{k}: {v}\r\n".encode() for k, v in headers) + b"\r\n"
            head = f"HPUB {subject} {reply} {len(block)} {len(block) + len(body)}\r\n".encode()
            self.socket.sendall(head + block + body + b"\r\n")
        else:
            self.socket.sendall(f"PUB {subject} {reply} {len(body)}\r\n".encode() + body + b"\r\n")
        until = time.time() + wait
        while (left := until - time.time()) > 0:
            self.socket.settimeout(left)
            try:
                self.step()
            except TimeoutError:
                break
        self.socket.settimeout(None)
        return self.messages


for script in sys.argv[2:]:
    client = Client(int(sys.argv[1]))
    # What the last script left behind may push something between.
    answers = [a["payload"] for a in client.ask("$JS.API.STREAM.NAMES") if a["payload"].startswith('{"type"')]
    for name in json.loads(answers[0]).get("streams") or []:
        client.ask(f"$JS.API.STREAM.DELETE.{name}")
    with open(script) as lines, open(script.removesuffix(".script") + ".answers", "w") as answers:
        for line in filter(str.strip, lines):
            answers.write(json.dumps(client.ask(**json.loads(line))) + "\n")
