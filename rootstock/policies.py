"""What a project lets through: which findings in its data end a job, and what becomes of a tune that is held.

Knows nothing about how data is examined or how tunes are measured.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from rootstock import db, tables
from rootstock.db import Tx
from rootstock.quality.kinds import Kind
from rootstock.records import Caller

MOST_LIMITS = 100
"""Suites that a policy names limits of."""

Limit = Annotated[float, Field(ge=0, le=1)]
"""How much of a general suite's score may be lost, of 1."""

_policies = tables.policies


class DataPolicy(BaseModel):
    """Which findings of the data report end a job before it is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    blocking: tuple[Kind, ...] = ()


class ReleasePolicy(BaseModel):
    """What becomes of a tune that did not clearly improve or that forgot: told (`inform`), or also not released."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["inform", "enforce"] = "inform"
    forgetting_limit: Limit = 0.05
    suite_limits: Mapping[str, Limit] = {}
    """By the names of suites, in place of `forgetting_limit`; of some there may be no suite (any more)."""

    def limit_of(self, suite: str) -> float:
        """How much this suite may lose."""
        return self.suite_limits.get(suite, self.forgetting_limit)


class Policy(BaseModel):
    """All that a project has decided; the rest is by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: DataPolicy = DataPolicy()
    release: ReleasePolicy = ReleasePolicy()


def of(tx: Tx, project_id: str) -> Policy:
    """The project's policy; the default one where it has set none."""
    stored = tx.execute(sa.select(_policies.c.policy).where(_policies.c.project_id == project_id)).scalar_one_or_none()
    return Policy() if stored is None else Policy.model_validate(stored)


def put(tx: Tx, caller: Caller, policy: Policy) -> Policy:
    """Set the project's policy, for everything that is decided afterwards."""
    values = {"policy": policy.model_dump(mode="json"), "key_id": caller.key_id, "updated_at": db.clock(tx)}
    statement = db.insert(tx, _policies).values(project_id=caller.project_id, **values)
    tx.execute(statement.on_conflict_do_update(index_elements=[_policies.c.project_id], set_=values))
    return policy
