/* The trie by itself: what it finds, shares, copies, evicts, and brings back. Blocks are given to
 * tables as a scheduler would; contents don't exist here, the simulation in test_scheduler.c has
 * them. */
#include "engine/prefix_cache.h"

#include "tests/test.h"

#define BLOCK      KV_BLOCK_TOKENS
#define TOKENS_MAX (8 * BLOCK)

struct setup {
    struct kv_cache kv;
    struct prefix_cache c;
};

/* A sequence that somebody computes. */
struct sequence {
    int32_t tokens[TOKENS_MAX];
    struct block_table table;
    int whole;
};

static struct prefix_node *changed_node, *changed_to;
static int changes;

static void on_change(void *arg, struct prefix_node *node, struct prefix_node *to)
{
    (void)arg;
    changed_node = node;
    changed_to = to;
    changes++;
    if (to == node) return;
    while (!list_is_empty(&node->sessions))
        list_remove(node->sessions.next);
}

static void setup_init(struct setup *s, int blocks, bool keep, int host_pages)
{
    kv_cache_init(&s->kv, blocks);
    prefix_cache_init(&s->c, &(struct prefix_cache_setup){.kv = &s->kv,
                                                          .keep = keep,
                                                          .rope_sets = 2,
                                                          .host_bytes = host_pages * 16,
                                                          .page_bytes = host_pages ? 16 : 0,
                                                          .ranks = 1,
                                                          .on_change = on_change});
    changes = 0;
}

static void setup_deinit(struct setup *s)
{
    EXPECT_INT(s->kv.count[KV_ACTIVE], 0);
    prefix_cache_deinit(&s->c);
    EXPECT_INT(s->kv.count[KV_FREE], s->kv.total);
    kv_cache_deinit(&s->kv);
}

static void check(const struct setup *s)
{
    kv_cache_check(&s->kv);
    prefix_cache_check(&s->c);
}

/* tokens: i + base, but from `differs` on i + base + 1000. */
static void sequence_init(struct sequence *q, int base, int differs)
{
    *q = (struct sequence){0};
    for (int i = 0; i < TOKENS_MAX; i++)
        q->tokens[i] = base + i + (i >= differs ? 1000 : 0);
}

/* Take what is found of `count` tokens; returns how many that were. */
static int begin(struct setup *s, struct prefix_space *space, struct sequence *q, int count)
{
    struct prefix_match m;
    struct prefix_hold hold;
    prefix_cache_match(&s->c, space, q->tokens, count - 1, &m);
    prefix_cache_hold(&s->c, &m, &hold);
    int there = (m.node ? m.node->depth : 0) - m.absent;
    while (s->kv.count[KV_FREE] < blocks_for(count) - there)
        NEED(prefix_cache_evict(&s->c));
    prefix_cache_fill(&s->c, &hold, &q->table, count);
    q->whole = m.node ? m.node->depth : 0;
    check(s);
    return m.tokens;
}

static void publish(struct setup *s, struct prefix_space *space, struct sequence *q, int count)
{
    prefix_cache_publish(&s->c, space, q->tokens, count, &q->table, &q->whole);
    check(s);
}

static struct prefix_node *end(struct setup *s, struct sequence *q)
{
    struct prefix_node *leaf = prefix_cache_seal(&s->c, &q->table, q->whole);
    prefix_cache_release(&s->c, &q->table);
    check(s);
    return leaf;
}

static int run(struct setup *s, struct sequence *q, int count)
{
    int found = begin(s, s->c.everybody, q, count);
    publish(s, s->c.everybody, q, count);
    end(s, q);
    return found;
}

static int count_found(struct setup *s, const struct sequence *q, int count)
{
    struct prefix_match m;
    prefix_cache_match(&s->c, s->c.everybody, q->tokens, count, &m);
    return m.tokens;
}

