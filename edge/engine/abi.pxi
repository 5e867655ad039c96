# The Canonical ABI: how component values lie in a guest's memory and in core values.
#
# Source: the component model's CanonicalABI.md (load, store, lift_flat, lower_flat). One node class per
# kind of type; a tree of nodes is built once per function when a component is loaded.
#
# Who checks bounds: `load` and `store` may use [at, at + size) without asking, the caller has checked it.
# Pointers found in there (strings, lists) are checked here before use.

cdef enum:
    MAX_FLAT = 16
    VALUE_FUEL = 128           # what a Python object costs: its bytes, and the time to make it
    LIFT_FUEL = 64 << 20       # what one call may take out of a guest, in bytes: lists that overlap, or that hold
                               # large objects in few bytes, must not fill the host's memory or hold up its loop
    UTF8 = 0
    UTF16 = 1
    LATIN1_UTF16 = 2
    UTF16_TAG = 1 << 31

cdef struct cx_t:              # one side of a call: a component instance, with the options of a lift or lower
    void* context
    PyObject* instance
    PyObject* table
    uint8_t* base
    uint64_t size
    int memory                 # slots of the instance; -1: none
    int realloc
    int encoding
    int64_t fuel


cdef int check_range(cx_t* cx, uint64_t at, uint64_t length, uint32_t align) except -1:
    if at + length > cx.size:
        raise Trap(f"pointer out of bounds: {at:#x} and {length} bytes in a memory of {cx.size}")
    if at & (align - 1):
        raise Trap(f"pointer not aligned: {at:#x} is no multiple of {align}")
    return 0


cdef int burn(cx_t* cx, uint64_t amount) except -1:
    if amount > <uint64_t>cx.fuel:
        raise Trap(f"host call too large: more than {LIFT_FUEL >> 20} MiB of arguments")
    cx.fuel -= amount
    return 0


cdef class Node:
    cdef readonly uint32_t size
    cdef readonly uint32_t align
    cdef readonly int width    # core values when flat
    cdef readonly uint64_t cost  # fuel for the objects of one value; what it points to is burnt when fetched

    def __cinit__(self):
        self.cost = VALUE_FUEL

    cdef object load(self, cx_t* cx, uint32_t at):
        raise NotImplementedError

    cdef int store(self, cx_t* cx, object value, uint32_t at) except -1:
        raise NotImplementedError

    cdef object lift(self, cx_t* cx, wasmtime_val_raw_t* flat):
        raise NotImplementedError

    cdef int lower(self, cx_t* cx, object value, wasmtime_val_raw_t* flat) except -1:
        raise NotImplementedError


cdef inline uint32_t get32(cx_t* cx, uint32_t at) noexcept:
    cdef uint32_t value
    memcpy(&value, cx.base + at, 4)
    return value


cdef inline void put32(cx_t* cx, uint32_t at, uint32_t value) noexcept:
    memcpy(cx.base + at, &value, 4)


cdef inline uint32_t aligned(uint32_t offset, uint32_t align) noexcept:
    return (offset + align - 1) & ~(align - 1)


cdef inline object integral(object value):
    """Cython would truncate a float."""
    return value if PyLong_Check(value) else PyNumber_Index(value)


cdef inline int64_t as_int(object value, int64_t low, int64_t high) except? -1:
    cdef int64_t number = integral(value)
    if number < low or number > high:
        raise OverflowError(f"{value} is not between {low} and {high}")
    return number


