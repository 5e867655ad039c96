cimport cython
from edge.invocation.meter cimport Meter
from edge.invocation.sandbox cimport Sandbox, Sandboxes
from edge.wasi.http.incoming cimport ResponseOutparam
from edge.wasi.http.message cimport Request


cdef class HttpInvoker:
    cdef public Sandboxes sandboxes
    cdef object _export
    cdef Meter _meter

    cpdef _begin(self, Request request, reply, double waited=*)
    cpdef _over(self, id, error, ResponseOutparam outparam, reply)


@cython.final
@cython.freelist(64)
cdef class _Exchange:
    cdef HttpInvoker _invoker
    cdef Request _request
    cdef object _reply
    cdef ResponseOutparam _outparam

    cpdef arguments(self, Sandbox sandbox)
    cpdef ended(self, id, error)
