"""push and pull with a real registry: the default model, accounts, TLS, and broken connections."""

from __future__ import annotations

import base64
import contextlib
import datetime
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from edgepipe.pipeline import package, pull, push, release, verify
from edgepipe.pipeline.errors import ExitCode, InputError, IntegrityError
from edgepipe.pipeline.settings.shipping import RegistryAccess
from edgepipe.pipeline.shipping.registry import artifact, oci
from edgepipe.pipeline.shipping.registry import remote as remotes
from edgepipe.pipeline.shipping.registry.address import Address
from edgepipe.pipeline.shipping.registry.store import opened
from edgepipe.runners import load_bundle
from edgepipe.runners.base import BundleError
from edgepipe.runners.bundles.bundle import read_index, unpacked
from edgepipe.runners.bundles.index import INDEX
from edgepipe.runners.bundles.signature import Trust

from .. import bundles
from ..pipeline.shipping.test_signing import make_keys
from ..sites import Site
from ..sites import bundle as small
from .conftest import Registry, Start
from .stand_in import in_front_of

Run = Callable[..., CompletedProcess[str]]
# "box" with the password "a password": what `htpasswd -B` writes.
ACCOUNT = "box:$2b$05$abcdefghijklmnopqrstuu2sM.EEHj4jPcCa5rwqJGg1PNBllkZXy\n"


# The default model ----------------------------------------------------------------------------


def test_a_box_fetches_a_part_that_verifies_deploys_and_loads(
    registry: Registry, bundle: Path, tmp_path: Path, edgepipe: Run
) -> None:
    """Of the default model's bundle, ONNX alone, at most 40 % of its bytes."""
    address = f"oci://{registry.host}/models/mobilenet_v2:7"
    pushed = push(address, bundle)
    done = pull(address, out=tmp_path / "box", runner="ort-cpu")
    print(f"{done.variants}: {done.bytes_fetched} of {done.bytes_total} bytes")
    assert done.digest == pushed.digest
    assert done.bytes_fetched <= 0.4 * done.bytes_total
    assert done.bytes_fetched <= 0.4 * bundle.stat().st_size
    (variant,) = done.variants
    found = verify(done.path, runner="ort-cpu")
    assert (found.verdict, found.variant) == ("pass", variant)
    assert found.bundle["left_out"] == sorted(done.left_out)
    with load_bundle(done.path, runner="ort-cpu") as model:
        assert model.choice.variant == variant
    flags = ("--target", "local", "--folder", tmp_path / "served", "--runner", "ort-cpu", "--json")
    deployed = edgepipe("deploy", done.path, *flags)
    assert deployed.returncode == 0, deployed.stderr
    assert json.loads(deployed.stdout)["current"] == done.path.name
    whole = edgepipe("deploy", bundle, *flags)
    assert json.loads(whole.stdout)["before"] == done.path.name
    assert json.loads(whole.stdout)["current"] == bundle.name, "beside it, not in its place"


