//! Flame graphs (<https://www.brendangregg.com/flamegraphs.html>): a picture of stacks, in which a call is as wide as the
//! part of all that was counted in it, and stands on the call that made it. A click makes a call as wide as the picture.

use std::collections::BTreeMap;
use std::fmt::Write;

/// A call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// The function's name.
    pub name: String,
    /// Whether it is one of the kernel's.
    pub kernel: bool,
}

/// A stack, from the outermost call to the innermost, and what was counted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// The calls.
    pub calls: Vec<Call>,
    /// The number.
    pub number: u64,
}

/// A call of the picture, with those that it has made.
#[derive(Debug, Default)]
struct Node {
    number: u64,
    made: BTreeMap<Call, Node>,
}

impl Node {
    fn add(&mut self, stack: &Calls) {
        self.number += stack.number;
        let mut node = self;
        for call in &stack.calls {
            node = node.made.entry(call.clone()).or_default();
            node.number += stack.number;
        }
    }

    fn depth(&self) -> usize {
        1 + self.made.values().map(Node::depth).max().unwrap_or(0)
    }
}

// Sizes, in pixels: of the picture, of a call's box and of a letter in it, and of what is above and beside.
const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 16.0;
const LETTER: f64 = 7.0;
const ABOVE: f64 = 40.0;
const BESIDE: f64 = 10.0;
/// What is narrower cannot be seen.
const NARROWEST: f64 = 0.1;

/// The picture as SVG: its title, what its numbers are, and the stacks.
pub fn svg((title, unit): (&str, &str), stacks: &[Calls]) -> String {
    let mut root = Node::default();
    stacks.iter().for_each(|stack| root.add(stack));
    let height = ABOVE + root.depth() as f64 * HEIGHT + BESIDE;
    let mut picture =
        Picture { out: String::new(), unit, all: root.number, bottom: height - BESIDE - HEIGHT };
    let all = Call { name: "all".to_string(), kernel: false };
    picture.node(&all, &root, (0, 0));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fffdf5\"/>\n\
         <text x=\"{}\" y=\"24\" font-size=\"16\" text-anchor=\"middle\">{}</text>\n{}\
         <script><![CDATA[{SCRIPT}]]></script>\n</svg>\n",
        WIDTH / 2.0,
        escaped(title),
        picture.out,
    )
}

struct Picture<'a> {
    out: String,
    unit: &'a str,
    all: u64,
    bottom: f64,
}

impl Picture<'_> {
    /// Draws a call and those that it has made: how much lies left of it, and how many calls below it.
    fn node(&mut self, call: &Call, node: &Node, (left, depth): (u64, usize)) {
        let part = |number: u64| number as f64 / self.all.max(1) as f64;
        let scale = WIDTH - 2.0 * BESIDE;
        let (x, width) = (BESIDE + part(left) * scale, part(node.number) * scale);
        if width < NARROWEST {
            return;
        }
        let (y, fill, name) = (self.bottom - depth as f64 * HEIGHT, color(call), escaped(&call.name));
        let _ = writeln!(
            self.out,
            "<g class=\"c\" data-n=\"{name}\"><title>{name} ({} {}, {:.2} %)</title>\
             <rect x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{}\" rx=\"1\" fill=\"{fill}\"/>\
             <text x=\"{:.2}\" y=\"{}\">{}</text></g>",
            node.number,
            escaped(self.unit),
            part(node.number) * 100.0,
            HEIGHT - 1.0,
            x + 3.0,
            y + HEIGHT - 5.0,
            escaped(&fitting(&call.name, width)),
        );
        let mut left = left;
        for (call, made) in &node.made {
            self.node(call, made, (left, depth + 1));
            left += made.number;
        }
    }
}

