from edge.invocation.admission cimport Budget, Gate
from edge.invocation.meter cimport Meter
from edge.wasi.context cimport Context


cdef class Sandbox(Context):
    cdef public Sandboxes pool
    cdef public object id, instance
    cdef public Py_ssize_t uses

    cpdef end(self)
    cpdef close(self)


cdef class Sandboxes:
    cdef public object component, profile, node, report
    cdef public Meter meter
    cdef public Gate gate
    cdef Budget _budget
    cdef public object _ids, _idle, _ready, _refill, _cooling, _printing
    cdef public double _cost, _last
    cdef public bint _closed, _connected
    cdef object __weakref__

    cpdef outbound(self)
    cpdef Sandbox take(self)
    cpdef give(self, Sandbox sandbox)
    cpdef _renew(self, Sandbox sandbox)
    cpdef Sandbox _make(self)
    cpdef _prepare(self)
    cpdef _stay_warm(self)
