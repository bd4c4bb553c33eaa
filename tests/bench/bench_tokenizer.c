/* bench_tokenizer.c - speed of encoding on one thread: MB of text per second, for each file given,
 * cut at ends of lines into documents of about 8 kB as prompts are. The peer is the tokenizers
 * package of Hugging Face on the same documents, in turns within a round, if Python has it; the
 * ids of both must be equal. Then runs of one character, which some tokenizers are slow on. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/bench.h"

#include "engine/tokenizer.h"
#include "engine/tokenizer_folder.h"
#include "shared/base/check.h"
#include "shared/base/clock.h"

#define TEXT_BYTES_MAX ((size_t)64 << 20)
#define DOCUMENT_BYTES 8192
#define ROUND_MS       400
#define RUN_BYTES      (100 << 10)

/* argv: tokenizer.json, file, seconds. Prints MB/s and a hash of the ids, or nothing without the
 * package. Fast encoding leaves out offsets, as ours does. */
static const char peer_script[] =
    "import os, sys, time\n"
    "os.environ['TOKENIZERS_PARALLELISM'] = 'false'\n"
    "try:\n"
    "    from tokenizers import Tokenizer\n"
    "except ImportError:\n"
    "    sys.exit()\n"
    "tokenizer = Tokenizer.from_file(sys.argv[1])\n"
    "data, documents = open(sys.argv[2], 'rb').read(), []\n"
    "while data:\n"
    "    end = data.find(b'\\n', 8192) + 1 or len(data)\n"
    "    documents.append(data[:end].decode())\n"
    "    data = data[end:]\n"
    "size, count, hash, best = sum(len(d.encode()) for d in documents), 0, 0, 0\n"
    "def encode(text):\n"
    "    return tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids\n"
    "for d in documents:\n"
    "    for id in encode(d):\n"
    "        hash = (hash * 31 + id) % (1 << 32)\n"
    "start = time.perf_counter()\n"
    "while time.perf_counter() - start < float(sys.argv[3]):\n"
    "    for d in documents:\n"
    "        encode(d)\n"
    "    count += 1\n"
    "print(size * count / (time.perf_counter() - start) / 1e6, hash)\n";

struct trial {
    const struct bench_options *options;
    const char *folder;
    struct tokenizer *tokenizer;
};

static int read_text(const char *path, struct buf *text, struct error *err)
{
    char chunk[65536];
    size_t n;
    FILE *file = fopen(path, "rb");

    if (!file) return error_set(err, -errno, "cannot read '%s': %s", path, strerror(errno));
    while ((n = fread(chunk, 1, sizeof chunk, file)) > 0)
        buf_append(text, chunk, n);
    bool bad = ferror(file) != 0 || text->overflow || text->len == 0;
    fclose(file);
    return bad ? error_set(err, E_LIMIT, "'%s' is unreadable, empty or too long", path) : 0;
}

static struct str next_document(struct str *rest)
{
    const char *from = rest->data + DOCUMENT_BYTES;
    const char *end =
        rest->len > DOCUMENT_BYTES ? memchr(from, '\n', rest->len - DOCUMENT_BYTES) : NULL;
    struct str document = {rest->data, end ? (size_t)(end + 1 - rest->data) : rest->len};
    rest->data += document.len;
    rest->len -= document.len;
    return document;
}

static int encode_all(const struct trial *t, struct str text, uint32_t *hash, struct error *err)
{
    struct token_list ids = {0};
    int rc = 0;
    while (text.len && !rc) {
        struct str document = next_document(&text);
        ids.count = 0;
        rc = tokenizer_encode(t->tokenizer, document.data, document.len, TOKENIZER_SPECIAL, &ids,
                              err);
        for (size_t i = 0; i < ids.count && hash; i++)
            *hash = *hash * 31 + (uint32_t)ids.ids[i];
    }
    token_list_deinit(&ids);
    return rc;
}

