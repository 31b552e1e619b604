// The extension module. Thin on purpose: cg.runtime.ops_native checks shapes, types and sizes before it
// calls.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bandwidth.h"
#include "context.h"
#include "dispatch.h"
#include "vocabulary_binding.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T, int ndim>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<ndim>, nb::c_contig, nb::device::cpu>;
using Bytes = Array<const uint8_t, 1>;
using Scales = std::optional<nb::ndarray<nb::numpy, nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>>;
using Norm = std::optional<Array<const float, 1>>;
using Cache = nb::ndarray<nb::numpy, nb::ro, nb::ndim<3>, nb::device::cpu>;
using WritableCache = nb::ndarray<nb::numpy, nb::ndim<3>, nb::device::cpu>;

int64_t extent(size_t n) { return static_cast<int64_t>(n); }

// A stored matrix with the arrays that it lies in.
struct Weight {
  Bytes data;
  Scales scales;
  cg::Matrix matrix;
};

Weight* make_weight(Bytes data, Scales scales, cg::Format format, int64_t rows, int64_t cols) {
  const void* pointer = scales ? scales->data() : nullptr;
  const cg::Matrix matrix{data.data(), static_cast<const uint8_t*>(pointer), format, rows, cols};
  return new Weight{data, scales, matrix};
}

cg::Input input(const Array<const float, 2>& x, const Norm& norm, float eps, bool int8) {
  return {x.data(), extent(x.shape(0)), extent(x.shape(1)), norm ? norm->data() : nullptr, eps, int8};
}

// An empty name takes the best instruction set.
const cg::Kernels& kernels_of(const std::string& isa) {
  const cg::Kernels* kernels = isa.empty() ? cg::best_choice().kernels : cg::find_kernels(isa);
  if (kernels == nullptr) throw std::invalid_argument("instruction set not available: " + isa);
  return *kernels;
}

cg::Context* make_context(const std::string& isa, int threads) {
  return new cg::Context(kernels_of(isa), threads);
}

void products(cg::Context& self, Array<const float, 2> x, Norm norm, float eps, bool int8,
              const std::vector<const Weight*>& weights, const std::vector<Array<float, 2>>& outs,
              std::optional<Array<const float, 2>> residual) {
  std::vector<cg::Output> outputs;
  for (size_t i = 0; i < weights.size(); i++) outputs.push_back({weights[i]->matrix, outs.at(i).data()});
  const float* added = residual ? residual->data() : nullptr;
  nb::gil_scoped_release release;
  self.products(input(x, norm, eps, int8), outputs.data(), static_cast<int>(outputs.size()), added);
}

void gated_product(cg::Context& self, Array<const float, 2> x, Norm norm, float eps, bool int8,
                   const Weight& gate, const Weight& up, Array<float, 2> out) {
  nb::gil_scoped_release release;
  self.gated_product(input(x, norm, eps, int8), gate.matrix, up.matrix, out.data());
}

int64_t embed(cg::Context& self, const Weight& table, Array<const int32_t, 1> ids, float scale,
              Array<float, 2> out) {
  nb::gil_scoped_release release;
  return self.embed(table.matrix, ids.data(), extent(ids.shape(0)), scale, out.data());
}

void rope(cg::Context& self, Array<float, 3> x, int64_t position, double theta) {
  nb::gil_scoped_release release;
  self.rope(x.data(), extent(x.shape(0)), extent(x.shape(1)), extent(x.shape(2)), position, theta);
}

void attention(cg::Context& self, Array<const float, 3> q, Cache keys, Cache values, int64_t position,
               float scale, Array<float, 2> out) {
  const int64_t bytes = extent(keys.itemsize());
  const cg::AttentionArgs args{
      q.data(),
      static_cast<const uint8_t*>(keys.data()),
      static_cast<const uint8_t*>(values.data()),
      bytes == 2,
      keys.stride(0) * bytes,
      keys.stride(1) * bytes,
      values.stride(0) * bytes,
      values.stride(1) * bytes,
      extent(q.shape(0)),
      extent(q.shape(1)),
      extent(keys.shape(0)),
      extent(q.shape(2)),
      position,
      scale,
      out.data(),
  };
  nb::gil_scoped_release release;
  self.attention(args);
}

// Norm, q, k, v, o; norm, gate, up, down.
using LayerArrays = std::tuple<Array<const float, 1>, Weight, Weight, Weight, Weight, Array<const float, 1>,
                               Weight, Weight, Weight>;

