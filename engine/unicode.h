/* unicode.h - properties of code points and NFC, as the reference tokenizers know them: categories
 * of Unicode 16, normalisation of the older version that their normaliser has. The system's
 * libraries may be older or newer, and a token id must not depend on that. Any thread. */
#ifndef LM_ENGINE_UNICODE_H
#define LM_ENGINE_UNICODE_H

#include "shared/base/buf.h"
#include "shared/base/str.h"

#define UNICODE_COUNT 0x110000

enum unicode_category { // order of scripts/make-unicode-tables
    UNICODE_LU,
    UNICODE_LL,
    UNICODE_LT,
    UNICODE_LM,
    UNICODE_LO,
    UNICODE_MN,
    UNICODE_MC,
    UNICODE_ME,
    UNICODE_ND,
    UNICODE_NL,
    UNICODE_NO,
    UNICODE_PC,
    UNICODE_PD,
    UNICODE_PS,
    UNICODE_PE,
    UNICODE_PI,
    UNICODE_PF,
    UNICODE_PO,
    UNICODE_SM,
    UNICODE_SC,
    UNICODE_SK,
    UNICODE_SO,
    UNICODE_ZS,
    UNICODE_ZL,
    UNICODE_ZP,
    UNICODE_CC,
    UNICODE_CF,
    UNICODE_CS,
    UNICODE_CO,
    UNICODE_CN,
    UNICODE_CATEGORIES,
};

/* Bit per category. "L" or "Lu"; 0: no such name. */
uint32_t unicode_category_mask(struct str name);

/* enum unicode_category per code point, UNICODE_COUNT of them; unpacked at the first call. */
const uint8_t *unicode_categories(void);

static inline bool unicode_is_space(uint32_t c) // property White_Space
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

/* What \w means: letters, marks, decimal digits, letter numbers, connectors, circled letters. */
bool unicode_is_word(uint32_t c);

/* Append text[0..len), valid UTF-8, in Normalization Form C (UAX #15). O(n log n); text without a
 * character that could change is copied in one pass. */
void unicode_nfc(struct str text, struct buf *out);

#endif
