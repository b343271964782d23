#!/usr/bin/env python3
"""Shortens a record of a real session to what a parser's test needs.

    OSTLER_RECORD=/tmp/record cargo nextest run -p e2e --test claude_adapter <one test>
    python3 condense.py < /tmp/record > crates/agents/testdata/claude/<case>/in.jsonl

Long texts and lists are cut and marked with an ellipsis, secrets and the machine's paths go, runs of deltas keep their
first four. What the adapter wrote stays byte for byte: the replay compares it.
"""
import json
import re
import sys

LISTS = {"commands", "slash_commands", "terminal_slash_commands", "skills", "agents", "models", "options", "plugins",
         "capabilities", "tools", "output_styles", "available_output_styles", "permission_suggestions"}
SECRET = re.compile(r"token$|secret|machineID|device_id|installationId", re.I)
TEXT_MAX = 220
LIST_MAX = 3
DELTAS_MAX = 4


def cut(value, key="", text_max=TEXT_MAX):
    if isinstance(value, dict):
        return {name: "<cut>" if SECRET.search(name) and isinstance(inner, str) else cut(inner, name, text_max)
                for name, inner in value.items()}
    if isinstance(value, list):
        if key in LISTS and len(value) > LIST_MAX:
            return [cut(inner, "", 80) for inner in value[:LIST_MAX]] + ["… %d more" % (len(value) - LIST_MAX)]
        return [cut(inner, "", text_max) for inner in value]
    if isinstance(value, str):
        value = re.sub(r"/tmp/\.tmp\w+/home", "/home/agent", value)
        value = re.sub(r"/tmp/\.tmp\w+/project", "/home/agent/project", value)
        value = re.sub(r"-tmp--tmp\w+-", "-home-agent-", value)
        value = re.sub(r"/tmp/cc-socks/\d+", "/tmp/cc-socks/1", value)
        if len(value) > text_max:
            value = value[:text_max] + "… [+%d chars]" % (len(value) - text_max)
    return value


def main():
    deltas, last = 0, None
    for row in sys.stdin:
        step = json.loads(row)
        if "out" in step:
            message = json.loads(step["out"])
            kind = (message.get("event") or {}).get("type") == "content_block_delta"
            deltas = deltas + 1 if kind and last else int(kind)
            last = kind
            if deltas > DELTAS_MAX:
                continue
            step["out"] = json.dumps(cut(message), ensure_ascii=False)
        print(json.dumps(step, ensure_ascii=False))


if __name__ == "__main__":
    main()
