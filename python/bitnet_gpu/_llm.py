"""A loaded model."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import logging
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Optional, TypeVar, Union, overload

from ._commands import pull
from ._core import Cancel, Core, Reply, settle
from ._errors import EngineError, Error, UsageError
from ._outputs import AsyncTextStream, Chat, ChatBuilder, CompletionBuilder, Output, TextStream, pieces, whole
from ._sampling import SamplingParams, json_schema

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

T = TypeVar("T")

#: A text, or the ids of its tokens.
Prompt = Union[str, Sequence[int]]
Message = Mapping[str, Any]
Params = Union[SamplingParams, Sequence[SamplingParams], None]

#: Names of the built-in story model.
_BUILT_IN = (None, "demo")

#: Requests that wait behind those being answered, for each sequence: a place that gets free is taken at once.
_WAITING_FOR_EACH = 4

_log = logging.getLogger("bitnet_gpu")
_open: weakref.WeakSet[LLM] = weakref.WeakSet()


class LLM:
    """A loaded model that answers many prompts side by side; the text of an answer does not depend on the others.

    Methods can be called from any number of threads; all of them share the sequences.

    Args:
        model: A GGUF file, a Hugging Face directory, or `org/name[:file]` of the Hub, which is downloaded where it is not
            here. `None` or "demo": the built-in story model.
        backend: "auto" measures and takes the faster one; "cpu"; "gpu".
        n_gpu_layers: Layers on the GPU, from the end; -1: all that fit, 0: none.
        device: The GPU: its number in the list of adapters, or a part of its name.
        gpu_memory: Most bytes of GPU memory to use.
        n_ctx: Tokens of prompt and answer together, for each sequence; 0: as many as the model was trained for. `None`: that
            too, but at most 4096.
        n_threads: CPU threads; `None`: one for each core that this process may use.
        n_batch: Most prompt tokens computed at once.
        n_seqs: Sequences side by side. Each has a cache of `n_ctx` tokens.
        type_k: Type of the key cache: "f16", "f32" or "q8_0".
        type_v: Type of the value cache, likewise.
        use_mmap: Map the file instead of copying it: processes share its memory.
        kernel: The CPU kernel for ternary matrices: "i2_s", "tl1", "tl2" or "base3".
        prefer: Goal of "auto": "speed", "memory" or "energy".
        i2s_layout: How I2_S matrices are packed, which no file says: "p128", "p64", "r4", "seq", or "auto" to try.
        chat_template: A built-in form of prompts by its name, or a Jinja template; `None`: that of the file.
        prefix_cache: Bytes of memory for beginnings of conversations that had to give way.
    """

    def __init__(
        self,
        model: Optional[Union[str, os.PathLike[str]]] = None,
        *,
        backend: str = "auto",
        n_gpu_layers: Optional[int] = None,
        device: Optional[str] = None,
        gpu_memory: Optional[int] = None,
        n_ctx: Optional[int] = None,
        n_threads: Optional[int] = None,
        n_batch: int = 512,
        n_seqs: int = 8,
        type_k: str = "f16",
        type_v: str = "f16",
        use_mmap: bool = True,
        kernel: Optional[str] = None,
        prefer: str = "speed",
        i2s_layout: Optional[str] = None,
        chat_template: Optional[str] = None,
        prefix_cache: int = 0,
    ) -> None:
        def opened(path: Optional[Union[str, os.PathLike[str]]]) -> Core:
            return Core(
                path,
                backend=backend,
                n_gpu_layers=n_gpu_layers,
                device=device,
                gpu_memory=gpu_memory,
                n_ctx=n_ctx,
                n_threads=n_threads,
                n_batch=n_batch,
                n_seqs=n_seqs,
                type_k=type_k,
                type_v=type_v,
                use_mmap=use_mmap,
                kernel=kernel,
                prefer=prefer,
                i2s_layout=i2s_layout,
                chat_template=chat_template,
                prefix_cache=prefix_cache,
            )

        path = None if model in _BUILT_IN else model
        try:
            self._core = opened(path)
        except Error as error:
            name = _to_pull(path, error)
            if name is None:
                raise
            _log.info("%s is not here: it is downloaded from the Hugging Face Hub", name)
            self._core = opened(pull(name))
        self._facts: dict[str, Any] = json.loads(self._core.facts())
        if not self._facts["embeds"]:
            self._core.load()
        for line in self._core.notices():
            _log.info(line)
        _open.add(self)

    # Facts

    @property
    def n_ctx(self) -> int:
        """Tokens of prompt and answer together."""
        return int(self._facts["n_ctx"])

    @property
    def n_vocab(self) -> int:
        """Tokens of the vocabulary."""
        return int(self._facts["n_vocab"])

    @property
    def n_embd(self) -> int:
        """Width of the model, and of its vectors."""
        return int(self._facts["n_embd"])

    @property
    def n_seqs(self) -> int:
        """Sequences side by side."""
        return int(self._facts["n_seqs"])

    @property
    def info(self) -> dict[str, Any]:
        """Numbers and names of the model."""
        return dict(self._facts)

    def plan(self) -> dict[str, Any]:
        """Which layers run where, and why."""
        plan: dict[str, Any] = json.loads(self._core.plan())
        return plan

    # Texts

    def generate(
        self, prompts: Union[Prompt, Sequence[Prompt]], sampling_params: Params = None, **options: Any
    ) -> list[Output]:
        """Continues each of the prompts, side by side; the outputs are in their order.

        The options are those of `SamplingParams`, as an object, one object for each prompt, or keyword arguments.
        """
        given = _prompts(prompts)
        return self._all("/completion", _bodies(given, sampling_params, options), _makers(given))

    async def agenerate(
        self, prompts: Union[Prompt, Sequence[Prompt]], sampling_params: Params = None, **options: Any
    ) -> list[Output]:
        """As `generate`, while the event loop goes on."""
        given = _prompts(prompts)
        return await self._aall("/completion", _bodies(given, sampling_params, options), _makers(given))

    def stream(
        self, prompt: Prompt, sampling_params: Optional[SamplingParams] = None, **options: Any
    ) -> TextStream[Output]:
        """Continues a prompt; iterates over pieces of the text as they are written."""
        given = _prompt(prompt)
        [body] = _bodies([given], sampling_params, options, stream=True)
        return TextStream(self._ask("/completion", body), CompletionBuilder(given), self)

    def astream(
        self, prompt: Prompt, sampling_params: Optional[SamplingParams] = None, **options: Any
    ) -> AsyncTextStream[Output]:
        """As `stream`, for `async for`."""
        given = _prompt(prompt)
        [body] = _bodies([given], sampling_params, options, stream=True)
        return AsyncTextStream(self._ask("/completion", body), CompletionBuilder(given), self)

    # Conversations

    @overload
    def chat(
        self,
        messages: Union[str, Sequence[Message]],
        sampling_params: Optional[SamplingParams] = None,
        *,
        tools: Optional[Sequence[Mapping[str, Any]]] = None,
        tool_choice: Any = None,
        response_format: Any = None,
        template_variables: Optional[Mapping[str, Any]] = None,
        stream: Literal[False] = False,
        **options: Any,
    ) -> Chat: ...

    @overload
    def chat(
        self,
        messages: Union[str, Sequence[Message]],
        sampling_params: Optional[SamplingParams] = None,
        *,
        tools: Optional[Sequence[Mapping[str, Any]]] = None,
        tool_choice: Any = None,
        response_format: Any = None,
        template_variables: Optional[Mapping[str, Any]] = None,
        stream: Literal[True],
        **options: Any,
    ) -> TextStream[Chat]: ...

    @overload
    def chat(
        self,
        messages: Sequence[Sequence[Message]],
        sampling_params: Optional[SamplingParams] = None,
        *,
        tools: Optional[Sequence[Mapping[str, Any]]] = None,
        tool_choice: Any = None,
        response_format: Any = None,
        template_variables: Optional[Mapping[str, Any]] = None,
        stream: Literal[False] = False,
        **options: Any,
    ) -> list[Chat]: ...

    def chat(
        self,
        messages: Union[str, Sequence[Message], Sequence[Sequence[Message]]],
        sampling_params: Optional[SamplingParams] = None,
        *,
        tools: Optional[Sequence[Mapping[str, Any]]] = None,
        tool_choice: Any = None,
        response_format: Any = None,
        template_variables: Optional[Mapping[str, Any]] = None,
        stream: bool = False,
        **options: Any,
    ) -> Union[Chat, list[Chat], TextStream[Chat]]:
        """Answers a conversation, or each of a list of conversations side by side.

        `messages` and `tools` are as in OpenAI's API, and a text is a message of the user. `response_format` is as there, or
        a pydantic model. With `stream` it iterates over pieces of the text.
        """
        wishes = _chat_fields(sampling_params, options, tools, tool_choice, response_format, template_variables)
        if stream:
            body = _streamed({**wishes, "messages": _messages(_one_conversation(messages))})
            return TextStream(self._ask("/v1/chat/completions", body), ChatBuilder(), self)
        are_many = _is_list_of_conversations(messages)
        bodies = [{**wishes, "messages": _messages(one)} for one in (messages if are_many else [messages])]
        answers = self._all("/v1/chat/completions", bodies, [Chat.of] * len(bodies))
        return answers if are_many else answers[0]

    async def achat(
        self,
        messages: Union[str, Sequence[Message], Sequence[Sequence[Message]]],
        sampling_params: Optional[SamplingParams] = None,
        *,
        tools: Optional[Sequence[Mapping[str, Any]]] = None,
        tool_choice: Any = None,
        response_format: Any = None,
        template_variables: Optional[Mapping[str, Any]] = None,
        stream: bool = False,
        **options: Any,
    ) -> Union[Chat, list[Chat], AsyncTextStream[Chat]]:
        """As `chat`, while the event loop goes on; `async for piece in await llm.achat(..., stream=True)`."""
        wishes = _chat_fields(sampling_params, options, tools, tool_choice, response_format, template_variables)
        if stream:
            body = _streamed({**wishes, "messages": _messages(_one_conversation(messages))})
            return AsyncTextStream(self._ask("/v1/chat/completions", body), ChatBuilder(), self)
        are_many = _is_list_of_conversations(messages)
        bodies = [{**wishes, "messages": _messages(one)} for one in (messages if are_many else [messages])]
        answers = await self._aall("/v1/chat/completions", bodies, [Chat.of] * len(bodies))
        return answers if are_many else answers[0]

    # Tokens, vectors, probabilities

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text, with the tokens that begin and end one where the model wants them."""
        return self._core.tokenize(text, add_special, parse_special)

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids; markup shows only with `special`."""
        return self._core.detokenize(list(ids), special)

    def embed(
        self,
        texts: Union[str, Iterable[str]],
        *,
        pooling: Optional[Literal["last", "mean"]] = None,
        prompt_name: Optional[str] = None,
    ) -> NDArray[numpy.float32]:
        """Vectors of texts, (texts, dim), each of length 1. Texts share batches, and each vector is what it is alone.

        `pooling` is needed for models that were made to write text, whose vectors mean little. `prompt_name` is that of a text
        which the model was trained to find before others, such as "query".
        """
        return self._embedded(texts, pooling, prompt_name)[0]

    async def aembed(
        self,
        texts: Union[str, Iterable[str]],
        *,
        pooling: Optional[Literal["last", "mean"]] = None,
        prompt_name: Optional[str] = None,
    ) -> NDArray[numpy.float32]:
        """As `embed`, while the event loop goes on."""
        return (await _beside(lambda cancel: self._embedded(texts, pooling, prompt_name, cancel)))[0]

    def _embedded(
        self,
        texts: Union[str, Iterable[str]],
        pooling: Optional[Literal["last", "mean"]],
        prompt_name: Optional[str] = None,
        cancel: Optional[Cancel] = None,
    ) -> tuple[NDArray[numpy.float32], int]:
        """The vectors of texts, and the tokens that all of them have."""
        import numpy

        given = _texts(texts)
        vectors, dim, tokens = self._core.embed(given, pooling, prompt_name, cancel)
        return numpy.frombuffer(vectors, numpy.float32).reshape(len(given), dim), tokens

    def logits(self, prompt: Prompt, *, after_each: bool = False) -> NDArray[numpy.float32]:
        """Logits after the last token of a prompt, (vocab), or after each of them, (tokens, vocab)."""
        return self._logits(prompt, after_each)

    async def alogits(self, prompt: Prompt, *, after_each: bool = False) -> NDArray[numpy.float32]:
        """As `logits`, while the event loop goes on."""
        return await _beside(lambda cancel: self._logits(prompt, after_each, cancel))

    def _logits(self, prompt: Prompt, after_each: bool, cancel: Optional[Cancel] = None) -> NDArray[numpy.float32]:
        import numpy

        given = _prompt(prompt)
        ids = self.tokenize(given) if isinstance(given, str) else given
        logits = numpy.frombuffer(self._core.logits(ids, after_each, cancel), numpy.float32)
        return logits.reshape(len(ids), -1) if after_each else logits

    def perplexity(self, text: str, *, chunk: Optional[int] = None) -> dict[str, Any]:
        """How well the model predicts a text, as llama-perplexity defines it, in chunks of so many tokens."""
        return self._perplexity(text, chunk)

    async def aperplexity(self, text: str, *, chunk: Optional[int] = None) -> dict[str, Any]:
        """As `perplexity`, while the event loop goes on."""
        return await _beside(lambda cancel: self._perplexity(text, chunk, cancel))

    def _perplexity(self, text: str, chunk: Optional[int], cancel: Optional[Cancel] = None) -> dict[str, Any]:
        likelihood: dict[str, Any] = json.loads(self._core.perplexity(text, chunk, cancel))
        return likelihood

    # Life

    def close(self) -> None:
        """Ends all answers and frees the memory of the model."""
        self._core.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Where opening failed there is none.
        core = self.__dict__.get("_core")
        if core is not None:
            core.close()

    def __repr__(self) -> str:
        return f"<LLM {self._facts['name']}: {self.n_seqs} sequences of {self.n_ctx} tokens>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an LLM holds a loaded model and cannot be pickled: send its arguments, and make one in each process")

    # Requests

    def request(self, path: str, fields: Mapping[str, Any]) -> Any:
        """The answer of a route of the server, in this process: `request("/v1/completions", {"prompt": "A"})`."""
        return whole(self._ask(path, fields), lambda answer: answer)

    def stream_request(self, path: str, fields: Mapping[str, Any]) -> Iterator[Any]:
        """The events of a route of the server, in this process."""
        from ._outputs import read

        reply = self._ask(path, _streamed(fields))
        try:
            for piece in reply:
                yield read(piece)
        finally:
            reply.close()

    def _ask(self, path: str, fields: Mapping[str, Any]) -> Reply:
        try:
            body = json.dumps(fields, ensure_ascii=False, allow_nan=False, default=_plain)
        except ValueError as error:
            raise UsageError(f"a request: {error}") from None
        return self._core.ask(path, body)

    @property
    def _window(self) -> int:
        return self.n_seqs * (1 + _WAITING_FOR_EACH)

    def _all(
        self,
        path: str,
        bodies: Iterable[Mapping[str, Any]],
        makers: Iterable[Callable[[Any], T]],
        take: Callable[[Reply, Callable[[Any], T]], T] = whole,
    ) -> list[T]:
        """The answers to all of `bodies`, in their order. What `take` raises, or an interrupt, ends all of them."""
        waiting: deque[tuple[Reply, Callable[[Any], T]]] = deque()
        done: list[T] = []
        try:
            for body, make in zip(bodies, makers):
                waiting.append((self._ask(path, body), make))
                if len(waiting) >= self._window:
                    done.append(take(*waiting[0]))
                    waiting.popleft()
            while waiting:
                done.append(take(*waiting[0]))
                waiting.popleft()
        finally:
            for reply, _ in waiting:
                reply.close()
        return done

    async def _aall(
        self, path: str, bodies: Iterable[Mapping[str, Any]], makers: Iterable[Callable[[Any], T]]
    ) -> list[T]:
        """As `_all`, while the event loop goes on."""
        window = asyncio.Semaphore(self._window)

        async def one(body: Mapping[str, Any], make: Callable[[Any], T]) -> T:
            async with window, contextlib.aclosing(pieces(self._ask(path, body))) as answers:
                async for answer in answers:
                    return make(answer)
            raise EngineError("the model was closed while it answered")

        tasks = [asyncio.ensure_future(one(body, make)) for body, make in zip(bodies, makers)]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()


async def _beside(work: Callable[[Cancel], T]) -> T:
    """The result of work on a thread of its own, which ends where its task is cancelled."""
    cancel = Cancel()
    try:
        return await asyncio.to_thread(work, cancel)
    finally:
        cancel.set()


@atexit.register
def _close_all() -> None:
    # Devices are left in order before the interpreter goes.
    for llm in list(_open):
        llm.close()
    settle()


def _to_pull(path: Optional[Union[str, os.PathLike[str]]], error: Error) -> Optional[str]:
    """The name of the Hub that would mend an error, where the network may be used."""
    name: Optional[str] = getattr(error, "pull", None)
    is_offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    # A path into a folder that is there names a file that is not.
    is_path = path is not None and os.path.isdir(os.path.dirname(os.fspath(path)))
    return None if is_offline or is_path else name


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a request: expected what JSON has, found {type(value).__name__}")


def _is_ids(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and all(isinstance(id, int) for id in value)


def _prompts(prompts: Any) -> list[Union[str, list[int]]]:
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Iterable) or isinstance(prompts, (bytes, Mapping)):
        raise TypeError(f"prompts: expected a string, token ids, or a list of either, found {type(prompts).__name__}")
    given = prompts.tolist() if hasattr(prompts, "tolist") else list(prompts)
    if given and _is_ids(given):
        return [given]
    return [_prompt(one) for one in given]


def _prompt(prompt: Any) -> Union[str, list[int]]:
    if isinstance(prompt, str):
        return prompt
    if hasattr(prompt, "tolist"):
        # numpy's arrays
        prompt = prompt.tolist()
    if _is_ids(prompt):
        return list(prompt)
    raise TypeError(f"a prompt: expected a string or token ids, found {type(prompt).__name__}")


def _texts(texts: Any) -> list[str]:
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, (bytes, Mapping)):
        raise TypeError(f"texts: expected a string or a list of strings, found {type(texts).__name__}")
    given = list(texts)
    for text in given:
        if not isinstance(text, str):
            raise TypeError(f"texts: expected strings, found {type(text).__name__}")
    return given


def _bodies(
    prompts: Sequence[Union[str, list[int]]], params: Params, options: Mapping[str, Any], stream: bool = False
) -> list[dict[str, Any]]:
    if params is None or isinstance(params, SamplingParams):
        each: list[Optional[SamplingParams]] = [params] * len(prompts)
    elif isinstance(params, Sequence) and not isinstance(params, str):
        each = list(params)
    else:
        raise TypeError(f"sampling parameters: expected SamplingParams, found {type(params).__name__}")
    if len(each) != len(prompts):
        raise TypeError(f"sampling parameters: expected one for each of {len(prompts)} prompts, found {len(each)}")

    # Usually one object is for all.
    known: dict[int, dict[str, Any]] = {}

    def fields(params: Optional[SamplingParams]) -> dict[str, Any]:
        if id(params) not in known:
            made = SamplingParams.of(params, options).fields()
            if "logprobs" in made:
                made["n_probs"] = made.pop("logprobs")
            known[id(params)] = made
        return known[id(params)]

    return [
        {**fields(params), "prompt": prompt, "return_tokens": True, "stream": stream}
        for prompt, params in zip(prompts, each)
    ]


def _makers(prompts: Sequence[Union[str, list[int]]]) -> list[Callable[[Any], Output]]:
    def maker(prompt: Union[str, list[int]]) -> Callable[[Any], Output]:
        return lambda answer: Output.of(prompt, answer)

    return [maker(prompt) for prompt in prompts]


def _is_list_of_conversations(messages: Any) -> bool:
    return isinstance(messages, Sequence) and bool(messages) and all(
        isinstance(one, Sequence) and not isinstance(one, str) for one in messages
    )


def _one_conversation(messages: Any) -> Any:
    if _is_list_of_conversations(messages):
        raise TypeError("messages: a stream takes one conversation, found a list of them")
    return messages


def _messages(messages: Any) -> list[dict[str, Any]]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        raise TypeError(f"messages: expected a string or a list of dictionaries, found {messages!r:.80}")
    return [dict(message) for message in messages]


def _chat_fields(
    params: Optional[SamplingParams],
    options: Mapping[str, Any],
    tools: Optional[Sequence[Mapping[str, Any]]],
    tool_choice: Any,
    response_format: Any,
    template_variables: Optional[Mapping[str, Any]],
) -> dict[str, Any]:
    fields = SamplingParams.of(params, options).fields()
    if "logprobs" in fields:
        fields["top_logprobs"], fields["logprobs"] = fields["logprobs"], True
    if isinstance(response_format, type):
        response_format = {"type": "json_schema", "json_schema": {"schema": json_schema(response_format)}}
    given = {
        "tools": None if tools is None else list(tools),
        "tool_choice": tool_choice,
        "response_format": response_format,
        "chat_template_kwargs": template_variables,
    }
    return {**fields, **{name: value for name, value in given.items() if value is not None}}


def _streamed(body: Mapping[str, Any]) -> dict[str, Any]:
    return {**body, "stream": True, "stream_options": {"include_usage": True}}
