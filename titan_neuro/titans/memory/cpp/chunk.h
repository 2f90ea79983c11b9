// A head's chunks in the dual form, there and back; ../README.md derives every line, names are its own.
//
// Inside, tokens run along vectors: a stretch of a stream is (features, tokens). Weights come as in block.py, input by
// output, and so do their gradients. Signs: what is subtracted from the weights makes most gradients of a write
// negative; `minus_by_x` is minus the gradient by x.

// How the memory and a chunk's tokens lie in a buffer.
struct Layout {
    int64_t depth, length, tokens;
    // By layer: features in, features out, and the latter padded; the weights' place. Momentum follows the weights.
    std::vector<int64_t> in, out, columns, weights;
    int64_t state_size = 0;
    // By layer, in a chunk's trace, which starts with the memory: what each layer but the first is asked for the keys
    // and for the queries, before the SiLU; the keys' error that comes back to it, before the SiLU's slope; the error
    // of the last layer; products of queries with keys.
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
            for (auto* place : {&result, &read, &passed}) place->push_back(layer ? take(in[layer] * tokens) : -1);
            score.push_back(take(length * tokens));
        }
        last_error = take(out.back() * tokens);
    }

    int64_t layer_size(int64_t layer) const { return in[layer] * columns[layer]; }

private:
    int64_t take(int64_t size) {
        const int64_t place = trace_size;
        trace_size += size;
        return place;
    }
};

// Shares of the chunk's start and of each token in the weights, from the gates; as gates.py.
template <class T>
struct Gates {
    int64_t length, tokens;
    T *keep, *eta, *theta;
    // (t, i): what is left in S_t, and has come into W_t, of 1 that entered the momentum at token i.
    T *in_momentum, *in_weights;
    // (i, t): share of token i in W_t. By t: shares of the first weights and the first momentum in W_t. By i: shares of
    // a token in the last weights and in the last momentum.
    T *token, *kept, *carried, *into_weights, *into_momentum;
    T weights_to_weights, momentum_to_weights, momentum_to_momentum;
    // Gradients, laid out alike.
    T *by_token, *by_kept, *by_carried, *by_into_weights, *by_into_momentum;
    T by_weights_to_weights, by_momentum_to_weights, by_momentum_to_momentum;
    T *rows, *momentum_rows, *by_alpha, *by_eta, *by_theta;

    Gates(const Layout& layout, Arena<T>& arena) : length(layout.length), tokens(layout.tokens) {
        for (T** vector :
             {&keep, &eta, &theta, &kept, &carried, &into_weights, &into_momentum, &by_kept, &by_carried,
              &by_into_weights, &by_into_momentum, &by_alpha, &by_eta, &by_theta}) {
            *vector = arena.take(tokens);
        }
        for (T** square : {&in_momentum, &in_weights, &token, &by_token, &rows, &momentum_rows}) {
            *square = arena.take(length * tokens);
        }
    }

    void load(const Stream<T>& alpha_stream, const Stream<T>& eta_stream, const Stream<T>& theta_stream) {
        for (int64_t t = 0; t < length; ++t) {
            keep[t] = 1 - alpha_stream.at[t * alpha_stream.stride];
            eta[t] = eta_stream.at[t * eta_stream.stride];
            theta[t] = theta_stream.at[t * theta_stream.stride];
        }
        std::fill_n(in_momentum, tokens, T(0));
        std::fill_n(in_weights, tokens, T(0));
        in_momentum[0] = in_weights[0] = 1;
        kept[0] = keep[0];
        for (int64_t t = 1; t < length; ++t) {
            const T *momentum_before = in_momentum + (t - 1) * tokens, *weights_before = in_weights + (t - 1) * tokens;
            T *momentum = in_momentum + t * tokens, *weights = in_weights + t * tokens;
            for (int64_t i = 0; i < tokens; ++i) momentum[i] = eta[t] * momentum_before[i];
            momentum[t] = 1;
            for (int64_t i = 0; i < tokens; ++i) weights[i] = momentum[i] + keep[t] * weights_before[i];
            kept[t] = keep[t] * kept[t - 1];
        }
        for (int64_t t = 0; t < length; ++t) carried[t] = eta[0] * in_weights[t * tokens];
        transpose(in_weights, tokens, length, length, token, tokens);
        for (int64_t i = 0; i < length; ++i) {
            for (int64_t t = 0; t < tokens; ++t) token[i * tokens + t] *= theta[i];
        }
        const int64_t last = (length - 1) * tokens;
        for (int64_t i = 0; i < tokens; ++i) {
            into_weights[i] = in_weights[last + i] * theta[i];
            into_momentum[i] = in_momentum[last + i] * theta[i];
        }
        weights_to_weights = kept[length - 1];
        momentum_to_weights = carried[length - 1];
        momentum_to_momentum = eta[0] * in_momentum[last];
    }

