//! A Hugging Face directory -> its tensors by name, from one safetensors file or from shards.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use super::{
    json::{Object, read_json},
    safetensors::{self, Tensor},
};
use crate::{
    bytes::Bytes,
    error::{Error, Result, shown},
};

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a directory. Names have lost the prefixes `model.`, which some exports leave out, and `language_model.`.
#[derive(Debug)]
pub(super) struct Checkpoint {
    tensors: BTreeMap<String, Tensor>,
    /// Every file that was opened for weights.
    pub files: Vec<PathBuf>,
    /// Bytes of those files.
    pub bytes: u64,
}

impl Checkpoint {
    /// Maps the files of `dir`; `model.safetensors` wins over an index, as in transformers.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut checkpoint = Self { tensors: BTreeMap::new(), files: Vec::new(), bytes: 0 };
        if dir.join(WHOLE).exists() {
            checkpoint.add_file(dir.join(WHOLE))?;
            return Ok(checkpoint);
        }
        let index = dir.join(INDEX);
        let Some(json) = read_json(&index)? else {
            let needed_for = if dir.join("pytorch_model.bin").exists() {
                "the weights; pytorch_model.bin is a pickle, which can run code and is not read"
            } else {
                "the weights"
            };
            let dir = dir.display();
            return Err(Error::missing(format!("{WHOLE} or {INDEX} in {dir}"), needed_for));
        };
        checkpoint.add_shards(dir, &json).map_err(|e| e.in_file(index.display().to_string()))?;
        checkpoint.files.push(index);
        Ok(checkpoint)
    }

    fn add_shards(&mut self, dir: &Path, index: &serde_json::Value) -> Result<()> {
        let map = Object::top(index)?.object("weight_map")?;
        let map = map.ok_or_else(|| Error::missing("key weight_map", "finding the shards"))?;
        let mut shards = BTreeMap::<&str, BTreeSet<&str>>::new();
        for (tensor, shard) in map.strings_by_key()? {
            shards.entry(shard).or_default().insert(tensor);
        }
        for (shard, wanted) in shards {
            let mut parts = Path::new(shard).components();
            let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
            // A backslash separates folders on Windows only, so it is refused everywhere.
            if !plain || shard.contains(['\\', '/', ':']) {
                let found = format!("\"{}\"", shown(shard));
                return Err(Error::malformed("shard", "the name of a file beside the index", found));
            }
            let path = dir.join(shard);
            self.add_file(path.clone())?;
            if let Some(missing) = wanted.iter().find(|name| self.get(without_prefix(name)).is_none()) {
                let error = Error::missing(format!("tensor {}", shown(missing)), format!("{INDEX} says it is here"));
                return Err(error.in_file(path.display().to_string()));
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: PathBuf) -> Result<()> {
        let bytes = Bytes::map(&path)?;
        self.bytes += bytes.len() as u64;
        self.add_tensors(&bytes).map_err(|e| e.in_file(path.display().to_string()))?;
        self.files.push(path);
        Ok(())
    }

    fn add_tensors(&mut self, file: &Bytes) -> Result<()> {
        for tensor in safetensors::parse(file)? {
            let name = without_prefix(&tensor.name).to_owned();
            if let Some(other) = self.tensors.get(&name) {
                let found = format!("{} as well", other.name);
                return Err(Error::malformed(format!("tensor {}", tensor.name), "a name used once", found));
            }
            self.tensors.insert(name, tensor);
        }
        Ok(())
    }

    /// A tensor by its name without `model.`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All tensors by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
}

/// Models that see as well have their text part one level deeper, and in MLX the other way round.
fn without_prefix(name: &str) -> &str {
    let name = name.strip_prefix("model.").unwrap_or(name);
    match name.strip_prefix("language_model.") {
        Some(text) => text.strip_prefix("model.").unwrap_or(text),
        None => name,
    }
}
