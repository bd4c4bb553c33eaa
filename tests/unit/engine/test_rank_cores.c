/* Cores of ranks, from made-up machines. */
#include "engine/rank_cores.h"

#include "tests/test.h"

#include <sys/stat.h>
#include <unistd.h>

static char root[64];

static void write_node_file(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/sys/devices/system/node/%s", root, name);
    FILE *f = fopen(path, "w");
    NEED(f);
    fputs(text, f);
    fclose(f);
}

static void make_folder(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s%s", root, name);
    NEED(mkdir(path, 0700) == 0);
}

/* Nodes 0 and 2 with four cores each, and one with memory only. */
static void make_machine(void)
{
    snprintf(root, sizeof root, "/tmp/lm_rank_cores_XXXXXX");
    NEED(mkdtemp(root));
    make_folder("/sys");
    make_folder("/sys/devices");
    make_folder("/sys/devices/system");
    make_folder("/sys/devices/system/node");
    make_folder("/sys/devices/system/node/node0");
    make_folder("/sys/devices/system/node/node1");
    make_folder("/sys/devices/system/node/node2");
    write_node_file("online", "0-2\n");
    write_node_file("node0/cpulist", "0-1,8-9\n");
    write_node_file("node1/cpulist", "\n");
    write_node_file("node2/cpulist", "2-3,10-11\n");
}

static void remove_machine(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", root);
    NEED(system(command) == 0);
}

static const int all[] = {0, 1, 2, 3, 8, 9, 10, 11};

static struct rank_cores out[8];

static void divide(int world, int threads, const char *cpu_list, const int *allowed, int count)
{
    struct rank_cores_request q = {world, threads, cpu_list, root, allowed, count};
    struct error err = {0};
    memset(out, 0x55, sizeof out);
    int rc = rank_cores_divide(&q, out, &err);
    if (rc < 0) printf("%s\n", err.text);
    EXPECT_INT(rc, 0);
}

static void expect(int rank, int threads, const char *cpu_list)
{
    EXPECT_INT(out[rank].threads, threads);
    EXPECT_STR(out[rank].cpu_list, cpu_list);
}

static void test_one_rank_gets_what_was_asked(void)
{
    divide(1, 0, NULL, all, 8);
    expect(0, 0, "");
    divide(1, 3, "4-6", all, 8);
    expect(0, 3, "4-6");
}

static void test_nodes(void)
{
    divide(2, 0, NULL, all, 8);
    expect(0, 0, "0,1,8,9");
    expect(1, 0, "2,3,10,11");
    divide(4, 0, NULL, all, 8);
    expect(0, 0, "0,1");
    expect(1, 0, "8,9");
    expect(3, 0, "10,11");
    divide(2, 5, NULL, all, 8);
    expect(0, 3, "0,1,8,9");
    expect(1, 2, "2,3,10,11");
    static const int few[] = {0, 1, 10}; // a container with some of the cores
    divide(2, 0, NULL, few, 3);
    expect(0, 0, "0,1");
    expect(1, 0, "10");
}

static void test_no_nodes_to_go_by(void)
{
    divide(3, 0, NULL, all, 8); // three ranks on two nodes
    expect(0, 3, "");
    expect(1, 3, "");
    expect(2, 2, "");
    static const int first_node[] = {0, 1, 8};
    divide(2, 0, NULL, first_node, 3);
    expect(0, 2, "");
    expect(1, 1, "");
    divide(4, 0, NULL, first_node, 1); // more ranks than cores
    expect(3, 1, "");
    static const int few[] = {0, 10};
    divide(4, 0, NULL, few, 2); // nodes with fewer cores than ranks
    expect(0, 1, "");
    divide(2, 7, NULL, first_node, 3);
    expect(0, 4, "");
    expect(1, 3, "");
}

static void test_list(void)
{
    divide(2, 0, "1-4, 7", all, 8);
    expect(0, 0, "1,2,3");
    expect(1, 0, "4,7");
    divide(2, 2, "1-4", all, 8);
    expect(0, 1, "1,2");
    expect(1, 1, "3,4");
    struct rank_cores_request q = {.world = 2, .cpu_list = "5"};
    struct error err;
    EXPECT_INT(rank_cores_divide(&q, out, &err), E_INVALID);
    EXPECT(strstr(err.text, "1 cores for 2 ranks"));
    q.cpu_list = "1-x";
    EXPECT_INT(rank_cores_divide(&q, out, &err), E_INVALID);
}

static void test_this_machine(void)
{
    struct rank_cores_request q = {.world = 2};
    struct error err;
    EXPECT_INT(rank_cores_divide(&q, out, &err), 0);
    EXPECT(out[0].threads > 0 || out[0].cpu_list[0]);
}

static bool take_all(int world, int threads, const char *cpu_list)
{
    struct rank_cores_request q = {world, threads, cpu_list, root, all, 8};
    divide(world, threads, cpu_list, all, 8);
    return rank_cores_take_all(&q, out);
}

static void test_cores_that_are_left(void)
{
    EXPECT(take_all(1, 0, NULL));
    EXPECT(take_all(1, 8, NULL));
    EXPECT(take_all(1, 9, NULL));
    EXPECT(!take_all(1, 7, NULL));
    EXPECT(take_all(1, 0, "0-3,8-11"));
    EXPECT(!take_all(1, 0, "0-3"));
    EXPECT(!take_all(1, 8, "0-3")); // two to a core
    EXPECT(!take_all(1, 7, "0-3,8-11"));
    EXPECT(take_all(2, 0, NULL)); // pinned to its node each
    EXPECT(take_all(3, 0, NULL));
    EXPECT(!take_all(3, 7, NULL));
    EXPECT(!take_all(2, 6, NULL));
    EXPECT(!take_all(2, 0, "0-3,8-10"));
}

int main(void)
{
    make_machine();
    RUN(test_one_rank_gets_what_was_asked);
    RUN(test_nodes);
    RUN(test_no_nodes_to_go_by);
    RUN(test_list);
    RUN(test_this_machine);
    RUN(test_cores_that_are_left);
    remove_machine();
    return TEST_END();
}
