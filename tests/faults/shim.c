/* Preloaded into a run: what a disk refuses, and a clock that is set back.

   SHIM_FAIL="CALL ERRNO PART": the C library's CALL (write, fsync, mkdir or open for writing) fails with ERRNO on every file
   whose path holds PART. SHIM_CLOCK=FILE: once FILE is there, the wall clock is an hour behind. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int refused(const char *call, const char *path) {
    char kind[16], part[256];
    int number;
    const char *asked = getenv("SHIM_FAIL");
    if (!asked || !path || sscanf(asked, "%15s %d %255s", kind, &number, part) != 3) return 0;
    if (strcmp(kind, call) || !strstr(path, part)) return 0;
    errno = number;
    return 1;
}

static int refused_descriptor(const char *call, int descriptor) {
    char link[64], path[4096];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0) return 0;
    path[length] = 0;
    return refused(call, path);
}

ssize_t write(int descriptor, const void *bytes, size_t count) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    return refused_descriptor("write", descriptor) ? -1 : real(descriptor, bytes, count);
}

int fsync(int descriptor) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    return refused_descriptor("fsync", descriptor) ? -1 : real(descriptor);
}

int mkdir(const char *path, mode_t mode) {
    static int (*real)(const char *, mode_t);
    if (!real) real = dlsym(RTLD_NEXT, "mkdir");
    return refused("mkdir", path) ? -1 : real(path, mode);
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    if (flags & (O_WRONLY | O_RDWR | O_CREAT) && refused("open", path)) return -1;
    return real(path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open"))); /* the same where a file's size has 64 bits */

static int back(void) {
    const char *file = getenv("SHIM_CLOCK");
    return file && !access(file, F_OK) ? 3600 : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec -= back();
    return code;
}

int gettimeofday(struct timeval *now, void *zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
    int code = real(now, zone);
    now->tv_sec -= back();
    return code;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place) *place = now.tv_sec;
    return now.tv_sec;
}
