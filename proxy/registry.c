/* registry.c - from hearsay and evidence to a fleet.
 *
 * Rules:
 *  1. An agent of ours is alive while any source's lease on it runs. When the last one has run
 *     out it is suspect, not dead: it is probed, and gets work only if nobody else is left.
 *  2. Death needs evidence: the lease ran out and the probe failed, or two connects in a row were
 *     refused, lease or not. A dead agent comes back with its next beat; reading an old beat again
 *     (Redis keeps records for 3.5 s) is not one.
 *  3. A probe that succeeds keeps an agent without a lease, for 30 s if its source is well: then
 *     it has left for elsewhere. While the source is lost it is kept as long as probes succeed.
 *  4. While a source is lost, or when more than 30 % of the agents (and at least two) run out
 *     within 5 s, the source is to blame: agents stay up until their own probe fails, and one
 *     timeout isn't enough.
 *  5. Of two incarnations with one id the one that started later wins; of two ids at one URL too.
 *     A duplicate id that started earlier is refused while the other lives.
 *  6. A foreign node has no lease: it is asked every 2 s, leaves the fleet when that fails, and
 *     stays in the table until an operator removes it.
 *  7. Where connects are refused the machine lives, and its kernel tells our open connections what
 *     became of the process (it may be draining). Where nothing answers nobody will tell them:
 *     the cell says so, and exchanges that wait there go elsewhere.
 *  8. An agent at an https URL is asked once when it comes or comes back: its beat doesn't show that
 *     we trust its certificate.
 *
 *     beat ──► UP ──lease out──► SUSPECT ──probe failed──► DEAD ──time──► forgotten
 *              ▲ ▲───probe ok───────┘                       │
 *              └──────────────── next beat ─────────────────┘ */
#define LOG_MODULE "registry"
#include "proxy/registry.h"

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/net/http_client.h"

#include <stdio.h>
#include <stdlib.h>

void registry_init(struct registry *r)
{
    memset(r, 0, sizeof *r);
    list_init(&r->members);
    hash_map_init(&r->by_id);
    r->fleet = fleet_create_take(NULL, 0);
    pthread_mutex_init(&r->lock, NULL);
}

void registry_lock(struct registry *r)
{
    pthread_mutex_lock(&r->lock);
}

void registry_unlock(struct registry *r)
{
    pthread_mutex_unlock(&r->lock);
}

static void mark_changed(struct registry *r)
{
    atomic_store(&r->changed, true);
    atomic_fetch_add_explicit(&r->generation, 1, memory_order_release);
}

/* The next free column of the prefix table: one that was left is reused as late as possible, when
 * nobody predicts anything of its former owner. There are as many as members. */
static int take_column(struct registry *r)
{
    for (;;) {
        int column = r->next_column;
        r->next_column = (column + 1) % FLEET_AGENTS_MAX;
        uint64_t bit = 1ull << (column % 64);
        if (r->columns[column / 64] & bit) continue;
        r->columns[column / 64] |= bit;
        return column;
    }
}

static void destroy_member(struct registry *r, struct registry_member *m)
{
    hash_map_remove(&r->by_id, str_of(m->record.id));
    list_remove(&m->link);
    r->count--;
    mark_changed(r);
    r->columns[m->cell->column / 64] &= ~(1ull << (m->cell->column % 64));
    if (r->prefixes) prefix_table_clear_column(r->prefixes, m->cell->column);
    fleet_agent_unref(m->published);
    fleet_cell_unref(m->cell);
    free(m);
}

void registry_deinit(struct registry *r)
{
    list_each_safe (m, &r->members, struct registry_member, link)
        destroy_member(r, m);
    hash_map_deinit(&r->by_id);
    fleet_unref(r->fleet);
    r->fleet = NULL;
    pthread_mutex_destroy(&r->lock);
}

/* ---- the fleet ---- */

