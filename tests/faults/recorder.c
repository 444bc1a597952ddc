/*
 * Records what a process does to the files below one directory, and makes chosen calls fail or kill the process.
 *
 * Loaded with LD_PRELOAD. Recording starts at faults_begin(), or at load if FAULTS_ROOT and FAULTS_LOG are set. Every
 * record is one append to the log, written before the caller gets its answer, so the log survives a SIGKILL and its
 * order is the order in which the operations took effect: an operation and its record share one lock. A sync alone
 * has two records, since what is written while it runs is not covered by it.
 *
 * Only files opened by their path below the root are seen; symbolic links into it are not followed. The calls are made
 * as raw system calls, so nothing depends on the order of other preloaded libraries.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef FALLOC_FL_KEEP_SIZE
#define FALLOC_FL_KEEP_SIZE 1
#endif

/* The numbers are part of the log's format: log.py holds the same list. */
enum {
    OP_OPEN = 1, OP_WRITE = 2, OP_TRUNCATE = 3, OP_ALLOCATE = 4, OP_SYNC_BEGIN = 5, OP_SYNC_END = 6, OP_UNLINK = 7,
    OP_RMDIR = 8, OP_RENAME = 9, OP_MKDIR = 10, OP_LINK = 11, OP_MAP = 12, OP_MARK = 13, OP_INJECTED = 14, OP_CLOSE = 15,
};

enum { MODE_FAIL = 0, MODE_SHORT = 1, MODE_KILL_BEFORE = 2, MODE_KILL_AFTER = 3, MODE_KILL_TORN = 4 };

struct record {
    uint32_t magic, op, pid, tid;
    uint64_t time_ns, inode;
    int64_t a, b;
    int32_t error;
    uint32_t first_size, second_size, reserved;
};

#define MAGIC 0x54554146u
#define DESCRIPTORS_MAX 65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards everything declared below */
static char root[PATH_MAX];
static size_t root_size;
static int log_fd = -1;
static char *names[DESCRIPTORS_MAX]; /* path of each descriptor below the root, else NULL */
static int64_t syncs;
static struct {
    uint32_t operations; /* bit per OP_ number; 0 is "off" */
    char suffix[256];
    int64_t nth, times, seen;
    int error, mode;
} fault;

static void hold(void) { pthread_mutex_lock(&lock); }
static void release(void) { pthread_mutex_unlock(&lock); }

static void record(int op, uint64_t inode, int64_t a, int64_t b, int error, const void *first, size_t first_size,
                   const void *second, size_t second_size)
{
    int saved = errno;
    struct timespec now;
    struct record head = {.magic = MAGIC, .op = (uint32_t)op, .inode = inode, .a = a, .b = b, .error = error,
                          .first_size = (uint32_t)first_size, .second_size = (uint32_t)second_size};
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    head.time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    head.pid = (uint32_t)syscall(SYS_getpid);
    head.tid = (uint32_t)syscall(SYS_gettid);
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)first, first_size}, {(void *)second, second_size}};
    if (syscall(SYS_writev, log_fd, parts, 3) != (long)(sizeof head + first_size + second_size))
        abort(); /* a log with a hole would prove nothing */
    errno = saved;
}

static void record_path(int op, uint64_t inode, int64_t a, int64_t b, const char *path)
{
    record(op, inode, a, b, 0, path, strlen(path), NULL, 0);
}

static uint64_t inode_of(int fd)
{
    struct stat status;
    int saved = errno;
    uint64_t inode = fstat(fd, &status) == 0 ? (uint64_t)status.st_ino : 0;
    errno = saved;
    return inode;
}

