// Where quantised rows go: to the products, in memory.

@group(0) @binding(2) var<storage, read_write> xq: array<u32>;     // (tokens, words)
@group(0) @binding(3) var<storage, read_write> acts: array<Act>;   // (tokens, groups)

fn cols() -> u32 { return p.cols; }

fn divisor() -> u32 { return p.cols; }

fn words() -> u32 { return p.words; }

// Twin of acts_folded.wgsl, for which it pays.
fn whole_words() -> bool { return false; }

fn eps() -> f32 { return p.eps; }

fn put_word(token: u32, w: u32, word: u32) { xq[token * p.words + w] = word; }

fn put_act(token: u32, group: u32, act: Act) { acts[token * p.groups + group] = act; }
