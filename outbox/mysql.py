"""Engines for MySQL and MariaDB, by PyMySQL."""

from importlib.util import find_spec
from typing import Any, Final

from sqlalchemy import URL, Engine, create_engine

# A server that is gone is noticed after so many seconds. Longer than InnoDB lets a statement wait for a lock (50).
_PATIENCE: Final = {"connect_timeout": 5, "read_timeout": 60, "write_timeout": 60}
# Else a text that is too long would be cut, and two ids would be one.
_STRICT: Final = "SET SESSION sql_mode = CONCAT_WS(',', NULLIF(@@sql_mode, ''), 'STRICT_TRANS_TABLES')"


def mysql_engine(url: URL, isolation_level: str, **options: Any) -> Engine:
    """An engine for `url`, whose query may set PyMySQL's time-outs. Raises ValueError where PyMySQL is absent."""
    if find_spec("pymysql") is None:
        raise ValueError(
            f"database {url.get_backend_name()}://: expected the package PyMySQL, got none installed: "
            "pip install 'kompensate[mysql]'"
        )
    arguments = {name: value for name, value in _PATIENCE.items() if name not in url.query}
    return create_engine(
        url.set(drivername=f"{url.get_backend_name()}+pymysql"),
        isolation_level=isolation_level,
        hide_parameters=True,  # errors would quote the values of a payload
        connect_args={"init_command": _STRICT, **arguments},
        **options,
    )
