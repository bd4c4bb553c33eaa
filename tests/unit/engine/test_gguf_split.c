/* A model of the corpus cut into several files, and everything that can be wrong with such files. */
#include "engine/gguf_split.h"

#include "engine/weights.h"
#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "tests/test.h"

#include <unistd.h>

#define PARTS 3

static const char source_path[] = "fuzz/corpus/gguf/model_llama3";
static char folder[] = "/tmp/test_gguf_split_XXXXXX";

static const char *path_of(int no, int count)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/m-%05d-of-%05d.gguf", folder, no + 1, count);
    return path;
}

/* ---- writing ---- */

static void put_u32(struct buf *b, uint32_t v)
{
    buf_append(b, &v, sizeof v);
}

static void put_u64(struct buf *b, uint64_t v)
{
    buf_append(b, &v, sizeof v);
}

static void put_str(struct buf *b, struct str s)
{
    put_u64(b, s.len);
    buf_append(b, s.data, s.len);
}

static void put_key_u32(struct buf *b, const char *name, uint32_t value)
{
    put_str(b, str_of(name));
    put_u32(b, 4);
    put_u32(b, value);
}

static void put_info(struct buf *b, const struct gguf_tensor *t, uint64_t offset)
{
    put_str(b, t->name);
    put_u32(b, (uint32_t)t->dims);
    for (int d = 0; d < t->dims; d++)
        put_u64(b, (uint64_t)t->dim[d]);
    put_u32(b, t->gguf_type);
    put_u64(b, offset);
}

static void pad(struct buf *b)
{
    while (b->len % 32)
        buf_append(b, "", 1);
}

static void write_file(const char *path, const struct buf *b)
{
    FILE *f = fopen(path, "wb");
    NEED(f && fwrite(b->data, 1, b->len, f) == b->len);
    NEED(fclose(f) == 0);
}

/* The metadata of the source as it stands, between the header and the first tensor's name. */
static struct str raw_metadata(const struct gguf *g)
{
    const char *header = gguf_tensor_at(g, 0)->name.data, *end = header - 8;
    while (memcmp(header, "GGUF", 4) != 0)
        header--;
    return (struct str){header + 24, (size_t)(end - header - 24)};
}

struct part {
    int no, count;
    int first, last;  // tensors [first, last) of the source
    int promised;     // split.tensors.count
    const char *path; // NULL: as it should be
};

static void write_part(const struct gguf *g, const struct part *p)
{
    struct buf b;
    uint64_t offset = 0;
    bool metadata = p->no == 0;

    buf_init(&b, 1 << 20);
    buf_append(&b, "GGUF", 4);
    put_u32(&b, 3);
    put_u64(&b, (uint64_t)(p->last - p->first));
    put_u64(&b, 3 + (metadata ? gguf_key_count(g) : 0));
    if (metadata) buf_append(&b, raw_metadata(g).data, raw_metadata(g).len);
    put_key_u32(&b, "split.no", (uint32_t)p->no);
    put_key_u32(&b, "split.count", (uint32_t)p->count);
    put_key_u32(&b, "split.tensors.count", (uint32_t)p->promised);
    for (int i = p->first; i < p->last; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, (size_t)i);
        put_info(&b, t, offset);
        offset += (t->bytes + 31) / 32 * 32;
    }
    for (int i = p->first; i < p->last; i++) {
        pad(&b);
        buf_append(&b, gguf_tensor_at(g, (size_t)i)->data, gguf_tensor_at(g, (size_t)i)->bytes);
    }
    write_file(p->path ? p->path : path_of(p->no, p->count), &b);
    buf_deinit(&b);
}

/* All parts, as they should be: the first with `head` tensors. */
static void write_parts(const struct gguf *g, int head)
{
    int tensors = (int)gguf_tensor_count(g), middle = (head + tensors) / 2;
    write_part(g, &(struct part){0, PARTS, 0, head, tensors, NULL});
    write_part(g, &(struct part){1, PARTS, head, middle, tensors, NULL});
    write_part(g, &(struct part){2, PARTS, middle, tensors, tensors, NULL});
}

static struct gguf *open_source(void)
{
    struct gguf *g;
    struct error err;
    NEED(gguf_open(test_data(source_path), &g, &err) == 0);
    return g;
}

/* ---- tests ---- */

