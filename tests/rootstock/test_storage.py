"""One contract for both stores (tests.rootstock.stores), and what is true of one of them only."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from rootstock.errors import ObjectNotFound, StoreError
from rootstock.settings import Settings
from rootstock.storage import LocalStore, Store, open_store
from rootstock.storage.s3 import PART_BYTES, S3Store, part_bytes
from tests.rootstock.stores import bucket, s3_endpoint, s3_settings, store

__all__ = ["bucket", "s3_endpoint", "store"]  # fixtures


def test_what_is_put_is_got(store: Store, tmp_path: Path) -> None:
    assert store.put("files/a", iter([b"one ", b"", b"two"])) == 7
    store.put_bytes("files/b", b"\x00\xff")
    (tmp_path / "source").write_bytes(b"from disk")
    store.put_file("adapters/x/adapter_model.safetensors", tmp_path / "source")
    assert b"".join(store.get("files/a")) == b"one two"
    assert store.get_bytes("files/b") == b"\x00\xff"
    assert store.get_bytes("adapters/x/adapter_model.safetensors") == b"from disk"
    assert store.size("files/a") == 7


def test_an_empty_object_is_an_object(store: Store) -> None:
    assert store.put("files/empty", []) == 0
    assert list(store.get("files/empty")) == []
    assert store.size("files/empty") == 0
    assert store.list("files") == ["files/empty"]


def test_a_later_put_replaces(store: Store) -> None:
    store.put_bytes("files/a", b"old and longer")
    store.put_bytes("files/a", b"new")
    assert store.get_bytes("files/a") == b"new"


def test_an_absent_object_is_refused_at_the_call(store: Store) -> None:
    for absent in (store.get, store.get_bytes, store.size):
        with pytest.raises(ObjectNotFound, match="files/none"):
            absent("files/none")


def test_list_takes_a_prefix_as_a_folder(store: Store) -> None:
    for key in ("adapters/ab/one", "adapters/a/two", "adapters/a/one", "files/a"):
        store.put_bytes(key, b"")
    assert store.list("adapters/a") == store.list("adapters/a/") == ["adapters/a/one", "adapters/a/two"]
    assert store.list("") == ["adapters/a/one", "adapters/a/two", "adapters/ab/one", "files/a"]
    assert store.list("states") == []


def test_delete_may_be_repeated(store: Store) -> None:
    store.put_bytes("files/a", b"x")
    store.delete("files/a")
    store.delete("files/a")
    with pytest.raises(ObjectNotFound):
        store.get("files/a")


def test_delete_prefix_removes_a_folder_and_nothing_beside_it(store: Store) -> None:
    for key in ("states/job/a/x", "states/job/b", "states/job2/a"):
        store.put_bytes(key, b"")
    store.delete_prefix("states/job")
    store.delete_prefix("states/none")
    assert store.list("") == ["states/job2/a"]
    with pytest.raises(StoreError):
        store.delete_prefix("")


def test_a_failing_source_leaves_nothing(store: Store) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * (PART_BYTES + 1)
        raise OSError("the client went away")

    with pytest.raises(OSError, match="went away"):
        store.put("files/a", broken())
    assert store.list("") == []


def test_a_writer_shows_nothing_before_close(store: Store) -> None:
    writer = store.writer("files/a")
    writer.write(b"x" * (PART_BYTES + 1))
    writer.write(b"y")
    assert store.list("") == []
    writer.close()
    writer.abort()  # as a `finally` would
    assert store.size("files/a") == PART_BYTES + 2
    assert store.get_bytes("files/a").endswith(b"xy")


def test_an_aborted_writer_keeps_what_was_there(store: Store) -> None:
    store.put_bytes("files/a", b"old")
    writer = store.writer("files/a")

    def interrupted() -> None:
        with writer:
            writer.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    writer.close()
    assert store.get_bytes("files/a") == b"old"
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"more")


@pytest.mark.parametrize(
    "key",
    "|/etc/passwd|../a|files/../../a|files/..|files//a|files/|.unfinished/a|files/.a|a\0b|a\nb|files/a\n|ä|a b|a\\b"
    f"|{'x' * 513}".split("|"),
)
def test_a_key_cannot_leave_its_place(key: str, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    for use in (store.get, store.delete, store.size, store.writer, lambda key: store.put_bytes(key, b"")):
        with pytest.raises(StoreError, match="key"):
            use(key)


def test_a_store_that_works_passes_its_check(store: Store) -> None:
    store.check()
    assert store.list("") == []


def test_many_processes_may_write_one_key(store: Store) -> None:
    first, second = store.writer("files/a"), store.writer("files/a")
    first.write(b"first")
    second.write(b"second")
    first.close()
    second.close()
    assert store.get_bytes("files/a") == b"second"


STREAM = """
import hashlib, resource, sys
from rootstock.settings import Settings
from rootstock.storage import open_store

store = open_store(Settings.from_env())
store.put_bytes("files/warm", b"x")
store.get_bytes("files/warm")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.put("files/big", (bytes([n % 251]) * (1 << 20) for n in range(64)))
digest = hashlib.sha256()
for chunk in store.get("files/big"):
    digest.update(chunk)
