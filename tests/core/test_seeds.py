import hashlib

import numpy as np
import pytest

from imagenet_sd.core.seeds import Permutation, image_seed, stable_hash


def test_stable_hash_against_the_definition():
    digest = hashlib.blake2b(digest_size=8)
    for part in (b"simage", b"i7", b"sn02086910", b"i3"):
        digest.update(len(part).to_bytes(4, "little") + part)
    assert image_seed(7, "n02086910", 3) == int.from_bytes(digest.digest(), "little") % 2**63


def test_parts_do_not_run_into_each_other():
    assert (
        len({stable_hash("ab", "c"), stable_hash("a", "bc"), stable_hash("abc"), stable_hash("1"), stable_hash(1)}) == 5
    )


def test_image_seeds_are_all_different_and_in_range():
    seeds = {image_seed(s, w, i) for s in range(3) for w in ("n01558993", "n02086910") for i in range(2000)}
    assert len(seeds) == 12000
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 365, 1000, 4097])
def test_permutation_is_one(size: int):
    order = Permutation(size, "test", 0)
    assert sorted(order[i] for i in range(size)) == list(range(size))
    with pytest.raises(IndexError):
        order[size]


def test_permutation_mixes_evenly():
    """Positions against elements in a 10 x 10 table: chi-square over 81 degrees of freedom, 99.99% limit 135.7."""
    size = 20000
    order = Permutation(size, "test", 1)
    table, _, _ = np.histogram2d(np.arange(size), [order[i] for i in range(size)], bins=10)
    assert ((table - size / 100) ** 2 / (size / 100)).sum() < 135.7
    neighbours = np.corrcoef([order[i] for i in range(size - 1)], [order[i] for i in range(1, size)])[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(size)


def test_another_key_is_another_order():
    orders = [[Permutation(1000, "test", key)[i] for i in range(1000)] for key in (0, 1)]
    assert sum(a == b for a, b in zip(*orders, strict=True)) < 12  # one fixed match in a thousand is expected
