"""push and pull through an OCI layout: what arrives, what is left out, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from edgepipe.pipeline import pull, push
from edgepipe.pipeline.errors import ExitCode, InputError, IntegrityError, UsageError, exit_code
from edgepipe.pipeline.shipping.registry import artifact, oci
from edgepipe.pipeline.shipping.registry.address import Address
from edgepipe.pipeline.shipping.registry.layout import Layout
from edgepipe.pipeline.storage import atomic
from edgepipe.runners.base import BundleError
from edgepipe.runners.bundles.bundle import read_index, unpacked
from edgepipe.runners.bundles.index import INDEX, SIGNATURE, Index, Variant

from ... import bundles
from ...sites import bundle, layout

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def pushed(tmp_path: Path) -> tuple[str, Path]:
    """The address of a layout with a bundle as `latest`, and the bundle."""
    path = bundle(tmp_path / "made")
    push(layout(tmp_path), path)
    return layout(tmp_path), path


def blobs_of(address: str) -> Path:
    return Path(address.removeprefix("oci:")) / "blobs" / "sha256"


def blob_of(address: str, path: Path, name: str) -> Path:
    """Where a layout has a file of a bundle."""
    return blobs_of(address) / read_index(path).members[name].sha256


def replaced(address: str, change: Callable[[dict[str, Any]], None], tag: str = "latest") -> None:
    """Another manifest under a tag, whose digest is right."""
    store = Layout(Path(address.removeprefix("oci:")))
    document = json.loads(store.manifest(tag) or b"")
    change(document)
    store.put_manifest(json.dumps(document).encode(), oci.MANIFEST, tag)


def refused(kind: type[Exception], *arguments: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        pull(*arguments, **options)
    return str(caught.value)


# What arrives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("signature", [None, b"a signature"])
def test_all_of_a_bundle_is_the_archive_that_was_pushed(
    tmp_path: Path, signature: bytes | None
) -> None:
    path = bundle(tmp_path, signature=signature)
    found = push(layout(tmp_path), path)
    done = pull(layout(tmp_path), out=tmp_path / "out", whole=True)
    assert done.path.read_bytes() == path.read_bytes()
    assert done.digest == found.digest
    assert done.path.name.startswith("tiny-")
    assert done.signatures == (signature is not None)
    assert not (tmp_path / "out" / ".edgepipe-pull").exists()


def test_one_variant_comes_without_the_files_of_the_others(
    tmp_path: Path, pushed: tuple[str, Path]
) -> None:
    address, path = pushed
    blob_of(address, path, "int8.onnx").unlink()
    done = pull(address, out=tmp_path / "out", variants=("fp32",))
    assert done.left_out == ("int8.onnx",)
    with unpacked(done.path) as part, unpacked(path) as whole:
        assert part.digest == whole.digest
        assert list(part.index.variants) == ["fp32"]
        assert part.file_name == done.path.name


def test_the_variant_that_fits_this_machine_is_chosen(
    tmp_path: Path, pushed: tuple[str, Path]
) -> None:
    done = pull(pushed[0], out=tmp_path / "out", runner="ort-cpu")
    (variant,) = done.variants
    assert variant == ("fp32" if "int8" in done.passed_over else "int8")


def test_a_runner_says_which_format_of_a_variant(tmp_path: Path) -> None:
    ir = {"fp32.xml": b"<?xml?><net/>", "fp32.bin": b"weights"}
    members = {**bundles.files(), **ir}
    variant = Variant({"onnx": ("fp32.onnx",), "openvino-ir": ("fp32.xml", "fp32.bin")})
    index = bundles.index(members, variants={"fp32": variant})
    (tmp_path / "made").mkdir()
    path = bundles.write(tmp_path / "made" / "b.tar.gz", {INDEX: index.to_bytes(), **members})
    push(layout(tmp_path), path)

    def kept(**options: Any) -> tuple[str, ...]:
        options = {"out": tmp_path / "out", "variants": ("fp32",), **options}
        return pull(layout(tmp_path), **options).variants["fp32"]

    assert kept() == ("onnx", "openvino-ir")
    assert kept(runner="ort-cpu") == ("onnx",)
    assert kept(runner="openvino") == ("openvino-ir",)


def test_a_tag_and_a_digest_lead_to_the_same(tmp_path: Path) -> None:
    old = push(f"{layout(tmp_path)}:7", bundle(tmp_path / "old"))
    new = push(f"{layout(tmp_path)}:7", bundle(tmp_path / "new", release=8))
    assert new.before == old.digest
    found = [
        pull(f"{layout(tmp_path)}{which}", out=tmp_path / "out", whole=True)
        for which in (":7", f"@{old.digest}", f":7@{new.digest}")
    ]
    assert [one.digest for one in found] == [new.digest, old.digest, new.digest]
    assert "no tag 8 there" in refused(InputError, f"{layout(tmp_path)}:8", out=tmp_path / "out")


def test_a_signature_may_come_later_and_the_digest_stays(tmp_path: Path) -> None:
    unsigned = push(layout(tmp_path), bundle(tmp_path / "a"))
    signed = bundle(tmp_path / "b", signature=b"a signature")
    again = push(layout(tmp_path), signed)
    assert again.digest == unsigned.digest
    assert again.bytes_sent == len(b"a signature")
    out = tmp_path / "out"
    assert pull(layout(tmp_path), out=out, whole=True).path.read_bytes() == signed.read_bytes()


def test_a_signature_that_is_no_longer_offered_is_kept(tmp_path: Path) -> None:
    push(layout(tmp_path), bundle(tmp_path / "b", signature=b"a signature"))
    before = pull(layout(tmp_path), out=tmp_path / "out", whole=True).path.read_bytes()
    push(f"{layout(tmp_path)} 2", bundle(tmp_path / "a"))
    done = pull(f"{layout(tmp_path)} 2", out=tmp_path / "out", whole=True)
    assert done.path.read_bytes() == before


def test_what_is_there_is_not_fetched_again(tmp_path: Path, pushed: tuple[str, Path]) -> None:
    address, path = pushed
    first = pull(address, out=tmp_path / "out", whole=True)
    assert first.bytes_here == 0
    for name in read_index(path).members:
        blob_of(address, path, name).unlink()
    again = pull(address, out=tmp_path / "out", whole=True)
    assert again.bytes_here == sum(one.size for one in read_index(path).members.values())
    assert again.path.read_bytes() == path.read_bytes()
    part = pull(address, out=tmp_path / "out", variants=("int8",))
    assert part.bytes_fetched < 10_000, "its files come from the whole bundle beside it"


def test_a_new_release_brings_only_what_changed(tmp_path: Path) -> None:
    push(layout(tmp_path), bundle(tmp_path / "old"))
    pull(layout(tmp_path), out=tmp_path / "out", whole=True)
    push(layout(tmp_path), bundle(tmp_path / "new", release=2))
    done = pull(layout(tmp_path), out=tmp_path / "out", whole=True)
    assert done.bytes_here == sum(len(data) for data in bundles.files().values())
    assert read_index(done.path).release == 2


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fp32.onnx", "goldens.npz"])
@pytest.mark.parametrize("spoiled", ["flipped", "short", "long"])
def test_a_changed_blob_is_refused_and_leaves_nothing(
    tmp_path: Path, pushed: tuple[str, Path], name: str, spoiled: str
) -> None:
    address, path = pushed
    blob = blob_of(address, path, name)
    data = blob.read_bytes()
    flipped = data[:100] + bytes([data[100] ^ 1]) + data[101:]
    blob.write_bytes({"flipped": flipped, "short": data[:-1], "long": data + b"\0"}[spoiled])
    with pytest.raises((IntegrityError, InputError), match=name):
        pull(address, out=tmp_path / "out", whole=True)
    assert not list((tmp_path / "out").glob("*.tar.gz"))
    blob.write_bytes(data)
    assert pull(address, out=tmp_path / "out", whole=True).path.read_bytes() == path.read_bytes()


def test_a_flipped_bit_ends_with_exit_code_4(
    tmp_path: Path, pushed: tuple[str, Path], edgepipe: Run
) -> None:
    address, path = pushed
    blob = blob_of(address, path, "int8.onnx")
    blob.write_bytes(blob.read_bytes()[:-1] + b"\xff")
    done = edgepipe("pull", address, "--variant", "int8", "--out", tmp_path / "a box", "--quiet")
    assert done.returncode == ExitCode.INTEGRITY, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgepipe: oci:")
    assert "'int8.onnx' is not the file that its digest says" in line


def test_a_damaged_manifest_is_refused_by_its_digest(
    tmp_path: Path, pushed: tuple[str, Path]
) -> None:
    address, path = pushed
    digest = push(address, path).digest
    place = blobs_of(address) / digest.removeprefix("sha256:")
    place.write_bytes(place.read_bytes().replace(b'"tiny"', b'"tinx"'))
    said = refused(IntegrityError, f"{address}@{digest}", out=tmp_path / "out", whole=True)
    assert f"what is under {digest} is not that" in said


@pytest.mark.parametrize("title", ["../evil", "/tmp/evil", "a/../../evil", "fp32.onnx", ""])
def test_a_manifest_names_no_file_outside(
    tmp_path: Path, pushed: tuple[str, Path], title: str
) -> None:
    address, _ = pushed

    def change(manifest: dict[str, Any]) -> None:
        manifest["layers"][-1]["annotations"] = {oci.TITLE: title}

    replaced(address, change)
    before = set(tmp_path.rglob("*"))
    said = refused(BundleError, address, out=tmp_path / "out", whole=True)
    assert f"layer {title!r} is not the file" in said
    made = {path.relative_to(tmp_path) for path in set(tmp_path.rglob("*")) - before}
    assert {path.parts[0] for path in made} == {"out"}


def _another_index(manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["digest"] = manifest["layers"][1]["digest"]
    manifest["layers"][0]["size"] = manifest["layers"][1]["size"]


def _one_less(manifest: dict[str, Any]) -> None:
    del manifest["layers"][-1]


def _one_more(manifest: dict[str, Any]) -> None:
    manifest["layers"].append(manifest["layers"][-1])


def _another_size(manifest: dict[str, Any]) -> None:
    manifest["layers"][1]["size"] += 1


def _no_index(manifest: dict[str, Any]) -> None:
    del manifest["layers"][0]


def _huge_index(manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["size"] = 1 << 40


def _odd_digest(manifest: dict[str, Any]) -> None:
    manifest["layers"][1]["digest"] = "sha256:../../../etc/passwd"


def _no_layers(manifest: dict[str, Any]) -> None:
    manifest["layers"] = []


@pytest.mark.parametrize(
    "change",
    [
        *(_another_index, _one_less, _one_more, _another_size, _no_index, _huge_index),
        *(_odd_digest, _no_layers),
    ],
)
def test_a_manifest_that_is_not_of_the_bundle_is_refused(
    tmp_path: Path, pushed: tuple[str, Path], change: Callable[[dict[str, Any]], None]
) -> None:
    replaced(pushed[0], change)
    with pytest.raises((IntegrityError, BundleError)) as caught:
        pull(pushed[0], out=tmp_path / "out", whole=True)
    assert exit_code(caught.value) == ExitCode.INTEGRITY
    assert not list((tmp_path / "out").glob("*.tar.gz"))


@pytest.mark.parametrize("name", ["../outside", "a/b", ".hidden", "a b", ""])
def test_a_model_has_no_name_that_leads_elsewhere(tmp_path: Path, name: str) -> None:
    """It becomes the archive's: nothing else stands between it and the folder."""
    index = bundles.index(bundles.files(), name=name)
    text = index.to_bytes()
    data = artifact.manifest_of(index, text).to_bytes()
    Path(layout(tmp_path).removeprefix("oci:")).parent.mkdir(exist_ok=True)
    store = Layout(Path(layout(tmp_path).removeprefix("oci:")), new=True)
    for blob in (text, *bundles.files().values()):
        artifact.put(store, oci.describe(blob, ""), blob)
    store.put_manifest(data, oci.MANIFEST, "latest")
    assert "is no name for a model" in refused(
        BundleError, layout(tmp_path), out=tmp_path / "out", whole=True
    )


