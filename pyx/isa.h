/*
 * The instruction set that the checksum and the hash's lanes run on: chosen at run time, so that
 * one wheel serves every machine. Bodies for AVX are compiled under their own target attribute.
 */
#ifndef TCPCORE_ISA_H
#define TCPCORE_ISA_H

/* Best first. */
enum isa { ISA_AVX512, ISA_AVX2, ISA_BASELINE };

#ifdef __x86_64__
#define ISA_X86 1
#define TARGET_AVX2 __attribute__((target("avx2")))
#define TARGET_AVX512 __attribute__((target("avx512f")))
#endif

/* 'avx512', 'avx2' or 'baseline'. */
const char *tcpcore_isa(void);

/*
 * Choose by name, or the best for NULL. -1, and nothing changes, for a name that is unknown or that
 * the machine lacks. For the module's import, while no other thread can be inside a body; until
 * then the baseline runs.
 */
int tcpcore_isa_select(const char *name);

#endif
