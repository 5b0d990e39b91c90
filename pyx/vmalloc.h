/*
 * Memory for tables and columns, in huge pages where there are any: at ten million connections most of a packet's time
 * would go into walking page tables. Growing moves pages, not bytes. What a replay leaves is kept for the next one, up to
 * a bound: the system may take it back at any time (MADV_FREE), and where it has not, nobody has to clear it again, which
 * costs more than to follow a connection. Linux: mm/vmalloc.c, mm/mremap.c.
 */
#ifndef TCPCORE_VMALLOC_H
#define TCPCORE_VMALLOC_H

#include <stddef.h>

enum { VKEEP_AREAS = 1024, VKEEP_MIN = 1 << 20 };
#define VKEEP_MAX ((size_t)512 << 20) /* bytes of all that is kept */

void *vmalloc(size_t size); /* what it holds is arbitrary */
void *vzalloc(size_t size);
void *vzlazy(size_t size); /* zeros that cost nothing until they are read */
void vfree(void *p, size_t size);
void vkeep(void *p, size_t size); /* like vfree, but it may come back from vmalloc */

/* NULL where there is no memory; then the old piece stands. What is new is arbitrary. What shrinks may move too. */
void *vgrow(void *p, size_t old, size_t size);

#endif
