//! The reader: header, metadata and tensor table of a GGUF file, each checked against the file's length
//! before anything is allocated or sliced by it. Tensor data stays in the memory map.
//!
//! Stricter than upstream in nothing that its writers do; more tolerant in one thing: unused bytes between
//! and after tensors are accepted with a warning.

use std::{collections::BTreeMap, fmt};

use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, foreign,
    split::{Part, Split},
    tensor::{MAX_DIMS, TensorInfo, TensorSpec, TensorType, check_dims, check_name},
    types::{Array, Metadata, Value},
};
use crate::{
    bytes::Bytes,
    error::{Error, Result, shown},
};

/// A parsed GGUF file.
#[derive(Clone, Debug)]
pub struct File {
    /// The bytes of the file, or of each of its parts.
    pub(super) bytes: Vec<Bytes>,
    /// Parts of a split file; none where it is whole.
    pub(super) parts: Vec<Part>,
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
    /// Places in `tensors`, ordered by name.
    pub(super) by_name: Vec<usize>,
    pub(super) warnings: Vec<String>,
}

impl File {
    /// With copies of all bytes that are a memory-mapped file's, so that no file is needed any more; `progress` is told
    /// the bytes so far and of all.
    ///
    /// # Errors
    /// If there is not the memory.
    pub fn detached(mut self, progress: &dyn Fn(u64, u64)) -> Result<Self> {
        let (all, mut done) = (self.len_bytes(), 0);
        for bytes in &mut self.bytes {
            *bytes = bytes.detached()?;
            done += bytes.len() as u64;
            progress(done, all);
        }
        Ok(self)
    }

    /// Parses a whole file.
    pub fn parse(bytes: Bytes) -> Result<Self> {
        let file = Self::parse_part(bytes)?;
        match Split::of(&file.metadata)? {
            Some(split) => Err(split.refusal()),
            None => Ok(file),
        }
    }

    /// A file that was never written: each tensor with its bytes.
    ///
    /// # Errors
    /// If the writer would refuse the tensors, or bytes are not as many as a tensor of that type has.
    pub fn in_memory(metadata: Metadata, tensors: Vec<(TensorSpec, Bytes)>) -> Result<Self> {
        let (mut infos, mut bytes) = (Vec::with_capacity(tensors.len()), Vec::with_capacity(tensors.len()));
        for (part, (TensorSpec { name, dims, ty }, data)) in tensors.into_iter().enumerate() {
            check_name(&format!("tensor {part}"), &name)?;
            check_dims(&name, &dims)?;
            let len_bytes = ty.size(&dims).map_err(|bad| bad.of(&name))?;
            if data.len() as u64 != len_bytes {
                return Err(Error::malformed(format!("tensor {name}"), format!("{len_bytes} bytes"), data.len()));
            }
            infos.push(TensorInfo { name, dims, ty, id: ty.id(), part, offset: 0, len_bytes, gap_bytes: len_bytes });
            bytes.push(data);
        }
        let by_name = index_names(&infos)?;
        let (parts, warnings) = (Vec::new(), Vec::new());
        Ok(Self { bytes, parts, version: VERSION, metadata, tensors: infos, by_name, warnings })
    }

    pub(super) fn parse_part(bytes: Bytes) -> Result<Self> {
        foreign::check_magic(&bytes)?;
        let mut cursor = Cursor { bytes: &bytes, at: foreign::MAGIC.len() };
        let version = read_version(&mut cursor)?;
        let (n_tensors, n_pairs) = read_counts(&mut cursor)?;
        let metadata = read_metadata(&mut cursor, n_pairs)?;
        let alignment = read_alignment(&metadata)?;
        let mut tensors = read_table(&mut cursor, n_tensors)?;
        let by_name = index_names(&tensors)?;
        let table_end = cursor.at;
        let mut warnings = Vec::new();
        place(&mut tensors, table_end as u64, bytes.len() as u64, alignment, &mut warnings)?;
        Ok(Self { bytes: vec![bytes], parts: Vec::new(), version, metadata, tensors, by_name, warnings })
    }

