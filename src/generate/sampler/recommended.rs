//! Sampling options that a model file recommends: `general.sampling.*`, as llama.cpp's converter writes them and as it takes
//! them where no flag says otherwise (its `common.cpp`).

use super::{Mirostat, SampleOptions};
use crate::gguf::{Metadata, Value};

const PREFIX: &str = "general.sampling.";

/// Recommendations of a file about sampling; `None` where it has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recommended {
    /// `temp`.
    pub temperature: Option<f32>,
    /// `top_k`; 0 keeps all.
    pub top_k: Option<usize>,
    /// `top_p`.
    pub top_p: Option<f32>,
    /// `min_p`.
    pub min_p: Option<f32>,
    /// `penalty_repeat`.
    pub repeat_penalty: Option<f32>,
    /// `penalty_last_n`; the inner `None` is the whole context.
    pub repeat_last_n: Option<Option<usize>>,
    /// `mirostat`, with `mirostat_tau` and `mirostat_eta`; the inner `None` is off.
    pub mirostat: Option<Option<Mirostat>>,
    /// Keys that were left out, and why.
    pub notes: Vec<String>,
}

impl Recommended {
    /// Reads the keys of a file. One that makes no sense, or that asks for what there is not, is left out with a note: the
    /// model runs without.
    pub fn from_gguf(metadata: &Metadata) -> Self {
        let mut reader = Reader { metadata, notes: Vec::new() };
        let temperature = reader.float("temp", |options, value| options.temperature = value);
        let top_p = reader.float("top_p", |options, value| options.top_p = value);
        let min_p = reader.float("min_p", |options, value| options.min_p = value);
        let repeat_penalty = reader.float("penalty_repeat", |options, value| options.repeat_penalty = value);
        let top_k = reader.integer("top_k").map(|k| usize::try_from(k).unwrap_or(0));
        let repeat_last_n = reader.integer("penalty_last_n").map(|n| usize::try_from(n).ok());
        let mirostat = reader.mirostat();
        reader.note_unsupported();
        let notes = reader.notes;
        Self { temperature, top_k, top_p, min_p, repeat_penalty, repeat_last_n, mirostat, notes }
    }

    /// These options, and the usual ones for the rest.
    pub fn options(&self) -> SampleOptions {
        let usual = SampleOptions::default();
        SampleOptions {
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_k: self.top_k.unwrap_or(usual.top_k),
            top_p: self.top_p.unwrap_or(usual.top_p),
            min_p: self.min_p.unwrap_or(usual.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(usual.repeat_penalty),
            repeat_last_n: self.repeat_last_n.unwrap_or(usual.repeat_last_n),
            mirostat: self.mirostat.unwrap_or(usual.mirostat),
            ..usual
        }
    }
}

struct Reader<'a> {
    metadata: &'a Metadata,
    notes: Vec<String>,
}

impl Reader<'_> {
    /// A number that `set` accepts.
    fn float(&mut self, name: &str, set: impl Fn(&mut SampleOptions, f32)) -> Option<f32> {
        let value = match self.value(name)? {
            Value::F32(value) => Some(*value),
            Value::F64(value) => Some(*value as f32),
            other => integer(other).map(|value| value as f32),
        };
        let Some(value) = value else { return self.of_wrong_type(name, "a number") };
        let mut options = SampleOptions::default();
        set(&mut options, value);
        match options.validate() {
            Ok(()) => Some(value),
            Err(error) => self.leave_out(name, &error.to_string()),
        }
    }

    fn integer(&mut self, name: &str) -> Option<i64> {
        let Some(value) = integer(self.value(name)?) else { return self.of_wrong_type(name, "an integer") };
        match value {
            -1.. if i32::try_from(value).is_ok() => Some(value),
            _ => self.leave_out(name, &format!("{value} is none of -1 to {}", i32::MAX)),
        }
    }

    fn mirostat(&mut self) -> Option<Option<Mirostat>> {
        let usual = Mirostat::default();
        let with = |options: &mut SampleOptions, change: &dyn Fn(&mut Mirostat)| {
            change(options.mirostat.get_or_insert_default());
        };
        match self.integer("mirostat")? {
            0 => Some(None),
            2 => {
                let entropy = self.float("mirostat_tau", |options, value| with(options, &|m| m.entropy = value));
                let rate = self.float("mirostat_eta", |options, value| with(options, &|m| m.learning_rate = value));
                Some(Some(Mirostat {
                    entropy: entropy.unwrap_or(usual.entropy),
                    learning_rate: rate.unwrap_or(usual.learning_rate),
                }))
            }
            version => self.leave_out("mirostat", &format!("version {version} is not supported")),
        }
    }

    /// XTC, and an order of the stages that is another than the usual one.
    fn note_unsupported(&mut self) {
        const NOT_SUPPORTED: &str = "not supported";
        if self.value("xtc_probability").is_some_and(|value| !matches!(value, Value::F32(0.0))) {
            self.leave_out::<()>("xtc_probability", NOT_SUPPORTED);
        }
        if self.value("sequence").is_some() {
            self.leave_out::<()>("sequence", NOT_SUPPORTED);
        }
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.metadata.get(&format!("{PREFIX}{name}"))
    }

    fn of_wrong_type<T>(&mut self, name: &str, expected: &str) -> Option<T> {
        let found = self.value(name).map_or("nothing", Value::type_name);
        self.leave_out(name, &format!("expected {expected}, found {found}"))
    }

    fn leave_out<T>(&mut self, name: &str, reason: &str) -> Option<T> {
        self.notes.push(format!("{PREFIX}{name} is left out: {reason}"));
        None
    }
}

