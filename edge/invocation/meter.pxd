cdef class Histogram:
    cdef public list counts
    cdef public double sum

    cpdef add(self, double seconds)


cdef class Meter:
    cdef public object ok
    cdef public dict outcomes
    cdef public Histogram latency, waits
    cdef public object places, told
    cdef object __weakref__

    cpdef succeeded(self, double began, double waited)
    cpdef failed(self, double began, double waited, error)
