//! Folded stacks: a line each, from the outermost call to the innermost, with the number behind it, as flame graphs'
//! tools read them.

use kld_core::ui::printable;

use super::flame::{Call, Calls};
use super::{How, Part, Row};

/// What bcc puts behind the kernel's calls where they are marked.
const MARK: &str = "_[k]";

/// All stacks, in the order that they are given.
pub fn text(rows: &[Row], how: &How) -> String {
    let line = |row: &Row| {
        let mut names = vec![name(&row.label.first)];
        names.extend(row.user.calls().iter().rev().map(|frame| name(&frame.name())));
        names.extend((row.user == Part::Lost).then(|| "[Missed User Stack]".to_string()));
        names.extend(
            (how.delimited && row.kernel != Part::None && row.user != Part::None).then(|| "-".into()),
        );
        let mark = if how.annotated { MARK } else { "" };
        names.extend(row.kernel.calls().iter().rev().map(|frame| name(&frame.name()) + mark));
        names.extend((row.kernel == Part::Lost).then(|| "[Missed Kernel Stack]".to_string()));
        names.extend(row.label.last.iter().map(|last| name(last)));
        format!("{} {}\n", names.join(";"), row.number)
    };
    rows.iter().map(line).collect()
}

/// The same for a flame graph.
pub fn calls(rows: &[Row]) -> Vec<Calls> {
    let call = |name: &str, kernel| Call { name: printable(name), kernel };
    let calls = |row: &Row| {
        let mut calls = vec![call(&row.label.first, false)];
        for (part, kernel, lost) in
            [(&row.user, false, "[Missed User Stack]"), (&row.kernel, true, "[Missed Kernel Stack]")]
        {
            calls.extend(part.calls().iter().rev().map(|frame| call(&frame.name(), kernel)));
            calls.extend((*part == Part::Lost).then(|| call(lost, kernel)));
        }
        calls.extend(row.label.last.iter().map(|last| call(last, false)));
        Calls { calls, number: row.number }
    };
    rows.iter().map(calls).collect()
}

/// A name in a line where a semicolon parts names.
fn name(text: &str) -> String {
    printable(text).replace(';', ":")
}

#[cfg(test)]
mod tests {
    use super::super::tests::rows;
    use super::*;

    #[test]
    fn a_stack_is_a_line_from_the_outermost_call_to_the_innermost() {
        insta::assert_snapshot!(text(&rows(), &How::default()), @r"
        worker;main;[Missed Kernel Stack] 30
        sleeper;main;a::nap:2;do_nanosleep;schedule 2000
        ");
    }

    #[test]
    fn the_kernel_s_calls_are_marked_where_that_is_wanted() {
        let how = How { delimited: true, annotated: true, ..How::default() };
        let line = "sleeper;main;a::nap:2;-;do_nanosleep_[k];schedule_[k] 2000";
        assert_eq!(text(&rows(), &how).lines().last(), Some(line));
    }
}
