//! A tool that watches while something is done.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::Lab;

/// Where a tool says its first word when it has begun to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// A note, on standard error.
    WithNote,
    /// Its heading, or its first table, on standard output.
    WithOutput,
}

impl Lab {
    /// What a tool prints that watches from before something is done until after; it is ended as by Ctrl-C.
    pub fn watch(&self, tool: &str, args: &[&str], begins: Begins, deed: impl FnOnce()) -> String {
        let mut command = self.command(tool, args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        match begins {
            Begins::WithNote => stderr.read_line(&mut first).unwrap(),
            Begins::WithOutput => stdout.read_line(&mut first).unwrap(),
        };
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| text)
        });
        deed();
        self.ok("kill", &["-INT", &child.id().to_string()]);
        let code = child.wait().unwrap().code();
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(code, Some(0), "{tool}: {first}{said}");
        let rest = reader.join().unwrap().unwrap();
        eprintln!("{tool} {}: {said}", args.join(" "));
        if begins == Begins::WithOutput { first + &rest } else { rest }
    }
}
