# What plain core functions of the host (preview 1) see of a guest.

cdef class Memory:
    """A guest's memory during one host call. Every access is checked; beyond the end is a trap."""
    cdef Instance instance
    cdef int slot

    @staticmethod
    cdef Memory new(Instance instance, int slot):
        cdef Memory memory = Memory.__new__(Memory)
        memory.instance = instance
        memory.slot = slot
        return memory

    cdef uint8_t* range(self, uint64_t at, uint64_t length) except NULL:
        cdef wasmtime_extern_t* item
        cdef uint64_t size
        if self.slot < 0 or self.instance.store == NULL:
            raise Trap("the guest has no memory")
        item = self.instance.slot(self.slot)
        size = capi.wasmtime_memory_data_size(self.instance.store_context, &item.of.memory)
        if length > size or at > size - length:
            raise Trap(f"pointer out of bounds: {at:#x} and {length} bytes in a memory of {size}")
        return capi.wasmtime_memory_data(self.instance.store_context, &item.of.memory) + at

    @property
    def size(self) -> int:
        cdef wasmtime_extern_t* item
        self.range(0, 0)
        item = self.instance.slot(self.slot)
        return capi.wasmtime_memory_data_size(self.instance.store_context, &item.of.memory)

    def read(self, uint64_t at, uint64_t length) -> bytes:
        return PyBytes_FromStringAndSize(<const char*>self.range(at, length), length)

    def write(self, uint64_t at, data) -> None:
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            memcpy(self.range(at, view.len), view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    def u32(self, uint64_t at) -> int:
        cdef uint32_t value
        memcpy(&value, self.range(at, 4), 4)
        return value

    def set_u32(self, uint64_t at, uint32_t value) -> None:
        memcpy(self.range(at, 4), &value, 4)

    def set_u64(self, uint64_t at, uint64_t value) -> None:
        memcpy(self.range(at, 8), &value, 8)
