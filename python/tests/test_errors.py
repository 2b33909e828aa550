"""What goes wrong is an exception, and the interpreter goes on."""

import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

import bitnet_gpu
from bitnet_gpu import LLM, ContextError, EngineError, ModelError, ModelNotFoundError, UsageError

needs_posix = pytest.mark.skipif(os.name != "posix", reason="signals and forks are POSIX's")


def test_malformed_and_absent_models(tmp_path):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelError, match="damaged.gguf"):
        LLM(damaged)
    with pytest.raises(ModelError):
        bitnet_gpu.inspect(damaged, check=True)
    for absent in (tmp_path / "absent.gguf", str(tmp_path / "absent.gguf"), "absent.gguf"):
        with pytest.raises(ModelNotFoundError):
            LLM(absent)
        with pytest.raises(FileNotFoundError):
            bitnet_gpu.inspect(absent)


def test_a_name_of_the_hub_that_is_not_here(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match=r'pull\("someone/model"\)'):
        LLM("someone/model")
    with pytest.raises(bitnet_gpu.DownloadError, match="someone/model"):
        bitnet_gpu.pull("someone/model")


def test_options_of_the_wrong_type_or_value():
    for wrong in ({"n_ctx": "many"}, {"n_threads": 1.5}, {"backend": 5}, {"n_seqs": None}):
        with pytest.raises(TypeError):
            LLM(**wrong)
    for wrong in (
        {"backend": "tpu"},
        {"n_ctx": -1},
        {"n_ctx": 1 << 40},
        {"n_seqs": 0},
        {"n_threads": 100000},
        {"type_k": "int4"},
        {"kernel": "fast"},
        {"chat_template": "no such form"},
        {"i2s_layout": "p7"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LLM(**wrong)
    with pytest.raises(TypeError, match="unexpected keyword argument 'n_context'"):
        LLM(n_context=5)


def test_a_context_beyond_all_memory_is_refused():
    with pytest.raises(MemoryError, match="n_ctx"):
        LLM(backend="cpu", n_ctx=1 << 24, n_seqs=1024)


def test_wrong_prompts_and_options_of_an_answer(llm):
    for wrong in (None, 5, 1.5, b"bytes", {"a": 1}, [None], ["a", 5], object()):
        with pytest.raises(TypeError, match="prompt"):
            llm.generate(wrong)
    for wrong in (None, 5, b"bytes", object()):
        with pytest.raises(TypeError, match="prompt"):
            llm.stream(wrong)
    with pytest.raises(TypeError, match="temprature"):
        llm.generate("A", temprature=1)
    with pytest.raises(TypeError, match="SamplingParams"):
        llm.generate("A", {"temperature": 1})
    with pytest.raises(TypeError, match="one for each of 2"):
        llm.generate(["A", "B"], [bitnet_gpu.SamplingParams()])
    for wrong in ({"temperature": "hot"}, {"max_tokens": -5}, {"n": 100}, {"stop": [5]}, {"grammar": "no grammar ::"}):
        with pytest.raises(UsageError):
            llm.generate("A", **wrong)
    for wrong in ({"logit_bias": [1]}, {"extra": {"a": object()}}):
        with pytest.raises(TypeError):
            llm.generate("A", **wrong)
    for wrong in ({"temperature": float("nan")}, {"temperature": float("inf")}, {"seed": 10**30}):
        with pytest.raises(UsageError):
            llm.generate("A", **wrong)
    with pytest.raises(ValueError, match="surrogate"):
        llm.generate("\ud800")
    with pytest.raises(UsageError):
        llm.generate([llm.n_vocab])
    with pytest.raises(OverflowError):
        llm.detokenize([-1])
    for wrong in (None, 5, b"bytes", {"a": 1}, ["a", None], [["a"]]):
        with pytest.raises(TypeError, match="texts"):
            llm.embed(wrong, pooling="mean")
    for call in (llm.tokenize, llm.detokenize, llm.logits, llm.perplexity, llm.chat):
        with pytest.raises(TypeError):
            call(None)
    # All the same it answers.
    assert llm.generate("A", max_tokens=1)[0].token_ids


def test_a_prompt_beyond_the_context(llm):
    for prompts in ("word " * 600, ["short", "word " * 600]):
        with pytest.raises(ContextError, match="512"):
            llm.generate(prompts, max_tokens=1)


def test_a_closed_model_says_so():
    llm = LLM(backend="cpu", n_ctx=4096, n_seqs=1)
    stream = llm.stream("A", max_tokens=-1, ignore_eos=True)
    next(stream)
    llm.close()
    llm.close()
    with pytest.raises(EngineError, match="closed"):
        for _ in stream:
            pass
    for call in (lambda: llm.generate("A"), lambda: llm.logits([1]), lambda: llm.plan(), lambda: llm.embed("A", pooling="last")):
        with pytest.raises(EngineError, match="closed"):
            call()
    assert llm.tokenize("A")


def test_closing_ends_what_other_threads_wait_for():
    llm = LLM(backend="cpu", n_ctx=4096, n_seqs=1)
    caught = []

    def wait():
        try:
            llm.generate("A", max_tokens=-1, ignore_eos=True)
        except EngineError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    begun = llm.stream("B", max_tokens=-1, ignore_eos=True)
    next(begun)
    thread.start()
    time.sleep(0.05)
    llm.close()
    thread.join()
    assert len(caught) == 1


@pytest.mark.parametrize("call", ["embed", "perplexity", "logits"])
def test_closing_ends_numbers_that_other_threads_wait_for(call):
    llm = LLM(backend="cpu", n_ctx=4096, n_seqs=1)
    calls = {
        "embed": lambda: llm.embed(["A dog."] * 200_000, pooling="mean"),
        "perplexity": lambda: llm.perplexity("A dog and a cat. " * 100_000, chunk=64),
        "logits": lambda: [llm.logits("A dog") for _ in range(100_000)],
    }
    caught = []

    def wait():
        try:
            calls[call]()
        except EngineError as error:
            caught.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    llm.close()
    thread.join()
    assert len(caught) == 1 and "closed" in caught[0]


def test_a_stream_keeps_its_model():
    stream = LLM(backend="cpu", n_ctx=64, n_seqs=1).stream("A", max_tokens=20, temperature=0)
    gc.collect()
    assert "".join(stream) and stream.output.finish_reason == "length"


def test_a_model_is_not_pickled(llm):
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="arguments"):
            attempt(llm)


def test_answers_options_and_errors_are_pickled(llm, tmp_path):
    [output] = llm.generate("A", max_tokens=2, temperature=0)
    for one in (output, llm.chat("A", max_tokens=2), bitnet_gpu.SamplingParams(stop=["a"], logit_bias={1: 2.0})):
        assert pickle.loads(pickle.dumps(one)) == one
    for call in (lambda: llm.logits([]), lambda: LLM(tmp_path / "absent.gguf"), lambda: llm.generate("word " * 600)):
        with pytest.raises(bitnet_gpu.Error) as caught:
            call()
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again)) == (type(caught.value), str(caught.value))


