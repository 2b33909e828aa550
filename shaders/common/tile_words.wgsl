// A tile of a matrix product: 64 rows by 64 tokens, of which a block of 128 columns is in workgroup memory at a time.
// By words: what is unpacked to f32 or int32 for a product fits in the registers. Twin of tile_vectors.wgsl. 10.2 KiB
// together.

const ROWS_EACH: u32 = 4u;             // of an invocation, 16 apart
const DOWN: u32 = 64u / TOKENS_EACH;   // and from one of its tokens to the next

alias Totals = array<array<Acc, TOKENS_EACH>, ROWS_EACH>;

// Word-major, one word of padding against bank conflicts; codes stay packed.
var<workgroup> code_tile: array<u32, 520>; // (8 words, 65)
var<workgroup> x_tile: array<u32, 2080>;   // (32 words, 65)

fn put_codes(row: u32, quad: u32, v: vec4<u32>) {
  let at = quad * 260u + row;
  code_tile[at] = v.x;
  code_tile[at + 65u] = v.y;
  code_tile[at + 130u] = v.z;
  code_tile[at + 195u] = v.w;
}

fn put_x(token: u32, quad: u32, v: vec4<u32>) {
  let at = quad * 260u + token;
  x_tile[at] = v.x;
  x_tile[at + 65u] = v.y;
  x_tile[at + 130u] = v.z;
  x_tile[at + 195u] = v.w;
}

// Adds the products of parts `first` to `end` of the block, of 32 columns each, to the totals of an invocation.
fn add_tile(total: ptr<function, Totals>, across: u32, down: u32, first: u32, end: u32) {
  for (var j = 0u; j < 8u; j++) {
    var q: array<u32, ROWS_EACH>;
    for (var a = 0u; a < ROWS_EACH; a++) { q[a] = code_tile[j * 65u + across + 16u * a]; }
    for (var part = first; part < end; part++) {
      let at = (part * 8u + j) * 65u + down;
      var v: array<u32, TOKENS_EACH>;
      for (var b = 0u; b < TOKENS_EACH; b++) { v[b] = x_tile[at + DOWN * b]; }
      for (var a = 0u; a < ROWS_EACH; a++) {
        let c = (q[a] >> (6u - 2u * part)) & 0x03030303u;
        for (var b = 0u; b < TOKENS_EACH; b++) { (*total)[a][b] += dot4(c, v[b]); }
      }
    }
  }
}
