"""FAULTS 25 and 26: hostile bundles are refused with exit code 4, and write nothing outside."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from edgepipe.pipeline import verify
from edgepipe.pipeline.errors import ExitCode, exit_code
from edgepipe.runners.base import BundleError
from edgepipe.runners.bundles.bundle import unpacked
from edgepipe.runners.bundles.index import INDEX, SIGNATURE

from .. import bundles

Run = Callable[..., CompletedProcess[str]]
FLIPS = 500


def header(name: str, size: int = 0, **fields: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.USTAR_FORMAT)


def with_entry(name: str, data: bytes = b"", **fields: Any) -> Callable[[Path], Path]:
    """A whole bundle, and one more entry at its end."""

    def make(path: Path) -> Path:
        blocks = [
            bundles.tar_entry(header(member, len(found)), found)
            for member, found in bundles.contents().items()
        ]
        about = header(name, **{"size": len(data), **fields})
        entry = bundles.tar_entry(about, data)
        return bundles.pack(path, [*blocks, entry, bytes(1024)])

    return make


def with_index(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], Path]:
    """A bundle whose index says something else."""

    def make(path: Path) -> Path:
        members = bundles.contents()
        return bundles.write(path, {**members, INDEX: bundles.edited(members[INDEX], change)})

    return make


def with_blocks(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """A bundle whose tar, inside a container that is right, is another."""

    def make(path: Path) -> Path:
        whole = bundles.write(path, bundles.contents())
        return bundles.pack(path, [change(gzip.decompress(whole.read_bytes()))])

    return make


def with_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(change(bundles.write(path, bundles.contents()).read_bytes()))
        return path

    return make


def set_size(name: str, size: int) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["members"][name].update(size=size)


def rename(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["members"][new] = document["members"].pop(old)

    return change


def other_data(path: Path) -> Path:
    members = bundles.contents()
    return bundles.write(path, {**members, "fp32.onnx": members["fp32.onnx"][:-1] + b"?"})


def without_member(path: Path) -> Path:
    members = bundles.contents()
    del members["int8.onnx"]
    return bundles.write(path, members)


def index_last(path: Path) -> Path:
    members = bundles.contents()
    text = members.pop(INDEX)
    return bundles.write(path, {**members, INDEX: text})


def bomb(path: Path) -> Path:
    """256 MiB of zeros, as the index says, in a quarter of one."""
    size = 256 << 20
    members = bundles.contents()
    members[INDEX] = bundles.edited(members[INDEX], set_size("fp32.onnx", size))
    del members["fp32.onnx"]
    blocks = [
        bundles.tar_entry(header(INDEX, len(members[INDEX])), members[INDEX]),
        header("fp32.onnx", size),
    ]
    return bundles.pack(path, [*blocks, *([bytes(1 << 20)] * 256)])


def long_name(path: Path) -> Path:
    """What GNU tar writes before a file with a name of over 100 characters."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("a" * 150))
    return bundles.pack(path, [buffer.getvalue()])


def pax(path: Path) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(INDEX)
        info.pax_headers = {"path": "../../escaped"}
        tar.addfile(info)
    return bundles.pack(path, [buffer.getvalue()])


