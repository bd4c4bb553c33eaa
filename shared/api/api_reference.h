/* api_reference.h - the tables of this folder for people: as the page docs/api-reference.md, which
 * shows both programs, and as the page that each of them serves at /redoc. */
#ifndef LM_API_API_REFERENCE_H
#define LM_API_API_REFERENCE_H

#include "shared/api/api_routes.h"
#include "shared/base/buf.h"

void api_reference_markdown(struct buf *out);
/* A whole page, with links to styles but no scripts. */
void api_reference_html(struct buf *out, enum api_daemon daemon);

#endif