/* Writes the absolute form of a path; true if it lies below the root. Cheap for everything else. */
static int below_root(int dirfd, const char *path, char *out)
{
    if (log_fd < 0 || path == NULL)
        return 0;
    int saved = errno;
    char joined[2 * PATH_MAX];
    if (path[0] == '/') {
        if (strncmp(path, root, root_size) != 0)
            return 0;
        if (strlen(path) >= PATH_MAX)
            return 0;
        strcpy(joined, path);
    } else {
        char base[PATH_MAX];
        if (dirfd == AT_FDCWD) {
            if (syscall(SYS_getcwd, base, sizeof base) < 0)
                return errno = saved, 0;
        } else {
            char link[64] = "/proc/self/fd/", digits[16];
            int at = 0, value = dirfd;
            do
                digits[at++] = (char)('0' + value % 10);
            while ((value /= 10) > 0);
            size_t end = strlen(link);
            while (at > 0)
                link[end++] = digits[--at];
            link[end] = 0;
            ssize_t size = readlink(link, base, sizeof base - 1);
            if (size < 0)
                return errno = saved, 0;
            base[size] = 0;
        }
        size_t base_size = strlen(base), path_size = strlen(path);
        if (base_size + path_size + 2 > sizeof joined)
            return errno = saved, 0;
        memcpy(joined, base, base_size);
        joined[base_size] = '/';
        memcpy(joined + base_size + 1, path, path_size + 1);
    }
    errno = saved;
    /* "a//b", "a/./b", "a/../b" and a trailing slash, without a system call */
    size_t end = 0;
    for (const char *part = joined; *part != 0;) {
        while (*part == '/')
            part++;
        size_t size = strcspn(part, "/");
        if (size == 0)
            break;
        if (size == 1 && part[0] == '.') {
        } else if (size == 2 && part[0] == '.' && part[1] == '.') {
            while (end > 0 && out[--end] != '/') {
            }
        } else {
            if (end + size + 2 > PATH_MAX)
                return 0;
            out[end++] = '/';
            memcpy(out + end, part, size);
            end += size;
        }
        part += size;
    }
    out[end] = 0;
    return strncmp(out, root, root_size) == 0 && (out[root_size] == '/' || out[root_size] == 0);
}

static int watched(int fd) { return log_fd >= 0 && fd >= 0 && fd < DESCRIPTORS_MAX && names[fd] != NULL; }

static void watch(int fd, const char *path)
{
    if (fd < 0 || fd >= DESCRIPTORS_MAX)
        return;
    free(names[fd]);
    names[fd] = path == NULL ? NULL : strdup(path);
}

static void die(void)
{
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;)
        pause();
}

/* Counts the call; true if it is the one to fail (or to die at). The caller holds the lock. */
static int strikes(int op, const char *path, uint64_t inode)
{
    if ((fault.operations & (1u << op)) == 0)
        return 0;
    size_t size = strlen(path), wanted = strlen(fault.suffix);
    if (size < wanted || strcmp(path + size - wanted, fault.suffix) != 0)
        return 0;
    int64_t at = ++fault.seen;
    if (at < fault.nth || at >= fault.nth + fault.times)
        return 0;
    record(OP_INJECTED, inode, op, fault.mode, fault.error, path, strlen(path), NULL, 0);
    if (fault.mode == MODE_KILL_BEFORE)
        die();
    return 1;
}

/* True if the struck call fails without being done. */
static int refuses(int struck) { return struck && (fault.mode == MODE_FAIL || fault.mode == MODE_SHORT); }

static void maybe_die(int struck)
{
    if (struck && fault.mode >= MODE_KILL_AFTER)
        die();
}

/* ---- what the test's process calls ---- */

int faults_begin(const char *directory, const char *log_path)
{
    hold();
    if (log_fd >= 0)
        syscall(SYS_close, log_fd);
    log_fd = -1;
    root_size = strlen(directory);
    memcpy(root, directory, root_size + 1);
    long fd = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    long high = fd < 0 ? -1 : syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 900);
    if (fd >= 0)
        syscall(SYS_close, fd);
    log_fd = (int)high;
    release();
    return log_fd >= 0 ? 0 : -1;
}

void faults_mark(const char *text, int64_t size)
{
    hold();
    if (log_fd >= 0)
        record(OP_MARK, 0, 0, 0, 0, text, (size_t)size, NULL, 0);
    release();
}

void faults_inject(uint32_t operations, const char *suffix, int64_t nth, int64_t times, int error, int mode)
{
    hold();
    fault.operations = operations;
    strncpy(fault.suffix, suffix, sizeof fault.suffix - 1);
    fault.nth = nth;
    fault.times = times;
    fault.seen = 0;
    fault.error = error;
    fault.mode = mode;
    release();
}

int64_t faults_seen(void) { return fault.seen; }

static void after_fork_in_child(void) { release(); }

__attribute__((constructor)) static void start(void)
{
    pthread_atfork(hold, release, after_fork_in_child);
    const char *directory = getenv("FAULTS_ROOT"), *log_path = getenv("FAULTS_LOG");
    if (directory != NULL && log_path != NULL && faults_begin(directory, log_path) != 0)
        abort();
}

/* ---- the calls ---- */

