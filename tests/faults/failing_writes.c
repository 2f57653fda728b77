/* Preloaded library that makes writes under one folder fail, or sends the process a signal before one of them.

   It counts the calls of the C library that need space on the disk, or change a folder, and whose file lies under the
   watched folder. From call number `first` on, each fails with `error`, as on a disk that is full (ENOSPC), over quota
   (EDQUOT), read-only (EROFS) or broken (EIO); the first of them, if it writes several bytes, writes half of them.
   Calls that only remove fail on a read-only disk alone. Set up with `fault_arm`, through ctypes in the process itself. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char watched[PATH_MAX];
static long first;
static int failure, signal_number;
static atomic_long calls;

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

void fault_arm(const char *folder, long first_call, int error, int sent) {
  first = first_call, failure = error, signal_number = sent;
  atomic_store(&calls, 0);
  if (!realpath(folder, watched)) watched[0] = 0;
}

long fault_calls(void) { return atomic_load(&calls); }

static int lies_under(const char *path) {
  size_t length = strlen(watched);
  return length && !strncmp(path, watched, length) && (path[length] == '/' || !path[length]);
}

static int of_file(int descriptor) {
  char link[64], path[PATH_MAX];
  if (!watched[0]) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return lies_under(path);
}

/* Whether an entry of a folder, which may not exist, is under the watched folder. */
static int of_path(int folder, const char *path) {
  char joined[PATH_MAX], resolved[PATH_MAX];
  if (!watched[0] || !path) return 0;
  if (path[0] != '/' && folder != AT_FDCWD)
    snprintf(joined, sizeof joined, "/proc/self/fd/%d/%s", folder, path);
  else
    snprintf(joined, sizeof joined, "%s", path);
  size_t length = strlen(joined);
  while (length > 1 && joined[length - 1] == '/') joined[--length] = 0;
  char *slash = strrchr(joined, '/');
  if (!slash) return realpath(".", resolved) && lies_under(resolved);
  *slash = 0;
  return realpath(joined[0] ? joined : "/", resolved) && lies_under(resolved);
}

/* Count a call; return 0 if it passes, -1 if it fails (errno is set), 1 if it writes a part. */
static int fate(int is_watched) {
  int before = errno;
  if (!is_watched) return 0;
  long number = atomic_fetch_add(&calls, 1) + 1;
  if (signal_number && number == first) kill(getpid(), signal_number);
  if (failure && number == first && first) return 1;
  errno = failure && first && number > first ? failure : before;
  return failure && first && number > first ? -1 : 0;
}

static int fails(int is_watched) {
  int result = fate(is_watched);
  if (result == 1) errno = failure;
  return result != 0;
}

#define WRITE(name, type, parameters, arguments, count)                   \
  ssize_t name parameters {                                               \
    REAL(name);                                                           \
    int result = fate(of_file(descriptor));                               \
    if (result == 1 && count < 2) errno = failure, result = -1;           \
    if (result == 1) count /= 2;                                          \
    return result < 0 ? -1 : real arguments;                              \
  }

WRITE(write, ssize_t, (int descriptor, const void *bytes, size_t count), (descriptor, bytes, count), count)
WRITE(pwrite, ssize_t, (int descriptor, const void *bytes, size_t count, off_t place), (descriptor, bytes, count, place), count)
WRITE(pwrite64, ssize_t, (int descriptor, const void *bytes, size_t count, off64_t place), (descriptor, bytes, count, place), count)
WRITE(writev, ssize_t, (int descriptor, const struct iovec *parts, int count), (descriptor, parts, count), count)
WRITE(pwritev, ssize_t, (int descriptor, const struct iovec *parts, int count, off_t place), (descriptor, parts, count, place), count)
WRITE(pwritev64, ssize_t, (int descriptor, const struct iovec *parts, int count, off64_t place), (descriptor, parts, count, place), count)
WRITE(copy_file_range, ssize_t, (int source, off64_t *from, int descriptor, off64_t *to, size_t count, unsigned flags), (source, from, descriptor, to, count, flags), count)
WRITE(sendfile, ssize_t, (int descriptor, int source, off_t *from, size_t count), (descriptor, source, from, count), count)
WRITE(sendfile64, ssize_t, (int descriptor, int source, off64_t *from, size_t count), (descriptor, source, from, count), count)

