"""API keys and the projects they open. Keys are kept as digests only; knows nothing about HTTP headers.

A key reads `sk-rs-PREFIX-SECRET`: the row is found by the public prefix, then the digest of the whole key is compared
in constant time.
"""

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from rootstock import db, ids, tables
from rootstock.db import Tx
from rootstock.errors import ConfigurationError, InvalidApiKey
from rootstock.records import Caller

DEFAULT_PROJECT = "proj_default"

OWNER = "owner"
"""May do everything in the project, deleting models and letting other projects in included."""

MEMBER = "member"
"""May do everything else."""

ROLES = (OWNER, MEMBER)

_ALPHABET = string.ascii_letters + string.digits
_KEY = re.compile(r"sk-rs-([A-Za-z0-9]{8})-[A-Za-z0-9_-]{43}")
_PROJECT = re.compile(r"proj_[A-Za-z0-9_-]{1,59}")
_NO_DIGEST = "0" * 64

LIVING = tables.api_keys.join(
    tables.projects,
    (tables.projects.c.id == tables.api_keys.c.project_id) & tables.api_keys.c.revoked_at.is_(None),
)
"""The keys that open something, each with its project."""

COLUMNS = (
    tables.projects.c.id,
    tables.projects.c.organization_id,
    tables.api_keys.c.id,
    tables.api_keys.c.role,
    tables.api_keys.c.digest,
)
"""What `verified` wants to know of a key, by its prefix, out of `LIVING`."""

# Asked with every request, and so built once: to build a statement takes longer than to execute it.
_BY_PREFIX = sa.select(*COLUMNS).select_from(LIVING).where(tables.api_keys.c.prefix == sa.bindparam("prefix"))


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What may be shown of a key."""

    id: str
    prefix: str
    name: str
    role: str
    created_at: float
    revoked_at: float | None


def ensure_default_project(tx: Tx, organization: str) -> str:
    """Make sure that the one default project exists under `organization` and return its id; any process may call."""
    tx.execute(
        db.insert(tx, tables.projects)
        .values(id=DEFAULT_PROJECT, organization_id=organization, name="Default project", created_at=db.now())
        .on_conflict_do_update(index_elements=[tables.projects.c.id], set_={"organization_id": organization})
    )
    return DEFAULT_PROJECT


def ensure_project(tx: Tx, project_id: str, organization: str) -> str:
    """Make sure that the project exists and return its id; an existing one stays as it is.

    Raises `ConfigurationError` for an id that is none.
    """
    if project_id == DEFAULT_PROJECT:
        return ensure_default_project(tx, organization)
    if not _PROJECT.fullmatch(project_id):
        raise ConfigurationError(f"{project_id[:80]!r} is not a project id; write proj_ and letters, digits, - or _.")
    tx.execute(
        db.insert(tx, tables.projects)
        .values(id=project_id, organization_id=organization, name=project_id, created_at=db.now())
        .on_conflict_do_nothing(index_elements=[tables.projects.c.id])
    )
    return project_id


def create(tx: Tx, project_id: str, name: str, role: str = OWNER) -> str:
    """A new key for the project, in full; this is the only time it can be seen."""
    if role not in ROLES:
        raise ConfigurationError(f"{role!r} is not a role; use one of {', '.join(ROLES)}.")
    prefix = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    key = f"sk-rs-{prefix}-{secrets.token_urlsafe(32)}"
    tx.execute(
        tables.api_keys.insert().values(
            id=ids.new("key_"),
            project_id=project_id,
            prefix=prefix,
            digest=_digest(key),
            name=name,
            role=role,
            created_at=db.now(),
        )
    )
    return key


def authenticate(tx: Tx, key: str) -> Caller:
    """Whose key this is.

    Raises `InvalidApiKey` for a malformed, unknown, wrong or revoked key; the four read the same to the client.
    """
    row = tx.execute(_BY_PREFIX, {"prefix": prefix(key)}).one_or_none()
    return verified(key, row)


def prefix(key: str) -> str:
    """What a key's row is found by. Raises `InvalidApiKey` for a malformed one."""
    shape = _KEY.fullmatch(key)
    if shape is None:
        raise InvalidApiKey(key)
    return shape[1]


def verified(key: str, row: Sequence[str] | None) -> Caller:
    """Whose key this is, given the `COLUMNS` that were found for its prefix. Raises `InvalidApiKey`."""
    *about, digest = row if row is not None else (_NO_DIGEST,)
    # The comparison happens for an unknown prefix too, so that the time taken does not tell which prefixes exist.
    if not hmac.compare_digest(_digest(key), digest) or row is None:
        raise InvalidApiKey(key)
    return Caller(*about)


def list_all(tx: Tx, project_id: str) -> list[KeyRecord]:
    """Every key of the project, oldest first, revoked ones too."""
    columns = [tables.api_keys.c[name] for name in ("id", "prefix", "name", "role", "created_at", "revoked_at")]
    rows = tx.execute(
        sa.select(*columns)
        .where(tables.api_keys.c.project_id == project_id)
        .order_by(tables.api_keys.c.created_at, tables.api_keys.c.id)
    )
    return [KeyRecord(*row) for row in rows]


def revoke(tx: Tx, project_id: str, key_id: str) -> bool:
    """Refuse the key from now on; whether there was such a key to revoke."""
    changed = tx.execute(
        tables.api_keys.update()
        .where(
            tables.api_keys.c.project_id == project_id,
            tables.api_keys.c.id == key_id,
            tables.api_keys.c.revoked_at.is_(None),
        )
        .values(revoked_at=db.now())
    )
    return changed.rowcount == 1


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