static struct fleet_agent *publish_member(const struct registry_member *m)
{
    struct http_url url;
    CHECK(http_url_parse(m->record.url, &url, NULL) == 0); // checked when it came in
    const char *models[AGENT_MODELS_MAX];
    for (int i = 0; i < m->record.model_count; i++)
        models[i] = m->record.models[i];
    struct fleet_agent facts = {
        .id = m->record.id,
        .url = m->record.url,
        .scheme = url.scheme,
        .host = url.host,
        .incarnation = m->foreign ? "" : m->record.incarnation,
        .path = url.path,
        .port = url.port,
        .capacity = m->record.capacity,
        .context_len = m->record.context_len,
        .speed = m->speed,
        .foreign = m->foreign,
        .draining = m->record.draining,
        .state = m->state,
        .cell = m->cell,
        .model_count = m->record.model_count,
    };
    return fleet_agent_create(&facts, models);
}

struct fleet *registry_fleet(struct registry *r)
{
    if (!atomic_load(&r->changed)) return r->fleet;
    struct fleet_agent *agents[FLEET_AGENTS_MAX];
    int count = 0;
    list_each (m, &r->members, struct registry_member, link) {
        if (!m->visible) continue;
        if (!m->published) m->published = publish_member(m);
        agents[count++] = fleet_agent_ref(m->published);
    }
    fleet_unref(r->fleet);
    r->fleet = fleet_create_take(agents, count);
    atomic_store(&r->changed, false);
    return r->fleet;
}

static void facts_changed(struct registry *r, struct registry_member *m)
{
    fleet_agent_unref(m->published);
    m->published = NULL;
    mark_changed(r);
}

/* ---- state ---- */

static bool is_leased(const struct registry_member *m, uint64_t now_ms)
{
    for (int s = 0; s < REGISTRY_SOURCES; s++) {
        if (m->lease_until_ms[s] > now_ms) return true;
    }
    return false;
}

/* Rule 4: the silence is the source's, or everybody's. */
static bool is_excused(const struct registry *r, const struct registry_member *m, uint64_t now_ms)
{
    if (m->is_recalled) return false;
    if (r->guard_until_ms > now_ms) return true;
    for (int s = 0; s < REGISTRY_SOURCES; s++) {
        if (m->lease_until_ms[s] && r->source_lost[s]) return true;
    }
    return false;
}

static bool has_lost_source(const struct registry *r, const struct registry_member *m)
{
    for (int s = 0; s < REGISTRY_SOURCES; s++) {
        if (m->lease_until_ms[s] && r->source_lost[s]) return true;
    }
    return false;
}

static enum fleet_state state_of(const struct registry *r, const struct registry_member *m,
                                 uint64_t now_ms)
{
    bool reachable = m->probe_failures == 0;
    if (m->foreign) return m->probed && reachable ? FLEET_UP : FLEET_SUSPECT;
    if (is_leased(m, now_ms)) return reachable ? FLEET_UP : FLEET_SUSPECT;
    if (m->verified_until_ms > now_ms) return FLEET_UP;
    return reachable && is_excused(r, m, now_ms) ? FLEET_UP : FLEET_SUSPECT;
}

static bool is_visible(const struct registry_member *m)
{
    if (m->presence != REGISTRY_PRESENT) return false;
    return !m->foreign || m->probe_failures < REGISTRY_FAILURES_MAX;
}

const char *registry_state_name(const struct registry_member *m)
{
    if (m->presence == REGISTRY_REMOVED) return "removed";
    if (m->presence == REGISTRY_DEAD || !m->visible) return "down";
    if (m->record.draining) return "draining";
    return m->state == FLEET_UP ? "up" : "suspect";
}

/* The one place where what is published about a member changes. */
static void update(struct registry *r, struct registry_member *m, uint64_t now_ms)
{
    enum fleet_state state = state_of(r, m, now_ms);
    bool visible = is_visible(m);
    if (state == m->state && visible == m->visible) return;
    const char *before = m->first_seen_wall_s ? registry_state_name(m) : "new";
    m->state = state;
    m->visible = visible;
    facts_changed(r, m);
    log_info("agent state", "agent=%s url=%s from=%s to=%s", m->record.id, m->record.url, before,
             registry_state_name(m));
}

