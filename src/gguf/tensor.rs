//! Tensor types, their sizes, and the entries of the tensor table.
//!
//! Type ids are not unique across programs: bitnet.cpp and ik_llama.cpp gave ids to ternary types that
//! upstream later gave to others (36, 38 and 39), and id 42 names three layouts. A [`TensorType`] is a layout;
//! the reader picks the one whose size formula explains the distances between tensors.

use crate::error::{Error, Result, shown};

/// The layout of a tensor's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, non_camel_case_types, reason = "the names are the formats' own")]
pub enum TensorType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1_M,
    BF16,
    TQ1_0,
    TQ2_0,
    /// bitnet.cpp: four codes a byte over the flattened tensor, then 32 bytes that begin with one f32 scale.
    I2_S,
    /// bitnet.cpp, ARM: pairs of weights as 4-bit indices, then the scale slot.
    TL1,
    /// bitnet.cpp, x86: triples of weights as 4-bit indices and sign bits, then the scale slot. Id 39 until
    /// 2026, then 42; upstream has MXFP4 and Q2_0 there.
    TL2,
    /// Upstream's type under id 39.
    MXFP4,
    NVFP4,
    Q1_0,
    /// Groups of 64: f16 scale, 16 bytes of 2-bit codes.
    Q2_0,
    /// The layout of files published before Q2_0 was settled, under the same id 42: groups of 128.
    Q2_0_G128,
    /// ik_llama.cpp: rows of an f16 scale and 13-byte blocks of 64.
    IQ1_BN,
    /// ik_llama.cpp: rows of an f32 scale and 16-byte blocks of 64.
    IQ2_BN,
    /// ik_llama.cpp: IQ2_BN with four rows interleaved.
    IQ2_BN_R4,
    /// PrismML: groups of 128, as [`TensorType::Q2_0_G128`].
    PQ2_0,
    /// PrismML: groups of 128, five base-3 digits a byte.
    PTQ1_0,
}

use TensorType as T;

/// How many bytes a tensor takes. `n` is its number of elements, `K` its first dimension, `M = n / K`.
#[derive(Clone, Copy)]
enum Size {
    /// Blocks of `len` elements in `bytes` bytes; K is a multiple of `len`.
    Blocks { len: u64, bytes: u64 },
    /// As `Blocks`, with `header` bytes in front of each row, and M a multiple of `rows`.
    Rows { header: u64, len: u64, bytes: u64, rows: u64 },
    /// n/4 bytes of codes, 32 bytes of trailer.
    I2s,
    /// n/4 bytes of indices padded to 32, 32 bytes of trailer.
    Tl1,
    /// See [`tl2_bytes`].
    Tl2,
}

struct Spec {
    ty: TensorType,
    name: &'static str,
    /// The ids it is known under; the first is the one to write.
    ids: &'static [u32],
    size: Size,
}

const fn spec(ty: TensorType, name: &'static str, ids: &'static [u32], size: Size) -> Spec {
    Spec { ty, name, ids, size }
}

const fn blocks(len: u64, bytes: u64) -> Size {
    Size::Blocks { len, bytes }
}

const fn rows(header: u64, bytes: u64, rows: u64) -> Size {
    Size::Rows { header, len: 64, bytes, rows }
}

