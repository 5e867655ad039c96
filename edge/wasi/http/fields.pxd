cimport cython


@cython.final
@cython.freelist(64)
cdef class Fields:
    cdef public list list
    cdef public bint mutable
    cdef public Py_ssize_t size

    cpdef append(self, name, value)
    cpdef _changeable(self, name)
    cpdef _add(self, bytes key, bytes value)


cpdef list visible(list headers)
cpdef content_length(list headers)
cdef _check_value(bytes value)
