"""What comes back: whole answers, and streams of their pieces."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Optional, TypeVar, Union

from ._core import Reply
from ._errors import of_answer

T = TypeVar("T")

Json = dict[str, Any]

#: End of an answer that was given up.
_UNFINISHED = "cancelled"


@dataclasses.dataclass
class Completion:
    """One answer to a prompt."""

    text: str
    token_ids: list[int]
    #: "stop" where the model or a stop string ended it, "length" where a limit did.
    finish_reason: str
    #: The stop string that ended it.
    stop_reason: Optional[str] = None
    #: For each token its logarithm of the probability and those of the best others, where they were asked for.
    logprobs: Optional[list[Json]] = None


@dataclasses.dataclass
class Output:
    """The answers to a prompt."""

    prompt: Union[str, list[int]]
    prompt_tokens: int
    outputs: list[Completion]
    #: Times and rates of the first answer, in the words of llama.cpp's server.
    timings: Json = dataclasses.field(default_factory=dict, repr=False)

    @property
    def text(self) -> str:
        """The text of the first answer."""
        return self.outputs[0].text

    @property
    def token_ids(self) -> list[int]:
        """The tokens of the first answer."""
        return self.outputs[0].token_ids

    @property
    def finish_reason(self) -> str:
        """The end of the first answer: "stop" or "length"."""
        return self.outputs[0].finish_reason

    @classmethod
    def of(cls, prompt: Union[str, list[int]], answer: Union[Json, list[Json]]) -> Output:
        """The output for what `/completion` answers."""
        answers = answer if isinstance(answer, list) else [answer]
        completions = [
            Completion(
                text=one["content"],
                token_ids=one["tokens"],
                finish_reason=_finish_reason(one),
                stop_reason=one["stopping_word"] or None,
                logprobs=one.get("completion_probabilities"),
            )
            for one in answers
        ]
        return cls(prompt, answers[0]["tokens_evaluated"], completions, answers[0]["timings"])


def _finish_reason(last: Json) -> str:
    return "length" if last["stop_type"] == "limit" else "stop"


@dataclasses.dataclass
class Chat:
    """The answer to a conversation."""

    #: The message to append to the conversation.
    message: Json
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    #: All that the server would have answered: choices, usage, timings, logprobs.
    raw: Json = dataclasses.field(repr=False)

    @property
    def text(self) -> str:
        """What the model said, without its thoughts."""
        return self.message.get("content") or ""

    @property
    def reasoning(self) -> str:
        """What it thought, where it tells that apart."""
        return self.message.get("reasoning_content") or ""

    @property
    def tool_calls(self) -> list[Json]:
        """Calls of tools that it asks for."""
        return list(self.message.get("tool_calls") or [])

    def parsed(self) -> Any:
        """The text as JSON, for answers that follow a schema."""
        return json.loads(self.text)

    @classmethod
    def of(cls, answer: Json) -> Chat:
        """The answer for what `/v1/chat/completions` answers."""
        choice, usage = answer["choices"][0], answer["usage"]
        counts = usage["prompt_tokens"], usage["completion_tokens"]
        return cls(choice["message"], choice["finish_reason"], *counts, raw=answer)


def read(piece: str) -> Any:
    """The JSON of a piece; an error in it is raised."""
    value = json.loads(piece)
    if isinstance(value, dict) and isinstance(value.get("error"), dict):
        raise of_answer(value["error"])
    return value


class Builder(Generic[T]):
    """Makes a whole answer of the pieces of a stream."""

    def take(self, piece: Json) -> str:
        """Takes a piece in; returns its text."""
        raise NotImplementedError

    def whole(self) -> T:
        """The answer so far."""
        raise NotImplementedError

    def check_end(self) -> None:
        """Raises where the answer lacks its end."""
        if getattr(self.whole(), "finish_reason", None) == _UNFINISHED:
            raise of_answer({"type": "unavailable_error"})


class CompletionBuilder(Builder[Output]):
    """Of the pieces of `/completion`."""

    def __init__(self, prompt: Union[str, list[int]]) -> None:
        self._output = Output(prompt, 0, [Completion("", [], _UNFINISHED)])

    def take(self, piece: Json) -> str:
        answer = self._output.outputs[0]
        answer.text += piece["content"]
        answer.token_ids += piece["tokens"]
        if "completion_probabilities" in piece:
            answer.logprobs = [*(answer.logprobs or []), *piece["completion_probabilities"]]
        self._output.prompt_tokens = piece["tokens_evaluated"]
        if piece["stop"]:
            answer.finish_reason, answer.stop_reason = _finish_reason(piece), piece["stopping_word"] or None
            self._output.timings = piece["timings"]
        return str(piece["content"])

    def whole(self) -> Output:
        return self._output


class ChatBuilder(Builder[Chat]):
    """Of the pieces of `/v1/chat/completions`."""

    def __init__(self) -> None:
        message = {"role": "assistant", "content": ""}
        self._chat = Chat(message, _UNFINISHED, 0, 0, raw={})

    def take(self, piece: Json) -> str:
        chat = self._chat
        chat.raw = piece
        if usage := piece.get("usage"):
            chat.prompt_tokens, chat.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        text = ""
        for choice in piece["choices"]:
            delta = choice["delta"]
            text = delta.get("content") or ""
            chat.message["content"] += text
            if thought := delta.get("reasoning_content"):
                chat.message["reasoning_content"] = chat.message.get("reasoning_content", "") + thought
            for part in delta.get("tool_calls", []):
                calls = chat.message.setdefault("tool_calls", [])
                if part["index"] == len(calls):
                    calls.append({key: value for key, value in part.items() if key != "index"})
                else:
                    calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
            chat.finish_reason = choice["finish_reason"] or chat.finish_reason
        return text

    def whole(self) -> Chat:
        return self._chat


class TextStream(Generic[T]):
    """Pieces of an answer as they are written. `close()`, the end of a `with`, or an interrupt end it early."""

    def __init__(self, reply: Reply, builder: Builder[T], owner: object) -> None:
        self._reply, self._builder = reply, builder
        # A model that nobody else holds would be closed.
        self._owner = owner
        self._is_closed = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            for piece in self._reply:
                if text := self._builder.take(read(piece)):
                    return text
            if not self._is_closed:
                self._builder.check_end()
        except BaseException:
            self.close()
            raise
        raise StopIteration

    def close(self) -> None:
        """Ends the answer; what was written so far is in `output`."""
        self._is_closed = True
        self._reply.close()

    def __enter__(self) -> TextStream[T]:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    @property
    def output(self) -> T:
        """The answer so far; whole at the end of the stream."""
        return self._builder.whole()


class AsyncTextStream(Generic[T]):
    """As `TextStream`, for `async for`."""

    def __init__(self, reply: Reply, builder: Builder[T], owner: object) -> None:
        self._reply, self._builder, self._owner = reply, builder, owner
        self._is_closed = False
        self._texts = self._read()

    async def _read(self) -> AsyncIterator[str]:
        async for piece in pieces(self._reply):
            if text := self._builder.take(piece):
                yield text
        if not self._is_closed:
            self._builder.check_end()

    def __aiter__(self) -> AsyncIterator[str]:
        return self._texts

    async def aclose(self) -> None:
        """Ends the answer; what was written so far is in `output`."""
        self._is_closed = True
        self._reply.close()

    async def __aenter__(self) -> AsyncTextStream[T]:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.aclose()

    @property
    def output(self) -> T:
        """The answer so far; whole at the end of the stream."""
        return self._builder.whole()


async def pieces(reply: Reply) -> AsyncGenerator[Any, None]:
    """The JSON of a reply, while the event loop goes on."""
    loop = asyncio.get_running_loop()
    news = asyncio.Event()

    def tell() -> None:
        try:
            loop.call_soon_threadsafe(news.set)
        except RuntimeError:
            # The loop has ended, and nobody waits.
            reply.close()

    try:
        reply.notify(tell)
        while True:
            news.clear()
            while (piece := reply.ready()) is not None:
                yield read(piece)
            if reply.ended:
                return
            await news.wait()
    finally:
        reply.close()


def whole(reply: Reply, make: Callable[[Any], T]) -> T:
    """The answer of a reply in one piece."""
    for piece in reply:
        return make(read(piece))
    raise of_answer({"type": "unavailable_error"})
