/* The container, its index of shards, and what the loader of folders says about damaged ones. */
#include "engine/safetensors.h"

#include "engine/weights_hf.h"
#include "kernels/quant.h"
#include "shared/base/check.h"
#include "tests/test.h"

#include <math.h>
#include <unistd.h>

static char folder[] = "/tmp/test_safetensors_XXXXXX";

static void put_file(const char *name, const void *data, size_t size)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    NEED(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
}

static void remove_file(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
}

/* One tensor of two float32: 1 and 2. */
static void put_shard(const char *file, const char *tensor)
{
    static const float values[] = {1, 2};
    char header[128], bytes[256];
    int len =
        snprintf(header, sizeof header,
                 "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]}}", tensor);
    uint64_t size = (uint64_t)len;
    memcpy(bytes, &size, 8);
    memcpy(bytes + 8, header, size);
    memcpy(bytes + 8 + size, values, sizeof values);
    put_file(file, bytes, 8 + size + sizeof values);
}

static void put_index(const char *text)
{
    put_file("model.safetensors.index.json", text, strlen(text));
}

static void refuse(int code, const char *words)
{
    struct safetensors *s;
    struct error err = {0};
    EXPECT_INT(safetensors_open(folder, &s, &err), code);
    if (!strstr(err.text, words)) printf("%s\n", err.text);
    EXPECT(strstr(err.text, words) != NULL);
}

static void test_shards(void)
{
    struct safetensors *s;
    struct error err = {0};
    size_t index;
    refuse(E_NOT_FOUND, "no model.safetensors");
    put_shard("a.safetensors", "one");
    put_shard("b.safetensors", "two");
    put_index("{\"weight_map\":{\"two\":\"b.safetensors\",\"one\":\"a.safetensors\"}}");
    NEED(safetensors_open(folder, &s, &err) == 0);
    EXPECT_INT(safetensors_count(s), 2);
    EXPECT(str_equal(safetensors_at(s, 0)->name, STR("one")));
    const struct safetensors_tensor *t = safetensors_find(s, "two", &index);
    NEED(t != NULL);
    EXPECT_INT(index, 1);
    EXPECT(t->type == SAFETENSORS_F32 && t->dims == 2 && t->dim[0] == 2 && t->dim[1] == 1);
    EXPECT_INT(t->bytes, 8);
    float value;
    memcpy(&value, (const char *)t->data + 4, sizeof value);
    EXPECT(value == 2);
    EXPECT(safetensors_drop_pages(s, t->data, t->bytes));
    EXPECT(!safetensors_drop_pages(s, &value, sizeof value));
    EXPECT(safetensors_find(s, "three", NULL) == NULL);
    safetensors_close(s);
}

static void test_bad_index(void)
{
    put_index("{\"weight_map\":{\"one\":\"a.safetensors\",\"two\":\"c.safetensors\"}}");
    refuse(-2, "'c.safetensors'"); // ENOENT
    put_index("{\"weight_map\":{\"one\":\"../a.safetensors\"}}");
    refuse(E_FORMAT, "not in a file of this folder");
    put_index("{\"weight_map\":{\"one\":7}}");
    refuse(E_FORMAT, "not in a file of this folder");
    put_index("{\"weight_map\":{\"two\":\"a.safetensors\"}}");
    refuse(E_FORMAT, "'two' is not in 'a.safetensors'");
    put_index("{}");
    refuse(E_FORMAT, "'weight_map' is missing");
    put_index("{");
    refuse(E_FORMAT, "model.safetensors.index.json");
    put_shard("b.safetensors", "one");
    put_index("{\"weight_map\":{\"one\":\"a.safetensors\",\"two\":\"b.safetensors\"}}");
    refuse(E_FORMAT, "tensor 'one' stands in 'a.safetensors' and in 'b.safetensors'");
    put_file("a.safetensors", "short", 5);
    refuse(E_FORMAT, "'a.safetensors': 5 bytes");
}

/* ---- the corpus: config.json, a NUL, model.safetensors ---- */