    /// With these said about it, too.
    #[cfg(feature = "convert")]
    #[must_use]
    pub(crate) fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    /// Format version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Key/value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensor table in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let found = self.by_name.binary_search_by(|&at| self.tensors[at].name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[found]])
    }

    /// The data of a tensor of this file, still in the memory map where there is one.
    ///
    /// # Panics
    /// When `tensor` comes from a longer file than this one.
    pub fn data(&self, tensor: &TensorInfo) -> Bytes {
        let start = tensor.offset as usize;
        let range = start..start + tensor.len_bytes as usize;
        self.bytes[tensor.part].slice(range).expect("the tensor belongs to this file")
    }

    /// Length of the file, of all its parts together.
    pub fn len_bytes(&self) -> u64 {
        self.bytes.iter().map(|bytes| bytes.len() as u64).sum()
    }

    /// The type of most of its weights; `None` where it has no tensor.
    pub fn main_type(&self) -> Option<TensorType> {
        let mut elements = BTreeMap::<TensorType, u64>::new();
        for tensor in self.tensors() {
            let sum = elements.entry(tensor.ty).or_default();
            *sum = sum.saturating_add(tensor.elements());
        }
        elements.into_iter().max_by_key(|&(_, sum)| sum).map(|(ty, _)| ty)
    }

    /// The files it is split into; none where it is whole.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Oddities that do not prevent reading, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Reads little-endian fields; never past the end.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The file ends before a field does.
struct Short {
    at: usize,
    need: u64,
    left: u64,
}

impl Short {
    fn reading(self, thing: impl fmt::Display) -> Error {
        let Self { at, need, left } = self;
        let plural = if need == 1 { "" } else { "s" };
        Error::malformed(
            format!("{thing} at byte {at}"),
            format!("{need} byte{plural}"),
            format!("{left} left in the file"),
        )
    }
}

impl<'a> Cursor<'a> {
    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, need: u64) -> Result<&'a [u8], Short> {
        let short = Short { at: self.at, need, left: self.left() };
        let Ok(len) = usize::try_from(need) else { return Err(short) };
        let Some(taken) = self.bytes[self.at..].get(..len) else { return Err(short) };
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let taken = self.take(N as u64)?;
        Ok(taken.try_into().expect("take gives the length asked for"))
    }

    fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length-prefixed string. `thing` says whose it is and is called on errors only.
    fn str<D: fmt::Display>(&mut self, thing: impl Fn() -> D) -> Result<&'a str> {
        let len = self.u64().map_err(|short| short.reading(format_args!("length of {}", thing())))?;
        let bytes = self.take(len).map_err(|short| short.reading(thing()))?;
        std::str::from_utf8(bytes).map_err(|e| {
            let found = format!("byte {:#04x} at its position {}", bytes[e.valid_up_to()], e.valid_up_to());
            Error::malformed(thing().to_string(), "UTF-8 text", found)
        })
    }
}

fn read_version(cursor: &mut Cursor) -> Result<u32> {
    let version = cursor.u32().map_err(|short| short.reading("version"))?;
    let found = match version {
        2 | 3 => return Ok(version),
        1 => "1 (from before August 2023; convert it again)".to_owned(),
        // The other byte order puts small numbers into the upper half.
        _ if version & 0xffff == 0 && version != 0 => {
            format!("{} in big-endian order (convert the file to little-endian)", version.swap_bytes())
        }
        _ => version.to_string(),
    };
    Err(Error::malformed("GGUF version", "2 or 3", found))
}

/// The version of files that this program writes or makes up. Version 2 differs in nothing that a little-endian file
/// shows.
pub(super) const VERSION: u32 = 3;

/// Smallest possible key/value pair: length, a key of one byte, value type, a value of one byte.
const MIN_PAIR_BYTES: u64 = 8 + 1 + 4 + 1;

/// Smallest possible table entry: length, a name of one byte, one dimension, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

fn read_counts(cursor: &mut Cursor) -> Result<(usize, usize)> {
    let n_tensors = cursor.u64().map_err(|short| short.reading("tensor count"))?;
    let n_pairs = cursor.u64().map_err(|short| short.reading("metadata count"))?;
    let left = cursor.left();
    let check = |what: &str, count: u64, room: u64, size: u64| {
        let most = room / size;
        let expected = || format!("at most {most} in the {left} bytes after the header");
        if count <= most { Ok(count as usize) } else { Err(Error::malformed(what, expected(), count)) }
    };
    let n_tensors = check("tensor count", n_tensors, left, MIN_TENSOR_BYTES)?;
    let room = left - n_tensors as u64 * MIN_TENSOR_BYTES;
    Ok((n_tensors, check("metadata count", n_pairs, room, MIN_PAIR_BYTES)?))
}