cdef class Integer(Node):
    cdef int64_t low
    cdef int64_t high
    cdef bint signed

    def __init__(self, uint32_t size, bint signed):
        self.size = self.align = size
        self.width = 1
        self.signed = signed
        if size < 8:
            self.low = -(<int64_t>1 << (8 * size - 1)) if signed else 0
            self.high = (<int64_t>1 << (8 * size - signed)) - 1

    cdef object make(self, uint64_t bits):
        if self.size == 8:
            return <int64_t>bits if self.signed else bits
        if self.size == 4:
            return <int32_t>bits if self.signed else <uint32_t>bits
        if self.size == 2:
            return <int16_t>bits if self.signed else <uint16_t>bits
        return <int8_t>bits if self.signed else <uint8_t>bits

    cdef uint64_t bits(self, object value) except? 0xdead:
        if self.size == 8:
            value = integral(value)
            return <uint64_t><int64_t>value if self.signed else <uint64_t>value
        return <uint64_t>as_int(value, self.low, self.high)

    cdef object load(self, cx_t* cx, uint32_t at):
        cdef uint64_t bits = 0
        memcpy(&bits, cx.base + at, self.size)
        return self.make(bits)

    cdef int store(self, cx_t* cx, object value, uint32_t at) except -1:
        cdef uint64_t bits = self.bits(value)
        memcpy(cx.base + at, &bits, self.size)
        return 0

    cdef object lift(self, cx_t* cx, wasmtime_val_raw_t* flat):
        return self.make(flat.u64)

    cdef int lower(self, cx_t* cx, object value, wasmtime_val_raw_t* flat) except -1:
        cdef uint64_t bits = self.bits(value)
        flat.u64 = bits if self.size == 8 else <uint32_t>bits
        return 0


cdef class Bool(Node):
    def __init__(self):
        self.size = self.align = 1
        self.width = 1

    cdef object load(self, cx_t* cx, uint32_t at):
        return cx.base[at] != 0

    cdef int store(self, cx_t* cx, object value, uint32_t at) except -1:
        cx.base[at] = 1 if value else 0
        return 0

    cdef object lift(self, cx_t* cx, wasmtime_val_raw_t* flat):
        return flat.u32 != 0

    cdef int lower(self, cx_t* cx, object value, wasmtime_val_raw_t* flat) except -1:
        flat.u64 = 1 if value else 0
        return 0


cdef class Float(Node):
    def __init__(self, uint32_t size):
        self.size = self.align = size
        self.width = 1

    cdef object load(self, cx_t* cx, uint32_t at):
        cdef float single
        cdef double wide
        if self.size == 4:
            memcpy(&single, cx.base + at, 4)
            return <double>single
        memcpy(&wide, cx.base + at, 8)
        return wide

    cdef int store(self, cx_t* cx, object value, uint32_t at) except -1:
        cdef double wide = value
        cdef float single = <float>wide
        if self.size == 4:
            memcpy(cx.base + at, &single, 4)
        else:
            memcpy(cx.base + at, &wide, 8)
        return 0

    cdef object lift(self, cx_t* cx, wasmtime_val_raw_t* flat):
        return <double>flat.f32 if self.size == 4 else flat.f64

    cdef int lower(self, cx_t* cx, object value, wasmtime_val_raw_t* flat) except -1:
        cdef double wide = value
        flat.u64 = 0
        if self.size == 4:
            flat.f32 = <float>wide
        else:
            flat.f64 = wide
        return 0


cdef class Char(Node):
    def __init__(self):
        self.size = self.align = 4
        self.width = 1

    cdef object make(self, uint32_t code):
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise Trap(f"{code:#x} is not a character")
        return chr(code)

    cdef object load(self, cx_t* cx, uint32_t at):
        return self.make(get32(cx, at))

    cdef int store(self, cx_t* cx, object value, uint32_t at) except -1:
        put32(cx, at, scalar(value))
        return 0

    cdef object lift(self, cx_t* cx, wasmtime_val_raw_t* flat):
        return self.make(flat.u32)

    cdef int lower(self, cx_t* cx, object value, wasmtime_val_raw_t* flat) except -1:
        flat.u64 = scalar(value)
        return 0


cdef uint32_t scalar(object value) except? 0xdead:
    cdef uint32_t code = ord(value)
    if 0xD800 <= code <= 0xDFFF:
        raise ValueError("a surrogate is not a character")
    return code