static void test_found_to_the_token(void)
{
    static const struct {
        int differs, asked, found;
    } rows[] = {
        {TOKENS_MAX, 150, 149},                                             // the last one is left
        {TOKENS_MAX, 400, 200}, {TOKENS_MAX, 65, 64}, {TOKENS_MAX, 64, 63}, // part of a whole block
        {TOKENS_MAX, 1, 0},     {0, 150, 0},          {1, 150, 1},
        {64, 150, 64},          {130, 150, 130},      {63, 150, 63},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct setup s;
        struct sequence first, second;
        setup_init(&s, 16, true, 0);
        sequence_init(&first, 0, TOKENS_MAX);
        EXPECT_INT(run(&s, &first, 200), 0);
        EXPECT_INT(s.kv.count[KV_CACHED], 4);
        sequence_init(&second, 0, rows[i].differs);
        EXPECT_INT(begin(&s, s.c.everybody, &second, rows[i].asked), rows[i].found);
        int copied = rows[i].found % BLOCK;
        EXPECT_INT(s.c.moves.count, copied > 0);
        if (copied > 0) EXPECT_INT(s.c.moves.move[0].tokens, copied);
        end(&s, &second);
        setup_deinit(&s);
    }
}

/* Who computes the same at the same time ends up with the same blocks. */
static void test_equal_blocks_become_one(void)
{
    struct setup s;
    struct sequence a, b;
    setup_init(&s, 16, true, 0);
    sequence_init(&a, 0, TOKENS_MAX);
    sequence_init(&b, 0, 150);
    begin(&s, s.c.everybody, &a, 200);
    begin(&s, s.c.everybody, &b, 200);
    EXPECT_INT(s.kv.count[KV_ACTIVE], 8);
    publish(&s, s.c.everybody, &a, 100);
    publish(&s, s.c.everybody, &b, 100);
    EXPECT_INT(b.table.blocks[0], a.table.blocks[0]);
    EXPECT(b.table.blocks[1] != a.table.blocks[1]); // both go on writing
    publish(&s, s.c.everybody, &b, 200);
    publish(&s, s.c.everybody, &a, 200);
    EXPECT_INT(b.table.blocks[1], a.table.blocks[1]);
    EXPECT(b.table.blocks[2] != a.table.blocks[2]); // they differ there
    EXPECT_INT(s.kv.count[KV_ACTIVE], 6);
    end(&s, &a);
    end(&s, &b);
    setup_deinit(&s);
}

/* The parts that grow: what is known of a sequence while it is computed can be copied. */
static void test_growing_tail_is_found(void)
{
    struct setup s;
    struct sequence a, b;
    setup_init(&s, 16, true, 0);
    sequence_init(&a, 0, TOKENS_MAX);
    sequence_init(&b, 0, TOKENS_MAX);
    begin(&s, s.c.everybody, &a, 200);
    for (int known = 1; known <= 200; known += 7) {
        publish(&s, s.c.everybody, &a, known);
        EXPECT_INT(count_found(&s, &b, 200), known);
    }
    end(&s, &a);
    EXPECT_INT(run(&s, &b, 150), 149);
    EXPECT_INT(s.kv.count[KV_CACHED], 4); // b said nothing new: no copy of it is kept
    setup_deinit(&s);
}

/* Used least recently first, and always from the end of a path. */
static void test_eviction_order(void)
{
    struct setup s;
    struct sequence a, b;
    setup_init(&s, 8, true, 0);
    sequence_init(&a, 0, TOKENS_MAX);
    sequence_init(&b, 5000, TOKENS_MAX);
    run(&s, &a, 4 * BLOCK);
    run(&s, &b, 4 * BLOCK);
    run(&s, &a, 2 * BLOCK + 1);                            // a's first two are used again
    EXPECT_INT(count_found(&s, &a, 4 * BLOCK), 3 * BLOCK); // a block was needed for that
    static const int left[][2] = {{2, 4}, {2, 3}, {2, 2}, {2, 1}, {2, 0}, {1, 0}, {0, 0}};
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) {
        EXPECT(prefix_cache_evict(&s.c));
        check(&s);
        EXPECT_INT(count_found(&s, &a, 4 * BLOCK), left[i][0] * BLOCK);
        EXPECT_INT(count_found(&s, &b, 4 * BLOCK), left[i][1] * BLOCK);
    }
    EXPECT(!prefix_cache_evict(&s.c));
    setup_deinit(&s);
}

