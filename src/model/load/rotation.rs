//! The keys `prism.hadamard.*`: the rotated basis of some weights. Whatever is unknown or incomplete is refused, as a model
//! without its rotation gives fluent, wrong text.

use std::collections::HashSet;

use crate::{
    error::{Error, Result, shown},
    gguf::Metadata,
    model::{Config, Family, Linear, Rotation, names},
};

/// The signs of each width.
type Signs = Vec<(usize, Vec<f32>)>;

/// Common beginning of the keys.
const PREFIX: &str = "prism.hadamard.";

/// Every key that is known. Another one may mean another formula.
const KEYS: [&str; 11] = [
    "version",
    "block_size",
    "transform",
    "axis",
    "sign_mode",
    "sign_widths",
    "sign_values",
    "weight_names",
    "inverse_weight_names",
    "gdn_v_grouped",
    "tied_output",
];

/// Reads the keys; `None` where there are none. Of the blocks behind the layers only the first is looked at.
///
/// # Errors
/// Names the key that is unknown, missing or contradicts the others.
pub fn rotation(metadata: &Metadata, config: &Config) -> Result<Option<Rotation>> {
    let Some((first, _)) = metadata.iter().find(|(key, _)| key.starts_with(PREFIX)) else { return Ok(None) };
    if !matches!(config.family, Family::Qwen3 | Family::Qwen35) {
        return Err(Error::unsupported(
            format!("key {}", shown(first)),
            format!(
                "these weights are stored in a basis rotated by a Hadamard transform, which architecture {} has no \
                 ops for here",
                config.arch
            ),
        ));
    }
    let unknown = |key: &&str| key.strip_prefix(PREFIX).is_some_and(|rest| !KEYS.contains(&rest));
    if let Some(key) = metadata.iter().map(|(key, _)| key).find(unknown) {
        return Err(Error::unsupported(
            format!("key {}", shown(key)),
            "what it says of the Hadamard transform is not known, and leaving it out may give wrong text",
        ));
    }
    Keys { metadata, config }.read().map(Some)
}

/// Typed access to the keys.
struct Keys<'a> {
    metadata: &'a Metadata,
    config: &'a Config,
}

impl<'a> Keys<'a> {
    fn wrong(&self, key: &str, expected: impl ToString, found: impl ToString) -> Error {
        Error::malformed(format!("key {PREFIX}{key}"), expected, found)
    }

