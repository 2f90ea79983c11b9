// Products of small matrices, and elementwise functions, with the compiler's vector types.
//
// Included once for each instruction set (scan.cpp), inside a namespace of its own, with VECTOR_BYTES, TILE_ROWS and
// TILE_VECTORS set to what its registers hold. All matrices are row-major; columns that a product runs over in vectors
// are padded with zeros to whole cache lines (`padded`).

template <class T>
struct Simd {
    static constexpr int64_t lanes = VECTOR_BYTES / sizeof(T);
    typedef T Vector __attribute__((vector_size(VECTOR_BYTES)));
    // The same in memory, without an alignment.
    typedef T Memory __attribute__((vector_size(VECTOR_BYTES), aligned(alignof(T)), may_alias));
    using Bits = typename std::conditional<sizeof(T) == 4, uint32_t, uint64_t>::type;
    typedef Bits BitVector __attribute__((vector_size(VECTOR_BYTES)));
};

template <class T>
inline typename Simd<T>::Vector load(const T* from) {
    return *reinterpret_cast<const typename Simd<T>::Memory*>(from);
}

template <class T>
inline void store(T* to, typename Simd<T>::Vector vector) {
    *reinterpret_cast<typename Simd<T>::Memory*>(to) = vector;
}

// Which terms of a product's sum contribute to a column; the others are 0.
enum class Terms { all, up_to_column, from_column };

// One product `left x right` of a sum of products; `left` may be any matrix with strides, so also a transposed one.
template <class T>
struct Product {
    const T* left;
    int64_t row_stride, term_stride;
    const T* right;
    int64_t right_stride;
    int64_t n_terms;
    Terms terms = Terms::all;
};

enum class Store { set, add };

template <class T, int n_vectors>
inline void multiply_tile(
    int64_t row,
    int64_t n_rows,
    int64_t column,
    const Product<T>* products,
    int n_products,
    T* out,
    int64_t out_stride,
    Store mode
) {
    using Vector = typename Simd<T>::Vector;
    constexpr int64_t lanes = Simd<T>::lanes;
    Vector sums[TILE_ROWS][n_vectors] = {};
    for (int p = 0; p < n_products; ++p) {
        const Product<T>& product = products[p];
        const int64_t first = product.terms == Terms::from_column ? column : 0;
        const int64_t last = product.terms == Terms::up_to_column
                                 ? std::min(product.n_terms, column + n_vectors * lanes)
                                 : product.n_terms;
        const T* left[TILE_ROWS];
        for (int r = 0; r < TILE_ROWS; ++r) {
            // Rows past the end repeat the last one; they aren't stored.
            left[r] = product.left + std::min(row + r, n_rows - 1) * product.row_stride + first * product.term_stride;
        }
        const T* right = product.right + first * product.right_stride + column;
        int64_t at = 0;
        for (int64_t term = first; term < last; ++term) {
            Vector x[n_vectors];
            for (int v = 0; v < n_vectors; ++v) x[v] = load(right + v * lanes);
            for (int r = 0; r < TILE_ROWS; ++r) {
                const Vector y = left[r][at] - Vector{};
                for (int v = 0; v < n_vectors; ++v) sums[r][v] += y * x[v];
            }
            at += product.term_stride;
            right += product.right_stride;
        }
    }
    for (int r = 0; r < TILE_ROWS; ++r) {
        if (row + r >= n_rows) break;
        T* to = out + (row + r) * out_stride + column;
        for (int v = 0; v < n_vectors; ++v) {
            store(to + v * lanes, mode == Store::set ? sums[r][v] : sums[r][v] + load(to + v * lanes));
        }
    }
}

// out = (or +=) the sum of the products. `n_columns` is padded. With `is_causal`, tiles below the diagonal (row >
// column) are not computed, but set to 0.
template <class T>
void multiply(
    int64_t n_rows,
    int64_t n_columns,
    std::initializer_list<Product<T>> products,
    T* out,
    int64_t out_stride,
    Store mode = Store::set,
    bool is_causal = false
) {
    constexpr int64_t lanes = Simd<T>::lanes;
    const int n_products = static_cast<int>(products.size());
    // Narrow tiles skip more of the zeros.
    const bool is_narrow = is_causal || products.begin()->terms != Terms::all;
    for (int64_t column = 0; column < n_columns;) {
        const int64_t n_vectors = std::min<int64_t>(is_narrow ? 1 : TILE_VECTORS, (n_columns - column) / lanes);
        for (int64_t row = 0; row < n_rows; row += TILE_ROWS) {
            if (is_causal && row >= column + n_vectors * lanes) {
                for (int64_t r = row; r < std::min(row + TILE_ROWS, n_rows); ++r) {
                    std::fill_n(out + r * out_stride + column, n_vectors * lanes, T(0));
                }
                continue;
            }
            const Product<T>* first = products.begin();
            switch (n_vectors) {
                case 1: multiply_tile<T, 1>(row, n_rows, column, first, n_products, out, out_stride, mode); break;
                case 2: multiply_tile<T, 2>(row, n_rows, column, first, n_products, out, out_stride, mode); break;
#if TILE_VECTORS >= 3
                case 3: multiply_tile<T, 3>(row, n_rows, column, first, n_products, out, out_stride, mode); break;
#endif
#if TILE_VECTORS >= 4
                case 4: multiply_tile<T, 4>(row, n_rows, column, first, n_products, out, out_stride, mode); break;
#endif
            }
        }
        column += n_vectors * lanes;
    }
}

