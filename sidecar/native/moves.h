/* What moves bytes that need no decision; moves.c, for loop.c and mover.c. */
#ifndef TOUCHMARK_MOVES_H
#define TOUCHMARK_MOVES_H

#include <stddef.h>

enum {
    HEADER_BYTES = 4,      /* Type, epoch, length in two bytes; sidecar/tunnel/frames.py. */
    RECORD_BYTES = 16384,  /* RFC 8446, section 5.1: the most plaintext in one record. */
    PAYLOAD_BYTES = RECORD_BYTES - HEADER_BYTES,
    /* What a slot is filled with: a batch of records, and what it carries, fit one segment of the loopback device each
     * (its MTU of 65,536 less the headers). Full records would take a second one, which wakes the reader up once more. */
    FILLED_BYTES = RECORD_BYTES - 44,
    OVERHEAD_BYTES = 32,   /* What a record counts beside its payload; sidecar/tls/key_limit.py. */
    FRAME_DATA = 4,
    SLOTS = 4,
    /* A batch of SLOTS records behind the part of a frame that the batch before left over. */
    PLAIN_BYTES = (SLOTS + 1) * RECORD_BYTES,
    MAX_IOV = 64,
    BUDGET_BYTES = 256 * 1024,
};

/* Of SSL_get_error: include/openssl/ssl.h. */
enum { TLS_WANT_READ = 2, TLS_WANT_WRITE = 3 };

/* Why `send` returned. */
enum {
    WAITING = 0, /* The source has nothing more now, or the budget is used. */
    ENDED = 1,   /* The source has ended. */
    BROKEN = 2,  /* Reading the source failed. */
    BLOCKED = 3, /* TLS takes nothing more now: the rest must be given again as it is. */
    LIMIT = 4,   /* The key's room is used: the rest is for the next key. */
    FAILED = 5,  /* Writing TLS failed. */
};

typedef int (*tls_read_function)(void *tls, void *buffer, int size);
typedef int (*tls_write_function)(void *tls, const void *buffer, int size);
typedef int (*tls_get_error_function)(const void *tls, int result);
typedef void (*tls_clear_function)(void);

typedef struct {
    tls_read_function read;
    tls_write_function write;
    tls_get_error_function get_error;
    tls_clear_function clear; /* ERR_clear_error: what an earlier call left would be taken for this one's error. */
} Tls;

typedef struct {
    int status;
    long long taken;  /* Bytes read from the source; after FAILED without those that TLS didn't take. */
    long long used;   /* Bytes of the key, records' overhead included. */
    int result, code; /* Of TLS after FAILED, with errno; errno alone after BROKEN. */
    int first, past;  /* Slots of the rest ... */
    size_t offset;    /* ... of whose first this much was written ... */
    size_t sizes[SLOTS]; /* ... and how long each is. */
} Sent;

typedef struct {
    long long written; /* Bytes that the sink has taken. */
    long long used;
    int broken;        /* errno of the sink, or 0. */
    int result, code;  /* Of TLS where it failed, with errno; else 1. */
    size_t rest;       /* Payload that the sink didn't take: the buffer's first bytes. */
    size_t start, end; /* Where in the buffer lies what isn't a plain frame. */
    int is_done;
} Received;

typedef struct {
    int status; /* WAITING, ENDED or BROKEN, as of `send`. */
    long long written;
    int code;   /* errno of the source. */
    int broken; /* errno of the sink, or 0. */
    size_t start, end;
} Forwarded;

/* One buffer for each thread: every call uses it up, or the caller copies what is left. The address sanitizer
 * guards no thread's own variables, so that its build, which has one thread, takes an ordinary one. */
#ifndef OF_THREAD
#define OF_THREAD _Thread_local
#endif
extern OF_THREAD unsigned char buffer[PLAIN_BYTES];

static inline unsigned char *slot(int index) { return buffer + (size_t)index * RECORD_BYTES; }

/* Whether slots wait to be written: again as they are, or with the next key. */
static inline int sent_has_rest(const Sent *sent) {
    return (sent->status == BLOCKED || sent->status == LIMIT) && sent->first < sent->past;
}

/* Write records that wait, beginning at this slot: those that `sent` counts. False where it says why it has to return. */
int write_slots(const Tls *loop, void *tls, const unsigned char *slots, long long room, Sent *sent);
/* `tunnel`: the socket that TLS writes to, or -1. Several records of one call leave it together, where it is TCP's. */
void send_all(const Tls *loop, void *tls, int source, int tunnel, int epoch, long long room, Sent *sent);
void forget_rest(int epoch, Sent *sent);
void receive_all(const Tls *loop, void *tls, int sink, int epoch, long long room, Received *received);
void forward_all(int source, int sink, Forwarded *forwarded);

#endif
