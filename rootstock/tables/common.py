"""What the tables share: their metadata, and the columns that many have. Knows no table."""

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def seq() -> sa.Column[int]:
    """Insertion order. Lists are paged by it, so equal timestamps never lose or repeat an element."""
    return sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True)


def project() -> sa.Column[str]:
    """Whose row it is."""
    return sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.id"), nullable=False)
