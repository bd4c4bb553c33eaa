#include "agent/launcher_plan.h"

#include "agent/launcher_cores.h"
#include "tests/test.h"

static const int four_cores[] = {0, 2, 1, 3}; // two NUMA nodes of two

struct planned {
    struct agent_config config;
    struct launcher_plan plan;
    struct error err;
    int rc;
};

/* `visible`: CUDA_VISIBLE_DEVICES. */
static void make(struct planned *p, const char *visible, const char *const *args)
{
    char *argv[16] = {(char *)"lm-agent", (char *)"m.gguf"};
    int argc = 2;
    for (; args[argc - 2]; argc++)
        argv[argc] = (char *)args[argc - 2];
    *p = (struct planned){0};
    NEED(agent_config_parse(argc, argv, &p->config, &p->err) == CONFIG_RUN);
    NEED(agent_config_is_launcher(&p->config));
    struct launcher_input input = {.config = &p->config,
                                   .visible_devices = visible,
                                   .device_order = visible ? "FASTEST_FIRST" : NULL,
                                   .cores = four_cores,
                                   .core_count = 4};
    p->rc = launcher_plan_init(&p->plan, &input, &p->err);
}

static void drop(struct planned *p)
{
    launcher_plan_deinit(&p->plan);
    agent_config_deinit(&p->config);
}

#define MAKE(p, visible, ...) make(p, visible, (const char *const[]){__VA_ARGS__, NULL})

static void expect_texts(char *const *texts, const char *joined)
{
    struct buf all;
    buf_init(&all, BUF_MAX_INTERNAL);
    for (size_t i = 0; texts[i]; i++)
        buf_printf(&all, i > 0 ? " %s" : "%s", texts[i]);
    EXPECT_STR(all.len ? all.data : "", joined);
    buf_deinit(&all);
}

static void test_gpu_groups(void)
{
    static const struct {
        const char *name, *devices;
        int port;
    } rows[] = {{"gpu0", "0,1", 23333},
                {"gpu2", "2,3", 23353},
                {"gpu4", "4,5", 23373},
                {"gpu6", "6,7", 23393}};
    struct planned p;
    MAKE(&p, NULL, "--gpus", "0-7", "--tp", "2", "--replicas", "4");
    NEED(p.rc == 0 && p.plan.count == 4);
    for (size_t i = 0; i < 4; i++) {
        const struct launcher_replica *r = &p.plan.replicas[i];
        char environment[128], arguments[128];
        snprintf(environment, sizeof environment,
                 "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=%s", rows[i].devices);
        snprintf(arguments, sizeof arguments, "--replica=%s --server-port=%d --device=cuda",
                 rows[i].name, rows[i].port);
        EXPECT_STR(r->name, rows[i].name);
        EXPECT_INT(r->port, rows[i].port);
        expect_texts(r->environment, environment);
        expect_texts(r->arguments, arguments);
    }
    drop(&p);

    MAKE(&p, NULL, "--gpus", "3,1", "--server-port", "8000"); // as many as there are, in this order
    NEED(p.rc == 0 && p.plan.count == 2);
    EXPECT_STR(p.plan.replicas[0].name, "gpu3");
    EXPECT_INT(p.plan.replicas[0].port, 8030);
    EXPECT_INT(p.plan.replicas[1].port, 8010);
    drop(&p);
}

/* --gpus counts what the launcher was given, by whatever names. */
static void test_visible_devices(void)
{
    struct planned p;
    MAKE(&p, "GPU-aa, GPU-bb,7", "--gpus", "0-1,2", "--ports", "9000-9001,80");
    NEED(p.rc == 0 && p.plan.count == 3);
    expect_texts(p.plan.replicas[0].environment, "CUDA_VISIBLE_DEVICES=GPU-aa");
    expect_texts(p.plan.replicas[1].environment, "CUDA_VISIBLE_DEVICES=GPU-bb");
    expect_texts(p.plan.replicas[2].environment, "CUDA_VISIBLE_DEVICES=7");
    EXPECT_INT(p.plan.replicas[1].port, 9001);
    EXPECT_INT(p.plan.replicas[2].port, 80);
    drop(&p);
    MAKE(&p, "4,5", "--gpus", "2");
    EXPECT_INT(p.rc, E_INVALID);
    EXPECT(strstr(p.err.text, "there is no GPU 2 in CUDA_VISIBLE_DEVICES='4,5'") != NULL);
    drop(&p);
    MAKE(&p, "", "--gpus", "0");
    EXPECT_INT(p.rc, E_INVALID);
    drop(&p);
}

