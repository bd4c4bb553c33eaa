/* The container and the model in it. Files are built here, field by field; the corpus of fuzz_gguf
 * has whole models and more damage. */
#include "engine/gguf.h"

#include "engine/weights_gguf.h"
#include "shared/base/buf.h"
#include "shared/base/check.h"
#include "tests/test.h"

#include <unistd.h>

/* ---- writing ---- */

static void put(struct buf *b, const void *data, size_t len)
{
    buf_append(b, data, len);
}

static void put_u32(struct buf *b, uint32_t v)
{
    put(b, &v, sizeof v);
}

static void put_u64(struct buf *b, uint64_t v)
{
    put(b, &v, sizeof v);
}

static void put_str(struct buf *b, const char *s)
{
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}

static void begin(struct buf *b, uint64_t tensors, uint64_t keys)
{
    buf_init(b, 1 << 20);
    put(b, "GGUF", 4);
    put_u32(b, 3);
    put_u64(b, tensors);
    put_u64(b, keys);
}

static void put_key(struct buf *b, const char *name, uint32_t type, const void *value, size_t len)
{
    put_str(b, name);
    put_u32(b, type);
    put(b, value, len);
}

static void put_tensor(struct buf *b, const char *name, uint64_t cols, uint64_t rows, uint32_t type,
                       uint64_t offset)
{
    put_str(b, name);
    put_u32(b, 2);
    put_u64(b, cols);
    put_u64(b, rows);
    put_u32(b, type);
    put_u64(b, offset);
}

static void pad(struct buf *b, size_t alignment)
{
    while (b->len % alignment)
        put(b, "", 1);
}

/* Opens an exact copy, so that a sanitizer sees reads behind its end. */
static int open_copy(const struct buf *b, struct gguf **g, void **copy, struct error *err)
{
    *copy = xmemdup(b->data, b->len);
    return gguf_open_memory(*copy, b->len, g, err);
}

static void expect_refused(struct buf *b, int code, const char *words)
{
    struct gguf *g = NULL;
    struct error err = {0};
    void *copy;
    int rc = open_copy(b, &g, &copy, &err);
    EXPECT_INT(rc, code);
    EXPECT(strstr(err.text, words) != NULL);
    if (!strstr(err.text, words)) printf("  got: %s\n", err.text);
    if (rc == 0) gguf_close(g);
    free(copy);
    buf_deinit(b);
}

/* ---- tests ---- */

static void put_arrays(struct buf *b)
{
    put_str(b, "strings");
    put_u32(b, 9);
    put_u32(b, 8);
    put_u64(b, 3);
    put_str(b, "a");
    put_str(b, "");
    put_str(b, "ccc");
    put_str(b, "ints");
    put_u32(b, 9);
    put_u32(b, 3);
    put_u64(b, 2);
    put(b, &(int16_t){-7}, 2);
    put(b, &(int16_t){300}, 2);
    put_str(b, "floats");
    put_u32(b, 9);
    put_u32(b, 6);
    put_u64(b, 1);
    put(b, &(float){0.5f}, 4);
    put_str(b, "none");
    put_u32(b, 9);
    put_u32(b, 8);
    put_u64(b, 0);
}

static void check_scalars(const struct gguf *g)
{
    int64_t integer = 0;
    double number = 0;
    bool flag = false;
    struct str text;
    EXPECT(gguf_get_int(g, "u8", &integer) && integer == 200);
    EXPECT(gguf_get_int(g, "i32", &integer) && integer == -5);
    EXPECT(!gguf_get_int(g, "u64", &integer) && integer == -5); // beyond int64
    EXPECT(!gguf_get_int(g, "f32", &integer));
    EXPECT(gguf_get_float(g, "f32", &number) && number == 1.5);
    EXPECT(gguf_get_float(g, "f64", &number) && number == -2.25);
    EXPECT(gguf_get_float(g, "u8", &number) && number == 200);
    EXPECT(gguf_get_bool(g, "bool", &flag) && flag);
    EXPECT(!gguf_get_bool(g, "u8", &flag));
    EXPECT(gguf_get_str(g, "str", &text) && str_equal(text, STR("hello")));
    EXPECT(!gguf_get_str(g, "strings", &text));
    EXPECT(!gguf_get_int(g, "ints", &integer));
    EXPECT(gguf_has(g, "none") && !gguf_has(g, "absent") && !gguf_has(g, ""));
}

