/* Loops of kernels that may be spread over threads: a pool that waits for them, of one thread (the caller) unless asked for more.
 *
 * A region has as many parts as the pool has threads. Whoever is free takes the next part, the caller too, so that a thread
 * that is late is never waited for. A forked child begins with one thread. One region at a time uses the pool: a second
 * caller computes alone meanwhile. Which thread computes a part does not change its result.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { MOST_THREADS = 256, SPINS = 1500 };

typedef struct {
  void *sync;
  int32_t count;
} Group;

typedef int (*Task)(int index, Group *group, void *data);

static struct {
  pthread_mutex_t used; /* by a region, or by who changes the number of threads */
  pthread_mutex_t lock; /* of those who sleep */
  pthread_cond_t wake;
  pthread_t workers[MOST_THREADS];
  int guarded; /* whether forked children are told */
  atomic_int threads, asleep, leave, done, failed, count;
  _Atomic(Task) task;
  _Atomic(void *) data;
  atomic_ullong next; /* the number of the region times 2^32, and its first part that nobody took */
} pool = {.used = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .threads = 1};

static inline void breathe(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Takes and runs one part; whether there was one. That `next` still is what it was says that all read between belongs to it. */
static int work(void) {
  unsigned long long seen = atomic_load(&pool.next);
  int part = (int)(seen & 0xFFFFFFFF), count = atomic_load(&pool.count);
  Task task = atomic_load(&pool.task);
  void *data = atomic_load(&pool.data);
  Group group = {NULL, count};
  if (part >= count) return 0;
  if (!atomic_compare_exchange_strong(&pool.next, &seen, seen + 1)) return 1;
  if (task(part, &group, data)) atomic_store(&pool.failed, 1);
  atomic_fetch_add(&pool.done, 1);
  return 1;
}

static inline int waiting(void) {
  return (int)(atomic_load(&pool.next) & 0xFFFFFFFF) >= atomic_load(&pool.count) && !atomic_load(&pool.leave);
}

static void *worker(void *unused) {
  (void)unused;
  while (!atomic_load(&pool.leave)) {
    int spins = 0;
    while (work()) spins = 0;
    while (waiting() && spins++ < SPINS) breathe();
    if (!waiting()) continue;
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.asleep, 1);
    while (waiting()) pthread_cond_wait(&pool.wake, &pool.lock);
    atomic_fetch_sub(&pool.asleep, 1);
    pthread_mutex_unlock(&pool.lock);
  }
  return NULL;
}

static void wake(void) {
  pthread_mutex_lock(&pool.lock);
  pthread_cond_broadcast(&pool.wake);
  pthread_mutex_unlock(&pool.lock);
}

static int launch(Task task, void *data, int unused) {
  int count = atomic_load(&pool.threads), failed;
  Group alone = {NULL, 1};
  (void)unused;
  if (count == 1 || pthread_mutex_trylock(&pool.used)) return task(0, &alone, data);
  count = atomic_load(&pool.threads);
  atomic_store(&pool.count, 0); /* nobody takes a part before all is said */
  atomic_store(&pool.task, task);
  atomic_store(&pool.data, data);
  atomic_store(&pool.done, 0);
  atomic_store(&pool.failed, 0);
  atomic_store(&pool.next, ((atomic_load(&pool.next) >> 32) + 1) << 32);
  atomic_store(&pool.count, count);
  if (atomic_load(&pool.asleep)) wake();
  while (work()) continue;
  for (int spins = 0; atomic_load(&pool.done) < count; spins++) {
    if (spins < SPINS) breathe();
    else sched_yield();
  }
  failed = atomic_load(&pool.failed);
  pthread_mutex_unlock(&pool.used);
  return failed ? -1 : 0;
}

int (*__TVMBackendParallelLaunch)(Task, void *, int) = launch;

/* A forked child has none of the threads, and nobody who gives back the locks that they held. */
static void forked(void) {
  pthread_mutex_init(&pool.used, NULL);
  pthread_mutex_init(&pool.lock, NULL);
  pthread_cond_init(&pool.wake, NULL);
  atomic_store(&pool.asleep, 0);
  atomic_store(&pool.leave, 0);
  atomic_store(&pool.count, 0); /* of a region that is not its own */
  atomic_store(&pool.threads, 1);
}

static int set_threads(int count) {
  int made = 1, result = OK;
  if (count < 1 || count > MOST_THREADS) return BAD_ARGUMENT;
  pthread_mutex_lock(&pool.used);
  if (!pool.guarded && pthread_atfork(NULL, NULL, forked)) {
    pthread_mutex_unlock(&pool.used);
    return FAILED;
  }
  pool.guarded = 1;
  atomic_store(&pool.leave, 1);
  wake();
  for (int i = 1; i < atomic_load(&pool.threads); i++) pthread_join(pool.workers[i], NULL);
  atomic_store(&pool.leave, 0);
  for (; made < count && !result; made += !result) {
    if (pthread_create(&pool.workers[made], NULL, worker, NULL)) result = FAILED;
  }
  atomic_store(&pool.threads, made);
  pthread_mutex_unlock(&pool.used);
  return result;
}