static void test_cores(void)
{
    struct planned p;
    MAKE(&p, NULL, "--replicas", "2");
    NEED(p.rc == 0 && p.plan.count == 2);
    expect_texts(p.plan.replicas[0].arguments,
                 "--replica=cpu0 --server-port=23333 --device=cpu --cpu-list=0,2 "
                 "--cache-max-entry-count=0.4000");
    expect_texts(p.plan.replicas[1].arguments,
                 "--replica=cpu1 --server-port=23343 --device=cpu --cpu-list=1,3 "
                 "--cache-max-entry-count=0.4000");
    EXPECT(!p.plan.replicas[0].environment[0]);
    drop(&p);
    MAKE(&p, NULL, "--replicas", "2", "--cpu-list", "8-10,20,30");
    NEED(p.rc == 0);
    EXPECT_STR(p.plan.replicas[0].arguments[3], "--cpu-list=8-9");
    EXPECT_STR(p.plan.replicas[1].arguments[3], "--cpu-list=10,20,30");
    drop(&p);
    MAKE(&p, NULL, "--replicas", "5"); // more than cores: nobody is pinned
    NEED(p.rc == 0);
    EXPECT_STR(p.plan.replicas[4].arguments[3], "--threads=1");
    drop(&p);
    MAKE(&p, NULL, "--replicas", "2", "--tp", "2"); // a core for each rank
    NEED(p.rc == 0);
    EXPECT_STR(p.plan.replicas[1].arguments[3], "--cpu-list=1,3");
    drop(&p);
    MAKE(&p, NULL, "--replicas", "2", "--tp", "3");
    NEED(p.rc == 0);
    EXPECT_STR(p.plan.replicas[1].arguments[3], "--threads=3");
    drop(&p);
    MAKE(&p, NULL, "--replicas", "5", "--threads", "2");
    NEED(p.rc == 0);
    EXPECT_STR(p.plan.replicas[4].arguments[3], "--cache-max-entry-count=0.1600");
    drop(&p);
    MAKE(&p, NULL, "--replicas", "1"); // all of the machine, supervised
    NEED(p.rc == 0 && p.plan.count == 1);
    expect_texts(p.plan.replicas[0].arguments,
                 "--replica=cpu0 --server-port=23333 --device=cpu --cpu-list=0,2,1,3");
    drop(&p);
    MAKE(&p, NULL, "--gpus", "0,1", "--cpu-list", "0-7"); // GPUs have memory of their own
    NEED(p.rc == 0);
    expect_texts(p.plan.replicas[1].arguments,
                 "--replica=gpu1 --server-port=23343 --device=cuda --cpu-list=4-7");
    drop(&p);
}

static void test_identity(void)
{
    struct planned p;
    MAKE(&p, NULL, "--gpus", "0,1", "--agent-id", "node-7", "--session-dir", "/var/s");
    NEED(p.rc == 0);
    expect_texts(p.plan.replicas[1].arguments,
                 "--replica=gpu1 --server-port=23343 --device=cuda --agent-id=node-7-gpu1 "
                 "--session-dir=/var/s/gpu1");
    drop(&p);
    MAKE(&p, NULL, "--gpus", "0,1", "--tp", "2", "--agent-id", "node-7", "--advertise", "h:1");
    NEED(p.rc == 0 && p.plan.count == 1); // it has the name for itself
    expect_texts(p.plan.replicas[0].arguments, "--replica=gpu0 --server-port=23333 --device=cuda");
    drop(&p);
}

