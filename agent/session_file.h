/* session_file.h - conversations in a folder, one append-only file each; they survive the agent.
 *
 * Calls block (fdatasync): text workers, or the start before anybody is served. One caller per
 * session at a time. The folder belongs to one agent: session_folder_open holds a lock on it. */
#ifndef LM_AGENT_SESSION_FILE_H
#define LM_AGENT_SESSION_FILE_H

#include <stdint.h>

#include "agent/session_history.h"
#include "shared/base/error.h"
#include "shared/net/session_key.h"

#define SESSION_FILE_BYTES_MAX   ((int64_t)64 << 20) // of one file; a rewrite drops rewound turns
#define SESSION_FINGERPRINT_SIZE 192

struct session_folder {
    char *path;                                 // owned
    int fd;                                     // of the folder
    int lock;                                   // held while open
    char fingerprint[SESSION_FINGERPRINT_SIZE]; // of the model: files of others are refused
    struct session_limits limits;
};

/* Makes the folder if there is none. E_BUSY: another agent has it; -errno. Zeroed *f is closed. */
FALLIBLE int session_folder_open(struct session_folder *f, const char *path, struct error *err);
void session_folder_close(struct session_folder *f);
static inline bool session_folder_is_open(const struct session_folder *f)
{
    return f->path != NULL;
}

/* Whose a file is. */
struct session_owner {
    int64_t id;
    char tenant[SESSION_TENANT_BYTES];
};

/* `size` is the file's length as the caller left it; 0: it must be written whole. */
struct session_file {
    uint64_t name; // names the file: a hash of the owner, the same after a restart
    int64_t size;
};

/* Write one more turn and wait until it is on the disk; *file is as before on failure, but then the
 * next one must be a rewrite. -ENOSPC and the like. E_LIMIT: beyond the maximum, rewrite. */
FALLIBLE int session_file_append(const struct session_folder *f, struct session_file *file,
                                 struct str record, struct error *err);
/* Write all of it into a new file that takes the old one's place when it is on the disk. */
FALLIBLE int session_file_rewrite(const struct session_folder *f, struct session_file *file,
                                  const struct session_owner *owner,
                                  const struct session_history *history, struct error *err);
void session_file_remove(const struct session_folder *f, uint64_t name);

/* Read one; what a crash cut off at its end is cut off the file, too. E_FORMAT: damaged;
 * E_UNSUPPORTED: of another model; E_NOT_FOUND. On those *history is empty, and *owner is known
 * unless owner->id is 0. */
FALLIBLE int session_file_load(const struct session_folder *f, struct session_file *file,
                               struct session_owner *owner, struct session_history *history,
                               struct error *err);

/* Every file of the folder: name and seconds since 1970 of its last change. */
void session_folder_list(const struct session_folder *f,
                         void (*found)(void *arg, uint64_t name, int64_t changed_s), void *arg);

#endif
