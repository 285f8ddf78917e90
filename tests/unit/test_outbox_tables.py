"""Making the tables and dropping them, on SQLite. (PostgreSQL: integration.)"""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, MetaData, Table, Text, create_engine, inspect

from kompensate.outbox.tables import create_tables, drop_tables, include_name, made_tables


def test_what_was_made_is_dropped() -> None:
    """All of it, and no more: the service's own tables stay. Dropping nothing is no error."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE stock (sku text)")
        for _ in range(2):
            create_tables(connection)
            assert {"inbox", "outbox", "stock"} < set(inspect(connection).get_table_names())
            drop_tables(connection)
            drop_tables(connection)

            assert set(inspect(connection).get_table_names()) == {"stock"}
    engine.dispose()


def test_autogenerate_leaves_our_tables_alone() -> None:
    """With `include_name` it finds the service's own changes only; without, it would drop what is ours."""
    engine = create_engine("sqlite://")
    mine = MetaData()
    Table("stock", mine, Column("sku", Text))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE old_stock (sku text)")
        create_tables(connection)

        def changes(**options: object) -> set[tuple[str, str]]:
            context = MigrationContext.configure(connection, opts=options)
            return {(change[0], change[1].name) for change in compare_metadata(context, mine)}

        own = {("add_table", "stock"), ("remove_table", "old_stock")}
        assert own < changes()
        assert changes(include_name=include_name) == own
    engine.dispose()


@pytest.mark.parametrize("name", [*made_tables(), "outbox_20261121", "outbox_relay"])
def test_the_tables_that_autogenerate_leaves_out(name: str) -> None:
    """Tables of ours and the outbox's days; columns and indexes of those that are left in are the service's."""
    assert not include_name(name, "table", {})
    assert include_name(name, "column", {})
    assert include_name(name, "schema", {})


@pytest.mark.parametrize("name", ["stock", "my_outbox", "outboxes", None])
def test_the_tables_that_autogenerate_compares(name: str | None) -> None:
    """A name that only looks like one of ours is the service's."""
    assert include_name(name, "table", {})