/// One line per type, in the order of the enum.
const SPECS: &[Spec] = &[
    spec(T::F32, "F32", &[0], blocks(1, 4)),
    spec(T::F16, "F16", &[1], blocks(1, 2)),
    spec(T::Q4_0, "Q4_0", &[2], blocks(32, 18)),
    spec(T::Q4_1, "Q4_1", &[3], blocks(32, 20)),
    spec(T::Q5_0, "Q5_0", &[6], blocks(32, 22)),
    spec(T::Q5_1, "Q5_1", &[7], blocks(32, 24)),
    spec(T::Q8_0, "Q8_0", &[8], blocks(32, 34)),
    spec(T::Q2_K, "Q2_K", &[10], blocks(256, 84)),
    spec(T::Q3_K, "Q3_K", &[11], blocks(256, 110)),
    spec(T::Q4_K, "Q4_K", &[12], blocks(256, 144)),
    spec(T::Q5_K, "Q5_K", &[13], blocks(256, 176)),
    spec(T::Q6_K, "Q6_K", &[14], blocks(256, 210)),
    spec(T::IQ2_XXS, "IQ2_XXS", &[16], blocks(256, 66)),
    spec(T::IQ2_XS, "IQ2_XS", &[17], blocks(256, 74)),
    spec(T::IQ3_XXS, "IQ3_XXS", &[18], blocks(256, 98)),
    spec(T::IQ1_S, "IQ1_S", &[19], blocks(256, 50)),
    spec(T::IQ4_NL, "IQ4_NL", &[20], blocks(32, 18)),
    spec(T::IQ3_S, "IQ3_S", &[21], blocks(256, 110)),
    spec(T::IQ2_S, "IQ2_S", &[22], blocks(256, 82)),
    spec(T::IQ4_XS, "IQ4_XS", &[23], blocks(256, 136)),
    spec(T::I8, "I8", &[24], blocks(1, 1)),
    spec(T::I16, "I16", &[25], blocks(1, 2)),
    spec(T::I32, "I32", &[26], blocks(1, 4)),
    spec(T::I64, "I64", &[27], blocks(1, 8)),
    spec(T::F64, "F64", &[28], blocks(1, 8)),
    spec(T::IQ1_M, "IQ1_M", &[29], blocks(256, 56)),
    spec(T::BF16, "BF16", &[30], blocks(1, 2)),
    spec(T::TQ1_0, "TQ1_0", &[34], blocks(256, 54)),
    spec(T::TQ2_0, "TQ2_0", &[35], blocks(256, 66)),
    spec(T::I2_S, "I2_S", &[36], Size::I2s),
    spec(T::TL1, "TL1", &[38], Size::Tl1),
    spec(T::TL2, "TL2", &[39, 42], Size::Tl2),
    spec(T::MXFP4, "MXFP4", &[39], blocks(32, 17)),
    spec(T::NVFP4, "NVFP4", &[40], blocks(64, 36)),
    spec(T::Q1_0, "Q1_0", &[41], blocks(128, 18)),
    spec(T::Q2_0, "Q2_0", &[42], blocks(64, 18)),
    spec(T::Q2_0_G128, "Q2_0_G128", &[42], blocks(128, 34)),
    spec(T::IQ1_BN, "IQ1_BN", &[134], rows(2, 13, 1)),
    spec(T::IQ2_BN, "IQ2_BN", &[135], rows(4, 16, 1)),
    spec(T::IQ2_BN_R4, "IQ2_BN_R4", &[335], rows(4, 16, 4)),
    spec(T::PQ2_0, "PQ2_0", &[142], blocks(128, 34)),
    spec(T::PTQ1_0, "PTQ1_0", &[143], blocks(128, 28)),
];

/// Bytes behind the codes of an I2_S tensor: the scale as f32, the rest zero or undefined.
pub const I2S_TRAILER_BYTES: usize = 32;

/// A shape that a type cannot have.
pub(super) struct BadShape {
    expected: String,
    found: String,
}

impl BadShape {
    pub(super) fn of(self, tensor: &str) -> Error {
        Error::malformed(format!("tensor {}", shown(tensor)), self.expected, self.found)
    }
}

