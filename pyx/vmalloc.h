/*
 * Zeroed memory for tables and columns, in huge pages where there are any: at ten million connections most of a packet's
 * time would go into walking page tables. Growing moves pages, not bytes. Linux: mm/vmalloc.c, mm/mremap.c.
 */
#ifndef TCPCORE_VMALLOC_H
#define TCPCORE_VMALLOC_H

#include <stddef.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h> /* mremap: Python.h has defined _GNU_SOURCE */
#endif

static inline void *vzalloc(size_t size)
{
#ifdef __linux__
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, size, MADV_HUGEPAGE);
    return p;
#else
    return calloc(1, size);
#endif
}

static inline void vfree(void *p, size_t size)
{
    if (!p)
        return;
#ifdef __linux__
    munmap(p, size);
#else
    (void)size;
    free(p);
#endif
}

/* NULL where there is no memory; then the old piece stands. What is new is zero on Linux only. */
static inline void *vgrow(void *p, size_t old, size_t size)
{
    if (!p)
        return vzalloc(size);
#ifdef __linux__
    p = mremap(p, old, size, MREMAP_MAYMOVE);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, size, MADV_HUGEPAGE);
    return p;
#else
    (void)old;
    return realloc(p, size);
#endif
}

#endif