def test_an_image_of_somebody_else_is_no_bundle(tmp_path: Path, pushed: tuple[str, Path]) -> None:
    address, _ = pushed
    replaced(address, lambda manifest: manifest.pop("artifactType"))
    assert "no bundle of edgepipe, but an image" in refused(InputError, address, out=tmp_path / "o")
    Layout(Path(address.removeprefix("oci:"))).put_manifest(
        oci.ImageIndex().to_bytes(), oci.INDEX, "latest"
    )
    assert "no bundle" in refused(InputError, address, out=tmp_path / "o")


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b'{"manifests": [{}]}'])
def test_a_folder_that_is_no_layout_is_said(tmp_path: Path, text: bytes) -> None:
    assert "no OCI layout there" in refused(InputError, f"oci:{tmp_path}", out=tmp_path / "out")
    (tmp_path / "oci-layout").write_text("{}")
    (tmp_path / "index.json").write_bytes(text)
    with pytest.raises((InputError, IntegrityError)):
        pull(f"oci:{tmp_path}", out=tmp_path / "out")
    (tmp_path / "oci-layout").unlink()
    (tmp_path / "somebody's").touch()
    with pytest.raises(InputError, match="not empty, and no OCI layout"):
        push(f"oci:{tmp_path}", bundle(tmp_path / "made"))


