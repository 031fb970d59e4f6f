"""What watches of live traffic keep: whom they watch, what the training set is like, what was counted, the alarms."""

import sqlalchemy as sa

from rootstock.tables.common import metadata, project, seq

watches = sa.Table(
    "watches",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    project(),
    sa.Column("alias", sa.String(128)),  # only what is asked under this name; NULL: all that the model is asked
    sa.Column("model", sa.Text(), nullable=False),  # that answers
    sa.Column("file_id", sa.String(64), nullable=False),  # of the training set, which is the reference
    sa.Column("file_chosen", sa.Boolean(), nullable=False),  # by the owner: it stays when the alias moves
    sa.Column("status", sa.String(16), nullable=False),  # profiling | watching | failed
    sa.Column("reason", sa.Text()),
    sa.Column("generation", sa.Integer(), nullable=False),  # +1 whenever the reference is another
    sa.Column("profile_after", sa.Float(53), nullable=False),  # nobody begins to read the file before that time
    sa.Column("examples", sa.Integer()),
    sa.Column("sample_rate", sa.Float(53), nullable=False),
    sa.Column("store_samples", sa.Boolean(), nullable=False),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Index(None, "project_id", "seq"),
    sa.Index(None, "status", "profile_after"),
)

watch_counts = sa.Table(
    "watch_counts",
    metadata,
    sa.Column("watch_id", sa.String(64), sa.ForeignKey("watches.id"), primary_key=True),
    sa.Column("generation", sa.Integer(), nullable=False),
    sa.Column("revision", sa.BigInteger(), nullable=False),  # +1 on every write, for people who look
    sa.Column("profile", sa.LargeBinary(), nullable=False),
    sa.Column("state", sa.LargeBinary(), nullable=False),
    sa.Column("rows", sa.JSON(), nullable=False),  # kind -> calls under suspicion, where samples may be stored
    sa.Column("calls", sa.BigInteger(), nullable=False),
    sa.Column("dropped", sa.BigInteger(), nullable=False),
    sa.Column("updated_at", sa.Float(53), nullable=False),
)

watch_alarms = sa.Table(
    "watch_alarms",
    metadata,
    seq(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("watch_id", sa.String(64), sa.ForeignKey("watches.id"), nullable=False),
    project(),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("found", sa.JSON(), nullable=False),
    sa.Column("cluster", sa.JSON(none_as_null=True)),  # NULL: no samples are stored
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Index(None, "watch_id", "seq"),
)
