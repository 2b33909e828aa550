"""Ray Data: every row is there once, whatever dies."""

import threading
import time

import numpy as np
import pytest
import ray

from bitnet_gpu import LLM, UsageError
from bitnet_gpu.ray import ProcessorConfig, build_processor
from conftest import STORE_BYTES

ROWS = 1000
SAMPLING = {"temperature": 0, "max_tokens": 6}
ENGINE = {"backend": "cpu", "n_ctx": 128, "n_seqs": 4}


def prompts(count):
    return [{"id": at, "prompt": f"Once upon a time there was a dog with {at} bones. It"} for at in range(count)]


def test_every_document_is_there_once_though_a_node_dies(cluster, tmp_path):
    config = ProcessorConfig(
        engine=ENGINE, sampling=SAMPLING, concurrency=2, batch_size=25, postprocess=lambda row: {"text": row["generated_text"]}
    )
    processor = build_processor(config)
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    cluster.wait_for_nodes()
    killed = threading.Event()

    def kill():
        while len(list(tmp_path.glob("*.parquet"))) < ROWS // config.batch_size // 2:
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)
        killed.set()

    killer = threading.Thread(target=kill)
    killer.start()
    dataset = ray.data.from_items(prompts(ROWS), override_num_blocks=ROWS // config.batch_size)
    done = processor.write(dataset, str(tmp_path))
    killer.join()
    assert killed.is_set() and done == ROWS
    rows = {row["id"]: row["text"] for row in processor.read(str(tmp_path)).iter_rows()}
    assert processor.read(str(tmp_path)).count() == ROWS == len(rows)
    with LLM(**ENGINE) as llm:
        alone = llm.generate([row["prompt"] for row in prompts(ROWS)], **SAMPLING)
    assert [rows[at] for at in range(ROWS)] == [output.text for output in alone]
    # What is written is not done again, and more is added to it.
    assert build_processor(config_of_one_more()).write(ray.data.from_items(prompts(ROWS + 1)), str(tmp_path)) == 1
    assert processor.read(str(tmp_path)).count() == ROWS + 1


def config_of_one_more():
    return ProcessorConfig(engine=ENGINE, sampling=SAMPLING, postprocess=lambda row: {"text": row["generated_text"]})


def test_tasks_of_all_kinds_and_rows_that_fail(cluster):
    rows = [{"id": 0, "prompt": "A dog"}, {"id": 1, "prompt": "word " * 200}, {"id": 2, "prompt": None}]
    found = {row["id"]: row for row in build_processor(ProcessorConfig(engine=ENGINE, sampling=SAMPLING))(
        ray.data.from_items(rows)
    ).take_all()}
    assert found[0]["num_generated_tokens"] == 6 and found[0]["generated_text"] and found[0]["error"] == ""
    assert "context" in found[1]["error"] and found[1]["generated_text"] == ""
    assert "prompt" in found[2]["error"]

    schema = {"type": "json_schema", "json_schema": {"schema": {"enum": ["x", "y"]}}}
    config = ProcessorConfig(
        task="chat",
        engine=ENGINE,
        chat={"response_format": schema},
        preprocess=lambda row: {"messages": [{"role": "user", "content": row["prompt"]}]},
    )
    [answer] = build_processor(config)(ray.data.from_items(rows[:1])).take_all()
    assert answer["generated_text"] in ('"x"', '"y"') and answer["prompt"] == "A dog"

    config = ProcessorConfig(task="embed", engine=ENGINE, embed={"pooling": "mean"})
    found = {row["id"]: row for row in build_processor(config)(ray.data.from_items(rows)).take_all()}
    assert np.linalg.norm(found[0]["embedding"]) == pytest.approx(1, abs=1e-5) and found[0]["error"] == ""
    assert "context" in found[1]["error"] and "text" in found[2]["error"]
    assert len(found[1]["embedding"]) == len(found[2]["embedding"]) == 0


def test_what_would_wait_for_ever_is_refused(cluster):
    with pytest.raises(UsageError, match="concurrency"):
        build_processor(ProcessorConfig(concurrency=2))(ray.data.from_items(prompts(1)))
    with pytest.raises(UsageError, match="task"):
        build_processor(ProcessorConfig(task="sing"))
