"""Where applications come from: directories, single Wasm files, OCI registries."""
