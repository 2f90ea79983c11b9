// The chunks of one head in the dual form, forward and backward; ../README.md derives every line and names the symbols.
//
// Inside, tokens run along vectors: a slice of a stream is (features, tokens). Weights and their gradients are stored
// as in block.py, (d_in, d_out). `d_x` is the gradient of the loss by x. A write is subtracted from the weights, so
// most of its gradients are negative: `minus_d_x` is minus the gradient by x.

// Offsets of the memory and of a chunk's intermediate results in a buffer.
struct Layout {
    int64_t depth, length, tokens;
    // By layer: features in, features out, and the latter padded; offset of the weights. Momentum follows the weights.
    std::vector<int64_t> in, out, columns, weights;
    int64_t state_size = 0;
    // By layer, in a chunk's trace, which starts with the memory: the input of each layer but the first, before the
    // SiLU, for the keys and for the queries; the error propagated back to it, before the SiLU's slope; the error of
    // the last layer; products of the inputs for queries and keys.
    std::vector<int64_t> result, read, passed, score;
    int64_t last_error = 0, trace_size = 0;

    Layout(const Call& call, int64_t line) : depth(call.depth), length(call.length), tokens(padded(call.length, line)) {
        for (int64_t layer = 0; layer < depth; ++layer) {
            in.push_back(call.widths[layer]);
            out.push_back(call.widths[layer + 1]);
            columns.push_back(padded(out.back(), line));
            weights.push_back(state_size);
            state_size += 2 * in.back() * columns.back();
        }
        trace_size = state_size;
        for (int64_t layer = 0; layer < depth; ++layer) {
            for (auto* place : {&result, &read, &passed}) place->push_back(layer ? reserve(in[layer] * tokens) : -1);
            score.push_back(reserve(length * tokens));
        }
        last_error = reserve(out.back() * tokens);
    }

    int64_t layer_size(int64_t layer) const { return in[layer] * columns[layer]; }

private:
    int64_t reserve(int64_t size) {
        const int64_t place = trace_size;
        trace_size += size;
        return place;
    }
};

// Coefficients of the chunk's start and of each token in the weights, computed from the gates as in gates.py.
template <class T>
struct Gates {
    int64_t length, tokens;
    T *retention, *eta, *theta;
    // (t, i): coefficients in S_t and W_t of what token i adds to the momentum.
    T *in_momentum, *in_weights;
    // (i, t): coefficient of token i in W_t. By t: coefficients of the first weights and momentum in W_t. By i:
    // coefficients of a token in the last weights and in the last momentum.
    T *token, *b, *m, *into_weights, *into_momentum;
    T weights_to_weights, momentum_to_weights, momentum_to_momentum;
    // Their gradients, in the same layout.
    T *d_token, *d_b, *d_m, *d_into_weights, *d_into_momentum;
    T d_weights_to_weights, d_momentum_to_weights, d_momentum_to_momentum;
    T *rows, *momentum_rows, *d_alpha, *d_eta, *d_theta;

    Gates(const Layout& layout, Arena<T>& arena) : length(layout.length), tokens(layout.tokens) {
        for (T** vector :
             {&retention, &eta, &theta, &b, &m, &into_weights, &into_momentum, &d_b, &d_m, &d_into_weights,
              &d_into_momentum, &d_alpha, &d_eta, &d_theta}) {
            *vector = arena.allocate(tokens);
        }
        for (T** square : {&in_momentum, &in_weights, &token, &d_token, &rows, &momentum_rows}) {
            *square = arena.allocate(length * tokens);
        }
    }

