cimport cython


cpdef tuple encode(list headers)


@cython.freelist(64)
cdef class Reply:
    cdef public bint finished
    cdef public object error
    cdef object _wire, _method, _length, _signal
    cdef bytes _lines
    cdef list _held
    cdef int _status
    cdef bint _old, _dated, _sent, _empty, _chunked, _scheduled
    cdef Py_ssize_t _held_size, _size

    cpdef start(self, int status, list headers)
    cpdef Py_ssize_t writable(self) except -1
    cpdef write(self, data)
    cpdef finish(self, trailers=*)
    cpdef abort(self, error)
    cpdef lost(self, error)
    cpdef wake(self)
    cpdef turn_over(self)
    cpdef _schedule(self)
    cpdef _finish(self, trailers)
    cpdef bytes _whole(self)
    cpdef _end(self)
    cpdef _flush(self)