    fn need<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::missing(format!("key {PREFIX}{key}"), "weights in a rotated basis"))
    }

    fn str(&self, key: &str) -> Result<&'a str> {
        let value = self.metadata.str(&format!("{PREFIX}{key}"))?;
        self.need(key, value)
    }

    fn strings(&self, key: &str) -> Result<&'a [String]> {
        let value = self.metadata.strings(&format!("{PREFIX}{key}"))?;
        self.need(key, value)
    }

    fn bool(&self, key: &str) -> Result<bool> {
        Ok(self.metadata.bool(&format!("{PREFIX}{key}"))?.unwrap_or(false))
    }

    fn uint(&self, key: &str) -> Result<u64> {
        let value = self.metadata.uint(&format!("{PREFIX}{key}"))?;
        self.need(key, value)
    }

    fn read(&self) -> Result<Rotation> {
        let version = self.uint("version")?;
        let tied = self.bool("tied_output")?;
        match (version, tied) {
            (1, false) | (2, true) => {}
            (1, true) => return Err(self.wrong("tied_output", "false in version 1", "true")),
            (2, false) => return Err(self.wrong("tied_output", "true in version 2", "false")),
            _ => {
                return Err(Error::unsupported(
                    format!("key {PREFIX}version = {version}"),
                    "versions 1 and 2 are known",
                ));
            }
        }
        for (key, only) in [("transform", "normalized-sylvester-walsh-hadamard"), ("axis", "input-last-dimension")] {
            let found = self.str(key)?;
            if found != only {
                let thing = format!("key {PREFIX}{key} = '{}'", shown(found));
                return Err(Error::unsupported(thing, format!("only {only} is known")));
            }
        }
        let (folded, head) = self.folded(tied)?;
        let inverse = self.strings("inverse_weight_names")?;
        if inverse != [names::TOKEN_EMBD] {
            let found = format!("{} names", inverse.len());
            return Err(self.wrong("inverse_weight_names", format!("{}, alone", names::TOKEN_EMBD), found));
        }
        let mut widths = vec![self.config.dim];
        for (layer, roles) in folded.iter().enumerate() {
            if layer < self.config.layers {
                self.check_layer(layer, roles, &folded)?;
            }
            widths.extend(roles.iter().map(|&role| self.config.linear_shape(role).1));
        }
        widths.sort_unstable();
        widths.dedup();
        let block = self.block(&widths)?;
        let signs = self.signs(&widths)?;
        let v_grouped = self.bool("gdn_v_grouped")?;
        Ok(Rotation { block, signs, folded, head: head || tied, tied, v_grouped })
    }

    /// The folded projections of each layer, and whether the head is among the names.
    fn folded(&self, tied: bool) -> Result<(Vec<Vec<Linear>>, bool)> {
        let config = self.config;
        let (mut folded, mut head) = (vec![Vec::new(); config.layers + config.mtp_blocks.min(1)], false);
        let mut seen = HashSet::new();
        for name in self.strings("weight_names")? {
            let wrong = |expected: &str| self.wrong("weight_names", expected, format!("'{}'", shown(name)));
            if !seen.insert(name) {
                return Err(wrong("each name once"));
            }
            if name == names::OUTPUT {
                if tied {
                    return Err(wrong("no head beside a tied output"));
                }
                head = true;
                continue;
            }
            let Some((layer, role)) = names::projection(name) else {
                return Err(wrong("names of projections and of the head"));
            };
            if layer >= config.layers + config.mtp_blocks {
                return Err(wrong(&format!("blocks below {}", config.layers + config.mtp_blocks)));
            }
            let Some(of_layer) = folded.get_mut(layer) else { continue };
            let linears = if layer < config.layers { config.linears(layer) } else { &Linear::ATTENTION };
            if !linears.contains(&role) {
                return Err(wrong("projections that their layers have"));
            }
            of_layer.push(role);
        }
        Ok((folded, head))
    }

    /// A list that names a kind of projection in one layer and not in another is cut off. Only `ssm_out` may be folded in
    /// some layers alone, as its input has two orders.
    fn check_layer(&self, layer: usize, roles: &[Linear], all: &[Vec<Linear>]) -> Result<()> {
        let elsewhere = |role: &Linear| all[..self.config.layers].iter().any(|roles| roles.contains(role));
        let lacks = |role: &&Linear| **role != Linear::DeltaOut && !roles.contains(role) && elsewhere(role);
        match self.config.linears(layer).iter().find(lacks) {
            Some(&role) => {
                let expected = format!("{}, as other layers have theirs", names::linear(layer, role));
                Err(self.wrong("weight_names", expected, "no such name"))
            }
            None => Ok(()),
        }
    }

    fn block(&self, widths: &[usize]) -> Result<usize> {
        let block = self.uint("block_size")?;
        let fits = |block: usize| {
            block.is_power_of_two() && block > 1 && widths.iter().all(|width| width.is_multiple_of(block))
        };
        usize::try_from(block)
            .ok()
            .filter(|&block| fits(block))
            .ok_or_else(|| self.wrong("block_size", format!("a power of two that divides {widths:?}"), block))
    }

    fn signs(&self, widths: &[usize]) -> Result<Option<Signs>> {
        let ints = |key: &str| self.metadata.ints(&format!("{PREFIX}{key}"));
        let (sign_widths, values) = (ints("sign_widths")?, ints("sign_values")?);
        match self.str("sign_mode")? {
            "identity" => {
                let given = [("sign_widths", sign_widths), ("sign_values", values)];
                match given.into_iter().find(|(_, list)| list.is_some_and(|list| !list.is_empty())) {
                    Some((key, _)) => Err(self.wrong(key, "none where the sign mode is identity", "some")),
                    None => Ok(None),
                }
            }
            "explicit" => {
                let (sign_widths, values) = (self.need("sign_widths", sign_widths)?, self.need("sign_values", values)?);
                self.explicit(sign_widths, values, widths).map(Some)
            }
            other => Err(Error::unsupported(
                format!("key {PREFIX}sign_mode = '{}'", shown(other)),
                "identity and explicit are known",
            )),
        }
    }

    /// The signs of each width, from one list after the other.
    fn explicit(&self, sign_widths: &[i32], values: &[i32], widths: &[usize]) -> Result<Signs> {
        let mut signs = Signs::new();
        let mut rest = values;
        for &stated in sign_widths {
            let width = usize::try_from(stated).ok().filter(|&width| width > 0);
            let width = width.ok_or_else(|| self.wrong("sign_widths", "widths above 0", stated))?;
            if signs.iter().any(|(of, _)| *of == width) {
                return Err(self.wrong("sign_widths", "each width once", width));
            }
            let Some((of_width, later)) = rest.split_at_checked(width) else {
                return Err(self.wrong("sign_values", "as many as the widths add up to", values.len()));
            };
            if let Some(bad) = of_width.iter().find(|sign| !matches!(sign, -1 | 1)) {
                return Err(self.wrong("sign_values", "-1 or 1", bad));
            }
            signs.push((width, of_width.iter().map(|&sign| sign as f32).collect()));
            rest = later;
        }
        if !rest.is_empty() {
            return Err(self.wrong("sign_values", "as many as the widths add up to", values.len()));
        }
        match widths.iter().find(|width| !signs.iter().any(|(of, _)| of == *width)) {
            Some(width) => {
                Err(self.wrong("sign_widths", format!("{width}, which folded weights take"), "no such width"))
            }
            None => Ok(signs),
        }
    }
}
