/* The mover as Python sees it: `Mover` and `Proof` of the extension; `_loop.pyi` describes them. mover.c does the work.
 *
 * Only who waits for the thread gives the interpreter's lock up: a recall, a count, and the end. The thread never takes it.
 */
#include "loop.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "mover.h"

typedef struct {
    PyObject_HEAD
    Proof proof;
    PyObject *memory; /* Owns the descriptors. */
} ProofObject;

typedef struct {
    PyObject_HEAD
    Mover mover;
} MoverObject;

static PyObject *proof_type; /* The module's, once it is loaded. */

static PyObject *proof_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    PyObject *memory;
    int maps, directory;
    unsigned long long device, inode;
    long long max_age_ns;
    if (keywords != NULL && PyDict_Size(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "memory, maps, directory, device, inode, max_age_ns");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "OiiKKL", &memory, &maps, &directory, &device, &inode, &max_age_ns))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    ProofObject *self = (ProofObject *)allocate(type, 0);
    if (self != NULL) {
        self->memory = Py_NewRef(memory);
        self->proof.maps = maps;
        self->proof.directory = directory;
        self->proof.device = (dev_t)device;
        self->proof.inode = (ino_t)inode;
        self->proof.max_age_ns = max_age_ns;
    }
    return (PyObject *)self;
}

static void proof_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    Py_DECREF(((ProofObject *)self)->memory);
    release(self);
    Py_DECREF(type);
}

static PyType_Slot proof_slots[] = {
    {Py_tp_new, proof_new},
    {Py_tp_dealloc, proof_dealloc},
    {0, NULL},
};

