//! The error and exit-code contract of every kld program.
//!
//! A program prints `error: <what>: <cause>` and, where there is something to do about it, `hint: <what to do>`
//! on stderr, and exits with an [`Exit`] code. The mapping from error kinds to exit codes is here and nowhere
//! else.

use std::fmt::Display;

/// Shorthand for results that carry an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The exit codes of every kld program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing had to be done.
    Done = 0,
    /// Tried and failed; the error says what is left as it was. Also: a check has found what it looks for.
    Failed = 1,
    /// The command line or the configuration is wrong; nothing was tried.
    Usage = 2,
    /// Somebody else holds what is needed; try again later.
    Busy = 3,
    /// Refused, so that data is not lost; the hint says what would allow it.
    Refused = 4,
}

/// What went wrong, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something was tried and failed.
    #[error("{message}")]
    Failed {
        /// One sentence: what was tried, and the cause after a colon.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The caller asked for something that cannot be meant.
    #[error("{message}")]
    Usage {
        /// One sentence.
        message: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// Somebody else holds what is needed.
    #[error("{message}")]
    Busy {
        /// One sentence that names the holder.
        message: String,
        /// How to wait or whom to ask.
        hint: Option<String>,
    },
    /// Refused to protect data.
    #[error("{message}")]
    Refused {
        /// One sentence that names what would be lost.
        message: String,
        /// The option that allows it.
        hint: Option<String>,
    },
    /// A check has found what it looks for, and has told of it on standard output: there is nothing more to say.
    #[error("the check has found something")]
    Found,
    /// The reader of standard output has gone away: not an error to speak of.
    #[error("standard output was closed")]
    ClosedPipe,
}

impl Error {
    /// Something was tried and failed: `what` was tried, `cause` is why.
    pub fn failed(what: impl Display, cause: impl Display) -> Self {
        Error::Failed { message: format!("{what}: {cause}"), hint: None }
    }

    /// A failure that one sentence tells.
    pub fn message(message: impl Display) -> Self {
        Error::Failed { message: message.to_string(), hint: None }
    }

    /// The caller asked for something that cannot be meant.
    pub fn usage(message: impl Display) -> Self {
        Error::Usage { message: message.to_string(), hint: None }
    }

    /// Somebody else holds what is needed.
    pub fn busy(message: impl Display) -> Self {
        Error::Busy { message: message.to_string(), hint: None }
    }

    /// Refused to protect data.
    pub fn refused(message: impl Display) -> Self {
        Error::Refused { message: message.to_string(), hint: None }
    }

    /// The same error with advice; replaces advice given before.
    #[must_use]
    pub fn with_hint(mut self, advice: impl Display) -> Self {
        match &mut self {
            Error::Failed { hint, .. }
            | Error::Usage { hint, .. }
            | Error::Busy { hint, .. }
            | Error::Refused { hint, .. } => *hint = Some(advice.to_string()),
            Error::Found | Error::ClosedPipe => {}
        }
        self
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Failed { hint, .. }
            | Error::Usage { hint, .. }
            | Error::Busy { hint, .. }
            | Error::Refused { hint, .. } => hint.as_deref(),
            Error::Found | Error::ClosedPipe => None,
        }
    }

    /// The exit code of a program that ends with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Failed { .. } | Error::Found => Exit::Failed,
            Error::Usage { .. } => Exit::Usage,
            Error::Busy { .. } => Exit::Busy,
            Error::Refused { .. } => Exit::Refused,
            Error::ClosedPipe => Exit::Done,
        }
    }
}

/// Adds what was being tried to a plain error.
pub trait Trying<T> {
    /// `what` is a phrase such as "cannot read /etc/kld/config.toml".
    fn trying(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Trying<T> for std::io::Result<T> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| {
            let error = Error::failed(what(), plain(&cause));
            match cause.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    error.with_hint("run it as root, or give your user access")
                }
                std::io::ErrorKind::StorageFull => error.with_hint("free some space there and try again"),
                std::io::ErrorKind::ReadOnlyFilesystem => {
                    error.with_hint("the file system is mounted read-only")
                }
                _ => error,
            }
        })
    }
}

impl<T> Trying<T> for nix::Result<T> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(std::io::Error::from).trying(what)
    }
}

/// An I/O error in words, without Rust's "(os error 2)".
fn plain(cause: &std::io::Error) -> String {
    match cause.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_string(),
        None => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_check_finds_ends_it_as_a_failure_without_a_hint() {
        let found = Error::Found.with_hint("none");
        assert_eq!((found.exit(), found.hint()), (Exit::Failed, None));
        assert_eq!(Error::ClosedPipe.exit(), Exit::Done);
    }
}