static int do_open(int dirfd, const char *path, int flags, mode_t mode)
{
    char full[PATH_MAX];
    if (!below_root(dirfd, path, full))
        return (int)syscall(SYS_openat, dirfd, path, flags, mode);
    hold();
    struct stat status;
    int saved = errno;
    int existed = lstat(full, &status) == 0;
    errno = saved;
    int changes = (flags & O_TRUNC) || ((flags & O_CREAT) && !existed);
    int struck = changes && strikes(OP_OPEN, full, existed ? (uint64_t)status.st_ino : 0);
    if (refuses(struck)) {
        release();
        return errno = fault.error, -1;
    }
    int fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
    if (fd >= 0) {
        watch(fd, full);
        if (fstat(fd, &status) == 0)
            record_path(OP_OPEN, (uint64_t)status.st_ino, flags,
                        (existed ? 0 : 1) | (S_ISDIR(status.st_mode) ? 2 : 0) | ((flags & O_TRUNC) ? 4 : 0), full);
    }
    maybe_die(struck);
    release();
    return fd;
}

#define MODE_ARGUMENT                                                                                                  \
    mode_t mode = 0;                                                                                                   \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                                             \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }

int open(const char *path, int flags, ...) { MODE_ARGUMENT return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_ARGUMENT return do_open(AT_FDCWD, path, flags, mode); }
int openat(int dirfd, const char *path, int flags, ...) { MODE_ARGUMENT return do_open(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { MODE_ARGUMENT return do_open(dirfd, path, flags, mode); }
int __open_2(const char *path, int flags) { return do_open(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return do_open(AT_FDCWD, path, flags, 0); }
int __openat_2(int dirfd, const char *path, int flags) { return do_open(dirfd, path, flags, 0); }
int __openat64_2(int dirfd, const char *path, int flags) { return do_open(dirfd, path, flags, 0); }
int creat(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd)
{
    if (!watched(fd))
        return (int)syscall(SYS_close, fd);
    hold();
    record_path(OP_CLOSE, inode_of(fd), 0, 0, names[fd]);
    watch(fd, NULL);
    int result = (int)syscall(SYS_close, fd);
    release();
    return result;
}

static int duplicated(int from, int to)
{
    if (to >= 0 && (watched(from) || watched(to))) {
        hold();
        watch(to, from < DESCRIPTORS_MAX ? names[from] : NULL);
        release();
    }
    return to;
}

int dup(int fd) { return duplicated(fd, (int)syscall(SYS_dup, fd)); }
int dup2(int fd, int to) { return fd == to ? (int)syscall(SYS_dup2, fd, to) : duplicated(fd, (int)syscall(SYS_dup2, fd, to)); }
int dup3(int fd, int to, int flags) { return duplicated(fd, (int)syscall(SYS_dup3, fd, to, flags)); }

#define FCNTL                                                                                                          \
    va_list rest;                                                                                                      \
    va_start(rest, command);                                                                                           \
    void *argument = va_arg(rest, void *);                                                                             \
    va_end(rest);                                                                                                      \
    int result = (int)syscall(SYS_fcntl, fd, command, argument);                                                       \
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? duplicated(fd, result) : result;

int fcntl(int fd, int command, ...) { FCNTL }
int fcntl64(int fd, int command, ...) { FCNTL }

/* `at` < 0: at the descriptor's own position. */
static ssize_t do_write(int fd, const struct iovec *parts, int count, int64_t at)
{
    hold();
    size_t size = 0;
    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    char *data = malloc(size + 1);
    size_t end = 0;
    for (int i = 0; i < count; i++) {
        memcpy(data + end, parts[i].iov_base, parts[i].iov_len);
        end += parts[i].iov_len;
    }
    uint64_t inode = inode_of(fd);
    int struck = strikes(OP_WRITE, names[fd], inode);
    ssize_t done;
    if (struck && fault.mode == MODE_FAIL) {
        errno = fault.error;
        done = -1;
    } else {
        if (struck && (fault.mode == MODE_SHORT || fault.mode == MODE_KILL_TORN) && size > 1) {
            size /= 2;
            if (fault.mode == MODE_SHORT)
                fault.mode = MODE_FAIL; /* what follows a short write is the error itself */
        }
        done = at < 0 ? syscall(SYS_write, fd, data, size) : syscall(SYS_pwrite64, fd, data, size, at);
        if (done > 0) {
            int64_t start = at < 0 ? (int64_t)syscall(SYS_lseek, fd, 0, SEEK_CUR) - done : at;
            record(OP_WRITE, inode, start, 0, 0, data, (size_t)done, NULL, 0);
        }
        maybe_die(struck);
    }
    int saved = errno;
    free(data);
    release();
    errno = saved;
    return done;
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (!watched(fd))
        return syscall(SYS_write, fd, data, size);
    struct iovec part = {(void *)data, size};
    return do_write(fd, &part, 1, -1);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    if (!watched(fd))
        return syscall(SYS_pwrite64, fd, data, size, at);
    struct iovec part = {(void *)data, size};
    return do_write(fd, &part, 1, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return pwrite(fd, data, size, at); }

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return watched(fd) ? do_write(fd, parts, count, -1) : syscall(SYS_writev, fd, parts, count);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
    return watched(fd) ? do_write(fd, parts, count, at) : syscall(SYS_pwritev, fd, parts, count, at, 0);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) { return pwritev(fd, parts, count, at); }

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags)
{
    return watched(fd) ? do_write(fd, parts, count, at) : syscall(SYS_pwritev2, fd, parts, count, at, 0, flags);
}


ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags)
{
    return pwritev2(fd, parts, count, at, flags);
}

/* What copies between files inside the kernel would pass unseen: callers have a fallback for ENOSYS. */
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned int flags)
{
    if (!watched(to))
        return syscall(SYS_copy_file_range, from, from_at, to, to_at, size, flags);
    return errno = ENOSYS, -1;
}

