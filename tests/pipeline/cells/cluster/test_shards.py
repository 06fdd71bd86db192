"""Shards on a scripted cluster: what is lost is tried again, what comes late isn't counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from edgepipe.pipeline.cells.cluster import images
from edgepipe.pipeline.cells.cluster.files import Files, MissingFiles
from edgepipe.pipeline.cells.cluster.images import ElsewhereError
from edgepipe.pipeline.cells.cluster.shards import OtherEnvironment, Shard, Shards
from edgepipe.pipeline.errors import ClusterError


class Future:
    """As much of Dask's as is used; it is done when the script says so."""

    def __init__(self) -> None:
        self.status, self.cancelled = "pending", False
        self._told: list[Callable[[Future], object]] = []
        self._answer: Any = None

    def add_done_callback(self, told: Callable[[Future], object]) -> None:
        self._told.append(told)
        if self.status != "pending":
            told(self)

    def end(self, answer: Any) -> None:
        self.status = "error" if isinstance(answer, Exception) else "finished"
        self._answer = answer
        for told in self._told:
            told(self)

    def result(self) -> Any:
        return self._answer

    exception = result

    def cancel(self) -> None:
        self.cancelled = True

    def release(self) -> None:
        pass


@dataclass
class Script:
    """A cluster of two workers that answer as ``answer`` says; "lost" takes a worker away."""

    answer: Callable[[str, Any], Any]
    asked: str = "script"
    alive: dict[str, int] = field(default_factory=lambda: {"a": 1, "b": 1})
    brought: list[MissingFiles] = field(default_factory=list)
    late: list[tuple[Future, Any]] = field(default_factory=list)

    def workers(self) -> Mapping[str, int]:
        return dict(self.alive)

    def submit(self, worker: str, task: Callable[..., Any], arguments: tuple[Any, ...]) -> Future:
        future, answer = Future(), self.answer(worker, arguments)
        if answer == "lost":
            self.alive.pop(worker, None)
            self.alive.setdefault(f"{worker}+", 1)
            self.late.append((future, task(*arguments)))
        else:
            future.end(task(*arguments) if answer is None else answer)
        return future

    def bring(self, missing: MissingFiles) -> None:
        self.brought.append(missing)

    def revive(self) -> None:
        # A lost worker's answer arrives after all, when others have the shard already.
        while self.late:
            future, answer = self.late.pop()
            future.end(answer)


def shard(number: int) -> Shard:
    return Shard(f"shard {number}", ("cell",), int, lambda _way: (number,))


def done_on(link: Script, count: int = 20) -> tuple[list[int], Shards, list[str]]:
    found: list[int] = []
    said: list[str] = []
    shards = Shards(link, said.append)
    shards.run(list(map(shard, range(count))), lambda _, answer: found.append(answer))
    return found, shards, said


def test_what_a_lost_worker_had_is_done_elsewhere_and_its_late_answer_is_not_counted() -> None:
    lost: list[int] = []

    def answer(worker: str, arguments: Any) -> Any:
        if arguments == (7,) and not lost:
            lost.append(7)
            return "lost"
        return None

    found, shards, said = done_on(Script(answer))
    assert sorted(found) == list(range(20))
    assert shards.retried >= 1
    assert "was lost" in said[0]


def test_a_shard_that_ends_every_worker_ends_the_run() -> None:
    link = Script(lambda _worker, arguments: "lost" if arguments == (3,) else None)
    with pytest.raises(ClusterError, match="shard 3: 3 workers were lost"):
        done_on(link)


def test_a_worker_that_joins_with_another_environment_ends_the_run_with_the_difference() -> None:
    other = OtherEnvironment("tcp://b", "numpy 2.3.0, here 2.4.6")
    link = Script(lambda worker, _: other if worker == "b" else None)
    with pytest.raises(ClusterError, match=r"worker tcp://b: numpy 2\.3\.0, here 2\.4\.6"):
        done_on(link)


def test_a_worker_without_the_files_is_sent_them_and_asked_again() -> None:
    missing = MissingFiles(Files("/models", (("fp32.onnx", "0" * 64),)), "b")
    link = Script(lambda worker, _: missing if worker == "b" and not link.brought else None)
    found, shards, _ = done_on(link)
    assert sorted(found) == list(range(20))
    assert (set(link.brought), shards.retried) == ({missing}, 0)


def test_images_that_are_not_there_come_with_the_shards_from_then_on() -> None:
    ways: list[str] = []

    def arguments(way: str) -> tuple[int]:
        ways.append(way)
        return (0,)

    link = Script(lambda *_: None if ways[-1] == images.SENT else ElsewhereError())
    shards = Shards(link, print)
    found: list[int] = []
    some = [Shard("", (), int, arguments) for _ in range(6)]
    shards.run(some, lambda _, answer: found.append(answer))
    assert len(found) == 6
    assert ways[0] == images.SAME_MACHINE
    assert ways[-1] == images.SENT


def test_nothing_is_begun_once_it_is_over() -> None:
    found: list[int] = []
    shards = Shards(Script(lambda *_: None), print)
    some = list(map(shard, range(100)))
    shards.run(some, lambda _, answer: found.append(answer), lambda: len(found) >= 4)
    assert 4 <= len(found) <= 8
