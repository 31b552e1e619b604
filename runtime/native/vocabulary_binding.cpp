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
using Names = nb::typed<nb::list, nb::str>;
using Added = std::vector<std::tuple<uint32_t, bool, bool>>;

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

// The text of a str, which must outlive the view.
std::string_view text(nb::handle str) {
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(str.ptr(), &size);
  if (data == nullptr) throw nb::python_error();
  return {data, static_cast<size_t>(size)};
}

// "left right" or [left, right].
std::pair<std::string_view, std::string_view> pair(nb::handle merge) {
  if (nb::isinstance<nb::list>(merge)) {
    if (nb::len(merge) != 2) throw std::invalid_argument("a merge is no pair");
    return {text(merge[0]), text(merge[1])};
  }
  const std::string_view both = text(merge);
  if (both.substr(0, 8) == "#version") throw std::invalid_argument("the merges have a header");
  const size_t space = both.find(' ');
  if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos)
    throw std::invalid_argument("a merge is no pair");
  return {both.substr(0, space), both.substr(space + 1)};
}

nb::bytes build(const Names& pieces, const Added& added, const nb::list& merges, const nb::bytes& digest) {
  cg::VocabularySource source{};
  for (const nb::handle piece : pieces) source.pieces.push_back(text(piece));
  for (const auto& [id, special, normalized] : added) source.added.push_back({id, special, normalized});
  for (const nb::handle merge : merges) source.merges.push_back(pair(merge));
  source.digest = view(digest);
  const std::string block = cg::Vocabulary::build(source);
  return nb::bytes(block.data(), block.size());
}

}  // namespace

void cg::bind_vocabulary(nb::module_& m) {
  m.def("build_vocabulary", &build, "pieces"_a, "added"_a, "merges"_a, "digest"_a,
        "The compact form of a vocabulary; ValueError for one that cannot be used.\n\n"
        "added: (id, special, normalized); merges: [left, right] or 'left right', in order of rank.");

  nb::class_<MappedVocabulary>(m, "Vocabulary", "A compact vocabulary in somebody else's memory.")
      .def(nb::init<Block, nb::bytes>(), "block"_a, "digest"_a,
           "Raises ValueError unless the block is whole and made from the file with this SHA-256.")
      .def_prop_ro("size", &MappedVocabulary::size)
      .def_prop_ro("special", &MappedVocabulary::special, "Ids of the added tokens that are special.")
      .def("encode", &MappedVocabulary::encode, "text"_a)
      .def("token_id", &MappedVocabulary::token_id, "name"_a)
      .def("token", &MappedVocabulary::token, "token_id"_a);
}
