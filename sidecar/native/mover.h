/* A thread that moves the bytes of established connections; mover.c, for mover_type.c. */
#ifndef TOUCHMARK_MOVER_H
#define TOUCHMARK_MOVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#include "moves.h"

typedef unsigned long (*tls_take_error_function)(void); /* ERR_get_error */

/* What says that a process still runs what was attested: descriptors of its maps and its directory, and what `exe` has
 * to be. One for all connections of one execution. */
typedef struct {
    int maps, directory;
    dev_t device;
    ino_t inode;
    long long max_age_ns;
    _Atomic long long fresh_until_ns;
} Proof;

enum { FREE = 0, MOVING = 1, RETURNED = 2 };

/* Which direction ended a stay, with what is left over; and a set of those whose sink takes no more at the moment. */
enum { NEITHER = 0, UPWARD = 1, DOWNWARD = 2 };

/* One connection. While it is MOVING only the thread touches its descriptors and its TLS object. */
typedef struct {
    int index, state, left_by, is_lost;
    int is_wanted;    /* Back: the thread lets go of it after this budget. */
    unsigned budgets; /* How many have ended. */
    uint32_t generation;
    void *tls;
    int application, tunnel, epoch;
    int is_held; /* The application isn't read: once it can be, or has ended, the connection comes back. */
    long long send_room, receive_room;
    Proof *proof; /* Or NULL: nothing has to be looked at. */
    void *owner;  /* Of the proof, for the caller. */
    _Atomic long long taken, written;
    long long send_used, receive_used;
    /* What waits is kept here until its sink takes it, one batch a direction, whose source isn't read until then; and
     * what is left over at the end. */
    int full;
    Sent sent;
    Received received;
    unsigned long error;    /* Of OpenSSL's queue in the thread. */
    unsigned char *records; /* Slots of `sent`, from its first when it was kept. */
    unsigned char *rest;    /* What `received` calls the rest, ... */
    size_t rest_written;    /* ... of which the application has taken so much, ... */
    unsigned char *left;    /* ... and what it calls left. */
} Lent;

typedef struct {
    Tls tls;
    tls_take_error_function take_error;
    int epoll, wake, notify;
    pthread_t thread;
    int is_running;
    _Atomic int is_ending;
    _Atomic long long allowed_until_ns; /* Who lends has to live: its checks are what may end a connection. */
    pthread_mutex_t mutex; /* Of what follows, and of each connection's state. */
    pthread_cond_t served;
    int waiting; /* How many wait for the end of a budget of theirs. */
    Lent *current;
    Lent **lent; /* By index; each one is used again. */
    int *unused, *returned;
    int count, room, unused_count, returned_count;
} Mover;

/* 0 or errno. What was started has to be stopped. */
int mover_start(Mover *mover);
/* End the thread: 0, or errno where it didn't end in time and everything has to stay as it is. */
int mover_stop(Mover *mover);
/* Let the thread move bytes for so long from now. */
void mover_allow(Mover *mover, long long duration_ns);
/* Lend a connection of which `what` says everything up to `owner`: its index, or -1 with errno. */
int mover_lend(Mover *mover, const Lent *what);
/* Wait until all that the thread has moved of a connection is counted; NULL where this one isn't lent. */
const Lent *mover_settle(Mover *mover, int index);
/* Get a connection back, at the latest after one budget; NULL where this one isn't lent. */
Lent *mover_recall(Mover *mover, int index);
/* Forget what was recalled. */
void mover_forget(Mover *mover, Lent *lent);
/* Write the indices of connections that came back by themselves since the last call; there is room for `mover->room`. */
int mover_collect(Mover *mover, int *indices);

#endif
