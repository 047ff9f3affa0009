//! Another program that embeds kld-kvm: the example in the book.
#![allow(clippy::disallowed_types, reason = "the example is a program like any other")]

use kld_cli_tests::image;
use kld_test_support::{Host, tool};

#[test]
fn a_program_of_one_s_own_clones_a_machine() {
    let host = Host::start();
    let image = image(&host, "debian.qcow2");
    host.run("kvm-create", ["template", "--from", &image.display().to_string(), "--network", "none"]).ok();

    let mut program = tool::command(&tool::built_here().join("examples/clone"));
    program.args(["template", "web-5"]).envs(host.env());
    assert_eq!(tool::run(program).ok(), "web-5 stands on template\n");

    assert_eq!(host.run("kvm-list", ["--names"]).ok(), "template\nweb-5\n");
}

#[test]
fn its_errors_are_those_of_the_tools() {
    let host = Host::start();
    let mut program = tool::command(&tool::built_here().join("examples/clone"));
    program.args(["template", "web/5"]).envs(host.env());
    let ran = tool::run(program);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("the machine name 'web/5' contains '/'"), "{}", ran.stderr);
}
