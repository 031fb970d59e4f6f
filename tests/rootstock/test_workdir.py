"""Folders of jobs: one's own, gone afterwards, and never taken for one that was left behind."""

import fcntl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rootstock.workdir import workdir


def test_a_folder_is_ones_own_and_gone_afterwards(tmp_path: Path) -> None:
    root = tmp_path / "work"
    with workdir(root) as first, workdir(root) as second:
        assert first != second
        assert first.stat().st_mode & 0o777 == 0o700
        (first / "data").write_text("x")
    assert list(root.iterdir()) == []


def test_what_a_dead_process_left_behind_goes_and_what_is_held_stays(tmp_path: Path) -> None:
    left, held = tmp_path / "job-left", tmp_path / "job-held"
    for folder in (left, held):
        folder.mkdir()
        (folder / "data").write_text("x")
    with (held / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with workdir(tmp_path):
            assert not left.exists()
            assert (held / "data").exists()


def test_folders_made_at_the_same_time_do_not_remove_each_other(tmp_path: Path) -> None:
    def use(number: int) -> bool:
        with workdir(tmp_path) as folder:
            (folder / "data").write_text(str(number))
            return (folder / "data").read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(300)))
    assert list(tmp_path.iterdir()) == []
