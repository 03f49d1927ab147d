// Preloaded into qonnx: fails the n-th call of a kind below a folder, and notes all calls there in their order.
//
// FAIL_UNDER  the folder
// FAIL_OP     write, fsync, rename or open
// FAIL_N      which call of the process fails; 0: none
// FAIL_ERRNO  with what
// FAIL_LOG    a file outside of the folder, to which a line "pid kind path" is appended for each call
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_int calls;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static void note(const char *kind, const char *path) {
    const char *log = setting("FAIL_LOG");
    if (!*log) return;
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%d %s %s\n", getpid(), kind, path);
    // System calls as such: the functions are the ones below.
    int file = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0) return;
    syscall(SYS_write, file, line, (size_t)length);
    syscall(SYS_close, file);
}

/// Whether this call is the one that fails.
static int fails(const char *kind, const char *path) {
    int saved = errno;
    const char *under = setting("FAIL_UNDER");
    if (!*under || strncmp(path, under, strlen(under))) return 0;
    note(kind, path);
    errno = saved;
    if (strcmp(kind, setting("FAIL_OP"))) return 0;
    int call = atomic_fetch_add(&calls, 1) + 1;
    if (call != atoi(setting("FAIL_N"))) return 0;
    errno = atoi(setting("FAIL_ERRNO"));
    return 1;
}

static int fails_at(const char *kind, int file) {
    char link[64], path[PATH_MAX];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (length < 0) return 0;
    path[length] = 0;
    return fails(kind, path);
}

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *bytes, size_t count) {
    REAL(ssize_t, write, int, const void *, size_t);
    return file > 2 && fails_at("write", file) ? -1 : real(file, bytes, count);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    return fails_at("write", file) ? -1 : real(file, bytes, count, at);
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t count, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    return fails_at("write", to) ? -1 : real(from, from_at, to, to_at, count, flags);
}

int ftruncate64(int file, off64_t length) {
    REAL(int, ftruncate64, int, off64_t);
    return fails_at("write", file) ? -1 : real(file, length);
}

int fsync(int file) {
    REAL(int, fsync, int);
    return fails_at("fsync", file) ? -1 : real(file);
}

int fdatasync(int file) {
    REAL(int, fdatasync, int);
    return fails_at("fsync", file) ? -1 : real(file);
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    return fails("rename", to) ? -1 : real(from, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    return fails("rename", to) ? -1 : real(from_folder, from, to_folder, to, flags);
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    return fails("unlink", path) ? -1 : real(path);
}

int unlinkat(int folder, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    int failed = *path == '/' ? fails("unlink", path) : fails_at("unlink", folder);
    return failed ? -1 : real(folder, path, flags);
}

static mode_t mode_of(int flags, va_list rest) {
    return flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(rest, int) : 0;
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    REAL(int, open64, const char *, int, ...);
    return flags & (O_WRONLY | O_RDWR | O_CREAT) && fails("open", path) ? -1 : real(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    REAL(int, open, const char *, int, ...);
    return flags & (O_WRONLY | O_RDWR | O_CREAT) && fails("open", path) ? -1 : real(path, flags, mode);
}