@needs_posix
@pytest.mark.parametrize("call", ["generate", "stream", "embed", "perplexity", "logits"])
def test_ctrl_c_ends_a_call_and_the_model_goes_on(call):
    code = f"""
import os, signal, threading
from bitnet_gpu import LLM
llm = LLM(backend="cpu", n_ctx=4096, n_seqs=1)
endless = dict(max_tokens=-1, ignore_eos=True, temperature=0)
calls = {{
    "generate": lambda: llm.generate(["A"] * 100000, **endless),
    "stream": lambda: [piece for text in ["A"] * 100000 for piece in llm.stream(text, **endless)],
    "embed": lambda: llm.embed(["A dog."] * 1000000, pooling="last"),
    "perplexity": lambda: llm.perplexity("A dog and a cat. " * 200000, chunk=64),
    "logits": lambda: [llm.logits([1] * 4000, after_each=True) for _ in range(10000)],
}}
# All that is loaded at the first call is there before the interrupt.
llm.embed("A", pooling="last")
llm.logits([1])
threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    calls["{call}"]()
except KeyboardInterrupt:
    print("interrupted", len(llm.generate("A", max_tokens=3, temperature=0)[0].token_ids))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("interrupted 3\n", "")


@needs_posix
def test_a_fork_is_told_to_load_its_own(llm):
    child = os.fork()
    if child == 0:
        try:
            llm.generate("A")
        except EngineError as error:
            os._exit(7 if "forked" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@needs_posix
def test_a_forked_process_ends_in_order_and_may_load_its_own():
    code = """
import os, sys
from bitnet_gpu import LLM, EngineError
llm = LLM(backend="cpu", n_ctx=4096, n_seqs=1)
stream = llm.stream("A", max_tokens=-1, ignore_eos=True)
next(stream)
child = os.fork()
if child == 0:
    try:
        next(stream)
    except EngineError as error:
        assert "forked" in str(error)
        stream.close()
    with LLM(backend="cpu", n_ctx=64, n_seqs=1) as own:
        own.generate("A", max_tokens=2)
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(next(stream)) > 0)
"""
    # Newer Pythons warn of forks.
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("3 True\n", "")


def test_the_interpreter_ends_with_a_model_at_work():
    code = """
from bitnet_gpu import LLM
llm = LLM(backend="cpu", n_ctx=4096)
stream = llm.stream("A", max_tokens=-1, ignore_eos=True)
next(stream)
print("end")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = "import sys, bitnet_gpu; print([name for name in ('numpy', 'ray', 'pyarrow', 'pydantic') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
