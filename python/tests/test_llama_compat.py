"""Programs written for llama-cpp-python."""

import pytest

from bitnet_gpu import ContextError, ModelNotFoundError
from bitnet_gpu.llama_compat import Llama, LlamaGrammar


@pytest.fixture(scope="module")
def llama():
    with Llama(n_ctx=256, n_gpu_layers=0, embedding=True, verbose=False, n_threads=2, seed=3) as llama:
        yield llama


def test_completions(llama, llm):
    answer = llama("Once upon a time", max_tokens=12, temperature=0, stop=["\n\n\n"], echo=True)
    choice = answer["choices"][0]
    [expected] = llm.generate("Once upon a time", max_tokens=12, temperature=0)
    assert choice["text"] == "Once upon a time" + expected.text
    assert (answer["object"], choice["finish_reason"]) == ("text_completion", "length")
    assert answer["usage"]["completion_tokens"] == 12
    assert llama.create_completion("A")["usage"]["completion_tokens"] <= 16
    chunks = list(llama("Once upon a time", max_tokens=12, temperature=0, stream=True))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"]) == expected.text


def test_the_seed_of_the_model_counts(llama):
    first, second = (llama("A", temperature=1.0)["choices"][0]["text"] for _ in range(2))
    assert first == second != llama("A", temperature=1.0, seed=4)["choices"][0]["text"]


def test_chats(llama):
    messages = [{"role": "user", "content": "Hi"}]
    answer = llama.create_chat_completion(messages, max_tokens=8, temperature=0)
    said = answer["choices"][0]["message"]
    assert said["role"] == "assistant"
    chunks = llama.create_chat_completion(messages, max_tokens=8, temperature=0, stream=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == said["content"]
    schema = {"type": "json_object", "schema": {"enum": [1, 2]}}
    answer = llama.create_chat_completion(messages, response_format=schema, temperature=0)
    assert answer["choices"][0]["message"]["content"] in ("1", "2")


def test_grammars(llama):
    for grammar in (LlamaGrammar.from_string('root ::= "x"'), LlamaGrammar.from_json_schema('{"const": "x"}')):
        assert llama("A", grammar=grammar, temperature=0)["choices"][0]["text"].strip('"') == "x"


def test_vectors(llama):
    one, several = llama.embed("A dog"), llama.embed(["A dog", "A cat"])
    assert len(one) == llama.n_embd() and several[0] == one != several[1]
    answer = llama.create_embedding(["A dog", "A cat"])
    assert [entry["embedding"] for entry in answer["data"]] == several
    assert answer["usage"]["total_tokens"] == sum(len(llama.tokenize(text)) for text in (b"A dog", b"A cat"))
    with Llama(n_ctx=64) as other, pytest.raises(RuntimeError, match="embedding=True"):
        other.embed("A")


def test_tokens(llama):
    ids = llama.tokenize(b"Hello there")
    assert ids[0] == llama.token_bos() and llama.detokenize(ids) == b"Hello there"
    assert llama.detokenize(ids[2:], prev_tokens=ids[:2]) == b"Hello there"[len(llama.detokenize(ids[:2])) :]
    assert (llama.n_ctx(), llama.n_vocab()) == (256, llama.llm.n_vocab)
    assert llama.token_eos() in range(llama.n_vocab())
    with pytest.raises(TypeError, match="bytes"):
        llama.tokenize("text")


def test_errors_are_those_of_programs_that_know_llama_cpp(llama, tmp_path):
    with pytest.raises(ContextError):
        llama("word " * 400)
    with pytest.raises(ValueError):
        Llama(model_path=str(tmp_path / "absent.gguf"))
    with pytest.raises(ModelNotFoundError):
        Llama(model_path=str(tmp_path / "absent.gguf"))
    with pytest.raises(TypeError, match="lora_path"):
        Llama(lora_path="x")
    with pytest.raises(ValueError, match="type_k"):
        Llama(type_k=3)
