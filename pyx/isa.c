/* Which bodies run, of those that the machine can. */
#include "isa.h"

#include <string.h>

#include "csum.h"
#include "siphash.h"

static const char *const names[] = {
    [ISA_AVX512] = "avx512",
    [ISA_AVX2] = "avx2",
    [ISA_BASELINE] = "baseline",
};

static enum isa chosen = ISA_BASELINE;

/* The builtins ask XGETBV too: AVX counts only where the operating system saves its registers. */
static int supported(enum isa isa)
{
#ifdef ISA_X86
    __builtin_cpu_init();
    if (isa == ISA_AVX512)
        return __builtin_cpu_supports("avx512f") != 0;
    if (isa == ISA_AVX2)
        return __builtin_cpu_supports("avx2") != 0;
#endif
    return isa == ISA_BASELINE;
}

const char *tcpcore_isa(void)
{
    return names[chosen];
}

int tcpcore_isa_select(const char *name)
{
    for (enum isa isa = ISA_AVX512; isa <= ISA_BASELINE; isa++) {
        if ((name && strcmp(name, names[isa]) != 0) || !supported(isa))
            continue;
        chosen = isa;
        csum_select(isa);
        siphash_select(isa);
        return 0;
    }
    return -1;
}
