// The compact vocabulary in Python. cg.runtime.compact_vocabulary calls it.

#include "vocabulary_binding.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bpe.h"
#include "vocabulary.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Block = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::string_view view(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

// Keeps the memory alive that the vocabulary reads.
class MappedVocabulary {
 public:
  MappedVocabulary(Block block, const nb::bytes& digest) : block_(std::move(block)), encoder_(open(digest)) {}
  MappedVocabulary(const MappedVocabulary&) = delete;

  std::vector<uint32_t> encode(std::string_view text) const {
    nb::gil_scoped_release release;
    return encoder_.encode(text);
  }

  std::optional<uint32_t> token_id(std::string_view name) const {
    const uint32_t id = vocabulary_.find(name);
    return id == cg::kNoId ? std::nullopt : std::optional(id);
  }

  std::optional<nb::str> token(int64_t id) const {
    if (id < 0 || id >= vocabulary_.size()) return std::nullopt;
    const std::string_view piece = vocabulary_.piece(static_cast<uint32_t>(id));
    const auto length = static_cast<Py_ssize_t>(piece.size());
    PyObject* name = PyUnicode_DecodeUTF8(piece.data(), length, "strict");
    if (name == nullptr) throw nb::python_error();
    return nb::steal<nb::str>(name);
  }

  uint32_t size() const { return vocabulary_.size(); }

  std::vector<uint32_t> special() const {
    std::vector<uint32_t> ids;
    for (const cg::AddedPiece& added : vocabulary_.added())
      if (added.special) ids.push_back(added.id);
    return ids;
  }

 private:
  const cg::Vocabulary& open(const nb::bytes& digest) {
    const char* problem = cg::Vocabulary::open(block_.data(), block_.size(), view(digest), &vocabulary_);
    if (problem != nullptr) throw std::invalid_argument(problem);
    return vocabulary_;
  }

  Block block_;
  cg::Vocabulary vocabulary_;
  cg::BytePairEncoder encoder_;
};

nb::bytes build(const std::vector<nb::bytes>& pieces,
                const std::vector<std::tuple<uint32_t, bool, bool>>& added, const Ids& left, const Ids& right,
                const Ids& result, const nb::bytes& digest) {
  if (left.size() != right.size() || left.size() != result.size())
    throw std::invalid_argument("three lists of different lengths are no merges");
  cg::VocabularySource source{};
  for (const nb::bytes& piece : pieces) source.pieces.push_back(view(piece));
  for (const auto& [id, special, normalized] : added) source.added.push_back({id, special, normalized});
  source.left = left.data();
  source.right = right.data();
  source.result = result.data();
  source.merges = left.size();
  source.digest = view(digest);
  const std::string block = cg::Vocabulary::build(source);
  return nb::bytes(block.data(), block.size());
}

}  // namespace

void cg::bind_vocabulary(nb::module_& m) {
  m.def("build_vocabulary", &build, "pieces"_a, "added"_a, "left"_a, "right"_a, "result"_a, "digest"_a,
        "The compact form of a vocabulary. added: (id, special, normalized); merges in order of rank.");

  nb::class_<MappedVocabulary>(m, "Vocabulary", "A compact vocabulary in somebody else's memory.")
      .def(nb::init<Block, nb::bytes>(), "block"_a, "digest"_a,
           "Raises ValueError unless the block is whole and made from the file with this SHA-256.")
      .def_prop_ro("size", &MappedVocabulary::size)
      .def_prop_ro("special", &MappedVocabulary::special, "Ids of the added tokens that are special.")
      .def("encode", &MappedVocabulary::encode, "text"_a)
      .def("token_id", &MappedVocabulary::token_id, "name"_a)
      .def("token", &MappedVocabulary::token, "token_id"_a);
}
