#include "engine/unicode.h"

#include "engine/unicode_tables.h"
#include "shared/base/check.h"
#include "shared/base/utf8.h"

#include <pthread.h>
#include <stdlib.h>

static uint8_t categories[UNICODE_COUNT];
static pthread_once_t categories_once = PTHREAD_ONCE_INIT;

static void unpack_categories(void)
{
    size_t at = 0;
    for (size_t i = 0; i < ARRAY_LEN(category_runs); i++) {
        size_t len = category_runs[i] >> 5;
        CHECK(len <= UNICODE_COUNT - at);
        memset(categories + at, (int)(category_runs[i] & 31), len);
        at += len;
    }
    CHECK(at == UNICODE_COUNT);
}

const uint8_t *unicode_categories(void)
{
    pthread_once(&categories_once, unpack_categories);
    return categories;
}

uint32_t unicode_category_mask(struct str name)
{
    static const char names[UNICODE_CATEGORIES][3] = {
        "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
        "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};
    uint32_t mask = 0;
    if (name.len < 1 || name.len > 2) return 0;
    for (int i = 0; i < UNICODE_CATEGORIES; i++)
        if (!memcmp(names[i], name.data, name.len)) mask |= 1u << i;
    return mask;
}

bool unicode_is_word(uint32_t c)
{
    const uint32_t word = 1u << UNICODE_LU | 1u << UNICODE_LL | 1u << UNICODE_LT |
                          1u << UNICODE_LM | 1u << UNICODE_LO | 1u << UNICODE_MN |
                          1u << UNICODE_MC | 1u << UNICODE_ME | 1u << UNICODE_ND |
                          1u << UNICODE_NL | 1u << UNICODE_PC;
    bool circled = (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
                   (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
    return circled || (word >> unicode_categories()[c] & 1);
}

/* ---- NFC ---- */

#define HANGUL_FIRST   0xac00u
#define HANGUL_COUNT   11172u
#define LEAD_FIRST     0x1100u // 19 leading consonants, 21 vowels, 27 trailing consonants
#define LEAD_COUNT     19u
#define VOWEL_FIRST    0x1161u
#define VOWEL_COUNT    21u
#define TRAIL_FIRST    0x11a7u // itself stands for "none"
#define TRAIL_COUNT    28u
#define FIRST_AFFECTED 0xcc // lead byte of U+0300; below it everything is in form C already

struct composition {
    uint64_t pair; // first << 32 | second
    uint32_t code;
};

static struct composition compositions[ARRAY_LEN(decompositions)];
static size_t composition_count;
static uint8_t combining[UNICODE_COUNT];
/* Characters that may change, or change what stands before them. All others begin a part of the text
 * that is normalised by itself. */
static uint8_t affected[UNICODE_COUNT / 8];
static pthread_once_t nfc_once = PTHREAD_ONCE_INIT;

static void mark(uint32_t c)
{
    affected[c / 8] |= (uint8_t)(1 << (c % 8));
}

static bool is_affected(uint32_t c)
{
    return affected[c / 8] >> (c % 8) & 1;
}

static int compare_compositions(const void *left, const void *right)
{
    const struct composition *a = left, *b = right;
    return a->pair < b->pair ? -1 : a->pair > b->pair;
}

static void unpack_nfc(void)
{
    size_t at = 0;
    for (size_t i = 0; i < ARRAY_LEN(combining_runs); i++) {
        size_t len = combining_runs[i] >> 8;
        CHECK(len <= UNICODE_COUNT - at);
        memset(combining + at, (int)(combining_runs[i] & 255), len);
        at += len;
    }
    for (uint32_t c = 0; c < UNICODE_COUNT; c++)
        if (combining[c]) mark(c);
    for (size_t i = 0; i < ARRAY_LEN(decompositions); i++) {
        const uint32_t *d = decompositions[i];
        if (!d[3]) {
            mark(d[0]);
            continue;
        }
        compositions[composition_count++] = (struct composition){(uint64_t)d[1] << 32 | d[2], d[0]};
        mark(d[2]);
    }
    qsort(compositions, composition_count, sizeof *compositions, compare_compositions);
    for (uint32_t i = 0; i < VOWEL_COUNT; i++)
        mark(VOWEL_FIRST + i);
    for (uint32_t i = 1; i < TRAIL_COUNT; i++)
        mark(TRAIL_FIRST + i);
}

static const uint32_t *find_decomposition(uint32_t c)
{
    size_t low = 0, high = ARRAY_LEN(decompositions);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (decompositions[middle][0] < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < ARRAY_LEN(decompositions) && decompositions[low][0] == c ? decompositions[low]
                                                                          : NULL;
}

static uint32_t compose(uint32_t first, uint32_t second) // 0: they don't
{
    if (first - LEAD_FIRST < LEAD_COUNT && second - VOWEL_FIRST < VOWEL_COUNT)
        return HANGUL_FIRST +
               ((first - LEAD_FIRST) * VOWEL_COUNT + (second - VOWEL_FIRST)) * TRAIL_COUNT;
    if (first - HANGUL_FIRST < HANGUL_COUNT && (first - HANGUL_FIRST) % TRAIL_COUNT == 0 &&
        second - TRAIL_FIRST - 1 < TRAIL_COUNT - 1)
        return first + (second - TRAIL_FIRST);
    struct composition key = {(uint64_t)first << 32 | second, 0};
    const struct composition *found =
        bsearch(&key, compositions, composition_count, sizeof *compositions, compare_compositions);
    return found ? found->code : 0;
}

struct letters { // code points of one part
    uint64_t *items;
    size_t count, cap;
};

static void push_letter(struct letters *l, uint32_t c)
{
    if (l->count == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 64;
        l->items = xrealloc_array(l->items, l->cap, sizeof *l->items);
    }
    l->items[l->count++] = c;
}

static void decompose(struct letters *l, uint32_t c)
{
    if (c - HANGUL_FIRST < HANGUL_COUNT) {
        uint32_t i = c - HANGUL_FIRST, trail = i % TRAIL_COUNT;
        push_letter(l, LEAD_FIRST + i / (VOWEL_COUNT * TRAIL_COUNT));
        push_letter(l, VOWEL_FIRST + i / TRAIL_COUNT % VOWEL_COUNT);
        if (trail) push_letter(l, TRAIL_FIRST + trail);
        return;
    }
    const uint32_t *d = find_decomposition(c);
    if (!d) {
        push_letter(l, c);
        return;
    }
    decompose(l, d[1]); // at most four deep, by the data
    if (d[2]) decompose(l, d[2]);
}

static int compare_letters(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

/* Marks between two starters stand in order of class, equal ones as they came. */
static void order_marks(struct letters *l)
{
    for (size_t from = 0, to; from < l->count; from = to) {
        for (to = from; to < l->count && combining[l->items[to]]; to++) {
            uint64_t c = l->items[to]; // class, place, letter
            l->items[to] = (uint64_t)combining[c] << 56 | (uint64_t)(to - from) << 24 | c;
        }
        if (to > from + 1) qsort(l->items + from, to - from, sizeof *l->items, compare_letters);
        for (size_t i = from; i < to; i++)
            l->items[i] &= 0xffffff;
        if (to == from) to++;
    }
}

static void compose_letters(struct letters *l)
{
    size_t starter = SIZE_MAX, kept = 0;
    int last = -1; // class of the last mark kept behind the starter; -1: none
    for (size_t i = 0; i < l->count; i++) {
        uint32_t c = (uint32_t)l->items[i];
        int class = combining[c];
        bool reaches = starter != SIZE_MAX && (last < class || last < 0);
        uint32_t whole = reaches ? compose((uint32_t)l->items[starter], c) : 0;
        if (whole) {
            l->items[starter] = whole;
            continue;
        }
        if (class == 0) {
            starter = kept;
            last = -1;
        } else {
            last = class;
        }
        l->items[kept++] = c;
    }
    l->count = kept;
}

static void normalize_part(struct str part, struct letters *l, struct buf *out)
{
    l->count = 0;
    for (size_t at = 0; at < part.len;) {
        uint32_t c;
        at += utf8_decode(part.data + at, part.len - at, &c);
        decompose(l, c);
    }
    order_marks(l);
    compose_letters(l);
    for (size_t i = 0; i < l->count; i++) {
        char bytes[4];
        buf_append(out, bytes, utf8_encode((uint32_t)l->items[i], bytes));
    }
}

void unicode_nfc(struct str text, struct buf *out)
{
    struct letters letters = {0};
    size_t copied = 0, before = 0, at = 0; // before: where the character in front of `at` begins
    pthread_once(&nfc_once, unpack_nfc);
    while (at < text.len) {
        uint32_t c;
        if ((unsigned char)text.data[at] < FIRST_AFFECTED) {
            before = at;
            at += (unsigned char)text.data[at] < 0x80 ? 1 : 2;
            continue;
        }
        size_t n = utf8_decode(text.data + at, text.len - at, &c);
        CHECK(n);
        if (!is_affected(c)) {
            before = at;
            at += n;
            continue;
        }
        size_t end = at;
        while (end < text.len && (n = utf8_decode(text.data + end, text.len - end, &c)) != 0 &&
               is_affected(c))
            end += n;
        buf_append(out, text.data + copied, before - copied);
        normalize_part((struct str){text.data + before, end - before}, &letters, out);
        copied = before = at = end;
    }
    buf_append(out, text.data + copied, text.len - copied);
    free(letters.items);
}