static int measure(const struct trial *t, struct str text, double *rate, struct error *err)
{
    uint64_t start = clock_ms(), now = start;
    double bytes = 0;
    for (; now < start + ROUND_MS; now = clock_ms()) {
        int rc = encode_all(t, text, NULL, err);
        if (rc) return rc;
        bytes += (double)text.len;
    }
    *rate = bytes / (double)(now - start) / 1e3;
    return 0;
}

/* *rate 0: this Python doesn't have the package. */
static int measure_peer(const struct trial *t, const char *path, uint32_t hash, double *rate,
                        struct error *err)
{
    char *json = xasprintf("%s/tokenizer.json", t->folder), *out = NULL;
    const char *argv[] = {t->options->python, "-c", peer_script, json, path, "0.4", NULL};
    unsigned long theirs = 0;
    char *rest = NULL;
    int rc = bench_run(argv, &out, err);
    *rate = rc ? 0 : strtod(out, &rest);
    if (!rc && *rate > 0) {
        theirs = strtoul(rest, NULL, 10);
        if (theirs != hash) rc = error_set(err, E_FORMAT, "the ids of '%s' differ", path);
    }
    free(json);
    free(out);
    return rc;
}

static int run_file(const struct trial *t, const char *path, struct error *err)
{
    struct bench_samples ours = {0}, peer = {0};
    struct buf text;
    uint32_t hash = 0;
    double rate = 0;
    bool has_peer = true;
    buf_init(&text, TEXT_BYTES_MAX);
    int rc = read_text(path, &text, err);
    if (!rc) rc = encode_all(t, buf_str(&text), &hash, err);
    for (int64_t i = 0; i < t->options->rounds && !rc; i++) {
        rc = measure(t, buf_str(&text), &rate, err);
        if (!rc) bench_samples_add(&ours, rate);
        if (!rc && has_peer) rc = measure_peer(t, path, hash, &rate, err);
        has_peer = has_peer && rate > 0;
        if (!rc && has_peer) bench_samples_add(&peer, rate);
    }
    const char *name = strrchr(path, '/');
    if (!rc) bench_print_row(name ? name + 1 : path, "MB/s", &ours, &peer);
    buf_deinit(&text);
    return rc;
}

static int run_runs(const struct trial *t, struct error *err)
{
    static const struct {
        const char *name, *unit;
    } runs[] = {{"a", "a"},
                {"spaces", " "},
                {"digits", "7"},
                {"line ends", "\n"},
                {"emoji", "\xf0\x9f\x98\x80"},
                {"marks", "\xcc\x81"},
                {"Chinese", "\xe4\xbd\xa0"}};
    for (size_t i = 0; i < ARRAY_LEN(runs); i++) {
        struct token_list ids = {0};
        struct buf text;
        buf_init(&text, TEXT_BYTES_MAX);
        while (text.len < RUN_BYTES)
            buf_append_str(&text, runs[i].unit);
        uint64_t start = clock_ms();
        int rc = tokenizer_encode(t->tokenizer, text.data, text.len, 0, &ids, err);
        if (!rc)
            printf("100 kB of %-18s %10llu ms      %zu tokens\n", runs[i].name,
                   (unsigned long long)(clock_ms() - start), ids.count);
        token_list_deinit(&ids);
        buf_deinit(&text);
        if (rc) return rc;
    }
    return 0;
}

int bench_tokenizer(const struct bench_options *o, const char *folder, const char **files,
                    size_t count)
{
    struct trial t = {.options = o, .folder = folder};
    struct error err = {0};
    uint64_t start = clock_ms();
    int rc = tokenizer_open_folder(folder, &t.tokenizer, &err);
    if (!rc) printf("opened in %llu ms\n", (unsigned long long)(clock_ms() - start));
    for (size_t i = 0; i < count && !rc; i++)
        rc = run_file(&t, files[i], &err);
    if (!rc) rc = run_runs(&t, &err);
    if (rc) fprintf(stderr, "lm-bench: %s\n", err.text);
    tokenizer_destroy(t.tokenizer);
    return rc ? 1 : 0;
}
