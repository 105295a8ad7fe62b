#!/usr/bin/env python3
"""Runs a query of this folder on a packed store, with the engines of `dev/tools.sh engines` or any others in reach.

    .tools/engines/bin/python dev/sql/query.py duckdb ./packed "from tokens_by_day"
    .tools/engines/bin/python dev/sql/query.py clickhouse ./packed "select * from tokens_by_day"

STORE is a folder. duckdb.sql and clickhouse.sql say which queries there are.
"""
import argparse
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def duckdb(store):
    """A connection that has the queries of duckdb.sql."""
    import duckdb
    connection = duckdb.connect()
    connection.execute("set variable store = ?", [str(store)])
    connection.execute((HERE / "duckdb.sql").read_text())
    return connection


def clickhouse(store):
    """A session that has the queries of clickhouse.sql."""
    import chdb.session
    session = chdb.session.Session()
    sql = (HERE / "clickhouse.sql").read_text().replace("file('packed/", f"file('{store}/")
    for statement in re.split(r";\n", sql):
        if statement.strip():
            session.query(statement)
    return session


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["duckdb", "clickhouse"])
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("query", metavar="QUERY")
    args = parser.parse_args()
    if not (args.store / "spans").is_dir():
        raise SystemExit(f"{args.store} is no packed store with spans: it has no folder spans")
    if args.engine == "duckdb":
        connection = duckdb(args.store)
        connection.sql(args.query).show(max_rows=10_000)
    else:
        sys.stdout.buffer.write(clickhouse(args.store).query(args.query, "PrettyCompact").bytes())


if __name__ == "__main__":
    main()
