/* A shim between a process and the C library, loaded by LD_PRELOAD: it counts the operations that change files below
   one folder, and at a chosen one ends the process, lets it fail, or sends a signal. It can keep a journal of them all,
   with their data, from which `disk.py` makes the states that a power cut may leave.

   Unless `stress_arm` was called it does nothing. An fsync below the folder is counted and not carried out: what it
   means is in the journal. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define LONGEST 8192

/* Kinds of operations; a trial's `kinds` is the sum of those that count. `disk.py` and `shim.py` have the same. */
enum { OPEN = 1, CREATE = 2, WRITE = 4, SYNC = 8, RENAME = 16, UNLINK = 32, MKDIR = 64, RMDIR = 128, TRUNCATE = 256, LINK = 512 };

/* What happens at the operation. */
enum { NOTHING, KILL_BEFORE, KILL_TORN, KILL_AFTER, FAIL, FAIL_SHORT, SIGNAL };

/* Shared by the process and those that it forks, so that the parent can read what a killed child has done. */
struct report {
  long count;              /* operations of the wanted kinds so far */
  long of_kind[10];        /* operations of each kind so far */
  long hits;               /* operations that were killed, failed or signalled */
  char operation[1024];    /* the first of them */
};

static struct report *report;
static char folder[LONGEST];
static size_t folder_length; /* 0: not armed */
static int kinds, action, error_number, signal_number, journal = -1;
static long first, last;
static pthread_mutex_t one_at_a_time = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

/* Make the report that children will share; to be called once, before any fork. */
struct report *stress_report(void) {
  if (!report)
    report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  memset(report, 0, sizeof *report);
  return report;
}

