/* Connections are lent and recalled at random while both their ends send: every byte arrives once and in order. Each stay
 * is with a mover that is drawn; all of them look at one proof.
 *
 * Without Python, so that the thread sanitizer sees every access; test_mover.py builds and runs it. TLS is a socket
 * whose records are what a read returns. What comes back is finished here as the Python code would.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mover.h"

#ifndef MOVERS
#define MOVERS 2
#endif

enum { CONNECTIONS = 12, TOTAL = 400 * 1000, EPOCH = 7, TLS_FAILED = 1, TLS_CLOSED = 6 };

static _Thread_local int last_error;

static int fake_read(void *tls, void *into, int size) {
    ssize_t count = recv((int)(intptr_t)tls, into, (size_t)size, MSG_DONTWAIT);
    last_error = count > 0 ? 0 : count == 0 ? TLS_CLOSED : errno == EAGAIN ? TLS_WANT_READ : TLS_FAILED;
    return (int)count;
}

static int fake_write(void *tls, const void *from, int size) {
    ssize_t count = send((int)(intptr_t)tls, from, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
    last_error = count > 0 ? 0 : errno == EAGAIN ? TLS_WANT_WRITE : TLS_FAILED;
    return (int)count;
}

static int fake_get_error(const void *tls, int result) {
    (void)tls;
    (void)result;
    return last_error;
}

static void fake_clear(void) {}
static unsigned long fake_take_error(void) { return 0; }

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

typedef struct {
    int near[2], far[2]; /* Of the application and of the tunnel. */
    int number;          /* Of the stay, or -1 ... */
    Mover *mover;        /* ... and with whom it is. */
    long long up, down;  /* Bytes that were moved. */
    long long seen[2];   /* Bytes that the far ends have read. */
    unsigned char frame[RECORD_BYTES];
    size_t held; /* Of a part of a frame that came back. */
    unsigned int seed;
} Connection;

static unsigned char byte_at(long long offset) { return (unsigned char)((offset * 31 + offset / 251) & 0xFF); }

static void write_all(int fd, const unsigned char *from, size_t size) {
    while (size > 0) {
        ssize_t count = send(fd, from, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0 && errno == EAGAIN) {
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            poll(&writable, 1, -1);
            continue;
        }
        if (count <= 0)
            fail("a write failed");
        from += count;
        size -= (size_t)count;
    }
}

static void read_exactly(int fd, unsigned char *into, size_t size) {
    while (size > 0) {
        ssize_t count = recv(fd, into, size, 0);
        if (count <= 0)
            fail("a read failed");
        into += count;
        size -= (size_t)count;
    }
}

/* Two connected sockets of TCP, which have a cork. */
static int connect_pair(int *pair) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0 ||
        connect(pair[0], (struct sockaddr *)&address, size) < 0)
        return -1;
    pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    return pair[1] < 0 ? -1 : close(listener);
}

static void check_no_cork(int tunnel) {
    int value = 0;
    socklen_t size = sizeof value;
    if (getsockopt(tunnel, IPPROTO_TCP, TCP_CORK, &value, &size) == 0 && value != 0)
        fail("a cork was left in");
}

/* ---- the ends, each in a thread of its own ---------------------------------------------------------------------- */

static void *write_application(void *argument) {
    Connection *connection = argument;
    unsigned char data[40000];
    unsigned int seed = connection->seed;
    for (long long sent = 0; sent < TOTAL;) {
        size_t size = (size_t)(rand_r(&seed) % (rand_r(&seed) % 4 ? 700 : (int)sizeof data)) + 1;
        if ((long long)size > TOTAL - sent)
            size = (size_t)(TOTAL - sent);
        for (size_t index = 0; index < size; index++)
            data[index] = byte_at(sent + (long long)index);
        write_all(connection->far[0], data, size);
        sent += (long long)size;
    }
    return NULL;
}

static void *read_application(void *argument) {
    Connection *connection = argument;
    unsigned char data[5000];
    while (connection->seen[0] < TOTAL) {
        ssize_t count = recv(connection->far[0], data, sizeof data, 0);
        if (count <= 0)
            fail("the application's connection broke");
        for (ssize_t index = 0; index < count; index++)
            if (data[index] != byte_at(connection->seen[0]++))
                fail("another byte came to the application");
    }
    return NULL;
}

static void *write_tunnel(void *argument) {
    Connection *connection = argument;
    unsigned char frame[RECORD_BYTES];
    unsigned int seed = connection->seed + 1;
    for (long long sent = 0; sent < TOTAL;) {
        size_t size = (size_t)(rand_r(&seed) % (rand_r(&seed) % 4 ? 500 : PAYLOAD_BYTES)) + 1;
        if ((long long)size > TOTAL - sent)
            size = (size_t)(TOTAL - sent);
        frame[0] = FRAME_DATA;
        frame[1] = EPOCH;
        frame[2] = (unsigned char)(size >> 8);
        frame[3] = (unsigned char)(size & 0xFF);
        for (size_t index = 0; index < size; index++)
            frame[HEADER_BYTES + index] = byte_at(sent + (long long)index);
        write_all(connection->far[1], frame, size + HEADER_BYTES);
        sent += (long long)size;
    }
    return NULL;
}

