/* The looks at the kernel that attestation makes again and again: one call each, without the interpreter's lock.
 *
 * Belongs here: reading a process's descriptor table, finding a socket in it, the look at a process that is known, one
 * question to sock_diag. Doesn't: what the answers mean: that is decided in Python (sidecar/attest/), which makes the
 * same looks by itself where this isn't built (holding/tables.py, process.py, netlink/kernel_sockets.py).
 *
 * No call waits: /proc and sock_diag answer within the system call. No state is kept.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    ENTRIES_BYTES = 32768,
    LINK_BYTES = 64,           /* Longer links are of other files. */
    STATUS_BYTES = 8192,
    REPLY_BYTES = 65536,       /* MAX_REPLY_BYTES of sidecar/attest/netlink/sock_diag.py. */
    MAX_LOOKED_AT = 1 << 24,   /* Descriptors in one call, whatever is asked for. */
    MAX_STRANGERS = 64,        /* Messages before the answer that aren't it. */
};

/* getdents(2). */
struct entry {
    uint64_t inode;
    int64_t position;
    uint16_t length;
    uint8_t type;
    char name[];
};

/* A socket in a table, as Python reads it: `=QII`. */
struct found {
    uint64_t inode;
    uint32_t descriptor;
    uint32_t unused;
};

/* What grows: elements of one size, up to a number of them. */
struct list {
    unsigned char *items;
    size_t size, count, room;
};

static int append(struct list *list, const void *item) {
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 256;
        unsigned char *items = realloc(list->items, room * list->size);
        if (items == NULL)
            return 0;
        list->items = items;
        list->room = room;
    }
    memcpy(list->items + list->count * list->size, item, list->size);
    list->count++;
    return 1;
}

/* Read a whole decimal number of at most 19 digits; returns how many digits, 0 for none or too many. */
static size_t read_digits(const char *text, size_t length, uint64_t *number) {
    size_t count = 0;
    *number = 0;
    while (count < length && text[count] >= '0' && text[count] <= '9') {
        if (count == 19)
            return 0;
        *number = *number * 10 + (uint64_t)(text[count] - '0');
        count++;
    }
    return count;
}

enum link { OTHER_FILE, SOCKET, RING };

/* What a link of a descriptor table names: fs/proc/fd.c, net/socket.c (sockfs_dname), fs/anon_inodes.c. */
static enum link classify(const char *text, size_t length, uint64_t *inode) {
    static const char socket_prefix[] = "socket:[", ring[] = "anon_inode:[io_uring]";
    const size_t prefix = sizeof socket_prefix - 1;
    if (length > prefix + 1 && memcmp(text, socket_prefix, prefix) == 0) {
        size_t digits = read_digits(text + prefix, length - prefix, inode);
        if (digits > 0 && prefix + digits + 1 == length && text[length - 1] == ']')
            return SOCKET;
    }
    return length == sizeof ring - 1 && memcmp(text, ring, length) == 0 ? RING : OTHER_FILE;
}

/* Read what a descriptor is; -1 with errno. */
static int read_link(int directory, const char *name, uint64_t *inode) {
    char text[LINK_BYTES];
    ssize_t length = readlinkat(directory, name, text, sizeof text);
    return length < 0 ? -1 : (int)classify(text, (size_t)length, inode);
}

/* Called for each number in a directory of /proc; false ends the walk. */
typedef int (*visit_function)(void *context, const char *name, uint32_t number);

/* Walk over a directory from its beginning; returns errno. */
static int walk(int directory, visit_function visit, void *context) {
    _Alignas(struct entry) char entries[ENTRIES_BYTES];
    if (lseek(directory, 0, SEEK_SET) < 0)
        return errno;
    for (;;) {
        long count = syscall(SYS_getdents64, directory, entries, sizeof entries);
        if (count < 0)
            return errno;
        if (count == 0)
            return 0;
        for (long offset = 0; offset < count;) {
            const struct entry *entry = (const struct entry *)(const void *)(entries + offset);
            size_t longest = entry->length - offsetof(struct entry, name);
            uint64_t number;
            size_t length = strnlen(entry->name, longest);
            offset += entry->length;
            if (length == 0 || read_digits(entry->name, length, &number) != length || number > INT_MAX)
                continue;
            if (!visit(context, entry->name, (uint32_t)number))
                return 0;
        }
    }
}

