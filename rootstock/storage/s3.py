"""The store of a cluster: any S3-compatible bucket, through boto3. Knows nothing about local folders.

A writer that is killed leaves an unfinished multipart upload, which no reader can see; a lifecycle rule of the
bucket (`AbortIncompleteMultipartUpload`) removes those.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from rootstock.errors import ObjectNotFound, StoreError
from rootstock.settings import Settings
from rootstock.storage.base import CHUNK_BYTES, Store, Writer, checked, folder

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

PART_BYTES = 8 * 1024 * 1024
_PARTS_BEFORE_DOUBLING = 2000  # of the 10,000 that S3 allows: 8 MiB parts reach 15 GiB, 128 MiB parts reach 484 GiB


class S3Store(Store):
    """Objects in a bucket, below an optional key prefix.

    Example: `S3Store(client, "my-bucket", "rootstock/")`; `S3Store.from_settings(settings)` makes the client too.
    """

    def __init__(self, client: "S3Client", bucket: str, prefix: str = "") -> None:
        self._client, self._bucket, self._prefix = client, bucket, folder(prefix.strip("/"))

    @classmethod
    def from_settings(cls, settings: Settings) -> "S3Store":
        """Connect as the `s3_*` settings say; without keys, boto3's usual credential chain is asked."""
        assert settings.s3_bucket is not None
        key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
        config = Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 4},
            max_pool_connections=32,
            # Own endpoints rarely resolve bucket.host names, and many refuse the newer checksum trailers.
            s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            client = boto3.client(
                "s3",
                endpoint_url=settings.s3_endpoint_url,
                region_name=settings.s3_region or ("us-east-1" if settings.s3_endpoint_url else None),
                aws_access_key_id=key.get_secret_value() if key else None,
                aws_secret_access_key=secret.get_secret_value() if secret else None,
                config=config,
            )
        except (BotoCoreError, ValueError) as error:
            raise StoreError(f"The object store could not be opened: {error}") from error
        return cls(client, settings.s3_bucket, settings.s3_prefix)

    def list(self, prefix: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2")
        with _failing(f"list {prefix}"):
            found = [
                item["Key"].removeprefix(self._prefix)
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + folder(prefix))
                for item in page.get("Contents", [])
            ]
        return sorted(found)

    def delete_alone(self, key: str) -> None:
        with _failing(f"delete {key}"):
            self._client.delete_object(**self._at(key))

    def check(self) -> None:
        try:
            with _failing("find its bucket"):
                self._client.head_bucket(Bucket=self._bucket)
        except ObjectNotFound as error:
            raise StoreError("The object store has no such bucket.") from error

    def _writer(self, key: str) -> Writer:
        return _S3Writer(self._client, self._at(key), key)

    def _read(self, key: str) -> Iterator[bytes]:
        with _failing(f"read {key}"), contextlib.closing(self._client.get_object(**self._at(key))["Body"]) as body:
            yield from body.iter_chunks(CHUNK_BYTES)

    def _size(self, key: str) -> int:
        with _failing(f"read {key}"):
            return self._client.head_object(**self._at(key))["ContentLength"]

    def _at(self, key: str) -> Any:
        return {"Bucket": self._bucket, "Key": self._prefix + checked(key)}


class _S3Writer(Writer):
    """Holds one part at most. An object smaller than a part never becomes a multipart upload."""

    def __init__(self, client: "S3Client", at: Any, key: str) -> None:
        self._client, self._at, self._key = client, at, key
        self._buffer = bytearray()
        self._upload_id: str | None = None
        self._parts: list[Any] = []
        self._open = True

    def write(self, data: bytes) -> None:
        if not self._open:
            raise ValueError("write to a closed object")
        view = memoryview(data)
        while view:
            room = part_bytes(len(self._parts)) - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
            if len(self._buffer) >= part_bytes(len(self._parts)):
                self._send_part()

    def close(self) -> None:
        if not self._open:
            return
        if self._upload_id is None:
            with self._aborting():
                self._client.put_object(**self._at, Body=bytes(self._buffer))
        else:
            if self._buffer:
                self._send_part()
            with self._aborting():
                self._client.complete_multipart_upload(
                    **self._at, UploadId=self._upload_id, MultipartUpload={"Parts": self._parts}
                )
        self._forget()

    def abort(self) -> None:
        if self._open and self._upload_id is not None:
            try:
                self._client.abort_multipart_upload(**self._at, UploadId=self._upload_id)
            except (BotoCoreError, ClientError) as error:
                log.warning("an unfinished upload of %s stays in the bucket: %s", self._key, error)
        self._forget()

    def _send_part(self) -> None:
        with self._aborting():
            if self._upload_id is None:
                self._upload_id = self._client.create_multipart_upload(**self._at)["UploadId"]
            number = len(self._parts) + 1
            answer = self._client.upload_part(
                **self._at, UploadId=self._upload_id, PartNumber=number, Body=bytes(self._buffer)
            )
        self._parts.append({"ETag": answer["ETag"], "PartNumber": number})
        self._buffer.clear()

    def _forget(self) -> None:
        self._open = False
        self._buffer.clear()

    @contextlib.contextmanager
    def _aborting(self) -> Iterator[None]:
        with _failing(f"store {self._key}"):
            try:
                yield
            except BaseException:
                self.abort()
                raise


def part_bytes(sent: int) -> int:
    """Size of the next part after `sent` parts: small while it can be, so that memory stays small too."""
    return PART_BYTES << min(sent // _PARTS_BEFORE_DOUBLING, 4)


@contextlib.contextmanager
def _failing(task: str) -> Iterator[None]:
    # Endpoint and bucket are nothing for a client to see, so the message carries the error's code only.
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        if code in ("NoSuchKey", "404", "NotFound"):
            raise ObjectNotFound(f"The object store could not {task}: it is not there.") from error
        raise StoreError(f"The object store could not {task}: it answered {code}.") from error
    except BotoCoreError as error:
        raise StoreError(f"The object store could not {task}: {type(error).__name__}.") from error
