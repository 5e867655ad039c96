# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, auto_pickle=False
"""Component instances over core modules: the sandbox's wall.

Everything that touches a guest's memory or Wasmtime's C API is here. It knows the component model and
nothing of WASI, HTTP or asyncio. The interpreter's lock is held throughout: a guest runs for two ticks
at most before it yields, and only one thread may use an engine's instances.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF, Py_XINCREF, PyObject
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeLatin1, PyUnicode_DecodeUTF8, PyUnicode_DecodeUTF16
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from edge.engine.capi cimport *

from mmap import PAGESIZE as PAGE_SIZE
from types import CoroutineType

from edge.engine import types as wit
from edge.engine.plan import (
    CoreHost, GuestCall, HostCall, Missing, ResourceDrop, ResourceNew, ResourceRep,
)
from edge.engine.values import Err, Ok, Some, Trap


async def _compiled():
    return


# What a compiled `async def` returns is of another type than Python's.
cdef object compiled_coroutine = _compiled()
cdef object CompiledCoroutineType = type(compiled_coroutine)
compiled_coroutine.close()


cdef inline bint must_wait(object result) noexcept:
    return type(result) is CoroutineType or type(result) is CompiledCoroutineType


cdef extern from "Python.h":
    PyObject* PyTuple_GET_ITEM(object, Py_ssize_t)
    bint PyLong_Check(object)
    object PyNumber_Index(object)
    PyObject* PyObject_Call(PyObject*, PyObject*, PyObject*)
    const char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*) except NULL
    PyObject* PyErr_Occurred()
    bint PyErr_ExceptionMatches(PyObject*)
    void PyErr_Fetch(PyObject**, PyObject**, PyObject**)
    void PyErr_NormalizeException(PyObject**, PyObject**, PyObject**)
    bint PyException_SetTraceback(PyObject*, PyObject*)

cdef uint64_t live_stores = 0
cdef uint64_t live_calls = 0


def counters() -> dict:
    """What is alive in this process: stores and calls. Both are 0 when nothing runs."""
    return {"stores": live_stores, "calls": live_calls}


def load_library(path: str) -> None:
    """Binds Wasmtime's C API from the library at `path`. Raises ImportError when it lacks something."""
    cdef bytes encoded = path.encode()
    cdef const char* missing = edge_capi_load(encoded)
    if missing != NULL:
        raise ImportError(f"libwasmtime does not fit this edge: {missing.decode()}")


cdef object take_exception():
    """The Python exception that is set, cleared."""
    cdef PyObject* kind
    cdef PyObject* value
    cdef PyObject* trace
    PyErr_Fetch(&kind, &value, &trace)
    PyErr_NormalizeException(&kind, &value, &trace)
    if trace != NULL:
        PyException_SetTraceback(value, trace)
    error = <object>value
    Py_XDECREF(kind)
    Py_XDECREF(value)
    Py_XDECREF(trace)
    return error


include "trap.pxi"
include "pagemap.pxi"
include "module.pxi"
include "abi.pxi"
include "compound.pxi"
include "handles.pxi"
include "trampolines.pxi"
include "memory.pxi"
include "prefault.pxi"
include "scan.pxi"
include "birth.pxi"
include "builder.pxi"
include "code.pxi"
include "instance.pxi"
include "call.pxi"
