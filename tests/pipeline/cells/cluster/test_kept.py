"""Finished shards on disk: read back as they were, thrown away where they are of something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepipe.pipeline.cells.cluster.answers import Answer
from edgepipe.pipeline.cells.cluster.kept import Kept, forget
from edgepipe.pipeline.cells.cluster.spread import shard_size
from edgepipe.pipeline.errors import IntegrityError
from edgepipe.runners.base import Placement, SessionError, TensorSpec
from edgepipe.runners.workers.answers import Loaded

LOADED = Loaded(
    (TensorSpec("input", "float32", (None, 3, 8, 8)),),
    (TensorSpec("logits", "float32", (None, 10)),),
    Placement("CPU", "f32", 1, {"CPUExecutionProvider": 3}, provider="CPUExecutionProvider"),
    "1.32.0",
    1.5,
    False,
)


def answer() -> Answer:
    places = np.arange(5, dtype=np.int32)
    return Answer(LOADED, {"name": "box", "cpu_flags": ["avx2"]}, {"places": places})


def test_a_finished_shard_is_read_back_as_it_was(tmp_path: Path) -> None:
    kept = Kept.of(tmp_path, "evaluate", "key")
    kept.keep("shard", [answer(), answer()])
    found = Kept.of(tmp_path, "evaluate", "key").load("shard")
    assert found
    assert [one.loaded for one in found] == [LOADED, LOADED]
    assert found[1].host == answer().host
    np.testing.assert_array_equal(found[1].arrays["places"], answer().arrays["places"])
    assert found[1].arrays["places"].dtype == np.int32
    assert kept.load("other") is None


def test_another_key_throws_them_away_and_another_command_has_its_own(tmp_path: Path) -> None:
    Kept.of(tmp_path, "evaluate", "key").keep("shard", [answer()])
    Kept.of(tmp_path, "parity", "other").keep("shard", [answer()])
    assert Kept.of(tmp_path, "evaluate", "other").load("shard") is None
    assert Kept.of(tmp_path, "evaluate", "key").load("shard") is None
    assert Kept.of(tmp_path, "parity", "other").load("shard")
    forget(tmp_path, "evaluate")
    forget(tmp_path, "parity")
    assert not list(tmp_path.iterdir())


def test_a_cell_that_failed_is_tried_again(tmp_path: Path) -> None:
    kept = Kept.of(tmp_path, "evaluate", "key")
    kept.keep("shard", [answer(), Answer(error=SessionError("out of memory"))])
    assert kept.load("shard") is None


def test_a_damaged_shard_is_none(tmp_path: Path) -> None:
    kept = Kept.of(tmp_path, "evaluate", "key")
    kept.keep("shard", [answer()])
    path = kept.folder / "shard.npz"
    path.write_bytes(path.read_bytes()[:-40])
    assert kept.load("shard") is None


def test_nothing_behind_a_link_is_removed(tmp_path: Path) -> None:
    mine, workspace = tmp_path / "mine", tmp_path / "workspace"
    (mine / "evaluate" / "photos").mkdir(parents=True)
    workspace.mkdir()
    (workspace / "shards").symlink_to(mine)
    with pytest.raises(IntegrityError, match="shards: not a folder of edgepipe's"):
        Kept.of(workspace, "evaluate", "key")
    with pytest.raises(IntegrityError, match="move it elsewhere"):
        forget(workspace, "evaluate")
    assert (mine / "evaluate" / "photos").is_dir()


@pytest.mark.parametrize("count", [1, 63, 397, 20_000, 1_000_000])
@pytest.mark.parametrize("chunk", [32, 33, 36, 64, 1024])
def test_shards_are_whole_chunks(count: int, chunk: int) -> None:
    size = shard_size(count, chunk)
    assert size % chunk == 0
    assert size < 512 + chunk or size == chunk