static void kill_member(struct registry *r, struct registry_member *m, const char *reason,
                        uint64_t now_ms)
{
    if (m->presence != REGISTRY_PRESENT) return;
    log_info("agent lost", "agent=%s url=%s reason=\"%s\"", m->record.id, m->record.url, reason);
    m->presence = REGISTRY_DEAD;
    update(r, m, now_ms);
}

/* ---- members ---- */

struct registry_member *registry_find(const struct registry *r, const char *id)
{
    return hash_map_get(&r->by_id, str_of(id));
}

struct registry_member *registry_find_url(const struct registry *r, const char *url)
{
    list_each (m, &r->members, struct registry_member, link) {
        if (strcmp(m->record.url, url) == 0) return m;
    }
    return NULL;
}

bool registry_misses_model(const struct registry *r, struct str model)
{
    list_each (m, &r->members, struct registry_member, link) {
        if (m->visible || m->presence == REGISTRY_REMOVED) continue;
        for (int i = 0; i < m->record.model_count; i++) {
            if (str_equal(str_of(m->record.models[i]), model)) return true;
        }
    }
    return false;
}

static int add_member(struct registry *r, const char *url, uint64_t now_ms,
                      struct registry_member **out, struct error *err)
{
    struct http_url parsed;
    int rc = http_url_parse(url, &parsed, err);
    if (rc < 0) return rc;
    if (r->count == FLEET_AGENTS_MAX) {
        return error_set(err, E_LIMIT, "the fleet is full: %d agents are known", r->count);
    }
    struct registry_member *m = xcalloc(1, sizeof *m);
    m->cell = fleet_cell_create();
    m->cell->column = take_column(r);
    fleet_cell_set_birth(m->cell, now_ms);
    list_push_back(&r->members, &m->link);
    r->count++;
    *out = m;
    return 0;
}

static bool same_facts(const struct agent_record *a, const struct agent_record *b)
{
    if (strcmp(a->url, b->url) != 0 || strcmp(a->incarnation, b->incarnation) != 0 ||
        a->capacity != b->capacity || a->context_len != b->context_len ||
        a->draining != b->draining || a->model_count != b->model_count) {
        return false;
    }
    for (int i = 0; i < a->model_count; i++) {
        if (strcmp(a->models[i], b->models[i]) != 0) return false;
    }
    return true;
}

static void report_load(const struct registry *r, struct registry_member *m,
                        const struct agent_load *load, uint64_t now_ms)
{
    if (load->sequence && load->sequence <= m->record.load.sequence) return; // an older report
    m->record.load = *load;
    struct fleet_own_report own = {.high = 0};
    const struct agent_seen *seen = r->proxy ? agent_load_seen(load, r->proxy) : NULL;
    if (seen) {
        own = (struct fleet_own_report){
            .high = seen->high,
            .gaps = &load->gaps[seen->first_gap],
            .gap_count = seen->gap_count,
            .active = seen->active,
        };
    }
    fleet_cell_report(m->cell, load, r->proxy ? &own : NULL, now_ms);
}

static void adopt_incarnation(const struct registry *r, struct registry_member *m)
{
    if (r->prefixes) prefix_table_clear_column(r->prefixes, m->cell->column);
    m->record.load = (struct agent_load){0};
    m->probe_failures = 0;
    m->verified_until_ms = 0;
    m->beat_mark = 0;
    memset(m->lease_until_ms, 0, sizeof m->lease_until_ms);
    atomic_store(&m->cell->refused, 0);
    fleet_cell_forget_report(m->cell);
}

