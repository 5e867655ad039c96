cimport cython


cdef class Signal:
    cdef public list _waiters

    cpdef wake(self)


cdef class Pipe:
    cdef public Py_ssize_t capacity, size, _offset
    cdef public bint ended
    cdef public object error, on_writable, trailers, _chunks
    cdef public Signal _readable, _writable
    cdef object __weakref__

    cpdef read_nowait(self, Py_ssize_t n)
    cpdef close(self)
    cpdef Py_ssize_t writable(self) except -1
    cpdef write(self, data)
    cpdef finish(self, trailers=*)
    cpdef abort(self, error)
    cpdef _drained(self)
    cpdef _discard(self)
