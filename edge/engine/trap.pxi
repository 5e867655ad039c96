# What ended a call: Wasmtime's errors and traps as text.

cdef enum:
    MAX_MESSAGE = 4000         # characters
    MAX_FRAMES = 8
    MAX_NAME = 100             # characters of a function's name, which the guest chose

_TRAPS = (                     # in the order of wasmtime_trap_code_t
    "call stack exhausted", "out of bounds memory access", "misaligned memory access",
    "undefined element: out of bounds table access", "uninitialized element", "indirect call type mismatch",
    "integer overflow", "integer divide by zero", "invalid conversion to integer",
    "wasm `unreachable` instruction executed", "interrupt",
)


cdef void discard(void* error, void* trap) noexcept:
    if error != NULL:
        capi.wasmtime_error_delete(error)
    if trap != NULL:
        capi.wasm_trap_delete(trap)


cdef str take_error(void* error):
    """The message of an error that happened outside guests, which is freed."""
    cdef wasm_name_t name
    capi.wasmtime_error_message(error, &name)
    capi.wasmtime_error_delete(error)
    text = name.data[:name.size].decode("utf-8", "replace")
    capi.wasm_byte_vec_delete(&name)
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…"


cdef str take_ending(void* error, void* trap):
    """What ended a guest's call, and where in the guest; both are freed.

    Wasmtime's own message is not asked for when guest functions are in it: it demangles their names, and a name
    of 300 bytes can stand for one of gigabytes.
    """
    cdef wasm_ptr_vec_t frames
    cdef uint8_t code = 255
    if error != NULL:
        capi.wasmtime_error_wasm_trace(error, &frames)
    else:
        capi.wasm_trap_trace(trap, &frames)
        capi.wasmtime_trap_code(trap, &code)
    names = [frame_name(frames.data[index]) for index in range(min(frames.size, <size_t>MAX_FRAMES))]
    capi.wasm_frame_vec_delete(&frames)
    if error != NULL and not names:
        return take_error(error)
    discard(error, trap)
    ending = _TRAPS[code] if code < len(_TRAPS) else "stopped by the engine"
    return f"{ending} in {', '.join(names)}" if names else ending


cdef str frame_name(void* frame):
    cdef const wasm_name_t* name = capi.wasmtime_frame_func_name(frame)
    if name == NULL:
        return f"function {capi.wasm_frame_func_index(frame)}"
    text = name.data[:min(name.size, <size_t>(4 * MAX_NAME))].decode("utf-8", "replace")[:MAX_NAME]
    return text if text.isprintable() else repr(text)