    void load(const Stream<T>& alpha_stream, const Stream<T>& eta_stream, const Stream<T>& theta_stream) {
        for (int64_t t = 0; t < length; ++t) {
            retention[t] = 1 - alpha_stream.data[t * alpha_stream.stride];
            eta[t] = eta_stream.data[t * eta_stream.stride];
            theta[t] = theta_stream.data[t * theta_stream.stride];
        }
        std::fill_n(in_momentum, tokens, T(0));
        std::fill_n(in_weights, tokens, T(0));
        in_momentum[0] = in_weights[0] = 1;
        b[0] = retention[0];
        for (int64_t t = 1; t < length; ++t) {
            const T *momentum_before = in_momentum + (t - 1) * tokens, *weights_before = in_weights + (t - 1) * tokens;
            T *momentum = in_momentum + t * tokens, *weights = in_weights + t * tokens;
            for (int64_t i = 0; i < tokens; ++i) momentum[i] = eta[t] * momentum_before[i];
            momentum[t] = 1;
            for (int64_t i = 0; i < tokens; ++i) weights[i] = momentum[i] + retention[t] * weights_before[i];
            b[t] = retention[t] * b[t - 1];
        }
        for (int64_t t = 0; t < length; ++t) m[t] = eta[0] * in_weights[t * tokens];
        transpose(in_weights, tokens, length, length, token, tokens);
        for (int64_t i = 0; i < length; ++i) {
            for (int64_t t = 0; t < tokens; ++t) token[i * tokens + t] *= theta[i];
        }
        const int64_t last = (length - 1) * tokens;
        for (int64_t i = 0; i < tokens; ++i) {
            into_weights[i] = in_weights[last + i] * theta[i];
            into_momentum[i] = in_momentum[last + i] * theta[i];
        }
        weights_to_weights = b[length - 1];
        momentum_to_weights = m[length - 1];
        momentum_to_momentum = eta[0] * in_momentum[last];
    }

    void clear_gradients() {
        for (T* vector : {d_b, d_m, d_into_weights, d_into_momentum}) std::fill_n(vector, tokens, T(0));
        std::fill_n(d_token, length * tokens, T(0));
        d_weights_to_weights = d_momentum_to_weights = d_momentum_to_momentum = 0;
    }

    // From the gradients by all coefficients to those by the gates.
    void backward() {
        const int64_t last = (length - 1) * tokens;
        d_b[length - 1] += d_weights_to_weights;
        d_m[length - 1] += d_momentum_to_weights;
        transpose(d_token, tokens, length, length, rows, tokens);
        for (int64_t i = 0; i < tokens; ++i) {
            d_theta[i] = d_into_weights[i] * in_weights[last + i] + d_into_momentum[i] * in_momentum[last + i];
        }
        for (int64_t t = 0; t < length; ++t) {
            for (int64_t i = 0; i < tokens; ++i) {
                d_theta[i] += rows[t * tokens + i] * in_weights[t * tokens + i];
                rows[t * tokens + i] *= theta[i];
            }
            rows[t * tokens] += d_m[t] * eta[0];
        }
        for (int64_t i = 0; i < tokens; ++i) {
            rows[last + i] += d_into_weights[i] * theta[i];
            momentum_rows[last + i] = rows[last + i] + d_into_momentum[i] * theta[i];
        }
        momentum_rows[last] += d_momentum_to_momentum * eta[0];
        for (int64_t t = length - 2; t >= 0; --t) {
            T *row = rows + t * tokens, *momentum_row = momentum_rows + t * tokens;
            for (int64_t i = 0; i < tokens; ++i) {
                row[i] += retention[t + 1] * row[tokens + i];
                momentum_row[i] = row[i] + eta[t + 1] * momentum_row[tokens + i];
            }
            d_b[t] += retention[t + 1] * d_b[t + 1];
        }
        d_alpha[0] = -d_b[0];
        d_eta[0] = d_momentum_to_momentum * in_momentum[last];
        for (int64_t t = 0; t < length; ++t) d_eta[0] += d_m[t] * in_weights[t * tokens];
        for (int64_t t = 1; t < length; ++t) {
            d_alpha[t] = -d_b[t] * b[t - 1] - dot(rows + t * tokens, in_weights + (t - 1) * tokens, t);
            d_eta[t] = dot(momentum_rows + t * tokens, in_momentum + (t - 1) * tokens, t);
        }
    }
};

// The SiLU of z and, where a pointer is given, its derivatives.
template <class T>
void silu(const T* z, int64_t size, T* value, T* slope = nullptr, T* curvature = nullptr) {
    using Vector = typename Simd<T>::Vector;
    for_vectors<T>(size, [=](int64_t i) {
        const Vector x = load(z + i), s = sigmoid<T>(x), first = s * (T(1) + x * (T(1) - s));
        store(value + i, x * s);
        if (slope) store(slope + i, first);
        if (curvature) store(curvature + i, s + first * (T(1) - T(2) * s));
    });
}

// to[f][t] = from[f][t] * by[t]
template <class T>
void scale_tokens(const T* from, const T* by, int64_t n_features, int64_t tokens, T* to) {
    for (int64_t f = 0; f < n_features; ++f, from += tokens, to += tokens) {
        for_vectors<T>(tokens, [=](int64_t t) { store(to + t, load(from + t) * load(by + t)); });
    }
}

