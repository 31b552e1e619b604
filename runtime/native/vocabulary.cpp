#include "vocabulary.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace cg {

// Followed by merges [merge_slots], offsets [pieces + 1], index [index_slots], added [added] and the pieces'
// text. Merges and index are hash tables with linear probing; their sizes are powers of two. The digit in the
// magic number is the format's version.
struct Vocabulary::Header {
  char magic[8];
  uint8_t digest[kDigestBytes];
  uint64_t checksum;  // of the whole block, with zero here
  uint32_t byte_order;
  uint32_t pieces;
  uint32_t merge_slots;
  uint32_t index_slots;
  uint32_t added;
  uint32_t text_bytes;
  uint32_t unused[14];

  uint64_t total() const {
    const uint64_t words = uint64_t{4} * merge_slots + pieces + 1 + index_slots + added;
    return sizeof(Header) + 4 * words + text_bytes;
  }
};

namespace {

constexpr char kMagic[] = "cgvocab1";
constexpr uint32_t kByteOrder = 0x01020304;
constexpr uint32_t kMaxPieces = 1u << 24;
constexpr uint32_t kSpecial = 1u << 31, kNormalized = 1u << 30;
static_assert(sizeof(Merge) == 16, "the file's layout");

uint64_t rotate(uint64_t value, int bits) { return value << bits | value >> (64 - bits); }

// Against accidents, not against attacks: a change of one word always changes the result. Eight lanes, so
// that the multiplications overlap: as fast as memory is read.
class Checksum {
 public:
  void add(const uint8_t* data, size_t size) {  // whole blocks, but for the last call
    size_ += size;
    for (; size >= kBlockBytes; data += kBlockBytes, size -= kBlockBytes) add_block(data);
    if (size > 0) {
      uint8_t last[kBlockBytes] = {};
      std::memcpy(last, data, size);
      add_block(last);
    }
  }
  uint64_t result() const {
    uint64_t sum = size_;
    for (const uint64_t lane : lanes_) sum = rotate((sum ^ lane) * kFactor, 31);
    return sum ^ sum >> 29;
  }

 private:
  static constexpr size_t kBlockBytes = 64;
  static constexpr uint64_t kFactor = 0x9e3779b97f4a7c15;

  void add_block(const uint8_t* block) {
    for (int i = 0; i < 8; i++) {
      uint64_t word;
      std::memcpy(&word, block + 8 * i, 8);
      lanes_[i] = rotate((lanes_[i] ^ word) * kFactor, 29);
    }
  }

  uint64_t lanes_[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  uint64_t size_ = 0;
};

// `header` with a checksum of zero.
template <class Header>
uint64_t checksum(const Header& header, const uint8_t* rest, size_t size) {
  static_assert(sizeof(Header) % 64 == 0, "whole blocks");
  Checksum sum;
  sum.add(reinterpret_cast<const uint8_t*>(&header), sizeof(Header));
  sum.add(rest, size);
  return sum.result();
}

uint32_t hash(std::string_view piece) {
  uint64_t value = piece.size();
  for (const char c : piece) value = (value ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return static_cast<uint32_t>((value * 0x9e3779b97f4a7c15) >> 32);
}

uint32_t hash(uint32_t left, uint32_t right) {
  return static_cast<uint32_t>(((uint64_t{left} << 32 | right) * 0x9e3779b97f4a7c15) >> 32);
}

bool is_power_of_two(uint32_t n) { return n != 0 && (n & (n - 1)) == 0; }

// A third of the slots stays free, so that probing is short.
uint32_t slots_for(size_t entries) {
  uint32_t slots = 2;
  while (uint64_t{slots} * 2 < uint64_t{entries} * 3) slots *= 2;
  return slots;
}

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

}  // namespace

std::string Vocabulary::build(const VocabularySource& source) {
  require(source.digest.size() == kDigestBytes, "a digest has 32 bytes");
  require(source.pieces.size() < kMaxPieces && source.merges.size() < kMaxPieces,
          "too many pieces or merges");
  size_t text_bytes = 0;
  for (const std::string_view piece : source.pieces) text_bytes += piece.size();
  require(text_bytes < kNoId, "the pieces are too long");

  Header header{};
  std::memcpy(header.magic, kMagic, sizeof header.magic);
  std::memcpy(header.digest, source.digest.data(), kDigestBytes);
  header.byte_order = kByteOrder;
  header.pieces = static_cast<uint32_t>(source.pieces.size());
  header.merge_slots = slots_for(source.merges.size());
  header.index_slots = slots_for(source.pieces.size());
  header.added = static_cast<uint32_t>(source.added.size());
  header.text_bytes = static_cast<uint32_t>(text_bytes);

  std::vector<uint32_t> offsets{0}, index(header.index_slots, kNoId), added;
  std::string text;
  for (const std::string_view piece : source.pieces) {
    uint32_t slot = hash(piece) & (header.index_slots - 1);
    while (index[slot] != kNoId) slot = (slot + 1) & (header.index_slots - 1);
    index[slot] = static_cast<uint32_t>(offsets.size() - 1);
    text += piece;
    offsets.push_back(static_cast<uint32_t>(text.size()));
  }
  for (const AddedPiece& piece : source.added)
    added.push_back(piece.id | (piece.special ? kSpecial : 0) | (piece.normalized ? kNormalized : 0));

  Vocabulary names;  // enough of one to look names up
  names.offsets_ = offsets.data();
  names.index_ = index.data();
  names.index_mask_ = header.index_slots - 1;
  names.text_ = text.data();
  std::vector<Merge> merges(header.merge_slots, {kNoId, kNoId, kNoId, kNoId});
  std::string both;
  for (size_t rank = 0; rank < source.merges.size(); rank++) {
    const auto& [left, right] = source.merges[rank];
    both.assign(left).append(right);
    const Merge merge{names.find(left), names.find(right), static_cast<uint32_t>(rank), names.find(both)};
    require(merge.left != kNoId && merge.right != kNoId && merge.result != kNoId,
            "a merge of unknown pieces");
    uint32_t slot = hash(merge.left, merge.right) & (header.merge_slots - 1);
    while (merges[slot].left != kNoId &&
           (merges[slot].left != merge.left || merges[slot].right != merge.right))
      slot = (slot + 1) & (header.merge_slots - 1);
    merges[slot] = merge;
  }

  std::string block(reinterpret_cast<const char*>(&header), sizeof header);
  const auto append = [&](const auto& table) {
    block.append(reinterpret_cast<const char*>(table.data()), table.size() * sizeof table[0]);
  };
  append(merges);
  append(offsets);
  append(index);
  append(added);
  append(text);
  auto* data = reinterpret_cast<uint8_t*>(&block[0]);
  seal(data, block.size());
  Vocabulary checked;
  const char* problem = open(data, block.size(), source.digest, &checked);
  require(problem == nullptr, problem);
  return block;
}

void Vocabulary::seal(uint8_t* data, size_t size) {
  Header header;
  std::memcpy(&header, data, sizeof header);
  header.checksum = 0;
  header.checksum = checksum(header, data + sizeof header, size - sizeof header);
  std::memcpy(data, &header, sizeof header);
}

const char* Vocabulary::open(const uint8_t* data, size_t size, std::string_view digest, Vocabulary* out) {
  if (size < sizeof(Header)) return "the file is cut off";
  if (reinterpret_cast<uintptr_t>(data) % alignof(Merge) != 0) return "the block is not aligned";
  Header header;
  std::memcpy(&header, data, sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof header.magic) != 0) return "not of this format";
  if (header.byte_order != kByteOrder) return "written on another kind of machine";
  if (digest.size() != kDigestBytes || std::memcmp(header.digest, digest.data(), kDigestBytes) != 0)
    return "made from another file";
  if (!is_power_of_two(header.merge_slots) || !is_power_of_two(header.index_slots) ||
      header.pieces > kMaxPieces || header.added > header.pieces)
    return "impossible sizes";
  if (header.total() != size) return "the file has the wrong length";
  const uint64_t expected = header.checksum;
  header.checksum = 0;
  if (checksum(header, data + sizeof header, size - sizeof header) != expected)
    return "the checksum does not match";

