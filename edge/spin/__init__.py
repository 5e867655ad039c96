"""The host interfaces of the Spin platform, and what stands behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.engine.host import Interface


def interfaces() -> tuple[Interface, ...]:
    """Every interface this host has, one a line."""
    # Not at the top: whoever needs only the back ends would load every interface with them.
    from edge.spin import (
        key_value,
        llm,
        mqtt,
        mysql,
        postgres,
        rdbms,
        redis,
        sqlite,
        variables,
        wasi_config,
        wasi_keyvalue,
    )

    return (
        key_value.KEY_VALUE,
        key_value.UNVERSIONED,
        variables.VARIABLES,
        variables.CONFIG,
        sqlite.SQLITE,
        sqlite.SQLITE_3,
        sqlite.UNVERSIONED,
        wasi_keyvalue.STORE,
        wasi_keyvalue.ATOMICS,
        wasi_keyvalue.BATCH,
        wasi_config.STORE,
        mqtt.MQTT,
        redis.REDIS,
        redis.REDIS_TYPES,
        redis.UNVERSIONED,
        rdbms.RDBMS_TYPES,
        rdbms.UNVERSIONED,
        postgres.POSTGRES,
        postgres.POSTGRES_3,
        postgres.POSTGRES_4,
        postgres.UNVERSIONED,
        mysql.MYSQL,
        mysql.UNVERSIONED,
        llm.LLM,
        llm.UNVERSIONED,
    )