static void expect_same_tensors(const struct gguf *a, const struct gguf *b)
{
    EXPECT_INT(gguf_tensor_count(a), gguf_tensor_count(b));
    for (size_t i = 0; i < gguf_tensor_count(a); i++) {
        const struct gguf_tensor *x = gguf_tensor_at(a, i);
        char *name = xstrndup(x->name.data, x->name.len);
        const struct gguf_tensor *y = gguf_tensor_find(b, name);
        NEED(y != NULL);
        EXPECT(x->gguf_type == y->gguf_type && x->bytes == y->bytes);
        EXPECT(memcmp(x->dim, y->dim, sizeof x->dim) == 0);
        EXPECT(memcmp(x->data, y->data, x->bytes) == 0);
        free(name);
    }
}

static void test_parts_are_one_model(void)
{
    struct gguf *source = open_source(), *g;
    struct weights *w;
    struct error err = {0};

    for (int head = 0; head < 3; head++) { // 0: metadata only, as gguf-split can do
        write_parts(source, head);
        NEED(gguf_split_open(path_of(0, PARTS), &g, &err) == 0);
        expect_same_tensors(source, g);
        for (size_t i = 0; i < gguf_tensor_count(g);
             i++) { // of all mappings; read back from the file
            const struct gguf_tensor *t = gguf_tensor_at(g, i);
            gguf_drop_pages(g, t->data, t->bytes);
        }
        expect_same_tensors(source, g);
        gguf_close(g);
        NEED(weights_open(path_of(0, PARTS), &w, &err) == 0);
        EXPECT(strcmp(w->config.name, "tiny") == 0);
        EXPECT(w->params.layer[0].down.data != NULL);
        weights_close(w);
    }
    gguf_close(source);
}

static void test_one_file_stays_one(void)
{
    struct gguf *source = open_source(), *g;
    struct error err = {0};
    int tensors = (int)gguf_tensor_count(source);

    NEED(gguf_split_open(test_data(source_path), &g, &err) == 0);
    expect_same_tensors(source, g);
    gguf_close(g);
    write_part(source, &(struct part){0, 1, 0, tensors, tensors, NULL});
    NEED(gguf_split_open(path_of(0, 1), &g, &err) == 0);
    expect_same_tensors(source, g);
    gguf_close(g);
    gguf_close(source);
}

static void expect_refused(const char *path, int code, const char *words)
{
    struct weights *w;
    struct error err = {0};
    EXPECT_INT(weights_open(path, &w, &err), code);
    EXPECT(strstr(err.text, words) != NULL);
    if (!strstr(err.text, words)) printf("  got: %s\n", err.text);
}

static void test_what_is_wrong_is_told(void)
{
    struct gguf *source = open_source();
    int tensors = (int)gguf_tensor_count(source);
    char first[128], other[160];

    snprintf(first, sizeof first, "%s", path_of(0, PARTS));
    write_parts(source, 1);
    expect_refused(path_of(1, PARTS), E_INVALID, "is part 2 of 3: give the first, '/tmp/");
    unlink(path_of(2, PARTS));
    expect_refused(first, -2, "part 3 of 3"); // ENOENT
    expect_refused(first, -2, "m-00003-of-00003.gguf': can't open");

    write_parts(source, 1);
    write_part(source, &(struct part){1, PARTS, 1, 3, tensors, path_of(2, PARTS)});
    expect_refused(first, E_FORMAT, "m-00003-of-00003.gguf': says that it is part 2 of 3");

    write_parts(source, 1);
    write_part(source, &(struct part){2, PARTS, tensors - 1, tensors, tensors, NULL});
    expect_refused(first, E_FORMAT, "promises"); // some are in no part

    write_parts(source, 1);
    write_part(source, &(struct part){2, PARTS, 0, tensors, tensors, NULL});
    expect_refused(first, E_FORMAT, "stands twice");

    write_part(source, &(struct part){0, 60000, 0, 1, tensors, path_of(0, PARTS)});
    expect_refused(first, E_FORMAT, "'split.count' is 60000");
    write_part(source, &(struct part){7, PARTS, 0, 1, tensors, path_of(0, PARTS)});
    expect_refused(first, E_FORMAT, "'split.no' is 7 of 3");

    snprintf(other, sizeof other, "%s/renamed.gguf", folder);
    write_part(source, &(struct part){0, PARTS, 0, 1, tensors, other});
    expect_refused(other, E_FORMAT, "has to be named NAME-00001-of-00003.gguf");
    unlink(other);
    gguf_close(source);
}

int main(void)
{
    NEED(mkdtemp(folder) != NULL);
    RUN(test_parts_are_one_model);
    RUN(test_one_file_stays_one);
    RUN(test_what_is_wrong_is_told);
    for (int i = 0; i < PARTS; i++)
        unlink(path_of(i, PARTS));
    unlink(path_of(0, 1));
    EXPECT_INT(rmdir(folder), 0);
    return TEST_END();
}