// The layers of a model, with the arrays that they lie in.
struct Layers {
  std::vector<LayerArrays> arrays;
  std::vector<cg::LayerWeights> weights;
};

Layers* make_layers(const std::vector<LayerArrays>& arrays) {
  std::vector<cg::LayerWeights> weights;
  for (const auto& [input_norm, q, k, v, o, post_norm, gate, up, down] : arrays) {
    weights.push_back({input_norm.data(), q.matrix, k.matrix, v.matrix, o.matrix, post_norm.data(),
                       gate.matrix, up.matrix, down.matrix});
  }
  return new Layers{arrays, weights};
}

cg::CachePart cache_part(const WritableCache& array) {
  const int64_t bytes = extent(array.itemsize());
  return {static_cast<uint8_t*>(array.data()), array.stride(0) * bytes, array.stride(1) * bytes};
}

void run_layers(cg::Context& self, const Layers& layers, size_t first, Array<float, 2> x,
                const std::vector<std::pair<WritableCache, WritableCache>>& caches, int64_t position,
                bool last_only, int64_t head_dim, float scale, float eps, double theta, bool int8) {
  std::vector<cg::LayerArgs> calls;
  for (const auto& [keys, values] : caches) {
    calls.push_back({x.data(), extent(x.shape(0)), position, false, head_dim, scale, eps, theta, int8,
                     cache_part(keys), cache_part(values), keys.itemsize() == 2});
  }
  if (!calls.empty()) calls.back().last_only = last_only;
  nb::gil_scoped_release release;
  for (size_t i = 0; i < calls.size(); i++) self.layer(layers.weights.at(first + i), calls[i]);
}

std::tuple<bool, double, double> encode_blocks(const std::string& isa, cg::Format target, cg::Format source,
                                               Bytes data, Array<uint8_t, 1> out_data,
                                               Array<float, 2> out_scales) {
  const cg::Kernels& kernels = kernels_of(isa);
  cg::EncodeStats stats;
  nb::gil_scoped_release release;
  kernels.encode(target, source, data.data(), extent(out_scales.size()), out_data.data(),
                 reinterpret_cast<uint8_t*>(out_scales.data()), &stats);
  return {stats.finite, stats.sum_sq, stats.sum_sq_error};
}

void fit_blocks(const std::string& isa, nb::ndarray<const float, nb::ndim<2>, nb::device::cpu> targets,
                Array<const float, 2> coupling, Array<const float, 1> diagonal_root, bool diagonal,
                Array<const float, 1> fractions, float lowest, float highest, bool half,
                nb::ndarray<int8_t, nb::ndim<2>, nb::device::cpu> integers,
                nb::ndarray<float, nb::ndim<1>, nb::device::cpu> scales, Array<float, 1> losses) {
  const cg::FitArgs args{
      targets.data(),
      targets.stride(0),
      coupling.data(),
      diagonal_root.data(),
      diagonal,
      fractions.data(),
      extent(fractions.size()),
      lowest,
      highest,
      half,
      integers.data(),
      integers.stride(0),
      scales.data(),
      scales.stride(0),
      losses.data(),
  };
  const cg::Kernels& kernels = kernels_of(isa);
  nb::gil_scoped_release release;
  kernels.fit(args, 0, extent(targets.shape(0)));
}

std::vector<std::pair<std::string, bool>> isas() {
  std::vector<std::pair<std::string, bool>> result;
  for (const cg::Isa& isa : cg::compiled_isas()) result.emplace_back(isa.kernels->isa, isa.supported);
  return result;
}

std::vector<double> time_reads(int64_t size, int threads, int passes) {
  nb::gil_scoped_release release;
  const cg::ReadBuffer buffer(static_cast<size_t>(size), threads);
  return cg::time_reads(buffer.spans(), threads, passes);
}

std::vector<double> time_reads_of(const std::vector<Bytes>& arrays, int threads, int passes) {
  std::vector<cg::Span> spans;
  for (const Bytes& array : arrays) spans.push_back({array.data(), array.size()});
  nb::gil_scoped_release release;
  return cg::time_reads(spans, threads, passes);
}

