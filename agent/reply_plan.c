#include "agent/reply_plan.h"

#include "agent/reply_formats.h"

void reply_plan_make(const struct reply_formats *f, const struct tool_list *tools,
                     struct str prompt, int thinking, struct reply_plan *out)
{
    bool may_call = f->tools && tools->choice != TOOL_CHOICE_NONE;
    struct tool_list *list =
        may_call ? tool_list_create_copy(tools, f->tools->needs_parameters) : NULL;
    *out = (struct reply_plan){
        .list = list,
        .options = {.reasoning = f->reasoning,
                    .starts_in_reasoning =
                        f->reasoning && reasoning_format_starts_in(f->reasoning, prompt, thinking),
                    .tools = may_call ? f->tools : NULL,
                    .list = list},
        .is_parsed = f->reasoning || may_call,
        .calls_max = tools->calls_max,
        .must_call = may_call && tools->choice == TOOL_CHOICE_REQUIRED,
        .is_named = may_call && tools->is_named,
    };
    /* What is reasoning's comes first: without calls theirs aren't shown. */
    out->shown = f->shown;
    out->shown_count = may_call ? f->shown_count : f->shown_reasoning;
}

void reply_plan_deinit(struct reply_plan *p)
{
    tool_list_destroy_copy(p->list);
    *p = (struct reply_plan){0};
}
