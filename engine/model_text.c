#include "engine/model_text.h"

#include "engine/gguf.h"
#include "engine/tokenizer_folder.h"

int model_text_tokenizer(const struct weights *w, struct tokenizer **out, struct error *err)
{
    if (w->folder) return tokenizer_open_folder(w->folder, out, err);
    return tokenizer_load_gguf(w->gguf, out, err);
}

int model_text_template(const struct weights *w, struct buf *out, bool *found, struct error *err)
{
    struct str source;
    if (w->folder) return tokenizer_folder_template(w->folder, out, found, err);
    *found = gguf_get_str(w->gguf, "tokenizer.chat_template", &source);
    if (!*found || buf_append(out, source.data, source.len) == 0) return 0;
    return error_set(err, E_LIMIT, "chat template of %zu bytes", source.len);
}