impl TensorType {
    fn spec(self) -> &'static Spec {
        &SPECS[self as usize]
    }

    /// The id written to files.
    pub fn id(self) -> u32 {
        self.spec().ids[0]
    }

    /// The name the format uses.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// All layouts a type id may stand for; none for an unknown id.
    pub fn with_id(id: u32) -> impl Iterator<Item = Self> {
        SPECS.iter().filter(move |spec| spec.ids.contains(&id)).map(|spec| spec.ty)
    }

    /// Bytes of a tensor of this type with these dimensions (fastest first); `None` where the type cannot have them.
    pub fn size_bytes(self, dims: &[u64]) -> Option<u64> {
        check_dims("", dims).ok()?;
        self.size(dims).ok()
    }

    /// As [`size_bytes`](Self::size_bytes), for dimensions that passed [`check_dims`].
    pub(super) fn size(self, dims: &[u64]) -> Result<u64, BadShape> {
        // n < 2^63, so nothing below overflows 128 bits.
        let n: u128 = dims.iter().map(|&d| u128::from(d)).product();
        let cols = u128::from(dims[0]);
        let rows = n / cols;
        let name = self.name();
        let need = |what: &str, value: u128, multiple: u64| {
            let bad = || BadShape {
                expected: format!("{what} to be a multiple of {multiple} for {name}"),
                found: value.to_string(),
            };
            if value.is_multiple_of(multiple.into()) { Ok(()) } else { Err(bad()) }
        };
        let bytes = match self.spec().size {
            Size::Blocks { len, bytes } => {
                need("the row length", cols, len)?;
                n / u128::from(len) * u128::from(bytes)
            }
            Size::Rows { header, len, bytes, rows: group } => {
                need("the row length", cols, len)?;
                need("the number of rows", rows, group)?;
                rows * (u128::from(header) + cols / u128::from(len) * u128::from(bytes))
            }
            Size::I2s => {
                need("the number of elements", n, 4)?;
                n / 4 + I2S_TRAILER_BYTES as u128
            }
            Size::Tl1 => {
                need("the number of elements", n, 4)?;
                (n / 4).next_multiple_of(32) + 32
            }
            Size::Tl2 => tl2_bytes(cols, rows)
                .ok_or_else(|| BadShape { expected: "at least 256 columns for TL2".into(), found: cols.to_string() })?,
        };
        u64::try_from(bytes).map_err(|_| BadShape {
            expected: "a size below 2^64 bytes".into(),
            found: format!("{bytes} bytes of {name}"),
        })
    }
}

/// bitnet.cpp reserves room as if the pairs always covered 256 columns, with integer divisions in this order.
fn tl2_bytes(cols: u128, rows: u128) -> Option<u128> {
    let triples = cols.checked_sub(256)? * rows / 3 * 5 / 8;
    let pairs = 256 * rows / 2 * 4 / 8;
    Some((triples + pairs).next_multiple_of(32) + 32)
}

/// An entry of a file's tensor table, with everything checked against the file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Name; 1 to 63 bytes.
    pub name: String,
    /// 1 to 4 dimensions, none 0, fastest first: `dims[0]` is the row length.
    pub dims: Vec<u64>,
    /// Layout of the data.
    pub ty: TensorType,
    /// The type id as the file gives it.
    pub id: u32,
    /// Which of the file's parts holds the data; 0 where it is whole.
    pub part: usize,
    /// Where the data begins, from the start of that part.
    pub offset: u64,
    /// Length of the data.
    pub len_bytes: u64,
    /// Distance to the next tensor, or to the end of the file: at least `len_bytes`.
    pub gap_bytes: u64,
}

impl TensorInfo {
    /// Number of elements; below 2^63.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Rows of `dims[0]` elements.
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Name; 1 to 63 bytes.
    pub name: String,
    /// 1 to 4 dimensions, fastest first.
    pub dims: Vec<u64>,
    /// Layout of the data.
    pub ty: TensorType,
}

/// Upstream keeps names in 64 bytes, the last of which is NUL.
const MAX_NAME_BYTES: usize = 63;

/// Upstream's tensors have at most this many dimensions.
pub(super) const MAX_DIMS: u32 = 4;

/// `what` names the tensor where its name cannot: by its place in the table.
pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        let found = format!("{} bytes", name.len());
        return Err(Error::malformed(format!("name of {what}"), format!("1 to {MAX_NAME_BYTES} bytes"), found));
    }
    if name.contains(char::is_control) {
        let found = format!("\"{}\"", shown(name));
        return Err(Error::malformed(format!("name of {what}"), "no control characters", found));
    }
    // Nothing here takes a name for a path, but tools that unpack tensors into files do.
    if name.split(['/', '\\']).any(|part| part == "..") {
        let expected = "no \"..\" between slashes";
        return Err(Error::malformed(format!("name of {what}"), expected, format!("\"{}\"", shown(name))));
    }
    Ok(())
}

