/* Moves the bytes of established connections in a thread of its own, which waits for them by an epoll of its own.
 *
 * Belongs here: who owns a connection, waiting, and the look at the local program before each budget. Doesn't: the moves
 * (moves.c), Python (mover_type.c), and anything that isn't plain DATA: such a connection comes back with what is left
 * over, and the Python code goes on where this stopped. A sink that takes no more is waited for here: what it didn't take
 * is kept, and its source isn't read until then.
 *
 * A connection has one owner at any time. Lending and recalling are the only synchronisation: the thread says under the
 * mutex which connection it serves, and a recall waits for that one alone, for one budget at most. What epoll has
 * reported of a connection that has been recalled since is known by its generation.
 */
#include "mover.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 64, FIRST_ROOM = 64, MAX_LENT = 1 << 20, JOIN_S = 5 };

static const uint64_t WAKE = UINT64_MAX;
static const long long SECOND_NS = 1000000000;

static long long read_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

/* ---- one connection --------------------------------------------------------------------------------------------- */

/* Whether the process still has the memory that was measured, and it is of that file, seen at most `max_age_ns` ago.
 * As sidecar/attest/memory.py looks; what isn't plainly so is judged there. */
static int is_proven(Proof *proof, long long now) {
    if (proof == NULL)
        return 1;
    if (now <= atomic_load_explicit(&proof->fresh_until_ns, memory_order_relaxed))
        return 1;
    char first;
    struct stat file;
    if (pread(proof->maps, &first, 1, 0) != 1 || fstatat(proof->directory, "exe", &file, 0) < 0 ||
        file.st_dev != proof->device || file.st_ino != proof->inode)
        return 0;
    atomic_store_explicit(&proof->fresh_until_ns, now + proof->max_age_ns, memory_order_relaxed);
    return 1;
}

static unsigned char *keep(Lent *lent, const unsigned char *start, size_t size) {
    unsigned char *copy = size > 0 ? malloc(size) : NULL;
    if (copy != NULL)
        memcpy(copy, start, size);
    else if (size > 0)
        lent->is_lost = 1;
    return copy;
}

/* Keep the records that wait, so that they are slots from the first one on. */
static void keep_records(Lent *lent, Sent *sent) {
    const int first = sent->first;
    lent->records = keep(lent, slot(first), (size_t)(sent->past - first) * RECORD_BYTES);
    for (int index = first; index < sent->past; index++)
        sent->sizes[index - first] = sent->sizes[index];
    sent->first = 0;
    sent->past -= first;
}

static void move_up(const Mover *mover, Lent *lent) {
    const int was_full = lent->full & UPWARD;
    const long long room = lent->send_room - lent->send_used;
    Sent sent = {.status = WAITING, .result = 1};
    if (was_full) {
        sent = lent->sent;
        sent.status = WAITING;
        sent.result = 1;
        sent.code = 0;
        sent.taken = sent.used = 0;
        mover->tls.clear();
        /* What TLS has begun goes first, though a part of it has used the room up. */
        write_slots(&mover->tls, lent->tls, lent->records, room < 0 ? 0 : room, &sent);
    } else {
        send_all(&mover->tls, lent->tls, lent->application, lent->tunnel, lent->epoch, room, &sent);
    }
    if (sent.status == FAILED) {
        forget_rest(lent->epoch, &sent);
        lent->error = mover->take_error();
    }
    atomic_fetch_add_explicit(&lent->taken, sent.taken, memory_order_relaxed);
    lent->send_used += sent.used;
    if (!was_full && sent_has_rest(&sent))
        keep_records(lent, &sent);
    lent->sent = sent;
    lent->full &= ~UPWARD;
    if (sent.status == BLOCKED && !lent->is_lost) {
        lent->full |= UPWARD;
    } else if (sent.status != WAITING) {
        lent->left_by = UPWARD;
    } else if (was_full) {
        free(lent->records);
        lent->records = NULL;
    }
}

