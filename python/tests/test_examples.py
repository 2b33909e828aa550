"""The examples and the lines of the README, run as a reader would."""

import pathlib
import subprocess
import sys

import pytest

PYTHON = pathlib.Path(__file__).parents[1]


def run(path, text=""):
    done = subprocess.run([sys.executable, path], input=text, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_classify():
    pytest.importorskip("pydantic")
    lines = run(PYTHON / "examples" / "classify.py")
    assert len(lines) == 4
    for line in lines:
        topic, mood = line.split()[:2]
        assert topic in ("animals", "weather", "food") and mood in ("happy", "sad")


def test_search():
    pytest.importorskip("hnswlib")
    lines = run(PYTHON / "examples" / "search.py")
    assert len(lines) == 3 and lines[0].endswith("The dog ran after the ball.")


def test_chat():
    lines = run(PYTHON / "examples" / "chat.py", "Hello\nWhat is a dog?\n")
    assert any(line.strip() for line in lines)


def test_the_lines_of_the_readme(tmp_path):
    for text in ((PYTHON / "README.md").read_text(), (PYTHON / "bitnet_gpu" / "__init__.py").read_text()):
        lines = [line[4:] for line in text.splitlines() if line.startswith("    ") and "__all__" not in line]
        first = lines.index("from bitnet_gpu import LLM")
        script = tmp_path / "readme.py"
        script.write_text("\n".join(lines[first : first + 4]))
        assert run(script)