static char *read_seed(const char *name, size_t *size)
{
    char relative[128];
    snprintf(relative, sizeof relative, "fuzz/corpus/safetensors/%s", name);
    FILE *f = fopen(test_data(relative), "rb");
    NEED(f != NULL && fseek(f, 0, SEEK_END) == 0);
    *size = (size_t)ftell(f);
    rewind(f);
    char *data = xmalloc(*size);
    NEED(fread(data, 1, *size, f) == *size);
    fclose(f);
    return data;
}

static int open_seed_with(const char *data, size_t size, const struct weights_options *options,
                          struct weights **out, struct error *err)
{
    struct str config = {data, strlen(data)};
    struct safetensors *s;
    const char *tensors = data + config.len + 1;
    int rc = safetensors_open_memory(tensors, size - config.len - 1, &s, err);
    return rc < 0 ? rc : weights_hf_take(s, config, "folder", options, out, err);
}

static int open_seed_as(const char *data, size_t size, const char *format, struct weights **out,
                        struct error *err)
{
    struct weights_options options = {.compute = COMPUTE_F32, .format = format};
    return open_seed_with(data, size, &options, out, err);
}

static int open_seed(const char *data, size_t size, struct weights **out, struct error *err)
{
    return open_seed_as(data, size, NULL, out, err);
}

static void test_corpus_says_what_is_wrong(void)
{
    static const struct {
        const char *file, *words;
        int code;
    } cases[] = {
        {"bad_activation", "activation 'relu' is not supported", E_UNSUPPORTED},
        {"bad_architecture", "architecture 'MambaForCausalLM' is not supported", E_UNSUPPORTED},
        {"bad_awq_bits", "awq with bits 3", E_UNSUPPORTED},
        {"bad_bytes", "'model.norm.weight' has 64 bytes, its type and shape need 128", E_FORMAT},
        {"bad_config", "config.json", E_FORMAT},
        {"bad_group", "self_attn.q_proj.g_idx' names group", E_FORMAT},
        {"bad_header_end", "file ends in its header", E_FORMAT},
        {"bad_header_json", "header", E_FORMAT},
        {"bad_header_size", "header of 4611686018427387904 bytes", E_FORMAT},
        {"bad_heads", "'num_attention_heads' is 0", E_FORMAT},
        {"bad_hole", "64 bytes of no tensor before", E_FORMAT},
        {"bad_layer_types", "layer type 'linear_attention' is not supported", E_UNSUPPORTED},
        {"bad_layers", "'num_hidden_layers' is 4000000000", E_FORMAT},
        {"bad_missing_tensor", "'model.layers.0.mlp.up_proj.weight' is missing", E_FORMAT},
        {"bad_name_twice", "model.norm.weight", E_FORMAT},
        {"bad_offsets_reversed", "'model.norm.weight' has no data_offsets", E_FORMAT},
        {"bad_overlap", "overlaps", E_FORMAT},
        {"bad_past_end", "'model.norm.weight' ends beyond the file", E_FORMAT},
        {"bad_quantisation", "quantisation 'bitsandbytes' is not supported", E_UNSUPPORTED},
        {"bad_rope", "rope scaling 'spiral' is not supported", E_UNSUPPORTED},
        {"bad_rope_list", "'short_factor' is not a list of 4 numbers", E_FORMAT},
        {"bad_shape", "k_proj.weight' has shape [32, 32], expected [8, 32]", E_FORMAT},
        {"bad_shape_negative", "'model.norm.weight' has a dimension that can't be", E_FORMAT},
        {"bad_shape_overflow", "'model.norm.weight' has a dimension that can't be", E_FORMAT},
        {"bad_tail", "4 bytes behind the tensors", E_FORMAT},
        {"bad_truncated", "ends beyond the file", E_FORMAT},
        {"bad_type", "'model.norm.weight' has type 'F4'", E_UNSUPPORTED},
        {"bad_unused_tensor", "'model.layers.0.mlp.router.weight' has no place", E_UNSUPPORTED},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct weights *w;
        struct error err = {0};
        size_t size;
        char *data = read_seed(cases[i].file, &size);
        EXPECT_INT(open_seed(data, size, &w, &err), cases[i].code);
        if (!strstr(err.text, cases[i].words)) printf("%s: %s\n", cases[i].file, err.text);
        EXPECT(strstr(err.text, cases[i].words) != NULL);
        free(data);
    }
}