def test_all_of_it_is_the_very_archive(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    for number, address in enumerate((f"oci://{registry.host}/whole", f"oci:{tmp_path / 'site'}")):
        done = pull_pushed(address, bundle, tmp_path / str(number))
        assert done.read_bytes() == bundle.read_bytes()


def pull_pushed(address: str, bundle: Path, out: Path) -> Path:
    push(address, bundle)
    return pull(address, out=out, whole=True).path


def test_a_signed_part_holds_by_its_key_alone(
    registry: Registry, measured: Path, tmp_path: Path
) -> None:
    keys = make_keys(tmp_path / "ours")
    others = make_keys(tmp_path / "theirs")
    made = package(workspace=measured, output=tmp_path / "made", sign_key=keys.private).path
    push(f"oci://{registry.host}/signed", made)
    done = pull(f"oci://{registry.host}/signed", out=tmp_path / "box", variants=("fp32",))
    found = verify(done.path, runner="ort-cpu", key=keys.public)
    assert {one.name: one.verdict for one in found.checks}["signature"] == "pass"
    load_bundle(done.path, runner="ort-cpu", trust=Trust(keys.public)).close()
    with pytest.raises(BundleError, match="is not one by"):
        verify(done.path, runner="ort-cpu", key=others.public)
    whole = pull(f"oci://{registry.host}/signed", out=tmp_path / "box", whole=True)
    assert whole.path.read_bytes() == made.read_bytes()


# What is refused ------------------------------------------------------------------------------


def test_a_flipped_byte_in_a_blob_is_refused(
    registry: Registry, tmp_path: Path, edgepipe: Run
) -> None:
    path = small(tmp_path / "made")
    address = f"oci://{registry.host}/flipped"
    push(address, path)
    blob = registry.blob(f"sha256:{read_index(path).members['fp32.onnx'].sha256}")
    whole = blob.read_bytes()
    try:
        blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        done = edgepipe("pull", address, "--variant", "fp32", "--quiet")
        assert done.returncode == ExitCode.INTEGRITY
        assert len(done.stderr.splitlines()) == 1
        assert "is not the file that its digest says" in done.stderr
        assert not list((tmp_path / "bundles").glob("*.tar.gz"))
    finally:
        blob.write_bytes(whole)


def test_a_replayed_old_tag_is_refused(registry: Registry, tmp_path: Path) -> None:
    """The registry's own file says again what it said before: the tag is the old bundle's."""
    address, keys = f"oci://{registry.host}/replayed", tmp_path / "keys"
    old = small(tmp_path / "old", release=1)
    push(f"{address}:stable", old)
    link = registry.tag("replayed", "stable")
    before = link.read_text()
    release(f"{address}:stable", bundles=(old,), keys=keys)
    new = small(tmp_path / "new", release=2)
    push(f"{address}:2", new)
    release(f"{address}:stable", bundles=(new,), keys=keys)
    options: dict[str, Any] = {"root": keys / "root.json", "state": tmp_path / "state"}
    options |= {"out": tmp_path / "out", "whole": True}
    assert read_index(pull(f"{address}:stable", **options).path).release == 2
    link.write_text(before)
    with pytest.raises(IntegrityError, match="an old or a foreign copy"):
        pull(f"{address}:stable", **options)


def test_who_is_not_known_is_told_to_log_in(start: Start, tmp_path: Path, edgepipe: Run) -> None:
    users = tmp_path / "users"
    users.write_text(ACCOUNT)
    host = start(f"auth: {{htpasswd: {{realm: a test, path: {users}}}}}\n").host
    path = small(tmp_path / "made")
    address = f"oci://{host}/private:1"
    for env in ({}, {"ORAS_USER": "box", "ORAS_PASS": "wrong"}):
        done = edgepipe("push", address, path, "--quiet", env=env)
        assert done.returncode == ExitCode.BAD_INPUT, done.stderr
        assert f"not authorized; `docker login {host}`" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    known = {"ORAS_USER": "box", "ORAS_PASS": "a password"}
    done = edgepipe("push", address, path, "--quiet", env=known)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "docker"
    folder.mkdir()
    login = base64.b64encode(b"box:a password").decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": login}}}))
    env = {"DOCKER_CONFIG": str(folder)}
    done = edgepipe("pull", address, "--all", "--quiet", env=env)
    assert done.returncode == 0, done.stderr


def test_a_registry_that_asks_for_a_token_gets_one(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path / "made")
    account = base64.b64encode(b"box:a password").decode()
    with in_front_of(registry.host, account) as (host, _):
        address = f"oci://{host}/by-token"
        with pytest.raises(InputError, match="not authorized"):
            push(address, path)
        monkeypatch.setenv("ORAS_USER", "box")
        monkeypatch.setenv("ORAS_PASS", "a password")
        push(address, path)
        done = pull(address, out=tmp_path / "out", whole=True)
        assert done.path.read_bytes() == path.read_bytes()
        monkeypatch.setenv("ORAS_PASS", "wrong")
        with pytest.raises(InputError, match="not authorized"):
            pull(address, out=tmp_path / "out2", whole=True)


def test_tls_is_held_to_the_certificates(start: Start, tmp_path: Path) -> None:
    certificate = _certificate(tmp_path)
    tls = f"  tls: {{certificate: {certificate}, key: {tmp_path / 'key.pem'}}}\n"
    address = f"oci://{start(tls).host}/secret"
    path = small(tmp_path / "made")
    push(address, path, ca=certificate)
    assert pull(address, out=tmp_path / "out", whole=True, ca=certificate).path.exists()
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="no TLS that can be trusted"):
        pull(address, out=tmp_path / "out", whole=True, ca=_certificate(tmp_path / "other"))
    with pytest.raises(InputError):  # plain HTTP to a registry with TLS
        pull(address, out=tmp_path / "out", whole=True)


def test_a_registry_that_is_not_there(tmp_path: Path, edgepipe: Run) -> None:
    started = time.monotonic()
    done = edgepipe("pull", "oci://127.0.0.1:9/nothing", "--all")
    assert done.returncode == ExitCode.BAD_INPUT
    assert done.stderr.startswith("edgepipe: oci://127.0.0.1:9/nothing: can't be reached")
    assert len(done.stderr.splitlines()) == 1
    assert time.monotonic() - started < 60


def test_an_image_is_no_bundle(registry: Registry, tmp_path: Path) -> None:
    store = opened(Address.parse(f"oci://{registry.host}/image"), RegistryAccess())
    config = oci.describe(b"{}", "application/vnd.oci.image.config.v1+json")
    artifact.put(store, config, b"{}")
    image = oci.Manifest(config=config, layers=())
    store.put_manifest(image.to_bytes(), oci.MANIFEST, "latest")
    with pytest.raises(InputError, match="no bundle of edgepipe, but an image"):
        pull(f"oci://{registry.host}/image", out=tmp_path / "out")


# Large files, and what breaks -----------------------------------------------------------------