ssize_t sendfile(int to, int from, off_t *at, size_t size)
{
    if (!watched(to))
        return syscall(SYS_sendfile, to, from, at, size);
    return errno = EINVAL, -1;
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { return sendfile(to, from, at, size); }

int ftruncate(int fd, off_t size)
{
    if (!watched(fd))
        return (int)syscall(SYS_ftruncate, fd, size);
    hold();
    uint64_t inode = inode_of(fd);
    int struck = strikes(OP_TRUNCATE, names[fd], inode);
    if (refuses(struck)) {
        release();
        return errno = fault.error, -1;
    }
    int result = (int)syscall(SYS_ftruncate, fd, size);
    if (result == 0)
        record_path(OP_TRUNCATE, inode, size, 0, names[fd]);
    maybe_die(struck);
    release();
    return result;
}

int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int truncate(const char *path, off_t size)
{
    char full[PATH_MAX];
    if (!below_root(AT_FDCWD, path, full))
        return (int)syscall(SYS_truncate, path, size);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = ftruncate(fd, size), saved = errno;
    close(fd);
    errno = saved;
    return result;
}

int truncate64(const char *path, off64_t size) { return truncate(path, size); }

int fallocate(int fd, int mode, off_t at, off_t size)
{
    if (!watched(fd))
        return (int)syscall(SYS_fallocate, fd, mode, at, size);
    hold();
    uint64_t inode = inode_of(fd);
    int struck = strikes(OP_ALLOCATE, names[fd], inode);
    if (refuses(struck)) {
        release();
        return errno = fault.error, -1;
    }
    int result = (int)syscall(SYS_fallocate, fd, mode, at, size);
    if (result == 0)
        record(OP_ALLOCATE, inode, at, size, mode, names[fd], strlen(names[fd]), NULL, 0);
    maybe_die(struck);
    release();
    return result;
}

int fallocate64(int fd, int mode, off64_t at, off64_t size) { return fallocate(fd, mode, at, size); }

int posix_fallocate(int fd, off_t at, off_t size)
{
    int saved = errno, result = fallocate(fd, 0, at, size) == 0 ? 0 : errno;
    errno = saved;
    return result;
}

int posix_fallocate64(int fd, off64_t at, off64_t size) { return posix_fallocate(fd, at, size); }

static int do_sync(int fd, long number)
{
    if (!watched(fd))
        return (int)syscall(number, fd);
    hold();
    uint64_t inode = inode_of(fd);
    int64_t ticket = ((int64_t)syscall(SYS_getpid) << 32) + ++syncs;
    int struck = strikes(OP_SYNC_BEGIN, names[fd], inode);
    record(OP_SYNC_BEGIN, inode, ticket, 0, 0, names[fd], strlen(names[fd]), NULL, 0);
    if (refuses(struck)) {
        record(OP_SYNC_END, inode, ticket, 0, fault.error, names[fd], strlen(names[fd]), NULL, 0);
        release();
        return errno = fault.error, -1;
    }
    release(); /* others may write meanwhile, as they can on a real disk */
    int result = (int)syscall(number, fd);
    int error = result == 0 ? 0 : errno;
    hold();
    record(OP_SYNC_END, inode, ticket, 0, error, NULL, 0, NULL, 0);
    maybe_die(struck);
    release();
    errno = error == 0 ? errno : error;
    return result;
}

int fsync(int fd) { return do_sync(fd, SYS_fsync); }
int fdatasync(int fd) { return do_sync(fd, SYS_fdatasync); }

static int do_unlink(int dirfd, const char *path, int flags)
{
    char full[PATH_MAX];
    if (!below_root(dirfd, path, full))
        return (int)syscall(SYS_unlinkat, dirfd, path, flags);
    int op = (flags & AT_REMOVEDIR) ? OP_RMDIR : OP_UNLINK;
    hold();
    int struck = strikes(op, full, 0);
    if (refuses(struck)) {
        release();
        return errno = fault.error, -1;
    }
    int result = (int)syscall(SYS_unlinkat, dirfd, path, flags);
    if (result == 0)
        record_path(op, 0, 0, 0, full);
    maybe_die(struck);
    release();
    return result;
}

int unlink(const char *path) { return do_unlink(AT_FDCWD, path, 0); }
int unlinkat(int dirfd, const char *path, int flags) { return do_unlink(dirfd, path, flags); }
int rmdir(const char *path) { return do_unlink(AT_FDCWD, path, AT_REMOVEDIR); }

int remove(const char *path)
{
    int result = unlink(path);
    return result != 0 && (errno == EISDIR || errno == EPERM) ? rmdir(path) : result;
}

static int do_rename(int op, int from_fd, const char *from, int to_fd, const char *to, unsigned int flags)
{
    char full_from[PATH_MAX], full_to[PATH_MAX];
    int seen = below_root(from_fd, from, full_from), seen_to = below_root(to_fd, to, full_to);
    if (!seen && !seen_to)
        return op == OP_RENAME ? (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags)
                               : (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
    hold();
    int struck = strikes(op, seen_to ? full_to : full_from, 0);
    if (refuses(struck)) {
        release();
        return errno = fault.error, -1;
    }
    int result = op == OP_RENAME ? (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags)
                                 : (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
    if (result == 0)
        record(op, 0, flags, (seen ? 1 : 0) | (seen_to ? 2 : 0), 0, seen ? full_from : "", seen ? strlen(full_from) : 0,
               seen_to ? full_to : "", seen_to ? strlen(full_to) : 0);
    maybe_die(struck);
    release();
    return result;
}

int rename(const char *from, const char *to) { return do_rename(OP_RENAME, AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    return do_rename(OP_RENAME, from_fd, from, to_fd, to, 0);
}
int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned int flags)
{
    return do_rename(OP_RENAME, from_fd, from, to_fd, to, flags);
}
int link(const char *from, const char *to) { return do_rename(OP_LINK, AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    return do_rename(OP_LINK, from_fd, from, to_fd, to, (unsigned int)flags);
}

static int do_mkdir(int dirfd, const char *path, mode_t mode)
{
    char full[PATH_MAX];
    if (!below_root(dirfd, path, full))
        return (int)syscall(SYS_mkdirat, dirfd, path, mode);
    hold();
    int struck = strikes(OP_MKDIR, full, 0);
    if (refuses(struck)) {
        release();
        return errno = fault.error, -1;
    }
    int result = (int)syscall(SYS_mkdirat, dirfd, path, mode);
    if (result == 0) {
        struct stat status;
        record_path(OP_MKDIR, lstat(full, &status) == 0 ? (uint64_t)status.st_ino : 0, 0, 0, full);
    }
    maybe_die(struck);
    release();
    return result;
}

int mkdir(const char *path, mode_t mode) { return do_mkdir(AT_FDCWD, path, mode); }
int mkdirat(int dirfd, const char *path, mode_t mode) { return do_mkdir(dirfd, path, mode); }

/* Stores through a shared mapping cannot be recorded: say that there was one, so that nobody trusts the log. */
void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t at)
{
    void *result = (void *)syscall(SYS_mmap, address, size, protection, flags, fd, at);
    if (result != MAP_FAILED && (flags & MAP_SHARED) && (protection & PROT_WRITE) && watched(fd)) {
        hold();
        record_path(OP_MAP, inode_of(fd), at, (int64_t)size, names[fd]);
        release();
    }
    return result;
}

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t at)
{
    return mmap(address, size, protection, flags, fd, at);
}
