// The activations of a ternary product: each workgroup norms and quantises them for itself, in the order of additions
// of norm_quantize.wgsl, so that all of them get its bits. Twin of acts_stored.wgsl.

override COLS: u32 = 128u;
override WORDS: u32 = 32u;     // columns rounded up to 128, over 4
override ACTS: u32 = 1u;       // scales of a token
override IN_STRIDE: u32 = 128u; // f32 between tokens of the input
override IN_OFFSET: u32 = 0u;
override EPS: f32 = 1e-5;
override ROUNDS: u32 = 1u;     // times that a workgroup takes WG / 4 rows, for one quantisation

@group(0) @binding(1) var<storage, read> weight: array<f32>;         // (COLS)
@group(0) @binding(2) var<storage, read> codes: array<vec4<u32>>;    // (rows, row_quads)

// Single words: WGSL lets a store to one component of a vector touch the others.
var<workgroup> row_words: array<u32, WORDS>;
var<workgroup> row_acts: array<Act, ACTS>;

fn cols() -> u32 { return COLS; }

// A row of codes is no shorter, which only the engine knows.
fn divisor() -> u32 { return min(COLS, 64u * p.row_quads); }

fn words() -> u32 { return WORDS; }

// Whether words are read without a branch, so that compilers keep all of an invocation's in registers: none may be of columns
// within the row and past it, and eight of the row and of its weights leave room for as many subgroups as before.
fn whole_words() -> bool { return COLS % 4u == 0u && COLS <= 32u * WG; }

fn eps() -> f32 { return EPS; }

fn in_stride() -> u32 { return IN_STRIDE; }

fn in_offset() -> u32 { return IN_OFFSET; }

fn put_word(token: u32, w: u32, word: u32) { row_words[w] = word; }

fn put_act(token: u32, group: u32, act: Act) { row_acts[group] = act; }

fn prepare(token: u32, lane: Lane) {
  quantize_row(token, lane);
  workgroupBarrier();
}

fn x_of(token: u32, i: u32) -> vec4<u32> {
  return vec4(row_words[4u * i], row_words[4u * i + 1u], row_words[4u * i + 2u], row_words[4u * i + 3u]);
}

fn act_of(token: u32, groups: u32, group: u32) -> Act { return row_acts[group]; }