/* ---- A whole table ---------------------------------------------------------------------------------------------- */

struct scan {
    int directory, code;
    size_t looked, limit;
    struct list sockets, rings;
};

static int scan_one(void *context, const char *name, uint32_t number) {
    struct scan *scan = context;
    if (scan->looked >= scan->limit)
        return 0;
    struct found found = {.descriptor = number};
    int kind = read_link(scan->directory, name, &found.inode);
    if (kind < 0) {
        scan->code = errno == ENOENT ? 0 : errno; /* Closed since the directory was read; else it has ended. */
        return scan->code == 0;
    }
    scan->looked++;
    if ((kind == SOCKET && !append(&scan->sockets, &found)) || (kind == RING && !append(&scan->rings, &number))) {
        scan->code = ENOMEM;
        return 0;
    }
    return 1;
}

/* ---- Some sockets of a table ------------------------------------------------------------------------------------- */

struct search {
    int directory, code;
    size_t limit, looked, left;
    const unsigned char *wanted; /* Ascending, each once. */
    size_t count;
    unsigned char *seen;
    struct list descriptors, sockets;
};

static int collect_one(void *context, const char *name, uint32_t number) {
    struct search *search = context;
    (void)name;
    if (search->descriptors.count > search->limit)
        return 0;
    if (append(&search->descriptors, &number))
        return 1;
    search->code = ENOMEM;
    return 0;
}

/* Where the inode is among the wanted ones; their count where it isn't. */
static size_t find_wanted(const struct search *search, uint64_t inode) {
    size_t low = 0, high = search->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        uint64_t value;
        memcpy(&value, search->wanted + middle * sizeof value, sizeof value);
        if (value == inode)
            return middle;
        if (value < inode)
            low = middle + 1;
        else
            high = middle;
    }
    return search->count;
}

/* Look at the newest descriptors first: the kernel lists them in ascending order. */
static void find_all(struct search *search) {
    int code = walk(search->directory, collect_one, search);
    if (search->code == 0)
        search->code = code;
    if (search->code != 0 || search->descriptors.count > search->limit) {
        search->looked = search->descriptors.count;
        return;
    }
    for (size_t index = search->descriptors.count; index-- > 0 && search->left > 0;) {
        struct found found = {0};
        char name[16];
        memcpy(&found.descriptor, search->descriptors.items + index * sizeof found.descriptor, sizeof found.descriptor);
        snprintf(name, sizeof name, "%u", found.descriptor);
        int kind = read_link(search->directory, name, &found.inode);
        if (kind < 0 && errno != ENOENT) {
            search->code = errno;
            return;
        }
        search->looked++;
        size_t place = kind == SOCKET ? find_wanted(search, found.inode) : search->count;
        if (place == search->count || search->seen[place])
            continue;
        search->seen[place] = 1;
        search->left--;
        if (!append(&search->sockets, &found)) {
            search->code = ENOMEM;
            return;
        }
    }
}

/* ---- A known process ---------------------------------------------------------------------------------------------- */

struct look {
    int descriptors, maps, directory;
    int status; /* -1: who traces it isn't looked at. */
    uint64_t inode;
    const unsigned char *hints;
    size_t count;
    long long descriptor; /* Where the socket was found, or -1. */
    int code;             /* errno; EPROTO where the status isn't one. */
    uint64_t tracer;
    int is_in_use;
    struct stat executable;
};

static uint64_t read_tracer(int status, int *code) {
    static const char label[] = "\nTracerPid:\t";
    char text[STATUS_BYTES];
    uint64_t tracer = 0;
    ssize_t length = pread(status, text, sizeof text, 0);
    if (length < 0) {
        *code = errno;
        return 0;
    }
    const char *start = memmem(text, (size_t)length, label, sizeof label - 1);
    if (start != NULL)
        start += sizeof label - 1;
    if (start == NULL || read_digits(start, (size_t)(text + length - start), &tracer) == 0)
        *code = EPROTO;
    return tracer;
}

