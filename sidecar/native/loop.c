/* The inner loop of the data path: moves bytes that need no decision, and returns at anything else.
 *
 * Belongs here: reading a socket into TLS records, and TLS records into a socket, as plain DATA frames of one epoch
 * (sidecar/tunnel/frames.py) or without frames. Doesn't: any other frame, states, ends and errors: they are returned to
 * the Python code that calls (sidecar/tunnel/tunnel.py, sidecar/pump/). Python's limited API (PEP 384), so that one
 * build serves every Python from 3.11 on.
 *
 * OpenSSL isn't linked: its functions are addresses in the library that `cryptography` brings, so that there is one
 * OpenSSL, and pyOpenSSL goes on owning its objects.
 *
 * The interpreter's lock is released once a call. The buffers are the thread's own; a TLS object belongs to the thread
 * of its event loop. Each call moves at most one budget, so that the caller's check of the local program stays fresh
 * and other connections get their turn.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <stddef.h>

#include "loop.h"

#ifndef SOURCE_DIGEST
#error "build.py compiles this"
#endif

/* ---- Python ----------------------------------------------------------------------------------------------------- */

/* Read an argument that has to lie between two bounds. */
int read_number(PyObject *value, long long least, long long most, long long *number) {
    *number = PyLong_AsLongLong(value);
    if (*number == -1 && PyErr_Occurred())
        return 0;
    if (*number < least || *number > most) {
        PyErr_SetString(PyExc_ValueError, "an argument is out of its range");
        return 0;
    }
    return 1;
}

/* An address in this process, as Python has it. */
int read_address(PyObject *value, void **address) {
    *address = PyLong_AsVoidPtr(value);
    if (*address == NULL && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "a null address");
    return *address != NULL;
}

/* TLS object, descriptor, epoch or -1, room of the key. */
static int read_arguments(PyObject *const *arguments, void **tls, int *fd, int *epoch, long long *room) {
    long long number;
    if (!read_address(arguments[0], tls) || !read_number(arguments[1], 0, INT_MAX, &number))
        return 0;
    *fd = (int)number;
    if (!read_number(arguments[2], -1, 255, &number))
        return 0;
    *epoch = (int)number;
    return read_number(arguments[3], 0, LLONG_MAX, room);
}

PyObject *list_rest(const unsigned char *start, const Sent *sent) {
    if (!sent_has_rest(sent))
        return Py_NewRef(Py_None);
    PyObject *rest = PyList_New(0);
    size_t offset = sent->offset;
    for (int index = sent->first; rest != NULL && index < sent->past; index++, start += RECORD_BYTES, offset = 0) {
        PyObject *record =
            PyBytes_FromStringAndSize((const char *)start + offset, (Py_ssize_t)(sent->sizes[index] - offset));
        if (record == NULL || PyList_Append(rest, record) < 0)
            Py_CLEAR(rest);
        Py_XDECREF(record);
    }
    return rest;
}

/* Bytes of the buffer, or None where there are none; a new reference. */
static PyObject *copy_of(size_t start, size_t end) {
    if (start >= end)
        return Py_NewRef(Py_None);
    return PyBytes_FromStringAndSize((const char *)buffer + start, (Py_ssize_t)(end - start));
}

/* A tuple of these, which it takes over; NULL where one of them couldn't be made. */
PyObject *tuple_of(PyObject **items, int count) {
    PyObject *tuple = PyTuple_New(count);
    int is_whole = tuple != NULL;
    for (int index = 0; index < count; index++) {
        if (items[index] == NULL)
            is_whole = 0;
        else if (tuple == NULL)
            Py_DECREF(items[index]);
        else
            PyTuple_SetItem(tuple, index, items[index]);
    }
    if (!is_whole)
        Py_CLEAR(tuple);
    return tuple;
}

PyDoc_STRVAR(send_doc, "send(tls, source, epoch, room, tunnel) -> (status, taken, used, rest, result, errno)");

static PyObject *loop_send(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    void *tls;
    int source, epoch;
    long long room, tunnel;
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "five arguments: tls, source, epoch, room, tunnel");
        return NULL;
    }
    if (!read_arguments(arguments, &tls, &source, &epoch, &room) || !read_number(arguments[4], -1, INT_MAX, &tunnel))
        return NULL;
    Sent sent = {.status = WAITING, .result = 1};
    Py_BEGIN_ALLOW_THREADS
    send_all(&((const Loop *)self)->tls, tls, source, (int)tunnel, epoch, room, &sent);
    Py_END_ALLOW_THREADS
    if (sent.status == FAILED)
        forget_rest(epoch, &sent);
    PyObject *items[] = {
        PyLong_FromLong(sent.status), PyLong_FromLongLong(sent.taken),
        PyLong_FromLongLong(sent.used), list_rest(slot(sent.first), &sent),
        PyLong_FromLong(sent.result), PyLong_FromLong(sent.code),
    };
    return tuple_of(items, sizeof items / sizeof *items);
}

PyDoc_STRVAR(receive_doc, "receive(tls, sink, epoch, room) -> (written, used, rest, left, broken, result, errno)");

