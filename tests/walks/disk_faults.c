/* File-system calls that fail or kill at a chosen number.

   Preloaded before the C library (LD_PRELOAD), it counts the calls that change something below one
   folder, whoever makes them, and at the chosen one kills the process or answers "no space left on
   device", before or after the call is done. After that answer whatever takes room fails too. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL_BEFORE, KILL_AFTER, FULL_BEFORE, FULL_AFTER };
enum { KEEPS, TAKES_ROOM };

static char root[4096];
static size_t root_length;
static int mode, target, counted;
static char name_hit[64];
static unsigned char within[1 << 16];

void fault_arm(const char *folder, int at, int how)
{
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    target = at;
    mode = how;
    __atomic_store_n(&counted, 0, __ATOMIC_SEQ_CST);
}

int fault_count(void) { return __atomic_load_n(&counted, __ATOMIC_SEQ_CST); }
const char *fault_name(void) { return name_hit; }

static int below(int folder, const char *path)
{
    if (!root_length || !path)
        return 0;
    if (path[0] == '/')
        return !strncmp(path, root, root_length) &&
               (path[root_length] == '/' || !path[root_length]);
    if (folder >= 0)
        return folder < (int)sizeof within && within[folder];
    char here[4096];
    return getcwd(here, sizeof here) && !strncmp(here, root, root_length);
}

static int held(int handle)
{
    return root_length && handle >= 0 && handle < (int)sizeof within && within[handle];
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* Whether a call must fail at once; *after is set where it must fail or kill when it is done. */
static int hit(const char *name, int takes, int *after)
{
    int number = __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
    *after = 0;
    if (mode == COUNT || number < target)
        return 0;
    if (number > target)
        return mode >= FULL_BEFORE && takes;
    strncpy(name_hit, name, sizeof name_hit - 1);
    if (mode == KILL_BEFORE)
        die();
    *after = mode == KILL_AFTER || mode == FULL_AFTER;
    return mode == FULL_BEFORE;
}

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) \
        *(void **)&real = dlsym(RTLD_NEXT, #name)

#define PASS(test, takes, name, call, failed) \
    int after = 0; \
    if (!(test)) \
        return call; \
    if (hit(#name, takes, &after)) { \
        errno = ENOSPC; \
        return failed; \
    } \
    __typeof__(call) answer = call; \
    if (after && mode == KILL_AFTER) \
        die(); \
    if (after) { \
        errno = ENOSPC; \
        return failed; \
    } \
    return answer

static int opened(int handle, int is_below)
{
    if (handle >= 0 && handle < (int)sizeof within)
        within[handle] = (unsigned char)is_below;
    return handle;
}

static int writes(int flags) { return flags & (O_WRONLY | O_RDWR | O_CREAT); }

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        REAL(int, name, const char *, int, ...); \
        va_list list; \
        va_start(list, flags); \
        mode_t bits = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; \
        va_end(list); \
        int is_below = below(-1, path); \
        PASS(is_below && writes(flags), !!(flags & O_CREAT), name, \
             opened(real(path, flags, bits), is_below), -1); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) \
    { \
        REAL(int, name, int, const char *, int, ...); \
        va_list list; \
        va_start(list, flags); \
        mode_t bits = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; \
        va_end(list); \
        int is_below = below(folder, path); \
        PASS(is_below && writes(flags), !!(flags & O_CREAT), name, \
             opened(real(folder, path, flags, bits), is_below), -1); \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int handle)
{
    REAL(int, close, int);
    if (held(handle))
        within[handle] = 0;
    return real(handle);
}

ssize_t write(int handle, const void *data, size_t size)
{
    REAL(ssize_t, write, int, const void *, size_t);
    PASS(held(handle), TAKES_ROOM, write, real(handle, data, size), -1);
}

ssize_t writev(int handle, const struct iovec *parts, int count)
{
    REAL(ssize_t, writev, int, const struct iovec *, int);
    PASS(held(handle), TAKES_ROOM, writev, real(handle, parts, count), -1);
}

#define PWRITE(name, offset_type) \
    ssize_t name(int handle, const void *data, size_t size, offset_type offset) \
    { \
        REAL(ssize_t, name, int, const void *, size_t, offset_type); \
        PASS(held(handle), TAKES_ROOM, name, real(handle, data, size, offset), -1); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define TRUNCATE(name, offset_type) \
    int name(int handle, offset_type size) \
    { \
        REAL(int, name, int, offset_type); \
        PASS(held(handle), TAKES_ROOM, name, real(handle, size), -1); \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define ALLOCATE(name, offset_type) \
    int name(int handle, offset_type from, offset_type size) \
    { \
        REAL(int, name, int, offset_type, offset_type); \
        PASS(held(handle), TAKES_ROOM, name, real(handle, from, size), ENOSPC); \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

#define ON_HANDLE(name) \
    int name(int handle) \
    { \
        REAL(int, name, int); \
        PASS(held(handle), KEEPS, name, real(handle), -1); \
    }
ON_HANDLE(fsync)
ON_HANDLE(fdatasync)

#define ON_PATH(name) \
    int name(const char *path) \
    { \
        REAL(int, name, const char *); \
        PASS(below(-1, path), KEEPS, name, real(path), -1); \
    }
ON_PATH(unlink)
ON_PATH(rmdir)

int unlinkat(int folder, const char *path, int flags)
{
    REAL(int, unlinkat, int, const char *, int);
    PASS(below(folder, path), KEEPS, unlinkat, real(folder, path, flags), -1);
}

int mkdir(const char *path, mode_t bits)
{
    REAL(int, mkdir, const char *, mode_t);
    PASS(below(-1, path), TAKES_ROOM, mkdir, real(path, bits), -1);
}

int mkdirat(int folder, const char *path, mode_t bits)
{
    REAL(int, mkdirat, int, const char *, mode_t);
    PASS(below(folder, path), TAKES_ROOM, mkdirat, real(folder, path, bits), -1);
}

int rename(const char *from, const char *to)
{
    REAL(int, rename, const char *, const char *);
    PASS(below(-1, to), KEEPS, rename, real(from, to), -1);
}

int renameat(int a, const char *from, int b, const char *to)
{
    REAL(int, renameat, int, const char *, int, const char *);
    PASS(below(b, to), KEEPS, renameat, real(a, from, b, to), -1);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned int flags)
{
    REAL(int, renameat2, int, const char *, int, const char *, unsigned int);
    PASS(below(b, to), KEEPS, renameat2, real(a, from, b, to, flags), -1);
}

int chmod(const char *path, mode_t bits)
{
    REAL(int, chmod, const char *, mode_t);
    PASS(below(-1, path), KEEPS, chmod, real(path, bits), -1);
}