// sum[t] += sign * sum over f of x[f][t] y[f][t]
template <class T>
void add_products(const T* x, const T* y, int64_t n_features, int64_t tokens, T sign, T* sum) {
    for (int64_t f = 0; f < n_features; ++f, x += tokens, y += tokens) {
        for_vectors<T>(tokens, [=](int64_t t) { store(sum + t, load(sum + t) + sign * load(x + t) * load(y + t)); });
    }
}

// One head of one item: its chunks in order, or backward in reverse.
template <class T>
class Head {
public:
    Head(const Call& call, const Layout& layout, bool is_backward)
        : call(call),
          layout(layout),
          depth(layout.depth),
          length(layout.length),
          tokens(layout.tokens),
          gates(layout, arena) {
        int64_t widest = length;
        reference.resize(depth);
        d_reference.resize(depth);
        for (int64_t layer = 0; layer < depth; ++layer) {
            const int64_t in = layout.in[layer] * tokens, out = layout.out[layer] * tokens;
            const int64_t rows = length * layout.columns[layer];
            widest = std::max({widest, layout.in[layer], layout.out[layer]});
            query_input.push_back(arena.allocate(in));
            key_input.push_back(arena.allocate(in));
            error.push_back(arena.allocate(out));
            delta.push_back(call.max_delta_norm > 0 ? arena.allocate(out) : error.back());
            delta_rows.push_back(arena.allocate(rows));
            slope.push_back(layer ? arena.allocate(in) : nullptr);
            if (!is_backward) continue;
            for (auto* list : {&b_query_input, &m_query_input, &minus_d_key_input}) list->push_back(arena.allocate(in));
            d_result_rows.push_back(arena.allocate(rows));
            minus_d_delta.push_back(arena.allocate(out));
            for (auto* list : {&curvature, &read_slope, &minus_d_result}) {
                list->push_back(layer ? arena.allocate(in) : nullptr);
            }
        }
        for (T** plane : {&plane_a, &plane_b, &plane_c, &plane_d}) *plane = arena.allocate(widest * tokens);
        for (T** square : {&scores, &square_a, &square_b}) *square = arena.allocate(length * tokens);
        for (T** vector : {&norms, &radial}) *vector = arena.allocate(tokens);
        memory = arena.allocate(layout.state_size);
        if (!call.trace) scratch_trace = arena.allocate(layout.trace_size);
        if (call.reference) open_reference = arena.allocate(layout.state_size / 2);
        if (call.reference && is_backward) d_open_reference = arena.allocate(layout.state_size / 2);
    }

    void forward(int64_t group);
    void backward(int64_t group);

private:
    const Call& call;
    const Layout& layout;
    const int64_t depth, length, tokens;
    Arena<T> arena;
    Gates<T> gates;
    // By layer, (features, tokens): its inputs for the keys and for the queries; its error for the keys, also clamped;
    // and minus the clamped error as (tokens, features).
    std::vector<T*> key_input, query_input, error, delta, delta_rows;
    // By layer, backward: first and second derivatives of the SiLU before it; inputs for the queries times b and m.
    std::vector<T*> slope, curvature, read_slope, b_query_input, m_query_input;
    std::vector<T*> d_result_rows, minus_d_delta, minus_d_key_input, minus_d_result, reference, d_reference;
    T *plane_a, *plane_b, *plane_c, *plane_d, *scores, *square_a, *square_b, *norms, *radial;
    // The memory after the chunk or, backward, the gradient by it.
    T *memory, *scratch_trace = nullptr, *open_reference = nullptr, *d_open_reference = nullptr;

    Stream<T> stream_at(const Streams& streams, int64_t group, int64_t chunk) const {
        const int64_t item = group / call.heads, head = group % call.heads;
        T* first = static_cast<T*>(streams.data) + item * streams.item_stride + head * streams.head_stride;
        return {first + chunk * length * streams.token_stride, streams.token_stride};
    }

    void load_gates(int64_t group, int64_t chunk) {
        gates.load(
            stream_at(call.alpha, group, chunk), stream_at(call.eta, group, chunk), stream_at(call.theta, group, chunk)
        );
    }

