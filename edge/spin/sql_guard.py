"""What a guest's statement may do: decided by SQLite's authorizer, by limits, while it runs.

A file belongs to one application, and its only connection to all guests of it: what would stay
with the connection (temporary tables, settings), reach another file or hold the others up is
refused. Knows neither jobs nor results.
"""

from __future__ import annotations

import re
import sqlite3

from edge.spin.sqlite_thread import Kind

__all__ = ["COLUMNS", "QUERIES", "first_word", "kind_of", "limit", "permit"]

COLUMNS = 512  # of a table or a result, at most

_OWN = {"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"}
QUERIES = {"SELECT", "VALUES", "EXPLAIN"}

# The first word of a statement, after what SQLite reads over.
_FIRST = re.compile(
    r"(?:[\s;\ufeff]+|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$)){0,100}([A-Za-z]*)", re.DOTALL
)

_ALLOWED = {
    sqlite3.SQLITE_ALTER_TABLE,
    sqlite3.SQLITE_ANALYZE,
    sqlite3.SQLITE_CREATE_INDEX,
    sqlite3.SQLITE_CREATE_TABLE,
    sqlite3.SQLITE_CREATE_TRIGGER,
    sqlite3.SQLITE_CREATE_VIEW,
    sqlite3.SQLITE_DELETE,
    sqlite3.SQLITE_DROP_INDEX,
    sqlite3.SQLITE_DROP_TABLE,
    sqlite3.SQLITE_DROP_TRIGGER,
    sqlite3.SQLITE_DROP_VIEW,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_RECURSIVE,
    sqlite3.SQLITE_REINDEX,
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_UPDATE,
}
_TRANSACTION = {sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT}
_MODULE = {sqlite3.SQLITE_CREATE_VTABLE, sqlite3.SQLITE_DROP_VTABLE}
_MODULES = {"fts5", "rtree"}

# Tables that SQLite makes up where it was built so: raw pages, other statements.
_TABLES_REFUSED = {"sqlite_dbpage", "sqlite_stmt", "bytecode", "tables_used", "sqlite_dbdata"}
_OF_TABLES = {
    sqlite3.SQLITE_READ, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE,
}  # fmt: skip

_FUNCTIONS_REFUSED = {"load_extension", "fts3_tokenizer"}

# Asked, they only tell.
_PRAGMAS_READ = {
    "application_id", "collation_list", "compile_options", "data_version", "encoding",
    "foreign_key_check", "foreign_key_list", "foreign_keys", "freelist_count", "function_list",
    "index_info", "index_list", "index_xinfo", "integrity_check", "max_page_count", "page_count",
    "page_size", "pragma_list", "quick_check", "recursive_triggers", "schema_version",
    "table_info", "table_list", "table_xinfo", "user_version",
}  # fmt: skip
# Their argument is the name of what they tell about.
_PRAGMAS_ABOUT = {
    "foreign_key_check", "foreign_key_list", "index_info", "index_list", "index_xinfo",
    "integrity_check", "quick_check", "table_info", "table_list", "table_xinfo",
}  # fmt: skip
_PRAGMAS_WRITE = {"application_id", "user_version"}
# What applications set for speed: decided here for all of them, so asking for it does nothing.
_PRAGMAS_IGNORED = {
    "auto_vacuum", "busy_timeout", "cache_size", "journal_mode", "journal_size_limit",
    "locking_mode", "mmap_size", "optimize", "synchronous", "temp_store", "wal_autocheckpoint",
    "wal_checkpoint",
}  # fmt: skip
_ON = {"1", "on", "true", "yes"}

_LIMITS = {
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
    sqlite3.SQLITE_LIMIT_COLUMN: COLUMNS,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 50,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 32_766,
    # Matching takes the product of both lengths, and nothing interrupts it.
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 256,
}


def kind_of(statement: str) -> Kind:
    """How it may be run. A wrong guess is harmless: the authorizer has the last word."""
    word = first_word(statement)
    if word in _OWN:
        return Kind.OWN
    return Kind.READ if word in QUERIES else Kind.WRITE


def first_word(statement: str) -> str:
    """In upper case; "" where there is none, or too much before it."""
    match = _FIRST.match(statement)
    return match[1].upper() if match else ""


def limit(connection: sqlite3.Connection, max_statement: int, max_value: int) -> bool:
    """Sets the limits of a connection; True: it also refuses to touch what lies behind SQL."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max_value)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, max_statement)
    for category, value in _LIMITS.items():
        connection.setlimit(category, value)
    setconfig = getattr(connection, "setconfig", None)  # from Python 3.12 on
    if setconfig is None:
        return False
    setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)  # type: ignore[attr-defined,unused-ignore]
    return True


def permit(
    action: int, first: str | None, second: str | None, schema: str | None,
    *, own: bool, defensive: bool,
) -> int:  # fmt: skip
    """The authorizer's answer. `own`: the statement may begin and end transactions.

    Virtual tables keep what they need in ordinary ones; only a `defensive` connection protects
    those from statements, and the code that reads them from what it does not expect.
    """
    if schema == "temp" or (action in _OF_TABLES and (first or "").lower() in _TABLES_REFUSED):
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION:
        refused = (second or "").lower() in _FUNCTIONS_REFUSED
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK
    if action in _ALLOWED:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_PRAGMA:
        return _pragma((first or "").lower(), second)
    allowed = (action in _TRANSACTION and own) or (
        action in _MODULE and defensive and (second or "").lower() in _MODULES
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _pragma(name: str, argument: str | None) -> int:
    if argument is None:
        known = name in _PRAGMAS_READ
    elif name == "foreign_keys":  # they are on, and stay so
        return sqlite3.SQLITE_IGNORE if argument.lower() in _ON else sqlite3.SQLITE_DENY
    else:
        known = name in _PRAGMAS_ABOUT or name in _PRAGMAS_WRITE
    if known:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_IGNORE if name in _PRAGMAS_IGNORED else sqlite3.SQLITE_DENY
