#include "engine/model_text.h"

#include "engine/gguf.h"

int model_text_tokenizer(const struct weights *w, struct tokenizer **out, struct error *err)
{
    if (w->gguf) return tokenizer_load_gguf(w->gguf, out, err);
    return error_set(err, E_UNSUPPORTED, "the tokenizer of a folder is not supported");
}

int model_text_template(const struct weights *w, struct buf *out, bool *found, struct error *err)
{
    struct str source;
    *found = w->gguf && gguf_get_str(w->gguf, "tokenizer.chat_template", &source);
    if (!*found || buf_append(out, source.data, source.len) == 0) return 0;
    return error_set(err, E_LIMIT, "chat template of %zu bytes", source.len);
}
