//! A program with one tool and nothing else: what `cargo xtask bench start` compares kld's tools with.

use clap::{Arg, ArgAction, Command};

fn main() {
    Command::new("one-tool")
        .about("Does one thing")
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON for programs"))
        .arg(Arg::new("name").required(true).help("The one thing"))
        .get_matches();
}