def plain_tarball(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in bundles.contents().items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "path-escape": with_entry("../escaped", b"x"),
    "path-escape-inside": with_entry("a/../../escaped", b"x"),
    "absolute-path": with_entry("/tmp/escaped", b"x"),
    "backslashes": with_entry("..\\escaped", b"x"),
    "hidden-file": with_entry(".profile", b"x"),
    "empty-name": with_entry("", b"x"),
    "newline-in-name": with_entry("a\nb", b"x"),
    "symbolic-link": with_entry("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "link-in-place-of-a-member": with_entry(
        "int8.onnx", type=tarfile.SYMTYPE, linkname="../../escaped"
    ),
    "hard-link": with_entry("link", type=tarfile.LNKTYPE, linkname="fp32.onnx"),
    "character-device": with_entry("zero", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "block-device": with_entry("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=0),
    "pipe": with_entry("pipe", type=tarfile.FIFOTYPE),
    "folder": with_entry("folder", type=tarfile.DIRTYPE),
    "setuid": with_entry("tool", b"x", mode=0o4755),
    "long-name": long_name,
    "pax-header": pax,
    "duplicate": with_entry("fp32.onnx", bundles.files()["fp32.onnx"]),
    "duplicate-in-capitals": with_entry("FP32.onnx", b"x"),
    "two-indices": with_entry(INDEX, bundles.contents()[INDEX]),
    "extra-file": with_entry("extra.txt", b"x"),
    "behind-the-end": with_blocks(lambda tar: tar + b"more"),
    "no-end": with_blocks(lambda tar: tar[:-1024]),
    "size-over-the-rest": with_entry("big", size=1 << 30),
    "bomb": bomb,
    "other-data": other_data,
    "wrong-size": with_index(set_size("fp32.onnx", 5)),
    "negative-size": with_index(set_size("fp32.onnx", -1)),
    "missing-member": without_member,
    "index-last": index_last,
    "index-names-a-path-outside": with_index(rename("int8.onnx", "../int8.onnx")),
    "index-not-json": with_blocks(
        lambda tar: tar.replace(b'"schema_version"', b"'schema_version'")
    ),
    "index-of-another-type": with_index(lambda document: document.update(variants=[1])),
    "index-with-more-in-it": with_index(lambda document: document.update(run="rm -rf /")),
    "index-nested-deeply": lambda path: bundles.write(path, {INDEX: b"[" * 100_000}),
    "a-second-archive": with_bytes(lambda data: data + gzip.compress(b"x")),
    "cut-in-half": with_bytes(lambda data: data[: len(data) // 2]),
    "one-byte-short": with_bytes(lambda data: data[:-1]),
    "empty": with_bytes(lambda data: b""),
    "plain-tarball": plain_tarball,
    "text": with_bytes(lambda data: b"#!/bin/sh\nrm -rf /\n"),
}

# What is said of some of them: the first line of defence, where a later one would hold, too.
SAYS = {
    "path-escape": "'../escaped' is no name",
    "symbolic-link": "is a symbolic link",
    "hard-link": "is a hard link",
    "character-device": "is a device",
    "folder": "is a folder",
    "setuid": "tool has a header that edgepipe doesn't write",
    "duplicate": "fp32.onnx is in it twice",
    "bomb": "far larger unpacked than packed",
    "other-data": "fp32.onnx is not the file",
    "missing-member": "int8.onnx is missing",
    "index-names-a-path-outside": "'../int8.onnx' is no name for a member",
    "cut-in-half": "changed or cut since it was written",
    "plain-tarball": "not a bundle that edgepipe wrote",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bundle_is_refused_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = HOSTILE[name](tmp_path / "hostile.tar.gz")
    inside = tmp_path / "a" / "b" / "temporary"
    inside.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(inside))
    before = {found for found in tmp_path.rglob("*") if found != inside}
    with pytest.raises(BundleError) as caught:
        verify(path)
    assert exit_code(caught.value) == ExitCode.INTEGRITY
    assert str(path) in str(caught.value)
    assert SAYS.get(name, "") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {found for found in tmp_path.rglob("*") if found != inside} == before


@pytest.mark.parametrize("name", ["path-escape", "symbolic-link", "text"])
def test_the_command_line_says_so_in_one_line(name: str, tmp_path: Path, edgepipe: Run) -> None:
    path = HOSTILE[name](tmp_path / "hostile.tar.gz")
    done = edgepipe("verify", path, "--quiet", "--json")
    assert done.returncode == 4
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"edgepipe: {path}: ")


def test_a_whole_bundle_of_the_same_kind_is_taken(tmp_path: Path) -> None:
    """Else the tests above would pass for the wrong reason."""
    path = bundles.write(tmp_path / "whole.tar.gz", bundles.contents())
    with unpacked(path) as bundle:
        assert (bundle.folder / "fp32.onnx").read_bytes() == bundles.files()["fp32.onnx"]
        folder = bundle.folder
    assert not folder.exists()
    path = bundles.write(path, {**bundles.contents(), SIGNATURE: b"{}"})
    with unpacked(path) as bundle:
        assert bundle.signed


def test_every_cut_is_caught(tmp_path: Path) -> None:
    data = bundles.write(tmp_path / "whole.tar.gz", bundles.contents()).read_bytes()
    path = tmp_path / "cut.tar.gz"
    for length in random.Random(0).sample(range(len(data)), 200):
        path.write_bytes(data[:length])
        with pytest.raises(BundleError), unpacked(path):
            pass


def test_every_flipped_byte_is_caught(bundle: Path, tmp_path: Path) -> None:
    """At 500 places of the real bundle, and at each of the first hundred, the container's own."""
    data = bytearray(bundle.read_bytes())
    path = tmp_path / "flipped.tar.gz"
    path.write_bytes(data)
    random_ = random.Random(0)
    places = [*range(100), *random_.sample(range(len(data)), FLIPS)]
    with path.open("r+b", buffering=0) as file:
        for place in places:
            os.pwrite(file.fileno(), bytes([data[place] ^ random_.randrange(1, 256)]), place)
            with pytest.raises(BundleError), unpacked(path):
                pass
            os.pwrite(file.fileno(), data[place : place + 1], place)
    with unpacked(path):  # the last one was put back
        pass


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_flipped_byte_on_the_command_line(
    bundle: Path, tmp_path: Path, edgepipe: Run, share: float
) -> None:
    data = bytearray(bundle.read_bytes())
    data[int(share * len(data))] ^= 1
    path = tmp_path / "flipped.tar.gz"
    path.write_bytes(data)
    assert edgepipe("verify", path).returncode == 4


def test_a_bundle_from_the_future_is_no_attack(tmp_path: Path) -> None:
    make = with_index(lambda document: document.update(schema_version=2, more={}))
    with pytest.raises(BundleError, match="schema 2, this edgepipe reads 1") as caught:
        verify(make(tmp_path / "future.tar.gz"))
    assert exit_code(caught.value) == ExitCode.BAD_INPUT


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_a_bundle_that_can_not_be_opened_is_bad_input(
    what: str, tmp_path: Path, edgepipe: Run
) -> None:
    (tmp_path / "folder").mkdir()
    done = edgepipe("verify", tmp_path / what, "--quiet")
    assert done.returncode == 3
    assert json.dumps(done.stderr).count("edgepipe: ") == 1