    // A stream's (tokens, features) to (features, tokens), and back.
    void load_stream(const Stream<T>& stream, int64_t n_features, T* to) const {
        transpose(stream.data, stream.stride, length, n_features, to, tokens);
    }
    void store_stream(const T* from, int64_t n_features, const Stream<T>& stream, T sign = 1) const {
        transpose(from, tokens, n_features, length, stream.data, stream.stride, sign);
    }

    // A group's memory (two parts) or reference (one) from the state's layout (d_out, d_in) to (d_in, d_out), and back.
    void copy_in(void* const* memory, int64_t group, T* to, int64_t n_parts) const {
        for (int64_t layer = 0; layer < depth; ++layer) {
            const int64_t in = layout.in[layer], out = layout.out[layer], columns = layout.columns[layer];
            const T* from = static_cast<const T*>(memory[layer]) + group * n_parts * in * out;
            T* target = to + layout.weights[layer] * n_parts / 2;
            for (int64_t part = 0; part < n_parts; ++part, from += in * out, target += in * columns) {
                transpose(from, in, out, in, target, columns);
                for (int64_t i = 0; i < in; ++i)
                    std::fill(target + i * columns + out, target + (i + 1) * columns, T(0));
            }
        }
    }
    void copy_out(const T* from, int64_t group, void* const* memory, int64_t n_parts) const {
        for (int64_t layer = 0; layer < depth; ++layer) {
            const int64_t in = layout.in[layer], out = layout.out[layer], columns = layout.columns[layer];
            T* to = static_cast<T*>(memory[layer]) + group * n_parts * in * out;
            const T* source = from + layout.weights[layer] * n_parts / 2;
            for (int64_t part = 0; part < n_parts; ++part, to += in * out, source += in * columns) {
                transpose(source, columns, in, out, to, in);
            }
        }
    }

    // Weights and momentum of a layer in a padded memory.
    T* weights(T* state, int64_t layer) const { return state + layout.weights[layer]; }
    T* momentum(T* state, int64_t layer) const { return weights(state, layer) + layout.layer_size(layer); }

    // weights^T x and weights x, of a layer.
    Product<T> through(const T* weight, int64_t layer, const T* x) const {
        return {weight, 1, layout.columns[layer], x, tokens, layout.in[layer]};
    }
    Product<T> back_through(const T* weight, int64_t layer, const T* x) const {
        return {weight, layout.columns[layer], 1, x, tokens, layout.out[layer]};
    }
    // Sum over tokens of x[i][t] rows[t][o]: an update of a layer's weights.
    Product<T> outer(const T* x, const T* rows, int64_t layer) const {
        return {x, tokens, 1, rows, layout.columns[layer], length};
    }
    void add_to_weights(int64_t layer, std::initializer_list<Product<T>> products, T* weight) const {
        multiply(layout.in[layer], layout.columns[layer], products, weight, layout.columns[layer], Store::add);
    }

    // delta = error, that of each token clamped to the norm max_delta_norm.
    void clamp_errors(int64_t layer) {
        if (call.max_delta_norm <= 0) return;
        const T longest = static_cast<T>(call.max_delta_norm);
        compute_norms(layer);
        for (int64_t t = 0; t < tokens; ++t) radial[t] = longest / (norms[t] < longest ? longest : norms[t]);
        scale_tokens(error[layer], radial, layout.out[layer], tokens, delta[layer]);
    }
    void compute_norms(int64_t layer) {
        std::fill_n(norms, tokens, T(0));
        add_products(error[layer], error[layer], layout.out[layer], tokens, T(1), norms);
        for (int64_t t = 0; t < tokens; ++t) norms[t] = std::sqrt(norms[t]);
    }
    // From the gradient by delta to that by error: the part along a clamped error is removed, the rest is scaled.
    void clamp_backward(int64_t layer) {
        if (call.max_delta_norm <= 0) return;
        const T longest = static_cast<T>(call.max_delta_norm);
        T* gradient = minus_d_delta[layer];
        compute_norms(layer);
        std::fill_n(radial, tokens, T(0));
        add_products(gradient, error[layer], layout.out[layer], tokens, T(1), radial);
        for (int64_t t = 0; t < tokens; ++t) {
            radial[t] = norms[t] > longest ? radial[t] / (norms[t] * norms[t]) : T(0);
            norms[t] = longest / (norms[t] < longest ? longest : norms[t]);
        }
        for (int64_t f = 0; f < layout.out[layer]; ++f) {
            for (int64_t t = 0; t < tokens; ++t) {
                const int64_t at = f * tokens + t;
                gradient[at] = (gradient[at] - error[layer][at] * radial[t]) * norms[t];
            }
        }
    }

