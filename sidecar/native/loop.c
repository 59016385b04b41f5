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
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifndef SOURCE_DIGEST
#error "build.py compiles this"
#endif

enum {
    HEADER_BYTES = 4,      /* Type, epoch, length in two bytes; sidecar/tunnel/frames.py. */
    RECORD_BYTES = 16384,  /* RFC 8446, section 5.1: the most plaintext in one record. */
    PAYLOAD_BYTES = RECORD_BYTES - HEADER_BYTES,
    OVERHEAD_BYTES = 32,   /* What a record counts beside its payload; sidecar/tls/key_limit.py. */
    FRAME_DATA = 4,
    SLOTS = 4,
    /* A batch of SLOTS records behind the part of a frame that the batch before left over. */
    PLAIN_BYTES = (SLOTS + 1) * RECORD_BYTES,
    MAX_IOV = 64,
    BUDGET_BYTES = 256 * 1024,
};

/* Of SSL_get_error: include/openssl/ssl.h. */
enum { TLS_WANT_READ = 2, TLS_WANT_WRITE = 3 };

/* Why `send` returned. */
enum {
    WAITING = 0, /* The source has nothing more now, or the budget is used. */
    ENDED = 1,   /* The source has ended. */
    BROKEN = 2,  /* Reading the source failed. */
    BLOCKED = 3, /* TLS takes nothing more now: the rest must be given again as it is. */
    LIMIT = 4,   /* The key's room is used: the rest is for the next key. */
    FAILED = 5,  /* Writing TLS failed. */
};

typedef int (*tls_read_function)(void *tls, void *buffer, int size);
typedef int (*tls_write_function)(void *tls, const void *buffer, int size);
typedef int (*tls_get_error_function)(const void *tls, int result);
typedef void (*tls_clear_function)(void);

typedef struct {
    PyObject_HEAD
    tls_read_function read;
    tls_write_function write;
    tls_get_error_function get_error;
    tls_clear_function clear; /* ERR_clear_error: what an earlier call left would be taken for this one's error. */
} Loop;

/* One buffer for each thread: every call uses it up, or copies what is left, before it returns. The address sanitizer
 * guards no thread's own variables, so that its build, which has one thread, takes an ordinary one. */
#ifndef OF_THREAD
#define OF_THREAD _Thread_local
#endif
static OF_THREAD unsigned char buffer[PLAIN_BYTES];

/* ---- socket -> TLS ---------------------------------------------------------------------------------------------- */

typedef struct {
    int status;
    long long taken;  /* Bytes read from the source; after FAILED without those that TLS didn't take. */
    long long used;   /* Bytes of the key, records' overhead included. */
    int result, code; /* Of TLS after FAILED, with errno; errno alone after BROKEN. */
    int first, past;  /* Slots of the rest ... */
    size_t offset;    /* ... of whose first this much was written ... */
    size_t sizes[SLOTS]; /* ... and how long each is. */
} Sent;

static unsigned char *slot(int index) { return buffer + (size_t)index * RECORD_BYTES; }

/* Write the slots that one read filled. False when the call has to return. */
static int write_slots(const Loop *loop, void *tls, long long room, Sent *sent) {
    for (; sent->first < sent->past; sent->first++, sent->offset = 0) {
        if (sent->used > room) {
            sent->status = LIMIT;
            return 0;
        }
        size_t size = sent->sizes[sent->first];
        while (sent->offset < size) {
            size_t left = size - sent->offset;
            errno = 0;
            int count = loop->write(tls, slot(sent->first) + sent->offset, (int)left);
            if (count <= 0 || (size_t)count > left) {
                sent->code = errno;
                sent->result = count <= 0 ? count : -1;
                sent->status = loop->get_error(tls, sent->result) == TLS_WANT_WRITE ? BLOCKED : FAILED;
                return 0;
            }
            sent->offset += (size_t)count;
            sent->used += count + OVERHEAD_BYTES;
        }
    }
    if (sent->used > room) {
        sent->status = LIMIT;
        return 0;
    }
    return 1;
}

