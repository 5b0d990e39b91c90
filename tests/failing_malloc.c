/* Preloaded: fails chosen allocations of one shared object, and counts what it holds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>

#define PLACES (1u << 20) /* more than a test allocates at a time */

static uintptr_t low, high; /* the code whose calls count */
static long calls, fail_at, fail_more, failed, live;
static void *places[PLACES];

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void (*real_free)(void *);

/* What dlsym allocates before there is a calloc. */
static char early[4096];
static size_t early_used;

static void look_up(void)
{
    real_malloc = dlsym(RTLD_NEXT, "malloc");
    real_calloc = dlsym(RTLD_NEXT, "calloc");
    real_realloc = dlsym(RTLD_NEXT, "realloc");
    real_free = dlsym(RTLD_NEXT, "free");
}

static int ours(void *caller) { return (uintptr_t)caller >= low && (uintptr_t)caller < high; }

static int fails(void)
{
    calls++;
    if (!fail_at || calls < fail_at || calls >= fail_at + fail_more)
        return 0;
    failed++;
    return 1;
}

static void note(void *p)
{
    size_t at = ((uintptr_t)p >> 4) * 0x9E3779B97F4A7C15u % PLACES;

    while (places[at] && places[at] != (void *)1)
        at = (at + 1) % PLACES;
    places[at] = p;
    live++;
}

static void forget(void *p)
{
    size_t at = ((uintptr_t)p >> 4) * 0x9E3779B97F4A7C15u % PLACES;

    while (places[at] && places[at] != p)
        at = (at + 1) % PLACES;
    if (places[at]) {
        places[at] = (void *)1;
        live--;
    }
}

void *malloc(size_t size)
{
    void *p;

    if (!real_malloc)
        look_up();
    if (!ours(__builtin_return_address(0)))
        return real_malloc(size);
    if (fails() || !(p = real_malloc(size)))
        return NULL;
    note(p);
    return p;
}

void *calloc(size_t n, size_t size)
{
    void *p;

    if (!real_calloc) {
        if (early_used + n * size > sizeof early)
            return NULL;
        p = early + early_used;
        early_used += (n * size + 15) & ~(size_t)15;
        return p;
    }
    if (!ours(__builtin_return_address(0)))
        return real_calloc(n, size);
    if (fails() || !(p = real_calloc(n, size)))
        return NULL;
    note(p);
    return p;
}

void *realloc(void *old, size_t size)
{
    void *p;

    if (!real_realloc)
        look_up();
    if (!ours(__builtin_return_address(0)))
        return real_realloc(old, size);
    if (fails() || !(p = real_realloc(old, size)))
        return NULL;
    if (old)
        forget(old);
    note(p);
    return p;
}

void free(void *p)
{
    if ((char *)p >= early && (char *)p < early + sizeof early)
        return;
    if (!real_free)
        look_up();
    if (p && ours(__builtin_return_address(0)))
        forget(p);
    real_free(p);
}

/* Called through ctypes. */

void failing_watch(uintptr_t from, uintptr_t to)
{
    low = from;
    high = to;
}

/* Fail the calls from the n-th on, `more` of them; 0: none. */
void failing_arm(long n, long more)
{
    calls = failed = 0;
    fail_at = n;
    fail_more = more;
}

long failing_calls(void) { return calls; }

long failing_failed(void) { return failed; }

long failing_live(void) { return live; }