/* Rule 5 for a member that is there under this id. */
static int check_incarnation(const struct registry_member *m, const struct agent_record *record,
                             uint64_t now_ms, struct error *err)
{
    if (strcmp(m->record.incarnation, record->incarnation) == 0) return 0;
    if (record->start_ms > m->record.start_ms) return 0;
    /* Its clock may have been set back since the other one started: who is gone has no say. */
    bool lives = m->presence == REGISTRY_PRESENT && is_leased(m, now_ms);
    if (!lives) return 0;
    return error_set(err, E_BUSY, "agent id '%s' belongs to %s, which started later or lives",
                     record->id, m->record.url);
}

/* Rule 5 for members with another id at the same URL: one address is one process. */
static int check_url(struct registry *r, const struct agent_record *record, uint64_t now_ms,
                     struct error *err)
{
    list_each_safe (m, &r->members, struct registry_member, link) {
        if (strcmp(m->record.url, record->url) != 0 || strcmp(m->record.id, record->id) == 0) {
            continue;
        }
        if (!m->foreign && m->record.start_ms > record->start_ms && is_leased(m, now_ms)) {
            return error_set(err, E_BUSY, "%s belongs to agent '%s', which started later",
                             record->url, m->record.id);
        }
        log_info("agent replaced", "agent=%s url=%s by=%s", m->record.id, m->record.url,
                 record->id);
        destroy_member(r, m);
    }
    return 0;
}

static void copy_facts(struct registry_member *m, const struct agent_record *record)
{
    struct agent_load load = m->record.load;
    m->record = *record;
    m->record.load = load;
}

static bool is_https(const char *url)
{
    struct http_url parsed;
    return http_url_parse(url, &parsed, NULL) == 0 && parsed.scheme == HTTP_TLS;
}

int registry_hear(struct registry *r, enum registry_source source,
                  const struct agent_record *record, uint64_t lease_ms, uint64_t mark,
                  uint64_t now_ms, struct error *err)
{
    struct registry_member *m = registry_find(r, record->id);
    int rc = m ? check_incarnation(m, record, now_ms, err) : 0;
    bool same_url = m && strcmp(m->record.url, record->url) == 0;
    if (rc == 0 && !same_url) rc = check_url(r, record, now_ms, err);
    if (rc < 0) return rc;
    bool is_new = !m;
    if (is_new) {
        rc = add_member(r, record->url, now_ms, &m, err);
        if (rc < 0) return rc;
        copy_facts(m, record);
        hash_map_put(&r->by_id, str_of(m->record.id), m);
    } else if (!same_url) {
        struct http_url url;
        rc = http_url_parse(record->url, &url, err);
        if (rc < 0) return rc;
    }
    bool other = strcmp(m->record.incarnation, record->incarnation) != 0;
    if (other) adopt_incarnation(r, m);
    if (mark && mark == m->beat_mark) return 0; // read before: no sign of life
    if (mark) m->beat_mark = mark;
    bool is_back = m->presence == REGISTRY_DEAD || m->is_recalled;
    if (other || (m->presence == REGISTRY_DEAD)) {
        fleet_cell_set_birth(m->cell, now_ms);
        m->presence = REGISTRY_PRESENT;
        atomic_store(&m->cell->refused, 0);
        atomic_store(&m->cell->gone, false);
        m->probe_failures = 0;
        m->doubted = false;
    }
    if ((is_new || other || !same_url || is_back) && is_https(record->url)) { // rule 8
        m->doubted = true;
        m->next_probe_ms = now_ms;
    }
    if (!same_facts(&m->record, record)) facts_changed(r, m);
    copy_facts(m, record);
    m->is_recalled = false;
    m->lease_until_ms[source] = now_ms + lease_ms;
    m->lease_lost_ms = 0;
    report_load(r, m, &record->load, now_ms);
    update(r, m, now_ms);
    if (is_new) m->first_seen_wall_s = clock_wall_ms() / 1000;
    if (source == REGISTRY_HTTP) m->unwritten = true;
    return 0;
}

