#include "context.h"

#include <algorithm>
#include <cmath>

#include "shares.h"
#include "team.h"

namespace cg {
namespace {

// Rows of a gate that wait for their ups, in a product of few tokens.
constexpr int64_t kGateRows = 64;

}  // namespace

void* Scratch::bytes(size_t size) {
  if (size > buffer_.size()) {
    buffer_ = AlignedBuffer();  // first, so that old and new do not coexist
    buffer_ = AlignedBuffer(size);
  }
  return buffer_.data();
}

// Activations as the products of one call want them.
struct Context::Prepared {
  const float* x;
  QuantizedTokens quantized[kElementFormats];  // by what the weights' elements are
  bool few, few_int8;  // whether they are for row products: of any kind, or those with int8 activations
};

Context::Context(const Kernels& kernels, int threads)
    : kernels_(kernels), threads_(threads), team_(std::make_unique<Team>(threads)) {}

Context::~Context() = default;

void Context::after_fork() {
  (void)team_.release();
  team_ = std::make_unique<Team>(threads_);
}

int64_t Context::embed(const Matrix& table, const int32_t* ids, int64_t tokens, float scale, float* out) {
  for (int64_t t = 0; t < tokens; t++) {
    if (ids[t] < 0 || ids[t] >= table.rows) return t;
  }
  Lock lock(team_->mutex);
  team_->split(tokens, tokens * table.cols, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) kernels_.embed(table, ids[t], scale, out + t * table.cols);
  });
  return -1;
}

Context::Prepared Context::prepare(const Input& in, const bool* formats) {
  Team& team = *team_;
  Prepared prepared{in.x, {}, in.tokens <= kFewTokens, in.tokens <= kernels_.few_tokens};
  const Layout layout = prepared.few_int8 ? Layout::rows : Layout::panels;
  bool floats = false, quantized = false;
  for (int i = 0; i < kFormats; i++) {
    const auto format = static_cast<Format>(i);
    if (!formats[i]) continue;
    if (!in.int8 || !is_blocked(format)) {
      floats = true;
      continue;
    }
    const auto f = static_cast<size_t>(elements_of(format));
    const int64_t bytes = kernels_.quantized_bytes(layout, in.cols, in.tokens);
    prepared.quantized[f] = {team.quantized[f].get<std::byte>(bytes), in.tokens};
    quantized = true;
  }
  const int64_t unit = floats && !prepared.few ? kernels_.float_tokens : 1,
                units = divide_up(in.tokens, unit);
  float* all = nullptr;  // of the tokens as floats, where they are not taken as they are
  if (floats && (in.norm != nullptr || !prepared.few)) {
    prepared.x = all = team.floats.get<float>(units * unit * in.cols);
  }
  if (all == nullptr && !quantized) return prepared;
  team.split(units, in.tokens * in.cols, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t first = begin * unit; first < std::min(end * unit, in.tokens); first += unit) {
      const int64_t last = std::min(first + unit, in.tokens);
      float* rows = nullptr;
      if (in.norm != nullptr) {
        rows = all != nullptr && prepared.few
                   ? all + first * in.cols
                   : team.of_thread[static_cast<size_t>(thread)].rows.get<float>(unit * in.cols);
      }
      const float* x[kMostTokens];
      for (int64_t t = first; t < last; t++) {
        x[t - first] = in.x + t * in.cols;
        if (in.norm != nullptr) x[t - first] = normalize(in, t, rows + (t - first) * in.cols);
        for (int f = 0; f < kElementFormats; f++) {
          const QuantizedTokens& q = prepared.quantized[f];
          if (q.data != nullptr)
            kernels_.quantize_token(static_cast<Format>(f), layout, x[t - first], in.cols, q, t);
        }
      }
      if (all != nullptr && !prepared.few)
        kernels_.spread_tokens(x, last - first, in.cols, all + first * in.cols);
    }
  });
  return prepared;
}

const float* Context::normalize(const Input& in, int64_t token, float* out) const {
  const float* x = in.x + token * in.cols;
  const float mean = kernels_.sum_of_squares(x, in.cols) / static_cast<float>(in.cols);
  kernels_.weigh(x, in.norm, 1.0f / std::sqrt(mean + in.eps), in.cols, out);
  return out;
}

void Context::multiply(const Input& in, const Prepared& prepared, const Matrix& weight, int64_t begin,
                       int64_t end, int thread, float* y, int64_t y_stride, int64_t first_row,
                       const float* residual) {
  const auto format = static_cast<size_t>(weight.format);
  const bool int8 = in.int8 && is_blocked(weight.format);
  ProductArgs args{weight, prepared.x, {}, in.tokens, y, residual, y_stride, first_row, nullptr};
  if (int8) args.quantized = prepared.quantized[static_cast<size_t>(elements_of(weight.format))];
  const Products& products = int8 ? kernels_.int8_products[format] : kernels_.f32_products[format];
  if (prepared.few || (int8 && prepared.few_int8)) return products.rows(args, begin, end);
  const int64_t bytes = (int8 ? kernels_.int8_scratch_bytes : kernels_.f32_scratch_bytes)(in.cols, in.tokens);
  args.scratch = team_->of_thread[static_cast<size_t>(thread)].panel.get<uint8_t>(bytes);
  products.panels(args, begin, end);
}

void Context::products(const Input& in, const Output* outputs, int count, const float* residual) {
  Lock lock(team_->mutex);
  bool formats[kFormats] = {};
  for (int i = 0; i < count; i++) formats[static_cast<size_t>(outputs[i].weight.format)] = true;
  const Prepared prepared = prepare(in, formats);
  Shares shares(prepared.few ? kRowUnit : kernels_.panel_rows);
  for (int i = 0; i < count; i++) shares.add(outputs[i].weight);
  auto piece = [&](int64_t i, int thread) {
    shares.each(i, [&](int which, int64_t begin, int64_t end) {
      const Output& out = outputs[which];
      multiply(in, prepared, out.weight, begin, end, thread, out.y, out.weight.rows, 0, residual);
    });
  };
  team_->pool.for_runs(shares.cut(in.tokens, threads_), piece);
}

void Context::gated_product(const Input& in, const Matrix& gate, const Matrix& up, float* y) {
  Lock lock(team_->mutex);
  bool formats[kFormats] = {};
  formats[static_cast<size_t>(gate.format)] = formats[static_cast<size_t>(up.format)] = true;
  const Prepared prepared = prepare(in, formats);
  const int64_t step = prepared.few ? kGateRows : kernels_.panel_rows;
  Shares shares(prepared.few ? kRowUnit : kernels_.panel_rows);
  shares.add(gate);
  auto piece = [&](int64_t i, int thread) {
    Team::OfThread& own = team_->of_thread[static_cast<size_t>(thread)];
    float* gates = own.gate.get<float>(in.tokens * step);
    float* ups = own.up.get<float>(in.tokens * step);
    shares.each(i, [&](int, int64_t first, int64_t last) {
      for (int64_t begin = first; begin < last; begin += step) {
        const int64_t end = std::min(begin + step, last);
        multiply(in, prepared, gate, begin, end, thread, gates, step, begin, nullptr);
        multiply(in, prepared, up, begin, end, thread, ups, step, begin, nullptr);
        for (int64_t t = 0; t < in.tokens; t++)
          kernels_.geglu(gates + t * step, ups + t * step, end - begin, y + t * gate.rows + begin);
      }
    });
  };
  team_->pool.for_runs(shares.cut(in.tokens, threads_), piece);
}

}  // namespace cg
