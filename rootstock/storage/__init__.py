"""Where objects are kept: training files, adapters, resume states. A local folder or an S3-compatible bucket.

An object appears whole or not at all, whatever dies in between. Keys are `files/<file_id>`, `uploads/<upload_id>/<id>`,
`adapters/<adapter_id>/<name>` and `states/<job_id>/<adapter_id>/<name>`. Knows nothing about what the bytes mean.
"""

from rootstock.settings import Settings
from rootstock.storage.base import Store, Writer
from rootstock.storage.local import LocalStore

__all__ = ["LocalStore", "Store", "Writer", "open_store"]


def open_store(settings: Settings) -> Store:
    """The store that the settings name: the bucket when there is one, else a folder in the data folder.

    Example: `store = open_store(settings); store.put("files/file-1", chunks)`.
    """
    if settings.s3_bucket is None:
        return LocalStore(settings.data_dir / "store")
    from rootstock.storage.s3 import S3Store  # boto3 takes a third of a second to import; most never need it

    return S3Store.from_settings(settings)
