cdef class Context:
    cdef public object arguments, directory, environ, now, outbound, platform, random, scratch, scratch_root
    cdef public object table, tree
    cdef public object _stdin, _stdout, _stderr
    cdef object __weakref__

    cpdef close(self)
