//! `cargo xtask kernels`: do the probes work on Debian's kernels, each booted in a guest of its own?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kld_build::appliance::{Qemu, Shape, Speed};
use kld_build::{Agent, Cache, Design, Image, Recipe};
use kld_core::exec::Exec;
use kld_core::ui::Ui;
use kld_core::{ByteSize, Error, Result, fsio};
use kld_test_support::Root;

use crate::lab::inside;
use crate::shell;

/// Run the probes' tests on Debian's kernels
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask kernels\n  cargo xtask kernels bullseye\n  cargo xtask kernels --write"
)]
pub struct Args {
    /// Debian's releases whose kernels are taken; all that are known where none is named
    #[arg(value_parser = SUITES)]
    suites: Vec<String>,
    /// Keep the table in the book
    #[arg(long, conflicts_with = "suites")]
    write: bool,
}

/// Debian's releases, from the oldest kernel (5.10) to the newest.
const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", "trixie-backports"];

/// A test program that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(900);

/// So many guests run at the same time: one that is translated keeps hardly more than one processor busy.
const AT_ONCE: usize = 2;

/// Where the table is kept.
const PAGE: &str = "docs/src/kernels.md";
const HEAD: &str = include_str!("kernels/head.md");

/// What the tests need of a kernel's modules, by their paths: loop devices, a disk that is slow (with what it needs), and
/// a network that loses packets. A kernel may have them built in.
const MODULES: [&str; 4] =
    ["drivers/block/loop", "fs/configfs/configfs", "drivers/block/null_blk/null_blk", "net/sched/sch_netem"];

/// Makes what the tests need in a guest: these modules, control groups, and their folder of temporary files. The slow disk
/// takes 30 ms for a request.
const PREPARE: &str = r#"
load() {
    for module in /run/modules/"$1".ko*; do
        case $module in
            *.xz) xzcat "$module" >"/run/$1.ko" ;;
            *.ko) cp "$module" "/run/$1.ko" ;;
        esac
    done
    module=/run/$1.ko
    shift
    [ ! -e "$module" ] || insmod "$module" "$@"
}
load loop
load configfs
load null_blk nr_devices=1 irqmode=2 completion_nsec=30000000
load sch_netem
mkdir -p /cgroup "$1"
mount -t cgroup2 none /cgroup
echo +memory +cpu +io >/cgroup/cgroup.subtree_control
"#;

/// What a tool does on a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// All its tests pass.
    Works,
    /// It refuses, as it should: what the kernel lacks.
    Lacks(String),
    /// Tests fail, by their names.
    Fails(Vec<String>),
}

/// What was found on a kernel, by tool.
type Found = BTreeMap<String, Outcome>;

