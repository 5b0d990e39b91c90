#pragma once
/* What Arrow's consumers call to give memory back; tcpcore/arrow.py fills in the rest of the structs. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

struct ArrowSchema;
struct ArrowArray;
struct ArrowArrayStream;

/* private_data is an owned reference to what keeps the struct's memory alive. */
void arrow_release_schema(struct ArrowSchema *schema);
void arrow_release_array(struct ArrowArray *array);
void arrow_release_stream(struct ArrowArrayStream *stream);

/* Destructor of a capsule whose context is an owned reference to the struct it points to. */
void arrow_free_capsule(PyObject *capsule);
