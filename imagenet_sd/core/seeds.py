"""Seeds: every random choice of the project is a hash of what it depends on, and of nothing else.

Knows nothing of classes, prompts or devices; strings and integers go in, integers come out.
"""

import hashlib

_MASK63 = (1 << 63) - 1


def stable_hash(*parts: str | int) -> int:
    """Hash strings and integers to one integer that is the same on every machine and in every release.

    Args:
        parts: the values the result depends on; `1` and `"1"` are different values.

    Returns:
        An integer in [0, 2**63), uniform over that range (blake2b, 8 bytes).
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        encoded = f"{'i' if isinstance(part, int) else 's'}{part}".encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(4, "little"))
        digest.update(encoded)
    return int.from_bytes(digest.digest(), "little") & _MASK63


def image_seed(dataset_seed: int, wnid: str, index: int) -> int:
    """Seed of the initial noise of image `index` of class `wnid`.

    It depends on these three values only: not on prompt, guidance, rank, batch or world size, so two variants of
    a dataset start from the same noise image by image and can be compared in pairs.

    Returns:
        An integer in [0, 2**63), a valid `torch.Generator` seed.
    """
    return stable_hash("image", dataset_seed, wnid, index)


class Permutation:
    """A seeded permutation of `range(size)` that is computed, never stored: any position costs microseconds.

    A six-round Feistel network over the next even power of two, walked until it lands inside the range
    (Black & Rogaway, "Ciphers with arbitrary finite domains", 2002).

    Args:
        size: number of elements, from 1 to 2**60.
        key: the values the order depends on.
    """

    _ROUNDS = 6

    def __init__(self, size: int, *key: str | int):
        if not 1 <= size <= 1 << 60:
            raise ValueError(f"a permutation needs a size in [1, 2**60], not {size}")
        self.size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half) - 1
        self._keys = [stable_hash("feistel", *key, size, r) for r in range(self._ROUNDS)]

    def __getitem__(self, position: int) -> int:
        """The element at `position`, in [0, size).

        Raises:
            IndexError: the position is outside of [0, size).
        """
        return self._walk(position, self._keys)

    def index(self, element: int) -> int:
        """The position of `element`: `p.index(p[i]) == i`.

        Raises:
            IndexError: the element is outside of [0, size).
        """
        return self._walk(element, self._keys[::-1], inverse=True)

    def _walk(self, value: int, keys: list[int], inverse: bool = False) -> int:
        """The network on `value` until it lands in the range; its inverse is the network between two swaps."""
        if not 0 <= value < self.size:
            raise IndexError(value)
        while True:
            left, right = value >> self._half, value & self._mask
            if inverse:
                left, right = right, left
            for key in keys:
                left, right = right, left ^ (_mix(right ^ key) & self._mask)
            value = right << self._half | left if inverse else left << self._half | right
            if value < self.size:
                return value


def _mix(value: int) -> int:
    """The 64-bit finaliser of SplitMix64: every bit of the input changes half of the bits of the output."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 31