static void test_what_is_used_is_not_evicted(void)
{
    struct setup s;
    struct sequence a, b;
    setup_init(&s, 6, true, 0);
    sequence_init(&a, 0, TOKENS_MAX);
    sequence_init(&b, 0, 2 * BLOCK);
    run(&s, &a, 4 * BLOCK);
    EXPECT_INT(begin(&s, s.c.everybody, &b, 3 * BLOCK), 2 * BLOCK);
    EXPECT(prefix_cache_evict(&s.c));
    EXPECT(prefix_cache_evict(&s.c));
    EXPECT(!prefix_cache_evict(&s.c));
    EXPECT_INT(count_found(&s, &a, 4 * BLOCK), 2 * BLOCK);
    end(&s, &b);
    setup_deinit(&s);
}

static void test_distrusted_is_never_found(void)
{
    struct setup s;
    struct sequence a, b, c;
    setup_init(&s, 16, true, 0);
    sequence_init(&a, 0, TOKENS_MAX);
    sequence_init(&b, 0, 3 * BLOCK);
    sequence_init(&c, 5000, TOKENS_MAX);
    run(&s, &c, 3 * BLOCK);
    begin(&s, s.c.everybody, &a, 3 * BLOCK + 9);
    publish(&s, s.c.everybody, &a, 3 * BLOCK + 9);
    EXPECT_INT(begin(&s, s.c.everybody, &b, 4 * BLOCK), 3 * BLOCK);
    publish(&s, s.c.everybody, &b, 3 * BLOCK + 20);
    prefix_cache_distrust(&s.c, &a.table);
    check(&s);
    EXPECT_INT(count_found(&s, &a, 4 * BLOCK), 0);
    EXPECT_INT(count_found(&s, &b, 4 * BLOCK), 0);
    EXPECT_INT(count_found(&s, &c, 3 * BLOCK), 3 * BLOCK);
    publish(&s, s.c.everybody, &b, 4 * BLOCK); // it doesn't know, and goes on
    EXPECT_INT(count_found(&s, &b, 4 * BLOCK), 0);
    prefix_cache_release(&s.c, &a.table);
    EXPECT(end(&s, &b) == NULL);
    EXPECT_INT(run(&s, &a, 2 * BLOCK), 0); // computed again, and sound
    EXPECT_INT(count_found(&s, &a, 4 * BLOCK), 2 * BLOCK);
    while (prefix_cache_evict(&s.c))
        check(&s);
    setup_deinit(&s);
}

static void test_groups(void)
{
    struct setup s;
    struct sequence a, b, stranger;
    setup_init(&s, 16, false, 0);
    EXPECT(prefix_cache_join(&s.c, 0, 0) == NULL);
    struct prefix_space *group = prefix_cache_join(&s.c, 7, 0),
                        *other = prefix_cache_join(&s.c, 8, 0);
    EXPECT(prefix_cache_join(&s.c, 7, 0) == group);
    sequence_init(&a, 0, TOKENS_MAX);
    sequence_init(&b, 0, TOKENS_MAX);
    sequence_init(&stranger, 0, TOKENS_MAX);
    begin(&s, group, &a, 100);
    publish(&s, group, &a, 100);
    EXPECT_INT(begin(&s, other, &stranger, 100), 0);
    publish(&s, other, &stranger, 100);
    end(&s, &a);
    prefix_cache_leave(&s.c, group);
    EXPECT_INT(begin(&s, group, &b, 100), 99); // one of the group is still to come
    end(&s, &b);
    EXPECT_INT(s.kv.count[KV_CACHED], 2);
    prefix_cache_leave(&s.c, group);
    EXPECT_INT(s.kv.count[KV_CACHED], 0);
    end(&s, &stranger);
    prefix_cache_leave(&s.c, other);
    setup_deinit(&s);
}

