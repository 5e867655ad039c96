from edge.triggers.http.line cimport Line
from edge.triggers.http.parser cimport RequestParser


cdef class Intake(Line):
    cdef public object _server, _allowance
    cdef public RequestParser _parser
    cdef public bytes _input
    cdef public Py_ssize_t _at
    cdef public bint _expecting, _skipping

    cpdef Py_ssize_t _most(self, body) except -1
