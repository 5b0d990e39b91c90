/* Counts of who holds something that threads share. Linux: include/linux/refcount.h. */
#ifndef TCPCORE_REFCOUNT_H
#define TCPCORE_REFCOUNT_H

#include <stdint.h>

#ifdef _MSC_VER
#include <intrin.h>
#define refcount_inc(refs) ((void)_InterlockedIncrement((volatile long *)(refs)))
#define refcount_dec_and_test(refs) (_InterlockedDecrement((volatile long *)(refs)) == 0)
#else
static inline void refcount_inc(int32_t *refs)
{
    __atomic_fetch_add(refs, 1, __ATOMIC_RELAXED);
}

/* True for whoever was the last, and who then sees all that the others did. */
static inline int refcount_dec_and_test(int32_t *refs)
{
    if (__atomic_load_n(refs, __ATOMIC_ACQUIRE) == 1)
        return 1; /* nobody else has it who could hand it on */
    return __atomic_sub_fetch(refs, 1, __ATOMIC_ACQ_REL) == 0;
}
#endif

#endif
