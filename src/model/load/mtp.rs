//! The block of multi-token prediction behind the layers.

use super::{Loader, tensor};
use crate::{
    error::Result,
    model::{
        Block, Linear, MtpBlock, Norm,
        names::{self, MtpTensor},
    },
};

impl Loader<'_> {
    /// The first such block; `None` where there is none, where a file without its tensors still counts it, and where a
    /// matrix is of a kind that only layers read. Without it the model is the same, only drafts are not made.
    ///
    /// # Errors
    /// Names the tensor that is missing or damaged.
    pub(super) fn mtp(&self) -> Result<Option<MtpBlock>> {
        let (config, layer) = (self.config, self.config.layers);
        let name = |tensor| names::mtp(layer, tensor);
        if config.mtp_blocks == 0 || self.file.tensor(&name(MtpTensor::Join)).is_none() {
            return Ok(None);
        }
        if let Some(reason) = self.mtp_obstacle(layer) {
            log::info!("the block of multi-token prediction is left out: {reason}");
            return Ok(None);
        }
        let mut linears = [const { None }; Linear::ALL.len()];
        for role in Linear::ATTENTION {
            let (rows, cols) = config.linear_shape(role);
            linears[role as usize] = Some(self.dense(&names::linear(layer, role), rows, cols)?);
        }
        let mut norms = [const { None }; Norm::BLOCK.len()];
        for &role in config.family.block_norms() {
            let weight = self.floats(&names::norm(config.family, layer, role), config.norm_len(role))?;
            norms[role as usize] = Some(weight);
        }
        let has = |tensor| self.file.tensor(&name(tensor)).is_some();
        let table = |tensor| has(tensor).then(|| self.table(&name(tensor))).transpose();
        let head_norm = has(MtpTensor::HeadNorm).then(|| self.floats(&name(MtpTensor::HeadNorm), config.dim));
        Ok(Some(MtpBlock {
            embedding_norm: self.floats(&name(MtpTensor::EmbeddingNorm), config.dim)?,
            hidden_norm: self.floats(&name(MtpTensor::HiddenNorm), config.dim)?,
            join: self.dense(&name(MtpTensor::Join), config.dim, 2 * config.dim)?,
            norms: Block::new([], norms),
            linears,
            head_norm: head_norm.transpose()?,
            token_embd: table(MtpTensor::TokenEmbd)?,
            output: table(MtpTensor::Output)?,
        }))
    }

    /// Why the block cannot run, although it is not damaged.
    fn mtp_obstacle(&self, layer: usize) -> Option<String> {
        let projections = Linear::ATTENTION.map(|role| names::linear(layer, role));
        let scaled = |name: &String| names::scale_of(name).is_some_and(|scale| self.file.tensor(&scale).is_some());
        if let Some(name) = projections.iter().find(|name| scaled(name)) {
            return Some(format!("tensor {name} has a scale in a tensor of its own"));
        }
        let folds = |role: &Linear| self.config.rotation.as_ref().is_some_and(|rotation| rotation.folds(layer, *role));
        let differ = |roles: &[Linear]| roles.iter().any(folds) && !roles.iter().all(folds);
        if [&[Linear::Q, Linear::K, Linear::V][..], &[Linear::Gate, Linear::Up]].into_iter().any(differ) {
            return Some("of matrices that share an input, only some are stored in a rotated basis".into());
        }
        let tensors = [MtpTensor::Join, MtpTensor::TokenEmbd, MtpTensor::Output].map(|of| names::mtp(layer, of));
        let mut found = projections.iter().chain(&tensors).filter_map(|name| self.file.tensor(name));
        let unread = found.find(|info| !Self::reads_dense(info.ty))?;
        Some(format!("no kernel reads {} of type {}", tensor(unread), unread.ty.name()))
    }
}
