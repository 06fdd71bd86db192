"""Ways to spoil a file: its bytes, its numbers, its JSON, its arrays. Equal seeds spoil equally."""

from __future__ import annotations

import ast
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import numpy as np

DEEP = 100_000
BOMB_MIB = 3 << 10
# What no JSON of ours has in the place of what it has.
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 3, 1 << 31, -(1 << 63), 10**30, 1e308, -0.0),
    *(float("nan"), float("inf"), "", "\0", "\ud800", "../../../escaped", "/escaped", "x" * 70_000),
    *([], {}, [None], [[]], {"": {}}, ["", 1], "2026-13-45T99:99:99"),
)
# What no library writes as JSON.
RAW = ("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "9" * 5000, "-1e99999", "{,}")
SIZES = (-1, 0, 1, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, (1 << 63) - 1)


def spoil(random: Random, name: str, data: bytes) -> bytes:
    """A file with something wrong in it, in a way that its kind invites, or in any."""
    kinds: dict[str, Callable[[Random, bytes], bytes]] = {
        "json": spoil_json,
        "npz": spoil_npz,
        "toml": spoil_toml,
        "safetensors": spoil_safetensors,
    }
    own = kinds.get(name.rpartition(".")[2])
    return own(random, data) if own and random.random() < 0.75 else spoil_bytes(random, data)


def spoil_bytes(random: Random, data: bytes) -> bytes:
    """Bits, cuts, chunks twice or as zeros, numbers that are huge or negative."""
    made = bytearray(data)
    at = random.randrange(max(1, len(data)))
    end = at + random.choice((1, 8, 64, 1024))
    how = random.randrange(9)
    if how == 0:
        made[at : at + 1] = bytes(byte ^ 1 << random.randrange(8) for byte in made[at : at + 1])
    elif how == 1:
        for _ in range(30):
            made[random.randrange(len(made))] = random.randrange(256)
    elif how == 2:
        del made[at:]
    elif how == 3:
        del made[at:end]
    elif how == 4:
        made[at:at] = made[max(0, at - (end - at)) : at]
    elif how == 5:
        made[at:end] = bytes(len(made[at:end]))
    elif how == 6:  # a protobuf's longest numbers
        number = random.choice((b"\xff\xff\xff\xff\x7f", b"\xff" * 9 + b"\x01", b"\xff" * 12))
        made[at : at + len(number)] = number
    elif how == 7:
        size = random.choice((2, 4, 8))
        number = random.choice(SIZES) & ((1 << 8 * size) - 1)
        made[at : at + size] = number.to_bytes(size, "little")
    else:
        text = random.choice((b"../../../escaped", b"/escaped", b"\0", b"\xff\xfe", b"%s%n"))
        made[at : at + len(text)] = text
    return bytes(made)


def spoil_json(random: Random, data: bytes) -> bytes:
    """Another value, one key less, one twice, or nested deeper than anybody reads."""
    return _dumped(random, changed(random, json.loads(data)))


def changed(random: Random, document: Any) -> Any:
    """A JSON document with one thing in it changed."""
    holders: list[Any] = []
    waiting = [document]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list) and one:
            holders.append(one)
            waiting += one.values() if isinstance(one, dict) else one
    if not holders or random.random() < 0.03:
        return random.choice(VALUES)
    # The few keys of a document are as likely as the many figures of its rows.
    holder = random.choice(holders[: 1 + random.randrange(len(holders))])
    key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    how = random.random()
    if how < 0.2:
        del holder[key]
    elif how < 0.25 and isinstance(holder, dict):
        holder[random.choice(("", "x", "__class__", "../x"))] = holder.pop(key)
    elif how < 0.3:
        holder[key] = [holder[key]]
    elif how < 0.35 and isinstance(holder, list):
        holder.append(holder[key])
    elif how < 0.45:
        holder[key] = f"\0raw{random.randrange(len(RAW))}"
    else:
        holder[key] = random.choice(VALUES)
    return document


def _dumped(random: Random, document: Any) -> bytes:
    text = json.dumps(document)
    for number, raw in enumerate(RAW):
        text = text.replace(json.dumps(f"\0raw{number}"), raw)
    if isinstance(document, dict) and document and random.random() < 0.05:
        twice = f"{{{json.dumps(random.choice(list(document)))}: null, "
        text = twice + text[1:] if random.random() < 0.5 else text[:-1] + ", " + twice[1:-2] + "}"
    return text.encode()


