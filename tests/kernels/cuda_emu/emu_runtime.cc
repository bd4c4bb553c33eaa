/* emu_runtime.cc - cudart: devices, memory, streams, events, graphs.
 *
 *  1. A stream is a queue of closures; run_until(n) runs its first n. Events name a stream and a position. A
 *     closure with `ready` is a place where the stream stands until that says yes: a query tells that it stands,
 *     what waits for the stream asks again and again, and ends the process after a minute.
 *  2. Any thread may enqueue and wait: a thread that frees memory runs the streams of others, too. One at a time
 *     runs a stream, and a kernel that stands is gone on with by the thread that began it. Captures belong to the
 *     thread that captures. The tables of devices and memory are locked.
 *  3. The default stream waits for blocking streams, and they for it; cudaStreamNonBlocking ones don't.
 *  4. Copies to and from pageable memory: the source is read when the call is made, the target written before it
 *     returns, as the driver does with its staging buffers. Pinned memory is touched when the copy runs.
 *  5. While a stream captures, operations go into the graph. What might wait or take memory is refused to the
 *     thread that captures (cudaStreamCaptureModeThreadLocal) and breaks the capture.
 *  6. Device memory is open while operations of streams run, and to nobody else (emu_memory.cuh). */
#include "tests/kernels/cuda_emu/cuda_emu_runtime.cuh"

#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include "tests/kernels/cuda_emu/cuda_emu.cuh"
#include "tests/kernels/cuda_emu/emu_memory.cuh"

struct operation {
    emu::stream_work run;
    std::function<bool()> ready; // empty: always
};

struct CUgraph_st {
    std::vector<operation> operations;
    bool broken; // by a call that was refused while it was captured
};

struct CUgraphExec_st {
    std::vector<operation> operations;
};

struct CUstream_st {
    int device;
    bool blocking; // orders itself with the default stream
    std::atomic<uint64_t> enqueued{0}, done{0};
    std::mutex queue_lock;
    std::deque<operation> queue;
    std::atomic_flag running = ATOMIC_FLAG_INIT; // by a thread, which alone takes from the queue
    CUgraph_st *capture = nullptr;               // NULL: not capturing
    bool capture_origin = false;
    // By a library's call that is not done: nothing else may be enqueued; NULL: by none.
    const char *held = nullptr;
    std::atomic<bool> asked{false}; // and was not ready

    CUstream_st(int on_device, bool is_blocking) : device(on_device), blocking(is_blocking)
    {
    }
};

struct CUevent_st {
    std::shared_ptr<CUstream_st> stream; // NULL: never recorded
    uint64_t at;
    CUgraph_st *capture; // recorded while capturing into it
    int device;
    bool asked;
    std::chrono::steady_clock::time_point recorded;
};

