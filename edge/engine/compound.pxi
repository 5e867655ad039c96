# The Canonical ABI, continued: values made of values, and handles.

cdef class ListOf(Pointed):
    cdef Node element

    def __init__(self, Node element):
        Pointed.__init__(self)
        self.element = element

    cdef object fetch(self, cx_t* cx, uint32_t pointer, uint32_t length):
        cdef uint32_t index
        cdef list values
        check_range(cx, pointer, <uint64_t>length * self.element.size, self.element.align)
        burn(cx, <uint64_t>length * self.element.cost)
        values = []
        for index in range(length):
            values.append(self.element.load(cx, pointer + index * self.element.size))
        return values

    cdef int place(self, cx_t* cx, object value, uint32_t* pointer, uint32_t* length) except -1:
        cdef uint32_t at
        cdef tuple values = tuple(value)   # a copy: the guest allocates meanwhile, and may be suspended there
        length[0] = <uint32_t>len(values)
        pointer[0] = at = allocate(cx, <uint64_t>length[0] * self.element.size, self.element.align)
        for item in values:
            self.element.store(cx, item, at)
            at += self.element.size
        return 0


cdef class Fields(Node):
    """Records and tuples: a Python tuple in field order."""
    cdef list nodes
    cdef list offsets

    def __init__(self, list nodes):
        cdef Node node
        cdef uint32_t offset = 0
        self.nodes = nodes
        self.offsets = []
        self.align = 1
        self.width = 0
        for node in nodes:
            offset = aligned(offset, node.align)
            self.offsets.append(offset)
            offset += node.size
            self.align = max(self.align, node.align)
            self.width += node.width
            self.cost += node.cost
        self.size = aligned(offset, self.align)

    cdef object load(self, cx_t* cx, uint32_t at):
        cdef Py_ssize_t index
        cdef list values = []
        for index in range(len(self.nodes)):
            values.append((<Node>self.nodes[index]).load(cx, at + <uint32_t>self.offsets[index]))
        return tuple(values)

    cdef tuple parts(self, object value):
        cdef tuple values = tuple(value)   # a copy, as with lists
        if len(values) != len(self.nodes):
            raise ValueError(f"{len(self.nodes)} fields are needed, not {len(values)}")
        return values

    cdef int store(self, cx_t* cx, object value, uint32_t at) except -1:
        cdef Py_ssize_t index = 0
        for item in self.parts(value):
            (<Node>self.nodes[index]).store(cx, item, at + <uint32_t>self.offsets[index])
            index += 1
        return 0

    cdef object lift(self, cx_t* cx, wasmtime_val_raw_t* flat):
        cdef Node node
        cdef list values = []
        for node in self.nodes:
            values.append(node.lift(cx, flat))
            flat += node.width
        return tuple(values)

    cdef int lower(self, cx_t* cx, object value, wasmtime_val_raw_t* flat) except -1:
        cdef Py_ssize_t index = 0
        cdef Node node
        for item in self.parts(value):
            node = <Node>self.nodes[index]
            node.lower(cx, item, flat)
            flat += node.width
            index += 1
        return 0


cdef class Cases(Node):
    """Variants, and what the ABI treats as such. Subclasses say what Python value stands for a case."""
    cdef list payloads         # Node or None for each case
    cdef uint32_t tag_size
    cdef uint32_t offset

    def __init__(self, list payloads, uint32_t tag_size):
        cdef Node node
        cdef uint32_t payload_align = 1
        cdef uint32_t payload_size = 0
        cdef uint64_t cost = 0
        cdef int width = 0
        self.payloads = payloads
        self.tag_size = tag_size
        for payload in payloads:
            if payload is not None:
                node = payload
                payload_align = max(payload_align, node.align)
                payload_size = max(payload_size, node.size)
                width = max(width, node.width)
                cost = max(cost, node.cost)
        self.align = max(tag_size, payload_align)
        self.offset = aligned(tag_size, payload_align)
        self.size = aligned(self.offset + payload_size, self.align)
        self.width = 1 + width
        self.cost += cost

    cdef object build(self, uint32_t tag, object payload):
        raise NotImplementedError

    cdef object split(self, object value, uint32_t* tag):
        """The payload of a value; the case goes to `tag`."""
        raise NotImplementedError

    cdef int check(self, uint32_t tag) except -1:
        if tag >= <uint32_t>len(self.payloads):
            raise Trap(f"invalid case: {tag} of {len(self.payloads)}")
        return 0

    cdef object load(self, cx_t* cx, uint32_t at):
        cdef uint32_t tag = 0
        memcpy(&tag, cx.base + at, self.tag_size)
        self.check(tag)
        payload = self.payloads[tag]
        if payload is None:
            return self.build(tag, None)
        return self.build(tag, (<Node>payload).load(cx, at + self.offset))

    cdef int store(self, cx_t* cx, object value, uint32_t at) except -1:
        cdef uint32_t tag = 0
        content = self.split(value, &tag)
        payload = self.payloads[tag]
        memcpy(cx.base + at, &tag, self.tag_size)
        if payload is not None:
            (<Node>payload).store(cx, content, at + self.offset)
        return 0

    cdef object lift(self, cx_t* cx, wasmtime_val_raw_t* flat):
        cdef uint32_t tag = flat.u32
        self.check(tag)
        payload = self.payloads[tag]
        if payload is None:
            return self.build(tag, None)
        return self.build(tag, (<Node>payload).lift(cx, flat + 1))

    cdef int lower(self, cx_t* cx, object value, wasmtime_val_raw_t* flat) except -1:
        cdef uint32_t tag = 0
        cdef int index
        content = self.split(value, &tag)
        payload = self.payloads[tag]
        for index in range(1, self.width):
            flat[index].u64 = 0
        flat.u64 = tag
        if payload is not None:
            (<Node>payload).lower(cx, content, flat + 1)
        return 0


