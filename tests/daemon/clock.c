/* A library for LD_PRELOAD. It adds an offset to CLOCK_REALTIME: the seconds in the file that CLAVIGER_CLOCK names, which may
   change at any time. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile long *ahead;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLAVIGER_CLOCK"), O_RDONLY | O_CLOEXEC);
    void *page = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED)
        abort();
    ahead = page;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME && ahead)
        now->tv_sec += *ahead;
    return result;
}
