// The compact form of a byte-pair vocabulary: one block of bytes that is used as it lies in a mapped file.
// It is a cache, so it may be cut off, flipped or forged: open() checks all of it, once, and what it let
// pass cannot make a later look-up leave the block or run forever.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cg {

inline constexpr uint32_t kNoId = 0xffffffff;

// A pair of pieces that becomes one. The lowest rank is merged first.
struct Merge {
  uint32_t left, right, rank, result;
};

// A piece that is cut out of the text before anything is merged: of the text as it is, or, if normalized,
// of the text with its spaces replaced.
struct AddedPiece {
  uint32_t id;
  bool special;
  bool normalized;
};

// What a compact form is made from: pieces in the order of their ids, and pairs of pieces in the order of
// their ranks, each of which makes the piece of both names together. `digest` names the file that it stands
// for.
struct VocabularySource {
  std::vector<std::string_view> pieces;
  std::vector<AddedPiece> added;
  std::vector<std::pair<std::string_view, std::string_view>> merges;
  std::string_view digest;
};

class Vocabulary {
 public:
  static constexpr size_t kDigestBytes = 32;

  // The compact form. Of two pieces of the same name the first is found, of two merges of the same pair the
  // second counts. Throws std::invalid_argument for what open() would refuse.
  static std::string build(const VocabularySource& source);

  // Writes the checksum of a block into it.
  static void seal(uint8_t* data, size_t size);

  // What is wrong with the block, or nullptr if nothing is. The block must outlive `out`.
  static const char* open(const uint8_t* data, size_t size, std::string_view digest, Vocabulary* out);

  uint32_t size() const { return size_; }
  std::string_view piece(uint32_t id) const {
    return {text_ + offsets_[id], static_cast<size_t>(offsets_[id + 1] - offsets_[id])};
  }
  uint32_t find(std::string_view piece) const;
  // nullptr if the pair is not merged.
  const Merge* find_merge(uint32_t left, uint32_t right) const;
  const std::vector<AddedPiece>& added() const { return added_; }
  // The piece of one ASCII character, or kNoId.
  uint32_t ascii(uint8_t character) const { return ascii_[character]; }
  // The piece that stands for a byte of a character that is no piece: <0xE2> and the like, for some ASCII
  // bytes the character's own.
  uint32_t byte(uint8_t value) const { return bytes_[value]; }

 private:
  struct Header;

  const char* check_tables() const;
  const char* find_characters();

  uint32_t size_ = 0;
  const Merge* merges_ = nullptr;
  uint32_t merge_mask_ = 0;
  const uint32_t* offsets_ = nullptr;
  const uint32_t* index_ = nullptr;
  uint32_t index_mask_ = 0;
  const char* text_ = nullptr;
  std::vector<AddedPiece> added_;
  uint32_t ascii_[128];
  uint32_t bytes_[256];
};

}  // namespace cg
