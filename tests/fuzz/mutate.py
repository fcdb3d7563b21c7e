"""Seeded mutations: of bytes, of JSON and YAML values, and of the tensors of a safetensors file."""

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any, Literal

import yaml

_ORDERS: list[Literal["little", "big"]] = ["little", "big"]
Mutator = Callable[[bytes, random.Random], bytes]

_TOKENS = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", "\u2028".encode(), "\u202e".encode(), b"\x1b[31m", b"\r", b"\n\n", b"\t\t",
    b"-1", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"&a [*a]", b"*a", b"<<: *b",
    b"!!bool x", b"!!python/object/apply:os.getcwd []", b"!!timestamp x", b"? [a]", b"null", b"true", b"{}", b"[]",
    b'"', b"'", b"%", b"../../x", b"/etc/passwd", b"{name!r}", b"{", b"}", b"#", b"n01440764", b"x" * 140_000,
    b"\xed\xa0\x80", b"2001-13-45", b"${x}", b"0x10", b"1:2:3",
]  # fmt: skip
_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 10**9, 10**15, -(2**63), 2**64, 10**30, 10**400, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "x", "1", "1e-3", "../x", "\0", "\x1b[2J", "\u2028", "\ud800", "a" * 3000, "n01440764",
    "builtin:faces", [], {}, [[]], [None], {"": ""}, {"a": {"b": {}}}, [1, "a", None, {}], [[[[[[[[[[]]]]]]]]]],
    ["a"] * 500,
]  # fmt: skip
_WORDS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF]


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four changes at random places."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        span = rng.choice([1, 1, 2, 4, 8, 32, 200])
        piece = data[at : at + span]
        kind = rng.randrange(9)
        if kind == 0 and data:
            at = rng.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + rng.randbytes(len(piece)) + data[at + span :]
        elif kind == 2:
            data = data[:at] + data[at + span :]
        elif kind == 3:
            data = data[:at] + piece * rng.choice([2, 3, 50]) + data[at + span :]
        elif kind == 4:
            data = data[:at]
        elif kind == 5:
            data = data[:at] + rng.choice(_TOKENS) + data[at:]
        elif kind == 6:
            data = data[:at] + rng.choice(_TOKENS) + data[at + span :]
        elif kind == 7:
            word, order = rng.choice(_WORDS), rng.choice(_ORDERS)
            size = rng.choice([n for n in (1, 2, 4, 8) if word < 256**n])
            data = data[:at] + word.to_bytes(size, order) + data[at + size :]
        else:
            other = rng.randrange(len(data) + 1)
            data = data[:at] + data[other : other + span] + data[at:]
    return data


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all values below `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if path else []
    for key, item in items:
        found += _places(item, (*path, key))
    return found


def mutate_value(value: Any, rng: random.Random) -> Any:
    """The same with one to three of its values replaced, deleted, doubled, wrapped or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = _places(value)
        if not places:
            return rng.choice(_VALUES)
        *above, key = rng.choice(places)
        holder = value
        for step in above:
            holder = holder[step]
        kind = rng.randrange(10)
        if kind < 6:
            holder[key] = copy.deepcopy(rng.choice(_VALUES))
        elif kind == 6:
            del holder[key]
        elif kind == 7:
            holder[key] = rng.choice([[holder[key]], {"x": holder[key]}, [holder[key]] * 3, str(holder[key])])
        elif kind == 8 and isinstance(holder, dict):
            holder[rng.choice(["", "x", "seed", "\x1b", "a" * 300])] = holder.pop(key)
        elif isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
    return value


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Half of the time the values, else the bytes."""
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    lines = [json.loads(line) for line in data.splitlines()] if b"}\n{" in data else None
    mutated = [mutate_value(line, rng) for line in lines] if lines else mutate_value(json.loads(data), rng)
    texts = [json.dumps(each) for each in (mutated if lines else [mutated])]
    return "\n".join(texts).encode()


def mutate_yaml(data: bytes, rng: random.Random) -> bytes:
    """Half of the time the values, else the bytes."""
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    mutated = mutate_value(yaml.safe_load(data), rng)
    return json.dumps(mutated).encode() if rng.random() < 0.5 else yaml.safe_dump(mutated).encode(errors="replace")


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """A third of the time the values of the header, else the bytes: those of the header more often than others."""
    size = struct.unpack("<Q", data[:8])[0]
    header, rest = data[8 : 8 + size], data[8 + size :]
    kind = rng.randrange(3)
    if kind == 0:
        header = json.dumps(mutate_value(json.loads(header), rng)).encode()
        return struct.pack("<Q", len(header)) + header + rest
    if kind == 1:
        header = mutate_bytes(header, rng)
        return struct.pack("<Q", len(header)) + header + rest
    return mutate_bytes(data, rng)
