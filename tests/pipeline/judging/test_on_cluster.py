"""parity and evaluate on workers of this machine: as without them. More is in tests/cluster."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgepipe.pipeline import evaluate, parity
from edgepipe.pipeline.errors import ClusterError, UsageError

from ...made import Made


def test_a_cluster_that_is_not_there_is_said_and_nothing_is_changed(tmp_path: Path) -> None:
    made = Made(tmp_path)
    before = sorted(made.folder.iterdir())
    with pytest.raises(ClusterError, match=r"--cluster 127\.0\.0\.1:9: no Dask scheduler"):
        parity(workspace=tmp_path, cluster="127.0.0.1:9", runners=("ort-cpu",))
    assert [one for one in sorted(made.folder.iterdir()) if one.name != ".lock"] == before


def test_an_address_that_is_none_is_refused_before_anything_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cluster .*neither local:N"):
        evaluate(workspace=tmp_path, cluster="local:0")
    with pytest.raises(UsageError, match="--from runs nothing"):
        parity(workspace=tmp_path, cluster="local:2", recording=tmp_path / "parity.npz")


@pytest.mark.long
def test_a_cell_that_fails_says_the_same_on_a_cluster(tmp_path: Path) -> None:
    """The files are of another network: each fails on its first image, with the runner's words."""
    made = Made(tmp_path)
    alone = evaluate(workspace=tmp_path, runners=("ort-cpu",), threads=1)
    spread = evaluate(workspace=tmp_path, runners=("ort-cpu",), threads=1, cluster="local:1")
    assert spread.cluster
    assert dataclasses.replace(spread, cluster=None) == alone
    assert not (made.folder / "shards").exists()
