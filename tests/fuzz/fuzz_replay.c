/* libFuzzer's entry: each input goes to MODULE.one in an interpreter of our own; run.py builds and runs it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>

static PyObject *one;

static void stop_on_error(const void *made)
{
    if (made)
        return;
    PyErr_Print();
    abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    PyObject *module;

    (void)argc;
    (void)argv;
    Py_Initialize();
    module = PyImport_ImportModule(MODULE);
    stop_on_error(module);
    one = PyObject_GetAttrString(module, "one");
    stop_on_error(one);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    PyObject *done = PyObject_CallFunction(one, "y#", (const char *)data, (Py_ssize_t)size);

    stop_on_error(done);
    Py_DECREF(done);
    return 0;
}
