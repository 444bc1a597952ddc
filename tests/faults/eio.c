/*
 * Makes a piece of one file unreadable: reading it fails with EIO, through whatever descriptor and under whatever name.
 *
 * Loaded with LD_PRELOAD. FAULTS_EIO names a file of three little-endian 64-bit integers: the inode, and the first and
 * the last byte of the piece. It is mapped, so writing the file changes the piece at once; inode 0 is none.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const volatile int64_t none[3], *piece = none;

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("FAULTS_EIO");
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED)
        piece = map;
    if (fd >= 0)
        close(fd);
}

static int is_unreadable(int fd, int64_t offset, size_t size)
{
    struct stat status;
    if (piece[0] == 0 || offset > piece[2] || offset + (int64_t)size <= piece[1])
        return 0;
    return fstat(fd, &status) == 0 && (int64_t)status.st_ino == piece[0];
}

ssize_t pread64(int fd, void *buffer, size_t size, off64_t offset)
{
    if (is_unreadable(fd, offset, size)) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_pread64, fd, buffer, size, offset);
}

ssize_t pread(int fd, void *buffer, size_t size, off_t offset)
{
    return pread64(fd, buffer, size, offset);
}

ssize_t read(int fd, void *buffer, size_t size)
{
    if (piece[0] != 0 && is_unreadable(fd, lseek(fd, 0, SEEK_CUR), size)) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_read, fd, buffer, size);
}