/// Checks the dimensions and gives the number of elements.
pub(super) fn check_dims(name: &str, dims: &[u64]) -> Result<u64> {
    let bad = |expected: &str| Error::malformed(format!("tensor {}", shown(name)), expected, format!("{dims:?}"));
    if dims.is_empty() || dims.len() > MAX_DIMS as usize {
        return Err(bad("1 to 4 dimensions"));
    }
    if dims.contains(&0) {
        return Err(bad("dimensions of at least 1"));
    }
    dims.iter()
        .try_fold(1u64, |n, &dim| n.checked_mul(dim))
        .filter(|&n| i64::try_from(n).is_ok())
        .ok_or_else(|| bad("fewer than 2^63 elements"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_follows_the_enum_and_only_39_and_42_are_shared() {
        for (at, spec) in SPECS.iter().enumerate() {
            assert_eq!(spec.ty as usize, at, "{}", spec.name);
            assert_eq!(spec.ty.name(), spec.name);
        }
        let shared: Vec<u32> = (0..400).filter(|&id| TensorType::with_id(id).count() > 1).collect();
        assert_eq!(shared, [39, 42]);
        assert_eq!(TensorType::with_id(42).collect::<Vec<_>>(), [T::TL2, T::Q2_0, T::Q2_0_G128]);
        for unknown in [4, 5, 31, 32, 33, 37, 43, 255, u32::MAX] {
            assert_eq!(TensorType::with_id(unknown).count(), 0, "{unknown}");
        }
    }

    #[test]
    fn sizes_follow_the_formulas() {
        // Each expected value is worked out by hand from the formula in the format's description.
        let cases: &[(TensorType, &[u64], Option<u64>)] = &[
            (T::F32, &[3], Some(12)),
            (T::BF16, &[3, 2], Some(12)),
            (T::Q8_0, &[64, 2], Some(4 * 34)),
            (T::Q8_0, &[33], None),
            (T::Q8_0, &[16, 2], None), // blocks do not cross rows
            (T::TQ1_0, &[256, 3], Some(162)),
            (T::TQ2_0, &[512], Some(132)),
            (T::I2_S, &[2560, 640], Some(409_600 + 32)),
            (T::I2_S, &[8640, 3200], Some(6_912_000 + 32)),
            (T::I2_S, &[3], None),
            (T::TL1, &[3200, 3200], Some(2_560_000 + 32)),
            // (3200-256)*3200 = 9420800; /3 = 3140266; *5/8 = 1962666; 256*3200/2*4/8 = 204800; sum 2167466,
            // padded 2167488, + 32
            (T::TL2, &[3200, 3200], Some(2_167_520)),
            (T::TL2, &[255, 3], None),
            (T::MXFP4, &[64], Some(34)),
            (T::Q2_0, &[128], Some(36)),
            (T::Q2_0_G128, &[128], Some(34)),
            (T::PQ2_0, &[256], Some(68)),
            (T::PTQ1_0, &[256], Some(56)),
            (T::IQ1_BN, &[128, 3], Some(3 * 28)),
            (T::IQ2_BN, &[128, 3], Some(3 * 36)),
            (T::IQ2_BN_R4, &[128, 4], Some(4 * 36)),
            (T::IQ2_BN_R4, &[128, 3], None),
            (T::F64, &[1 << 62], None),
            (T::F32, &[1 << 32, 1 << 31], None),
            (T::F32, &[1, 1, 1, 1, 1], None),
            (T::F32, &[], None),
            (T::F32, &[4, 0], None),
        ];
        for &(ty, dims, expected) in cases {
            assert_eq!(ty.size_bytes(dims), expected, "{} {dims:?}", ty.name());
        }
    }
}