static void test_corpus_opens(void)
{
    static const char *const files[] = {"model_awq",     "model_deepseek",       "model_fp8",
                                        "model_gpt_oss", "model_gptq",           "model_llama",
                                        "model_mixtral", "model_mxfp4",          "model_phi3",
                                        "model_yarn",    "model_unpadded_header"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        struct weights *w;
        struct error err = {0};
        size_t size;
        char *data = read_seed(files[i], &size);
        if (open_seed(data, size, &w, &err) < 0) {
            printf("%s: %s\n", files[i], err.text);
            EXPECT(!"opens");
        } else {
            EXPECT((uintptr_t)w->params.embedding.data % 2 == 0);
            EXPECT(w->parameters > 0);
            weights_close(w);
        }
        free(data);
    }
}

/* ---- a format by name ---- */

/* The seed, with another text for `key`'s object in its config.json; NULL: without the key. */
static char *replace_object(const char *data, size_t *size, const char *key, const char *text)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, ", \"%s\": {", key);
    const char *from = strstr(data, quoted), *to = from ? strchr(from, '}') + 1 : NULL;
    NEED(from != NULL);
    size_t head = (size_t)(from - data), tail = *size - (size_t)(to - data);
    char *out = xmalloc(*size + 256);
    memcpy(out, data, head);
    if (text) head += (size_t)snprintf(out + head, 256, "%s%s}", quoted, text);
    memcpy(out + head, to, tail);
    *size = head + tail;
    return out;
}

/* As the file says, or `text` in the place of what it says ("-": nothing), opened as `format`. */
struct format_case {
    const char *seed, *text, *format, *words; // words: NULL: it opens
    int code;
};

static void check_format(const struct format_case *c)
{
    struct weights *w;
    struct error err = {0};
    size_t size;
    char *data = read_seed(c->seed, &size);
    if (c->text) {
        bool none = strcmp(c->text, "-") == 0;
        char *other = replace_object(data, &size, "quantization_config", none ? NULL : c->text);
        free(data);
        data = other;
    }
    int rc = open_seed_as(data, size, c->format, &w, &err);
    EXPECT_INT(rc, c->code);
    if (rc < 0) {
        if (!c->words || !strstr(err.text, c->words)) printf("%s: %s\n", c->seed, err.text);
        EXPECT(c->words && strstr(err.text, c->words));
    } else {
        EXPECT_STR(w->format, c->format);
        weights_close(w);
    }
    free(data);
}

