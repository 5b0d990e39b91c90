/* Memory in huge pages, and the little that is kept of it. */
#ifdef __linux__
#define _GNU_SOURCE /* mremap */
#endif
#include "vmalloc.h"

#include <stdlib.h>
#include <string.h>

#include "unaligned.h"

#ifdef __linux__
#include <sys/mman.h>

static struct {
    void *p;
    size_t size;
} areas[VKEEP_AREAS];
static int n_areas;
static size_t kept;
static int lock;

static void *map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    madvise(p, size, MADV_HUGEPAGE);
    return p;
}

/* The area of that size which was kept last: it is the likeliest to be here still. */
static void *take(size_t size)
{
    void *p = NULL;

    if (size < VKEEP_MIN || !spin_trylock(&lock))
        return NULL;
    for (int i = n_areas; i-- && !p;) {
        if (areas[i].size == size) {
            p = areas[i].p;
            memmove(&areas[i], &areas[i + 1], (--n_areas - i) * sizeof *areas);
            kept -= size;
        }
    }
    spin_unlock(&lock);
    return p;
}

void *vmalloc(size_t size)
{
    void *p = take(size);

    return p ? p : map(size);
}

void *vzalloc(size_t size)
{
    void *p = take(size);

    return p ? memset(p, 0, size) : map(size);
}

void *vzlazy(size_t size) { return map(size); }

void vfree(void *p, size_t size)
{
    if (p)
        munmap(p, size);
}

void vkeep(void *p, size_t size)
{
    int room;

    if (!p)
        return;
    if (size >= VKEEP_MIN && spin_trylock(&lock)) {
        room = n_areas < VKEEP_AREAS && size <= VKEEP_MAX - kept && !madvise(p, size, MADV_FREE);
        if (room) {
            areas[n_areas].p = p;
            areas[n_areas++].size = size;
            kept += size;
        }
        spin_unlock(&lock);
        if (room)
            return;
    }
    vfree(p, size);
}

void *vgrow(void *p, size_t old, size_t size)
{
    void *more;

    if (!p)
        return vmalloc(size);
    more = size > old ? take(size) : NULL;
    if (more) {
        memcpy(more, p, old);
        vfree(p, old);
        return more;
    }
    more = mremap(p, old, size, MREMAP_MAYMOVE);
    if (more == MAP_FAILED)
        return NULL;
    madvise(more, size, MADV_HUGEPAGE);
    return more;
}

#else

void *vmalloc(size_t size) { return malloc(size); }

void *vzalloc(size_t size) { return calloc(1, size); }

void *vzlazy(size_t size) { return calloc(1, size); }

void vfree(void *p, size_t size)
{
    (void)size;
    free(p);
}

void vkeep(void *p, size_t size) { vfree(p, size); }

void *vgrow(void *p, size_t old, size_t size)
{
    (void)old;
    return realloc(p, size);
}

#endif