static void check_arrays(const struct gguf *g)
{
    int64_t integer;
    double number;
    struct str text;
    size_t len = 9;
    EXPECT(gguf_array_len(g, "strings", &len) && len == 3);
    EXPECT(gguf_array_str(g, "strings", 2, &text) && str_equal(text, STR("ccc")));
    EXPECT(gguf_array_str(g, "strings", 1, &text) && text.len == 0);
    EXPECT(!gguf_array_str(g, "strings", 3, &text));
    EXPECT(!gguf_array_int(g, "strings", 0, &integer));
    EXPECT(gguf_array_int(g, "ints", 0, &integer) && integer == -7);
    EXPECT(gguf_array_int(g, "ints", 1, &integer) && integer == 300);
    EXPECT(gguf_array_float(g, "floats", 0, &number) && number == 0.5);
    EXPECT(gguf_array_float(g, "ints", 1, &number) && number == 300);
    EXPECT(gguf_array_len(g, "none", &len) && len == 0);
    EXPECT(!gguf_array_len(g, "str", &len) && !gguf_array_str(g, "str", 0, &text));
}

static void test_metadata_of_every_type(void)
{
    struct buf b;
    struct gguf *g;
    struct error err;
    void *copy;
    begin(&b, 0, 11);
    put_key(&b, "u8", 0, &(uint8_t){200}, 1);
    put_key(&b, "i32", 5, &(int32_t){-5}, 4);
    put_key(&b, "u64", 10, &(uint64_t){UINT64_MAX}, 8);
    put_key(&b, "f32", 6, &(float){1.5f}, 4);
    put_key(&b, "f64", 12, &(double){-2.25}, 8);
    put_key(&b, "bool", 7, &(uint8_t){1}, 1);
    put_str(&b, "str");
    put_u32(&b, 8);
    put_str(&b, "hello");
    put_arrays(&b);
    NEED(open_copy(&b, &g, &copy, &err) == 0);
    EXPECT_INT(gguf_key_count(g), 11);
    EXPECT(str_equal(gguf_key_at(g, 0), STR("bool")));
    check_scalars(g);
    check_arrays(g);
    gguf_close(g);
    free(copy);
    buf_deinit(&b);
}

static void test_tensors(void)
{
    struct buf b;
    struct gguf *g;
    struct error err;
    void *copy;
    begin(&b, 3, 0);
    put_tensor(&b, "b", 32, 2, 8, 0);   // Q8_0: 68 bytes
    put_tensor(&b, "a", 3, 2, 0, 96);   // F32: 24 bytes
    put_tensor(&b, "c", 256, 1, 9, 96); // Q8_1: known by name only
    pad(&b, 32);
    for (int i = 0; i < 160; i++)
        put(&b, &(uint8_t){(uint8_t)i}, 1);
    NEED(open_copy(&b, &g, &copy, &err) == 0);
    EXPECT_INT(gguf_tensor_count(g), 3);
    const struct gguf_tensor *t = gguf_tensor_find(g, "a");
    NEED(t != NULL);
    EXPECT_INT(t->bytes, 24);
    EXPECT_INT(*(const uint8_t *)t->data, 96);
    EXPECT_INT(t->dim[0], 3);
    EXPECT_INT(t->dim[1], 2);
    EXPECT_INT(t->dim[2], 1);
    EXPECT(gguf_tensor_at(g, 0) == gguf_tensor_find(g, "b"));
    EXPECT_INT(gguf_tensor_find(g, "b")->bytes, 68);
    EXPECT_INT(gguf_tensor_find(g, "c")->bytes, 0);
    EXPECT(gguf_tensor_find(g, "d") == NULL);
    gguf_close(g);
    free(copy);
    buf_deinit(&b);
}

static void refuse_tensor(uint64_t cols, uint64_t rows, uint32_t type, uint64_t offset,
                          const char *words)
{
    struct buf b;
    begin(&b, 1, 0);
    put_tensor(&b, "t", cols, rows, type, offset);
    pad(&b, 32);
    for (int i = 0; i < 64; i++)
        put(&b, "", 1);
    expect_refused(&b, E_FORMAT, words);
}

