//! Plans before deeds: what is about to be done, as data that prints.

use serde::{Deserialize, Serialize};

/// What an operation is about to do, computed before anything is touched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The whole in one line, such as `clone template to web-5`.
    pub title: String,
    /// The steps in their order.
    pub steps: Vec<Step>,
}

/// One step of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is done, such as `create`, `define`, `remove`.
    pub verb: String,
    /// To what: a path, a domain, a volume.
    pub object: String,
    /// What else there is to know.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Plan {
    /// A plan without steps yet.
    pub fn new(title: impl Into<String>) -> Self {
        Plan { title: title.into(), steps: Vec::new() }
    }

    /// Adds a step.
    pub fn step(&mut self, verb: &str, object: impl ToString, detail: impl ToString) {
        self.steps.push(Step {
            verb: verb.to_string(),
            object: object.to_string(),
            detail: detail.to_string(),
        });
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.title)?;
        if self.steps.is_empty() {
            writeln!(f, "  nothing to do")?;
        }
        for step in &self.steps {
            let detail = if step.detail.is_empty() { String::new() } else { format!(" ({})", step.detail) };
            writeln!(f, "  {:<9} {}{detail}", step.verb, step.object)?;
        }
        Ok(())
    }
}
