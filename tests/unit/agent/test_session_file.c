#include "agent/session_file.h"

#include "agent/session_frame.h"
#include "shared/base/check.h"
#include "shared/base/log.h"
#include "tests/test.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME UINT64_C(0xfeed)

static char path[] = "/tmp/lm-sessions-XXXXXX";
static struct session_folder folder;
static const struct session_owner owner = {.id = 77, .tenant = "token:12"};

static void open_folder(const char *fingerprint)
{
    struct error err = {0};
    NEED(session_folder_open(&folder, path, &err) == 0);
    snprintf(folder.fingerprint, sizeof folder.fingerprint, "%s", fingerprint);
    folder.limits = (struct session_limits){.vocab_size = 1000, .tokens_max = 4096};
}

static const char *file_path(void)
{
    static char text[128];
    snprintf(text, sizeof text, "%s/%016" PRIx64 ".session", path, NAME);
    return text;
}

static struct buf read_file(void)
{
    struct buf data;
    buf_init(&data, 1 << 20);
    int fd = open(file_path(), O_RDONLY);
    NEED(fd >= 0);
    char *room = buf_reserve(&data, 1 << 19);
    ssize_t n = read(fd, room, 1 << 19);
    NEED(n >= 0);
    buf_commit(&data, (size_t)n);
    close(fd);
    return data;
}