def test_a_part_is_not_pushed(tmp_path: Path, pushed: tuple[str, Path]) -> None:
    part = pull(pushed[0], out=tmp_path / "out", variants=("fp32",)).path
    with pytest.raises(InputError, match=r"a part of its bundle, without int8\.onnx"):
        push(pushed[0], part)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"variants": ("fp16",)}, "no variant fp16 in it"),
        ({"whole": True, "variants": ("fp32",)}, "--all is every variant"),
        ({"variants": ("fp32",), "runner": "openvino-gpu"}, "openvino-gpu"),
        ({"no_clock": True}, "need --root"),
        ({"state": Path("here")}, "need --root"),
    ],
)
def test_options_that_make_no_sense(
    tmp_path: Path, pushed: tuple[str, Path], options: dict[str, Any], why: str
) -> None:
    assert why in refused(UsageError, pushed[0], out=tmp_path / "out", **options)


@pytest.mark.parametrize(
    "text",
    [
        *("", "registry/name", "http://registry/name", "oci://registry", "oci://registry/Upper"),
        *("oci:///name", "oci://r/n:", "oci://r/n:a b", "oci://r/n@sha256:12", "oci:", "oci://"),
        *("oci://r/../n", "oci://user@r/n", "oci://r/n?x=1"),
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        Address.parse(text)


def test_addresses_of_registries_and_folders() -> None:
    digest = f"sha256:{'0' * 64}"
    found = Address.parse(f"oci://h:5000/a/b:1.2@{digest}")
    assert found == Address("h:5000", "a/b", "1.2", digest)
    assert Address.parse("oci:/a b/c") == Address(None, "/a b/c")
    assert Address.parse("oci:/a:b/c:latest") == Address(None, "/a:b/c", "latest")
    assert str(Address.parse("oci:x:1")) == "oci:x:1"


@pytest.mark.parametrize("tag", ["tuf-1.root.json", f"sha256-{'0' * 64}"])
def test_a_bundle_takes_no_tag_of_another_kind(tmp_path: Path, tag: str) -> None:
    with pytest.raises(UsageError, match="is no tag for a bundle"):
        push(f"{layout(tmp_path)}:{tag}", bundle(tmp_path / "made"))


# Cut off, and no room -------------------------------------------------------------------------


def test_a_pull_goes_on_where_it_was_cut(tmp_path: Path, pushed: tuple[str, Path]) -> None:
    address, path = pushed
    blob = blob_of(address, path, "fp32.onnx")
    data = blob.read_bytes()
    scratch = tmp_path / "out" / ".edgepipe-pull"
    scratch.mkdir(parents=True)
    (scratch / f"{blob.name}.part").write_bytes(data[:-1])
    (scratch / blob_of(address, path, "int8.onnx").name).write_bytes(b"damaged since")
    done = pull(address, out=tmp_path / "out", whole=True)
    assert done.bytes_here == len(data) - 1
    assert done.path.read_bytes() == path.read_bytes()


def test_a_damaged_beginning_is_fetched_anew(tmp_path: Path, pushed: tuple[str, Path]) -> None:
    address, path = pushed
    blob = blob_of(address, path, "fp32.onnx")
    scratch = tmp_path / "out" / ".edgepipe-pull"
    scratch.mkdir(parents=True)
    (scratch / f"{blob.name}.part").write_bytes(b"\0" * 10)
    assert pull(address, out=tmp_path / "out", whole=True).path.read_bytes() == path.read_bytes()


def test_a_full_disk_is_said_and_costs_nothing(
    tmp_path: Path, pushed: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, path = pushed
    before = pull(address, out=tmp_path / "out", variants=("fp32",)).path
    kept = before.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    said = refused(InputError, address, out=tmp_path / "out", whole=True)
    assert "No space left on device; free some space" in said
    monkeypatch.undo()
    assert before.read_bytes() == kept
    assert pull(address, out=tmp_path / "out", whole=True).path.read_bytes() == path.read_bytes()


@pytest.mark.long
def test_two_at_once_wait_for_each_other(tmp_path: Path, pushed: tuple[str, Path]) -> None:
    address, path = pushed
    code = (
        "import sys; from edgepipe.pipeline import pull\n"
        "pull(sys.argv[1], out=sys.argv[2], whole=True)"
    )
    command = [sys.executable, "-c", code, address, str(tmp_path / "out")]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    assert [one.communicate(timeout=60)[1] for one in running] == [b"", b""]
    (made,) = (tmp_path / "out").glob("*.tar.gz")
    assert made.read_bytes() == path.read_bytes()


# What others can read -------------------------------------------------------------------------


def test_the_layout_is_one_by_its_rules(tmp_path: Path, pushed: tuple[str, Path]) -> None:
    """image-spec 1.1: names of blobs are their digests, and each is what it is said to be."""
    root = Path(pushed[0].removeprefix("oci:"))
    assert json.loads((root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    for path in (root / "blobs" / "sha256").iterdir():
        assert oci.describe(path, "").digest == f"sha256:{path.name}"
    listing = json.loads((root / "index.json").read_bytes())
    (entry,) = listing["manifests"]
    assert entry["annotations"] == {oci.REFERENCE: "latest"}
    manifest = json.loads((root / "blobs/sha256" / entry["digest"][7:]).read_bytes())
    assert manifest["artifactType"] == "application/vnd.edgepipe.bundle.v1"
    assert manifest["annotations"][oci.TITLE] == "tiny"
    titles = [layer["annotations"][oci.TITLE] for layer in manifest["layers"]]
    assert titles == [INDEX, *sorted(bundles.files())]


def test_equal_bundles_have_equal_manifests(tmp_path: Path) -> None:
    found = [push(f"{layout(tmp_path)} {one}", bundle(tmp_path / one)) for one in ("a", "b")]
    assert found[0].digest == found[1].digest


def test_signature_and_bill_refer_to_the_bundle(tmp_path: Path) -> None:
    members = {**bundles.files(), "bom.cdx.json": b"{}"}
    index: Index = bundles.index(members)
    (tmp_path / "made").mkdir()
    contents = {INDEX: index.to_bytes(), **members, SIGNATURE: b"a signature"}
    done = push(layout(tmp_path), bundles.write(tmp_path / "made" / "b.tar.gz", contents))
    again = push(layout(tmp_path), tmp_path / "made" / "b.tar.gz")
    assert again.referrers == done.referrers
    store = Layout(Path(layout(tmp_path).removeprefix("oci:")))
    listed = json.loads(store.manifest(done.digest.replace(":", "-")) or b"")["manifests"]
    assert {one["artifactType"] for one in listed} == {artifact.SIGNED, artifact.BILL}
    assert {one["digest"] for one in listed} == set(done.referrers.values())
    for one in listed:
        referrer = json.loads(store.manifest(one["digest"]) or b"")
        assert referrer["subject"]["digest"] == done.digest
