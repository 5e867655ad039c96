"""A small shop on Spin's Python SDK: orders in SQLite, counts in key-value, prices over HTTP, its
settings as variables.
"""

import json
from urllib.parse import urlsplit

from spin_sdk import http, key_value, sqlite, variables
from spin_sdk.http import IncomingHandler as Base
from spin_sdk.http import Request, Response
from spin_sdk.sqlite import Value_Blob, Value_Integer, Value_Real, Value_Text
from spin_sdk.wit.imports.sqlite import Value_Null
from spin_sdk.wit.types import Err

TABLE = """CREATE TABLE IF NOT EXISTS orders
    (id INTEGER PRIMARY KEY, item TEXT NOT NULL, number INTEGER NOT NULL, price REAL NOT NULL)"""


class IncomingHandler(Base):
    def handle_request(self, request: Request) -> Response:
        path = urlsplit(request.uri).path
        if path == "/orders" and request.method == "POST":
            return reply(order(json.loads(request.body)), 201)
        if path == "/orders":
            return reply(orders())
        if path == "/counts":
            return reply(counts())
        if path == "/types":
            return reply(types())
        if path == "/limits":
            return reply({name: refused(attempt) for name, attempt in ATTEMPTS.items()})
        return reply({"shop": variables.get("shop")})


def order(wanted: dict) -> dict:
    item, number = wanted["item"], wanted["number"]
    answer = http.send(Request("GET", f"{variables.get('prices')}/{item}", {}, None))
    if answer.status != 200:
        raise LookupError(item)
    price = json.loads(answer.body)["price"]
    with sqlite.open_default() as database:
        database.execute(TABLE, [])
        values = [Value_Text(item), Value_Integer(number), Value_Real(price)]
        database.execute("INSERT INTO orders (item, number, price) VALUES (?, ?, ?)", values)
    with key_value.open_default() as store:
        before = store.get(item)
        store.set(item, str(int(before or 0) + number).encode())
    return {"item": item, "number": number, "total": number * price}


def orders() -> list:
    with sqlite.open_default() as database:
        database.execute(TABLE, [])
        result = database.execute("SELECT id, item, number, price FROM orders ORDER BY id", [])
    rows = ([value.value for value in row.values] for row in result.rows)
    return [dict(zip(result.columns, row, strict=True)) for row in rows]


def counts() -> dict:
    with key_value.open_default() as store:
        found = {key: int(store.get(key)) for key in store.get_keys()}
        for key in found:
            if found[key] < 0:
                store.delete(key)
        return {"counts": found, "nothing": store.get("nothing"), "there": store.exists("tea")}


def types() -> list:
    given = [
        Value_Integer(-(2**63)), Value_Real(0.1), Value_Text("zwölf\0€"), Value_Blob(b"\x00\xff"),
        Value_Null(),
    ]  # fmt: skip
    with sqlite.open_default() as database:
        result = database.execute("SELECT ?, ?, ?, ?, ?", given)
    return [value == back for value, back in zip(given, result.rows[0].values, strict=True)]


def refused(attempt) -> str:
    try:
        attempt()
    except Err as error:
        return type(error.value).__name__
    return "granted"


ATTEMPTS = {
    "store": lambda: key_value.open("other"),
    "database": lambda: sqlite.open("other"),
    "variable": lambda: variables.get("missing"),
    "sql": lambda: sqlite.open_default().execute("SELEKT 1", []),
    "attach": lambda: sqlite.open_default().execute("ATTACH '/etc/passwd' AS x", []),
    "host": lambda: http.send(Request("GET", "http://192.0.2.1/", {}, None)),
}


def reply(value: object, status: int = 200) -> Response:
    return Response(status, {"content-type": "application/json"}, json.dumps(value).encode())
