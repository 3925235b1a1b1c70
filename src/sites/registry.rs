//! A site's registry: which attributes there are, and of which type each is.

use std::collections::BTreeMap;

use crate::command::WriteError;
use crate::model::{AttributeChange, Change, EventTime, ValueType};
use crate::store::AttributeInfo;

/// The attributes of one site. Replaced as a whole when it changes; it seldom does.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    attributes: BTreeMap<Box<str>, Registered>,
}

#[derive(Clone, Debug)]
struct Registered {
    info: AttributeInfo,
    /// Whether the store knows it as it is here.
    stored: bool,
}

impl Change {
    /// The type that this change gives its attribute; none for an unset.
    pub(crate) fn value_type(&self) -> Option<ValueType> {
        match self {
            Self::Set(value) | Self::SetOnce(value) => Some(value.value_type()),
            Self::Unset => None,
            Self::Add(_) => Some(ValueType::Number),
            Self::Append(_) | Self::Union(_) | Self::Remove(_) => Some(ValueType::List),
        }
    }
}

impl Registry {
    /// The attribute called `name`.
    pub fn get(&self, name: &str) -> Option<&AttributeInfo> {
        self.attributes.get(name).map(|registered| &registered.info)
    }

    /// All attributes by name.
    pub fn all(&self) -> impl Iterator<Item = &AttributeInfo> {
        self.attributes.values().map(|registered| &registered.info)
    }

    /// Whether `changes` may be accepted: the types agree and new names fit. Answers whether there are
    /// new names.
    pub fn check(&self, changes: &[AttributeChange], limit: usize) -> Result<bool, WriteError> {
        let mut new = 0;
        for change in changes {
            let Some(given) = change.change.value_type() else { continue };
            match self.get(&change.name) {
                Some(known) if known.value_type == given => {}
                Some(known) => {
                    return Err(WriteError::TypeMismatch {
                        name: change.name.clone(),
                        registered: known.value_type.as_str(),
                        given: given.as_str(),
                    });
                }
                None => {
                    new += 1;
                    if self.attributes.len() + new > limit {
                        return Err(WriteError::TooManyAttributes { name: change.name.clone(), limit });
                    }
                }
            }
        }
        Ok(new > 0)
    }

    /// Adds the names that `changes` use for the first time.
    pub fn declare(&mut self, changes: &[AttributeChange], first_seen: EventTime) {
        for change in changes {
            let Some(value_type) = change.change.value_type() else { continue };
            if self.attributes.contains_key(&change.name) {
                continue;
            }
            let name = change.name.clone();
            let info =
                AttributeInfo { name: name.clone(), value_type, first_seen, indexed: true, disabled: false };
            self.attributes.insert(name, Registered { info, stored: false });
        }
    }

    /// Changes an attribute's state, as a journal entry says; one that is not known stays so.
    pub fn set_state(&mut self, name: &str, disabled: bool, indexed: bool) {
        if let Some(known) = self.attributes.get_mut(name) {
            known.info.disabled = disabled;
            known.info.indexed = indexed;
        }
    }

    /// The store has the attribute. Its state stays as it is here: a later entry may have changed it.
    pub fn committed(&mut self, info: AttributeInfo) {
        match self.attributes.get_mut(&info.name) {
            Some(known) => {
                known.info.first_seen = info.first_seen;
                known.stored = true;
            }
            None => self.restore(info),
        }
    }

    /// Takes over an attribute as the store has it.
    pub fn restore(&mut self, info: AttributeInfo) {
        self.attributes.insert(info.name.clone(), Registered { info, stored: true });
    }

    /// Takes over what another store knows, which is `its`: what it does not know must be put there.
    pub fn reconcile(&mut self, its: &Registry) {
        for registered in self.attributes.values_mut() {
            registered.stored = false;
        }
        for registered in its.attributes.values().filter(|registered| registered.stored) {
            self.restore(registered.info.clone());
        }
    }

    /// Whether the store knows all attributes that `changes` use.
    pub fn stored(&self, changes: &[AttributeChange]) -> bool {
        changes.iter().all(|change| self.attributes.get(&change.name).is_none_or(|a| a.stored))
    }

    /// The attributes that the store does not know yet, of those that `changes` use.
    pub fn not_stored<'a>(&'a self, changes: &'a [AttributeChange]) -> impl Iterator<Item = AttributeInfo> {
        changes
            .iter()
            .filter_map(|change| self.attributes.get(&change.name))
            .filter(|registered| !registered.stored)
            .map(|registered| registered.info.clone())
    }
}
