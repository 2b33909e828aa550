"""Texts: whole, streamed, side by side."""

import asyncio
import threading

import pytest

import bitnet_gpu
from bitnet_gpu import LLM, EngineError, SamplingParams, UsageError

PROMPTS = ["Once upon a time", "The dog", "One day, a little girl", "Tom had a", "In the park", "It was", "Lily", "A cat"]
GREEDY = {"temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def singly(llm):
    """The answers to `PROMPTS`, one after the other."""
    return [llm.generate(prompt, **GREEDY)[0] for prompt in PROMPTS]


def test_many_prompts_give_what_each_gives_alone_in_their_order(llm, singly):
    together = llm.generate(PROMPTS, **GREEDY)
    assert [one.token_ids for one in together] == [one.token_ids for one in singly]
    assert [one.prompt for one in together] == PROMPTS
    assert len({one.text for one in together}) == len(PROMPTS)
    assert all(len(one.token_ids) == 24 and one.finish_reason == "length" for one in together)


def test_ids_and_text_of_an_answer_are_the_same(llm, singly):
    one = singly[0]
    ids = llm.tokenize(one.prompt)
    assert one.prompt_tokens == len(ids)
    assert llm.detokenize(ids + one.token_ids) == one.prompt + one.text
    [of_ids] = llm.generate(ids, **GREEDY)
    assert (of_ids.prompt, of_ids.token_ids) == (ids, one.token_ids)


def test_numbers_of_numpy_are_numbers(llm, singly):
    numpy = pytest.importorskip("numpy")
    ids = numpy.array(llm.tokenize(PROMPTS[0]))
    options = {"temperature": numpy.float32(0), "max_tokens": numpy.int64(24)}
    for prompts in ([ids], ids, ids.reshape(1, -1)):
        [output] = llm.generate(prompts, **options)
        assert output.token_ids == singly[0].token_ids


def test_no_prompts_no_outputs(llm):
    assert llm.generate([]) == []
    assert llm.generate(iter(["A"]), max_tokens=1)[0].prompt == "A"


def test_options_as_an_object_for_each_prompt_and_by_keyword(llm):
    lengths = [SamplingParams(temperature=0, max_tokens=most) for most in (1, 2, 3)]
    outputs = llm.generate(PROMPTS[:3], lengths)
    assert [len(one.token_ids) for one in outputs] == [1, 2, 3]
    outputs = llm.generate(PROMPTS[:3], lengths[0], max_new_tokens=5)
    assert [len(one.token_ids) for one in outputs] == [5, 5, 5]


def test_a_seed_repeats_a_draw_and_n_answers_differ(llm):
    options = {"temperature": 1.0, "seed": 7, "max_tokens": 16, "n": 3}
    [first], [second] = llm.generate("A", **options), llm.generate("A", **options)
    texts = [answer.text for answer in first.outputs]
    assert texts == [answer.text for answer in second.outputs]
    assert len(set(texts)) == 3


def test_stops_end_a_text(llm, singly):
    word = singly[0].text.split()[2]
    [output] = llm.generate(PROMPTS[0], stop=word, **GREEDY)
    assert (output.finish_reason, output.outputs[0].stop_reason) == ("stop", word)
    assert output.text == singly[0].text.split(word)[0]


def test_logprobs_come_with_each_token(llm):
    [output] = llm.generate("A", temperature=0, max_tokens=3, logprobs=2)
    found = output.outputs[0].logprobs
    assert [one["id"] for one in found] == output.token_ids
    assert all(one["logprob"] <= 0 and len(one["top_logprobs"]) == 2 for one in found)


def test_a_stream_gives_the_text_of_the_whole(llm, singly):
    stream = llm.stream(PROMPTS[0], **GREEDY)
    pieces = list(stream)
    assert len(pieces) > 10
    assert "".join(pieces) == stream.output.text == singly[0].text
    assert stream.output == singly[0].__class__(
        PROMPTS[0], singly[0].prompt_tokens, singly[0].outputs, stream.output.timings
    )


def test_a_closed_stream_ends_and_frees_its_place(llm):
    streams = [llm.stream(prompt, temperature=0, max_tokens=-1, ignore_eos=True) for prompt in PROMPTS[: llm.n_seqs]]
    for stream in streams:
        next(stream)
        stream.close()
    begun = [stream.output.text for stream in streams]
    assert all(begun)
    # All places are free again: this needs one.
    assert llm.generate("A", max_tokens=1, temperature=0)[0].token_ids
    with llm.stream("A", max_tokens=-1, ignore_eos=True) as stream:
        next(stream)
    assert stream.output.finish_reason == "cancelled"


def test_grammars_and_schemas_hold(llm):
    [output] = llm.generate("Answer: ", grammar='root ::= "yes" | "no"', temperature=0)
    assert output.text in ("yes", "no")
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    [output] = llm.generate("JSON: ", json_schema=schema, temperature=0)
    assert output.text in ('{"a":1}', '{"a":2}')
    with pytest.raises(TypeError, match="json_schema"):
        llm.generate("A", json_schema=[1])
    with pytest.raises(UsageError, match="JSON"):
        llm.generate("A", json_schema="{")


def test_asyncio_gives_the_same_while_the_loop_goes_on(llm, singly):
    async def run():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.ensure_future(tick())
        outputs = await llm.agenerate(PROMPTS, **GREEDY)
        stream = llm.astream(PROMPTS[0], **GREEDY)
        text = "".join([piece async for piece in stream])
        ticking.cancel()
        return outputs, text, ticks

    outputs, text, ticks = asyncio.run(run())
    assert [one.token_ids for one in outputs] == [one.token_ids for one in singly]
    assert text == singly[0].text
    assert ticks > 10


def test_a_cancelled_task_frees_its_place(llm):
    async def run():
        task = asyncio.ensure_future(llm.agenerate("A", max_tokens=-1, ignore_eos=True, temperature=0))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await llm.agenerate("A", max_tokens=2, temperature=0)

    assert len(asyncio.run(run())[0].token_ids) == 2


def test_other_threads_go_on_while_it_generates():
    llm = LLM(backend="cpu", n_ctx=4096, n_seqs=1)
    begun, counter = threading.Event(), 0

    def count():
        nonlocal counter
        begun.wait()
        while counter < 10_000:
            counter += 1
        llm.close()

    thread = threading.Thread(target=count)
    thread.start()
    begun.set()
    # If it held the lock of the interpreter, nobody could end it.
    with pytest.raises(EngineError, match="closed"):
        llm.generate(["A"] * 1000, max_tokens=-1, ignore_eos=True)
    thread.join()
    assert counter == 10_000


def test_several_threads_share_a_model(llm, singly):
    found = {}

    def one(at):
        found[at] = llm.generate(PROMPTS[at], **GREEDY)[0].token_ids

    threads = [threading.Thread(target=one, args=(at,)) for at in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[at] for at in range(len(PROMPTS))] == [one.token_ids for one in singly]


def test_two_models_at_once(singly):
    with LLM("demo", backend="cpu", n_ctx=256, n_seqs=1) as one, LLM(backend="cpu", n_ctx=256, n_seqs=2) as other:
        for llm in (one, other):
            assert llm.generate(PROMPTS[0], **GREEDY)[0].token_ids == singly[0].token_ids


def test_other_types_of_the_cache_and_other_contexts():
    with LLM(backend="cpu", n_ctx=64, n_seqs=1, type_k="q8_0", type_v="f32", n_threads=1) as llm:
        assert llm.n_ctx == 64
        [output] = llm.generate("Once", max_tokens=-1, ignore_eos=True, temperature=0)
        # The last token is chosen, but not read.
        assert output.prompt_tokens + len(output.token_ids) == 65
        assert output.finish_reason == "length"


def test_the_version_is_that_of_the_program():
    assert bitnet_gpu.__version__.count(".") == 2
