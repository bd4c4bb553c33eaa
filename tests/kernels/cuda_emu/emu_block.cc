/* emu_block.cc - one block at a time: fibers, who runs next, barriers, warp operations.
 *
 *     READY --resume--> running --barrier()--> AT_BARRIER --all there--> READY
 *                          |----warp_meet()--> AT_MEETING --all there--> READY
 *                          |----poll()-------> POLLING --nobody is ready--> READY
 *                          '----returns------> DONE
 *
 *  1. A fiber runs until it waits or returns; the scheduler then picks the next ready one by order.
 *     Forward and reverse always pick the lowest, or highest, ready thread: a warp runs ahead of the
 *     others as far as synchronisation lets it.
 *  2. The last thread to arrive at a meeting applies the operation and goes on.
 *  3. Threads that returned count as arrived, as the PTX ISA says of barriers and .sync operations,
 *     except where an instruction is .aligned.
 *  4. Nothing ready and someone left: a deadlock, printed with each place where threads wait.
 *  5. A grid launched with PDL runs behind its predecessor all the same. All of its threads must call
 *     pdl_wait(): otherwise it could end before that, and a third grid, which waits for this one only,
 *     would be too early. What threads touch before they wait, the race hooks compare.
 *  6. Blocks run one after another, but one in which nobody can go on but threads that poll lets the next
 *     begin, up to one for each multiprocessor. When those poll too, the grid stands: whoever runs the stream
 *     goes on, and comes back. So kernels of two devices can wait for each other. */
#include "tests/kernels/cuda_emu/cuda_emu.cuh"

#include <memory>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <thread>
#include <vector>

#include "tests/kernels/cuda_emu/emu_block.cuh"
#include "tests/kernels/cuda_emu/emu_fiber.h"
#include "tests/kernels/cuda_emu/emu_sanitizer.h"

namespace emu
{

enum {
    THREADS_MAX = 1024,
    WARPS_MAX = THREADS_MAX / 32,
    BARRIERS = 16,
    STACK_BYTES = 128 << 10,
    GUARD_BYTES = 4 << 10,
    MEETINGS_PER_WARP = 8, // with different masks, open at once
    POLLS_EAGER = 8,       // rounds of a block's polling threads before others may run
};

enum fiber_state { READY, AT_BARRIER, AT_MEETING, POLLING, DONE };

struct thread_fiber : thread_context {
    emu_fiber context;
    char *stack;
    void *asan_stack;
    fiber_state state;
    place where; // it waits
    unsigned barrier_id;
    cp_async_queue copies;
};

struct meeting { // of lanes of one warp
    const warp_operation *operation;
    unsigned mask, arrived; // mask 0: free
    void *arguments[32];
};

struct named_barrier {
    unsigned arrived;                 // threads, since it last opened
    unsigned needed;                  // 0: all
    uint32_t participants[WARPS_MAX]; // lanes, for the race hooks
};

struct block_runner {
    block_runner();
    ~block_runner();

