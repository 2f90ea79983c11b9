// The dual form on a CPU, compiled. native.py loads it, calls it and says what it is given.

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

// A tensor (items, heads, tokens, ...), its last axis contiguous where it has one; strides in elements.
struct Streams {
    void* data;
    int64_t item_stride, head_stride, token_stride;
};

// All that a scan is given; native.py has the same. Memories are (items * heads, 2, d_out, d_in) by layer, references
// without the 2, contiguous; the trace is (items * heads, chunks, trace size).
struct Call {
    int64_t items, heads, n_chunks, length, depth, n_threads, is_double, instruction_set;
    double max_delta_norm;  // 0 where nothing is shortened
    const int64_t* widths;  // depth + 1
    Streams queries, keys, values, alpha, eta, theta, output;
    void *const *memory, *const *reference, *const *memory_after;
    void* trace;
    Streams by_queries, by_keys, by_values, by_alpha, by_eta, by_theta, by_output;
    void *const *by_memory, *const *by_reference, *const *by_memory_after;
};

// One head's tokens of one chunk.
template <class T>
struct Stream {
    T* at;
    int64_t stride;
};

// Zeroed memory, in pieces that begin at a cache line; all goes at once.
template <class T>
class Arena {
public:
    T* take(int64_t size) {
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

// Instruction sets that this processor has, the fastest last.
template <class T>
std::vector<Scan> scans() {
    std::vector<Scan> found{&any::scan<T>};
#ifdef CHOOSES_AT_RUN_TIME
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        found.push_back(&avx2::scan<T>);
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
            found.push_back(&avx512::scan<T>);
        }
    }
#endif
    return found;
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
    std::vector<std::thread> others;
    const int64_t n_threads = std::min(call.n_threads, call.items * call.heads);
    for (int64_t n = 1; n < n_threads; ++n) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
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
// 0, or 1 where there was not enough memory.
int titan_neuro_scan(const Call* call) {
    return run(*call, false);
}
int titan_neuro_scan_backward(const Call* call) {
    return run(*call, true);
}
}
