//! Results of `tune`, kept for later runs of the same shapes on this processor.

use std::{fs, io};

use bitnet_cpu_kernels::{isa::Isa, ternary::Tiling};
use serde::{Deserialize, Serialize};

use crate::{
    backend::cpu::{Kernel, WorkSplit, tune::CpuTuning},
    cache_dir::Cache,
    error::{Error, Result},
    machine,
    model::{Linear, Model, TernaryMatrix},
};

/// The area of the user's cache.
const KERNELS: &str = "kernels";

/// A [`CpuTuning`] in words and numbers.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Rows, columns, the kernel.
    kernels: Vec<(usize, usize, String)>,
    /// Rows, columns; bytes of a piece of few tokens; rows and tokens of a tile.
    tilings: Vec<(usize, usize, usize, usize, usize)>,
    decode_threads: usize,
    prompt_threads: usize,
}

impl Kept {
    fn new(choice: &CpuTuning) -> Self {
        let WorkSplit { tilings, decode_threads, prompt_threads } = &choice.split;
        let kernels = choice.kernels.iter().map(|((rows, cols), kernel)| (*rows, *cols, kernel.name().to_owned()));
        let numbers =
            |((rows, cols), t): &((usize, usize), Tiling)| (*rows, *cols, t.few_bytes(), t.rows(), t.tokens());
        Self {
            kernels: kernels.collect(),
            tilings: tilings.iter().map(numbers).collect(),
            decode_threads: *decode_threads,
            prompt_threads: *prompt_threads,
        }
    }

    /// `None` if it is none that this program has kept for so many threads.
    fn choice(self, threads: usize) -> Option<CpuTuning> {
        let kernels = self.kernels.into_iter().map(|(rows, cols, name)| Some(((rows, cols), Kernel::by_name(&name)?)));
        let tiling = |(rows, cols, few_bytes, tile_rows, tile_tokens)| {
            Some(((rows, cols), Tiling::new(few_bytes, tile_rows, tile_tokens)?))
        };
        let Self { decode_threads, prompt_threads, .. } = self;
        let counts_fit = [decode_threads, prompt_threads].iter().all(|count| (1..=threads).contains(count));
        let tilings = self.tilings.into_iter().map(tiling).collect::<Option<_>>()?;
        let choice = CpuTuning {
            kernels: kernels.collect::<Option<_>>()?,
            split: WorkSplit { tilings, decode_threads, prompt_threads },
        };
        Some(choice).filter(|_| counts_fit)
    }
}

/// The choice kept for the model.
pub fn load(model: &Model, threads: usize) -> Option<CpuTuning> {
    Cache::of_user().get::<Kept>(KERNELS, &key(model, threads))?.choice(threads)
}

/// Keeps what was found; gives the file, where there is one.
pub fn keep(model: &Model, threads: usize, choice: &CpuTuning) -> Option<String> {
    let (cache, key) = (Cache::of_user(), key(model, threads));
    cache.put(KERNELS, &key, &Kept::new(choice));
    cache.path(KERNELS, &key, "json").filter(|path| path.exists()).map(|path| path.display().to_string())
}

/// Forgets what was kept for the model; gives the file, where there was one.
///
/// # Errors
/// If the file is there and cannot be removed.
pub fn forget(model: &Model, threads: usize) -> Result<Option<String>> {
    let Some(path) = Cache::of_user().path(KERNELS, &key(model, threads), "json") else { return Ok(None) };
    match fs::remove_file(&path) {
        Ok(()) => Ok(Some(path.display().to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("remove", path, error)),
    }
}

/// Everything that the choice depends on: the processor, and shapes and layouts of the file.
fn key(model: &Model, threads: usize) -> String {
    let shapes = model.weights.blocks.first().map(|block| {
        let shape = |(_, m): (Linear, &TernaryMatrix)| (m.rows, m.cols, m.layout(), m.scales.group());
        block.linears().map(shape).collect::<Vec<_>>()
    });
    format!(
        "{} {} {} | {threads} threads | {} layers {shapes:?}",
        env!("CARGO_PKG_VERSION"),
        machine::processor().unwrap_or_default(),
        Isa::detect(),
        model.config.layers
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice() -> CpuTuning {
        CpuTuning {
            kernels: vec![((64, 256), Kernel::TL2), ((32, 512), Kernel::I2S)],
            split: WorkSplit {
                tilings: vec![((64, 256), Tiling::new(1 << 14, 64, 256).unwrap())],
                decode_threads: 2,
                prompt_threads: 4,
            },
        }
    }

    #[test]
    fn what_is_kept_comes_back() {
        let text = serde_json::to_string(&Kept::new(&choice())).unwrap();
        assert_eq!(serde_json::from_str::<Kept>(&text).unwrap().choice(4), Some(choice()));
    }

    #[test]
    fn what_was_changed_by_hand_is_not_used() {
        let changes: [fn(&mut Kept); 5] = [
            |kept| kept.kernels[0].2 = "tl9".into(),
            |kept| kept.tilings[0].3 = 33,
            |kept| kept.tilings[0].4 = usize::MAX,
            |kept| kept.decode_threads = 0,
            |kept| kept.prompt_threads = 5,
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let mut kept = Kept::new(&choice());
            change(&mut kept);
            assert_eq!(kept.choice(4), None, "change {n}");
        }
    }
}
