#include "arrow.h"

#include <string.h>

/* The C data interface and the C stream interface of Apache Arrow, whose layouts are its ABI. */
struct ArrowSchema {
    const char *format, *name, *metadata;
    int64_t flags, n_children;
    struct ArrowSchema **children, *dictionary;
    void (*release)(struct ArrowSchema *);
    void *private_data;
};

struct ArrowArray {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct ArrowArray **children, *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

struct ArrowArrayStream {
    int (*get_schema)(struct ArrowArrayStream *, struct ArrowSchema *);
    int (*get_next)(struct ArrowArrayStream *, struct ArrowArray *);
    const char *(*get_last_error)(struct ArrowArrayStream *);
    void (*release)(struct ArrowArrayStream *);
    void *private_data;
};

/* The thread may be one that Python never saw, and an exception may be on its way. */
static void drop(PyObject *owner)
{
    PyObject *type, *value, *traceback;
    PyGILState_STATE gil;

    if (!Py_IsInitialized()) /* a consumer that outlives Python */
        return;
    gil = PyGILState_Ensure();
    PyErr_Fetch(&type, &value, &traceback);
    Py_DECREF(owner);
    PyErr_Restore(type, value, traceback);
    PyGILState_Release(gil);
}

/* A child without release was moved away: it lives on with its new owner. */
#define RELEASE_CHILDREN(parent)                                                                                       \
    for (int64_t i = 0; i < (parent)->n_children; i++)                                                                 \
        if ((parent)->children[i]->release)                                                                            \
            (parent)->children[i]->release((parent)->children[i]);

void arrow_release_schema(struct ArrowSchema *schema)
{
    RELEASE_CHILDREN(schema)
    schema->release = NULL;
    drop(schema->private_data);
}

void arrow_release_array(struct ArrowArray *array)
{
    RELEASE_CHILDREN(array)
    array->release = NULL;
    drop(array->private_data);
}

void arrow_release_stream(struct ArrowArrayStream *stream)
{
    stream->release = NULL;
    drop(stream->private_data);
}

void arrow_free_capsule(PyObject *capsule)
{
    const char *name = PyCapsule_GetName(capsule);
    void *pointer = PyCapsule_GetPointer(capsule, name);

    if (strcmp(name, "arrow_schema") == 0) {
        struct ArrowSchema *schema = pointer;
        if (schema->release) /* nobody took it */
            schema->release(schema);
    } else {
        struct ArrowArrayStream *stream = pointer;
        if (stream->release)
            stream->release(stream);
    }
    drop(PyCapsule_GetContext(capsule));
}