static void test_refusals(void)
{
    static const struct {
        const char *args[6], *why;
    } rows[] = {
        {{"--gpus", "0-7", "--tp", "2", "--replicas=3"}, "--replicas 3 of --tp 2 take 6 GPUs"},
        {{"--gpus", "0-7", "--tp", "3"}, "cannot be divided into groups of --tp 3"},
        {{"--gpus", "0-3,2"}, "--gpus: 2 stands there twice"},
        {{"--gpus", "0-"}, "--gpus: '0-' is not a list"},
        {{"--gpus", "3-1"}, "--gpus: '3-1' is not a list"},
        {{"--gpus", "-1"}, "--gpus: '-1' is not a list"},
        {{"--gpus", "0,,1"}, "--gpus: '0,,1' is not a list"},
        {{"--gpus", "0-4095"}, "of at most 1024 numbers, 0 to 4095"},
        {{"--gpus", "0-299"}, "300 replicas; the limit is 256"},
        {{"--gpus="}, "--gpus names no GPU"},
        {{"--gpus", "0", "--device", "cpu"}, "--gpus makes no sense with --device cpu"},
        {{"--replicas", "2", "--device", "cuda"}, "say with --gpus which"},
        {{"--gpus", "0-3", "--ports", "1-3"}, "--ports names 3 ports for 4 replicas"},
        {{"--replicas", "2", "--ports", "7,7"}, "--ports: 7 stands there twice"},
        {{"--replicas", "2", "--ports", "0-1"}, "port 0 of replica 0 is not within 1 to 65535"},
        {{"--replicas", "1", "--ports", "65536"}, "--ports: '65536' is not a list"},
        {{"--gpus", "0-7", "--server-port", "65500"}, "port 65540 of replica 4 is not within"},
        {{"--replicas", "2", "--server-port", "0"}, "--server-port 0 picks any port"},
        {{"--replicas", "2", "--advertise", "h:5"}, "leave the port out"},
        {{"--replicas", "3", "--cpu-list", "0,1"}, "--cpu-list names 2 cores"},
        {{"--gpus", "4096"}, "--gpus: '4096' is not a list"},
        {{"--replicas", "2", "--tp", "2", "--cpu-list=0-2"}, "too few for 2 replicas of --tp 2"},
        {{"--replicas", "2", "--cpu-list", "0,0"}, "--cpu-list: 0 stands there twice"},
        {{"--replicas", "2", "--agent-id",
          "a-name-of-60-letters-0123456789-0123456789-0123456789-01234"},
         "leaves no room for '-cpu0'"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct planned p;
        make(&p, NULL, rows[i].args);
        EXPECT_INT(p.rc, E_INVALID);
        EXPECT(strstr(p.err.text, rows[i].why) != NULL);
        if (!strstr(p.err.text, rows[i].why)) printf("row %zu: '%s'\n", i, p.err.text);
        drop(&p);
    }
}

/* What is added stands where it counts, and a variable is there once. */
static void test_command(void)
{
    struct planned p;
    char *given[] = {(char *)"lm-agent", (char *)"--gpus", (char *)"0,1",
                     (char *)"--",       (char *)"m.gguf", NULL};
    char *environment[] = {(char *)"A=1", (char *)"CUDA_VISIBLE_DEVICES=0,1",
                           (char *)"CUDA_VISIBLE_DEVICES_OLD=2", NULL};
    MAKE(&p, NULL, "--gpus", "0,1");
    NEED(p.rc == 0);
    char **argv = launcher_plan_argv(&p.plan.replicas[1], given);
    expect_texts(argv,
                 "lm-agent --gpus 0,1 --replica=gpu1 --server-port=23343 --device=cuda -- m.gguf");
    struct agent_config child = {0};
    struct error err;
    argv[5] = (char *)"--device=cpu"; // CUDA isn't in every build
    NEED(agent_config_parse(8, argv, &child, &err) == CONFIG_RUN);
    EXPECT(!agent_config_is_launcher(&child));
    EXPECT_INT(child.server_port, 23343);
    agent_config_deinit(&child);
    free(argv);
    char **all = launcher_plan_environment(&p.plan.replicas[1], environment);
    expect_texts(all, "A=1 CUDA_VISIBLE_DEVICES_OLD=2 CUDA_DEVICE_ORDER=PCI_BUS_ID "
                      "CUDA_VISIBLE_DEVICES=1");
    free(all);
    drop(&p);
}

/* The least share of memory that is given is one that an agent takes. */
static void test_least_share(void)
{
    struct planned p;
    MAKE(&p, NULL, "--replicas", "4", "--cache-max-entry-count", "0.002");
    NEED(p.rc == 0);
    EXPECT_STR(p.plan.replicas[0].arguments[4], "--cache-max-entry-count=0.0010");
    drop(&p);
}

static void test_core_order(void)
{
    // Two nodes, two cores each, two threads a core, numbered as Linux likes to.
    struct core_place places[] = {{0, 0, 0}, {1, 1, 1}, {2, 0, 2}, {3, 1, 3},
                                  {4, 0, 0}, {5, 1, 1}, {6, 0, 2}, {7, 1, 3}};
    static const int want[] = {0, 4, 2, 6, 1, 5, 3, 7};
    int cores[LAUNCHER_CORES_MAX];
    launcher_cores_sort(places, 8);
    for (size_t i = 0; i < 8; i++)
        EXPECT_INT(places[i].cpu, want[i]);
    EXPECT(launcher_cores_read(cores) >= 1);
}

int main(void)
{
    RUN(test_gpu_groups);
    RUN(test_visible_devices);
    RUN(test_cores);
    RUN(test_identity);
    RUN(test_refusals);
    RUN(test_command);
    RUN(test_least_share);
    RUN(test_core_order);
    return TEST_END();
}
