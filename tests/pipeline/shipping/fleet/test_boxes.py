"""The fleet file: strict, with the nearest known name in every error, before any box is reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgepipe.pipeline import rollout
from edgepipe.pipeline.errors import InputError, UsageError, WorkspaceError
from edgepipe.pipeline.settings.load import load
from edgepipe.pipeline.shipping.fleet.boxes import Box, boxes_of, ordered
from edgepipe.runners.base import BundleError

from .... import bundles

SSH = 'ssh = "user@host"\npython = "/opt/edgepipe/bin/python"\n'


@pytest.fixture
def fleet(tmp_path: Path) -> Callable[[str], tuple[Box, ...]]:
    def read(text: str) -> tuple[Box, ...]:
        path = tmp_path / "fleet.toml"
        path.write_text(text)
        return boxes_of(path, load(folder=tmp_path))

    return read


Fleet = Callable[[str], tuple[Box, ...]]


def test_a_box_has_its_own_keys_then_the_defaults_then_the_configuration(
    fleet: Fleet, tmp_path: Path
) -> None:
    (tmp_path / "edgepipe.toml").write_text(
        '[deploy]\nfolder = "/srv"\nrestart = "kiosk"\n[verify]\nsamples = 8\n'
        '[rollout]\nmax-p99 = 30.0\n[targets.far]\nssh = "far"\npython = "/py"\n'
    )
    plain, own, far = fleet(
        '[defaults]\npython = "/venv/bin/python"\noptions = ["-p", "22"]\nfolder = "/var/models"\n'
        'max-p99 = 20.0\n[[box]]\nname = "one"\nssh = "one.local"\n'
        'labels = { site = "B", line = 3 }\n'
        '[[box]]\nname = "two"\nssh = "two.local"\nfolder = "/two"\nmax-p99 = 5.0\nsettle = 0.5\n'
        '[[box]]\nname = "far"\n'
    )
    assert plain.target.command[-2:] == ("one.local", "/venv/bin/python")
    assert plain.target.command[1:3] == ("-p", "22")
    assert (plain.deploy.folder, plain.deploy.restart) == ("/var/models", "kiosk")
    assert (plain.verify.samples, plain.verify.max_p99) == (8, 20.0)
    assert dict(plain.labels) == {"site": "B", "line": 3}
    assert (own.deploy.folder, own.deploy.settle, own.verify.max_p99) == ("/two", 0.5, 5.0)
    assert (far.target.name, far.target.command[-2:]) == ("far", ("far", "/py"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no box in it"),
        ("[[bxo]]\nname = 'a'\n", "unknown key bxo (fleet.toml); did you mean box?"),
        (f"[[box]]\nname = 'a'\n{SSH}fodler = '/x'\n", "box a); did you mean folder?"),
        (f"[[box]]\nname = 'a'\n{SSH}max-p9 = 1\n", "did you mean max-p99?"),
        (f"[[box]]\n{SSH}", "name (fleet.toml, box 1): missing"),
        (f"[[box]]\nname = ''\n{SSH}", "name"),
        (f"[[box]]\nname = 'a\\tb'\n{SSH}".replace("'", '"'), "one line of printable text"),
        (f"[[box]]\nname = 'a'\n{SSH}[[box]]\nname = 'a'\n{SSH}", "two boxes are called 'a'"),
        (f"[[box]]\nname = 'a'\n{SSH}[[box]]\nname = 'b'\n{SSH}", "a and b are the same folder"),
        ("[[box]]\nname = 'a'\nssh = '-oProxyCommand=x'\npython = '/p'\n", "not a host"),
        ("[[box]]\nname = 'a'\nssh = 'h'\n", "ssh and python belong together"),
        (f"[[box]]\nname = 'a'\ntarget = 'local'\n{SSH}", "one of ssh, command and target"),
        ("[[box]]\nname = 'a'\n", "no 'a'; "),
        ("[[box]]\nname = 'a'\ntarget = 'locla'\n", "did you mean local?"),
        ("[[box]]\nname = 'a'\ntarget = 'isa-avx2'\n", "computes as another CPU"),
        ("[[box]]\nname = 'a'\ntarget = 'local'\nrunner = 'ort-cup'\n", "did you mean ort-cpu?"),
        ("[[box]]\nname = 'a'\ntarget = 'local'\nmax-p99 = 0\n", "greater than 0"),
        ("[[box]]\nname = 'a'\ntarget = 'local'\nlabels = { x = [] }\n", "labels.x"),
        ("[defaults]\nssh = 'h'\n[[box]]\nname = 'a'\n", "defaults.ssh: every box has its own"),
        ("[defaults]\nfodler = '/x'\n[[box]]\nname = 'a'\ntarget = 'local'\n", "mean folder?"),
        ("defaults = 3\n[[box]]\nname = 'a'\n", "is to be a table"),
        ("[box]\nname = 'a'\n", "a table of its own, [[box]]"),
        ("[[box]\n", "not valid TOML"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fleet.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        boxes_of(Path("fleet.toml"), load())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fleet_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fleet\.toml: No such file"):
        boxes_of(tmp_path / "fleet.toml", load(folder=tmp_path))


def test_boxes_are_ordered_by_a_label_as_people_count(fleet: Fleet) -> None:
    labels = ("line = 10", "line = 9", "line = '2b'", "", "line = '2a'", "line = 9")
    boxes = fleet(
        "".join(
            f"[[box]]\nname = 'b{number}'\n{SSH}folder = '/{number}'\nlabels = {{ {one} }}\n"
            for number, one in enumerate(labels)
        )
    )
    found = ordered(boxes, "line", Path("fleet.toml"))
    assert [box.name for box in found] == ["b4", "b2", "b1", "b5", "b0", "b3"]
    assert ordered(boxes, None, Path("fleet.toml")) == boxes
    with pytest.raises(UsageError, match=r"no label 'lime' in fleet\.toml; did you mean line"):
        ordered(boxes, "lime", Path("fleet.toml"))


@pytest.mark.parametrize(
    ("said", "kind", "says"),
    [
        ({"waves": "50%,10%"}, UsageError, "each wave is to reach more boxes"),
        ({"threshold": "0.95"}, UsageError, 'not a percentage such as "5%"'),
        ({"max_away": "200%"}, UsageError, "over 100%"),
        ({"soak": "soon"}, UsageError, "not a time"),
        ({"rollback": "none"}, UsageError, "rollback"),
        ({"order": "site"}, UsageError, "no box has labels"),
        ({"journal": Path("nowhere/j.jsonl")}, WorkspaceError, "nowhere"),
        ({"bundle": Path("damaged.tar.gz")}, BundleError, "damaged"),
        ({"bundle": Path("gone.tar.gz")}, BundleError, "gone"),
        ({}, UsageError, "no variant int4 in new.tar.gz; did you mean int8?"),
    ],
)
def test_a_rollout_that_makes_no_sense_reaches_no_box(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: dict[str, Any],
    kind: type[Exception],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    own = "variant = 'int4'\n" if not said else ""
    (tmp_path / "fleet.toml").write_text(
        f"[[box]]\nname = 'a'\ntarget = 'local'\nfolder = 'a'\n{own}"
    )
    bundle = bundles.write(Path("new.tar.gz"), bundles.contents())
    Path("damaged.tar.gz").write_bytes(bundle.read_bytes()[:-1])
    with pytest.raises(kind) as caught:
        rollout(**{"fleet": Path("fleet.toml"), "bundle": bundle, **said})
    assert says in str(caught.value)
    assert not (tmp_path / "a").exists()
    assert not list(tmp_path.glob("*.jsonl"))
