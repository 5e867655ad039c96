cimport cython
from edge.wasi.io cimport InputStream, OutputStream


@cython.final
cdef class IncomingBody:
    cdef public object _body
    cdef public InputStream _stream


@cython.final
cdef class FutureTrailers:
    cdef object _body
    cdef bint _taken

    cpdef bint ready(self) except -1


@cython.final
@cython.freelist(64)
cdef class OutgoingBody:
    cdef object _kind, _length, _sink
    cdef _Gate _gate
    cdef OutputStream _stream
    cdef public bint _done

    cpdef write(self)
    cpdef connect(self, sink, bint bodyless=*)
    cpdef _target(self)
    cpdef _gated(self)
    cpdef _end(self)


@cython.final
cdef class _Gate:
    cdef object _early, _kind, _length, _sink
    cdef public object overrun
    cdef public object written
