cdef class Outbox:
    cdef bint _held
    cdef double _since
    cdef object _loop
    cdef list _senders

    cpdef add(self, sender)
    cpdef hasten(self)
    cpdef flush(self)