    std::vector<std::unique_ptr<thread_fiber>> fibers; // made once, [threads] in use
    unsigned threads = 0, live = 0;
    unsigned polling = 0; // threads
    uint64_t block = 0;   // of the grid
    uint3 index = {};
    uint32_t ready[WARPS_MAX] = {}, alive[WARPS_MAX] = {};
    meeting meetings[WARPS_MAX][MEETINGS_PER_WARP] = {};
    named_barrier barriers[BARRIERS] = {};
    int votes[2] = {}; // of __syncthreads_or and its like
    thread_fiber *running = nullptr;
    const std::function<void()> *body = nullptr;
    const char *kernel = nullptr; // NULL: none runs
    bool pdl = false;             // its threads must wait
    uint64_t random = 0;
    shared_arena shared;
    char *stacks; // of all fibers, each above a guard page
    emu_fiber scheduler = {};
    void *asan_stack = nullptr;      // of the scheduler
    const void *stack_low = nullptr; // the scheduler's own stack, as ASan tells
    size_t stack_bytes = 0;
};

constinit thread_local thread_context *current = nullptr;
constinit thread_local uint3 block_index = {};
constinit thread_local dim3 block_size, grid_size;
const race_hooks *hooks = nullptr;

static thread_local std::vector<std::unique_ptr<block_runner>> free_runners;
static constinit thread_local block_runner *runner = nullptr;

/* ---- settings ---- */

static struct settings {
    bool given = false;
    thread_order order = ORDER_FORWARD;
    uint64_t seed = 1;
} settings;

void configure(thread_order order, uint64_t seed)
{
    settings.given = true;
    settings.order = order;
    settings.seed = seed;
}

static void settings_from_environment(void)
{
    if (settings.given) return;
    settings.given = true;
    const char *order = getenv("LM_CUDA_EMU_ORDER"), *seed = getenv("LM_CUDA_EMU_SEED");
    if (seed) settings.seed = strtoull(seed, nullptr, 10);
    if (!order || !strcmp(order, "forward"))
        settings.order = ORDER_FORWARD;
    else if (!strcmp(order, "reverse"))
        settings.order = ORDER_REVERSE;
    else if (!strcmp(order, "random"))
        settings.order = ORDER_RANDOM;
    else
        fail("LM_CUDA_EMU_ORDER is '%s'; forward, reverse and random exist", order);
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u; // splitmix64
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* ---- failing ---- */

void fail(const char *format, ...)
{
    fprintf(stderr, "cuda_emu: ");
    if (runner && runner->kernel && current)
        fprintf(stderr, "%s, block (%u,%u,%u), thread (%u,%u,%u): ", runner->kernel, block_index.x,
                block_index.y, block_index.z, current->index.x, current->index.y, current->index.z);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    abort();
}

static void fail_deadlock(void)
{
    static const char *const states[] = {"ready", "at a barrier", "in a warp operation", "polling",
                                         "returned"};
    fprintf(stderr, "cuda_emu: %s, block (%u,%u,%u): deadlock:\n", runner->kernel, block_index.x,
            block_index.y, block_index.z);
    for (unsigned t = 0; t < runner->threads;) {
        const thread_fiber *f = runner->fibers[t].get();
        unsigned end = t + 1;
        while (end < runner->threads && runner->fibers[end]->state == f->state &&
               runner->fibers[end]->where.line() == f->where.line())
            end++;
        if (f->state == DONE)
            fprintf(stderr, "    threads %u to %u: returned\n", t, end - 1);
        else
            fprintf(stderr, "    threads %u to %u: %s, %s:%u\n", t, end - 1, states[f->state],
                    f->where.file_name(), (unsigned)f->where.line());
        t = end;
    }
    abort();
}

/* ---- switching ---- */

static void set_ready(thread_fiber *f)
{
    f->state = READY;
    runner->ready[f->warp] |= 1u << f->lane;
}

static void to_scheduler(thread_fiber *f)
{
    sanitizer_leave(f->state == DONE ? nullptr : &f->asan_stack, runner->stack_low,
                    runner->stack_bytes);
    emu_fiber_switch(&f->context, &runner->scheduler);
    sanitizer_enter(f->asan_stack, &runner->stack_low, &runner->stack_bytes);
}

static void wait_as(thread_fiber *f, fiber_state state, place where)
{
    f->state = state;
    f->where = where;
    to_scheduler(f);
}

void poll(place where)
{
    if (!current) return; // the host calls what kernels call
    runner->polling++;
    wait_as(runner->running, POLLING, where);
}

unsigned next_turn(void)
{
    static thread_local unsigned turn = 0;
    return turn++;
}

/* Those that polled poll again. */
static void poll_again(void)
{
    runner->polling = 0;
    for (unsigned t = 0; t < runner->threads; t++)
        if (runner->fibers[t]->state == POLLING) set_ready(runner->fibers[t].get());
}

static void meetings_after_return(thread_fiber *f);
static void barriers_after_return(void);

static void fiber_main(void)
{
    sanitizer_enter(nullptr, &runner->stack_low, &runner->stack_bytes);
    (*runner->body)();
    thread_fiber *f = runner->running;
    if (!f->waited) fail("launched with PDL, this thread ends without pdl_wait()");
    f->state = DONE;
    runner->live--;
    runner->alive[f->warp] &= ~(1u << f->lane);
    meetings_after_return(f);
    barriers_after_return();
    to_scheduler(f);
    abort(); // nobody resumes a fiber that is done
}

static void resume(thread_fiber *f)
{
    runner->ready[f->warp] &= ~(1u << f->lane);
    runner->running = f;
    current = f;
    sanitizer_leave(&runner->asan_stack, f->stack, STACK_BYTES);
    emu_fiber_switch(&runner->scheduler, &f->context);
    sanitizer_enter(runner->asan_stack, nullptr, nullptr);
    current = nullptr;
}

/* Index of the thread to run next, or -1. */
static int pick(void)
{
    unsigned warps = (runner->threads + 31) / 32;
    if (settings.order == ORDER_REVERSE) {
        for (unsigned w = warps; w-- > 0;)
            if (runner->ready[w])
                return (int)(w * 32 + 31 - (unsigned)__builtin_clz(runner->ready[w]));
        return -1;
    }
    unsigned start = 0;
    uint64_t r = 0;
    if (settings.order == ORDER_RANDOM) {
        r = next_random(&runner->random);
        start = (unsigned)(r >> 8) % warps;
    }
    for (unsigned i = 0, w = start; i < warps; i++, w = w + 1 < warps ? w + 1 : 0) {
        unsigned turn = (unsigned)r & 31u;
        if (!runner->ready[w]) continue;
        uint32_t turned =
            turn ? runner->ready[w] >> turn | runner->ready[w] << (32 - turn) : runner->ready[w];
        return (int)(w * 32 + (((unsigned)__builtin_ctz(turned) + turn) & 31u));
    }
    return -1;
}

/* ---- barriers ---- */

static unsigned threads_needed(const named_barrier *b)
{
    return b->needed ? b->needed : runner->live;
}

static void open_if_full(unsigned id)
{
    named_barrier *b = &runner->barriers[id];
    if (!b->arrived || b->arrived < threads_needed(b)) return;
    unsigned warps = (runner->threads + 31) / 32;
    if (hooks) hooks->barrier(b->participants, warps);
    for (unsigned t = 0; t < runner->threads; t++) {
        thread_fiber *f = runner->fibers[t].get();
        if (f->state == AT_BARRIER && f->barrier_id == id) set_ready(f);
    }
    *b = named_barrier{};
}

static void check_same_place(const thread_fiber *f, unsigned id, place where)
{
    for (unsigned lane = 0; lane < 32 && f->warp * 32 + lane < runner->threads; lane++) {
        const thread_fiber *other = runner->fibers[f->warp * 32 + lane].get();
        if (other->state == AT_BARRIER && other->barrier_id == id &&
            other->where.line() != where.line())
            fail("lanes of one warp meet at barrier %u from %s:%u and from %s:%u", id,
                 where.file_name(), (unsigned)where.line(), other->where.file_name(),
                 (unsigned)other->where.line());
    }
}

void barrier(unsigned id, unsigned threads, bool wait, place where)
{
    if (id >= BARRIERS) fail("barrier %u: there are %u", id, (unsigned)BARRIERS);
    if (threads % 32 || threads > (runner->threads + 31) / 32 * 32)
        fail("barrier %u: %u threads; whole warps of the block are counted", id, threads);
    thread_fiber *f = runner->running;
    named_barrier *b = &runner->barriers[id];
    if (b->arrived && b->needed != threads)
        fail("barrier %u: this thread waits for %u threads, others for %u", id, threads, b->needed);
    check_same_place(f, id, where);
    b->needed = threads;
    b->arrived++;
    b->participants[f->warp] |= 1u << f->lane;
    f->barrier_id = id;
    if (wait) {
        f->state = AT_BARRIER; // before it may open
        f->where = where;
    }
    open_if_full(id);
    if (wait) to_scheduler(f);
}

static void barriers_after_return(void)
{
    for (unsigned id = 0; id < BARRIERS; id++)
        if (runner->barriers[id].arrived && runner->live) open_if_full(id);
}

static int barrier_vote(int predicate, place where)
{
    int *votes = runner->votes;
    barrier(0, 0, true, where);
    votes[0] = votes[1] = 0;
    barrier(0, 0, true, where);
    votes[predicate != 0]++;
    barrier(0, 0, true, where);
    return votes[1];
}

/* ---- meetings of a warp ---- */

static meeting *find_meeting(unsigned warp, unsigned mask)
{
    meeting *free_one = nullptr;
    for (meeting &m : runner->meetings[warp]) {
        if (m.mask == mask) return &m;
        if (!m.mask && !free_one) free_one = &m;
    }
    if (!free_one)
        fail("more than %u masks of one warp in use at once", (unsigned)MEETINGS_PER_WARP);
    *free_one = meeting{};
    free_one->mask = mask;
    return free_one;
}

static bool hold_if_full(unsigned warp, meeting *m)
{
    unsigned wanted = m->mask & runner->alive[warp];
    if (!m->arrived || m->arrived != wanted) return false;
    if (m->operation->aligned && wanted != ~0u)
        fail("%s wants all 32 lanes of a warp; there are %08x", m->operation->name, wanted);
    m->operation->apply(m->arguments, wanted);
    if (m->operation->orders_memory && hooks) hooks->syncwarp(warp);
    for (unsigned lane = 0; lane < 32; lane++)
        if (wanted >> lane & 1u) {
            thread_fiber *f = runner->fibers[warp * 32 + lane].get();
            if (f != runner->running) set_ready(f);
        }
    m->mask = 0;
    return true;
}

void warp_meet(unsigned mask, void *argument, const warp_operation *operation, place where)
{
    thread_fiber *f = runner->running;
    if (!(mask >> f->lane & 1u))
        fail("%s: lane %u is not in its own mask %08x", operation->name, f->lane, mask);
    meeting *m = find_meeting(f->warp, mask);
    if (m->operation && m->operation != operation)
        fail("lanes of one warp meet in %s and in %s, mask %08x", m->operation->name,
             operation->name, mask);
    m->operation = operation;
    m->arguments[f->lane] = argument;
    m->arrived |= 1u << f->lane;
    if (!hold_if_full(f->warp, m)) wait_as(f, AT_MEETING, where);
}

static void meetings_after_return(thread_fiber *f)
{
    for (meeting &m : runner->meetings[f->warp])
        if (m.mask) hold_if_full(f->warp, &m);
}

/* ---- shared memory and cp.async of the running thread ---- */

void *shared_static(const void *tag, size_t bytes, size_t align)
{
    return runner->shared.find_or_add(tag, bytes, align);
}

void *shared_dynamic(void)
{
    return runner->shared.dynamic();
}

void shared_check(const void *at, size_t bytes, place where)
{
    runner->shared.check(at, bytes, where);
}

void cp_async(void *to_shared, const void *from, unsigned bytes, unsigned valid, place where)
{
    runner->shared.check(to_shared, bytes, where);
    runner->running->copies.add(to_shared, from, bytes, valid, where);
}

void cp_async_commit(void)
{
    runner->running->copies.commit();
}

void cp_async_wait(unsigned pending_groups)
{
    runner->running->copies.wait(pending_groups);
}

/* ---- grids ---- */

enum { STACKS_BYTES = THREADS_MAX * (STACK_BYTES + GUARD_BYTES) };

block_runner::block_runner()
{
    void *memory = mmap(nullptr, STACKS_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("cuda_emu: stacks");
        abort();
    }
    stacks = (char *)memory;
}

block_runner::~block_runner()
{
    sanitizer_unpoison(stacks, STACKS_BYTES);
    munmap(stacks, STACKS_BYTES);
}

bool on_fiber_stack(const void *at)
{
    return runner && (uintptr_t)at - (uintptr_t)runner->stacks < STACKS_BYTES;
}

static thread_fiber *make_fiber(void)
{
    auto *f = new thread_fiber();
    char *memory = runner->stacks + runner->fibers.size() * (STACK_BYTES + GUARD_BYTES);
    if (mprotect(memory, GUARD_BYTES, PROT_NONE)) {
        perror("cuda_emu: a stack's guard");
        abort();
    }
    f->stack = memory + GUARD_BYTES;
    return f;
}

/* Stacks that all began at the same place of a page would share a few lines of the cache. */
static unsigned stack_offset(unsigned thread)
{
    return thread * 9 % 64 * 64;
}

static void begin_block(unsigned threads, size_t dynamic_bytes)
{
    runner->threads = runner->live = threads;
    runner->polling = 0;
    memset(runner->ready, 0, sizeof runner->ready);
    memset(runner->alive, 0, sizeof runner->alive);
    memset(runner->barriers, 0, sizeof runner->barriers);
    for (unsigned w = 0; w < WARPS_MAX; w++)
        for (meeting &m : runner->meetings[w])
            m.mask = 0;
    runner->shared.reset(dynamic_bytes);
    while (runner->fibers.size() < threads)
        runner->fibers.emplace_back(make_fiber());
    for (unsigned t = 0; t < threads; t++) {
        thread_fiber *f = runner->fibers[t].get();
        f->index = {t % block_size.x, t / block_size.x % block_size.y,
                    t / (block_size.x * block_size.y)};
        f->lane = t % 32;
        f->warp = t / 32;
        f->waited = !runner->pdl;
        f->asan_stack = nullptr;
        f->where = place();
        f->copies.clear();
        emu_fiber_prepare(&f->context, f->stack, STACK_BYTES - stack_offset(t), fiber_main);
        runner->alive[f->warp] |= 1u << f->lane;
        set_ready(f);
    }
}

/* False: all that can go on poll, and have for some rounds. */
static bool run_block(void)
{
    for (unsigned rounds = 0; runner->live;) {
        int next = pick();
        if (next >= 0) {
            resume(runner->fibers[(unsigned)next].get());
            continue;
        }
        if (!runner->polling) fail_deadlock();
        poll_again();
        if (++rounds > POLLS_EAGER) return false;
        sched_yield();
    }
    return true;
}

void pdl_wait(void)
{
    runner->running->waited = true;
}

void end_of_overlap(void)
{
    if (hooks) hooks->end_of_overlap();
}

/* ---- a grid that may stand ---- */

grid::grid(const char *kernel, dim3 blocks, dim3 threads, size_t dynamic_bytes, bool pdl,
           std::function<void()> body)
    : kernel_(kernel), blocks_(blocks), threads_(threads), dynamic_bytes_(dynamic_bytes), pdl_(pdl),
      body_(std::move(body))
{
}

static constinit thread_local const grid *standing_grid = nullptr;

grid::~grid()
{
    if (standing_grid == this) standing_grid = nullptr;
}

void grid::begin()
{
    settings_from_environment();
    uint64_t threads = (uint64_t)threads_.x * threads_.y * threads_.z;
    count_ = (uint64_t)blocks_.x * blocks_.y * blocks_.z;
    if (!threads || threads > THREADS_MAX || threads_.z > 64 || !count_ ||
        blocks_.x > 0x7fffffffu || blocks_.y > 65535 || blocks_.z > 65535)
        fail("%s: bad launch: grid %u x %u x %u, block %u x %u x %u", kernel_, blocks_.x, blocks_.y,
             blocks_.z, threads_.x, threads_.y, threads_.z);
    const char *processors = getenv("LM_CUDA_EMU_SM");
    resident_max_ = processors ? strtoul(processors, nullptr, 10) : 8;
    if (hooks) hooks->begin_grid(kernel_, pdl_);
    random_ = settings.seed;
    shift_ = settings.order == ORDER_RANDOM ? next_random(&random_) % count_ : 0;
    next_ = 0;
    begun_ = true;
    begun_by_ = std::this_thread::get_id();
}

void grid::enter(block_runner *r) const
{
    runner = r;
    block_index = r->index;
    block_size = threads_;
    grid_size = blocks_;
}

/* Its first threads run; where they only poll it stays among the standing. */
void grid::begin_next()
{
    if (free_runners.empty()) free_runners.push_back(std::make_unique<block_runner>());
    std::unique_ptr<block_runner> r = std::move(free_runners.back());
    free_runners.pop_back();
    uint64_t i = next_++;
    uint64_t b = settings.order == ORDER_REVERSE ? count_ - 1 - i : (i + shift_) % count_;
    r->block = b;
    r->index = {(unsigned)(b % blocks_.x), (unsigned)(b / blocks_.x % blocks_.y),
                (unsigned)(b / blocks_.x / blocks_.y)};
    r->kernel = kernel_;
    r->body = &body_;
    r->pdl = pdl_;
    r->random = random_;
    enter(r.get());
    begin_block(threads_.x * threads_.y * threads_.z, dynamic_bytes_);
    if (hooks) hooks->begin_block(b, r->shared.base(), r->shared.capacity());
    standing_.push_back(std::move(r));
    bool done = run_block();
    random_ = runner->random;
    if (done) leave(standing_.size() - 1);
}

void grid::leave(size_t standing)
{
    if (hooks) hooks->end_block(standing_[standing]->block);
    standing_[standing]->kernel = nullptr;
    free_runners.push_back(std::move(standing_[standing]));
    standing_.erase(standing_.begin() + (long)standing);
}

bool grid::go_on()
{
    if (runner) fail("a kernel launches a kernel");
    if (begun_ && begun_by_ != std::this_thread::get_id()) return false;
    if (standing_grid && standing_grid != this)
        fail("%s is to begin, while %s stands in this thread", kernel_, standing_grid->kernel_);
    if (!begun_) begin();
    for (size_t i = 0; i < standing_.size();) {
        enter(standing_[i].get());
        if (hooks) hooks->resume_block(runner->block);
        if (run_block())
            leave(i);
        else
            i++;
    }
    while (next_ < count_ && standing_.size() < resident_max_)
        begin_next();
    runner = nullptr;
    bool done = next_ == count_ && standing_.empty();
    standing_grid = done ? nullptr : this;
    if (done) begun_ = false;
    return done;
}

} // namespace emu

/* ---- the language's functions that need more than a line ---- */

int __syncthreads_or(int predicate, emu::place where)
{
    return emu::barrier_vote(predicate, where) != 0;
}

int __syncthreads_count(int predicate, emu::place where)
{
    return emu::barrier_vote(predicate, where);
}

int __syncthreads_and(int predicate, emu::place where)
{
    return emu::barrier_vote(!predicate, where) == 0;
}

void __syncwarp(unsigned mask, emu::place where)
{
    static const emu::warp_operation operation = {"__syncwarp", [](void **, unsigned) {}, false,
                                                  true};
    emu::warp_meet(mask, nullptr, &operation, where);
}

namespace
{
struct ballot_argument {
    bool vote;
    unsigned result;
};

void ballot_apply(void **arguments, unsigned)
{
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        if (arguments[lane] && ((ballot_argument *)arguments[lane])->vote) votes |= 1u << lane;
    for (unsigned lane = 0; lane < 32; lane++)
        if (arguments[lane]) ((ballot_argument *)arguments[lane])->result = votes;
}
} // namespace

unsigned __ballot_sync(unsigned mask, int predicate, emu::place where)
{
    static const emu::warp_operation operation = {"ballot", ballot_apply, false, false};
    ballot_argument a = {predicate != 0, 0};
    emu::warp_meet(mask, &a, &operation, where);
    return a.result;
}

unsigned __activemask(void)
{
    return emu::runner->alive[emu::current->warp];
}

void __threadfence(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (emu::hooks) emu::hooks->fence();
}

void __threadfence_system(void)
{
    __threadfence();
}

void __threadfence_block(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
