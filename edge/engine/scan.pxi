# What the code of a core module can change beside memories and locals.
#
# Source: "Binary Format" of the WebAssembly specification 3.0. Wasmtime validates the module before anything here
# is relied upon, so only the lengths of immediates matter; what is not known here ends the scan.

cdef struct scan_t:
    const uint8_t* at
    const uint8_t* end
    bint failed


cdef uint32_t scan_byte(scan_t* s) noexcept nogil:
    if s.at >= s.end:
        s.failed = True
        return 0
    s.at += 1
    return (s.at - 1)[0]


cdef void scan_skip(scan_t* s, uint64_t count) noexcept nogil:
    if count > <uint64_t>(s.end - s.at):
        s.failed = True
    else:
        s.at += count


cdef uint64_t scan_number(scan_t* s) noexcept nogil:
    """Any LEB128; of a signed one only the end is meant."""
    cdef uint64_t value = 0
    cdef uint32_t byte
    cdef int shift
    for shift in range(0, 70, 7):
        byte = scan_byte(s)
        if shift < 64:
            value |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            return value
    s.failed = True
    return 0


cdef void scan_address(scan_t* s) noexcept nogil:
    """Alignment, perhaps a memory, offset."""
    if scan_number(s) & 0x40:
        scan_number(s)
    scan_number(s)


cdef void scan_value_type(scan_t* s) noexcept nogil:
    cdef uint32_t type = scan_byte(s)
    if not (0x7B <= type <= 0x7F or type == 0x70 or type == 0x6F):
        s.failed = True


cdef void scan_numbers(scan_t* s, int count) noexcept nogil:
    cdef int index
    for index in range(count):
        scan_number(s)


cdef void scan_bulk(scan_t* s) noexcept nogil:
    """After 0xFC. What drops a segment or writes to a table is refused."""
    cdef uint64_t code = scan_number(s)
    if code == 10:                          # memory.copy
        scan_numbers(s, 2)
    elif code == 11 or code == 16:          # memory.fill, table.size
        scan_number(s)
    elif code > 7:                          # up to it, conversions that saturate
        s.failed = True


cdef void scan_vector(scan_t* s) noexcept nogil:
    """After 0xFD."""
    cdef uint64_t code = scan_number(s)
    if code <= 11 or code == 92 or code == 93:
        scan_address(s)
    elif code <= 13:                        # v128.const, i8x16.shuffle
        scan_skip(s, 16)
    elif 21 <= code <= 34:                  # a lane
        scan_skip(s, 1)
    elif 84 <= code <= 91:
        scan_address(s)
        scan_skip(s, 1)
    elif code > 0x113:                      # the last of the relaxed ones
        s.failed = True


cdef void scan_instruction(scan_t* s, uint8_t* globals, uint64_t count) noexcept nogil:
    cdef uint32_t code = scan_byte(s)
    cdef uint64_t number
    if code == 0x20 or code == 0x21 or code == 0x22 or code == 0x23:    # locals, global.get
        scan_number(s)
    elif code == 0x41 or code == 0x42:      # i32.const, i64.const
        scan_number(s)
    elif 0x45 <= code <= 0xC4:
        pass
    elif 0x28 <= code <= 0x3E:
        scan_address(s)
    elif code == 0x24:                      # global.set
        number = scan_number(s)
        if number < count:
            globals[number] = 1
        else:
            s.failed = True
    elif code == 0x02 or code == 0x03 or code == 0x04:
        if s.at < s.end and (s.at[0] == 0x63 or s.at[0] == 0x64):       # a reference with a type of its own
            s.failed = True
        scan_number(s)
    elif code <= 0x01 or code == 0x05 or code == 0x0B or code == 0x0F or code == 0x1A or code == 0x1B or code == 0xD1:
        pass
    elif code == 0x0C or code == 0x0D or code == 0x10 or code == 0x12 or code == 0x25 or code == 0xD2:
        scan_number(s)
    elif code == 0x11 or code == 0x13:
        scan_numbers(s, 2)
    elif code == 0x0E:                      # br_table
        number = scan_number(s)
        while number and not s.failed:
            scan_number(s)
            number -= 1
        scan_number(s)
    elif code == 0x1C:                      # select with types
        number = scan_number(s)
        while number and not s.failed:
            scan_value_type(s)
            number -= 1
    elif code == 0x3F or code == 0x40 or code == 0xD0:
        scan_number(s)
    elif code == 0x43:
        scan_skip(s, 4)
    elif code == 0x44:
        scan_skip(s, 8)
    elif code == 0xFC:
        scan_bulk(s)
    elif code == 0xFD:
        scan_vector(s)
    else:
        s.failed = True


cdef void scan_body(scan_t* s, uint8_t* globals, uint64_t count) noexcept nogil:
    cdef uint64_t groups = scan_number(s)
    while groups and not s.failed:
        scan_number(s)
        scan_value_type(s)
        groups -= 1
    while s.at < s.end and not s.failed:
        scan_instruction(s, globals, count)
    if (s.at - 1)[0] != 0x0B:
        s.failed = True


def globals_set(const uint8_t[::1] code, uint64_t count) -> list | None:
    """The numbers of the globals that a module's code section sets, of so many.

    None: it can also change a table or drop a segment, or has instructions that are not known here.
    """
    cdef scan_t s
    cdef scan_t body
    cdef uint64_t bodies
    cdef uint64_t size
    cdef bytearray marks = bytearray(count + 1)
    cdef uint8_t* marked = <uint8_t*><char*>marks
    if not code.shape[0]:
        return []
    s.at, s.end, s.failed = &code[0], &code[0] + code.shape[0], False
    with nogil:
        bodies = scan_number(&s)
        while bodies and not s.failed:
            size = scan_number(&s)
            body.at, body.failed = s.at, False
            scan_skip(&s, size)
            if not s.failed:
                body.end = s.at
                scan_body(&body, marked, count)
                s.failed = body.failed
            bodies -= 1
    if s.failed or s.at != s.end:
        return None
    return [number for number in range(count) if marks[number]]
