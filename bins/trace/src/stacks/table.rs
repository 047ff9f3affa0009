//! Stacks as bcc prints them: a call a line, the innermost first, and below them whose they are and the number.

use kld_core::ui::printable;

use super::{How, Part, Row};

/// All stacks, in the order that they are given.
pub fn text(rows: &[Row], how: &How) -> String {
    rows.iter().map(|row| stack(row, how)).collect()
}

fn stack(row: &Row, how: &How) -> String {
    let mut lines = Vec::new();
    lines.extend(row.label.above.clone());
    lines.extend(part(&row.kernel, "[Missed Kernel Stack]"));
    if how.delimited && row.kernel != Part::None && row.user != Part::None {
        lines.push("--".to_string());
    }
    lines.extend(part(&row.user, "[Missed User Stack]"));
    lines.push(row.label.below.clone());
    let lines: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    format!("\n{lines}        {}\n", row.number)
}

fn part(part: &Part, lost: &str) -> Vec<String> {
    match part {
        Part::Calls(frames) => frames.iter().map(|frame| printable(&frame.name())).collect(),
        Part::None => Vec::new(),
        Part::Lost => vec![lost.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rows;
    use super::*;

    #[test]
    fn stacks_are_printed_as_bcc_prints_them() {
        insta::assert_snapshot!(text(&rows(), &How { delimited: true, ..How::default() }), @r"

            [Missed Kernel Stack]
            --
            main
            -                worker (8)
                30

            schedule
            do_nanosleep
            --
            a::nap;2
            main
            -                sleeper (7)
                2000
        ");
    }
}
