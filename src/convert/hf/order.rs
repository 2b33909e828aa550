//! Rows and columns of a checkpoint in the order that GGUF files have them.

/// Where the rows, or the columns, of the file come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Place unchanged from the checkpoint.
    Same,
    /// Heads for interleaved RoPE (`permute` in llama.cpp's converter): checkpoints rotate element i with i + head_dim / 2,
    /// llama files rotate 2i with 2i + 1.
    Interleaved { head_dim: usize },
    /// Value heads of a DeltaNet from `start` on, each of `width`. Checkpoints group them by key head, files tile them:
    /// head h goes with key head h % `key_heads` (`_LinearAttentionVReorderBase` in llama.cpp's converter).
    Tiled { start: usize, width: usize, key_heads: usize, value_heads: usize },
}

impl Order {
    /// The place in the checkpoint of place `at` in the file.
    pub fn source(self, at: usize) -> usize {
        match self {
            Self::Same => at,
            Self::Interleaved { head_dim } => {
                let (head, place) = (at / head_dim, at % head_dim);
                head * head_dim + place % 2 * (head_dim / 2) + place / 2
            }
            Self::Tiled { start, .. } if at < start => at,
            Self::Tiled { start, width, key_heads, value_heads } => {
                let (head, place) = ((at - start) / width, (at - start) % width);
                let (turn, key_head) = (head / key_heads, head % key_heads);
                start + (key_head * (value_heads / key_heads) + turn) * width + place
            }
        }
    }

    /// Puts `values` in order, by way of `scratch` of the same length.
    pub fn apply<T: Copy>(self, values: &mut [T], scratch: &mut [T]) {
        if self == Self::Same {
            return;
        }
        scratch.copy_from_slice(values);
        for (at, value) in values.iter_mut().enumerate() {
            *value = scratch[self.source(at)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_worked_out_by_hand() {
        let all = |order: Order, len| (0..len).map(|at| order.source(at)).collect::<Vec<_>>();
        assert_eq!(all(Order::Interleaved { head_dim: 4 }, 8), [0, 2, 1, 3, 4, 6, 5, 7]);
        // Two key heads with three value heads each: 0 1 2 and 3 4 5 become 0 3, 1 4, 2 5.
        let tiled = Order::Tiled { start: 1, width: 2, key_heads: 2, value_heads: 6 };
        assert_eq!(all(tiled, 13), [0, 1, 2, 7, 8, 3, 4, 9, 10, 5, 6, 11, 12]);
        let one = Order::Tiled { start: 0, width: 1, key_heads: 3, value_heads: 3 };
        assert_eq!(all(one, 3), [0, 1, 2]);
        let (mut values, mut scratch) = ([9, 10, 11, 12, 13, 14, 15], [0; 7]);
        Order::Tiled { start: 1, width: 1, key_heads: 2, value_heads: 6 }.apply(&mut values, &mut scratch);
        assert_eq!(values, [9, 10, 13, 11, 14, 12, 15]);
    }
}