static void test_damage_is_told(void)
{
    struct buf b;
    refuse_tensor(16, 2, 0, 0, "ends beyond the file");
    refuse_tensor(16, 1, 0, 32, "ends beyond the file");
    refuse_tensor(16, 1, 0, 96, "begins beyond the file");
    refuse_tensor(1, 1, 0, UINT64_MAX - 31, "begins beyond the file");
    refuse_tensor(1, 1, 0, 8, "not aligned");
    refuse_tensor(0, 1, 0, 0, "dimension 0 is 0");
    refuse_tensor(1ull << 40, 1ull << 40, 0, 0, "dimension 1 is");
    refuse_tensor(33, 1, 8, 0, "blocks of 32");
    refuse_tensor(1ull << 20, 1ull << 20, 9, 0, "ends beyond the file"); // size unknown to us

    begin(&b, 0, 1);
    put_str(&b, "key");
    put_u32(&b, 77);
    put_u64(&b, 0);
    expect_refused(&b, E_FORMAT, "unknown type 77");

    begin(&b, 0, 1);
    put_str(&b, "general.alignment");
    put_u32(&b, 8);
    put_str(&b, "x");
    expect_refused(&b, E_FORMAT, "general.alignment");

    begin(&b, UINT64_MAX, 0);
    expect_refused(&b, E_FORMAT, "tensors: damaged");
    begin(&b, 0, UINT64_MAX);
    expect_refused(&b, E_FORMAT, "metadata keys: damaged");
}

/* Every prefix of a file is refused or a file; none is a crash. */
static void test_every_prefix(void)
{
    struct buf b;
    begin(&b, 1, 1);
    put_str(&b, "k");
    put_u32(&b, 8);
    put_str(&b, "value");
    put_tensor(&b, "t", 4, 2, 0, 0);
    pad(&b, 32);
    for (int i = 0; i < 32; i++)
        put(&b, "", 1);
    for (size_t len = 0; len <= b.len; len++) {
        struct gguf *g;
        struct error err = {0};
        void *copy = xmemdup(b.data, len);
        int rc = gguf_open_memory(copy, len, &g, &err);
        EXPECT_INT(rc, len == b.len ? 0 : E_FORMAT);
        EXPECT((rc == 0) == (err.text[0] == 0));
        if (rc == 0) gguf_close(g);
        free(copy);
    }
    buf_deinit(&b);
}

/* Experts: a tensor of three dimensions is a list of matrices, and each is a view into it. */
static void test_matrices_of_a_tensor(void)
{
    enum { EXPERTS = 3, ROWS = 2, COLS = 256, BYTES = 110 * ROWS }; // Q3_K
    struct gguf *g;
    struct error err;
    struct buf b;
    void *copy;

    begin(&b, 1, 0);
    put_str(&b, "blk.0.ffn_gate_exps.weight");
    put_u32(&b, 3);
    put_u64(&b, COLS);
    put_u64(&b, ROWS);
    put_u64(&b, EXPERTS);
    put_u32(&b, 11);
    put_u64(&b, 0);
    pad(&b, 32);
    for (int i = 0; i < EXPERTS * BYTES; i++)
        put(&b, &(uint8_t){(uint8_t)(i / BYTES)}, 1);
    NEED(open_copy(&b, &g, &copy, &err) == 0);
    const struct gguf_tensor *t = gguf_tensor_find(g, "blk.0.ffn_gate_exps.weight");
    NEED(t && t->bytes == EXPERTS * BYTES);
    for (int i = 0; i < EXPERTS; i++) {
        struct matrix m = gguf_tensor_matrix(t, i);
        const uint8_t *data = m.data;
        EXPECT(m.type == DTYPE_Q3_K && m.rows == ROWS && m.cols == COLS);
        EXPECT_INT(matrix_bytes(&m), BYTES);
        EXPECT(data[0] == i && data[BYTES - 1] == i);
    }
    gguf_close(g);
    free(copy);
    buf_deinit(&b);
}

static void test_files(void)
{
    struct gguf *g;
    struct error err;
    char path[] = "/tmp/test_gguf_XXXXXX";
    int fd = mkstemp(path);
    NEED(fd >= 0);
    EXPECT_INT(gguf_open(path, &g, &err), E_FORMAT);
    EXPECT(strstr(err.text, "empty") && strstr(err.text, path));
    NEED(write(fd, "not a model at all", 18) == 18);
    EXPECT_INT(gguf_open(path, &g, &err), E_FORMAT);
    EXPECT(strstr(err.text, "not a GGUF file") != NULL);
    close(fd);
    unlink(path);
    EXPECT_INT(gguf_open(path, &g, &err), -2); // ENOENT
    EXPECT(gguf_open("/tmp", &g, &err) < 0);
}

