/* Moves bytes that need no decision, and returns at anything else. No Python; see loop.c. */
#include "moves.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

OF_THREAD unsigned char buffer[PLAIN_BYTES];

/* ---- socket -> TLS ---------------------------------------------------------------------------------------------- */

int write_slots(const Tls *loop, void *tls, const unsigned char *slots, long long room, Sent *sent) {
    for (; sent->first < sent->past; sent->first++, sent->offset = 0) {
        if (sent->used > room) {
            sent->status = LIMIT;
            return 0;
        }
        size_t size = sent->sizes[sent->first];
        while (sent->offset < size) {
            size_t left = size - sent->offset;
            errno = 0;
            int count = loop->write(tls, slots + (size_t)sent->first * RECORD_BYTES + sent->offset, (int)left);
            if (count <= 0 || (size_t)count > left) {
                sent->code = errno;
                sent->result = count <= 0 ? count : -1;
                sent->status = loop->get_error(tls, sent->result) == TLS_WANT_WRITE ? BLOCKED : FAILED;
                return 0;
            }
            sent->offset += (size_t)count;
            sent->used += count + OVERHEAD_BYTES;
        }
    }
    if (sent->used > room) {
        sent->status = LIMIT;
        return 0;
    }
    return 1;
}

/* Have the kernel wait for more before it sends a segment that isn't full, or send what waits: tcp(7), TCP_CORK. Each
 * record would be a segment else, which wakes the peer up. False where the socket isn't TCP's. */
static int set_cork(int tunnel, int value) {
    return setsockopt(tunnel, IPPROTO_TCP, TCP_CORK, &value, sizeof value) == 0;
}

/* As `send_all`, which takes the cork out again. */
static void send_corked(const Tls *loop, void *tls, int source, int tunnel, int epoch, long long room, Sent *sent,
                        int *is_corked) {
    const size_t head = epoch < 0 ? 0 : HEADER_BYTES;
    const size_t most = FILLED_BYTES - head;
    struct iovec parts[SLOTS];
    for (int index = 0; index < SLOTS; index++) {
        parts[index].iov_base = slot(index) + head;
        parts[index].iov_len = most;
    }
    struct msghdr message;
    memset(&message, 0, sizeof message);
    loop->clear();
    for (;;) {
        message.msg_iov = parts;
        message.msg_iovlen = SLOTS;
        ssize_t count = recvmsg(source, &message, MSG_DONTWAIT);
        if (count < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
                sent->status = BROKEN;
                sent->code = errno;
            }
            return;
        }
        if (count == 0) {
            sent->status = ENDED;
            return;
        }
        sent->taken += count;
        sent->first = sent->past = 0;
        sent->offset = 0;
        for (size_t left = (size_t)count; left > 0 && sent->past < SLOTS; sent->past++) {
            size_t size = left < most ? left : most;
            if (head) {
                unsigned char *header = slot(sent->past);
                header[0] = FRAME_DATA;
                header[1] = (unsigned char)epoch;
                header[2] = (unsigned char)(size >> 8);
                header[3] = (unsigned char)(size & 0xFF);
            }
            sent->sizes[sent->past] = size + head;
            left -= size;
        }
        if (sent->past > 1 && tunnel >= 0 && !*is_corked)
            *is_corked = set_cork(tunnel, 1);
        if (!write_slots(loop, tls, buffer, room, sent))
            return;
        /* A short read was the last one for now: asking again costs a system call, being told again costs none. */
        if ((size_t)count < SLOTS * most || sent->taken >= BUDGET_BYTES)
            return;
    }
}

void send_all(const Tls *loop, void *tls, int source, int tunnel, int epoch, long long room, Sent *sent) {
    int is_corked = 0;
    send_corked(loop, tls, source, tunnel, epoch, room, sent, &is_corked);
    if (is_corked)
        set_cork(tunnel, 0);
}

/* Leave out of `taken` what TLS didn't take. */
void forget_rest(int epoch, Sent *sent) {
    const size_t head = epoch < 0 ? 0 : HEADER_BYTES;
    for (; sent->first < sent->past; sent->first++, sent->offset = 0) {
        size_t size = sent->sizes[sent->first] - head;
        size_t left = sent->sizes[sent->first] - sent->offset;
        sent->taken -= (long long)(left < size ? left : size);
    }
}

/* ---- TLS -> socket ---------------------------------------------------------------------------------------------- */

