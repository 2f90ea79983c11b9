// The dual form for a CPU. native.py loads and calls the compiled code.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

constexpr int64_t CACHE_LINE = 64;

inline int64_t padded(int64_t size, int64_t line) {
    return (size + line - 1) / line * line;
}

// A tensor (items, heads, tokens, ...), contiguous along features; strides in elements.
struct Streams {
    void* data;
    int64_t item_stride, head_stride, token_stride;
};

// The arguments of a scan; `_Call` in native.py has the same fields. Memories are (items * heads, 2, d_out, d_in) by
// layer, references (items * heads, d_out, d_in), contiguous; the trace is (items * heads, chunks, trace size).
struct Call {
    int64_t items, heads, n_chunks, length, depth, n_threads, is_double, instruction_set;
    double max_delta_norm;  // 0 where errors are not clamped
    const int64_t* widths;  // depth + 1
    Streams queries, keys, values, alpha, eta, theta, output;
    void *const *memory, *const *reference, *const *memory_after;
    void* trace;
    Streams d_queries, d_keys, d_values, d_alpha, d_eta, d_theta, d_output;
    void *const *d_memory, *const *d_reference, *const *d_memory_after;
};

// The tokens of one head and one chunk.
template <class T>
struct Stream {
    T* data;
    int64_t stride;
};

// Zeroed memory in pieces that start at a cache line; all of it is freed together.
template <class T>
class Arena {
public:
    T* allocate(int64_t size) {
        const int64_t bytes = padded(std::max<int64_t>(size, 1) * sizeof(T), CACHE_LINE);
        pieces.emplace_back(std::aligned_alloc(CACHE_LINE, bytes), &std::free);
        if (!pieces.back()) throw std::bad_alloc();
        T* const piece = static_cast<T*>(pieces.back().get());
        std::fill_n(piece, bytes / sizeof(T), T(0));
        return piece;
    }

private:
    std::vector<std::unique_ptr<void, decltype(&std::free)>> pieces;
};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CHOOSES_AT_RUN_TIME
#endif

#ifdef CHOOSES_AT_RUN_TIME
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
namespace avx512 {
#define VECTOR_BYTES 64
#define TILE_ROWS 8
#define TILE_VECTORS 2
#include "matmul.h"
#include "chunk.h"
#undef VECTOR_BYTES
#undef TILE_ROWS
#undef TILE_VECTORS
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define VECTOR_BYTES 32
#define TILE_ROWS 4
#define TILE_VECTORS 3
#include "matmul.h"
#include "chunk.h"
#undef VECTOR_BYTES
#undef TILE_ROWS
#undef TILE_VECTORS
}  // namespace avx2
#pragma GCC pop_options
#endif

namespace any {
#define VECTOR_BYTES 16
#define TILE_ROWS 4
#define TILE_VECTORS 2
#include "matmul.h"
#include "chunk.h"
}  // namespace any

using Scan = void (*)(const Call&, bool, std::atomic<int64_t>&);

// The scan for each instruction set of this processor, the fastest last.
template <class T>
std::vector<Scan> scans() {
    std::vector<Scan> available{&any::scan<T>};
#ifdef CHOOSES_AT_RUN_TIME
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        available.push_back(&avx2::scan<T>);
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
            available.push_back(&avx512::scan<T>);
        }
    }
#endif
    return available;
}

int run(const Call& call, bool is_backward) {
    const Scan scan = (call.is_double ? scans<double>() : scans<float>())[call.instruction_set];
    std::atomic<int64_t> next(0), n_failed(0);
    const auto work = [&] {
        try {
            scan(call, is_backward, next);
        } catch (const std::exception&) {
            ++n_failed;
        }
    };
    std::vector<std::thread> threads;
    const int64_t n_threads = std::min(call.n_threads, call.items * call.heads);
    for (int64_t n = 1; n < n_threads; ++n) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
    return n_failed ? 1 : 0;
}

}  // namespace

extern "C" {
int64_t titan_neuro_call_bytes() {
    return sizeof(Call);
}
int64_t titan_neuro_count_instruction_sets() {
    return scans<float>().size();
}
int64_t titan_neuro_trace_size(const Call* call) {
    const int64_t size = call->is_double ? sizeof(double) : sizeof(float);
    return any::Layout(*call, CACHE_LINE / size).trace_size;
}
// Returns 1 where memory was insufficient, else 0.
int titan_neuro_scan(const Call* call) {
    return run(*call, false);
}
int titan_neuro_scan_backward(const Call* call) {
    return run(*call, true);
}
}