def spoil_npz(random: Random, data: bytes) -> bytes:
    """Arrays of another shape, type or length, some missing, or the archive's own numbers."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(list(members))
    how = random.randrange(8)
    if how == 0:
        del members[name]
    elif how == 1:
        members[name] = members[random.choice(list(members))]
    elif how == 2:
        members[name] = spoil_bytes(random, members[name])
    elif how in (3, 4):
        members[name] = _other_header(random, members[name])
    elif how == 5:
        members[name] = _other_array(random, members[name])
    elif how == 6:  # the directory's sizes, offsets and flags
        made = bytearray(data)
        entry = random.choice([found.start() for found in re.finditer(b"PK[\1\3][\2\4]", data)])
        at = entry + random.randrange(4, 46)
        made[at : at + 4] = random.choice(SIZES).to_bytes(16, "little", signed=True)[:4]
        return bytes(made)
    elif random.random() < 0.3:
        return bomb(name)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return buffer.getvalue()


def _other_header(random: Random, member: bytes) -> bytes:
    """An array whose header claims another shape or type than the data has."""
    size = struct.unpack("<H", member[8:10])[0]
    header = ast.literal_eval(member[10 : 10 + size].decode())
    shape = list(header["shape"]) or [1]
    at = random.randrange(len(shape))
    shape[at] = random.choice((*SIZES, 10**30, "x", None, 1.5, [1] * 40))
    types = ("|O", "<f2", "<f8", ">f4", "<c16", "|V0", "<U9", "|S3", "?", "<M8[s]", [("a", "<f4")])
    key = random.choice(("shape", "shape", "descr", "fortran_order"))
    other = {"shape": tuple(shape), "descr": random.choice(types), "fortran_order": 7}
    text = repr({**header, key: other[key]}).encode()
    return member[:8] + struct.pack("<H", len(text) + 1) + text + b"\n" + member[10 + size :]


def _other_array(random: Random, member: bytes) -> bytes:
    """A whole array of the wrong shape, type or contents."""
    array = np.load(io.BytesIO(member))
    choices: tuple[Any, ...] = (
        *(
            array[..., None],
            array.reshape(-1),
            array.reshape(-1)[:0],
            np.array(3),
            np.array("text"),
        ),
        *(array.astype("complex64") if array.dtype.kind in "fiub" else array, array.astype(str)),
        *(np.full(array.shape, np.nan), np.full(array.shape, np.inf), np.repeat(array[None], 3, 0)),
        np.full(array.shape, -(1 << 40)),
    )
    buffer = io.BytesIO()
    np.save(buffer, choices[random.randrange(len(choices))], allow_pickle=False)
    return buffer.getvalue()


@cache
def bomb(name: str) -> bytes:
    """A valid archive of a few MB whose only array is zeros, 3 GiB of them."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (BOMB_MIB << 20,)}
    np.lib.format.write_array_header_1_0(head, header)
    start = deflate.compress(head.getvalue()) + deflate.flush(zlib.Z_FULL_FLUSH)
    block = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    body = start + block * BOMB_MIB + deflate.flush()
    size = len(head.getvalue()) + (BOMB_MIB << 20)
    fields = struct.pack("<HHHHHLLLHH", 20, 0, 8, 0, 33, 0, len(body), size, len(name), 0)
    local = b"PK\3\4" + fields + name.encode() + body
    entry = b"PK\1\2\x14\0" + fields + bytes(14) + name.encode()
    end = b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 1, 1, len(entry), len(local), 0)
    return local + entry + end


def spoil_safetensors(random: Random, data: bytes) -> bytes:
    """Another header: offsets, shapes, types, metadata."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    about = header.get("__metadata__", {})
    if random.random() < 0.4 and about:
        texts = ("", "[", "NaN", "1e400", "-1", "null", '["a"', "{}", "[" * DEEP, '{"size": 1e30}')
        about[random.choice(list(about))] = random.choice(texts)
        text = json.dumps(header).encode()
    else:
        text = _dumped(random, changed(random, header))
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def spoil_toml(random: Random, data: bytes) -> bytes:
    """Another value for one of the keys, or another key for one of the values."""
    lines = data.decode().splitlines()
    values = ("nan", "inf", "-inf", "true", '""', "[]", "{}", "1979-05-27", "9" * 5000, "-1", "0")
    values += ("1e400", '["x"]', '"../../../escaped"', '"\\u0000"', "[" * 3000 + "]" * 3000)
    at = random.choice([number for number, line in enumerate(lines) if "=" in line])
    key, _, value = lines[at].partition(" = ")
    how = random.randrange(4)
    if how == 0:
        key = random.choice(("", "x", "a.b", '""', "runners"))
        lines[at] = f"{key} = {value}"
    elif how == 1:
        lines.insert(at, lines[at])
    else:
        lines[at] = f"{key} = {random.choice(values)}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")