// Calls function(i) for the start of each vector of `size` values.
template <class T, class Function>
inline void for_vectors(int64_t size, Function function) {
    for (int64_t i = 0; i < size; i += Simd<T>::lanes) function(i);
}

// Interleave the first, or the last, halves of two vectors.
template <class T, bool is_last, size_t... lane>
inline typename Simd<T>::Vector interleave(
    typename Simd<T>::Vector x, typename Simd<T>::Vector y, std::index_sequence<lane...>
) {
    constexpr size_t n = sizeof...(lane), first = is_last ? n / 2 : 0;
#ifdef __clang__
    return __builtin_shufflevector(x, y, (first + lane / 2 + lane % 2 * n)...);
#else
    return __builtin_shuffle(x, y, typename Simd<T>::BitVector{(first + lane / 2 + lane % 2 * n)...});
#endif
}

// to[column][row] = scale * from[row][column]
template <class T>
void transpose(
    const T* from, int64_t from_stride, int64_t n_rows, int64_t n_columns, T* to, int64_t to_stride, T scale = 1
) {
    using Vector = typename Simd<T>::Vector;
    constexpr int64_t lanes = Simd<T>::lanes;
    constexpr std::make_index_sequence<lanes> all{};
    for (int64_t row = 0; row < n_rows; row += lanes) {
        for (int64_t column = 0; column < n_columns; column += lanes) {
            const T* source = from + row * from_stride + column;
            T* target = to + column * to_stride + row;
            if (row + lanes > n_rows || column + lanes > n_columns) {
                for (int64_t r = 0; r < std::min(lanes, n_rows - row); ++r) {
                    for (int64_t c = 0; c < std::min(lanes, n_columns - column); ++c) {
                        target[c * to_stride + r] = scale * source[r * from_stride + c];
                    }
                }
                continue;
            }
            // Each pass interleaves the first half of the rows with the second; log2(rows) of them transpose.
            Vector rows[lanes], next[lanes];
            for (int64_t r = 0; r < lanes; ++r) rows[r] = scale * load(source + r * from_stride);
            for (int64_t pass = 1; pass < lanes; pass *= 2) {
                for (int64_t r = 0; r < lanes / 2; ++r) {
                    next[2 * r] = interleave<T, false>(rows[r], rows[r + lanes / 2], all);
                    next[2 * r + 1] = interleave<T, true>(rows[r], rows[r + lanes / 2], all);
                }
                for (int64_t r = 0; r < lanes; ++r) rows[r] = next[r];
            }
            for (int64_t r = 0; r < lanes; ++r) store(target + r * to_stride, rows[r]);
        }
    }
}

// e^x, accurate to about the last bit for |x| up to about 87 (float) or 708 (double); NaN remains NaN.
template <class T>
inline typename Simd<T>::Vector exponential(typename Simd<T>::Vector x) {
    using Vector = typename Simd<T>::Vector;
    using Bits = typename Simd<T>::BitVector;
    constexpr bool is_float = sizeof(T) == 4;
    // Adding this leaves the nearest integer in the last bits.
    constexpr T rounder = is_float ? T(12582912.0) : T(6755399441055744.0);
    constexpr T log2_e = T(1.44269504088896340736);
    constexpr T ln2_high = is_float ? T(0.693359375) : T(6.93145751953125e-1);
    constexpr T ln2_low = is_float ? T(-2.12194440054690583e-4) : T(1.42860682030941723212e-6);
    const Vector shifted = x * log2_e + rounder;
    const Vector whole = shifted - rounder;
    const Vector rest = (x - whole * ln2_high) - whole * ln2_low;
    constexpr int degree = is_float ? 7 : 13;
    constexpr double inverse_factorials[] = {
        1.0,        1.0,         1.0 / 2,      1.0 / 6,       1.0 / 24,       1.0 / 120,       1.0 / 720,
        1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800
    };
    Vector sum = Vector{} + T(inverse_factorials[degree]);
    for (int n = degree - 1; n >= 0; --n) sum = sum * rest + T(inverse_factorials[n]);
    constexpr int mantissa = is_float ? 23 : 52;
    constexpr typename Simd<T>::Bits bias = is_float ? 127 : 1023;
    return sum * (Vector)(((Bits)shifted + bias) << mantissa);
}

template <class T>
inline typename Simd<T>::Vector sigmoid(typename Simd<T>::Vector x) {
    using Vector = typename Simd<T>::Vector;
    const Vector largest = Vector{} + (sizeof(T) == 4 ? T(87) : T(708));
    x = x > largest ? largest : x;
    x = x < -largest ? -largest : x;
    return T(1) / (T(1) + exponential<T>(-x));
}

template <class T>
T dot(const T* x, const T* y, int64_t size) {
    using Vector = typename Simd<T>::Vector;
    constexpr int64_t lanes = Simd<T>::lanes;
    Vector sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * lanes <= size; i += 4 * lanes) {
        for (int64_t v = 0; v < 4; ++v) sums[v] += load(x + i + v * lanes) * load(y + i + v * lanes);
    }
    const Vector sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    T total = 0;
    for (int64_t lane = 0; lane < lanes; ++lane) total += sum[lane];
    for (; i < size; ++i) total += x[i] * y[i];
    return total;
}