static void send_all(const Loop *loop, void *tls, int source, int epoch, long long room, Sent *sent) {
    const size_t head = epoch < 0 ? 0 : HEADER_BYTES;
    const size_t most = RECORD_BYTES - head;
    struct iovec parts[SLOTS];
    for (int index = 0; index < SLOTS; index++) {
        parts[index].iov_base = slot(index) + head;
        parts[index].iov_len = most;
    }
    struct msghdr message;
    memset(&message, 0, sizeof message);
    loop->clear();
    for (;;) {
        message.msg_iov = parts;
        message.msg_iovlen = SLOTS;
        ssize_t count = recvmsg(source, &message, MSG_DONTWAIT);
        if (count < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
                sent->status = BROKEN;
                sent->code = errno;
            }
            return;
        }
        if (count == 0) {
            sent->status = ENDED;
            return;
        }
        sent->taken += count;
        sent->first = sent->past = 0;
        sent->offset = 0;
        for (size_t left = (size_t)count; left > 0 && sent->past < SLOTS; sent->past++) {
            size_t size = left < most ? left : most;
            if (head) {
                unsigned char *header = slot(sent->past);
                header[0] = FRAME_DATA;
                header[1] = (unsigned char)epoch;
                header[2] = (unsigned char)(size >> 8);
                header[3] = (unsigned char)(size & 0xFF);
            }
            sent->sizes[sent->past] = size + head;
            left -= size;
        }
        if (!write_slots(loop, tls, room, sent))
            return;
        /* A short read was the last one for now: asking again costs a system call, being told again costs none. */
        if ((size_t)count < SLOTS * most || sent->taken >= BUDGET_BYTES)
            return;
    }
}

/* Leave out of `taken` what TLS didn't take. */
static void forget_rest(int epoch, Sent *sent) {
    const size_t head = epoch < 0 ? 0 : HEADER_BYTES;
    for (; sent->first < sent->past; sent->first++, sent->offset = 0) {
        size_t size = sent->sizes[sent->first] - head;
        size_t left = sent->sizes[sent->first] - sent->offset;
        sent->taken -= (long long)(left < size ? left : size);
    }
}

static PyObject *list_rest(const Sent *sent) {
    PyObject *rest = PyList_New(0);
    size_t offset = sent->offset;
    for (int index = sent->first; rest != NULL && index < sent->past; index++, offset = 0) {
        const char *start = (const char *)slot(index) + offset;
        PyObject *record = PyBytes_FromStringAndSize(start, (Py_ssize_t)(sent->sizes[index] - offset));
        if (record == NULL || PyList_Append(rest, record) < 0)
            Py_CLEAR(rest);
        Py_XDECREF(record);
    }
    return rest;
}

/* ---- TLS -> socket ---------------------------------------------------------------------------------------------- */

typedef struct {
    long long written; /* Bytes that the sink has taken. */
    long long used;
    int broken;        /* errno of the sink, or 0. */
    int result, code;  /* Of TLS where it failed, with errno; else 1. */
    size_t rest;       /* Payload that the sink didn't take: the buffer's first bytes. */
    size_t start, end; /* Where in the buffer lies what isn't a plain frame. */
    int is_done;
} Received;

/* Read a batch of records behind what is in the buffer. */
static void read_batch(const Loop *loop, void *tls, long long room, Received *received) {
    for (int records = 0; records < SLOTS; records++) {
        if (PLAIN_BYTES - received->end < RECORD_BYTES)
            break;
        errno = 0;
        int count = loop->read(tls, buffer + received->end, RECORD_BYTES);
        if (count <= 0 || count > RECORD_BYTES) {
            received->is_done = 1;
            int code = errno, result = count <= 0 ? count : -1;
            if (loop->get_error(tls, result) != TLS_WANT_READ) {
                received->code = code;
                received->result = result;
            }
            return;
        }
        received->end += (size_t)count;
        received->used += count + OVERHEAD_BYTES;
        /* With room for whole records OpenSSL keeps none back. A short one is the last for now. */
        if (count < RECORD_BYTES || received->used > room) {
            received->is_done = 1;
            return;
        }
    }
}

