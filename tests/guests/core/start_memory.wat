;; Takes all the memory there is in its start function.
(module
  (memory (export "memory") 1)
  (func $start
    (loop $again
      (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    unreachable)
  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param i32 i32))
  (start $start))
