"""Databases that can be asked: PostgreSQL through ADBC, MySQL through DuckDB's reader, SQLite and
DuckDB files.

What belongs here: finding a database, connections that can only read, and what a driver's error
means. What does not: which times are asked for, and the meaning of columns (`fleets.sql_store`).

The query of a fleet file is written in the database's own SQL. Its :since and :until are replaced
by literals of times that this program computed, so that no driver has to guess their type, and no
text of a user gets into a query in this way.
"""

import os
import re
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import polars as pl

from tsfm_pipeline.fleets.kinds import PLACEHOLDER, SCHEMES, SqlFleet
from tsfm_pipeline.fleets.source import FleetDataError

DAY_S = 86_400
EXTRA = "pip install 'tsfm-pipeline[sql]'"
_PASSING_STATES = ("08", "53", "57P")
"""Classes of SQLSTATE after which another attempt may succeed: connection, resources, shutdown."""
_PASSING_WORDS = ("starting up", "shutting down", "too many", "remaining connection slots")
_STATEMENT_TIMEOUT = "57014"
MYSQL_READER = "python -c 'import duckdb; duckdb.sql(\"INSTALL mysql\")'"
_MYSQL_PASSING = ("Failed to connect", "Lost connection", "server has gone away")
_MYSQL_REFUSALS = ("Access denied", "Unknown database")
_SQLITE_PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_PASSWORD_OPTION = re.compile(r"password=([^&]*)")


class PassingFault(Exception):
    """Raised for an error after which another attempt may succeed."""


class QueryError(Exception):
    """Raised for an error that a person must mend."""


class Database(ABC):
    """A database that is only read. name: what a person knows it by, without user and password."""

    name: str
    compares_text = False
    """Whether times may be text, which is compared letter by letter. Such a database is asked for
    whole UTC days by their dates, with which the times of the day begin in every form of ISO 8601.
    """

    def now(self) -> float:
        """Return the time of the database's clock, in seconds since 1970 UTC."""
        return time.time()

    def rows(self, query: str, since: int, until: int) -> pl.DataFrame:
        """Return the rows of a query for times from `since` on and before `until` (seconds).
        Raises `PassingFault` or `QueryError`.
        """
        if self.compares_text:
            since, until = since // DAY_S * DAY_S, -(-until // DAY_S) * DAY_S
        times = {"since": self._literal(since), "until": self._literal(until)}
        return self._ask(PLACEHOLDER.sub(lambda match: times[match.group(1)], query))

    @abstractmethod
    def _ask(self, sql: str) -> pl.DataFrame: ...

    def _literal(self, seconds: int) -> str:
        return f"TIMESTAMPTZ '{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}+00'"