  Vocabulary v;
  v.size_ = header.pieces;
  v.merges_ = reinterpret_cast<const Merge*>(data + sizeof header);
  v.merge_mask_ = header.merge_slots - 1;
  v.offsets_ = reinterpret_cast<const uint32_t*>(v.merges_ + header.merge_slots);
  v.index_ = v.offsets_ + header.pieces + 1;
  v.index_mask_ = header.index_slots - 1;
  const uint32_t* added = v.index_ + header.index_slots;
  v.text_ = reinterpret_cast<const char*>(added + header.added);
  if (v.offsets_[header.pieces] != header.text_bytes) return "the pieces do not fill their text";
  if (const char* problem = v.check_tables()) return problem;
  for (uint32_t i = 0; i < header.added; i++) {
    const uint32_t id = added[i] & ~(kSpecial | kNormalized);
    if (id >= v.size_ || v.piece(id).empty()) return "an added piece is not in the vocabulary";
    v.added_.push_back({id, (added[i] & kSpecial) != 0, (added[i] & kNormalized) != 0});
  }
  if (const char* problem = v.find_characters()) return problem;
  *out = std::move(v);
  return nullptr;
}

// Every id exists, every piece lies in the text, and every search ends at a free slot.
const char* Vocabulary::check_tables() const {
  bool bad = offsets_[0] != 0;
  for (uint32_t i = 0; i < size_; i++) bad |= offsets_[i] > offsets_[i + 1];
  if (bad) return "the pieces overlap";
  uint32_t free = 0;
  for (uint32_t i = 0; i <= index_mask_; i++) {
    free += index_[i] == kNoId;
    bad |= index_[i] != kNoId && index_[i] >= size_;
  }
  if (bad || free == 0) return "the index is wrong";
  free = 0;
  for (uint32_t i = 0; i <= merge_mask_; i++) {
    const Merge& m = merges_[i];
    free += m.left == kNoId;
    bad |= m.left != kNoId && (m.left >= size_ || m.right >= size_ || m.result >= size_);
  }
  return bad || free == 0 ? "a merge is wrong" : nullptr;
}

// Also makes sure that every text has pieces: an unknown character is spelt in bytes, all of which exist.
const char* Vocabulary::find_characters() {
  for (uint32_t value = 0; value < 256; value++) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", value);
    bytes_[value] = find(name);
    const char character = static_cast<char>(value);
    if (value < 128) ascii_[value] = find({&character, 1});
    if (bytes_[value] == kNoId && value < 128) bytes_[value] = ascii_[value];
    if (bytes_[value] == kNoId) return "a byte has no piece";
  }
  return nullptr;
}

uint32_t Vocabulary::find(std::string_view name) const {
  for (uint32_t slot = hash(name) & index_mask_;; slot = (slot + 1) & index_mask_) {
    const uint32_t id = index_[slot];
    if (id == kNoId || piece(id) == name) return id;
  }
}

const Merge* Vocabulary::find_merge(uint32_t left, uint32_t right) const {
  for (uint32_t slot = hash(left, right) & merge_mask_;; slot = (slot + 1) & merge_mask_) {
    const Merge& merge = merges_[slot];
    if (merge.left == kNoId) return nullptr;
    if (merge.left == left && merge.right == right) return &merge;
  }
}

}  // namespace cg
