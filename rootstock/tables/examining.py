"""What was found in data: the reports of files."""

import sqlalchemy as sa

from rootstock.tables.common import metadata

data_reports = sa.Table(
    "data_reports",
    metadata,
    sa.Column("training_file", sa.String(64), primary_key=True),
    sa.Column("validation_file", sa.String(64), primary_key=True),  # empty where the report is of one file
    sa.Column("context_tokens", sa.Integer, primary_key=True),
    sa.Column("report", sa.JSON(), nullable=False),  # findings and summary, before any project's policy
    sa.Column("created_at", sa.Float(53), nullable=False),
)