int registry_recall(struct registry *r, enum registry_source source,
                    const struct agent_record *record, uint64_t now_ms, struct error *err)
{
    if (registry_find(r, record->id) || registry_find_url(r, record->url)) return 0;
    struct registry_member *m;
    int rc = add_member(r, record->url, now_ms, &m, err);
    if (rc < 0) return rc;
    copy_facts(m, record);
    hash_map_put(&r->by_id, str_of(m->record.id), m);
    m->lease_until_ms[source] = now_ms; // it was heard there, and isn't leased any more
    m->lease_lost_ms = now_ms;
    m->state = FLEET_SUSPECT;
    m->visible = true;
    m->is_recalled = true;
    m->first_seen_wall_s = clock_wall_ms() / 1000;
    facts_changed(r, m);
    return 0;
}

struct registry_member *registry_next_unwritten(struct registry *r)
{
    list_each (m, &r->members, struct registry_member, link) {
        if (!m->unwritten) continue;
        m->unwritten = false;
        return m;
    }
    return NULL;
}

void registry_report_load(struct registry *r, const char *id, const struct agent_load *load,
                          uint64_t now_ms)
{
    struct registry_member *m = registry_find(r, id);
    if (m && !m->foreign) report_load(r, m, load, now_ms);
}

void registry_lease_ended(struct registry *r, enum registry_source source, const char *id,
                          uint64_t now_ms)
{
    struct registry_member *m = registry_find(r, id);
    if (m && m->lease_until_ms[source] > now_ms) m->lease_until_ms[source] = now_ms;
}

void registry_set_source_lost(struct registry *r, enum registry_source source, bool lost,
                              uint64_t now_ms)
{
    if (r->source_lost[source] == lost) return;
    r->source_lost[source] = lost;
    if (lost) return;
    /* Its agents need a beat's time to be heard again. */
    list_each (m, &r->members, struct registry_member, link) {
        uint64_t *until = &m->lease_until_ms[source];
        if (*until == 0) continue;
        if (*until < now_ms + AGENT_LEASE_MS) *until = now_ms + AGENT_LEASE_MS;
        m->lease_lost_ms = 0;
    }
}

int registry_add_foreign(struct registry *r, const char *url, const char (*models)[128],
                         int model_count, double speed, uint64_t now_ms, struct error *err)
{
    CHECK(model_count >= 0 && model_count <= AGENT_MODELS_MAX);
    if (strlen(url) >= AGENT_ID_BYTES) {
        return error_set(err, E_INVALID, "url of more than %d characters", AGENT_ID_BYTES - 1);
    }
    struct registry_member *m = registry_find_url(r, url);
    if (m && !m->foreign && m->presence == REGISTRY_PRESENT) return 0;
    if (m && !m->foreign) {
        destroy_member(r, m);
        m = NULL;
    }
    bool is_new = !m;
    if (is_new) {
        int rc = add_member(r, url, now_ms, &m, err);
        if (rc < 0) return rc;
        m->foreign = true;
        snprintf(m->record.id, sizeof m->record.id, "%s", url);
        snprintf(m->record.url, sizeof m->record.url, "%s", url);
        hash_map_put(&r->by_id, str_of(m->record.id), m);
    }
    m->presence = REGISTRY_PRESENT;
    m->speed = speed;
    if (model_count) {
        memcpy(m->record.models, models, (size_t)model_count * sizeof models[0]);
        m->record.model_count = model_count;
    }
    m->probe_failures = 0;
    m->next_probe_ms = now_ms;
    atomic_store(&m->cell->refused, 0);
    facts_changed(r, m);
    update(r, m, now_ms);
    if (is_new) m->first_seen_wall_s = clock_wall_ms() / 1000;
    return 0;
}

bool registry_remove(struct registry *r, const char *url)
{
    struct registry_member *m = registry_find_url(r, url);
    if (!m || m->presence == REGISTRY_REMOVED) return false;
    log_info("agent removed", "agent=%s url=%s", m->record.id, url);
    if (m->foreign) {
        destroy_member(r, m);
        return true;
    }
    m->presence = REGISTRY_REMOVED;
    m->visible = false;
    facts_changed(r, m);
    return true;
}