def _large(folder: Path) -> Path:
    """A bundle with a file of 40 MB that doesn't compress."""
    weights = os.urandom(40_000_000)
    model = bundles.onnx("fp32") * 100
    members = {**bundles.files(), "fp32.onnx": model, "fp32.data": weights}
    variant = {"fp32": bundles.Variant({"onnx": ("fp32.onnx", "fp32.data")})}
    index = bundles.index(members, variants=variant)
    folder.mkdir()
    contents = {INDEX: index.to_bytes(), **dict(sorted(members.items()))}
    return bundles.write(folder / "large.tar.gz", contents)


def test_a_large_file_goes_in_pieces(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _large(tmp_path / "made")
    assert remotes.PIECE_BYTES < 40_000_000
    done = pull_pushed(f"oci://{registry.host}/large", path, tmp_path / "out")
    assert done.read_bytes() == path.read_bytes()


def test_a_pull_that_is_killed_is_gone_on_with(registry: Registry, tmp_path: Path) -> None:
    """Nothing under the archive's name, and what has arrived is not fetched again."""
    path = _large(tmp_path / "made")
    address, out = f"oci://{registry.host}/killed", tmp_path / "out"
    push(address, path)
    command = [sys.executable, "-m", "edgepipe.pipeline.cli", "pull", address, "--all", "--quiet"]
    pulling = subprocess.Popen([*command, "--out", str(out)])
    scratch = out / ".edgepipe-pull"
    until = time.monotonic() + 60
    while _bytes_in(scratch) < 1 << 20:
        assert time.monotonic() < until
        assert pulling.poll() is None
    pulling.send_signal(signal.SIGKILL)
    pulling.wait()
    assert not list(out.glob("*.tar.gz"))
    done = pull(address, out=out, whole=True)
    assert done.bytes_here >= 1 << 20
    assert done.path.read_bytes() == path.read_bytes()
    assert not scratch.exists()


def test_a_push_that_is_killed_leaves_the_tag_where_it_was(
    registry: Registry, tmp_path: Path
) -> None:
    address = f"oci://{registry.host}/killed-push"
    before = push(address, small(tmp_path / "small")).digest
    path = _large(tmp_path / "made")
    command = [sys.executable, "-m", "edgepipe.pipeline.cli", "push", address, str(path)]
    pushing = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert pushing.stderr is not None
    for line in pushing.stderr:
        if "fp32.data" in line:
            break
    pushing.send_signal(signal.SIGKILL)
    pushing.wait()
    pushing.stderr.close()
    assert pull(address, out=tmp_path / "out", whole=True).digest == before
    assert push(address, path).before == before
    done = pull(address, out=tmp_path / "out", whole=True)
    assert done.path.read_bytes() == path.read_bytes()


# What others can read -------------------------------------------------------------------------


def test_oras_itself_reads_what_was_pushed(registry: Registry, tmp_path: Path) -> None:
    from oras.client import OrasClient

    path = small(tmp_path / "made")
    push(f"oci://{registry.host}/read:1", path)
    out = tmp_path / "out"
    # Names with folders in them need the folder to be there.
    OrasClient(insecure=True).pull(f"{registry.host}/read:1", outdir=str(out))
    with unpacked(path) as found:
        names = {INDEX, *found.index.members}
        assert {one.relative_to(out).as_posix() for one in out.rglob("*")} == names
        for name in names:
            assert (out / name).read_bytes() == (found.folder / name).read_bytes()


@pytest.mark.parametrize("api", [False, True])
def test_signature_and_bill_are_listed_as_the_registry_can(
    registry: Registry, tmp_path: Path, api: bool
) -> None:
    """By the tag ``sha256-…``, or by the referrers API, which this registry has none of."""
    members = {**bundles.files(), "bom.cdx.json": b"{}"}
    contents = {INDEX: bundles.index(members).to_bytes(), **dict(sorted(members.items()))}
    path = bundles.write(tmp_path / "b.tar.gz", {**contents, "bundle.sig": b"a signature"})
    name = f"listed-{api}".lower()
    with in_front_of(registry.host) as (host, listed):
        address = f"oci://{host if api else registry.host}/{name}"
        done = push(address, path)
        assert len(listed) == 2 * api
        again = pull(address, out=tmp_path / "out", whole=True)
        assert again.path.read_bytes() == path.read_bytes()
        assert again.signatures == 1
    plain = opened(Address.parse(f"oci://{registry.host}/{name}"), RegistryAccess())
    tagged = plain.manifest(done.digest.replace(":", "-"))
    assert (tagged is None) == api


def test_a_site_on_a_registry_is_any_site(registry: Registry, tmp_path: Path) -> None:
    """Two models in one repository, each released by its name."""
    site = Site(tmp_path, f"oci://{registry.host}/two/models", registry.storage)
    site.release(site.make(1), site.make(2, name="other"))
    assert site.pull(":tiny") == 1
    assert site.pull(":other") == 2


def _bytes_in(folder: Path) -> int:
    """Of the files that are there, while others come and go."""
    total = 0
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself; its key lies beside it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgepipe test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "certificate.pem").write_bytes(made.public_bytes(pem))
    return folder / "certificate.pem"
