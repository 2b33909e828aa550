// Tokens of a tile that an invocation of a matrix product takes: more sums would not fit in the registers.
const TOKENS_EACH: u32 = 4u;