static PyObject *loop_receive(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    void *tls;
    int sink, epoch;
    long long room;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "four arguments: tls, sink, epoch, room");
        return NULL;
    }
    if (!read_arguments(arguments, &tls, &sink, &epoch, &room))
        return NULL;
    Received received = {.result = 1};
    Py_BEGIN_ALLOW_THREADS
    receive_all(&((const Loop *)self)->tls, tls, sink, epoch, room, &received);
    Py_END_ALLOW_THREADS
    PyObject *items[] = {
        PyLong_FromLongLong(received.written), PyLong_FromLongLong(received.used),
        copy_of(0, received.rest), copy_of(received.start, received.end),
        PyLong_FromLong(received.broken), PyLong_FromLong(received.result), PyLong_FromLong(received.code),
    };
    return tuple_of(items, sizeof items / sizeof *items);
}

PyDoc_STRVAR(forward_doc, "forward(source, sink) -> (status, written, rest, broken, errno)");

static PyObject *loop_forward(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    long long source, sink;
    (void)self;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "two arguments: source, sink");
        return NULL;
    }
    if (!read_number(arguments[0], 0, INT_MAX, &source) || !read_number(arguments[1], 0, INT_MAX, &sink))
        return NULL;
    Forwarded forwarded = {.status = WAITING};
    Py_BEGIN_ALLOW_THREADS
    forward_all((int)source, (int)sink, &forwarded);
    Py_END_ALLOW_THREADS
    PyObject *items[] = {
        PyLong_FromLong(forwarded.status), PyLong_FromLongLong(forwarded.written),
        copy_of(forwarded.start, forwarded.end), PyLong_FromLong(forwarded.broken), PyLong_FromLong(forwarded.code),
    };
    return tuple_of(items, sizeof items / sizeof *items);
}

PyDoc_STRVAR(functions_doc, "functions() -> the four addresses");

static PyObject *loop_functions(PyObject *self, PyObject *unused) {
    const Tls *tls = &((const Loop *)self)->tls;
    (void)unused;
    PyObject *items[] = {
        PyLong_FromVoidPtr((void *)tls->read),
        PyLong_FromVoidPtr((void *)tls->write),
        PyLong_FromVoidPtr((void *)tls->get_error),
        PyLong_FromVoidPtr((void *)tls->clear),
    };
    return tuple_of(items, 4);
}

static PyObject *loop_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    void *functions[4];
    if (PyTuple_Size(arguments) != 4 || (keywords != NULL && PyDict_Size(keywords) > 0)) {
        PyErr_SetString(PyExc_TypeError, "four addresses: SSL_read, SSL_write, SSL_get_error, ERR_clear_error");
        return NULL;
    }
    for (int index = 0; index < 4; index++)
        if (!read_address(PyTuple_GetItem(arguments, index), &functions[index]))
            return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Loop *loop = (Loop *)allocate(type, 0);
    if (loop != NULL) {
        loop->tls.read = (tls_read_function)functions[0];
        loop->tls.write = (tls_write_function)functions[1];
        loop->tls.get_error = (tls_get_error_function)functions[2];
        loop->tls.clear = (tls_clear_function)functions[3];
    }
    return (PyObject *)loop;
}

static void loop_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef loop_methods[] = {
    {"send", (PyCFunction)(void (*)(void))loop_send, METH_FASTCALL, send_doc},
    {"receive", (PyCFunction)(void (*)(void))loop_receive, METH_FASTCALL, receive_doc},
    {"forward", (PyCFunction)(void (*)(void))loop_forward, METH_FASTCALL, forward_doc},
    {"functions", loop_functions, METH_NOARGS, functions_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot loop_slots[] = {
    {Py_tp_new, loop_new},
    {Py_tp_dealloc, loop_dealloc},
    {Py_tp_methods, loop_methods},
    {0, NULL},
};

static PyType_Spec loop_spec = {
    .name = "sidecar.native._loop.Loop",
    .basicsize = sizeof(Loop),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = loop_slots,
};

static int fill_module(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &loop_spec, NULL);
    if (type == NULL)
        return -1;
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    if (result < 0 || add_mover(module) < 0 || PyModule_AddIntMacro(module, WAITING) < 0 || PyModule_AddIntMacro(module, ENDED) < 0 ||
        PyModule_AddIntMacro(module, BROKEN) < 0 || PyModule_AddIntMacro(module, BLOCKED) < 0 ||
        PyModule_AddIntMacro(module, LIMIT) < 0 || PyModule_AddIntMacro(module, FAILED) < 0 ||
        PyModule_AddIntMacro(module, BUDGET_BYTES) < 0 || PyModule_AddIntMacro(module, RECORD_BYTES) < 0 ||
        PyModule_AddIntMacro(module, FILLED_BYTES) < 0 ||
        PyModule_AddIntMacro(module, HEADER_BYTES) < 0 || PyModule_AddIntMacro(module, OVERHEAD_BYTES) < 0 ||
        PyModule_AddIntMacro(module, FRAME_DATA) < 0 ||
        PyModule_AddStringConstant(module, "SOURCE_DIGEST", SOURCE_DIGEST) < 0)
        return -1;
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, fill_module},
    {0, NULL},
};

extern PyMethodDef look_methods[]; /* look.c */

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_loop",
    .m_doc = "The inner loop of the data path, and attestation's looks.",
    .m_methods = look_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__loop(void) { return PyModuleDef_Init(&module_definition); }
