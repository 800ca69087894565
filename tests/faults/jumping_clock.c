/* Preloaded: the time of day, moved by as many seconds as the file named in JUMPING_CLOCK holds (one int64).

   Monotonic clocks are as they were. Waiting until a time of day is moved back, for the kernel knows nothing of this. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t nothing;
static volatile int64_t *offset;

static int64_t jump(void) {
    if (!offset) {
        const char *name = getenv("JUMPING_CLOCK");
        int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
        void *map = file < 0 ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0) close(file);
        offset = map == MAP_FAILED ? &nothing : map;
    }
    return *offset;
}

static int is_time_of_day(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

static long kernel(long number, long a, long b, long c, long d, long e, long f) {
    static long (*real)(long, ...);
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real(number, a, b, c, d, e, f);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)kernel(SYS_clock_gettime, clock, (long)now, 0, 0, 0, 0);
    if (!failed && is_time_of_day(clock)) now->tv_sec += jump();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int failed = (int)kernel(SYS_gettimeofday, (long)now, (long)zone, 0, 0, 0, 0);
    if (!failed && now) now->tv_sec += jump();
    return failed;
}

time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}

/* A deadline since 1970 is a time of day; one since the machine was started is much smaller. */
static const struct timespec *moved_back(const struct timespec *until, struct timespec *place) {
    if (!until || until->tv_sec < 1000000000) return until;
    *place = *until;
    place->tv_sec -= jump();
    return place;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    struct timespec place;
    if (!real) real = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    return real(cond, mutex, moved_back(until, &place));
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict until) {
    static int (*real)(sem_t *, const struct timespec *);
    struct timespec place;
    if (!real) real = dlsym(RTLD_NEXT, "sem_timedwait");
    return real(sem, moved_back(until, &place));
}

long syscall(long number, ...) {
    va_list given;
    long a, b, c, d, e, f;
    struct timespec place;
    va_start(given, number);
    a = va_arg(given, long), b = va_arg(given, long), c = va_arg(given, long);
    d = va_arg(given, long), e = va_arg(given, long), f = va_arg(given, long);
    va_end(given);
    if (number == SYS_futex && (b & FUTEX_CLOCK_REALTIME)) d = (long)moved_back((const struct timespec *)d, &place);
    return kernel(number, a, b, c, d, e, f);
}
