//! How fast a tool starts.

use std::path::Path;

use kld_core::Result;
use kld_core::ui::Ui;
use kld_test_support::tool;

use super::Row;
use super::measure::{ms, once};
use crate::build;

const TIMES: usize = 300;

pub fn run(_ui: &Ui) -> Result<Vec<Row>> {
    let tools = build::release()?;
    let one_tool = build::release_example("one_tool")?;
    let links =
        tempfile::tempdir().map_err(|cause| kld_core::Error::failed("cannot make a folder", cause))?;
    let kvm_list = tool::link_to(links.path(), "kvm-list", &tools.join("kld-kvm"));
    let kld = tools.join("kld");
    Ok(vec![
        compare("kvm-list --help", (&kvm_list, "--help"), &one_tool)?,
        compare("kld --list", (&kld, "--list"), &one_tool)?,
    ])
}

fn compare(case: &'static str, (program, arg): (&Path, &str), one_tool: &Path) -> Result<Row> {
    let time = |program: &Path, arg: &str| {
        let mut command = tool::command(program);
        command.arg(arg);
        once(command).map(|run| ms(run.time))
    };
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        ours.push(time(program, arg)?);
        peer.push(time(one_tool, "--help")?);
    }
    Ok(Row::new(("start", case), "ms", ours, ("a clap program with one tool", peer), "<=1.5"))
}
