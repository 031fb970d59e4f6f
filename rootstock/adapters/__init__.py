"""An adapter at rest: a small folder, its manifest, the way into the store and out, and what makes it fit to serve.

Adapters are immutable. The manifest names every file by hash and is stored last, so half an adapter does not exist. A
full fine-tune is one, too: of the kind `full`, with a large folder.
Knows nothing about training, vLLM or who may use an adapter; needs neither torch nor numpy.
"""

from rootstock.adapters.base import base_fingerprint, template_sha256
from rootstock.adapters.export import Export, safe_name, unpack, whole_folder
from rootstock.adapters.manifest import (
    FILES,
    FileEntry,
    Kind,
    Manifest,
    check_sizes,
    fetch_tree,
    put_tree,
    read_folder,
    read_manifest,
)
from rootstock.adapters.verify import verify_tree
from rootstock.adapters.verify_full import verify_full, write_config

__all__ = [
    "FILES",
    "Export",
    "FileEntry",
    "Kind",
    "Manifest",
    "base_fingerprint",
    "check_sizes",
    "fetch_tree",
    "put_tree",
    "read_folder",
    "read_manifest",
    "safe_name",
    "template_sha256",
    "unpack",
    "verify_full",
    "verify_tree",
    "whole_folder",
    "write_config",
]
