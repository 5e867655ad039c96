from edge.invocation.meter cimport Meter


cdef class Budget:
    cdef public object all, line, spares
    cdef public long long memory, slots, _passing_memory, _passing_slots
    cdef public Py_ssize_t queue, waiting, turn
    cdef object __weakref__

    cpdef bint fits(self, Gate gate) except -1
    cpdef bint take(self, Gate gate) except -1
    cpdef keep(self, spare)
    cpdef give(self, Gate gate)
    cpdef serve(self)
    cpdef _begin_turn(self)
    cpdef _note_passing(self, Gate gate)
    cpdef _note_passed(self, Gate gate)
    cpdef bint _reclaim(self, Gate gate) except -1


cdef class Gate:
    cdef public Budget _budget
    cdef public object _name, _waiting
    cdef public double _timeout
    cdef public Meter meter
    cdef public long long memory, slots
    cdef public Py_ssize_t _concurrency, _queue, active, passing, turn
    cdef object __weakref__

    cpdef bint enter(self) except -1
    cpdef leave(self)
    cpdef admit_next(self)
    cpdef _advance(self)
    cpdef _check_queue(self)