    void clear_gradients() {
        for (T* vector : {by_kept, by_carried, by_into_weights, by_into_momentum}) std::fill_n(vector, tokens, T(0));
        std::fill_n(by_token, length * tokens, T(0));
        by_weights_to_weights = by_momentum_to_weights = by_momentum_to_momentum = 0;
    }

    // From the gradients by all shares to those by the gates.
    void backward() {
        const int64_t last = (length - 1) * tokens;
        by_kept[length - 1] += by_weights_to_weights;
        by_carried[length - 1] += by_momentum_to_weights;
        transpose(by_token, tokens, length, length, rows, tokens);
        for (int64_t i = 0; i < tokens; ++i) {
            by_theta[i] = by_into_weights[i] * in_weights[last + i] + by_into_momentum[i] * in_momentum[last + i];
        }
        for (int64_t t = 0; t < length; ++t) {
            for (int64_t i = 0; i < tokens; ++i) {
                by_theta[i] += rows[t * tokens + i] * in_weights[t * tokens + i];
                rows[t * tokens + i] *= theta[i];
            }
            rows[t * tokens] += by_carried[t] * eta[0];
        }
        for (int64_t i = 0; i < tokens; ++i) {
            rows[last + i] += by_into_weights[i] * theta[i];
            momentum_rows[last + i] = rows[last + i] + by_into_momentum[i] * theta[i];
        }
        momentum_rows[last] += by_momentum_to_momentum * eta[0];
        for (int64_t t = length - 2; t >= 0; --t) {
            T *row = rows + t * tokens, *momentum_row = momentum_rows + t * tokens;
            for (int64_t i = 0; i < tokens; ++i) {
                row[i] += keep[t + 1] * row[tokens + i];
                momentum_row[i] = row[i] + eta[t + 1] * momentum_row[tokens + i];
            }
            by_kept[t] += keep[t + 1] * by_kept[t + 1];
        }
        by_alpha[0] = -by_kept[0];
        by_eta[0] = by_momentum_to_momentum * in_momentum[last];
        for (int64_t t = 0; t < length; ++t) by_eta[0] += by_carried[t] * in_weights[t * tokens];
        for (int64_t t = 1; t < length; ++t) {
            by_alpha[t] = -by_kept[t] * kept[t - 1] - dot(rows + t * tokens, in_weights + (t - 1) * tokens, t);
            by_eta[t] = dot(momentum_rows + t * tokens, in_momentum + (t - 1) * tokens, t);
        }
    }
};