print(digest.hexdigest(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_large_stream_passes_in_bounded_memory(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    if kind == "s3":
        settings = s3_settings(request.getfixturevalue("s3_endpoint"), request.getfixturevalue("bucket").name)
    # A process of its own, because the server lives in this one and the peak of memory never falls.
    done = subprocess.run(
        [sys.executable, "-c", STREAM],
        env=os.environ | settings.to_env(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    digest, grown_kib = done.stdout.split()
    wanted = hashlib.sha256()
    for n in range(64):
        wanted.update(bytes([n % 251]) * (1 << 20))
    assert digest == wanted.hexdigest()
    # Two parts of 8 MiB and the request's own copy; the object is 64 MiB.
    assert int(grown_kib) < 40 * 1024


def test_parts_grow_so_that_ten_thousand_reach_far() -> None:
    assert part_bytes(0) == part_bytes(1999) == PART_BYTES
    assert sum(part_bytes(sent) for sent in range(10_000)) > 450 << 30
    assert max(part_bytes(sent) for sent in range(10_000)) <= 128 << 20


class TestLocal:
    def test_a_dead_writers_file_is_removed_at_the_next_start(self, tmp_path: Path) -> None:
        store = LocalStore(tmp_path)
        alive, dead = store.writer("files/alive"), store.writer("files/dead")
        dead.write(b"x")
        newest = max((tmp_path / ".unfinished").iterdir(), key=lambda path: path.stat().st_ino)
        for path in (tmp_path / ".unfinished").iterdir():
            if path == newest:
                os.utime(path, (time.time() - 7200,) * 2)
        assert len(list((tmp_path / ".unfinished").iterdir())) == 2
        LocalStore(tmp_path)
        assert len(list((tmp_path / ".unfinished").iterdir())) == 1
        with pytest.raises(StoreError):
            dead.close()
        alive.close()
        assert store.list("") == ["files/alive"]

    def test_nothing_unfinished_stays_after_success_or_failure(self, tmp_path: Path) -> None:
        store = LocalStore(tmp_path)
        store.put_bytes("files/a", b"x")
        store.writer("files/b").abort()
        (tmp_path / "files" / "folder").mkdir()
        with pytest.raises(StoreError):
            store.put_bytes("files/folder", b"x")
        assert list((tmp_path / ".unfinished").iterdir()) == []

    def test_empty_folders_go_with_their_last_object(self, tmp_path: Path) -> None:
        store = LocalStore(tmp_path)
        store.put_bytes("adapters/a/x", b"")
        store.delete_prefix("adapters/a")
        assert [path.name for path in tmp_path.iterdir()] == [".unfinished"]

    def test_a_full_or_forbidden_disk_is_a_store_error_that_names_no_path(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreError) as caught:
            LocalStore(tmp_path / "file" / "store")
        assert str(tmp_path) not in caught.value.message

    def test_a_removed_folder_fails_the_check(self, tmp_path: Path) -> None:
        store = LocalStore(tmp_path / "store")
        (tmp_path / "store" / ".unfinished").rmdir()
        with pytest.raises(StoreError):
            store.check()


@pytest.mark.integration
class TestS3:
    def test_the_prefix_is_where_objects_lie(self, s3_endpoint: str, bucket: Any) -> None:
        store = open_store(s3_settings(s3_endpoint, bucket.name, s3_prefix="rootstock"))
        store.put_bytes("files/a", b"x")
        assert [item.key for item in bucket.objects.all()] == ["rootstock/files/a"]
        assert store.list("") == ["files/a"]

    def test_no_upload_stays_open_after_a_failure(self, s3_endpoint: str, bucket: Any) -> None:
        store = open_store(s3_settings(s3_endpoint, bucket.name))
        writer = store.writer("files/a")
        writer.write(b"x" * (2 * PART_BYTES))
        uploads = bucket.meta.client.list_multipart_uploads
        assert len(uploads(Bucket=bucket.name)["Uploads"]) == 1
        writer.abort()
        assert "Uploads" not in uploads(Bucket=bucket.name)

    def test_a_server_error_in_mid_upload_is_a_store_error(self, s3_endpoint: str, bucket: Any) -> None:
        store = open_store(s3_settings(s3_endpoint, bucket.name))
        writer = store.writer("files/a")
        writer.write(b"x" * PART_BYTES)
        (upload,) = bucket.multipart_uploads.all()
        upload.abort()
        with pytest.raises(StoreError, match="files/a"):
            writer.write(b"x" * PART_BYTES)
        writer.abort()
        assert store.list("") == []

    def test_a_missing_bucket_fails_the_check(self, s3_endpoint: str) -> None:
        store = open_store(s3_settings(s3_endpoint, "no-such-bucket"))
        with pytest.raises(StoreError, match="bucket") as caught:
            store.check()
        assert not isinstance(caught.value, ObjectNotFound)
        with pytest.raises(StoreError, match="NoSuchBucket") as caught:
            store.put_bytes("files/a", b"")
        assert not isinstance(caught.value, ObjectNotFound)

    def test_a_server_that_is_away_is_a_store_error_that_names_no_host(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="x",
            aws_access_key_id="a",
            aws_secret_access_key="b",
            config=Config(retries={"max_attempts": 0}),
        )
        store = S3Store(client, "bucket")
        for use in (store.check, lambda: store.get("files/a"), lambda: store.put_bytes("files/a", b"")):
            with pytest.raises(StoreError) as caught:
                use()
            assert "127.0.0.1" not in caught.value.message
        client.close()

    def test_a_connection_cut_in_mid_download_is_a_store_error(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 2_000_000
        with socket.create_server(("127.0.0.1", 0)) as server:

            def serve() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            store = open_store(s3_settings(f"http://127.0.0.1:{server.getsockname()[1]}", "bucket"))
            chunks = store.get("files/a")
            with pytest.raises(StoreError, match="files/a"):
                b"".join(chunks)
            thread.join()
