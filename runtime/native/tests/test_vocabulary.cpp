// The compact vocabulary: what was put in is found; what was damaged is refused; what was forged is harmless.

#include <stdexcept>
#include <string>

#include "bpe.h"
#include "check.h"
#include "vocabulary.h"

namespace {

const std::string kDigest(32, 'd');

// The 256 bytes, the ASCII characters but one, and some longer pieces with the merges that make them.
struct Words {
  std::vector<std::string> pieces;
  std::vector<cg::AddedPiece> added;
  std::vector<std::pair<std::string, std::string>> merges{{"a", "b"}, {"b", "c"}, {"ab", "c"}, {"a", "bc"}};

  Words() {
    char name[8];
    for (int byte = 0; byte < 256; byte++) {
      std::snprintf(name, sizeof name, "<0x%02X>", byte);
      pieces.emplace_back(name);
    }
    for (char c = 0; c < 127; c++) pieces.emplace_back(1, c);
    pieces.insert(pieces.end(), {"\xe2\x96\x81", "ab", "bc", "abc", "\n\n", "<td>", "\xc3\xa9", ""});
    added = {{id("\n\n"), false, true}, {id("<td>"), true, false}};
  }
  uint32_t id(std::string_view name) const {
    for (uint32_t i = 0; i < pieces.size(); i++)
      if (pieces[i] == name) return i;
    return cg::kNoId;
  }
  std::string build() const {
    cg::VocabularySource source{{}, added, {}, kDigest};
    for (const std::string& piece : pieces) source.pieces.emplace_back(piece);
    for (const auto& [left, right] : merges) source.merges.emplace_back(left, right);
    return cg::Vocabulary::build(source);
  }
};

const char* open(const std::string& block, cg::Vocabulary* out, std::string_view digest = kDigest) {
  return cg::Vocabulary::open(reinterpret_cast<const uint8_t*>(block.data()), block.size(), digest, out);
}

void finds_what_was_put_in() {
  const Words words;
  const std::string block = words.build();
  cg::Vocabulary vocabulary;
  const char* problem = open(block, &vocabulary);
  CHECK(problem == nullptr, "%s", problem);
  CHECK(vocabulary.size() == words.pieces.size(), "%u", vocabulary.size());
  for (uint32_t i = 0; i < words.pieces.size(); i++) {
    CHECK(vocabulary.find(words.pieces[i]) == i, "%u", i);
    CHECK(vocabulary.piece(i) == words.pieces[i], "%u", i);
  }
  for (const char* absent : {"abcd", "<0x", "xx", "\x7f"})
    CHECK(vocabulary.find(absent) == cg::kNoId, "%s", absent);
  for (uint32_t i = 0; i < words.merges.size(); i++) {
    const auto& [left, right] = words.merges[i];
    const cg::Merge* merge = vocabulary.find_merge(words.id(left), words.id(right));
    CHECK(merge != nullptr && merge->rank == i && merge->result == words.id(left + right), "%u", i);
  }
  CHECK(vocabulary.find_merge(words.id("b"), words.id("a")) == nullptr, "the other way round");
  CHECK(vocabulary.ascii('a') == words.id("a") && vocabulary.ascii(127) == cg::kNoId, "characters");
  CHECK(vocabulary.byte('a') == words.id("<0x61>"), "bytes");
  CHECK(vocabulary.added().size() == 2 && vocabulary.added()[1].special && !vocabulary.added()[1].normalized,
        "added pieces");
}

void the_later_of_two_equal_merges_counts() {
  Words words;
  words.merges.emplace_back("a", "b");
  cg::Vocabulary vocabulary;
  const std::string block = words.build();
  CHECK(open(block, &vocabulary) == nullptr, "opens");
  CHECK(vocabulary.find_merge(words.id("a"), words.id("b"))->rank == 4, "rank");
}

void every_cut_and_every_flipped_bit_is_noticed() {
  const std::string block = Words().build();
  cg::Vocabulary vocabulary;
  for (size_t size = 0; size < block.size(); size++) {
    test::Exact cut(static_cast<int64_t>(size));
    std::memcpy(cut.bytes(), block.data(), size);
    CHECK(cg::Vocabulary::open(cut.bytes(), size, kDigest, &vocabulary) != nullptr, "%zu", size);
  }
  CHECK(open(block + '\0', &vocabulary) != nullptr, "longer");
  std::string flipped = block;
  for (size_t bit = 0; bit < 8 * block.size(); bit++) {
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
    CHECK(open(flipped, &vocabulary) != nullptr, "bit %zu", bit);
    flipped[bit / 8] = block[bit / 8];
  }
  CHECK(open(block, &vocabulary, std::string(32, 'e')) != nullptr, "another file");
  CHECK(open(block, &vocabulary, "d") != nullptr, "a short digest");
  test::Exact shifted(static_cast<int64_t>(block.size()), 1);
  std::memcpy(shifted.bytes(), block.data(), block.size());
  CHECK(cg::Vocabulary::open(shifted.bytes(), block.size(), kDigest, &vocabulary) != nullptr, "not aligned");
}

// With a right checksum: refused, or used without leaving the block (the address sanitizer watches).
void a_forged_block_is_harmless() {
  const std::string block = Words().build();
  test::Random random(7);
  int opened = 0;
  for (int round = 0; round < 20000; round++) {
    test::Exact forged(static_cast<int64_t>(block.size()));
    std::memcpy(forged.bytes(), block.data(), block.size());
    const uint32_t values[] = {0, 1, 127, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, random.bits()};
    for (uint32_t changes = 1 + random.bits() % 3; changes > 0; changes--) {
      // Half of them in the header, which is small.
      const size_t words = (round % 2 ? size_t{128} : block.size()) / 4;
      std::memcpy(forged.bytes() + 4 * (random.bits() % words), &values[random.bits() % 9], 4);
    }
    cg::Vocabulary::seal(forged.bytes(), block.size());
    cg::Vocabulary vocabulary;
    if (cg::Vocabulary::open(forged.bytes(), block.size(), kDigest, &vocabulary) != nullptr) continue;
    opened++;
    for (const uint32_t id :
         cg::BytePairEncoder(vocabulary).encode("abc  abcabc\n\n\n<td>\xc3\xa9\xe2\x82\xac\x80\x7f"))
      CHECK(id < vocabulary.size(), "round %d: id %u", round, id);
    vocabulary.find("abc");
  }
  CHECK(opened > 1000 && opened < 19000, "%d opened", opened);
}

template <class Change>
bool refused(Change change) {
  Words words;
  change(&words);
  try {
    words.build();
    return false;
  } catch (const std::invalid_argument&) {
    return true;
  }
}

void what_cannot_be_used_is_not_built() {
  CHECK(!refused([](Words*) {}), "as it is");
  CHECK(refused([](Words* w) { w->merges[0] = {"xy", "a"}; }), "no such left piece");
  CHECK(refused([](Words* w) { w->merges[0] = {"a", "xy"}; }), "no such right piece");
  CHECK(refused([](Words* w) { w->merges[0] = {"b", "a"}; }), "no such piece of both");
  CHECK(refused([](Words* w) { w->added[0].id = 9999; }), "added");
  CHECK(refused([](Words* w) { w->added[0].id = w->id(""); }), "added, empty");
  CHECK(refused([](Words* w) { w->pieces[200] = "x"; }), "no such byte");
  CHECK(refused([](Words* w) { w->pieces[127] = "x"; }), "an ASCII byte without a character");
  CHECK(!refused([](Words* w) { w->pieces[9] = "x"; }), "the tab is a character");
}

}  // namespace

int main() {
  finds_what_was_put_in();
  the_later_of_two_equal_merges_counts();
  every_cut_and_every_flipped_bit_is_noticed();
  a_forged_block_is_harmless();
  what_cannot_be_used_is_not_built();
  return test::report();
}