// The SiLU of z and its derivatives, as many as there are places for.
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
        by_reference.resize(depth);
        for (int64_t layer = 0; layer < depth; ++layer) {
            const int64_t in = layout.in[layer] * tokens, out = layout.out[layer] * tokens;
            const int64_t rows = length * layout.columns[layer];
            widest = std::max({widest, layout.in[layer], layout.out[layer]});
            asked.push_back(arena.take(in));
            given.push_back(arena.take(in));
            error.push_back(arena.take(out));
            delta.push_back(call.max_delta_norm > 0 ? arena.take(out) : error.back());
            delta_rows.push_back(arena.take(rows));
            slope.push_back(layer ? arena.take(in) : nullptr);
            if (!is_backward) continue;
            for (auto* list : {&kept_asked, &carried_asked, &minus_by_given}) list->push_back(arena.take(in));
            by_result_rows.push_back(arena.take(rows));
            minus_by_delta.push_back(arena.take(out));
            for (auto* list : {&curvature, &read_slope, &minus_by_result}) {
                list->push_back(layer ? arena.take(in) : nullptr);
            }
        }
        for (T** plane : {&plane_a, &plane_b, &plane_c, &plane_d}) *plane = arena.take(widest * tokens);
        for (T** square : {&scores, &square_a, &square_b}) *square = arena.take(length * tokens);
        for (T** vector : {&norms, &lost}) *vector = arena.take(tokens);
        memory = arena.take(layout.state_size);
        if (!call.trace) own_trace = arena.take(layout.trace_size);
        if (call.reference) own_reference = arena.take(layout.state_size / 2);
        if (call.reference && is_backward) by_own_reference = arena.take(layout.state_size / 2);
    }

    void forward(int64_t group);
    void backward(int64_t group);