static void *read_tunnel(void *argument) {
    Connection *connection = argument;
    unsigned char header[HEADER_BYTES], data[RECORD_BYTES];
    while (connection->seen[1] < TOTAL) {
        read_exactly(connection->far[1], header, sizeof header);
        size_t size = (size_t)header[2] << 8 | header[3];
        if (header[0] != FRAME_DATA || header[1] != EPOCH || size == 0 || size > PAYLOAD_BYTES)
            fail("no frame came to the tunnel");
        read_exactly(connection->far[1], data, size);
        for (size_t index = 0; index < size; index++)
            if (data[index] != byte_at(connection->seen[1]++))
                fail("another byte came to the tunnel");
    }
    return NULL;
}

/* ---- who lends -------------------------------------------------------------------------------------------------- */

/* Pass on what came back, up to the end of a frame. */
static void pass_on(Connection *connection, const unsigned char *left, size_t size) {
    memcpy(connection->frame, left, size > sizeof connection->frame ? 0 : size);
    size_t offset = 0;
    while (offset < size) {
        unsigned char whole[RECORD_BYTES];
        size_t here = size - offset < sizeof whole ? size - offset : sizeof whole;
        memcpy(whole, left + offset, here);
        if (here < HEADER_BYTES) {
            read_exactly(connection->near[1], whole + here, HEADER_BYTES - here);
            here = HEADER_BYTES;
        }
        size_t length = HEADER_BYTES + ((size_t)whole[2] << 8 | whole[3]);
        if (length > sizeof whole || whole[0] != FRAME_DATA)
            fail("what came back is no frame");
        if (here < length)
            read_exactly(connection->near[1], whole + here, length - here);
        write_all(connection->near[0], whole + HEADER_BYTES, length - HEADER_BYTES);
        connection->down += (long long)(length - HEADER_BYTES);
        offset += length;
    }
}

static void take_back(Connection *connection) {
    Lent *lent = mover_recall(connection->mover, connection->number);
    if (lent == NULL || lent->is_lost)
        fail("a stay is gone");
    check_no_cork(connection->near[1]);
    if (lent->is_held && lent->taken > 0)
        fail("an application was read that may not be");
    connection->number = -1;
    connection->up += lent->taken;
    connection->down += lent->written;
    if (lent->left_by == UPWARD || lent->full & UPWARD) {
        const Sent *sent = &lent->sent;
        if (sent->status != BLOCKED && sent->status != LIMIT)
            fail("reading the application ended");
        size_t offset = sent->offset;
        for (int index = sent->first; index < sent->past; index++, offset = 0)
            write_all(connection->near[1], lent->records + (size_t)index * RECORD_BYTES + offset,
                      sent->sizes[index] - offset);
    }
    if (lent->left_by == DOWNWARD || lent->full & DOWNWARD) {
        const Received *received = &lent->received;
        if (received->broken || received->result != 1)
            fail("reading the tunnel ended");
        if (received->rest > lent->rest_written) {
            write_all(connection->near[0], lent->rest + lent->rest_written, received->rest - lent->rest_written);
            connection->down += (long long)(received->rest - lent->rest_written);
        }
        if (received->end > received->start)
            pass_on(connection, lent->left, received->end - received->start);
    }
    mover_forget(connection->mover, lent);
}

static void lend(Mover *movers, Connection *connection, Proof *proof, unsigned int *seed) {
    Lent what = {
        .tls = (void *)(intptr_t)connection->near[1],
        .application = connection->near[0],
        .tunnel = connection->near[1],
        .epoch = EPOCH,
        .send_room = rand_r(seed) % 8 ? 1LL << 40 : rand_r(seed) % 50000,
        .receive_room = rand_r(seed) % 8 ? 1LL << 40 : rand_r(seed) % 50000,
        .proof = rand_r(seed) % 2 ? proof : NULL,
        .is_held = rand_r(seed) % 4 == 0,
    };
    connection->mover = &movers[rand_r(seed) % MOVERS];
    connection->number = mover_lend(connection->mover, &what);
    if (connection->number < 0)
        fail("a connection can't be lent");
}

static void collect(Mover *mover, Connection *connections) {
    int indices[1024];
    if (mover->room > (int)(sizeof indices / sizeof *indices))
        fail("there are more stays than connections");
    int count = mover_collect(mover, indices);
    for (int index = 0; index < count; index++)
        for (int each = 0; each < CONNECTIONS; each++)
            if (connections[each].mover == mover && connections[each].number == indices[index])
                take_back(&connections[each]);
}

/* ---- a connection that is never still --------------------------------------------------------------------------- */