static void test_format_by_name(void)
{
    static const struct format_case cases[] = {
        {"model_awq", NULL, "awq", NULL, 0},
        {"model_awq", "-", "awq", NULL, 0}, // groups by the scales' shape
        {"model_awq", "\"bits\": 4, \"group_size\": 8", "awq", NULL, 0},
        {"model_awq", "\"group_size\": 16", "awq", "qzeros' has shape", E_FORMAT},
        {"model_awq", NULL, "gptq", "'gptq' was asked for, but quant_method is 'awq'", E_INVALID},
        {"model_awq", NULL, "hf", "'hf' was asked for, but quant_method is 'awq'", E_INVALID},
        {"model_awq", "-", "hf", "q_proj.weight' is missing", E_FORMAT},
        {"model_awq", "-", "gptq", "qweight' has shape", E_FORMAT},
        {"model_awq", "-", "fp8", "q_proj.weight' is missing", E_FORMAT},
        {"model_gptq", NULL, "gptq", NULL, 0},
        {"model_gptq", "-", "gptq", NULL, 0},
        {"model_gptq", "\"bits\": 3", "gptq", "gptq with bits 3", E_UNSUPPORTED},
        {"model_fp8", NULL, "fp8", NULL, 0},
        {"model_fp8", "\"weight_block_size\": [16, 16]", "fp8", NULL, 0},
        {"model_fp8", "-", "fp8", "weight_scale_inv' is not [1, 1]", E_FORMAT}, // blocks of 128
        {"model_mxfp4", NULL, "mxfp4", NULL, 0},
        {"model_mxfp4", "-", "mxfp4", NULL, 0},
        {"model_mxfp4", "-", "gptq", "'gptq' was asked for, but nothing is stored so", E_INVALID},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        check_format(&cases[i]);
    struct weights *w;
    struct error err = {0};
    size_t size;
    char *data = read_seed("model_llama", &size);
    EXPECT_INT(open_seed_as(data, size, "awq", &w, &err), E_INVALID);
    EXPECT(strstr(err.text, "nothing is stored so"));
    NEED(open_seed_as(data, size, "hf", &w, &err) == 0);
    EXPECT_STR(w->format, "hf");
    weights_close(w);
    free(data);
    struct weights_options options = {.format = "awq"};
    const char *file = test_data("fuzz/corpus/gguf/model_llama3");
    EXPECT_INT(weights_open_with(file, &options, &w, &err), E_INVALID);
    EXPECT(strstr(err.text, "model_llama3' is a file: GGUF says itself"));
}

/* What a file holds against what the loader makes of it, element by element. */
static void test_mxfp4_values(void)
{
    static const float e2m1[16] = {0, 0.5f,  1,  1.5f,  2,  3,  4,  6,
                                   0, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    enum { EXPERT = 1, COLS = 32, FFN = 32 };
    struct weights *w;
    struct error err = {0};
    size_t size;
    char *data = read_seed("model_mxfp4", &size);
    NEED(open_seed(data, size, &w, &err) == 0);
    static const char module[] = "model.layers.0.mlp.experts.gate_up_proj";
    char name[96];
    snprintf(name, sizeof name, "%s_blocks", module);
    const uint8_t *blocks = safetensors_find(w->safetensors, name, NULL)->data;
    snprintf(name, sizeof name, "%s_scales", module);
    const uint8_t *scales = safetensors_find(w->safetensors, name, NULL)->data;
    const struct expert_params *e = w->params.layer[0].experts;
    for (int row = 0; row < 2 * FFN; row++) {
        const struct matrix *m = row % 2 ? &e->up[EXPERT] : &e->gate[EXPERT];
        int at = EXPERT * 2 * FFN + row; // one block a row
        float got[COLS];
        NEED(m->type == DTYPE_MXFP4 && m->rows == FFN && m->cols == COLS);
        size_t offset = (size_t)(row / 2) * matrix_row_bytes(m->type, COLS);
        quant_dequantize_row(m->type, (const char *)m->data + offset, got, COLS);
        for (int i = 0; i < COLS; i++) {
            int bits = blocks[16 * at + i / 2] >> (i % 2 ? 4 : 0) & 15;
            EXPECT(got[i] == ldexpf(e2m1[bits], scales[at] - 127));
        }
    }
    weights_close(w);
    free(data);
}

/* ---- scales beside the weights ---- */

static void expect_same_values(const struct matrix *kept, const struct matrix *exact)
{
    float *row = malloc((size_t)kept->cols * sizeof *row);
    EXPECT(kept->type == DTYPE_F8_E4M3 && kept->grid && exact->type == DTYPE_F32);
    EXPECT(kept->rows == exact->rows && kept->cols == exact->cols);
    for (int64_t r = 0; r < kept->rows; r++) {
        quant_dequantize_matrix_row(kept, r, row);
        EXPECT(memcmp(row, (const float *)exact->data + r * exact->cols,
                      (size_t)exact->cols * sizeof *row) == 0);
    }
    free(row);
}

/* As stored, for a backend that takes it so, with the values of the definition; bfloat16 for another. Parts of a
 * packed matrix begin where they do in the blocks of all of it; `grouped`: its rows change places, so it can't stay. */
static void check_f8(const char *file, bool grouped)
{
    struct weights_options keep = {.compute = COMPUTE_AUTO, .scale_grids = true};
    struct weights_options round = {.compute = COMPUTE_AUTO};
    struct weights_options exactly = {.compute = COMPUTE_F32, .scale_grids = true};
    struct weights *kept, *rounded, *exact;
    struct error err = {0};
    size_t size;
    char *data = read_seed(file, &size);
    NEED(open_seed_with(data, size, &keep, &kept, &err) == 0);
    NEED(open_seed_with(data, size, &round, &rounded, &err) == 0);
    NEED(open_seed_with(data, size, &exactly, &exact, &err) == 0);
    for (int i = 0; i < kept->config.layers; i++) {
        const struct layer_params *k = &kept->params.layer[i], *e = &exact->params.layer[i];
        if (grouped) {
            EXPECT(k->q.type == DTYPE_BF16 && !k->q.grid && k->v.type == DTYPE_BF16);
        } else {
            expect_same_values(&k->q, &e->q);
            expect_same_values(&k->k, &e->k);
            expect_same_values(&k->v, &e->v);
        }
        expect_same_values(&k->o, &e->o);
        expect_same_values(&k->up, &e->up);
        expect_same_values(&k->down, &e->down);
        EXPECT_INT(rounded->params.layer[i].down.type, DTYPE_BF16);
    }
    EXPECT_INT(kept->parameters, exact->parameters);
    weights_close(kept);
    weights_close(rounded);
    weights_close(exact);
    free(data);
}

static void test_f8_stays(void)
{
    check_f8("model_fp8", false);
    check_f8("model_fp8_packed", false);
    check_f8("model_fp8_groups", true);
}

/* ---- act order ---- */

/* Q4_1 in an order of the input against the exact values: what is rounded is the offset, to half precision. */
static void check_ordered(const struct matrix *got, const int32_t *order,
                          const struct matrix *exact)
{
    const float *values = exact->data;
    float *row = xmalloc((size_t)got->cols * sizeof *row);
    double worst = 0, largest = 0;
    EXPECT(got->type == DTYPE_Q4_1 && order && exact->type == DTYPE_F32);
    NEED(got->rows == exact->rows && got->cols == exact->cols);
    for (int64_t r = 0; r < got->rows; r++) {
        const char *blocks =
            (const char *)got->data + (size_t)r * matrix_row_bytes(got->type, got->cols);
        quant_dequantize_row(got->type, blocks, row, got->cols);
        for (int64_t c = 0; c < got->cols; c++) {
            double want = (double)values[r * got->cols + order[c]];
            worst = fmax(worst, fabs((double)row[c] - want));
            largest = fmax(largest, fabs(want));
        }
    }
    EXPECT(worst <= 2 * largest / 2048);
    free(row);
}

static void test_act_order(void)
{
    struct weights_options options = {.compute = COMPUTE_AUTO};
    const char *path = test_data("fixtures/models/llama_gptq_act");
    struct weights *fast, *exact;
    struct error err = {0};
    NEED(weights_open_with(path, &options, &fast, &err) == 0);
    NEED(weights_open(path, &exact, &err) == 0);
    for (int i = 0; i < fast->config.layers; i++) {
        const struct layer_params *f = &fast->params.layer[i], *e = &exact->params.layer[i];
        check_ordered(&f->q, f->qkv_order, &e->q);
        check_ordered(&f->o, f->o_order, &e->o);
        check_ordered(&f->gate, f->gate_up_order, &e->gate);
        check_ordered(&f->down, f->down_order, &e->down);
        EXPECT(!e->qkv_order && !e->o_order && !e->gate_up_order && !e->down_order);
    }
    weights_close(fast);
    weights_close(exact);
}

int main(void)
{
    NEED(mkdtemp(folder) != NULL);
    RUN(test_shards);
    RUN(test_bad_index);
    RUN(test_corpus_says_what_is_wrong);
    RUN(test_corpus_opens);
    RUN(test_format_by_name);
    RUN(test_mxfp4_values);
    RUN(test_f8_stays);
    RUN(test_act_order);
    remove_file("a.safetensors");
    remove_file("b.safetensors");
    remove_file("model.safetensors.index.json");
    rmdir(folder);
    return TEST_END();
}
