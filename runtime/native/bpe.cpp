#include "bpe.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace cg {

// A piece of the text in a doubly linked list.
struct BytePairEncoder::Symbol {
  uint32_t id;  // kNoId once it is merged into its left neighbour
  uint32_t previous, next;
};

namespace {

constexpr uint32_t kEnd = 0xffffffff;
constexpr std::string_view kSpaceSign = "\xe2\x96\x81";

// A pair that could be merged when it was found.
struct Candidate {
  uint64_t order;  // the rank, and among equals the position
  uint32_t result;

  uint32_t position() const { return static_cast<uint32_t>(order); }
  // std::push_heap keeps the largest in front.
  bool operator<(const Candidate& other) const { return order > other.order; }
};

size_t character_bytes(uint8_t first) { return first < 0xc0 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4; }

std::string_view normalize(std::string_view text, std::string* buffer) {
  if (text.find(' ') == std::string_view::npos) return text;
  buffer->clear();
  for (const char c : text) {
    if (c == ' ') {
      *buffer += kSpaceSign;
    } else {
      *buffer += c;
    }
  }
  return *buffer;
}

}  // namespace

struct BytePairEncoder::Scratch {
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
  std::string normalized;
};

BytePairEncoder::BytePairEncoder(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
  for (const AddedPiece& added : vocabulary.added()) {
    Matcher& matcher = added.normalized ? normalized_ : raw_;
    matcher[static_cast<uint8_t>(vocabulary.piece(added.id)[0])].push_back(added.id);
  }
  const auto longer = [&](uint32_t a, uint32_t b) {
    return vocabulary.piece(a).size() > vocabulary.piece(b).size();
  };
  for (Matcher* matcher : {&raw_, &normalized_})
    for (std::vector<uint32_t>& ids : *matcher) std::stable_sort(ids.begin(), ids.end(), longer);
}

std::vector<uint32_t> BytePairEncoder::encode(std::string_view text) const {
  if (text.size() >= size_t{1} << 30) throw std::length_error("the text is longer than 1 GiB");
  std::vector<uint32_t> ids;
  Scratch scratch;
  split(raw_, text, &ids, [&](std::string_view raw) {
    const std::string_view normalized = normalize(raw, &scratch.normalized);
    split(normalized_, normalized, &ids, [&](std::string_view rest) { merge(rest, &scratch, &ids); });
  });
  return ids;
}

// Cuts out the added pieces, from left to right and of several the longest; `between` gets the rest.
template <class Between>
void BytePairEncoder::split(const Matcher& matcher, std::string_view text, std::vector<uint32_t>* ids,
                            Between between) const {
  size_t start = 0, at = 0;
  while (at < text.size()) {
    const std::vector<uint32_t>& candidates = matcher[static_cast<uint8_t>(text[at])];
    const auto found = std::find_if(candidates.begin(), candidates.end(), [&](uint32_t id) {
      const std::string_view piece = vocabulary_.piece(id);
      return text.compare(at, piece.size(), piece) == 0;
    });
    if (found == candidates.end()) {
      at++;
      continue;
    }
    if (start < at) between(text.substr(start, at - start));
    ids->push_back(*found);
    start = at += vocabulary_.piece(*found).size();
  }
  if (start < text.size()) between(text.substr(start));
}

void BytePairEncoder::merge(std::string_view text, Scratch* scratch, std::vector<uint32_t>* ids) const {
  std::vector<Symbol>& symbols = scratch->symbols;
  std::vector<Candidate>& heap = scratch->heap;
  add_characters(text, &symbols);
  heap.clear();
  const auto consider = [&](uint32_t left, uint32_t right) {
    const Merge* merge = vocabulary_.find_merge(symbols[left].id, symbols[right].id);
    if (merge != nullptr) heap.push_back({uint64_t{merge->rank} << 32 | left, merge->result});
    return merge != nullptr;
  };
  for (uint32_t i = 1; i < symbols.size(); i++) consider(i - 1, i);
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate best = heap.back();
    heap.pop_back();
    Symbol& left = symbols[best.position()];
    if (left.id == kNoId || left.next == kEnd) continue;
    Symbol& right = symbols[left.next];
    // Either side may have changed since. Whatever stands there now is merged if that makes the same piece:
    // so does the library.
    const Merge* merge = vocabulary_.find_merge(left.id, right.id);
    if (merge == nullptr || merge->result != best.result) continue;
    left.id = best.result;
    left.next = right.next;
    right.id = kNoId;
    if (left.next != kEnd) {
      symbols[left.next].previous = best.position();
      if (consider(best.position(), left.next)) std::push_heap(heap.begin(), heap.end());
    }
    if (left.previous != kEnd && consider(left.previous, best.position()))
      std::push_heap(heap.begin(), heap.end());
  }
  for (uint32_t i = 0; i != kEnd; i = symbols[i].next) ids->push_back(symbols[i].id);
}

// One symbol for each character, or for each byte of one that is no piece.
void BytePairEncoder::add_characters(std::string_view text, std::vector<Symbol>* symbols) const {
  symbols->clear();
  const auto add = [&](uint32_t id) {
    const auto position = static_cast<uint32_t>(symbols->size());
    symbols->push_back({id, position - 1, position + 1});
  };
  for (size_t at = 0; at < text.size();) {
    const auto first = static_cast<uint8_t>(text[at]);
    const std::string_view character = text.substr(at, character_bytes(first));
    const uint32_t id = first < 128 ? vocabulary_.ascii(first) : vocabulary_.find(character);
    if (id != kNoId) {
      add(id);
    } else {
      for (const char byte : character) add(vocabulary_.byte(static_cast<uint8_t>(byte)));
    }
    at += character.size();
  }
  symbols->back().next = kEnd;
}

}  // namespace cg
