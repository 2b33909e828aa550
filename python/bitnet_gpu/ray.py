"""Many documents on many machines: Ray Data with an engine in each actor, and Ray Serve in front of servers.

    import ray
    from bitnet_gpu.ray import ProcessorConfig, build_processor

    processor = build_processor(ProcessorConfig("org/name", concurrency=2, num_cpus=4, sampling={"max_tokens": 50}))
    rows = processor(ray.data.from_items([{"id": 1, "prompt": "Once upon a time"}]))

`processor.write(dataset, folder)` does the same into Parquet files, and what is there already is not done again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Optional

from ._errors import ContextError, UsageError
from ._llm import LLM, _bodies, _chat_fields, _messages, _prompt
from ._outputs import Chat, Output, whole

__all__ = ["Processor", "ProcessorConfig", "application", "build_processor"]

Row = dict[str, Any]

#: Rows of a batch for each sequence of an engine: the end of a batch, where places stay empty, counts little.
_ROWS_FOR_EACH = 8

#: Sequences of an engine where its arguments do not say.
_USUAL_SEQUENCES = 8

#: Time between two looks at a server that loads its model, and for all of them.
_LOOK_AROUND, _PATIENCE = 0.1, 600.0


@dataclasses.dataclass(frozen=True)
class ProcessorConfig:
    """What a processor does with each row, and on what."""

    #: As for `LLM`: a path that all machines have, or a name of the Hub.
    model: Optional[str] = None
    #: "generate" continues `prompt`, "chat" answers `messages`, "embed" gives the vector of `prompt`.
    task: Literal["generate", "chat", "embed"] = "generate"
    #: More arguments of `LLM`.
    engine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: Options of `SamplingParams`; a row may have more in `sampling_params`.
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: For "chat": `tools`, `tool_choice`, `response_format`, `template_variables`.
    chat: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: For "embed": `pooling`, `prompt_name`.
    embed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: Actors, each with an engine of its own.
    concurrency: int = 1
    #: CPUs of each actor, which are the threads of its engine.
    num_cpus: int = 1
    #: GPUs of each actor.
    num_gpus: float = 0
    #: Rows that an actor gets at once; `None`: some for each of its sequences.
    batch_size: Optional[int] = None
    #: The column that tells rows apart, for `write`.
    key: str = "id"
    #: Makes the columns that the engine reads of a row.
    preprocess: Optional[Callable[[Row], Row]] = None
    #: Makes the columns that are wanted of a row with its answer.
    postprocess: Optional[Callable[[Row], Row]] = None

    def rows(self) -> int:
        """Rows that an actor gets at once."""
        return self.batch_size or _ROWS_FOR_EACH * int(self.engine.get("n_seqs", _USUAL_SEQUENCES))


class Processor:
    """Answers the rows of a dataset.

    A row gets the columns `generated_text`, `finish_reason`, `num_input_tokens` and `num_generated_tokens`, for "chat" also
    `message` (JSON), for "embed" only `embedding`; and `error`, the reason where it has no answer.
    """

    def __init__(self, config: ProcessorConfig) -> None:
        self.config = config

    def __call__(self, dataset: Any) -> Any:
        """The dataset with its answers; Ray computes them when they are asked for, in any order."""
        return self._mapped(dataset, {})

    def write(self, dataset: Any, folder: str) -> int:
        """Writes the answered rows to Parquet files in a folder that all machines share, or at a URI.

        A file appears whole, and rows whose keys are in one are not done again: after a failure, or with more rows, call it
        again. Returns the number of rows that were done now.
        """
        import ray

        done = ray.put(_keys(folder, self.config.key))
        written = self._mapped(dataset, {"folder": folder, "done": done})
        return sum(len(batch["written"]) for batch in written.iter_batches(batch_format="numpy", batch_size=None))

    def read(self, folder: str) -> Any:
        """The rows that `write` has written, as a dataset."""
        import ray

        return ray.data.read_parquet(folder, file_extensions=["parquet"])

    def _mapped(self, dataset: Any, more: Mapping[str, Any]) -> Any:
        # Some of Ray has no types.
        import ray as untyped

        ray: Any = untyped
        config = self.config
        cpus = ray.cluster_resources().get("CPU", 0)
        if config.concurrency * config.num_cpus >= cpus:
            # Ray would wait without a word.
            raise UsageError(
                f"concurrency x num_cpus: expected less than the {cpus:.0f} CPUs of the cluster, as reading needs one, found "
                f"{config.concurrency * config.num_cpus}"
            )
        return dataset.map_batches(
            _Engine,
            fn_constructor_kwargs={"config": config, **more},
            compute=ray.data.ActorPoolStrategy(size=config.concurrency),
            batch_size=config.rows(),
            batch_format="numpy",
            num_cpus=config.num_cpus,
            **({"num_gpus": config.num_gpus} if config.num_gpus else {}),
        )


def build_processor(config: ProcessorConfig) -> Processor:
    """A processor for Ray Data."""
    if config.task not in ("generate", "chat", "embed"):
        raise UsageError(f'task: expected "generate", "chat" or "embed", found {config.task!r}')
    return Processor(config)


class _Engine:
    """An actor: one engine, with as many threads as it has CPUs."""

    def __init__(self, config: ProcessorConfig, folder: Optional[str] = None, done: Any = None) -> None:
        import ray

        self._config, self._folder = config, folder
        self._done: frozenset[Any] = frozenset() if done is None else ray.get(done)
        self._llm = LLM(config.model, **{"n_threads": config.num_cpus, **config.engine})

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        columns = {name: _plain(values) for name, values in batch.items()}
        rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
        if self._folder is None:
            return _columns(self._answered(rows))
        rows = [row for row in rows if row[self._config.key] not in self._done]
        answered = self._answered(rows)
        if answered:
            _write(self._folder, answered, [row[self._config.key] for row in rows])
        return {"written": [row[self._config.key] for row in rows]}

    def _answered(self, rows: list[Row]) -> list[Row]:
        config = self._config
        read = [{**row, **config.preprocess(row)} for row in rows] if config.preprocess else rows
        answers = {"generate": self._generate, "chat": self._chat, "embed": self._embed}[config.task](read)
        answered = [{**row, **answer} for row, answer in zip(rows, answers)]
        if config.postprocess is None:
            return answered
        return [{config.key: row.get(config.key), **config.postprocess(row)} for row in answered]

    def _generate(self, rows: list[Row]) -> list[Row]:
        def body(row: Row) -> Row:
            options = {**self._config.sampling, **(row.get("sampling_params") or {})}
            [made] = _bodies([_prompt(row.get("prompt"))], None, options)
            return made

        def columns(answer: Any) -> Row:
            output = Output.of("", answer)
            return _text_columns(output.text, output.finish_reason, output.prompt_tokens, len(output.token_ids))

        return self._each("/completion", rows, body, columns, _text_columns)

    def _chat(self, rows: list[Row]) -> list[Row]:
        wishes = {"tools": None, "tool_choice": None, "response_format": None, "template_variables": None}
        wishes.update(self._config.chat)

        def body(row: Row) -> Row:
            options = {**self._config.sampling, **(row.get("sampling_params") or {})}
            return {**_chat_fields(None, options, **wishes), "messages": _messages(row.get("messages"))}

        def columns(answer: Any) -> Row:
            chat = Chat.of(answer)
            texts = _text_columns(chat.text, chat.finish_reason, chat.prompt_tokens, chat.completion_tokens)
            return {**texts, "message": json.dumps(chat.message)}

        return self._each("/v1/chat/completions", rows, body, columns, lambda: {**_text_columns(), "message": ""})

    def _each(
        self,
        path: str,
        rows: list[Row],
        body: Callable[[Row], Row],
        columns: Callable[[Any], Row],
        without: Callable[[], Row],
    ) -> list[Row]:
        """The answers, side by side. What is wrong with a row concerns no other."""
        answers: list[Optional[Row]] = [None] * len(rows)
        bodies, places = [], []
        for place, row in enumerate(rows):
            try:
                bodies.append(body(row))
                places.append(place)
            except (TypeError, ValueError) as error:
                answers[place] = {**without(), "error": str(error)}

        def take(reply: Any, make: Callable[[Any], Row]) -> Row:
            try:
                return {**whole(reply, make), "error": ""}
            except (ContextError, UsageError) as error:
                return {**without(), "error": str(error)}

        for place, answer in zip(places, self._llm._all(path, bodies, [columns] * len(bodies), take)):
            answers[place] = answer
        return [answer for answer in answers if answer is not None]

    def _embed(self, rows: list[Row]) -> list[Row]:
        texts: list[Any] = [row.get("prompt") for row in rows]
        try:
            found = self._llm.embed(texts, **self._config.embed).tolist()
        except (ContextError, UsageError, TypeError) as error:
            if len(rows) == 1:
                return [{"embedding": [], "error": str(error)}]
            # One text is at fault, which is found before anything is computed; the others share batches all the same.
            middle = len(rows) // 2
            return self._embed(rows[:middle]) + self._embed(rows[middle:])
        return [{"embedding": vector, "error": ""} for vector in found]


def _text_columns(text: str = "", finish_reason: str = "", read: int = 0, generated: int = 0) -> Row:
    return {
        "generated_text": text,
        "finish_reason": finish_reason,
        "num_input_tokens": read,
        "num_generated_tokens": generated,
    }


def _plain(value: Any) -> Any:
    """Arrays as lists, all the way down."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _columns(rows: list[Row]) -> dict[str, list[Any]]:
    names: dict[str, None] = {name: None for row in rows for name in row}
    return {name: [row.get(name) for row in rows] for name in names}


