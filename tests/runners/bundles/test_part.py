"""Parts of a bundle: what may be left out, what is told of it, and what still has to hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgepipe.runners.base import BundleError
from edgepipe.runners.bundles.bundle import unpack
from edgepipe.runners.bundles.index import GOLDENS, INDEX, SIGNATURE
from edgepipe.runners.bundles.part import PART, Part
from edgepipe.runners.bundles.signature import Signer, Trust, check, sign

from ... import bundles


def part(**variants: tuple[str, ...]) -> bytes:
    return Part(1, variants).to_bytes()


def of_fp32(**changes: Any) -> dict[str, bytes]:
    """The members of a part with fp32 alone."""
    whole = bundles.contents(**changes)
    rest = {name: whole[name] for name in ("fp32.onnx", GOLDENS)}
    return {INDEX: whole[INDEX], PART: part(fp32=("onnx",)), **rest}


def refused(tmp_path: Path, members: dict[str, bytes]) -> str:
    (tmp_path / "out").mkdir()
    with pytest.raises(BundleError) as caught:
        unpack(bundles.write(tmp_path / "b.tar.gz", members), tmp_path / "out")
    return str(caught.value)


def test_a_part_is_about_what_is_there(tmp_path: Path) -> None:
    whole = bundles.write(tmp_path / "whole.tar.gz", bundles.contents())
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    complete = unpack(whole, tmp_path / "a")
    found = unpack(bundles.write(tmp_path / "b.tar.gz", of_fp32()), tmp_path / "b")
    assert list(found.index.variants) == ["fp32"]
    assert list(found.left_out) == ["int8.onnx"]
    assert found.digest == complete.digest, "it is the same bundle"
    assert found.file_name == complete.file_name.replace(".tar.gz", "-fp32.onnx.tar.gz")
    assert not (tmp_path / "b" / "int8.onnx").exists()


@pytest.mark.parametrize("missing", ["fp32.onnx", GOLDENS])
def test_a_part_lacks_nothing_that_its_variants_need(tmp_path: Path, missing: str) -> None:
    members = of_fp32()
    del members[missing]
    assert f"{missing} is missing" in refused(tmp_path, members)


def test_what_was_left_out_is_not_in_it(tmp_path: Path) -> None:
    members = {**of_fp32(), "int8.onnx": bundles.files()["int8.onnx"]}
    assert "int8.onnx is in it, but not in its" in refused(tmp_path, members)


def test_a_changed_file_of_a_part_is_refused(tmp_path: Path) -> None:
    members = {**of_fp32(), "fp32.onnx": bundles.onnx("evil") * 100}
    assert "fp32.onnx is not the file that" in refused(tmp_path, members)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (part(), "a part without a variant"),
        (part(fp64=("onnx",)), "no variant fp64"),
        (part(fp32=("openvino-ir",)), "no variant fp32 in openvino-ir"),
        (part(fp32=()), "no variant fp32 in no format"),
        (b"[]", "a JSON object was expected"),
        (b'{"schema_version": 2, "variants": {"fp32": ["onnx"]}}', "no schema 2"),
        (b'{"variants": {"fp32": ["onnx"]}}', "schema_version"),
        (b" " * (1 << 17), "has 131072 bytes"),
    ],
)
def test_what_says_nothing_of_a_part_is_refused(tmp_path: Path, said: bytes, why: str) -> None:
    assert why in refused(tmp_path, {**of_fp32(), PART: said})


def test_the_part_is_told_before_any_file(tmp_path: Path) -> None:
    members = of_fp32()
    members[PART] = members.pop(PART)
    assert f"{PART} is in it, but not in its" in refused(tmp_path, members)


# Signatures -----------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "release.pem", tmp_path / "release.pub"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, form))
    return private, public


def signature(folder: Path, private: Path) -> bytes:
    """That of the whole bundle."""
    named = folder / "bundle"
    named.mkdir()
    for name, data in bundles.contents().items():
        (named / name).write_bytes(data)
    return sign(named, Signer(private))


def test_the_signature_of_the_whole_holds_for_a_part(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    members = {**of_fp32(), SIGNATURE: signature(tmp_path, keys[0])}
    (tmp_path / "out").mkdir()
    check(unpack(bundles.write(tmp_path / "b.tar.gz", members), tmp_path / "out"), Trust(keys[1]))


def test_an_index_of_somebody_else_has_no_signature(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    """What was left out is vouched for by the index, and that by the signature."""
    members = {**of_fp32(release=2), SIGNATURE: signature(tmp_path, keys[0])}
    (tmp_path / "out").mkdir()
    found = unpack(bundles.write(tmp_path / "b.tar.gz", members), tmp_path / "out")
    with pytest.raises(BundleError, match="its signature is not one by"):
        check(found, Trust(keys[1]))
