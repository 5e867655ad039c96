"""Runs WebAssembly components: loader, Canonical ABI, fibers, pool, compiled-code cache.

Generic: it knows the component model, not WASI. Host interfaces are declared above it, see
`edge.engine.host`.
"""