# Files


def _file_system(folder: str) -> tuple[Any, str]:
    from pyarrow import fs

    if "://" in folder:
        system, root = fs.FileSystem.from_uri(folder)
        return system, root
    return fs.LocalFileSystem(), os.path.abspath(folder)


def _keys(folder: str, key: str) -> frozenset[Any]:
    """Keys of the rows that are written."""
    from pyarrow import fs, parquet

    system, root = _file_system(folder)
    system.create_dir(root, recursive=True)
    files = [file for file in system.get_file_info(fs.FileSelector(root)) if file.path.endswith(".parquet")]
    found: set[Any] = set()
    for file in files:
        found.update(parquet.read_table(file.path, columns=[key], filesystem=system)[key].to_pylist())
    return frozenset(found)


def _write(folder: str, rows: list[Row], keys: Iterable[Any]) -> None:
    """Writes a file that appears whole. The same rows have the same name: one that is done twice is there once."""
    import pyarrow
    from pyarrow import parquet

    system, root = _file_system(folder)
    name = hashlib.sha256(repr(sorted(map(repr, keys))).encode()).hexdigest()[:32]
    path = f"{root}/part-{name}.parquet"
    written = f"{path}.{uuid.uuid4().hex}.tmp"
    parquet.write_table(pyarrow.table(_columns(rows)), written, filesystem=system)
    system.move(written, path)


