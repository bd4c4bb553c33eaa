/* A model file from anywhere: the container, everything in it, the tokenizer and the mapping to a
 * model. What the loader accepts must be readable to its last byte. */
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "engine/weights_gguf.h"
#include "shared/base/check.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

static volatile unsigned sink;

static void touch(const void *data, size_t len)
{
    const unsigned char *at = data;
    if (len > 0) sink = sink + at[0] + at[len - 1];
}

static void walk_array(const struct gguf *g, const char *key)
{
    size_t len;
    if (!gguf_array_len(g, key, &len)) return;
    for (size_t i = 0; i < len && i < 100; i++) {
        struct str text;
        int64_t integer;
        double number;
        if (gguf_array_str(g, key, i, &text)) touch(text.data, text.len);
        (void)gguf_array_int(g, key, i, &integer);
        (void)gguf_array_float(g, key, i, &number);
    }
    CHECK(!gguf_array_str(g, key, len, &(struct str){0}));
}

static void walk_keys(const struct gguf *g)
{
    for (size_t i = 0; i < gguf_key_count(g); i++) {
        struct str name = gguf_key_at(g, i), text;
        int64_t integer;
        double number;
        bool flag;
        char *key = xstrndup(name.data, name.len);
        if (strlen(key) == name.len) {
            CHECK(gguf_has(g, key));
            if (gguf_get_str(g, key, &text)) touch(text.data, text.len);
            (void)gguf_get_int(g, key, &integer);
            (void)gguf_get_float(g, key, &number);
            (void)gguf_get_bool(g, key, &flag);
            walk_array(g, key);
        }
        free(key);
    }
}

static void walk_tokenizer(const struct gguf *g)
{
    struct tokenizer *tokenizer;
    struct token_list ids = {0};
    struct error err = {0};
    if (tokenizer_load_gguf(g, &tokenizer, &err) < 0) {
        CHECK(err.code < 0 && err.text[0]);
        return;
    }
    static const char text[] = "Hi 42\n<s>";
    if (tokenizer_encode(tokenizer, text, sizeof text - 1, TOKENIZER_SPECIAL, &ids, &err) == 0)
        for (size_t i = 0; i < ids.count; i++) {
            struct str bytes = tokenizer_token_bytes(tokenizer, ids.ids[i], true);
            touch(bytes.data, bytes.len);
        }
    token_list_deinit(&ids);
    tokenizer_destroy(tokenizer);
}

static void touch_matrix(const struct matrix *m)
{
    if (m->data) touch(m->data, matrix_bytes(m));
}

static void walk_model(const struct weights *w)
{
    const struct model_params *p = &w->params;
    touch_matrix(&p->embedding);
    touch_matrix(&p->head);
    touch(p->final_norm, sizeof(float) * (size_t)p->hidden);
    touch(p->rope_tables[0].inv_freq, sizeof(float) * (size_t)p->rope_dims / 2);
    for (int i = 0; i < p->layers; i++) {
        const struct layer_params *l = &p->layer[i];
        touch_matrix(&l->q);
        touch_matrix(&l->k);
        touch_matrix(&l->v);
        touch_matrix(&l->o);
        touch_matrix(&l->gate);
        touch_matrix(&l->up);
        touch_matrix(&l->down);
        touch(l->attn_norm, sizeof(float) * (size_t)p->hidden);
        touch(l->ffn_norm, sizeof(float) * (size_t)p->hidden);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g;
    struct weights *w;
    struct error err = {0};
    if (gguf_open_memory(data, size, &g, &err) < 0) {
        CHECK(err.code < 0 && err.text[0]);
        return 0;
    }
    walk_keys(g);
    for (size_t i = 0; i < gguf_tensor_count(g); i++)
        touch(gguf_tensor_at(g, i)->data, gguf_tensor_at(g, i)->bytes);
    walk_tokenizer(g);
    if (weights_gguf_take(g, &w, &err) == 0) {
        walk_model(w);
        weights_close(w);
    } else {
        CHECK(err.code < 0 && err.text[0]);
    }
    return 0;
}