class Postgres(Database):
    """A PostgreSQL database. Each question is a connection and a read-only transaction of its own,
    in UTC.
    """

    def __init__(self, url: str, password: str | None, timeout: float) -> None:
        """Prepare the connection. Raises `QueryError` where the driver is not installed."""
        try:
            import adbc_driver_postgresql.dbapi as driver
        except ImportError as error:
            raise QueryError(f"its driver is not installed; run: {EXTRA}") from error
        self._driver: Any = driver
        self._timeout_ms = round(timeout * 1000)
        rest = url.partition("://")[2]
        user_info, _, place = rest.rpartition("@")
        user, _, written = user_info.partition(":")
        if password is not None:
            written = quote(password, safe="")
        account = f"{user}:{written}@" if written else f"{user}@" if user else ""
        where, _, options = place.partition("?")
        if "connect_timeout" not in options:
            options += f"{'&' if options else ''}connect_timeout={max(2, round(timeout))}"
        self.name = f"postgresql://{where}"
        self._url = f"postgresql://{account}{where}?{options}"
        hidden = [written, *_PASSWORD_OPTION.findall(options)]
        self._secrets = {word for text in hidden for word in (text, unquote(text)) if word}

    def now(self) -> float:
        """Return the server's time."""
        return float(self._ask("SELECT extract(epoch FROM now())::float8 AS now").item())

    def _ask(self, sql: str) -> pl.DataFrame:
        with (
            self._errors(),
            self._driver.connect(self._url) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SET TRANSACTION READ ONLY")
            cursor.execute("SET LOCAL TIME ZONE 'UTC'")
            cursor.execute(f"SET LOCAL statement_timeout = {self._timeout_ms}")
            cursor.execute(sql)
            table = cursor.fetch_arrow_table()
        return _of_arrow(table)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            text = " ".join(str(error).split())
            for secret in self._secrets:
                text = text.replace(secret, "***")
            state = error.sqlstate or ""
            if state == _STATEMENT_TIMEOUT:
                text += "; raise timeout_seconds, or give the table an index on its time"
            away = isinstance(error, self._driver.OperationalError) and "FATAL" not in text
            passing = away and state != _STATEMENT_TIMEOUT
            if (
                passing
                or state.startswith(_PASSING_STATES)
                or any(word in text for word in _PASSING_WORDS)
            ):
                raise PassingFault(text) from None
            raise QueryError(text) from None


class Mysql(Database):
    """A MySQL or MariaDB database, which DuckDB's reader asks for the rows of a query. The reader
    refuses statements that return no rows, and its sessions are in UTC.
    """

    def __init__(self, url: str, password: str | None) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port or 3306
        except ValueError as error:
            raise QueryError(
                "its address cannot be read; allowed: mysql://user@host:3306/name"
            ) from error
        secret = password if password is not None else unquote(parts.password or "")
        self._login = {
            "HOST": parts.hostname or "localhost",
            "PORT": str(port),
            "USER": unquote(parts.username or ""),
            "PASSWORD": secret,
            "DATABASE": parts.path.strip("/"),
        }
        self.name = f"mysql://{parts.hostname}:{port}/{self._login['DATABASE']}"

    def now(self) -> float:
        """Return the server's time."""
        return float(self._ask("SELECT UNIX_TIMESTAMP() AS now").item())

    def _ask(self, sql: str) -> pl.DataFrame:
        import duckdb

        login = ", ".join(f"{key} {_quoted(value)}" for key, value in self._login.items() if value)
        try:
            with duckdb.connect() as connection:
                connection.execute("SET autoinstall_known_extensions = false")
                try:
                    connection.execute("LOAD mysql")
                except duckdb.IOException as error:
                    raise QueryError(f"its reader is not installed; run: {MYSQL_READER}") from error
                connection.execute("SET mysql_session_time_zone = '+00:00'")
                connection.execute("SET mysql_tinyint1_as_boolean = false")
                connection.execute(f"CREATE SECRET login (TYPE mysql, {login})")
                connection.execute("ATTACH '' AS source (TYPE mysql, SECRET login, READ_ONLY)")
                question = "SELECT * FROM mysql_query('source', ?)"
                table = connection.execute(question, [sql]).to_arrow_table()
        except duckdb.Error as error:
            text = str(error).partition("LINE 1: SELECT * FROM mysql_query")[0]
            if self._login["PASSWORD"]:
                text = text.replace(self._login["PASSWORD"], "***")
            refused = any(word in text for word in _MYSQL_REFUSALS)
            away = any(word in text for word in _MYSQL_PASSING) and not refused
            raise (PassingFault if away else QueryError)(text) from None
        return _of_arrow(table)

    def _literal(self, seconds: int) -> str:
        return f"TIMESTAMP'{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}'"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class SqliteFile(Database):
    """An SQLite file. Its times are text, or whatever the query makes of them."""

    compares_text = True

    def __init__(self, path: Path, timeout: float) -> None:
        self.name = str(path)
        self._uri = f"file:{quote(str(path.absolute()))}?mode=ro"
        self._timeout = timeout

    def _ask(self, sql: str) -> pl.DataFrame:
        try:
            with closing(sqlite3.connect(self._uri, uri=True, timeout=self._timeout)) as connection:
                cursor = connection.execute(sql)
                names = [column[0] for column in cursor.description]
                columns = list(zip(*cursor.fetchall(), strict=True)) or [() for _ in names]
        except sqlite3.Error as error:
            passing = getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_PASSING
            raise (PassingFault if passing else QueryError)(str(error)) from error
        _require_different(names)
        return pl.DataFrame([_series(*column) for column in zip(names, columns, strict=True)])

    def _literal(self, seconds: int) -> str:
        return f"'{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}'"


class DuckdbFile(Database):
    """A DuckDB file; only one process may have it open while another one writes it."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def _ask(self, sql: str) -> pl.DataFrame:
        import duckdb

        try:
            with duckdb.connect(str(self._path), read_only=True) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                table = connection.execute(sql).to_arrow_table()
        except duckdb.Error as error:
            text = str(error)
            raise (PassingFault if "Could not set lock" in text else QueryError)(text) from error
        return _of_arrow(table)


def find_database(spec: SqlFleet, fleets_dir: Path) -> Database:
    """Return the database of a fleet file, unopened. Raises `FleetDataError` where a variable is
    not set, a file is missing or of no known kind, or a driver is not installed.
    """
    where = f"fleet {spec.name!r}"
    if spec.url_from_env is None:
        address = str(spec.database)
        password = None if spec.password_env is None else _variable(spec, "password_env")
    else:
        address, password = _variable(spec, "url_from_env"), None
    scheme = address.partition("://")[0].partition("+")[0] if "://" in address else None
    if scheme in SCHEMES:
        try:
            if scheme.startswith("postgres"):
                return Postgres(address, password, spec.timeout_seconds)
            return Mysql(address, password)
        except QueryError as error:
            raise FleetDataError(f"{where}, {scheme}: {error}") from error
    if scheme is not None:
        raise FleetDataError(
            f"{where}, field 'url_from_env': environment variable {spec.url_from_env} holds an "
            f"address of {scheme!r}; allowed: postgresql://, mysql://, or the file of an SQLite "
            "or DuckDB database"
        )
    path = spec.expanded_database(fleets_dir) if spec.url_from_env is None else Path(address)
    try:
        with path.open("rb") as file:
            opening = file.read(16)
    except OSError as error:
        raise FleetDataError(f"{where}: no database at {path}: {error.strerror}") from error
    if opening == b"SQLite format 3\0":
        return SqliteFile(path, spec.timeout_seconds)
    if opening[8:12] == b"DUCK":
        return DuckdbFile(path)
    raise FleetDataError(f"{where}: {path} is neither an SQLite nor a DuckDB database")


def _variable(spec: SqlFleet, field: str) -> str:
    variable = getattr(spec, field)
    value = os.environ.get(variable, "").strip()
    if not value:
        raise FleetDataError(
            f"fleet {spec.name!r}, field {field!r}: environment variable {variable} is not set, "
            "or empty"
        )
    return value


def server_name(spec: SqlFleet) -> str:
    """Return what a person knows a database by, without looking for it."""
    if spec.database is None:
        return f"the database of {spec.url_from_env}"
    parts = urlsplit(spec.database)
    place = parts.netloc.rpartition("@")[2] + parts.path
    return f"{parts.scheme}://{place}" if "://" in spec.database else spec.database


def _require_different(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise QueryError(
            f"column {', '.join(map(repr, twice))} occurs twice in the result; allowed: different "
            "names, as with AS"
        )


def _of_arrow(table: Any) -> pl.DataFrame:
    """Return an Arrow table as a frame; numbers of arbitrary precision become Float64."""
    import pyarrow as pa

    _require_different(table.column_names)
    columns = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        numeric = (field.metadata or {}).get(b"ADBC:postgresql:typname") == b"numeric"
        if isinstance(column.type, pa.BaseExtensionType):
            column = column.cast(column.type.storage_type)
        if numeric:
            column = column.cast(pa.float64())
        if not _is_plain(column.type):
            raise QueryError(
                f"column {field.name!r} is of type {field.type}; allowed: text, numbers, "
                "booleans and times. Convert it in the query, or leave it out"
            )
        columns[field.name] = pl.Series(field.name, pl.from_arrow(column))
    return pl.DataFrame(columns)


def _is_plain(dtype: Any) -> bool:
    import pyarrow.types as types

    return any(
        test(dtype)
        for test in (
            *(types.is_integer, types.is_floating, types.is_decimal, types.is_boolean),
            *(types.is_string, types.is_large_string, types.is_string_view, types.is_null),
            *(types.is_timestamp, types.is_date),
        )
    )


def _series(name: str, values: tuple[Any, ...]) -> pl.Series:
    """Return a column of SQLite, whose values may be of several types; numbers beside text are
    text.
    """
    kinds = {type(value) for value in values} - {type(None)}
    if bytes in kinds:
        raise QueryError(f"column {name!r} holds bytes; allowed: text and numbers")
    if not kinds <= {int, float} and kinds != {str}:
        values = tuple(None if value is None else str(value) for value in values)
    dtype = pl.Float64 if kinds == {int, float} else None
    return pl.Series(name, values, dtype=dtype, strict=False)