/* Read a batch of records behind what is in the buffer. */
static void read_batch(const Tls *loop, void *tls, long long room, Received *received) {
    for (int records = 0; records < SLOTS; records++) {
        if (PLAIN_BYTES - received->end < RECORD_BYTES)
            break;
        errno = 0;
        int count = loop->read(tls, buffer + received->end, RECORD_BYTES);
        if (count <= 0 || count > RECORD_BYTES) {
            received->is_done = 1;
            int code = errno, result = count <= 0 ? count : -1;
            if (loop->get_error(tls, result) != TLS_WANT_READ) {
                received->code = code;
                received->result = result;
            }
            return;
        }
        received->end += (size_t)count;
        received->used += count + OVERHEAD_BYTES;
        /* With room for whole records OpenSSL keeps none back. One that a batch wouldn't have is the last for now. */
        if (count < FILLED_BYTES || received->used > room) {
            received->is_done = 1;
            return;
        }
    }
}

/* Collect whole plain frames, or everything where there are no frames; returns how many parts that is. */
static int cut_parts(int epoch, struct iovec *parts, size_t *total, Received *received) {
    int count = 0;
    *total = 0;
    if (epoch < 0) {
        *total = received->end - received->start;
        parts[0].iov_base = buffer + received->start;
        parts[0].iov_len = *total;
        received->start = received->end;
        return *total > 0;
    }
    while (count < MAX_IOV && received->end - received->start >= HEADER_BYTES) {
        const unsigned char *header = buffer + received->start;
        size_t size = (size_t)header[2] << 8 | header[3];
        if (header[0] != FRAME_DATA || header[1] != epoch || size == 0 || size > PAYLOAD_BYTES) {
            received->is_done = 1;
            break;
        }
        if (received->end - received->start - HEADER_BYTES < size)
            break;
        parts[count].iov_base = buffer + received->start + HEADER_BYTES;
        parts[count].iov_len = size;
        count++;
        *total += size;
        received->start += HEADER_BYTES + size;
    }
    return count;
}

/* Move what the sink didn't take to the buffer's beginning; never over what comes after it. */
static void keep_rest(const struct iovec *parts, int count, size_t written, Received *received) {
    for (int index = 0; index < count; index++) {
        size_t size = parts[index].iov_len;
        if (written >= size) {
            written -= size;
            continue;
        }
        memmove(buffer + received->rest, (unsigned char *)parts[index].iov_base + written, size - written);
        received->rest += size - written;
        written = 0;
    }
}

/* Write the frames of one batch. False when the call has to return. */
static int write_parts(int sink, int epoch, Received *received) {
    struct iovec parts[MAX_IOV];
    size_t total;
    int count;
    while ((count = cut_parts(epoch, parts, &total, received)) > 0) {
        struct msghdr message;
        memset(&message, 0, sizeof message);
        message.msg_iov = parts;
        message.msg_iovlen = (size_t)count;
        ssize_t written = sendmsg(sink, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (written < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
                received->broken = errno;
                return 0;
            }
            written = 0;
        }
        received->written += written;
        if ((size_t)written < total) {
            keep_rest(parts, count, (size_t)written, received);
            return 0;
        }
    }
    return 1;
}

void receive_all(const Tls *loop, void *tls, int sink, int epoch, long long room, Received *received) {
    loop->clear();
    for (;;) {
        read_batch(loop, tls, room, received);
        if (!write_parts(sink, epoch, received) || received->is_done || received->written >= BUDGET_BYTES)
            return;
        size_t left = received->end - received->start;
        memmove(buffer, buffer + received->start, left);
        received->start = 0;
        received->end = left;
    }
}

/* ---- socket -> socket ------------------------------------------------------------------------------------------- */

void forward_all(int source, int sink, Forwarded *forwarded) {
    for (;;) {
        ssize_t count = recv(source, buffer, PLAIN_BYTES, MSG_DONTWAIT);
        if (count < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
                forwarded->status = BROKEN;
                forwarded->code = errno;
            }
            return;
        }
        if (count == 0) {
            forwarded->status = ENDED;
            return;
        }
        ssize_t written = send(sink, buffer, (size_t)count, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (written < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
                forwarded->broken = errno;
                return;
            }
            written = 0;
        }
        forwarded->written += written;
        if (written < count) {
            forwarded->start = (size_t)written;
            forwarded->end = (size_t)count;
            return;
        }
        if (count < PLAIN_BYTES || forwarded->written >= BUDGET_BYTES)
            return;
    }
}

