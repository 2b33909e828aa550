"""The official client of OpenAI's API."""

import asyncio
import json

import openai
import pydantic
import pytest

from conftest import WEATHER

STORY = [{"role": "user", "content": "Tell me a story about a dog."}]


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.v1, api_key="none", max_retries=0)


def test_models(client):
    models = client.models.list().data
    assert len(models) == 1
    assert client.models.retrieve(models[0].id).id == models[0].id


def test_whole_and_streamed_answers_are_equal(client):
    options = dict(model="any", messages=STORY, max_tokens=24, temperature=0)
    whole = client.chat.completions.create(**options)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 24
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 24
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 24
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_seed_repeats_and_choices_differ(client):
    options = dict(model="any", messages=STORY, max_tokens=16, temperature=1.0, seed=7)
    first = client.chat.completions.create(**options)
    assert client.chat.completions.create(**options).choices[0].message.content == first.choices[0].message.content
    two = client.chat.completions.create(**options, n=2)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.choices[0].message.content != two.choices[1].message.content
    assert two.usage.completion_tokens == 32


def test_stop_strings_are_not_in_the_text(client):
    options = dict(model="any", messages=STORY, max_tokens=40, temperature=0)
    text = client.chat.completions.create(**options).choices[0].message.content
    stop = text.split()[5]
    stopped = client.chat.completions.create(**options, stop=[stop])
    assert stopped.choices[0].finish_reason == "stop"
    assert text.startswith(stopped.choices[0].message.content) and stop not in stopped.choices[0].message.content


def test_logprobs(client):
    answer = client.chat.completions.create(
        model="any", messages=STORY, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 5
    assert bytes(byte for token in tokens for byte in token.bytes).decode() == answer.choices[0].message.content
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token


def test_a_schema_is_obeyed(client):
    class Pet(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=12)
        legs: int = pydantic.Field(ge=0, le=8)
        kind: str = pydantic.Field(pattern="^(dog|cat)$")

    parsed = client.chat.completions.parse(model="any", messages=STORY, response_format=Pet, temperature=0)
    assert isinstance(parsed.choices[0].message.parsed, Pet)
    free = client.chat.completions.create(
        model="any", messages=STORY, response_format={"type": "json_object"}, max_tokens=200, temperature=0
    )
    if free.choices[0].finish_reason == "stop":
        json.loads(free.choices[0].message.content)


def test_a_required_tool_is_called(client):
    options = dict(model="any", messages=STORY, tools=[WEATHER], temperature=0)
    whole = client.chat.completions.create(**options, tool_choice="required").choices[0]
    assert whole.finish_reason == "tool_calls" and not whole.message.content
    (call,) = whole.message.tool_calls
    assert call.id and call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"place", "days"}
    named = {"type": "function", "function": {"name": "weather"}}
    arguments, finish = "", None
    for chunk in client.chat.completions.create(**options, tool_choice=named, stream=True):
        for delta in chunk.choices[0].delta.tool_calls or []:
            arguments += delta.function.arguments or ""
        finish = chunk.choices[0].finish_reason or finish
    assert finish == "tool_calls"
    assert set(json.loads(arguments)) == {"place", "days"}


def test_tools_that_a_template_does_not_know_are_no_error(client):
    answer = client.chat.completions.create(model="any", messages=STORY, tools=[WEATHER] * 36, max_tokens=8)
    assert answer.choices[0].message.content


def test_a_history_with_tool_calls(client):
    messages = STORY + [
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        ]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    assert client.chat.completions.create(model="any", messages=messages, max_tokens=4).choices[0].message.content


def test_legacy_completions(client):
    answer = client.completions.create(model="any", prompt=["Once upon a time", "The cat"], max_tokens=6, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    streamed = client.completions.create(model="any", prompt="Once upon a time", max_tokens=6, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == answer.choices[0].text


def test_errors_have_their_classes(client, key_server):
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="any", messages=STORY, extra_body={"temperature": "hot"})
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": "word " * 20000}])
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such")
    wrong = openai.OpenAI(base_url=key_server.v1, api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    assert openai.OpenAI(base_url=key_server.v1, api_key="secret").models.list().data


def test_a_closed_stream_frees_the_slot(client):
    for _ in range(20):
        stream = client.chat.completions.create(model="any", messages=STORY, stream=True)
        next(iter(stream))
        stream.close()
    assert client.chat.completions.create(model="any", messages=STORY, max_tokens=4).choices[0].message.content


def test_many_at_once_are_not_mixed_up(server):
    async def all_of_them():
        client = openai.AsyncOpenAI(base_url=server.v1, api_key="none", max_retries=0, timeout=300)

        async def one(index):
            messages = [{"role": "user", "content": f"Tell me a story about {index} cats."}]
            answer = await client.chat.completions.create(
                model="any", messages=messages, max_tokens=12, temperature=1.0, seed=index
            )
            return answer.choices[0].message.content

        together = await asyncio.gather(*(one(index) for index in range(50)))
        alone = [await one(index) for index in range(50)]
        assert together == alone

    asyncio.run(all_of_them())


def test_responses(client):
    answer = client.responses.create(model="any", input="Tell me a story.", max_output_tokens=16)
    assert answer.output_text and answer.usage.output_tokens == 16
    events = list(client.responses.create(model="any", input="Tell me a story.", max_output_tokens=16, stream=True))
    assert events[0].type == "response.created" and events[-1].type in ("response.completed", "response.incomplete")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text