/* In this order: what is seen last holds for all that was seen before (sidecar/attestor.py). */
static void look_once(struct look *look) {
    for (size_t index = 0; index < look->count && look->descriptor < 0; index++) {
        uint32_t number;
        uint64_t inode;
        char name[16];
        memcpy(&number, look->hints + index * sizeof number, sizeof number);
        snprintf(name, sizeof name, "%u", number);
        if (read_link(look->descriptors, name, &inode) == SOCKET && inode == look->inode)
            look->descriptor = number;
    }
    if (look->descriptor < 0)
        return;
    if (look->status >= 0)
        look->tracer = read_tracer(look->status, &look->code);
    if (look->code != 0 || look->tracer != 0)
        return;
    char first;
    ssize_t length = pread(look->maps, &first, 1, 0);
    look->is_in_use = length > 0;
    if (length < 0 || (length > 0 && fstatat(look->directory, "exe", &look->executable, 0) < 0))
        look->code = errno;
}

/* ---- One question to sock_diag ------------------------------------------------------------------------------------ */

struct question {
    int netlink;
    const char *request;
    size_t size;
    char *reply; /* REPLY_BYTES. */
    ssize_t length;
    int code;
};

static void ask(struct question *question) {
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    if (sendto(question->netlink, question->request, question->size, MSG_DONTWAIT, (struct sockaddr *)&kernel,
               sizeof kernel) < 0)
        question->code = errno;
}

static void receive(struct question *question) {
    for (int tries = 0; tries < MAX_STRANGERS; tries++) {
        struct sockaddr_nl sender = {0};
        socklen_t size = sizeof sender;
        question->length = recvfrom(question->netlink, question->reply, REPLY_BYTES, MSG_DONTWAIT,
                                    (struct sockaddr *)&sender, &size);
        if (question->length < 0) {
            question->code = errno;
            return;
        }
        /* Only the kernel speaks from port 0; other processes may write to this socket as well. */
        if (size >= sizeof sender && sender.nl_pid == 0)
            return;
    }
    question->code = EAGAIN;
}

/* What `find_socket` reads from a reply, its layout as sidecar/attest/netlink/sock_diag.py has it. */
struct socket_found {
    struct inet_diag_msg message;
    long long received; /* tcpi_bytes_received of struct tcp_info, or -1. */
    int is_found, code; /* The kernel's errno; EBADMSG for a malformed reply. */
};

enum { RECEIVED_AT = 128 };

/* Read an attribute of a socket's message. False: malformed. */
static int read_received(const char *body, size_t size, long long *received) {
    for (size_t offset = sizeof(struct inet_diag_msg); offset + sizeof(struct nlattr) < size;) {
        struct nlattr attribute;
        memcpy(&attribute, body + offset, sizeof attribute);
        if (attribute.nla_len < sizeof attribute || attribute.nla_len > size - offset)
            return 0;
        if (attribute.nla_type == INET_DIAG_INFO) {
            if (attribute.nla_len >= sizeof attribute + RECEIVED_AT + sizeof *received)
                memcpy(received, body + offset + sizeof attribute + RECEIVED_AT, sizeof *received);
            return 1;
        }
        offset += ((size_t)attribute.nla_len + 3) & ~(size_t)3;
    }
    return 1;
}

/* Read the first socket of this request's answer. */
static void find_socket(const char *reply, size_t length, uint32_t sequence, struct socket_found *found) {
    found->received = -1;
    found->code = EBADMSG;
    for (size_t offset = 0; offset < length;) {
        struct nlmsghdr header;
        if (length - offset < sizeof header)
            return;
        memcpy(&header, reply + offset, sizeof header);
        if (header.nlmsg_len < sizeof header || header.nlmsg_len > length - offset)
            return;
        const char *body = reply + offset + sizeof header;
        size_t size = header.nlmsg_len - sizeof header;
        offset += ((size_t)header.nlmsg_len + 3) & ~(size_t)3;
        if (header.nlmsg_seq != sequence)
            continue;
        if (header.nlmsg_type == NLMSG_ERROR) {
            int code;
            if (size >= sizeof code) {
                memcpy(&code, body, sizeof code);
                found->code = code < 0 && code > -4096 ? -code : EBADMSG;
            }
            return;
        }
        if (header.nlmsg_type == NLMSG_DONE)
            break;
        if (header.nlmsg_type != SOCK_DIAG_BY_FAMILY && header.nlmsg_type != TCPDIAG_GETSOCK)
            continue;
        if (size < sizeof found->message)
            return;
        memcpy(&found->message, body, sizeof found->message);
        found->is_found = read_received(body, size, &found->received);
        found->code = found->is_found ? 0 : EBADMSG;
        return;
    }
    found->code = 0;
}

