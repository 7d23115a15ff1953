/* Leave to use the tile registers of AMX, which Linux grants a process that asks: for all its threads, those to come too. */
#include <sys/syscall.h>

long syscall(long number, ...);

static int tiles_granted;

__attribute__((constructor)) static void ask_for_tiles(void) {
  enum { REQUEST = 0x1023 /* ARCH_REQ_XCOMP_PERM */, TILE_DATA = 18 };
  tiles_granted = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}
