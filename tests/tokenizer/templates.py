#!/usr/bin/env python3
"""What transformers makes of chat templates, for tests/tokenizer/templates.rs.

    templates.py own        renders templates/*.jinja and templates/snippets.txt into templates/expected.json
    templates.py published  fetches the templates that the npm package @huggingface/ollama-utils carries, renders them and
                            compares this program with the result (needs a network; not part of CI)

Needs Python with transformers and jinja2, and cargo for the second."""

import copy, io, json, os, pathlib, re, subprocess, sys, tarfile, tempfile, urllib.request

from transformers.utils.chat_template_utils import render_jinja_template

HERE = pathlib.Path(__file__).parent
PACKAGE = "https://registry.npmjs.org/@huggingface/ollama-utils"

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a <city>, \"now\".",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "The city"}, "unit": {"type": "string", "enum": ["C", "F"]}},
        "required": ["city"]}}}
ADD = {"type": "function", "function": {
    "name": "add", "description": "Sum",
    "parameters": {"type": "object", "properties": {
        "b": {"type": "number"}, "a": {"type": "array", "items": {"type": "number"}}}}}}
CALL = {"id": "abcdefghi", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Oslo", "unit": "C"}}}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


CONVERSATIONS = [
    {"name": "one question", "messages": [say("user", "  Hi, it's 5 > 3 & \"é\" \n")]},
    {"name": "system and turns", "messages": [
        say("system", "Be kind."), say("user", "One?"), say("assistant", "Two."), say("user", "Three?")]},
    {"name": "reasoning", "variables": {"enable_thinking": False}, "messages": [
        say("user", "One?"), say("assistant", "Two.", reasoning_content="hm, so"), say("user", "Three?")]},
    {"name": "tools", "tools": [WEATHER, ADD], "messages": [
        say("system", "Be kind."), say("user", "Weather in Oslo?")]},
    {"name": "tool calls", "tools": [WEATHER], "messages": [
        say("user", "Weather in Oslo?"), say("assistant", "", tool_calls=[CALL]),
        say("tool", "{\"t\": 3.5}", name="get_weather", tool_call_id="abcdefghi"), say("assistant", "Cold."),
        say("user", "Thanks <b>")]},
    {"name": "no beginning of an answer", "without_answer": True, "messages": [say("user", "A"), say("assistant", "B\n")]},
]
SNIPPET = {"messages": [say("system", "Be kind."), say("user", " One? "), say("assistant", "Two.")]}


def render(source, conversation):
    """The text, or None where transformers refuses."""
    try:
        text = render_jinja_template(
            [copy.deepcopy(conversation["messages"])], tools=conversation.get("tools"), chat_template=source,
            add_generation_prompt=not conversation.get("without_answer", False), bos_token="<s>", eos_token="</s>",
            **conversation.get("variables", {}))
    except Exception:
        return None
    while not isinstance(text, str):
        text = text[0]
    return text


def write(path, templates, snippets):
    expected = {
        "conversations": CONVERSATIONS,
        "templates": [{"name": name, "source": source, "expected": [render(source, c) for c in CONVERSATIONS]}
                      for name, source in templates],
        "snippet": SNIPPET,
        "snippets": [[source, render(source, SNIPPET)] for source in snippets],
    }
    path.write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n")


def own():
    folder = HERE / "templates"
    templates = [(path.name, path.read_text()) for path in sorted(folder.glob("*.jinja"))]
    write(folder / "expected.json", templates, (folder / "snippets.txt").read_text().splitlines())


def published():
    latest = json.load(urllib.request.urlopen(f"{PACKAGE}/latest"))
    archive = tarfile.open(fileobj=io.BytesIO(urllib.request.urlopen(latest["dist"]["tarball"]).read()))
    text = archive.extractfile("package/src/chat-template-automap.ts").read().decode()
    # The list is JavaScript; node knows how its strings are written.
    script = re.sub(r"^import.*$", "", text, flags=re.M)
    script = re.sub(r"export const \w+: \w+\[\] =", "const all =", script)
    script += "\nconsole.log(JSON.stringify(all.map(x => [x.model, x.gguf])))"
    listed = json.loads(subprocess.run(["node", "-"], input=script, capture_output=True, text=True, check=True).stdout)
    templates = list({source: (name, source) for name, source in listed}.values())
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "published.json"
        write(path, templates, [])
        command = ["cargo", "test", "--test", "tokenizer", "published", "--", "--ignored", "--nocapture"]
        sys.exit(subprocess.run(command, env={**os.environ, "BITNET_TEMPLATES": str(path)}).returncode)


if __name__ == "__main__":
    {"own": own, "published": published}[sys.argv[1]]()
