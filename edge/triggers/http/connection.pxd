from edge.triggers.http.intake cimport Intake
from edge.triggers.http.reply cimport Reply


cdef class Connection(Intake):
    cdef public object date, _task, _gathering
    cdef public Reply _reply
    cdef public bint _dispatching, _keep, _fresh, _begun, _queued, _gathered

    cpdef _forget(self)
    cpdef _read(self)
    cpdef _parsed(self)
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