/* Collect whole plain frames, or everything where there are no frames; returns how many parts that is. */
static int cut_parts(int epoch, struct iovec *parts, size_t *total, Received *received) {
    int count = 0;
    *total = 0;
    if (epoch < 0) {
        *total = received->end - received->start;
        parts[0].iov_base = buffer + received->start;
        parts[0].iov_len = *total;
        received->start = received->end;
        return *total > 0;
    }
    while (count < MAX_IOV && received->end - received->start >= HEADER_BYTES) {
        const unsigned char *header = buffer + received->start;
        size_t size = (size_t)header[2] << 8 | header[3];
        if (header[0] != FRAME_DATA || header[1] != epoch || size == 0 || size > PAYLOAD_BYTES) {
            received->is_done = 1;
            break;
        }
        if (received->end - received->start - HEADER_BYTES < size)
            break;
        parts[count].iov_base = buffer + received->start + HEADER_BYTES;
        parts[count].iov_len = size;
        count++;
        *total += size;
        received->start += HEADER_BYTES + size;
    }
    return count;
}

/* Move what the sink didn't take to the buffer's beginning; never over what comes after it. */
static void keep_rest(const struct iovec *parts, int count, size_t written, Received *received) {
    for (int index = 0; index < count; index++) {
        size_t size = parts[index].iov_len;
        if (written >= size) {
            written -= size;
            continue;
        }
        memmove(buffer + received->rest, (unsigned char *)parts[index].iov_base + written, size - written);
        received->rest += size - written;
        written = 0;
    }
}

/* Write the frames of one batch. False when the call has to return. */
static int write_parts(int sink, int epoch, Received *received) {
    struct iovec parts[MAX_IOV];
    size_t total;
    int count;
    while ((count = cut_parts(epoch, parts, &total, received)) > 0) {
        struct msghdr message;
        memset(&message, 0, sizeof message);
        message.msg_iov = parts;
        message.msg_iovlen = (size_t)count;
        ssize_t written = sendmsg(sink, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (written < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
                received->broken = errno;
                return 0;
            }
            written = 0;
        }
        received->written += written;
        if ((size_t)written < total) {
            keep_rest(parts, count, (size_t)written, received);
            return 0;
        }
    }
    return 1;
}

static void receive_all(const Loop *loop, void *tls, int sink, int epoch, long long room, Received *received) {
    loop->clear();
    for (;;) {
        read_batch(loop, tls, room, received);
        if (!write_parts(sink, epoch, received) || received->is_done || received->written >= BUDGET_BYTES)
            return;
        size_t left = received->end - received->start;
        memmove(buffer, buffer + received->start, left);
        received->start = 0;
        received->end = left;
    }
}

/* ---- socket -> socket ------------------------------------------------------------------------------------------- */

typedef struct {
    int status; /* WAITING, ENDED or BROKEN, as of `send`. */
    long long written;
    int code;   /* errno of the source. */
    int broken; /* errno of the sink, or 0. */
    size_t start, end;
} Forwarded;

static void forward_all(int source, int sink, Forwarded *forwarded) {
    for (;;) {
        ssize_t count = recv(source, buffer, PLAIN_BYTES, MSG_DONTWAIT);
        if (count < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
                forwarded->status = BROKEN;
                forwarded->code = errno;
            }
            return;
        }
        if (count == 0) {
            forwarded->status = ENDED;
            return;
        }
        ssize_t written = send(sink, buffer, (size_t)count, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (written < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
                forwarded->broken = errno;
                return;
            }
            written = 0;
        }
        forwarded->written += written;
        if (written < count) {
            forwarded->start = (size_t)written;
            forwarded->end = (size_t)count;
            return;
        }
        if (count < PLAIN_BYTES || forwarded->written >= BUDGET_BYTES)
            return;
    }
}

