"""Conversations: tools, forms, streams."""

import asyncio

import pydantic
import pytest

from bitnet_gpu import UsageError

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "maxLength": 10}, "days": {"enum": [1, 2]}},
            "required": ["place", "days"],
            "additionalProperties": False,
        },
    },
}
QUESTION = [{"role": "user", "content": "Tell me about a dog."}]
OPTIONS = {"temperature": 0, "max_tokens": 16}


def test_a_text_is_a_message_of_the_user(llm):
    of_text, of_messages = llm.chat(QUESTION[0]["content"], **OPTIONS), llm.chat(QUESTION, **OPTIONS)
    assert of_text.text == of_messages.text != ""
    assert of_text.message["role"] == "assistant"
    assert (of_text.completion_tokens, of_text.finish_reason) == (16, "length")


def test_conversations_side_by_side_give_what_each_gives_alone(llm):
    others = [[{"role": "user", "content": f"Tell me about a {thing}."}] for thing in ("cat", "boat", "dog")]
    together = llm.chat(others, **OPTIONS)
    assert [one.text for one in together] == [llm.chat(one, **OPTIONS).text for one in others]


def test_a_stream_gives_the_text_of_the_whole(llm):
    whole = llm.chat(QUESTION, **OPTIONS)
    stream = llm.chat(QUESTION, stream=True, **OPTIONS)
    assert "".join(stream) == whole.text
    assert stream.output.message == whole.message
    assert (stream.output.prompt_tokens, stream.output.finish_reason) == (whole.prompt_tokens, whole.finish_reason)


def test_a_forced_call_of_a_tool_comes_whole_and_streamed(llm):
    wishes = {"tools": [WEATHER], "tool_choice": "required", "temperature": 0, "max_tokens": 200}
    whole = llm.chat(QUESTION, **wishes)
    [call] = whole.tool_calls
    assert call["function"]["name"] == "weather" and whole.finish_reason == "tool_calls"
    stream = llm.chat(QUESTION, stream=True, **wishes)
    list(stream)
    [streamed] = stream.output.tool_calls
    assert streamed["function"] == call["function"]


class Mood(pydantic.BaseModel, extra="forbid"):
    mood: bool


def test_answers_follow_a_schema(llm):
    answer = llm.chat(QUESTION, response_format=Mood, temperature=0)
    assert isinstance(Mood.model_validate(answer.parsed()).mood, bool)
    answer = llm.chat(QUESTION, json_schema={"enum": ["a", "b"]}, temperature=0)
    assert answer.parsed() in ("a", "b")


def test_asyncio(llm):
    async def run():
        whole, stream, two = await asyncio.gather(
            llm.achat(QUESTION, **OPTIONS),
            llm.achat(QUESTION, stream=True, **OPTIONS),
            llm.achat([QUESTION, QUESTION], **OPTIONS),
        )
        return whole.text, "".join([piece async for piece in stream]), *(one.text for one in two)

    assert set(asyncio.run(run())) == {llm.chat(QUESTION, **OPTIONS).text}
    for stream in (llm.chat, lambda *args, **options: asyncio.run(llm.achat(*args, **options))):
        with pytest.raises(TypeError, match="one conversation"):
            stream([QUESTION, QUESTION], stream=True)


def test_what_is_no_conversation_is_refused(llm):
    for wrong in (5, None, ["a"], [5], {"role": "user"}):
        with pytest.raises(TypeError, match="messages"):
            llm.chat(wrong)
    with pytest.raises(UsageError, match="role"):
        llm.chat([{"content": "a"}])
    with pytest.raises(UsageError, match="messages"):
        llm.chat([])
