//! The writer: header, metadata and tensor table at once, then tensor data in order as it becomes available.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use super::{
    foreign,
    read::{VERSION, check_key, read_alignment},
    tensor::{TensorSpec, check_dims, check_name},
    types::{Array, Metadata, Value},
};
use crate::error::{Error, Result, shown};

/// Writes a GGUF file front to back, holding no tensor data. Give it a buffered `out`.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    path: PathBuf,
    alignment: u64,
    /// Tensors with their sizes, in file order.
    tensors: Vec<(String, u64)>,
    /// The tensor being written, or the number of tensors.
    current: usize,
    /// Bytes of it that are written.
    written: u64,
    /// Bytes of the whole file.
    file_bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Checks everything the reader will check and writes all but the data. Data follows in the order of
    /// `tensors`, aligned to `general.alignment` or else 32 bytes.
    pub fn create(metadata: &Metadata, tensors: Vec<TensorSpec>, out: W) -> Result<Self> {
        let alignment = read_alignment(metadata)?;
        let mut head = Vec::new();
        head.extend(foreign::MAGIC);
        head.extend(VERSION.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            check_key(key)
                .map_err(|(expected, found)| Error::malformed(format!("key {}", shown(key)), expected, found))?;
            put_str(&mut head, key);
            put_value(&mut head, value);
        }
        let (sizes, data_bytes) = put_table(&mut head, &tensors, alignment)?;
        let file_bytes = (head.len() as u64).next_multiple_of(alignment).saturating_add(data_bytes);
        let mut writer =
            Self { out, path: "the GGUF output".into(), alignment, tensors: sizes, current: 0, written: 0, file_bytes };
        writer.put(&head)?;
        writer.pad(head.len() as u64)?;
        Ok(writer)
    }

    /// Bytes the file will have.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Names the file in messages of failed writes.
    #[must_use]
    pub fn named(mut self, path: &Path) -> Self {
        self.path = path.to_path_buf();
        self
    }

    /// Appends a chunk to a tensor; tensors come in the order given to [`create`](Self::create), chunks in
    /// the order of the data.
    pub fn write_tensor(&mut self, name: &str, chunk: &[u8]) -> Result<()> {
        let Some((current, size)) = self.tensors.get(self.current) else {
            return Err(Error::malformed(
                "tensor data",
                "the end, as all tensors are written",
                format!("tensor {}", shown(name)),
            ));
        };
        if current != name {
            return Err(Error::malformed(
                "tensor data",
                format!("tensor {}", shown(current)),
                format!("tensor {}", shown(name)),
            ));
        }
        let (size, length) = (*size, self.written + chunk.len() as u64);
        if length > size {
            return Err(Error::malformed(
                format!("data of tensor {}", shown(name)),
                format!("{size} bytes"),
                format!("{length} or more"),
            ));
        }
        self.put(chunk)?;
        self.written = length;
        if length == size {
            self.pad(size)?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Checks that every tensor is complete, flushes, and gives the output back.
    pub fn finish(mut self) -> Result<W> {
        if let Some((name, size)) = self.tensors.get(self.current) {
            let thing = format!("data of tensor {}", shown(name));
            return Err(Error::malformed(thing, format!("{size} bytes"), self.written));
        }
        self.out.flush().map_err(|e| Error::io("write", &self.path, e))?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Pads what begins at an aligned place and is `length` bytes long.
    fn pad(&mut self, length: u64) -> Result<()> {
        const ZEROS: [u8; 256] = [0; 256];
        let mut missing = (length.next_multiple_of(self.alignment) - length) as usize;
        while missing > 0 {
            let now = missing.min(ZEROS.len());
            self.put(&ZEROS[..now])?;
            missing -= now;
        }
        Ok(())
    }
}

/// Writes the tensor table; gives each tensor's name and size, and the bytes of all with their padding.
fn put_table(head: &mut Vec<u8>, tensors: &[TensorSpec], alignment: u64) -> Result<(Vec<(String, u64)>, u64)> {
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::malformed(format!("tensor {}", shown(pair[0])), "each name once", "it twice"));
    }
    let mut sizes = Vec::with_capacity(tensors.len());
    let mut offset = 0u64;
    for (place, TensorSpec { name, dims, ty }) in tensors.iter().enumerate() {
        check_name(&format!("tensor {place}"), name)?;
        check_dims(name, dims)?;
        let size = ty.size(dims).map_err(|bad| bad.of(name))?;
        put_str(head, name);
        head.extend((dims.len() as u32).to_le_bytes());
        for dim in dims {
            head.extend(dim.to_le_bytes());
        }
        head.extend(ty.id().to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset = (offset.checked_add(size))
            .and_then(|end| end.checked_next_multiple_of(alignment))
            .ok_or_else(|| Error::malformed(format!("tensor {}", shown(name)), "less than 2^64 bytes in all", size))?;
        sizes.push((name.clone(), size));
    }
    Ok((sizes, offset))
}

fn put_str(head: &mut Vec<u8>, text: &str) {
    head.extend((text.len() as u64).to_le_bytes());
    head.extend(text.as_bytes());
}

/// Value type, then the value.
fn put_value(head: &mut Vec<u8>, value: &Value) {
    macro_rules! number {
        ($id:literal, $v:expr) => {{
            head.extend(u32::to_le_bytes($id));
            head.extend($v.to_le_bytes());
        }};
    }
    match value {
        Value::U8(v) => number!(0, v),
        Value::I8(v) => number!(1, v),
        Value::U16(v) => number!(2, v),
        Value::I16(v) => number!(3, v),
        Value::U32(v) => number!(4, v),
        Value::I32(v) => number!(5, v),
        Value::F32(v) => number!(6, v),
        Value::Bool(v) => number!(7, u8::from(*v)),
        Value::String(v) => {
            head.extend(8u32.to_le_bytes());
            put_str(head, v);
        }
        Value::Array(v) => {
            head.extend(9u32.to_le_bytes());
            put_array(head, v);
        }
        Value::U64(v) => number!(10, v),
        Value::I64(v) => number!(11, v),
        Value::F64(v) => number!(12, v),
    }
}

/// Element type, count, elements.
fn put_array(head: &mut Vec<u8>, array: &Array) {
    macro_rules! numbers {
        ($id:literal, $v:expr) => {{
            head.extend(u32::to_le_bytes($id));
            head.extend(($v.len() as u64).to_le_bytes());
            $v.iter().for_each(|number| head.extend(number.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(v) => numbers!(0, v),
        Array::I8(v) => numbers!(1, v),
        Array::U16(v) => numbers!(2, v),
        Array::I16(v) => numbers!(3, v),
        Array::U32(v) => numbers!(4, v),
        Array::I32(v) => numbers!(5, v),
        Array::F32(v) => numbers!(6, v),
        Array::Bool(v) => {
            head.extend(7u32.to_le_bytes());
            head.extend((v.len() as u64).to_le_bytes());
            head.extend(v.iter().map(|&bit| u8::from(bit)));
        }
        Array::String(v) => {
            head.extend(8u32.to_le_bytes());
            head.extend((v.len() as u64).to_le_bytes());
            v.iter().for_each(|text| put_str(head, text));
        }
        Array::U64(v) => numbers!(10, v),
        Array::I64(v) => numbers!(11, v),
        Array::F64(v) => numbers!(12, v),
    }
}