/* ---- Python ----------------------------------------------------------------------------------------------------- */

/* Read an argument that has to lie between two bounds. */
static int read_number(PyObject *value, long long least, long long most, long long *number) {
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
static int read_address(PyObject *value, void **address) {
    *address = PyLong_AsVoidPtr(value);
    if (*address == NULL && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "a null address");
    return *address != NULL;
}

/* TLS object, descriptor, epoch or -1, room of the key. */
static int read_arguments(PyObject *const *arguments, Py_ssize_t count, void **tls, int *fd, int *epoch,
                          long long *room) {
    long long number;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "four arguments: tls, descriptor, epoch, room");
        return 0;
    }
    if (!read_address(arguments[0], tls) || !read_number(arguments[1], 0, INT_MAX, &number))
        return 0;
    *fd = (int)number;
    if (!read_number(arguments[2], -1, 255, &number))
        return 0;
    *epoch = (int)number;
    return read_number(arguments[3], 0, LLONG_MAX, room);
}

/* Bytes of the buffer, or None where there are none; a new reference. */
static PyObject *copy_of(size_t start, size_t end) {
    if (start >= end)
        return Py_NewRef(Py_None);
    return PyBytes_FromStringAndSize((const char *)buffer + start, (Py_ssize_t)(end - start));
}

/* A tuple of these, which it takes over; NULL where one of them couldn't be made. */
static PyObject *tuple_of(PyObject **items, int count) {
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

PyDoc_STRVAR(send_doc, "send(tls, source, epoch, room) -> (status, taken, used, rest, result, errno)");

static PyObject *loop_send(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    void *tls;
    int source, epoch;
    long long room;
    if (!read_arguments(arguments, count, &tls, &source, &epoch, &room))
        return NULL;
    Sent sent = {.status = WAITING, .result = 1};
    Py_BEGIN_ALLOW_THREADS
    send_all((const Loop *)self, tls, source, epoch, room, &sent);
    Py_END_ALLOW_THREADS
    if (sent.status == FAILED)
        forget_rest(epoch, &sent);
    int has_rest = (sent.status == BLOCKED || sent.status == LIMIT) && sent.first < sent.past;
    PyObject *items[] = {
        PyLong_FromLong(sent.status), PyLong_FromLongLong(sent.taken),
        PyLong_FromLongLong(sent.used), has_rest ? list_rest(&sent) : Py_NewRef(Py_None),
        PyLong_FromLong(sent.result), PyLong_FromLong(sent.code),
    };
    return tuple_of(items, sizeof items / sizeof *items);
}

PyDoc_STRVAR(receive_doc, "receive(tls, sink, epoch, room) -> (written, used, rest, left, broken, result, errno)");

static PyObject *loop_receive(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    void *tls;
    int sink, epoch;
    long long room;
    if (!read_arguments(arguments, count, &tls, &sink, &epoch, &room))
        return NULL;
    Received received = {.result = 1};
    Py_BEGIN_ALLOW_THREADS
    receive_all((const Loop *)self, tls, sink, epoch, room, &received);
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
        loop->read = (tls_read_function)functions[0];
        loop->write = (tls_write_function)functions[1];
        loop->get_error = (tls_get_error_function)functions[2];
        loop->clear = (tls_clear_function)functions[3];
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
    if (result < 0 || PyModule_AddIntMacro(module, WAITING) < 0 || PyModule_AddIntMacro(module, ENDED) < 0 ||
        PyModule_AddIntMacro(module, BROKEN) < 0 || PyModule_AddIntMacro(module, BLOCKED) < 0 ||
        PyModule_AddIntMacro(module, LIMIT) < 0 || PyModule_AddIntMacro(module, FAILED) < 0 ||
        PyModule_AddIntMacro(module, BUDGET_BYTES) < 0 || PyModule_AddIntMacro(module, RECORD_BYTES) < 0 ||
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
