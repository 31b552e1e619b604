// Text to ids, as Hugging Face's tokenizers library computes them for Gemma's tokenizer.json: added pieces
// are cut out, a space becomes U+2581, and of what is left the pair of lowest rank is merged until there is
// none.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "vocabulary.h"

namespace cg {

class BytePairEncoder {
 public:
  // The vocabulary must outlive the encoder.
  explicit BytePairEncoder(const Vocabulary& vocabulary);

  // The ids of UTF-8 text. Time is n log n in the longest stretch without an added piece. Throws
  // std::length_error for text of 1 GiB and more.
  std::vector<uint32_t> encode(std::string_view text) const;

 private:
  // Added pieces by their first byte, longest first.
  using Matcher = std::array<std::vector<uint32_t>, 256>;
  struct Symbol;
  struct Scratch;

  template <class Between>
  void split(const Matcher& matcher, std::string_view text, std::vector<uint32_t>* ids,
             Between between) const;
  void merge(std::string_view text, Scratch* scratch, std::vector<uint32_t>* ids) const;
  void add_characters(std::string_view text, std::vector<Symbol>* symbols) const;

  const Vocabulary& vocabulary_;
  Matcher raw_, normalized_;
};

}  // namespace cg