/* ---- Python ----------------------------------------------------------------------------------------------------- */

static int read_number(PyObject *value, long long most, long long *number) {
    *number = PyLong_AsLongLong(value);
    if (*number == -1 && PyErr_Occurred())
        return 0;
    if (*number < 0 || *number > most) {
        PyErr_SetString(PyExc_ValueError, "an argument is out of its range");
        return 0;
    }
    return 1;
}

static int read_descriptor(PyObject *value, int *descriptor) {
    long long number;
    if (!read_number(value, INT_MAX, &number))
        return 0;
    *descriptor = (int)number;
    return 1;
}

/* Bytes that hold whole elements of this size. */
static int read_array(PyObject *value, size_t size, const unsigned char **items, size_t *count) {
    char *text;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(value, &text, &length) < 0)
        return 0;
    if ((size_t)length % size != 0) {
        PyErr_SetString(PyExc_ValueError, "an array of another length");
        return 0;
    }
    *items = (const unsigned char *)text;
    *count = (size_t)length / size;
    return 1;
}

static int has_count(Py_ssize_t count, Py_ssize_t wanted) {
    if (count == wanted)
        return 1;
    PyErr_SetString(PyExc_TypeError, "another number of arguments");
    return 0;
}

static PyObject *bytes_of(const struct list *list) {
    return PyBytes_FromStringAndSize((const char *)list->items, (Py_ssize_t)(list->count * list->size));
}

PyDoc_STRVAR(scan_doc, "scan(directory, limit) -> (errno, looked, sockets, rings)");

static PyObject *look_scan(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    long long limit;
    struct scan scan = {.sockets.size = sizeof(struct found), .rings.size = sizeof(uint32_t)};
    (void)self;
    if (!has_count(count, 2) || !read_descriptor(arguments[0], &scan.directory) ||
        !read_number(arguments[1], MAX_LOOKED_AT, &limit))
        return NULL;
    scan.limit = (size_t)limit;
    Py_BEGIN_ALLOW_THREADS
    int code = walk(scan.directory, scan_one, &scan);
    if (scan.code == 0)
        scan.code = code;
    Py_END_ALLOW_THREADS
    PyObject *result = Py_BuildValue("inNN", scan.code, (Py_ssize_t)scan.looked, bytes_of(&scan.sockets),
                                     bytes_of(&scan.rings));
    free(scan.sockets.items);
    free(scan.rings.items);
    return result;
}

PyDoc_STRVAR(find_doc, "find(directory, inodes, limit) -> (errno, looked, sockets)");

static PyObject *look_find(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    long long limit;
    struct search search = {.descriptors.size = sizeof(uint32_t), .sockets.size = sizeof(struct found)};
    (void)self;
    if (!has_count(count, 3) || !read_descriptor(arguments[0], &search.directory) ||
        !read_array(arguments[1], sizeof(uint64_t), &search.wanted, &search.count) ||
        !read_number(arguments[2], MAX_LOOKED_AT, &limit))
        return NULL;
    search.limit = (size_t)limit;
    search.left = search.count;
    search.seen = calloc(search.count + 1, 1);
    if (search.seen == NULL)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    find_all(&search);
    Py_END_ALLOW_THREADS
    PyObject *result = Py_BuildValue("inN", search.code, (Py_ssize_t)search.looked, bytes_of(&search.sockets));
    free(search.seen);
    free(search.descriptors.items);
    free(search.sockets.items);
    return result;
}

PyDoc_STRVAR(look_doc, "look(descriptors, inode, hints, status, maps, directory) -> None or a tuple");

