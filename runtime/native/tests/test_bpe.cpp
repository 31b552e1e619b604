// The encoder against the plain definition: merge the pair of lowest rank, of several the first, until none
// is.

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "bpe.h"
#include "check.h"

namespace {

const std::string kDigest(32, 'd');
using Ids = std::vector<uint32_t>;

// A random vocabulary over a few letters: the bytes, the letters, and pieces made of two others.
struct Language {
  std::vector<std::string> pieces;
  std::map<std::string, uint32_t> ids;
  std::vector<cg::AddedPiece> added;
  Ids left, right, result;
  std::string block;
  cg::Vocabulary vocabulary;

  Language(uint64_t seed, const std::vector<std::string>& letters, uint32_t words) {
    test::Random random(seed);
    char name[8];
    for (int byte = 0; byte < 256; byte++) {
      std::snprintf(name, sizeof name, "<0x%02X>", byte);
      add(name);
    }
    for (const std::string& letter : letters) add(letter);
    const auto first = static_cast<uint32_t>(pieces.size() - letters.size());
    const auto any = [&] { return first + random.bits() % static_cast<uint32_t>(pieces.size() - first); };
    for (uint32_t i = 0; i < words; i++) {
      const uint32_t a = any(), b = any();
      if (pieces[a].size() + pieces[b].size() > 9) continue;
      left.push_back(a);
      right.push_back(b);
      result.push_back(add(pieces[a] + pieces[b]));
    }
    // Ranks in any order, so that long pieces may come before their parts.
    for (size_t i = left.size(); i > 1; i--) {
      const size_t j = random.bits() % i;
      std::swap(left[i - 1], left[j]);
      std::swap(right[i - 1], right[j]);
      std::swap(result[i - 1], result[j]);
    }
  }

  uint32_t add(const std::string& piece) {
    const auto [at, is_new] = ids.emplace(piece, static_cast<uint32_t>(pieces.size()));
    if (is_new) pieces.push_back(piece);
    return at->second;
  }

  void open() {
    cg::VocabularySource source{{}, added, {}, kDigest};
    for (const std::string& piece : pieces) source.pieces.emplace_back(piece);
    for (size_t i = 0; i < left.size(); i++) source.merges.emplace_back(pieces[left[i]], pieces[right[i]]);
    block = cg::Vocabulary::build(source);
    const char* problem = cg::Vocabulary::open(reinterpret_cast<const uint8_t*>(block.data()), block.size(),
                                               kDigest, &vocabulary);
    CHECK(problem == nullptr, "%s", problem);
  }

  Ids merge_plainly(Ids symbols) const {
    std::map<std::pair<uint32_t, uint32_t>, uint32_t> ranks;
    for (uint32_t i = 0; i < left.size(); i++) ranks[{left[i], right[i]}] = i;
    while (true) {
      std::pair<uint32_t, size_t> best{cg::kNoId, 0};
      for (size_t i = 1; i < symbols.size(); i++) {
        const auto found = ranks.find({symbols[i - 1], symbols[i]});
        if (found != ranks.end()) best = std::min(best, {found->second, i - 1});
      }
      if (best.first == cg::kNoId) return symbols;
      symbols[best.second] = result[best.first];
      symbols.erase(symbols.begin() + static_cast<int64_t>(best.second) + 1);
    }
  }
};

std::string show(const Ids& ids) {
  std::string text;
  for (const uint32_t id : ids) text += std::to_string(id) + ' ';
  return text;
}

void merges_as_defined() {
  for (uint64_t seed = 0; seed < 200; seed++) {
    Language language(seed, {"a", "b", "\xc3\xa9"}, 40);
    language.open();
    const cg::BytePairEncoder encoder(language.vocabulary);
    test::Random random(seed + 1000);
    for (int round = 0; round < 20; round++) {
      std::string text;
      Ids symbols;
      for (uint32_t left = random.bits() % 40; left > 0; left--) {
        const std::string letter = std::vector<std::string>{"a", "b", "\xc3\xa9"}[random.bits() % 3];
        text += letter;
        symbols.push_back(language.ids.at(letter));
      }
      const Ids expected = language.merge_plainly(symbols), got = encoder.encode(text);
      CHECK(got == expected, "seed %d, %s: %s, expected %s", static_cast<int>(seed), text.c_str(),
            show(got).c_str(), show(expected).c_str());
    }
  }
}

// By hand: cut out longest first, raw pieces before spaces are replaced, normalized ones after.
void cuts_added_pieces_out() {
  Language language(1, {"a", "\xe2\x96\x81"}, 0);
  const auto add = [&](const char* piece, bool normalized) {
    const uint32_t id = language.add(piece);
    language.added.push_back({id, false, normalized});
    return id;
  };
  const uint32_t one = add("\n", false), two = add("\n\n", false), three = add("\n\n\n", false);
  const uint32_t spaces = add("\xe2\x96\x81\xe2\x96\x81", true), raw = add("a  ", false);
  const uint32_t a = language.ids.at("a"), space = language.ids.at("\xe2\x96\x81");
  language.open();
  const cg::BytePairEncoder encoder(language.vocabulary);
  const std::pair<std::string, Ids> cases[] = {
      {"", {}},
      {"\n\n\n\n\na\n", {three, two, a, one}},
      {"   ", {spaces, space}},
      {"a   \n", {raw, space, one}},
      {"\xe2\x96\x81 a", {spaces, a}},
      {std::string("\0", 1), {0}},
      {"\xe2\x82\xac", {0xe2, 0x82, 0xac}},
      {"\xe2\x82", {0xe2, 0x82}},  // not UTF-8, and cut off
      {"a\xff\xc3", {a, 0xff, 0xc3}},
  };
  for (const auto& [text, expected] : cases) {
    const Ids got = encoder.encode(text);
    CHECK(got == expected, "%s: %s, expected %s", text.c_str(), show(got).c_str(), show(expected).c_str());
  }
}

// A megabyte without anything to cut at takes no quadratic time: this test would not end.
void long_texts_are_no_problem() {
  Language language(3, {"a", "b"}, 60);
  language.open();
  const cg::BytePairEncoder encoder(language.vocabulary);
  std::string text;
  test::Random random(5);
  while (text.size() < 1 << 20) text += random.bits() % 2 ? "a" : "b";
  size_t length = 0;
  for (const uint32_t id : encoder.encode(text)) length += language.pieces[id].size();
  CHECK(length == text.size(), "%zu", length);
}

}  // namespace

int main() {
  merges_as_defined();
  cuts_added_pieces_out();
  long_texts_are_no_problem();
  return test::report();
}