static _Atomic int ended; /* Budgets, while a recall waited. */

/* A budget ends once a recall waits for it. `tls` is the mover. */
static int busy_read(void *tls, void *into, int size) {
    Mover *mover = tls;
    (void)into;
    (void)size;
    last_error = TLS_WANT_READ;
    for (int waiting = 0; !waiting;) {
        poll(NULL, 0, 1);
        pthread_mutex_lock(&mover->mutex);
        waiting = mover->waiting;
        pthread_mutex_unlock(&mover->mutex);
    }
    ended++;
    return -1;
}

static void recall_what_is_never_still(void) {
    static Mover mover = {.tls = {busy_read, fake_write, fake_get_error, fake_clear}, .take_error = fake_take_error};
    int application[2], tunnel[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, application) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, tunnel) < 0)
        fail("no sockets");
    write_all(tunnel[1], (const unsigned char *)"x", 1); /* Nothing reads it. */
    if (mover_start(&mover) != 0)
        fail("nothing starts");
    mover_allow(&mover, 1LL << 60);
    Lent what = {.tls = &mover, .application = application[0], .tunnel = tunnel[0], .epoch = EPOCH};
    for (int stay = 0; stay < 30; stay++) {
        int number = mover_lend(&mover, &what);
        for (int is_served = 0; number >= 0 && !is_served;) {
            pthread_mutex_lock(&mover.mutex);
            is_served = mover.current != NULL;
            pthread_mutex_unlock(&mover.mutex);
        }
        ended = 0;
        Lent *lent = number < 0 ? NULL : mover_recall(&mover, number);
        if (lent == NULL)
            fail("a stay is gone");
        if (ended != 1)
            fail("a recall waited for more than the budget that was under way");
        mover_forget(&mover, lent);
    }
    if (mover_stop(&mover) != 0)
        fail("the thread doesn't end");
}

int main(int count, char **arguments) {
    recall_what_is_never_still();
    static Connection connections[CONNECTIONS];
    static Mover movers[MOVERS];
    struct pollfd notified[MOVERS];
    unsigned int seed = count > 1 ? (unsigned int)atoi(arguments[1]) : 1;
    Proof proof = {.maps = open("/proc/self/maps", O_RDONLY), .directory = open("/proc/self", O_PATH | O_DIRECTORY)};
    struct stat file;
    if (stat("/proc/self/exe", &file) < 0)
        fail("nothing starts");
    proof.device = file.st_dev;
    proof.inode = file.st_ino;
    proof.max_age_ns = 1000000;
    for (int each = 0; each < MOVERS; each++) {
        movers[each].tls = (Tls){fake_read, fake_write, fake_get_error, fake_clear};
        movers[each].take_error = fake_take_error;
        if (mover_start(&movers[each]) != 0)
            fail("nothing starts");
        mover_allow(&movers[each], 1LL << 60);
        notified[each] = (struct pollfd){.fd = movers[each].notify, .events = POLLIN};
    }
    static pthread_t threads[CONNECTIONS][4];
    void *(*const ends[])(void *) = {write_application, read_application, write_tunnel, read_tunnel};
    for (int index = 0; index < CONNECTIONS; index++) {
        Connection *connection = &connections[index];
        connection->number = -1;
        connection->seed = seed * 1000 + (unsigned int)index;
        for (int side = 0; side < 2; side++) {
            int pair[2], room = 4096 << rand_r(&seed) % 6;
            /* Every third tunnel is TCP's, whose reads cut frames anywhere. */
            if ((side && index % 3 == 0 ? connect_pair(pair) : socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) < 0)
                fail("no sockets");
            connection->near[side] = pair[0];
            connection->far[side] = pair[1];
            setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
            setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
        }
        for (int end = 0; end < 4; end++)
            if (pthread_create(&threads[index][end], NULL, ends[end], connection) != 0)
                fail("no thread");
    }
    for (int is_done = 0; !is_done;) {
        is_done = 1;
        for (int index = 0; index < CONNECTIONS; index++) {
            Connection *connection = &connections[index];
            if (connection->number < 0 && (connection->up < TOTAL || connection->down < TOTAL))
                lend(movers, connection, &proof, &seed);
            else if (connection->number >= 0 && rand_r(&seed) % 4 == 0)
                take_back(connection);
            if (connection->number >= 0 || connection->up < TOTAL || connection->down < TOTAL)
                is_done = 0;
        }
        poll(notified, MOVERS, 1);
        for (int each = 0; each < MOVERS; each++)
            if (notified[each].revents)
                collect(&movers[each], connections);
    }
    for (int index = 0; index < CONNECTIONS; index++)
        for (int end = 0; end < 4; end++)
            pthread_join(threads[index][end], NULL);
    for (int each = 0; each < MOVERS; each++)
        if (mover_stop(&movers[each]) != 0)
            fail("a thread doesn't end");
    return 0;
}
