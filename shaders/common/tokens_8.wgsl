// Tokens of a tile that an invocation of a matrix product takes: with 8, codes are unpacked half as often as with 4.
const TOKENS_EACH: u32 = 8u;
