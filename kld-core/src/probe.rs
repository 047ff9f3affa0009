//! What a backend says of itself on this host.

use serde::{Deserialize, Serialize};

/// Whether a backend can serve here, found out by what really happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What was looked at, such as `store dir` or `kvm acceleration`.
    pub subject: String,
    /// How well it serves.
    pub verdict: Verdict,
    /// One sentence: what was found.
    pub finding: String,
    /// What would make it serve, where it does not.
    pub remedy: Option<String>,
}

/// How well a backend serves here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It serves.
    Serves,
    /// It serves with a limit that the finding names.
    Limited,
    /// It does not serve here.
    Absent,
}

impl Probe {
    /// It serves.
    pub fn serves(subject: impl Into<String>, finding: impl Into<String>) -> Self {
        Probe { subject: subject.into(), verdict: Verdict::Serves, finding: finding.into(), remedy: None }
    }

    /// It serves with a limit.
    pub fn limited(
        subject: impl Into<String>,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Probe { subject: subject.into(), verdict: Verdict::Limited, finding: finding.into(), remedy }
    }

    /// It does not serve here.
    pub fn absent(subject: impl Into<String>, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Probe { subject: subject.into(), verdict: Verdict::Absent, finding: finding.into(), remedy }
    }
}
