#include "proxy/proxy_metrics.h"

#include "proxy/prefix_table.h"
#include "proxy/proxy.h"
#include "shared/base/check.h"

#include <inttypes.h>

#define PREFIX "lm_proxy_"

struct proxy_metrics proxy_metrics;

#define ROW(kind, field, help) METRICS_ROW(proxy_metrics, PREFIX, kind, field, help)
static const struct metric_info table[] = {PROXY_METRICS(ROW)};

static void refresh(struct proxy *p)
{
    int up = 0, suspect = 0, down = 0;
    list_each (m, &p->registry.members, struct registry_member, link) {
        if (!m->visible) {
            down++;
        } else if (m->state == FLEET_UP) {
            up++;
        } else {
            suspect++;
        }
    }
    metric_set(&proxy_metrics.agents_up, up);
    metric_set(&proxy_metrics.agents_suspect, suspect);
    metric_set(&proxy_metrics.agents_down, down);
    int connections = 0, entries = 0;
    for (int i = 0; i < p->worker_count; i++) {
        connections += atomic_load(&p->workers[i].connections);
        entries += atomic_load(&p->workers[i].entries);
    }
    metric_set(&proxy_metrics.connections, connections);
    metric_set(&proxy_metrics.ledger_entries, entries);
    metric_set(&proxy_metrics.queue_waiting, admission_shared_count(&p->queue));
    metric_set(&proxy_metrics.queue_bytes, atomic_load(&p->queue.bytes));
    metric_set(&proxy_metrics.resume_bytes, (int64_t)atomic_load(&p->resume_budget.used));
    struct prefix_table_stats prefixes;
    prefix_table_get_stats(p->prefix_table, &prefixes);
    metric_set(&proxy_metrics.prefix_table_entries, (int64_t)prefixes.entries);
    metric_set(&proxy_metrics.prefix_table_bytes, (int64_t)prefixes.memory_bytes);
}

/* A label's value. Our ids need no escapes, but a foreign node's is its URL. */
static void put_label(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') buf_append_char(out, '\\');
        buf_append_char(out, *text);
    }
}

static void print_agents(struct buf *out, struct proxy *p)
{
    static const struct {
        const char *name, *type, *help;
    } rows[] = {
        {PREFIX "agent_in_flight", "gauge", "requests of this proxy at the agent"},
        {PREFIX "agent_dispatches_total", "counter", "requests ever sent to the agent"},
        {PREFIX "agent_failures_total", "counter", "of those, lost or not connected"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", rows[i].name, rows[i].help, rows[i].name,
                   rows[i].type);
        list_each (m, &p->registry.members, struct registry_member, link) {
            const struct fleet_cell *c = m->cell;
            uint64_t value = i == 0   ? (uint64_t)atomic_load(&c->in_flight)
                             : i == 1 ? atomic_load(&c->dispatched_total)
                                      : atomic_load(&c->failed_total);
            buf_printf(out, "%s{agent=\"", rows[i].name);
            put_label(out, m->record.id);
            buf_printf(out, "\"} %" PRIu64 "\n", value);
        }
    }
}

void proxy_metrics_handle(struct http_exchange *x, struct str param, void *arg)
{
    (void)param;
    struct worker *w = arg;
    struct proxy *p = w->proxy;
    struct buf out;
    buf_init(&out, BUF_MAX_INTERNAL);
    atomic_store(&w->connections,
                 http_server_connections(w->server)); // the others': at most a tick old
    registry_lock(&p->registry);
    refresh(p);
    metrics_print(&out, table, ARRAY_LEN(table), &proxy_metrics);
    print_agents(&out, p);
    registry_unlock(&p->registry);
    http_respond(x, 200, "text/plain; version=0.0.4; charset=utf-8", buf_str(&out));
    buf_deinit(&out);
}