std::optional<std::string> isa_failure(const std::string& name) {
  for (const cg::Isa& isa : cg::compiled_isas()) {
    if (!isa.supported || name != isa.kernels->isa) continue;
    const char* wrong = cg::failure_of(*isa.kernels);
    return wrong == nullptr ? std::nullopt : std::optional<std::string>(wrong);
  }
  throw std::invalid_argument("instruction set not available: " + name);
}

}  // namespace

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // a model alive at exit is no bug
  m.doc() = "Compiled kernels of cg. Arguments are trusted: call through cg.runtime.ops_native.";

  nb::enum_<cg::Format>(m, "Format", "How the elements of a matrix are stored.")
      .value("Q4", cg::Format::q4)
      .value("I8", cg::Format::i8)
      .value("Q4H", cg::Format::q4h, "Q4 with scales in f16")
      .value("BF16", cg::Format::bf16)
      .value("F16", cg::Format::f16)
      .value("F32", cg::Format::f32);

  m.def("isas", &isas,
        "Instruction sets in this build, worst first, each with whether this machine runs it.");
  m.def(
      "best_isa", [] { return cg::best_choice().kernels->isa; },
      "The best instruction set that this machine runs and that passes its self-test.");
  m.def("isa_failure", &isa_failure, "isa"_a,
        "What the kernels of a supported set get wrong here, or None; runs their self-test once.");
  m.def("encode_blocks", &encode_blocks, "isa"_a, "target"_a, "source"_a, "data"_a.noconvert(),
        "out_data"_a.noconvert(), "out_scales"_a.noconvert(),
        "Encode floats as Q4 or I8 blocks: (all finite, sum of squares, sum of squared errors).");
  m.def("fit_blocks", &fit_blocks, "isa"_a, "targets"_a.noconvert(), "coupling"_a.noconvert(),
        "diagonal_root"_a.noconvert(), "diagonal"_a, "fractions"_a.noconvert(), "lowest"_a, "highest"_a,
        "half"_a, "integers"_a.noconvert(), "scales"_a.noconvert(), "losses"_a.noconvert(),
        "Fit the integers and scale of one block of each row of targets [rows, 32].");

  nb::class_<Weight>(m, "Weight", "A stored matrix; keeps the arrays that it lies in alive.")
      .def(nb::new_(&make_weight), "data"_a.noconvert(), "scales"_a.noconvert().none(), "format"_a, "rows"_a,
           "cols"_a);
  nb::class_<Layers>(m, "Layers", "Decoder layers; keeps the arrays that they lie in alive.")
      .def(nb::new_(&make_layers), "layers"_a,
           "Of each layer norm, q, k, v, o, norm, gate, up, down; norms as they are applied.");
  m.def("time_reads", &time_reads, "size"_a, "threads"_a, "passes"_a,
        "Seconds of each pass in which all threads together read a private buffer of size bytes.");
  m.def("time_reads_of", &time_reads_of, "arrays"_a, "threads"_a, "passes"_a,
        "Seconds of each pass in which all threads together read the arrays.");

  nb::class_<cg::Context>(m, "Context", "Kernels of one instruction set and a team of threads.")
      .def(nb::new_(&make_context), "isa"_a, "threads"_a, "An empty name takes the best instruction set.")
      .def_prop_ro("isa", &cg::Context::isa)
      .def_prop_ro("threads", &cg::Context::threads)
      .def("after_fork", &cg::Context::after_fork, "Start a new team in the child of a fork.")
      .def(
          "products", &products, "x"_a.noconvert(), "norm"_a.noconvert().none(), "eps"_a, "int8"_a,
          "weights"_a, "outs"_a.noconvert(), "residual"_a.noconvert().none(),
          "Each out [T, rows] = x [T, cols], normalized if norm is given, times a weight, plus the residual.")
      .def("gated_product", &gated_product, "x"_a.noconvert(), "norm"_a.noconvert().none(), "eps"_a, "int8"_a,
           "gate"_a, "up"_a, "out"_a.noconvert(),
           "gelu_tanh(x gate) * (x up), x normalized if norm is given.")
      .def("embed", &embed, "table"_a, "ids"_a.noconvert(), "scale"_a, "out"_a.noconvert(),
           "Rows of a table times scale; the position of the first bad id, or -1.")
      .def("rope", &rope, "x"_a.noconvert(), "position"_a, "theta"_a,
           "Rotates x [T, heads, head_dim] in place.")
      .def("attention", &attention, "q"_a.noconvert(), "keys"_a.noconvert(), "values"_a.noconvert(),
           "position"_a, "scale"_a, "out"_a.noconvert())
      .def("run_layers", &run_layers, "layers"_a, "first"_a, "x"_a.noconvert(), "caches"_a, "position"_a,
           "last_only"_a, "head_dim"_a, "scale"_a, "eps"_a, "theta"_a, "int8"_a,
           "Run x [T, hidden] in place through a layer for each of the caches (keys, values).");

  cg::bind_vocabulary(m);
}