cdef class Pointed(Node):
    """What is passed as pointer and length: strings and lists."""

    def __init__(self):
        self.size = 8
        self.align = 4
        self.width = 2

    cdef object fetch(self, cx_t* cx, uint32_t pointer, uint32_t length):
        raise NotImplementedError

    cdef int place(self, cx_t* cx, object value, uint32_t* pointer, uint32_t* length) except -1:
        raise NotImplementedError

    cdef object load(self, cx_t* cx, uint32_t at):
        return self.fetch(cx, get32(cx, at), get32(cx, at + 4))

    cdef int store(self, cx_t* cx, object value, uint32_t at) except -1:
        cdef uint32_t pointer = 0
        cdef uint32_t length = 0
        self.place(cx, value, &pointer, &length)
        put32(cx, at, pointer)
        put32(cx, at + 4, length)
        return 0

    cdef object lift(self, cx_t* cx, wasmtime_val_raw_t* flat):
        return self.fetch(cx, flat[0].u32, flat[1].u32)

    cdef int lower(self, cx_t* cx, object value, wasmtime_val_raw_t* flat) except -1:
        cdef uint32_t pointer = 0
        cdef uint32_t length = 0
        self.place(cx, value, &pointer, &length)
        flat[0].u64 = pointer
        flat[1].u64 = length
        return 0


cdef int place_bytes(cx_t* cx, const char* data, uint64_t count, uint32_t align, uint32_t* pointer) except -1:
    pointer[0] = allocate(cx, count, align)
    memcpy(cx.base + pointer[0], data, count)
    return 0


cdef class String(Pointed):
    cdef object fetch(self, cx_t* cx, uint32_t pointer, uint32_t length):
        cdef bint wide = cx.encoding == UTF16 or (cx.encoding == LATIN1_UTF16 and length & UTF16_TAG)
        cdef uint32_t units = length & ~<uint32_t>UTF16_TAG if cx.encoding == LATIN1_UTF16 else length
        cdef uint64_t count = <uint64_t>units * (2 if wide else 1)
        cdef int little = -1
        check_range(cx, pointer, count, 1 if cx.encoding == UTF8 else 2)
        # One character beyond the basic plane makes each of them take four bytes.
        burn(cx, count * (2 if wide else 4 if cx.encoding == UTF8 else 1))
        cdef const char* data = <const char*>cx.base + pointer
        try:
            if wide:
                return PyUnicode_DecodeUTF16(data, count, "strict", &little)
            if cx.encoding == UTF8:
                return PyUnicode_DecodeUTF8(data, count, "strict")
            return PyUnicode_DecodeLatin1(data, count, "strict")
        except UnicodeDecodeError as error:
            raise Trap(f"invalid string: {error.reason}") from None

    cdef int place(self, cx_t* cx, object value, uint32_t* pointer, uint32_t* length) except -1:
        cdef bytes data
        cdef Py_ssize_t count
        cdef const char* utf8
        if cx.encoding == UTF8:
            utf8 = PyUnicode_AsUTF8AndSize(value, &count)
            length[0] = <uint32_t>count
            return place_bytes(cx, utf8, count, 1, pointer)
        if cx.encoding == LATIN1_UTF16:
            try:
                data = (<str>value).encode("latin-1")
            except UnicodeEncodeError:
                data = (<str>value).encode("utf-16-le")
                length[0] = <uint32_t>(len(data) // 2) | <uint32_t>UTF16_TAG
            else:
                length[0] = <uint32_t>len(data)
        else:
            data = (<str>value).encode("utf-16-le")
            length[0] = <uint32_t>(len(data) // 2)
        return place_bytes(cx, PyBytes_AS_STRING(data), len(data), 2, pointer)


cdef class Bytes(Pointed):
    """list<u8>"""

    cdef object fetch(self, cx_t* cx, uint32_t pointer, uint32_t length):
        check_range(cx, pointer, length, 1)
        burn(cx, length)
        return PyBytes_FromStringAndSize(<const char*>cx.base + pointer, length)

    cdef int place(self, cx_t* cx, object value, uint32_t* pointer, uint32_t* length) except -1:
        cdef Py_buffer view
        if PyBytes_CheckExact(value):
            length[0] = <uint32_t>PyBytes_GET_SIZE(value)
            return place_bytes(cx, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), 1, pointer)
        PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
        try:
            length[0] = <uint32_t>view.len
            return place_bytes(cx, <const char*>view.buf, view.len, 1, pointer)
        finally:
            PyBuffer_Release(&view)
