"""Making the tables and dropping them, on SQLite. (PostgreSQL: integration.)"""

from sqlalchemy import create_engine, inspect

from kompensate.outbox.tables import create_tables, drop_tables


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