static PyObject *look_look(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    long long inode;
    struct look look = {.descriptor = -1};
    (void)self;
    if (!has_count(count, 6) || !read_descriptor(arguments[0], &look.descriptors) ||
        !read_number(arguments[1], LLONG_MAX, &inode) ||
        !read_array(arguments[2], sizeof(uint32_t), &look.hints, &look.count) ||
        !read_descriptor(arguments[4], &look.maps) || !read_descriptor(arguments[5], &look.directory))
        return NULL;
    if (arguments[3] == Py_None)
        look.status = -1;
    else if (!read_descriptor(arguments[3], &look.status))
        return NULL;
    look.inode = (uint64_t)inode;
    Py_BEGIN_ALLOW_THREADS
    look_once(&look);
    Py_END_ALLOW_THREADS
    if (look.descriptor < 0)
        return Py_NewRef(Py_None);
    const struct stat *file = &look.executable;
    const long long second = 1000000000;
    return Py_BuildValue("LiKi(KKLLL)", look.descriptor, look.code, (unsigned long long)look.tracer, look.is_in_use,
                         (unsigned long long)file->st_dev, (unsigned long long)file->st_ino, (long long)file->st_size,
                         (long long)file->st_mtim.tv_sec * second + file->st_mtim.tv_nsec,
                         (long long)file->st_ctim.tv_sec * second + file->st_ctim.tv_nsec);
}

static PyObject *result_of(int code, const struct socket_found *found) {
    if (code != 0) {
        errno = code;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (!found->is_found)
        return Py_NewRef(Py_None);
    const struct inet_diag_msg *message = &found->message;
    unsigned long long cookie;
    memcpy(&cookie, message->id.idiag_cookie, sizeof cookie);
    return Py_BuildValue("iiy#Iy#IIIKL", message->idiag_family, message->idiag_state, message->id.idiag_src,
                         (Py_ssize_t)16, ntohs(message->id.idiag_sport), message->id.idiag_dst, (Py_ssize_t)16,
                         ntohs(message->id.idiag_dport), message->idiag_uid, message->idiag_inode, cookie,
                         found->received);
}

PyDoc_STRVAR(parse_doc, "parse(reply, sequence) -> None or a socket");

static PyObject *look_parse(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    char *reply;
    Py_ssize_t size;
    long long sequence;
    struct socket_found found = {0};
    (void)self;
    if (!has_count(count, 2) || PyBytes_AsStringAndSize(arguments[0], &reply, &size) < 0 ||
        !read_number(arguments[1], UINT32_MAX, &sequence))
        return NULL;
    find_socket(reply, (size_t)size, (uint32_t)sequence, &found);
    return result_of(found.code, &found);
}

PyDoc_STRVAR(lookup_doc, "lookup(netlink, request, sequence) -> None or a socket");

static PyObject *look_lookup(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    char reply[REPLY_BYTES], *request;
    Py_ssize_t size;
    long long sequence;
    struct question question = {.reply = reply};
    struct socket_found found = {0};
    (void)self;
    if (!has_count(count, 3) || !read_descriptor(arguments[0], &question.netlink) ||
        PyBytes_AsStringAndSize(arguments[1], &request, &size) < 0 ||
        !read_number(arguments[2], UINT32_MAX, &sequence))
        return NULL;
    question.request = request;
    question.size = (size_t)size;
    Py_BEGIN_ALLOW_THREADS
    ask(&question);
    /* What an earlier question left over comes first. */
    for (int tries = 0; tries < MAX_STRANGERS && question.code == 0 && found.code == 0 && !found.is_found; tries++) {
        receive(&question);
        if (question.code == 0)
            find_socket(reply, (size_t)question.length, (uint32_t)sequence, &found);
    }
    Py_END_ALLOW_THREADS
    return result_of(question.code != 0 ? question.code : found.code, &found);
}

#define FUNCTION(name) (PyCFunction)(void (*)(void))(name)

PyMethodDef look_methods[] = {
    {"scan", FUNCTION(look_scan), METH_FASTCALL, scan_doc},
    {"find", FUNCTION(look_find), METH_FASTCALL, find_doc},
    {"look", FUNCTION(look_look), METH_FASTCALL, look_doc},
    {"parse", FUNCTION(look_parse), METH_FASTCALL, parse_doc},
    {"lookup", FUNCTION(look_lookup), METH_FASTCALL, lookup_doc},
    {NULL, NULL, 0, NULL},
};
