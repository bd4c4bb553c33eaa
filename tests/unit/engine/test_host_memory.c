#include "engine/host_memory.h"

#include "tests/test.h"

#include <sys/stat.h>

static char root[] = "/tmp/test_host_memory_XXXXXX";

/* Write text to root + path, with the folders that it needs. */
static void put(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *at = full + strlen(root) + 1; (at = strchr(at, '/')); at++) {
        *at = 0;
        mkdir(full, 0700);
        *at = '/';
    }
    FILE *f = fopen(full, "w");
    NEED(f != NULL);
    fputs(text, f);
    fclose(f);
}

#define MEMINFO "MemTotal:  8000 kB\nMemFree:  10 kB\nMemAvailable:    4096 kB\nBuffers: 1 kB\n"

static void test_without_groups(void)
{
    EXPECT_INT(host_memory_available_under(root), 0);
    put("/proc/meminfo", MEMINFO);
    EXPECT_INT(host_memory_available_under(root), 4096 * 1024);
}

static void test_version_2(void)
{
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    put("/sys/fs/cgroup/a/b/memory.current", "500\n");
    EXPECT_INT(host_memory_available_under(root), 4096 * 1024);
    /* The limit of a group above holds too; cache that can be dropped isn't used up. */
    put("/sys/fs/cgroup/a/memory.max", "100000\n");
    put("/sys/fs/cgroup/a/memory.current", "60000\n");
    EXPECT_INT(host_memory_available_under(root), 40000);
    put("/sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 20000\nfile 3\n");
    EXPECT_INT(host_memory_available_under(root), 60000);
    put("/sys/fs/cgroup/a/b/memory.max", "400\n");
    EXPECT_INT(host_memory_available_under(root), 0); // above its limit already
}

static void test_version_1(void)
{
    put("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/c\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "70000\n"); // a container sees its own as /
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "50000\n");
    put("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file 1000\n");
    EXPECT_INT(host_memory_available_under(root), 21000);
}

static void test_this_machine(void)
{
    EXPECT(host_memory_available() > 1 << 20);
}

int main(void)
{
    NEED(mkdtemp(root) != NULL);
    RUN(test_without_groups);
    RUN(test_version_2);
    RUN(test_version_1);
    RUN(test_this_machine);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", root);
    NEED(system(command) == 0);
    return TEST_END();
}
