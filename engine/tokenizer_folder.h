/* tokenizer_folder.h - the tokenizer and the chat template of a Hugging Face model folder.
 *
 *     tokenizer.json          the tokenizer where there is one (tokenizer_json.h)
 *     tokenizer.model         else SentencePiece's own file (tokenizer_spm_model.h)
 *     tokenizer_config.json   bos, eos, whether they are added, more added tokens, chat_template
 *     generation_config.json  eos_token_id, a number or a list: all of them end a generation;
 *     config.json             the same, where neither of the others declares one
 *     chat_template.jinja, chat_template.json   the template, before tokenizer_config.json's
 *
 * Only a tokenizer is required. Errors name the file and its key. */
#ifndef LM_ENGINE_TOKENIZER_FOLDER_H
#define LM_ENGINE_TOKENIZER_FOLDER_H

#include <stdbool.h>

#include "engine/tokenizer.h"
#include "shared/base/buf.h"
#include "shared/base/error.h"

/* E_NOT_FOUND: the folder has neither tokenizer.json nor tokenizer.model. E_UNSUPPORTED: it asks for
 * something by a name that we don't have. E_FORMAT, E_LIMIT, -errno. Stops, bos and eos are those of
 * the folder's files. *out: tokenizer_destroy. */
FALLIBLE int tokenizer_open_folder(const char *dir, struct tokenizer **out, struct error *err);

/* Append the source of the folder's chat template to *out: Jinja for chat_template_create(). Of a
 * list with names it is "default". *found false and 0: the folder has none. E_FORMAT, E_LIMIT,
 * -errno. */
FALLIBLE int tokenizer_folder_template(const char *dir, struct buf *out, bool *found,
                                       struct error *err);

#endif
