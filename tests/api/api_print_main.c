/* lm-api - the description of the HTTP API without a server: what generators of clients read, and
 * the page docs/api-reference.md.
 *
 *     lm-api openapi agent|proxy     /openapi.json as that program gives it
 *     lm-api markdown                docs/api-reference.md */
#include "shared/api/api_openapi.h"
#include "shared/api/api_reference.h"
#include "shared/base/config.h"

#include <stdio.h>
#include <string.h>

static int print(const struct buf *out)
{
    fwrite(out->data, 1, out->len, stdout);
    return fflush(stdout) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    bool wants_agent = argc == 3 && strcmp(argv[2], "agent") == 0;
    bool wants_proxy = argc == 3 && strcmp(argv[2], "proxy") == 0;
    int rc = EXIT_USAGE;
    if ((wants_agent || wants_proxy) && strcmp(argv[1], "openapi") == 0) {
        struct api_openapi_options options = {.daemon = wants_agent ? API_AGENT : API_PROXY};
        api_openapi_print(&out, &options);
        buf_append_char(&out, '\n');
        rc = print(&out);
    } else if (argc == 2 && strcmp(argv[1], "markdown") == 0) {
        api_reference_markdown(&out);
        rc = print(&out);
    } else {
        fprintf(stderr, "usage: lm-api openapi agent|proxy | lm-api markdown\n");
    }
    buf_deinit(&out);
    return rc;
}
