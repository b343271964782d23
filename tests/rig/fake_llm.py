#!/usr/bin/env python3
"""A scripted stand-in for the Anthropic Messages API, for tests of real agent CLIs without a network or an account.

    python3 fake_llm.py [--port 0]        prints "listening on http://127.0.0.1:PORT" when it is ready

It is a test double, not a model: a directive in the newest user prompt says what to answer. The directive is one line
that starts with `fake:`; a prompt without one is answered "echo: <prompt>".

    fake: say TEXT          one text answer
    fake: bash CMD          call the shell tool, then answer "result: <tool result>"
    fake: tool NAME {json}  call any tool, then answer "result: <tool result>"
    fake: slow N MS         stream N chunks of text, MS milliseconds apart
    fake: think TEXT        a thinking block, then a text
    fake: status CODE       answer with this HTTP status

The server keeps no conversation: it finds the step of a directive by counting the model's turns after it, so one
server serves many agents at once. It also answers

    GET  /_rig/requests     a JSON list of every request body so far, oldest first
"""
import argparse
import json
import re
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

DIRECTIVE = re.compile(r"(?m)(?:^|[\s\"'>])fake:\s*(.+?)\s*$")
REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.S)
INTERRUPTED = re.compile(r"\[Request interrupted")
PIECE_SECONDS = 0.005  # between the pieces of an ordinary answer: enough to arrive as several deltas

REQUESTS = []
LOCK = threading.Lock()


def plain_text(content):
    """The text of a content field, whatever its shape."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(plain_text(part.get("text") or part.get("content") or "") for part in content)
    return ""


def conversation(body):
    """The messages as (who, text, tool result or None); `who` is "user" or "model"."""
    for message in body.get("messages", []):
        content = message.get("content")
        if message.get("role") == "assistant":
            yield "model", "", None
        elif message.get("role") == "user" and isinstance(content, str):
            yield "user", content, None
        elif message.get("role") == "user":
            for part in content:
                if part.get("type") == "tool_result":
                    yield "user", "", plain_text(part.get("content"))
                elif part.get("type") == "text":
                    yield "user", part.get("text", ""), None


def answer(body):
    """What to answer: a dict with some of text, chunks, think, tool, status."""
    prompt, steps_done, result = "", 0, ""
    for who, text, tool_result in conversation(body):
        text = REMINDER.sub("", text).strip()
        if who == "model":
            steps_done += 1
        elif tool_result is not None:
            result = tool_result
        elif text and not INTERRUPTED.search(text):
            prompt, steps_done = text, 0
    directives = DIRECTIVE.findall(prompt)
    if not directives:
        return {"text": "echo: " + prompt[-2000:]}
    verb, _, rest = directives[-1].partition(" ")
    if verb == "say":
        return {"text": rest}
    if verb == "think":
        return {"think": rest, "text": "thought about it"}
    if verb == "slow":
        count, gap_ms = rest.split()
        return {"chunks": [("chunk%d " % i, int(gap_ms) / 1000) for i in range(int(count))]}
    if verb == "status":
        return {"status": int(rest)}
    if verb in ("bash", "tool"):
        if steps_done == 0 and body.get("tools"):
            if verb == "bash":
                return {"tool": ("Bash", {"command": rest, "description": "rig command"})}
            name, _, arguments = rest.partition(" ")
            return {"tool": (name, json.loads(arguments or "{}"))}
        return {"text": "result: " + result}
    return {"text": "unknown directive: " + directives[-1]}


def pieces(step):
    """The text of an answer as (piece, seconds to wait before it)."""
    if "chunks" in step:
        return step["chunks"]
    text = step.get("text", "")
    size = max(1, (len(text) + 3) // 4)
    return [(text[at:at + size], PIECE_SECONDS) for at in range(0, len(text), size)]


def new_id(prefix):
    return prefix + uuid.uuid4().hex[:24]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def send_json(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_event(self, kind, **fields):
        data = ("event: %s\ndata: %s\n\n" % (kind, json.dumps(dict(fields, type=kind)))).encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def do_GET(self):
        if self.path == "/_rig/requests":
            with LOCK:
                return self.send_json(list(REQUESTS))
        self.not_found()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        if urlparse(self.path).path != "/v1/messages":
            return self.not_found()
        with LOCK:
            REQUESTS.append(body)
        try:
            self.messages(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the agent went away in the middle; that is what tests do

    def not_found(self):
        error = {"type": "not_found_error", "message": "the rig has no " + self.path}
        self.send_json({"type": "error", "error": error}, 404)

    def messages(self, body):
        step = answer(body)
        if "status" in step:
            error = {"type": "invalid_request_error", "message": "scripted %d" % step["status"]}
            return self.send_json({"type": "error", "error": error}, step["status"])
        texts = pieces(step)
        usage = {
            "input_tokens": max(1, len(json.dumps(body)) // 4),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 1,
        }
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.send_event("message_start", message={
            "id": new_id("msg_"), "type": "message", "role": "assistant", "model": body.get("model", "fake"),
            "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage})
        index = 0
        if "think" in step:
            self.block(index, {"type": "thinking", "thinking": "", "signature": ""}, [
                ({"type": "thinking_delta", "thinking": step["think"]}, 0),
                ({"type": "signature_delta", "signature": "c2ln"}, 0)])
            index += 1
        if texts:
            self.block(index, {"type": "text", "text": ""}, [
                ({"type": "text_delta", "text": text}, seconds) for text, seconds in texts])
            index += 1
        if "tool" in step:
            name, arguments = step["tool"]
            written = json.dumps(arguments)
            half = len(written) // 2
            self.block(index, {"type": "tool_use", "id": new_id("toolu_"), "name": name, "input": {}}, [
                ({"type": "input_json_delta", "partial_json": part}, 0) for part in (written[:half], written[half:])])
        stop = "tool_use" if "tool" in step else "end_turn"
        used = dict(usage, output_tokens=sum(max(1, len(text) // 4) for text, _ in texts) + 20 * ("tool" in step))
        self.send_event("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage=used)
        self.send_event("message_stop")
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def block(self, index, start, deltas):
        self.send_event("content_block_start", index=index, content_block=start)
        for delta, seconds in deltas:
            time.sleep(seconds)
            self.send_event("content_block_delta", index=index, delta=delta)
        self.send_event("content_block_stop", index=index)


def main():
    parser = argparse.ArgumentParser(description="scripted stand-in for the Anthropic Messages API")
    parser.add_argument("--port", type=int, default=0)
    server = ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Handler)
    server.daemon_threads = True
    print("listening on http://127.0.0.1:%d" % server.server_address[1], flush=True)
    # The test that started it holds the other end of stdin: when it is gone, for whatever reason, so is the server.
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
