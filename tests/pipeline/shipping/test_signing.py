"""Signed bundles (FAULTS 26): the right key passes, everything else ends with exit code 4."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from edgepipe.pipeline import package
from edgepipe.pipeline.errors import ExitCode, exit_code
from edgepipe.runners.base import BundleError, BundleUnreadable
from edgepipe.runners.bundles.bundle import unpacked
from edgepipe.runners.bundles.index import INDEX, SIGNATURE
from edgepipe.runners.bundles.signature import Signer, Trust, check, sign

from ... import bundles

Run = Callable[..., CompletedProcess[str]]


@dataclass(frozen=True)
class Keys:
    """Files of a key pair, and of a certificate for it by a root of its own."""

    private: Path
    public: Path
    certificate: Path
    root: Path


def make_keys(folder: Path) -> Keys:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    folder.mkdir(parents=True)
    keys = Keys(*(folder / name for name in ("private", "public", "certificate", "root")))
    key, root_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    keys.private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    keys.public.write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    now = datetime.datetime.now(datetime.UTC)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgepipe test root")])

    def certificate(name: x509.Name, whose: ec.EllipticCurvePrivateKey, ca: bool) -> bytes:
        usage = dict.fromkeys(
            (
                *("content_commitment", "key_encipherment", "data_encipherment"),
                *("key_agreement", "encipher_only", "decipher_only", "crl_sign"),
            ),
            False,
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(whose.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=True, key_cert_sign=ca, **usage), critical=True
            )
        )
        if not ca:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False
            )
        return builder.sign(root_key, hashes.SHA256()).public_bytes(pem)

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgepipe test")])
    keys.certificate.write_bytes(certificate(subject, key, ca=False))
    keys.root.write_bytes(certificate(issuer, root_key, ca=True))
    return keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys") / "ours")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys") / "theirs")


def signature(folder: Path, members: dict[str, bytes], signer: Signer) -> bytes:
    named = folder / "bundle"
    shutil.rmtree(named, ignore_errors=True)
    named.mkdir(parents=True)
    for name, data in members.items():
        (named / name).write_bytes(data)
    return sign(named, signer)


def refused(path: Path, trust: Trust) -> str:
    """What is said of a bundle that must not pass."""
    with unpacked(path) as bundle, pytest.raises(BundleError) as caught:
        check(bundle, trust)
    assert exit_code(caught.value) == ExitCode.INTEGRITY
    return str(caught.value)


@pytest.fixture
def signed(tmp_path: Path, keys: Keys) -> dict[str, bytes]:
    """The members of a small bundle with a good signature."""
    members = bundles.contents()
    made = signature(tmp_path / "signing", members, Signer(keys.private))
    return {**members, SIGNATURE: made}


def test_a_signature_by_the_key_passes(
    tmp_path: Path, signed: dict[str, bytes], keys: Keys
) -> None:
    with unpacked(bundles.write(tmp_path / "b.tar.gz", signed)) as bundle:
        check(bundle, Trust(keys.public))


def test_another_key_is_refused(
    tmp_path: Path, signed: dict[str, bytes], keys: Keys, others: Keys
) -> None:
    path = bundles.write(tmp_path / "b.tar.gz", signed)
    assert "is not one by" in refused(path, Trust(others.public))
    assert "is not one by" in refused(path, Trust(roots=(keys.root,)))


@pytest.mark.parametrize("forged", [None, b"", b"{}", b"[]", b"null", b"\xff", b'{"mediaType":1}'])
def test_a_stripped_or_empty_signature_is_refused(
    tmp_path: Path, signed: dict[str, bytes], keys: Keys, forged: bytes | None
) -> None:
    members = {name: data for name, data in signed.items() if name != SIGNATURE}
    if forged is not None:
        members[SIGNATURE] = forged
    said = refused(bundles.write(tmp_path / "b.tar.gz", members), Trust(keys.public))
    assert ("not signed, and a signature" in said) == (forged is None)


@pytest.mark.parametrize("name", ["fp32.onnx", "goldens.npz"])
def test_every_member_is_under_the_signature(
    tmp_path: Path, signed: dict[str, bytes], keys: Keys, name: str
) -> None:
    """The file and its hash in the index replaced: whole, but not what was signed."""
    if name.endswith(".onnx"):
        changed = signed[name] + bundles.onnx("else")
    else:
        changed = signed[name][:-1] + bytes([signed[name][-1] ^ 1])

    def agree(document: dict) -> None:
        about = bundles.member(changed)
        document["members"][name].update(sha256=about.sha256, size=about.size)

    members = {**signed, name: changed, INDEX: bundles.edited(signed[INDEX], agree)}
    said = refused(bundles.write(tmp_path / "b.tar.gz", members), Trust(keys.public))
    assert name in said


def test_the_index_is_under_the_signature(
    tmp_path: Path, signed: dict[str, bytes], keys: Keys
) -> None:
    index = bundles.edited(signed[INDEX], lambda document: document.update(labels=["9"] * 10))
    path = bundles.write(tmp_path / "b.tar.gz", {**signed, INDEX: index})
    assert INDEX in refused(path, Trust(keys.public))


def test_the_signature_of_another_bundle_is_refused(
    tmp_path: Path, signed: dict[str, bytes], keys: Keys
) -> None:
    other = bundles.contents(labels=tuple("abcdefghij"))
    made = signature(tmp_path / "other", other, Signer(keys.private))
    path = bundles.write(tmp_path / "b.tar.gz", {**signed, SIGNATURE: made})
    refused(path, Trust(keys.public))


def test_a_certificate_passes_by_its_root_alone(tmp_path: Path, keys: Keys, others: Keys) -> None:
    members = bundles.contents()
    signer = Signer(keys.private, keys.certificate)
    made = signature(tmp_path / "signing", members, signer)
    path = bundles.write(tmp_path / "b.tar.gz", {**members, SIGNATURE: made})
    with unpacked(path) as bundle:
        check(bundle, Trust(roots=(keys.root,)))
    refused(path, Trust(roots=(others.root,)))
    refused(path, Trust(others.public))


@pytest.mark.parametrize("content", [None, b"no key"])
def test_a_key_that_is_none_is_bad_input(
    tmp_path: Path, signed: dict[str, bytes], content: bytes | None
) -> None:
    key = tmp_path / "key"
    if content is not None:
        key.write_bytes(content)
    path = bundles.write(tmp_path / "b.tar.gz", signed)
    with unpacked(path) as bundle, pytest.raises(BundleUnreadable, match="key") as caught:
        check(bundle, Trust(key))
    assert exit_code(caught.value) == ExitCode.BAD_INPUT
    with pytest.raises(BundleUnreadable, match="key"):
        signature(tmp_path / "signing", bundles.contents(), Signer(key))


def test_the_commands_sign_and_require(
    measured: Path, tmp_path: Path, keys: Keys, others: Keys, edgepipe: Run
) -> None:
    made = package(
        workspace=measured, output=tmp_path / "out", variants=("fp32",), sign_key=keys.private
    )
    assert made.signed
    flags = ("verify", made.path, "--runner", "ort-cpu", "--samples", "16")
    done = edgepipe(*flags, "--key", keys.public)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"of every file, by {keys.public}" in done.stdout
    done = edgepipe(*flags, "--quiet", env={"EDGEPIPE_VERIFY_KEY": str(others.public)})
    assert done.returncode == 4
    assert "is not one by" in done.stderr
    done = edgepipe(*flags)
    assert "signed, and no --key was given" in done.stdout


def test_the_standard_tool_accepts_the_signature(
    tmp_path: Path, signed: dict[str, bytes], keys: Keys
) -> None:
    path = bundles.write(tmp_path / "b.tar.gz", signed)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    subprocess.run(["tar", "xzf", str(path)], cwd=folder, check=True)
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder)]
    flags = ("--signature", str(folder / SIGNATURE), "--public_key", str(keys.public))
    ignored = ("--ignore-paths", str(folder / SIGNATURE))
    done = subprocess.run([*command, *flags, *ignored], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "fp32.onnx").write_bytes(b"other")
    assert subprocess.run([*command, *flags, *ignored], capture_output=True).returncode != 0


def test_a_box_without_the_library_says_what_to_install(tmp_path: Path, keys: Keys) -> None:
    path = bundles.write(tmp_path / "b.tar.gz", {**bundles.contents(), SIGNATURE: b"{}"})
    code = """
import sys
sys.modules["model_signing"] = None
sys.argv[0] = "edgepipe"
from edgepipe.pipeline.cli import main
main()
"""
    command = [sys.executable, "-c", code, "verify", str(path), "--key", str(keys.public)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 5
    assert 'pip install "edgepipe[sign]"' in done.stderr
