"""Tokens, logits, vectors, perplexity, plans."""

import asyncio
import pathlib
import sys

import numpy as np
import pytest

from bitnet_gpu import LLM, ContextError, ModelError, UsageError


def test_the_highest_logit_is_the_greedy_token(llm):
    ids = llm.tokenize("Once upon a time")
    logits = llm.logits(ids)
    assert (logits.shape, logits.dtype) == ((llm.n_vocab,), np.float32)
    assert int(logits.argmax()) == llm.generate(ids, temperature=0, max_tokens=1)[0].token_ids[0]
    each = llm.logits("Once upon a time", after_each=True)
    assert each.shape == (len(ids), llm.n_vocab)
    np.testing.assert_allclose(each[-1], logits, atol=1e-3)


def test_vectors_have_length_1_and_tell_texts_apart(llm):
    vectors = llm.embed(["A small dog.", "A small dog.", "The red boat"], pooling="mean")
    assert (vectors.shape, vectors.dtype) == ((3, llm.n_embd), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors[0] == vectors[1]).all() and vectors[0] @ vectors[2] < 0.999
    alone = [llm.embed(text, pooling="mean")[0] for text in ("A small dog.", "The red boat")]
    assert (vectors[[1, 2]] == alone).all()
    assert llm.embed("A", pooling="last").shape == (1, llm.n_embd)
    assert llm.embed([], pooling="last").shape == (0, llm.n_embd)
    vectors[0] = 0


def test_a_model_that_writes_text_embeds_on_demand_only(llm):
    with pytest.raises(ModelError, match="pooling"):
        llm.embed("A")
    with pytest.raises(UsageError, match="max"):
        llm.embed("A", pooling="max")


def test_many_texts_of_all_lengths_get_the_vectors_that_each_gets_alone(llm):
    texts = ["The dog ran. " * (1 + at * at % 23) for at in range(30)]
    for pooling in ("mean", "last"):
        alone = np.concatenate([llm.embed(text, pooling=pooling) for text in texts])
        assert (llm.embed(iter(texts), pooling=pooling) == alone).all()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux lists the threads of a process")
def test_logits_come_from_the_model_that_is_loaded():
    def threads():
        names = [(task / "comm").read_text().strip() for task in pathlib.Path("/proc/self/task").iterdir()]
        return sorted(name for name in names if name not in ("bitnet_gpu", "requests"))

    with LLM(backend="cpu", n_ctx=64, n_seqs=1, n_threads=2) as llm:
        before = threads()
        llm.logits("A dog")
        llm.perplexity("A dog and a cat. " * 20, chunk=16)
        assert threads() == before


def test_answers_go_on_while_logits_are_computed(llm):
    [expected] = llm.generate("Once", temperature=0, max_tokens=60)
    logits = llm.logits("The dog")
    stream = llm.stream("Once", temperature=0, max_tokens=60)
    next(stream)
    for _ in range(5):
        assert (llm.logits("The dog") == logits).all()
    list(stream)
    assert stream.output.text == expected.text


def test_asyncio_gives_the_same_numbers(llm):
    async def run():
        return await asyncio.gather(
            llm.alogits("A dog"), llm.aembed(["A", "B"], pooling="mean"), llm.aperplexity("A dog. " * 40, chunk=32)
        )

    logits, vectors, likelihood = asyncio.run(run())
    assert (logits == llm.logits("A dog")).all()
    assert (vectors == llm.embed(["A", "B"], pooling="mean")).all()
    assert likelihood == llm.perplexity("A dog. " * 40, chunk=32)


def test_a_cancelled_task_ends_its_work(llm):
    async def run():
        work = (
            llm.aembed(["A dog."] * 1_000_000, pooling="mean"),
            llm.aperplexity("A dog and a cat. " * 200_000, chunk=16),
        )
        for one in work:
            task = asyncio.ensure_future(one)
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    # The loop waits for its threads.
    asyncio.run(run())
    assert llm.embed("A", pooling="mean").shape == (1, llm.n_embd)


def test_perplexity_is_the_mean_of_what_logits_say(llm):
    text = "Once upon a time there was a little dog. " * 8
    found = llm.perplexity(text, chunk=32)
    ids = llm.tokenize(text, parse_special=False)
    bos = [ids[0]] if ids[0] == llm.info["bos"] else []
    losses = []
    for at in range(0, len(ids) - 31, 32):
        chunk = ids[at : at + 32]
        logits = llm.logits([*(bos or chunk[:1]), *chunk[1:]], after_each=True).astype(np.float64)
        for position in range(16, 31):
            row = logits[position]
            losses.append(np.log(np.exp(row - row.max()).sum()) + row.max() - row[chunk[position + 1]])
    assert found["tokens_scored"] == len(losses) > 0
    assert found["mean_nll"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-3)


def test_tokens_make_the_round_trip(llm):
    for text in ("Hello, world!", " two  spaces", "größer 🙂", ""):
        assert llm.detokenize(llm.tokenize(text)) == text
    assert llm.tokenize("", add_special=False) == []


def test_the_plan_says_who_runs_what(llm):
    plan = llm.plan()
    assert (plan["n_ctx"], plan["n_seqs"]) == (512, 4)
    [segment] = plan["segments"]
    assert (segment["backend"], segment["layers"]) == ("cpu", [0, llm.info["n_layer"]])
    assert segment["bytes"] > 0 and segment["reason"]


def test_what_does_not_fit_is_refused(llm):
    with pytest.raises(ContextError, match="513"):
        llm.logits([1] * 513)
    with pytest.raises(UsageError, match="none"):
        llm.logits([])
    with pytest.raises(ContextError):
        llm.embed("word " * 600, pooling="mean")
    with pytest.raises(UsageError, match=str(llm.n_vocab)):
        llm.logits([llm.n_vocab])
    for wrong in ({"chunk": 3}, {"chunk": 513}, {}):
        with pytest.raises(UsageError, match="chunk"):
            llm.perplexity("A dog.", **wrong)