fn read_metadata(cursor: &mut Cursor, count: usize) -> Result<Metadata> {
    let mut entries = Vec::with_capacity(count);
    for place in 0..count {
        let key = cursor.str(|| format!("metadata key {place}"))?;
        check_key(key)
            .map_err(|(expected, found)| Error::malformed(format!("metadata key {place}"), expected, found))?;
        let value = read_value(cursor, key)?;
        entries.push((key.to_owned(), value));
    }
    Metadata::from_entries(entries)
}

/// Gives what was expected and what was found.
pub(super) fn check_key(key: &str) -> Result<(), (&'static str, String)> {
    if key.is_empty() || key.len() > 65535 {
        return Err(("1 to 65535 bytes", format!("{} bytes", key.len())));
    }
    if key.contains(char::is_control) {
        return Err(("no control characters", format!("\"{}\"", shown(key))));
    }
    Ok(())
}

fn read_value(cursor: &mut Cursor, key: &str) -> Result<Value> {
    let named = |what: &str| format!("{what} of key {}", shown(key));
    let ty = cursor.u32().map_err(|short| short.reading(named("value type")))?;
    let short = |short: Short| short.reading(named("value"));
    Ok(match ty {
        0 => Value::U8(u8::from_le_bytes(cursor.array().map_err(short)?)),
        1 => Value::I8(i8::from_le_bytes(cursor.array().map_err(short)?)),
        2 => Value::U16(u16::from_le_bytes(cursor.array().map_err(short)?)),
        3 => Value::I16(i16::from_le_bytes(cursor.array().map_err(short)?)),
        4 => Value::U32(u32::from_le_bytes(cursor.array().map_err(short)?)),
        5 => Value::I32(i32::from_le_bytes(cursor.array().map_err(short)?)),
        6 => Value::F32(f32::from_le_bytes(cursor.array().map_err(short)?)),
        7 => Value::Bool(read_bools(key, cursor.take(1).map_err(short)?)?[0]),
        8 => Value::String(cursor.str(|| named("value"))?.to_owned()),
        9 => Value::Array(read_array(cursor, key)?),
        10 => Value::U64(u64::from_le_bytes(cursor.array().map_err(short)?)),
        11 => Value::I64(i64::from_le_bytes(cursor.array().map_err(short)?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array().map_err(short)?)),
        _ => return Err(Error::malformed(named("value type"), "0 to 12", ty)),
    })
}

/// Takes `count` numbers of a type; the length is checked against the file before the vector is made.
macro_rules! numbers {
    ($cursor:expr, $key:expr, $count:expr, $number:ty) => {{
        const SIZE: usize = size_of::<$number>();
        let bytes = $cursor
            .take($count.saturating_mul(SIZE as u64))
            .map_err(|short| short.reading(format_args!("array of key {}", shown($key))))?;
        bytes.as_chunks::<SIZE>().0.iter().map(|&number| <$number>::from_le_bytes(number)).collect()
    }};
}

fn read_array(cursor: &mut Cursor, key: &str) -> Result<Array> {
    let named = |what: &str| format!("{what} of key {}", shown(key));
    let ty = cursor.u32().map_err(|short| short.reading(named("element type")))?;
    let count = cursor.u64().map_err(|short| short.reading(named("array length")))?;
    Ok(match ty {
        0 => Array::U8(numbers!(cursor, key, count, u8)),
        1 => Array::I8(numbers!(cursor, key, count, i8)),
        2 => Array::U16(numbers!(cursor, key, count, u16)),
        3 => Array::I16(numbers!(cursor, key, count, i16)),
        4 => Array::U32(numbers!(cursor, key, count, u32)),
        5 => Array::I32(numbers!(cursor, key, count, i32)),
        6 => Array::F32(numbers!(cursor, key, count, f32)),
        7 => Array::Bool(read_bools(key, cursor.take(count).map_err(|short| short.reading(named("array")))?)?),
        8 => Array::String(read_strings(cursor, key, count)?),
        9 => return Err(Error::unsupported(format!("key {}", shown(key)), "it is an array of arrays")),
        10 => Array::U64(numbers!(cursor, key, count, u64)),
        11 => Array::I64(numbers!(cursor, key, count, i64)),
        12 => Array::F64(numbers!(cursor, key, count, f64)),
        _ => return Err(Error::malformed(named("element type"), "0 to 12", ty)),
    })
}

