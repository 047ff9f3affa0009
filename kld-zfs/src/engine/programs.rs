//! The `zfs` program. All of it that kld runs is here.

use std::process::Stdio;
use std::time::Duration;

use kld_core::exec::{Exec, Streams};
use kld_core::{Error, Result};

use super::{Engine, Failure, Kind, Listing, Outcome, Property};
use crate::parse::{self, Row};
use crate::{DatasetName, SnapshotName, pool};

/// A deed waits for a transaction group, which a busy pool writes in seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// A stream of a disk.
const STREAM_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// The first release that prints JSON.
const JSON_SINCE: (u32, u32) = (2, 3);

/// The engine that runs the programs.
#[derive(Debug, Clone)]
pub struct Programs {
    json: bool,
}

impl Default for Programs {
    fn default() -> Self {
        Self::new()
    }
}

impl Programs {
    /// With JSON where the release has it.
    pub fn new() -> Self {
        let module = kld_core::fsio::read_text(std::path::Path::new("/sys/module/zfs/version"), 256);
        let version = module.ok().flatten().and_then(|text| parse::version(&text));
        Programs { json: version.is_some_and(|version| version >= JSON_SINCE) }
    }

    /// As releases before 2.3 are spoken to.
    pub fn without_json() -> Self {
        Programs { json: false }
    }

    fn deed(&self, what: impl FnOnce() -> String, args: &[String]) -> Outcome {
        let finished = Exec::new("zfs").args(args).limit(LIMIT).output();
        let finished = finished.map_err(|error| Failure { kind: Kind::Other, error })?;
        match finished.code {
            Some(0) => Ok(()),
            _ => Err(failure(what(), &finished.stderr)),
        }
    }
}

/// What the program's words mean.
fn failure(what: String, stderr: &str) -> Failure {
    let has = |words: &str| stderr.contains(words);
    let kind = if has("already exists") {
        Kind::Exists
    } else if has("does not exist") || has("could not find any snapshots to destroy") {
        Kind::Missing
    } else if has("is busy") || has("resource busy") {
        Kind::Busy
    } else {
        Kind::Other
    };
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    Failure { kind, error: Error::failed(what, last.trim()) }
}

fn guarded(name: &DatasetName) -> std::result::Result<(), Failure> {
    pool::guard(name).map_err(|error| Failure { kind: Kind::Other, error })
}

fn assignments(properties: &[Property]) -> impl Iterator<Item = String> {
    properties.iter().map(|property| match property {
        Property::Mountpoint(path) => format!("mountpoint={path}"),
        Property::VolmodeDev => "volmode=dev".to_string(),
        Property::SnapdevHidden => "snapdev=hidden".to_string(),
        Property::User(name, value) => format!("{name}={value}"),
        Property::Native(name, value) => format!("{name}={value}"),
    })
}

fn options(properties: &[Property]) -> Vec<String> {
    assignments(properties).flat_map(|word| ["-o".to_string(), word]).collect()
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_string).to_vec()
}

/// What the program prints for a listing, and whether some of the names are not there.
fn listed(listing: &Listing, json: bool) -> Result<(String, bool)> {
    let columns = format!("name,{}", listing.columns.join(","));
    let mut args = words(["list", "-t", listing.kinds.word(), "-o", &columns]);
    match listing.depth {
        Some(0) => {}
        Some(depth) => args.extend(words(["-d", &depth.to_string()])),
        None => args.push("-r".to_string()),
    }
    // In the order of their making; of the same moment, by name.
    args.extend(words(["-s", "createtxg", "-s", "name"]));
    args.extend(if json { words(["-j", "--json-int"]) } else { words(["-H", "-p"]) });
    args.extend(listing.of.iter().map(|name| name.to_string()));
    let finished = Exec::new("zfs").args(&args).limit(LIMIT).output()?;
    let stdout = String::from_utf8_lossy(&finished.stdout).into_owned();
    if finished.code == Some(0) {
        return Ok((stdout, false));
    }
    // The program may be older than the module, by whose release JSON was chosen.
    if json && finished.stderr.contains("invalid option 'j'") {
        return Ok((String::new(), true));
    }
    // A thing of another kind is none of those that are wanted.
    if finished.stderr.contains("not applicable to datasets of this type") {
        return Ok((stdout, true));
    }
    match failure("cannot list datasets".to_string(), &finished.stderr) {
        Failure { kind: Kind::Missing, .. } => Ok((stdout, true)),
        failure => Err(failure.error),
    }
}