/* ---- evidence ---- */

void registry_note_refused(struct registry *r, const struct fleet_agent *a, uint64_t now_ms)
{
    int refused = atomic_fetch_add(&a->cell->refused, 1) + 1;
    struct registry_member *m = registry_find(r, a->id);
    if (!m || m->cell != a->cell) return; // it left, or another one has its id
    m->doubted = true;
    if (m->next_probe_ms > now_ms + REGISTRY_PROBE_AGAIN_MS) {
        m->next_probe_ms = now_ms + REGISTRY_PROBE_AGAIN_MS;
    }
    if (refused < REGISTRY_REFUSED_MAX) return;
    if (m->foreign) {
        m->probe_failures = REGISTRY_FAILURES_MAX;
        update(r, m, now_ms);
    } else {
        kill_member(r, m, "connects refused", now_ms);
    }
}

void registry_note_unreachable(struct registry *r, const struct fleet_agent *a, uint64_t now_ms)
{
    struct registry_member *m = registry_find(r, a->id);
    if (!m || m->cell != a->cell) return;
    m->doubted = true;
    if (m->next_probe_ms > now_ms) m->next_probe_ms = now_ms;
}

static bool wants_probe(const struct registry_member *m, uint64_t now_ms)
{
    if (m->presence != REGISTRY_PRESENT || m->probing || m->next_probe_ms > now_ms) return false;
    return m->foreign || m->doubted || m->probe_failures > 0 || !is_leased(m, now_ms);
}

struct registry_member *registry_next_probe(struct registry *r, uint64_t now_ms)
{
    list_each (m, &r->members, struct registry_member, link) {
        if (!wants_probe(m, now_ms)) continue;
        m->probing = true;
        /* Behind the others: when probes are scarce everybody has his turn. */
        list_remove(&m->link);
        list_push_back(&r->members, &m->link);
        return m;
    }
    return NULL;
}

static void probe_succeeded(struct registry *r, struct registry_member *m,
                            const char (*models)[128], int model_count, uint64_t now_ms)
{
    m->probed = true;
    m->is_recalled = false;
    m->probe_failures = 0;
    m->doubted = false;
    atomic_store(&m->cell->refused, 0);
    atomic_store(&m->cell->gone, false);
    m->next_probe_ms = now_ms + (m->foreign ? REGISTRY_FOREIGN_MS : REGISTRY_PROBE_MS);
    m->verified_until_ms = now_ms + 2 * REGISTRY_PROBE_MS;
    if (!m->foreign || model_count < 0) return;
    bool same = model_count == m->record.model_count;
    for (int i = 0; same && i < model_count; i++)
        same = strcmp(models[i], m->record.models[i]) == 0;
    if (same) return;
    memcpy(m->record.models, models, (size_t)model_count * sizeof models[0]);
    m->record.model_count = model_count;
    facts_changed(r, m);
}

static void probe_failed(struct registry *r, struct registry_member *m, bool refused,
                         uint64_t now_ms)
{
    m->probe_failures++;
    m->next_probe_ms = now_ms + (refused ? REGISTRY_PROBE_AGAIN_MS : REGISTRY_PROBE_MS);
    bool twice = refused && atomic_fetch_add(&m->cell->refused, 1) + 1 >= REGISTRY_REFUSED_MAX;
    if (m->foreign) {
        if (twice) m->probe_failures = REGISTRY_FAILURES_MAX;
        if (m->probe_failures >= REGISTRY_FAILURES_MAX) {
            m->probe_failures = REGISTRY_FAILURES_MAX;
            m->next_probe_ms = now_ms + REGISTRY_PROBE_MS;
            if (!refused) atomic_store(&m->cell->gone, true); // rule 7
        }
        return;
    }
    if (twice) {
        kill_member(r, m, "connects refused", now_ms);
    } else if (!is_leased(m, now_ms)) {
        bool enough = m->probe_failures >= REGISTRY_FAILURES_MAX || !is_excused(r, m, now_ms);
        if (!enough) return;
        if (!refused) atomic_store(&m->cell->gone, true); // rule 7
        kill_member(r, m, "no beat and no answer to a probe", now_ms);
    }
}