    void write(int64_t group, int64_t chunk, T* trace, T* after);
    void read(int64_t group, int64_t chunk, T* trace);
    void restore(int64_t group, int64_t chunk, T* trace);
    void read_backward(int64_t group, int64_t chunk, T* trace);
    void write_backward(int64_t group, int64_t chunk, T* trace);
};

template <class T>
void Head<T>::forward(int64_t group) {
    T* const traces = static_cast<T*>(call.trace) + (call.trace ? group * call.n_chunks * layout.trace_size : 0);
    T* trace = call.trace ? traces : scratch_trace;
    copy_in(call.memory, group, trace, 2);
    if (open_reference) copy_in(call.reference, group, open_reference, 1);
    for (int64_t chunk = 0; chunk < call.n_chunks; ++chunk) {
        for (int64_t layer = 0; layer < depth; ++layer) {
            reference[layer] =
                open_reference && chunk == 0 ? open_reference + layout.weights[layer] / 2 : weights(trace, layer);
        }
        const bool is_last = chunk + 1 == call.n_chunks;
        T* const after = call.trace && !is_last ? trace + layout.trace_size : memory;
        load_gates(group, chunk);
        write(group, chunk, trace, after);
        read(group, chunk, trace);
        if (is_last) {
            copy_out(after, group, call.memory_after, 2);
        } else if (call.trace) {
            trace = after;
        } else {
            std::copy_n(after, layout.state_size, trace);
        }
    }
}

template <class T>
void Head<T>::write(int64_t group, int64_t chunk, T* trace, T* after) {
    load_stream(stream_at(call.keys, group, chunk), layout.in[0], key_input[0]);
    const int64_t last = depth - 1, out = layout.out[last];
    for (int64_t layer = 0; layer < last; ++layer) {
        T* result = trace + layout.result[layer + 1];
        multiply(layout.out[layer], tokens, {through(reference[layer], layer, key_input[layer])}, result, tokens);
        silu(result, layout.out[layer] * tokens, key_input[layer + 1], slope[layer + 1]);
    }
    T* last_error = trace + layout.last_error;
    load_stream(stream_at(call.values, group, chunk), out, plane_a);
    multiply(out, tokens, {through(reference[last], last, key_input[last])}, last_error, tokens);
    T *copy = error[last], *values = plane_a;
    for_vectors<T>(out * tokens, [=](int64_t i) {
        const auto twice = T(2) * (load(last_error + i) - load(values + i));
        store(last_error + i, twice);
        store(copy + i, twice);
    });
    for (int64_t layer = last; layer > 0; --layer) {
        T *passed = trace + layout.passed[layer], *before = error[layer - 1];
        const int64_t size = layout.in[layer] * tokens;
        multiply(layout.in[layer], tokens, {back_through(reference[layer], layer, error[layer])}, passed, tokens);
        const T* by = slope[layer];
        for_vectors<T>(size, [=](int64_t i) { store(before + i, load(passed + i) * load(by + i)); });
    }
    for (int64_t layer = 0; layer < depth; ++layer) {
        clamp_errors(layer);
        transpose(delta[layer], tokens, layout.out[layer], length, delta_rows[layer], layout.columns[layer], T(-1));
        const int64_t size = layout.layer_size(layer);
        const T *w = weights(trace, layer), *s = momentum(trace, layer);
        T *w_after = weights(after, layer), *s_after = momentum(after, layer);
        const T w_to_w = gates.weights_to_weights, s_to_w = gates.momentum_to_weights,
                s_to_s = gates.momentum_to_momentum;
        for_vectors<T>(size, [=](int64_t i) {
            const auto momentum = load(s + i);
            store(w_after + i, w_to_w * load(w + i) + s_to_w * momentum);
            store(s_after + i, s_to_s * momentum);
        });
        scale_tokens(key_input[layer], gates.into_weights, layout.in[layer], tokens, plane_a);
        add_to_weights(layer, {outer(plane_a, delta_rows[layer], layer)}, w_after);
        scale_tokens(key_input[layer], gates.into_momentum, layout.in[layer], tokens, plane_a);
        add_to_weights(layer, {outer(plane_a, delta_rows[layer], layer)}, s_after);
    }
}