namespace
{

using stream_ref = std::shared_ptr<CUstream_st>;

struct device {
    size_t used = 0;
    stream_ref default_stream;
    std::vector<stream_ref> streams;
    std::set<int> peers; // whose memory it may touch
};

struct allocation {
    size_t bytes;
    int device; // -1: pinned host memory
};

struct machine {
    std::recursive_mutex lock;
    std::vector<device> devices;
    std::map<const char *, allocation> memory;
    std::map<std::string, long> launches;
};

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;
thread_local std::vector<CUgraph_st *> capturing; // begun by this thread

size_t setting(const char *name, size_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoul(text, nullptr, 10) : otherwise;
}

machine *the_machine()
{
    static machine *m = [] {
        auto *made = new machine();
        made->devices.resize(setting("LM_CUDA_EMU_DEVICES", 1));
        for (size_t d = 0; d < made->devices.size(); d++)
            made->devices[d].default_stream = std::make_shared<CUstream_st>((int)d, true);
        return made;
    }();
    return m;
}

/* How long events say that they are not ready, at least, if they aren't: time for others to do what a device leaves
 * them time for. */
std::chrono::microseconds busy()
{
    return std::chrono::microseconds(setting("LM_CUDA_EMU_BUSY_US", 0));
}

size_t memory_of(int index)
{
    std::string own = "LM_CUDA_EMU_MEMORY_" + std::to_string(index);
    return setting(own.c_str(), setting("LM_CUDA_EMU_MEMORY", 4096)) << 20;
}

cudaError_t note(cudaError_t error)
{
    if (error != cudaSuccess) last_error = error;
    return error;
}

/* Rule 5. True: the call is refused, and this is its error. */
bool refused_by_capture(cudaError_t *error)
{
    for (CUgraph_st *graph : capturing)
        graph->broken = true;
    *error = capturing.empty() ? cudaSuccess : note(cudaErrorStreamCaptureUnsupported);
    return !capturing.empty();
}

bool have_device()
{
    return (size_t)current_device < the_machine()->devices.size();
}

/* ---- streams ---- */

stream_ref find_stream(cudaStream_t handle)
{
    machine *m = the_machine();
    std::lock_guard<std::recursive_mutex> hold(m->lock);
    if (!handle || handle == cudaStreamLegacy || handle == cudaStreamPerThread)
        return have_device() ? m->devices[(size_t)current_device].default_stream : nullptr;
    for (device &d : m->devices)
        for (stream_ref &s : d.streams)
            if (s.get() == handle) return s;
    return nullptr;
}

std::vector<stream_ref> blocking_streams(int of_device)
{
    machine *m = the_machine();
    std::lock_guard<std::recursive_mutex> hold(m->lock);
    std::vector<stream_ref> found;
    for (stream_ref &s : m->devices[(size_t)of_device].streams)
        if (s->blocking) found.push_back(s);
    return found;
}

/* False: the next operation stands. */
bool run_next(CUstream_st *s)
{
    operation *next;
    {
        std::lock_guard<std::mutex> hold(s->queue_lock);
        next = &s->queue.front(); // stays there while others enqueue
    }
    if (next->ready && !next->ready()) return false;
    next->run();
    {
        std::lock_guard<std::mutex> hold(s->queue_lock);
        s->queue.pop_front();
    }
    s->done++;
    return true;
}

/* False: it stands before that, or another thread runs it. */
bool try_until(CUstream_st *s, uint64_t position)
{
    if (s->done >= position) return true;
    if (s->running.test_and_set()) return false;
    {
        emu::device_access open;
        while (s->done < position && run_next(s))
            ;
    }
    s->running.clear();
    if (s->done < position) return false;
    s->asked = false;
    return true;
}

void run_until(CUstream_st *s, uint64_t position)
{
    auto limit = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!try_until(s, position)) {
        if (std::chrono::steady_clock::now() > limit)
            emu::fail("a stream of device %d has waited a minute for others", s->device);
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
}

void run_all(CUstream_st *s)
{
    run_until(s, s->enqueued);
}

void push(const stream_ref &s, operation next)
{
    std::lock_guard<std::mutex> hold(s->queue_lock);
    s->queue.push_back(std::move(next));
    s->enqueued++;
}

/* Rule 3: what `s` is about to do comes behind what the other side has enqueued so far. */
void order_with_default(const stream_ref &s)
{
    const stream_ref &standard = the_machine()->devices[(size_t)s->device].default_stream;
    if (s == standard) {
        for (const stream_ref &other : blocking_streams(s->device)) {
            uint64_t at = other->enqueued;
            if (other->done < at) push(s, {[other, at] { run_until(other.get(), at); }, {}});
        }
    } else if (s->blocking && standard->done < standard->enqueued) {
        uint64_t at = standard->enqueued;
        push(s, {[standard, at] { run_until(standard.get(), at); }, {}});
    }
}

void run_device(int index)
{
    machine *m = the_machine();
    std::vector<stream_ref> all;
    {
        std::lock_guard<std::recursive_mutex> hold(m->lock);
        all = m->devices[(size_t)index].streams;
        all.push_back(m->devices[(size_t)index].default_stream);
    }
    for (stream_ref &s : all)
        run_all(s.get());
}

/* ---- memory ---- */

const allocation *find_allocation(const void *at)
{
    machine *m = the_machine();
    std::lock_guard<std::recursive_mutex> hold(m->lock);
    auto next = m->memory.upper_bound((const char *)at);
    if (next == m->memory.begin()) return nullptr;
    --next;
    return (const char *)at < next->first + next->second.bytes ? &next->second : nullptr;
}

bool is_pageable(const void *at)
{
    return find_allocation(at) == nullptr;
}

void check_range(const char *what, const void *at, size_t bytes, bool on_device)
{
    const allocation *a = find_allocation(at);
    if (on_device && (!a || a->device < 0)) emu::fail("%s: %p is not device memory", what, at);
    if (!on_device && a && a->device >= 0) emu::fail("%s: %p is device memory", what, at);
    if (a && bytes && find_allocation((const char *)at + bytes - 1) != a)
        emu::fail("%s: %zu bytes at %p end beyond their allocation", what, bytes, at);
}

cudaError_t take_memory(void **at, size_t bytes, int of_device)
{
    machine *m = the_machine();
    std::lock_guard<std::recursive_mutex> hold(m->lock);
    cudaError_t error;
    *at = nullptr;
    if (!have_device()) return note(cudaErrorNoDevice);
    if (refused_by_capture(&error)) return error;
    if (!bytes) return cudaSuccess;
    if (of_device >= 0) {
        device &d = m->devices[(size_t)of_device];
        if (d.used + bytes > memory_of(of_device)) return note(cudaErrorMemoryAllocation);
        d.used += bytes;
    }
    void *memory =
        of_device >= 0 ? emu::device_map(bytes) : aligned_alloc(256, (bytes + 255) & ~(size_t)255);
    if (!memory) return note(cudaErrorMemoryAllocation);
    if (of_device < 0) memset(memory, 0xff, bytes);
    m->memory[(const char *)memory] = {bytes, of_device};
    *at = memory;
    return cudaSuccess;
}

cudaError_t give_memory(void *at, bool on_device)
{
    machine *m = the_machine();
    std::lock_guard<std::recursive_mutex> hold(m->lock);
    auto found = m->memory.find((const char *)at);
    if (found == m->memory.end() || (found->second.device >= 0) != on_device)
        return note(cudaErrorInvalidValue);
    size_t bytes = found->second.bytes;
    if (on_device) m->devices[(size_t)found->second.device].used -= bytes;
    m->memory.erase(found);
    if (on_device)
        emu::device_unmap(at, bytes);
    else
        free(at);
    return cudaSuccess;
}

struct copy_plan {
    char *to;
    size_t to_pitch;
    const char *from;
    size_t from_pitch, width, height;
};

void copy_now(const copy_plan &c)
{
    for (size_t row = 0; row < c.height; row++)
        memmove(c.to + row * c.to_pitch, c.from + row * c.from_pitch, c.width);
}

cudaError_t enqueue_operation(cudaStream_t handle, operation next)
{
    stream_ref s = find_stream(handle);
    if (!s) return note(cudaErrorInvalidResourceHandle);
    if (s->held) emu::fail("work is enqueued on a stream before %s was done with it", s->held);
    if (s->capture) {
        s->capture->operations.push_back(std::move(next));
        return cudaSuccess;
    }
    order_with_default(s);
    push(s, std::move(next));
    return cudaSuccess;
}

cudaError_t copy_async(copy_plan c, cudaMemcpyKind kind, cudaStream_t handle)
{
    if (!c.width || !c.height) return cudaSuccess;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    if (kind != cudaMemcpyDefault) {
        check_range("cudaMemcpy, source", c.from, (c.height - 1) * c.from_pitch + c.width,
                    from_device);
        check_range("cudaMemcpy, target", c.to, (c.height - 1) * c.to_pitch + c.width, to_device);
    }
    stream_ref s = find_stream(handle);
    if (!s) return note(cudaErrorInvalidResourceHandle);
    if (s->capture && (is_pageable(c.from) || is_pageable(c.to)))
        emu::fail("cudaMemcpyAsync: a graph keeps the address of pageable memory");
    if (is_pageable(c.from)) {
        auto staged = std::make_shared<std::vector<char>>(c.width * c.height);
        copy_now({staged->data(), c.width, c.from, c.from_pitch, c.width, c.height});
        c.from = staged->data();
        c.from_pitch = c.width;
        cudaError_t error = emu::enqueue(handle, [c, staged] { copy_now(c); });
        if (error != cudaSuccess || !is_pageable(c.to)) return error;
    } else {
        cudaError_t error = emu::enqueue(handle, [c] { copy_now(c); });
        if (error != cudaSuccess || s->capture || !is_pageable(c.to)) return error;
    }
    run_all(s.get());
    return cudaSuccess;
}

} // namespace