static void write_file(const char *data, size_t len)
{
    int fd = open(file_path(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    NEED(fd >= 0 && write(fd, data, len) == (ssize_t)len);
    close(fd);
}

/* Turn n adds 3 + n tokens. */
static void take_turn(struct session_history *h, struct session_file *file)
{
    int32_t ids[64];
    int count = 3 + h->turn_count;
    for (int i = 0; i < count; i++)
        ids[i] = 100 * h->turn_count + i;
    struct session_step step = {.base = (int)h->ids.count,
                                .keep_turns = h->turn_count,
                                .ids = ids,
                                .count = count,
                                .seed = 9,
                                .serial = h->serial + 1};
    struct buf record;
    struct error err = {0};
    buf_init(&record, 4096);
    session_record_print(&record, &step);
    session_history_apply(h, &step);
    if (file->size == 0) {
        EXPECT_INT(session_file_rewrite(&folder, file, &owner, h, &err), 0);
    } else {
        EXPECT_INT(session_file_append(&folder, file, buf_str(&record), &err), 0);
    }
    buf_deinit(&record);
}

static int load(struct session_file *file, struct session_history *h, struct error *err)
{
    struct session_owner found;
    *file = (struct session_file){.name = NAME};
    *err = (struct error){0};
    int rc = session_file_load(&folder, file, &found, h, err);
    if (rc == 0) {
        session_history_check(h);
        EXPECT_INT(found.id, 77);
        EXPECT_STR(found.tenant, "token:12");
    } else {
        EXPECT(err->text[0] && h->turn_count == 0 && file->size == 0);
    }
    return rc;
}

static void make_file(int turns, int64_t sizes[])
{
    struct session_file file = {.name = NAME};
    struct session_history h = {0};
    for (int i = 0; i < turns; i++) {
        take_turn(&h, &file);
        sizes[i] = file.size;
    }
    session_history_deinit(&h);
}

static void test_round_trip(void)
{
    int64_t sizes[5];
    struct session_file file;
    struct session_history h;
    struct error err;
    make_file(5, sizes);
    EXPECT_INT(load(&file, &h, &err), 0);
    EXPECT_INT(h.turn_count, 5);
    EXPECT_INT(h.ids.count, 3 + 4 + 5 + 6 + 7);
    EXPECT_INT(h.ids.ids[7], 200);
    EXPECT_INT(h.seed, 9);
    EXPECT_INT(file.size, sizes[4]);
    take_turn(&h, &file); // and on
    session_history_deinit(&h);
    EXPECT_INT(load(&file, &h, &err), 0);
    EXPECT_INT(h.turn_count, 6);
    session_history_deinit(&h);
}

/* Rule 2: the process may end at any byte of a write. */
static void test_cut_at_every_byte(void)
{
    int64_t sizes[4];
    make_file(4, sizes);
    struct buf whole = read_file();
    for (size_t len = 0; len <= whole.len; len++) {
        struct session_file file;
        struct session_history h;
        struct error err;
        write_file(whole.data, len);
        int rc = load(&file, &h, &err);
        int turns = 0;
        while (turns < 4 && sizes[turns] <= (int64_t)len)
            turns++;
        if (turns == 0) { // written in one piece and renamed, so this is no crash
            bool has_owner = rc == 0;
            EXPECT(has_owner ? h.turn_count == 0 : rc == E_FORMAT);
        } else {
            EXPECT_INT(rc, 0);
            EXPECT_INT(h.turn_count, turns);
            EXPECT_INT(file.size, sizes[turns - 1]);
            struct stat facts;
            EXPECT(stat(file_path(), &facts) == 0 && facts.st_size == file.size);
            take_turn(&h, &file); // goes on behind the cut
            session_history_deinit(&h);
            EXPECT_INT(load(&file, &h, &err), 0);
            EXPECT_INT(h.turn_count, turns + 1);
        }
        session_history_deinit(&h);
    }
    buf_deinit(&whole);
}

/* Rule 3: never an older part of the conversation. */
static void test_every_byte_flipped(void)
{
    int64_t sizes[4];
    make_file(4, sizes);
    struct buf whole = read_file();
    for (size_t at = 0; at < whole.len; at++) {
        static const unsigned char masks[] = {0x01, 0x10, 0x80, 0xff};
        for (size_t i = 0; i < ARRAY_LEN(masks); i++) {
            struct session_file file;
            struct session_history h;
            struct error err;
            whole.data[at] = (char)(whole.data[at] ^ masks[i]);
            write_file(whole.data, whole.len);
            EXPECT_INT(load(&file, &h, &err), E_FORMAT);
            session_history_deinit(&h);
            whole.data[at] = (char)(whole.data[at] ^ masks[i]);
        }
    }
    buf_deinit(&whole);
}

static void test_zeros_at_the_end(void)
{
    int64_t sizes[3];
    make_file(3, sizes);
    struct buf whole = read_file();
    for (int i = 0; i < 100; i++)
        buf_append_char(&whole, 0);
    write_file(whole.data, whole.len);
    struct session_file file;
    struct session_history h;
    struct error err;
    EXPECT_INT(load(&file, &h, &err), 0);
    EXPECT_INT(h.turn_count, 3);
    EXPECT_INT(file.size, sizes[2]);
    session_history_deinit(&h);
    buf_deinit(&whole);
}

static void test_other_model(void)
{
    int64_t sizes[2];
    make_file(2, sizes);
    struct session_file file;
    struct session_history h;
    struct error err;
    snprintf(folder.fingerprint, sizeof folder.fingerprint, "%s", "another");
    EXPECT_INT(load(&file, &h, &err), E_UNSUPPORTED);
    EXPECT(strstr(err.text, "another model"));
    snprintf(folder.fingerprint, sizeof folder.fingerprint, "%s", "model");
    folder.limits.vocab_size = 50; // fingerprints that lie don't get tokens into the engine
    EXPECT_INT(load(&file, &h, &err), E_FORMAT);
    folder.limits.vocab_size = 1000;
}

/* Checksums keep nobody from writing them: what they cover is looked at, too. */
static void test_owner_without_end(void)
{
    static const size_t starts[] = {8, 8 + SESSION_TENANT_BYTES};
    static const size_t lengths[] = {SESSION_TENANT_BYTES, SESSION_FINGERPRINT_SIZE};
    for (size_t i = 0; i < ARRAY_LEN(starts); i++) {
        char record[8 + SESSION_TENANT_BYTES + SESSION_FINGERPRINT_SIZE] = {77};
        memset(record + starts[i], 'x', lengths[i]);
        struct buf data;
        buf_init(&data, 4096);
        buf_append_str(&data, "LMSESS1\n");
        session_frame_print(&data, (struct str){record, sizeof record}, (int64_t)data.len);
        write_file(data.data, data.len);
        struct session_file file;
        struct session_history h;
        struct error err;
        EXPECT_INT(load(&file, &h, &err), E_FORMAT);
        buf_deinit(&data);
    }
}

/* A limit on file sizes fails writes in the middle as a full disk does. */
static void test_full_disk(void)
{
    int64_t sizes[3];
    make_file(3, sizes);
    struct session_file file;
    struct session_history h;
    struct error err;
    EXPECT_INT(load(&file, &h, &err), 0);
    struct rlimit before, tight;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    tight = (struct rlimit){(rlim_t)sizes[2] + 20, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &tight);
    int32_t id = 5;
    struct session_step step = {
        .base = (int)h.ids.count, .keep_turns = 3, .ids = &id, .count = 1, .serial = 4};
    struct buf record;
    buf_init(&record, 4096);
    session_record_print(&record, &step);
    EXPECT_INT(session_file_append(&folder, &file, buf_str(&record), &err), -EFBIG);
    EXPECT(err.text[0]);
    EXPECT_INT(file.size, sizes[2]);
    session_history_apply(&h, &step);
    EXPECT_INT(session_file_rewrite(&folder, &file, &owner, &h, &err), -EFBIG);
    setrlimit(RLIMIT_FSIZE, &before);
    session_history_deinit(&h);
    EXPECT_INT(load(&file, &h, &err), 0); // what was there is intact
    EXPECT_INT(h.turn_count, 3);
    buf_deinit(&record);
    session_history_deinit(&h);
}

static int found_count;

static void on_found(void *arg, uint64_t name, int64_t changed_s)
{
    (void)arg;
    EXPECT(name == NAME && changed_s > 1000000000);
    found_count++;
}

static void test_folder(void)
{
    int64_t sizes[1];
    make_file(1, sizes);
    struct error err = {0};
    struct session_folder second = {0};
    EXPECT_INT(session_folder_open(&second, path, &err), E_BUSY);
    EXPECT(strstr(err.text, "another agent"));
    EXPECT(!session_folder_is_open(&second));
    EXPECT_INT(session_folder_open(&second, "/proc/nothing", &err), -ENOENT);
    char fresh[160];
    snprintf(fresh, sizeof fresh, "%s.new", file_path());
    close(open(fresh, O_CREAT | O_WRONLY, 0600)); // a rewrite that never ended
    session_folder_list(&folder, on_found, NULL);
    EXPECT_INT(found_count, 1);
    EXPECT(access(fresh, F_OK) != 0);
    session_file_remove(&folder, NAME);
    session_file_remove(&folder, NAME); // once more does no harm
    session_folder_list(&folder, on_found, NULL);
    EXPECT_INT(found_count, 1);
    struct session_file file;
    struct session_history h;
    EXPECT_INT(load(&file, &h, &err), E_NOT_FOUND);
}

int main(void)
{
    log_level_max = LOG_ERROR; // a warning for every cut would be thousands
    NEED(mkdtemp(path) != NULL);
    open_folder("model");
    RUN(test_round_trip);
    RUN(test_cut_at_every_byte);
    RUN(test_every_byte_flipped);
    RUN(test_zeros_at_the_end);
    RUN(test_other_model);
    RUN(test_owner_without_end);
    RUN(test_full_disk);
    RUN(test_folder);
    session_folder_close(&folder);
    char lock[64];
    snprintf(lock, sizeof lock, "%s/lock", path);
    unlink(lock);
    EXPECT_INT(rmdir(path), 0);
    return TEST_END();
}