template <class T>
void Head<T>::read(int64_t group, int64_t chunk, T* trace) {
    load_stream(stream_at(call.queries, group, chunk), layout.in[0], query_input[0]);
    for (int64_t layer = 0; layer < depth; ++layer) {
        const int64_t in = layout.in[layer], out = layout.out[layer];
        const bool is_last = layer + 1 == depth;
        T* score = trace + layout.score[layer];
        multiply(
            length, tokens, {Product<T>{key_input[layer], 1, tokens, query_input[layer], tokens, in}}, score, tokens,
            Store::set, true
        );
        T *minus_shares = scores, *token = gates.token;
        for_vectors<T>(length * tokens, [=](int64_t i) {
            store(minus_shares + i, -load(score + i) * load(token + i));
        });
        scale_tokens(query_input[layer], gates.b, in, tokens, plane_a);
        scale_tokens(query_input[layer], gates.m, in, tokens, plane_b);
        T* result = is_last ? plane_c : trace + layout.read[layer + 1];
        multiply(
            out, tokens,
            {through(weights(trace, layer), layer, plane_a), through(momentum(trace, layer), layer, plane_b),
             Product<T>{delta[layer], tokens, 1, minus_shares, tokens, length, Terms::up_to_column}},
            result, tokens
        );
        if (!is_last) silu(result, out * tokens, query_input[layer + 1]);
    }
    store_stream(plane_c, layout.out[depth - 1], stream_at(call.output, group, chunk));
}

template <class T>
void Head<T>::backward(int64_t group) {
    T* const traces = static_cast<T*>(call.trace) + group * call.n_chunks * layout.trace_size;
    copy_in(call.d_memory_after, group, memory, 2);
    if (open_reference) {
        copy_in(call.reference, group, open_reference, 1);
        std::fill_n(d_open_reference, layout.state_size / 2, T(0));
    }
    for (int64_t chunk = call.n_chunks - 1; chunk >= 0; --chunk) {
        T* const trace = traces + chunk * layout.trace_size;
        for (int64_t layer = 0; layer < depth; ++layer) {
            const bool is_open = open_reference && chunk == 0;
            reference[layer] = is_open ? open_reference + layout.weights[layer] / 2 : weights(trace, layer);
            d_reference[layer] = is_open ? d_open_reference + layout.weights[layer] / 2 : weights(memory, layer);
        }
        load_gates(group, chunk);
        gates.clear_gradients();
        restore(group, chunk, trace);
        read_backward(group, chunk, trace);
        write_backward(group, chunk, trace);
        gates.backward();
        const Stream<T> d_alpha = stream_at(call.d_alpha, group, chunk), d_eta = stream_at(call.d_eta, group, chunk),
                        d_theta = stream_at(call.d_theta, group, chunk);
        for (int64_t t = 0; t < length; ++t) {
            d_alpha.data[t * d_alpha.stride] = gates.d_alpha[t];
            d_eta.data[t * d_eta.stride] = gates.d_eta[t];
            d_theta.data[t * d_theta.stride] = gates.d_theta[t];
        }
    }
    copy_out(memory, group, call.d_memory, 2);
    if (d_open_reference) copy_out(d_open_reference, group, call.d_reference, 1);
}

// Recompute what the forward pass did not store in the trace.
template <class T>
void Head<T>::restore(int64_t group, int64_t chunk, T* trace) {
    load_stream(stream_at(call.keys, group, chunk), layout.in[0], key_input[0]);
    load_stream(stream_at(call.queries, group, chunk), layout.in[0], query_input[0]);
    std::copy_n(trace + layout.last_error, layout.out[depth - 1] * tokens, error[depth - 1]);
    for (int64_t layer = 1; layer < depth; ++layer) {
        const int64_t size = layout.in[layer] * tokens;
        silu(trace + layout.result[layer], size, key_input[layer], slope[layer], curvature[layer]);
        silu(trace + layout.read[layer], size, query_input[layer], read_slope[layer]);
        const T* passed = trace + layout.passed[layer];
        T *by = slope[layer], *before = error[layer - 1];
        for_vectors<T>(size, [=](int64_t i) { store(before + i, load(passed + i) * load(by + i)); });
    }
    for (int64_t layer = 0; layer < depth; ++layer) clamp_errors(layer);
}

