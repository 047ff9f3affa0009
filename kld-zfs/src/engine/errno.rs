//! What the numbers mean with which libzfs_core says that something failed.

use std::ffi::c_int;

use kld_core::Error;
use nix::errno::Errno;

use super::{Failure, Kind, Outcome};
use crate::SnapshotName;

/// A failure that has no kind of its own.
pub(super) fn other(error: Error) -> Failure {
    Failure { kind: Kind::Other, error }
}

/// How a deed ended; 0 is well.
pub(super) fn ended(errno: c_int, what: impl FnOnce() -> String) -> Outcome {
    if errno == 0 {
        return Ok(());
    }
    let errno = Errno::from_raw(errno);
    let kind = match errno {
        Errno::EEXIST => Kind::Exists,
        Errno::ENOENT => Kind::Missing,
        Errno::EBUSY => Kind::Busy,
        _ => Kind::Other,
    };
    let error = match errno {
        Errno::EDQUOT => Error::failed(what(), "the quota is reached")
            .with_hint("raise it (zfs set quota=...), or free some space"),
        Errno::ENOSPC => {
            Error::failed(what(), "the pool is full").with_hint("free some space in it and try again")
        }
        Errno::EROFS => {
            Error::failed(what(), "the pool is imported read-only").with_hint("import it without readonly=on")
        }
        Errno::EBUSY => Error::failed(what(), "it is in use"),
        errno => Error::failed(what(), errno.desc()),
    };
    Err(Failure { kind, error })
}

/// How a deed on several snapshots ended, from what is said of each by its name: the first that is not as wanted
/// counts.
pub(super) fn ended_each(
    errno: c_int,
    each: &[(String, c_int)],
    asked: &SnapshotName,
    forgiven: Option<Errno>,
    what: impl Fn(&str) -> String,
) -> Outcome {
    if errno != 0 && each.is_empty() {
        return ended(errno, || what(asked.as_str()));
    }
    // Where many failed, the list ends with a count of those that were left out.
    let mut real = each.iter().filter(|(name, _)| name.contains('@'));
    let first = real.find(|(_, errno)| Some(Errno::from_raw(*errno)) != forgiven);
    first.map_or(Ok(()), |(name, errno)| ended(*errno, || what(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_each(errno: Errno, each: &[(&str, Errno)], forgiven: Option<Errno>) -> Outcome {
        let each: Vec<_> = each.iter().map(|(name, errno)| (name.to_string(), *errno as c_int)).collect();
        let asked = SnapshotName::parse("tank/a@a").unwrap();
        ended_each(errno as c_int, &each, &asked, forgiven, |name| format!("cannot destroy {name}"))
    }

    #[test]
    fn the_first_snapshot_that_is_not_as_wanted_counts() {
        let each = [("tank/a@a", Errno::ENOENT), ("tank/b@a", Errno::EBUSY)];
        let failure = of_each(Errno::ENOENT, &each, Some(Errno::ENOENT)).unwrap_err();
        assert_eq!(failure.kind, Kind::Busy);
        assert_eq!(failure.error.to_string(), "cannot destroy tank/b@a: it is in use");
        assert_eq!(of_each(Errno::ENOENT, &each, None).unwrap_err().kind, Kind::Missing);
        of_each(Errno::ENOENT, &each[..1], Some(Errno::ENOENT)).unwrap();
    }

    #[test]
    fn where_nothing_is_said_of_each_the_whole_counts() {
        let failure = of_each(Errno::EDQUOT, &[], None).unwrap_err();
        assert_eq!(failure.error.to_string(), "cannot destroy tank/a@a: the quota is reached");
    }
}