/// As much of a name as there is room for.
fn fitting(name: &str, width: f64) -> String {
    let most = ((width - 6.0) / LETTER).max(0.0) as usize;
    match (name.chars().count() <= most, most < 3) {
        (true, _) => name.to_string(),
        (_, true) => String::new(),
        _ => name.chars().take(most - 2).chain("..".chars()).collect(),
    }
}

/// A warm colour, of the kernel's calls an orange one; the same for the same name in every picture.
fn color(call: &Call) -> String {
    // FNV-1a.
    let digest = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let digest = call.name.bytes().fold(0x811c_9dc5, digest);
    let (hue, light) = if call.kernel { (28 + digest % 10, 58) } else { (46 + digest % 14, 64) };
    format!("hsl({hue},{}%,{}%)", 80 + digest / 16 % 15, light + digest / 256 % 10)
}

/// Text that XML does not misread; what it cannot hold at all becomes a question mark.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\t' => out.push(' '),
            '\u{fffe}' | '\u{ffff}' => out.push('?'),
            other if other.is_control() => out.push('?'),
            other => out.push(other),
        }
    }
    out
}

/// A click on a call fills the picture with it, those it stands on and those it has made; one on the lowest shows all.
const SCRIPT: &str = include_str!("flame.js");

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &str, number: u64) -> Calls {
        let call = |name: &str| Call { name: name.to_string(), kernel: name.starts_with("k_") };
        Calls { calls: names.split(';').map(call).collect(), number }
    }

    /// The left end and the width of a call's box.
    fn place(svg: &str, name: &str) -> Option<(f64, f64)> {
        let line = svg.lines().find(|line| line.contains(&format!("data-n=\"{name}\"")))?;
        let value = |key: &str| line.split(&format!("{key}=\"")).nth(1)?.split('"').next()?.parse().ok();
        Some((value("rect x")?, value(" width")?))
    }

    #[test]
    fn a_call_is_as_wide_as_its_part_of_all() {
        let svg =
            svg(("On", "samples"), &[stack("a;b;k_c", 1), stack("a;b", 1), stack("a;d", 2), stack("e", 4)]);
        assert_eq!(place(&svg, "all"), Some((10.0, 1180.0)));
        assert_eq!((place(&svg, "a"), place(&svg, "e")), (Some((10.0, 590.0)), Some((600.0, 590.0))));
        assert_eq!((place(&svg, "b"), place(&svg, "d")), (Some((10.0, 295.0)), Some((305.0, 295.0))));
        assert_eq!(place(&svg, "k_c"), Some((10.0, 147.5)));
        assert!(svg.contains("<title>b (2 samples, 25.00 %)</title>"), "{svg}");
    }

    #[test]
    fn what_cannot_be_seen_is_not_drawn() {
        let svg = svg(("On", "samples"), &[stack("wide", 1_000_000), stack("narrow", 1)]);
        assert_eq!((place(&svg, "wide").is_some(), place(&svg, "narrow")), (true, None));
    }

    #[test]
    fn names_are_cut_to_the_room_there_is() {
        assert_eq!(
            [fitting("schedule", 70.0), fitting("schedule", 50.0), fitting("schedule", 12.0)],
            ["schedule", "sche..", ""]
        );
    }

    #[test]
    fn any_name_makes_a_well_formed_picture() {
        let names = "<T as Into<U>>::into;\"&'\u{1}\u{ffff}\t]]>;operator<";
        for stacks in [vec![stack(names, 3), stack(names, 0)], Vec::new()] {
            let svg = svg(("Off <CPU>", "us"), &stacks);
            let mut reader = quick_xml::Reader::from_str(&svg);
            let mut depth = 0;
            loop {
                match reader.read_event().unwrap_or_else(|error| panic!("{error} in {svg}")) {
                    quick_xml::events::Event::Start(_) => depth += 1,
                    quick_xml::events::Event::End(_) => depth -= 1,
                    quick_xml::events::Event::Eof => break,
                    _ => {}
                }
            }
            assert_eq!(depth, 0);
        }
    }
}
