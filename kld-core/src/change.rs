//! A deed says whether it found things as wanted or changed them.

use serde::Serialize;

/// The outcome of a deed that may be run twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "change", content = "value")]
pub enum Change<T> {
    /// Things were already as wanted; nothing was touched.
    Unchanged(T),
    /// Something was changed.
    Changed(T),
}

impl<T> Change<T> {
    /// True where something was changed.
    pub fn is_changed(&self) -> bool {
        matches!(self, Change::Changed(_))
    }

    /// The value, whichever way it came about.
    pub fn into_inner(self) -> T {
        match self {
            Change::Unchanged(value) | Change::Changed(value) => value,
        }
    }
}
