"""The names of llama-cpp-python: a program changes `from llama_cpp import Llama` to `from bitnet_gpu.llama_compat import Llama`.

Defaults are those of llama-cpp-python. Answers are dictionaries in OpenAI's form, as there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Optional, Union

from ._commands import pull
from ._errors import UsageError
from ._llm import LLM
from ._sampling import json_schema as _json_schema

__all__ = ["Llama", "LlamaGrammar"]

Json = dict[str, Any]

#: ggml's numbers of the types that caches have here.
_CACHE_TYPES = {None: "f16", 0: "f32", 1: "f16", 8: "q8_0", "f32": "f32", "f16": "f16", "q8_0": "q8_0"}

#: The seed that asks for any.
_ANY_SEED = 0xFFFFFFFF

#: Arguments of llama-cpp-python's constructor that change nothing here.
_WITHOUT_EFFECT = {
    "flash_attn",
    "last_n_tokens_size",
    "logits_all",
    "main_gpu",
    "n_threads_batch",
    "n_ubatch",
    "numa",
    "offload_kqv",
    "op_offload",
    "swa_full",
    "use_mlock",
    "verbose",
}


class LlamaGrammar:
    """A grammar that answers follow."""

    def __init__(self, grammar: Optional[str] = None, schema: Any = None) -> None:
        self.fields: Json = {"grammar": grammar} if schema is None else {"json_schema": schema}

    @classmethod
    def from_string(cls, grammar: str, verbose: bool = False) -> LlamaGrammar:
        """A grammar in GBNF."""
        return cls(grammar)

    @classmethod
    def from_json_schema(cls, json_schema: str, verbose: bool = False) -> LlamaGrammar:
        """The JSON that a schema describes."""
        return cls(schema=_json_schema(json_schema))


class Llama:
    """A model, in the words of llama-cpp-python's class of that name."""

    def __init__(
        self,
        model_path: Optional[Union[str, os.PathLike[str]]] = None,
        *,
        n_gpu_layers: int = 0,
        n_ctx: int = 512,
        n_batch: int = 512,
        n_threads: Optional[int] = None,
        seed: int = _ANY_SEED,
        use_mmap: bool = True,
        embedding: bool = False,
        pooling_type: Optional[Literal["last", "mean"]] = None,
        type_k: Union[int, str, None] = None,
        type_v: Union[int, str, None] = None,
        chat_format: Optional[str] = None,
        n_seqs: int = 1,
        **others: Any,
    ) -> None:
        unknown = sorted(name for name, value in others.items() if name not in _WITHOUT_EFFECT and value is not None)
        if unknown:
            raise TypeError(f"Llama.__init__() got an unexpected keyword argument {unknown[0]!r}")
        for name, found in (("type_k", type_k), ("type_v", type_v)):
            if found not in _CACHE_TYPES:
                raise UsageError(f"{name}: expected f32 (0), f16 (1) or q8_0 (8), found {found!r}")
        self.model_path = None if model_path is None else os.fspath(model_path)
        self._seed, self._embeds = seed, embedding
        self._pooling: Optional[Literal["last", "mean"]] = pooling_type
        self.llm = LLM(
            model_path,
            backend="auto" if n_gpu_layers else "cpu",
            n_gpu_layers=n_gpu_layers or None,
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_threads=n_threads,
            use_mmap=use_mmap,
            type_k=_CACHE_TYPES[type_k],
            type_v=_CACHE_TYPES[type_v],
            chat_template=chat_format,
            n_seqs=n_seqs,
        )
        if embedding and not self.llm.info["embeds"] and pooling_type is None:
            # llama-cpp-python gives vectors of any model.
            self._pooling = "mean"

    @classmethod
    def from_pretrained(cls, repo_id: str, filename: Optional[str] = None, **arguments: Any) -> Llama:
        """A model of the Hugging Face Hub, which is downloaded where it is not here. Of `filename` a part will do."""
        wanted = (filename or "").strip("*")
        return cls(pull(f"{repo_id}:{wanted}" if wanted else repo_id), **arguments)

    # Texts

    def __call__(self, prompt: Union[str, Sequence[int]], **options: Any) -> Any:
        """As `create_completion`."""
        return self.create_completion(prompt, **options)

    def create_completion(
        self,
        prompt: Union[str, Sequence[int]],
        *,
        max_tokens: Optional[int] = 16,
        temperature: float = 0.8,
        top_p: float = 0.95,
        min_p: float = 0.05,
        top_k: int = 40,
        repeat_penalty: float = 1.0,
        stream: bool = False,
        **options: Any,
    ) -> Union[Json, Iterator[Json]]:
        """A completion in OpenAI's form; with `stream` its chunks."""
        fields = self._fields(max_tokens, temperature, top_p, min_p, top_k, repeat_penalty, options)
        return self._answer("/v1/completions", {**fields, "prompt": _listed(prompt)}, stream)

    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: Optional[int] = None,
        temperature: float = 0.2,
        top_p: float = 0.95,
        min_p: float = 0.05,
        top_k: int = 40,
        repeat_penalty: float = 1.0,
        stream: bool = False,
        **options: Any,
    ) -> Union[Json, Iterator[Json]]:
        """An answer to a conversation in OpenAI's form; with `stream` its chunks."""
        fields = self._fields(max_tokens, temperature, top_p, min_p, top_k, repeat_penalty, options)
        return self._answer("/v1/chat/completions", {**fields, "messages": _listed(messages)}, stream)

    def _fields(
        self,
        max_tokens: Optional[int],
        temperature: float,
        top_p: float,
        min_p: float,
        top_k: int,
        repeat_penalty: float,
        options: Mapping[str, Any],
    ) -> Json:
        fields = {name: value for name, value in options.items() if value is not None}
        grammar = fields.pop("grammar", None)
        if isinstance(grammar, LlamaGrammar):
            fields.update(grammar.fields)
        elif grammar is not None:
            fields["grammar"] = grammar
        if isinstance(fields.get("logit_bias"), Mapping):
            fields["logit_bias"] = [[token, bias] for token, bias in fields["logit_bias"].items()]
        fields.setdefault("seed", self._seed)
        return {
            **fields,
            # None and 0 are as many as fit, as there.
            "max_tokens": max_tokens if max_tokens and max_tokens > 0 else -1,
            "temperature": temperature,
            "top_p": top_p,
            "min_p": min_p,
            "top_k": max(top_k, 0),
            "repeat_penalty": repeat_penalty,
        }

    def _answer(self, path: str, fields: Json, stream: bool) -> Union[Json, Iterator[Json]]:
        if stream:
            return self.llm.stream_request(path, fields)
        answer: Json = self.llm.request(path, fields)
        return answer

    # Vectors

    def create_embedding(self, input: Union[str, Sequence[str]], model: Optional[str] = None) -> Json:
        """Vectors of texts in OpenAI's form."""
        texts = [input] if isinstance(input, str) else list(input)
        vectors, tokens = self._vectors(texts)
        data = [{"object": "embedding", "embedding": vector, "index": at} for at, vector in enumerate(vectors)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": model or self.llm.info["name"], "usage": usage}

    def embed(self, input: Union[str, Sequence[str]]) -> Union[list[float], list[list[float]]]:
        """The vector of a text, or those of several."""
        vectors, _ = self._vectors([input] if isinstance(input, str) else list(input))
        return vectors[0] if isinstance(input, str) else vectors

    def _vectors(self, texts: list[str]) -> tuple[list[list[float]], int]:
        """The vectors of texts, and the tokens that all of them have."""
        if not self._embeds:
            raise RuntimeError("Llama model must be created with embedding=True to call this method")
        vectors, tokens = self.llm._embedded(texts, self._pooling)
        return vectors.tolist(), tokens

    # Tokens

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """Token ids of UTF-8."""
        if not isinstance(text, bytes):
            raise TypeError(f"text: expected bytes, found {type(text).__name__}")
        return self.llm.tokenize(text.decode(errors="replace"), add_special=add_bos, parse_special=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Optional[Sequence[int]] = None, special: bool = False
    ) -> bytes:
        """UTF-8 of token ids, which go on where `prev_tokens` ended."""
        if not prev_tokens:
            return self.llm.detokenize(tokens, special=special).encode()
        before = self.llm.detokenize(prev_tokens, special=special)
        return self.llm.detokenize([*prev_tokens, *tokens], special=special)[len(before) :].encode()

    def n_ctx(self) -> int:
        """Tokens of prompt and answer together."""
        return self.llm.n_ctx

    def n_vocab(self) -> int:
        """Tokens of the vocabulary."""
        return self.llm.n_vocab

    def n_embd(self) -> int:
        """Width of the model, and of its vectors."""
        return self.llm.n_embd

    def token_bos(self) -> int:
        """The token that begins a text; -1 where there is none."""
        return _token(self.llm.info["bos"])

    def token_eos(self) -> int:
        """The token that ends a text; -1 where there is none."""
        return _token(self.llm.info["eos"])

    def set_seed(self, seed: int) -> None:
        """The seed of answers that have none of their own."""
        self._seed = seed

    def reset(self) -> None:
        """Does nothing: each answer begins with its prompt, and what is held of that is used again."""

    def close(self) -> None:
        """Frees the memory of the model."""
        self.llm.close()

    def __enter__(self) -> Llama:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


def _token(id: Optional[int]) -> int:
    return -1 if id is None else id


def _listed(given: Any) -> Any:
    """As JSON has it."""
    return given if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
