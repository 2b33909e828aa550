// Columns that share a scale of the weights and one of the activations: 64, 128 or 256. In the products also 0: the
// weights have one f32 scale a row and the activations one a token.

override GROUP: u32 = 128u;
