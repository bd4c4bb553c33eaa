/* What is read from a file must be what the same records give one by one, as Redis hands them over,
 * and must be the same again when it is written anew.
 *
 * Input: length (u16) and bytes of the owner's record, of a turn's record, and so on; they are framed
 * with checksums that hold. A length beyond what is left: the rest stands in the file as it is. */
#include "agent/session_file.h"
#include "agent/session_frame.h"
#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/base/str.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAME UINT64_C(0xfeed)

static char path[64];
static struct session_folder folder;

static void remove_folder(void)
{
    session_file_remove(&folder, NAME);
    unlinkat(folder.fd, "lock", 0);
    session_folder_close(&folder);
    rmdir(path);
}

static void make_folder(void)
{
    struct error err = {0};
    const char *parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(path, sizeof path, "%s/lm-fuzz-XXXXXX", parent);
    CHECK(mkdtemp(path) && session_folder_open(&folder, path, &err) == 0);
    snprintf(folder.fingerprint, sizeof folder.fingerprint, "tiny");
    folder.limits = (struct session_limits){.vocab_size = 1000, .tokens_max = 4096};
    log_level_max = LOG_ERROR; // cut files are warned of
    atexit(remove_folder);
}

/* The file, and the history of the turns' records; whether all of the input was records that fit. */
static bool read_input(struct str input, struct buf *file, struct session_history *history)
{
    bool fits = true, is_owner = true;
    buf_append_str(file, "LMSESS1\n");
    while (input.len >= 2) {
        size_t len = (size_t)(unsigned char)input.data[0] | (size_t)(unsigned char)input.data[1]
                                                                << 8;
        input = (struct str){input.data + 2, input.len - 2};
        if (len > input.len) break;
        struct str record = {input.data, len};
        struct error err = {0};
        session_frame_print(file, record, (int64_t)file->len);
        if (!is_owner && fits) {
            fits = session_record_apply(history, record, &folder.limits, &err) == 0;
            CHECK(fits || err.text[0]);
            session_history_check(history);
        }
        is_owner = false;
        input = (struct str){input.data + len, input.len - len};
    }
    buf_append(file, input.data, input.len);
    return fits && input.len == 0;
}

static void write_file(const struct buf *data)
{
    char name[40];
    snprintf(name, sizeof name, "%016" PRIx64 ".session", NAME);
    int fd = openat(folder.fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, data->data, data->len) == (ssize_t)data->len);
    close(fd);
}

static void print_record(void *arg, struct str record)
{
    struct buf *out = arg;
    session_frame_print(out, record, (int64_t)out->len);
}

static void check_same(const struct session_history *a, const struct session_history *b)
{
    struct buf first, second;
    buf_init(&first, BUF_MAX_INTERNAL);
    buf_init(&second, BUF_MAX_INTERNAL);
    session_history_print(a, print_record, &first);
    session_history_print(b, print_record, &second);
    CHECK(str_equal(buf_str(&first), buf_str(&second)));
    CHECK(a->message_bytes == b->message_bytes);
    buf_deinit(&first);
    buf_deinit(&second);
}

/* A loaded history, written anew and read again. */
static void check_rewrite(const struct session_owner *owner, const struct session_history *history)
{
    struct session_file file = {.name = NAME};
    struct session_owner again;
    struct session_history same;
    struct error err = {0};
    CHECK(session_file_rewrite(&folder, &file, owner, history, &err) == 0);
    int64_t size = file.size;
    CHECK(session_file_load(&folder, &file, &again, &same, &err) == 0 && file.size == size);
    CHECK(again.id == owner->id && strcmp(again.tenant, owner->tenant) == 0);
    session_history_check(&same);
    check_same(history, &same);
    session_history_deinit(&same);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!folder.path) make_folder();
    struct buf text;
    struct session_file file = {.name = NAME};
    struct session_owner owner;
    struct session_history records = {0}, loaded;
    struct error err = {0};
    buf_init(&text, BUF_MAX_INTERNAL);
    bool fits = read_input((struct str){(const char *)data, size}, &text, &records);
    write_file(&text);
    int rc = session_file_load(&folder, &file, &owner, &loaded, &err);
    if (rc == 0) {
        session_history_check(&loaded);
        CHECK(file.size > 0 && file.size <= (int64_t)text.len);
        if (fits) check_same(&records, &loaded);
        check_rewrite(&owner, &loaded);
    } else {
        CHECK(rc == E_FORMAT || rc == E_UNSUPPORTED);
        CHECK(err.text[0] && loaded.turn_count == 0 && file.size == 0);
    }
    session_history_deinit(&records);
    session_history_deinit(&loaded);
    buf_deinit(&text);
    return 0;
}