namespace emu
{

static cudaError_t put(cudaStream_t stream, stream_work run)
{
    return enqueue_operation(stream, {std::move(run), {}});
}

cudaError_t enqueue_wait(cudaStream_t stream, std::function<bool()> ready)
{
    return enqueue_operation(stream, {[] { end_of_overlap(); }, std::move(ready)});
}

void hold_stream(cudaStream_t stream, const char *call)
{
    if (stream_ref s = find_stream(stream)) s->held = call;
}

/* Only kernels overlap. */
cudaError_t enqueue(cudaStream_t handle, stream_work run)
{
    return put(handle, [run = std::move(run)] {
        end_of_overlap();
        run();
        end_of_overlap();
    });
}

static void count_launch(const char *kernel)
{
    machine *m = the_machine();
    std::lock_guard<std::recursive_mutex> hold(m->lock);
    m->launches[kernel]++;
}

cudaError_t enqueue_launch(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                           cudaStream_t stream, bool pdl, stream_work body)
{
    if (!have_device()) return note(cudaErrorNoDevice);
    stream_ref s = find_stream(stream);
    if (s && s->device != current_device) return note(cudaErrorInvalidResourceHandle);
    if (s && s->capture && pdl && setting("LM_CUDA_EMU_NO_PDL_GRAPH", 0)) {
        s->capture->broken = true;
        return note(cudaErrorInvalidResourceHandle);
    }
    auto made = std::make_shared<emu::grid>(kernel, grid, block, shared_bytes, pdl, body);
    return enqueue_operation(stream, {[] {},
                                      [=] {
                                          if (!made->has_begun()) count_launch(kernel);
                                          return made->go_on();
                                      }});
}

static void check_peer(const char *kernel, const allocation *a, size_t at)
{
    machine *m = the_machine();
    std::lock_guard<std::recursive_mutex> hold(m->lock);
    if (a->device < 0 || a->device == current_device || !have_device()) return;
    if (!m->devices[(size_t)current_device].peers.count(a->device))
        fail("%s: an argument, %zu bytes into it, leads to device %d, which device %d has no "
             "access to",
             kernel, at, a->device, current_device);
}

void check_argument(const char *kernel, const void *value, size_t bytes)
{
    for (size_t at = 0; at + sizeof(unsigned long) <= bytes; at += sizeof(unsigned long)) {
        unsigned long word;
        memcpy(&word, (const char *)value + at, sizeof word);
        if (!looks_like_pointer(word)) continue;
        /* the end of an allocation is where an empty array lies */
        const allocation *a = find_allocation((const void *)word);
        if (!a) a = find_allocation((const void *)(word - 1));
        if (a) {
            check_peer(kernel, a, at);
            continue;
        }
        fail("%s: an argument, %zu bytes into it, is %p: memory of the host that is not pinned",
             kernel, at, (void *)word);
    }
}

long launch_count(const char *kernel)
{
    machine *m = the_machine();
    std::lock_guard<std::recursive_mutex> hold(m->lock);
    long count = 0;
    for (auto &[name, launches] : m->launches)
        if (!kernel || name == kernel) count += launches;
    return count;
}

} // namespace emu

