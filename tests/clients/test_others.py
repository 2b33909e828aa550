"""Other clients that programs are written with."""

import subprocess
import sys

import anthropic
import langchain_openai
import litellm
import ollama

from conftest import WEATHER

STORY = [{"role": "user", "content": "Tell me a story about a dog."}]


def test_litellm(server):
    options = dict(model="openai/any", api_base=server.v1, api_key="none", messages=STORY, max_tokens=8, temperature=0)
    whole = litellm.completion(**options)
    assert whole.usage.completion_tokens == 8
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**options, stream=True))
    assert streamed == whole.choices[0].message.content


def test_litellm_recognises_a_full_context(server):
    messages = [{"role": "user", "content": "word " * 20000}]
    try:
        litellm.completion(model="openai/any", api_base=server.v1, api_key="none", messages=messages)
    except litellm.ContextWindowExceededError:
        return
    raise AssertionError("no ContextWindowExceededError")


def test_langchain(server):
    model = dict(base_url=server.v1, api_key="none", model="any", temperature=0)
    chat = langchain_openai.ChatOpenAI(**model, max_tokens=8)
    whole = chat.invoke("Tell me a story.")
    assert whole.usage_metadata["output_tokens"] == 8
    assert "".join(chunk.content for chunk in chat.stream("Tell me a story.")) == whole.content
    caller = langchain_openai.ChatOpenAI(**model).bind_tools([WEATHER], tool_choice="weather")
    calls = caller.invoke("Tell me a story.").tool_calls
    assert calls[0]["name"] == "weather" and set(calls[0]["args"]) == {"place", "days"}


def test_ollama(server):
    client = ollama.Client(host=server.address)
    name = client.list().models[0].model
    assert client.show(name).capabilities
    options = {"num_predict": 8, "temperature": 0}
    whole = client.chat(model=name, messages=STORY, options=options)
    assert whole.done and whole.done_reason == "length" and whole.eval_count == 8
    parts = list(client.chat(model=name, messages=STORY, options=options, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert parts[-1].done
    assert client.generate(model=name, prompt="Once upon a time", options=options).response
    schema = {"type": "object", "properties": {"legs": {"type": "integer", "maximum": 9}}, "required": ["legs"]}
    limited = client.chat(model=name, messages=STORY, format=schema, options={"num_predict": 60, "temperature": 0})
    assert limited.message.content.lstrip().startswith("{")


def test_anthropic(server):
    client = anthropic.Anthropic(base_url=server.address, api_key="none", max_retries=0)
    greedy = {"temperature": 0}
    whole = client.messages.create(model="any", messages=STORY, max_tokens=8, extra_body=greedy)
    assert whole.stop_reason == "max_tokens" and whole.usage.output_tokens == 8
    with client.messages.stream(model="any", messages=STORY, max_tokens=8, extra_body=greedy) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text


def test_llm(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    models = f'- model_id: local\n  model_name: any\n  api_base: "{server.v1}"\n'
    (tmp_path / "extra-openai-models.yaml").write_text(models)
    command = [sys.executable, "-m", "llm", "-m", "local", "--key", "none", "-o", "max_tokens", "8", "Tell me a story."]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