/* Write to the application what it didn't take. */
static void write_rest(Lent *lent) {
    ssize_t written = send(lent->application, lent->rest + lent->rest_written,
                           lent->received.rest - lent->rest_written, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (written < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
            return;
        lent->received.broken = errno;
        lent->left_by = DOWNWARD;
        written = 0;
        lent->received.rest = lent->rest_written; /* As when the loop's first write fails: it is of no use any more. */
    }
    atomic_fetch_add_explicit(&lent->written, written, memory_order_relaxed);
    lent->rest_written += (size_t)written;
    if (lent->rest_written < lent->received.rest)
        return;
    lent->full &= ~DOWNWARD;
    free(lent->rest);
    lent->rest = NULL;
    lent->received.rest = lent->rest_written = 0;
}

static void move_down(const Mover *mover, Lent *lent) {
    if (lent->full & DOWNWARD) {
        write_rest(lent);
        return;
    }
    Received received = {.result = 1};
    receive_all(&mover->tls, lent->tls, lent->application, lent->epoch, lent->receive_room - lent->receive_used,
                &received);
    if (received.result != 1)
        lent->error = mover->take_error();
    atomic_fetch_add_explicit(&lent->written, received.written, memory_order_relaxed);
    lent->receive_used += received.used;
    const int is_plain = received.start >= received.end && received.broken == 0 && received.result == 1 &&
                         lent->receive_used <= lent->receive_room;
    if (received.rest == 0 && is_plain)
        return;
    lent->received = received;
    lent->rest = keep(lent, buffer, received.rest);
    lent->left = keep(lent, buffer + received.start, received.end - received.start);
    if (is_plain && !lent->is_lost)
        lent->full |= DOWNWARD;
    else
        lent->left_by = DOWNWARD;
}

/* Wait for what a connection can do now. False with errno. */
static int watch(const Mover *mover, const Lent *lent, int operation) {
    const uint64_t data = (uint64_t)lent->generation << 32 | (uint64_t)lent->index << 1;
    const uint32_t up = lent->full & UPWARD, down = lent->full & DOWNWARD;
    struct epoll_event application = {.events = EPOLLRDHUP | (up ? 0 : EPOLLIN) | (down ? EPOLLOUT : 0), .data.u64 = data};
    struct epoll_event tunnel = {.events = EPOLLRDHUP | (down ? 0 : EPOLLIN) | (up ? EPOLLOUT : 0), .data.u64 = data | 1};
    return epoll_ctl(mover->epoll, operation, lent->application, &application) == 0 &&
           epoll_ctl(mover->epoll, operation, lent->tunnel, &tunnel) == 0;
}

/* Move one budget. False when the connection has to go back. */
static int serve(const Mover *mover, Lent *lent, int is_tunnel, uint32_t events) {
    /* An end or an error is Python's, before its last bytes are read: END shares their record. */
    if (events & ~(uint32_t)(EPOLLIN | EPOLLOUT))
        return 0;
    if (lent->is_held && !is_tunnel && events & EPOLLIN)
        return 0;
    /* One direction at a time; what epoll reported before a sink was full is of no meaning any more. */
    const int full = lent->full, out = is_tunnel ? UPWARD : DOWNWARD, in = is_tunnel ? DOWNWARD : UPWARD;
    const int direction = events & EPOLLOUT && full & out ? out : events & EPOLLIN && !(full & in) ? in : NEITHER;
    if (direction == NEITHER)
        return 1;
    long long now = read_clock();
    if (now > atomic_load_explicit(&mover->allowed_until_ns, memory_order_relaxed) || !is_proven(lent->proof, now))
        return 0;
    if (direction == DOWNWARD)
        move_down(mover, lent);
    else
        move_up(mover, lent);
    return lent->left_by == NEITHER && (lent->full == full || watch(mover, lent, EPOLL_CTL_MOD));
}

/* ---- the thread ------------------------------------------------------------------------------------------------- */

static void stop_waiting(const Mover *mover, Lent *lent) {
    epoll_ctl(mover->epoll, EPOLL_CTL_DEL, lent->application, NULL);
    epoll_ctl(mover->epoll, EPOLL_CTL_DEL, lent->tunnel, NULL);
    lent->state = RETURNED;
}

/* Make a connection the current one, if it is still lent as it was when epoll reported it. */
static Lent *begin(Mover *mover, uint64_t data) {
    int index = (int)((data & UINT32_MAX) >> 1);
    pthread_mutex_lock(&mover->mutex);
    Lent *lent = index < mover->count ? mover->lent[index] : NULL;
    if (lent != NULL && (lent->state != MOVING || lent->generation != data >> 32))
        lent = NULL;
    mover->current = lent;
    pthread_mutex_unlock(&mover->mutex);
    return lent;
}

static void end(Mover *mover, Lent *lent, int may_stay) {
    pthread_mutex_lock(&mover->mutex);
    mover->current = NULL;
    lent->budgets++;
    if (!may_stay) {
        stop_waiting(mover, lent);
        mover->returned[mover->returned_count++] = lent->index;
    } else if (lent->is_wanted) {
        stop_waiting(mover, lent);
    }
    if (mover->waiting)
        pthread_cond_broadcast(&mover->served);
    pthread_mutex_unlock(&mover->mutex);
}

static void *run(void *argument) {
    Mover *mover = argument;
    struct epoll_event events[EVENTS];
    while (!atomic_load(&mover->is_ending)) {
        int count = epoll_wait(mover->epoll, events, EVENTS, -1);
        uint64_t came_back = 0;
        for (int number = 0; number < count; number++) {
            uint64_t data = events[number].data.u64;
            Lent *lent = data == WAKE ? NULL : begin(mover, data);
            if (lent == NULL)
                continue;
            int may_stay = serve(mover, lent, data & 1, events[number].events);
            end(mover, lent, may_stay);
            came_back += !may_stay;
        }
        /* A full counter can't be written, but then it is still to be read. */
        if (came_back && write(mover->notify, &came_back, sizeof came_back) < 0)
            continue;
    }
    return NULL;
}

/* ---- who lends -------------------------------------------------------------------------------------------------- */

int mover_start(Mover *mover) {
    mover->epoll = mover->wake = mover->notify = -1;
    mover->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (mover->epoll >= 0)
        mover->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (mover->wake >= 0)
        mover->notify = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&mover->mutex, NULL);
    pthread_cond_init(&mover->served, NULL);
    struct epoll_event woken = {.events = EPOLLIN, .data.u64 = WAKE};
    if (mover->notify < 0 || epoll_ctl(mover->epoll, EPOLL_CTL_ADD, mover->wake, &woken) < 0)
        return errno;
    /* Signals are for the threads that run Python. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&mover->thread, NULL, run, mover);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    mover->is_running = code == 0;
    return code;
}

int mover_stop(Mover *mover) {
    if (mover->is_running) {
        uint64_t one = 1;
        struct timespec deadline;
        atomic_store(&mover->is_ending, 1);
        if (write(mover->wake, &one, sizeof one) < 0 && errno != EAGAIN)
            return errno;
        clock_gettime(CLOCK_REALTIME, &deadline);
        deadline.tv_sec += JOIN_S;
        int code = pthread_timedjoin_np(mover->thread, NULL, &deadline);
        if (code != 0)
            return code;
        mover->is_running = 0;
    }
    int *descriptors[] = {&mover->epoll, &mover->wake, &mover->notify};
    for (int number = 0; number < 3; number++) {
        if (*descriptors[number] >= 0)
            close(*descriptors[number]);
        *descriptors[number] = -1;
    }
    return 0;
}

/* Make room for one more connection. False with errno. */
static int grow(Mover *mover) {
    if (mover->count < mover->room)
        return 1;
    int room = mover->room ? mover->room * 2 : FIRST_ROOM;
    if (room > MAX_LENT) {
        errno = ENOSPC;
        return 0;
    }
    Lent **all = realloc(mover->lent, (size_t)room * sizeof *all);
    if (all != NULL)
        mover->lent = all;
    int *unused = realloc(mover->unused, (size_t)room * sizeof *unused);
    if (unused != NULL)
        mover->unused = unused;
    int *returned = realloc(mover->returned, (size_t)room * sizeof *returned);
    if (returned != NULL)
        mover->returned = returned;
    if (all == NULL || unused == NULL || returned == NULL)
        return 0;
    mover->room = room;
    return 1;
}

static Lent *find_unused(Mover *mover) {
    if (mover->unused_count > 0)
        return mover->lent[mover->unused[--mover->unused_count]];
    Lent *lent = grow(mover) ? calloc(1, sizeof *lent) : NULL;
    if (lent != NULL) {
        lent->index = mover->count;
        mover->lent[mover->count++] = lent;
    }
    return lent;
}

void mover_allow(Mover *mover, long long duration_ns) {
    atomic_store_explicit(&mover->allowed_until_ns, read_clock() + duration_ns, memory_order_relaxed);
}

int mover_lend(Mover *mover, const Lent *what) {
    pthread_mutex_lock(&mover->mutex);
    Lent *lent = find_unused(mover);
    if (lent != NULL) {
        int index = lent->index;
        uint32_t generation = lent->generation + 1;
        *lent = *what;
        lent->index = index;
        lent->generation = generation;
        /* Until both are there the thread passes over what epoll reports, which is reported again. */
        lent->state = RETURNED;
    }
    pthread_mutex_unlock(&mover->mutex);
    if (lent == NULL)
        return -1;
    if (!watch(mover, lent, EPOLL_CTL_ADD)) {
        int code = errno;
        epoll_ctl(mover->epoll, EPOLL_CTL_DEL, lent->application, NULL);
        mover_forget(mover, lent);
        errno = code;
        return -1;
    }
    pthread_mutex_lock(&mover->mutex);
    lent->state = MOVING;
    pthread_mutex_unlock(&mover->mutex);
    return lent->index;
}

/* Wait for the end of the budget that the thread moves of this one, if it does; the mutex is held. By the time that this
 * thread runs, the mover's may have begun another one: to wait until it serves another connection would be for ever. */
static void wait_until_served(Mover *mover, const Lent *lent) {
    const unsigned budgets = lent->budgets;
    mover->waiting++;
    while (mover->current == lent && lent->budgets == budgets)
        pthread_cond_wait(&mover->served, &mover->mutex);
    mover->waiting--;
}

/* What is lent under this index; the mutex is held. */
static Lent *find(const Mover *mover, int index) {
    Lent *lent = index >= 0 && index < mover->count ? mover->lent[index] : NULL;
    return lent != NULL && lent->state != FREE ? lent : NULL;
}

const Lent *mover_settle(Mover *mover, int index) {
    pthread_mutex_lock(&mover->mutex);
    const Lent *lent = find(mover, index);
    if (lent != NULL)
        wait_until_served(mover, lent);
    pthread_mutex_unlock(&mover->mutex);
    return lent;
}

Lent *mover_recall(Mover *mover, int index) {
    pthread_mutex_lock(&mover->mutex);
    Lent *lent = find(mover, index);
    if (lent != NULL) {
        lent->is_wanted = 1;
        wait_until_served(mover, lent);
        if (lent->state == MOVING)
            stop_waiting(mover, lent);
        for (int number = 0; number < mover->returned_count; number++)
            if (mover->returned[number] == index)
                mover->returned[number--] = mover->returned[--mover->returned_count];
    }
    pthread_mutex_unlock(&mover->mutex);
    return lent;
}

void mover_forget(Mover *mover, Lent *lent) {
    free(lent->records);
    free(lent->rest);
    free(lent->left);
    lent->records = lent->rest = lent->left = NULL;
    pthread_mutex_lock(&mover->mutex);
    lent->state = FREE;
    mover->unused[mover->unused_count++] = lent->index;
    pthread_mutex_unlock(&mover->mutex);
}

int mover_collect(Mover *mover, int *indices) {
    uint64_t value;
    ssize_t ignored = read(mover->notify, &value, sizeof value);
    (void)ignored; /* Nothing there is no error: the list says it. */
    pthread_mutex_lock(&mover->mutex);
    int count = mover->returned_count;
    if (count > 0)
        memcpy(indices, mover->returned, (size_t)count * sizeof *indices);
    mover->returned_count = 0;
    pthread_mutex_unlock(&mover->mutex);
    return count;
}