/* ---- errors, devices ---- */

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
#define X(name, value, text) \
    case name:               \
        return text;
        CUDA_EMU_ERRORS(X)
#undef X
    }
    return "unrecognized error code";
}

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define X(name, value, text) \
    case name:               \
        return #name;
        CUDA_EMU_ERRORS(X)
#undef X
    }
    return "unrecognized error code";
}

cudaError_t cudaGetLastError()
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError()
{
    return last_error;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = (int)the_machine()->devices.size();
    return *count ? cudaSuccess : note(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int index)
{
    if (index < 0 || (size_t)index >= the_machine()->devices.size())
        return note(cudaErrorInvalidDevice);
    while ((size_t)index == setting("LM_CUDA_EMU_HANGS", SIZE_MAX))
        pause();
    current_device = index;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *index)
{
    *index = current_device;
    return have_device() ? cudaSuccess : note(cudaErrorNoDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int index)
{
    if (index < 0 || (size_t)index >= the_machine()->devices.size())
        return note(cudaErrorInvalidDevice);
    *p = cudaDeviceProp{};
    snprintf(p->name, sizeof p->name, "emulated GPU");
    p->totalGlobalMem = memory_of(index);
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = setting("LM_CUDA_EMU_SHARED_KIB", 227)
                                << 10; // a block is given 227 all the same
    p->sharedMemPerMultiprocessor = 228 << 10;
    p->major = 9;
    p->multiProcessorCount = (int)setting("LM_CUDA_EMU_SM", 8);
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = 2048;
    p->regsPerBlock = 64 << 10;
    p->l2CacheSize = 50 << 20;
    p->memoryBusWidth = 5120;
    p->canMapHostMemory = p->unifiedAddressing = 1;
    p->pciBusID = index;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int index)
{
    cudaDeviceProp p;
    cudaError_t error = cudaGetDeviceProperties(&p, index);
    if (error != cudaSuccess) return error;
    switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = (int)p.sharedMemPerBlock;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)p.sharedMemPerBlockOptin;
        break;
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize()
{
    cudaError_t error;
    if (!have_device()) return note(cudaErrorNoDevice);
    if (refused_by_capture(&error)) return error;
    run_device(current_device);
    return cudaSuccess;
}

cudaError_t cudaDeviceReset()
{
    return cudaDeviceSynchronize();
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int index, int peer)
{
    size_t alone = setting("LM_CUDA_EMU_NO_PEER", SIZE_MAX), count = the_machine()->devices.size();
    if (index < 0 || peer < 0 || (size_t)index >= count || (size_t)peer >= count)
        return note(cudaErrorInvalidDevice);
    *can = index != peer && (size_t)index != alone && (size_t)peer != alone;
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags)
{
    machine *m = the_machine();
    std::lock_guard<std::recursive_mutex> hold(m->lock);
    int can = 0;
    if (flags) return note(cudaErrorInvalidValue);
    if (cudaDeviceCanAccessPeer(&can, current_device, peer) != cudaSuccess || !can)
        return note(cudaErrorInvalidDevice);
    bool added = m->devices[(size_t)current_device].peers.insert(peer).second;
    return added ? cudaSuccess : note(cudaErrorPeerAccessAlreadyEnabled);
}

cudaError_t cudaDeviceGetP2PAttribute(int *value, cudaDeviceP2PAttr, int index, int peer)
{
    *value = !setting("LM_CUDA_EMU_PCIE", 0);
    return cudaDeviceCanAccessPeer(&peer, index, peer);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = have_device() ? 13000 : 0;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    if (!have_device()) return note(cudaErrorNoDevice);
    *total = memory_of(current_device);
    *free_bytes = *total - the_machine()->devices[(size_t)current_device].used;
    return cudaSuccess;
}

/* ---- memory ---- */

cudaError_t cudaMalloc(void **at, size_t bytes)
{
    return take_memory(at, bytes, current_device);
}

cudaError_t cudaFree(void *at)
{
    cudaError_t error;
    if (!at) return cudaSuccess;
    if (refused_by_capture(&error)) return error;
    const allocation *a = find_allocation(at);
    if (a && a->device >= 0) run_device(a->device);
    return give_memory(at, true);
}

cudaError_t cudaMallocHost(void **at, size_t bytes)
{
    return take_memory(at, bytes, -1);
}

cudaError_t cudaHostAlloc(void **at, size_t bytes, unsigned)
{
    return take_memory(at, bytes, -1);
}

cudaError_t cudaFreeHost(void *at)
{
    cudaError_t error;
    if (!at) return cudaSuccess;
    if (refused_by_capture(&error)) return error;
    if (have_device()) run_device(current_device);
    return give_memory(at, false);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    return copy_async({(char *)to, bytes, (const char *)from, bytes, bytes, 1}, kind, stream);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    cudaError_t error;
    if (refused_by_capture(&error)) return error;
    error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    return error == cudaSuccess ? cudaStreamSynchronize(nullptr) : error;
}

cudaError_t cudaMemcpyPeerAsync(void *to, int, const void *from, int, size_t bytes,
                                cudaStream_t stream)
{
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    if (width > to_pitch || width > from_pitch) return note(cudaErrorInvalidValue);
    return copy_async({(char *)to, to_pitch, (const char *)from, from_pitch, width, height}, kind,
                      stream);
}

cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t stream)
{
    if (!bytes) return cudaSuccess;
    check_range("cudaMemset", at, bytes, true);
    return emu::enqueue(stream, [=] { memset(at, value, bytes); });
}

cudaError_t cudaMemset(void *at, int value, size_t bytes)
{
    cudaError_t error;
    return refused_by_capture(&error) ? error : cudaMemsetAsync(at, value, bytes, nullptr);
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    machine *m = the_machine();
    std::lock_guard<std::recursive_mutex> hold(m->lock);
    if (!have_device()) return note(cudaErrorNoDevice);
    auto made = std::make_shared<CUstream_st>(current_device, !(flags & cudaStreamNonBlocking));
    m->devices[(size_t)current_device].streams.push_back(made);
    *stream = made.get();
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int)
{
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    stream_ref s = find_stream(handle);
    if (!s || s.get() != handle) return note(cudaErrorInvalidResourceHandle);
    run_all(s.get());
    machine *m = the_machine();
    std::lock_guard<std::recursive_mutex> hold(m->lock);
    std::erase(m->devices[(size_t)s->device].streams, s);
    return cudaSuccess;
}

static cudaError_t may_wait_for(const stream_ref &s)
{
    cudaError_t error;
    if (!s) return note(cudaErrorInvalidResourceHandle);
    if (s->held) emu::fail("a stream is waited for before %s was done with it", s->held);
    if (refused_by_capture(&error)) return error;
    return s->capture ? note(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    stream_ref s = find_stream(handle);
    cudaError_t error = may_wait_for(s);
    if (error != cudaSuccess) return error;
    order_with_default(s);
    run_all(s.get());
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    stream_ref s = find_stream(handle);
    cudaError_t error = may_wait_for(s);
    if (error != cudaSuccess) return error;
    if (s->done < s->enqueued && !s->asked) {
        s->asked = true;
        return note(cudaErrorNotReady);
    }
    order_with_default(s);
    return try_until(s.get(), s->enqueued) ? cudaSuccess : note(cudaErrorNotReady);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned)
{
    stream_ref s = find_stream(handle);
    if (!s || !event) return note(cudaErrorInvalidResourceHandle);
    if (event
            ->capture) { // the stream joins the capture; order of calls is an order that the graph allows
        s->capture = event->capture;
        return cudaSuccess;
    }
    if (!event->stream) return cudaSuccess;
    stream_ref other = event->stream;
    uint64_t at = event->at;
    return emu::enqueue(handle, [other, at] { run_until(other.get(), at); });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *argument)
{
    return emu::enqueue(stream, [=] { function(argument); });
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new CUevent_st{nullptr, 0, nullptr, current_device, false, {}};
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle)
{
    stream_ref s = find_stream(handle);
    if (!s || !event || event->device != s->device) return note(cudaErrorInvalidResourceHandle);
    event->capture = s->capture;
    event->asked = false;
    event->recorded = std::chrono::steady_clock::now();
    event->stream = s;
    event->at = s->enqueued;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    cudaError_t error;
    if (refused_by_capture(&error)) return error;
    if (event->capture) return note(cudaErrorStreamCaptureUnsupported);
    if (event->stream) run_until(event->stream.get(), event->at);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    cudaError_t error;
    if (refused_by_capture(&error)) return error;
    if (event->capture) return note(cudaErrorStreamCaptureUnsupported);
    if (!event->stream || event->stream->done >= event->at) return cudaSuccess;
    if (!event->asked) {
        event->asked = true;
        return note(cudaErrorNotReady);
    }
    if (std::chrono::steady_clock::now() < event->recorded + busy()) return note(cudaErrorNotReady);
    return try_until(event->stream.get(), event->at) ? cudaSuccess : note(cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    if (!begin->stream || !end->stream) return note(cudaErrorInvalidResourceHandle);
    *ms = 0.001f; // time means nothing here
    return cudaSuccess;
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode)
{
    stream_ref s = find_stream(handle);
    if (!s || s.get() != handle) return note(cudaErrorStreamCaptureUnsupported);
    if (s->capture) return note(cudaErrorStreamCaptureInvalidated);
    s->capture = new CUgraph_st();
    s->capture_origin = true;
    capturing.push_back(s->capture);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph)
{
    stream_ref s = find_stream(handle);
    *graph = nullptr;
    if (!s || !s->capture || !s->capture_origin) return note(cudaErrorInvalidValue);
    if (std::erase(capturing, s->capture) == 0) return note(cudaErrorStreamCaptureWrongThread);
    *graph = s->capture;
    s->capture_origin = false;
    machine *m = the_machine();
    std::lock_guard<std::recursive_mutex> hold(m->lock);
    for (device &d : m->devices)
        for (stream_ref &other : d.streams)
            if (other->capture == *graph) other->capture = nullptr;
    if (!(*graph)->broken) return cudaSuccess;
    delete *graph;
    *graph = nullptr;
    return note(cudaErrorStreamCaptureInvalidated);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus *status)
{
    stream_ref s = find_stream(handle);
    if (!s) return note(cudaErrorInvalidResourceHandle);
    *status = s->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    *exec = new CUgraphExec_st{graph->operations};
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    for (const operation &next : exec->operations) {
        cudaError_t error = enqueue_operation(stream, next);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}