fn read_bools(key: &str, bytes: &[u8]) -> Result<Vec<bool>> {
    match bytes.iter().find(|&&byte| byte > 1) {
        Some(byte) => Err(Error::malformed(format!("key {}", shown(key)), "a bool stored as 0 or 1", byte)),
        None => Ok(bytes.iter().map(|&byte| byte == 1).collect()),
    }
}

fn read_strings(cursor: &mut Cursor, key: &str, count: u64) -> Result<Vec<String>> {
    let most = cursor.left() / size_of::<u64>() as u64;
    if count > most {
        let expected = format!("at most {most} strings in the {} bytes left in the file", cursor.left());
        return Err(Error::malformed(format!("array length of key {}", shown(key)), expected, count));
    }
    let mut strings = Vec::with_capacity(count as usize);
    for at in 0..count {
        strings.push(cursor.str(|| format!("element {at} of key {}", shown(key)))?.to_owned());
    }
    Ok(strings)
}

/// No writer aligns by more than a page or so; a bound keeps arithmetic and padding small.
const MAX_ALIGNMENT: u32 = 1 << 20;

/// The alignment of tensor data; the format asks for a u32 that is a multiple of 8, upstream for a power of two.
pub(super) fn read_alignment(metadata: &Metadata) -> Result<u64> {
    let bad = |found: String| {
        let expected = format!("a u32 power of two from 8 to {MAX_ALIGNMENT}");
        Err(Error::malformed(format!("key {ALIGNMENT_KEY}"), expected, found))
    };
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(v)) if v.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&v) => Ok(v.into()),
        Some(&Value::U32(v)) => bad(v.to_string()),
        Some(other) => bad(other.type_name().to_owned()),
    }
}

/// Reads the tensor table. Types and places still need [`place`]: `offset` is from the start of the data here.
fn read_table(cursor: &mut Cursor, count: usize) -> Result<Vec<TensorInfo>> {
    let mut tensors = Vec::with_capacity(count);
    for place in 0..count {
        let name = cursor.str(|| format!("name of tensor {place}"))?;
        check_name(&format!("tensor {place}"), name)?;
        let named = |what: &str| format!("{what} of tensor {}", shown(name));
        let n_dims = cursor.u32().map_err(|short| short.reading(named("number of dimensions")))?;
        if !(1..=MAX_DIMS).contains(&n_dims) {
            return Err(Error::malformed(named("number of dimensions"), "1 to 4", n_dims));
        }
        let mut dims = Vec::with_capacity(n_dims as usize);
        for _ in 0..n_dims {
            dims.push(cursor.u64().map_err(|short| short.reading(named("dimensions")))?);
        }
        check_dims(name, &dims)?;
        let id = cursor.u32().map_err(|short| short.reading(named("type")))?;
        let offset = cursor.u64().map_err(|short| short.reading(named("offset")))?;
        let Some(ty) = TensorType::with_id(id).next() else {
            return Err(Error::malformed(
                format!("tensor {}", shown(name)),
                "a known tensor type",
                format!("type id {id}"),
            ));
        };
        tensors.push(TensorInfo { name: name.to_owned(), dims, ty, id, part: 0, offset, len_bytes: 0, gap_bytes: 0 });
    }
    Ok(tensors)
}

pub(super) fn index_names(tensors: &[TensorInfo]) -> Result<Vec<usize>> {
    let mut by_name: Vec<usize> = (0..tensors.len()).collect();
    by_name.sort_unstable_by(|&a, &b| tensors[a].name.cmp(&tensors[b].name));
    match by_name.windows(2).find(|pair| tensors[pair[0]].name == tensors[pair[1]].name) {
        None => Ok(by_name),
        Some(pair) => {
            let [first, second] = [pair[0].min(pair[1]), pair[0].max(pair[1])];
            let found = format!("it at places {first} and {second} of the table");
            Err(Error::malformed(format!("tensor {}", shown(&tensors[first].name)), "each name once", found))
        }
    }
}