template <class T>
void Head<T>::read_backward(int64_t group, int64_t chunk, T* trace) {
    T *d_result = plane_a, *d_query_input = plane_b, *d_b = plane_c, *d_m = plane_d;
    load_stream(stream_at(call.d_output, group, chunk), layout.out[depth - 1], d_result);
    for (int64_t layer = depth - 1; layer >= 0; --layer) {
        const int64_t in = layout.in[layer], out = layout.out[layer];
        const T *score = trace + layout.score[layer], *x = query_input[layer];
        transpose(d_result, tokens, out, length, d_result_rows[layer], layout.columns[layer]);
        // (i, t): minus the gradients by the factor of token i's delta, and by the product of its input with the
        // query's.
        multiply(
            length, tokens, {Product<T>{delta[layer], 1, tokens, d_result, tokens, out}}, scores, tokens, Store::set,
            true
        );
        T *token = gates.token, *d_token = gates.d_token, *minus_d_score = scores, *shares = square_a;
        for_vectors<T>(length * tokens, [=](int64_t i) {
            const auto minus_d_share = load(minus_d_score + i), product = load(score + i), part = load(token + i);
            store(d_token + i, load(d_token + i) - minus_d_share * product);
            store(minus_d_score + i, minus_d_share * part);
            store(shares + i, product * part);
        });
        transpose(square_a, tokens, length, length, square_b, tokens);
        multiply(
            out, tokens, {Product<T>{d_result, tokens, 1, square_b, tokens, length, Terms::from_column}},
            minus_d_delta[layer], tokens
        );
        transpose(scores, tokens, length, length, square_b, tokens);
        multiply(
            in, tokens, {Product<T>{x, tokens, 1, square_b, tokens, length, Terms::from_column}},
            minus_d_key_input[layer], tokens
        );
        multiply(in, tokens, {back_through(weights(trace, layer), layer, d_result)}, d_b, tokens);
        multiply(in, tokens, {back_through(momentum(trace, layer), layer, d_result)}, d_m, tokens);
        multiply(
            in, tokens, {Product<T>{key_input[layer], tokens, 1, scores, tokens, length, Terms::up_to_column}},
            d_query_input, tokens
        );
        add_products(x, d_b, in, tokens, T(1), gates.d_b);
        add_products(x, d_m, in, tokens, T(1), gates.d_m);
        scale_tokens(x, gates.b, in, tokens, b_query_input[layer]);
        scale_tokens(x, gates.m, in, tokens, m_query_input[layer]);
        for (int64_t f = 0; f < in; ++f) {
            const T *b = gates.b, *m = gates.m;
            T *from_b = d_b + f * tokens, *from_m = d_m + f * tokens, *to = d_query_input + f * tokens;
            for_vectors<T>(tokens, [=](int64_t t) {
                const auto from_start = load(b + t) * load(from_b + t) + load(m + t) * load(from_m + t);
                store(to + t, from_start - load(to + t));
            });
        }
        if (layer) {
            const T* by = read_slope[layer];
            for_vectors<T>(in * tokens, [=](int64_t i) {
                store(d_result + i, load(d_query_input + i) * load(by + i));
            });
        }
    }
    store_stream(d_query_input, layout.in[0], stream_at(call.d_queries, group, chunk));
}

