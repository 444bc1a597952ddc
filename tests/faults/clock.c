/*
 * Offsets the wall clock of a process, and only that: monotonic clocks, sleeps and timeouts stay true.
 *
 * Loaded with LD_PRELOAD. FAULTS_CLOCK names a file of eight bytes, the offset in nanoseconds as a little-endian signed
 * integer, which is mapped: writing the file changes the clock of running processes at once.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t none = 0, *offset_ns = &none;

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("FAULTS_CLOCK");
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset_ns, PROT_READ, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED)
        offset_ns = map;
    if (fd >= 0)
        close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *out)
{
    int result = (int)syscall(SYS_clock_gettime, clock, out);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t now = out->tv_sec * 1000000000 + out->tv_nsec + *offset_ns;
        out->tv_sec = now / 1000000000 - (now % 1000000000 < 0);
        out->tv_nsec = (now % 1000000000 + 1000000000) % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL)
        *out = now.tv_sec;
    return now.tv_sec;
}
