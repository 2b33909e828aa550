"""Options of an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

from ._errors import UsageError

#: A JSON schema as a dictionary, as text, or a pydantic model.
Schema = Union[Mapping[str, Any], str, type]

#: Names of other libraries for the same thing.
_ALIASES = {
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "repetition_penalty": "repeat_penalty",
}


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen, and when an answer ends. `None`: as the model's file advises, else the engine's usual value."""

    #: Most tokens of an answer; `None`: half of the context, -1: as many as fit.
    max_tokens: Optional[int] = None
    #: 0 always takes the most probable token.
    temperature: Optional[float] = None
    top_p: Optional[float] = None
    #: 0 keeps all.
    top_k: Optional[int] = None
    min_p: Optional[float] = None
    typical_p: Optional[float] = None
    repeat_penalty: Optional[float] = None
    presence_penalty: Optional[float] = None
    frequency_penalty: Optional[float] = None
    #: The same seed gives the same answer; `None`: any.
    seed: Optional[int] = None
    #: Texts that end an answer.
    stop: Optional[Union[str, Sequence[str]]] = None
    #: Answers to each prompt, at most as many as the model has sequences.
    n: int = 1
    #: Alternatives whose logarithms of probabilities come with each token.
    logprobs: Optional[int] = None
    ignore_eos: bool = False
    #: Added to the logits of tokens.
    logit_bias: Optional[Mapping[int, float]] = None
    #: A grammar in GBNF or Lark that the answer follows.
    grammar: Optional[str] = None
    #: A JSON schema that the answer follows.
    json_schema: Optional[Schema] = None
    #: More fields of the server's API, by their names there.
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, params: Optional[SamplingParams], options: Mapping[str, Any]) -> SamplingParams:
        """The options of a call: an object, or keyword arguments, or both, of which the latter win."""
        if params is not None and not isinstance(params, SamplingParams):
            raise TypeError(f"sampling parameters: expected SamplingParams, found {type(params).__name__}")
        known = {field.name for field in dataclasses.fields(cls)}
        changes = {_ALIASES.get(name, name): value for name, value in options.items()}
        unknown = sorted(changes.keys() - known)
        if unknown:
            raise TypeError(f"unknown sampling option {unknown[0]!r}; known are {', '.join(sorted(known))}")
        return dataclasses.replace(params or cls(), **changes)

    def fields(self) -> dict[str, Any]:
        """The fields of a request."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        extra, schema = own.pop("extra"), own.pop("json_schema")
        fields = {name: value for name, value in own.items() if value is not None}
        if "stop" in fields:
            fields["stop"] = _texts("stop", fields["stop"])
        if "logit_bias" in fields:
            if not isinstance(fields["logit_bias"], Mapping):
                raise TypeError(f"logit_bias: expected a dictionary, found {type(fields['logit_bias']).__name__}")
            fields["logit_bias"] = [[token, bias] for token, bias in fields["logit_bias"].items()]
        if schema is not None:
            fields["json_schema"] = json_schema(schema)
        fields.update(extra)
        return fields


def _texts(name: str, given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    if not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{name}: expected a string or a list of strings")
    return texts


#: A key of the grammar engine: no white space between the parts, with which small models otherwise fill an answer.
_COMPACT = {"x-guidance": {"whitespace_flexible": False}}


def json_schema(schema: Schema) -> Any:
    """A schema as JSON has it; the answers to it are compact."""
    if isinstance(schema, str):
        import json

        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise UsageError(f"json_schema: this is no JSON: {error}") from None
    describe = getattr(schema, "model_json_schema", None)
    found = schema if describe is None else describe()
    if isinstance(found, bool):
        return found
    if not isinstance(found, Mapping):
        raise TypeError(f"json_schema: expected a dictionary, text or a pydantic model, found {schema!r:.80}")
    return {**_COMPACT, **found}
