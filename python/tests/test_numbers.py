"""Tokens, logits, vectors, perplexity, plans."""

import numpy as np
import pytest

from bitnet_gpu import ContextError, ModelError, UsageError


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
    assert llm.embed("A", pooling="last").shape == (1, llm.n_embd)
    assert llm.embed([], pooling="last").shape == (0, llm.n_embd)
    vectors[0] = 0


def test_a_model_that_writes_text_embeds_on_demand_only(llm):
    with pytest.raises(ModelError, match="pooling"):
        llm.embed("A")
    with pytest.raises(UsageError, match="max"):
        llm.embed("A", pooling="max")


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
    with pytest.raises(ValueError, match=str(llm.n_vocab)):
        llm.logits([llm.n_vocab])
