"""Commands on files, and the program in the wheel."""

import pathlib
import subprocess
import sys

import pytest

import bitnet_gpu
from bitnet_gpu import LLM, ModelError, UsageError

MODEL = pathlib.Path(__file__).parents[2] / "assets" / "llama-stories-ternary-4m.gguf"


def program(*args):
    return subprocess.run([sys.executable, "-m", "bitnet_gpu", *args], capture_output=True, text=True)


def test_the_program_is_in_the_wheel():
    done = program("-V")
    assert (done.returncode, done.stdout) == (0, f"bitnet-gpu {bitnet_gpu.__version__}\n")
    done = program("no-such-command")
    assert done.returncode == 2 and "no-such-command" in done.stderr
    done = program("run", "-p", "Once", "-n", "4", "--backend", "cpu", "--temp", "0")
    assert done.returncode == 0 and done.stdout


def test_inspect_tells_what_a_file_holds():
    found = bitnet_gpu.inspect(MODEL)
    assert found["runs"] and found["architecture"] == "bitnet-b1.58" and not found["checked"]
    assert bitnet_gpu.inspect(str(MODEL), check=True)["checked"]


def test_a_converted_model_says_the_same(llm, tmp_path):
    out = tmp_path / "converted.gguf"
    report = bitnet_gpu.convert(MODEL, out, type="tl2", dry_run=True)
    assert report["dry_run"] and not out.exists()
    bitnet_gpu.convert(MODEL, out, type="tl2")
    with LLM(out, backend="cpu", n_ctx=128, n_seqs=1) as converted:
        options = {"temperature": 0, "max_tokens": 20}
        assert converted.generate("A", **options)[0].token_ids == llm.generate("A", **options)[0].token_ids
    with pytest.raises(UsageError, match="exists"):
        bitnet_gpu.convert(MODEL, out, type="tl2")
    with pytest.raises(UsageError, match="no-such-flag"):
        bitnet_gpu.convert(MODEL, out, no_such_flag=True)
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(MODEL.read_bytes()[:100000])
    with pytest.raises(ModelError, match="damaged.gguf"):
        bitnet_gpu.convert(damaged, tmp_path / "other.gguf")


def test_bench_measures():
    rates = bitnet_gpu.bench(n_prompt=8, n_gen=[2, 4], repetitions=1, backend="cpu", threads=1)
    assert len(rates) == 3
