#include "shared/net/digest.h"

#include "shared/base/check.h"
#include "tests/test.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* FIPS 180-4's examples (NIST, "Examples with Intermediate Values"), and the empty text. */
static void test_known_digests(void)
{
    static const struct {
        struct str text;
        const char *digest;
    } rows[] = {
        {{"", 0}, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {{NULL, 0}, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {{"abc", 3}, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {{"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56},
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint8_t digest[DIGEST_BYTES];
        char text[DIGEST_DIGITS + 1];
        digest_sha256(rows[i].text, digest);
        digest_text(digest, text);
        EXPECT_STR(text, rows[i].digest);
    }
}

static void test_text_and_back(void)
{
    uint8_t digest[DIGEST_BYTES], again[DIGEST_BYTES];
    char text[DIGEST_DIGITS + 1];
    digest_sha256(STR("key"), digest);
    digest_text(digest, text);
    EXPECT_INT(digest_parse(str_of(text), again), 0);
    EXPECT(memcmp(digest, again, DIGEST_BYTES) == 0);
    for (char *c = text; *c; c++)
        if (*c >= 'a') *c = (char)(*c - 'a' + 'A');
    EXPECT_INT(digest_parse(str_of(text), again), 0);
    EXPECT(memcmp(digest, again, DIGEST_BYTES) == 0);
    EXPECT_INT(digest_parse((struct str){text, DIGEST_DIGITS - 1}, again), E_FORMAT);
    EXPECT_INT(digest_parse((struct str){text, DIGEST_DIGITS + 1}, again), E_FORMAT);
    text[17] = 'g';
    EXPECT_INT(digest_parse(str_of(text), again), E_FORMAT);
}

/* Of git's names: `printf abc | git hash-object --stdin`. */
static void test_files(void)
{
    char path[] = "/tmp/lm_digest_XXXXXX", text[DIGEST_DIGITS + 1];
    struct error err = {0};
    int file = mkstemp(path);
    NEED(file >= 0 && write(file, "abc", 3) == 3 && close(file) == 0);
    NEED(digest_file(path, DIGEST_SHA256, text, &err) == 0);
    EXPECT_STR(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    NEED(digest_file(path, DIGEST_GIT_BLOB, text, &err) == 0);
    EXPECT_STR(text, "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f");
    NEED(truncate(path, 0) == 0 && digest_file(path, DIGEST_GIT_BLOB, text, &err) == 0);
    EXPECT_STR(text, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    unlink(path);
    EXPECT_INT(digest_file(path, DIGEST_SHA256, text, &err), -ENOENT);
    EXPECT(strstr(err.text, path) != NULL);
}

int main(void)
{
    RUN(test_known_digests);
    RUN(test_text_and_back);
    RUN(test_files);
    return TEST_END();
}
