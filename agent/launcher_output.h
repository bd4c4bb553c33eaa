/* launcher_output.h - what a replica prints, line by line with its name: "[gpu4] " before text, and
 * as the first member of a line that is a JSON object: {"replica":"gpu4",... */
#ifndef LM_AGENT_LAUNCHER_OUTPUT_H
#define LM_AGENT_LAUNCHER_OUTPUT_H

#include <stddef.h>

#include "shared/base/buf.h"

#define LAUNCHER_LINE_MAX ((size_t)16 << 10) // a longer line is printed as several

struct launcher_output {
    const char *name; // borrowed
    struct buf line;  // of which the end has not come yet
};

void launcher_output_init(struct launcher_output *o, const char *name);
void launcher_output_deinit(struct launcher_output *o);
/* Append to *out all lines that `data` completes. */
void launcher_output_feed(struct launcher_output *o, const char *data, size_t len, struct buf *out);
/* The last line, if it was left without an end. */
void launcher_output_end(struct launcher_output *o, struct buf *out);

#endif