void registry_probed(struct registry *r, const char *id, enum registry_probe result,
                     const char (*models)[128], int model_count, uint64_t now_ms)
{
    struct registry_member *m = registry_find(r, id);
    if (!m || !m->probing) return;
    m->probing = false;
    if (m->presence != REGISTRY_PRESENT) return;
    if (result == REGISTRY_PROBE_OK) {
        probe_succeeded(r, m, models, model_count, now_ms);
    } else if (result == REGISTRY_PROBE_NOT_MADE) {
        m->next_probe_ms = now_ms + REGISTRY_PROBE_MS;
    } else {
        probe_failed(r, m, result == REGISTRY_PROBE_REFUSED, now_ms);
    }
    update(r, m, now_ms);
}

/* ---- time ---- */

/* Rule 4: more than 30 % and at least two lost their leases within the guard's time. */
static void watch_mass_loss(struct registry *r, uint64_t now_ms)
{
    int ours = 0, lost = 0;
    list_each (m, &r->members, struct registry_member, link) {
        if (m->foreign || m->presence != REGISTRY_PRESENT) continue;
        ours++;
        if (m->lease_lost_ms && now_ms - m->lease_lost_ms < REGISTRY_GUARD_MS) lost++;
    }
    if (lost < 2 || lost * 10 <= ours * 3) return;
    if (r->guard_until_ms <= now_ms) {
        log_warn("many agents fell silent at once", "lost=%d of=%d: asking each of them", lost,
                 ours);
    }
    r->guard_until_ms = now_ms + REGISTRY_GUARD_MS;
}

static bool may_forget(const struct registry *r, const struct registry_member *m, uint64_t now_ms)
{
    if (m->foreign || m->probing || is_leased(m, now_ms)) return false;
    uint64_t silent_ms = m->lease_lost_ms ? now_ms - m->lease_lost_ms : 0;
    switch (m->presence) {
    case REGISTRY_PRESENT:
        return silent_ms > REGISTRY_UNHEARD_MS && !has_lost_source(r, m);
    case REGISTRY_DEAD:
    case REGISTRY_REMOVED:
        return silent_ms > AGENT_LEASE_MS && !has_lost_source(r, m);
    }
    UNREACHABLE();
}

void registry_tick(struct registry *r, uint64_t now_ms)
{
    bool silence = false;
    list_each (m, &r->members, struct registry_member, link) {
        if (m->foreign || m->lease_lost_ms || is_leased(m, now_ms)) continue;
        m->lease_lost_ms = now_ms;
        silence = true;
    }
    if (silence) watch_mass_loss(r, now_ms);
    list_each_safe (m, &r->members, struct registry_member, link) {
        if (may_forget(r, m, now_ms)) {
            log_info("agent forgotten", "agent=%s url=%s", m->record.id, m->record.url);
            destroy_member(r, m);
        } else {
            update(r, m, now_ms);
        }
    }
}

void registry_check(const struct registry *r)
{
    int count = 0, columns = 0;
    for (size_t i = 0; i < ARRAY_LEN(r->columns); i++)
        columns += __builtin_popcountll(r->columns[i]);
    CHECK(columns == r->count);
    list_each (m, &r->members, struct registry_member, link) {
        count++;
        CHECK(r->columns[m->cell->column / 64] >> (m->cell->column % 64) & 1);
        CHECK(registry_find(r, m->record.id) == m);
        CHECK(!m->visible || m->presence == REGISTRY_PRESENT);
        CHECK(m->record.model_count >= 0 && m->record.model_count <= AGENT_MODELS_MAX);
    }
    CHECK(count == r->count && (size_t)count == r->by_id.len);
    fleet_check(r->fleet);
}
