//! `+` between two lists. minijinja joins them without looking at their lengths and copies after 32 times, so that a list that
//! is added to itself again and again would take all memory.

use std::sync::Arc;

use minijinja::{
    Error, State, Value,
    value::{Enumerator, Object, ObjectRepr, Tuple, ValueKind},
};

use super::{invalid, text::charge};

/// Items that count as one step; a value has 24 bytes.
const ITEMS_PER_STEP: u64 = 4;

/// Two lists joined. A list of minijinja would be charged for again, and more.
#[derive(Debug)]
struct Joined(Vec<Value>);

impl Object for Joined {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}

/// `left + right`.
pub(super) fn add(state: &State, left: Value, right: Value) -> Result<Value, Error> {
    let is_list = |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) && value.downcast_object_ref::<Tuple>().is_none()
    };
    if is_list(&left) && is_list(&right) {
        return join(state, &left, &right);
    }
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        charge(state, a.len().saturating_add(b.len()))?;
        return Ok(Value::from([a, b].concat()));
    }
    if let (Some(a), Some(b)) = (left.downcast_object_ref::<Tuple>(), right.downcast_object_ref::<Tuple>()) {
        state.consume_fuel((a.len() + b.len()) as u64 / ITEMS_PER_STEP)?;
        return Ok(Value::from(Tuple::from(a.iter().chain(b.iter()).cloned().collect::<Vec<_>>())));
    }
    // Numbers: whole ones where both are.
    let is_number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    if is_number(&left) && is_number(&right) {
        let number = |value: &Value| {
            if value.kind() == ValueKind::Bool { Value::from(u8::from(value.is_true())) } else { value.clone() }
        };
        let (left, right) = (number(&left), number(&right));
        if let (Ok(a), Ok(b)) = (i128::try_from(left.clone()), i128::try_from(right.clone()))
            && left.is_integer()
            && right.is_integer()
        {
            return a.checked_add(b).map(Value::from).ok_or_else(|| invalid("a sum that is too large"));
        }
        return Ok(Value::from(f64::try_from(left)? + f64::try_from(right)?));
    }
    Err(invalid(format!("+ is not for {} and {}", left.kind(), right.kind())))
}

fn join(state: &State, left: &Value, right: &Value) -> Result<Value, Error> {
    let len = |list: &Value| list.len().unwrap_or(0);
    // Before a list of a known length is copied, and for each item of the others.
    state.consume_fuel(len(left).saturating_add(len(right)) as u64 / ITEMS_PER_STEP)?;
    let mut items = Vec::with_capacity(len(left) + len(right));
    for list in [left, right] {
        let is_sized = list.len().is_some();
        for item in list.try_iter()? {
            if !is_sized {
                state.consume_fuel(1)?;
            }
            items.push(item);
        }
    }
    Ok(Value::from_object(Joined(items)))
}
