;; Declares a memory of 1 GiB, more than any limit here allows.
(module
  (memory (export "memory") 16384)
  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param i32 i32)))