pub fn run(args: &Args, ui: &Ui) -> Result<()> {
    let programs = inside::build(&["--package", "kld-ebpf", "--test", "kernel"], ui)?;
    let program = programs.first().ok_or_else(|| Error::message("cargo has built no test program"))?;
    let wanted: Vec<&str> = match args.suites.is_empty() {
        true => SUITES.to_vec(),
        false => args.suites.iter().map(String::as_str).collect(),
    };
    let mut columns = Vec::new();
    for suites in wanted.chunks(AT_ONCE) {
        let found: Vec<Result<(String, Found)>> = std::thread::scope(|scope| {
            let started: Vec<_> =
                suites.iter().map(|suite| scope.spawn(|| timed(suite, program, ui))).collect();
            let ended = started.into_iter().map(|one| one.join());
            ended.map(|one| one.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        columns.extend(found.into_iter().collect::<Result<Vec<_>>>()?);
    }
    let table = table(&columns);
    ui.raw(table.as_bytes())?;
    if args.write {
        fsio::replace(&shell::workspace().join(PAGE), format!("{HEAD}{table}").as_bytes(), 0o644)?;
    }
    let failed = columns.iter().flat_map(|(release, found)| {
        found.iter().filter_map(move |(tool, outcome)| match outcome {
            Outcome::Fails(tests) => Some(format!("{tool} on {release} ({})", tests.join(", "))),
            _ => None,
        })
    });
    let failed: Vec<String> = failed.collect();
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::failed("probes fail", failed.join("; "))),
    }
}

fn timed(suite: &str, program: &Path, ui: &Ui) -> Result<(String, Found)> {
    let start = Instant::now();
    let (release, found) = on_kernel_of(suite, program, ui)?;
    ui.note(format!("{suite}'s {release} took {:.1} s", start.elapsed().as_secs_f64()));
    Ok((release, found))
}

/// Boots a release's kernel with nothing but busybox, and runs the tests there.
fn on_kernel_of(suite: &str, program: &Path, ui: &Ui) -> Result<(String, Found)> {
    let recipe = recipe(suite);
    let cache = Cache::of_user();
    let tree = recipe.ensure(&cache)?.into_inner();
    let image = Image::ensure(&cache, &tree, None, true)?.into_inner();
    let shape = Shape { memory: ByteSize::gib(1), processors: 2, disks: Vec::new(), interfaces: 1 };
    let qemu = Qemu::of(&kld_build::Tree::at(Root::ensure(ui)?.tree()));
    let mut environment = vec!["env", "KLD_ALONE=1"];
    if qemu.speed() != Speed::Kvm {
        environment.push("KLD_TRANSLATED=1");
    }
    let guest = Design { qemu, image, shape, patience: Design::PATIENCE }.boot(&[])?;
    let agent = guest.agent().limited(PATIENCE);
    bring(&agent, program)?;
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let release = tree.kernel()?;
    let modules = tree.path("usr/lib/modules").join(&release).join("kernel");
    for module in MODULES.iter().filter_map(|module| file_of(&modules.join(module))) {
        agent.copy_in(&module, "/run/modules")?;
    }
    let temporary = shell::workspace().join("target/tmp").display().to_string();
    agent.ask(&["sh", "-ec", PREPARE, "prepare", &temporary])?;
    let program = format!("/run/{name}");
    let ran = agent.run(&[&environment[..], &[&program, "--test-threads=1", "--show-output"]].concat())?;
    let said = String::from_utf8_lossy(&ran.stdout);
    let found = outcomes(&said);
    if found.is_empty() || found.values().any(|outcome| matches!(outcome, Outcome::Fails(_))) {
        ui.raw(&ran.stdout)?;
        ui.note(String::from_utf8_lossy(&ran.stderr));
    }
    Ok((version(&release), found))
}

/// The file of a module, packed or not: `loop.ko`, `loop.ko.xz`.
fn file_of(module: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(module.parent()?).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| path.file_prefix() == module.file_name())
}

/// A release's kernel, or that of its backports, and the little that a guest needs beside it.
fn recipe(name: &str) -> Recipe {
    let suite = name.strip_suffix("-backports").unwrap_or(name);
    let beside = (suite != name).then(|| name.to_string());
    let kernel = format!("linux-image-amd64/{name}");
    let mut packages = ["busybox-static", "kmod", "zstd"].map(str::to_string).to_vec();
    packages.push(kernel);
    if suite == "bullseye" {
        // Since then /bin and /lib are in /usr anyway.
        packages.push("usrmerge".to_string());
    }
    let components = vec!["main".to_string()];
    Recipe { name: format!("kernel-{name}"), suite: suite.to_string(), beside, components, packages }
}