/* Watch a folder: of the operations of these kinds, the `from`-th to the `to`-th meet the action. */
void stress_arm(const char *path, int wanted, int what, long from, long to, int number, const char *journal_path) {
  stress_report();
  strncpy(folder, path, LONGEST - 1);
  kinds = wanted, action = what, first = from, last = to;
  error_number = what == SIGNAL ? 0 : number, signal_number = number;
  journal = *journal_path ? syscall(SYS_openat, AT_FDCWD, journal_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
  folder_length = strlen(folder);
}

/* ── Places ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static void path_of_descriptor(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, LONGEST - 1);
  path[length < 0 ? 0 : length] = 0;
}

/* The absolute path of a name, without "." and "..", which nobody here uses in the middle. */
static void path_at(int fd, const char *name, char *path) {
  *path = 0;
  if (*name != '/') {
    if (fd == AT_FDCWD) { if (!getcwd(path, LONGEST / 2)) *path = 0; }
    else path_of_descriptor(fd, path);
    strcat(path, "/");
  }
  strncat(path, name, LONGEST / 2 - 1);
  size_t length = strlen(path);
  while (length > 1 && path[length - 1] == '/') path[--length] = 0;
}

static int is_watched(const char *path) {
  return folder_length && !strncmp(path, folder, folder_length) && (!path[folder_length] || path[folder_length] == '/');
}

static int watches_descriptor(int fd, char *path) {
  if (!folder_length || fd <= 2) return 0;
  path_of_descriptor(fd, path);
  return is_watched(path);
}

static const char *within(const char *path) { return is_watched(path) ? path + folder_length : path; }

/* ── The journal ────────────────────────────────────────────────────────────────────────────────────────────── */

struct entry { int32_t kind, path_length, other_length, spare; int64_t inode, offset, length; };

static int64_t inode_of(int fd, const char *path) {
  struct stat found;
  int fault = fd >= 0 ? fstat(fd, &found) : lstat(path, &found);
  return fault ? -1 : (int64_t)found.st_ino;
}

static void put(const void *data, size_t length) {
  while (length > 0) {
    ssize_t written = syscall(SYS_write, journal, data, length);
    if (written <= 0) abort();
    data = (const char *)data + written, length -= written;
  }
}

static void note(int kind, int64_t inode, const char *path, const char *other, int64_t offset, const void *data, int64_t length) {
  if (journal < 0) return;
  int saved = errno;
  path = within(path), other = within(other);
  struct entry entry = {kind, strlen(path), strlen(other), data != NULL, inode, offset, length};
  put(&entry, sizeof entry);
  put(path, entry.path_length);
  put(other, entry.other_length);
  if (data) put(data, length);
  errno = saved;
}

/* ── What happens at an operation ───────────────────────────────────────────────────────────────────────────── */

static void die(void) {
  for (;;) syscall(SYS_kill, getpid(), SIGKILL);
}

/* What to do at this operation; it ends the process where that is to come first. */
static int met(int kind, const char *name, const char *path) {
  __atomic_add_fetch(&report->of_kind[__builtin_ctz(kind)], 1, __ATOMIC_SEQ_CST);
  if (!(kind & kinds)) return NOTHING;
  long number = __atomic_add_fetch(&report->count, 1, __ATOMIC_SEQ_CST);
  if (action == NOTHING || number < first || number > last) return NOTHING;
  if (!report->hits++) snprintf(report->operation, sizeof report->operation, "%s %s", name, within(path));
  if (action == KILL_BEFORE) die();
  if (action == SIGNAL) { syscall(SYS_kill, getpid(), signal_number); return NOTHING; }
  return action;
}

static int after(int todo) {
  if (todo == KILL_AFTER || todo == KILL_TORN) die();
  pthread_mutex_unlock(&one_at_a_time);
  return 0;
}

#define BEGIN(kind, name, path) \
  pthread_mutex_lock(&one_at_a_time); \
  int todo = met(kind, name, path); \
  if (todo == FAIL || todo == FAIL_SHORT) { pthread_mutex_unlock(&one_at_a_time); errno = error_number; return -1; }

#define END(result) do { int saved = errno; after(todo); errno = saved; return result; } while (0)

/* ── Opening ────────────────────────────────────────────────────────────────────────────────────────────────── */

static int opened(int at, const char *name, int flags, mode_t mode) {
  char path[LONGEST];
  int writes = (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT;
  if (!folder_length || !writes) return syscall(SYS_openat, at, name, flags, mode);
  path_at(at, name, path);
  if (!is_watched(path)) return syscall(SYS_openat, at, name, flags, mode);
  int is_new = access(path, F_OK) != 0;
  BEGIN(is_new ? CREATE : OPEN, is_new ? "create" : "open", path)
  int fd = syscall(SYS_openat, at, name, flags, mode);
  if (fd >= 0 && is_new) note(CREATE, inode_of(fd, path), path, "", 0, NULL, 0);
  if (fd >= 0 && !is_new && flags & O_TRUNC) note(TRUNCATE, inode_of(fd, path), path, "", 0, NULL, 0);
  END(fd);
}

#define MODE_OF(flags) \
  mode_t mode = 0; \
  if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *name, int flags, ...) { MODE_OF(flags) return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE_OF(flags) return opened(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int at, const char *name, int flags, ...) { MODE_OF(flags) return opened(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE_OF(flags) return opened(at, name, flags | O_LARGEFILE, mode); }
int __open_2(const char *name, int flags) { return opened(AT_FDCWD, name, flags, 0); }
int __open64_2(const char *name, int flags) { return opened(AT_FDCWD, name, flags | O_LARGEFILE, 0); }
int __openat_2(int at, const char *name, int flags) { return opened(at, name, flags, 0); }
int __openat64_2(int at, const char *name, int flags) { return opened(at, name, flags | O_LARGEFILE, 0); }
int creat(const char *name, mode_t mode) { return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return creat(name, mode); }

/* What C++ streams open, which then write by `write` and `writev`. */
static FILE *opened_stream(const char *name, const char *mode) {
  static FILE *(*real)(const char *, const char *);
  char path[LONGEST];
  if (!real) real = dlsym(RTLD_NEXT, "fopen64");
  if (!folder_length || *mode == 'r') return real(name, mode);
  path_at(AT_FDCWD, name, path);
  if (!is_watched(path)) return real(name, mode);
  int flags = O_WRONLY | O_CREAT | (*mode == 'w' ? O_TRUNC : O_APPEND);
  int fd = opened(AT_FDCWD, name, flags, 0666);
  if (fd < 0) return NULL;
  syscall(SYS_close, fd);
  return real(name, *mode == 'w' ? "r+" : mode);
}

FILE *fopen(const char *name, const char *mode) { return opened_stream(name, mode); }
FILE *fopen64(const char *name, const char *mode) { return opened_stream(name, mode); }

/* ── Writing ────────────────────────────────────────────────────────────────────────────────────────────────── */

static int64_t place_of(int fd, int64_t offset) {
  struct stat found;
  if (offset >= 0) return offset;
  if (fcntl(fd, F_GETFL) & O_APPEND && !fstat(fd, &found)) return found.st_size;
  return lseek(fd, 0, SEEK_CUR);
}

static ssize_t carried_out(int fd, const void *data, size_t length, int64_t offset) {
  return offset < 0 ? syscall(SYS_write, fd, data, length) : syscall(SYS_pwrite64, fd, data, length, offset);
}

/* A write of half the data, and then the end, is a torn one. */
static ssize_t written(int fd, const void *data, size_t length, int64_t offset) {
  char path[LONGEST];
  if (!watches_descriptor(fd, path)) return carried_out(fd, data, length, offset);
  pthread_mutex_lock(&one_at_a_time);
  int todo = met(WRITE, "write", path);
  int is_short = todo == FAIL_SHORT && report->hits == 1 && length > 1;
  if (!is_short && (todo == FAIL || todo == FAIL_SHORT)) {
    pthread_mutex_unlock(&one_at_a_time);
    errno = error_number;
    return -1;
  }
  int64_t place = place_of(fd, offset);
  ssize_t done = carried_out(fd, data, todo == KILL_TORN || is_short ? length / 2 : length, offset);
  if (done >= 0) note(WRITE, inode_of(fd, path), path, "", place, data, done);
  END(done);
}

static ssize_t written_all(int fd, const struct iovec *parts, int number, int64_t offset) {
  char path[LONGEST];
  if (!watches_descriptor(fd, path))
    return offset < 0 ? syscall(SYS_writev, fd, parts, number) : syscall(SYS_pwritev, fd, parts, number, offset, 0);
  size_t length = 0, done = 0;
  for (int i = 0; i < number; i++) length += parts[i].iov_len;
  char *all = malloc(length + 1);
  for (int i = 0; i < number; i++) { memcpy(all + done, parts[i].iov_base, parts[i].iov_len); done += parts[i].iov_len; }
  ssize_t result = written(fd, all, length, offset);
  int saved = errno;
  free(all);
  errno = saved;
  return result;
}

ssize_t write(int fd, const void *data, size_t length) { return written(fd, data, length, -1); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return written(fd, data, length, offset); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return written(fd, data, length, offset); }
ssize_t writev(int fd, const struct iovec *parts, int number) { return written_all(fd, parts, number, -1); }
ssize_t pwritev(int fd, const struct iovec *parts, int number, off_t offset) { return written_all(fd, parts, number, offset); }
ssize_t pwritev64(int fd, const struct iovec *parts, int number, off64_t offset) { return written_all(fd, parts, number, offset); }

/* Copies within the kernel become reads and writes, as where a file system has none of them. */
ssize_t sendfile(int out, int in, off_t *offset, size_t length) {
  char path[LONGEST];
  if (!watches_descriptor(out, path)) return syscall(SYS_sendfile, out, in, offset, length);
  errno = EINVAL;
  return -1;
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t length) { return sendfile(out, in, offset, length); }
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t length, unsigned flags) {
  char path[LONGEST];
  if (!watches_descriptor(out, path)) return syscall(SYS_copy_file_range, in, from, out, to, length, flags);
  errno = EXDEV;
  return -1;
}

static int cut(int fd, const char *name, int64_t length) {
  char path[LONGEST];
  fd >= 0 ? path_of_descriptor(fd, path) : path_at(AT_FDCWD, name, path);
  if (!is_watched(path)) return fd >= 0 ? syscall(SYS_ftruncate, fd, length) : syscall(SYS_truncate, name, length);
  BEGIN(TRUNCATE, "truncate", path)
  int fault = fd >= 0 ? syscall(SYS_ftruncate, fd, length) : syscall(SYS_truncate, name, length);
  if (!fault) note(TRUNCATE, inode_of(fd, path), path, "", length, NULL, 0);
  END(fault);
}

int ftruncate(int fd, off_t length) { return cut(fd, "", length); }
int ftruncate64(int fd, off64_t length) { return cut(fd, "", length); }
int truncate(const char *name, off_t length) { return cut(-1, name, length); }
int truncate64(const char *name, off64_t length) { return cut(-1, name, length); }

static int flushed(int fd, long number) {
  char path[LONGEST];
  if (!watches_descriptor(fd, path)) return syscall(number, fd);
  BEGIN(SYNC, "fsync", path)
  note(SYNC, inode_of(fd, path), path, "", 0, NULL, 0);
  END(0);
}

int fsync(int fd) { return flushed(fd, SYS_fsync); }
int fdatasync(int fd) { return flushed(fd, SYS_fdatasync); }

/* ── Names ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int renamed(int from, const char *name, int to, const char *new, unsigned flags) {
  char path[LONGEST], other[LONGEST];
  path_at(from, name, path), path_at(to, new, other);
  if (!is_watched(path) && !is_watched(other)) return syscall(SYS_renameat2, from, name, to, new, flags);
  BEGIN(RENAME, flags & RENAME_EXCHANGE ? "exchange" : "rename", path)
  int fault = syscall(SYS_renameat2, from, name, to, new, flags);
  if (!fault) note(RENAME, inode_of(-1, other), path, other, flags, NULL, 0);
  END(fault);
}

int rename(const char *name, const char *new) { return renamed(AT_FDCWD, name, AT_FDCWD, new, 0); }
int renameat(int from, const char *name, int to, const char *new) { return renamed(from, name, to, new, 0); }
int renameat2(int from, const char *name, int to, const char *new, unsigned flags) { return renamed(from, name, to, new, flags); }

static int removed(int at, const char *name, int flags) {
  char path[LONGEST];
  path_at(at, name, path);
  if (!is_watched(path)) return syscall(SYS_unlinkat, at, name, flags);
  int kind = flags & AT_REMOVEDIR ? RMDIR : UNLINK;
  BEGIN(kind, kind == RMDIR ? "rmdir" : "unlink", path)
  int fault = syscall(SYS_unlinkat, at, name, flags);
  if (!fault) note(kind, -1, path, "", 0, NULL, 0);
  END(fault);
}

int unlink(const char *name) { return removed(AT_FDCWD, name, 0); }
int unlinkat(int at, const char *name, int flags) { return removed(at, name, flags); }
int rmdir(const char *name) { return removed(AT_FDCWD, name, AT_REMOVEDIR); }
int remove(const char *name) { int fault = unlink(name); return fault && errno == EISDIR ? rmdir(name) : fault; }

static int made(int at, const char *name, mode_t mode) {
  char path[LONGEST];
  path_at(at, name, path);
  if (!is_watched(path) || !access(path, F_OK)) return syscall(SYS_mkdirat, at, name, mode);
  BEGIN(MKDIR, "mkdir", path)
  int fault = syscall(SYS_mkdirat, at, name, mode);
  if (!fault) note(MKDIR, inode_of(-1, path), path, "", 0, NULL, 0);
  END(fault);
}

int mkdir(const char *name, mode_t mode) { return made(AT_FDCWD, name, mode); }
int mkdirat(int at, const char *name, mode_t mode) { return made(at, name, mode); }

static int linked(int from, const char *name, int to, const char *new, int flags) {
  char path[LONGEST], other[LONGEST];
  path_at(from, name, path), path_at(to, new, other);
  if (!is_watched(other)) return syscall(SYS_linkat, from, name, to, new, flags);
  BEGIN(LINK, "link", other)
  int fault = syscall(SYS_linkat, from, name, to, new, flags);
  if (!fault) note(LINK, inode_of(-1, other), path, other, 0, NULL, 0);
  END(fault);
}

int link(const char *name, const char *new) { return linked(AT_FDCWD, name, AT_FDCWD, new, 0); }
int linkat(int from, const char *name, int to, const char *new, int flags) { return linked(from, name, to, new, flags); }