#define CALL(name, parameters, arguments, is_watched, result)             \
  int name parameters {                                                   \
    REAL(name);                                                           \
    return fails(is_watched) ? (result) : real arguments;                 \
  }

CALL(ftruncate, (int descriptor, off_t size), (descriptor, size), of_file(descriptor), -1)
CALL(ftruncate64, (int descriptor, off64_t size), (descriptor, size), of_file(descriptor), -1)
CALL(fallocate, (int descriptor, int mode, off_t place, off_t size), (descriptor, mode, place, size), of_file(descriptor), -1)
CALL(fallocate64, (int descriptor, int mode, off64_t place, off64_t size), (descriptor, mode, place, size), of_file(descriptor), -1)
CALL(posix_fallocate, (int descriptor, off_t place, off_t size), (descriptor, place, size), of_file(descriptor), failure)
CALL(posix_fallocate64, (int descriptor, off64_t place, off64_t size), (descriptor, place, size), of_file(descriptor), failure)
CALL(fsync, (int descriptor), (descriptor), of_file(descriptor), -1)
CALL(fdatasync, (int descriptor), (descriptor), of_file(descriptor), -1)
CALL(mkdir, (const char *path, mode_t mode), (path, mode), of_path(AT_FDCWD, path), -1)
CALL(mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode), of_path(folder, path), -1)
CALL(rename, (const char *from, const char *to), (from, to), of_path(AT_FDCWD, to), -1)
CALL(renameat, (int folder, const char *from, int other, const char *to), (folder, from, other, to), of_path(other, to), -1)
CALL(renameat2, (int folder, const char *from, int other, const char *to, unsigned flags), (folder, from, other, to, flags), of_path(other, to), -1)
CALL(symlink, (const char *from, const char *to), (from, to), of_path(AT_FDCWD, to), -1)
CALL(symlinkat, (const char *from, int other, const char *to), (from, other, to), of_path(other, to), -1)
CALL(link, (const char *from, const char *to), (from, to), of_path(AT_FDCWD, to), -1)
CALL(linkat, (int folder, const char *from, int other, const char *to, int flags), (folder, from, other, to, flags), of_path(other, to), -1)

/* Calls that need no space. */
#define IS_READ_ONLY (failure == EROFS || signal_number)
CALL(unlink, (const char *path), (path), IS_READ_ONLY && of_path(AT_FDCWD, path), -1)
CALL(unlinkat, (int folder, const char *path, int flags), (folder, path, flags), IS_READ_ONLY && of_path(folder, path), -1)
CALL(rmdir, (const char *path), (path), IS_READ_ONLY && of_path(AT_FDCWD, path), -1)
CALL(remove, (const char *path), (path), IS_READ_ONLY && of_path(AT_FDCWD, path), -1)

/* A new file needs space; an old one that is opened for writing does not. */
static int creates(int folder, const char *path, int flags) {
  int is_new = (flags & O_TMPFILE) == O_TMPFILE || ((flags & O_CREAT) && faccessat(folder, path, F_OK, 0));
  return (is_new || (IS_READ_ONLY && (flags & O_ACCMODE) != O_RDONLY)) && of_path(folder, path);
}

#define OPEN(name, parameters, folder, ...)                               \
  int name parameters {                                                   \
    REAL(name);                                                           \
    va_list rest;                                                         \
    va_start(rest, flags);                                                \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                         \
    return fails(creates(folder, path, flags)) ? -1 : real(__VA_ARGS__, flags, mode); \
  }

OPEN(open, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN(openat, (int folder, const char *path, int flags, ...), folder, folder, path)
OPEN(openat64, (int folder, const char *path, int flags, ...), folder, folder, path)

/* Streams of the C library write without the calls above. */
#define STREAM(name)                                                      \
  FILE *name(const char *path, const char *mode) {                        \
    REAL(name);                                                           \
    int flags = mode[0] == 'r' ? (strchr(mode, '+') ? O_RDWR : 0) : O_WRONLY | O_CREAT; \
    return fails(creates(AT_FDCWD, path, flags)) ? NULL : real(path, mode); \
  }

STREAM(fopen)
STREAM(fopen64)

size_t fwrite(const void *bytes, size_t size, size_t count, FILE *stream) {
  REAL(fwrite);
  return fails(of_file(fileno(stream))) ? 0 : real(bytes, size, count, stream);
}
