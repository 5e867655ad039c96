from edge.triggers.http.line cimport Line
from edge.triggers.http.parser cimport RequestParser
from edge.triggers.http.reply cimport Reply


cdef class Connection(Line):
    cdef public object _server, date, _task, _allowance, _gathering
    cdef public RequestParser _parser
    cdef public Reply _reply
    cdef public bytes _input
    cdef public Py_ssize_t _at
    cdef public bint _dispatching, _keep, _fresh, _begun, _queued, _expecting, _skipping, _gathered

    cpdef _forget(self)
    cpdef _read(self)
    cpdef _queue(self)
    cpdef serve(self)
    cpdef bint _gather(self) except -1
    cpdef _dispatch(self)
    cpdef _settle(self)
    cpdef _answered(self)
    cpdef _next(self)
    cpdef soon(self, reply)
    cpdef bint persists(self) except -1
    cpdef replied(self)
