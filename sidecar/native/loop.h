/* What the extension's types share with one another: loop.c and mover_type.c. */
#ifndef TOUCHMARK_LOOP_H
#define TOUCHMARK_LOOP_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "moves.h"

typedef struct {
    PyObject_HEAD
    Tls tls;
} Loop;

/* Read an argument that has to lie between two bounds; an address in this process. False with an exception. */
int read_number(PyObject *value, long long least, long long most, long long *number);
int read_address(PyObject *value, void **address);

/* A tuple of these, which it takes over; NULL where one of them couldn't be made. */
PyObject *tuple_of(PyObject **items, int count);

/* The records that weren't written, of which `start` is the first one's slot; None where there are none. */
PyObject *list_rest(const unsigned char *start, const Sent *sent);

/* Add the mover's types to the module. */
int add_mover(PyObject *module);

#endif