cdef class VariantOf(Cases):
    cdef tuple names
    cdef dict numbers

    def __init__(self, tuple names, list payloads, uint32_t tag_size):
        Cases.__init__(self, payloads, tag_size)
        self.names = names
        self.numbers = {name: number for number, name in enumerate(names)}

    cdef object build(self, uint32_t tag, object payload):
        return self.names[tag], payload

    cdef object split(self, object value, uint32_t* tag):
        if type(value) is str:
            tag[0] = self.numbers[value]
            return None
        if not isinstance(value, tuple) or len(<tuple>value) != 2:
            raise TypeError(f"a case is a name or (name, payload), not {value!r}")
        tag[0] = self.numbers[(<tuple>value)[0]]
        return (<tuple>value)[1]


cdef class EnumOf(VariantOf):
    cdef object build(self, uint32_t tag, object payload):
        return self.names[tag]

    cdef object split(self, object value, uint32_t* tag):
        tag[0] = self.numbers[value]
        return None


cdef class OptionOf(Cases):
    cdef bint nested

    def __init__(self, Node payload):
        Cases.__init__(self, [None, payload], 1)
        self.nested = isinstance(payload, OptionOf)

    cdef object build(self, uint32_t tag, object payload):
        return Some(payload) if tag and self.nested else payload

    cdef object split(self, object value, uint32_t* tag):
        if value is None:
            return None
        tag[0] = 1
        if not self.nested:
            return value
        if type(value) is not Some:
            raise TypeError(f"an option of an option is None or Some(...), not {value!r}")
        return value.value


cdef class ResultOf(Cases):
    def __init__(self, list payloads):
        Cases.__init__(self, payloads, 1)

    cdef object build(self, uint32_t tag, object payload):
        return Err(payload) if tag else Ok(payload)

    cdef object split(self, object value, uint32_t* tag):
        """A host function's plain value stands for Ok(value)."""
        if type(value) is Ok:
            return value.value
        if isinstance(value, Err):
            tag[0] = 1
            return value.payload
        return value


cdef class FlagsOf(Node):
    cdef uint64_t mask

    def __init__(self, int count, uint32_t size):
        self.size = self.align = size
        self.width = 1
        self.mask = (<uint64_t>1 << count) - 1

    cdef object load(self, cx_t* cx, uint32_t at):
        cdef uint32_t bits = 0
        memcpy(&bits, cx.base + at, self.size)
        return bits & self.mask

    cdef int store(self, cx_t* cx, object value, uint32_t at) except -1:
        cdef uint32_t bits = <uint32_t>as_int(value, 0, self.mask)
        memcpy(cx.base + at, &bits, self.size)
        return 0

    cdef object lift(self, cx_t* cx, wasmtime_val_raw_t* flat):
        return flat.u32 & self.mask

    cdef int lower(self, cx_t* cx, object value, wasmtime_val_raw_t* flat) except -1:
        flat.u64 = as_int(value, 0, self.mask)
        return 0


cdef class HandleOf(Node):
    """own<R> and borrow<R>."""
    cdef int type
    cdef bint owned

    def __init__(self, int type, bint owned):
        self.size = self.align = 4
        self.width = 1
        self.type = type
        self.owned = owned

    cdef object make(self, cx_t* cx, uint32_t handle):
        cdef Table table = <Table>cx.table
        return table.take(handle, self.type) if self.owned else table.lend(handle, self.type)

    cdef uint32_t bits(self, cx_t* cx, object value) except? 0:
        return (<Table>cx.table).give(value, self.type, self.owned)

    cdef object load(self, cx_t* cx, uint32_t at):
        return self.make(cx, get32(cx, at))

    cdef int store(self, cx_t* cx, object value, uint32_t at) except -1:
        put32(cx, at, self.bits(cx, value))
        return 0

    cdef object lift(self, cx_t* cx, wasmtime_val_raw_t* flat):
        return self.make(cx, flat.u32)

    cdef int lower(self, cx_t* cx, object value, wasmtime_val_raw_t* flat) except -1:
        flat.u64 = self.bits(cx, value)
        return 0