static PyType_Spec proof_spec = {
    .name = "sidecar.native._loop.Proof",
    .basicsize = sizeof(ProofObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = proof_slots,
};

/* ---- Mover ------------------------------------------------------------------------------------------------------ */

static PyObject *raise_errno(int code) {
    errno = code;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *raise_unknown(void) {
    PyErr_SetString(PyExc_ValueError, "this connection isn't lent");
    return NULL;
}

PyDoc_STRVAR(allow_doc, "allow(duration_ns): move bytes for so long from now");

static PyObject *mover_type_allow(PyObject *self, PyObject *argument) {
    long long duration_ns;
    if (!read_number(argument, 0, INT64_MAX / 2, &duration_ns))
        return NULL;
    mover_allow(&((MoverObject *)self)->mover, duration_ns);
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(lend_doc, "lend(tls, application, tunnel, epoch, send_room, receive_room, proof, is_held) -> number");

static PyObject *mover_type_lend(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    MoverObject *object = (MoverObject *)self;
    Lent what = {.rest = NULL};
    long long application, tunnel, epoch, is_held;
    if (count != 8) {
        PyErr_SetString(PyExc_TypeError, "eight arguments: tls, application, tunnel, epoch, two rooms, proof, is_held");
        return NULL;
    }
    if (!read_address(arguments[0], &what.tls) || !read_number(arguments[1], 0, INT_MAX, &application) ||
        !read_number(arguments[2], 0, INT_MAX, &tunnel) || !read_number(arguments[3], 0, 255, &epoch) ||
        !read_number(arguments[4], 0, LLONG_MAX, &what.send_room) ||
        !read_number(arguments[5], 0, LLONG_MAX, &what.receive_room) || !read_number(arguments[7], 0, 1, &is_held))
        return NULL;
    what.application = (int)application;
    what.tunnel = (int)tunnel;
    what.epoch = (int)epoch;
    what.is_held = (int)is_held;
    if (arguments[6] != Py_None) {
        if (Py_TYPE(arguments[6]) != (PyTypeObject *)proof_type) {
            PyErr_SetString(PyExc_TypeError, "the proof is none");
            return NULL;
        }
        what.proof = &((ProofObject *)arguments[6])->proof;
    }
    if (object->mover.epoll < 0)
        return raise_errno(EBADF);
    what.owner = Py_NewRef(arguments[6]);
    int index = mover_lend(&object->mover, &what);
    if (index < 0) {
        int code = errno;
        Py_DECREF((PyObject *)what.owner);
        return raise_errno(code);
    }
    return PyLong_FromLong(index);
}

static PyObject *bytes_of(const unsigned char *start, size_t size) {
    if (size == 0)
        return Py_NewRef(Py_None);
    return PyBytes_FromStringAndSize((const char *)start, (Py_ssize_t)size);
}

static PyObject *upward_of(const Lent *lent) {
    const Sent *sent = &lent->sent;
    if (lent->left_by != UPWARD && !(lent->full & UPWARD))
        return Py_NewRef(Py_None);
    const unsigned char *records = lent->records;
    if (records != NULL)
        records += (size_t)sent->first * RECORD_BYTES;
    PyObject *items[] = {
        PyLong_FromLong(sent->status), list_rest(records, sent),           PyLong_FromLong(sent->result),
        PyLong_FromLong(sent->code),   PyLong_FromUnsignedLong(lent->error),
    };
    return tuple_of(items, sizeof items / sizeof *items);
}

static PyObject *downward_of(const Lent *lent) {
    const Received *received = &lent->received;
    if (lent->left_by != DOWNWARD && !(lent->full & DOWNWARD))
        return Py_NewRef(Py_None);
    PyObject *items[] = {
        bytes_of(lent->rest + lent->rest_written, received->rest - lent->rest_written),
        bytes_of(lent->left, received->end - received->start),
        PyLong_FromLong(received->broken),
        PyLong_FromLong(received->result),
        PyLong_FromLong(received->code),
        PyLong_FromUnsignedLong(lent->error),
    };
    return tuple_of(items, sizeof items / sizeof *items);
}

PyDoc_STRVAR(recall_doc, "recall(number) -> (taken, send_used, written, receive_used, upward, downward)");

static PyObject *mover_type_recall(PyObject *self, PyObject *argument) {
    Mover *mover = &((MoverObject *)self)->mover;
    Lent *lent;
    long long index;
    if (!read_number(argument, 0, INT_MAX, &index))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    lent = mover_recall(mover, (int)index);
    Py_END_ALLOW_THREADS
    if (lent == NULL)
        return raise_unknown();
    PyObject *result = NULL;
    if (lent->is_lost) {
        PyErr_NoMemory();
    } else {
        PyObject *items[] = {
            PyLong_FromLongLong(lent->taken),   PyLong_FromLongLong(lent->send_used),
            PyLong_FromLongLong(lent->written), PyLong_FromLongLong(lent->receive_used),
            upward_of(lent),                    downward_of(lent),
        };
        result = tuple_of(items, sizeof items / sizeof *items);
    }
    PyObject *owner = lent->owner;
    mover_forget(mover, lent);
    Py_DECREF(owner);
    return result;
}

PyDoc_STRVAR(counts_doc, "counts(number) -> (taken, written)");

static PyObject *mover_type_counts(PyObject *self, PyObject *argument) {
    Mover *mover = &((MoverObject *)self)->mover;
    const Lent *lent;
    long long index;
    if (!read_number(argument, 0, INT_MAX, &index))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    lent = mover_settle(mover, (int)index);
    Py_END_ALLOW_THREADS
    if (lent == NULL)
        return raise_unknown();
    PyObject *items[] = {PyLong_FromLongLong(lent->taken), PyLong_FromLongLong(lent->written)};
    return tuple_of(items, 2);
}

PyDoc_STRVAR(collect_doc, "collect() -> numbers of connections that came back by themselves");

static PyObject *mover_type_collect(PyObject *self, PyObject *unused) {
    Mover *mover = &((MoverObject *)self)->mover;
    (void)unused;
    int *indices = malloc(((size_t)mover->room + 1) * sizeof *indices);
    if (indices == NULL)
        return PyErr_NoMemory();
    int count = mover_collect(mover, indices);
    PyObject *list = PyList_New(0);
    for (int number = 0; list != NULL && number < count; number++) {
        PyObject *index = PyLong_FromLong(indices[number]);
        if (index == NULL || PyList_Append(list, index) < 0)
            Py_CLEAR(list);
        Py_XDECREF(index);
    }
    free(indices);
    return list;
}

static PyObject *mover_type_fileno(PyObject *self, PyObject *unused) {
    (void)unused;
    return PyLong_FromLong(((MoverObject *)self)->mover.notify);
}

static int stop(MoverObject *self) {
    int code;
    Py_BEGIN_ALLOW_THREADS
    code = mover_stop(&self->mover);
    Py_END_ALLOW_THREADS
    return code;
}

PyDoc_STRVAR(stop_doc, "stop(): end the thread; what is lent moves no more, and can be recalled");

static PyObject *mover_type_stop(PyObject *self, PyObject *unused) {
    (void)unused;
    int code = stop((MoverObject *)self);
    return code ? raise_errno(code) : Py_NewRef(Py_None);
}

static PyObject *mover_type_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    void *functions[5];
    if (PyTuple_Size(arguments) != 5 || (keywords != NULL && PyDict_Size(keywords) > 0)) {
        PyErr_SetString(PyExc_TypeError, "five addresses: those of Loop, and ERR_get_error");
        return NULL;
    }
    for (int index = 0; index < 5; index++)
        if (!read_address(PyTuple_GetItem(arguments, index), &functions[index]))
            return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    MoverObject *self = (MoverObject *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->mover.tls.read = (tls_read_function)functions[0];
    self->mover.tls.write = (tls_write_function)functions[1];
    self->mover.tls.get_error = (tls_get_error_function)functions[2];
    self->mover.tls.clear = (tls_clear_function)functions[3];
    self->mover.take_error = (tls_take_error_function)functions[4];
    int code = mover_start(&self->mover);
    if (code != 0) {
        Py_DECREF((PyObject *)self);
        return raise_errno(code);
    }
    return (PyObject *)self;
}

static void mover_type_dealloc(PyObject *self) {
    MoverObject *object = (MoverObject *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    if (stop(object) != 0)
        return; /* The thread still uses it. */
    for (int index = 0; index < object->mover.count; index++) {
        Lent *lent = object->mover.lent[index];
        if (lent->state != FREE) {
            free(lent->records);
            free(lent->rest);
            free(lent->left);
            Py_XDECREF((PyObject *)lent->owner);
        }
        free(lent);
    }
    free(object->mover.lent);
    free(object->mover.unused);
    free(object->mover.returned);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef mover_methods[] = {
    {"allow", mover_type_allow, METH_O, allow_doc},
    {"lend", (PyCFunction)(void (*)(void))mover_type_lend, METH_FASTCALL, lend_doc},
    {"recall", mover_type_recall, METH_O, recall_doc},
    {"counts", mover_type_counts, METH_O, counts_doc},
    {"collect", mover_type_collect, METH_NOARGS, collect_doc},
    {"fileno", mover_type_fileno, METH_NOARGS, NULL},
    {"stop", mover_type_stop, METH_NOARGS, stop_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot mover_slots[] = {
    {Py_tp_new, mover_type_new},
    {Py_tp_dealloc, mover_type_dealloc},
    {Py_tp_methods, mover_methods},
    {0, NULL},
};

static PyType_Spec mover_spec = {
    .name = "sidecar.native._loop.Mover",
    .basicsize = sizeof(MoverObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = mover_slots,
};

int add_mover(PyObject *module) {
    proof_type = PyType_FromModuleAndSpec(module, &proof_spec, NULL);
    if (proof_type == NULL || PyModule_AddType(module, (PyTypeObject *)proof_type) < 0)
        return -1;
    PyObject *type = PyType_FromModuleAndSpec(module, &mover_spec, NULL);
    int result = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(type);
    return result;
}