/// Turns offsets into places in the file, settles types by the distances, and bounds every tensor by the file
/// and by the next tensor.
fn place(
    tensors: &mut [TensorInfo],
    table_end: u64,
    file_len: u64,
    alignment: u64,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let data_start = table_end.next_multiple_of(alignment);
    for tensor in tensors.iter_mut() {
        let named = || format!("offset of tensor {}", shown(&tensor.name));
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(Error::malformed(named(), format!("a multiple of {alignment}"), tensor.offset));
        }
        let at = data_start.checked_add(tensor.offset).filter(|&at| at < file_len);
        let expected = || format!("less than {} (data bytes in the file)", file_len.saturating_sub(data_start));
        tensor.offset = at.ok_or_else(|| Error::malformed(named(), expected(), tensor.offset))?;
    }
    let mut used_to = data_start;
    for at in 0..tensors.len() {
        let next = tensors.get(at + 1).map(|next| (next.offset, shown(&next.name)));
        let tensor = &mut tensors[at];
        match next {
            None => tensor.gap_bytes = file_len - tensor.offset,
            Some((offset, _)) if offset > tensor.offset => tensor.gap_bytes = offset - tensor.offset,
            Some((offset, name)) => {
                let expected =
                    format!("more than that of {} before it, {}", shown(&tensor.name), tensor.offset - data_start);
                return Err(Error::malformed(format!("offset of tensor {name}"), expected, offset - data_start));
            }
        }
    }
    settle_types(tensors, alignment)?;
    let mut unused = 0;
    for at in 0..tensors.len() {
        let next = tensors.get(at + 1).map(|next| shown(&next.name));
        let tensor = &mut tensors[at];
        tensor.len_bytes = tensor.ty.size(&tensor.dims).map_err(|bad| bad.of(&tensor.name))?;
        if tensor.len_bytes > tensor.gap_bytes {
            let found = match next {
                Some(next) => format!("{} before tensor {next} begins", tensor.gap_bytes),
                None => format!("{} before the file ends", tensor.gap_bytes),
            };
            let expected = format!("{} bytes of {}", tensor.len_bytes, tensor.ty.name());
            return Err(Error::malformed(format!("tensor {}", shown(&tensor.name)), expected, found));
        }
        unused += tensor.offset - used_to;
        used_to = (tensor.offset + tensor.len_bytes).next_multiple_of(alignment);
    }
    if unused > 0 {
        warnings.push(format!("{unused} bytes between tensors are not used"));
    }
    match file_len.saturating_sub(used_to) {
        0 => {}
        trailing => warnings.push(format!("{trailing} bytes after the last tensor are not used")),
    }
    Ok(())
}

/// Ids 39 and 42 name several layouts of different sizes: the one that explains every distance in the file is
/// taken, and a file that leaves a doubt is refused, as reading it wrongly would give fluent nonsense.
fn settle_types(tensors: &mut [TensorInfo], alignment: u64) -> Result<()> {
    for id in [39, 42] {
        let mut candidates: Vec<TensorType> = TensorType::with_id(id).collect();
        let last = tensors.len().saturating_sub(1);
        for (at, tensor) in tensors.iter().enumerate().filter(|(_, tensor)| tensor.id == id) {
            let size = |ty: TensorType| ty.size(&tensor.dims).ok();
            let exact = |ty: TensorType| {
                size(ty).is_some_and(|size| size <= tensor.gap_bytes && tensor.gap_bytes - size < alignment)
            };
            let before = candidates.clone();
            candidates.retain(|&ty| exact(ty));
            // Bytes behind the last tensor may be anything: then its distance proves little.
            if candidates.is_empty() && at == last {
                candidates =
                    before.iter().copied().filter(|&ty| size(ty).is_some_and(|s| s <= tensor.gap_bytes)).collect();
            }
            if candidates.is_empty() {
                let sizes = before.iter().map(|&ty| match size(ty) {
                    Some(size) => format!("{size} bytes of {}", ty.name()),
                    None => format!("no {} of this shape", ty.name()),
                });
                let expected = sizes.collect::<Vec<_>>().join(" or ");
                let found = format!("{} bytes before the next tensor or the end", tensor.gap_bytes);
                return Err(Error::malformed(
                    format!("tensor {} of type id {id}", shown(&tensor.name)),
                    expected,
                    found,
                ));
            }
        }
        let mut of_id = tensors.iter_mut().filter(|tensor| tensor.id == id).peekable();
        let Some(first) = of_id.peek() else { continue };
        let &[ty] = candidates.as_slice() else {
            let names: Vec<&str> = candidates.iter().map(|ty| ty.name()).collect();
            let reason = format!("the sizes in this file fit each of {}", names.join(", "));
            return Err(Error::unsupported(format!("tensor {} of type id {id}", shown(&first.name)), reason));
        };
        of_id.for_each(|tensor| tensor.ty = ty);
    }
    Ok(())
}
