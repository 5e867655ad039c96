"""Triggers: each turns one protocol into invocations. They do not know each other, nor Wasm."""