impl Engine for Programs {
    fn name(&self) -> &'static str {
        "zfs"
    }

    fn exists(&self, name: &str) -> Result<bool> {
        let dataset = DatasetName::parse(name.split('@').next().unwrap_or_default())?;
        pool::guard(&dataset)?;
        let finished =
            Exec::new("zfs").args(["list", "-H", "-o", "name", "-t", "all", name]).limit(LIMIT).output()?;
        match finished.code {
            Some(0) => Ok(true),
            _ => match failure(format!("cannot look for {name}"), &finished.stderr) {
                Failure { kind: Kind::Missing, .. } => Ok(false),
                failure => Err(failure.error),
            },
        }
    }

    fn list(&self, listing: &Listing) -> Result<Vec<Row>> {
        for name in listing.of {
            pool::guard(&DatasetName::parse(name.split('@').next().unwrap_or_default())?)?;
        }
        if listing.of.is_empty() {
            return Ok(Vec::new());
        }
        if self.json {
            let (stdout, missing) = listed(listing, true)?;
            // With one name that is not there, JSON of the others is not printed, and lines are.
            if !missing && !stdout.trim().is_empty() {
                return parse::json(&stdout, listing.columns);
            }
        }
        let (stdout, _) = listed(listing, false)?;
        parse::lines(&stdout, listing.columns.len())
    }

    fn create_filesystem(&self, name: &DatasetName, properties: &[Property]) -> Outcome {
        guarded(name)?;
        let args = [words(["create", "-u"]), options(properties), words([name.as_str()])].concat();
        self.deed(|| format!("cannot create {name}"), &args)
    }

    fn create_volume(&self, name: &DatasetName, size: u64, block: u32, properties: &[Property]) -> Outcome {
        guarded(name)?;
        let shape = words(["create", "-s", "-V", &size.to_string(), "-b", &block.to_string()]);
        let args = [shape, options(properties), words([name.as_str()])].concat();
        self.deed(|| format!("cannot create {name}"), &args)
    }

    fn set(&self, name: &DatasetName, properties: &[Property]) -> Outcome {
        guarded(name)?;
        let set = words(["set"]).into_iter().chain(assignments(properties));
        let args: Vec<String> = set.chain([name.to_string()]).collect();
        self.deed(|| format!("cannot set properties of {name}"), &args)
    }

    fn snapshot(&self, names: &[SnapshotName], properties: &[Property]) -> Outcome {
        let Some(first) = names.first() else { return Ok(()) };
        guarded(&first.dataset())?;
        let names = names.iter().map(ToString::to_string).collect();
        let args = [words(["snapshot"]), options(properties), names].concat();
        self.deed(|| format!("cannot snapshot {first}"), &args)
    }

    fn clone_of(&self, origin: &SnapshotName, name: &DatasetName, properties: &[Property]) -> Outcome {
        guarded(name)?;
        let args = [words(["clone"]), options(properties), words([origin.as_str(), name.as_str()])].concat();
        self.deed(|| format!("cannot clone {origin} to {name}"), &args)
    }

    fn destroy_snapshots(&self, names: &[SnapshotName]) -> Outcome {
        for name in names {
            guarded(&name.dataset())?;
            let done =
                self.deed(|| format!("cannot destroy {name}"), &words(["destroy", "-d", name.as_str()]));
            match done {
                Err(Failure { kind: Kind::Missing, .. }) => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn destroy(&self, name: &DatasetName) -> Outcome {
        guarded(name)?;
        self.deed(|| format!("cannot destroy {name}"), &words(["destroy", name.as_str()]))
    }

    fn rename(&self, from: &DatasetName, to: &DatasetName) -> Outcome {
        guarded(from)?;
        self.deed(|| format!("cannot rename {from} to {to}"), &words(["rename", from.as_str(), to.as_str()]))
    }

    fn rename_snapshot(&self, from: &SnapshotName, to: &SnapshotName) -> Outcome {
        guarded(&from.dataset())?;
        self.deed(|| format!("cannot rename {from} to {to}"), &words(["rename", from.as_str(), to.as_str()]))
    }

    fn promote(&self, name: &DatasetName) -> Outcome {
        guarded(name)?;
        self.deed(|| format!("cannot promote {name}"), &words(["promote", name.as_str()]))
    }

    fn rollback(&self, to: &SnapshotName) -> Outcome {
        guarded(&to.dataset())?;
        self.deed(|| format!("cannot roll back to {to}"), &words(["rollback", to.as_str()]))
    }

    fn copy(
        &self,
        from: &SnapshotName,
        after: Option<&SnapshotName>,
        to: &DatasetName,
        properties: &[Property],
    ) -> Outcome {
        guarded(to)?;
        let what = || format!("cannot copy {from} to {to}");
        let other = |error: Error| Failure { kind: Kind::Other, error: Error::failed(what(), error) };
        // What is compressed stays so, and large blocks are not cut up.
        let send =
            [words(["send", "-c", "-L"]), after.map_or_else(Vec::new, |after| words(["-I", after.as_str()]))];
        let streams = Streams { stdout: Stdio::piped(), ..Streams::default() };
        let mut sender =
            Exec::new("zfs").args(send.concat()).arg(from.as_str()).start(streams).map_err(other)?;
        let stream = sender.stdout.take().map_or_else(Stdio::null, Stdio::from);
        let receive = [words(["receive", "-u"]), options(properties), words([to.as_str()])].concat();
        receive_from(&receive, stream).map_err(|stderr| failure(what(), &stderr))
    }
}

/// Runs the receiver to its end, and gives what it complained of.
fn receive_from(args: &[String], stream: Stdio) -> std::result::Result<(), String> {
    use std::io::Read;
    let streams = Streams { stdin: stream, stderr: Stdio::piped(), ..Streams::default() };
    let mut receiver = Exec::new("zfs").args(args).start(streams).map_err(|error| error.to_string())?;
    let mut said = String::new();
    if let Some(stderr) = receiver.stderr.take() {
        let _ = stderr.take(1 << 16).read_to_string(&mut said);
    }
    match receiver.wait(STREAM_LIMIT) {
        Some(status) if status.success() => Ok(()),
        Some(_) => Err(said),
        None => Err("it did not end within a day".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_zfs_complains_of_is_understood() {
        for (said, kind) in [
            ("cannot create 'tank/a': dataset already exists\n", Kind::Exists),
            ("cannot open 'tank/a': dataset does not exist\n", Kind::Missing),
            ("could not find any snapshots to destroy; check snapshot names.\n", Kind::Missing),
            ("cannot destroy 'tank/a': dataset is busy\n", Kind::Busy),
            ("cannot unmount '/m': pool or dataset is busy\n", Kind::Busy),
            ("cannot create 'tank/a': out of space\n", Kind::Other),
            // Recorded from 2.1.11.
            ("cannot create snapshot 'tank/a@a': dataset already exists\n", Kind::Exists),
            ("cannot open 'tank/a@none': dataset does not exist\n", Kind::Missing),
            (
                "cannot destroy 'tank/a': volume has children\nuse '-r' to destroy the following datasets:\ntank/a@a\n",
                Kind::Other,
            ),
        ] {
            assert_eq!(failure("cannot".to_string(), said).kind, kind, "{said}");
        }
    }

    #[test]
    fn properties_are_words_of_their_own() {
        let words =
            options(&[Property::VolmodeDev, Property::User("org.kld:machine", "1 -o x=y".to_string())]);
        assert_eq!(words, ["-o", "volmode=dev", "-o", "org.kld:machine=1 -o x=y"]);
    }
}
