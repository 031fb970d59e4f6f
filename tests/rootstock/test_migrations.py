"""The migrations make the tables that the code describes, on both back-ends."""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

import rootstock
from rootstock import jobs, models, tables
from rootstock.db import Database
from tests.rootstock.rows import add_job


def test_migrated_tables_are_the_described_ones(any_database: Database):
    with any_database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []


def test_models_of_earlier_versions_are_adapters(any_database: Database):
    with any_database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO projects VALUES ('proj_a', 'org', 'A', 0)")
    with any_database.transaction() as tx:
        job = add_job(tx, project_id="proj_a")
        tx.exec_driver_sql(
            "INSERT INTO models (id, project_id, job_id, base, adapter_id, state, created_at) "
            f"VALUES ('ft:a:b::c', 'proj_a', '{job}', 'tiny', 'adapter-old', 'ready', 0)"
        )
        assert models.get(tx, "proj_a", "ft:a:b::c").kind == "lora"


def test_jobs_of_the_first_version_are_found_by_their_metadata(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    config = Config()
    config.set_main_option("script_location", str(Path(rootstock.__file__).parent / "migrations"))
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql("INSERT INTO projects VALUES ('proj_a', 'org', 'A', 0)")
        for job, metadata in (("ftjob-1", '\'{"customer": "acme"}\''), ("ftjob-2", "NULL")):
            connection.exec_driver_sql(
                "INSERT INTO jobs (id, project_id, status, want, fence, attempts, not_before, rings, model, base, "
                "training_file, training_object, seed, method, hyperparameters, integrations, metadata, created_at, "
                "progress_step) VALUES "
                f"('{job}', 'proj_a', 'cancelled', 'cancel', 0, 0, 0, 0, 'm', 'b', 'file-1', 'o', 1, "
                f"'{{}}', '{{}}', '[]', {metadata}, 0, 0)"
            )
        connection.commit()
    database.migrate()
    with database.read() as tx:
        assert [job.id for job in jobs.list_page(tx, "proj_a", metadata={"customer": "acme"}).data] == ["ftjob-1"]
        assert [job.id for job in jobs.list_page(tx, "proj_a", without_metadata=True).data] == ["ftjob-2"]
