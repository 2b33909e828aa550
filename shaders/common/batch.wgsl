// The tokens of a step, which may belong to several sequences, behind the word of finite.wgsl. Binding: `batch`.

struct Token {
  id: u32,
  position: u32, // in its sequence
  first: u32,    // the token of the step that its sequence begins with there: from it up to this one positions are consecutive
  base: u32,     // positions of other sequences before its own in the caches
}

struct Batch {
  damage: atomic<u32>,
  @align(16) tokens: array<Token>,
}