private:
    const Call& call;
    const Layout& layout;
    const int64_t depth, length, tokens;
    Arena<T> arena;
    Gates<T> gates;
    // By layer, (features, tokens): what the keys give it and the queries ask it for; its error for the keys, and that
    // shortened, which is also there by rows of tokens, negative.
    std::vector<T*> given, asked, error, delta, delta_rows;
    // By layer, on the way back: first and second derivatives of the SiLU before it; queries times their shares.
    std::vector<T*> slope, curvature, read_slope, kept_asked, carried_asked;
    std::vector<T*> by_result_rows, minus_by_delta, minus_by_given, minus_by_result, reference, by_reference;
    T *plane_a, *plane_b, *plane_c, *plane_d, *scores, *square_a, *square_b, *norms, *lost;
    // The memory after the chunk, or the gradient by it.
    T *memory, *own_trace = nullptr, *own_reference = nullptr, *by_own_reference = nullptr;

    Stream<T> at(const Streams& streams, int64_t group, int64_t chunk) const {
        const int64_t item = group / call.heads, head = group % call.heads;
        T* first = static_cast<T*>(streams.data) + item * streams.item_stride + head * streams.head_stride;
        return {first + chunk * length * streams.token_stride, streams.token_stride};
    }

    void load_gates(int64_t group, int64_t chunk) {
        gates.load(at(call.alpha, group, chunk), at(call.eta, group, chunk), at(call.theta, group, chunk));
    }

    // (tokens, features) of a stream to (features, tokens), and back.
    void take(const Stream<T>& stream, int64_t n_features, T* to) const {
        transpose(stream.at, stream.stride, length, n_features, to, tokens);
    }
    void put(const T* from, int64_t n_features, const Stream<T>& stream, T sign = 1) const {
        transpose(from, tokens, n_features, length, stream.at, stream.stride, sign);
    }

    // A group's memory, or (one part) its reference, as the state has it, output by input, to ours and back.
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

    // W, and after it S, of a layer in a padded memory.
    T* weights(T* state, int64_t layer) const { return state + layout.weights[layer]; }
    T* momentum(T* state, int64_t layer) const { return weights(state, layer) + layout.layer_size(layer); }

    // weights^T x and weights x, of a layer.
    Product<T> through(const T* weight, int64_t layer, const T* x) const {
        return {weight, 1, layout.columns[layer], x, tokens, layout.in[layer]};
    }
    Product<T> back_through(const T* weight, int64_t layer, const T* x) const {
        return {weight, layout.columns[layer], 1, x, tokens, layout.out[layer]};
    }
    // Sum over tokens of x[i][t] rows[t][o], which is a change of a layer's weights.
    Product<T> outer(const T* x, const T* rows, int64_t layer) const {
        return {x, tokens, 1, rows, layout.columns[layer], length};
    }
    void add_to_weights(int64_t layer, std::initializer_list<Product<T>> products, T* weight) const {
        multiply(layout.in[layer], layout.columns[layer], products, weight, layout.columns[layer], Put::add);
    }

    // delta = error, each token's shortened to max_delta_norm.
    void shorten(int64_t layer) {
        if (call.max_delta_norm <= 0) return;
        const T longest = static_cast<T>(call.max_delta_norm);
        find_norms(layer);
        for (int64_t t = 0; t < tokens; ++t) lost[t] = longest / (norms[t] < longest ? longest : norms[t]);
        scale_tokens(error[layer], lost, layout.out[layer], tokens, delta[layer]);
    }
    void find_norms(int64_t layer) {
        std::fill_n(norms, tokens, T(0));
        add_products(error[layer], error[layer], layout.out[layer], tokens, T(1), norms);
        for (int64_t t = 0; t < tokens; ++t) norms[t] = std::sqrt(norms[t]);
    }
    // From the gradient by delta to that by error: what lies along a shortened error is lost, the rest is scaled.
    void unshorten(int64_t layer) {
        if (call.max_delta_norm <= 0) return;
        const T longest = static_cast<T>(call.max_delta_norm);
        T* gradient = minus_by_delta[layer];
        find_norms(layer);
        std::fill_n(lost, tokens, T(0));
        add_products(gradient, error[layer], layout.out[layer], tokens, T(1), lost);
        for (int64_t t = 0; t < tokens; ++t) {
            lost[t] = norms[t] > longest ? lost[t] / (norms[t] * norms[t]) : T(0);
            norms[t] = longest / (norms[t] < longest ? longest : norms[t]);
        }
        for (int64_t f = 0; f < layout.out[layer]; ++f) {
            for (int64_t t = 0; t < tokens; ++t) {
                const int64_t at = f * tokens + t;
                gradient[at] = (gradient[at] - error[layer][at] * lost[t]) * norms[t];
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
    T* trace = call.trace ? traces : own_trace;
    copy_in(call.memory, group, trace, 2);
    if (own_reference) copy_in(call.reference, group, own_reference, 1);
    for (int64_t chunk = 0; chunk < call.n_chunks; ++chunk) {
        for (int64_t layer = 0; layer < depth; ++layer) {
            reference[layer] =
                own_reference && chunk == 0 ? own_reference + layout.weights[layer] / 2 : weights(trace, layer);
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
    take(at(call.keys, group, chunk), layout.in[0], given[0]);
    const int64_t last = depth - 1, out = layout.out[last];
    for (int64_t layer = 0; layer < last; ++layer) {
        T* result = trace + layout.result[layer + 1];
        multiply(layout.out[layer], tokens, {through(reference[layer], layer, given[layer])}, result, tokens);
        silu(result, layout.out[layer] * tokens, given[layer + 1], slope[layer + 1]);
    }
    T* last_error = trace + layout.last_error;
    take(at(call.values, group, chunk), out, plane_a);
    multiply(out, tokens, {through(reference[last], last, given[last])}, last_error, tokens);
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
        shorten(layer);
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
        scale_tokens(given[layer], gates.into_weights, layout.in[layer], tokens, plane_a);
        add_to_weights(layer, {outer(plane_a, delta_rows[layer], layer)}, w_after);
        scale_tokens(given[layer], gates.into_momentum, layout.in[layer], tokens, plane_a);
        add_to_weights(layer, {outer(plane_a, delta_rows[layer], layer)}, s_after);
    }
}

template <class T>
void Head<T>::read(int64_t group, int64_t chunk, T* trace) {
    take(at(call.queries, group, chunk), layout.in[0], asked[0]);
    for (int64_t layer = 0; layer < depth; ++layer) {
        const int64_t in = layout.in[layer], out = layout.out[layer];
        const bool is_last = layer + 1 == depth;
        T* score = trace + layout.score[layer];
        multiply(
            length, tokens, {Product<T>{given[layer], 1, tokens, asked[layer], tokens, in}}, score, tokens, Put::set,
            true
        );
        T *minus_shares = scores, *token = gates.token;
        for_vectors<T>(length * tokens, [=](int64_t i) {
            store(minus_shares + i, -load(score + i) * load(token + i));
        });
        scale_tokens(asked[layer], gates.kept, in, tokens, plane_a);
        scale_tokens(asked[layer], gates.carried, in, tokens, plane_b);
        T* result = is_last ? plane_c : trace + layout.read[layer + 1];
        multiply(
            out, tokens,
            {through(weights(trace, layer), layer, plane_a), through(momentum(trace, layer), layer, plane_b),
             Product<T>{delta[layer], tokens, 1, minus_shares, tokens, length, Terms::up_to_column}},
            result, tokens
        );
        if (!is_last) silu(result, out * tokens, asked[layer + 1]);
    }
    put(plane_c, layout.out[depth - 1], at(call.output, group, chunk));
}

template <class T>
void Head<T>::backward(int64_t group) {
    T* const traces = static_cast<T*>(call.trace) + group * call.n_chunks * layout.trace_size;
    copy_in(call.by_memory_after, group, memory, 2);
    if (own_reference) {
        copy_in(call.reference, group, own_reference, 1);
        std::fill_n(by_own_reference, layout.state_size / 2, T(0));
    }
    for (int64_t chunk = call.n_chunks - 1; chunk >= 0; --chunk) {
        T* const trace = traces + chunk * layout.trace_size;
        for (int64_t layer = 0; layer < depth; ++layer) {
            const bool has_own = own_reference && chunk == 0;
            reference[layer] = has_own ? own_reference + layout.weights[layer] / 2 : weights(trace, layer);
            by_reference[layer] = has_own ? by_own_reference + layout.weights[layer] / 2 : weights(memory, layer);
        }
        load_gates(group, chunk);
        gates.clear_gradients();
        restore(group, chunk, trace);
        read_backward(group, chunk, trace);
        write_backward(group, chunk, trace);
        gates.backward();
        const Stream<T> by_alpha = at(call.by_alpha, group, chunk), by_eta = at(call.by_eta, group, chunk),
                        by_theta = at(call.by_theta, group, chunk);
        for (int64_t t = 0; t < length; ++t) {
            by_alpha.at[t * by_alpha.stride] = gates.by_alpha[t];
            by_eta.at[t * by_eta.stride] = gates.by_eta[t];
            by_theta.at[t * by_theta.stride] = gates.by_theta[t];
        }
    }
    copy_out(memory, group, call.by_memory, 2);
    if (by_own_reference) copy_out(by_own_reference, group, call.by_reference, 1);
}

// What the way there knew and did not leave in the trace.
template <class T>
void Head<T>::restore(int64_t group, int64_t chunk, T* trace) {
    take(at(call.keys, group, chunk), layout.in[0], given[0]);
    take(at(call.queries, group, chunk), layout.in[0], asked[0]);
    std::copy_n(trace + layout.last_error, layout.out[depth - 1] * tokens, error[depth - 1]);
    for (int64_t layer = 1; layer < depth; ++layer) {
        const int64_t size = layout.in[layer] * tokens;
        silu(trace + layout.result[layer], size, given[layer], slope[layer], curvature[layer]);
        silu(trace + layout.read[layer], size, asked[layer], read_slope[layer]);
        const T* passed = trace + layout.passed[layer];
        T *by = slope[layer], *before = error[layer - 1];
        for_vectors<T>(size, [=](int64_t i) { store(before + i, load(passed + i) * load(by + i)); });
    }
    for (int64_t layer = 0; layer < depth; ++layer) shorten(layer);
}

template <class T>
void Head<T>::read_backward(int64_t group, int64_t chunk, T* trace) {
    T *by_result = plane_a, *by_asked = plane_b, *by_kept = plane_c, *by_carried = plane_d;
    take(at(call.by_output, group, chunk), layout.out[depth - 1], by_result);
    for (int64_t layer = depth - 1; layer >= 0; --layer) {
        const int64_t in = layout.in[layer], out = layout.out[layer];
        const T *score = trace + layout.score[layer], *x = asked[layer];
        transpose(by_result, tokens, out, length, by_result_rows[layer], layout.columns[layer]);
        // (i, t): minus the gradient by what token i's delta is multiplied by, and by its product with the query.
        multiply(
            length, tokens, {Product<T>{delta[layer], 1, tokens, by_result, tokens, out}}, scores, tokens, Put::set,
            true
        );
        T *token = gates.token, *by_token = gates.by_token, *minus_by_score = scores, *shares = square_a;
        for_vectors<T>(length * tokens, [=](int64_t i) {
            const auto minus_by_share = load(minus_by_score + i), product = load(score + i), part = load(token + i);
            store(by_token + i, load(by_token + i) - minus_by_share * product);
            store(minus_by_score + i, minus_by_share * part);
            store(shares + i, product * part);
        });
        transpose(square_a, tokens, length, length, square_b, tokens);
        multiply(
            out, tokens, {Product<T>{by_result, tokens, 1, square_b, tokens, length, Terms::from_column}},
            minus_by_delta[layer], tokens
        );
        transpose(scores, tokens, length, length, square_b, tokens);
        multiply(
            in, tokens, {Product<T>{x, tokens, 1, square_b, tokens, length, Terms::from_column}}, minus_by_given[layer],
            tokens
        );
        multiply(in, tokens, {back_through(weights(trace, layer), layer, by_result)}, by_kept, tokens);
        multiply(in, tokens, {back_through(momentum(trace, layer), layer, by_result)}, by_carried, tokens);
        multiply(
            in, tokens, {Product<T>{given[layer], tokens, 1, scores, tokens, length, Terms::up_to_column}}, by_asked,
            tokens
        );
        add_products(x, by_kept, in, tokens, T(1), gates.by_kept);
        add_products(x, by_carried, in, tokens, T(1), gates.by_carried);
        scale_tokens(x, gates.kept, in, tokens, kept_asked[layer]);
        scale_tokens(x, gates.carried, in, tokens, carried_asked[layer]);
        for (int64_t f = 0; f < in; ++f) {
            const T *kept = gates.kept, *carried = gates.carried;
            T *from_kept = by_kept + f * tokens, *from_carried = by_carried + f * tokens, *to = by_asked + f * tokens;
            for_vectors<T>(tokens, [=](int64_t t) {
                const auto from_start =
                    load(kept + t) * load(from_kept + t) + load(carried + t) * load(from_carried + t);
                store(to + t, from_start - load(to + t));
            });
        }
        if (layer) {
            const T* by = read_slope[layer];
            for_vectors<T>(in * tokens, [=](int64_t i) { store(by_result + i, load(by_asked + i) * load(by + i)); });
        }
    }
    put(by_asked, layout.in[0], at(call.by_queries, group, chunk));
}

template <class T>
void Head<T>::write_backward(int64_t group, int64_t chunk, T* trace) {
    T *by_weights_part = plane_c, *by_momentum_part = plane_d;
    for (int64_t layer = 0; layer < depth; ++layer) {
        const int64_t in = layout.in[layer], out = layout.out[layer], size = layout.layer_size(layer);
        const T *w = weights(trace, layer), *s = momentum(trace, layer), *a = given[layer];
        T *by_w = weights(memory, layer), *by_s = momentum(memory, layer);
        scale_tokens(a, gates.into_weights, in, tokens, plane_a);
        scale_tokens(a, gates.into_momentum, in, tokens, plane_b);
        multiply(
            out, tokens, {through(by_w, layer, plane_a), through(by_s, layer, plane_b)}, minus_by_delta[layer], tokens,
            Put::add
        );
        multiply(in, tokens, {back_through(by_w, layer, delta[layer])}, by_weights_part, tokens);
        multiply(in, tokens, {back_through(by_s, layer, delta[layer])}, by_momentum_part, tokens);
        add_products(a, by_weights_part, in, tokens, T(-1), gates.by_into_weights);
        add_products(a, by_momentum_part, in, tokens, T(-1), gates.by_into_momentum);
        for (int64_t f = 0; f < in; ++f) {
            const T *to_w = gates.into_weights, *to_s = gates.into_momentum;
            T *from_w = by_weights_part + f * tokens, *from_s = by_momentum_part + f * tokens;
            T* to = minus_by_given[layer] + f * tokens;
            for_vectors<T>(tokens, [=](int64_t t) {
                store(to + t, load(to + t) + load(to_w + t) * load(from_w + t) + load(to_s + t) * load(from_s + t));
            });
        }
        unshorten(layer);
        gates.by_weights_to_weights += dot(by_w, w, size);
        gates.by_momentum_to_weights += dot(by_w, s, size);
        gates.by_momentum_to_momentum += dot(by_s, s, size);
        const T w_to_w = gates.weights_to_weights, s_to_w = gates.momentum_to_weights,
                s_to_s = gates.momentum_to_momentum;
        for_vectors<T>(size, [=](int64_t i) {
            const auto gradient = load(by_w + i);
            store(by_s + i, s_to_w * gradient + s_to_s * load(by_s + i));
            store(by_w + i, w_to_w * gradient);
        });
        add_to_weights(layer, {outer(kept_asked[layer], by_result_rows[layer], layer)}, by_w);
        add_to_weights(layer, {outer(carried_asked[layer], by_result_rows[layer], layer)}, by_s);
    }
    // Back-propagation of a back-propagation: up the layers, through the errors; then down, through the results.
    T *minus_by_error = minus_by_delta[0], *minus_by_passed = plane_a;
    for (int64_t layer = 1; layer < depth; ++layer) {
        const T* passed = trace + layout.passed[layer];
        const T *first = slope[layer], *second = curvature[layer];
        T* to = minus_by_result[layer];
        for_vectors<T>(layout.in[layer] * tokens, [=](int64_t i) {
            const auto gradient = load(minus_by_error + i);
            store(to + i, gradient * load(passed + i) * load(second + i));
            store(minus_by_passed + i, gradient * load(first + i));
        });
        transpose(error[layer], tokens, layout.out[layer], length, delta_rows[layer], layout.columns[layer], T(-1));
        add_to_weights(layer, {outer(minus_by_passed, delta_rows[layer], layer)}, by_reference[layer]);
        minus_by_error = minus_by_delta[layer];
        multiply(
            layout.out[layer], tokens, {through(reference[layer], layer, minus_by_passed)}, minus_by_error, tokens,
            Put::add
        );
    }
    const int64_t last = depth - 1;
    T* minus_by_output = minus_by_error;
    for_vectors<T>(layout.out[last] * tokens, [=](int64_t i) {
        store(minus_by_output + i, T(2) * load(minus_by_output + i));
    });
    put(minus_by_output, layout.out[last], at(call.by_values, group, chunk));
    for (int64_t layer = last; layer >= 0; --layer) {
        const int64_t size = layout.in[layer] * tokens;
        transpose(minus_by_output, tokens, layout.out[layer], length, delta_rows[layer], layout.columns[layer], T(-1));
        add_to_weights(layer, {outer(given[layer], delta_rows[layer], layer)}, by_reference[layer]);
        multiply(
            layout.in[layer], tokens, {back_through(reference[layer], layer, minus_by_output)}, minus_by_given[layer],
            tokens, Put::add
        );
        if (!layer) break;
        minus_by_output = minus_by_result[layer];
        const T *from = minus_by_given[layer], *by = slope[layer];
        for_vectors<T>(size, [=](int64_t i) {
            store(minus_by_output + i, load(minus_by_output + i) + load(from + i) * load(by + i));
        });
    }
    put(minus_by_given[0], layout.in[0], at(call.by_keys, group, chunk), T(-1));
}

template <class T>
void scan(const Call& call, bool is_backward, std::atomic<int64_t>& next) {
    const Layout layout(call, CACHE_LINE / sizeof(T));
    Head<T> head(call, layout, is_backward);
    for (int64_t group = next++; group < call.items * call.heads; group = next++) {
        is_backward ? head.backward(group) : head.forward(group);
    }
}
