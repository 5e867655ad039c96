cimport cython
from edge.wasi.http.body cimport OutgoingBody
from edge.wasi.http.message cimport Request


@cython.final
@cython.freelist(64)
cdef class IncomingRequest:
    cdef bint _consumed
    cdef Request _request


@cython.final
@cython.freelist(64)
cdef class OutgoingResponse:
    cdef public object _headers
    cdef public int _status
    cdef OutgoingBody _body

    cpdef send(self, reply, method)


@cython.final
@cython.freelist(64)
cdef class ResponseOutparam:
    cdef public object _method, _reply
    cdef public bint answered
    cdef public int status