template <class T>
void Head<T>::write_backward(int64_t group, int64_t chunk, T* trace) {
    T *d_weights_part = plane_c, *d_momentum_part = plane_d;
    for (int64_t layer = 0; layer < depth; ++layer) {
        const int64_t in = layout.in[layer], out = layout.out[layer], size = layout.layer_size(layer);
        const T *w = weights(trace, layer), *s = momentum(trace, layer), *a = key_input[layer];
        T *d_w = weights(memory, layer), *d_s = momentum(memory, layer);
        scale_tokens(a, gates.into_weights, in, tokens, plane_a);
        scale_tokens(a, gates.into_momentum, in, tokens, plane_b);
        multiply(
            out, tokens, {through(d_w, layer, plane_a), through(d_s, layer, plane_b)}, minus_d_delta[layer], tokens,
            Store::add
        );
        multiply(in, tokens, {back_through(d_w, layer, delta[layer])}, d_weights_part, tokens);
        multiply(in, tokens, {back_through(d_s, layer, delta[layer])}, d_momentum_part, tokens);
        add_products(a, d_weights_part, in, tokens, T(-1), gates.d_into_weights);
        add_products(a, d_momentum_part, in, tokens, T(-1), gates.d_into_momentum);
        for (int64_t f = 0; f < in; ++f) {
            const T *to_w = gates.into_weights, *to_s = gates.into_momentum;
            T *from_w = d_weights_part + f * tokens, *from_s = d_momentum_part + f * tokens;
            T* to = minus_d_key_input[layer] + f * tokens;
            for_vectors<T>(tokens, [=](int64_t t) {
                store(to + t, load(to + t) + load(to_w + t) * load(from_w + t) + load(to_s + t) * load(from_s + t));
            });
        }
        clamp_backward(layer);
        gates.d_weights_to_weights += dot(d_w, w, size);
        gates.d_momentum_to_weights += dot(d_w, s, size);
        gates.d_momentum_to_momentum += dot(d_s, s, size);
        const T w_to_w = gates.weights_to_weights, s_to_w = gates.momentum_to_weights,
                s_to_s = gates.momentum_to_momentum;
        for_vectors<T>(size, [=](int64_t i) {
            const auto gradient = load(d_w + i);
            store(d_s + i, s_to_w * gradient + s_to_s * load(d_s + i));
            store(d_w + i, w_to_w * gradient);
        });
        add_to_weights(layer, {outer(b_query_input[layer], d_result_rows[layer], layer)}, d_w);
        add_to_weights(layer, {outer(m_query_input[layer], d_result_rows[layer], layer)}, d_s);
    }
    // Back-propagation through the back-propagation: up the layers, through the errors; then down, through the results.
    T *minus_d_error = minus_d_delta[0], *minus_d_passed = plane_a;
    for (int64_t layer = 1; layer < depth; ++layer) {
        const T* passed = trace + layout.passed[layer];
        const T *first = slope[layer], *second = curvature[layer];
        T* to = minus_d_result[layer];
        for_vectors<T>(layout.in[layer] * tokens, [=](int64_t i) {
            const auto gradient = load(minus_d_error + i);
            store(to + i, gradient * load(passed + i) * load(second + i));
            store(minus_d_passed + i, gradient * load(first + i));
        });
        transpose(error[layer], tokens, layout.out[layer], length, delta_rows[layer], layout.columns[layer], T(-1));
        add_to_weights(layer, {outer(minus_d_passed, delta_rows[layer], layer)}, d_reference[layer]);
        minus_d_error = minus_d_delta[layer];
        multiply(
            layout.out[layer], tokens, {through(reference[layer], layer, minus_d_passed)}, minus_d_error, tokens,
            Store::add
        );
    }
    const int64_t last = depth - 1;
    T* minus_d_output = minus_d_error;
    for_vectors<T>(layout.out[last] * tokens, [=](int64_t i) {
        store(minus_d_output + i, T(2) * load(minus_d_output + i));
    });
    store_stream(minus_d_output, layout.out[last], stream_at(call.d_values, group, chunk));
    for (int64_t layer = last; layer >= 0; --layer) {
        const int64_t size = layout.in[layer] * tokens;
        transpose(minus_d_output, tokens, layout.out[layer], length, delta_rows[layer], layout.columns[layer], T(-1));
        add_to_weights(layer, {outer(key_input[layer], delta_rows[layer], layer)}, d_reference[layer]);
        multiply(
            layout.in[layer], tokens, {back_through(reference[layer], layer, minus_d_output)}, minus_d_key_input[layer],
            tokens, Store::add
        );
        if (!layer) break;
        minus_d_output = minus_d_result[layer];
        const T *from = minus_d_key_input[layer], *by = slope[layer];
        for_vectors<T>(size, [=](int64_t i) {
            store(minus_d_output + i, load(minus_d_output + i) + load(from + i) * load(by + i));
        });
    }
    store_stream(minus_d_key_input[0], layout.in[0], stream_at(call.d_keys, group, chunk), T(-1));
}

template <class T>
void scan(const Call& call, bool is_backward, std::atomic<int64_t>& next) {
    const Layout layout(call, CACHE_LINE / sizeof(T));
    Head<T> head(call, layout, is_backward);
    for (int64_t group = next++; group < call.items * call.heads; group = next++) {
        is_backward ? head.backward(group) : head.forward(group);
    }
}