/* What the corpus is there for: each bad file has its own text. */
static void test_corpus_says_what_is_wrong(void)
{
    static const struct {
        const char *file, *words;
        int code;
    } cases[] = {
        {"bad_architecture", "architecture 'mamba' is not supported (supported: llama, ",
         E_UNSUPPORTED},
        {"bad_big_endian", "big-endian", E_UNSUPPORTED},
        {"bad_experts", "'llama.expert_used_count' is missing", E_FORMAT},
        {"bad_heads", "'llama.attention.head_count' is 0", E_FORMAT},
        {"bad_key_twice", "stands twice", E_FORMAT},
        {"bad_layers", "'llama.block_count' is 4000000000", E_FORMAT},
        {"bad_missing_tensor", "tensor 'blk.0.ffn_norm.weight' is missing", E_FORMAT},
        {"bad_rope", "rope scaling 'longrope' is not supported", E_UNSUPPORTED},
        {"bad_shape", "tensor 'blk.0.attn_k.weight' has shape [32, 32", E_FORMAT},
        {"bad_split", "one of 3 parts and has to be named NAME-00001-of-00003.gguf", E_FORMAT},
        {"bad_truncated", "truncated", E_FORMAT},
        {"bad_type", "has type Q8_1 (9), which is not supported", E_UNSUPPORTED},
        {"bad_type_unknown", "tensor 'blk.0.ffn_up.weight' has type unknown (77)", E_UNSUPPORTED},
        {"bad_ragged_rows", "tensor 'odd' has rows of 33 elements, Q4_1 needs blocks of 32",
         E_FORMAT},
        {"bad_ragged_superblock", "has rows of 32 elements, Q5_K needs blocks of 256", E_FORMAT},
        {"bad_version", "GGUF version 1", E_UNSUPPORTED},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char relative[128];
        struct weights *w;
        struct error err = {0};
        snprintf(relative, sizeof relative, "fuzz/corpus/gguf/%s", cases[i].file);
        EXPECT_INT(weights_open(test_data(relative), &w, &err), cases[i].code);
        EXPECT(strstr(err.text, cases[i].words) != NULL);
        EXPECT(strstr(err.text, cases[i].file) != NULL); // and which file
    }
}

static void test_model_is_mapped(void)
{
    struct weights *w;
    struct error err;
    NEED(weights_open(test_data("fuzz/corpus/gguf/model_llama3"), &w, &err) == 0);
    const struct model_params *p = &w->params;
    EXPECT_INT(p->layers, 1);
    EXPECT_INT(p->hidden, 32);
    EXPECT_INT(p->heads, 2);
    EXPECT_INT(p->kv_heads, 1);
    EXPECT_INT(p->head_dim, 16);
    EXPECT_INT(p->rope_dims, 16);
    EXPECT_INT(p->rope_style, ROPE_INTERLEAVED);
    EXPECT_INT(p->vocab, 260);
    EXPECT(p->head.data == NULL); // tied
    EXPECT_INT(p->layer[0].q.type, DTYPE_Q8_0);
    EXPECT_INT(p->layer[0].k.rows, 16);
    EXPECT(p->layer[0].q_bias == NULL && p->layer[0].q_norm == NULL);
    EXPECT(p->layer[0].attn_norm[31] == 0.5f);
    /* inv_freq[0] = 1, divided by the file's factor of 0.5 */
    EXPECT(p->rope_tables[0].inv_freq[0] == 2.0f);
    EXPECT(w->config.context_len == 128 && strcmp(w->config.name, "tiny") == 0);
    weights_close(w);

    NEED(weights_open(test_data("fuzz/corpus/gguf/model_linear"), &w, &err) == 0);
    EXPECT(w->params.rope_tables[0].inv_freq[0] == 0.5f);
    weights_close(w);
    NEED(weights_open(test_data("fuzz/corpus/gguf/model_untied_v2"), &w, &err) == 0);
    EXPECT(w->params.head.data != NULL);
    weights_close(w);
    NEED(weights_open(test_data("fuzz/corpus/gguf/model_biased"), &w, &err) == 0);
    EXPECT(w->params.layer[0].q_bias != NULL && w->params.layer[0].k_bias == NULL);
    weights_close(w);
}

int main(void)
{
    RUN(test_metadata_of_every_type);
    RUN(test_tensors);
    RUN(test_damage_is_told);
    RUN(test_every_prefix);
    RUN(test_matrices_of_a_tensor);
    RUN(test_files);
    RUN(test_corpus_says_what_is_wrong);
    RUN(test_model_is_mapped);
    return TEST_END();
}
