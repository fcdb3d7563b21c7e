"""Leases: one holder at a time, stolen only when stale, whatever a worker's clock says."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from imagenet_sd.generation.workers.leases import LeaseBoard


def test_one_of_many_claims_wins(tmp_path: Path):
    boards = [LeaseBoard(tmp_path, f"w{k}") for k in range(16)]
    for attempt in range(20):
        won: list = []
        start = threading.Barrier(16)

        def claim(board: LeaseBoard, name: str = f"s{attempt}", won: list = won, start: threading.Barrier = start):
            start.wait()
            won.append(board.claim(name))

        threads = [threading.Thread(target=claim, args=(board,)) for board in boards]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(lease is not None for lease in won) == 1


def test_a_stale_lease_is_stolen_by_one_and_release_leaves_the_thief_alone(tmp_path: Path):
    owner, thief, late = (LeaseBoard(tmp_path, name, ttl=10) for name in ("owner", "thief", "late"))
    lease = owner.claim("s")
    assert lease and thief.claim("s") is None and thief.held() == {"s": True}
    os.utime(lease.path, (time.time() - 11, time.time() - 11))
    assert thief.held() == {"s": False}
    stolen = thief.claim("s")
    assert stolen and late.claim("s") is None
    lease.renew()
    lease.release()
    assert late.claim("s") is None and stolen.path.exists()
    stolen.release()
    assert late.claim("s")


@pytest.mark.parametrize("offset", [-86400.0, 86400.0])
def test_the_clock_of_a_worker_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: float):
    owner, other = LeaseBoard(tmp_path, "owner", ttl=10), LeaseBoard(tmp_path, "other", ttl=10)
    lease = owner.claim("s")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    assert other.claim("s") is None and other.held() == {"s": True}
    os.utime(lease.path, (real() + offset, real() + offset))  # as if set from a node's own wrong clock
    assert other.claim("s")


def test_renewal_keeps_a_lease(tmp_path: Path):
    owner, other = LeaseBoard(tmp_path, "owner", ttl=10), LeaseBoard(tmp_path, "other", ttl=10)
    lease = owner.claim("s")
    os.utime(lease.path, (0, 0))
    lease.renew()
    assert other.claim("s") is None


def test_the_lease_of_a_dead_process_of_this_machine_is_stale_at_once(tmp_path: Path):
    code = (
        f"from imagenet_sd.generation.workers.leases import *; LeaseBoard(Path({str(tmp_path)!r}), 'dead').claim('s')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert (tmp_path / "s.lease").exists()
    assert LeaseBoard(tmp_path, "living", ttl=1000).claim("s")


def test_a_garbled_lease_counts_until_it_is_old(tmp_path: Path):
    board = LeaseBoard(tmp_path, "w", ttl=10)
    (tmp_path / "s.lease").write_bytes(b"\xff{")
    assert board.claim("s") is None
    os.utime(tmp_path / "s.lease", (0, 0))
    assert board.claim("s")


def test_a_lease_renewed_between_look_and_grasp_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    owner, thief = LeaseBoard(tmp_path, "owner", ttl=10), LeaseBoard(tmp_path, "thief", ttl=10)
    lease = owner.claim("s")
    os.utime(lease.path, (0, 0))
    real = os.rename

    def slow(source, target):
        lease.renew()
        real(source, target)

    monkeypatch.setattr(os, "rename", slow)
    assert thief.claim("s") is None
    monkeypatch.undo()
    assert lease.path.exists() and thief.held() == {"s": True}
