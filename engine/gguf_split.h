/* gguf_split.h - a model in several GGUF files, as llama.cpp's gguf-split writes them.
 *
 *     NAME-00001-of-0000N.gguf   all metadata, split.count = N, split.no = 0, often no tensors
 *     NAME-0000I-of-0000N.gguf   split.count = N, split.no = I - 1, tensors
 *
 * Opened by its first file, it is one container: metadata of the first, tensors of all. */
#ifndef LM_ENGINE_GGUF_SPLIT_H
#define LM_ENGINE_GGUF_SPLIT_H

#include "engine/gguf.h"

/* gguf_open() for a file that may be the first of several; the others stand beside it. Errors are
 * those of gguf_open(), with the file and the part that they are about. E_INVALID: it is a later
 * part. */
FALLIBLE int gguf_split_open(const char *path, struct gguf **out, struct error *err);

#endif
