"""The migrations make the tables that the code describes, on both back-ends."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from rootstock import tables
from rootstock.db import Database


def test_migrated_tables_are_the_described_ones(any_database: Database):
    with any_database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