fn integer(value: &Value) -> Option<i64> {
    match *value {
        Value::U8(v) => Some(v.into()),
        Value::U16(v) => Some(v.into()),
        Value::U32(v) => Some(v.into()),
        Value::U64(v) => Some(i64::try_from(v).unwrap_or(i64::MAX)),
        Value::I8(v) => Some(v.into()),
        Value::I16(v) => Some(v.into()),
        Value::I32(v) => Some(v.into()),
        Value::I64(v) => Some(v),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(pairs: &[(&str, Value)]) -> Recommended {
        let mut metadata = Metadata::default();
        for (name, value) in pairs {
            metadata.set(format!("{PREFIX}{name}"), value.clone());
        }
        Recommended::from_gguf(&metadata)
    }

    #[test]
    fn what_a_file_says_is_taken_and_the_rest_is_as_usual() {
        assert_eq!(file(&[]), Recommended::default());
        assert_eq!(file(&[]).options(), SampleOptions::default());
        let said = file(&[
            ("temp", Value::F32(1.0)),
            ("top_p", Value::F64(0.5)),
            ("top_k", Value::I32(20)),
            ("min_p", Value::U8(0)),
            ("penalty_repeat", Value::F32(1.5)),
            ("penalty_last_n", Value::I32(-1)),
            ("mirostat", Value::I32(2)),
            ("mirostat_tau", Value::F32(3.0)),
            ("xtc_probability", Value::F32(0.0)),
            ("xtc_threshold", Value::F32(0.1)),
        ]);
        assert_eq!(said.notes, [] as [&str; 0]);
        let expected = SampleOptions {
            temperature: 1.0,
            top_p: 0.5,
            top_k: 20,
            min_p: 0.0,
            repeat_penalty: 1.5,
            repeat_last_n: None,
            mirostat: Some(Mirostat { entropy: 3.0, learning_rate: 0.1 }),
            ..SampleOptions::default()
        };
        assert_eq!(said.options(), expected);
        assert_eq!(file(&[("top_k", Value::I32(-1))]).top_k, Some(0));
        assert_eq!(file(&[("mirostat", Value::I32(0))]).mirostat, Some(None));
    }

    #[test]
    fn nonsense_is_left_out_by_name() {
        let cases = [
            ("temp", Value::F32(f32::NAN), "temp must be 0 or more, not NaN"),
            ("temp", Value::F64(1e300), "0 or more"),
            ("temp", Value::String("warm".into()), "expected a number, found string"),
            ("top_p", Value::F32(7.0), "between 0 and 1"),
            ("min_p", Value::I32(-1), "between 0 and 1"),
            ("penalty_repeat", Value::F32(0.0), "above 0"),
            ("top_k", Value::F32(20.0), "expected an integer, found f32"),
            ("top_k", Value::I32(-2), "-2 is none of -1 to 2147483647"),
            ("penalty_last_n", Value::U64(u64::MAX), "none of -1"),
            ("mirostat", Value::I32(1), "version 1 is not supported"),
            ("xtc_probability", Value::F32(0.5), "not supported"),
            ("sequence", Value::String("kp".into()), "not supported"),
        ];
        for (name, value, reason) in cases {
            let said = file(&[(name, value), ("top_k", Value::I32(3))][..if name == "top_k" { 1 } else { 2 }]);
            let [note] = &said.notes[..] else { panic!("{name}: {:?}", said.notes) };
            assert!(note.starts_with(&format!("general.sampling.{name} is left out: ")), "{note}");
            assert!(note.contains(reason), "{note}");
            let rest = Recommended { notes: Vec::new(), ..said };
            let top_k = if name == "top_k" { None } else { Some(3) };
            assert_eq!(rest, Recommended { top_k, ..Recommended::default() });
        }
        let said = file(&[("mirostat", Value::I32(2)), ("mirostat_eta", Value::F32(-1.0))]);
        assert_eq!((said.mirostat, said.notes.len()), (Some(Some(Mirostat::default())), 1));
    }
}
