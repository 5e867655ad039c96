;; Traps in its start function, before any export can be called.
(module
  (func $start unreachable)
  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param i32 i32))
  (start $start))