# Ray Serve


def application(
    model: Optional[str] = None, *, num_replicas: int = 1, num_cpus: int = 1, num_gpus: float = 0, **flags: Any
) -> Any:
    """An application for `ray.serve.run`: replicas of `bitnet-gpu serve`, each with the APIs of OpenAI, llama.cpp and others.

    More arguments are flags of `serve`, with `_` for `-`: `parallel=8`, `ctx_size=4096`.
    """
    from ray import serve as untyped

    serve: Any = untyped
    options = {"num_cpus": num_cpus, **({"num_gpus": num_gpus} if num_gpus else {})}
    arguments = ["--threads", str(num_cpus)]
    if model is not None:
        arguments += ["--model", model]
    for name, value in flags.items():
        if value is not None and value is not False:
            arguments += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    deployment = serve.deployment(_Server, name="bitnet-gpu", num_replicas=num_replicas, ray_actor_options=options)
    return deployment.bind(arguments)


class _Server:
    """A replica: a server in a process of its own, which ends with it."""

    def __init__(self, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "bitnet_gpu", "serve", "--host", "127.0.0.1", "--port", "0", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("listening on "):
            raise UsageError(f"the server did not start: exit code {self._process.wait()}")
        self._address = line.removeprefix("listening on ").strip()
        # A full pipe would stop the server.
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        self._wait()
        self._session: Any = None

    def _wait(self) -> None:
        """Waits until the model is loaded."""
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            self.check_health()
            try:
                urllib.request.urlopen(f"{self._address}/health")
                return
            except urllib.error.HTTPError:
                time.sleep(_LOOK_AROUND)
        raise RuntimeError(f"the model is not loaded after {_PATIENCE:.0f} s")

    def check_health(self) -> None:
        """Ray's question: raises where the server has ended."""
        if (code := self._process.poll()) is not None:
            raise RuntimeError(f"the server has ended with exit code {code}")

    async def __call__(self, request: Any) -> Any:
        """Passes a request on, and its answer back as it comes."""
        import aiohttp
        from starlette.responses import StreamingResponse

        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False)
        path = request.url.path.removeprefix(request.scope.get("root_path", ""))
        query = f"?{request.url.query}" if request.url.query else ""
        kept = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
        answer = await self._session.request(
            request.method, f"{self._address}{path}{query}", data=await request.body(), headers=kept
        )

        async def body() -> Any:
            # A client that goes away ends the answer.
            async with answer:
                async for piece in answer.content.iter_any():
                    yield piece

        return StreamingResponse(
            body(), status_code=answer.status, media_type=answer.headers.get("content-type")
        )

    def __del__(self) -> None:
        process = self.__dict__.get("_process")
        if process is not None:
            process.terminate()
            process.wait()
