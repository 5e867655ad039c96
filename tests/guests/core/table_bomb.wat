;; Grows a table until it cannot grow any more, then traps.
(module
  (table 0 funcref)
  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param i32 i32)
    (loop $again
      (br_if $again
        (i32.ne (table.grow (ref.null func) (i32.const 65536)) (i32.const -1))))
    unreachable))
