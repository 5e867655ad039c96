cimport cython


@cython.final
@cython.freelist(64)
cdef class Request:
    cdef public object method, scheme, authority, target, headers, body, client, depth, route, span
