;; Never leaves its start function.
(module
  (func $start (loop $again (br $again)))
  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param i32 i32))
  (start $start))
