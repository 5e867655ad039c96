cimport cython


@cython.final
@cython.freelist(64)
cdef class InputStream:
    cdef public object _source

    cpdef read(self, length)
    cpdef bint ready(self) except -1
    cpdef drop(self)
    cpdef _nothing(self)


@cython.final
@cython.freelist(64)
cdef class OutputStream:
    cdef object _sink
    cdef Py_ssize_t _permit

    cpdef write(self, contents)
    cpdef blocking_write_and_flush(self, contents)
    cpdef flush(self)
    cpdef drop(self)
    cpdef _write(self, contents)
    cpdef _failure(self, error)
