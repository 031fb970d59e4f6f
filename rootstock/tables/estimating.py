"""What jobs were thought to take when they were created, and what they took."""

import sqlalchemy as sa

from rootstock.tables.common import metadata

estimates = sa.Table(
    "estimates",
    metadata,
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("base", sa.Text(), nullable=False),
    sa.Column("method", sa.String(32), nullable=False),
    sa.Column("type", sa.String(16), nullable=False),
    sa.Column("file_bytes", sa.BigInteger(), nullable=False),
    sa.Column("estimate", sa.JSON(), nullable=False),  # rootstock.estimating.Estimate
    # What it came to; null until the training ended well.
    sa.Column("ended_at", sa.Float(53)),
    sa.Column("passes", sa.Float(53)),  # epochs, or the part of them that was trained
    sa.Column("steps", sa.Integer()),
    sa.Column("tokens", sa.BigInteger()),
    sa.Column("seconds", sa.Float(53)),
    sa.Column("memory_bytes", sa.BigInteger()),
    sa.Index(None, "base", "ended_at"),  # the newest of a base teach the next estimate
)