/// `5.10` of `5.10.0-32-amd64`.
fn version(release: &str) -> String {
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// Copies the program with the libraries that it is linked to, to where its loader looks for them.
fn bring(agent: &Agent, program: &Path) -> Result<()> {
    let folder =
        tempfile::tempdir().map_err(|cause| Error::failed("cannot make a temporary folder", cause))?;
    let stripped = folder.path().join(program.file_name().unwrap_or_default());
    Exec::new("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(program).run()?;
    agent.copy_in(&stripped, "/run")?;
    let listed = Exec::new("ldd").arg(program).run()?;
    for library in libraries(&String::from_utf8_lossy(&listed.stdout)) {
        let real = library.canonicalize().unwrap_or_else(|_| library.clone());
        // The guest's copy bears the name that the program asks for.
        let named = folder.path().join(library.file_name().unwrap_or_default());
        std::fs::copy(&real, &named)
            .map_err(|cause| Error::failed(format!("cannot copy {}", real.display()), cause))?;
        let place = library.parent().unwrap_or(Path::new("/")).display().to_string();
        agent.copy_in(&named, &place)?;
    }
    Ok(())
}

/// The files in what ldd prints.
fn libraries(listed: &str) -> Vec<PathBuf> {
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    listed.lines().filter_map(path).collect()
}

/// Reads what the test program printed: `test NAME ... ok`, and, below `---- NAME stdout ----`, a line `probe: TOOL` for
/// each tool that the test is about, and `lacks: WHAT` of one that rightly refused.
fn outcomes(said: &str) -> Found {
    let verdicts: BTreeMap<&str, bool> = said
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "))
        .map(|(name, verdict)| (name, verdict == "ok"))
        .collect();
    let mut found = Found::new();
    let (mut test, mut tool) = ("", "");
    for line in said.lines() {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            test = name;
        } else if let Some(name) = line.strip_prefix("probe: ") {
            tool = name;
            let outcome = found.entry(tool.to_string()).or_insert(Outcome::Works);
            match (verdicts.get(test), outcome) {
                (Some(true), _) | (_, Outcome::Lacks(_)) => {}
                (_, Outcome::Fails(tests)) => tests.push(test.to_string()),
                (_, outcome) => *outcome = Outcome::Fails(vec![test.to_string()]),
            }
        } else if let Some(what) = line.strip_prefix("lacks: ") {
            found.insert(tool.to_string(), Outcome::Lacks(what.to_string()));
        }
    }
    found
}

/// A row for each tool, a column for each kernel, and below it what is lacking.
fn table(columns: &[(String, Found)]) -> String {
    let mut tools: Vec<&String> = columns.iter().flat_map(|(_, found)| found.keys()).collect();
    tools.sort();
    tools.dedup();
    let heading: Vec<&str> = columns.iter().map(|(release, _)| release.as_str()).collect();
    let mut text = format!("| tool | {} |\n|---|{}\n", heading.join(" | "), "---|".repeat(columns.len()));
    let mut notes = Vec::new();
    for tool in tools {
        let cell = |(_, found): &(String, Found)| match found.get(tool) {
            Some(Outcome::Works) => "works",
            Some(Outcome::Lacks(_)) => "refuses",
            Some(Outcome::Fails(_)) => "**fails**",
            None => "not tested",
        };
        let cells: Vec<&str> = columns.iter().map(cell).collect();
        text += &format!("| `{tool}` | {} |\n", cells.join(" | "));
        for (release, found) in columns {
            if let Some(Outcome::Lacks(what)) = found.get(tool) {
                notes.push(format!("* `{tool}` on {release}: {what}\n"));
            }
        }
    }
    if !notes.is_empty() {
        text.push('\n');
        text.extend(notes);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "running 3 tests
test open::a ... ok
test open::b ... FAILED
test tcp::a ... FAILED

successes:

---- open::a stdout ----
probe: opensnoop
probe: execsnoop

failures:

---- open::b stdout ----
probe: opensnoop

thread 'open::b' panicked

---- tcp::a stdout ----
probe: tcptop
lacks: this kernel has no tracepoint sock_send_length; kernels have it since 6.3

thread 'tcp::a' panicked
";

    #[test]
    fn a_tool_works_where_all_its_tests_pass_and_may_refuse_what_a_kernel_lacks() {
        let columns = [("5.10".to_string(), outcomes(SAID)), ("6.1".to_string(), Found::new())];
        insta::assert_snapshot!(table(&columns), @r"
        | tool | 5.10 | 6.1 |
        |---|---|---|
        | `execsnoop` | works | not tested |
        | `opensnoop` | **fails** | not tested |
        | `tcptop` | refuses | not tested |

        * `tcptop` on 5.10: this kernel has no tracepoint sock_send_length; kernels have it since 6.3
        ");
    }

    #[test]
    fn libraries_are_told_from_what_ldd_prints() {
        let listed = "\tlinux-vdso.so.1 (0x7ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        assert_eq!(
            libraries(listed),
            [Path::new("/lib/x86_64-linux-gnu/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
    }

    #[test]
    fn a_kernel_is_known_by_two_numbers() {
        assert_eq!(
            (version("5.10.0-32-amd64"), version("7.2.12+deb14-amd64")),
            ("5.10".into(), "7.2".into())
        );
    }
}