/* What was turned by other tables isn't found, whole blocks or tails, nor merged with. */
static void test_rope_sets(void)
{
    struct setup s;
    struct sequence a, b, c;
    setup_init(&s, 16, true, 0);
    struct prefix_space *one = prefix_cache_join(&s.c, 0, 0), *two = prefix_cache_join(&s.c, 0, 1);
    EXPECT(one != two && prefix_cache_join(&s.c, 9, 1) == two);
    sequence_init(&a, 0, TOKENS_MAX);
    sequence_init(&b, 0, TOKENS_MAX);
    sequence_init(&c, 0, TOKENS_MAX);
    begin(&s, one, &a, 2 * BLOCK + 9);
    EXPECT_INT(begin(&s, two, &b, 2 * BLOCK + 9), 0);
    publish(&s, one, &a, 2 * BLOCK + 9);
    publish(&s, two, &b, 2 * BLOCK + 9);
    EXPECT_INT(s.kv.count[KV_ACTIVE], 6);
    struct prefix_node *leaf = s.c.node_of[a.table.blocks[1]];
    EXPECT(leaf->hash != s.c.node_of[b.table.blocks[1]]->hash); // marks name blocks by it
    end(&s, &b);
    EXPECT_INT(begin(&s, two, &c, 2 * BLOCK + 9), 2 * BLOCK + 8);
    end(&s, &c);
    end(&s, &a);
    prefix_cache_leave(&s.c, one);
    prefix_cache_leave(&s.c, two);
    EXPECT_INT(s.kv.count[KV_CACHED], 6); // kept
    setup_deinit(&s);

    setup_init(&s, 4, false, 0); // one group
    one = prefix_cache_join(&s.c, 7, 0);
    two = prefix_cache_join(&s.c, 7, 1);
    EXPECT(one != two);
    prefix_cache_leave(&s.c, one);
    EXPECT(prefix_cache_join(&s.c, 7, 1) == two);
    prefix_cache_leave(&s.c, two);
    prefix_cache_leave(&s.c, two);
    setup_deinit(&s);
}

/* Where a session passes, an evicted page is copied first, and comes back when it is asked for. */
static void test_host_pages(void)
{
    struct setup s;
    struct sequence a, b;
    struct list session;
    setup_init(&s, 4, true, 2);
    sequence_init(&a, 0, TOKENS_MAX);
    sequence_init(&b, 5000, TOKENS_MAX);
    begin(&s, s.c.everybody, &a, 3 * BLOCK);
    publish(&s, s.c.everybody, &a, 3 * BLOCK);
    struct prefix_node *leaf = end(&s, &a);
    list_init(&session);
    list_push_back(&leaf->sessions, &session);
    prefix_cache_count_session(leaf, 1);
    EXPECT(prefix_cache_evict(&s.c));
    EXPECT(changed_node == leaf && changed_to == leaf && leaf->block < 0);
    EXPECT(prefix_cache_evict(&s.c));
    EXPECT_INT(s.c.host_used, 32);
    EXPECT_INT(s.c.moves.count, 2);
    EXPECT_INT(s.c.moves.move[0].kind, KV_MOVE_SAVE);
    check(&s);
    kv_moves_clear(&s.c.moves); // a batch has run
    EXPECT_INT(begin(&s, s.c.everybody, &a, 3 * BLOCK + 1), 3 * BLOCK);
    EXPECT_INT(s.c.moves.count, 2);
    EXPECT_INT(s.c.moves.move[0].kind, KV_MOVE_RESTORE);
    EXPECT_INT(s.c.host_used, 0);
    EXPECT(changed_to == leaf && leaf->block == a.table.blocks[2]);
    end(&s, &a);
    kv_moves_clear(&s.c.moves);

    run(&s, &b, 4 * BLOCK); // three of them evicted, room for two: the last one is gone
    EXPECT(changed_node == leaf && changed_to && changed_to != leaf);
    EXPECT_INT(count_found(&s, &a, 3 * BLOCK), 2 * BLOCK);
    EXPECT_INT(s.c.host_used, 32);
    setup_deinit(&s);
}

int main(void)
{
    RUN(test_found_to_the_token);
    RUN(test_equal_blocks_become_one);
    RUN(test_growing_tail_is_found);
    RUN(test_eviction_order);
    RUN(test_what_is_used_is_not_evicted);
    RUN(test_distrusted_is_never_found);
    RUN(test_groups);
    RUN(test_rope_sets);
    RUN(test_host_pages);
    return TEST_END();
}
