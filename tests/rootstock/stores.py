"""A store of each kind, empty: the folder, and a bucket of a real S3 server over HTTP (moto). Knows no test."""

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from pydantic import SecretStr

from rootstock.settings import Settings
from rootstock.storage import Store, open_store


def s3_settings(endpoint: str, bucket: str, **changes: Any) -> Settings:
    return Settings(
        s3_bucket=bucket,
        s3_endpoint_url=endpoint,
        s3_region="us-east-1",
        s3_access_key_id=SecretStr("test"),
        s3_secret_access_key=SecretStr("test"),
        **changes,
    )


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str) -> Iterator[Any]:
    found = boto3.resource(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    ).create_bucket(Bucket=f"test-{uuid.uuid4().hex}")
    yield found
    found.meta.client.close()


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.integration)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(Settings(data_dir=tmp_path))
    endpoint = request.getfixturevalue("s3_endpoint")
    return open_store(s3_settings(endpoint, request.getfixturevalue("bucket").name, s3_prefix="some/prefix/"))
