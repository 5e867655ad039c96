"""What an application is: `spin.toml`, routes, templates, allowed hosts, limits.

Pure: no I/O, no asyncio, no Wasm. Everything here is a function of its arguments, and what it
returns is never changed afterwards, so the data plane may share it without a lock.
"""
